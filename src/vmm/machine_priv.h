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

#define MACHINE_SAVED_KINDS 16

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
    struct virtio_vsock *vsock;               /* devices_vsock.c */
    char *vsock_path;                         /* of its socket */
    struct machine_disk *disks[VM_DISKS_MAX]; /* devices_disk.c */
    struct blk_sched *disk_sched;
    char *disk_snapshot; /* that the disks are to go back to when they are opened; NULL: none */
    struct net_backend *net_backends[VM_NICS_MAX];
    struct virtio_net *nets[VM_NICS_MAX];
    struct machine_port { /* of a switch: what its end needs (devices_net.c) */
        struct virtio_net *const *net;
        const char *network;
    } net_ports[VM_NICS_MAX];

    struct {
        bool on;
        unsigned waiting; /* disks that are not quiet yet */
        void (*done)(void *opaque);
        void *opaque;
    } quiesce;                              /* save_devices.c: devices stand still, or will soon */
    uint64_t restored[MACHINE_SAVED_KINDS]; /* there: instances of each kind that have their state */

    struct vmm_backup *backup;
    struct vmm_save_job *save;
    struct save_lazy *lazy;      /* what loads the memory of a restored VM; NULL: it was loaded at once */
    struct vmm_control *control; /* NULL: not addressable */
    bool paused;                 /* the vCPUs are stopped by the control socket */

    _Atomic unsigned exit_code;
    _Atomic bool crashed;
    struct err crash; /* written once, by whoever set crashed */
};

#endif
