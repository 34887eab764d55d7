/* The machine's network cards: a back end for each, by its kind, and a virtio device before it. */
#ifndef VMM_DEVICES_NET_H
#define VMM_DEVICES_NET_H

#include "base/attr.h"
#include "base/err.h"

struct machine;
struct virtio_env;

/* Build all of m->spec->nets. On failure what was built stays until devices_net_free. Before vCPUs run. */
int devices_net_new(struct machine *m, const struct virtio_env *env, struct err *e) MUST_USE;
/* vCPUs are stopped. Accepts a half-built machine; the loop is still needed. */
void devices_net_free(struct machine *m);

#endif
