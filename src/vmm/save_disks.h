/* The disks of a VM that is saved: everything on stable storage, and internal snapshots of the same moment where that
 * was asked for. The calls block; the disks stand still meanwhile. */
#ifndef VMM_SAVE_DISKS_H
#define VMM_SAVE_DISKS_H

#include "base/attr.h"
#include "base/err.h"

struct blk_node;
struct machine;

/* Flush all disks, and make a snapshot of that name of each that the guest can write to ("": none). *n_made: how many
 * were made, also on failure. Worker thread. -EEXIST: a disk has such a one; -ENOTSUP: a disk whose format has no
 * snapshots; others of the host; with text. */
int save_disks(struct machine *m, const char *snapshot, unsigned *n_made, struct err *e) MUST_USE;
/* Take the first n snapshots back. Worker thread. */
void save_disks_undo(struct machine *m, const char *snapshot, unsigned n);

/* A disk of a VM that is restored, before anything uses it: back to the snapshot. path: for errors. */
int save_disk_apply(struct blk_node *node, const char *path, const char *snapshot, struct err *e) MUST_USE;

#endif
