#include "cli/cancel.h"

#include <errno.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

int cli_cancel_begin(struct cli_cancel *c, struct err *e)
{
    sigset_t set;

    *c = (struct cli_cancel){ .fd = -1 };
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    c->fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    if (c->fd < 0)
        return err_set(e, errno, "cannot watch for Ctrl-C: signalfd: %s", strerror(errno));
    sigprocmask(SIG_BLOCK, &set, &c->before);
    return 0;
}

int cli_cancel_poll(struct cli_cancel *c)
{
    struct signalfd_siginfo info;

    if (c->signal == 0 && read(c->fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
        c->signal = (int)info.ssi_signo;
    return c->signal;
}

int cli_cancel_end(struct cli_cancel *c, int code)
{
    int signal = cli_cancel_poll(c);
    struct signalfd_siginfo info;

    while (read(c->fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) /* what is pending would be deadly below */
        ;
    close(c->fd);
    sigprocmask(SIG_SETMASK, &c->before, NULL);
    return signal && code ? 128 + signal : code;
}
