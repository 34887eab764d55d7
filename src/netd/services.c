/* The services of a network in its process: addresses, names, NAT, port forwards (net/services.h), as its description
 * wants them. */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "net/services.h"
#include "netd/netd_priv.h"
#include "proto/json.h"
#include "sys/dirs.h"

/* ---- port forwards ---- */

static struct net_ip services_ip4(uint32_t addr)
{
    struct net_ip ip = { { [10] = 0xff, 0xff } };

    store_be32(ip.bytes + 12, addr);
    return ip;
}

/* An address as text; false: it is none. */
static bool services_ip(const char *text, struct net_ip *ret_ip)
{
    uint32_t addr;

    if (addr_ip4_parse(text, &addr) < 0)
        return addr_ip6_parse(text, ret_ip->bytes) == 0;
    *ret_ip = services_ip4(addr);
    return true;
}

static struct net_forward_rule services_rule(const struct net_spec_forward *f)
{
    struct net_forward_rule rule = { .udp = f->udp, .host_port = f->host_port, .guest_port = f->guest_port };

    (void)services_ip(f->host_addr, &rule.host_addr); /* net_spec has checked it */
    if (!services_ip(f->guest, &rule.guest))
        snprintf(rule.guest_name, sizeof(rule.guest_name), "%s", f->guest);
    return rule;
}

static int services_forward_error(const struct netd *d, const struct net_spec_forward *f, int r, struct err *e)
{
    const char *net = d->spec.name, *proto = f->udp ? "UDP" : "TCP";

    switch (r) {
    case -EADDRINUSE:
        return err_set(e, EADDRINUSE,
                       "network %s: %s port %u of %s is in use by another program; end that, or forward another port",
                       net, proto, f->host_port, f->host_addr);
    case -EEXIST:
        return err_set(
            e, EEXIST,
            "network %s: %s port %u of %s is forwarded already, see 'caisson ls'; stop that instance, or forward "
            "another port",
            net, proto, f->host_port, f->host_addr);
    case -EACCES:
        return err_set(e, EACCES, "network %s: no right to %s port %u of %s; forward one above 1023", net, proto,
                       f->host_port, f->host_addr);
    case -EADDRNOTAVAIL:
        return err_set(e, EADDRNOTAVAIL, "network %s: %s is no address of this host that can be forwarded", net,
                       f->host_addr);
    case -EAFNOSUPPORT:
        return err_set(e, EINVAL,
                       "network %s: a forward leads from IPv4 to IPv4 or from IPv6 to IPv6, not from %s to %s", net,
                       f->host_addr, f->guest);
    case -ENOENT:
        return err_set(e, ENOENT, "network %s: %s port %u of %s is not forwarded", net, proto, f->host_port,
                       f->host_addr);
    case -EINVAL:
        return err_set(e, EINVAL, "network %s: '%s' is neither a guest's name nor an address of this network", net,
                       f->guest);
    case -EOPNOTSUPP:
        return err_set(e, EOPNOTSUPP, "network %s: ports are forwarded in mode nat only", net);
    default:
        return err_set(e, -r, "network %s: cannot forward %s port %u of %s: %s", net, proto, f->host_port, f->host_addr,
                       strerror(-r));
    }
}

int netd_services_forward(struct netd *d, const struct net_spec_forward *f, bool add, struct err *e)
{
    const struct net_services_ops *ops = d->services.ops;
    struct net_forward_rule rule = services_rule(f);
    int r = -EOPNOTSUPP;

    if (ops)
        r = add ? ops->forward_add(d->services.opaque, &rule) : ops->forward_remove(d->services.opaque, &rule);
    return r < 0 ? services_forward_error(d, f, r, e) : 0;
}

/* ---- leases ---- */

static void services_add_lease(void *opaque, const struct net_lease *lease)
{
    json_object *o = json_object_new_object();
    char mac[ADDR_MAC_TEXT], ip[ADDR_IP6_TEXT];

    addr_mac_format(lease->mac, mac);
    if (memcmp(lease->ip.bytes, services_ip4(0).bytes, 12) == 0)
        addr_ip4_format(load_be32(lease->ip.bytes + 12), ip);
    else
        addr_ip6_format(lease->ip.bytes, ip);
    json_object_object_add(o, "mac", json_object_new_string(mac));
    json_object_object_add(o, "ip", json_object_new_string(ip));
    json_object_object_add(o, "host", lease->host[0] ? json_object_new_string(lease->host) : NULL);
    json_object_object_add(o, "expires", lease->expires_s ? proto_json_time(lease->expires_s * 1000000000) : NULL);
    json_object_array_add(opaque, o);
}

json_object *netd_services_leases(struct netd *d)
{
    json_object *list = json_object_new_array();

    if (d->services.ops)
        d->services.ops->leases(d->services.opaque, services_add_lease, list);
    return list;
}

struct services_search {
    const uint8_t *mac;
    char *text;
};

static void services_find_lease(void *opaque, const struct net_lease *lease)
{
    struct services_search *s = opaque;

    if (memcmp(lease->mac, s->mac, 6) == 0 && memcmp(lease->ip.bytes, services_ip4(0).bytes, 12) == 0)
        addr_ip4_format(load_be32(lease->ip.bytes + 12), s->text);
}

void netd_services_address(struct netd *d, const uint8_t mac[6], char ret_text[ADDR_IP6_TEXT])
{
    struct services_search s = { mac, ret_text };

    ret_text[0] = '\0';
    if (d->services.ops)
        d->services.ops->leases(d->services.opaque, services_find_lease, &s);
}

/* ---- guests ---- */

void netd_services_vm_up(struct netd *d, struct net_port *port, const char *host)
{
    if (d->services.ops)
        d->services.ops->vm_up(d->services.opaque, port, host);
}

void netd_services_vm_down(struct netd *d, struct net_port *port)
{
    if (d->services.ops)
        d->services.ops->vm_down(d->services.opaque, port);
}

/* ---- opening ---- */

/* STATE/net/NAME.leases in ret_path, "" where there is no place for it: then leases end with the process. */
static void services_lease_path(const char *name, char *ret_path, size_t size)
{
    char dir[SYS_DIR_MAX], net[SYS_DIR_MAX + 8];

    ret_path[0] = '\0';
    if (sys_dirs_state(dir) < 0)
        return;
    snprintf(net, sizeof(net), "%s/net", dir);
    if (sys_dirs_make(net) < 0 || net_spec_lease_path(dir, name, ret_path, size) < 0)
        ret_path[0] = '\0';
}

static int services_open_error(struct netd *d, const struct net_services_report *report, int r, struct err *e)
{
    const char *net = d->spec.name;

    switch (report->step) {
    case NET_SERVICES_TAP:
        return netd_uplink_tap_error(d, report->tap_step, r, e);
    case NET_SERVICES_RULES:
        if (report->nft_step == NET_NFT_RULES && r == -ENOENT)
            return err_set(e, EIO, "network %s: nft is missing; install the package nftables, or use --backend slirp",
                           net);
        if (r == -EPERM || r == -EACCES)
            return err_set(e, EPERM, "network %s: NAT by the kernel needs root; run it as root, or use --backend slirp",
                           net);
        return err_set(e, -r, "network %s: the kernel refuses to route for %s: %s; use --backend slirp", net,
                       report->interface, strerror(-r));
    case NET_SERVICES_UPLINK:
        return err_set(e, -r, "network %s: cannot start user-mode NAT: %s", net, strerror(-r));
    default:
        return err_set(e, -r, "network %s: cannot start its services: %s", net, strerror(-r));
    }
}

static void services_fill(const struct net_spec *s, const struct net_service_host *hosts, const char *lease_path,
                          struct net_services_config *ret_config)
{
    *ret_config = (struct net_services_config){
        .name = s->name,
        .nat = s->mode == NET_SPEC_BRIDGE       ? NET_SERVICES_BRIDGED
               : s->mode == NET_SPEC_ISOLATED ? NET_SERVICES_ISOLATED
               : s->backend == NET_SPEC_SLIRP ? NET_SERVICES_SLIRP
                                              : NET_SERVICES_NFT,
        .tap = s->tap,
        .service = {
            .subnet = s->subnet,
            .gateway = s->gateway,
            .subnet6 = s->subnet6,
            .dhcp = s->dhcp,
            .dhcp_first = s->dhcp_first,
            .dhcp_last = s->dhcp_last,
            .dns = s->dns,
            .domain = s->domain,
            .mtu = (uint16_t)s->mtu,
            .hosts = hosts,
            .n_hosts = s->n_hosts,
            .lease_path = lease_path[0] ? lease_path : NULL,
        },
    };
    if (s->subnet6.prefix)
        net_spec_gateway6(s, ret_config->service.gateway6);
}

/* Open them; a lease file that makes no sense has been put aside after the first try. */
static int services_try(struct netd *d, const struct net_services_config *config, struct err *e)
{
    struct net_services_report report;
    int r = net_services_open(config, d->loop, d->sw, &d->services, &report);

    if (r == -EBADMSG && report.step == NET_SERVICES_SERVICE)
        r = net_services_open(config, d->loop, d->sw, &d->services, &report);
    if (r == 0 && report.host_changed)
        log_warn("network %s: this host routes %s from now on; 'sysctl' switches that off when no network needs it",
                 config->name,
                 report.host_changed == NET_NFT_FORWARD4   ? "IPv4 (net.ipv4.ip_forward)"
                 : report.host_changed == NET_NFT_FORWARD6 ? "IPv6 (net.ipv6.conf.all.forwarding)"
                                                           : "IPv4 and IPv6 (net.ipv4.ip_forward, "
                                                             "net.ipv6.conf.all.forwarding)");
    return r < 0 ? services_open_error(d, &report, r, e) : 0;
}

int netd_services_open(struct netd *d, struct err *e)
{
    const struct net_spec *s = &d->spec;
    AUTO_FREE struct net_service_host *hosts = calloc(s->n_hosts + 1, sizeof(*hosts));
    char lease_path[SYS_DIR_MAX + PROTO_NAME_MAX + 24];
    struct net_services_config config;
    int r;

    if (!hosts)
        return err_set(e, ENOMEM, "network %s: out of memory", s->name);
    for (unsigned i = 0; i < s->n_hosts; i++) {
        memcpy(hosts[i].mac, s->hosts[i].mac, sizeof(hosts[i].mac));
        snprintf(hosts[i].name, sizeof(hosts[i].name), "%s", s->hosts[i].name);
        hosts[i].addr = s->hosts[i].addr;
    }
    services_lease_path(s->name, lease_path, sizeof(lease_path));
    services_fill(s, hosts, lease_path, &config);
    r = services_try(d, &config, e);
    for (unsigned i = 0; i < s->n_forwards && r == 0; i++)
        r = netd_services_forward(d, &s->forwards[i], true, e);
    return r;
}

void netd_services_close(struct netd *d)
{
    if (d->services.ops)
        d->services.ops->free(d->services.opaque);
    d->services = (struct net_services){ 0 };
}
