/* What a network offers to its guests itself: addresses (DHCP, router advertisements, stateless DHCPv6), names (DNS for
 * the guests, the rest forwarded to the host's resolvers), and, where nobody else is the gateway, ARP, neighbour
 * discovery and ping for its address. One back end for a port of the switch: packets for the services are answered,
 * all others go on to the uplink behind it (libslirp, a tap), if there is one.
 *
 * Guests are hostile. Addresses go by MAC, which the switch vouches for; fixed ones and those of VMs that are up are
 * never given to others; everything that grows has a limit. Loop thread only. It must not know VMs, networks' JSON or
 * how an uplink works. Specs: RFC 2131, 2132, 4861, 4862, 8106, 8415, 1035 */
#ifndef NET_SERVICE_H
#define NET_SERVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "wire/addr.h"

struct loop;
struct net_backend;
struct net_service;

#define NET_SERVICE_NAME_MAX 63
#define NET_SERVICE_LEASE_S 3600
/* Addresses that DHCP gives out at most; of a longer range the first ones. */
#define NET_SERVICE_POOL_MAX 8192

/* A fixed lease: the guest with this MAC always gets addr, which is within the subnet. */
struct net_service_host {
    uint8_t mac[6];
    char name[NET_SERVICE_NAME_MAX + 1]; /* [a-z0-9-]; "": none */
    uint32_t addr;
};

/* Members may be NULL. Not from within: the service's functions. */
struct net_service_events {
    /* A MAC begins or ends to hold an address (for address filters). May come again for what is held already. */
    void (*address)(void *opaque, const uint8_t mac[6], uint32_t addr, bool held);
    void (*names)(void *opaque); /* what names resolve to may have changed */
    void *opaque;
};

/* All pointers are borrowed during the call only, but uplink and clock_opaque. Zero what is not wanted. */
struct net_service_config {
    uint8_t mac[6];              /* of the gateway */
    struct addr_subnet4 subnet;  /* prefix 0: no IPv4 */
    uint32_t gateway;            /* our address in it */
    struct addr_subnet6 subnet6; /* prefix 0: no IPv6, else 64 */
    uint8_t gateway6[16];        /* ours in it; fe80:: and its last 8 bytes are our link-local address */
    bool dhcp;                   /* DHCPv4 from dhcp_first to dhcp_last; on subnet6 router advertisements and DHCPv6 */
    uint32_t dhcp_first, dhcp_last;
    uint32_t lease_s; /* 60..; 0: NET_SERVICE_LEASE_S */
    bool dns;
    bool dns_forward;        /* names outside the network are asked of the host's resolvers, else refused */
    const char *domain;      /* of the guests' names, e.g. "web.internal"; needed with dns */
    const char *resolv_conf; /* NULL: /etc/resolv.conf; read again when it changes */
    uint16_t resolver_port;  /* of the resolvers named there; 0: 53 */
    uint16_t mtu;
    bool router; /* there is a way out: guests get a default route */
    const struct net_service_host *hosts;
    unsigned n_hosts;
    const char *lease_path;     /* file to keep the leases in; NULL: they are not kept */
    struct net_backend *uplink; /* NULL: none. Closed with the service; on failure the caller's */
    bool uplink_is_gateway;     /* ARP, neighbour discovery and pings for the gateway are the uplink's */
    struct net_service_events events;
    int64_t (*clock_s)(void *opaque); /* seconds since 1970; NULL: CLOCK_REALTIME */
    void *clock_opaque;
};

/* -EINVAL: config; -EBADMSG: the lease file is not ours to read (moved to PATH.bad first, so that a second try begins
 * empty); -ENOMEM; errors of open and read. net_service_backend's close ends it. */
int net_service_new(const struct net_service_config *config, struct loop *loop,
                    struct net_service **ret_service) MUST_USE;
struct net_backend *net_service_backend(struct net_service *s);

/* A VM is about to use mac under this name (may be ""): it has an address from now on, which nobody else gets while it
 * is up, and DNS knows it. Returns the address, 0: none is free, or no DHCP. */
uint32_t net_service_guest_up(struct net_service *s, const uint8_t mac[6], const char *name);
/* It has gone. Its address stays its own as long as the lease. */
void net_service_guest_down(struct net_service *s, const uint8_t mac[6]);

struct net_service_lease {
    uint8_t mac[6];
    uint32_t addr;
    const char *name;  /* "": none; valid during the call */
    int64_t expires_s; /* since 1970; 0: fixed */
};
/* Call fn for each lease that holds, and for each fixed one. */
void net_service_leases(struct net_service *s, void (*fn)(void *opaque, const struct net_service_lease *lease),
                        void *opaque);
/* Addresses of a guest by its name without domain, which it has from the configuration or net_service_guest_up, or,
 * with own_names, gave itself. -ENOENT. The second: the IPv6 address that it took first, as far as that was seen. */
int net_service_resolve(struct net_service *s, const char *name, bool own_names, uint32_t *ret_addr) MUST_USE;
int net_service_resolve6(struct net_service *s, const char *name, bool own_names, uint8_t ret_addr[16]) MUST_USE;

/* The first resolver of a resolv.conf(5) (NULL: the host's) that has an IPv4 address; 0: none. */
uint32_t net_resolver_first4(const char *resolv_conf);

#endif
