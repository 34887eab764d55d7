/* The vCPUs of a VM and their threads. */
#ifndef VMM_VCPUS_H
#define VMM_VCPUS_H

#include "base/attr.h"
#include "base/cleanup.h"
#include "cpu/cpu.h"

struct vmm_cpu;
struct vmm_vcpus;

struct vmm_vcpus_config {
    const struct cpu_ops *ops;
    struct cpu_vm *vm;
    const struct vmm_cpu *cpu; /* borrowed until free */
    unsigned n;
    /* A vCPU cannot go on (shutdown, reset, internal error); its thread is about to end. vCPU thread. */
    void (*stopped)(void *opaque, unsigned id, const struct cpu_exit *exit);
    void *opaque;
};

/* Create the vCPUs with their CPUID tables; no thread runs yet. */
int vmm_vcpus_new(const struct vmm_vcpus_config *config, struct vmm_vcpus **ret_vcpus) MUST_USE;
struct cpu_vcpu *vmm_vcpus_get(struct vmm_vcpus *v, unsigned id);
/* Start the threads. On failure those that run are stopped again. */
int vmm_vcpus_start(struct vmm_vcpus *v) MUST_USE;
/* Stop and join the threads; nothing happens where none run. Not on a vCPU's thread. */
void vmm_vcpus_stop(struct vmm_vcpus *v);
/* Stops and frees. NULL accepted. */
void vmm_vcpus_free(struct vmm_vcpus *v);
DEFINE_AUTO(vmm_vcpus, struct vmm_vcpus, vmm_vcpus_free)

#endif
