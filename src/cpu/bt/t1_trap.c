/* From a trap in translated code to the place where it goes on. Runs in a signal handler: no locks, no libc. */
#include "cpu/bt/t1_priv.h"

uint32_t bt_t1_trap(const struct bt_t1 *t, uint32_t at)
{
    uint32_t lo = 0, hi = atomic_load_explicit(&t->n_traps, memory_order_acquire);

    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;

        if (t->traps[mid].at < at)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < atomic_load_explicit(&t->n_traps, memory_order_acquire) && t->traps[lo].at == at ? t->traps[lo].to : 0;
}
