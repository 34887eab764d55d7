/* Shifts and rotates, SHLD and SHRD. The guest's flags are loaded into the host's before the host's own instruction
 * runs, so that a zero count leaves them alone and undefined ones come out as on this CPU. */
#include "cpu/bt/int_priv.h"

#define DEF_SHIFT_SIZE(name, bits)                                                                               \
    static ALWAYS_INLINE uint##bits##_t bt_sh_##name##bits(uint64_t *fl, uint##bits##_t d, uint8_t n)            \
    {                                                                                                            \
        uint32_t ax = bt_fl_pack(*fl);                                                                           \
                                                                                                                 \
        __asm__(BT_FL_LOAD #name BT_SFX_##bits " %%cl, %" BT_MOD_##bits "[d]" BT_FL_STORE                        \
                : [d] "+&r"(d), "+&a"(ax)                                                                        \
                : "c"(n)                                                                                         \
                : "cc");                                                                                         \
        *fl = bt_fl_merge(*fl, ax);                                                                              \
        return d;                                                                                                \
    }                                                                                                            \
    static ALWAYS_INLINE enum bt_next h_##name##_mx##bits(struct bt_vcpu *c, const struct bt_op *op, uint8_t n)  \
    {                                                                                                            \
        uint64_t fl = c->rflags;                                                                                 \
        struct bt_rmw m;                                                                                         \
                                                                                                                 \
        bt_rmw_st##bits(c, op, &m, bt_sh_##name##bits(&fl, bt_rmw_ld##bits(c, op, &m), n));                      \
        c->rflags = fl;                                                                                          \
        return BT_NEXT;                                                                                          \
    }                                                                                                            \
    static enum bt_next h_##name##_ri##bits(struct bt_vcpu *c, const struct bt_op *op)                           \
    {                                                                                                            \
        bt_wr##bits(c, op->dst, bt_sh_##name##bits(&c->rflags, bt_rd##bits(c, op->dst), (uint8_t)op->imm));      \
        return BT_NEXT;                                                                                          \
    }                                                                                                            \
    static enum bt_next h_##name##_rc##bits(struct bt_vcpu *c, const struct bt_op *op)                           \
    {                                                                                                            \
        bt_wr##bits(c, op->dst, bt_sh_##name##bits(&c->rflags, bt_rd##bits(c, op->dst), bt_rd8(c, BT_RCX * 8))); \
        return BT_NEXT;                                                                                          \
    }                                                                                                            \
    static enum bt_next h_##name##_mi##bits(struct bt_vcpu *c, const struct bt_op *op)                           \
    {                                                                                                            \
        return h_##name##_mx##bits(c, op, (uint8_t)op->imm);                                                     \
    }                                                                                                            \
    static enum bt_next h_##name##_mc##bits(struct bt_vcpu *c, const struct bt_op *op)                           \
    {                                                                                                            \
        return h_##name##_mx##bits(c, op, bt_rd8(c, BT_RCX * 8));                                                \
    }
#define DEF_SHIFT(name)      \
    DEF_SHIFT_SIZE(name, 8)  \
    DEF_SHIFT_SIZE(name, 16) \
    DEF_SHIFT_SIZE(name, 32) \
    DEF_SHIFT_SIZE(name, 64)

DEF_SHIFT(rol)
DEF_SHIFT(ror)
DEF_SHIFT(rcl)
DEF_SHIFT(rcr)
DEF_SHIFT(shl)
DEF_SHIFT(shr)
DEF_SHIFT(sar)

#define SIZES(prefix)                                 \
    {                                                 \
        prefix##8, prefix##16, prefix##32, prefix##64 \
    }
#define WIDE_SIZES(prefix)                 \
    {                                      \
        prefix##16, prefix##32, prefix##64 \
    }
#define KINDS(name, sizes)                                                                                    \
    {                                                                                                         \
        [BT_S_RI] = sizes(h_##name##_ri), [BT_S_RC] = sizes(h_##name##_rc), [BT_S_MI] = sizes(h_##name##_mi), \
        [BT_S_MC] = sizes(h_##name##_mc),                                                                     \
    }
const bt_fn bt_int_shift[BT_SH_N][BT_S_N][4] = {
    [BT_SH_ROL] = KINDS(rol, SIZES), [BT_SH_ROR] = KINDS(ror, SIZES), [BT_SH_RCL] = KINDS(rcl, SIZES),
    [BT_SH_RCR] = KINDS(rcr, SIZES), [BT_SH_SHL] = KINDS(shl, SIZES), [BT_SH_SHR] = KINDS(shr, SIZES),
    [BT_SH_SAR] = KINDS(sar, SIZES),
};

#define DEF_SHIFTD_SIZE(name, bits)                                                                                   \
    static ALWAYS_INLINE uint##bits##_t bt_sh_##name##bits(uint64_t *fl, uint##bits##_t d, uint##bits##_t s,          \
                                                           uint8_t n)                                                 \
    {                                                                                                                 \
        uint32_t ax = bt_fl_pack(*fl);                                                                                \
                                                                                                                      \
        __asm__(BT_FL_LOAD #name BT_SFX_##bits " %%cl, %" BT_MOD_##bits "[s], %" BT_MOD_##bits "[d]" BT_FL_STORE      \
                : [d] "+&r"(d), "+&a"(ax)                                                                             \
                : [s] "r"(s), "c"(n)                                                                                  \
                : "cc");                                                                                              \
        *fl = bt_fl_merge(*fl, ax);                                                                                   \
        return d;                                                                                                     \
    }                                                                                                                 \
    static ALWAYS_INLINE enum bt_next h_##name##_rx##bits(struct bt_vcpu *c, const struct bt_op *op, uint8_t n)       \
    {                                                                                                                 \
        bt_wr##bits(c, op->dst, bt_sh_##name##bits(&c->rflags, bt_rd##bits(c, op->dst), bt_rd##bits(c, op->src), n)); \
        return BT_NEXT;                                                                                               \
    }                                                                                                                 \
    static ALWAYS_INLINE enum bt_next h_##name##_mx##bits(struct bt_vcpu *c, const struct bt_op *op, uint8_t n)       \
    {                                                                                                                 \
        uint64_t fl = c->rflags;                                                                                      \
        struct bt_rmw m;                                                                                              \
        uint##bits##_t d = bt_rmw_ld##bits(c, op, &m);                                                                \
                                                                                                                      \
        bt_rmw_st##bits(c, op, &m, bt_sh_##name##bits(&fl, d, bt_rd##bits(c, op->src), n));                           \
        c->rflags = fl;                                                                                               \
        return BT_NEXT;                                                                                               \
    }                                                                                                                 \
    static enum bt_next h_##name##_ri##bits(struct bt_vcpu *c, const struct bt_op *op)                                \
    {                                                                                                                 \
        return h_##name##_rx##bits(c, op, (uint8_t)op->imm);                                                          \
    }                                                                                                                 \
    static enum bt_next h_##name##_rc##bits(struct bt_vcpu *c, const struct bt_op *op)                                \
    {                                                                                                                 \
        return h_##name##_rx##bits(c, op, bt_rd8(c, BT_RCX * 8));                                                     \
    }                                                                                                                 \
    static enum bt_next h_##name##_mi##bits(struct bt_vcpu *c, const struct bt_op *op)                                \
    {                                                                                                                 \
        return h_##name##_mx##bits(c, op, (uint8_t)op->imm);                                                          \
    }                                                                                                                 \
    static enum bt_next h_##name##_mc##bits(struct bt_vcpu *c, const struct bt_op *op)                                \
    {                                                                                                                 \
        return h_##name##_mx##bits(c, op, bt_rd8(c, BT_RCX * 8));                                                     \
    }
#define DEF_SHIFTD(name)      \
    DEF_SHIFTD_SIZE(name, 16) \
    DEF_SHIFTD_SIZE(name, 32) \
    DEF_SHIFTD_SIZE(name, 64)

DEF_SHIFTD(shld)
DEF_SHIFTD(shrd)

const bt_fn bt_int_shiftd[2][BT_S_N][3] = { KINDS(shld, WIDE_SIZES), KINDS(shrd, WIDE_SIZES) };
