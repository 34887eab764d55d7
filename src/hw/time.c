/* Device time on the host's clocks. loop_timer_set belongs to the loop thread, so a timer that is set elsewhere leaves
 * its time under a lock and posts one message, at most one at a time, that carries it over. */
#include "hw/time.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "base/list.h"

struct hw_loop_time {
    struct loop *loop;
    pthread_mutex_t lock;
    struct list timers; /* freed ones too, until their last message has come */
};

struct hw_timer {
    struct list link;
    struct hw_loop_time *time;
    struct loop_timer *timer;
    void (*cb)(void *opaque);
    void *opaque;
    uint64_t at_ns; /* what the loop's timer is to be set to */
    bool posted;    /* a message is under way */
    bool freed;     /* free when that message arrives */
};

static uint64_t hw_loop_mono_ns(void *opaque)
{
    (void)opaque;
    return sys_now_ns();
}

static uint64_t hw_loop_utc_ns(void *opaque)
{
    struct timespec ts;

    (void)opaque;
    if (clock_gettime(CLOCK_REALTIME, &ts) < 0)
        return 0;
    return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

static void hw_timer_fire(void *opaque)
{
    struct hw_timer *t = opaque;

    t->cb(t->opaque);
}

static int hw_loop_timer_new(void *opaque, void (*cb)(void *cb_opaque), void *cb_opaque, struct hw_timer **ret_timer)
{
    struct hw_loop_time *time = opaque;
    struct hw_timer *t = calloc(1, sizeof(*t));
    int r;

    if (!t)
        return -ENOMEM;
    *t = (struct hw_timer){ .time = time, .cb = cb, .opaque = cb_opaque };
    r = loop_timer_new(time->loop, hw_timer_fire, t, &t->timer);
    if (r < 0) {
        free(t);
        return r;
    }
    pthread_mutex_lock(&time->lock);
    list_add_before(&time->timers, &t->link);
    pthread_mutex_unlock(&time->lock);
    *ret_timer = t;
    return 0;
}

/* Loop thread. */
static void hw_timer_carry(void *opaque)
{
    struct hw_timer *t = opaque;
    struct hw_loop_time *time = t->time;
    uint64_t at_ns;
    bool freed;

    pthread_mutex_lock(&time->lock);
    t->posted = false;
    at_ns = t->at_ns;
    freed = t->freed;
    if (freed)
        list_remove(&t->link);
    pthread_mutex_unlock(&time->lock);
    if (freed)
        free(t);
    else
        loop_timer_set(t->timer, at_ns);
}

static void hw_loop_timer_set(struct hw_timer *t, uint64_t at_ns)
{
    pthread_mutex_lock(&t->time->lock);
    t->at_ns = at_ns;
    /* Where memory is short the timer is late until the next call sets it. */
    if (!t->posted)
        t->posted = loop_post(t->time->loop, hw_timer_carry, t) == 0;
    pthread_mutex_unlock(&t->time->lock);
}

static void hw_loop_timer_free(struct hw_timer *t)
{
    bool posted;

    if (!t)
        return;
    loop_timer_free(t->timer);
    pthread_mutex_lock(&t->time->lock);
    t->freed = true;
    posted = t->posted;
    if (!posted)
        list_remove(&t->link);
    pthread_mutex_unlock(&t->time->lock);
    if (!posted)
        free(t);
}

static const struct hw_time_ops hw_loop_time_ops = {
    .mono_ns = hw_loop_mono_ns,
    .utc_ns = hw_loop_utc_ns,
    .timer_new = hw_loop_timer_new,
    .timer_set = hw_loop_timer_set,
    .timer_free = hw_loop_timer_free,
};

int hw_loop_time_new(struct loop *l, struct hw_loop_time **ret_time)
{
    struct hw_loop_time *t = calloc(1, sizeof(*t));
    int r;

    if (!t)
        return -ENOMEM;
    r = -pthread_mutex_init(&t->lock, NULL);
    if (r < 0) {
        free(t);
        return r;
    }
    t->loop = l;
    list_init(&t->timers);
    *ret_time = t;
    return 0;
}

void hw_loop_time_free(struct hw_loop_time *t)
{
    struct hw_timer *timer;

    if (!t)
        return;
    /* Those whose last message went down with the loop. */
    LIST_FOR_EACH(timer, &t->timers, link)
        free(timer);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

struct hw_time hw_loop_time_get(struct hw_loop_time *t)
{
    return (struct hw_time){ .ops = &hw_loop_time_ops, .opaque = t };
}
