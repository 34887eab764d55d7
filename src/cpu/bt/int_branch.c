/* Near branches: Jcc, JMP, CALL, RET, LOOPcc, JrCXZ. The target is checked (canonical, CS limit) before anything
 * changes. op->aux is the displacement from the start of the instruction, so that one addition gives the target. Tables
 * have two rows: [0] any mode and size, [1] 64-bit mode with 64-bit operand size. */
#include "cpu/bt/int_priv.h"
#include "cpu/bt/sys.h"

static ALWAYS_INLINE bool bt_canonical(uint64_t a)
{
    return (uint64_t)((int64_t)(a << 16) >> 16) == a;
}

/* Check target; returns it truncated to the operation's size. long64: 64-bit mode and operand size (a constant). */
static ALWAYS_INLINE uint64_t bt_branch_check(struct bt_vcpu *c, const struct bt_op *op, uint64_t target, bool long64)
{
    if (long64) {
        if (UNLIKELY(!bt_canonical(target)))
            bt_check_rip(c, target);
        return target;
    }
    if (op->osize == 2)
        target &= 0xffff;
    else if (op->bits != 64)
        target &= 0xffffffff;
    if (op->bits == 64 || UNLIKELY(target > c->seg[BT_CS].limit))
        bt_check_rip(c, target);
    return target;
}

static ALWAYS_INLINE enum bt_next bt_branch(struct bt_vcpu *c, const struct bt_op *op, uint64_t target, bool long64)
{
    c->r[BT_RIP] = bt_branch_check(c, op, target, long64);
    return BT_JUMP;
}

#define DEF_JCC(cc)                                                              \
    static enum bt_next h_jcc_any##cc(struct bt_vcpu *c, const struct bt_op *op) \
    {                                                                            \
        if (!bt_cond(c->rflags, cc))                                             \
            return BT_END;                                                       \
        return bt_branch(c, op, c->r[BT_RIP] + op->aux, false);                  \
    }                                                                            \
    static enum bt_next h_jcc_64##cc(struct bt_vcpu *c, const struct bt_op *op)  \
    {                                                                            \
        if (!bt_cond(c->rflags, cc))                                             \
            return BT_END;                                                       \
        return bt_branch(c, op, c->r[BT_RIP] + op->aux, true);                   \
    }
#define ALL_CONDS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
ALL_CONDS(DEF_JCC)
#define JCC_ANY(cc) h_jcc_any##cc,
#define JCC_64(cc) h_jcc_64##cc,
const bt_fn bt_int_jcc[2][16] = { { ALL_CONDS(JCC_ANY) }, { ALL_CONDS(JCC_64) } };

/* Targets by operand kind. */
static ALWAYS_INLINE uint64_t bt_target_any(struct bt_vcpu *c, const struct bt_op *op, unsigned kind)
{
    if (kind == BT_BR_REL)
        return c->r[BT_RIP] + op->aux;
    if (kind == BT_BR_R)
        return op->osize == 2 ? bt_rd16(c, op->src) : op->osize == 4 ? bt_rd32(c, op->src) : bt_rd64(c, op->src);
    return op->osize == 2 ? bt_mem_ld16(c, op) : op->osize == 4 ? bt_mem_ld32(c, op) : bt_mem_ld64(c, op);
}

static ALWAYS_INLINE uint64_t bt_target_64(struct bt_vcpu *c, const struct bt_op *op, unsigned kind)
{
    if (kind == BT_BR_REL)
        return c->r[BT_RIP] + op->aux;
    return kind == BT_BR_R ? bt_rd64(c, op->src) : bt_mem_ld64(c, op);
}

#define DEF_JMP_CALL(kind)                                                            \
    static enum bt_next h_jmp_any_##kind(struct bt_vcpu *c, const struct bt_op *op)   \
    {                                                                                 \
        return bt_branch(c, op, bt_target_any(c, op, kind), false);                   \
    }                                                                                 \
    static enum bt_next h_jmp_64_##kind(struct bt_vcpu *c, const struct bt_op *op)    \
    {                                                                                 \
        return bt_branch(c, op, bt_target_64(c, op, kind), true);                     \
    }                                                                                 \
    static enum bt_next h_call_any_##kind(struct bt_vcpu *c, const struct bt_op *op)  \
    {                                                                                 \
        uint64_t target = bt_branch_check(c, op, bt_target_any(c, op, kind), false);  \
        uint64_t mask = bt_sp_mask(c, op), sp = (c->r[BT_RSP] - op->osize) & mask;    \
                                                                                      \
        bt_stack_st(c, op, sp, op->osize, c->r[BT_RIP] + op->len);                    \
        bt_sp_set(c, sp, mask);                                                       \
        c->r[BT_RIP] = target;                                                        \
        return BT_JUMP;                                                               \
    }                                                                                 \
    static enum bt_next h_call_64_##kind(struct bt_vcpu *c, const struct bt_op *op)   \
    {                                                                                 \
        uint64_t target = bt_target_64(c, op, kind), sp = c->r[BT_RSP] - 8;           \
                                                                                      \
        if (UNLIKELY(!bt_canonical(target))) { /* a fault of the stack comes first */ \
            bt_probe_write(c, c->ctx, sp, 8, BT_SS);                                  \
            bt_check_rip(c, target);                                                  \
        }                                                                             \
        bt_st64(c, sp, c->r[BT_RIP] + op->len, BT_SS);                                \
        c->r[BT_RSP] = sp;                                                            \
        c->r[BT_RIP] = target;                                                        \
        return BT_JUMP;                                                               \
    }
DEF_JMP_CALL(BT_BR_REL)
DEF_JMP_CALL(BT_BR_R)
DEF_JMP_CALL(BT_BR_M)
const bt_fn bt_int_jmp[2][BT_BR_N] = {
    { h_jmp_any_BT_BR_REL, h_jmp_any_BT_BR_R, h_jmp_any_BT_BR_M },
    { h_jmp_64_BT_BR_REL, h_jmp_64_BT_BR_R, h_jmp_64_BT_BR_M },
};
const bt_fn bt_int_call[2][BT_BR_N] = {
    { h_call_any_BT_BR_REL, h_call_any_BT_BR_R, h_call_any_BT_BR_M },
    { h_call_64_BT_BR_REL, h_call_64_BT_BR_R, h_call_64_BT_BR_M },
};

/* RET; op->imm: bytes to drop behind the return address. */
static enum bt_next h_ret_any(struct bt_vcpu *c, const struct bt_op *op)
{
    uint64_t mask = bt_sp_mask(c, op), sp = c->r[BT_RSP] & mask;
    uint64_t target = bt_branch_check(c, op, bt_stack_ld(c, op, sp, op->osize), false);

    bt_sp_set(c, sp + op->osize + op->imm, mask);
    c->r[BT_RIP] = target;
    return BT_JUMP;
}

static enum bt_next h_ret_64(struct bt_vcpu *c, const struct bt_op *op)
{
    uint64_t sp = c->r[BT_RSP];
    uint64_t target = bt_branch_check(c, op, bt_ld64(c, sp, BT_SS), true);

    c->r[BT_RSP] = sp + 8 + op->imm;
    c->r[BT_RIP] = target;
    return BT_JUMP;
}
const bt_fn bt_int_ret[2] = { h_ret_any, h_ret_64 };

/* LOOPNE, LOOPE, LOOP count rCX (by address size) down; JrCXZ only looks at it. */
static ALWAYS_INLINE enum bt_next bt_loop(struct bt_vcpu *c, const struct bt_op *op, unsigned kind)
{
    uint64_t count = (c->r[BT_RCX] - (kind == BT_LOOP_CXZ ? 0 : 1)) & bt_amask(op);
    uint64_t target = 0;
    bool taken = count != 0;

    if (kind == BT_LOOP_NE)
        taken = taken && !(c->rflags & BT_ZF);
    else if (kind == BT_LOOP_E)
        taken = taken && (c->rflags & BT_ZF);
    else if (kind == BT_LOOP_CXZ)
        taken = !taken;
    if (taken)
        target = bt_branch_check(c, op, c->r[BT_RIP] + op->aux, false);
    if (kind != BT_LOOP_CXZ)
        bt_areg_set(c, op, BT_RCX, count);
    if (!taken)
        return BT_END;
    c->r[BT_RIP] = target;
    return BT_JUMP;
}
static enum bt_next h_loopne(struct bt_vcpu *c, const struct bt_op *op)
{
    return bt_loop(c, op, BT_LOOP_NE);
}
static enum bt_next h_loope(struct bt_vcpu *c, const struct bt_op *op)
{
    return bt_loop(c, op, BT_LOOP_E);
}
static enum bt_next h_loop(struct bt_vcpu *c, const struct bt_op *op)
{
    return bt_loop(c, op, BT_LOOP);
}
static enum bt_next h_jcxz(struct bt_vcpu *c, const struct bt_op *op)
{
    return bt_loop(c, op, BT_LOOP_CXZ);
}
const bt_fn bt_int_loop[BT_LOOP_N] = { h_loopne, h_loope, h_loop, h_jcxz };
