/* Two CPUs against one device: while the first lets it work, the second changes what it works on. What the device has
 * checked must be what it uses, and registers may be hit from both sides at any moment. Wants cpus=2 on the command
 * line. */
#include "virtio.h"

static volatile bool stop;
static volatile uint64_t turns;

static uint64_t roll(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state * 0x2545f4914f6cdd1dULL >> 16;
}

/* Descriptors, indices and an indirect table of disk0 change between good and bad all the time. */
static void change_rings(unsigned cpu)
{
    struct ring *r = &disk0->q[0];
    uint64_t state = 12345 + cpu;

    while (!stop) {
        uint64_t v = roll(&state);
        volatile struct desc *d = &r->desc[v >> 8 & 15];

        turns++;
        switch (v & 7) {
        case 0:
            d->addr = (uint64_t)r->buf + 4096;
            break;
        case 1:
            d->addr = ram_end - 8;
            break;
        case 2:
            d->len = v & 16 ? 512 : 0xffffffff;
            break;
        case 3:
            d->flags = v >> 12 & 7;
            break;
        case 4:
            d->next = v & 16 ? 0xffff : v >> 12 & 15;
            break;
        case 5:
            d->len = 16 * (v >> 12 & 63);
            break;
        case 6:
            r->driver[1] = (uint16_t)(r->driver[1] + (v & 16 ? 1 : 3));
            break;
        default:
            r->driver[2 + (v >> 12 & 255)] = v >> 20 & 15;
            break;
        }
    }
}

static void race_begin(void)
{
    CHECK_EQ("CPUs", cpus_start(), 2);
    turns = 0;
}

/* The other CPU has taken part, or nothing was tested. */
static void race_end(void)
{
    CHECK(turns > 100, "the other CPU took no part");
    others_work(NULL);
}

static void race_rings_with(uint64_t features)
{
    for (unsigned round = 0; round < 60; round++) {
        CHECK(vdev_start(disk0, features), "start");
        for (unsigned i = 0; i < 16; i++)
            desc_set(&disk0->q[0], i, (uint64_t)disk0->q[0].buf, 512, i & 1 ? DESC_WRITE : DESC_NEXT,
                     (uint16_t)((i + 1) & 15));
        memset(disk0->q[0].buf, 0, 4096); /* every header is a read of sector 0 */
        stop = false;
        cpu_call(1, change_rings);
        for (unsigned i = 0; i < 300 && !(vdev_status(disk0) & ST_NEEDS_RESET); i++)
            vdev_kick(disk0, 0);
        CHECK(vdev_reset(disk0), "reset in a race");
        stop = true;
        cpu_wait(1);
        others_work(disk0);
    }
    revive(disk0, "race");
}

static void race_rings(void)
{
    race_begin();
    race_rings_with(0);
    race_rings_with(F_INDIRECT | F_EVENT_IDX);
    race_rings_with(F_PACKED);
    race_rings_with(F_PACKED | F_INDIRECT | F_EVENT_IDX);
    race_end();
}

/* The entropy device's BAR comes and goes, its MSI-X and its registers change, while the other CPU uses it. */
static void change_config(unsigned cpu)
{
    uint64_t state = 777 + cpu;
    uint32_t bar = rd32(rng->config + 0x10 + 4 * rng->bar_index);

    while (!stop) {
        uint64_t v = roll(&state);

        turns++;
        switch (v & 7) {
        case 0:
            wr16(rng->config + 4, v & 16 ? 6 : 0);
            break;
        case 1:
            wr32(rng->config + 0x10 + 4 * rng->bar_index, v & 16 ? bar : (uint32_t)MMIO_HOLE);
            break;
        case 2:
            wr16(rng->config + rng->msix_cap + 2, (uint16_t)(v & 0xc000));
            break;
        case 3:
            wr32(rng->msix + 12, v >> 12 & 1);
            break;
        case 4:
            (void)rd8(rng->isr);
            break;
        case 5:
            wr8(rng->config + rng->pci_cap + 4, (uint8_t)rng->bar_index);
            wr32(rng->config + rng->pci_cap + 8, v & 16 ? C_STATUS : 0x3000);
            wr32(rng->config + rng->pci_cap + 12, 1);
            wr8(rng->config + rng->pci_cap + 16, (uint8_t)(v >> 12 & 15));
            break;
        case 6:
            vdev_set_status(rng, (uint8_t)(v >> 12 & 15));
            break;
        default:
            wr16(rng->common + C_QUEUE_ENABLE, 1);
            break;
        }
    }
    wr16(rng->config + rng->msix_cap + 2, 0);
    wr32(rng->config + 0x10 + 4 * rng->bar_index, bar);
    wr16(rng->config + 4, 6);
}

static void race_config(void)
{
    struct seg fill = { (uint64_t)rng->q[0].buf, 4096, true };

    race_begin();
    stop = false;
    cpu_call(1, change_config);
    for (unsigned round = 0; round < 200; round++) {
        vdev_set_status(rng, 0);
        vdev_set_status(rng, ST_ACK | ST_DRIVER);
        wr32(rng->common + C_DRIVER_FEATURE_SELECT, 1);
        wr32(rng->common + C_DRIVER_FEATURE, 1);
        vdev_set_status(rng, ST_ACK | ST_DRIVER | ST_FEATURES_OK);
        rng->q[0].size = 64;
        rng->q[0].avail = rng->q[0].used = 0;
        memset((void *)rng->q[0].driver, 0, 256);
        rng->packed = false;
        vdev_set_queue(rng, 0, 64, (uint64_t)rng->q[0].desc, (uint64_t)rng->q[0].driver, (uint64_t)rng->q[0].device);
        vdev_enable_queue(rng, 0);
        vdev_set_status(rng, 15);
        for (unsigned i = 0; i < 32; i++) {
            ring_add(rng, 0, &fill, 1);
            vdev_kick(rng, 0);
        }
        if (round % 20 == 0)
            others_work(rng);
    }
    stop = true;
    cpu_wait(1);
    revive(rng, "race of registers");
    race_end();
}

/* Both CPUs reset and start the same device, and each other's. */
static void reset_all(unsigned cpu)
{
    uint64_t state = 4242 + cpu;

    while (!stop) {
        struct vdev *d = roll(&state) & 1 ? net : disk0;

        turns++;
        vdev_set_status(d, 0);
        vdev_set_status(d, 3);
        vdev_set_status(d, 15);
        vdev_kick(d, 1);
    }
}

static void race_resets(void)
{
    struct vdev *both[] = { net, disk0 };

    race_begin();
    stop = false;
    cpu_call(1, reset_all);
    for (unsigned i = 0; i < 400; i++) {
        struct vdev *d = both[i & 1];

        vdev_set_status(d, 0);
        vdev_set_status(d, ST_ACK | ST_DRIVER);
        wr32(d->common + C_DRIVER_FEATURE_SELECT, 1);
        wr32(d->common + C_DRIVER_FEATURE, 1);
        vdev_set_status(d, 11);
        for (unsigned q = 0; q < d->n_queues; q++) {
            vdev_set_queue(d, q, 16, (uint64_t)d->q[q].desc, (uint64_t)d->q[q].driver, (uint64_t)d->q[q].device);
            vdev_enable_queue(d, q);
        }
        vdev_set_status(d, 15);
        vdev_kick(d, 0);
        if (i % 40 == 0)
            CHECK(vdev_works(disk1) && vdev_works(rng), "bystanders do not work");
    }
    stop = true;
    cpu_wait(1);
    revive(net, "race of resets");
    revive(disk0, "race of resets");
    race_end();
}

const struct hostile_case race_cases[] = {
    { "rings", race_rings },
    { "config", race_config },
    { "resets", race_resets },
    { 0 },
};
