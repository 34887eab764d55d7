#include "block/sched.h"

#include <errno.h>
#include <stdlib.h>

#include "base/check.h"

/* What a request costs beyond its bytes, so that many small ones are no cheaper than few large ones. */
#define BLK_COST_BASE 16384u
#define BLK_READS_IN_ROW 2u

struct blk_sched {
    struct list flows;
    uint64_t clock; /* of the flow that was served last */
    unsigned depth, at_host, waiting;
};

int blk_sched_new(unsigned depth, struct blk_sched **ret_sched)
{
    struct blk_sched *s = calloc(1, sizeof(*s));

    if (!s)
        return -ENOMEM;
    list_init(&s->flows);
    s->depth = MAX(depth, 1u);
    *ret_sched = s;
    return 0;
}

void blk_sched_free(struct blk_sched *s)
{
    if (s)
        CHECK(list_empty(&s->flows));
    free(s);
}

void blk_flow_init(struct blk_flow *f, struct blk_sched *s, unsigned weight)
{
    *f = (struct blk_flow){ .sched = s, .weight = MAX(MIN(weight, (unsigned)BLK_WEIGHT_MAX), 1u), .clock = s->clock };
    list_init(&f->reads);
    list_init(&f->writes);
    list_add_before(&s->flows, &f->link);
}

static bool blk_flow_idle(const struct blk_flow *f)
{
    return list_empty(&f->reads) && list_empty(&f->writes);
}

void blk_flow_done(struct blk_flow *f)
{
    CHECK(blk_flow_idle(f));
    list_remove(&f->link);
}

void blk_sched_add(struct blk_sched_entry *e)
{
    struct blk_flow *f = e->flow;

    if (blk_flow_idle(f))
        f->clock = MAX(f->clock, f->sched->clock);
    list_add_before(e->write ? &f->writes : &f->reads, &e->link);
    f->sched->waiting++;
}

void blk_sched_remove(struct blk_sched_entry *e)
{
    list_remove(&e->link);
    e->flow->sched->waiting--;
}

static struct blk_sched_entry *blk_flow_take(struct blk_flow *f)
{
    bool write = list_empty(&f->reads) || (!list_empty(&f->writes) && f->reads_in_row >= BLK_READS_IN_ROW);
    struct blk_sched_entry *e = CONTAINER_OF((write ? &f->writes : &f->reads)->next, struct blk_sched_entry, link);

    f->reads_in_row = write ? 0 : f->reads_in_row + 1;
    blk_sched_remove(e);
    return e;
}

struct blk_sched_entry *blk_sched_next(struct blk_sched *s)
{
    struct blk_flow *f, *best = NULL;
    struct blk_sched_entry *e;

    if (s->waiting == 0 || s->at_host >= s->depth)
        return NULL;
    LIST_FOR_EACH(f, &s->flows, link) {
        if (!blk_flow_idle(f) && (!best || f->clock < best->clock))
            best = f;
    }
    e = blk_flow_take(best);
    s->clock = best->clock;
    best->clock += (e->bytes + BLK_COST_BASE) * BLK_WEIGHT_MAX / best->weight >> 8;
    s->at_host++;
    return e;
}

void blk_sched_end(struct blk_sched *s)
{
    CHECK(s->at_host > 0);
    s->at_host--;
}
