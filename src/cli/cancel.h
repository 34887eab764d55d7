/* Ctrl-C (and SIGTERM, SIGHUP) during a long operation: noted instead of deadly, so that the operation can undo what it
 * has begun. A second signal changes nothing; SIGQUIT still ends the program at once. */
#ifndef CLI_CANCEL_H
#define CLI_CANCEL_H

#include <signal.h>

#include "base/attr.h"
#include "base/err.h"

struct cli_cancel {
    int fd; /* signalfd */
    sigset_t before;
    int signal; /* the one that came, 0: none yet */
};

/* From here on the signals are held back. Main thread, before the operation starts threads. */
int cli_cancel_begin(struct cli_cancel *c, struct err *e) MUST_USE;
/* The signal that has come since, or 0. Never blocks. */
int cli_cancel_poll(struct cli_cancel *c);
/* Back to what it was before. Returns the program's exit code: 128 + the signal where one has come and the operation
 * did not succeed (code != 0) in spite of it, else code. */
int cli_cancel_end(struct cli_cancel *c, int code);

#endif
