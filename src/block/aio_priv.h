/* What the two kinds of asynchronous I/O share. */
#ifndef BLOCK_AIO_PRIV_H
#define BLOCK_AIO_PRIV_H

#include <stdbool.h>

#include "block/aio.h"

struct blk_aio_ops {
    enum blk_aio_kind kind;
    void (*submit)(struct blk_aio *a, struct blk_aio_req *req);
    void (*kick)(struct blk_aio *a);
    unsigned (*count)(const struct blk_aio *a);
    void (*wait)(struct blk_aio *a);
    void (*free)(struct blk_aio *a); /* nothing is in flight */
};

/* First member of each kind. */
struct blk_aio {
    const struct blk_aio_ops *ops;
};

int blk_uring_new(struct loop *loop, void (*batch)(void *opaque), void *opaque, struct blk_aio **ret_aio) MUST_USE;
int blk_threads_new(struct loop *loop, void (*batch)(void *opaque), void *opaque, struct blk_aio **ret_aio) MUST_USE;

/* Digest the result of one system call (bytes or -errno). True: the request has ended and req->res is its result;
 * false: the rest of it has to be issued again. */
bool blk_aio_progress(struct blk_aio_req *req, int res) MUST_USE;

#endif
