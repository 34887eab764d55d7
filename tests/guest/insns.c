/* Instructions whose faults and corner cases an engine gets wrong easily: string instructions that fault in the middle,
 * alignment checks, CMPXCHG16B, LOCK, TSC reads, CPUID, #UD encodings, divide errors, ENTER, flags. Intel SDM volume 2.
 */
#include "long.h"

#define VA 0x8000000000ULL

/* Two pages at VA: the first present, the second not. */
static uint8_t *setup(void)
{
    uint8_t *page = page_alloc();

    map_page(VA, (uint64_t)page, PTE_P | PTE_W | PTE_U);
    map_page(VA + 4096, 0, 0);
    return page;
}

static void test_rep_faults(void)
{
    uint8_t *page = setup(), *source = page_alloc();

    TRY_C("rep stosb", , ARGS("D"(VA + 4090), "c"(20), "a"(0x5a)));
    CHECK_EXC("REP STOSB", PF, 2);
    CHECK_EQ("CR2", exc.cr2, VA + 4096);
    CHECK_EQ("RCX left", exc.frame.rcx, 14);
    CHECK_EQ("RDI", exc.frame.rdi, VA + 4096);
    CHECK_EQ("what was stored", page[4095], 0x5a);
    CHECK_EQ("RIP is the instruction", *(uint16_t *)exc.frame.rip, 0xaaf3);
    TRY_C("rep movsb", , ARGS("S"(source), "D"(VA + 4090), "c"(20)));
    CHECK_EXC("REP MOVSB, destination", PF, 2);
    CHECK_EQ("RCX", exc.frame.rcx, 14);
    CHECK_EQ("RSI", exc.frame.rsi, (uint64_t)source + 6);
    TRY_C("rep movsq", , ARGS("S"(VA + 4096 - 24), "D"(source), "c"(10)));
    CHECK_EXC("REP MOVSQ, source", PF, 0);
    CHECK_EQ("RCX", exc.frame.rcx, 7);
    CHECK_EQ("RDI", exc.frame.rdi, (uint64_t)source + 24);
    TRY_C("rep movsq", , ARGS("S"(VA + 4096 - 20), "D"(source), "c"(10)));
    CHECK_EXC("REP MOVSQ, element over the edge", PF, 0);
    CHECK_EQ("CR2", exc.cr2, VA + 4096);
    CHECK_EQ("RCX", exc.frame.rcx, 8);
    memset(source, 7, 64);
    memset(page + 4032, 7, 64);
    TRY_C("repe cmpsb", , ARGS("S"(source), "D"(VA + 4086), "c"(64)));
    CHECK_EXC("REPE CMPSB", PF, 0);
    CHECK_EQ("RCX", exc.frame.rcx, 54);
    TRY_C("repne scasb", , ARGS("D"(VA + 4086), "c"(64), "a"(1)));
    CHECK_EXC("REPNE SCASB", PF, 0);
    CHECK_EQ("RCX", exc.frame.rcx, 54);
    TRY_C("rep lodsb", , ARGS("S"(VA + 4090), "c"(20), "a"(0)));
    CHECK_EXC("REP LODSB", PF, 0);
    CHECK_EQ("RCX", exc.frame.rcx, 14);
    /* Downwards into the page below, which is missing. */
    map_page(VA - 4096 + 0x200000, 0, 0);
    map_page(VA + 0x200000, (uint64_t)page, PTE_P | PTE_W);
    TRY_C("std; rep stosw; cld", , ARGS("D"(VA + 0x200000 + 6), "c"(10), "a"(0)));
    CHECK_EXC("REP STOSW downwards", PF, 2);
    CHECK_EQ("RCX", exc.frame.rcx, 6);
    __asm__ volatile("cld");
    TRY_C("rep stosb", , ARGS("D"(0x7000000000ULL), "c"(0ULL), "a"(0)));
    CHECK_EXC("REP with RCX = 0 touches nothing", NO_EXC, 0);
    TRY_C(".byte 0x67; rep stosb", ,
          ARGS("D"(0xffffffff00000000 | (uint64_t)source), "c"(0xffffffff00000004), "a"(0x33)));
    CHECK_EXC("32-bit addresses", NO_EXC, 0);
    CHECK(source[3] == 0x33 && source[4] == 7, "ECX and EDI count");
    TRY_C("rep insb", , ARGS("D"(VA + 4094), "c"(4), "d"(0xe9)));
    CHECK_EXC("REP INSB", PF, 2);
    CHECK_EQ("RCX", exc.frame.rcx, 2);
    TRY_C("rep outsb", , ARGS("S"(VA + 4095), "c"(2), "d"(0x80)));
    CHECK_EXC("REP OUTSB", PF, 0);
    CHECK_EQ("RCX", exc.frame.rcx, 1);
}

static void test_overlapping_movs(void)
{
    uint8_t *p = page_alloc();

    p[0] = 1;
    p[1] = 2;
    p[2] = 3;
    TRY_C("rep movsb", , ARGS("S"(p), "D"(p + 3), "c"(9)));
    CHECK(memcmp(p, "\1\2\3\1\2\3\1\2\3\1\2\3", 12) == 0, "forward overlap repeats the pattern");
}

static void test_cmpxchg16b(void)
{
    uint8_t *p = page_alloc();

    if (!(cpuid(1, 0).ecx & BIT(13))) {
        guest_skip("CMPXCHG16B");
        return;
    }
    for (unsigned off = 1; off < 16; off++) {
        TRY("cmpxchg16b (%0)", "r"(p + off));
        CHECK_EXC("not aligned", GP, 0);
        TRY("lock cmpxchg16b (%0)", "r"(p + off));
        CHECK_EXC("not aligned, LOCK", GP, 0);
    }
    TRY("xorl %%eax, %%eax; xorl %%edx, %%edx; lock cmpxchg16b (%0)", "r"(p));
    CHECK_EXC("aligned", NO_EXC, 0);
    TRY("cmpxchg8b 1(%0)", "r"(p));
    CHECK_EXC("CMPXCHG8B needs no alignment", NO_EXC, 0);
    map_page(VA, (uint64_t)p, PTE_P);
    TRY("cmpxchg16b (%0)", "r"(VA));
    CHECK_EXC("read-only", PF, 3);
}

static void test_lock_prefix(void)
{
    uint8_t *p = page_alloc();

    TRY("xorl %%eax, %%eax; .byte 0xf0; addl %%eax, %%eax");
    CHECK_EXC("LOCK with a register", UD, 0);
    TRY(".byte 0xf0; movl %%eax, (%0)", "r"(p));
    CHECK_EXC("LOCK MOV", UD, 0);
    TRY(".byte 0xf0; cmpl %%eax, (%0)", "r"(p));
    CHECK_EXC("LOCK CMP", UD, 0);
    TRY(".byte 0xf0; nop");
    CHECK_EXC("LOCK NOP", UD, 0);
    TRY(".byte 0xf0; btl $1, (%0)", "r"(p));
    CHECK_EXC("LOCK BT", UD, 0);
    TRY("lock btsl $1, (%0)", "r"(p));
    CHECK_EXC("LOCK BTS", NO_EXC, 0);
    CHECK_EQ("BTS", p[0], 2);
    TRY("lock notl (%0)", "r"(p));
    CHECK_EXC("LOCK NOT", NO_EXC, 0);
}

static void test_undefined(void)
{
    TRY("ud2");
    CHECK_EXC("UD2", UD, 0);
    TRY(".byte 0x0f, 0xb9, 0xc0");
    CHECK_EXC("UD1", UD, 0);
    TRY(".byte 0x06");
    CHECK_EXC("PUSH ES", UD, 0);
    TRY(".byte 0x60");
    CHECK_EXC("PUSHA", UD, 0);
    TRY(".byte 0x27");
    CHECK_EXC("DAA", UD, 0);
    TRY(".byte 0xce");
    CHECK_EXC("INTO", UD, 0);
    TRY(".byte 0xd4, 0x0a");
    CHECK_EXC("AAM", UD, 0);
    TRY(".byte 0xc7, 0xc8, 0, 0, 0, 0");
    CHECK_EXC("C7 /1", UD, 0);
    TRY(".byte 0xff, 0xf8");
    CHECK_EXC("FF /7", UD, 0);
    TRY("swapgs");
    CHECK_EXC("SWAPGS", NO_EXC, 0);
    __asm__ volatile("swapgs");
    TRY(".byte 0x0f, 0x01, 0xff");
    CHECK_EXC("0F 01 FF", UD, 0);
    TRY("leaq (%0), %%rax; .byte 0x8d, 0xc0", "r"(0ULL));
    CHECK_EXC("LEA of a register", UD, 0);
    TRY(".byte 0x0f, 0x0b, 0x90");
    CHECK_EQ("RIP of a fault is the instruction", *(uint16_t *)exc.frame.rip, 0x0b0f);
}

static void test_divide(void)
{
    TRY("xorl %%edx, %%edx; movl $5, %%eax; xorl %%ecx, %%ecx; divl %%ecx");
    CHECK_EXC("by 0", DE, 0);
    CHECK_EQ("registers stay", exc.frame.rax, 5);
    TRY("movl $1, %%edx; xorl %%eax, %%eax; movl $1, %%ecx; divl %%ecx");
    CHECK_EXC("quotient of 33 bits", DE, 0);
    TRY("movl $0x80000000, %%eax; cltd; movl $-1, %%ecx; idivl %%ecx");
    CHECK_EXC("INT_MIN / -1", DE, 0);
    TRY("movw $0x8000, %%ax; movb $0x7f, %%cl; idivb %%cl");
    CHECK_EXC("IDIV of 8 bits, too big", DE, 0);
    TRY("movabsq $0x8000000000000000, %%rax; cqto; movq $-1, %%rcx; idivq %%rcx");
    CHECK_EXC("INT64_MIN / -1", DE, 0);
    TRY("movw $0xff81, %%ax; movb $1, %%cl; idivb %%cl");
    CHECK_EXC("-127 / 1", NO_EXC, 0);
}

SNIPPET(u_read_odd, "movl 1(%rdi), %eax; int $0x80");
SNIPPET(u_read_byte, "movb 1(%rdi), %al; int $0x80");
SNIPPET(u_read_qword4, "movq 4(%rdi), %rax; int $0x80");
SNIPPET(u_push_odd, "decq %rsp; pushq %rax; int $0x80");

static void test_alignment_check(void)
{
    static const struct {
        const char *name;
        const uint8_t *code, *end;
        int vector;
    } cases[] = {
        { "dword at 1", u_read_odd, u_read_odd_end, AC },
        { "byte at 1", u_read_byte, u_read_byte_end, 0x80 },
        { "qword at 4", u_read_qword4, u_read_qword4_end, AC },
        { "push at odd", u_push_odd, u_push_odd_end, AC },
    };
    uint64_t cr0 = read_cr0(), v;
    struct user_regs regs = { .rdi = USER_DATA };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        user_exec_at(cases[i].code, cases[i].end, &regs, SEL_USER64, SEL_USER_DATA, 2 | EFLAGS_AC);
        CHECK_EXC("AC without CR0.AM", 0x80, 0);
        write_cr0(cr0 | CR0_AM);
        user_exec_at(cases[i].code, cases[i].end, &regs, SEL_USER64, SEL_USER_DATA, 2 | EFLAGS_AC);
        check_exc(cases[i].name, cases[i].vector, 0, __LINE__);
        user_exec_at(cases[i].code, cases[i].end, &regs, SEL_USER64, SEL_USER_DATA, 2);
        CHECK_EXC("AM without AC", 0x80, 0);
        write_cr0(cr0);
    }
    write_cr0(cr0 | CR0_AM);
    regs.rdi = 0x7000000000;
    user_exec_at(u_read_odd, u_read_odd_end, &regs, SEL_USER64, SEL_USER_DATA, 2 | EFLAGS_AC);
    CHECK(exc.vector == AC || exc.vector == PF, "both faults: one of them");
    __asm__ volatile("pushfq; orl $0x40000, (%%rsp); popfq; movl 1(%1), %k0; pushfq; andl $~0x40000, (%%rsp); popfq"
                     : "=r"(v)
                     : "r"(USER_DATA));
    write_cr0(cr0);
}

static void test_tsc(void)
{
    uint64_t a = rdtsc(), b, c;
    uint32_t aux, lo, hi;

    for (unsigned i = 0; i < 1000; i++) {
        b = rdtsc();
        if (b < a)
            guest_fail("TSC went back: %X after %X", b, a);
        a = b;
    }
    c = rdmsr(0x10);
    CHECK(c >= a, "IA32_TIME_STAMP_COUNTER");
    if (cpuid(0x80000001, 0).edx & BIT(27)) {
        wrmsr(MSR_TSC_AUX, 0x12345);
        __asm__ volatile("rdtscp" : "=a"(lo), "=d"(hi), "=c"(aux));
        CHECK_EQ("RDTSCP's ECX", aux, 0x12345);
        CHECK(((uint64_t)hi << 32 | lo) >= c, "RDTSCP");
    } else {
        TRY("rdtscp");
        CHECK_EXC("RDTSCP", UD, 0);
    }
    if (cpuid(7, 0).ecx & BIT(22)) {
        uint64_t v;

        __asm__ volatile(".byte 0xf3, 0x0f, 0xc7, 0xf8" : "=a"(v)); /* rdpid %rax */
        CHECK_EQ("RDPID", v, 0x12345);
    }
}

static void test_cpuid(void)
{
    struct cpuid_regs max = cpuid(0, 0), one = cpuid(1, 0), ext = cpuid(0x80000000, 0), r;
    uint64_t v;

    CHECK(max.eax >= 7 && max.eax < 0x100, "highest basic leaf %x", (unsigned long)max.eax);
    CHECK(ext.eax >= 0x80000008 && ext.eax < 0x80000100, "highest extended leaf");
    CHECK(one.edx & BIT(0) && one.edx & BIT(4) && one.edx & BIT(5) && one.edx & BIT(6), "FPU, TSC, MSR, PAE");
    CHECK(one.edx & BIT(24) && one.edx & BIT(25) && one.edx & BIT(26), "FXSR, SSE, SSE2");
    CHECK(one.ecx & BIT(31), "hypervisor");
    CHECK_EQ("APIC ID", one.ebx >> 24, 0);
    CHECK(cpuid(0x80000001, 0).edx & BIT(29), "long mode");
    r = cpuid(0x80000008, 0);
    CHECK((r.eax & 0xff) >= 36 && (r.eax & 0xff) <= 52, "physical address bits");
    CHECK((r.eax >> 8 & 0xff) == 48 || (r.eax >> 8 & 0xff) == 57, "linear address bits");
    if (one.ecx & BIT(26)) {
        r = cpuid(0xd, 0);
        CHECK_EQ("x87 and SSE states", r.eax & 3, 3);
        CHECK(r.ecx >= 576 && r.ebx >= 576 && r.ebx <= r.ecx, "XSAVE area size");
        if (r.eax & 4) {
            r = cpuid(0xd, 2);
            CHECK(r.eax == 256 && r.ebx == 576, "AVX state: 256 bytes at 576");
        }
    }
    __asm__ volatile("movq $-1, %%rax; cpuid; movq %%rax, %0" : "=r"(v)::"rax", "rbx", "rcx", "rdx");
    CHECK_EQ("CPUID zero-extends", v >> 32, 0);
    /* AVX needs XSAVE; PCID and x2APIC need nothing; INVPCID comes with PCID. */
    CHECK(!(one.ecx & BIT(28)) || (one.ecx & BIT(26)), "AVX without XSAVE");
}

static void test_enter_leave(void)
{
    uint64_t sp, bp;

    TRY_C("movq %%rbp, %%rdx; movq %%rsp, %0; enter $32, $0; subq %%rsp, %0; leave; movq %%rbp, %1; subq %%rdx, %1",
          ARGS("=&r"(sp), "=&r"(bp)), , "rdx");
    CHECK_EXC("ENTER, LEAVE", NO_EXC, 0);
    CHECK_EQ("room", sp, 40);
    CHECK_EQ("RBP is back", bp, 0);
    /* SDM, ENTER: a page fault at the new top of the stack is ENTER's own; RSP and RBP stay. */
    setup();
    idt_set(PF, 0, 1, 14);
    tss[0].ist[0] = (uint64_t)page_alloc() + 4096;
    TRY("movq %0, %%rsp; pushq %%rax; popq %%rax; movq %%rsp, %%rcx; enter $8192, $0", "r"(VA + 4096));
    CHECK_EXC("ENTER to a missing page", PF, 2);
    CHECK_EQ("RSP stays", exc.frame.rsp, VA + 4096);
    idt_set(PF, 0, 0, 14);
}

/* Stack operations that fault leave RSP; POP to memory computes its address with the new RSP. */
static void test_stack(void)
{
    uint8_t *page = setup();
    uint64_t *top = (uint64_t *)(page + 4096 - 32);

    idt_set(PF, 0, 1, 14);
    tss[0].ist[0] = (uint64_t)page_alloc() + 4096;
    TRY("movq %0, %%rsp; popq %%rax", "r"(VA + 4096));
    CHECK_EXC("POP", PF, 0);
    CHECK_EQ("RSP stays", exc.frame.rsp, VA + 4096);
    TRY("movq %0, %%rsp; call *%1", "r"(0x7000000000ULL), "r"(VA));
    CHECK_EXC("CALL", PF, 2);
    CHECK_EQ("RSP stays", exc.frame.rsp, 0x7000000000);
    CHECK(exc.frame.rip != VA, "the fault is before the jump");
    top[0] = 0x1111;
    top[1] = 0x2222;
    top[2] = 0x3333;
    TRY_C("movq %%rsp, %%rcx; movq %0, %%rsp; popq 8(%%rsp); movq %%rsp, %%rdx; movq %%rcx, %%rsp", ,
          ARGS("r"(VA + 4096 - 32)), "rcx", "rdx");
    CHECK_EXC("POP 8(%rsp)", NO_EXC, 0);
    CHECK_EQ("address by the new RSP", top[2], 0x1111);
    CHECK_EQ("not by the old", top[1], 0x2222);
    idt_set(PF, 0, 0, 14);
    {
        uint64_t v, sp;

        __asm__ volatile("movq %%rsp, %1; pushq %%rsp; popq %0" : "=&r"(v), "=&r"(sp));
        CHECK_EQ("PUSH RSP pushes the old value", v, sp);
        __asm__ volatile("pushw $0x7fff; movw (%%rsp), %w0; addq $2, %%rsp" : "=r"(v));
        CHECK_EQ("PUSH of 16 bits", v & 0xffff, 0x7fff);
        __asm__ volatile("pushq $-5; popq %0" : "=r"(v));
        CHECK_EQ("PUSH imm8 is sign-extended", v, -5LL);
    }
}

/* POPF at CPL 0 and fixed bits; LAHF, SAHF; PUSHF never shows VM or RF. */
static void test_flags(void)
{
    uint64_t v;

    __asm__ volatile("pushq %1; popfq; pushfq; popq %0; pushq $2; popfq" : "=r"(v) : "r"(0x3fffffULL & ~0x4300ULL));
    CHECK_EQ("POPF, PUSHF", v,
             (0x3fffffULL & ~0x4300ULL & ~0x8028ULL & ~EFLAGS_RF & ~EFLAGS_VM & ~BIT(19) & ~BIT(20)) | 2);
    __asm__ volatile("movl $0xff00, %%eax; sahf; lahf; movq %%rax, %0" : "=r"(v)::"rax", "cc");
    CHECK_EQ("SAHF, LAHF", v, 0xd700);
    {
        __asm__ volatile("pushfq; xorl $0x200000, (%%rsp); popfq; pushfq; popq %0; pushq $2; popfq" : "=r"(v));
        CHECK(v & BIT(21), "ID can be set");
    }
}

const struct guest_test guest_tests[] = {
    { "REP with faults", test_rep_faults },
    { "overlapping MOVS", test_overlapping_movs },
    { "CMPXCHG16B", test_cmpxchg16b },
    { "LOCK", test_lock_prefix },
    { "undefined opcodes", test_undefined },
    { "divide errors", test_divide },
    { "alignment check", test_alignment_check },
    { "TSC", test_tsc },
    { "CPUID", test_cpuid },
    { "ENTER and LEAVE", test_enter_leave },
    { "stack", test_stack },
    { "flags", test_flags },
    { 0 },
};
