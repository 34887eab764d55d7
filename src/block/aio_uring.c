/* Asynchronous I/O by io_uring: one ring, its completions announced through an eventfd that the loop watches. At most
 * BLK_URING_ENTRIES requests are in the kernel, so that neither ring can overflow; the others wait in a backlog. */
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "block/aio_priv.h"
#include "sys/loop.h"

#define BLK_URING_ENTRIES 256u

struct blk_uring {
    struct blk_aio base;
    struct io_uring ring;
    int event_fd;
    struct loop_fd *src;
    unsigned count; /* submitted and not done */
    uint64_t n_done;
    bool reaping;
    unsigned in_flight; /* of these: prepared or in the kernel */
    void (*batch)(void *opaque);
    void *opaque;
    struct list backlog;
};

static void blk_uring_prepare(struct io_uring_sqe *sqe, struct blk_aio_req *req)
{
    switch (req->op) {
    case BLK_AIO_READ:
        io_uring_prep_readv(sqe, req->fd, req->iov, req->n_iov, req->off);
        break;
    case BLK_AIO_WRITE:
        io_uring_prep_writev(sqe, req->fd, req->iov, req->n_iov, req->off);
        sqe->rw_flags = req->durable ? RWF_DSYNC : 0;
        break;
    case BLK_AIO_SYNC:
        io_uring_prep_fsync(sqe, req->fd, IORING_FSYNC_DATASYNC);
        break;
    }
    io_uring_sqe_set_data(sqe, req);
}

static void blk_uring_submit(struct blk_aio *a, struct blk_aio_req *req)
{
    struct blk_uring *u = (struct blk_uring *)a;
    struct io_uring_sqe *sqe = NULL;

    u->count++;
    if (u->in_flight < BLK_URING_ENTRIES && list_empty(&u->backlog))
        sqe = io_uring_get_sqe(&u->ring);
    if (!sqe) {
        list_add_before(&u->backlog, &req->node);
        return;
    }
    u->in_flight++;
    blk_uring_prepare(sqe, req);
}

static void blk_uring_reap(struct blk_uring *u);

static void blk_uring_kick(struct blk_aio *a)
{
    struct blk_uring *u = (struct blk_uring *)a;
    int res = io_uring_submit(&u->ring);

    /* The kernel is short of memory for the moment; what was not taken stays in the ring. Come back soon. */
    if (res < 0 && eventfd_write(u->event_fd, 1) < 0)
        log_debug("block: eventfd write failed");
    /* What was in the page cache has ended already: no need to wait for the event. */
    if (!u->reaping && io_uring_cq_ready(&u->ring) > 0)
        blk_uring_reap(u);
}

/* Move what waits into the ring as room allows. */
static void blk_uring_refill(struct blk_uring *u)
{
    while (!list_empty(&u->backlog) && u->in_flight < BLK_URING_ENTRIES) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
        struct blk_aio_req *req = CONTAINER_OF(u->backlog.next, struct blk_aio_req, node);

        if (!sqe)
            return;
        list_remove(&req->node);
        u->in_flight++;
        blk_uring_prepare(sqe, req);
    }
}

static void blk_uring_reap(struct blk_uring *u)
{
    struct io_uring_cqe *cqe;

    u->reaping = true;
    while (io_uring_peek_cqe(&u->ring, &cqe) == 0) {
        struct blk_aio_req *req = io_uring_cqe_get_data(cqe);
        int res = cqe->res;

        io_uring_cqe_seen(&u->ring, cqe);
        u->in_flight--;
        if (blk_aio_progress(req, res)) {
            u->count--;
            u->n_done++;
            req->done(req, req->res);
        } else {
            list_add_before(u->backlog.next, &req->node);
        }
    }
    blk_uring_refill(u);
    if (u->batch)
        u->batch(u->opaque);
    blk_uring_kick(&u->base);
    u->reaping = false;
}

static void blk_uring_event(void *opaque, uint32_t events)
{
    struct blk_uring *u = opaque;
    eventfd_t count;

    (void)events;
    if (eventfd_read(u->event_fd, &count) < 0)
        return;
    blk_uring_reap(u);
}

static unsigned blk_uring_count(const struct blk_aio *a)
{
    return ((const struct blk_uring *)a)->count;
}

static void blk_uring_wait(struct blk_aio *a)
{
    struct blk_uring *u = (struct blk_uring *)a;
    uint64_t before = u->n_done;

    while (u->count > 0 && u->n_done == before) {
        int res = io_uring_submit_and_wait(&u->ring, u->in_flight > 0 ? 1 : 0);

        if (res < 0 && res != -EINTR && res != -EAGAIN && res != -EBUSY)
            log_debug("block: io_uring_enter failed with %d", -res);
        blk_uring_reap(u);
    }
}

static void blk_uring_free(struct blk_aio *a)
{
    struct blk_uring *u = (struct blk_uring *)a;

    loop_fd_free(u->src);
    if (u->event_fd >= 0)
        close(u->event_fd);
    io_uring_queue_exit(&u->ring);
    free(u);
}

static const struct blk_aio_ops blk_uring_ops = {
    .kind = BLK_AIO_URING,
    .submit = blk_uring_submit,
    .kick = blk_uring_kick,
    .count = blk_uring_count,
    .wait = blk_uring_wait,
    .free = blk_uring_free,
};

/* Whether the kernel has all the operations that we use (Linux 5.1; the probe itself, 5.6). */
static bool blk_uring_complete(struct io_uring *ring)
{
    static const int ops[] = { IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC };
    struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
    bool ok = probe != NULL;

    for (unsigned i = 0; i < ARRAY_SIZE(ops) && ok; i++)
        ok = io_uring_opcode_supported(probe, ops[i]);
    io_uring_free_probe(probe);
    return ok;
}

int blk_uring_new(struct loop *loop, void (*batch)(void *opaque), void *opaque, struct blk_aio **ret_aio)
{
    struct blk_uring *u = calloc(1, sizeof(*u));
    int res;

    if (!u)
        return -ENOMEM;
    u->base.ops = &blk_uring_ops;
    u->event_fd = -1;
    u->batch = batch;
    u->opaque = opaque;
    list_init(&u->backlog);
    res = io_uring_queue_init(BLK_URING_ENTRIES, &u->ring, 0);
    if (res < 0) {
        free(u);
        return res;
    }
    res = blk_uring_complete(&u->ring) ? 0 : -ENOSYS;
    if (res == 0) {
        u->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        res = u->event_fd < 0 ? -errno : io_uring_register_eventfd(&u->ring, u->event_fd);
    }
    if (res == 0)
        res = loop_fd_add(loop, u->event_fd, EPOLLIN, blk_uring_event, u, &u->src);
    if (res < 0) {
        blk_uring_free(&u->base);
        return res;
    }
    *ret_aio = &u->base;
    return 0;
}
