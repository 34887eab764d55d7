/* Random instruction streams: the same bytes with the same registers and memory run on the real CPU (user mode) and in
 * an engine (ring 3), and everything that a program can see afterwards is compared.
 *
 * Both sides have code and data at the same addresses, so that addresses need no translation:
 *   STREAM_CODE  one page, read and execute, filled with INT3 behind the stream (the normal end)
 *   STREAM_DATA  three pages: read-write, read-write, read-only; around them nothing is mapped */
#ifndef TESTS_ENGINE_STREAM_H
#define TESTS_ENGINE_STREAM_H

#include <stdbool.h>
#include <stdint.h>

#define STREAM_CODE 0x10000000ULL
#define STREAM_CODE_SIZE 0x1000ULL
#define STREAM_DATA 0x20000000ULL
#define STREAM_DATA_SIZE 0x3000ULL
#define STREAM_DATA_RW 0x2000ULL
#define STREAM_INSNS_MAX 16
#define STREAM_BYTES_MAX (STREAM_INSNS_MAX * 19)

/* Registers in the order of the encoding: RAX RCX RDX RBX RSP RBP RSI RDI R8..R15. */
struct stream_regs {
    uint64_t gpr[16];
    uint64_t rip, rflags;
};

/* x87, SSE and AVX state in standard XSAVE format. */
#define STREAM_XSAVE_SIZE 832
struct stream_state {
    struct stream_regs regs;
    uint8_t xsave[STREAM_XSAVE_SIZE] __attribute__((aligned(64)));
};

struct stream {
    bool compat;  /* 32-bit code segment */
    bool decimal; /* has AAA, AAS, AAM, AAD, DAA or DAS, which leave undefined flags behind */
    unsigned n_insns, n_bytes;
    uint8_t code[STREAM_BYTES_MAX];
    struct stream_state start;
    uint64_t data_seed; /* of the data pages' content */
};

/* How a run ended: exception vector (3 = the INT3 behind the stream), error code and CR2 where they exist. */
struct stream_result {
    struct stream_state end;
    unsigned vector;
    uint64_t error, cr2;
    uint8_t data[STREAM_DATA_RW];
};

/* xorshift64*; never 0. */
static inline uint64_t stream_random(uint64_t *seed)
{
    uint64_t x = *seed;

    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *seed = x;
    return x * 0x2545f4914f6cdd1dULL;
}

/* Make stream number n of a seed: always the same one. (stream_gen.c) */
void stream_make(uint64_t seed, uint64_t n, struct stream *ret);
/* Append a jump back to its start, taken up to seven times (a counter in the data pages, which start at random). A
 * stream that keeps changing the counter runs for ever. */
void stream_loop(struct stream *s);
/* The initial content of the data pages. */
void stream_fill_data(uint64_t data_seed, uint8_t *data, unsigned len);

/* What streams are made of, for prog_gen.c: a random 64-bit instruction in bytes[15] (returns its length, 0: try
 * again), an interesting number, vector and x87 state. */
unsigned stream_candidate(uint64_t *seed, uint8_t *bytes);
uint64_t stream_value(uint64_t *seed);
void stream_xsave(uint64_t *seed, uint8_t *x);

/* Run on the real CPU. (stream_native.c) */
void stream_native_init(void);
void stream_native_run(const struct stream *s, struct stream_result *ret);

/* Run in an engine. (stream_guest.c) */
struct stream_guest;
struct cpu_ops;
struct stream_guest *stream_guest_new(const struct cpu_ops *ops);
void stream_guest_free(struct stream_guest *g);
void stream_guest_run(struct stream_guest *g, const struct stream *s, struct stream_result *ret);

#endif
