/* IRET in all modes, and the fast system calls (SYSCALL, SYSRET, SYSENTER, SYSEXIT). */
#include "cpu/bt/far_priv.h"

/* ---- IRET ---- */

/* What IRET popped. */
struct iret_frame {
    uint64_t rip, flags, rsp;
    uint16_t cs, ss;
};

/* Flags that IRET may change at the present privilege level. */
static uint64_t iret_flags_mask(const struct bt_vcpu *c, unsigned size)
{
    uint64_t mask = BT_ARITH | BT_TF | BT_DF | BT_NT;

    if (size > 2)
        mask |= BT_RF | BT_AC | BT_ID;
    if (c->cpl <= bt_iopl(c))
        mask |= BT_IF;
    if (c->cpl == 0)
        mask |= size > 2 ? BT_IOPL | BT_VIF | BT_VIP : BT_IOPL;
    return mask;
}

static void iret_real(struct bt_vcpu *c, struct bt_stack *k, unsigned size)
{
    uint64_t rip = bt_stack_pop(c, k, size);
    uint16_t sel = (uint16_t)bt_stack_pop(c, k, size);
    uint64_t flags = bt_stack_pop(c, k, size), mask;

    if (rip > c->seg[BT_CS].limit)
        bt_gp(c, 0);
    mask = BT_ARITH | BT_TF | BT_IF | BT_DF | BT_NT | (bt_v86(c) ? 0 : BT_IOPL);
    if (size > 2)
        mask |= BT_RF | BT_AC | BT_ID;
    c->r[BT_RSP] = bt_stack_rsp(c, k);
    bt_seg_real(&c->seg[BT_CS], sel, bt_v86(c));
    c->r[BT_RIP] = rip;
    bt_rflags_write(c, flags, mask);
    bt_state_update(c);
}

static void iret_to_v86(struct bt_vcpu *c, struct bt_stack *k, const struct iret_frame *f)
{
    static const uint8_t order[] = { BT_SS, BT_ES, BT_DS, BT_FS, BT_GS };
    uint32_t sp = (uint32_t)bt_stack_pop(c, k, 4);
    uint16_t sel[ARRAY_SIZE(order)];

    for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
        sel[i] = (uint16_t)bt_stack_pop(c, k, 4);
    if (f->rip > 0xffff)
        bt_gp(c, 0);
    bt_seg_real(&c->seg[BT_CS], f->cs, true);
    for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
        bt_seg_real(&c->seg[order[i]], sel[i], true);
    c->r[BT_RSP] = sp;
    c->r[BT_RIP] = f->rip;
    c->cpl = 3;
    c->rflags = (f->flags & BT_RFLAGS_VALID) | 2;
    bt_state_update(c);
}

static void iret_task(struct bt_vcpu *c, uint64_t next)
{
    uint16_t link = bt_ld16_ctx(c, BT_CTX_KERNEL, bt_table_lin(c, c->tr.base, 0), BT_NOSEG);

    bt_task_switch(c, link, BT_TASK_IRET, next, false, 0);
}

/* The common end of protected-mode returns. with_stack: rsp and ss were popped. */
static void iret_protected(struct bt_vcpu *c, struct bt_stack *k, struct iret_frame *f, unsigned size)
{
    uint64_t mask = iret_flags_mask(c, size);
    bool outer = (f->cs & 3) > c->cpl, wide = bt_mode64(c);
    struct bt_desc d, ss_desc;
    struct bt_seg cs, ss;

    bt_far_return_code(c, f->cs, &cs, &d);
    if (outer || wide) {
        f->rsp = bt_stack_pop(c, k, size);
        f->ss = (uint16_t)bt_stack_pop(c, k, size);
        bt_seg_check_stack(c, f->ss, f->cs & 3, BT_GP, BT_LONG_MODE(c) && cs.l, &ss, &ss_desc);
    }
    bt_check_target(c, &cs, f->rip);
    bt_desc_accessed(c, &d, &cs);
    if (outer || wide) {
        if (!ss.unusable)
            bt_desc_accessed(c, &ss_desc, &ss);
        c->seg[BT_SS] = ss;
    } else {
        c->r[BT_RSP] = bt_stack_rsp(c, k);
    }
    c->seg[BT_CS] = cs;
    c->cpl = f->cs & 3;
    c->r[BT_RIP] = f->rip;
    bt_rflags_write(c, f->flags, mask);
    bt_state_update(c);
    if (outer || wide)
        bt_set_sp(c, f->rsp);
    if (outer) {
        bt_seg_outer_return(c);
        bt_state_update(c);
    }
}

void bt_iret(struct bt_vcpu *c, unsigned size, uint64_t next)
{
    struct iret_frame f = { 0 };
    struct bt_stack k;

    /* NMIs are open again from here on, even where the IRET itself faults. */
    c->nmi_blocked = 0;
    if (UNLIKELY(c->nmi_pending != 0)) {
        c->nmi_pending = 0;
        atomic_fetch_or(&c->events, BT_EV_NMI);
    }
    bt_stack_current(c, &k);
    if (!bt_protected(c)) {
        if (bt_v86(c) && bt_iopl(c) < 3)
            bt_gp(c, 0);
        iret_real(c, &k, size);
        return;
    }
    if (c->rflags & BT_NT) {
        if (BT_LONG_MODE(c))
            bt_gp(c, 0);
        iret_task(c, next);
        return;
    }
    f.rip = bt_stack_pop(c, &k, size);
    f.cs = (uint16_t)bt_stack_pop(c, &k, size);
    f.flags = bt_stack_pop(c, &k, size);
    if (size == 4 && (f.flags & BT_VM) && c->cpl == 0 && !BT_LONG_MODE(c))
        iret_to_v86(c, &k, &f);
    else
        iret_protected(c, &k, &f, size);
}

/* ---- SYSCALL and kin ---- */

static void fast_enter(struct bt_vcpu *c, uint16_t cs, uint16_t ss, uint8_t cpl, bool wide)
{
    bt_seg_flat(&c->seg[BT_CS], cs, 11, cpl, wide);
    bt_seg_flat(&c->seg[BT_SS], ss, 3, cpl, false);
    c->cpl = cpl;
    bt_state_update(c);
}

/* Unlike other instructions, SYSCALL and SYSRET trap by the TF that they load, not by the one that they began with. */
static void fast_single_step(struct bt_vcpu *c)
{
    c->sys.tf_before = 0;
    if (UNLIKELY(c->rflags & BT_TF))
        bt_debug_hit(c, BT_DR6_BS);
}

void bt_syscall(struct bt_vcpu *c, uint64_t next)
{
    uint16_t cs = (uint16_t)(c->star >> 32) & 0xfffc;

    if (!(c->efer & BT_EFER_SCE) || !bt_protected(c) || (!bt_mode64(c) && !c->sys.amd))
        bt_ud(c);
    c->r[BT_RCX] = next;
    if (BT_LONG_MODE(c)) {
        c->r[BT_R11] = c->rflags & ~(uint64_t)BT_RF;
        c->r[BT_RIP] = bt_mode64(c) ? c->lstar : c->cstar;
        c->rflags = (c->rflags & ~(c->sfmask | BT_RF)) | 2;
    } else {
        c->r[BT_RIP] = (uint32_t)c->star;
        c->rflags &= ~(uint64_t)(BT_IF | BT_VM | BT_RF);
    }
    fast_enter(c, cs, (uint16_t)(cs + 8), 0, BT_LONG_MODE(c));
    fast_single_step(c);
}

void bt_sysret(struct bt_vcpu *c, bool wide)
{
    uint16_t base = (uint16_t)(c->star >> 48) | 3;
    uint64_t rip = wide ? c->r[BT_RCX] : (uint32_t)c->r[BT_RCX];
    bool long_mode = BT_LONG_MODE(c);

    if (!(c->efer & BT_EFER_SCE) || !bt_protected(c) || (!bt_mode64(c) && !c->sys.amd))
        bt_ud(c);
    if (c->cpl != 0)
        bt_gp(c, 0);
    /* AMD finds a bad address only at the fetch that follows, at CPL 3. */
    if (wide && !c->sys.amd && !bt_canonical(rip))
        bt_gp(c, 0);
    if (long_mode)
        c->rflags = (c->r[BT_R11] & 0x3c7fd7) | 2;
    else
        c->rflags |= BT_IF;
    c->r[BT_RIP] = rip;
    fast_enter(c, (uint16_t)(wide ? base + 16 : base), (uint16_t)(base + 8), 3, wide);
    fast_single_step(c);
}

void bt_sysenter(struct bt_vcpu *c)
{
    bool wide = BT_LONG_MODE(c);
    uint16_t cs = (uint16_t)c->sysenter_cs & 0xfffc;

    if (wide && c->sys.amd)
        bt_ud(c);
    if (!(c->cr0 & BT_CR0_PE) || cs == 0)
        bt_gp(c, 0);
    c->rflags &= ~(uint64_t)(BT_VM | BT_IF | BT_RF);
    c->r[BT_RSP] = wide ? c->sysenter_esp : (uint32_t)c->sysenter_esp;
    c->r[BT_RIP] = wide ? c->sysenter_eip : (uint32_t)c->sysenter_eip;
    fast_enter(c, cs, (uint16_t)(cs + 8), 0, wide);
}

void bt_sysexit(struct bt_vcpu *c, bool wide)
{
    uint16_t cs = (uint16_t)c->sysenter_cs & 0xfffc;
    uint64_t rip = c->r[BT_RDX], rsp = c->r[BT_RCX];

    if (BT_LONG_MODE(c) && c->sys.amd)
        bt_ud(c);
    if (!bt_protected(c) || cs == 0 || c->cpl != 0)
        bt_gp(c, 0);
    if (wide && (!bt_canonical(rip) || !bt_canonical(rsp)))
        bt_gp(c, 0);
    c->r[BT_RIP] = wide ? rip : (uint32_t)rip;
    c->r[BT_RSP] = wide ? rsp : (uint32_t)rsp;
    cs = (uint16_t)((cs + (wide ? 32 : 16)) | 3);
    fast_enter(c, cs, (uint16_t)(cs + 8), 3, wide);
}
