/* Writes x86-64 machine code into a buffer. Append freely and look at `full` once at the end: what does not fit is
 * dropped and remembered, nothing is ever written outside the buffer.
 *
 * Example: add rax, [r11 + 8] is
 *     bt_emit_ins(e, 8, 0x03, 0, bt_x_mem(11, 8));
 * It knows encodings only: neither guests nor the engine's registers. */
#ifndef CPU_BT_EMIT_H
#define CPU_BT_EMIT_H

#include <stdbool.h>
#include <stdint.h>

/* The r/m operand of an instruction. Registers by their hardware numbers. */
struct bt_x {
    bool mem;
    bool gs;       /* mem; relative to the base of GS */
    int8_t reg;    /* !mem */
    int8_t base;   /* mem; -1: none */
    int8_t index;  /* mem; -1: none, never 4 */
    uint8_t scale; /* shift count 0..3 */
    int32_t disp;
};

static inline struct bt_x bt_x_reg(int reg)
{
    return (struct bt_x){ .reg = (int8_t)reg };
}

static inline struct bt_x bt_x_mem(int base, int32_t disp)
{
    return (struct bt_x){ .mem = true, .base = (int8_t)base, .index = -1, .disp = disp };
}

static inline struct bt_x bt_x_sib(int base, int index, unsigned scale, int32_t disp)
{
    return (struct bt_x){
        .mem = true, .base = (int8_t)base, .index = (int8_t)index, .scale = (uint8_t)scale, .disp = disp
    };
}

/* Absolute offset in the GS segment, with an optional base register (-1: none). */
static inline struct bt_x bt_x_gs(int base, int32_t disp)
{
    return (struct bt_x){ .mem = true, .gs = true, .base = (int8_t)base, .index = -1, .disp = disp };
}

struct bt_emit {
    uint8_t *buf;
    uint32_t pos, end; /* next byte, first byte that is not ours; offsets in buf */
    bool full;         /* something did not fit */
};

/* Flags of an opcode, beside up to three bytes of it (0x0fb6 is 0F B6). */
#define BT_OPC_RM8 (1U << 24)  /* r/m is a byte, whatever the operand size */
#define BT_OPC_LOCK (1U << 25) /* F0 */
#define BT_OPC_F3 (1U << 26)
#define BT_OPC_F2 (1U << 28)
#define BT_OPC_NOREXW (1U << 27) /* 64-bit operand size without REX.W (PUSH, POP, near branches) */

void bt_emit_u8(struct bt_emit *e, uint8_t v);
void bt_emit_u16(struct bt_emit *e, uint16_t v);
void bt_emit_u32(struct bt_emit *e, uint32_t v);
void bt_emit_u64(struct bt_emit *e, uint64_t v);
/* The low `size` bytes (1, 2, 4; 8: four bytes, which the CPU sign-extends). */
void bt_emit_imm(struct bt_emit *e, unsigned size, uint64_t v);

/* One instruction without its immediate: prefixes, opcode, ModRM with reg in its middle field, SIB, displacement.
 * size: operand size in bytes (1, 2, 4, 8). Byte registers are AL..BL, SPL.., never AH.. */
void bt_emit_ins(struct bt_emit *e, unsigned size, uint32_t opcode, int reg, struct bt_x x);

/* ModRM, SIB and displacement alone. */
void bt_emit_modrm(struct bt_emit *e, int reg, struct bt_x x);

/* One VEX-encoded instruction without its immediate. map: 1 (0F), 2 (0F38), 3 (0F3A); pp: 0, 1 (66), 2 (F3), 3 (F2);
 * size 8 sets W. vvvv: a register, or 0 where the instruction has none. */
void bt_emit_vex(struct bt_emit *e, unsigned size, unsigned map, unsigned pp, uint8_t opcode, int reg, int vvvv,
                 struct bt_x x);

/* mov reg, v in the shortest encoding; leaves flags alone. */
void bt_emit_const(struct bt_emit *e, int reg, uint64_t v);

/* Jumps with 32-bit displacement. cc: condition code 0..15, BT_JMP or BT_CALL. Returns the offset of the displacement,
 * for bt_emit_target. */
enum { BT_JMP = -1, BT_CALL = -2 };
uint32_t bt_emit_jump(struct bt_emit *e, int cc);
/* The same, with the displacement within an aligned group of eight bytes (NOPs go before it if need be): it may be
 * changed while other processors execute it. */
uint32_t bt_emit_jump_aligned(struct bt_emit *e, int cc);
/* Let the displacement at offset `at` lead to offset `to`. */
void bt_emit_target(struct bt_emit *e, uint32_t at, uint32_t to);
/* The same in one store, for code that may be executing; false: not bt_emit_jump_aligned's, nothing was changed. */
bool bt_emit_retarget(struct bt_emit *e, uint32_t at, uint32_t to);
/* bt_emit_jump to a known place. */
void bt_emit_jump_to(struct bt_emit *e, int cc, uint32_t to);

#endif
