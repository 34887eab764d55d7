/* Control, debug and model-specific registers: reserved bits, required combinations, privilege. Intel SDM volume 3,
 * sections 2.5 (control registers), 2.6 (XCR0), 17.2 (debug registers), 2.2.1 (EFER); volume 2, MOV CR, WRMSR, XSETBV;
 * UMIP: 2.5. */
#include "long.h"

static void set_cr0(uint64_t v)
{
    TRY("mov %0, %%cr0", "r"(v));
}

static void set_cr4(uint64_t v)
{
    TRY("mov %0, %%cr4", "r"(v));
}

static void set_msr(uint32_t index, uint64_t v)
{
    TRY_C("wrmsr", , ARGS("c"(index), "a"((uint32_t)v), "d"((uint32_t)(v >> 32))));
}

static void get_msr(uint32_t index)
{
    uint32_t a, d;

    TRY_C("rdmsr", ARGS("=a"(a), "=d"(d)), ARGS("c"(index)));
}

static void test_cr0(void)
{
    uint64_t cr0 = read_cr0();

    set_cr0(cr0 & ~CR0_PG);
    CHECK_EXC("PG cleared in 64-bit mode", GP, 0);
    set_cr0(cr0 & ~CR0_PE);
    CHECK_EXC("PG without PE", GP, 0);
    set_cr0((cr0 | CR0_NW) & ~CR0_CD);
    CHECK_EXC("NW without CD", GP, 0);
    for (unsigned bit = 32; bit < 64; bit++) {
        set_cr0(cr0 | BIT(bit));
        CHECK_EXC("upper half", GP, 0);
    }
    set_cr0(cr0 & ~BIT(4));
    CHECK_EXC("ET cleared", NO_EXC, 0);
    CHECK(read_cr0() & BIT(4), "ET is 1 for ever");
    CHECK_EQ("CR0 is as before", read_cr0(), cr0);
    TRY("xorl %%eax, %%eax; lmsw %%ax");
    CHECK(read_cr0() & CR0_PE, "LMSW does not clear PE");
    CHECK_EQ("LMSW clears TS, EM, MP", read_cr0() & 0xe, 0);
    TRY("movl $8, %%eax; lmsw %%ax");
    CHECK(read_cr0() & CR0_TS, "LMSW sets TS");
    TRY("clts");
    CHECK(!(read_cr0() & CR0_TS), "CLTS");
    write_cr0(cr0);
}

static void test_cr4(void)
{
    static const uint8_t reserved[] = { 15, 29, 30, 31, 33, 40, 63 };
    struct {
        uint64_t bit;
        bool offered;
    } features[] = {
        { CR4_UMIP, cpuid(7, 0).ecx & BIT(2) },
        { BIT(12), 0 },
        { BIT(13), cpuid(1, 0).ecx & BIT(5) },
        { BIT(14), cpuid(1, 0).ecx & BIT(6) },
        { CR4_FSGSBASE, cpuid(7, 0).ebx & BIT(0) },
        { CR4_PCIDE, cpuid(1, 0).ecx & BIT(17) },
        { CR4_OSXSAVE, cpuid(1, 0).ecx & BIT(26) },
        { CR4_SMEP, cpuid(7, 0).ebx & BIT(7) },
        { CR4_SMAP, cpuid(7, 0).ebx & BIT(20) },
        { BIT(22), cpuid(7, 0).ecx & BIT(3) },
        { BIT(23), cpuid(7, 0).ecx & (BIT(7)) || cpuid(7, 0).edx & BIT(20) },
    };
    uint64_t cr4 = read_cr4();

    for (unsigned i = 0; i < ARRAY_SIZE(reserved); i++) {
        set_cr4(cr4 | BIT(reserved[i]));
        CHECK_EXC("reserved bit", GP, 0);
    }
    set_cr4(cr4 & ~CR4_PAE);
    CHECK_EXC("PAE cleared in long mode", GP, 0);
    for (unsigned i = 0; i < ARRAY_SIZE(features); i++) {
        bool la57 = features[i].bit == BIT(12);

        if (features[i].bit == BIT(23) && features[i].offered)
            continue; /* CET needs CR0.WP and more */
        set_cr4(cr4 | features[i].bit);
        guest_checks++;
        if (la57 || !features[i].offered) {
            if (exc.vector != GP)
                guest_fail("CR4 bit %X: vector %d, expected #GP", features[i].bit, exc.vector);
        } else if (exc.vector != NO_EXC) {
            guest_fail("CR4 bit %X: vector %d, expected none", features[i].bit, exc.vector);
        }
        write_cr4(cr4);
    }
    CHECK_EQ("CR4 is as before", read_cr4(), cr4);
    TRY(".byte 0x0f, 0x20, 0xc8"); /* mov %cr1, %rax */
    CHECK_EXC("MOV from CR1", UD, 0);
    TRY(".byte 0x0f, 0x22, 0xe8"); /* mov %rax, %cr5 */
    CHECK_EXC("MOV to CR5", UD, 0);
    TRY(".byte 0x0f, 0x22, 0xf8");
    CHECK_EXC("MOV to CR7", UD, 0);
    TRY(".byte 0xf0, 0x0f, 0x20, 0xc0"); /* lock mov %cr0: AMD's way to CR8 */
    if (!(cpuid(0x80000001, 0).ecx & BIT(4)))
        CHECK_EXC("LOCK MOV from CR0", UD, 0);
}

static void test_cr8(void)
{
    uint64_t v;

    apic_enable();
    for (uint64_t tpr = 0; tpr < 16; tpr++) {
        TRY("mov %0, %%cr8", "r"(tpr));
        CHECK_EXC("CR8", NO_EXC, 0);
        __asm__ volatile("mov %%cr8, %0" : "=r"(v));
        CHECK_EQ("CR8 reads back", v, tpr);
        CHECK_EQ("TPR follows CR8", apic_read(APIC_TPR), tpr << 4);
    }
    TRY("mov %0, %%cr8", "r"(16ULL));
    CHECK_EXC("CR8 = 16", GP, 0);
    apic_write(APIC_TPR, 0x35);
    __asm__ volatile("mov %%cr8, %0" : "=r"(v));
    CHECK_EQ("CR8 follows TPR", v, 3);
    apic_write(APIC_TPR, 0);
}

static void test_debug_registers(void)
{
    uint64_t cr4 = read_cr4(), v;

    write_dr6(0);
    CHECK_EQ("DR6 fixed bits", read_dr6() & 0xffff0ff0 & ~BIT(16) & ~BIT(11), 0xfffe07f0);
    write_dr7(0);
    CHECK_EQ("DR7 fixed bits", read_dr7(), 0x400);
    TRY("mov %0, %%dr7", "r"(BIT(32)));
    CHECK_EXC("DR7, upper half", GP, 0);
    TRY("mov %0, %%dr6", "r"(BIT(40)));
    CHECK_EXC("DR6, upper half", GP, 0);
    write_dr0(0x123456789abcdef0);
    CHECK_EQ("DR0 holds 64 bits", read_dr0(), 0x123456789abcdef0);
    write_dr0(0);
    write_cr4(cr4 | CR4_DE);
    TRY("mov %%dr4, %%rax");
    CHECK_EXC("DR4 with CR4.DE", UD, 0);
    TRY("mov %%rax, %%dr5");
    CHECK_EXC("DR5 with CR4.DE", UD, 0);
    write_cr4(cr4 & ~CR4_DE);
    TRY_C("mov %%dr5, %0", ARGS("=r"(v)), );
    CHECK_EXC("DR5 without CR4.DE", NO_EXC, 0);
    CHECK_EQ("DR5 is DR7", v, 0x400);
    write_dr7(BIT(13)); /* GD */
    TRY("mov %%dr0, %%rax");
    CHECK_EXC("DR access with GD", DB, 0);
    CHECK(exc.dr6 & BIT(13), "DR6.BD");
    CHECK_EQ("GD is cleared by the exception", read_dr7(), 0x400);
    write_dr6(0);
    write_dr7(0);
    write_cr4(cr4);
}

static void test_efer(void)
{
    uint64_t efer = rdmsr(MSR_EFER);

    CHECK(efer & BIT(10), "LMA");
    set_msr(MSR_EFER, efer & ~BIT(8));
    CHECK_EXC("LME cleared while paging", GP, 0);
    set_msr(MSR_EFER, efer | BIT(1));
    CHECK_EXC("reserved bit 1", GP, 0);
    set_msr(MSR_EFER, efer | BIT(9));
    CHECK_EXC("reserved bit 9", GP, 0);
    set_msr(MSR_EFER, efer | BIT(63));
    CHECK_EXC("reserved bit 63", GP, 0);
    CHECK_EQ("EFER is as before", rdmsr(MSR_EFER), efer);
    set_msr(MSR_EFER, efer & ~BIT(0));
    CHECK_EXC("SCE cleared", NO_EXC, 0);
    wrmsr(MSR_EFER, efer);
}

static void test_msrs(void)
{
    static const uint32_t canonical[] = { MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE, MSR_LSTAR, 0x175, 0x176 };
    static const uint64_t bad[] = { 0x0000800000000000, 0xffff000000000000, 0x8000000000000000 };
    static const uint64_t good[] = { 0x00007fffffffffff, 0xffff800000000000, 0 };
    uint64_t pat = rdmsr(0x277), before;

    for (unsigned i = 0; i < ARRAY_SIZE(canonical); i++) {
        before = rdmsr(canonical[i]);
        for (unsigned k = 0; k < 3; k++) {
            set_msr(canonical[i], bad[k]);
            guest_checks++;
            if (exc.vector != GP)
                guest_fail("MSR %X = %X: vector %d, expected #GP", (uint64_t)canonical[i], bad[k], exc.vector);
            CHECK_EQ("refused write changes nothing", rdmsr(canonical[i]), before);
        }
        for (unsigned k = 0; k < 3; k++) {
            set_msr(canonical[i], good[k]);
            CHECK_EXC("canonical address", NO_EXC, 0);
            CHECK_EQ("MSR reads back", rdmsr(canonical[i]), good[k]);
        }
        wrmsr(canonical[i], before);
    }
    get_msr(0x12345);
    CHECK_EXC("unknown MSR read", GP, 0);
    set_msr(0x12345, 0);
    CHECK_EXC("unknown MSR written", GP, 0);
    for (unsigned type = 0; type < 9; type++) {
        bool ok = type == 0 || type == 1 || (type >= 4 && type <= 7);

        set_msr(0x277, (pat & ~0xff00ULL) | type << 8);
        CHECK_EQ("PAT type", exc.vector == NO_EXC, ok);
    }
    wrmsr(0x277, pat);
    CHECK(rdmsr(0x1b) & BIT(8), "this is the bootstrap processor");
    set_msr(0x1b, rdmsr(0x1b) | BIT(0));
    CHECK_EXC("APIC_BASE, reserved bit", GP, 0);
    set_msr(0x1b, (rdmsr(0x1b) & ~BIT(11)) | BIT(10));
    CHECK_EXC("APIC_BASE, x2APIC without enable", GP, 0);
}

static void test_xcr0(void)
{
    uint64_t cr4 = read_cr4(), offered;
    struct {
        uint64_t value;
        bool ok;
    } cases[] = { { 0, 0 }, { 1, 1 },    { 2, 0 },           { 3, 1 },          { 5, 0 },
                  { 7, 1 }, { 0x23, 0 }, { BIT(62) | 3, 0 }, { BIT(63) | 3, 0 } };

    if (!(cpuid(1, 0).ecx & BIT(26))) {
        guest_skip("XSAVE");
        return;
    }
    write_cr4(cr4 & ~CR4_OSXSAVE);
    TRY("xorl %%ecx, %%ecx; xgetbv");
    CHECK_EXC("XGETBV without OSXSAVE", UD, 0);
    CHECK(!(cpuid(1, 0).ecx & BIT(27)), "CPUID.OSXSAVE is clear");
    write_cr4(cr4 | CR4_OSXSAVE);
    CHECK(cpuid(1, 0).ecx & BIT(27), "CPUID.OSXSAVE is set");
    offered = cpuid(0xd, 0).eax;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        bool ok = cases[i].ok && !(cases[i].value & ~offered);

        TRY_C("xsetbv", , ARGS("c"(0), "a"((uint32_t)cases[i].value), "d"((uint32_t)(cases[i].value >> 32))));
        guest_checks++;
        if (exc.vector != (ok ? NO_EXC : GP))
            guest_fail("XCR0 = %X: vector %d", cases[i].value, exc.vector);
    }
    TRY_C("xsetbv", , ARGS("c"(1), "a"(3), "d"(0)));
    CHECK_EXC("XSETBV of XCR1", GP, 0);
    TRY("movl $0x12, %%ecx; xgetbv");
    CHECK_EXC("XGETBV of XCR18", GP, 0);
    __asm__ volatile("xsetbv" ::"c"(0), "a"(3), "d"(0));
    write_cr4(cr4);
}

SNIPPET(u_cr0, "mov %cr0, %rax; int $0x80");
SNIPPET(u_cr8, "mov %cr8, %rax; int $0x80");
SNIPPET(u_dr0, "mov %dr0, %rax; int $0x80");
SNIPPET(u_rdmsr, "movl $0x10, %ecx; rdmsr; int $0x80");
SNIPPET(u_wrmsr, "movl $0x10, %ecx; wrmsr; int $0x80");
SNIPPET(u_hlt, "hlt; int $0x80");
SNIPPET(u_cli, "cli; int $0x80");
SNIPPET(u_sti, "sti; int $0x80");
SNIPPET(u_invlpg, "invlpg (%rsp); int $0x80");
SNIPPET(u_wbinvd, "wbinvd; int $0x80");
SNIPPET(u_lgdt, "lgdt (%rsp); int $0x80");
SNIPPET(u_lidt, "lidt (%rsp); int $0x80");
SNIPPET(u_ltr, "ltr %ax; int $0x80");
SNIPPET(u_lldt, "lldt %ax; int $0x80");
SNIPPET(u_clts, "clts; int $0x80");
SNIPPET(u_lmsw, "lmsw %ax; int $0x80");
SNIPPET(u_swapgs, "swapgs; int $0x80");
SNIPPET(u_sysret, "sysretq; int $0x80");
SNIPPET(u_in, "inb $0xe9, %al; int $0x80");
SNIPPET(u_out, "outb %al, $0x80; int $0x80");

static void test_privileged(void)
{
#define P(x)           \
    {                  \
#x, x, x##_end \
    }
    static const struct {
        const char *name;
        const uint8_t *code, *end;
    } list[] = { P(u_cr0),  P(u_cr8),    P(u_dr0),    P(u_rdmsr),  P(u_wrmsr), P(u_hlt), P(u_cli),
                 P(u_sti),  P(u_invlpg), P(u_wbinvd), P(u_lgdt),   P(u_lidt),  P(u_ltr), P(u_lldt),
                 P(u_clts), P(u_lmsw),   P(u_swapgs), P(u_sysret), P(u_in),    P(u_out) };

    for (unsigned i = 0; i < ARRAY_SIZE(list); i++) {
        struct user_regs regs = { .rax = 0 };

        user_exec_at(list[i].code, list[i].end, &regs, SEL_USER64, SEL_USER_DATA, 2);
        CHECK_EXC(list[i].name, GP, 0);
    }
}

SNIPPET(u_popf, "pushq $0x3202; popfq; pushfq; popq %rax; int $0x80");

static void test_io_permission(void)
{
    struct user_regs regs = { .rax = 0 };

    tss[0].io_bits[0xe9 / 8] &= (uint8_t) ~(1u << (0xe9 & 7));
    user_exec_at(u_in, u_in_end, &regs, SEL_USER64, SEL_USER_DATA, 2);
    CHECK_EXC("IN with its bit clear", 0x80, 0);
    tss[0].io_bits[0xe9 / 8] = 0xff;
    user_exec_at(u_in, u_in_end, &regs, SEL_USER64, SEL_USER_DATA, 0x3002);
    CHECK_EXC("IN with IOPL 3", 0x80, 0);
    user_exec_at(u_cli, u_cli_end, &regs, SEL_USER64, SEL_USER_DATA, 0x3002);
    CHECK_EXC("CLI with IOPL 3", 0x80, 0);
    user_exec_at(u_popf, u_popf_end, &regs, SEL_USER64, SEL_USER_DATA, 2);
    CHECK_EQ("POPF at CPL 3 changes neither IF nor IOPL", exc.frame.rax & 0x3200, 0);
    user_exec_at(u_popf, u_popf_end, &regs, SEL_USER64, SEL_USER_DATA, 0x3002);
    CHECK_EQ("POPF with IOPL 3 changes IF", exc.frame.rax & 0x3200, 0x3200);
}

SNIPPET(u_sgdt, "sgdt (%rdi); int $0x80");
SNIPPET(u_sidt, "sidt (%rdi); int $0x80");
SNIPPET(u_sldt, "sldt %eax; int $0x80");
SNIPPET(u_str, "str %eax; int $0x80");
SNIPPET(u_smsw, "smsw %eax; int $0x80");
SNIPPET(u_rdtsc, "rdtsc; int $0x80");
SNIPPET(u_rdpmc, "xorl %ecx, %ecx; rdpmc; int $0x80");

static void test_umip_and_tsd(void)
{
    static const struct {
        const char *name;
        const uint8_t *code, *end;
    } list[] = { P(u_sgdt), P(u_sidt), P(u_sldt), P(u_str), P(u_smsw) };
    struct user_regs regs = { .rdi = USER_DATA };
    uint64_t cr4 = read_cr4();

    for (unsigned i = 0; i < ARRAY_SIZE(list); i++) {
        user_exec_at(list[i].code, list[i].end, &regs, SEL_USER64, SEL_USER_DATA, 2);
        CHECK_EXC(list[i].name, 0x80, 0);
    }
    if (cpuid(7, 0).ecx & BIT(2)) {
        write_cr4(cr4 | CR4_UMIP);
        for (unsigned i = 0; i < ARRAY_SIZE(list); i++) {
            user_exec_at(list[i].code, list[i].end, &regs, SEL_USER64, SEL_USER_DATA, 2);
            CHECK_EXC(list[i].name, GP, 0);
        }
        TRY("sldt %%eax");
        CHECK_EXC("SLDT at CPL 0 with UMIP", NO_EXC, 0);
    } else {
        guest_skip("UMIP");
    }
    write_cr4(cr4 | CR4_TSD);
    user_exec_at(u_rdtsc, u_rdtsc_end, &regs, SEL_USER64, SEL_USER_DATA, 2);
    CHECK_EXC("RDTSC with TSD", GP, 0);
    TRY("rdtsc");
    CHECK_EXC("RDTSC with TSD at CPL 0", NO_EXC, 0);
    write_cr4(cr4 & ~CR4_PCE);
    user_exec_at(u_rdtsc, u_rdtsc_end, &regs, SEL_USER64, SEL_USER_DATA, 2);
    CHECK_EXC("RDTSC", 0x80, 0);
    user_exec_at(u_rdpmc, u_rdpmc_end, &regs, SEL_USER64, SEL_USER_DATA, 2);
    CHECK_EXC("RDPMC without PCE", GP, 0);
    write_cr4(cr4);
}

static void test_fsgsbase(void)
{
    uint64_t cr4 = read_cr4(), v;

    if (!(cpuid(7, 0).ebx & BIT(0))) {
        guest_skip("FSGSBASE");
        return;
    }
    write_cr4(cr4 & ~CR4_FSGSBASE);
    TRY("rdfsbase %%rax");
    CHECK_EXC("RDFSBASE without CR4.FSGSBASE", UD, 0);
    write_cr4(cr4 | CR4_FSGSBASE);
    TRY("wrgsbase %0", "r"(0xffff900000001000));
    CHECK_EXC("WRGSBASE", NO_EXC, 0);
    CHECK_EQ("GS base", rdmsr(MSR_GS_BASE), 0xffff900000001000);
    TRY("wrgsbase %0", "r"(0x900000001000));
    CHECK_EXC("WRGSBASE, not canonical", GP, 0);
    __asm__ volatile("swapgs; rdgsbase %0; swapgs" : "=r"(v));
    CHECK_EQ("SWAPGS", v, rdmsr(MSR_KERNEL_GS_BASE));
    __asm__ volatile("wrgsbase %0" ::"r"(0xffffffff11112222));
    __asm__ volatile("wrgsbase %k1; rdgsbase %0" : "=&r"(v) : "r"(0xffffffff33334444));
    CHECK_EQ("WRGSBASE of 32 bits zero-extends", v, 0x33334444);
    wrmsr(MSR_GS_BASE, 0);
    write_cr4(cr4);
}

const struct guest_test guest_tests[] = {
    { "CR0", test_cr0 },
    { "CR4", test_cr4 },
    { "CR8", test_cr8 },
    { "debug registers", test_debug_registers },
    { "EFER", test_efer },
    { "MSRs", test_msrs },
    { "XCR0", test_xcr0 },
    { "privileged instructions", test_privileged },
    { "I/O permission", test_io_permission },
    { "UMIP, TSD, PCE", test_umip_and_tsd },
    { "FSGSBASE", test_fsgsbase },
    { 0 },
};
