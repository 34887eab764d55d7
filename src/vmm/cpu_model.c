#include "vmm/cpu_model.h"

#include "base/bits.h"

/* Bits that number n things need. */
static unsigned cpuid_width(unsigned n)
{
    unsigned width = 0;

    while ((1U << width) < n)
        width++;
    return width;
}

/* Topology: one socket, each vCPU a core with one thread (SDM vol. 2A, CPUID leaves 0x1, 0x4, 0xb; APM for 0x8000001x).
 */
static void cpuid_topology(struct kvm_cpuid_entry2 *e, unsigned id, unsigned n_vcpus)
{
    unsigned width = cpuid_width(n_vcpus);

    switch (e->function) {
    case 0x1:
        e->ebx = (e->ebx & 0x0000ffff) | (n_vcpus & 0xff) << 16 | id << 24;
        e->edx = n_vcpus > 1 ? e->edx | BIT(28) : e->edx & ~BIT(28);
        break;
    case 0x4:
        if (e->eax & 0x1f) {
            bool shared = ((e->eax >> 5) & 7) >= 3; /* the last-level cache belongs to the socket */
            unsigned sharing = shared ? (1U << width) - 1 : 0;

            e->eax = (e->eax & 0x3fff) | sharing << 14 | ((1U << width) - 1) << 26;
        }
        break;
    case 0xb:
    case 0x1f:
        e->edx = id;
        e->ecx = e->index & 0xff;
        e->eax = 0;
        e->ebx = 0;
        if (e->index == 0) {
            e->ebx = 1;
            e->ecx |= 1 << 8; /* SMT */
        } else if (e->index == 1) {
            e->eax = width;
            e->ebx = n_vcpus;
            e->ecx |= 2 << 8; /* core */
        }
        break;
    case 0x80000008:
        e->ecx = (e->ecx & ~0xf0ffU) | width << 12 | ((n_vcpus - 1) & 0xff);
        break;
    case 0x8000001e:
        e->eax = id;
        e->ebx = id;
        e->ecx = 0;
        break;
    default:
        break;
    }
}

int vmm_cpuid_build(const struct cpu_ops *ops, struct cpu_vm *vm, unsigned id, unsigned n_vcpus,
                    struct kvm_cpuid_entry2 *entries, unsigned *n_entries)
{
    int r = ops->supported_cpuid(vm, entries, n_entries);

    if (r < 0)
        return r;
    for (unsigned i = 0; i < *n_entries; i++)
        cpuid_topology(&entries[i], id, n_vcpus);
    return 0;
}
