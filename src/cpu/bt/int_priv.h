/* Shared by the integer handlers (int_*.c, run path) and their binder (int_bind.c): register, flag and
 * read-modify-write access as templates by operand size, and the handler tables that the binder picks from.
 *
 * Flags are computed by running the host's own instruction and reading its flags with LAHF and SETO, so that undefined
 * ones come out as this CPU makes them. Instructions that leave some flags alone get the guest's flags loaded before
 * (BT_FL_LOAD). The guest's RFLAGS are always exact; nothing is lazy.
 * Must not know Zydis. */
#ifndef CPU_BT_INT_PRIV_H
#define CPU_BT_INT_PRIV_H

#include "cpu/bt/mmu.h"
#include "cpu/bt/state.h"

/* Operand kinds of two-operand handlers: register, memory, immediate, L: locked memory. */
enum { BT_K_RR, BT_K_RI, BT_K_RM, BT_K_MR, BT_K_MI, BT_K_LMR, BT_K_LMI, BT_K_N };
/* Kinds of one-operand handlers. */
enum { BT_U_R, BT_U_M, BT_U_LM, BT_U_N };
/* Kinds of shifts: register or memory, count in the immediate or in CL. */
enum { BT_S_RI, BT_S_RC, BT_S_MI, BT_S_MC, BT_S_N };

/* Pieces of inline assembly by operand size: instruction suffix and operand modifier. */
#define BT_SFX_8 "b"
#define BT_SFX_16 "w"
#define BT_SFX_32 "l"
#define BT_SFX_64 "q"
#define BT_MOD_8 "b"
#define BT_MOD_16 "w"
#define BT_MOD_32 "k"
#define BT_MOD_64 "q"

/* With EAX = bt_fl_pack(rflags): load the arithmetic flags into the host's. */
#define BT_FL_LOAD "addb $127, %%al\n\tsahf\n\t"
/* Read the host's flags into EAX for bt_fl_merge. */
#define BT_FL_STORE "\n\tlahf\n\tseto %%al"

static ALWAYS_INLINE uint32_t bt_fl_pack(uint64_t rflags)
{
    return (uint32_t)((rflags & 0xff) << 8 | ((rflags >> 11) & 1));
}

/* rflags with the arithmetic flags that LAHF and SETO left in ax (upper half undefined). */
static ALWAYS_INLINE uint64_t bt_fl_merge(uint64_t rflags, uint32_t ax)
{
    return (rflags & ~0x8ffULL) | ((ax >> 8) & 0xff) | ((uint64_t)(uint8_t)ax << 11);
}

/* Condition code cc (the low four bits of Jcc opcodes) for the given flags; cc is a constant after inlining. */
static ALWAYS_INLINE bool bt_cond(uint64_t f, unsigned cc)
{
    bool v = false;

    switch (cc >> 1) {
    case 0:
        v = f & BT_OF;
        break;
    case 1:
        v = f & BT_CF;
        break;
    case 2:
        v = f & BT_ZF;
        break;
    case 3:
        v = f & (BT_CF | BT_ZF);
        break;
    case 4:
        v = f & BT_SF;
        break;
    case 5:
        v = f & BT_PF;
        break;
    case 6:
        v = ((f >> 7) ^ (f >> 11)) & 1;
        break;
    case 7:
        v = (f & BT_ZF) || (((f >> 7) ^ (f >> 11)) & 1);
        break;
    }
    return v != (cc & 1);
}

/* Register file access by byte offset. A 16-bit result is merged in a full-width store, because what follows usually
 * reads the register whole and a narrow store would not forward. */
static ALWAYS_INLINE void *bt_reg_ptr(struct bt_vcpu *c, unsigned off)
{
    return (char *)c->r + off;
}
static ALWAYS_INLINE uint8_t bt_rd8(struct bt_vcpu *c, unsigned off)
{
    return *(bt_u8 *)bt_reg_ptr(c, off);
}
static ALWAYS_INLINE uint16_t bt_rd16(struct bt_vcpu *c, unsigned off)
{
    return *(bt_u16 *)bt_reg_ptr(c, off);
}
static ALWAYS_INLINE uint32_t bt_rd32(struct bt_vcpu *c, unsigned off)
{
    return *(bt_u32 *)bt_reg_ptr(c, off);
}
static ALWAYS_INLINE uint64_t bt_rd64(struct bt_vcpu *c, unsigned off)
{
    return *(bt_u64 *)bt_reg_ptr(c, off);
}
static ALWAYS_INLINE void bt_wr8(struct bt_vcpu *c, unsigned off, uint8_t v)
{
    *(bt_u8 *)bt_reg_ptr(c, off) = v;
}
static ALWAYS_INLINE void bt_wr64(struct bt_vcpu *c, unsigned off, uint64_t v)
{
    *(bt_u64 *)bt_reg_ptr(c, off) = v;
}
static ALWAYS_INLINE void bt_wr32(struct bt_vcpu *c, unsigned off, uint32_t v)
{
    bt_wr64(c, off, v);
}
static ALWAYS_INLINE void bt_wr16(struct bt_vcpu *c, unsigned off, uint16_t v)
{
    bt_wr64(c, off, (bt_rd64(c, off) & ~0xffffULL) | v);
}
/* By run-time size. */
static ALWAYS_INLINE void bt_wr(struct bt_vcpu *c, unsigned off, unsigned bytes, uint64_t v)
{
    if (bytes == 8)
        bt_wr64(c, off, v);
    else if (bytes == 4)
        bt_wr32(c, off, (uint32_t)v);
    else if (bytes == 2)
        bt_wr16(c, off, (uint16_t)v);
    else
        bt_wr8(c, off, (uint8_t)v);
}

/* A read-modify-write in progress: p is the host address, NULL where the slow path must be taken. */
struct bt_rmw {
    void *p;
    struct bt_tlbe *e;
    uint64_t lin;
};

/* bt_rmw_ldN: load the memory operand with intent to write (faults as a write); bt_rmw_stN: store the result.
 * bt_casN: LOCK CMPXCHG on host memory of any alignment. bt_mem_ldN, bt_mem_stN: plain access to the memory operand. */
#define BT_DEFINE_MEM(bits)                                                                                          \
    static ALWAYS_INLINE uint##bits##_t bt_mem_ld##bits(struct bt_vcpu *c, const struct bt_op *op)                   \
    {                                                                                                                \
        return bt_ld##bits(c, bt_op_lin(c, op, bits / 8, BT_ACC_READ), op->seg);                                     \
    }                                                                                                                \
    static ALWAYS_INLINE void bt_mem_st##bits(struct bt_vcpu *c, const struct bt_op *op, uint##bits##_t v)           \
    {                                                                                                                \
        bt_st##bits(c, bt_op_lin(c, op, bits / 8, BT_ACC_WRITE), v, op->seg);                                        \
    }                                                                                                                \
    static ALWAYS_INLINE uint##bits##_t bt_rmw_ld##bits(struct bt_vcpu *c, const struct bt_op *op, struct bt_rmw *m) \
    {                                                                                                                \
        m->lin = bt_op_lin(c, op, bits / 8, BT_ACC_RMW);                                                             \
        m->e = bt_tlbe(c, c->ctx, m->lin);                                                                           \
        if (bt_page_hit(m->e->tag_w, m->lin, bits / 8)) {                                                            \
            m->p = bt_host(m->e, m->lin);                                                                            \
            return *(const volatile bt_u##bits *)m->p;                                                               \
        }                                                                                                            \
        m->p = NULL;                                                                                                 \
        bt_probe_write(c, c->ctx, m->lin, bits / 8, op->seg);                                                        \
        return bt_ld##bits(c, m->lin, op->seg);                                                                      \
    }                                                                                                                \
    static ALWAYS_INLINE void bt_rmw_st##bits(struct bt_vcpu *c, const struct bt_op *op, const struct bt_rmw *m,     \
                                              uint##bits##_t v)                                                      \
    {                                                                                                                \
        if (LIKELY(m->p != NULL)) {                                                                                  \
            *(volatile bt_u##bits *)m->p = v;                                                                        \
            bt_note_write(c, m->e, m->lin, bits / 8);                                                                \
        } else {                                                                                                     \
            bt_st##bits(c, m->lin, v, op->seg);                                                                      \
        }                                                                                                            \
    }                                                                                                                \
    static ALWAYS_INLINE bool bt_cas##bits(void *p, uint##bits##_t *old, uint##bits##_t v)                           \
    {                                                                                                                \
        bool ok;                                                                                                     \
                                                                                                                     \
        __asm__ volatile("lock; cmpxchg" BT_SFX_##bits " %" BT_MOD_##bits "[v], %[m]"                                \
                         : "+a"(*old), [m] "+m"(*(bt_u##bits *)p), "=@ccz"(ok)                                       \
                         : [v] "r"(v)                                                                                \
                         : "memory");                                                                                \
        return ok;                                                                                                   \
    }                                                                                                                \
    static ALWAYS_INLINE void *bt_lock_ptr##bits(struct bt_vcpu *c, const struct bt_op *op, uint64_t lin)            \
    {                                                                                                                \
        const struct bt_tlbe *e = bt_tlbe(c, c->ctx, lin);                                                           \
                                                                                                                     \
        if (bt_page_hit(e->tag_w, lin, bits / 8))                                                                    \
            return bt_host(e, lin);                                                                                  \
        return bt_lock_ptr(c, c->ctx, lin, bits / 8, op->seg);                                                       \
    }
BT_DEFINE_MEM(8)
BT_DEFINE_MEM(16)
BT_DEFINE_MEM(32)
BT_DEFINE_MEM(64)

/* Start and end of a locked access that has no host pointer (MMIO, page-crossing): faults come before the lock is
 * taken. int_lock.c */
void bt_split_begin(struct bt_vcpu *c, uint64_t lin, void *buf, unsigned size, unsigned seg);
void bt_split_end(struct bt_vcpu *c, uint64_t lin, const void *buf, unsigned size, unsigned seg);

/* Atomic read-modify-write of the memory operand at linear address lin: sets d to the old value and runs `compute`,
 * which leaves the new value in d; it may run several times and must not change guest state. */
#define BT_ATOMIC_RMW(c, op, bits, lin, d, compute)                     \
    do {                                                                \
        void *p_ = bt_lock_ptr##bits(c, op, lin);                       \
                                                                        \
        if (LIKELY(p_ != NULL)) {                                       \
            uint##bits##_t old_ = *(const volatile bt_u##bits *)p_;     \
                                                                        \
            do {                                                        \
                d = old_;                                               \
                compute;                                                \
            } while (!bt_cas##bits(p_, &old_, d));                      \
            bt_note_write(c, bt_tlbe(c, (c)->ctx, lin), lin, bits / 8); \
        } else {                                                        \
            bt_split_begin(c, lin, &d, bits / 8, (op)->seg);            \
            compute;                                                    \
            bt_split_end(c, lin, &d, bits / 8, (op)->seg);              \
        }                                                               \
    } while (0)

/* Stack pointer arithmetic by stack size. */
static ALWAYS_INLINE uint64_t bt_sp_mask(const struct bt_vcpu *c, const struct bt_op *op)
{
    if (LIKELY(op->flags & BT_OPF_STACK64))
        return ~0ULL;
    return c->stack_bits == 16 ? 0xffff : 0xffffffff;
}
static ALWAYS_INLINE void bt_sp_set(struct bt_vcpu *c, uint64_t sp, uint64_t mask)
{
    if (UNLIKELY(mask == 0xffff))
        bt_wr16(c, BT_RSP * 8, (uint16_t)sp);
    else
        c->r[BT_RSP] = sp & mask;
}

/* Load or store size (2, 4 or 8) bytes of the stack at stack pointer sp (already masked). int_stack.c */
uint64_t bt_stack_ld(struct bt_vcpu *c, const struct bt_op *op, uint64_t sp, unsigned size);
void bt_stack_st(struct bt_vcpu *c, const struct bt_op *op, uint64_t sp, unsigned size, uint64_t v);

/* A counter or pointer register (index) under the operation's address size. */
static ALWAYS_INLINE void bt_areg_set(struct bt_vcpu *c, const struct bt_op *op, unsigned index, uint64_t v)
{
    bt_wr(c, index * 8, op->asize, v);
}

/* ---- Handlers. Size index: 0 = 8 bits ... 3 = 64 bits; in tables that lack 8 bits 0 = 16 bits. ---- */
enum { BT_ALU_ADD, BT_ALU_OR, BT_ALU_ADC, BT_ALU_SBB, BT_ALU_AND, BT_ALU_SUB, BT_ALU_XOR, BT_ALU_CMP, BT_ALU_N };
enum { BT_UN_NOT, BT_UN_NEG, BT_UN_INC, BT_UN_DEC, BT_UN_N };
enum { BT_SH_ROL, BT_SH_ROR, BT_SH_RCL, BT_SH_RCR, BT_SH_SHL, BT_SH_SHR, BT_SH_SAR, BT_SH_N };
enum { BT_BT_BT, BT_BT_BTS, BT_BT_BTR, BT_BT_BTC, BT_BT_N };
enum { BT_SCAN_BSF, BT_SCAN_BSR, BT_SCAN_LZCNT, BT_SCAN_TZCNT, BT_SCAN_POPCNT, BT_SCAN_N };
enum { BT_MUL_MUL, BT_MUL_IMUL, BT_MUL_DIV, BT_MUL_IDIV, BT_MUL_N };
enum {
    BT_BMI_ANDN,
    BT_BMI_BEXTR,
    BT_BMI_BLSI,
    BT_BMI_BLSMSK,
    BT_BMI_BLSR,
    BT_BMI_BZHI,
    BT_BMI_PDEP,
    BT_BMI_PEXT,
    BT_BMI_RORX,
    BT_BMI_SARX,
    BT_BMI_SHLX,
    BT_BMI_SHRX,
    BT_BMI_MULX,
    BT_BMI_ADCX,
    BT_BMI_ADOX,
    BT_BMI_N
};
enum { BT_STR_MOVS, BT_STR_STOS, BT_STR_LODS, BT_STR_SCAS, BT_STR_CMPS, BT_STR_N };
/* Branch target operand; BT_BR_R and _M also serve CALL. */
enum { BT_BR_REL, BT_BR_R, BT_BR_M, BT_BR_N };
enum { BT_LOOP_NE, BT_LOOP_E, BT_LOOP, BT_LOOP_CXZ, BT_LOOP_N };
enum { BT_BCD_DAA, BT_BCD_DAS, BT_BCD_AAA, BT_BCD_AAS, BT_BCD_AAM, BT_BCD_AAD, BT_BCD_N };
enum {
    BT_FLAG_CLC,
    BT_FLAG_STC,
    BT_FLAG_CMC,
    BT_FLAG_CLD,
    BT_FLAG_STD,
    BT_FLAG_LAHF,
    BT_FLAG_SAHF,
    BT_FLAG_SALC,
    BT_FLAG_N
};
enum { BT_FENCE_L, BT_FENCE_S, BT_FENCE_M, BT_FENCE_N };

/* int_alu.c */
extern const bt_fn bt_int_alu[BT_ALU_N][BT_K_N][4];
extern const bt_fn bt_int_test[BT_K_N][4]; /* RR RI MR MI */
extern const bt_fn bt_int_unary[BT_UN_N][BT_U_N][4];
/* int_mov.c */
extern const bt_fn bt_int_mov[BT_K_N][4]; /* RR RI RM MR MI */
extern const bt_fn bt_int_movzx[2][2][3]; /* source register/memory, 8/16 bits, destination */
extern const bt_fn bt_int_movsx[2][3][3]; /* source register/memory, 8/16/32 bits, destination */
extern const bt_fn bt_int_lea[3];
extern const bt_fn bt_int_lea64;       /* 64-bit address and operand size */
extern const bt_fn bt_int_movbe[2][3]; /* load, store */
extern const bt_fn bt_int_bswap[3];
extern const bt_fn bt_int_xchg_rr[4];
extern const bt_fn bt_int_cmov[16][2][3];
extern const bt_fn bt_int_setcc[16][2];
extern const bt_fn bt_int_cbw[2][3]; /* CBW/CWDE/CDQE, CWD/CDQ/CQO */
/* int_lock.c */
extern const bt_fn bt_int_xchg_m[4];
extern const bt_fn bt_int_xadd[BT_U_N][4];
extern const bt_fn bt_int_cmpxchg[BT_U_N][4];
enum bt_next bt_int_cmpxchg8b(struct bt_vcpu *c, const struct bt_op *op);
enum bt_next bt_int_cmpxchg16b(struct bt_vcpu *c, const struct bt_op *op);
/* int_shift.c */
extern const bt_fn bt_int_shift[BT_SH_N][BT_S_N][4];
extern const bt_fn bt_int_shiftd[2][BT_S_N][3]; /* SHLD, SHRD */
/* int_muldiv.c */
extern const bt_fn bt_int_mul[BT_MUL_N][2][4];
extern const bt_fn bt_int_imul2[2][3];
extern const bt_fn bt_int_imul3[2][3];
/* int_bit.c */
extern const bt_fn bt_int_bt[BT_BT_N][BT_K_N][3]; /* RR RI MR MI LMR LMI */
extern const bt_fn bt_int_scan[BT_SCAN_N][2][3];
extern const bt_fn bt_int_bmi[BT_BMI_N][2][2]; /* register/memory source; 32, 64 bits */
extern const bt_fn bt_int_crc32[2][4];
/* int_branch.c */
extern const bt_fn bt_int_jcc[2][16]; /* general, 64-bit */
extern const bt_fn bt_int_jmp[2][BT_BR_N];
extern const bt_fn bt_int_call[2][BT_BR_N];
extern const bt_fn bt_int_ret[2];
extern const bt_fn bt_int_loop[BT_LOOP_N];
/* int_stack.c */
extern const bt_fn bt_int_push[BT_BR_N]; /* any size: immediate, register, memory */
extern const bt_fn bt_int_push64[BT_BR_N];
extern const bt_fn bt_int_pop[2]; /* any size: register, memory */
extern const bt_fn bt_int_pop64;
enum bt_next bt_int_push_seg(struct bt_vcpu *c, const struct bt_op *op);
enum bt_next bt_int_pusha(struct bt_vcpu *c, const struct bt_op *op);
enum bt_next bt_int_popa(struct bt_vcpu *c, const struct bt_op *op);
enum bt_next bt_int_pushf(struct bt_vcpu *c, const struct bt_op *op);
enum bt_next bt_int_popf(struct bt_vcpu *c, const struct bt_op *op);
enum bt_next bt_int_enter(struct bt_vcpu *c, const struct bt_op *op);
enum bt_next bt_int_leave(struct bt_vcpu *c, const struct bt_op *op);
/* int_string.c */
extern const bt_fn bt_int_string[BT_STR_N][4]; /* with or without REP */
/* int_misc.c */
enum bt_next bt_int_ud(struct bt_vcpu *c, const struct bt_op *op);
enum bt_next bt_int_gp(struct bt_vcpu *c, const struct bt_op *op);
enum bt_next bt_int_nop(struct bt_vcpu *c, const struct bt_op *op);
enum bt_next bt_int_pause(struct bt_vcpu *c, const struct bt_op *op);
enum bt_next bt_int_xlat(struct bt_vcpu *c, const struct bt_op *op);
enum bt_next bt_int_bound(struct bt_vcpu *c, const struct bt_op *op);
enum bt_next bt_int_clflush(struct bt_vcpu *c, const struct bt_op *op);
enum bt_next bt_int_clzero(struct bt_vcpu *c, const struct bt_op *op);
enum bt_next bt_int_rdpid(struct bt_vcpu *c, const struct bt_op *op);
extern const bt_fn bt_int_rdrand[2][3]; /* RDRAND, RDSEED */
extern const bt_fn bt_int_fence[BT_FENCE_N];
extern const bt_fn bt_int_flag[BT_FLAG_N];
extern const bt_fn bt_int_bcd[BT_BCD_N];

#endif
