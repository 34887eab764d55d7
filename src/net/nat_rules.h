/* The rules of NAT by the kernel for one network, as nft(8) reads them: a table of the network's own, replaced as a
 * whole in one transaction, so that what an earlier run left behind goes at the same moment. Pure.
 *
 * What they say: guests reach the outside behind the host's addresses; from outside, and from other networks, only
 * answers and forwarded ports reach guests; the host itself takes pings from them and nothing else. */
#ifndef NET_NAT_RULES_H
#define NET_NAT_RULES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "wire/addr.h"

struct buf;

#define NET_NAT_NAME_MAX 63
#define NET_NAT_IF_MAX 15 /* IFNAMSIZ - 1 */
#define NET_NAT_FORWARDS_MAX 256
#define NET_NAT_RULES_MAX (1U << 20) /* bytes of text */

/* Plain old data: it crosses to another process. */
struct net_nat_forward {
    uint8_t udp, ip6;       /* 0 or 1. ip6: host6 and guest6 count, else host4 and guest4 */
    uint32_t host4, guest4; /* host4 0: each address of the host */
    uint8_t host6[16], guest6[16];
    uint16_t host_port, guest_port; /* > 0 */
};

struct net_nat_network {
    char name[NET_NAT_NAME_MAX + 1];    /* [a-z0-9-] */
    char interface[NET_NAT_IF_MAX + 1]; /* the tap on which the gateway is; [A-Za-z0-9_.-] */
    struct addr_subnet4 subnet;         /* prefix 0: no IPv4 */
    uint32_t gateway;
    struct addr_subnet6 subnet6; /* prefix 0: no IPv6 */
    uint8_t gateway6[16];
    uint32_t dns_tcp; /* DNS by TCP to the gateway goes to this resolver; 0: nowhere */
};

/* -EINVAL: a name that cannot be. */
int net_nat_network_check(const struct net_nat_network *n) MUST_USE;
/* -EINVAL: ports, or a guest's address outside the network. */
int net_nat_forward_check(const struct net_nat_network *n, const struct net_nat_forward *f) MUST_USE;
/* Whether both have the same host's side. */
bool net_nat_forward_same_host(const struct net_nat_forward *a, const struct net_nat_forward *b);
/* Whether both take the same port of the host from each other. */
bool net_nat_forward_collides(const struct net_nat_forward *a, const struct net_nat_forward *b);
/* All checked. Errors stick in out. */
void net_nat_rules(struct buf *out, const struct net_nat_network *n, const struct net_nat_forward *forwards,
                   unsigned n_forwards);
/* What removes the table; true of a table that is not there too. */
void net_nat_rules_none(struct buf *out, const char *name);

#endif
