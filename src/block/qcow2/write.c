/* Writing the disk. What has a place of its own is written there, without a lock. For the rest a plan is made under
 * lock: a run of clusters in one L2 table, new storage for them in one piece (or the place that they have already), a
 * claim. The data, filled up at both ends from what was there before, is then written without the lock, in one call; at
 * the end the entries are set and the old clusters freed. A crash in between leaks the new clusters. */
#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/log.h"
#include "block/qcow2/qcow2_priv.h"

#define Q2_PLAN_BYTES_MAX (32u << 20)

struct q2_plan {
    struct q2_claim claim;
    bool fresh;        /* host was allocated for this plan; else the clusters stay where they are */
    bool zeroed;       /* host reads as zeroes so far */
    uint64_t host;     /* of the first cluster, in q->data */
    uint64_t off, end; /* what the guest writes, of these clusters */
    uint64_t from, to; /* what is written: from <= off, end <= to; whole subclusters where they are not in use yet */
    bool skip_head, skip_tail; /* zeroes where there are zeroes: not written */
};

/* ---- planning, under lock ---- */

static bool q2_needs_new(const struct q2 *q, const struct q2_run *run)
{
    return run->kind == Q2_K_COMPRESSED || !run->has_host || !run->copied;
}

/* Clusters from first on, at most max, that can be treated alike: to be moved; or that stay, in one piece. */
static int q2_plan_count(struct q2 *q, struct q2_plan *p, uint64_t max)
{
    uint64_t first = p->claim.first, n = 0, left = BIT64(q->l2_bits) - (first & (BIT64(q->l2_bits) - 1));

    for (max = MIN(max, left); n < max; n++) {
        struct q2_run run;
        int res = q2_lookup_locked(q, (first + n) << q->cluster_bits, 1, false, &run);

        if (res < 0)
            return res;
        if (n == 0) {
            p->fresh = q2_needs_new(q, &run);
            p->host = run.host;
        } else if (q2_needs_new(q, &run) != p->fresh || q2_claimed_locked(q, first + n, 1) ||
                   (!p->fresh && run.host != p->host + (n << q->cluster_bits))) {
            break;
        }
    }
    p->claim.n = n;
    return 0;
}

/* Whether any byte of [off, off + len) holds data of its own now. */
static int q2_has_data(struct q2 *q, uint64_t off, uint64_t len, bool *ret)
{
    *ret = false;
    while (len > 0 && !*ret) {
        struct q2_run run;
        int res = q2_lookup_locked(q, off, len, false, &run);

        if (res < 0)
            return res;
        *ret = run.kind == Q2_K_DATA || run.kind == Q2_K_COMPRESSED;
        off += run.len;
        len -= run.len;
    }
    return 0;
}

/* How far the write reaches beyond what the guest writes: to the edges of subclusters, but not into one that is in use
 * and stays; over the whole cluster where that moves and has data elsewhere. */
static int q2_plan_range(struct q2 *q, struct q2_plan *p)
{
    uint64_t sub = BIT64(q->sub_bits), cluster = q->cluster_size;
    uint64_t lo = align_down(p->off, cluster), hi = align_up(p->end, cluster);
    bool data;
    int res;

    p->from = align_down(p->off, sub);
    p->to = align_up(p->end, sub);
    if (p->fresh) {
        res = q2_has_data(q, lo, p->off - lo, &data);
        p->from = data ? lo : p->from;
        if (res == 0)
            res = q2_has_data(q, p->end, hi - p->end, &data);
        p->to = data ? hi : p->to;
    } else {
        struct q2_run run;

        res = q2_lookup_locked(q, p->off, 1, false, &run);
        if (res < 0)
            return res;
        p->from = run.kind == Q2_K_DATA ? p->off : p->from;
        res = q2_lookup_locked(q, p->end - 1, 1, false, &run);
        p->to = res == 0 && run.kind == Q2_K_DATA ? p->end : p->to;
    }
    if (q->own_data)
        p->to = MAX(p->end, MIN(p->to, q->node.size));
    return res;
}

bool q2_zero_now_locked(struct q2 *q, uint64_t lo, uint64_t hi)
{
    while (lo < hi) {
        struct q2_run run;

        if (q2_lookup_locked(q, lo, hi - lo, false, &run) < 0 || !q2_run_is_zero(q, &run, lo))
            return false;
        lo += run.len;
    }
    return true;
}

/* Whether something of [lo, hi) is in the chain, which was not opened: nothing to fill up a cluster with. */
static bool q2_chained(struct q2 *q, uint64_t lo, uint64_t hi)
{
    while (lo < hi) {
        struct q2_run run;

        if (q2_lookup_locked(q, lo, hi - lo, false, &run) < 0 || run.kind == Q2_K_UNALLOCATED)
            return true;
        lo += run.len;
    }
    return false;
}

static int q2_plan_storage(struct q2 *q, struct q2_plan *p)
{
    uint64_t zero_from = q->zero_from;
    int res;

    if (q->own_data) {
        p->host = p->claim.first << q->cluster_bits;
        return 0;
    }
    if (!p->fresh) {
        if (!q2_aligned(q, p->host) || !q2_host_ok_locked(q, p->host, p->claim.n << q->cluster_bits))
            return q2_corrupt_locked(q);
        return 0;
    }
    res = q2_alloc_some_locked(q, p->claim.n, &p->host, &p->claim.n);
    p->zeroed = res == 0 && p->host >= zero_from && !q->luks; /* decrypted, a hole is not zero */
    return res;
}

static int q2_plan_make(struct q2 *q, struct q2_plan *p, uint64_t off, uint64_t len)
{
    uint64_t first = off >> q->cluster_bits, last = (off + len - 1) >> q->cluster_bits;
    int res;

    *p = (struct q2_plan){ .claim = { .first = first }, .off = off };
    res = q2_plan_count(q, p, MIN(last - first + 1, MAX(1u, Q2_PLAN_BYTES_MAX >> q->cluster_bits)));
    if (res < 0)
        return res;
    res = q2_plan_storage(q, p);
    if (res < 0)
        return res;
    p->end = MIN(off + len, (first + p->claim.n) << q->cluster_bits);
    res = q2_plan_range(q, p);
    if (res == 0 && q->h.backing && !q->node.backing &&
        (q2_chained(q, p->from, p->off) || q2_chained(q, p->end, MIN(p->to, q->node.size))))
        res = -EINVAL;
    if (res < 0) {
        if (p->fresh && !q->own_data)
            q2_unalloc_locked(q, p->host, p->claim.n);
        return res;
    }
    p->skip_head = p->zeroed && q2_zero_now_locked(q, p->from, p->off);
    p->skip_tail = p->zeroed && q2_zero_now_locked(q, p->end, p->to);
    q2_claim_add_locked(q, &p->claim);
    return 0;
}

/* ---- the data, without lock ---- */

static int q2_plan_old(struct q2 *q, uint64_t off, uint64_t len, uint8_t *buf)
{
    const struct iovec iov = { .iov_base = buf, .iov_len = len };

    return len > 0 ? q2_read_inside(q, off, &iov, 1, len) : 0;
}

static int q2_plan_write(struct q2 *q, const struct q2_plan *p, const struct iovec *iov, unsigned n_iov, uint64_t skip)
{
    uint64_t head = p->skip_head ? 0 : p->off - p->from, tail = p->skip_tail ? 0 : p->to - p->end;
    uint64_t at = p->host + (p->off - head - (p->claim.first << q->cluster_bits)), len = p->end - p->off;
    AUTO_FREE uint8_t *old = NULL;
    struct q2_iov all;
    int res = 0;

    if (head + tail == 0)
        return q2_data_write(q, at, iov, n_iov, skip, len);
    old = aligned_alloc(4096, align_up(head, 4096) + align_up(tail, 4096));
    if (!old)
        return -ENOMEM;
    res = q2_plan_old(q, p->off - head, head, old);
    if (res == 0)
        res = q2_plan_old(q, p->end, tail, old + align_up(head, 4096));
    if (res == 0)
        res = q2_iov_room(&all, n_iov + 2);
    if (res < 0)
        return res;
    if (head > 0)
        all.v[all.n++] = (struct iovec){ .iov_base = old, .iov_len = head };
    all.n += blk_iov_slice(iov, n_iov, skip, len, all.v + all.n);
    if (tail > 0)
        all.v[all.n++] = (struct iovec){ .iov_base = old + align_up(head, 4096), .iov_len = tail };
    res = q2_data_write(q, at, all.v, all.n, 0, head + len + tail);
    q2_iov_done(&all);
    return res;
}

/* ---- the end, under lock ---- */

/* Bits lo..hi-1 of the subclusters of the cluster at base that [from, to) covers. */
static uint64_t q2_sub_mask(const struct q2 *q, uint64_t base, uint64_t from, uint64_t to)
{
    uint64_t lo = from > base ? (from - base) >> q->sub_bits : 0;
    uint64_t end = MIN(to - base, q->cluster_size), hi = (end + BIT64(q->sub_bits) - 1) >> q->sub_bits;

    return lo < hi ? BITS64(hi - 1, lo) : 0;
}

static void q2_plan_set(struct q2 *q, const struct q2_plan *p, struct q2_table *t, unsigned i, uint64_t k)
{
    uint64_t base = (p->claim.first + k) << q->cluster_bits, old = q2_entry(q, t, i);
    uint64_t bits = old & Q2_COMPRESSED ? 0 : q2_entry_bits(q, t, i), mask = q2_sub_mask(q, base, p->from, p->to);

    bits = (bits & ~(mask << 32)) | mask;
    q2_entry_set_locked(q, t, i, (p->host + (k << q->cluster_bits)) | Q2_COPIED, bits);
    if (p->fresh)
        q2_free_entry_locked(q, old, false);
}

static int q2_plan_finish(struct q2 *q, struct q2_plan *p, int res)
{
    struct q2_table *t;
    unsigned i;

    pthread_mutex_lock(&q->lock);
    if (res == 0)
        res = q2_l2_for_write_locked(q, p->claim.first << q->cluster_bits, &t, &i);
    for (uint64_t k = 0; k < p->claim.n && res == 0; k++)
        q2_plan_set(q, p, t, i + (unsigned)k, k);
    if (res < 0 && p->fresh && !q->own_data)
        q2_unalloc_locked(q, p->host, p->claim.n);
    q2_claim_remove_locked(q, &p->claim);
    pthread_mutex_unlock(&q->lock);
    return res;
}

/* ---- one step: up to *len bytes, of one kind ---- */

static int q2_write_step(struct q2 *q, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t skip,
                         uint64_t *len)
{
    uint64_t first = off >> q->cluster_bits;
    struct q2_run run;
    struct q2_plan plan;
    int res;

    pthread_mutex_lock(&q->lock);
    if (q->corrupt) {
        pthread_mutex_unlock(&q->lock);
        return -EIO;
    }
    (void)q2_claim_wait_locked(q, first, 1);
    res = q2_lookup_locked(q, off, *len, false, &run);
    if (res == 0 && run.kind == Q2_K_DATA && run.copied) {
        if (q2_claimed_locked(q, first + 1, ((off + run.len - 1) >> q->cluster_bits) - first))
            run.len = MIN(run.len, ((first + 1) << q->cluster_bits) - off);
        if (!q2_host_ok_locked(q, run.host, run.len))
            res = q2_corrupt_locked(q);
        pthread_mutex_unlock(&q->lock);
        *len = run.len;
        return res < 0 ? res : q2_data_write(q, run.host, iov, n_iov, skip, run.len);
    }
    if (res == 0)
        res = q2_plan_make(q, &plan, off, *len);
    pthread_mutex_unlock(&q->lock);
    if (res < 0)
        return res;
    *len = plan.end - plan.off;
    return q2_plan_finish(q, &plan, q2_plan_write(q, &plan, iov, n_iov, skip));
}

int q2_write_inside(struct q2 *q, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len)
{
    int res = 0;

    for (uint64_t done = 0, part; done < len && res == 0; done += part) {
        part = len - done;
        res = q2_relieve(q);
        if (res == 0)
            res = q2_write_step(q, off + done, iov, n_iov, done, &part);
    }
    return res;
}

int q2_pwrite(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len)
{
    struct q2 *q = q2_of(n);
    unsigned token = q2_enter(q);
    int res;

    q2_bitmaps_mark(q, off, len);
    res = q2_write_inside(q, off, iov, n_iov, len);
    q2_leave(q, token);
    return res;
}
