/* The set of host clusters that hold metadata, so that a garbled mapping or refcount cannot make data overwrite it.
 * Open addressing with linear probing; removal moves later members of the chain up, so there are no tombstones. */
#include <errno.h>
#include <stdlib.h>

#include "block/qcow2/qcow2_priv.h"

#define Q2_META_SLOTS_MIN 64u

static size_t q2_meta_home(const struct q2_meta *m, uint64_t cluster)
{
    return (size_t)((cluster * 0x9e3779b97f4a7c15u) >> 20) & (m->n_slots - 1);
}

/* The slot of a cluster, or the empty one where it would be. n_slots > 0, never full. */
static size_t q2_meta_find(const struct q2_meta *m, uint64_t cluster)
{
    size_t i = q2_meta_home(m, cluster);

    while (m->slots[i] && m->slots[i] != cluster)
        i = (i + 1) & (m->n_slots - 1);
    return i;
}

static int q2_meta_grow(struct q2_meta *m)
{
    struct q2_meta grown = { .n = m->n, .n_slots = m->n_slots ? m->n_slots * 2 : Q2_META_SLOTS_MIN };

    grown.slots = calloc(grown.n_slots, sizeof(*grown.slots));
    if (!grown.slots)
        return -ENOMEM;
    for (size_t i = 0; i < m->n_slots; i++) {
        if (m->slots[i])
            grown.slots[q2_meta_find(&grown, m->slots[i])] = m->slots[i];
    }
    free(m->slots);
    *m = grown;
    return 0;
}

static int q2_meta_add_one(struct q2_meta *m, uint64_t cluster)
{
    size_t i;

    if (cluster == 0) /* always taken to be in the set */
        return 0;
    if (m->n * 2 >= m->n_slots) {
        int res = q2_meta_grow(m);

        if (res < 0)
            return res;
    }
    i = q2_meta_find(m, cluster);
    if (!m->slots[i]) {
        m->slots[i] = cluster;
        m->n++;
    }
    return 0;
}

static void q2_meta_remove_one(struct q2_meta *m, uint64_t cluster)
{
    size_t mask = m->n_slots - 1, hole;

    if (!m->n || !cluster)
        return;
    hole = q2_meta_find(m, cluster);
    if (!m->slots[hole])
        return;
    m->n--;
    for (size_t i = (hole + 1) & mask; m->slots[i]; i = (i + 1) & mask) {
        size_t home = q2_meta_home(m, m->slots[i]);

        /* It may move up unless its home lies behind the hole. */
        if (((i - home) & mask) >= ((i - hole) & mask)) {
            m->slots[hole] = m->slots[i];
            hole = i;
        }
    }
    m->slots[hole] = 0;
}

int q2_meta_add(struct q2 *q, uint64_t off, uint64_t bytes)
{
    uint64_t first = off >> q->cluster_bits, n = q2_clusters(q, bytes);

    for (uint64_t i = 0; i < n; i++) {
        int res = q2_meta_add_one(&q->meta, first + i);

        if (res < 0)
            return res;
    }
    return 0;
}

void q2_meta_remove(struct q2 *q, uint64_t off, uint64_t bytes)
{
    uint64_t first = off >> q->cluster_bits, n = q2_clusters(q, bytes);

    for (uint64_t i = 0; i < n; i++)
        q2_meta_remove_one(&q->meta, first + i);
}

bool q2_meta_hit(const struct q2 *q, uint64_t off, uint64_t bytes)
{
    const struct q2_meta *m = &q->meta;
    uint64_t first = off >> q->cluster_bits, last = (off + bytes - 1) >> q->cluster_bits;

    if (first == 0)
        return true;
    for (uint64_t i = first; m->n && i <= last; i++) {
        if (m->slots[q2_meta_find(m, i)])
            return true;
    }
    return false;
}
