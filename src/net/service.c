#include "net/service.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/bits.h"
#include "net/service_file.h"
#include "net/service_priv.h"
#include "sys/loop.h"
#include "wire/dhcp.h"
#include "wire/dhcp6.h"

#define NET_SERVICE_EXPIRE_NS 30000000000ULL
/* Of each frame on its way to the uplink this much is looked at before the rest is: Ethernet, IPv6, UDP ports. */
#define NET_SERVICE_HEAD INET_UDP6_HEADERS

enum { NET_ICMP_ECHO = 8, NET_ICMP6_ECHO = 128, NET_ICMP6_ROUTER_SOLICIT = 133, NET_ICMP6_NEIGHBOUR_SOLICIT = 135 };

static const uint8_t net_all_routers[16] = { 0xff, 2, [15] = 2 };
static const uint8_t net_all_dhcp6[16] = { 0xff, 2, [13] = 1, [15] = 2 };

int64_t net_service_now_s(const struct net_service *s)
{
    struct timespec ts;

    if (s->config.clock_s)
        return s->config.clock_s(s->config.clock_opaque);
    clock_gettime(CLOCK_REALTIME, &ts);
    return ts.tv_sec;
}

void net_service_emit(struct net_service *s, const uint8_t *frame, size_t len)
{
    static const struct net_hdr plain;

    if (len > 0 && !net_backend_deliver(&s->base, &plain, frame, len))
        return; /* lost, as any datagram may be */
}

void net_service_answer(struct net_service *s, const struct inet_flow *flow, uint16_t their_port, uint16_t our_port,
                        const void *data, size_t len)
{
    struct inet_flow back = inet_flow_answer(flow, s->config.mac, 64);

    net_service_emit(s, s->frame, inet_udp_build(&back, our_port, their_port, data, len, s->frame, sizeof(s->frame)));
}

/* ---- what is for us ---- */

static bool net_service_is_ours(const struct net_service *s, const struct inet_flow *f)
{
    if (!f->is6)
        return s->config.gateway != 0 && f->dst.ip4 == s->config.gateway;
    return s->config.subnet6.prefix &&
           (memcmp(f->dst.ip6, s->config.gateway6, 16) == 0 || memcmp(f->dst.ip6, s->link_local, 16) == 0);
}

/* Whether a guest that asks us may have an answer, or asks too often. */
static bool net_service_may_ask(struct net_service *s, const struct inet_packet *p)
{
    uint64_t now = sys_now_ns();
    struct net_service_budget *b;
    uint32_t hash = s->budget_seed;

    for (unsigned i = 0; i < 6; i++)
        hash = (hash ^ p->flow.src_mac[i]) * 16777619U; /* FNV-1a */
    b = &s->budgets[(hash ^ hash >> 16) % NET_SERVICE_BUDGETS];
    if (now - b->since_ns >= 1000000000ULL)
        *b = (struct net_service_budget){ .since_ns = now };
    return b->spent++ < NET_SERVICE_BURST;
}

/* DHCP and DNS. True: taken. */
static bool net_service_udp(struct net_service *s, const struct inet_packet *p, bool sum_good)
{
    bool ours = net_service_is_ours(s, &p->flow);
    struct inet_udp udp;

    if (inet_udp_parse(p, sum_good, &udp) < 0)
        return false;
    if (!p->flow.is6 && udp.dst_port == DHCP_SERVER_PORT && s->config.dhcp && s->config.subnet.prefix &&
        (ours || p->flow.dst.ip4 == UINT32_MAX)) {
        if (net_service_may_ask(s, p))
            net_service_dhcp(s, &p->flow, udp.data, udp.len);
        net_lease_file_update(s->file);
        return true;
    }
    if (p->flow.is6 && udp.dst_port == DHCP6_SERVER_PORT && s->config.dhcp && s->config.subnet6.prefix &&
        memcmp(p->flow.dst.ip6, net_all_dhcp6, 16) == 0) {
        if (inet_ip6_is_link_local(p->flow.src.ip6) && net_service_may_ask(s, p))
            net_service_dhcp6(s, &p->flow, udp.data, udp.len);
        return true;
    }
    if (ours && udp.dst_port == DNS_PORT && s->config.dns && udp.src_port != DNS_PORT) {
        if (net_service_may_ask(s, p))
            net_service_dns(s, &p->flow, udp.src_port, udp.data, udp.len);
        return true;
    }
    return false;
}

/* A solicitation for one of our IPv6 addresses. */
static bool net_service_solicits_us(const struct net_service *s, const struct inet_packet *p)
{
    return p->len >= 24 && p->data[0] == NET_ICMP6_NEIGHBOUR_SOLICIT && p->flow.hop_limit == 255 &&
           (memcmp(p->data + 8, s->config.gateway6, 16) == 0 || memcmp(p->data + 8, s->link_local, 16) == 0);
}

static bool net_service_icmp6(struct net_service *s, const struct inet_packet *p)
{
    if (!s->config.subnet6.prefix || p->len < 8)
        return false;
    net_service_snoop(s, p);
    if (p->data[0] == NET_ICMP6_ROUTER_SOLICIT && s->config.dhcp && p->flow.hop_limit == 255 &&
        memcmp(p->flow.dst.ip6, net_all_routers, 16) == 0) {
        if (net_service_may_ask(s, p))
            net_service_advertise(s, &p->flow);
        return true;
    }
    if (s->config.uplink_is_gateway)
        return false;
    if (net_service_solicits_us(s, p) && inet_icmp_sum_ok(p)) {
        if (net_service_may_ask(s, p))
            net_service_solicited_neighbour(s, p);
        return true;
    }
    if (p->data[0] == NET_ICMP6_ECHO && net_service_is_ours(s, &p->flow)) {
        if (net_service_may_ask(s, p))
            net_service_ping(s, p);
        return true;
    }
    return false;
}

static bool net_service_icmp4(struct net_service *s, const struct inet_packet *p)
{
    if (s->config.uplink_is_gateway || p->len < 8 || p->data[0] != NET_ICMP_ECHO || !net_service_is_ours(s, &p->flow))
        return false;
    if (net_service_may_ask(s, p))
        net_service_ping(s, p);
    return true;
}

/* Take a whole frame, if it is for the services. */
static bool net_service_take(struct net_service *s, const struct net_hdr *hdr, const uint8_t *frame, size_t len)
{
    struct inet_packet p;
    struct inet_arp arp;

    if (inet_arp_parse(frame, len, &arp) == 0) {
        if (s->config.uplink_is_gateway || arp.op != INET_ARP_REQUEST || arp.target_ip != s->config.gateway ||
            s->config.gateway == 0)
            return false;
        net_service_arp(s, &arp);
        return true;
    }
    /* Nothing comes from groups and nobody sends as us. */
    if (inet_packet_parse(frame, len, &p) < 0 || p.flow.src_mac[0] & 1)
        return false;
    switch (p.proto) {
    case INET_PROTO_UDP:
        return net_service_udp(s, &p, hdr->flags & (NET_HDR_NEEDS_CSUM | NET_HDR_DATA_VALID));
    case INET_PROTO_ICMP6:
        return p.flow.is6 && net_service_icmp6(s, &p);
    case INET_PROTO_ICMP:
        return !p.flow.is6 && net_service_icmp4(s, &p);
    default:
        return false;
    }
}

static bool net_service_is_port(const uint8_t *port)
{
    unsigned n = load_be16(port);

    return n == DNS_PORT || n == DHCP_SERVER_PORT || n == DHCP6_SERVER_PORT;
}

/* Whether a frame may be for the services, from its first bytes: keeps the bulk on its way to the uplink short. */
static bool net_service_may_take(const uint8_t *head, size_t len)
{
    const uint8_t *ip = head + INET_ETH_HEADER;

    if (len < INET_ETH_HEADER + 28)
        return false;
    switch (load_be16(head + 12)) {
    case INET_TYPE_ARP:
        return true;
    case INET_TYPE_IP4:
        return ip[9] == INET_PROTO_ICMP || (ip[9] == INET_PROTO_UDP && (ip[0] != 0x45 || net_service_is_port(ip + 22)));
    case INET_TYPE_IP6:
        return len >= NET_SERVICE_HEAD &&
               (ip[6] == INET_PROTO_ICMP6 || (ip[6] == INET_PROTO_UDP && net_service_is_port(ip + 42)));
    default:
        return false;
    }
}

/* ---- as a back end ---- */

static bool net_service_send(struct net_backend *b, const struct net_hdr *hdr, const struct iovec *iov, unsigned n_iov,
                             size_t len)
{
    struct net_service *s = CONTAINER_OF(b, struct net_service, base);
    uint8_t head[NET_SERVICE_HEAD], frame[NET_SERVICE_FRAME_MAX];

    /* The copy is what counts, since the pieces may be memory that a guest changes. Ours are short. */
    if (len <= sizeof(frame) && hdr->gso_type == NET_GSO_NONE &&
        net_service_may_take(head, net_gather(head, iov, n_iov, sizeof(head)))) {
        struct iovec whole = { .iov_base = frame, .iov_len = len };

        if (net_gather(frame, iov, n_iov, len) != len || net_service_take(s, hdr, frame, len))
            return true;
        return !s->config.uplink || net_backend_send(s->config.uplink, hdr, &whole, 1, len);
    }
    return !s->config.uplink || net_backend_send(s->config.uplink, hdr, iov, n_iov, len);
}

static void net_service_send_done(struct net_backend *b)
{
    struct net_service *s = CONTAINER_OF(b, struct net_service, base);

    net_backend_deliver_done(&s->base); /* our answers */
    if (s->config.uplink)
        net_backend_send_done(s->config.uplink);
}

static void net_service_receive_ready(struct net_backend *b)
{
    struct net_service *s = CONTAINER_OF(b, struct net_service, base);

    if (s->config.uplink)
        net_backend_receive_ready(s->config.uplink);
}

static void net_service_set_receive_offloads(struct net_backend *b, unsigned offloads)
{
    struct net_service *s = CONTAINER_OF(b, struct net_service, base);

    if (s->config.uplink)
        net_backend_set_receive_offloads(s->config.uplink, offloads);
}

static void net_service_close(struct net_backend *b)
{
    struct net_service *s = CONTAINER_OF(b, struct net_service, base);

    net_backend_close(s->config.uplink);
    net_resolver_free(s->resolver);
    net_lease_file_free(s->file);
    net_leases_done(&s->leases);
    loop_timer_free(s->advertise_timer);
    loop_timer_free(s->expire_timer);
    free(s);
}

static const struct net_backend_ops net_service_ops = {
    .name = "service",
    .send = net_service_send,
    .send_done = net_service_send_done,
    .receive_ready = net_service_receive_ready,
    .set_receive_offloads = net_service_set_receive_offloads,
    .close = net_service_close,
};

/* ---- as the receiver of the uplink ---- */

/* Router advertisements of the uplink's (libslirp has its own) and DHCP answers would contradict ours. */
static bool net_service_contradicts(const struct net_service *s, const uint8_t *frame, size_t len)
{
    const uint8_t *ip = frame + INET_ETH_HEADER;

    return s->config.dhcp && len >= INET_ETH_HEADER + 41 && load_be16(frame + 12) == INET_TYPE_IP6 &&
           ip[6] == INET_PROTO_ICMP6 && ip[40] == 134;
}

static bool net_service_uplink_receive(void *opaque, const struct net_hdr *hdr, const uint8_t *frame, size_t len)
{
    struct net_service *s = opaque;

    return net_service_contradicts(s, frame, len) || net_backend_deliver(&s->base, hdr, frame, len);
}

static void net_service_uplink_receive_done(void *opaque)
{
    net_backend_deliver_done(&((struct net_service *)opaque)->base);
}

static void net_service_uplink_send_ready(void *opaque)
{
    net_backend_send_ready(&((struct net_service *)opaque)->base);
}

/* ---- guests ---- */

uint32_t net_service_guest_up(struct net_service *s, const uint8_t mac[6], const char *name)
{
    struct net_lease_slot *slot = net_leases_guest_up(&s->leases, mac, name, net_service_now_s(s));

    net_lease_file_update(s->file);
    return slot ? slot->addr : 0;
}

void net_service_guest_down(struct net_service *s, const uint8_t mac[6])
{
    net_leases_guest_down(&s->leases, mac, net_service_now_s(s));
}

void net_service_leases(struct net_service *s, void (*fn)(void *opaque, const struct net_service_lease *lease),
                        void *opaque)
{
    int64_t now_s = net_service_now_s(s);

    for (unsigned i = 0; i < s->leases.n; i++) {
        const struct net_lease_slot *slot = &s->leases.slots[i];
        struct net_service_lease lease = { .addr = slot->addr, .name = net_lease_name(slot) };

        if (slot->addr == 0 || !net_lease_holds(slot, now_s))
            continue;
        lease.expires_s = slot->fixed || slot->state != NET_LEASE_BOUND ? 0 : slot->until_s;
        memcpy(lease.mac, slot->mac, 6);
        fn(opaque, &lease);
    }
}

int net_service_resolve6(struct net_service *s, const char *name, bool own_names, uint8_t ret_addr[16])
{
    struct net_lease_slot *slot = net_leases_by_name(&s->leases, name, !own_names, net_service_now_s(s));

    if (!slot || slot->n_ip6 == 0)
        return -ENOENT;
    memcpy(ret_addr, slot->ip6[slot->n_ip6 - 1], 16);
    return 0;
}

int net_service_resolve(struct net_service *s, const char *name, bool own_names, uint32_t *ret_addr)
{
    struct net_lease_slot *slot = net_leases_by_name(&s->leases, name, !own_names, net_service_now_s(s));

    if (!slot || slot->addr == 0)
        return -ENOENT;
    *ret_addr = slot->addr;
    return 0;
}

/* ---- construction ---- */

static void net_service_expire(void *opaque)
{
    struct net_service *s = opaque;

    net_leases_expire(&s->leases, net_service_now_s(s));
    net_lease_file_update(s->file);
    loop_timer_set(s->expire_timer, sys_now_ns() + NET_SERVICE_EXPIRE_NS);
}

static void net_service_advertise_due(void *opaque)
{
    struct net_service *s = opaque;

    net_service_advertise(s, NULL);
    net_backend_deliver_done(&s->base);
}

static int net_service_check(const struct net_service_config *c)
{
    bool ip4 = c->subnet.prefix != 0, ip6 = c->subnet6.prefix != 0;

    if (!addr_mac_is_unicast(c->mac) || c->mtu < 576 || c->mtu > NET_MTU_MAX || (!c->uplink && c->uplink_is_gateway))
        return -EINVAL;
    if (ip4 ? c->subnet.prefix > 30 || !addr_subnet4_contains(&c->subnet, c->gateway) : c->gateway != 0)
        return -EINVAL;
    if (ip6 && (c->subnet6.prefix != 64 || !addr_subnet6_contains(&c->subnet6, c->gateway6)))
        return -EINVAL;
    if (c->dhcp && ip4 &&
        (c->dhcp_first > c->dhcp_last || !addr_subnet4_contains(&c->subnet, c->dhcp_first) ||
         !addr_subnet4_contains(&c->subnet, c->dhcp_last) || (c->lease_s && c->lease_s < 60)))
        return -EINVAL;
    return c->dns && !c->domain ? -EINVAL : 0;
}

/* The names and addresses that follow from the configuration. */
static int net_service_prepare(struct net_service *s, const struct net_service_config *c)
{
    int res = dns_name_parse(c->domain ? c->domain : "", &s->domain);

    if (res < 0 || (c->dns && s->domain.len < 2))
        return -EINVAL;
    s->config = *c;
    s->config.lease_s = c->lease_s ? c->lease_s : NET_SERVICE_LEASE_S;
    s->config.domain = s->config.resolv_conf = s->config.lease_path = NULL;
    s->config.hosts = NULL;
    if (c->domain)
        memcpy(s->domain_text, c->domain, strlen(c->domain)); /* it became a name, so it is short enough */
    s->link_local[0] = 0xfe;
    s->link_local[1] = 0x80;
    memcpy(s->link_local + 8, c->gateway6 + 8, 8);
    s->base = (struct net_backend){ .ops = &net_service_ops, .mtu = c->mtu };
    s->base.offloads =
        c->uplink ? c->uplink->offloads : NET_OFF_CSUM | NET_OFF_TSO4 | NET_OFF_TSO6 | NET_OFF_ECN | NET_OFF_USO;
    s->base.checksums_good = !c->uplink || c->uplink->checksums_good;
    return 0;
}

static int net_service_start(struct net_service *s, const struct net_service_config *c, struct loop *loop)
{
    int res = net_leases_init(&s->leases, c);

    if (res == 0 && c->lease_path)
        res = net_lease_file_new(c->lease_path, &s->leases, net_service_now_s(s), loop, &s->file);
    if (res == 0 && c->dns && c->dns_forward)
        res = net_resolver_new(s, c->resolv_conf, loop, &s->resolver);
    if (res == 0)
        res = loop_timer_new(loop, net_service_expire, s, &s->expire_timer);
    if (res == 0)
        res = loop_timer_new(loop, net_service_advertise_due, s, &s->advertise_timer);
    if (res < 0)
        return res;
    loop_timer_set(s->expire_timer, sys_now_ns() + NET_SERVICE_EXPIRE_NS);
    if (c->dhcp && c->subnet6.prefix)
        loop_timer_set(s->advertise_timer, 1); /* at once, for those that are there already */
    return 0;
}

int net_service_new(const struct net_service_config *config, struct loop *loop, struct net_service **ret_service)
{
    static const struct net_receiver from_uplink = {
        .receive = net_service_uplink_receive,
        .receive_done = net_service_uplink_receive_done,
        .send_ready = net_service_uplink_send_ready,
    };
    struct net_receiver receiver = from_uplink;
    struct net_service *s;
    int res = net_service_check(config);

    if (res < 0)
        return res;
    s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    s->loop = loop;
    if (getrandom(&s->budget_seed, sizeof(s->budget_seed), GRND_NONBLOCK) < 0)
        s->budget_seed = (uint32_t)sys_now_ns(); /* too early after boot for better */
    res = net_service_prepare(s, config);
    if (res == 0)
        res = net_service_start(s, config, loop);
    if (res < 0) {
        s->config.uplink = NULL;
        net_service_close(&s->base);
        return res;
    }
    receiver.opaque = s;
    if (config->uplink)
        net_backend_connect(config->uplink, &receiver);
    *ret_service = s;
    return 0;
}

struct net_backend *net_service_backend(struct net_service *s)
{
    return &s->base;
}
