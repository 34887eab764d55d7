#include "sys/signals.h"

#include <errno.h>
#include <signal.h>
#include <sys/signalfd.h>

int sys_signals_open(const int *signals, size_t n)
{
    sigset_t set;
    int fd, r;

    sigemptyset(&set);
    for (size_t i = 0; i < n; i++)
        sigaddset(&set, signals[i]);
    r = pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (r != 0)
        return -r;
    fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return fd < 0 ? -errno : fd;
}

void sys_signals_no_pipe(void)
{
    signal(SIGPIPE, SIG_IGN); /* check: allow(banned:signal) no handler, so nothing is unclear about it */
}
