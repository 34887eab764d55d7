/* Direct kernel boot: puts a kernel, its initrd and command line into guest memory and gives the state in which vCPU 0
 * starts. Kernels: Linux bzImage (64-bit entry, or 32-bit where it has no other), ELF with a PVH entry note, Multiboot
 * 1 (ELF or with addresses in its header). Files are read by pread and never mapped, so that one which shrinks
 * meanwhile is an error and not a signal. Every byte of them is hostile. Spec: Linux Documentation/arch/x86/boot.rst,
 * Xen "x86/HVM direct boot ABI (PVH)", Multiboot 0.6.96. */
#ifndef VMM_BOOT_H
#define VMM_BOOT_H

#include <linux/kvm.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"
#include "mem/guest.h"
#include "vmm/layout.h"

enum boot_kind { BOOT_LINUX64, BOOT_LINUX32, BOOT_PVH, BOOT_MULTIBOOT };

struct boot_config {
    int kernel_fd;               /* borrowed */
    const char *kernel_path;     /* for messages */
    int initrd_fd;               /* -1: none; borrowed */
    const char *initrd_path;     /* for messages; may be NULL without initrd */
    const char *cmdline;         /* NULL: empty */
    const struct layout *layout; /* RAM as in guest memory */
    uint64_t rsdp;               /* guest-physical address of the RSDP, 0: none */
};

struct boot_state {
    enum boot_kind kind;
    struct kvm_regs regs;
    struct kvm_sregs sregs; /* complete, with the APIC base of a boot processor */
};

/* Open path for reading; what ("kernel", "initrd") stands in messages. Regular files only. */
int boot_open(const char *path, const char *what, int *ret_fd, struct err *e) MUST_USE;

/* Load. m already has the RAM that the layout names; its lowest 256 KiB are used for tables and parameters. On failure
 * e says which file, why and what to do, guest memory is partly written, and *ret is untouched. vCPUs do not run. */
int boot_load(struct mem *m, const struct boot_config *config, struct boot_state *ret, struct err *e) MUST_USE;

#endif
