/* Asynchronous I/O by a few threads that make blocking calls: for hosts that refuse io_uring. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "block/aio_priv.h"
#include "block/workers.h"

#define BLK_THREADS 4
#define BLK_THREADS_IDLE_MS 10000

struct blk_threads {
    struct blk_aio base;
    struct blk_workers *workers;
};

static int blk_threads_call(const struct blk_aio_req *req)
{
    ssize_t res = 0;

    switch (req->op) {
    case BLK_AIO_READ:
        res = preadv(req->fd, req->iov, (int)req->n_iov, (off_t)req->off);
        break;
    case BLK_AIO_WRITE:
        res = pwritev2(req->fd, req->iov, (int)req->n_iov, (off_t)req->off, req->durable ? RWF_DSYNC : 0);
        break;
    case BLK_AIO_SYNC:
        res = fdatasync(req->fd);
        break;
    }
    /* One call transfers at most 0x7ffff000 bytes, so the count fits. */
    return res < 0 ? -errno : (int)res;
}

static void blk_threads_run(struct blk_work *w)
{
    struct blk_aio_req *req = CONTAINER_OF(w, struct blk_aio_req, work);

    while (!blk_aio_progress(req, blk_threads_call(req))) {
    }
}

static void blk_threads_done(struct blk_work *w, int error)
{
    struct blk_aio_req *req = CONTAINER_OF(w, struct blk_aio_req, work);

    req->done(req, error < 0 ? error : req->res);
}

static void blk_threads_submit(struct blk_aio *a, struct blk_aio_req *req)
{
    req->work.run = blk_threads_run;
    req->work.done = blk_threads_done;
    blk_workers_submit(((struct blk_threads *)a)->workers, &req->work);
}

static void blk_threads_kick(struct blk_aio *a)
{
    (void)a;
}

static unsigned blk_threads_count(const struct blk_aio *a)
{
    return blk_workers_count(((const struct blk_threads *)a)->workers);
}

static void blk_threads_wait(struct blk_aio *a)
{
    blk_workers_wait(((struct blk_threads *)a)->workers);
}

static void blk_threads_free(struct blk_aio *a)
{
    blk_workers_free(((struct blk_threads *)a)->workers);
    free(a);
}

static const struct blk_aio_ops blk_threads_ops = {
    .kind = BLK_AIO_THREADS,
    .submit = blk_threads_submit,
    .kick = blk_threads_kick,
    .count = blk_threads_count,
    .wait = blk_threads_wait,
    .free = blk_threads_free,
};

int blk_threads_new(struct loop *loop, void (*batch)(void *opaque), void *opaque, struct blk_aio **ret_aio)
{
    struct blk_threads *t = calloc(1, sizeof(*t));
    int res;

    if (!t)
        return -ENOMEM;
    t->base.ops = &blk_threads_ops;
    res = blk_workers_new(loop, BLK_THREADS, BLK_THREADS_IDLE_MS, batch, opaque, &t->workers);
    if (res < 0) {
        free(t);
        return res;
    }
    *ret_aio = &t->base;
    return 0;
}
