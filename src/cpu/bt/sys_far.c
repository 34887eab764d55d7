/* Instructions that transfer control far: JMP, CALL, RET far, IRET, SYSCALL and kin, INT n and kin. */
#include <errno.h>

#include "cpu/bt/far_priv.h"

/* x[1]: size of the offset in bytes. */

/* Far pointer in memory: offset, then selector. */
static uint64_t far_load(struct bt_vcpu *c, const struct bt_op *op, uint16_t *ret_sel)
{
    unsigned size = op->x[1];
    uint64_t lin = bt_op_lin(c, op, size + 2, BT_ACC_READ);

    *ret_sel = bt_ld16(c, lin + size, op->seg);
    return size == 8 ? bt_ld64(c, lin, op->seg) : size == 4 ? bt_ld32(c, lin, op->seg) : bt_ld16(c, lin, op->seg);
}

static enum bt_next h_jmp_ptr(struct bt_vcpu *c, const struct bt_op *op)
{
    bt_far_jmp(c, (uint16_t)op->aux, op->imm, bt_next_rip(c, op));
    return BT_JUMP;
}

static enum bt_next h_jmp_mem(struct bt_vcpu *c, const struct bt_op *op)
{
    uint16_t sel;
    uint64_t off = far_load(c, op, &sel);

    bt_far_jmp(c, sel, off, bt_next_rip(c, op));
    return BT_JUMP;
}

static enum bt_next h_call_ptr(struct bt_vcpu *c, const struct bt_op *op)
{
    bt_far_call(c, (uint16_t)op->aux, op->imm, op->x[1], bt_next_rip(c, op));
    return BT_JUMP;
}

static enum bt_next h_call_mem(struct bt_vcpu *c, const struct bt_op *op)
{
    uint16_t sel;
    uint64_t off = far_load(c, op, &sel);

    bt_far_call(c, sel, off, op->x[1], bt_next_rip(c, op));
    return BT_JUMP;
}

static enum bt_next h_ret_far(struct bt_vcpu *c, const struct bt_op *op)
{
    bt_far_ret(c, op->x[1], (unsigned)op->imm);
    return BT_JUMP;
}

static enum bt_next h_iret(struct bt_vcpu *c, const struct bt_op *op)
{
    bt_iret(c, op->x[1], bt_next_rip(c, op));
    return BT_JUMP;
}

static enum bt_next h_syscall(struct bt_vcpu *c, const struct bt_op *op)
{
    bt_syscall(c, bt_next_rip(c, op));
    return BT_JUMP;
}

static enum bt_next h_sysret(struct bt_vcpu *c, const struct bt_op *op)
{
    bt_sysret(c, op->x[1] == 8);
    return BT_JUMP;
}

static enum bt_next h_sysenter(struct bt_vcpu *c, const struct bt_op *op)
{
    bt_sysenter(c);
    return BT_JUMP;
}

static enum bt_next h_sysexit(struct bt_vcpu *c, const struct bt_op *op)
{
    bt_sysexit(c, op->x[1] == 8);
    return BT_JUMP;
}

static enum bt_next h_int(struct bt_vcpu *c, const struct bt_op *op)
{
    if (bt_v86(c) && bt_iopl(c) < 3)
        bt_gp(c, 0);
    bt_raise_soft(c, (uint8_t)op->imm, bt_next_rip(c, op));
}

static enum bt_next h_int3(struct bt_vcpu *c, const struct bt_op *op)
{
    bt_raise_soft(c, BT_BP, bt_next_rip(c, op));
}

static enum bt_next h_int1(struct bt_vcpu *c, const struct bt_op *op)
{
    bt_raise_int1(c, bt_next_rip(c, op));
}

static enum bt_next h_into(struct bt_vcpu *c, const struct bt_op *op)
{
    if (c->rflags & BT_OF)
        bt_raise_soft(c, BT_OFV, bt_next_rip(c, op));
    return BT_NEXT;
}

static enum bt_next h_ud(struct bt_vcpu *c, const struct bt_op *op)
{
    bt_ud(c);
}

static int far_bind(struct bt_op *op, bt_fn fn)
{
    op->fn = fn;
    op->flags |= BT_OPF_END;
    return 0;
}

static int far_bind_jump(const struct bt_insn *in, struct bt_op *op, bool amd, bt_fn ptr, bt_fn mem)
{
    if (in->zi.meta.branch_type != ZYDIS_BRANCH_TYPE_FAR)
        return -ENOENT;
    if (in->ops[0].type == ZYDIS_OPERAND_TYPE_POINTER) {
        op->aux = in->ops[0].ptr.segment;
        op->imm = op->x[1] == 2 ? in->ops[0].ptr.offset & 0xffff : in->ops[0].ptr.offset;
        return far_bind(op, ptr);
    }
    if (op->x[1] == 8 && amd)
        op->x[1] = 4; /* AMD has no m16:64 */
    return far_bind(op, mem);
}

static int far_bind_ret(const struct bt_insn *in, struct bt_op *op)
{
    if (in->zi.meta.branch_type != ZYDIS_BRANCH_TYPE_FAR)
        return -ENOENT;
    op->imm = in->ops[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? in->ops[0].imm.value.u & 0xffff : 0;
    return far_bind(op, h_ret_far);
}

int bt_bind_sys_far(struct bt_vcpu *c, const struct bt_insn *in, struct bt_op *op)
{
    op->x[1] = (uint8_t)bt_sys_osize(in);
    switch (in->zi.mnemonic) {
    case ZYDIS_MNEMONIC_JMP:
        return far_bind_jump(in, op, c->sys.amd, h_jmp_ptr, h_jmp_mem);
    case ZYDIS_MNEMONIC_CALL:
        return far_bind_jump(in, op, c->sys.amd, h_call_ptr, h_call_mem);
    case ZYDIS_MNEMONIC_RET:
        return far_bind_ret(in, op);
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
        return far_bind(op, h_iret);
    case ZYDIS_MNEMONIC_SYSCALL:
        return far_bind(op, h_syscall);
    case ZYDIS_MNEMONIC_SYSRET:
        return far_bind(op, h_sysret);
    case ZYDIS_MNEMONIC_SYSENTER:
        return far_bind(op, h_sysenter);
    case ZYDIS_MNEMONIC_SYSEXIT:
        return far_bind(op, h_sysexit);
    case ZYDIS_MNEMONIC_INT:
        op->imm = in->ops[0].imm.value.u & 0xff;
        return far_bind(op, h_int);
    case ZYDIS_MNEMONIC_INT3:
        return far_bind(op, h_int3);
    case ZYDIS_MNEMONIC_INT1:
        return far_bind(op, h_int1);
    case ZYDIS_MNEMONIC_INTO:
        op->fn = h_into;
        return 0;
    case ZYDIS_MNEMONIC_UD0:
    case ZYDIS_MNEMONIC_UD1:
    case ZYDIS_MNEMONIC_UD2:
    case ZYDIS_MNEMONIC_RSM:
        return far_bind(op, h_ud);
    default:
        return -ENOENT;
    }
}
