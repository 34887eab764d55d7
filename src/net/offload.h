/* What a network card does for its driver, in software: checksums and segmentation. Frames are private memory here, but
 * their content is hostile. Must not know back ends' insides. Spec: virtio 1.2 sections 5.1.6.2 and 5.1.6.4. */
#ifndef NET_OFFLOAD_H
#define NET_OFFLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "net/backend.h"

/* Bytes from the start of a frame in which net_hdr_check finds all that it looks at. */
#define NET_HEAD_BYTES 256
/* Most segments into which one frame is cut. */
#define NET_SEGMENTS_MAX 2048

/* Where the headers of a frame are, as offsets from its start. */
struct net_layers {
    size_t l3, l4;  /* IP header; TCP or UDP header */
    size_t payload; /* behind the TCP or UDP header */
    bool ipv6;
    uint8_t proto; /* IPPROTO_TCP or IPPROTO_UDP */
};

/* Find the headers of a TCP or UDP packet, not fragmented, behind up to two VLAN tags and (IPv6) up to eight extension
 * headers, of which head_len bytes can be seen. False: something else, or not all there. */
bool net_layers_find(const uint8_t *frame, size_t head_len, struct net_layers *ret_layers) MUST_USE;

/* Whether hdr makes sense for a frame of len bytes of which the first head_len (MIN(len, NET_HEAD_BYTES) or more) are
 * at frame: its numbers lie inside the frame, the segmentation is one that net_offload_finish can do and is of at most
 * NET_SEGMENTS_MAX parts. Later readers must not rely on the content of frame where that is not private memory. */
bool net_hdr_check(const struct net_hdr *hdr, const uint8_t *frame, size_t head_len, size_t len) MUST_USE;

/* NET_OFF_* that hdr needs the other side to do. */
unsigned net_hdr_needs(const struct net_hdr *hdr);

/* Do what NET_HDR_NEEDS_CSUM asks for, in place. hdr was checked (net_hdr_check). */
void net_offload_checksum(const struct net_hdr *hdr, uint8_t *frame, size_t len);

/* Finish a frame in place without cutting it, for one who takes TCP of any length: what a GSO frame of TCP asks for
 * becomes one long packet. hdr was checked (net_hdr_check). False: no such frame. */
bool net_offload_whole(const struct net_hdr *hdr, uint8_t *frame, size_t len) MUST_USE;

/* Finish a frame in software as far as the next one needs it, who accepts `allowed` (NET_OFF_*): fill the checksum, and
 * cut a GSO frame into segments of gso_size (IPv4 and IPv6 TCP, UDP; IDs, sequence numbers, flags, lengths and
 * checksums right). Calls emit for each, with memory valid during the call. hdr was checked (net_hdr_check). 0;
 * -EINVAL: no such frame (nothing emitted); -ENOMEM. */
int net_offload_finish(const struct net_hdr *hdr, const uint8_t *frame, size_t len, unsigned allowed,
                       void (*emit)(void *opaque, const struct net_hdr *hdr, const uint8_t *frame, size_t len),
                       void *opaque) MUST_USE;

#endif
