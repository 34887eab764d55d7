/* Misuse of the transport's registers: rings in wrong places, queues that move, status and feature negotiation out of
 * order, notifications of everything, resets in the middle. Spec: virtio 1.2 sections 2.1, 3.1 and 4.1.4. */
#include "virtio.h"

#define READY (ST_ACK | ST_DRIVER | ST_FEATURES_OK | ST_DRIVER_OK)

/* Start d with one bad queue (0); the others are good. Then the device must say that it needs a reset. */
static void bad_queue(struct vdev *d, const char *what, uint64_t features, uint16_t size, uint64_t desc,
                      uint64_t driver, uint64_t device)
{
    CHECK(vdev_begin(d, features), "%s: %s does not begin", what, d->name);
    for (unsigned i = 0; i < d->n_queues; i++) {
        struct ring *r = &d->q[i];

        ring_clear(d, i);
        if (i == 0)
            vdev_set_queue(d, i, size, desc, driver, device);
        else
            vdev_set_queue(d, i, r->size, (uint64_t)r->desc, (uint64_t)r->driver, (uint64_t)r->device);
        vdev_enable_queue(d, i);
    }
    vdev_set_status(d, READY);
    CHECK(vdev_wait_broken(d), "%s: %s takes it", what, d->name);
    vdev_kick(d, 0);
    others_work(d);
    revive(d, what);
}

static void bad_rings(void)
{
    static const struct {
        const char *what;
        uint64_t addr; /* 0: the proper place */
        uint64_t add;
    } places[] = {
        { "unaligned", 0, 1 },         { "in the MMIO hole", MMIO_HOLE, 0 },
        { "in ECAM", ECAM, 0 },        { "at 4 GiB", 1ULL << 32, 0 },
        { "at 2^63", 1ULL << 63, 0 },  { "at the end of addresses", ~0ULL - 4095, 0 },
        { "wrapping", ~0ULL - 15, 0 },
    };

    for (unsigned n = 0; n < n_devices; n++) {
        struct vdev *d = &devices[n];
        struct ring *r = &d->q[0];
        uint64_t good[3] = { (uint64_t)r->desc, (uint64_t)r->driver, (uint64_t)r->device };

        for (unsigned p = 0; p < ARRAY_SIZE(places); p++) {
            for (unsigned area = 0; area < 3; area++) {
                for (unsigned packed = 0; packed < 2; packed++) {
                    uint64_t at[3] = { good[0], good[1], good[2] };

                    at[area] = places[p].addr ? places[p].addr : at[area] + places[p].add;
                    bad_queue(d, places[p].what, packed ? F_PACKED : 0, 64, at[0], at[1], at[2]);
                }
            }
        }
        bad_queue(d, "over the end of RAM", 0, 64, ram_end - 512, good[1], good[2]);
        bad_queue(d, "over the end of RAM", 0, 64, good[0], ram_end - 8, good[2]);
        bad_queue(d, "over the end of RAM", 0, 64, good[0], good[1], ram_end - 64);
    }
}

/* One queue in the place of another, and everything in one place: allowed nonsense, which must stay inside. */
static void shared_rings(void)
{
    for (unsigned n = 0; n < n_devices; n++) {
        struct vdev *d = &devices[n];
        uint64_t at = (uint64_t)d->q[0].desc;

        for (unsigned packed = 0; packed < 2; packed++) {
            CHECK(vdev_begin(d, packed ? F_PACKED | F_EVENT_IDX : F_EVENT_IDX), "begin");
            for (unsigned i = 0; i < d->n_queues; i++) {
                ring_clear(d, i);
                vdev_set_queue(d, i, 64, at, at, at);
                vdev_enable_queue(d, i);
            }
            for (unsigned i = 0; i < 2048; i++)
                ((volatile uint16_t *)at)[i] = (uint16_t)(i * 0x4d31);
            vdev_set_status(d, READY);
            for (unsigned i = 0; i < 200; i++)
                vdev_kick(d, i % d->n_queues);
            others_work(d);
            revive(d, "rings in one place");
        }
    }
}

/* The shared memory of two devices: the victim's used ring lies in the witness's descriptors. Only the witness's own
 * queue can suffer, and it comes back. */
static void crossed_rings(void)
{
    struct seg seg = { (uint64_t)rng->q[0].buf, 64, true };

    CHECK(vdev_begin(rng, 0), "begin");
    ring_clear(rng, 0);
    vdev_set_queue(rng, 0, 64, (uint64_t)rng->q[0].desc, (uint64_t)rng->q[0].driver, (uint64_t)disk0->q[0].desc);
    vdev_enable_queue(rng, 0);
    vdev_set_status(rng, READY);
    for (unsigned i = 0; i < 64; i++)
        ring_add(rng, 0, &seg, 1);
    vdev_kick(rng, 0);
    vdev_kick(disk0, 0);
    CHECK(vdev_works(disk1) && vdev_works(net), "bystanders do not work");
    CHECK(vdev_reset(rng), "reset");
    revive(disk0, "crossed");
    revive(rng, "crossed");
}

static void queue_sizes(void)
{
    static const uint16_t wrong[] = { 0, 257, 512, 0x8000, 0xffff };
    static const uint16_t odd[] = { 3, 100, 255 };

    for (unsigned n = 0; n < n_devices; n++) {
        struct vdev *d = &devices[n];
        struct ring *r = &d->q[0];

        CHECK(vdev_begin(d, 0), "begin");
        for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
            uint16_t before;

            wr16(d->common + C_QUEUE_SELECT, 0);
            before = rd16(d->common + C_QUEUE_SIZE);
            wr16(d->common + C_QUEUE_SIZE, wrong[i]);
            CHECK_EQ("size after a wrong one", rd16(d->common + C_QUEUE_SIZE), before);
        }
        for (unsigned i = 0; i < ARRAY_SIZE(odd); i++) {
            wr16(d->common + C_QUEUE_SIZE, 256);
            if (odd[i] <= rd16(d->common + C_QUEUE_SIZE))
                bad_queue(d, "odd size", 0, odd[i], (uint64_t)r->desc, (uint64_t)r->driver, (uint64_t)r->device);
        }
        revive(d, "queue sizes");
    }
    /* A queue that is not there. */
    for (unsigned i = 4; i < 0x10000; i = i * 3 + 1) {
        wr16(disk0->common + C_QUEUE_SELECT, (uint16_t)i);
        CHECK_EQ("size of a missing queue", rd16(disk0->common + C_QUEUE_SIZE), 0);
        wr16(disk0->common + C_QUEUE_SIZE, 8);
        wr64(disk0->common + C_QUEUE_DESC, 0x1000);
        wr16(disk0->common + C_QUEUE_ENABLE, 1);
        wr16(disk0->common + C_QUEUE_VECTOR, 0);
    }
    CHECK(vdev_works(disk0), "after writes to missing queues");
}

/* A live queue does not move: its registers keep what they have, requests go on in the old place. */
static void moved_live(void)
{
    for (unsigned n = 0; n < n_devices; n++) {
        struct vdev *d = &devices[n];

        for (unsigned i = 0; i < d->n_queues; i++) {
            vdev_set_queue(d, i, 16, 0x5000, MMIO_HOLE, ~0ULL);
            vdev_enable_queue(d, i);
            wr16(d->common + C_QUEUE_ENABLE, 0);
            vdev_enable_queue(d, i);
            vdev_kick(d, i);
            CHECK_EQ("address of a live queue", rd64(d->common + C_QUEUE_DESC), (uint64_t)d->q[i].desc);
        }
        CHECK(vdev_works(d), "%s: moved while live", d->name);
        others_work(d);
    }
}

static void notify_everything(void)
{
    CHECK(vdev_begin(disk0, 0), "begin");
    for (unsigned round = 0; round < 20; round++) {
        for (unsigned i = 0; i < 0x1000; i += 2)
            wr16(disk0->notify + i, (uint16_t)i);
        for (unsigned i = 0; i < 0x100; i++)
            wr8(disk0->notify + i, 0xff);
        for (unsigned i = 0; i < 0x100; i += 4)
            wr64(disk0->notify + i, ~0ULL);
    }
    others_work(disk0);
    CHECK(!(vdev_status(disk0) & ST_NEEDS_RESET), "notifications broke a device that is not live");
    CHECK(vdev_start(disk0, 0), "start");
    for (unsigned i = 0; i < 20000; i++)
        vdev_kick(disk0, i & 3);
    CHECK(vdev_works(disk0), "after a storm of notifications");
    CHECK(vdev_reset(disk0), "reset");
    for (unsigned i = 0; i < 1000; i++)
        vdev_kick(disk0, 0);
    others_work(disk0);
    revive(disk0, "storm");
}

/* Queues set up but not enabled, then DRIVER_OK and notifications. */
static void not_enabled(void)
{
    for (unsigned n = 0; n < n_devices; n++) {
        struct vdev *d = &devices[n];

        CHECK(vdev_begin(d, 0), "begin");
        for (unsigned i = 0; i < d->n_queues; i++) {
            ring_clear(d, i);
            vdev_set_queue(d, i, d->q[i].size, (uint64_t)d->q[i].desc, (uint64_t)d->q[i].driver,
                           (uint64_t)d->q[i].device);
            d->q[i].driver[1] = 5;
        }
        vdev_set_status(d, READY);
        for (unsigned i = 0; i < 1000; i++)
            vdev_kick(d, i % d->n_queues);
        for (unsigned i = 0; i < d->n_queues; i++) {
            vdev_enable_queue(d, i); /* too late (section 4.1.4.3.2) */
            vdev_kick(d, i);
        }
        others_work(d);
        CHECK(!(vdev_status(d) & ST_NEEDS_RESET), "%s: queues that are off broke it", d->name);
        revive(d, "not enabled");
    }
}

static void features_not_offered(void)
{
    for (unsigned n = 0; n < n_devices; n++) {
        struct vdev *d = &devices[n];

        for (unsigned bit = 0; bit < 64; bit++) {
            bool offered;

            wr32(d->common + C_DEVICE_FEATURE_SELECT, bit / 32);
            offered = rd32(d->common + C_DEVICE_FEATURE) >> bit % 32 & 1;
            CHECK_EQ("FEATURES_OK", vdev_begin(d, 1ULL << bit), offered);
            vdev_set_status(d, READY);
            CHECK_EQ("DRIVER_OK", !!(vdev_status(d) & ST_DRIVER_OK), offered);
        }
        CHECK(!vdev_begin(d, ~0ULL), "%s takes all features", d->name);
        /* Features change after FEATURES_OK: they do not. */
        CHECK(vdev_start(d, 0), "start");
        wr32(d->common + C_DRIVER_FEATURE_SELECT, 1);
        wr32(d->common + C_DRIVER_FEATURE, 0xffffffff);
        for (unsigned select = 2; select; select *= 2) {
            wr32(d->common + C_DRIVER_FEATURE_SELECT, select);
            wr32(d->common + C_DRIVER_FEATURE, 0xffffffff);
            wr32(d->common + C_DEVICE_FEATURE_SELECT, select);
            CHECK_EQ("features beyond 64", rd32(d->common + C_DEVICE_FEATURE), 0);
        }
        CHECK(vdev_works(d), "%s: features written late", d->name);
        /* Without VERSION_1. */
        CHECK(vdev_reset(d), "reset");
        vdev_set_status(d, ST_ACK | ST_DRIVER | ST_FEATURES_OK);
        CHECK(!(vdev_status(d) & ST_FEATURES_OK), "%s: legacy driver accepted", d->name);
        revive(d, "features");
    }
}

static void status_order(void)
{
    for (unsigned n = 0; n < n_devices; n++) {
        struct vdev *d = &devices[n];

        for (unsigned status = 1; status < 256; status++) {
            CHECK(vdev_reset(d), "reset");
            vdev_set_status(d, (uint8_t)status);
            CHECK(!(vdev_status(d) & (ST_DRIVER_OK | ST_NEEDS_RESET)), "%s: status %x goes live", d->name,
                  (unsigned long)status);
            vdev_kick(d, 0);
            vdev_set_status(d, (uint8_t)(255 - status));
        }
        revive(d, "status");
        /* Bits cannot be taken back, nor NEEDS_RESET be set, but by a reset. */
        for (unsigned status = 1; status < 256; status++)
            vdev_set_status(d, (uint8_t)((status | ST_ACK) & ~ST_FAILED));
        CHECK(vdev_works(d), "%s: status written while live", d->name);
        vdev_set_status(d, 0xff);
        revive(d, "failed");
    }
    others_work(NULL);
}

/* All registers of the BAR in all sizes at all places, then back to work. */
static void odd_accesses(void)
{
    for (unsigned n = 0; n < n_devices; n++) {
        struct vdev *d = &devices[n];

        for (unsigned off = 0; off < 0x4000; off += off % 0x1000 < 0x50 ? 1 : 0x3b) {
            volatile uint8_t *p = d->bar + off;

            if (off + 8 > 0x4000)
                break;
            (void)rd8(p);
            (void)rd16(p);
            (void)rd32(p);
            (void)rd64(p);
            if (off <= C_STATUS && off + 8 > C_STATUS)
                continue; /* a status of its own */
            wr8(p, 0xa5);
            wr16(p, 0xffff);
            wr32(p, 0x5a5a5a5a);
            wr64(p, ~0ULL);
        }
        for (unsigned off = 0x4000 - 8; off < 0x4000; off++)
            wr64(d->bar + off, ~0ULL); /* over the end */
        revive(d, "odd accesses");
    }
    others_work(NULL);
}

/* Resets while requests are in flight. Once the status reads 0 no byte of the guest changes any more. */
static void reset_in_flight(void)
{
    for (unsigned round = 0; round < 30; round++) {
        struct vdev *d = round & 1 ? disk0 : rng;
        uint64_t *data = (void *)(d->q[0].buf + 4096);
        uint32_t *header = (void *)d->q[0].buf;
        struct seg read[3] = { { (uint64_t)header, 16, false },
                               { (uint64_t)data, 32768, true },
                               { (uint64_t)header + 16, 1, true } };
        struct seg fill = { (uint64_t)data, 32768, true };

        CHECK(vdev_start(d, 0), "start");
        memset(header, 0, 32);
        for (unsigned i = 0; i < 16; i++)
            ring_add(d, 0, d == rng ? &fill : read, d == rng ? 1 : 3);
        vdev_kick(d, 0);
        for (unsigned i = 0; i < round * 10; i++)
            cpu_relax();
        CHECK(vdev_reset(d), "%s does not reset under load", d->name);
        memset(data, 0x77, 32768);
        memset(header, 0x77, 32);
        memset((void *)d->q[0].device, 0x77, 4096);
        CHECK(vdev_works(disk1), "the witness stands");
        for (unsigned i = 0; i < 4096; i++) {
            if (data[i] != 0x7777777777777777ULL) {
                guest_fail("%s writes after its reset", d->name);
                break;
            }
        }
        CHECK_EQ("header after reset", header[4], 0x77777777);
        CHECK_EQ("used ring after reset", d->q[0].device[1], 0x7777);
    }
    revive(disk0, "reset in flight");
    revive(rng, "reset in flight");
}

static void reset_storm(void)
{
    for (unsigned i = 0; i < 2000; i++) {
        struct vdev *d = &devices[i % n_devices];

        vdev_set_status(d, 0);
        vdev_set_status(d, ST_ACK | ST_DRIVER | ST_FEATURES_OK);
        vdev_set_status(d, READY);
        vdev_kick(d, 0);
    }
    for (unsigned i = 0; i < n_devices; i++)
        revive(&devices[i], "reset storm");
}

/* ---- requests of the devices themselves ---- */

static void blk_requests(void)
{
    static const uint32_t types[] = { 2, 3, 5, 6, 7, 9, 10, 12, 14, 0x80000000, 0xffffffff };
    uint8_t *data = disk0->q[0].buf + 4096;
    uint64_t *range = (void *)data;

    for (unsigned i = 0; i < ARRAY_SIZE(types); i++)
        CHECK_EQ("unknown request type", blk_request(disk0, 0, types[i], 0, data, 512, true), 2);
    CHECK_EQ("read behind the end", blk_request(disk0, 0, 0, ~0ULL, data, 512, true), 1);
    CHECK_EQ("read behind the end", blk_request(disk0, 0, 0, 1ULL << 55, data, 512, true), 1);
    CHECK_EQ("write behind the end", blk_request(disk0, 0, 1, ~0ULL >> 9, data, 512, false), 1);
    CHECK_EQ("write behind the end", blk_request(disk0, 0, 1, ~0ULL >> 9 | 1ULL << 63, data, 512, false), 1);
    CHECK_EQ("part of a sector", blk_request(disk0, 0, 0, 0, data, 511, true), 1);
    CHECK_EQ("part of a sector", blk_request(disk0, 0, 1, 0, data, 1, false), 1);
    CHECK_EQ("read into nothing", blk_request(disk0, 0, 0, 0, data, 0, true), 0);
    CHECK_EQ("writable data of a write", blk_request(disk0, 0, 1, 0, data, 512, true), 0); /* writes nothing */
    for (unsigned type = 11; type <= 13; type += 2) {
        uint8_t status;

        range[0] = ~0ULL;
        range[1] = 0xffffffff;
        CHECK_EQ("range behind the end", blk_request(disk0, 0, type, 0, data, 16, false), 1);
        range[0] = 0;
        range[1] = ~0ULL;
        status = blk_request(disk0, 0, type, 0, data, 16, false);
        CHECK(status == 1 || status == 2, "range with unknown flags: status %u", status);
        for (unsigned i = 0; i < 64; i++)
            range[i] = ~0ULL;
        status = blk_request(disk0, 0, type, 0, data, 16 * 32, false);
        CHECK(status == 1 || status == 2, "too many ranges: status %u", status);
        CHECK_EQ("part of a range", blk_request(disk0, 0, type, 0, data, 15, false), 2);
    }
    CHECK(vdev_works(disk0), "after bad requests");
    others_work(disk0);
}

static void net_frames(void)
{
    uint8_t *out = net->q[1].buf;
    struct seg tx = { (uint64_t)out, 0, false };

    /* Checksum offsets outside the frame, segmentation that is not offered, lengths from nothing to too much. */
    for (unsigned i = 0; i < 400; i++) {
        for (unsigned b = 0; b < 64; b++)
            out[b] = (uint8_t)(i * 31 + b * 17);
        out[0] = (uint8_t)i;
        tx.len = i < 200 ? i : i * 160;
        CHECK(ring_request(net, 1, &tx, 1), "frame of %u bytes does not come back", tx.len);
    }
    for (unsigned i = 0; i < 256; i++) {
        struct seg ctrl[2] = { { (uint64_t)out, 1 + i % 70, false }, { (uint64_t)out + 4096, 1, true } };

        memset(out, (int)i, 128);
        out[0] = (uint8_t)(i & 7);
        out[1] = (uint8_t)(i >> 3 & 3);
        CHECK(ring_request(net, 2, ctrl, 2), "control command does not come back");
    }
    CHECK(vdev_works(net), "after bad frames");
    others_work(net);
}

const struct hostile_case register_cases[] = {
    { "bad-rings", bad_rings },
    { "shared-rings", shared_rings },
    { "crossed-rings", crossed_rings },
    { "queue-sizes", queue_sizes },
    { "moved-live", moved_live },
    { "notify-everything", notify_everything },
    { "not-enabled", not_enabled },
    { "features-not-offered", features_not_offered },
    { "status-order", status_order },
    { "odd-accesses", odd_accesses },
    { "reset-in-flight", reset_in_flight },
    { "reset-storm", reset_storm },
    { "blk-requests", blk_requests },
    { "net-frames", net_frames },
    { 0 },
};
