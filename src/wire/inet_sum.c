#include "wire/inet_sum.h"

#include <string.h>

#include "base/bits.h"

/* One's complement addition does not care in which order carries are folded in, nor about byte order: so 32-bit halves
 * are added up in 64-bit lanes of whatever vectors the compiler has, with room for 2^32 of them. */
typedef uint64_t inet_vec __attribute__((vector_size(16)));

static uint64_t inet_sum_blocks(const uint8_t *p, size_t n_blocks)
{
    const inet_vec low = { UINT32_MAX, UINT32_MAX };
    inet_vec a = { 0 }, b = { 0 };

    for (; n_blocks > 0; n_blocks--, p += 32) {
        inet_vec v, w;

        memcpy(&v, p, sizeof(v));
        memcpy(&w, p + 16, sizeof(w));
        a += (v & low) + (v >> 32);
        b += (w & low) + (w >> 32);
    }
    a += b;
    return a[0] + a[1];
}

uint16_t inet_sum(const void *data, size_t len, uint16_t sum)
{
    const uint8_t *p = data;
    uint64_t total = sum + inet_sum_blocks(p, len / 32);

    p += len & ~(size_t)31;
    len &= 31;
    for (; len >= 4; len -= 4, p += 4)
        total += load_le32(p);
    if (len >= 2) {
        total += load_le16(p);
        p += 2;
        len -= 2;
    }
    if (len > 0)
        total += *p;
    total = (total & UINT32_MAX) + (total >> 32);
    total = (total & UINT32_MAX) + (total >> 32);
    total = (total & UINT16_MAX) + (total >> 16);
    total = (total & UINT16_MAX) + (total >> 16);
    return (uint16_t)total;
}
