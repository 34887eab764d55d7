#include "oci/wait.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "base/cleanup.h"

struct wait_copy {
    int from, to;
    size_t len, at;
    char data[4096];
};

struct wait_loop {
    int signals, pidfd, terminal;
    bool tty; /* our standard input is a terminal, in raw mode now */
    struct termios saved;
    struct wait_copy in, out;
};

static void wait_resize(int terminal)
{
    struct winsize size;

    if (ioctl(STDIN_FILENO, TIOCGWINSZ, &size) == 0 && ioctl(terminal, TIOCSWINSZ, &size) < 0)
        return;
}

static void wait_signal(struct wait_loop *w, int pidfd)
{
    struct signalfd_siginfo info;

    if (read(w->signals, &info, sizeof(info)) != sizeof(info) || info.ssi_signo == SIGCHLD)
        return;
    if (info.ssi_signo == SIGWINCH && w->terminal >= 0) {
        wait_resize(w->terminal);
        return;
    }
    /* It may have ended meanwhile. */
    if (pidfd_send_signal(pidfd, (int)info.ssi_signo, NULL, 0) < 0)
        return;
}

/* One step; false: this way is closed. */
static bool wait_copy_step(struct wait_copy *c, short revents_from, short revents_to)
{
    ssize_t n;

    if (c->len > c->at && revents_to & (POLLOUT | POLLERR | POLLHUP)) {
        n = write(c->to, c->data + c->at, c->len - c->at);
        if (n < 0)
            return errno == EINTR || errno == EAGAIN;
        c->at += (size_t)n;
    }
    if (c->len == c->at && revents_from) {
        n = read(c->from, c->data, sizeof(c->data));
        if (n < 0)
            return errno == EINTR || errno == EAGAIN;
        c->len = (size_t)n;
        c->at = 0;
        return n > 0;
    }
    return true;
}

static short wait_want_read(const struct wait_copy *c)
{
    return c->len == c->at ? POLLIN : 0;
}

static short wait_want_write(const struct wait_copy *c)
{
    return c->len > c->at ? POLLOUT : 0;
}

/* After the process' end: what still lies in the terminal. */
static void wait_drain(struct wait_loop *w)
{
    struct pollfd p = { .fd = w->terminal, .events = POLLIN };

    while (w->terminal >= 0 && w->out.from >= 0) {
        if (w->out.len == w->out.at && poll(&p, 1, 0) <= 0)
            break;
        if (!wait_copy_step(&w->out, POLLIN, POLLOUT))
            break;
    }
}

static int wait_loop_run(struct wait_loop *w, struct err *e)
{
    for (;;) {
        struct pollfd p[5] = {
            { .fd = w->pidfd, .events = POLLIN },
            { .fd = w->signals, .events = POLLIN },
            { .fd = w->in.from, .events = wait_want_read(&w->in) },
            { .fd = w->terminal, .events = (short)(wait_want_write(&w->in) | wait_want_read(&w->out)) },
            { .fd = wait_want_write(&w->out) ? w->out.to : -1, .events = POLLOUT },
        };

        if (!p[2].events)
            p[2].fd = -1;
        if (!p[3].events)
            p[3].fd = -1;
        if (poll(p, 5, -1) < 0) {
            if (errno == EINTR)
                continue;
            return err_set(e, errno, "cannot wait for the container: %m");
        }
        if (p[1].revents)
            wait_signal(w, w->pidfd);
        if (w->terminal >= 0 && !wait_copy_step(&w->out, p[3].revents & (short)~POLLOUT, p[4].revents))
            w->terminal = -1;
        if (w->in.from >= 0 && !wait_copy_step(&w->in, p[2].revents, p[3].revents & POLLOUT))
            w->in.from = -1;
        if (p[0].revents)
            return 0;
    }
}

static void wait_raw(struct wait_loop *w)
{
    struct termios raw;

    if (w->terminal < 0 || tcgetattr(STDIN_FILENO, &w->saved) < 0)
        return;
    wait_resize(w->terminal);
    raw = w->saved;
    cfmakeraw(&raw);
    w->tty = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
}

static void wait_set(sigset_t *all)
{
    sigfillset(all);
    sigdelset(all, SIGURG);
}

void oci_wait_block(void)
{
    sigset_t all;

    wait_set(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
}

int oci_wait_forward(pid_t pid, int terminal_fd, struct err *e)
{
    AUTO_FD int pidfd = pidfd_open(pid, 0), signals = -1;
    struct wait_loop w = { .pidfd = pidfd, .terminal = terminal_fd };
    int status = 0, r;
    sigset_t all;

    wait_set(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    signals = signalfd(-1, &all, SFD_CLOEXEC);
    if (pidfd < 0 || signals < 0)
        return err_set(e, errno, "cannot wait for the container: %m");
    w.signals = signals;
    w.in.from = terminal_fd >= 0 ? STDIN_FILENO : -1;
    w.in.to = w.out.from = terminal_fd;
    w.out.to = STDOUT_FILENO;
    wait_raw(&w);
    r = wait_loop_run(&w, e);
    if (r == 0)
        wait_drain(&w);
    if (w.tty)
        tcsetattr(STDIN_FILENO, TCSANOW, &w.saved);
    if (r < 0)
        return r;
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            return err_set(e, errno, "cannot get the container's exit status: %m");
    }
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
