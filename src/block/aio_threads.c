/* Asynchronous I/O by a few threads that make blocking calls: for hosts that refuse io_uring. The threads start with
 * the first request. Invariant: every submitted request is in todo, in the hands of a thread, or in finished; count is
 * their number. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "block/aio_priv.h"
#include "sys/loop.h"

#define BLK_THREADS 4

struct blk_threads {
    struct blk_aio base;
    int event_fd; /* signalled when finished becomes non-empty */
    struct loop_fd *src;
    unsigned count; /* loop thread */
    unsigned n_threads;
    pthread_t threads[BLK_THREADS];

    pthread_mutex_t lock; /* below */
    pthread_cond_t work;
    struct list todo, finished;
    bool stop;
};

static int blk_threads_call(const struct blk_aio_req *req)
{
    ssize_t res = 0;

    switch (req->op) {
    case BLK_AIO_NOP:
        break;
    case BLK_AIO_READ:
        res = preadv(req->fd, req->iov, (int)req->n_iov, (off_t)req->off);
        break;
    case BLK_AIO_WRITE:
        res = pwritev(req->fd, req->iov, (int)req->n_iov, (off_t)req->off);
        break;
    case BLK_AIO_SYNC:
        res = fdatasync(req->fd);
        break;
    case BLK_AIO_FALLOCATE:
        res = fallocate(req->fd, req->mode, (off_t)req->off, (off_t)req->len);
        break;
    }
    /* One call transfers at most 0x7ffff000 bytes, so the count fits. */
    return res < 0 ? -errno : (int)res;
}

static void *blk_threads_main(void *opaque)
{
    struct blk_threads *t = opaque;

    pthread_mutex_lock(&t->lock);
    for (;;) {
        struct blk_aio_req *req;

        while (list_empty(&t->todo) && !t->stop)
            pthread_cond_wait(&t->work, &t->lock);
        if (list_empty(&t->todo))
            break;
        req = CONTAINER_OF(t->todo.next, struct blk_aio_req, node);
        list_remove(&req->node);
        pthread_mutex_unlock(&t->lock);
        while (!blk_aio_progress(req, blk_threads_call(req))) {
        }
        pthread_mutex_lock(&t->lock);
        list_add_before(&t->finished, &req->node);
        if (eventfd_write(t->event_fd, 1) < 0)
            log_debug("block: eventfd write failed");
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

/* Signals belong to the main thread. Returns 0 where at least one thread runs. */
static int blk_threads_start(struct blk_threads *t)
{
    sigset_t all, old;
    int res = 0;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    while (t->n_threads < BLK_THREADS && res == 0) {
        res = pthread_create(&t->threads[t->n_threads], NULL, blk_threads_main, t);
        if (res == 0)
            t->n_threads++;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return t->n_threads > 0 ? 0 : -res;
}

static void blk_threads_submit(struct blk_aio *a, struct blk_aio_req *req)
{
    struct blk_threads *t = (struct blk_threads *)a;
    int res = t->n_threads == 0 ? blk_threads_start(t) : 0;

    t->count++;
    pthread_mutex_lock(&t->lock);
    if (res == 0) {
        list_add_before(&t->todo, &req->node);
        pthread_cond_signal(&t->work);
    } else {
        req->res = res;
        list_add_before(&t->finished, &req->node);
        if (eventfd_write(t->event_fd, 1) < 0)
            log_debug("block: eventfd write failed");
    }
    pthread_mutex_unlock(&t->lock);
}

static void blk_threads_kick(struct blk_aio *a)
{
    (void)a;
}

static void blk_threads_event(void *opaque, uint32_t events)
{
    struct blk_threads *t = opaque;
    struct list batch;
    eventfd_t count;

    (void)events;
    if (eventfd_read(t->event_fd, &count) < 0)
        return;
    list_init(&batch);
    pthread_mutex_lock(&t->lock);
    while (!list_empty(&t->finished)) {
        struct list *item = t->finished.next;

        list_remove(item);
        list_add_before(&batch, item);
    }
    pthread_mutex_unlock(&t->lock);
    while (!list_empty(&batch)) {
        struct blk_aio_req *req = CONTAINER_OF(batch.next, struct blk_aio_req, node);

        list_remove(&req->node);
        t->count--;
        req->done(req, req->res);
    }
}

static void blk_threads_drain(struct blk_aio *a)
{
    struct blk_threads *t = (struct blk_threads *)a;

    while (t->count > 0) {
        struct pollfd p = { .fd = t->event_fd, .events = POLLIN };

        if (poll(&p, 1, -1) > 0)
            blk_threads_event(t, EPOLLIN);
    }
}

static void blk_threads_free(struct blk_aio *a)
{
    struct blk_threads *t = (struct blk_threads *)a;

    pthread_mutex_lock(&t->lock);
    t->stop = true;
    pthread_cond_broadcast(&t->work);
    pthread_mutex_unlock(&t->lock);
    for (unsigned i = 0; i < t->n_threads; i++)
        pthread_join(t->threads[i], NULL);
    loop_fd_free(t->src);
    if (t->event_fd >= 0)
        close(t->event_fd);
    pthread_cond_destroy(&t->work);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

static const struct blk_aio_ops blk_threads_ops = {
    .kind = BLK_AIO_THREADS,
    .submit = blk_threads_submit,
    .kick = blk_threads_kick,
    .drain = blk_threads_drain,
    .free = blk_threads_free,
};

int blk_threads_new(struct loop *loop, struct blk_aio **ret_aio)
{
    struct blk_threads *t = calloc(1, sizeof(*t));
    int res;

    if (!t)
        return -ENOMEM;
    t->base.ops = &blk_threads_ops;
    list_init(&t->todo);
    list_init(&t->finished);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->work, NULL);
    t->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    res = t->event_fd < 0 ? -errno : loop_fd_add(loop, t->event_fd, EPOLLIN, blk_threads_event, t, &t->src);
    if (res < 0) {
        blk_threads_free(&t->base);
        return res;
    }
    *ret_aio = &t->base;
    return 0;
}
