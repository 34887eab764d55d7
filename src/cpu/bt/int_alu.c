/* ADD OR ADC SBB AND SUB XOR CMP, TEST, NOT NEG INC DEC: one handler for each operation, operand kind and size,
 * generated from one template. The flags come from the host's own instruction. Memory forms store before they commit
 * flags, so that a faulting store leaves the instruction undone. */
#include "cpu/bt/int_priv.h"

/* The operation on values: bt_alu_<name><bits>(&flags, d, s) returns the result. FL_IN: loads CF first. */
#define DEF_VALUE_OP(name, insn, bits, load_cf)                                                               \
    static ALWAYS_INLINE uint##bits##_t bt_alu_##name##bits(uint64_t *fl, uint##bits##_t d, uint##bits##_t s) \
    {                                                                                                         \
        uint32_t ax;                                                                                          \
                                                                                                              \
        __asm__(load_cf insn BT_SFX_##bits " %" BT_MOD_##bits "[s], %" BT_MOD_##bits "[d]" BT_FL_STORE        \
                : [d] "+&r"(d), "=a"(ax)                                                                      \
                : [s] "r"(s), [f] "r"((uint32_t)*fl)                                                          \
                : "cc");                                                                                      \
        *fl = bt_fl_merge(*fl, ax);                                                                           \
        return d;                                                                                             \
    }

/* Two-operand handlers; wb: 1 where the result is written back (CMP and TEST: 0). */
#define DEF_HANDLERS(name, bits, wb)                                                                                   \
    static enum bt_next h_##name##_rr##bits(struct bt_vcpu *c, const struct bt_op *op)                                 \
    {                                                                                                                  \
        uint##bits##_t d = bt_alu_##name##bits(&c->rflags, bt_rd##bits(c, op->dst), bt_rd##bits(c, op->src));          \
                                                                                                                       \
        if (wb)                                                                                                        \
            bt_wr##bits(c, op->dst, d);                                                                                \
        return BT_NEXT;                                                                                                \
    }                                                                                                                  \
    static enum bt_next h_##name##_ri##bits(struct bt_vcpu *c, const struct bt_op *op)                                 \
    {                                                                                                                  \
        uint##bits##_t d = bt_alu_##name##bits(&c->rflags, bt_rd##bits(c, op->dst), (uint##bits##_t)op->imm);          \
                                                                                                                       \
        if (wb)                                                                                                        \
            bt_wr##bits(c, op->dst, d);                                                                                \
        return BT_NEXT;                                                                                                \
    }                                                                                                                  \
    static enum bt_next h_##name##_rm##bits(struct bt_vcpu *c, const struct bt_op *op)                                 \
    {                                                                                                                  \
        uint##bits##_t s = bt_mem_ld##bits(c, op);                                                                     \
        uint##bits##_t d = bt_alu_##name##bits(&c->rflags, bt_rd##bits(c, op->dst), s);                                \
                                                                                                                       \
        if (wb)                                                                                                        \
            bt_wr##bits(c, op->dst, d);                                                                                \
        return BT_NEXT;                                                                                                \
    }                                                                                                                  \
    static ALWAYS_INLINE enum bt_next h_##name##_mx##bits(struct bt_vcpu *c, const struct bt_op *op, uint##bits##_t s) \
    {                                                                                                                  \
        uint64_t fl = c->rflags;                                                                                       \
        struct bt_rmw m;                                                                                               \
                                                                                                                       \
        if (wb)                                                                                                        \
            bt_rmw_st##bits(c, op, &m, bt_alu_##name##bits(&fl, bt_rmw_ld##bits(c, op, &m), s));                       \
        else                                                                                                           \
            (void)bt_alu_##name##bits(&fl, bt_mem_ld##bits(c, op), s);                                                 \
        c->rflags = fl;                                                                                                \
        return BT_NEXT;                                                                                                \
    }                                                                                                                  \
    static enum bt_next h_##name##_mr##bits(struct bt_vcpu *c, const struct bt_op *op)                                 \
    {                                                                                                                  \
        return h_##name##_mx##bits(c, op, bt_rd##bits(c, op->src));                                                    \
    }                                                                                                                  \
    static enum bt_next h_##name##_mi##bits(struct bt_vcpu *c, const struct bt_op *op)                                 \
    {                                                                                                                  \
        return h_##name##_mx##bits(c, op, (uint##bits##_t)op->imm);                                                    \
    }

#define DEF_LOCKED(name, bits)                                                                                         \
    static ALWAYS_INLINE enum bt_next h_##name##_lx##bits(struct bt_vcpu *c, const struct bt_op *op, uint##bits##_t s) \
    {                                                                                                                  \
        uint64_t lin = bt_op_lin(c, op, bits / 8, BT_ACC_RMW);                                                         \
        uint64_t fl = c->rflags;                                                                                       \
        uint##bits##_t d;                                                                                              \
                                                                                                                       \
        BT_ATOMIC_RMW(c, op, bits, lin, d, {                                                                           \
            fl = c->rflags;                                                                                            \
            d = bt_alu_##name##bits(&fl, d, s);                                                                        \
        });                                                                                                            \
        c->rflags = fl;                                                                                                \
        return BT_NEXT;                                                                                                \
    }                                                                                                                  \
    static enum bt_next h_##name##_lmr##bits(struct bt_vcpu *c, const struct bt_op *op)                                \
    {                                                                                                                  \
        return h_##name##_lx##bits(c, op, bt_rd##bits(c, op->src));                                                    \
    }                                                                                                                  \
    static enum bt_next h_##name##_lmi##bits(struct bt_vcpu *c, const struct bt_op *op)                                \
    {                                                                                                                  \
        return h_##name##_lx##bits(c, op, (uint##bits##_t)op->imm);                                                    \
    }

#define DEF_ALU_SIZE(name, bits, load_cf)    \
    DEF_VALUE_OP(name, #name, bits, load_cf) \
    DEF_HANDLERS(name, bits, 1)              \
    DEF_LOCKED(name, bits)
#define DEF_ALU(name, load_cf)      \
    DEF_ALU_SIZE(name, 8, load_cf)  \
    DEF_ALU_SIZE(name, 16, load_cf) \
    DEF_ALU_SIZE(name, 32, load_cf) \
    DEF_ALU_SIZE(name, 64, load_cf)
#define DEF_COMPARE_SIZE(name, bits)    \
    DEF_VALUE_OP(name, #name, bits, "") \
    DEF_HANDLERS(name, bits, 0)
#define DEF_COMPARE(name)      \
    DEF_COMPARE_SIZE(name, 8)  \
    DEF_COMPARE_SIZE(name, 16) \
    DEF_COMPARE_SIZE(name, 32) \
    DEF_COMPARE_SIZE(name, 64)

#define LOAD_CF "btl $0, %k[f]\n\t"

DEF_ALU(add, "")
DEF_ALU(or, "")
DEF_ALU(adc, LOAD_CF)
DEF_ALU(sbb, LOAD_CF)
DEF_ALU(and, "")
DEF_ALU(sub, "")
DEF_ALU(xor, "")
DEF_COMPARE(cmp)
DEF_COMPARE(test)

#define SIZES(prefix)                                 \
    {                                                 \
        prefix##8, prefix##16, prefix##32, prefix##64 \
    }
#define KINDS(name)                                                                                       \
    [BT_K_RR] = SIZES(h_##name##_rr), [BT_K_RI] = SIZES(h_##name##_ri), [BT_K_RM] = SIZES(h_##name##_rm), \
    [BT_K_MR] = SIZES(h_##name##_mr), [BT_K_MI] = SIZES(h_##name##_mi)
#define ALL_KINDS(name)                                                                      \
    {                                                                                        \
        KINDS(name), [BT_K_LMR] = SIZES(h_##name##_lmr), [BT_K_LMI] = SIZES(h_##name##_lmi), \
    }

const bt_fn bt_int_alu[BT_ALU_N][BT_K_N][4] = {
    [BT_ALU_ADD] = ALL_KINDS(add), [BT_ALU_OR] = ALL_KINDS(or),   [BT_ALU_ADC] = ALL_KINDS(adc),
    [BT_ALU_SBB] = ALL_KINDS(sbb), [BT_ALU_AND] = ALL_KINDS(and), [BT_ALU_SUB] = ALL_KINDS(sub),
    [BT_ALU_XOR] = ALL_KINDS(xor), [BT_ALU_CMP] = { KINDS(cmp) },
};
const bt_fn bt_int_test[BT_K_N][4] = { KINDS(test) };

/* ---- one operand. INC and DEC keep CF, NOT keeps all flags: the guest's are loaded first. ---- */
#define DEF_UNARY_SIZE(name, bits)                                                         \
    static ALWAYS_INLINE uint##bits##_t bt_un_##name##bits(uint64_t *fl, uint##bits##_t d) \
    {                                                                                      \
        uint32_t ax = bt_fl_pack(*fl);                                                     \
                                                                                           \
        __asm__(BT_FL_LOAD #name BT_SFX_##bits " %" BT_MOD_##bits "[d]" BT_FL_STORE        \
                : [d] "+&r"(d), "+&a"(ax)                                                  \
                :                                                                          \
                : "cc");                                                                   \
        *fl = bt_fl_merge(*fl, ax);                                                        \
        return d;                                                                          \
    }                                                                                      \
    static enum bt_next h_##name##_r##bits(struct bt_vcpu *c, const struct bt_op *op)      \
    {                                                                                      \
        bt_wr##bits(c, op->dst, bt_un_##name##bits(&c->rflags, bt_rd##bits(c, op->dst)));  \
        return BT_NEXT;                                                                    \
    }                                                                                      \
    static enum bt_next h_##name##_m##bits(struct bt_vcpu *c, const struct bt_op *op)      \
    {                                                                                      \
        uint64_t fl = c->rflags;                                                           \
        struct bt_rmw m;                                                                   \
                                                                                           \
        bt_rmw_st##bits(c, op, &m, bt_un_##name##bits(&fl, bt_rmw_ld##bits(c, op, &m)));   \
        c->rflags = fl;                                                                    \
        return BT_NEXT;                                                                    \
    }                                                                                      \
    static enum bt_next h_##name##_lm##bits(struct bt_vcpu *c, const struct bt_op *op)     \
    {                                                                                      \
        uint64_t lin = bt_op_lin(c, op, bits / 8, BT_ACC_RMW);                             \
        uint64_t fl = c->rflags;                                                           \
        uint##bits##_t d;                                                                  \
                                                                                           \
        BT_ATOMIC_RMW(c, op, bits, lin, d, {                                               \
            fl = c->rflags;                                                                \
            d = bt_un_##name##bits(&fl, d);                                                \
        });                                                                                \
        c->rflags = fl;                                                                    \
        return BT_NEXT;                                                                    \
    }
#define DEF_UNARY(name)      \
    DEF_UNARY_SIZE(name, 8)  \
    DEF_UNARY_SIZE(name, 16) \
    DEF_UNARY_SIZE(name, 32) \
    DEF_UNARY_SIZE(name, 64)

DEF_UNARY(not )
DEF_UNARY(neg)
DEF_UNARY(inc)
DEF_UNARY(dec)

#define UNARY_KINDS(name)                                                                                 \
    {                                                                                                     \
        [BT_U_R] = SIZES(h_##name##_r), [BT_U_M] = SIZES(h_##name##_m), [BT_U_LM] = SIZES(h_##name##_lm), \
    }
const bt_fn bt_int_unary[BT_UN_N][BT_U_N][4] = {
    [BT_UN_NOT] = UNARY_KINDS(not ),
    [BT_UN_NEG] = UNARY_KINDS(neg),
    [BT_UN_INC] = UNARY_KINDS(inc),
    [BT_UN_DEC] = UNARY_KINDS(dec),
};
