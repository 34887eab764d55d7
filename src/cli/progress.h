/* The progress of a long operation on stderr: a bar on terminals, JSON lines if asked for, else nothing. Looks for
 * Ctrl-C at the same time, so that one callback serves both. */
#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"
#include "cli/cancel.h"
#include "cli/command.h"

/* The row of an option table for --progress. */
#define CLI_OPTION_PROGRESS                                                                                       \
    {                                                                                                             \
        "progress", 0, "auto|bar|json|none", "how to show progress on stderr (default auto: a bar on terminals)", \
            "auto bar json none", false                                                                           \
    }

enum cli_progress_mode { CLI_PROGRESS_NONE, CLI_PROGRESS_BAR, CLI_PROGRESS_JSON };

struct cli_progress {
    enum cli_progress_mode mode;
    const char *operation; /* borrowed: "convert" */
    struct cli_cancel *cancel;
    uint64_t started_ns, shown_ns; /* CLOCK_MONOTONIC */
    uint64_t done, total;
    bool color, drawn;
};

/* args: the command's, which may have --progress. cancel (borrowed, may be NULL) is polled by step. */
int cli_progress_begin(struct cli_progress *p, const struct cli_args *args, const char *operation,
                       struct cli_cancel *cancel, struct err *e) MUST_USE;
/* done of total bytes. May be called often: at most ten times a second something is written. opaque: the struct
 * cli_progress. Returns false where the operation shall stop. Thread: one at a time. */
bool cli_progress_step(void *opaque, uint64_t done, uint64_t total);
/* Take the bar away, or write the last JSON line (ok: all is done). */
void cli_progress_end(struct cli_progress *p, bool ok);

/* A size for people: "1.5 GiB". */
const char *cli_size_text(uint64_t bytes, char out[32]);

#endif
