/* Where everything stands in a machine's physical address space and port space. One machine type, one layout; only the
 * amount of RAM varies. */
#ifndef VMM_LAYOUT_H
#define VMM_LAYOUT_H

#include <stdint.h>

#include "base/attr.h"

/* RAM: from 0 up to 3 GiB, the rest from 4 GiB. */
#define LAYOUT_LOW_RAM_MAX 0xc0000000ULL
#define LAYOUT_HIGH_RAM_BASE 0x100000000ULL
#define LAYOUT_RAM_MIN (2ULL << 20)
#define LAYOUT_RAM_MAX (1ULL << 42)

/* Below 1 MiB, all backed by RAM. */
#define LAYOUT_EBDA 0x9fc00ULL
#define LAYOUT_HOLE 0xa0000ULL /* reserved up to 1 MiB */
#define LAYOUT_ACPI_BASE 0xe0000ULL
#define LAYOUT_ACPI_SIZE 0x20000ULL
#define LAYOUT_ACPI_TABLES_SIZE 0x1f000ULL /* behind them, on a page of its own: */
#define LAYOUT_GENID 0xff000ULL            /* the VM generation ID */
#define LAYOUT_HIGH_MEM 0x100000ULL

/* Device space below 4 GiB. */
#define LAYOUT_WINDOW32_BASE 0xc0000000ULL
#define LAYOUT_WINDOW32_SIZE 0x20000000ULL
#define LAYOUT_ECAM_BASE 0xe0000000ULL
#define LAYOUT_ECAM_SIZE 0x100000ULL /* bus 0 */
#define LAYOUT_IOAPIC_BASE 0xfec00000ULL
#define LAYOUT_LAPIC_BASE 0xfee00000ULL

/* The window for 64-bit BARs begins at the first multiple of this above RAM and is as large. With up to about 255 GiB
 * of RAM it ends at 2^39, which every CPU model can address. */
#define LAYOUT_WINDOW64_SIZE (1ULL << 38)

/* Ports and interrupts */
#define LAYOUT_COM1_PORT 0x3f8
#define LAYOUT_COM1_IRQ 4
#define LAYOUT_KEYBOARD_IRQ 1
#define LAYOUT_MOUSE_IRQ 12
#define LAYOUT_RTC_IRQ 8
#define LAYOUT_PM_PORT 0x600
#define LAYOUT_SCI_IRQ 9
#define LAYOUT_GENID_GPE 5
#define LAYOUT_RESET_PORT 0xcf9
#define LAYOUT_PCI_INTX_GSI 16 /* INTA..INTD: 16..19 */

/* Address range types, numbered as in the BIOS's E820 call. */
enum layout_type { LAYOUT_RAM = 1, LAYOUT_RESERVED = 2 };

struct layout_range {
    uint64_t base, size;
    enum layout_type type;
};

struct layout {
    uint64_t ram_low;  /* bytes from 0 */
    uint64_t ram_high; /* bytes from LAYOUT_HIGH_RAM_BASE, may be 0 */
    uint64_t window64_base;
    unsigned n_ranges;
    struct layout_range ranges[8]; /* the E820 map: ascending, without overlaps */
};

/* The layout for so many bytes of RAM. -EINVAL: not a multiple of 4096; -ERANGE: outside
 * LAYOUT_RAM_MIN..LAYOUT_RAM_MAX. */
int layout_make(uint64_t ram_bytes, struct layout *ret_layout) MUST_USE;

#endif
