/* The verbs that act on a container by its state alone. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fdio.h"
#include "oci/cgroup.h"
#include "oci/container.h"
#include "oci/log.h"
#include "oci/main.h"
#include "oci/path.h"
#include "oci/sync.h"

#define LOCK_WAIT_MS 10000
#define HANDLER_WAIT_MS 500

int oci_print(const struct buf *b, struct err *e)
{
    int r;

    if (buf_error(b) < 0)
        return err_set(e, -buf_error(b), "cannot print: %s", strerrordesc_np(-buf_error(b)));
    r = fd_write_all(STDOUT_FILENO, b->data, b->len);
    return r < 0 ? err_set(e, -r, "standard output: %s", strerrordesc_np(-r)) : 0;
}

int oci_verb_state(const struct oci_args *a, struct err *e)
{
    AUTO(oci_state) struct oci_state *s = NULL;
    struct buf b;
    int r = oci_state_open(a, a->argv[0], &s, e);

    if (r < 0)
        return r;
    buf_init(&b, OCI_STATE_MAX);
    oci_state_json(s, oci_container_status(s), true, &b);
    r = oci_print(&b, e);
    buf_done(&b);
    return r;
}

/* ---- start ---- */

static int start_connect(const struct oci_state *s, struct err *e)
{
    AUTO_FD int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    struct sockaddr_un sa = { .sun_family = AF_UNIX };

    snprintf(sa.sun_path, sizeof(sa.sun_path), "/proc/self/fd/%d/" OCI_STATE_SOCKET, s->dir_fd);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&sa, sizeof(sa)) < 0)
        return err_set(e, errno, "container %s: its first process does not answer: %m", s->id);
    /* From now on it counts as started: nobody else can. */
    if (unlinkat(s->dir_fd, OCI_STATE_SOCKET, 0) < 0)
        return err_set(e, errno, "container %s: %m", s->id);
    return STEAL_FD(fd);
}

/* The descriptor closes with execve: nothing more to read is success. */
static int start_wait_exec(int fd, struct err *e)
{
    int r = oci_sync_send(fd, OCI_SYNC_START, 0);

    if (r < 0)
        return err_set(e, -r, "the container's first process has gone");
    r = oci_sync_wait(fd, OCI_SYNC_ERROR, NULL, e);
    return r == -EPIPE || r == -ECONNRESET ? 0 : r;
}

int oci_verb_start(const struct oci_args *a, struct err *e)
{
    AUTO(oci_state) struct oci_state *s = NULL;
    AUTO_FD int fd = -1;
    struct err hook = { 0 };
    enum oci_status status;
    int r = oci_state_open(a, a->argv[0], &s, e);

    if (r == 0)
        r = oci_state_lock(s, LOCK_WAIT_MS, e);
    if (r < 0)
        return r;
    status = oci_container_status(s);
    if (status != OCI_CREATED)
        return err_set(e, EINVAL, "cannot start %s container %s: it must be created",
                       status == OCI_STOPPED   ? "a stopped"
                       : status == OCI_PAUSED  ? "a paused"
                       : status == OCI_RUNNING ? "an already running"
                                               : "a creating",
                       s->id);
    fd = start_connect(s, e);
    if (fd < 0)
        return fd;
    r = start_wait_exec(fd, e);
    if (r < 0)
        return r;
    if (oci_container_hooks(s, OCI_HOOK_POSTSTART, OCI_RUNNING, &hook) < 0)
        oci_log_warn(a, hook.text);
    return 0;
}

/* ---- kill, delete ---- */

/* Whether the process does something of its own for a signal. */
static bool kill_is_handled(pid_t pid, int signal)
{
    static const char *const names[] = { "SigIgn:\t", "SigCgt:\t" };
    AUTO_FREE char *text = NULL;
    char path[32];
    size_t len;

    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    if (oci_path_read(AT_FDCWD, path, 1 << 16, &text, &len) < 0)
        return true; /* gone */
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        static const char hex[] = "0123456789abcdef";
        const char *mask = strstr(text, names[i]), *digit;
        const size_t at = (size_t)(signal - 1) / 4; /* of the digits, from the right */

        mask = mask ? mask + strlen(names[i]) : "";
        len = strspn(mask, hex);
        digit = at < len ? strchr(hex, mask[len - 1 - at]) : NULL;
        if (digit && (digit - hex) >> (signal - 1) % 4 & 1)
            return true;
    }
    return false;
}

/* The first process of a pid namespace does not get a signal for which it has no handler: the kernel drops it. A
 * program that was started a moment ago may be just about to set one, so it gets that moment. */
static void kill_await_handler(const struct oci_state *s, int pidfd, int signal)
{
    const struct timespec pause = { .tv_nsec = 2000000 };
    struct pollfd p = { .fd = pidfd, .events = POLLIN };
    struct timespec now;
    struct stat st;

    if (!(s->namespaces & (1u << OCI_NS_PID)) || signal == 0 || signal == SIGKILL || signal == SIGSTOP ||
        oci_state_status(s) != OCI_RUNNING)
        return;
    do {
        int64_t age_ms;

        /* `start` removes its socket from the container's directory, and nothing else happens there afterwards. */
        if (fstat(s->dir_fd, &st) < 0 || clock_gettime(CLOCK_REALTIME, &now) < 0)
            return;
        age_ms = (now.tv_sec - st.st_mtim.tv_sec) * 1000 + (now.tv_nsec - st.st_mtim.tv_nsec) / 1000000;
        if (age_ms < 0 || age_ms > HANDLER_WAIT_MS || kill_is_handled(s->pid, signal))
            return;
        nanosleep(&pause, NULL);
    } while (poll(&p, 1, 0) == 0);
}

int oci_verb_kill(const struct oci_args *a, struct err *e)
{
    AUTO(oci_state) struct oci_state *s = NULL;
    AUTO(oci_cgroup) struct oci_cgroup *g = NULL;
    AUTO_FD int fd = -1;
    int signal = SIGTERM, r = a->argc > 1 ? oci_signal_parse(a->argv[1], &signal, e) : 0;

    if (r == 0)
        r = oci_state_open(a, a->argv[0], &s, e);
    if (r == 0)
        r = oci_state_cgroup(s, &g, e);
    if (r < 0)
        return r;
    if (oci_flag(a, OCI_OPT_ALL) && g)
        r = oci_cgroup_kill(g, signal, e);
    if (r < 0)
        return r;
    fd = oci_container_pidfd(s);
    if (fd < 0)
        return oci_flag(a, OCI_OPT_ALL) ? 0 : err_set(e, ESRCH, "container not running: %s", s->id);
    kill_await_handler(s, fd, signal);
    /* A frozen process dies only when it is thawed; without a pid namespace of its own it does not take the others
     * along. */
    if (pidfd_send_signal(fd, signal, NULL, 0) < 0 && errno != ESRCH)
        return err_set(e, errno, "container %s: signal %d: %m", s->id, signal);
    if (signal != SIGKILL || !g)
        return 0;
    if (!(s->namespaces & (1u << OCI_NS_PID)))
        r = oci_cgroup_kill(g, signal, e);
    return r == 0 && oci_cgroup_frozen(g) > 0 ? oci_cgroup_freeze(g, false, e) : r;
}

int oci_verb_delete(const struct oci_args *a, struct err *e)
{
    AUTO(oci_state) struct oci_state *s = NULL;
    const bool force = oci_flag(a, OCI_OPT_FORCE);
    enum oci_status status;
    int r = oci_state_open(a, a->argv[0], &s, e);

    if (r == -ENOENT && force)
        return 0;
    if (r < 0)
        return r;
    status = oci_container_status(s);
    if (!force && status != OCI_STOPPED && status != OCI_CREATED)
        return err_set(e, EBUSY, "cannot delete container %s that is not stopped: %s: use --force", s->id,
                       oci_status_name(status));
    if (force && status == OCI_CREATING)
        r = oci_container_kill_all(s, e);
    if (r == 0)
        r = oci_state_lock(s, LOCK_WAIT_MS, e);
    if (r == -ENOENT && force)
        return 0;
    /* Stopped, too: without a pid namespace others may live on. */
    if (r == 0 && (status != OCI_STOPPED || !(s->namespaces & (1u << OCI_NS_PID))))
        r = oci_container_kill_all(s, e);
    return r == 0 ? oci_container_destroy(a, s, e) : r;
}

/* ---- pause, resume ---- */

static int verb_freeze(const struct oci_args *a, bool freeze, struct err *e)
{
    AUTO(oci_state) struct oci_state *s = NULL;
    AUTO(oci_cgroup) struct oci_cgroup *g = NULL;
    enum oci_status status;
    int r = oci_state_open(a, a->argv[0], &s, e);

    if (r == 0)
        r = oci_state_lock(s, LOCK_WAIT_MS, e);
    if (r == 0)
        r = oci_state_cgroup(s, &g, e);
    if (r < 0)
        return r;
    status = oci_container_status(s);
    if (freeze ? status != OCI_RUNNING && status != OCI_CREATED : status != OCI_PAUSED)
        return err_set(e, EINVAL, "container %s is %s: only %s can be %s", s->id, oci_status_name(status),
                       freeze ? "a running one" : "a paused one", freeze ? "paused" : "resumed");
    if (!g)
        return err_set(e, ENOTSUP, "container %s has no control group to be frozen by", s->id);
    return oci_cgroup_freeze(g, freeze, e);
}

int oci_verb_pause(const struct oci_args *a, struct err *e)
{
    return verb_freeze(a, true, e);
}

int oci_verb_resume(const struct oci_args *a, struct err *e)
{
    return verb_freeze(a, false, e);
}
