/* Zeroes and holes: clusters whose entries are emptied. References go before refcounts (limbo.c). */
#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/log.h"
#include "block/qcow2/qcow2_priv.h"

#define Q2_SUBS_ZERO BITS64(63, 32)

/* Whether clusters are marked as zeroes, rather than as unallocated. */
static bool q2_wipe_explicit(const struct q2 *q, enum q2_wipe how)
{
    if (how == Q2_WIPE_FORGET || q->h.version < 3)
        return false;
    return how != Q2_WIPE_DISCARD || q->h.backing;
}

/* What an entry becomes; returns whether the old storage is kept. */
static bool q2_wiped(const struct q2 *q, uint64_t old, enum q2_wipe how, uint64_t *ret_entry, uint64_t *ret_bits)
{
    bool marked = q2_wipe_explicit(q, how);
    bool keeps = marked && how == Q2_WIPE_ZERO && !(old & Q2_COMPRESSED) && old & Q2_COPIED;

    *ret_entry = keeps ? old & (Q2_OFFSET_MASK | Q2_COPIED) : 0;
    *ret_bits = 0;
    if (marked) {
        *ret_entry |= q->extl2 ? 0 : Q2_ZERO;
        *ret_bits = Q2_SUBS_ZERO;
    }
    return keeps;
}

/* Clusters first..first + n - 1, all in one L2 table. */
static int q2_wipe_table(struct q2 *q, uint64_t first, uint64_t n, enum q2_wipe how)
{
    uint64_t off = first << q->cluster_bits;
    struct q2_table *t;
    unsigned i;
    int res;

    if (!(q->l1[off >> (q->cluster_bits + q->l2_bits)] & Q2_OFFSET_MASK) && !q2_wipe_explicit(q, how))
        return 0;
    res = q2_l2_for_write_locked(q, off, &t, &i);
    for (uint64_t k = 0; k < n && res == 0; k++, i++) {
        uint64_t old = q2_entry(q, t, i), entry, bits;
        bool keeps = q2_wiped(q, old, how, &entry, &bits);

        if (old == entry && q2_entry_bits(q, t, i) == bits)
            continue;
        q2_entry_set_locked(q, t, i, entry, bits);
        if (!keeps)
            q2_free_entry_locked(q, old, true);
    }
    return res;
}

/* The data file's storage. Under a claim, so that no new data meets the hole. */
static int q2_wipe_data_file(struct q2 *q, struct q2_claim *claim)
{
    uint64_t off = claim->first << q->cluster_bits, len = claim->n << q->cluster_bits;
    uint64_t size = q->own_data->size;
    int res = 0;

    q2_claim_add_locked(q, claim);
    pthread_mutex_unlock(&q->lock);
    if (off < size && !q->discard_ignored)
        res = blk_discard(q->own_data, off, MIN(len, size - off));
    if (res < 0)
        log_debug("qcow2: discard in the data file failed: %d", res);
    pthread_mutex_lock(&q->lock);
    q2_claim_remove_locked(q, claim);
    return 0;
}

int q2_wipe(struct q2 *q, uint64_t first, uint64_t n, enum q2_wipe how)
{
    uint64_t per_table = BIT64(q->l2_bits);

    while (n > 0) {
        struct q2_claim part = { .first = first, .n = MIN(n, per_table - (first & (per_table - 1))) };
        int res = q2_relieve(q);

        if (res < 0)
            return res;
        pthread_mutex_lock(&q->lock);
        (void)q2_claim_wait_locked(q, part.first, part.n);
        res = q->corrupt ? -EIO : q2_wipe_table(q, part.first, part.n, how);
        if (res == 0 && q->own_data && how != Q2_WIPE_ZERO)
            res = q2_wipe_data_file(q, &part);
        pthread_mutex_unlock(&q->lock);
        if (res < 0)
            return res;
        first += part.n;
        n -= part.n;
    }
    return 0;
}

/* Whole clusters of [off, off + len); the one that the end of the disk cuts counts as whole. */
static void q2_whole(const struct q2 *q, uint64_t off, uint64_t len, uint64_t *ret_first, uint64_t *ret_n)
{
    uint64_t first = q2_clusters(q, off), end = off + len;

    end = end == q->node.size ? q2_clusters(q, end) : end >> q->cluster_bits;
    *ret_first = first;
    *ret_n = end > first ? end - first : 0;
}

int q2_discard(struct blk_node *n, uint64_t off, uint64_t len)
{
    struct q2 *q = q2_of(n);
    uint64_t first, count;
    unsigned token;
    int res = 0;

    if (q->h.version < 3 && q->h.backing) /* the old content of the backing file would come back */
        return 0;
    token = q2_enter(q);
    q2_bitmaps_mark(q, off, len);
    q2_whole(q, off, len, &first, &count);
    if (q->data_raw)
        res = blk_discard(q->own_data, off, len);
    else if (count)
        res = q2_wipe(q, first, count, Q2_WIPE_DISCARD);
    q2_leave(q, token);
    return res;
}

int q2_forget(struct blk_node *n, uint64_t off, uint64_t len)
{
    struct q2 *q = q2_of(n);
    uint64_t first, count;
    unsigned token;
    int res;

    q2_whole(q, off, len, &first, &count);
    if (!q2_aligned(q, off) || (!q2_aligned(q, off + len) && off + len != n->size))
        return -EINVAL;
    token = q2_enter(q);
    q2_bitmaps_mark(q, off, len);
    res = count ? q2_wipe(q, first, count, Q2_WIPE_FORGET) : 0;
    q2_leave(q, token);
    return res;
}

/* Mark the whole cluster as zeroes if all of it reads so already. *ret_done: it did. */
static int q2_zero_around(struct q2 *q, uint64_t cluster, enum q2_wipe how, bool *ret_done)
{
    uint64_t off = cluster << q->cluster_bits;
    int res = 0;

    pthread_mutex_lock(&q->lock);
    (void)q2_claim_wait_locked(q, cluster, 1);
    *ret_done = q2_zero_now_locked(q, off, off + q->cluster_size);
    if (*ret_done)
        res = q->corrupt ? -EIO : q2_wipe_table(q, cluster, 1, how);
    pthread_mutex_unlock(&q->lock);
    return res;
}

/* A part of a cluster. */
static int q2_zero_part(struct q2 *q, uint64_t off, uint64_t len, enum q2_wipe how)
{
    AUTO_FREE uint8_t *zeroes = NULL;
    struct iovec iov = { .iov_len = len };
    bool done;
    int res;

    if (len == 0)
        return 0;
    res = q2_relieve(q);
    if (res == 0)
        res = q2_zero_around(q, off >> q->cluster_bits, how, &done);
    if (res < 0 || done)
        return res;
    iov.iov_base = zeroes = calloc(1, len);
    return zeroes ? q2_write_inside(q, off, &iov, 1, len) : -ENOMEM;
}

static int q2_zero_inside(struct q2 *q, uint64_t off, uint64_t len, unsigned flags)
{
    enum q2_wipe how = flags & BLK_ZERO_UNMAP ? Q2_WIPE_ZERO_FREE : Q2_WIPE_ZERO;
    uint64_t first, n, end = off + len, part;
    int res;

    q2_whole(q, off, len, &first, &n);
    /* Up to the first whole cluster, or to the end of the one that it begins in. */
    part = MIN(first << q->cluster_bits, end) - off;
    res = q2_zero_part(q, off, part, how);
    if (res == 0 && n > 0)
        res = q2_wipe(q, first, n, how);
    off = MIN((first + n) << q->cluster_bits, end);
    return res < 0 ? res : q2_zero_part(q, off, end - off, how);
}

int q2_write_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags)
{
    struct q2 *q = q2_of(n);
    unsigned token;
    int res;

    if (q->h.version < 3 && q->h.backing) /* has no zero clusters */
        return -ENOTSUP;
    token = q2_enter(q);
    q2_bitmaps_mark(q, off, len);
    res = q->data_raw ? blk_write_zeroes(q->own_data, off, len, flags) : q2_zero_inside(q, off, len, flags);
    q2_leave(q, token);
    return res;
}
