/* Local APIC and IOAPIC of the translation engine: registers, priorities, messages, timer, state. */
#include "bt_irqchip_fake.h"

#include <errno.h>
#include <string.h>

static void test_reset_values(void **state)
{
    struct fake *f = fake_new(3);
    struct bt_vcpu *c = fake_vcpu(f, 2);

    (void)state;
    assert_int_equal(bt_lapic_base(fake_vcpu(f, 0)), 0xfee00900);
    assert_int_equal(bt_lapic_base(c), 0xfee00800);
    assert_int_equal(fake_apic_read(c, 0x20), 2U << 24);
    assert_int_equal(fake_apic_read(c, 0x30), 0x50014);
    assert_int_equal(fake_apic_read(c, 0xe0), 0xffffffff);
    assert_int_equal(fake_apic_read(c, 0xf0), 0xff);
    for (unsigned off = 0x320; off <= 0x370; off += 0x10)
        assert_int_equal(fake_apic_read(c, off), 0x10000);
    assert_int_equal(fake_apic_read(fake_vcpu(f, 0), 0x350), 0x700);
    fake_free(f);
}

static void test_register_masks(void **state)
{
    struct fake *f = fake_new(1);
    struct bt_vcpu *c = fake_vcpu(f, 0);
    static const struct {
        unsigned off;
        uint32_t expect;
    } regs[] = {
        { 0x80, 0xff },        { 0xd0, 0xff000000 },  { 0xe0, 0xffffffff }, { 0xf0, 0x3ff },
        { 0x310, 0xff000000 }, { 0x320, 0x000700ff }, { 0x330, 0x107ff },   { 0x340, 0x107ff },
        { 0x350, 0x1a7ff },    { 0x360, 0x1a7ff },    { 0x370, 0x100ff },   { 0x3e0, 0xb },
    };

    (void)state;
    fake_apic_on(c);
    for (unsigned i = 0; i < ARRAY_SIZE(regs); i++) {
        fake_apic_write(c, regs[i].off, 0xffffffff);
        assert_int_equal(fake_apic_read(c, regs[i].off), regs[i].expect);
    }
    fake_apic_write(c, 0xe0, 0x0fffffff);
    assert_int_equal(fake_apic_read(c, 0xe0), 0x0fffffff);
    fake_apic_write(c, 0x20, 0x07000000); /* read-only */
    assert_int_equal(fake_apic_read(c, 0x20), 0);
    fake_free(f);
}

static void test_software_disable(void **state)
{
    struct fake *f = fake_new(1);
    struct bt_vcpu *c = fake_vcpu(f, 0);

    (void)state;
    fake_apic_write(c, 0x330, 0x40); /* still disabled: the mask bit cannot be cleared */
    assert_int_equal(fake_apic_read(c, 0x330), 0x10040);
    bt_irq_msi(&f->vm, 0xfee00000, 0x50);
    assert_int_equal(fake_take(c), -1);
    fake_apic_on(c);
    fake_apic_write(c, 0x330, 0x40);
    assert_int_equal(fake_apic_read(c, 0x330), 0x40);
    fake_apic_write(c, 0xf0, 0xff);
    assert_int_equal(fake_apic_read(c, 0x330), 0x10040);
    fake_free(f);
}

static void test_access_sizes(void **state)
{
    struct fake *f = fake_new(1);
    struct bt_vcpu *c = fake_vcpu(f, 0);
    uint8_t bytes[8] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

    (void)state;
    assert_true(bt_irqchip_mmio(c, FAKE_APIC + 0x32, bytes, 1, false)); /* byte 2 of the version */
    assert_int_equal(bytes[0], 5);
    assert_true(bt_irqchip_mmio(c, FAKE_APIC + 0x30, bytes, 8, false));
    assert_int_equal(load_le64(bytes), 0x50014);
    bytes[0] = 0x20;
    assert_true(bt_irqchip_mmio(c, FAKE_APIC + 0x80, bytes, 1, true)); /* byte writes do nothing */
    assert_int_equal(fake_apic_read(c, 0x80), 0);
    assert_true(bt_irqchip_mmio(c, FAKE_APIC + 0xffe, bytes, 8, false)); /* at the very end of the page */
    assert_false(bt_irqchip_mmio(c, FAKE_APIC + 0x1000, bytes, 4, false));
    assert_false(bt_irqchip_mmio(c, 0xfed00000, bytes, 4, false));
    fake_free(f);
}

static void test_priorities(void **state)
{
    struct fake *f = fake_new(1);
    struct bt_vcpu *c = fake_vcpu(f, 0);

    (void)state;
    fake_apic_on(c);
    bt_irq_msi(&f->vm, 0xfee00000, 0x51);
    bt_irq_msi(&f->vm, 0xfee00000, 0x5f);
    bt_irq_msi(&f->vm, 0xfee00000, 0x80);
    assert_true(fake_events(c) & BT_EV_IRQ);
    assert_int_equal(fake_apic_read(c, 0x240), 1); /* IRR 128..159 */
    assert_int_equal(fake_take(c), 0x80);
    assert_int_equal(fake_apic_read(c, 0x140), 1);
    assert_int_equal(fake_apic_read(c, 0xa0), 0x80);
    assert_int_equal(fake_take(c), -1); /* 0x5f is below 0x80 in service */
    fake_events(c);
    fake_apic_write(c, 0xb0, 0);
    assert_true(fake_events(c) & BT_EV_IRQ);
    assert_int_equal(fake_take(c), 0x5f);
    assert_int_equal(fake_take(c), -1); /* 0x51: same class */
    bt_irq_msi(&f->vm, 0xfee00000, 0x60);
    assert_int_equal(fake_take(c), 0x60); /* nests */
    fake_apic_write(c, 0xb0, 0);
    assert_int_equal(fake_take(c), -1);
    fake_apic_write(c, 0xb0, 0);
    bt_cr8_write(c, 5);
    assert_int_equal(fake_apic_read(c, 0x80), 0x50);
    assert_int_equal(fake_take(c), -1); /* class 5 not above TPR 5 */
    fake_events(c);
    bt_cr8_write(c, 4);
    assert_int_equal(bt_cr8_read(c), 4);
    assert_true(fake_events(c) & BT_EV_IRQ);
    assert_int_equal(fake_take(c), 0x51);
    fake_apic_write(c, 0x80, 0x53); /* PPR takes the sub-class of TPR when that is at least as high */
    assert_int_equal(fake_apic_read(c, 0xa0), 0x53);
    fake_free(f);
}

static void test_esr(void **state)
{
    struct fake *f = fake_new(1);
    struct bt_vcpu *c = fake_vcpu(f, 0);

    (void)state;
    fake_apic_on(c);
    fake_apic_write(c, 0x370, 0x44);
    fake_apic_write(c, 0x300, 0x40000 | 0x0f);     /* self, vector 15 */
    assert_int_equal(fake_apic_read(c, 0x280), 0); /* not before a write */
    fake_apic_write(c, 0x280, 0);
    assert_int_equal(fake_apic_read(c, 0x280), 0x20);
    assert_int_equal(fake_take(c), 0x44);
    fake_apic_write(c, 0xb0, 0);
    bt_irq_msi(&f->vm, 0xfee00000, 0x07);
    fake_apic_read(c, 0x000);
    fake_apic_write(c, 0x280, 0);
    assert_int_equal(fake_apic_read(c, 0x280), 0x40 | 0x80);
    fake_apic_write(c, 0x280, 0);
    assert_int_equal(fake_apic_read(c, 0x280), 0);
    fake_free(f);
}

static void test_ipi_shorthands(void **state)
{
    struct fake *f = fake_new(64);
    struct bt_vcpu *c = fake_vcpu(f, 5);

    (void)state;
    for (unsigned i = 0; i < 64; i++)
        fake_apic_on(fake_vcpu(f, i));
    fake_apic_write(c, 0x300, 0x40000 | 0x71); /* self */
    assert_int_equal(fake_take(c), 0x71);
    fake_apic_write(c, 0xb0, 0);
    fake_apic_write(c, 0x300, 0x80000 | 0x72); /* all */
    for (unsigned i = 0; i < 64; i++)
        assert_int_equal(fake_take(fake_vcpu(f, i)), 0x72);
    fake_apic_write(c, 0x300, 0xc0000 | 0x82); /* all but self */
    for (unsigned i = 0; i < 64; i++)
        assert_int_equal(fake_take(fake_vcpu(f, i)), i == 5 ? -1 : 0x82);
    fake_apic_write(c, 0x310, 0xff000000); /* broadcast by address */
    fake_apic_write(c, 0x300, 0x4000 | 0x92);
    for (unsigned i = 0; i < 64; i++)
        assert_int_equal(fake_take(fake_vcpu(f, i)), 0x92);
    fake_apic_write(c, 0x310, 63U << 24);
    fake_apic_write(c, 0x300, 0x4000 | 0xa2);
    for (unsigned i = 0; i < 64; i++)
        assert_int_equal(fake_take(fake_vcpu(f, i)), i == 63 ? 0xa2 : -1);
    fake_apic_write(c, 0x310, 64U << 24); /* nobody */
    fake_apic_write(c, 0x300, 0x4000 | 0xb2);
    assert_int_equal(fake_apic_read(c, 0x300) & 0x1000, 0); /* never busy */
    fake_free(f);
}

static void test_init_sipi_nmi(void **state)
{
    struct fake *f = fake_new(3);
    struct bt_vcpu *c = fake_vcpu(f, 0);

    (void)state;
    fake_events(fake_vcpu(f, 1));
    fake_apic_write(c, 0x310, 1U << 24);
    fake_apic_write(c, 0x300, 0xc500); /* INIT assert, level */
    assert_int_equal(fake_events(fake_vcpu(f, 1)), BT_EV_INIT);
    fake_apic_write(c, 0x300, 0x8500); /* deassert */
    assert_int_equal(fake_events(fake_vcpu(f, 1)), 0);
    fake_apic_write(c, 0x300, 0x4600 | 0x9a);
    assert_int_equal(fake_events(fake_vcpu(f, 1)), BT_EV_SIPI);
    assert_int_equal(fake_vcpu(f, 1)->sipi_vector, 0x9a);
    fake_apic_write(c, 0x300, 0x4600 | 0x9a);
    fake_apic_write(c, 0x300, 0x4500); /* INIT drops the SIPI before it */
    assert_int_equal(fake_events(fake_vcpu(f, 1)), BT_EV_INIT);
    fake_apic_write(c, 0x300, 0xc0000 | 0x4400); /* NMI to all others */
    assert_int_equal(fake_events(c), 0);
    assert_int_equal(fake_events(fake_vcpu(f, 1)), BT_EV_NMI);
    assert_int_equal(fake_events(fake_vcpu(f, 2)), BT_EV_NMI);
    fake_apic_write(c, 0x300, 0x4200); /* SMI: ignored */
    assert_int_equal(fake_events(fake_vcpu(f, 1)), 0);
    fake_free(f);
}

static void test_logical_destinations(void **state)
{
    struct fake *f = fake_new(4);
    static const uint8_t flat[4] = { 1, 2, 4, 0x81 }, cluster[4] = { 0x11, 0x12, 0x21, 0x28 };

    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        fake_apic_on(fake_vcpu(f, i));
        fake_apic_write(fake_vcpu(f, i), 0xd0, (uint32_t)flat[i] << 24);
    }
    bt_irq_msi(&f->vm, 0xfee00000 | 0x05 << 12 | 4, 0x40);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(fake_take(fake_vcpu(f, i)), (flat[i] & 5) ? 0x40 : -1);
    for (unsigned i = 0; i < 4; i++) {
        fake_apic_write(fake_vcpu(f, i), 0xb0, 0);
        fake_apic_write(fake_vcpu(f, i), 0xe0, 0);
        fake_apic_write(fake_vcpu(f, i), 0xd0, (uint32_t)cluster[i] << 24);
    }
    fake_apic_write(fake_vcpu(f, 0), 0x310, 0x2f000000);
    fake_apic_write(fake_vcpu(f, 0), 0x300, 0x4800 | 0x41);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(fake_take(fake_vcpu(f, i)), i >= 2 ? 0x41 : -1);
    fake_free(f);
}

static void test_lowest_priority(void **state)
{
    struct fake *f = fake_new(4);
    unsigned got[4] = { 0 };

    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        fake_apic_on(fake_vcpu(f, i));
        fake_apic_write(fake_vcpu(f, i), 0xd0, 1U << (24 + i));
    }
    fake_apic_write(fake_vcpu(f, 1), 0x80, 0x30);
    for (unsigned n = 0; n < 30; n++) {
        bt_irq_msi(&f->vm, 0xfee00000 | 0x0f << 12 | 0xc, 0x40); /* redirection hint */
        for (unsigned i = 0; i < 4; i++) {
            if (fake_take(fake_vcpu(f, i)) == 0x40) {
                got[i]++;
                fake_apic_write(fake_vcpu(f, i), 0xb0, 0);
            }
        }
    }
    /* The busier vCPU 1 gets none, the others share. */
    assert_int_equal(got[0], 10);
    assert_int_equal(got[1], 0);
    assert_int_equal(got[2], 10);
    assert_int_equal(got[3], 10);
    /* Not to those that are off. */
    fake_apic_write(fake_vcpu(f, 0), 0xf0, 0xff);
    bt_irq_msi(&f->vm, 0xfee00000 | 0x01 << 12 | 4, 0x140);
    assert_int_equal(fake_take(fake_vcpu(f, 0)), -1);
    fake_free(f);
}

static void test_base_transitions(void **state)
{
    struct fake *f = fake_new(1);
    struct bt_vcpu *c = fake_vcpu(f, 0);
    uint32_t v;

    (void)state;
    assert_false(fake_wrmsr(c, 0x1b, 0xfee00500));              /* EXTD without EN */
    assert_false(fake_wrmsr(c, 0x1b, 0xfee00901));              /* reserved */
    assert_false(fake_wrmsr(c, 0x1b, 1ULL << 50 | 0xfee00900)); /* beyond the address width */
    fake_x2apic = false;
    assert_false(fake_wrmsr(c, 0x1b, 0xfee00d00));
    fake_x2apic = true;
    assert_true(fake_wrmsr(c, 0x1b, 0xfee00100)); /* off */
    assert_false(bt_irqchip_mmio(c, FAKE_APIC + 0x30, &v, 4, false));
    assert_false(fake_wrmsr(c, 0x1b, 0xfee00d00)); /* off -> x2APIC */
    assert_true(fake_wrmsr(c, 0x1b, 0xfee00900));
    assert_true(fake_wrmsr(c, 0x1b, 0xfee00d00));
    assert_false(bt_irqchip_mmio(c, FAKE_APIC + 0x30, &v, 4, false));
    assert_false(fake_wrmsr(c, 0x1b, 0xfee00900)); /* x2APIC -> xAPIC */
    assert_true(fake_wrmsr(c, 0x1b, 0xfee00100));
    assert_true(fake_wrmsr(c, 0x1b, 0xfed40900)); /* relocated */
    assert_true(bt_irqchip_mmio(c, 0xfed40030, &v, 4, false));
    assert_int_equal(v, 0x50014);
    assert_false(bt_irqchip_mmio(c, FAKE_APIC + 0x30, &v, 4, false));
    fake_free(f);
}

static void test_x2apic(void **state)
{
    struct fake *f = fake_new(40);
    struct bt_vcpu *c = fake_vcpu(f, 37);
    uint64_t v;

    (void)state;
    assert_false(bt_lapic_msr_read(c, 0x802, &v)); /* not in xAPIC mode */
    for (unsigned i = 0; i < 40; i++)
        fake_x2_on(fake_vcpu(f, i));
    assert_int_equal(fake_rdmsr(c, 0x802), 37);
    assert_int_equal(fake_rdmsr(c, 0x80d), 0x00020020);
    /* Not there, or not readable */
    static const uint32_t unreadable[] = { 0x800, 0x801, 0x804, 0x809, 0x80b, 0x80c, 0x80e, 0x829,
                                           0x82f, 0x831, 0x83a, 0x83d, 0x83f, 0x840, 0x8ff };
    for (unsigned i = 0; i < ARRAY_SIZE(unreadable); i++)
        assert_false(bt_lapic_msr_read(c, unreadable[i], &v));
    static const uint32_t unwritable[] = {
        0x802, 0x803, 0x80a, 0x80d, 0x80e, 0x810, 0x820, 0x82f, 0x831, 0x839, 0x840
    };
    for (unsigned i = 0; i < ARRAY_SIZE(unwritable); i++)
        assert_false(fake_wrmsr(c, unwritable[i], 0));
    /* Reserved bits */
    assert_false(fake_wrmsr(c, 0x808, 0x100));
    assert_false(fake_wrmsr(c, 0x80b, 1));
    assert_false(fake_wrmsr(c, 0x828, 1));
    assert_false(fake_wrmsr(c, 0x80f, 0x1000)); /* EOI-broadcast suppression is not offered */
    assert_false(fake_wrmsr(c, 0x838, 1ULL << 32));
    assert_false(fake_wrmsr(c, 0x83e, 4));
    assert_false(fake_wrmsr(c, 0x83f, 0x100));
    assert_false(fake_wrmsr(c, 0x830, 1U << 20));
    assert_false(fake_wrmsr(c, 0x832, 1U << 20));
    assert_true(fake_wrmsr(c, 0x808, 0x10));
    assert_int_equal(bt_cr8_read(c), 1);
    /* IPIs */
    assert_true(fake_wrmsr(c, 0x83f, 0x55));
    assert_int_equal(fake_take(c), 0x55);
    assert_true(fake_wrmsr(c, 0x80b, 0));
    assert_true(fake_wrmsr(c, 0x830, 3ULL << 32 | 0x4077));
    assert_int_equal(fake_rdmsr(c, 0x830), 3ULL << 32 | 0x4077);
    assert_int_equal(fake_take(fake_vcpu(f, 3)), 0x77);
    assert_true(fake_wrmsr(c, 0x830, 0x00020021ULL << 32 | 0x4878)); /* cluster 2, members 0 and 5 */
    for (unsigned i = 0; i < 40; i++)
        assert_int_equal(fake_take(fake_vcpu(f, i)), i == 32 || i == 37 ? 0x78 : -1);
    assert_true(fake_wrmsr(c, 0x830, 0xffffffffULL << 32 | 0x4099));
    for (unsigned i = 0; i < 40; i++)
        assert_int_equal(fake_take(fake_vcpu(f, i)), 0x99);
    assert_true(fake_wrmsr(c, 0x830, 0xffULL << 32 | 0x40a9)); /* 0xff is no broadcast here */
    assert_int_equal(fake_take(fake_vcpu(f, 0)), -1);
    bt_irq_msi(&f->vm, 0xfeeff000, 0xa9); /* but it is in an MSI */
    assert_int_equal(fake_take(fake_vcpu(f, 0)), 0xa9);
    /* INIT keeps mode and id */
    bt_lapic_reset(c, true);
    assert_int_equal(fake_rdmsr(c, 0x802), 37);
    assert_int_equal(fake_rdmsr(c, 0x80f), 0xff);
    assert_int_equal(bt_lapic_base(c) & 0xc00, 0xc00);
    fake_free(f);
}

static void test_timer_oneshot(void **state)
{
    struct fake *f = fake_new(1);
    struct bt_vcpu *c = fake_vcpu(f, 0);

    (void)state;
    fake_apic_on(c);
    fake_apic_write(c, 0x320, 0x60);
    fake_apic_write(c, 0x3e0, 0x3); /* by 16 */
    assert_true(bt_timer_next(c) == UINT64_MAX);
    fake_apic_write(c, 0x380, 1000);
    assert_int_equal(fake_apic_read(c, 0x390), 1000);
    assert_true(bt_timer_next(c) == fake_mono + 16000);
    fake_wait(f, 8000);
    assert_int_equal(fake_apic_read(c, 0x390), 500);
    fake_apic_write(c, 0x3e0, 0xb); /* by 1: the other 500 go faster */
    assert_int_equal(fake_apic_read(c, 0x390), 500);
    fake_wait(f, 499);
    assert_int_equal(fake_take(c), -1);
    assert_int_equal(fake_apic_read(c, 0x390), 1);
    fake_wait(f, 1);
    assert_int_equal(fake_take(c), 0x60);
    fake_apic_write(c, 0xb0, 0);
    assert_int_equal(fake_apic_read(c, 0x390), 0);
    fake_wait(f, 100000);
    assert_int_equal(fake_take(c), -1);
    fake_apic_write(c, 0x320, 0x10060); /* masked: expires unheard */
    fake_apic_write(c, 0x380, 10);
    fake_wait(f, 20);
    assert_int_equal(fake_take(c), -1);
    fake_apic_write(c, 0x320, 0x60);
    fake_apic_write(c, 0x380, 10);
    fake_apic_write(c, 0x380, 0); /* stops */
    fake_wait(f, 20);
    assert_int_equal(fake_take(c), -1);
    fake_free(f);
}

static void test_timer_periodic(void **state)
{
    struct fake *f = fake_new(1);
    struct bt_vcpu *c = fake_vcpu(f, 0);

    (void)state;
    fake_apic_on(c);
    fake_apic_write(c, 0x320, 0x20060);
    fake_apic_write(c, 0x3e0, 0xb);
    fake_apic_write(c, 0x380, 1000000);
    for (unsigned i = 0; i < 5; i++) {
        fake_wait(f, 999999);
        assert_int_equal(fake_take(c), -1);
        fake_wait(f, 1);
        assert_int_equal(fake_take(c), 0x60);
        fake_apic_write(c, 0xb0, 0);
        assert_int_equal(fake_apic_read(c, 0x390), 1000000);
    }
    fake_wait(f, 3500000); /* three are missed, one comes; the phase stays */
    assert_int_equal(fake_take(c), 0x60);
    fake_apic_write(c, 0xb0, 0);
    assert_int_equal(fake_take(c), -1);
    assert_int_equal(fake_apic_read(c, 0x390), 500000);
    fake_apic_write(c, 0x380, 1); /* absurdly short: bounded, and it still ticks */
    fake_wait(f, 1);
    assert_int_equal(fake_take(c), 0x60);
    assert_true(bt_timer_next(c) >= fake_mono + 10000);
    fake_free(f);
}

static void test_timer_deadline(void **state)
{
    struct fake *f = fake_new(1);
    struct bt_vcpu *c = fake_vcpu(f, 0);
    uint64_t now = fake_tsc + c->tsc_offset;
    unsigned wakes;

    (void)state;
    fake_apic_on(c);
    assert_true(fake_wrmsr(c, 0x6e0, now + 100)); /* not in that mode: ignored */
    assert_int_equal(fake_rdmsr(c, 0x6e0), 0);
    fake_apic_write(c, 0x320, 0x40061);
    assert_true(fake_wrmsr(c, 0x6e0, now + 1000));
    assert_int_equal(fake_rdmsr(c, 0x6e0), now + 1000);
    assert_int_equal(fake_apic_read(c, 0x390), 0);
    fake_apic_write(c, 0x380, 55); /* no effect in this mode */
    assert_int_equal(fake_apic_read(c, 0x380), 0);
    fake_wait(f, 999);
    assert_int_equal(fake_take(c), -1);
    fake_wait(f, 2);
    assert_int_equal(fake_take(c), 0x61);
    assert_int_equal(fake_rdmsr(c, 0x6e0), 0);
    fake_apic_write(c, 0xb0, 0);
    /* In the past: at once, and without help from outside */
    fake_events(c);
    wakes = fake_ticker_wakes;
    assert_true(fake_wrmsr(c, 0x6e0, 1));
    assert_true(atomic_load(&c->events) & BT_EV_TIMER);
    assert_int_equal(fake_ticker_wakes, wakes);
    assert_int_equal(fake_take(c), 0x61);
    fake_apic_write(c, 0xb0, 0);
    assert_true(fake_wrmsr(c, 0x6e0, UINT64_MAX));
    fake_wait(f, 1000000);
    assert_int_equal(fake_take(c), -1);
    /* Zero disarms, and so does leaving the mode */
    assert_true(fake_wrmsr(c, 0x6e0, fake_tsc + c->tsc_offset + 10));
    assert_true(fake_wrmsr(c, 0x6e0, 0));
    assert_true(bt_timer_next(c) == UINT64_MAX);
    assert_true(fake_wrmsr(c, 0x6e0, fake_tsc + c->tsc_offset + 10));
    fake_apic_write(c, 0x320, 0x61);
    assert_true(bt_timer_next(c) == UINT64_MAX);
    assert_int_equal(fake_rdmsr(c, 0x6e0), 0);
    fake_free(f);
}

/* Re-arming to a later time must not wake the ticker; to an earlier one it must. */
static void test_timer_lazy(void **state)
{
    struct fake *f = fake_new(1);
    struct bt_vcpu *c = fake_vcpu(f, 0);
    uint64_t now = fake_tsc + c->tsc_offset;
    unsigned wakes;

    (void)state;
    fake_apic_on(c);
    fake_apic_write(c, 0x320, 0x40061);
    assert_true(fake_wrmsr(c, 0x6e0, now + 1000000));
    assert_int_equal(fake_ticker_wakes, 1);
    atomic_store(&f->vm.irqchip->armed_ns, atomic_load(&c->lapic->next_ns)); /* as the ticker does */
    wakes = fake_ticker_wakes;
    assert_true(fake_wrmsr(c, 0x6e0, now + 2000000));
    assert_true(fake_wrmsr(c, 0x6e0, now + 1500000));
    assert_int_equal(fake_ticker_wakes, wakes);
    assert_true(fake_wrmsr(c, 0x6e0, now + 900000));
    assert_int_equal(fake_ticker_wakes, wakes + 1);
    /* The guest's TSC jumps: the expiry moves with it. */
    c->tsc_offset += 500000;
    bt_pv_tsc_changed(c);
    assert_true(bt_timer_next(c) - fake_mono <= 400001);
    fake_free(f);
}

static void test_ioapic_registers(void **state)
{
    struct fake *f = fake_new(1);
    struct bt_vcpu *c = fake_vcpu(f, 0);

    (void)state;
    assert_int_equal(fake_io_read(c, 1), 0x170011);
    fake_io_write(c, 0, 0xffffffff);
    assert_int_equal(fake_io_read(c, 0), 0x0f000000);
    assert_int_equal(fake_io_read(c, 2), 0x0f000000);
    assert_int_equal(fake_io_read(c, 0x10), 0x10000);
    fake_io_write(c, 0x10, 0xffffffff);
    assert_int_equal(fake_io_read(c, 0x10), 0x1afff); /* status and remote IRR are read-only */
    fake_io_write(c, 0x3f, 0xff000000);
    assert_int_equal(fake_io_read(c, 0x3f), 0xff000000);
    fake_io_write(c, 0x40, 0xffffffff);
    assert_int_equal(fake_io_read(c, 0x40), 0);
    fake_free(f);
}

static void test_ioapic_edge(void **state)
{
    struct fake *f = fake_new(2);
    struct bt_vcpu *c = fake_vcpu(f, 1);

    (void)state;
    fake_apic_on(c);
    fake_io_redir(c, 4, 1ULL << 56 | 0x34);
    bt_irq_line(&f->vm, 4, true);
    assert_int_equal(fake_take(c), 0x34);
    bt_irq_line(&f->vm, 4, true); /* no new edge */
    fake_apic_write(c, 0xb0, 0);
    assert_int_equal(fake_take(c), -1);
    bt_irq_line(&f->vm, 4, false);
    bt_irq_line(&f->vm, 4, true);
    assert_int_equal(fake_take(c), 0x34);
    fake_apic_write(c, 0xb0, 0);
    fake_io_redir(c, 4, 1ULL << 56 | 0x10034);
    bt_irq_line(&f->vm, 4, false);
    bt_irq_line(&f->vm, 4, true); /* masked: lost */
    fake_io_redir(c, 4, 1ULL << 56 | 0x34);
    assert_int_equal(fake_take(c), -1);
    /* The timer's line is pin 2, GSI 2 is none */
    fake_io_redir(c, 2, 1ULL << 56 | 0x35);
    bt_irq_line(&f->vm, 2, true);
    assert_int_equal(fake_take(c), -1);
    bt_irq_line(&f->vm, 0, true);
    assert_int_equal(fake_take(c), 0x35);
    bt_irq_line(&f->vm, 24, true); /* out of range */
    bt_irq_line(&f->vm, 0xffffffff, true);
    fake_free(f);
}

static void test_ioapic_level(void **state)
{
    struct fake *f = fake_new(2);
    struct bt_vcpu *c = fake_vcpu(f, 1);

    (void)state;
    fake_apic_on(c);
    fake_io_redir(c, 20, 1ULL << 56 | 0xa044); /* level, active low */
    bt_irq_line(&f->vm, 20, true);
    assert_true(fake_io_read(c, 0x10 + 40) & 1U << 14);
    assert_int_equal(fake_take(c), 0x44);
    assert_int_equal(fake_apic_read(c, 0x180 + 0x20), 1U << 4); /* TMR */
    bt_irq_line(&f->vm, 20, false);
    bt_irq_line(&f->vm, 20, true); /* remote IRR holds it back */
    assert_int_equal(fake_apic_read(c, 0x200 + 0x20), 0);
    fake_apic_write(c, 0xb0, 0); /* EOI: still asserted, comes again */
    assert_int_equal(fake_take(c), 0x44);
    bt_irq_line(&f->vm, 20, false);
    fake_apic_write(c, 0xb0, 0);
    assert_false(fake_io_read(c, 0x10 + 40) & 1U << 14);
    assert_int_equal(fake_take(c), -1);
    /* Asserted while masked: comes with the unmasking */
    fake_io_redir(c, 20, 1ULL << 56 | 0x1a044);
    bt_irq_line(&f->vm, 20, true);
    assert_int_equal(fake_take(c), -1);
    fake_io_redir(c, 20, 1ULL << 56 | 0xa044);
    assert_int_equal(fake_take(c), 0x44);
    /* Turning the pin to edge and back clears remote IRR (EOI by hand) */
    fake_io_write(c, 0x10 + 40, 0x12044);
    assert_false(fake_io_read(c, 0x10 + 40) & 1U << 14);
    fake_io_write(c, 0x10 + 40, 0xa044);
    assert_true(fake_io_read(c, 0x10 + 40) & 1U << 14);
    fake_free(f);
}

/* Two vCPUs and devices in flight; the state moves to a second VM and goes on there. */
static void test_state_round_trip(void **state)
{
    struct fake *f = fake_new(2), *g;
    struct kvm_lapic_state s[2], again;
    struct kvm_irqchip io = { .chip_id = KVM_IRQCHIP_IOAPIC }, bad = { .chip_id = 7 };
    uint64_t tsc;

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        fake_apic_on(fake_vcpu(f, i));
        fake_apic_write(fake_vcpu(f, i), 0x3e0, 0xb);
    }
    fake_io_redir(fake_vcpu(f, 0), 10, 0x8044);
    bt_irq_line(&f->vm, 10, true);
    assert_int_equal(fake_take(fake_vcpu(f, 0)), 0x44);
    bt_irq_msi(&f->vm, 0xfee01000, 0x91);
    fake_apic_write(fake_vcpu(f, 0), 0x320, 0x20070);
    fake_apic_write(fake_vcpu(f, 0), 0x380, 1000000);
    fake_wait(f, 400000);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(bt_lapic_get(fake_vcpu(f, i), &s[i]), 0);
    assert_int_equal(bt_irqchip_get(&f->vm, &io), 0);
    assert_int_equal(bt_irqchip_get(&f->vm, &bad), -EINVAL);
    assert_int_equal(load_le32(s[0].regs + 0x390), 600000);
    tsc = fake_tsc;
    fake_free(f);

    g = fake_new(2);
    fake_tsc = tsc + 12345678;
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(bt_lapic_set(fake_vcpu(g, i), &s[i]), 0);
    assert_int_equal(bt_lapic_set(fake_vcpu(g, 1), &s[0]), -EINVAL); /* not its id */
    assert_int_equal(bt_irqchip_set(&g->vm, &io), 0);
    assert_int_equal(bt_irqchip_set(&g->vm, &bad), -EINVAL);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(bt_lapic_get(fake_vcpu(g, i), &again), 0);
        assert_memory_equal(&again, &s[i], sizeof(again));
    }
    assert_int_equal(fake_take(fake_vcpu(g, 1)), 0x91);
    assert_int_equal(fake_take(fake_vcpu(g, 0)), -1); /* 0x44 is in service */
    fake_apic_write(fake_vcpu(g, 0), 0xb0, 0);        /* and its line still asserted */
    assert_int_equal(fake_take(fake_vcpu(g, 0)), 0x44);
    fake_wait(g, 600000);
    assert_int_equal(fake_take(fake_vcpu(g, 0)), 0x70);
    fake_free(g);
}

static void test_state_x2apic(void **state)
{
    struct fake *f = fake_new(20);
    struct bt_vcpu *c = fake_vcpu(f, 19);
    struct kvm_lapic_state s, again;

    (void)state;
    fake_x2_on(c);
    assert_true(fake_wrmsr(c, 0x830, 0x12345678ULL << 32 | 0x4000 | 0x40));
    assert_int_equal(bt_lapic_get(c, &s), 0);
    assert_int_equal(load_le32(s.regs + 0x20), 19U << 24); /* KVM's legacy format */
    assert_int_equal(load_le32(s.regs + 0x310), 0x12345678);
    memset(s.regs + 0xd0, 0, 4); /* the logical id is not software's */
    assert_int_equal(bt_lapic_set(c, &s), 0);
    assert_int_equal(fake_rdmsr(c, 0x80d), 0x00010008);
    store_le32(s.regs + 0x20, 19);
    assert_int_equal(bt_lapic_set(c, &s), 0);
    assert_int_equal(bt_lapic_get(c, &again), 0);
    assert_int_equal(load_le32(again.regs + 0x20), 19U << 24);
    fake_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reset_values),         cmocka_unit_test(test_register_masks),
        cmocka_unit_test(test_software_disable),     cmocka_unit_test(test_access_sizes),
        cmocka_unit_test(test_priorities),           cmocka_unit_test(test_esr),
        cmocka_unit_test(test_ipi_shorthands),       cmocka_unit_test(test_init_sipi_nmi),
        cmocka_unit_test(test_logical_destinations), cmocka_unit_test(test_lowest_priority),
        cmocka_unit_test(test_base_transitions),     cmocka_unit_test(test_x2apic),
        cmocka_unit_test(test_timer_oneshot),        cmocka_unit_test(test_timer_periodic),
        cmocka_unit_test(test_timer_deadline),       cmocka_unit_test(test_timer_lazy),
        cmocka_unit_test(test_ioapic_registers),     cmocka_unit_test(test_ioapic_edge),
        cmocka_unit_test(test_ioapic_level),         cmocka_unit_test(test_state_round_trip),
        cmocka_unit_test(test_state_x2apic),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
