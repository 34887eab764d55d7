/* Address spaces of device registers: a sorted array of ranges under a reader-writer lock. A lookup copies the range
 * out and releases the lock before the handler runs, so that handlers may change the bus.
 *
 * Invariants: ranges[] ascends by base and does not overlap; every range ends at or below limit. */
#include "hw/bus.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct bus_range {
    uint64_t base, last; /* both inclusive, so that a range may end at 2^64 - 1 */
    const struct bus_ops *ops;
    void *dev;
};

struct bus {
    pthread_rwlock_t lock;
    uint64_t limit;
    size_t n_ranges, cap_ranges;
    struct bus_range *ranges;
};

int bus_new(uint64_t limit, struct bus **ret_bus)
{
    struct bus *b = calloc(1, sizeof(*b));
    int r;

    if (!b)
        return -ENOMEM;
    r = pthread_rwlock_init(&b->lock, NULL);
    if (r != 0) {
        free(b);
        return -r;
    }
    b->limit = limit;
    *ret_bus = b;
    return 0;
}

void bus_free(struct bus *b)
{
    if (!b)
        return;
    pthread_rwlock_destroy(&b->lock);
    free(b->ranges);
    free(b);
}

/* Index of the first range that ends at or above addr; n_ranges where there is none. */
static size_t bus_lower_bound_locked(const struct bus *b, uint64_t addr)
{
    size_t lo = 0, hi = b->n_ranges;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;

        if (b->ranges[mid].last < addr)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static int bus_reserve_locked(struct bus *b)
{
    size_t cap = b->cap_ranges ? b->cap_ranges * 2 : 16;
    struct bus_range *ranges;

    if (b->n_ranges < b->cap_ranges)
        return 0;
    ranges = realloc(b->ranges, cap * sizeof(*ranges));
    if (!ranges)
        return -ENOMEM;
    b->ranges = ranges;
    b->cap_ranges = cap;
    return 0;
}

int bus_add(struct bus *b, uint64_t base, uint64_t size, const struct bus_ops *ops, void *dev)
{
    uint64_t last = base + size - 1;
    size_t at;
    int r;

    if (size == 0 || last < base || last > b->limit)
        return -EINVAL;
    pthread_rwlock_wrlock(&b->lock);
    at = bus_lower_bound_locked(b, base);
    if (at < b->n_ranges && b->ranges[at].base <= last) {
        r = -EEXIST;
        goto out;
    }
    r = bus_reserve_locked(b);
    if (r < 0)
        goto out;
    memmove(&b->ranges[at + 1], &b->ranges[at], (b->n_ranges - at) * sizeof(*b->ranges));
    b->ranges[at] = (struct bus_range){ .base = base, .last = last, .ops = ops, .dev = dev };
    b->n_ranges++;
out:
    pthread_rwlock_unlock(&b->lock);
    return r;
}

void bus_remove(struct bus *b, uint64_t base, const void *dev)
{
    size_t at;

    pthread_rwlock_wrlock(&b->lock);
    at = bus_lower_bound_locked(b, base);
    if (at < b->n_ranges && b->ranges[at].base == base && b->ranges[at].dev == dev) {
        b->n_ranges--;
        memmove(&b->ranges[at], &b->ranges[at + 1], (b->n_ranges - at) * sizeof(*b->ranges));
    }
    pthread_rwlock_unlock(&b->lock);
}

static bool bus_find(struct bus *b, uint64_t addr, unsigned len, struct bus_range *ret_range)
{
    uint64_t last = addr + len - 1;
    bool found = false;
    size_t at;

    if (len == 0 || last < addr)
        return false;
    pthread_rwlock_rdlock(&b->lock);
    at = bus_lower_bound_locked(b, addr);
    if (at < b->n_ranges && b->ranges[at].base <= addr && last <= b->ranges[at].last) {
        *ret_range = b->ranges[at];
        found = true;
    }
    pthread_rwlock_unlock(&b->lock);
    return found;
}

bool bus_read(struct bus *b, uint64_t addr, void *data, unsigned len)
{
    struct bus_range range;

    memset(data, 0xff, len);
    if (!bus_find(b, addr, len, &range))
        return false;
    range.ops->read(range.dev, addr - range.base, data, len);
    return true;
}

bool bus_write(struct bus *b, uint64_t addr, const void *data, unsigned len)
{
    struct bus_range range;

    if (!bus_find(b, addr, len, &range))
        return false;
    range.ops->write(range.dev, addr - range.base, data, len);
    return true;
}
