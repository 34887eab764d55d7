/* What is left of the integer instructions: flag bits, decimal adjust, XLAT, BOUND, fences, cache hints, random
 * numbers, and the handlers that only raise. */
#include "cpu/bt/int_priv.h"
#include "cpu/bt/run.h"

enum bt_next bt_int_ud(struct bt_vcpu *c, const struct bt_op *op)
{
    bt_ud(c);
}

enum bt_next bt_int_gp(struct bt_vcpu *c, const struct bt_op *op)
{
    bt_gp(c, 0);
}

enum bt_next bt_int_nop(struct bt_vcpu *c, const struct bt_op *op)
{
    return BT_NEXT;
}

enum bt_next bt_int_pause(struct bt_vcpu *c, const struct bt_op *op)
{
    bt_pause(c);
    return BT_NEXT;
}

/* AL = [rBX + AL]; the decoder set base to rBX. */
enum bt_next bt_int_xlat(struct bt_vcpu *c, const struct bt_op *op)
{
    uint64_t off = (c->r[BT_RBX] + bt_rd8(c, BT_RAX * 8)) & bt_amask(op);

    bt_wr8(c, BT_RAX * 8, bt_ld8(c, bt_lin(c, op->flags & BT_OPF_LONG, op->seg, off, 1, BT_ACC_READ), op->seg));
    return BT_NEXT;
}

/* BOUND r, m&m: #BR unless lower <= r <= upper, signed. Two reads: the lower bound faults before the upper one is
 * looked at. */
enum bt_next bt_int_bound(struct bt_vcpu *c, const struct bt_op *op)
{
    bool small = op->osize == 2;
    uint64_t off = bt_ea(c, op), lin = bt_lin(c, false, op->seg, off, op->osize, BT_ACC_READ);
    int64_t v = small ? (int16_t)bt_rd16(c, op->dst) : (int32_t)bt_rd32(c, op->dst), lower, upper;

    lower = small ? (int16_t)bt_ld16(c, lin, op->seg) : (int32_t)bt_ld32(c, lin, op->seg);
    lin = bt_lin(c, false, op->seg, (off + op->osize) & bt_amask(op), op->osize, BT_ACC_READ);
    upper = small ? (int16_t)bt_ld16(c, lin, op->seg) : (int32_t)bt_ld32(c, lin, op->seg);
    if (v < lower || v > upper)
        bt_raise(c, BT_BR);
    return BT_NEXT;
}

/* CLFLUSH, CLFLUSHOPT, CLWB: faults as a byte read does; the host's caches are coherent, nothing else to do. */
enum bt_next bt_int_clflush(struct bt_vcpu *c, const struct bt_op *op)
{
    (void)bt_mem_ld8(c, op);
    return BT_NEXT;
}

/* Zero the 64-byte line at rAX. */
enum bt_next bt_int_clzero(struct bt_vcpu *c, const struct bt_op *op)
{
    uint64_t off = c->r[BT_RAX] & bt_amask(op) & ~63ULL;
    uint64_t lin = bt_lin(c, op->flags & BT_OPF_LONG, op->seg, off, 64, BT_ACC_WRITE);

    bt_probe_write(c, c->ctx, lin, 64, op->seg);
    for (unsigned i = 0; i < 64; i += 8)
        bt_st64(c, lin + i, 0, op->seg);
    return BT_NEXT;
}

enum bt_next bt_int_rdpid(struct bt_vcpu *c, const struct bt_op *op)
{
    bt_wr64(c, op->dst, (uint32_t)c->tsc_aux);
    return BT_NEXT;
}

/* The host's random numbers, with its carry flag: a retry is the guest's business. Other flags become zero. */
#define DEF_RDRAND(insn, bits)                                                    \
    static enum bt_next h_##insn##bits(struct bt_vcpu *c, const struct bt_op *op) \
    {                                                                             \
        uint##bits##_t v;                                                         \
        bool ok;                                                                  \
                                                                                  \
        __asm__ volatile(#insn " %[v]" : [v] "=r"(v), "=@ccc"(ok));               \
        c->rflags = (c->rflags & ~(uint64_t)BT_ARITH) | ok;                       \
        bt_wr##bits(c, op->dst, v);                                               \
        return BT_NEXT;                                                           \
    }
DEF_RDRAND(rdrand, 16)
DEF_RDRAND(rdrand, 32)
DEF_RDRAND(rdrand, 64)
DEF_RDRAND(rdseed, 16)
DEF_RDRAND(rdseed, 32)
DEF_RDRAND(rdseed, 64)
const bt_fn bt_int_rdrand[2][3] = { { h_rdrand16, h_rdrand32, h_rdrand64 }, { h_rdseed16, h_rdseed32, h_rdseed64 } };

static enum bt_next h_lfence(struct bt_vcpu *c, const struct bt_op *op)
{
    __asm__ volatile("lfence" ::: "memory");
    return BT_NEXT;
}
static enum bt_next h_sfence(struct bt_vcpu *c, const struct bt_op *op)
{
    __asm__ volatile("sfence" ::: "memory");
    return BT_NEXT;
}
static enum bt_next h_mfence(struct bt_vcpu *c, const struct bt_op *op)
{
    __asm__ volatile("mfence" ::: "memory");
    return BT_NEXT;
}
const bt_fn bt_int_fence[BT_FENCE_N] = { h_lfence, h_sfence, h_mfence };

/* ---- single flags ---- */
#define DEF_FLAG(name, expr)                                                \
    static enum bt_next h_##name(struct bt_vcpu *c, const struct bt_op *op) \
    {                                                                       \
        c->rflags = (expr);                                                 \
        return BT_NEXT;                                                     \
    }
DEF_FLAG(clc, c->rflags & ~(uint64_t)BT_CF)
DEF_FLAG(stc, c->rflags | BT_CF)
DEF_FLAG(cmc, c->rflags ^ BT_CF)
DEF_FLAG(cld, c->rflags & ~(uint64_t)BT_DF)
DEF_FLAG(std, c->rflags | BT_DF)
DEF_FLAG(sahf, (c->rflags & ~0xd5ULL) | (bt_rd8(c, BT_RAX * 8 + 1) & 0xd5))

static enum bt_next h_lahf(struct bt_vcpu *c, const struct bt_op *op)
{
    bt_wr8(c, BT_RAX * 8 + 1, (uint8_t)((c->rflags & 0xd5) | 2));
    return BT_NEXT;
}
static enum bt_next h_salc(struct bt_vcpu *c, const struct bt_op *op)
{
    bt_wr8(c, BT_RAX * 8, c->rflags & BT_CF ? 0xff : 0);
    return BT_NEXT;
}
const bt_fn bt_int_flag[BT_FLAG_N] = { h_clc, h_stc, h_cmc, h_cld, h_std, h_lahf, h_sahf, h_salc };

/* ---- decimal adjust. These do not exist in 64-bit mode, so the host cannot be asked directly. What the manuals leave
 * undefined is as CPUs do it (tests/unit/test_bt_int.c compares): the flags of the addition or subtraction behind them,
 * of the whole adjustment at once, with CF and AF replaced. ---- */
#define DEF_ADJUST(bits)                                                                                        \
    static ALWAYS_INLINE uint##bits##_t bt_adjust##bits(struct bt_vcpu *c, uint##bits##_t d, uint##bits##_t by, \
                                                        bool sub, bool cf, bool af)                             \
    {                                                                                                           \
        uint32_t ax;                                                                                            \
        uint64_t fl;                                                                                            \
                                                                                                                \
        if (sub)                                                                                                \
            __asm__("sub" BT_SFX_##bits " %" BT_MOD_##bits "[by], %" BT_MOD_##bits "[d]" BT_FL_STORE            \
                    : [d] "+&r"(d), "=a"(ax)                                                                    \
                    : [by] "r"(by)                                                                              \
                    : "cc");                                                                                    \
        else                                                                                                    \
            __asm__("add" BT_SFX_##bits " %" BT_MOD_##bits "[by], %" BT_MOD_##bits "[d]" BT_FL_STORE            \
                    : [d] "+&r"(d), "=a"(ax)                                                                    \
                    : [by] "r"(by)                                                                              \
                    : "cc");                                                                                    \
        fl = bt_fl_merge(c->rflags, ax) & ~(uint64_t)(BT_CF | BT_AF);                                           \
        c->rflags = fl | (cf ? BT_CF : 0) | (af ? BT_AF : 0);                                                   \
        return d;                                                                                               \
    }
DEF_ADJUST(8)
DEF_ADJUST(16)

/* DAA (sub = false) and DAS. */
static ALWAYS_INLINE enum bt_next bt_daa_das(struct bt_vcpu *c, bool sub)
{
    uint8_t al = bt_rd8(c, BT_RAX * 8);
    bool af = (al & 0xf) > 9 || (c->rflags & BT_AF);
    bool high = al > 0x99 || (c->rflags & BT_CF);
    bool cf = high || (sub && af && al < 6);

    bt_wr8(c, BT_RAX * 8, bt_adjust8(c, al, (uint8_t)((af ? 6 : 0) + (high ? 0x60 : 0)), sub, cf, af));
    return BT_NEXT;
}
static enum bt_next h_daa(struct bt_vcpu *c, const struct bt_op *op)
{
    return bt_daa_das(c, false);
}
static enum bt_next h_das(struct bt_vcpu *c, const struct bt_op *op)
{
    return bt_daa_das(c, true);
}

/* AAA (sub = false) and AAS. */
static ALWAYS_INLINE enum bt_next bt_aaa_aas(struct bt_vcpu *c, bool sub)
{
    uint16_t ax = bt_rd16(c, BT_RAX * 8);
    bool adjust = (ax & 0xf) > 9 || (c->rflags & BT_AF);

    bt_wr16(c, BT_RAX * 8, bt_adjust16(c, ax, adjust ? 0x106 : 0, sub, adjust, adjust) & 0xff0f);
    return BT_NEXT;
}
static enum bt_next h_aaa(struct bt_vcpu *c, const struct bt_op *op)
{
    return bt_aaa_aas(c, false);
}
static enum bt_next h_aas(struct bt_vcpu *c, const struct bt_op *op)
{
    return bt_aaa_aas(c, true);
}

static enum bt_next h_aam(struct bt_vcpu *c, const struct bt_op *op)
{
    uint8_t al = bt_rd8(c, BT_RAX * 8), base = (uint8_t)op->imm;

    if (base == 0)
        bt_raise(c, BT_DE);
    bt_wr16(c, BT_RAX * 8, (uint16_t)((al / base) << 8 | al % base));
    (void)bt_adjust8(c, al % base, 0, false, false, false);
    return BT_NEXT;
}

static enum bt_next h_aad(struct bt_vcpu *c, const struct bt_op *op)
{
    uint16_t ax = bt_rd16(c, BT_RAX * 8);
    uint8_t al = (uint8_t)ax, product = (uint8_t)((ax >> 8) * (uint8_t)op->imm);
    uint32_t fl;

    /* The flags are those of the 8-bit addition. */
    __asm__("addb %b[s], %b[d]" BT_FL_STORE : [d] "+&r"(al), "=a"(fl) : [s] "r"(product) : "cc");
    bt_wr16(c, BT_RAX * 8, al);
    c->rflags = bt_fl_merge(c->rflags, fl);
    return BT_NEXT;
}
const bt_fn bt_int_bcd[BT_BCD_N] = { h_daa, h_das, h_aaa, h_aas, h_aam, h_aad };
