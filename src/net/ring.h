/* Two rings of frames, one for each direction, in memory shared by two processes: caisson-switch and a VM's. Both ends
 * are net_backends of the same kind.
 *
 * Neither end trusts the other. What the memory says is read once and checked: positions, lengths, headers; a frame is
 * copied before it is looked at. A peer that breaks the rules loses its ring, nothing else. The file's size is sealed,
 * so that nobody can take the memory away. Each doorbell is a pipe of which one end holds the reading, the other the
 * writing half: unlike an eventfd they share no O_NONBLOCK, with which the peer could let a write block. A closed pipe
 * means that the peer is gone.
 *
 * Doorbells are rung only for a peer that sleeps: each side says up to which position it knows (event index). SIGPIPE
 * must be ignored. Must not know VMs and switches. */
#ifndef NET_RING_H
#define NET_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"

struct loop;
struct net_backend;

/* Bytes of one direction: a power of two. */
#define NET_RING_BYTES_MIN (256U << 10)
#define NET_RING_BYTES_MAX (64U << 20)
#define NET_RING_BYTES (4U << 20) /* most of what one TCP connection has under way fits (tcp_rmem) */

/* One end's descriptors, in this order where they are passed on; close-on-exec at first. */
#define NET_RING_FDS 3
struct net_ring_fds {
    int memory;       /* a memfd, sealed */
    int doorbell_in;  /* reading half of the pipe that the peer rings */
    int doorbell_out; /* writing half of the pipe that rings the peer */
};

enum net_ring_side { NET_RING_SWITCH = 0, NET_RING_VM = 1 };

struct net_ring_config {
    struct net_ring_fds fds;
    enum net_ring_side side;
    uint16_t mtu; /* of the network: 68..NET_MTU_MAX */
    /* The peer is gone or broke the rules: once, from the loop, and the back end may be closed in it. NULL: not
     * interested. From then on frames are dropped. */
    void (*hangup)(void *opaque);
    void *opaque;
};

/* Make memory and pipes for both ends. bytes: of one direction. Any thread. -EINVAL, -ENOMEM, -EMFILE, ... */
int net_ring_create(size_t bytes, struct net_ring_fds *ret_switch, struct net_ring_fds *ret_vm) MUST_USE;
/* Close what is >= 0 and set it to -1. */
void net_ring_fds_close(struct net_ring_fds *fds);

/* Map an end, also one that was mapped before by somebody who is gone (a VM that starts afresh): it goes on where that
 * one stopped. On success the back end owns the descriptors. -EINVAL: size, mtu, kind of a descriptor or positions;
 * -EPERM: the memory is not sealed; -ENOMEM, -EMFILE. */
int net_ring_backend_new(const struct net_ring_config *config, struct loop *l,
                         struct net_backend **ret_backend) MUST_USE;

struct net_ring_counters {
    uint64_t rung; /* times that the peer was woken */
    uint64_t woken;
    bool broken; /* the peer broke the rules */
};
/* Of a back end made by net_ring_backend_new. Loop thread. */
struct net_ring_counters net_ring_get_counters(const struct net_backend *b);

#endif
