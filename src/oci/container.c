#include "oci/container.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <time.h>

#include "base/num.h"
#include "oci/cgroup.h"
#include "oci/hooks.h"
#include "oci/log.h"
#include "oci/rdt.h"

#define KILL_WAIT_MS 10000
#define FORGOTTEN_WAIT_MS 3000

enum oci_status oci_container_status(const struct oci_state *s)
{
    const enum oci_status status = oci_state_status(s);
    AUTO(oci_cgroup) struct oci_cgroup *g = NULL;

    if ((status == OCI_RUNNING || status == OCI_CREATED) && oci_state_cgroup(s, &g, NULL) == 0 && g &&
        oci_cgroup_frozen(g) > 0)
        return OCI_PAUSED;
    return status;
}

int oci_container_cgroup(const struct oci_state *s, const char *lack, struct oci_cgroup **ret_cgroup, struct err *e)
{
    int r;

    if (oci_state_status(s) == OCI_STOPPED)
        return err_set(e, ESRCH, "container \"%s\" is not running", s->id);
    r = oci_state_cgroup(s, ret_cgroup, e);
    if (r == 0 && !*ret_cgroup)
        r = err_set(e, EOPNOTSUPP, "container \"%s\" has no cgroups, %s", s->id, lack);
    return r;
}

int oci_container_pidfd(const struct oci_state *s)
{
    AUTO_FD int fd = s->pid > 0 ? pidfd_open(s->pid, 0) : -1;
    uint64_t start;

    /* The descriptor first, the check afterwards: then it is the checked process that the descriptor means. */
    if (fd < 0 || oci_proc_start_time(s->pid, &start) < 0 || start != s->start_time)
        return -ESRCH;
    return STEAL_FD(fd);
}

int oci_container_kill_all(const struct oci_state *s, struct err *e)
{
    AUTO(oci_cgroup) struct oci_cgroup *g = NULL;
    AUTO_FD int fd = oci_container_pidfd(s);
    struct pollfd p = { .fd = fd, .events = POLLIN };
    int r;

    if (fd >= 0 && pidfd_send_signal(fd, SIGKILL, NULL, 0) < 0 && errno != ESRCH)
        return err_set(e, errno, "container %s: its first process cannot be killed: %m", s->id);
    /* Without the groups (a damaged state file) the first process at least is waited for. */
    if (oci_state_cgroup(s, &g, e) < 0)
        g = NULL;
    r = g && oci_cgroup_frozen(g) > 0 ? oci_cgroup_freeze(g, false, e) : 0;
    /* With a pid namespace of its own everything dies with the first process. */
    if (r == 0 && g && !(s->namespaces & (1u << OCI_NS_PID)))
        r = oci_cgroup_kill(g, SIGKILL, e);
    if (r < 0 || fd < 0)
        return r;
    do
        r = poll(&p, 1, KILL_WAIT_MS);
    while (r < 0 && errno == EINTR);
    return r > 0 ? 0 : err_set(e, ETIMEDOUT, "container %s: still there after SIGKILL", s->id);
}

int oci_container_hooks(const struct oci_state *s, enum oci_hook_kind kind, enum oci_status status, struct err *e)
{
    AUTO(oci_spec) struct oci_spec *spec = NULL;
    struct buf b;
    int r;

    if (!(s->hooks & (1u << kind)))
        return 0;
    r = oci_state_spec(s, &spec, e);
    if (r < 0)
        return r;
    buf_init(&b, OCI_STATE_MAX);
    oci_state_json(s, status, false, &b);
    r = buf_error(&b) ? err_set(e, ENOMEM, "out of memory")
                      : oci_hooks_run(spec->hooks[kind], spec->n_hooks[kind], kind, (const char *)b.data, b.len, e);
    buf_done(&b);
    return r;
}

/* A create that was killed before it could write its groups down may have made some: they follow from config.json,
 * which was there before. Groups in which something runs are not ours (and cannot be made: -EBUSY). */
static void container_forgotten_groups(const struct oci_args *a, const struct oci_state *s)
{
    AUTO(oci_spec) struct oci_spec *spec = NULL;
    AUTO(oci_cgroup) struct oci_cgroup *g = NULL;
    struct oci_cgroup_config c = { .id = s->id, .rootless = geteuid() != 0 };
    const struct timespec pause = { .tv_nsec = 10000000 };
    struct err e = { 0 };
    int r;

    if (oci_flag(a, OCI_OPT_SYSTEMD_CGROUP) || oci_state_spec(s, &spec, &e) < 0)
        return;
    c.path = spec->cgroups_path;
    c.spec = spec;
    /* A first process that was born into them ends as soon as it misses its parent. */
    for (unsigned waited = 0;; waited += 10) {
        r = oci_cgroup_create(&c, &g, &e);
        if (r != -EBUSY || waited >= FORGOTTEN_WAIT_MS)
            break;
        nanosleep(&pause, NULL);
    }
    if (r < 0 || oci_cgroup_remove(g, &e) < 0)
        oci_log_warn(a, e.text);
}

int oci_container_destroy(const struct oci_args *a, const struct oci_state *s, struct err *e)
{
    AUTO(oci_cgroup) struct oci_cgroup *g = NULL;
    struct err hook = { 0 };
    int r = oci_state_cgroup(s, &g, e);

    if (r == 0 && g)
        r = oci_cgroup_remove(g, e);
    else if (r == 0 && s->pid == 0)
        container_forgotten_groups(a, s);
    /* By force, what is known is removed, and what is not is told. */
    if (r < 0 && oci_flag(a, OCI_OPT_FORCE))
        oci_log_warn(a, e->text);
    else if (r < 0)
        return r;
    if (s->rdt) {
        AUTO(oci_spec) struct oci_spec *spec = NULL;

        if (oci_state_spec(s, &spec, &hook) < 0 || oci_rdt_remove(&spec->rdt, s->id, &hook) < 0)
            oci_log_warn(a, hook.text);
    }
    if (oci_container_hooks(s, OCI_HOOK_POSTSTOP, OCI_STOPPED, &hook) < 0)
        oci_log_warn(a, hook.text);
    return oci_state_remove(s->root_fd, s->dir_fd, s->id, e);
}

int oci_signal_parse(const char *text, int *ret, struct err *e)
{
    const char *name = strncasecmp(text, "SIG", 3) == 0 ? text + 3 : text;
    uint64_t n;

    if (strspn(text, "0123456789") == strlen(text) && num_parse_u64(text, 0, (uint64_t)SIGRTMAX, &n) == 0) {
        *ret = (int)n;
        return 0;
    }
    for (int i = 1; i < NSIG; i++) {
        const char *known = sigabbrev_np(i);

        if (known && strcasecmp(known, name) == 0) {
            *ret = i;
            return 0;
        }
    }
    return err_set(e, EINVAL, "unknown signal \"%.32s\": give a name like TERM or a number", text);
}
