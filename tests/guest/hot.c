/* What reaches code that is hot, that is, that an engine has translated: interrupts in all kinds of loops and at the
 * ends of their windows, single steps, breakpoints that are set while it runs. Intel SDM volume 3, sections 6.8 (IF,
 * shadows), 17.2 and 17.3 (debug), volume 1 7.3.9.1 and volume 3 17.3.1.1 (REP and RF). Nothing depends on how long
 * something takes; a loop that never lets an interrupt in hangs the test. */
#include "long.h"

#define VEC 0x60
#define ROUNDS 300u
#define LABEL(name) extern const uint8_t name[]

static volatile uint64_t hits, hit_rip;

static void on_irq(struct frame *f)
{
    hits++;
    hit_rip = f->rip;
    apic_eoi();
}

static void prepare(void)
{
    guest_handlers[VEC] = on_irq;
    apic_enable();
    hits = 0;
}

/* ---- windows: one interrupt is pending, and comes right where IF becomes effective ---- */

LABEL(w_sti);
LABEL(w_hlt);
LABEL(w_popf);
LABEL(w_iret);

static void window_sti(void)
{
    __asm__ volatile("sti; nop; w_sti: nop; cli" ::: "memory");
}

static void window_hlt(void)
{
    __asm__ volatile("sti; hlt; w_hlt: nop; cli" ::: "memory");
}

static void window_popf(void)
{
    __asm__ volatile("pushfq; orl $0x200, (%%rsp); popfq; w_popf: nop; nop; cli" ::: "memory");
}

static void window_iret(void)
{
    __asm__ volatile("movq %%rsp, %%rax; pushq $0x18; pushq %%rax; pushfq; orl $0x200, (%%rsp); pushq $0x10\n"
                     "leaq w_iret(%%rip), %%rax; pushq %%rax; iretq\n"
                     "w_iret: nop; nop; cli" ::
                         : "rax", "memory");
}

/* The interrupt is held by the TPR, which falls. */
static void window_tpr(void)
{
    __asm__ volatile("mov %0, %%cr8; sti; nop; nop; mov %1, %%cr8; nop; nop; cli" ::"r"(15ULL), "r"(0ULL) : "memory");
}

static void window_none(void)
{
    __asm__ volatile("sti; cli; pushfq; orl $0x200, (%%rsp); andl $~0x200, (%%rsp); popfq; sti; cli" ::: "memory");
}

static void check_window(const char *what, void (*window)(void), const uint8_t *where)
{
    prepare();
    for (unsigned i = 1; i <= ROUNDS; i++) {
        apic_send(0, 0x40000 | VEC); /* to itself */
        if (hits != i - 1) {
            CHECK(false, "%s: an interrupt while IF = 0", what);
            return;
        }
        window();
        guest_checks++;
        if (hits != i || (where && hit_rip != (uint64_t)where)) {
            guest_fail("%s, round %u: %u interrupts, the last at %X, expected %X", what, i, (unsigned)hits, hit_rip,
                       (uint64_t)where);
            return;
        }
    }
}

static void test_windows(void)
{
    check_window("STI", window_sti, w_sti);
    check_window("STI, HLT", window_hlt, w_hlt);
    check_window("POPF", window_popf, w_popf);
    check_window("IRET", window_iret, w_iret);
    check_window("MOV CR8", window_tpr, NULL);
    prepare();
    apic_send(0, 0x40000 | VEC);
    for (unsigned i = 0; i < ROUNDS; i++)
        window_none();
    CHECK_EQ("STI, CLI lets none in", hits, 0);
    window_sti();
    CHECK_EQ("and it was still there", hits, 1);
}

/* ---- loops without end ---- */

static volatile uint64_t escapes;
static uint64_t escape_rip, escape_rsp;

/* Leaves the loop that the interrupt came into. */
static void on_escape(struct frame *f)
{
    escapes++;
    apic_eoi();
    f->rip = escape_rip;
    f->rsp = escape_rsp;
    f->rflags = 2;
}

/* text: a loop without end, in which RAX, RCX, RDX, RSI, RDI may change; the operand %0 is a page of memory. */
#define ENDLESS(text)                                                                                 \
    do {                                                                                              \
        timer_start();                                                                                \
        __asm__ volatile("leaq 77f(%%rip), %%rax; movq %%rax, %1; movq %%rsp, %2; sti\n" text "\n77:" \
                         :                                                                            \
                         : "r"(loop_page), "m"(escape_rip), "m"(escape_rsp)                           \
                         : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "memory", "cc");                  \
        guest_checks++;                                                                               \
    } while (0)

static uint8_t *loop_page;

static void timer_start(void)
{
    apic_write(APIC_TIMER_DIVIDE, 0xb);
    apic_write(APIC_LVT_TIMER, VEC);
    apic_write(APIC_TIMER_INIT, 2000000);
}

static void test_endless(void)
{
    loop_page = page_alloc();
    apic_enable();
    guest_handlers[VEC] = on_escape;
    for (unsigned i = 0; i < 3; i++) {
        escapes = 0;
        ENDLESS("1: jmp 1b");
        ENDLESS("1: nop; nop; jmp 1b");
        ENDLESS("1: decq %%rcx; testq %%rsp, %%rsp; jnz 1b");
        ENDLESS("xorl %%eax, %%eax; 1: testl %%eax, %%eax; jz 1b");
        ENDLESS("1: movl $1000, %%ecx; 2: loop 2b; jmp 1b");
        ENDLESS("leaq 1f(%%rip), %%rax; 1: jmp *%%rax");
        ENDLESS("leaq 1f(%%rip), %%rax; leaq 2f(%%rip), %%rcx; 1: jmp *%%rcx; 2: jmp *%%rax");
        ENDLESS("1: call 2f; 2: addq $8, %%rsp; jmp 1b");
        ENDLESS("1: call 2f; jmp 1b; 2: ret");
        ENDLESS("leaq 1f(%%rip), %%rax; 1: pushq %%rax; ret");
        ENDLESS("movl $0, (%0); 1: cmpl $0, (%0); je 1b; ud2");
        ENDLESS("1: incq (%0); jmp 1b");
        ENDLESS("1: lock incq (%0); jmp 1b");
        ENDLESS("1: xchgq %%rax, (%0); jmp 1b");
        ENDLESS("1: pause; jmp 1b");
        ENDLESS("1: jmp 2f; .skip 5000, 0x90; 2: jmp 1b");
        ENDLESS("1: movq %0, %%rdi; movl $4096, %%ecx; rep stosb; jmp 1b");
        ENDLESS("1: movq %0, %%rsi; movl $64, %%ecx; 2: lodsq; loop 2b; jmp 1b");
        ENDLESS("1: movl $1, %%eax; xchgb %%al, 8(%0); jmp 1b");
        ENDLESS("1: movq %%cr2, %%rax; jmp 1b");
        ENDLESS("1: xorl %%edx, %%edx; movl $7, %%eax; movl $3, %%ecx; divl %%ecx; jmp 1b");
        ENDLESS("1: pushfq; popfq; jmp 1b");
        ENDLESS("1: pushq $0x18; leaq 8(%%rsp), %%rax; pushq %%rax; pushq $0x202; pushq $0x10\n"
                "leaq 1b(%%rip), %%rax; pushq %%rax; iretq");
        CHECK_EQ("loops left", escapes, 23);
    }
}

/* REP with interrupts in its middle: RIP stays, RF is set, and the registers agree. */
LABEL(rep_insn);
#define REP_BYTES 0x800000ULL

static uint64_t rep_buffer;
static volatile unsigned rep_middle, rep_wrong;

static void on_rep(struct frame *f)
{
    apic_eoi();
    if (f->rip == (uint64_t)rep_insn && f->rcx != REP_BYTES && f->rcx != 0) {
        rep_middle++;
        if (f->rdi + f->rcx != rep_buffer + REP_BYTES || !(f->rflags & EFLAGS_RF))
            rep_wrong++;
    }
    apic_write(APIC_TIMER_INIT, 20000 + (uint32_t)(f->rcx & 0xffff));
}

static void test_rep(void)
{
    rep_buffer = (uint64_t)pages_alloc((unsigned)(REP_BYTES / 4096), 4096);
    guest_handlers[VEC] = on_rep;
    timer_start();
    for (unsigned i = 0; i < 400 && rep_middle < 10; i++) {
        uint64_t to = rep_buffer, n = REP_BYTES;

        __asm__ volatile("sti; rep_insn: rep stosb; cli" : "+D"(to), "+c"(n) : "a"(i) : "memory");
        if (n != 0 || to != rep_buffer + REP_BYTES || ((uint8_t *)rep_buffer)[REP_BYTES - 1] != (uint8_t)i)
            rep_wrong++;
    }
    apic_write(APIC_TIMER_INIT, 0);
    CHECK(rep_middle > 0, "interrupts within REP STOS");
    CHECK_EQ("RIP, RCX, RDI, RF there", rep_wrong, 0);
}

/* ---- single steps and breakpoints ---- */

LABEL(f_begin);
LABEL(f_middle);
LABEL(f_store);
LABEL(f_end);
uint64_t hot_function(uint64_t rounds, volatile uint64_t *at);
/* 3 instructions, 6 in each round, 2 (with RET). */
__asm__(".text; hot_function: xorl %eax, %eax; movl $3, %edx; f_begin: nop\n"
        "1: addq %rdi, %rax; f_middle: leaq 1(%rax,%rdx), %rax; f_store: movq %rax, (%rsi); addq (%rsi), %rax\n"
        "decq %rdi; jnz 1b; f_end: nop; ret");

static volatile uint64_t steps, step_last, step_backward;
static volatile uint64_t db_hits, db_dr6, db_wrong;
static uint64_t db_want_rip;

static void on_step(struct frame *f)
{
    steps++;
    if (f->rip == step_last)
        step_backward++;
    step_last = f->rip;
    write_dr6(0xffff0ff0);
}

static uint64_t expected(uint64_t rounds)
{
    uint64_t a = 0;

    for (; rounds; rounds--) {
        a += rounds;
        a = a + 3 + 1;
        a += a;
    }
    return a;
}

static uint64_t stepped(uint64_t rounds, volatile uint64_t *at)
{
    uint64_t r;

    steps = step_backward = 0;
    __asm__ volatile("pushfq; orl $0x100, (%%rsp); popfq; call hot_function; pushfq; andl $~0x100, (%%rsp); popfq"
                     : "=a"(r), "+D"(rounds)
                     : "S"(at)
                     : "rdx", "rcx", "memory", "cc");
    return r;
}

static void test_steps(void)
{
    volatile uint64_t *at = page_alloc();

    guest_handlers[DB] = on_step;
    for (unsigned i = 0; i < 20; i++) {
        for (unsigned k = 0; k < 20; k++)
            CHECK_EQ("result", hot_function(50, at), expected(50));
        CHECK_EQ("result when stepped", stepped(10, at), expected(10));
        /* CALL, the function, and PUSHFQ, AND, POPFQ. */
        CHECK_EQ("steps", steps, 1 + 3 + 10 * 6 + 2 + 3);
        CHECK_EQ("steps that went nowhere", step_backward, 0);
    }
    guest_handlers[DB] = NULL;
}

static void on_db(struct frame *f)
{
    db_hits++;
    db_dr6 = read_dr6();
    db_wrong += f->rip != db_want_rip;
    write_dr6(0xffff0ff0);
    f->rflags |= EFLAGS_RF;
}

static void watch(const volatile void *at, uint64_t dr7, const uint8_t *want_rip)
{
    db_hits = db_wrong = 0;
    db_want_rip = (uint64_t)want_rip;
    write_dr0((uint64_t)at);
    write_dr7(dr7);
}

static void test_breakpoints(void)
{
    static const struct {
        unsigned offset, code; /* of the watched bytes from the operand; code of the length in DR7 */
        bool hit;
    } cases[] = { { 0, 2, true }, { 0, 0, true },  { 7, 0, true },  { 6, 1, true },
                  { 4, 3, true }, { 8, 2, false }, { 8, 0, false }, { 16, 3, false } };
    uint8_t *pages = pages_alloc(2, 4096);

    guest_handlers[DB] = on_db;
    for (unsigned i = 0; i < 10; i++) {
        volatile uint64_t *at = (volatile uint64_t *)(pages + (i & 1 ? 4096 - 8 : 64));

        for (unsigned k = 0; k < 20; k++)
            CHECK_EQ("result", hot_function(50, at), expected(50));
        watch(f_middle, 0x402, f_middle);
        CHECK_EQ("result with a breakpoint", hot_function(30, at), expected(30));
        CHECK_EQ("hits of the instruction", db_hits, 30);
        CHECK_EQ("RIP", db_wrong, 0);
        watch(f_begin, 0x402, f_begin);
        hot_function(30, at);
        CHECK_EQ("hits outside of the loop", db_hits, 1);
        for (unsigned k = 0; k < ARRAY_SIZE(cases); k++) {
            watch((volatile uint8_t *)at + cases[k].offset, 0x402 | 1 << 16 | cases[k].code << 18, f_store + 3);
            CHECK_EQ("result with watched data", hot_function(30, at), expected(30));
            CHECK_EQ("hits of the store", db_hits, cases[k].hit ? 30 : 0);
            CHECK_EQ("RIP behind the store", db_wrong, 0);
            watch((volatile uint8_t *)at + cases[k].offset, 0x402 | 3 << 16 | cases[k].code << 18, f_store + 3);
            hot_function(30, at);
            CHECK_EQ("hits of store and load", db_hits, cases[k].hit ? 60 : 0);
        }
        write_dr7(0x400);
        db_hits = 0;
        hot_function(30, at);
        CHECK_EQ("none set", db_hits, 0);
    }
    guest_handlers[DB] = NULL;
}

/* A page goes away, or loses a right, under a loop that has accessed it many times; and comes back. */
static void test_faults(void)
{
    const uint64_t va = 0x8000000000ULL;
    uint64_t pa = (uint64_t)page_alloc();

    for (unsigned i = 0; i < 10; i++) {
        map_page(va, pa, PTE_P | PTE_W);
        for (unsigned k = 0; k < 30; k++)
            CHECK_EQ("result", hot_function(50, (volatile uint64_t *)(va + 16)), expected(50));
        map_page(va, pa, PTE_P);
        TRY_C("call hot_function", , ARGS("D"(50), "S"(va + 16)), "rax", "rdx", "rcx");
        CHECK_EXC("read-only", PF, 3);
        CHECK_EQ("RIP", exc.frame.rip, (uint64_t)f_store);
        CHECK_EQ("RAX", exc.frame.rax, 50 + 3 + 1);
        map_page(va, 0, 0);
        TRY_C("call hot_function", , ARGS("D"(50), "S"(va + 16)), "rax", "rdx", "rcx");
        CHECK_EXC("gone", PF, 2);
        CHECK_EQ("CR2", exc.cr2, va + 16);
        TRY_C("call hot_function", , ARGS("D"(50), "S"(0x8000000000000010ULL)), "rax", "rdx", "rcx");
        CHECK_EXC("not canonical", GP, 0);
        CHECK_EQ("RIP of #GP", exc.frame.rip, (uint64_t)f_store);
    }
}

/* INC and DEC keep CF over the end of a loop, whatever stands between. */
#define KEEPS_CF(name, set, between)                                                                      \
    uint64_t name(uint64_t rounds, uint64_t *other_stack, uint64_t *save);                                \
    __asm__(".text; " #name ": xorl %eax, %eax; 1: pushq $2; 2: testl %edi, %edi; " set "; " between "\n" \
            "decl (%rsp); jnz 2b; leaq 8(%rsp), %rsp; jb 3f; incq %rax; 3: decq %rdi; jnz 1b; ret")
KEEPS_CF(cf_plain, "stc", "");
KEEPS_CF(cf_load, "stc", "movq (%rsi), %rcx");
KEEPS_CF(cf_store, "stc", "movq %rcx, (%rsi)");
KEEPS_CF(cf_pop, "stc", "movq %rsp, (%rdx); movq %rsi, %rsp; popq %rcx; popq %rcx; movq (%rdx), %rsp");
KEEPS_CF(cf_push, "stc", "movq %rsp, (%rdx); movq %rsi, %rsp; pushq %rcx; movq (%rdx), %rsp");
KEEPS_CF(cf_both, "stc",
         "movq %rsp, (%rdx); movq %rsi, %rsp; popq %rcx; popq %rcx; pushq %r10; pushq %rdx; movq (%rdx), %rsp");
KEEPS_CF(cf_prefix, ".byte 0x66; stc", "movq (%rsi), %rcx");

static void test_kept_flags(void)
{
    static uint64_t (*const functions[])(uint64_t, uint64_t *, uint64_t *) = { cf_plain, cf_load, cf_store, cf_pop,
                                                                               cf_push,  cf_both, cf_prefix };
    uint64_t *page = page_alloc();

    for (unsigned i = 0; i < ARRAY_SIZE(functions); i++) {
        uint64_t lost = functions[i](1000, page + 64, page + 128);

        CHECK(lost == 0, "CF lost %u times in function %u", (unsigned)lost, i);
    }
}

const struct guest_test guest_tests[] = {
    { "windows", test_windows },
    { "endless loops", test_endless },
    { "REP", test_rep },
    { "single steps", test_steps },
    { "breakpoints", test_breakpoints },
    { "faults", test_faults },
    { "kept flags", test_kept_flags },
    { 0 },
};
