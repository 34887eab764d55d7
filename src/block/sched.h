/* Scheduling between the disks of a VM: weighted fair queueing over a bounded number of requests at the host. Each disk
 * is a flow with a virtual clock that a request moves on by its cost divided by the flow's weight; the flow whose clock
 * is furthest behind goes next, and a flow that was idle gets no credit for that. Within a flow reads go before writes,
 * but of three requests one is a write where writes wait. Loop thread only. */
#ifndef BLOCK_SCHED_H
#define BLOCK_SCHED_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/list.h"

#define BLK_WEIGHT_DEFAULT 100
#define BLK_WEIGHT_MAX 10000

struct blk_sched;

struct blk_flow {
    struct blk_sched *sched;
    struct list link; /* of the scheduler's flows */
    uint64_t clock;
    unsigned weight, reads_in_row;
    struct list reads, writes;
};

/* A request that waits; embedded in whatever the caller has. */
struct blk_sched_entry {
    struct list link;
    struct blk_flow *flow;
    uint64_t bytes;
    bool write;
};

/* depth: how many requests may be at the host at once, > 0. -ENOMEM. */
int blk_sched_new(unsigned depth, struct blk_sched **ret_sched) MUST_USE;
/* No flow is left. NULL accepted. */
void blk_sched_free(struct blk_sched *s);

/* s is borrowed until blk_flow_done. weight: 1..BLK_WEIGHT_MAX. */
void blk_flow_init(struct blk_flow *f, struct blk_sched *s, unsigned weight);
/* Nothing of it waits. */
void blk_flow_done(struct blk_flow *f);

/* Let a request wait; flow, bytes and write are set. */
void blk_sched_add(struct blk_sched_entry *e);
/* Take back one that waits. */
void blk_sched_remove(struct blk_sched_entry *e);
/* The request, of any flow, that may start now; NULL: none waits, or enough are at the host. The caller pairs each with
 * blk_sched_end. */
struct blk_sched_entry *blk_sched_next(struct blk_sched *s);
void blk_sched_end(struct blk_sched *s);

#endif
