/* Instructions on descriptor tables and descriptors: LGDT, LIDT, SGDT, SIDT, LLDT, SLDT, LTR, STR, LAR, LSL, VERR,
 * VERW, ARPL. */
#include <errno.h>

#include "cpu/bt/sys_priv.h"

/* x[0]: which of a family; x[1]: operand size. */
enum { TBL_GDT, TBL_IDT };
enum { TBL_LAR, TBL_LSL, TBL_VERR, TBL_VERW };

static enum bt_next h_load_table(struct bt_vcpu *c, const struct bt_op *op)
{
    struct bt_dtable *t = op->x[0] == TBL_GDT ? &c->gdt : &c->idt;
    uint64_t lin, base;
    uint16_t limit;

    bt_require_cpl0(c);
    if (bt_mode64(c)) {
        lin = bt_op_lin(c, op, 10, BT_ACC_READ);
        limit = bt_ld16(c, lin, op->seg);
        base = bt_ld64(c, lin + 2, op->seg);
        if (!bt_canonical(base))
            bt_gp(c, 0);
    } else {
        lin = bt_op_lin(c, op, 6, BT_ACC_READ);
        limit = bt_ld16(c, lin, op->seg);
        base = bt_ld32(c, lin + 2, op->seg);
        if (op->x[1] == 2)
            base &= 0xffffff;
    }
    t->base = base;
    t->limit = limit;
    return BT_END;
}

static enum bt_next h_store_table(struct bt_vcpu *c, const struct bt_op *op)
{
    const struct bt_dtable *t = op->x[0] == TBL_GDT ? &c->gdt : &c->idt;
    unsigned size = bt_mode64(c) ? 10 : 6;
    uint8_t image[10];
    uint64_t lin;

    bt_check_umip(c);
    lin = bt_op_lin(c, op, size, BT_ACC_WRITE);
    store_le16(image, t->limit);
    store_le64(image + 2, t->base);
    bt_st_bytes(c, lin, image, size, op->seg);
    return BT_NEXT;
}

/* LLDT and LTR: the descriptor of sel, from the GDT, of one of two types; the upper half of its base in long mode. */
static void tbl_read_system(struct bt_vcpu *c, uint16_t sel, unsigned type1, unsigned type2, struct bt_desc *d,
                            struct bt_seg *s)
{
    uint64_t upper;

    if (sel & 4)
        bt_gp(c, sel & ~3U);
    bt_desc_need(c, sel, BT_GP, d);
    bt_desc_unpack(d->raw, sel, s);
    if (s->s || (s->type != type1 && s->type != type2))
        bt_gp(c, sel & ~3U);
    if (!s->present)
        bt_raise_error(c, BT_NP, sel & ~3U);
    if (!BT_LONG_MODE(c))
        return;
    if ((sel & ~7U) + 15 > c->gdt.limit)
        bt_gp(c, sel & ~3U);
    upper = bt_desc_upper(c, d);
    s->base |= upper << 32;
    if (bits_get(upper, 44, 40) != 0 || !bt_canonical(s->base))
        bt_gp(c, sel & ~3U);
}

static enum bt_next h_lldt(struct bt_vcpu *c, const struct bt_op *op)
{
    struct bt_desc d;
    struct bt_seg s;
    uint16_t sel;

    if (!bt_protected(c))
        bt_ud(c);
    bt_require_cpl0(c);
    sel = bt_load_sel(c, op);
    if (bt_sel_null(sel)) {
        bt_seg_null(&c->ldt, sel, 0);
        return BT_NEXT;
    }
    tbl_read_system(c, sel, BT_SYS_LDT, BT_SYS_LDT, &d, &s);
    c->ldt = s;
    return BT_NEXT;
}

static enum bt_next h_ltr(struct bt_vcpu *c, const struct bt_op *op)
{
    struct bt_desc d;
    struct bt_seg s;
    uint16_t sel;

    if (!bt_protected(c))
        bt_ud(c);
    bt_require_cpl0(c);
    sel = bt_load_sel(c, op);
    if (bt_sel_null(sel))
        bt_gp(c, 0);
    tbl_read_system(c, sel, BT_SYS_TSS32, BT_LONG_MODE(c) ? BT_SYS_TSS32 : BT_SYS_TSS16, &d, &s);
    s.type |= 2; /* busy */
    bt_st8_ctx(c, BT_CTX_KERNEL, d.addr + 5, (uint8_t)(bits_get(d.raw, 47, 40) | 2), BT_NOSEG);
    c->tr = s;
    return BT_END;
}

static enum bt_next h_sldt(struct bt_vcpu *c, const struct bt_op *op)
{
    if (!bt_protected(c))
        bt_ud(c);
    bt_check_umip(c);
    bt_store_sel(c, op, c->ldt.sel);
    return BT_NEXT;
}

static enum bt_next h_str(struct bt_vcpu *c, const struct bt_op *op)
{
    if (!bt_protected(c))
        bt_ud(c);
    bt_check_umip(c);
    bt_store_sel(c, op, c->tr.sel);
    return BT_NEXT;
}

/* System descriptor types that LAR and LSL accept. */
static bool tbl_type_ok(const struct bt_vcpu *c, unsigned what, unsigned type)
{
    unsigned ok;

    if (BT_LONG_MODE(c))
        ok = BIT(2) | BIT(9) | BIT(11) | (what == TBL_LAR ? BIT(12) : 0);
    else
        ok = BIT(1) | BIT(2) | BIT(3) | BIT(9) | BIT(11) | (what == TBL_LAR ? BIT(4) | BIT(5) | BIT(12) : 0);
    return (ok >> type) & 1;
}

/* Whether the instruction what succeeds on sel; then s is filled. */
static bool tbl_probe(struct bt_vcpu *c, uint16_t sel, unsigned what, struct bt_desc *d, struct bt_seg *s)
{
    if (bt_sel_null(sel) || !bt_desc_read(c, sel, d))
        return false;
    bt_desc_unpack(d->raw, sel, s);
    if (!s->s)
        return what <= TBL_LSL && tbl_type_ok(c, what, s->type) && s->dpl >= c->cpl && s->dpl >= (sel & 3);
    if ((s->type & 0xc) != 0xc && (s->dpl < c->cpl || s->dpl < (sel & 3)))
        return false;
    if (what == TBL_VERR)
        return (s->type & 0xa) != 8;
    if (what == TBL_VERW)
        return (s->type & 0xa) == 2;
    return true;
}

static void tbl_set_zf(struct bt_vcpu *c, bool on)
{
    c->rflags = on ? c->rflags | BT_ZF : c->rflags & ~(uint64_t)BT_ZF;
}

static enum bt_next h_probe(struct bt_vcpu *c, const struct bt_op *op)
{
    struct bt_desc d;
    struct bt_seg s;
    bool ok;

    if (!bt_protected(c))
        bt_ud(c);
    ok = tbl_probe(c, bt_load_sel(c, op), op->x[0], &d, &s);
    if (ok && op->x[0] == TBL_LAR)
        bt_gpr_set(c, op->dst, op->x[1], (d.raw >> 32) & (op->x[1] == 2 ? 0xff00 : 0xf0ff00));
    else if (ok && op->x[0] == TBL_LSL)
        bt_gpr_set(c, op->dst, op->x[1], s.limit);
    tbl_set_zf(c, ok);
    return BT_NEXT;
}

static enum bt_next h_arpl(struct bt_vcpu *c, const struct bt_op *op)
{
    bool mem = op->flags & BT_OPF_MEM, less;
    uint16_t src, dst;
    uint64_t lin = 0;

    if (!bt_protected(c))
        bt_ud(c);
    src = (uint16_t)c->r[op->src / 8];
    if (mem) {
        /* Written only where the value changes: the first fault is one of reading. */
        lin = bt_op_lin(c, op, 2, BT_ACC_READ);
        dst = bt_ld16(c, lin, op->seg);
    } else {
        dst = (uint16_t)c->r[op->dst / 8];
    }
    less = (dst & 3) < (src & 3);
    if (less) {
        dst = (uint16_t)((dst & ~3U) | (src & 3));
        if (mem)
            bt_st16(c, bt_op_lin(c, op, 2, BT_ACC_WRITE), dst, op->seg);
        else
            bt_gpr_set(c, op->dst, 2, dst);
    }
    tbl_set_zf(c, less);
    return BT_NEXT;
}

static int tbl_bind(struct bt_op *op, bt_fn fn, unsigned what)
{
    op->fn = fn;
    op->x[0] = (uint8_t)what;
    return 0;
}

/* One operand: register or memory, source or destination. */
static int tbl_bind_one(const struct bt_insn *in, struct bt_op *op, bt_fn fn, unsigned what)
{
    if (bt_operand_is_reg(in, 0))
        op->src = op->dst = bt_reg_offset(in->ops[0].reg.value);
    return tbl_bind(op, fn, what);
}

static int tbl_bind_two(const struct bt_insn *in, struct bt_op *op, bt_fn fn, unsigned what)
{
    if (bt_operand_is_reg(in, 0))
        op->dst = bt_reg_offset(in->ops[0].reg.value);
    if (bt_operand_is_reg(in, 1))
        op->src = bt_reg_offset(in->ops[1].reg.value);
    return tbl_bind(op, fn, what);
}

int bt_bind_sys_table(struct bt_vcpu *c, const struct bt_insn *in, struct bt_op *op)
{
    op->x[1] = (uint8_t)bt_sys_osize(in);
    switch (in->zi.mnemonic) {
    case ZYDIS_MNEMONIC_LGDT:
        return tbl_bind(op, h_load_table, TBL_GDT);
    case ZYDIS_MNEMONIC_LIDT:
        return tbl_bind(op, h_load_table, TBL_IDT);
    case ZYDIS_MNEMONIC_SGDT:
        return tbl_bind(op, h_store_table, TBL_GDT);
    case ZYDIS_MNEMONIC_SIDT:
        return tbl_bind(op, h_store_table, TBL_IDT);
    case ZYDIS_MNEMONIC_LLDT:
        return tbl_bind_one(in, op, h_lldt, 0);
    case ZYDIS_MNEMONIC_LTR:
        return tbl_bind_one(in, op, h_ltr, 0);
    case ZYDIS_MNEMONIC_SLDT:
        return tbl_bind_one(in, op, h_sldt, 0);
    case ZYDIS_MNEMONIC_STR:
        return tbl_bind_one(in, op, h_str, 0);
    case ZYDIS_MNEMONIC_LAR:
        return tbl_bind_two(in, op, h_probe, TBL_LAR);
    case ZYDIS_MNEMONIC_LSL:
        return tbl_bind_two(in, op, h_probe, TBL_LSL);
    case ZYDIS_MNEMONIC_VERR:
        return tbl_bind_one(in, op, h_probe, TBL_VERR);
    case ZYDIS_MNEMONIC_VERW:
        return tbl_bind_one(in, op, h_probe, TBL_VERW);
    case ZYDIS_MNEMONIC_ARPL:
        return tbl_bind_two(in, op, h_arpl, 0);
    default:
        return -ENOENT;
    }
}
