/* hw/i8042, hw/chipset, hw/acpi_pm and hw/time. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "hw/acpi_pm.h"
#include "hw/chipset.h"
#include "hw/i8042.h"
#include "hw_fake.h"

#define PM 0x600

struct fixture {
    struct fake fake;
    unsigned resets, power_offs, exits;
    uint32_t code;
};

static int setup(void **state)
{
    struct fixture *x = calloc(1, sizeof(*x));

    *state = x;
    return !x || bus_new(0xffff, &x->fake.pio) < 0 ? -1 : 0;
}

static int teardown(void **state)
{
    struct fixture *x = *state;

    bus_free(x->fake.pio);
    free(x);
    return 0;
}

static void count_reset(void *opaque)
{
    ((struct fixture *)opaque)->resets++;
}

static void count_power_off(void *opaque)
{
    ((struct fixture *)opaque)->power_offs++;
}

static void count_exit(void *opaque, uint32_t code)
{
    struct fixture *x = opaque;

    x->exits++;
    x->code = code;
}

static struct i8042 *keyboard(struct fixture *x)
{
    struct i8042_config c = { .pio = x->fake.pio,
                              .keyboard_irq = fake_irq(&x->fake, 1),
                              .aux_irq = fake_irq(&x->fake, 12),
                              .reset = count_reset,
                              .opaque = x };
    struct i8042 *k = NULL;

    assert_int_equal(i8042_new(&c, &k), 0);
    return k;
}

static void test_i8042_controller(void **state)
{
    struct fixture *x = *state;
    struct fake *f = &x->fake;
    AUTO(i8042) struct i8042 *k = keyboard(x);

    assert_int_equal(IN(0x64) & 0x03, 0);
    OUT(0x64, 0xaa);
    assert_int_equal(IN(0x64) & 0x29, 0x09); /* full, not aux, the last write was a command */
    assert_int_equal(IN(0x60), 0x55);
    OUT(0x64, 0x20);
    assert_int_equal(IN(0x60), 0x45);
    OUT(0x64, 0x60);
    OUT(0x60, 0x44);
    OUT(0x64, 0x20);
    assert_int_equal(IN(0x60), 0x44);
    OUT(0x64, 0xab);
    assert_int_equal(IN(0x60), 0);
    OUT(0x64, 0xa7); /* auxiliary port off and on shows in the command byte, as Linux tests it */
    OUT(0x64, 0x20);
    assert_int_equal(IN(0x60) & 0x20, 0x20);
    OUT(0x64, 0xa8);
    OUT(0x64, 0x20);
    assert_int_equal(IN(0x60) & 0x20, 0);
    OUT(0x64, 0xd0);
    assert_int_equal(IN(0x60) & 0x03, 0x03);
    OUT(0x64, 0x63);
    OUT(0x60, 0x99);
    OUT(0x64, 0x23);
    assert_int_equal(IN(0x60), 0x99);
    assert_int_equal(f->edges[1], 2); /* while the interrupt was enabled */
    assert_int_equal(x->resets, 0);
}

static void test_i8042_aux(void **state)
{
    struct fixture *x = *state;
    struct fake *f = &x->fake;
    AUTO(i8042) struct i8042 *k = keyboard(x);

    OUT(0x64, 0x60);
    OUT(0x60, 0x47);
    OUT(0x64, 0xd3);
    OUT(0x60, 0x5a);
    assert_int_equal(IN(0x64) & 0x61, 0x21);
    assert_int_equal(f->edges[12], 1);
    assert_int_equal(f->edges[1], 0);
    assert_int_equal(IN(0x60), 0x5a);
    OUT(0x64, 0xd4); /* nobody there */
    OUT(0x60, 0xf2);
    assert_int_equal(IN(0x64) & 0x61, 0x61);
    assert_int_equal(IN(0x60), 0xfe);
    assert_false(f->level[12]);
    OUT(0x64, 0xa9);
    assert_int_equal(IN(0x60), 0);
}

static void test_i8042_keyboard(void **state)
{
    struct fixture *x = *state;
    struct fake *f = &x->fake;
    AUTO(i8042) struct i8042 *k = keyboard(x);
    uint8_t codes[100] = { 0x1e, 0x9e };

    OUT(0x60, 0xf2);
    assert_true(f->level[1]);
    assert_int_equal(IN(0x60), 0xfa);
    assert_int_equal(IN(0x60), 0xab);
    assert_int_equal(IN(0x60), 0x41);
    assert_int_equal(f->edges[1], 3); /* an edge for each byte */
    assert_false(f->level[1]);
    OUT(0x60, 0xff);
    assert_int_equal(IN(0x60), 0xfa);
    assert_int_equal(IN(0x60), 0xaa);
    OUT(0x60, 0xed);
    assert_int_equal(IN(0x60), 0xfa);
    OUT(0x60, 0x07);
    assert_int_equal(IN(0x60), 0xfa);
    OUT(0x60, 0xf0);
    OUT(0x60, 0x00);
    assert_int_equal(IN(0x60), 0xfa);
    assert_int_equal(IN(0x60), 0xfa);
    assert_int_equal(IN(0x60), 2);
    OUT(0x60, 0x01);
    assert_int_equal(IN(0x60), 0xfe);
    assert_int_equal(i8042_keyboard_push(k, codes, 2), 2);
    assert_int_equal(IN(0x60), 0x1e);
    assert_int_equal(IN(0x60), 0x9e);
    assert_int_equal(IN(0x60), 0x9e);                            /* empty: the last again */
    assert_in_range(i8042_keyboard_push(k, codes, 100), 16, 99); /* bounded */
    for (unsigned i = 0; i < 300; i++)
        OUT(0x60, 0xf2); /* answers that nobody reads are bounded too */
    for (unsigned i = 0; i < 64; i++)
        IN(0x60);
    assert_int_equal(IN(0x64) & 1, 0);
    OUT(0x60, 0xf5);
    assert_int_equal(IN(0x60), 0xfa);
    assert_int_equal(i8042_keyboard_push(k, codes, 2), 0);
}

static void test_i8042_reset(void **state)
{
    struct fixture *x = *state;
    struct fake *f = &x->fake;
    AUTO(i8042) struct i8042 *k = keyboard(x);

    OUT(0x64, 0xff); /* pulses nothing */
    assert_int_equal(x->resets, 0);
    OUT(0x64, 0xfe);
    assert_int_equal(x->resets, 1);
    OUT(0x64, 0xd1);
    OUT(0x60, 0xdf); /* A20 */
    assert_int_equal(x->resets, 1);
    OUT(0x64, 0xd1);
    OUT(0x60, 0x02);
    assert_int_equal(x->resets, 2);
}

static void test_chipset(void **state)
{
    struct fixture *x = *state;
    struct fake *f = &x->fake;
    struct chipset_config c = { .pio = f->pio, .reset = count_reset, .exit = count_exit, .opaque = x };
    struct chipset *chip;
    uint8_t v = 0xff;

    assert_int_equal(chipset_new(&c, &chip), 0);
    OUT(0x80, 0x42);
    assert_int_equal(IN(0x80), 0x42);
    assert_int_equal(IN(0x92), 0x02);
    OUT(0x92, 0x00);
    OUT(0x92, 0x02);
    assert_int_equal(x->resets, 0);
    OUT(0x92, 0x03);
    OUT(0x92, 0x03); /* only the rising edge */
    assert_int_equal(x->resets, 1);
    chipset_cf9_ops.write(chip, 0, &(uint8_t){ 0x02 }, 1);
    assert_int_equal(x->resets, 1);
    chipset_cf9_ops.write(chip, 0, &(uint8_t){ 0x06 }, 1);
    assert_int_equal(x->resets, 2);
    chipset_cf9_ops.read(chip, 0, &v, 1);
    assert_int_equal(v, 0x06);
    OUT(0xf4, 1); /* off unless asked for */
    assert_int_equal(x->exits, 0);
    chipset_free(chip);
    c.debug_exit = true;
    assert_int_equal(chipset_new(&c, &chip), 0);
    fake_out(f, 0xf4, 0x12345678, 4);
    assert_true(x->exits == 1 && x->code == 0x12345678);
    OUT(0xf4, 7);
    assert_true(x->exits == 2 && x->code == 7);
    OUT(0xf6, 7);
    assert_int_equal(x->exits, 2);
    chipset_free(chip);
    chipset_free(NULL);
    assert_int_equal(IN(0x80), 0xff);
}

static struct acpi_pm *pm_new(struct fixture *x)
{
    struct acpi_pm_config c = { .pio = x->fake.pio,
                                .base = PM,
                                .sci = fake_irq(&x->fake, 9),
                                .time = fake_time(&x->fake),
                                .power_off = count_power_off,
                                .opaque = x };
    struct acpi_pm *p = NULL;

    x->fake.mono_ns = 5000;
    assert_int_equal(acpi_pm_new(&c, &p), 0);
    return p;
}

static void test_pm_timer(void **state)
{
    struct fixture *x = *state;
    struct fake *f = &x->fake;
    AUTO(acpi_pm) struct acpi_pm *p = pm_new(x);

    assert_int_equal(fake_in(f, PM + 8, 4), 0);
    fake_pass(f, 1000000000);
    assert_int_equal(fake_in(f, PM + 8, 4), 3579545);
    assert_int_equal(f->timers[0].at_ns, 0); /* nobody waits for the overflow */
    assert_int_equal(fake_in(f, PM, 2), 0);
    fake_out(f, PM + 2, 0x0001, 2);
    assert_true(f->timers[0].at_ns > 599000000000 && f->timers[0].at_ns < 600000000000); /* 2^31 ticks */
    assert_int_equal(fake_pass(f, 600000000000), 1);
    assert_true(f->level[9]);
    assert_int_equal(fake_in(f, PM, 2), 0x0001);
    fake_out(f, PM, 0x0001, 2);
    assert_false(f->level[9]);
    assert_int_equal(fake_in(f, PM, 2), 0);
    fake_pass(f, 600000000000);
    assert_true(f->level[9]);
    assert_true(fake_in(f, PM + 8, 4) < 1U << 31); /* wrapped */
}

static void test_pm_events(void **state)
{
    struct fixture *x = *state;
    struct fake *f = &x->fake;
    AUTO(acpi_pm) struct acpi_pm *p = pm_new(x);

    assert_int_equal(fake_in(f, PM + 4, 2), 1); /* SCI_EN */
    acpi_pm_press_power(p);
    assert_false(f->level[9]); /* not enabled yet */
    fake_out(f, PM + 2, 0x0120, 2);
    assert_true(f->level[9]);
    assert_int_equal(fake_in(f, PM, 4), 0x01200100); /* both registers in one dword */
    fake_out(f, PM, 0x20, 1);                        /* clears another bit */
    assert_true(f->level[9]);
    OUT(PM + 1, 0x01); /* the high byte alone */
    assert_false(f->level[9]);
    fake_out(f, PM + 2, 0xffff, 2);
    assert_int_equal(fake_in(f, PM + 2, 2), 0x0521); /* only bits that exist */

    acpi_pm_raise_gpe(p, 3);
    assert_false(f->level[9]);
    OUT(PM + 0x12, 0x08);
    assert_true(f->level[9]);
    assert_int_equal(IN(PM + 0x10), 0x08);
    OUT(PM + 0x10, 0x08);
    assert_false(f->level[9]);
}

static void test_pm_sleep(void **state)
{
    struct fixture *x = *state;
    struct fake *f = &x->fake;
    AUTO(acpi_pm) struct acpi_pm *p = pm_new(x);

    fake_out(f, PM + 4, 0x2000 | 1 << 10, 2); /* S1: not here */
    fake_out(f, PM + 4, 5 << 10, 2);          /* without SLP_EN */
    assert_int_equal(x->power_offs, 0);
    assert_int_equal(fake_in(f, PM + 4, 2), 5 << 10 | 1);
    fake_out(f, PM + 4, 0x2000 | 5 << 10, 2);
    assert_int_equal(x->power_offs, 1);
    assert_int_equal(fake_in(f, PM + 4, 2), 5 << 10 | 1); /* SLP_EN reads 0 */
}

static void on_timer(void *opaque)
{
    loop_stop(opaque, 7);
}

static void test_loop_time(void **state)
{
    AUTO(hw_loop_time) struct hw_loop_time *time = NULL;
    struct loop *l = NULL;
    struct hw_timer *t = NULL, *other = NULL;
    struct hw_time h;

    assert_int_equal(loop_new(&l), 0);
    assert_int_equal(hw_loop_time_new(l, &time), 0);
    h = hw_loop_time_get(time);
    assert_true(h.ops->utc_ns(h.opaque) > 1600000000ULL * 1000000000);
    assert_int_equal(h.ops->timer_new(h.opaque, on_timer, l, &t), 0);
    assert_int_equal(h.ops->timer_new(h.opaque, on_timer, l, &other), 0);
    h.ops->timer_set(t, UINT64_MAX / 2);
    h.ops->timer_set(t, h.ops->mono_ns(h.opaque) + 1000); /* the last setting counts */
    h.ops->timer_set(other, 1);
    h.ops->timer_free(other); /* with a message under way */
    assert_int_equal(loop_run(l), 7);
    h.ops->timer_set(t, 1); /* and one that goes down with the loop */
    h.ops->timer_free(t);
    h.ops->timer_free(NULL);
    loop_free(l);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_i8042_controller), TEST(test_i8042_aux), TEST(test_i8042_keyboard),
        TEST(test_i8042_reset),      TEST(test_chipset),   TEST(test_pm_timer),
        TEST(test_pm_events),        TEST(test_pm_sleep),  TEST(test_loop_time),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
