#include "instance/lifecycle.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "instance/client.h"
#include "instance/kind.h"
#include "instance/place.h"
#include "instance/switch_client.h"
#include "instance/volume.h"
#include "sys/tree.h"

#define KILLED_CODE 137     /* 128 + SIGKILL: what a supervisor dies of takes its payload along */
#define LIFECYCLE_TRIES 100 /* to remove one that runs and ends, again and again */

int inst_run_init(struct inst_run *run, const struct store_instance *i, struct err *e)
{
    int r;

    *run = (struct inst_run){ .instance = i, .pid = -1, .pidfd = -1 };
    _Static_assert(sizeof(run->dir) == INST_PATH_MAX && sizeof(run->rundir) == INST_PATH_MAX, "paths fit");
    r = inst_dir(i->id, run->dir, e);
    return r < 0 ? r : inst_run_dir(i->id, run->rundir, e);
}

static const struct inst_kind_ops *lifecycle_ops(const struct store_instance *i, struct err *e)
{
    const struct inst_kind_ops *ops = inst_kind_ops(i->spec.kind);

    if (!ops)
        err_set(e, EOPNOTSUPP, "%s: this build of Caisson cannot run a %s; install one that can", i->name,
                inst_kind_name(i->spec.kind));
    return ops;
}

static int64_t lifecycle_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* ---- removing ---- */

static int lifecycle_remove_tree(const char *name, const char *path, struct err *e)
{
    int r = sys_tree_remove(path);

    if (r == -EBUSY)
        return err_set(e, EBUSY, "%s: cannot remove %s: something is mounted there; unmount it, then try again", name,
                       path);
    return r < 0 ? err_set(e, -r, "%s: cannot remove %s: %s", name, path, strerror(-r)) : 0;
}

/* What a supervisor that was killed left in the runtime directory. The lock is held. keep_socket: by a supervisor, the
 * socket is its own. */
static int lifecycle_clean_run(const struct store_instance *i, bool keep_socket, struct err *e)
{
    char root[INST_PATH_MAX], path[INST_PATH_MAX + 32];
    int r = inst_run_root(root, e);

    if (r < 0)
        return r;
    snprintf(path, sizeof(path), "%s/%.*s.sock", root, INST_ID_SHORT, i->id);
    if (!keep_socket && unlink(path) < 0 && errno != ENOENT)
        return err_set(e, errno, "%s: cannot remove %s: %s", i->name, path, strerror(errno));
    r = inst_run_dir(i->id, path, e);
    return r < 0 ? r : lifecycle_remove_tree(i->name, path, e);
}

/* What a run has left outside its directories, cleaned up. *ret_run: for the kind's other operations; to be released by
 * it and freed. */
static int lifecycle_cleanup(const struct store_instance *i, const struct inst_kind_ops **ret_ops,
                             struct inst_run **ret_run, struct err *e)
{
    const struct inst_kind_ops *ops = lifecycle_ops(i, e);
    AUTO_FREE struct inst_run *run = malloc(sizeof(*run));
    int r;

    if (!ops)
        return -EOPNOTSUPP;
    if (!run)
        return err_set(e, ENOMEM, "out of memory");
    r = inst_run_init(run, i, e);
    if (r == 0)
        r = ops->cleanup(run, e);
    if (r < 0) {
        ops->release(run);
        return r;
    }
    *ret_ops = ops;
    *ret_run = STEAL(run);
    return 0;
}

/* The machine's side of an instance: its run, its files. Any number of times. */
static int lifecycle_destroy(const struct store_instance *i, struct err *e)
{
    const struct inst_kind_ops *ops;
    AUTO_FREE struct inst_run *run = NULL;
    int r = lifecycle_cleanup(i, &ops, &run, e);

    if (r < 0)
        return r;
    r = ops->destroy(run, e);
    if (r == 0)
        r = lifecycle_clean_run(i, false, e);
    if (r == 0)
        r = lifecycle_remove_tree(i->name, run->dir, e);
    ops->release(run);
    return r;
}

int inst_remove_locked(struct store *s, struct store_instance *i, struct err *e)
{
    int r = 0;

    if (i->status != STORE_INST_REMOVING && i->status != STORE_INST_CREATING) {
        i->status = STORE_INST_REMOVING;
        i->wanted = false;
        r = store_instance_set(s, i, NULL, e);
    }
    if (r == 0)
        r = lifecycle_destroy(i, e);
    return r < 0 ? r : store_instance_remove(s, i, e);
}

/* Take the lock and read the row again. 1: it is gone. *ret_place is to be left where 0 is returned, and then i done.
 */
static int lifecycle_lock(struct store *s, const char *id, bool wait, struct sys_place *ret_place,
                          struct store_instance *i, struct err *e)
{
    int r = wait ? inst_lock(id, ret_place, e) : inst_try_lock(id, ret_place, e);

    if (r < 0)
        return r;
    r = store_instance_get(s, id, i, e);
    if (r < 0)
        sys_place_leave(ret_place);
    return r == -ENOENT ? 1 : r;
}

/* The lock of one that is to be removed, as by lifecycle_lock. One that runs is refused; one that ended between the
 * look for the lock and the question is tried again. */
static int lifecycle_lock_ended(struct store *s, const struct store_instance *i, struct sys_place *ret_place,
                                struct store_instance *now, struct err *e)
{
    for (unsigned n = 0; n < LIFECYCLE_TRIES; n++) {
        struct inst_info info = { 0 };
        int r = lifecycle_lock(s, i->id, true, ret_place, now, e);

        if (r != -EBUSY || (e && e->code != 0))
            return r;
        if (inst_ask(i, &info, NULL) == 0 && info.alive)
            return err_set(e, EBUSY, "%s is %s; stop it first, or give --force", i->name, inst_status(i, &info));
    }
    return err_set(e, EBUSY, "%s is being worked on; try again, or give --force", i->name);
}

int inst_remove(struct store *s, const struct store_instance *i, struct err *e)
{
    AUTO_FREE struct store_instance *now = malloc(sizeof(*now));
    struct sys_place place = { .lock = -1, .socket = -1 };
    int r = now ? lifecycle_lock_ended(s, i, &place, now, e) : err_set(e, ENOMEM, "out of memory");

    if (r != 0)
        return r < 0 ? r : 0; /* somebody else removed it */
    r = inst_repair_locked(s, now, e);
    if (r == 0)
        r = inst_remove_locked(s, now, e);
    store_instance_done(now);
    sys_place_leave(&place);
    return r;
}

/* ---- repairing ---- */

/* A run that its supervisor did not end. */
static int lifecycle_end_run(struct store *s, struct store_instance *i, bool keep_socket, struct err *e)
{
    const struct inst_kind_ops *ops;
    AUTO_FREE struct inst_run *run = NULL;
    bool saved;
    int r = lifecycle_cleanup(i, &ops, &run, e);

    if (r < 0)
        return r;
    r = lifecycle_clean_run(i, keep_socket, e);
    saved = r == 0 && ops->saved && ops->saved(run);
    ops->release(run);
    if (r < 0)
        return r;
    i->status = saved ? STORE_INST_SAVED : STORE_INST_EXITED;
    i->exit_code = saved ? 0 : KILLED_CODE;
    i->oom_killed = false;
    i->ended_ns = lifecycle_now();
    return store_instance_set(s, i, saved ? "save" : "die", e);
}

static int lifecycle_repair_row(struct store *s, struct store_instance *i, bool keep_socket, struct err *e)
{
    switch (i->status) {
    case STORE_INST_STARTING:
    case STORE_INST_RUNNING:
        return lifecycle_end_run(s, i, keep_socket, e);
    case STORE_INST_CREATING:
    case STORE_INST_REMOVING:
    case STORE_INST_CREATED:
    case STORE_INST_EXITED:
    case STORE_INST_SAVED:
        break;
    }
    return 0;
}

int inst_repair_locked(struct store *s, struct store_instance *i, struct err *e)
{
    return lifecycle_repair_row(s, i, false, e);
}

int inst_repair_placed(struct store *s, struct store_instance *i, struct err *e)
{
    return lifecycle_repair_row(s, i, true, e);
}

/* One that is in a state that only a living process may leave it in. Whoever has the lock lives, and may take his time
 * (a clone, a snapshot): there is nothing to repair. */
static int lifecycle_repair(struct store *s, const char *id, struct err *e)
{
    AUTO_FREE struct store_instance *i = malloc(sizeof(*i));
    struct sys_place place = { .lock = -1, .socket = -1 };
    int r = i ? lifecycle_lock(s, id, false, &place, i, e) : err_set(e, ENOMEM, "out of memory");

    if (r != 0)
        return r == -EBUSY && (!e || e->code == 0) ? 0 : MIN(r, 0); /* it lives, or is gone */
    r = inst_repair_locked(s, i, e);
    if (r == 0 && (i->status == STORE_INST_CREATING || i->status == STORE_INST_REMOVING ||
                   (i->status == STORE_INST_EXITED && i->spec.remove)))
        r = inst_remove_locked(s, i, e);
    store_instance_done(i);
    sys_place_leave(&place);
    return r;
}

struct lifecycle_list {
    char (*ids)[INST_ID_LEN + 1];
    size_t n;
};

static int lifecycle_collect(void *opaque, const struct store_instance *i)
{
    struct lifecycle_list *list = opaque;
    void *grown;

    if (i->status == STORE_INST_CREATED || i->status == STORE_INST_SAVED ||
        (i->status == STORE_INST_EXITED && !i->spec.remove))
        return 0;
    grown = realloc(list->ids, (list->n + 1) * sizeof(*list->ids));
    if (!grown)
        return -ENOMEM;
    list->ids = grown;
    memcpy(list->ids[list->n++], i->id, sizeof(*list->ids));
    return 0;
}

static bool lifecycle_is_busy(void *opaque, const char *short_id)
{
    const struct lifecycle_list *busy = opaque;

    for (size_t i = 0; i < busy->n; i++) {
        if (strncmp(busy->ids[i], short_id, INST_ID_SHORT) == 0)
            return true;
    }
    return false;
}

/* What processes left that were killed where no row tells of it: before the first change of the row, or after the last.
 */
static void lifecycle_sweep(struct store *s, struct lifecycle_list *busy)
{
    struct err ignored = { 0 };
    char root[INST_PATH_MAX];

    if (inst_run_root(root, &ignored) == 0)
        sys_place_sweep(root, lifecycle_is_busy, busy);
    inst_switch_sweep(s);
    (void)!inst_volume_sweep(s, &ignored); /* a user's may need his name space: volume rm has it */
}

int inst_repair(struct store *s, void (*warn)(void *opaque, const char *text), void *opaque, struct err *e)
{
    struct lifecycle_list list = { 0 };
    int r = store_instance_each(s, lifecycle_collect, &list, e);

    if (r == -ENOMEM)
        err_set(e, ENOMEM, "out of memory");
    for (size_t i = 0; i < list.n && r == 0; i++) {
        struct err why = { 0 };

        if (lifecycle_repair(s, list.ids[i], &why) < 0)
            warn(opaque, why.text);
    }
    lifecycle_sweep(s, &list);
    free(list.ids);
    return r;
}

/* ---- making ---- */

static int lifecycle_fill(struct store_instance *i,
                          int (*fill)(void *opaque, struct store_instance *i, const char *dir, struct err *e),
                          void *opaque, struct err *e)
{
    char dir[INST_PATH_MAX];
    int r = inst_dir(i->id, dir, e);

    if (r < 0)
        return r;
    r = sys_dirs_make(dir);
    if (r < 0)
        return err_set(e, -r, "cannot make %s: %s; make room, or set CAISSON_STATE_DIR", dir, strerror(-r));
    return fill ? fill(opaque, i, dir, e) : 0;
}

int inst_create(struct store *s, const char *name, const struct inst_spec *spec,
                int (*fill)(void *opaque, struct store_instance *i, const char *dir, struct err *e), void *opaque,
                struct store_instance *ret_instance, struct err *e)
{
    AUTO_FREE struct store_instance *i = malloc(sizeof(*i));
    struct sys_place place = { .lock = -1, .socket = -1 };
    struct err undo = { 0 };
    int r = i ? store_begin(s, e) : err_set(e, ENOMEM, "out of memory");

    if (r < 0)
        return r;
    /* The lock is there before anybody can see the row. */
    r = store_instance_begin(s, name, spec, i, e);
    if (r < 0) {
        store_rollback(s);
        return r;
    }
    r = inst_lock(i->id, &place, e);
    if (r < 0)
        store_rollback(s);
    else
        r = store_commit(s, e);
    if (r < 0) {
        if (place.lock >= 0)
            sys_place_leave(&place);
        store_instance_done(i);
        return r;
    }
    r = lifecycle_fill(i, fill, opaque, e);
    if (r == 0) {
        i->status = STORE_INST_CREATED;
        r = store_instance_finish(s, i, e);
        if (r < 0)
            i->status = STORE_INST_CREATING;
    }
    if (r < 0)
        (void)!inst_remove_locked(s, i, &undo);
    sys_place_leave(&place);
    if (r == 0 && ret_instance)
        *ret_instance = *i;
    else
        store_instance_done(i);
    return r;
}
