/* A container's part of a snapshot (instance/snapshot.h): what it changed in its image, as an archive beside it. Its
 * volumes are not part of it. Any thread. */
#ifndef INSTANCE_CONTAINER_SNAPSHOT_H
#define INSTANCE_CONTAINER_SNAPSHOT_H

#include "base/attr.h"
#include "base/err.h"
#include "store/disk.h"
#include "store/instance.h"

/* Write it under tag, whose file must not be there. The container stands still, or is paused here meanwhile. */
int inst_container_snapshot_take(const struct store_instance *i, const char *tag, const struct disk_progress *progress,
                                 struct err *e) MUST_USE;
/* Go back, from wherever an earlier call was killed. The container does not run, its lock is held. */
int inst_container_snapshot_apply(struct store *s, const struct store_instance *i, const char *tag,
                                  struct err *e) MUST_USE;
/* Let one go on that whoever took a snapshot of it, and was killed, has left paused. */
int inst_container_snapshot_resume(const struct store_instance *i, struct err *e) MUST_USE;
/* STATE/instances/ID/snapshots/TAG.tar. -errno with text. */
int inst_container_snapshot_path(const struct store_instance *i, const char *tag, char *ret_path, size_t size,
                                 struct err *e) MUST_USE;
/* No file is no error. */
int inst_container_snapshot_drop(const struct store_instance *i, const char *tag, struct err *e) MUST_USE;

#endif
