/* Real mode, unreal mode and virtual-8086 mode. Intel SDM volume 3, chapter 20 (8086 emulation), 9.9 (mode switches);
 * volume 2 for limits: outside ffff #GP, through SS #SS. */
#include "prot.h"

/* ---- real mode: code at 0800:0000, results in EAX ---- */

#define REAL(name, text) SNIPPET(name, ".code16; " text "; lretw; .code32")

REAL(r_arith, "movl $0x12345678, %eax; addw $0x1111, %ax; movw %cs, %bx; shll $16, %ebx; movw %bx, %bx");
REAL(r_segment,
     "movw $0x1234, %ax; movw %ax, %es; movw $0xbeef, %es:0x10; xorw %ax, %ax; movw %ax, %ds; movw $0x1235, %ax; movw "
     "%ax, %ds; movzwl 0, %eax; xorw %bx, %bx; movw %bx, %ds");
/* INT 0x41 through the table: flags, CS, IP pushed as words, IF and TF cleared. */
REAL(r_int, "cli; movw $(3f - r_int), 0x41*4; movw $0x0800, 0x41*4+2; movw %sp, %bp; int $0x41; 1: jmp 4f; 3: movw "
            "%sp, %ax; subw "
            "%ax, %bp; movw %bp, %ax; shll $16, %eax; popw %ax; pushw %ax; subw $(1b - r_int), %ax; iretw; 4:");
/* Word at offset ffff: #GP (13) in real mode too. */
REAL(r_limit, "movw $(3f - r_limit), 13*4; movw $0x0800, 13*4+2; movw $0xffff, %bx; movl $0xbad, %eax; 1: movw (%bx), "
              "%cx; jmp 5f; 3: "
              "popw %ax; subw $(1b - r_limit), %ax; addw $0x600, %ax; movzwl %ax, %eax; addw $4, %sp; 5:");
REAL(r_stack_limit, "movw $(3f - r_stack_limit), 12*4; movw $0x0800, 12*4+2; movw $0xffff, %bp; movl $0xbad, %eax; "
                    "movw (%bp), %cx; jmp "
                    "5f; 3: movl $0x55, %eax; addw $6, %sp; 5:");
REAL(r_sp_wrap,
     "movw %ss, %cx; movw $0x3000, %ax; movw %ax, %ss; movw %sp, %dx; xorw %sp, %sp; pushw $0x7788; movzwl %sp, %eax; "
     "movw %cx, %ss; movw %dx, %sp");
/* 32-bit addressing beyond 64 KiB is refused as well while the limit is ffff. */
REAL(r_addr32, "movw $(3f - r_addr32), 13*4; movw $0x0800, 13*4+2; movl $0x10000, %ebx; movl $0xbad, %eax; addr32 movw "
               "(%ebx), %cx; jmp "
               "5f; 3: movl $0x66, %eax; addw $6, %sp; 5:");
/* Unreal mode: a 4 GiB limit loaded into FS in protected mode stays over the switch back and over loads of FS. */
REAL(r_unreal, "cli; lgdtl %cs:(6f - r_unreal); movl %cr0, %eax; orb $1, %al; movl %eax, %cr0; movw $0x10, %bx; movw "
               "%bx, %fs; andb "
               "$0xfe, %al; movl %eax, %cr0; xorw %bx, %bx; movw %bx, %fs; movl $0x800000, %ebx; addr32 movl "
               "$0x600df00d, %fs:(%ebx); "
               "addr32 movl %fs:(%ebx), %eax; jmp 7f; 6: .word 0xff; .long gdt; 7:");
REAL(r_undefined, "movw $(3f - r_undefined), 6*4; movw $0x0800, 6*4+2; xorl %edx, %edx; movw $(1f - r_undefined), %bp; "
                  ".byte 0x0f, 0x00, 0xd8; "
                  "1: movw $(2f - r_undefined), %bp; .byte 0x63, 0xc0; 2: jmp 4f; 3: incl %edx; popw %ax; pushw %bp; "
                  "iretw; 4: movl %edx, %eax");
REAL(r_lidt, "cli; movw $0x0800, 0x5002+0x42*4; movw $(3f - r_lidt), 0x5000+0x42*4; lidtl %cs:(6f - r_lidt); movl $1, "
             "%eax; int $0x42; jmp "
             "5f; 3: movl $0x1d7, %eax; iretw; 5: lidtl %cs:(7f - r_lidt); jmp 8f; 6: .word 0x3ff; .long 0x5000; 7: "
             ".word 0x3ff; .long 0; 8:");
REAL(r_short_ivt, "cli; movw $(3f - r_short_ivt), 13*4; movw $0x0800, 13*4+2; movw $(2f - r_short_ivt), 0x43*4; movw "
                  "$0x0800, 0x43*4+2; "
                  "lidtl %cs:(6f - r_short_ivt); int $0x43; 2: movl $0xbad, %eax; jmp 5f; 3: movl $0x3d, %eax; addw "
                  "$6, %sp; 5: lidtl "
                  "%cs:(7f - r_short_ivt); jmp 8f; 6: .word 0x43*4-1; .long 0; 7: .word 0x3ff; .long 0; 8:");

static uint32_t run(const uint8_t *code, const uint8_t *end)
{
    return real_exec(code, end);
}
#define RUN(name) run(name, name##_end)

static void test_real_mode(void)
{
    CHECK_EQ("arithmetic", RUN(r_arith), 0x12346789);
    CHECK_EQ("segments are 16 bytes apart", RUN(r_segment), 0xbeef);
    CHECK_EQ("INT: 6 bytes pushed, IP behind it", RUN(r_int), 6u << 16);
    CHECK_EQ("word at ffff: #GP at the instruction", RUN(r_limit), 0x600);
    CHECK_EQ("word at ffff of SS: #SS", RUN(r_stack_limit), 0x55);
    CHECK_EQ("SP wraps", RUN(r_sp_wrap), 0xfffe);
    CHECK_EQ("wrapped push", *(uint16_t *)0x3fffe, 0x7788);
    CHECK_EQ("32-bit address over the limit", RUN(r_addr32), 0x66);
    CHECK_EQ("unreal mode", RUN(r_unreal), 0x600df00d);
    CHECK_EQ("LTR and ARPL are undefined", RUN(r_undefined), 2);
    CHECK_EQ("LIDT moves the table", RUN(r_lidt), 0x1d7);
    CHECK_EQ("vector beyond the table's limit", RUN(r_short_ivt), 0x3d);
}

/* HLT with an interrupt of the PIT through the PIC, all in real mode. */
REAL(r_irq, "cli; movw $(3f - r_irq), 0x20*4; movw $0x0800, 0x20*4+2; movb $0x34, %al; outb %al, $0x43; movb $0, %al; "
            "outb %al, $0x40; movb "
            "$8, %al; outb %al, $0x40; xorl %edx, %edx; movb $0xfe, %al; outb %al, $0x21; 1: sti; hlt; cli; cmpl $3, "
            "%edx; jb 1b; movb $0xff, "
            "%al; outb %al, $0x21; movl %edx, %eax; jmp 4f; 3: pushw %ax; incl %edx; movb $0x20, %al; outb %al, $0x20; "
            "popw %ax; iretw; 4:");

static void test_real_mode_interrupt(void)
{
    volatile uint32_t *lapic = (volatile uint32_t *)0xfee00000;

    lapic[0xf0 / 4] = 0x1ff;
    lapic[0x350 / 4] = 0x700; /* LINT0: ExtINT */
    CHECK(RUN(r_irq) >= 3, "three ticks or, on a slow host, more");
    lapic[0x350 / 4] = 0x10700;
}

/* ---- virtual-8086 mode ---- */

#define V86(name, text) SNIPPET(name, ".code16; " text "; .code32")
V86(v_plain, "movw %cs, %ax; movw %ss, %bx; movw %ds, %cx; movw %es, %dx; movw $0x4711, %es:4; int $0x80");
V86(v_limit, "movw $0xffff, %bx; movw (%bx), %ax");
V86(v_stack, "movw $0xffff, %bp; movw (%bp), %ax");
V86(v_addr32, "movl $0x10000, %ebx; addr32 movb (%ebx), %al");
V86(v_cli, "cli");
V86(v_pushf, "pushf; int $0x80");
V86(v_popf, "popf");
V86(v_iret, "iretw");
V86(v_int, "int $0x80");
V86(v_int3, "int3");
V86(v_hlt, "hlt");
V86(v_lgdt, "lgdtl 0");
V86(v_cr0, "movl %cr0, %eax");
V86(v_sldt, "sldt %ax");
V86(v_arpl, ".byte 0x63, 0xc0");
V86(v_in, "inb $0xe9, %al; int $0x80");
V86(v_lmsw, "lmsw %ax");
V86(v_smsw, "smsw %ax; int $0x80");
V86(v_far, "jmp 2f; .fill 30, 1, 0x90; 2: ljmp $0x2001, $(1f - v_far - 16); 1: movw %cs, %ax; int $0x80");
V86(v_lds, "movl $0x12345678, 0; ldsw 0, %si; movw %ds, %ax; int $0x80");

#define V(name, iopl) v86_exec(name, name##_end, NULL, (iopl) << 12)

static void test_v86(void)
{
    /* INT 0x80 from v86 needs IOPL 3, and a gate whose DPL is 3. */
    V(v_plain, 3u);
    CHECK_EXC("INT with IOPL 3", 0x80, 0);
    CHECK_EQ("CS", exc.frame.eax & 0xffff, V86_SEG);
    CHECK_EQ("SS", exc.frame.ebx & 0xffff, 0x3000);
    CHECK_EQ("DS", exc.frame.ecx & 0xffff, 0x5000);
    CHECK_EQ("ES", exc.frame.edx & 0xffff, 0x4000);
    CHECK_EQ("store through ES", *(uint16_t *)0x40004, 0x4711);
    CHECK(exc.frame.eflags & EFLAGS_VM, "VM in the pushed flags");
    CHECK(exc.frame.v_es == 0x4000 && exc.frame.v_ds == 0x5000 && exc.frame.v_fs == 0x6000 && exc.frame.v_gs == 0x7000,
          "segment registers on the stack");
    CHECK(exc.frame.ds == 0 && exc.frame.es == 0, "and null in the handler");
    CHECK_EQ("stack from the TSS", exc.handler_esp, tss.esp0 - 36);
    CHECK_EQ("ESP", exc.frame.esp, 0x1000);
    V(v_limit, 3u);
    CHECK_EXC("word at ffff", GP, 0);
    V(v_stack, 3u);
    CHECK_EXC("word at ffff of SS", SS, 0);
    V(v_addr32, 3u);
    CHECK_EXC("32-bit offset over the limit", GP, 0);
    V(v_far, 3u);
    CHECK_EXC("far jump", 0x80, 0);
    CHECK_EQ("CS", exc.frame.eax & 0xffff, 0x2001);
    V(v_lds, 3u);
    CHECK_EXC("LDS", 0x80, 0);
    CHECK(exc.frame.esi == 0x5678 && (exc.frame.eax & 0xffff) == 0x1234, "LDS's values");
}

static void test_v86_sensitive(void)
{
    static const struct {
        const char *name;
        const uint8_t *code, *end;
        int iopl3, iopl0; /* exception expected */
    } cases[] = {
        { "CLI", v_cli, v_cli_end, PF, GP }, /* PF: see below */
        { "PUSHF", v_pushf, v_pushf_end, 0x80, GP },
        { "INT", v_int, v_int_end, 0x80, GP },
        { "INT3 (gate with DPL 0)", v_int3, v_int3_end, GP, GP },
        { "HLT", v_hlt, v_hlt_end, GP, GP },
        { "LGDT", v_lgdt, v_lgdt_end, GP, GP },
        { "MOV from CR0", v_cr0, v_cr0_end, GP, GP },
        { "SLDT", v_sldt, v_sldt_end, UD, UD },
        { "ARPL", v_arpl, v_arpl_end, UD, UD },
        { "LMSW", v_lmsw, v_lmsw_end, GP, GP },
        { "POPF", v_popf, v_popf_end, PF, GP },
        { "IRET", v_iret, v_iret_end, PF, GP },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        /* Those that go through at IOPL 3 would run on: they are tried at IOPL 0 only. */
        if (cases[i].iopl3 != PF) {
            v86_exec(cases[i].code, cases[i].end, NULL, 3u << 12);
            check_exc(cases[i].name, cases[i].iopl3, cases[i].code == v_int3 ? 3 * 8 + 2 : 0, __LINE__);
        }
        v86_exec(cases[i].code, cases[i].end, NULL, 0);
        check_exc(cases[i].name, cases[i].iopl0, cases[i].code == v_int3 ? 3 * 8 + 2 : 0, __LINE__);
    }
    /* I/O goes by the bitmap whatever IOPL is. */
    V(v_in, 3u);
    CHECK_EXC("IN with IOPL 3 and its bit set", GP, 0);
    tss.io_bits[0xe9 / 8] &= (uint8_t) ~(1u << (0xe9 & 7));
    V(v_in, 3u);
    CHECK_EXC("IN with its bit clear", 0x80, 0);
    tss.io_bits[0xe9 / 8] = 0xff;
    V(v_smsw, 3u);
    CHECK_EXC("SMSW", 0x80, 0);
}

/* VME: INT n by the redirection bitmap to the v86 program's own table, CLI and STI on VIF. */
V86(v_vme_int, "movw $0x1234, %ax; int $0x44; ud2");
V86(v_vme_sti, "sti; pushf; popw %ax; cli; pushf; popw %bx; ud2");

static void test_vme(void)
{
    if (!(cpuid(1, 0).edx & BIT(1))) {
        guest_skip("VME");
        return;
    }
    write_cr4(read_cr4() | CR4_VME);
    memset(tss.redirect, 0, sizeof(tss.redirect)); /* all to the v86 program */
    *(uint16_t *)(0x44 * 4) = 0x20;
    *(uint16_t *)(0x44 * 4 + 2) = V86_SEG;
    {
        static const uint8_t handler[] = { 0x89, 0xe3, 0x0f, 0x0b }; /* mov %sp, %bx; ud2 */

        memset((void *)(V86_SEG << 4), 0, 64);
        memcpy((void *)((V86_SEG << 4) + 0x20), handler, sizeof(handler));
    }
    V(v_vme_int, 0u);
    CHECK_EXC("INT redirected with IOPL 0", UD, 0);
    CHECK_EQ("IP of the handler's UD2", exc.frame.eip, 0x22);
    CHECK_EQ("three words pushed on the v86 stack", exc.frame.ebx & 0xffff, 0x1000 - 6);
    CHECK_EQ("IP on it", *(uint16_t *)(0x30000 + 0x1000 - 6), 5);
    V(v_vme_sti, 0u);
    CHECK_EXC("STI and CLI with IOPL 0", UD, 0);
    CHECK(exc.frame.eax & EFLAGS_IF, "VIF shown as IF");
    CHECK(!(exc.frame.ebx & EFLAGS_IF), "VIF cleared");
    memset(tss.redirect, 0xff, sizeof(tss.redirect));
    V(v_vme_int, 0u);
    CHECK_EXC("INT not redirected with IOPL 0", GP, 0);
    memset(tss.redirect, 0, sizeof(tss.redirect));
    write_cr4(read_cr4() & ~CR4_VME);
}

const struct guest_test guest_tests[] = {
    { "real mode", test_real_mode },
    { "real mode, interrupts", test_real_mode_interrupt },
    { "virtual-8086 mode", test_v86 },
    { "virtual-8086 mode, sensitive instructions", test_v86_sensitive },
    { "VME", test_vme },
    { 0 },
};
