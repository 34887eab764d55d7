#include "clock.h"

uint64_t __wrap_sys_now_ns(void);

static uint64_t clock_now_ns = 1;

uint64_t __wrap_sys_now_ns(void)
{
    return clock_now_ns;
}

void clock_set(uint64_t now_ns)
{
    clock_now_ns = now_ns;
}

void clock_advance(uint64_t ns)
{
    clock_now_ns += ns;
}
