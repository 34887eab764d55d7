/* The CPUID table of a vCPU: what the engine offers, with the parts that differ between the vCPUs of a VM filled in. */
#ifndef VMM_CPU_MODEL_H
#define VMM_CPU_MODEL_H

#include "base/attr.h"
#include "cpu/cpu.h"

#define VMM_CPUID_MAX 96

/* Build the table for vCPU id of n_vcpus. *n_entries: in capacity, out count. -E2BIG. */
int vmm_cpuid_build(const struct cpu_ops *ops, struct cpu_vm *vm, unsigned id, unsigned n_vcpus,
                    struct kvm_cpuid_entry2 *entries, unsigned *n_entries) MUST_USE;

#endif
