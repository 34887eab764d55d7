/* Checks that hold for every node, defaults for the calls that a node does not have, and iovec arithmetic. */
#include "block/node.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/log.h"

#define BLK_ZERO_CHUNK (64u << 10)

int blk_why_set(struct blk_why *w, int code, const char *path, const char *text)
{
    if (w) {
        w->text = text;
        snprintf(w->path, sizeof(w->path), "%s", path ? path : "");
    }
    return -code;
}

static bool blk_range_ok(const struct blk_node *n, uint64_t off, uint64_t len)
{
    uint64_t size = __atomic_load_n(&n->size, __ATOMIC_RELAXED); /* files grow under the hands of others */

    return off <= size && len <= size - off;
}

/* Protocol nodes hold formats that grow: only formats, whose size is that of a disk, end writes at it. */
static int blk_write_check(const struct blk_node *n, uint64_t off, uint64_t len)
{
    if (n->read_only)
        return -EROFS;
    if (off > INT64_MAX || len > INT64_MAX - off)
        return -EINVAL;
    return !n->file || blk_range_ok(n, off, len) ? 0 : -EINVAL;
}

int blk_preadv(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len)
{
    if (n->file ? !blk_range_ok(n, off, len) : off > INT64_MAX || len > INT64_MAX - off)
        return -EINVAL;
    return len == 0 ? 0 : n->ops->pread(n, off, iov, n_iov, len);
}

int blk_pwritev(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len)
{
    int res = blk_write_check(n, off, len);

    if (res < 0)
        return res;
    if (!n->ops->pwrite)
        return -ENOTSUP;
    return len == 0 ? 0 : n->ops->pwrite(n, off, iov, n_iov, len);
}

int blk_pread(struct blk_node *n, uint64_t off, void *data, uint64_t len)
{
    const struct iovec iov = { .iov_base = data, .iov_len = len };

    return blk_preadv(n, off, &iov, 1, len);
}

int blk_pwrite(struct blk_node *n, uint64_t off, const void *data, uint64_t len)
{
    const struct iovec iov = { .iov_base = (void *)(uintptr_t)data, .iov_len = len };

    return blk_pwritev(n, off, &iov, 1, len);
}

int blk_flush(struct blk_node *n)
{
    if (n->read_only)
        return 0;
    if (n->ops->flush)
        return n->ops->flush(n);
    return n->file ? blk_flush(n->file) : 0;
}

int blk_discard(struct blk_node *n, uint64_t off, uint64_t len)
{
    int res = blk_write_check(n, off, len);

    if (res < 0 || len == 0 || !n->ops->discard)
        return res;
    return n->ops->discard(n, off, len);
}

static int blk_zero_by_data(struct blk_node *n, uint64_t off, uint64_t len)
{
    AUTO_FREE uint8_t *zeroes = aligned_alloc(4096, BLK_ZERO_CHUNK);
    int res = 0;

    if (!zeroes)
        return -ENOMEM;
    memset(zeroes, 0, BLK_ZERO_CHUNK);
    for (uint64_t done = 0; done < len && res == 0; done += BLK_ZERO_CHUNK)
        res = blk_pwrite(n, off + done, zeroes, MIN(len - done, BLK_ZERO_CHUNK));
    return res;
}

int blk_write_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags)
{
    int res = blk_write_check(n, off, len);

    if (res < 0 || len == 0)
        return res;
    res = n->ops->write_zeroes ? n->ops->write_zeroes(n, off, len, flags) : -ENOTSUP;
    return res == -ENOTSUP ? blk_zero_by_data(n, off, len) : res;
}

int blk_extent_here(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *ret_extent)
{
    struct blk_extent all = { .flags = BLK_EXT_DATA | BLK_EXT_ALLOCATED, .len = len };

    if (len == 0 || !blk_range_ok(n, off, len))
        return -EINVAL;
    if (n->ops->extent)
        return n->ops->extent(n, off, len, ret_extent);
    *ret_extent = all;
    return 0;
}

int blk_extent(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *ret_extent)
{
    for (unsigned depth = 0;; depth++) {
        struct blk_extent x;
        int res = blk_extent_here(n, off, len, &x);

        if (res < 0)
            return res;
        if (x.flags & BLK_EXT_ALLOCATED || !n->backing || off >= n->backing->size) {
            if (!(x.flags & BLK_EXT_ALLOCATED)) /* nobody has it, or the chain ends before it */
                x.flags = BLK_EXT_ZERO;
            x.depth = depth;
            *ret_extent = x;
            return 0;
        }
        n = n->backing;
        len = MIN(x.len, n->size - off);
    }
}

int blk_map(struct blk_node *n, enum blk_op op, uint64_t off, uint64_t len, struct blk_piece pieces[BLK_PIECES_MAX])
{
    if (!n->ops->map || len == 0 || !blk_range_ok(n, off, len) || (op == BLK_WRITE && n->read_only))
        return 0;
    return n->ops->map(n, op, off, len, pieces);
}

void blk_unmap(struct blk_node *n)
{
    if (n->ops->unmap)
        n->ops->unmap(n);
}

int blk_resize(struct blk_node *n, uint64_t size, enum blk_prealloc prealloc, struct blk_why *why)
{
    if (n->read_only)
        return -EROFS;
    if (size > INT64_MAX)
        return -EFBIG;
    if (!n->ops->resize)
        return -ENOTSUP;
    return n->ops->resize(n, size, prealloc, why);
}

void blk_node_info(struct blk_node *n, struct blk_info *ret_info)
{
    *ret_info = (struct blk_info){ .format = n->ops->name, .path = n->path, .virtual_size = n->size };
    if (n->ops->info)
        n->ops->info(n, ret_info);
}

void blk_node_close(struct blk_node *n)
{
    struct blk_node *backing;

    for (; n; n = backing) {
        backing = n->backing;
        if (blk_flush(n) < 0)
            log_debug("block: %s: the last flush failed", n->path ? n->path : "?");
        n->ops->close(n);
    }
}

/* ---- iovecs ---- */

unsigned blk_iov_slice(const struct iovec *iov, unsigned n_iov, uint64_t skip, uint64_t len, struct iovec *out)
{
    unsigned n_out = 0;

    for (unsigned i = 0; i < n_iov && len > 0; i++) {
        uint64_t n;

        if (skip >= iov[i].iov_len) {
            skip -= iov[i].iov_len;
            continue;
        }
        n = MIN(len, iov[i].iov_len - skip);
        out[n_out++] = (struct iovec){ .iov_base = (uint8_t *)iov[i].iov_base + skip, .iov_len = n };
        len -= n;
        skip = 0;
    }
    return n_out;
}

/* What to do with one contiguous part of iovecs; other is the place in the flat buffer. */
enum blk_iov_way { BLK_IOV_OUT, BLK_IOV_IN, BLK_IOV_ZERO };

static void blk_iov_walk(const struct iovec *iov, unsigned n_iov, uint64_t skip, uint8_t *other, uint64_t len,
                         enum blk_iov_way way)
{
    for (unsigned i = 0; i < n_iov && len > 0; i++) {
        uint8_t *at;
        uint64_t n;

        if (skip >= iov[i].iov_len) {
            skip -= iov[i].iov_len;
            continue;
        }
        at = (uint8_t *)iov[i].iov_base + skip;
        n = MIN(len, iov[i].iov_len - skip);
        if (way == BLK_IOV_OUT)
            memcpy(other, at, n);
        else if (way == BLK_IOV_IN)
            memcpy(at, other, n);
        else
            memset(at, 0, n);
        other = other ? other + n : NULL;
        len -= n;
        skip = 0;
    }
}

void blk_iov_to_buf(const struct iovec *iov, unsigned n_iov, uint64_t skip, void *buf, uint64_t len)
{
    blk_iov_walk(iov, n_iov, skip, buf, len, BLK_IOV_OUT);
}

void blk_iov_from_buf(const struct iovec *iov, unsigned n_iov, uint64_t skip, const void *buf, uint64_t len)
{
    blk_iov_walk(iov, n_iov, skip, (uint8_t *)(uintptr_t)buf, len, BLK_IOV_IN);
}

void blk_iov_zero(const struct iovec *iov, unsigned n_iov, uint64_t skip, uint64_t len)
{
    blk_iov_walk(iov, n_iov, skip, NULL, len, BLK_IOV_ZERO);
}

bool blk_buf_is_zero(const void *buf, size_t len)
{
    const uint8_t *p = buf;

    /* Sixteen bytes by hand, then a buffer is all zeroes if it equals itself one place on: memcmp is vectorised. */
    for (size_t i = 0; i < MIN(len, 16u); i++) {
        if (p[i])
            return false;
    }
    return len <= 16 || memcmp(p, p + 16, len - 16) == 0;
}
