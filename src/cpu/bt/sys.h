/* Segments, control registers, event delivery: what the system half of the interpreter offers to the rest. */
#ifndef CPU_BT_SYS_H
#define CPU_BT_SYS_H

#include "cpu/bt/state.h"

/* Recompute everything that is derived from segments, CR0, CR4, EFER, CPL and RFLAGS: segbase, flat, mode, stack_bits,
 * ctx, STEP event. After any change of those. */
void bt_state_update(struct bt_vcpu *c);

/* Write RFLAGS bits of mask from value, with all consequences (TF, AC, IF, VM). */
void bt_rflags_write(struct bt_vcpu *c, uint64_t value, uint64_t mask);

/* Load a data/stack segment register with all checks (MOV, POP, LDS...). Raises #GP/#SS/#NP. */
void bt_seg_load(struct bt_vcpu *c, unsigned seg, uint16_t sel);

/* Check a near branch target (canonical / CS limit): raises #GP(0); the caller then stores it in r[BT_RIP]. */
void bt_check_rip(struct bt_vcpu *c, uint64_t rip);

/* Deliver the pending exception in c->exc, or an external interrupt / NMI: pushes the frame and goes to the handler;
 * faults while doing so become double faults and shutdown. Run loop only. */
void bt_deliver_exception(struct bt_vcpu *c);
void bt_deliver_interrupt(struct bt_vcpu *c, unsigned vector, bool nmi);

/* Control registers with checks (#GP) and consequences. bt_set_cr* also serve MOV CR, LMSW, task switch and set_sregs.
 */
void bt_set_cr0(struct bt_vcpu *c, uint64_t v);
void bt_set_cr3(struct bt_vcpu *c, uint64_t v);
void bt_set_cr4(struct bt_vcpu *c, uint64_t v);

/* MSRs: false = not there or bad value (the instruction raises #GP(0)). host: from set_msrs/get_msrs, may set
 * read-only. */
bool bt_msr_read(struct bt_vcpu *c, uint32_t index, uint64_t *ret, bool host);
bool bt_msr_write(struct bt_vcpu *c, uint32_t index, uint64_t value, bool host);

/* The CPU model was changed: which MSRs it has. */
void bt_msr_model_changed(struct bt_vcpu *c);

/* CPUID: fills eax..edx from the table set by vcpu_set_cpuid, with the dynamic bits (OSXSAVE, APIC id, XSAVE size). */
void bt_cpuid(struct bt_vcpu *c, uint32_t leaf, uint32_t subleaf, uint32_t regs[4]);
int bt_supported_cpuid(struct kvm_cpuid_entry2 *entries, unsigned *n_entries);
/* The same for a host whose CPUID is that of a function (for tests: the real one's is the instruction). */
typedef void bt_cpuid_fn(uint32_t leaf, uint32_t subleaf, uint32_t regs[4]);
int bt_offer_cpuid(bt_cpuid_fn *host, struct kvm_cpuid_entry2 *entries, unsigned *n_entries);
/* Whether the CPU model has a feature: leaf/subleaf/register (0 = eax..3 = edx)/bit. */
bool bt_has_cpuid(const struct bt_vcpu *c, uint32_t leaf, uint32_t subleaf, unsigned reg, unsigned bit);

/* Architectural RESET and INIT. */
void bt_vcpu_reset(struct bt_vcpu *c);
void bt_vcpu_init(struct bt_vcpu *c);
/* Real-mode start at vector << 12. */
void bt_vcpu_sipi(struct bt_vcpu *c, uint8_t vector);

/* Guest TSC now. */
uint64_t bt_tsc(const struct bt_vcpu *c);

/* Debug registers changed, or TF: recompute the STEP event and data breakpoints (flushes the TLB where need be). */
void bt_debug_update(struct bt_vcpu *c);

/* Around each instruction while BT_EV_STEP is set. before: raises #DB for an instruction breakpoint (not under RF, not
 * in a MOV SS shadow; c->shadow is still that of this instruction). after: the instruction has committed, c->shadow is
 * what it left; raises the #DB trap for TF (as sampled by before), data breakpoints and task switches, unless a MOV SS
 * delays it. */
void bt_step_before(struct bt_vcpu *c);
void bt_step_after(struct bt_vcpu *c);

/* A REP instruction leaves early with iterations to go (an event came): RF is set, as the hardware pushes it then. */
void bt_rep_yield(struct bt_vcpu *c);

/* What the CPU model (c->cpuid) allows was changed: recompute the cached bits. After vcpu_set_cpuid. */
void bt_cpuid_changed(struct bt_vcpu *c);

#endif
