#include "wire/inet.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "wire/inet_sum.h"

#define INET_IP4_HEADER 20
#define INET_IP6_HEADER 40
#define INET_UDP_HEADER 8

static int inet_ip4_parse(const uint8_t *ip, size_t len, struct inet_packet *p)
{
    size_t header, total;

    if (len < INET_IP4_HEADER || ip[0] >> 4 != 4)
        return -EBADMSG;
    header = (size_t)(ip[0] & 15) * 4;
    total = load_be16(ip + 2);
    if (header < INET_IP4_HEADER || total < header || total > len || inet_sum(ip, header, 0) != 0xffff)
        return -EBADMSG;
    if (load_be16(ip + 6) & 0x3fff) /* more fragments, or not the first */
        return -EPROTONOSUPPORT;
    p->flow.is6 = false;
    p->flow.src.ip4 = load_be32(ip + 12);
    p->flow.dst.ip4 = load_be32(ip + 16);
    p->flow.hop_limit = ip[8];
    p->proto = ip[9];
    p->data = ip + header;
    p->len = total - header;
    return 0;
}

static int inet_ip6_parse(const uint8_t *ip, size_t len, struct inet_packet *p)
{
    size_t total;

    if (len < INET_IP6_HEADER || ip[0] >> 4 != 6)
        return -EBADMSG;
    total = load_be16(ip + 4);
    if (total > len - INET_IP6_HEADER)
        return -EBADMSG;
    p->flow.is6 = true;
    memcpy(p->flow.src.ip6, ip + 8, 16);
    memcpy(p->flow.dst.ip6, ip + 24, 16);
    p->flow.hop_limit = ip[7];
    p->proto = ip[6];
    p->data = ip + INET_IP6_HEADER;
    p->len = total;
    return 0;
}

int inet_packet_parse(const uint8_t *frame, size_t len, struct inet_packet *ret_packet)
{
    struct inet_packet p = { 0 };
    int res;

    if (len < INET_ETH_HEADER)
        return -EBADMSG;
    memcpy(p.flow.dst_mac, frame, 6);
    memcpy(p.flow.src_mac, frame + 6, 6);
    switch (load_be16(frame + 12)) {
    case INET_TYPE_IP4:
        res = inet_ip4_parse(frame + INET_ETH_HEADER, len - INET_ETH_HEADER, &p);
        break;
    case INET_TYPE_IP6:
        res = inet_ip6_parse(frame + INET_ETH_HEADER, len - INET_ETH_HEADER, &p);
        break;
    default:
        res = -EPROTONOSUPPORT;
        break;
    }
    if (res == 0)
        *ret_packet = p;
    return res;
}

/* The sum of the pseudo header for len bytes of proto. */
static uint16_t inet_pseudo_sum(const struct inet_flow *f, uint8_t proto, size_t len)
{
    uint16_t sum = inet_sum_add(htons(proto), htons((uint16_t)len));

    if (f->is6)
        return inet_sum(f->dst.ip6, 16, inet_sum(f->src.ip6, 16, sum));
    sum = inet_sum_add(sum, htons((uint16_t)(f->src.ip4 >> 16)));
    sum = inet_sum_add(sum, htons((uint16_t)f->src.ip4));
    sum = inet_sum_add(sum, htons((uint16_t)(f->dst.ip4 >> 16)));
    return inet_sum_add(sum, htons((uint16_t)f->dst.ip4));
}

int inet_udp_parse(const struct inet_packet *p, bool sum_good, struct inet_udp *ret_udp)
{
    size_t len;

    if (p->proto != INET_PROTO_UDP || p->len < INET_UDP_HEADER)
        return -EBADMSG;
    len = load_be16(p->data + 4);
    if (len < INET_UDP_HEADER || len > p->len)
        return -EBADMSG;
    /* 0: the sender made none, which IPv6 does not allow. */
    if (load_be16(p->data + 6) == 0
            ? p->flow.is6 && !sum_good
            : !sum_good && inet_sum(p->data, len, inet_pseudo_sum(&p->flow, INET_PROTO_UDP, len)) != 0xffff)
        return -EBADMSG;
    *ret_udp = (struct inet_udp){
        .src_port = load_be16(p->data),
        .dst_port = load_be16(p->data + 2),
        .data = p->data + INET_UDP_HEADER,
        .len = len - INET_UDP_HEADER,
    };
    return 0;
}

bool inet_icmp_sum_ok(const struct inet_packet *p)
{
    uint16_t start = p->flow.is6 ? inet_pseudo_sum(&p->flow, INET_PROTO_ICMP6, p->len) : 0;

    return p->len >= 4 && inet_sum(p->data, p->len, start) == 0xffff;
}

int inet_arp_parse(const uint8_t *frame, size_t len, struct inet_arp *ret_arp)
{
    const uint8_t *arp = frame + INET_ETH_HEADER;

    if (len < INET_ETH_HEADER || load_be16(frame + 12) != INET_TYPE_ARP)
        return -EPROTONOSUPPORT;
    if (len < INET_ARP_FRAME)
        return -EBADMSG;
    if (load_be16(arp) != 1 || load_be16(arp + 2) != INET_TYPE_IP4 || arp[4] != 6 || arp[5] != 4)
        return -EPROTONOSUPPORT;
    ret_arp->op = load_be16(arp + 6);
    memcpy(ret_arp->sender_mac, arp + 8, 6);
    ret_arp->sender_ip = load_be32(arp + 14);
    memcpy(ret_arp->target_mac, arp + 18, 6);
    ret_arp->target_ip = load_be32(arp + 24);
    return 0;
}

static void inet_eth_build(const uint8_t dst[6], const uint8_t src[6], uint16_t type, uint8_t *out)
{
    memcpy(out, dst, 6);
    memcpy(out + 6, src, 6);
    store_be16(out + 12, type);
}

size_t inet_arp_build(const uint8_t dst_mac[6], const struct inet_arp *a, uint8_t out[INET_ARP_FRAME])
{
    uint8_t *arp = out + INET_ETH_HEADER;

    inet_eth_build(dst_mac, a->sender_mac, INET_TYPE_ARP, out);
    store_be16(arp, 1);
    store_be16(arp + 2, INET_TYPE_IP4);
    arp[4] = 6;
    arp[5] = 4;
    store_be16(arp + 6, a->op);
    memcpy(arp + 8, a->sender_mac, 6);
    store_be32(arp + 14, a->sender_ip);
    memcpy(arp + 18, a->target_mac, 6);
    store_be32(arp + 24, a->target_ip);
    return INET_ARP_FRAME;
}

/* Ethernet and IP header for len bytes behind them. Returns their size, 0: the whole does not fit. */
static size_t inet_ip_build(const struct inet_flow *f, uint8_t proto, size_t len, uint8_t *out, size_t cap)
{
    size_t headers = INET_ETH_HEADER + (f->is6 ? INET_IP6_HEADER : INET_IP4_HEADER);
    uint8_t *ip = out + INET_ETH_HEADER;

    if (len > UINT16_MAX - INET_IP4_HEADER || cap < headers || len > cap - headers)
        return 0;
    inet_eth_build(f->dst_mac, f->src_mac, f->is6 ? INET_TYPE_IP6 : INET_TYPE_IP4, out);
    memset(ip, 0, headers - INET_ETH_HEADER);
    if (f->is6) {
        ip[0] = 0x60;
        store_be16(ip + 4, (uint16_t)len);
        ip[6] = proto;
        ip[7] = f->hop_limit;
        memcpy(ip + 8, f->src.ip6, 16);
        memcpy(ip + 24, f->dst.ip6, 16);
        return headers;
    }
    ip[0] = 0x45;
    store_be16(ip + 2, (uint16_t)(len + INET_IP4_HEADER));
    store_be16(ip + 6, 0x4000); /* DF: an atomic datagram needs no ID (RFC 6864) */
    ip[8] = f->hop_limit;
    ip[9] = proto;
    store_be32(ip + 12, f->src.ip4);
    store_be32(ip + 16, f->dst.ip4);
    store_le16(ip + 10, (uint16_t)~inet_sum(ip, INET_IP4_HEADER, 0));
    return headers;
}

size_t inet_udp_build(const struct inet_flow *f, uint16_t src_port, uint16_t dst_port, const void *data, size_t len,
                      uint8_t *out, size_t cap)
{
    size_t at = len > UINT16_MAX ? 0 : inet_ip_build(f, INET_PROTO_UDP, INET_UDP_HEADER + len, out, cap);
    uint8_t *udp = out + at;
    uint16_t sum;

    if (at == 0)
        return 0;
    store_be16(udp, src_port);
    store_be16(udp + 2, dst_port);
    store_be16(udp + 4, (uint16_t)(INET_UDP_HEADER + len));
    store_be16(udp + 6, 0);
    if (len)
        memcpy(udp + INET_UDP_HEADER, data, len);
    sum = (uint16_t)~inet_sum(udp, INET_UDP_HEADER + len, inet_pseudo_sum(f, INET_PROTO_UDP, INET_UDP_HEADER + len));
    store_le16(udp + 6, sum ? sum : 0xffff);
    return at + INET_UDP_HEADER + len;
}

size_t inet_icmp_build(const struct inet_flow *f, const void *data, size_t len, uint8_t *out, size_t cap)
{
    uint8_t proto = f->is6 ? INET_PROTO_ICMP6 : INET_PROTO_ICMP;
    size_t at = len < 4 || len > UINT16_MAX ? 0 : inet_ip_build(f, proto, len, out, cap);

    if (at == 0)
        return 0;
    memcpy(out + at, data, len);
    store_be16(out + at + 2, 0);
    store_le16(out + at + 2, (uint16_t)~inet_sum(out + at, len, f->is6 ? inet_pseudo_sum(f, proto, len) : 0));
    return at + len;
}

struct inet_flow inet_flow_answer(const struct inet_flow *f, const uint8_t mac[6], uint8_t hop_limit)
{
    struct inet_flow back = { .is6 = f->is6, .src = f->dst, .dst = f->src, .hop_limit = hop_limit };

    memcpy(back.src_mac, mac, 6);
    memcpy(back.dst_mac, f->src_mac, 6);
    return back;
}

bool inet_ip6_is_link_local(const uint8_t addr[16])
{
    return addr[0] == 0xfe && (addr[1] & 0xc0) == 0x80;
}

bool inet_ip6_is_multicast(const uint8_t addr[16])
{
    return addr[0] == 0xff;
}

bool inet_ip6_is_unspecified(const uint8_t addr[16])
{
    static const uint8_t zero[16];

    return memcmp(addr, zero, 16) == 0;
}

void inet_ip6_multicast_mac(const uint8_t addr[16], uint8_t ret_mac[6])
{
    ret_mac[0] = ret_mac[1] = 0x33;
    memcpy(ret_mac + 2, addr + 12, 4);
}
