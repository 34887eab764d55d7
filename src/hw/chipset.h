/* The small ports of a PC's chipset: reset control 0xcf9, "system control A" 0x92, POST codes at 0x80, the debug exit
 * port, and claims on ports that kernels touch while they look for hardware that is not here. Own lock. 0xcf9 lies
 * inside the PCI bridge's ports: give chipset_cf9_ops and the object to pci_host_config.cf9/cf9_dev. */
#ifndef HW_CHIPSET_H
#define HW_CHIPSET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/cleanup.h"
#include "hw/bus.h"

#define CHIPSET_DEBUG_EXIT_PORT 0xf4

struct buf;
struct chipset;
struct unpack;

#define CHIPSET_STATE_VERSION 1

struct chipset_config {
    struct bus *pio; /* borrowed */
    bool debug_exit; /* serve port 0xf4 */
    /* Callbacks come on a vCPU's thread with no lock held. */
    void (*reset)(void *opaque);
    void (*exit)(void *opaque, uint32_t code); /* the value that was written to port 0xf4 */
    void *opaque;
};

int chipset_new(const struct chipset_config *config, struct chipset **ret_chipset) MUST_USE;
void chipset_free(struct chipset *c); /* NULL accepted; vCPUs are stopped */
DEFINE_AUTO(chipset, struct chipset, chipset_free)

/* Append its state (docs/snapshot-format.md). The vCPUs stand. */
void chipset_save(struct chipset *c, struct buf *b);
/* Take a state over; before the vCPUs run. -EBADMSG: it makes no sense, the device is to be freed. */
int chipset_restore(struct chipset *c, uint16_t version, struct unpack *in) MUST_USE;

/* Handlers for the one-byte register 0xcf9; dev is the struct chipset. */
extern const struct bus_ops chipset_cf9_ops;

#endif
