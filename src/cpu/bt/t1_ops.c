/* Native code for single operations: arithmetic, moves, bits. Each function either emits all of the operation or,
 * before it has emitted anything, returns false, and the interpreter's handler does it.
 *
 * Flags: instructions that define all arithmetic flags take the host's as they are; all others (shifts, INC, BT,
 * IMUL...) get the guest's flags into the host's first, as in the interpreter, so that what they leave alone or
 * undefined comes out as on this CPU. */
#include "cpu/bt/t1_ops.h"

#include "cpu/bt/int_priv.h"

/* AH, CH, DH or BH as an operand, where the emitter does not expect it. */
static bool t1_high(const struct t1 *s, const struct t1_desc *d)
{
    bool high = (s->op->dst & 7) != 0 || (s->op->src & 7) != 0;

    switch (d->class) {
    case T1_ALU:
    case T1_TEST:
    case T1_MOV:
    case T1_MOVX:
    case T1_SETCC:
        return high && !s->t->bmi2;
    case T1_FP:
        return false;
    default:
        return high;
    }
}

/* ---- ADD OR ADC SBB AND SUB XOR CMP, TEST ---- */
static bool t1_locked(unsigned kind)
{
    return kind == BT_K_LMR || kind == BT_K_LMI;
}

/* op r/m, imm of group 1 (sub: 0..7) or TEST (sub < 0). */
static void t1_group1(struct t1 *s, unsigned size, int sub, uint32_t lock, struct bt_x x)
{
    uint64_t imm = s->op->imm;

    if (sub < 0) {
        bt_emit_ins(&s->e, size, size == 1 ? 0xf6 : 0xf7, 0, x);
        bt_emit_imm(&s->e, size, imm);
    } else if (size == 1) {
        bt_emit_ins(&s->e, 1, 0x80 | lock, sub, x);
        bt_emit_u8(&s->e, (uint8_t)imm);
    } else if ((int64_t)imm == (int8_t)imm) {
        bt_emit_ins(&s->e, size, 0x83 | lock, sub, x);
        bt_emit_u8(&s->e, (uint8_t)imm);
    } else {
        bt_emit_ins(&s->e, size, 0x81 | lock, sub, x);
        bt_emit_imm(&s->e, size, imm);
    }
}

/* Opcode of `op r/m, r`; + 2 is `op r, r/m` (TEST has the first only). */
static uint32_t t1_alu_opcode(int sub, unsigned size)
{
    return sub < 0 ? (size == 1 ? 0x84 : 0x85) : (uint32_t)sub << 3 | (size != 1);
}

static bool t1_alu_mem(struct t1 *s, const struct t1_desc *d, int sub, bool wb, bool carry)
{
    const struct bt_op *op = s->op;
    uint32_t lock = t1_locked(d->kind) ? BT_OPC_LOCK : 0;
    int reg;

    if (!t1_mem(s, d->size, wb && d->kind != BT_K_RM))
        return false;
    if (carry)
        t1_fl_host(s);
    if (d->kind == BT_K_RM) {
        reg = t1_dst_load(s, op->dst, T1_T);
        bt_emit_ins(&s->e, d->size, t1_alu_opcode(sub, d->size) + 2, reg, s->x);
        if (wb)
            t1_dst_done(s, op->dst, reg);
    } else if (d->kind == BT_K_MI || d->kind == BT_K_LMI) {
        t1_group1(s, d->size, sub, lock, s->x);
    } else {
        reg = t1_src(s, op->src, T1_T);
        bt_emit_ins(&s->e, d->size, t1_alu_opcode(sub, d->size) | lock, reg, s->x);
    }
    t1_fl_set(s);
    if (wb && d->kind != BT_K_RM)
        t1_note_store(s, d->size);
    return true;
}

static bool t1_op_alu(struct t1 *s, const struct t1_desc *d)
{
    const struct bt_op *op = s->op;
    int sub = d->class == T1_TEST ? -1 : d->sub, reg;
    bool wb = sub >= 0 && sub != BT_ALU_CMP, carry = sub == BT_ALU_ADC || sub == BT_ALU_SBB;

    if (d->kind == BT_K_RM && sub < 0)
        return false;
    if (d->kind != BT_K_RR && d->kind != BT_K_RI)
        return t1_alu_mem(s, d, sub, wb, carry);
    if (carry)
        t1_fl_host(s);
    if (d->kind == BT_K_RI && !wb) { /* compare in memory where the register is there */
        t1_group1(s, d->size, sub, 0, t1_rm(s, op->dst, T1_T));
    } else if (d->kind == BT_K_RI) {
        reg = t1_dst_load(s, op->dst, T1_P);
        t1_group1(s, d->size, sub, 0, bt_x_reg(reg));
        t1_dst_done(s, op->dst, reg);
    } else if (!wb) {
        reg = t1_src(s, op->src, T1_P);
        bt_emit_ins(&s->e, d->size, t1_alu_opcode(sub, d->size), reg, t1_rm(s, op->dst, T1_T));
    } else {
        reg = t1_dst_load(s, op->dst, T1_P);
        bt_emit_ins(&s->e, d->size, t1_alu_opcode(sub, d->size) + 2, reg, t1_rm(s, op->src, T1_T));
        t1_dst_done(s, op->dst, reg);
    }
    t1_fl_set(s);
    return true;
}

/* ---- NOT NEG INC DEC, shifts ---- */
/* Memory operands of instructions that read and write it: probe, the guest's flags into the host's. */
static bool t1_rmw(struct t1 *s, unsigned size)
{
    if (!t1_mem(s, size, true))
        return false;
    t1_fl_host(s);
    return true;
}

static bool t1_op_unary(struct t1 *s, const struct t1_desc *d)
{
    static const uint8_t field[] = { [BT_UN_NOT] = 2, [BT_UN_NEG] = 3, [BT_UN_INC] = 0, [BT_UN_DEC] = 1 };
    uint32_t opcode = (d->sub == BT_UN_NOT || d->sub == BT_UN_NEG ? 0xf6U : 0xfeU) | (d->size != 1);
    bool flags = d->sub != BT_UN_NOT;
    int reg;

    if (d->kind != BT_U_R) {
        if (!(flags ? t1_rmw(s, d->size) : t1_mem(s, d->size, true)))
            return false;
        bt_emit_ins(&s->e, d->size, opcode | (d->kind == BT_U_LM ? BT_OPC_LOCK : 0), field[d->sub], s->x);
    } else {
        if (flags)
            t1_fl_host(s);
        reg = t1_dst_load(s, s->op->dst, T1_P);
        bt_emit_ins(&s->e, d->size, opcode, field[d->sub], bt_x_reg(reg));
        t1_dst_done(s, s->op->dst, reg);
    }
    if (flags)
        t1_fl_set(s);
    if (d->kind != BT_U_R)
        t1_note_store(s, d->size);
    return true;
}

static bool t1_op_shift(struct t1 *s, const struct t1_desc *d)
{
    static const uint8_t field[] = { [BT_SH_ROL] = 0, [BT_SH_ROR] = 1, [BT_SH_RCL] = 2, [BT_SH_RCR] = 3,
                                     [BT_SH_SHL] = 4, [BT_SH_SHR] = 5, [BT_SH_SAR] = 7 };
    bool mem = d->kind == BT_S_MI || d->kind == BT_S_MC, cl = d->kind == BT_S_RC || d->kind == BT_S_MC;
    uint32_t opcode = (cl ? 0xd2U : 0xc0U) | (d->size != 1);
    struct bt_x x;
    int reg = T1_P;

    if (mem) {
        if (!t1_rmw(s, d->size))
            return false;
        x = s->x;
    } else {
        t1_fl_host(s);
        reg = t1_dst_load(s, s->op->dst, T1_P);
        x = bt_x_reg(reg);
    }
    bt_emit_ins(&s->e, d->size, opcode, field[d->sub], x);
    if (!cl)
        bt_emit_u8(&s->e, (uint8_t)s->op->imm);
    t1_fl_set(s);
    if (mem)
        t1_note_store(s, d->size);
    else
        t1_dst_done(s, s->op->dst, reg);
    return true;
}

static bool t1_op_shiftd(struct t1 *s, const struct t1_desc *d)
{
    bool cl = d->kind == BT_S_RC;
    int dst, src;

    if (d->kind != BT_S_RI && d->kind != BT_S_RC)
        return false;
    t1_fl_host(s);
    dst = t1_dst_load(s, s->op->dst, T1_P);
    src = t1_src(s, s->op->src, T1_I);
    s->r10_group = -1;
    bt_emit_ins(&s->e, d->size, (d->sub ? 0x0facU : 0x0fa4U) + cl, src, bt_x_reg(dst));
    if (!cl)
        bt_emit_u8(&s->e, (uint8_t)s->op->imm);
    t1_dst_done(s, s->op->dst, dst);
    t1_fl_set(s);
    return true;
}

/* ---- MUL, IMUL ---- */
/* The accumulator's place, rax, is the image's: it is used for the instruction only. A divide error leads to the
 * handler, which then takes the image from memory. */
static bool t1_op_muldiv(struct t1 *s, const struct t1_desc *d)
{
    static const uint8_t field[BT_MUL_N] = { [BT_MUL_MUL] = 4, [BT_MUL_IMUL] = 5, [BT_MUL_DIV] = 6, [BT_MUL_IDIV] = 7 };
    struct bt_x x = t1_guest(s->op->src);
    bool div = d->class == T1_DIV;

    if (d->size == 1)
        return false;
    if (d->kind) {
        if (!t1_mem(s, d->size, false))
            return false;
        bt_emit_ins(&s->e, d->size, 0x8b, T1_T, s->x);
        x = bt_x_reg(T1_T);
    } else if (x.reg == t1_host[BT_RAX] && !x.mem) { /* the accumulator itself: rax will hold it */
        x = bt_x_reg(T1_A);
    }
    if (div) {
        t1_fl_img(s);
        bt_emit_ins(&s->e, 2, 0x89, T1_A, t1_state(T1_OFF(t1_flags)));
        s->slow = NULL;
        t1_slow_get(s)->from_mem = true;
    }
    t1_fl_host(s);
    bt_emit_ins(&s->e, 8, 0x8b, T1_A, t1_guest(BT_RAX * 8));
    if (div)
        t1_trap_here(s);
    bt_emit_ins(&s->e, d->size, 0xf7, field[d->sub], x);
    bt_emit_ins(&s->e, 8, 0x8b, t1_host[BT_RAX], bt_x_reg(T1_A));
    t1_fl_set(s);
    return true;
}

static bool t1_op_imul(struct t1 *s, const struct t1_desc *d)
{
    struct bt_x x = t1_guest(s->op->src);
    int64_t imm = (int64_t)s->op->imm;
    int reg;

    if (d->kind) {
        if (!t1_mem(s, d->size, false))
            return false;
        x = s->x;
    }
    t1_fl_host(s);
    reg = d->class == T1_IMUL2 || d->size == 2 ? t1_dst_load(s, s->op->dst, T1_T) : t1_dst(s->op->dst, T1_T);
    if (d->class == T1_IMUL2) {
        bt_emit_ins(&s->e, d->size, 0x0faf, reg, x);
    } else {
        bt_emit_ins(&s->e, d->size, imm == (int8_t)imm ? 0x6b : 0x69, reg, x);
        bt_emit_imm(&s->e, imm == (int8_t)imm ? 1 : d->size, (uint64_t)imm);
    }
    t1_dst_done(s, s->op->dst, reg);
    t1_fl_set(s);
    return true;
}

/* ---- bits ---- */
/* BT and kin with a memory operand and a bit offset in a register: the address moves by whole operands. */
static bool t1_bt_mem_reg(struct t1 *s, const struct t1_desc *d)
{
    unsigned shift = d->size == 8 ? 6 : 5;
    bool write = d->sub != BT_BT_BT;
    struct bt_x src = t1_guest(s->op->src);

    if (d->size == 2 || !t1_lin(s))
        return false;
    t1_fl_clobber(s);
    if (d->size == 8)
        bt_emit_ins(&s->e, 8, 0x8b, T1_I, src);
    else
        bt_emit_ins(&s->e, 8, 0x63, T1_I, src);
    bt_emit_ins(&s->e, 8, 0xc1, 7, bt_x_reg(T1_I));
    bt_emit_u8(&s->e, (uint8_t)shift);
    bt_emit_ins(&s->e, 8, 0x8d, T1_P, bt_x_sib(T1_P, T1_I, d->size == 8 ? 3 : 2, 0));
    t1_probe(s, d->size, write);
    bt_emit_ins(&s->e, 4, 0x8b, T1_T, src);
    bt_emit_ins(&s->e, 4, 0x83, 4, bt_x_reg(T1_T));
    bt_emit_u8(&s->e, (uint8_t)(d->size * 8 - 1));
    t1_fl_host(s);
    bt_emit_ins(&s->e, d->size, (0x0fa3U + ((uint32_t)d->sub << 3)) | (write ? BT_OPC_LOCK : 0), T1_T, s->x);
    t1_fl_set(s);
    if (write)
        t1_note_store(s, d->size);
    return true;
}

static bool t1_bt_mem_imm(struct t1 *s, const struct t1_desc *d)
{
    bool write = d->sub != BT_BT_BT;

    if (!t1_mem(s, d->size, write))
        return false;
    t1_fl_host(s);
    bt_emit_ins(&s->e, d->size, 0x0fba | (write ? BT_OPC_LOCK : 0), 4 + d->sub, s->x);
    bt_emit_u8(&s->e, (uint8_t)s->op->imm);
    t1_fl_set(s);
    if (write)
        t1_note_store(s, d->size);
    return true;
}

static bool t1_op_bt(struct t1 *s, const struct t1_desc *d)
{
    int dst, src;

    if (d->kind == BT_K_MI || d->kind == BT_K_LMI)
        return t1_bt_mem_imm(s, d);
    if (d->kind == BT_K_MR || d->kind == BT_K_LMR)
        return t1_bt_mem_reg(s, d);
    if (d->kind != BT_K_RR && d->kind != BT_K_RI)
        return false;
    t1_fl_host(s);
    dst = t1_dst_load(s, s->op->dst, T1_P);
    if (d->kind == BT_K_RI) {
        bt_emit_ins(&s->e, d->size, 0x0fba, 4 + d->sub, bt_x_reg(dst));
        bt_emit_u8(&s->e, (uint8_t)s->op->imm);
    } else {
        src = t1_src(s, s->op->src, T1_I);
        s->r10_group = -1;
        bt_emit_ins(&s->e, d->size, 0x0fa3U + ((uint32_t)d->sub << 3), src, bt_x_reg(dst));
    }
    if (d->sub != BT_BT_BT)
        t1_dst_done(s, s->op->dst, dst);
    t1_fl_set(s);
    return true;
}

static bool t1_op_scan(struct t1 *s, const struct t1_desc *d)
{
    static const uint32_t opcodes[] = { [BT_SCAN_BSF] = 0x0fbc,
                                        [BT_SCAN_BSR] = 0x0fbd,
                                        [BT_SCAN_LZCNT] = 0x0fbd | BT_OPC_F3,
                                        [BT_SCAN_TZCNT] = 0x0fbc | BT_OPC_F3,
                                        [BT_SCAN_POPCNT] = 0x0fb8 | BT_OPC_F3 };
    struct bt_x x = t1_guest(s->op->src);
    int reg;

    if (d->kind) {
        if (!t1_mem(s, d->size, false))
            return false;
        x = s->x;
    }
    t1_fl_host(s);
    reg = t1_dst_load(s, s->op->dst, T1_T);
    bt_emit_ins(&s->e, d->size, opcodes[d->sub], reg, x);
    t1_dst_done(s, s->op->dst, reg);
    t1_fl_set(s);
    return true;
}

static bool t1_op_flag(struct t1 *s, const struct t1_desc *d)
{
    t1_fl_host(s);
    bt_emit_u8(&s->e, d->sub == BT_FLAG_CLC ? 0xf8 : d->sub == BT_FLAG_STC ? 0xf9 : 0xf5);
    t1_fl_set(s);
    return true;
}

/* ---- the table ---- */
typedef bool (*t1_emitter)(struct t1 *s, const struct t1_desc *d);

bool bt_t1_op(struct t1 *s, const struct t1_desc *d)
{
    static const t1_emitter emitters[T1_NCLASSES] = {
        [T1_NOP] = t1_op_nop,
        [T1_ALU] = t1_op_alu,
        [T1_TEST] = t1_op_alu,
        [T1_UNARY] = t1_op_unary,
        [T1_SHIFT] = t1_op_shift,
        [T1_SHIFTD] = t1_op_shiftd,
        [T1_MOV] = t1_op_mov,
        [T1_MOVX] = t1_op_movx,
        [T1_LEA] = t1_op_lea,
        [T1_CMOV] = t1_op_cmov,
        [T1_SETCC] = t1_op_setcc,
        [T1_CBW] = t1_op_cbw,
        [T1_MUL] = t1_op_muldiv,
        [T1_IMUL2] = t1_op_imul,
        [T1_IMUL3] = t1_op_imul,
        [T1_BSWAP] = t1_op_bswap,
        [T1_XCHG] = t1_op_xchg,
        [T1_XCHG_M] = t1_op_xchg_m,
        [T1_XADD] = t1_op_xadd,
        [T1_CMPXCHG] = t1_op_cmpxchg,
        [T1_BT] = t1_op_bt,
        [T1_SCAN] = t1_op_scan,
        [T1_FLAG] = t1_op_flag,
        [T1_JCC] = t1_op_jcc,
        [T1_JMP] = t1_op_jmp,
        [T1_CALL] = t1_op_call,
        [T1_RET] = t1_op_ret,
        [T1_PUSH] = t1_op_push,
        [T1_POP] = t1_op_pop,
        [T1_LEAVE] = t1_op_leave,
        [T1_DIV] = t1_op_muldiv,
        [T1_BMI] = t1_op_bmi,
        [T1_CRC32] = t1_op_crc32,
        [T1_MOVBE] = t1_op_movbe,
        [T1_FENCE] = t1_op_fence,
        [T1_PUSHF] = t1_op_pushf,
        [T1_CLI] = t1_op_cli,
        [T1_STI] = t1_op_sti,
        [T1_AC] = t1_op_ac,
        [T1_FP] = t1_op_fp,
        [T1_CMPXCHG16B] = t1_op_cmpxchg16b,
    };

    if (!emitters[d->class] || t1_high(s, d))
        return false;
    return emitters[d->class](s, d);
}
