/* See bt_irqchip_fake.h. Replaces host.c, calibrate.c, ticker.c and the parts of the engine that irqchip/ calls. */
#include "bt_irqchip_fake.h"

#include <stdlib.h>
#include <string.h>

#include "cpu/bt/mmu.h"
#include "cpu/bt/sys.h"

uint64_t fake_tsc, fake_mono, fake_real, fake_run_delay;
unsigned fake_ticker_wakes, fake_tlb_flushes, fake_yields;
bool fake_x2apic;

uint64_t bt_host_tsc(void)
{
    return fake_tsc;
}

uint64_t bt_host_mono_ns(void)
{
    return fake_mono;
}

uint64_t bt_host_real_ns(void)
{
    return fake_real;
}

void bt_host_yield(void)
{
    fake_yields++;
}

void bt_host_exact_timers(void)
{
}

int bt_host_tid(void)
{
    return 1;
}

void bt_host_close(int fd)
{
    (void)fd;
}

uint64_t bt_host_run_delay_ns(int *fd)
{
    (void)fd;
    return fake_run_delay;
}

void bt_futex_wake(_Atomic uint32_t *word)
{
    (void)word;
    fake_ticker_wakes++;
}

void bt_lock_wait(struct bt_lock *l)
{
    (void)l;
    fail_msg("a lock was taken twice");
}

void bt_lock_wake(struct bt_lock *l)
{
    (void)l;
}

int bt_ticker_start(struct bt_irqchip *chip)
{
    atomic_store(&chip->armed_ns, UINT64_MAX);
    return 0;
}

void bt_ticker_stop(struct bt_irqchip *chip)
{
    (void)chip;
}

uint64_t bt_tsc_khz_measure(void)
{
    return 1000000;
}

void bt_vcpu_signal(struct bt_vcpu *c, uint32_t events)
{
    atomic_fetch_or(&c->events, events);
}

void bt_tlb_flush_all(struct bt_vcpu *c)
{
    (void)c;
    fake_tlb_flushes++;
}

bool bt_has_cpuid(const struct bt_vcpu *c, uint32_t leaf, uint32_t subleaf, unsigned reg, unsigned bit)
{
    (void)c;
    return fake_x2apic && leaf == 1 && subleaf == 0 && reg == 2 && bit == 21;
}

struct fake *fake_new(unsigned vcpus)
{
    struct fake *f = calloc(1, sizeof(*f));

    assert_non_null(f);
    fake_tsc = 1000000;
    fake_mono = 5000000000ULL;
    fake_real = 1700000000000000000ULL;
    fake_run_delay = 0;
    fake_ticker_wakes = fake_tlb_flushes = fake_yields = 0;
    fake_x2apic = true;
    assert_int_equal(mem_new(&f->mem), 0);
    assert_int_equal(mem_add_ram(f->mem, 0, 1 << 20, false, NULL), 0);
    f->vm.mem = f->mem;
    f->vm.max_vcpus = vcpus;
    assert_int_equal(bt_irqchip_new(&f->vm, &f->vm.irqchip), 0);
    assert_int_equal(bt_pv_new_vm(&f->vm, &f->vm.pv), 0);
    for (unsigned i = 0; i < vcpus; i++) {
        struct bt_vcpu *c = aligned_alloc(64, sizeof(*c));

        assert_non_null(c);
        memset(c, 0, sizeof(*c));
        c->vm = &f->vm;
        c->id = i;
        c->mode = BT_MODE_64;
        c->phys_mask = (1ULL << 40) - 1;
        c->tsc_offset = 0ULL - 500000;
        f->vm.vcpus[i] = c;
        assert_int_equal(bt_lapic_new(c, &c->lapic), 0);
        assert_int_equal(bt_pv_new_vcpu(c, &c->pv), 0);
        bt_lapic_reset(c, false);
        fake_events(c);
    }
    return f;
}

void fake_free(struct fake *f)
{
    for (unsigned i = 0; i < f->vm.max_vcpus; i++) {
        bt_pv_free_vcpu(f->vm.vcpus[i]->pv);
        bt_lapic_free(f->vm.vcpus[i]->lapic);
        free(f->vm.vcpus[i]);
    }
    bt_pv_free_vm(f->vm.pv);
    bt_irqchip_free(f->vm.irqchip);
    mem_free(f->mem);
    free(f);
}

struct bt_vcpu *fake_vcpu(struct fake *f, unsigned id)
{
    return f->vm.vcpus[id];
}

void fake_apic_on(struct bt_vcpu *c)
{
    fake_apic_write(c, 0xf0, 0x1ff);
}

void fake_x2_on(struct bt_vcpu *c)
{
    assert_true(fake_wrmsr(c, 0x1b, fake_rdmsr(c, 0x1b) | 0xc00));
    assert_true(fake_wrmsr(c, 0x80f, 0x1ff));
}

uint32_t fake_apic_read(struct bt_vcpu *c, unsigned off)
{
    uint32_t v = 0xdeadbeef;

    assert_true(bt_irqchip_mmio(c, FAKE_APIC + off, &v, 4, false));
    return v;
}

void fake_apic_write(struct bt_vcpu *c, unsigned off, uint32_t value)
{
    assert_true(bt_irqchip_mmio(c, FAKE_APIC + off, &value, 4, true));
}

uint32_t fake_io_read(struct bt_vcpu *c, unsigned reg)
{
    uint32_t v = reg;

    assert_true(bt_irqchip_mmio(c, FAKE_IOAPIC, &v, 4, true));
    v = 0xdeadbeef;
    assert_true(bt_irqchip_mmio(c, FAKE_IOAPIC + 0x10, &v, 4, false));
    return v;
}

void fake_io_write(struct bt_vcpu *c, unsigned reg, uint32_t value)
{
    uint32_t v = reg;

    assert_true(bt_irqchip_mmio(c, FAKE_IOAPIC, &v, 4, true));
    assert_true(bt_irqchip_mmio(c, FAKE_IOAPIC + 0x10, &value, 4, true));
}

void fake_io_redir(struct bt_vcpu *c, unsigned pin, uint64_t entry)
{
    fake_io_write(c, 0x11 + 2 * pin, (uint32_t)(entry >> 32));
    fake_io_write(c, 0x10 + 2 * pin, (uint32_t)entry);
}

uint8_t fake_in(struct bt_vcpu *c, uint16_t port)
{
    uint8_t v = 0x5a;

    assert_true(bt_irqchip_pio(c, port, &v, 1, false));
    return v;
}

void fake_out(struct bt_vcpu *c, uint16_t port, uint8_t value)
{
    assert_true(bt_irqchip_pio(c, port, &value, 1, true));
}

uint64_t fake_rdmsr(struct bt_vcpu *c, uint32_t index)
{
    uint64_t v = 0;

    assert_true(bt_lapic_msr_read(c, index, &v));
    return v;
}

bool fake_wrmsr(struct bt_vcpu *c, uint32_t index, uint64_t value)
{
    return bt_lapic_msr_write(c, index, value, false);
}

uint32_t fake_events(struct bt_vcpu *c)
{
    return atomic_exchange(&c->events, 0);
}

void fake_pump(struct bt_vcpu *c)
{
    while (atomic_load(&c->events) & BT_EV_TIMER) {
        atomic_fetch_and(&c->events, ~(uint32_t)BT_EV_TIMER);
        bt_timers_run(c);
    }
}

int fake_take(struct bt_vcpu *c)
{
    int seen, vector;

    fake_pump(c);
    atomic_fetch_and(&c->events, ~(uint32_t)BT_EV_IRQ);
    seen = bt_irq_pending(c);
    vector = bt_irq_ack(c);
    assert_int_equal(seen < 0, vector < 0);
    return vector;
}

void fake_wait(struct fake *f, uint64_t ns)
{
    fake_tsc += ns;
    fake_mono += ns;
    fake_real += ns;
    for (unsigned i = 0; i < f->vm.max_vcpus; i++) {
        struct bt_vcpu *c = f->vm.vcpus[i];

        if (bt_timer_next(c) <= fake_mono) {
            bt_vcpu_signal(c, BT_EV_TIMER);
            fake_pump(c);
        }
    }
}
