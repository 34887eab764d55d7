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

    if (op->dst & 7) {
        reg = t1_dst_load(s, op->dst, T1_T);
        bt_emit_ins(&s->e, 1, 0xc6, 0, bt_x_reg(reg));
        bt_emit_u8(&s->e, (uint8_t)op->imm);
        t1_dst_done(s, op->dst, reg);
        return;
    }
    if (size <= 2) {
        bt_emit_ins(&s->e, size, t1_opcode(0xc6, size), 0, x);
        bt_emit_imm(&s->e, size, op->imm);
        return;
    }
    reg = t1_dst(op->dst, T1_T);
    bt_emit_const(&s->e, reg, size == 4 ? (uint32_t)op->imm : op->imm);
    t1_dst_done(s, op->dst, reg);
}

static void t1_mov_rr(struct t1 *s, unsigned size)
{
    const struct bt_op *op = s->op;
    int reg;

    if (op->dst & 7) {
        reg = t1_dst_load(s, op->dst, T1_T);
        bt_emit_ins(&s->e, 1, 0x8a, reg, t1_rm(s, op->src, T1_P));
        t1_dst_done(s, op->dst, reg);
        return;
    }
    if (t1_host[op->dst / 8] >= 0) {
        bt_emit_ins(&s->e, size, t1_opcode(0x8a, size), t1_host[op->dst / 8], t1_rm(s, op->src, T1_P));
        return;
    }
    if (size == 4) { /* zero-extends */
        bt_emit_ins(&s->e, 4, 0x8b, T1_T, t1_guest(op->src));
        bt_emit_ins(&s->e, 8, 0x89, T1_T, t1_guest(op->dst));
        return;
    }
    reg = t1_src(s, op->src, T1_T);
    bt_emit_ins(&s->e, size, t1_opcode(0x88, size), reg, t1_guest(op->dst));
}

static bool t1_mov_mem(struct t1 *s, const struct t1_desc *d)
{
    const struct bt_op *op = s->op;
    unsigned size = d->size;
    int reg;

    if (!t1_mem(s, size, d->kind != BT_K_RM))
        return false;
    if (d->kind == BT_K_RM) {
        reg = op->dst & 7 ? t1_dst_load(s, op->dst, T1_T) : t1_dst(op->dst, T1_T);
        bt_emit_ins(&s->e, size, t1_opcode(0x8a, size), reg, s->x);
        if (op->dst & 7)
            t1_dst_done(s, op->dst, reg);
        else if (t1_host[op->dst / 8] < 0) /* partly, where the register is written partly */
            bt_emit_ins(&s->e, size == 4 ? 8 : size, t1_opcode(0x88, size), reg, t1_guest(op->dst));
        return true;
    }
    if (d->kind == BT_K_MR) {
        bt_emit_ins(&s->e, size, t1_opcode(0x88, size), t1_src(s, op->src, T1_T), s->x);
    } else {
        bt_emit_ins(&s->e, size, t1_opcode(0xc6, size), 0, s->x);
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
    struct bt_x x;
    int reg;

    if (d->kind) {
        if (!t1_mem(s, d->from, false))
            return false;
        x = s->x;
    } else {
        x = t1_rm(s, s->op->src, T1_P);
    }
    reg = d->size == 2 ? t1_dst_load(s, s->op->dst, T1_T) : t1_dst(s->op->dst, T1_T);
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
    reg = t1_dst(op->dst, T1_T);
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
        if (index == T1_I)
            s->r10_group = -1;
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
        x = s->x;
    }
    t1_fl_host(s);
    reg = t1_dst_load(s, s->op->dst, T1_T);
    bt_emit_ins(&s->e, d->size, 0x0f40U | d->sub, reg, x);
    t1_dst_done(s, s->op->dst, reg);
    return true;
}

bool t1_op_setcc(struct t1 *s, const struct t1_desc *d)
{
    if (d->kind && !t1_mem(s, 1, true))
        return false;
    t1_fl_host(s);
    if (!d->kind && s->op->dst & 7) {
        int reg = t1_dst_load(s, s->op->dst, T1_T);

        bt_emit_ins(&s->e, 1, 0x0f90U | d->sub, 0, bt_x_reg(reg));
        t1_dst_done(s, s->op->dst, reg);
        return true;
    }
    bt_emit_ins(&s->e, 1, 0x0f90U | d->sub, 0, d->kind ? s->x : t1_guest(s->op->dst));
    if (d->kind)
        t1_note_store(s, 1);
    return true;
}

bool t1_op_cbw(struct t1 *s, const struct t1_desc *d)
{
    int rax = t1_host[BT_RAX], rdx = t1_host[BT_RDX];

    if (d->sub) { /* CWD, CDQ, CQO: the sign everywhere, without touching flags or rax */
        if (!s->t->bmi2 || d->size == 2)
            return false;
        bt_emit_const(&s->e, T1_T, d->size * 8 - 1);
        bt_emit_vex(&s->e, d->size, 2, 2, 0xf7, rdx, T1_T, bt_x_reg(rax)); /* sarx rdx, rax, r15 */
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
    reg = t1_dst_load(s, s->op->dst, T1_T);
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
    a = t1_dst_load(s, s->op->dst, T1_T);
    b = s->op->src == s->op->dst ? a : t1_src(s, s->op->src, T1_P);
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
    reg = t1_src(s, s->op->src, T1_T);
    bt_emit_ins(&s->e, d->size, t1_opcode(0x86, d->size), reg, s->x);
    t1_dst_done(s, s->op->src, reg);
    t1_note_store(s, d->size);
    return true;
}

bool t1_op_xadd(struct t1 *s, const struct t1_desc *d)
{
    int reg;

    if (d->kind == BT_U_R || !t1_mem(s, d->size, true))
        return false;
    reg = t1_src(s, s->op->src, T1_T);
    bt_emit_ins(&s->e, d->size, t1_opcode(0x0fc0, d->size) | (d->kind == BT_U_LM ? BT_OPC_LOCK : 0), reg, s->x);
    t1_dst_done(s, s->op->src, reg);
    t1_fl_set(s);
    t1_note_store(s, d->size);
    return true;
}

/* rax is the accumulator for the instruction only; it defines all flags. */
bool t1_op_cmpxchg(struct t1 *s, const struct t1_desc *d)
{
    int src;

    if (d->kind == BT_U_R || !t1_mem(s, d->size, true))
        return false;
    src = s->op->src == BT_RAX * 8 ? T1_A : t1_src(s, s->op->src, T1_T);
    bt_emit_ins(&s->e, 8, 0x8b, T1_A, t1_guest(BT_RAX * 8));
    bt_emit_ins(&s->e, d->size, t1_opcode(0x0fb0, d->size) | (d->kind == BT_U_LM ? BT_OPC_LOCK : 0), src, s->x);
    bt_emit_ins(&s->e, 8, 0x8b, t1_host[BT_RAX], bt_x_reg(T1_A));
    t1_fl_set(s);
    t1_note_store(s, d->size);
    return true;
}

/* ZF only; a misaligned operand traps and leads to the handler. */
bool t1_op_cmpxchg16b(struct t1 *s, const struct t1_desc *d)
{
    if (!t1_mem(s, 16, true))
        return false;
    bt_emit_ins(&s->e, 2, 0x89, T1_A, t1_state(T1_OFF(t1_flags)));
    s->slow = NULL;
    t1_slow_get(s)->from_mem = true;
    t1_fl_host(s);
    bt_emit_ins(&s->e, 8, 0x8b, T1_A, t1_guest(BT_RAX * 8));
    t1_trap_here(s);
    bt_emit_ins(&s->e, 8, 0x0fc7 | (s->op->flags & BT_OPF_LOCK ? BT_OPC_LOCK : 0), 1, s->x);
    bt_emit_ins(&s->e, 8, 0x8b, t1_host[BT_RAX], bt_x_reg(T1_A));
    t1_fl_set(s);
    t1_note_store(s, 16);
    return true;
}

bool t1_op_movbe(struct t1 *s, const struct t1_desc *d)
{
    const struct bt_op *op = s->op;
    int reg;

    if (!t1_mem(s, d->size, d->kind))
        return false;
    if (d->kind) {
        bt_emit_ins(&s->e, d->size, 0x0f38f1, t1_src(s, op->src, T1_T), s->x);
        t1_note_store(s, d->size);
        return true;
    }
    reg = d->size == 2 ? t1_dst_load(s, op->dst, T1_T) : t1_dst(op->dst, T1_T);
    bt_emit_ins(&s->e, d->size, 0x0f38f0, reg, s->x);
    t1_dst_done(s, op->dst, reg);
    return true;
}
