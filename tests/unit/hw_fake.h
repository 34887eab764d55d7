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

struct hw_timer {
    uint64_t at_ns; /* 0: disarmed */
    void (*cb)(void *opaque);
    void *opaque;
};

struct fake {
    struct bus *pio;
    bool level[24];
    unsigned edges[24]; /* rising */
    uint64_t mono_ns, utc_ns;
    unsigned n_timers;
    struct hw_timer timers[4];
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

    if (f->n_timers == ARRAY_SIZE(f->timers))
        return -ENOSPC;
    f->timers[f->n_timers] = (struct hw_timer){ .cb = cb, .opaque = cb_opaque };
    *ret_timer = &f->timers[f->n_timers++];
    return 0;
}

static inline void fake_timer_set(struct hw_timer *t, uint64_t at_ns)
{
    t->at_ns = at_ns;
}

static inline void fake_timer_free(struct hw_timer *t)
{
    if (t)
        t->at_ns = 0;
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

/* The armed timer that is due first and no later than at end. */
static inline struct hw_timer *fake_due(struct fake *f, uint64_t end)
{
    struct hw_timer *due = NULL;

    for (unsigned i = 0; i < f->n_timers; i++) {
        struct hw_timer *t = &f->timers[i];

        if (t->at_ns && t->at_ns <= end && (!due || t->at_ns < due->at_ns))
            due = t;
    }
    return due;
}

/* Let ns pass; timers fire where they are due, at their times. Returns how many fired. */
static inline unsigned fake_pass(struct fake *f, uint64_t ns)
{
    uint64_t end = f->mono_ns + ns;
    struct hw_timer *t;
    unsigned fired = 0;

    while ((t = fake_due(f, end))) {
        uint64_t step = t->at_ns > f->mono_ns ? t->at_ns - f->mono_ns : 0;

        f->mono_ns += step;
        f->utc_ns += step;
        t->at_ns = 0;
        t->cb(t->opaque);
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
