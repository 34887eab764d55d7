/* The disk's size, and storage in advance. A longer disk is longer in memory first, and in the header at the very end,
 * when what lies behind the old end is known to read as zeroes; a shorter one the other way round. */
#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/log.h"
#include "block/qcow2/qcow2_priv.h"

static uint64_t q2_l1_needed(const struct q2 *q, uint64_t size)
{
    return size ? ((size - 1) >> (q->cluster_bits + q->l2_bits)) + 1 : 0;
}

/* Header to stable storage. */
static int q2_header_commit(struct q2 *q)
{
    int res = q2_header_write_locked(q);

    return res < 0 ? res : blk_flush(q->node.file);
}

static int q2_l1_place(struct q2 *q, uint64_t *table, uint64_t entries)
{
    uint64_t bytes = entries * 8, old_off = q->h.l1_off, off;
    uint32_t old_size = q->h.l1_size;
    AUTO_FREE uint64_t *be = calloc(1, align_up(bytes, BLK_SECTOR));
    int res;

    if (!be)
        return -ENOMEM;
    for (uint64_t i = 0; i < entries; i++)
        be[i] = htobe64(table[i]);
    res = q2_alloc_meta_locked(q, bytes, &off);
    if (res < 0)
        return res;
    res = blk_pwrite(q->node.file, off, be, align_up(bytes, BLK_SECTOR));
    if (res == 0)
        res = q2_writeback_locked(q, true);
    if (res == 0) {
        q->h.l1_off = off;
        q->h.l1_size = (uint32_t)entries;
        res = q2_header_commit(q);
        if (res == 0) {
            q2_free_meta_locked(q, old_off, (uint64_t)old_size * 8);
            return 0;
        }
        q->h.l1_off = old_off;
        q->h.l1_size = old_size;
    }
    q2_unalloc_locked(q, off, q2_clusters(q, bytes));
    return res;
}

int q2_l1_grow(struct q2 *q, uint64_t entries)
{
    uint64_t *grown;

    if (entries <= q->h.l1_size)
        return 0;
    if (entries > Q2_L1_BYTES_MAX / 8)
        return -EFBIG;
    grown = realloc(q->l1, entries * 8);
    if (!grown)
        return -ENOMEM;
    q->l1 = grown;
    memset(grown + q->h.l1_size, 0, (entries - q->h.l1_size) * 8);
    return q2_l1_place(q, grown, entries);
}

/* ---- preallocation ---- */

static uint64_t q2_prealloc_bits(const struct q2 *q)
{
    if (q->luks) /* zeroes in the file would not decrypt to zeroes */
        return BITS64(63, 32);
    return q->h.backing ? 0 : BITS64(31, 0);
}

/* Clusters in the image file, n or fewer; they read as zeroes when this returns. */
static int q2_prealloc_place(struct q2 *q, uint64_t *n, enum blk_prealloc prealloc, uint64_t *ret_off)
{
    struct blk_node *file = q->node.file;
    uint64_t zero_from = q->zero_from, end;
    int res = q2_alloc_at_end_locked(q, *n, ret_off);

    if (res < 0)
        return res;
    end = *ret_off + (*n << q->cluster_bits);
    if (*ret_off < zero_from && *ret_off < file->size)
        res = blk_write_zeroes(file, *ret_off, MIN(end, file->size) - *ret_off, 0);
    if (res == 0 && end > file->size)
        res = blk_resize(file, end, prealloc, NULL);
    if (res < 0)
        q2_unalloc_locked(q, *ret_off, *n);
    return res;
}

/* As many clusters as have no storage from first on, up to n, of one L2 table. *n: how many were done. */
static int q2_prealloc_step(struct q2 *q, uint64_t first, uint64_t *n, enum blk_prealloc prealloc)
{
    uint64_t off = first << q->cluster_bits, count = 0, host, max;
    struct q2_table *t;
    unsigned i;
    int res = q2_l2_for_write_locked(q, off, &t, &i);

    if (res < 0)
        return res;
    max = MIN(*n, BIT64(q->l2_bits) - i);
    while (count < max && !(q2_entry(q, t, i + (unsigned)count) & (Q2_OFFSET_MASK | Q2_COMPRESSED | Q2_COPIED)))
        count++;
    *n = MAX(count, 1u);
    if (count == 0)
        return 0;
    host = off;
    if (!q->own_data)
        res = q2_prealloc_place(q, &count, prealloc, &host);
    if (res == 0)
        res = q2_l2_for_write_locked(q, off, &t, &i);
    for (uint64_t k = 0; k < count && res == 0; k++) {
        uint64_t zero = q->luks && !q->extl2 && q->h.version >= 3 ? Q2_ZERO : 0;
        bool was_zero = q2_entry(q, t, i + (unsigned)k) & Q2_ZERO || q2_entry_bits(q, t, i + (unsigned)k);

        q2_entry_set_locked(q, t, i + (unsigned)k,
                            (host + (k << q->cluster_bits)) | Q2_COPIED | (was_zero && !q->extl2 ? Q2_ZERO : zero),
                            was_zero ? BITS64(63, 32) : q2_prealloc_bits(q));
    }
    return res;
}

int q2_preallocate(struct q2 *q, uint64_t off, uint64_t len, enum blk_prealloc prealloc)
{
    uint64_t first = off >> q->cluster_bits, end = q2_clusters(q, off + len);
    int res = 0;

    if (prealloc == BLK_PREALLOC_OFF || len == 0)
        return 0;
    while (first < end && res == 0) {
        uint64_t n = end - first;

        res = q2_relieve(q);
        if (res < 0)
            break;
        pthread_mutex_lock(&q->lock);
        (void)q2_claim_wait_locked(q, first, n);
        res = q2_prealloc_step(q, first, &n, prealloc);
        pthread_mutex_unlock(&q->lock);
        first += n;
    }
    return res;
}

/* ---- growing ---- */

static int q2_grow_begin(struct q2 *q, uint64_t size, struct blk_why *why)
{
    int res = q2_exclusive_begin(q);

    if (res < 0)
        return res;
    res = q->corrupt ? -EIO : 0;
    if (res == 0 && q->h.n_snapshots && q->h.version < 3)
        res = blk_why_set(why, ENOTSUP, q->node.path, "is of qcow2 version 2 and has snapshots, so its size is fixed");
    if (res == 0)
        res = q2_l1_grow(q, q2_l1_needed(q, size));
    if (res == -EFBIG)
        (void)blk_why_set(why, EFBIG, q->node.path, "cannot get that long with its cluster size");
    if (res == 0)
        res = q2_bitmaps_resize(q, size, why);
    if (res == 0 && q->own_data && q->own_data->size < size)
        res = blk_resize(q->own_data, size, BLK_PREALLOC_OFF, why);
    if (res == 0)
        q->node.size = size;
    q2_exclusive_end(q);
    return res;
}

/* What lies behind the old end must read as zeroes: clusters that a shrink has left which was killed, the rest of the
 * last cluster, and what a longer backing file has. */
static int q2_grow_zero(struct q2 *q, uint64_t old, uint64_t size)
{
    uint64_t end = MIN(align_up(old, q->cluster_size), size), first = q2_clusters(q, old);
    int res;

    if (old == 0) /* new */
        return 0;
    res = q2_wipe(q, first, q2_clusters(q, size) - first, Q2_WIPE_FORGET);
    if (res < 0)
        return res;
    if (q->node.backing)
        end = MAX(end, MIN(q->node.backing->size, size));
    else if (q->h.backing) /* of a length that nobody looked at */
        end = size;
    return end > old ? blk_write_zeroes(&q->node, old, end - old, 0) : 0;
}

static int q2_size_commit(struct q2 *q, uint64_t size)
{
    uint64_t old = q->h.size;
    int res = q2_exclusive_begin(q);

    if (res < 0)
        return res;
    q->h.size = size;
    res = q2_header_commit(q);
    if (res < 0)
        q->h.size = old;
    else
        q->node.size = size;
    q2_exclusive_end(q);
    return res;
}

static int q2_grow(struct q2 *q, uint64_t size, enum blk_prealloc prealloc, struct blk_why *why)
{
    uint64_t old = q->node.size;
    int res;

    if (prealloc != BLK_PREALLOC_OFF && q->h.backing && !q->extl2)
        return blk_why_set(why, ENOTSUP, q->node.path,
                           "has a backing file, so preallocation takes extended L2 entries; leave it out");
    if (prealloc != BLK_PREALLOC_OFF && q->luks && q->h.version < 3) /* zeroes that are stored decrypt to noise */
        return blk_why_set(why, ENOTSUP, q->node.path,
                           "is encrypted, so preallocation takes qcow2 version 3; leave it out");
    res = q2_grow_begin(q, size, why);
    if (res < 0)
        return res;
    res = q2_grow_zero(q, old, size);
    if (res == 0)
        res = q2_preallocate(q, old, size - old, prealloc);
    if (res == 0 && q->own_data && prealloc >= BLK_PREALLOC_FALLOC)
        res = blk_write_zeroes(q->own_data, old, size - old, 0);
    if (res == 0)
        res = q2_size_commit(q, size);
    if (res < 0)
        q->node.size = old;
    return res;
}

/* ---- shrinking ---- */

/* L2 tables that describe nothing any more; alone. */
static void q2_shrink_l1(struct q2 *q, uint64_t size)
{
    for (uint64_t i = q2_l1_needed(q, size); i < q->h.l1_size; i++) {
        if (q->l1[i] & Q2_OFFSET_MASK) {
            q2_free_meta_locked(q, q->l1[i] & Q2_OFFSET_MASK, q->cluster_size);
            q2_l1_set_locked(q, (uint32_t)i, 0);
        }
    }
}

/* Cut off what nothing uses at the end of the file; alone, written back. */
static int q2_shrink_file(struct q2 *q)
{
    uint64_t end;
    int res = q2_alloc_at_end_locked(q, 1, &end);

    if (res < 0)
        return res;
    q2_unalloc_locked(q, end, 1);
    res = q2_writeback_locked(q, true);
    if (res < 0 || end >= q->node.file->size)
        return res;
    res = blk_resize(q->node.file, end, BLK_PREALLOC_OFF, NULL);
    if (res == 0)
        q->zero_from = MIN(q->zero_from, align_up(end, q->cluster_size));
    return res == -ENOTSUP ? 0 : res;
}

static int q2_shrink(struct q2 *q, uint64_t size, struct blk_why *why)
{
    uint64_t first = q2_clusters(q, size), end = q2_clusters(q, q->node.size);
    int res;

    if (q->h.n_snapshots)
        return blk_why_set(why, ENOTSUP, q->node.path,
                           "has snapshots, so it cannot be made shorter; delete them first");
    res = q2_exclusive_begin(q);
    if (res < 0)
        return res;
    /* Their bits are cut when the size is: until then the disk may have to stay as long as it is. */
    res = q->corrupt ? -EIO : q2_bitmaps_touch(q);
    q2_exclusive_end(q);
    if (res == 0)
        res = q2_size_commit(q, size);
    if (res == 0)
        res = q2_wipe(q, first, end - first, Q2_WIPE_FORGET);
    if (res == 0)
        res = q2_exclusive_begin(q);
    if (res < 0)
        return res;
    q2_shrink_l1(q, size);
    res = q2_bitmaps_resize(q, size, why);
    if (res == 0)
        res = q2_writeback_locked(q, true);
    if (res == 0)
        res = q2_shrink_file(q);
    if (res == 0 && q->own_data)
        res = blk_resize(q->own_data, size, BLK_PREALLOC_OFF, why);
    q2_exclusive_end(q);
    return res;
}

int q2_resize(struct blk_node *n, uint64_t size, enum blk_prealloc prealloc, struct blk_why *why)
{
    struct q2 *q = q2_of(n);

    if (size % BLK_SECTOR || size == 0)
        return -EINVAL;
    if (size == n->size)
        return 0;
    if (size > n->size)
        return q2_grow(q, size, prealloc, why);
    if (prealloc != BLK_PREALLOC_OFF)
        return -EINVAL;
    return q2_shrink(q, size, why);
}
