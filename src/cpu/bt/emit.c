/* Machine code into a buffer; emit.h has the contract. */
#include "cpu/bt/emit.h"

#include <string.h>

static void emit_bytes(struct bt_emit *e, const void *p, uint32_t n)
{
    if (e->full || e->end - e->pos < n) {
        e->full = true;
        return;
    }
    memcpy(e->buf + e->pos, p, n);
    e->pos += n;
}

void bt_emit_u8(struct bt_emit *e, uint8_t v)
{
    emit_bytes(e, &v, sizeof(v));
}

void bt_emit_u16(struct bt_emit *e, uint16_t v)
{
    emit_bytes(e, &v, sizeof(v));
}

void bt_emit_u32(struct bt_emit *e, uint32_t v)
{
    emit_bytes(e, &v, sizeof(v));
}

void bt_emit_u64(struct bt_emit *e, uint64_t v)
{
    emit_bytes(e, &v, sizeof(v));
}

void bt_emit_imm(struct bt_emit *e, unsigned size, uint64_t v)
{
    if (size == 1)
        bt_emit_u8(e, (uint8_t)v);
    else if (size == 2)
        bt_emit_u16(e, (uint16_t)v);
    else
        bt_emit_u32(e, (uint32_t)v);
}

void bt_emit_modrm(struct bt_emit *e, int reg, struct bt_x x)
{
    unsigned field = (unsigned)(reg & 7) << 3, mod;

    if (!x.mem) {
        bt_emit_u8(e, (uint8_t)(0xc0 | field | (unsigned)(x.reg & 7)));
        return;
    }
    if (x.base < 0) { /* SIB without base has always 32 bits of displacement */
        bt_emit_u8(e, (uint8_t)(field | 4));
        bt_emit_u8(e, (uint8_t)((unsigned)x.scale << 6 | (x.index < 0 ? 4U : (unsigned)(x.index & 7)) << 3 | 5));
        bt_emit_u32(e, (uint32_t)x.disp);
        return;
    }
    mod = x.disp == 0 && (x.base & 7) != 5 ? 0 : x.disp == (int8_t)x.disp ? 1 : 2;
    if (x.index >= 0 || (x.base & 7) == 4) {
        bt_emit_u8(e, (uint8_t)(mod << 6 | field | 4));
        bt_emit_u8(e, (uint8_t)((unsigned)x.scale << 6 | (x.index < 0 ? 4U : (unsigned)(x.index & 7)) << 3 |
                                (unsigned)(x.base & 7)));
    } else {
        bt_emit_u8(e, (uint8_t)(mod << 6 | field | (unsigned)(x.base & 7)));
    }
    if (mod == 1)
        bt_emit_u8(e, (uint8_t)x.disp);
    else if (mod == 2)
        bt_emit_u32(e, (uint32_t)x.disp);
}

/* REX, or 0 where none is needed. */
static uint8_t emit_rex(unsigned size, uint32_t opcode, int reg, struct bt_x x)
{
    unsigned rex = 0;

    if (size == 8 && !(opcode & BT_OPC_NOREXW))
        rex |= 0x48;
    if (reg >= 8)
        rex |= 0x44;
    if (x.mem) {
        if (x.base >= 8)
            rex |= 0x41;
        if (x.index >= 8)
            rex |= 0x42;
    } else {
        if (x.reg >= 8)
            rex |= 0x41;
        if ((size == 1 || opcode & BT_OPC_RM8) && x.reg >= 4)
            rex |= 0x40; /* SPL..DIL and not AH..BH */
    }
    if (size == 1 && reg >= 4)
        rex |= 0x40;
    return (uint8_t)rex;
}

void bt_emit_ins(struct bt_emit *e, unsigned size, uint32_t opcode, int reg, struct bt_x x)
{
    uint8_t rex = emit_rex(size, opcode, reg, x);

    if (x.mem && x.gs)
        bt_emit_u8(e, 0x65);
    if (opcode & BT_OPC_LOCK)
        bt_emit_u8(e, 0xf0);
    if (opcode & BT_OPC_F3)
        bt_emit_u8(e, 0xf3);
    if (opcode & BT_OPC_F2)
        bt_emit_u8(e, 0xf2);
    if (size == 2)
        bt_emit_u8(e, 0x66);
    if (rex)
        bt_emit_u8(e, rex);
    if (opcode & 0xff0000)
        bt_emit_u8(e, (uint8_t)(opcode >> 16));
    if (opcode & 0xffff00)
        bt_emit_u8(e, (uint8_t)(opcode >> 8));
    bt_emit_u8(e, (uint8_t)opcode);
    bt_emit_modrm(e, reg, x);
}

void bt_emit_vex(struct bt_emit *e, unsigned size, unsigned map, unsigned pp, uint8_t opcode, int reg, int vvvv,
                 struct bt_x x)
{
    unsigned b1 = 0xe0 | map, b2 = pp | (~(unsigned)vvvv & 15) << 3 | (size == 8 ? 0x80U : 0);

    if (reg >= 8)
        b1 &= ~0x80U;
    if (x.mem && x.index >= 8)
        b1 &= ~0x40U;
    if (x.mem ? x.base >= 8 : x.reg >= 8)
        b1 &= ~0x20U;
    if (x.mem && x.gs)
        bt_emit_u8(e, 0x65);
    bt_emit_u8(e, 0xc4);
    bt_emit_u8(e, (uint8_t)b1);
    bt_emit_u8(e, (uint8_t)b2);
    bt_emit_u8(e, opcode);
    bt_emit_modrm(e, reg, x);
}

void bt_emit_const(struct bt_emit *e, int reg, uint64_t v)
{
    if (v <= UINT32_MAX) {
        if (reg >= 8)
            bt_emit_u8(e, 0x41);
        bt_emit_u8(e, (uint8_t)(0xb8 | (reg & 7)));
        bt_emit_u32(e, (uint32_t)v);
    } else if (v == (uint64_t)(int64_t)(int32_t)v) {
        bt_emit_ins(e, 8, 0xc7, 0, bt_x_reg(reg));
        bt_emit_u32(e, (uint32_t)v);
    } else {
        bt_emit_u8(e, reg >= 8 ? 0x49 : 0x48);
        bt_emit_u8(e, (uint8_t)(0xb8 | (reg & 7)));
        bt_emit_u64(e, v);
    }
}

uint32_t bt_emit_jump(struct bt_emit *e, int cc)
{
    if (cc == BT_JMP) {
        bt_emit_u8(e, 0xe9);
    } else if (cc == BT_CALL) {
        bt_emit_u8(e, 0xe8);
    } else {
        bt_emit_u8(e, 0x0f);
        bt_emit_u8(e, (uint8_t)(0x80 | cc));
    }
    bt_emit_u32(e, 0);
    return e->pos - 4;
}

static bool emit_is_aligned(const struct bt_emit *e, uint32_t at)
{
    return ((uintptr_t)e->buf + at) % 8 <= 4;
}

uint32_t bt_emit_jump_aligned(struct bt_emit *e, int cc)
{
    static const uint8_t nops[] = { 0x0f, 0x1f, 0x00 };
    uint32_t opcode = cc >= 0 ? 2 : 1, n = 0;

    while (!emit_is_aligned(e, e->pos + n + opcode))
        n++;
    if (n == 3)
        emit_bytes(e, nops, 3);
    else if (n == 2)
        bt_emit_u16(e, 0x9066);
    else if (n == 1)
        bt_emit_u8(e, 0x90);
    return bt_emit_jump(e, cc);
}

bool bt_emit_retarget(struct bt_emit *e, uint32_t at, uint32_t to)
{
    uint32_t rel = to - (at + 4);

    if (!emit_is_aligned(e, at))
        return false;
    /* Not an atomic object of C: it has no alignment of its own, but the CPU writes it in one piece. */
    __asm__ volatile("movl %1, %0" : "=m"(*(uint8_t(*)[4])(e->buf + at)) : "r"(rel));
    return true;
}

void bt_emit_target(struct bt_emit *e, uint32_t at, uint32_t to)
{
    uint32_t rel = to - (at + 4);

    if (!e->full)
        memcpy(e->buf + at, &rel, sizeof(rel));
}

void bt_emit_jump_to(struct bt_emit *e, int cc, uint32_t to)
{
    bt_emit_target(e, bt_emit_jump(e, cc), to);
}
