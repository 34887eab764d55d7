/* Asynchronous I/O on file descriptors with completion on the loop thread: io_uring, or a few threads where the host
 * refuses io_uring. Short transfers are continued here, so that a request ends whole or with an error. Loop thread
 * only. Must not know image formats or guests. */
#ifndef BLOCK_AIO_H
#define BLOCK_AIO_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/attr.h"
#include "base/list.h"
#include "block/workers.h"

struct blk_aio;
struct loop;

enum blk_aio_kind { BLK_AIO_AUTO, BLK_AIO_URING, BLK_AIO_THREADS };
enum blk_aio_op { BLK_AIO_READ, BLK_AIO_WRITE, BLK_AIO_SYNC };

/* Filled by the caller down to opaque; must stay in place until done was called. */
struct blk_aio_req {
    enum blk_aio_op op;
    int fd;
    bool durable;      /* WRITE: on stable storage when it has ended */
    uint64_t off, len; /* bytes; READ and WRITE: len is the sum of the iovecs, > 0 */
    struct iovec *iov; /* consumed: base and length change */
    unsigned n_iov;    /* <= IOV_MAX */
    /* res: 0 or -errno; a read beyond the end of the file gives -ENODATA. Loop thread, never from within
     * blk_aio_submit.
     */
    void (*done)(struct blk_aio_req *req, int res);
    void *opaque;
    /* Private. */
    struct list node;
    struct blk_work work;
    int res;
};

/* AUTO: io_uring where it works, else threads. URING: -ENOSYS, -EPERM, ... where it does not. batch (may be NULL):
 * called on the loop thread after each series of done calls. */
int blk_aio_new(struct loop *loop, enum blk_aio_kind kind, void (*batch)(void *opaque), void *opaque,
                struct blk_aio **ret_aio) MUST_USE;
/* Nothing is in flight. NULL accepted. */
void blk_aio_free(struct blk_aio *a);
enum blk_aio_kind blk_aio_kind_used(const struct blk_aio *a);

/* Queue a request. It starts at the latest at the next blk_aio_kick, which the caller does once for a batch, and which
 * may call done and batch functions. */
void blk_aio_submit(struct blk_aio *a, struct blk_aio_req *req);
void blk_aio_kick(struct blk_aio *a);
/* Requests that were submitted and are not done. */
unsigned blk_aio_count(const struct blk_aio *a);
/* Block until at least one request was done; done functions are called from here. At once where there is none. */
void blk_aio_wait(struct blk_aio *a);

#endif
