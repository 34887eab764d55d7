/* Doing a job: pieces straight to host files, or a blocking call on a worker thread. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "block/front_priv.h"
#include "block/open.h"

#define BLK_GUARD_BYTES 4096u /* what is looked at to tell the format of a disk */

/* ---- on a worker thread ---- */

static bool blk_job_durable(const struct blk_job *job)
{
    const struct blk_image_config *cfg = &job->front->cfg;

    return (job->durable || cfg->writethrough) && !cfg->ignore_flush;
}

static void blk_job_work(struct blk_work *w)
{
    struct blk_job *job = CONTAINER_OF(w, struct blk_job, work);
    struct blk_node *n = job->front->node;
    int res = 0;

    switch (job->op) {
    case BLK_READ:
        res = blk_preadv(n, job->off, job->iov, job->n_iov, job->len);
        break;
    case BLK_WRITE:
        res = blk_pwritev(n, job->off, job->iov, job->n_iov, job->len);
        break;
    case BLK_DISCARD:
        res = blk_discard(n, job->off, job->len);
        break;
    case BLK_WRITE_ZEROES:
        res = blk_write_zeroes(n, job->off, job->len, job->unmap && job->front->img.discards ? BLK_ZERO_UNMAP : 0);
        break;
    case BLK_FLUSH:
        res = blk_flush(n);
        break;
    }
    if (res == 0 && (job->op == BLK_WRITE || job->op == BLK_WRITE_ZEROES) && blk_job_durable(job))
        res = blk_flush(n);
    job->res = res;
}

static void blk_job_worked(struct blk_work *w, int error)
{
    struct blk_job *job = CONTAINER_OF(w, struct blk_job, work);

    blk_job_ended(job, error < 0 ? error : job->res);
}

static void blk_job_to_worker(struct blk_job *job)
{
    job->front->stats.slow++;
    job->by_worker = true;
    job->work.run = blk_job_work;
    job->work.done = blk_job_worked;
    blk_workers_submit(job->front->workers, &job->work);
}

/* ---- straight to the file ---- */

static void blk_job_part_done(struct blk_aio_req *aio, int res)
{
    struct blk_job *job = aio->opaque;

    if (res < 0 && job->res == 0)
        job->res = res;
    if (--job->pending == 0)
        blk_job_ended(job, job->res);
}

static void blk_job_part(struct blk_job *job, unsigned i, enum blk_aio_op op)
{
    struct blk_aio_req *aio = &job->aio[i];

    aio->op = op;
    aio->durable = op == BLK_AIO_WRITE && blk_job_durable(job);
    aio->done = blk_job_part_done;
    aio->opaque = job;
    job->pending++;
    job->front->stats.fast++;
    blk_aio_submit(job->front->aio, aio);
}

static bool blk_piece_aligned(const struct blk_piece *p, const struct iovec *iov, unsigned n_iov)
{
    uint64_t all = p->off | p->len;

    if (p->align <= 1)
        return true;
    for (unsigned i = 0; i < n_iov; i++)
        all |= (uintptr_t)iov[i].iov_base | iov[i].iov_len;
    return all % p->align == 0;
}

/* Cut the data along the pieces. False: no memory, or O_DIRECT would not take it so. */
static bool blk_job_slice(struct blk_job *job, const struct blk_piece *pieces, unsigned n)
{
    struct iovec *at;
    uint64_t skip = 0;

    job->slices = job->slices_few;
    if (job->n_iov + n > BLK_JOB_IOV)
        job->slices = malloc((job->n_iov + (size_t)n) * sizeof(*job->slices));
    if (!job->slices)
        return false;
    at = job->slices;
    for (unsigned i = 0; i < n; i++) {
        struct blk_aio_req *aio = &job->aio[i];

        aio->fd = pieces[i].fd;
        aio->off = pieces[i].off;
        aio->len = pieces[i].len;
        aio->iov = at;
        aio->n_iov = blk_iov_slice(job->iov, job->n_iov, skip, pieces[i].len, at);
        if (aio->fd >= 0 && !blk_piece_aligned(&pieces[i], at, aio->n_iov))
            return false;
        at += aio->n_iov;
        skip += pieces[i].len;
    }
    return true;
}

static void blk_job_transfer(struct blk_job *job)
{
    struct blk_front *front = job->front;
    struct blk_piece pieces[BLK_PIECES_MAX];
    /* What makes a write durable in an image is the metadata too, which the node alone knows. */
    const bool straight = !job->by_worker && (job->op == BLK_READ || front->plain_fd >= 0 || !blk_job_durable(job));
    int n = straight ? blk_map(front->node, job->op, job->off, job->len, pieces) : 0;

    job->mapped = n > 0;
    if (n > 0 && !blk_job_slice(job, pieces, (unsigned)n)) {
        blk_unmap(front->node);
        job->mapped = false;
        n = 0;
    }
    if (front->ahead && job->op == BLK_READ && !job->internal)
        blk_ahead_note(job, n == 0 || pieces[0].align > 1);
    if (n == 0) {
        blk_job_to_worker(job);
        return;
    }
    job->res = 0;
    job->pending = 1;
    for (unsigned i = 0; i < (unsigned)n; i++) {
        if (job->aio[i].fd >= 0)
            blk_job_part(job, i, job->op == BLK_READ ? BLK_AIO_READ : BLK_AIO_WRITE);
        else
            blk_iov_zero(job->aio[i].iov, job->aio[i].n_iov, 0, job->aio[i].len);
    }
    if (--job->pending == 0)
        blk_job_ended(job, job->res);
}

/* ---- data ---- */

/* One array of iovecs for all the requests of the job. */
static int blk_job_gather(struct blk_job *job)
{
    unsigned n = 0;

    if (job->n_reqs == 1) {
        job->iov = job->first->iov;
        job->n_iov = job->first->n_iov;
        return 0;
    }
    job->iov_own = malloc(job->n_iov * sizeof(*job->iov_own));
    if (!job->iov_own)
        return -ENOMEM;
    for (const struct blk_req *req = job->first; req; req = req->next) {
        memcpy(job->iov_own + n, req->iov, req->n_iov * sizeof(*req->iov));
        n += req->n_iov;
    }
    job->iov = job->iov_own;
    return 0;
}

/* Copy the beginning of the disk before it is looked at: the guest could change its memory after the look. */
static int blk_job_guard(struct blk_job *job)
{
    struct blk_front *front = job->front;
    uint64_t n = MIN(job->len, BLK_GUARD_BYTES);
    struct iovec *iov;

    job->head = aligned_alloc(BLK_GUARD_BYTES, BLK_GUARD_BYTES);
    iov = malloc((job->n_iov + 1) * sizeof(*iov));
    if (!job->head || !iov) {
        free(iov);
        return -ENOMEM;
    }
    blk_iov_to_buf(job->iov, job->n_iov, 0, job->head, n);
    iov[0] = (struct iovec){ .iov_base = job->head, .iov_len = n };
    job->n_iov = 1 + blk_iov_slice(job->iov, job->n_iov, n, job->len - n, iov + 1);
    free(job->iov_own);
    job->iov = job->iov_own = iov;
    if (strcmp(blk_probe(job->head, n), "raw") == 0)
        return 0;
    if (!front->refused && front->cfg.event && job->n_reqs == 1) {
        front->refused = true;
        front->cfg.event(front->cfg.opaque, BLK_EVENT_REFUSED, EPERM);
    }
    return -EPERM;
}

static void blk_job_run_data(struct blk_job *job)
{
    int res = blk_job_gather(job);

    if (res == 0 && job->front->cfg.guard && job->op == BLK_WRITE && job->off < BLK_SECTOR)
        res = blk_job_guard(job);
    if (res < 0)
        blk_job_ended(job, res);
    else
        blk_job_transfer(job);
}

void blk_job_run(struct blk_job *job)
{
    struct blk_front *front = job->front;

    switch (job->op) {
    case BLK_READ:
    case BLK_WRITE:
        blk_job_run_data(job);
        break;
    case BLK_FLUSH:
        job->res = 0;
        job->aio[0].fd = front->plain_fd;
        job->aio[0].off = job->aio[0].len = 0;
        if (front->img.read_only || front->cfg.ignore_flush)
            blk_job_ended(job, 0);
        else if (front->plain_fd >= 0)
            blk_job_part(job, 0, BLK_AIO_SYNC);
        else
            blk_job_to_worker(job);
        break;
    case BLK_DISCARD:
        if (front->img.discards)
            blk_job_to_worker(job);
        else
            blk_job_ended(job, 0);
        break;
    case BLK_WRITE_ZEROES:
        blk_job_to_worker(job);
        break;
    }
}

void blk_job_clean(struct blk_job *job)
{
    if (job->mapped)
        blk_unmap(job->front->node);
    job->mapped = false;
    if (job->slices != job->slices_few)
        free(job->slices);
    job->slices = NULL;
    free(job->iov_own);
    free(job->head);
    job->iov_own = NULL;
    job->head = NULL;
}
