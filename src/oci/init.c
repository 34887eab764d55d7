#include "oci/init.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "oci/console.h"
#include "oci/hooks.h"
#include "oci/ns.h"
#include "oci/payload.h"
#include "oci/process_attr.h"
#include "oci/protect.h"
#include "oci/rootfs.h"
#include "oci/sync.h"

static int init_hostname(const struct oci_spec *s, struct err *e)
{
    if (s->hostname && sethostname(s->hostname, strlen(s->hostname)) < 0)
        return err_set(e, errno, "hostname %s: %m", s->hostname);
    if (s->domainname && setdomainname(s->domainname, strlen(s->domainname)) < 0)
        return err_set(e, errno, "domainname %s: %m", s->domainname);
    return 0;
}

static int init_hooks(struct oci_launch *l, enum oci_hook_kind kind, struct err *e)
{
    struct buf state;
    pid_t pid;
    int r;

    if (l->spec->n_hooks[kind] == 0)
        return 0;
    buf_init(&state, OCI_STATE_MAX);
    r = oci_payload_state(l, kind == OCI_HOOK_START_CONTAINER ? OCI_CREATED : OCI_CREATING, &pid, &state, e);
    if (r == 0)
        r = oci_hooks_run(l->spec->hooks[kind], l->spec->n_hooks[kind], kind, (const char *)state.data, state.len, e);
    buf_done(&state);
    return r;
}

/* The hooks that stand between the mounts and the change of root: the runtime's, run by the parent, then the
 * container's. */
static int init_middle_hooks(struct oci_launch *l, struct err *e)
{
    const struct oci_spec *s = l->spec;
    int r = 0;

    if (s->n_hooks[OCI_HOOK_PRESTART] + s->n_hooks[OCI_HOOK_CREATE_RUNTIME] > 0) {
        r = oci_sync_send(l->sync_fd[1], OCI_SYNC_HOOKS, 0);
        r = r < 0 ? err_set(e, -r, "the runtime has gone") : oci_sync_wait(l->sync_fd[1], OCI_SYNC_HOOKS_DONE, NULL, e);
    }
    return r < 0 ? r : init_hooks(l, OCI_HOOK_CREATE_CONTAINER, e);
}

static int init_build(struct oci_launch *l, struct oci_rootfs *root, struct err *e)
{
    /* In a user namespace nothing can be done before the ids are mapped; else the parent moves us into our cgroups
     * while we mount, and is waited for only where it matters. */
    const bool early = l->spec->ns[OCI_NS_USER].wanted || l->spec->ns[OCI_NS_CGROUP].wanted || l->late_limits;
    /* A user's runtime can write the maps of its own processes only while they are not hidden. */
    const bool mapped = geteuid() != 0 && l->spec->ns[OCI_NS_USER].wanted && !l->spec->ns[OCI_NS_USER].path;
    int r = mapped ? 0 : oci_protect_hide(e);

    if (r == 0)
        r = oci_process_apply_early(l->process, !l->late_rlimits, l->proc_fd, e);
    if (r == 0)
        r = oci_ns_enter(l, e);
    if (r == 0 && early)
        r = oci_sync_wait(l->sync_fd[1], OCI_SYNC_GO, NULL, e);
    if (r == 0 && mapped)
        r = oci_protect_hide(e);
    if (r == 0)
        r = oci_ns_finish(l, e);
    if (r == 0)
        r = oci_rootfs_setup(root, l, e);
    if (r == 0 && !early)
        r = oci_sync_wait(l->sync_fd[1], OCI_SYNC_GO, NULL, e);
    if (r == 0)
        r = init_middle_hooks(l, e);
    if (r == 0)
        r = oci_rootfs_enter(root, e);
    if (r == 0)
        r = init_hostname(l->spec, e);
    if (r == 0)
        r = oci_console_setup(l, root->own_dev ? root->fd : -1, e);
    return r == 0 ? oci_rootfs_finish(root, e) : r;
}

/* Until `start` comes: run keeps the parent's socket, create waits for a connection. Returns where errors go from now
 * on. */
static int init_wait_start(struct oci_launch *l, struct err *e)
{
    int fd = l->sync_fd[1], r = oci_sync_send(fd, OCI_SYNC_READY, 0);

    if (r < 0)
        return err_set(e, -r, "the runtime has gone");
    if (l->listen_fd >= 0) {
        close(fd);
        l->sync_fd[1] = -1;
        do
            fd = accept4(l->listen_fd, NULL, NULL, SOCK_CLOEXEC);
        while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
        if (fd < 0)
            return err_set(e, errno, "start: %m");
        l->sync_fd[1] = fd;
        close(l->listen_fd);
        l->listen_fd = -1;
    }
    return oci_sync_wait(fd, OCI_SYNC_START, NULL, e);
}

/* All that is open besides the standard descriptors and the preserved ones closes at execve. */
static int init_close_rest(const struct oci_launch *l, struct err *e)
{
    if (close_range(3 + l->preserve_fds, ~0u, CLOSE_RANGE_CLOEXEC) < 0)
        return err_set(e, errno, "cannot mark descriptors for closing: %m");
    return 0;
}

static int init_begin(struct oci_launch *l, struct err *e)
{
    sigset_t none;

    /* A lock lives as long as a copy of its descriptor does. */
    for (size_t i = 0; i < ARRAY_SIZE(l->state_fd); i++) {
        if (l->state_fd[i] >= 0)
            close(l->state_fd[i]);
    }
    close(l->sync_fd[0]);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    umask(0);
    if (setsid() < 0 && errno != EPERM)
        return err_set(e, errno, "setsid: %m");
    return init_close_rest(l, e);
}

void oci_init_run(struct oci_launch *l)
{
    struct oci_payload p = { 0 };
    struct oci_rootfs root = { .fd = -1 };
    struct err e = { 0 };
    int r = init_begin(l, &e);

    if (r == 0)
        r = init_build(l, &root, &e);
    if (r == 0)
        r = oci_payload_prepare(&p, l, &e);
    if (r == 0)
        r = init_wait_start(l, &e);
    if (r == 0)
        r = init_hooks(l, OCI_HOOK_START_CONTAINER, &e);
    if (r == 0)
        r = oci_payload_exec(&p, l, &e);
    if (l->sync_fd[1] >= 0)
        oci_sync_send_error(l->sync_fd[1], &e);
    _exit(1);
}

void oci_init_exec(struct oci_launch *l)
{
    struct oci_payload p = { 0 };
    struct err e = { 0 };
    int r = init_begin(l, &e);

    if (r == 0)
        r = oci_console_setup(l, -1, &e);
    if (r == 0)
        r = oci_payload_prepare(&p, l, &e);
    if (r == 0)
        r = oci_payload_exec(&p, l, &e);
    oci_sync_send_error(l->sync_fd[1], &e);
    _exit(1);
}
