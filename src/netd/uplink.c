/* The ports that a network has by itself: its way to the outside. */
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "net/backend.h"
#include "net/tap.h"
#include "netd/netd_priv.h"

static int uplink_add(struct netd *d, const char *name, struct net_backend **backend, struct err *e)
{
    struct net_port_config config = { .trusted = true };
    struct net_port *port;
    int r;

    memcpy(config.name, name, strlen(name) + 1);
    r = net_switch_port_add(d->sw, &config, *backend, &port);
    if (r < 0)
        return err_set(e, -r, "network %s: cannot connect its uplink: %s", d->spec.name, strerror(-r));
    *backend = NULL;
    return 0;
}

int netd_uplink_tap_error(const struct netd *d, enum net_tap_step step, int r, struct err *e)
{
    const char *net = d->spec.name, *tap = d->spec.tap;
    bool nat = d->spec.mode == NET_SPEC_NAT;

    if ((nat || d->spec.bridge[0]) && (r == -EPERM || r == -EACCES) &&
        (step == NET_TAP_DEVICE || step == NET_TAP_ATTACH))
        return err_set(e, EPERM, "network %s: no right to make tap devices; run caisson as root%s", net,
                       nat ? ", or create the network with --backend slirp" : "");
    switch (step) {
    case NET_TAP_DEVICE:
        if (r == -EACCES)
            return err_set(e, EACCES, "network %s: no right to /dev/net/tun; as root: chmod 666 /dev/net/tun", net);
        return err_set(e, -r, "network %s: cannot open /dev/net/tun: %s; load the kernel module tun", net,
                       strerror(-r));
    case NET_TAP_ATTACH:
        if (r == -ENODEV)
            return err_set(e, ENOENT,
                           "network %s: there is no interface %s; make it: ip tuntap add %s mode tap user $USER", net,
                           tap, tap);
        if (r == -EBUSY)
            return err_set(e, EBUSY, "network %s: tap %s is in use by another program", net, tap);
        if (r == -EPERM)
            return err_set(e, EPERM, "network %s: no right to tap %s; as root: ip tuntap add %s mode tap user $USER",
                           net, tap[0] ? tap : "devices", tap[0] ? tap : "NAME");
        return err_set(e, -r, "network %s: %s is no tap device: %s", net, tap, strerror(-r));
    case NET_TAP_MTU:
        return err_set(e, -r, "network %s: cannot set the MTU of tap %s to %u: %s; set it as root", net, tap,
                       d->spec.mtu, strerror(-r));
    case NET_TAP_BRIDGE:
        if (r == -ENODEV)
            return err_set(e, ENOENT, "network %s: there is no bridge %s; make it: ip link add %s type bridge", net,
                           d->spec.bridge, d->spec.bridge);
        return err_set(e, -r, "network %s: cannot put its tap into bridge %s: %s", net, d->spec.bridge, strerror(-r));
    case NET_TAP_UP:
        return err_set(e, -r, "network %s: cannot set tap %s up: %s; set it up as root", net, tap, strerror(-r));
    default:
        return err_set(e, -r, "network %s: cannot serve tap %s: %s", net, tap, strerror(-r));
    }
}

static int uplink_tap(struct netd *d, struct err *e)
{
    const struct net_spec *s = &d->spec;
    AUTO(net_backend) struct net_backend *backend = NULL;
    struct net_tap_config config = { .name = s->tap };
    enum net_tap_step step;
    int r;

    if (s->bridge[0]) {
        config.name = s->tap[0] ? s->tap : "cais%d";
        config.create = true;
        config.bridge = s->bridge;
        config.mtu = (uint16_t)s->mtu;
        config.up = true;
    }
    r = net_tap_new(&config, d->loop, &step, &backend);
    return r < 0 ? netd_uplink_tap_error(d, step, r, e) : uplink_add(d, "uplink", &backend, e);
}

int netd_uplink_reserve(struct netd *d, struct err *e)
{
    struct net_port *port = net_switch_port_by_name(d->sw, "gateway");
    struct net_ip ip, link = { .bytes = { 0xfe, 0x80 } };
    int r;

    if (!port || d->spec.subnet6.prefix == 0)
        return 0;
    net_spec_gateway6(&d->spec, ip.bytes);
    memcpy(link.bytes + 8, ip.bytes + 8, 8);
    r = net_switch_port_allow_ip(port, &ip);
    if (r == 0)
        r = net_switch_port_allow_ip(port, &link);
    return r < 0 ? err_set(e, -r, "network %s: cannot reserve its gateway's addresses: %s", d->spec.name, strerror(-r))
                 : 0;
}

int netd_uplink_open(struct netd *d, struct err *e)
{
    const struct net_spec *s = &d->spec;
    int r = s->mode == NET_SPEC_BRIDGE ? uplink_tap(d, e) : 0;

    /* Services need addresses; in a bridged network they are somebody else's unless they are asked for. */
    if (r == 0 && s->subnet.prefix && (s->mode != NET_SPEC_BRIDGE || s->dhcp || s->dns))
        r = netd_services_open(d, e);
    return r;
}
