/* From what the user wrote behind --cpu to the CPUID tables of a VM's vCPUs. */
#ifndef VMM_CPU_MODEL_H
#define VMM_CPU_MODEL_H

#include "base/attr.h"
#include "base/err.h"
#include "cpu/cpu.h"
#include "cpu/model.h"

#define VMM_CPUID_MAX 96
#define VMM_CPU_NAME_MAX 4096
#define VMM_CPU_NOTE_MAX 256

struct vmm_cpu {
    /* The model as --cpu takes it, in one spelling: MODEL[,+FEATURE...][,-FEATURE...]. Under the same kind of engine it
     * gives the same CPU everywhere, so it is what a snapshot states. */
    char name[VMM_CPU_NAME_MAX];
    char note[VMM_CPU_NOTE_MAX]; /* why the default is not what it is elsewhere; empty where it is */
    struct kvm_cpuid_entry2 cpuid[VMM_CPUID_MAX];
    unsigned n_cpuid;
};

/* The CPU for text (MODEL[,+FEATURE|,-FEATURE]...; NULL: the default model, or as much of it as there is here).
 * -EINVAL: not understood; -ENOTSUP: this engine or host lacks something; both with text. */
int vmm_cpu_resolve(const char *text, const struct cpu_ops *ops, struct cpu_vm *vm, struct vmm_cpu *ret,
                    struct err *e) MUST_USE;
/* The same for an offer that is known already. Fills name and note and the model. */
int vmm_cpu_choose(const char *text, const struct cpu_offer *offer, const char *engine, struct vmm_cpu *ret,
                   struct cpu_model *ret_model, struct err *e) MUST_USE;

/* Fill in what differs between vCPUs, in a copy of the CPU's table: entries has room for n_cpuid. */
void vmm_cpu_topology(const struct vmm_cpu *cpu, unsigned id, unsigned n_vcpus, struct kvm_cpuid_entry2 *entries);

#endif
