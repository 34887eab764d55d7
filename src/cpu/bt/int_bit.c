/* Bit tests, bit scans and counts, BMI1, BMI2, ADX and CRC32. The BMI handlers run the host's own instructions: the CPU
 * model offers an extension only where the host has it. */
#include "cpu/bt/int_priv.h"

/* ---- BT BTS BTR BTC. A register bit offset reaches beyond the memory operand: the address moves by whole operands.
 * ---- */
#define DEF_BT_VALUE(name, bits)                                                                              \
    static ALWAYS_INLINE uint##bits##_t bt_bit_##name##bits(uint64_t *fl, uint##bits##_t d, uint##bits##_t n) \
    {                                                                                                         \
        uint32_t ax = bt_fl_pack(*fl);                                                                        \
                                                                                                              \
        __asm__(BT_FL_LOAD #name BT_SFX_##bits " %" BT_MOD_##bits "[n], %" BT_MOD_##bits "[d]" BT_FL_STORE    \
                : [d] "+&r"(d), "+&a"(ax)                                                                     \
                : [n] "r"(n)                                                                                  \
                : "cc");                                                                                      \
        *fl = bt_fl_merge(*fl, ax);                                                                           \
        return d;                                                                                             \
    }
#define DEF_BT_ADDR(bits)                                                                                            \
    static ALWAYS_INLINE uint64_t bt_bit_lin##bits(struct bt_vcpu *c, const struct bt_op *op, uint##bits##_t n,      \
                                                   unsigned acc)                                                     \
    {                                                                                                                \
        int64_t step = ((int64_t)(int##bits##_t)n >> (bits == 16 ? 4 : bits == 32 ? 5 : 6)) * (bits / 8);            \
                                                                                                                     \
        return bt_lin(c, op->flags & BT_OPF_LONG, op->seg, (bt_ea(c, op) + (uint64_t)step) & bt_amask(op), bits / 8, \
                      acc);                                                                                          \
    }
#define DEF_BT_R(name, bits, wb)                                                                                       \
    static ALWAYS_INLINE enum bt_next h_##name##_rx##bits(struct bt_vcpu *c, const struct bt_op *op, uint##bits##_t n) \
    {                                                                                                                  \
        uint##bits##_t d = bt_bit_##name##bits(&c->rflags, bt_rd##bits(c, op->dst), n);                                \
                                                                                                                       \
        if (wb)                                                                                                        \
            bt_wr##bits(c, op->dst, d);                                                                                \
        return BT_NEXT;                                                                                                \
    }                                                                                                                  \
    static enum bt_next h_##name##_rr##bits(struct bt_vcpu *c, const struct bt_op *op)                                 \
    {                                                                                                                  \
        return h_##name##_rx##bits(c, op, bt_rd##bits(c, op->src));                                                    \
    }                                                                                                                  \
    static enum bt_next h_##name##_ri##bits(struct bt_vcpu *c, const struct bt_op *op)                                 \
    {                                                                                                                  \
        return h_##name##_rx##bits(c, op, (uint##bits##_t)op->imm);                                                    \
    }
#define DEF_BT_LOAD(name, bits)                                                                               \
    static enum bt_next h_##name##_mr##bits(struct bt_vcpu *c, const struct bt_op *op)                        \
    {                                                                                                         \
        uint##bits##_t n = bt_rd##bits(c, op->src);                                                           \
                                                                                                              \
        bt_bit_##name##bits(&c->rflags, bt_ld##bits(c, bt_bit_lin##bits(c, op, n, BT_ACC_READ), op->seg), n); \
        return BT_NEXT;                                                                                       \
    }                                                                                                         \
    static enum bt_next h_##name##_mi##bits(struct bt_vcpu *c, const struct bt_op *op)                        \
    {                                                                                                         \
        bt_bit_##name##bits(&c->rflags, bt_mem_ld##bits(c, op), (uint##bits##_t)op->imm);                     \
        return BT_NEXT;                                                                                       \
    }
/* The unlocked forms that write go the way of the locked ones: rare, and atomic is a legal outcome. */
#define DEF_BT_MODIFY(name, bits)                                                                                      \
    static ALWAYS_INLINE enum bt_next h_##name##_mx##bits(struct bt_vcpu *c, const struct bt_op *op, uint##bits##_t n, \
                                                          uint64_t lin)                                                \
    {                                                                                                                  \
        uint64_t fl = c->rflags;                                                                                       \
        uint##bits##_t d;                                                                                              \
                                                                                                                       \
        BT_ATOMIC_RMW(c, op, bits, lin, d, {                                                                           \
            fl = c->rflags;                                                                                            \
            d = bt_bit_##name##bits(&fl, d, n);                                                                        \
        });                                                                                                            \
        c->rflags = fl;                                                                                                \
        return BT_NEXT;                                                                                                \
    }                                                                                                                  \
    static enum bt_next h_##name##_mr##bits(struct bt_vcpu *c, const struct bt_op *op)                                 \
    {                                                                                                                  \
        uint##bits##_t n = bt_rd##bits(c, op->src);                                                                    \
                                                                                                                       \
        return h_##name##_mx##bits(c, op, n, bt_bit_lin##bits(c, op, n, BT_ACC_RMW));                                  \
    }                                                                                                                  \
    static enum bt_next h_##name##_mi##bits(struct bt_vcpu *c, const struct bt_op *op)                                 \
    {                                                                                                                  \
        return h_##name##_mx##bits(c, op, (uint##bits##_t)op->imm, bt_op_lin(c, op, bits / 8, BT_ACC_RMW));            \
    }
#define FOR_WIDE(X, ...) X(__VA_ARGS__, 16) X(__VA_ARGS__, 32) X(__VA_ARGS__, 64)
#define DEF_BT_R_WB(name, bits) DEF_BT_R(name, bits, 1)
#define DEF_BT_R_NO(name, bits) DEF_BT_R(name, bits, 0)
#define DEF_BT(name, reg, mem) FOR_WIDE(DEF_BT_VALUE, name) FOR_WIDE(reg, name) FOR_WIDE(mem, name)
DEF_BT_ADDR(16)
DEF_BT_ADDR(32)
DEF_BT_ADDR(64)
DEF_BT(bt, DEF_BT_R_NO, DEF_BT_LOAD)
DEF_BT(bts, DEF_BT_R_WB, DEF_BT_MODIFY)
DEF_BT(btr, DEF_BT_R_WB, DEF_BT_MODIFY)
DEF_BT(btc, DEF_BT_R_WB, DEF_BT_MODIFY)

#define WIDE_SIZES(prefix)                 \
    {                                      \
        prefix##16, prefix##32, prefix##64 \
    }
#define BT_ROW(name)                                                                    \
    {                                                                                   \
        [BT_K_RR] = WIDE_SIZES(h_##name##_rr), [BT_K_RI] = WIDE_SIZES(h_##name##_ri),   \
        [BT_K_MR] = WIDE_SIZES(h_##name##_mr), [BT_K_MI] = WIDE_SIZES(h_##name##_mi),   \
        [BT_K_LMR] = WIDE_SIZES(h_##name##_mr), [BT_K_LMI] = WIDE_SIZES(h_##name##_mi), \
    }
const bt_fn bt_int_bt[BT_BT_N][BT_K_N][3] = { BT_ROW(bt), BT_ROW(bts), BT_ROW(btr), BT_ROW(btc) };

/* ---- scans. The destination goes through the host instruction whole: BSF and BSR leave it alone for a zero source,
 * and what becomes of its upper half then is the host's answer. ---- */
#define DEF_SCAN(name, bits)                                                                                          \
    static ALWAYS_INLINE enum bt_next h_##name##_x##bits(struct bt_vcpu *c, const struct bt_op *op, uint##bits##_t s) \
    {                                                                                                                 \
        uint64_t d = bt_rd64(c, op->dst);                                                                             \
        uint32_t ax = bt_fl_pack(c->rflags);                                                                          \
                                                                                                                      \
        __asm__(BT_FL_LOAD #name BT_SFX_##bits " %" BT_MOD_##bits "[s], %" BT_MOD_##bits "[d]" BT_FL_STORE            \
                : [d] "+&r"(d), "+&a"(ax)                                                                             \
                : [s] "r"(s)                                                                                          \
                : "cc");                                                                                              \
        c->rflags = bt_fl_merge(c->rflags, ax);                                                                       \
        bt_wr64(c, op->dst, d);                                                                                       \
        return BT_NEXT;                                                                                               \
    }                                                                                                                 \
    static enum bt_next h_##name##_r##bits(struct bt_vcpu *c, const struct bt_op *op)                                 \
    {                                                                                                                 \
        return h_##name##_x##bits(c, op, bt_rd##bits(c, op->src));                                                    \
    }                                                                                                                 \
    static enum bt_next h_##name##_m##bits(struct bt_vcpu *c, const struct bt_op *op)                                 \
    {                                                                                                                 \
        return h_##name##_x##bits(c, op, bt_mem_ld##bits(c, op));                                                     \
    }
FOR_WIDE(DEF_SCAN, bsf)
FOR_WIDE(DEF_SCAN, bsr)
FOR_WIDE(DEF_SCAN, lzcnt)
FOR_WIDE(DEF_SCAN, tzcnt)
FOR_WIDE(DEF_SCAN, popcnt)
#define SCAN_ROW(name)                                     \
    {                                                      \
        WIDE_SIZES(h_##name##_r), WIDE_SIZES(h_##name##_m) \
    }
const bt_fn bt_int_scan[BT_SCAN_N][2][3] = { SCAN_ROW(bsf), SCAN_ROW(bsr), SCAN_ROW(lzcnt), SCAN_ROW(tzcnt),
                                             SCAN_ROW(popcnt) };

/* ---- BMI. op->dst is the destination, op->src the first source (VEX.vvvv or ModRM.rm), op->x[0] the second register
 * source, which the memory operand replaces where there is one. Operand order of the assembler below: AT&T. ---- */
#define BMI_ASM(text, bits) \
    __asm__(BT_FL_LOAD text BT_FL_STORE : [d] "+&r"(d), "+&a"(ax) : [m] "r"(m), [v] "r"(v) : "cc")
/* text_bits: with d the destination, m the r/m operand and v the other register. */
#define DEF_BMI(name, text, bits)                                                                                     \
    static ALWAYS_INLINE enum bt_next h_##name##_x##bits(struct bt_vcpu *c, const struct bt_op *op, uint##bits##_t m) \
    {                                                                                                                 \
        uint##bits##_t d = bt_rd##bits(c, op->dst), v = bt_rd##bits(c, op->x[0]);                                     \
        uint32_t ax = bt_fl_pack(c->rflags);                                                                          \
                                                                                                                      \
        BMI_ASM(text, bits);                                                                                          \
        c->rflags = bt_fl_merge(c->rflags, ax);                                                                       \
        bt_wr##bits(c, op->dst, d);                                                                                   \
        return BT_NEXT;                                                                                               \
    }                                                                                                                 \
    DEF_BMI_FORMS(name, bits)
#define DEF_BMI_FORMS(name, bits)                                                     \
    static enum bt_next h_##name##_r##bits(struct bt_vcpu *c, const struct bt_op *op) \
    {                                                                                 \
        return h_##name##_x##bits(c, op, bt_rd##bits(c, op->src));                    \
    }                                                                                 \
    static enum bt_next h_##name##_m##bits(struct bt_vcpu *c, const struct bt_op *op) \
    {                                                                                 \
        return h_##name##_x##bits(c, op, bt_mem_ld##bits(c, op));                     \
    }
/* The second source is in ModRM.rm (ANDN, PDEP, PEXT), or the count is in vvvv (BEXTR, BZHI, shifts). */
#define DEF_BMI_RM_LAST(name)                       \
    DEF_BMI(name, #name " %k[m], %k[v], %k[d]", 32) \
    DEF_BMI(name, #name " %q[m], %q[v], %q[d]", 64)
#define DEF_BMI_V_LAST(name)                        \
    DEF_BMI(name, #name " %k[v], %k[m], %k[d]", 32) \
    DEF_BMI(name, #name " %q[v], %q[m], %q[d]", 64)
#define DEF_BMI_TWO(name)                    \
    DEF_BMI(name, #name " %k[m], %k[d]", 32) \
    DEF_BMI(name, #name " %q[m], %q[d]", 64)
DEF_BMI_RM_LAST(andn)
DEF_BMI_RM_LAST(pdep)
DEF_BMI_RM_LAST(pext)
DEF_BMI_V_LAST(bextr)
DEF_BMI_V_LAST(bzhi)
DEF_BMI_V_LAST(sarx)
DEF_BMI_V_LAST(shlx)
DEF_BMI_V_LAST(shrx)
DEF_BMI_TWO(blsi)
DEF_BMI_TWO(blsmsk)
DEF_BMI_TWO(blsr)
DEF_BMI_TWO(adcx)
DEF_BMI_TWO(adox)

/* RORX takes its count from the immediate; MULX has two destinations (dst high half, x[0] low half, in that order where
 * they are the same register). Neither touches flags. */
#define DEF_RORX_MULX(bits, wide, mod)                                                                            \
    static ALWAYS_INLINE enum bt_next h_rorx_x##bits(struct bt_vcpu *c, const struct bt_op *op, uint##bits##_t m) \
    {                                                                                                             \
        unsigned n = op->imm & (bits - 1);                                                                        \
                                                                                                                  \
        bt_wr##bits(c, op->dst, m >> n | m << ((bits - n) & (bits - 1)));                                         \
        return BT_NEXT;                                                                                           \
    }                                                                                                             \
    static ALWAYS_INLINE enum bt_next h_mulx_x##bits(struct bt_vcpu *c, const struct bt_op *op, uint##bits##_t m) \
    {                                                                                                             \
        wide p = (wide)m * bt_rd##bits(c, BT_RDX * 8);                                                            \
                                                                                                                  \
        bt_wr##bits(c, op->x[0], (uint##bits##_t)p);                                                              \
        bt_wr##bits(c, op->dst, (uint##bits##_t)(p >> bits));                                                     \
        return BT_NEXT;                                                                                           \
    }                                                                                                             \
    DEF_BMI_FORMS(rorx, bits)                                                                                     \
    DEF_BMI_FORMS(mulx, bits)
DEF_RORX_MULX(32, uint64_t, "k")
DEF_RORX_MULX(64, unsigned __int128, "q")

#define BMI_ROW(name)                       \
    {                                       \
        { h_##name##_r32, h_##name##_r64 }, \
        {                                   \
            h_##name##_m32, h_##name##_m64  \
        }                                   \
    }
const bt_fn bt_int_bmi[BT_BMI_N][2][2] = {
    [BT_BMI_ANDN] = BMI_ROW(andn),     [BT_BMI_BEXTR] = BMI_ROW(bextr), [BT_BMI_BLSI] = BMI_ROW(blsi),
    [BT_BMI_BLSMSK] = BMI_ROW(blsmsk), [BT_BMI_BLSR] = BMI_ROW(blsr),   [BT_BMI_BZHI] = BMI_ROW(bzhi),
    [BT_BMI_PDEP] = BMI_ROW(pdep),     [BT_BMI_PEXT] = BMI_ROW(pext),   [BT_BMI_RORX] = BMI_ROW(rorx),
    [BT_BMI_SARX] = BMI_ROW(sarx),     [BT_BMI_SHLX] = BMI_ROW(shlx),   [BT_BMI_SHRX] = BMI_ROW(shrx),
    [BT_BMI_MULX] = BMI_ROW(mulx),     [BT_BMI_ADCX] = BMI_ROW(adcx),   [BT_BMI_ADOX] = BMI_ROW(adox),
};

/* ---- CRC32: the checksum is 32 bits wide; with REX.W the destination's upper half becomes zero as well. ---- */
#define DEF_CRC32(bits, mod, dmod)                                                                                 \
    static ALWAYS_INLINE enum bt_next h_crc32_x##bits(struct bt_vcpu *c, const struct bt_op *op, uint##bits##_t m) \
    {                                                                                                              \
        uint64_t d = bt_rd32(c, op->dst);                                                                          \
                                                                                                                   \
        __asm__("crc32" BT_SFX_##bits " %" mod "[m], %" dmod "[d]" : [d] "+&r"(d) : [m] "r"(m));                   \
        bt_wr64(c, op->dst, d);                                                                                    \
        return BT_NEXT;                                                                                            \
    }                                                                                                              \
    DEF_BMI_FORMS(crc32, bits)
DEF_CRC32(8, "b", "k")
DEF_CRC32(16, "w", "k")
DEF_CRC32(32, "k", "k")
DEF_CRC32(64, "q", "q")
const bt_fn bt_int_crc32[2][4] = {
    { h_crc32_r8, h_crc32_r16, h_crc32_r32, h_crc32_r64 },
    { h_crc32_m8, h_crc32_m16, h_crc32_m32, h_crc32_m64 },
};
