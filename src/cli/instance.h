/* What the verbs of instances (VMs and containers) have in common. */
#ifndef CLI_INSTANCE_H
#define CLI_INSTANCE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"
#include "cli/command.h"
#include "instance/client.h"
#include "store/instance.h"

struct json_object;

/* The verb of a job during which a container is paused; its object is the id. */
#define CLI_JOB_COMMIT "commit"

/* Open the database, and repair what killed processes left; what could not be repaired is said on stderr. */
int cli_inst_open(enum store_access access, struct store **ret_store, struct err *e) MUST_USE;
/* Open, and find the one instance that the command names (operand index; -EINVAL where it is missing). *ret_instance:
 * to be done with store_instance_done after success. */
int cli_inst_one(const struct cli_args *args, int index, struct store **ret_store, struct store_instance *ret_instance,
                 struct err *e) MUST_USE;

/* For every instance that the operands name, or all with --all: fn, and its name on stdout where that returns 0; 1 is
 * success without a line. With --ignore, a name that nobody has is passed over. Errors are printed, the others are done
 * all the same. Returns the exit code: that of the first error. verb: for the error where none is named. wants (may be
 * NULL): which of all. */
struct cli_inst_verb {
    const char *verb;
    bool (*wants)(const struct store_instance *i, const struct inst_info *info);
    int (*fn)(void *opaque, struct store *s, struct store_instance *i, struct err *e);
    void *opaque;
};
int cli_inst_each(const struct cli_args *args, const struct cli_inst_verb *v);

/* The object of a list or of inspect: see docs/instances.md. NULL: out of memory. */
struct json_object *cli_inst_row(const struct store_instance *i, const struct inst_info *info, bool whole);

/* "10", "1.5", "90s", "500ms", "5m", "2h", "1d": seconds where no unit is given. -EINVAL. */
int cli_parse_duration(const char *text, uint64_t *ret_ns) MUST_USE;
/* A duration before now, seconds since 1970 ("1700000000.5"), or RFC 3339, also a date alone (local time). ns since
 * 1970. -EINVAL. */
int cli_parse_when(const char *text, int64_t *ret_ns) MUST_USE;
/* Whether that time, 0: none, is over. */
bool cli_is_past(int64_t when_ns);
/* After a command has written all it has (errno of its first failure in error, 0: none) to standard output: the exit
 * code. That nobody reads any more is no failure, a full disk is. */
int cli_output_end(int error);
/* An option that is a duration; left alone where it was not given. -EINVAL with text. */
int cli_duration_option(const struct cli_args *args, const char *option, uint64_t *ret_ns, bool *ret_given,
                        struct err *e) MUST_USE;
/* "KILL", "SIGKILL", "9", "RTMIN+1". -EINVAL. */
int cli_parse_signal(const char *text, int *ret_signal) MUST_USE;

/* --health-cmd: a line for the shell in the instance; "none" or "": no checks. -ENOMEM with text. */
int cli_health_command(const char *command, struct inst_health *h, struct err *e) MUST_USE;
/* All --health-*; what is not given stays. -EINVAL or -ENOMEM with text. */
int cli_health_options(const struct cli_args *args, struct inst_health *h, struct err *e) MUST_USE;
/* The rows of the command table. */
#define CLI_HEALTH_OPTIONS                                                                                         \
    { "health-cmd", 0, "COMMAND", "command in it that tells whether it is well; none: no checks", "none", false }, \
        { "health-interval", 0, "TIME", "time between two checks (default 30s)", NULL, false },                    \
        { "health-timeout", 0, "TIME", "how long a check may take (default 30s)", NULL, false },                   \
        { "health-start-period", 0, "TIME", "failures do not count for so long after the start", NULL, false },    \
    {                                                                                                              \
        "health-retries", 0, "N", "failures in a row that make it unhealthy (default 3)", NULL, false              \
    }

/* The size of this terminal for one that is started to be attached to it. */
void cli_attach_size(const struct store_instance *i, struct inst_start *how);

/* Stay with an instance until it ends or the user leaves: its terminal or its output, and its input. Ctrl-] d and
 * Ctrl-p Ctrl-q leave it running. Returns the exit code of the program: the payload's, 0 after leaving. s is done here.
 */
struct cli_attach_options {
    bool in;            /* what is typed goes to it */
    bool proxy_signals; /* what would end us goes to it instead */
};
int cli_attach(const struct store_instance *i, struct inst_session *s, const struct cli_attach_options *o);
/* The same with the instance that the first operand names, to which begin connects (and may change o). Says itself what
 * goes wrong. */
int cli_attach_named(const struct cli_args *args, struct cli_attach_options *o,
                     int (*begin)(struct store_instance *i, struct cli_attach_options *o, struct inst_session *s,
                                  struct err *e));

#endif
