/* The host's side of caisson-agent: connect to the agent of a VM, ask it something, run a program there, copy archives.
 * All calls block, as long as they are told at most; each has a connection of its own. Any thread. */
#ifndef PROTO_AGENT_CLIENT_H
#define PROTO_AGENT_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"
#include "proto/agent_msg.h"

/* Connect to the agent behind a VM's vsock socket (RUNTIME/vm/NAME.vsock), trying again while the guest has none that
 * listens. timeout_ms: at most so long; -1: for ever. name: the VM's, for texts. *ret_fd: the caller's, close-on-exec,
 * does not block. -ENOENT: the VM does not run; -ETIMEDOUT: no agent answered; all with text. */
int agent_connect(const char *path, const char *name, int timeout_ms, int *ret_fd, struct err *e) MUST_USE;

/* One request and its answer. *ret_reply: to be put by the caller, may be NULL. The agent's error becomes its code and
 * text; -ETIMEDOUT, -ECONNRESET with text. */
int agent_call(int fd, const struct agent_request *q, int timeout_ms, struct json_object **ret_reply,
               struct err *e) MUST_USE;

/* The local ends of a program that runs in the guest. */
struct agent_io {
    int in;       /* read and sent as its input where q->stdin_open; -1: that is empty */
    int out, err; /* its output is written there; -1: dropped */
    int signals;  /* a signalfd: SIGWINCH sends the size of the terminal `terminal`, others go on; -1: none */
    int terminal; /* -1: none */
    /* Instead of out and err, where not NULL. < 0 ends the run with this error. */
    int (*output)(void *opaque, bool is_err, const void *data, size_t len);
    void *opaque;
};

/* Run q (AGENT_EXEC, not detached) to its end. *ret_status: its exit status, or 128 + the signal that ended it. Errors
 * of starting it have the code of execve (ENOENT: no such program) and text; -ETIMEDOUT after timeout_ms (-1: none),
 * whereupon the agent ends the program; -ECONNRESET: agent or VM are gone; -EPIPE: nobody takes the output. */
int agent_exec(int fd, const struct agent_request *q, const struct agent_io *io, int timeout_ms, int *ret_status,
               struct err *e) MUST_USE;

/* Unpack the tar archive that tar_fd gives in directory `path` of the guest, or pack path into tar_fd. user: as in
 * struct agent_request, may be NULL. */
int agent_put(int fd, const char *path, const char *user, int tar_fd, struct err *e) MUST_USE;
int agent_get(int fd, const char *path, const char *user, int tar_fd, struct err *e) MUST_USE;

#endif
