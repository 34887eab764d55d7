/* The gateway's own packets: ARP, ping, neighbour discovery, router advertisements. What is sent is fixed in size and
 * one answer for one question. Specs: RFC 826, RFC 4861, RFC 4862, RFC 8106 */
#include <string.h>
#include <sys/random.h>

#include "base/bits.h"
#include "net/service_priv.h"
#include "sys/loop.h"

enum {
    NET_ICMP6_ROUTER_ADVERT = 134,
    NET_ICMP6_NEIGHBOUR_SOLICIT = 135,
    NET_ICMP6_NEIGHBOUR_ADVERT = 136,
};
enum {
    NET_ND_SOURCE_MAC = 1,
    NET_ND_TARGET_MAC = 2,
    NET_ND_PREFIX = 3,
    NET_ND_MTU = 5,
    NET_ND_RDNSS = 25,
    NET_ND_DNSSL = 31
};
#define NET_ND_MESSAGE 24 /* solicitation and advertisement of a neighbour, without options */
#define NET_RA_LIFETIME_S 1800
#define NET_RA_PREFERRED_S 14400
#define NET_RA_VALID_S 86400
/* Between two unsolicited advertisements (MinRtrAdvInterval, MaxRtrAdvInterval). */
#define NET_RA_MIN_S 200
#define NET_RA_MAX_S 600

static const uint8_t net_all_nodes[16] = { 0xff, 2, [15] = 1 };

void net_service_arp(struct net_service *s, const struct inet_arp *arp)
{
    struct inet_arp answer = { .op = INET_ARP_REPLY, .sender_ip = arp->target_ip, .target_ip = arp->sender_ip };

    memcpy(answer.sender_mac, s->config.mac, 6);
    memcpy(answer.target_mac, arp->sender_mac, 6);
    net_service_emit(s, s->frame, inet_arp_build(arp->sender_mac, &answer, s->frame));
}

void net_service_ping(struct net_service *s, const struct inet_packet *p)
{
    struct inet_flow back = inet_flow_answer(&p->flow, s->config.mac, 64);
    uint8_t message[NET_SERVICE_UDP_MAX];

    if (p->len < 8 || p->len > sizeof(message) || !inet_icmp_sum_ok(p))
        return;
    memcpy(message, p->data, p->len);
    message[0] = p->flow.is6 ? 129 : 0; /* echo reply */
    net_service_emit(s, s->frame, inet_icmp_build(&back, message, p->len, s->frame, sizeof(s->frame)));
}

void net_service_solicited_neighbour(struct net_service *s, const struct inet_packet *p)
{
    struct inet_flow back = inet_flow_answer(&p->flow, s->config.mac, 255);
    uint8_t message[NET_ND_MESSAGE + 8] = { NET_ICMP6_NEIGHBOUR_ADVERT };
    bool probe = inet_ip6_is_unspecified(p->flow.src.ip6); /* somebody wants the address for himself */

    message[4] = (uint8_t)(0xa0 | (probe ? 0 : 0x40)); /* router, override; solicited */
    memcpy(message + 8, p->data + 8, 16);
    message[NET_ND_MESSAGE] = NET_ND_TARGET_MAC;
    message[NET_ND_MESSAGE + 1] = 1;
    memcpy(message + NET_ND_MESSAGE + 2, s->config.mac, 6);
    memcpy(back.src.ip6, p->data + 8, 16);
    if (probe) {
        memcpy(back.dst.ip6, net_all_nodes, 16);
        inet_ip6_multicast_mac(net_all_nodes, back.dst_mac);
    }
    net_service_emit(s, s->frame, inet_icmp_build(&back, message, sizeof(message), s->frame, sizeof(s->frame)));
}

void net_service_snoop(struct net_service *s, const struct inet_packet *p)
{
    const uint8_t *target = p->data + 8;

    /* Duplicate address detection: the moment in which a guest takes an address. */
    if (p->len >= NET_ND_MESSAGE && p->data[0] == NET_ICMP6_NEIGHBOUR_SOLICIT && p->flow.hop_limit == 255 &&
        inet_ip6_is_unspecified(p->flow.src.ip6) && addr_subnet6_contains(&s->config.subnet6, target) &&
        memcmp(target, s->config.gateway6, 16) != 0)
        net_leases_learn_ip6(&s->leases, p->flow.src_mac, target);
}

/* ---- router advertisements ---- */

/* Options at out; returns their length. */
static size_t net_ra_options(const struct net_service *s, uint8_t *out)
{
    uint8_t *p = out;

    p[0] = NET_ND_SOURCE_MAC;
    p[1] = 1;
    memcpy(p + 2, s->config.mac, 6);
    p += 8;
    p[0] = NET_ND_MTU;
    p[1] = 1;
    store_be32(p + 4, s->config.mtu);
    p += 8;
    p[0] = NET_ND_PREFIX;
    p[1] = 4;
    p[2] = s->config.subnet6.prefix;
    p[3] = 0xc0; /* on-link, autonomous */
    store_be32(p + 4, NET_RA_VALID_S);
    store_be32(p + 8, NET_RA_PREFERRED_S);
    memcpy(p + 16, s->config.subnet6.addr, 16);
    p += 32;
    if (!s->config.dns)
        return (size_t)(p - out);
    p[0] = NET_ND_RDNSS;
    p[1] = 3;
    store_be32(p + 4, NET_RA_LIFETIME_S);
    memcpy(p + 8, s->config.gateway6, 16);
    p += 24;
    p[0] = NET_ND_DNSSL;
    p[1] = (uint8_t)((8 + s->domain.len + 7U) / 8);
    store_be32(p + 4, NET_RA_LIFETIME_S);
    memcpy(p + 8, s->domain.wire, s->domain.len);
    return (size_t)(p - out) + p[1] * 8U;
}

void net_service_advertise(struct net_service *s, const struct inet_flow *to)
{
    uint8_t message[16 + 8 + 8 + 32 + 24 + 8 + DNS_NAME_MAX + 8] = { NET_ICMP6_ROUTER_ADVERT };
    struct inet_flow flow = { .is6 = true, .hop_limit = 255 };
    size_t len;

    message[4] = 64;                                                   /* hop limit */
    message[5] = s->config.dns ? 0x40 : 0;                             /* more by stateless DHCPv6 */
    store_be16(message + 6, s->config.router ? NET_RA_LIFETIME_S : 0); /* 0: no default router */
    len = 16 + net_ra_options(s, message + 16);
    memcpy(flow.src_mac, s->config.mac, 6);
    memcpy(flow.src.ip6, s->link_local, 16);
    if (to && !inet_ip6_is_unspecified(to->src.ip6)) {
        memcpy(flow.dst.ip6, to->src.ip6, 16);
        memcpy(flow.dst_mac, to->src_mac, 6);
    } else {
        memcpy(flow.dst.ip6, net_all_nodes, 16);
        inet_ip6_multicast_mac(net_all_nodes, flow.dst_mac);
    }
    net_service_emit(s, s->frame, inet_icmp_build(&flow, message, len, s->frame, sizeof(s->frame)));
    if (!to) {
        uint32_t r = 0;

        if (getrandom(&r, sizeof(r), GRND_NONBLOCK) < 0)
            r = 0;
        loop_timer_set(s->advertise_timer,
                       sys_now_ns() + (NET_RA_MIN_S + r % (NET_RA_MAX_S - NET_RA_MIN_S)) * 1000000000ULL);
    }
}
