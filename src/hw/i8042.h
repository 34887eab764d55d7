/* 8042 keyboard controller with a PS/2 keyboard and no mouse: what drivers need to probe quickly, reset by the output
 * port, and raw scan codes for a screen later. Own lock; functions on any thread. Spec: IBM PS/2 Technical Reference,
 * "Keyboard and Auxiliary Device Controller". */
#ifndef HW_I8042_H
#define HW_I8042_H

#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/cleanup.h"
#include "hw/bus.h"
#include "hw/irq.h"

struct buf;
struct i8042;
struct unpack;

#define I8042_STATE_VERSION 1

struct i8042_config {
    struct bus *pio;                       /* borrowed; ports 0x60 and 0x64 */
    struct irq_line keyboard_irq, aux_irq; /* 1 and 12 */
    void (*reset)(void *opaque);           /* the guest pulsed the reset line; vCPU thread, no lock held */
    void *opaque;
};

int i8042_new(const struct i8042_config *config, struct i8042 **ret_dev) MUST_USE;
void i8042_free(struct i8042 *k); /* NULL accepted; vCPUs are stopped */
DEFINE_AUTO(i8042, struct i8042, i8042_free)

/* Scan codes of the keyboard as port 0x60 is to show them (no translation). Returns how many fit; 0 while the guest has
 * scanning off. */
size_t i8042_keyboard_push(struct i8042 *k, const uint8_t *codes, size_t n);

/* Append its state (docs/snapshot-format.md). The vCPUs stand. */
void i8042_save(struct i8042 *k, struct buf *b);
/* Take a state over and drive the lines accordingly; before the vCPUs run. -EBADMSG: it makes no sense, the device is
 * to be freed. */
int i8042_restore(struct i8042 *k, uint16_t version, struct unpack *in) MUST_USE;

#endif
