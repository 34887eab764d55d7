/* The time that devices live in: a monotonic clock, UTC, and one-shot timers that may be set on any thread. What stands
 * behind it (the host's clocks on an event loop, a VM's virtual clock, a test) is not the devices' business. */
#ifndef HW_TIME_H
#define HW_TIME_H

#include <stdint.h>

#include "base/attr.h"
#include "base/cleanup.h"
#include "sys/loop.h"

struct hw_timer;

struct hw_time_ops {
    uint64_t (*mono_ns)(void *opaque); /* never runs backwards; any thread */
    uint64_t (*utc_ns)(void *opaque);  /* since 1970; may jump; any thread */
    /* A disarmed timer whose callback runs with no lock of the time source held. -ENOMEM. */
    int (*timer_new)(void *opaque, void (*cb)(void *cb_opaque), void *cb_opaque, struct hw_timer **ret_timer);
    /* Fire once at mono_ns >= at_ns; 0 disarms, though a callback that has begun may still run. Any thread; never
     * blocks. */
    void (*timer_set)(struct hw_timer *t, uint64_t at_ns);
    /* NULL accepted. vCPUs and loop are stopped, or on the loop thread. */
    void (*timer_free)(struct hw_timer *t);
};

struct hw_time {
    const struct hw_time_ops *ops;
    void *opaque;
};

struct hw_loop_time;

/* The host's clocks, with timers on loop l (borrowed). Order of the end: timers, then the loop, then this. */
int hw_loop_time_new(struct loop *l, struct hw_loop_time **ret_time) MUST_USE;
void hw_loop_time_free(struct hw_loop_time *t); /* NULL accepted */
DEFINE_AUTO(hw_loop_time, struct hw_loop_time, hw_loop_time_free)
struct hw_time hw_loop_time_get(struct hw_loop_time *t); /* valid as long as t */

#endif
