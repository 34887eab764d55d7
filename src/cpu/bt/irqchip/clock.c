/* Scale factors between TSC and nanoseconds. */
#include "cpu/bt/irqchip/host.h"

void bt_clock_init(struct bt_clock *k, uint64_t tsc_khz, uint64_t base_tsc, uint64_t base_ns)
{
    uint64_t hz = (tsc_khz ? tsc_khz : 1) * 1000;
    int shift = 0;

    /* Bring the frequency into (1, 2] GHz, so that the multiplier has all its 32 bits. */
    while (hz <= 1000000000ULL) {
        hz <<= 1;
        shift++;
    }
    while (hz > 2000000000ULL) {
        hz >>= 1;
        shift--;
    }
    k->base_tsc = base_tsc;
    k->base_ns = base_ns;
    k->mul = (uint32_t)((1000000000ULL << 32) / hz);
    k->shift = (int8_t)shift;
}
