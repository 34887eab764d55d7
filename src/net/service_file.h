/* The leases of a network in a file, so that guests keep their addresses over restarts. JSON, replaced as a whole
 * (written beside it, synced, renamed), by a thread of its own, since a disk may be slow; at most once a second, so
 * that no guest can make more of it. Loop thread only. */
#ifndef NET_SERVICE_FILE_H
#define NET_SERVICE_FILE_H

#include <stdint.h>

#include "base/attr.h"

struct loop;
struct net_lease_file;
struct net_leases;

/* Read path (a missing file: no leases) into t, and keep it up to date from now on. t is borrowed until the free.
 * -EBADMSG: not such a file, moved to PATH.bad; -ENOMEM; errors of open and read. */
int net_lease_file_new(const char *path, struct net_leases *t, int64_t now_s, struct loop *loop,
                       struct net_lease_file **ret_file) MUST_USE;
/* Call after anything that may have set t->changed. NULL accepted. */
void net_lease_file_update(struct net_lease_file *f);
/* Saves what has changed, waiting for the disk. NULL accepted. */
void net_lease_file_free(struct net_lease_file *f);

#endif
