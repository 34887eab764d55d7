/* What the files of the engine's outer face share: the opaque types of the contract, and state transfer. */
#ifndef CPU_BT_ENGINE_PRIV_H
#define CPU_BT_ENGINE_PRIV_H

#include "cpu/bt/state.h"

struct cpu_vm {
    struct bt_vm vm;
};

struct cpu_vcpu {
    struct bt_vcpu c;
};

/* engine_state.c: the get/set members of struct cpu_ops. */
int bt_engine_get_regs(struct cpu_vcpu *vcpu, struct kvm_regs *regs);
int bt_engine_set_regs(struct cpu_vcpu *vcpu, const struct kvm_regs *regs);
int bt_engine_get_sregs(struct cpu_vcpu *vcpu, struct kvm_sregs *sregs);
int bt_engine_set_sregs(struct cpu_vcpu *vcpu, const struct kvm_sregs *sregs);
int bt_engine_get_xsave(struct cpu_vcpu *vcpu, struct kvm_xsave *xsave);
int bt_engine_set_xsave(struct cpu_vcpu *vcpu, const struct kvm_xsave *xsave);
int bt_engine_get_xcrs(struct cpu_vcpu *vcpu, struct kvm_xcrs *xcrs);
int bt_engine_set_xcrs(struct cpu_vcpu *vcpu, const struct kvm_xcrs *xcrs);
int bt_engine_get_msrs(struct cpu_vcpu *vcpu, struct cpu_msr_entry *entries, unsigned n);
int bt_engine_set_msrs(struct cpu_vcpu *vcpu, const struct cpu_msr_entry *entries, unsigned n);
int bt_engine_get_events(struct cpu_vcpu *vcpu, struct kvm_vcpu_events *events);
int bt_engine_set_events(struct cpu_vcpu *vcpu, const struct kvm_vcpu_events *events);
int bt_engine_get_mp_state(struct cpu_vcpu *vcpu, struct kvm_mp_state *state);
int bt_engine_set_mp_state(struct cpu_vcpu *vcpu, const struct kvm_mp_state *state);
int bt_engine_get_debugregs(struct cpu_vcpu *vcpu, struct kvm_debugregs *regs);
int bt_engine_set_debugregs(struct cpu_vcpu *vcpu, const struct kvm_debugregs *regs);
int bt_engine_get_tsc(struct cpu_vcpu *vcpu, struct cpu_tsc *tsc);
int bt_engine_set_tsc(struct cpu_vcpu *vcpu, const struct cpu_tsc *tsc);

#endif
