/* The ACPI tables of a machine: RSDP, XSDT, RSDT, FADT, FACS, DSDT, MADT and MCFG, in RAM below 1 MiB where kernels
 * look for them without help too. Spec: ACPI 6.4, PCI Firmware 3.2 (MCFG). */
#ifndef VMM_ACPI_H
#define VMM_ACPI_H

#include <stdint.h>

#include "base/attr.h"
#include "mem/guest.h"
#include "vmm/layout.h"

struct acpi_config {
    const struct layout *layout;
    unsigned n_cpus; /* APIC ids 0..n_cpus-1 */
};

/* Write the tables. *ret_rsdp: guest-physical address of the RSDP, for the boot loaders. -ENOMEM, -E2BIG, -EFAULT (no
 * RAM there). vCPUs do not run. */
int acpi_build(struct mem *m, const struct acpi_config *config, uint64_t *ret_rsdp) MUST_USE;

#endif
