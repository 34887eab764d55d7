#include "net/nat_nft.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/fdio.h"
#include "base/log.h"
#include "net/nat_host.h"

#define NET_NFT_WAIT_MS 15000
#define NET_NFT_TURN_MS 8000 /* for an earlier keeper to end */
#define NET_NFT_STEP_MS 20

enum net_nft_op { NET_NFT_ADD, NET_NFT_REMOVE };

struct net_nft_request {
    enum net_nft_op op;
    struct net_nat_forward forward;
};

struct net_nft {
    int fd;
    pid_t pid;
};

/* ---- the process that may change rules ---- */

struct net_nft_keeper {
    struct net_nat_network n;
    struct net_nat_forward forwards[NET_NAT_FORWARDS_MAX];
    int fds[NET_NAT_FORWARDS_MAX]; /* sockets that keep the host's ports from other use; -1: none */
    unsigned n_forwards;
};

/* nft -j -f -, without a shell and from the system's folders only. */
static int net_nft_spawn(int in, pid_t *ret_pid)
{
    static const char *const places[] = { "/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft" };
    char *argv[] = { (char[]){ "nft" }, (char[]){ "-j" }, (char[]){ "-f" }, (char[]){ "-" }, NULL };
    char *env[] = { (char[]){ "LC_ALL=C" }, NULL };
    posix_spawn_file_actions_t actions;
    int res = posix_spawn_file_actions_init(&actions);

    if (res != 0)
        return -res;
    res = posix_spawn_file_actions_adddup2(&actions, in, STDIN_FILENO);
    if (res == 0 && !log_enabled(LOG_DEBUG)) {
        res = posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
        if (res == 0)
            res = posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
    }
    for (size_t i = 0; res == 0 && i < ARRAY_SIZE(places); i++) {
        if (access(places[i], X_OK) < 0)
            continue;
        res = posix_spawn(ret_pid, places[i], &actions, NULL, argv, env);
        posix_spawn_file_actions_destroy(&actions);
        return -res;
    }
    posix_spawn_file_actions_destroy(&actions);
    return res ? -res : -ENOENT;
}

static int net_nft_run(const struct buf *text)
{
    int pipe_fds[2], status, res = buf_error(text);
    pid_t pid;

    if (res == 0 && pipe2(pipe_fds, O_CLOEXEC) < 0)
        res = -errno;
    if (res < 0)
        return res;
    res = net_nft_spawn(pipe_fds[0], &pid);
    close(pipe_fds[0]);
    if (res == 0)
        (void)!fd_write_all(pipe_fds[1], text->data, text->len); /* nft\'s exit status says the rest */
    close(pipe_fds[1]);
    if (res < 0)
        return res;
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            return -errno;
    }
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
}

static int net_nft_apply(const struct net_nft_keeper *k)
{
    struct buf text;
    int res;

    buf_init(&text, NET_NAT_RULES_MAX);
    net_nat_rules(&text, &k->n, k->forwards, k->n_forwards);
    res = net_nft_run(&text);
    buf_done(&text);
    return res;
}

static int net_nft_clear(const struct net_nft_keeper *k)
{
    struct buf text;
    int res;

    buf_init(&text, NET_NAT_RULES_MAX);
    net_nat_rules_none(&text, k->n.name);
    res = net_nft_run(&text);
    buf_done(&text);
    return res;
}

static int net_nft_add(struct net_nft_keeper *k, const struct net_nat_forward *f)
{
    int res = net_nat_forward_check(&k->n, f), fd;

    for (unsigned i = 0; i < k->n_forwards && res == 0; i++)
        res = net_nat_forward_collides(&k->forwards[i], f) ? -EEXIST : 0;
    if (res == 0 && k->n_forwards == NET_NAT_FORWARDS_MAX)
        res = -ENOSPC;
    if (res < 0)
        return res;
    fd = net_nat_host_reserve(f);
    if (fd < 0)
        return fd;
    k->forwards[k->n_forwards] = *f;
    k->fds[k->n_forwards++] = fd;
    res = net_nft_apply(k);
    if (res < 0) {
        k->n_forwards--;
        close(fd);
    }
    return res;
}

static int net_nft_remove(struct net_nft_keeper *k, const struct net_nat_forward *f)
{
    for (unsigned i = 0; i < k->n_forwards; i++) {
        struct net_nat_forward *g = &k->forwards[i];

        if (!net_nat_forward_same_host(g, f))
            continue;
        close(k->fds[i]);
        k->n_forwards--;
        *g = k->forwards[k->n_forwards];
        k->fds[i] = k->fds[k->n_forwards];
        return net_nft_apply(k);
    }
    return -ENOENT;
}

/* Wait for the keeper of a process that was killed: it takes the table away, and has our ports until then. Who is at
 * work has an abstract socket of the network's name, which is of the network namespace as the table is, and goes with
 * the process. Returns the socket; -1: somebody holds on to the name, and the table is replaced all the same. */
static int net_nft_turn(const struct net_nft_keeper *k)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int len = snprintf(addr.sun_path + 1, sizeof(addr.sun_path) - 1, "caisson-nft-%s", k->n.name);

    for (int waited = 0; fd >= 0 && waited < NET_NFT_TURN_MS; waited += NET_NFT_STEP_MS) {
        if (bind(fd, (struct sockaddr *)&addr, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)len)) ==
            0)
            return fd;
        if (errno != EADDRINUSE)
            break;
        poll(NULL, 0, NET_NFT_STEP_MS);
    }
    if (fd >= 0)
        close(fd);
    return -1;
}

/* Serve until the other end is gone. */
static void net_nft_keep(struct net_nft_keeper *k, int fd)
{
    AUTO_FD int turn = net_nft_turn(k);
    struct net_nft_request r;
    int res = net_nft_apply(k);

    while (send(fd, &res, sizeof(res), MSG_NOSIGNAL) == sizeof(res)) {
        ssize_t n;

        do
            n = recv(fd, &r, sizeof(r), 0);
        while (n < 0 && errno == EINTR);
        if (n <= 0)
            break;
        /* What asks is not trusted: numbers as they are, checked in net_nft_add. */
        r.forward.udp = r.forward.udp != 0;
        r.forward.ip6 = r.forward.ip6 != 0;
        if (n != sizeof(r))
            res = -EINVAL;
        else
            res = r.op == NET_NFT_ADD ? net_nft_add(k, &r.forward) : net_nft_remove(k, &r.forward);
    }
    res = net_nft_clear(k);
    if (res < 0)
        log_debug("net: table of %s not removed: %s", k->n.name, strerrordesc_np(-res));
}

/* Nothing of the parent's stays open in the keeper: descriptors that it holds would keep others from noticing the
 * parent's end. */
static int net_nft_take_over(int fd)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    for (int i = STDIN_FILENO; i <= STDERR_FILENO; i++) {
        if (i != STDERR_FILENO || !log_enabled(LOG_DEBUG))
            (void)dup2(null, i);
    }
    return dup2(fd, 3) == 3 && close_range(4, UINT32_MAX, 0) == 0 && fcntl(3, F_SETFD, FD_CLOEXEC) == 0 ? 3 : -1;
}

/* Of root's powers it keeps those over networks and low ports, and so does nft. Best effort: it is trusted in any case.
 */
static void net_nft_limit(void)
{
    const uint64_t keep = BIT64(CAP_NET_ADMIN) | BIT64(CAP_NET_BIND_SERVICE);
    struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct data[2] = { { (uint32_t)keep, (uint32_t)keep, 0 }, { 0, 0, 0 } };

    for (unsigned cap = 0; cap < 64; cap++) {
        if (!(keep & BIT64(cap)))
            (void)prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
    }
    (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (syscall(SYS_capset, &header, data) < 0)
        log_debug("net: capabilities of the nft process stay as they are: %m");
}

_Noreturn static void net_nft_child(const struct net_nat_network *n, int fd)
{
    struct net_nft_keeper *k = calloc(1, sizeof(*k));
    sigset_t set;

    sigfillset(&set); /* the end of the socket is what ends it: a Ctrl-C in the terminal is not */
    sigprocmask(SIG_SETMASK, &set, NULL);
    prctl(PR_SET_NAME, "caisson-nft");
    net_nft_limit();
    if (net_nft_take_over(fd) == 3 && k) {
        k->n = *n;
        net_nft_keep(k, 3);
    }
    free(k);
    _exit(0);
}

/* ---- the other side ---- */

/* The answer to a request; its number is -errno or 0. */
static int net_nft_answer(struct net_nft *nft)
{
    struct pollfd p = { .fd = nft->fd, .events = POLLIN };
    int res;
    ssize_t n;

    do
        n = poll(&p, 1, NET_NFT_WAIT_MS);
    while (n < 0 && errno == EINTR);
    if (n <= 0)
        return n < 0 ? -errno : -ETIMEDOUT;
    n = recv(nft->fd, &res, sizeof(res), MSG_DONTWAIT);
    if (n == sizeof(res))
        return res;
    return n < 0 ? -errno : -EPIPE;
}

static int net_nft_ask(struct net_nft *nft, enum net_nft_op op, const struct net_nat_forward *f)
{
    struct net_nft_request r;

    memset(&r, 0, sizeof(r)); /* padding goes to another process */
    r.op = op;
    r.forward = *f;
    if (send(nft->fd, &r, sizeof(r), MSG_NOSIGNAL) != sizeof(r))
        return -errno;
    return net_nft_answer(nft);
}

int net_nft_forward_add(struct net_nft *nft, const struct net_nat_forward *f)
{
    return net_nft_ask(nft, NET_NFT_ADD, f);
}

int net_nft_forward_remove(struct net_nft *nft, const struct net_nat_forward *f)
{
    return net_nft_ask(nft, NET_NFT_REMOVE, f);
}

static int net_nft_fork(struct net_nft *nft, const struct net_nat_network *n)
{
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
        return -errno;
    nft->pid = fork();
    if (nft->pid == 0)
        net_nft_child(n, fds[1]);
    close(fds[1]);
    nft->fd = fds[0];
    return nft->pid < 0 ? -errno : 0;
}

int net_nft_new(const struct net_nat_network *n, const uint8_t mac[6], unsigned *ret_changed,
                enum net_nft_step *ret_step, struct net_nft **ret_nft)
{
    struct net_nft *nft;
    int res = net_nat_network_check(n);

    *ret_changed = 0;
    *ret_step = NET_NFT_CONFIG;
    if (res < 0)
        return res;
    *ret_step = NET_NFT_ADDRESS;
    res = net_nat_host_address(n, mac);
    if (res < 0)
        return res;
    *ret_step = NET_NFT_SYSCTL;
    res = net_nat_host_forwarding(n->subnet.prefix != 0, n->subnet6.prefix != 0, ret_changed);
    if (res < 0)
        return res;
    *ret_step = NET_NFT_PROCESS;
    nft = calloc(1, sizeof(*nft));
    if (!nft)
        return -ENOMEM;
    nft->fd = -1;
    res = net_nft_fork(nft, n);
    if (res == 0) {
        *ret_step = NET_NFT_RULES;
        res = net_nft_answer(nft); /* of the first net_nft_apply */
    }
    if (res < 0) {
        net_nft_free(nft);
        return res;
    }
    *ret_nft = nft;
    return 0;
}

void net_nft_free(struct net_nft *nft)
{
    if (!nft)
        return;
    if (nft->fd >= 0)
        close(nft->fd);
    while (nft->pid > 0 && waitpid(nft->pid, NULL, 0) < 0 && errno == EINTR) {
    }
    free(nft);
}
