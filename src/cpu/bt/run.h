/* The run loop. */
#ifndef CPU_BT_RUN_H
#define CPU_BT_RUN_H

#include "cpu/bt/state.h"

/* Run the vCPU on the calling thread until a kick (CPU_EXIT_KICK) or a triple fault (CPU_EXIT_SHUTDOWN). The guest's FP
 * state is in c->xsave when it returns. */
void bt_vcpu_loop(struct bt_vcpu *c, struct cpu_exit *ret_exit);

/* Act upon an INIT or SIPI that has arrived. The vCPU does not run. */
void bt_vcpu_accept(struct bt_vcpu *c);

/* Events that matter now: an interrupt only while IF is set. BT_EV_IRQ is bit 1, IF bit 9. */
static ALWAYS_INLINE uint32_t bt_run_events(const struct bt_vcpu *c)
{
    _Static_assert(BT_EV_IRQ == 1 << 1 && BT_IF == 1 << 9, "the shift below");
    uint32_t mask = ~(uint32_t)BT_EV_IRQ | ((uint32_t)c->rflags >> 8 & BT_EV_IRQ);

    return atomic_load_explicit(&c->events, memory_order_relaxed) & mask;
}

/* Events that end a sleep. While an AP waits for SIPI only INIT, SIPI and kicks do; BT_EV_STEP never does. */
static inline bool bt_run_wakes(const struct bt_vcpu *c)
{
    uint32_t ev = bt_run_events(c) & ~(uint32_t)BT_EV_STEP;

    if (c->nmi_blocked)
        ev &= ~(uint32_t)BT_EV_NMI;
    if (c->mp_state != KVM_MP_STATE_RUNNABLE)
        ev &= BT_EV_KICK | BT_EV_INIT | BT_EV_SIPI | BT_EV_TLB | BT_EV_TIMER;
    return ev != 0;
}

/* The guest executed PAUSE. May give the host's CPU away for a while. (run_pause.c) */
void bt_pause(struct bt_vcpu *c);

#endif
