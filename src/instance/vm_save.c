#include "instance/vm_save.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "instance/client.h"
#include "instance/place.h"

#define SAVE_NAP_NS 10000000L
#define SAVE_PATH_MAX (INST_PATH_MAX + 32)

/* ---- asking ---- */

/* One request of proto/vm_msg.h, through the supervisor. Puts request. */
static int save_call(const struct store_instance *i, json_object *request, json_object **ret_reply, struct err *e)
{
    struct shim_msg_request message = { .op = SHIM_MSG_VM, .value = request };
    int r = request ? inst_call(i, &message, INST_CALL_MS, ret_reply, e) : err_set(e, ENOMEM, "out of memory");

    shim_msg_request_done(&message);
    return r;
}

static json_object *save_op(const char *op)
{
    json_object *o = json_object_new_object();

    if (o)
        json_object_object_add(o, "op", json_object_new_string(op));
    return o;
}

static int save_begin(const struct store_instance *i, const struct inst_vm_save *how, struct err *e)
{
    json_object *o = save_op("save"), *reply = NULL;
    int r;

    if (o) {
        if (how->path)
            json_object_object_add(o, "path", json_object_new_string(how->path));
        else
            json_object_object_add(o, "disks_only", json_object_new_boolean(true));
        json_object_object_add(o, "replace", json_object_new_boolean(true));
        json_object_object_add(o, "stop", json_object_new_boolean(how->stop));
        if (how->snapshot)
            json_object_object_add(o, "snapshot", json_object_new_string(how->snapshot));
    }
    r = save_call(i, o, &reply, e);
    json_object_put(reply);
    return r;
}

static uint64_t save_number(json_object *status, const char *key)
{
    json_object *v;

    return json_object_object_get_ex(status, key, &v) ? json_object_get_uint64(v) : 0;
}

/* What the VM says of the job. 1: it goes on. */
static int save_judge(const struct store_instance *i, json_object *status, const struct inst_vm_save *how,
                      uint64_t *ret_size, struct err *e)
{
    json_object *v, *text;
    const char *state = json_object_object_get_ex(status, "state", &v) ? json_object_get_string(v) : "";
    int code = (int)save_number(status, "code");

    if (strcmp(state, "running") == 0)
        return 1;
    if (strcmp(state, "done") == 0) {
        *ret_size = save_number(status, "size");
        return 0;
    }
    if (how->ret_undone)
        *how->ret_undone = strcmp(state, "canceled") == 0 || strcmp(state, "failed") == 0;
    if (strcmp(state, "canceled") == 0)
        return err_set(e, ECANCELED, "VM %s: saving was canceled; it goes on", i->name);
    return err_set(e, code > 0 ? code : EIO, "VM %s: cannot save it: %s", i->name,
                   json_object_object_get_ex(status, "error", &text) ? json_object_get_string(text)
                                                                     : "it does not say why");
}

/* Ask once. 1: it goes on. */
static int save_poll(const struct store_instance *i, const struct inst_vm_save *how, bool *canceled, uint64_t *ret_size,
                     struct err *e)
{
    const struct disk_progress *progress = how->progress;
    json_object *reply = NULL, *status, *ignored = NULL;
    int r = save_call(i, save_op("save-status"), &reply, e);

    if (r < 0)
        return r;
    if (!json_object_object_get_ex(reply, "save", &status))
        r = err_set(e, EPROTO, "VM %s: its answer makes no sense; install all programs from one build", i->name);
    else
        r = save_judge(i, status, how, ret_size, e);
    if (r == 1 && progress && !*canceled &&
        !progress->step(progress->opaque, save_number(status, "done"), save_number(status, "total"))) {
        struct err unimportant = { 0 };

        *canceled = true;
        (void)!save_call(i, save_op("save-cancel"), &ignored, &unimportant); /* the status tells how it went */
        json_object_put(ignored);
    }
    json_object_put(reply);
    return r;
}

int inst_vm_save_to(const struct store_instance *i, const struct inst_vm_save *how, uint64_t *ret_size, struct err *e)
{
    const struct timespec nap = { .tv_nsec = SAVE_NAP_NS };
    bool canceled = false;
    int r;

    if (i->spec.kind != INST_VM)
        return err_set(e, EPROTOTYPE, "%s is a container; only VMs can be saved, see 'caisson pause'", i->name);
    r = save_begin(i, how, e);
    if (r < 0)
        return r;
    while ((r = save_poll(i, how, &canceled, ret_size, e)) == 1)
        nanosleep(&nap, NULL);
    return r;
}

static int save_path(const char *id, const char *name, char ret_path[SAVE_PATH_MAX], struct err *e)
{
    char dir[INST_PATH_MAX];
    int r = inst_dir(id, dir, e);

    if (r == 0)
        snprintf(ret_path, SAVE_PATH_MAX, "%s/%s", dir, name);
    return r;
}

int inst_vm_save(const struct store_instance *i, const struct disk_progress *progress, uint64_t *ret_size,
                 struct err *e)
{
    char path[SAVE_PATH_MAX];
    struct inst_vm_save how = { .path = path, .stop = true, .progress = progress };
    int code, r = save_path(i->id, INST_VM_MEMORY, path, e);

    if (r == 0)
        r = inst_vm_save_to(i, &how, ret_size, e);
    return r < 0 ? r : inst_wait(i, -1, &code, e);
}

int inst_vm_discard(struct store *s, const struct store_instance *i, struct err *e)
{
    AUTO_FREE struct store_instance *now = malloc(sizeof(*now));
    struct sys_place place = { .lock = -1, .socket = -1 };
    char path[SAVE_PATH_MAX];
    int r = now ? save_path(i->id, INST_VM_MEMORY, path, e) : err_set(e, ENOMEM, "out of memory");

    if (r == 0)
        r = inst_lock(i->id, &place, e);
    if (r == -EBUSY && (!e || e->code == 0))
        return err_set(e, EBUSY, "%s is running; there is no saved memory", i->name);
    if (r < 0)
        return r;
    r = store_instance_get(s, i->id, now, e);
    if (r == 0) {
        if (now->status != STORE_INST_SAVED)
            r = err_set(e, EINVAL, "%s is not saved; see 'caisson ls -a'", i->name);
        if (r == 0 && unlink(path) < 0 && errno != ENOENT)
            r = err_set(e, errno, "%s: cannot remove %s: %s", i->name, path, strerror(errno));
        now->status = STORE_INST_EXITED;
        if (r == 0)
            r = store_instance_set(s, now, "discard", e);
        store_instance_done(now);
    }
    sys_place_leave(&place);
    return r;
}

/* ---- the supervisor's side ---- */

static void save_file(const char *dir, const char *name, char ret_path[SAVE_PATH_MAX])
{
    snprintf(ret_path, SAVE_PATH_MAX, "%s/%s", dir, name);
}

bool inst_vm_is_saved(const char *dir)
{
    char path[SAVE_PATH_MAX];

    save_file(dir, INST_VM_MEMORY, path);
    return access(path, F_OK) == 0;
}

int inst_vm_open_memory(const char *dir, const char *name, int *ret_fd, struct err *e)
{
    char path[SAVE_PATH_MAX];
    int fd;

    save_file(dir, INST_VM_MEMORY, path);
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno != ENOENT)
        return err_set(e, errno, "VM %s: cannot open its saved memory %s: %s", name, path, strerror(errno));
    *ret_fd = fd;
    return 0;
}

int inst_vm_take_memory(const char *dir, const char *name, struct err *e)
{
    char path[SAVE_PATH_MAX], run[SAVE_PATH_MAX];

    save_file(dir, INST_VM_MEMORY, path);
    save_file(dir, INST_VM_MEMORY_RUN, run);
    return rename(path, run) < 0
               ? err_set(e, errno, "VM %s: cannot rename its saved memory %s: %s", name, path, strerror(errno))
               : 0;
}

void inst_vm_drop_memory(const char *dir)
{
    char run[SAVE_PATH_MAX];

    save_file(dir, INST_VM_MEMORY_RUN, run);
    unlink(run);
}

void inst_vm_keep_memory(const char *dir)
{
    char path[SAVE_PATH_MAX], run[SAVE_PATH_MAX];

    save_file(dir, INST_VM_MEMORY, path);
    save_file(dir, INST_VM_MEMORY_RUN, run);
    if (rename(run, path) < 0)
        unlink(run);
}
