/* A tap device of the host as a back end: the host's own network stack, a Linux bridge, a container's end of the wire.
 * With offloads in both directions as the kernel offers them. Must not know who uses it. */
#ifndef NET_TAP_H
#define NET_TAP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"

struct loop;
struct net_backend;

#define NET_TAP_NAME_MAX 15 /* bytes of an interface's name, IFNAMSIZ - 1 */

struct net_tap_config {
    const char *name;   /* of the interface; with create, "" lets the kernel choose, and %d in it a number */
    bool create;        /* make it; it goes with the back end. Else it must be there */
    uint16_t mtu;       /* 0: leave it. Else set it, which needs CAP_NET_ADMIN where it differs */
    const char *bridge; /* join this Linux bridge (needs CAP_NET_ADMIN); NULL: none */
    bool up;            /* set the interface up (likewise) */
};

/* Which part of opening failed. */
enum net_tap_step {
    NET_TAP_DEVICE, /* /dev/net/tun: -ENOENT, -ENODEV, -ENXIO: no such device; -EACCES */
    NET_TAP_ATTACH, /* the interface: -ENODEV: it is not there (create false); -EEXIST: it is (create true); -EBUSY: in
                     * use by another process; -EPERM: no right to it (it belongs to another user; making one needs
                     * CAP_NET_ADMIN); -EINVAL: no tap (a tun, an Ethernet card), or a name that no interface can have
                     */
    NET_TAP_MTU,    /* -EPERM; -EINVAL: a value that the interface refuses */
    NET_TAP_BRIDGE, /* -ENODEV: no such bridge; -EOPNOTSUPP, -EINVAL: no bridge; -EPERM; -EBUSY: it is in another one */
    NET_TAP_UP,     /* -EPERM */
    NET_TAP_MEMORY, /* -ENOMEM, -EMFILE */
};

/* Open the interface. On failure *ret_step says where. base.mtu becomes the interface's MTU, but at most NET_MTU_MAX.
 */
int net_tap_new(const struct net_tap_config *config, struct loop *l, enum net_tap_step *ret_step,
                struct net_backend **ret_backend) MUST_USE;
/* A tap that somebody else opened, maybe in another network namespace: fd is attached, without packet information and
 * with a virtio_net_hdr; the rest is set here. mtu: of the interface. On success the back end owns fd. -EINVAL: it is
 * no such thing; -ENOMEM, -EMFILE. */
int net_tap_adopt(int fd, uint16_t mtu, struct loop *l, struct net_backend **ret_backend) MUST_USE;
/* The interface's name, of a back end made by one of these. */
const char *net_tap_name(const struct net_backend *b);

#endif
