#include "oci/create.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/num.h"
#include "oci/bundle.h"
#include "oci/console.h"
#include "oci/hooks.h"
#include "oci/init.h"
#include "oci/log.h"
#include "oci/ns.h"
#include "oci/path.h"
#include "oci/process_attr.h"
#include "oci/rdt.h"
#include "oci/rootfs.h"
#include "oci/state.h"
#include "oci/sync.h"

#define PRESERVE_FDS_MAX 4096

/* ---- the bundle ---- */

static int create_bundle(struct oci_create *c, struct err *e)
{
    const char *bundle = c->args->value[OCI_OPT_BUNDLE];
    int r;

    if (bundle && chdir(bundle) < 0)
        return err_set(e, errno, "bundle %s: %m", bundle);
    c->bundle = getcwd(NULL, 0);
    if (!c->bundle)
        return err_set(e, errno, "bundle: %m");
    r = oci_bundle_read(AT_FDCWD, &c->spec, &c->text, &c->text_len, e);
    if (r < 0)
        return r;
    if (!c->spec->process.present)
        return err_set(e, EINVAL, "config.json: process is missing: there is nothing to run");
    c->rootfs = realpath(c->spec->root_path, NULL);
    if (!c->rootfs)
        return err_set(e, errno, "root.path %s: %m", c->spec->root_path);
    return 0;
}

static int create_check_console(const struct oci_create *c, struct err *e)
{
    const bool terminal = c->spec->process.terminal, socket = c->args->value[OCI_OPT_CONSOLE_SOCKET] != NULL;
    const bool detached = !c->run || oci_flag(c->args, OCI_OPT_DETACH);

    if (terminal && detached && !socket)
        return err_set(e, EINVAL,
                       "process.terminal: cannot allocate a terminal that nobody holds: give --console-socket");
    if (socket && !terminal)
        return err_set(e, EINVAL, "--console-socket: config.json has no process.terminal: leave one or set the other");
    if (socket && !detached)
        return err_set(e, EINVAL, "--console-socket: run holds the terminal itself unless --detach is given");
    return 0;
}

int oci_preserve_fds(const struct oci_args *a, struct oci_launch *l, struct err *e)
{
    const char *listen_fds = getenv("LISTEN_FDS"), *listen_pid = getenv("LISTEN_PID");
    uint64_t n, more = 0, pid = 0;
    int r = oci_opt_u64(a, OCI_OPT_PRESERVE_FDS, PRESERVE_FDS_MAX, 0, &n, e);

    if (r < 0)
        return r;
    if (listen_fds && num_parse_u64(listen_fds, 0, PRESERVE_FDS_MAX, &more) < 0)
        more = 0;
    if (more && listen_pid && (num_parse_u64(listen_pid, 1, INT_MAX, &pid) < 0 || (pid_t)pid != getpid()))
        more = 0;
    l->listen_fds = (unsigned)more;
    l->preserve_fds = (unsigned)(n + more);
    for (unsigned fd = 3; fd < 3 + n; fd++) {
        if (fcntl((int)fd, F_GETFD) < 0)
            return err_set(e, EBADF, "--preserve-fds %llu: descriptor %u is not open", (unsigned long long)n, fd);
    }
    return 0;
}

/* ---- what the child inherits ---- */

/* The socket lies in the state directory, whose path may be too long for an address: reach it by a descriptor. */
static int create_listen(struct oci_create *c, struct err *e)
{
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    AUTO_FD int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    mode_t old;
    int r;

    if (fd < 0)
        return err_set(e, errno, "socket for start: %m");
    snprintf(sa.sun_path, sizeof(sa.sun_path), "/proc/self/fd/%d/" OCI_STATE_SOCKET_NEW, c->dir_fd);
    old = umask(0177);
    r = bind(fd, (const struct sockaddr *)&sa, sizeof(sa));
    umask(old);
    if (r < 0 || listen(fd, 1) < 0)
        return err_set(e, errno, "socket for start: %m");
    c->launch.listen_fd = STEAL_FD(fd);
    return 0;
}

static void create_launch_names(struct oci_create *c)
{
    struct oci_launch *l = &c->launch;

    l->spec = c->spec;
    l->process = &c->spec->process;
    l->id = c->args->argv[0];
    l->state_fd[0] = c->root_fd;
    l->state_fd[1] = c->dir_fd;
    l->bundle = c->bundle;
    /* Root of a new user namespace may not raise them. */
    l->late_rlimits = geteuid() == 0 && c->spec->ns[OCI_NS_USER].wanted && !c->spec->ns[OCI_NS_USER].path;
    l->late_limits = oci_flag(c->args, OCI_OPT_SYSTEMD_CGROUP);
    l->rootfs = c->rootfs;
}

static int create_launch(struct oci_create *c, struct err *e)
{
    struct oci_launch *l = &c->launch;
    int r;

    l->no_pivot = oci_flag(c->args, OCI_OPT_NO_PIVOT);
    l->no_keyring = oci_flag(c->args, OCI_OPT_NO_NEW_KEYRING);
    r = oci_sync_pair(l->sync_fd);
    if (r < 0)
        return err_set(e, -r, "socket pair: %s", strerrordesc_np(-r));
    l->proc_fd = oci_path_proc(e);
    r = l->proc_fd < 0 ? l->proc_fd : oci_ns_open(l, e);
    if (r == 0)
        r = oci_console_prepare(l, c->args, e);
    if (r == 0 && !c->run)
        r = create_listen(c, e);
    if (r == 0 && c->spec->seccomp.present)
        r = oci_seccomp_compile_cached(&c->spec->seccomp, c->root_fd, &l->bpf, e);
    if (r == 0 && l->bpf.notify) {
        l->notify_fd = oci_seccomp_notify_connect(&c->spec->seccomp, e);
        r = MIN(l->notify_fd, 0);
    }
    return r == 0 ? oci_rootfs_prepare(l, e) : r;
}

/* ---- state ---- */

static struct oci_record create_record(const struct oci_create *c)
{
    return (struct oci_record){ .id = c->launch.id,
                                .bundle = c->bundle,
                                .rootfs = c->rootfs,
                                .created = c->created,
                                .spec = c->spec,
                                .cgroup = c->launch.cgroup,
                                .pid = c->pid,
                                .start_time = c->start_time };
}

int oci_create_write_state(struct oci_create *c, struct err *e)
{
    const struct oci_record r = create_record(c);

    return oci_state_write(c->dir_fd, &r, e);
}

int oci_create_hooks(struct oci_create *c, enum oci_hook_kind kind, enum oci_status status, struct err *e)
{
    const struct oci_record rec = create_record(c);
    struct buf b;
    int r;

    if (c->spec->n_hooks[kind] == 0)
        return 0;
    c->hooks_ran = true;
    buf_init(&b, OCI_STATE_MAX);
    oci_record_json(&rec, status, &b);
    r = buf_error(&b);
    if (r == 0)
        r = oci_hooks_run(c->spec->hooks[kind], c->spec->n_hooks[kind], kind, (const char *)b.data, b.len, e);
    else
        r = err_set(e, -r, "hooks: the state: %s", strerrordesc_np(-r));
    buf_done(&b);
    return r;
}

/* ---- the process ---- */

/* Where the groups will be: the state says so before they exist. */
static int create_plan_cgroup(struct oci_create *c, struct err *e)
{
    const struct oci_cgroup_config config = { .path = c->spec->cgroups_path,
                                              .id = c->launch.id,
                                              .systemd = oci_flag(c->args, OCI_OPT_SYSTEMD_CGROUP),
                                              .rootless = geteuid() != 0,
                                              .spec = c->spec };

    return oci_cgroup_plan(&config, &c->launch.cgroup, e);
}

/* The state that hooks in the child get is known but for the child's pid: the child fills that in as it sees it. */
static int create_clone(struct oci_create *c, struct err *e)
{
    struct oci_launch *l = &c->launch;
    const int cgroup_fd = oci_cgroup_clone_fd(l->cgroup);
    const bool two_steps =
        l->join_fd[OCI_NS_USER] >= 0 && c->spec->ns[OCI_NS_PID].wanted && !c->spec->ns[OCI_NS_PID].path;
    int64_t pid = oci_ns_clone(l, cgroup_fd, e);
    int r;

    if (pid == 0)
        oci_init_run(l);
    if (pid < 0)
        return (int)pid;
    c->pid = (pid_t)pid;
    close(l->sync_fd[1]);
    l->sync_fd[1] = -1;
    if (two_steps) {
        r = oci_sync_wait(l->sync_fd[0], OCI_SYNC_PID, &pid, e);
        if (r < 0)
            return r;
        waitpid(c->pid, NULL, 0);
        c->pid = (pid_t)pid;
    }
    if (oci_proc_start_time(c->pid, &c->start_time) < 0)
        return err_set(e, ESRCH, "the container's first process ended at once");
    return 0;
}

static int create_place(struct oci_create *c, struct err *e)
{
    struct oci_launch *l = &c->launch;
    const bool fresh = c->spec->ns[OCI_NS_USER].wanted && !c->spec->ns[OCI_NS_USER].path;
    int r = oci_create_write_state(c, e);

    if (r == 0 && fresh)
        r = oci_ns_map(c->spec, c->pid, e);
    /* Limits before the process comes under them: while the list of devices is written, all of them are denied, and the
     * child would fail to make its nodes. systemd makes the groups only with a process, so there the child waits. */
    if (r == 0 && !l->late_limits)
        r = oci_cgroup_apply(l->cgroup, &c->spec->resources, e);
    if (r == 0)
        r = oci_cgroup_enter(l->cgroup, c->pid, oci_cgroup_clone_fd(l->cgroup) >= 0, e);
    if (r == 0 && l->late_limits)
        r = oci_create_write_state(c, e); /* only now it is known where systemd has put it */
    if (r == 0 && l->late_limits)
        r = oci_cgroup_apply(l->cgroup, &c->spec->resources, e);
    if (r == 0) {
        r = oci_sync_send(l->sync_fd[0], OCI_SYNC_GO, 0);
        /* It has ended then, and has told why. */
        if (r < 0)
            r = oci_sync_wait(l->sync_fd[0], OCI_SYNC_READY, NULL, e);
    }
    if (r == 0 && c->spec->rdt.present)
        r = oci_rdt_apply(&c->spec->rdt, l->id, c->pid, e);
    return r;
}

static int create_wait_ready(struct oci_create *c, struct err *e)
{
    const int fd = c->launch.sync_fd[0];
    int type = oci_sync_wait_two(fd, OCI_SYNC_READY, OCI_SYNC_HOOKS, e), r;

    if (type != OCI_SYNC_HOOKS)
        return MIN(type, 0);
    r = oci_create_hooks(c, OCI_HOOK_PRESTART, OCI_CREATED, e);
    if (r == 0)
        r = oci_create_hooks(c, OCI_HOOK_CREATE_RUNTIME, OCI_CREATING, e);
    if (r < 0)
        return r;
    r = oci_sync_send(fd, OCI_SYNC_HOOKS_DONE, 0);
    if (r < 0)
        return err_set(e, -r, "the container's first process has gone");
    return oci_sync_wait(fd, OCI_SYNC_READY, NULL, e);
}

static void create_stamp(struct oci_create *c)
{
    struct timespec ts;
    struct tm tm;
    size_t n;

    clock_gettime(CLOCK_REALTIME, &ts);
    if (gmtime_r(&ts.tv_sec, &tm)) {
        n = strftime(c->created, sizeof(c->created), "%Y-%m-%dT%H:%M:%S", &tm);
        snprintf(c->created + n, sizeof(c->created) - n, ".%09ldZ", ts.tv_nsec);
    }
}

void oci_create_init(struct oci_create *c, const struct oci_args *a, bool run)
{
    *c = (struct oci_create){ .args = a, .root_fd = -1, .dir_fd = -1, .run = run };
    oci_launch_init(&c->launch);
    create_stamp(c);
}

int oci_create_open(struct oci_create *c, struct err *e)
{
    int r = oci_preserve_fds(c->args, &c->launch, e);

    if (r == 0)
        r = create_bundle(c, e);
    if (r == 0)
        r = create_check_console(c, e);
    if (r == 0)
        r = oci_state_make(c->args, c->args->argv[0], &c->root_fd, &c->dir_fd, e);
    if (r == 0)
        create_launch_names(c);
    return r;
}

int oci_create_groups(struct oci_create *c, struct err *e)
{
    int r = create_plan_cgroup(c, e);

    if (r == 0)
        r = oci_create_write_state(c, e);
    if (r == 0)
        r = oci_state_write_file(c->dir_fd, "config.json", c->text, c->text_len, e);
    return r == 0 ? oci_cgroup_make(c->launch.cgroup, e) : r;
}

int oci_create_container(struct oci_create *c, const struct oci_args *a, bool run, struct err *e)
{
    int r;

    oci_create_init(c, a, run);
    r = oci_create_open(c, e);
    if (r < 0)
        return r;
    r = create_launch(c, e);
    if (r == 0)
        r = oci_create_groups(c, e);
    if (r == 0)
        r = create_clone(c, e);
    if (r == 0)
        r = create_place(c, e);
    if (r == 0)
        r = create_wait_ready(c, e);
    if (r == 0 && c->launch.late_rlimits)
        r = oci_process_rlimits(&c->spec->process, c->pid, false, e);
    if (r == 0 && !run && renameat(c->dir_fd, OCI_STATE_SOCKET_NEW, c->dir_fd, OCI_STATE_SOCKET) < 0)
        r = err_set(e, errno, "socket for start: %m");
    if (r == 0 && a->value[OCI_OPT_PID_FILE])
        r = oci_pid_file(a->value[OCI_OPT_PID_FILE], c->pid, e);
    if (r == 0)
        r = oci_pidfd_hand_out(a, c->pid, e);
    if (r < 0)
        oci_create_undo(c);
    return r;
}

void oci_create_undo(struct oci_create *c)
{
    struct err ignored = { 0 };

    if (c->pid > 0) {
        kill(c->pid, SIGKILL);
        while (waitpid(c->pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    if (c->launch.cgroup && oci_cgroup_remove(c->launch.cgroup, &ignored) < 0)
        oci_log_warn(c->args, ignored.text);
    if (c->spec && c->spec->rdt.present && c->pid > 0 && oci_rdt_remove(&c->spec->rdt, c->launch.id, &ignored) < 0)
        oci_log_warn(c->args, ignored.text);
    if (c->hooks_ran && oci_create_hooks(c, OCI_HOOK_POSTSTOP, OCI_STOPPED, &ignored) < 0)
        oci_log_warn(c->args, ignored.text);
    if (c->dir_fd >= 0 && oci_state_remove(c->root_fd, c->dir_fd, c->launch.id, &ignored) < 0)
        oci_log_warn(c->args, ignored.text);
}

void oci_create_done(struct oci_create *c)
{
    oci_launch_done(&c->launch);
    if (c->dir_fd >= 0)
        close(c->dir_fd);
    if (c->root_fd >= 0)
        close(c->root_fd);
    oci_spec_free(c->spec);
    free(c->text);
    free(c->bundle);
    free(c->rootfs);
}

int oci_pid_file(const char *path, pid_t pid, struct err *e)
{
    char temp[PATH_MAX], text[16];
    const char *slash = strrchr(path, '/');
    const int dir_len = slash ? (int)(slash - path) + 1 : 0, len = snprintf(text, sizeof(text), "%d", (int)pid);
    AUTO_FD int fd = -1;

    if ((size_t)snprintf(temp, sizeof(temp), "%.*s.%s.%d", dir_len, path, path + dir_len, (int)getpid()) >=
        sizeof(temp))
        return err_set(e, ENAMETOOLONG, "--pid-file %s: %m", path);
    fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return err_set(e, errno, "--pid-file %s: %m", path);
    if (write(fd, text, (size_t)len) != len || rename(temp, path) < 0) {
        int r = err_set(e, errno, "--pid-file %s: %m", path);

        unlink(temp);
        return r;
    }
    return 0;
}

int oci_verb_create(const struct oci_args *a, struct err *e)
{
    struct oci_create c;
    int r = oci_create_container(&c, a, false, e);

    oci_create_done(&c);
    return r;
}
