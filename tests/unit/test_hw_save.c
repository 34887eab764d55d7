/* Saved state of the board's devices: a board that was put into some state by random accesses is saved and restored
 * into a fresh one; both then show the same state when saved again, the same lines, and the same answers to the same
 * further accesses. Time goes on or catches up, as asked. Damaged states are refused or harmless. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/bits.h"
#include "base/pack.h"
#include "hw/acpi_pm.h"
#include "hw/chipset.h"
#include "hw/i8042.h"
#include "hw/pci.h"
#include "hw/rtc.h"
#include "hw/uart.h"
#include "hw_fake.h"

#define ECAM 0xe0000000ULL
#define S 1000000000ULL
#define UTC_START (1700000000ULL * S)
#define PM 0x600

struct board {
    struct fake fake;
    struct bus *mmio;
    struct chipset *chipset;
    struct pci_host *pci;
    struct pci_dev *dev[2];
    struct uart *uart;
    struct i8042 *keyboard;
    struct rtc *rtc;
    struct acpi_pm *pm;
    uint64_t sent; /* a sum over all messages */
    uint64_t seed;
    unsigned refuse; /* the UART's sink takes nothing */
};

static uint32_t rnd(struct board *b, uint32_t below)
{
    b->seed = b->seed * 6364136223846793005ULL + 1442695040888963407ULL;
    return (uint32_t)(b->seed >> 33) % below;
}

static void board_msi(void *opaque, uint64_t addr, uint32_t value)
{
    struct board *b = opaque;

    b->sent = b->sent * 31 + addr + value;
}

static size_t board_sink(void *opaque, const uint8_t *data, size_t len)
{
    struct board *b = opaque;

    return b->refuse ? 0 : len;
}

static void bar_read(void *dev, uint64_t off, void *data, unsigned len)
{
    memset(data, 0x77, len);
}

static void bar_write(void *dev, uint64_t off, const void *data, unsigned len)
{
}

static const struct bus_ops bar_ops = { .read = bar_read, .write = bar_write };
static const struct uart_ops sink_ops = { .write = board_sink };

static void board_pci(struct board *b)
{
    struct pci_host_config c = { .mmio = b->mmio,
                                 .pio = b->fake.pio,
                                 .ecam_base = ECAM,
                                 .window32_base = 0xc0000000,
                                 .window32_size = 0x20000000,
                                 .window64_base = 1ULL << 38,
                                 .window64_size = 1ULL << 38,
                                 .msi = { board_msi, b },
                                 .cf9 = &chipset_cf9_ops,
                                 .cf9_dev = b->chipset };
    struct pci_dev_config dc = { .vendor = 1, .device = 2, .intx_pin = 1 };

    for (unsigned i = 0; i < 4; i++)
        c.intx[i] = fake_irq(&b->fake, 16 + i);
    assert_int_equal(pci_host_new(&c, &b->pci), 0);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(pci_dev_new(b->pci, -1, &dc, &b->dev[i]), 0);
        assert_int_equal(pci_dev_add_bar(b->dev[i], 0, 0x4000, true, &bar_ops, b), 0);
        assert_int_equal(pci_dev_add_msix(b->dev[i], 4, 3), 0);
    }
}

static void board_new(struct board *b, uint64_t seed)
{
    struct fake *f = &b->fake;

    *b = (struct board){ .fake.utc_ns = UTC_START, .fake.mono_ns = 5 * S, .seed = seed };
    assert_int_equal(bus_new(0xffff, &f->pio), 0);
    assert_int_equal(bus_new(UINT64_MAX, &b->mmio), 0);
    assert_int_equal(chipset_new(&(struct chipset_config){ .pio = f->pio }, &b->chipset), 0);
    board_pci(b);
    assert_int_equal(
        uart_new(
            &(struct uart_config){ .pio = f->pio, .base = 0x3f8, .irq = fake_irq(f, 4), .ops = &sink_ops, .opaque = b },
            &b->uart),
        0);
    assert_int_equal(
        i8042_new(&(struct i8042_config){ .pio = f->pio, .keyboard_irq = fake_irq(f, 1), .aux_irq = fake_irq(f, 12) },
                  &b->keyboard),
        0);
    assert_int_equal(
        rtc_new(&(struct rtc_config){ .pio = f->pio, .irq = fake_irq(f, 8), .time = fake_time(f) }, &b->rtc), 0);
    assert_int_equal(
        acpi_pm_new(&(struct acpi_pm_config){ .pio = f->pio, .base = PM, .sci = fake_irq(f, 9), .time = fake_time(f) },
                    &b->pm),
        0);
}

static void board_free(struct board *b)
{
    acpi_pm_free(b->pm);
    rtc_free(b->rtc);
    i8042_free(b->keyboard);
    uart_free(b->uart);
    pci_host_free(b->pci);
    chipset_free(b->chipset);
    bus_free(b->mmio);
    bus_free(b->fake.pio);
}

/* Registers of a PCI function through ECAM, and its MSI-X table where that is mapped now. */
static uint32_t board_pci_access(struct board *b)
{
    struct pci_dev *d = b->dev[rnd(b, 2)];
    uint64_t addr = ECAM + (pci_dev_slot(d) << 15) + rnd(b, 0x80);
    uint32_t v = rnd(b, 2) ? rnd(b, 0x10000) << 14 : rnd(b, 0x10000), got = 0;

    if (rnd(b, 3) == 0)
        addr = pci_bar_addr(d, 4) + rnd(b, 48);
    if (rnd(b, 8) == 0)
        pci_intx_set(d, rnd(b, 2));
    if (rnd(b, 8) == 0)
        pci_msix_notify(d, rnd(b, 4));
    if (rnd(b, 2))
        bus_write(b->mmio, addr & ~3ULL, &v, 4);
    else
        bus_read(b->mmio, addr, &got, 1U << rnd(b, 3));
    return got;
}

/* One access or event; returns what was read. */
static uint32_t board_step(struct board *b)
{
    static const uint16_t ports[] = { 0x60,   0x64,   0x70,    0x71,    0x80,  0x92,  PM,    PM + 2,
                                      PM + 4, PM + 8, PM + 16, PM + 18, 0xcf8, 0xcf9, 0xcfc, 0x3f8,
                                      0x3f9,  0x3fa,  0x3fb,   0x3fc,   0x3fd, 0x3fe };
    uint16_t port = ports[rnd(b, ARRAY_SIZE(ports))];
    unsigned len = port >= PM && port < PM + 32 ? 2 : port == 0xcf8 || port == 0xcfc ? 4 : 1;
    uint8_t bytes[4];

    switch (rnd(b, 12)) {
    case 0:
        fake_pass(&b->fake, rnd(b, 1000000000) * (uint64_t)(1 + rnd(b, 4)));
        return 0;
    case 1:
        for (unsigned i = 0; i < sizeof(bytes); i++)
            bytes[i] = (uint8_t)rnd(b, 256);
        return (uint32_t)uart_receive(b->uart, bytes, sizeof(bytes));
    case 2:
        uart_receive_break(b->uart);
        return 0;
    case 3:
        bytes[0] = 0x1c;
        return (uint32_t)i8042_keyboard_push(b->keyboard, bytes, 1);
    case 4:
        acpi_pm_raise_gpe(b->pm, rnd(b, 16));
        return 0;
    case 5:
        b->refuse = rnd(b, 2);
        return 0;
    case 6:
    case 7:
        return board_pci_access(b);
    default:
        break;
    }
    if (rnd(b, 2))
        return fake_in(&b->fake, port, len);
    /* The RTC's index and the 8042's commands should make sense now and then. */
    fake_out(&b->fake, port, port == 0x70 ? rnd(b, 16) : rnd(b, 2) ? rnd(b, 0x10000) : 0x20 + rnd(b, 0x100), len);
    return 0;
}

#define PARTS 8

/* Save part number i of the board. */
static void save(struct board *b, unsigned i, struct buf *out)
{
    buf_init(out, 1 << 20);
    switch (i) {
    case 0:
        chipset_save(b->chipset, out);
        break;
    case 1:
        pci_host_save(b->pci, out);
        break;
    case 2:
    case 3:
        pci_dev_save(b->dev[i - 2], out);
        break;
    case 4:
        uart_save(b->uart, out);
        break;
    case 5:
        i8042_save(b->keyboard, out);
        break;
    case 6:
        rtc_save(b->rtc, out);
        break;
    default:
        acpi_pm_save(b->pm, out);
        break;
    }
    assert_int_equal(buf_error(out), 0);
}

static int restore(struct board *b, unsigned i, const uint8_t *data, size_t len)
{
    struct unpack in;

    unpack_init(&in, data, len);
    switch (i) {
    case 0:
        return chipset_restore(b->chipset, CHIPSET_STATE_VERSION, &in);
    case 1:
        return pci_host_restore(b->pci, PCI_HOST_STATE_VERSION, &in);
    case 2:
    case 3:
        return pci_dev_restore(b->dev[i - 2], PCI_DEV_STATE_VERSION, &in);
    case 4:
        return uart_restore(b->uart, UART_STATE_VERSION, &in);
    case 5:
        return i8042_restore(b->keyboard, I8042_STATE_VERSION, &in);
    case 6:
        return rtc_restore(b->rtc, RTC_STATE_VERSION, &in);
    default:
        return acpi_pm_restore(b->pm, ACPI_PM_STATE_VERSION, &in);
    }
}

/* The state of a into b, and the two must not differ then. */
static void carry_over(struct board *a, struct board *b)
{
    for (unsigned i = 0; i < PARTS; i++) {
        struct buf before, after;

        save(a, i, &before);
        assert_int_equal(restore(b, i, before.data, before.len), 0);
        save(b, i, &after);
        assert_int_equal(after.len, before.len);
        assert_memory_equal(after.data, before.data, before.len);
        buf_done(&before);
        buf_done(&after);
    }
}

static void test_goes_on_alike(void **state)
{
    static struct board a, b;

    for (unsigned seed = 1; seed <= 60; seed++) {
        board_new(&a, seed);
        board_new(&b, seed);
        for (unsigned i = 0; i < 300; i++)
            board_step(&a);
        /* The same moment on the same host, so that all times are the same. */
        b.fake.mono_ns = a.fake.mono_ns;
        b.fake.utc_ns = a.fake.utc_ns;
        carry_over(&a, &b);
        assert_memory_equal(a.fake.level, b.fake.level, sizeof(a.fake.level));
        b.seed = a.seed;
        b.refuse = a.refuse;
        b.sent = a.sent;
        for (unsigned i = 0; i < 500; i++) {
            assert_int_equal(board_step(&a), board_step(&b));
            assert_memory_equal(a.fake.level, b.fake.level, sizeof(a.fake.level));
            assert_int_equal(a.sent, b.sent);
        }
        board_free(&a);
        board_free(&b);
    }
}

static uint32_t rtc_seconds(struct board *b)
{
    struct fake *f = &b->fake;
    uint32_t t = 0;

    for (int reg = 4; reg >= 0; reg -= 2) { /* hours, minutes, seconds, BCD */
        uint32_t v;

        OUT(0x70, (uint8_t)reg);
        v = IN(0x71);
        t = t * 60 + (v >> 4) * 10 + (v & 15);
    }
    return t;
}

/* An alarm in each minute. */
static void set_alarm(struct board *b, uint32_t second)
{
    struct fake *f = &b->fake;

    OUT(0x70, 1);
    OUT(0x71, (uint8_t)(second / 10 << 4 | second % 10));
    OUT(0x70, 3);
    OUT(0x71, 0xff);
    OUT(0x70, 5);
    OUT(0x71, 0xff);
    OUT(0x70, 11);
    OUT(0x71, 0x22);
}

/* The other host's clocks have nothing to do with ours: a day passed, and it booted at another time. */
static void test_clocks(void **state)
{
    static struct board a, b;
    uint32_t before, ticks, now;

    for (unsigned catch_up = 0; catch_up < 2; catch_up++) {
        board_new(&a, 1);
        board_new(&b, 1);
        fake_pass(&a.fake, 1234 * S + 5);
        before = rtc_seconds(&a);
        ticks = fake_in(&a.fake, PM + 8, 4);
        /* An alarm in 30 s */
        now = before % 60 + 30;
        set_alarm(&a, now % 60);
        b.fake.mono_ns = 77 * S;
        b.fake.utc_ns = a.fake.utc_ns + 86400 * S + 17 * S + 1;
        for (unsigned i = 0; i < PARTS; i++) {
            struct buf out;

            save(&a, i, &out);
            assert_int_equal(restore(&b, i, out.data, out.len), 0);
            buf_done(&out);
        }
        assert_int_equal(fake_in(&b.fake, PM + 8, 4), ticks);
        assert_false(b.fake.level[8]);
        if (catch_up)
            rtc_catch_up(b.rtc);
        assert_int_equal(b.fake.level[8], catch_up);
        assert_int_equal(rtc_seconds(&b), catch_up ? (before + 17) % 86400 : before);
        assert_int_equal(rtc_offset(b.rtc), catch_up ? 0 : -(86400 + 17));
        fake_pass(&b.fake, 31 * S);
        assert_true(b.fake.level[8]);
        assert_int_equal(rtc_seconds(&b), (before + 31 + (catch_up ? 17 : 0)) % 86400);
        board_free(&a);
        board_free(&b);
    }
}

static void test_bad_states(void **state)
{
    static struct board a, b;
    unsigned taken = 0;

    board_new(&a, 3);
    for (unsigned i = 0; i < 400; i++)
        board_step(&a);
    for (unsigned i = 0; i < PARTS; i++) {
        struct buf out;

        save(&a, i, &out);
        for (size_t len = 0; len < out.len; len++) {
            board_new(&b, len);
            assert_int_equal(restore(&b, i, out.data, len), -EBADMSG);
            board_free(&b);
        }
        buf_append(&out, "", 1);
        board_new(&b, 0);
        assert_int_equal(restore(&b, i, out.data, out.len), -EBADMSG); /* something is left over */
        board_free(&b);
        out.len--;
        for (unsigned n = 0; n < 300; n++) {
            size_t at = rnd(&a, (uint32_t)out.len);
            uint8_t was = out.data[at];
            int r;

            board_new(&b, n);
            out.data[at] ^= (uint8_t)(1 + rnd(&a, 255));
            r = restore(&b, i, out.data, out.len);
            assert_true(r == 0 || r == -EBADMSG);
            taken += r == 0;
            for (unsigned k = 0; k < 60 && r == 0; k++)
                board_step(&b);
            board_free(&b);
            out.data[at] = was;
        }
        buf_done(&out);
    }
    assert_true(taken > 0);
    board_free(&a);
}

/* Another function than the one that was saved. */
static void test_other_function(void **state)
{
    static struct board a, b;
    struct buf out;
    uint16_t device = 3;

    board_new(&a, 1);
    board_new(&b, 1);
    save(&a, 2, &out);
    pci_config_set(b.dev[0], 2, &device, 2);
    assert_int_equal(restore(&b, 2, out.data, out.len), -EBADMSG);
    buf_done(&out);
    board_free(&a);
    board_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goes_on_alike),
        cmocka_unit_test(test_clocks),
        cmocka_unit_test(test_bad_states),
        cmocka_unit_test(test_other_function),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
