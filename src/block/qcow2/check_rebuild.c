/* A new refcount structure for an image, written where nothing refers to yet; and taking everything from the file again
 * after such a change. */
#include "block/qcow2/check_priv.h"

#include <errno.h>
#include <stdlib.h>

#include "block/qcow2/bitmap_priv.h"

struct layout {
    uint64_t *rt; /* entries of the new table, host endian: where their blocks go; 0: none */
    uint64_t entries, n_blocks;
    uint32_t rt_clusters;
    uint64_t base; /* cluster: the table, then the blocks */
};

static uint64_t layout_len(const struct layout *l)
{
    return l->rt_clusters + l->n_blocks;
}

static int mark(struct layout *l, uint64_t i)
{
    if (i >= Q2_RT_BYTES_MAX / 8)
        return -EFBIG;
    if (!l->rt[i]) {
        l->rt[i] = 1;
        l->n_blocks++;
    }
    l->entries = MAX(l->entries, i + 1);
    return 0;
}

/* Which blocks hold anything but zeroes. */
static int mark_used(struct q2_refs *r, struct layout *l)
{
    uint64_t lo = 0;

    do {
        int res = q2_refs_window(r, lo);

        for (uint64_t i = r->lo; i < MIN(r->hi, r->n_clusters) && res == 0; i++) {
            if (r->counts[i - r->lo])
                res = mark(l, i >> r->q->rb_bits);
        }
        if (res < 0)
            return res;
        lo = align_down(r->next, BIT64(r->q->rb_bits));
    } while (r->next < r->n_clusters);
    return 0;
}

/* The structure describes itself: more blocks until that is so. */
static int mark_self(struct q2_refs *r, struct layout *l)
{
    uint64_t before;

    do {
        uint64_t last;
        int res = 0;

        before = layout_len(l);
        l->rt_clusters = (uint32_t)MAX(q2_clusters(r->q, l->entries * 8), 1);
        last = l->base + layout_len(l) - 1;
        for (uint64_t i = l->base >> r->q->rb_bits; i <= last >> r->q->rb_bits && res == 0; i++)
            res = mark(l, i);
        if (res < 0)
            return res;
    } while (layout_len(l) != before);
    return (uint64_t)l->rt_clusters << r->q->cluster_bits > Q2_RT_BYTES_MAX ? -EFBIG : 0;
}

/* Find room by the old refcounts: in memory only, the file does not learn of it. The place decides how many blocks are
 * needed, so ask for two more than there seem to be. */
static int place(struct q2_refs *r, struct layout *l)
{
    uint64_t room, off;
    int res;

    if (l->base)
        return mark_self(r, l);
    l->rt_clusters = (uint32_t)MAX(q2_clusters(r->q, l->entries * 8), 1);
    room = layout_len(l) + 2;
    for (;;) {
        res = q2_alloc_clusters_locked(r->q, room, &off);
        if (res < 0)
            return res;
        l->base = off >> r->q->cluster_bits;
        res = mark_self(r, l);
        if (res < 0 || layout_len(l) <= room)
            return res;
        room = layout_len(l) + 2;
    }
}

static int write_table(struct q2_refs *r, struct layout *l)
{
    uint64_t bytes = (uint64_t)l->rt_clusters << r->q->cluster_bits, at = l->base + l->rt_clusters;

    for (uint64_t i = 0; i < l->entries; i++) {
        if (l->rt[i])
            l->rt[i] = at++ << r->q->cluster_bits;
    }
    for (uint64_t i = 0; i < bytes / 8; i++)
        l->rt[i] = htobe64(l->rt[i]);
    return blk_pwrite(r->q->node.file, l->base << r->q->cluster_bits, l->rt, bytes);
}

/* The block with index i, out of the counts of the window. */
static int write_block(struct q2_refs *r, const struct layout *l, uint64_t i)
{
    uint64_t first = i << r->q->rb_bits;

    memset(r->rb, 0, r->q->cluster_size);
    r->rb_index = UINT64_MAX;
    for (uint64_t k = 0; k < BIT64(r->q->rb_bits); k++) {
        uint64_t count = r->counts[first - r->lo + k];

        if (count > r->q->refcount_max)
            return -ERANGE;
        if (count)
            q2_rc_store(r->q, r->rb, k, count);
    }
    return blk_pwrite(r->q->node.file, be64toh(l->rt[i]), r->rb, r->q->cluster_size);
}

static int write_blocks(struct q2_refs *r, const struct layout *l)
{
    uint64_t self = l->base << r->q->cluster_bits, len = layout_len(l) << r->q->cluster_bits, lo = 0;

    do {
        int res = q2_refs_window(r, lo);

        if (res == 0)
            q2_refs_add(r, self, len, 1);
        for (uint64_t i = r->lo >> r->q->rb_bits; i < MIN(r->hi >> r->q->rb_bits, l->entries) && res == 0; i++) {
            if (l->rt[i])
                res = write_block(r, l, i);
        }
        if (res < 0)
            return res;
        lo = align_down(r->next, BIT64(r->q->rb_bits));
    } while (r->next < r->n_clusters);
    return 0;
}

int q2_rebuild(struct q2_refs *r, uint64_t base, uint64_t *ret_rt_off, uint32_t *ret_rt_clusters)
{
    struct layout l = { .rt = calloc(Q2_RT_BYTES_MAX / 8, 8), .base = base };
    uint64_t old_size = r->file_size;
    int res = l.rt ? mark_used(r, &l) : -ENOMEM;

    if (res == 0)
        res = place(r, &l);
    if (res == 0) {
        /* The structure itself is no reference outside the file. */
        r->file_size = MAX(old_size, (l.base + layout_len(&l)) << r->q->cluster_bits);
        res = write_table(r, &l);
    }
    if (res == 0)
        res = write_blocks(r, &l);
    if (res == 0)
        res = blk_flush(r->q->node.file);
    free(l.rt);
    if (res < 0)
        return res;
    *ret_rt_off = l.base << r->q->cluster_bits;
    *ret_rt_clusters = l.rt_clusters;
    return 0;
}

int q2_reload(struct q2 *q)
{
    int res;

    q2_cache_drop_all_locked(&q->l2);
    q2_cache_drop_all_locked(&q->rb);
    if (q->meta.slots)
        memset(q->meta.slots, 0, q->meta.n_slots * sizeof(*q->meta.slots));
    q->meta.n = 0;
    free(q->l1);
    free(q->rt);
    q->l1 = q->rt = NULL;
    q->l1_dirty_lo = q->l1_dirty_hi = q->rt_dirty_lo = q->rt_dirty_hi = 0;
    q->rt_new_off = 0;
    q->free_hint = 0;
    q->packed_at = 0;
    q->end = MAX(q->end, q2_clusters(q, q->node.file->size));
    q->zero_from = MAX(q->zero_from, q->end << q->cluster_bits);
    res = q2_load(q);
    if (res == 0)
        res = q2_snapshots_open(q, NULL);
    if (res == 0)
        res = q2_bitmaps_note(q);
    if (res < 0) /* the file is all right, our idea of it is not */
        q->corrupt = true;
    return res;
}
