/* Instructions on control and debug registers: MOV CR, MOV DR, CLTS, LMSW, SMSW, INVLPG, INVPCID. */
#include <errno.h>

#include "cpu/bt/irqchip/irqchip.h"
#include "cpu/bt/sys_priv.h"

/* x[0]: register number; x[1]: operand size. */

enum bt_next bt_sys_mov_from_cr(struct bt_vcpu *c, const struct bt_op *op)
{
    uint64_t v = 0;

    bt_require_cpl0(c);
    switch (op->x[0]) {
    case 0:
        v = c->cr0;
        break;
    case 2:
        v = c->cr2;
        break;
    case 3:
        v = c->cr3;
        break;
    case 4:
        v = c->cr4;
        break;
    case 8:
        v = bt_cr8_read(c);
        break;
    default:
        bt_ud(c);
    }
    bt_gpr_set(c, op->dst, op->x[1], v);
    return BT_NEXT;
}

static enum bt_next h_mov_to_cr(struct bt_vcpu *c, const struct bt_op *op)
{
    uint64_t v = bt_gpr_get(c, op->src, op->x[1]);

    bt_require_cpl0(c);
    switch (op->x[0]) {
    case 0:
        bt_set_cr0(c, v);
        break;
    case 2:
        c->cr2 = v;
        break;
    case 3:
        bt_set_cr3(c, v);
        break;
    case 4:
        bt_set_cr4(c, v);
        break;
    case 8:
        if (v > 15)
            bt_gp(c, 0);
        bt_cr8_write(c, (uint8_t)v);
        break;
    default:
        bt_ud(c);
    }
    return BT_END;
}

/* Checks common to both directions; returns the number with DR4 and DR5 resolved. */
static unsigned cr_check_dr(struct bt_vcpu *c, unsigned n)
{
    if (n == 4 || n == 5) {
        if (c->cr4 & BT_CR4_DE)
            bt_ud(c);
        n += 2;
    }
    bt_require_cpl0(c);
    if (c->dr[7] & BIT64(13))
        bt_raise_db(c, BT_DR6_BD);
    return n;
}

static enum bt_next h_mov_from_dr(struct bt_vcpu *c, const struct bt_op *op)
{
    unsigned n = cr_check_dr(c, op->x[0]);
    uint64_t v = c->dr[n];

    if (n == 6)
        v |= BT_DR6_FIXED;
    else if (n == 7)
        v |= BT_DR7_FIXED;
    bt_gpr_set(c, op->dst, op->x[1], v);
    return BT_NEXT;
}

static enum bt_next h_mov_to_dr(struct bt_vcpu *c, const struct bt_op *op)
{
    unsigned n = cr_check_dr(c, op->x[0]);
    uint64_t v = bt_gpr_get(c, op->src, op->x[1]);

    if (n >= 6 && v >> 32)
        bt_gp(c, 0);
    if (n == 6)
        v = (v & 0xe00f) | BT_DR6_FIXED;
    else if (n == 7)
        v = (v & 0xffff23ff) | BT_DR7_FIXED;
    c->dr[n] = v;
    if (n != 6)
        bt_debug_update(c);
    return BT_END;
}

static enum bt_next h_clts(struct bt_vcpu *c, const struct bt_op *op)
{
    bt_require_cpl0(c);
    c->cr0 &= ~BT_CR0_TS;
    return BT_END;
}

static enum bt_next h_lmsw(struct bt_vcpu *c, const struct bt_op *op)
{
    uint16_t v;

    bt_require_cpl0(c);
    v = bt_load_sel(c, op);
    /* PE can be set, but not cleared. */
    bt_set_cr0(c, (c->cr0 & ~0xeULL) | (v & 0xf));
    return BT_END;
}

static enum bt_next h_smsw(struct bt_vcpu *c, const struct bt_op *op)
{
    bt_check_umip(c);
    bt_store_sel(c, op, c->cr0);
    return BT_NEXT;
}

static enum bt_next h_invlpg(struct bt_vcpu *c, const struct bt_op *op)
{
    uint64_t lin = c->segbase[op->seg] + bt_ea(c, op);

    bt_require_cpl0(c);
    if (!bt_mode64(c))
        lin = (uint32_t)lin;
    if (bt_canonical(lin))
        bt_tlb_flush_page(c, lin);
    return BT_END;
}

static enum bt_next h_invpcid(struct bt_vcpu *c, const struct bt_op *op)
{
    uint64_t type = bt_gpr_get(c, op->src, bt_mode64(c) ? 8 : 4);
    uint64_t lin, pcid, addr;

    bt_require_cpl0(c);
    lin = bt_op_lin(c, op, 16, BT_ACC_READ);
    pcid = bt_ld64(c, lin, op->seg);
    addr = bt_ld64(c, lin + 8, op->seg);
    if (type > 3 || pcid >> 12 != 0)
        bt_gp(c, 0);
    if (type < 2 && !(c->cr4 & BT_CR4_PCIDE) && pcid != 0)
        bt_gp(c, 0);
    if (type == 0 && !bt_canonical(addr))
        bt_gp(c, 0);
    /* The TLB only ever holds the present PCID and globals. */
    if (type == 2)
        bt_tlb_flush_all(c);
    else if (type == 3)
        bt_tlb_flush_nonglobal(c);
    else if (pcid == ((c->cr4 & BT_CR4_PCIDE) ? c->cr3 & 0xfff : 0)) {
        if (type == 0)
            bt_tlb_flush_page(c, addr);
        else
            bt_tlb_flush_nonglobal(c);
    }
    return BT_END;
}

static int cr_bind(struct bt_op *op, bt_fn fn)
{
    op->fn = fn;
    op->flags |= BT_OPF_END;
    return 0;
}

static int cr_bind_mov(const struct bt_insn *in, struct bt_op *op)
{
    ZydisRegister to = bt_operand_is_reg(in, 0) ? in->ops[0].reg.value : ZYDIS_REGISTER_NONE;
    ZydisRegister from = bt_operand_is_reg(in, 1) ? in->ops[1].reg.value : ZYDIS_REGISTER_NONE;
    bool to_cr = to >= ZYDIS_REGISTER_CR0 && to <= ZYDIS_REGISTER_CR15;
    bool to_dr = to >= ZYDIS_REGISTER_DR0 && to <= ZYDIS_REGISTER_DR15;
    bool from_cr = from >= ZYDIS_REGISTER_CR0 && from <= ZYDIS_REGISTER_CR15;
    bool from_dr = from >= ZYDIS_REGISTER_DR0 && from <= ZYDIS_REGISTER_DR15;

    if (!(to_cr || to_dr || from_cr || from_dr))
        return -ENOENT;
    op->x[1] = in->mode == BT_MODE_64 ? 8 : 4;
    if (to_cr || to_dr) {
        op->src = bt_reg_offset(from);
        op->x[0] = (uint8_t)(to - (to_cr ? ZYDIS_REGISTER_CR0 : ZYDIS_REGISTER_DR0));
    } else {
        op->dst = bt_reg_offset(to);
        op->x[0] = (uint8_t)(from - (from_cr ? ZYDIS_REGISTER_CR0 : ZYDIS_REGISTER_DR0));
    }
    if ((to_dr || from_dr) && op->x[0] > 7)
        return -EINVAL;
    if (to_cr || from_cr)
        return cr_bind(op, to_cr ? h_mov_to_cr : bt_sys_mov_from_cr);
    return cr_bind(op, to_dr ? h_mov_to_dr : h_mov_from_dr);
}

int bt_bind_sys_cr(struct bt_vcpu *c, const struct bt_insn *in, struct bt_op *op)
{
    switch (in->zi.mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        return cr_bind_mov(in, op);
    case ZYDIS_MNEMONIC_CLTS:
        return cr_bind(op, h_clts);
    case ZYDIS_MNEMONIC_LMSW:
        if (bt_operand_is_reg(in, 0))
            op->src = bt_reg_offset(in->ops[0].reg.value);
        return cr_bind(op, h_lmsw);
    case ZYDIS_MNEMONIC_SMSW:
        op->x[1] = (uint8_t)bt_sys_osize(in);
        if (bt_operand_is_reg(in, 0))
            op->dst = bt_reg_offset(in->ops[0].reg.value);
        return cr_bind(op, h_smsw);
    case ZYDIS_MNEMONIC_INVLPG:
        return cr_bind(op, h_invlpg);
    case ZYDIS_MNEMONIC_INVPCID:
        op->src = bt_reg_offset(in->ops[0].reg.value);
        return cr_bind(op, h_invpcid);
    default:
        return -ENOENT;
    }
}
