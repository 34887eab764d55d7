/* Random machine states and encodings for test_bt_fp.c: values that floating-point code finds hard, and every opcode
 * form of x87, MMX, SSE and AVX with operands that the test can serve. */
#ifndef TESTS_UNIT_BT_FP_GEN_H
#define TESTS_UNIT_BT_FP_GEN_H

#include <stdbool.h>
#include <stdint.h>

#include "bt_fp_host.h"

/* The generator's seed (not 0), and the bits that MXCSR may have on this host. Set them first. */
extern uint64_t gen_seed;
extern uint32_t gen_mxcsr_mask;

uint64_t gen_rnd(void);
/* True once in n times. */
bool gen_chance(unsigned n);
/* 0 .. n-1 */
unsigned gen_pick(unsigned n);
/* n bytes (a multiple of 8) of interesting integers and floating-point numbers. */
void gen_fill(uint8_t *p, unsigned n);
/* Registers, x87 and vector state. */
void gen_state(struct host_state *s);

/* One instruction (perhaps not a valid one) of a family at p; returns its length, trailing bytes included. The memory
 * operand is at RBX, or gathers from there. */
unsigned gen_legacy(uint8_t *p);
unsigned gen_vex(uint8_t *p);
unsigned gen_x87(uint8_t *p);
unsigned gen_area(uint8_t *p);

#endif
