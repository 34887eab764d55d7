/* The engine contract. An engine is a const struct cpu_ops; its vocabulary is the state structures of the KVM user API
 * (<linux/kvm.h>, Documentation/virt/kvm/api.rst), so that a state taken under one engine can be set under another.
 *
 * An engine owns its interrupt controllers (PIC, IOAPIC, LAPICs), the PIT and the paravirtual clock. Device accesses
 * that it does not serve itself go, synchronously and on the vCPU's thread, to struct cpu_bus_ops: one instruction can
 * make many of them (REP INS, XSAVE to MMIO), and a call needs no half-done instruction in the saved state, where an
 * exit does. cpu_vcpu_run therefore returns only between instructions.
 *
 * Threads: one thread per vCPU calls its run/get/set functions (get/set also from elsewhere while that thread is not
 * inside run). Functions marked "any thread" may be called at any time. */
#ifndef CPU_CPU_H
#define CPU_CPU_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "mem/guest.h"

#define CPU_VCPUS_MAX 64

struct cpu_vm;
struct cpu_vcpu;

/* Device access, called by engines on a vCPU's thread with no engine lock held. Reads of nothing return all ones;
 * writes to nothing are dropped. len: 1, 2, 4 or 8 (pio: 1, 2 or 4). */
struct cpu_bus_ops {
    void (*pio)(void *opaque, uint16_t port, void *data, unsigned len, bool write);
    void (*mmio)(void *opaque, uint64_t gpa, void *data, unsigned len, bool write);
};

struct cpu_vm_config {
    struct mem *mem; /* borrowed until vm_free; its regions are complete before the first vcpu_new */
    const struct cpu_bus_ops *bus;
    void *bus_opaque;
    unsigned max_vcpus; /* 1..CPU_VCPUS_MAX */
    bool count;         /* count more for the statistics, at the price of some speed */
};

enum cpu_exit_reason {
    CPU_EXIT_KICK,           /* vcpu_kick was called */
    CPU_EXIT_SHUTDOWN,       /* triple fault */
    CPU_EXIT_DEBUG,          /* guest debugging: breakpoint or single step (reserved for a debugger) */
    CPU_EXIT_RESET,          /* the guest asked for a reset in a way that the engine saw */
    CPU_EXIT_INTERNAL_ERROR, /* the engine cannot go on; see internal */
    CPU_EXIT_HALTED,         /* HLT with interrupts off and nothing that could wake this VM: only with halt_exits */
};

struct cpu_exit {
    enum cpu_exit_reason reason;
    struct {
        uint64_t rip;
        uint8_t bytes[15]; /* the failing instruction, where it can be read */
        uint8_t n_bytes;
        char why[64]; /* short technical text, NUL-terminated */
    } internal;
};

/* A write of exactly len bytes (0: any) to this address signals fd (an eventfd) and goes no further. */
struct cpu_doorbell {
    uint64_t addr; /* guest-physical address, or port */
    unsigned len;  /* 0, 1, 2, 4 or 8 */
    bool pio;
    bool match; /* only where the written value is datamatch */
    uint64_t datamatch;
    int fd; /* borrowed until doorbell_del */
};

struct cpu_msr_entry {
    uint32_t index;
    uint64_t value;
};

/* For get_msrs and set_msrs only, and only of engines of ours: 1 = a kick by KVM_HC_KICK_CPU was not taken yet. Guests
 * never see it. */
#define CPU_MSR_PV_KICKED 0x4b564dffU

/* The guest's time stamp counter is the host's plus offset (modulo 2^64). */
struct cpu_tsc {
    uint64_t offset;
    uint64_t khz; /* the frequency; ignored by set_tsc */
};

/* All functions: 0 (or >= 0 where stated) or -errno. -ENOTTY: this engine does not have it. */
struct cpu_ops {
    const char *name; /* "kvm", "interp", "bt" */
    bool native;      /* guest code runs on the host's CPU itself, so the guest must know which one that is (model.h) */

    /* Create a VM with its interrupt controllers and PIT. -ENODEV, -EACCES, -ENOMEM. */
    int (*vm_new)(const struct cpu_vm_config *config, struct cpu_vm **ret_vm);
    /* Destroy; all vCPUs are already freed. Accepts NULL. */
    void (*vm_free)(struct cpu_vm *vm);

    /* What the engine can offer; the caller masks it by CPU model and gives the result to vcpu_set_cpuid. *n_entries:
     * in capacity, out count. -E2BIG. */
    int (*supported_cpuid)(struct cpu_vm *vm, struct kvm_cpuid_entry2 *entries, unsigned *n_entries);

    /* Level of a global interrupt line: GSI 0..15 go to PIC and IOAPIC, 16..23 to the IOAPIC. GSI n is IOAPIC pin n,
     * but GSI 0 (the PIT) is pin 2 and GSI 2 (the PICs' cascade) no pin, as on a PC: the MADT has the override 0 -> 2.
     * Any thread. */
    int (*irq_line)(struct cpu_vm *vm, unsigned gsi, bool level);
    /* Deliver one message-signalled interrupt. Any thread. */
    int (*signal_msi)(struct cpu_vm *vm, uint64_t addr, uint32_t data);
    /* Each signal on eventfd fd delivers that MSI, without the caller's help (fd borrowed until irqfd_del). */
    int (*irqfd_add)(struct cpu_vm *vm, int fd, uint64_t addr, uint32_t data);
    int (*irqfd_del)(struct cpu_vm *vm, int fd);
    int (*doorbell_add)(struct cpu_vm *vm, const struct cpu_doorbell *bell);
    int (*doorbell_del)(struct cpu_vm *vm, const struct cpu_doorbell *bell);

    /* Guest-write tracking into mem's dirty log (KVM: its own log is merged into mem's at fetch). */
    int (*log_dirty)(struct cpu_vm *vm, bool on);
    int (*sync_dirty)(struct cpu_vm *vm);

    /* VM-wide state. chip_id as KVM_GET_IRQCHIP. vCPUs must not run. */
    int (*get_irqchip)(struct cpu_vm *vm, struct kvm_irqchip *chip);
    int (*set_irqchip)(struct cpu_vm *vm, const struct kvm_irqchip *chip);
    int (*get_pit)(struct cpu_vm *vm, struct kvm_pit_state2 *pit);
    int (*set_pit)(struct cpu_vm *vm, const struct kvm_pit_state2 *pit);
    int (*get_clock)(struct cpu_vm *vm, struct kvm_clock_data *clock);
    int (*set_clock)(struct cpu_vm *vm, const struct kvm_clock_data *clock);

    /* Create vCPU number id (APIC id = id), in its architectural reset state; id 0 is runnable, the others wait for
     * INIT and SIPI. Called on any thread before that vCPU runs. */
    int (*vcpu_new)(struct cpu_vm *vm, unsigned id, struct cpu_vcpu **ret_vcpu);
    void (*vcpu_free)(struct cpu_vcpu *vcpu);
    /* Run until something of enum cpu_exit_reason happens; waits inside for HLT and for SIPI. */
    int (*vcpu_run)(struct cpu_vcpu *vcpu, struct cpu_exit *ret_exit);
    /* Make a present or the next vcpu_run return CPU_EXIT_KICK soon. Any thread; async-signal-safe. */
    void (*vcpu_kick)(struct cpu_vcpu *vcpu);

    int (*vcpu_set_cpuid)(struct cpu_vcpu *vcpu, const struct kvm_cpuid_entry2 *entries, unsigned n);
    int (*get_regs)(struct cpu_vcpu *vcpu, struct kvm_regs *regs);
    int (*set_regs)(struct cpu_vcpu *vcpu, const struct kvm_regs *regs);
    int (*get_sregs)(struct cpu_vcpu *vcpu, struct kvm_sregs *sregs);
    int (*set_sregs)(struct cpu_vcpu *vcpu, const struct kvm_sregs *sregs);
    int (*get_xsave)(struct cpu_vcpu *vcpu, struct kvm_xsave *xsave);
    int (*set_xsave)(struct cpu_vcpu *vcpu, const struct kvm_xsave *xsave);
    int (*get_xcrs)(struct cpu_vcpu *vcpu, struct kvm_xcrs *xcrs);
    int (*set_xcrs)(struct cpu_vcpu *vcpu, const struct kvm_xcrs *xcrs);
    /* Returns how many entries were handled: fewer than n means that entries[returned] was refused. */
    int (*get_msrs)(struct cpu_vcpu *vcpu, struct cpu_msr_entry *entries, unsigned n);
    int (*set_msrs)(struct cpu_vcpu *vcpu, const struct cpu_msr_entry *entries, unsigned n);
    /* Takes back an offer of paravirtual EOI, which changes guest memory; expires timers that are due: before get_msrs.
     * Set the base (sregs) before the LAPIC, and the TSC deadline (an MSR) after it. */
    int (*get_lapic)(struct cpu_vcpu *vcpu, struct kvm_lapic_state *lapic);
    int (*set_lapic)(struct cpu_vcpu *vcpu, const struct kvm_lapic_state *lapic);
    int (*get_events)(struct cpu_vcpu *vcpu, struct kvm_vcpu_events *events);
    int (*set_events)(struct cpu_vcpu *vcpu, const struct kvm_vcpu_events *events);
    /* Acts upon an INIT or SIPI that has arrived, so it comes before the other state of a vCPU that is to be saved. */
    int (*get_mp_state)(struct cpu_vcpu *vcpu, struct kvm_mp_state *state);
    int (*set_mp_state)(struct cpu_vcpu *vcpu, const struct kvm_mp_state *state);
    int (*get_debugregs)(struct cpu_vcpu *vcpu, struct kvm_debugregs *regs);
    int (*set_debugregs)(struct cpu_vcpu *vcpu, const struct kvm_debugregs *regs);
    /* An offset, because a counter that is read and written one vCPU after the other is never the same for all. Set it
     * for all vCPUs before the MSRs of any. */
    int (*get_tsc)(struct cpu_vcpu *vcpu, struct cpu_tsc *tsc);
    int (*set_tsc)(struct cpu_vcpu *vcpu, const struct cpu_tsc *tsc);

    /* Engine statistics as name/value pairs: calls each() once per figure. vCPUs may run (values are approximate). */
    int (*stats)(struct cpu_vm *vm, void (*each)(void *opaque, const char *name, uint64_t value), void *opaque);
};

/* Every member is set; engines that lack a function use a default that returns -ENOTTY (cpu/defaults.c). */
int cpu_no_irqfd_add(struct cpu_vm *vm, int fd, uint64_t addr, uint32_t data);
int cpu_no_irqfd_del(struct cpu_vm *vm, int fd);

#endif
