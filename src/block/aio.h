/* Asynchronous I/O on file descriptors with completion on the loop thread: io_uring, or a few threads where the host
 * refuses io_uring. Short transfers are continued here, so that a request ends whole or with an error. Loop thread
 * only. Must not know image formats or guests. */
#ifndef BLOCK_AIO_H
#define BLOCK_AIO_H

#include <stdint.h>
#include <sys/uio.h>

#include "base/attr.h"
#include "base/list.h"

struct blk_aio;
struct loop;

enum blk_aio_kind { BLK_AIO_AUTO, BLK_AIO_URING, BLK_AIO_THREADS };
enum blk_aio_op { BLK_AIO_NOP, BLK_AIO_READ, BLK_AIO_WRITE, BLK_AIO_SYNC, BLK_AIO_FALLOCATE };

/* Filled by the caller down to opaque; must stay in place until done was called. */
struct blk_aio_req {
    enum blk_aio_op op;
    int fd;
    int mode;          /* FALLOCATE: FALLOC_FL_* */
    uint64_t off, len; /* bytes; READ and WRITE: len is the sum of the iovecs, > 0 */
    struct iovec *iov; /* consumed: base and length change */
    unsigned n_iov;    /* <= IOV_MAX */
    /* res: 0 or -errno; a read beyond the end of the file gives -EIO. Loop thread, never from within blk_aio_submit. */
    void (*done)(struct blk_aio_req *req, int res);
    void *opaque;
    /* Private. */
    struct list node;
    int res;
};

/* AUTO: io_uring where it works, else threads. URING: -ENOSYS, -EPERM, ... where it does not. */
int blk_aio_new(struct loop *loop, enum blk_aio_kind kind, struct blk_aio **ret_aio) MUST_USE;
/* Waits for requests in flight (blk_aio_drain). NULL accepted. */
void blk_aio_free(struct blk_aio *a);
enum blk_aio_kind blk_aio_kind_used(const struct blk_aio *a);

/* Queue a request. It starts at the latest at the next blk_aio_kick, which the caller does once for a batch. */
void blk_aio_submit(struct blk_aio *a, struct blk_aio_req *req);
void blk_aio_kick(struct blk_aio *a);
/* Block until nothing is in flight; done functions are called from here, and requests that they submit are waited for.
 */
void blk_aio_drain(struct blk_aio *a);

#endif
