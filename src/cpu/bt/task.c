/* Hardware task switches through 16- and 32-bit TSSs: JMP and CALL to a TSS or task gate, IRET with NT, and events
 * through task gates (SDM vol. 3 chapter 8). Not in long mode.
 *
 * Two phases. Up to the commit point (old state saved, TR loaded) nothing has changed and faults belong to the old
 * task; behind it the registers of the new task are in place and faults (#TS with the selector at fault, #NP, #SS)
 * belong to the new one, whose segment registers are valid only as far as they were checked. */
#include "cpu/bt/sys_priv.h"

/* Layout of the two formats: offsets in the TSS. */
struct task_layout {
    uint8_t size; /* of a register slot */
    uint8_t ip, flags, regs, segs, n_segs, ldt;
    uint16_t min_limit;
    uint8_t seg_step;
};

static const struct task_layout task_layout16 = {
    .size = 2,
    .ip = 14,
    .flags = 16,
    .regs = 18,
    .segs = 34,
    .n_segs = 4,
    .ldt = 42,
    .min_limit = 43,
    .seg_step = 2,
};
static const struct task_layout task_layout32 = {
    .size = 4,
    .ip = 32,
    .flags = 36,
    .regs = 40,
    .segs = 72,
    .n_segs = 6,
    .ldt = 96,
    .min_limit = 103,
    .seg_step = 4,
};

/* Everything that is read from the new TSS before the commit point. */
struct task_image {
    uint32_t ip, flags, regs[8], cr3;
    uint16_t segs[6], ldt;
    bool trap;
};

static const struct task_layout *task_layout(const struct bt_seg *tss)
{
    return (tss->type & 8) ? &task_layout32 : &task_layout16;
}

static uint32_t task_ld(struct bt_vcpu *c, uint64_t base, unsigned at, unsigned size)
{
    uint64_t lin = bt_table_lin(c, base, at);

    return size == 4 ? bt_ld32_ctx(c, BT_CTX_KERNEL, lin, BT_NOSEG) : bt_ld16_ctx(c, BT_CTX_KERNEL, lin, BT_NOSEG);
}

static void task_st(struct bt_vcpu *c, uint64_t base, unsigned at, uint32_t v, unsigned size)
{
    uint64_t lin = bt_table_lin(c, base, at);

    if (size == 4)
        bt_st32_ctx(c, BT_CTX_KERNEL, lin, v, BT_NOSEG);
    else
        bt_st16_ctx(c, BT_CTX_KERNEL, lin, (uint16_t)v, BT_NOSEG);
}

static void task_set_busy(struct bt_vcpu *c, const struct bt_desc *d, bool busy)
{
    uint8_t access = bt_ld8_ctx(c, BT_CTX_KERNEL, d->addr + 5, BT_NOSEG);

    access = (uint8_t)(busy ? access | 2 : access & ~2U);
    bt_st8_ctx(c, BT_CTX_KERNEL, d->addr + 5, access, BT_NOSEG);
}

/* The new TSS's descriptor, with the checks that the reason for the switch asks for. */
static void task_read_desc(struct bt_vcpu *c, uint16_t sel, enum bt_task_reason reason, struct bt_desc *d,
                           struct bt_seg *tss)
{
    unsigned vector = reason == BT_TASK_IRET ? BT_TS : BT_GP;
    unsigned want = reason == BT_TASK_IRET ? BT_SYS_TSS16_BUSY : BT_SYS_TSS16;

    if ((sel & 4) || bt_sel_null(sel))
        bt_raise_error(c, vector, sel & ~3U);
    bt_desc_need(c, sel, vector, d);
    bt_desc_unpack(d->raw, sel, tss);
    if (tss->s || (tss->type & 7U) != want)
        bt_raise_error(c, vector, sel & ~3U);
    if (!tss->present)
        bt_raise_error(c, BT_NP, sel & ~3U);
    if (tss->limit < task_layout(tss)->min_limit)
        bt_raise_error(c, BT_TS, sel & ~3U);
}

static void task_read_image(struct bt_vcpu *c, const struct bt_seg *tss, struct task_image *t)
{
    const struct task_layout *l = task_layout(tss);

    t->ip = task_ld(c, tss->base, l->ip, l->size);
    t->flags = task_ld(c, tss->base, l->flags, l->size);
    for (unsigned i = 0; i < 8; i++) {
        t->regs[i] = task_ld(c, tss->base, l->regs + i * l->size, l->size);
        if (l->size == 2)
            t->regs[i] |= 0xffff0000;
    }
    for (unsigned i = 0; i < 6; i++)
        t->segs[i] = i < l->n_segs ? (uint16_t)task_ld(c, tss->base, l->segs + i * l->seg_step, 2) : 0;
    t->ldt = (uint16_t)task_ld(c, tss->base, l->ldt, 2);
    t->cr3 = l->size == 4 ? task_ld(c, tss->base, 28, 4) : 0;
    t->trap = l->size == 4 && (task_ld(c, tss->base, 100, 2) & 1);
}

/* Fault now, not half-way through saving. */
static void task_probe_old(struct bt_vcpu *c)
{
    const struct task_layout *l = task_layout(&c->tr);
    uint64_t first = bt_table_lin(c, c->tr.base, l->ip), last = bt_table_lin(c, c->tr.base, l->ldt - 1U);

    bt_probe_write(c, BT_CTX_KERNEL, first, 1, BT_NOSEG);
    bt_probe_write(c, BT_CTX_KERNEL, last, 1, BT_NOSEG);
}

static void task_save_old(struct bt_vcpu *c, uint64_t next_rip, uint64_t flags)
{
    const struct task_layout *l = task_layout(&c->tr);

    task_st(c, c->tr.base, l->ip, (uint32_t)next_rip, l->size);
    task_st(c, c->tr.base, l->flags, (uint32_t)flags, l->size);
    for (unsigned i = 0; i < 8; i++)
        task_st(c, c->tr.base, l->regs + i * l->size, (uint32_t)c->r[i], l->size);
    for (unsigned i = 0; i < l->n_segs; i++)
        task_st(c, c->tr.base, l->segs + i * l->seg_step, c->seg[i].sel, 2);
}

/* ---- behind the commit point ---- */

static void task_load_ldt(struct bt_vcpu *c, uint16_t sel)
{
    struct bt_desc d;
    struct bt_seg s;

    bt_seg_null(&c->ldt, sel, 0);
    if (bt_sel_null(sel))
        return;
    if (sel & 4)
        bt_raise_error(c, BT_TS, sel & ~3U);
    bt_desc_need(c, sel, BT_TS, &d);
    bt_desc_unpack(d.raw, sel, &s);
    if (s.s || s.type != BT_SYS_LDT || !s.present)
        bt_raise_error(c, BT_TS, sel & ~3U);
    c->ldt = s;
}

static void task_load_cs(struct bt_vcpu *c, uint16_t sel)
{
    unsigned rpl = sel & 3;
    struct bt_desc d;
    struct bt_seg s;

    if (bt_sel_null(sel))
        bt_raise_error(c, BT_TS, 0);
    bt_desc_need(c, sel, BT_TS, &d);
    bt_desc_unpack(d.raw, sel, &s);
    if (!bt_seg_is_code(&s) || (bt_seg_is_conforming(&s) ? s.dpl > rpl : s.dpl != rpl))
        bt_raise_error(c, BT_TS, sel & ~3U);
    if (!s.present)
        bt_raise_error(c, BT_NP, sel & ~3U);
    bt_desc_accessed(c, &d, &s);
    c->seg[BT_CS] = s;
}

static void task_load_data(struct bt_vcpu *c, unsigned seg, uint16_t sel)
{
    struct bt_desc d;
    struct bt_seg s;

    if (bt_sel_null(sel))
        return;
    bt_desc_need(c, sel, BT_TS, &d);
    bt_desc_unpack(d.raw, sel, &s);
    if (!s.s || (s.type & 0xa) == 8)
        bt_raise_error(c, BT_TS, sel & ~3U);
    if ((s.type & 0xc) != 0xc && ((sel & 3) > s.dpl || c->cpl > s.dpl))
        bt_raise_error(c, BT_TS, sel & ~3U);
    if (!s.present)
        bt_raise_error(c, BT_NP, sel & ~3U);
    bt_desc_accessed(c, &d, &s);
    c->seg[seg] = s;
}

static void task_load_segments(struct bt_vcpu *c, const struct task_image *t)
{
    static const uint8_t data[] = { BT_ES, BT_DS, BT_FS, BT_GS };
    struct bt_desc d;
    struct bt_seg ss;

    for (unsigned i = 0; i < 6; i++)
        bt_seg_null(&c->seg[i], t->segs[i], 0);
    task_load_ldt(c, t->ldt);
    if (c->rflags & BT_VM) {
        c->cpl = 3;
        for (unsigned i = 0; i < 6; i++)
            bt_seg_real(&c->seg[i], t->segs[i], true);
        return;
    }
    c->cpl = t->segs[BT_CS] & 3;
    bt_state_update(c);
    task_load_cs(c, t->segs[BT_CS]);
    bt_seg_check_stack(c, t->segs[BT_SS], c->cpl, BT_TS, false, &ss, &d);
    bt_desc_accessed(c, &d, &ss);
    c->seg[BT_SS] = ss;
    for (unsigned i = 0; i < ARRAY_SIZE(data); i++)
        task_load_data(c, data[i], t->segs[data[i]]);
}

static void task_load_cr3(struct bt_vcpu *c, uint32_t cr3)
{
    if (!(c->cr0 & BT_CR0_PG))
        return;
    if ((c->cr4 & BT_CR4_PAE) && !bt_load_pdptes(c, cr3, c->pdpte))
        bt_raise_error(c, BT_TS, c->tr.sel & ~3U);
    c->cr3 = cr3;
    bt_tlb_flush_nonglobal(c);
}

static void task_push_error(struct bt_vcpu *c, uint32_t error, unsigned size)
{
    struct bt_stack k;

    bt_stack_current(c, &k);
    bt_stack_push(c, &k, error, size);
    c->r[BT_RSP] = bt_stack_rsp(c, &k);
}

/* The new task's registers, then its segments, which may fault. */
static void task_enter(struct bt_vcpu *c, const struct task_image *t, const struct task_layout *l)
{
    if (l->size == 4)
        task_load_cr3(c, t->cr3);
    c->r[BT_RIP] = t->ip;
    for (unsigned i = 0; i < 8; i++)
        c->r[i] = t->regs[i];
    c->rflags = (t->flags & BT_RFLAGS_VALID) | 2;
    if (c->dr[7] & 0x155) {
        c->dr[7] &= ~0x155ULL; /* local enables */
        bt_debug_update(c);
    }
    task_load_segments(c, t);
    bt_state_update(c);
}

void bt_task_switch(struct bt_vcpu *c, uint16_t sel, enum bt_task_reason reason, uint64_t next_rip, bool has_error,
                    uint32_t error)
{
    bool nested = reason == BT_TASK_CALL || reason == BT_TASK_EVENT;
    uint64_t old_flags = c->rflags;
    uint16_t old_sel = c->tr.sel;
    struct bt_desc d, old_desc;
    struct task_image t;
    struct bt_seg tss;

    task_read_desc(c, sel, reason, &d, &tss);
    bt_desc_need(c, old_sel, BT_TS, &old_desc);
    task_probe_old(c);
    task_read_image(c, &tss, &t);
    bt_probe_write(c, BT_CTX_KERNEL, d.addr + 5, 1, BT_NOSEG);
    bt_probe_write(c, BT_CTX_KERNEL, old_desc.addr + 5, 1, BT_NOSEG);
    if (nested)
        bt_probe_write(c, BT_CTX_KERNEL, tss.base, 2, BT_NOSEG);

    if (!nested)
        task_set_busy(c, &old_desc, false);
    if (reason == BT_TASK_IRET)
        old_flags &= ~(uint64_t)BT_NT;
    task_save_old(c, next_rip, old_flags);
    if (nested) {
        task_st(c, tss.base, 0, old_sel, 2);
        t.flags |= BT_NT;
    }
    if (reason != BT_TASK_IRET)
        task_set_busy(c, &d, true);
    tss.type |= 2;
    c->tr = tss;
    c->cr0 |= BT_CR0_TS;

    task_enter(c, &t, task_layout(&tss));
    if (t.trap)
        bt_debug_hit(c, BT_DR6_BT);
    if (has_error)
        task_push_error(c, error, task_layout(&tss)->size);
    if (c->r[BT_RIP] > c->seg[BT_CS].limit)
        bt_gp(c, 0);
}
