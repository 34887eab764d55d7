/* An address space of device registers (ports or MMIO): maps ranges to handlers. Lookups come from vCPU threads,
 * changes (PCI BARs that move) from vCPU threads and the loop thread; a reader-writer lock inside orders them. A
 * handler runs with no bus lock held and may change the bus. After bus_remove returns, a handler call that had already
 * begun may still run, so a device is only freed once the vCPUs are stopped. It must not know guest RAM or engines. */
#ifndef HW_BUS_H
#define HW_BUS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/cleanup.h"

struct bus;

/* Register handlers of a device. off: bytes from the range's base; off + len lies within the range. len: 1, 2, 4 or 8.
 * read fills all len bytes. Both are called on vCPU threads, concurrently: the device locks itself. */
struct bus_ops {
    void (*read)(void *dev, uint64_t off, void *data, unsigned len);
    void (*write)(void *dev, uint64_t off, const void *data, unsigned len);
};

/* limit: highest valid address (0xffff for ports). -ENOMEM. */
int bus_new(uint64_t limit, struct bus **ret_bus) MUST_USE;
void bus_free(struct bus *b); /* NULL accepted */
DEFINE_AUTO(bus, struct bus, bus_free)

/* Map [base, base+size) to ops/dev (both borrowed until bus_remove). -EEXIST: overlaps; -EINVAL: empty or beyond limit;
 * -ENOMEM. Any thread. */
int bus_add(struct bus *b, uint64_t base, uint64_t size, const struct bus_ops *ops, void *dev) MUST_USE;
/* Unmap the range that starts at base and belongs to dev; nothing happens where there is none. Any thread. */
void bus_remove(struct bus *b, uint64_t base, const void *dev);

/* One access. Where no range holds all of it: reads give all ones, writes are dropped, and false is returned. Any
 * thread. */
bool bus_read(struct bus *b, uint64_t addr, void *data, unsigned len);
bool bus_write(struct bus *b, uint64_t addr, const void *data, unsigned len);

#endif
