/* MUL, IMUL, DIV and IDIV in all forms. Quotients are checked for range first (#DE), then the host's own instruction
 * computes result and flags. */
#include "cpu/bt/int_priv.h"

/* One-operand forms on host registers: lo and hi are rAX and rDX (8 bits: lo is AX whole). The accumulator is needed by
 * both the instruction and LAHF, hence the moves, which leave flags alone. */
#define DEF_ONE(name, bits)                                                                                  \
    static ALWAYS_INLINE void bt_md_##name##bits(uint64_t *fl, uint64_t *lo, uint64_t *hi, uint##bits##_t s) \
    {                                                                                                        \
        uint64_t ax = bt_fl_pack(*fl);                                                                       \
                                                                                                             \
        __asm__(BT_FL_LOAD "mov %[lo], %%rax\n\t" #name BT_SFX_##bits " %" BT_MOD_##bits                     \
                "[s]\n\tmov %%rax, %[lo]" BT_FL_STORE                                                        \
                : "+&a"(ax), "+&d"(*hi), [lo] "+&r"(*lo)                                                     \
                : [s] "r"(s)                                                                                 \
                : "cc");                                                                                     \
        *fl = bt_fl_merge(*fl, (uint32_t)ax);                                                                \
    }
#define DEF_ONE_SIZES(name) DEF_ONE(name, 8) DEF_ONE(name, 16) DEF_ONE(name, 32) DEF_ONE(name, 64)
DEF_ONE_SIZES(mul)
DEF_ONE_SIZES(imul)
DEF_ONE_SIZES(div)
DEF_ONE_SIZES(idiv)

/* Whether hi:lo / s (each half `bits` wide) has a quotient that fits. */
static ALWAYS_INLINE bool bt_div_fits(uint64_t hi, uint64_t s)
{
    return hi < s;
}

static ALWAYS_INLINE bool bt_idiv_fits(int64_t n, int64_t s, unsigned bits)
{
    int64_t q;

    if (s == 0 || (s == -1 && n == INT64_MIN))
        return false;
    q = n / s;
    return q >= -(1LL << (bits - 1)) && q < 1LL << (bits - 1);
}

/* The 128-bit case by magnitudes: |n| / |s| must be below 2^63, or exactly 2^63 where the quotient is negative. */
static bool bt_idiv128_fits(uint64_t hi, uint64_t lo, int64_t s)
{
    uint64_t d = s < 0 ? 0 - (uint64_t)s : (uint64_t)s, q, r;
    bool n_neg = (int64_t)hi < 0;

    if (n_neg) {
        lo = 0 - lo;
        hi = ~hi + (lo == 0);
    }
    if (hi >= d)
        return false;
    __asm__("divq %[d]" : "=a"(q), "=d"(r) : "a"(lo), "d"(hi), [d] "r"(d) : "cc");
    return n_neg != (s < 0) ? q <= 1ULL << 63 : q < 1ULL << 63;
}

static ALWAYS_INLINE bool bt_ok_mul(uint64_t lo, uint64_t hi, uint64_t s, unsigned bits)
{
    return true;
}
static ALWAYS_INLINE bool bt_ok_imul(uint64_t lo, uint64_t hi, uint64_t s, unsigned bits)
{
    return true;
}
static ALWAYS_INLINE bool bt_ok_div(uint64_t lo, uint64_t hi, uint64_t s, unsigned bits)
{
    return bits == 8 ? bt_div_fits((uint8_t)(lo >> 8), s) : bt_div_fits(hi, s);
}
static ALWAYS_INLINE bool bt_ok_idiv(uint64_t lo, uint64_t hi, uint64_t s, unsigned bits)
{
    if (bits == 8)
        return bt_idiv_fits((int16_t)lo, (int8_t)s, 8);
    if (bits == 16)
        return bt_idiv_fits((int32_t)((uint32_t)hi << 16 | (uint16_t)lo), (int16_t)s, 16);
    if (bits == 32)
        return bt_idiv_fits((int64_t)(hi << 32 | (uint32_t)lo), (int32_t)s, 32);
    return bt_idiv128_fits(hi, lo, (int64_t)s);
}

/* RAX and RDX go through the host instruction whole, so that it decides what happens to upper parts. */
#define DEF_ONE_HANDLER(name, bits)                                                           \
    static ALWAYS_INLINE enum bt_next h_##name##_x##bits(struct bt_vcpu *c, uint##bits##_t s) \
    {                                                                                         \
        uint64_t lo = c->r[BT_RAX], hi = c->r[BT_RDX], fl = c->rflags;                        \
                                                                                              \
        if (UNLIKELY(!bt_ok_##name(lo, bt_rd##bits(c, BT_RDX * 8), s, bits)))                 \
            bt_raise(c, BT_DE);                                                               \
        bt_md_##name##bits(&fl, &lo, &hi, s);                                                 \
        c->r[BT_RAX] = lo;                                                                    \
        c->r[BT_RDX] = hi;                                                                    \
        c->rflags = fl;                                                                       \
        return BT_NEXT;                                                                       \
    }                                                                                         \
    static enum bt_next h_##name##_r##bits(struct bt_vcpu *c, const struct bt_op *op)         \
    {                                                                                         \
        return h_##name##_x##bits(c, bt_rd##bits(c, op->src));                                \
    }                                                                                         \
    static enum bt_next h_##name##_m##bits(struct bt_vcpu *c, const struct bt_op *op)         \
    {                                                                                         \
        return h_##name##_x##bits(c, bt_mem_ld##bits(c, op));                                 \
    }
#define DEF_ONE_HANDLERS(name) \
    DEF_ONE_HANDLER(name, 8)   \
    DEF_ONE_HANDLER(name, 16)  \
    DEF_ONE_HANDLER(name, 32)  \
    DEF_ONE_HANDLER(name, 64)
DEF_ONE_HANDLERS(mul)
DEF_ONE_HANDLERS(imul)
DEF_ONE_HANDLERS(div)
DEF_ONE_HANDLERS(idiv)

#define ROW(name)                                                              \
    {                                                                          \
        { h_##name##_r8, h_##name##_r16, h_##name##_r32, h_##name##_r64 },     \
            { h_##name##_m8, h_##name##_m16, h_##name##_m32, h_##name##_m64 }, \
    }
const bt_fn bt_int_mul[BT_MUL_N][2][4] = { ROW(mul), ROW(imul), ROW(div), ROW(idiv) };

/* IMUL with two and three operands. */
#define DEF_IMUL(bits)                                                                                             \
    static ALWAYS_INLINE void bt_imul2_##bits(struct bt_vcpu *c, unsigned dst, uint##bits##_t d, uint##bits##_t s) \
    {                                                                                                              \
        uint32_t ax = bt_fl_pack(c->rflags);                                                                       \
                                                                                                                   \
        __asm__(BT_FL_LOAD "imul" BT_SFX_##bits " %" BT_MOD_##bits "[s], %" BT_MOD_##bits "[d]" BT_FL_STORE        \
                : [d] "+&r"(d), "+&a"(ax)                                                                          \
                : [s] "r"(s)                                                                                       \
                : "cc");                                                                                           \
        c->rflags = bt_fl_merge(c->rflags, ax);                                                                    \
        bt_wr##bits(c, dst, d);                                                                                    \
    }                                                                                                              \
    static enum bt_next h_imul2_r##bits(struct bt_vcpu *c, const struct bt_op *op)                                 \
    {                                                                                                              \
        bt_imul2_##bits(c, op->dst, bt_rd##bits(c, op->dst), bt_rd##bits(c, op->src));                             \
        return BT_NEXT;                                                                                            \
    }                                                                                                              \
    static enum bt_next h_imul2_m##bits(struct bt_vcpu *c, const struct bt_op *op)                                 \
    {                                                                                                              \
        bt_imul2_##bits(c, op->dst, bt_rd##bits(c, op->dst), bt_mem_ld##bits(c, op));                              \
        return BT_NEXT;                                                                                            \
    }                                                                                                              \
    static enum bt_next h_imul3_r##bits(struct bt_vcpu *c, const struct bt_op *op)                                 \
    {                                                                                                              \
        bt_imul2_##bits(c, op->dst, bt_rd##bits(c, op->src), (uint##bits##_t)op->imm);                             \
        return BT_NEXT;                                                                                            \
    }                                                                                                              \
    static enum bt_next h_imul3_m##bits(struct bt_vcpu *c, const struct bt_op *op)                                 \
    {                                                                                                              \
        bt_imul2_##bits(c, op->dst, bt_mem_ld##bits(c, op), (uint##bits##_t)op->imm);                              \
        return BT_NEXT;                                                                                            \
    }
DEF_IMUL(16)
DEF_IMUL(32)
DEF_IMUL(64)
const bt_fn bt_int_imul2[2][3] = { { h_imul2_r16, h_imul2_r32, h_imul2_r64 },
                                   { h_imul2_m16, h_imul2_m32, h_imul2_m64 } };
const bt_fn bt_int_imul3[2][3] = { { h_imul3_r16, h_imul3_r32, h_imul3_r64 },
                                   { h_imul3_m16, h_imul3_m32, h_imul3_m64 } };
