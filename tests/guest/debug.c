/* Debug exceptions and interrupt shadows: single step, breakpoints, MOV SS, RF, INT n. Intel SDM volume 3,
 * sections 17.2 to 17.3 (debug registers, #DB), 6.8.3 (MOV SS and POP SS), 6.12.1.2 (INT n privilege), 17.3.1.1 (RF).
 */
#include "long.h"

#define DR6_B0 BIT(0)
#define DR6_BS BIT(14)
#define LABEL(name) extern const uint8_t name[]

/* Exceptions seen by the counting handler. */
static volatile unsigned db_count;
static struct {
    uint64_t rip, dr6, rflags, rcx;
} db[8];

static void on_db(struct frame *f)
{
    if (db_count < ARRAY_SIZE(db)) {
        db[db_count].rip = f->rip;
        db[db_count].dr6 = read_dr6();
        db[db_count].rflags = f->rflags;
        db[db_count].rcx = f->rcx;
    }
    db_count++;
    write_dr6(0xffff0ff0);
    if (db_count >= ARRAY_SIZE(db))
        f->rflags &= ~EFLAGS_TF;
}

/* Like on_db, and sets RF so that an instruction breakpoint is passed. */
static void on_db_resume(struct frame *f)
{
    on_db(f);
    f->rflags |= EFLAGS_RF;
}

static void begin(guest_handler *handler)
{
    write_dr7(0x400);
    write_dr6(0xffff0ff0);
    db_count = 0;
    guest_handlers[DB] = handler;
}

static void end(void)
{
    write_dr7(0x400);
    guest_handlers[DB] = NULL;
}

static void check_step(unsigned i, const uint8_t *rip, uint64_t dr6_bits)
{
    guest_checks++;
    if (i >= db_count)
        return;
    if (db[i].rip != (uint64_t)rip || (db[i].dr6 & (DR6_BS | 15)) != dr6_bits)
        guest_fail("#DB %u: rip %X dr6 %X, expected rip %X dr6 bits %X", i, db[i].rip, db[i].dr6, (uint64_t)rip,
                   dr6_bits);
}

/* RDI: new SS selector where needed. Sets TF, runs, clears TF. */
#define STEPPED(text)                                                        \
    __asm__ volatile("pushfq; orl $0x100, (%%rsp); popfq\n" text             \
                     "\npushfq; andl $~0x100, (%%rsp); popfq" ::"D"(0x18ULL) \
                     : "rax", "rcx", "rdx", "rsi", "memory", "cc")

LABEL(step_a);
LABEL(step_b);
LABEL(step_c);
LABEL(step_d);

static void test_single_step(void)
{
    begin(on_db);
    STEPPED("step_a: nop; step_b: nop; step_c: pushfq; step_d: popq %%rsi");
    end();
    /* After each instruction behind POPFQ, up to and including the POPFQ that clears TF. */
    CHECK_EQ("steps", db_count, 7);
    check_step(0, step_b, DR6_BS);
    check_step(1, step_c, DR6_BS);
    check_step(2, step_d, DR6_BS);
    CHECK(db[0].rflags & EFLAGS_TF, "TF in the pushed flags");
    CHECK(!(db[0].rflags & EFLAGS_RF), "no RF in a trap's flags");
}

LABEL(ss_a);
LABEL(ss_b);
LABEL(ss_c);

static void test_mov_ss_shadow(void)
{
    begin(on_db);
    STEPPED("ss_a: mov %%edi, %%ss; nop; ss_b: nop; ss_c:");
    end();
    CHECK(db_count >= 2, "steps");
    check_step(0, ss_b, DR6_BS); /* none behind MOV SS */
    check_step(1, ss_c, DR6_BS);
    begin(on_db);
    write_dr0((uint64_t)ss_b);
    write_dr7(0x402 | 1);
    __asm__ volatile("mov %0, %%ss; nop; nop" ::"r"(0x18));
    CHECK_EQ("nothing before", db_count, 0);
    end();
}

LABEL(ib_target);
LABEL(ib_shadow);

static void test_instruction_breakpoint(void)
{
    begin(on_db_resume);
    write_dr0((uint64_t)ib_target);
    write_dr7(0x402);
    __asm__ volatile("nop; ib_target: nop; nop");
    CHECK_EQ("hits", db_count, 1);
    check_step(0, ib_target, DR6_B0);
    CHECK(!(db[0].rflags & EFLAGS_RF), "no RF in an instruction breakpoint's flags");
    /* Suppressed behind MOV SS. */
    begin(on_db_resume);
    write_dr0((uint64_t)ib_shadow);
    write_dr7(0x402);
    __asm__ volatile("mov %0, %%ss; ib_shadow: nop" ::"r"(0x18));
    CHECK_EQ("hits behind MOV SS", db_count, 0);
    end();
}

LABEL(data_after);
LABEL(data_after2);
static volatile uint64_t watched[4];

static void watch(unsigned type, unsigned len, const volatile void *at)
{
    static const uint8_t codes[] = { [1] = 0, [2] = 1, [4] = 3, [8] = 2 };

    begin(on_db);
    write_dr0((uint64_t)at);
    write_dr7(0x402 | type << 16 | (uint64_t)codes[len] << 18);
}

static void test_data_breakpoints(void)
{
    watch(1, 8, watched);
    __asm__ volatile("movb $1, 3+watched(%%rip); data_after: nop" ::: "memory");
    CHECK_EQ("write", db_count, 1);
    check_step(0, data_after, DR6_B0);
    watch(1, 8, watched);
    (void)watched[0];
    watched[1] = 1;
    CHECK_EQ("read, and write beside", db_count, 0);
    watch(3, 4, watched);
    __asm__ volatile("movl 2+watched(%%rip), %%eax; data_after2: nop" ::: "rax");
    CHECK_EQ("read of a read-write watch", db_count, 1);
    check_step(0, data_after2, DR6_B0);
    watch(1, 1, (volatile uint8_t *)watched + 5);
    __asm__ volatile("movl $0, 2+watched(%%rip)" ::: "memory");
    CHECK_EQ("wide write over one byte", db_count, 1);
    watch(1, 2, (volatile uint8_t *)watched + 6);
    __asm__ volatile("movl $0, 2+watched(%%rip)" ::: "memory");
    CHECK_EQ("write just below", db_count, 0);
    watch(1, 8, watched);
    __asm__ volatile("pushq $5; popq watched(%%rip)" ::: "memory");
    CHECK_EQ("POP to memory", db_count, 1);
    end();
}

LABEL(rep_insn);

static void test_rep_breakpoint(void)
{
    void *to = (void *)watched;
    uint64_t n = 8;

    watch(1, 1, (volatile uint8_t *)watched + 2);
    __asm__ volatile("rep_insn: rep stosb" : "+D"(to), "+c"(n) : "a"(0x55) : "memory");
    end();
    CHECK_EQ("one hit", db_count, 1);
    check_step(0, rep_insn, DR6_B0); /* after the iteration that hit, not at the end */
    CHECK_EQ("RCX at the hit", db[0].rcx, 5);
    CHECK_EQ("RCX at the end", n, 0);
    CHECK_EQ("all bytes stored", watched[0], 0x5555555555555555);
}

LABEL(io_after);

static void test_io_breakpoint(void)
{
    uint64_t cr4 = read_cr4();

    write_cr4(cr4 | CR4_DE);
    begin(on_db);
    write_dr0(0x80);
    write_dr7(0x402 | 2 << 16);
    __asm__ volatile("outb %%al, $0x80; io_after: nop" ::"a"(0));
    CHECK_EQ("OUT to the port", db_count, 1);
    check_step(0, io_after, DR6_B0);
    __asm__ volatile("outb %%al, $0x84" ::"a"(0));
    CHECK_EQ("another port", db_count, 1);
    end();
    write_cr4(cr4);
}

LABEL(icebp_after);

static void test_int1(void)
{
    begin(on_db);
    __asm__ volatile(".byte 0xf1; icebp_after: nop");
    end();
    CHECK_EQ("INT1", db_count, 1);
    check_step(0, icebp_after, 0);
}

static void test_rf_in_faults(void)
{
    TRY("ud2");
    CHECK_EXC("UD2", UD, 0);
    CHECK(exc.frame.rflags & EFLAGS_RF, "RF in a fault's flags");
    TRY("int3");
    CHECK(!(exc.frame.rflags & EFLAGS_RF), "no RF in a trap's flags");
}

SNIPPET(u_int80, "int $0x80");
SNIPPET(u_int81, "int $0x81");
SNIPPET(u_int3, "int3");
SNIPPET(u_int1, ".byte 0xf1");
SNIPPET(u_int14, "int $14");
SNIPPET(u_step, "pushfq; orl $0x100, (%rsp); popfq; nop; nop");

static void test_int_n(void)
{
    USER_EXEC(u_int80);
    CHECK_EXC("INT 0x80 from CPL 3", 0x80, 0);
    CHECK_EQ("RIP behind", exc.frame.rip, USER_CODE + 2);
    USER_EXEC(u_int81);
    CHECK_EXC("INT to a gate with DPL 0", GP, 0x81 * 8 + 2);
    CHECK_EQ("RIP of the INT", exc.frame.rip, USER_CODE);
    USER_EXEC(u_int3);
    CHECK_EXC("INT3 to a gate with DPL 0", GP, 3 * 8 + 2);
    USER_EXEC(u_int14);
    CHECK_EXC("INT 14", GP, 14 * 8 + 2);
    USER_EXEC(u_int1);
    CHECK_EXC("INT1 needs no privilege", DB, 0);
    idt_set(3, 3, 0, 14);
    USER_EXEC(u_int3);
    CHECK_EXC("INT3 with DPL 3", BP, 0);
    idt_set(3, 0, 0, 14);
    USER_EXEC(u_step);
    CHECK_EXC("single step at CPL 3", DB, 0);
    CHECK(exc.dr6 & DR6_BS, "DR6.BS");
    write_dr6(0xffff0ff0);
}

/* Trap gates leave IF, interrupt gates clear it; both clear TF, NT, RF. */
static volatile uint64_t seen_flags;

static void on_gate(struct frame *f)
{
    uint64_t flags;

    (void)f;
    __asm__ volatile("pushfq; popq %0" : "=r"(flags));
    seen_flags = flags;
}

static void test_gate_types(void)
{
    guest_handlers[0x90] = on_gate;
    idt_set(0x90, 0, 0, 15);
    __asm__ volatile("pushfq; orl $0x4200, (%%rsp); popfq; int $0x90; pushfq; andl $~0x4200, (%%rsp); popfq" ::
                         : "memory");
    CHECK_EQ("trap gate: IF kept, NT cleared", seen_flags & (EFLAGS_IF | EFLAGS_NT), EFLAGS_IF);
    idt_set(0x90, 0, 0, 14);
    __asm__ volatile("sti; int $0x90; cli" ::: "memory");
    CHECK_EQ("interrupt gate: IF cleared", seen_flags & EFLAGS_IF, 0);
}

const struct guest_test guest_tests[] = {
    { "single step", test_single_step },
    { "MOV SS", test_mov_ss_shadow },
    { "instruction breakpoint", test_instruction_breakpoint },
    { "data breakpoints", test_data_breakpoints },
    { "breakpoint in REP", test_rep_breakpoint },
    { "I/O breakpoint", test_io_breakpoint },
    { "INT1", test_int1 },
    { "RF", test_rf_in_faults },
    { "INT n", test_int_n },
    { "gate types", test_gate_types },
    { 0 },
};
