/* Transfers that go by whole blocks through a buffer: for devices that take nothing else, and for data that is
 * encrypted on the way. A write reads the rest of its first and last block first. */
#ifndef BLOCK_ALIGN_H
#define BLOCK_ALIGN_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/attr.h"

struct blk_align {
    uint32_t align; /* bytes, a power of two, of offset and length; of memory too, at most 4096 is needed there */
    /* Aligned memory, offset and length, all of it or -errno. A write may change data. */
    int (*flat)(void *opaque, bool write, uint64_t off, uint8_t *data, uint64_t len);
    void *opaque;
};

/* Any range; skip: bytes of the iovecs before it. Writes that run on the same block at a time must not be, where a
 * range is not aligned: the caller holds a lock. -ENOMEM; errors of flat. */
int blk_align_bounce(const struct blk_align *a, bool write, uint64_t off, const struct iovec *iov, unsigned n_iov,
                     uint64_t skip, uint64_t len) MUST_USE;

#endif
