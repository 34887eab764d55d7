/* From bytes to operations: runs Zydis, fills what all families of instructions share (struct bt_op), checks that the
 * CPU model has the instruction, and lets the binders choose a handler.
 *
 * Invariant: every byte sequence yields a bound operation or -EAGAIN; what the architecture or the CPU model leaves
 * undefined raises #UD when it is executed, not before. Must not know how instructions are executed. */
#include "cpu/bt/decode.h"

#include <errno.h>

#include "cpu/bt/int_priv.h"
#include "cpu/bt/sys.h"

/* A CPUID bit that an instruction set extension depends on. */
struct bt_feature {
    uint16_t isa_set;
    uint32_t leaf, subleaf;
    uint8_t reg, bit; /* reg: 0 = eax .. 3 = edx */
};

#define ISA(name) ZYDIS_ISA_SET_##name
static const struct bt_feature bt_features[] = {
    { ISA(ADOX_ADCX), 7, 0, 1, 19 },
    { ISA(AES), 1, 0, 2, 25 },
    { ISA(AVX), 1, 0, 2, 28 },
    { ISA(AVX2), 7, 0, 1, 5 },
    { ISA(AVX2GATHER), 7, 0, 1, 5 },
    { ISA(AVXAES), 1, 0, 2, 25 },
    { ISA(AVXAES), 1, 0, 2, 28 },
    { ISA(AVX_GFNI), 7, 0, 2, 8 },
    { ISA(AVX_GFNI), 1, 0, 2, 28 },
    { ISA(AVX_VNNI), 7, 1, 0, 4 },
    { ISA(BMI1), 7, 0, 1, 3 },
    { ISA(BMI2), 7, 0, 1, 8 },
    { ISA(CLFLUSHOPT), 7, 0, 1, 23 },
    { ISA(CLFSH), 1, 0, 3, 19 },
    { ISA(CLWB), 7, 0, 1, 24 },
    { ISA(CLZERO), 0x80000008, 0, 1, 0 },
    { ISA(CMOV), 1, 0, 3, 15 },
    { ISA(CMPXCHG16B), 1, 0, 2, 13 },
    { ISA(F16C), 1, 0, 2, 29 },
    { ISA(FMA), 1, 0, 2, 12 },
    { ISA(FXSAVE), 1, 0, 3, 24 },
    { ISA(FXSAVE64), 1, 0, 3, 24 },
    { ISA(GFNI), 7, 0, 2, 8 },
    { ISA(INVPCID), 7, 0, 1, 10 },
    { ISA(MONITOR), 1, 0, 2, 3 },
    { ISA(MOVBE), 1, 0, 2, 22 },
    { ISA(MOVDIR), 7, 0, 2, 27 },
    { ISA(PCLMULQDQ), 1, 0, 2, 1 },
    { ISA(PENTIUMMMX), 1, 0, 3, 23 },
    { ISA(PKU), 7, 0, 2, 3 },
    { ISA(POPCNT), 1, 0, 2, 23 },
    { ISA(RDPID), 7, 0, 2, 22 },
    { ISA(RDRAND), 1, 0, 2, 30 },
    { ISA(RDSEED), 7, 0, 1, 18 },
    { ISA(RDTSCP), 0x80000001, 0, 3, 27 },
    { ISA(RDWRFSGS), 7, 0, 1, 0 },
    { ISA(SERIALIZE), 7, 0, 3, 14 },
    { ISA(SHA), 7, 0, 1, 29 },
    { ISA(SMAP), 7, 0, 1, 20 },
    { ISA(SSE), 1, 0, 3, 25 },
    { ISA(SSEMXCSR), 1, 0, 3, 25 },
    { ISA(SSE2), 1, 0, 3, 26 },
    { ISA(SSE2MMX), 1, 0, 3, 26 },
    { ISA(SSE3), 1, 0, 2, 0 },
    { ISA(SSE3X87), 1, 0, 2, 0 },
    { ISA(SSE4), 1, 0, 2, 19 },
    { ISA(SSE42), 1, 0, 2, 20 },
    { ISA(SSE4A), 0x80000001, 0, 2, 6 },
    { ISA(SSSE3), 1, 0, 2, 9 },
    { ISA(SSSE3MMX), 1, 0, 2, 9 },
    { ISA(VAES), 7, 0, 2, 9 },
    { ISA(VPCLMULQDQ), 7, 0, 2, 10 },
    { ISA(XSAVE), 1, 0, 2, 26 },
    { ISA(XSAVEC), 0xd, 1, 0, 1 },
    { ISA(XSAVEOPT), 0xd, 1, 0, 0 },
    { ISA(XSAVES), 0xd, 1, 0, 3 },
};

/* Never offered, whatever the CPU model says. VMX and SVM: see bt_isa_refused. */
static const uint16_t bt_isa_absent[] = {
    ISA(AMD3DNOW),  ISA(AMD_INVLPGB), ISA(AMX_BF16), ISA(AMX_INT8),    ISA(AMX_TILE), ISA(CET),
    ISA(ENQCMD),    ISA(FMA4),        ISA(HRESET),   ISA(KEYLOCKER),   ISA(KNCE),     ISA(KEYLOCKER_WIDE),
    ISA(KNCJKBR),   ISA(KNCSTREAM),   ISA(KNCV),     ISA(KNC_MISC),    ISA(LWP),      ISA(KNC_PF_HINT),
    ISA(MCOMMIT),   ISA(MONITORX),    ISA(MPX),      ISA(PADLOCK_ACE), ISA(PCONFIG),  ISA(PADLOCK_PHE),
    ISA(PT),        ISA(PADLOCK_PMM), ISA(RDPRU),    ISA(PADLOCK_RNG), ISA(RTM),      ISA(SGX),
    ISA(SGX_ENCLV), ISA(SMX),         ISA(SNP),      ISA(TBM),         ISA(TDX),      ISA(TSX_LDTRK),
    ISA(UINTR),     ISA(VMFUNC),      ISA(WAITPKG),  ISA(XOP),
};
#undef ISA

/* Decoder modes that depend on the CPU model: deviations from those of the first try. */
enum { BT_DEC_NO_LZCNT = 1, BT_DEC_NO_TZCNT = 2, BT_DEC_AMD_BRANCHES = 4 };

static ZyanStatus bt_decode_zydis(const uint8_t *buf, unsigned n, enum bt_mode mode, unsigned quirks,
                                  struct bt_insn *in)
{
    static const struct {
        ZydisMachineMode mode;
        ZydisStackWidth width;
    } modes[] = {
        [BT_MODE_16] = { ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16 },
        [BT_MODE_32] = { ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32 },
        [BT_MODE_64] = { ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64 },
    };
    ZydisDecoder d;

    if (ZYAN_FAILED(ZydisDecoderInit(&d, modes[mode].mode, modes[mode].width)))
        return ZYDIS_STATUS_DECODING_ERROR;
    (void)ZydisDecoderEnableMode(&d, ZYDIS_DECODER_MODE_KNC, ZYAN_FALSE);
    (void)ZydisDecoderEnableMode(&d, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
    (void)ZydisDecoderEnableMode(&d, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
    (void)ZydisDecoderEnableMode(&d, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
    (void)ZydisDecoderEnableMode(&d, ZYDIS_DECODER_MODE_LZCNT, !(quirks & BT_DEC_NO_LZCNT));
    (void)ZydisDecoderEnableMode(&d, ZYDIS_DECODER_MODE_TZCNT, !(quirks & BT_DEC_NO_TZCNT));
    (void)ZydisDecoderEnableMode(&d, ZYDIS_DECODER_MODE_WBNOINVD, ZYAN_FALSE);
    (void)ZydisDecoderEnableMode(&d, ZYDIS_DECODER_MODE_AMD_BRANCHES, (quirks & BT_DEC_AMD_BRANCHES) != 0);
    return ZydisDecoderDecodeFull(&d, buf, n, &in->zi, in->ops);
}

/* Whether the CPU model is one of AMD's, where 66h makes near branches of 64-bit mode 16 bits wide. */
static bool bt_model_amd(const struct bt_vcpu *c)
{
    for (unsigned i = 0; i < c->n_cpuid; i++) {
        if (c->cpuid[i].function == 0)
            return c->cpuid[i].ebx == 0x68747541 || c->cpuid[i].ebx == 0x6f677948; /* "Auth", "Hygo" */
    }
    return false;
}

/* Which decoder modes must differ from the first try for this instruction and CPU model. */
static unsigned bt_decode_quirks(const struct bt_vcpu *c, const struct bt_insn *in)
{
    switch (in->zi.mnemonic) {
    case ZYDIS_MNEMONIC_LZCNT:
        return bt_has_cpuid(c, 0x80000001, 0, 2, 5) ? 0 : BT_DEC_NO_LZCNT;
    case ZYDIS_MNEMONIC_TZCNT:
        return bt_has_cpuid(c, 7, 0, 1, 3) ? 0 : BT_DEC_NO_TZCNT;
    default:
        break;
    }
    if (in->mode == BT_MODE_64 && in->zi.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE &&
        in->zi.meta.branch_type != ZYDIS_BRANCH_TYPE_FAR && (in->zi.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE) &&
        in->amd)
        return BT_DEC_AMD_BRANCHES;
    return 0;
}

/* Whether the CPU model (or this engine) does not have the instruction. */
static bool bt_isa_refused(const struct bt_vcpu *c, const struct bt_insn *in)
{
    const ZydisDecodedInstruction *zi = &in->zi;

    switch (zi->encoding) {
    case ZYDIS_INSTRUCTION_ENCODING_LEGACY:
        break;
    case ZYDIS_INSTRUCTION_ENCODING_VEX:
        /* VEX is not recognised in real and virtual-8086 mode. */
        if (!(c->cr0 & 1) || (c->rflags & BT_VM))
            return true;
        break;
    default:
        return true; /* EVEX, MVEX, XOP, 3DNow! */
    }
    switch (zi->meta.isa_set) {
    case ZYDIS_ISA_SET_VTX:
        return zi->mnemonic != ZYDIS_MNEMONIC_VMCALL;
    case ZYDIS_ISA_SET_SVM:
        return zi->mnemonic != ZYDIS_MNEMONIC_VMMCALL;
    case ZYDIS_ISA_SET_LAHF:
        return in->mode == BT_MODE_64 && !bt_has_cpuid(c, 0x80000001, 0, 2, 0);
    case ZYDIS_ISA_SET_PREFETCH_NOP:
        /* The register form is a NOP on Intel's CPUs only. */
        return zi->raw.modrm.mod == 3 && in->amd;
    default:
        break;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(bt_isa_absent); i++) {
        if (bt_isa_absent[i] == zi->meta.isa_set)
            return true;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(bt_features); i++) {
        const struct bt_feature *f = &bt_features[i];

        if (f->isa_set == zi->meta.isa_set && !bt_has_cpuid(c, f->leaf, f->subleaf, f->reg, f->bit))
            return true;
    }
    return false;
}

uint8_t bt_reg_offset(ZydisRegister reg)
{
    if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH)
        return (uint8_t)((reg - ZYDIS_REGISTER_AH) * 8 + 1);
    if (reg >= ZYDIS_REGISTER_AL && reg <= ZYDIS_REGISTER_BL)
        return (uint8_t)((reg - ZYDIS_REGISTER_AL) * 8);
    if (reg >= ZYDIS_REGISTER_SPL && reg <= ZYDIS_REGISTER_R15B)
        return (uint8_t)((reg - ZYDIS_REGISTER_SPL + 4) * 8);
    switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
        return (uint8_t)(ZydisRegisterGetId(reg) * 8);
    default:
        return 0xff;
    }
}

/* Index into r[] of an address register; vector indices (VSIB) are the FP binder's business. */
static uint8_t bt_addr_reg(ZydisRegister reg)
{
    uint8_t off;

    if (reg == ZYDIS_REGISTER_NONE)
        return BT_ZERO;
    if (reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP || reg == ZYDIS_REGISTER_IP)
        return BT_RIP;
    off = bt_reg_offset(reg);
    return off == 0xff ? BT_ZERO : off / 8;
}

static uint8_t bt_seg_index(ZydisRegister reg)
{
    switch (reg) {
    case ZYDIS_REGISTER_ES:
        return BT_ES;
    case ZYDIS_REGISTER_CS:
        return BT_CS;
    case ZYDIS_REGISTER_SS:
        return BT_SS;
    case ZYDIS_REGISTER_DS:
        return BT_DS;
    case ZYDIS_REGISTER_FS:
        return BT_FS;
    case ZYDIS_REGISTER_GS:
        return BT_GS;
    default:
        return BT_NOSEG;
    }
}

/* Choose the operand that op's memory fields describe: the explicit one, else the implicit one that is not the stack
 * (the source of string instructions, MASKMOVQ's destination...). */
static uint8_t bt_find_mem(const struct bt_insn *in)
{
    uint8_t found = 0xff;

    for (uint8_t i = 0; i < in->zi.operand_count; i++) {
        const ZydisDecodedOperand *o = &in->ops[i];

        if (o->type != ZYDIS_OPERAND_TYPE_MEMORY)
            continue;
        if (o->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
            return i;
        if (bt_addr_reg(o->mem.base) == BT_RSP)
            continue;
        /* Where both are there, the one through rSI can be overridden. */
        if (found == 0xff || bt_addr_reg(o->mem.base) == BT_RSI)
            found = i;
    }
    return found;
}

static uint8_t bt_log2(unsigned v)
{
    return v >= 8 ? 3 : v >= 4 ? 2 : v >= 2 ? 1 : 0;
}

static void bt_fill_mem(const struct bt_insn *in, struct bt_op *op)
{
    const ZydisDecodedOperand *o = &in->ops[in->mem_op];
    unsigned bytes = o->size / 8U;

    op->base = bt_addr_reg(o->mem.base);
    op->index = bt_addr_reg(o->mem.index);
    op->scale = op->index == BT_ZERO ? 0 : bt_log2(o->mem.scale) & 3U;
    op->disp = o->mem.disp.value;
    /* SIB without a base (mod 0, base field 5, whatever REX.B says): Zydis 4.0 names R13D there under an address-size
     * override, and leaves out the displacement. */
    if (o->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT && in->zi.attributes & ZYDIS_ATTRIB_HAS_SIB &&
        in->zi.raw.modrm.mod == 0 && in->zi.raw.sib.base == 5) {
        op->base = BT_ZERO;
        op->disp = in->zi.raw.disp.value;
    }
    if (op->base == BT_RIP)
        op->disp = (int64_t)((uint64_t)op->disp + op->len);
    op->seg = bt_seg_index(o->mem.segment);
    op->msize = (uint8_t)MIN(bytes, 255U);
    if (o->mem.type != ZYDIS_MEMOP_TYPE_AGEN)
        op->flags |= BT_OPF_MEM;
}

/* Whether the instruction may write to memory through any operand, hidden ones included. */
static bool bt_may_store(const struct bt_insn *in)
{
    if (in->zi.mnemonic == ZYDIS_MNEMONIC_CLZERO)
        return true;
    for (uint8_t i = 0; i < in->zi.operand_count; i++) {
        const ZydisDecodedOperand *o = &in->ops[i];

        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
            return true;
    }
    return false;
}

static void bt_fill_common(const struct bt_insn *in, struct bt_op *op)
{
    static const uint8_t mode_bits[] = { [BT_MODE_16] = 16, [BT_MODE_32] = 32, [BT_MODE_64] = 64 };
    const ZydisDecodedInstruction *zi = &in->zi;

    *op = (struct bt_op){
        .len = zi->length,
        .osize = zi->operand_width / 8,
        .asize = (zi->address_width / 8U) & 15U,
        .base = BT_ZERO,
        .index = BT_ZERO,
        .seg = BT_NOSEG,
        .bits = mode_bits[in->mode],
    };
    if (in->mode == BT_MODE_64)
        op->flags |= BT_OPF_LONG | BT_OPF_STACK64;
    if (zi->attributes & ZYDIS_ATTRIB_HAS_LOCK)
        op->flags |= BT_OPF_LOCK;
    if (zi->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE))
        op->flags |= BT_OPF_REP;
    if (zi->attributes & ZYDIS_ATTRIB_HAS_REPNE)
        op->flags |= BT_OPF_REPNE;
    if (in->mem_op != 0xff)
        bt_fill_mem(in, op);
    op->stores = bt_may_store(in);
}

/* An operation that raises: #UD, or #GP(0) for an instruction of more than 15 bytes. */
static void bt_bind_fault(struct bt_op *op, enum bt_mode mode, unsigned len, bt_fn fn)
{
    static const uint8_t mode_bits[] = { [BT_MODE_16] = 16, [BT_MODE_32] = 32, [BT_MODE_64] = 64 };

    *op = (struct bt_op){
        .fn = fn,
        .len = (uint8_t)len,
        .base = BT_ZERO,
        .index = BT_ZERO,
        .seg = BT_NOSEG,
        .bits = mode_bits[mode],
        .flags = BT_OPF_END,
    };
}

static int bt_bind(struct bt_vcpu *c, const struct bt_insn *in, struct bt_op *op)
{
    int r = bt_bind_int(c, in, op);

    if (r == -ENOENT)
        r = bt_bind_sys(c, in, op);
    if (r == -ENOENT)
        r = bt_bind_fp(c, in, op);
    return r;
}

int bt_decode(struct bt_vcpu *c, const uint8_t *buf, unsigned n, enum bt_mode mode, struct bt_op *op)
{
    struct bt_insn in;
    ZyanStatus st;
    unsigned quirks;

    in.mode = (uint8_t)mode;
    in.amd = bt_model_amd(c);
    st = bt_decode_zydis(buf, n, mode, 0, &in);
    if (ZYAN_SUCCESS(st)) {
        quirks = bt_decode_quirks(c, &in);
        if (quirks)
            st = bt_decode_zydis(buf, n, mode, quirks, &in);
    }
    if (st == ZYDIS_STATUS_NO_MORE_DATA && n < sizeof(in.bytes))
        return -EAGAIN;
    if (st == ZYDIS_STATUS_NO_MORE_DATA || st == ZYDIS_STATUS_INSTRUCTION_TOO_LONG) {
        bt_bind_fault(op, mode, sizeof(in.bytes), bt_int_gp);
        return 0;
    }
    if (ZYAN_FAILED(st)) {
        bt_bind_fault(op, mode, 1, bt_int_ud);
        return 0;
    }
    memset(in.bytes, 0, sizeof(in.bytes));
    memcpy(in.bytes, buf, in.zi.length);
    in.mem_op = bt_find_mem(&in);
    bt_fill_common(&in, op);
    if (bt_isa_refused(c, &in) || bt_bind(c, &in, op) != 0)
        bt_bind_fault(op, mode, in.zi.length, bt_int_ud);
    return 0;
}
