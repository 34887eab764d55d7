/* Saved state as bytes: fields in a fixed order, little-endian, of fixed width. The writer appends to a struct buf,
 * whose first error sticks; the reader's first error sticks too, so that a whole structure is read and checked once at
 * the end. A reader takes bytes of a stranger: every length is checked against what is left, and what is read is a
 * copy. It must not know what the fields mean; framing, versions and check sums are the user's
 * (docs/snapshot-format.md). */
#ifndef BASE_PACK_H
#define BASE_PACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/buf.h"

void pack_u8(struct buf *b, uint8_t value);
void pack_u16(struct buf *b, uint16_t value);
void pack_u32(struct buf *b, uint32_t value);
void pack_u64(struct buf *b, uint64_t value);
void pack_bool(struct buf *b, bool value);
/* len bytes as they are, without their length. */
void pack_bytes(struct buf *b, const void *data, size_t len);
/* A 32-bit length and the bytes behind it. */
void pack_blob(struct buf *b, const void *data, uint32_t len);
void pack_text(struct buf *b, const char *text); /* a blob without its terminator; NULL as "" */

struct unpack {
    const uint8_t *data;
    size_t len, at;
    int error; /* 0, or -EBADMSG: it ended early, or a field was out of its range */
};

/* data is borrowed as long as u is used. */
void unpack_init(struct unpack *u, const void *data, size_t len);
/* All return 0 (false) once there is an error. */
uint8_t unpack_u8(struct unpack *u);
uint16_t unpack_u16(struct unpack *u);
uint32_t unpack_u32(struct unpack *u);
uint64_t unpack_u64(struct unpack *u);
bool unpack_bool(struct unpack *u); /* any byte but 0 and 1 is an error */
/* A value above max is an error, and 0 is returned. */
uint32_t unpack_max(struct unpack *u, uint32_t max);
/* Exactly len bytes into data; zeroes on error. */
void unpack_bytes(struct unpack *u, void *data, size_t len);
/* A blob, borrowed from the reader's data: *ret_len bytes, at most max; NULL on error (and for none). */
const uint8_t *unpack_blob(struct unpack *u, uint32_t max, uint32_t *ret_len);
/* Set the error where a field makes no sense to its user. */
void unpack_refuse(struct unpack *u);
/* The error, or -EBADMSG where something is left over. */
int unpack_end(const struct unpack *u) MUST_USE;

#endif
