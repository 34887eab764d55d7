/* Processes and the groups of a container: entering, listing, signalling, freezing, and removing the groups. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "oci/cgroup_priv.h"

#define FREEZE_TRIES 2000 /* of 0.05 to 5 ms each: some seconds */
#define KILL_TRIES 20
#define PLANNED_TRIES 50

static int procs_enter(const char *dir, pid_t pid, struct err *e)
{
    int r = sys_cgroup_write_number(dir, "cgroup.procs", pid);
    const char *why = r == -EOPNOTSUPP ? "the group is threaded; choose a path whose parents have no threaded groups"
                      : r == -EBUSY    ? "the group hands controllers down to groups below it"
                      : r == -ENOSPC   ? "the group has no CPUs or memory nodes (cpuset)"
                                       : strerror(-r);

    return r < 0 ? err_set(e, -r, "cgroup %s: process %d cannot enter: %s", dir, (int)pid, why) : 0;
}

/* A container that manages groups itself (systemd in it) hands controllers down, so that no process may be in its
 * topmost group: then join its first process where that has gone. */
static int procs_join_first(struct oci_cgroup *g, const struct cgroup_one *one, pid_t pid, struct err *e)
{
    AUTO_FREE pid_t *pids = NULL;
    char file[32], text[4096], dir[8192], *at;
    size_t n = 0;
    pid_t first = 0;
    int r = oci_cgroup_pids(g, true, &pids, &n, e);

    for (size_t i = 0; i < n; i++)
        first = first == 0 || pids[i] < first ? pids[i] : first;
    snprintf(file, sizeof(file), "%d/cgroup", (int)first);
    if (r < 0 || first == 0 || sys_cgroup_read("/proc", file, text, sizeof(text)) < 0)
        return procs_enter(one->dir, pid, e);
    at = strncmp(text, "0::/", 4) == 0 ? text + 3 : strstr(text, "\n0::/");
    if (!at)
        return procs_enter(one->dir, pid, e);
    at += *at == '\n' ? 4 : 0;
    at[strcspn(at, "\n")] = '\0';
    snprintf(dir, sizeof(dir), "%s%s", one->pub.mount, at);
    /* Below the container's group only, wherever the process says that it is. */
    if (strncmp(dir, one->dir, strlen(one->dir)) != 0 || dir[strlen(one->dir)] != '/')
        return procs_enter(one->dir, pid, e);
    return procs_enter(dir, pid, e);
}

static int procs_enter_one(struct oci_cgroup *g, const struct cgroup_one *one, pid_t pid, struct err *e)
{
    int r = procs_enter(one->dir, pid, e);

    return r == -EBUSY && one->v2 ? procs_join_first(g, one, pid, e) : r;
}

int oci_cgroup_enter(struct oci_cgroup *g, pid_t pid, bool cloned, struct err *e)
{
    int r = 0;

    if (g->systemd && g->spec) { /* a new container, not exec */
        r = cgroup_systemd_start(g, pid, e);
        if (r == 0)
            r = cgroup_make(g, e);
    }
    for (size_t i = 0; i < g->n && r == 0; i++) {
        if (!(cloned && (int)i == g->unified))
            r = procs_enter_one(g, &g->one[i], pid, e);
    }
    return r;
}

/* Whether a list of controllers' names, or NULL for all, has one of the group's. */
static bool procs_named(const struct cgroup_one *one, const char *list)
{
    if (!list)
        return true;
    while (*list) {
        size_t len = strcspn(list, ",");

        for (unsigned c = 0; c < SYS_CG_CONTROLLERS; c++) {
            const char *name = sys_cgroup_name(c, one->v2);

            if (one->controllers & 1U << c && strlen(name) == len && memcmp(name, list, len) == 0)
                return true;
        }
        if (one->pub.name && strlen(one->pub.name) == len && memcmp(one->pub.name, list, len) == 0)
            return true;
        list += len + (list[len] == ',');
    }
    return false;
}

int oci_cgroup_enter_below(struct oci_cgroup *g, const char *controllers, const char *sub, pid_t pid, struct err *e)
{
    bool any = false;

    for (size_t i = 0; i < g->n; i++) {
        AUTO_FREE char *path = NULL;
        char *dir = NULL;
        int r;

        if (!procs_named(&g->one[i], controllers))
            continue;
        any = true;
        r = cgroup_path_join("", sub, &path); /* does not leave the container's */
        if (r == 0 && asprintf(&dir, "%s%s", g->one[i].dir, strcmp(path, "/") == 0 ? "" : path) < 0)
            r = -ENOMEM;
        if (r < 0)
            return err_set(e, -r, "--cgroup %s: %s", sub, strerror(-r));
        r = procs_enter(dir, pid, e);
        free(dir);
        if (r < 0)
            return r;
    }
    return any ? 0 : err_set(e, ENOENT, "--cgroup %s: the container is in no group of these controllers", controllers);
}

/* The group that is asked for the processes: all have the same. */
static struct cgroup_one *procs_group(struct oci_cgroup *g)
{
    static const enum sys_cgroup_controller order[] = { SYS_CG_FREEZER, SYS_CG_DEVICES, SYS_CG_PIDS, SYS_CG_MEMORY };

    if (g->unified >= 0)
        return &g->one[g->unified];
    for (size_t i = 0; i < ARRAY_SIZE(order); i++) {
        struct cgroup_one *one = cgroup_with(g, order[i]);

        if (one)
            return one;
    }
    return g->n ? &g->one[0] : NULL;
}

int oci_cgroup_pids(struct oci_cgroup *g, bool recursive, pid_t **ret_pids, size_t *ret_n, struct err *e)
{
    struct cgroup_one *one = procs_group(g);
    pid_t *pids = NULL;
    size_t n = 0;
    int r = one ? sys_cgroup_pids(one->dir, recursive, &pids, &n) : 0;

    if (r == -ENOENT || r == -ENODEV)
        r = 0;
    if (r < 0)
        return err_set(e, -r, "cgroup %s: cannot list its processes: %s", one->dir, strerror(-r));
    *ret_pids = pids;
    *ret_n = n;
    return 0;
}

/* ---- freezer ---- */

/* 1: frozen, 0: not, or not wholly; -errno. */
static int freezer_state(const struct cgroup_one *one)
{
    char text[256];
    uint64_t frozen = 0;
    ssize_t n = sys_cgroup_read(one->dir, one->v2 ? "cgroup.events" : "freezer.state", text, sizeof(text));

    if (n < 0)
        return (int)n;
    if (!one->v2)
        return strcmp(text, "FROZEN\n") == 0;
    return sys_cgroup_find_number(text, "frozen", &frozen) && frozen;
}

static int freezer_set(const struct cgroup_one *one, bool frozen)
{
    if (one->v2)
        return sys_cgroup_write(one->dir, "cgroup.freeze", frozen ? "1" : "0");
    return sys_cgroup_write(one->dir, "freezer.state", frozen ? "FROZEN" : "THAWED");
}

/* v1's freezer where there is one: pausing is seen there by whoever looks, as with other runtimes. */
static struct cgroup_one *freezer_group(struct oci_cgroup *g)
{
    struct cgroup_one *one = cgroup_with(g, SYS_CG_FREEZER);

    return one || g->unified < 0 ? one : &g->one[g->unified];
}

int oci_cgroup_frozen(struct oci_cgroup *g)
{
    struct cgroup_one *one = freezer_group(g);
    int r = one ? freezer_state(one) : 0;

    return r == -ENOENT || r == -ENODEV ? 0 : r;
}

/* v1 freezes again at each read while new processes appear; a process in the midst of vfork may never stop until it is
 * let go for a moment, so do that now and then. */
static int freezer_wait(const struct cgroup_one *one, bool frozen)
{
    struct timespec delay = { .tv_nsec = 50000 };

    for (int i = 1; i <= FREEZE_TRIES; i++) {
        int r = freezer_state(one);

        if (r < 0 || !!r == frozen)
            return MIN(r, 0);
        if (frozen && !one->v2 && i % 50 == 0)
            r = freezer_set(one, false);
        nanosleep(&delay, NULL);
        delay.tv_nsec = MIN(delay.tv_nsec * 2, 5000000);
        if (r == 0 && !one->v2)
            r = freezer_set(one, frozen);
        if (r < 0)
            return r;
    }
    return -EBUSY;
}

int oci_cgroup_freeze(struct oci_cgroup *g, bool frozen, struct err *e)
{
    struct cgroup_one *one = freezer_group(g);
    const char *what = frozen ? "frozen" : "thawed";
    int r;

    if (!one)
        return err_set(e, EOPNOTSUPP, "the container cannot be %s: it has no cgroup with a freezer", what);
    r = freezer_set(one, frozen);
    if (r == 0)
        r = freezer_wait(one, frozen);
    if (r == 0)
        return 0;
    if (frozen && freezer_set(one, false) < 0)
        log_debug("cgroup %s: cannot be thawed again", one->dir);
    return err_set(e, -r, "cgroup %s: the processes cannot be %s: %s", one->dir, what,
                   r == -EBUSY ? "some do not stop" : strerror(-r));
}

/* ---- signals ---- */

static int procs_signal(pid_t pid, int signal)
{
    return kill(pid, signal) == 0 || errno == ESRCH ? 0 : -errno;
}

/* One round over the list of processes; *ret_n: how many there were. */
static int procs_signal_all(struct oci_cgroup *g, int signal, size_t *ret_n, struct err *e)
{
    AUTO_FREE pid_t *pids = NULL;
    int r = oci_cgroup_pids(g, true, &pids, ret_n, e);

    for (size_t i = 0; i < *ret_n && r == 0; i++) {
        r = procs_signal(pids[i], signal);
        if (r < 0)
            err_set(e, -r, "process %d of the container: cannot be sent signal %d: %s", (int)pids[i], signal,
                    strerror(-r));
    }
    return r;
}

/* SIGKILL to all, those that are born meanwhile too. */
static int procs_kill(struct oci_cgroup *g, struct err *e)
{
    struct cgroup_one *freezer = cgroup_with(g, SYS_CG_FREEZER);
    size_t n = 0;
    int r = 0;

    if (g->unified >= 0 && sys_cgroup_write(g->one[g->unified].dir, "cgroup.kill", "1") == 0) {
        /* What v1 has frozen does not die. */
        if (freezer && freezer_state(freezer) != 0 && freezer_set(freezer, false) < 0)
            return err_set(e, EIO, "cgroup %s: cannot be thawed", freezer->dir);
        return 0;
    }
    for (int i = 0; i < KILL_TRIES; i++) {
        bool frozen = freezer && freezer_set(freezer, true) == 0; /* no wait: what still forks is met again */

        r = procs_signal_all(g, SIGKILL, &n, e);
        if (frozen && freezer_set(freezer, false) < 0)
            return err_set(e, EIO, "cgroup %s: cannot be thawed", freezer->dir);
        if (r < 0 || n == 0)
            break;
        nanosleep(&(struct timespec){ .tv_nsec = 1000000L << MIN(i, 5) }, NULL);
    }
    return r;
}

int oci_cgroup_kill(struct oci_cgroup *g, int signal, struct err *e)
{
    bool froze;
    size_t n = 0;
    int r, r2 = 0;

    if (g->n == 0 || g->planned)
        return 0;
    if (signal == SIGKILL)
        return procs_kill(g, e);
    /* Nobody forks away from the signal while they are frozen; who is paused stays so. */
    froze = freezer_group(g) && oci_cgroup_frozen(g) == 0 && oci_cgroup_freeze(g, true, NULL) == 0;
    r = procs_signal_all(g, signal, &n, e);
    if (froze)
        r2 = oci_cgroup_freeze(g, false, r < 0 ? NULL : e);
    return r < 0 ? r : r2 == -ENOENT ? 0 : r2;
}

/* ---- removal ---- */

/* The runtime was killed while it made the groups: what is empty goes. Nobody is killed, since a group that is in use
 * is another container's, or its process is about to notice that the runtime has gone. */
static int procs_remove_planned(struct oci_cgroup *g)
{
    for (size_t i = g->n; i-- > 0;) {
        for (int k = 0; k < PLANNED_TRIES && rmdir(g->one[i].dir) < 0 && errno == EBUSY; k++)
            nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    }
    return 0;
}

int oci_cgroup_remove(struct oci_cgroup *g, struct err *e)
{
    bool killed = false;
    int first = 0;

    if (g->planned)
        return g->spec ? 0 : procs_remove_planned(g);
    for (size_t i = g->n; i-- > 0;) {
        struct cgroup_one *one = &g->one[i];
        int r;

        if (rmdir(one->dir) == 0 || errno == ENOENT)
            continue;
        r = -errno;
        if (r == -EBUSY || r == -ENOTEMPTY) {
            if (!killed && procs_kill(g, NULL) < 0)
                log_debug("cgroup %s: its processes cannot be killed", one->dir);
            killed = true;
            r = sys_cgroup_remove(one->dir);
        }
        if (r < 0 && first == 0)
            first = err_set(e, -r, "cgroup %s: cannot be removed: %s", one->dir,
                            r == -EBUSY ? "processes in it do not end" : strerror(-r));
    }
    if (g->unit)
        cgroup_systemd_stop(g);
    return first;
}
