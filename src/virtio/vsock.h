/* virtio-vsock: stream sockets between guest and host. On the host a connection to a guest's port is made through a
 * listening Unix socket: the first line "CONNECT PORT\n" is answered with "OK HOST_PORT\n" once somebody in the guest
 * accepted, and the connection is closed where nobody did. A connection that the guest makes to port N of the host
 * (CID 2) becomes one to the Unix socket PREFIX_N. Spec: virtio 1.2 section 5.10. */
#ifndef VIRTIO_VSOCK_H
#define VIRTIO_VSOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "virtio/env.h"

struct buf;
struct unpack;
struct virtio_vsock;

#define VIRTIO_VSOCK_STATE_VERSION 1
#define VIRTIO_VSOCK_CONNS_MAX 256

struct virtio_vsock_config {
    uint32_t guest_cid; /* >= 3 */
    int listen_fd;      /* a listening, non-blocking stream socket, taken over on success; -1: the host never calls */
    const char *prefix; /* of the sockets that the guest may call, copied; NULL: it may call nobody */
    int slot;           /* PCI slot, -1: next free */
};

/* Before vCPUs run. -EINVAL: CID; -ENOMEM; errors of virtio_pci_new and of epoll. */
int virtio_vsock_new(const struct virtio_env *env, const struct virtio_vsock_config *config,
                     struct virtio_vsock **ret_vsock) MUST_USE;
/* Closes all connections. vCPUs are stopped. On the loop thread, or when it does not run. NULL accepted. */
void virtio_vsock_free(struct virtio_vsock *v);

/* Held, the device serves no queue and the host's ends wait. Released, it goes on. */
void virtio_vsock_hold(struct virtio_vsock *v, bool hold);
/* Append its state (docs/snapshot-format.md), of which connections are no part. Held, the vCPUs stand. */
void virtio_vsock_save(struct virtio_vsock *v, struct buf *b);
/* Take a state over; before the vCPUs run. It is held until virtio_vsock_hold(..., false), which tells the driver that
 * all its connections are gone (section 5.10.6.7). -EBADMSG: it makes no sense, the device is to be freed. */
int virtio_vsock_restore(struct virtio_vsock *v, uint16_t version, struct unpack *in) MUST_USE;

#endif
