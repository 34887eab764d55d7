/* Start, exceptions, user mode and page tables of 64-bit guest programs. */
#include "long.h"

struct multiboot_info {
    uint32_t flags, mem_lower, mem_upper, boot_device, cmdline;
};

struct exc exc;
volatile uint64_t guest_recover, guest_recover_rsp;
guest_handler *volatile guest_handlers[256];
struct idt_gate idt[256] __attribute__((aligned(16)));
struct tss64 tss[CPUS_MAX] __attribute__((aligned(16)));
static uint8_t rsp0_stacks[CPUS_MAX][16384] __attribute__((aligned(16)));
static uint8_t *page_next = (uint8_t *)0x800000;
static bool user_ready;

extern const uint8_t exception_stubs[];
extern uint32_t boot_info;
void guest_exception(struct frame *f);
void guest_start(void);

void check_exc(const char *what, int vector, uint64_t error, int line)
{
    guest_checks++;
    if (exc.vector != vector)
        guest_fail("%s: exception %d (error 0x%X), expected %d (line %d)", what, exc.vector,
                   exc.vector == NO_EXC ? 0 : exc.error, vector, line);
    else if (vector != NO_EXC && exc.error != error)
        guest_fail("%s: exception %d with error 0x%X, expected 0x%X (line %d)", what, vector, exc.error, error, line);
}

void guest_exception(struct frame *f)
{
    unsigned vector = (unsigned)f->vector;

    if (guest_handlers[vector]) {
        guest_handlers[vector](f);
        return;
    }
    if (!guest_recover)
        guest_panic("exception %u error 0x%X cs:rip 0x%X:0x%X rsp 0x%X flags 0x%X cr2 0x%X cpu %u", vector, f->error,
                    f->cs, f->rip, f->rsp, f->rflags, (uint64_t)read_cr2(), cpu_self());
    exc.vector = (int)vector;
    exc.error = f->error;
    exc.cr2 = read_cr2();
    exc.dr6 = read_dr6();
    exc.frame = *f;
    exc.handler_rsp = (uint64_t)f;
    f->rip = guest_recover;
    f->rsp = guest_recover_rsp;
    f->cs = SEL_CODE64;
    f->ss = SEL_DATA;
    f->rflags = 2;
    guest_recover = 0;
}

void idt_set(unsigned vector, unsigned dpl, unsigned ist, unsigned type)
{
    uint64_t at = (uint64_t)exception_stubs + 16 * vector;

    idt[vector] = (struct idt_gate){
        .off_lo = (uint16_t)at,
        .sel = SEL_CODE64,
        .ist = (uint8_t)ist,
        .attr = (uint8_t)(0x80 | dpl << 5 | type),
        .off_mid = (uint16_t)(at >> 16),
        .off_hi = (uint32_t)(at >> 32),
    };
}

static void cpu_load_tables(unsigned cpu)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) idtr = { sizeof(idt) - 1, (uint64_t)idt };
    uint64_t base = (uint64_t)&tss[cpu];
    uint64_t limit = sizeof(struct tss64) - 1;

    tss[cpu].rsp[0] = (uint64_t)(rsp0_stacks[cpu] + sizeof(rsp0_stacks[cpu]));
    tss[cpu].iomap = offsetof(struct tss64, io_bits);
    memset(tss[cpu].io_bits, 0xff, sizeof(tss[cpu].io_bits));
    gdt[SEL_TSS(cpu) / 8] = (limit & 0xffff) | (base & 0xffffff) << 16 | 0x89ULL << 40 | (limit >> 16 & 15) << 48 |
                            (base >> 24 & 0xff) << 56;
    gdt[SEL_TSS(cpu) / 8 + 1] = base >> 32;
    __asm__ volatile("lgdt %0" ::"m"(gdt_pointer));
    __asm__ volatile("lidt %0" ::"m"(idtr));
    __asm__ volatile("mov %0, %%fs; mov %0, %%gs" ::"r"(0));
    __asm__ volatile("ltr %w0" ::"r"(SEL_TSS(cpu)));
}

/* Both PICs initialised (vectors 0x20..0x2f) and masked. */
static void pic_init(void)
{
    static const uint8_t words[][2] = { { 0x11, 0x11 }, { 0x20, 0x28 }, { 4, 2 }, { 1, 1 }, { 0xff, 0xff } };

    for (unsigned i = 0; i < ARRAY_SIZE(words); i++) {
        outb(i ? 0x21 : 0x20, words[i][0]);
        outb(i ? 0xa1 : 0xa0, words[i][1]);
    }
}

void guest_start(void)
{
    const struct multiboot_info *info = (const void *)(uint64_t)boot_info;

    if (info && info->flags & 4)
        guest_set_command_line((const char *)(uint64_t)info->cmdline);
    for (unsigned i = 0; i < 256; i++)
        idt_set(i, i == 0x80 ? 3 : 0, 0, 14);
    cpu_load_tables(0);
    pic_init();
    guest_run_tests();
}

/* ---- page tables ---- */

void *pages_alloc(unsigned n, uint64_t align)
{
    uint8_t *p = (uint8_t *)(((uint64_t)page_next + align - 1) & ~(align - 1));

    page_next = p + 4096ULL * n;
    if ((uint64_t)page_next > 60ULL << 20)
        guest_panic("out of pages");
    memset(p, 0, 4096ULL * n);
    return p;
}

void *page_alloc(void)
{
    return pages_alloc(1, 4096);
}

uint64_t *pt_entry(uint64_t *root, uint64_t va, unsigned level)
{
    uint64_t *table = root;

    for (unsigned at = 4;; at--) {
        uint64_t *e = &table[va >> (12 + 9 * (at - 1)) & 511];

        if (at == level)
            return e;
        if (!(*e & PTE_P))
            *e = (uint64_t)page_alloc() | PTE_P | PTE_W | PTE_U;
        else if (*e & PTE_PS && at < 4)
            guest_panic("large page in the way at 0x%X", va);
        table = (uint64_t *)(*e & 0xffffffffff000ULL);
    }
}

void map_page(uint64_t va, uint64_t pa, uint64_t flags)
{
    *pt_entry(boot_pml4, va, 1) = pa | flags;
    invlpg(va);
}

/* ---- user mode ---- */

void user_init(void)
{
    if (user_ready)
        return;
    user_ready = true;
    boot_pd[USER_CODE >> 21] = 0; /* no RAM there */
    flush_tlb();
    for (uint64_t va = USER_CODE; va < USER_DATA + 0x1000; va += 4096)
        map_page(va, (uint64_t)page_alloc(), PTE_P | PTE_W | PTE_U);
}

void user_exec_at(const void *code, const void *end, const struct user_regs *regs, uint64_t cs, uint64_t ss,
                  uint64_t rflags)
{
    struct iret_frame to = { USER_CODE, cs, rflags, USER_STACK_TOP - 64, ss };
    void *page;

    user_init();
    page = (void *)(*pt_entry(boot_pml4, USER_CODE, 1) & 0xffffffffff000ULL);
    memcpy(page, code, (size_t)((const uint8_t *)end - (const uint8_t *)code));
    exc.vector = NO_EXC;
    guest_iret_to(&to, (const uint64_t *)regs);
}

/* ---- local APIC ---- */

bool apic_is_x2(void)
{
    return (rdmsr(0x1b) & 0xc00) == 0xc00;
}

uint32_t apic_read(unsigned reg)
{
    if (apic_is_x2())
        return (uint32_t)rdmsr(0x800 + reg / 16);
    return *(volatile uint32_t *)(LAPIC_BASE + reg);
}

void apic_write(unsigned reg, uint32_t value)
{
    if (apic_is_x2())
        wrmsr(0x800 + reg / 16, value);
    else
        *(volatile uint32_t *)(LAPIC_BASE + reg) = value;
}

void apic_send(uint32_t dest, uint32_t icr_lo)
{
    if (apic_is_x2()) {
        wrmsr(0x830, (uint64_t)dest << 32 | icr_lo);
        return;
    }
    while (apic_read(APIC_ICR) & 0x1000)
        cpu_relax();
    apic_write(APIC_ICR_HI, dest << 24);
    apic_write(APIC_ICR, icr_lo);
}

static void spurious(struct frame *f)
{
    (void)f;
}

void apic_enable(void)
{
    guest_handlers[0xff] = spurious;
    apic_write(APIC_SVR, 0x1ff);
    apic_write(APIC_TPR, 0);
}

/* ---- further CPUs ---- */

#define AP_TRAMPOLINE 0x8000
extern const uint8_t ap_trampoline[], ap_trampoline_end[];
static volatile uint32_t cpus_up = 1;
static cpu_work *volatile cpu_jobs[CPUS_MAX];
void ap_start(unsigned cpu);

bool cpus_sleep;

static void wake_up(struct frame *f)
{
    (void)f;
    apic_eoi();
}

unsigned cpu_self(void)
{
    return cpuid(1, 0).ebx >> 24;
}

void ap_start(unsigned cpu)
{
    cpu_load_tables(cpu);
    apic_enable();
    __atomic_fetch_add(&cpus_up, 1, __ATOMIC_SEQ_CST);
    for (;;) {
        cpu_work *work = cpu_jobs[cpu];

        if (work) {
            work(cpu);
            __atomic_store_n(&cpu_jobs[cpu], NULL, __ATOMIC_SEQ_CST);
        }
        if (cpus_sleep)
            sti_hlt_cli(); /* work that came before has left its interrupt pending */
        else
            cpu_relax();
    }
}

unsigned cpus_start(void)
{
    unsigned want = guest_option("cpus", 1);

    if (want > CPUS_MAX)
        want = CPUS_MAX;
    apic_enable();
    if (cpus_sleep)
        guest_handlers[VEC_WORK] = wake_up;
    if (cpus_up >= want)
        return want;
    memcpy((void *)AP_TRAMPOLINE, ap_trampoline, (size_t)(ap_trampoline_end - ap_trampoline));
    for (unsigned cpu = 1; cpu < want; cpu++) {
        apic_send(cpu, 0x4500); /* INIT, assert */
        for (volatile int i = 0; i < 100000; i++) {
        }
        apic_send(cpu, 0x4600 | AP_TRAMPOLINE >> 12);
        for (volatile int i = 0; i < 20000 && cpus_up <= cpu; i++) {
        }
        if (cpus_up <= cpu)
            apic_send(cpu, 0x4600 | AP_TRAMPOLINE >> 12);
        while (cpus_up <= cpu)
            cpu_relax();
    }
    return want;
}

void cpu_restart(unsigned cpu)
{
    uint32_t up = cpus_up;

    cpu_jobs[cpu] = NULL;
    apic_send(cpu, 0x4600 | AP_TRAMPOLINE >> 12);
    while (cpus_up == up)
        cpu_relax();
}

void cpu_call(unsigned cpu, cpu_work *work)
{
    while (cpu_jobs[cpu])
        cpu_relax();
    __atomic_store_n(&cpu_jobs[cpu], work, __ATOMIC_SEQ_CST);
    if (cpus_sleep)
        apic_send(cpu, 0x4000 | VEC_WORK);
}

void cpu_wait(unsigned cpu)
{
    while (__atomic_load_n(&cpu_jobs[cpu], __ATOMIC_SEQ_CST))
        cpu_relax();
}
