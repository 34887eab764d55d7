/* Binder of vector and x87 instructions: chooses the handler and makes the stub, by re-encoding the instruction's own
 * bytes: prefixes that matter, opcode, immediates and vector registers stay; a memory operand becomes [rdi], a general
 * register becomes eax/rax. Outside 64-bit mode the bits that the CPU ignores there (VEX.W with general registers, high
 * register bits) are cleared, since stubs run in 64-bit mode.
 *
 * Ordinary code: guest FP state must have been saved. */
#include <errno.h>

#include "cpu/bt/decode.h"
#include "cpu/bt/fp_priv.h"

/* The instruction being bound, taken apart. */
struct fp_parts {
    const struct bt_insn *in;
    bool vex, has_modrm, mem, gpr_reg, gpr_rm, has66;
    uint8_t rep; /* last F2/F3 prefix, or 0 */
    uint8_t modrm;
    uint8_t tail;   /* offset of the immediates */
    uint8_t p1, p2; /* VEX in its 3-byte form */
    const ZydisDecodedOperand *mop, *gpr;
    enum fp_kind kind;
    bool mixed; /* XMM and MMX registers */
};

struct fp_code {
    uint8_t b[FP_SLOT];
    unsigned n;
};

static void fp_emit(struct fp_code *code, uint8_t b)
{
    if (code->n < FP_SLOT)
        code->b[code->n++] = b;
}

static void fp_scan_prefixes(struct fp_parts *p)
{
    for (unsigned i = 0; i < p->in->zi.raw.prefix_count; i++) {
        uint8_t v = p->in->zi.raw.prefixes[i].value;

        if (v == 0x66)
            p->has66 = true;
        else if (v == 0xf2 || v == 0xf3)
            p->rep = v;
    }
}

/* Instructions in which VEX.W only widens a general register or an integer in memory; outside 64-bit mode it is ignored
 * there (elsewhere it selects the operation). */
static bool fp_vex_w_is_width(const ZydisDecodedInstruction *zi)
{
    if (zi->opcode_map == ZYDIS_OPCODE_MAP_0F)
        return zi->opcode == 0x2a || zi->opcode == 0x2c || zi->opcode == 0x2d || zi->opcode == 0x6e ||
               zi->opcode == 0x7e;
    return zi->opcode_map == ZYDIS_OPCODE_MAP_0F3A && (zi->opcode == 0x16 || zi->opcode == 0x22);
}

static void fp_scan_vex(struct fp_parts *p)
{
    const uint8_t *b = p->in->bytes + p->in->zi.raw.vex.offset;

    if (b[0] == 0xc4) {
        p->p1 = b[1];
        p->p2 = b[2];
    } else {
        p->p1 = (b[1] & 0x80) | 0x61;
        p->p2 = b[1] & 0x7f;
    }
    if (p->in->mode != BT_MODE_64) {
        p->p1 |= 0xe0;
        p->p2 |= 0x40;
        if (fp_vex_w_is_width(&p->in->zi))
            p->p2 &= 0x7f;
    }
}

/* CVT(T)PS2PI, CVT(T)PD2PI (without F2/F3): from memory they have no XMM register, but need what SSE needs. */
static bool fp_is_cvt_mmx(uint8_t opcode)
{
    return opcode == 0x2c || opcode == 0x2d;
}

static void fp_scan_operands(struct fp_parts *p)
{
    bool mm = false, xmm = false;

    for (unsigned i = 0; i < p->in->zi.operand_count; i++) {
        const ZydisDecodedOperand *o = &p->in->ops[i];
        ZydisRegisterClass cls;

        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && p->mem && !p->mop)
            p->mop = o;
        if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
            continue;
        cls = ZydisRegisterGetClass(o->reg.value);
        mm |= cls == ZYDIS_REGCLASS_MMX;
        xmm |= cls == ZYDIS_REGCLASS_XMM;
        if (cls < ZYDIS_REGCLASS_GPR8 || cls > ZYDIS_REGCLASS_GPR64 ||
            o->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
            continue;
        p->gpr = o;
        p->gpr_reg = o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG;
        p->gpr_rm = o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM;
    }
    if (!p->vex && p->in->zi.opcode_map == ZYDIS_OPCODE_MAP_0F && fp_is_cvt_mmx(p->in->zi.opcode) && !p->rep)
        mm = xmm = true;
    if (p->vex)
        p->kind = FP_KIND_AVX;
    else if ((mm && !xmm) || p->in->zi.mnemonic == ZYDIS_MNEMONIC_EMMS)
        p->kind = FP_KIND_MMX;
    else
        p->kind = FP_KIND_SSE;
    p->mixed = mm && xmm;
}

static void fp_parts_init(struct fp_parts *p, const struct bt_insn *in)
{
    const ZydisDecodedInstruction *zi = &in->zi;

    *p = (struct fp_parts){ .in = in, .vex = zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX };
    p->has_modrm = (zi->attributes & ZYDIS_ATTRIB_HAS_MODRM) != 0;
    p->tail = zi->length;
    fp_scan_prefixes(p);
    if (p->has_modrm) {
        p->modrm = in->bytes[zi->raw.modrm.offset];
        p->mem = p->modrm < 0xc0;
        p->tail = (uint8_t)(zi->raw.modrm.offset + 1 + ((zi->attributes & ZYDIS_ATTRIB_HAS_SIB) ? 1 : 0) +
                            zi->raw.disp.size / 8);
    }
    if (p->vex)
        fp_scan_vex(p);
    fp_scan_operands(p);
}

/* Register number in ModRM.reg with its extension bit. */
static uint8_t fp_reg_of(const struct fp_parts *p)
{
    bool high = p->vex ? !(p->p1 & 0x80) : p->in->zi.raw.rex.R != 0;

    return (uint8_t)(((p->modrm >> 3) & 7) | (high ? 8 : 0));
}

static uint8_t fp_rm_of(const struct fp_parts *p)
{
    bool high = p->vex ? !(p->p1 & 0x20) : p->in->zi.raw.rex.B != 0;

    return (uint8_t)((p->modrm & 7) | (high ? 8 : 0));
}

static uint8_t fp_vvvv_of(const struct fp_parts *p)
{
    return (uint8_t)(~(p->p2 >> 3) & 15);
}

static bool fp_is_pcmpstr(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_PCMPESTRI:
    case ZYDIS_MNEMONIC_PCMPESTRM:
    case ZYDIS_MNEMONIC_PCMPISTRI:
    case ZYDIS_MNEMONIC_PCMPISTRM:
    case ZYDIS_MNEMONIC_VPCMPESTRI:
    case ZYDIS_MNEMONIC_VPCMPESTRM:
    case ZYDIS_MNEMONIC_VPCMPISTRI:
    case ZYDIS_MNEMONIC_VPCMPISTRM:
        return true;
    default:
        return false;
    }
}

static void fp_encode_vex(const struct fp_parts *p, struct fp_code *code)
{
    uint8_t p1 = p->p1 | 0x40, p2 = p->p2;

    if (p->mem || p->gpr_rm)
        p1 |= 0x20;
    if (p->gpr_reg)
        p1 |= 0x80;
    if (p->in->mode != BT_MODE_64 && (p->gpr || fp_is_pcmpstr(p->in->zi.mnemonic)))
        p2 &= 0x7f;
    fp_emit(code, 0xc4);
    fp_emit(code, p1);
    fp_emit(code, p2);
    fp_emit(code, p->in->zi.opcode);
}

static void fp_encode_legacy(const struct fp_parts *p, struct fp_code *code)
{
    const ZydisDecodedInstruction *zi = &p->in->zi;
    uint8_t rex = 0;

    if (p->has66)
        fp_emit(code, 0x66);
    if (p->rep)
        fp_emit(code, p->rep);
    if (zi->attributes & ZYDIS_ATTRIB_HAS_REX)
        rex = (uint8_t)((zi->raw.rex.W ? 8 : 0) | (zi->raw.rex.R && !p->gpr_reg ? 4 : 0) |
                        (zi->raw.rex.B && !p->gpr_rm && !p->mem ? 1 : 0));
    if (rex)
        fp_emit(code, 0x40 | rex);
    fp_emit(code, 0x0f);
    if (zi->opcode_map == ZYDIS_OPCODE_MAP_0F38)
        fp_emit(code, 0x38);
    else if (zi->opcode_map == ZYDIS_OPCODE_MAP_0F3A)
        fp_emit(code, 0x3a);
    fp_emit(code, zi->opcode);
}

/* Re-encode and get the stub. */
static int fp_make_stub(struct bt_vcpu *c, const struct fp_parts *p, uintptr_t *ret_stub)
{
    const ZydisDecodedInstruction *zi = &p->in->zi;
    struct fp_code code = { .n = 0 };

    if (p->vex)
        fp_encode_vex(p, &code);
    else
        fp_encode_legacy(p, &code);
    if (p->has_modrm) {
        uint8_t reg = p->gpr_reg ? 0 : p->modrm & 0x38;

        fp_emit(&code, p->mem ? reg | 7 : p->gpr_rm ? 0xc0 | reg : 0xc0 | reg | (p->modrm & 7));
    }
    for (unsigned i = p->tail; i < zi->length; i++) {
        uint8_t b = p->in->bytes[i];

        /* The fourth register of VBLENDV*: bit 7 is ignored outside 64-bit mode. */
        if (p->vex && p->in->mode != BT_MODE_64 && (p->p1 & 0x1f) == 3 && zi->opcode >= 0x4a && zi->opcode <= 0x4c)
            b &= 0x7f;
        fp_emit(&code, b);
    }
    return bt_stub_get(c->stubs, code.b, code.n, ret_stub);
}

static bool fp_is_unaligned(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
        return true;
    default:
        return fp_is_pcmpstr(m);
    }
}

/* Moves that demand alignment whatever the encoding and MXCSR.MM. */
static bool fp_is_aligned_move(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_MOVAPS:
    case ZYDIS_MNEMONIC_MOVAPD:
    case ZYDIS_MNEMONIC_MOVDQA:
    case ZYDIS_MNEMONIC_MOVNTPS:
    case ZYDIS_MNEMONIC_MOVNTPD:
    case ZYDIS_MNEMONIC_MOVNTDQ:
    case ZYDIS_MNEMONIC_MOVNTDQA:
    case ZYDIS_MNEMONIC_VMOVAPS:
    case ZYDIS_MNEMONIC_VMOVAPD:
    case ZYDIS_MNEMONIC_VMOVDQA:
    case ZYDIS_MNEMONIC_VMOVNTPS:
    case ZYDIS_MNEMONIC_VMOVNTPD:
    case ZYDIS_MNEMONIC_VMOVNTDQ:
    case ZYDIS_MNEMONIC_VMOVNTDQA:
        return true;
    default:
        return false;
    }
}

static void fp_set_align(const struct bt_vcpu *c, const struct fp_parts *p, struct bt_op *op)
{
    ZydisMnemonic m = p->in->zi.mnemonic;
    bool sha = p->in->zi.meta.isa_ext == ZYDIS_ISA_EXT_SHA && c->stubs->sha_unaligned;

    op->x[1] = 0;
    op->flags &= (uint16_t)~BT_OPF_ALIGN;
    if (fp_is_aligned_move(m)) {
        op->x[1] = (uint8_t)(op->msize - 1);
        op->flags |= BT_OPF_ALIGN;
    } else if (p->kind == FP_KIND_SSE && op->msize == 16 && !fp_is_unaligned(m) && !sha) {
        op->x[1] = 15;
    }
}

/* What general registers and flags the handler has to move: x[0]. */
static uint8_t fp_how(const struct fp_parts *p, struct bt_op *op)
{
    uint8_t how = 0;

    op->src = BT_ZERO * 8;
    op->dst = BT_RAX * 8;
    if (p->gpr) {
        uint8_t reg = (uint8_t)(ZydisRegisterGetId(p->gpr->reg.value) * 8);

        if (p->gpr->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) {
            op->dst = reg;
            how |= FP_F_GDST;
        } else {
            op->src = reg;
        }
    }
    if (fp_is_pcmpstr(p->in->zi.mnemonic)) {
        how |= FP_F_FLAGS;
        op->src = BT_RAX * 8;
        if ((p->in->zi.opcode & 0xfd) == 0x61) /* ...STRI */
            how |= FP_F_RCX;
    } else if (p->in->zi.cpu_flags && (p->in->zi.cpu_flags->modified & ZYDIS_CPUFLAG_ZF)) {
        how |= FP_F_FLAGS;
    }
    return how;
}

enum { FP_REG, FP_LD, FP_ST, FP_GEN, FP_GEN_LD };

static bt_fn fp_handler(const struct fp_parts *p, unsigned form)
{
    static const bt_fn sse[] = { bt_fp_sse_reg, bt_fp_sse_ld, bt_fp_sse_st, bt_fp_sse_gen, bt_fp_sse_gen_ld };
    static const bt_fn mixed[] = { bt_fp_ssemmx_reg, bt_fp_ssemmx_ld, bt_fp_ssemmx_st, bt_fp_ssemmx_gen,
                                   bt_fp_ssemmx_gen_ld };
    static const bt_fn avx[] = { bt_fp_avx_reg, bt_fp_avx_ld, bt_fp_avx_st, bt_fp_avx_gen, bt_fp_avx_gen_ld };
    static const bt_fn mmx[] = { bt_fp_mmx_reg, bt_fp_mmx_ld, bt_fp_mmx_st, bt_fp_mmx_gen, bt_fp_mmx_gen_ld };

    if (p->kind == FP_KIND_AVX)
        return avx[form];
    if (p->kind == FP_KIND_MMX)
        return mmx[form];
    return p->mixed ? mixed[form] : sse[form];
}

static int fp_bind_plain(struct bt_vcpu *c, const struct fp_parts *p, struct bt_op *op)
{
    bool general, store;
    int r = fp_make_stub(c, p, &op->aux);

    if (r < 0)
        return r;
    op->x[0] = fp_how(p, op);
    general = p->gpr != NULL || op->x[0] != 0;
    if (!p->mem) {
        op->x[1] = 0;
        op->fn = fp_handler(p, general ? FP_GEN : FP_REG);
        return 0;
    }
    if (!p->mop || p->mop->size == 0 || p->mop->size > 512)
        return -EINVAL;
    op->msize = (uint8_t)(p->mop->size / 8);
    fp_set_align(c, p, op);
    store = (p->mop->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
    if (store)
        op->x[0] |= FP_F_PROBE; /* VCVTPS2PH sets sticky flags; others need it not, but it does no harm */
    if (p->in->zi.mnemonic == ZYDIS_MNEMONIC_LDMXCSR || p->in->zi.mnemonic == ZYDIS_MNEMONIC_VLDMXCSR) {
        op->x[2] = p->vex;
        op->fn = bt_fp_ldmxcsr;
    } else {
        op->fn = fp_handler(p, store ? FP_ST : general ? FP_GEN_LD : FP_LD);
    }
    return 0;
}

/* rDI in the current address size, DS or the override. */
static void fp_mem_rdi(const struct fp_parts *p, struct bt_op *op)
{
    static const uint8_t prefix[] = { 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65 };
    bool is64 = p->in->mode == BT_MODE_64;

    op->base = BT_RDI;
    op->index = BT_ZERO;
    op->scale = 0;
    op->disp = 0;
    op->seg = BT_DS;
    for (unsigned i = 0; i < p->in->zi.raw.prefix_count; i++)
        for (uint8_t s = is64 ? BT_FS : BT_ES; s <= BT_GS; s++)
            if (p->in->zi.raw.prefixes[i].value == prefix[s])
                op->seg = s;
    op->asize = (p->in->zi.address_width / 8U) & 15U;
    op->flags |= BT_OPF_MEM | (is64 ? BT_OPF_LONG : 0);
}

static int fp_bind_maskmov(struct bt_vcpu *c, const struct fp_parts *p, struct bt_op *op)
{
    fp_mem_rdi(p, op);
    op->msize = p->kind == FP_KIND_MMX ? 8 : 16;
    op->x[2] = (uint8_t)p->kind;
    op->x[3] = p->kind == FP_KIND_MMX ? p->modrm & 7 : fp_rm_of(p);
    op->fn = bt_fp_maskmov;
    return fp_make_stub(c, p, &op->aux);
}

static int fp_bind_vmask(struct bt_vcpu *c, const struct fp_parts *p, struct bt_op *op, unsigned size, bool store)
{
    op->msize = p->p2 & 4 ? 32 : 16;
    op->x[2] = (uint8_t)size;
    op->x[3] = fp_vvvv_of(p);
    op->fn = store ? bt_fp_vmask_st : bt_fp_vmask_ld;
    return fp_make_stub(c, p, &op->aux);
}

static int fp_bind_gather(const struct fp_parts *p, struct bt_op *op)
{
    const ZydisDecodedInstruction *zi = &p->in->zi;
    unsigned size = p->p2 & 0x80 ? 8 : 4, isize = zi->opcode & 1 ? 8 : 4, vl = p->p2 & 4 ? 32 : 16;
    unsigned n = vl / MAX(size, isize);

    op->x[0] = fp_reg_of(p);
    op->x[1] = (uint8_t)(((p->in->bytes[zi->raw.sib.offset] >> 3) & 7) | (p->p1 & 0x40 ? 0 : 8));
    op->x[2] = fp_vvvv_of(p);
    op->imm = size | isize << 8 | n << 16;
    op->index = BT_ZERO;
    op->scale = (p->in->bytes[zi->raw.sib.offset] >> 6) & 3U;
    op->msize = (uint8_t)size;
    op->fn = bt_fp_gather;
    return 0;
}

static int fp_bind_vector(struct bt_vcpu *c, const struct fp_parts *p, struct bt_op *op)
{
    switch (p->in->zi.mnemonic) {
    case ZYDIS_MNEMONIC_CRC32:
    case ZYDIS_MNEMONIC_POPCNT:
    case ZYDIS_MNEMONIC_PREFETCHT0:
    case ZYDIS_MNEMONIC_PREFETCHT1:
    case ZYDIS_MNEMONIC_PREFETCHT2:
    case ZYDIS_MNEMONIC_PREFETCHNTA:
    case ZYDIS_MNEMONIC_SFENCE:
    case ZYDIS_MNEMONIC_LFENCE:
    case ZYDIS_MNEMONIC_MFENCE:
    case ZYDIS_MNEMONIC_CLFLUSH:
    case ZYDIS_MNEMONIC_PAUSE:
    case ZYDIS_MNEMONIC_MOVNTI:
        return -ENOENT;
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU:
        return fp_bind_maskmov(c, p, op);
    case ZYDIS_MNEMONIC_VMASKMOVPS:
        return fp_bind_vmask(c, p, op, 4, p->in->zi.opcode == 0x2e);
    case ZYDIS_MNEMONIC_VMASKMOVPD:
        return fp_bind_vmask(c, p, op, 8, p->in->zi.opcode == 0x2f);
    case ZYDIS_MNEMONIC_VPMASKMOVD:
        return fp_bind_vmask(c, p, op, 4, p->in->zi.opcode == 0x8e);
    case ZYDIS_MNEMONIC_VPMASKMOVQ:
        return fp_bind_vmask(c, p, op, 8, p->in->zi.opcode == 0x8e);
    case ZYDIS_MNEMONIC_VZEROALL:
    case ZYDIS_MNEMONIC_VZEROUPPER:
        op->x[2] = p->in->zi.mnemonic == ZYDIS_MNEMONIC_VZEROALL;
        if (p->in->mode != BT_MODE_64) {
            op->fn = bt_fp_vzero;
            return 0;
        }
        return fp_bind_plain(c, p, op);
    default:
        break;
    }
    if (p->in->zi.meta.isa_ext == ZYDIS_ISA_EXT_AVX2GATHER)
        return fp_bind_gather(p, op);
    return fp_bind_plain(c, p, op);
}

/* FXSAVE and the XSAVE family; -ENOENT if it is none of them. */
static int fp_bind_area(const struct fp_parts *p, struct bt_op *op)
{
    op->x[1] = p->in->zi.raw.rex.W && p->in->mode == BT_MODE_64;
    op->x[0] = op->x[2] = 0;
    switch (p->in->zi.mnemonic) {
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
        op->fn = bt_fp_fxsave;
        return 0;
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
        op->fn = bt_fp_fxrstor;
        return 0;
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
        op->x[2] = FP_XSAVE;
        op->fn = bt_fp_xsave;
        return 0;
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
        op->x[2] = FP_XSAVEOPT;
        op->fn = bt_fp_xsave;
        return 0;
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
        op->x[2] = FP_XSAVEC;
        op->fn = bt_fp_xsave;
        return 0;
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
        op->fn = bt_fp_xrstor;
        return 0;
    default:
        return -ENOENT;
    }
}

/* ---- x87 ---- */

/* Memory forms by (escape - 0xd8) * 8 + ModRM.reg: bytes, and what it is. */
enum { X_LD = 0x00, X_ST = 0x40, X_CTL = 0x80, X_SIZE = 0x1f, X_BAD = 0xff };
enum { X_ENV = X_SIZE };
static const uint8_t fp_x87_mem[64] = {
    4, 4,        4,        4,        4,     4,         4,         4,                /* D8 */
    4, X_BAD,    X_ST | 4, X_ST | 4, X_ENV, X_CTL | 2, X_ENV,     X_CTL | X_ST | 2, /* D9 */
    4, 4,        4,        4,        4,     4,         4,         4,                /* DA */
    4, X_ST | 4, X_ST | 4, X_ST | 4, X_BAD, 10,        X_BAD,     X_ST | 10,        /* DB */
    8, 8,        8,        8,        8,     8,         8,         8,                /* DC */
    8, X_ST | 8, X_ST | 8, X_ST | 8, X_ENV, X_BAD,     X_ENV,     X_CTL | X_ST | 2, /* DD */
    2, 2,        2,        2,        2,     2,         2,         2,                /* DE */
    2, X_ST | 2, X_ST | 2, X_ST | 2, 10,    8,         X_ST | 10, X_ST | 8,         /* DF */
};

static int fp_bind_x87_mem(const struct fp_parts *p, struct bt_op *op, uint8_t esc)
{
    unsigned reg = (p->modrm >> 3) & 7;
    uint8_t what = fp_x87_mem[(esc - 0xd8) * 8 + reg];

    if (what == X_BAD)
        return -EINVAL;
    if ((what & X_SIZE) == X_ENV) {
        op->osize = (p->in->mode == BT_MODE_16) != p->has66 && !p->in->zi.raw.rex.W ? 2 : 4;
        op->x[1] = esc == 0xdd;
        op->fn = reg == 4 ? bt_fp_fldenv : bt_fp_fnstenv;
        return 0;
    }
    op->msize = what & X_SIZE;
    op->x[0] = what & X_CTL ? FP_F_CONTROL : 0;
    if (what & X_ST) {
        if (what & X_CTL)
            op->x[0] |= FP_F_NOWAIT;
        op->fn = bt_fp_x87_st;
    } else {
        op->fn = bt_fp_x87_ld;
    }
    return 0;
}

static int fp_bind_x87_reg(const struct fp_parts *p, struct bt_op *op, uint8_t esc)
{
    unsigned reg = (p->modrm >> 3) & 7;

    op->fn = bt_fp_x87_reg;
    if (esc == 0xdb && reg == 4) { /* FNENI FNDISI FNCLEX FNINIT FNSETPM */
        op->x[0] = FP_F_CONTROL | FP_F_NOWAIT;
        if (p->modrm == 0xe3)
            op->fn = bt_fp_fninit;
    } else if (esc == 0xdf && p->modrm == 0xe0) { /* FNSTSW AX */
        op->x[0] = FP_F_CONTROL | FP_F_NOWAIT | FP_F_GDST;
        op->fn = bt_fp_x87_gen;
    } else if (((esc == 0xdb || esc == 0xdf) && (reg == 5 || reg == 6)) || /* FUCOMI FCOMI, and popping */
               ((esc == 0xda || esc == 0xdb) && reg < 4)) {                /* FCMOVcc */
        op->x[0] = reg >= 5 ? FP_F_FLAGS : 0;
        op->fn = bt_fp_x87_gen;
    }
    return 0;
}

static int fp_bind_x87(struct bt_vcpu *c, const struct fp_parts *p, struct bt_op *op)
{
    uint8_t esc = p->in->zi.opcode, code[2];
    int r;

    op->x[0] = op->x[1] = 0;
    if (esc == 0x9b) {
        op->fn = bt_fp_fwait;
        return 0;
    }
    if (!p->has_modrm)
        return -EINVAL;
    op->x[2] = p->modrm;
    op->x[3] = esc & 7;
    r = p->mem ? fp_bind_x87_mem(p, op, esc) : fp_bind_x87_reg(p, op, esc);
    if (r < 0)
        return r;
    code[0] = esc;
    code[1] = p->mem ? (p->modrm & 0x38) | 7 : p->modrm;
    return bt_stub_get(c->stubs, code, 2, &op->aux);
}

static bool fp_is_vector(ZydisISAExt ext)
{
    switch (ext) {
    case ZYDIS_ISA_EXT_MMX:
    case ZYDIS_ISA_EXT_SSE:
    case ZYDIS_ISA_EXT_SSE2:
    case ZYDIS_ISA_EXT_SSE3:
    case ZYDIS_ISA_EXT_SSSE3:
    case ZYDIS_ISA_EXT_SSE4:
    case ZYDIS_ISA_EXT_SSE4A:
    case ZYDIS_ISA_EXT_AES:
    case ZYDIS_ISA_EXT_PCLMULQDQ:
    case ZYDIS_ISA_EXT_SHA:
    case ZYDIS_ISA_EXT_GFNI:
    case ZYDIS_ISA_EXT_AVX:
    case ZYDIS_ISA_EXT_AVX2:
    case ZYDIS_ISA_EXT_AVX2GATHER:
    case ZYDIS_ISA_EXT_AVXAES:
    case ZYDIS_ISA_EXT_AVX_VNNI:
    case ZYDIS_ISA_EXT_F16C:
    case ZYDIS_ISA_EXT_FMA:
    case ZYDIS_ISA_EXT_VAES:
    case ZYDIS_ISA_EXT_VPCLMULQDQ:
        return true;
    default:
        return false;
    }
}

int bt_bind_fp(struct bt_vcpu *c, const struct bt_insn *in, struct bt_op *op)
{
    const ZydisDecodedInstruction *zi = &in->zi;
    struct fp_parts p;
    int r;

    if (zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY && zi->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
        return -ENOENT;
    fp_parts_init(&p, in);
    if (!p.vex && zi->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT)
        return zi->opcode == 0x9b || (zi->opcode & 0xf8) == 0xd8 ? fp_bind_x87(c, &p, op) : -ENOENT;
    r = fp_bind_area(&p, op);
    if (r != -ENOENT)
        return r;
    return fp_is_vector(zi->meta.isa_ext) ? fp_bind_vector(c, &p, op) : -ENOENT;
}
