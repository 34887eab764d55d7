/* Snapshots of instances in the state database: states to go back to. What they consist of lies with the instance (an
 * internal snapshot of each of its disks, a file with the memory; a container's layer) under a tag that no other
 * snapshot ever has, so that what is left over by a killed process harms nothing and can be told. Rows of a removed
 * instance go with it. */
#ifndef STORE_SNAPSHOT_H
#define STORE_SNAPSHOT_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/inst_spec.h"
#include "proto/name.h"
#include "store/store.h"

#define STORE_SNAPSHOT_TAG_MAX 72 /* with its terminator */

struct store_snapshot {
    char instance[INST_ID_LEN + 1];
    char name[PROTO_NAME_MAX + 1]; /* unique among the instance's */
    char tag[STORE_SNAPSHOT_TAG_MAX];
    struct inst_spec spec; /* of the instance at that moment */
    int64_t created_ns;
    bool has_memory;       /* it ran: going back means going on */
    uint64_t memory_bytes; /* of the file with the memory */
};

/* A tag for a new snapshot. -errno of getrandom, with text. */
int store_snapshot_new_tag(char ret_tag[STORE_SNAPSHOT_TAG_MAX], struct err *e) MUST_USE;
/* Enter a snapshot whose parts are all there, made now, with an event of the instance. -EEXIST: the name is taken. */
int store_snapshot_add(struct store *s, const struct store_snapshot *snapshot, struct err *e) MUST_USE;
void store_snapshot_done(struct store_snapshot *snapshot);
/* -ENOENT with the nearest name. instance_name: for messages. *ret_snapshot is the caller's. */
int store_snapshot_get(struct store *s, const char *instance, const char *instance_name, const char *name,
                       struct store_snapshot *ret_snapshot, struct err *e) MUST_USE;
/* Those of an instance (NULL: all), the oldest first. fn borrows the snapshot and must not use s. A result other than 0
 * ends the walk and is returned. */
int store_snapshot_each(struct store *s, const char *instance,
                        int (*fn)(void *opaque, const struct store_snapshot *snapshot), void *opaque,
                        struct err *e) MUST_USE;
/* -ENOENT: it is gone. */
int store_snapshot_remove(struct store *s, const char *instance, const char *name, struct err *e) MUST_USE;

#endif
