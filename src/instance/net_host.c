#include "instance/net_host.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint8_t net_host_prefix(const uint8_t *mask, size_t len)
{
    uint8_t bits = 0;

    for (size_t i = 0; i < len && mask[i]; i++)
        bits = (uint8_t)(bits + __builtin_popcount(mask[i]));
    return bits;
}

/* false: nothing that a network could hide. */
static bool net_host_read(const struct ifaddrs *a, struct inst_host_subnet *ret_subnet)
{
    struct inst_host_subnet s = { 0 };

    if (!a->ifa_addr || !a->ifa_netmask || (a->ifa_flags & IFF_LOOPBACK))
        return false;
    snprintf(s.interface, sizeof(s.interface), "%s", a->ifa_name);
    if (a->ifa_addr->sa_family == AF_INET) {
        uint32_t addr = ntohl(((const struct sockaddr_in *)(const void *)a->ifa_addr)->sin_addr.s_addr),
                 mask = ntohl(((const struct sockaddr_in *)(const void *)a->ifa_netmask)->sin_addr.s_addr);

        s.subnet = (struct addr_subnet4){ .addr = addr & mask, .prefix = (uint8_t)__builtin_popcount(mask) };
        *ret_subnet = s;
        return s.subnet.prefix != 0;
    }
    if (a->ifa_addr->sa_family == AF_INET6) {
        const uint8_t *addr = ((const struct sockaddr_in6 *)(const void *)a->ifa_addr)->sin6_addr.s6_addr,
                      *mask = ((const struct sockaddr_in6 *)(const void *)a->ifa_netmask)->sin6_addr.s6_addr;

        for (size_t i = 0; i < 16; i++)
            s.subnet6.addr[i] = addr[i] & mask[i];
        s.subnet6.prefix = net_host_prefix(mask, 16);
        *ret_subnet = s;
        return s.subnet6.prefix != 0 && !(addr[0] == 0xfe && (addr[1] & 0xc0) == 0x80);
    }
    return false;
}

int inst_host_subnets(struct inst_host_subnet **ret_list, size_t *ret_n)
{
    struct inst_host_subnet *list;
    struct ifaddrs *addrs;
    size_t n = 0;

    if (getifaddrs(&addrs) < 0)
        return -errno;
    for (const struct ifaddrs *a = addrs; a; a = a->ifa_next)
        n++;
    list = calloc(n + 1, sizeof(*list));
    n = 0;
    for (const struct ifaddrs *a = addrs; list && a; a = a->ifa_next)
        n += net_host_read(a, &list[n]);
    freeifaddrs(addrs);
    if (!list)
        return -ENOMEM;
    *ret_list = list;
    *ret_n = n;
    return 0;
}
