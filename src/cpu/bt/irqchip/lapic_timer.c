/* The LAPIC timer: one-shot, periodic, TSC deadline (SDM 10.5.4). The bus clock is 1 GHz, as KVM's. No host timer is
 * armed here: next_ns says when the timer expires, and bt_ticker_arm sees to it that somebody looks then. vCPU's own
 * thread. */
#include "cpu/bt/irqchip/chip.h"

/* A guest that asks for shorter periods gets interrupts at this one; else it could keep the host busy with nothing. */
#define LAPIC_MIN_PERIOD_NS 50000ULL

static unsigned lapic_timer_mode(const struct bt_lapic *l)
{
    return lapic_get(l, LAPIC_LVTT) >> 17 & 3;
}

/* log2 of the divider that a TDCR value means. */
static unsigned lapic_timer_shift(uint32_t tdcr)
{
    return (((tdcr & 3) | (tdcr >> 1 & 4)) + 1) & 7;
}

/* VM ns at which the guest's TSC reaches value, rounded up; 0: it has already. */
static uint64_t lapic_deadline_ns(const struct bt_lapic *l, uint64_t value)
{
    uint64_t host_now = bt_host_tsc(), guest_now = host_now + l->c->tsc_offset, host, ns;

    if (value <= guest_now)
        return 0;
    if (__builtin_add_overflow(host_now, value - guest_now, &host)) /* centuries ahead */
        return UINT64_MAX;
    ns = bt_clock_ns(&l->chip->clock, host);
    return ns >= UINT64_MAX - 1 ? UINT64_MAX : ns + 1;
}

void bt_lapic_timer_arm(struct bt_lapic *l)
{
    uint64_t next = UINT64_MAX;

    if (lapic_timer_mode(l) == APIC_TIMER_DEADLINE) {
        if (l->tsc_deadline)
            next = lapic_deadline_ns(l, l->tsc_deadline);
    } else if (l->target_ns) {
        next = l->target_ns;
    }
    atomic_store(&l->next_ns, next);
    if (next == 0) /* over already: no need to wake the ticker for that */
        bt_vcpu_signal(l->c, BT_EV_TIMER);
    else if (next != UINT64_MAX)
        bt_ticker_arm(l->chip, next);
}

void bt_lapic_timer_stop(struct bt_lapic *l)
{
    l->target_ns = l->period_ns = 0;
    bt_lapic_timer_arm(l);
}

void bt_lapic_timer_resume(struct bt_lapic *l, uint32_t count)
{
    unsigned shift = lapic_timer_shift(lapic_get(l, LAPIC_TDCR));

    l->period_ns = (uint64_t)lapic_get(l, LAPIC_TMICT) << shift;
    l->target_ns = l->period_ns && count ? chip_now(l->chip) + ((uint64_t)count << shift) : 0;
    bt_lapic_timer_arm(l);
}

void bt_lapic_timer_start(struct bt_lapic *l)
{
    bt_lapic_timer_resume(l, lapic_get(l, LAPIC_TMICT));
}

void bt_lapic_timer_lvt(struct bt_lapic *l, uint32_t old)
{
    unsigned was = old >> 17 & 3, is = lapic_timer_mode(l);

    /* Going in or out of deadline mode disarms the timer. */
    if (was != is && (was == APIC_TIMER_DEADLINE || is == APIC_TIMER_DEADLINE)) {
        lapic_put(l, LAPIC_TMICT, 0);
        l->tsc_deadline = 0;
        l->target_ns = l->period_ns = 0;
    }
    bt_lapic_timer_arm(l);
}

void bt_lapic_timer_divide(struct bt_lapic *l, uint32_t old_tdcr)
{
    unsigned was = lapic_timer_shift(old_tdcr), is = lapic_timer_shift(lapic_get(l, LAPIC_TDCR));
    uint64_t now = chip_now(l->chip);

    l->period_ns = l->period_ns >> was << is;
    /* What is left of the present count goes on at the new pace. */
    if (l->target_ns > now)
        l->target_ns = now + ((l->target_ns - now) >> was << is);
    bt_lapic_timer_arm(l);
}

void bt_lapic_timer_deadline(struct bt_lapic *l, uint64_t value)
{
    l->tsc_deadline = value;
    bt_lapic_timer_arm(l);
}

uint32_t bt_lapic_timer_count(const struct bt_lapic *l)
{
    unsigned shift = lapic_timer_shift(lapic_get(l, LAPIC_TDCR));
    uint64_t now = chip_now(l->chip), left;

    if (lapic_timer_mode(l) == APIC_TIMER_DEADLINE || !l->target_ns)
        return 0;
    if (now < l->target_ns) {
        left = l->target_ns - now;
    } else {
        if (lapic_timer_mode(l) != APIC_TIMER_PERIODIC || !l->period_ns)
            return 0;
        left = l->period_ns - (now - l->target_ns) % l->period_ns;
    }
    /* Rounded up: a count that is not over reads as at least 1. */
    left = (left + (1ULL << shift) - 1) >> shift;
    return (uint32_t)MIN(left, lapic_get(l, LAPIC_TMICT));
}

void bt_lapic_timer_run(struct bt_lapic *l, uint64_t now)
{
    uint64_t next = atomic_load_explicit(&l->next_ns, memory_order_relaxed);

    if (now < next)
        return;
    if (lapic_timer_mode(l) == APIC_TIMER_DEADLINE) {
        l->tsc_deadline = 0;
    } else if (lapic_timer_mode(l) == APIC_TIMER_PERIODIC && l->period_ns) {
        /* Periods that nobody saw are lost, as on hardware, where one request can be pending. */
        uint64_t step = MAX(l->period_ns, LAPIC_MIN_PERIOD_NS);

        l->target_ns += ((now - l->target_ns) / step + 1) * step;
    } else {
        l->target_ns = 0;
    }
    bt_lapic_local(l, LAPIC_LVTT);
    atomic_store(&l->next_ns, UINT64_MAX);
}
