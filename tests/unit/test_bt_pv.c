/* The paravirtual interface of the translation engine: clock arithmetic, shared pages, hypercalls. */
#include "bt_irqchip_fake.h"

#include <errno.h>
#include <linux/kvm_para.h>
#include <string.h>

#define PAGE 0x8000ULL

/* What a guest computes from its time page (Documentation/virt/kvm/x86/msr.rst), with the TSC of vCPU c now. */
static uint64_t guest_clock(struct fake *f, struct bt_vcpu *c, uint64_t gpa)
{
    const uint8_t *p = mem_ptr(f->mem, GPA(gpa), 32);
    uint64_t delta;
    int8_t shift;

    assert_non_null(p);
    assert_int_equal(load_le32(p) & 1, 0);
    delta = fake_tsc + c->tsc_offset - load_le64(p + 8);
    shift = (int8_t)p[28];
    delta = shift >= 0 ? delta << shift : delta >> -shift;
    return load_le64(p + 16) + (uint64_t)((unsigned __int128)delta * load_le32(p + 24) >> 32);
}

static void test_scale(void **state)
{
    static const uint64_t khz[] = { 1,       999,     500000,  1000000, 1000001, 1999999,
                                    2000000, 2100000, 2995200, 3700000, 5000000 };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(khz); i++) {
        struct bt_clock k;
        uint64_t ns;

        bt_clock_init(&k, khz[i], 1000, 0);
        assert_true(k.mul >= 1U << 31);
        assert_int_equal(bt_clock_ns(&k, 0), 0);
        assert_int_equal(bt_clock_ns(&k, 1000), 0);
        /* 1000 s worth of ticks, to one part in 10^8 */
        ns = bt_clock_ns(&k, 1000 + khz[i] * 1000000);
        assert_in_range(ns, 1000000000000 - 10000, 1000000000000 + 10000);
    }
    assert_int_equal(bt_muldiv(1ULL << 63, 6, 12), 1ULL << 62);
    assert_true(bt_muldiv(UINT64_MAX, 4, 2) == UINT64_MAX);
}

static void test_clock(void **state)
{
    struct fake *f = fake_new(2);
    struct bt_vcpu *a = fake_vcpu(f, 0), *b = fake_vcpu(f, 1);
    struct kvm_clock_data d;
    const uint8_t *p = mem_ptr(f->mem, GPA(PAGE), 32);
    uint64_t v;

    (void)state;
    fake_wait(f, 1000000);
    assert_true(bt_pv_msr_write(a, MSR_KVM_SYSTEM_TIME_NEW, PAGE | 1));
    assert_true(bt_pv_msr_write(b, MSR_KVM_SYSTEM_TIME_NEW, (PAGE + 0x1000 - 16) | 1)); /* across a page */
    assert_true(bt_pv_msr_read(a, MSR_KVM_SYSTEM_TIME, &v));
    assert_int_equal(v, PAGE | 1);
    assert_int_equal(guest_clock(f, a, PAGE), 1000000);
    fake_wait(f, 123456789);
    assert_int_equal(guest_clock(f, a, PAGE), 1000000 + 123456789);
    assert_int_equal(guest_clock(f, b, PAGE + 0x1000 - 16), 1000000 + 123456789);
    assert_int_equal(guest_clock(f, b, PAGE), 1000000 + 123456789); /* one page serves all: TSC_STABLE */
    assert_int_equal(p[29] & 1, 1);
    assert_int_equal(bt_pv_get_clock(&f->vm, &d), 0);
    assert_int_equal(d.clock, 1000000 + 123456789);
    /* The guest writes the TSC of one vCPU: no longer stable, but each page right for its own */
    b->tsc_offset += 99999;
    bt_pv_tsc_changed(b);
    fake_pump(a);
    assert_int_equal(p[29] & 1, 0);
    assert_int_equal(guest_clock(f, b, PAGE + 0x1000 - 16), 1000000 + 123456789);
    /* Set: each vCPU renews its page on entry, and says that it was stopped */
    d.clock = 5000000000ULL;
    d.flags = 0;
    assert_int_equal(bt_pv_set_clock(&f->vm, &d), 0);
    bt_pv_enter(a);
    assert_int_equal(guest_clock(f, a, PAGE), 5000000000ULL);
    assert_int_equal(p[29] & 2, 2);
    d.flags = KVM_CLOCK_REALTIME;
    d.realtime = fake_real - 7000;
    assert_int_equal(bt_pv_set_clock(&f->vm, &d), 0);
    bt_pv_enter(a);
    assert_int_equal(guest_clock(f, a, PAGE), 5000007000ULL);
    d.flags = 0x80;
    assert_int_equal(bt_pv_set_clock(&f->vm, &d), -EINVAL);
    /* Off */
    assert_true(bt_pv_msr_write(a, MSR_KVM_SYSTEM_TIME_NEW, 0));
    /* Not RAM: nothing happens */
    assert_true(bt_pv_msr_write(a, MSR_KVM_SYSTEM_TIME, (1ULL << 52) | 1));
    assert_true(bt_pv_msr_write(a, MSR_KVM_SYSTEM_TIME, UINT64_MAX));
    assert_true(bt_pv_msr_write(a, MSR_KVM_SYSTEM_TIME, ((1 << 20) - 16) | 1));
    fake_free(f);
}

static void test_wall_clock(void **state)
{
    struct fake *f = fake_new(1);
    struct bt_vcpu *c = fake_vcpu(f, 0);
    const uint8_t *p = mem_ptr(f->mem, GPA(0x100), 12);
    uint64_t boot;

    (void)state;
    fake_wait(f, 2500000000ULL);
    assert_true(bt_pv_msr_write(c, MSR_KVM_WALL_CLOCK_NEW, 0x100));
    assert_int_equal(load_le32(p), 2);
    boot = load_le32(p + 4) * 1000000000ULL + load_le32(p + 8);
    assert_true(boot + 2500000000ULL == fake_real);
    fake_free(f);
}

static void test_cpuid(void **state)
{
    struct kvm_cpuid_entry2 e[3];
    unsigned n = 1;
    char sig[13] = { 0 };

    (void)state;
    assert_int_equal(bt_pv_cpuid(e, 2, &n), -E2BIG);
    assert_int_equal(bt_pv_cpuid(e, 3, &n), 0);
    assert_int_equal(n, 3);
    memcpy(sig, &e[1].ebx, 4);
    memcpy(sig + 4, &e[1].ecx, 4);
    memcpy(sig + 8, &e[1].edx, 4);
    assert_string_equal(sig, "KVMKVMKVM");
    assert_int_equal(e[1].eax, 0x40000001);
    assert_int_equal(e[2].eax & (1 << KVM_FEATURE_ASYNC_PF), 0);
}

static void test_steal(void **state)
{
    struct fake *f = fake_new(1);
    struct bt_vcpu *c = fake_vcpu(f, 0);
    uint8_t *p = mem_ptr(f->mem, GPA(0x1000), 64);

    (void)state;
    assert_false(bt_pv_msr_write(c, MSR_KVM_STEAL_TIME, 0x1000 | 3)); /* reserved bits */
    fake_run_delay = 5000;
    p[16] = 1;
    assert_true(bt_pv_msr_write(c, MSR_KVM_STEAL_TIME, 0x1000 | 1));
    assert_int_equal(p[16], 0);
    fake_run_delay = 12000;
    fake_wait(f, 20000000);
    bt_pv_enter(c);
    bt_pv_enter(c); /* the second is too soon and adds nothing */
    fake_run_delay = 13000;
    bt_pv_enter(c);
    fake_wait(f, 20000000);
    bt_pv_enter(c);
    assert_int_equal(load_le64(p), fake_run_delay - 12000);
    assert_int_equal(load_le32(p + 8) & 1, 0);
    /* Halted: preempted, and a flush that another vCPU left is done on the way back */
    bt_pv_idle(c, true);
    assert_int_equal(p[16], KVM_VCPU_PREEMPTED);
    bt_pv_idle(c, false);
    assert_int_equal(p[16], 0);
    assert_int_equal(fake_tlb_flushes, 0);
    bt_pv_idle(c, true);
    p[16] |= KVM_VCPU_FLUSH_TLB;
    bt_pv_idle(c, false);
    assert_int_equal(fake_tlb_flushes, 1);
    bt_lapic_reset(c, true); /* INIT switches it off */
    bt_pv_idle(c, true);
    assert_int_equal(p[16], 0);
    bt_pv_idle(c, false);
    fake_free(f);
}

static void test_pv_eoi(void **state)
{
    struct fake *f = fake_new(1);
    struct bt_vcpu *c = fake_vcpu(f, 0);
    uint8_t *flag = mem_ptr(f->mem, GPA(0x2000), 4);
    struct kvm_lapic_state s;

    (void)state;
    fake_apic_on(c);
    assert_false(bt_pv_msr_write(c, MSR_KVM_PV_EOI_EN, 0x2000 | 3));
    assert_true(bt_pv_msr_write(c, MSR_KVM_PV_EOI_EN, 0x2000 | 1));
    bt_irq_msi(&f->vm, 0xfee00000, 0x50);
    assert_int_equal(fake_take(c), 0x50);
    assert_int_equal(*flag, 1);
    *flag = 0;                            /* the guest's EOI */
    bt_irq_msi(&f->vm, 0xfee00000, 0x40); /* lower: comes only if the EOI was seen */
    assert_int_equal(fake_take(c), 0x40);
    assert_int_equal(*flag, 1);
    bt_irq_msi(&f->vm, 0xfee00000, 0x41); /* now someone waits: the offer is taken back */
    assert_int_equal(fake_take(c), -1);
    assert_int_equal(*flag, 0);
    fake_apic_write(c, 0xb0, 0);
    assert_int_equal(fake_take(c), 0x41);
    /* A nested one that the guest ended in memory; its EOI register write then ends the outer one */
    bt_irq_msi(&f->vm, 0xfee00000, 0x80);
    assert_int_equal(fake_take(c), 0x80);
    assert_int_equal(*flag, 1);
    *flag = 0;
    fake_apic_write(c, 0xb0, 0);
    assert_int_equal(bt_lapic_highest(c->lapic, LAPIC_ISR), -1);
    /* The guest may do it the old way although it need not */
    bt_irq_msi(&f->vm, 0xfee00000, 0x50);
    assert_int_equal(fake_take(c), 0x50);
    fake_apic_write(c, 0xb0, 0);
    assert_int_equal(bt_lapic_highest(c->lapic, LAPIC_ISR), -1);
    assert_int_equal(*flag, 0);
    /* Two requests: no offer for the first. Level-triggered: never */
    bt_irq_msi(&f->vm, 0xfee00000, 0x50);
    bt_irq_msi(&f->vm, 0xfee00000, 0x51);
    assert_int_equal(fake_take(c), 0x51);
    assert_int_equal(*flag, 0);
    fake_apic_write(c, 0xb0, 0);
    assert_int_equal(fake_take(c), 0x50);
    *flag = 0;
    assert_int_equal(bt_lapic_get(c, &s), 0); /* the state has it done */
    assert_int_equal(load_le32(s.regs + 0x120), 0);
    fake_io_redir(c, 20, 0x8044);
    bt_irq_line(&f->vm, 20, true);
    assert_int_equal(fake_take(c), 0x44);
    assert_int_equal(*flag, 0);
    fake_free(f);
}

static uint64_t hypercall(struct bt_vcpu *c, uint64_t nr, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3)
{
    c->r[BT_RAX] = nr;
    c->r[BT_RBX] = a0;
    c->r[BT_RCX] = a1;
    c->r[BT_RDX] = a2;
    c->r[BT_RSI] = a3;
    bt_pv_hypercall(c);
    return c->r[BT_RAX];
}

static void test_hypercalls(void **state)
{
    struct fake *f = fake_new(64);
    struct bt_vcpu *c = fake_vcpu(f, 0);
    const uint8_t *p = mem_ptr(f->mem, GPA(0x3000), 64);

    (void)state;
    for (unsigned i = 0; i < 64; i++)
        fake_apic_on(fake_vcpu(f, i));
    assert_true(hypercall(c, 999, 0, 0, 0, 0) == (uint64_t)-KVM_ENOSYS);
    c->cpl = 3;
    assert_true(hypercall(c, KVM_HC_SCHED_YIELD, 0, 0, 0, 0) == (uint64_t)-KVM_EPERM);
    c->cpl = 0;
    assert_int_equal(hypercall(c, KVM_HC_SEND_IPI, 0x5, 0x8000000000000000ULL, 2, 0x40fb), 2); /* 2, 4; 129 is none */
    for (unsigned i = 0; i < 64; i++)
        assert_int_equal(fake_take(fake_vcpu(f, i)), i == 2 || i == 4 ? 0xfb : -1);
    assert_int_equal(hypercall(c, KVM_HC_SEND_IPI, 1, 0, 0xffffffff, 0x40fb), 0);
    assert_int_equal(hypercall(c, KVM_HC_SEND_IPI, 2, 0, 0, 0x4400), 1);
    assert_true(fake_events(fake_vcpu(f, 1)) & BT_EV_NMI);
    assert_true(hypercall(c, KVM_HC_SEND_IPI, 1, 0, 0, 0x44fb) != 0); /* NMI ignores the vector */
    assert_true(hypercall(c, KVM_HC_SEND_IPI, 1, 0, 0, 0x4500) == (uint64_t)-KVM_EINVAL);
    assert_true(hypercall(c, KVM_HC_SEND_IPI, 1, 0, 0, 0x48fb) == (uint64_t)-KVM_EINVAL);
    assert_int_equal(hypercall(c, KVM_HC_SCHED_YIELD, 1, 0, 0, 0), 0);
    assert_int_equal(fake_yields, 1);
    assert_int_equal(hypercall(c, KVM_HC_SCHED_YIELD, 1ULL << 40, 0, 0, 0), 0);
    assert_int_equal(hypercall(c, KVM_HC_CLOCK_PAIRING, 0x3000, 0, 0, 0), 0);
    assert_true(load_le64(p) * 1000000000ULL + load_le64(p + 8) == fake_real);
    assert_true(load_le64(p + 16) == fake_tsc + c->tsc_offset);
    assert_true(hypercall(c, KVM_HC_CLOCK_PAIRING, 1ULL << 40, 0, 0, 0) == (uint64_t)-KVM_EFAULT);
    /* Outside 64-bit mode registers have 32 bits, and so has each half of the IPI map */
    c->mode = BT_MODE_32;
    assert_int_equal(hypercall(c, KVM_HC_SEND_IPI | 7ULL << 32, 1ULL << 32, 2, 0, 0x40fa), 1);
    assert_int_equal(fake_take(fake_vcpu(f, 33)), 0xfa);
    assert_true(hypercall(c, 999, 0, 0, 0, 0) == (uint32_t)-KVM_ENOSYS);
    fake_free(f);
}

static void test_kick(void **state)
{
    struct fake *f = fake_new(2);
    struct bt_vcpu *c = fake_vcpu(f, 0), *to = fake_vcpu(f, 1);

    (void)state;
    /* While it sleeps */
    to->halted = 1;
    bt_pv_idle(to, true);
    assert_int_equal(fake_events(to), 0);
    assert_int_equal(hypercall(c, KVM_HC_KICK_CPU, 0, 1, 0, 0), 0);
    assert_true(atomic_load(&to->events) & BT_EV_TIMER);
    bt_pv_idle(to, false);
    fake_pump(to);
    assert_int_equal(to->halted, 0);
    /* Before it sleeps: the kick is kept */
    assert_int_equal(hypercall(c, KVM_HC_KICK_CPU, 0, 1, 0, 0), 0);
    fake_pump(to);
    to->halted = 1;
    bt_pv_idle(to, true);
    assert_true(atomic_load(&to->events) & BT_EV_TIMER);
    bt_pv_idle(to, false);
    fake_pump(to);
    assert_int_equal(to->halted, 0);
    to->halted = 1; /* once */
    bt_pv_idle(to, true);
    assert_int_equal(fake_events(to), 0);
    assert_int_equal(hypercall(c, KVM_HC_KICK_CPU, 0, 77, 0, 0), 0);
    fake_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scale),      cmocka_unit_test(test_clock), cmocka_unit_test(test_wall_clock),
        cmocka_unit_test(test_cpuid),      cmocka_unit_test(test_steal), cmocka_unit_test(test_pv_eoi),
        cmocka_unit_test(test_hypercalls), cmocka_unit_test(test_kick),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
