/* System calls and clocks of the run path. See host.h. Must not call libc. */
#include "cpu/bt/irqchip/host.h"

#include <fcntl.h>
#include <linux/prctl.h>
#include <sys/syscall.h>
#include <time.h>

#include "cpu/bt/raw.h"

uint64_t bt_host_tsc(void)
{
    uint32_t lo, hi;

    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return (uint64_t)hi << 32 | lo;
}

static uint64_t host_clock_ns(int clock)
{
    struct timespec ts = { 0, 0 };

    bt_raw_syscall3(SYS_clock_gettime, clock, (long)&ts, 0);
    return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

uint64_t bt_host_mono_ns(void)
{
    return host_clock_ns(CLOCK_MONOTONIC);
}

uint64_t bt_host_real_ns(void)
{
    return host_clock_ns(CLOCK_REALTIME);
}

void bt_host_yield(void)
{
    bt_raw_syscall3(SYS_sched_yield, 0, 0, 0);
}

void bt_host_exact_timers(void)
{
    bt_raw_syscall3(SYS_prctl, PR_SET_TIMERSLACK, 1, 0);
}

int bt_host_tid(void)
{
    return (int)bt_raw_syscall3(SYS_gettid, 0, 0, 0);
}

void bt_host_close(int fd)
{
    bt_raw_syscall3(SYS_close, fd, 0, 0);
}

uint64_t bt_host_run_delay_ns(int *fd)
{
    char text[96];
    uint64_t delay = 0;
    unsigned field = 0;
    long n;

    if (*fd < 0)
        *fd = (int)bt_raw_syscall3(SYS_openat, AT_FDCWD, (long)"/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
    if (*fd < 0)
        return 0;
    n = bt_raw_syscall6(SYS_pread64, *fd, (long)text, sizeof(text), 0, 0, 0);
    /* "<time on CPU> <run delay> <slices>" */
    for (long i = 0; i < n && field < 2; i++) {
        if (text[i] == ' ')
            field++;
        else if (field == 1 && text[i] >= '0' && text[i] <= '9')
            delay = delay * 10 + (uint64_t)(text[i] - '0');
    }
    return delay;
}

void bt_futex_wake(_Atomic uint32_t *word)
{
    bt_raw_futex_wake(word);
}

void bt_lock_wait(struct bt_lock *l)
{
    /* Sections under the lock last well under a microsecond: spin a little before sleeping. */
    for (unsigned i = 0; i < 100; i++) {
        uint32_t free_word = 0;

        if (atomic_load_explicit(&l->word, memory_order_relaxed) == 0 &&
            atomic_compare_exchange_strong_explicit(&l->word, &free_word, 1, memory_order_acquire,
                                                    memory_order_relaxed))
            return;
        __asm__ volatile("pause");
    }
    while (atomic_exchange_explicit(&l->word, 2, memory_order_acquire) != 0)
        bt_raw_futex_wait(&l->word, 2, UINT64_MAX);
}

void bt_lock_wake(struct bt_lock *l)
{
    bt_raw_futex_wake(&l->word);
}
