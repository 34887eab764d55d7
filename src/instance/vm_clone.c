#include "instance/vm_clone.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "instance/lifecycle.h"
#include "instance/place.h"
#include "instance/seed.h"
#include "instance/snapshot.h"
#include "instance/vm_make.h"
#include "proto/vm_spec.h"
#include "sys/copy.h"

struct clone {
    struct store *store;
    const struct inst_vm_clone *how;
    const struct store_instance *source;
    char dir[INST_PATH_MAX]; /* of the source */
    const char *tag;         /* its disks as they are in these internal snapshots; NULL: as they are */
};

/* The file name of a disk that lies in the source's folder; NULL: elsewhere. */
static const char *clone_own(const struct clone *c, const char *path)
{
    size_t len = strlen(c->dir);

    return strncmp(path, c->dir, len) == 0 && path[len] == '/' && !strchr(path + len + 1, '/') ? path + len + 1 : NULL;
}

static int clone_check(const struct clone *c, struct err *e)
{
    const struct vm_spec *vm = c->source->spec.vm;

    for (unsigned k = 0; k < vm->n_disks; k++) {
        const struct vm_disk *d = &vm->disks[k];

        if (!d->read_only && !clone_own(c, d->path))
            return err_set(
                e, EINVAL,
                "%s: two VMs cannot write to its disk %s; copy that with 'caisson disk convert' and make the new "
                "VM with it",
                c->source->name, d->path);
    }
    return 0;
}

/* What the source keeps for itself. */
static int clone_forget_snapshots(const char *path, struct err *e)
{
    const struct blk_open_config config = { .path = path, .format = "qcow2" };
    json_object *list = NULL, *name;
    int r = disk_snapshot_ls(&config, &list, e);

    for (size_t i = 0; r == 0 && i < json_object_array_length(list); i++) {
        if (json_object_object_get_ex(json_object_array_get_idx(list, i), "name", &name) &&
            strncmp(json_object_get_string(name), "caisson-", 8) == 0)
            r = disk_snapshot(&config, DISK_SNAPSHOT_RM, json_object_get_string(name), e);
    }
    json_object_put(list);
    return r;
}

static int clone_copy(const struct clone *c, const char *from, const char *to, bool qcow2, struct err *e)
{
    const struct disk_progress *p = c->how->progress;
    int r = sys_copy_file(from, to, p ? p->step : NULL, p ? p->opaque : NULL);

    if (r < 0)
        return err_set(e, -r, "cannot copy %s: %s", from, strerror(-r));
    return qcow2 ? clone_forget_snapshots(to, e) : 0;
}

/* The disk as it is in an internal snapshot, while its VM goes on. */
static int clone_convert(const struct clone *c, const char *from, const char *to, struct err *e)
{
    const struct blk_open_config source = { .path = from, .format = "qcow2", .sharing = BLK_LOCK_NONE };
    struct disk_convert_config config = {
        .source = source, .snapshot = c->tag, .target = { .path = to, .format = "qcow2" }, .sparse = DISK_SPARSE_DEFAULT
    };
    struct disk_convert_report report;
    json_object *facts = NULL, *backing, *path = NULL;
    int r = disk_info(&source, false, &facts, e);

    if (r < 0)
        return r;
    if (json_object_object_get_ex(json_object_array_get_idx(facts, 0), "backing", &backing) &&
        json_object_object_get_ex(backing, "full_path", &path)) {
        config.target.backing_path = json_object_get_string(path);
        config.target.backing_format = "qcow2"; /* an image's disk */
    }
    r = disk_convert(&config, c->how->progress, &report, e);
    json_object_put(facts);
    return r;
}

static int clone_disk(const struct clone *c, struct store_instance *i, struct vm_disk *d, const char *dir,
                      struct err *e)
{
    const char *name = clone_own(c, d->path);
    bool qcow2 = !d->format || strcmp(d->format, "qcow2") == 0;
    AUTO_FREE char *path = NULL;
    int r;

    if (!name)
        return 0; /* read-only, and nobody's */
    if (asprintf(&path, "%s/%s", dir, name) < 0) {
        path = NULL;
        return err_set(e, ENOMEM, "out of memory");
    }
    if (strcmp(name, INST_VM_SEED) == 0)
        r = inst_seed_copy(d->path, i->id, c->how->hostname ? c->how->hostname : i->name, i->spec.vm, path, e);
    else if (c->tag && !d->read_only)
        r = clone_convert(c, d->path, path, e);
    else
        r = clone_copy(c, d->path, path, qcow2 && !d->read_only, e);
    if (r < 0)
        return r;
    free(d->path);
    d->path = STEAL(path);
    return 0;
}

static int clone_fill(void *opaque, struct store_instance *i, const char *dir, struct err *e)
{
    const struct clone *c = opaque;
    struct vm_spec *vm = i->spec.vm;
    int r;

    for (unsigned k = 0; k < vm->n_nets; k++) {
        memset(vm->nets[k].mac, 0, sizeof(vm->nets[k].mac));
        vm->nets[k].n_forwards = 0; /* a port of the host is one VM's */
    }
    r = inst_vm_cards(vm, i->name, e);
    for (unsigned k = 0; k < vm->n_disks && r == 0; k++)
        r = clone_disk(c, i, &vm->disks[k], dir, e);
    return r;
}

/* Its lock is held, or tag names its disks of one moment. */
static int clone_make(struct clone *c, struct store_instance *ret_instance, struct err *e)
{
    return inst_create(c->store, c->how->name, &c->source->spec, clone_fill, c, ret_instance, e);
}

/* Of one that runs: by a snapshot that is there for that only. */
static int clone_running(struct clone *c, struct store_instance *ret_instance, struct err *e)
{
    AUTO_FREE struct store_snapshot *x = calloc(1, sizeof(*x));
    char name[PROTO_NAME_MAX + 1];
    struct err ignored = { 0 };
    int r;

    if (!x)
        return err_set(e, ENOMEM, "out of memory");
    r = store_snapshot_new_tag(x->tag, e);
    if (r < 0)
        return r;
    snprintf(name, sizeof(name), "clone-%s", x->tag + strlen("caisson-"));
    r = inst_snapshot_create(c->store, c->source, name, true, c->how->progress, x, e); /* it boots: no memory */
    if (r < 0)
        return r;
    c->tag = x->tag;
    r = clone_make(c, ret_instance, e);
    (void)!inst_snapshot_remove(c->store, c->source, name, &ignored); /* else it is in snapshot ls */
    store_snapshot_done(x);
    return r;
}

int inst_vm_clone(struct store *s, const struct store_instance *source, const struct inst_vm_clone *how,
                  struct store_instance *ret_instance, struct err *e)
{
    struct clone c = { .store = s, .how = how, .source = source };
    struct sys_place place = { .lock = -1, .socket = -1 };
    int r;

    if (source->spec.kind != INST_VM)
        return err_set(e, EPROTOTYPE, "%s is a container; make an image of it and run that: caisson commit %s IMAGE",
                       source->name, source->name);
    r = inst_dir(source->id, c.dir, e);
    if (r == 0)
        r = clone_check(&c, e);
    if (r == 0)
        r = inst_lock(source->id, &place, e);
    if (r == -EBUSY && (!e || e->code == 0))
        return clone_running(&c, ret_instance, e);
    if (r == 0)
        r = clone_make(&c, ret_instance, e);
    sys_place_leave(&place);
    return r;
}
