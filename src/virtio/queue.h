/* Virtqueues, device side: split and packed rings with indirect descriptors and event indices.
 *
 * A queue is checked once, by virtq_init: sizes, alignment, and that every ring lies wholly in RAM. From then on host
 * pointers are used. Descriptors are copied out of guest memory once, then checked, and only the copy is used; every
 * walk is bounded by the queue size (or VIRTQ_INDIRECT_MAX), so that a hostile driver can break its own queue and
 * nothing else. A ring that cannot be understood makes the queue broken: it gives no more chains and accepts
 * completions silently.
 *
 * Thread: one thread at a time, the loop thread in practice. Must not know transports or devices.
 * Spec: virtio 1.2 sections 2.6 to 2.8. */
#ifndef VIRTIO_QUEUE_H
#define VIRTIO_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/attr.h"
#include "base/cleanup.h"
#include "mem/guest.h"

#define VIRTQ_SIZE_MAX 32768
/* Most descriptors in one indirect table, and most segments of any chain. */
#define VIRTQ_INDIRECT_MAX 1024

struct buf;
struct unpack;

struct virtq_config {
    uint16_t size;                    /* split: a power of two; 1..VIRTQ_SIZE_MAX */
    bool packed, event_idx, indirect; /* as negotiated */
    struct gpa desc, driver, device;  /* descriptor table / ring, driver area, device area */
};

struct virtq {
    struct mem *mem;
    struct virtq_config cfg;
    bool ready, broken;
    uint8_t *desc, *driver, *device; /* host addresses of the three areas */
    uint16_t next_avail;             /* split: free-running index; packed: slot */
    uint16_t next_used;              /* likewise */
    bool avail_wrap, used_wrap;      /* packed only */
    uint32_t unsignalled;            /* used entries (packed: slots) since the driver was last interrupted */
};

/* One contiguous piece of a chain as the guest sees it; pairs with the iovec of the same index. */
struct virtq_seg {
    struct gpa gpa;
    uint32_t len;
};

/* A descriptor chain: first n_out pieces that the device may only read, then n_in pieces that it may only write. The
 * iovecs may be consumed by whoever serves the request; the segments stay. Pieces have a length > 0 and lie in RAM. */
struct virtq_chain {
    uint16_t id;      /* split: head index; packed: buffer id */
    uint16_t n_slots; /* ring slots that it occupies */
    unsigned cap;
    unsigned n_out, n_in;
    uint32_t out_len, in_len; /* bytes; their sum is below 4 GiB */
    struct iovec *iov;
    struct virtq_seg *seg;
};

/* cap: most pieces, 1..VIRTQ_INDIRECT_MAX. -ENOMEM. A longer chain breaks the queue that offers it. */
int virtq_chain_new(unsigned cap, struct virtq_chain **ret_chain) MUST_USE;
void virtq_chain_free(struct virtq_chain *c); /* NULL accepted */
DEFINE_AUTO(virtq_chain, struct virtq_chain, virtq_chain_free)

/* Copy up to len bytes from offset off of the device-readable part to dst, or from src to the device-writable part.
 * Return the bytes copied, fewer than len only at the end of the part. Only while the iovecs are unchanged. */
size_t virtq_chain_read(const struct virtq_chain *c, size_t off, void *dst, size_t len);
size_t virtq_chain_write(struct virtq_chain *c, size_t off, const void *src, size_t len);

/* Start to use a queue. m is borrowed until virtq_done. -EINVAL: size or alignment; -EFAULT: an area is not in RAM; the
 * queue is then not ready. */
int virtq_init(struct virtq *q, struct mem *m, const struct virtq_config *config) MUST_USE;
/* Forget the rings; no guest memory is touched through q from here on. */
void virtq_done(struct virtq *q);

/* Take the next available chain. 1: chain is filled; 0: none (or q not ready or broken already); -EFAULT: the ring
 * makes no sense, q is broken from now on and the caller reports that to the driver (NEEDS_RESET). */
int virtq_pop(struct virtq *q, struct virtq_chain *chain) MUST_USE;
/* Give back the chain popped last (of those not yet given back), so that the next virtq_pop returns it again. */
void virtq_unpop(struct virtq *q, const struct virtq_chain *chain);

/* Append a chain that the device has not given back, and read one into c (device state that was saved with the queue,
 * which is ready again). A chain that makes no sense is refused in in. */
void virtq_chain_save(const struct virtq_chain *c, struct buf *b);
void virtq_chain_restore(struct virtq *q, struct virtq_chain *c, struct unpack *in);

/* Return a chain to the driver; len: bytes written from the start of its device-writable part (these are marked as
 * written here, the ring too). Chains may be returned in any order. */
void virtq_push(struct virtq *q, const struct virtq_chain *chain, uint32_t len);
/* The same for n chains that the driver must see at once (network receive buffers that make up one packet). */
void virtq_push_many(struct virtq *q, struct virtq_chain *const *chains, const uint32_t *lens, unsigned n);

/* Whether the driver wants an interrupt for what was pushed since the last call. */
bool virtq_should_interrupt(struct virtq *q);

/* Ask the driver not to notify while the device is polling anyway (a hint), or to notify again. virtq_enable_notify
 * returns true where chains have become available meanwhile, which the driver may not announce any more. */
void virtq_disable_notify(struct virtq *q);
bool virtq_enable_notify(struct virtq *q) MUST_USE;

#endif
