/* Segment registers: descriptors, loads with their checks, limit checks of accesses, stacks of transfers, and the state
 * that is derived from segments and control registers.
 *
 * A descriptor cache (struct bt_seg) is the truth while it is loaded; tables are read only at loads. In real mode a
 * load changes selector and base alone, so that limits set in protected mode last ("unreal mode"). It must not know how
 * transfers work (far.c, iret.c, task.c, exc.c). */
#include "cpu/bt/fp.h"
#include "cpu/bt/sys_priv.h"

/* ---- descriptors ---- */

bool bt_desc_read(struct bt_vcpu *c, uint16_t sel, struct bt_desc *ret)
{
    const bool local = (sel & 4) != 0;
    uint64_t base = local ? c->ldt.base : c->gdt.base;
    uint32_t limit = local ? c->ldt.limit : c->gdt.limit;

    if ((local && c->ldt.unusable) || (sel | 7U) > limit)
        return false;
    ret->addr = bt_table_lin(c, base, sel & ~7U);
    ret->raw = bt_ld64_ctx(c, BT_CTX_KERNEL, ret->addr, BT_NOSEG);
    return true;
}

void bt_desc_need(struct bt_vcpu *c, uint16_t sel, unsigned vector, struct bt_desc *ret)
{
    if (!bt_desc_read(c, sel, ret))
        bt_raise_error(c, vector, sel & ~3U);
}

void bt_desc_unpack(uint64_t raw, uint16_t sel, struct bt_seg *ret)
{
    uint32_t limit = (uint32_t)(bits_get(raw, 15, 0) | bits_get(raw, 51, 48) << 16);

    ret->g = (uint8_t)bits_get(raw, 55, 55);
    ret->base = bits_get(raw, 39, 16) | bits_get(raw, 63, 56) << 24;
    ret->limit = ret->g ? limit << 12 | 0xfff : limit;
    ret->sel = sel;
    ret->type = (uint8_t)bits_get(raw, 43, 40);
    ret->s = (uint8_t)bits_get(raw, 44, 44);
    ret->dpl = (uint8_t)bits_get(raw, 46, 45);
    ret->present = (uint8_t)bits_get(raw, 47, 47);
    ret->avl = (uint8_t)bits_get(raw, 52, 52);
    ret->l = (uint8_t)bits_get(raw, 53, 53);
    ret->db = (uint8_t)bits_get(raw, 54, 54);
    ret->unusable = 0;
}

void bt_desc_accessed(struct bt_vcpu *c, const struct bt_desc *d, struct bt_seg *s)
{
    if (s->type & 1)
        return;
    s->type |= 1;
    bt_st8_ctx(c, BT_CTX_KERNEL, d->addr + 5, (uint8_t)(bits_get(d->raw, 47, 40) | 1), BT_NOSEG);
}

uint64_t bt_desc_upper(struct bt_vcpu *c, const struct bt_desc *d)
{
    return bt_ld64_ctx(c, BT_CTX_KERNEL, d->addr + 8, BT_NOSEG);
}

void bt_seg_null(struct bt_seg *s, uint16_t sel, uint8_t dpl)
{
    s->base = 0;
    s->limit = 0;
    s->sel = sel;
    s->type = s->s = s->present = s->avl = s->l = s->db = s->g = 0;
    s->dpl = dpl;
    s->unusable = 1;
}

void bt_seg_real(struct bt_seg *s, uint16_t sel, bool v86)
{
    s->sel = sel;
    s->base = (uint32_t)sel << 4;
    if (v86) {
        s->limit = 0xffff;
        s->type = 3;
        s->s = s->present = 1;
        s->dpl = 3;
        s->avl = s->l = s->db = s->g = 0;
    }
    s->unusable = 0;
}

void bt_seg_flat(struct bt_seg *s, uint16_t sel, uint8_t type, uint8_t dpl, bool long_mode)
{
    s->base = 0;
    s->limit = 0xffffffff;
    s->sel = sel;
    s->type = type;
    s->s = s->present = s->g = 1;
    s->dpl = dpl;
    s->avl = 0;
    s->l = long_mode;
    s->db = !long_mode;
    s->unusable = 0;
}

/* ---- loads ---- */

void bt_seg_check_stack(struct bt_vcpu *c, uint16_t sel, unsigned cpl, unsigned vector, bool long_null,
                        struct bt_seg *ret, struct bt_desc *ret_desc)
{
    if (bt_sel_null(sel)) {
        if (!long_null || cpl == 3 || (sel & 3U) != cpl)
            bt_raise_error(c, vector, 0);
        bt_seg_null(ret, sel, (uint8_t)cpl);
        ret_desc->addr = 0;
        return;
    }
    bt_desc_need(c, sel, vector, ret_desc);
    bt_desc_unpack(ret_desc->raw, sel, ret);
    if ((sel & 3U) != cpl || !bt_seg_is_wdata(ret) || ret->dpl != cpl)
        bt_raise_error(c, vector, sel & ~3U);
    if (!ret->present)
        bt_raise_error(c, BT_SSV, sel & ~3U);
}

static void seg_load_stack(struct bt_vcpu *c, uint16_t sel)
{
    struct bt_seg s;
    struct bt_desc d;

    bt_seg_check_stack(c, sel, c->cpl, BT_GP, bt_mode64(c), &s, &d);
    if (!s.unusable)
        bt_desc_accessed(c, &d, &s);
    c->seg[BT_SS] = s;
}

static void seg_load_data(struct bt_vcpu *c, unsigned seg, uint16_t sel)
{
    struct bt_seg s;
    struct bt_desc d;

    if (bt_sel_null(sel)) {
        bt_seg_null(&c->seg[seg], sel, 0);
        return;
    }
    bt_desc_need(c, sel, BT_GP, &d);
    bt_desc_unpack(d.raw, sel, &s);
    if (!s.s || (s.type & 0xa) == 8) /* system, or code that cannot be read */
        bt_gp(c, sel & ~3U);
    if ((s.type & 0xc) != 0xc && ((sel & 3) > s.dpl || c->cpl > s.dpl))
        bt_gp(c, sel & ~3U);
    if (!s.present)
        bt_raise_error(c, BT_NP, sel & ~3U);
    bt_desc_accessed(c, &d, &s);
    c->seg[seg] = s;
}

void bt_seg_load(struct bt_vcpu *c, unsigned seg, uint16_t sel)
{
    if (!bt_protected(c))
        bt_seg_real(&c->seg[seg], sel, bt_v86(c));
    else if (seg == BT_SS)
        seg_load_stack(c, sel);
    else
        seg_load_data(c, seg, sel);
    bt_state_update(c);
}

void bt_seg_outer_return(struct bt_vcpu *c)
{
    static const uint8_t data[] = { BT_ES, BT_DS, BT_FS, BT_GS };

    for (unsigned i = 0; i < ARRAY_SIZE(data); i++) {
        struct bt_seg *s = &c->seg[data[i]];

        if (!s->unusable && (s->type & 0xc) != 0xc && s->dpl < c->cpl)
            bt_seg_null(s, 0, 0);
    }
}

/* ---- accesses ---- */

static _Noreturn void seg_violation(struct bt_vcpu *c, unsigned seg)
{
    bt_raise_error(c, seg == BT_SS ? BT_SSV : BT_GP, 0);
}

/* Do bytes [off, off+size) lie within the segment? */
static bool seg_in_limit(const struct bt_seg *s, uint64_t off, unsigned size)
{
    uint64_t last = off + size - 1;

    if ((s->type & 0xc) == 4) /* expand-down data */
        return off > s->limit && last <= (s->db ? 0xffffffffULL : 0xffffULL);
    return last <= s->limit;
}

uint64_t bt_seg_check(struct bt_vcpu *c, unsigned seg, uint64_t off, unsigned size, unsigned acc)
{
    const struct bt_seg *s;

    /* Even a flat segment ends at 4 GiB: an access does not wrap around. */
    if (LIKELY((c->flat >> seg) & 1) && LIKELY((uint64_t)(uint32_t)off + size - 1 <= UINT32_MAX))
        return (uint32_t)off;
    if (seg >= BT_NOSEG)
        return (uint32_t)off;
    s = &c->seg[seg];
    if (bt_protected(c)) {
        if (s->unusable)
            seg_violation(c, seg);
        if ((acc & BT_ACC_WRITE) ? (s->type & 0xa) != 2 : (s->type & 0xa) == 8)
            seg_violation(c, seg);
    }
    if (!seg_in_limit(s, off, size))
        seg_violation(c, seg);
    return (uint32_t)(s->base + off);
}

void bt_check_target(struct bt_vcpu *c, const struct bt_seg *cs, uint64_t rip)
{
    if (BT_LONG_MODE(c) && cs->l) {
        if (!bt_canonical(rip))
            bt_gp(c, 0);
    } else if (rip > cs->limit) {
        bt_gp(c, 0);
    }
}

void bt_check_rip(struct bt_vcpu *c, uint64_t rip)
{
    bt_check_target(c, &c->seg[BT_CS], rip);
}

/* ---- stacks ---- */

void bt_stack_current(struct bt_vcpu *c, struct bt_stack *k)
{
    k->ss = &c->seg[BT_SS];
    k->mask = c->stack_bits == 64 ? ~0ULL : c->stack_bits == 32 ? 0xffffffffULL : 0xffffULL;
    k->sp = c->r[BT_RSP] & k->mask;
    k->ctx = c->ctx;
    k->error = 0;
    k->flat64 = c->stack_bits == 64;
}

static uint64_t stack_lin(struct bt_vcpu *c, const struct bt_stack *k, unsigned size)
{
    if (k->flat64)
        return k->sp;
    if (!seg_in_limit(k->ss, k->sp, size))
        bt_raise_error(c, BT_SSV, k->error);
    return (uint32_t)(k->ss->base + k->sp);
}

void bt_stack_push(struct bt_vcpu *c, struct bt_stack *k, uint64_t v, unsigned size)
{
    uint64_t lin;

    k->sp = (k->sp - size) & k->mask;
    lin = stack_lin(c, k, size);
    if (size == 8)
        bt_st64_ctx(c, k->ctx, lin, v, BT_SS);
    else if (size == 4)
        bt_st32_ctx(c, k->ctx, lin, (uint32_t)v, BT_SS);
    else
        bt_st16_ctx(c, k->ctx, lin, (uint16_t)v, BT_SS);
}

uint64_t bt_stack_pop(struct bt_vcpu *c, struct bt_stack *k, unsigned size)
{
    uint64_t lin = stack_lin(c, k, size);

    k->sp = (k->sp + size) & k->mask;
    if (size == 8)
        return bt_ld64_ctx(c, k->ctx, lin, BT_SS);
    return size == 4 ? bt_ld32_ctx(c, k->ctx, lin, BT_SS) : bt_ld16_ctx(c, k->ctx, lin, BT_SS);
}

uint64_t bt_stack_rsp(const struct bt_vcpu *c, const struct bt_stack *k)
{
    if (k->mask == 0xffff)
        return (c->r[BT_RSP] & ~0xffffULL) | k->sp;
    return k->sp;
}

/* ---- derived state ---- */

static bool seg_is_flat(const struct bt_seg *s)
{
    return s->base == 0 && s->limit == 0xffffffff && !s->unusable && (s->type & 0xe) == 2;
}

void bt_state_update(struct bt_vcpu *c)
{
    bool wide = BT_LONG_MODE(c) && c->seg[BT_CS].l;

    c->flat = 0;
    for (unsigned i = 0; i < 6; i++) {
        c->segbase[i] = c->seg[i].base;
        if (seg_is_flat(&c->seg[i]))
            c->flat |= (uint8_t)(1U << i);
    }
    c->segbase[BT_NOSEG] = 0;
    if (wide) {
        c->mode = BT_MODE_64;
        c->stack_bits = 64;
        c->segbase[BT_ES] = c->segbase[BT_CS] = c->segbase[BT_SS] = c->segbase[BT_DS] = 0;
    } else {
        c->mode = c->seg[BT_CS].db ? BT_MODE_32 : BT_MODE_16;
        c->stack_bits = c->seg[BT_SS].db ? 32 : 16;
    }
    bt_ctx_update(c);
    if (UNLIKELY(c->rflags & BT_TF))
        atomic_fetch_or_explicit(&c->events, BT_EV_STEP, memory_order_relaxed);
    bt_fp_ready_update(c);
}

void bt_rflags_write(struct bt_vcpu *c, uint64_t value, uint64_t mask)
{
    uint64_t old = c->rflags;

    mask &= BT_RFLAGS_VALID;
    c->rflags = (old & ~mask) | (value & mask) | 2;
    if (UNLIKELY((old ^ c->rflags) & BT_VM))
        bt_state_update(c);
    else if ((old ^ c->rflags) & BT_AC)
        bt_ctx_update(c);
    if (UNLIKELY(c->rflags & BT_TF))
        atomic_fetch_or_explicit(&c->events, BT_EV_STEP, memory_order_relaxed);
}
