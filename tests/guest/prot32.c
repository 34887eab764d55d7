/* 32-bit protected mode: segment limits and types, far transfers, call gates with parameters, ring changes, 16-bit code
 * and stacks, the instructions that only exist here. Intel SDM volume 3, chapters 5 and 6; volume 2. */
#include "prot.h"

static uint8_t data[8192] __attribute__((aligned(4096)));

static void put(unsigned slot, uint64_t d)
{
    gdt[SLOT(slot) / 8] = d;
}

static void read_fs(unsigned slot, uint32_t off, unsigned len)
{
    if (len == 1)
        TRY_C("mov %w0, %%fs; movb %%fs:(%1), %%al", , ARGS("r"(SLOT(slot)), "r"(off)), "eax");
    else
        TRY_C("mov %w0, %%fs; movl %%fs:(%1), %%eax", , ARGS("r"(SLOT(slot)), "r"(off)), "eax");
}

static void write_fs(unsigned slot, uint32_t off)
{
    TRY_C("mov %w0, %%fs; movb $7, %%fs:(%1)", , ARGS("r"(SLOT(slot)), "r"(off)), "eax");
}

static void test_limits(void)
{
    uint32_t base = (uint32_t)data;

    put(0, descriptor(base, 0xfff, 0x93, 4));
    read_fs(0, 0xffc, 4);
    CHECK_EXC("last dword", NO_EXC, 0);
    read_fs(0, 0xffd, 4);
    CHECK_EXC("dword over the limit", GP, 0);
    read_fs(0, 0xfff, 1);
    CHECK_EXC("last byte", NO_EXC, 0);
    read_fs(0, 0x1000, 1);
    CHECK_EXC("first byte beyond", GP, 0);
    read_fs(0, 0xffffffff, 4);
    CHECK_EXC("offset that wraps", GP, 0);
    put(0, descriptor(base, 1, 0x93, 0xc));
    read_fs(0, 0x1ffc, 4);
    CHECK_EXC("page-granular, last dword", NO_EXC, 0);
    read_fs(0, 0x2000, 1);
    CHECK_EXC("page-granular, beyond", GP, 0);
    /* Expand-down: valid offsets are above the limit, up to ffff or ffffffff by B. */
    put(0, descriptor(base, 0xfff, 0x97, 4));
    read_fs(0, 0xfff, 1);
    CHECK_EXC("expand-down, at the limit", GP, 0);
    read_fs(0, 0x1000, 4);
    CHECK_EXC("expand-down, above", NO_EXC, 0);
    read_fs(0, 0xffe, 4);
    CHECK_EXC("expand-down, dword over the limit", GP, 0);
    put(0, descriptor(base, 0xfff, 0x97, 0));
    read_fs(0, 0x10000, 1);
    CHECK_EXC("expand-down of 16 bits, above ffff", GP, 0);
    put(0, descriptor(base, 0xfff, 0x97, 4));
    read_fs(0, 0x10000, 1);
    CHECK_EXC("expand-down of 32 bits, above ffff", NO_EXC, 0);
}

static void test_types(void)
{
    uint32_t base = (uint32_t)data;

    put(0, descriptor(base, 0xfff, 0x91, 4));
    read_fs(0, 0, 4);
    CHECK_EXC("read of read-only data", NO_EXC, 0);
    write_fs(0, 0);
    CHECK_EXC("write to read-only data", GP, 0);
    put(0, descriptor(base, 0xfff, 0x9b, 4));
    read_fs(0, 0, 4);
    CHECK_EXC("read of readable code", NO_EXC, 0);
    write_fs(0, 0);
    CHECK_EXC("write to code", GP, 0);
    TRY("movb $1, %%cs:%0", "m"(data[0]));
    CHECK_EXC("write through CS", GP, 0);
    TRY_C("mov %w0, %%fs; movb %%fs:0, %%al", , ARGS("r"(0)), "eax");
    CHECK_EXC("access through null", GP, 0);
    TRY_C("mov %w0, %%ss", , ARGS("r"(0)));
    CHECK_EXC("null in SS", GP, 0);
    put(0, descriptor(base, 0xfff, 0x13, 4));
    TRY_C("mov %w0, %%ss", , ARGS("r"(SLOT(0))));
    CHECK_EXC("SS not present", SS, SLOT(0));
    TRY_C("mov %w0, %%fs", , ARGS("r"(SLOT(0))));
    CHECK_EXC("FS not present", NP, SLOT(0));
    __asm__ volatile("mov %w0, %%fs" ::"r"(SEL_DATA));
}

/* #SS for references through SS; the handler runs on a stack of its own since a ring 3 program makes them. */
SNIPPET(u_ss_limit, "movb (%ebp), %al; int $0x80");
SNIPPET(u_ds_ebp, "movb %ds:(%ebp), %al; int $0x80");
SNIPPET(u_push, "movl %ebx, %esp; pushl %eax; int $0x80");

static void user_with_ss(const void *code, uint16_t ss, const struct regs *regs)
{
    const uint32_t words[] = { (uint32_t)code, SEL_UCODE, 2, 0x100, ss };

    exc.vector = NO_EXC;
    guest_iret_to(words, 5, (const uint32_t *)regs);
}

static void test_stack_limits(void)
{
    struct regs regs = { .ebp = 0x1000, .ebx = 3 };

    put(0, descriptor((uint32_t)data, 0xfff, 0xf3, 4));
    user_with_ss(u_ss_limit, SLOT(0) | 3, &regs);
    CHECK_EXC("EBP beyond the limit", SS, 0);
    user_with_ss(u_push, SLOT(0) | 3, &regs);
    CHECK_EXC("push that wraps", SS, 0);
    CHECK_EQ("ESP stays", exc.frame.esp, 3);
    __asm__ volatile("mov %w0, %%ds" ::"r"(SEL_UDATA));
    user_with_ss(u_ds_ebp, SLOT(0) | 3, &regs);
    __asm__ volatile("mov %w0, %%ds" ::"r"(SEL_DATA));
    CHECK_EXC("DS override has DS's limit", 0x80, 0);
    /* A 16-bit stack segment: SP wraps, the upper half of ESP stays. */
    put(0, descriptor((uint32_t)data, 0xffff, 0xf3, 0));
    regs.ebx = 0x12340000;
    user_with_ss(u_push, SLOT(0) | 3, &regs);
    CHECK_EXC("push with SP = 0", 0x80, 0);
    CHECK_EQ("SP wraps, upper half stays", exc.frame.esp, 0x1234fffc);
}

/* ---- far transfers and gates ---- */

/* Words of the stack as the target of a gate finds them. */
__asm__(
    ".text; gate_target: movl %esp, %ebx; movl %ss, %esi; movl (%esp), %eax; movl 4(%esp), %ecx; movl 8(%esp), %edx; "
    "movl 12(%esp), %edi; int $0x81; gate_return: lret $8");
extern const uint8_t gate_target[], gate_return[];
SNIPPET(u_call_gate, "pushl $0x1111; pushl $0x2222; lcall *%cs:(%eax); int $0x80");

struct far_pointer {
    uint32_t off;
    uint16_t sel;
} __attribute__((packed));

static void put_gate(unsigned slot, uint32_t to, uint16_t sel, uint8_t params, uint8_t access)
{
    put(slot, (to & 0xffff) | (uint64_t)sel << 16 | (uint64_t)params << 32 | (uint64_t)access << 40 |
                  (uint64_t)(to >> 16) << 48);
}

static void test_call_gate(void)
{
    static struct far_pointer to;
    struct regs regs = { .eax = (uint32_t)&to };

    to = (struct far_pointer){ 0x12345678, (uint16_t)(SLOT(1) | 3) };
    put_gate(1, (uint32_t)gate_target, SEL_CODE, 2, 0xec);
    user_exec(u_call_gate, &regs, 2);
    CHECK_EXC("through the gate", 0x81, 0);
    CHECK_EQ("new stack: 2 parameters, 4 words", exc.frame.ebx, tss.esp0 - 24);
    CHECK_EQ("new SS", exc.frame.esi, SEL_DATA);
    CHECK_EQ("return EIP", exc.frame.eax, (uint32_t)u_call_gate_end - 2);
    CHECK_EQ("return CS", exc.frame.ecx, SEL_UCODE);
    CHECK_EQ("parameter 2", exc.frame.edx, 0x2222);
    CHECK_EQ("parameter 1", exc.frame.edi, 0x1111);
    /* And back, releasing the parameters on both stacks. */
    put_gate(1, (uint32_t)gate_return, SEL_CODE, 2, 0xec);
    user_exec(u_call_gate, &regs, 2);
    CHECK_EXC("RETF to the outer ring", 0x80, 0);
    CHECK_EQ("ESP: parameters released", exc.frame.esp, USER_STACK_TOP);
    CHECK_EQ("CS", exc.frame.cs, SEL_UCODE);
    put_gate(1, (uint32_t)gate_target, SEL_CODE, 2, 0x8c);
    user_exec(u_call_gate, &regs, 2);
    CHECK_EXC("gate with DPL 0", GP, SLOT(1));
    put_gate(1, (uint32_t)gate_target, SEL_CODE, 2, 0x6c);
    user_exec(u_call_gate, &regs, 2);
    CHECK_EXC("gate not present", NP, SLOT(1));
}

static void far_jump(uint16_t sel, uint32_t off)
{
    struct far_pointer to = { off, sel };

    TRY("ljmp *%0", "m"(to));
}

static void test_far_jump(void)
{
    uint32_t here = (uint32_t)gate_target;

    far_jump(0, here);
    CHECK_EXC("null", GP, 0);
    far_jump(SEL_DATA, here);
    CHECK_EXC("data", GP, SEL_DATA);
    far_jump(SEL_UCODE, here);
    CHECK_EXC("outer ring", GP, SEL_UCODE & ~3);
    put(0, descriptor(0, 0xfffff, 0x1b, 0xc));
    far_jump(SLOT(0), here);
    CHECK_EXC("not present", NP, SLOT(0));
    put(0, descriptor(0, 0xfff, 0x9b, 4));
    far_jump(SLOT(0), 0x1000);
    CHECK_EXC("beyond the limit", GP, 0);
    TRY("pushl %0; pushl $1f; lret; 1:", "r"(SEL_CODE));
    CHECK_EXC("RETF to the same ring", NO_EXC, 0);
}

/* IRET to ring 3 makes data segments of ring 0 null, and leaves those that ring 3 may use. */
SNIPPET(u_segments, "mov %ds, %eax; mov %es, %ecx; mov %fs, %edx; mov %gs, %ebx; int $0x80");

static void test_iret_nulls_segments(void)
{
    put(2, descriptor(0, 0xfffff, 0x9f, 0xc)); /* conforming code, readable: stays */
    __asm__ volatile("mov %w0, %%es; mov %w1, %%fs; mov %w2, %%gs" ::"r"(SEL_UDATA), "r"(SEL_DATA), "r"(SLOT(2)));
    user_exec(u_segments, NULL, 2);
    __asm__ volatile("mov %w0, %%es; mov %w0, %%fs; mov %w0, %%gs" ::"r"(SEL_DATA));
    CHECK_EXC("ring 3", 0x80, 0);
    CHECK_EQ("DS of ring 0", exc.frame.eax, 0);
    CHECK_EQ("ES of ring 3", exc.frame.ecx, SEL_UDATA);
    CHECK_EQ("FS of ring 0", exc.frame.edx, 0);
    CHECK_EQ("GS, conforming code", exc.frame.ebx, SLOT(2));
    CHECK_EQ("stack from the TSS", exc.handler_esp, tss.esp0 - 20);
}

static void test_old_instructions(void)
{
    uint32_t v, w;
    static const int32_t bounds[2] = { 10, 20 };

    __asm__ volatile("movl $0x79, %%eax; addb $0x35, %%al; daa" : "=a"(v)::"cc");
    CHECK_EQ("DAA", v & 0xff, 0x14);
    __asm__ volatile("movl $0x35, %%eax; subb $0x47, %%al; das" : "=a"(v)::"cc");
    CHECK_EQ("DAS", v & 0xff, 0x88);
    __asm__ volatile("movl $0x0105, %%eax; aad" : "=a"(v)::"cc");
    CHECK_EQ("AAD", v & 0xffff, 15);
    __asm__ volatile("movl $57, %%eax; aam" : "=a"(v)::"cc");
    CHECK_EQ("AAM", v & 0xffff, 0x0507);
    __asm__ volatile("movl $0x010f, %%eax; aaa" : "=a"(v)::"cc");
    CHECK_EQ("AAA", v & 0xffff, 0x0205);
    TRY("movl $0x1, %%eax; aam $0");
    CHECK_EXC("AAM 0", DE, 0);
    TRY("movl $15, %%eax; boundl %%eax, %0", "m"(bounds));
    CHECK_EXC("BOUND within", NO_EXC, 0);
    TRY("movl $21, %%eax; boundl %%eax, %0", "m"(bounds));
    CHECK_EXC("BOUND beyond", BR, 0);
    TRY("movl $0x7fffffff, %%eax; incl %%eax; into");
    CHECK_EXC("INTO with OF", OF, 0);
    TRY("xorl %%eax, %%eax; into");
    CHECK_EXC("INTO without OF", NO_EXC, 0);
    __asm__ volatile("movw $0x10, %%ax; movw $3, %%cx; arpl %%cx, %%ax; setz %b1; movzbl %b1, %1; movzwl %%ax, %0"
                     : "=&d"(v), "=&c"(w)::"eax", "cc");
    CHECK(v == 0x13 && w == 1, "ARPL raises RPL");
    {
        struct far_pointer p = { 0x1234, SEL_DATA };

        __asm__ volatile("lfs %1, %0" : "=r"(v) : "m"(p));
        CHECK_EQ("LFS", v, 0x1234);
        p.sel = 0xfff8;
        TRY("movl $77, %%ecx; lgs %0, %%ecx", "m"(p));
        CHECK_EXC("LGS, bad selector", GP, 0xfff8);
        CHECK_EQ("register stays", exc.frame.ecx, 77);
    }
    __asm__ volatile("stc; .byte 0xd6; movzbl %%al, %0" : "=r"(v)::"eax", "cc");
    CHECK_EQ("SALC", v, 0xff);
    __asm__ volatile("pushl %%ebp; movl %%esp, %%eax; enter $16, $3; subl %%esp, %%eax; leave; popl %%ebp" : "=a"(v));
    CHECK_EQ("ENTER 16, 3", v, 16 + 4 + 3 * 4);
}

/* 16-bit code in protected mode: operand, address and stack sizes by segment and prefix. */
__asm__(".text; .balign 16; code16_start: .code16; movw $0x1234, %ax; pushw %ax; movl $0x55667788, %ecx; popw %dx; "
        "addr32 movw 2(%ebx), %si; lretl; .code32; code16_end:");
extern const uint8_t code16_start[], code16_end[];

static void test_code16(void)
{
    struct far_pointer to = { 0, SLOT(3) };
    uint32_t a = 0xffff0000, c = 0, d = 0xeeee0000, s = 0, b = (uint32_t)data;

    data[2] = 0xcd;
    data[3] = 0xab;
    put(3, descriptor((uint32_t)code16_start, (uint32_t)(code16_end - code16_start) - 1, 0x9b, 0));
    __asm__ volatile("lcall *%5" : "+a"(a), "+c"(c), "+d"(d), "+S"(s) : "b"(b), "m"(to) : "memory");
    CHECK_EQ("MOV AX", a, 0xffff1234);
    CHECK_EQ("MOV ECX by prefix", c, 0x55667788);
    CHECK_EQ("PUSHW, POPW", d, 0xeeee1234);
    CHECK_EQ("32-bit address by prefix", s & 0xffff, 0xabcd);
}

/* A 16-bit interrupt gate pushes words. */
static volatile uint32_t words16[3];
__asm__(
    ".text; .balign 16; isr16: movzwl (%esp), %eax; movl %eax, words16; movzwl 2(%esp), %eax; movl %eax, words16+4; "
    "movl %esp, words16+8; iretw");
extern const uint8_t isr16[];

/* 16-bit gates can only lead below 64 KiB of their segment: a segment based at the handler. */
static void test_gate16(void)
{
    uint32_t esp;

    put(4, descriptor((uint32_t)isr16, 0xffff, 0x9b, 4));
    put(5, descriptor(0x100000, 0xffff, 0x9b, 4));
    idt_set(0x90, SLOT(4), 0, 0, 6);
    /* IRETW comes back with a 16-bit EIP: the code that calls must lie in a segment where that is enough. */
    __asm__ volatile(
        "movl %%esp, %0; pushl %%cs; pushl $3f; pushl %1; pushl $1f - 0x100000; lret; 1: int $0x90; 2: lret; 3:"
        : "=&r"(esp)
        : "r"(SLOT(5))
        : "eax", "memory", "cc");
    CHECK_EQ("CS", words16[1], SLOT(5));
    CHECK_EQ("three words below the far pointer", esp - words16[2], 8 + 6);
    idt_reset(0x90);
}

SNIPPET(u_sysenter, "sysenter; int $0x80");
SNIPPET(u_after_exit, "movl %esp, %ebx; mov %cs, %eax; mov %ss, %ecx; int $0x80");
__asm__(".text; sysenter_target: movl %esp, %ebx; mov %cs, %eax; mov %ss, %ecx; int $0x81; sysexit_back: movl "
        "$u_after_exit, "
        "%edx; movl $0x6f0000, %ecx; sysexit");
extern const uint8_t sysenter_target[], sysexit_back[];

static void test_sysenter(void)
{
    uint32_t stack = (uint32_t)page_alloc() + 4096;

    if (!(cpuid(1, 0).edx & BIT(11))) {
        guest_skip("SYSENTER");
        return;
    }
    wrmsr(0x174, 0);
    user_exec(u_sysenter, NULL, 2);
    CHECK_EXC("SYSENTER with CS 0", GP, 0);
    /* SYSENTER takes four descriptors in a row: CS, SS, user CS, user SS. */
    put(6, gdt[SEL_CODE / 8]);
    put(7, gdt[SEL_DATA / 8]);
    put(8, gdt[SEL_UCODE / 8]);
    put(9, gdt[SEL_UDATA / 8]);
    wrmsr(0x174, SLOT(6));
    wrmsr(0x175, stack);
    wrmsr(0x176, (uint32_t)sysenter_target);
    user_exec(u_sysenter, NULL, 2);
    CHECK_EXC("SYSENTER", 0x81, 0);
    CHECK_EQ("ESP", exc.frame.ebx, stack);
    CHECK_EQ("CS", exc.frame.eax, SLOT(6));
    CHECK_EQ("SS", exc.frame.ecx, SLOT(7));
    wrmsr(0x176, (uint32_t)sysexit_back);
    user_exec(u_sysenter, NULL, 2);
    CHECK_EXC("SYSEXIT", 0x80, 0);
    CHECK_EQ("CS", exc.frame.eax, SLOT(8) | 3);
    CHECK_EQ("SS", exc.frame.ecx, SLOT(9) | 3);
    CHECK_EQ("ESP", exc.frame.ebx, 0x6f0000);
}

const struct guest_test guest_tests[] = {
    { "limits", test_limits },
    { "types", test_types },
    { "stack limits", test_stack_limits },
    { "call gate", test_call_gate },
    { "far jump", test_far_jump },
    { "IRET and segments", test_iret_nulls_segments },
    { "old instructions", test_old_instructions },
    { "16-bit code", test_code16 },
    { "16-bit gate", test_gate16 },
    { "SYSENTER", test_sysenter },
    { 0 },
};
