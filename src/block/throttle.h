/* Limits of a disk: token buckets for requests and bytes per second, each in total, for reads and for writes. A bucket
 * holds `burst` tokens and fills at `rate` tokens a second. A request starts when each bucket that it draws on has what
 * it costs, or is full: so one that is larger than the burst passes too, leaves a debt, and the next ones wait for it.
 * All times are given by the caller. Not thread-safe. */
#ifndef BLOCK_THROTTLE_H
#define BLOCK_THROTTLE_H

#include <stdbool.h>
#include <stdint.h>

/* rate: tokens a second, 0: no limit. burst: 0 stands for a tenth of a second's worth, at least 1. */
struct blk_limit {
    uint64_t rate, burst;
};

struct blk_limits {
    struct blk_limit iops, iops_read, iops_write;
    struct blk_limit bps, bps_read, bps_write; /* bytes */
};

enum { BLK_BUCKETS = 6 };

struct blk_bucket {
    uint64_t rate;
    uint64_t burst_ns; /* how long it takes to fill */
    uint64_t full_ns;  /* when it will be full again; that time minus burst_ns is when it is out of debt */
    uint64_t rest;     /* of the last division, in 1/rate ns: nothing gets lost by rounding */
};

struct blk_throttle {
    struct blk_bucket bucket[BLK_BUCKETS];
    bool any;
    bool shared; /* see blk_throttle_shared */
};

/* Start with full buckets. */
void blk_throttle_init(struct blk_throttle *t, const struct blk_limits *limits, uint64_t now_ns);
/* Whether there is any limit. */
bool blk_throttle_on(const struct blk_throttle *t);
/* Start ops requests with together bytes of data. 0: they may start, and were paid for; else the time, > now_ns, when
 * to ask again. */
uint64_t blk_throttle_take(struct blk_throttle *t, bool write, uint64_t ops, uint64_t bytes, uint64_t now_ns);
/* Whether what the last take has to wait for is a bucket that reads and writes share. Then those of the other kind must
 * not go before it for ever: small ones would keep the bucket from ever having enough for a large one. */
bool blk_throttle_shared(const struct blk_throttle *t);

#endif
