/* Snapshots of instances: making them, going back to them, removing them; and clones. A VM's are internal snapshots of
 * its qcow2 disks and, where it ran, a file with its memory of the same moment, all known by the snapshot's tag
 * (store/snapshot.h). Every verb is a job: one that is killed is undone (create), or done to its end (restore, rm), by
 * the next command that writes (inst_snapshot_undo), unless the instance was started meanwhile. */
#ifndef INSTANCE_SNAPSHOT_H
#define INSTANCE_SNAPSHOT_H

#include <stdbool.h>

#include "base/attr.h"
#include "base/err.h"
#include "store/disk.h"
#include "store/instance.h"
#include "store/job.h"
#include "store/snapshot.h"

/* Take a snapshot called name; "": one is made from the time. Running, stopped or saved. disks_only: of a VM that runs
 * its disks of one moment, without its memory. *ret_snapshot (may be NULL) is the caller's. -EEXIST; -ENOTSUP with
 * text: a disk that has no snapshots. */
int inst_snapshot_create(struct store *s, const struct store_instance *i, const char *name, bool disks_only,
                         const struct disk_progress *progress, struct store_snapshot *ret_snapshot,
                         struct err *e) MUST_USE;
/* Go back; what came after it is lost, the instance ends at once if it runs. With the memory it is saved afterwards, so
 * that a start goes on from there; without it has ended. *ret_ran: it was running. -ENOENT: there is no such snapshot,
 * or a part of it is missing; then nothing was changed. */
int inst_snapshot_restore(struct store *s, const struct store_instance *i, const char *name, bool *ret_ran,
                          struct err *e) MUST_USE;
/* Remove one. While the VM runs its disks keep the space until it ends. */
int inst_snapshot_remove(struct store *s, const struct store_instance *i, const char *name, struct err *e) MUST_USE;

/* store_job_repair's undo for the jobs of this file; 1: not one of them. -EBUSY: not while the VM runs. */
int inst_snapshot_undo(struct store *s, const struct store_job *job, struct err *e) MUST_USE;

/* STATE/instances/ID/snapshots/TAG.vm: the memory of a snapshot. */
int inst_snapshot_memory_path(const char *id, const char *tag, char *ret_path, size_t size, struct err *e) MUST_USE;

/* The disks of a VM that snapshots are of: all that it writes to. -ENOTSUP with text: one of them has none. fn 's
 * result other than 0 ends the walk. */
int inst_snapshot_disks(const struct store_instance *i,
                        int (*fn)(void *opaque, const struct blk_open_config *disk, struct err *e), void *opaque,
                        struct err *e) MUST_USE;

#endif
