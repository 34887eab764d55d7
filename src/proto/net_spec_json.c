/* Networks as JSON. */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/json.h"
#include "proto/net_spec.h"

#define WHAT "network description"

static const char *const net_spec_protos[] = { "tcp", "udp" };

/* ---- writing ---- */

static void net_spec_put_text(json_object *o, const char *key, const char *text)
{
    json_object_object_add(o, key, text[0] ? json_object_new_string(text) : NULL);
}

static json_object *net_spec_ip4(uint32_t addr)
{
    char text[ADDR_IP4_TEXT];

    addr_ip4_format(addr, text);
    return addr ? json_object_new_string(text) : NULL;
}

static json_object *net_spec_range(const struct net_spec *s)
{
    json_object *range;

    if (s->dhcp_first == 0)
        return NULL;
    range = json_object_new_array();
    json_object_array_add(range, net_spec_ip4(s->dhcp_first));
    json_object_array_add(range, net_spec_ip4(s->dhcp_last));
    return range;
}

static json_object *net_spec_hosts(const struct net_spec *s)
{
    json_object *list = json_object_new_array();

    for (unsigned i = 0; i < s->n_hosts; i++) {
        json_object *o = json_object_new_object();
        char mac[ADDR_MAC_TEXT];

        addr_mac_format(s->hosts[i].mac, mac);
        net_spec_put_text(o, "mac", mac);
        net_spec_put_text(o, "name", s->hosts[i].name);
        json_object_object_add(o, "ip", net_spec_ip4(s->hosts[i].addr));
        json_object_array_add(list, o);
    }
    return list;
}

static json_object *net_spec_forwards(const struct net_spec *s)
{
    json_object *list = json_object_new_array();

    for (unsigned i = 0; i < s->n_forwards; i++) {
        const struct net_spec_forward *f = &s->forwards[i];
        json_object *o = json_object_new_object();

        net_spec_put_text(o, "proto", net_spec_protos[f->udp]);
        net_spec_put_text(o, "host_addr", f->host_addr);
        json_object_object_add(o, "host_port", json_object_new_int(f->host_port));
        net_spec_put_text(o, "guest", f->guest);
        json_object_object_add(o, "guest_port", json_object_new_int(f->guest_port));
        json_object_array_add(list, o);
    }
    return list;
}

json_object *net_spec_to_object(const struct net_spec *s)
{
    json_object *o = json_object_new_object();
    char text[ADDR_SUBNET_TEXT];

    if (!o)
        return NULL;
    net_spec_put_text(o, "name", s->name);
    net_spec_put_text(o, "mode", net_spec_mode_name(s->mode));
    json_object_object_add(o, "backend",
                           s->mode == NET_SPEC_NAT ? json_object_new_string(net_spec_backend_name(s->backend)) : NULL);
    addr_subnet4_format(&s->subnet, text);
    net_spec_put_text(o, "subnet", s->subnet.prefix ? text : "");
    addr_subnet6_format(&s->subnet6, text);
    net_spec_put_text(o, "subnet6", s->subnet6.prefix ? text : "");
    json_object_object_add(o, "gateway", net_spec_ip4(s->gateway));
    json_object_object_add(o, "dhcp", json_object_new_boolean(s->dhcp));
    json_object_object_add(o, "dhcp_range", net_spec_range(s));
    json_object_object_add(o, "hosts", net_spec_hosts(s));
    json_object_object_add(o, "dns", json_object_new_boolean(s->dns));
    net_spec_put_text(o, "domain", s->domain);
    json_object_object_add(o, "mtu", json_object_new_int((int)s->mtu));
    json_object_object_add(o, "forwards", net_spec_forwards(s));
    net_spec_put_text(o, "tap", s->tap);
    net_spec_put_text(o, "bridge", s->bridge);
    json_object_object_add(o, "isolated_ports", json_object_new_boolean(s->isolated_ports));
    json_object_object_add(o, "mac_filter", json_object_new_boolean(s->mac_filter));
    return o;
}

int net_spec_to_json(const struct net_spec *s, char **ret_text)
{
    return proto_json_take_text(net_spec_to_object(s), ret_text);
}

/* ---- reading ---- */

static int net_spec_get_ip4(json_object *v, const char *key, uint32_t *ret_addr, struct err *e)
{
    char text[ADDR_IP4_TEXT];
    int r = proto_json_text(v, WHAT, key, text, sizeof(text), e);

    if (r == 0 && addr_ip4_parse(text, ret_addr) < 0)
        return err_set(e, EINVAL, WHAT ": '%s': %s is no IPv4 address", key, text);
    return r;
}

static int net_spec_get_subnet(json_object *v, const char *key, struct net_spec *s, struct err *e)
{
    bool six = strcmp(key, "subnet6") == 0;
    char text[ADDR_SUBNET_TEXT];
    int r = proto_json_text(v, WHAT, key, text, sizeof(text), e);

    if (r < 0)
        return r;
    r = six ? addr_subnet6_parse(text, &s->subnet6) : addr_subnet4_parse(text, &s->subnet);
    if (r < 0)
        return err_set(e, EINVAL, WHAT ": '%s': %s is no %s subnet%s", key, text, six ? "IPv6" : "IPv4",
                       r == -ERANGE ? ": it has bits behind the prefix" : "; use ADDRESS/PREFIX");
    return 0;
}

static int net_spec_get_range(json_object *v, struct net_spec *s, struct err *e)
{
    size_t n;
    int r = proto_json_array(v, WHAT, "dhcp_range", 2, &n, e);

    if (r == 0 && n != 2)
        return err_set(e, EINVAL, WHAT ": 'dhcp_range' must have a first and a last address");
    if (r == 0)
        r = net_spec_get_ip4(json_object_array_get_idx(v, 0), "dhcp_range", &s->dhcp_first, e);
    if (r == 0)
        r = net_spec_get_ip4(json_object_array_get_idx(v, 1), "dhcp_range", &s->dhcp_last, e);
    return r;
}

static int net_spec_get_host(json_object *o, struct net_spec_host *h, struct err *e)
{
    if (!json_object_is_type(o, json_type_object))
        return err_set(e, EINVAL, WHAT ": an entry of 'hosts' must be an object");
    json_object_object_foreach(o, key, v)
    {
        char mac[ADDR_MAC_TEXT];
        int r = 0;

        if (strcmp(key, "mac") == 0) {
            r = proto_json_text(v, WHAT, key, mac, sizeof(mac), e);
            if (r == 0 && addr_mac_parse(mac, h->mac) < 0)
                r = err_set(e, EINVAL, WHAT ": '%s' is no MAC address", mac);
        } else if (strcmp(key, "name") == 0) {
            if (v)
                r = proto_json_text(v, WHAT, key, h->name, sizeof(h->name), e);
        } else if (strcmp(key, "ip") == 0) {
            r = net_spec_get_ip4(v, key, &h->addr, e);
        } else {
            r = proto_json_unknown(WHAT, key, e);
        }
        if (r < 0)
            return r;
    }
    return 0;
}

/* Addresses are kept in one spelling, so that equal ones are found. */
static void net_spec_normalise(char *text, size_t size)
{
    char spelling[ADDR_IP6_TEXT];
    uint8_t addr6[16];

    if (addr_ip6_parse(text, addr6) == 0) {
        addr_ip6_format(addr6, spelling);
        snprintf(text, size, "%s", spelling);
    }
}

static int net_spec_get_forward(json_object *o, struct net_spec_forward *f, struct err *e)
{
    if (!json_object_is_type(o, json_type_object))
        return err_set(e, EINVAL, WHAT ": an entry of 'forwards' must be an object");
    snprintf(f->host_addr, sizeof(f->host_addr), "127.0.0.1");
    json_object_object_foreach(o, key, v)
    {
        uint64_t port = 0;
        unsigned udp = 0;
        int r;

        if (strcmp(key, "proto") == 0) {
            r = proto_json_choice(v, WHAT, key, net_spec_protos, 2, &udp, e);
            f->udp = udp != 0;
        } else if (strcmp(key, "host_addr") == 0) {
            r = proto_json_text(v, WHAT, key, f->host_addr, sizeof(f->host_addr), e);
        } else if (strcmp(key, "guest") == 0) {
            r = proto_json_text(v, WHAT, key, f->guest, sizeof(f->guest), e);
        } else if (strcmp(key, "host_port") == 0) {
            r = proto_json_uint(v, WHAT, key, 1, 65535, &port, e);
            f->host_port = (uint16_t)port;
        } else if (strcmp(key, "guest_port") == 0) {
            r = proto_json_uint(v, WHAT, key, 1, 65535, &port, e);
            f->guest_port = (uint16_t)port;
        } else {
            r = proto_json_unknown(WHAT, key, e);
        }
        if (r < 0)
            return r;
    }
    net_spec_normalise(f->host_addr, sizeof(f->host_addr));
    net_spec_normalise(f->guest, sizeof(f->guest));
    return 0;
}

static int net_spec_get_list(json_object *v, const char *key, struct net_spec *s, struct err *e)
{
    bool hosts = strcmp(key, "hosts") == 0;
    size_t n;
    int r = proto_json_array(v, WHAT, key, hosts ? NET_SPEC_HOSTS_MAX : NET_SPEC_FORWARDS_MAX, &n, e);

    if (r < 0)
        return r;
    s->n_hosts = hosts ? 0 : s->n_hosts;
    s->n_forwards = hosts ? s->n_forwards : 0;
    for (size_t i = 0; i < n && r == 0; i++) {
        json_object *item = json_object_array_get_idx(v, i);

        if (hosts) {
            s->hosts[i] = (struct net_spec_host){ 0 };
            r = net_spec_get_host(item, &s->hosts[s->n_hosts++], e);
        } else {
            s->forwards[i] = (struct net_spec_forward){ 0 };
            r = net_spec_get_forward(item, &s->forwards[s->n_forwards++], e);
        }
    }
    return r;
}

static int net_spec_get_mode(json_object *v, const char *key, struct net_spec *s, struct err *e)
{
    char text[16];
    int r = proto_json_text(v, WHAT, key, text, sizeof(text), e);

    if (r < 0)
        return r;
    if (strcmp(key, "mode") == 0)
        return net_spec_mode_parse(text, &s->mode) == 0
                   ? 0
                   : err_set(e, EINVAL, WHAT ": mode '%s' is unknown; use nat, isolated or bridge", text);
    return net_spec_backend_parse(text, &s->backend) == 0
               ? 0
               : err_set(e, EINVAL, WHAT ": back end '%s' is unknown; use slirp or nft", text);
}

static int net_spec_get_field(const char *key, json_object *v, struct net_spec *s, struct err *e)
{
    const struct {
        const char *key;
        char *text;
        size_t size;
        bool *flag;
    } plain[] = {
        { "name", s->name, sizeof(s->name), NULL },
        { "domain", s->domain, sizeof(s->domain), NULL },
        { "tap", s->tap, sizeof(s->tap), NULL },
        { "bridge", s->bridge, sizeof(s->bridge), NULL },
        { "dhcp", NULL, 0, &s->dhcp },
        { "dns", NULL, 0, &s->dns },
        { "isolated_ports", NULL, 0, &s->isolated_ports },
        { "mac_filter", NULL, 0, &s->mac_filter },
    };
    uint64_t mtu = 0;
    int r;

    for (size_t i = 0; i < ARRAY_SIZE(plain); i++) {
        if (strcmp(key, plain[i].key) == 0 && plain[i].text)
            return proto_json_text(v, WHAT, key, plain[i].text, plain[i].size, e);
        if (strcmp(key, plain[i].key) == 0)
            return proto_json_bool(v, WHAT, key, plain[i].flag, e);
    }
    if (strcmp(key, "mode") == 0 || strcmp(key, "backend") == 0)
        return net_spec_get_mode(v, key, s, e);
    if (strcmp(key, "subnet") == 0 || strcmp(key, "subnet6") == 0)
        return net_spec_get_subnet(v, key, s, e);
    if (strcmp(key, "gateway") == 0)
        return net_spec_get_ip4(v, key, &s->gateway, e);
    if (strcmp(key, "dhcp_range") == 0)
        return net_spec_get_range(v, s, e);
    if (strcmp(key, "hosts") == 0 || strcmp(key, "forwards") == 0)
        return net_spec_get_list(v, key, s, e);
    if (strcmp(key, "mtu") == 0) {
        r = proto_json_uint(v, WHAT, key, NET_SPEC_MTU_MIN, NET_SPEC_MTU_MAX, &mtu, e);
        s->mtu = (uint32_t)mtu;
        return r;
    }
    return proto_json_unknown(WHAT, key, e);
}

/* Whether null may stand for "none" or "the default" in a field. */
static bool net_spec_may_be_null(const char *key)
{
    static const char *const keys[] = { "backend",    "subnet", "subnet6", "gateway",
                                        "dhcp_range", "domain", "tap",     "bridge" };

    for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
        if (strcmp(key, keys[i]) == 0)
            return true;
    }
    return false;
}

int net_spec_from_object(json_object *o, struct net_spec *s, struct err *e)
{
    net_spec_init(s, "");
    if (!json_object_is_type(o, json_type_object))
        return err_set(e, EINVAL, WHAT ": not a JSON object");
    json_object_object_foreach(o, key, v)
    {
        int r = !v && net_spec_may_be_null(key) ? 0 : net_spec_get_field(key, v, s, e);

        if (r < 0)
            return r;
    }
    return net_spec_complete(s, e);
}

int net_spec_from_json(const char *text, struct net_spec *s, struct err *e)
{
    json_object *o;
    int r;

    r = proto_json_object_bounded(text, NET_SPEC_TEXT_MAX, WHAT, &o, e);
    if (r < 0)
        return r;
    r = net_spec_from_object(o, s, e);
    json_object_put(o);
    return r;
}
