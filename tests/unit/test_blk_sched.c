/* Weighted fair queueing between disks: shares by weight, no credit for idleness, reads and writes, depth. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "block/sched.h"

#define MANY 2000

static struct blk_sched_entry *add(struct blk_flow *f, bool write, uint64_t bytes)
{
    struct blk_sched_entry *e = calloc(1, sizeof(*e));

    *e = (struct blk_sched_entry){ .flow = f, .write = write, .bytes = bytes };
    blk_sched_add(e);
    return e;
}

/* Start the next request and end it. Returns its flow; NULL: none. */
static struct blk_flow *serve(struct blk_sched *s, bool *ret_write)
{
    struct blk_sched_entry *e = blk_sched_next(s);
    struct blk_flow *f = e ? e->flow : NULL;

    if (!e)
        return NULL;
    if (ret_write)
        *ret_write = e->write;
    free(e);
    blk_sched_end(s);
    return f;
}

/* Of n requests served, how many belong to a. */
static unsigned share(struct blk_sched *s, const struct blk_flow *a, unsigned n)
{
    unsigned got = 0;

    while (n-- > 0)
        got += serve(s, NULL) == a;
    return got;
}

static void finish(struct blk_sched *s, struct blk_flow *a, struct blk_flow *b)
{
    while (serve(s, NULL)) {
    }
    blk_flow_done(a);
    blk_flow_done(b);
    blk_sched_free(s);
}

static void begin(struct blk_sched **s, struct blk_flow *a, unsigned weight_a, struct blk_flow *b, unsigned weight_b)
{
    assert_int_equal(blk_sched_new(1, s), 0);
    blk_flow_init(a, *s, weight_a);
    blk_flow_init(b, *s, weight_b);
}

static void test_weights(void **state)
{
    static const struct {
        unsigned a, b, bytes_a, bytes_b, of_1000;
    } rows[] = {
        { 100, 100, 4096, 4096, 500 },
        { 300, 100, 4096, 4096, 750 },
        { 1, 9, 65536, 65536, 100 },
        { 10000, 1, 512, 512, 1000 },
        /* Bytes count, and each request has a price of its own: (16K + 16K) : (112K + 16K). */
        { 100, 100, 16384, 112 << 10, 800 },
    };

    (void)state;
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct blk_sched *s;
        struct blk_flow a, b;

        begin(&s, &a, rows[i].a, &b, rows[i].b);
        for (unsigned n = 0; n < MANY; n++) {
            add(&a, n % 2, rows[i].bytes_a);
            add(&b, n % 3 == 0, rows[i].bytes_b);
        }
        assert_in_range(share(s, &a, 1000), rows[i].of_1000 - 3, rows[i].of_1000 + 3);
        finish(s, &a, &b);
    }
}

/* One that was idle for long gets its share from then on, not all of what it did not use. */
static void test_idle(void **state)
{
    struct blk_sched *s;
    struct blk_flow a, b;

    (void)state;
    begin(&s, &a, 100, &b, 100);
    for (unsigned i = 0; i < 2 * MANY; i++)
        add(&a, false, 4096);
    assert_int_equal(share(s, &a, MANY), MANY);
    for (unsigned i = 0; i < MANY; i++)
        add(&b, false, 4096);
    assert_in_range(share(s, &a, 100), 49, 51);
    finish(s, &a, &b);
}

/* Reads first, but every third request is a write; in order within each kind. */
static void test_directions(void **state)
{
    struct blk_sched *s;
    struct blk_flow a, b;
    unsigned writes = 0;
    bool write = false;

    (void)state;
    begin(&s, &a, 100, &b, 100);
    for (unsigned i = 0; i < 300; i++)
        add(&a, true, 512 + i);
    for (unsigned i = 0; i < 300; i++)
        add(&a, false, 512);
    for (unsigned i = 0; i < 300; i++) {
        assert_ptr_equal(serve(s, &write), &a);
        writes += write;
        if (i == 0)
            assert_false(write);
    }
    assert_int_equal(writes, 100);
    finish(s, &a, &b);
}

static void test_depth(void **state)
{
    struct blk_sched *s;
    struct blk_flow f;
    struct blk_sched_entry *e[8];

    (void)state;
    assert_int_equal(blk_sched_new(3, &s), 0);
    blk_flow_init(&f, s, 100);
    assert_null(blk_sched_next(s));
    for (unsigned i = 0; i < 8; i++)
        e[i] = add(&f, false, 512);
    for (unsigned i = 0; i < 3; i++)
        assert_ptr_equal(blk_sched_next(s), e[i]);
    assert_null(blk_sched_next(s));
    blk_sched_end(s);
    blk_sched_remove(e[3]); /* canceled */
    assert_ptr_equal(blk_sched_next(s), e[4]);
    assert_null(blk_sched_next(s));
    for (unsigned i = 0; i < 3; i++)
        blk_sched_end(s);
    for (unsigned i = 5; i < 8; i++)
        assert_ptr_equal(blk_sched_next(s), e[i]);
    assert_null(blk_sched_next(s));
    blk_flow_done(&f);
    blk_sched_free(s);
    for (unsigned i = 0; i < 8; i++)
        free(e[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_weights),
        cmocka_unit_test(test_idle),
        cmocka_unit_test(test_directions),
        cmocka_unit_test(test_depth),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
