/* The inside of a machine, shared by machine.c (engine, boot, running) and devices.c (everything on the buses). */
#ifndef VMM_MACHINE_PRIV_H
#define VMM_MACHINE_PRIV_H

#include <stdatomic.h>

#include "base/err.h"
#include "cpu/cpu.h"
#include "mem/guest.h"
#include "proto/vm_spec.h"
#include "vmm/cpu_model.h"
#include "vmm/layout.h"

struct machine {
    const struct vm_spec *spec;
    struct loop *loop;
    int signal_fd;
    struct vmm_serial *serial;
    struct layout layout;
    struct mem *mem;
    uint64_t rsdp; /* of the ACPI tables */
    const struct cpu_ops *ops;
    struct cpu_vm *vm;
    struct vmm_cpu cpu;
    struct vmm_vcpus *vcpus;

    /* devices.c */
    struct bus *pio, *mmio;
    struct hw_loop_time *time;
    struct pci_host *pci;
    struct uart *uart;
    struct i8042 *i8042;
    struct rtc *rtc;
    struct acpi_pm *pm;
    struct chipset *chipset;
    struct virtio_rng *rng;
    struct virtio_console *hvc;
    struct blk_image *images[VM_DISKS_MAX];
    struct virtio_blk *disks[VM_DISKS_MAX];
    struct net_backend *net_backend;
    struct virtio_net *net;

    _Atomic unsigned exit_code;
    _Atomic bool crashed;
    struct err crash; /* written once, by whoever set crashed */
};

#endif
