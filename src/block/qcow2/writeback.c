/* Write-back of metadata. What is dirty is copied under lock, then written without it in steps, each of which may only
 * refer to what the steps before it have put on stable storage:
 *
 *   1. refcount blocks, L2 tables that the file does not refer to yet, a refcount table that moved     flush (with it
 * the
 *   2. entries of the refcount table, or the header that tells where it moved                  flush    guest's data)
 *   3. L2 entries, L1 entries                                                                   flush
 *   4. in memory: references that are gone are counted down (limbo.c)
 *
 * Steps without work are left out together with their flush. Tables under way are busy: they stay in the cache, so that
 * nobody reads older bytes from the file. */
#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/log.h"
#include "block/qcow2/qcow2_priv.h"

#define Q2_WRITE_UNIT 4096u
#define Q2_LIMBO_BYTES_MAX (256u << 20) /* of storage that waits to be counted down before somebody flushes for it */
#define Q2_LIMBO_MIN 256u               /* clusters, however big they are */

enum { Q2_STEP_BLOCKS, Q2_STEP_RT, Q2_STEP_ENTRIES, Q2_STEPS };

struct q2_job {
    struct q2_job *next;
    struct q2_cache *cache; /* NULL: L1 or refcount table */
    struct q2_table *table;
    uint64_t off; /* in the file */
    uint32_t lo, hi;
    unsigned step;
    uint8_t copy[];
};
struct q2_wb {
    struct q2_job *jobs;
    bool has[Q2_STEPS];
    uint64_t rt_new_off; /* the refcount table moves there; 0: it does not */
    uint32_t rt_new_clusters;
    uint32_t l1_lo, l1_hi, rt_lo, rt_hi;
    struct q2_freed *fresh;
};

/* ---- gathering ---- */

static struct q2_job *q2_job_add(struct q2_wb *wb, uint64_t off, uint32_t lo, uint32_t hi, unsigned step)
{
    struct q2_job *j = malloc(sizeof(*j) + hi - lo);

    if (!j)
        return NULL;
    *j = (struct q2_job){ .next = wb->jobs, .off = off + lo, .lo = lo, .hi = hi, .step = step };
    wb->jobs = j;
    wb->has[step] = true;
    return j;
}

static int q2_gather_cache(struct q2 *q, struct q2_wb *wb, struct q2_cache *c, bool is_l2)
{
    uint32_t unit = MIN(Q2_WRITE_UNIT, q->cluster_size);
    struct q2_table *t;

    if (!c->n_dirty)
        return 0;
    LIST_FOR_EACH(t, &c->lru, lru) {
        struct q2_job *j;

        if (t->dirty_lo >= t->dirty_hi)
            continue;
        j = q2_job_add(wb, t->off, (uint32_t)align_down(t->dirty_lo, unit), (uint32_t)align_up(t->dirty_hi, unit),
                       is_l2 && !t->fresh ? Q2_STEP_ENTRIES : Q2_STEP_BLOCKS);
        if (!j)
            return -ENOMEM;
        memcpy(j->copy, t->data + j->lo, j->hi - j->lo);
        j->cache = c;
        j->table = t;
        t->busy = true;
        q2_cache_clean_locked(c, t);
    }
    return 0;
}

/* Entries [lo, hi) of the L1 or the refcount table, widened to whole sectors. */
static int q2_gather_entries(struct q2_wb *wb, uint64_t off, const uint64_t *table, uint32_t size, uint32_t lo,
                             uint32_t hi, unsigned step)
{
    struct q2_job *j;

    lo = (uint32_t)align_down(lo, BLK_SECTOR / 8);
    hi = MIN((uint32_t)align_up(hi, BLK_SECTOR / 8), size);
    j = q2_job_add(wb, off, lo * 8, hi * 8, step);
    if (!j)
        return -ENOMEM;
    for (uint32_t i = lo; i < hi; i++)
        q2_put_be64(j->copy + (size_t)(i - lo) * 8, table[i]);
    return 0;
}

static int q2_gather_rt(struct q2 *q, struct q2_wb *wb)
{
    int res;

    wb->rt_lo = q->rt_dirty_lo;
    wb->rt_hi = q->rt_dirty_hi;
    if (q->rt_new_off)
        res = q2_gather_entries(wb, q->rt_new_off, q->rt, q->rt_size, 0, q->rt_size, Q2_STEP_BLOCKS);
    else if (wb->rt_lo < wb->rt_hi)
        res = q2_gather_entries(wb, q->h.rt_off, q->rt, q->rt_size, wb->rt_lo, wb->rt_hi, Q2_STEP_RT);
    else
        return 0;
    if (res < 0)
        return res;
    wb->rt_new_off = q->rt_new_off;
    wb->rt_new_clusters = (uint32_t)(((uint64_t)q->rt_size * 8) >> q->cluster_bits);
    wb->has[Q2_STEP_RT] = true;
    q->rt_new_off = 0;
    q->rt_dirty_lo = q->rt_dirty_hi = 0;
    return 0;
}

static int q2_gather(struct q2 *q, struct q2_wb *wb)
{
    int res = q2_gather_cache(q, wb, &q->rb, false);

    if (res == 0)
        res = q2_gather_rt(q, wb);
    if (res == 0 && q->l1_dirty_lo < q->l1_dirty_hi) {
        res = q2_gather_entries(wb, q->h.l1_off, q->l1, q->h.l1_size, q->l1_dirty_lo, q->l1_dirty_hi, Q2_STEP_ENTRIES);
        if (res == 0) {
            wb->l1_lo = q->l1_dirty_lo;
            wb->l1_hi = q->l1_dirty_hi;
            q->l1_dirty_lo = q->l1_dirty_hi = 0;
        }
    }
    if (res == 0)
        res = q2_gather_cache(q, wb, &q->l2, true);
    wb->fresh = q->limbo.fresh;
    q->limbo.fresh = NULL;
    q->limbo.n_fresh = 0;
    return res;
}

/* ---- writing ---- */

static int q2_wb_flush(struct q2 *q, bool data)
{
    int res = data && q->own_data ? blk_flush(q->own_data) : 0;

    return res < 0 ? res : blk_flush(q->node.file);
}

static int q2_wb_jobs(struct q2 *q, const struct q2_wb *wb, unsigned step)
{
    int res = 0;

    for (const struct q2_job *j = wb->jobs; j && res == 0; j = j->next) {
        if (j->step == step)
            res = blk_pwrite(q->node.file, j->off, j->copy, j->hi - j->lo);
    }
    return res;
}

/* The header learns where the refcount table is now. */
static int q2_wb_rt_moved(struct q2 *q, struct q2_wb *wb, bool alone)
{
    uint64_t old_off = q->h.rt_off;
    uint32_t old_clusters = q->h.rt_clusters;
    int res;

    if (!alone)
        pthread_mutex_lock(&q->lock);
    q->h.rt_off = wb->rt_new_off;
    q->h.rt_clusters = wb->rt_new_clusters;
    res = q2_header_write_locked(q);
    if (res < 0) {
        q->h.rt_off = old_off;
        q->h.rt_clusters = old_clusters;
    } else {
        wb->rt_new_off = 0;
        q2_free_meta_locked(q, old_off, (uint64_t)old_clusters << q->cluster_bits);
    }
    if (!alone)
        pthread_mutex_unlock(&q->lock);
    return res;
}

static int q2_wb_write(struct q2 *q, struct q2_wb *wb, bool alone)
{
    int res = q2_wb_jobs(q, wb, Q2_STEP_BLOCKS);

    if (res == 0)
        res = q2_wb_flush(q, true);
    if (res == 0 && wb->has[Q2_STEP_RT]) {
        res = wb->rt_new_off ? q2_wb_rt_moved(q, wb, alone) : q2_wb_jobs(q, wb, Q2_STEP_RT);
        if (res == 0)
            res = q2_wb_flush(q, false);
    }
    if (res == 0 && wb->has[Q2_STEP_ENTRIES]) {
        res = q2_wb_jobs(q, wb, Q2_STEP_ENTRIES);
        if (res == 0)
            res = q2_wb_flush(q, false);
    }
    return res;
}

/* ---- the end: what is clean now, or dirty again ---- */

static void q2_wb_undo(struct q2 *q, struct q2_wb *wb)
{
    struct q2_freed **end = &wb->fresh;

    if (wb->l1_lo < wb->l1_hi)
        q2_span_add(&q->l1_dirty_lo, &q->l1_dirty_hi, wb->l1_lo, wb->l1_hi - wb->l1_lo);
    if (wb->rt_lo < wb->rt_hi)
        q2_span_add(&q->rt_dirty_lo, &q->rt_dirty_hi, wb->rt_lo, wb->rt_hi - wb->rt_lo);
    if (wb->rt_new_off && q->rt_new_off)
        q2_unalloc_locked(q, wb->rt_new_off, wb->rt_new_clusters);
    else if (wb->rt_new_off)
        q->rt_new_off = wb->rt_new_off;
    while (*end) {
        q->limbo.n_fresh += (*end)->n;
        end = &(*end)->next;
    }
    *end = q->limbo.fresh;
    q->limbo.fresh = wb->fresh;
}

static void q2_wb_end(struct q2 *q, struct q2_wb *wb, int res)
{
    struct q2_job *next;

    for (struct q2_job *j = wb->jobs; j; j = next) {
        next = j->next;
        if (j->table) {
            j->table->busy = false;
            if (res < 0)
                q2_cache_dirty_locked(j->cache, j->table, j->lo, j->hi - j->lo);
            else
                j->table->fresh = false;
        }
        free(j);
    }
    if (res < 0)
        q2_wb_undo(q, wb);
    else
        q2_limbo_ripen_locked(q, wb->fresh);
}

int q2_writeback_locked(struct q2 *q, bool alone)
{
    struct q2_wb wb = { 0 };
    uint64_t number = __atomic_add_fetch(&q->wb_started, 1, __ATOMIC_RELAXED);
    int res;

    q2_limbo_reap_locked(q, alone);
    res = q2_gather(q, &wb);
    if (!alone)
        pthread_mutex_unlock(&q->lock);
    if (res == 0)
        res = q2_wb_write(q, &wb, alone);
    if (!alone)
        pthread_mutex_lock(&q->lock);
    q2_wb_end(q, &wb, res);
    if (res == 0) {
        __atomic_store_n(&q->wb_done, number, __ATOMIC_RELAXED);
        q2_limbo_reap_locked(q, alone);
    }
    return res;
}

int q2_flush(struct blk_node *n)
{
    struct q2 *q = q2_of(n);
    uint64_t before = __atomic_load_n(&q->wb_started, __ATOMIC_RELAXED);
    int res = 0;

    pthread_mutex_lock(&q->wb_lock);
    /* One that began after this call, for somebody else, has done our work too. */
    if (q->wb_done <= before) {
        pthread_mutex_lock(&q->lock);
        res = q2_writeback_locked(q, false);
        pthread_mutex_unlock(&q->lock);
    }
    pthread_mutex_unlock(&q->wb_lock);
    return res;
}

/* ---- bounds ---- */

bool q2_wants_relief_locked(const struct q2 *q)
{
    uint64_t limbo_max = MAX(Q2_LIMBO_MIN, Q2_LIMBO_BYTES_MAX >> q->cluster_bits);

    return q->l2.n_dirty > q->l2.n_max / 2 || q->rb.n_dirty > q->rb.n_max / 2 || q->limbo.n_fresh > limbo_max;
}

int q2_relieve(struct q2 *q)
{
    bool wants;
    int res = 0;

    pthread_mutex_lock(&q->lock);
    wants = q2_wants_relief_locked(q);
    pthread_mutex_unlock(&q->lock);
    if (!wants)
        return 0;
    pthread_mutex_lock(&q->wb_lock);
    pthread_mutex_lock(&q->lock);
    if (q2_wants_relief_locked(q)) /* nobody did it meanwhile */
        res = q2_writeback_locked(q, false);
    pthread_mutex_unlock(&q->lock);
    pthread_mutex_unlock(&q->wb_lock);
    return res;
}

int q2_relieve_alone(struct q2 *q)
{
    return q2_wants_relief_locked(q) ? q2_writeback_locked(q, true) : 0;
}
