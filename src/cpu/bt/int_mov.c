/* Data movement between registers and memory that touches no flags: MOV, MOVZX/MOVSX, LEA, MOVBE, BSWAP, XCHG between
 * registers, CMOVcc, SETcc, CBW and kin. Loads and stores are single accesses of the operand's size: guest SMP code
 * relies on it. */
#include "cpu/bt/int_priv.h"

#define DEF_MOV(bits)                                                              \
    static enum bt_next h_mov_rr##bits(struct bt_vcpu *c, const struct bt_op *op)  \
    {                                                                              \
        bt_wr##bits(c, op->dst, bt_rd##bits(c, op->src));                          \
        return BT_NEXT;                                                            \
    }                                                                              \
    static enum bt_next h_mov_ri##bits(struct bt_vcpu *c, const struct bt_op *op)  \
    {                                                                              \
        bt_wr##bits(c, op->dst, (uint##bits##_t)op->imm);                          \
        return BT_NEXT;                                                            \
    }                                                                              \
    static enum bt_next h_mov_rm##bits(struct bt_vcpu *c, const struct bt_op *op)  \
    {                                                                              \
        bt_wr##bits(c, op->dst, bt_mem_ld##bits(c, op));                           \
        return BT_NEXT;                                                            \
    }                                                                              \
    static enum bt_next h_mov_mr##bits(struct bt_vcpu *c, const struct bt_op *op)  \
    {                                                                              \
        bt_mem_st##bits(c, op, bt_rd##bits(c, op->src));                           \
        return BT_NEXT;                                                            \
    }                                                                              \
    static enum bt_next h_mov_mi##bits(struct bt_vcpu *c, const struct bt_op *op)  \
    {                                                                              \
        bt_mem_st##bits(c, op, (uint##bits##_t)op->imm);                           \
        return BT_NEXT;                                                            \
    }                                                                              \
    static enum bt_next h_xchg_rr##bits(struct bt_vcpu *c, const struct bt_op *op) \
    {                                                                              \
        uint##bits##_t a = bt_rd##bits(c, op->dst), b = bt_rd##bits(c, op->src);   \
                                                                                   \
        bt_wr##bits(c, op->dst, b);                                                \
        bt_wr##bits(c, op->src, a);                                                \
        return BT_NEXT;                                                            \
    }
DEF_MOV(8)
DEF_MOV(16)
DEF_MOV(32)
DEF_MOV(64)

#define SIZES(prefix)                                 \
    {                                                 \
        prefix##8, prefix##16, prefix##32, prefix##64 \
    }
#define WIDE_SIZES(prefix)                 \
    {                                      \
        prefix##16, prefix##32, prefix##64 \
    }
const bt_fn bt_int_mov[BT_K_N][4] = {
    [BT_K_RR] = SIZES(h_mov_rr), [BT_K_RI] = SIZES(h_mov_ri), [BT_K_RM] = SIZES(h_mov_rm),
    [BT_K_MR] = SIZES(h_mov_mr), [BT_K_MI] = SIZES(h_mov_mi),
};
const bt_fn bt_int_xchg_rr[4] = SIZES(h_xchg_rr);

/* ---- extension ---- */
#define DEF_EXTEND(from, to)                                                              \
    static enum bt_next h_movzx_r##from##_##to(struct bt_vcpu *c, const struct bt_op *op) \
    {                                                                                     \
        bt_wr##to(c, op->dst, bt_rd##from(c, op->src));                                   \
        return BT_NEXT;                                                                   \
    }                                                                                     \
    static enum bt_next h_movzx_m##from##_##to(struct bt_vcpu *c, const struct bt_op *op) \
    {                                                                                     \
        bt_wr##to(c, op->dst, bt_mem_ld##from(c, op));                                    \
        return BT_NEXT;                                                                   \
    }                                                                                     \
    DEF_SIGN_EXTEND(from, to)
#define DEF_SIGN_EXTEND(from, to)                                                                 \
    static enum bt_next h_movsx_r##from##_##to(struct bt_vcpu *c, const struct bt_op *op)         \
    {                                                                                             \
        bt_wr##to(c, op->dst, (uint##to##_t)(int##to##_t)(int##from##_t)bt_rd##from(c, op->src)); \
        return BT_NEXT;                                                                           \
    }                                                                                             \
    static enum bt_next h_movsx_m##from##_##to(struct bt_vcpu *c, const struct bt_op *op)         \
    {                                                                                             \
        bt_wr##to(c, op->dst, (uint##to##_t)(int##to##_t)(int##from##_t)bt_mem_ld##from(c, op));  \
        return BT_NEXT;                                                                           \
    }
DEF_EXTEND(8, 16)
DEF_EXTEND(8, 32)
DEF_EXTEND(8, 64)
DEF_EXTEND(16, 16)
DEF_EXTEND(16, 32)
DEF_EXTEND(16, 64)
DEF_SIGN_EXTEND(32, 32)
DEF_SIGN_EXTEND(32, 64)

const bt_fn bt_int_movzx[2][2][3] = {
    { WIDE_SIZES(h_movzx_r8_), WIDE_SIZES(h_movzx_r16_) },
    { WIDE_SIZES(h_movzx_m8_), WIDE_SIZES(h_movzx_m16_) },
};
const bt_fn bt_int_movsx[2][3][3] = {
    { WIDE_SIZES(h_movsx_r8_), WIDE_SIZES(h_movsx_r16_), { NULL, h_movsx_r32_32, h_movsx_r32_64 } },
    { WIDE_SIZES(h_movsx_m8_), WIDE_SIZES(h_movsx_m16_), { NULL, h_movsx_m32_32, h_movsx_m32_64 } },
};

#define DEF_CBW(from, to)                                                                               \
    static enum bt_next h_cbw##to(struct bt_vcpu *c, const struct bt_op *op)                            \
    {                                                                                                   \
        bt_wr##to(c, BT_RAX * 8, (uint##to##_t)(int##to##_t)(int##from##_t)bt_rd##from(c, BT_RAX * 8)); \
        return BT_NEXT;                                                                                 \
    }                                                                                                   \
    static enum bt_next h_cwd##to(struct bt_vcpu *c, const struct bt_op *op)                            \
    {                                                                                                   \
        bt_wr##to(c, BT_RDX * 8, (uint##to##_t)((int##to##_t)bt_rd##to(c, BT_RAX * 8) < 0 ? -1 : 0));   \
        return BT_NEXT;                                                                                 \
    }
DEF_CBW(8, 16)
DEF_CBW(16, 32)
DEF_CBW(32, 64)
const bt_fn bt_int_cbw[2][3] = { WIDE_SIZES(h_cbw), WIDE_SIZES(h_cwd) };

/* ---- LEA, byte swaps ---- */
static enum bt_next h_lea64_64(struct bt_vcpu *c, const struct bt_op *op)
{
    bt_wr64(c, op->dst, c->r[op->base] + (c->r[op->index] << op->scale) + (uint64_t)op->disp);
    return BT_NEXT;
}
const bt_fn bt_int_lea64 = h_lea64_64;

/* BSWAP of a 16-bit register is undefined in the manuals; CPUs write zero. */
static ALWAYS_INLINE uint16_t bt_swap_reg16(uint16_t v)
{
    return 0;
}
static ALWAYS_INLINE uint32_t bt_swap_reg32(uint32_t v)
{
    return __builtin_bswap32(v);
}
static ALWAYS_INLINE uint64_t bt_swap_reg64(uint64_t v)
{
    return __builtin_bswap64(v);
}

#define DEF_WIDE(bits)                                                              \
    static enum bt_next h_lea##bits(struct bt_vcpu *c, const struct bt_op *op)      \
    {                                                                               \
        bt_wr##bits(c, op->dst, (uint##bits##_t)bt_ea(c, op));                      \
        return BT_NEXT;                                                             \
    }                                                                               \
    static enum bt_next h_bswap##bits(struct bt_vcpu *c, const struct bt_op *op)    \
    {                                                                               \
        bt_wr##bits(c, op->dst, bt_swap_reg##bits(bt_rd##bits(c, op->dst)));        \
        return BT_NEXT;                                                             \
    }                                                                               \
    static enum bt_next h_movbe_rm##bits(struct bt_vcpu *c, const struct bt_op *op) \
    {                                                                               \
        bt_wr##bits(c, op->dst, __builtin_bswap##bits(bt_mem_ld##bits(c, op)));     \
        return BT_NEXT;                                                             \
    }                                                                               \
    static enum bt_next h_movbe_mr##bits(struct bt_vcpu *c, const struct bt_op *op) \
    {                                                                               \
        bt_mem_st##bits(c, op, __builtin_bswap##bits(bt_rd##bits(c, op->src)));     \
        return BT_NEXT;                                                             \
    }
DEF_WIDE(16)
DEF_WIDE(32)
DEF_WIDE(64)
const bt_fn bt_int_lea[3] = WIDE_SIZES(h_lea);
const bt_fn bt_int_bswap[3] = WIDE_SIZES(h_bswap);
const bt_fn bt_int_movbe[2][3] = { WIDE_SIZES(h_movbe_rm), WIDE_SIZES(h_movbe_mr) };

/* ---- by condition. CMOVcc reads its memory operand, and zeroes the upper half of a 32-bit destination, always. ----
 */
#define DEF_CMOV(cc, bits)                                                                   \
    static enum bt_next h_cmov_r##bits##_##cc(struct bt_vcpu *c, const struct bt_op *op)     \
    {                                                                                        \
        bt_wr##bits(c, op->dst, bt_rd##bits(c, bt_cond(c->rflags, cc) ? op->src : op->dst)); \
        return BT_NEXT;                                                                      \
    }                                                                                        \
    static enum bt_next h_cmov_m##bits##_##cc(struct bt_vcpu *c, const struct bt_op *op)     \
    {                                                                                        \
        uint##bits##_t v = bt_mem_ld##bits(c, op);                                           \
                                                                                             \
        bt_wr##bits(c, op->dst, bt_cond(c->rflags, cc) ? v : bt_rd##bits(c, op->dst));       \
        return BT_NEXT;                                                                      \
    }
#define DEF_COND(cc)                                                             \
    DEF_CMOV(cc, 16)                                                             \
    DEF_CMOV(cc, 32)                                                             \
    DEF_CMOV(cc, 64)                                                             \
    static enum bt_next h_setcc_r##cc(struct bt_vcpu *c, const struct bt_op *op) \
    {                                                                            \
        bt_wr8(c, op->dst, bt_cond(c->rflags, cc));                              \
        return BT_NEXT;                                                          \
    }                                                                            \
    static enum bt_next h_setcc_m##cc(struct bt_vcpu *c, const struct bt_op *op) \
    {                                                                            \
        bt_mem_st8(c, op, bt_cond(c->rflags, cc));                               \
        return BT_NEXT;                                                          \
    }
#define ALL_CONDS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
ALL_CONDS(DEF_COND)

#define CMOV_ROW(cc)                                                \
    [cc] = { { h_cmov_r16_##cc, h_cmov_r32_##cc, h_cmov_r64_##cc }, \
             { h_cmov_m16_##cc, h_cmov_m32_##cc, h_cmov_m64_##cc } },
#define SETCC_ROW(cc) [cc] = { h_setcc_r##cc, h_setcc_m##cc },
const bt_fn bt_int_cmov[16][2][3] = { ALL_CONDS(CMOV_ROW) };
const bt_fn bt_int_setcc[16][2] = { ALL_CONDS(SETCC_ROW) };
