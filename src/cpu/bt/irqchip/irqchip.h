/* The engine's interrupt controllers and timers: two 8259 PICs, IOAPIC (24 pins), one LAPIC for each vCPU (xAPIC,
 * x2APIC, TSC deadline), the 8254 PIT with port 0x61, and the paravirtual features around them. State moves in and out
 * in the structures of the KVM API. Own futex lock inside; never calls the bus; wakes vCPUs by bt_vcpu_signal. Every
 * function here is safe with live guest FP state (general registers only). */
#ifndef CPU_BT_IRQCHIP_H
#define CPU_BT_IRQCHIP_H

#include "cpu/bt/state.h"

int bt_irqchip_new(struct bt_vm *vm, struct bt_irqchip **ret) MUST_USE;
void bt_irqchip_free(struct bt_irqchip *chip); /* NULL accepted; stops its timers */
int bt_lapic_new(struct bt_vcpu *c, struct bt_lapic **ret) MUST_USE;
void bt_lapic_free(struct bt_lapic *apic);
/* RESET (init = false) or INIT. */
void bt_lapic_reset(struct bt_vcpu *c, bool init);

/* Inputs. Any thread. */
void bt_irq_line(struct bt_vm *vm, unsigned gsi, bool level);
void bt_irq_msi(struct bt_vm *vm, uint64_t addr, uint32_t data);

/* For the run loop, on the vCPU's thread: the vector that would be delivered now (LAPIC above PPR, else PIC through
 * ExtINT/virtual wire), or -1; and its acknowledgement (returns the vector, -1 where there is none). There may be
 * another behind it: ask again. */
int bt_irq_pending(struct bt_vcpu *c);
int bt_irq_ack(struct bt_vcpu *c);
/* Called when BT_EV_TIMER is set, and after a HLT wait: expire timers (may raise BT_EV_IRQ), and end a HLT (c->halted)
 * that another vCPU kicked by KVM_HC_KICK_CPU. */
void bt_timers_run(struct bt_vcpu *c);
/* Host CLOCK_MONOTONIC ns of this vCPU's next timer expiry, UINT64_MAX if none (the HLT wait uses it). */
uint64_t bt_timer_next(struct bt_vcpu *c);

/* Registers. true: the access was for one of these devices and is done. */
bool bt_irqchip_mmio(struct bt_vcpu *c, uint64_t gpa, void *data, unsigned len, bool write);
bool bt_irqchip_pio(struct bt_vcpu *c, uint16_t port, void *data, unsigned len, bool write);
/* x2APIC MSRs 0x800..0x8ff, IA32_APIC_BASE (0x1b), IA32_TSC_DEADLINE (0x6e0): false = #GP. */
bool bt_lapic_msr_read(struct bt_vcpu *c, uint32_t index, uint64_t *ret);
bool bt_lapic_msr_write(struct bt_vcpu *c, uint32_t index, uint64_t value, bool host);
uint64_t bt_lapic_base(struct bt_vcpu *c); /* IA32_APIC_BASE */
/* CR8 = TPR bits 7..4. */
uint8_t bt_cr8_read(struct bt_vcpu *c);
void bt_cr8_write(struct bt_vcpu *c, uint8_t value);

int bt_lapic_get(struct bt_vcpu *c, struct kvm_lapic_state *s);
int bt_lapic_set(struct bt_vcpu *c, const struct kvm_lapic_state *s);
int bt_irqchip_get(struct bt_vm *vm, struct kvm_irqchip *chip);
int bt_irqchip_set(struct bt_vm *vm, const struct kvm_irqchip *chip);
int bt_pit_get(struct bt_vm *vm, struct kvm_pit_state2 *pit);
int bt_pit_set(struct bt_vm *vm, const struct kvm_pit_state2 *pit);

/* Paravirtual interface (pv.c): KVM CPUID leaves 0x40000000/1, MSRs 0x4b564d00.. and 0x11/0x12, hypercalls. */
int bt_pv_new_vm(struct bt_vm *vm, struct bt_pv_vm **ret) MUST_USE;
void bt_pv_free_vm(struct bt_pv_vm *pv);
int bt_pv_new_vcpu(struct bt_vcpu *c, struct bt_pv **ret) MUST_USE;
void bt_pv_free_vcpu(struct bt_pv *pv);
/* Appends the hypervisor leaves. */
int bt_pv_cpuid(struct kvm_cpuid_entry2 *entries, unsigned capacity, unsigned *n_entries);
bool bt_pv_msr(uint32_t index); /* is it one of ours? */
bool bt_pv_msr_read(struct bt_vcpu *c, uint32_t index, uint64_t *ret);
bool bt_pv_msr_write(struct bt_vcpu *c, uint32_t index, uint64_t value);
/* CPU_MSR_PV_KICKED. The vCPU does not run. */
uint64_t bt_pv_kicked(struct bt_vcpu *c);
bool bt_pv_set_kicked(struct bt_vcpu *c, uint64_t value);
/* VMCALL/VMMCALL at CPL 0: arguments in registers, result in RAX (KVM_HC_*: kick, send IPI, sched yield, clock
 * pairing). */
void bt_pv_hypercall(struct bt_vcpu *c);
/* Bookkeeping at the entry of vcpu_run and around HLT: steal time, kvm-clock after pauses, PV TLB flush requests. Order
 * of a HLT wait: bt_pv_idle(true), look at c->events, sleep until bt_timer_next, bt_pv_idle(false), bt_timers_run. */
void bt_pv_enter(struct bt_vcpu *c);
void bt_pv_idle(struct bt_vcpu *c, bool idle);
/* c->tsc_offset was changed (WRMSR to IA32_TSC or IA32_TSC_ADJUST, set_msrs): move what depends on it. */
void bt_pv_tsc_changed(struct bt_vcpu *c);
int bt_pv_get_clock(struct bt_vm *vm, struct kvm_clock_data *clock);
int bt_pv_set_clock(struct bt_vm *vm, const struct kvm_clock_data *clock);

#endif
