#include "vmm/save_disks.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "block/image.h"
#include "block/node.h"
#include "vmm/devices_disk.h"
#include "vmm/machine_priv.h"

static struct blk_node *disks_node(const struct machine *m, unsigned i)
{
    return blk_image_node(m->disks[i]->image);
}

static bool disks_has(struct blk_node *n, const char *name)
{
    AUTO_FREE struct blk_snapshot *list = NULL;
    unsigned count = 0;

    if (!n->ops->snapshot_list || n->ops->snapshot_list(n, &list, &count) < 0)
        return false;
    for (unsigned i = 0; i < count; i++) {
        if (strcmp(list[i].name, name) == 0)
            return true;
    }
    return false;
}

static int disks_error(const char *path, int r, const struct blk_why *why, const char *what, struct err *e)
{
    return err_set(e, -r, "disk %s: cannot %s: %s", path, what, why->text ? why->text : strerror(-r));
}

static int disks_snapshot(struct blk_node *n, const char *path, const char *name, struct err *e)
{
    AUTO_FREE struct blk_snapshot *s = calloc(1, sizeof(*s));
    AUTO_FREE struct blk_why *why = calloc(1, sizeof(*why));
    struct timespec now = { 0 };
    int r;

    if (!s || !why)
        return err_set(e, ENOMEM, "out of memory");
    if (!n->ops->snapshot_create)
        return err_set(e, ENOTSUP,
                       "disk %s: the format %s has no snapshots; convert it to qcow2, or leave out --snapshot", path,
                       n->ops->name);
    if (disks_has(n, name))
        return err_set(e, EEXIST, "disk %s: the snapshot '%s' exists already; choose another name", path, name);
    clock_gettime(CLOCK_REALTIME, &now);
    s->disk_size = n->size;
    s->date_ns = (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
    snprintf(s->name, sizeof(s->name), "%s", name);
    r = n->ops->snapshot_create(n, s, why);
    return r < 0 ? disks_error(path, r, why, "make the snapshot", e) : 0;
}

int save_disks(struct machine *m, const char *snapshot, unsigned *n_made, struct err *e)
{
    const struct vm_spec *s = m->spec;

    *n_made = 0;
    for (unsigned i = 0; i < s->n_disks; i++) {
        struct blk_node *n = disks_node(m, i);
        int r = n->read_only ? 0 : blk_flush(n);

        if (r < 0)
            return err_set(e, -r, "disk %s: cannot flush it: %s; the VM was not saved", s->disks[i].path, strerror(-r));
    }
    for (unsigned i = 0; i < s->n_disks && snapshot[0]; i++) {
        struct blk_node *n = disks_node(m, i);
        int r = n->read_only ? 0 : disks_snapshot(n, s->disks[i].path, snapshot, e);

        if (r < 0)
            return r;
        *n_made = i + 1;
    }
    return 0;
}

void save_disks_undo(struct machine *m, const char *snapshot, unsigned n)
{
    AUTO_FREE struct blk_why *why = calloc(1, sizeof(*why));

    for (unsigned i = 0; i < n; i++) {
        struct blk_node *node = disks_node(m, i);

        if (!node->read_only && (!why || node->ops->snapshot_delete(node, snapshot, why) < 0))
            log_warn("disk %s: the snapshot '%s' of a VM that was not saved is left over; remove it with caisson disk "
                     "snapshot rm",
                     node->path, snapshot);
    }
}

int save_disk_apply(struct blk_node *node, const char *path, const char *snapshot, struct err *e)
{
    AUTO_FREE struct blk_why *why = calloc(1, sizeof(*why));
    int r;

    if (!why)
        return err_set(e, ENOMEM, "out of memory");
    if (!node->ops->snapshot_apply || !disks_has(node, snapshot))
        return err_set(e, ENOENT,
                       "disk %s: it has no snapshot '%s', which belongs to the saved VM; give the disk that has it",
                       path, snapshot);
    r = node->ops->snapshot_apply(node, snapshot, why);
    return r < 0 ? disks_error(path, r, why, "go back to the snapshot", e) : 0;
}
