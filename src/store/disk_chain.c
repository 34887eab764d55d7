/* Work on backing chains: commit moves content down, rebase puts an image onto another backing file. In both, content
 * is copied and flushed before the reference to it changes, so that a crash leaves the disk as it was. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "store/disk_priv.h"

static int chain_copy(const struct disk_copy *copy, const char *path, struct err *e)
{
    struct blk_node *guilty = NULL;
    int res = disk_copy_run(copy, NULL, &guilty);

    if (res == 0) {
        guilty = copy->to;
        res = blk_flush(copy->to);
    }
    if (res == -ECANCELED)
        return err_set(e, ECANCELED, "disk %s: cancelled; its content is what it was", path);
    return res < 0
               ? disk_fail(e, res, guilty ? guilty->path : path, NULL, guilty == copy->to ? "write to it" : "read it")
               : 0;
}

/* Open the backing file that an image names, for writing, and as long as the image. */
static int commit_open_backing(const struct blk_open_config *config, struct blk_node *top, struct blk_node **ret_node,
                               struct err *e)
{
    struct blk_open_config lower = *config;
    AUTO_FREE char *full = NULL;
    struct blk_why why = { 0 };
    struct blk_info info;
    int res;

    blk_node_info(top, &info);
    if (!info.backing_path)
        return err_set(e, EINVAL, "disk %s: it has no backing file to commit to", config->path);
    if (disk_backing_path(config->path, info.backing_path, &full) < 0)
        return err_set(e, ENOMEM, "out of memory");
    lower.path = full;
    lower.format = info.backing_format;
    res = disk_open(&lower, ret_node, e);
    if (res < 0)
        return res;
    if ((*ret_node)->size < top->size) {
        res = blk_resize(*ret_node, top->size, BLK_PREALLOC_OFF, &why);
        if (res < 0)
            return disk_fail(e, res, full, &why, "make it as long as the image");
    }
    return 0;
}

int disk_commit(const struct blk_open_config *config, bool keep, const struct disk_progress *progress, struct err *e)
{
    AUTO(blk_node) struct blk_node *top = NULL;
    AUTO(blk_node) struct blk_node *lower = NULL;
    struct blk_open_config c = *config;
    struct disk_copy copy = { .what = DISK_COPY_OWN, .align = BLK_SECTOR, .progress = progress };
    int res;

    /* The chain is opened once for its checks (loops, folders that are allowed), then the image alone: its backing file
     * has to be written to. */
    c.read_only = true;
    res = disk_open(&c, &top, e);
    if (res < 0)
        return res;
    blk_node_close(STEAL(top));
    c.read_only = keep;
    c.backing = BLK_BACKING_NONE;
    res = disk_open(&c, &top, e);
    if (res == 0)
        res = commit_open_backing(config, top, &lower, e);
    if (res < 0)
        return res;
    if (!keep && !top->ops->forget)
        return err_set(e, ENOTSUP, "disk %s: the format %s cannot be emptied; use --keep", config->path,
                       top->ops->name);
    copy.from = top;
    copy.to = lower;
    copy.size = top->size;
    res = chain_copy(&copy, config->path, e);
    if (res < 0 || keep)
        return res;
    res = top->ops->forget(top, 0, top->size);
    if (res == 0)
        res = blk_flush(top);
    return res < 0 ? disk_fail(e, res, config->path, NULL, "empty it; its content is in the backing file") : 0;
}

/* ---- rebase ---- */

/* The new backing chain; one that leads back to the image is refused by name, not by its lock. */
static int rebase_open_new(const struct disk_rebase_config *c, struct blk_node **ret_node, struct err *e)
{
    struct blk_open_config open = c->image;
    struct blk_why why = { 0 };
    AUTO_FREE char *full = NULL;
    int res;

    if (disk_backing_path(c->image.path, c->backing, &full) < 0)
        return err_set(e, ENOMEM, "out of memory");
    open.path = full;
    open.format = c->backing_format;
    open.read_only = true;
    res = blk_open(&open, ret_node, &why);
    if (disk_same_file(full, c->image.path) ||
        (res == -EBUSY && why.path[0] && disk_same_file(why.path, c->image.path)))
        return err_set(e, ELOOP, "disk %s: it would be its own backing file; choose another", c->image.path);
    return res < 0 ? disk_fail(e, res, full, &why, "open the new backing file") : 0;
}

static int rebase_copy(struct blk_node *image, struct blk_node *lower, const struct disk_progress *progress,
                       struct err *e)
{
    struct blk_info info;
    struct disk_copy copy = { .from = image->backing,
                              .to = image,
                              .base = lower,
                              .what = DISK_COPY_NOT_OWNED,
                              .size = image->size,
                              .align = BLK_SECTOR,
                              .blank = !lower,
                              .explicit_zeroes = true,
                              .progress = progress };

    blk_node_info(image, &info);
    copy.sparse = MAX(info.cluster_size, DISK_SPARSE_DEFAULT);
    return chain_copy(&copy, image->path, e);
}

int disk_rebase(const struct disk_rebase_config *c, const struct disk_progress *progress, struct err *e)
{
    AUTO(blk_node) struct blk_node *lower = NULL;
    AUTO(blk_node) struct blk_node *image = NULL;
    struct blk_open_config open = c->image;
    const char *format = c->backing_format;
    struct blk_why why = { 0 };
    int res;

    open.backing = c->unsafe ? BLK_BACKING_NONE : BLK_BACKING_OPEN;
    res = disk_open(&open, &image, e);
    if (res < 0)
        return res;
    if (!image->ops->set_backing)
        return err_set(e, ENOTSUP, "disk %s: the format %s has no backing files; convert it to qcow2", open.path,
                       image->ops->name);
    if (c->backing && !c->unsafe) {
        res = rebase_open_new(c, &lower, e);
        if (res == 0 && !format)
            format = lower->ops->name;
    }
    /* Without an old backing file what is not allocated is zero; above a new one it has to be so explicitly. */
    if (res == 0 && !c->unsafe && (image->backing || lower))
        res = rebase_copy(image, lower, progress, e);
    if (res < 0)
        return res;
    if (c->backing && !format)
        return err_set(e, EINVAL,
                       "disk %s: --unsafe does not look at the backing file; give its format: --backing %s,format=F",
                       open.path, c->backing);
    res = image->ops->set_backing(image, c->backing, format, &why);
    if (res == 0)
        res = blk_flush(image);
    return res < 0 ? disk_fail(e, res, open.path, &why, "change its backing file") : 0;
}
