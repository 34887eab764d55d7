/* A learning Ethernet switch whose ports are network back ends (net/backend.h): rings shared with VMs, taps, the user
 * network, the network's own services. The switch is the receiver of each of them.
 *
 * A frame goes from its port to where its destination was last seen, to all other ports of its VLAN where it is not
 * known. Offloads pass untouched to ports that take them; net_backend_send finishes the others in software. A port that
 * has asked for less bandwidth than it uses is held back (its back end keeps the frame); a frame for a port without
 * room is dropped and counted, so that no port can hold up another. Everything that a port's owner influences is
 * bounded: addresses in the table, flooded frames a second.
 *
 * Loop thread only. It must not know VMs, processes or JSON. */
#ifndef NET_SWITCH_H
#define NET_SWITCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/cleanup.h"

struct loop;
struct net_backend;
struct net_switch;
struct net_port;
struct net_pcap;

#define NET_VLANS 4096       /* VLAN ids are 1..4094; 0: the frames without a tag of a switch that uses no VLANs */
#define NET_PORTS_MAX 1024   /* of one switch */
#define NET_PORT_NAME_MAX 80 /* with its terminator */
#define NET_PORT_IPS_MAX 16  /* addresses that one port may use under filter_ip */

/* IPv6, or IPv4 as ::ffff:a.b.c.d; network order. */
struct net_ip {
    uint8_t bytes[16];
};

/* Bits by VLAN id. */
struct net_vlan_set {
    uint64_t bits[NET_VLANS / 64];
};

/* Zero all that is not wanted. */
struct net_port_config {
    char name[NET_PORT_NAME_MAX]; /* what info, log and capture call it; unique, not empty */
    uint8_t mac[6];               /* the owner's address; all zero: not known (a tap, an uplink) */
    /* Frames without tag belong to this VLAN, and leave without tag. 0..4094; tagged frames are dropped on a port that
     * is no trunk (a tag with id 0, priority only, counts as none and is taken off). */
    uint16_t vlan;
    bool trunk; /* tagged frames pass for the VLANs in trunk_vlans */
    struct net_vlan_set trunk_vlans;
    bool isolated;   /* never speaks to another isolated port */
    bool filter_mac; /* frames from other sources than mac are dropped; nobody else can take mac over */
    /* IPv4, ARP, IPv6 and ND sources must be addresses that net_switch_port_allow_ip named, or, in IPv6, belong to
     * ip6_prefix and to no other port (first come). Without an address: DHCP, ARP probes, IPv6 duplicate address
     * detection. */
    bool filter_ip;
    bool filter_ip6_any; /* any IPv6 source that no other port of the VLAN uses (the network has no prefix of ours) */
    struct net_ip ip6_prefix;   /* /64; all zero: none, link-local ones only */
    bool trusted;               /* may answer DHCP and send router advertisements: services, uplinks */
    uint64_t rate_in, rate_out; /* bytes/s from and to the port; 0: no limit */
    uint64_t burst;             /* bytes above it, for each direction; 0: a good value */
    uint32_t flood_rate;        /* frames/s to all (broadcast, multicast, unknown) from this port; 0: NET_FLOOD_RATE */
};
#define NET_FLOOD_RATE 8192

/* Since the port was added. in: from the port into the switch; out: to the port. GSO frames count once. */
struct net_port_counters {
    uint64_t in_frames, in_bytes, out_frames, out_bytes;
    uint64_t in_multicast; /* of in_frames: to a group or to all */
    uint64_t in_malformed; /* dropped: no Ethernet frame, wrong VLAN tag */
    uint64_t in_vlan;      /* dropped: tag of a VLAN that the port does not carry */
    uint64_t in_spoofed;   /* dropped: source address of somebody else */
    uint64_t in_storm;     /* dropped: beyond flood_rate */
    uint64_t in_held;      /* times that the port was held back for rate_in */
    uint64_t out_full;     /* dropped: the port had no room */
    uint64_t out_rate;     /* dropped: beyond rate_out */
    uint64_t out_too_big;  /* dropped: beyond the port's MTU */
};

/* What the owner of the switch wants to hear of ports; members may be NULL. Called after adding and before removing. */
struct net_switch_events {
    void (*port_added)(void *opaque, struct net_port *port);
    void (*port_removed)(void *opaque, struct net_port *port);
    void *opaque;
};

/* -ENOMEM. l: borrowed, for timers; outlives the switch. */
int net_switch_new(struct loop *l, struct net_switch **ret_switch) MUST_USE;
/* Removes all ports first. NULL accepted. */
void net_switch_free(struct net_switch *sw);
DEFINE_AUTO(net_switch, struct net_switch, net_switch_free)
/* Copied; one listener may be added after another (at most 4: -ENOSPC). */
int net_switch_listen(struct net_switch *sw, const struct net_switch_events *events) MUST_USE;

/* Add a port; config is copied. On success the switch owns backend, is its receiver and closes it with the port; on
 * failure it remains the caller's. Frames may arrive before the call returns. *ret_port is valid until removed.
 * -EINVAL: config; -EEXIST: name, or mac with filter_mac, in use; -ENOSPC: NET_PORTS_MAX; -ENOMEM.
 * Never from within a callback of a back end (send, receive). */
int net_switch_port_add(struct net_switch *sw, const struct net_port_config *config, struct net_backend *backend,
                        struct net_port **ret_port) MUST_USE;
/* Closes the back end, forgets its addresses. NULL accepted. Never from within a callback of a back end. */
void net_switch_port_remove(struct net_port *port);

/* Addresses for filter_ip: a DHCP lease begins or ends. They hold in the port's own VLAN (config.vlan). A port without
 * filter_ip may have some too: no filtered port can use what is allowed here (the gateway's addresses). More than
 * NET_PORT_IPS_MAX: -ENOSPC; already there: 0; another port's: it is taken from that one. -ENOMEM. */
int net_switch_port_allow_ip(struct net_port *port, const struct net_ip *ip) MUST_USE;
void net_switch_port_forbid_ip(struct net_port *port, const struct net_ip *ip);

/* The port whose configured mac this is (VMs; exact thanks to filter_mac), or NULL. */
struct net_port *net_switch_port_by_mac(struct net_switch *sw, const uint8_t mac[6]);
struct net_port *net_switch_port_by_name(struct net_switch *sw, const char *name);
/* All ports in order of adding: NULL begins, NULL ends. The current one must not be removed before asking for the next.
 */
struct net_port *net_switch_port_next(struct net_switch *sw, const struct net_port *port);
unsigned net_switch_n_ports(const struct net_switch *sw);
const struct net_port_config *net_port_get_config(const struct net_port *port);
struct net_port_counters net_port_get_counters(const struct net_port *port);
struct net_backend *net_port_get_backend(const struct net_port *port);
/* For the owner of the port: a pointer of its own. */
void net_port_set_opaque(struct net_port *port, void *opaque);
void *net_port_get_opaque(const struct net_port *port);

/* One entry of the address table. */
struct net_switch_mac {
    uint8_t mac[6];
    uint16_t vlan;
    struct net_port *port;
    uint64_t age_ns; /* since it was last seen; 0 for fixed ones */
};
/* Call fn for each entry that has not aged. */
void net_switch_each_mac(struct net_switch *sw, void (*fn)(void *opaque, const struct net_switch_mac *mac),
                         void *opaque);

/* Copy frames to a capture file until stopped: those of port in both directions, as the port sees them, or, with port
 * NULL, each frame that enters the switch, once. The switch owns pcap from success on, and ends the capture when
 * writing fails. Several captures may run, at most 8: -ENOSPC. Returns its number (> 0). */
int net_switch_capture(struct net_switch *sw, struct net_port *port, struct net_pcap *pcap) MUST_USE;
/* false: no such capture (it may have ended by itself). */
bool net_switch_capture_stop(struct net_switch *sw, int number);

/* ---- what the process asks of the network's services (DHCP, DNS, NAT), which plug into ports of their own ---- */

struct net_lease {
    uint8_t mac[6];
    struct net_ip ip;
    char host[256];    /* name without domain; "": none */
    int64_t expires_s; /* CLOCK_REALTIME; 0: fixed, never */
};

struct net_forward_rule {
    bool udp;
    struct net_ip host_addr; /* to bind to; all zero or ::ffff:0.0.0.0: each of the host's */
    uint16_t host_port;      /* > 0 */
    struct net_ip guest;     /* all zero: guest_name decides */
    char guest_name[256];    /* a name on the network; "": guest decides */
    uint16_t guest_port;     /* > 0 */
};

/* Made by the services of a network, used by the control socket. Members may be NULL: -EOPNOTSUPP for the asker. */
struct net_services_ops {
    /* Call fn for each lease that holds. */
    void (*leases)(void *opaque, void (*fn)(void *fn_opaque, const struct net_lease *lease), void *fn_opaque);
    /* A VM is about to get a port (host: its name, may be ""): a name for DNS, an address of its own if there are fixed
     * ones. vm_down when it has gone. */
    void (*vm_up)(void *opaque, struct net_port *port, const char *host);
    void (*vm_down)(void *opaque, struct net_port *port);
    /* -EADDRINUSE, -EACCES, -EEXIST, -ENOENT (guest unknown), -EINVAL, ... */
    int (*forward_add)(void *opaque, const struct net_forward_rule *rule);
    int (*forward_remove)(void *opaque, const struct net_forward_rule *rule); /* -ENOENT */
    void (*forwards)(void *opaque, void (*fn)(void *fn_opaque, const struct net_forward_rule *rule), void *fn_opaque);
    void (*free)(void *opaque);
};
struct net_services {
    const struct net_services_ops *ops; /* NULL: the network has none */
    void *opaque;
};

#endif
