/* The machine's vsock device, and its socket in the runtime directory: NAME.vsock, where the machine has a name. */
#ifndef VMM_DEVICES_VSOCK_H
#define VMM_DEVICES_VSOCK_H

#include "base/attr.h"
#include "base/err.h"

struct machine;
struct virtio_env;

/* On failure what was made stays until devices_vsock_free. Before vCPUs run. */
int devices_vsock_new(struct machine *m, const struct virtio_env *env, struct err *e) MUST_USE;
/* Take the socket's name away, as long as the machine's own name is held: afterwards it may be a successor's. */
void devices_vsock_unlink(struct machine *m);
/* vCPUs are stopped. Accepts a half-built machine. */
void devices_vsock_free(struct machine *m);

#endif
