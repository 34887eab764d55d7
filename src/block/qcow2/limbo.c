/* Freed clusters on their way to refcount 0: first the file must hold no reference to them any more (a write-back),
 * then the requests that found them before must have ended. Only then are they counted down, and can be allocated
 * again. */
#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/log.h"
#include "block/qcow2/qcow2_priv.h"

void q2_free_locked(struct q2 *q, uint64_t off, uint64_t n, bool punch)
{
    uint64_t cluster = off >> q->cluster_bits;
    struct q2_freed *f = q->limbo.fresh;

    q->limbo.n_fresh += n;
    if (f && f->punch == punch && cluster == f->cluster + f->n) {
        f->n += n;
        return;
    }
    f = malloc(sizeof(*f));
    if (!f) {
        log_debug("qcow2: no memory; clusters at %#llx leak", (unsigned long long)off);
        return;
    }
    *f = (struct q2_freed){ .next = q->limbo.fresh, .cluster = cluster, .n = n, .punch = punch };
    q->limbo.fresh = f;
}

void q2_free_meta_locked(struct q2 *q, uint64_t off, uint64_t bytes)
{
    uint64_t n = q2_clusters(q, bytes);

    if (!off || !n)
        return;
    q2_meta_remove(q, off, n << q->cluster_bits);
    q2_free_locked(q, off, n, false);
}

void q2_free_entry_locked(struct q2 *q, uint64_t entry, bool punch)
{
    uint64_t off = entry & Q2_OFFSET_MASK, len = 1, first, n;

    if (entry & Q2_COMPRESSED)
        q2_compressed_place(q, entry, &off, &len);
    else if (!off || q->own_data || !q2_aligned(q, off))
        return;
    first = off >> q->cluster_bits;
    n = ((off + len - 1) >> q->cluster_bits) - first + 1;
    if (q2_meta_hit(q, first << q->cluster_bits, n << q->cluster_bits))
        (void)q2_corrupt_locked(q); /* an entry that lied */
    else
        q2_free_locked(q, first << q->cluster_bits, n, punch);
}

void q2_limbo_ripen_locked(struct q2 *q, struct q2_freed *fresh)
{
    struct q2_freed **end = &q->limbo.ripe;

    if (!fresh)
        return;
    while (*end)
        end = &(*end)->next;
    *end = fresh;
    q->limbo.ripe_epoch = q2_epoch(q);
}

/* Give back to the host what nobody else refers to, in whole runs. */
static void q2_limbo_punch(struct q2 *q, const struct q2_freed *f, bool alone)
{
    for (uint64_t i = 0, n; i < f->n; i += n) {
        uint64_t value = 0;
        int res;

        for (n = 0; i + n < f->n; n++) {
            res = q2_refcount_get_locked(q, f->cluster + i + n, &value);
            if (res < 0 || value != 1)
                break;
        }
        if (n > 0) {
            if (!alone)
                pthread_mutex_unlock(&q->lock);
            res = blk_discard(q->node.file, (f->cluster + i) << q->cluster_bits, n << q->cluster_bits);
            if (!alone)
                pthread_mutex_lock(&q->lock);
            if (res < 0)
                log_debug("qcow2: discard of freed clusters failed: %d", res);
        } else {
            n = 1;
        }
    }
}

void q2_limbo_reap_locked(struct q2 *q, bool alone)
{
    struct q2_freed *ripe = q->limbo.ripe, *next;

    if (!ripe || !q2_epoch_over(q, q->limbo.ripe_epoch))
        return;
    q->limbo.ripe = NULL;
    q2_inflated_drop(q);
    for (struct q2_freed *f = ripe; f; f = next) {
        /* No more compressed data into a cluster that is about to go. */
        if (q->packed_at && (q->packed_at - 1) >> q->cluster_bits >= f->cluster &&
            (q->packed_at - 1) >> q->cluster_bits < f->cluster + f->n)
            q->packed_at = 0;
        if (f->punch && !q->discard_ignored)
            q2_limbo_punch(q, f, alone);
        for (uint64_t i = 0; i < f->n; i++) {
            uint64_t off = (f->cluster + i) << q->cluster_bits;
            int res = q2_refcount_update_locked(q, f->cluster + i, 1, -1);

            if (res < 0)
                log_debug("qcow2: cluster at %#llx leaks: %d", (unsigned long long)off, res);
        }
        next = f->next;
        free(f);
    }
}

void q2_limbo_done(struct q2 *q)
{
    struct q2_freed *lists[] = { q->limbo.fresh, q->limbo.ripe }, *next;

    for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
        for (struct q2_freed *f = lists[i]; f; f = next) {
            next = f->next;
            free(f);
        }
    }
    q->limbo = (struct q2_limbo){ 0 };
}
