/* The layout of the shared memory: one page of positions, then the bytes of both directions. Tests use it to be a
 * hostile peer. */
#ifndef NET_RING_PRIV_H
#define NET_RING_PRIV_H

#include <stdatomic.h>
#include <stdint.h>

#include "base/attr.h"
#include "net/backend.h"

#define NET_RING_PAGE 4096
#define NET_RING_ALIGN 16 /* of records */

/* One direction. Positions count bytes from the beginning and wrap at 2^32; position & (bytes - 1) is the place. Each
 * cache line has one writer. */
struct net_ring_ctl {
    /* Written by the producer. */
    ALIGNED(64) _Atomic uint32_t head; /* up to here records are complete */
    _Atomic uint32_t space_event;      /* ring when tail passes this */
    /* Written by the consumer. */
    ALIGNED(64) _Atomic uint32_t tail;     /* up to here the memory is free again */
    _Atomic uint32_t data_event;           /* ring when head passes this */
    ALIGNED(64) _Atomic uint32_t offloads; /* NET_OFF_* that the consumer takes */
};

/* The first page; indexed by the side that consumes. */
struct net_ring_page {
    struct net_ring_ctl ctl[2];
};
_Static_assert(sizeof(struct net_ring_page) <= NET_RING_PAGE, "positions fit their page");

/* In front of each frame; the next record begins at a multiple of NET_RING_ALIGN. */
struct net_ring_record {
    uint32_t len; /* of the frame: NET_HEADER..NET_FRAME_MAX */
    struct net_hdr hdr;
    uint16_t zero;
};
_Static_assert(sizeof(struct net_ring_record) == NET_RING_ALIGN, "a record's head fills one unit");

/* Bytes that a frame of len takes. */
static inline uint32_t net_ring_need(size_t len)
{
    return (uint32_t)((sizeof(struct net_ring_record) + len + NET_RING_ALIGN - 1) & ~(size_t)(NET_RING_ALIGN - 1));
}

/* Whether a position that moved from old to now has passed event (all modulo 2^32). */
static inline bool net_ring_passed(uint32_t event, uint32_t old, uint32_t now)
{
    return now - event - 1 < now - old;
}

#endif
