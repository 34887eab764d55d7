/* Reading the disk. */
#include <errno.h>

#include "block/qcow2/qcow2_priv.h"

uint64_t q2_backing_end(const struct q2 *q)
{
    const struct blk_node *backing = q->node.backing;

    return backing ? MIN(backing->size, q->node.size) : 0;
}

bool q2_run_is_zero(const struct q2 *q, const struct q2_run *run, uint64_t off)
{
    return run->kind == Q2_K_ZERO || (run->kind == Q2_K_UNALLOCATED && off >= q2_backing_end(q));
}

static int q2_read_backing(struct q2 *q, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t skip,
                           uint64_t len)
{
    uint64_t end = q2_backing_end(q), part = off < end ? MIN(len, end - off) : 0;
    struct q2_iov slice;
    int res = 0;

    if (part > 0) {
        res = q2_iov_room(&slice, n_iov);
        if (res < 0)
            return res;
        slice.n = blk_iov_slice(iov, n_iov, skip, part, slice.v);
        res = blk_preadv(q->node.backing, off, slice.v, slice.n, part);
        q2_iov_done(&slice);
    }
    if (res == 0)
        blk_iov_zero(iov, n_iov, skip + part, len - part);
    return res;
}

static int q2_read_run(struct q2 *q, const struct q2_run *run, uint64_t off, const struct iovec *iov, unsigned n_iov,
                       uint64_t skip)
{
    switch (run->kind) {
    case Q2_K_DATA:
        return q2_data_read(q, run->host, iov, n_iov, skip, run->len);
    case Q2_K_COMPRESSED:
        return q2_read_compressed(q, run->entry, off & (q->cluster_size - 1), iov, n_iov, skip, run->len);
    case Q2_K_ZERO:
        blk_iov_zero(iov, n_iov, skip, run->len);
        return 0;
    case Q2_K_UNALLOCATED:
        break;
    }
    return q2_read_backing(q, off, iov, n_iov, skip, run->len);
}

int q2_read_inside(struct q2 *q, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len)
{
    uint64_t done = 0;
    int res = 0;

    while (done < len && res == 0) {
        struct q2_run run = { 0 };

        pthread_mutex_lock(&q->lock);
        res = q2_lookup_locked(q, off + done, len - done, false, &run);
        pthread_mutex_unlock(&q->lock);
        if (res == 0)
            res = q2_read_run(q, &run, off + done, iov, n_iov, done);
        done += run.len;
    }
    return res;
}

int q2_pread(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len)
{
    struct q2 *q = q2_of(n);
    unsigned token = q2_enter(q);
    int res = q2_read_inside(q, off, iov, n_iov, len);

    q2_leave(q, token);
    return res;
}
