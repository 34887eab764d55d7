#include "agent/main.h"

#include <errno.h>
#include <linux/vm_sockets.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/session.h"
#include "base/cleanup.h"
#include "proto/agent_msg.h"

enum { AGENT_SESSIONS_MAX = 128, AGENT_BACKLOG = 64, AGENT_TRIES = 60, AGENT_RETRY_MS = 1000 };

static int agent_listen(int family, const struct sockaddr *addr, socklen_t len)
{
    AUTO_FD int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0 || bind(fd, addr, len) < 0 || listen(fd, AGENT_BACKLOG) < 0)
        return -errno;
    return STEAL_FD(fd);
}

/* The kernel's modules may be on their way. */
static int agent_listen_vsock(void)
{
    const struct sockaddr_vm addr = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = AGENT_PORT };
    int fd = -1;

    for (unsigned i = 0; i < AGENT_TRIES; i++) {
        fd = agent_listen(AF_VSOCK, (const struct sockaddr *)&addr, sizeof(addr));
        if (fd != -EAFNOSUPPORT && fd != -EADDRNOTAVAIL)
            return fd;
        (void)poll(NULL, 0, AGENT_RETRY_MS);
    }
    return fd;
}

static int agent_listen_unix(const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };

    if (strlen(path) >= sizeof(addr.sun_path))
        return -ENAMETOOLONG;
    memcpy(addr.sun_path, path, strlen(path) + 1);
    return agent_listen(AF_UNIX, (const struct sockaddr *)&addr, sizeof(addr));
}

/* A caller: the host alone, not what the guest itself sends over its loopback. -1: nobody. */
static int agent_accept(int listener)
{
    struct sockaddr_vm peer = { 0 };
    socklen_t len = sizeof(peer);
    AUTO_FD int fd = accept4(listener, (struct sockaddr *)&peer, &len, SOCK_CLOEXEC);

    if (fd >= 0 && peer.svm_family == AF_VSOCK && peer.svm_cid != VMADDR_CID_HOST)
        return -1;
    return STEAL_FD(fd);
}

/* A child for the connection; the session's own children must not become ours, so it may lose them only by dying. */
static bool agent_serve(int listener, int signals)
{
    AUTO_FD int fd = agent_accept(listener);
    pid_t pid = fd >= 0 ? fork() : -1;
    sigset_t none;

    if (pid != 0)
        return pid > 0;
    close(listener);
    close(signals);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    agent_session(fd);
    _exit(0);
}

static int agent_loop(int listener, int signals)
{
    unsigned sessions = 0;

    for (;;) {
        struct pollfd p[2] = { { .fd = signals, .events = POLLIN },
                               { .fd = sessions < AGENT_SESSIONS_MAX ? listener : -1, .events = POLLIN } };
        struct signalfd_siginfo info;

        if (poll(p, 2, -1) < 0 && errno != EINTR)
            return 1;
        if (p[1].revents)
            sessions += agent_serve(listener, signals);
        if (p[0].revents && read(signals, &info, sizeof(info)) == sizeof(info) && info.ssi_signo == SIGTERM)
            return 0;
        while (sessions > 0 && waitpid(-1, NULL, WNOHANG) > 0)
            sessions--;
    }
}

int agent_main(int argc, char **argv)
{
    AUTO_FD int listener = -1, signals = -1;
    sigset_t set;

    if (argc != 1 && (argc != 3 || strcmp(argv[1], "--unix") != 0)) {
        fprintf(stderr, "usage: caisson-agent [--unix PATH]\n");
        return 2;
    }
    (void)sigaction(SIGPIPE, &(struct sigaction){ .sa_handler = SIG_IGN }, NULL);
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    listener = argc == 3 ? agent_listen_unix(argv[2]) : agent_listen_vsock();
    if (listener < 0 || signals < 0) {
        fprintf(stderr, "caisson-agent: cannot listen: %s; load the kernel's module vmw_vsock_virtio_transport\n",
                strerror(listener < 0 ? -listener : errno));
        return 1;
    }
    return agent_loop(listener, signals);
}
