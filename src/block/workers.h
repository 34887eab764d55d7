/* A few threads for calls that block, with completion on the loop thread. Threads start when there is work for them and
 * end when there has been none for a while. All functions belong to the loop thread. */
#ifndef BLOCK_WORKERS_H
#define BLOCK_WORKERS_H

#include "base/attr.h"
#include "base/list.h"

#define BLK_WORKERS_MAX 16

struct blk_workers;
struct loop;

/* Filled by the caller down to done; must stay in place until done was called. */
struct blk_work {
    void (*run)(struct blk_work *w); /* on a worker thread; may block */
    /* Loop thread, never from within blk_workers_submit. error: 0, or -errno: no thread could be had, run was not
     * called. */
    void (*done)(struct blk_work *w, int error);
    /* Private. */
    struct list node;
    int error;
};

/* max: threads, 1..BLK_WORKERS_MAX. idle_ms: how long a thread waits for work before it ends; 0: for ever. batch (may
 * be NULL): called on the loop thread after each series of done calls. -ENOMEM; errors of eventfd and epoll. */
int blk_workers_new(struct loop *loop, unsigned max, unsigned idle_ms, void (*batch)(void *opaque), void *opaque,
                    struct blk_workers **ret_workers) MUST_USE;
/* Nothing is in flight (blk_workers_drain). NULL accepted. */
void blk_workers_free(struct blk_workers *p);

void blk_workers_submit(struct blk_workers *p, struct blk_work *w);
/* Work that was submitted and is not done. */
unsigned blk_workers_count(const struct blk_workers *p);
/* Block until at least one piece of work was done; done functions are called from here. At once where there is none. */
void blk_workers_wait(struct blk_workers *p);

#endif
