/* System calls of the run path: no errno, no libc code, vector registers untouched (the kernel preserves them). */
#ifndef CPU_BT_RAW_H
#define CPU_BT_RAW_H

#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>

/* Returns the result or -errno. */
static inline long bt_raw_syscall6(long nr, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long ret;

    __asm__ volatile("syscall"
                     : "=a"(ret)
                     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return ret;
}

static inline long bt_raw_syscall3(long nr, long a, long b, long c)
{
    return bt_raw_syscall6(nr, a, b, c, 0, 0, 0);
}

/* Sleep while *word == seen, until CLOCK_MONOTONIC reaches until_ns (UINT64_MAX: no limit). */
static inline void bt_raw_futex_wait(_Atomic uint32_t *word, uint32_t seen, uint64_t until_ns)
{
    struct timespec ts;

    ts.tv_sec = (time_t)(until_ns / 1000000000ULL);
    ts.tv_nsec = (long)(until_ns % 1000000000ULL);
    bt_raw_syscall6(SYS_futex, (long)word, FUTEX_WAIT_BITSET_PRIVATE, (long)seen,
                    until_ns == UINT64_MAX ? 0 : (long)&ts, 0, (long)FUTEX_BITSET_MATCH_ANY);
}

static inline void bt_raw_futex_wake(_Atomic uint32_t *word)
{
    bt_raw_syscall3(SYS_futex, (long)word, FUTEX_WAKE_PRIVATE, 1);
}

#endif
