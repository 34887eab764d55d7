/* From guest to host clusters: L1 and L2 tables, plain and extended entries.
 * Spec: QEMU docs/interop/qcow2.txt, "Cluster mapping", "Extended L2 Entries". */
#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "block/qcow2/qcow2_priv.h"

int q2_l1_load(struct q2 *q)
{
    uint64_t bytes = (uint64_t)q->h.l1_size * 8;
    int res;

    q->l1 = malloc(MAX(bytes, 8u));
    if (!q->l1)
        return -ENOMEM;
    res = bytes ? blk_pread(q->node.file, q->h.l1_off, q->l1, bytes) : 0;
    for (uint32_t i = 0; i < q->h.l1_size && res == 0; i++) {
        q->l1[i] = be64toh(q->l1[i]) & (Q2_OFFSET_MASK | Q2_COPIED);
        if (q->l1[i] & Q2_OFFSET_MASK)
            res = q2_meta_add(q, q->l1[i] & Q2_OFFSET_MASK, q->cluster_size);
    }
    return res;
}

void q2_l1_set_locked(struct q2 *q, uint32_t i, uint64_t entry)
{
    q->l1[i] = entry;
    q2_span_add(&q->l1_dirty_lo, &q->l1_dirty_hi, i, 1);
}

/* ---- entries ---- */

uint64_t q2_entry(const struct q2 *q, const struct q2_table *t, unsigned i)
{
    return q2_be64(t->data + (size_t)i * q->l2_entry_size);
}

uint64_t q2_entry_bits(const struct q2 *q, const struct q2_table *t, unsigned i)
{
    return q->extl2 ? q2_be64(t->data + (size_t)i * 16 + 8) : 0;
}

void q2_entry_set_locked(struct q2 *q, struct q2_table *t, unsigned i, uint64_t entry, uint64_t bits)
{
    uint32_t at = i * q->l2_entry_size;

    q2_put_be64(t->data + at, entry);
    if (q->extl2)
        q2_put_be64(t->data + at + 8, bits);
    q2_cache_dirty_locked(&q->l2, t, at, q->l2_entry_size);
}

void q2_compressed_place(const struct q2 *q, uint64_t entry, uint64_t *ret_off, uint64_t *ret_len)
{
    unsigned x = 62 - (q->cluster_bits - 8);
    uint64_t off = entry & (BIT64(x) - 1) & BITS64(55, 0);
    uint64_t sectors = bits_get(entry, 61, x) + 1;

    *ret_off = off;
    *ret_len = sectors * BLK_SECTOR - off % BLK_SECTOR;
}

/* State of one subcluster, or of a cluster where entries are plain. sub: 0 there. */
static int q2_state(const struct q2 *q, const struct q2_table *t, unsigned i, unsigned sub, struct q2_run *ret)
{
    uint64_t entry = q2_entry(q, t, i), off = entry & Q2_OFFSET_MASK;

    *ret = (struct q2_run){ .kind = Q2_K_UNALLOCATED, .entry = entry };
    if (entry & Q2_COMPRESSED) {
        ret->kind = Q2_K_COMPRESSED;
        return q->own_data ? -EIO : 0;
    }
    ret->copied = (entry & Q2_COPIED) != 0 || (q->own_data && off);
    ret->has_host = off != 0 || (q->own_data && ret->copied);
    ret->host = off;
    if (!q2_aligned(q, off))
        return -EIO;
    if (q->extl2) {
        uint64_t bits = q2_entry_bits(q, t, i) >> sub;

        if (bits & 1 && (bits & BIT64(32) || !ret->has_host))
            return -EIO;
        ret->kind = bits & 1 ? Q2_K_DATA : bits & BIT64(32) ? Q2_K_ZERO : Q2_K_UNALLOCATED;
    } else if (entry & Q2_ZERO && q->h.version >= 3) {
        ret->kind = Q2_K_ZERO;
    } else if (ret->has_host) {
        ret->kind = Q2_K_DATA;
    }
    return 0;
}

static bool q2_goes_on(const struct q2_run *run, const struct q2_run *next, uint64_t host)
{
    if (run->kind != next->kind || run->has_host != next->has_host || run->copied != next->copied)
        return false;
    return run->kind != Q2_K_COMPRESSED && (!run->has_host || next->host == host);
}

/* ---- lookup ---- */

static unsigned q2_l2_index(const struct q2 *q, uint64_t off)
{
    return (unsigned)((off >> q->cluster_bits) & (BIT64(q->l2_bits) - 1));
}

/* Unallocated as far as L1 entries say so. */
static void q2_lookup_hole(const struct q2 *q, uint64_t off, uint64_t len, struct q2_run *ret)
{
    unsigned shift = q->cluster_bits + q->l2_bits;
    uint64_t end = off + len, at = (off >> shift) + 1;

    while (at < q->h.l1_size && at << shift < end && !(q->l1[at] & Q2_OFFSET_MASK))
        at++;
    *ret = (struct q2_run){ .kind = Q2_K_UNALLOCATED, .len = MIN(end, at << shift) - off };
}

static int q2_lookup_in(const struct q2 *q, const struct q2_table *t, uint64_t off, uint64_t len, struct q2_run *ret)
{
    uint64_t sub_size = BIT64(q->sub_bits), done;
    unsigned subs = q->cluster_bits - q->sub_bits, i = q2_l2_index(q, off), end = 1u << q->l2_bits;
    unsigned sub = (unsigned)((off & (q->cluster_size - 1)) >> q->sub_bits);
    int res = q2_state(q, t, i, sub, ret);

    if (res < 0)
        return res;
    if (q->own_data && ret->has_host && ret->host != align_down(off, q->cluster_size))
        return -EIO;
    if (ret->kind == Q2_K_COMPRESSED) {
        ret->len = MIN(len, q->cluster_size - (off & (q->cluster_size - 1)));
        return 0;
    }
    ret->host += ret->has_host ? off & (q->cluster_size - 1) : 0;
    for (done = sub_size - (off & (sub_size - 1)); done < len; done += sub_size) {
        struct q2_run next;

        if (++sub >> subs) {
            sub = 0;
            i++;
        }
        if (i == end || q2_state(q, t, i, sub, &next) < 0)
            break;
        next.host += (uint64_t)sub << q->sub_bits;
        if (!q2_goes_on(ret, &next, ret->host + done))
            break;
    }
    ret->len = MIN(len, done);
    return 0;
}

int q2_lookup_locked(struct q2 *q, uint64_t off, uint64_t len, bool cached, struct q2_run *ret)
{
    uint64_t i = off >> (q->cluster_bits + q->l2_bits), table;
    struct q2_table *t;
    int res = 0;

    if (i >= q->h.l1_size)
        return -EIO;
    table = q->l1[i] & Q2_OFFSET_MASK;
    if (!table) {
        q2_lookup_hole(q, off, len, ret);
        return 0;
    }
    t = q2_cache_peek_locked(q, &q->l2, table);
    if (!t && cached)
        return -EAGAIN;
    if (!t)
        res = q2_cache_get_locked(q, &q->l2, table, &t);
    return res < 0 ? res : q2_lookup_in(q, t, off, len, ret);
}

/* ---- tables to change ---- */

int q2_l2_for_read_locked(struct q2 *q, uint64_t off, struct q2_table **ret_table, unsigned *ret_index)
{
    uint64_t i = off >> (q->cluster_bits + q->l2_bits);

    if (i >= q->h.l1_size)
        return -EIO;
    *ret_table = NULL;
    *ret_index = q2_l2_index(q, off);
    return q->l1[i] & Q2_OFFSET_MASK ? q2_cache_get_locked(q, &q->l2, q->l1[i] & Q2_OFFSET_MASK, ret_table) : 0;
}

/* A new table instead of old (0: none), whose entries it takes over. */
static int q2_l2_new(struct q2 *q, uint32_t i, uint64_t old, struct q2_table **ret)
{
    AUTO_FREE uint8_t *content = NULL;
    struct q2_table *t;
    uint64_t off;
    int res;

    if (old) {
        res = q2_cache_get_locked(q, &q->l2, old, &t);
        if (res < 0)
            return res;
        content = malloc(q->cluster_size);
        if (!content)
            return -ENOMEM;
        memcpy(content, t->data, q->cluster_size);
    }
    res = q2_alloc_meta_locked(q, q->cluster_size, &off);
    if (res < 0)
        return res;
    res = q2_cache_add_locked(q, &q->l2, off, &t);
    if (res < 0) {
        q2_unalloc_locked(q, off, 1);
        return res;
    }
    t->fresh = true;
    if (content)
        memcpy(t->data, content, q->cluster_size);
    q2_l1_set_locked(q, i, off | Q2_COPIED);
    if (old) /* still a snapshot's, hence still metadata */
        q2_free_locked(q, old, 1, false);
    *ret = t;
    return 0;
}

int q2_l2_for_write_locked(struct q2 *q, uint64_t off, struct q2_table **ret_table, unsigned *ret_index)
{
    uint64_t i = off >> (q->cluster_bits + q->l2_bits), table;

    if (i >= q->h.l1_size)
        return -EIO;
    *ret_index = q2_l2_index(q, off);
    table = q->l1[i] & Q2_OFFSET_MASK;
    if (table && q->l1[i] & Q2_COPIED)
        return q2_cache_get_locked(q, &q->l2, table, ret_table);
    return q2_l2_new(q, (uint32_t)i, table, ret_table);
}
