/* The generator of programs: what prog_gen.c and prog_snip.c share. */
#ifndef TESTS_ENGINE_PROG_PRIV_H
#define TESTS_ENGINE_PROG_PRIV_H

#include "prog.h"

#define GEN_POINTERS 5 /* registers that hold addresses of data */
#define GEN_FUNCTIONS 8
#define GEN_PATCHES 64
#define GEN_SLOTS 4 /* places that functions are copied to */
#define GEN_SLOT_BYTES 64
#define GEN_TEMPLATES 4

/* A place in the code that stores go to. */
struct gen_patch {
    uint32_t at;
    bool opcode; /* of an ALU instruction on EAX, which another such may replace; else four bytes of an immediate */
};

struct gen {
    struct prog *p;
    uint64_t seed;
    unsigned at;    /* offset of the next byte in the code */
    unsigned depth; /* of loops and of blocks with side exits */
    uint8_t pointers[GEN_POINTERS];
    uint8_t index;     /* holds 0..63 */
    uint8_t outer;     /* counts the rounds of all */
    uint8_t scratch;   /* any register with a number below 8 that candidates may write, but not EAX */
    uint16_t reserved; /* bit n: candidates do not write register n */
    unsigned functions[GEN_FUNCTIONS], n_functions;
    struct gen_patch patches[GEN_PATCHES];
    unsigned n_patches;
    unsigned slots[GEN_SLOTS];
    unsigned smc, faults; /* one piece in so many */
    int store_form;       /* the only kind of store to code in this program; -1: all kinds */
    unsigned n_tables;    /* jump tables in the constants so far */
    bool tf;              /* in a stretch of code that runs with TF set */
};

/* Offsets in the constants. */
#define GEN_TEMPLATES_AT 0x1000U
#define GEN_TABLES_MAX 64U /* of 8 entries of 8 bytes */

static inline unsigned gen_below(struct gen *g, unsigned n)
{
    return (unsigned)((stream_random(&g->seed) >> 20) % n);
}

static inline bool gen_one_in(struct gen *g, unsigned n)
{
    return gen_below(g, n) == 0;
}

void gen_byte(struct gen *g, unsigned b);
void gen_bytes(struct gen *g, const void *bytes, unsigned n);
void gen_u32(struct gen *g, uint32_t v);
/* The four bytes at offset `at` become the distance from end to target (both offsets in the code). */
void gen_rel32_at(struct gen *g, unsigned at, unsigned end, unsigned target);
/* mov $imm, %reg, in the shorter form that fits. */
void gen_mov_imm(struct gen *g, unsigned reg, uint64_t v);
/* push, pop of a register. */
void gen_push(struct gen *g, unsigned reg);
void gen_pop(struct gen *g, unsigned reg);
bool gen_room(const struct gen *g); /* whether there is room for some more code */

/* A random instruction that keeps to the rules (prog_gen.c); n of them. */
void gen_candidates(struct gen *g, unsigned n);
/* A pointer register gets a new address. */
void gen_pointer(struct gen *g);
/* A random piece of code: some candidates, or a snippet (prog_snip.c). */
void gen_piece(struct gen *g);
/* A function for GEN_SLOT_BYTES that stands anywhere: candidates without RIP-relative operands, RET. */
void gen_template(struct gen *g, uint8_t *to);

#endif
