/* Delivery of exceptions and interrupts in the interpreter: frames, error codes, double and triple faults, debug traps,
 * in real, protected, virtual-8086 and long mode. Expected values are those of SDM volume 3, chapters 6 and 17. */
#include "bt_machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

static struct bt_rig *rig;
static struct bt_vcpu *c;

/* ---- exception delivery ---- */

static void test_real_mode_exception(void **state)
{
    c->r[BT_RSP] = 0x10008000;
    c->seg[BT_CS].sel = 0xf000;
    c->r[BT_RIP] = 0x1234;
    c->idt.limit = 0x3ff;
    c->rflags = 2 | BT_IF | BT_TF | BT_AC | BT_CF;
    rig_put(rig, 6 * 4, 0x20001111, 4);
    machine_deliver(rig, BT_UD, false, 0, 0, 0);
    assert_int_equal(c->r[BT_RSP], 0x10007ffa);
    assert_int_equal(rig_get(rig, 0x7ffa, 2), 0x1234);
    assert_int_equal(rig_get(rig, 0x7ffc, 2), 0xf000);
    assert_int_equal(rig_get(rig, 0x7ffe, 2), 2 | BT_IF | BT_TF | BT_CF);
    assert_int_equal(c->r[BT_RIP], 0x1111);
    assert_int_equal(c->seg[BT_CS].sel, 0x2000);
    assert_int_equal(c->seg[BT_CS].base, 0x20000);
    assert_int_equal(c->rflags, 2 | BT_CF);
    /* No error code in real mode. */
    c->r[BT_RSP] = 0x8000;
    rig_put(rig, 13 * 4, 0x20002222, 4);
    machine_deliver(rig, BT_GP, true, 0x55, 0, 0);
    assert_int_equal(c->r[BT_RSP], 0x7ffa);
    /* An IVT that is too short: #GP cannot be delivered either, nor #DF: shutdown. */
    c->idt.limit = 3;
    machine_deliver(rig, BT_UD, false, 0, 0, 0);
    assert_int_equal(c->shutdown, 1);
}

static void test_protected_same_level(void **state)
{
    machine_enter_protected(rig, 0);
    c->rflags = 2 | BT_IF | BT_TF | BT_NT | BT_ZF;
    machine_gate_put(rig, BT_GP, CODE0, HANDLER, 0x8e, 0);
    machine_deliver(rig, BT_GP, true, 0x1234, 0, 0);
    assert_int_equal(c->r[BT_RSP], STACK0 - 16);
    assert_int_equal(machine_stack(rig, 0, 4), 0x1234);
    assert_int_equal(machine_stack(rig, 1, 4), 0x7000);
    assert_int_equal(machine_stack(rig, 2, 4), CODE0);
    assert_int_equal(machine_stack(rig, 3, 4), 2 | BT_IF | BT_TF | BT_NT | BT_ZF | BT_RF); /* a fault: RF */
    assert_int_equal(c->rflags, 2 | BT_ZF);
    assert_int_equal(c->r[BT_RIP], HANDLER);
    /* A trap gate leaves IF; INT3 is a trap: no RF; 16-bit gates push words and have 16-bit offsets. */
    machine_enter_protected(rig, 0);
    c->rflags = 2 | BT_IF;
    machine_gate_put(rig, BT_BP, CODE0, HANDLER, 0x87, 0);
    machine_deliver(rig, BT_BP, false, 0, BT_SOFT_INT, 0x7001);
    assert_int_equal(c->r[BT_RSP], STACK0 - 6);
    assert_int_equal(machine_stack(rig, 0, 2), 0x7001);
    assert_int_equal(machine_stack(rig, 2, 2), 2 | BT_IF);
    assert_int_equal(c->r[BT_RIP], HANDLER & 0xffff);
    assert_int_equal(c->rflags, 2 | BT_IF);
}

static void test_protected_inner(void **state)
{
    machine_enter_protected(rig, 3);
    c->rflags = 2 | BT_IF;
    machine_gate_put(rig, BT_PFV, CODE0, HANDLER, 0x8e, 0);
    machine_deliver(rig, BT_PFV, true, 7, 0, 0xabc000);
    assert_int_equal(c->cpl, 0);
    assert_int_equal(c->cr2, 0xabc000);
    assert_int_equal(c->seg[BT_SS].sel, DATA0);
    assert_int_equal(c->seg[BT_CS].sel, CODE0);
    assert_int_equal(c->r[BT_RSP], STACK0 - 24);
    assert_int_equal(machine_stack(rig, 0, 4), 7);
    assert_int_equal(machine_stack(rig, 2, 4), CODE3 | 3);
    assert_int_equal(machine_stack(rig, 4, 4), STACK3);
    assert_int_equal(machine_stack(rig, 5, 4), DATA3 | 3);
    assert_int_equal(c->ctx, BT_CTX_KERNEL);
}

/* What a bad gate or target raises while vector is delivered; the handler of that fault is good. */
struct bad_delivery {
    uint16_t sel;
    unsigned access;
    uint8_t soft;
    unsigned vector;
    uint32_t error;
};

static void test_delivery_faults(void **state)
{
    static const struct bad_delivery cases[] = {
        { CODE0, 0x0e, BT_SOFT_NONE, BT_NP, 0x40 * 8 + 2 + 1 }, /* gate not present */
        { CODE0, 0x0e, BT_SOFT_INT, BT_GP, 0x40 * 8 + 2 },      /* INT n: DPL first, and no EXT */
        { CODE0, 0x6e, BT_SOFT_INT, BT_NP, 0x40 * 8 + 2 },
        { CODE0, 0x8e, BT_SOFT_INT, BT_GP, 0x40 * 8 + 2 },      /* DPL 0 from CPL 3 */
        { CODE0, 0x8c, BT_SOFT_NONE, BT_GP, 0x40 * 8 + 2 + 1 }, /* a call gate */
        { CODE0, 0x9e, BT_SOFT_NONE, BT_GP, 0x40 * 8 + 2 + 1 }, /* S = 1 */
        { 0, 0x8e, BT_SOFT_NONE, BT_GP, 1 },                    /* null CS: EXT alone */
        { DATA0, 0x8e, BT_SOFT_NONE, BT_GP, DATA0 + 1 },
        { GDT_END, 0xee, BT_SOFT_INT, BT_GP, GDT_END },
        { ABSENT_CODE, 0x8e, BT_SOFT_NONE, BT_NP, ABSENT_CODE + 1 },
        { ABSENT_CODE, 0xee, BT_SOFT_INT, BT_NP, ABSENT_CODE },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        machine_enter_protected(rig, 3);
        machine_gate_put(rig, 0x40, cases[i].sel, HANDLER, cases[i].access, 0);
        machine_gate_put(rig, BT_GP, CODE0, 0x1000, 0x8e, 0);
        machine_gate_put(rig, BT_NP, CODE0, 0x2000, 0x8e, 0);
        assert_int_equal(machine_deliver(rig, 0x40, false, 0, cases[i].soft, 0x7002), 2);
        assert_int_equal(c->r[BT_RIP], cases[i].vector == BT_GP ? 0x1000 : 0x2000);
        assert_int_equal(machine_stack(rig, 0, 4), cases[i].error);
        assert_int_equal(machine_stack(rig, 1, 4), 0x7000); /* the interrupted instruction, not the one behind INT n */
    }
}

static void test_bad_stacks(void **state)
{
    static const struct {
        uint32_t ss;
        uint32_t tss_limit;
        unsigned vector;
        uint32_t error;
    } cases[] = {
        { 0, 0x67, BT_TS, 1 },
        { DATA0 | 3, 0x67, BT_TS, DATA0 + 1 }, /* RPL */
        { DATA3, 0x67, BT_TS, DATA3 + 1 },     /* DPL */
        { CODE0, 0x67, BT_TS, CODE0 + 1 },
        { GDT_END, 0x67, BT_TS, GDT_END + 1 },
        { SPARE, 0x67, BT_SSV, SPARE + 1 },  /* not present */
        { DATA0, 0x0a, BT_TS, TSS_SEL + 1 }, /* no room for SS0 */
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        machine_enter_protected(rig, 3);
        machine_gdt_put(rig, SPARE, rig_desc(0, 0xfffff, 0x13, 0xc));
        rig_put(rig, TSS + 8, cases[i].ss, 4);
        c->tr.limit = cases[i].tss_limit;
        machine_gate_put(rig, BT_UD, CODE0, HANDLER, 0x8e, 0);
        /* The second fault's handler runs at the present level, so that it needs no stack. */
        machine_gate_put(rig, BT_TS, CODE3, 0x1000, 0x8e, 0);
        machine_gate_put(rig, BT_SSV, CODE3, 0x2000, 0x8e, 0);
        assert_int_equal(machine_deliver(rig, BT_UD, false, 0, 0, 0), 2);
        assert_int_equal(c->r[BT_RIP], cases[i].vector == BT_TS ? 0x1000 : 0x2000);
        assert_int_equal(machine_stack(rig, 0, 4), cases[i].error);
    }
}

/* SDM vol. 3, table 6-5. */
static void test_double_fault(void **state)
{
    static const struct {
        unsigned first;
        bool first_error;
        unsigned bad_access; /* of the first's gate */
        int end;             /* vector that is delivered at last, -1: shutdown */
    } cases[] = {
        { BT_GP, true, 0x0e, BT_DFV },                                  /* contributory, then #NP */
        { BT_DE, false, 0x0e, BT_DFV }, { BT_PFV, true, 0x0e, BT_DFV }, /* page fault, then #NP */
        { BT_UD, false, 0x0e, BT_NP },                                  /* benign: one after the other */
        { BT_DFV, true, 0x0e, -1 },     { BT_ACV, true, 0x0e, BT_NP },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        machine_enter_protected(rig, 0);
        c->shutdown = 0;
        machine_gate_put(rig, BT_NP, CODE0, BT_NP << 8, 0x8e, 0);
        machine_gate_put(rig, BT_DFV, CODE0, BT_DFV << 8, 0x8e, 0);
        machine_gate_put(rig, cases[i].first, CODE0, 0, cases[i].bad_access, 0);
        machine_deliver(rig, cases[i].first, cases[i].first_error, 0, 0, 0);
        if (cases[i].end < 0) {
            assert_int_equal(c->shutdown, 1);
            continue;
        }
        assert_int_equal(c->shutdown, 0);
        assert_int_equal(c->r[BT_RIP], cases[i].end << 8);
        if (cases[i].end == BT_DFV)
            assert_int_equal(machine_stack(rig, 0, 4), 0);
        assert_int_equal(c->in_delivery, 0);
    }
}

static void test_v86_exception(void **state)
{
    static const uint16_t sels[] = {
        [BT_ES] = 0x1000, [BT_CS] = 0x2000, [BT_SS] = 0x800, [BT_DS] = 0x4000, [BT_FS] = 0x5000, [BT_GS] = 0x6000
    };

    machine_enter_protected(rig, 3);
    c->rflags = 2 | BT_VM | BT_IF | BT_IOPL;
    for (unsigned i = 0; i < 6; i++)
        bt_seg_real(&c->seg[i], sels[i], true);
    bt_state_update(c);
    assert_int_equal(c->mode, BT_MODE_16);
    c->r[BT_RSP] = 0x100;
    machine_gate_put(rig, BT_GP, CODE0, HANDLER, 0x8e, 0);
    machine_deliver(rig, BT_GP, true, 0, 0, 0);
    assert_int_equal(c->cpl, 0);
    assert_int_equal(c->rflags & BT_VM, 0);
    assert_int_equal(c->r[BT_RSP], STACK0 - 40);
    assert_int_equal(machine_stack(rig, 2, 4), 0x2000);
    assert_int_equal(machine_stack(rig, 3, 4), 2 | BT_VM | BT_IF | BT_IOPL | BT_RF);
    assert_int_equal(machine_stack(rig, 4, 4), 0x100);
    assert_int_equal(machine_stack(rig, 5, 4), 0x800);
    assert_int_equal(machine_stack(rig, 6, 4), 0x1000);
    assert_int_equal(machine_stack(rig, 7, 4), 0x4000);
    assert_int_equal(machine_stack(rig, 8, 4), 0x5000);
    assert_int_equal(machine_stack(rig, 9, 4), 0x6000);
    assert_int_equal(c->seg[BT_DS].unusable, 1);
    assert_int_equal(c->seg[BT_DS].sel, 0);
    /* Back again. */
    c->r[BT_RSP] += 4;
    bt_iret(c, 4, 0);
    assert_int_equal(c->cpl, 3);
    assert_int_equal(c->rflags, 2 | BT_VM | BT_IF | BT_IOPL | BT_RF);
    for (unsigned i = 0; i < 6; i++) {
        assert_int_equal(c->seg[i].sel, sels[i]);
        assert_int_equal(c->seg[i].base, sels[i] << 4);
        assert_int_equal(c->seg[i].limit, 0xffff);
    }
    /* A handler at another level than 0 is not allowed from virtual-8086 mode. */
    machine_gate_put(rig, BT_GP, CODE0, HANDLER, 0x8e, 0);
    machine_gate_put(rig, BT_UD, CODE3, 0x5000, 0x8e, 0);
    machine_deliver(rig, BT_UD, false, 0, 0, 0);
    assert_int_equal(c->r[BT_RIP], HANDLER);
    assert_int_equal(machine_stack(rig, 0, 4), CODE3 + 1);
}

static void test_long_exception(void **state)
{
    /* Same level: SS and RSP are pushed all the same, and the frame is aligned to 16. */
    machine_enter_long(rig, 0);
    c->r[BT_RSP] = 0x8ff3;
    machine_gate_put(rig, BT_UD, CODE64, 0xffff800000001000, 0x8e, 0);
    machine_deliver(rig, BT_UD, false, 0, 0, 0);
    assert_int_equal(c->r[BT_RSP], 0x8ff0 - 40);
    assert_int_equal(machine_stack(rig, 0, 8), 0x7000);
    assert_int_equal(machine_stack(rig, 1, 8), CODE64);
    assert_int_equal(machine_stack(rig, 2, 8), 2 | BT_RF);
    assert_int_equal(machine_stack(rig, 3, 8), 0x8ff3);
    assert_int_equal(machine_stack(rig, 4, 8), DATA0);
    assert_int_equal(c->seg[BT_SS].sel, DATA0);
    assert_int_equal(c->r[BT_RIP], 0xffff800000001000);
    /* Inner level: SS becomes null with RPL = CPL. */
    machine_enter_long(rig, 3);
    machine_gate_put(rig, BT_GP, CODE64, HANDLER, 0x8e, 0);
    machine_deliver(rig, BT_GP, true, 0x10, 0, 0);
    assert_int_equal(c->r[BT_RSP], STACK0 - 48);
    assert_int_equal(machine_stack(rig, 0, 8), 0x10);
    assert_int_equal(machine_stack(rig, 5, 8), DATA3 | 3);
    assert_int_equal(c->seg[BT_SS].sel, 0);
    assert_int_equal(c->cpl, 0);
    /* IST. */
    machine_enter_long(rig, 0);
    rig_put(rig, TSS + 36 + 2 * 8, 0x6008, 8);
    machine_gate_put(rig, BT_NMI, CODE64, HANDLER, 0x8e, 3);
    bt_deliver_interrupt(c, BT_NMI, true);
    assert_int_equal(c->r[BT_RSP], 0x6000 - 40);
    assert_int_equal(c->nmi_blocked, 1);
    assert_int_equal(machine_stack(rig, 2, 8), 2); /* no RF: not a fault */
    bt_iret(c, 8, 0);
    assert_int_equal(c->nmi_blocked, 0);
    assert_int_equal(c->r[BT_RSP], STACK0);
}

static void test_long_delivery_faults(void **state)
{
    static const struct {
        uint16_t sel;
        unsigned access;
        uint64_t offset;
        unsigned vector;
        uint32_t error;
    } cases[] = {
        { CODE0, 0x8e, HANDLER, BT_GP, CODE0 + 1 },         /* not 64-bit code */
        { CODE64, 0x85, HANDLER, BT_GP, 0x40 * 8 + 2 + 1 }, /* task gate */
        { CODE64, 0x86, HANDLER, BT_GP, 0x40 * 8 + 2 + 1 }, /* 16-bit gate */
        { CODE64, 0x0e, HANDLER, BT_NP, 0x40 * 8 + 2 + 1 },
        { CODE64, 0x8e, 0x800000000000, BT_GP, 1 }, /* not canonical */
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        machine_enter_long(rig, 0);
        machine_gate_put(rig, 0x40, cases[i].sel, cases[i].offset, cases[i].access, 0);
        machine_gate_put(rig, BT_GP, CODE64, 0x1000, 0x8e, 0);
        machine_gate_put(rig, BT_NP, CODE64, 0x2000, 0x8e, 0);
        machine_deliver(rig, 0x40, false, 0, 0, 0);
        assert_int_equal(c->r[BT_RIP], cases[i].vector == BT_GP ? 0x1000 : 0x2000);
        assert_int_equal(machine_stack(rig, 0, 8), cases[i].error);
    }
    /* A stack that is not canonical: #SS, which needs a good stack itself. */
    machine_enter_long(rig, 0);
    c->r[BT_RSP] = 0x800000000100;
    rig_put(rig, TSS + 36, 0x6000, 8);
    machine_gate_put(rig, BT_UD, CODE64, HANDLER, 0x8e, 0);
    machine_gate_put(rig, BT_SSV, CODE64, 0x3000, 0x8e, 1);
    machine_deliver(rig, BT_UD, false, 0, 0, 0);
    assert_int_equal(c->r[BT_RIP], 0x3000);
    assert_int_equal(machine_stack(rig, 0, 8), 1);
}

static void do_step_before(struct bt_vcpu *cpu, void *arg)
{
    bt_step_before(cpu);
}

static void do_step_after(struct bt_vcpu *cpu, void *arg)
{
    bt_step_after(cpu);
}

static void test_debug_traps(void **state)
{
    machine_enter_protected(rig, 0);
    /* TF: the trap comes behind the instruction at whose beginning it was set. */
    bt_rflags_write(c, BT_TF, BT_TF);
    assert_true(atomic_load(&c->events) & BT_EV_STEP);
    assert_int_equal(rig_try(rig, do_step_before, NULL), -1);
    assert_int_equal(rig_try(rig, do_step_after, NULL), BT_DB);
    assert_int_equal(c->exc.payload, BT_DR6_BS);
    /* MOV SS puts it off for good, and data breakpoints to the next instruction. */
    assert_int_equal(rig_try(rig, do_step_before, NULL), -1);
    c->shadow = BT_SHADOW_MOVSS;
    c->db_pending = 1;
    c->dr6_trap = 2;
    assert_int_equal(rig_try(rig, do_step_after, NULL), -1);
    assert_int_equal(rig_try(rig, do_step_before, NULL), -1);
    c->shadow = 0;
    assert_int_equal(rig_try(rig, do_step_after, NULL), BT_DB);
    assert_int_equal(c->exc.payload, BT_DR6_BS | 2);
    assert_int_equal(c->db_pending, 0);
    /* Instruction breakpoints: not under RF (which they clear), not behind MOV SS. */
    bt_rflags_write(c, 0, BT_TF);
    c->dr[1] = 0x7000;
    c->dr[7] = 0x404; /* L1, execute */
    bt_debug_update(c);
    assert_int_equal(rig_try(rig, do_step_before, NULL), BT_DB);
    assert_int_equal(c->exc.payload, 2);
    c->rflags |= BT_RF;
    assert_int_equal(rig_try(rig, do_step_before, NULL), -1);
    assert_int_equal(c->rflags & BT_RF, 0);
    c->shadow = BT_SHADOW_MOVSS;
    assert_int_equal(rig_try(rig, do_step_before, NULL), -1);
    c->shadow = 0;
    c->dr[7] = 0x400;
    bt_debug_update(c);
    assert_int_equal(rig_try(rig, do_step_before, NULL), -1);
    assert_int_equal(rig_try(rig, do_step_after, NULL), -1);
    assert_false(atomic_load(&c->events) & BT_EV_STEP);
}

/* #DB sets DR6 at delivery, clears GD, and pushes RF only for general detect. */
static void test_debug_delivery(void **state)
{
    machine_enter_protected(rig, 0);
    machine_gate_put(rig, BT_DB, CODE0, HANDLER, 0x8e, 0);
    c->dr[6] = BT_DR6_FIXED | 8;
    c->dr[7] = 0x400 | 1 << 13;
    machine_deliver(rig, BT_DB, false, 0, 0, BT_DR6_BD);
    assert_int_equal(c->dr[6], BT_DR6_FIXED | BT_DR6_BD);
    assert_int_equal(c->dr[7], 0x400);
    assert_int_equal(machine_stack(rig, 2, 4), 2 | BT_RF);
    machine_enter_protected(rig, 0);
    machine_deliver(rig, BT_DB, false, 0, 0, BT_DR6_BS);
    assert_int_equal(machine_stack(rig, 2, 4), 2);
    /* INT1 is no debug condition. */
    machine_enter_protected(rig, 3);
    c->dr[6] = BT_DR6_FIXED;
    machine_deliver(rig, BT_DB, false, 0, BT_SOFT_INT1, 0x7001);
    assert_int_equal(c->dr[6], BT_DR6_FIXED);
    assert_int_equal(machine_stack(rig, 0, 4), 0x7001);
    assert_int_equal(c->cpl, 0); /* although the gate's DPL is 0 */
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

#define EXC_TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        EXC_TEST(test_real_mode_exception), EXC_TEST(test_protected_same_level), EXC_TEST(test_protected_inner),
        EXC_TEST(test_delivery_faults),     EXC_TEST(test_bad_stacks),           EXC_TEST(test_double_fault),
        EXC_TEST(test_v86_exception),       EXC_TEST(test_long_exception),       EXC_TEST(test_long_delivery_faults),
        EXC_TEST(test_debug_traps),         EXC_TEST(test_debug_delivery),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
