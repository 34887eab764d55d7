/* This terminal as that of an instance, or its pipes as this program's. The supervisor stays when we go. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cli/instance.h"
#include "proto/exit_code.h"
#include "sys/loop.h"
#include "sys/signals.h"

#define ATTACH_CHUNK 4096
#define ATTACH_PIECE ((size_t)256) /* a terminal that is ready may have room for few bytes only */
#define KEY_ESCAPE 0x1d            /* Ctrl-] */
#define KEY_CTRL_P 0x10
#define KEY_CTRL_Q 0x11

/* Output of the instance on its way to one of our descriptors. */
struct attach_stream {
    struct attach *a;
    int *from; /* in the session; -1: it has ended */
    int to;
    struct loop_fd *from_src, *to_src;
    uint8_t data[ATTACH_CHUNK];
    size_t n;
};

struct attach {
    struct loop *loop;
    const struct store_instance *i;
    struct inst_session *s;
    const struct cli_attach_options *o;
    struct attach_stream streams[2]; /* out (or the terminal), err */
    struct loop_fd *in_src, *to_src, *sock_src, *signal_src;
    struct termios saved;
    bool raw;      /* the terminal must be restored */
    bool in_plain; /* stdin cannot be polled (a file): read it whenever the instance takes input */
    bool in_done;
    uint8_t key; /* the first one of a pair that was typed, 0: none */
    bool left;   /* the user wants to leave */
    bool ended;
    int code, signal, signal_fd;
    uint8_t typed[2 * ATTACH_CHUNK]; /* not yet taken by the instance */
    size_t n_typed;
    struct err error;
};

static void attach_watch(struct attach *a);

/* ---- the terminal ---- */

static void attach_raw(struct attach *a)
{
    struct termios raw;

    if (!a->o->in || !a->s->terminal || !isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &raw) < 0)
        return;
    if (!a->raw)
        a->saved = raw;
    cfmakeraw(&raw);
    a->raw = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
}

static void attach_restore(struct attach *a)
{
    if (a->raw)
        tcsetattr(STDIN_FILENO, TCSANOW, &a->saved);
    a->raw = false;
}

static void attach_resize(struct attach *a)
{
    struct winsize size;

    if (a->s->terminal && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0)
        inst_session_resize(a->s, size.ws_col, size.ws_row);
}

void cli_attach_size(const struct store_instance *i, struct inst_start *how)
{
    struct winsize size;

    if (!how->attach || i->spec.kind != INST_CONTAINER || !i->spec.container.terminal ||
        ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0)
        return;
    how->columns = size.ws_col;
    how->rows = size.ws_row;
}

/* ---- input ---- */

/* What was typed: drop the keys that are ours, keep the rest. */
static void attach_typed(struct attach *a, const uint8_t *data, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        uint8_t ch = data[i], first = a->key;

        a->key = 0;
        if (!a->raw) {
            a->typed[a->n_typed++] = ch;
        } else if ((first == KEY_ESCAPE && ch == 'd') || (first == KEY_CTRL_P && ch == KEY_CTRL_Q)) {
            a->left = true;
            loop_stop(a->loop, 0);
            return;
        } else if (first == 0 && (ch == KEY_ESCAPE || ch == KEY_CTRL_P)) {
            a->key = ch;
        } else {
            if (first && !(first == KEY_ESCAPE && ch == KEY_ESCAPE))
                a->typed[a->n_typed++] = first;
            a->typed[a->n_typed++] = ch;
        }
    }
}

static int *attach_to(struct attach *a)
{
    return a->s->terminal ? &a->s->console : &a->s->in;
}

/* Nothing more comes from us. */
static void attach_in_end(struct attach *a)
{
    loop_fd_free(a->in_src);
    a->in_src = NULL;
    a->in_plain = false;
    a->in_done = true;
}

/* All that was typed is on its way: tell the instance that this was all. */
static void attach_eof(struct attach *a)
{
    if (!a->in_done || a->n_typed > 0 || a->s->terminal || a->s->in < 0)
        return;
    inst_session_eof(a->s);
    loop_fd_free(a->to_src);
    a->to_src = NULL;
    base_closep(&a->s->in);
    a->s->in = -1;
}

static void attach_push(struct attach *a)
{
    while (a->n_typed > 0 && *attach_to(a) >= 0) {
        ssize_t n = write(*attach_to(a), a->typed, a->n_typed);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0) { /* it reads no more */
            a->n_typed = 0;
            attach_in_end(a);
            break;
        }
        memmove(a->typed, a->typed + n, a->n_typed - (size_t)n);
        a->n_typed -= (size_t)n;
    }
    attach_eof(a);
}

static void attach_read(struct attach *a)
{
    uint8_t data[ATTACH_CHUNK];
    ssize_t n;

    if (a->n_typed > 0 || a->in_done)
        return;
    n = read(STDIN_FILENO, data, sizeof(data));
    if (n > 0)
        attach_typed(a, data, (size_t)n);
    else if (n == 0 || (errno != EINTR && errno != EAGAIN))
        attach_in_end(a);
    attach_push(a);
}

static void attach_on_input(void *opaque, uint32_t events)
{
    struct attach *a = opaque;

    (void)events;
    attach_read(a);
    attach_watch(a);
}

static void attach_on_to(void *opaque, uint32_t events)
{
    struct attach *a = opaque;

    if (events & (EPOLLERR | EPOLLHUP)) {
        a->n_typed = 0;
        attach_in_end(a);
        loop_fd_free(a->to_src);
        a->to_src = NULL;
    } else {
        attach_push(a);
        if (a->in_plain)
            attach_read(a);
    }
    attach_watch(a);
}

/* ---- output ---- */

static void stream_close(struct attach_stream *st)
{
    loop_fd_free(st->from_src);
    st->from_src = NULL;
    base_closep(st->from);
    *st->from = -1;
}

/* Pass output on while our side takes it without blocking: who reads it must not keep us from signals and keys. */
static void stream_push(struct attach_stream *st)
{
    struct pollfd out = { .fd = st->to, .events = POLLOUT };

    while (st->n > 0 && poll(&out, 1, 0) > 0) {
        ssize_t n = write(st->to, st->data, MIN(st->n, ATTACH_PIECE));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) { /* nobody reads any more: so do we */
            if (n < 0 && errno != EPIPE && errno != EIO && st->a->error.code == 0)
                err_set(&st->a->error, errno, "cannot write the output: %s", strerror(errno));
            st->n = 0;
            stream_close(st);
            return;
        }
        memmove(st->data, st->data + n, st->n - (size_t)n);
        st->n -= (size_t)n;
    }
}

static void stream_read(struct attach_stream *st)
{
    ssize_t n;

    if (*st->from < 0 || st->n > 0)
        return;
    n = read(*st->from, st->data, sizeof(st->data));
    if (n > 0)
        st->n = (size_t)n;
    else if (n == 0 || (errno != EAGAIN && errno != EINTR))
        stream_close(st);
    stream_push(st);
}

static void attach_maybe_done(struct attach *a)
{
    bool open = false;

    for (size_t i = 0; i < ARRAY_SIZE(a->streams); i++)
        open = open || *a->streams[i].from >= 0 || a->streams[i].n > 0;
    if (a->ended && !open)
        loop_stop(a->loop, 0);
}

static void stream_on_from(void *opaque, uint32_t events)
{
    struct attach_stream *st = opaque;
    struct attach *a = st->a;

    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        stream_read(st);
    if (events & EPOLLOUT) {
        attach_push(a);
        if (a->in_plain)
            attach_read(a);
    }
    attach_watch(a);
    attach_maybe_done(a);
}

static void stream_on_to(void *opaque, uint32_t events)
{
    struct attach_stream *st = opaque;

    stream_push(st);
    if (events & (EPOLLHUP | EPOLLERR)) {
        /* A closed pipe says so again and again; writes find out by themselves. */
        loop_fd_free(st->to_src);
        st->to_src = NULL;
    }
    attach_watch(st->a);
    attach_maybe_done(st->a);
}

/* Watch stdin only while there is room, the instance for input only while something waits, and its output only while
 * ours is taken. */
static void attach_watch(struct attach *a)
{
    const bool in = !a->in_done && !a->in_plain;
    uint32_t to = a->n_typed > 0 || a->in_plain ? EPOLLOUT : 0;

    for (size_t i = 0; i < ARRAY_SIZE(a->streams); i++) {
        struct attach_stream *st = &a->streams[i];

        if (*st->from >= 0)
            loop_fd_watch(a->loop, *st->from, (st->n ? 0 : EPOLLIN) | (a->s->terminal && i == 0 ? to : 0),
                          stream_on_from, st, &st->from_src);
        if (st->to_src)
            (void)!loop_fd_set(st->to_src, st->n ? EPOLLOUT : 0);
    }
    if (a->to_src)
        (void)!loop_fd_set(a->to_src, to);
    if (in)
        loop_fd_watch(a->loop, STDIN_FILENO, a->n_typed ? 0 : EPOLLIN, attach_on_input, a, &a->in_src);
}

/* ---- the supervisor and signals ---- */

static void attach_on_sock(void *opaque, uint32_t events)
{
    struct attach *a = opaque;
    int r;

    (void)events;
    r = inst_session_read(a->s, &a->code, &a->error);
    if (r == 0)
        return;
    loop_fd_free(a->sock_src);
    a->sock_src = NULL;
    a->ended = true;
    attach_maybe_done(a);
}

static void attach_proxy(struct attach *a, int signal)
{
    const struct shim_msg_request request = { .op = SHIM_MSG_KILL, .signal = signal };
    struct err ignored = { 0 };

    (void)!inst_call(a->i, &request, INST_CALL_MS, NULL, &ignored);
}

static void attach_on_signal(void *opaque, uint32_t events)
{
    struct attach *a = opaque;
    struct signalfd_siginfo info;

    (void)events;
    if (read(a->signal_fd, &info, sizeof(info)) != sizeof(info))
        return;
    switch ((int)info.ssi_signo) {
    case SIGWINCH:
        attach_resize(a);
        break;
    case SIGTSTP:
        attach_restore(a);
        raise(SIGSTOP);
        attach_raw(a);
        break;
    case SIGCONT:
        attach_raw(a);
        attach_resize(a);
        break;
    default:
        if (a->o->proxy_signals && !a->ended && info.ssi_signo != SIGHUP) {
            attach_proxy(a, (int)info.ssi_signo);
        } else {
            a->signal = (int)info.ssi_signo;
            loop_stop(a->loop, 0);
        }
    }
}

/* ---- setting up ---- */

static int attach_signals(struct attach *a)
{
    static const int signals[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH, SIGTSTP, SIGCONT };

    sys_signals_no_pipe();
    a->signal_fd = sys_signals_open(signals, ARRAY_SIZE(signals));
    return a->signal_fd < 0 ? a->signal_fd
                            : loop_fd_add(a->loop, a->signal_fd, EPOLLIN, attach_on_signal, a, &a->signal_src);
}

static int attach_nonblocking(int fd)
{
    return fd < 0 || fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) == 0 ? 0 : -errno;
}

static int stream_setup(struct attach *a, size_t index, int *from, int to)
{
    struct attach_stream *st = &a->streams[index];
    int r = attach_nonblocking(*from);

    *st = (struct attach_stream){ .a = a, .from = from, .to = to };
    if (r < 0 || *from < 0)
        return r;
    r = loop_fd_add(a->loop, to, 0, stream_on_to, st, &st->to_src);
    if (r < 0 && r != -EPERM && r != -EBADF && r != -EEXIST) /* a file, which is always ready; closed; both are one */
        return r;
    return loop_fd_add(a->loop, *from, EPOLLIN, stream_on_from, st, &st->from_src);
}

static int attach_input(struct attach *a)
{
    int r;

    if (!a->o->in || *attach_to(a) < 0) {
        a->in_done = true;
        attach_eof(a);
        return 0;
    }
    attach_raw(a);
    r = loop_fd_add(a->loop, STDIN_FILENO, EPOLLIN, attach_on_input, a, &a->in_src);
    if (r == -EPERM)
        a->in_plain = true;
    else if (r == -EBADF)
        attach_in_end(a);
    else if (r < 0)
        return r;
    if (a->s->terminal)
        return 0; /* its socket is watched as the output */
    r = attach_nonblocking(a->s->in);
    return r < 0 ? r : loop_fd_add(a->loop, a->s->in, 0, attach_on_to, a, &a->to_src);
}

static int attach_setup(struct attach *a)
{
    int r = loop_new(&a->loop);

    if (r == 0)
        r = attach_signals(a);
    if (r == 0)
        r = attach_nonblocking(a->s->sock);
    if (r == 0)
        r = loop_fd_add(a->loop, a->s->sock, EPOLLIN, attach_on_sock, a, &a->sock_src);
    if (r == 0)
        r = stream_setup(a, 0, a->s->terminal ? &a->s->console : &a->s->out, STDOUT_FILENO);
    if (r == 0)
        r = stream_setup(a, 1, &a->s->err, STDERR_FILENO);
    if (r == 0)
        r = attach_input(a);
    if (r < 0)
        return r;
    attach_resize(a);
    attach_push(a);
    attach_watch(a);
    return 0;
}

int cli_attach(const struct store_instance *i, struct inst_session *s, const struct cli_attach_options *o)
{
    AUTO_FREE struct attach *a = calloc(1, sizeof(*a));
    struct err e = { 0 };
    int r = a ? 0 : -ENOMEM;

    if (r == 0) {
        *a = (struct attach){ .i = i, .s = s, .o = o, .signal_fd = -1 };
        r = attach_setup(a);
        if (r == 0)
            r = loop_run(a->loop);
        attach_restore(a);
        loop_free(a->loop);
        base_closep(&a->signal_fd);
    }
    inst_session_done(s);
    if (r < 0) {
        err_set(&e, -r, "%s: cannot attach: %s", i->name, strerror(-r));
        return cli_fail(&e);
    }
    if (a->left) {
        fprintf(stderr, "\ncaisson: %s goes on without this terminal; 'caisson attach %s' comes back\n", i->name,
                i->name);
        return EXIT_CODE_OK;
    }
    if (a->signal)
        return 128 + a->signal;
    return a->error.code ? cli_fail(&a->error) : a->code;
}

int cli_attach_named(const struct cli_args *args, struct cli_attach_options *o,
                     int (*begin)(struct store_instance *i, struct cli_attach_options *o, struct inst_session *s,
                                  struct err *e))
{
    AUTO_FREE struct store_instance *i = calloc(1, sizeof(*i));
    AUTO(store) struct store *store = NULL;
    struct inst_session session;
    struct err e = { 0 };
    int r = i ? cli_inst_one(args, 0, &store, i, &e) : err_set(&e, ENOMEM, "out of memory");

    inst_session_init(&session);
    if (r == 0)
        r = begin(i, o, &session, &e);
    store_close(STEAL(store));
    r = r < 0 ? cli_fail(&e) : cli_attach(i, &session, o);
    inst_session_done(&session);
    if (i)
        store_instance_done(i);
    return r;
}
