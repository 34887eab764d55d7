/* Far JMP, CALL and RET in all modes, through code segments, call gates, task gates and TSSs, with stack switches.
 * Everything is checked and pushed before a register changes. IRET is in iret.c, task switches in task.c. */
#include "cpu/bt/far_priv.h"

/* ---- stacks of inner levels ---- */

void bt_tss_stack(struct bt_vcpu *c, unsigned cpl, uint16_t *ret_ss, uint32_t *ret_sp)
{
    bool wide = (c->tr.type & 8) != 0;
    unsigned at = wide ? cpl * 8 + 4 : cpl * 4 + 2;
    uint64_t lin = bt_table_lin(c, c->tr.base, at);

    if (at + (wide ? 7 : 3) > c->tr.limit)
        bt_raise_error(c, BT_TS, c->tr.sel & ~3U);
    if (wide) {
        *ret_sp = bt_ld32_ctx(c, BT_CTX_KERNEL, lin, BT_NOSEG);
        *ret_ss = bt_ld16_ctx(c, BT_CTX_KERNEL, lin + 4, BT_NOSEG);
    } else {
        *ret_sp = bt_ld16_ctx(c, BT_CTX_KERNEL, lin, BT_NOSEG);
        *ret_ss = bt_ld16_ctx(c, BT_CTX_KERNEL, lin + 2, BT_NOSEG);
    }
}

uint64_t bt_tss_stack64(struct bt_vcpu *c, unsigned index)
{
    unsigned at = index * 8 + 4;

    if (at + 7 > c->tr.limit)
        bt_raise_error(c, BT_TS, c->tr.sel & ~3U);
    return bt_ld64_ctx(c, BT_CTX_KERNEL, c->tr.base + at, BT_NOSEG);
}

void bt_stack_new(struct bt_stack *k, const struct bt_seg *ss, uint64_t sp, uint32_t error)
{
    k->ss = ss;
    k->mask = ss->db ? 0xffffffffULL : 0xffffULL;
    k->sp = sp & k->mask;
    k->ctx = BT_CTX_KERNEL;
    k->error = error;
    k->flat64 = false;
}

void bt_stack_new64(struct bt_stack *k, uint64_t sp, unsigned ctx)
{
    k->ss = NULL;
    k->mask = ~0ULL;
    k->sp = sp;
    k->ctx = ctx;
    k->error = 0;
    k->flat64 = true;
}

/* ---- JMP and CALL ---- */

/* A call gate taken apart. */
struct far_gate {
    uint64_t off;
    uint16_t sel;
    unsigned size, params;
};

static void far_jump_real(struct bt_vcpu *c, uint16_t sel, uint64_t off)
{
    if (off > c->seg[BT_CS].limit)
        bt_gp(c, 0);
    bt_seg_real(&c->seg[BT_CS], sel, bt_v86(c));
    c->r[BT_RIP] = off;
    bt_state_update(c);
}

static void far_enter_code(struct bt_vcpu *c, struct bt_seg *cs, const struct bt_desc *d, uint8_t cpl, uint64_t off)
{
    bt_desc_accessed(c, d, cs);
    cs->sel = (uint16_t)((cs->sel & ~3U) | cpl);
    c->seg[BT_CS] = *cs;
    c->cpl = cpl;
    c->r[BT_RIP] = off;
    bt_state_update(c);
}

/* Checks of a code segment that JMP or CALL names directly. */
static void far_check_code(struct bt_vcpu *c, uint16_t sel, const struct bt_seg *cs)
{
    bool ok = bt_seg_is_code(cs) && !(BT_LONG_MODE(c) && cs->l && cs->db);

    if (ok && bt_seg_is_conforming(cs))
        ok = cs->dpl <= c->cpl;
    else if (ok)
        ok = (sel & 3) <= c->cpl && cs->dpl == c->cpl;
    if (!ok)
        bt_gp(c, sel & ~3U);
    if (!cs->present)
        bt_raise_error(c, BT_NP, sel & ~3U);
}

/* Privilege and presence of a gate or TSS that JMP or CALL names. */
static void far_check_system(struct bt_vcpu *c, uint16_t sel, const struct bt_seg *s)
{
    if (s->dpl < c->cpl || (sel & 3) > s->dpl)
        bt_gp(c, sel & ~3U);
    if (!s->present)
        bt_raise_error(c, BT_NP, sel & ~3U);
}

static void far_read_gate(struct bt_vcpu *c, uint16_t sel, const struct bt_desc *d, struct far_gate *g)
{
    bool wide_mode = BT_LONG_MODE(c);
    bool wide_gate = bits_get(d->raw, 43, 40) == BT_SYS_CALL32;

    g->off = bits_get(d->raw, 15, 0);
    g->sel = (uint16_t)bits_get(d->raw, 31, 16);
    g->params = wide_mode ? 0 : (unsigned)bits_get(d->raw, 36, 32);
    g->size = wide_mode ? 8 : wide_gate ? 4 : 2;
    if (wide_gate)
        g->off |= bits_get(d->raw, 63, 48) << 16;
    if (wide_mode) {
        uint64_t upper;

        if ((sel & ~7U) + 15 > ((sel & 4) ? c->ldt.limit : c->gdt.limit))
            bt_gp(c, sel & ~3U);
        upper = bt_desc_upper(c, d);
        if (bits_get(upper, 44, 40) != 0)
            bt_gp(c, sel & ~3U);
        g->off |= upper << 32;
    }
}

/* The code segment behind a call gate. JMP may not change the privilege level. */
static void far_gate_code(struct bt_vcpu *c, const struct far_gate *g, bool jmp, struct bt_seg *cs, struct bt_desc *d)
{
    bool ok;

    if (bt_sel_null(g->sel))
        bt_gp(c, 0);
    bt_desc_need(c, g->sel, BT_GP, d);
    bt_desc_unpack(d->raw, g->sel, cs);
    ok = bt_seg_is_code(cs) && cs->dpl <= c->cpl && !(BT_LONG_MODE(c) && (!cs->l || cs->db));
    if (jmp && !bt_seg_is_conforming(cs))
        ok = ok && cs->dpl == c->cpl;
    if (!ok)
        bt_gp(c, g->sel & ~3U);
    if (!cs->present)
        bt_raise_error(c, BT_NP, g->sel & ~3U);
}

/* CALL through a gate to a more privileged level. */
static void far_call_inner(struct bt_vcpu *c, const struct far_gate *g, struct bt_seg *cs, const struct bt_desc *d,
                           uint64_t next)
{
    struct bt_stack old, k;
    struct bt_desc ss_desc;
    struct bt_seg ss;
    uint32_t params[31], sp;
    uint16_t ss_sel;

    bt_tss_stack(c, cs->dpl, &ss_sel, &sp);
    bt_seg_check_stack(c, ss_sel, cs->dpl, BT_TS, false, &ss, &ss_desc);
    bt_stack_new(&k, &ss, sp, ss_sel & ~3U);
    bt_stack_current(c, &old);
    for (unsigned i = 0; i < g->params; i++)
        params[i] = (uint32_t)bt_stack_pop(c, &old, g->size);
    bt_stack_push(c, &k, c->seg[BT_SS].sel, g->size);
    bt_stack_push(c, &k, c->r[BT_RSP], g->size);
    for (unsigned i = g->params; i > 0; i--)
        bt_stack_push(c, &k, params[i - 1], g->size);
    bt_stack_push(c, &k, c->seg[BT_CS].sel, g->size);
    bt_stack_push(c, &k, next, g->size);
    bt_check_target(c, cs, g->off);
    bt_desc_accessed(c, &ss_desc, &ss);
    bt_desc_accessed(c, d, cs);
    c->seg[BT_SS] = ss;
    c->r[BT_RSP] = k.mask == 0xffff ? (c->r[BT_RSP] & ~0xffffULL) | k.sp : k.sp;
    far_enter_code(c, cs, d, cs->dpl, g->off);
}

static void far_call_inner64(struct bt_vcpu *c, const struct far_gate *g, struct bt_seg *cs, const struct bt_desc *d,
                             uint64_t next)
{
    struct bt_stack k;

    bt_stack_new64(&k, bt_tss_stack64(c, cs->dpl), BT_CTX_KERNEL);
    bt_check_target(c, cs, g->off);
    bt_stack_push(c, &k, c->seg[BT_SS].sel, 8);
    bt_stack_push(c, &k, c->r[BT_RSP], 8);
    bt_stack_push(c, &k, c->seg[BT_CS].sel, 8);
    bt_stack_push(c, &k, next, 8);
    bt_desc_accessed(c, d, cs);
    bt_seg_null(&c->seg[BT_SS], cs->dpl, cs->dpl);
    c->r[BT_RSP] = k.sp;
    far_enter_code(c, cs, d, cs->dpl, g->off);
}

/* Push the return address on the present stack and go to a code segment at the same level. */
static void far_call_same(struct bt_vcpu *c, struct bt_seg *cs, const struct bt_desc *d, uint64_t off, unsigned size,
                          uint64_t next)
{
    struct bt_stack k;

    bt_stack_current(c, &k);
    /* A gate of 64-bit size entered from compatibility mode: the stack is addressed by the new mode. */
    if (size == 8 && !k.flat64)
        bt_stack_new64(&k, k.sp, c->ctx);
    bt_stack_push(c, &k, c->seg[BT_CS].sel, size);
    bt_stack_push(c, &k, next, size);
    bt_check_target(c, cs, off);
    bt_desc_accessed(c, d, cs);
    c->r[BT_RSP] = bt_stack_rsp(c, &k);
    far_enter_code(c, cs, d, c->cpl, off);
}

/* JMP (call_size 0) or CALL to a system descriptor. */
static void far_system(struct bt_vcpu *c, uint16_t sel, const struct bt_desc *d, const struct bt_seg *s, bool call,
                       uint64_t next)
{
    enum bt_task_reason reason = call ? BT_TASK_CALL : BT_TASK_JMP;
    struct far_gate g;
    struct bt_desc code;
    struct bt_seg cs;

    if (BT_LONG_MODE(c) && s->type != BT_SYS_CALL32)
        bt_gp(c, sel & ~3U);
    switch (s->type) {
    case BT_SYS_TSS16:
    case BT_SYS_TSS32:
        far_check_system(c, sel, s);
        bt_task_switch(c, sel, reason, next, false, 0);
        return;
    case BT_SYS_TASK:
        far_check_system(c, sel, s);
        bt_task_switch(c, (uint16_t)bits_get(d->raw, 31, 16), reason, next, false, 0);
        return;
    case BT_SYS_CALL16:
    case BT_SYS_CALL32:
        break;
    default:
        bt_gp(c, sel & ~3U);
    }
    far_check_system(c, sel, s);
    far_read_gate(c, sel, d, &g);
    far_gate_code(c, &g, !call, &cs, &code);
    if (!call) {
        bt_check_target(c, &cs, g.off);
        far_enter_code(c, &cs, &code, c->cpl, g.off);
    } else if (bt_seg_is_conforming(&cs) || cs.dpl == c->cpl) {
        far_call_same(c, &cs, &code, g.off, g.size, next);
    } else if (g.size == 8) {
        far_call_inner64(c, &g, &cs, &code, next);
    } else {
        far_call_inner(c, &g, &cs, &code, next);
    }
}

void bt_far_jmp(struct bt_vcpu *c, uint16_t sel, uint64_t off, uint64_t next)
{
    struct bt_desc d;
    struct bt_seg s;

    if (!bt_protected(c)) {
        far_jump_real(c, sel, off);
        return;
    }
    if (bt_sel_null(sel))
        bt_gp(c, 0);
    bt_desc_need(c, sel, BT_GP, &d);
    bt_desc_unpack(d.raw, sel, &s);
    if (!s.s) {
        far_system(c, sel, &d, &s, false, next);
        return;
    }
    far_check_code(c, sel, &s);
    bt_check_target(c, &s, off);
    far_enter_code(c, &s, &d, c->cpl, off);
}

void bt_far_call(struct bt_vcpu *c, uint16_t sel, uint64_t off, unsigned size, uint64_t next)
{
    struct bt_stack k;
    struct bt_desc d;
    struct bt_seg s;

    if (!bt_protected(c)) {
        bt_stack_current(c, &k);
        bt_stack_push(c, &k, c->seg[BT_CS].sel, size);
        bt_stack_push(c, &k, next, size);
        if (off > c->seg[BT_CS].limit)
            bt_gp(c, 0);
        c->r[BT_RSP] = bt_stack_rsp(c, &k);
        far_jump_real(c, sel, off);
        return;
    }
    if (bt_sel_null(sel))
        bt_gp(c, 0);
    bt_desc_need(c, sel, BT_GP, &d);
    bt_desc_unpack(d.raw, sel, &s);
    if (!s.s) {
        far_system(c, sel, &d, &s, true, next);
        return;
    }
    far_check_code(c, sel, &s);
    bt_stack_current(c, &k);
    bt_stack_push(c, &k, c->seg[BT_CS].sel, size);
    bt_stack_push(c, &k, next, size);
    bt_check_target(c, &s, off);
    bt_desc_accessed(c, &d, &s);
    c->r[BT_RSP] = bt_stack_rsp(c, &k);
    far_enter_code(c, &s, &d, c->cpl, off);
}

/* ---- RET ---- */

void bt_far_return_code(struct bt_vcpu *c, uint16_t sel, struct bt_seg *cs, struct bt_desc *d)
{
    unsigned rpl = sel & 3;
    bool ok;

    if (bt_sel_null(sel))
        bt_gp(c, 0);
    bt_desc_need(c, sel, BT_GP, d);
    bt_desc_unpack(d->raw, sel, cs);
    ok = bt_seg_is_code(cs) && rpl >= c->cpl && !(BT_LONG_MODE(c) && cs->l && cs->db);
    if (ok)
        ok = bt_seg_is_conforming(cs) ? cs->dpl <= rpl : cs->dpl == rpl;
    if (!ok)
        bt_gp(c, sel & ~3U);
    if (!cs->present)
        bt_raise_error(c, BT_NP, sel & ~3U);
}

static void far_ret_real(struct bt_vcpu *c, struct bt_stack *k, unsigned size, unsigned release)
{
    uint64_t rip = bt_stack_pop(c, k, size);
    uint16_t sel = (uint16_t)bt_stack_pop(c, k, size);

    if (rip > c->seg[BT_CS].limit)
        bt_gp(c, 0);
    k->sp = (k->sp + release) & k->mask;
    c->r[BT_RSP] = bt_stack_rsp(c, k);
    far_jump_real(c, sel, rip);
}

/* RETF to a less privileged level: k stands behind the return address. */
static void far_ret_outer(struct bt_vcpu *c, struct bt_stack *k, unsigned size, unsigned release, struct bt_seg *cs,
                          const struct bt_desc *d, uint64_t rip)
{
    unsigned rpl = cs->sel & 3;
    struct bt_desc ss_desc;
    struct bt_seg ss;
    uint16_t ss_sel;
    uint64_t sp;

    k->sp = (k->sp + release) & k->mask;
    sp = bt_stack_pop(c, k, size);
    ss_sel = (uint16_t)bt_stack_pop(c, k, size);
    bt_seg_check_stack(c, ss_sel, rpl, BT_GP, BT_LONG_MODE(c) && cs->l, &ss, &ss_desc);
    bt_check_target(c, cs, rip);
    if (!ss.unusable)
        bt_desc_accessed(c, &ss_desc, &ss);
    bt_desc_accessed(c, d, cs);
    c->seg[BT_SS] = ss;
    far_enter_code(c, cs, d, (uint8_t)rpl, rip);
    bt_set_sp(c, sp + release);
    bt_seg_outer_return(c);
    bt_state_update(c);
}

void bt_far_ret(struct bt_vcpu *c, unsigned size, unsigned release)
{
    struct bt_stack k;
    struct bt_desc d;
    struct bt_seg cs;
    uint64_t rip;
    uint16_t sel;

    bt_stack_current(c, &k);
    if (!bt_protected(c)) {
        far_ret_real(c, &k, size, release);
        return;
    }
    rip = bt_stack_pop(c, &k, size);
    sel = (uint16_t)bt_stack_pop(c, &k, size);
    bt_far_return_code(c, sel, &cs, &d);
    if ((sel & 3) > c->cpl) {
        far_ret_outer(c, &k, size, release, &cs, &d, rip);
        return;
    }
    bt_check_target(c, &cs, rip);
    bt_desc_accessed(c, &d, &cs);
    k.sp = (k.sp + release) & k.mask;
    c->r[BT_RSP] = bt_stack_rsp(c, &k);
    far_enter_code(c, &cs, &d, c->cpl, rip);
}
