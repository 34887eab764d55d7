/* A machine for tests of legacy devices: a port bus, interrupt lines whose levels and edges are recorded, and time that
 * moves only when told. */
#ifndef TESTS_HW_FAKE_H
#define TESTS_HW_FAKE_H

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hw/bus.h"
#include "hw/irq.h"
#include "hw/time.h"

struct fake {
    struct bus *pio;
    bool level[24];
    unsigned edges[24]; /* rising */
    uint64_t mono_ns, utc_ns;
    struct hw_timer *timer; /* the only one */
    uint64_t timer_at_ns;
    void (*timer_cb)(void *opaque);
    void *timer_opaque;
};

static inline void fake_irq_set(void *opaque, unsigned gsi, bool level)
{
    struct fake *f = opaque;

    f->edges[gsi] += level && !f->level[gsi];
    f->level[gsi] = level;
}

static inline struct irq_line fake_irq(struct fake *f, unsigned gsi)
{
    return (struct irq_line){ .set = fake_irq_set, .opaque = f, .gsi = gsi };
}

static inline uint64_t fake_mono_ns(void *opaque)
{
    return ((struct fake *)opaque)->mono_ns;
}

static inline uint64_t fake_utc_ns(void *opaque)
{
    return ((struct fake *)opaque)->utc_ns;
}

static inline int fake_timer_new(void *opaque, void (*cb)(void *cb_opaque), void *cb_opaque,
                                 struct hw_timer **ret_timer)
{
    struct fake *f = opaque;

    if (f->timer)
        return -ENOSPC;
    f->timer_cb = cb;
    f->timer_opaque = cb_opaque;
    f->timer = (struct hw_timer *)f;
    *ret_timer = f->timer;
    return 0;
}

static inline void fake_timer_set(struct hw_timer *t, uint64_t at_ns)
{
    ((struct fake *)t)->timer_at_ns = at_ns;
}

static inline void fake_timer_free(struct hw_timer *t)
{
    if (t)
        ((struct fake *)t)->timer = NULL;
}

static const struct hw_time_ops fake_time_ops = { .mono_ns = fake_mono_ns,
                                                  .utc_ns = fake_utc_ns,
                                                  .timer_new = fake_timer_new,
                                                  .timer_set = fake_timer_set,
                                                  .timer_free = fake_timer_free };

static inline struct hw_time fake_time(struct fake *f)
{
    return (struct hw_time){ .ops = &fake_time_ops, .opaque = f };
}

/* Let ns pass; the timer fires where it is due, at its time. Returns how often it fired. */
static inline unsigned fake_pass(struct fake *f, uint64_t ns)
{
    uint64_t end = f->mono_ns + ns;
    unsigned fired = 0;

    while (f->timer_at_ns && f->timer_at_ns <= end) {
        uint64_t step = f->timer_at_ns > f->mono_ns ? f->timer_at_ns - f->mono_ns : 0;

        f->mono_ns += step;
        f->utc_ns += step;
        f->timer_at_ns = 0;
        f->timer_cb(f->timer_opaque);
        fired++;
    }
    f->utc_ns += end - f->mono_ns;
    f->mono_ns = end;
    return fired;
}

static inline uint32_t fake_in(struct fake *f, uint16_t port, unsigned len)
{
    uint32_t v = 0;

    bus_read(f->pio, port, &v, len);
    return v;
}

static inline void fake_out(struct fake *f, uint16_t port, uint32_t v, unsigned len)
{
    bus_write(f->pio, port, &v, len);
}

#define IN(port) fake_in(f, port, 1)
#define OUT(port, v) fake_out(f, port, v, 1)

#endif
