/* Messages between the supervisor of an instance (caisson-shim) and who manages it, as in proto/msg.h. The socket of an
 * instance is RUNTIME/instances/SHORT.sock, SHORT being the first INST_ID_SHORT digits of its id; its lock is beside
 * it. Unknown fields are refused.
 *
 *   {"op": "info"}                      -> {"ok": true, "info": {"pid", "shim_pid", "status":
 *                                          "starting"|"running"|"paused"|"restarting", "health": "none"|"starting"|
 *                                          "healthy"|"unhealthy", "ready": bool, "started_ns", "restarts"}}
 *   {"op": "attach", "in": bool, "replay": bool}
 *                                       -> {"ok": true, "terminal": bool, "in": bool} and descriptors: with a terminal
 *                                          one stream socket, both directions; without, pipes: [input where "in",]
 *                                          output, error output. replay: the last output of a terminal comes first.
 *                                          The attachment ends with the connection
 *   {"op": "eof"}                       -> {"ok": true}: on the connection of an attachment: after what was written to
 *                                          the input, the instance's input ends
 *   {"op": "resize", "columns", "rows"} -> {"ok": true}
 *   {"op": "stop", "timeout_ns", "keep": false} -> {"ok": true} at once; then wait. keep: the user still wants it (the
 *                                          machine goes down)
 *   {"op": "kill", "signal": 9}         -> {"ok": true}
 *   {"op": "pause"|"resume"}            -> {"ok": true}
 *   {"op": "wait"}                      -> {"ok": true, "exit_code": 0} when the run has ended, and the policy does not
 *                                          start it again
 *   {"op": "ready"}                     -> {"ok": true} when it is ready (healthy, or running where there is no check)
 *   {"op": "stats"}                     -> {"ok": true, "stats": {...}}
 *   {"op": "restart", "timeout_ns"}     -> {"ok": true} when it runs again
 *   {"op": "update", "spec": {...}}     -> {"ok": true}: it is stored, and what can change while it runs does
 *   {"op": "vm", "request": {...}}      -> what the VM answers (proto/vm_msg.h), without descriptors
 * Errors: {"ok": false, "code": errno, "error": "one line"}.
 *
 * The starter has a connection from the beginning (--ready-fd): its first reply without a request is {"ok": true} once
 * the instance runs, or the error; what is asked there before is served before the instance starts, so that an
 * attachment misses nothing and a wait is never too late. Any thread. It must not know what a supervisor does. */
#ifndef PROTO_SHIM_MSG_H
#define PROTO_SHIM_MSG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"

struct json_object;

enum shim_msg_op {
    SHIM_MSG_INFO,
    SHIM_MSG_ATTACH,
    SHIM_MSG_EOF,
    SHIM_MSG_RESIZE,
    SHIM_MSG_STOP,
    SHIM_MSG_KILL,
    SHIM_MSG_PAUSE,
    SHIM_MSG_RESUME,
    SHIM_MSG_WAIT,
    SHIM_MSG_READY,
    SHIM_MSG_STATS,
    SHIM_MSG_RESTART,
    SHIM_MSG_UPDATE,
    SHIM_MSG_VM,
};

struct shim_msg_request {
    enum shim_msg_op op;
    bool in, replay;           /* ATTACH */
    unsigned columns, rows;    /* RESIZE: 1..65535 */
    uint64_t timeout_ns;       /* STOP, RESTART */
    bool keep;                 /* STOP */
    bool has_timeout;          /* otherwise that of the instance */
    int signal;                /* KILL: 1..64 */
    struct json_object *value; /* UPDATE: spec, VM: request; owned */
};

/* Put what it owns. Accepts a zeroed one. */
void shim_msg_request_done(struct shim_msg_request *r);
/* *ret_text: malloc'd, one line. -ENOMEM. */
int shim_msg_request_to_json(const struct shim_msg_request *r, char **ret_text) MUST_USE;
/* -EINVAL with text. r is initialised here; to be done in any case. */
int shim_msg_request_from_json(const char *text, struct shim_msg_request *r, struct err *e) MUST_USE;

/* "RUNTIME/instances". -ENAMETOOLONG. */
int shim_msg_socket_dir(const char *runtime, char *ret_path, size_t size) MUST_USE;

#endif
