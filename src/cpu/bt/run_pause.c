/* PAUSE. A vCPU that executes nothing but PAUSE loops waits for another one, which may have no host CPU to run on. So
 * its thread gives the CPU away: at first to whoever is ready, and when that goes on, for short sleeps that get longer.
 * An event for the vCPU ends a sleep. */
#include "cpu/bt/irqchip/host.h"
#include "cpu/bt/raw.h"
#include "cpu/bt/run.h"

#define PAUSE_LOOK 64U   /* PAUSEs after which the time is looked at */
#define PAUSE_YIELDS 16U /* times in a row that the CPU is given away before sleeping */
#define PAUSE_SLEEP_MIN_NS 20000U
#define PAUSE_SLEEP_DOUBLINGS 3U
#define PAUSE_APART_US 250U /* PAUSE_LOOK of them in more time than this are no spinning */

static void pause_sleep(struct bt_vcpu *c, uint64_t ns)
{
    uint32_t seen;

    atomic_store(&c->sleeping, 1);
    seen = atomic_load(&c->wake);
    if (!bt_run_wakes(c))
        bt_raw_futex_wait(&c->wake, seen, bt_host_mono_ns() + ns);
    atomic_store(&c->sleeping, 0);
}

void bt_pause(struct bt_vcpu *c)
{
    unsigned sleeps;

    if (LIKELY(++c->pause_n < PAUSE_LOOK)) {
        __asm__ volatile("pause");
        return;
    }
    c->pause_n = 0;
    if (bt_host_tsc() - c->pause_tsc > c->vm->tsc_khz * PAUSE_APART_US / 1000) {
        c->pause_idle = 0;
    } else {
        c->stat[BT_STAT_PAUSE]++;
        if (c->pause_idle < PAUSE_YIELDS) {
            bt_host_yield();
        } else {
            sleeps = c->pause_idle - PAUSE_YIELDS;
            pause_sleep(c, (uint64_t)PAUSE_SLEEP_MIN_NS << MIN(sleeps / 4, PAUSE_SLEEP_DOUBLINGS));
        }
        c->pause_idle++;
    }
    c->pause_tsc = bt_host_tsc();
}
