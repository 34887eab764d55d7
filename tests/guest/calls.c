/* Exception delivery and system calls: gates that cannot be used, IST, double fault, IRET, SYSCALL, SYSRET, SYSENTER,
 * compatibility mode. Intel SDM volume 3, sections 6.13 to 6.15 (error codes, double fault), 6.14 (64-bit delivery,
 * IST); volume 2, IRET, SYSCALL, SYSRET, SYSENTER, SYSEXIT; AMD APM volume 3 where the vendors differ. */
#include "long.h"

#define NONCANON 0x0000800000000000ULL

static uint64_t ist_stack(unsigned n)
{
    if (!tss[0].ist[n - 1])
        tss[0].ist[n - 1] = (uint64_t)page_alloc() + 4096;
    return tss[0].ist[n - 1];
}

static void set_gate(unsigned vector, uint64_t to, uint16_t sel, uint8_t attr)
{
    idt_set(vector, 0, 0, 14);
    idt[vector].off_lo = (uint16_t)to;
    idt[vector].off_mid = (uint16_t)(to >> 16);
    idt[vector].off_hi = (uint32_t)(to >> 32);
    idt[vector].sel = sel;
    idt[vector].attr = attr;
}

/* #UD (an exception: EXT = 1) and INT n (EXT = 0) through gates with one defect each. */
static void test_bad_gates(void)
{
    static const struct {
        const char *name;
        uint64_t to;
        uint16_t sel;
        uint8_t attr;
        int vector;
        bool names_gate; /* error code: the gate, else the selector */
        uint16_t error_sel;
    } cases[] = {
        { "gate not present", 0x100000, SEL_CODE64, 0x0e, NP, true, 0 },
        { "task gate in long mode", 0x100000, SEL_CODE64, 0x85, GP, true, 0 },
        { "16-bit interrupt gate", 0x100000, SEL_CODE64, 0x86, GP, true, 0 },
        { "call gate in the IDT", 0x100000, SEL_CODE64, 0x8c, GP, true, 0 },
        { "selector null", 0x100000, 0, 0x8e, GP, false, 0 },
        { "selector of data", 0x100000, SEL_DATA, 0x8e, GP, false, SEL_DATA },
        { "selector of 32-bit code", 0x100000, SEL_CODE32, 0x8e, GP, false, SEL_CODE32 },
        { "selector of user code", 0x100000, SEL_USER64, 0x8e, GP, false, SEL_USER64 & ~3 },
        { "selector beyond the GDT", 0x100000, 0xff00, 0x8e, GP, false, 0xff00 },
        { "offset not canonical", NONCANON, SEL_CODE64, 0x8e, GP, false, 0 },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        set_gate(UD, cases[i].to, cases[i].sel, cases[i].attr);
        TRY("ud2");
        check_exc(cases[i].name, cases[i].vector, (cases[i].names_gate ? UD * 8 + 2 : cases[i].error_sel) + 1,
                  __LINE__);
        set_gate(0x91, cases[i].to, cases[i].sel, cases[i].attr);
        TRY("int $0x91");
        check_exc(cases[i].name, cases[i].vector, cases[i].names_gate ? 0x91 * 8 + 2 : cases[i].error_sel, __LINE__);
        /* RIP is the INT's own: 0xcd 0x91. */
        CHECK_EQ("RIP of the fault", *(uint16_t *)exc.frame.rip, 0x91cd);
    }
    idt_set(UD, 0, 0, 14);
    idt_set(0x91, 0, 0, 14);
}

static void load_idt(uint16_t limit)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) idtr = { limit, (uint64_t)idt };

    __asm__ volatile("lidt %0" ::"m"(idtr));
}

static void test_idt_limit(void)
{
    load_idt(0x91 * 16 - 1);
    TRY("int $0x91");
    CHECK_EXC("INT beyond the IDT", GP, 0x91 * 8 + 2);
    load_idt(0x91 * 16 + 14);
    TRY("int $0x91");
    CHECK_EXC("gate cut by the limit", GP, 0x91 * 8 + 2);
    load_idt(0x91 * 16 + 15);
    TRY("int $0x91");
    CHECK_EXC("gate just within the limit", 0x91, 0);
    load_idt(256 * 16 - 1);
}

static void test_ist(void)
{
    uint64_t top = ist_stack(1);

    idt_set(UD, 0, 1, 14);
    TRY("ud2");
    CHECK_EXC("UD2 on IST 1", UD, 0);
    CHECK_EQ("handler's frame is at the top of IST 1", exc.handler_rsp, top - sizeof(struct frame));
    CHECK(exc.frame.ss == SEL_DATA, "old SS");
    /* The CPU aligns an interrupt's stack down to 16. */
    tss[0].ist[0] = top - 8;
    TRY("ud2");
    CHECK_EQ("aligned IST", exc.handler_rsp, top - 16 - sizeof(struct frame));
    tss[0].ist[0] = top;
    idt_set(UD, 0, 0, 14);
    TRY("subq $8, %%rsp; ud2");
    CHECK_EQ("aligned without IST", exc.handler_rsp & 15, 0);
    CHECK(exc.frame.rsp - exc.handler_rsp - sizeof(struct frame) < 16, "same stack");
}

SNIPPET(u_ud2, "ud2");

static void test_stack_switch(void)
{
    uint64_t rsp0 = tss[0].rsp[0];

    USER_EXEC(u_ud2);
    CHECK_EXC("UD2 at CPL 3", UD, 0);
    CHECK_EQ("RSP0", exc.handler_rsp, rsp0 - sizeof(struct frame));
    tss[0].rsp[0] = NONCANON + 0x1000;
    idt_set(SS, 0, 2, 14);
    ist_stack(2);
    USER_EXEC(u_ud2);
    CHECK_EQ("RSP0 not canonical", exc.vector, SS);
    tss[0].rsp[0] = rsp0;
    idt_set(SS, 0, 0, 14);
}

/* First and second exception, and what must come of them (SDM table 6-5). */
static void test_double_fault(void)
{
    ist_stack(3);
    idt_set(DF, 0, 3, 14);
    set_gate(PF, 0x100000, SEL_CODE64, 0x0e);
    TRY("movb (%0), %%al", "r"(0x7000000000ULL));
    CHECK_EXC("#PF, then #NP", DF, 0);
    idt_set(PF, 0, 0, 14);
    set_gate(GP, 0x100000, SEL_CODE64, 0x0e);
    TRY("movb (%0), %%al", "r"(NONCANON));
    CHECK_EXC("#GP, then #NP", DF, 0);
    idt_set(GP, 0, 0, 14);
    /* Benign first: delivered one after the other. */
    set_gate(UD, 0x100000, SEL_CODE64, 0x0e);
    TRY("ud2");
    CHECK_EXC("#UD, then #NP", NP, UD * 8 + 3);
    idt_set(UD, 0, 0, 14);
    /* #GP whose delivery page-faults: contributory, then page fault, is no double fault. */
    idt_set(GP, 0, 4, 14);
    tss[0].ist[3] = 0x7000001000;
    TRY("movb (%0), %%al", "r"(NONCANON));
    CHECK_EXC("#GP, then #PF", PF, 2);
    CHECK(exc.cr2 >= 0x7000000000 && exc.cr2 < 0x7000001000, "CR2 in the missing stack");
    idt_set(GP, 0, 0, 14);
    idt_set(PF, 0, 4, 14);
    TRY("movb (%0), %%al", "r"(0x6000000000ULL));
    CHECK_EXC("#PF, then #PF", DF, 0);
    idt_set(PF, 0, 0, 14);
    idt_set(DF, 0, 0, 14);
}

static void iret_to(uint64_t cs, uint64_t rip, uint64_t flags, uint64_t rsp, uint64_t ss)
{
    struct iret_frame to = { rip, cs, flags, rsp, ss };
    const uint64_t regs[16] = { 0 };

    exc.vector = NO_EXC;
    guest_iret_to(&to, regs);
}

static void test_iret(void)
{
    static const uint64_t code = USER_CODE, stack = USER_STACK_TOP;
    struct {
        const char *name;
        uint64_t cs, rip, ss;
        int vector;
        uint64_t error;
    } cases[] = {
        { "CS null", 0, code, SEL_DATA, GP, 0 },
        { "CS data", SEL_DATA, code, SEL_DATA, GP, SEL_DATA },
        { "CS beyond the GDT", 0xff00, code, SEL_DATA, GP, 0xff00 },
        { "CS RPL below DPL", SEL_USER64 & ~3, code, SEL_USER_DATA, GP, SEL_USER64 & ~3 },
        { "kernel CS with RPL 3", SEL_CODE64 | 3, code, SEL_USER_DATA, GP, SEL_CODE64 },
        { "RIP not canonical", SEL_USER64, NONCANON, SEL_USER_DATA, GP, 0 },
        { "SS null to CPL 3", SEL_USER64, code, 0, GP, 0 },
        { "SS null, RPL 3, to CPL 3", SEL_USER64, code, 3, GP, 0 },
        { "SS RPL is not CS RPL", SEL_USER64, code, SEL_USER_DATA & ~3, GP, SEL_USER_DATA & ~3 },
        { "SS is kernel data", SEL_USER64, code, SEL_DATA | 3, GP, SEL_DATA },
        { "SS is code", SEL_USER64, code, SEL_USER64, GP, SEL_USER64 & ~3 },
        { "SS beyond the GDT", SEL_USER64, code, 0xff03, GP, 0xff00 },
    };

    USER_EXEC(u_ud2);
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        iret_to(cases[i].cs, cases[i].rip, 2, stack, cases[i].ss);
        check_exc(cases[i].name, cases[i].vector, cases[i].error, __LINE__);
        CHECK_EQ("fault at the IRET itself, in the kernel", exc.frame.rip, (uint64_t)guest_iret_insn);
        CHECK_EQ("CS", exc.frame.cs, SEL_CODE64);
    }
    gdt[SEL_TEST / 8] = 0x00cf73000000ffff; /* user data, not present */
    iret_to(SEL_USER64, code, 2, stack, SEL_TEST | 3);
    CHECK_EXC("SS not present", SS, SEL_TEST);
    gdt[SEL_TEST / 8] = 0x00af7b000000ffff;
    iret_to(SEL_TEST | 3, code, 2, stack, SEL_USER_DATA);
    CHECK_EXC("CS not present", NP, SEL_TEST);
    TRY("pushfq; orl $0x4000, (%%rsp); popfq; iretq");
    CHECK_EXC("NT in long mode", GP, 0);
    iret_to(SEL_USER64, code, 2 | EFLAGS_VM, stack, SEL_USER_DATA);
    CHECK_EXC("VM is ignored in long mode", UD, 0);
    CHECK_EQ("flags", exc.frame.rflags & EFLAGS_VM, 0);
    iret_to(SEL_USER64, code, ~0xcd5ULL & 0x3ffeff & ~EFLAGS_TF & ~EFLAGS_NT & ~EFLAGS_VM, stack, SEL_USER_DATA);
    CHECK_EXC("all other flags", UD, 0);
    CHECK(exc.frame.rflags & EFLAGS_RF, "RF");
    CHECK_EQ("IOPL", exc.frame.rflags >> 12 & 3, 3);
}

SNIPPET(u_iret,
        "movq %rsp, %rax; pushq $0x2b; pushq %rax; pushq $0x3202; pushq $0x33; leaq 1f(%rip), %rax; pushq %rax; "
        "iretq; 1: pushfq; popq %rax; int $0x80");

static void test_iret_at_cpl3(void)
{
    USER_EXEC(u_iret);
    CHECK_EXC("IRET at CPL 3", 0x80, 0);
    CHECK_EQ("neither IF nor IOPL", exc.frame.rax & 0x3200, 0);
}

/* ---- system calls ---- */

__asm__(".text; syscall_target: pushfq; popq %rdx; mov %cs, %esi; mov %ss, %edi; movq %rsp, %r10; "
        "movq guest_recover_rsp(%rip), %rsp; int $0x82");
extern const uint8_t syscall_target[];
SNIPPET(u_syscall, "syscall; int $0x80");
SNIPPET(u32_syscall, ".code32; syscall; int $0x80; .code64");
SNIPPET(u_sysenter, "sysenter; int $0x80");
SNIPPET(u32_sysenter, ".code32; sysenter; int $0x80; .code64");

static void setup_syscall(void)
{
    wrmsr(MSR_STAR, (uint64_t)(0x20 | 3) << 48 | (uint64_t)SEL_CODE64 << 32);
    wrmsr(MSR_LSTAR, (uint64_t)syscall_target);
    wrmsr(MSR_CSTAR, (uint64_t)syscall_target);
    wrmsr(MSR_FMASK, EFLAGS_DF | EFLAGS_IF | EFLAGS_CF);
}

static void test_syscall(void)
{
    struct user_regs regs = { .rcx = 1, .r11 = 1 };
    uint64_t efer = rdmsr(MSR_EFER);

    setup_syscall();
    user_exec_at(u_syscall, u_syscall_end, &regs, SEL_USER64, SEL_USER_DATA, 2 | EFLAGS_DF | EFLAGS_CF | EFLAGS_ZF);
    CHECK_EXC("SYSCALL", 0x82, 0);
    CHECK_EQ("RCX: return address", exc.frame.rcx, USER_CODE + 2);
    CHECK_EQ("R11: flags", exc.frame.r11, 2 | EFLAGS_DF | EFLAGS_CF | EFLAGS_ZF);
    CHECK_EQ("flags masked", exc.frame.rdx, 2 | EFLAGS_ZF);
    CHECK_EQ("CS", exc.frame.rsi, SEL_CODE64);
    CHECK_EQ("SS", exc.frame.rdi, SEL_DATA);
    CHECK_EQ("RSP unchanged", exc.frame.r10, USER_STACK_TOP - 64);
    wrmsr(MSR_EFER, efer & ~BIT(0));
    USER_EXEC(u_syscall);
    CHECK_EXC("SYSCALL without SCE", UD, 0);
    TRY("sysretq");
    CHECK_EXC("SYSRET without SCE", UD, 0);
    wrmsr(MSR_EFER, efer);
    user_exec_at(u32_syscall, u32_syscall_end, &regs, SEL_USER32, SEL_USER_DATA, 2);
    CHECK_EXC("SYSCALL in compatibility mode", guest_is_intel() ? UD : 0x82, 0);
}

#define SYSRET_TO(text, rcx_, r11_)                                                        \
    TRY_C("movq %%rsp, %%rdx; movq %0, %%rcx; movq %1, %%rsi; movq %%rsi, %%r11; " text, , \
          ARGS("r"((uint64_t)(rcx_)), "r"((uint64_t)(r11_))), "rax", "rcx", "rdx", "rsi")

static void test_sysret(void)
{
    setup_syscall();
    USER_EXEC(u_ud2); /* puts a UD2 at USER_CODE */
    SYSRET_TO("sysretq", USER_CODE, 0x3202 | EFLAGS_RF | EFLAGS_VM | EFLAGS_ZF);
    CHECK_EXC("SYSRETQ", UD, 0);
    CHECK_EQ("CS", exc.frame.cs, SEL_USER64);
    CHECK_EQ("SS", exc.frame.ss, SEL_USER_DATA);
    CHECK_EQ("flags, without VM; RF is the fault's", exc.frame.rflags & ~EFLAGS_RF, 0x3202 | EFLAGS_ZF);
    SYSRET_TO("sysretl", USER_CODE, 2);
    CHECK_EXC("SYSRETL", UD, 0);
    CHECK_EQ("CS", exc.frame.cs, SEL_USER32);
    CHECK_EQ("EIP", exc.frame.rip, USER_CODE);
    SYSRET_TO("sysretl", 0xffffffff00000000 | USER_CODE, 2);
    CHECK_EQ("EIP is the low half of RCX", exc.frame.rip, USER_CODE);
    /* Intel checks RCX in the kernel, AMD lets the fetch fail in user mode. */
    SYSRET_TO("sysretq", NONCANON, 2);
    CHECK_EXC("SYSRETQ, not canonical", GP, 0);
    CHECK_EQ("CPL of the fault", exc.frame.cs & 3, guest_is_intel() ? 0 : 3);
}

static void test_sysenter(void)
{
    bool in_long_mode = guest_is_intel(); /* AMD: not in long mode, and SYSEXIT neither */

    wrmsr(0x174, SEL_CODE64);
    wrmsr(0x175, (uint64_t)page_alloc() + 4096);
    wrmsr(0x176, (uint64_t)syscall_target);
    user_exec_at(u_sysenter, u_sysenter_end, &(struct user_regs){ .rax = 0 }, SEL_USER64, SEL_USER_DATA, 2 | EFLAGS_ZF);
    CHECK_EXC("SYSENTER in 64-bit mode", in_long_mode ? 0x82 : UD, 0);
    if (in_long_mode) {
        CHECK_EQ("RSP", exc.frame.r10, rdmsr(0x175));
        CHECK_EQ("CS", exc.frame.rsi, SEL_CODE64);
        CHECK_EQ("SS", exc.frame.rdi, SEL_DATA);
        CHECK_EQ("IF", exc.frame.rdx & EFLAGS_IF, 0);
    }
    user_exec_at(u32_sysenter, u32_sysenter_end, &(struct user_regs){ .rax = 0 }, SEL_USER32, SEL_USER_DATA, 2);
    CHECK_EXC("SYSENTER in compatibility mode", in_long_mode ? 0x82 : UD, 0);
    wrmsr(0x174, 0);
    USER_EXEC(u_sysenter);
    CHECK_EXC("SYSENTER with CS 0", in_long_mode ? GP : UD, 0);
    TRY("sysexitl");
    CHECK_EXC("SYSEXIT with CS 0", in_long_mode ? GP : UD, 0);
}

/* ---- compatibility mode ---- */

#define U32(name, text) SNIPPET(name, ".code32; " text "; int $0x80; .code64")
U32(u32_widths, "movl $0x11223344, %eax; incl %eax; movl %esp, %ecx; pushl %ebx; subl %esp, %ecx; popl %edx");
U32(u32_aaa, "movl $0x0f, %eax; aaa; pushl %cs; popl %ecx; pusha; popa");
U32(u32_wrap, "movl 8(%esi), %eax");
U32(u32_ldt_far, "ljmp $0x33, $0x40000007; .code64; 1: movq $-1, %rax; shrq $1, %rax; .code32");
U32(u32_limit, "movl %ds:0x1000, %eax");

#define EXEC32(name, ...) \
    user_exec_at(name, name##_end, &(struct user_regs){ __VA_ARGS__ }, SEL_USER32, SEL_USER_DATA, 2)

static void test_compatibility_mode(void)
{
    EXEC32(u32_widths, .rbx = 0xffff000055667788);
    CHECK_EXC("32-bit code", 0x80, 0);
    CHECK_EQ("INC EAX (0x40 is no REX)", exc.frame.rax, 0x11223345);
    CHECK_EQ("PUSH is 4 bytes", exc.frame.rcx, 4);
    CHECK_EQ("popped", exc.frame.rdx, 0x55667788);
    EXEC32(u32_aaa);
    CHECK_EXC("AAA, PUSH CS, PUSHA", 0x80, 0);
    CHECK_EQ("AAA", exc.frame.rax, 0x105);
    CHECK_EQ("CS", exc.frame.rcx, SEL_USER32);
    /* Addresses wrap at 4 GiB: 8 + (USER_DATA - 8 mod 2^32), whatever the upper half of RSI was. */
    *(uint32_t *)USER_DATA = 0x600d600d;
    __asm__ volatile("mov %0, %%ds" ::"r"(SEL_USER_DATA));
    EXEC32(u32_wrap, .rsi = 0xffffffff00000000 | (USER_DATA - 8));
    CHECK_EXC("read through DS", 0x80, 0);
    CHECK_EQ("effective address of 32 bits", exc.frame.rax, 0x600d600d);
    EXEC32(u32_ldt_far);
    CHECK_EXC("far jump to 64-bit code", 0x80, 0);
    CHECK_EQ("64-bit code ran", exc.frame.rax, 0x7fffffffffffffff);
    CHECK_EQ("CS", exc.frame.cs, SEL_USER64);
    /* Segmentation is alive: base, limit and type of DS. */
    __asm__ volatile("mov %0, %%ds" ::"r"(SEL_DATA));
    EXEC32(u32_limit);
    CHECK_EXC("IRET to CPL 3 made a kernel DS null", GP, 0);
    gdt[SEL_TEST / 8] = 0x0000f10000000fff | ((USER_DATA - 0x1000) & 0xffffff) << 16 | (USER_DATA - 0x1000) >> 24 << 56;
    __asm__ volatile("mov %0, %%ds" ::"r"(SEL_TEST | 3));
    EXEC32(u32_limit);
    CHECK_EXC("beyond the limit of DS", GP, 0);
    gdt[SEL_TEST / 8] = (gdt[SEL_TEST / 8] & ~0xffffULL) | 0x1003;
    __asm__ volatile("mov %0, %%ds" ::"r"(SEL_TEST | 3));
    EXEC32(u32_limit);
    CHECK_EXC("last dword within the limit", 0x80, 0);
    CHECK_EQ("base of DS", exc.frame.rax, 0x600d600d);
    gdt[SEL_TEST / 8] = (gdt[SEL_TEST / 8] & ~0xffffULL) | 0x1002;
    __asm__ volatile("mov %0, %%ds" ::"r"(SEL_TEST | 3));
    EXEC32(u32_limit);
    CHECK_EXC("last byte beyond the limit", GP, 0);
    __asm__ volatile("mov %0, %%ds" ::"r"(SEL_DATA));
}

const struct guest_test guest_tests[] = {
    { "unusable gates", test_bad_gates },
    { "IDT limit", test_idt_limit },
    { "IST", test_ist },
    { "stack switch", test_stack_switch },
    { "double fault", test_double_fault },
    { "IRET", test_iret },
    { "IRET at CPL 3", test_iret_at_cpl3 },
    { "SYSCALL", test_syscall },
    { "SYSRET", test_sysret },
    { "SYSENTER", test_sysenter },
    { "compatibility mode", test_compatibility_mode },
    { 0 },
};
