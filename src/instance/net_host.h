/* The networks that this host is part of, so that a new one does not hide them. */
#ifndef INST_NET_HOST_H
#define INST_NET_HOST_H

#include <net/if.h>
#include <stddef.h>

#include "base/attr.h"
#include "wire/addr.h"

/* An address of an interface, as the subnet that it makes reachable. One of the two has a prefix. Loopback is left out.
 */
struct inst_host_subnet {
    char interface[IF_NAMESIZE];
    struct addr_subnet4 subnet;
    struct addr_subnet6 subnet6;
};

/* *ret_list: malloc'd, *ret_n entries. -ENOMEM or what the kernel says. */
int inst_host_subnets(struct inst_host_subnet **ret_list, size_t *ret_n) MUST_USE;

#endif
