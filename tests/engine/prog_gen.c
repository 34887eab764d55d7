/* Making random programs: the frame, registers and single instructions; the pieces with a structure of their own are in
 * prog_snip.c.
 *
 * So that programs live long, some registers have a meaning: a few hold addresses of data, one a small index, one
 * counts the rounds, and RSP points to the stack. Random instructions (stream_candidate) are taken if they leave those
 * alone, if they have no branch, and if their memory operand is based on one of the pointers. Which registers these are
 * differs from program to program. */
#include <Zydis/Zydis.h>
#include <string.h>

#include "prog_priv.h"
#include "vendor.h"

#define GEN_CODE_MAX 0xd000U
#define GEN_FUNCTIONS_AT 0x200U
#define GEN_MASK 0xffffffffU

void gen_byte(struct gen *g, unsigned b)
{
    g->p->code[g->at++] = (uint8_t)b;
}

void gen_bytes(struct gen *g, const void *bytes, unsigned n)
{
    memcpy(g->p->code + g->at, bytes, n);
    g->at += n;
}

void gen_u32(struct gen *g, uint32_t v)
{
    gen_bytes(g, &v, 4);
}

void gen_rel32_at(struct gen *g, unsigned at, unsigned end, unsigned target)
{
    int32_t rel = (int32_t)(target - end);

    memcpy(g->p->code + at, &rel, 4);
}

void gen_mov_imm(struct gen *g, unsigned reg, uint64_t v)
{
    if (v <= GEN_MASK) {
        if (reg >= 8)
            gen_byte(g, 0x41);
        gen_byte(g, 0xb8 + (reg & 7));
        gen_u32(g, (uint32_t)v);
    } else {
        gen_byte(g, reg >= 8 ? 0x49 : 0x48);
        gen_byte(g, 0xb8 + (reg & 7));
        gen_bytes(g, &v, 8);
    }
}

void gen_push(struct gen *g, unsigned reg)
{
    if (reg >= 8)
        gen_byte(g, 0x41);
    gen_byte(g, 0x50 + (reg & 7));
}

void gen_pop(struct gen *g, unsigned reg)
{
    if (reg >= 8)
        gen_byte(g, 0x41);
    gen_byte(g, 0x58 + (reg & 7));
}

bool gen_room(const struct gen *g)
{
    return g->at < GEN_CODE_MAX;
}

/* ---- single instructions ---- */

static bool gen_is_pointer(const struct gen *g, unsigned reg)
{
    for (unsigned i = 0; i < GEN_POINTERS; i++) {
        if (g->pointers[i] == reg)
            return true;
    }
    return false;
}

/* Instructions that would end most programs at once, or fill them with x87 exceptions. */
static bool gen_refused(struct gen *g, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
    /* A program goes on behind a fault, so that what Intel's CPUs do in another order would show for the rest of it. */
    if (vendor_intel() && (vendor_gather(zi) || vendor_mmx_store(zi, ops) || vendor_x87_store(zi, ops)))
        return true;
    switch (zi->mnemonic) {
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_POPFQ:
    case ZYDIS_MNEMONIC_STAC:
    case ZYDIS_MNEMONIC_FRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_FNSAVE: /* with the x87 pointers */
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FNSTENV:
        return true;
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FLDCW:
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_VLDMXCSR:
        return !gen_one_in(g, 16);
    default:
        break;
    }
    if (zi->meta.category == ZYDIS_CATEGORY_SYSTEM || zi->meta.category == ZYDIS_CATEGORY_IO ||
        zi->meta.category == ZYDIS_CATEGORY_INVALID || zi->mnemonic == ZYDIS_MNEMONIC_HLT ||
        zi->mnemonic == ZYDIS_MNEMONIC_UD1 || zi->mnemonic == ZYDIS_MNEMONIC_UD0 ||
        zi->mnemonic == ZYDIS_MNEMONIC_UD2 || zi->mnemonic == ZYDIS_MNEMONIC_RSM ||
        zi->mnemonic == ZYDIS_MNEMONIC_FEMMS || zi->mnemonic == ZYDIS_MNEMONIC_CLI ||
        zi->mnemonic == ZYDIS_MNEMONIC_STI || zi->mnemonic == ZYDIS_MNEMONIC_DIV || zi->mnemonic == ZYDIS_MNEMONIC_IDIV)
        return !gen_one_in(g, g->p->features & PROG_FAULTS && g->faults < 200 ? 8 : 64);
    return zi->meta.branch_type != ZYDIS_BRANCH_TYPE_NONE ||
           (zi->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE));
}

/* Registers that it writes: none with a meaning, but string instructions may move pointers. */
static bool gen_writes_ok(const struct gen *g, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
    for (unsigned i = 0; i < zi->operand_count; i++) {
        const ZydisDecodedOperand *o = &ops[i];
        ZydisRegister whole;
        unsigned reg;

        if (o->type != ZYDIS_OPERAND_TYPE_REGISTER || !(o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
            continue;
        whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, o->reg.value);
        if (whole < ZYDIS_REGISTER_RAX || whole > ZYDIS_REGISTER_R15)
            continue;
        reg = (unsigned)(whole - ZYDIS_REGISTER_RAX);
        if (reg == 4 || (g->reserved >> reg & 1 && zi->meta.category != ZYDIS_CATEGORY_STRINGOP))
            return false;
        if (reg == g->outer || reg == g->index)
            return false;
    }
    return true;
}

/* A displacement of 32 bits, moved so that most operands lie within the data, and aligned where that may matter. */
static void gen_set_disp(struct gen *g, uint8_t *bytes, const ZydisDecodedInstruction *zi, unsigned size, bool rip)
{
    int32_t disp = (int32_t)gen_below(g, 0x2000) - 0x1000;
    bool align = size >= 16 && !gen_one_in(g, 24);

    if (zi->raw.disp.size == 8) {
        if (align)
            bytes[zi->raw.disp.offset] &= (uint8_t) ~(size - 1);
        return;
    }
    if (zi->raw.disp.size != 32)
        return;
    if (rip)
        disp = (int32_t)(PROG_DATA + gen_below(g, PROG_DATA_RW - 64) - (PROG_CODE + g->at + zi->length));
    if (align && rip)
        disp -= (int32_t)((PROG_CODE + g->at + zi->length + (uint64_t)disp) & (size - 1));
    else if (align)
        disp &= ~(int32_t)(size - 1);
    memcpy(bytes + zi->raw.disp.offset, &disp, 4);
}

/* Whether its memory operand is one that we can steer; then steers it. */
static bool gen_memory_ok(struct gen *g, uint8_t *bytes, const ZydisDecodedInstruction *zi,
                          const ZydisDecodedOperand *ops, bool no_rip)
{
    for (unsigned i = 0; i < zi->operand_count; i++) {
        const ZydisDecodedOperand *o = &ops[i];
        unsigned base = (unsigned)(o->mem.base - ZYDIS_REGISTER_RAX), size = o->size / 8U;
        bool string = zi->meta.category == ZYDIS_CATEGORY_STRINGOP;

        if (o->type != ZYDIS_OPERAND_TYPE_MEMORY || o->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
            continue;
        if (o->mem.type == ZYDIS_MEMOP_TYPE_VSIB || size > 64)
            return false;
        if (o->mem.base == ZYDIS_REGISTER_RIP && !no_rip && o->mem.index == ZYDIS_REGISTER_NONE) {
            gen_set_disp(g, bytes, zi, size, true);
            continue;
        }
        if (base == 4 && zi->raw.disp.size == 8 && o->mem.index == ZYDIS_REGISTER_NONE) {
            bytes[zi->raw.disp.offset] |= 0x80; /* below the stack pointer */
            continue;
        }
        if (!(base < 16 && gen_is_pointer(g, base)) ||
            (o->mem.index != ZYDIS_REGISTER_NONE && o->mem.index != (ZydisRegister)(ZYDIS_REGISTER_RAX + g->index)))
            return false;
        if (!string)
            gen_set_disp(g, bytes, zi, size, false);
    }
    return true;
}

/* More operands than chance gives with base, index and 32-bit displacement. */
static void gen_bend_modrm(struct gen *g, const ZydisDecodedInstruction *zi, uint8_t *bytes)
{
    unsigned at = zi->raw.modrm.offset, reg = g->pointers[gen_below(g, GEN_POINTERS)];
    uint8_t mod = gen_one_in(g, 2) ? 0x80 : 0x40, tail[15];
    bool sib = (reg & 7) == 4 || gen_one_in(g, 3), b = reg >= 8, x = g->index >= 8;

    if (!(zi->attributes & ZYDIS_ATTRIB_HAS_MODRM) || zi->raw.modrm.mod == 3 || zi->raw.prefix_count > 2 ||
        zi->length > 9)
        return;
    if (zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY || !(zi->attributes & ZYDIS_ATTRIB_HAS_REX))
        return;
    /* The REX prefix stands right before the opcode; ModRM, SIB, displacement, then the old immediate. */
    for (unsigned i = 0; i < zi->raw.rex.offset; i++) {
        if ((bytes[i] & 0xf0) == 0x40)
            return;
    }
    memcpy(tail, bytes + zi->length - zi->raw.imm[0].size / 8, zi->raw.imm[0].size / 8);
    bytes[zi->raw.rex.offset] = (uint8_t)((bytes[zi->raw.rex.offset] & 0xfc) | (sib && x ? 2 : 0) | b);
    bytes[at] = (uint8_t)(mod | (bytes[at] & 0x38) | (sib ? 4 : reg & 7));
    if (sib)
        bytes[++at] = (uint8_t)(gen_below(g, 4) << 6 | (g->index & 7) << 3 | (reg & 7));
    at += mod == 0x80 ? 5 : 2;
    memcpy(bytes + at, tail, zi->raw.imm[0].size / 8);
}

/* What compilers emit most: chance alone gives mostly rare instructions, which engines leave to slow paths. */
static bool gen_common(const ZydisDecodedInstruction *zi)
{
    if (zi->attributes & (ZYDIS_ATTRIB_HAS_LOCK | ZYDIS_ATTRIB_HAS_SEGMENT))
        return false;
    switch (zi->meta.category) {
    case ZYDIS_CATEGORY_BINARY:
    case ZYDIS_CATEGORY_LOGICAL:
    case ZYDIS_CATEGORY_SHIFT:
    case ZYDIS_CATEGORY_ROTATE:
    case ZYDIS_CATEGORY_DATAXFER:
    case ZYDIS_CATEGORY_CMOV:
    case ZYDIS_CATEGORY_SETCC:
        return true;
    default:
        return zi->mnemonic == ZYDIS_MNEMONIC_LEA;
    }
}

static bool gen_try(struct gen *g, bool no_rip)
{
    ZydisDecodedInstruction zi;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    ZydisDecoder decoder;
    uint8_t bytes[32] = { 0 };

    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    if (!stream_candidate(&g->seed, bytes) || !ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, 15, &zi, ops)))
        return false;
    if (gen_one_in(g, 2)) {
        gen_bend_modrm(g, &zi, bytes);
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, 15, &zi, ops)))
            return false;
    }
    if (!gen_common(&zi) && gen_one_in(g, 2))
        return false;
    if (gen_refused(g, &zi, ops) || !gen_writes_ok(g, &zi, ops) || !gen_memory_ok(g, bytes, &zi, ops, no_rip))
        return false;
    if (zi.attributes & ZYDIS_ATTRIB_HAS_ADDRESSSIZE)
        return false;
    gen_bytes(g, bytes, zi.length);
    return true;
}

void gen_candidates(struct gen *g, unsigned n)
{
    while (n > 0)
        n -= gen_try(g, false);
}

void gen_template(struct gen *g, uint8_t *to)
{
    unsigned at = g->at, len;

    do {
        g->at = at;
        gen_mov_imm(g, 0, stream_value(&g->seed) & GEN_MASK);
        for (unsigned n = 1 + gen_below(g, 5); n > 0;)
            n -= gen_try(g, true);
        gen_byte(g, 0xc3);
        len = g->at - at;
    } while (len > GEN_SLOT_BYTES);
    memset(to, 0x90, GEN_SLOT_BYTES);
    memcpy(to, g->p->code + at, len);
    memset(g->p->code + at, 0xcc, len);
    g->at = at;
}

/* ---- the frame ---- */

static void gen_registers(struct gen *g)
{
    uint8_t order[15];
    struct stream_regs *regs = &g->p->start.regs;

    for (unsigned i = 0; i < 15; i++)
        order[i] = (uint8_t)(i < 4 ? i : i + 1); /* all but RSP */
    for (unsigned i = 0; i < 15; i++) {
        unsigned j = i + gen_below(g, 15 - i);
        uint8_t t = order[i];

        order[i] = order[j];
        order[j] = t;
    }
    for (unsigned i = 0; i < GEN_POINTERS + 2; i++) {
        if (order[i] == 0) { /* EAX is always free */
            order[i] = order[14];
            order[14] = 0;
        }
    }
    g->reserved = 1 << 4;
    memcpy(g->pointers, order, GEN_POINTERS);
    g->index = order[GEN_POINTERS];
    g->outer = order[GEN_POINTERS + 1];
    for (unsigned i = 0; i < GEN_POINTERS + 2; i++)
        g->reserved = (uint16_t)(g->reserved | 1U << order[i]);
    for (unsigned i = GEN_POINTERS + 2; i < 15; i++) {
        if (order[i] < 8 && order[i] != 0)
            g->scratch = order[i];
    }
    for (unsigned i = 0; i < 16; i++)
        regs->gpr[i] = stream_value(&g->seed);
    for (unsigned i = 0; i < GEN_POINTERS; i++)
        regs->gpr[g->pointers[i]] = PROG_DATA + 0x1000 + (gen_below(g, 0x6000) & ~63U);
    regs->gpr[g->index] = gen_below(g, 64);
    regs->gpr[4] = PROG_STACK + 0x1000 + 8 * gen_below(g, 16); /* pushes cross the page now and then */
    regs->rflags = 0x202 | (stream_random(&g->seed) & 0x8d5);
    if (g->p->features & PROG_STEP)
        regs->rflags |= 0x100;
}

static void gen_function(struct gen *g)
{
    unsigned at = g->at;

    g->depth = 1; /* short loops: loops call it */
    for (unsigned n = 1 + gen_below(g, 3); n > 0; n--)
        gen_piece(g);
    g->depth = 0;
    if (gen_one_in(g, 4)) { /* the return as an indirect jump */
        gen_pop(g, g->scratch);
        gen_byte(g, 0xff);
        gen_byte(g, 0xe0 + g->scratch);
    } else {
        gen_byte(g, 0xc3);
    }
    if (gen_one_in(g, 2))
        g->at = (g->at + 15) & ~15U;
    g->functions[g->n_functions++] = at;
}

/* Places for copied functions, one of which straddles a page. */
static void gen_slots(struct gen *g)
{
    for (unsigned i = 0; i < GEN_SLOTS; i++) {
        g->slots[i] = 0xe000 + 0x200 * i + (i == GEN_SLOTS - 1 ? 0xa00 - 24 : gen_below(g, 64));
        gen_template(g, g->p->code + g->slots[i]);
    }
    for (unsigned i = 0; i < GEN_TEMPLATES; i++)
        gen_template(g, g->p->consts + GEN_TEMPLATES_AT + i * GEN_SLOT_BYTES);
}

static void gen_data(struct gen *g)
{
    uint64_t seed = stream_random(&g->seed) | 1;

    for (unsigned i = 0; i < PROG_DATA_SIZE; i += 8) {
        uint64_t r = stream_random(&seed);

        if ((r & 3) == 0)
            r = stream_value(&seed);
        memcpy(g->p->data + i, &r, 8);
    }
}

/* dec of the counter; jnz to target. */
static void gen_outer_loop(struct gen *g, unsigned target)
{
    if (g->outer >= 8)
        gen_byte(g, 0x41);
    gen_byte(g, 0xff);
    gen_byte(g, 0xc8 + (g->outer & 7));
    gen_byte(g, 0x0f);
    gen_byte(g, 0x85);
    gen_u32(g, 0);
    gen_rel32_at(g, g->at - 4, g->at, target);
}

static void gen_breakpoints(struct gen *g, unsigned main_at, unsigned end)
{
    static const uint8_t lens[] = { 1, 2, 8, 4 };
    struct prog *p = g->p;

    for (unsigned i = 0; i < PROG_BREAKPOINTS; i++) {
        unsigned len = gen_below(g, 4);
        uint64_t area = gen_one_in(g, 3) ? PROG_STACK + 0xf80 : PROG_DATA + 0x1000 * (1 + gen_below(g, 6)) - 64;

        if (gen_one_in(g, 2)) { /* hits only where an instruction begins */
            p->dr[i] = PROG_CODE + main_at + gen_below(g, end - main_at);
            p->dr7 |= 1ULL << (2 * i);
        } else {
            p->dr[i] = (area + gen_below(g, 192)) & ~(uint64_t)(lens[len] - 1);
            p->dr7 |=
                1ULL << (2 * i) | (gen_one_in(g, 2) ? 1ULL : 3ULL) << (16 + 4 * i) | (uint64_t)len << (18 + 4 * i);
        }
    }
}

void prog_make(uint64_t seed, uint64_t n, unsigned features, struct prog *ret)
{
    struct gen g = { .p = ret, .seed = (seed + n * 0x9e3779b97f4a7c15ULL) | 1, .at = GEN_FUNCTIONS_AT };
    /* Code that is changed all the time never becomes hot, so most programs do it rarely. */
    static const uint16_t density[4] = { 5, 40, 200, 200 };
    unsigned target, main_at, pieces;

    memset(ret, 0, sizeof(*ret));
    ret->seed = seed;
    ret->n = n;
    ret->features = features;
    ret->events_max = features & PROG_STEP ? PROG_EVENTS_MAX : 10000;
    memset(ret->code, 0xcc, sizeof(ret->code));
    for (unsigned i = 0; i < 8; i++)
        stream_random(&g.seed);
    g.smc = density[gen_below(&g, 4)];
    g.faults = density[gen_below(&g, 4)];
    /* With all kinds in one program, those that are noticed hide one that is not. */
    g.store_form = gen_one_in(&g, 2) ? -1 : (int)gen_below(&g, 12);
    gen_registers(&g);
    gen_data(&g);
    gen_slots(&g);
    g.at += gen_below(&g, 0xd00);
    for (unsigned i = 0; i < GEN_FUNCTIONS; i++)
        gen_function(&g);
    main_at = g.at;
    ret->start.regs.rip = PROG_CODE + g.at;
    /* Enough rounds to make all of it hot, but where each instruction is an event. */
    if (features & (PROG_STEP | PROG_TRACED | PROG_TF | PROG_BREAK))
        gen_mov_imm(&g, g.outer, gen_one_in(&g, 3) ? 1 : 2 + gen_below(&g, 24));
    else
        gen_mov_imm(&g, g.outer, gen_one_in(&g, 4) ? 1 + gen_below(&g, 4) : 20 + gen_below(&g, 100));
    target = g.at;
    pieces = gen_one_in(&g, 4) ? 40 + gen_below(&g, 100) : 5 + gen_below(&g, 25);
    while (pieces-- > 0 && gen_room(&g))
        gen_piece(&g);
    gen_outer_loop(&g, target);
    gen_byte(&g, 0xcc);
    ret->code_used = g.at;
    stream_xsave(&g.seed, ret->start.xsave);
    if (!gen_one_in(&g, 16)) { /* x87 exceptions masked: once unmasked, each further x87 instruction raises one */
        ret->start.xsave[0] = 0x7f;
        ret->start.xsave[1] |= 3;
    }
    if (features & PROG_BREAK)
        gen_breakpoints(&g, main_at, g.at);
}
