/* Bit and alignment arithmetic, and unaligned little-endian access. */
#ifndef BASE_BITS_H
#define BASE_BITS_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/attr.h"

#define BIT(n) (1U << (n))
#define BIT64(n) (1ULL << (n))
/* Bits hi..lo set, 63 >= hi >= lo >= 0. */
#define BITS64(hi, lo) ((~0ULL >> (63 - (hi))) & (~0ULL << (lo)))

static inline uint64_t bits_get(uint64_t v, unsigned hi, unsigned lo)
{
    return (v & BITS64(hi, lo)) >> lo;
}

/* align: a power of two. align_up wraps to 0 past the top: check first where v comes from outside. */
static inline uint64_t align_down(uint64_t v, uint64_t align)
{
    return v & ~(align - 1);
}

static inline uint64_t align_up(uint64_t v, uint64_t align)
{
    return (v + align - 1) & ~(align - 1);
}

static inline bool is_pow2(uint64_t v)
{
    return v != 0 && (v & (v - 1)) == 0;
}

/* Unaligned loads and stores; the hosts and guests of Caisson are little-endian. */
#define DEFINE_LE_ACCESS(bits)                                   \
    static inline uint##bits##_t load_le##bits(const void *p)    \
    {                                                            \
        uint##bits##_t v;                                        \
        memcpy(&v, p, sizeof(v));                                \
        return v;                                                \
    }                                                            \
    static inline void store_le##bits(void *p, uint##bits##_t v) \
    {                                                            \
        memcpy(p, &v, sizeof(v));                                \
    }
DEFINE_LE_ACCESS(16)
DEFINE_LE_ACCESS(32)
DEFINE_LE_ACCESS(64)

/* Likewise for big-endian values: network packets and disk formats. */
#define DEFINE_BE_ACCESS(bits)                                   \
    static inline uint##bits##_t load_be##bits(const void *p)    \
    {                                                            \
        uint##bits##_t v;                                        \
        memcpy(&v, p, sizeof(v));                                \
        return __builtin_bswap##bits(v);                         \
    }                                                            \
    static inline void store_be##bits(void *p, uint##bits##_t v) \
    {                                                            \
        v = __builtin_bswap##bits(v);                            \
        memcpy(p, &v, sizeof(v));                                \
    }
DEFINE_BE_ACCESS(16)
DEFINE_BE_ACCESS(32)
DEFINE_BE_ACCESS(64)

#endif
