/* What the interrupt controllers ask of the host: TSC, clocks, futexes and a few more system calls, without libc,
 * because libc may use vector registers while the guest's are live in the CPU (cpu/bt/fp.h). The clocks are out of line
 * so that tests can replace host.c. It must not know guests. */
#ifndef CPU_BT_IRQCHIP_HOST_H
#define CPU_BT_IRQCHIP_HOST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"

/* Host time stamp counter. */
uint64_t bt_host_tsc(void);
/* CLOCK_MONOTONIC and CLOCK_REALTIME in ns. */
uint64_t bt_host_mono_ns(void);
uint64_t bt_host_real_ns(void);
/* Give the CPU away. */
void bt_host_yield(void);
/* Nanoseconds for which the calling thread was runnable but did not run, since its start; 0 where the kernel does not
 * tell. *fd caches the open file (start with -1, close at the end). */
uint64_t bt_host_run_delay_ns(int *fd);
/* Make timeouts of the calling thread exact (the default slack is 50 us). */
void bt_host_exact_timers(void);
int bt_host_tid(void);
void bt_host_close(int fd);

/* A mutex of one futex word; zeroed = unlocked. Not recursive. */
struct bt_lock {
    _Atomic uint32_t word; /* 0 free, 1 held, 2 held and somebody waits */
};
void bt_lock_wait(struct bt_lock *l);
void bt_lock_wake(struct bt_lock *l);

static ALWAYS_INLINE void bt_lock(struct bt_lock *l)
{
    uint32_t free_word = 0;

    if (UNLIKELY(!atomic_compare_exchange_strong_explicit(&l->word, &free_word, 1, memory_order_acquire,
                                                          memory_order_relaxed)))
        bt_lock_wait(l);
}

static ALWAYS_INLINE void bt_unlock(struct bt_lock *l)
{
    if (UNLIKELY(atomic_exchange_explicit(&l->word, 0, memory_order_release) == 2))
        bt_lock_wake(l);
}

/* Wake one that waits on word. */
void bt_futex_wake(_Atomic uint32_t *word);

/* a * b / d with a 128-bit product. The quotient must fit 64 bits (hi(a*b) < d). */
static inline uint64_t bt_muldiv(uint64_t a, uint64_t b, uint64_t d)
{
    uint64_t hi, lo, quot, rem;

    __asm__("mulq %3" : "=a"(lo), "=d"(hi) : "a"(a), "r"(b) : "cc");
    if (UNLIKELY(hi >= d))
        return UINT64_MAX;
    __asm__("divq %4" : "=a"(quot), "=d"(rem) : "a"(lo), "d"(hi), "r"(d) : "cc");
    return quot;
}

/* A clock that was at base_ns when the host TSC was base_tsc, in the arithmetic of kvm-clock, so that the guest
 * computes the same values: ns = base_ns + ((delta shifted by shift) * mul >> 32). */
struct bt_clock {
    uint64_t base_tsc, base_ns;
    uint32_t mul;
    int8_t shift;
};
void bt_clock_init(struct bt_clock *k, uint64_t tsc_khz, uint64_t base_tsc, uint64_t base_ns);

/* ns of a TSC delta; saturates. */
static inline uint64_t bt_clock_scale(const struct bt_clock *k, uint64_t delta)
{
    unsigned __int128 wide = delta;

    wide = (k->shift >= 0 ? wide << k->shift : wide >> -k->shift) * k->mul >> 32;
    return wide > UINT64_MAX ? UINT64_MAX : (uint64_t)wide;
}

static inline uint64_t bt_clock_ns(const struct bt_clock *k, uint64_t tsc)
{
    uint64_t ns = tsc <= k->base_tsc ? 0 : bt_clock_scale(k, tsc - k->base_tsc);

    return ns > UINT64_MAX - k->base_ns ? UINT64_MAX : k->base_ns + ns;
}

#endif
