/* One poll loop. What either side does not take at once is bounded: input of the process by STREAM_INPUT, above which
 * the connection is not read; output by what the link may keep, above which the process's pipes are not read. A process
 * that has ended is waited for no further than its pipes give bytes at once: what it left running may hold them for
 * ever. */
#include "agent/stream.h"

#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/spawn.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "proto/agent_msg.h"

enum { STREAM_INPUT = 256 * 1024, STREAM_OUTPUT = 256 * 1024, STREAM_KILL_MS = 2000 };

struct stream {
    struct agent_link *link;
    struct agent_child *child;
    struct buf input; /* for the process; from input_at on it is to be written */
    size_t input_at;
    bool input_ends;
    bool ended; /* the process */
    int status;
};

/* ---- towards the process ---- */

/* Write what is kept. The process may have closed its end: then the rest goes nowhere. */
static void stream_feed(struct stream *s)
{
    struct agent_child *c = s->child;

    while (c->in >= 0 && s->input_at < s->input.len) {
        ssize_t n = write(c->in, s->input.data + s->input_at, s->input.len - s->input_at);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0) {
            base_closep(&c->in);
            c->in = -1;
            break;
        }
        s->input_at += (size_t)n;
    }
    s->input.len = s->input_at = 0;
    if (s->input_ends && !c->tty) {
        base_closep(&c->in);
        c->in = -1;
    }
}

static void stream_input(struct stream *s, const uint8_t *data, size_t len)
{
    if (s->child->in < 0 || s->input_ends)
        return;
    if (s->input_at > 0) {
        s->input.len -= s->input_at;
        memmove(s->input.data, s->input.data + s->input_at, s->input.len);
        s->input_at = 0;
    }
    buf_append(&s->input, data, len);
    if (len == 0 && s->child->tty)
        buf_append(&s->input, "\4", 1); /* what ends the input of a terminal */
    s->input_ends |= len == 0;
    stream_feed(s);
}

static void stream_request(struct stream *s, const char *text)
{
    struct agent_request q;
    struct err e;

    if (agent_request_from_json(text, &q, &e) < 0)
        return; /* of a client that is newer than we are */
    if (q.op == AGENT_SIGNAL && !s->ended)
        (void)kill(-s->child->pid, (int)q.signal);
    if (q.op == AGENT_WINSIZE && s->child->tty && s->child->in >= 0)
        (void)ioctl(s->child->in, TIOCSWINSZ, &(struct winsize){ .ws_row = q.rows, .ws_col = q.cols });
    agent_request_done(&q);
}

/* Take frames as long as there is room for their bytes. -errno: the connection is lost. */
static int stream_receive(struct stream *s)
{
    enum agent_frame kind;
    const uint8_t *data;
    size_t len;
    int r = 1;

    while (r > 0 && s->input.len - s->input_at < STREAM_INPUT) {
        r = agent_link_receive(s->link, &kind, &data, &len);
        if (r > 0 && kind == AGENT_STDIN)
            stream_input(s, data, len);
        else if (r > 0 && kind == AGENT_JSON)
            stream_request(s, (const char *)data);
        else if (r > 0)
            r = -EBADMSG;
    }
    return r < 0 ? r : buf_error(&s->input);
}

/* ---- towards the client ---- */

/* Read a pipe, as far as the link has room. Returns whether it may have more. */
static bool stream_output(struct stream *s, int *fd, enum agent_frame kind)
{
    uint8_t data[16384];

    while (*fd >= 0 && agent_link_pending(s->link) < STREAM_OUTPUT) {
        ssize_t n = read(*fd, data, sizeof(data));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return false;
        if (n > 0) {
            agent_link_queue(s->link, kind, data, (size_t)n);
            continue;
        }
        /* The end; EIO where nobody has the terminal open any more. */
        agent_link_queue(s->link, kind, NULL, 0);
        base_closep(fd);
        *fd = -1;
    }
    return *fd >= 0;
}

static void stream_reap(struct stream *s)
{
    if (!s->ended && waitpid(s->child->pid, &s->status, WNOHANG) == s->child->pid)
        s->ended = true;
}

static int stream_poll(struct stream *s)
{
    struct agent_child *c = s->child;
    const bool room = agent_link_pending(s->link) < STREAM_OUTPUT, full = s->input.len - s->input_at >= STREAM_INPUT;
    struct pollfd p[] = {
        { .fd = s->link->fd },
        { .fd = s->ended ? -1 : c->pidfd, .events = POLLIN },
        { .fd = s->input_at < s->input.len ? c->in : -1, .events = POLLOUT },
        { .fd = room ? c->out : -1, .events = POLLIN },
        { .fd = room ? c->err : -1, .events = POLLIN },
    };

    /* What is not read does not show its end: the client's has to be asked for. */
    p[0].events = full ? POLLRDHUP : POLLIN;
    if (agent_link_pending(s->link) > 0)
        p[0].events |= POLLOUT;
    if (poll(p, ARRAY_SIZE(p), -1) < 0 && errno != EINTR)
        return -errno;
    if (p[2].revents)
        stream_feed(s);
    return p[0].revents & (full ? POLLERR | POLLHUP | POLLRDHUP : POLLERR) ? -ECONNRESET : 0;
}

/* The client is gone: nobody wants the process any more. */
static void stream_kill(struct stream *s)
{
    struct pollfd p = { .fd = s->child->pidfd, .events = POLLIN };

    (void)kill(-s->child->pid, SIGHUP);
    (void)kill(-s->child->pid, SIGCONT);
    agent_child_close(
        &(struct agent_child){ .pidfd = -1, .in = s->child->in, .out = s->child->out, .err = s->child->err });
    s->child->in = s->child->out = s->child->err = -1;
    if (poll(&p, 1, STREAM_KILL_MS) == 0)
        (void)kill(-s->child->pid, SIGKILL);
    (void)waitpid(s->child->pid, NULL, 0);
}

static void stream_finish(struct stream *s)
{
    json_object *o = json_object_new_object();
    struct pollfd p = { .fd = s->link->fd, .events = POLLOUT };

    if (o && WIFSIGNALED(s->status))
        json_object_object_add(o, "signal", json_object_new_int(WTERMSIG(s->status)));
    else if (o)
        json_object_object_add(o, "exit", json_object_new_int(WEXITSTATUS(s->status)));
    agent_link_queue_json(s->link, o);
    while (agent_link_flush(s->link) == 0 && agent_link_pending(s->link) > 0 && poll(&p, 1, -1) >= 0)
        ;
}

void agent_stream(struct agent_link *l, struct agent_child *c)
{
    struct stream s = { .link = l, .child = c };
    bool more = true;
    int r = 0;

    buf_init(&s.input, STREAM_INPUT + 2 * AGENT_DATA_MAX);
    while (r == 0 && !(s.ended && !more)) {
        r = stream_poll(&s);
        if (r == 0)
            r = stream_receive(&s);
        stream_reap(&s); /* before the pipes are read: what it wrote is there then */
        more = stream_output(&s, &c->out, AGENT_STDOUT);
        more |= stream_output(&s, &c->err, AGENT_STDERR);
        if (r == 0)
            r = agent_link_flush(l);
    }
    if (s.ended && r == 0)
        stream_finish(&s);
    else if (!s.ended)
        stream_kill(&s);
    buf_done(&s.input);
}
