/* Writer of capture files in the pcap format that tcpdump and Wireshark read (nanoseconds, link type Ethernet). */
#ifndef NET_PCAP_H
#define NET_PCAP_H

#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/cleanup.h"

struct net_hdr;
struct net_pcap;

/* Most bytes of a frame that are kept, whole frames fit. */
#define NET_PCAP_SNAP 262144

/* Start a capture on fd, a regular file or a pipe open for writing, which is owned from success on. max_bytes: the file
 * ends before it grows beyond that; 0: no limit. -ENOMEM, or the errno of writing the file header. */
int net_pcap_new(int fd, uint64_t max_bytes, struct net_pcap **ret_pcap) MUST_USE;
/* Flushes what is buffered, closes fd. NULL accepted. */
void net_pcap_free(struct net_pcap *p);
DEFINE_AUTO(net_pcap, struct net_pcap, net_pcap_free)

/* Add a frame as it would look on a wire: what hdr leaves to others is done first, so one frame may become several
 * records. hdr was checked. Buffered. -EFBIG: max_bytes reached; -ENOSPC, -EPIPE, -EAGAIN (a pipe that nobody empties),
 * ...: the capture is over; all later calls return the same. */
int net_pcap_write(struct net_pcap *p, const struct net_hdr *hdr, const uint8_t *frame, size_t len) MUST_USE;
/* Write out what is buffered. Errors as above. */
int net_pcap_flush(struct net_pcap *p) MUST_USE;
/* Records so far. */
uint64_t net_pcap_records(const struct net_pcap *p);

#endif
