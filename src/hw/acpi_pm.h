/* ACPI fixed hardware: PM1a event and control registers, the 32-bit PM timer at 3.579545 MHz, and one general-purpose
 * event block of 16 events. The machine is in ACPI mode from the start (no SMI command port; SCI_EN reads 1). Own lock;
 * functions on any thread. Spec: ACPI 6.4 section 4.8. */
#ifndef HW_ACPI_PM_H
#define HW_ACPI_PM_H

#include <stdint.h>

#include "base/attr.h"
#include "base/cleanup.h"
#include "hw/bus.h"
#include "hw/irq.h"
#include "hw/time.h"

/* Offsets in the block of ports; FADT names the same. */
enum {
    ACPI_PM_EVENT = 0x00,   /* status (2 bytes), enable (2 bytes) */
    ACPI_PM_CONTROL = 0x04, /* 2 bytes */
    ACPI_PM_TIMER = 0x08,   /* 4 bytes */
    ACPI_PM_GPE0 = 0x10,    /* status (2 bytes), enable (2 bytes) */
    ACPI_PM_SIZE = 0x20,
};
#define ACPI_PM_SLP_TYP_S5 5 /* what DSDT's \_S5 says */

struct acpi_pm;
struct buf;
struct unpack;

#define ACPI_PM_STATE_VERSION 1

struct acpi_pm_config {
    struct bus *pio;     /* borrowed */
    uint16_t base;       /* first of ACPI_PM_SIZE ports */
    struct irq_line sci; /* 9, level */
    struct hw_time time;
    void (*power_off)(void *opaque); /* the guest entered S5; vCPU thread, no lock held */
    void *opaque;
};

int acpi_pm_new(const struct acpi_pm_config *config, struct acpi_pm **ret_pm) MUST_USE;
void acpi_pm_free(struct acpi_pm *p); /* NULL accepted; vCPUs and loop are stopped */
DEFINE_AUTO(acpi_pm, struct acpi_pm, acpi_pm_free)

/* Press the power button. */
void acpi_pm_press_power(struct acpi_pm *p);
/* Raise general-purpose event n (0..15): the guest runs \_GPE._Lnn or _Enn, where DSDT has it. */
void acpi_pm_raise_gpe(struct acpi_pm *p, unsigned n);

/* Append its state (docs/snapshot-format.md); the PM timer as the time since it was 0. The vCPUs stand. */
void acpi_pm_save(struct acpi_pm *p, struct buf *b);
/* Take a state over and drive the line accordingly; before the vCPUs run. The PM timer goes on from where it was.
 * -EBADMSG: it makes no sense, the device is to be freed. */
int acpi_pm_restore(struct acpi_pm *p, uint16_t version, struct unpack *in) MUST_USE;

#endif
