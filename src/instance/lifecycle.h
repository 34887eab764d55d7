/* Making, repairing and removing instances: what is done while none of them runs. Each step leaves the old or the new
 * state, and inst_repair, which every command calls first, ends what a killed process had begun. Any thread. */
#ifndef INSTANCE_LIFECYCLE_H
#define INSTANCE_LIFECYCLE_H

#include "base/attr.h"
#include "base/err.h"
#include "store/instance.h"

/* Make an instance with its directory. fill (may be NULL) makes its files in dir (STATE/instances/ID), and may complete
 * i->spec; it may take its time. Nothing is left where it fails or is killed. spec must be valid as it is
 * (inst_spec_check). ret_instance may be NULL. Errors as store_instance_add, and of fill. */
int inst_create(struct store *s, const char *name, const struct inst_spec *spec,
                int (*fill)(void *opaque, struct store_instance *i, const char *dir, struct err *e), void *opaque,
                struct store_instance *ret_instance, struct err *e) MUST_USE;

/* Bring the rows in line with the machine: runs whose supervisor died are cleaned up and exited (code 137), half-made
 * and half-removed instances are removed. warn gets a line for each that could not be repaired; the others go on.
 * -errno with text: the database. */
int inst_repair(struct store *s, void (*warn)(void *opaque, const char *text), void *opaque, struct err *e) MUST_USE;
/* The same for one, whose lock the caller holds; i is read again. */
int inst_repair_locked(struct store *s, struct store_instance *i, struct err *e) MUST_USE;
/* The same by a supervisor, which has taken the place (inst_take_place): the socket is its own. */
int inst_repair_placed(struct store *s, struct store_instance *i, struct err *e) MUST_USE;

/* Remove an instance that does not run, with all that is its own. -EBUSY with text: it runs. */
int inst_remove(struct store *s, const struct store_instance *i, struct err *e) MUST_USE;
/* Likewise, the lock being held. */
int inst_remove_locked(struct store *s, struct store_instance *i, struct err *e) MUST_USE;

#endif
