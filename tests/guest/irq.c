/* Interrupts on one CPU: local APIC timer (one-shot, periodic, TSC deadline), self-IPI, priorities and TPR, shadows,
 * HLT, IOAPIC, PICs, PIT, NMI, x2APIC. Intel SDM volume 3, chapter 11 (local APIC), 6.8 (masking), 25.3 of volume 2's
 * STI; 82093AA, 8259A and 8254 datasheets. Nothing here depends on how long something takes, except that it happens in
 * the end. */
#include "long.h"

#define IOAPIC ((volatile uint32_t *)0xfec00000)
#define VEC 0x60

static volatile unsigned hits[256];
static volatile uint64_t hit_rip;
static volatile uint8_t order[16];
static volatile unsigned n_order;

static void on_irq(struct frame *f)
{
    unsigned v = (unsigned)f->vector;

    hits[v]++;
    hit_rip = f->rip;
    if (n_order < ARRAY_SIZE(order))
        order[n_order++] = (uint8_t)v;
    apic_eoi();
}

static void prepare(void)
{
    for (unsigned v = VEC; v < 0xf0; v++) {
        if (v != 0x80)
            guest_handlers[v] = on_irq;
    }
    for (unsigned v = 0; v < 256; v++)
        hits[v] = 0;
    n_order = 0;
    apic_enable();
}

static void wait_for(volatile unsigned *count, unsigned want)
{
    while (*count < want)
        sti_hlt_cli();
}

static void self_ipi(unsigned vector)
{
    apic_send(0, 0x40000 | vector); /* shorthand: self */
}

static bool irr(unsigned vector)
{
    return apic_read(APIC_IRR + vector / 32 * 16) >> (vector % 32) & 1;
}

static bool isr(unsigned vector)
{
    return apic_read(APIC_ISR + vector / 32 * 16) >> (vector % 32) & 1;
}

static void test_apic_registers(void)
{
    prepare();
    CHECK_EQ("ID", apic_is_x2() ? apic_read(APIC_ID) : apic_read(APIC_ID) >> 24, cpu_self());
    CHECK((apic_read(APIC_VERSION) & 0xff) >= 0x10, "version");
    CHECK((apic_read(APIC_VERSION) >> 16 & 0xff) >= 3, "LVT entries");
    CHECK_EQ("SVR", apic_read(APIC_SVR) & 0x1ff, 0x1ff);
    apic_write(APIC_LVT_TIMER, 0x10000 | VEC);
    CHECK_EQ("LVT timer", apic_read(APIC_LVT_TIMER), 0x10000 | VEC);
}

static void test_self_ipi(void)
{
    prepare();
    self_ipi(VEC);
    CHECK(irr(VEC), "pending in IRR");
    CHECK_EQ("not taken while IF = 0", hits[VEC], 0);
    sti();
    __asm__ volatile("nop");
    cli();
    CHECK_EQ("taken", hits[VEC], 1);
    CHECK(!irr(VEC) && !isr(VEC), "gone from IRR and ISR");
    self_ipi(VEC);
    self_ipi(VEC);
    sti();
    __asm__ volatile("nop");
    cli();
    CHECK_EQ("two while pending are one", hits[VEC], 2);
}

extern const uint8_t sti_after[], ss_after[];

static void test_shadows(void)
{
    prepare();
    self_ipi(VEC);
    __asm__ volatile("sti; nop; sti_after: nop; cli" ::: "memory");
    CHECK_EQ("taken one instruction behind STI", hit_rip, (uint64_t)sti_after);
    hits[VEC] = 0;
    self_ipi(VEC);
    for (unsigned i = 0; i < 100; i++)
        __asm__ volatile("sti; cli" ::: "memory");
    CHECK_EQ("STI, CLI lets nothing in", hits[VEC], 0);
    __asm__ volatile("sti; mov %0, %%ss; nop; ss_after: nop; cli" ::"r"(0x18) : "memory");
    CHECK_EQ("taken", hits[VEC], 1);
    CHECK(hit_rip == (uint64_t)ss_after || hit_rip == (uint64_t)ss_after - 1,
          "taken behind STI or behind MOV SS's shadow");
    hits[VEC] = 0;
    self_ipi(VEC);
    __asm__ volatile("pushfq; orl $0x200, (%%rsp); popfq; nop; cli" ::: "memory");
    CHECK_EQ("POPF has no shadow, but lets it in", hits[VEC], 1);
}

static void test_priorities(void)
{
    prepare();
    self_ipi(0x71);
    self_ipi(0x93);
    self_ipi(0x92);
    self_ipi(0x72);
    sti();
    __asm__ volatile("nop; nop; nop; nop");
    cli();
    CHECK_EQ("all taken", n_order, 4);
    CHECK(order[0] == 0x93 && order[1] == 0x92 && order[2] == 0x72 && order[3] == 0x71, "order %x %x %x %x",
          (unsigned long)order[0], (unsigned long)order[1], (unsigned long)order[2], (unsigned long)order[3]);
    /* TPR holds back its class and those below. */
    prepare();
    apic_write(APIC_TPR, 0x80);
    CHECK_EQ("PPR follows TPR", apic_read(APIC_PPR), 0x80);
    self_ipi(0x8f);
    self_ipi(0x91);
    sti();
    __asm__ volatile("nop; nop");
    cli();
    CHECK_EQ("class 9 taken", hits[0x91], 1);
    CHECK_EQ("class 8 held back", hits[0x8f], 0);
    sti();
    __asm__ volatile("mov %0, %%cr8; nop" ::"r"(7ULL));
    cli();
    CHECK_EQ("taken once CR8 falls", hits[0x8f], 1);
    apic_write(APIC_TPR, 0);
}

/* Nesting: in the handler of 0x71 a 0x81 comes in, a 0x73 does not before EOI. */
static volatile unsigned inner, inner_low;

static void on_outer(struct frame *f)
{
    (void)f;
    self_ipi(0x73);
    self_ipi(0x81);
    sti();
    __asm__ volatile("nop; nop");
    cli();
    inner = hits[0x81];
    inner_low = hits[0x73];
    CHECK(isr(0x71), "in service");
    CHECK_EQ("PPR", apic_read(APIC_PPR) & 0xf0, 0x70);
    apic_eoi();
    hits[0x71]++;
}

static void test_nesting(void)
{
    prepare();
    guest_handlers[0x71] = on_outer;
    self_ipi(0x71);
    sti();
    __asm__ volatile("nop; nop");
    cli();
    CHECK_EQ("outer", hits[0x71], 1);
    CHECK_EQ("higher class nested", inner, 1);
    CHECK_EQ("same class waited", inner_low, 0);
    CHECK_EQ("and came after EOI", hits[0x73], 1);
}

static void test_apic_timer(void)
{
    prepare();
    apic_write(APIC_TIMER_DIVIDE, 0xb);
    apic_write(APIC_LVT_TIMER, VEC);
    apic_write(APIC_TIMER_INIT, 100000);
    wait_for(&hits[VEC], 1);
    CHECK_EQ("one shot stands at 0", apic_read(APIC_TIMER_COUNT), 0);
    CHECK_EQ("one shot", hits[VEC], 1);
    apic_write(APIC_TIMER_DIVIDE, 3); /* by 16 */
    apic_write(APIC_LVT_TIMER, 0x20000 | VEC);
    apic_write(APIC_TIMER_INIT, 20000);
    wait_for(&hits[VEC], 6);
    CHECK(apic_read(APIC_TIMER_COUNT) <= 20000, "count within the period");
    apic_write(APIC_TIMER_INIT, 0);
    sti();
    __asm__ volatile("nop");
    cli();
    hits[VEC] = 0;
    CHECK_EQ("stopped", apic_read(APIC_TIMER_COUNT), 0);
    apic_write(APIC_LVT_TIMER, 0x10000 | VEC);
    apic_write(APIC_TIMER_INIT, 1000);
    while (apic_read(APIC_TIMER_COUNT) != 0)
        cpu_relax();
    sti();
    __asm__ volatile("nop");
    cli();
    CHECK_EQ("masked", hits[VEC], 0);
}

static void test_tsc_deadline(void)
{
    uint64_t deadline;

    if (!(cpuid(1, 0).ecx & BIT(24))) {
        guest_skip("TSC deadline timer");
        return;
    }
    prepare();
    apic_write(APIC_LVT_TIMER, 0x40000 | VEC);
    CHECK_EQ("disarmed", rdmsr(0x6e0), 0);
    deadline = rdtsc() + 1000000;
    wrmsr(0x6e0, deadline);
    wait_for(&hits[VEC], 1);
    CHECK(rdtsc() >= deadline, "not before the deadline");
    CHECK_EQ("disarmed after expiry", rdmsr(0x6e0), 0);
    wrmsr(0x6e0, 1); /* in the past: at once */
    wait_for(&hits[VEC], 2);
    wrmsr(0x6e0, rdtsc() + (1ULL << 40));
    CHECK(rdmsr(0x6e0) != 0, "armed");
    wrmsr(0x6e0, 0);
    CHECK_EQ("disarmed by 0", rdmsr(0x6e0), 0);
    apic_write(APIC_LVT_TIMER, 0x10000);
}

/* HLT ends by an interrupt, and RIP is behind it. */
extern const uint8_t hlt_after[];

static void test_hlt(void)
{
    prepare();
    apic_write(APIC_TIMER_DIVIDE, 0xb);
    apic_write(APIC_LVT_TIMER, VEC);
    apic_write(APIC_TIMER_INIT, 50000);
    __asm__ volatile("sti; hlt; hlt_after: cli" ::: "memory");
    CHECK_EQ("woken by the timer", hits[VEC], 1);
    CHECK_EQ("RIP behind HLT", hit_rip, (uint64_t)hlt_after);
}

static volatile unsigned nmis;

static void on_nmi(struct frame *f)
{
    (void)f;
    nmis++;
    if (nmis == 1) {
        apic_send(0, 0x40400); /* another while this one is served: must wait for IRET */
        CHECK_EQ("NMIs are masked in the handler", nmis, 1);
    }
}

static void test_nmi(void)
{
    prepare();
    guest_handlers[NMI] = on_nmi;
    /* Shorthand self with NMI is not valid (SDM table 11-3); by destination it is. */
    apic_send(cpu_self(), 0x4400);
    for (volatile int i = 0; i < 10000 && nmis < 1; i++)
        cpu_relax();
    CHECK(nmis >= 1, "NMI with IF = 0");
    guest_handlers[NMI] = NULL;
}

static void ioapic_write(unsigned reg, uint32_t value)
{
    IOAPIC[0] = reg;
    IOAPIC[4] = value;
}

static uint32_t ioapic_read(unsigned reg)
{
    IOAPIC[0] = reg;
    return IOAPIC[4];
}

static void pit_start(unsigned mode, unsigned count)
{
    outb(0x43, (uint8_t)(0x30 | mode << 1));
    outb(0x40, (uint8_t)count);
    outb(0x40, (uint8_t)(count >> 8));
}

static void test_pit_through_ioapic(void)
{
    prepare();
    CHECK_EQ("IOAPIC pins", (ioapic_read(1) >> 16 & 0xff) + 1, 24);
    ioapic_write(0x10 + 2 * 2 + 1, 0);
    ioapic_write(0x10 + 2 * 2, VEC);
    CHECK_EQ("redirection entry", ioapic_read(0x10 + 2 * 2) & 0x1ffff, VEC);
    pit_start(2, 2000);
    wait_for(&hits[VEC], 5);
    CHECK(hits[VEC] >= 5, "periodic");
    ioapic_write(0x10 + 2 * 2, 0x10000 | VEC);
    pit_start(0, 1000);
    sti();
    for (volatile int i = 0; i < 1000; i++)
        cpu_relax();
    cli();
    hits[VEC] = 0;
    ioapic_write(0x10 + 2 * 2, VEC);
    pit_start(0, 1000);
    wait_for(&hits[VEC], 1);
    CHECK_EQ("one shot", hits[VEC], 1);
    ioapic_write(0x10 + 2 * 2, 0x10000 | VEC);
}

static void test_pit_counts(void)
{
    unsigned a, b;

    outb(0x43, 0x34);
    outb(0x40, 0xff);
    outb(0x40, 0xff);
    do {
        outb(0x43, 0x00); /* latch */
        a = inb(0x40);
        a |= (unsigned)inb(0x40) << 8;
    } while (a > 0xff00);
    do { /* the time limit ends this where the counter stands */
        outb(0x43, 0x00);
        b = inb(0x40);
        b |= (unsigned)inb(0x40) << 8;
    } while (a == b);
    CHECK(b < a, "the counter counts down");
    outb(0x43, 0xe2); /* read back: status of counter 0 */
    CHECK_EQ("status: mode 2, both bytes", inb(0x40) & 0x3f, 0x34);
    /* Channel 2 and its gate. */
    outb(0x61, (uint8_t)((inb(0x61) & ~3) | 0));
    outb(0x43, 0xb0);
    outb(0x42, 0x10);
    outb(0x42, 0x00);
    CHECK(!(inb(0x61) & 0x20), "OUT2 low while the gate is off");
    outb(0x61, (uint8_t)(inb(0x61) | 1));
    while (!(inb(0x61) & 0x20))
        cpu_relax();
    outb(0x61, (uint8_t)(inb(0x61) & ~1));
}

static void on_pic(struct frame *f)
{
    hits[f->vector]++;
    outb(0x20, 0x0b);
    CHECK_EQ("PIC ISR in the handler", inb(0x20) & 1, 1);
    outb(0x20, 0x20);
}

static void test_pit_through_pic(void)
{
    uint32_t lint0 = apic_read(APIC_LINT0);

    prepare();
    guest_handlers[0x20] = on_pic;
    apic_write(APIC_LINT0, 0x700); /* ExtINT */
    outb(0x21, 0xfe);
    CHECK_EQ("IMR", inb(0x21), 0xfe);
    pit_start(2, 2000);
    wait_for(&hits[0x20], 3);
    outb(0x21, 0xff);
    hits[0x20] = 0;
    sti();
    for (volatile int i = 0; i < 1000; i++)
        cpu_relax();
    cli();
    CHECK_EQ("masked", hits[0x20], 0);
    apic_write(APIC_LINT0, lint0 | 0x10000);
    guest_handlers[0x20] = NULL;
}

static void test_apic_errors(void)
{
    prepare();
    apic_write(APIC_LVT_ERROR, 0x65);
    apic_write(APIC_ESR, 0);
    self_ipi(5); /* an illegal vector */
    sti();
    __asm__ volatile("nop");
    cli();
    apic_write(APIC_ESR, 0);
    CHECK(apic_read(APIC_ESR) & 0x60, "ESR: illegal vector sent or received");
    CHECK_EQ("error interrupt", hits[0x65] >= 1, 1);
    apic_write(APIC_LVT_ERROR, 0x10000);
}

static void test_apic_disabled(void)
{
    prepare();
    apic_write(APIC_SVR, 0xff);
    CHECK(apic_read(APIC_LVT_TIMER) & 0x10000, "software disable masks the LVT");
    apic_write(APIC_LVT_TIMER, VEC);
    CHECK(apic_read(APIC_LVT_TIMER) & 0x10000, "and keeps it masked");
    apic_enable();
}

static void test_x2apic(void)
{
    uint64_t base = rdmsr(0x1b);
    uint32_t id;

    if (!(cpuid(1, 0).ecx & BIT(21))) {
        guest_skip("x2APIC");
        return;
    }
    TRY("movl $0x802, %%ecx; rdmsr");
    CHECK_EXC("x2APIC MSR in xAPIC mode", GP, 0);
    wrmsr(0x1b, base | BIT(10));
    TRY_C("wrmsr", , ARGS("c"(0x1b), "a"((uint32_t)base), "d"(0)));
    CHECK_EXC("back to xAPIC directly", GP, 0);
    id = (uint32_t)rdmsr(0x802);
    CHECK_EQ("ID", id, cpu_self());
    CHECK_EQ("LDR", rdmsr(0x80d), (uint64_t)(id >> 4) << 16 | 1u << (id & 15));
    TRY("movl $0x80d, %%ecx; xorl %%eax, %%eax; xorl %%edx, %%edx; wrmsr");
    CHECK_EXC("LDR is read-only", GP, 0);
    TRY("movl $0x80b, %%ecx; movl $1, %%eax; xorl %%edx, %%edx; wrmsr");
    CHECK_EXC("EOI takes only 0", GP, 0);
    TRY("movl $0x80b, %%ecx; rdmsr");
    CHECK_EXC("EOI is write-only", GP, 0);
    TRY("movl $0x80e, %%ecx; rdmsr");
    CHECK_EXC("DFR does not exist", GP, 0);
    TRY("movl $0x808, %%ecx; movl $0x100, %%eax; xorl %%edx, %%edx; wrmsr");
    CHECK_EXC("TPR, reserved bits", GP, 0);
    prepare();
    TRY("movl $0x83f, %%ecx; movl $0x60, %%eax; xorl %%edx, %%edx; wrmsr");
    CHECK_EXC("SELF IPI register", NO_EXC, 0);
    sti();
    __asm__ volatile("nop");
    cli();
    CHECK_EQ("SELF IPI", hits[VEC], 1);
    apic_send(id, 0x4000 | VEC);
    sti();
    __asm__ volatile("nop; nop");
    cli();
    CHECK_EQ("ICR of 64 bits", hits[VEC], 2);
    apic_write(APIC_LVT_TIMER, VEC);
    apic_write(APIC_TIMER_DIVIDE, 0xb);
    apic_write(APIC_TIMER_INIT, 10000);
    wait_for(&hits[VEC], 3);
    /* Off, and on again as xAPIC. */
    wrmsr(0x1b, base & ~(BIT(10) | BIT(11)));
    CHECK(!(cpuid(1, 0).edx & BIT(9)), "CPUID.APIC is clear while off");
    wrmsr(0x1b, base);
    CHECK(cpuid(1, 0).edx & BIT(9), "CPUID.APIC");
    apic_enable();
}

const struct guest_test guest_tests[] = {
    { "APIC registers", test_apic_registers },
    { "self-IPI", test_self_ipi },
    { "shadows", test_shadows },
    { "priorities", test_priorities },
    { "nesting", test_nesting },
    { "APIC timer", test_apic_timer },
    { "TSC deadline", test_tsc_deadline },
    { "HLT", test_hlt },
    { "NMI", test_nmi },
    { "PIT through the IOAPIC", test_pit_through_ioapic },
    { "PIT", test_pit_counts },
    { "PIT through the PIC", test_pit_through_pic },
    { "APIC errors", test_apic_errors },
    { "APIC disabled", test_apic_disabled },
    { "x2APIC", test_x2apic },
    { 0 },
};
