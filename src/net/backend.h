/* Where a network device's frames go and come from. Whole Ethernet frames without FCS. Everything happens on the loop
 * thread. Must not know devices or guests. */
#ifndef NET_BACKEND_H
#define NET_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/cleanup.h"

#define NET_HEADER 14
#define NET_MTU_MAX 65521
/* Longest frame in either direction: header, a VLAN tag, payload. */
#define NET_FRAME_MAX (NET_HEADER + 4 + NET_MTU_MAX)

struct net_backend;

struct net_backend_ops {
    const char *name;
    /* Take a frame, len NET_HEADER..NET_FRAME_MAX; it is lost where there is no way to send it. May call the receiver.
     */
    void (*send)(struct net_backend *b, const uint8_t *frame, size_t len);
    /* A batch of frames is over. */
    void (*send_done)(struct net_backend *b);
    /* The receiver, which had no room, has room again. */
    void (*receive_ready)(struct net_backend *b);
    void (*close)(struct net_backend *b);
};

/* The device end, set by net_backend_connect. */
struct net_receiver {
    /* false: no room now, offer the frame again after receive_ready; true: taken (or of no use). */
    bool (*receive)(void *opaque, const uint8_t *frame, size_t len);
    void *opaque;
};

/* First member of each back end. */
struct net_backend {
    const struct net_backend_ops *ops;
    struct net_receiver receiver; /* receive == NULL: frames are dropped */
    uint16_t mtu;                 /* constant */
    bool checksums_good;          /* frames to the receiver have right checksums: they never crossed a wire */
};

/* receiver is copied; NULL: disconnect. */
void net_backend_connect(struct net_backend *b, const struct net_receiver *receiver);
void net_backend_send(struct net_backend *b, const uint8_t *frame, size_t len);
void net_backend_send_done(struct net_backend *b);
void net_backend_receive_ready(struct net_backend *b);
void net_backend_close(struct net_backend *b); /* NULL accepted */
DEFINE_AUTO(net_backend, struct net_backend, net_backend_close)

#endif
