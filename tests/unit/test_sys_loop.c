/* The event loop: descriptors, timers, posting, and sources that free each other inside callbacks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "sys/loop.h"

struct world {
    struct loop *loop;
    struct loop_fd *a, *b;
    struct loop_timer *t1, *t2;
    int fa, fb, calls, order[8];
};

static void free_other(void *opaque, uint32_t events)
{
    struct world *w = opaque;

    (void)events;
    w->calls++;
    loop_fd_free(w->a);
    loop_fd_free(w->b);
    w->a = w->b = NULL;
    loop_stop(w->loop, 7);
}

/* Both descriptors are ready in one batch; whichever runs first frees both, so the second must not run. */
static void test_free_inside_batch(void **state)
{
    struct world w = { 0 };

    (void)state;
    assert_int_equal(loop_new(&w.loop), 0);
    w.fa = eventfd(1, EFD_CLOEXEC);
    w.fb = eventfd(1, EFD_CLOEXEC);
    assert_int_equal(loop_fd_add(w.loop, w.fa, EPOLLIN, free_other, &w, &w.a), 0);
    assert_int_equal(loop_fd_add(w.loop, w.fb, EPOLLIN, free_other, &w, &w.b), 0);
    assert_int_equal(loop_run(w.loop), 7);
    assert_int_equal(w.calls, 1);
    loop_free(w.loop);
    close(w.fa);
    close(w.fb);
}

static void count_events(void *opaque, uint32_t events)
{
    struct world *w = opaque;

    w->calls++;
    w->order[0] = (int)events;
}

/* A pipe without a writer is told of as long as it is watched, and not while nobody can read what is in it. */
static void test_watch(void **state)
{
    struct world w = { 0 };
    int ends[2];

    (void)state;
    assert_int_equal(loop_new(&w.loop), 0);
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], "x", 1), 1);
    loop_fd_watch(w.loop, ends[0], EPOLLIN, count_events, &w, &w.a);
    loop_fd_watch(w.loop, ends[0], 0, count_events, &w, &w.a);
    assert_null(w.a);
    close(ends[1]);
    assert_int_equal(loop_run_once(w.loop), 0);
    assert_int_equal(w.calls, 0);
    loop_fd_watch(w.loop, ends[0], EPOLLIN, count_events, &w, &w.a);
    assert_non_null(w.a);
    assert_int_equal(loop_run_once(w.loop), 1);
    assert_int_equal(w.calls, 1);
    assert_int_equal(w.order[0], EPOLLIN | EPOLLHUP);
    loop_free(w.loop);
    close(ends[0]);
}

static void on_t1(void *opaque)
{
    struct world *w = opaque;

    w->order[w->calls++] = 1;
    loop_timer_free(w->t1);
}

static void on_t2(void *opaque)
{
    struct world *w = opaque;

    w->order[w->calls++] = 2;
    if (w->calls < 3)
        loop_timer_set(w->t2, sys_now_ns() + 1000);
    else
        loop_stop(w->loop, 0);
}

static void test_timers(void **state)
{
    struct world w = { 0 };
    uint64_t now = sys_now_ns();

    (void)state;
    assert_int_equal(loop_new(&w.loop), 0);
    assert_int_equal(loop_timer_new(w.loop, on_t1, &w, &w.t1), 0);
    assert_int_equal(loop_timer_new(w.loop, on_t2, &w, &w.t2), 0);
    loop_timer_set(w.t2, now + 20000000);
    loop_timer_set(w.t1, now + 1000000);
    assert_int_equal(loop_run(w.loop), 0);
    assert_int_equal(w.calls, 3);
    assert_int_equal(w.order[0], 1);
    assert_int_equal(w.order[1], 2);
    assert_int_equal(w.order[2], 2);
    loop_free(w.loop);
}

static void count_job(void *opaque)
{
    struct world *w = opaque;

    if (++w->calls == 1000)
        loop_stop(w->loop, 0);
}

static void *poster(void *opaque)
{
    struct world *w = opaque;

    for (int i = 0; i < 500; i++)
        assert_int_equal(loop_post(w->loop, count_job, w), 0);
    return NULL;
}

static void test_post_from_threads(void **state)
{
    struct world w = { 0 };
    pthread_t th[2];

    (void)state;
    assert_int_equal(loop_new(&w.loop), 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&th[i], NULL, poster, &w), 0);
    assert_int_equal(loop_run(w.loop), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(th[i], NULL);
    assert_int_equal(w.calls, 1000);
    loop_free(w.loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_free_inside_batch),
        cmocka_unit_test(test_watch),
        cmocka_unit_test(test_timers),
        cmocka_unit_test(test_post_from_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
