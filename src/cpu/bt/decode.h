/* From bytes to operations. decode.c runs Zydis, fills the common part of struct bt_op (length, sizes, prefixes, memory
 * operand) and asks the binders, one for each family of instructions, for a handler. Zydis runs outside the register
 * discipline of the run path: the caller has saved the FP state. */
#ifndef CPU_BT_DECODE_H
#define CPU_BT_DECODE_H

#include <Zydis/Zydis.h>

#include "cpu/bt/state.h"

/* A decoded instruction as the binders see it. */
struct bt_insn {
    ZydisDecodedInstruction zi;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    uint8_t bytes[15];
    uint8_t mode;   /* enum bt_mode */
    bool amd;       /* the CPU model is AMD's: for the few encodings that AMD and Intel read differently */
    uint8_t mem_op; /* index in ops of the memory operand, 0xff if none */
};

/* Binders: set op->fn (and dst, src, imm, aux, x, flags as the handler wants). 0: bound; -ENOENT: not of this family;
 * another error: treat as undefined (#UD). */
int bt_bind_int(struct bt_vcpu *c, const struct bt_insn *in, struct bt_op *op); /* int_*.c: data movement, ALU, shifts,
                                                                                    branches, strings, BMI, CRC32... */
int bt_bind_sys(struct bt_vcpu *c, const struct bt_insn *in, struct bt_op *op); /* sys_*.c: privileged, segments, far
                                                                                    transfers, I/O, CPUID, MSR... */
int bt_bind_fp(struct bt_vcpu *c, const struct bt_insn *in, struct bt_op *op); /* fp_*.c: x87, MMX, SSE*, AVX*, XSAVE */

/* Byte offset into c->r of a general register operand (AH..BH too), for binders. */
uint8_t bt_reg_offset(ZydisRegister reg);

/* Decode one instruction from n bytes at buf (n <= 15) in the given mode. Always yields an operation: undefined
 * encodings get one that raises #UD; returns -EAGAIN where n bytes are not enough (then nothing is filled in).
 * CPUID-dependent availability (a feature masked by the CPU model) is checked here: #UD. FP state must be synced. */
int bt_decode(struct bt_vcpu *c, const uint8_t *buf, unsigned n, enum bt_mode mode, struct bt_op *op);

#endif
