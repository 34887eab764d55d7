/* The KVM engine: struct cpu_ops on top of /dev/kvm, with the kernel's own interrupt controllers and PIT.
 * That /dev/kvm opens says nothing about whether it can run a stock guest: the engine probe (vmm/probe.h) decides. */
#ifndef CPU_KVM_KVM_H
#define CPU_KVM_KVM_H

#include "cpu/cpu.h"

extern const struct cpu_ops cpu_kvm_ops;

#endif
