#include "net/services.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "net/backend.h"
#include "net/nat_forward.h"
#include "net/nat_host.h"
#include "net/user.h"
#include "sys/loop.h"

struct net_service_set {
    struct loop *loop;
    struct net_switch *sw;
    struct net_service *service;
    struct net_backend *uplink; /* owned by the service; NULL: none */
    struct net_nft *nft;        /* NULL: none */
    struct addr_subnet4 subnet;
    struct addr_subnet6 subnet6;
    struct net_forwards forwards;
    struct loop_timer *refresh; /* forwards, once a change of names is over */
    struct net_port *port;
};

static struct net_ip net_services_ip4(uint32_t addr)
{
    struct net_ip ip = { { [10] = 0xff, 0xff } };

    store_be32(ip.bytes + 12, addr);
    return ip;
}

/* ---- what the services tell ---- */

static void net_services_address(void *opaque, const uint8_t mac[6], uint32_t addr, bool held)
{
    struct net_service_set *s = opaque;
    struct net_port *port = net_switch_port_by_mac(s->sw, mac);
    struct net_ip ip = net_services_ip4(addr);

    if (!port)
        return;
    if (!held)
        net_switch_port_forbid_ip(port, &ip);
    else if (net_switch_port_allow_ip(port, &ip) < 0)
        return; /* it has more addresses than a port may have: the new one does not work, the others do */
}

static void net_services_names(void *opaque)
{
    struct net_service_set *s = opaque;

    if (s->forwards.n > 0)
        loop_timer_set(s->refresh, 1);
}

static void net_services_refresh(void *opaque)
{
    net_forwards_refresh(&((struct net_service_set *)opaque)->forwards);
}

/* ---- port forwards ---- */

static bool net_services_resolve(void *opaque, const char *name, bool ip6, struct net_nat_forward *f)
{
    struct net_service_set *s = opaque;

    return (ip6 ? net_service_resolve6(s->service, name, false, f->guest6)
                : net_service_resolve(s->service, name, false, &f->guest4)) == 0;
}

static struct net_user_forward net_services_user_forward(const struct net_nat_forward *f)
{
    struct net_user_forward u = {
        .udp = f->udp,
        .ip6 = f->ip6,
        .host_addr.s_addr = htonl(f->host4),
        .guest_addr.s_addr = htonl(f->guest4),
        .host_port = f->host_port,
        .guest_port = f->guest_port,
    };

    memcpy(&u.host_addr6, f->host6, 16);
    memcpy(&u.guest_addr6, f->guest6, 16);
    return u;
}

static int net_services_forward(void *opaque, const struct net_nat_forward *f)
{
    struct net_service_set *s = opaque;
    struct net_user_forward u = net_services_user_forward(f);

    if (s->nft)
        return net_nft_forward_add(s->nft, f);
    return s->uplink ? net_user_forward_add(s->uplink, &u) : -EOPNOTSUPP;
}

static int net_services_unforward(void *opaque, const struct net_nat_forward *f)
{
    struct net_service_set *s = opaque;
    struct net_user_forward u = net_services_user_forward(f);

    if (s->nft)
        return net_nft_forward_remove(s->nft, f);
    return s->uplink ? net_user_forward_remove(s->uplink, &u) : -EOPNOTSUPP;
}

static int net_services_probe(void *opaque, const struct net_nat_forward *f)
{
    struct net_service_set *s = opaque;
    struct net_user_forward u = net_services_user_forward(f);
    int fd;

    if (!s->nft)
        return net_user_forward_probe(&u);
    fd = net_nat_host_reserve(f);
    if (fd >= 0)
        close(fd);
    return MIN(fd, 0);
}

/* ---- for the switch's process ---- */

struct net_services_each {
    void (*fn)(void *opaque, const struct net_lease *lease);
    void *opaque;
};

static void net_services_lease(void *opaque, const struct net_service_lease *lease)
{
    const struct net_services_each *each = opaque;
    struct net_lease out = { .ip = net_services_ip4(lease->addr), .expires_s = lease->expires_s };

    memcpy(out.mac, lease->mac, 6);
    snprintf(out.host, sizeof(out.host), "%s", lease->name);
    each->fn(each->opaque, &out);
}

static void net_services_leases(void *opaque, void (*fn)(void *fn_opaque, const struct net_lease *lease),
                                void *fn_opaque)
{
    struct net_service_set *s = opaque;
    struct net_services_each each = { fn, fn_opaque };

    net_service_leases(s->service, net_services_lease, &each);
}

static void net_services_vm_up(void *opaque, struct net_port *port, const char *host)
{
    struct net_service_set *s = opaque;
    uint32_t addr = net_service_guest_up(s->service, net_port_get_config(port)->mac, host);
    struct net_ip ip = net_services_ip4(addr);

    if (addr && net_switch_port_allow_ip(port, &ip) < 0)
        return; /* as in net_services_address */
}

static void net_services_vm_down(void *opaque, struct net_port *port)
{
    struct net_service_set *s = opaque;

    net_service_guest_down(s->service, net_port_get_config(port)->mac);
}

/* Whether a guest's address can be one of this network. */
static bool net_services_is_inside(const struct net_service_set *s, const struct net_ip *ip)
{
    struct net_ip ip4 = net_services_ip4(load_be32(ip->bytes + 12));

    return memcmp(ip, &ip4, sizeof(ip4)) == 0 ? addr_subnet4_contains(&s->subnet, load_be32(ip->bytes + 12))
                                              : addr_subnet6_contains(&s->subnet6, ip->bytes);
}

static int net_services_forward_add(void *opaque, const struct net_forward_rule *rule)
{
    struct net_service_set *s = opaque;

    if (!s->uplink)
        return -EOPNOTSUPP;
    if (rule->guest_name[0] == '\0' && !net_services_is_inside(s, &rule->guest))
        return -EINVAL;
    return net_forwards_add(&s->forwards, rule);
}

static int net_services_forward_remove(void *opaque, const struct net_forward_rule *rule)
{
    return net_forwards_remove(&((struct net_service_set *)opaque)->forwards, rule);
}

static void net_services_each_forward(void *opaque, void (*fn)(void *fn_opaque, const struct net_forward_rule *rule),
                                      void *fn_opaque)
{
    struct net_service_set *s = opaque;

    for (unsigned i = 0; i < s->forwards.n; i++)
        fn(fn_opaque, &s->forwards.list[i].rule);
}

static void net_services_free(void *opaque)
{
    struct net_service_set *s = opaque;

    if (s->port)
        net_switch_port_remove(s->port); /* with the service and the uplink */
    else if (s->service)
        net_backend_close(net_service_backend(s->service));
    else
        net_backend_close(s->uplink);
    net_nft_free(s->nft);
    net_forwards_done(&s->forwards);
    loop_timer_free(s->refresh);
    free(s);
}

static const struct net_services_ops net_services_ops = {
    .leases = net_services_leases,
    .vm_up = net_services_vm_up,
    .vm_down = net_services_vm_down,
    .forward_add = net_services_forward_add,
    .forward_remove = net_services_forward_remove,
    .forwards = net_services_each_forward,
    .free = net_services_free,
};

/* ---- construction ---- */

static int net_services_open_slirp(struct net_service_set *s, const struct net_service_config *c)
{
    struct net_user_network network = { .subnet = c->subnet, .gateway = c->gateway, .subnet6 = c->subnet6 };
    struct net_user_config user = { .mtu = c->mtu, .network = &network };
    int forward;

    memcpy(network.gateway6, c->gateway6, 16);
    return net_user_new(&user, s->loop, &forward, &s->uplink);
}

static int net_services_open_nft(struct net_service_set *s, const struct net_services_config *config,
                                 const struct net_service_config *c, struct net_services_report *report)
{
    struct net_tap_config tap = { .create = true, .mtu = c->mtu };
    struct net_nat_network n = { .subnet = c->subnet, .gateway = c->gateway, .subnet6 = c->subnet6 };
    int res;

    tap.name = config->tap && config->tap[0] ? config->tap : "cais%d";
    report->step = NET_SERVICES_TAP;
    res = net_tap_new(&tap, s->loop, &report->tap_step, &s->uplink);
    if (res < 0)
        return res;
    report->step = NET_SERVICES_RULES;
    report->nft_step = NET_NFT_CONFIG;
    if (strlen(config->name) > NET_NAT_NAME_MAX)
        return -EINVAL;
    memcpy(n.name, config->name, strlen(config->name));
    snprintf(n.interface, sizeof(n.interface), "%s", net_tap_name(s->uplink));
    snprintf(report->interface, sizeof(report->interface), "%s", n.interface);
    memcpy(n.gateway6, c->gateway6, 16);
    n.dns_tcp = c->dns ? net_resolver_first4(c->resolv_conf) : 0;
    return net_nft_new(&n, c->mac, &report->host_changed, &report->nft_step, &s->nft);
}

/* The gateway's Ethernet address: what libslirp answers with, in the other cases too. */
static void net_services_mac(const struct net_service_config *c, uint8_t ret_mac[6])
{
    net_user_gateway_mac(c->gateway ? c->gateway : load_be32(c->gateway6 + 12), ret_mac);
}

static int net_services_build(struct net_service_set *s, const struct net_services_config *config,
                              struct net_services_report *report)
{
    const struct net_forwarder by = { net_services_forward, net_services_unforward, net_services_probe,
                                      net_services_resolve, s };
    struct net_port_config port = { .name = "gateway", .trusted = true };
    struct net_service_config c = config->service;
    int res = loop_timer_new(s->loop, net_services_refresh, s, &s->refresh);

    net_forwards_init(&s->forwards, &by);
    s->subnet = c.subnet;
    s->subnet6 = c.subnet6;
    net_services_mac(&c, c.mac);
    report->step = NET_SERVICES_UPLINK;
    if (res == 0 && config->nat == NET_SERVICES_SLIRP)
        res = net_services_open_slirp(s, &c);
    else if (res == 0 && config->nat == NET_SERVICES_NFT)
        res = net_services_open_nft(s, config, &c, report);
    if (res < 0)
        return res;
    report->step = NET_SERVICES_SERVICE;
    c.uplink = s->uplink;
    c.router = c.uplink_is_gateway = s->uplink != NULL;
    c.dns_forward = config->nat != NET_SERVICES_ISOLATED;
    c.events = (struct net_service_events){ net_services_address, net_services_names, s };
    res = net_service_new(&c, s->loop, &s->service);
    if (res < 0)
        return res;
    report->step = NET_SERVICES_PORT;
    return net_switch_port_add(s->sw, &port, net_service_backend(s->service), &s->port);
}

int net_services_open(const struct net_services_config *config, struct loop *loop, struct net_switch *sw,
                      struct net_services *ret_services, struct net_services_report *ret_report)
{
    struct net_service_set *s = calloc(1, sizeof(*s));
    int res;

    *ret_report = (struct net_services_report){ 0 };
    if (!s)
        return -ENOMEM;
    s->loop = loop;
    s->sw = sw;
    res = net_services_build(s, config, ret_report);
    if (res < 0) {
        net_services_free(s);
        return res;
    }
    *ret_services = (struct net_services){ .ops = &net_services_ops, .opaque = s };
    return 0;
}
