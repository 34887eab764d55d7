/* The 8259 pair and the 8254 of the translation engine, against their data sheets. */
#include "bt_irqchip_fake.h"

#include <string.h>

/* ---- 8259 ---- */

/* The usual PC initialisation: master at 0x20, slave at 0x28, all unmasked. icw4: 1 = normal EOI. */
static void pic_init(struct bt_vcpu *c, uint8_t icw4)
{
    fake_out(c, 0x20, 0x11);
    fake_out(c, 0x21, 0x20);
    fake_out(c, 0x21, 0x04);
    fake_out(c, 0x21, icw4);
    fake_out(c, 0xa0, 0x11);
    fake_out(c, 0xa1, 0x28);
    fake_out(c, 0xa1, 0x02);
    fake_out(c, 0xa1, icw4);
}

static void pulse(struct fake *f, unsigned gsi)
{
    bt_irq_line(&f->vm, gsi, true);
    bt_irq_line(&f->vm, gsi, false);
}

static void test_pic_basics(void **state)
{
    struct fake *f = fake_new(1);
    struct bt_vcpu *c = fake_vcpu(f, 0);

    (void)state;
    pic_init(c, 1);
    fake_out(c, 0x21, 0xf8);
    assert_int_equal(fake_in(c, 0x21), 0xf8);
    pulse(f, 3); /* masked, but seen in IRR */
    assert_int_equal(fake_take(c), -1);
    fake_out(c, 0x20, 0x0a);
    assert_int_equal(fake_in(c, 0x20), 0x08);
    fake_events(c);
    fake_out(c, 0x21, 0x00);
    assert_true(fake_events(c) & BT_EV_IRQ);
    assert_int_equal(fake_take(c), 0x23);
    assert_int_equal(fake_in(c, 0x20), 0x00);
    fake_out(c, 0x20, 0x0b);
    assert_int_equal(fake_in(c, 0x20), 0x08);
    pulse(f, 4);
    assert_int_equal(fake_take(c), -1); /* lower priority */
    pulse(f, 1);
    assert_int_equal(fake_take(c), 0x21); /* higher */
    assert_int_equal(fake_in(c, 0x20), 0x0a);
    fake_out(c, 0x20, 0x20); /* non-specific EOI ends line 1 */
    assert_int_equal(fake_in(c, 0x20), 0x08);
    fake_out(c, 0x20, 0x63); /* specific EOI of line 3 */
    assert_int_equal(fake_take(c), 0x24);
    fake_free(f);
}

static void test_pic_cascade(void **state)
{
    struct fake *f = fake_new(1);
    struct bt_vcpu *c = fake_vcpu(f, 0);

    (void)state;
    pic_init(c, 1);
    pulse(f, 14);
    pulse(f, 8);
    assert_int_equal(fake_take(c), 0x28);
    assert_int_equal(fake_take(c), -1);
    fake_out(c, 0xa0, 0x20);
    assert_int_equal(fake_take(c), -1); /* the master still has line 2 in service */
    fake_out(c, 0x20, 0x20);
    assert_int_equal(fake_take(c), 0x2e);
    pulse(f, 9);
    assert_int_equal(fake_take(c), -1); /* master: not fully nested across the cascade */
    fake_out(c, 0xa0, 0x20);
    fake_out(c, 0x20, 0x20);
    assert_int_equal(fake_take(c), 0x29);
    fake_out(c, 0xa0, 0x20);
    fake_out(c, 0x20, 0x20);
    /* Special fully nested mode in the master lets a higher one of the slave in. */
    fake_out(c, 0x20, 0x11);
    fake_out(c, 0x21, 0x20);
    fake_out(c, 0x21, 0x04);
    fake_out(c, 0x21, 0x11);
    pulse(f, 12);
    assert_int_equal(fake_take(c), 0x2c);
    pulse(f, 9);
    assert_int_equal(fake_take(c), 0x29);
    fake_free(f);
}

static void test_pic_spurious(void **state)
{
    struct fake *f = fake_new(1);
    struct bt_vcpu *c = fake_vcpu(f, 0);

    (void)state;
    pic_init(c, 1);
    fake_out(c, 0x4d0, 0xff);
    assert_int_equal(fake_in(c, 0x4d0), 0xf8); /* lines 0..2 are always edge */
    fake_out(c, 0x4d1, 0xff);
    assert_int_equal(fake_in(c, 0x4d1), 0xde);
    bt_irq_line(&f->vm, 5, true);
    bt_irq_line(&f->vm, 5, false); /* a level that went away before INTA */
    bt_lock(&f->vm.irqchip->lock);
    assert_int_equal(bt_pic_ack(f->vm.irqchip), 0x27);
    bt_unlock(&f->vm.irqchip->lock);
    fake_out(c, 0x20, 0x0b);
    assert_int_equal(fake_in(c, 0x20), 0); /* and is not in service */
    fake_free(f);
}

static void test_pic_level(void **state)
{
    struct fake *f = fake_new(1);
    struct bt_vcpu *c = fake_vcpu(f, 0);

    (void)state;
    pic_init(c, 1);
    fake_out(c, 0x4d1, 0x04); /* IRQ 10 */
    bt_irq_line(&f->vm, 10, true);
    assert_int_equal(fake_take(c), 0x2a);
    fake_out(c, 0xa0, 0x20);
    fake_out(c, 0x20, 0x20);
    assert_int_equal(fake_take(c), 0x2a); /* still asserted */
    bt_irq_line(&f->vm, 10, false);
    fake_out(c, 0xa0, 0x20);
    fake_out(c, 0x20, 0x20);
    assert_int_equal(fake_take(c), -1);
    bt_irq_line(&f->vm, 11, true); /* edge: once only */
    assert_int_equal(fake_take(c), 0x2b);
    fake_out(c, 0xa0, 0x20);
    fake_out(c, 0x20, 0x20);
    assert_int_equal(fake_take(c), -1);
    pic_init(c, 1); /* edge sense is reset, the line is high: nothing */
    assert_int_equal(fake_take(c), -1);
    fake_free(f);
}

static void test_pic_modes(void **state)
{
    struct fake *f = fake_new(1);
    struct bt_vcpu *c = fake_vcpu(f, 0);

    (void)state;
    pic_init(c, 3); /* automatic EOI */
    pulse(f, 3);
    assert_int_equal(fake_take(c), 0x23);
    fake_out(c, 0x20, 0x0b);
    assert_int_equal(fake_in(c, 0x20), 0);
    fake_out(c, 0x20, 0x80); /* rotate in automatic EOI */
    pulse(f, 3);
    pulse(f, 4);
    assert_int_equal(fake_take(c), 0x23);
    pulse(f, 3);
    assert_int_equal(fake_take(c), 0x24); /* 4 is first now */
    assert_int_equal(fake_take(c), 0x23);

    pic_init(c, 1);
    pulse(f, 5);
    assert_int_equal(fake_take(c), 0x25);
    fake_out(c, 0x20, 0xa0); /* rotate on non-specific EOI: 6 highest, 5 lowest */
    pulse(f, 0);
    pulse(f, 6);
    assert_int_equal(fake_take(c), 0x26);
    fake_out(c, 0x20, 0x20);
    assert_int_equal(fake_take(c), 0x20);
    fake_out(c, 0x20, 0x20);
    fake_out(c, 0x20, 0xc7); /* set priority: 7 lowest */
    pulse(f, 6);
    pulse(f, 0);
    assert_int_equal(fake_take(c), 0x20);
    /* Special mask: with its level masked, line 0 blocks no one */
    fake_out(c, 0x21, 0x01);
    assert_int_equal(fake_take(c), -1);
    fake_out(c, 0x20, 0x68);
    assert_int_equal(fake_take(c), 0x26);
    fake_out(c, 0x20, 0x20); /* non-specific EOI passes over the masked level */
    fake_out(c, 0x20, 0x0b);
    assert_int_equal(fake_in(c, 0x20), 0x01);
    fake_free(f);
}

static void test_pic_poll(void **state)
{
    struct fake *f = fake_new(1);
    struct bt_vcpu *c = fake_vcpu(f, 0);

    (void)state;
    pic_init(c, 1);
    fake_out(c, 0x20, 0x0c);
    assert_int_equal(fake_in(c, 0x20) & 0x80, 0);
    pulse(f, 6);
    fake_out(c, 0x20, 0x0c);
    assert_int_equal(fake_in(c, 0x20), 0x86);
    assert_int_equal(fake_take(c), -1); /* the poll was its acknowledge */
    fake_out(c, 0x20, 0x0b);
    assert_int_equal(fake_in(c, 0x20), 0x40);
    fake_free(f);
}

static void test_pic_wire(void **state)
{
    struct fake *f = fake_new(2);
    struct bt_vcpu *c = fake_vcpu(f, 0), *ap = fake_vcpu(f, 1);

    (void)state;
    pic_init(c, 1);
    fake_events(ap);
    pulse(f, 3);
    assert_int_equal(fake_events(ap), 0);
    fake_apic_write(c, 0x350, 0x10700); /* LINT0 masked */
    assert_int_equal(fake_take(c), -1);
    fake_events(c);
    fake_apic_on(c);
    fake_apic_write(c, 0x350, 0x700);
    assert_true(fake_events(c) & BT_EV_IRQ);
    assert_int_equal(fake_take(c), 0x23);
    fake_out(c, 0x20, 0x20);
    /* LINT0 as a fixed interrupt, and as NMI */
    fake_apic_write(c, 0x350, 0x55);
    pulse(f, 4);
    assert_int_equal(fake_take(c), 0x55);
    fake_apic_write(c, 0xb0, 0);
    bt_lock(&f->vm.irqchip->lock);
    assert_int_equal(bt_pic_ack(f->vm.irqchip), 0x24);
    bt_unlock(&f->vm.irqchip->lock);
    fake_out(c, 0x20, 0x20);
    fake_events(c);
    fake_apic_write(c, 0x350, 0x400);
    pulse(f, 4);
    assert_true(fake_events(c) & BT_EV_NMI);
    bt_lock(&f->vm.irqchip->lock);
    bt_pic_ack(f->vm.irqchip);
    bt_unlock(&f->vm.irqchip->lock);
    fake_out(c, 0x20, 0x20);
    /* LAPIC off: INTR goes to vCPU 0 directly */
    assert_true(fake_wrmsr(c, 0x1b, 0xfee00100));
    pulse(f, 4);
    assert_int_equal(fake_take(c), 0x24);
    fake_free(f);
}

static void test_pic_state(void **state)
{
    struct fake *f = fake_new(1), *g;
    struct kvm_irqchip m = { .chip_id = KVM_IRQCHIP_PIC_MASTER }, s = { .chip_id = KVM_IRQCHIP_PIC_SLAVE };

    (void)state;
    pic_init(fake_vcpu(f, 0), 1);
    pulse(f, 9);
    assert_int_equal(fake_take(fake_vcpu(f, 0)), 0x29);
    pulse(f, 8);
    pulse(f, 1);
    assert_int_equal(bt_irqchip_get(&f->vm, &m), 0);
    assert_int_equal(bt_irqchip_get(&f->vm, &s), 0);
    assert_int_equal(s.chip.pic.isr, 2);
    assert_int_equal(s.chip.pic.irr, 1);
    fake_free(f);
    g = fake_new(1);
    s.chip.pic.elcr = 0xff; /* hostile state is cut to what exists */
    s.chip.pic.priority_add = 8;
    assert_int_equal(bt_irqchip_set(&g->vm, &m), 0);
    assert_int_equal(bt_irqchip_set(&g->vm, &s), 0);
    assert_true(fake_events(fake_vcpu(g, 0)) & BT_EV_IRQ);
    assert_int_equal(fake_take(fake_vcpu(g, 0)), 0x21);
    fake_out(fake_vcpu(g, 0), 0x20, 0x20);
    fake_out(fake_vcpu(g, 0), 0x20, 0x20);
    assert_int_equal(fake_take(fake_vcpu(g, 0)), 0x28);
    fake_free(g);
}

/* ---- 8254 ---- */

#define PIT_HZ 1193182ULL

/* Let n PIT clocks pass, from a moment that is remembered so that rounding does not add up. */
static uint64_t pit_start;

static void pit_mark(void)
{
    pit_start = fake_tsc;
}

static void pit_at(struct fake *f, uint64_t ticks)
{
    uint64_t ns = ticks * 1000000000ULL / PIT_HZ + 100; /* a little behind the clock's edge */

    fake_wait(f, pit_start + ns - fake_tsc);
}

static bool pit_out2(struct bt_vcpu *c)
{
    return (fake_in(c, 0x61) & 0x20) != 0;
}

static unsigned pit_read16(struct bt_vcpu *c, unsigned ch)
{
    unsigned lo;

    fake_out(c, 0x43, (uint8_t)(ch << 6));
    lo = fake_in(c, (uint16_t)(0x40 + ch));
    return lo | (unsigned)fake_in(c, (uint16_t)(0x40 + ch)) << 8;
}

static void pit_program(struct bt_vcpu *c, unsigned ch, unsigned mode, unsigned count)
{
    fake_out(c, 0x43, (uint8_t)(ch << 6 | 0x30 | mode << 1));
    fake_out(c, (uint16_t)(0x40 + ch), (uint8_t)count);
    fake_out(c, (uint16_t)(0x40 + ch), (uint8_t)(count >> 8));
    pit_mark();
}

static void test_pit_mode0(void **state)
{
    struct fake *f = fake_new(1);
    struct bt_vcpu *c = fake_vcpu(f, 0);

    (void)state;
    fake_out(c, 0x61, 1); /* gate open */
    pit_program(c, 2, 0, 1000);
    assert_false(pit_out2(c));
    pit_at(f, 400);
    assert_int_equal(pit_read16(c, 2), 600);
    fake_out(c, 0x61, 0); /* gate closed: stands still */
    fake_wait(f, 5000000);
    assert_int_equal(pit_read16(c, 2), 600);
    assert_false(pit_out2(c));
    fake_out(c, 0x61, 1);
    pit_mark();
    pit_at(f, 599);
    assert_false(pit_out2(c));
    pit_at(f, 601);
    assert_true(pit_out2(c));
    pit_at(f, 610);
    assert_true(pit_read16(c, 2) >= 0xfff0); /* counts on below zero */
    fake_out(c, 0x42, 50);                   /* the first byte of a new count stops it and drops OUT */
    assert_false(pit_out2(c));
    fake_wait(f, 1000000);
    assert_false(pit_out2(c));
    fake_out(c, 0x42, 0);
    pit_mark();
    pit_at(f, 51);
    assert_true(pit_out2(c));
    fake_free(f);
}

static void test_pit_mode1(void **state)
{
    struct fake *f = fake_new(1);
    struct bt_vcpu *c = fake_vcpu(f, 0);

    (void)state;
    pit_program(c, 2, 1, 100);
    assert_true(pit_out2(c));
    fake_wait(f, 1000000);
    assert_true(pit_out2(c)); /* not triggered */
    fake_out(c, 0x61, 1);
    pit_mark();
    assert_false(pit_out2(c));
    pit_at(f, 90);
    fake_out(c, 0x61, 0); /* the gate's level does not matter, its edge starts over */
    fake_out(c, 0x61, 1);
    pit_mark();
    pit_at(f, 99);
    assert_false(pit_out2(c));
    pit_at(f, 101);
    assert_true(pit_out2(c));
    /* A new count is used by the next trigger only */
    fake_out(c, 0x61, 0);
    fake_out(c, 0x61, 1);
    pit_mark();
    fake_out(c, 0x42, 200);
    fake_out(c, 0x42, 0);
    pit_at(f, 101);
    assert_true(pit_out2(c));
    fake_out(c, 0x61, 0);
    fake_out(c, 0x61, 1);
    pit_mark();
    pit_at(f, 199);
    assert_false(pit_out2(c));
    pit_at(f, 201);
    assert_true(pit_out2(c));
    fake_free(f);
}

static void test_pit_mode2(void **state)
{
    struct fake *f = fake_new(1);
    struct bt_vcpu *c = fake_vcpu(f, 0);

    (void)state;
    fake_out(c, 0x61, 1);
    pit_program(c, 2, 2, 100);
    assert_true(pit_out2(c));
    pit_at(f, 98);
    assert_true(pit_out2(c));
    assert_int_equal(pit_read16(c, 2), 2);
    pit_at(f, 99); /* count 1: low for one clock */
    assert_int_equal(pit_read16(c, 2), 1);
    assert_false(pit_out2(c));
    pit_at(f, 100);
    assert_true(pit_out2(c));
    assert_int_equal(pit_read16(c, 2), 100);
    /* A new count waits for the end of the period */
    pit_at(f, 150);
    fake_out(c, 0x42, 10);
    fake_out(c, 0x42, 0);
    assert_int_equal(pit_read16(c, 2), 50);
    pit_at(f, 203);
    assert_int_equal(pit_read16(c, 2), 7);
    pit_at(f, 213);
    assert_int_equal(pit_read16(c, 2), 7);
    /* The gate reloads */
    fake_out(c, 0x61, 0);
    assert_true(pit_out2(c));
    fake_out(c, 0x61, 1);
    assert_int_equal(pit_read16(c, 2), 10);
    fake_free(f);
}

static void test_pit_mode3(void **state)
{
    struct fake *f = fake_new(1);
    struct bt_vcpu *c = fake_vcpu(f, 0);

    (void)state;
    fake_out(c, 0x61, 1);
    pit_program(c, 2, 3, 100);
    pit_at(f, 49);
    assert_true(pit_out2(c));
    assert_int_equal(pit_read16(c, 2), 2);
    pit_at(f, 50);
    assert_false(pit_out2(c));
    assert_int_equal(pit_read16(c, 2), 100);
    pit_at(f, 99);
    assert_false(pit_out2(c));
    pit_at(f, 100);
    assert_true(pit_out2(c));
    pit_program(c, 2, 7, 5); /* 7 is 3; odd: high for 3, low for 2 */
    for (unsigned i = 0; i < 20; i++) {
        pit_at(f, i);
        assert_int_equal(pit_out2(c), i % 5 < 3);
    }
    pit_program(c, 2, 3, 1); /* not legal; must be survived */
    fake_wait(f, 1000);
    pit_out2(c);
    pit_read16(c, 2);
    fake_free(f);
}

static void test_pit_mode45(void **state)
{
    struct fake *f = fake_new(1);
    struct bt_vcpu *c = fake_vcpu(f, 0);

    (void)state;
    fake_out(c, 0x61, 1);
    pit_program(c, 2, 4, 50);
    pit_at(f, 49);
    assert_true(pit_out2(c));
    pit_at(f, 50);
    assert_false(pit_out2(c));
    pit_at(f, 51);
    assert_true(pit_out2(c));
    fake_out(c, 0x61, 0);
    pit_program(c, 2, 5, 50);
    fake_wait(f, 1000000);
    assert_true(pit_out2(c));
    fake_out(c, 0x61, 1);
    pit_mark();
    pit_at(f, 50);
    assert_false(pit_out2(c));
    pit_at(f, 51);
    assert_true(pit_out2(c));
    fake_free(f);
}

static void test_pit_access(void **state)
{
    struct fake *f = fake_new(1);
    struct bt_vcpu *c = fake_vcpu(f, 0);

    (void)state;
    fake_out(c, 0x61, 1);
    /* Low byte only, high byte only */
    fake_out(c, 0x43, 0x94);
    fake_out(c, 0x42, 200);
    assert_int_equal(fake_in(c, 0x42), 200);
    assert_int_equal(fake_in(c, 0x42), 200);
    fake_out(c, 0x43, 0xa4);
    fake_out(c, 0x42, 2);
    assert_int_equal(fake_in(c, 0x42), 2);
    /* A latched count stays, a second latch command is ignored until it was read */
    pit_program(c, 2, 2, 1000);
    fake_out(c, 0x43, 0x80);
    pit_at(f, 300);
    fake_out(c, 0x43, 0x80);
    assert_int_equal(fake_in(c, 0x42) | fake_in(c, 0x42) << 8, 1000);
    assert_int_equal(pit_read16(c, 2), 700);
    /* Read-back of status and count: status first */
    fake_out(c, 0x43, 0xc8);
    assert_int_equal(fake_in(c, 0x42), 0xb4); /* OUT, both bytes, mode 2 */
    assert_int_equal(fake_in(c, 0x42) | fake_in(c, 0x42) << 8, 700);
    /* Null count from the control word until the count is written */
    fake_out(c, 0x43, 0xb0);
    fake_out(c, 0x43, 0xe8);
    assert_int_equal(fake_in(c, 0x42), 0x70);
    /* BCD */
    fake_out(c, 0x43, 0xb5);
    fake_out(c, 0x42, 0x00);
    fake_out(c, 0x42, 0x10);
    pit_mark();
    assert_int_equal(pit_read16(c, 2), 0x1000);
    pit_at(f, 1);
    assert_int_equal(pit_read16(c, 2), 0x999);
    fake_out(c, 0x43, 0xb1);
    fake_out(c, 0x42, 0); /* 0 is 10000 */
    fake_out(c, 0x42, 0);
    pit_mark();
    pit_at(f, 1);
    assert_int_equal(pit_read16(c, 2), 0x9999);
    assert_int_equal(fake_in(c, 0x43), 0xff);
    /* Port 0x61: speaker bit is kept, refresh toggles */
    fake_out(c, 0x61, 3);
    assert_int_equal(fake_in(c, 0x61) & 3, 3);
    {
        uint8_t a = fake_in(c, 0x61), b;

        fake_wait(f, 16384);
        b = fake_in(c, 0x61);
        assert_int_equal((a ^ b) & 0x10, 0x10);
    }
    fake_free(f);
}

static void test_pit_interrupts(void **state)
{
    struct fake *f = fake_new(1);
    struct bt_vcpu *c = fake_vcpu(f, 0);
    unsigned n;

    (void)state;
    pic_init(c, 3);
    pit_program(c, 0, 2, 11932); /* 100 Hz */
    for (unsigned i = 1; i <= 5; i++) {
        pit_at(f, i * 11932 - 1);
        assert_int_equal(fake_take(c), -1);
        pit_at(f, i * 11932);
        assert_int_equal(fake_take(c), 0x20);
        assert_int_equal(fake_take(c), -1);
    }
    /* The host stalled for 10 periods: all come, one after the other */
    pit_at(f, 15 * 11932);
    for (n = 0; fake_take(c) == 0x20; n++)
        ;
    assert_int_equal(n, 10);
    /* The VM was stopped for an hour: not all come */
    fake_wait(f, 3600000000000ULL);
    for (n = 0; fake_take(c) == 0x20; n++)
        ;
    assert_true(n >= 1 && n <= 64);
    /* Masked everywhere: none is kept */
    fake_out(c, 0x21, 1);
    fake_wait(f, 100000000);
    fake_take(c);
    fake_out(c, 0x21, 0);
    for (n = 0; fake_take(c) == 0x20; n++)
        ;
    assert_true(n <= 1);
    /* One-shot, mode 0 and 4: once */
    for (unsigned mode = 0; mode <= 4; mode += 4) {
        pit_program(c, 0, mode, 1000);
        fake_take(c);
        pit_at(f, 1002);
        assert_int_equal(fake_take(c), 0x20);
        fake_wait(f, 200000000);
        assert_int_equal(fake_take(c), -1);
        assert_true(bt_timer_next(c) == UINT64_MAX);
    }
    fake_free(f);
}

/* A count of 1 ticks a million times a second: counted, but not all looked at. */
static void test_pit_fastest(void **state)
{
    struct fake *f = fake_new(1);
    struct bt_vcpu *c = fake_vcpu(f, 0);

    (void)state;
    pic_init(c, 3);
    pit_program(c, 0, 2, 1);
    assert_true(bt_timer_next(c) >= fake_mono + 10000);
    fake_wait(f, 100000);
    assert_int_equal(fake_take(c), 0x20);
    assert_int_equal(fake_take(c), 0x20);
    fake_free(f);
}

/* Guests run the timer through the IOAPIC too. */
static void test_pit_ioapic(void **state)
{
    struct fake *f = fake_new(1);
    struct bt_vcpu *c = fake_vcpu(f, 0);
    unsigned n = 0;

    (void)state;
    fake_apic_on(c);
    fake_io_redir(c, 2, 0x30);
    fake_out(c, 0x21, 0xff);
    pit_program(c, 0, 3, 1193);
    pit_at(f, 8 * 1193);
    for (int v = fake_take(c); v >= 0; v = fake_take(c)) {
        assert_int_equal(v, 0x30);
        fake_apic_write(c, 0xb0, 0);
        n++;
    }
    assert_int_equal(n, 8);
    fake_free(f);
}

static void test_pit_state(void **state)
{
    struct fake *f = fake_new(1), *g;
    struct bt_vcpu *c = fake_vcpu(f, 0);
    struct kvm_pit_state2 s, again;
    uint64_t tsc;

    (void)state;
    fake_out(c, 0x61, 3);
    pit_program(c, 0, 2, 10000);
    pit_program(c, 2, 0, 50000);
    fake_out(c, 0x43, 0x76); /* channel 1: both bytes, one written */
    fake_out(c, 0x41, 0x34);
    pit_at(f, 12500);
    assert_int_equal(bt_pit_get(&f->vm, &s), 0);
    assert_int_equal(s.channels[0].count, 10000);
    assert_int_equal(s.channels[1].write_state, 4);
    assert_int_equal(s.channels[1].write_latch, 0x34);
    assert_int_equal(s.flags, KVM_PIT_FLAGS_SPEAKER_DATA_ON);
    tsc = fake_tsc;
    fake_free(f);
    g = fake_new(1);
    c = fake_vcpu(g, 0);
    fake_tsc = tsc + 777777;
    assert_true(chip_now(g->vm.irqchip) > 50000000); /* older counts than this VM have a time as well */
    assert_int_equal(bt_pit_set(&g->vm, &s), 0);
    assert_in_range(pit_read16(c, 0), 7499, 7501);
    assert_in_range(pit_read16(c, 2), 37499, 37501);
    assert_int_equal(fake_in(c, 0x61) & 0x23, 3);
    assert_int_equal(bt_pit_get(&g->vm, &again), 0);
    assert_in_range(again.channels[0].count_load_time - s.channels[0].count_load_time + 1000, 0, 2000);
    pic_init(c, 3);
    pit_mark();
    pit_at(g, 7490);
    assert_int_equal(fake_take(c), -1);
    pit_at(g, 7502);
    assert_int_equal(fake_take(c), 0x20);
    memset(&s, 0xff, sizeof(s)); /* hostile */
    for (unsigned i = 0; i < 3; i++)
        s.channels[i].count_load_time = INT64_MIN;
    assert_int_equal(bt_pit_set(&g->vm, &s), 0);
    fake_wait(g, 1000000000);
    for (unsigned i = 0; i < 3; i++)
        pit_read16(c, i);
    fake_free(g);
}

/* Ports of others stay theirs, wide accesses reach ours byte by byte. */
static void test_ports(void **state)
{
    struct fake *f = fake_new(1);
    struct bt_vcpu *c = fake_vcpu(f, 0);
    uint8_t b[4] = { 0x11, 0x55, 0, 0 };

    (void)state;
    assert_false(bt_irqchip_pio(c, 0x22, b, 1, false));
    assert_false(bt_irqchip_pio(c, 0x60, b, 1, false));
    assert_false(bt_irqchip_pio(c, 0xcf8, b, 4, true));
    assert_true(bt_irqchip_pio(c, 0x20, b, 2, true)); /* ICW1 and ICW2 at once */
    assert_int_equal(f->vm.irqchip->pic[0].irq_base, 0x50);
    fake_out(c, 0x21, 4);
    fake_out(c, 0x21, 1);
    fake_out(c, 0x21, 0x77);
    memset(b, 0, sizeof(b));
    assert_true(bt_irqchip_pio(c, 0x21, b, 4, false));
    assert_int_equal(b[0], 0x77);
    assert_int_equal(b[1], 0xff);
    fake_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pic_basics),  cmocka_unit_test(test_pic_cascade), cmocka_unit_test(test_pic_spurious),
        cmocka_unit_test(test_pic_level),   cmocka_unit_test(test_pic_modes),   cmocka_unit_test(test_pic_poll),
        cmocka_unit_test(test_pic_wire),    cmocka_unit_test(test_pic_state),   cmocka_unit_test(test_pit_mode0),
        cmocka_unit_test(test_pit_mode1),   cmocka_unit_test(test_pit_mode2),   cmocka_unit_test(test_pit_mode3),
        cmocka_unit_test(test_pit_mode45),  cmocka_unit_test(test_pit_access),  cmocka_unit_test(test_pit_interrupts),
        cmocka_unit_test(test_pit_fastest), cmocka_unit_test(test_pit_ioapic),  cmocka_unit_test(test_pit_state),
        cmocka_unit_test(test_ports),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
