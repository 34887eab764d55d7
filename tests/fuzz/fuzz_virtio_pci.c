/* Fuzz target: accesses to a device's registers. Each 12 bytes: offset, length and direction, value. */
#include "fuzz_virtio.h"
#include "virtio/rng.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fuzz_machine f;
    static struct virtio_rng *rng;

    if (!rng) {
        fuzz_machine_init(&f);
        CHECK(virtio_rng_new(&f.env, 1, &rng) == 0);
    }
    for (size_t at = 0; at + 12 <= size && at < 12 * 64; at += 12) {
        /* Half of the accesses go to the device's configuration space, whose BAR register stays as it is. */
        uint64_t config = 0xe0000000 + (1 << 15) + 0x40 + data[at] % 0xc0, off = data[at] | (data[at + 1] & 0x3f) << 8;
        uint64_t addr = data[at + 2] & 8 ? config : fuzz_bar(&f) + off, value;

        memcpy(&value, data + at + 4, 8);
        if (data[at + 2] & 4)
            (void)bus_read(f.mmio, addr, &value, 1U << (data[at + 2] & 3));
        else
            (void)bus_write(f.mmio, addr, &value, 1U << (data[at + 2] & 3));
        CHECK(loop_run_once(f.loop) >= 0);
    }
    fuzz_reset(&f);
    return 0;
}
