/* The raw format: the bytes of the file are the bytes of the disk. A node of its own, so that a disk's size is fixed
 * while a file's is not. A file that does not end with a sector can be read: the rest of its last sector is zeroes. */
#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "block/open.h"

static int blk_raw_pread(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len)
{
    return blk_preadv(n->file, off, iov, n_iov, len);
}

static int blk_raw_pwrite(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len)
{
    return blk_pwritev(n->file, off, iov, n_iov, len);
}

static int blk_raw_discard(struct blk_node *n, uint64_t off, uint64_t len)
{
    return blk_discard(n->file, off, len);
}

static int blk_raw_write_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags)
{
    return blk_write_zeroes(n->file, off, len, flags);
}

static int blk_raw_extent(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *ret_extent)
{
    uint64_t end = n->file->size;
    int res = 0;

    if (off < end)
        res = blk_extent_here(n->file, off, MIN(len, end - off), ret_extent);
    else /* of the last sector */
        *ret_extent = (struct blk_extent){ .flags = BLK_EXT_ZERO, .len = len };
    if (res == 0) /* without a backing file, all of it is decided here */
        ret_extent->flags |= BLK_EXT_ALLOCATED;
    return res;
}

static int blk_raw_map(struct blk_node *n, enum blk_op op, uint64_t off, uint64_t len,
                       struct blk_piece pieces[BLK_PIECES_MAX])
{
    return n->size == n->file->size ? blk_map(n->file, op, off, len, pieces) : 0; /* 0: zeroes are to be added */
}

static void blk_raw_unmap(struct blk_node *n)
{
    blk_unmap(n->file);
}

static int blk_raw_resize(struct blk_node *n, uint64_t size, enum blk_prealloc prealloc, struct blk_why *why)
{
    int res = blk_resize(n->file, size, prealloc, why);

    if (res == 0)
        n->size = n->file->size;
    return res;
}

static void blk_raw_info(struct blk_node *n, struct blk_info *ret_info)
{
    struct blk_info file;

    blk_node_info(n->file, &file);
    ret_info->actual_size = file.actual_size;
}

static void blk_raw_close(struct blk_node *n)
{
    blk_node_close(n->file);
    free(n->path);
    free(n);
}

static const struct blk_node_ops blk_raw_node_ops = {
    .name = "raw",
    .pread = blk_raw_pread,
    .pwrite = blk_raw_pwrite,
    .discard = blk_raw_discard,
    .write_zeroes = blk_raw_write_zeroes,
    .extent = blk_raw_extent,
    .map = blk_raw_map,
    .unmap = blk_raw_unmap,
    .resize = blk_raw_resize,
    .info = blk_raw_info,
    .close = blk_raw_close,
};

static int blk_raw_open_node(struct blk_node *file, const struct blk_open_config *config, struct blk_node **ret_node,
                             struct blk_why *why)
{
    struct blk_node *n;

    if (file->size == 0)
        return blk_why_set(why, ENOMEDIUM, config->path, "is empty");
    if (file->size % BLK_SECTOR && !config->read_only)
        return blk_why_set(why, EMEDIUMTYPE, config->path,
                           "has a size that is not a multiple of 512 bytes, so it can only be read");
    if (file->size > INT64_MAX - BLK_SECTOR)
        return -EFBIG;
    n = calloc(1, sizeof(*n));
    if (!n)
        return -ENOMEM;
    *n = (struct blk_node){ .ops = &blk_raw_node_ops,
                            .size = align_up(file->size, BLK_SECTOR),
                            .read_only = config->read_only,
                            .block_size = file->block_size,
                            .physical_block_size = file->physical_block_size,
                            .file = file };
    *ret_node = n;
    return 0;
}

static int blk_raw_create(struct blk_node *file, const struct blk_create_config *config, struct blk_why *why)
{
    return blk_resize(file, config->size, config->prealloc, why);
}

const struct blk_format blk_format_raw = {
    .name = "raw",
    .can_write = true,
    .open = blk_raw_open_node,
    .create = blk_raw_create,
};
