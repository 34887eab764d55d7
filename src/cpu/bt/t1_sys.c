/* Native code for the few system instructions that kernels execute all the time. The contract is t1_ops.h's. */
#include "cpu/bt/sys_priv.h"
#include "cpu/bt/t1_ops.h"

/* Leaves to the handler unless CPL is 0. */
static void sys_cpl0(struct t1 *s)
{
    t1_fl_clobber(s);
    bt_emit_ins(&s->e, 1, 0x80, 7, t1_state(T1_OFF(cpl)));
    bt_emit_u8(&s->e, 0);
    t1_slow_jump(s, 5);
}

static void sys_rflags(struct t1 *s, uint32_t clear, uint32_t set)
{
    bt_emit_ins(&s->e, 4, 0x81, clear ? 4 : 1, t1_state(T1_OFF(rflags)));
    bt_emit_u32(&s->e, clear ? ~clear : set);
}

bool t1_op_cli(struct t1 *s, const struct t1_desc *d)
{
    sys_cpl0(s);
    sys_rflags(s, BT_IF, 0);
    return true;
}

/* No interrupt may come before the next instruction has run. Nothing is pending, and what comes later is noticed at the
 * next look at c->events only; so the next instruction must follow without one. */
bool t1_op_sti(struct t1 *s, const struct t1_desc *d)
{
    const struct t1_node *next = &s->nodes[s->i_node + 1];

    if (s->i_node + 1 >= s->n_nodes || next->rip != s->rip + s->op->len || next->loop)
        return false;
    sys_cpl0(s);
    bt_emit_ins(&s->e, 4, 0x83, 7, t1_state(T1_OFF(events)));
    bt_emit_u8(&s->e, 0);
    t1_slow_jump(s, 5);
    sys_rflags(s, 0, BT_IF);
    return true;
}

/* STAC (sub 0) and CLAC: the code behind belongs to another context. */
bool t1_op_ac(struct t1 *s, const struct t1_desc *d)
{
    sys_cpl0(s);
    bt_emit_ins(&s->e, 4, 0xf7, 0, t1_state(T1_OFF(cr4)));
    bt_emit_u32(&s->e, BT_CR4_SMAP);
    t1_slow_jump(s, 4);
    sys_rflags(s, d->sub ? BT_AC : 0, BT_AC);
    bt_emit_ins(&s->e, 1, 0xc6, 0, t1_state(T1_OFF(ctx)));
    bt_emit_u8(&s->e, d->sub ? BT_CTX_KERNEL : BT_CTX_KERNEL_AC);
    t1_exit_to(s, s->rip + s->op->len);
    s->done = true;
    return true;
}

bool t1_op_pushf(struct t1 *s, const struct t1_desc *d)
{
    struct bt_emit *e = &s->e;

    if (s->op->osize != 8 || !(s->op->flags & BT_OPF_STACK64))
        return false;
    t1_fl_clobber(s);
    bt_emit_ins(e, 4, 0x8b, T1_T, t1_state(T1_OFF(rflags)));
    bt_emit_ins(e, 4, 0x81, 4, bt_x_reg(T1_T));
    bt_emit_u32(e, ~(uint32_t)(0x8ff | BT_RF | BT_VM));
    bt_emit_ins(e, 4, 0x89, T1_A, bt_x_reg(T1_P));
    bt_emit_ins(e, 4, 0xc1, 5, bt_x_reg(T1_P)); /* shr r11d, 8 */
    bt_emit_u8(e, 8);
    bt_emit_ins(e, 4, 0x0fb6 | BT_OPC_RM8, T1_P, bt_x_reg(T1_P));
    bt_emit_ins(e, 4, 0x09, T1_P, bt_x_reg(T1_T));
    bt_emit_ins(e, 4, 0x0fb6 | BT_OPC_RM8, T1_P, bt_x_reg(T1_A));
    bt_emit_ins(e, 4, 0xc1, 4, bt_x_reg(T1_P)); /* shl r11d, 11 */
    bt_emit_u8(e, 11);
    bt_emit_ins(e, 4, 0x09, T1_P, bt_x_reg(T1_T));
    t1_stack(s, t1_host[BT_RSP], -8, true);
    bt_emit_ins(e, 8, 0x89, T1_T, s->x);
    bt_emit_ins(e, 8, 0x8d, t1_host[BT_RSP], bt_x_mem(t1_host[BT_RSP], -8));
    t1_note_store(s, 8);
    return true;
}
