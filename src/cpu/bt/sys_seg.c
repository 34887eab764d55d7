/* Instructions on segment registers: MOV, PUSH, POP, LDS and kin, SWAPGS, RDFSBASE and kin. */
#include <errno.h>

#include "cpu/bt/sys_priv.h"

static enum bt_next h_mov_from_seg(struct bt_vcpu *c, const struct bt_op *op)
{
    bt_store_sel(c, op, c->seg[op->x[0]].sel);
    return BT_NEXT;
}

/* Behind a load of SS, interrupts and debug traps wait for one instruction. */
static enum bt_next seg_loaded(struct bt_vcpu *c, unsigned seg)
{
    if (seg == BT_SS)
        c->shadow |= BT_SHADOW_MOVSS;
    return BT_END;
}

static enum bt_next h_mov_to_seg(struct bt_vcpu *c, const struct bt_op *op)
{
    bt_seg_load(c, op->x[0], bt_load_sel(c, op));
    return seg_loaded(c, op->x[0]);
}

static enum bt_next h_push_seg(struct bt_vcpu *c, const struct bt_op *op)
{
    struct bt_stack k;

    bt_stack_current(c, &k);
    bt_stack_push(c, &k, c->seg[op->x[0]].sel, op->x[1]);
    c->r[BT_RSP] = bt_stack_rsp(c, &k);
    return BT_NEXT;
}

static enum bt_next h_pop_seg(struct bt_vcpu *c, const struct bt_op *op)
{
    struct bt_stack k;
    uint64_t rsp;
    uint16_t sel;

    bt_stack_current(c, &k);
    sel = (uint16_t)bt_stack_pop(c, &k, op->x[1]);
    rsp = bt_stack_rsp(c, &k);
    bt_seg_load(c, op->x[0], sel);
    c->r[BT_RSP] = rsp;
    return seg_loaded(c, op->x[0]);
}

/* LDS, LES, LSS, LFS, LGS: offset, then selector. */
static enum bt_next h_load_far(struct bt_vcpu *c, const struct bt_op *op)
{
    unsigned size = op->x[1];
    uint64_t lin = bt_op_lin(c, op, size + 2, BT_ACC_READ), off;
    uint16_t sel;

    off = size == 8 ? bt_ld64(c, lin, op->seg) : size == 4 ? bt_ld32(c, lin, op->seg) : bt_ld16(c, lin, op->seg);
    sel = bt_ld16(c, lin + size, op->seg);
    bt_seg_load(c, op->x[0], sel);
    bt_gpr_set(c, op->dst, size, off);
    return BT_END; /* LSS casts no shadow */
}

static enum bt_next h_swapgs(struct bt_vcpu *c, const struct bt_op *op)
{
    uint64_t base = c->seg[BT_GS].base;

    bt_require_cpl0(c);
    c->seg[BT_GS].base = c->segbase[BT_GS] = c->kernel_gs_base;
    c->kernel_gs_base = base;
    return BT_NEXT;
}

static enum bt_next h_rdbase(struct bt_vcpu *c, const struct bt_op *op)
{
    if (!(c->cr4 & BT_CR4_FSGSBASE))
        bt_ud(c);
    bt_gpr_set(c, op->dst, op->x[1], c->seg[op->x[0]].base);
    return BT_NEXT;
}

static enum bt_next h_wrbase(struct bt_vcpu *c, const struct bt_op *op)
{
    uint64_t v = bt_gpr_get(c, op->src, op->x[1]);

    if (!(c->cr4 & BT_CR4_FSGSBASE))
        bt_ud(c);
    if (!bt_canonical(v))
        bt_gp(c, 0);
    c->seg[op->x[0]].base = c->segbase[op->x[0]] = v;
    return BT_NEXT;
}

const bt_fn bt_sys_seg[BT_SYS_SEG_N] = {
    [BT_SYS_FROM_SEG] = h_mov_from_seg,
    [BT_SYS_SWAPGS] = h_swapgs,
    [BT_SYS_RDBASE] = h_rdbase,
    [BT_SYS_WRBASE] = h_wrbase,
};

static int seg_bind(struct bt_op *op, bt_fn fn, unsigned seg)
{
    op->fn = fn;
    op->x[0] = (uint8_t)seg;
    return 0;
}

static int seg_bind_mov(const struct bt_insn *in, struct bt_op *op)
{
    int to = bt_operand_is_reg(in, 0) ? bt_sreg_index(in->ops[0].reg.value) : -1;
    int from = bt_operand_is_reg(in, 1) ? bt_sreg_index(in->ops[1].reg.value) : -1;

    if (to >= 0) {
        if (to == BT_CS)
            return -EINVAL;
        if (bt_operand_is_reg(in, 1))
            op->src = bt_reg_offset(in->ops[1].reg.value);
        op->flags |= BT_OPF_END;
        return seg_bind(op, h_mov_to_seg, (unsigned)to);
    }
    if (from < 0)
        return -ENOENT;
    if (bt_operand_is_reg(in, 0))
        op->dst = bt_reg_offset(in->ops[0].reg.value);
    return seg_bind(op, h_mov_from_seg, (unsigned)from);
}

static int seg_bind_stack(const struct bt_insn *in, struct bt_op *op, bool push)
{
    int seg = bt_operand_is_reg(in, 0) ? bt_sreg_index(in->ops[0].reg.value) : -1;

    if (seg < 0)
        return -ENOENT;
    if (in->mode == BT_MODE_64)
        op->x[1] = op->x[1] == 2 ? 2 : 8;
    if (!push)
        op->flags |= BT_OPF_END;
    return seg_bind(op, push ? h_push_seg : h_pop_seg, (unsigned)seg);
}

static int seg_bind_far(const struct bt_insn *in, struct bt_op *op, unsigned seg)
{
    op->dst = bt_reg_offset(in->ops[0].reg.value);
    op->flags |= BT_OPF_END;
    return seg_bind(op, h_load_far, seg);
}

static int seg_bind_base(const struct bt_insn *in, struct bt_op *op, unsigned seg, bool write)
{
    op->dst = op->src = bt_reg_offset(in->ops[0].reg.value);
    op->x[1] = in->zi.raw.rex.W ? 8 : 4; /* 66h has no meaning here */
    return seg_bind(op, write ? h_wrbase : h_rdbase, seg);
}

int bt_bind_sys_seg(struct bt_vcpu *c, const struct bt_insn *in, struct bt_op *op)
{
    op->x[1] = (uint8_t)bt_sys_osize(in);
    switch (in->zi.mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        return seg_bind_mov(in, op);
    case ZYDIS_MNEMONIC_PUSH:
        return seg_bind_stack(in, op, true);
    case ZYDIS_MNEMONIC_POP:
        return seg_bind_stack(in, op, false);
    case ZYDIS_MNEMONIC_LDS:
        return seg_bind_far(in, op, BT_DS);
    case ZYDIS_MNEMONIC_LES:
        return seg_bind_far(in, op, BT_ES);
    case ZYDIS_MNEMONIC_LSS:
        return seg_bind_far(in, op, BT_SS);
    case ZYDIS_MNEMONIC_LFS:
        return seg_bind_far(in, op, BT_FS);
    case ZYDIS_MNEMONIC_LGS:
        return seg_bind_far(in, op, BT_GS);
    case ZYDIS_MNEMONIC_SWAPGS:
        return seg_bind(op, h_swapgs, 0);
    case ZYDIS_MNEMONIC_RDFSBASE:
        return seg_bind_base(in, op, BT_FS, false);
    case ZYDIS_MNEMONIC_RDGSBASE:
        return seg_bind_base(in, op, BT_GS, false);
    case ZYDIS_MNEMONIC_WRFSBASE:
        return seg_bind_base(in, op, BT_FS, true);
    case ZYDIS_MNEMONIC_WRGSBASE:
        return seg_bind_base(in, op, BT_GS, true);
    default:
        return -ENOENT;
    }
}
