/* The fixed parts of translated code: the register assignment, the way in and out, calls of handlers, and the
 * out-of-line halves of checks that all translations share. Ordinary code; emitted once, when the code memory is made.
 */
#include "cpu/bt/fp.h"
#include "cpu/bt/int_priv.h"
#include "cpu/bt/t1_priv.h"

const int8_t t1_host[16] = {
    [BT_RAX] = 9, [BT_RCX] = 1, [BT_RDX] = 2,  [BT_RBX] = 3,  [BT_RSP] = 14, [BT_RBP] = 5,  [BT_RSI] = 6,  [BT_RDI] = 7,
    [BT_R8] = 8,  [BT_R9] = 12, [BT_R10] = 13, [BT_R11] = -1, [BT_R12] = -1, [BT_R13] = -1, [BT_R14] = -1, [BT_R15] = -1
};

/* Guest registers to and from memory. */
static void fixed_regs(struct bt_emit *e, bool save)
{
    for (int i = 0; i < 16; i++) {
        if (t1_host[i] >= 0)
            bt_emit_ins(e, 8, save ? 0x89 : 0x8b, t1_host[i], t1_state(T1_OFF(r) + 8 * i));
    }
}

/* lea rsp, [rsp + n] */
static void fixed_rsp(struct bt_emit *e, int n)
{
    bt_emit_ins(e, 8, 0x8d, T1_HSP, bt_x_mem(T1_HSP, n));
}

/* The flags' image between rax and c->t1_flags. */
static void fixed_image(struct bt_emit *e, bool save)
{
    if (save)
        bt_emit_ins(e, 2, 0x89, T1_A, t1_state(T1_OFF(t1_flags)));
    else
        bt_emit_ins(e, 4, 0x0fb7, T1_A, t1_state(T1_OFF(t1_flags)));
}

static void fixed_call(struct bt_emit *e, const void *fn)
{
    fixed_rsp(e, -8);
    bt_emit_const(e, T1_A, (uint64_t)(uintptr_t)fn);
    bt_emit_ins(e, 8, 0xff | BT_OPC_NOREXW, 2, bt_x_reg(T1_A));
    fixed_rsp(e, 8);
}

/* C: enter(rsi = code), with the base of GS set. Keeps all that the ABI wants kept, rsp is a multiple of 16 then. */
static void fixed_enter(struct bt_t1 *t, struct bt_emit *e)
{
    static const uint8_t saved[] = { 3, 5, 12, 13, 14, 15 };
    uint32_t to_rip;

    t->enter = e->pos;
    for (unsigned i = 0; i < ARRAY_SIZE(saved); i++) {
        if (saved[i] >= 8)
            bt_emit_u8(e, 0x41);
        bt_emit_u8(e, (uint8_t)(0x50 | (saved[i] & 7)));
    }
    fixed_rsp(e, -8);
    bt_emit_ins(e, 8, 0x89, 6, bt_x_reg(T1_P));
    fixed_image(e, false);
    fixed_regs(e, false);
    bt_emit_ins(e, 8, 0xff | BT_OPC_NOREXW, 4, bt_x_reg(T1_P));
    /* r10: struct bt_trans whose head found another page id. */
    t->leave_stale = e->pos;
    bt_emit_ins(e, 8, 0x89, T1_I, t1_state(T1_OFF(t1_stale)));
    bt_emit_ins(e, 8, 0x8b, T1_P, bt_x_mem(T1_I, (int32_t)offsetof(struct bt_trans, rip)));
    to_rip = bt_emit_jump(e, BT_JMP);
    /* r10: for c->t1_link; r11: rip. */
    t->leave_link = e->pos;
    bt_emit_ins(e, 4, 0x89, T1_I, t1_state(T1_OFF(t1_link)));
    bt_emit_target(e, to_rip, e->pos);
    t->leave_rip = e->pos; /* r11: rip */
    bt_emit_ins(e, 8, 0x89, T1_P, t1_state(T1_OFF(r[BT_RIP])));
    t->leave = e->pos;
    fixed_image(e, true);
    fixed_regs(e, true);
    t->leave_saved = e->pos;
    fixed_rsp(e, 8);
    for (unsigned i = ARRAY_SIZE(saved); i-- > 0;) {
        if (saved[i] >= 8)
            bt_emit_u8(e, 0x41);
        bt_emit_u8(e, (uint8_t)(0x58 | (saved[i] & 7)));
    }
    bt_emit_u8(e, 0xc3);
}

/* The image in rax into c->rflags; uses rcx and rdx. */
static void fixed_merge(struct bt_emit *e)
{
    bt_emit_ins(e, 4, 0x0fb7, 1, bt_x_reg(T1_A));
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

/* The reverse; uses rcx. */
static void fixed_split(struct bt_emit *e)
{
    bt_emit_ins(e, 4, 0x8b, 1, t1_state(T1_OFF(rflags)));
    bt_emit_ins(e, 4, 0x89, 1, bt_x_reg(0));
    bt_emit_ins(e, 4, 0xc1, 4, bt_x_reg(0)); /* shl eax, 8 */
    bt_emit_u8(e, 8);
    bt_emit_ins(e, 4, 0xc1, 5, bt_x_reg(1)); /* shr ecx, 11 */
    bt_emit_u8(e, 11);
    bt_emit_ins(e, 4, 0x83, 4, bt_x_reg(1)); /* and ecx, 1 */
    bt_emit_u8(e, 1);
    bt_emit_ins(e, 4, 0x09, 1, bt_x_reg(0));
}

/* Called with r10 = rip, r11 = operation: runs its handler. Comes back only if the block may go on. */
static void fixed_callout(struct bt_t1 *t, struct bt_emit *e, unsigned ctx)
{
    uint32_t ended, stop[2], left;

    t->callout[ctx] = e->pos;
    fixed_regs(e, true);
    bt_emit_ins(e, 8, 0x89, T1_I, t1_state(T1_OFF(r[BT_RIP])));
    bt_emit_ins(e, 8, 0xff, 0, t1_state(T1_OFF(stat[BT_STAT_T1_SLOW])));
    fixed_merge(e);
    bt_emit_ins(e, 8, 0x89, T1_P, bt_x_reg(3)); /* rbx keeps the operation */
    bt_emit_ins(e, 8, 0x8b, 7, t1_state(T1_OFF(self)));
    bt_emit_ins(e, 8, 0x89, T1_P, bt_x_reg(6));
    fixed_rsp(e, -8);
    bt_emit_ins(e, 8, 0xff | BT_OPC_NOREXW, 2, bt_x_mem(T1_P, (int32_t)offsetof(struct bt_op, fn)));
    fixed_rsp(e, 8);
    bt_emit_ins(e, 4, 0x85, 0, bt_x_reg(0));
    ended = bt_emit_jump(e, 5);
    bt_emit_ins(e, 8, 0x83, 7, t1_state(T1_OFF(op_end)));
    bt_emit_u8(e, 0);
    stop[0] = bt_emit_jump(e, 4);
    bt_emit_ins(e, 1, 0x80, 7, t1_state(T1_OFF(ctx)));
    bt_emit_u8(e, (uint8_t)ctx);
    stop[1] = bt_emit_jump(e, 5);
    fixed_split(e);
    fixed_regs(e, false);
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
    bt_emit_jump_to(e, BT_JMP, t->resume);
}

static uint32_t fixed_unless_zero(struct bt_emit *e, unsigned size, int32_t off)
{
    bt_emit_ins(e, size, size == 1 ? 0x80 : 0x83, 7, t1_state(off));
    bt_emit_u8(e, 0);
    return bt_emit_jump(e, 5);
}

/* Behind a handler that ended its block, with all state in memory: to the translation of the present rip if the branch
 * cache has one and the run loop has nothing to do, else to the run loop. */
static void fixed_resume(struct bt_t1 *t, struct bt_emit *e)
{
    uint32_t out[7];

    _Static_assert(BT_JC_SIZE == 1U << 14 && sizeof(struct bt_jce) == 1U << 4, "the shifts below");
    t->resume = e->pos;
    out[0] = fixed_unless_zero(e, 4, T1_OFF(events));
    out[1] = fixed_unless_zero(e, 1, T1_OFF(shadow));
    out[2] = fixed_unless_zero(e, 1, T1_OFF(halted));
    bt_emit_ins(e, 1, 0x80, 7, t1_state(T1_OFF(mode)));
    bt_emit_u8(e, BT_MODE_64);
    out[3] = bt_emit_jump(e, 5);
    bt_emit_ins(e, 8, 0x83, 7, t1_state(T1_OFF(op_end)));
    bt_emit_u8(e, 0);
    out[4] = bt_emit_jump(e, 4);
    bt_emit_ins(e, 4, 0xf7, 0, t1_state(T1_OFF(rflags)));
    bt_emit_u32(e, BT_RF);
    out[5] = bt_emit_jump(e, 5);
    bt_emit_ins(e, 8, 0x8b, T1_P, t1_state(T1_OFF(r[BT_RIP])));
    bt_emit_ins(e, 4, 0x0fb6, 1, t1_state(T1_OFF(ctx)));
    bt_emit_ins(e, 4, 0xc1, 4, bt_x_reg(1)); /* shl ecx, 14 */
    bt_emit_u8(e, 14);
    bt_emit_ins(e, 4, 0x89, T1_P, bt_x_reg(2));
    bt_emit_ins(e, 4, 0x81, 4, bt_x_reg(2));
    bt_emit_u32(e, BT_JC_SIZE - 1);
    bt_emit_ins(e, 4, 0x01, 2, bt_x_reg(1));
    bt_emit_ins(e, 4, 0xc1, 4, bt_x_reg(1)); /* shl ecx, 4 */
    bt_emit_u8(e, 4);
    bt_emit_ins(e, 8, 0x3b, T1_P, bt_x_gs(1, T1_OFF(jc) + (int32_t)offsetof(struct bt_jce, rip)));
    out[6] = bt_emit_jump(e, 5);
    bt_emit_ins(e, 8, 0x8b, T1_P, bt_x_gs(1, T1_OFF(jc) + (int32_t)offsetof(struct bt_jce, code)));
    fixed_split(e);
    fixed_rsp(e, 8);
    fixed_regs(e, false);
    bt_emit_ins(e, 8, 0xff | BT_OPC_NOREXW, 4, bt_x_reg(T1_P));
    for (unsigned i = 0; i < ARRAY_SIZE(out); i++)
        bt_emit_target(e, out[i], e->pos);
    fixed_split(e);
    fixed_image(e, true);
    fixed_rsp(e, 8);
    bt_emit_jump_to(e, BT_JMP, t->leave_saved);
}

/* Called with r10 = rip where c->events is not 0: comes back where only interrupts are waiting and the guest has them
 * disabled. */
static void fixed_event(struct bt_t1 *t, struct bt_emit *e)
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
    fixed_rsp(e, 8);
    bt_emit_ins(e, 8, 0x89, T1_I, t1_state(T1_OFF(r[BT_RIP])));
    bt_emit_jump_to(e, BT_JMP, t->leave);
}

/* Called with r11 = host pointer, r10 = size after a store to a page with code or while there is a dirty log. Leaves to
 * r15 if the store changed code that was decoded. */
static void fixed_note(struct bt_t1 *t, struct bt_emit *e)
{
    uint32_t left;

    t->note = e->pos;
    fixed_image(e, true);
    fixed_regs(e, true);
    bt_emit_ins(e, 8, 0x8b, 7, t1_state(T1_OFF(self)));
    bt_emit_ins(e, 8, 0x89, T1_P, bt_x_reg(6));
    bt_emit_ins(e, 4, 0x89, T1_I, bt_x_reg(2));
    fixed_call(e, (const void *)(uintptr_t)bt_note_write_host);
    fixed_regs(e, false);
    fixed_image(e, false);
    bt_emit_ins(e, 8, 0x83, 7, t1_state(T1_OFF(op_end)));
    bt_emit_u8(e, 0);
    left = bt_emit_jump(e, 4);
    bt_emit_u8(e, 0xc3);
    bt_emit_target(e, left, e->pos);
    fixed_rsp(e, 8);
    bt_emit_ins(e, 8, 0x89, T1_T, bt_x_reg(T1_P));
    bt_emit_jump_to(e, BT_JMP, t->leave_rip);
}

/* Called with r10 = BT_FP_READY_*: make the vector state live. r10 becomes 0 where the guest may not use it. */
static void fixed_fp(struct bt_t1 *t, struct bt_emit *e)
{
    t->fp = e->pos;
    fixed_image(e, true);
    fixed_regs(e, true);
    bt_emit_ins(e, 8, 0x8b, 7, t1_state(T1_OFF(self)));
    bt_emit_ins(e, 4, 0x89, T1_I, bt_x_reg(6));
    fixed_call(e, (const void *)(uintptr_t)bt_fp_enter);
    bt_emit_ins(e, 4, 0x0fb6 | BT_OPC_RM8, T1_I, bt_x_reg(T1_A));
    fixed_regs(e, false);
    fixed_image(e, false);
    bt_emit_u8(e, 0xc3);
}

uint32_t bt_t1_fixed(struct bt_t1 *t)
{
    struct bt_emit e = { .buf = t->rw, .end = T1_RESERVE };

    fixed_enter(t, &e);
    fixed_resume(t, &e);
    for (unsigned ctx = 0; ctx < BT_CTX_FETCH; ctx++)
        fixed_callout(t, &e, ctx);
    fixed_event(t, &e);
    fixed_note(t, &e);
    fixed_fp(t, &e);
    return (e.pos + 63) & ~63U;
}
