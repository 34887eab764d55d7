/* The Internet checksum. Must not know packets. Spec: RFC 1071. */
#ifndef WIRE_INET_SUM_H
#define WIRE_INET_SUM_H

#include <stddef.h>
#include <stdint.h>

/* The one's complement sum of len bytes, an odd last one padded with zero, added to an earlier one (0: none), folded to
 * 16 bits. In memory order: the result is stored as it is, and sums of pieces add up where each but the last has an
 * even length. Any thread. */
uint16_t inet_sum(const void *data, size_t len, uint16_t sum);

/* One more value of 16 bits in memory order, e.g. htons(x). */
static inline uint16_t inet_sum_add(uint16_t sum, uint16_t v)
{
    uint32_t both = (uint32_t)sum + v;

    return (uint16_t)(both + (both >> 16));
}

#endif
