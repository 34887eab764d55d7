/* What the switch looks like, as JSON. */
#include <json-c/json.h>
#include <unistd.h>

#include "net/backend.h"
#include "netd/netd_priv.h"

static void info_put_number(json_object *o, const char *key, uint64_t n)
{
    json_object_object_add(o, key, json_object_new_uint64(n));
}

static json_object *info_counters(const struct net_port_counters *c)
{
    json_object *o = json_object_new_object();

    info_put_number(o, "in_frames", c->in_frames);
    info_put_number(o, "in_bytes", c->in_bytes);
    info_put_number(o, "in_multicast", c->in_multicast);
    info_put_number(o, "in_malformed", c->in_malformed);
    info_put_number(o, "in_vlan", c->in_vlan);
    info_put_number(o, "in_spoofed", c->in_spoofed);
    info_put_number(o, "in_storm", c->in_storm);
    info_put_number(o, "in_held", c->in_held);
    info_put_number(o, "out_frames", c->out_frames);
    info_put_number(o, "out_bytes", c->out_bytes);
    info_put_number(o, "out_full", c->out_full);
    info_put_number(o, "out_rate", c->out_rate);
    info_put_number(o, "out_too_big", c->out_too_big);
    return o;
}

static json_object *info_trunk(const struct net_vlan_set *set)
{
    json_object *list = json_object_new_array();

    for (int i = 0; i < NET_VLANS; i++) {
        if (set->bits[i / 64] >> (i % 64) & 1)
            json_object_array_add(list, json_object_new_int(i));
    }
    return list;
}

static json_object *info_port(const struct net_port *port)
{
    const struct net_port_config *c = net_port_get_config(port);
    const struct net_backend *b = net_port_get_backend(port);
    struct net_port_counters counters = net_port_get_counters(port);
    json_object *o = json_object_new_object();
    char mac[ADDR_MAC_TEXT];

    addr_mac_format(c->mac, mac);
    json_object_object_add(o, "name", json_object_new_string(c->name));
    json_object_object_add(o, "kind", json_object_new_string(b->ops->name));
    json_object_object_add(o, "mac", addr_mac_is_unicast(c->mac) ? json_object_new_string(mac) : NULL);
    info_put_number(o, "mtu", b->mtu);
    info_put_number(o, "vlan", c->vlan);
    json_object_object_add(o, "trunk", info_trunk(&c->trunk_vlans));
    json_object_object_add(o, "isolated", json_object_new_boolean(c->isolated));
    json_object_object_add(o, "mac_filter", json_object_new_boolean(c->filter_mac));
    json_object_object_add(o, "ip_filter", json_object_new_boolean(c->filter_ip));
    info_put_number(o, "rate_in", c->rate_in);
    info_put_number(o, "rate_out", c->rate_out);
    json_object_object_add(o, "counters", info_counters(&counters));
    return o;
}

static void info_mac(void *opaque, const struct net_switch_mac *m)
{
    json_object *o = json_object_new_object();
    char mac[ADDR_MAC_TEXT];

    addr_mac_format(m->mac, mac);
    json_object_object_add(o, "mac", json_object_new_string(mac));
    info_put_number(o, "vlan", m->vlan);
    json_object_object_add(o, "port", json_object_new_string(net_port_get_config(m->port)->name));
    info_put_number(o, "age_s", m->age_ns / 1000000000);
    json_object_array_add(opaque, o);
}

json_object *netd_info(struct netd *d)
{
    json_object *o = json_object_new_object(), *ports = json_object_new_array(), *macs = json_object_new_array();

    json_object_object_add(o, "network", json_object_new_string(d->spec.name));
    json_object_object_add(o, "pid", json_object_new_int(getpid()));
    info_put_number(o, "mtu", d->spec.mtu);
    for (struct net_port *p = net_switch_port_next(d->sw, NULL); p; p = net_switch_port_next(d->sw, p))
        json_object_array_add(ports, info_port(p));
    net_switch_each_mac(d->sw, info_mac, macs);
    json_object_object_add(o, "ports", ports);
    json_object_object_add(o, "macs", macs);
    return o;
}
