#include "sys/loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>

#include "base/list.h"

#define LOOP_BATCH 32

/* A source outlives its removal until the current batch of events is done, because the batch may still name it. */
struct loop_fd {
    struct loop *loop;
    struct list link; /* in loop->sources, or loop->dead once freed */
    int fd;
    bool dead;
    void (*cb)(void *opaque, uint32_t events);
    void *opaque;
};

struct loop_timer {
    struct loop *loop;
    struct list link; /* in loop->timers (armed or not) or loop->dead_timers */
    uint64_t at_ns;   /* 0: disarmed */
    bool dead;
    void (*cb)(void *opaque);
    void *opaque;
};

struct loop_job {
    struct loop_job *next;
    void (*fn)(void *opaque);
    void *opaque;
};

struct loop {
    int epfd, wakefd, timerfd;
    struct loop_fd *wake_src, *timer_src;
    struct list sources, dead, timers, dead_timers;
    uint64_t timer_armed_ns; /* what the timerfd is set to; 0: off */
    uint64_t timer_round_ns; /* time of the round of expiries that runs now; 0: none */
    pthread_mutex_t lock;    /* guards the jobs */
    struct loop_job *jobs_head, **jobs_tail;
    _Atomic int stop_code; /* -1: keep running */
};

uint64_t sys_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

static void loop_wake(struct loop *l)
{
    uint64_t one = 1;

    /* The counter can only overflow after 2^64 wake-ups that nobody reads; a full counter wakes all the same. */
    if (write(l->wakefd, &one, sizeof(one)) < 0)
        return;
}

static void loop_drain(int fd)
{
    uint64_t count;

    while (read(fd, &count, sizeof(count)) < 0 && errno == EINTR) {
    }
}

static void loop_run_jobs(void *opaque, uint32_t events)
{
    struct loop *l = opaque;
    struct loop_job *job;

    (void)events;
    loop_drain(l->wakefd);
    pthread_mutex_lock(&l->lock);
    job = l->jobs_head;
    l->jobs_head = NULL;
    l->jobs_tail = &l->jobs_head;
    pthread_mutex_unlock(&l->lock);
    while (job) {
        struct loop_job *next = job->next;

        job->fn(job->opaque);
        free(job);
        job = next;
    }
}

/* Set the timerfd to the earliest armed timer. Few timers exist (one or two a device), so a scan does. */
static void loop_timer_rearm(struct loop *l)
{
    struct loop_timer *t;
    uint64_t first = 0;
    struct itimerspec its = { 0 };

    LIST_FOR_EACH(t, &l->timers, link) {
        if (t->at_ns && (!first || t->at_ns < first))
            first = t->at_ns;
    }
    if (first == l->timer_armed_ns)
        return;
    l->timer_armed_ns = first;
    its.it_value.tv_sec = (time_t)(first / 1000000000ULL);
    its.it_value.tv_nsec = (long)(first % 1000000000ULL);
    timerfd_settime(l->timerfd, TFD_TIMER_ABSTIME, &its, NULL);
}

static void loop_run_timers(void *opaque, uint32_t events)
{
    struct loop *l = opaque;
    uint64_t now = sys_now_ns();
    bool fired;

    (void)events;
    loop_drain(l->timerfd);
    l->timer_armed_ns = 0;
    l->timer_round_ns = now;
    /* A callback may set or free any timer, so the scan restarts after each. */
    do {
        struct loop_timer *t;

        fired = false;
        LIST_FOR_EACH(t, &l->timers, link) {
            if (t->at_ns && t->at_ns <= now) {
                t->at_ns = 0;
                t->cb(t->opaque);
                fired = true;
                break;
            }
        }
    } while (fired);
    l->timer_round_ns = 0;
    loop_timer_rearm(l);
}

int loop_new(struct loop **ret_loop)
{
    struct loop *l = calloc(1, sizeof(*l));
    int r;

    if (!l)
        return -ENOMEM;
    list_init(&l->sources);
    list_init(&l->dead);
    list_init(&l->timers);
    list_init(&l->dead_timers);
    l->jobs_tail = &l->jobs_head;
    l->stop_code = -1;
    pthread_mutex_init(&l->lock, NULL);
    l->epfd = epoll_create1(EPOLL_CLOEXEC);
    l->wakefd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    l->timerfd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (l->epfd < 0 || l->wakefd < 0 || l->timerfd < 0) {
        r = -errno;
        goto fail;
    }
    r = loop_fd_add(l, l->wakefd, EPOLLIN, loop_run_jobs, l, &l->wake_src);
    if (r < 0)
        goto fail;
    r = loop_fd_add(l, l->timerfd, EPOLLIN, loop_run_timers, l, &l->timer_src);
    if (r < 0)
        goto fail;
    *ret_loop = l;
    return 0;
fail:
    loop_free(l);
    return r;
}

static void loop_bury(struct loop *l)
{
    struct loop_fd *src;
    struct loop_timer *t;

    LIST_FOR_EACH(src, &l->dead, link) {
        list_remove(&src->link);
        free(src);
    }
    LIST_FOR_EACH(t, &l->dead_timers, link) {
        list_remove(&t->link);
        free(t);
    }
}

void loop_free(struct loop *l)
{
    struct loop_fd *src;
    struct loop_timer *t;

    if (!l)
        return;
    LIST_FOR_EACH(src, &l->sources, link)
        loop_fd_free(src);
    LIST_FOR_EACH(t, &l->timers, link)
        loop_timer_free(t);
    loop_bury(l);
    while (l->jobs_head) {
        struct loop_job *job = l->jobs_head;

        l->jobs_head = job->next;
        free(job);
    }
    base_closep(&l->epfd);
    base_closep(&l->wakefd);
    base_closep(&l->timerfd);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

/* Wait up to timeout_ms (-1: for ever) for events and serve them. Returns their number or -errno. */
static int loop_serve(struct loop *l, int timeout_ms)
{
    struct epoll_event events[LOOP_BATCH];
    int n = epoll_wait(l->epfd, events, LOOP_BATCH, timeout_ms);

    if (n < 0)
        return errno == EINTR ? 0 : -errno;
    for (int i = 0; i < n && atomic_load(&l->stop_code) < 0; i++) {
        struct loop_fd *src = events[i].data.ptr;

        if (!src->dead)
            src->cb(src->opaque, events[i].events);
    }
    loop_bury(l);
    return n;
}

int loop_run(struct loop *l)
{
    while (atomic_load(&l->stop_code) < 0) {
        int n = loop_serve(l, -1);

        if (n < 0)
            return n;
    }
    return atomic_load(&l->stop_code);
}

int loop_run_once(struct loop *l)
{
    return loop_serve(l, 0);
}

void loop_stop(struct loop *l, int code)
{
    int running = -1;

    if (atomic_compare_exchange_strong(&l->stop_code, &running, code))
        loop_wake(l);
}

int loop_fd_add(struct loop *l, int fd, uint32_t events, void (*cb)(void *opaque, uint32_t events), void *opaque,
                struct loop_fd **ret_src)
{
    struct loop_fd *src = calloc(1, sizeof(*src));
    struct epoll_event ev;

    if (!src)
        return -ENOMEM;
    src->loop = l;
    src->fd = fd;
    src->cb = cb;
    src->opaque = opaque;
    ev = (struct epoll_event){ .events = events, .data.ptr = src };
    if (epoll_ctl(l->epfd, EPOLL_CTL_ADD, fd, &ev) < 0) {
        int r = -errno;

        free(src);
        return r;
    }
    list_add_before(&l->sources, &src->link);
    *ret_src = src;
    return 0;
}

int loop_fd_set(struct loop_fd *src, uint32_t events)
{
    struct epoll_event ev = { .events = events, .data.ptr = src };

    return epoll_ctl(src->loop->epfd, EPOLL_CTL_MOD, src->fd, &ev) < 0 ? -errno : 0;
}

void loop_fd_watch(struct loop *l, int fd, uint32_t events, void (*cb)(void *opaque, uint32_t events), void *opaque,
                   struct loop_fd **src)
{
    if (events == 0) {
        loop_fd_free(*src);
        *src = NULL;
    } else if (*src) {
        (void)!loop_fd_set(*src, events);
    } else if (loop_fd_add(l, fd, events, cb, opaque, src) < 0) {
        *src = NULL;
    }
}

void loop_fd_free(struct loop_fd *src)
{
    if (!src)
        return;
    src->dead = true;
    /* Fails only where the owner has closed fd already; then the kernel has removed it. */
    epoll_ctl(src->loop->epfd, EPOLL_CTL_DEL, src->fd, NULL);
    list_remove(&src->link);
    list_add_before(&src->loop->dead, &src->link);
}

int loop_timer_new(struct loop *l, void (*cb)(void *opaque), void *opaque, struct loop_timer **ret_timer)
{
    struct loop_timer *t = calloc(1, sizeof(*t));

    if (!t)
        return -ENOMEM;
    t->loop = l;
    t->cb = cb;
    t->opaque = opaque;
    list_add_before(&l->timers, &t->link);
    *ret_timer = t;
    return 0;
}

void loop_timer_set(struct loop_timer *t, uint64_t at_ns)
{
    /* Set by a callback of this round: due in the next one at the earliest, so that the round ends. */
    t->at_ns = at_ns ? MAX(at_ns, t->loop->timer_round_ns + 1) : 0;
    loop_timer_rearm(t->loop);
}

void loop_timer_free(struct loop_timer *t)
{
    if (!t)
        return;
    t->at_ns = 0;
    list_remove(&t->link);
    list_add_before(&t->loop->dead_timers, &t->link);
    loop_timer_rearm(t->loop);
}

int loop_post(struct loop *l, void (*fn)(void *opaque), void *opaque)
{
    struct loop_job *job = calloc(1, sizeof(*job));

    if (!job)
        return -ENOMEM;
    job->fn = fn;
    job->opaque = opaque;
    pthread_mutex_lock(&l->lock);
    *l->jobs_tail = job;
    l->jobs_tail = &job->next;
    pthread_mutex_unlock(&l->lock);
    loop_wake(l);
    return 0;
}
