/* The supervisor of an instance, seen from those who manage it (proto/shim_msg.h). Any thread. */
#ifndef INSTANCE_CLIENT_H
#define INSTANCE_CLIENT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/attr.h"
#include "base/err.h"
#include "proto/shim_msg.h"
#include "store/instance.h"

struct json_object;

#define INST_CALL_MS 60000 /* a supervisor answers at once, but its host may be busy */

#define INST_LOOK_MS 3000

/* What the supervisor says of a run. */
struct inst_info {
    bool alive; /* false: there is no supervisor, the rest is empty */
    pid_t pid, shim_pid;
    char status[16]; /* "starting", "running", "paused", "restarting" */
    char health[16]; /* "none", "starting", "healthy", "unhealthy" */
    bool ready;
    int64_t started_ns; /* since 1970 */
    unsigned restarts;
};

/* No supervisor is no error. -errno with text: it does not answer. */
int inst_ask(const struct store_instance *i, struct inst_info *ret_info, struct err *e) MUST_USE;
/* For lists, which one that hangs must not hold up: it is asked for INST_LOOK_MS at most, and is alive without any more
 * being known of it where it does not answer. */
void inst_look(const struct store_instance *i, struct inst_info *ret_info);
/* What users see as its status: the row's, or "paused", "restarting" and the like while it runs. info: of inst_ask. */
const char *inst_status(const struct store_instance *i, const struct inst_info *info);

/* One request and its reply. timeout_ms: -1 for those that wait. *ret_reply (may be NULL): to be put by the caller.
 * -ENOTCONN with text: it does not run. */
int inst_call(const struct store_instance *i, const struct shim_msg_request *request, int timeout_ms,
              struct json_object **ret_reply, struct err *e) MUST_USE;
/* Wait until the run has ended, timeout_ms at most (-1: for ever). Already ended: at once, by the row. *ret_code: the
 * exit code. -ETIMEDOUT; -ENOTCONN: its supervisor was killed. */
int inst_wait(const struct store_instance *i, int timeout_ms, int *ret_code, struct err *e) MUST_USE;

/* A connection that is attached to the payload's input and output, or waits for its end, or both. */
struct inst_session {
    int sock; /* the supervisor's connection */
    bool terminal;
    int console;      /* with a terminal: a stream socket; else -1 */
    int in, out, err; /* without one: pipes; -1: none */
};

void inst_session_init(struct inst_session *s);
void inst_session_done(struct inst_session *s);
/* Attach to an instance that runs, and wait for its end. in: write to its input too. replay: a terminal's last output
 * comes first. s is initialised and to be done in any case. -ENOTCONN with text. */
int inst_attach(const struct store_instance *i, bool in, bool replay, struct inst_session *s, struct err *e) MUST_USE;
/* The terminal has another size; the input has ended (close s->in afterwards). Errors do not matter. */
void inst_session_resize(struct inst_session *s, unsigned columns, unsigned rows);
void inst_session_eof(struct inst_session *s);
/* The connection is readable. 1: *ret_code is the exit code of the run, which has ended; 0: not yet. -errno with text:
 * the supervisor has died. */
int inst_session_read(struct inst_session *s, int *ret_code, struct err *e) MUST_USE;

/* How an instance is started. */
struct inst_start {
    bool attach, in;        /* output from the first byte on; and input */
    bool wait;              /* for its end, by inst_session_read */
    unsigned columns, rows; /* with attach: of this terminal; 0: there is none */
};
/* Start an instance: its supervisor, which runs it (idempotent repair included). Returns when it runs, or with the
 * error that the supervisor met. s (may be NULL where how asks for nothing) is initialised, to be done in any case.
 * -EBUSY: it runs already. */
int inst_start(const struct store_instance *i, const struct inst_start *how, struct inst_session *s,
               struct err *e) MUST_USE;

#endif
