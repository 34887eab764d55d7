/* Volumes: their folders (STATE/volumes/NAME/_data) and their rows (store/volume.h) together. For somebody else than
 * root the caller is root of the user namespace of his containers (sys/userns.h), for files may have any owner. */
#ifndef INSTANCE_VOLUME_H
#define INSTANCE_VOLUME_H

#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"

struct json_object;
struct store;

/* Make a volume. instance: the id of the container that it goes with; NULL: none. labels: borrowed; NULL. -EEXIST. */
int inst_volume_create(struct store *s, const char *name, const char *instance, struct json_object *labels,
                       struct err *e) MUST_USE;
/* The folder of volume name in ret_path, for a mount at target in the root file system root_fd; the volume is made
 * where it is not there. An empty one gets what the image has at target (root_fd -1: it does not). */
int inst_volume_use(const char *name, int root_fd, const char *target, char *ret_path, size_t size,
                    struct err *e) MUST_USE;
/* Remove its row, then its folder. -EBUSY: an instance uses it, which the text names. */
int inst_volume_remove(struct store *s, const char *name, struct err *e) MUST_USE;
/* Remove folders that are no volume's: what killed processes left. Not in a transaction. */
int inst_volume_sweep(struct store *s, struct err *e) MUST_USE;
/* Remove what goes with an instance. */
int inst_volume_remove_of(const char *instance, struct err *e) MUST_USE;
/* STATE/volumes/NAME/_data. -ENAMETOOLONG with text. */
int inst_volume_path(const char *name, char *ret_path, size_t size, struct err *e) MUST_USE;
/* The name of an instance that mounts the volume, in ret_name; "": none does. */
int inst_volume_user(struct store *s, const char *name, char *ret_name, size_t size, struct err *e) MUST_USE;

#endif
