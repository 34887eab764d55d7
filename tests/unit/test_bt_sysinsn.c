/* System instructions from their bytes: decoded and executed one at a time, in 16-, 32- and 64-bit code, at CPL 0 and
 * 3; results, operand sizes, privilege checks. Expected values are those of SDM volume 2. */
#include "bt_machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

static struct bt_rig *rig;
static struct bt_vcpu *c;

struct insn {
    const char *bytes;
    unsigned n;
};

/* A string literal of machine code with its length. */
#define CODE(s)          \
    (struct insn)        \
    {                    \
        s, sizeof(s) - 1 \
    }
#define SCRATCH 0x6000ULL

static void do_insn(struct bt_vcpu *cpu, void *arg)
{
    const struct insn *in = arg;
    struct bt_op op;
    enum bt_next next;
    uint8_t buf[15] = { 0 };

    memcpy(buf, in->bytes, in->n);
    assert_int_equal(bt_decode(cpu, buf, sizeof(buf), cpu->mode, &op), 0);
    next = op.fn(cpu, &op);
    if (next != BT_JUMP)
        cpu->r[BT_RIP] += op.len;
}

/* Execute one instruction; returns the vector that it raised or -1. */
static int exec(struct insn in)
{
    return rig_try(rig, do_insn, &in);
}

static void check_raises(struct insn in, int vector, uint32_t error)
{
    assert_int_equal(exec(in), vector);
    assert_int_equal(c->exc.error, error);
    assert_int_equal(c->r[BT_RIP], 0x7000);
}

static void enter_real(void)
{
    machine_enter_protected(rig, 0);
    c->cr0 = BT_CR0_ET;
    for (unsigned i = 0; i < 6; i++) {
        c->seg[i].db = 0;
        bt_seg_real(&c->seg[i], 0, false);
    }
    bt_state_update(c);
}

static void enter_v86(void)
{
    machine_enter_protected(rig, 3);
    c->rflags |= BT_VM;
    for (unsigned i = 0; i < 6; i++)
        bt_seg_real(&c->seg[i], 0, true);
    bt_state_update(c);
}

/* Each of these needs CPL 0; in 32-bit and 64-bit encodings alike. */
static const struct insn privileged[] = {
    CODE("\xf4"),                 /* HLT */
    CODE("\x0f\x06"),             /* CLTS */
    CODE("\x0f\x08"),             /* INVD */
    CODE("\x0f\x09"),             /* WBINVD */
    CODE("\x0f\x30"),             /* WRMSR */
    CODE("\x0f\x32"),             /* RDMSR */
    CODE("\x0f\x20\xc0"),         /* MOV EAX, CR0 */
    CODE("\x0f\x22\xd8"),         /* MOV CR3, EAX */
    CODE("\x0f\x21\xc0"),         /* MOV EAX, DR0 */
    CODE("\x0f\x23\xf8"),         /* MOV DR7, EAX */
    CODE("\x0f\x01\x10"),         /* LGDT [EAX] */
    CODE("\x0f\x01\x18"),         /* LIDT [EAX] */
    CODE("\x0f\x01\xf0"),         /* LMSW AX */
    CODE("\x0f\x01\x38"),         /* INVLPG [EAX] */
    CODE("\x0f\x00\xd0"),         /* LLDT AX */
    CODE("\x0f\x00\xd8"),         /* LTR AX */
    CODE("\x66\x0f\x38\x82\x08"), /* INVPCID ECX, [EAX] */
    CODE("\xfa"),                 /* CLI with IOPL 0 */
    CODE("\xfb"),                 /* STI */
    CODE("\xec"),                 /* IN AL, DX */
    CODE("\xef"),                 /* OUT DX, EAX */
    CODE("\x6c"),                 /* INSB */
    CODE("\x6f"),                 /* OUTSD */
};

static void test_privileged(void **state)
{
    for (unsigned i = 0; i < ARRAY_SIZE(privileged); i++) {
        machine_enter_protected(rig, 3);
        c->tr.limit = 0x50; /* no I/O bitmap */
        check_raises(privileged[i], BT_GP, 0);
        machine_enter_long(rig, 3);
        c->tr.limit = 0x50;
        check_raises(privileged[i], BT_GP, 0);
    }
    machine_enter_long(rig, 3);
    check_raises(CODE("\x0f\x01\xf8"), BT_GP, 0); /* SWAPGS */
    c->cr4 |= BT_CR4_OSXSAVE;
    check_raises(CODE("\x0f\x01\xd1"), BT_GP, 0);            /* XSETBV */
    check_raises(CODE("\x0f\x01\xcb"), BT_UD, c->exc.error); /* STAC */
    check_raises(CODE("\x0f\x01\xca"), BT_UD, c->exc.error); /* CLAC */
}

static void test_umip(void **state)
{
    static const struct insn umip[] = {
        CODE("\x0f\x01\x00"), /* SGDT [EAX] */
        CODE("\x0f\x01\x08"), /* SIDT [EAX] */
        CODE("\x0f\x01\xe0"), /* SMSW EAX */
        CODE("\x0f\x00\xc0"), /* SLDT EAX */
        CODE("\x0f\x00\xc8"), /* STR EAX */
    };

    for (unsigned i = 0; i < ARRAY_SIZE(umip); i++) {
        machine_enter_protected(rig, 3);
        c->r[BT_RAX] = SCRATCH;
        assert_int_equal(exec(umip[i]), -1);
        machine_enter_protected(rig, 3);
        c->r[BT_RAX] = SCRATCH;
        c->cr4 = BT_CR4_UMIP;
        check_raises(umip[i], BT_GP, 0);
        machine_enter_protected(rig, 0);
        c->r[BT_RAX] = SCRATCH;
        c->cr4 = BT_CR4_UMIP;
        assert_int_equal(exec(umip[i]), -1);
    }
}

/* Defined in protected mode only. */
static void test_protected_only(void **state)
{
    static const struct insn only[] = {
        CODE("\x0f\x00\xc0"), CODE("\x0f\x00\xc8"), CODE("\x0f\x00\xd0"), CODE("\x0f\x00\xd8"), /* SLDT STR LLDT LTR */
        CODE("\x0f\x00\xe0"), CODE("\x0f\x00\xe8"),                                             /* VERR VERW */
        CODE("\x0f\x02\xc1"), CODE("\x0f\x03\xc1"),                                             /* LAR LSL */
        CODE("\x63\xc8"),                                                                       /* ARPL */
    };

    for (unsigned i = 0; i < ARRAY_SIZE(only); i++) {
        enter_real();
        assert_int_equal(exec(only[i]), BT_UD);
        enter_v86();
        assert_int_equal(exec(only[i]), BT_UD);
    }
}

static void test_undefined(void **state)
{
    static const struct insn undefined[] = {
        CODE("\x0f\x0b"),     /* UD2 */
        CODE("\x0f\xb9\xc0"), /* UD1 */
        CODE("\x0f\xaa"),     /* RSM */
        CODE("\x0f\x01\xc2"), /* VMLAUNCH */
        CODE("\x0f\x01\xd8"), /* VMRUN */
        CODE("\x0f\x01\xc8"), /* MONITOR */
        CODE("\x0f\x01\xc9"), /* MWAIT */
        CODE("\x0f\x20\xc8"), /* MOV EAX, CR1 */
        CODE("\x0f\x22\xe8"), /* MOV CR5, EAX */
        CODE("\x8e\xc8"),     /* MOV CS, AX */
        CODE("\x0f\x01\xd0"), /* XGETBV without OSXSAVE */
        CODE("\x0f\x01\xee"), /* RDPKRU */
    };

    for (unsigned i = 0; i < ARRAY_SIZE(undefined); i++) {
        machine_enter_protected(rig, 0);
        assert_int_equal(exec(undefined[i]), BT_UD);
        machine_enter_long(rig, 0);
        assert_int_equal(exec(undefined[i]), BT_UD);
    }
    machine_enter_long(rig, 0);
    assert_int_equal(exec(CODE("\xf3\x0f\xae\xc0")), BT_UD); /* RDFSBASE without CR4.FSGSBASE */
    assert_int_equal(exec(CODE("\xce")), BT_UD);             /* INTO */
    assert_int_equal(exec(CODE("\x06")), BT_UD);             /* PUSH ES */
    assert_int_equal(exec(CODE("\xc5\x00")), BT_UD);         /* LDS is VEX here */
    assert_int_equal(exec(CODE("\x9a")), BT_UD);             /* CALL ptr16:32 */
}

/* Register results: the operand size decides how much is written. */
static void test_store_sizes(void **state)
{
    static const struct {
        struct insn in;
        uint64_t want;
        bool in_long;
    } cases[] = {
        { CODE("\x8c\xd8"), DATA0, true }, /* MOV EAX, DS: zero-extended */
        { CODE("\x66\x8c\xd8"), 0x1111111111110000 | DATA0, true },
        { CODE("\x48\x8c\xd8"), DATA0, true },
        { CODE("\x0f\x00\xc8"), TSS_SEL, true }, /* STR */
        { CODE("\x66\x0f\x00\xc8"), 0x1111111111110000 | TSS_SEL, true },
        { CODE("\x0f\x01\xe0"), 0x80010011, true }, /* SMSW EAX */
        { CODE("\x66\x0f\x01\xe0"), 0x1111111111110011, true },
        { CODE("\x48\x0f\x01\xe0"), 0x80010011, true },
        { CODE("\x0f\x20\xc0"), 0x80010011, true }, /* MOV RAX, CR0 */
        { CODE("\x0f\x21\xf8"), 0x400, true },      /* MOV RAX, DR7 */
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        machine_enter_long(rig, 0);
        c->r[BT_RAX] = 0x1111111111111111;
        assert_int_equal(exec(cases[i].in), -1);
        assert_int_equal(c->r[BT_RAX], cases[i].want);
        assert_int_equal(c->r[BT_RIP], 0x7000 + cases[i].in.n);
    }
    /* Memory: always 16 bits. */
    machine_enter_long(rig, 0);
    c->r[BT_RAX] = SCRATCH;
    rig_put(rig, SCRATCH, ~0ULL, 8);
    assert_int_equal(exec(CODE("\x48\x8c\x18")), -1);
    assert_int_equal(rig_get(rig, SCRATCH, 8), 0xffffffffffff0000 | DATA0);
}

static void test_descriptor_tables(void **state)
{
    machine_enter_long(rig, 0);
    c->r[BT_RAX] = SCRATCH;
    rig_put(rig, SCRATCH + 8, ~0ULL, 8);
    assert_int_equal(exec(CODE("\x66\x0f\x01\x00")), -1); /* SGDT, always 10 bytes */
    assert_int_equal(rig_get(rig, SCRATCH, 2), GDT_END - 1);
    assert_int_equal(rig_get(rig, SCRATCH + 2, 8), GDT);
    assert_int_equal(rig_get(rig, SCRATCH + 10, 4), 0xffffffff);
    rig_put(rig, SCRATCH, 0x123, 2);
    rig_put(rig, SCRATCH + 2, 0x800000000000, 8);
    c->r[BT_RIP] = 0x7000;
    check_raises(CODE("\x0f\x01\x18"), BT_GP, 0); /* LIDT: not canonical */
    rig_put(rig, SCRATCH + 2, 0xffff800000000000, 8);
    assert_int_equal(exec(CODE("\x0f\x01\x18")), -1);
    assert_int_equal(c->idt.base, 0xffff800000000000);
    assert_int_equal(c->idt.limit, 0x123);
    /* With a 16-bit operand, 24 bits of base are loaded. */
    machine_enter_protected(rig, 0);
    c->r[BT_RAX] = SCRATCH;
    rig_put(rig, SCRATCH + 2, 0x12345678, 4);
    assert_int_equal(exec(CODE("\x66\x0f\x01\x18")), -1);
    assert_int_equal(c->idt.base, 0x345678);
    assert_int_equal(exec(CODE("\x0f\x01\x18")), -1);
    assert_int_equal(c->idt.base, 0x12345678);
}

static void test_lldt_ltr(void **state)
{
    static const struct {
        bool ltr;
        uint16_t sel;
        int vector;
        uint32_t error;
    } cases[] = {
        { false, LDT_SEL, -1, 0 },
        { false, 0, -1, 0 },
        { false, TSS2_SEL, BT_GP, TSS2_SEL },
        { false, LDT_SEL | 4, BT_GP, LDT_SEL | 4 },
        { false, GDT_END, BT_GP, GDT_END },
        { true, TSS2_SEL, -1, 0 },
        { true, TSS_SEL, BT_GP, TSS_SEL }, /* busy */
        { true, 0, BT_GP, 0 },
        { true, DATA0, BT_GP, DATA0 },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        for (unsigned wide = 0; wide < 2; wide++) {
            struct insn in = cases[i].ltr ? CODE("\x0f\x00\xd8") : CODE("\x0f\x00\xd0");

            if (wide)
                machine_enter_long(rig, 0);
            else
                machine_enter_protected(rig, 0);
            c->r[BT_RAX] = cases[i].sel;
            assert_int_equal(exec(in), cases[i].vector);
            if (cases[i].vector >= 0)
                assert_int_equal(c->exc.error, cases[i].error);
            else
                assert_int_equal(cases[i].ltr ? c->tr.sel : c->ldt.sel, cases[i].sel);
        }
    }
}

static void test_ltr_marks_busy(void **state)
{
    machine_enter_long(rig, 0);
    machine_gdt_put(rig, TSS2_SEL + 8, 0xffff8000);
    c->r[BT_RAX] = TSS2_SEL;
    assert_int_equal(exec(CODE("\x0f\x00\xd8")), -1);
    assert_int_equal(c->tr.base, 0xffff800000000000 | TSS2);
    assert_int_equal(c->tr.type, BT_SYS_TSS32_BUSY);
    assert_int_equal(rig_get(rig, GDT + TSS2_SEL + 5, 1), 0x8b);
}

static void test_lar_lsl(void **state)
{
    static const struct {
        unsigned cpl;
        uint16_t sel;
        bool lar, lsl, verr, verw;
    } cases[] = {
        { 0, CODE0, true, true, true, false },        { 0, DATA0, true, true, true, true },
        { 3, DATA0, false, false, false, false },     { 3, CONFORMING, true, true, true, false },
        { 0, DATA0 | 3, false, false, false, false }, { 3, EXECONLY | 3, true, true, false, false },
        { 3, RODATA3 | 3, true, true, true, false },  { 0, TSS_SEL, true, true, false, false },
        { 0, LDT_SEL, true, true, false, false },     { 0, 0, false, false, false, false },
        { 0, GDT_END, false, false, false, false },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        machine_enter_protected(rig, cases[i].cpl);
        c->r[BT_RCX] = c->r[BT_RAX] = cases[i].sel;
        assert_int_equal(exec(CODE("\x0f\x00\xe0")), -1); /* VERR AX */
        assert_int_equal((c->rflags & BT_ZF) != 0, cases[i].verr);
        assert_int_equal(exec(CODE("\x0f\x00\xe8")), -1); /* VERW AX */
        assert_int_equal((c->rflags & BT_ZF) != 0, cases[i].verw);
        c->r[BT_RAX] = 0x12345678;
        assert_int_equal(exec(CODE("\x0f\x02\xc1")), -1); /* LAR EAX, ECX */
        assert_int_equal((c->rflags & BT_ZF) != 0, cases[i].lar);
        if (!cases[i].lar)
            assert_int_equal(c->r[BT_RAX], 0x12345678);
        assert_int_equal(exec(CODE("\x0f\x03\xd1")), -1); /* LSL EDX, ECX */
        assert_int_equal((c->rflags & BT_ZF) != 0, cases[i].lsl);
    }
    machine_enter_protected(rig, 0);
    c->r[BT_RCX] = DATA3;
    assert_int_equal(exec(CODE("\x0f\x02\xc1")), -1);
    assert_int_equal(c->r[BT_RAX] & 0xf0ff00, 0xc0f300);
    assert_int_equal(exec(CODE("\x0f\x03\xd1")), -1);
    assert_int_equal(c->r[BT_RDX], 0xffffffff);
    /* In long mode a call gate has access rights but no limit; a task gate neither. */
    machine_enter_long(rig, 0);
    machine_gdt_put_system(rig, GATE, 0, 0, 0x8c);
    c->r[BT_RCX] = GATE;
    assert_int_equal(exec(CODE("\x0f\x02\xc1")), -1);
    assert_true(c->rflags & BT_ZF);
    assert_int_equal(exec(CODE("\x0f\x03\xd1")), -1);
    assert_false(c->rflags & BT_ZF);
    machine_gdt_put_system(rig, GATE, 0, 0, 0x85);
    assert_int_equal(exec(CODE("\x0f\x02\xc1")), -1);
    assert_false(c->rflags & BT_ZF);
}

static void test_arpl(void **state)
{
    machine_enter_protected(rig, 3);
    c->r[BT_RAX] = 0x11110008;
    c->r[BT_RCX] = 3;
    assert_int_equal(exec(CODE("\x63\xc8")), -1); /* ARPL AX, CX */
    assert_int_equal(c->r[BT_RAX], 0x1111000b);
    assert_true(c->rflags & BT_ZF);
    assert_int_equal(exec(CODE("\x63\xc8")), -1);
    assert_false(c->rflags & BT_ZF);
}

static void test_segment_instructions(void **state)
{
    /* MOV SS casts a shadow, LSS does not. */
    machine_enter_protected(rig, 0);
    c->r[BT_RAX] = DATA0;
    assert_int_equal(exec(CODE("\x8e\xd0")), -1);
    assert_int_equal(c->shadow, BT_SHADOW_MOVSS);
    c->shadow = 0;
    rig_put(rig, SCRATCH, 0x12345678, 4);
    rig_put(rig, SCRATCH + 4, DATA0, 2);
    c->r[BT_RAX] = SCRATCH;
    assert_int_equal(exec(CODE("\x0f\xb2\x20")), -1); /* LSS ESP, [EAX] */
    assert_int_equal(c->r[BT_RSP], 0x12345678);
    assert_int_equal(c->shadow, 0);
    /* A fault in the selector leaves the register alone. */
    rig_put(rig, SCRATCH + 4, DATA3, 2);
    rig_put(rig, SCRATCH, 0x55, 4);
    assert_int_equal(exec(CODE("\x0f\xb2\x20")), BT_GP);
    assert_int_equal(c->exc.error, DATA3);
    assert_int_equal(c->r[BT_RSP], 0x12345678);
    /* POP DS that faults leaves ESP alone; PUSH with a 16-bit operand moves by 2. */
    c->r[BT_RSP] = SCRATCH;
    rig_put(rig, SCRATCH, GDT_END, 4);
    assert_int_equal(exec(CODE("\x1f")), BT_GP);
    assert_int_equal(c->r[BT_RSP], SCRATCH);
    assert_int_equal(exec(CODE("\x66\x1e")), -1);
    assert_int_equal(c->r[BT_RSP], SCRATCH - 2);
    assert_int_equal(exec(CODE("\x1e")), -1);
    assert_int_equal(c->r[BT_RSP], SCRATCH - 6);
    /* 64-bit: 8 bytes. */
    machine_enter_long(rig, 0);
    assert_int_equal(exec(CODE("\x0f\xa0")), -1); /* PUSH FS */
    assert_int_equal(c->r[BT_RSP], STACK0 - 8);
    assert_int_equal(exec(CODE("\x0f\xa9")), -1); /* POP GS */
    assert_int_equal(c->r[BT_RSP], STACK0);
    assert_int_equal(c->seg[BT_GS].sel, DATA0);
}

static void test_bases(void **state)
{
    machine_enter_long(rig, 0);
    c->cr4 |= BT_CR4_FSGSBASE;
    c->r[BT_RAX] = 0xffff800012345678;
    assert_int_equal(exec(CODE("\xf3\x48\x0f\xae\xd0")), -1); /* WRFSBASE RAX */
    assert_int_equal(c->segbase[BT_FS], 0xffff800012345678);
    assert_int_equal(exec(CODE("\xf3\x0f\xae\xc1")), -1); /* RDFSBASE ECX */
    assert_int_equal(c->r[BT_RCX], 0x12345678);
    c->r[BT_RAX] = 0x800000000000;
    assert_int_equal(exec(CODE("\xf3\x48\x0f\xae\xd8")), BT_GP); /* WRGSBASE RAX */
    assert_int_equal(exec(CODE("\xf3\x0f\xae\xd8")), -1);        /* WRGSBASE EAX */
    assert_int_equal(c->segbase[BT_GS], 0);
    c->kernel_gs_base = 0x1234;
    assert_int_equal(exec(CODE("\x0f\x01\xf8")), -1); /* SWAPGS */
    assert_int_equal(c->segbase[BT_GS], 0x1234);
    assert_int_equal(c->kernel_gs_base, 0);
}

static void test_debug_registers(void **state)
{
    machine_enter_protected(rig, 0);
    c->r[BT_RAX] = 0xffffffff;
    assert_int_equal(exec(CODE("\x0f\x23\xf0")), -1); /* MOV DR6, EAX */
    assert_int_equal(c->dr[6], 0xffffefff);
    c->r[BT_RAX] = 0;
    assert_int_equal(exec(CODE("\x0f\x23\xe0")), -1); /* DR4 is DR6 */
    assert_int_equal(c->dr[6], 0xffff0ff0);
    c->cr4 = BT_CR4_DE;
    assert_int_equal(exec(CODE("\x0f\x23\xe0")), BT_UD);
    c->r[BT_RAX] = 1 << 13;
    assert_int_equal(exec(CODE("\x0f\x23\xf8")), -1); /* GD */
    assert_int_equal(exec(CODE("\x0f\x21\xc1")), BT_DB);
    assert_int_equal(c->exc.payload, BT_DR6_BD);
    machine_enter_long(rig, 0);
    c->dr[7] = 0x400;
    c->r[BT_RAX] = 1ULL << 32;
    assert_int_equal(exec(CODE("\x0f\x23\xf8")), BT_GP);
    assert_int_equal(exec(CODE("\x0f\x23\xc0")), -1); /* DR0 takes any address */
    assert_int_equal(c->dr[0], 1ULL << 32);
}

static void test_cr8(void **state)
{
    machine_enter_long(rig, 0);
    c->r[BT_RAX] = 16;
    assert_int_equal(exec(CODE("\x44\x0f\x22\xc0")), BT_GP); /* MOV CR8, RAX */
    c->r[BT_RAX] = 9;
    assert_int_equal(exec(CODE("\x44\x0f\x22\xc0")), -1);
    assert_int_equal(exec(CODE("\x44\x0f\x20\xc1")), -1); /* MOV RCX, CR8 */
    assert_int_equal(c->r[BT_RCX], 9);
}

static void test_lmsw(void **state)
{
    machine_enter_protected(rig, 0);
    c->r[BT_RAX] = 0;
    assert_int_equal(exec(CODE("\x0f\x01\xf0")), -1);
    assert_int_equal(c->cr0 & 0xf, BT_CR0_PE); /* PE cannot be cleared */
    c->r[BT_RAX] = 0xfffe;
    assert_int_equal(exec(CODE("\x0f\x01\xf0")), -1);
    assert_int_equal(c->cr0, BT_CR0_PE | BT_CR0_MP | BT_CR0_EM | BT_CR0_TS | BT_CR0_ET);
    assert_int_equal(exec(CODE("\x0f\x06")), -1);
    assert_int_equal(c->cr0 & BT_CR0_TS, 0);
}

static void test_invpcid(void **state)
{
    static const struct {
        uint64_t type, pcid, addr;
        bool pcide;
        int vector;
    } cases[] = {
        { 4, 0, 0, true, BT_GP },
        { 0, 1 << 12, 0, true, BT_GP },
        { 3, 1 << 12, 0, true, BT_GP },
        { 0, 5, 0, false, BT_GP },
        { 1, 5, 0, false, BT_GP },
        { 0, 5, 0, true, -1 },
        { 0, 0, 1ULL << 47, true, BT_GP },
        { 1, 0, 1ULL << 47, true, -1 },
        { 2, 0, 0, false, -1 },
        { 3, 0, 0, false, -1 },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        machine_enter_long(rig, 0);
        if (cases[i].pcide)
            c->cr4 |= BT_CR4_PCIDE;
        c->r[BT_RCX] = cases[i].type;
        c->r[BT_RAX] = SCRATCH;
        rig_put(rig, SCRATCH, cases[i].pcid, 8);
        rig_put(rig, SCRATCH + 8, cases[i].addr, 8);
        assert_int_equal(exec(CODE("\x66\x0f\x38\x82\x08")), cases[i].vector);
    }
}

static void test_time_and_tsd(void **state)
{
    machine_enter_protected(rig, 3);
    assert_int_equal(exec(CODE("\x0f\x31")), -1); /* RDTSC */
    c->cr4 = BT_CR4_TSD;
    c->r[BT_RIP] = 0x7000;
    check_raises(CODE("\x0f\x31"), BT_GP, 0);
    check_raises(CODE("\x0f\x01\xf9"), BT_GP, 0); /* RDTSCP */
    c->cr4 = 0;
    c->tsc_aux = 0x77;
    assert_int_equal(exec(CODE("\x0f\x01\xf9")), -1);
    assert_int_equal(c->r[BT_RCX], 0x77);
    c->r[BT_RIP] = 0x7000;
    check_raises(CODE("\x0f\x33"), BT_GP, 0); /* RDPMC */
}

static void test_xsetbv(void **state)
{
    static const struct {
        uint64_t value;
        int vector;
    } cases[] = {
        { 1, -1 }, { 3, -1 }, { 2, BT_GP }, { 0, BT_GP }, { 5, BT_GP }, { 1ULL << 63 | 1, BT_GP }, { 0x201, BT_GP },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        machine_enter_long(rig, 0);
        c->cr4 |= BT_CR4_OSXSAVE;
        c->r[BT_RCX] = 0;
        c->r[BT_RAX] = (uint32_t)cases[i].value;
        c->r[BT_RDX] = cases[i].value >> 32;
        assert_int_equal(exec(CODE("\x0f\x01\xd1")), cases[i].vector);
    }
    c->r[BT_RCX] = 1;
    c->r[BT_RAX] = 1;
    c->r[BT_RDX] = 0;
    assert_int_equal(exec(CODE("\x0f\x01\xd1")), BT_GP);
}

static void test_interrupt_flag(void **state)
{
    machine_enter_protected(rig, 0);
    assert_int_equal(exec(CODE("\xfb")), -1);
    assert_int_equal(c->shadow, BT_SHADOW_STI);
    assert_true(c->rflags & BT_IF);
    c->shadow = 0;
    assert_int_equal(exec(CODE("\xfb")), -1);
    assert_int_equal(c->shadow, 0); /* only where IF was clear */
    assert_int_equal(exec(CODE("\xfa")), -1);
    assert_false(c->rflags & BT_IF);
    enter_v86();
    assert_int_equal(exec(CODE("\xfa")), BT_GP);
    c->rflags |= BT_IOPL;
    assert_int_equal(exec(CODE("\xfa")), -1);
}

static void test_software_interrupts(void **state)
{
    machine_enter_protected(rig, 3);
    assert_int_equal(exec(CODE("\xcd\x80")), 0x80);
    assert_int_equal(c->exc.soft, BT_SOFT_INT);
    assert_int_equal(c->exc.payload, 0x7002);
    assert_int_equal(exec(CODE("\xcc")), BT_BP);
    assert_int_equal(c->exc.payload, 0x7001);
    assert_int_equal(exec(CODE("\xf1")), BT_DB);
    assert_int_equal(c->exc.soft, BT_SOFT_INT1);
    assert_int_equal(exec(CODE("\xce")), -1); /* INTO without OF */
    c->rflags |= BT_OF;
    assert_int_equal(exec(CODE("\xce")), BT_OFV);
    /* Virtual-8086 mode: INT n needs IOPL 3, INT3 does not. */
    enter_v86();
    check_raises(CODE("\xcd\x80"), BT_GP, 0);
    assert_int_equal(exec(CODE("\xcc")), BT_BP);
}

static void test_port_io(void **state)
{
    machine_enter_long(rig, 0);
    c->r[BT_RDX] = 0x1234;
    c->r[BT_RAX] = ~0ULL;
    assert_int_equal(exec(CODE("\xec")), -1); /* IN AL, DX */
    assert_int_equal(c->r[BT_RAX], 0xffffffffffffff34);
    assert_int_equal(exec(CODE("\x66\xed")), -1);
    assert_int_equal(c->r[BT_RAX], 0xffffffffffff3534);
    assert_int_equal(exec(CODE("\x48\xed")), -1); /* REX.W changes nothing */
    assert_int_equal(c->r[BT_RAX], 0x37363534);
    rig->n_log = 0;
    assert_int_equal(exec(CODE("\xe7\x9c")), -1); /* OUT 9ch, EAX */
    assert_int_equal(rig->n_log, 1);
    assert_int_equal(rig->log[0].addr, 0x9c);
    assert_int_equal(rig->log[0].len, 4);
    assert_int_equal(rig->log[0].value, 0x37363534);
}

static void test_string_io(void **state)
{
    machine_enter_long(rig, 0);
    c->r[BT_RDX] = 0x1234;
    c->r[BT_RDI] = SCRATCH;
    c->r[BT_RCX] = 3;
    assert_int_equal(exec(CODE("\xf3\x66\x6d")), -1); /* REP INSW */
    assert_int_equal(c->r[BT_RDI], SCRATCH + 6);
    assert_int_equal(c->r[BT_RCX], 0);
    assert_int_equal(rig_get(rig, SCRATCH, 8) & 0xffffffffffff, 0x353435343534);
    assert_int_equal(c->r[BT_RIP], 0x7003);
    /* 32-bit addresses; downwards. */
    c->rflags |= BT_DF;
    c->r[BT_RSI] = 0xffffffff00000000 | SCRATCH;
    c->r[BT_RCX] = 0xffffffff00000002;
    rig->n_log = 0;
    assert_int_equal(exec(CODE("\x67\xf3\x6e")), -1); /* REP OUTSB */
    assert_int_equal(c->r[BT_RSI], SCRATCH - 2);
    assert_int_equal(c->r[BT_RCX], 0);
    assert_int_equal(rig->n_log, 2);
    assert_int_equal(rig->log[0].value, 0x34);
    /* An event stops it between two iterations, with RF for the frame. */
    c->rflags = 2;
    c->r[BT_RSI] = SCRATCH;
    c->r[BT_RCX] = 100;
    atomic_fetch_or(&c->events, BT_EV_KICK);
    c->r[BT_RIP] = 0x7000;
    assert_int_equal(exec(CODE("\xf3\x6e")), -1);
    assert_int_equal(c->r[BT_RCX], 99);
    assert_int_equal(c->r[BT_RIP], 0x7000);
    assert_true(c->rflags & BT_RF);
    atomic_fetch_and(&c->events, ~(uint32_t)BT_EV_KICK);
    /* A masked interrupt does not. */
    atomic_fetch_or(&c->events, BT_EV_IRQ);
    assert_int_equal(exec(CODE("\xf3\x6e")), -1);
    assert_int_equal(c->r[BT_RCX], 0);
    atomic_fetch_and(&c->events, ~(uint32_t)BT_EV_IRQ);
    /* The port is not read where the destination cannot be written. */
    c->r[BT_RDI] = 0x800000000000;
    rig->n_log = 0;
    assert_int_equal(exec(CODE("\x6c")), BT_GP);
    assert_int_equal(rig->n_log, 0);
    /* No iteration: no check either. */
    machine_enter_long(rig, 3);
    c->r[BT_RCX] = 0;
    assert_int_equal(exec(CODE("\xf3\x6c")), -1);
}

/* Offsets of far pointers by operand size, in all widths of code. */
static void test_far_pointers(void **state)
{
    machine_enter_protected(rig, 0);
    assert_int_equal(exec(CODE("\xea\x78\x56\x34\x12\x08\x00")), -1); /* JMP 0008:12345678 */
    assert_int_equal(c->r[BT_RIP], 0x12345678);
    assert_int_equal(exec(CODE("\x66\xea\x34\x12\x08\x00")), -1);
    assert_int_equal(c->r[BT_RIP], 0x1234);
    assert_int_equal(exec(CODE("\x66\x9a\x00\x50\x08\x00")), -1); /* CALL 0008:5000, 16 bits */
    assert_int_equal(c->r[BT_RSP], STACK0 - 4);
    assert_int_equal(rig_get(rig, STACK0 - 4, 2), 0x1234 + 6);
    assert_int_equal(exec(CODE("\x66\xca\x04\x00")), -1); /* RETF 4 */
    assert_int_equal(c->r[BT_RIP], 0x123a);
    assert_int_equal(c->r[BT_RSP], STACK0 + 4);
    machine_enter_long(rig, 0);
    c->r[BT_RAX] = SCRATCH;
    rig_put(rig, SCRATCH, 0xffff800000001234, 8);
    rig_put(rig, SCRATCH + 8, CODE64, 2);
    assert_int_equal(exec(CODE("\x48\xff\x28")), -1); /* JMP m16:64 */
    assert_int_equal(c->r[BT_RIP], 0xffff800000001234);
    rig_put(rig, SCRATCH + 4, CODE64, 2);
    assert_int_equal(exec(CODE("\xff\x28")), -1); /* JMP m16:32 */
    assert_int_equal(c->r[BT_RIP], 0x1234);
    assert_int_equal(exec(CODE("\x48\xff\x18")), BT_GP); /* CALL m16:64: selector is now wrong */
    rig_put(rig, SCRATCH + 8, CODE64, 2);
    rig_put(rig, SCRATCH, 0x5678, 8);
    assert_int_equal(exec(CODE("\x48\xff\x18")), -1);
    assert_int_equal(c->r[BT_RSP], STACK0 - 16);
    assert_int_equal(exec(CODE("\x48\xcb")), -1); /* RETFQ */
    assert_int_equal(c->r[BT_RSP], STACK0);
}

static int setup(void **state)
{
    rig = rig_new(false);
    c = rig->c;
    return 0;
}

static int teardown(void **state)
{
    rig_free(rig);
    return 0;
}

#define INSN_TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        INSN_TEST(test_privileged),
        INSN_TEST(test_umip),
        INSN_TEST(test_protected_only),
        INSN_TEST(test_undefined),
        INSN_TEST(test_store_sizes),
        INSN_TEST(test_descriptor_tables),
        INSN_TEST(test_lldt_ltr),
        INSN_TEST(test_ltr_marks_busy),
        INSN_TEST(test_lar_lsl),
        INSN_TEST(test_arpl),
        INSN_TEST(test_segment_instructions),
        INSN_TEST(test_bases),
        INSN_TEST(test_debug_registers),
        INSN_TEST(test_cr8),
        INSN_TEST(test_lmsw),
        INSN_TEST(test_invpcid),
        INSN_TEST(test_time_and_tsd),
        INSN_TEST(test_xsetbv),
        INSN_TEST(test_interrupt_flag),
        INSN_TEST(test_software_interrupts),
        INSN_TEST(test_port_io),
        INSN_TEST(test_string_io),
        INSN_TEST(test_far_pointers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
