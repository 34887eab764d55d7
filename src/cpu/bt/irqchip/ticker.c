/* The ticker thread of a VM: sleeps until the earliest timer expiry of its vCPUs and tells them (timers.c has the other
 * half of the protocol). Ordinary code, on a thread of its own that never holds guest state. */
#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "cpu/bt/irqchip/chip.h"

#define NS_PER_S 1000000000ULL

/* Tell a vCPU if its time has come; else return when that will be. */
static uint64_t ticker_look(struct bt_lapic *l, uint64_t next, uint64_t now)
{
    if (next > now)
        return next;
    /* It knows, or will find out by its own timeout. It arms us again when it has looked. */
    if (!atomic_load(&l->told) && !atomic_load(&l->idle)) {
        atomic_store(&l->told, true);
        bt_vcpu_signal(l->c, BT_EV_TIMER);
    }
    return UINT64_MAX;
}

/* All vCPUs; returns VM ns of the next expiry. The lock keeps LAPICs from being freed meanwhile. */
static uint64_t ticker_scan(struct bt_irqchip *chip)
{
    uint64_t now = chip_now(chip), min = UINT64_MAX;

    bt_lock(&chip->lock);
    for (unsigned i = 0; i < CPU_VCPUS_MAX; i++) {
        struct bt_lapic *l = chip_lapic(chip, i);
        uint64_t next;

        if (!l)
            continue;
        next = atomic_load(&l->next_ns);
        if (i == 0)
            next = MIN(next, atomic_load(&chip->pit_next_ns));
        next = ticker_look(l, next, now);
        min = MIN(min, next);
    }
    bt_unlock(&chip->lock);
    return min;
}

static void ticker_sleep(struct bt_irqchip *chip, uint32_t seq, uint64_t until)
{
    struct timespec ts, *timeout = NULL;

    if (until != UINT64_MAX) {
        uint64_t now = chip_now(chip), mono = bt_host_mono_ns();
        /* An hour at most, lest the sum overflow and for the drift between TSC and CLOCK_MONOTONIC. */
        uint64_t at = mono + (until > now ? MIN(until - now, 3600 * NS_PER_S) : 0);

        ts.tv_sec = (time_t)(at / NS_PER_S);
        ts.tv_nsec = (long)(at % NS_PER_S);
        timeout = &ts;
    }
    syscall(SYS_futex, &chip->ticker_seq, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, seq, timeout, NULL,
            FUTEX_BITSET_MATCH_ANY);
}

static void *ticker_main(void *opaque)
{
    struct bt_irqchip *chip = opaque;

    prctl(PR_SET_NAME, "bt-ticker");
    prctl(PR_SET_TIMERSLACK, 1);
    for (;;) {
        uint32_t seq = atomic_load(&chip->ticker_seq);
        uint64_t min;

        if (atomic_load(&chip->ticker_stop))
            return NULL;
        atomic_store(&chip->armed_ns, UINT64_MAX);
        min = ticker_scan(chip);
        if (min != UINT64_MAX)
            atomic_store(&chip->armed_ns, min);
        ticker_sleep(chip, seq, min);
    }
}

int bt_ticker_start(struct bt_irqchip *chip)
{
    sigset_t all, old;
    int r;

    atomic_store(&chip->armed_ns, UINT64_MAX);
    /* Signals are for the threads that know what to do with them. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    r = pthread_create(&chip->ticker, NULL, ticker_main, chip);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    chip->ticker_started = r == 0;
    return -r;
}

void bt_ticker_stop(struct bt_irqchip *chip)
{
    if (!chip->ticker_started)
        return;
    atomic_store(&chip->ticker_stop, true);
    atomic_fetch_add(&chip->ticker_seq, 1);
    bt_futex_wake(&chip->ticker_seq);
    pthread_join(chip->ticker, NULL);
    chip->ticker_started = false;
}
