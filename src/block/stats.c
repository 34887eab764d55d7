#include "block/stats.h"

#include "base/attr.h"

void blk_histogram_add(struct blk_histogram *h, uint64_t ns)
{
    uint64_t us = ns / 1000;
    unsigned bucket = us == 0 ? 0 : 64 - (unsigned)__builtin_clzll(us);

    h->count[MIN(bucket, BLK_HISTOGRAM_BUCKETS - 1u)]++;
    h->sum_ns += ns;
    h->max_ns = MAX(h->max_ns, ns);
}

void blk_op_stats_add(struct blk_op_stats *s, uint64_t bytes, int error, uint64_t wait_ns, uint64_t service_ns)
{
    s->ops++;
    if (error)
        s->errors++;
    else
        s->bytes += bytes;
    blk_histogram_add(&s->wait, wait_ns);
    blk_histogram_add(&s->service, service_ns);
    blk_histogram_add(&s->response, wait_ns + service_ns);
}

uint64_t blk_histogram_quantile_us(const struct blk_histogram *h, unsigned per_mille)
{
    uint64_t all = 0, below = 0, wanted;

    for (unsigned i = 0; i < BLK_HISTOGRAM_BUCKETS; i++)
        all += h->count[i];
    if (all == 0)
        return 0;
    wanted = (all * MIN(per_mille, 1000u) + 999) / 1000;
    for (unsigned i = 0; i < BLK_HISTOGRAM_BUCKETS - 1; i++) {
        below += h->count[i];
        if (below >= wanted)
            return 1ULL << i;
    }
    return h->max_ns / 1000 + 1;
}
