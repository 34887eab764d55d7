/* Check and repair of an image, with the figures of qemu-img check.
 *
 * Refcounts that are wrong are put right in place; where the file has no place for one, or blocks of them stand where
 * they cannot be, a whole new structure is written into free space and the header switched to it, which makes the
 * repair atomic. Flags and entries are repaired only in L2 tables that have their cluster to themselves. */
#include "block/qcow2/check_priv.h"

#include <errno.h>
#include <stdlib.h>

#include "block/qcow2/bitmap_priv.h"

/* ---- compare counted and stored refcounts ---- */

static int write_block(struct q2_refs *r, uint64_t cluster)
{
    return blk_pwrite(r->q->node.file, r->q->rt[cluster >> r->q->rb_bits], r->rb, r->q->cluster_size);
}

static bool may_fix(const struct q2_refs *r, unsigned fix, uint64_t stored, uint64_t counted)
{
    if (stored == 0 || r->bad_blocks) /* in place there may be no place, or somebody else's */
        return false;
    return stored > counted ? fix & BLK_CHECK_FIX_LEAKS : fix & BLK_CHECK_FIX_ALL;
}

/* The clusters [from, to) of one block. */
static int compare_block(struct q2_refs *r, unsigned fix, uint64_t from, uint64_t to)
{
    bool changed = false;

    for (uint64_t i = from; i < to; i++) {
        uint64_t counted = r->counts[i - r->lo], stored;
        int res = q2_refs_stored(r, i, &stored);

        if (res < 0)
            return res;
        if (stored | counted)
            r->res->image_end = MAX(r->res->image_end, (i + 1) << r->q->cluster_bits);
        if (stored == counted)
            continue;
        if (stored == 0)
            r->rebuild = true;
        if (stored < counted)
            r->res->corruptions++;
        else
            r->res->leaks++;
        if (may_fix(r, fix, stored, counted)) {
            q2_rc_store(r->q, r->rb, i & (BIT64(r->q->rb_bits) - 1), counted);
            changed = true;
        }
    }
    return changed ? write_block(r, from) : 0;
}

static int compare_window(struct q2_refs *r, unsigned fix)
{
    uint64_t end = MIN(r->hi, r->n_clusters), step = BIT64(r->q->rb_bits);
    int res = 0;

    for (uint64_t i = r->lo; i < end && res == 0; i += step)
        res = compare_block(r, fix, i, MIN(i + step, end));
    return res;
}

/* Count and compare everything. Where fix says so, refcounts are written as counted. */
static int refcounts(struct q2_refs *r, unsigned fix)
{
    uint64_t lo = 0;
    int res;

    do {
        res = q2_refs_window(r, lo);
        if (res == 0)
            res = compare_window(r, fix);
        lo = align_down(r->next, BIT64(r->q->rb_bits));
    } while (res == 0 && r->next < r->n_clusters);
    return res;
}

/* ---- COPIED flags ---- */

/* What the flag of a reference to this place must be. */
static int copied_flag(struct q2_refs *r, uint64_t off, uint64_t *ret_flag)
{
    uint64_t stored;
    int res;

    if (!q2_refs_has_block(r, off >> r->q->cluster_bits)) {
        *ret_flag = 0;
        return 0;
    }
    res = q2_refs_stored(r, off >> r->q->cluster_bits, &stored);
    *ret_flag = stored == 1 ? Q2_COPIED : 0;
    return res;
}

/* Entries of one table that is reachable from the active L1 table. */
static int copied_table(struct q2_refs *r, const struct q2_l2_ref *l2, bool fix)
{
    struct q2 *q = r->q;
    bool changed = false;
    int res = q2_refs_read_l2(r, l2);

    for (unsigned i = 0; i < BIT(q->l2_bits) && res == 0; i++) {
        uint64_t entry = be64toh(r->table[i << q->extl2]), off = entry & Q2_OFFSET_MASK, flag = Q2_COPIED;

        if (entry & Q2_COMPRESSED || (!off && (!q->own_data || !(entry & Q2_COPIED))))
            continue;
        if (!q->own_data)
            res = copied_flag(r, off, &flag);
        if (res < 0 || (entry & Q2_COPIED) == flag)
            continue;
        r->res->corruptions += l2->n_active;
        r->table[i << q->extl2] = htobe64((entry & ~Q2_COPIED) | flag);
        changed = true;
    }
    if (res == 0 && changed && fix && l2->sole)
        res = blk_pwrite(q->node.file, l2->off, r->table, q->cluster_size);
    return res;
}

static int copied_flags(struct q2_refs *r, bool fix)
{
    struct q2 *q = r->q;
    bool changed = false;
    int res = 0;

    for (uint32_t i = 0; i < q->h.l1_size && res == 0; i++) {
        uint64_t entry = q->l1[i], off = entry & Q2_OFFSET_MASK, flag;

        if (!off)
            continue;
        res = copied_flag(r, off, &flag);
        if (res < 0 || (entry & Q2_COPIED) == flag)
            continue;
        r->res->corruptions++;
        if (fix) {
            q->l1[i] = (entry & ~Q2_COPIED) | flag;
            q2_span_add(&q->l1_dirty_lo, &q->l1_dirty_hi, i, 1);
            changed = true;
        }
    }
    for (size_t i = 0; i < r->n_l2 && res == 0; i++) {
        if (r->l2[i].n_active && r->l2[i].off)
            res = copied_table(r, &r->l2[i], fix);
    }
    return res == 0 && changed ? q2_writeback_locked(q, true) : res;
}

/* ---- broken entries ---- */

/* An entry that reads as zeroes takes the place of each that makes no sense: its content is lost, and whoever reads
 * gets zeroes rather than what happens to be in the backing file. */
static int zero_broken(struct q2_refs *r)
{
    struct q2 *q = r->q;
    int res = 0;

    for (size_t k = 0; k < r->n_l2 && res == 0; k++) {
        const struct q2_l2_ref *l2 = &r->l2[k];
        bool changed = false;

        if (!l2->sole)
            continue;
        res = q2_refs_read_l2(r, l2);
        for (unsigned i = 0; i < BIT(q->l2_bits) && res == 0; i++) {
            uint64_t *entry = &r->table[i << q->extl2];

            if (!q2_entry_broken(q, be64toh(*entry), q->extl2 ? be64toh(entry[1]) : 0))
                continue;
            entry[0] = htobe64(q->extl2 || q->h.version < 3 ? 0 : Q2_ZERO);
            if (q->extl2)
                entry[1] = htobe64(BITS64(63, 32));
            changed = true;
        }
        if (res == 0 && changed)
            res = blk_pwrite(q->node.file, l2->off, r->table, q->cluster_size);
    }
    return res == 0 ? blk_flush(q->node.file) : res;
}

/* ---- the whole ---- */

static void state_of(const struct q2 *q, const struct q2_snap_table *snaps, struct q2_state *ret)
{
    *ret = (struct q2_state){ .l1_size = q->h.l1_size,
                              .l1_off = q->h.l1_off,
                              .l1_times = 1,
                              .snaps = snaps,
                              .rt_off = q->h.rt_off,
                              .rt_clusters = q->h.rt_clusters };
}

/* A new refcount structure behind the end of the file, and the header to it. */
static int rebuild(struct q2 *q, const struct q2_snap_table *snaps)
{
    struct blk_check ignored = { 0 };
    struct q2_state state;
    struct q2_refs r;
    uint64_t off;
    uint32_t clusters;
    int res;

    state_of(q, snaps, &state);
    state.rt_off = 0;
    res = q2_refs_init(&r, q, &state, &ignored);
    if (res == 0)
        res = q2_rebuild(&r, MAX(q2_clusters(q, q->node.file->size), 1), &off, &clusters);
    q2_refs_done(&r);
    if (res < 0)
        return res;
    q->h.rt_off = off;
    q->h.rt_clusters = clusters;
    res = q2_header_write_locked(q);
    return res == 0 ? blk_flush(q->node.file) : res;
}

/* One look at everything, with the repairs of one stage. */
enum stage { LOOK, FIX_ENTRIES, FIX_REFCOUNTS, FIX_FLAGS };

static int pass(struct q2 *q, const struct q2_snap_table *snaps, enum stage stage, unsigned fix, struct blk_check *ret,
                bool *ret_broken)
{
    struct q2_state state;
    struct q2_refs r;
    bool again;
    int res;

    *ret = (struct blk_check){ .total_clusters = q2_clusters(q, q->node.size) };
    state_of(q, snaps, &state);
    res = q2_refs_init(&r, q, &state, ret);
    if (res == 0)
        res = refcounts(&r, stage == FIX_REFCOUNTS ? fix : 0);
    if (res == 0 && stage == FIX_ENTRIES)
        res = zero_broken(&r);
    if (res == 0 && (stage == LOOK || stage == FIX_FLAGS))
        res = copied_flags(&r, stage == FIX_FLAGS);
    *ret_broken = r.n_broken > 0;
    again = r.rebuild;
    q2_refs_done(&r);
    if (res == 0 && stage == FIX_REFCOUNTS && again && fix & BLK_CHECK_FIX_ALL)
        res = rebuild(q, snaps);
    if (res == 0 && stage != LOOK)
        res = q2_reload(q);
    return res;
}

/* The flags of the header that say that something may be wrong are cleared when nothing is. */
static int mark_clean(struct q2 *q)
{
    int res;

    if (!(q->h.incompat & (Q2_INCOMPAT_DIRTY | Q2_INCOMPAT_CORRUPT)))
        return 0;
    q->h.incompat &= ~(Q2_INCOMPAT_DIRTY | Q2_INCOMPAT_CORRUPT);
    res = blk_flush(q->node.file);
    if (res == 0)
        res = q2_header_write_locked(q);
    if (res == 0)
        res = blk_flush(q->node.file);
    if (res == 0)
        q->corrupt = false;
    return res == 0 ? q2_bitmaps_start(q) : res;
}

/* Alone. */
static int check_locked(struct q2 *q, unsigned fix, struct blk_check *ret_check, struct blk_why *why)
{
    struct q2_snap_table snaps;
    struct blk_check before = { 0 }, after, scratch;
    bool broken = false, ignored;
    int res = q2_snap_table_load(q, &snaps, why);

    if (res == 0)
        res = pass(q, &snaps, LOOK, 0, &before, &broken);
    after = before;
    if (res == 0 && fix & BLK_CHECK_FIX_ALL && broken)
        res = pass(q, &snaps, FIX_ENTRIES, fix, &scratch, &ignored);
    if (res == 0 && fix && before.leaks + before.corruptions)
        res = pass(q, &snaps, FIX_REFCOUNTS, fix, &scratch, &ignored);
    if (res == 0 && fix & BLK_CHECK_FIX_ALL && before.corruptions)
        res = pass(q, &snaps, FIX_FLAGS, fix, &scratch, &ignored);
    if (res == 0 && fix && before.leaks + before.corruptions)
        res = pass(q, &snaps, LOOK, 0, &after, &ignored);
    q2_snap_table_done(&snaps);
    if (res == -EFBIG)
        return blk_why_set(why, EFBIG, q->node.file->path,
                           "has more tables than can be checked, or refers to places that refcounts cannot describe");
    if (res < 0)
        return res;
    after.leaks_fixed = before.leaks > after.leaks ? before.leaks - after.leaks : 0;
    after.corruptions_fixed = before.corruptions > after.corruptions ? before.corruptions - after.corruptions : 0;
    *ret_check = after;
    return fix && after.leaks + after.corruptions == 0 ? mark_clean(q) : 0;
}

int q2_check(struct blk_node *n, unsigned fix, struct blk_check *ret_check, struct blk_why *why)
{
    struct q2 *q = q2_of(n);
    int res;

    if (fix && n->read_only)
        return -EROFS;
    if (fix & BLK_CHECK_FIX_ALL)
        fix |= BLK_CHECK_FIX_LEAKS;
    res = q2_exclusive_begin(q);
    if (res < 0)
        return res;
    /* What was freed has been counted down in memory by now, and is to be so in the file, or it would count as leaks.
     */
    if (!n->read_only)
        res = q2_writeback_locked(q, true);
    if (res == 0)
        res = check_locked(q, fix, ret_check, why);
    q2_exclusive_end(q);
    return res;
}

int q2_repair_dirty(struct q2 *q, struct blk_why *why)
{
    struct blk_check check;
    int res = q->h.has_bitmaps ? q2_bitmaps_read(q) : 0; /* they refer to clusters too */

    if (res == -EMEDIUMTYPE || res == -EFBIG)
        return blk_why_set(why, -res, q->node.file->path,
                           "was not closed cleanly, and cannot be repaired as its directory of bitmaps makes no sense");
    if (res == 0)
        res = check_locked(q, BLK_CHECK_FIX_LEAKS | BLK_CHECK_FIX_ALL, &check, why);
    q2_bitmaps_done(q);
    if (res == 0 && check.corruptions)
        return blk_why_set(why, EMEDIUMTYPE, q->node.file->path,
                           "was not closed cleanly, and is damaged beyond what can be repaired while it is opened");
    return res;
}
