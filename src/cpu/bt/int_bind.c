/* Choose the handler of an integer instruction: from Zydis' operands to the tables of int_priv.h. Ordinary code, called
 * by the decoder only.
 *
 * Each mnemonic stands once in bt_int_rows with the function that binds it and an argument for that function. */
#include <errno.h>

#include "cpu/bt/decode.h"
#include "cpu/bt/int_priv.h"

#define M(name) ZYDIS_MNEMONIC_##name

/* Binds one instruction; arg: from bt_int_rows. Same return values as bt_bind_int. */
typedef int (*bt_binder)(const struct bt_insn *in, struct bt_op *op, unsigned arg);

/* ---- operands ---- */
static bool bt_is_gpr(const ZydisDecodedOperand *o)
{
    return o->type == ZYDIS_OPERAND_TYPE_REGISTER && bt_reg_offset(o->reg.value) != 0xff;
}

static bool bt_is_mem(const ZydisDecodedOperand *o)
{
    return o->type == ZYDIS_OPERAND_TYPE_MEMORY;
}

static bool bt_is_imm(const ZydisDecodedOperand *o)
{
    return o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
}

static uint8_t bt_opreg(const ZydisDecodedOperand *o)
{
    return bt_reg_offset(o->reg.value);
}

/* Row in a table with four sizes: 8, 16, 32, 64 bits. */
static unsigned bt_size4(unsigned bits)
{
    return bits == 8 ? 0 : bits == 16 ? 1 : bits == 32 ? 2 : 3;
}

/* Row in a table with three sizes: 16, 32, 64 bits. */
static unsigned bt_size3(unsigned bits)
{
    return bits == 16 ? 0 : bits == 32 ? 1 : 2;
}

/* The repeat prefix that counts, which is the last one: 0xf2, 0xf3 or 0. */
static uint8_t bt_rep_prefix(const struct bt_insn *in)
{
    uint8_t found = 0;

    for (unsigned i = 0; i < in->zi.raw.prefix_count; i++) {
        if (in->zi.raw.prefixes[i].value == 0xf2 || in->zi.raw.prefixes[i].value == 0xf3)
            found = in->zi.raw.prefixes[i].value;
    }
    return found;
}

static int bt_set(struct bt_op *op, bt_fn fn)
{
    if (!fn)
        return -EINVAL;
    op->fn = fn;
    return 0;
}

/* Operand kind of a two-operand instruction; fills dst, src and imm. -ENOENT: other operand types. */
static int bt_kind2(const struct bt_insn *in, struct bt_op *op)
{
    const ZydisDecodedOperand *a = &in->ops[0], *b = &in->ops[1];
    bool lock = op->flags & BT_OPF_LOCK;

    if (bt_is_imm(b))
        op->imm = b->imm.value.u;
    else if (bt_is_gpr(b))
        op->src = bt_opreg(b);
    else if (!bt_is_mem(b))
        return -ENOENT;
    if (bt_is_gpr(a)) {
        op->dst = bt_opreg(a);
        return bt_is_mem(b) ? BT_K_RM : bt_is_imm(b) ? BT_K_RI : BT_K_RR;
    }
    if (!bt_is_mem(a))
        return -ENOENT;
    if (bt_is_imm(b))
        return lock ? BT_K_LMI : BT_K_MI;
    return lock ? BT_K_LMR : BT_K_MR;
}

static int bt_kind1(const struct bt_insn *in, struct bt_op *op)
{
    if (bt_is_mem(&in->ops[0]))
        return op->flags & BT_OPF_LOCK ? BT_U_LM : BT_U_M;
    if (!bt_is_gpr(&in->ops[0]))
        return -ENOENT;
    op->dst = bt_opreg(&in->ops[0]);
    return BT_U_R;
}

/* Fill src from operand i; returns 0 for a register, 1 for memory. */
static unsigned bt_rm_source(const struct bt_insn *in, struct bt_op *op, unsigned i)
{
    if (bt_is_mem(&in->ops[i]))
        return 1;
    op->src = bt_opreg(&in->ops[i]);
    return 0;
}

/* ---- arithmetic ---- */
static int bt_bind_alu(const struct bt_insn *in, struct bt_op *op, unsigned arg)
{
    int kind = bt_kind2(in, op);

    return kind < 0 ? kind : bt_set(op, bt_int_alu[arg][kind][bt_size4(in->ops[0].size)]);
}

static int bt_bind_test(const struct bt_insn *in, struct bt_op *op, unsigned arg)
{
    int kind = bt_kind2(in, op);

    return kind < 0 ? kind : bt_set(op, bt_int_test[kind][bt_size4(in->ops[0].size)]);
}

static int bt_bind_unary(const struct bt_insn *in, struct bt_op *op, unsigned arg)
{
    int kind = bt_kind1(in, op);

    return kind < 0 ? kind : bt_set(op, bt_int_unary[arg][kind][bt_size4(in->ops[0].size)]);
}

/* The count of a shift: the immediate, or CL. */
static unsigned bt_shift_kind(const struct bt_insn *in, struct bt_op *op, unsigned count)
{
    unsigned kind = bt_is_mem(&in->ops[0]) ? BT_S_MI : BT_S_RI;

    if (kind == BT_S_RI)
        op->dst = bt_opreg(&in->ops[0]);
    if (bt_is_imm(&in->ops[count])) {
        op->imm = in->ops[count].imm.value.u;
        return kind;
    }
    return kind + 1;
}

static int bt_bind_shift(const struct bt_insn *in, struct bt_op *op, unsigned arg)
{
    unsigned kind = bt_shift_kind(in, op, 1);

    return bt_set(op, bt_int_shift[arg][kind][bt_size4(in->ops[0].size)]);
}

static int bt_bind_shiftd(const struct bt_insn *in, struct bt_op *op, unsigned arg)
{
    unsigned kind = bt_shift_kind(in, op, 2);

    op->src = bt_opreg(&in->ops[1]);
    return bt_set(op, bt_int_shiftd[arg][kind][bt_size3(in->ops[0].size)]);
}

static int bt_bind_mul(const struct bt_insn *in, struct bt_op *op, unsigned arg)
{
    unsigned mem;

    if (in->zi.operand_count_visible == 1) {
        mem = bt_rm_source(in, op, 0);
        return bt_set(op, bt_int_mul[arg][mem][bt_size4(in->ops[0].size)]);
    }
    mem = bt_rm_source(in, op, 1);
    op->dst = bt_opreg(&in->ops[0]);
    if (in->zi.operand_count_visible == 2)
        return bt_set(op, bt_int_imul2[mem][bt_size3(in->ops[0].size)]);
    op->imm = in->ops[2].imm.value.u;
    return bt_set(op, bt_int_imul3[mem][bt_size3(in->ops[0].size)]);
}

static int bt_bind_bcd(const struct bt_insn *in, struct bt_op *op, unsigned arg)
{
    if (in->zi.operand_count_visible)
        op->imm = in->ops[0].imm.value.u;
    return bt_set(op, bt_int_bcd[arg]);
}

/* ---- data movement ---- */
static int bt_bind_mov(const struct bt_insn *in, struct bt_op *op, unsigned arg)
{
    int kind = bt_kind2(in, op);

    return kind < 0 ? kind : bt_set(op, bt_int_mov[kind][bt_size4(in->ops[0].size)]);
}

static int bt_bind_movx(const struct bt_insn *in, struct bt_op *op, unsigned sign)
{
    unsigned to = bt_size3(in->ops[0].size), from = bt_size4(in->ops[1].size), mem = bt_rm_source(in, op, 1);

    op->dst = bt_opreg(&in->ops[0]);
    if (in->zi.mnemonic == M(MOVSXD) && to == 0) { /* moves 16 bits, whatever Zydis says of a memory operand */
        from = 1;
        op->msize = mem ? 2 : 0;
    }
    if (!sign)
        return from > 1 ? -EINVAL : bt_set(op, bt_int_movzx[mem][from][to]);
    if (from == 2 && to == 0) { /* MOVSXD with a 16-bit operand size copies 16 bits; Zydis shows 32 */
        from = 1;
        op->msize = 2;
    }
    return from > 2 ? -EINVAL : bt_set(op, bt_int_movsx[mem][from][to]);
}

static int bt_bind_lea(const struct bt_insn *in, struct bt_op *op, unsigned arg)
{
    op->dst = bt_opreg(&in->ops[0]);
    if (op->asize == 8 && in->ops[0].size == 64)
        return bt_set(op, bt_int_lea64);
    return bt_set(op, bt_int_lea[bt_size3(in->ops[0].size)]);
}

static int bt_bind_movbe(const struct bt_insn *in, struct bt_op *op, unsigned arg)
{
    int kind = bt_kind2(in, op);

    return kind < 0 ? kind : bt_set(op, bt_int_movbe[kind == BT_K_MR][bt_size3(in->ops[0].size)]);
}

static int bt_bind_bswap(const struct bt_insn *in, struct bt_op *op, unsigned arg)
{
    op->dst = bt_opreg(&in->ops[0]);
    return bt_set(op, bt_int_bswap[bt_size3(in->ops[0].size)]);
}

static int bt_bind_xchg(const struct bt_insn *in, struct bt_op *op, unsigned arg)
{
    unsigned size = bt_size4(in->ops[0].size);

    if (bt_is_mem(&in->ops[0]) || bt_is_mem(&in->ops[1])) {
        op->src = bt_opreg(&in->ops[bt_is_mem(&in->ops[0]) ? 1 : 0]);
        return bt_set(op, bt_int_xchg_m[size]);
    }
    op->dst = bt_opreg(&in->ops[0]);
    op->src = bt_opreg(&in->ops[1]);
    return bt_set(op, bt_int_xchg_rr[size]);
}

static int bt_bind_xadd(const struct bt_insn *in, struct bt_op *op, unsigned cmpxchg)
{
    int kind = bt_kind1(in, op);
    unsigned size = bt_size4(in->ops[0].size);

    if (kind < 0)
        return kind;
    op->src = bt_opreg(&in->ops[1]);
    return bt_set(op, cmpxchg ? bt_int_cmpxchg[kind][size] : bt_int_xadd[kind][size]);
}

/* arg: unused; the condition is in the opcode. */
static int bt_bind_cmov(const struct bt_insn *in, struct bt_op *op, unsigned arg)
{
    unsigned mem = bt_rm_source(in, op, 1);

    op->dst = bt_opreg(&in->ops[0]);
    return bt_set(op, bt_int_cmov[in->zi.opcode & 15][mem][bt_size3(in->ops[0].size)]);
}

static int bt_bind_setcc(const struct bt_insn *in, struct bt_op *op, unsigned arg)
{
    unsigned mem = bt_is_mem(&in->ops[0]);

    if (!mem)
        op->dst = bt_opreg(&in->ops[0]);
    return bt_set(op, bt_int_setcc[in->zi.opcode & 15][mem]);
}

static int bt_bind_cbw(const struct bt_insn *in, struct bt_op *op, unsigned arg)
{
    return bt_set(op, bt_int_cbw[arg >> 2][arg & 3]);
}

/* ---- bits ---- */
static int bt_bind_bt(const struct bt_insn *in, struct bt_op *op, unsigned arg)
{
    int kind = bt_kind2(in, op);

    return kind < 0 ? kind : bt_set(op, bt_int_bt[arg][kind][bt_size3(in->ops[0].size)]);
}

static int bt_bind_scan(const struct bt_insn *in, struct bt_op *op, unsigned arg)
{
    unsigned mem = bt_rm_source(in, op, 1);

    op->dst = bt_opreg(&in->ops[0]);
    return bt_set(op, bt_int_scan[arg][mem][bt_size3(in->ops[0].size)]);
}

/* Which of the three operands of a BMI instruction is ModRM.rm, and whether the other source exists. */
static int bt_bind_bmi(const struct bt_insn *in, struct bt_op *op, unsigned arg)
{
    unsigned rm, mem, size = in->ops[0].size == 64;

    switch (arg) {
    case BT_BMI_ANDN:
    case BT_BMI_PDEP:
    case BT_BMI_PEXT:
    case BT_BMI_MULX: /* ops[1]: the low half's destination */
        rm = 2;
        op->x[0] = bt_opreg(&in->ops[1]);
        break;
    case BT_BMI_BEXTR:
    case BT_BMI_BZHI:
    case BT_BMI_SARX:
    case BT_BMI_SHLX:
    case BT_BMI_SHRX:
        rm = 1;
        op->x[0] = bt_opreg(&in->ops[2]);
        break;
    case BT_BMI_RORX:
        rm = 1;
        op->imm = in->ops[2].imm.value.u;
        break;
    default:
        rm = 1;
        break;
    }
    mem = bt_rm_source(in, op, rm);
    op->dst = bt_opreg(&in->ops[0]);
    return bt_set(op, bt_int_bmi[arg][mem][size]);
}

static int bt_bind_crc32(const struct bt_insn *in, struct bt_op *op, unsigned arg)
{
    unsigned mem = bt_rm_source(in, op, 1);

    op->dst = bt_opreg(&in->ops[0]);
    return bt_set(op, bt_int_crc32[mem][bt_size4(in->ops[1].size)]);
}

/* ---- control flow ---- */
/* Operand kind of a near branch. 64-bit mode: near branches are 64 bits wide, except that CPU models of AMD obey 66h.
 */
static int bt_branch_kind(const struct bt_insn *in, struct bt_op *op)
{
    const ZydisDecodedOperand *o = &in->ops[0];

    op->flags |= BT_OPF_END;
    if (in->zi.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
        return -ENOENT;
    if (bt_is_imm(o)) {
        op->imm = o->imm.value.u;
        op->aux = op->imm + op->len;
        return BT_BR_REL;
    }
    if (bt_is_mem(o))
        return BT_BR_M;
    if (!bt_is_gpr(o))
        return -ENOENT;
    op->src = bt_opreg(o);
    return BT_BR_R;
}

static bool bt_branch_long(const struct bt_insn *in, const struct bt_op *op)
{
    return in->mode == BT_MODE_64 && op->osize == 8;
}

static int bt_bind_jcc(const struct bt_insn *in, struct bt_op *op, unsigned arg)
{
    int kind = bt_branch_kind(in, op);

    return kind < 0 ? kind : bt_set(op, bt_int_jcc[bt_branch_long(in, op)][in->zi.opcode & 15]);
}

static int bt_bind_jmp(const struct bt_insn *in, struct bt_op *op, unsigned call)
{
    int kind = bt_branch_kind(in, op);

    if (kind < 0)
        return kind;
    return bt_set(op, call ? bt_int_call[bt_branch_long(in, op)][kind] : bt_int_jmp[bt_branch_long(in, op)][kind]);
}

static int bt_bind_ret(const struct bt_insn *in, struct bt_op *op, unsigned arg)
{
    if (in->zi.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
        return -ENOENT;
    op->flags |= BT_OPF_END;
    if (in->zi.operand_count_visible)
        op->imm = (uint16_t)in->ops[0].imm.value.u;
    return bt_set(op, bt_int_ret[bt_branch_long(in, op)]);
}

static int bt_bind_loop(const struct bt_insn *in, struct bt_op *op, unsigned arg)
{
    int kind = bt_branch_kind(in, op);
    uint8_t rep = bt_rep_prefix(in);

    /* AMD's CPUs let a repeat prefix choose between LOOPE and LOOPNE, whatever the opcode says. */
    if (in->amd && rep && (arg == BT_LOOP_E || arg == BT_LOOP_NE))
        arg = rep == 0xf3 ? BT_LOOP_E : BT_LOOP_NE;
    return kind < 0 ? kind : bt_set(op, bt_int_loop[arg]);
}

/* ---- stack ---- */
static int bt_bind_push(const struct bt_insn *in, struct bt_op *op, unsigned arg)
{
    const ZydisDecodedOperand *o = &in->ops[0];
    unsigned kind = BT_BR_REL;

    if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_SEGMENT) {
        op->x[0] = (uint8_t)ZydisRegisterGetId(o->reg.value); /* in the order of the encoding, as BT_ES... */
        return bt_set(op, bt_int_push_seg);
    }
    if (bt_is_imm(o))
        op->imm = o->imm.value.u;
    else if (bt_is_mem(o))
        kind = BT_BR_M;
    else if (bt_is_gpr(o))
        kind = BT_BR_R;
    else
        return -ENOENT;
    if (kind == BT_BR_R)
        op->src = bt_opreg(o);
    return bt_set(op, bt_branch_long(in, op) ? bt_int_push64[kind] : bt_int_push[kind]);
}

static int bt_bind_pop(const struct bt_insn *in, struct bt_op *op, unsigned arg)
{
    const ZydisDecodedOperand *o = &in->ops[0];

    if (bt_is_mem(o)) {
        if (op->base == BT_RSP) /* addressed with rSP after the pop */
            op->disp += op->osize;
        return bt_set(op, bt_int_pop[1]);
    }
    if (!bt_is_gpr(o))
        return -ENOENT;
    op->dst = bt_opreg(o);
    return bt_set(op, bt_branch_long(in, op) ? bt_int_pop64 : bt_int_pop[0]);
}

enum { BT_STK_PUSHA, BT_STK_POPA, BT_STK_PUSHF, BT_STK_POPF, BT_STK_ENTER, BT_STK_LEAVE };

static int bt_bind_stack(const struct bt_insn *in, struct bt_op *op, unsigned arg)
{
    static const bt_fn fns[] = {
        [BT_STK_PUSHA] = bt_int_pusha, [BT_STK_POPA] = bt_int_popa,   [BT_STK_PUSHF] = bt_int_pushf,
        [BT_STK_POPF] = bt_int_popf,   [BT_STK_ENTER] = bt_int_enter, [BT_STK_LEAVE] = bt_int_leave,
    };

    if (arg == BT_STK_ENTER) {
        op->imm = (uint16_t)in->ops[0].imm.value.u;
        op->x[0] = in->ops[1].imm.value.u & 31;
    }
    if (arg == BT_STK_POPF)
        op->flags |= BT_OPF_END;
    return bt_set(op, fns[arg]);
}

/* ---- strings ---- */
/* arg: operation << 2 | size. */
static int bt_bind_string(const struct bt_insn *in, struct bt_op *op, unsigned arg)
{
    uint8_t rep = bt_rep_prefix(in);

    /* F2 repeats MOVS, STOS and LODS as well. */
    op->flags &= (uint16_t) ~(BT_OPF_REP | BT_OPF_REPNE);
    if (rep)
        op->flags |= rep == 0xf2 ? BT_OPF_REPNE : BT_OPF_REP;
    op->x[0] = in->amd;
    return bt_set(op, bt_int_string[arg >> 2][arg & 3]);
}

/* MOVSD and CMPSD are also the names of vector instructions. */
static int bt_bind_string_d(const struct bt_insn *in, struct bt_op *op, unsigned arg)
{
    if (in->zi.meta.category != ZYDIS_CATEGORY_STRINGOP)
        return -ENOENT;
    return bt_bind_string(in, op, arg);
}

/* ---- the rest ---- */
enum {
    BT_MISC_NOP,
    BT_MISC_PAUSE,
    BT_MISC_UD,
    BT_MISC_XLAT,
    BT_MISC_BOUND,
    BT_MISC_CLFLUSH,
    BT_MISC_CLZERO,
    BT_MISC_RDPID,
    BT_MISC_CMPXCHG8B,
    BT_MISC_CMPXCHG16B
};

static int bt_bind_misc(const struct bt_insn *in, struct bt_op *op, unsigned arg)
{
    static const bt_fn fns[] = {
        [BT_MISC_NOP] = bt_int_nop,
        [BT_MISC_PAUSE] = bt_int_pause,
        [BT_MISC_UD] = bt_int_ud,
        [BT_MISC_XLAT] = bt_int_xlat,
        [BT_MISC_BOUND] = bt_int_bound,
        [BT_MISC_CLFLUSH] = bt_int_clflush,
        [BT_MISC_CLZERO] = bt_int_clzero,
        [BT_MISC_RDPID] = bt_int_rdpid,
        [BT_MISC_CMPXCHG8B] = bt_int_cmpxchg8b,
        [BT_MISC_CMPXCHG16B] = bt_int_cmpxchg16b,
    };

    switch (arg) {
    case BT_MISC_UD:
        op->flags |= BT_OPF_END;
        break;
    case BT_MISC_NOP:
        op->flags &= (uint16_t)~BT_OPF_MEM; /* prefetches and wide NOPs touch nothing */
        break;
    case BT_MISC_PAUSE:
        if (in->zi.raw.rex.B && in->amd) { /* F3 41 90 is XCHG R8, rAX to AMD's CPUs, PAUSE to Intel's */
            op->dst = BT_R8 * 8;
            op->src = BT_RAX * 8;
            return bt_set(op, bt_int_xchg_rr[bt_size4(op->osize * 8U)]);
        }
        break;
    case BT_MISC_CLZERO:
        op->seg = BT_DS;
        for (unsigned i = 0; i < in->zi.raw.prefix_count; i++) {
            if (in->zi.raw.prefixes[i].value == 0x64)
                op->seg = BT_FS;
            else if (in->zi.raw.prefixes[i].value == 0x65)
                op->seg = BT_GS;
        }
        break;
    case BT_MISC_BOUND:
    case BT_MISC_RDPID:
        op->dst = bt_opreg(&in->ops[0]);
        break;
    default:
        break;
    }
    return bt_set(op, fns[arg]);
}

static int bt_bind_flag(const struct bt_insn *in, struct bt_op *op, unsigned arg)
{
    return bt_set(op, bt_int_flag[arg]);
}

static int bt_bind_fence(const struct bt_insn *in, struct bt_op *op, unsigned arg)
{
    return bt_set(op, bt_int_fence[arg]);
}

static int bt_bind_rdrand(const struct bt_insn *in, struct bt_op *op, unsigned arg)
{
    op->dst = bt_opreg(&in->ops[0]);
    return bt_set(op, bt_int_rdrand[arg][bt_size3(in->ops[0].size)]);
}

/* ---- the table ---- */
struct bt_int_row {
    bt_binder bind; /* NULL: not an integer instruction */
    uint8_t arg;
};

#define ROW(name, binder, value) [M(name)] = { binder, value }
#define CONDS(prefix, binder)                                                                                          \
    ROW(prefix##O, binder, 0), ROW(prefix##NO, binder, 0), ROW(prefix##B, binder, 0), ROW(prefix##NB, binder, 0),      \
        ROW(prefix##Z, binder, 0), ROW(prefix##NZ, binder, 0), ROW(prefix##BE, binder, 0),                             \
        ROW(prefix##NBE, binder, 0), ROW(prefix##S, binder, 0), ROW(prefix##NS, binder, 0), ROW(prefix##P, binder, 0), \
        ROW(prefix##NP, binder, 0), ROW(prefix##L, binder, 0), ROW(prefix##NL, binder, 0), ROW(prefix##LE, binder, 0), \
        ROW(prefix##NLE, binder, 0)
#define STRING(name, op, dword)                                                           \
    ROW(name##B, bt_bind_string, (op) << 2), ROW(name##W, bt_bind_string, (op) << 2 | 1), \
        ROW(name##D, dword, (op) << 2 | 2), ROW(name##Q, bt_bind_string, (op) << 2 | 3)

static const struct bt_int_row bt_int_rows[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
    ROW(ADD, bt_bind_alu, BT_ALU_ADD),
    ROW(OR, bt_bind_alu, BT_ALU_OR),
    ROW(ADC, bt_bind_alu, BT_ALU_ADC),
    ROW(SBB, bt_bind_alu, BT_ALU_SBB),
    ROW(AND, bt_bind_alu, BT_ALU_AND),
    ROW(SUB, bt_bind_alu, BT_ALU_SUB),
    ROW(XOR, bt_bind_alu, BT_ALU_XOR),
    ROW(CMP, bt_bind_alu, BT_ALU_CMP),
    ROW(TEST, bt_bind_test, 0),
    ROW(NOT, bt_bind_unary, BT_UN_NOT),
    ROW(NEG, bt_bind_unary, BT_UN_NEG),
    ROW(INC, bt_bind_unary, BT_UN_INC),
    ROW(DEC, bt_bind_unary, BT_UN_DEC),
    ROW(ROL, bt_bind_shift, BT_SH_ROL),
    ROW(ROR, bt_bind_shift, BT_SH_ROR),
    ROW(RCL, bt_bind_shift, BT_SH_RCL),
    ROW(RCR, bt_bind_shift, BT_SH_RCR),
    ROW(SHL, bt_bind_shift, BT_SH_SHL),
    ROW(SHR, bt_bind_shift, BT_SH_SHR),
    ROW(SAR, bt_bind_shift, BT_SH_SAR),
    ROW(SHLD, bt_bind_shiftd, 0),
    ROW(SHRD, bt_bind_shiftd, 1),
    ROW(MUL, bt_bind_mul, BT_MUL_MUL),
    ROW(IMUL, bt_bind_mul, BT_MUL_IMUL),
    ROW(DIV, bt_bind_mul, BT_MUL_DIV),
    ROW(IDIV, bt_bind_mul, BT_MUL_IDIV),
    ROW(DAA, bt_bind_bcd, BT_BCD_DAA),
    ROW(DAS, bt_bind_bcd, BT_BCD_DAS),
    ROW(AAA, bt_bind_bcd, BT_BCD_AAA),
    ROW(AAS, bt_bind_bcd, BT_BCD_AAS),
    ROW(AAM, bt_bind_bcd, BT_BCD_AAM),
    ROW(AAD, bt_bind_bcd, BT_BCD_AAD),
    ROW(MOV, bt_bind_mov, 0),
    ROW(MOVNTI, bt_bind_mov, 0),
    ROW(MOVZX, bt_bind_movx, 0),
    ROW(MOVSX, bt_bind_movx, 1),
    ROW(MOVSXD, bt_bind_movx, 1),
    ROW(LEA, bt_bind_lea, 0),
    ROW(MOVBE, bt_bind_movbe, 0),
    ROW(BSWAP, bt_bind_bswap, 0),
    ROW(XCHG, bt_bind_xchg, 0),
    ROW(XADD, bt_bind_xadd, 0),
    ROW(CMPXCHG, bt_bind_xadd, 1),
    ROW(CMPXCHG8B, bt_bind_misc, BT_MISC_CMPXCHG8B),
    ROW(CMPXCHG16B, bt_bind_misc, BT_MISC_CMPXCHG16B),
    ROW(CBW, bt_bind_cbw, 0),
    ROW(CWDE, bt_bind_cbw, 1),
    ROW(CDQE, bt_bind_cbw, 2),
    ROW(CWD, bt_bind_cbw, 4),
    ROW(CDQ, bt_bind_cbw, 5),
    ROW(CQO, bt_bind_cbw, 6),
    CONDS(CMOV, bt_bind_cmov),
    CONDS(SET, bt_bind_setcc),
    CONDS(J, bt_bind_jcc),
    ROW(JMP, bt_bind_jmp, 0),
    ROW(CALL, bt_bind_jmp, 1),
    ROW(RET, bt_bind_ret, 0),
    ROW(LOOPNE, bt_bind_loop, BT_LOOP_NE),
    ROW(LOOPE, bt_bind_loop, BT_LOOP_E),
    ROW(LOOP, bt_bind_loop, BT_LOOP),
    ROW(JCXZ, bt_bind_loop, BT_LOOP_CXZ),
    ROW(JECXZ, bt_bind_loop, BT_LOOP_CXZ),
    ROW(JRCXZ, bt_bind_loop, BT_LOOP_CXZ),
    ROW(BT, bt_bind_bt, BT_BT_BT),
    ROW(BTS, bt_bind_bt, BT_BT_BTS),
    ROW(BTR, bt_bind_bt, BT_BT_BTR),
    ROW(BTC, bt_bind_bt, BT_BT_BTC),
    ROW(BSF, bt_bind_scan, BT_SCAN_BSF),
    ROW(BSR, bt_bind_scan, BT_SCAN_BSR),
    ROW(LZCNT, bt_bind_scan, BT_SCAN_LZCNT),
    ROW(TZCNT, bt_bind_scan, BT_SCAN_TZCNT),
    ROW(POPCNT, bt_bind_scan, BT_SCAN_POPCNT),
    ROW(ANDN, bt_bind_bmi, BT_BMI_ANDN),
    ROW(BEXTR, bt_bind_bmi, BT_BMI_BEXTR),
    ROW(BLSI, bt_bind_bmi, BT_BMI_BLSI),
    ROW(BLSMSK, bt_bind_bmi, BT_BMI_BLSMSK),
    ROW(BLSR, bt_bind_bmi, BT_BMI_BLSR),
    ROW(BZHI, bt_bind_bmi, BT_BMI_BZHI),
    ROW(PDEP, bt_bind_bmi, BT_BMI_PDEP),
    ROW(PEXT, bt_bind_bmi, BT_BMI_PEXT),
    ROW(RORX, bt_bind_bmi, BT_BMI_RORX),
    ROW(SARX, bt_bind_bmi, BT_BMI_SARX),
    ROW(SHLX, bt_bind_bmi, BT_BMI_SHLX),
    ROW(SHRX, bt_bind_bmi, BT_BMI_SHRX),
    ROW(MULX, bt_bind_bmi, BT_BMI_MULX),
    ROW(ADCX, bt_bind_bmi, BT_BMI_ADCX),
    ROW(ADOX, bt_bind_bmi, BT_BMI_ADOX),
    ROW(CRC32, bt_bind_crc32, 0),
    ROW(PUSH, bt_bind_push, 0),
    ROW(POP, bt_bind_pop, 0),
    ROW(PUSHA, bt_bind_stack, BT_STK_PUSHA),
    ROW(PUSHAD, bt_bind_stack, BT_STK_PUSHA),
    ROW(POPA, bt_bind_stack, BT_STK_POPA),
    ROW(POPAD, bt_bind_stack, BT_STK_POPA),
    ROW(PUSHF, bt_bind_stack, BT_STK_PUSHF),
    ROW(PUSHFD, bt_bind_stack, BT_STK_PUSHF),
    ROW(PUSHFQ, bt_bind_stack, BT_STK_PUSHF),
    ROW(POPF, bt_bind_stack, BT_STK_POPF),
    ROW(POPFD, bt_bind_stack, BT_STK_POPF),
    ROW(POPFQ, bt_bind_stack, BT_STK_POPF),
    ROW(ENTER, bt_bind_stack, BT_STK_ENTER),
    ROW(LEAVE, bt_bind_stack, BT_STK_LEAVE),
    STRING(MOVS, BT_STR_MOVS, bt_bind_string_d),
    STRING(STOS, BT_STR_STOS, bt_bind_string),
    STRING(LODS, BT_STR_LODS, bt_bind_string),
    STRING(SCAS, BT_STR_SCAS, bt_bind_string),
    STRING(CMPS, BT_STR_CMPS, bt_bind_string_d),
    ROW(CLC, bt_bind_flag, BT_FLAG_CLC),
    ROW(STC, bt_bind_flag, BT_FLAG_STC),
    ROW(CMC, bt_bind_flag, BT_FLAG_CMC),
    ROW(CLD, bt_bind_flag, BT_FLAG_CLD),
    ROW(STD, bt_bind_flag, BT_FLAG_STD),
    ROW(LAHF, bt_bind_flag, BT_FLAG_LAHF),
    ROW(SAHF, bt_bind_flag, BT_FLAG_SAHF),
    ROW(SALC, bt_bind_flag, BT_FLAG_SALC),
    ROW(LFENCE, bt_bind_fence, BT_FENCE_L),
    ROW(SFENCE, bt_bind_fence, BT_FENCE_S),
    ROW(MFENCE, bt_bind_fence, BT_FENCE_M),
    ROW(RDRAND, bt_bind_rdrand, 0),
    ROW(RDSEED, bt_bind_rdrand, 1),
    ROW(NOP, bt_bind_misc, BT_MISC_NOP),
    ROW(PREFETCH, bt_bind_misc, BT_MISC_NOP),
    ROW(PREFETCHW, bt_bind_misc, BT_MISC_NOP),
    ROW(PREFETCHWT1, bt_bind_misc, BT_MISC_NOP),
    ROW(PREFETCHNTA, bt_bind_misc, BT_MISC_NOP),
    ROW(PREFETCHT0, bt_bind_misc, BT_MISC_NOP),
    ROW(PREFETCHT1, bt_bind_misc, BT_MISC_NOP),
    ROW(PREFETCHT2, bt_bind_misc, BT_MISC_NOP),
    ROW(PAUSE, bt_bind_misc, BT_MISC_PAUSE),
    ROW(UD0, bt_bind_misc, BT_MISC_UD),
    ROW(UD1, bt_bind_misc, BT_MISC_UD),
    ROW(UD2, bt_bind_misc, BT_MISC_UD),
    ROW(XLAT, bt_bind_misc, BT_MISC_XLAT),
    ROW(BOUND, bt_bind_misc, BT_MISC_BOUND),
    ROW(CLFLUSH, bt_bind_misc, BT_MISC_CLFLUSH),
    ROW(CLFLUSHOPT, bt_bind_misc, BT_MISC_CLFLUSH),
    ROW(CLWB, bt_bind_misc, BT_MISC_CLFLUSH),
    ROW(CLZERO, bt_bind_misc, BT_MISC_CLZERO),
    ROW(RDPID, bt_bind_misc, BT_MISC_RDPID),
};

int bt_bind_int(struct bt_vcpu *c, const struct bt_insn *in, struct bt_op *op)
{
    const struct bt_int_row *row = &bt_int_rows[in->zi.mnemonic];

    return row->bind ? row->bind(in, op, row->arg) : -ENOENT;
}
