/* 64-bit guest programs: exceptions that tests expect, user mode, page tables, descriptors, local APIC and further
 * CPUs. TRY and user_exec are for CPU 0 only. */
#ifndef TESTS_GUEST_LIB_LONG_H
#define TESTS_GUEST_LIB_LONG_H

#include "guest.h"

#define SEL_CODE32 0x08
#define SEL_CODE64 0x10
#define SEL_DATA 0x18
#define SEL_USER32 0x23
#define SEL_USER_DATA 0x2b
#define SEL_USER64 0x33
#define SEL_TEST 0x40 /* first of the slots for tests, up to 0xf8 */
#define SEL_TSS(cpu) (0x100 + 16 * (cpu))
#define CPUS_MAX 64

struct frame {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
    uint64_t vector, error;
    uint64_t rip, cs, rflags, rsp, ss;
};

struct iret_frame {
    uint64_t rip, cs, rflags, rsp, ss;
};

/* What the last expected exception (or software interrupt that ended user code) looked like. vector is NO_EXC after a
 * TRY that went through. */
struct exc {
    int vector;
    uint64_t error, cr2, dr6;
    struct frame frame;   /* registers at the fault */
    uint64_t handler_rsp; /* of the frame: tells the stack that was used */
};
extern struct exc exc;
extern volatile uint64_t guest_recover, guest_recover_rsp;
extern const char guest_iret_insn[];

/* Run the instructions; an exception is recorded in exc and ends them. Use %0.. for the operands; clobbers of r11,
 * memory and flags are declared, others are the caller's (in the list `clobbers`, each with a leading comma). */
#define TRY_C(text, outputs, inputs, ...)                           \
    do {                                                            \
        exc.vector = NO_EXC;                                        \
        __asm__ volatile("leaq 77f(%%rip), %%r11\n\t"               \
                         "movq %%rsp, guest_recover_rsp(%%rip)\n\t" \
                         "movq %%r11, guest_recover(%%rip)\n\t"     \
                         "88: " text "\n"                           \
                         "77:\n\t"                                  \
                         "movq $0, guest_recover(%%rip)"            \
                         : outputs:inputs                           \
                         : "r11", "memory", "cc", ##__VA_ARGS__);   \
    } while (0)
#define ARGS(...) __VA_ARGS__
#define TRY(text, ...) TRY_C(text, , ARGS(__VA_ARGS__), "rax", "rcx", "rdx")

/* vector and error code of the last TRY; error is compared only for vectors that have one. */
#define CHECK_EXC(what, want_vector, want_error) check_exc(what, want_vector, want_error, __LINE__)
void check_exc(const char *what, int vector, uint64_t error, int line);

/* Called instead of the recording for this vector; NULL: default. Any CPU. */
typedef void guest_handler(struct frame *f);
extern guest_handler *volatile guest_handlers[256];

/* IDT of all CPUs. dpl 0..3; ist 0..7; type 14 interrupt gate, 15 trap gate. */
void idt_set(unsigned vector, unsigned dpl, unsigned ist, unsigned type);
struct idt_gate {
    uint16_t off_lo, sel;
    uint8_t ist, attr;
    uint16_t off_mid;
    uint32_t off_hi, zero;
};
extern struct idt_gate idt[256];
extern uint64_t gdt[];
extern const struct gdt_pointer_image {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed)) gdt_pointer;

struct tss64 {
    uint32_t res0;
    uint64_t rsp[3], res1, ist[7], res2;
    uint16_t res3, iomap;
    uint8_t io_bits[8193];
} __attribute__((packed));
extern struct tss64 tss[CPUS_MAX];

/* Code copied to a user page and run at CPL 3 (or wherever cs points); it ends with int $0x80, or with an exception. */
#define SNIPPET(name, text)                                                           \
    __asm__(".pushsection .rodata\n" #name ": " text "\n" #name "_end: .popsection"); \
    extern const uint8_t name[], name##_end[]
#define USER_CODE 0x40000000ULL /* below 4 GiB, for compatibility mode */
#define USER_STACK_TOP 0x40004000ULL
#define USER_DATA 0x40008000ULL /* a page, read-write */
struct user_regs {
    uint64_t rax, rcx, rdx, rbx, unused, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15;
};
void user_init(void);
void user_exec_at(const void *code, const void *end, const struct user_regs *regs, uint64_t cs, uint64_t ss,
                  uint64_t rflags);
#define USER_EXEC(name, ...) \
    user_exec_at(name, name##_end, &(struct user_regs){ __VA_ARGS__ }, SEL_USER64, SEL_USER_DATA, 2)
void guest_iret_to(const struct iret_frame *to, const uint64_t *regs);

/* Page tables. page_alloc: zeroed frames from 8 MiB up, never freed. */
void *page_alloc(void);
void *pages_alloc(unsigned n, uint64_t align);
/* Pointer to the entry of va at level 1 (4K PTE) .. 4 (PML4E) under root, made on the way with P|W|U. */
uint64_t *pt_entry(uint64_t *root, uint64_t va, unsigned level);
void map_page(uint64_t va, uint64_t pa, uint64_t flags); /* 4 KiB, in the boot tables */
extern uint64_t boot_pml4[], boot_pdpt[], boot_pd[];
static inline void invlpg(uint64_t va)
{
    __asm__ volatile("invlpg (%0)" ::"r"(va) : "memory");
}
static inline void flush_tlb(void)
{
    unsigned long cr4 = read_cr4();

    write_cr4(cr4 ^ CR4_PGE);
    write_cr4(cr4);
}

/* Local APIC through its page or MSRs, whichever mode this CPU is in. reg: xAPIC offset. */
#define LAPIC_BASE 0xfee00000ULL
#define APIC_ID 0x20
#define APIC_VERSION 0x30
#define APIC_TPR 0x80
#define APIC_PPR 0xa0
#define APIC_EOI 0xb0
#define APIC_LDR 0xd0
#define APIC_DFR 0xe0
#define APIC_SVR 0xf0
#define APIC_ISR 0x100
#define APIC_IRR 0x200
#define APIC_ESR 0x280
#define APIC_ICR 0x300
#define APIC_ICR_HI 0x310
#define APIC_LVT_TIMER 0x320
#define APIC_LINT0 0x350
#define APIC_LVT_ERROR 0x370
#define APIC_TIMER_INIT 0x380
#define APIC_TIMER_COUNT 0x390
#define APIC_TIMER_DIVIDE 0x3e0
bool apic_is_x2(void);
uint32_t apic_read(unsigned reg);
void apic_write(unsigned reg, uint32_t value);
void apic_send(uint32_t dest, uint32_t icr_lo);
void apic_enable(void); /* software enable, spurious vector 0xff, TPR 0 */
static inline void apic_eoi(void)
{
    apic_write(APIC_EOI, 0);
}

/* Further CPUs. cpus_start returns how many run now (CPU 0 included). Those without work spin, or where cpus_sleep is
 * set before the start, wait in HLT for an interrupt with vector VEC_WORK. */
#define VEC_WORK 0xfe
extern bool cpus_sleep;
unsigned cpus_start(void);
typedef void cpu_work(unsigned cpu);
void cpu_call(unsigned cpu, cpu_work *work); /* start it there */
void cpu_wait(unsigned cpu);                 /* until it is done */
/* After an INIT: start it anew; its job is forgotten. */
void cpu_restart(unsigned cpu);
unsigned cpu_self(void);
static inline void cpu_relax(void)
{
    __asm__ volatile("pause" ::: "memory");
}
static inline void sti(void)
{
    __asm__ volatile("sti" ::: "memory");
}
static inline void cli(void)
{
    __asm__ volatile("cli" ::: "memory");
}
/* STI and HLT without a gap. */
static inline void sti_hlt_cli(void)
{
    __asm__ volatile("sti; hlt; cli" ::: "memory");
}

#endif
