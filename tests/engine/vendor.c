#include "vendor.h"

bool vendor_intel(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_is("intel");
}

bool vendor_rotates(const ZydisDecodedInstruction *zi)
{
    return (zi->mnemonic == ZYDIS_MNEMONIC_ROL || zi->mnemonic == ZYDIS_MNEMONIC_ROR) &&
           zi->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (zi->opcode & 0xfe) == 0xc0;
}

static bool vendor_stores(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
    return zi->operand_count > 0 && ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY &&
           ops[0].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
}

bool vendor_x87_store(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
    return zi->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (zi->opcode & 0xf8) == 0xd8 && vendor_stores(zi, ops);
}

bool vendor_x87_pointers(const ZydisDecodedInstruction *zi)
{
    switch (zi->mnemonic) {
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
        return true;
    default:
        return false;
    }
}

bool vendor_mmx_store(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
    if (!vendor_stores(zi, ops))
        return false;
    for (unsigned i = 1; i < zi->operand_count; i++) {
        if (ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(ops[i].reg.value) == ZYDIS_REGCLASS_MMX)
            return true;
    }
    return false;
}

bool vendor_compares(const ZydisDecodedInstruction *zi)
{
    return zi->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (zi->opcode & 0xfe) == 0xa6;
}

bool vendor_gather(const ZydisDecodedInstruction *zi)
{
    return zi->meta.category == ZYDIS_CATEGORY_AVX2GATHER;
}

bool vendor_rep_compare(const uint8_t *code, unsigned len, bool compat)
{
    bool repeat = false;

    for (unsigned at = 0; at < len; at++) {
        uint8_t b = code[at];

        if (b == 0xf2 || b == 0xf3)
            repeat = true;
        else if (b == 0xa6 || b == 0xa7 || b == 0xae || b == 0xaf)
            return repeat;
        else if (b != 0x66 && b != 0x67 && (b & 0xe7) != 0x26 && (b & 0xfe) != 0x64 && b != 0xf0 &&
                 (compat || (b & 0xf0) != 0x40))
            break;
    }
    return false;
}
