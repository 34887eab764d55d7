/* Pieces of random programs that have a structure: loops, side exits, calls, jump tables, strings, stacks, code that
 * changes code, faults, stretches with TF. The bytes are written by hand; the comments say what they are. */
#include <string.h>

#include "prog_priv.h"

#define SNIP_RSP_AT (PROG_STACK + 0x100) /* saved stack pointer */
/* Of gen.store_form, beyond the forms of snip_store_imm. */
enum { SNIP_OPCODE = 9, SNIP_COPY, SNIP_LATE };

#define B(g, ...) \
    snip_bytes(g, (const unsigned[]){ __VA_ARGS__ }, sizeof((const unsigned[]){ __VA_ARGS__ }) / sizeof(unsigned))

static void snip_bytes(struct gen *g, const unsigned *bytes, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        gen_byte(g, bytes[i]);
}

/* A jump over what follows, with a displacement of 32 bits; snip_here fills it in. */
static unsigned snip_jcc(struct gen *g)
{
    B(g, 0x0f, 0x80 + gen_below(g, 16));
    gen_u32(g, 0);
    return g->at - 4;
}

static void snip_here(struct gen *g, unsigned rel_at)
{
    gen_rel32_at(g, rel_at, rel_at + 4, g->at);
}

static void snip_short_jcc(struct gen *g)
{
    unsigned at;

    if (gen_one_in(g, 8))
        gen_byte(g, 0xe3); /* JRCXZ */
    else
        gen_byte(g, 0x70 + gen_below(g, 16));
    gen_byte(g, 0);
    at = g->at;
    gen_candidates(g, 1 + gen_below(g, 5));
    g->p->code[at - 1] = (uint8_t)(g->at - at);
}

static void snip_loop(struct gen *g)
{
    unsigned top, out = 0, n = g->depth == 0 ? 2 + gen_below(g, 40) : 2 + gen_below(g, 5);

    if (g->depth >= 3) {
        gen_candidates(g, 3);
        return;
    }
    g->depth++;
    B(g, 0x6a, n); /* push */
    top = g->at;
    for (unsigned i = 1 + gen_below(g, 3); i > 0; i--)
        gen_piece(g);
    if (gen_one_in(g, 3)) {
        out = snip_jcc(g);
        gen_candidates(g, 1 + gen_below(g, 4));
    }
    if (gen_one_in(g, 2))
        B(g, 0x48, 0x83, 0x2c, 0x24, 0x01); /* subq $1, (%rsp) */
    else
        B(g, 0xff, 0x0c, 0x24); /* decl (%rsp) */
    B(g, 0x0f, 0x85);
    gen_u32(g, 0);
    gen_rel32_at(g, g->at - 4, g->at, top);
    if (out)
        snip_here(g, out);
    if (gen_one_in(g, 2))
        B(g, 0x48, 0x8d, 0x64, 0x24, 0x08); /* lea 8(%rsp), %rsp */
    else
        gen_pop(g, 0);
    g->depth--;
}

static void snip_branch(struct gen *g)
{
    unsigned at = snip_jcc(g), end = 0;

    if (g->depth >= 4) {
        gen_candidates(g, 2);
    } else {
        g->depth++;
        gen_piece(g);
        if (gen_one_in(g, 2)) { /* else */
            gen_byte(g, 0xe9);
            gen_u32(g, 0);
            end = g->at - 4;
            snip_here(g, at);
            gen_piece(g);
        }
        g->depth--;
    }
    snip_here(g, end ? end : at);
}

/* lea off(%rip), %reg with the place of the displacement for later; reg below 8. */
static unsigned snip_lea_rip(struct gen *g, unsigned reg)
{
    B(g, 0x48, 0x8d, 0x05 | reg << 3);
    gen_u32(g, 0);
    return g->at - 4;
}

static void snip_call_to(struct gen *g, unsigned target)
{
    unsigned lea;

    switch (gen_below(g, 4)) {
    case 0:
        lea = snip_lea_rip(g, g->scratch);
        gen_rel32_at(g, lea, g->at, target);
        B(g, 0xff, 0xd0 | g->scratch); /* call *%reg */
        break;
    case 1: /* lea; push; ret, with the return address below */
        lea = snip_lea_rip(g, g->scratch);
        gen_push(g, g->scratch);
        gen_rel32_at(g, lea, lea + 4, g->at + 9);
        lea = snip_lea_rip(g, g->scratch);
        gen_rel32_at(g, lea, g->at, target);
        gen_push(g, g->scratch);
        gen_byte(g, 0xc3);
        break;
    default:
        gen_byte(g, 0xe8);
        gen_u32(g, 0);
        gen_rel32_at(g, g->at - 4, g->at, target);
    }
}

static void snip_call(struct gen *g)
{
    if (g->n_functions == 0)
        gen_candidates(g, 2);
    else
        snip_call_to(g, g->functions[gen_below(g, g->n_functions)]);
}

/* mov %index, %eax; add (%rsp), %eax; and $7, %eax; jmp *table(,%rax,8): the stack has the innermost loop's counter. */
static void snip_table(struct gen *g)
{
    unsigned table = g->n_tables++, cases = 2 + gen_below(g, 3), start[4], end[4];

    if (table >= GEN_TABLES_MAX) {
        gen_candidates(g, 2);
        return;
    }
    if (g->index >= 8)
        gen_byte(g, 0x44);
    B(g, 0x89, 0xc0 | (g->index & 7) << 3, 0x03, 0x04, 0x24, 0x83, 0xe0, 0x07, 0xff, 0x24, 0xc5);
    gen_u32(g, (uint32_t)PROG_CONST + table * 64);
    for (unsigned i = 0; i < cases; i++) {
        start[i] = g->at;
        gen_candidates(g, 1 + gen_below(g, 4));
        gen_byte(g, 0xe9);
        gen_u32(g, 0);
        end[i] = g->at - 4;
    }
    for (unsigned i = 0; i < cases; i++)
        snip_here(g, end[i]);
    for (unsigned i = 0; i < 8; i++) {
        uint64_t to = PROG_CODE + start[gen_below(g, cases)];

        memcpy(g->p->consts + table * 64 + i * 8, &to, 8);
    }
}

/* ---- addresses ---- */

static uint64_t snip_address(struct gen *g)
{
    if (g->p->features & PROG_DEVICE && gen_one_in(g, 3))
        return PROG_DEV + 0x200 + 64 * gen_below(g, 32);
    if (gen_one_in(g, g->p->features & PROG_FAULTS && g->faults < 200 ? 5 : 50)) {
        switch (gen_below(g, 7)) {
        case 0:
            return PROG_DATA + PROG_DATA_RW - gen_below(g, 64);
        case 1:
            return PROG_DATA + PROG_DATA_RW + gen_below(g, 0xfc0);
        case 2:
            return PROG_DATA + PROG_DATA_SIZE - gen_below(g, 64);
        case 3:
            return PROG_DATA - gen_below(g, 16);
        case 4:
            return 0x2f000000 + gen_below(g, 0x1000);
        case 5:
            return 0x8000000000000000ULL | stream_random(&g->seed) >> 2;
        default:
            return 0xffffffff80000000ULL + gen_below(g, 0x1000);
        }
    }
    if (gen_one_in(g, 4))
        return PROG_DATA + 0x1000 * (1 + gen_below(g, 6)) - gen_below(g, 64);
    return PROG_DATA + 0x1000 + (gen_below(g, 0x6000) & ~63U);
}

void gen_pointer(struct gen *g)
{
    unsigned reg = g->pointers[gen_below(g, GEN_POINTERS)], from = g->pointers[gen_below(g, GEN_POINTERS)];

    switch (gen_below(g, 6)) {
    case 0: /* add $imm8 */
        B(g, reg >= 8 ? 0x49 : 0x48, 0x83, 0xc0 | (reg & 7), gen_below(g, 64));
        break;
    case 1: /* mov %from, %reg */
        B(g, 0x48 | (from >= 8) << 2 | (reg >= 8), 0x89, 0xc0 | (from & 7) << 3 | (reg & 7));
        break;
    default:
        gen_mov_imm(g, reg, snip_address(g));
    }
}

static void snip_index(struct gen *g)
{
    if (gen_one_in(g, 2)) {
        gen_mov_imm(g, g->index, gen_below(g, 64));
        return;
    }
    /* mov %eax, %index; and $63, %index. Split by nothing: in between it is no index. */
    if (g->index >= 8)
        gen_byte(g, 0x41);
    B(g, 0x89, 0xc0 | (g->index & 7));
    if (g->index >= 8)
        gen_byte(g, 0x41);
    B(g, 0x83, 0xe0 | (g->index & 7), 0x3f);
}

/* A repeated string instruction with RSI, RDI and RCX of its own. */
static void snip_string(struct gen *g)
{
    static const uint8_t ops[] = { 0xa4, 0xa5, 0xaa, 0xab, 0xa6, 0xa7, 0xae, 0xaf, 0xac, 0xad };
    unsigned op = ops[gen_below(g, sizeof(ops))];

    gen_push(g, 6);
    gen_push(g, 7);
    gen_push(g, 1);
    gen_mov_imm(g, 6, snip_address(g));
    gen_mov_imm(g, 7, snip_address(g));
    gen_mov_imm(g, 1, gen_one_in(g, 8) ? 0 : gen_below(g, gen_one_in(g, 4) ? 600 : 24));
    if (gen_one_in(g, 4))
        gen_byte(g, 0xfc + gen_below(g, 2)); /* cld, std */
    if (gen_one_in(g, 4))
        gen_byte(g, 0x66);
    gen_byte(g, gen_one_in(g, 3) ? 0xf2 : 0xf3);
    if (gen_one_in(g, 3))
        gen_byte(g, 0x48);
    gen_byte(g, op);
    gen_pop(g, 1);
    gen_pop(g, 7);
    gen_pop(g, 6);
}

/* A division that succeeds: of bytes by a number that is not 0, or of more by one that is larger than the upper half.
 */
static void snip_div(struct gen *g)
{
    unsigned s = g->scratch, form = gen_below(g, 4);

    if (form == 0 || s == 2 || g->reserved >> 2 & 1) {
        B(g, 0x0f, 0xb6, 0xc0, 0x83, 0xc8 | s, 0x7f, 0x40, 0xf6, 0xf0 | s); /* movzx; or $127, %scratch; div of bytes */
        return;
    }
    B(g, 0x83, 0xc8 | s, 1 + gen_below(g, 127)); /* or $imm, %scratch */
    if (form == 1)
        B(g, 0x31, 0xd2, 0xf7, 0xf0 | s); /* xor %edx, %edx; div */
    else if (form == 2)
        B(g, 0x48, 0x31, 0xd2, 0x48, 0xf7, 0xf0 | s);
    else
        B(g, 0x48, 0x99, 0x48, 0xf7, 0xf8 | s); /* cqo; idiv: may overflow only for -1 */
}

/* ---- the stack ---- */

static void snip_stack_op(struct gen *g)
{
    unsigned reg = g->pointers[gen_below(g, GEN_POINTERS)];

    switch (gen_below(g, 8)) {
    case 0:
        B(g, 0x68);
        gen_u32(g, (uint32_t)stream_random(&g->seed));
        break;
    case 1:
        gen_pop(g, g->scratch);
        break;
    case 2: /* pushq, popq disp8(%pointer) */
    case 3:
        if (reg >= 8)
            gen_byte(g, 0x41);
        B(g, gen_one_in(g, 2) ? 0x8f : 0xff);
        gen_byte(g, (g->p->code[g->at - 1] == 0xff ? 0x70 : 0x40) | (reg & 7));
        if ((reg & 7) == 4)
            gen_byte(g, 0x24);
        gen_byte(g, gen_below(g, 256));
        break;
    case 4:
        if (!(g->p->features & PROG_TRACED))
            gen_byte(g, 0x9c);
        break;
    case 5: /* 16 bits */
        gen_byte(g, 0x66);
        gen_push(g, gen_below(g, 16));
        break;
    case 6:
        snip_call(g);
        break;
    default:
        gen_push(g, gen_below(g, 16));
    }
}

/* Another stack for a few instructions: at the end of a page, or without one. */
static void snip_stack(struct gen *g)
{
    uint64_t at;

    if (gen_one_in(g, 3)) { /* pushes, pops in the ordinary one */
        gen_push(g, gen_below(g, 16));
        gen_push(g, gen_below(g, 16));
        gen_candidates(g, gen_below(g, 3));
        gen_pop(g, 0);
        gen_pop(g, g->scratch);
        return;
    }
    if (gen_one_in(g, g->p->features & PROG_FAULTS ? 2 : 8))
        at = gen_one_in(g, 3)   ? 0x9000000000000000ULL
             : gen_one_in(g, 2) ? PROG_STACK + gen_below(g, 32)
                                : PROG_STACK + PROG_STACK_SIZE - gen_below(g, 32);
    else
        at = PROG_DATA + 0x1000 * (1 + gen_below(g, 6)) + (gen_one_in(g, 2) ? gen_below(g, 32) : 8 * gen_below(g, 4));
    B(g, 0x48, 0x89, 0x24, 0x25); /* mov %rsp, saved */
    gen_u32(g, (uint32_t)SNIP_RSP_AT);
    gen_mov_imm(g, 4, at);
    for (unsigned n = 1 + gen_below(g, 6); n > 0; n--)
        snip_stack_op(g);
    B(g, 0x48, 0x8b, 0x24, 0x25);
    gen_u32(g, (uint32_t)SNIP_RSP_AT);
}

/* ---- code that changes code ---- */

/* IRETQ to the next instruction, which serialises. */
static void snip_serialise(struct gen *g)
{
    unsigned lea;

    B(g, 0x48, 0x89, 0xe0 | g->scratch, 0x6a, 0x2b); /* mov %rsp, %scratch; push $ss */
    gen_push(g, g->scratch);
    B(g, 0x9c, 0x6a, 0x33); /* pushfq; push $cs */
    lea = snip_lea_rip(g, g->scratch);
    gen_push(g, g->scratch);
    B(g, 0x48, 0xcf);
    snip_here(g, lea);
}

/* An instruction that stores will change. */
static void snip_patch_point(struct gen *g, struct gen_patch *ret)
{
    static const uint8_t alu[] = { 0x05, 0x0d, 0x15, 0x1d, 0x25, 0x2d, 0x35, 0x3d };
    struct gen_patch patch = { .at = g->at };

    switch (gen_below(g, 4)) {
    case 0: /* mov $imm32, %scratch */
        gen_byte(g, 0xb8 + g->scratch);
        patch.at = g->at;
        break;
    case 1: /* data in the code: jmp over it */
        B(g, 0xeb, 4);
        patch.at = g->at;
        break;
    default:
        gen_byte(g, alu[gen_below(g, sizeof(alu))]);
        patch.opcode = gen_one_in(g, 2);
        patch.at = patch.opcode ? g->at - 1 : g->at;
    }
    gen_u32(g, (uint32_t)stream_random(&g->seed));
    *ret = patch;
    g->patches[g->n_patches++ % GEN_PATCHES] = patch;
}

/* A store to a place in the code that is filled in by snip_store_to. */
struct snip_store {
    unsigned rel_at, end, skew; /* displacement; what it counts from; bytes to add to the target */
    unsigned abs_at;            /* place of an absolute address in the alias, instead */
};

/* opcode (one to three bytes), ModRM with the RIP-relative operand, n bytes of immediate behind. */
static void snip_rip(struct gen *g, const uint8_t *op, unsigned n_op, unsigned reg, unsigned n_imm,
                     struct snip_store *ret)
{
    gen_bytes(g, op, n_op);
    gen_byte(g, 0x05 | reg << 3);
    gen_u32(g, 0);
    ret->rel_at = g->at - 4;
    ret->end = g->at + n_imm;
}

static void snip_store_imm(struct gen *g, struct snip_store *ret)
{
    unsigned lea;

    switch (g->store_form >= 0 ? (unsigned)g->store_form : gen_below(g, 9)) {
    case 0:
        snip_rip(g, (const uint8_t[]){ 0x89 }, 1, 0, 0, ret); /* mov %eax */
        break;
    case 1:
        ret->skew = gen_below(g, 4);
        snip_rip(g, (const uint8_t[]){ 0x88 }, 1, 0, 0, ret); /* mov %al */
        break;
    case 2: /* addl $imm8 */
        snip_rip(g, (const uint8_t[]){ 0x83 }, 1, 0, 1, ret);
        gen_byte(g, gen_below(g, 256));
        break;
    case 3: /* lea; mov %al, 0(%scratch) */
        lea = snip_lea_rip(g, g->scratch);
        B(g, 0x88, 0x40 | g->scratch, 0);
        *ret = (struct snip_store){ .rel_at = lea, .end = lea + 4, .skew = gen_below(g, 4) };
        break;
    case 4:
        snip_rip(g, (const uint8_t[]){ 0xf0, 0x0f, 0xc1 }, 3, 0, 0, ret); /* lock xadd %eax */
        break;
    case 5: /* mov %eax, alias */
        if (g->p->features & PROG_TRACED)
            break;
        B(g, 0x89, 0x04, 0x25);
        gen_u32(g, 0);
        ret->abs_at = g->at - 4;
        snip_serialise(g);
        break;
    case 6: /* push %ax; pop word */
        B(g, 0x66, 0x50, 0x66);
        snip_rip(g, (const uint8_t[]){ 0x8f }, 1, 0, 0, ret);
        break;
    case 7: /* stosb */
        gen_push(g, 7);
        lea = snip_lea_rip(g, 7);
        B(g, 0xaa);
        gen_pop(g, 7);
        *ret = (struct snip_store){ .rel_at = lea, .end = lea + 4, .skew = gen_below(g, 4) };
        break;
    default: /* movups over the same bytes: a store that changes nothing */
        ret->skew = 0;
        snip_rip(g, (const uint8_t[]){ 0x0f, 0x10 }, 2, 1, 0, ret);
        snip_rip(g, (const uint8_t[]){ 0x0f, 0x11 }, 2, 1, 0, ret);
        gen_rel32_at(g, ret->rel_at - 7, ret->rel_at - 3, ret->rel_at + 4); /* both: the bytes behind */
        gen_rel32_at(g, ret->rel_at, ret->rel_at + 4, ret->rel_at + 4);
        ret->rel_at = 0;
    }
}

static void snip_store_to(struct gen *g, const struct snip_store *s, uint32_t target)
{
    uint32_t at = (uint32_t)PROG_ALIAS + target;

    if (s->abs_at)
        memcpy(g->p->code + s->abs_at, &at, 4);
    else if (s->rel_at)
        gen_rel32_at(g, s->rel_at, s->end, target + s->skew);
}

static void snip_store(struct gen *g, bool opcode, struct snip_store *ret)
{
    *ret = (struct snip_store){ 0 };
    if (!opcode) {
        snip_store_imm(g, ret);
        return;
    }
    snip_rip(g, (const uint8_t[]){ 0x80 }, 1, 6, 1, ret); /* xorb: another ALU instruction */
    gen_byte(g, 8 * (1 + gen_below(g, 7)));
}

/* Copy one of the functions in the constants to a place in the code and call it there. */
static void snip_copy(struct gen *g)
{
    unsigned slot = g->slots[gen_below(g, GEN_SLOTS)], form = gen_below(g, 3), r = g->outer;
    bool alias = gen_one_in(g, 4) && !(g->p->features & PROG_TRACED);

    gen_push(g, 6);
    gen_push(g, 7);
    gen_push(g, 1);
    if (r >= 8)
        gen_byte(g, 0x44);
    B(g, 0x89, 0xc6 | (r & 7) << 3, 0x83, 0xe6, GEN_TEMPLATES - 1, 0xc1, 0xe6, 6); /* mov %outer, %esi; and; shl $6 */
    B(g, 0x81, 0xc6);                                                              /* add $templates, %esi */
    gen_u32(g, (uint32_t)PROG_CONST + GEN_TEMPLATES_AT);
    gen_mov_imm(g, 7, (alias ? PROG_ALIAS : PROG_CODE) + slot);
    gen_mov_imm(g, 1, form == 0 ? GEN_SLOT_BYTES : GEN_SLOT_BYTES / 8);
    gen_byte(g, 0xfc);
    if (form == 0)
        B(g, 0xf3, 0xa4);
    else if (form == 1)
        B(g, 0xf3, 0x48, 0xa5);
    else
        B(g, 0x48, 0xa5, 0xff, 0xc9, 0x75, 0xfa); /* movsq; dec %ecx; jnz */
    gen_pop(g, 1);
    gen_pop(g, 7);
    gen_pop(g, 6);
    if (alias)
        snip_serialise(g);
    snip_call_to(g, slot);
}

/* A loop whose store goes to data until it is hot, then to code ahead in the loop. */
static void snip_late(struct gen *g)
{
    unsigned s = g->scratch, top, lea;
    struct gen_patch patch;

    B(g, 0x6a, 2 + gen_below(g, 60)); /* push */
    top = g->at;
    gen_mov_imm(g, s, PROG_DATA + 0x1000 + gen_below(g, 0x6000));
    lea = snip_lea_rip(g, 0);
    B(g, 0x83, 0x3c, 0x24, 1 + gen_below(g, 3)); /* cmpl $k, (%rsp) */
    B(g, 0x48, 0x0f, 0x44, 0xc0 | s << 3);       /* cmove %rax, %scratch */
    B(g, 0x03, 0x04, 0x24, 0x89, 0x40 | s, 0);   /* add (%rsp), %eax; mov %eax, 0(%scratch) */
    gen_candidates(g, gen_below(g, 4));
    do {
        snip_patch_point(g, &patch);
    } while (patch.opcode);
    gen_rel32_at(g, lea, lea + 4, patch.at);
    B(g, 0xff, 0x0c, 0x24, 0x0f, 0x85); /* decl (%rsp); jnz */
    gen_u32(g, 0);
    gen_rel32_at(g, g->at - 4, g->at, top);
    gen_pop(g, 0);
}

static void snip_smc(struct gen *g)
{
    struct gen_patch patch;
    struct snip_store store;

    bool opcode = g->store_form < 0 ? gen_one_in(g, 3) : g->store_form == SNIP_OPCODE;

    if (g->store_form < 0 ? gen_one_in(g, 3) : g->store_form == SNIP_COPY) {
        snip_copy(g);
        return;
    }
    if (g->store_form < 0 ? gen_one_in(g, 5) : g->store_form == SNIP_LATE) {
        snip_late(g);
        return;
    }
    if (g->n_patches > 0 && gen_one_in(g, 2)) { /* somewhere behind: in a loop it comes round again */
        unsigned n = g->n_patches < GEN_PATCHES ? g->n_patches : GEN_PATCHES;

        patch = g->patches[gen_below(g, n)];
        if (patch.opcode != opcode && g->store_form >= 0)
            return;
        snip_store(g, patch.opcode, &store);
        snip_store_to(g, &store, patch.at);
        return;
    }
    snip_store(g, opcode, &store); /* ahead, often in the same block */
    gen_candidates(g, gen_below(g, 5));
    do {
        snip_patch_point(g, &patch);
    } while (patch.opcode != opcode);
    snip_store_to(g, &store, patch.at);
}

/* ---- faults ---- */

static void snip_fault(struct gen *g)
{
    unsigned s = g->scratch, reg = g->pointers[gen_below(g, GEN_POINTERS)];

    switch (gen_below(g, 8)) {
    case 0:
        B(g, 0x0f, 0x0b); /* ud2 */
        break;
    case 1: /* xor %scratch, %scratch; div or idiv */
        B(g, 0x31, 0xc0 | s << 3 | s, 0xf7, gen_one_in(g, 2) ? 0xf0 | s : 0xf8 | s);
        break;
    case 2: /* movaps %xmm1 to or from an odd address */
        if (reg >= 8)
            gen_byte(g, 0x41);
        B(g, 0x0f, 0x28 + gen_below(g, 2), 0x48 | (reg & 7));
        if ((reg & 7) == 4)
            gen_byte(g, 0x24);
        gen_byte(g, 1 + gen_below(g, 14));
        break;
    case 3: /* movabs non-canonical, %scratch; mov (%scratch), %eax or back */
        gen_mov_imm(g, s, 0x4000000000000000ULL | stream_random(&g->seed) >> 3);
        B(g, 0x89 + 2 * gen_below(g, 2), 0x40 | s, 0);
        break;
    case 4: /* lock inc of a page that is read-only, or none */
        B(g, 0xf0, 0xff, 0x04, 0x25);
        gen_u32(g, (uint32_t)PROG_DATA + 0x1000 * (7 + gen_below(g, 3)) + gen_below(g, 0xffc));
        break;
    case 5: /* MXCSR with everything unmasked for a few instructions */
        B(g, 0xc7, 0x44, 0x24, 0xe0, 0, 0, 0, 0, 0x0f, 0xae, 0x54, 0x24, 0xe0); /* movl $0, -32(%rsp); ldmxcsr */
        gen_candidates(g, 2 + gen_below(g, 5));
        B(g, 0xc7, 0x44, 0x24, 0xe0, 0x80, 0x1f, 0, 0, 0x0f, 0xae, 0x54, 0x24, 0xe0);
        break;
    case 6: /* a pointer that walks off in a loop: what follows in the loop faults in the end */
        B(g, reg >= 8 ? 0x49 : 0x48, 0x81, 0xc0 | (reg & 7));
        gen_u32(g, 0x100 + gen_below(g, 0x800));
        break;
    default: /* hlt, mov %cr0, in */
        B(g, 0xf4);
    }
}

/* POPF sets TF; after some pieces it clears it again. */
static void snip_tf(struct gen *g)
{
    if (g->tf) {
        gen_candidates(g, 3);
        return;
    }
    g->tf = true;
    B(g, 0x9c, 0x81, 0x0c, 0x24, 0x00, 0x01, 0x00, 0x00, 0x9d); /* pushfq; orl $0x100, (%rsp); popfq */
    for (unsigned n = 1 + gen_below(g, 3); n > 0; n--)
        gen_piece(g);
    B(g, 0x9c, 0x81, 0x24, 0x24, 0xff, 0xfe, 0xff, 0xff, 0x9d);
    g->tf = false;
}

static void snip_device(struct gen *g)
{
    gen_mov_imm(g, g->pointers[0], PROG_DEV + 0x200 + 8 * gen_below(g, 256));
    gen_mov_imm(g, g->pointers[1], PROG_DEV + 0x200 + 8 * gen_below(g, 256));
    gen_candidates(g, 2 + gen_below(g, 8));
    gen_mov_imm(g, g->pointers[gen_below(g, 2)], PROG_DATA + 0x1000 + 64 * gen_below(g, 256));
}

void gen_piece(struct gen *g)
{
    unsigned features = g->p->features;

    if (!gen_room(g)) {
        gen_candidates(g, 1);
        return;
    }
    if (features & PROG_SMC && gen_one_in(g, g->smc)) {
        snip_smc(g);
    } else if (features & PROG_FAULTS && gen_one_in(g, g->faults)) {
        snip_fault(g);
    } else if (features & PROG_TF && gen_one_in(g, 10)) {
        snip_tf(g);
    } else if (features & PROG_DEVICE && gen_one_in(g, 4)) {
        snip_device(g);
    } else {
        static void (*const kinds[])(struct gen *) = { snip_loop,   snip_short_jcc, snip_branch, snip_call,
                                                       snip_table,  gen_pointer,    gen_pointer, snip_index,
                                                       snip_string, snip_stack,     snip_div };
        unsigned kind = gen_below(g, 2 * sizeof(kinds) / sizeof(kinds[0]));

        if (kind < sizeof(kinds) / sizeof(kinds[0]))
            kinds[kind](g);
        else
            gen_candidates(g, 1 + gen_below(g, 12));
    }
}
