#include "net/offload.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "wire/inet_sum.h"

enum { ETH_IPV4 = 0x0800, ETH_VLAN = 0x8100, ETH_IPV6 = 0x86dd, ETH_QINQ = 0x88a8 };
enum { NET_VLANS_MAX = 2, NET_EXTENSIONS_MAX = 8 };
enum { IPV4_MIN = 20, IPV4_LEN = 2, IPV4_ID = 4, IPV4_FRAG = 6, IPV4_PROTO = 9, IPV4_SUM = 10, IPV4_SRC = 12 };
enum { IPV6_BYTES = 40, IPV6_LEN = 4, IPV6_NEXT = 6, IPV6_SRC = 8 };
enum { TCP_MIN = 20, TCP_SEQ = 4, TCP_DOFF = 12, TCP_FLAGS = 13, TCP_SUM = 16 };
enum { TCP_FIN = 1, TCP_PSH = 8, TCP_CWR = 0x80 };
enum { UDP_BYTES = 8, UDP_LEN = 4, UDP_SUM = 6 };

static uint16_t net_load_be16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static void net_store_be16(uint8_t *p, size_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static uint32_t net_load_be32(const uint8_t *p)
{
    return (uint32_t)net_load_be16(p) << 16 | net_load_be16(p + 2);
}

static void net_store_be32(uint8_t *p, uint32_t v)
{
    net_store_be16(p, v >> 16);
    net_store_be16(p + 2, v & 0xffff);
}

/* ---- finding headers ---- */

/* The type of what stands behind the VLAN tags, and where that is; 0: not all there. */
static uint16_t net_ethertype(const uint8_t *frame, size_t head_len, size_t *ret_l3)
{
    size_t at = NET_HEADER;
    uint16_t type;

    if (head_len < at)
        return 0;
    type = net_load_be16(frame + at - 2);
    for (unsigned i = 0; i < NET_VLANS_MAX && (type == ETH_VLAN || type == ETH_QINQ); i++) {
        at += 4;
        if (head_len < at)
            return 0;
        type = net_load_be16(frame + at - 2);
    }
    *ret_l3 = at;
    return type;
}

/* Walk the extension headers behind the IPv6 header at l3. Fragments and unknown headers end it with false. */
static bool net_find_ipv6(const uint8_t *frame, size_t head_len, struct net_layers *l)
{
    size_t at = l->l3 + IPV6_BYTES;
    uint8_t next;

    if (head_len < at || frame[l->l3] >> 4 != 6)
        return false;
    next = frame[l->l3 + IPV6_NEXT];
    for (unsigned i = 0; next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS; i++) {
        if (i == NET_EXTENSIONS_MAX || head_len < at + 8)
            return false;
        next = frame[at];
        at += (size_t)(frame[at + 1] + 1) * 8;
    }
    l->ipv6 = true;
    l->proto = next;
    l->l4 = at;
    return true;
}

static bool net_find_ipv4(const uint8_t *frame, size_t head_len, struct net_layers *l)
{
    const uint8_t *ip = frame + l->l3;
    size_t len;

    if (head_len < l->l3 + IPV4_MIN || ip[0] >> 4 != 4)
        return false;
    len = (size_t)(ip[0] & 15) * 4;
    if (len < IPV4_MIN || net_load_be16(ip + IPV4_FRAG) & 0x3fff) /* more fragments, or not the first */
        return false;
    l->ipv6 = false;
    l->proto = ip[IPV4_PROTO];
    l->l4 = l->l3 + len;
    return true;
}

bool net_layers_find(const uint8_t *frame, size_t head_len, struct net_layers *ret_layers)
{
    struct net_layers l = { 0 };
    uint16_t type = net_ethertype(frame, head_len, &l.l3);
    size_t len;

    if (type == ETH_IPV4 ? !net_find_ipv4(frame, head_len, &l)
                         : type != ETH_IPV6 || !net_find_ipv6(frame, head_len, &l))
        return false;
    if (l.proto == IPPROTO_UDP) {
        len = UDP_BYTES;
    } else if (l.proto == IPPROTO_TCP && head_len >= l.l4 + TCP_MIN) {
        len = (size_t)(frame[l.l4 + TCP_DOFF] >> 4) * 4;
        if (len < TCP_MIN)
            return false;
    } else {
        return false;
    }
    l.payload = l.l4 + len;
    if (head_len < l.payload)
        return false;
    *ret_layers = l;
    return true;
}

/* ---- checking ---- */

unsigned net_hdr_needs(const struct net_hdr *hdr)
{
    unsigned needs = hdr->flags & NET_HDR_NEEDS_CSUM ? NET_OFF_CSUM : 0;

    switch (hdr->gso_type & ~NET_GSO_ECN) {
    case NET_GSO_TCPV4:
        needs |= NET_OFF_TSO4;
        break;
    case NET_GSO_TCPV6:
        needs |= NET_OFF_TSO6;
        break;
    case NET_GSO_UDP_L4:
        needs |= NET_OFF_USO;
        break;
    default:
        break;
    }
    return needs | (hdr->gso_type & NET_GSO_ECN ? NET_OFF_ECN : 0);
}

/* Whether the headers are those that the kind of segmentation is for, and the checksum is theirs. */
static bool net_gso_fits(const struct net_hdr *hdr, const struct net_layers *l, size_t len)
{
    bool udp = hdr->gso_type == NET_GSO_UDP_L4;

    if (l->proto != (udp ? IPPROTO_UDP : IPPROTO_TCP) || (!udp && l->ipv6 != ((hdr->gso_type & 0x7f) == NET_GSO_TCPV6)))
        return false;
    return hdr->csum_start == l->l4 && hdr->csum_offset == (udp ? UDP_SUM : TCP_SUM) && l->payload < len &&
           (len - l->payload - 1) / hdr->gso_size < NET_SEGMENTS_MAX;
}

static bool net_gso_check(const struct net_hdr *hdr, const uint8_t *frame, size_t head_len, size_t len)
{
    struct net_layers l;

    switch (hdr->gso_type) {
    case NET_GSO_TCPV4:
    case NET_GSO_TCPV6:
    case NET_GSO_TCPV4 | NET_GSO_ECN:
    case NET_GSO_TCPV6 | NET_GSO_ECN:
    case NET_GSO_UDP_L4:
        break;
    default:
        return false;
    }
    return hdr->flags & NET_HDR_NEEDS_CSUM && hdr->gso_size > 0 && net_layers_find(frame, head_len, &l) &&
           net_gso_fits(hdr, &l, len);
}

bool net_hdr_check(const struct net_hdr *hdr, const uint8_t *frame, size_t head_len, size_t len)
{
    if (hdr->flags & ~(NET_HDR_NEEDS_CSUM | NET_HDR_DATA_VALID) || hdr->hdr_len > len)
        return false;
    if (hdr->flags & NET_HDR_NEEDS_CSUM) {
        size_t first = NET_HEADER;
        uint16_t type = net_ethertype(frame, head_len, &first);

        /* Behind the addresses: what a filter has seen there must not be summed over afterwards. */
        if (type == ETH_IPV6)
            first += IPV6_BYTES;
        else if (type == ETH_IPV4)
            first += head_len > first ? (size_t)(frame[first] & 15) * 4 : IPV4_MIN;
        if (type == 0 || hdr->csum_start < first || (size_t)hdr->csum_start + hdr->csum_offset + 2 > len)
            return false;
    }
    return hdr->gso_type == NET_GSO_NONE || net_gso_check(hdr, frame, head_len, len);
}

/* ---- checksums ---- */

/* As it is stored: zero would mean "no checksum" in UDP, and all ones is the same number. */
static void net_store_sum(uint8_t *to, uint16_t sum)
{
    sum = (uint16_t)~sum;
    store_le16(to, sum ? sum : 0xffff);
}

void net_offload_checksum(const struct net_hdr *hdr, uint8_t *frame, size_t len)
{
    /* The sum of the pseudo header stands where the checksum goes. */
    if (hdr->flags & NET_HDR_NEEDS_CSUM)
        net_store_sum(frame + hdr->csum_start + hdr->csum_offset,
                      inet_sum(frame + hdr->csum_start, len - hdr->csum_start, 0));
}

/* The sum of the pseudo header for len bytes of TCP or UDP. */
static uint16_t net_pseudo_sum(const uint8_t *frame, const struct net_layers *l, size_t len)
{
    const uint8_t *ip = frame + l->l3;
    uint16_t sum = l->ipv6 ? inet_sum(ip + IPV6_SRC, 32, 0) : inet_sum(ip + IPV4_SRC, 8, 0);

    return inet_sum_add(inet_sum_add(sum, htons(l->proto)), htons((uint16_t)len));
}

/* ---- segmentation ---- */

struct net_cut {
    struct net_layers l;
    const struct net_hdr *hdr;
    unsigned allowed;
    uint8_t *out; /* room for the headers and gso_size bytes of payload */
};

static void net_cut_ip(uint8_t *out, const struct net_layers *l, unsigned index, size_t len)
{
    uint8_t *ip = out + l->l3;

    if (l->ipv6) {
        net_store_be16(ip + IPV6_LEN, len - l->l3 - IPV6_BYTES);
        return;
    }
    net_store_be16(ip + IPV4_LEN, len - l->l3);
    net_store_be16(ip + IPV4_ID, (net_load_be16(ip + IPV4_ID) + index) & 0xffff);
    store_le16(ip + IPV4_SUM, 0);
    store_le16(ip + IPV4_SUM, (uint16_t)~inet_sum(ip, l->l4 - l->l3, 0));
}

static void net_cut_tcp(uint8_t *tcp, uint32_t offset, bool last)
{
    net_store_be32(tcp + TCP_SEQ, net_load_be32(tcp + TCP_SEQ) + offset);
    if (!last)
        tcp[TCP_FLAGS] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
    if (offset > 0) /* the answer to ECN is given once */
        tcp[TCP_FLAGS] &= (uint8_t)~TCP_CWR;
}

bool net_offload_whole(const struct net_hdr *hdr, uint8_t *frame, size_t len)
{
    struct net_layers l;

    if (hdr->gso_type != NET_GSO_NONE) {
        if (!net_layers_find(frame, len, &l) || !net_gso_fits(hdr, &l, len) || l.proto != IPPROTO_TCP)
            return false;
        net_cut_ip(frame, &l, 0, len);
        store_le16(frame + l.l4 + TCP_SUM, net_pseudo_sum(frame, &l, len - l.l4));
    }
    net_offload_checksum(hdr, frame, len);
    return true;
}

/* Make segment number index, of part bytes of payload from offset. Returns its length. */
static size_t net_cut_one(struct net_cut *c, const uint8_t *frame, unsigned index, size_t offset, size_t part,
                          bool last, struct net_hdr *ret_hdr)
{
    const struct net_layers *l = &c->l;
    const bool udp = l->proto == IPPROTO_UDP;
    size_t len = l->payload + part;
    uint8_t *out = c->out, *l4 = out + l->l4, *sum_at = l4 + (udp ? UDP_SUM : TCP_SUM);

    memcpy(out, frame, l->payload);
    memcpy(out + l->payload, frame + l->payload + offset, part);
    net_cut_ip(out, l, index, len);
    if (udp)
        net_store_be16(l4 + UDP_LEN, len - l->l4);
    else
        net_cut_tcp(l4, (uint32_t)offset, last);
    store_le16(sum_at, net_pseudo_sum(out, l, len - l->l4));
    *ret_hdr = (struct net_hdr){ .flags = NET_HDR_NEEDS_CSUM,
                                 .csum_start = (uint16_t)l->l4,
                                 .csum_offset = udp ? UDP_SUM : TCP_SUM };
    if (!(c->allowed & NET_OFF_CSUM)) {
        net_offload_checksum(ret_hdr, out, len);
        *ret_hdr = (struct net_hdr){ 0 };
    }
    return len;
}

static int net_finish_gso(const struct net_hdr *hdr, const uint8_t *frame, size_t len, unsigned allowed,
                          void (*emit)(void *opaque, const struct net_hdr *hdr, const uint8_t *frame, size_t len),
                          void *opaque)
{
    struct net_cut c = { .hdr = hdr, .allowed = allowed };
    struct net_hdr out_hdr;
    size_t total, offset = 0;
    unsigned index = 0;

    if (!net_layers_find(frame, len, &c.l) || !net_gso_fits(hdr, &c.l, len))
        return -EINVAL;
    total = len - c.l.payload;
    c.out = malloc(c.l.payload + MIN(total, (size_t)hdr->gso_size));
    if (!c.out)
        return -ENOMEM;
    while (offset < total) {
        size_t part = MIN(total - offset, (size_t)hdr->gso_size);
        size_t out_len = net_cut_one(&c, frame, index++, offset, part, offset + part == total, &out_hdr);

        emit(opaque, &out_hdr, c.out, out_len);
        offset += part;
    }
    free(c.out);
    return 0;
}

int net_offload_finish(const struct net_hdr *hdr, const uint8_t *frame, size_t len, unsigned allowed,
                       void (*emit)(void *opaque, const struct net_hdr *hdr, const uint8_t *frame, size_t len),
                       void *opaque)
{
    struct net_hdr plain = { 0 };
    uint8_t *copy;

    if (!(net_hdr_needs(hdr) & ~allowed)) {
        emit(opaque, hdr, frame, len);
        return 0;
    }
    if (hdr->gso_type != NET_GSO_NONE)
        return net_finish_gso(hdr, frame, len, allowed, emit, opaque);
    copy = malloc(len);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, frame, len);
    net_offload_checksum(hdr, copy, len);
    emit(opaque, &plain, copy, len);
    free(copy);
    return 0;
}
