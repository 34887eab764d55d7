#include "oci/process_attr.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/ioprio.h>
#include <linux/keyctl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"

#define ATTR_LABEL_MAX 4096
#define ATTR_KEYRING_NAME_MAX 256
/* Of a key (linux/key.h of the kernel, keyctl_setperm(3)): all to its possessor; to its user: view, read, search. */
#define ATTR_KEYRING_PERM 0x3f0b0000

/* linux/sched/types.h of Debian 12 clashes with libc's sched.h. */
struct attr_sched {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
    uint32_t util_min, util_max;
};

/* ---- procfs ---- */

int oci_proc_write(int proc_fd, const char *path, const char *text)
{
    const struct open_how how = {
        .flags = O_WRONLY | O_CLOEXEC,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS,
    };
    const size_t len = strlen(text);
    struct statfs fs;
    AUTO_FD int fd = -1;

    /* Within one mount of procfs: its links are its own ("thread-self"), and what is mounted over a file is refused. */
    if (fstatfs(proc_fd, &fs) < 0)
        return -errno;
    if (fs.f_type != PROC_SUPER_MAGIC)
        return -EBADF;
    fd = (int)syscall(SYS_openat2, proc_fd, path, &how, sizeof(how));
    if (fd < 0)
        return -errno;
    if (fstatfs(fd, &fs) < 0)
        return -errno;
    if (fs.f_type != PROC_SUPER_MAGIC)
        return -EBADF;
    if (write(fd, text, len) != (ssize_t)len)
        return errno ? -errno : -EIO;
    return 0;
}

static int attr_oom_score(const struct oci_process *p, int proc_fd, struct err *e)
{
    char text[16];
    int r;

    if (p->oom_score_adj == OCI_UNSET)
        return 0;
    snprintf(text, sizeof(text), "%d", (int)p->oom_score_adj);
    r = oci_proc_write(proc_fd, "thread-self/oom_score_adj", text);
    if (r == -EACCES)
        return err_set(e, EACCES, "process.oomScoreAdj: %s: to go below the runtime's own wants CAP_SYS_RESOURCE",
                       text);
    return r < 0 ? err_set(e, -r, "process.oomScoreAdj: %s: %s", text, strerrordesc_np(-r)) : 0;
}

/* ---- limits, scheduling ---- */

int oci_process_rlimits(const struct oci_process *p, pid_t pid, bool last, struct err *e)
{
    for (size_t i = 0; i < p->n_rlimits; i++) {
        const struct oci_rlimit *l = &p->rlimits[i];
        struct rlimit limit = { .rlim_cur = l->soft, .rlim_max = l->hard }, now;

        if (!last && l->resource == RLIMIT_NOFILE && prlimit(pid, RLIMIT_NOFILE, NULL, &now) == 0) {
            if (limit.rlim_max <= now.rlim_max)
                continue;
            limit.rlim_cur = MAX(limit.rlim_cur, now.rlim_cur);
        }
        if (prlimit(pid, (enum __rlimit_resource)l->resource, &limit, NULL) < 0)
            return err_set(e, errno, "process.rlimits[%zu]: soft %llu, hard %llu: %s%s", i, (unsigned long long)l->soft,
                           (unsigned long long)l->hard, strerrordesc_np(errno),
                           errno == EPERM ? "; above the runtime's own hard limit, which only CAP_SYS_RESOURCE raises"
                                          : "");
    }
    return 0;
}

static int attr_scheduler(const struct oci_process *p, struct err *e)
{
    const struct oci_scheduler *s = &p->scheduler;
    const struct attr_sched attr = {
        .size = sizeof(attr),
        .policy = (uint32_t)s->policy,
        .flags = s->flags,
        .nice = s->nice,
        .priority = (uint32_t)s->priority,
        .runtime = s->runtime,
        .deadline = s->deadline,
        .period = s->period,
    };

    if (s->present && syscall(SYS_sched_setattr, 0, &attr, 0) < 0)
        return err_set(e, errno, "process.scheduler: policy %d, nice %d, priority %d: %s%s", s->policy, s->nice,
                       s->priority, strerrordesc_np(errno),
                       errno == EPERM ? "; wants CAP_SYS_NICE, and a cgroup with real-time run time" : "");
    return 0;
}

static int attr_io_priority(const struct oci_process *p, struct err *e)
{
    const int value = IOPRIO_PRIO_VALUE(p->io_priority_class, p->io_priority);

    if (p->io_priority_present && syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) < 0)
        return err_set(e, errno, "process.ioPriority: %s%s", strerrordesc_np(errno),
                       errno == EPERM ? "; IOPRIO_CLASS_RT wants CAP_SYS_NICE" : "");
    return 0;
}

/* A number below CPU_SETSIZE; *text is behind it then. */
static int attr_cpu_number(const char **text)
{
    int n = 0;

    if (**text < '0' || **text > '9')
        return -EINVAL;
    for (; **text >= '0' && **text <= '9'; ++*text) {
        n = n * 10 + (**text - '0');
        if (n >= CPU_SETSIZE)
            return -EINVAL;
    }
    return n;
}

int oci_cpu_list_parse(const char *text, cpu_set_t *ret)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    for (;;) {
        int first = attr_cpu_number(&text), last = first;

        if (first >= 0 && *text == '-') {
            text++;
            last = attr_cpu_number(&text);
        }
        if (first < 0 || last < first)
            return -EINVAL;
        for (int cpu = first; cpu <= last; cpu++)
            CPU_SET((size_t)cpu, &set);
        if (*text == '\0')
            break;
        if (*text++ != ',')
            return -EINVAL;
    }
    *ret = set;
    return 0;
}

int oci_process_affinity(const struct oci_process *p, bool final, pid_t pid, struct err *e)
{
    const char *text = p->exec_cpu_affinity.n == 2 ? p->exec_cpu_affinity.v[final] : "";
    cpu_set_t set;
    int r;

    if (text[0] == '\0')
        return 0;
    r = oci_cpu_list_parse(text, &set);
    if (r == 0 && sched_setaffinity(pid, sizeof(set), &set) < 0)
        r = -errno;
    return r < 0 ? err_set(e, -r, "process.execCPUAffinity.%s: %s: %s", final ? "final" : "initial", text,
                           strerrordesc_np(-r))
                 : 0;
}

int oci_process_apply_early(const struct oci_process *p, bool limits, int proc_fd, struct err *e)
{
    int r = attr_oom_score(p, proc_fd, e);

    if (r == 0)
        r = attr_scheduler(p, e);
    if (r == 0)
        r = attr_io_priority(p, e);
    return r == 0 && limits ? oci_process_rlimits(p, 0, false, e) : r;
}

/* ---- labels, keyring ---- */

static int attr_apparmor(const struct oci_process *p, int proc_fd, struct err *e)
{
    char text[ATTR_LABEL_MAX];
    int r;

    if (!p->apparmor_profile || p->apparmor_profile[0] == '\0')
        return 0;
    if ((size_t)snprintf(text, sizeof(text), "exec %s", p->apparmor_profile) >= sizeof(text))
        return err_set(e, ENAMETOOLONG, "process.apparmorProfile: the name is too long");
    /* The first is AppArmor's own; kernels before 5.8 have the file that the security modules share. */
    r = oci_proc_write(proc_fd, "thread-self/attr/apparmor/exec", text);
    if (r == -ENOENT)
        r = oci_proc_write(proc_fd, "thread-self/attr/exec", text);
    return r < 0 ? err_set(e, -r, "process.apparmorProfile: %s: %s; is AppArmor on, and the profile loaded?",
                           p->apparmor_profile, strerrordesc_np(-r))
                 : 0;
}

static int attr_selinux(const struct oci_process *p, const char *path, int proc_fd, struct err *e)
{
    int r;

    if (!p->selinux_label || p->selinux_label[0] == '\0')
        return 0;
    r = oci_proc_write(proc_fd, path, p->selinux_label);
    return r < 0 ? err_set(e, -r, "process.selinuxLabel: %s: %s; is SELinux on, and the label of its policy?",
                           p->selinux_label, strerrordesc_np(-r))
                 : 0;
}

int oci_process_keyring(const struct oci_process *p, const char *id, int proc_fd, struct err *e)
{
    char name[ATTR_KEYRING_NAME_MAX];
    int r = attr_selinux(p, "thread-self/attr/keycreate", proc_fd, e);
    long ring;

    if (r < 0)
        return r;
    snprintf(name, sizeof(name), "_ses.%s", id);
    ring = syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name);
    if (ring < 0 && (errno == ENOSYS || errno == EPERM || errno == EDQUOT))
        return 0;
    if (ring < 0)
        return err_set(e, errno, "keyring %s: %s; --no-new-keyring does without", name, strerrordesc_np(errno));
    /* So that the payload's user finds its keys; best effort. */
    (void)syscall(SYS_keyctl, KEYCTL_SETPERM, ring, ATTR_KEYRING_PERM);
    return 0;
}

int oci_process_apply_late(const struct oci_spec *s, const struct oci_process *p, int proc_fd, struct err *e)
{
    int r = attr_apparmor(p, proc_fd, e);

    if (r == 0)
        r = attr_selinux(p, "thread-self/attr/exec", proc_fd, e);
    if (r < 0)
        return r;
    if (s->personality_present && personality(s->personality) < 0)
        return err_set(e, errno, "linux.personality: %#lx: %s", s->personality, strerrordesc_np(errno));
    umask(p->umask == OCI_UNSET ? 022 : (mode_t)p->umask);
    if (p->no_new_privileges && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return err_set(e, errno, "process.noNewPrivileges: %s", strerrordesc_np(errno));
    return 0;
}

/* ---- user ---- */

int oci_process_set_user(const struct oci_process *p, struct err *e)
{
    /* Raw: libc's own would tell other threads, of which there are none. */
    if (syscall(SYS_setgroups, p->n_additional_gids, p->additional_gids) < 0 &&
        (errno != EPERM || p->n_additional_gids > 0))
        return err_set(e, errno, "process.user.additionalGids: %s%s", strerrordesc_np(errno),
                       errno == EPERM ? "; a rootless container can have none" : "");
    if (syscall(SYS_setresgid, p->gid, p->gid, p->gid) < 0)
        return err_set(e, errno, "process.user.gid: %u: %s%s", p->gid, strerrordesc_np(errno),
                       errno == EINVAL ? "; linux.gidMappings do not have it" : "");
    if (syscall(SYS_setresuid, p->uid, p->uid, p->uid) < 0)
        return err_set(e, errno, "process.user.uid: %u: %s%s", p->uid, strerrordesc_np(errno),
                       errno == EINVAL ? "; linux.uidMappings do not have it" : "");
    return 0;
}
