/* Where frames go and come from: whole Ethernet frames without FCS, with what one end left to the other (checksums,
 * segmentation) described as in struct virtio_net_hdr. User-mode network, tap and the ring to the switch process are
 * back ends; so is each port inside the switch. Everything happens on the loop thread. Must not know devices or guests.
 */
#ifndef NET_BACKEND_H
#define NET_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/attr.h"
#include "base/cleanup.h"

#define NET_HEADER 14
#define NET_MTU_MAX 65521
/* Longest frame in either direction: header, a VLAN tag, payload. */
#define NET_FRAME_MAX (NET_HEADER + 4 + NET_MTU_MAX)
/* Most pieces of a frame in net_backend_send. */
#define NET_IOV_MAX 64

/* The first ten bytes of struct virtio_net_hdr (virtio 1.2 section 5.1.6), host order. All zero: a plain frame whose
 * checksums are right. */
struct net_hdr {
    uint8_t flags;                    /* NET_HDR_* */
    uint8_t gso_type;                 /* NET_GSO_* */
    uint16_t hdr_len;                 /* all headers of a GSO frame, bytes; a hint only */
    uint16_t gso_size;                /* payload of each segment, bytes */
    uint16_t csum_start, csum_offset; /* NEEDS_CSUM: sum from csum_start to the end, put it csum_offset behind that */
};

enum { NET_HDR_NEEDS_CSUM = 1, NET_HDR_DATA_VALID = 2 };
enum { NET_GSO_NONE = 0, NET_GSO_TCPV4 = 1, NET_GSO_TCPV6 = 4, NET_GSO_UDP_L4 = 5, NET_GSO_ECN = 0x80 };
/* What one side accepts from the other instead of finished frames. Segmentation is of no use without NET_OFF_CSUM. */
enum { NET_OFF_CSUM = 1, NET_OFF_TSO4 = 2, NET_OFF_TSO6 = 4, NET_OFF_ECN = 8, NET_OFF_USO = 16 };

struct net_backend;

/* Not to be called directly: the functions below add the checks. */
struct net_backend_ops {
    const char *name;
    /* Take a frame of len NET_HEADER..NET_FRAME_MAX bytes in n_iov (1..NET_IOV_MAX) pieces, copied before the call
     * returns. The pieces may be guest memory that changes meanwhile: who looks into a frame copies it first. hdr was
     * checked (net_hdr_check) and asks for nothing outside b->offloads. false: no room now; offer it again after
     * receiver.send_ready. true: taken, or lost where there is no way to send it. May call the receiver's receive, but
     * not its send_ready. */
    bool (*send)(struct net_backend *b, const struct net_hdr *hdr, const struct iovec *iov, unsigned n_iov, size_t len);
    /* A batch of frames is over: ring doorbells now. */
    void (*send_done)(struct net_backend *b);
    /* The receiver, which had no room, has room again. */
    void (*receive_ready)(struct net_backend *b);
    /* What the receiver takes from now on (NET_OFF_*); NULL: the back end never delivers offloaded frames anyway. */
    void (*set_receive_offloads)(struct net_backend *b, unsigned offloads);
    void (*close)(struct net_backend *b);
};

/* The other end, set by net_backend_connect. */
struct net_receiver {
    /* frame: NET_HEADER..NET_FRAME_MAX bytes of private memory. hdr was checked and asks for nothing outside what
     * net_backend_set_receive_offloads allowed. false: no room now, offer it again after receive_ready; true: taken (or
     * of no use). */
    bool (*receive)(void *opaque, const struct net_hdr *hdr, const uint8_t *frame, size_t len);
    void (*receive_done)(void *opaque); /* a batch is over: interrupt now. NULL: not interested */
    void (*send_ready)(void *opaque);   /* there is room after send returned false. NULL: not interested */
    void *opaque;
};

/* First member of each back end, whose maker fills ops, mtu, offloads and checksums_good. */
struct net_backend {
    const struct net_backend_ops *ops;
    struct net_receiver receiver; /* receive == NULL: frames are dropped */
    uint16_t mtu;                 /* constant */
    unsigned offloads;            /* NET_OFF_* that ops.send takes */
    bool checksums_good;          /* frames to the receiver have right checksums: they never crossed a wire */
    unsigned receive_offloads;    /* NET_OFF_* that the receiver takes; kept by net_backend_set_receive_offloads */
    uint8_t *bounce;              /* private to backend.c: a frame while it is finished in software; freed by close */
};

/* ---- for the side in front of the back end (device, switch) ---- */

/* receiver is copied; NULL: disconnect. The receiver takes no offloads at first. */
void net_backend_connect(struct net_backend *b, const struct net_receiver *receiver);
void net_backend_set_receive_offloads(struct net_backend *b, unsigned offloads);
/* Send a frame; contract as in net_backend_ops.send, but that what hdr asks for beyond b->offloads is done here in
 * software, and that frames of an impossible length or header are taken and dropped. Of a frame that is cut into
 * segments, those that find no room behind the first are lost. */
bool net_backend_send(struct net_backend *b, const struct net_hdr *hdr, const struct iovec *iov, unsigned n_iov,
                      size_t len) MUST_USE;
void net_backend_send_done(struct net_backend *b);
void net_backend_receive_ready(struct net_backend *b);
void net_backend_close(struct net_backend *b); /* NULL accepted */
DEFINE_AUTO(net_backend, struct net_backend, net_backend_close)

/* ---- for back ends ---- */

/* Offer a frame to the receiver; contract as in net_receiver.receive, but that the header is checked here and what it
 * asks for beyond b->receive_offloads is done in software (segments without room behind the first are lost). True
 * without a receiver. */
bool net_backend_deliver(struct net_backend *b, const struct net_hdr *hdr, const uint8_t *frame, size_t len) MUST_USE;
/* Copy the first max bytes of the pieces of a frame (fewer where they end before), e.g. to look into it. Returns their
 * number. */
size_t net_gather(uint8_t *to, const struct iovec *iov, unsigned n_iov, size_t max);
/* After the last net_backend_deliver of a batch. */
void net_backend_deliver_done(struct net_backend *b);
/* There is room again after ops.send returned false. Not from within ops. */
void net_backend_send_ready(struct net_backend *b);

#endif
