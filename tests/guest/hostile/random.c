/* Random values in random sizes to every register of the machine, for `seconds`, from a fixed `seed`. Left out is only
 * what ends the VM on purpose: the resets at ports 0xcf9, 0x92 and 0x64, ACPI's sleep enable bit, the exit port, and
 * INIT or start-up messages to this very CPU. A heartbeat line each second says that the guest still runs; what the
 * host did with it is the test's business (hostile.py). */
#include "virtio.h"

#define EXIT_PORT 0xf4
#define PM1_CONTROL 0x604
#define LCR 0x3fb

static uint64_t state;
static unsigned interrupts;

static uint64_t next(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state * 0x2545f4914f6cdd1dULL;
}

static uint64_t below(uint64_t n)
{
    return (next() >> 33) % n;
}

/* Values that mean something more often than chance would have it. */
static uint64_t value(void)
{
    uint64_t v = next();

    switch (below(8)) {
    case 0:
        return 0;
    case 1:
        return ~0ULL;
    case 2:
        return 1ULL << (v & 63);
    case 3:
        return v & 0xff;
    case 4:
        return v & (ram_end - 1); /* an address in RAM */
    case 5:
        return ECAM + (v & 0xffffff);
    default:
        return v;
    }
}

static bool touches(unsigned port, unsigned len, unsigned first, unsigned last)
{
    return port <= last && port + len > first;
}

static bool ends_vm(unsigned port, unsigned len, uint32_t v)
{
    if (port + len > 0x10000 || touches(port, len, 0xcf9, 0xcf9) || touches(port, len, 0x92, 0x92) ||
        touches(port, len, EXIT_PORT, EXIT_PORT + 3))
        return true;
    /* i8042: pulse of the reset line, and the output port whose bit 0 is that line. */
    if (touches(port, len, 0x64, 0x64) && (port != 0x64 || len != 1 || (v & 0xf0) == 0xf0 || (v & 0xff) == 0xd1))
        return true;
    return touches(port, len, PM1_CONTROL, PM1_CONTROL + 1) && (port != PM1_CONTROL || len != 2 || v & 0x2000);
}

static void poke_port(void)
{
    static const uint16_t known[] = { 0x20,  0x40,  0x60,  0x70,  0x80,  0xa0, 0x3f8,
                                      0x3f8, 0x600, 0x610, 0xcf8, 0xcfc, 0xed, 0x4d0 };
    uint16_t port = (uint16_t)(below(4) ? known[below(ARRAY_SIZE(known))] + below(8) : next());
    unsigned len = 1u << below(3);
    uint32_t v = (uint32_t)value();

    if (ends_vm(port, len, v))
        return;
    if (below(3) == 0) {
        if (len == 1)
            (void)inb(port);
        else if (len == 2)
            (void)inw(port);
        else
            (void)inl(port);
    } else if (len == 1) {
        outb(port, (uint8_t)v);
    } else if (len == 2) {
        outw(port, (uint16_t)v);
    } else {
        outl(port, v);
    }
}

static void poke(uint64_t addr, unsigned len, uint64_t v, bool write)
{
    volatile void *p = (volatile void *)addr;

    if (!write) {
        switch (len) {
        case 1:
            (void)rd8(p);
            break;
        case 2:
            (void)rd16(p);
            break;
        case 4:
            (void)rd32(p);
            break;
        default:
            (void)rd64(p);
            break;
        }
        return;
    }
    switch (len) {
    case 1:
        wr8(p, (uint8_t)v);
        break;
    case 2:
        wr16(p, (uint16_t)v);
        break;
    case 4:
        wr32(p, (uint32_t)v);
        break;
    default:
        wr64(p, v);
        break;
    }
}

/* Delivery modes other than fixed and lowest priority could be INIT, which ends this CPU: rightly so, but no test. */
static uint64_t tame(uint64_t v)
{
    return v & ~0x600ULL;
}

static void poke_apic(void)
{
    uint64_t base = below(2) ? LAPIC_BASE : 0xfec00000;
    uint64_t off = below(2) ? below(0x40) * 16 : below(0x1000);

    poke(base + off, below(2) ? 4 : 1u << below(4), tame(value()), below(3) != 0);
}

static void poke_ecam(void)
{
    uint64_t slot = below(4) ? devices[below(n_devices)].slot : below(256);
    uint64_t off = below(4) ? below(256) : below(4096);

    poke(ECAM + slot * (below(8) ? 0x8000 : 0x1000) % 0x100000 + off, 1u << below(4), value(), below(4) != 0);
}

/* A register of a device, wherever its BAR was at the start. */
static void poke_device(void)
{
    struct vdev *d = &devices[below(n_devices)];

    switch (below(4)) {
    case 0:
        poke((uint64_t)d->common + below(0x40), 1u << below(4), value(), below(4) != 0);
        break;
    case 1:
        poke((uint64_t)d->bar + below(0x4000), 1u << below(4), value(), below(4) != 0);
        break;
    case 2:
        poke((uint64_t)d->msix + below(0x2000), below(2) ? 4 : 1u << below(4), tame(value()), below(4) != 0);
        break;
    default:
        poke(0xc0000000 + below(0x100000), 1u << below(4), tame(value()), below(4) != 0);
        break;
    }
}

/* A device that has come far enough to look at rings, which are full of noise. Addresses in them lie in the ring's own
 * buffer or nowhere, since a device may write where it is told to and the guest's own code must live. Not the
 * witness's. */
static void half_start(void)
{
    struct vdev *d = &devices[below(n_devices)];
    uint64_t features = below(2) ? F_PACKED : 0;

    if (d == disk1 || d == disk0)
        d = below(2) ? net : rng;
    features |= (below(2) ? F_INDIRECT : 0) | (below(2) ? F_EVENT_IDX : 0);
    vdev_set_status(d, 0);
    if (vdev_status(d) != 0 || !vdev_begin(d, features))
        return;
    for (unsigned i = 0; i < d->n_queues; i++) {
        struct ring *r = &d->q[i];

        for (unsigned n = 0; n < 256; n++) {
            r->desc[n].addr = below(8) ? (uint64_t)r->buf + below(BUF_BYTES) : value() | 1ULL << 40;
            r->desc[n].len = below(8) ? (uint32_t)below(4096) : (uint32_t)next();
            if (r->desc[n].len > 4096 && r->desc[n].addr < ram_end)
                r->desc[n].addr |= 1ULL << 40;
            if (d->packed) {
                r->desc[n].id = (uint16_t)below(256);
                r->desc[n].pflags = (uint16_t)next() & (below(4) ? (uint16_t)~DESC_INDIRECT : 0xffff);
            } else {
                r->desc[n].flags = (uint16_t)next() & (below(4) ? 3 : 7);
                r->desc[n].next = (uint16_t)below(below(4) ? 256 : 65536);
            }
            r->driver[n] = (uint16_t)below(256);
        }
        r->driver[0] = (uint16_t)below(4);
        r->driver[1] = (uint16_t)below(below(2) ? 256 : 65536);
        vdev_set_queue(d, i, (uint16_t)(1 << below(9)), (uint64_t)r->desc, (uint64_t)r->driver, (uint64_t)r->device);
        vdev_enable_queue(d, i);
    }
    vdev_set_status(d, 15);
    for (unsigned i = 0; i < 8; i++)
        vdev_kick(d, i % d->n_queues);
}

static void serial_init(void)
{
    outb(LCR, 0x80);
    outb(0x3f8, 1);
    outb(0x3f9, 0);
    outb(LCR, 3);
    outb(0x3f9, 0);
    outb(0x3fa, 7);
    outb(0x3fc, 3);
}

static void stray(struct frame *f)
{
    (void)f;
    interrupts++;
}

/* Everything back to where a driver can find it. */
static void repair(const uint32_t bars[][6])
{
    for (unsigned n = 0; n < n_devices; n++)
        wr16(devices[n].config + 4, 0);
    for (unsigned n = 0; n < n_devices; n++) {
        wr16(devices[n].config + devices[n].msix_cap + 2, 0);
        for (unsigned i = 0; i < 6; i++)
            wr32(devices[n].config + 0x10 + 4 * i, bars[n][i]);
    }
    for (unsigned n = 0; n < n_devices; n++)
        wr16(devices[n].config + 4, 6);
    for (unsigned n = 0; n < n_devices; n++)
        revive(&devices[n], "random");
}

void random_run(void)
{
    static uint32_t bars[8][6];
    unsigned seed = guest_option("seed", 1), seconds = guest_option("seconds", 5), beats = 0;
    uint64_t start = now_ms(), count = 0;

    state = seed * 0x9e3779b97f4a7c15ULL | 1;
    for (unsigned n = 0; n < n_devices; n++) {
        for (unsigned i = 0; i < 6; i++)
            bars[n][i] = rd32(devices[n].config + 0x10 + 4 * i);
    }
    for (unsigned v = 0x20; v < 256; v++)
        guest_handlers[v] = stray;
    guest_handlers[NMI] = stray; /* by a local vector table entry */
    guest_print("random: seed %u, %u s\n", seed, seconds);
    while (now_ms() - start < seconds * 1000ULL) {
        for (unsigned i = 0; i < 256; i++, count++) {
            switch (below(16)) {
            case 0 ... 3:
                poke_port();
                break;
            case 4 ... 6:
                poke_ecam();
                break;
            case 7 ... 9:
                poke_apic();
                break;
            default:
                poke_device();
                break;
            }
        }
        if (below(4) == 0)
            half_start();
        if ((now_ms() - start) / 1000 > beats) {
            beats++;
            serial_init();
            guest_print("\nheartbeat %u: %u accesses\n", beats, (unsigned)count);
            if (beats % 4 == 0)
                repair((const uint32_t(*)[6])bars);
        }
    }
    serial_init();
    repair((const uint32_t(*)[6])bars);
    others_work(NULL);
    guest_print("random: %u accesses\n", (unsigned)count);
}
