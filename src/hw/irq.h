/* Interrupt outputs of devices. A device holds a struct irq_line or struct msi_sink by value and never learns which
 * engine or controller stands behind it. Any thread may use them. */
#ifndef HW_IRQ_H
#define HW_IRQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One level-triggered or edge wire. set == NULL: not connected. */
struct irq_line {
    void (*set)(void *opaque, unsigned gsi, bool level);
    void *opaque;
    unsigned gsi;
};

static inline void irq_set(const struct irq_line *line, bool level)
{
    if (line->set)
        line->set(line->opaque, line->gsi, level);
}

/* A pulse, for edge-triggered legacy lines. */
static inline void irq_pulse(const struct irq_line *line)
{
    irq_set(line, true);
    irq_set(line, false);
}

/* Where message-signalled interrupts go: addr/data as written by the guest into the MSI-X table. */
struct msi_sink {
    void (*send)(void *opaque, uint64_t addr, uint32_t data);
    void *opaque;
};

#endif
