/* The fixed parts of translated code: the register assignment, the way in and out, calls of handlers, and the
 * out-of-line halves of checks that all translations share. Ordinary code; emitted once, when the code memory is made.
 */
#include "cpu/bt/int_priv.h"
#include "cpu/bt/t1_priv.h"

const int8_t t1_host[16] = {
    [BT_RAX] = 9, [BT_RCX] = 1, [BT_RDX] = 2,  [BT_RBX] = 3,  [BT_RSP] = 14, [BT_RBP] = 5,  [BT_RSI] = 6,  [BT_RDI] = 7,
    [BT_R8] = 8,  [BT_R9] = -1, [BT_R10] = -1, [BT_R11] = -1, [BT_R12] = 12, [BT_R13] = 13, [BT_R14] = -1, [BT_R15] = -1
};

struct bt_x t1_state(int32_t off)
{
    return bt_x_mem(T1_C, off);
}

/* Guest registers to and from memory. */
static void t1_fixed_regs(struct bt_emit *e, bool save)
{
    for (int i = 0; i < 16; i++) {
        if (t1_host[i] >= 0)
            bt_emit_ins(e, 8, save ? 0x89 : 0x8b, t1_host[i], t1_state(T1_OFF(r) + 8 * i));
    }
}

/* lea rsp, [rsp + n] */
static void t1_fixed_rsp(struct bt_emit *e, int n)
{
    bt_emit_ins(e, 8, 0x8d, T1_HSP, bt_x_mem(T1_HSP, n));
}

/* C: enter(rdi = vCPU, rsi = code). Keeps all that the ABI wants kept, rsp is a multiple of 16 then. */
static void t1_fixed_enter(struct bt_t1 *t, struct bt_emit *e)
{
    static const uint8_t saved[] = { 3, 5, 12, 13, 14, 15 };

    t->enter = e->pos;
    for (unsigned i = 0; i < ARRAY_SIZE(saved); i++) {
        if (saved[i] >= 8)
            bt_emit_u8(e, 0x41);
        bt_emit_u8(e, (uint8_t)(0x50 | (saved[i] & 7)));
    }
    t1_fixed_rsp(e, -8);
    bt_emit_ins(e, 8, 0x89, 7, bt_x_reg(T1_C));
    bt_emit_ins(e, 8, 0x89, 6, bt_x_reg(T1_A));
    t1_fixed_regs(e, false);
    bt_emit_ins(e, 8, 0xff | BT_OPC_NOREXW, 4, bt_x_reg(T1_A));
    t->leave = e->pos;
    t1_fixed_regs(e, true);
    t1_fixed_rsp(e, 8);
    for (unsigned i = ARRAY_SIZE(saved); i-- > 0;) {
        if (saved[i] >= 8)
            bt_emit_u8(e, 0x41);
        bt_emit_u8(e, (uint8_t)(0x58 | (saved[i] & 7)));
    }
    bt_emit_u8(e, 0xc3);
}

/* c->t1_flags into c->rflags; uses rax, rcx, rdx. */
static void t1_fixed_merge(struct bt_emit *e)
{
    bt_emit_ins(e, 4, 0x0fb7, 1, t1_state(T1_OFF(t1_flags)));
    bt_emit_ins(e, 8, 0x8b, 0, t1_state(T1_OFF(rflags)));
    bt_emit_ins(e, 8, 0x81, 4, bt_x_reg(0));
    bt_emit_u32(e, (uint32_t)~0x8ffU);
    bt_emit_ins(e, 4, 0x89, 1, bt_x_reg(2));
    bt_emit_ins(e, 4, 0xc1, 5, bt_x_reg(2)); /* shr edx, 8 */
    bt_emit_u8(e, 8);
    bt_emit_ins(e, 8, 0x09, 2, bt_x_reg(0));
    bt_emit_ins(e, 4, 0x0fb6 | BT_OPC_RM8, 1, bt_x_reg(1));
    bt_emit_ins(e, 4, 0xc1, 4, bt_x_reg(1)); /* shl ecx, 11 */
    bt_emit_u8(e, 11);
    bt_emit_ins(e, 8, 0x09, 1, bt_x_reg(0));
    bt_emit_ins(e, 8, 0x89, 0, t1_state(T1_OFF(rflags)));
}

/* The reverse; uses rax and rcx. */
static void t1_fixed_split(struct bt_emit *e)
{
    bt_emit_ins(e, 4, 0x8b, 0, t1_state(T1_OFF(rflags)));
    bt_emit_ins(e, 4, 0x89, 0, bt_x_reg(1));
    bt_emit_ins(e, 4, 0xc1, 4, bt_x_reg(1)); /* shl ecx, 8 */
    bt_emit_u8(e, 8);
    bt_emit_ins(e, 4, 0xc1, 5, bt_x_reg(0)); /* shr eax, 11 */
    bt_emit_u8(e, 11);
    bt_emit_ins(e, 4, 0x83, 4, bt_x_reg(0)); /* and eax, 1 */
    bt_emit_u8(e, 1);
    bt_emit_ins(e, 4, 0x09, 1, bt_x_reg(0));
    bt_emit_ins(e, 2, 0x89, 0, t1_state(T1_OFF(t1_flags)));
}

/* Called with rax = rip, r11 = operation: runs its handler. Comes back only if the block may go on. */
static void t1_fixed_callout(struct bt_t1 *t, struct bt_emit *e, unsigned ctx)
{
    uint32_t ended, stop[2], left;

    t->callout[ctx] = e->pos;
    t1_fixed_regs(e, true);
    bt_emit_ins(e, 8, 0x89, T1_A, t1_state(T1_OFF(r[BT_RIP])));
    bt_emit_ins(e, 8, 0xff, 0, t1_state(T1_OFF(stat[BT_STAT_T1_SLOW])));
    t1_fixed_merge(e);
    bt_emit_ins(e, 8, 0x89, T1_P, bt_x_reg(3)); /* rbx keeps the operation */
    bt_emit_ins(e, 8, 0x89, T1_C, bt_x_reg(7));
    bt_emit_ins(e, 8, 0x89, T1_P, bt_x_reg(6));
    t1_fixed_rsp(e, -8);
    bt_emit_ins(e, 8, 0xff | BT_OPC_NOREXW, 2, bt_x_mem(T1_P, (int32_t)offsetof(struct bt_op, fn)));
    t1_fixed_rsp(e, 8);
    bt_emit_ins(e, 4, 0x85, 0, bt_x_reg(0));
    ended = bt_emit_jump(e, 5);
    bt_emit_ins(e, 8, 0x83, 7, t1_state(T1_OFF(op_end)));
    bt_emit_u8(e, 0);
    stop[0] = bt_emit_jump(e, 4);
    bt_emit_ins(e, 1, 0x80, 7, t1_state(T1_OFF(ctx)));
    bt_emit_u8(e, (uint8_t)ctx);
    stop[1] = bt_emit_jump(e, 5);
    t1_fixed_split(e);
    t1_fixed_regs(e, false);
    bt_emit_u8(e, 0xc3);
    bt_emit_target(e, ended, e->pos);
    bt_emit_ins(e, 4, 0x83, 7, bt_x_reg(0));
    bt_emit_u8(e, BT_END);
    left = bt_emit_jump(e, 5);
    bt_emit_target(e, stop[0], e->pos);
    bt_emit_target(e, stop[1], e->pos);
    bt_emit_ins(e, 4, 0x0fb6, 0, bt_x_mem(3, (int32_t)offsetof(struct bt_op, len)));
    bt_emit_ins(e, 8, 0x01, 0, t1_state(T1_OFF(r[BT_RIP])));
    bt_emit_target(e, left, e->pos);
    t1_fixed_split(e);
    t1_fixed_rsp(e, 8);
    t1_fixed_regs(e, false);
    bt_emit_jump_to(e, BT_JMP, t->leave);
}

/* Called with rax = rip at the head of a block where c->events is not 0: comes back where only interrupts are waiting
 * and the guest has them disabled. */
static void t1_fixed_event(struct bt_t1 *t, struct bt_emit *e)
{
    uint32_t out[2];

    t->event = e->pos;
    bt_emit_ins(e, 4, 0xf7, 0, t1_state(T1_OFF(events)));
    bt_emit_u32(e, ~(uint32_t)BT_EV_IRQ);
    out[0] = bt_emit_jump(e, 5);
    bt_emit_ins(e, 4, 0xf7, 0, t1_state(T1_OFF(rflags)));
    bt_emit_u32(e, BT_IF);
    out[1] = bt_emit_jump(e, 5);
    bt_emit_u8(e, 0xc3);
    bt_emit_target(e, out[0], e->pos);
    bt_emit_target(e, out[1], e->pos);
    t1_fixed_rsp(e, 8);
    bt_emit_ins(e, 8, 0x89, T1_A, t1_state(T1_OFF(r[BT_RIP])));
    bt_emit_jump_to(e, BT_JMP, t->leave);
}

/* Called with r10 = TLB entry, r11 = linear address, eax = size after a store to a page with code or a dirty log. */
static void t1_fixed_note(struct bt_t1 *t, struct bt_emit *e)
{
    t->note = e->pos;
    t1_fixed_regs(e, true);
    bt_emit_ins(e, 4, 0x89, T1_A, bt_x_reg(1));
    bt_emit_ins(e, 8, 0x89, T1_C, bt_x_reg(7));
    bt_emit_ins(e, 8, 0x89, T1_I, bt_x_reg(6));
    bt_emit_ins(e, 8, 0x89, T1_P, bt_x_reg(2));
    t1_fixed_rsp(e, -8);
    bt_emit_const(e, T1_A, (uint64_t)(uintptr_t)bt_note_write_slow);
    bt_emit_ins(e, 8, 0xff | BT_OPC_NOREXW, 2, bt_x_reg(T1_A));
    t1_fixed_rsp(e, 8);
    t1_fixed_regs(e, false);
    bt_emit_u8(e, 0xc3);
}

uint32_t bt_t1_fixed(struct bt_t1 *t)
{
    struct bt_emit e = { .buf = t->rw, .end = T1_RESERVE };

    t1_fixed_enter(t, &e);
    for (unsigned ctx = 0; ctx < BT_CTX_FETCH; ctx++)
        t1_fixed_callout(t, &e, ctx);
    t1_fixed_event(t, &e);
    t1_fixed_note(t, &e);
    return (e.pos + 63) & ~63U;
}
