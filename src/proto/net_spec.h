/* What a network is: the object that `caisson network` stores, that the switch process is started with, and that users
 * see as JSON. One description for all of them; unknown fields are refused, absent ones have defaults.
 *
 * {"name": "web", "mode": "nat"|"isolated"|"bridge", "backend": "slirp"|"nft", "subnet": "10.188.1.0/24", "subnet6":
 * "fd…::/64"|null, "gateway": "10.188.1.1", "dhcp": true, "dhcp_range": ["10.188.1.2", "10.188.1.254"], "hosts":
 * [{"mac", "name", "ip"}], "dns": true, "domain": "web.internal", "mtu": 1500, "forwards": [{"proto": "tcp"|"udp",
 * "host_addr", "host_port", "guest", "guest_port"}], "tap": "IF"|null, "bridge": "IF"|null, "isolated_ports": false,
 * "mac_filter": true}
 *
 * The struct owns nothing: copy it freely. It must not know how a network is run. */
#ifndef PROTO_NET_SPEC_H
#define PROTO_NET_SPEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"
#include "proto/name.h"
#include "wire/addr.h"

struct json_object;

#define NET_SPEC_DEFAULT "default"
#define NET_SPEC_HOSTS_MAX 128
#define NET_SPEC_FORWARDS_MAX 64
#define NET_SPEC_DOMAIN_MAX 127
#define NET_SPEC_IF_MAX 15    /* IFNAMSIZ - 1 */
#define NET_SPEC_MTU_MIN 1280 /* RFC 8200 section 5 */
#define NET_SPEC_MTU_MAX 65520
#define NET_SPEC_TEXT_MAX (64U << 10)

enum net_spec_mode {
    NET_SPEC_NAT,      /* the guests reach the outside behind the host's address */
    NET_SPEC_ISOLATED, /* they reach each other and the services of the network */
    NET_SPEC_BRIDGE,   /* they are part of a network of the host's */
};

/* How the outside is reached with NET_SPEC_NAT. */
enum net_spec_backend {
    NET_SPEC_SLIRP, /* without privileges */
    NET_SPEC_NFT,   /* tap and nftables; needs root */
};

/* A fixed lease: the card with this MAC always gets addr, and name resolves to it. */
struct net_spec_host {
    uint8_t mac[6];
    char name[PROTO_NAME_MAX + 1]; /* "": none */
    uint32_t addr;
};

/* Connections to host_addr:host_port go on to guest:guest_port. */
struct net_spec_forward {
    bool udp;
    char host_addr[ADDR_IP6_TEXT]; /* IPv4 or IPv6, as addr_*_format write it */
    uint16_t host_port, guest_port;
    char guest[PROTO_NAME_MAX + 1]; /* a name on the network, or an address of subnet or subnet6 */
};

struct net_spec {
    char name[PROTO_NAME_MAX + 1];
    enum net_spec_mode mode;
    enum net_spec_backend backend;
    struct addr_subnet4 subnet;  /* prefix 0: none (possible without dhcp and dns) */
    struct addr_subnet6 subnet6; /* prefix 0: none, else 64 */
    uint32_t
        gateway; /* the network's own address: router, DHCP and DNS; 0 without subnet. For IPv6 net_spec_gateway6 */
    bool dhcp;   /* also router advertisements on subnet6 */
    uint32_t dhcp_first, dhcp_last; /* inclusive; 0 without subnet */
    struct net_spec_host hosts[NET_SPEC_HOSTS_MAX];
    unsigned n_hosts;
    bool dns;
    char domain[NET_SPEC_DOMAIN_MAX + 1]; /* without a dot at the end */
    uint32_t mtu;                         /* NET_SPEC_MTU_MIN..NET_SPEC_MTU_MAX */
    struct net_spec_forward forwards[NET_SPEC_FORWARDS_MAX];
    unsigned n_forwards;
    char tap[NET_SPEC_IF_MAX +
             1]; /* bridge: an existing tap device as the uplink; nft: the name of the one to make ("": chosen) */
    char
        bridge[NET_SPEC_IF_MAX + 1]; /* bridge: a Linux bridge that a tap made for the network joins (root); "": none */
    bool isolated_ports;             /* guests reach the gateway and the outside, not each other */
    bool mac_filter;                 /* a port may send from the MAC and the addresses that it was given only */
};

/* A NAT network with all defaults and no subnet yet. name is not checked here; it is cut to PROTO_NAME_MAX. */
void net_spec_init(struct net_spec *s, const char *name);
/* The network that is always there: "default", NAT by libslirp, 10.188.0.0/24 and a unique local IPv6 prefix. */
void net_spec_init_default(struct net_spec *s);

/* Fill what follows from the rest where it is not set: gateway (the first address), DHCP range (all others), domain
 * (NAME.internal); then check everything: ranges, that addresses are within the subnet and unique, that the parts fit
 * the mode. -EINVAL with text. */
int net_spec_complete(struct net_spec *s, struct err *e) MUST_USE;

/* The network's own IPv6 address: the first of subnet6 (PREFIX::1). Only where subnet6.prefix != 0. */
void net_spec_gateway6(const struct net_spec *s, uint8_t ret_addr[16]);

/* Where the leases of a network are kept: STATE/net/NAME.leases, for the user's state directory (sys/dirs.h).
 * -ENAMETOOLONG.
 */
int net_spec_lease_path(const char *state, const char *name, char *ret_path, size_t size) MUST_USE;

/* Names as in JSON and on the command line. *_parse: -EINVAL for one that is unknown. */
const char *net_spec_mode_name(enum net_spec_mode mode);
int net_spec_mode_parse(const char *name, enum net_spec_mode *ret_mode) MUST_USE;
const char *net_spec_backend_name(enum net_spec_backend backend);
int net_spec_backend_parse(const char *name, enum net_spec_backend *ret_backend) MUST_USE;

/* As a JSON value that the caller puts; NULL: out of memory. */
struct json_object *net_spec_to_object(const struct net_spec *s);
/* From a JSON value (borrowed); s is initialised here, completed and checked; its content is undefined on failure.
 * -EINVAL with text. */
int net_spec_from_object(struct json_object *o, struct net_spec *s, struct err *e) MUST_USE;
/* The same as text. *ret_text: malloc'd, one line. -ENOMEM. */
int net_spec_to_json(const struct net_spec *s, char **ret_text) MUST_USE;
/* -EINVAL with text: not JSON, longer than NET_SPEC_TEXT_MAX, or as above. */
int net_spec_from_json(const char *text, struct net_spec *s, struct err *e) MUST_USE;

#endif
