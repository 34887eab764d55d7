/* L2 tables and refcount blocks in memory: a hash table by place in the file, and a list by last use. Only clean tables
 * are let go of; when all are dirty the cache grows, and whoever asked soon makes a write-back (q2_relieve), which the
 * number of tables that one step of a request touches bounds. */
#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "block/qcow2/qcow2_priv.h"

static unsigned q2_bucket(const struct q2_cache *c, const struct q2 *q, uint64_t off)
{
    return (unsigned)(off >> q->cluster_bits) & (c->n_buckets - 1);
}

int q2_cache_init(struct q2_cache *c, unsigned n_max)
{
    list_init(&c->lru);
    c->n_max = n_max;
    for (c->n_buckets = 16; c->n_buckets < n_max && c->n_buckets < 65536; c->n_buckets *= 2)
        ;
    c->buckets = calloc(c->n_buckets, sizeof(struct q2_table *));
    return c->buckets ? 0 : -ENOMEM;
}

static void q2_table_free(struct q2_table *t)
{
    free(t->data);
    free(t);
}

void q2_cache_drop_all_locked(struct q2_cache *c)
{
    struct q2_table *t;

    if (!c->buckets)
        return;
    LIST_FOR_EACH(t, &c->lru, lru) {
        list_remove(&t->lru);
        q2_table_free(t);
    }
    memset(c->buckets, 0, c->n_buckets * sizeof(struct q2_table *));
    c->n = c->n_dirty = 0;
}

void q2_cache_done(struct q2_cache *c)
{
    q2_cache_drop_all_locked(c);
    free(c->buckets);
    c->buckets = NULL;
}

struct q2_table *q2_cache_peek_locked(struct q2 *q, struct q2_cache *c, uint64_t off)
{
    struct q2_table *t = c->buckets[q2_bucket(c, q, off)];

    while (t && t->off != off)
        t = t->hash_next;
    if (t && c->lru.next != &t->lru) {
        list_remove(&t->lru);
        list_add_before(c->lru.next, &t->lru);
    }
    return t;
}

/* Take out of hash and list. */
static void q2_cache_unlink(struct q2 *q, struct q2_cache *c, struct q2_table *t)
{
    struct q2_table **p = &c->buckets[q2_bucket(c, q, t->off)];

    while (*p != t)
        p = &(*p)->hash_next;
    *p = t->hash_next;
    list_remove(&t->lru);
    c->n--;
    if (t->dirty_lo < t->dirty_hi)
        c->n_dirty--;
    t->dirty_lo = t->dirty_hi = 0;
}

/* A table that can go, taken out; NULL: none. */
static struct q2_table *q2_cache_victim(struct q2 *q, struct q2_cache *c)
{
    for (struct list *l = c->lru.prev; l != &c->lru; l = l->prev) {
        struct q2_table *t = CONTAINER_OF(l, struct q2_table, lru);

        if (t->dirty_lo >= t->dirty_hi && !t->busy) {
            q2_cache_unlink(q, c, t);
            return t;
        }
    }
    return NULL;
}

/* A table in hash and list, with memory of any content. */
static struct q2_table *q2_cache_place(struct q2 *q, struct q2_cache *c, uint64_t off)
{
    struct q2_table *t = c->n >= c->n_max ? q2_cache_victim(q, c) : NULL;
    unsigned bucket = q2_bucket(c, q, off);

    if (!t) {
        t = calloc(1, sizeof(*t));
        if (!t)
            return NULL;
        t->data = aligned_alloc(MIN(q->cluster_size, 4096u), q->cluster_size);
        if (!t->data) {
            free(t);
            return NULL;
        }
    }
    t->off = off;
    t->fresh = false;
    t->hash_next = c->buckets[bucket];
    c->buckets[bucket] = t;
    list_add_before(c->lru.next, &t->lru);
    c->n++;
    return t;
}

int q2_cache_get_locked(struct q2 *q, struct q2_cache *c, uint64_t off, struct q2_table **ret)
{
    struct q2_table *t = q2_cache_peek_locked(q, c, off);
    int res;

    if (!t) {
        uint64_t file_size = __atomic_load_n(&q->node.file->size, __ATOMIC_RELAXED);

        if (!q2_aligned(q, off) || off == 0 || off >= file_size)
            return -EIO;
        t = q2_cache_place(q, c, off);
        if (!t)
            return -ENOMEM;
        res = blk_pread(q->node.file, off, t->data, q->cluster_size);
        if (res < 0) {
            q2_cache_drop_locked(q, c, off);
            return res;
        }
    }
    *ret = t;
    return 0;
}

int q2_cache_add_locked(struct q2 *q, struct q2_cache *c, uint64_t off, struct q2_table **ret)
{
    struct q2_table *t;

    q2_cache_drop_locked(q, c, off); /* of an earlier life of the cluster */
    t = q2_cache_place(q, c, off);
    if (!t)
        return -ENOMEM;
    memset(t->data, 0, q->cluster_size);
    q2_cache_dirty_locked(c, t, 0, q->cluster_size);
    *ret = t;
    return 0;
}

void q2_cache_dirty_locked(struct q2_cache *c, struct q2_table *t, uint32_t off, uint32_t len)
{
    if (t->dirty_lo >= t->dirty_hi)
        c->n_dirty++;
    q2_span_add(&t->dirty_lo, &t->dirty_hi, off, len);
}

void q2_cache_clean_locked(struct q2_cache *c, struct q2_table *t)
{
    if (t->dirty_lo < t->dirty_hi)
        c->n_dirty--;
    t->dirty_lo = t->dirty_hi = 0;
}

void q2_cache_drop_locked(struct q2 *q, struct q2_cache *c, uint64_t off)
{
    struct q2_table *t = q2_cache_peek_locked(q, c, off);

    if (t) {
        q2_cache_unlink(q, c, t);
        q2_table_free(t);
    }
}
