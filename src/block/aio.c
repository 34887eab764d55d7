/* Choice of the kind of asynchronous I/O, and what is common to all kinds. */
#include "block/aio.h"

#include <errno.h>

#include "base/log.h"
#include "block/aio_priv.h"

int blk_aio_new(struct loop *loop, enum blk_aio_kind kind, void (*batch)(void *opaque), void *opaque,
                struct blk_aio **ret_aio)
{
    int res;

    if (kind != BLK_AIO_THREADS) {
        res = blk_uring_new(loop, batch, opaque, ret_aio);
        if (res == 0 || kind == BLK_AIO_URING)
            return res;
        log_debug("block: no io_uring (error %d), using threads", -res);
    }
    return blk_threads_new(loop, batch, opaque, ret_aio);
}

void blk_aio_free(struct blk_aio *a)
{
    if (a)
        a->ops->free(a);
}

enum blk_aio_kind blk_aio_kind_used(const struct blk_aio *a)
{
    return a->ops->kind;
}

void blk_aio_submit(struct blk_aio *a, struct blk_aio_req *req)
{
    req->res = 0;
    a->ops->submit(a, req);
}

void blk_aio_kick(struct blk_aio *a)
{
    a->ops->kick(a);
}

unsigned blk_aio_count(const struct blk_aio *a)
{
    return a->ops->count(a);
}

void blk_aio_wait(struct blk_aio *a)
{
    a->ops->wait(a);
}

bool blk_aio_progress(struct blk_aio_req *req, int res)
{
    bool transfers = req->op == BLK_AIO_READ || req->op == BLK_AIO_WRITE;
    uint64_t n;

    if (res == -EINTR)
        return false;
    req->res = res < 0 ? res : 0;
    if (res < 0 || !transfers)
        return true;
    if (res == 0 || (uint64_t)res > req->len) {
        req->res = res == 0 && req->op == BLK_AIO_READ ? -ENODATA : -EIO;
        return true;
    }
    n = (uint64_t)res;
    req->off += n;
    req->len -= n;
    while (n > 0) {
        uint64_t part = MIN(n, req->iov->iov_len);

        req->iov->iov_base = (uint8_t *)req->iov->iov_base + part;
        req->iov->iov_len -= part;
        n -= part;
        if (req->iov->iov_len == 0) {
            req->iov++;
            req->n_iov--;
        }
    }
    return req->len == 0;
}
