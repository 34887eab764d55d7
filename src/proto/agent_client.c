#include "proto/agent_client.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/fdio.h"
#include "proto/json.h"

enum { CLIENT_RETRY_MS = 100, CLIENT_QUEUE = 256 * 1024, CLIENT_NOTE = 400 };

/* ---- time ---- */

static int64_t client_now_ms(void)
{
    struct timespec ts = { 0 };

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* The moment after which it is too late; -1: never. */
static int64_t client_deadline(int timeout_ms)
{
    return timeout_ms < 0 ? -1 : client_now_ms() + timeout_ms;
}

/* What is left, as poll wants it. */
static int client_left(int64_t deadline)
{
    int64_t left = deadline < 0 ? -1 : deadline - client_now_ms();

    return deadline < 0 ? -1 : left < 0 ? 0 : left > 1000000 ? 1000000 : (int)left;
}

static bool client_late(int64_t deadline)
{
    return deadline >= 0 && client_now_ms() >= deadline;
}

/* ---- connecting ---- */

/* -errno of the Unix socket: nothing to do with the guest. */
static int client_dial(const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    AUTO_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    if (strlen(path) >= sizeof(addr.sun_path))
        return -ENAMETOOLONG;
    memcpy(addr.sun_path, path, strlen(path) + 1);
    if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
        return -errno;
    return STEAL_FD(fd);
}

/* Ask for the agent's port. 0: we have it; -ECONNREFUSED: nobody is there (yet); -ETIMEDOUT. */
static int client_handshake(int fd, int64_t deadline)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };
    char line[32];
    size_t n = 0;
    int len = snprintf(line, sizeof(line), "CONNECT %d\n", AGENT_PORT);

    if (fd_write_all(fd, line, (size_t)len) < 0)
        return -ECONNREFUSED;
    while (n < sizeof(line) && (n == 0 || line[n - 1] != '\n')) {
        int r = poll(&p, 1, client_left(deadline));

        if (r == 0)
            return -ETIMEDOUT;
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0 || read(fd, line + n, 1) != 1)
            return -ECONNREFUSED;
        n++;
    }
    return n > 3 && memcmp(line, "OK ", 3) == 0 && line[n - 1] == '\n' ? 0 : -ECONNREFUSED;
}

int agent_connect(const char *path, const char *name, int timeout_ms, int *ret_fd, struct err *e)
{
    int64_t deadline = client_deadline(timeout_ms);

    for (;;) {
        AUTO_FD int fd = client_dial(path);
        int r;

        if (fd == -ENOENT || fd == -ECONNREFUSED)
            return err_set(e, ENOENT, "VM %s: it does not run, or was started without a name; start it", name);
        if (fd < 0 && fd != -EAGAIN)
            return err_set(e, -fd, "VM %s: cannot connect to %s: %s", name, path, strerror(-fd));
        r = fd < 0 ? -ECONNREFUSED : client_handshake(fd, deadline);
        if (r == 0 && fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) == 0) {
            *ret_fd = STEAL_FD(fd);
            return 0;
        }
        if (client_late(deadline))
            return err_set(e, ETIMEDOUT,
                           "VM %s: no agent answers in the guest; wait for its boot, or install caisson-agent there",
                           name);
        poll(NULL, 0, CLIENT_RETRY_MS);
    }
}

/* ---- requests ---- */

static int client_lost(int r, struct err *e)
{
    return err_set(e, r == -ETIMEDOUT ? ETIMEDOUT : ECONNRESET,
                   r == -ETIMEDOUT ? "the guest's agent took too long; give it more time with --timeout"
                                   : "the connection to the guest's agent was lost; look whether the VM still runs");
}

/* Parse an answer; its error becomes ours. */
static int client_answer(const char *text, json_object **ret_reply, struct err *e)
{
    json_object *o, *v;
    int r = proto_json_object(text, "answer of the guest's agent", &o, e);

    if (r < 0)
        return r;
    if (json_object_object_get_ex(o, "ok", &v) && !json_object_get_boolean(v)) {
        int code = json_object_object_get_ex(o, "code", &v) ? json_object_get_int(v) : EIO;
        const char *why = json_object_object_get_ex(o, "error", &v) ? json_object_get_string(v) : NULL;

        r = err_set(e, code > 0 && code < 4096 ? code : EIO, "%s", why ? why : "the guest's agent gave no reason");
        json_object_put(o);
        return r;
    }
    *ret_reply = o;
    return 0;
}

/* Send what is queued and wait for a frame, at most until the deadline. */
static int client_frame(struct agent_link *l, int64_t deadline, enum agent_frame *ret_kind, const uint8_t **ret_data,
                        size_t *ret_len)
{
    for (;;) {
        int r = agent_link_flush(l);
        struct pollfd p = { .fd = l->fd, .events = POLLIN };

        if (r == 0)
            r = agent_link_receive(l, ret_kind, ret_data, ret_len);
        if (r != 0)
            return r;
        if (agent_link_pending(l) > 0)
            p.events |= POLLOUT;
        if (poll(&p, 1, client_left(deadline)) == 0 && client_late(deadline))
            return -ETIMEDOUT;
    }
}

/* Send q on the link and take the answer. */
static int client_request(struct agent_link *l, const struct agent_request *q, int64_t deadline,
                          json_object **ret_reply, struct err *e)
{
    enum agent_frame kind = AGENT_JSON;
    const uint8_t *data = NULL;
    size_t len;
    int r;

    agent_link_queue_json(l, agent_request_to_json(q));
    r = client_frame(l, deadline, &kind, &data, &len);
    if (r < 0 || kind != AGENT_JSON)
        return client_lost(r < 0 ? r : -EBADMSG, e);
    return client_answer((const char *)data, ret_reply, e);
}

int agent_call(int fd, const struct agent_request *q, int timeout_ms, json_object **ret_reply, struct err *e)
{
    struct agent_link l;
    json_object *reply;
    int r;

    agent_link_init(&l, fd);
    r = client_request(&l, q, client_deadline(timeout_ms), &reply, e);
    agent_link_done(&l);
    if (r < 0)
        return r;
    if (ret_reply)
        *ret_reply = reply;
    else
        json_object_put(reply);
    return 0;
}

/* ---- a program ---- */

struct client_run {
    struct agent_link link;
    const struct agent_io *io;
    bool input_open;
    bool done;
    int status;
    int output_error; /* of our own side */
};

static int client_output(struct client_run *c, bool is_err, const uint8_t *data, size_t len)
{
    const struct agent_io *io = c->io;
    int fd = is_err ? io->err : io->out;

    if (len == 0)
        return 0;
    if (io->output)
        return io->output(io->opaque, is_err, data, len);
    return fd < 0 ? 0 : fd_write_all(fd, data, len);
}

/* The end: {"exit": n} or {"signal": n}. */
static int client_ended(struct client_run *c, const char *text)
{
    json_object *o, *v;
    struct err ignored;

    if (proto_json_object(text, "answer of the guest's agent", &o, &ignored) < 0)
        return -EBADMSG;
    if (json_object_object_get_ex(o, "exit", &v)) {
        c->status = json_object_get_int(v) & 0xff;
        c->done = true;
    } else if (json_object_object_get_ex(o, "signal", &v)) {
        c->status = 128 + (json_object_get_int(v) & 0x7f);
        c->done = true;
    }
    json_object_put(o);
    return 0;
}

static int client_take_frames(struct client_run *c)
{
    int r = 1;

    while (r > 0 && !c->done) {
        enum agent_frame kind;
        const uint8_t *data;
        size_t len;

        r = agent_link_receive(&c->link, &kind, &data, &len);
        if (r > 0 && (kind == AGENT_STDOUT || kind == AGENT_STDERR)) {
            c->output_error = client_output(c, kind == AGENT_STDERR, data, len);
            r = c->output_error < 0 ? c->output_error : r;
        } else if (r > 0) {
            int res = kind == AGENT_JSON ? client_ended(c, (const char *)data) : -EBADMSG;

            r = res < 0 ? res : r;
        }
    }
    return r < 0 ? r : 0;
}

static void client_take_input(struct client_run *c)
{
    uint8_t data[16384];
    ssize_t n = read(c->io->in, data, sizeof(data));

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    agent_link_queue(&c->link, AGENT_STDIN, data, n > 0 ? (size_t)n : 0);
    c->input_open = n > 0;
}

static void client_take_signal(struct client_run *c)
{
    struct agent_request q = { .op = AGENT_SIGNAL };
    struct signalfd_siginfo info;
    struct winsize size;

    if (read(c->io->signals, &info, sizeof(info)) != sizeof(info))
        return;
    q.signal = info.ssi_signo;
    if (q.signal == SIGWINCH) {
        if (c->io->terminal < 0 || ioctl(c->io->terminal, TIOCGWINSZ, &size) < 0)
            return;
        q = (struct agent_request){ .op = AGENT_WINSIZE, .rows = size.ws_row, .cols = size.ws_col };
    }
    agent_link_queue_json(&c->link, agent_request_to_json(&q));
}

static int client_loop(struct client_run *c, int64_t deadline)
{
    int r = client_take_frames(c); /* some came with the answer */

    while (r == 0 && !c->done) {
        struct pollfd p[] = { { .fd = c->link.fd, .events = POLLIN },
                              { .fd = -1, .events = POLLIN },
                              { .fd = c->io->signals, .events = POLLIN } };

        r = agent_link_flush(&c->link);
        if (r < 0)
            break;
        if (c->input_open && agent_link_pending(&c->link) < CLIENT_QUEUE)
            p[1].fd = c->io->in;
        if (agent_link_pending(&c->link) > 0)
            p[0].events |= POLLOUT;
        if (poll(p, ARRAY_SIZE(p), client_left(deadline)) == 0 && client_late(deadline))
            return -ETIMEDOUT;
        if (p[1].revents)
            client_take_input(c);
        if (p[2].revents)
            client_take_signal(c);
        r = client_take_frames(c);
    }
    return r;
}

int agent_exec(int fd, const struct agent_request *q, const struct agent_io *io, int timeout_ms, int *ret_status,
               struct err *e)
{
    struct client_run c = { .io = io, .input_open = q->stdin_open && io->in >= 0 };
    int64_t deadline = client_deadline(timeout_ms);
    json_object *reply;
    int r;

    agent_link_init(&c.link, fd);
    r = client_request(&c.link, q, deadline, &reply, e);
    if (r == 0) {
        json_object_put(reply);
        if (q->stdin_open && io->in < 0)
            agent_link_queue(&c.link, AGENT_STDIN, NULL, 0);
        r = client_loop(&c, deadline);
        if (c.output_error < 0)
            r = err_set(e, -c.output_error, "cannot write what the program in the guest printed: %s",
                        strerror(-c.output_error));
        else if (r < 0)
            r = client_lost(r, e);
    }
    agent_link_done(&c.link);
    if (r == 0)
        *ret_status = c.status;
    return r;
}

/* ---- archives ---- */

struct client_copy {
    int tar_fd; /* -1: tar's output is of no interest */
    size_t n;
    char note[CLIENT_NOTE]; /* the beginning of what tar says of errors */
};

static int client_copy_output(void *opaque, bool is_err, const void *data, size_t len)
{
    struct client_copy *c = opaque;
    size_t part = MIN(len, sizeof(c->note) - 1 - c->n);

    if (!is_err)
        return c->tar_fd < 0 ? 0 : fd_write_all(c->tar_fd, data, len);
    memcpy(c->note + c->n, data, part);
    c->n += part;
    return 0;
}

static int client_copy(int fd, const struct agent_request *q, int tar_fd, struct err *e)
{
    struct client_copy copy = { .tar_fd = q->op == AGENT_GET ? tar_fd : -1 };
    const struct agent_io io = { .in = q->op == AGENT_PUT ? tar_fd : -1,
                                 .out = -1,
                                 .err = -1,
                                 .signals = -1,
                                 .terminal = -1,
                                 .output = client_copy_output,
                                 .opaque = &copy };
    int status, r = agent_exec(fd, q, &io, -1, &status, e);

    if (r < 0 || status == 0)
        return r;
    copy.note[strcspn(copy.note, "\n")] = '\0';
    return err_set(e, strstr(copy.note, "No such file") ? ENOENT : EIO, "%s in the guest: %s", q->path,
                   copy.note[0] ? copy.note : "its tar failed");
}

int agent_put(int fd, const char *path, const char *user, int tar_fd, struct err *e)
{
    const struct agent_request q = {
        .op = AGENT_PUT, .path = (char *)(uintptr_t)path, .user = (char *)(uintptr_t)user, .stdin_open = true
    };

    return client_copy(fd, &q, tar_fd, e);
}

int agent_get(int fd, const char *path, const char *user, int tar_fd, struct err *e)
{
    const struct agent_request q = { .op = AGENT_GET,
                                     .path = (char *)(uintptr_t)path,
                                     .user = (char *)(uintptr_t)user };

    return client_copy(fd, &q, tar_fd, e);
}
