/* The interrupt controllers of the translation engine against those of the host's kernel: both get the same random
 * state and the same random lines and messages, and must end in the same state. Skipped where /dev/kvm cannot be used;
 * it needs no working guest, as no vCPU runs. */
#include "bt_irqchip_fake.h"

#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define VCPUS 6
#define ROUNDS 40
#define STEPS 200

struct kvm_rig {
    int dev, vm, vcpu[VCPUS];
    uint8_t ldr[VCPUS];
    bool cluster;
};

static uint64_t seed = 0x9e3779b97f4a7c15ULL;

static uint32_t rnd(uint32_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 20) % below;
}

static bool kvm_open(struct kvm_rig *k)
{
    *k = (struct kvm_rig){ .dev = open("/dev/kvm", O_RDWR | O_CLOEXEC) };
    k->vm = k->dev < 0 ? -1 : ioctl(k->dev, KVM_CREATE_VM, 0);
    if (k->vm < 0 || ioctl(k->vm, KVM_CREATE_IRQCHIP, 0) < 0)
        return false;
    for (unsigned i = 0; i < VCPUS; i++) {
        k->vcpu[i] = ioctl(k->vm, KVM_CREATE_VCPU, i);
        if (k->vcpu[i] < 0)
            return false;
    }
    return true;
}

static void kvm_close(struct kvm_rig *k)
{
    for (unsigned i = 0; i < VCPUS; i++) {
        if (k->vcpu[i] > 0)
            close(k->vcpu[i]);
    }
    if (k->vm >= 0)
        close(k->vm);
    if (k->dev >= 0)
        close(k->dev);
}

/* A LAPIC in xAPIC mode with random priorities and logical ids, nothing pending. */
static void set_lapics(struct kvm_rig *k, struct fake *f)
{
    uint32_t dfr = rnd(2) ? 0xffffffff : 0x0fffffff;

    k->cluster = dfr == 0x0fffffff;
    for (unsigned i = 0; i < VCPUS; i++) {
        struct kvm_lapic_state s;

        memset(&s, 0, sizeof(s));
        store_le32(s.regs + 0x20, i << 24);
        store_le32(s.regs + 0x30, 0x50014);
        store_le32(s.regs + 0x80, rnd(256));
        k->ldr[i] = (uint8_t)rnd(256);
        store_le32(s.regs + 0xd0, (uint32_t)k->ldr[i] << 24);
        store_le32(s.regs + 0xe0, dfr);
        store_le32(s.regs + 0xf0, i < VCPUS - 1 || rnd(2) ? 0x1ff : 0xff);
        for (unsigned off = 0x320; off <= 0x370; off += 0x10)
            store_le32(s.regs + off, 0x10000);
        assert_int_equal(ioctl(k->vcpu[i], KVM_SET_LAPIC, &s), 0);
        assert_int_equal(bt_lapic_set(fake_vcpu(f, i), &s), 0);
    }
}

/* A destination that somebody has whose LAPIC is on (the last one's may be off): KVM is not of one mind about messages
 * that nobody takes. */
static uint8_t pick_dest(const struct kvm_rig *k, bool logical)
{
    uint8_t ldr = k->ldr[rnd(VCPUS - 1)];

    if (!logical)
        return (uint8_t)rnd(VCPUS - 1);
    if (!(ldr & (k->cluster ? 0x0f : 0xff)))
        return 0xff;
    return k->cluster ? ldr : (uint8_t)(ldr | rnd(256));
}

static void set_chips(struct kvm_rig *k, struct fake *f)
{
    struct kvm_irqchip chip;

    for (unsigned id = 0; id < 2; id++) {
        memset(&chip, 0, sizeof(chip));
        chip.chip_id = id;
        chip.chip.pic.imr = (uint8_t)rnd(256);
        chip.chip.pic.isr = (uint8_t)(rnd(3) ? 0 : 1U << rnd(8));
        chip.chip.pic.priority_add = (uint8_t)rnd(8);
        chip.chip.pic.irq_base = (uint8_t)(0x20 + 8 * id);
        chip.chip.pic.elcr_mask = id == 0 ? 0xf8 : 0xde;
        chip.chip.pic.elcr = (uint8_t)(rnd(256) & chip.chip.pic.elcr_mask);
        assert_int_equal(ioctl(k->vm, KVM_SET_IRQCHIP, &chip), 0);
        assert_int_equal(bt_irqchip_set(&f->vm, &chip), 0);
    }
    memset(&chip, 0, sizeof(chip));
    chip.chip_id = KVM_IRQCHIP_IOAPIC;
    chip.chip.ioapic.base_address = FAKE_IOAPIC;
    for (unsigned i = 0; i < KVM_IOAPIC_NUM_PINS; i++) {
        uint64_t e = 16 + rnd(240);

        e |= (uint64_t)(rnd(4) ? 0 : 4) << 8; /* fixed, some NMI */
        e |= (uint64_t)rnd(2) << 11 | (uint64_t)rnd(2) << 13 | (uint64_t)rnd(2) << 15 | (uint64_t)!rnd(4) << 16;
        e |= (uint64_t)pick_dest(k, (e & 1U << 11) != 0) << 56;
        chip.chip.ioapic.redirtbl[i].bits = e;
    }
    assert_int_equal(ioctl(k->vm, KVM_SET_IRQCHIP, &chip), 0);
    assert_int_equal(bt_irqchip_set(&f->vm, &chip), 0);
}

static void step(struct kvm_rig *k, struct fake *f)
{
    unsigned gsi = rnd(22);

    if (rnd(3)) {
        struct kvm_irq_level line = { .irq = gsi < 1 ? 1 : gsi < 3 ? 3 : gsi, .level = rnd(2) };

        assert_int_equal(ioctl(k->vm, KVM_IRQ_LINE, &line), 0);
        bt_irq_line(&f->vm, line.irq, line.level);
    } else {
        static const uint8_t modes[] = { APIC_FIXED, APIC_FIXED, APIC_FIXED, APIC_NMI, APIC_EXTINT, APIC_RESERVED };
        struct kvm_msi msi = { .address_lo = 0xfee00000 | rnd(2) << 2, .data = 16 + rnd(240) };

        msi.address_lo |= (rnd(2) ? rnd(VCPUS + 2) : rnd(256)) << 12;
        msi.data |= (uint32_t)modes[rnd(sizeof(modes))] << 8 | (rnd(4) ? 0 : 3U << 14);
        ioctl(k->vm, KVM_SIGNAL_MSI, &msi); /* fails where nobody takes it */
        bt_irq_msi(&f->vm, msi.address_lo, msi.data);
    }
}

static void compare_chips(struct kvm_rig *k, struct fake *f)
{
    struct kvm_irqchip a, b;

    for (unsigned id = 0; id < 3; id++) {
        memset(&a, 0, sizeof(a));
        memset(&b, 0, sizeof(b));
        a.chip_id = b.chip_id = id;
        assert_int_equal(ioctl(k->vm, KVM_GET_IRQCHIP, &a), 0);
        assert_int_equal(bt_irqchip_get(&f->vm, &b), 0);
        if (id == KVM_IRQCHIP_IOAPIC) {
            for (unsigned i = 0; i < KVM_IOAPIC_NUM_PINS; i++)
                assert_true(a.chip.ioapic.redirtbl[i].bits == b.chip.ioapic.redirtbl[i].bits);
            continue;
        }
        /* KVM pulses the cascade line, here its level is followed: same requests, other traces on line 2. */
        assert_int_equal(a.chip.pic.irr & (id ? 0xff : 0xfb), b.chip.pic.irr & (id ? 0xff : 0xfb));
        assert_int_equal(a.chip.pic.last_irr & (id ? 0xff : 0xfb), b.chip.pic.last_irr & (id ? 0xff : 0xfb));
        assert_int_equal(a.chip.pic.isr, b.chip.pic.isr);
        assert_int_equal(a.chip.pic.imr, b.chip.pic.imr);
    }
}

static void compare_lapics(struct kvm_rig *k, struct fake *f)
{
    for (unsigned i = 0; i < VCPUS; i++) {
        struct kvm_lapic_state a, b;

        assert_int_equal(ioctl(k->vcpu[i], KVM_GET_LAPIC, &a), 0);
        assert_int_equal(bt_lapic_get(fake_vcpu(f, i), &b), 0);
        for (unsigned off = 0x100; off < 0x280; off += 0x10)
            assert_int_equal(load_le32(a.regs + off), load_le32(b.regs + off));
    }
}

static void test_against_kvm(void **state)
{
    struct kvm_rig k;
    struct fake *f;

    (void)state;
    if (!kvm_open(&k)) {
        kvm_close(&k);
        skip();
    }
    for (unsigned round = 0; round < ROUNDS; round++) {
        f = fake_new(VCPUS);
        for (unsigned gsi = 1; gsi < 24; gsi++) {
            struct kvm_irq_level line = { .irq = gsi };

            ioctl(k.vm, KVM_IRQ_LINE, &line);
        }
        set_lapics(&k, f);
        set_chips(&k, f);
        for (unsigned i = 0; i < STEPS; i++) {
            step(&k, f);
            compare_chips(&k, f);
        }
        compare_lapics(&k, f);
        fake_free(f);
    }
    kvm_close(&k);
}

/* A fresh LAPIC, and what KVM makes of a state that was read here. */
static void test_state_accepted(void **state)
{
    struct kvm_lapic_state a, b;
    struct kvm_rig k;
    struct fake *f;

    (void)state;
    if (!kvm_open(&k)) {
        kvm_close(&k);
        skip();
    }
    f = fake_new(VCPUS);
    for (unsigned i = 0; i < VCPUS; i++) {
        assert_int_equal(bt_lapic_get(fake_vcpu(f, i), &b), 0);
        assert_int_equal(ioctl(k.vcpu[i], KVM_GET_LAPIC, &a), 0);
        for (unsigned off = 0x20; off < 0x400; off += 0x10)
            assert_int_equal(load_le32(a.regs + off), load_le32(b.regs + off));
        assert_int_equal(ioctl(k.vcpu[i], KVM_SET_LAPIC, &b), 0);
    }
    fake_free(f);
    kvm_close(&k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_kvm),
        cmocka_unit_test(test_state_accepted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
