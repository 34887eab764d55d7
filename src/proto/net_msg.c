/* Requests as JSON. */
#include "proto/net_msg.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "proto/json.h"

#define WHAT "switch request"
#define NET_MSG_VLAN_MAX 4094
#define NET_MSG_RATE_MAX ((uint64_t)INT64_MAX / 4)

static const char *const net_msg_ops[] = {
    [NET_MSG_ATTACH] = "attach",         [NET_MSG_DETACH] = "detach",   [NET_MSG_INFO] = "info",
    [NET_MSG_LEASES] = "leases",         [NET_MSG_CAPTURE] = "capture", [NET_MSG_FORWARD_ADD] = "forward-add",
    [NET_MSG_FORWARD_RM] = "forward-rm", [NET_MSG_STOP] = "stop",
};
static const char *const net_msg_protos[] = { "tcp", "udp" };

/* ---- writing ---- */

static void net_msg_put_text(json_object *o, const char *key, const char *text)
{
    json_object_object_add(o, key, text[0] ? json_object_new_string(text) : NULL);
}

static void net_msg_put_attach(json_object *o, const struct net_msg_attach *a)
{
    json_object *trunk = json_object_new_array();
    char mac[ADDR_MAC_TEXT];

    addr_mac_format(a->mac, mac);
    json_object_object_add(o, "vm", json_object_new_string(a->vm));
    json_object_object_add(o, "nic", json_object_new_int((int)a->nic));
    json_object_object_add(o, "mac", json_object_new_string(mac));
    net_msg_put_text(o, "host", a->host);
    json_object_object_add(o, "vlan", json_object_new_int(a->vlan));
    for (unsigned i = 0; i < a->n_trunk; i++)
        json_object_array_add(trunk, json_object_new_int(a->trunk[i]));
    json_object_object_add(o, "trunk", trunk);
    json_object_object_add(o, "isolated", json_object_new_boolean(a->isolated));
    json_object_object_add(o, "no_filter", json_object_new_boolean(a->no_filter));
    json_object_object_add(o, "tap", json_object_new_boolean(a->tap));
    json_object_object_add(o, "rate_in", json_object_new_uint64(a->rate_in));
    json_object_object_add(o, "rate_out", json_object_new_uint64(a->rate_out));
    json_object_object_add(o, "burst", json_object_new_uint64(a->burst));
}

static void net_msg_put_forward(json_object *o, const struct net_spec_forward *f)
{
    json_object_object_add(o, "proto", json_object_new_string(net_msg_protos[f->udp]));
    net_msg_put_text(o, "host_addr", f->host_addr);
    json_object_object_add(o, "host_port", json_object_new_int(f->host_port));
    net_msg_put_text(o, "guest", f->guest);
    json_object_object_add(o, "guest_port", json_object_new_int(f->guest_port));
}

int net_msg_request_to_json(const struct net_msg_request *r, char **ret_text)
{
    json_object *o = json_object_new_object();

    json_object_object_add(o, "op", json_object_new_string(net_msg_ops[r->op]));
    if (r->op == NET_MSG_ATTACH)
        net_msg_put_attach(o, &r->attach);
    if (r->op == NET_MSG_DETACH || r->op == NET_MSG_CAPTURE)
        net_msg_put_text(o, "port", r->port);
    if (r->op == NET_MSG_CAPTURE)
        json_object_object_add(o, "max_bytes", json_object_new_uint64(r->max_bytes));
    if (r->op == NET_MSG_FORWARD_ADD || r->op == NET_MSG_FORWARD_RM)
        net_msg_put_forward(o, &r->forward);
    return proto_json_take_text(o, ret_text);
}

/* ---- reading ---- */

static int net_msg_get_name(json_object *v, const char *key, char ret_name[PROTO_NAME_MAX + 1], struct err *e)
{
    int r = proto_json_text(v, WHAT, key, ret_name, PROTO_NAME_MAX + 1, e);

    if (r == 0 && !proto_name_ok(ret_name))
        r = err_set(e, EINVAL, WHAT ": '%s' is not a name: use 1 to %d of a-z, 0-9 and '-', not '-' first", key,
                    PROTO_NAME_MAX);
    return r;
}

static int net_msg_get_u16(json_object *v, const char *key, uint64_t min, uint64_t max, uint16_t *ret, struct err *e)
{
    uint64_t n = 0;
    int r = proto_json_uint(v, WHAT, key, min, max, &n, e);

    if (r == 0)
        *ret = (uint16_t)n;
    return r;
}

static int net_msg_get_mac(json_object *v, const char *key, uint8_t ret_mac[6], struct err *e)
{
    char text[ADDR_MAC_TEXT];
    uint8_t mac[6];
    int r = proto_json_text(v, WHAT, key, text, sizeof(text), e);

    if (r < 0)
        return r;
    if (addr_mac_parse(text, mac) < 0 || !addr_mac_is_unicast(mac))
        return err_set(e, EINVAL, WHAT ": '%s' is not the address of a network card", text);
    memcpy(ret_mac, mac, sizeof(mac));
    return 0;
}

static int net_msg_get_trunk(json_object *v, const char *key, struct net_msg_attach *a, struct err *e)
{
    size_t n = 0;
    int r = proto_json_array(v, WHAT, key, NET_MSG_TRUNK_MAX, &n, e);

    for (size_t i = 0; i < n && r == 0; i++)
        r = net_msg_get_u16(json_object_array_get_idx(v, i), key, 1, NET_MSG_VLAN_MAX, &a->trunk[i], e);
    a->n_trunk = (unsigned)n;
    return r;
}

/* 1: not a field of an attachment. */
static int net_msg_get_attach(const char *key, json_object *v, struct net_msg_attach *a, struct err *e)
{
    uint64_t nic = 0;
    int r;

    if (strcmp(key, "vm") == 0)
        return net_msg_get_name(v, key, a->vm, e);
    if (strcmp(key, "host") == 0)
        return v ? net_msg_get_name(v, key, a->host, e) : 0;
    if (strcmp(key, "nic") == 0) {
        r = proto_json_uint(v, WHAT, key, 0, NET_MSG_NICS_MAX - 1, &nic, e);
        a->nic = (uint32_t)nic;
        return r;
    }
    if (strcmp(key, "mac") == 0)
        return net_msg_get_mac(v, key, a->mac, e);
    if (strcmp(key, "vlan") == 0)
        return net_msg_get_u16(v, key, 0, NET_MSG_VLAN_MAX, &a->vlan, e);
    if (strcmp(key, "trunk") == 0)
        return net_msg_get_trunk(v, key, a, e);
    if (strcmp(key, "isolated") == 0)
        return proto_json_bool(v, WHAT, key, &a->isolated, e);
    if (strcmp(key, "no_filter") == 0)
        return proto_json_bool(v, WHAT, key, &a->no_filter, e);
    if (strcmp(key, "tap") == 0)
        return proto_json_bool(v, WHAT, key, &a->tap, e);
    if (strcmp(key, "rate_in") == 0)
        return proto_json_uint(v, WHAT, key, 0, NET_MSG_RATE_MAX, &a->rate_in, e);
    if (strcmp(key, "rate_out") == 0)
        return proto_json_uint(v, WHAT, key, 0, NET_MSG_RATE_MAX, &a->rate_out, e);
    if (strcmp(key, "burst") == 0)
        return proto_json_uint(v, WHAT, key, 0, NET_MSG_RATE_MAX, &a->burst, e);
    return 1;
}

/* 1: not a field of a forward. */
static int net_msg_get_forward(const char *key, json_object *v, struct net_spec_forward *f, struct err *e)
{
    unsigned proto = 0;
    int r;

    if (strcmp(key, "proto") == 0) {
        r = proto_json_choice(v, WHAT, key, net_msg_protos, ARRAY_SIZE(net_msg_protos), &proto, e);
        f->udp = proto == 1;
        return r;
    }
    if (strcmp(key, "host_addr") == 0)
        return v ? proto_json_text(v, WHAT, key, f->host_addr, sizeof(f->host_addr), e) : 0;
    if (strcmp(key, "host_port") == 0)
        return net_msg_get_u16(v, key, 1, UINT16_MAX, &f->host_port, e);
    if (strcmp(key, "guest") == 0)
        return v ? proto_json_text(v, WHAT, key, f->guest, sizeof(f->guest), e) : 0;
    if (strcmp(key, "guest_port") == 0)
        return net_msg_get_u16(v, key, 1, UINT16_MAX, &f->guest_port, e);
    return 1;
}

static int net_msg_get_field(void *request, const char *key, json_object *v, struct err *e)
{
    struct net_msg_request *r = request;
    int res = 1;

    if (r->op == NET_MSG_ATTACH)
        res = net_msg_get_attach(key, v, &r->attach, e);
    else if (r->op == NET_MSG_FORWARD_ADD || r->op == NET_MSG_FORWARD_RM)
        res = net_msg_get_forward(key, v, &r->forward, e);
    else if ((r->op == NET_MSG_DETACH || r->op == NET_MSG_CAPTURE) && strcmp(key, "port") == 0)
        res = v ? proto_json_text(v, WHAT, key, r->port, sizeof(r->port), e) : 0;
    else if (r->op == NET_MSG_CAPTURE && strcmp(key, "max_bytes") == 0)
        res = proto_json_uint(v, WHAT, key, 0, INT64_MAX, &r->max_bytes, e);
    return res == 1 ? proto_json_unknown(WHAT, key, e) : res;
}

/* What must not be missing. */
static int net_msg_check(const struct net_msg_request *r, struct err *e)
{
    if (r->op == NET_MSG_ATTACH && !r->attach.vm[0])
        return err_set(e, EINVAL, WHAT ": attach needs a vm");
    if (r->op == NET_MSG_ATTACH && !addr_mac_is_unicast(r->attach.mac))
        return err_set(e, EINVAL, WHAT ": attach needs a mac");
    if (r->op == NET_MSG_DETACH && !r->port[0])
        return err_set(e, EINVAL, WHAT ": detach needs a port");
    if ((r->op == NET_MSG_FORWARD_ADD || r->op == NET_MSG_FORWARD_RM) && r->forward.host_port == 0)
        return err_set(e, EINVAL, WHAT ": a forward needs a host_port");
    if (r->op == NET_MSG_FORWARD_ADD && (!r->forward.guest[0] || r->forward.guest_port == 0))
        return err_set(e, EINVAL, WHAT ": a forward needs a guest and a guest_port");
    return 0;
}

int net_msg_request_from_json(const char *text, struct net_msg_request *r, struct err *e)
{
    json_object *o = NULL;
    unsigned which = 0;
    int res = proto_json_request(text, WHAT, net_msg_ops, ARRAY_SIZE(net_msg_ops), &o, &which, e);

    if (res < 0)
        return res;
    *r = (struct net_msg_request){ .op = (enum net_msg_op)which };
    res = proto_json_request_fields(o, net_msg_get_field, r, e);
    return res < 0 ? res : net_msg_check(r, e);
}
