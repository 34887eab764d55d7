/* Ethernet, ARP, IPv4, IPv6, UDP and ICMP headers of the packets that the network services take part in: whole packets
 * without VLAN tags, fragments and IPv6 extension headers; everything else is somebody else's. Pure; any thread. IPv4
 * addresses are numbers in host order, IPv6 addresses the 16 bytes of the wire (wire/addr.h).
 * Spec: RFC 826 (ARP), RFC 791 (IPv4), RFC 8200 (IPv6), RFC 768 (UDP), RFC 792 and RFC 4443 (ICMP) */
#ifndef WIRE_INET_H
#define WIRE_INET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"

enum { INET_TYPE_IP4 = 0x0800, INET_TYPE_ARP = 0x0806, INET_TYPE_IP6 = 0x86dd };
enum { INET_PROTO_ICMP = 1, INET_PROTO_UDP = 17, INET_PROTO_ICMP6 = 58 };
enum { INET_ARP_REQUEST = 1, INET_ARP_REPLY = 2 };

#define INET_ETH_HEADER 14
#define INET_ARP_FRAME 42
/* Bytes of frame in front of what a UDP datagram carries, for IPv6, the longer one. */
#define INET_UDP6_HEADERS (INET_ETH_HEADER + 40 + 8)

union inet_addr {
    uint32_t ip4;
    uint8_t ip6[16];
};

/* Addresses of a packet. */
struct inet_flow {
    uint8_t src_mac[6], dst_mac[6];
    bool is6;
    union inet_addr src, dst;
    uint8_t hop_limit;
};

struct inet_packet {
    struct inet_flow flow;
    uint8_t proto;       /* INET_PROTO_* and others */
    const uint8_t *data; /* behind the IP header; points into the frame */
    size_t len;
};

struct inet_arp {
    uint16_t op;
    uint8_t sender_mac[6], target_mac[6];
    uint32_t sender_ip, target_ip;
};

struct inet_udp {
    uint16_t src_port, dst_port;
    const uint8_t *data; /* points into the frame */
    size_t len;
};

/* Take an IPv4 or IPv6 packet apart; IPv4's header checksum is checked. -EBADMSG: malformed; -EPROTONOSUPPORT: neither,
 * or a fragment. */
int inet_packet_parse(const uint8_t *frame, size_t len, struct inet_packet *ret_packet) MUST_USE;
/* The UDP datagram in a packet. sum_good: its checksum is known to be right or was left to the receiver. -EBADMSG. */
int inet_udp_parse(const struct inet_packet *p, bool sum_good, struct inet_udp *ret_udp) MUST_USE;
/* Whether the checksum of an ICMP or ICMPv6 message is right; false where it has not even room for one. */
bool inet_icmp_sum_ok(const struct inet_packet *p);
/* An Ethernet ARP packet about IPv4. -EBADMSG: malformed; -EPROTONOSUPPORT: something else. */
int inet_arp_parse(const uint8_t *frame, size_t len, struct inet_arp *ret_arp) MUST_USE;

/* Frames to send, all checksums filled. The first returns INET_ARP_FRAME. out of the others: cap bytes; they return the
 * length of the frame, 0 where it does not fit. data may not lie in out. */
size_t inet_arp_build(const uint8_t dst_mac[6], const struct inet_arp *arp, uint8_t out[INET_ARP_FRAME]);
size_t inet_udp_build(const struct inet_flow *flow, uint16_t src_port, uint16_t dst_port, const void *data, size_t len,
                      uint8_t *out, size_t cap);
/* data: an ICMP or, as flow says, ICMPv6 message of at least 4 bytes, whose checksum is filled in. */
size_t inet_icmp_build(const struct inet_flow *flow, const void *data, size_t len, uint8_t *out, size_t cap);

/* Turn a flow round, for an answer; the sources become the given ones. hop_limit: 64 or, for ND, 255. */
struct inet_flow inet_flow_answer(const struct inet_flow *f, const uint8_t mac[6], uint8_t hop_limit);

/* Link-local, fe80::/10. */
bool inet_ip6_is_link_local(const uint8_t addr[16]);
bool inet_ip6_is_multicast(const uint8_t addr[16]);
bool inet_ip6_is_unspecified(const uint8_t addr[16]);
/* The Ethernet address of a multicast group. Spec: RFC 2464 section 7 */
void inet_ip6_multicast_mac(const uint8_t addr[16], uint8_t ret_mac[6]);

#endif
