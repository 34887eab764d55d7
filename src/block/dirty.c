#include "block/dirty.h"

#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"

#define DIRTY_GRANULES_MAX (UINT64_C(1) << 36)

struct blk_dirty {
    uint64_t size;
    unsigned shift;
    uint64_t n_bits, n_set;
    uint64_t *words;
};

int blk_dirty_new(uint64_t size, uint32_t granularity, struct blk_dirty **ret_dirty)
{
    struct blk_dirty *d;
    unsigned shift = (unsigned)__builtin_ctz(granularity);
    uint64_t n = (size >> shift) + ((size & (granularity - 1)) != 0);

    if (n > DIRTY_GRANULES_MAX)
        return -EFBIG;
    d = calloc(1, sizeof(*d));
    if (!d)
        return -ENOMEM;
    *d = (struct blk_dirty){ .size = size, .shift = shift, .n_bits = n };
    d->words = calloc(n / 64 + 1, sizeof(*d->words));
    if (!d->words) {
        free(d);
        return -ENOMEM;
    }
    *ret_dirty = d;
    return 0;
}

void blk_dirty_free(struct blk_dirty *d)
{
    if (!d)
        return;
    free(d->words);
    free(d);
}

/* The granules [*first, *end) of a range. False: none. */
static bool dirty_range(const struct blk_dirty *d, uint64_t off, uint64_t len, uint64_t *first, uint64_t *end)
{
    if (len == 0 || off >= d->size)
        return false;
    len = MIN(len, d->size - off);
    *first = off >> d->shift;
    *end = ((off + len - 1) >> d->shift) + 1;
    return true;
}

static void dirty_change(struct blk_dirty *d, uint64_t off, uint64_t len, bool on)
{
    uint64_t i, end;

    if (!dirty_range(d, off, len, &i, &end))
        return;
    while (i < end) {
        uint64_t n = MIN(64 - i % 64, end - i), *word = &d->words[i / 64];
        uint64_t mask = (n == 64 ? UINT64_MAX : BIT64(n) - 1) << i % 64, old = *word;

        *word = on ? old | mask : old & ~mask;
        d->n_set += (unsigned)__builtin_popcountll(*word);
        d->n_set -= (unsigned)__builtin_popcountll(old);
        i += n;
    }
}

void blk_dirty_set(struct blk_dirty *d, uint64_t off, uint64_t len)
{
    dirty_change(d, off, len, true);
}

void blk_dirty_clear(struct blk_dirty *d, uint64_t off, uint64_t len)
{
    dirty_change(d, off, len, false);
}

/* The first bit at or behind i that is on, or end. */
static uint64_t dirty_find(const struct blk_dirty *d, uint64_t i, uint64_t end, bool on)
{
    while (i < end) {
        uint64_t word = on ? d->words[i / 64] : ~d->words[i / 64];

        word &= UINT64_MAX << i % 64;
        if (word)
            return MIN(i / 64 * 64 + (unsigned)__builtin_ctzll(word), end);
        i = i / 64 * 64 + 64;
    }
    return end;
}

bool blk_dirty_next(const struct blk_dirty *d, uint64_t off, uint64_t len, uint64_t max, uint64_t *ret_off,
                    uint64_t *ret_len)
{
    uint64_t i, end, at, most;

    if (max == 0 || !dirty_range(d, off, len, &i, &end))
        return false;
    i = dirty_find(d, i, end, true);
    if (i == end)
        return false;
    at = MAX(off, i << d->shift);
    most = MIN(max, MIN(len, d->size - off) - (at - off));
    end = dirty_find(d, i, ((at + most - 1) >> d->shift) + 1, false);
    *ret_off = at;
    *ret_len = MIN(most, (end << d->shift) - at);
    return true;
}

uint64_t blk_dirty_bytes(const struct blk_dirty *d)
{
    return d->n_set << d->shift;
}
