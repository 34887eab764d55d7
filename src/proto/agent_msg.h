/* What is spoken with caisson-agent, the program inside a guest: frames over a stream (vsock port AGENT_PORT), one
 * request for each connection. A frame is its length (32 bits, little-endian), its kind (8 bits), three zero bytes, and
 * so many bytes. The first frame is the request; the agent answers {"ok": true, ...} or {"ok": false, "code": errno,
 * "error": "one line"}. exec, put and get go on from there: STDIN frames to the process, STDOUT and STDERR frames from
 * it (a frame of no bytes: that stream ends), requests signal and winsize in between, and at last one of
 * {"exit": status} or {"signal": number}. put takes a tar archive on STDIN, get gives one on STDOUT.
 * docs/guest-agent.md. Any thread. */
#ifndef PROTO_AGENT_MSG_H
#define PROTO_AGENT_MSG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/buf.h"
#include "base/err.h"

struct json_object;

#define AGENT_PORT 1024
#define AGENT_DATA_MAX 65536U      /* bytes of a data frame */
#define AGENT_JSON_MAX (1U << 20)  /* bytes of a request or an answer */
#define AGENT_QUEUE_MAX (4U << 20) /* most that a link keeps for its peer */
#define AGENT_WORDS_MAX 4096U      /* arguments, and variables of the environment */

enum agent_frame { AGENT_JSON = 0, AGENT_STDIN = 1, AGENT_STDOUT = 2, AGENT_STDERR = 3, AGENT_FRAMES = 4 };

enum agent_op {
    AGENT_PING,      /* answer: version, kernel, hostname */
    AGENT_EXEC,      /* argv, env, cwd, user, tty with rows and cols, stdin, detach; answer: pid */
    AGENT_PUT,       /* path: an existing directory to unpack in; user */
    AGENT_GET,       /* path: file or directory to pack, its last part being the name in the archive; user */
    AGENT_SYNC_TIME, /* time_ns since 1970 */
    AGENT_SHUTDOWN,  /* reboot */
    AGENT_SIGNAL,    /* within exec: signal */
    AGENT_WINSIZE,   /* within exec with tty: rows, cols */
    AGENT_OPS,
};

struct agent_request {
    enum agent_op op;
    char **argv, **env; /* NULL-terminated, or NULL; env: KEY=VALUE on top of what a login gives */
    char *cwd;          /* NULL: the user's home */
    char *user;         /* NAME or UID, with :GROUP or :GID; NULL: root */
    char *path;
    bool tty, stdin_open, detach, reboot;
    uint16_t rows, cols;
    unsigned signal;
    int64_t time_ns;
};

/* *ret is to be freed with agent_request_done. -EINVAL with text: it makes no sense; -ENOMEM. */
int agent_request_from_json(const char *text, struct agent_request *ret, struct err *e) MUST_USE;
/* NULL: out of memory. */
struct json_object *agent_request_to_json(const struct agent_request *r);
void agent_request_done(struct agent_request *r); /* accepts a zeroed one */

/* One end of a connection. */
struct agent_link {
    int fd; /* borrowed, does not block */
    struct buf in, out;
    size_t out_at;  /* bytes of out that are written */
    bool taken;     /* the frame at the front of in was given out */
    uint8_t behind; /* the byte behind it, where a zero stands meanwhile */
};

void agent_link_init(struct agent_link *l, int fd);
void agent_link_done(struct agent_link *l);
/* The next frame: 1, and *ret_data is valid until the next call (text of JSON ends with a zero byte behind len); 0:
 * none now; -ECONNRESET: the peer has closed; -EBADMSG: no frame; -ENOMEM; errors of read. */
int agent_link_receive(struct agent_link *l, enum agent_frame *ret_kind, const uint8_t **ret_data,
                       size_t *ret_len) MUST_USE;
/* Queue a frame; what is queued goes out with agent_link_flush. Sticky: an error (-ENOMEM, -E2BIG: the peer does not
 * read) shows there. */
void agent_link_queue(struct agent_link *l, enum agent_frame kind, const void *data, size_t len);
/* The same for a document, which it puts; NULL counts as out of memory. */
void agent_link_queue_json(struct agent_link *l, struct json_object *o);
/* Write what is queued, as far as the peer takes it. -EPIPE and other errors of send. */
int agent_link_flush(struct agent_link *l) MUST_USE;
/* Bytes that are queued. */
size_t agent_link_pending(const struct agent_link *l);

#endif
