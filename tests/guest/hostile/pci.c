/* Misuse of PCI: configuration space in every size and place, BARs on top of each other and of everything else, the
 * window of the PCI configuration access capability, MSI-X tables full of garbage. */
#include "virtio.h"

#define COMMAND 4
#define BAR0 0x10
enum { MSIX_ON = 0x8000, MSIX_MASKED = 0x4000 };

static uint32_t bar_get(struct vdev *d, unsigned bar)
{
    return rd32(d->config + BAR0 + 4 * bar);
}

static void bar_set(struct vdev *d, unsigned bar, uint32_t addr)
{
    wr32(d->config + BAR0 + 4 * bar, addr);
}

struct saved {
    uint32_t bars[6];
    uint16_t command;
};

static struct saved save(struct vdev *d)
{
    struct saved s = { .command = rd16(d->config + COMMAND) };

    for (unsigned i = 0; i < 6; i++)
        s.bars[i] = bar_get(d, i);
    return s;
}

static void restore(struct vdev *d, const struct saved *s)
{
    wr16(d->config + COMMAND, 0);
    for (unsigned i = 0; i < 6; i++)
        bar_set(d, i, s->bars[i]);
    wr16(d->config + COMMAND, s->command);
}

/* ---- configuration space ---- */

static void config_reads(void)
{
    volatile uint8_t *ecam = (void *)ECAM;

    for (uint64_t off = 0; off + 8 <= 0x100000; off += off < 0x30000 ? 8 : 512)
        (void)rd64(ecam + off);
    for (unsigned off = 0; off < 0x1010; off++) {
        (void)rd8(disk0->config + off);
        (void)rd16(disk0->config + off);
        (void)rd32(disk0->config + off);
        (void)rd64(disk0->config + off);
    }
    for (unsigned n = 0; n < 2048; n++) {
        outl(0xcf8, n & 1024 ? n * 0x9e3779b1u : 0x80000000 | n * 4);
        for (unsigned at = 0xcf8; at < 0xd00; at++) {
            (void)inb((uint16_t)at);
            (void)inw((uint16_t)at);
            (void)inl((uint16_t)at);
        }
    }
    others_work(NULL);
}

/* Every byte of the victim's configuration space takes every pattern, by both ways. */
static void config_writes(void)
{
    static const uint32_t patterns[] = { 0xffffffff, 0, 0xa5a5a5a5, 0x5a5a5a5a };

    for (unsigned n = 0; n < n_devices; n++) {
        struct vdev *d = &devices[n];
        struct saved s = save(d);

        for (unsigned p = 0; p < ARRAY_SIZE(patterns); p++) {
            for (unsigned off = 0; off < 0x200; off++) {
                wr8(d->config + off, (uint8_t)patterns[p]);
                wr16(d->config + off, (uint16_t)patterns[p]);
                wr32(d->config + off, patterns[p]);
                wr64(d->config + off, patterns[p] * 0x100000001ULL);
            }
            for (unsigned off = 0; off < 0x100; off++) {
                outl(0xcf8, 0x80000000 | d->slot << 11 | (off & 0xfc));
                outb((uint16_t)(0xcfc + (off & 3)), (uint8_t)patterns[p]);
                outw((uint16_t)(0xcfc + (off & 3)), (uint16_t)patterns[p]);
                outl((uint16_t)(0xcfc + (off & 3)), patterns[p]);
            }
        }
        wr16(d->config + d->msix_cap + 2, 0);
        restore(d, &s);
        CHECK_EQ("vendor", rd16(d->config), 0x1af4);
        others_work(d);
        revive(d, "configuration writes");
    }
}

/* ---- BARs ---- */

static void bars_over_each_other(void)
{
    for (unsigned n = 0; n < n_devices; n++) {
        struct vdev *d = &devices[n], *other = &devices[(n + 1) % n_devices];
        struct saved s = save(d);

        for (unsigned bar = 0; bar < 6; bar++) {
            bar_set(d, bar, (uint32_t)(uint64_t)other->bar);
            CHECK(vdev_works(other), "%s does not answer below another BAR", other->name);
            bar_set(d, bar, (uint32_t)(uint64_t)other->msix);
            others_work(d);
        }
        restore(d, &s);
        CHECK(vdev_works(d), "%s: after its BARs went astray", d->name);
    }
}

static void bars_everywhere(void)
{
    static const uint32_t places[] = { 0x0,           0x1000,     0x100000,   0x200000,   ECAM,
                                       ECAM + 0x8000, 0xfec00000, 0xfee00000, 0xfffff000, 0xffffc000,
                                       0xfed00000,    0xbfffc000, 0xa0000,    0xe0000 };

    for (unsigned n = 0; n < n_devices; n++) {
        struct vdev *d = &devices[n];
        struct saved s = save(d);

        for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
            for (unsigned bar = 0; bar < 6; bar++)
                bar_set(d, bar, places[i]);
            /* RAM, ECAM and the interrupt controllers are where they were. */
            CHECK_EQ("ECAM", rd16(d->config), 0x1af4);
            CHECK_EQ("local APIC", apic_read(APIC_ID) >> 24, 0);
            others_work(d);
            vdev_kick(d, 0);
        }
        /* At the end of RAM, where it can be mapped, it works. */
        restore(d, &s);
        CHECK(vdev_works(d), "%s: after a walk of its BARs", d->name);
    }
}

static void bars_in_flight(void)
{
    uint32_t *header = (void *)disk0->q[0].buf;
    struct seg read[3] = { { (uint64_t)header, 16, false },
                           { (uint64_t)disk0->q[0].buf + 4096, 32768, true },
                           { (uint64_t)header + 16, 1, true } };
    struct saved s = save(disk0);

    for (unsigned round = 0; round < 30; round++) {
        CHECK(vdev_start(disk0, 0), "start");
        memset(header, 0, 32);
        for (unsigned i = 0; i < 16; i++)
            ring_add(disk0, 0, read, 3);
        vdev_kick(disk0, 0);
        if (round % 3 == 0)
            wr16(disk0->config + COMMAND, 0);
        else if (round % 3 == 1)
            bar_set(disk0, disk0->bar_index, (uint32_t)MMIO_HOLE);
        else
            bar_set(disk0, disk0->bar_index, (uint32_t)(uint64_t)disk1->bar);
        vdev_kick(disk0, 0);
        for (unsigned i = 0; i < 16; i++)
            CHECK(ring_wait(disk0, 0), "request %u does not come back without its BAR", i);
        others_work(disk0);
        restore(disk0, &s);
    }
    revive(disk0, "BAR away in flight");
}

/* A BAR in a new place answers there, doorbell included, and not in the old one. */
static void bar_moves(void)
{
    for (unsigned n = 0; n < n_devices; n++) {
        struct vdev *d = &devices[n];
        struct vdev moved = *d;
        struct saved s = save(d);
        int64_t by = (int64_t)MMIO_HOLE - (int64_t)(uint64_t)d->bar;

        bar_set(d, d->bar_index, (uint32_t)MMIO_HOLE);
        CHECK_EQ("old place", rd32(d->common + C_NUM_QUEUES), 0xffffffff);
        d->bar += by;
        d->common += by;
        d->isr += by;
        d->notify += by;
        if (d->space)
            d->space += by;
        CHECK(vdev_works(d), "%s does not work at its new place", d->name);
        moved.q[0] = d->q[0];
        for (unsigned i = 0; i < d->n_queues; i++)
            moved.q[i] = d->q[i];
        *d = moved;
        restore(d, &s);
        CHECK(vdev_works(d), "%s does not work at its old place again", d->name);
    }
}

/* ---- the window in configuration space (virtio 1.2 section 4.1.4.9) ---- */

static void window(struct vdev *d, uint8_t bar, uint32_t off, uint32_t len)
{
    wr8(d->config + d->pci_cap + 4, bar);
    wr32(d->config + d->pci_cap + 8, off);
    wr32(d->config + d->pci_cap + 12, len);
}

static void window_abuse(void)
{
    static const uint32_t offs[] = { 0,      1,      3,      0x14,   0x37,   0x38,       0xfff,      0x1000,    0x2000,
                                     0x2ffe, 0x3000, 0x3ffc, 0x3fff, 0x4000, 0x7fffffff, 0xfffffffc, 0xffffffff };
    static const uint32_t lens[] = { 0, 1, 2, 3, 4, 5, 8, 0x100, 0x80000000, 0xffffffff };

    for (unsigned n = 0; n < n_devices; n++) {
        struct vdev *d = &devices[n];
        volatile uint8_t *data = d->config + d->pci_cap + 16;

        for (unsigned bar = 0; bar < 256; bar += bar < 8 ? 1 : 31) {
            for (unsigned o = 0; o < ARRAY_SIZE(offs); o++) {
                for (unsigned l = 0; l < ARRAY_SIZE(lens); l++) {
                    window(d, (uint8_t)bar, offs[o], lens[l]);
                    (void)rd32(data);
                    (void)rd16(data + 1);
                    (void)rd64(data - 4);
                    if (offs[o] != 0x14)
                        wr32(data, 0xffffffff);
                }
            }
        }
        window(d, (uint8_t)d->bar_index, C_NUM_QUEUES, 2);
        CHECK_EQ("queues by the window", rd16(data), d->n_queues);
        window(d, (uint8_t)d->bar_index, C_STATUS, 1);
        CHECK_EQ("status by the window", rd8(data), vdev_status(d));
        wr8(data, 0);
        CHECK(vdev_reset(d), "reset by the window");
        revive(d, "window");
    }
    others_work(NULL);
}

const struct hostile_case pci_cases[] = {
    { "config-reads", config_reads },
    { "config-writes", config_writes },
    { "bars-over-each-other", bars_over_each_other },
    { "bars-everywhere", bars_everywhere },
    { "bars-in-flight", bars_in_flight },
    { "bar-moves", bar_moves },
    { "window-abuse", window_abuse },
    { 0 },
};

/* ---- MSI-X ---- */

#define VECTOR 0x60
static volatile unsigned interrupts;

static void count(struct frame *f)
{
    (void)f;
    interrupts++;
    apic_eoi();
}

static void msix_entry(struct vdev *d, unsigned n, uint64_t addr, uint32_t data, uint32_t control)
{
    wr64(d->msix + 16 * n, addr);
    wr32(d->msix + 16 * n + 8, data);
    wr32(d->msix + 16 * n + 12, control);
}

static void msix_control(struct vdev *d, uint16_t bits)
{
    wr16(d->config + d->msix_cap + 2, bits);
}

static void eat(struct frame *f)
{
    (void)f;
    apic_eoi();
}

/* Take what comes: garbage may hit any vector. */
static void interrupts_init(void)
{
    apic_enable();
    for (unsigned v = 0x20; v < 0xff; v++)
        guest_handlers[v] = v == VECTOR ? count : eat;
}

static void interrupts_drain(void)
{
    sti();
    for (unsigned i = 0; i < 1000; i++)
        cpu_relax();
    cli();
}

static bool wait_pending(struct vdev *d)
{
    uint64_t until = now_ms() + 60000;

    while (!(rd64(d->msix + 4096) & 1)) {
        if (now_ms() > until)
            return false;
    }
    return true;
}

/* Vector 0 for everything; queues are started anew with it. */
static bool start_with_vector(struct vdev *d, uint16_t vector)
{
    if (!vdev_begin(d, 0))
        return false;
    wr16(d->common + C_CONFIG_VECTOR, vector);
    for (unsigned i = 0; i < d->n_queues; i++) {
        ring_clear(d, i);
        vdev_set_queue(d, i, d->q[i].size, (uint64_t)d->q[i].desc, (uint64_t)d->q[i].driver, (uint64_t)d->q[i].device);
        wr16(d->common + C_QUEUE_VECTOR, vector);
        vdev_enable_queue(d, i);
    }
    vdev_set_status(d, 15);
    return vdev_status(d) & ST_DRIVER_OK;
}

static bool wait_interrupts(unsigned n)
{
    uint64_t until = now_ms() + 60000;

    sti();
    while (interrupts < n && now_ms() < until)
        cpu_relax();
    cli();
    return interrupts >= n;
}

static void msix_works(void)
{
    interrupts_init();
    for (unsigned n = 0; n < n_devices; n++) {
        struct vdev *d = &devices[n];

        interrupts = 0;
        msix_entry(d, 0, LAPIC_BASE, VECTOR, 0);
        msix_control(d, MSIX_ON);
        CHECK(start_with_vector(d, 0), "start");
        CHECK(vdev_works(d), "%s with MSI-X", d->name);
        CHECK(wait_interrupts(1), "%s: no interrupt", d->name);
        /* Masked: pending, and delivered when the mask goes. */
        msix_entry(d, 0, LAPIC_BASE, VECTOR, 1);
        interrupts_drain();
        interrupts = 0;
        CHECK(vdev_works(d), "%s masked", d->name);
        CHECK(wait_pending(d), "%s: no pending bit", d->name);
        interrupts_drain();
        CHECK_EQ("interrupts through a mask", interrupts, 0);
        msix_entry(d, 0, LAPIC_BASE, VECTOR, 0);
        CHECK(wait_interrupts(1), "%s: no interrupt after the mask", d->name);
        CHECK_EQ("pending bit", rd64(d->msix + 4096) & 1, 0);
        msix_control(d, 0);
        revive(d, "MSI-X");
    }
}

/* Messages to everywhere but a CPU: RAM, devices, other APICs, reserved modes. */
static void msix_garbage(void)
{
    static const uint64_t addrs[] = { 0,          0x1000,     ECAM,       0xfec00000, 0xfed00000,
                                      0xfee55000, 0xfeeff004, 0xfee5500c, 0xffffffff, 1ULL << 32 | 0xfee00000,
                                      ~0ULL,      1ULL << 63 };
    static const uint32_t words[] = { 0, 15, 0xff, 0x41, 0x141, 0xc141, 0xffffffff, 0xdeadbeef };

    interrupts_init();
    for (unsigned n = 0; n < n_devices; n++) {
        struct vdev *d = &devices[n];

        for (unsigned a = 0; a < ARRAY_SIZE(addrs); a++) {
            for (unsigned w = 0; w < ARRAY_SIZE(words); w++) {
                for (unsigned v = 0; v <= d->n_queues; v++)
                    msix_entry(d, v, addrs[a], words[w], 0);
                msix_control(d, MSIX_ON);
                CHECK(start_with_vector(d, (uint16_t)(w % (d->n_queues + 1))), "start");
                CHECK(vdev_works(d), "%s: message to 0x%X", d->name, addrs[a]);
                msix_control(d, 0);
            }
        }
        others_work(d);
        revive(d, "MSI-X garbage");
    }
}

static void msix_vectors(void)
{
    for (unsigned n = 0; n < n_devices; n++) {
        struct vdev *d = &devices[n];

        msix_control(d, MSIX_ON | MSIX_MASKED);
        CHECK(vdev_begin(d, 0), "begin");
        for (unsigned vector = d->n_queues + 1; vector < 0x10000; vector = vector * 2 + 1) {
            wr16(d->common + C_CONFIG_VECTOR, (uint16_t)vector);
            CHECK_EQ("configuration vector", rd16(d->common + C_CONFIG_VECTOR), 0xffff);
            wr16(d->common + C_QUEUE_SELECT, 0);
            wr16(d->common + C_QUEUE_VECTOR, (uint16_t)vector);
            CHECK_EQ("queue vector", rd16(d->common + C_QUEUE_VECTOR), 0xffff);
        }
        /* The table and the pending bits in all sizes, and what lies behind them. */
        for (unsigned off = 0; off < 0x1ff8; off += off % 0x1000 < 0x80 ? 1 : 0x71) {
            volatile uint8_t *p = d->msix + off;

            (void)rd8(p);
            (void)rd16(p);
            (void)rd32(p);
            (void)rd64(p);
            wr8(p, 0xff);
            wr16(p, 0xffff);
            wr32(p, 0x00055005);
            wr64(p, 0x00055005);
        }
        CHECK(vdev_start(d, 0) && vdev_works(d), "%s after writes all over its MSI-X table", d->name);
        msix_control(d, 0);
        others_work(d);
        revive(d, "MSI-X vectors");
    }
}

/* The control word flips while interrupts are on their way. */
static void msix_flips(void)
{
    for (unsigned n = 0; n < n_devices; n++) {
        struct vdev *d = &devices[n];

        CHECK(start_with_vector(d, 0), "start");
        msix_entry(d, 0, 0xfee55000, 0x41, 0);
        for (unsigned i = 0; i < 200; i++) {
            msix_control(d, (uint16_t)(i * 0x4000));
            if (i % 10 == 0)
                CHECK(vdev_works(d), "%s with flipping MSI-X", d->name);
            vdev_kick(d, 0);
        }
        msix_control(d, 0);
        others_work(d);
        revive(d, "MSI-X flips");
    }
}

const struct hostile_case msix_cases[] = {
    { "works", msix_works }, { "garbage", msix_garbage }, { "vectors", msix_vectors }, { "flips", msix_flips }, { 0 },
};
