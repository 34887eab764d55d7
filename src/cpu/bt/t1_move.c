/* Native code for data movement: MOV and kin, conditional moves, exchanges. The contract is t1_ops.h's; loads and
 * stores are single accesses of the operand's size, as guest SMP code expects. */
#include "cpu/bt/int_priv.h"
#include "cpu/bt/t1_ops.h"

static uint32_t t1_opcode(uint32_t opcode8, unsigned size)
{
    return opcode8 | (size != 1);
}

bool t1_op_nop(struct t1 *s, const struct t1_desc *d)
{
    return true;
}

/* mov register, immediate */
static void t1_mov_ri(struct t1 *s, unsigned size)
{
    const struct bt_op *op = s->op;
    struct bt_x x = t1_guest(op->dst);
    int reg;

    if (size <= 2) {
        bt_emit_ins(&s->e, size, t1_opcode(0xc6, size), 0, x);
        bt_emit_imm(&s->e, size, op->imm);
        return;
    }
    reg = t1_dst(op->dst, T1_A);
    bt_emit_const(&s->e, reg, size == 4 ? (uint32_t)op->imm : op->imm);
    t1_dst_done(s, op->dst, reg);
}

static void t1_mov_rr(struct t1 *s, unsigned size)
{
    const struct bt_op *op = s->op;
    int reg;

    if (t1_host[op->dst / 8] >= 0) {
        bt_emit_ins(&s->e, size, t1_opcode(0x8a, size), t1_host[op->dst / 8], t1_guest(op->src));
        return;
    }
    if (size == 4) { /* zero-extends */
        bt_emit_ins(&s->e, 4, 0x8b, T1_A, t1_guest(op->src));
        bt_emit_ins(&s->e, 8, 0x89, T1_A, t1_guest(op->dst));
        return;
    }
    reg = t1_src(s, op->src, T1_A);
    bt_emit_ins(&s->e, size, t1_opcode(0x88, size), reg, t1_guest(op->dst));
}

static bool t1_mov_mem(struct t1 *s, const struct t1_desc *d)
{
    const struct bt_op *op = s->op;
    struct bt_x x = bt_x_mem(T1_P, 0);
    unsigned size = d->size;
    int reg;

    if (!t1_mem(s, size, d->kind != BT_K_RM))
        return false;
    if (d->kind == BT_K_RM) {
        reg = t1_dst(op->dst, T1_A);
        bt_emit_ins(&s->e, size, t1_opcode(0x8a, size), reg, x);
        if (t1_host[op->dst / 8] < 0) /* partly, where the register is written partly */
            bt_emit_ins(&s->e, size == 4 ? 8 : size, t1_opcode(0x88, size), reg, t1_guest(op->dst));
        return true;
    }
    if (d->kind == BT_K_MR) {
        bt_emit_ins(&s->e, size, t1_opcode(0x88, size), t1_src(s, op->src, T1_A), x);
    } else {
        bt_emit_ins(&s->e, size, t1_opcode(0xc6, size), 0, x);
        bt_emit_imm(&s->e, size, op->imm);
    }
    t1_note_store(s, size);
    return true;
}

bool t1_op_mov(struct t1 *s, const struct t1_desc *d)
{
    switch (d->kind) {
    case BT_K_RI:
        t1_mov_ri(s, d->size);
        return true;
    case BT_K_RR:
        t1_mov_rr(s, d->size);
        return true;
    case BT_K_RM:
    case BT_K_MR:
    case BT_K_MI:
        return t1_mov_mem(s, d);
    default:
        return false;
    }
}

bool t1_op_movx(struct t1 *s, const struct t1_desc *d)
{
    uint32_t opcode =
        d->from == 4 ? 0x63 : (d->sub ? 0x0fbeU : 0x0fb6U) | (d->from == 2) | (d->from == 1 ? BT_OPC_RM8 : 0);
    struct bt_x x = t1_guest(s->op->src);
    int reg;

    if (d->kind) {
        if (!t1_mem(s, d->from, false))
            return false;
        x = bt_x_mem(T1_P, 0);
    }
    reg = d->size == 2 ? t1_dst_load(s, s->op->dst, T1_A) : t1_dst(s->op->dst, T1_A);
    bt_emit_ins(&s->e, d->size, opcode, reg, x);
    t1_dst_done(s, s->op->dst, reg);
    return true;
}

bool t1_op_lea(struct t1 *s, const struct t1_desc *d)
{
    const struct bt_op *op = s->op;
    int base = -1, index = -1, reg;

    if (op->asize != 8 || d->size == 2)
        return false;
    reg = t1_dst(op->dst, T1_A);
    if (op->index == BT_ZERO && (op->base == BT_RIP || op->base == BT_ZERO)) {
        uint64_t v = (uint64_t)op->disp + (op->base == BT_RIP ? s->rip : 0);

        bt_emit_const(&s->e, reg, d->size == 4 ? (uint32_t)v : v);
    } else {
        if (op->base == BT_RIP || op->disp != (int32_t)op->disp)
            return false;
        if (op->base != BT_ZERO)
            base = t1_src(s, op->base * 8U, T1_P);
        if (op->index != BT_ZERO)
            index = t1_src(s, op->index * 8U, T1_I);
        bt_emit_ins(&s->e, d->size, 0x8d, reg, bt_x_sib(base, index, op->scale, (int32_t)op->disp));
    }
    t1_dst_done(s, op->dst, reg);
    return true;
}

bool t1_op_cmov(struct t1 *s, const struct t1_desc *d)
{
    struct bt_x x = t1_guest(s->op->src);
    int reg;

    if (d->kind) {
        if (!t1_mem(s, d->size, false))
            return false;
        x = bt_x_mem(T1_P, 0);
    }
    t1_fl_host(s);
    reg = t1_dst_load(s, s->op->dst, T1_I);
    bt_emit_ins(&s->e, d->size, 0x0f40U | d->sub, reg, x);
    t1_dst_done(s, s->op->dst, reg);
    return true;
}

bool t1_op_setcc(struct t1 *s, const struct t1_desc *d)
{
    if (d->kind && !t1_mem(s, 1, true))
        return false;
    t1_fl_host(s);
    bt_emit_ins(&s->e, 1, 0x0f90U | d->sub, 0, d->kind ? bt_x_mem(T1_P, 0) : t1_guest(s->op->dst));
    if (d->kind)
        t1_note_store(s, 1);
    return true;
}

bool t1_op_cbw(struct t1 *s, const struct t1_desc *d)
{
    int rax = t1_host[BT_RAX];

    if (d->sub) { /* CWD, CDQ, CQO: guest RDX is in rdx */
        bt_emit_ins(&s->e, 8, 0x8b, T1_A, bt_x_reg(rax));
        if (d->size == 2)
            bt_emit_u8(&s->e, 0x66);
        else if (d->size == 8)
            bt_emit_u8(&s->e, 0x48);
        bt_emit_u8(&s->e, 0x99);
        return true;
    }
    bt_emit_ins(&s->e, d->size, d->size == 2 ? 0x0fbe | BT_OPC_RM8 : d->size == 4 ? 0x0fbf : 0x63, rax, bt_x_reg(rax));
    return true;
}

bool t1_op_bswap(struct t1 *s, const struct t1_desc *d)
{
    int reg;

    if (d->size == 2) /* undefined */
        return false;
    reg = t1_dst_load(s, s->op->dst, T1_A);
    if (d->size == 8 || reg >= 8)
        bt_emit_u8(&s->e, (uint8_t)(0x40 | (d->size == 8) << 3 | (reg >= 8)));
    bt_emit_u8(&s->e, 0x0f);
    bt_emit_u8(&s->e, (uint8_t)(0xc8 | (reg & 7)));
    if (t1_host[s->op->dst / 8] < 0 && d->size == 4)
        bt_emit_ins(&s->e, 4, 0x89, reg, bt_x_reg(reg));
    t1_dst_done(s, s->op->dst, reg);
    return true;
}

bool t1_op_xchg(struct t1 *s, const struct t1_desc *d)
{
    int a, b;

    if (s->op->dst == s->op->src && d->size != 4)
        return true;
    a = t1_dst_load(s, s->op->dst, T1_A);
    b = t1_src(s, s->op->src, T1_P);
    bt_emit_ins(&s->e, d->size, t1_opcode(0x86, d->size), a, bt_x_reg(b));
    t1_dst_done(s, s->op->src, b);
    t1_dst_done(s, s->op->dst, a);
    return true;
}

bool t1_op_xchg_m(struct t1 *s, const struct t1_desc *d)
{
    int reg;

    if (!t1_mem(s, d->size, true))
        return false;
    reg = t1_src(s, s->op->src, T1_A);
    bt_emit_ins(&s->e, d->size, t1_opcode(0x86, d->size), reg, bt_x_mem(T1_P, 0));
    t1_dst_done(s, s->op->src, reg);
    t1_note_store(s, d->size);
    return true;
}

bool t1_op_xadd(struct t1 *s, const struct t1_desc *d)
{
    int reg;

    if (d->kind == BT_U_R || !t1_mem(s, d->size, true))
        return false;
    reg = t1_src(s, s->op->src, T1_A);
    bt_emit_ins(&s->e, d->size, t1_opcode(0x0fc0, d->size) | (d->kind == BT_U_LM ? BT_OPC_LOCK : 0), reg,
                bt_x_mem(T1_P, 0));
    t1_dst_done(s, s->op->src, reg);
    s->fl = T1_FL_HOST;
    t1_note_store(s, d->size);
    return true;
}

bool t1_op_cmpxchg(struct t1 *s, const struct t1_desc *d)
{
    if (d->kind == BT_U_R || t1_host[s->op->src / 8] < 0 || !t1_mem(s, d->size, true))
        return false;
    bt_emit_ins(&s->e, 8, 0x8b, T1_A, t1_guest(BT_RAX * 8));
    bt_emit_ins(&s->e, d->size, t1_opcode(0x0fb0, d->size) | (d->kind == BT_U_LM ? BT_OPC_LOCK : 0),
                t1_host[s->op->src / 8], bt_x_mem(T1_P, 0));
    bt_emit_ins(&s->e, 8, 0x8b, t1_host[BT_RAX], bt_x_reg(T1_A));
    s->fl = T1_FL_HOST;
    t1_note_store(s, d->size);
    return true;
}
