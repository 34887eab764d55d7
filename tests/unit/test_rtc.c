/* hw/rtc: reading and setting in every format, update, alarm and periodic interrupts, memory registers. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "hw/rtc.h"
#include "hw_fake.h"

#define S 1000000000ULL
#define START_S 951782399ULL /* 2000-02-28 23:59:59 UTC, a Monday; a leap day follows */

struct fixture {
    struct fake fake;
    struct rtc *rtc;
};

static int setup(void **state)
{
    struct fixture *x = calloc(1, sizeof(*x));
    struct rtc_config c = { .ram_below_4g = 3ULL << 30, .ram_above_4g = 5ULL << 30 };

    if (!x || bus_new(0xffff, &x->fake.pio) < 0)
        return -1;
    x->fake.mono_ns = 77;
    x->fake.utc_ns = START_S * S + S / 2;
    c.pio = x->fake.pio;
    c.irq = fake_irq(&x->fake, 8);
    c.time = fake_time(&x->fake);
    *state = x;
    return rtc_new(&c, &x->rtc);
}

static int teardown(void **state)
{
    struct fixture *x = *state;

    rtc_free(x->rtc);
    bus_free(x->fake.pio);
    free(x);
    return 0;
}

static uint8_t get(struct fake *f, uint8_t reg)
{
    OUT(0x70, reg);
    return (uint8_t)IN(0x71);
}

static void set(struct fake *f, uint8_t reg, uint8_t v)
{
    OUT(0x70, reg | 0x80); /* with the NMI mask bit */
    OUT(0x71, v);
}

/* Registers 9, 8, 7, 4, 2, 0 and the century as one number of two digits each. */
static uint64_t clock_hex(struct fake *f)
{
    static const uint8_t regs[] = { 0x32, 9, 8, 7, 4, 2, 0 };
    uint64_t v = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(regs); i++)
        v = v << 8 | get(f, regs[i]);
    return v;
}

static void test_time(void **state)
{
    struct fixture *x = *state;
    struct fake *f = &x->fake;

    assert_true(clock_hex(f) == 0x20000228235959);
    assert_int_equal(get(f, 6), 2); /* Monday */
    fake_pass(f, S);
    assert_true(clock_hex(f) == 0x20000229000000);
    fake_pass(f, 13 * 3600 * S);
    assert_true(clock_hex(f) == 0x20000229130000);
    set(f, 11, 0x00); /* 12 hours */
    assert_int_equal(get(f, 4), 0x81);
    set(f, 11, 0x04); /* binary too */
    assert_int_equal(get(f, 9), 0);
    assert_int_equal(get(f, 7), 29);
    fake_pass(f, 11 * 3600 * S);
    assert_int_equal(get(f, 4), 12); /* midnight */
    set(f, 11, 0x06);
    assert_int_equal(get(f, 4), 0);
    assert_int_equal(get(f, 13), 0x80);
    assert_int_equal(get(f, 10), 0x26);
    f->utc_ns += S - f->utc_ns % S - 100000; /* in the last 244 us of a second */
    assert_int_equal(get(f, 10), 0xa6);
}

static void test_set(void **state)
{
    struct fixture *x = *state;
    struct fake *f = &x->fake;

    set(f, 11, 0x82);
    set(f, 0, 0x30);
    set(f, 2, 0x15);
    set(f, 4, 0x08);
    set(f, 7, 0x01);
    set(f, 8, 0x03);
    set(f, 9, 0x26);
    set(f, 0x32, 0x20);
    fake_pass(f, 10 * S); /* frozen meanwhile */
    assert_true(clock_hex(f) == 0x20260301081530);
    assert_int_equal(rtc_offset(x->rtc), 0);
    set(f, 11, 0x02);
    assert_true(clock_hex(f) == 0x20260301081530);
    assert_int_equal(rtc_offset(x->rtc), 1772352930 - (int64_t)(START_S + 10));
    fake_pass(f, 60 * S);
    assert_true(clock_hex(f) == 0x20260301081630);
    set(f, 2, 0x59); /* without SET: at once */
    assert_true(clock_hex(f) == 0x20260301085930);
    set(f, 8, 0x13); /* no such month: nothing happens */
    assert_true(clock_hex(f) == 0x20260301085930);
    set(f, 7, 0xff);
    set(f, 0x32, 0x00);
    assert_true(clock_hex(f) == 0x20260301085930);
}

static void test_update_interrupt(void **state)
{
    struct fixture *x = *state;
    struct fake *f = &x->fake;

    assert_int_equal(f->timers[0].at_ns, 0);
    fake_pass(f, 3 * S);
    assert_int_equal(get(f, 12), 0x70); /* update, alarm (0:00:00) and periodic flag, but no interrupt */
    assert_int_equal(f->edges[8], 0);
    set(f, 11, 0x12);
    assert_int_equal(fake_pass(f, S), 1);
    assert_true(f->level[8]);
    assert_int_equal(fake_pass(f, 10 * S), 0); /* not acknowledged: no work */
    assert_int_equal(get(f, 12), 0xd0);
    assert_false(f->level[8]);
    assert_int_equal(get(f, 12), 0);
    for (unsigned i = 0; i < 5; i++) {
        fake_pass(f, S);
        assert_int_equal(get(f, 12) & 0x90, 0x90);
    }
    assert_int_equal(f->edges[8], 6);
    set(f, 11, 0x92); /* SET turns it off */
    assert_int_equal(get(f, 11), 0x82);
    assert_int_equal(fake_pass(f, 10 * S), 0);
}

static void test_alarm(void **state)
{
    struct fixture *x = *state;
    struct fake *f = &x->fake;

    set(f, 1, 0x30);
    set(f, 3, 0x10);
    set(f, 5, 0x06);
    set(f, 11, 0x22);
    fake_pass(f, 6 * 3600 * S + 10 * 60 * S + 30 * S);
    assert_false(f->level[8]); /* half a second short */
    fake_pass(f, S / 2);
    assert_true(f->level[8]);
    assert_int_equal(get(f, 12) & 0xa0, 0xa0);
    assert_true(clock_hex(f) == 0x20000229061030);
    set(f, 5, 0xff); /* every hour */
    fake_pass(f, 3600 * S - 1);
    assert_false(f->level[8]);
    fake_pass(f, 1);
    assert_true(f->level[8]);
    get(f, 12);
    set(f, 3, 0xc0); /* every minute */
    set(f, 1, 0xff); /* every second */
    fake_pass(f, S);
    assert_true(f->level[8]);
    get(f, 12);
    set(f, 1, 0x7f); /* no such second */
    assert_int_equal(f->timers[0].at_ns, 0);
    assert_int_equal(fake_pass(f, 86400 * S), 0);
    assert_int_equal(get(f, 12) & 0x20, 0);
    set(f, 11, 0x00); /* 12 hours: 11 PM */
    set(f, 1, 0x00);
    set(f, 3, 0x00);
    set(f, 5, 0x91);
    set(f, 11, 0x20);
    fake_pass(f, 86400 * S);
    assert_true(f->level[8]);
}

static void test_periodic(void **state)
{
    struct fixture *x = *state;
    struct fake *f = &x->fake;
    unsigned seen = 0;

    set(f, 10, 0x2f); /* 2 Hz */
    set(f, 11, 0x42);
    for (unsigned i = 0; i < 40; i++) {
        fake_pass(f, S / 4);
        seen += get(f, 12) & 0x40 ? 1 : 0;
    }
    assert_int_equal(seen, 20);
    set(f, 10, 0x23); /* 8192 Hz */
    seen = 0;
    for (unsigned i = 0; i < 1000; i++) {
        fake_pass(f, 122071);
        seen += get(f, 12) & 0x40 ? 1 : 0;
    }
    assert_in_range(seen, 999, 1000);
    set(f, 10, 0x20); /* off */
    get(f, 12);
    assert_int_equal(f->timers[0].at_ns, 0);
}

static void test_clock_set_back(void **state)
{
    struct fixture *x = *state;
    struct fake *f = &x->fake;

    set(f, 11, 0x12);
    f->utc_ns -= 1000 * S; /* by the host's administrator */
    fake_pass(f, S);
    get(f, 12);
    fake_pass(f, S);
    assert_int_equal(get(f, 12) & 0x90, 0x90);
}

static void test_ram(void **state)
{
    struct fixture *x = *state;
    struct fake *f = &x->fake;

    assert_int_equal(get(f, 0x15) | get(f, 0x16) << 8, 640);
    assert_int_equal(get(f, 0x17) | get(f, 0x18) << 8, 0xffff);
    assert_int_equal(get(f, 0x34) | get(f, 0x35) << 8, (3072 - 16) * 16);
    assert_int_equal(get(f, 0x5b) | get(f, 0x5c) << 8 | get(f, 0x5d) << 16, 5120 * 16);
    set(f, 0x40, 0x77);
    set(f, 0x7f, 0x88);
    assert_int_equal(get(f, 0x40), 0x77);
    assert_int_equal(get(f, 0x7f), 0x88);
    assert_int_equal(IN(0x70), 0xff); /* write-only */
    set(f, 12, 0xff);
    set(f, 13, 0);
    assert_int_equal(get(f, 13), 0x80);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_time),           TEST(test_set), TEST(test_update_interrupt), TEST(test_alarm), TEST(test_periodic),
        TEST(test_clock_set_back), TEST(test_ram),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
