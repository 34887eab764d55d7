/* The spoof filter: whose addresses a port may use in what it sends.
 *
 * MAC: the port's own only, in the Ethernet header and where ARP and neighbour discovery carry it. IP: what was allowed
 * by name (leases), and in IPv6, where hosts make addresses themselves, whatever fits the network and nobody else uses
 * ("first come, first served", RFC 6620); the port keeps it until it goes or has claimed too many others. Answers that
 * belong to the network's infrastructure (DHCP, router advertisements, redirects) come from trusted ports only (RFC
 * 7113). What cannot be judged is dropped. */
#include "net/switch_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    NET_TYPE_IP4 = 0x0800,
    NET_TYPE_ARP = 0x0806,
    NET_TYPE_IP6 = 0x86dd,
    NET_PROTO_UDP = 17,
    NET_PROTO_ICMP6 = 58,
    NET_PORT_DHCP_SERVER = 67,
    NET_PORT_DHCP_CLIENT = 68,
    NET_PORT_DHCP6_SERVER = 547,
    NET_EXTENSIONS_MAX = 8, /* headers before the one that counts */
};
/* IPv6 extension headers (RFC 8200) and ICMPv6 types (RFC 4861, 2710, 3810). */
enum { NET_EXT_HOP = 0, NET_EXT_ROUTING = 43, NET_EXT_FRAGMENT = 44, NET_EXT_AUTH = 51, NET_EXT_DEST = 60 };
enum {
    NET_MLD_QUERY = 130,
    NET_MLD_REPORT = 131,
    NET_MLD_DONE = 132,
    NET_ND_RS = 133,
    NET_ND_RA = 134,
    NET_ND_NS = 135,
    NET_ND_NA = 136,
    NET_ND_REDIRECT = 137,
    NET_MLD2_REPORT = 143,
};

static struct net_ip net_ip_from4(const uint8_t addr[4])
{
    struct net_ip ip = { .bytes = { [10] = 0xff, [11] = 0xff } };

    memcpy(ip.bytes + 12, addr, 4);
    return ip;
}

static bool net_ip_is_zero(const uint8_t *bytes, size_t n)
{
    while (n > 0 && bytes[n - 1] == 0)
        n--;
    return n == 0;
}

static bool net_ip_is_link_local(const struct net_ip *ip)
{
    return ip->bytes[0] == 0xfe && (ip->bytes[1] & 0xc0) == 0x80;
}

/* ---- the table of addresses ---- */

static struct net_ip_entry **net_ip_link(struct net_switch *sw, uint16_t vlan, const struct net_ip *ip)
{
    struct net_ip_entry **at = &sw->ips[net_table_hash(sw, ip->bytes, sizeof(ip->bytes), vlan) % NET_IP_BUCKETS];

    while (*at && ((*at)->vlan != vlan || memcmp((*at)->ip.bytes, ip->bytes, sizeof(ip->bytes)) != 0))
        at = &(*at)->next;
    return at;
}

static void net_ip_drop(struct net_ip_entry *e)
{
    struct net_ip_entry **at = net_ip_link(e->port->sw, e->vlan, &e->ip);

    *at = e->next;
    list_remove(&e->link);
    e->port->n_ips--;
    free(e);
}

/* The address that the port claimed longest ago, or NULL. */
static struct net_ip_entry *net_ip_oldest_claim(struct net_port *port)
{
    struct net_ip_entry *e;

    LIST_FOR_EACH(e, &port->ips, link) {
        if (e->claimed)
            return e;
    }
    return NULL;
}

/* Give ip, which is nobody's, to port. */
static int net_ip_add(struct net_port *port, uint16_t vlan, const struct net_ip *ip, bool claimed)
{
    struct net_ip_entry *e, **at;

    if (port->n_ips >= NET_PORT_IPS_MAX) {
        e = net_ip_oldest_claim(port);
        if (!e)
            return -ENOSPC;
        net_ip_drop(e);
    }
    e = calloc(1, sizeof(*e));
    if (!e)
        return -ENOMEM;
    *e = (struct net_ip_entry){ .port = port, .ip = *ip, .vlan = vlan, .claimed = claimed };
    list_add_before(&port->ips, &e->link);
    port->n_ips++;
    at = net_ip_link(port->sw, vlan, ip);
    e->next = *at;
    *at = e;
    return 0;
}

int net_switch_port_allow_ip(struct net_port *port, const struct net_ip *ip)
{
    struct net_ip_entry *e = *net_ip_link(port->sw, port->config.vlan, ip);

    if (e && e->port == port) {
        e->claimed = false;
        return 0;
    }
    if (e)
        net_ip_drop(e);
    return net_ip_add(port, port->config.vlan, ip, false);
}

void net_switch_port_forbid_ip(struct net_port *port, const struct net_ip *ip)
{
    struct net_ip_entry *e = *net_ip_link(port->sw, port->config.vlan, ip);

    if (e && e->port == port)
        net_ip_drop(e);
}

void net_filter_forget_port(struct net_port *port)
{
    while (!list_empty(&port->ips))
        net_ip_drop(CONTAINER_OF(port->ips.next, struct net_ip_entry, link));
}

/* ---- who may use what ---- */

static bool net_filter_ip4(struct net_port *port, uint16_t vlan, const uint8_t addr[4])
{
    struct net_ip ip = net_ip_from4(addr);
    struct net_ip_entry *e = *net_ip_link(port->sw, vlan, &ip);

    return e && e->port == port;
}

/* Whether ip was made from the MAC of another port (RFC 4291, appendix A), who would come too late to claim it. */
static bool net_filter_is_others(struct net_port *port, const struct net_ip *ip)
{
    const uint8_t *id = ip->bytes + 8;
    uint8_t mac[6] = { id[0] ^ 2, id[1], id[2], id[5], id[6], id[7] };
    const struct net_port *owner;

    if (id[3] != 0xff || id[4] != 0xfe)
        return false;
    owner = net_switch_port_by_mac(port->sw, mac);
    return owner && owner != port;
}

/* Whether port may have ip, which is nobody's. */
static bool net_filter_may_claim(struct net_port *port, const struct net_ip *ip)
{
    const struct net_port_config *c = &port->config;

    if (ip->bytes[0] == 0xff || net_ip_is_zero(ip->bytes, 12)) /* groups; ::, ::1 and IPv4 in disguise */
        return false;
    if (!net_ip_is_link_local(ip) && !c->filter_ip6_any &&
        (net_ip_is_zero(c->ip6_prefix.bytes, 8) || memcmp(ip->bytes, c->ip6_prefix.bytes, 8) != 0))
        return false;
    return !net_filter_is_others(port, ip);
}

static bool net_filter_ip6(struct net_port *port, uint16_t vlan, const uint8_t addr[16])
{
    struct net_ip ip;
    struct net_ip_entry *e;

    memcpy(ip.bytes, addr, sizeof(ip.bytes));
    e = *net_ip_link(port->sw, vlan, &ip);
    if (e && e->port == port)
        e->tentative = false;
    if (e)
        return e->port == port;
    return net_filter_may_claim(port, &ip) && net_ip_add(port, vlan, &ip, true) == 0;
}

/* Duplicate address detection: the address is the port's from its question on, or somebody who hears that could answer
 * with it as his own. Questions about one of another port pass once that uses it and can answer; before, they would
 * make it give the address up (RFC 4862 section 5.4.3). */
static bool net_filter_dad(struct net_port *port, uint16_t vlan, const uint8_t target[16])
{
    struct net_ip ip;
    struct net_ip_entry *e;

    memcpy(ip.bytes, target, sizeof(ip.bytes));
    e = *net_ip_link(port->sw, vlan, &ip);
    if (e && e->port != port)
        return !e->tentative;
    if (!e && net_filter_is_others(port, &ip))
        return false;
    if (!e && net_filter_may_claim(port, &ip) && net_ip_add(port, vlan, &ip, true) == 0)
        e = *net_ip_link(port->sw, vlan, &ip);
    if (e)
        e->tentative = true;
    return true;
}

/* ---- ARP (RFC 826, 5227) ---- */

static bool net_filter_arp(struct net_port *port, const struct net_frame *f)
{
    static const uint8_t ethernet_ip4[6] = { 0, 1, 8, 0, 6, 4 };
    const uint8_t *arp = f->data + f->l3;
    bool request;

    if (f->len - f->l3 < 28 || memcmp(arp, ethernet_ip4, sizeof(ethernet_ip4)) != 0)
        return false;
    request = load_be16(arp + 6) == 1;
    if (memcmp(arp + 8, f->data + 6, 6) != 0) /* the sender's address in ARP is that in the frame */
        return false;
    if (!port->config.filter_ip)
        return true;
    if (net_ip_is_zero(arp + 14, 4)) /* a probe asks whether an address is free */
        return request;
    return net_filter_ip4(port, f->vlan, arp + 14);
}

/* ---- IPv4 ---- */

static bool net_filter_ipv4(struct net_port *port, const struct net_frame *f)
{
    const uint8_t *ip = f->data + f->l3;
    size_t len = f->len - f->l3, head;
    uint16_t sport = 0, dport = 0;
    bool first;

    if (len < 20 || ip[0] >> 4 != 4)
        return false;
    head = (size_t)(ip[0] & 15) * 4;
    if (head < 20 || head > len)
        return false;
    first = (load_be16(ip + 6) & 0x1fff) == 0;
    if (ip[9] == NET_PROTO_UDP && first) {
        if (len - head < 8) /* ports in a later fragment would pass unseen */
            return false;
        sport = load_be16(ip + head);
        dport = load_be16(ip + head + 2);
        if (sport == NET_PORT_DHCP_SERVER && !port->config.trusted)
            return false;
    }
    if (net_ip_is_zero(ip + 12, 4)) /* a host without an address may ask for one, whole packets only */
        return sport == NET_PORT_DHCP_CLIENT && dport == NET_PORT_DHCP_SERVER && !(load_be16(ip + 6) & 0x2000);
    return net_filter_ip4(port, f->vlan, ip + 12);
}

/* ---- IPv6 ---- */

/* The upper layer of an IPv6 packet. */
struct net_upper {
    uint8_t proto;
    const uint8_t *data; /* NULL: in another fragment */
    size_t len;
    bool fragment;
};

/* False: the packet makes no sense or hides its upper layer. */
static bool net_filter_find_upper(const uint8_t *ip, size_t len, struct net_upper *ret_upper)
{
    struct net_upper u = { .proto = ip[6], .data = ip + 40, .len = len - 40 };

    for (unsigned i = 0; i <= NET_EXTENSIONS_MAX; i++) {
        size_t head;

        switch (u.proto) {
        case NET_EXT_HOP:
        case NET_EXT_ROUTING:
        case NET_EXT_DEST:
            head = u.len < 8 ? SIZE_MAX : 8 + (size_t)u.data[1] * 8;
            break;
        case NET_EXT_AUTH:
            head = u.len < 8 ? SIZE_MAX : ((size_t)u.data[1] + 2) * 4;
            break;
        case NET_EXT_FRAGMENT:
            head = 8;
            if (u.len < head)
                return false;
            u.fragment = true;
            if (load_be16(u.data + 2) & 0xfff8) { /* not the first one */
                u.proto = u.data[0];
                u.data = NULL;
                *ret_upper = u;
                return true;
            }
            break;
        default:
            *ret_upper = u;
            return true;
        }
        if (head > u.len)
            return false;
        u.proto = u.data[0];
        u.data += head;
        u.len -= head;
    }
    return false;
}

/* Link-layer address options of neighbour discovery name the sender itself. opts: behind the fixed part. */
static bool net_filter_nd_options(const struct net_port *port, const uint8_t *opts, size_t len)
{
    while (len >= 8) {
        size_t n = (size_t)opts[1] * 8;

        if (n == 0 || n > len)
            return false;
        if ((opts[0] == 1 || opts[0] == 2) && port->config.filter_mac && memcmp(opts + 2, port->config.mac, 6) != 0)
            return false;
        opts += n;
        len -= n;
    }
    return true;
}

/* ICMPv6. src_any: the packet's source is ::. */
static bool net_filter_icmp6(struct net_port *port, const struct net_frame *f, const struct net_upper *u, bool src_any)
{
    uint8_t type;

    if (!u->data) /* a later fragment: its first one was no neighbour discovery */
        return !src_any;
    if (u->len < 8)
        return false;
    type = u->data[0];
    if (type >= NET_ND_RS && type <= NET_ND_REDIRECT && u->fragment) /* RFC 6980 */
        return false;
    switch (type) {
    case NET_ND_RA:
    case NET_ND_REDIRECT:
        return port->config.trusted;
    case NET_MLD_QUERY:
        return port->config.trusted;
    case NET_ND_RS:
        return net_filter_nd_options(port, u->data + 8, u->len - 8);
    case NET_ND_NS:
        return u->len >= 24 && net_filter_nd_options(port, u->data + 24, u->len - 24) &&
               (!src_any || net_filter_dad(port, f->vlan, u->data + 8));
    case NET_ND_NA:
        return u->len >= 24 && !src_any && net_filter_ip6(port, f->vlan, u->data + 8) &&
               net_filter_nd_options(port, u->data + 24, u->len - 24);
    case NET_MLD_REPORT:
    case NET_MLD_DONE:
    case NET_MLD2_REPORT:
        return true;
    default:
        return !src_any;
    }
}

static bool net_filter_ipv6(struct net_port *port, const struct net_frame *f)
{
    const uint8_t *ip = f->data + f->l3;
    size_t len = f->len - f->l3;
    struct net_upper upper;
    bool src_any;

    if (len < 40 || ip[0] >> 4 != 6 || !net_filter_find_upper(ip, len, &upper))
        return false;
    src_any = net_ip_is_zero(ip + 8, 16);
    if (!src_any && !net_filter_ip6(port, f->vlan, ip + 8))
        return false;
    if (upper.proto == NET_PROTO_ICMP6)
        return net_filter_icmp6(port, f, &upper, src_any);
    if (upper.proto == NET_PROTO_UDP && upper.data && !port->config.trusted) {
        if (upper.len < 8 || load_be16(upper.data) == NET_PORT_DHCP6_SERVER)
            return false;
    }
    return !src_any;
}

bool net_filter_pass(struct net_port *port, const struct net_frame *f)
{
    const struct net_port_config *c = &port->config;

    if (c->filter_mac && memcmp(f->data + 6, c->mac, 6) != 0)
        return false;
    if (f->type == NET_TYPE_ARP && (c->filter_mac || c->filter_ip))
        return net_filter_arp(port, f);
    if (!c->filter_ip)
        return true;
    if (f->type == NET_TYPE_IP4)
        return net_filter_ipv4(port, f);
    return f->type == NET_TYPE_IP6 && net_filter_ipv6(port, f);
}
