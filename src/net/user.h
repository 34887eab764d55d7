/* User-mode network: the guest's TCP and UDP become sockets of this process (libslirp), so that no privileges are
 * needed. The guest's world: network 10.0.2.0/24, itself 10.0.2.15 by DHCP, gateway and the host's loopback 10.0.2.2,
 * DNS 10.0.2.3. */
#ifndef NET_USER_H
#define NET_USER_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "net/backend.h"

struct loop;

/* Host port -> guest port. */
struct net_user_forward {
    bool udp;
    struct in_addr host_addr;       /* to bind to */
    uint16_t host_port, guest_port; /* > 0, host byte order */
};

#define NET_USER_MTU 65520

struct net_user_config {
    const struct net_user_forward *forwards; /* borrowed during the call */
    unsigned n_forwards;
    unsigned mtu; /* 576..NET_MTU_MAX; 0: NET_USER_MTU, since no wire limits it */
};

/* -EINVAL: mtu or a port; -ENOMEM; where a forward cannot be bound: the error of bind (-EADDRINUSE, -EACCES, ...) and
 * its index in *ret_forward, else that is -1. */
int net_user_new(const struct net_user_config *config, struct loop *loop, int *ret_forward,
                 struct net_backend **ret_backend) MUST_USE;

#endif
