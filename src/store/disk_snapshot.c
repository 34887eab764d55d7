/* Internal snapshots and persistent dirty bitmaps of an image: one change, then a flush. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/bits.h"
#include "store/disk_priv.h"

#define BITMAP_GRANULARITY_DEFAULT 65536u

static int snapshot_end(struct blk_node *n, int res, const char *object, const char *name, const struct blk_why *why,
                        const char *what, struct err *e)
{
    if (res == 0) {
        res = blk_flush(n);
        why = NULL;
    }
    if (res == 0)
        return 0;
    /* These say better what was looked for than the image can. */
    if (res == -ENOENT)
        return err_set(e, ENOENT, "disk %s: there is no %s '%s'; see 'caisson disk %s ls %s'", n->path, object, name,
                       object, n->path);
    if (res == -EEXIST)
        return err_set(e, EEXIST, "disk %s: the %s '%s' exists already; choose another name", n->path, object, name);
    return disk_fail(e, res, n->path, why, what);
}

static int snapshot_name_check(const char *object, const char *name, struct err *e)
{
    if (name[0] == '\0' || strlen(name) >= BLK_NAME_MAX)
        return err_set(e, EINVAL, "the name of a %s has 1 to %d bytes; choose another", object, BLK_NAME_MAX - 1);
    for (const char *p = name; *p; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return err_set(e, EINVAL, "the name of a %s cannot have control characters; choose another", object);
    }
    return 0;
}

static bool snapshot_exists(struct blk_node *n, const char *name)
{
    struct blk_snapshot *list = NULL;
    unsigned count = 0;
    bool found = false;

    if (!n->ops->snapshot_list || n->ops->snapshot_list(n, &list, &count) < 0)
        return false;
    for (unsigned i = 0; i < count; i++)
        found |= strcmp(list[i].name, name) == 0;
    free(list);
    return found;
}

static int snapshot_create(struct blk_node *n, const char *name, struct blk_why *why)
{
    struct blk_snapshot s = { .disk_size = n->size };
    struct timespec now;

    if (snapshot_exists(n, name))
        return -EEXIST;
    clock_gettime(CLOCK_REALTIME, &now);
    s.date_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    snprintf(s.name, sizeof(s.name), "%s", name);
    return n->ops->snapshot_create(n, &s, why);
}

int disk_snapshot(const struct blk_open_config *config, enum disk_snapshot_verb verb, const char *name, struct err *e)
{
    AUTO(blk_node) struct blk_node *n = NULL;
    struct blk_why why = { 0 };
    int res = snapshot_name_check("snapshot", name, e);

    if (res == 0)
        res = disk_open_alone(config, config->read_only, &n, e);
    if (res < 0)
        return res;
    if (!n->ops->snapshot_create || !n->ops->snapshot_apply || !n->ops->snapshot_delete)
        return err_set(e, ENOTSUP, "disk %s: the format %s has no snapshots; convert it to qcow2", config->path,
                       n->ops->name);
    switch (verb) {
    case DISK_SNAPSHOT_CREATE:
        res = snapshot_create(n, name, &why);
        return snapshot_end(n, res, "snapshot", name, &why, "make the snapshot", e);
    case DISK_SNAPSHOT_APPLY:
        res = n->ops->snapshot_apply(n, name, &why);
        return snapshot_end(n, res, "snapshot", name, &why, "go back to the snapshot", e);
    case DISK_SNAPSHOT_RM:
        res = n->ops->snapshot_delete(n, name, &why);
        return snapshot_end(n, res, "snapshot", name, &why, "remove the snapshot", e);
    }
    return err_set(e, EINVAL, "disk %s: no such thing to do with a snapshot", config->path);
}

static int bitmap_call(struct blk_node *n, enum disk_bitmap_verb verb, const char *name, uint32_t granularity,
                       bool enabled, struct blk_why *why)
{
    switch (verb) {
    case DISK_BITMAP_ADD:
        return n->ops->bitmap_add(n, name, granularity, enabled, why);
    case DISK_BITMAP_RM:
        return n->ops->bitmap_remove(n, name, why);
    case DISK_BITMAP_ENABLE:
    case DISK_BITMAP_DISABLE:
        return n->ops->bitmap_enable(n, name, verb == DISK_BITMAP_ENABLE, why);
    case DISK_BITMAP_CLEAR:
        return n->ops->bitmap_clear(n, name, why);
    }
    return -EINVAL;
}

int disk_bitmap(const struct blk_open_config *config, enum disk_bitmap_verb verb, const char *name,
                uint32_t granularity, bool enabled, struct err *e)
{
    AUTO(blk_node) struct blk_node *n = NULL;
    struct blk_why why = { 0 };
    int res = snapshot_name_check("bitmap", name, e);

    if (granularity == 0)
        granularity = BITMAP_GRANULARITY_DEFAULT;
    if (res == 0 && (!is_pow2(granularity) || granularity < BLK_SECTOR))
        res = err_set(e, EINVAL, "a bitmap's granularity is a power of two from 512; %u is none", granularity);
    if (res == 0)
        res = disk_open_alone(config, config->read_only, &n, e);
    if (res < 0)
        return res;
    if (!n->ops->bitmap_add || !n->ops->bitmap_remove || !n->ops->bitmap_enable || !n->ops->bitmap_clear)
        return err_set(e, ENOTSUP, "disk %s: the format %s has no bitmaps; convert it to qcow2", config->path,
                       n->ops->name);
    res = bitmap_call(n, verb, name, granularity, enabled, &why);
    return snapshot_end(n, res, "bitmap", name, &why, "change the bitmap", e);
}
