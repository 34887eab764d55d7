/* Writing the JSON of `events --stats` piece by piece. Shared by cgroup_stats.c and what it calls. */
#ifndef OCI_CGROUP_STATS_PRIV_H
#define OCI_CGROUP_STATS_PRIV_H

#include <inttypes.h>

#include "base/buf.h"
#include "oci/cgroup_priv.h"

/* "key": with a comma before it where it is not the first. key NULL: an element of an array. */
void stats_key(struct buf *b, const char *key);
void stats_open(struct buf *b, const char *key, char bracket);
void stats_close(struct buf *b, char bracket);
void stats_number(struct buf *b, const char *key, uint64_t v);
/* As Go's omitempty. */
void stats_nonzero(struct buf *b, const char *key, uint64_t v);
/* A number from a file; 0 where it has none. */
uint64_t stats_file(const struct cgroup_one *one, const char *file);

void cgroup_stats_memory(struct oci_cgroup *g, struct buf *b);
void cgroup_stats_io(struct oci_cgroup *g, struct buf *b);
void cgroup_stats_hugetlb(struct oci_cgroup *g, struct buf *b);

#endif
