/* PUSH and POP in all forms, PUSHA/POPA, PUSHF/POPF, ENTER/LEAVE. The stack pointer changes last: a fault leaves it
 * alone. */
#include "cpu/bt/int_priv.h"
#include "cpu/bt/sys.h"

uint64_t bt_stack_ld(struct bt_vcpu *c, const struct bt_op *op, uint64_t sp, unsigned size)
{
    uint64_t lin = bt_lin(c, op->flags & BT_OPF_LONG, BT_SS, sp, size, BT_ACC_READ);

    return size == 8 ? bt_ld64(c, lin, BT_SS) : size == 4 ? bt_ld32(c, lin, BT_SS) : bt_ld16(c, lin, BT_SS);
}

void bt_stack_st(struct bt_vcpu *c, const struct bt_op *op, uint64_t sp, unsigned size, uint64_t v)
{
    uint64_t lin = bt_lin(c, op->flags & BT_OPF_LONG, BT_SS, sp, size, BT_ACC_WRITE);

    if (size == 8)
        bt_st64(c, lin, v, BT_SS);
    else if (size == 4)
        bt_st32(c, lin, (uint32_t)v, BT_SS);
    else
        bt_st16(c, lin, (uint16_t)v, BT_SS);
}

/* A register by run-time operand size (2, 4, 8). */
static ALWAYS_INLINE uint64_t bt_rd_wide(struct bt_vcpu *c, unsigned off, unsigned size)
{
    return size == 8 ? bt_rd64(c, off) : size == 4 ? bt_rd32(c, off) : bt_rd16(c, off);
}

static ALWAYS_INLINE enum bt_next bt_push_any(struct bt_vcpu *c, const struct bt_op *op, uint64_t v)
{
    uint64_t mask = bt_sp_mask(c, op), sp = (c->r[BT_RSP] - op->osize) & mask;

    bt_stack_st(c, op, sp, op->osize, v);
    bt_sp_set(c, sp, mask);
    return BT_NEXT;
}

static ALWAYS_INLINE enum bt_next bt_push_64(struct bt_vcpu *c, uint64_t v)
{
    uint64_t sp = c->r[BT_RSP] - 8;

    bt_st64(c, sp, v, BT_SS);
    c->r[BT_RSP] = sp;
    return BT_NEXT;
}

static enum bt_next h_push_i(struct bt_vcpu *c, const struct bt_op *op)
{
    return bt_push_any(c, op, op->imm);
}
static enum bt_next h_push_r(struct bt_vcpu *c, const struct bt_op *op)
{
    return bt_push_any(c, op, bt_rd_wide(c, op->src, op->osize));
}
static enum bt_next h_push_m(struct bt_vcpu *c, const struct bt_op *op)
{
    return bt_push_any(c, op,
                       op->osize == 8   ? bt_mem_ld64(c, op)
                       : op->osize == 4 ? bt_mem_ld32(c, op)
                                        : bt_mem_ld16(c, op));
}
static enum bt_next h_push64_i(struct bt_vcpu *c, const struct bt_op *op)
{
    return bt_push_64(c, op->imm);
}
static enum bt_next h_push64_r(struct bt_vcpu *c, const struct bt_op *op)
{
    return bt_push_64(c, bt_rd64(c, op->src));
}
static enum bt_next h_push64_m(struct bt_vcpu *c, const struct bt_op *op)
{
    return bt_push_64(c, bt_mem_ld64(c, op));
}
const bt_fn bt_int_push[BT_BR_N] = { h_push_i, h_push_r, h_push_m };
const bt_fn bt_int_push64[BT_BR_N] = { h_push64_i, h_push64_r, h_push64_m };

enum bt_next bt_int_push_seg(struct bt_vcpu *c, const struct bt_op *op)
{
    return bt_push_any(c, op, c->seg[op->x[0]].sel);
}

static enum bt_next h_pop64_r(struct bt_vcpu *c, const struct bt_op *op)
{
    uint64_t sp = c->r[BT_RSP], v = bt_ld64(c, sp, BT_SS);

    c->r[BT_RSP] = sp + 8; /* POP RSP: the value wins */
    bt_wr64(c, op->dst, v);
    return BT_NEXT;
}
const bt_fn bt_int_pop64 = h_pop64_r;

static enum bt_next h_pop_r(struct bt_vcpu *c, const struct bt_op *op)
{
    uint64_t mask = bt_sp_mask(c, op), sp = c->r[BT_RSP] & mask, v = bt_stack_ld(c, op, sp, op->osize);

    bt_sp_set(c, sp + op->osize, mask);
    bt_wr(c, op->dst, op->osize, v);
    return BT_NEXT;
}

/* The binder has added the operand size to the displacement of an operand that is based on rSP: it is addressed with
 * the stack pointer after the pop. */
static enum bt_next h_pop_m(struct bt_vcpu *c, const struct bt_op *op)
{
    uint64_t mask = bt_sp_mask(c, op), sp = c->r[BT_RSP] & mask, v = bt_stack_ld(c, op, sp, op->osize);

    if (op->osize == 8)
        bt_mem_st64(c, op, v);
    else if (op->osize == 4)
        bt_mem_st32(c, op, (uint32_t)v);
    else
        bt_mem_st16(c, op, (uint16_t)v);
    bt_sp_set(c, sp + op->osize, mask);
    return BT_NEXT;
}
const bt_fn bt_int_pop[2] = { h_pop_r, h_pop_m };

/* All eight at once: both ends of the area are checked before the first store, so that a fault changes nothing. */
enum bt_next bt_int_pusha(struct bt_vcpu *c, const struct bt_op *op)
{
    uint64_t mask = bt_sp_mask(c, op), sp = c->r[BT_RSP] & mask;
    unsigned size = op->osize;

    for (unsigned i = 1; i <= 8; i++) {
        uint64_t at = (sp - i * size) & mask;

        bt_probe_write(c, c->ctx, bt_lin(c, false, BT_SS, at, size, BT_ACC_WRITE), size, BT_SS);
    }
    for (unsigned i = 0; i < 8; i++)
        bt_stack_st(c, op, (sp - (i + 1) * size) & mask, size, bt_rd_wide(c, i * 8, size));
    bt_sp_set(c, sp - 8 * size, mask);
    return BT_NEXT;
}

enum bt_next bt_int_popa(struct bt_vcpu *c, const struct bt_op *op)
{
    uint64_t mask = bt_sp_mask(c, op), sp = c->r[BT_RSP] & mask, v[8];
    unsigned size = op->osize;

    for (unsigned i = 0; i < 8; i++)
        v[i] = bt_stack_ld(c, op, (sp + i * size) & mask, size);
    for (unsigned i = 0; i < 8; i++) {
        unsigned reg = 7 - i;

        if (reg != BT_RSP)
            bt_wr(c, reg * 8, size, v[i]);
    }
    bt_sp_set(c, sp + 8 * size, mask);
    return BT_NEXT;
}

/* In virtual-8086 mode PUSHF and POPF need IOPL 3 (VME is not offered). */
static ALWAYS_INLINE void bt_check_vm86_iopl(struct bt_vcpu *c)
{
    if (UNLIKELY((c->rflags & BT_VM) && (c->rflags & BT_IOPL) != BT_IOPL))
        bt_gp(c, 0);
}

enum bt_next bt_int_pushf(struct bt_vcpu *c, const struct bt_op *op)
{
    bt_check_vm86_iopl(c);
    return bt_push_any(c, op, c->rflags & ~(uint64_t)(BT_RF | BT_VM));
}

enum bt_next bt_int_popf(struct bt_vcpu *c, const struct bt_op *op)
{
    uint64_t mask = bt_sp_mask(c, op), sp = c->r[BT_RSP] & mask, v;
    uint64_t writable = BT_ARITH | BT_TF | BT_DF | BT_NT;
    unsigned iopl = (unsigned)(c->rflags >> 12) & 3;

    bt_check_vm86_iopl(c);
    v = bt_stack_ld(c, op, sp, op->osize);
    if (op->osize > 2)
        writable |= BT_AC | BT_ID | BT_RF;
    if (c->cpl == 0)
        writable |= BT_IOPL;
    if (c->cpl <= iopl || (c->rflags & BT_VM))
        writable |= BT_IF;
    bt_sp_set(c, sp + op->osize, mask);
    bt_rflags_write(c, v & ~(uint64_t)BT_RF, writable);
    return BT_END;
}

/* ENTER imm16, imm8: op->imm is the size of the frame, op->x[0] the nesting level (0..31). The words below the old
 * stack pointer are written before a later fault, which is invisible to a program that respects its stack pointer; rBP
 * and rSP change last. */
enum bt_next bt_int_enter(struct bt_vcpu *c, const struct bt_op *op)
{
    uint64_t mask = bt_sp_mask(c, op), sp = c->r[BT_RSP] & mask, frame, final, bp = c->r[BT_RBP];
    unsigned size = op->osize, level = op->x[0];

    sp = (sp - size) & mask;
    frame = sp;
    bt_stack_st(c, op, sp, size, bp);
    for (unsigned i = 1; i < level; i++) {
        bp = (bp - size) & mask;
        sp = (sp - size) & mask;
        bt_stack_st(c, op, sp, size, bt_stack_ld(c, op, bp, size));
    }
    if (level) {
        sp = (sp - size) & mask;
        bt_stack_st(c, op, sp, size, frame);
    }
    final = (sp - op->imm) & mask;
    /* The new top of the stack must be writable. */
    bt_probe_write(c, c->ctx, bt_lin(c, op->flags & BT_OPF_LONG, BT_SS, final, size, BT_ACC_WRITE), size, BT_SS);
    bt_wr(c, BT_RBP * 8, size == 2 ? 2 : mask == 0xffff ? 2 : size, frame);
    bt_sp_set(c, final, mask);
    return BT_NEXT;
}

enum bt_next bt_int_leave(struct bt_vcpu *c, const struct bt_op *op)
{
    uint64_t mask = bt_sp_mask(c, op), sp = c->r[BT_RBP] & mask;
    uint64_t v = bt_stack_ld(c, op, sp, op->osize);

    bt_sp_set(c, sp + op->osize, mask);
    bt_wr(c, BT_RBP * 8, op->osize, v);
    return BT_NEXT;
}
