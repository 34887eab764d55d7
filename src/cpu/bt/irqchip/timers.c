/* When timers are looked at. Each vCPU publishes when its LAPIC timer expires (next_ns), vCPU 0 serves the PIT as well.
 * A vCPU that waits in HLT sleeps with a timeout (bt_timer_next); for those that run, one thread for the VM (ticker.c)
 * sleeps until the earliest expiry and signals BT_EV_TIMER. Guests re-arm their timer thousands of times a second,
 * mostly to a later time than before: then nothing is done here, the ticker finds out when it wakes. */
#include "cpu/bt/irqchip/chip.h"

void bt_ticker_arm(struct bt_irqchip *chip, uint64_t at_ns)
{
    /* Pairs with the ticker, which stores armed_ns before it reads the expiry times: either it sees ours, or we see
     * that it must be woken. Both are sequentially consistent. */
    if (at_ns >= atomic_load(&chip->armed_ns))
        return;
    atomic_fetch_add(&chip->ticker_seq, 1);
    bt_futex_wake(&chip->ticker_seq);
}

void bt_timers_run(struct bt_vcpu *c)
{
    struct bt_lapic *l = c->lapic;
    uint64_t now = chip_now(l->chip);

    atomic_store(&l->told, false);
    bt_lapic_timer_run(l, now);
    bt_lapic_timer_arm(l);
    if (c->id == 0) {
        bt_lock(&l->chip->lock);
        bt_pit_run(l->chip, now);
        bt_unlock(&l->chip->lock);
    }
    bt_pv_refresh(c);
    bt_pv_steal_update(c);
    if (c->halted && bt_pv_take_kick(c))
        c->halted = 0;
}

/* VM ns of the next thing that this vCPU must do. */
static uint64_t timer_next_vm(const struct bt_vcpu *c)
{
    const struct bt_lapic *l = c->lapic;
    uint64_t next = atomic_load(&l->next_ns);

    if (c->id == 0)
        next = MIN(next, atomic_load(&l->chip->pit_next_ns));
    return next;
}

uint64_t bt_timer_next(struct bt_vcpu *c)
{
    uint64_t next = timer_next_vm(c), now, mono;

    if (next == UINT64_MAX)
        return UINT64_MAX;
    now = chip_now(c->lapic->chip);
    mono = bt_host_mono_ns();
    if (next <= now)
        return mono;
    return next - now > UINT64_MAX - mono ? UINT64_MAX : mono + (next - now);
}
