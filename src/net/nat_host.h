/* What NAT by the kernel needs of the host besides rules: addresses on the interface, routing, ports that nobody else
 * uses. All need CAP_NET_ADMIN. */
#ifndef NET_NAT_HOST_H
#define NET_NAT_HOST_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "net/nat_rules.h"

/* Give the interface, which is down, its MAC and the gateway's addresses (fe80:: with the last 8 bytes of gateway6,
 * too), and set it up; then its subnets are routed to it. It does no duplicate address detection and hears no router.
 * Errors of the ioctls. */
int net_nat_host_address(const struct net_nat_network *n, const uint8_t mac[6]) MUST_USE;
/* Let the kernel route. *ret_changed: NET_NFT_FORWARD* for what was off before. Interfaces that take router
 * advertisements go on doing so. Errors of open and write. */
int net_nat_host_forwarding(bool ip4, bool ip6, unsigned *ret_changed) MUST_USE;
/* A socket that is bound to the host's side of a forward, so that no other program has it or gets it; it never receives
 * what the rules lead elsewhere. Returns the descriptor, or errors of bind (-EADDRINUSE, -EACCES, -EADDRNOTAVAIL);
 * -EADDRNOTAVAIL also for ::1, which the kernel does not route. */
int net_nat_host_reserve(const struct net_nat_forward *f) MUST_USE;

#endif
