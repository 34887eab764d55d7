/* Making random instruction streams. Candidates are random bytes, shaped so that most of them decode, and kept where
 * Zydis knows them as instructions that both sides must agree on: no system calls, nothing whose result differs from
 * run to run or is virtualised on purpose, nothing that the default CPU model hides. Illegal and faulting ones are
 * welcome. */
#include <Zydis/Zydis.h>
#include <string.h>

#include "stream.h"
#include "vendor.h"

struct gen_insn {
    unsigned len, rel_at, rel_bytes;
    bool decimal; /* leaves undefined flags behind that this CPU cannot show us in 64-bit mode */
};

/* Mnemonics that may differ by design, or that leave the sandbox. */
static bool gen_mnemonic_ok(const ZydisDecodedInstruction *zi)
{
    switch (zi->mnemonic) {
    case ZYDIS_MNEMONIC_SYSCALL:
    case ZYDIS_MNEMONIC_SYSENTER:
    case ZYDIS_MNEMONIC_SYSRET:
    case ZYDIS_MNEMONIC_SYSEXIT:
    case ZYDIS_MNEMONIC_INT:
    case ZYDIS_MNEMONIC_INT1:
    case ZYDIS_MNEMONIC_INT3:
    case ZYDIS_MNEMONIC_INTO:
    case ZYDIS_MNEMONIC_CPUID:
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDTSCP:
    case ZYDIS_MNEMONIC_RDPMC:
    case ZYDIS_MNEMONIC_RDPID:
    case ZYDIS_MNEMONIC_RDRAND:
    case ZYDIS_MNEMONIC_RDSEED:
    case ZYDIS_MNEMONIC_XGETBV:
    case ZYDIS_MNEMONIC_RDFSBASE:
    case ZYDIS_MNEMONIC_RDGSBASE:
    case ZYDIS_MNEMONIC_WRFSBASE:
    case ZYDIS_MNEMONIC_WRGSBASE:
    case ZYDIS_MNEMONIC_RDPKRU:
    case ZYDIS_MNEMONIC_WRPKRU:
    case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_LSL:
    case ZYDIS_MNEMONIC_VERR:
    case ZYDIS_MNEMONIC_VERW:
    case ZYDIS_MNEMONIC_SLDT:
    case ZYDIS_MNEMONIC_STR:
    case ZYDIS_MNEMONIC_SMSW:
    case ZYDIS_MNEMONIC_SGDT:
    case ZYDIS_MNEMONIC_SIDT:
    case ZYDIS_MNEMONIC_LDS:
    case ZYDIS_MNEMONIC_LES:
    case ZYDIS_MNEMONIC_LSS:
    case ZYDIS_MNEMONIC_LFS:
    case ZYDIS_MNEMONIC_LGS:
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
    case ZYDIS_MNEMONIC_MONITOR:
    case ZYDIS_MNEMONIC_MWAIT:
    case ZYDIS_MNEMONIC_VMCALL:
    case ZYDIS_MNEMONIC_VMMCALL:
    case ZYDIS_MNEMONIC_UMONITOR:
    case ZYDIS_MNEMONIC_UMWAIT:
    case ZYDIS_MNEMONIC_TPAUSE:
    case ZYDIS_MNEMONIC_XABORT:
    case ZYDIS_MNEMONIC_XBEGIN:
    case ZYDIS_MNEMONIC_XEND:
    case ZYDIS_MNEMONIC_XTEST:
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
    case ZYDIS_MNEMONIC_CLZERO:
    case ZYDIS_MNEMONIC_MONITORX:
    case ZYDIS_MNEMONIC_MWAITX:
    case ZYDIS_MNEMONIC_PTWRITE:
    case ZYDIS_MNEMONIC_SERIALIZE:
    case ZYDIS_MNEMONIC_ENQCMD:
    case ZYDIS_MNEMONIC_ENQCMDS:
    case ZYDIS_MNEMONIC_MOVDIR64B:
    case ZYDIS_MNEMONIC_MOVDIRI:
    case ZYDIS_MNEMONIC_IN:
    case ZYDIS_MNEMONIC_OUT:
    case ZYDIS_MNEMONIC_INSB:
    case ZYDIS_MNEMONIC_INSW:
    case ZYDIS_MNEMONIC_INSD:
    case ZYDIS_MNEMONIC_OUTSB:
    case ZYDIS_MNEMONIC_OUTSW:
    case ZYDIS_MNEMONIC_OUTSD:
    case ZYDIS_MNEMONIC_INVLPGB:
    case ZYDIS_MNEMONIC_RDPRU:
    case ZYDIS_MNEMONIC_MCOMMIT:
    case ZYDIS_MNEMONIC_CLUI:
    case ZYDIS_MNEMONIC_STUI:
    case ZYDIS_MNEMONIC_TESTUI:
    case ZYDIS_MNEMONIC_UIRET:
    case ZYDIS_MNEMONIC_SENDUIPI:
        return false;
    case ZYDIS_MNEMONIC_PVALIDATE:
    case ZYDIS_MNEMONIC_RMPADJUST:
    case ZYDIS_MNEMONIC_RMPUPDATE:
    case ZYDIS_MNEMONIC_PSMASH:
        return false; /* of AMD's SEV: never offered */
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU:
        return false; /* whether bytes that are masked off can fault is up to the CPU */
    default:
        return true;
    }
}

/* Extensions that the default CPU model offers, so that both sides have them or neither has. */
static bool gen_extension_ok(const ZydisDecodedInstruction *zi)
{
    if (zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY && zi->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
        return false;
    switch (zi->meta.isa_ext) {
    case ZYDIS_ISA_EXT_SSE4A:
    case ZYDIS_ISA_EXT_GFNI:
    case ZYDIS_ISA_EXT_VAES:
    case ZYDIS_ISA_EXT_VPCLMULQDQ:
    case ZYDIS_ISA_EXT_CET:
    case ZYDIS_ISA_EXT_MPX:
    case ZYDIS_ISA_EXT_KNC:
    case ZYDIS_ISA_EXT_AVX512VEX:
    case ZYDIS_ISA_EXT_RTM:
    case ZYDIS_ISA_EXT_PKU:
    case ZYDIS_ISA_EXT_VTX:
    case ZYDIS_ISA_EXT_SVM:
    case ZYDIS_ISA_EXT_XSAVES:
    case ZYDIS_ISA_EXT_CLDEMOTE:
    case ZYDIS_ISA_EXT_PADLOCK:
    case ZYDIS_ISA_EXT_TSX_LDTRK:
    case ZYDIS_ISA_EXT_HRESET:
    case ZYDIS_ISA_EXT_KEYLOCKER:
    case ZYDIS_ISA_EXT_KEYLOCKER_WIDE:
    case ZYDIS_ISA_EXT_SGX:
    case ZYDIS_ISA_EXT_SGX_ENCLV:
        return false;
    default:
        break;
    }
    /* VAES and VPCLMULQDQ count as AES and PCLMULQDQ when 256 bits wide. */
    if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX && zi->raw.vex.L &&
        (zi->meta.isa_set == ZYDIS_ISA_SET_VAES || zi->meta.isa_set == ZYDIS_ISA_SET_VPCLMULQDQ))
        return false;
    return zi->meta.isa_set != ZYDIS_ISA_SET_AVX_VNNI && zi->meta.isa_set != ZYDIS_ISA_SET_AVX_GFNI;
}

static bool gen_operands_ok(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
    for (unsigned i = 0; i < zi->operand_count; i++) {
        const ZydisDecodedOperand *o = &ops[i];

        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
            ZydisRegisterClass class = ZydisRegisterGetClass(o->reg.value);

            if (class == ZYDIS_REGCLASS_CONTROL || class == ZYDIS_REGCLASS_DEBUG || class == ZYDIS_REGCLASS_SEGMENT)
                return false;
        }
        if (o->type == ZYDIS_OPERAND_TYPE_POINTER)
            return false; /* far transfer */
        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY &&
            (o->mem.segment == ZYDIS_REGISTER_FS || o->mem.segment == ZYDIS_REGISTER_GS))
            return false; /* the host's own FS base is not ours to change */
    }
    if (zi->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
        return false;
    /* AMD CPUs let F2 and F3 turn the condition of LOOPE and LOOPNE around; no manual says so. */
    for (unsigned i = 0; i < zi->raw.prefix_count; i++) {
        if ((zi->raw.prefixes[i].value == 0xf2 || zi->raw.prefixes[i].value == 0xf3) &&
            (zi->mnemonic == ZYDIS_MNEMONIC_LOOPE || zi->mnemonic == ZYDIS_MNEMONIC_LOOPNE))
            return false;
    }
    /* MOVSXD with a 16-bit operand size reads 16 bits on Intel, 32 on AMD. */
    if (zi->mnemonic == ZYDIS_MNEMONIC_MOVSXD && ops[0].size == 16)
        return false;
    /* What 0x66 means for a near branch differs between vendors. */
    if (zi->meta.branch_type != ZYDIS_BRANCH_TYPE_NONE && zi->attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE)
        return false;
    return true;
}

/* Whether the bytes begin with an acceptable instruction; sets its length and the place of a relative displacement. */
static bool gen_check(const ZydisDecoder *decoder, const uint8_t *bytes, struct gen_insn *ret)
{
    ZydisDecodedInstruction zi;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];

    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(decoder, bytes, 15, &zi, ops)))
        return false;
    ret->len = zi.length;
    /* VPINSRQ and VPEXTRQ outside 64-bit mode: #UD on AMD, the 32-bit form on Intel. */
    if (decoder->machine_mode != ZYDIS_MACHINE_MODE_LONG_64 && zi.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX &&
        zi.raw.vex.W && zi.opcode_map == ZYDIS_OPCODE_MAP_0F3A && (zi.opcode == 0x16 || zi.opcode == 0x22))
        return false;
    ret->decimal = zi.mnemonic == ZYDIS_MNEMONIC_AAA || zi.mnemonic == ZYDIS_MNEMONIC_AAS ||
                   zi.mnemonic == ZYDIS_MNEMONIC_AAM || zi.mnemonic == ZYDIS_MNEMONIC_AAD ||
                   zi.mnemonic == ZYDIS_MNEMONIC_DAA || zi.mnemonic == ZYDIS_MNEMONIC_DAS;
    ret->rel_at = zi.raw.imm[0].is_relative ? zi.raw.imm[0].offset : 0;
    ret->rel_bytes = zi.raw.imm[0].is_relative ? zi.raw.imm[0].size / 8u : 0;
    if (vendor_intel() && (vendor_rotates(&zi) || vendor_x87_pointers(&zi)))
        return false;
    return gen_mnemonic_ok(&zi) && gen_extension_ok(&zi) && gen_operands_ok(&zi, ops);
}

/* Let relative branches go forward to the start of an instruction, or to the INT3 behind the stream: so streams end,
 * and nothing that was sorted out above is found by jumping into the middle of an instruction. */
static void gen_patch_branches(uint64_t *seed, struct stream *s, const struct gen_insn *insns)
{
    unsigned start[STREAM_INSNS_MAX + 1];

    start[0] = 0;
    for (unsigned i = 0; i < s->n_insns; i++)
        start[i + 1] = start[i] + insns[i].len;
    for (unsigned i = 0; i < s->n_insns; i++) {
        unsigned left = s->n_insns - i; /* possible targets: instructions i + 1 .. n_insns */
        int32_t rel = (int32_t)(start[i + 1 + stream_random(seed) % left] - start[i + 1]);

        if (insns[i].rel_bytes == 1 && rel > 127)
            rel = 0;
        if (insns[i].rel_bytes)
            memcpy(s->code + start[i] + insns[i].rel_at, &rel, insns[i].rel_bytes);
    }
}

/* A ModRM byte (and what may follow): mostly registers and memory through a pointer register with a short displacement.
 */
static void gen_modrm(uint64_t *seed, uint8_t *at)
{
    uint64_t r = stream_random(seed);
    uint8_t reg = (uint8_t)((r >> 8 & 7) << 3);

    if ((r & 3) == 0)
        at[0] = (uint8_t)(0xc0 | reg | (r >> 16 & 7)); /* register */
    else if ((r & 7) == 1)
        at[0] = (uint8_t)r; /* anything */
    else
        at[0] = (uint8_t)(0x40 | reg | (r >> 16 & 7)); /* [reg + disp8], SIB where rm = 4 */
    if ((at[0] & 0xc7) == 0x44)
        at[1] = (uint8_t)((r >> 24 & 0xc0) | (4 << 3) | (r >> 32 & 7)); /* SIB without index, mostly */
}

/* One candidate: prefixes, an opcode from one of the maps, ModRM, then random bytes. */
static void gen_candidate(uint64_t *seed, bool compat, uint8_t *bytes)
{
    static const uint8_t prefixes[] = { 0x66, 0xf2, 0xf3, 0xf0, 0x67, 0x3e };
    uint64_t r = stream_random(seed);
    unsigned n = 0, kind = r & 15;

    for (unsigned i = 0; i < 15; i++)
        bytes[i] = (uint8_t)stream_random(seed);
    if ((r >> 4 & 3) == 0)
        bytes[n++] = prefixes[(r >> 6) % 3];
    if ((r >> 8 & 31) == 0)
        bytes[n++] = prefixes[(r >> 13) % sizeof(prefixes)];
    if (kind >= 11) { /* VEX */
        if (r >> 16 & 1) {
            bytes[n++] = 0xc5;
            bytes[n] = (uint8_t)(bytes[n] | (compat ? 0xc0 : 0));
            n++;
        } else {
            bytes[n++] = 0xc4;
            bytes[n] = (uint8_t)((bytes[n] & 0xe0) | (1 + (r >> 17) % 3) | (compat ? 0xc0 : 0));
            n += 2;
        }
        n++; /* opcode */
    } else {
        if (!compat && (r >> 20 & 1))
            bytes[n++] = (uint8_t)(0x40 | (r >> 21 & 15));
        if (kind < 4) {
            n++;
        } else if (kind < 8) {
            bytes[n++] = 0x0f;
            n++;
        } else if (kind == 8) {
            bytes[n++] = (uint8_t)(0xd8 + (r >> 25 & 7));
        } else {
            bytes[n++] = 0x0f;
            bytes[n++] = kind == 9 ? 0x38 : 0x3a;
            n++;
        }
    }
    gen_modrm(seed, bytes + n);
    /* Immediates are small now and then. */
    if (r >> 60 & 1)
        bytes[n + 2] &= 0x1f;
}

uint64_t stream_value(uint64_t *seed)
{
    static const uint64_t special[] = { 0,
                                        1,
                                        ~0ULL,
                                        0x7f,
                                        0x80,
                                        0xff,
                                        0x7fff,
                                        0x8000,
                                        0xffff,
                                        0x7fffffff,
                                        0x80000000,
                                        0xffffffff,
                                        0x7fffffffffffffffULL,
                                        0x8000000000000000ULL };
    uint64_t r = stream_random(seed);

    if ((r & 3) == 0)
        return special[(r >> 8) % (sizeof(special) / sizeof(special[0]))];
    if ((r & 3) == 1)
        return r >> 8 & 0xff;
    return stream_random(seed);
}

/* Floating-point numbers of every kind, in 4-byte lanes. */
static uint32_t gen_float(uint64_t *seed)
{
    static const uint32_t special[] = { 0,          0x80000000, 0x3f800000, 0xbf800000, 0x7f800000,
                                        0xff800000, 0x7fc00000, 0x7fa00001, 1,          0x807fffff,
                                        0x7f7fffff, 0x00800000, 0x4f000000, 0xcf000000 };
    uint64_t r = stream_random(seed);

    return (r & 1) ? special[(r >> 8) % (sizeof(special) / sizeof(special[0]))] : (uint32_t)(r >> 32);
}

void stream_xsave(uint64_t *seed, uint8_t *x)
{
    uint64_t r = stream_random(seed), bv = 7;
    uint16_t fcw = (r & 3) ? 0x37f : (uint16_t)((r >> 8 & 0x0f00) | 0x40 | (r >> 20 & 0x3f));
    uint32_t mxcsr = (r & 12) ? 0x1f80 : (uint32_t)(r >> 40 & 0xffc0);
    uint32_t w;

    memset(x, 0, STREAM_XSAVE_SIZE);
    memcpy(x, &fcw, 2);
    x[4] = (r & 16) ? 0 : (uint8_t)(r >> 32); /* abridged tag word */
    memcpy(x + 24, &mxcsr, 4);
    for (unsigned i = 0; i < 8; i++) {
        for (unsigned j = 0; j < 8; j += 4) {
            w = gen_float(seed);
            memcpy(x + 32 + 16 * i + j, &w, 4);
        }
        x[32 + 16 * i + 7] |= 0x80; /* mostly normal: integer bit */
        w = (uint32_t)stream_random(seed) & 3 ? 0x3ff0 + (uint32_t)(stream_random(seed) & 31)
                                              : (uint32_t)stream_random(seed);
        memcpy(x + 32 + 16 * i + 8, &w, 2);
    }
    for (unsigned i = 0; i < 16; i++) {
        for (unsigned j = 0; j < 16; j += 4) {
            w = gen_float(seed);
            memcpy(x + 160 + 16 * i + j, &w, 4);
            w = gen_float(seed);
            memcpy(x + 576 + 16 * i + j, &w, 4);
        }
    }
    memcpy(x + 512, &bv, 8);
}

static void gen_regs(uint64_t *seed, bool compat, struct stream_regs *regs)
{
    for (unsigned i = 0; i < 16; i++) {
        uint64_t r = stream_random(seed);

        if ((r & 7) == 0 || (i >= 1 && i <= 2))
            regs->gpr[i] = stream_value(seed);
        else
            regs->gpr[i] =
                STREAM_DATA + 0x400 + (r >> 8 & (r & 8 ? 0x7f0 : 0x7ff)) + ((r >> 32 & 15) == 0 ? 0x1800 : 0);
        if (compat)
            regs->gpr[i] = i < 8 ? regs->gpr[i] & 0xffffffff : 0;
    }
    regs->gpr[4] = STREAM_DATA + 0x1000 + (stream_random(seed) & 0x1f8); /* the stack crosses a page at times */
    regs->rip = STREAM_CODE;
    regs->rflags = 0x202 | (stream_random(seed) & 0xcd5); /* arithmetic flags and DF */
}

unsigned stream_candidate(uint64_t *seed, uint8_t *bytes)
{
    struct gen_insn insn;
    ZydisDecoder decoder;

    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    gen_candidate(seed, false, bytes);
    return gen_check(&decoder, bytes, &insn) ? insn.len : 0;
}

void stream_make(uint64_t seed, uint64_t n, struct stream *ret)
{
    uint64_t s = (seed + n * 0x9e3779b97f4a7c15ULL) | 1;
    struct gen_insn insns[STREAM_INSNS_MAX];
    ZydisDecoder decoder;

    for (unsigned i = 0; i < 8; i++)
        stream_random(&s);
    memset(ret, 0, sizeof(*ret));
    ret->compat = stream_random(&s) % 5 == 0;
    ret->n_insns = 1 + (unsigned)(stream_random(&s) % STREAM_INSNS_MAX);
    if (ret->compat)
        ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
    else
        ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    for (unsigned i = 0; i < ret->n_insns;) {
        uint8_t bytes[15];

        gen_candidate(&s, ret->compat, bytes);
        if (!gen_check(&decoder, bytes, &insns[i]))
            continue;
        memcpy(ret->code + ret->n_bytes, bytes, insns[i].len);
        if (insns[i].decimal) {
            static const uint8_t keep_cf[] = { 0x19, 0xd2, 0x85, 0xc0 }; /* sbb edx, edx; test eax, eax */

            memcpy(ret->code + ret->n_bytes + insns[i].len, keep_cf, sizeof(keep_cf));
            insns[i].len += sizeof(keep_cf);
            ret->decimal = true;
        }
        ret->n_bytes += insns[i].len;
        i++;
    }
    gen_patch_branches(&s, ret, insns);
    gen_regs(&s, ret->compat, &ret->start.regs);
    stream_xsave(&s, ret->start.xsave);
    ret->data_seed = stream_random(&s) | 1;
}

void stream_loop(struct stream *s)
{
    const uint32_t counter = (uint32_t)STREAM_DATA + 0x1ff8;
    uint8_t tail[24];
    unsigned n = 0;
    int32_t back;

    /* sub dword [counter], 1; test byte [counter], 7; jnz start. Mod 0 with r/m 5 is RIP-relative in 64-bit code. */
    tail[n++] = 0x83;
    tail[n++] = s->compat ? 0x2d : 0x2c;
    if (!s->compat)
        tail[n++] = 0x25;
    memcpy(tail + n, &counter, 4);
    n += 4;
    tail[n++] = 1;
    tail[n++] = 0xf6;
    tail[n++] = s->compat ? 0x05 : 0x04;
    if (!s->compat)
        tail[n++] = 0x25;
    memcpy(tail + n, &counter, 4);
    n += 4;
    tail[n++] = 7;
    tail[n++] = 0x0f;
    tail[n++] = 0x85;
    back = -(int32_t)(s->n_bytes + n + 4);
    memcpy(tail + n, &back, 4);
    n += 4;
    if (s->n_bytes + n > STREAM_BYTES_MAX)
        return;
    memcpy(s->code + s->n_bytes, tail, n);
    s->n_bytes += n;
}

void stream_fill_data(uint64_t data_seed, uint8_t *data, unsigned len)
{
    for (unsigned i = 0; i < len; i += 8) {
        uint64_t r = stream_random(&data_seed), v = r;

        if ((r & 7) == 0)
            v = STREAM_DATA + (r >> 8 & 0x1fff); /* pointers, for indirect jumps and pops */
        else if ((r & 7) == 1)
            v = STREAM_CODE + STREAM_BYTES_MAX + (r >> 8 & 0xff); /* INT3 there: targets for returns */
        else if ((r & 7) == 2)
            v = (uint64_t)gen_float(&data_seed) << 32 | gen_float(&data_seed);
        memcpy(data + i, &v, 8);
    }
}
