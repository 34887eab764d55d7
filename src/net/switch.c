/* The switch: from the back end of one port to those of others. */
#include "net/switch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "net/switch_priv.h"
#include "sys/loop.h"

enum {
    NET_TYPE_VLAN = 0x8100,
    NET_TAG = 4,    /* bytes of a VLAN tag */
    NET_ADDRS = 12, /* bytes of both addresses */
    NET_VID_MASK = 0xfff,
    NET_FLUSH_NS = 1000000000, /* between writes of what captures buffer */
};
#define NET_SWITCH_OFFLOADS (NET_OFF_CSUM | NET_OFF_TSO4 | NET_OFF_TSO6 | NET_OFF_ECN | NET_OFF_USO)
#define NET_BURST_MIN (128ULL << 10) /* two frames of full size */

/* ---- out ---- */

static bool net_port_carries(const struct net_port *p, uint16_t vlan, bool *ret_tagged)
{
    *ret_tagged = vlan != p->config.vlan;
    return !*ret_tagged || (p->config.trunk && p->config.trunk_vlans.bits[vlan / 64] & BIT64(vlan % 64));
}

/* Hand f to port `to`, which is not where it came from, with or without a tag, as it carries the frame's VLAN. */
static void net_switch_deliver(const struct net_port *from, struct net_port *to, const struct net_frame *f,
                               uint64_t now_ns)
{
    bool tagged;
    uint8_t tag[NET_TAG] = { NET_TYPE_VLAN >> 8, NET_TYPE_VLAN & 0xff };
    uint16_t tci = (uint16_t)((f->tci & ~NET_VID_MASK) | f->vlan);
    size_t skip = f->l3 - 2, len = f->len - (f->l3 - NET_HEADER); /* from its EtherType on; without a tag */
    struct net_hdr hdr = *f->hdr;
    struct iovec iov[3];
    unsigned n = 0;

    if ((from->config.isolated && to->config.isolated) || !net_port_carries(to, f->vlan, &tagged))
        return;
    if ((hdr.gso_type == NET_GSO_NONE && len - NET_HEADER > to->backend->mtu) ||
        (tagged && len > NET_FRAME_MAX - NET_TAG)) { /* segmentation is no leave to be longer than any frame */
        to->counters.out_too_big++;
        return;
    }
    iov[n++] = (struct iovec){ (void *)(uintptr_t)f->data, NET_ADDRS };
    if (tagged) {
        tag[2] = (uint8_t)(tci >> 8);
        tag[3] = (uint8_t)tci;
        iov[n++] = (struct iovec){ tag, sizeof(tag) };
        len += sizeof(tag);
    }
    iov[n++] = (struct iovec){ (void *)(uintptr_t)(f->data + skip), f->len - skip };
    if (hdr.flags & NET_HDR_NEEDS_CSUM)
        hdr.csum_start = (uint16_t)(hdr.csum_start + len - f->len);
    if (hdr.hdr_len)
        hdr.hdr_len = (uint16_t)(hdr.hdr_len + len - f->len);
    if (!net_rate_take(&to->out, len, now_ns)) {
        to->counters.out_rate++;
        return;
    }
    /* A frame that stays as it is goes in one piece. */
    if (len == f->len && (!tagged || tci == f->tci)) {
        iov[0].iov_len = len;
        n = 1;
    }
    net_capture_out(to, &hdr, iov, n, len);
    if (!net_backend_send(to->backend, &hdr, iov, n, len)) {
        to->counters.out_full++;
        return;
    }
    to->counters.out_frames++;
    to->counters.out_bytes += len;
    if (list_empty(&to->dirty_link))
        list_add_before(&to->sw->dirty, &to->dirty_link);
}

static void net_switch_forward(struct net_port *from, const struct net_frame *f, uint64_t now_ns)
{
    struct net_switch *sw = from->sw;
    bool group = f->data[0] & 1;
    struct net_port *to = group ? NULL : net_table_find(sw, f->vlan, f->data, now_ns);

    if (to) {
        if (to != from)
            net_switch_deliver(from, to, f, now_ns);
        return;
    }
    if (!net_rate_take(&from->flood, 1, now_ns)) {
        from->counters.in_storm++;
        return;
    }
    LIST_FOR_EACH(to, &sw->ports, link) {
        if (to != from)
            net_switch_deliver(from, to, f, now_ns);
    }
}

/* ---- in ---- */

/* To which VLAN a frame belongs, and where its payload is. False: not to be forwarded, and counted. */
static bool net_switch_classify(struct net_port *port, struct net_frame *f)
{
    bool tagged;

    f->vlan = port->config.vlan;
    f->l3 = NET_HEADER;
    f->type = load_be16(f->data + NET_ADDRS);
    /* No sender is a group or nobody. */
    if (f->data[6] & 1 || !net_mac_known(f->data + 6)) {
        port->counters.in_malformed++;
        return false;
    }
    if (f->type == NET_TYPE_VLAN) {
        if (f->len < NET_HEADER + NET_TAG) {
            port->counters.in_malformed++;
            return false;
        }
        f->tci = load_be16(f->data + NET_HEADER);
        f->type = load_be16(f->data + NET_HEADER + 2);
        f->l3 += NET_TAG;
        if (f->tci & NET_VID_MASK)
            f->vlan = f->tci & NET_VID_MASK;
        /* The native VLAN's id in a tag is that VLAN on a trunk. A second tag would let a frame jump into another VLAN
         * behind a port that takes the first one off. */
        if ((f->tci & NET_VID_MASK && !port->config.trunk) || f->vlan == NET_VID_MASK || f->type == NET_TYPE_VLAN ||
            !net_port_carries(port, f->vlan, &tagged)) {
            port->counters.in_vlan++;
            return false;
        }
    }
    return true;
}

void net_switch_arm(struct net_switch *sw)
{
    uint64_t at_ns = sw->n_captures > 0 ? sys_now_ns() + NET_FLUSH_NS : 0;
    struct net_port *p;

    LIST_FOR_EACH(p, &sw->held, held_link) {
        uint64_t ready_ns = net_rate_ready_ns(&p->in);

        at_ns = at_ns == 0 || ready_ns < at_ns ? ready_ns : at_ns;
    }
    if (at_ns)
        loop_timer_set(sw->timer, at_ns);
}

static void net_switch_hold(struct net_port *port)
{
    struct net_switch *sw = port->sw;

    port->counters.in_held++;
    if (list_empty(&port->held_link))
        list_add_before(&sw->held, &port->held_link);
    net_switch_arm(sw);
}

/* Addresses 01:80:c2:00:00:00 to 0f are for the next bridge only (IEEE 802.1Q, 8.6.3). */
static bool net_switch_reserved(const uint8_t dst[6])
{
    static const uint8_t prefix[5] = { 0x01, 0x80, 0xc2, 0, 0 };

    return memcmp(dst, prefix, sizeof(prefix)) == 0 && dst[5] < 0x10;
}

static bool net_switch_receive(void *opaque, const struct net_hdr *hdr, const uint8_t *frame, size_t len)
{
    struct net_port *port = opaque;
    struct net_frame f = { .hdr = hdr, .data = frame, .len = len };
    uint64_t now_ns = sys_now_ns();

    if (!net_rate_take(&port->in, len, now_ns)) {
        net_switch_hold(port);
        return false;
    }
    port->counters.in_frames++;
    port->counters.in_bytes += len;
    if (frame[0] & 1)
        port->counters.in_multicast++;
    if (!net_switch_classify(port, &f))
        return true;
    if (!net_filter_pass(port, &f) || !net_table_learn(port, f.vlan, frame + 6, now_ns)) {
        port->counters.in_spoofed++;
        return true;
    }
    net_capture_in(port, &f);
    if (!net_switch_reserved(frame))
        net_switch_forward(port, &f, now_ns);
    return true;
}

static void net_switch_flush(struct net_switch *sw)
{
    while (!list_empty(&sw->dirty)) {
        struct net_port *p = CONTAINER_OF(sw->dirty.next, struct net_port, dirty_link);

        list_remove(&p->dirty_link);
        net_backend_send_done(p->backend);
    }
}

static void net_switch_receive_done(void *opaque)
{
    net_switch_flush(((struct net_port *)opaque)->sw);
}

static void net_switch_timeout(void *opaque)
{
    struct net_switch *sw = opaque;
    struct list ready;
    uint64_t now_ns = sys_now_ns();
    struct net_port *p;

    /* They may be held again while they are served. */
    list_init(&ready);
    LIST_FOR_EACH(p, &sw->held, held_link) {
        if (net_rate_ready_ns(&p->in) <= now_ns) {
            list_remove(&p->held_link);
            list_add_before(&ready, &p->held_link);
        }
    }
    while (!list_empty(&ready)) {
        p = CONTAINER_OF(ready.next, struct net_port, held_link);
        list_remove(&p->held_link);
        net_backend_receive_ready(p->backend);
    }
    net_capture_flush(sw);
    net_switch_flush(sw);
    net_switch_arm(sw);
}

/* ---- ports ---- */

static bool net_config_ok(const struct net_port_config *c)
{
    return c->name[0] && memchr(c->name, 0, sizeof(c->name)) && c->vlan < NET_VLANS - 1 && !(c->mac[0] & 1) &&
           (!c->filter_mac || net_mac_known(c->mac)) &&
           !(c->trunk && (c->trunk_vlans.bits[0] & 1 || c->trunk_vlans.bits[63] & BIT64(63)));
}

static void net_port_init_rates(struct net_port *p)
{
    const struct net_port_config *c = &p->config;
    uint64_t now_ns = sys_now_ns(), flood = c->flood_rate ? c->flood_rate : NET_FLOOD_RATE;

    /* By itself: 50 ms, and so much that TCP gets going. */
    net_rate_init(&p->in, c->rate_in, c->burst ? c->burst : MAX(c->rate_in / 20, NET_BURST_MIN), now_ns);
    net_rate_init(&p->out, c->rate_out, c->burst ? c->burst : MAX(c->rate_out / 20, NET_BURST_MIN), now_ns);
    net_rate_init(&p->flood, flood, flood, now_ns);
}

int net_switch_port_add(struct net_switch *sw, const struct net_port_config *config, struct net_backend *backend,
                        struct net_port **ret_port)
{
    struct net_port *p, *owner;

    if (!net_config_ok(config))
        return -EINVAL;
    owner = net_mac_known(config->mac) ? net_switch_port_by_mac(sw, config->mac) : NULL;
    if (net_switch_port_by_name(sw, config->name) || (owner && (owner->config.filter_mac || config->filter_mac)))
        return -EEXIST;
    if (sw->n_ports >= NET_PORTS_MAX)
        return -ENOSPC;
    p = calloc(1, sizeof(*p));
    if (!p)
        return -ENOMEM;
    p->sw = sw;
    p->backend = backend;
    p->config = *config;
    list_init(&p->macs);
    list_init(&p->ips);
    list_init(&p->held_link);
    list_init(&p->dirty_link);
    net_port_init_rates(p);
    list_add_before(&sw->ports, &p->link);
    sw->n_ports++;
    net_table_add_owner(p);
    if (config->filter_mac)
        net_table_forget_mac(sw, config->mac);
    *ret_port = p;
    net_backend_connect(
        backend,
        &(struct net_receiver){ .receive = net_switch_receive, .receive_done = net_switch_receive_done, .opaque = p });
    net_backend_set_receive_offloads(backend, NET_SWITCH_OFFLOADS);
    for (unsigned i = 0; i < sw->n_listeners; i++) {
        if (sw->listeners[i].port_added)
            sw->listeners[i].port_added(sw->listeners[i].opaque, p);
    }
    return 0;
}

void net_switch_port_remove(struct net_port *port)
{
    struct net_switch *sw;

    if (!port)
        return;
    sw = port->sw;
    for (unsigned i = 0; i < sw->n_listeners; i++) {
        if (sw->listeners[i].port_removed)
            sw->listeners[i].port_removed(sw->listeners[i].opaque, port);
    }
    net_backend_connect(port->backend, NULL);
    net_capture_forget_port(port);
    net_filter_forget_port(port);
    net_table_forget_port(port);
    net_table_remove_owner(port);
    list_remove(&port->held_link);
    list_remove(&port->dirty_link);
    list_remove(&port->link);
    sw->n_ports--;
    net_backend_close(port->backend);
    free(port);
}

struct net_port *net_switch_port_by_name(struct net_switch *sw, const char *name)
{
    struct net_port *p;

    LIST_FOR_EACH(p, &sw->ports, link) {
        if (strcmp(p->config.name, name) == 0)
            return p;
    }
    return NULL;
}

struct net_port *net_switch_port_next(struct net_switch *sw, const struct net_port *port)
{
    struct list *next = port ? port->link.next : sw->ports.next;

    return next == &sw->ports ? NULL : CONTAINER_OF(next, struct net_port, link);
}

unsigned net_switch_n_ports(const struct net_switch *sw)
{
    return sw->n_ports;
}

const struct net_port_config *net_port_get_config(const struct net_port *port)
{
    return &port->config;
}

struct net_port_counters net_port_get_counters(const struct net_port *port)
{
    return port->counters;
}

struct net_backend *net_port_get_backend(const struct net_port *port)
{
    return port->backend;
}

void net_port_set_opaque(struct net_port *port, void *opaque)
{
    port->opaque = opaque;
}

void *net_port_get_opaque(const struct net_port *port)
{
    return port->opaque;
}

/* ---- the switch ---- */

int net_switch_new(struct loop *l, struct net_switch **ret_switch)
{
    struct net_switch *sw = calloc(1, sizeof(*sw));
    int res;

    if (!sw)
        return -ENOMEM;
    sw->loop = l;
    list_init(&sw->ports);
    list_init(&sw->held);
    list_init(&sw->dirty);
    res = getrandom(&sw->key, sizeof(sw->key), 0) == sizeof(sw->key) ? 0 : -EIO;
    if (res == 0)
        res = loop_timer_new(l, net_switch_timeout, sw, &sw->timer);
    if (res < 0) {
        free(sw);
        return res;
    }
    *ret_switch = sw;
    return 0;
}

void net_switch_free(struct net_switch *sw)
{
    if (!sw)
        return;
    while (!list_empty(&sw->ports))
        net_switch_port_remove(CONTAINER_OF(sw->ports.next, struct net_port, link));
    for (unsigned i = 0; i < NET_CAPTURES_MAX; i++)
        (void)net_switch_capture_stop(sw, sw->captures[i].number);
    loop_timer_free(sw->timer);
    free(sw);
}

int net_switch_listen(struct net_switch *sw, const struct net_switch_events *events)
{
    if (sw->n_listeners == NET_LISTENERS_MAX)
        return -ENOSPC;
    sw->listeners[sw->n_listeners++] = *events;
    return 0;
}
