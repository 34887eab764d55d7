/* Volumes in the state database: folders that containers share and that outlive them. The folder of volume NAME is
 * STATE/volumes/NAME/_data (instance/volume.h); here is what is known of it. */
#ifndef STORE_VOLUME_H
#define STORE_VOLUME_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/name.h"
#include "store/store.h"

struct store_volume {
    char name[PROTO_NAME_MAX + 1];
    int64_t created_ns; /* since 1970, UTC */
    char instance[65];  /* id of the container for which it was made without a name, and with which it goes; "" */
    struct json_object *labels; /* an object of strings; owned by who owns the struct; NULL: none */
};
void store_volume_done(struct store_volume *v);

/* The name is one (proto/name.h). An event "create" goes with it. -EEXIST with text. */
int store_volume_add(struct store *s, const struct store_volume *volume, struct err *e) MUST_USE;
/* -ENOENT with the nearest name. *ret_volume: to be done. */
int store_volume_get(struct store *s, const char *name, struct store_volume *ret_volume, struct err *e) MUST_USE;
/* In the order of their names. fn borrows the volume and must not use s; a result other than 0 ends the walk. */
int store_volume_each(struct store *s, int (*fn)(void *opaque, const struct store_volume *volume), void *opaque,
                      struct err *e) MUST_USE;
/* -ENOENT as above. */
int store_volume_remove(struct store *s, const char *name, struct err *e) MUST_USE;

#endif
