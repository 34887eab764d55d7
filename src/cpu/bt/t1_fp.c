/* Native code for SSE and AVX instructions: what the interpreter's stub (fp_priv.h) executes, with the operand that the
 * translation has. The guest's vector registers are the host's; before the first such instruction on a straight line
 * stands a check that they are live and that the guest may use them.
 *
 * What may trap (unmasked floating-point exceptions, misaligned operands) leads to the interpreter's handler, which
 * meets the same trap and raises the guest's exception. Not in sanitizer builds: their run-time library may use vector
 * registers at any time. */
#include "cpu/bt/fp_priv.h"
#include "cpu/bt/t1_ops.h"

/* A stub's instruction taken apart. */
struct fp_insn {
    uint8_t prefixes[4], n_prefixes;
    bool vex, has_modrm;
    uint8_t w, r, b; /* extension bits; W of the legacy encoding only */
    uint8_t b2;      /* third byte of VEX: W, vvvv, L, pp */
    uint8_t map;     /* 1, 2, 3: 0F, 0F38, 0F3A */
    uint8_t opcode, modrm, imm;
    bool has_imm;
};

/* Opcodes of map 1 that have an immediate. */
static bool fp_has_imm(uint8_t map, uint8_t opcode)
{
    static const uint8_t with[] = { 0x70, 0x71, 0x72, 0x73, 0xc2, 0xc4, 0xc5, 0xc6 };

    for (unsigned i = 0; i < ARRAY_SIZE(with) && map == 1; i++) {
        if (with[i] == opcode)
            return true;
    }
    return map == 3;
}

/* false: not an encoding that is known here. */
static bool fp_parse(const uint8_t *p, struct fp_insn *ret)
{
    *ret = (struct fp_insn){ .has_modrm = true };
    while ((*p == 0x66 || *p == 0xf2 || *p == 0xf3) && ret->n_prefixes < 3)
        ret->prefixes[ret->n_prefixes++] = *p++;
    if (*p == 0xc4) {
        ret->vex = true;
        ret->r = !(p[1] & 0x80);
        ret->b = !(p[1] & 0x20);
        ret->map = p[1] & 0x1f;
        ret->b2 = p[2];
        p += 3;
    } else {
        if ((*p & 0xf0) == 0x40) {
            ret->w = *p >> 3 & 1;
            ret->r = *p >> 2 & 1;
            ret->b = *p & 1;
            p++;
        }
        if (*p++ != 0x0f)
            return false;
        ret->map = *p == 0x38 ? 2 : *p == 0x3a ? 3 : 1;
        p += ret->map != 1;
    }
    ret->opcode = *p++;
    if (ret->map == 1 && ret->opcode == 0x77) { /* VZEROUPPER, VZEROALL */
        ret->has_modrm = false;
        return ret->vex;
    }
    if (ret->map == 1 && (ret->opcode == 0x78 || ret->opcode == 0x79)) /* SSE4a: two immediates */
        return false;
    if (ret->map == 3 && ret->opcode >= 0x60 && ret->opcode <= 0x63) /* string comparison: implicit registers */
        return false;
    ret->modrm = *p++;
    ret->has_imm = fp_has_imm(ret->map, ret->opcode);
    ret->imm = *p;
    return true;
}

/* Whether the instruction can raise floating-point exceptions. */
static bool fp_may_trap(const struct fp_insn *in)
{
    uint8_t op = in->opcode;

    if (in->map == 1)
        return op == 0x2a || (op >= 0x2c && op <= 0x2f) || op == 0x51 || (op >= 0x58 && op <= 0x5f) || op == 0x7c ||
               op == 0x7d || op == 0xc2 || op == 0xd0 || op == 0xe6;
    if (in->map == 2)
        return op == 0x13 || (op >= 0x96 && op <= 0xbf);
    return (op >= 0x08 && op <= 0x0b) || op == 0x1d || op == 0x40 || op == 0x41;
}

enum fp_gpr { FP_GPR_NONE, FP_GPR_REG, FP_GPR_RM };

/* Where a general register stands in the encoding. */
static enum fp_gpr fp_gpr_place(const struct fp_insn *in)
{
    if (in->map == 1) {
        switch (in->opcode) {
        case 0x2a:
        case 0x6e:
        case 0x7e:
        case 0xc4:
            return FP_GPR_RM;
        case 0x2c:
        case 0x2d:
        case 0x50:
        case 0xc5:
        case 0xd7:
            return FP_GPR_REG;
        default:
            return FP_GPR_NONE;
        }
    }
    if (in->map == 3 && ((in->opcode >= 0x14 && in->opcode <= 0x17) || in->opcode == 0x20 || in->opcode == 0x22))
        return FP_GPR_RM;
    return FP_GPR_NONE;
}

static void fp_encode(struct t1 *s, const struct fp_insn *in, int reg, struct bt_x x)
{
    unsigned rx = x.mem && x.index >= 8, rb = x.mem ? x.base >= 8 : x.reg >= 8, rr = reg >= 8;
    struct bt_emit *e = &s->e;

    for (unsigned i = 0; i < in->n_prefixes; i++)
        bt_emit_u8(e, in->prefixes[i]);
    if (in->vex) {
        bt_emit_u8(e, 0xc4);
        bt_emit_u8(e, (uint8_t)((rr ? 0 : 0x80) | (rx ? 0 : 0x40) | (rb ? 0 : 0x20) | in->map));
        bt_emit_u8(e, in->b2);
    } else {
        unsigned rex = in->w * 8U | rr * 4U | rx * 2U | rb;

        if (rex)
            bt_emit_u8(e, (uint8_t)(0x40 | rex));
        bt_emit_u8(e, 0x0f);
        if (in->map > 1)
            bt_emit_u8(e, in->map == 2 ? 0x38 : 0x3a);
    }
    bt_emit_u8(e, in->opcode);
    if (in->has_modrm)
        bt_emit_modrm(e, reg, x);
    if (in->has_imm)
        bt_emit_u8(e, in->imm);
}

static void fp_check(struct t1 *s, uint8_t want)
{
    struct t1_fp_exit *x;

    if ((s->fp_ok & want) == want)
        return;
    t1_fl_clobber(s);
    x = &s->fps[s->n_fps++];
    bt_emit_ins(&s->e, 1, 0xf6, 0, t1_state(T1_OFF(fp_ready)));
    bt_emit_u8(&s->e, want);
    x->jump = bt_emit_jump(&s->e, 4);
    x->back = s->e.pos;
    x->slow = t1_slow_get(s);
    x->want = want;
    s->fp_ok |= want;
    s->r10_group = -1;
}

void t1_out_fp(struct t1 *s, const struct t1_fp_exit *x)
{
    bt_emit_target(&s->e, x->jump, s->e.pos);
    bt_emit_const(&s->e, T1_I, x->want);
    bt_emit_jump_to(&s->e, BT_CALL, s->t->fp);
    bt_emit_ins(&s->e, 4, 0x85, T1_I, bt_x_reg(T1_I));
    bt_emit_jump_to(&s->e, 5, x->back);
    x->slow->jumps[x->slow->n_jumps++] = bt_emit_jump(&s->e, BT_JMP);
}

bool t1_op_fp(struct t1 *s, const struct t1_desc *d)
{
    const struct bt_op *op = s->op;
    bool mem = d->kind == T1_FP_LD || d->kind == T1_FP_ST || d->kind == T1_FP_GEN_LD;
    bool gen = d->kind == T1_FP_GEN || d->kind == T1_FP_GEN_LD;
    enum fp_gpr gpr = FP_GPR_NONE;
    int reg, gpr_reg = -1;
    struct fp_insn in;
    struct bt_x x;

    if (FP_SANITIZED || !fp_parse((const uint8_t *)op->aux, &in) || (gen && op->x[0] & (FP_F_FLAGS_IN | FP_F_RCX)))
        return false;
    if (mem && (op->asize != 8 || !(op->flags & BT_OPF_LONG)))
        return false;
    if (gen && (op->x[0] & FP_F_GDST || op->src != BT_ZERO * 8)) {
        gpr = fp_gpr_place(&in);
        if (gpr == FP_GPR_NONE || (mem && gpr == FP_GPR_RM))
            return false;
    }
    fp_check(s, d->sub);
    reg = (in.modrm >> 3 & 7) | in.r << 3;
    x = bt_x_reg((in.modrm & 7) | in.b << 3);
    if (mem) {
        if (!t1_mem(s, op->msize, d->kind == T1_FP_ST)) /* the check stands there for nothing */
            return false;
        x = s->x;
    }
    if (gpr != FP_GPR_NONE)
        gpr_reg = op->x[0] & FP_F_GDST ? t1_dst(op->dst, T1_T) : t1_src(s, op->src, T1_T);
    if (gpr == FP_GPR_REG)
        reg = gpr_reg;
    else if (gpr == FP_GPR_RM)
        x = bt_x_reg(gpr_reg);
    if (fp_may_trap(&in) || (mem && op->x[1]))
        t1_trap_here(s);
    fp_encode(s, &in, reg, x);
    if (gpr != FP_GPR_NONE && op->x[0] & FP_F_GDST)
        t1_dst_done(s, op->dst, gpr_reg);
    if (gen && op->x[0] & FP_F_FLAGS)
        t1_fl_set(s);
    if (d->kind == T1_FP_ST)
        t1_note_store(s, op->msize);
    return true;
}
