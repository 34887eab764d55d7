/* Token buckets on a clock of our own: bursts, rates, debts, and that reads and writes are told apart. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "block/stats.h"
#include "block/throttle.h"

#define SECOND 1000000000ULL
#define START (1000 * SECOND)

/* Requests of the given size that get through in a span of time when as many as possible are asked for. */
static uint64_t through(struct blk_throttle *t, bool write, uint64_t bytes, uint64_t from_ns, uint64_t span_ns)
{
    uint64_t n = 0;

    for (uint64_t now = from_ns; now < from_ns + span_ns;) {
        uint64_t at = blk_throttle_take(t, write, 1, bytes, now);

        assert_true(at == 0 || at > now);
        n += at == 0;
        now = at ? at : now;
    }
    return n;
}

static void test_off(void **state)
{
    struct blk_throttle t;

    (void)state;
    blk_throttle_init(&t, &(struct blk_limits){ 0 }, START);
    assert_false(blk_throttle_on(&t));
    for (unsigned i = 0; i < 1000; i++)
        assert_int_equal(blk_throttle_take(&t, true, 1, 1ULL << 40, START), 0);
}

static void test_rate(void **state)
{
    static const uint64_t rates[] = { 1, 3, 7, 100, 1000, 33333 };
    struct blk_throttle t;

    (void)state;
    for (unsigned i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
        blk_throttle_init(&t, &(struct blk_limits){ .iops = { rates[i], 1 } }, START);
        assert_true(blk_throttle_on(&t));
        assert_in_range(through(&t, i % 2, 512, START, 10 * SECOND), 10 * rates[i], 10 * rates[i] + 1);
    }
}

/* A burst at once, then the rate; and what is not used for a while comes back, up to the burst. */
static void test_burst(void **state)
{
    struct blk_throttle t;

    (void)state;
    blk_throttle_init(&t, &(struct blk_limits){ .iops = { 100, 50 } }, START);
    assert_in_range(through(&t, false, 512, START, 1), 50, 51);
    assert_in_range(through(&t, false, 512, START, SECOND), 99, 101);
    assert_in_range(through(&t, false, 512, START + SECOND + SECOND / 5, 1), 19, 21);
    assert_in_range(through(&t, false, 512, START + 100 * SECOND, 1), 50, 51);
    blk_throttle_init(&t, &(struct blk_limits){ .iops = { 100, 0 } }, START); /* a tenth of a second's worth */
    assert_in_range(through(&t, false, 512, START, 1), 10, 11);
}

static void test_bytes(void **state)
{
    struct blk_throttle t;
    uint64_t at;

    (void)state;
    blk_throttle_init(&t, &(struct blk_limits){ .bps = { 1 << 20, 64 << 10 } }, START);
    assert_in_range(through(&t, true, 4096, START, 10 * SECOND), 2560 + 15, 2560 + 17);
    /* Larger than the burst: passes, and the next one waits until the debt is paid. */
    blk_throttle_init(&t, &(struct blk_limits){ .bps = { 1 << 20, 64 << 10 } }, START);
    assert_int_equal(blk_throttle_take(&t, true, 1, 8 << 20, START), 0);
    at = blk_throttle_take(&t, true, 1, 512, START);
    assert_in_range(at, START + 7 * SECOND, START + 8 * SECOND);
    assert_int_equal(blk_throttle_take(&t, true, 1, 512, at), 0);
}

/* Nothing is lost to rounding: the 3000 requests that fit the burst, at a third of a millisecond each, fill it exactly.
 */
static void test_rounding(void **state)
{
    struct blk_throttle t;
    uint64_t at;

    (void)state;
    blk_throttle_init(&t, &(struct blk_limits){ .bps = { 3000000, 3000000 } }, START);
    for (unsigned i = 0; i < 3000; i++) /* 333.33 us each */
        assert_int_equal(blk_throttle_take(&t, true, 1, 1000, START), 0);
    at = blk_throttle_take(&t, true, 1, 1000, START);
    assert_in_range(at, START + 333333, START + 333334);
}

static void test_directions(void **state)
{
    struct blk_throttle t;

    (void)state;
    blk_throttle_init(&t, &(struct blk_limits){ .iops_read = { 10, 1 }, .iops_write = { 1000, 1 } }, START);
    assert_in_range(through(&t, false, 512, START, SECOND), 10, 11);
    assert_in_range(through(&t, true, 512, START, SECOND), 1000, 1001);
    blk_throttle_init(&t, &(struct blk_limits){ .bps_write = { 5120, 512 }, .iops = { 100, 1 } }, START);
    assert_in_range(through(&t, true, 512, START, SECOND), 10, 11);            /* the strictest one counts */
    assert_in_range(through(&t, false, 512, START + SECOND, SECOND), 99, 101); /* that of writes is not theirs */
}

/* Numbers that make no sense still end, and time is never waited for beyond an hour and the burst. */
static void test_extremes(void **state)
{
    struct blk_throttle t;

    (void)state;
    blk_throttle_init(&t, &(struct blk_limits){ .bps = { 1, INT64_MAX }, .iops = { INT64_MAX, 1 } }, START);
    assert_int_equal(blk_throttle_take(&t, true, UINT64_MAX, UINT64_MAX, START), 0);
    assert_in_range(blk_throttle_take(&t, true, 1, 1, START), 0, START + 3601 * SECOND);
    blk_throttle_init(&t, &(struct blk_limits){ .bps = { 1, 1 } }, START);
    assert_int_equal(blk_throttle_take(&t, true, 1, UINT64_MAX, START), 0);
    assert_in_range(blk_throttle_take(&t, true, 1, 1, START), START + 1, START + 3601 * SECOND);
}

static void test_histogram(void **state)
{
    struct blk_op_stats s = { 0 };

    (void)state;
    assert_int_equal(blk_histogram_quantile_us(&s.wait, 500), 0);
    for (unsigned i = 0; i < 99; i++)
        blk_op_stats_add(&s, 4096, 0, 999, 3000);
    blk_op_stats_add(&s, 4096, -5, 1000, 1ULL << 62);
    assert_int_equal(s.ops, 100);
    assert_int_equal(s.errors, 1);
    assert_int_equal(s.bytes, 99 * 4096);
    assert_int_equal(s.wait.count[0], 99);
    assert_int_equal(s.wait.count[1], 1);
    assert_int_equal(s.service.count[2], 99); /* 2..4 us */
    assert_int_equal(s.service.count[BLK_HISTOGRAM_BUCKETS - 1], 1);
    assert_int_equal(s.response.sum_ns, s.wait.sum_ns + s.service.sum_ns);
    assert_int_equal(blk_histogram_quantile_us(&s.service, 990), 4);
    assert_true(blk_histogram_quantile_us(&s.service, 1000) > 1ULL << 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_off),      cmocka_unit_test(test_rate),      cmocka_unit_test(test_burst),
        cmocka_unit_test(test_bytes),    cmocka_unit_test(test_rounding),  cmocka_unit_test(test_directions),
        cmocka_unit_test(test_extremes), cmocka_unit_test(test_histogram),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
