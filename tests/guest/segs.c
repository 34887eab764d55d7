/* Segment loads, non-canonical addresses, far transfers and call gates in 64-bit code. Intel SDM volume 3, sections 5.5
 * to 5.8 (privilege checks), 3.4.4 (64-bit segments), 5.8.3 (call gates); volume 2, MOV, LAR, VERR; volume 1,
 * section 3.3.7.1 (canonical addresses, #SS for stack references). */
#include "long.h"

/* Slots: SEL_TEST + 8 * n. */
#define SLOT(n) (SEL_TEST + 8 * (n))
#define NONCANON 0x0000800000000000ULL

static void put(unsigned slot, uint64_t descriptor)
{
    gdt[SLOT(slot) / 8] = descriptor;
}

/* access: P DPL S type; flags: G D L AVL. */
static uint64_t descriptor(uint32_t base, uint32_t limit, uint8_t access, uint8_t flags)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 |
           (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)(flags & 15) << 52 | (uint64_t)(base >> 24) << 56;
}

static void load_ds(uint64_t sel)
{
    TRY_C("mov %%es, %%eax; mov %w0, %%ds; mov %%eax, %%ds", , ARGS("r"(sel)), "rax");
}

static void load_ss(uint64_t sel)
{
    TRY_C("mov %w0, %%ss; movl $0x18, %%eax; mov %%eax, %%ss", , ARGS("r"(sel)), "rax");
}

static void test_data_segments(void)
{
    static const struct {
        const char *name;
        uint8_t access;
        uint8_t rpl;
        int ds, ss; /* exception expected of DS and SS loads */
    } cases[] = {
        { "data rw, DPL 0, RPL 0", 0x93, 0, NO_EXC, NO_EXC },
        { "data rw, DPL 0, RPL 3", 0x93, 3, GP, GP },
        { "data rw, DPL 3, RPL 0", 0xf3, 0, NO_EXC, GP },
        { "data rw, DPL 3, RPL 3", 0xf3, 3, NO_EXC, GP },
        { "data rw, DPL 1, RPL 1", 0xb3, 1, NO_EXC, GP },
        { "data rw, DPL 1, RPL 2", 0xb3, 2, GP, GP },
        { "data ro", 0x91, 0, NO_EXC, GP },
        { "data rw, expand down", 0x97, 0, NO_EXC, NO_EXC },
        { "data rw, not present", 0x13, 0, NP, SS },
        { "data ro, not present", 0x11, 0, NP, GP },
        { "code, execute only", 0x99, 0, GP, GP },
        { "code, readable", 0x9b, 0, NO_EXC, GP },
        { "code, readable, RPL 3", 0x9b, 3, GP, GP },
        { "code, readable, conforming, RPL 3", 0x9f, 3, NO_EXC, GP },
        { "code, conforming, execute only", 0x9d, 0, GP, GP },
        { "TSS", 0x89, 0, GP, GP },
        { "LDT", 0x82, 0, GP, GP },
        { "call gate", 0x8c, 0, GP, GP },
        { "nothing", 0, 0, GP, GP },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        unsigned sel = SLOT(0) | cases[i].rpl;

        put(0, descriptor(0, 0xfffff, cases[i].access, 0xc));
        load_ds(sel);
        check_exc(cases[i].name, cases[i].ds, SLOT(0), __LINE__);
        put(0, descriptor(0, 0xfffff, cases[i].access, 0xc));
        load_ss(sel);
        check_exc(cases[i].name, cases[i].ss, SLOT(0), __LINE__);
    }
}

static void test_selectors(void)
{
    for (unsigned rpl = 0; rpl < 4; rpl++) {
        load_ds(rpl);
        CHECK_EXC("null in DS", NO_EXC, 0);
        load_ss(rpl);
        CHECK_EXC("null in SS at CPL 0", rpl == 0 ? NO_EXC : GP, 0);
    }
    load_ds(0xfff8);
    CHECK_EXC("beyond the GDT", GP, 0xfff8);
    load_ds(0xfffb);
    CHECK_EXC("beyond the GDT, RPL 3", GP, 0xfff8);
    __asm__ volatile("lldt %w0" ::"r"(0));
    load_ds(0x0c);
    CHECK_EXC("LDT selector without an LDT", GP, 0x0c);
    load_ss(0x0f);
    CHECK_EXC("LDT selector in SS, RPL 3", GP, 0x0c);
    TRY(".byte 0x8e, 0xc8"); /* mov %eax, %cs */
    CHECK_EXC("MOV to CS", UD, 0);
    TRY(".byte 0x8e, 0xf0"); /* sixth segment register */
    CHECK_EXC("MOV to segment register 6", UD, 0);
    TRY("mov %%ds, %%eax; pushq %%rax; .byte 0x0f, 0xa1; movl $0, %%eax; mov %%eax, %%fs");
    CHECK_EXC("POP FS", NO_EXC, 0);
    TRY(".byte 0x1f"); /* pop ds */
    CHECK_EXC("POP DS in 64-bit mode", UD, 0);
}

static void test_accessed_bit(void)
{
    put(0, descriptor(0, 0xfffff, 0x92, 0xc));
    load_ds(SLOT(0));
    CHECK_EQ("accessed bit", gdt[SLOT(0) / 8] >> 40 & 0xff, 0x93);
    put(0, descriptor(0, 0xfffff, 0x92, 0xc));
    load_ds(SLOT(0) | 3);
    CHECK_EQ("accessed bit of a refused load", gdt[SLOT(0) / 8] >> 40 & 0xff, 0x92);
}

static void test_fs_gs(void)
{
    uint64_t v;

    put(0, descriptor(0x12345678, 0, 0x93, 0xc));
    TRY_C("mov %w0, %%gs", , ARGS("r"(SLOT(0))));
    CHECK_EQ("GS base from the descriptor", rdmsr(MSR_GS_BASE), 0x12345678);
    put(0, descriptor(0xfedcba98, 0, 0x93, 0xc));
    TRY_C("mov %w0, %%fs", , ARGS("r"(SLOT(0))));
    CHECK_EQ("FS base is not sign-extended", rdmsr(MSR_FS_BASE), 0xfedcba98);
    *(uint64_t *)USER_DATA = 0; /* mapped by user_init */
    wrmsr(MSR_FS_BASE, USER_DATA);
    *(uint64_t *)USER_DATA = 77;
    __asm__ volatile("movq %%fs:0, %0" : "=r"(v));
    CHECK_EQ("access through FS", v, 77);
    /* Base plus offset wraps modulo 2^64. */
    __asm__ volatile("movq %%fs:(%1), %0" : "=r"(v) : "r"(-(uint64_t)USER_DATA + (uint64_t)&exc));
    CHECK_EQ("FS base wraps", v, *(uint64_t *)&exc);
    TRY("movq %%fs:(%0), %%rax", "r"(NONCANON - USER_DATA));
    CHECK_EXC("FS base plus offset, not canonical", GP, 0);
    wrmsr(MSR_FS_BASE, 0);
    wrmsr(MSR_GS_BASE, 0);
}

static void test_system_selectors(void)
{
    uint64_t busy = gdt[SEL_TSS(0) / 8];

    CHECK_EQ("LTR made the TSS busy", busy >> 40 & 0xf, 0xb);
    TRY("ltr %w0", "r"(SEL_TSS(0)));
    CHECK_EXC("LTR of a busy TSS", GP, SEL_TSS(0));
    TRY("ltr %w0", "r"(0));
    CHECK_EXC("LTR of null", GP, 0);
    if (exc.vector == NO_EXC)
        return; /* nothing works any more */
    put(0, descriptor(0, 0x67, 0x09, 0));
    put(1, 0);
    TRY("ltr %w0", "r"(SLOT(0)));
    CHECK_EXC("LTR, not present", NP, SLOT(0));
    put(0, descriptor(0, 0xfffff, 0x93, 0xc));
    TRY("ltr %w0", "r"(SLOT(0)));
    CHECK_EXC("LTR of data", GP, SLOT(0));
    TRY("lldt %w0", "r"(SLOT(0)));
    CHECK_EXC("LLDT of data", GP, SLOT(0));
    TRY("lldt %w0", "r"(0x0c));
    CHECK_EXC("LLDT with TI", GP, 0x0c);
    put(0, descriptor(0, 0xff, 0x02, 0));
    put(1, 0);
    TRY("lldt %w0", "r"(SLOT(0)));
    CHECK_EXC("LLDT, not present", NP, SLOT(0));
    /* An LDT whose third entry is a copy of the data segment. */
    {
        static uint64_t ldt[4];
        uint64_t base = (uint64_t)ldt;

        ldt[2] = gdt[SEL_DATA / 8];
        put(0, descriptor((uint32_t)base, sizeof(ldt) - 1, 0x82, 0));
        put(1, base >> 32);
        TRY("lldt %w0", "r"(SLOT(0)));
        CHECK_EXC("LLDT", NO_EXC, 0);
        load_ds(0x14);
        CHECK_EXC("segment from the LDT", NO_EXC, 0);
        load_ds(0x0c);
        CHECK_EXC("empty LDT entry", GP, 0x0c);
        load_ds(0x24);
        CHECK_EXC("beyond the LDT", GP, 0x24);
        __asm__ volatile("lldt %w0" ::"r"(0));
    }
}

static bool lar(uint16_t sel, uint32_t *ret)
{
    bool ok;

    __asm__ volatile("lar %2, %1; setz %0" : "=q"(ok), "=r"(*ret) : "r"((uint32_t)sel) : "cc");
    return ok;
}

static bool lsl(uint16_t sel, uint32_t *ret)
{
    bool ok;

    __asm__ volatile("lsl %2, %1; setz %0" : "=q"(ok), "=r"(*ret) : "r"((uint32_t)sel) : "cc");
    return ok;
}

static bool verr(uint16_t sel)
{
    bool ok;

    __asm__ volatile("verr %w1; setz %0" : "=q"(ok) : "r"(sel) : "cc");
    return ok;
}

static bool verw(uint16_t sel)
{
    bool ok;

    __asm__ volatile("verw %w1; setz %0" : "=q"(ok) : "r"(sel) : "cc");
    return ok;
}

static void test_lar_lsl_verr(void)
{
    /* Valid types in 64-bit mode: LAR 2, 9, b, c; LSL 2, 9, b (SDM tables at LAR and LSL). */
    uint32_t v;

    for (unsigned type = 0; type < 16; type++) {
        bool lar_ok = type == 2 || type == 9 || type == 0xb || type == 0xc, lsl_ok = lar_ok && type != 0xc;

        put(0, descriptor(0, 0x1234, (uint8_t)(0x80 | type), 0));
        put(1, 0);
        guest_checks++;
        if (lar(SLOT(0), &v) != lar_ok)
            guest_fail("LAR of system type %u: ZF should be %d", type, lar_ok);
        if (lsl(SLOT(0), &v) != lsl_ok)
            guest_fail("LSL of system type %u: ZF should be %d", type, lsl_ok);
        CHECK(!verr(SLOT(0)) && !verw(SLOT(0)), "VERR, VERW of system type %u", type);
    }
    put(0, descriptor(0, 0x12345, 0x13, 0xc));
    CHECK(lar(SLOT(0), &v), "LAR of a segment that is not present");
    CHECK_EQ("LAR's value", v & 0x00f0ff00, 0x00c01300);
    CHECK(lsl(SLOT(0), &v), "LSL");
    CHECK_EQ("LSL's value, page granular", v, 0x12345fff);
    put(0, descriptor(0, 0x12345, 0x93, 0x4));
    CHECK(lsl(SLOT(0), &v), "LSL");
    CHECK_EQ("LSL's value, byte granular", v, 0x12345);
    CHECK(lar(SLOT(0), &v) && !lar(SLOT(0) | 3, &v), "LAR heeds RPL");
    CHECK(!lar(0, &v) && !lsl(0, &v) && !verr(0) && !verw(0) && !lar(0xfff8, &v), "null and beyond the limit");
    CHECK(verr(SLOT(0)) && verw(SLOT(0)) && !verr(SLOT(0) | 3), "VERR, VERW of data");
    put(0, descriptor(0, 0, 0x91, 0));
    CHECK(verr(SLOT(0)) && !verw(SLOT(0)), "VERW of read-only data");
    put(0, descriptor(0, 0, 0x99, 0));
    CHECK(!verr(SLOT(0)) && !verw(SLOT(0)), "VERR of execute-only code");
    put(0, descriptor(0, 0, 0x9f, 0));
    CHECK(verr(SLOT(0) | 3) && !verw(SLOT(0)), "VERR of conforming code ignores privilege");
}

SNIPPET(u_read_rbp, "movb (%rbp), %al; int $0x80");
SNIPPET(u_read_fs_rbp, "movb %fs:(%rbp), %al; int $0x80");

static void test_canonical(void)
{
    const struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) bad_gdt = { 0xff, NONCANON };

    TRY("movb (%0), %%al", "r"(NONCANON));
    CHECK_EXC("read", GP, 0);
    TRY("movb %%al, (%0)", "r"(0xffff7fffffffffff));
    CHECK_EXC("write", GP, 0);
    map_page(NONCANON - 4096, (uint64_t)page_alloc(), PTE_P | PTE_W);
    TRY("movq (%0), %%rax", "r"(NONCANON - 4));
    CHECK_EXC("read over the edge", GP, 0);
    USER_EXEC(u_read_rbp, .rbp = NONCANON);
    CHECK_EXC("read by RBP", SS, 0);
    USER_EXEC(u_read_fs_rbp, .rbp = NONCANON);
    CHECK_EXC("read by RBP through FS", GP, 0);
    /* With RSP bad the exception needs a stack of its own. */
    tss[0].ist[0] = (uint64_t)page_alloc() + 4096;
    idt_set(SS, 0, 1, 14);
    TRY("movq %0, %%rsp; pushq %%rax", "r"(NONCANON + 8));
    CHECK_EXC("push", SS, 0);
    TRY("movq %0, %%rsp; popq %%rax", "r"(NONCANON));
    CHECK_EXC("pop", SS, 0);
    TRY("movq %0, %%rsp; ret", "r"(NONCANON));
    CHECK_EXC("RET reading its stack", SS, 0);
    TRY("movq %0, %%rsp; call 1f; 1:", "r"(NONCANON + 8));
    CHECK_EXC("call", SS, 0);
    TRY("movb (%%rsp,%0), %%al", "r"(NONCANON));
    CHECK_EXC("RSP as base", SS, 0);
    idt_set(SS, 0, 0, 14);
    TRY("jmp *%0", "r"(NONCANON));
    CHECK_EXC("jump to", GP, 0);
    TRY("call *%0", "r"(NONCANON));
    CHECK_EXC("call to", GP, 0);
    CHECK(exc.frame.rip < NONCANON, "the fault is the branch's, not the target's");
    TRY("pushq %0; ret", "r"(NONCANON));
    CHECK_EXC("return to", GP, 0);
    TRY("pushq %q0; pushq %1; lretq", "r"(SEL_CODE64), "r"(NONCANON));
    CHECK_EXC("far return to", GP, 0);
    TRY("movq %0, %%rdi; movl $8, %%ecx; rep stosb", "r"(NONCANON));
    CHECK_EXC("string store", GP, 0);
    TRY("invlpg (%0)", "r"(NONCANON));
    CHECK_EXC("INVLPG", NO_EXC, 0);
    TRY("prefetcht0 (%0)", "r"(NONCANON));
    CHECK_EXC("prefetch", NO_EXC, 0);
    TRY("leaq (%0), %%rax", "r"(NONCANON));
    CHECK_EXC("LEA", NO_EXC, 0);
    TRY("lgdt %0", "m"(bad_gdt));
    CHECK_EXC("LGDT", GP, 0);
}

static void far_jump(uint16_t sel, uint64_t to)
{
    struct {
        uint32_t to;
        uint16_t sel;
    } __attribute__((packed)) m = { (uint32_t)to, sel };

    TRY("ljmp *%0", "m"(m));
}

/* Only Intel has 64-bit offsets in far pointers. */
static void far_jump_64(uint16_t sel, uint64_t to)
{
    struct {
        uint64_t to;
        uint16_t sel;
    } __attribute__((packed)) m = { to, sel };

    TRY("rex.w ljmp *%0", "m"(m));
}

static void far_return(uint64_t cs, uint64_t to)
{
    TRY("pushq %0; pushq %1; lretq", "r"(cs), "r"(to));
}

/* A 64-bit call gate from CPL 3 to gate_target. */
extern const uint8_t gate_target[];
__asm__(
    ".text; gate_target: movq 24(%rsp), %rcx; movq 16(%rsp), %rdx; movq 8(%rsp), %rsi; movq %rsp, %r10; mov %cs, %r8d; "
    "mov %ss, %r9d; int $0x80");

static void test_far_transfers(void)
{
    const uint64_t here = (uint64_t)gate_target; /* never reached */

    far_jump(0, here);
    CHECK_EXC("jump to null", GP, 0);
    far_jump(SEL_DATA, here);
    CHECK_EXC("jump to data", GP, SEL_DATA);
    far_jump(0xfff8, here);
    CHECK_EXC("jump beyond the GDT", GP, 0xfff8);
    far_jump(SEL_CODE64 | 3, here);
    CHECK_EXC("jump, RPL 3", GP, SEL_CODE64);
    far_jump(SEL_USER64 & ~3, here);
    CHECK_EXC("jump to DPL 3", GP, SEL_USER64 & ~3);
    put(0, descriptor(0, 0xfffff, 0x1b, 0xa));
    far_jump(SLOT(0), here);
    CHECK_EXC("jump, not present", NP, SLOT(0));
    put(0, descriptor(0, 0xfffff, 0x9b, 0xe));
    far_jump(SLOT(0), here);
    CHECK_EXC("jump, L and D", GP, SLOT(0));
    if (guest_is_intel()) {
        far_jump_64(SEL_CODE64, NONCANON);
        CHECK_EXC("jump, not canonical", GP, 0);
    }
    far_return(SEL_CODE64, NONCANON);
    CHECK_EXC("far return, not canonical", GP, 0);
    far_jump(SEL_TSS(0), here);
    CHECK_EXC("jump to a TSS in long mode", GP, SEL_TSS(0));
    far_return(0, here);
    CHECK_EXC("return to null", GP, 0);
    far_return(SEL_DATA, here);
    CHECK_EXC("return to data", GP, SEL_DATA);
    far_return(SEL_USER64 & ~3ULL, here);
    CHECK_EXC("return, DPL 3 and RPL 0", GP, SEL_USER64 & ~3);
    TRY(".byte 0x9a, 0, 0, 0, 0, 0x10, 0");
    CHECK_EXC("direct far call in 64-bit mode", UD, 0);
    TRY(".byte 0xea, 0, 0, 0, 0, 0x10, 0");
    CHECK_EXC("direct far jump in 64-bit mode", UD, 0);
    TRY("leaq 1f(%%rip), %%rax; pushq $0x10; pushq %%rax; lretq; ud2; 1:");
    CHECK_EXC("far return to the same level", NO_EXC, 0);
}

SNIPPET(u_gate, "lcall *(%rdi); int $0x80");

static void put_gate(unsigned slot, uint64_t to, uint16_t sel, uint8_t access)
{
    put(slot, (to & 0xffff) | (uint64_t)sel << 16 | (uint64_t)access << 40 | (to >> 16 & 0xffff) << 48);
    put(slot + 1, to >> 32);
}

static void call_gate_from_user(uint16_t sel)
{
    struct {
        uint32_t off;
        uint16_t sel;
    } __attribute__((packed)) *m = (void *)USER_DATA;

    user_init();
    m->off = 0xdeadbeef; /* ignored */
    m->sel = sel;
    USER_EXEC(u_gate, .rdi = USER_DATA);
}

static void test_call_gates(void)
{
    uint16_t gate = SLOT(2) | 3;

    put_gate(2, (uint64_t)gate_target, SEL_CODE64, 0xec);
    call_gate_from_user(gate);
    CHECK_EXC("call through the gate", 0x80, 0);
    CHECK_EQ("CS", exc.frame.r8, SEL_CODE64);
    CHECK_EQ("SS is null", exc.frame.r9, 0);
    CHECK_EQ("old SS on the stack", exc.frame.rcx, SEL_USER_DATA);
    CHECK_EQ("old RSP", exc.frame.rdx, USER_STACK_TOP - 64);
    CHECK_EQ("old CS", exc.frame.rsi, SEL_USER64);
    CHECK_EQ("stack from the TSS", exc.frame.r10, tss[0].rsp[0] - 32);
    put_gate(2, (uint64_t)gate_target, SEL_CODE64, 0x8c);
    call_gate_from_user(gate);
    CHECK_EXC("gate with DPL 0", GP, SLOT(2));
    put_gate(2, (uint64_t)gate_target, SEL_CODE64, 0x6c);
    call_gate_from_user(gate);
    CHECK_EXC("gate not present", NP, SLOT(2));
    put_gate(2, (uint64_t)gate_target, SEL_CODE32, 0xec);
    call_gate_from_user(gate);
    CHECK_EXC("gate to 32-bit code", GP, SEL_CODE32);
    put_gate(2, (uint64_t)gate_target, SEL_DATA, 0xec);
    call_gate_from_user(gate);
    CHECK_EXC("gate to data", GP, SEL_DATA);
    put_gate(2, (uint64_t)gate_target, 0, 0xec);
    call_gate_from_user(gate);
    CHECK_EXC("gate to null", GP, 0);
    put_gate(2, NONCANON, SEL_CODE64, 0xec);
    call_gate_from_user(gate);
    CHECK_EXC("gate to a non-canonical address", GP, 0);
    put_gate(2, (uint64_t)gate_target, SEL_CODE64, 0xec);
    put(3, (uint64_t)gate_target >> 32 | BIT(40));
    call_gate_from_user(gate);
    CHECK_EXC("upper half with a type", GP, SLOT(2));
}

SNIPPET(u_load_ds, "mov %edi, %ds; int $0x80");
SNIPPET(u_load_ss, "mov %edi, %ss; int $0x80");

static void test_loads_at_cpl3(void)
{
    USER_EXEC(u_load_ds, .rdi = SEL_DATA);
    CHECK_EXC("DS = kernel data", GP, SEL_DATA);
    USER_EXEC(u_load_ds, .rdi = SEL_DATA | 3);
    CHECK_EXC("DS = kernel data, RPL 3", GP, SEL_DATA);
    USER_EXEC(u_load_ds, .rdi = SEL_USER_DATA);
    CHECK_EXC("DS = user data", 0x80, 0);
    USER_EXEC(u_load_ss, .rdi = 0);
    CHECK_EXC("SS = null at CPL 3", GP, 0);
    USER_EXEC(u_load_ss, .rdi = 3);
    CHECK_EXC("SS = null, RPL 3 at CPL 3", GP, 0);
    USER_EXEC(u_load_ss, .rdi = SEL_USER_DATA & ~3);
    CHECK_EXC("SS with RPL 0 at CPL 3", GP, SEL_USER_DATA & ~3);
    USER_EXEC(u_load_ss, .rdi = SEL_USER_DATA);
    CHECK_EXC("SS", 0x80, 0);
}

static void start(void)
{
    user_init();
}

const struct guest_test guest_tests[] = {
    { "start", start },
    { "data segments", test_data_segments },
    { "selectors", test_selectors },
    { "accessed bit", test_accessed_bit },
    { "FS and GS", test_fs_gs },
    { "LDT and TSS", test_system_selectors },
    { "LAR, LSL, VERR, VERW", test_lar_lsl_verr },
    { "canonical addresses", test_canonical },
    { "far transfers", test_far_transfers },
    { "call gates", test_call_gates },
    { "segment loads at CPL 3", test_loads_at_cpl3 },
    { 0 },
};
