/* The machine's disks: from their specification to virtio-blk devices. */
#ifndef VMM_DEVICES_DISK_H
#define VMM_DEVICES_DISK_H

#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"

struct blk_image;
struct blk_watch;
struct machine;
struct virtio_blk;
struct virtio_env;
struct vm_disk;

struct machine_disk {
    const struct vm_disk *spec; /* borrowed from the machine's specification */
    struct blk_image *image;
    struct blk_watch *watch; /* for backups */
    struct virtio_blk *blk;
};

/* Open all disks of m->spec and make their devices. On failure what was made stays until machine_disks_free. */
int machine_disks_new(struct machine *m, const struct virtio_env *env, struct err *e) MUST_USE;
/* Print what each disk did and how long it took: names like "vda_read_p99_us". On the loop thread, or when it does not
 * run. */
void machine_disks_stats(const struct machine *m, void (*print)(void *opaque, const char *name, uint64_t value),
                         void *opaque);
/* vCPUs are stopped. Accepts a half-built machine. */
void machine_disks_free(struct machine *m);

#endif
