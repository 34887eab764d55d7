/* What a disk did, and how long its requests took: response time = time waited (for limits and for the scheduler) +
 * service time. Not thread-safe. */
#ifndef BLOCK_STATS_H
#define BLOCK_STATS_H

#include <stdint.h>

/* Bucket 0: below 1 us; bucket i: 2^(i-1) .. 2^i us; the last one: all that is longer. */
#define BLK_HISTOGRAM_BUCKETS 32

struct blk_histogram {
    uint64_t count[BLK_HISTOGRAM_BUCKETS];
    uint64_t sum_ns, max_ns;
};

enum blk_stats_kind { BLK_STATS_READ, BLK_STATS_WRITE, BLK_STATS_FLUSH, BLK_STATS_DISCARD, BLK_STATS_KINDS };

struct blk_op_stats {
    uint64_t ops, bytes, errors;
    uint64_t merged; /* of these, how many went to the host as part of another request */
    struct blk_histogram wait, service, response;
};

/* DISCARD: writing of zeroes too. */
struct blk_stats {
    struct blk_op_stats op[BLK_STATS_KINDS];
    uint64_t fast, slow;     /* host I/O that went straight to a file; calls that took a worker thread */
    uint64_t readahead_hits; /* requests served from memory */
    uint64_t waited;         /* failures of the host that were waited out (on_error=wait) */
};

void blk_histogram_add(struct blk_histogram *h, uint64_t ns);
/* One finished request; error: it failed. Times in nanoseconds. */
void blk_op_stats_add(struct blk_op_stats *s, uint64_t bytes, int error, uint64_t wait_ns, uint64_t service_ns);
/* Upper bound in microseconds of the bucket that holds the given per mille of all requests; 0: there were none. */
uint64_t blk_histogram_quantile_us(const struct blk_histogram *h, unsigned per_mille);

#endif
