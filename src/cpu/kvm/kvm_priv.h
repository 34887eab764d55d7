/* Inner structures of the KVM engine. Only files in cpu/kvm include this.
 *
 * Locking: cpu_vm.lock guards the routing table, the irqfds and the memory slots. The ioctls themselves are safe on any
 * thread. The run path takes no lock. */
#ifndef CPU_KVM_KVM_PRIV_H
#define CPU_KVM_KVM_PRIV_H

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

#include "cpu/kvm/kvm.h"

/* Routes for interrupts by eventfd, after the 40 of the interrupt controllers; far below the kernel's limit of 4096. */
#define KVM_IRQFDS_MAX 512

/* The kick signal. Its handler does nothing: what counts is that KVM_RUN is interrupted. */
#define KVM_KICK_SIGNAL (SIGRTMIN + 2)

/* KVM on Intel CPUs without unrestricted guest mode needs three pages for real mode and one for the identity map. Below
 * the 16 MiB of firmware at the top of 4 GiB, above the APIC pages, where no RAM or BAR is put. */
#define KVM_IDENTITY_MAP_ADDR 0xfeffc000ULL
#define KVM_TSS_ADDR 0xfeffd000ULL

struct kvm_irqfd_entry {
    int fd; /* -1: free */
    uint64_t addr;
    uint32_t data;
};

/* Counted on the vCPU's own thread, read by stats from any. */
struct kvm_counters {
    _Atomic uint64_t runs, pio, mmio, kicks, other;
};

struct cpu_vm {
    struct mem *mem;
    const struct cpu_bus_ops *bus;
    void *bus_opaque;
    unsigned max_vcpus;
    int kvm_fd, fd;
    unsigned run_size; /* bytes of the shared struct kvm_run */
    bool has_xcrs, has_readonly, has_any_length, has_debugregs;

    pthread_mutex_t lock;
    bool slots_set, logging;
    struct kvm_irqfd_entry irqfds[KVM_IRQFDS_MAX];
    struct cpu_vcpu *vcpus[CPU_VCPUS_MAX];
    struct kvm_counters gone; /* sums of vCPUs that were freed */
};

struct cpu_vcpu {
    struct cpu_vm *vm;
    unsigned id;
    int fd;
    struct kvm_run *run;
    _Atomic pid_t tid; /* of the thread inside vcpu_run, else 0 */
    _Atomic bool kicked;
    struct kvm_counters counters;
};

/* ioctl as -errno, again after EINTR. Never for KVM_RUN, which EINTR means something to. */
int kvm_ioctl(int fd, unsigned long request, unsigned long arg);
static inline int kvm_ioctl_ptr(int fd, unsigned long request, const void *arg)
{
    return kvm_ioctl(fd, request, (unsigned long)arg);
}

/* irq.c */
void kvm_irq_init(struct cpu_vm *vm);
/* Load the routing table: the controllers' pins and one MSI for each irqfd. Lock held (or the VM is not shared yet). */
int kvm_irq_load_routes_locked(struct cpu_vm *vm) MUST_USE;
int kvm_irq_line(struct cpu_vm *vm, unsigned gsi, bool level);
int kvm_signal_msi(struct cpu_vm *vm, uint64_t addr, uint32_t data);
int kvm_irqfd_add(struct cpu_vm *vm, int fd, uint64_t addr, uint32_t data);
int kvm_irqfd_del(struct cpu_vm *vm, int fd);
int kvm_doorbell_add(struct cpu_vm *vm, const struct cpu_doorbell *bell);
int kvm_doorbell_del(struct cpu_vm *vm, const struct cpu_doorbell *bell);

/* slots.c */
/* Give the regions of mem to KVM, once. -EEXIST where RAM lies over the engine's own pages. */
int kvm_slots_set_locked(struct cpu_vm *vm) MUST_USE;
int kvm_log_dirty(struct cpu_vm *vm, bool on);
int kvm_sync_dirty(struct cpu_vm *vm);

/* vcpu.c */
int kvm_vcpu_new(struct cpu_vm *vm, unsigned id, struct cpu_vcpu **ret_vcpu);
void kvm_vcpu_free(struct cpu_vcpu *vcpu);
int kvm_vcpu_run(struct cpu_vcpu *vcpu, struct cpu_exit *ret_exit);
void kvm_vcpu_kick(struct cpu_vcpu *vcpu);

/* state.c */
int kvm_supported_cpuid(struct cpu_vm *vm, struct kvm_cpuid_entry2 *entries, unsigned *n_entries);
int kvm_vcpu_set_cpuid(struct cpu_vcpu *vcpu, const struct kvm_cpuid_entry2 *entries, unsigned n);
int kvm_get_irqchip(struct cpu_vm *vm, struct kvm_irqchip *chip);
int kvm_set_irqchip(struct cpu_vm *vm, const struct kvm_irqchip *chip);
int kvm_get_pit(struct cpu_vm *vm, struct kvm_pit_state2 *pit);
int kvm_set_pit(struct cpu_vm *vm, const struct kvm_pit_state2 *pit);
int kvm_get_clock(struct cpu_vm *vm, struct kvm_clock_data *clock);
int kvm_set_clock(struct cpu_vm *vm, const struct kvm_clock_data *clock);
int kvm_get_msrs(struct cpu_vcpu *vcpu, struct cpu_msr_entry *entries, unsigned n);
int kvm_set_msrs(struct cpu_vcpu *vcpu, const struct cpu_msr_entry *entries, unsigned n);
int kvm_get_regs(struct cpu_vcpu *vcpu, struct kvm_regs *regs);
int kvm_set_regs(struct cpu_vcpu *vcpu, const struct kvm_regs *regs);
int kvm_get_sregs(struct cpu_vcpu *vcpu, struct kvm_sregs *sregs);
int kvm_set_sregs(struct cpu_vcpu *vcpu, const struct kvm_sregs *sregs);
int kvm_get_xsave(struct cpu_vcpu *vcpu, struct kvm_xsave *xsave);
int kvm_set_xsave(struct cpu_vcpu *vcpu, const struct kvm_xsave *xsave);
int kvm_get_xcrs(struct cpu_vcpu *vcpu, struct kvm_xcrs *xcrs);
int kvm_set_xcrs(struct cpu_vcpu *vcpu, const struct kvm_xcrs *xcrs);
int kvm_get_lapic(struct cpu_vcpu *vcpu, struct kvm_lapic_state *lapic);
int kvm_set_lapic(struct cpu_vcpu *vcpu, const struct kvm_lapic_state *lapic);
int kvm_get_events(struct cpu_vcpu *vcpu, struct kvm_vcpu_events *events);
int kvm_set_events(struct cpu_vcpu *vcpu, const struct kvm_vcpu_events *events);
int kvm_get_mp_state(struct cpu_vcpu *vcpu, struct kvm_mp_state *state);
int kvm_set_mp_state(struct cpu_vcpu *vcpu, const struct kvm_mp_state *state);
int kvm_get_debugregs(struct cpu_vcpu *vcpu, struct kvm_debugregs *regs);
int kvm_set_debugregs(struct cpu_vcpu *vcpu, const struct kvm_debugregs *regs);
int kvm_get_tsc(struct cpu_vcpu *vcpu, struct cpu_tsc *tsc);
int kvm_set_tsc(struct cpu_vcpu *vcpu, const struct cpu_tsc *tsc);

#endif
