#include "cli/console.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "cli/command.h"
#include "proto/exit_code.h"
#include "sys/loop.h"
#include "sys/signals.h"

#define CONSOLE_CHUNK 4096
#define CONSOLE_PIECE ((size_t)256)
#define CONSOLE_ESCAPE 0x1d /* Ctrl-] */

struct console {
    struct loop *loop;
    struct inst_vmm *vmm;
    struct loop_fd *in_src, *out_src, *stdout_src, *pid_src, *signal_src;
    struct termios saved;
    bool raw;      /* the terminal must be restored */
    bool escape;   /* Ctrl-] was typed */
    bool quit;     /* the user asked for the end */
    bool in_done;  /* stdin has ended, or is closed */
    bool in_plain; /* stdin cannot be polled (a file): read it whenever the VM takes input */
    int signal_fd;
    int signal;                     /* that ended us, 0 none */
    unsigned stops;                 /* how often the end was asked for */
    uint8_t pending[CONSOLE_CHUNK]; /* typed, not yet taken by the VM */
    size_t n_pending;
    uint8_t output[CONSOLE_CHUNK]; /* from the VM, not yet taken by stdout */
    size_t n_output;
};

static void console_raw(struct console *c)
{
    struct termios raw;

    if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &raw) < 0)
        return;
    if (!c->raw)
        c->saved = raw;
    cfmakeraw(&raw);
    raw.c_oflag |= OPOST; /* so that our own messages still start at the left */
    c->raw = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
}

static void console_restore(struct console *c)
{
    if (c->raw)
        tcsetattr(STDIN_FILENO, TCSANOW, &c->saved);
    c->raw = false;
}

/* The first request is polite, the second is not. */
static void console_stop(struct console *c)
{
    kill(c->vmm->pid, c->stops++ == 0 ? SIGTERM : SIGKILL);
}

/* Pass output on while stdout takes it without blocking: a reader that stands still must not keep us from signals, keys
 * and the VM's end. Small pieces, because a terminal that is ready may still have room for few bytes only. */
static void console_put(struct console *c)
{
    struct pollfd out = { .fd = STDOUT_FILENO, .events = POLLOUT };

    while (c->n_output > 0 && poll(&out, 1, 0) > 0) {
        ssize_t n = write(STDOUT_FILENO, c->output, MIN(c->n_output, CONSOLE_PIECE));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            c->n_output = 0; /* nobody reads any more: the VM goes on without us */
            return;
        }
        memmove(c->output, c->output + n, c->n_output - (size_t)n);
        c->n_output -= (size_t)n;
    }
}

/* What was typed: drop the escape sequences, keep the rest for the VM. */
static void console_typed(struct console *c, const uint8_t *data, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        uint8_t ch = data[i];

        if (!c->raw) {
            c->pending[c->n_pending++] = ch;
        } else if (c->escape) {
            c->escape = false;
            if (ch == 'x') {
                c->quit = true;
                console_stop(c);
            } else if (ch == 'p') {
                kill(c->vmm->pid, SIGPWR); /* the power button */
            } else if (ch == CONSOLE_ESCAPE) {
                c->pending[c->n_pending++] = ch;
            }
        } else if (ch == CONSOLE_ESCAPE) {
            c->escape = true;
        } else {
            c->pending[c->n_pending++] = ch;
        }
    }
}

static void console_in_end(struct console *c)
{
    loop_fd_free(c->in_src);
    c->in_src = NULL;
    c->in_done = true;
    c->in_plain = false;
}

static void console_on_input(void *opaque, uint32_t events);

/* Watch stdin only while there is room, the VM's socket for input to it only while something waits, stdout only while
 * it keeps us waiting, and then the VM has to wait too. */
static void console_watch(struct console *c)
{
    uint32_t socket = (c->n_pending > 0 || c->in_plain ? EPOLLOUT : 0) | (c->n_output ? 0 : EPOLLIN);

    if (!c->in_done && !c->in_plain)
        loop_fd_watch(c->loop, STDIN_FILENO, c->n_pending ? 0 : EPOLLIN, console_on_input, c, &c->in_src);
    if (c->out_src && loop_fd_set(c->out_src, socket) < 0)
        c->n_pending = 0;
    if (c->stdout_src && loop_fd_set(c->stdout_src, c->n_output ? EPOLLOUT : 0) < 0)
        c->n_output = 0;
}

static void console_push(struct console *c)
{
    while (c->n_pending > 0) {
        ssize_t n = send(c->vmm->console, c->pending, c->n_pending, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0) {
            c->n_pending = 0;
            break;
        }
        memmove(c->pending, c->pending + n, c->n_pending - (size_t)n);
        c->n_pending -= (size_t)n;
    }
}

static void console_on_input(void *opaque, uint32_t events)
{
    struct console *c = opaque;
    uint8_t data[CONSOLE_CHUNK];
    ssize_t n;

    (void)events;
    if (c->n_pending == 0) {
        n = read(STDIN_FILENO, data, sizeof(data));
        if (n > 0)
            console_typed(c, data, (size_t)n);
        else if (n == 0 || (errno != EINTR && errno != EAGAIN))
            console_in_end(c);
    }
    console_push(c);
    console_watch(c);
}

static void console_on_output(void *opaque, uint32_t events)
{
    struct console *c = opaque;

    if (events & EPOLLIN && c->n_output == 0) {
        ssize_t n = recv(c->vmm->console, c->output, sizeof(c->output), MSG_DONTWAIT);

        c->n_output = n > 0 ? (size_t)n : 0;
        console_put(c);
    }
    if (events & EPOLLOUT) {
        console_push(c);
        if (c->in_plain)
            console_on_input(c, 0);
    }
    if (events & (EPOLLHUP | EPOLLERR) && !(events & EPOLLIN)) {
        loop_fd_free(c->out_src);
        c->out_src = NULL;
    }
    console_watch(c);
}

static void console_on_stdout(void *opaque, uint32_t events)
{
    struct console *c = opaque;

    console_put(c);
    if (events & (EPOLLHUP | EPOLLERR)) {
        /* A closed pipe says so again and again; writes find out by themselves, and poll does not hold them up. */
        loop_fd_free(c->stdout_src);
        c->stdout_src = NULL;
    }
    console_watch(c);
}

static void console_on_exit(void *opaque, uint32_t events)
{
    struct console *c = opaque;

    (void)events;
    loop_stop(c->loop, 0);
}

static void console_on_signal(void *opaque, uint32_t events)
{
    struct console *c = opaque;
    struct signalfd_siginfo info;

    (void)events;
    if (read(c->signal_fd, &info, sizeof(info)) != sizeof(info))
        return;
    if (info.ssi_signo == SIGTSTP) {
        console_restore(c);
        raise(SIGSTOP);
        console_raw(c);
    } else if (info.ssi_signo == SIGCONT) {
        console_raw(c);
    } else {
        c->signal = (int)info.ssi_signo;
        console_stop(c);
    }
}

/* What the VM wrote before it ended. A slow reader gets the time that it takes, but not where the user wants to leave.
 */
static void console_drain(struct console *c)
{
    struct pollfd out = { .fd = STDOUT_FILENO, .events = POLLOUT },
                  wait[2] = { out, { .fd = c->signal_fd, .events = POLLIN } };
    ssize_t n = 1;

    do {
        bool leave = c->signal || c->quit || poll(&wait[1], 1, 0) > 0;

        if (c->n_output == 0) {
            n = c->vmm->console >= 0 ? recv(c->vmm->console, c->output, sizeof(c->output), MSG_DONTWAIT) : 0;
            c->n_output = n > 0 ? (size_t)n : 0;
        } else if (leave && poll(&out, 1, 0) <= 0) {
            return;
        } else if (!leave) {
            poll(wait, 2, -1);
        }
        console_put(c);
    } while (c->n_output > 0 || n > 0);
}

static int console_setup(struct console *c)
{
    static const int signals[] = { SIGINT, SIGTERM, SIGHUP, SIGTSTP, SIGCONT };
    int r;

    /* A reader that goes away is no reason to leave the terminal raw and the VM without a console. */
    sys_signals_no_pipe();
    c->signal_fd = sys_signals_open(signals, ARRAY_SIZE(signals));
    if (c->signal_fd < 0)
        return c->signal_fd;
    r = loop_new(&c->loop);
    if (r >= 0)
        r = loop_fd_add(c->loop, c->signal_fd, EPOLLIN, console_on_signal, c, &c->signal_src);
    if (r >= 0)
        r = loop_fd_add(c->loop, c->vmm->pidfd, EPOLLIN, console_on_exit, c, &c->pid_src);
    if (r < 0 || c->vmm->console < 0)
        return r;
    console_raw(c);
    r = loop_fd_add(c->loop, STDIN_FILENO, EPOLLIN, console_on_input, c, &c->in_src);
    if (r == -EPERM)
        c->in_plain = true;
    else if (r < 0)
        return r;
    r = loop_fd_add(c->loop, STDOUT_FILENO, 0, console_on_stdout, c, &c->stdout_src);
    if (r < 0 && r != -EPERM && r != -EBADF) /* a file, which is always ready; closed */
        return r;
    return loop_fd_add(c->loop, c->vmm->console, EPOLLIN | (c->in_plain ? EPOLLOUT : 0), console_on_output, c,
                       &c->out_src);
}

int cli_console_run(struct inst_vmm *vmm, struct err *e)
{
    struct console c = { .vmm = vmm, .signal_fd = -1 };
    int r = console_setup(&c), status = 0;

    if (r >= 0)
        r = loop_run(c.loop);
    if (r < 0)
        kill(vmm->pid, SIGKILL);
    while (waitpid(vmm->pid, &status, 0) < 0 && errno == EINTR) {
    }
    console_drain(&c);
    console_restore(&c);
    loop_free(c.loop);
    base_closep(&c.signal_fd);
    base_closep(&vmm->console);
    base_closep(&vmm->pidfd);
    if (r < 0) {
        err_set(e, -r, "console: %s", strerror(-r));
        return cli_fail(e);
    }
    if (c.signal)
        return 128 + c.signal;
    if (c.quit)
        return EXIT_CODE_OK;
    if (WIFEXITED(status))
        return WEXITSTATUS(status);
    fprintf(stderr,
            "caisson: the VM's process was ended by signal %d (%s); its disks are as the guest last flushed them\n",
            WTERMSIG(status), strsignal(WTERMSIG(status)));
    return EXIT_CODE_FAILED;
}
