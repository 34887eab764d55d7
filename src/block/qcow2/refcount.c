/* Refcounts of host clusters, and their allocation.
 *
 * A refcount block that is missing is put into the first cluster of the range that it describes, which is free by
 * definition; where more than that range is wanted in one piece, and when the refcount table grows, new blocks stand in
 * a row in front of it (q2_extend). All of this happens in memory; a write-back puts it into the file in order.
 * Spec: QEMU docs/interop/qcow2.txt, "Host cluster management". */
#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/log.h"
#include "block/qcow2/qcow2_priv.h"

#define Q2_HOST_END BIT64(56) /* metadata and standard clusters stand below it */

uint64_t q2_rc_load(const struct q2 *q, const uint8_t *data, uint64_t i)
{
    unsigned order = q->h.refcount_order;
    uint16_t v16;

    switch (order) {
    case 3:
        return data[i];
    case 4:
        memcpy(&v16, data + i * 2, 2);
        return be16toh(v16);
    case 5:
        return q2_be32(data + i * 4);
    case 6:
        return q2_be64(data + i * 8);
    default:
        return bits_get(data[(i << order) >> 3] >> ((i << order) & 7), (1u << order) - 1, 0);
    }
}

void q2_rc_store(const struct q2 *q, uint8_t *data, uint64_t i, uint64_t value)
{
    unsigned order = q->h.refcount_order, shift = (unsigned)((i << order) & 7);
    uint8_t *byte = data + ((i << order) >> 3), mask;
    uint16_t v16 = htobe16((uint16_t)value);

    switch (order) {
    case 3:
        data[i] = (uint8_t)value;
        break;
    case 4:
        memcpy(data + i * 2, &v16, 2);
        break;
    case 5:
        q2_put_be32(data + i * 4, (uint32_t)value);
        break;
    case 6:
        q2_put_be64(data + i * 8, value);
        break;
    default:
        mask = (uint8_t)(((1u << (1u << order)) - 1) << shift);
        *byte = (uint8_t)((*byte & ~mask) | (value << shift));
    }
}

/* Set one refcount in its block. */
static void q2_rc_set(struct q2 *q, struct q2_table *t, uint64_t i, uint64_t value)
{
    uint32_t at = (uint32_t)((i << q->h.refcount_order) >> 3);

    q2_rc_store(q, t->data, i, value);
    q2_cache_dirty_locked(&q->rb, t, at, q->h.refcount_order > 3 ? 1u << (q->h.refcount_order - 3) : 1);
}

int q2_rt_load(struct q2 *q)
{
    uint64_t bytes = (uint64_t)q->h.rt_clusters << q->cluster_bits;
    int res;

    q->rt = malloc(bytes);
    if (!q->rt)
        return -ENOMEM;
    res = blk_pread(q->node.file, q->h.rt_off, q->rt, bytes);
    if (res < 0)
        return res;
    q->rt_size = (uint32_t)(bytes / 8);
    for (uint32_t i = 0; i < q->rt_size; i++) {
        q->rt[i] = be64toh(q->rt[i]) & ~BITS64(8, 0);
        if (!q->rt[i] || !q2_aligned(q, q->rt[i])) /* use finds fault with it */
            continue;
        res = q2_meta_add(q, q->rt[i], q->cluster_size);
        if (res < 0)
            return res;
    }
    return 0;
}

/* The block of a cluster and the index in it; *ret NULL: there is none. */
static int q2_rb_get(struct q2 *q, uint64_t cluster, struct q2_table **ret, uint64_t *ret_index)
{
    uint64_t i = cluster >> q->rb_bits;

    *ret_index = cluster & (BIT64(q->rb_bits) - 1);
    *ret = NULL;
    return i >= q->rt_size || !q->rt[i] ? 0 : q2_cache_get_locked(q, &q->rb, q->rt[i], ret);
}

int q2_refcount_get_locked(struct q2 *q, uint64_t cluster, uint64_t *ret)
{
    struct q2_table *t;
    uint64_t i;
    int res = q2_rb_get(q, cluster, &t, &i);

    if (res == 0)
        *ret = t ? q2_rc_load(q, t->data, i) : 0;
    return res;
}

int q2_refcount_update_locked(struct q2 *q, uint64_t cluster, uint64_t n, int64_t delta)
{
    for (; n > 0; n--, cluster++) {
        struct q2_table *t;
        uint64_t i, value;
        int res = q2_rb_get(q, cluster, &t, &i);

        if (res < 0)
            return res;
        if (!t)
            return -ENOENT;
        value = q2_rc_load(q, t->data, i);
        if (delta < 0 ? value < (uint64_t)-delta : (uint64_t)delta > q->refcount_max - value)
            return -ERANGE;
        value += (uint64_t)delta;
        q2_rc_set(q, t, i, value);
        if (value == 0)
            q->free_hint = MIN(q->free_hint, cluster);
    }
    return 0;
}

/* ---- new blocks ---- */

static void q2_host_used(struct q2 *q, uint64_t cluster, uint64_t n)
{
    q->end = MAX(q->end, cluster + n);
    q->zero_from = MAX(q->zero_from, (cluster + n) << q->cluster_bits);
}

/* Make the block with index i of the table, in host cluster at. Its own count is set if it describes itself. */
static int q2_rb_put(struct q2 *q, uint32_t i, uint64_t at)
{
    uint64_t off = at << q->cluster_bits;
    struct q2_table *t;
    int res;

    if (off + q->cluster_size > Q2_HOST_END)
        return -EFBIG;
    if (q2_meta_hit(q, off, q->cluster_size)) /* metadata in a cluster that counts as free */
        return q2_corrupt_locked(q);
    res = q2_meta_add(q, off, q->cluster_size);
    if (res == 0)
        res = q2_cache_add_locked(q, &q->rb, off, &t);
    if (res < 0)
        return res;
    q2_host_used(q, at, 1);
    q->rt[i] = off;
    q2_span_add(&q->rt_dirty_lo, &q->rt_dirty_hi, i, 1);
    return 0;
}

static uint32_t q2_rt_used(const struct q2 *q)
{
    uint32_t used = q->rt_size;

    while (used > 0 && !q->rt[used - 1])
        used--;
    return used;
}

/* New blocks at the end of the table, in a row, and n clusters with refcount 1 behind them. The table has room. */
static int q2_extend(struct q2 *q, uint64_t n, uint64_t *ret_off)
{
    uint32_t first = q2_rt_used(q);
    uint64_t per_block = BIT64(q->rb_bits), base = (uint64_t)first << q->rb_bits, m = 1;

    while (m * per_block < m + n)
        m = (m + n + per_block - 1) / per_block;
    if (m > q->rt_size - first)
        return -ENOSPC;
    for (uint64_t j = 0; j < m; j++) {
        int res = q2_rb_put(q, first + (uint32_t)j, base + j);

        if (res < 0)
            return res;
    }
    if (n && q2_meta_hit(q, (base + m) << q->cluster_bits, n << q->cluster_bits))
        return q2_corrupt_locked(q);
    q2_host_used(q, base + m, n);
    *ret_off = (base + m) << q->cluster_bits;
    return q2_refcount_update_locked(q, base, m + n, 1);
}

/* Make the refcount table longer: in memory, and with a place that the next write-back moves it to. */
static int q2_rt_grow(struct q2 *q, uint64_t entries)
{
    uint64_t per_cluster = q->cluster_size / 8, clusters, size, off;
    uint64_t *grown;
    uint32_t old_size = q->rt_size;
    int res;

    /* Half as much again, and the blocks for the table itself. */
    clusters = (entries + entries / 2 + per_cluster - 1) / per_cluster;
    clusters += (clusters >> q->rb_bits) / per_cluster + 1;
    clusters = MIN(clusters, Q2_RT_BYTES_MAX >> q->cluster_bits);
    size = clusters * per_cluster;
    if (size < entries + (clusters >> q->rb_bits) + 2)
        return -EFBIG;
    grown = realloc(q->rt, size * 8);
    if (!grown)
        return -ENOMEM;
    memset(grown + old_size, 0, (size - old_size) * 8);
    q->rt = grown;
    q->rt_size = (uint32_t)size;
    res = q2_extend(q, clusters, &off);
    if (res == 0)
        res = q2_meta_add(q, off, clusters << q->cluster_bits);
    if (res < 0) {
        q->rt_size = old_size; /* blocks beyond it leak */
        q->rt_dirty_hi = MIN(q->rt_dirty_hi, old_size);
        return res;
    }
    if (q->rt_new_off) /* moved again before the file knew */
        q2_unalloc_locked(q, q->rt_new_off, (uint64_t)old_size / per_cluster);
    q->rt_new_off = off;
    return 0;
}

/* The block for this cluster, made if there is none. */
static int q2_rb_need(struct q2 *q, uint64_t cluster)
{
    uint64_t i = cluster >> q->rb_bits;
    int res;

    if (i < q->rt_size && q->rt[i])
        return 0;
    if (i >= q->rt_size) {
        res = i >= Q2_RT_BYTES_MAX / 8 ? -EFBIG : q2_rt_grow(q, i + 1);
        if (res < 0 || q->rt[i])
            return res;
    }
    if (i == 0) /* the header's own refcount is missing */
        return q2_corrupt_locked(q);
    res = q2_rb_put(q, (uint32_t)i, i << q->rb_bits);
    return res < 0 ? res : q2_refcount_update_locked(q, i << q->rb_bits, 1, 1);
}

/* ---- allocation ---- */

bool q2_host_ok_locked(const struct q2 *q, uint64_t off, uint64_t len)
{
    uint64_t file_size = __atomic_load_n(&q->data->size, __ATOMIC_RELAXED);

    if (q->own_data)
        return true; /* host place = place on the disk */
    return off + len <= MAX(q->end << q->cluster_bits, align_up(file_size, q->cluster_size)) &&
           !q2_meta_hit(q, off, len);
}

/* Count what was found to be free. */
static int q2_take(struct q2 *q, uint64_t cluster, uint64_t n)
{
    uint64_t off = cluster << q->cluster_bits;

    if (cluster + n > Q2_HOST_END >> q->cluster_bits)
        return -EFBIG;
    if (q2_meta_hit(q, off, n << q->cluster_bits))
        return q2_corrupt_locked(q);
    q2_host_used(q, cluster, n);
    return q2_refcount_update_locked(q, cluster, n, 1);
}

int q2_alloc_some_locked(struct q2 *q, uint64_t n, uint64_t *ret_off, uint64_t *ret_n)
{
    for (uint64_t c = q->free_hint;; q->free_hint = c) {
        uint64_t in_block = BIT64(q->rb_bits), i = 0, run = 0;
        struct q2_table *t = NULL;
        int res = q2_rb_need(q, c);

        if (res == 0)
            res = q2_rb_get(q, c, &t, &i);
        if (res < 0)
            return res;
        for (; i < in_block && q2_rc_load(q, t->data, i) != 0; i++)
            c++;
        for (; i < in_block && run < n && q2_rc_load(q, t->data, i) == 0; i++)
            run++;
        if (run == 0)
            continue;
        res = q2_take(q, c, run);
        if (res < 0)
            return res;
        q->free_hint = c + run;
        *ret_off = c << q->cluster_bits;
        *ret_n = run;
        return 0;
    }
}

/* n free clusters in a row among those that have refcount blocks; UINT64_MAX: there are none. */
static int q2_find_row(struct q2 *q, uint64_t n, uint64_t *ret)
{
    uint64_t end = (uint64_t)q2_rt_used(q) << q->rb_bits, run = 0;

    for (uint64_t c = q->free_hint; c < end && run < n; c++) {
        uint64_t value = 1;
        int res = q->rt[c >> q->rb_bits] ? q2_refcount_get_locked(q, c, &value) : 0;

        if (res < 0)
            return res;
        run = value ? 0 : run + 1;
        *ret = c + 1 - run;
    }
    if (run < n)
        *ret = UINT64_MAX;
    return 0;
}

/* New blocks for n clusters, the table grown for them if need be. */
static int q2_extend_for(struct q2 *q, uint64_t n, uint64_t *ret_off)
{
    int res = q2_extend(q, n, ret_off);

    if (res != -ENOSPC)
        return res;
    res = q2_rt_grow(q, q->rt_size + (n >> q->rb_bits) + (n >> (2 * q->rb_bits)) + 2);
    return res < 0 ? res : q2_extend(q, n, ret_off);
}

int q2_alloc_clusters_locked(struct q2 *q, uint64_t n, uint64_t *ret_off)
{
    uint64_t some, at = UINT64_MAX;
    int res;

    if (n == 1)
        return q2_alloc_some_locked(q, 1, ret_off, &some);
    res = q2_find_row(q, n, &at);
    if (res < 0)
        return res;
    if (at == UINT64_MAX)
        return q2_extend_for(q, n, ret_off);
    res = q2_take(q, at, n);
    if (res == 0)
        *ret_off = at << q->cluster_bits;
    return res;
}

int q2_alloc_at_end_locked(struct q2 *q, uint64_t n, uint64_t *ret_off)
{
    uint64_t hint = q->free_hint, end = (uint64_t)q2_rt_used(q) << q->rb_bits;
    int res = 0;

    /* Up to the last one in use, from behind. */
    while (end > 0) {
        uint64_t value = 0;

        if (q->rt[(end - 1) >> q->rb_bits])
            res = q2_refcount_get_locked(q, end - 1, &value);
        if (res < 0)
            return res;
        if (value)
            break;
        end--;
    }
    q->free_hint = MAX(end, hint);
    res = q2_alloc_clusters_locked(q, n, ret_off);
    q->free_hint = MIN(q->free_hint, hint);
    return res;
}

int q2_alloc_meta_locked(struct q2 *q, uint64_t bytes, uint64_t *ret_off)
{
    uint64_t n = q2_clusters(q, bytes), off;
    int res = q2_alloc_clusters_locked(q, n, &off);

    if (res < 0)
        return res;
    res = q2_meta_add(q, off, n << q->cluster_bits);
    if (res < 0) {
        q2_unalloc_locked(q, off, n);
        return res;
    }
    *ret_off = off;
    return 0;
}

void q2_unalloc_locked(struct q2 *q, uint64_t off, uint64_t n)
{
    q2_meta_remove(q, off, n << q->cluster_bits);
    if (q2_refcount_update_locked(q, off >> q->cluster_bits, n, -1) < 0)
        log_debug("qcow2: %s: clusters at %#llx leak", q->node.path ? q->node.path : "?", (unsigned long long)off);
}
