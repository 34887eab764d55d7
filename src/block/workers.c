/* Invariant: every submitted piece of work is in queued, in the hands of a thread, or in finished; count is their
 * number. */
#include "block/workers.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "sys/loop.h"

struct blk_worker {
    struct blk_workers *pool;
    bool used;        /* loop thread: thread was started and not yet joined */
    pthread_t thread; /* if used */
    bool ended;       /* under the lock: it will do no more work */
};

struct blk_workers {
    void (*batch)(void *opaque);
    void *opaque;
    unsigned max, idle_ms;
    int event_fd; /* signalled when finished becomes non-empty */
    struct loop_fd *src;
    unsigned count; /* loop thread */

    pthread_mutex_t lock; /* below */
    pthread_cond_t work;
    struct list queued, finished;
    unsigned n_queued, n_idle;
    bool stop;
    struct blk_worker threads[BLK_WORKERS_MAX];
};

/* Wait for work. False: the thread should end. */
static bool blk_worker_wait_locked(struct blk_workers *p)
{
    struct timespec until;
    int res = 0;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += p->idle_ms / 1000;
    until.tv_nsec += (long)(p->idle_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    p->n_idle++;
    while (list_empty(&p->queued) && !p->stop && res != ETIMEDOUT) {
        if (p->idle_ms > 0)
            res = pthread_cond_timedwait(&p->work, &p->lock, &until);
        else
            res = pthread_cond_wait(&p->work, &p->lock);
    }
    p->n_idle--;
    return !list_empty(&p->queued);
}

static void blk_workers_finish_locked(struct blk_workers *p, struct blk_work *w)
{
    bool first = list_empty(&p->finished);

    list_add_before(&p->finished, &w->node);
    if (first && eventfd_write(p->event_fd, 1) < 0)
        log_debug("block: eventfd write failed");
}

static void *blk_worker_main(void *opaque)
{
    struct blk_worker *self = opaque;
    struct blk_workers *p = self->pool;

    pthread_mutex_lock(&p->lock);
    while (blk_worker_wait_locked(p)) {
        struct blk_work *w = CONTAINER_OF(p->queued.next, struct blk_work, node);

        list_remove(&w->node);
        p->n_queued--;
        pthread_mutex_unlock(&p->lock);
        w->run(w);
        pthread_mutex_lock(&p->lock);
        blk_workers_finish_locked(p, w);
    }
    self->ended = true;
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* Start one more thread where there may be one. Signals belong to the main thread. Returns 0 where at least one thread
 * runs. */
static int blk_workers_start_locked(struct blk_workers *p)
{
    unsigned running = 0;
    struct blk_worker *free_slot = NULL;
    sigset_t all, old;
    int res = 0;

    for (unsigned i = 0; i < p->max; i++) {
        if (p->threads[i].used && !p->threads[i].ended)
            running++;
        else if (!free_slot)
            free_slot = &p->threads[i];
    }
    if (!free_slot)
        return 0;
    if (free_slot->used)
        pthread_join(free_slot->thread, NULL); /* it has given up the lock for good */
    free_slot->used = free_slot->ended = false;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    res = pthread_create(&free_slot->thread, NULL, blk_worker_main, free_slot);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    free_slot->used = res == 0;
    return res == 0 || running > 0 ? 0 : -res;
}

void blk_workers_submit(struct blk_workers *p, struct blk_work *w)
{
    p->count++;
    pthread_mutex_lock(&p->lock);
    w->error = p->n_queued + 1 > p->n_idle ? blk_workers_start_locked(p) : 0;
    if (w->error == 0) {
        list_add_before(&p->queued, &w->node);
        p->n_queued++;
        pthread_cond_signal(&p->work);
    } else {
        blk_workers_finish_locked(p, w);
    }
    pthread_mutex_unlock(&p->lock);
}

unsigned blk_workers_count(const struct blk_workers *p)
{
    return p->count;
}

static void blk_workers_event(void *opaque, uint32_t events)
{
    struct blk_workers *p = opaque;
    struct list batch;
    eventfd_t count;

    (void)events;
    if (eventfd_read(p->event_fd, &count) < 0)
        return;
    list_init(&batch);
    pthread_mutex_lock(&p->lock);
    while (!list_empty(&p->finished)) {
        struct list *item = p->finished.next;

        list_remove(item);
        list_add_before(&batch, item);
    }
    pthread_mutex_unlock(&p->lock);
    while (!list_empty(&batch)) {
        struct blk_work *w = CONTAINER_OF(batch.next, struct blk_work, node);

        list_remove(&w->node);
        p->count--;
        w->done(w, w->error);
    }
    if (p->batch)
        p->batch(p->opaque);
}

void blk_workers_wait(struct blk_workers *p)
{
    struct pollfd poll_fd = { .fd = p->event_fd, .events = POLLIN };

    if (p->count > 0 && poll(&poll_fd, 1, -1) > 0)
        blk_workers_event(p, EPOLLIN);
}

void blk_workers_free(struct blk_workers *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < p->max; i++) {
        if (p->threads[i].used)
            pthread_join(p->threads[i].thread, NULL);
    }
    loop_fd_free(p->src);
    if (p->event_fd >= 0)
        close(p->event_fd);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

int blk_workers_new(struct loop *loop, unsigned max, unsigned idle_ms, void (*batch)(void *opaque), void *opaque,
                    struct blk_workers **ret_workers)
{
    struct blk_workers *p = calloc(1, sizeof(*p));
    pthread_condattr_t attr;
    int res;

    if (!p)
        return -ENOMEM;
    p->max = MIN(max, (unsigned)BLK_WORKERS_MAX);
    p->idle_ms = idle_ms;
    p->batch = batch;
    p->opaque = opaque;
    list_init(&p->queued);
    list_init(&p->finished);
    for (unsigned i = 0; i < p->max; i++)
        p->threads[i].pool = p;
    pthread_mutex_init(&p->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&p->work, &attr);
    pthread_condattr_destroy(&attr);
    p->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    res = p->event_fd < 0 ? -errno : loop_fd_add(loop, p->event_fd, EPOLLIN, blk_workers_event, p, &p->src);
    if (res < 0) {
        blk_workers_free(p);
        return res;
    }
    *ret_workers = p;
    return 0;
}
