/* Random programs: thousands of instructions with loops, calls, jump tables, stack traffic, faults and stores to their
 * own code, run on the real CPU and in an engine, and compared at every exception that they meet.
 *
 * Unlike a stream, which ends with its first exception, a program goes on: whoever runs it skips the instruction that
 * faulted (prog_resume), so that faults come in the middle of code that is hot. What is compared is the list of these
 * events, each with all registers, and the memory at the end.
 *
 * Both sides have everything at the same linear addresses:
 *   PROG_CODE    16 pages, read, write and execute; INT3 is the normal end
 *   PROG_ALIAS   the same memory a second time
 *   PROG_DATA    8 pages read-write and, behind them, one read-only; nothing around
 *   PROG_CONST   2 pages read-only: jump tables, functions to be copied into the code
 *   PROG_STACK   2 pages read-write; nothing around
 *   PROG_DEV     1 page read-write: memory on the CPU, a device that behaves like memory in the engine */
#ifndef TESTS_ENGINE_PROG_H
#define TESTS_ENGINE_PROG_H

#include "stream.h"

#define PROG_CODE 0x10000000ULL
#define PROG_CODE_SIZE 0x10000ULL
#define PROG_ALIAS 0x18000000ULL
#define PROG_DATA 0x20000000ULL
#define PROG_DATA_RW 0x8000ULL
#define PROG_DATA_SIZE 0x9000ULL
#define PROG_CONST 0x28000000ULL
#define PROG_CONST_SIZE 0x2000ULL
#define PROG_STACK 0x30000000ULL
#define PROG_STACK_SIZE 0x2000ULL
#define PROG_DEV 0x38000000ULL
#define PROG_DEV_SIZE 0x1000ULL
#define PROG_EVENTS_MAX 65536U
#define PROG_BREAKPOINTS 4

/* What a program may contain, and how it is run. */
enum {
    PROG_SMC = 1 << 0,    /* stores to code */
    PROG_FAULTS = 1 << 1, /* more faults than happen by chance */
    PROG_TF = 1 << 2,     /* POPF sets and clears TF here and there */
    PROG_DEVICE = 1 << 3, /* accesses to the device page */
    PROG_STEP = 1 << 4,   /* TF is set from the first instruction on */
    PROG_BREAK = 1 << 5,  /* breakpoint registers are set */
    PROG_TRACED = 1 << 6, /* never looks at TF: runs the same with and without */
};

struct prog {
    uint64_t seed, n;
    unsigned features;
    unsigned events_max; /* the run ends with this event */
    struct stream_state start;
    uint64_t dr[PROG_BREAKPOINTS], dr7;
    unsigned code_used; /* bytes from the start of the code */
    uint8_t code[PROG_CODE_SIZE];
    uint8_t data[PROG_DATA_SIZE];
    uint8_t consts[PROG_CONST_SIZE];
};

/* An exception. rflags without RF; xhash is over the vector and x87 state; dr6: bits 0..3 and 14, of #DB, where
 * breakpoints are in use; next_rip and next_rflags: where the program went on, 0 where it did not. */
struct prog_event {
    uint64_t gpr[16];
    uint64_t rip, rflags, vector, error, cr2, dr6, xhash;
    uint64_t next_rip, next_rflags;
};

struct prog_result {
    unsigned n_events;
    bool cut;   /* ended by events_max or by the clock, not by the program */
    bool stuck; /* cut where this host cannot go on: see prog_native.c */
    struct prog_event events[PROG_EVENTS_MAX];
    uint8_t xsave[STREAM_XSAVE_SIZE] __attribute__((aligned(64)));
    uint8_t code[PROG_CODE_SIZE];
    uint8_t data[PROG_DATA_RW];
    uint8_t stack[PROG_STACK_SIZE];
    uint8_t dev[PROG_DEV_SIZE];
};

/* Make program n of a seed. (prog_gen.c) */
void prog_make(uint64_t seed, uint64_t n, unsigned features, struct prog *ret);

/* What follows event e: sets its next_rip and next_rflags and returns true, or returns false at the program's end.
 * code: the present content of PROG_CODE. Async-signal-safe. (prog_event.c) */
bool prog_resume(const struct prog *p, struct prog_event *e, const uint8_t *code);
/* Bring an XSAVE area into one form, in which equal states are equal bytes, and hash it. (prog_event.c) */
uint64_t prog_hash_xsave(uint8_t *xsave);

/* Run on the real CPU, in a process of its own: a program that goes astray kills that process only, and it can do no
 * system calls. NULL, false: it died, or took longer than a few seconds. (prog_native.c) */
struct prog_native;
struct prog_native *prog_native_new(bool breakpoints);
void prog_native_free(struct prog_native *n);
const struct prog_result *prog_native_run(struct prog_native *n, const struct prog *p);

/* Interrupts for programs in an engine. */
enum prog_irq {
    PROG_IRQ_NONE,
    PROG_IRQ_DEVICE, /* each access to the device page raises one */
    PROG_IRQ_THREAD, /* another thread raises them all the time */
    PROG_IRQ_KICK,   /* a timer kicks the vCPU all the time, and we raise one whenever it comes back */
};

/* Called for each interrupt that the program gets, and each kick that stops it: its state there. */
typedef void prog_on_irq(void *opaque, const struct prog_event *at);

/* Run in an engine. (prog_guest.c) */
struct prog_guest;
struct cpu_ops;
struct prog_guest *prog_guest_new(const struct cpu_ops *ops);
void prog_guest_free(struct prog_guest *g);
/* Run p with interrupts of that kind. */
void prog_guest_run(struct prog_guest *g, const struct prog *p, enum prog_irq irq, prog_on_irq *on_irq, void *opaque,
                    struct prog_result *ret);
/* Print the engine's statistics that are not 0. */
void prog_guest_stats(struct prog_guest *g);

#endif
