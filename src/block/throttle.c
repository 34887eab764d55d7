/* A bucket is kept as a point in time (the generic cell rate algorithm): paying moves full_ns on by cost/rate, and time
 * fills it by passing. */
#include "block/throttle.h"

#include <string.h>

#include "base/attr.h"

#define BLK_NS 1000000000ULL
/* No bucket takes longer than this to fill or to get out of debt, whatever numbers were configured. */
#define BLK_BUCKET_NS_MAX (3600 * BLK_NS)

static uint64_t blk_bucket_ns(uint64_t tokens, uint64_t rate, uint64_t *rest)
{
    unsigned __int128 total = (unsigned __int128)tokens * BLK_NS + *rest;
    unsigned __int128 ns = total / rate;

    *rest = (uint64_t)(total % rate);
    return ns > BLK_BUCKET_NS_MAX ? BLK_BUCKET_NS_MAX : (uint64_t)ns;
}

static void blk_bucket_init(struct blk_bucket *b, const struct blk_limit *limit, uint64_t now_ns)
{
    uint64_t rest = 0;

    *b = (struct blk_bucket){ .rate = limit->rate, .full_ns = now_ns };
    if (limit->rate > 0)
        b->burst_ns =
            MAX(blk_bucket_ns(limit->burst ? limit->burst : MAX(limit->rate / 10, 1u), limit->rate, &rest), 1u);
}

void blk_throttle_init(struct blk_throttle *t, const struct blk_limits *limits, uint64_t now_ns)
{
    const struct blk_limit *const all[BLK_BUCKETS] = { &limits->iops, &limits->iops_read, &limits->iops_write,
                                                       &limits->bps,  &limits->bps_read,  &limits->bps_write };

    t->any = false;
    for (unsigned i = 0; i < BLK_BUCKETS; i++) {
        blk_bucket_init(&t->bucket[i], all[i], now_ns);
        t->any |= all[i]->rate > 0;
    }
}

bool blk_throttle_on(const struct blk_throttle *t)
{
    return t->any;
}

/* Total, read and write: whether bucket i applies. */
static bool blk_bucket_applies(const struct blk_throttle *t, unsigned i, bool write)
{
    unsigned of = i % 3;

    return t->bucket[i].rate > 0 && (of == 0 || (of == 2) == write);
}

uint64_t blk_throttle_take(struct blk_throttle *t, bool write, uint64_t ops, uint64_t bytes, uint64_t now_ns)
{
    struct blk_bucket after[BLK_BUCKETS];
    uint64_t at = 0, shared = 0;

    if (!t->any)
        return 0;
    for (unsigned i = 0; i < BLK_BUCKETS; i++) {
        struct blk_bucket *b = &after[i];
        uint64_t cost, ready;

        *b = t->bucket[i];
        if (!blk_bucket_applies(t, i, write))
            continue;
        if (b->full_ns < now_ns) {
            b->full_ns = now_ns;
            b->rest = 0;
        }
        cost = blk_bucket_ns(i < 3 ? ops : bytes, b->rate, &b->rest);
        ready = b->full_ns + MIN(cost, b->burst_ns) - b->burst_ns;
        if (ready > now_ns)
            at = MAX(at, ready);
        if (ready > now_ns && i % 3 == 0)
            shared = MAX(shared, ready);
        b->full_ns += cost;
    }
    t->shared = at != 0 && shared == at;
    if (at == 0)
        memcpy(t->bucket, after, sizeof(after));
    return at;
}

bool blk_throttle_shared(const struct blk_throttle *t)
{
    return t->shared;
}
