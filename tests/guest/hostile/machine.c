/* Guests that hurt as a whole: quiet for ever, crashed, running code where there is none, too much output, interrupts
 * that never end, a network queue that nobody empties. */
#include "virtio.h"

#define COM1 0x3f8
#define IOAPIC 0xfec00000ULL

/* HLT with interrupts off: nothing but the host ends this. */
void quiet_run(void)
{
    guest_print("READY\n");
    cli();
    for (;;)
        __asm__ volatile("hlt");
}

/* Busy for ever, interrupts off, requests in flight. */
void busy_run(void)
{
    uint32_t *header = (void *)disk0->q[0].buf;
    struct seg read[3] = { { (uint64_t)header, 16, false },
                           { (uint64_t)header + 4096, 32768, true },
                           { (uint64_t)header + 16, 1, true } };

    guest_print("READY\n");
    memset(header, 0, 16);
    for (;;) {
        ring_add(disk0, 0, read, 3);
        vdev_kick(disk0, 0);
        (void)ring_poll(disk0, 0);
    }
}

void triple_run(void)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) idtr = { 0, 0 };

    guest_print("READY\n");
    __asm__ volatile("lidt %0; ud2" ::"m"(idtr));
}

/* Run code at addr; whatever exception comes is caught. */
static void exec_at(const char *what, uint64_t addr)
{
    guest_print("%s 0x%X\n", what, addr);
    TRY("call *%0", "r"(addr));
    guest_print("exception %d\n", exc.vector);
}

void exec_mmio_run(void)
{
    guest_print("READY\n");
    exec_at("device", (uint64_t)disk0->bar + 0x2000);
    exec_at("hole", MMIO_HOLE);
    exec_at("ECAM", ECAM);
    exec_at("local APIC", LAPIC_BASE + 0x20);
    exec_at("IOAPIC", IOAPIC);
    exec_at("end of 4 GiB", 0xfffffff0);
}

void exec_end_run(void)
{
    volatile uint8_t *last = (void *)(ram_end - 1);

    guest_print("READY\n");
    *last = 0xc3; /* RET in the last byte works */
    TRY("call *%0", "r"(ram_end - 1));
    CHECK_EXC("ret in the last byte of RAM", NO_EXC, 0);
    *last = 0x90; /* NOP runs into what is no RAM */
    exec_at("nop", ram_end - 1);
    *last = 0x48; /* a prefix, whose instruction lies behind */
    exec_at("prefix", ram_end - 1);
    *last = 0xe8;
    exec_at("half a call", ram_end - 1);
    others_work(NULL);
}

/* Output that nobody reads: bytes pushed out whether there is room or not, then politely for a while. */
void flood_run(void)
{
    guest_print("READY\n");
    for (unsigned i = 0; i < 400000; i++)
        outb(COM1, (uint8_t)('a' + i % 26));
    others_work(NULL);
    for (unsigned i = 0; i < 20000; i++) {
        unsigned tries = 0;

        while (!(inb(COM1 + 5) & 0x20) && ++tries < 100)
            cpu_relax();
        outb(COM1, 'z');
    }
    others_work(NULL);
}

void flood_on_run(void)
{
    guest_print("READY\n");
    for (;;)
        outb(COM1, 'f');
}

/* ---- a level that is not acknowledged ---- */

#define STORM_VECTOR 0x50
static volatile unsigned interrupts;

static void storm(struct frame *f)
{
    (void)f;
    interrupts++;
    if (interrupts == 50000)
        (void)rd8(rng->isr); /* only now the line goes down */
    apic_eoi();
}

static void ioapic_write(uint32_t reg, uint32_t v)
{
    wr32((void *)IOAPIC, reg);
    wr32((void *)(IOAPIC + 0x10), v);
}

void storm_run(void)
{
    unsigned pin = rd8(rng->config + 0x3c);
    uint64_t until = now_ms() + 100000;

    guest_print("READY\n");
    apic_enable();
    guest_handlers[STORM_VECTOR] = storm;
    ioapic_write(0x11 + 2 * pin, 0);
    ioapic_write(0x10 + 2 * pin, 0x8000 | STORM_VECTOR); /* level */
    CHECK(vdev_works(rng), "rng");
    sti();
    while (interrupts < 50000 && now_ms() < until)
        cpu_relax();
    cli();
    CHECK(interrupts >= 50000, "%u interrupts of a line that stays up", interrupts);
    ioapic_write(0x10 + 2 * pin, 0x10000);
    others_work(NULL);
    /* PIT as fast as it goes, unacknowledged at both controllers. */
    outb(0x43, 0x34);
    outb(0x40, 2);
    outb(0x40, 0);
    others_work(NULL);
}

/* Take frames until none comes for a while. What the host kept while nobody took any is bounded, so this ends. */
static unsigned drain(void)
{
    struct seg rx = { (uint64_t)net->q[0].buf, 2048, true };
    unsigned frames = 0;
    uint64_t last = now_ms();

    ring_add(net, 0, &rx, 1);
    vdev_kick(net, 0);
    while (now_ms() - last < 1000 && frames < 1000000) {
        if (!ring_poll(net, 0))
            continue;
        frames++;
        last = now_ms();
        ring_add(net, 0, &rx, 1);
        vdev_kick(net, 0);
    }
    CHECK(vdev_start(net, 0), "net does not start again");
    return frames;
}

/* The host sends and nobody takes it; a byte on the console says when that is over. */
void starve_run(void)
{
    CHECK(vdev_works(net), "net");
    guest_print("READY\n");
    while (!(inb(COM1 + 5) & 1))
        cpu_relax();
    (void)inb(COM1);
    guest_print("%u frames had waited\n", drain());
    others_work(NULL);
}
