/* The interpreter's system half: segment loads, exception delivery and its frames and error codes, far transfers, task
 * switches, control registers and MSRs. Expected values are those of SDM volumes 2 and 3. */
#include "bt_machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

static struct bt_rig *rig;
static struct bt_vcpu *c;

/* ---- segment loads ---- */

struct seg_args {
    unsigned seg;
    uint16_t sel;
};

static void do_seg_load(struct bt_vcpu *cpu, void *arg)
{
    const struct seg_args *a = arg;

    bt_seg_load(cpu, a->seg, a->sel);
}

static void test_seg_load(void **state)
{
    static const struct {
        unsigned cpl, seg, sel;
        int vector;
        uint32_t error;
    } cases[] = {
        { 0, BT_DS, DATA0, -1, 0 },
        { 0, BT_DS, DATA0 | 3, BT_GP, DATA0 }, /* RPL > DPL */
        { 3, BT_DS, DATA0, BT_GP, DATA0 },     /* CPL > DPL */
        { 3, BT_DS, DATA3 | 3, -1, 0 },
        { 3, BT_DS, DATA3, -1, 0 },
        { 0, BT_ES, CODE0, -1, 0 }, /* readable code */
        { 3, BT_ES, CODE0, BT_GP, CODE0 },
        { 3, BT_ES, CONFORMING | 3, -1, 0 }, /* privilege does not count */
        { 0, BT_FS, EXECONLY, BT_GP, EXECONLY },
        { 3, BT_GS, RODATA3 | 3, -1, 0 },
        { 0, BT_GS, TSS_SEL, BT_GP, TSS_SEL },
        { 0, BT_DS, ABSENT, BT_NP, ABSENT },
        { 0, BT_DS, GDT_END, BT_GP, GDT_END },
        { 0, BT_DS, GDT_END + 3, BT_GP, GDT_END },
        { 0, BT_DS, 0, -1, 0 },
        { 0, BT_DS, 3, -1, 0 },
        { 0, BT_DS, 4, -1, 0 },          /* LDT entry 0, filled below */
        { 0, BT_DS, 0xc, BT_GP, 0xc },   /* LDT entry 1: empty, type 0 */
        { 0, BT_DS, 0x14, BT_GP, 0x14 }, /* beyond the LDT */
        { 0, BT_SS, DATA0, -1, 0 },
        { 0, BT_SS, 0, BT_GP, 0 },
        { 0, BT_SS, DATA0 | 3, BT_GP, DATA0 },
        { 0, BT_SS, DATA3, BT_GP, DATA3 },
        { 0, BT_SS, DATA3 | 3, BT_GP, DATA3 },
        { 3, BT_SS, DATA3, BT_GP, DATA3 }, /* RPL must equal CPL */
        { 3, BT_SS, DATA3 | 3, -1, 0 },
        { 3, BT_SS, RODATA3 | 3, BT_GP, RODATA3 },
        { 0, BT_SS, CODE0, BT_GP, CODE0 },
        { 3, BT_SS, ABSENT | 3, BT_SSV, ABSENT },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct seg_args a = { cases[i].seg, (uint16_t)cases[i].sel };
        struct bt_seg before;

        machine_enter_protected(rig, cases[i].cpl);
        rig_put(rig, LDT, rig_desc(0x1000, 0xffff, 0x92, 4), 8);
        rig_put(rig, LDT + 8, 0, 8);
        before = c->seg[a.seg];
        assert_int_equal(rig_try(rig, do_seg_load, &a), cases[i].vector);
        if (cases[i].vector >= 0) {
            assert_int_equal(c->exc.error, cases[i].error);
            assert_memory_equal(&before, &c->seg[a.seg], sizeof(before));
        } else {
            assert_int_equal(c->seg[a.seg].sel, a.sel);
            assert_int_equal(c->seg[a.seg].unusable, (a.sel & ~3) == 0);
        }
    }
    assert_int_equal(rig_get(rig, LDT + 5, 1), 0x92);
    machine_enter_protected(rig, 0);
    assert_int_equal(rig_try(rig, do_seg_load, &(struct seg_args){ BT_DS, 4 }), -1);
    assert_int_equal(rig_get(rig, LDT + 5, 1), 0x93); /* accessed */
    assert_int_equal(c->seg[BT_DS].base, 0x1000);
    assert_int_equal(c->segbase[BT_DS], 0x1000);
}

static void test_seg_load_long(void **state)
{
    /* A null SS is good at CPL 0 to 2 in 64-bit mode if its RPL is the CPL. */
    machine_enter_long(rig, 0);
    assert_int_equal(rig_try(rig, do_seg_load, &(struct seg_args){ BT_SS, 0 }), -1);
    assert_int_equal(rig_try(rig, do_seg_load, &(struct seg_args){ BT_SS, 1 }), BT_GP);
    assert_int_equal(c->exc.error, 0);
    machine_enter_long(rig, 3);
    assert_int_equal(rig_try(rig, do_seg_load, &(struct seg_args){ BT_SS, 3 }), BT_GP);
}

struct check_args {
    unsigned seg, size, acc;
    uint64_t off, lin;
};

static void do_seg_check(struct bt_vcpu *cpu, void *arg)
{
    struct check_args *a = arg;

    a->lin = bt_seg_check(cpu, a->seg, a->off, a->size, a->acc);
}

static int seg_check(unsigned seg, uint64_t off, unsigned size, unsigned acc, uint64_t *ret_lin)
{
    struct check_args a = { .seg = seg, .size = size, .acc = acc, .off = off };
    int vector = rig_try(rig, do_seg_check, &a);

    *ret_lin = a.lin;
    return vector;
}

static void test_seg_limits(void **state)
{
    uint64_t lin;

    machine_enter_protected(rig, 0);
    c->seg[BT_DS].base = 0x10000;
    c->seg[BT_DS].limit = 0xfff;
    bt_state_update(c);
    assert_int_equal(seg_check(BT_DS, 0xffc, 4, BT_ACC_READ, &lin), -1);
    assert_int_equal(lin, 0x10ffc);
    assert_int_equal(seg_check(BT_DS, 0xffd, 4, BT_ACC_READ, &lin), BT_GP);
    assert_int_equal(c->exc.error, 0);
    assert_int_equal(seg_check(BT_DS, 0xffffffff, 4, BT_ACC_READ, &lin), BT_GP);
    c->seg[BT_DS].type = 7; /* expand-down, writable */
    bt_state_update(c);
    assert_int_equal(seg_check(BT_DS, 0xfff, 1, BT_ACC_WRITE, &lin), BT_GP);
    assert_int_equal(seg_check(BT_DS, 0x1000, 1, BT_ACC_WRITE, &lin), -1);
    assert_int_equal(seg_check(BT_DS, 0xffffffff, 1, BT_ACC_WRITE, &lin), -1);
    assert_int_equal(lin, 0xffff); /* wraps */
    assert_int_equal(seg_check(BT_DS, 0xffffffff, 2, BT_ACC_WRITE, &lin), BT_GP);
    c->seg[BT_DS].db = 0;
    assert_int_equal(seg_check(BT_DS, 0x10000, 1, BT_ACC_WRITE, &lin), BT_GP);
    c->seg[BT_SS].limit = 0;
    bt_state_update(c);
    assert_int_equal(seg_check(BT_SS, 1, 1, BT_ACC_READ, &lin), BT_SSV);
    assert_int_equal(seg_check(BT_CS, 0, 1, BT_ACC_WRITE, &lin), BT_GP); /* code is never writable */
    assert_int_equal(seg_check(BT_CS, 0, 1, BT_ACC_READ, &lin), -1);
    c->seg[BT_CS].type = 9; /* execute-only */
    assert_int_equal(seg_check(BT_CS, 0, 1, BT_ACC_READ, &lin), BT_GP);
    bt_seg_null(&c->seg[BT_ES], 0, 0);
    bt_state_update(c);
    assert_int_equal(seg_check(BT_ES, 0, 1, BT_ACC_READ, &lin), BT_GP);
}

/* Limits set in protected mode last in real mode, and loads there change only the base. */
static void test_unreal_mode(void **state)
{
    uint64_t lin;

    machine_enter_protected(rig, 0);
    bt_set_cr0(c, BT_CR0_ET);
    assert_int_equal(rig_try(rig, do_seg_load, &(struct seg_args){ BT_DS, 0x1234 }), -1);
    assert_int_equal(c->seg[BT_DS].limit, 0xffffffff);
    assert_int_equal(seg_check(BT_DS, 0x12345678, 4, BT_ACC_WRITE, &lin), -1);
    assert_int_equal(lin, 0x12345678 + 0x12340);
}

/* ---- far transfers ---- */

struct far_args {
    uint16_t sel;
    uint64_t off;
    unsigned size;
};

static void do_call(struct bt_vcpu *cpu, void *arg)
{
    const struct far_args *a = arg;

    bt_far_call(cpu, a->sel, a->off, a->size, 0x7005);
}

static void do_jmp(struct bt_vcpu *cpu, void *arg)
{
    const struct far_args *a = arg;

    bt_far_jmp(cpu, a->sel, a->off, 0x7005);
}

static void do_ret(struct bt_vcpu *cpu, void *arg)
{
    const struct far_args *a = arg;

    bt_far_ret(cpu, a->size, (unsigned)a->off);
}

static void do_iret(struct bt_vcpu *cpu, void *arg)
{
    bt_iret(cpu, *(unsigned *)arg, 0x7002);
}

static void test_far_jmp(void **state)
{
    static const struct {
        unsigned cpl, sel;
        uint64_t off;
        int vector;
        uint32_t error;
    } cases[] = {
        { 0, CODE0, 0x100, -1, 0 },
        { 0, CODE0 | 3, 0x100, BT_GP, CODE0 }, /* RPL > CPL */
        { 3, CODE0, 0x100, BT_GP, CODE0 },
        { 0, CODE3, 0x100, BT_GP, CODE3 },
        { 3, CONFORMING | 3, 0x100, -1, 0 },
        { 0, DATA0, 0x100, BT_GP, DATA0 },
        { 0, 0, 0x100, BT_GP, 0 },
        { 0, GDT_END, 0, BT_GP, GDT_END },
        { 0, ABSENT_CODE, 0, BT_NP, ABSENT_CODE },
        { 0, LDT_SEL, 0, BT_GP, LDT_SEL },
        { 0, TSS_SEL, 0, BT_GP, TSS_SEL }, /* busy */
        { 0, SPARE, 0x1000, BT_GP, 0 },    /* beyond the limit */
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct far_args a = { (uint16_t)cases[i].sel, cases[i].off, 4 };

        machine_enter_protected(rig, cases[i].cpl);
        machine_gdt_put(rig, SPARE, rig_desc(0, 0xfff, 0x9b, 4));
        assert_int_equal(rig_try(rig, do_jmp, &a), cases[i].vector);
        if (cases[i].vector >= 0) {
            assert_int_equal(c->exc.error, cases[i].error);
            assert_int_equal(c->r[BT_RIP], 0x7000);
        } else {
            assert_int_equal(c->r[BT_RIP], cases[i].off);
            assert_int_equal(c->seg[BT_CS].sel, (cases[i].sel & ~3U) | cases[i].cpl);
        }
    }
}

static void call_gate_put(uint16_t sel, uint32_t off, unsigned access, unsigned params)
{
    machine_gdt_put(rig, GATE,
                    (off & 0xffff) | (uint64_t)sel << 16 | (uint64_t)params << 32 | (uint64_t)access << 40 |
                        (uint64_t)(off >> 16) << 48);
    machine_gdt_put(rig, GATE + 8, 0);
}

static void test_call_gate(void **state)
{
    struct far_args call = { GATE | 3, 0xdead, 4 }, ret = { 0, 12, 4 };

    machine_enter_protected(rig, 3);
    call_gate_put(CODE0, HANDLER, 0xec, 3);
    for (unsigned i = 0; i < 3; i++)
        rig_put(rig, STACK3 - 12 + i * 4, 0x100 + i, 4);
    c->r[BT_RSP] = STACK3 - 12;
    assert_int_equal(rig_try(rig, do_call, &call), -1);
    assert_int_equal(c->cpl, 0);
    assert_int_equal(c->r[BT_RIP], HANDLER);
    assert_int_equal(c->r[BT_RSP], STACK0 - 28);
    assert_int_equal(machine_stack(rig, 0, 4), 0x7005);
    assert_int_equal(machine_stack(rig, 1, 4), CODE3 | 3);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(machine_stack(rig, 2 + i, 4), 0x100 + i);
    assert_int_equal(machine_stack(rig, 5, 4), STACK3 - 12);
    assert_int_equal(machine_stack(rig, 6, 4), DATA3 | 3);
    /* RETF 12 back; a data segment of the inner level is taken away. */
    bt_seg_flat(&c->seg[BT_DS], DATA0, 3, 0, false);
    assert_int_equal(rig_try(rig, do_ret, &ret), -1);
    assert_int_equal(c->cpl, 3);
    assert_int_equal(c->r[BT_RIP], 0x7005);
    assert_int_equal(c->r[BT_RSP], STACK3);
    assert_int_equal(c->seg[BT_SS].sel, DATA3 | 3);
    assert_int_equal(c->seg[BT_DS].unusable, 1);
    assert_int_equal(c->seg[BT_ES].unusable, 0);
    /* Gate DPL, and JMP through a gate may not change the level. */
    call_gate_put(CODE0, HANDLER, 0x8c, 0);
    assert_int_equal(rig_try(rig, do_call, &call), BT_GP);
    assert_int_equal(c->exc.error, GATE);
    call_gate_put(CODE0, HANDLER, 0xec, 0);
    assert_int_equal(rig_try(rig, do_jmp, &call), BT_GP);
    assert_int_equal(c->exc.error, CODE0);
    call_gate_put(CODE0, HANDLER, 0x6c, 0);
    assert_int_equal(rig_try(rig, do_call, &call), BT_NP);
    assert_int_equal(c->exc.error, GATE);
}

static void test_call_gate_long(void **state)
{
    struct far_args call = { GATE | 3, 0, 4 }, ret = { 0, 0, 8 };

    machine_enter_long(rig, 3);
    call_gate_put(CODE64, 0x1000, 0xec, 0);
    machine_gdt_put(rig, GATE + 8, 0xffff8000);
    assert_int_equal(rig_try(rig, do_call, &call), -1);
    assert_int_equal(c->r[BT_RIP], 0xffff800000001000);
    assert_int_equal(c->r[BT_RSP], STACK0 - 32);
    assert_int_equal(c->seg[BT_SS].sel, 0);
    assert_int_equal(machine_stack(rig, 0, 8), 0x7005);
    assert_int_equal(machine_stack(rig, 3, 8), DATA3 | 3);
    assert_int_equal(rig_try(rig, do_ret, &ret), -1);
    assert_int_equal(c->cpl, 3);
    assert_int_equal(c->r[BT_RSP], STACK3);
    /* Target must be 64-bit code; type bits of the upper half must be 0; other system types are no gates here. */
    call_gate_put(CODE0, 0x1000, 0xec, 0);
    assert_int_equal(rig_try(rig, do_call, &call), BT_GP);
    assert_int_equal(c->exc.error, CODE0);
    call_gate_put(CODE64, 0x1000, 0xec, 0);
    machine_gdt_put(rig, GATE + 8, 1ULL << 40);
    assert_int_equal(rig_try(rig, do_call, &call), BT_GP);
    assert_int_equal(c->exc.error, GATE);
    call_gate_put(TSS2_SEL, 0, 0xe5, 0);
    assert_int_equal(rig_try(rig, do_call, &call), BT_GP);
}

static void push(uint64_t v, unsigned size)
{
    c->r[BT_RSP] -= size;
    rig_put(rig, c->r[BT_RSP], v, size);
}

static void iret_frame(uint64_t ss, uint64_t sp, uint64_t flags, uint64_t cs, uint64_t ip, unsigned size)
{
    push(ss, size);
    push(sp, size);
    push(flags, size);
    push(cs, size);
    push(ip, size);
}

static void test_iret_protected(void **state)
{
    unsigned size = 4;

    /* To the outer level: all flags from CPL 0. */
    machine_enter_protected(rig, 0);
    iret_frame(DATA3 | 3, 0x5000, BT_IF | BT_IOPL | BT_CF | BT_RF | BT_ID, CODE3 | 3, 0x1234, 4);
    assert_int_equal(rig_try(rig, do_iret, &size), -1);
    assert_int_equal(c->cpl, 3);
    assert_int_equal(c->rflags, 2 | BT_IF | BT_IOPL | BT_CF | BT_RF | BT_ID);
    assert_int_equal(c->r[BT_RSP], 0x5000);
    /* From CPL 3 with IOPL 0: neither IF nor IOPL move. */
    machine_enter_protected(rig, 3);
    c->rflags = 2 | BT_IF;
    push(BT_IOPL | BT_ZF | BT_VM, 4);
    push(CODE3 | 3, 4);
    push(0x4321, 4);
    assert_int_equal(rig_try(rig, do_iret, &size), -1);
    assert_int_equal(c->rflags, 2 | BT_IF | BT_ZF);
    assert_int_equal(c->r[BT_RSP], STACK3);
    /* To an inner level: never. */
    push(2, 4);
    push(CODE0, 4);
    push(0, 4);
    assert_int_equal(rig_try(rig, do_iret, &size), BT_GP);
    assert_int_equal(c->exc.error, CODE0);
    /* SS of the outer frame must fit. */
    machine_enter_protected(rig, 0);
    iret_frame(DATA3, 0x5000, 2, CODE3 | 3, 0x1234, 4);
    assert_int_equal(rig_try(rig, do_iret, &size), BT_GP);
    assert_int_equal(c->exc.error, DATA3);
    assert_int_equal(c->cpl, 0);
}

static void test_iret_long(void **state)
{
    unsigned size = 8;

    /* Same level pops SS:RSP too; a null SS is good. */
    machine_enter_long(rig, 0);
    iret_frame(0, 0x6660, BT_ZF, CODE64, 0x1234, 8);
    assert_int_equal(rig_try(rig, do_iret, &size), -1);
    assert_int_equal(c->r[BT_RSP], 0x6660);
    assert_int_equal(c->seg[BT_SS].unusable, 1);
    /* But not for CPL 3. */
    machine_enter_long(rig, 0);
    iret_frame(3, 0x6660, 2, CODE64_3 | 3, 0x1234, 8);
    assert_int_equal(rig_try(rig, do_iret, &size), BT_GP);
    assert_int_equal(c->exc.error, 0);
    /* Nor for compatibility mode. */
    machine_enter_long(rig, 0);
    iret_frame(0, 0x6660, 2, CODE0, 0x1234, 8);
    assert_int_equal(rig_try(rig, do_iret, &size), BT_GP);
    /* To compatibility mode. */
    machine_enter_long(rig, 0);
    iret_frame(DATA3 | 3, 0x100006660, 2, CODE3 | 3, 0x1234, 8);
    assert_int_equal(rig_try(rig, do_iret, &size), -1);
    assert_int_equal(c->mode, BT_MODE_32);
    assert_int_equal(c->r[BT_RSP], 0x6660);
    /* NT, and a RIP that is not canonical. */
    machine_enter_long(rig, 0);
    c->rflags |= BT_NT;
    iret_frame(0, 0x6660, 2, CODE64, 0x1234, 8);
    assert_int_equal(rig_try(rig, do_iret, &size), BT_GP);
    machine_enter_long(rig, 0);
    iret_frame(0, 0x6660, 2, CODE64, 0x800000000000, 8);
    assert_int_equal(rig_try(rig, do_iret, &size), BT_GP);
    assert_int_equal(c->exc.error, 0);
}

static void do_sysret(struct bt_vcpu *cpu, void *arg)
{
    bt_sysret(cpu, *(bool *)arg);
}

static void do_syscall(struct bt_vcpu *cpu, void *arg)
{
    bt_syscall(cpu, 0x7002);
}

static void test_syscall(void **state)
{
    bool wide = true;

    machine_enter_long(rig, 3);
    c->star = (uint64_t)0x0053 << 48 | (uint64_t)CODE0 << 32;
    c->lstar = 0xffff800000001000;
    c->sfmask = BT_IF | BT_DF;
    c->rflags = 2 | BT_IF | BT_DF | BT_RF | BT_CF;
    assert_int_equal(rig_try(rig, do_syscall, NULL), -1);
    assert_int_equal(c->r[BT_RCX], 0x7002);
    assert_int_equal(c->r[BT_R11], 2 | BT_IF | BT_DF | BT_CF);
    assert_int_equal(c->rflags, 2 | BT_CF);
    assert_int_equal(c->seg[BT_CS].sel, CODE0);
    assert_int_equal(c->seg[BT_SS].sel, CODE0 + 8);
    assert_int_equal(c->cpl, 0);
    assert_int_equal(c->r[BT_RIP], 0xffff800000001000);
    c->r[BT_R11] |= BT_RF | BT_VM;
    assert_int_equal(rig_try(rig, do_sysret, &wide), -1);
    assert_int_equal(c->seg[BT_CS].sel, 0x63);
    assert_int_equal(c->seg[BT_SS].sel, 0x5b);
    assert_int_equal(c->rflags, 2 | BT_IF | BT_DF | BT_CF);
    assert_int_equal(c->cpl, 3);
    assert_int_equal(rig_try(rig, do_sysret, &wide), BT_GP); /* CPL 3 */
    assert_int_equal(c->db_pending, 0);
    /* TF out of R11 traps at once, before the first instruction at CPL 3. */
    c->cpl = 0;
    c->r[BT_R11] |= BT_TF;
    assert_int_equal(rig_try(rig, do_sysret, &wide), -1);
    assert_int_equal(c->dr6_trap, BT_DR6_BS);
    assert_int_equal(c->db_pending, 1);
    c->dr6_trap = c->db_pending = 0;
    /* Intel: the address is checked at CPL 0. */
    machine_enter_long(rig, 0);
    c->r[BT_RCX] = 0x800000000000;
    assert_int_equal(rig_try(rig, do_sysret, &wide), BT_GP);
    assert_int_equal(c->cpl, 0);
    c->efer &= ~BT_EFER_SCE;
    assert_int_equal(rig_try(rig, do_syscall, NULL), BT_UD);
}

static void test_syscall_amd(void **state)
{
    bool wide = true;

    machine_enter_long(rig, 0);
    c->star = (uint64_t)0x0053 << 48;
    c->r[BT_RCX] = 0x800000000000;
    assert_int_equal(rig_try(rig, do_sysret, &wide), -1); /* the fault comes at the fetch */
    assert_int_equal(c->cpl, 3);
    /* From compatibility mode through CSTAR. */
    c->cstar = 0x4000;
    bt_seg_flat(&c->seg[BT_CS], CODE3 | 3, 11, 3, false);
    bt_state_update(c);
    assert_int_equal(rig_try(rig, do_syscall, NULL), -1);
    assert_int_equal(c->r[BT_RIP], 0x4000);
    assert_int_equal(c->mode, BT_MODE_64);
}

/* ---- task switches ---- */

static void tss_fill(void)
{
    rig_put(rig, TSS2 + 28, 0x12345000, 4);
    rig_put(rig, TSS2 + 32, 0x1111, 4);
    rig_put(rig, TSS2 + 36, BT_CF, 4);
    for (unsigned i = 0; i < 8; i++)
        rig_put(rig, TSS2 + 40 + i * 4, 0x100 + i, 4);
    rig_put(rig, TSS2 + 56, 0x8800, 4); /* ESP */
    for (unsigned i = 0; i < 6; i++)
        rig_put(rig, TSS2 + 72 + i * 4, i == BT_CS ? CODE0 : DATA0, 4);
    rig_put(rig, TSS2 + 96, 0, 4);
    rig_put(rig, TSS2 + 100, 0, 4);
}

static void test_task_switch(void **state)
{
    struct far_args a = { TSS2_SEL, 0, 4 };
    unsigned size = 4;

    machine_enter_protected(rig, 0);
    tss_fill();
    c->r[BT_RBX] = 0xbbbb;
    c->rflags = 2 | BT_ZF;
    assert_int_equal(rig_try(rig, do_call, &a), -1);
    assert_int_equal(c->r[BT_RIP], 0x1111);
    assert_int_equal(c->r[BT_RBX], 0x103);
    assert_int_equal(c->r[BT_RSP], 0x8800);
    assert_int_equal(c->rflags, 2 | BT_CF | BT_NT);
    assert_int_equal(c->cr0 & BT_CR0_TS, BT_CR0_TS);
    assert_int_equal(c->tr.sel, TSS2_SEL);
    assert_int_equal(rig_get(rig, TSS2, 2), TSS_SEL);            /* back link */
    assert_int_equal(rig_get(rig, GDT + TSS2_SEL + 5, 1), 0x8b); /* both busy */
    assert_int_equal(rig_get(rig, GDT + TSS_SEL + 5, 1), 0x8b);
    assert_int_equal(rig_get(rig, TSS + 32, 4), 0x7005);
    assert_int_equal(rig_get(rig, TSS + 36, 4), 2 | BT_ZF);
    assert_int_equal(rig_get(rig, TSS + 52, 4), 0xbbbb);
    assert_int_equal(rig_get(rig, TSS + 76, 2), CODE0);
    /* IRET goes back, frees the inner one and clears its NT. */
    assert_int_equal(rig_try(rig, do_iret, &size), -1);
    assert_int_equal(c->r[BT_RIP], 0x7005);
    assert_int_equal(c->r[BT_RBX], 0xbbbb);
    assert_int_equal(c->rflags, 2 | BT_ZF);
    assert_int_equal(c->tr.sel, TSS_SEL);
    assert_int_equal(rig_get(rig, GDT + TSS2_SEL + 5, 1), 0x89);
    assert_int_equal(rig_get(rig, TSS2 + 36, 4), 2 | BT_CF);
    assert_int_equal(rig_get(rig, TSS2 + 32, 4), 0x7002);
    /* JMP frees the old one, sets no link. */
    rig_put(rig, TSS2, 0, 2);
    assert_int_equal(rig_try(rig, do_jmp, &a), -1);
    assert_int_equal(rig_get(rig, GDT + TSS_SEL + 5, 1), 0x89);
    assert_int_equal(rig_get(rig, TSS2, 2), 0);
    assert_int_equal(c->rflags & BT_NT, 0);
}

static void test_task_faults(void **state)
{
    static const struct {
        unsigned at; /* what is spoilt in the new TSS */
        uint32_t value;
        unsigned vector;
        uint32_t error;
    } cases[] = {
        { 76, 0, BT_TS, 0 }, /* CS null */
        { 76, DATA0, BT_TS, DATA0 },
        { 76, CODE0 | 3, BT_TS, CODE0 }, /* DPL is not RPL */
        { 76, ABSENT_CODE, BT_NP, ABSENT_CODE },
        { 80, 0, BT_TS, 0 },
        { 80, DATA3 | 3, BT_TS, DATA3 },
        { 84, GDT_END, BT_TS, GDT_END },
        { 84, EXECONLY, BT_TS, EXECONLY },
        { 84, ABSENT, BT_NP, ABSENT },
        { 96, DATA0, BT_TS, DATA0 }, /* LDT */
        { 96, 4, BT_TS, 4 },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct far_args a = { TSS2_SEL, 0, 4 };

        machine_enter_protected(rig, 0);
        tss_fill();
        rig_put(rig, TSS2 + cases[i].at, cases[i].value, 4);
        assert_int_equal(rig_try(rig, do_jmp, &a), cases[i].vector);
        assert_int_equal(c->exc.error, cases[i].error);
        assert_int_equal(c->tr.sel, TSS2_SEL); /* the fault belongs to the new task */
        assert_int_equal(c->r[BT_RIP], 0x1111);
    }
    /* Before the switch: busy, too short, not present. */
    machine_enter_protected(rig, 0);
    machine_gdt_put(rig, TSS2_SEL, rig_desc((uint32_t)TSS2, 0x66, 0x89, 0));
    assert_int_equal(rig_try(rig, do_jmp, &(struct far_args){ TSS2_SEL, 0, 4 }), BT_TS);
    assert_int_equal(c->exc.error, TSS2_SEL);
    machine_gdt_put(rig, TSS2_SEL, rig_desc((uint32_t)TSS2, 0x67, 0x09, 0));
    assert_int_equal(rig_try(rig, do_jmp, &(struct far_args){ TSS2_SEL, 0, 4 }), BT_NP);
    assert_int_equal(c->tr.sel, TSS_SEL);
}

/* A fault through a task gate: the error code is on the new task's stack, the old TSS has RF set. */
static void test_task_gate_exception(void **state)
{
    machine_enter_protected(rig, 0);
    tss_fill();
    rig_put(rig, TSS2 + 100, 1, 2); /* T */
    machine_gate_put(rig, BT_GP, TSS2_SEL, 0, 0x85, 0);
    machine_deliver(rig, BT_GP, true, 0x77, 0, 0);
    assert_int_equal(c->tr.sel, TSS2_SEL);
    assert_int_equal(c->r[BT_RSP], 0x8800 - 4);
    assert_int_equal(machine_stack(rig, 0, 4), 0x77);
    assert_int_equal(rig_get(rig, TSS + 36, 4), 2 | BT_RF);
    assert_int_equal(rig_get(rig, TSS + 32, 4), 0x7000);
    assert_int_equal(c->rflags & BT_NT, BT_NT);
    assert_int_equal(c->db_pending, 1);
    assert_int_equal(c->dr6_trap, BT_DR6_BT);
}

/* ---- control registers, MSRs, tables ---- */

struct cr_args {
    unsigned cr;
    uint64_t value;
};

static void do_set_cr(struct bt_vcpu *cpu, void *arg)
{
    const struct cr_args *a = arg;

    if (a->cr == 0)
        bt_set_cr0(cpu, a->value);
    else if (a->cr == 3)
        bt_set_cr3(cpu, a->value);
    else
        bt_set_cr4(cpu, a->value);
}

static int set_cr(unsigned cr, uint64_t value)
{
    return rig_try(rig, do_set_cr, &(struct cr_args){ cr, value });
}

static void test_control_registers(void **state)
{
    machine_enter_protected(rig, 0);
    assert_int_equal(set_cr(0, BT_CR0_PG), BT_GP);             /* PG without PE */
    assert_int_equal(set_cr(0, BT_CR0_PE | BT_CR0_NW), BT_GP); /* NW without CD */
    assert_int_equal(set_cr(0, 1ULL << 32 | BT_CR0_PE), BT_GP);
    assert_int_equal(set_cr(0, BT_CR0_PE | 1 << 6), -1); /* reserved low bits are ignored */
    assert_int_equal(c->cr0, BT_CR0_PE | BT_CR0_ET);
    assert_int_equal(set_cr(4, BIT64(13)), BT_GP); /* VMXE: not offered */
    assert_int_equal(set_cr(4, BIT64(0)), BT_GP);  /* VME: not offered */
    assert_int_equal(set_cr(4, BIT64(31)), BT_GP);
    assert_int_equal(set_cr(4, BT_CR4_PCIDE), BT_GP); /* outside long mode */
    c->efer = BT_EFER_LME;
    c->cr3 = 0x20000;
    assert_int_equal(set_cr(0, BT_CR0_PE | BT_CR0_PG), BT_GP); /* LME without PAE */
    assert_int_equal(set_cr(4, BT_CR4_PAE), -1);
    c->seg[BT_CS].l = 1;
    assert_int_equal(set_cr(0, BT_CR0_PE | BT_CR0_PG), BT_GP); /* CS.L */
    c->seg[BT_CS].l = 0;
    assert_int_equal(set_cr(0, BT_CR0_PE | BT_CR0_PG), -1);
    assert_true(BT_LONG_MODE(c));
    assert_int_equal(set_cr(4, 0), BT_GP); /* PAE must stay */
    assert_int_equal(set_cr(3, 1ULL << 46), BT_GP);
    assert_int_equal(set_cr(3, 1ULL << 63), BT_GP); /* without PCIDE */
    assert_int_equal(set_cr(3, 0x20123), -1);
    assert_int_equal(set_cr(4, BT_CR4_PAE | BT_CR4_PCIDE), BT_GP); /* CR3[11:0] not 0 */
    assert_int_equal(set_cr(3, 0x20000), -1);
    assert_int_equal(set_cr(4, BT_CR4_PAE | BT_CR4_PCIDE), -1);
    assert_int_equal(set_cr(3, 1ULL << 63 | 0x20005), -1);
    assert_int_equal(c->cr3, 0x20005);
    assert_int_equal(set_cr(0, BT_CR0_PE), BT_GP); /* PCIDE */
    assert_int_equal(set_cr(4, BT_CR4_PAE), -1);
    assert_int_equal(set_cr(0, BT_CR0_PE), -1);
    assert_false(BT_LONG_MODE(c));
    machine_enter_long(rig, 0);
    assert_int_equal(set_cr(0, BT_CR0_PE), BT_GP); /* leaving paging from 64-bit code */
}

static void test_msrs(void **state)
{
    static const uint32_t addresses[] = { 0x175, 0x176, 0xc0000082, 0xc0000083, 0xc0000100, 0xc0000101, 0xc0000102 };
    uint64_t v;

    for (unsigned i = 0; i < ARRAY_SIZE(addresses); i++) {
        assert_false(bt_msr_write(c, addresses[i], 0x800000000000, false));
        assert_true(bt_msr_write(c, addresses[i], 0xffff800000000000, false));
        assert_true(bt_msr_read(c, addresses[i], &v, false));
        assert_int_equal(v, 0xffff800000000000);
    }
    assert_false(bt_msr_read(c, 0x12345, &v, false));
    assert_false(bt_msr_write(c, 0x12345, 0, false));
    assert_false(bt_msr_write(c, 0xc0000103, 1ULL << 32, false)); /* TSC_AUX */
    assert_false(bt_msr_write(c, 0x277, 0x02, false));            /* PAT: type 2 is reserved */
    assert_true(bt_msr_write(c, 0x277, 0x0007010600070106, false));
    assert_false(bt_msr_write(c, 0x2ff, 0x300, false)); /* MTRRdefType: reserved bits */
    assert_false(bt_msr_write(c, 0x2ff, 2, false));
    assert_true(bt_msr_write(c, 0x2ff, 0xc06, false));
    assert_false(bt_msr_write(c, 0x201, 1ULL << 46, false)); /* beyond the physical address */
    assert_true(bt_msr_write(c, 0x201, 0x3fffc0000800, false));
    assert_false(bt_msr_write(c, 0x250, 0x0606060606060602, false));
    assert_false(bt_msr_write(c, 0x10a, 0, false)); /* ARCH_CAPABILITIES is read-only */
    assert_false(bt_msr_write(c, 0x3a, 5, false));  /* FEATURE_CONTROL is locked */
    assert_false(bt_msr_read(c, 0x49, &v, false));  /* PRED_CMD is write-only */
    assert_true(bt_msr_write(c, 0x49, 1, false));
    assert_false(bt_msr_write(c, 0x48, 1ULL << 20, false));
    assert_false(bt_msr_write(c, 0xc0000080, 1ULL << 1, false)); /* EFER: reserved */
    assert_true(bt_msr_write(c, 0xc0000080, 0xd01, false));
    assert_int_equal(c->efer, 0x901); /* LMA cannot be set */
    machine_enter_long(rig, 0);
    assert_false(bt_msr_write(c, 0xc0000080, 1, false)); /* LME while paging */
}

static void test_tsc_adjust(void **state)
{
    uint64_t v, before = bt_tsc(c);

    assert_true(bt_msr_write(c, 0x3b, 1ULL << 50, false));
    assert_true(bt_tsc(c) - before >= 1ULL << 50);
    assert_true(bt_msr_write(c, 0x10, 0, false));
    assert_true(bt_tsc(c) < 1ULL << 49);
    assert_true(bt_msr_read(c, 0x3b, &v, false));
    assert_int_equal(v, c->tsc_offset); /* both began at 0 */
}

static void do_io_check(struct bt_vcpu *cpu, void *arg)
{
    const struct far_args *a = arg;

    bt_io_check(cpu, (uint16_t)a->off, a->size);
}

static int io_check(uint16_t port, unsigned len)
{
    return rig_try(rig, do_io_check, &(struct far_args){ 0, port, len });
}

static void test_io_bitmap(void **state)
{
    machine_enter_protected(rig, 3);
    c->tr.limit = 0x68 + 0x10; /* ports 0..7fh and the byte of ones behind */
    rig_put(rig, TSS + 102, 0x68, 2);
    for (unsigned i = 0; i <= 0x10; i++)
        rig_put(rig, TSS + 0x68 + i, i == 2 ? 0x80 : 0, 1); /* port 17h is closed */
    assert_int_equal(io_check(0x16, 1), -1);
    assert_int_equal(io_check(0x17, 1), BT_GP);
    assert_int_equal(io_check(0x16, 2), BT_GP);
    assert_int_equal(io_check(0x14, 4), BT_GP);
    assert_int_equal(io_check(0x18, 4), -1);
    assert_int_equal(io_check(0x7f, 1), -1);
    assert_int_equal(io_check(0x80, 1), BT_GP); /* its second byte is beyond the limit */
    c->rflags |= BT_IOPL;
    assert_int_equal(io_check(0x17, 1), -1);
    c->rflags |= BT_VM; /* IOPL does not help there */
    assert_int_equal(io_check(0x17, 1), BT_GP);
    c->rflags = 2;
    c->tr.type = BT_SYS_TSS16_BUSY;
    assert_int_equal(io_check(0x16, 1), BT_GP);
}

static void test_reset(void **state)
{
    machine_enter_long(rig, 0);
    c->pat = 0x0606060606060606;
    c->cr0 |= BT_CR0_CD;
    bt_vcpu_init(c);
    assert_int_equal(c->cr0, 0x40000010); /* CD survives INIT */
    assert_int_equal(c->pat, 0x0606060606060606);
    assert_int_equal(c->efer, 0);
    assert_int_equal(c->seg[BT_CS].sel, 0xf000);
    assert_int_equal(c->seg[BT_CS].base, 0xffff0000);
    assert_int_equal(c->r[BT_RIP], 0xfff0);
    assert_int_equal(c->rflags, 2);
    assert_int_equal(c->mode, BT_MODE_16);
    assert_int_equal(c->dr[6], 0xffff0ff0);
    bt_vcpu_sipi(c, 0x9a);
    assert_int_equal(c->seg[BT_CS].sel, 0x9a00);
    assert_int_equal(c->seg[BT_CS].base, 0x9a000);
    assert_int_equal(c->r[BT_RIP], 0);
    bt_vcpu_reset(c);
    assert_int_equal(c->cr0, 0x60000010);
    assert_int_equal(c->pat, 0x0007040600070406);
}

static void test_cpuid(void **state)
{
    uint32_t r[4];

    bt_cpuid(c, 1, 0, r);
    assert_false(r[2] & BIT(27)); /* OSXSAVE follows CR4 */
    machine_enter_protected(rig, 0);
    assert_int_equal(set_cr(4, BT_CR4_OSXSAVE), -1);
    bt_cpuid(c, 1, 0, r);
    assert_true(r[2] & BIT(27));
    assert_true(r[2] & BIT(31));
    bt_cpuid(c, 0xd, 0, r);
    assert_int_equal(r[1], 576);
    c->xcr0 = 7;
    bt_cpuid(c, 0xd, 0, r);
    assert_int_equal(r[1], 832);
    /* Beyond the last leaf, this vendor repeats it. */
    bt_cpuid(c, 0x3fffffff, 0, r);
    assert_int_equal(r[3], 0);
    bt_cpuid(c, 0x80000008, 0, r);
    assert_int_equal(r[0], 48 << 8 | 46);
    c->vm->tsc_khz = 2596126;
    bt_cpuid(c, 0x15, 0, r);
    assert_true(r[0] > 0 && r[1] > 0);
    assert_in_range((uint64_t)r[2] * r[1] / r[0] / 1000, 2596126 - 30, 2596126 + 30);
}

static int setup(void **state)
{
    rig = rig_new(false);
    c = rig->c;
    return 0;
}

static int setup_amd(void **state)
{
    rig = rig_new(true);
    c = rig->c;
    return 0;
}

static int teardown(void **state)
{
    rig_free(rig);
    return 0;
}

#define SYS_TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        SYS_TEST(test_seg_load),
        SYS_TEST(test_seg_load_long),
        SYS_TEST(test_seg_limits),
        SYS_TEST(test_unreal_mode),
        SYS_TEST(test_far_jmp),
        SYS_TEST(test_call_gate),
        SYS_TEST(test_call_gate_long),
        SYS_TEST(test_iret_protected),
        SYS_TEST(test_iret_long),
        SYS_TEST(test_syscall),
        cmocka_unit_test_setup_teardown(test_syscall_amd, setup_amd, teardown),
        SYS_TEST(test_task_switch),
        SYS_TEST(test_task_faults),
        SYS_TEST(test_task_gate_exception),
        SYS_TEST(test_control_registers),
        SYS_TEST(test_msrs),
        SYS_TEST(test_tsc_adjust),
        SYS_TEST(test_io_bitmap),
        SYS_TEST(test_reset),
        SYS_TEST(test_cpuid),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
