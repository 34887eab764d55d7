/* User-mode network: the guests' TCP, UDP and pings become sockets of this process (libslirp), so that no privileges
 * are needed. Two forms:
 * - of one guest, whose world is 10.0.2.0/24 (itself 10.0.2.15 by DHCP, gateway and the host's loopback 10.0.2.2, DNS
 *   10.0.2.3) and fd10:0:2::/64 by router advertisements (gateway ::2, DNS ::3);
 * - the uplink of a network with services of its own (net/service.h): no DHCP; the gateway leads to no port of the
 *   host's, but DNS by TCP, which goes to the host's resolver. */
#ifndef NET_USER_H
#define NET_USER_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "net/backend.h"
#include "wire/addr.h"

struct loop;

/* Host port -> guest port. */
struct net_user_forward {
    bool udp;
    bool ip6;                       /* the addresses are host_addr6 and guest_addr6, else host_addr and guest_addr */
    struct in_addr host_addr;       /* to bind to */
    uint16_t host_port, guest_port; /* > 0, host byte order */
    struct in_addr guest_addr;      /* all zero: the guest's of DHCP, where there is one guest */
    struct in6_addr host_addr6, guest_addr6;
};

/* The network that this is the way out of. */
struct net_user_network {
    struct addr_subnet4 subnet; /* prefix 0: no IPv4 */
    uint32_t gateway;
    struct addr_subnet6 subnet6; /* prefix 0: no IPv6 */
    uint8_t gateway6[16];
};

/* No wire limits it, but libslirp offers TCP windows of 64 KiB at most: segments of more than half of that leave a
 * connection stuck now and then, with each end waiting until a whole one fits. */
#define NET_USER_MTU 32000

struct net_user_config {
    const struct net_user_forward *forwards; /* borrowed during the call */
    unsigned n_forwards;
    unsigned mtu;                           /* 576..NET_MTU_MAX; 0: NET_USER_MTU */
    const struct net_user_network *network; /* NULL: of one guest. Borrowed during the call */
};

/* -EINVAL: mtu or a port; -ENOMEM; where a forward cannot be bound: the error of bind (-EADDRINUSE, -EACCES, ...) and
 * its index in *ret_forward, else that is -1. */
int net_user_new(const struct net_user_config *config, struct loop *loop, int *ret_forward,
                 struct net_backend **ret_backend) MUST_USE;

/* b: made by net_user_new. Forward one more port. -EINVAL: a port, or no guest; errors of bind as above. */
int net_user_forward_add(struct net_backend *b, const struct net_user_forward *f) MUST_USE;
/* Whether the host's side of f could be had now: 0, or the error of bind. */
int net_user_forward_probe(const struct net_user_forward *f) MUST_USE;
/* Only the host's side of f counts. Connections that exist go on. -ENOENT. */
int net_user_forward_remove(struct net_backend *b, const struct net_user_forward *f) MUST_USE;
/* The Ethernet address under which libslirp answers for an IPv4 gateway. */
void net_user_gateway_mac(uint32_t gateway, uint8_t ret_mac[6]);

#endif
