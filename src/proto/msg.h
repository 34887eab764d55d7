/* One JSON document for each request, one for each reply, over a SOCK_SEQPACKET socket, descriptors with them by
 * SCM_RIGHTS: how Caisson's processes talk with each other. A reply is {"ok": true, ...}, or {"ok": false, "code":
 * errno, "error": "one line"}. What the documents say is proto/net_msg.h and proto/vm_msg.h.
 *
 * Any thread; a socket is used by one at a time. */
#ifndef PROTO_MSG_H
#define PROTO_MSG_H

#include <stddef.h>

#include "base/attr.h"
#include "base/err.h"

struct json_object;

#define PROTO_MSG_FDS_MAX 4
#define PROTO_MSG_TEXT_MAX (16U << 20) /* of a reply; what does not fit a packet travels in a memfd */

/* Send one message with n_fds descriptors (borrowed). -EAGAIN: the socket is full and does not block; -EPIPE and others
 * of sendmsg; -ENOMEM, -EMFILE. SIGPIPE is never raised. */
int proto_msg_send(int sock, const char *text, const int *fds, unsigned n_fds) MUST_USE;
/* Receive one message. *ret_text: malloc'd; ret_fds: *ret_n of at most PROTO_MSG_FDS_MAX descriptors, close-on-exec,
 * all the caller's. -EAGAIN; -ECONNRESET: the peer has closed; -EBADMSG: not a message (too long, too many descriptors,
 * no text); errors of recvmsg. Nothing is returned on failure. */
int proto_msg_receive(int sock, char **ret_text, int ret_fds[PROTO_MSG_FDS_MAX], unsigned *ret_n) MUST_USE;

/* Whom we ask, for errors: "KIND NAME: its PROCESS ...; REMEDY". */
struct proto_msg_peer {
    const char *kind, *name, *process, *remedy;
};
/* The client's side: send a request and wait for its reply at most timeout_ms (-1: for ever). *ret_reply: the reply
 * object with "ok": true, to be put by the caller. An error reply becomes its code and text. ret_fds, ret_n: what came
 * with it, may be NULL where nothing should come. -ETIMEDOUT, -ECONNRESET (the process is gone), ... with text. */
int proto_msg_call(int sock, const struct proto_msg_peer *peer, const char *request, const int *fds, unsigned n_fds,
                   int timeout_ms, struct json_object **ret_reply, int ret_fds[PROTO_MSG_FDS_MAX], unsigned *ret_n,
                   struct err *e) MUST_USE;

/* Connect to a socket. -ENOENT or -ECONNREFUSED: nobody serves it; -ENAMETOOLONG. The socket blocks, close-on-exec. */
int proto_msg_connect(const char *path, int *ret_sock) MUST_USE;

#endif
