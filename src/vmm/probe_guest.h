/* Constants shared by the engine probe (probe.c) and the guest code that it runs (probe_guest.S). Preprocessor only. */
#ifndef VMM_PROBE_GUEST_H
#define VMM_PROBE_GUEST_H

#define PROBE_RAM_BYTES 0x400000
#define PROBE_BASE 0x10000   /* where the code is put; entered in real mode at PROBE_BASE >> 4 : 0 */
#define PROBE_RESULTS 0x8000 /* array of 64-bit values, indices below */
#define PROBE_SCRATCH 0x9000
#define PROBE_HOLE 0x50000 /* a page that the guest maps only in its page-fault handler */
#define PROBE_HOLE_TARGET 0x60000

#define PROBE_PORT_STEP 0xe0 /* a byte: step n begins */
#define PROBE_PORT_DONE 0xe1
#define PROBE_PORT_FAULT 0xe2 /* a byte: the vector of an exception that nobody expected */

#define PROBE_STEP_REAL 1
#define PROBE_STEP_PROTECTED 2
#define PROBE_STEP_LONG 3
#define PROBE_STEP_INT3 4
#define PROBE_STEP_PAGE_FAULT 5
#define PROBE_STEP_INVLPG 6
#define PROBE_STEP_MSR 7
#define PROBE_STEP_CMPXCHG16B 8
#define PROBE_STEP_SSE 9
#define PROBE_STEP_XSAVE 10
#define PROBE_STEP_AVX 11
#define PROBE_STEP_USER 12
#define PROBE_STEP_TIMER 13
#define PROBE_STEP_SPEED 14 /* sent PROBE_SPEED_ROUNDS + 1 times, around each round */
#define PROBE_STEPS 15

#define PROBE_SPEED_ROUNDS 4
#define PROBE_SPEED_LOOPS 2000
#define PROBE_SPEED_LOOP_INSNS 10

#define PROBE_R_REAL 0 /* sum of the words that real mode wrote */
#define PROBE_R_PROTECTED 1
#define PROBE_R_LONG 2 /* generator after 64 steps */
#define PROBE_R_INT3_COUNT 3
#define PROBE_R_INT3_CS 4
#define PROBE_R_PF_ERROR 5
#define PROBE_R_PF_CR2 6
#define PROBE_R_PF_VALUE 7
#define PROBE_R_INVLPG_OLD 8
#define PROBE_R_INVLPG_NEW 9
#define PROBE_R_MSR_GS 10
#define PROBE_R_MSR_SWAPGS 11
#define PROBE_R_CX16_HIT 12 /* ZF of a comparison that holds */
#define PROBE_R_CX16_LO 13
#define PROBE_R_CX16_HI 14
#define PROBE_R_CX16_MISS 15
#define PROBE_R_CX16_MISS_RAX 16
#define PROBE_R_SSE_INT 17
#define PROBE_R_SSE_FP 18
#define PROBE_R_HAS_XSAVE 19
#define PROBE_R_XSAVE_LO 20
#define PROBE_R_XSAVE_X87 21
#define PROBE_R_HAS_AVX 22
#define PROBE_R_AVX 23
#define PROBE_R_USER_CS 24
#define PROBE_R_USER_SYSCALLS 25
#define PROBE_R_USER_INT3_CS 26
#define PROBE_R_TIMER 27
#define PROBE_R_SPEED 28
#define PROBE_R_COUNT 29

#endif
