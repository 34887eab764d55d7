#include "proto/net_spec.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define NET_SPEC_PREFIX_MAX 30 /* room for the gateway and one guest */
#define NET_SPEC_PREFIX_MIN 8

static const char *const net_spec_modes[] = {
    [NET_SPEC_NAT] = "nat",
    [NET_SPEC_ISOLATED] = "isolated",
    [NET_SPEC_BRIDGE] = "bridge",
};
static const char *const net_spec_backends[] = { [NET_SPEC_SLIRP] = "slirp", [NET_SPEC_NFT] = "nft" };

const char *net_spec_mode_name(enum net_spec_mode mode)
{
    return net_spec_modes[mode];
}

const char *net_spec_backend_name(enum net_spec_backend backend)
{
    return net_spec_backends[backend];
}

int net_spec_mode_parse(const char *name, enum net_spec_mode *ret_mode)
{
    for (size_t i = 0; i < ARRAY_SIZE(net_spec_modes); i++) {
        if (strcmp(name, net_spec_modes[i]) == 0) {
            *ret_mode = (enum net_spec_mode)i;
            return 0;
        }
    }
    return -EINVAL;
}

int net_spec_backend_parse(const char *name, enum net_spec_backend *ret_backend)
{
    for (size_t i = 0; i < ARRAY_SIZE(net_spec_backends); i++) {
        if (strcmp(name, net_spec_backends[i]) == 0) {
            *ret_backend = (enum net_spec_backend)i;
            return 0;
        }
    }
    return -EINVAL;
}

void net_spec_init(struct net_spec *s, const char *name)
{
    *s = (struct net_spec){ .dhcp = true, .dns = true, .mtu = 1500, .mac_filter = true };
    snprintf(s->name, sizeof(s->name), "%s", name);
}

void net_spec_init_default(struct net_spec *s)
{
    net_spec_init(s, NET_SPEC_DEFAULT);
    s->subnet = (struct addr_subnet4){ .addr = 10U << 24 | 188U << 16, .prefix = 24 };
    s->subnet6 = (struct addr_subnet6){ .addr = { 0xfd, 0xca, 0x15, 0x50, 0, 0x88 }, .prefix = 64 };
    s->gateway = s->subnet.addr + 1;
    s->dhcp_first = s->subnet.addr + 2;
    s->dhcp_last = addr_subnet4_last(&s->subnet) - 1;
    snprintf(s->domain, sizeof(s->domain), "%s.internal", s->name);
}

void net_spec_gateway6(const struct net_spec *s, uint8_t ret_addr[16])
{
    memcpy(ret_addr, s->subnet6.addr, 16);
    ret_addr[15] |= 1;
}

int net_spec_lease_path(const char *state, const char *name, char *ret_path, size_t size)
{
    int n = snprintf(ret_path, size, "%s/net/%s.leases", state, name);

    return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

/* ---- completing and checking ---- */

/* Labels of letters, digits and dashes with dots between them: what DNS and DHCP carry without quoting. */
static bool net_spec_domain_ok(const char *domain)
{
    for (const char *p = domain;; p++) {
        size_t len = strcspn(p, ".");
        char label[PROTO_NAME_MAX + 1];

        if (len == 0 || len > PROTO_NAME_MAX || p[len - 1] == '-')
            return false;
        memcpy(label, p, len);
        label[len] = '\0';
        if (!proto_name_ok(label))
            return false;
        p += len;
        if (*p == '\0')
            return true;
    }
}

/* What the kernel accepts as the name of an interface (dev_valid_name), but printable. */
static bool net_spec_if_ok(const char *name)
{
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return false;
    for (const char *p = name; *p; p++) {
        if (*p <= ' ' || *p > '~' || strchr("/:%\"\\", *p))
            return false;
    }
    return true;
}

/* An address that a guest may have: of the subnet, not its first or last one and not the gateway. */
static bool net_spec_guest_addr(const struct net_spec *s, uint32_t addr)
{
    return addr_subnet4_contains(&s->subnet, addr) && addr != s->subnet.addr && addr != addr_subnet4_last(&s->subnet) &&
           addr != s->gateway;
}

static int net_spec_complete_subnet(struct net_spec *s, struct err *e)
{
    char text[ADDR_SUBNET_TEXT], first[ADDR_IP4_TEXT], last[ADDR_IP4_TEXT];
    uint32_t lowest = s->subnet.addr + 1, highest = addr_subnet4_last(&s->subnet) - 1;

    addr_subnet4_format(&s->subnet, text);
    if (s->subnet.prefix < NET_SPEC_PREFIX_MIN || s->subnet.prefix > NET_SPEC_PREFIX_MAX)
        return err_set(e, EINVAL, "network %s: subnet %s has no useful size; use a prefix from /%d to /%d", s->name,
                       text, NET_SPEC_PREFIX_MIN, NET_SPEC_PREFIX_MAX);
    if ((s->subnet.addr & ~addr_mask4(s->subnet.prefix)) || s->subnet.addr >> 24 == 0 || s->subnet.addr >> 24 == 127 ||
        s->subnet.addr >> 28 >= 14)
        return err_set(e, EINVAL, "network %s: %s is no subnet for hosts; use a private one, e.g. 10.188.7.0/24",
                       s->name, text);
    if (s->gateway == 0)
        s->gateway = lowest;
    if (!addr_subnet4_contains(&s->subnet, s->gateway) || s->gateway < lowest || s->gateway > highest) {
        addr_ip4_format(s->gateway, first);
        return err_set(e, EINVAL, "network %s: gateway %s is no host address of %s; leave it out for the first one",
                       s->name, first, text);
    }
    if (s->dhcp_first == 0 && s->dhcp_last == 0) {
        s->dhcp_first = s->gateway == lowest ? lowest + 1 : lowest;
        s->dhcp_last = s->gateway == highest ? highest - 1 : highest;
    }
    if (s->dhcp_first > s->dhcp_last || s->dhcp_first < lowest || s->dhcp_last > highest ||
        (s->dhcp_first == s->gateway && s->dhcp_last == s->gateway)) {
        addr_ip4_format(s->dhcp_first, first);
        addr_ip4_format(s->dhcp_last, last);
        return err_set(e, EINVAL,
                       "network %s: DHCP range %s-%s does not lie in %s; give the first and last host address", s->name,
                       first, last, text);
    }
    return 0;
}

/* The rules that tie addresses and services together. */
static int net_spec_complete_addresses(struct net_spec *s, struct err *e)
{
    if (s->subnet.prefix != 0) {
        int r = net_spec_complete_subnet(s, e);

        if (r < 0)
            return r;
    } else if (s->mode == NET_SPEC_NAT || s->dhcp || s->dns || s->n_hosts > 0) {
        return err_set(e, EINVAL, "network %s: %s needs a subnet; give --subnet, e.g. 10.188.7.0/24", s->name,
                       s->mode == NET_SPEC_NAT ? "NAT"
                       : s->dhcp               ? "DHCP"
                       : s->dns                ? "DNS"
                                               : "a fixed lease");
    } else if (s->gateway != 0 || s->dhcp_first != 0 || s->dhcp_last != 0) {
        return err_set(e, EINVAL, "network %s: gateway and DHCP range need a subnet; give --subnet or leave them out",
                       s->name);
    }
    if (s->subnet6.prefix != 0 && (s->subnet6.prefix != 64 || s->subnet6.addr[0] == 0xff || s->subnet6.addr[0] == 0))
        return err_set(e, EINVAL, "network %s: the IPv6 subnet must be a unicast /64, e.g. fd00:1:2:3::/64", s->name);
    return 0;
}

static int net_spec_check_hosts(const struct net_spec *s, struct err *e)
{
    for (unsigned i = 0; i < s->n_hosts; i++) {
        const struct net_spec_host *h = &s->hosts[i];
        char mac[ADDR_MAC_TEXT], addr[ADDR_IP4_TEXT];

        addr_mac_format(h->mac, mac);
        addr_ip4_format(h->addr, addr);
        if (!addr_mac_is_unicast(h->mac))
            return err_set(e, EINVAL, "network %s: no card can have the MAC address %s; use e.g. 52:54:00:12:34:56",
                           s->name, mac);
        if (h->name[0] && !proto_name_ok(h->name))
            return err_set(e, EINVAL, "network %s: host name '%s' is not allowed; use 1 to 63 of a-z, 0-9 and '-'",
                           s->name, h->name);
        if (!net_spec_guest_addr(s, h->addr))
            return err_set(e, EINVAL,
                           "network %s: %s (host %s) is no address for a guest; use another one of the subnet", s->name,
                           addr, h->name[0] ? h->name : mac);
        for (unsigned j = 0; j < i; j++) {
            const struct net_spec_host *other = &s->hosts[j];

            if (memcmp(other->mac, h->mac, 6) == 0 || other->addr == h->addr ||
                (h->name[0] && strcmp(other->name, h->name) == 0))
                return err_set(e, EINVAL,
                               "network %s: two fixed leases share %s; each has a MAC, name and address of its own",
                               s->name,
                               memcmp(other->mac, h->mac, 6) == 0 ? mac
                               : other->addr == h->addr           ? addr
                                                                  : h->name);
        }
    }
    return 0;
}

/* guest: an address of the network, or a name. */
static bool net_spec_forward_guest_ok(const struct net_spec *s, const char *guest)
{
    uint8_t addr6[16];
    uint32_t addr;

    if (addr_ip4_parse(guest, &addr) == 0)
        return net_spec_guest_addr(s, addr);
    if (addr_ip6_parse(guest, addr6) == 0)
        return addr_subnet6_contains(&s->subnet6, addr6);
    return proto_name_ok(guest);
}

static int net_spec_check_forward(const struct net_spec *s, unsigned i, struct err *e)
{
    const struct net_spec_forward *f = &s->forwards[i];
    uint8_t addr6[16];
    uint32_t addr;

    if (addr_ip4_parse(f->host_addr, &addr) < 0 && addr_ip6_parse(f->host_addr, addr6) < 0)
        return err_set(e, EINVAL, "network %s: port forward from '%s': not an address of this host; use e.g. 127.0.0.1",
                       s->name, f->host_addr);
    if (strcmp(f->host_addr, "::") == 0)
        return err_set(
            e, EINVAL,
            "network %s: port forward from '::': name one IPv6 address of this host, or use 0.0.0.0 for all of IPv4",
            s->name);
    if (addr_ip4_parse(f->host_addr, &addr) < 0 ? addr_ip4_parse(f->guest, &addr) == 0
                                                : addr_ip6_parse(f->guest, addr6) == 0)
        return err_set(e, EINVAL,
                       "network %s: a port forward leads from IPv4 to IPv4 or from IPv6 to IPv6, not from %s to %s",
                       s->name, f->host_addr, f->guest);
    if (f->host_port == 0 || f->guest_port == 0)
        return err_set(e, EINVAL, "network %s: a port forward needs ports from 1 to 65535", s->name);
    if (!net_spec_forward_guest_ok(s, f->guest))
        return err_set(e, EINVAL,
                       "network %s: port forward to '%s': neither a name nor a guest's address on this network",
                       s->name, f->guest);
    for (unsigned j = 0; j < i; j++) {
        const struct net_spec_forward *other = &s->forwards[j];

        if (other->udp == f->udp && other->host_port == f->host_port && strcmp(other->host_addr, f->host_addr) == 0)
            return err_set(e, EINVAL, "network %s: two port forwards from %s port %u (%s); use another port", s->name,
                           f->host_addr, f->host_port, f->udp ? "udp" : "tcp");
    }
    return 0;
}

static int net_spec_check_mode(const struct net_spec *s, struct err *e)
{
    bool nft = s->mode == NET_SPEC_NAT && s->backend == NET_SPEC_NFT;

    if (!net_spec_if_ok(s->tap) || !net_spec_if_ok(s->bridge))
        return err_set(e, EINVAL,
                       "network %s: '%s' cannot be the name of an interface; see 'ip link' for those of this host",
                       s->name, net_spec_if_ok(s->tap) ? s->bridge : s->tap);
    if (s->mode == NET_SPEC_BRIDGE && !s->tap[0] == !s->bridge[0])
        return err_set(e, EINVAL,
                       "network %s: mode bridge needs one interface of this host; give --bridge IF or --tap IF",
                       s->name);
    if (s->mode != NET_SPEC_BRIDGE && (s->bridge[0] || (s->tap[0] && !nft)))
        return err_set(e, EINVAL,
                       "network %s: an interface of the host belongs to mode bridge; give --mode bridge, or leave '%s'"
                       " out",
                       s->name, s->bridge[0] ? s->bridge : s->tap);
    if (s->mode != NET_SPEC_NAT && s->n_forwards > 0)
        return err_set(e, EINVAL, "network %s: port forwards need mode nat, not %s", s->name,
                       net_spec_mode_name(s->mode));
    if (s->mode != NET_SPEC_NAT && s->backend != NET_SPEC_SLIRP)
        return err_set(e, EINVAL, "network %s: back end %s is for mode nat, not %s; leave it out", s->name,
                       net_spec_backend_name(s->backend), net_spec_mode_name(s->mode));
    return 0;
}

int net_spec_complete(struct net_spec *s, struct err *e)
{
    int r;

    if (!proto_name_ok(s->name))
        return err_set(e, EINVAL,
                       "network name '%s' is not allowed; use 1 to 63 of a-z, 0-9 and '-', not starting with '-'",
                       s->name);
    if (!s->domain[0])
        snprintf(s->domain, sizeof(s->domain), "%s.internal", s->name);
    if (!net_spec_domain_ok(s->domain))
        return err_set(e, EINVAL,
                       "network %s: domain '%s' is not allowed; use names of a-z, 0-9 and '-' with dots between",
                       s->name, s->domain);
    if (s->mtu < NET_SPEC_MTU_MIN || s->mtu > NET_SPEC_MTU_MAX)
        return err_set(e, EINVAL, "network %s: an MTU of %u is not possible; use %d to %d", s->name, s->mtu,
                       NET_SPEC_MTU_MIN, NET_SPEC_MTU_MAX);
    r = net_spec_check_mode(s, e);
    if (r == 0)
        r = net_spec_complete_addresses(s, e);
    if (r == 0)
        r = net_spec_check_hosts(s, e);
    for (unsigned i = 0; i < s->n_forwards && r == 0; i++)
        r = net_spec_check_forward(s, i, e);
    return r;
}
