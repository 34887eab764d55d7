/* The engine contract for the interpreter and the translator: creation, inputs, running. Ordinary code: it runs before
 * and between guest code, never while guest FP state is live. */
#include <errno.h>
#include <linux/membarrier.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cpu/bt/block_priv.h"
#include "cpu/bt/bt.h"
#include "cpu/bt/doorbell.h"
#include "cpu/bt/engine_priv.h"
#include "cpu/bt/fp.h"
#include "cpu/bt/irqchip/irqchip.h"
#include "cpu/bt/mmu.h"
#include "cpu/bt/run.h"
#include "cpu/bt/sys.h"
#include "cpu/bt/t1.h"

static void engine_vm_free(struct cpu_vm *vm)
{
    if (!vm)
        return;
    vm->vm.mem->code_written = NULL;
    bt_pv_free_vm(vm->vm.pv);
    bt_irqchip_free(vm->vm.irqchip);
    bt_t1_free(vm->vm.t1);
    bt_stubs_free(vm->vm.stubs);
    bt_cache_free(vm->vm.cache);
    free(vm->vm.bells);
    free(vm);
}

/* translate: with a translator; hot: blocks that ran this often are translated. */
struct engine_variant {
    const struct bt_cache_limits *limits;
    bool translate;
    uint32_t hot;
};

static int engine_caches_new(struct bt_vm *vm, const struct engine_variant *v)
{
    int r = bt_cache_new(v->limits, &vm->cache);

    if (r < 0)
        return r;
    r = bt_stubs_new(&vm->stubs);
    if (r < 0 || !v->translate)
        return r;
    vm->hot = v->hot;
    return bt_t1_new(v->limits->code, &vm->t1);
}

static int engine_variant_new(const struct cpu_vm_config *config, const struct engine_variant *v,
                              struct cpu_vm **ret_vm)
{
    struct cpu_vm *vm;
    int r;

    if (config->max_vcpus == 0 || config->max_vcpus > CPU_VCPUS_MAX)
        return -EINVAL;
    vm = calloc(1, sizeof(*vm));
    if (!vm)
        return -ENOMEM;
    vm->vm.mem = config->mem;
    vm->vm.bus = config->bus;
    vm->vm.bus_opaque = config->bus_opaque;
    vm->vm.max_vcpus = config->max_vcpus;
    r = bt_fp_init_process();
    if (r < 0)
        goto fail;
    /* block.c relies on it; the kernel has it since 4.14. */
    if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) < 0) {
        r = -errno;
        goto fail;
    }
    vm->vm.bells = calloc(1, sizeof(*vm->vm.bells));
    if (!vm->vm.bells) {
        r = -ENOMEM;
        goto fail;
    }
    r = engine_caches_new(&vm->vm, v);
    if (r < 0)
        goto fail;
    r = bt_irqchip_new(&vm->vm, &vm->vm.irqchip);
    if (r < 0)
        goto fail;
    r = bt_pv_new_vm(&vm->vm, &vm->vm.pv);
    if (r < 0)
        goto fail;
    vm->vm.count = config->count;
    vm->vm.mem->code_written = bt_code_written;
    vm->vm.mem->code_opaque = &vm->vm;
    *ret_vm = vm;
    return 0;
fail:
    engine_vm_free(vm);
    return r;
}

static int engine_vm_new(const struct cpu_vm_config *config, struct cpu_vm **ret_vm)
{
    static const struct engine_variant interp = { .limits = &bt_cache_usual };

    return engine_variant_new(config, &interp, ret_vm);
}

static int engine_bt_vm_new(const struct cpu_vm_config *config, struct cpu_vm **ret_vm)
{
    static const struct engine_variant bt = { .limits = &bt_cache_usual, .translate = true, .hot = 16 };

    return engine_variant_new(config, &bt, ret_vm);
}

static int engine_eager_vm_new(const struct cpu_vm_config *config, struct cpu_vm **ret_vm)
{
    static const struct engine_variant eager = { .limits = &bt_cache_usual, .translate = true };

    return engine_variant_new(config, &eager, ret_vm);
}

static int engine_small_vm_new(const struct cpu_vm_config *config, struct cpu_vm **ret_vm)
{
    static const struct engine_variant small = { .limits = &bt_cache_small, .translate = true, .hot = 1 };

    return engine_variant_new(config, &small, ret_vm);
}

static void engine_vcpu_free(struct cpu_vcpu *vcpu)
{
    struct bt_vcpu *c = &vcpu->c;

    if (!vcpu)
        return;
    if (c->vm->vcpus[c->id] == c)
        c->vm->vcpus[c->id] = NULL;
    bt_pv_free_vcpu(c->pv);
    bt_lapic_free(c->lapic);
    bt_front_free(c->front);
    (void)munmap(vcpu, sizeof(*vcpu));
}

static int engine_vcpu_new(struct cpu_vm *vm, unsigned id, struct cpu_vcpu **ret_vcpu)
{
    struct cpu_vcpu *vcpu;
    struct bt_vcpu *c;
    void *place;
    int r;

    if (id >= vm->vm.max_vcpus)
        return -EINVAL;
    if (vm->vm.vcpus[id])
        return -EEXIST;
    /* Zero pages, which are there once they are used; aligned to more than a line. */
    place = mmap(NULL, sizeof(*vcpu), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (place == MAP_FAILED)
        return -ENOMEM;
    vcpu = place;
    c = &vcpu->c;
    c->vm = &vm->vm;
    c->id = id;
    c->phys_mask = BITS64(BT_PHYS_BITS - 1, 0);
    c->cache = vm->vm.cache;
    c->stubs = vm->vm.stubs;
    c->t1 = vm->vm.t1;
    atomic_store(&c->t1_log, atomic_load(&vm->vm.mem->log_dirty));
    r = bt_front_new(&c->front);
    if (r < 0)
        goto fail;
    r = bt_lapic_new(c, &c->lapic);
    if (r < 0)
        goto fail;
    r = bt_pv_new_vcpu(c, &c->pv);
    if (r < 0)
        goto fail;
    bt_tlb_flush_all(c);
    bt_vcpu_reset(c);
    bt_lapic_reset(c, false);
    c->mp_state = id == 0 ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_UNINITIALIZED;
    vm->vm.vcpus[id] = c;
    atomic_fetch_add(&vm->vm.n_vcpus, 1);
    *ret_vcpu = vcpu;
    return 0;
fail:
    engine_vcpu_free(vcpu);
    return r;
}

static int engine_vcpu_run(struct cpu_vcpu *vcpu, struct cpu_exit *ret_exit)
{
    struct bt_vcpu *c = &vcpu->c;

    *ret_exit = (struct cpu_exit){ 0 };
    if (c->shutdown) {
        ret_exit->reason = CPU_EXIT_SHUTDOWN;
        return 0;
    }
    atomic_store(&c->tid, (int)syscall(SYS_gettid));
    bt_vcpu_loop(c, ret_exit);
    atomic_store(&c->tid, 0);
    return 0;
}

static void engine_vcpu_kick(struct cpu_vcpu *vcpu)
{
    bt_vcpu_signal(&vcpu->c, BT_EV_KICK);
}

static int engine_supported_cpuid(struct cpu_vm *vm, struct kvm_cpuid_entry2 *entries, unsigned *n_entries)
{
    return bt_supported_cpuid(entries, n_entries);
}

static int engine_vcpu_set_cpuid(struct cpu_vcpu *vcpu, const struct kvm_cpuid_entry2 *entries, unsigned n)
{
    struct bt_vcpu *c = &vcpu->c;

    if (n > BT_CPUID_MAX)
        return -E2BIG;
    memcpy(c->cpuid, entries, n * sizeof(*entries));
    c->n_cpuid = n;
    bt_cpuid_changed(c);
    bt_cache_flush(c->vm); /* whether an encoding is defined depends on it */
    return 0;
}

static int engine_irq_line(struct cpu_vm *vm, unsigned gsi, bool level)
{
    if (gsi >= 24)
        return -EINVAL;
    bt_irq_line(&vm->vm, gsi, level);
    return 0;
}

static int engine_signal_msi(struct cpu_vm *vm, uint64_t addr, uint32_t data)
{
    bt_irq_msi(&vm->vm, addr, data);
    return 0;
}

static int engine_doorbell_add(struct cpu_vm *vm, const struct cpu_doorbell *bell)
{
    return bt_bell_add(vm->vm.bells, bell);
}

static int engine_doorbell_del(struct cpu_vm *vm, const struct cpu_doorbell *bell)
{
    return bt_bell_del(vm->vm.bells, bell);
}

static int engine_log_dirty(struct cpu_vm *vm, bool on)
{
    mem_log_dirty(vm->vm.mem, on);
    for (unsigned i = 0; i < vm->vm.max_vcpus; i++) {
        if (vm->vm.vcpus[i])
            atomic_store(&vm->vm.vcpus[i]->t1_log, on);
    }
    return 0;
}

static int engine_sync_dirty(struct cpu_vm *vm)
{
    return 0; /* stores go to the log of mem directly */
}

static int engine_get_irqchip(struct cpu_vm *vm, struct kvm_irqchip *chip)
{
    return bt_irqchip_get(&vm->vm, chip);
}

static int engine_set_irqchip(struct cpu_vm *vm, const struct kvm_irqchip *chip)
{
    return bt_irqchip_set(&vm->vm, chip);
}

static int engine_get_pit(struct cpu_vm *vm, struct kvm_pit_state2 *pit)
{
    return bt_pit_get(&vm->vm, pit);
}

static int engine_set_pit(struct cpu_vm *vm, const struct kvm_pit_state2 *pit)
{
    return bt_pit_set(&vm->vm, pit);
}

static int engine_get_clock(struct cpu_vm *vm, struct kvm_clock_data *clock)
{
    return bt_pv_get_clock(&vm->vm, clock);
}

static int engine_set_clock(struct cpu_vm *vm, const struct kvm_clock_data *clock)
{
    return bt_pv_set_clock(&vm->vm, clock);
}

static int engine_get_lapic(struct cpu_vcpu *vcpu, struct kvm_lapic_state *lapic)
{
    return bt_lapic_get(&vcpu->c, lapic);
}

static int engine_set_lapic(struct cpu_vcpu *vcpu, const struct kvm_lapic_state *lapic)
{
    return bt_lapic_set(&vcpu->c, lapic);
}

static uint64_t engine_vcpus_bytes(const struct bt_vm *vm)
{
    return atomic_load(&vm->n_vcpus) * (sizeof(struct cpu_vcpu) + sizeof(struct bt_front));
}

static int engine_stats(struct cpu_vm *vm, void (*each)(void *opaque, const char *name, uint64_t value), void *opaque)
{
    static const char *const names[BT_STAT_N] = {
        [BT_STAT_BLOCKS] = "blocks_run",
        [BT_STAT_DECODED] = "instructions_decoded",
        [BT_STAT_TLB_FILL] = "tlb_fills",
        [BT_STAT_TLB_FLUSH] = "tlb_flushes",
        [BT_STAT_MMIO] = "mmio_accesses",
        [BT_STAT_PIO] = "pio_accesses",
        [BT_STAT_EXC] = "exceptions",
        [BT_STAT_IRQ] = "interrupts",
        [BT_STAT_HLT] = "halts",
        [BT_STAT_SMC] = "code_writes",
        [BT_STAT_FP_SWITCH] = "fp_switches",
        [BT_STAT_T1_TRANS] = "translations",
        [BT_STAT_T1_ENTER] = "translated_entries",
        [BT_STAT_T1_LINK] = "translations_chained",
        [BT_STAT_T1_SLOW] = "handler_calls",
        [BT_STAT_T1_STALE] = "translations_stale",
        [BT_STAT_BLOCKS_DECODED] = "blocks_decoded",
        [BT_STAT_CHECKED] = "content_checked_pages",
        [BT_STAT_PAUSE] = "pause_yields",
        [BT_STAT_TLB_HIT] = "tlb_hits",
    };
    uint64_t insns = 0, sum[BT_STAT_N] = { 0 };

    for (unsigned id = 0; id < vm->vm.max_vcpus; id++) {
        const struct bt_vcpu *c = vm->vm.vcpus[id];

        if (!c)
            continue;
        insns += c->insns;
        for (unsigned i = 0; i < BT_STAT_N; i++)
            sum[i] += c->stat[i];
    }
    each(opaque, "instructions", insns);
    for (unsigned i = 0; i < BT_STAT_N; i++)
        each(opaque, names[i], sum[i]);
    each(opaque, "evictions", vm->vm.stat_evictions);
    each(opaque, "engine_bytes", bt_cache_bytes(&vm->vm) + engine_vcpus_bytes(&vm->vm));
    return 0;
}

/* All members but the name and vm_new. */
#define ENGINE_OPS                                                                                                  \
    .vm_free = engine_vm_free, .supported_cpuid = engine_supported_cpuid, .irq_line = engine_irq_line,              \
    .signal_msi = engine_signal_msi, .irqfd_add = cpu_no_irqfd_add, .irqfd_del = cpu_no_irqfd_del,                  \
    .doorbell_add = engine_doorbell_add, .doorbell_del = engine_doorbell_del, .log_dirty = engine_log_dirty,        \
    .sync_dirty = engine_sync_dirty, .get_irqchip = engine_get_irqchip, .set_irqchip = engine_set_irqchip,          \
    .get_pit = engine_get_pit, .set_pit = engine_set_pit, .get_clock = engine_get_clock,                            \
    .set_clock = engine_set_clock, .vcpu_new = engine_vcpu_new, .vcpu_free = engine_vcpu_free,                      \
    .vcpu_run = engine_vcpu_run, .vcpu_kick = engine_vcpu_kick, .vcpu_set_cpuid = engine_vcpu_set_cpuid,            \
    .get_regs = bt_engine_get_regs, .set_regs = bt_engine_set_regs, .get_sregs = bt_engine_get_sregs,               \
    .set_sregs = bt_engine_set_sregs, .get_xsave = bt_engine_get_xsave, .set_xsave = bt_engine_set_xsave,           \
    .get_xcrs = bt_engine_get_xcrs, .set_xcrs = bt_engine_set_xcrs, .get_msrs = bt_engine_get_msrs,                 \
    .set_msrs = bt_engine_set_msrs, .get_lapic = engine_get_lapic, .set_lapic = engine_set_lapic,                   \
    .get_events = bt_engine_get_events, .set_events = bt_engine_set_events, .get_mp_state = bt_engine_get_mp_state, \
    .set_mp_state = bt_engine_set_mp_state, .get_debugregs = bt_engine_get_debugregs,                               \
    .set_debugregs = bt_engine_set_debugregs, .get_tsc = bt_engine_get_tsc, .set_tsc = bt_engine_set_tsc,           \
    .stats = engine_stats

const struct cpu_ops cpu_interp_ops = { .name = "interp", .vm_new = engine_vm_new, ENGINE_OPS };
const struct cpu_ops cpu_bt_ops = { .name = "bt", .vm_new = engine_bt_vm_new, ENGINE_OPS };
const struct cpu_ops cpu_bt_eager_ops = { .name = "bt-eager", .vm_new = engine_eager_vm_new, ENGINE_OPS };
const struct cpu_ops cpu_bt_small_ops = { .name = "bt-small", .vm_new = engine_small_vm_new, ENGINE_OPS };
