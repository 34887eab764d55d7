/* The frequency of the host's TSC: measured against CLOCK_MONOTONIC_RAW for 10 ms, and replaced by the exact figure
 * that CPUID states (leaf 0x15, or a hypervisor's 0x40000010) where that agrees with the measurement. */
#include <cpuid.h>
#include <time.h>

#include "cpu/bt/irqchip/chip.h"

#define CALIBRATE_NS 10000000LL

struct sample {
    uint64_t tsc;
    int64_t ns;
};

/* TSC and clock at the same moment: the best of several tries is the one with the least between its two TSC reads. */
static struct sample calibrate_sample(void)
{
    struct sample best = { 0, 0 };
    uint64_t best_width = UINT64_MAX;

    for (unsigned i = 0; i < 20; i++) {
        struct timespec ts = { 0, 0 };
        uint64_t before = bt_host_tsc(), after;

        clock_gettime(CLOCK_MONOTONIC_RAW, &ts);
        after = bt_host_tsc();
        if (after - before >= best_width)
            continue;
        best_width = after - before;
        best.tsc = before + best_width / 2;
        best.ns = (int64_t)ts.tv_sec * 1000000000LL + ts.tv_nsec;
    }
    return best;
}

/* kHz as CPUID says, 0 where it does not. */
static uint64_t calibrate_cpuid(void)
{
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;

    if (__get_cpuid_max(0, NULL) >= 0x15) {
        __cpuid_count(0x15, 0, eax, ebx, ecx, edx);
        if (eax && ebx && ecx)
            return (uint64_t)ecx * ebx / eax / 1000;
    }
    __cpuid(1, eax, ebx, ecx, edx);
    if (ecx >> 31) {
        __cpuid(0x40000000, eax, ebx, ecx, edx);
        if (eax >= 0x40000010 && eax < 0x40010000) {
            __cpuid(0x40000010, eax, ebx, ecx, edx);
            return eax;
        }
    }
    return 0;
}

uint64_t bt_tsc_khz_measure(void)
{
    struct timespec nap = { 0, CALIBRATE_NS };
    struct sample a = calibrate_sample(), b;
    uint64_t khz, stated, diff;

    do {
        nanosleep(&nap, NULL);
        b = calibrate_sample();
    } while (b.ns - a.ns < CALIBRATE_NS / 2);
    khz = bt_muldiv(b.tsc - a.tsc, 1000000, (uint64_t)(b.ns - a.ns));
    stated = calibrate_cpuid();
    diff = stated > khz ? stated - khz : khz - stated;
    /* Closer than 0.1 %: the same frequency, and the stated one is exact. */
    return diff < khz / 1000 ? stated : khz;
}
