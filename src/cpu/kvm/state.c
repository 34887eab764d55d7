/* KVM engine: CPUID and moving state in and out. The contract's structures are the kernel's own, so most functions are
 * one ioctl. */
#include "cpu/kvm/kvm_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <x86intrin.h>

#include "base/cleanup.h"

/* The kernel's own bound on a CPUID table (KVM_MAX_CPUID_ENTRIES). */
#define KVM_CPUID_ENTRIES_MAX 256
#define KVM_MSR_CHUNK 64

int kvm_supported_cpuid(struct cpu_vm *vm, struct kvm_cpuid_entry2 *entries, unsigned *n_entries)
{
    AUTO_FREE struct kvm_cpuid2 *table = calloc(1, sizeof(*table) + KVM_CPUID_ENTRIES_MAX * sizeof(table->entries[0]));
    int res;

    if (!table)
        return -ENOMEM;
    table->nent = KVM_CPUID_ENTRIES_MAX;
    res = kvm_ioctl_ptr(vm->kvm_fd, KVM_GET_SUPPORTED_CPUID, table);
    if (res < 0)
        return res;
    if (table->nent > *n_entries)
        return -E2BIG;
    memcpy(entries, table->entries, table->nent * sizeof(table->entries[0]));
    *n_entries = table->nent;
    return 0;
}

int kvm_vcpu_set_cpuid(struct cpu_vcpu *vcpu, const struct kvm_cpuid_entry2 *entries, unsigned n)
{
    AUTO_FREE struct kvm_cpuid2 *table = NULL;

    if (n > KVM_CPUID_ENTRIES_MAX)
        return -E2BIG;
    table = calloc(1, sizeof(*table) + n * sizeof(table->entries[0]));
    if (!table)
        return -ENOMEM;
    table->nent = n;
    memcpy(table->entries, entries, n * sizeof(table->entries[0]));
    return kvm_ioctl_ptr(vcpu->fd, KVM_SET_CPUID2, table);
}

union kvm_msr_chunk {
    struct kvm_msrs msrs;
    uint8_t space[sizeof(struct kvm_msrs) + KVM_MSR_CHUNK * sizeof(struct kvm_msr_entry)];
};

int kvm_get_msrs(struct cpu_vcpu *vcpu, struct cpu_msr_entry *entries, unsigned n)
{
    union kvm_msr_chunk chunk;
    unsigned done = 0;

    while (done < n) {
        unsigned part = MIN(n - done, KVM_MSR_CHUNK);
        int res;

        memset(&chunk, 0, sizeof(chunk));
        chunk.msrs.nmsrs = part;
        for (unsigned i = 0; i < part; i++)
            chunk.msrs.entries[i].index = entries[done + i].index;
        res = kvm_ioctl_ptr(vcpu->fd, KVM_GET_MSRS, &chunk);
        if (res < 0)
            return res;
        for (unsigned i = 0; i < (unsigned)res; i++)
            entries[done + i].value = chunk.msrs.entries[i].data;
        done += (unsigned)res;
        if ((unsigned)res < part)
            break;
    }
    return (int)done;
}

int kvm_set_msrs(struct cpu_vcpu *vcpu, const struct cpu_msr_entry *entries, unsigned n)
{
    union kvm_msr_chunk chunk;
    unsigned done = 0;

    while (done < n) {
        unsigned part = MIN(n - done, KVM_MSR_CHUNK);
        int res;

        memset(&chunk, 0, sizeof(chunk));
        chunk.msrs.nmsrs = part;
        for (unsigned i = 0; i < part; i++) {
            chunk.msrs.entries[i].index = entries[done + i].index;
            chunk.msrs.entries[i].data = entries[done + i].value;
        }
        res = kvm_ioctl_ptr(vcpu->fd, KVM_SET_MSRS, &chunk);
        if (res < 0)
            return res;
        done += (unsigned)res;
        if ((unsigned)res < part)
            break;
    }
    return (int)done;
}

int kvm_get_irqchip(struct cpu_vm *vm, struct kvm_irqchip *chip)
{
    return kvm_ioctl_ptr(vm->fd, KVM_GET_IRQCHIP, chip);
}

int kvm_set_irqchip(struct cpu_vm *vm, const struct kvm_irqchip *chip)
{
    return kvm_ioctl_ptr(vm->fd, KVM_SET_IRQCHIP, chip);
}

int kvm_get_pit(struct cpu_vm *vm, struct kvm_pit_state2 *pit)
{
    return kvm_ioctl_ptr(vm->fd, KVM_GET_PIT2, pit);
}

int kvm_set_pit(struct cpu_vm *vm, const struct kvm_pit_state2 *pit)
{
    return kvm_ioctl_ptr(vm->fd, KVM_SET_PIT2, pit);
}

int kvm_get_clock(struct cpu_vm *vm, struct kvm_clock_data *clock)
{
    return kvm_ioctl_ptr(vm->fd, KVM_GET_CLOCK, clock);
}

int kvm_set_clock(struct cpu_vm *vm, const struct kvm_clock_data *clock)
{
    struct kvm_clock_data in = *clock;

    /* The flags tell what get_clock found; KVM_SET_CLOCK knows only this one. */
    in.flags &= KVM_CLOCK_REALTIME;
    return kvm_ioctl_ptr(vm->fd, KVM_SET_CLOCK, &in);
}

/* name, structure, KVM_GET_*, KVM_SET_*, whether this kernel has it */
#define KVM_STATE_TABLE(X)                                                     \
    X(regs, kvm_regs, KVM_GET_REGS, KVM_SET_REGS, true)                        \
    X(sregs, kvm_sregs, KVM_GET_SREGS, KVM_SET_SREGS, true)                    \
    X(xsave, kvm_xsave, KVM_GET_XSAVE, KVM_SET_XSAVE, true)                    \
    X(xcrs, kvm_xcrs, KVM_GET_XCRS, KVM_SET_XCRS, vcpu->vm->has_xcrs)          \
    X(lapic, kvm_lapic_state, KVM_GET_LAPIC, KVM_SET_LAPIC, true)              \
    X(events, kvm_vcpu_events, KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, true) \
    X(mp_state, kvm_mp_state, KVM_GET_MP_STATE, KVM_SET_MP_STATE, true)        \
    X(debugregs, kvm_debugregs, KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, vcpu->vm->has_debugregs)

#define KVM_DEFINE_STATE(name, type, get, set, present)                   \
    int kvm_get_##name(struct cpu_vcpu *vcpu, struct type *state)         \
    {                                                                     \
        return (present) ? kvm_ioctl_ptr(vcpu->fd, get, state) : -ENOTTY; \
    }                                                                     \
    int kvm_set_##name(struct cpu_vcpu *vcpu, const struct type *state)   \
    {                                                                     \
        return (present) ? kvm_ioctl_ptr(vcpu->fd, set, state) : -ENOTTY; \
    }
KVM_STATE_TABLE(KVM_DEFINE_STATE)

#define KVM_MSR_TSC 0x10U

/* The offset as such since Linux 5.16; before, what the counter shows. KVM makes counters equal that are set to nearly
 * the same at nearly the same time. */
int kvm_get_tsc(struct cpu_vcpu *vcpu, struct cpu_tsc *tsc)
{
    uint64_t offset = 0;
    const struct kvm_device_attr attr = { .group = KVM_VCPU_TSC_CTRL,
                                          .attr = KVM_VCPU_TSC_OFFSET,
                                          .addr = (uintptr_t)&offset };
    struct cpu_msr_entry msr = { .index = KVM_MSR_TSC };
    int khz = kvm_ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0), res;

    res = kvm_ioctl_ptr(vcpu->fd, KVM_GET_DEVICE_ATTR, &attr);
    if (res < 0) {
        res = kvm_get_msrs(vcpu, &msr, 1);
        offset = msr.value - __rdtsc();
    }
    if (res < 0)
        return res;
    *tsc = (struct cpu_tsc){ .offset = offset, .khz = khz > 0 ? (uint64_t)khz : 0 };
    return 0;
}

int kvm_set_tsc(struct cpu_vcpu *vcpu, const struct cpu_tsc *tsc)
{
    const struct kvm_device_attr attr = { .group = KVM_VCPU_TSC_CTRL,
                                          .attr = KVM_VCPU_TSC_OFFSET,
                                          .addr = (uintptr_t)&tsc->offset };
    struct cpu_msr_entry msr = { .index = KVM_MSR_TSC };
    int res = kvm_ioctl_ptr(vcpu->fd, KVM_SET_DEVICE_ATTR, &attr);

    if (res >= 0)
        return 0;
    msr.value = __rdtsc() + tsc->offset;
    res = kvm_set_msrs(vcpu, &msr, 1);
    return res < 0 ? res : 0;
}
