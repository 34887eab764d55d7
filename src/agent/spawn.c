#include "agent/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#include "agent/user.h"
#include "base/cleanup.h"
#include "proto/agent_msg.h"

#define SPAWN_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* The child's ends. */
struct spawn_ends {
    int in, out, err;
    int report; /* errno is written here where the program cannot be started */
};

/* What failed, for the error's text. */
enum spawn_step { SPAWN_SETUP, SPAWN_USER, SPAWN_CWD, SPAWN_EXEC };

struct spawn_report {
    int code;
    enum spawn_step step;
};

/* ---- in the child ---- */

static _Noreturn void spawn_fail(int report, enum spawn_step step)
{
    const struct spawn_report r = { .code = errno, .step = step };
    ssize_t n = write(report, &r, sizeof(r));

    (void)n;
    _exit(127);
}

static int spawn_environment(const struct agent_request *q, const struct agent_user *u)
{
    if (clearenv() != 0 || setenv("PATH", SPAWN_PATH, 1) < 0 || setenv("HOME", u->home, 1) < 0 ||
        setenv("SHELL", u->shell, 1) < 0 || (u->name[0] && setenv("USER", u->name, 1) < 0) ||
        (u->name[0] && setenv("LOGNAME", u->name, 1) < 0) || (q->tty && setenv("TERM", "xterm", 1) < 0))
        return -1;
    for (char **word = q->env; word && *word; word++) {
        /* putenv takes KEY out of the environment where there is no '='. */
        if (putenv(*word) != 0)
            return -1;
    }
    return 0;
}

/* A detached program has none. */
static bool spawn_has_tty(const struct agent_request *q)
{
    return q->tty && !q->detach;
}

static int spawn_descriptors(const struct agent_request *q, const struct spawn_ends *ends)
{
    if (setsid() < 0)
        return -1;
    if (spawn_has_tty(q) && ioctl(ends->in, TIOCSCTTY, 0) < 0)
        return -1;
    if (dup2(ends->in, 0) < 0 || dup2(ends->out, 1) < 0 || dup2(ends->err, 2) < 0)
        return -1;
    return 0;
}

static void spawn_signals(void)
{
    const struct sigaction standard = { .sa_handler = SIG_DFL };
    sigset_t none;

    for (int s = 1; s < NSIG; s++)
        (void)sigaction(s, &standard, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static _Noreturn void spawn_child(const struct agent_request *q, char *const *argv, const struct agent_user *u,
                                  const struct spawn_ends *ends)
{
    if (spawn_descriptors(q, ends) < 0 || spawn_environment(q, u) < 0)
        spawn_fail(ends->report, SPAWN_SETUP);
    spawn_signals();
    if (spawn_has_tty(q))
        (void)fchown(0, u->uid, (gid_t)-1);
    if (geteuid() == 0 && (setgroups(u->n_groups, u->groups) < 0 || setgid(u->gid) < 0 || setuid(u->uid) < 0))
        spawn_fail(ends->report, SPAWN_USER);
    if (q->cwd ? chdir(q->cwd) < 0 : chdir(u->home) < 0 && chdir("/") < 0)
        spawn_fail(ends->report, SPAWN_CWD);
    execvp(argv[0], argv);
    spawn_fail(ends->report, SPAWN_EXEC);
}

/* ---- in the agent ---- */

static int spawn_pipe(int *ret_read, int *ret_write)
{
    int p[2];

    if (pipe2(p, O_CLOEXEC) < 0)
        return -errno;
    *ret_read = p[0];
    *ret_write = p[1];
    return 0;
}

static int spawn_terminal(const struct agent_request *q, struct agent_child *c, struct spawn_ends *ends)
{
    const struct winsize size = { .ws_row = q->rows, .ws_col = q->cols };
    char name[64];

    c->tty = true;
    c->in = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (c->in < 0 || grantpt(c->in) < 0 || unlockpt(c->in) < 0 || ptsname_r(c->in, name, sizeof(name)) != 0)
        return -errno;
    if (q->rows > 0 && q->cols > 0)
        (void)ioctl(c->in, TIOCSWINSZ, &size);
    c->out = fcntl(c->in, F_DUPFD_CLOEXEC, 3);
    ends->in = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    ends->out = ends->in >= 0 ? fcntl(ends->in, F_DUPFD_CLOEXEC, 3) : -1;
    ends->err = ends->in >= 0 ? fcntl(ends->in, F_DUPFD_CLOEXEC, 3) : -1;
    return c->out < 0 || ends->err < 0 || ends->out < 0 ? -errno : 0;
}

static int spawn_pipes(const struct agent_request *q, struct agent_child *c, struct spawn_ends *ends)
{
    int r = 0;

    if (q->stdin_open && !q->detach)
        r = spawn_pipe(&ends->in, &c->in);
    else
        ends->in = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (r == 0 && q->detach) {
        ends->out = open("/dev/null", O_WRONLY | O_CLOEXEC);
        ends->err = open("/dev/null", O_WRONLY | O_CLOEXEC);
    } else if (r == 0) {
        r = spawn_pipe(&c->out, &ends->out);
        if (r == 0)
            r = spawn_pipe(&c->err, &ends->err);
    }
    if (r == 0 && (ends->in < 0 || ends->out < 0 || ends->err < 0))
        r = -errno;
    return r;
}

static void spawn_unblock(int fd)
{
    if (fd >= 0)
        (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static int spawn_report_error(const struct spawn_report *r, const struct agent_request *q, char *const *argv,
                              struct err *e)
{
    switch (r->step) {
    case SPAWN_USER:
        return err_set(e, r->code, "user %s: cannot become that user in the guest: %s", q->user ? q->user : "root",
                       strerror(r->code));
    case SPAWN_CWD:
        return err_set(e, r->code, "directory %s of the guest: %s", q->cwd ? q->cwd : "/", strerror(r->code));
    case SPAWN_SETUP:
        return err_set(e, r->code, "cannot prepare a process of the guest: %s", strerror(r->code));
    case SPAWN_EXEC:
        break;
    }
    return err_set(e, r->code, "%s: %s in the guest", argv[0],
                   r->code == ENOENT ? "there is no such program" : strerror(r->code));
}

static int spawn_run(const struct agent_request *q, char *const *argv, const struct agent_user *u,
                     struct spawn_ends *ends, struct agent_child *c, struct err *e)
{
    struct spawn_report report;
    AUTO_FD int told = -1;
    ssize_t n;
    int r = spawn_pipe(&told, &ends->report);

    c->pid = r < 0 ? -1 : fork();
    if (c->pid < 0)
        return err_set(e, errno, "cannot make a process in the guest: %s", strerror(errno));
    if (c->pid == 0)
        spawn_child(q, argv, u, ends);
    base_closep(&ends->report);
    ends->report = -1;
    n = read(told, &report, sizeof(report));
    if (n == (ssize_t)sizeof(report))
        return spawn_report_error(&report, q, argv, e);
    c->pidfd = (int)syscall(SYS_pidfd_open, c->pid, 0);
    if (c->pidfd < 0)
        return err_set(e, errno, "the guest's kernel is too old: %s", strerror(errno));
    return 0;
}

int agent_spawn(const struct agent_request *q, char *const *argv, struct agent_child *ret, struct err *e)
{
    struct agent_child c = { .pid = -1, .pidfd = -1, .in = -1, .out = -1, .err = -1 };
    struct spawn_ends ends = { -1, -1, -1, -1 };
    struct agent_user u;
    int r = agent_user_find(q->user, &u, e);

    if (r < 0)
        return r;
    r = spawn_has_tty(q) ? spawn_terminal(q, &c, &ends) : spawn_pipes(q, &c, &ends);
    if (r < 0)
        r = err_set(e, -r, "cannot prepare a process of the guest: %s", strerror(-r));
    else
        r = spawn_run(q, argv, &u, &ends, &c, e);
    base_closep(&ends.in);
    base_closep(&ends.out);
    base_closep(&ends.err);
    base_closep(&ends.report);
    if (r < 0) {
        agent_child_close(&c);
        return r;
    }
    spawn_unblock(c.in);
    spawn_unblock(c.out);
    spawn_unblock(c.err);
    *ret = c;
    return 0;
}

void agent_child_close(struct agent_child *c)
{
    base_closep(&c->pidfd);
    base_closep(&c->in);
    base_closep(&c->out);
    base_closep(&c->err);
    c->pidfd = c->in = c->out = c->err = -1;
}
