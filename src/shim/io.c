/* What the payload writes goes to the log and to all who are attached; what they type goes to the payload. Whoever is
 * attached and does not read holds the payload up once 64 KiB wait for him, as a pipe would; nobody attached holds up
 * nothing. The last output of a terminal is kept for those who attach later. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "shim/shim_priv.h"

#define IO_CHUNK (64U << 10)
#define IO_REPLAY (64U << 10)
#define IO_HOLD (64U << 10)        /* a client for whom this much waits holds the payload up */
#define IO_WAITING_MAX (16U << 20) /* what is left at the end of a run comes on top: no more than pipes hold */
#define IO_PART_NS 300000000ULL    /* a prompt goes to the log after this time */
#define IO_REOPEN_NS 100000000ULL

enum io_way { IO_OUT, IO_ERR, IO_WAYS };

/* A client's end of one stream: what waits for it. */
struct io_sink {
    struct shim_attachment *a;
    int fd; /* -1: none, or nobody reads any more */
    struct loop_fd *src;
    struct buf waiting;
    size_t taken; /* of waiting */
};

struct shim_attachment {
    struct list link;
    struct shim_io *io;
    struct io_sink sinks[IO_WAYS]; /* with a terminal: the first is the socket, both directions */
    int in;                        /* without a terminal: the pipe from the client */
    struct loop_fd *in_src;
    bool input; /* it may type */
    bool eof;   /* and said that it is done */
};

/* An end of the payload's. */
struct io_source {
    struct shim_io *io;
    enum io_way way;
    int fd;
    struct loop_fd *src;
};

struct shim_io {
    struct shim *shim;
    bool terminal;
    struct io_source sources[IO_WAYS];
    int in; /* the payload's input; with a terminal that of the first source */
    struct loop_fd *in_src;
    uint8_t typed[IO_CHUNK]; /* for the payload, not yet taken */
    size_t n_typed;
    bool in_ends; /* close it when typed is empty */
    struct list attachments;
    struct loop_timer *part_timer, *reopen_timer;
    uint8_t *replay; /* with a terminal: the last output, a ring */
    size_t replay_at, replay_len;
    uint8_t chunk[IO_CHUNK];
};

static void io_watch(struct shim_io *io);
static void io_push_typed(struct shim_io *io);

/* ---- to clients ---- */

static size_t sink_waiting(const struct io_sink *sink)
{
    return sink->fd < 0 ? 0 : sink->waiting.len - sink->taken;
}

static void sink_close(struct io_sink *sink)
{
    loop_fd_free(sink->src);
    sink->src = NULL;
    base_closep(&sink->fd);
    sink->fd = -1;
    buf_done(&sink->waiting);
    buf_init(&sink->waiting, IO_WAITING_MAX);
    sink->taken = 0;
}

/* Write what the client takes now. */
static void sink_push(struct io_sink *sink)
{
    while (sink_waiting(sink) > 0) {
        ssize_t n = write(sink->fd, sink->waiting.data + sink->taken, sink_waiting(sink));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0) {
            sink_close(sink);
            return;
        }
        sink->taken += (size_t)n;
    }
    if (sink->fd >= 0 && sink_waiting(sink) == 0) {
        buf_done(&sink->waiting);
        buf_init(&sink->waiting, IO_WAITING_MAX);
        sink->taken = 0;
    }
}

/* What was taken makes room: whoever reads all the time but slowly never takes all of it. */
static void sink_compact(struct io_sink *sink)
{
    if (sink->taken == 0)
        return;
    sink->waiting.len -= sink->taken;
    memmove(sink->waiting.data, sink->waiting.data + sink->taken, sink->waiting.len);
    sink->taken = 0;
}

static void sink_put(struct io_sink *sink, const uint8_t *data, size_t len)
{
    if (sink->fd < 0)
        return;
    if (sink_waiting(sink) == 0) {
        ssize_t n = write(sink->fd, data, len);

        if (n < 0 && errno != EAGAIN && errno != EINTR) {
            sink_close(sink);
            return;
        }
        data += MAX(n, 0);
        len -= (size_t)MAX(n, 0);
    }
    sink_compact(sink);
    buf_append(&sink->waiting, data, len);
    if (buf_error(&sink->waiting) < 0)
        sink_close(sink);
}

static bool io_is_held(const struct shim_io *io)
{
    const struct shim_attachment *a;

    LIST_FOR_EACH(a, &((struct shim_io *)(uintptr_t)io)->attachments, link) {
        if (sink_waiting(&a->sinks[IO_OUT]) >= IO_HOLD || sink_waiting(&a->sinks[IO_ERR]) >= IO_HOLD)
            return true;
    }
    return false;
}

bool shim_io_idle(const struct shim_io *io)
{
    const struct shim_attachment *a;

    LIST_FOR_EACH(a, &((struct shim_io *)(uintptr_t)io)->attachments, link) {
        if (sink_waiting(&a->sinks[IO_OUT]) > 0 || sink_waiting(&a->sinks[IO_ERR]) > 0)
            return false;
    }
    return true;
}

bool shim_io_terminal(const struct shim_io *io)
{
    return io->terminal;
}

/* ---- from the payload ---- */

static void io_remember(struct shim_io *io, const uint8_t *data, size_t len)
{
    if (!io->replay)
        return;
    if (len > IO_REPLAY) {
        data += len - IO_REPLAY;
        len = IO_REPLAY;
    }
    for (size_t done = 0; done < len;) {
        size_t part = MIN(len - done, IO_REPLAY - io->replay_at);

        memcpy(io->replay + io->replay_at, data + done, part);
        io->replay_at = (io->replay_at + part) % IO_REPLAY;
        done += part;
    }
    io->replay_len = MIN(io->replay_len + len, (size_t)IO_REPLAY);
}

/* Output of the payload: to the log and to all. */
static void io_output(struct shim_io *io, enum io_way way, const uint8_t *data, size_t len)
{
    struct shim_attachment *a;

    inst_log_write(io->shim->log, way == IO_ERR ? INST_LOG_ERR : INST_LOG_OUT, data, len);
    if (inst_log_waits(io->shim->log))
        loop_timer_set(io->part_timer, sys_now_ns() + IO_PART_NS);
    if (way == IO_OUT || io->terminal)
        io_remember(io, data, len);
    LIST_FOR_EACH(a, &io->attachments, link) {
        sink_put(&a->sinks[io->terminal ? IO_OUT : way], data, len);
    }
}

static void io_part_due(void *opaque)
{
    struct shim_io *io = opaque;

    inst_log_flush(io->shim->log);
}

static void source_close(struct io_source *source)
{
    loop_fd_free(source->src);
    source->src = NULL;
    base_closep(&source->fd);
    source->fd = -1;
}

/* False: there is nothing more to come (now). */
static bool source_read(struct io_source *source)
{
    struct shim_io *io = source->io;
    ssize_t n = read(source->fd, io->chunk, sizeof(io->chunk));

    if (n > 0)
        io_output(io, source->way, io->chunk, (size_t)n);
    return n > 0 || (n < 0 && errno == EINTR);
}

static void source_event(void *opaque, uint32_t events)
{
    struct io_source *source = opaque;
    struct shim_io *io = source->io;

    if (events & EPOLLIN) {
        if (!source_read(source) && errno != EAGAIN && !(io->terminal && source->way == IO_OUT))
            source_close(source);
    } else if (events & (EPOLLHUP | EPOLLERR)) {
        loop_fd_free(source->src);
        source->src = NULL;
        /* A terminal that nobody has open just now may be opened again. Others have nothing left: they are off the
         * loop while what they have is not taken (source_watch). */
        if (io->terminal && source->way == IO_OUT)
            loop_timer_set(io->reopen_timer, sys_now_ns() + IO_REOPEN_NS);
        else
            source_close(source);
    }
    if (events & EPOLLOUT)
        io_push_typed(io);
    if (events & (EPOLLOUT | EPOLLIN))
        io_watch(io);
}

/* ---- to the payload ---- */

static int io_in(const struct shim_io *io)
{
    return io->terminal ? io->sources[IO_OUT].fd : io->in;
}

static void io_close_in(struct shim_io *io)
{
    loop_fd_free(io->in_src);
    io->in_src = NULL;
    base_closep(&io->in);
    io->in = -1;
    io->n_typed = 0;
}

static void io_push_typed(struct shim_io *io)
{
    while (io->n_typed > 0 && io_in(io) >= 0) {
        ssize_t n = write(io_in(io), io->typed, io->n_typed);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0) {
            io->n_typed = 0; /* nobody reads it any more */
            if (!io->terminal)
                io_close_in(io);
            return;
        }
        memmove(io->typed, io->typed + n, io->n_typed - (size_t)n);
        io->n_typed -= (size_t)n;
    }
    if (io->n_typed > 0)
        io->n_typed = 0; /* there is no payload */
    if (io->in_ends && !io->terminal)
        io_close_in(io);
}

/* A client's input; -1: it has ended. */
static void attachment_read(struct shim_attachment *a)
{
    struct shim_io *io = a->io;
    int fd = io->terminal ? a->sinks[IO_OUT].fd : a->in;
    ssize_t n;

    if (fd < 0 || io->n_typed > 0)
        return;
    n = read(fd, io->typed, sizeof(io->typed));
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n > 0) {
        if (a->input)
            io->n_typed = (size_t)n;
    } else if (io->terminal) {
        sink_close(&a->sinks[IO_OUT]);
    } else {
        loop_fd_free(a->in_src);
        a->in_src = NULL;
        base_closep(&a->in);
        a->in = -1;
        io->in_ends = io->in_ends || a->eof;
    }
    io_push_typed(io);
}

static void attachment_in_event(void *opaque, uint32_t events)
{
    struct shim_attachment *a = opaque;

    (void)events;
    attachment_read(a);
    io_watch(a->io);
}

static void io_in_event(void *opaque, uint32_t events)
{
    struct shim_io *io = opaque;

    if (events & (EPOLLERR | EPOLLHUP))
        io_close_in(io);
    else
        io_push_typed(io);
    io_watch(io);
}

static void sink_event(void *opaque, uint32_t events)
{
    struct io_sink *sink = opaque;
    struct shim_io *io = sink->a->io;
    struct shim *s = io->shim;

    if (events & EPOLLOUT)
        sink_push(sink);
    if (sink->fd >= 0 && events & EPOLLIN)
        attachment_read(sink->a);
    else if (sink->fd >= 0 && events & (EPOLLHUP | EPOLLERR))
        sink_close(sink);
    io_watch(io);
    shim_run_maybe_leave(s);
}

/* ---- what is watched ---- */

/* held: nobody takes what it has. One that has ended meanwhile keeps it. typed: for the payload's terminal. */
static void source_watch(struct io_source *source, bool held, uint32_t typed)
{
    uint32_t out = held ? 0 : EPOLLIN;

    if (source->io->terminal && source->way == IO_OUT) {
        if (source->src)
            (void)!loop_fd_set(source->src, out | typed);
    } else if (source->fd >= 0) {
        loop_fd_watch(source->io->shim->loop, source->fd, out, source_event, source, &source->src);
    }
}

/* The payload's output only while nobody holds it up, a client's input only while the payload takes it, and whoever
 * does not take what waits for him. */
static void io_watch(struct shim_io *io)
{
    uint32_t typed = io->n_typed > 0 ? EPOLLOUT : 0;
    bool held = io_is_held(io);
    struct shim_attachment *a;

    for (int way = 0; way < IO_WAYS; way++)
        source_watch(&io->sources[way], held, typed);
    if (io->in_src)
        (void)!loop_fd_set(io->in_src, typed);
    LIST_FOR_EACH(a, &io->attachments, link) {
        for (int way = 0; way < IO_WAYS; way++) {
            struct io_sink *sink = &a->sinks[way];

            if (sink->src)
                (void)!loop_fd_set(sink->src, (sink_waiting(sink) > 0 ? EPOLLOUT : 0) |
                                                  (io->terminal && way == IO_OUT && io->n_typed == 0 ? EPOLLIN : 0));
        }
        if (a->in >= 0)
            loop_fd_watch(io->shim->loop, a->in, io->n_typed == 0 ? EPOLLIN : 0, attachment_in_event, a, &a->in_src);
    }
}

static void io_reopen_due(void *opaque)
{
    struct shim_io *io = opaque;
    struct io_source *source = &io->sources[IO_OUT];

    if (source->fd >= 0 && !source->src &&
        loop_fd_add(io->shim->loop, source->fd, EPOLLIN, source_event, source, &source->src) < 0)
        source->src = NULL;
    io_watch(io);
}

/* ---- runs ---- */

int shim_io_new(struct shim *s, bool terminal, struct shim_io **ret_io)
{
    struct shim_io *io = calloc(1, sizeof(*io));
    int r;

    if (!io)
        return -ENOMEM;
    io->shim = s;
    io->terminal = terminal;
    io->in = -1;
    list_init(&io->attachments);
    for (int way = 0; way < IO_WAYS; way++)
        io->sources[way] = (struct io_source){ .io = io, .way = (enum io_way)way, .fd = -1 };
    r = loop_timer_new(s->loop, io_part_due, io, &io->part_timer);
    if (r == 0)
        r = loop_timer_new(s->loop, io_reopen_due, io, &io->reopen_timer);
    if (r == 0 && terminal) {
        io->replay = malloc(IO_REPLAY);
        r = io->replay ? 0 : -ENOMEM;
    }
    if (r < 0) {
        shim_io_free(io);
        return r;
    }
    *ret_io = io;
    return 0;
}

void shim_io_free(struct shim_io *io)
{
    if (!io)
        return;
    while (!list_empty(&io->attachments)) {
        struct shim_attachment *a = CONTAINER_OF(io->attachments.next, struct shim_attachment, link);

        shim_io_detach(a);
    }
    io_close_in(io);
    for (int way = 0; way < IO_WAYS; way++)
        source_close(&io->sources[way]);
    loop_timer_free(io->part_timer);
    loop_timer_free(io->reopen_timer);
    free(io->replay);
    free(io);
}

static int io_add(struct shim_io *io, int fd, uint32_t events, void (*cb)(void *opaque, uint32_t events), void *opaque,
                  struct loop_fd **ret_src)
{
    if (fd < 0)
        return 0;
    if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0)
        return -errno;
    return loop_fd_add(io->shim->loop, fd, events, cb, opaque, ret_src);
}

int shim_io_begin(struct shim_io *io, const struct inst_stdio *stdio)
{
    int r;

    io->sources[IO_OUT].fd = io->terminal ? stdio->console : stdio->out;
    io->sources[IO_ERR].fd = stdio->err;
    io->in = stdio->in;
    io->in_ends = false;
    io->n_typed = 0;
    r = io_add(io, io->sources[IO_OUT].fd, EPOLLIN, source_event, &io->sources[IO_OUT], &io->sources[IO_OUT].src);
    if (r == 0)
        r = io_add(io, io->sources[IO_ERR].fd, EPOLLIN, source_event, &io->sources[IO_ERR], &io->sources[IO_ERR].src);
    if (r == 0)
        r = io_add(io, io->in, 0, io_in_event, io, &io->in_src);
    if (r == 0)
        io_watch(io);
    return r;
}

void shim_io_end(struct shim_io *io)
{
    for (int way = 0; way < IO_WAYS; way++) {
        struct io_source *source = &io->sources[way];

        while (source->fd >= 0 && source_read(source))
            ;
        source_close(source);
    }
    loop_timer_set(io->reopen_timer, 0);
    loop_timer_set(io->part_timer, 0);
    inst_log_flush(io->shim->log);
    io_close_in(io);
    io_watch(io);
}

/* ---- attaching ---- */

/* A pipe; *ours does not block. write: we write into it. */
static int attachment_pipe(bool write, int *ret_ours, int *ret_theirs)
{
    int pair[2];

    if (pipe2(pair, O_CLOEXEC) < 0)
        return -errno;
    *ret_ours = pair[write ? 1 : 0];
    *ret_theirs = pair[write ? 0 : 1];
    return 0;
}

static int attachment_terminal(struct shim_attachment *a, int ret_fds[3], unsigned *ret_n)
{
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    a->sinks[IO_OUT].fd = pair[0];
    ret_fds[(*ret_n)++] = pair[1];
    return 0;
}

static int attachment_pipes(struct shim_attachment *a, int ret_fds[3], unsigned *ret_n)
{
    int r = 0;

    if (a->input)
        r = attachment_pipe(false, &a->in, &ret_fds[0]);
    *ret_n += r == 0 && a->input;
    for (int way = 0; way < IO_WAYS && r == 0; way++) {
        r = attachment_pipe(true, &a->sinks[way].fd, &ret_fds[*ret_n]);
        *ret_n += r == 0;
    }
    return r;
}

static void io_send_replay(struct shim_io *io, struct io_sink *sink)
{
    size_t from = (io->replay_at + IO_REPLAY - io->replay_len) % IO_REPLAY;
    size_t first = MIN(io->replay_len, IO_REPLAY - from);

    if (first > 0)
        sink_put(sink, io->replay + from, first);
    if (io->replay_len > first)
        sink_put(sink, io->replay, io->replay_len - first);
}

static int attachment_watch(struct shim_attachment *a)
{
    struct shim_io *io = a->io;
    int r = 0;

    for (int way = 0; way < IO_WAYS && r == 0; way++)
        r = io_add(io, a->sinks[way].fd, 0, sink_event, &a->sinks[way], &a->sinks[way].src);
    return r < 0 ? r : io_add(io, a->in, EPOLLIN, attachment_in_event, a, &a->in_src);
}

int shim_io_attach(struct shim_io *io, bool in, bool replay, struct shim_attachment **ret_attachment, int ret_fds[3],
                   unsigned *ret_n)
{
    struct shim_attachment *a = calloc(1, sizeof(*a));
    unsigned n = 0;
    int r;

    if (!a)
        return -ENOMEM;
    a->io = io;
    a->in = -1;
    a->input = in;
    for (int way = 0; way < IO_WAYS; way++) {
        a->sinks[way] = (struct io_sink){ .a = a, .fd = -1 };
        buf_init(&a->sinks[way].waiting, IO_WAITING_MAX);
    }
    list_add_before(&io->attachments, &a->link);
    r = io->terminal ? attachment_terminal(a, ret_fds, &n) : attachment_pipes(a, ret_fds, &n);
    if (r == 0)
        r = attachment_watch(a);
    if (r < 0) {
        for (unsigned i = 0; i < n; i++)
            close(ret_fds[i]);
        shim_io_detach(a);
        return r;
    }
    if (replay && io->replay)
        io_send_replay(io, &a->sinks[IO_OUT]);
    io_watch(io);
    *ret_attachment = a;
    *ret_n = n;
    return 0;
}

void shim_io_detach(struct shim_attachment *a)
{
    struct shim_io *io;

    if (!a)
        return;
    io = a->io;
    for (int way = 0; way < IO_WAYS; way++) {
        sink_close(&a->sinks[way]);
        buf_done(&a->sinks[way].waiting);
    }
    loop_fd_free(a->in_src);
    base_closep(&a->in);
    list_remove(&a->link);
    free(a);
    io_watch(io);
}

void shim_io_eof(struct shim_attachment *a)
{
    if (!a)
        return;
    a->eof = true;
    if (a->in < 0 && a->input) {
        a->io->in_ends = true;
        io_push_typed(a->io);
    }
}
