/* A map of the granules of a disk, in memory: which have changed, or which are still to be copied. Not thread-safe. */
#ifndef BLOCK_DIRTY_H
#define BLOCK_DIRTY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/cleanup.h"

struct blk_dirty;

/* All clear. size: bytes of the disk; granularity: a power of two. -ENOMEM; -EFBIG: more than 2^36 granules. */
int blk_dirty_new(uint64_t size, uint32_t granularity, struct blk_dirty **ret_dirty) MUST_USE;
/* NULL accepted. */
void blk_dirty_free(struct blk_dirty *d);
DEFINE_AUTO(blk_dirty, struct blk_dirty, blk_dirty_free)

/* Ranges in bytes; what lies beyond the disk is left away. set and clear: every granule that they touch. */
void blk_dirty_set(struct blk_dirty *d, uint64_t off, uint64_t len);
void blk_dirty_clear(struct blk_dirty *d, uint64_t off, uint64_t len);
/* First byte in a granule that is set, within off..off+len: true, and how many bytes from there on are, cut at max, at
 * off+len and at the end of the disk. */
bool blk_dirty_next(const struct blk_dirty *d, uint64_t off, uint64_t len, uint64_t max, uint64_t *ret_off,
                    uint64_t *ret_len);
/* Bytes in granules that are set, each counted whole. */
uint64_t blk_dirty_bytes(const struct blk_dirty *d);

#endif
