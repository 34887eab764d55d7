/* Being told when a container runs out of memory: v1 by an eventfd on memory.oom_control, v2 by watching memory.events.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "oci/cgroup_priv.h"

/* Spec: cgroup-v1/memory.rst, "OOM Control". */
static int oom_watch_v1(const struct cgroup_one *one)
{
    AUTO_FD int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), control = -1;
    char path[PATH_MAX], text[48];
    int r;

    if (event < 0)
        return -errno;
    if (snprintf(path, sizeof(path), "%s/memory.oom_control", one->dir) >= (int)sizeof(path))
        return -ENAMETOOLONG;
    control = open(path, O_RDONLY | O_CLOEXEC);
    if (control < 0)
        return -errno;
    snprintf(text, sizeof(text), "%d %d", event, control);
    r = sys_cgroup_write(one->dir, "cgroup.event_control", text);
    return r < 0 ? r : STEAL_FD(event);
}

/* cgroup.events too: it tells the end of the group's last process, and its watch the removal of the group. */
static int oom_watch_v2(const struct cgroup_one *one)
{
    static const char *const files[] = { "memory.events", "cgroup.events" };
    AUTO_FD int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    char path[PATH_MAX];

    if (fd < 0)
        return -errno;
    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        if (snprintf(path, sizeof(path), "%s/%s", one->dir, files[i]) >= (int)sizeof(path))
            return -ENAMETOOLONG;
        if (inotify_add_watch(fd, path, IN_MODIFY | IN_DELETE_SELF) < 0)
            return -errno;
    }
    return STEAL_FD(fd);
}

int oci_cgroup_oom_watch(struct oci_cgroup *g, struct err *e)
{
    const struct cgroup_one *one = cgroup_with(g, SYS_CG_MEMORY);
    int r;

    if (!one)
        return err_set(e, EOPNOTSUPP, "the container has no group with a memory controller: it cannot be watched");
    r = one->v2 ? oom_watch_v2(one) : oom_watch_v1(one);
    return r < 0 ? err_set(e, -r, "cgroup %s: cannot be watched: %s", one->dir, strerror(-r)) : r;
}

static int oom_check_v1(const struct cgroup_one *one, int fd)
{
    char path[PATH_MAX];
    uint64_t n = 0;

    if (read(fd, &n, sizeof(n)) < 0 && errno != EAGAIN)
        return -errno;
    /* The kernel signals the removal of the group in the same way. */
    if (snprintf(path, sizeof(path), "%s/cgroup.event_control", one->dir) >= (int)sizeof(path) ||
        access(path, F_OK) < 0)
        return -ENOENT;
    return (int)MIN(n, (uint64_t)INT_MAX);
}

static int oom_check_v2(const struct cgroup_one *one, int fd, uint64_t *state)
{
    char text[4096];
    uint64_t kills = 0, populated = 1, fresh;
    ssize_t n;

    while ((n = read(fd, text, sizeof(text))) > 0)
        ; /* which file has changed is seen below */
    if (n < 0 && errno != EAGAIN)
        return -errno;
    n = sys_cgroup_read(one->dir, "memory.events", text, sizeof(text));
    if (n < 0)
        return n == -ENODEV ? -ENOENT : (int)n;
    if (!sys_cgroup_find_number(text, "oom_kill", &kills))
        kills = *state;
    fresh = kills > *state ? kills - *state : 0;
    *state = kills;
    n = sys_cgroup_read(one->dir, "cgroup.events", text, sizeof(text));
    if (fresh == 0 && (n < 0 || (sys_cgroup_find_number(text, "populated", &populated) && !populated)))
        return -ENOENT;
    return (int)MIN(fresh, (uint64_t)INT_MAX);
}

int oci_cgroup_oom_check(struct oci_cgroup *g, int fd, uint64_t *state)
{
    const struct cgroup_one *one = cgroup_with(g, SYS_CG_MEMORY);

    if (!one)
        return -ENOENT;
    return one->v2 ? oom_check_v2(one, fd, state) : oom_check_v1(one, fd);
}
