#include "oci/ns.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <linux/sched.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "oci/path.h"
#include "oci/sync.h"

static bool ns_is_new(const struct oci_launch *l, enum oci_ns ns)
{
    return l->spec->ns[ns].wanted && !l->spec->ns[ns].path;
}

static bool ns_is_joined(const struct oci_launch *l, enum oci_ns ns)
{
    return l->join_fd[ns] >= 0;
}

int oci_ns_open(struct oci_launch *l, struct err *e)
{
    for (unsigned i = 0; i < OCI_NS_KINDS; i++) {
        const struct oci_namespace *ns = &l->spec->ns[i];
        int type;

        if (!ns->path)
            continue;
        l->join_fd[i] = open(ns->path, O_RDONLY | O_CLOEXEC);
        if (l->join_fd[i] < 0)
            return err_set(e, errno, "%s namespace %s: %m", oci_ns_name(i), ns->path);
        type = ioctl(l->join_fd[i], NS_GET_NSTYPE);
        if (type != oci_ns_flag(i))
            return err_set(e, EINVAL, "%s namespace %s: is not a %s namespace", oci_ns_name(i), ns->path,
                           oci_ns_name(i));
    }
    return 0;
}

pid_t oci_clone(uint64_t flags, int cgroup_fd)
{
    struct clone_args args = { .flags = flags | CLONE_CLEAR_SIGHAND, .exit_signal = SIGCHLD };
    long pid;

    if (flags & CLONE_PARENT)
        args.exit_signal = 0;
    if (cgroup_fd >= 0) {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = (uint64_t)cgroup_fd;
    }
    pid = syscall(SYS_clone3, &args, sizeof(args));
    return pid < 0 ? -errno : (pid_t)pid;
}

/* Offsets can be written as long as nobody is in the namespace: before the clone, or before the child's execve. */
static int ns_time_offsets(const struct oci_launch *l, struct err *e)
{
    const struct oci_time_offset *m = &l->spec->monotonic, *b = &l->spec->boottime;
    char text[160] = "";
    AUTO_FD int fd = -1;
    int n = 0, r;

    if (m->present)
        n += snprintf(text, sizeof(text), "monotonic %lld %u\n", (long long)m->secs, m->nanosecs);
    if (b->present)
        n += snprintf(text + n, sizeof(text) - (size_t)n, "boottime %lld %u\n", (long long)b->secs, b->nanosecs);
    if (n == 0)
        return 0;
    /* "self" is a link, and of the host's procfs. */
    fd = openat(l->proc_fd, "self/timens_offsets", O_WRONLY | O_CLOEXEC);
    r = fd < 0 || write(fd, text, (size_t)n) != n ? -errno : 0;
    return r < 0 ? err_set(e, -r, "linux.timeOffsets: %s", strerrordesc_np(-r)) : 0;
}

/* A process' pid and time namespaces are those of its birth: the parent changes what its next child gets. Undone by
 * ns_parent_back. */
static int ns_parent_turn(struct oci_launch *l, struct err *e)
{
    if (ns_is_joined(l, OCI_NS_PID) && setns(l->join_fd[OCI_NS_PID], CLONE_NEWPID) < 0)
        return err_set(e, errno, "pid namespace %s: cannot be joined: %m", l->spec->ns[OCI_NS_PID].path);
    if (ns_is_joined(l, OCI_NS_TIME) && setns(l->join_fd[OCI_NS_TIME], CLONE_NEWTIME) < 0)
        return err_set(e, errno, "time namespace %s: cannot be joined: %m", l->spec->ns[OCI_NS_TIME].path);
    if (ns_is_new(l, OCI_NS_TIME) && !l->spec->ns[OCI_NS_USER].wanted) {
        if (unshare(CLONE_NEWTIME) < 0)
            return err_set(e, errno, "time namespace: %m");
        return ns_time_offsets(l, e);
    }
    return 0;
}

static int ns_parent_back(const struct oci_launch *l, int pid_fd, int time_fd, struct err *e)
{
    if (pid_fd >= 0 && setns(pid_fd, CLONE_NEWPID) < 0)
        return err_set(e, errno, "cannot return to the own pid namespace: %m");
    if (time_fd >= 0 && setns(time_fd, CLONE_NEWTIME) < 0)
        return err_set(e, errno, "cannot return to the own time namespace: %m");
    return 0;
}

static bool ns_needs_two_steps(const struct oci_launch *l)
{
    return ns_is_joined(l, OCI_NS_USER) && ns_is_new(l, OCI_NS_PID);
}

pid_t oci_ns_clone(struct oci_launch *l, int cgroup_fd, struct err *e)
{
    AUTO_FD int pid_fd = -1, time_fd = -1;
    uint64_t flags = 0;
    pid_t pid;
    int r;

    if (ns_is_new(l, OCI_NS_USER))
        flags |= CLONE_NEWUSER;
    if (ns_is_new(l, OCI_NS_PID) && !ns_needs_two_steps(l))
        flags |= CLONE_NEWPID;
    if (ns_is_joined(l, OCI_NS_PID))
        pid_fd = openat(l->proc_fd, "self/ns/pid", O_RDONLY | O_CLOEXEC);
    if (l->spec->ns[OCI_NS_TIME].wanted)
        time_fd = openat(l->proc_fd, "self/ns/time", O_RDONLY | O_CLOEXEC);
    r = ns_parent_turn(l, e);
    if (r < 0)
        return r;
    pid = oci_clone(flags, cgroup_fd);
    if (pid == 0)
        return 0;
    if (pid < 0)
        return err_set(e, -pid, "cannot make the container's process%s: %s", flags ? " and namespaces" : "",
                       strerrordesc_np(-pid));
    r = ns_parent_back(l, pid_fd, time_fd, e);
    return r < 0 ? r : pid;
}

/* ---- mappings ---- */

static void ns_format_map(const struct oci_mappings *m, struct buf *b)
{
    for (size_t i = 0; i < m->n; i++)
        buf_printf(b, "%u %u %u\n", m->v[i].container, m->v[i].host, m->v[i].size);
}

/* newuidmap and newgidmap may write what this user may not; there is no other way for him. */
static int ns_map_by_helper(const char *program, pid_t pid, const struct oci_mappings *m, struct err *e)
{
    char *argv[3 + 3 * 64 + 1], words[1 + 3 * 64][12];
    size_t n = 0, w = 0;
    int status = 0;
    pid_t child;

    if (m->n > 64)
        return err_set(e, E2BIG, "%s: more than 64 mappings", program);
    argv[n++] = (char *)program;
    snprintf(words[w], sizeof(words[w]), "%d", (int)pid);
    argv[n++] = words[w++];
    for (size_t i = 0; i < m->n; i++) {
        const uint32_t numbers[3] = { m->v[i].container, m->v[i].host, m->v[i].size };

        for (unsigned k = 0; k < 3; k++) {
            snprintf(words[w], sizeof(words[w]), "%u", numbers[k]);
            argv[n++] = words[w++];
        }
    }
    argv[n] = NULL;
    child = oci_clone(0, -1);
    if (child == 0) {
        execvp(program, argv);
        _exit(127);
    }
    if (child < 0 || waitpid(child, &status, 0) != child)
        return err_set(e, errno, "%s: cannot be run: %m", program);
    if (status != 0)
        return err_set(e, EPERM, "%s: failed: the mappings must be in /etc/subuid and /etc/subgid", program);
    return 0;
}

static bool ns_maps_only_me(const struct oci_mappings *m, uint32_t id)
{
    return m->n == 1 && m->v[0].size == 1 && m->v[0].host == id;
}

static int ns_write_map(pid_t pid, const char *file, const struct oci_mappings *m, struct err *e)
{
    char path[48];
    struct buf b;
    int r;

    buf_init(&b, 1 << 16);
    ns_format_map(m, &b);
    buf_append(&b, "", 1);
    snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
    r = buf_error(&b);
    if (r == 0) {
        AUTO_FD int fd = open(path, O_WRONLY | O_CLOEXEC);

        if (fd < 0 || write(fd, b.data, b.len - 1) < 0)
            r = -errno;
    }
    buf_done(&b);
    return r < 0 ? err_set(e, -r, "%s of the user namespace: %s", file, strerrordesc_np(-r)) : 0;
}

static int ns_deny_setgroups(pid_t pid, struct err *e)
{
    char path[48];
    AUTO_FD int fd = -1;

    snprintf(path, sizeof(path), "/proc/%d/setgroups", (int)pid);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "deny", 4) != 4)
        return err_set(e, errno, "%s: %m", path);
    return 0;
}

int oci_ns_map(const struct oci_spec *s, pid_t pid, struct err *e)
{
    const bool privileged = geteuid() == 0;
    int r;

    if (privileged || ns_maps_only_me(&s->gid_mappings, getegid())) {
        r = privileged ? 0 : ns_deny_setgroups(pid, e);
        if (r == 0)
            r = ns_write_map(pid, "gid_map", &s->gid_mappings, e);
    } else {
        r = ns_map_by_helper("newgidmap", pid, &s->gid_mappings, e);
    }
    if (r < 0)
        return r;
    if (privileged || ns_maps_only_me(&s->uid_mappings, geteuid()))
        return ns_write_map(pid, "uid_map", &s->uid_mappings, e);
    return ns_map_by_helper("newuidmap", pid, &s->uid_mappings, e);
}

/* ---- the child ---- */

static int ns_join(struct oci_launch *l, enum oci_ns ns, bool forgive, struct err *e)
{
    if (l->join_fd[ns] < 0)
        return 0;
    if (setns(l->join_fd[ns], oci_ns_flag(ns)) < 0) {
        if (forgive && errno == EPERM)
            return 0;
        return err_set(e, errno, "%s namespace %s: cannot be joined: %m", oci_ns_name(ns), l->spec->ns[ns].path);
    }
    close(l->join_fd[ns]);
    l->join_fd[ns] = -1;
    return 0;
}

/* Some may belong to the host's user namespace and some to the one that is joined: try before and after. The mount
 * namespace comes last, since paths change with it. */
static int ns_join_all(struct oci_launch *l, struct err *e)
{
    static const enum oci_ns order[] = { OCI_NS_IPC, OCI_NS_UTS, OCI_NS_NET, OCI_NS_CGROUP, OCI_NS_MOUNT };
    int r = 0;

    if (l->join_fd[OCI_NS_USER] >= 0) {
        for (size_t i = 0; i + 1 < ARRAY_SIZE(order) && r == 0; i++)
            r = ns_join(l, order[i], true, e);
        if (r == 0)
            r = ns_join(l, OCI_NS_USER, false, e);
    }
    for (size_t i = 0; i < ARRAY_SIZE(order) && r == 0; i++)
        r = ns_join(l, order[i], false, e);
    return r;
}

/* A new network namespace has nothing but a loopback that is down; runtimes bring it up. */
static int ns_loopback_up(struct err *e)
{
    AUTO_FD int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq r = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_LOOPBACK | IFF_RUNNING };

    if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &r) < 0)
        return err_set(e, errno, "network namespace: cannot bring the loopback interface up: %m");
    return 0;
}

static int ns_step_two(struct oci_launch *l, struct err *e)
{
    pid_t pid = oci_clone(CLONE_PARENT | CLONE_NEWPID, -1);

    if (pid == 0)
        return 0;
    if (pid < 0)
        return err_set(e, -pid, "pid namespace: %s", strerrordesc_np(-pid));
    _exit(oci_sync_send(l->sync_fd[1], OCI_SYNC_PID, pid) < 0);
}

int oci_ns_enter(struct oci_launch *l, struct err *e)
{
    static const enum oci_ns kinds[] = { OCI_NS_IPC, OCI_NS_UTS, OCI_NS_NET, OCI_NS_MOUNT };
    int flags = 0, r = ns_join_all(l, e);

    if (r < 0)
        return r;
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
        flags |= ns_is_new(l, kinds[i]) ? oci_ns_flag(kinds[i]) : 0;
    if (ns_is_new(l, OCI_NS_TIME) && l->spec->ns[OCI_NS_USER].wanted)
        flags |= CLONE_NEWTIME;
    if (flags && unshare(flags) < 0)
        return err_set(e, errno, "cannot make the namespaces: %m");
    if (flags & CLONE_NEWTIME)
        r = ns_time_offsets(l, e);
    if (r == 0 && ns_needs_two_steps(l))
        r = ns_step_two(l, e);
    if (r == 0 && flags & CLONE_NEWNET)
        r = ns_loopback_up(e);
    return r;
}

int oci_ns_finish(struct oci_launch *l, struct err *e)
{
    if (l->spec->ns[OCI_NS_USER].wanted) {
        if (setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0)
            return err_set(e, errno, "user namespace: cannot become its root: %m: the mappings must have id 0");
    }
    if (ns_is_new(l, OCI_NS_CGROUP) && unshare(CLONE_NEWCGROUP) < 0)
        return err_set(e, errno, "cgroup namespace: %m");
    return 0;
}
