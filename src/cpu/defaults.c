/* Default members for struct cpu_ops, for what an engine does not offer. */
#include <errno.h>

#include "cpu/cpu.h"

int cpu_no_irqfd_add(struct cpu_vm *vm, int fd, uint64_t addr, uint32_t data)
{
    (void)vm;
    (void)fd;
    (void)addr;
    (void)data;
    return -ENOTTY;
}

int cpu_no_irqfd_del(struct cpu_vm *vm, int fd)
{
    (void)vm;
    (void)fd;
    return -ENOTTY;
}
