#include "instance/snapshot.h"

#include <errno.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "instance/client.h"
#include "instance/container_snapshot.h"
#include "instance/lifecycle.h"
#include "instance/place.h"
#include "instance/vm_save.h"
#include "proto/vm_spec.h"

#define SNAPSHOT_PATH_MAX (INST_PATH_MAX + 128)
#define JOB_CREATE "snapshot create"
#define JOB_RESTORE "snapshot restore"
#define JOB_REMOVE "snapshot rm"

/* ---- parts ---- */

int inst_snapshot_memory_path(const char *id, const char *tag, char *ret_path, size_t size, struct err *e)
{
    char dir[INST_PATH_MAX];
    int r = inst_dir(id, dir, e);

    if (r == 0 && snprintf(ret_path, size, "%s/snapshots/%s.vm", dir, tag) >= (int)size)
        r = err_set(e, ENAMETOOLONG,
                    "the path of the state directory is too long; set CAISSON_STATE_DIR to a shorter one");
    return r;
}

int inst_snapshot_disks(const struct store_instance *i,
                        int (*fn)(void *opaque, const struct blk_open_config *disk, struct err *e), void *opaque,
                        struct err *e)
{
    const struct vm_spec *vm = i->spec.vm;

    for (unsigned k = 0; k < vm->n_disks; k++) {
        const struct vm_disk *d = &vm->disks[k];
        const struct blk_open_config config = { .path = d->path, .format = d->format };
        int r;

        if (d->read_only)
            continue;
        if (d->format && strcmp(d->format, "qcow2") != 0)
            return err_set(e, ENOTSUP, "%s: its disk %s is %s, which has no snapshots; convert it to qcow2", i->name,
                           d->path, d->format);
        r = fn(opaque, &config, e);
        if (r != 0)
            return r;
    }
    return 0;
}

struct snapshot_work {
    enum disk_snapshot_verb verb;
    const char *tag;
};

static int snapshot_disk(void *opaque, const struct blk_open_config *disk, struct err *e)
{
    const struct snapshot_work *w = opaque;
    struct err why = { 0 };
    int r = disk_snapshot(disk, w->verb, w->tag, &why);

    if (r == -ENOENT && w->verb == DISK_SNAPSHOT_RM)
        return 0; /* so far it did not come, or it is removed already */
    return r < 0 ? err_set(e, -r, "%s", why.text) : 0;
}

static int snapshot_all_disks(const struct store_instance *i, enum disk_snapshot_verb verb, const char *tag,
                              struct err *e)
{
    return inst_snapshot_disks(i, snapshot_disk, &(struct snapshot_work){ verb, tag }, e);
}

/* A second name for a file, whose content nobody changes: memory that is saved or of a snapshot. */
static int snapshot_link(const char *from, const char *to, struct err *e)
{
    if (unlink(to) < 0 && errno != ENOENT)
        return err_set(e, errno, "cannot remove %s: %s", to, strerror(errno));
    return link(from, to) < 0 ? err_set(e, errno, "cannot link %s to %s: %s", to, from, strerror(errno)) : 0;
}

static int snapshot_saved_path(const char *id, char ret_path[SNAPSHOT_PATH_MAX], struct err *e)
{
    char dir[INST_PATH_MAX];
    int r = inst_dir(id, dir, e);

    if (r == 0)
        snprintf(ret_path, SNAPSHOT_PATH_MAX, "%s/" INST_VM_MEMORY, dir);
    return r;
}

/* Drop what a tag stands for. The instance does not run, its lock is held. */
static int snapshot_drop(const struct store_instance *i, const char *tag, struct err *e)
{
    char path[SNAPSHOT_PATH_MAX];
    int r;

    if (i->spec.kind == INST_CONTAINER)
        return inst_container_snapshot_drop(i, tag, e);
    r = snapshot_all_disks(i, DISK_SNAPSHOT_RM, tag, e);
    if (r == 0)
        r = inst_snapshot_memory_path(i->id, tag, path, sizeof(path), e);
    if (r == 0 && unlink(path) < 0 && errno != ENOENT)
        r = err_set(e, errno, "cannot remove %s: %s", path, strerror(errno));
    return r;
}

/* What a job works on, for whoever has to go on with it. */
struct snapshot_plan {
    char tag[STORE_SNAPSHOT_TAG_MAX];
    bool pauses; /* a container that runs stands still meanwhile, and is to go on whatever becomes of the job */
};

static int snapshot_job(struct store *s, const char *verb, const char *id, const char *tag, bool pauses,
                        struct store_job_lock **ret_lock, struct err *e)
{
    json_object *o = json_object_new_object();
    int r;

    if (!o)
        return err_set(e, ENOMEM, "out of memory");
    json_object_object_add(o, "tag", json_object_new_string(tag));
    if (pauses)
        json_object_object_add(o, "pauses", json_object_new_boolean(true));
    r = store_job_begin(s, verb, id, json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN), ret_lock, e);
    json_object_put(o);
    return r;
}

/* Take the lock of an instance that does not run, and read its row again. -EBUSY without text: it runs; also, where
 * wait is false, somebody works on it. */
static int snapshot_lock(struct store *s, const char *id, bool wait, struct sys_place *place,
                         struct store_instance *ret_now, struct err *e)
{
    int r = wait ? inst_lock(id, place, e) : inst_try_lock(id, place, e);

    if (r < 0)
        return r;
    r = store_instance_get(s, id, ret_now, e);
    if (r == 0) {
        r = inst_repair_locked(s, ret_now, e);
        if (r < 0)
            store_instance_done(ret_now);
    }
    if (r < 0)
        sys_place_leave(place);
    return r;
}

/* ---- create ---- */

static int snapshot_make_dir(const char *id, struct err *e)
{
    char path[SNAPSHOT_PATH_MAX], *slash;
    int r = inst_snapshot_memory_path(id, "x", path, sizeof(path), e);

    if (r < 0)
        return r;
    slash = strrchr(path, '/');
    *slash = '\0';
    r = sys_dirs_make(path);
    return r < 0 ? err_set(e, -r, "cannot make %s: %s", path, strerror(-r)) : 0;
}

/* Of an instance that does not run; its lock is held. */
static int snapshot_create_still(const struct store_instance *i, struct store_snapshot *x,
                                 const struct disk_progress *progress, struct err *e)
{
    char saved[SNAPSHOT_PATH_MAX], path[SNAPSHOT_PATH_MAX];
    struct stat st;
    int r;

    if (i->spec.kind == INST_CONTAINER)
        return inst_container_snapshot_take(i, x->tag, progress, e);
    r = snapshot_all_disks(i, DISK_SNAPSHOT_CREATE, x->tag, e);
    if (r < 0 || i->status != STORE_INST_SAVED)
        return r;
    r = snapshot_saved_path(i->id, saved, e);
    if (r == 0)
        r = inst_snapshot_memory_path(i->id, x->tag, path, sizeof(path), e);
    if (r == 0)
        r = snapshot_link(saved, path, e);
    x->has_memory = true;
    x->memory_bytes = r == 0 && stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
    return r;
}

/* Whether taking a snapshot makes it stand still. */
static bool snapshot_pauses(const struct store_instance *i)
{
    struct inst_info info = { 0 };
    struct err ignored = { 0 };

    return i->spec.kind == INST_CONTAINER && inst_ask(i, &info, &ignored) == 0 && info.alive &&
           strcmp(info.status, "paused") != 0;
}

/* *ret_undone: a failure left nothing behind, a container that stands still neither. */
static int snapshot_create_running(const struct store_instance *i, struct store_snapshot *x, bool disks_only,
                                   const struct disk_progress *progress, bool *ret_undone, struct err *e)
{
    char path[SNAPSHOT_PATH_MAX];
    const struct inst_vm_save how = {
        .path = disks_only ? NULL : path, .snapshot = x->tag, .progress = progress, .ret_undone = ret_undone
    };
    struct err ignored = { 0 };
    int r;

    if (i->spec.kind == INST_CONTAINER) {
        r = inst_container_snapshot_take(i, x->tag, progress, e);
        *ret_undone = r < 0 && inst_container_snapshot_drop(i, x->tag, &ignored) == 0 && snapshot_pauses(i);
        return r;
    }
    r = inst_snapshot_memory_path(i->id, x->tag, path, sizeof(path), e);
    *ret_undone = r < 0;
    x->has_memory = !disks_only;
    return r < 0 ? r : inst_vm_save_to(i, &how, &x->memory_bytes, e);
}

/* *ret_undone: a failure left nothing behind. */
static int snapshot_take(struct store *s, const struct store_instance *i, struct store_snapshot *x, bool disks_only,
                         const struct disk_progress *progress, bool *ret_undone, struct err *e)
{
    AUTO_FREE struct store_instance *now = malloc(sizeof(*now));
    struct sys_place place = { .lock = -1, .socket = -1 };
    struct err ignored = { 0 };
    int r = now ? snapshot_make_dir(i->id, e) : err_set(e, ENOMEM, "out of memory");

    *ret_undone = true;
    if (r < 0)
        return r;
    r = snapshot_lock(s, i->id, true, &place, now, e);
    if (r == -EBUSY && (!e || e->code == 0))
        return snapshot_create_running(i, x, disks_only, progress, ret_undone, e);
    if (r < 0)
        return r;
    r = snapshot_create_still(now, x, progress, e);
    if (r < 0)
        *ret_undone = snapshot_drop(now, x->tag, &ignored) == 0;
    store_instance_done(now);
    sys_place_leave(&place);
    return r;
}

/* The row and the end of the job are one. *job is NULL afterwards where it is gone. */
static int snapshot_enter(struct store *s, const struct store_snapshot *x, struct store_job_lock **job, struct err *e)
{
    int r = store_begin(s, e);

    if (r < 0)
        return r;
    r = store_snapshot_add(s, x, e);
    if (r == 0)
        r = store_job_end(s, STEAL(*job), e);
    if (r == 0)
        r = store_commit(s, e);
    if (r < 0)
        store_rollback(s);
    return r;
}

static void snapshot_name_now(char ret_name[PROTO_NAME_MAX + 1])
{
    time_t now = time(NULL);
    struct tm tm;

    localtime_r(&now, &tm);
    strftime(ret_name, PROTO_NAME_MAX + 1, "%Y%m%d-%H%M%S", &tm);
}

static int snapshot_is_new(void *opaque, const struct store_snapshot *x)
{
    return strcmp(x->name, opaque) == 0;
}

/* Its own copy of the specification as it is now. */
static int snapshot_copy_spec(struct store *s, const char *id, struct inst_spec *ret_spec, struct err *e)
{
    AUTO_FREE struct store_instance *now = malloc(sizeof(*now));
    int r = now ? store_instance_get(s, id, now, e) : err_set(e, ENOMEM, "out of memory");

    if (r < 0)
        return r;
    *ret_spec = now->spec;
    now->spec = (struct inst_spec){ 0 };
    store_instance_done(now);
    return 0;
}

static int snapshot_prepare(struct store *s, const struct store_instance *i, const char *name, struct store_snapshot *x,
                            struct err *e)
{
    int r;

    if (name[0])
        snprintf(x->name, sizeof(x->name), "%s", name);
    else
        snapshot_name_now(x->name);
    if (!proto_name_ok(x->name) || strlen(name) > PROTO_NAME_MAX)
        return err_set(e, EINVAL, "snapshot '%s': not a name; use up to %d of a-z, 0-9 and -, a letter or digit first",
                       name, PROTO_NAME_MAX);
    memcpy(x->instance, i->id, sizeof(x->instance));
    r = store_snapshot_each(s, i->id, snapshot_is_new, x->name, e);
    if (r > 0)
        return err_set(e, EEXIST, "%s has a snapshot '%s' already; choose another name, or remove that one", i->name,
                       x->name);
    if (r == 0)
        r = snapshot_copy_spec(s, i->id, &x->spec, e);
    return r < 0 ? r : store_snapshot_new_tag(x->tag, e);
}

int inst_snapshot_create(struct store *s, const struct store_instance *i, const char *name, bool disks_only,
                         const struct disk_progress *progress, struct store_snapshot *ret_snapshot, struct err *e)
{
    AUTO_FREE struct store_snapshot *x = calloc(1, sizeof(*x));
    struct store_job_lock *job = NULL;
    struct err ignored = { 0 };
    bool undone = false;
    int r = x ? snapshot_prepare(s, i, name, x, e) : err_set(e, ENOMEM, "out of memory");

    if (!x)
        return r;
    if (r == 0)
        r = snapshot_job(s, JOB_CREATE, i->id, x->tag, snapshot_pauses(i), &job, e);
    if (r == 0) {
        r = snapshot_take(s, i, x, disks_only, progress, &undone, e);
        if (r == 0)
            r = snapshot_enter(s, x, &job, e);
        else if (undone)
            (void)!store_job_end(s, STEAL(job), &ignored);
    }
    store_job_leave(job); /* what is left is the next command's */
    if (r == 0 && ret_snapshot)
        *ret_snapshot = *x;
    else
        store_snapshot_done(x);
    return r;
}

/* ---- restore ---- */

struct snapshot_part {
    const struct store_instance *i;
    const struct store_snapshot *x;
};

static int snapshot_part_lost(const struct snapshot_part *p, const char *what, const char *path, const char *how,
                              struct err *e)
{
    return err_set(e, ENOENT,
                   "%s: snapshot '%s' is incomplete: its %s %s %s; nothing was changed. Bring that back, or remove the "
                   "snapshot: caisson snapshot rm %s %s",
                   p->i->name, p->x->name, what, path, how, p->i->name, p->x->name);
}

/* The disk may be in use: this is looked at before a VM that runs is ended. */
static int snapshot_find_disk(void *opaque, const struct blk_open_config *disk, struct err *e)
{
    const struct snapshot_part *p = opaque;
    struct blk_open_config config = *disk;
    json_object *list = NULL, *name;
    bool found = false;
    int r;

    config.sharing = BLK_LOCK_NONE;
    r = disk_snapshot_ls(&config, &list, e);
    for (size_t k = 0; r == 0 && k < json_object_array_length(list); k++) {
        found = found || (json_object_object_get_ex(json_object_array_get_idx(list, k), "name", &name) &&
                          strcmp(json_object_get_string(name), p->x->tag) == 0);
    }
    json_object_put(list);
    return r < 0 || found ? r : snapshot_part_lost(p, "disk", disk->path, "does not have it any more", e);
}

/* Whether all parts of a snapshot are there. Before anything is changed for it: half of a state is worse than none. */
static int snapshot_complete(const struct store_instance *i, const struct store_snapshot *x, struct err *e)
{
    struct snapshot_part p = { i, x };
    char path[SNAPSHOT_PATH_MAX];
    struct stat st;
    int r;

    if (i->spec.kind == INST_CONTAINER) {
        r = inst_container_snapshot_path(i, x->tag, path, sizeof(path), e);
    } else {
        r = inst_snapshot_disks(i, snapshot_find_disk, &p, e);
        if (r < 0 || !x->has_memory)
            return r;
        r = inst_snapshot_memory_path(i->id, x->tag, path, sizeof(path), e);
    }
    if (r < 0)
        return r;
    if (stat(path, &st) < 0)
        return snapshot_part_lost(&p, "file", path, errno == ENOENT ? "is missing" : strerror(errno), e);
    if (x->has_memory && (uint64_t)st.st_size != x->memory_bytes)
        return snapshot_part_lost(&p, "file", path, "has another length than it had", e);
    return 0;
}

/* What is saved is of another time than the disks from here on. It goes before they change, the file before the row:
 * whoever is killed in between leaves disks without a memory, never with a wrong one. */
static int snapshot_forget_memory(struct store *s, struct store_instance *now, struct err *e)
{
    char saved[SNAPSHOT_PATH_MAX];
    int r = now->spec.kind == INST_VM ? snapshot_saved_path(now->id, saved, e) : 0;

    if (r < 0 || now->spec.kind != INST_VM)
        return r;
    if (unlink(saved) < 0 && errno != ENOENT)
        return err_set(e, errno, "cannot remove %s: %s", saved, strerror(errno));
    if (now->status != STORE_INST_SAVED)
        return 0;
    now->status = STORE_INST_EXITED;
    return store_instance_set(s, now, NULL, e);
}

/* To the end, from wherever it was. The instance does not run, its lock is held. *job (NULL: that of a dead process) is
 * NULL afterwards where it is gone. *ret_changed: it was begun, so that after an error it has to be ended by somebody.
 */
static int snapshot_go_back(struct store *s, struct store_instance *now, const struct store_snapshot *x,
                            struct store_job_lock **job, bool *ret_changed, struct err *e)
{
    char saved[SNAPSHOT_PATH_MAX], path[SNAPSHOT_PATH_MAX];
    int r = snapshot_complete(now, x, e);

    *ret_changed = r == 0;
    if (r == 0)
        r = snapshot_forget_memory(s, now, e);
    if (r == 0)
        r = now->spec.kind == INST_CONTAINER ? inst_container_snapshot_apply(s, now, x->tag, e)
                                             : snapshot_all_disks(now, DISK_SNAPSHOT_APPLY, x->tag, e);
    if (r == 0)
        r = snapshot_saved_path(now->id, saved, e);
    if (r == 0)
        r = inst_snapshot_memory_path(now->id, x->tag, path, sizeof(path), e);
    if (r == 0 && x->has_memory)
        r = snapshot_link(path, saved, e);
    if (r == 0)
        r = store_begin(s, e);
    if (r < 0)
        return r;
    now->status = x->has_memory                       ? STORE_INST_SAVED
                  : now->status == STORE_INST_CREATED ? STORE_INST_CREATED
                                                      : STORE_INST_EXITED;
    now->wanted = false;
    r = store_instance_update(s, now->id, &x->spec, e);
    if (r == 0)
        r = store_instance_set(s, now, "restore", e);
    if (r == 0 && *job) /* earlier ones that failed must not be ended after this one */
        r = store_job_supersede(s, *job, JOB_RESTORE, now->id, e);
    if (r == 0)
        r = store_job_end(s, STEAL(*job), e);
    if (r == 0)
        r = store_commit(s, e);
    if (r < 0)
        store_rollback(s);
    return r;
}

/* End it at once, if it runs. */
static int snapshot_stop(const struct store_instance *i, bool *ret_ran, struct err *e)
{
    const struct shim_msg_request request = { .op = SHIM_MSG_KILL, .signal = SIGKILL };
    struct inst_info info;
    int code, r = inst_ask(i, &info, e);

    *ret_ran = r == 0 && info.alive;
    if (r < 0 || !info.alive)
        return r;
    r = inst_call(i, &request, INST_CALL_MS, NULL, e);
    if (r == -ENOTCONN)
        return 0; /* ended meanwhile */
    return r < 0 ? r : inst_wait(i, -1, &code, e);
}

/* The instance is locked in now. */
static int snapshot_restore_locked(struct store *s, struct store_instance *now, const struct store_snapshot *x,
                                   struct err *e)
{
    struct store_job_lock *job = NULL;
    struct err ignored = { 0 };
    bool changed = false;
    int r = snapshot_job(s, JOB_RESTORE, now->id, x->tag, false, &job, e);

    if (r == 0)
        r = snapshot_go_back(s, now, x, &job, &changed, e);
    if (r < 0 && !changed)
        (void)!store_job_end(s, STEAL(job), &ignored); /* told to the user; it is not to happen later, unasked */
    store_job_leave(job);                              /* disks of two times: the next command ends it */
    return r;
}

int inst_snapshot_restore(struct store *s, const struct store_instance *i, const char *name, bool *ret_ran,
                          struct err *e)
{
    AUTO_FREE struct store_instance *now = malloc(sizeof(*now));
    AUTO_FREE struct store_snapshot *x = malloc(sizeof(*x));
    struct sys_place place = { .lock = -1, .socket = -1 };
    bool ran = false;
    int r = now && x ? store_snapshot_get(s, i->id, i->name, name, x, e) : err_set(e, ENOMEM, "out of memory");

    if (r < 0)
        return r;
    r = snapshot_complete(i, x, e);
    if (r == 0)
        r = snapshot_stop(i, &ran, e);
    if (r == 0)
        r = snapshot_lock(s, i->id, true, &place, now, e);
    if (r == -EBUSY && (!e || e->code == 0))
        r = err_set(e, EBUSY, "%s was started again at this moment; try once more", i->name);
    if (r == 0) {
        r = snapshot_restore_locked(s, now, x, e);
        store_instance_done(now);
        sys_place_leave(&place);
    }
    store_snapshot_done(x);
    if (r == 0)
        *ret_ran = ran;
    return r;
}

/* ---- rm ---- */

int inst_snapshot_remove(struct store *s, const struct store_instance *i, const char *name, struct err *e)
{
    AUTO_FREE struct store_instance *now = malloc(sizeof(*now));
    AUTO_FREE struct store_snapshot *x = malloc(sizeof(*x));
    struct sys_place place = { .lock = -1, .socket = -1 };
    struct store_job_lock *job = NULL;
    char path[SNAPSHOT_PATH_MAX];
    int r = now && x ? store_snapshot_get(s, i->id, i->name, name, x, e) : err_set(e, ENOMEM, "out of memory");

    if (r < 0)
        return r;
    r = snapshot_job(s, JOB_REMOVE, i->id, x->tag, false, &job, e);
    if (r == 0)
        r = store_snapshot_remove(s, i->id, name, e);
    if (r == 0) {
        struct err why = { 0 };

        r = snapshot_lock(s, i->id, true, &place, now, &why);
        if (r == 0) {
            r = snapshot_drop(now, x->tag, e);
            store_instance_done(now);
            sys_place_leave(&place);
            if (r == 0)
                r = store_job_end(s, STEAL(job), e);
        } else if (r == -EBUSY && why.code == 0 && i->spec.kind == INST_CONTAINER) {
            r = inst_container_snapshot_drop(i, x->tag, e); /* nobody but us uses the file */
            if (r == 0)
                r = store_job_end(s, STEAL(job), e);
        } else if (r == -EBUSY && why.code == 0) {
            /* Its disks are the VM's as long as it runs; the job waits for its end. The memory can go now. */
            r = inst_snapshot_memory_path(i->id, x->tag, path, sizeof(path), e);
            if (r == 0 && unlink(path) < 0 && errno != ENOENT)
                r = err_set(e, errno, "cannot remove %s: %s", path, strerror(errno));
        } else {
            r = err_set(e, -r, "%s", why.text);
        }
    }
    store_job_leave(job);
    store_snapshot_done(x);
    return r;
}

/* ---- what killed processes left ---- */

struct snapshot_search {
    const char *tag;
    char name[PROTO_NAME_MAX + 1];
};

static int snapshot_has_tag(void *opaque, const struct store_snapshot *x)
{
    struct snapshot_search *search = opaque;

    if (strcmp(x->tag, search->tag) != 0)
        return 0;
    memcpy(search->name, x->name, sizeof(search->name));
    return 1;
}

static int snapshot_plan_read(const char *text, struct snapshot_plan *ret_plan)
{
    json_object *o = json_tokener_parse(text), *v;
    int r = -EINVAL;

    *ret_plan = (struct snapshot_plan){ 0 };
    if (o && json_object_object_get_ex(o, "tag", &v) && json_object_is_type(v, json_type_string) &&
        proto_name_ok(json_object_get_string(v))) {
        snprintf(ret_plan->tag, sizeof(ret_plan->tag), "%s", json_object_get_string(v));
        ret_plan->pauses = json_object_object_get_ex(o, "pauses", &v) && json_object_get_boolean(v);
        r = 0;
    }
    json_object_put(o);
    return r;
}

/* Its user has gone on from what there was: going back now would lose that. */
static bool snapshot_is_outrun(const struct store_job *job, const struct store_instance *now)
{
    return strcmp(job->verb, JOB_RESTORE) == 0 && now->started_ns > job->started_ns;
}

/* The instance is locked in now. */
static int snapshot_undo_locked(struct store *s, const struct store_job *job, const char *tag,
                                struct store_instance *now, struct err *e)
{
    AUTO_FREE struct store_snapshot *x = malloc(sizeof(*x));
    struct snapshot_search search = { .tag = tag };
    struct store_job_lock *held_by_repair = NULL;
    bool changed;
    int r = x ? store_snapshot_each(s, now->id, snapshot_has_tag, &search, e) : err_set(e, ENOMEM, "out of memory");

    if (r < 0)
        return r;
    if (r == 0) /* there is no such snapshot: nothing of it shall be left */
        return snapshot_drop(now, tag, e);
    if (strcmp(job->verb, JOB_RESTORE) != 0 || snapshot_is_outrun(job, now))
        return 0; /* the row was the last step of create, and its removal the first one of rm */
    r = store_snapshot_get(s, now->id, now->name, search.name, x, e);
    if (r < 0)
        return r;
    r = snapshot_go_back(s, now, x, &held_by_repair, &changed, e);
    store_snapshot_done(x);
    return r;
}

/* While the instance runs, or somebody works on it. -EBUSY without text: not now. */
static int snapshot_undo_running(struct store *s, const struct store_job *job, const struct snapshot_plan *plan,
                                 struct err *e)
{
    AUTO_FREE struct store_instance *now = malloc(sizeof(*now));
    struct snapshot_search search = { .tag = plan->tag };
    struct inst_info info = { 0 };
    int r = now ? store_instance_get(s, job->object, now, e) : err_set(e, ENOMEM, "out of memory");

    if (r < 0)
        return r == -ENOENT ? 0 : r; /* gone with its instance */
    inst_look(now, &info);
    if (!info.alive || !info.status[0]) /* at work on it, or it hangs */
        r = -EBUSY;
    else if (r == 0 && strcmp(job->verb, JOB_RESTORE) == 0)
        r = snapshot_is_outrun(job, now) ? 0 : -EBUSY;
    else if (r == 0 && now->spec.kind == INST_VM)
        r = -EBUSY; /* the disks are its own */
    else if (r == 0) {
        r = plan->pauses && strcmp(info.status, "paused") == 0 ? inst_container_snapshot_resume(now, e) : 0;
        if (r == 0)
            r = store_snapshot_each(s, now->id, snapshot_has_tag, &search, e);
        r = r == 0 ? inst_container_snapshot_drop(now, plan->tag, e) : MIN(r, 0);
    }
    store_instance_done(now);
    return r;
}

int inst_snapshot_undo(struct store *s, const struct store_job *job, struct err *e)
{
    AUTO_FREE struct store_instance *now = malloc(sizeof(*now));
    struct sys_place place = { .lock = -1, .socket = -1 };
    struct snapshot_plan plan;
    int r;

    if (strcmp(job->verb, JOB_CREATE) != 0 && strcmp(job->verb, JOB_RESTORE) != 0 && strcmp(job->verb, JOB_REMOVE) != 0)
        return 1;
    if (!now)
        return err_set(e, ENOMEM, "out of memory");
    if (snapshot_plan_read(job->plan, &plan) < 0)
        return 0; /* nobody wrote that; there is nothing that could be done about it */
    r = snapshot_lock(s, job->object, false, &place, now, e);
    if (r == -EBUSY && (!e || e->code == 0))
        return snapshot_undo_running(s, job, &plan, e);
    if (r == -ENOENT)
        return 0; /* gone with its instance */
    if (r < 0)
        return r;
    r = snapshot_undo_locked(s, job, plan.tag, now, e);
    store_instance_done(now);
    sys_place_leave(&place);
    return r;
}
