/* Stopping the devices of a machine so that they can be saved, their state as sections, and the way back. The file
 * around the sections, RAM, vCPUs and interrupt controllers are save_file.h's and others' business.
 *
 * To save: stop the vCPUs, vmm_quiesce, and when that is done vmm_save_devices and the interrupt controllers within one
 * call on the loop (timers of devices fire there). Then vmm_unquiesce, or end.
 *
 * To restore, into a machine whose vCPUs have never run, in this order: RAM; every section by vmm_restore_device (lines
 * are driven meanwhile); the interrupt controllers and vCPUs, whose state so has the last word; vmm_restore_end; then
 * vmm_unquiesce on the loop thread or before the loop runs (completes what was in flight and may interrupt); vCPUs.
 *
 * Compatibility: a section is read in its own version and all older ones; docs/snapshot-format.md. Loop thread. */
#ifndef VMM_SAVE_H
#define VMM_SAVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"

struct machine;

/* Most bytes of one device's section, when writing and when reading. */
#define VMM_SECTION_MAX (4U << 20)

/* Stop device work: disks' gates closed and in-flight requests done, NICs and console neither receive nor transmit.
 * Calls done(opaque) on the loop when everything stands still (at once if so). The vCPUs stand, or they find devices
 * that answer registers and serve no queue. -EBUSY: it is quiesced, or a backup is just beginning; nothing has
 * happened. */
int vmm_quiesce(struct machine *m, void (*done)(void *opaque), void *opaque) MUST_USE;
/* Let the devices work again; also before done was called, which then never is. Nothing happens where they do. */
void vmm_unquiesce(struct machine *m);

/* each(opaque, kind, instance, version, payload, len) for each device, in order; its first error ends the walk and is
 * returned. -ENOMEM. Quiescent, vCPUs stand. */
int vmm_save_devices(struct machine *m,
                     int (*each)(void *opaque, const char *kind, uint32_t instance, uint16_t version, const void *data,
                                 size_t len),
                     void *opaque) MUST_USE;

/* Take over one section, with text in e on error. -ENOENT: there is no such device; -EEXIST: it was restored already;
 * -ENOTSUP: a version from the future; -EBADMSG: it makes no sense; -ENOSPC: a disk that is smaller than the one
 * saved. After an error the machine is to be freed. The devices are quiesced from the first call on. */
int vmm_restore_device(struct machine *m, const char *kind, uint32_t instance, uint16_t version, const void *data,
                       size_t len, struct err *e) MUST_USE;
/* All sections were given. -EBADMSG with text: one is missing. catch_up: real-time clock and its alarms are those of
 * the present, not of the moment of the save. */
int vmm_restore_end(struct machine *m, bool catch_up, struct err *e) MUST_USE;

#endif
