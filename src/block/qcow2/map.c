/* What stands where: extents for tools, and pieces of host files for the fast path of the VM, which must not block: it
 * gives up where lock is taken (somebody may be reading metadata) or a table is not in memory. */
#include <errno.h>

#include "base/bits.h"
#include "block/qcow2/qcow2_priv.h"

/* ---- extents ---- */

static unsigned q2_run_flags(const struct q2 *q, const struct q2_run *run)
{
    switch (run->kind) {
    case Q2_K_DATA:
        return BLK_EXT_DATA | BLK_EXT_ALLOCATED | (q->luks ? 0u : BLK_EXT_HOST);
    case Q2_K_COMPRESSED:
        return BLK_EXT_DATA | BLK_EXT_ALLOCATED | BLK_EXT_COMPRESSED;
    case Q2_K_ZERO:
        return BLK_EXT_ZERO | BLK_EXT_ALLOCATED;
    case Q2_K_UNALLOCATED:
        break;
    }
    return q->h.backing ? 0u : BLK_EXT_ZERO;
}

int q2_extent(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *ret_extent)
{
    struct q2 *q = q2_of(n);
    struct blk_extent x = { 0 };
    unsigned token = q2_enter(q);
    int res = 0;

    pthread_mutex_lock(&q->lock);
    while (x.len < len) {
        struct q2_run run;
        unsigned flags;

        res = q2_lookup_locked(q, off + x.len, len - x.len, false, &run);
        if (res < 0)
            break;
        flags = q2_run_flags(q, &run);
        if (x.len == 0) {
            x.flags = flags;
            x.host_off = flags & BLK_EXT_HOST ? run.host : 0;
        } else if (flags != x.flags || (flags & BLK_EXT_HOST && run.host != x.host_off + x.len)) {
            break;
        }
        x.len += run.len;
    }
    pthread_mutex_unlock(&q->lock);
    q2_leave(q, token);
    if (x.len == 0)
        return res;
    *ret_extent = x;
    return 0;
}

/* ---- pieces ---- */

struct q2_pieces {
    struct blk_piece *out;
    unsigned n;
};

/* Pieces of another node behind those that are there. False: it has none, or they are too many. */
static bool q2_pieces_of(struct q2_pieces *p, struct blk_node *n, enum blk_op op, uint64_t off, uint64_t len)
{
    struct blk_piece pieces[BLK_PIECES_MAX];
    int got = blk_map(n, op, off, len, pieces);

    if (got <= 0)
        return false;
    if (p->n + (unsigned)got > BLK_PIECES_MAX) {
        blk_unmap(n);
        return false;
    }
    memcpy(p->out + p->n, pieces, (unsigned)got * sizeof(*pieces));
    p->n += (unsigned)got;
    return true;
}

static bool q2_pieces_zero(struct q2_pieces *p, uint64_t len)
{
    if (p->n == BLK_PIECES_MAX)
        return false;
    p->out[p->n++] = (struct blk_piece){ .fd = -1, .len = len, .align = 1 };
    return true;
}

static bool q2_map_backing(struct q2 *q, struct q2_pieces *p, uint64_t off, uint64_t len)
{
    uint64_t end = q2_backing_end(q), part = MIN(len, end - off);

    if (!q2_pieces_of(p, q->node.backing, BLK_READ, off, part))
        return false;
    q2_owe_backing(q);
    return part == len || q2_pieces_zero(p, len - part);
}

static bool q2_map_run(struct q2 *q, struct q2_pieces *p, enum blk_op op, uint64_t off, struct q2_run *run)
{
    uint64_t file_size = __atomic_load_n(&q->data->size, __ATOMIC_RELAXED);

    if (op == BLK_WRITE) {
        uint64_t first = off >> q->cluster_bits, n = ((off + run->len - 1) >> q->cluster_bits) - first + 1;

        return run->kind == Q2_K_DATA && run->copied && !q2_claimed_locked(q, first, n) &&
               q2_host_ok_locked(q, run->host, run->len) && q2_pieces_of(p, q->data, op, run->host, run->len);
    }
    if (run->kind == Q2_K_DATA)
        return run->len <= file_size && run->host <= file_size - run->len &&
               q2_pieces_of(p, q->data, op, run->host, run->len);
    if (run->kind == Q2_K_COMPRESSED)
        return false;
    if (q2_run_is_zero(q, run, off))
        return q2_pieces_zero(p, run->len);
    return q2_map_backing(q, p, off, run->len);
}

static bool q2_map_locked(struct q2 *q, struct q2_pieces *p, enum blk_op op, uint64_t off, uint64_t len)
{
    struct q2_run run;

    if (op == BLK_WRITE && q->corrupt)
        return false;
    for (; len > 0; off += run.len, len -= run.len) {
        if (q2_lookup_locked(q, off, len, true, &run) < 0 || !q2_map_run(q, p, op, off, &run))
            return false;
    }
    return true;
}

int q2_map(struct blk_node *n, enum blk_op op, uint64_t off, uint64_t len, struct blk_piece pieces[BLK_PIECES_MAX])
{
    struct q2 *q = q2_of(n);
    struct q2_pieces p = { .out = pieces };
    bool done;

    /* A child that wants its unmap would have to be told when, piece by piece. */
    if (q->luks || q->data->ops->unmap || (op != BLK_READ && op != BLK_WRITE) || !q2_enter_map(q))
        return 0;
    done = pthread_mutex_trylock(&q->lock) == 0;
    if (done) {
        done = q2_map_locked(q, &p, op, off, len);
        pthread_mutex_unlock(&q->lock);
    }
    if (!done) {
        q2_leave_map(q);
        return 0;
    }
    if (op == BLK_WRITE)
        q2_bitmaps_mark(q, off, len);
    return (int)p.n;
}

void q2_unmap(struct blk_node *n)
{
    q2_leave_map(q2_of(n));
}
