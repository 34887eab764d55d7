/* The machine's devices: the one table of what stands on its buses, and how they are wired to the engine. */
#ifndef VMM_DEVICES_H
#define VMM_DEVICES_H

#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"

struct machine;

/* What a guest can ask of its machine. On vCPU threads; the opaque is the machine. */
struct machine_guest_ops {
    void (*power_off)(void *machine);
    void (*reset)(void *machine);
    void (*exit)(void *machine, uint32_t code);
};

/* Build all devices of m->spec. On failure what was built stays until machine_devices_free. */
int machine_devices_new(struct machine *m, const struct machine_guest_ops *guest, struct err *e) MUST_USE;
/* vCPUs are stopped. Accepts a half-built machine. The loop and the time source are still needed. */
void machine_devices_free(struct machine *m);

#endif
