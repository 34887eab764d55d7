/* Native code for the stack and for control flow. The contract is t1_ops.h's.
 *
 * Direct jumps are chained (t1_gen.c, bt_t1_connect). Indirect ones look their target up in the branch cache of the
 * context before the instruction changes anything; a miss is the interpreter's, and the run loop fills the cache. The
 * entrance of a translation checks the mapping of its page, so the cache needs no flush when mappings change. */
#include "cpu/bt/int_priv.h"
#include "cpu/bt/t1_ops.h"

static bool t1_canonical(uint64_t a)
{
    return (uint64_t)((int64_t)(a << 16) >> 16) == a;
}

/* r15: target. Leaves to the handler unless the branch cache has it; returns where the cache has the code's address. */
static struct bt_x t1_lookup(struct t1 *s)
{
    int32_t at = T1_OFF(jc) + (int32_t)(s->ctx * sizeof(s->c->jc[0]));
    struct bt_emit *e = &s->e;

    _Static_assert(sizeof(struct bt_jce) == 16, "the shift below");
    t1_fl_clobber(s);
    s->r10_group = -1;
    bt_emit_ins(e, 4, 0x89, T1_T, bt_x_reg(T1_I));
    bt_emit_ins(e, 4, 0x81, 4, bt_x_reg(T1_I));
    bt_emit_u32(e, BT_JC_SIZE - 1);
    bt_emit_ins(e, 4, 0xc1, 4, bt_x_reg(T1_I));
    bt_emit_u8(e, 4);
    bt_emit_ins(e, 8, 0x3b, T1_T, bt_x_gs(T1_I, at + (int32_t)offsetof(struct bt_jce, rip)));
    t1_slow_jump(s, 5);
    return bt_x_gs(T1_I, at + (int32_t)offsetof(struct bt_jce, code));
}

static void t1_rsp_add(struct t1 *s, int32_t n)
{
    bt_emit_ins(&s->e, 8, 0x8d, t1_host[BT_RSP], bt_x_mem(t1_host[BT_RSP], n));
}

/* Store v at the stack slot that r11 points to, in one piece. */
static void t1_store_const(struct t1 *s, uint64_t v)
{
    if (v == (uint64_t)(int64_t)(int32_t)v) {
        bt_emit_ins(&s->e, 8, 0xc7, 0, s->x);
        bt_emit_u32(&s->e, (uint32_t)v);
    } else {
        bt_emit_const(&s->e, T1_T, v);
        bt_emit_ins(&s->e, 8, 0x89, T1_T, s->x);
    }
}

bool t1_op_jcc(struct t1 *s, const struct t1_desc *d)
{
    uint64_t target = s->rip + s->op->aux, next = s->rip + s->op->len;
    const struct t1_node *fall = bt_t1_node_at(s, next);

    if (!t1_canonical(target))
        return false;
    t1_fl_host(s);
    t1_goto(s, d->sub, target);
    if (fall && fall == &s->nodes[s->i_node + 1])
        return true; /* falls into it */
    t1_goto(s, BT_JMP, next);
    s->done = true;
    return true;
}

/* The target of an indirect branch to r15. */
static bool t1_target(struct t1 *s, const struct t1_desc *d)
{
    if (d->kind == BT_BR_M) {
        if (!t1_mem(s, 8, false))
            return false;
        bt_emit_ins(&s->e, 8, 0x8b, T1_T, s->x);
        return true;
    }
    bt_emit_ins(&s->e, 8, 0x8b, T1_T, t1_guest(s->op->src));
    return true;
}

bool t1_op_jmp(struct t1 *s, const struct t1_desc *d)
{
    uint64_t target = s->rip + s->op->aux;

    if (d->kind == BT_BR_REL) {
        if (!t1_canonical(target))
            return false;
        t1_goto(s, BT_JMP, target);
    } else {
        if (!t1_target(s, d))
            return false;
        bt_emit_ins(&s->e, 8, 0xff | BT_OPC_NOREXW, 4, t1_lookup(s));
    }
    s->done = true;
    return true;
}

bool t1_op_call(struct t1 *s, const struct t1_desc *d)
{
    uint64_t target = s->rip + s->op->aux;
    bool direct = d->kind == BT_BR_REL;
    struct bt_x code;

    if (direct ? !t1_canonical(target) : !t1_target(s, d))
        return false;
    if (!direct) {
        code = t1_lookup(s);
        bt_emit_ins(&s->e, 8, 0x89, T1_T, t1_state(T1_OFF(t1_target[0])));
        bt_emit_ins(&s->e, 8, 0x8b, T1_T, code);
        bt_emit_ins(&s->e, 8, 0x89, T1_T, t1_state(T1_OFF(t1_target[1])));
    }
    t1_stack(s, t1_host[BT_RSP], -8, true);
    t1_store_const(s, s->rip + s->op->len);
    t1_rsp_add(s, -8);
    t1_note_store(s, 8);
    if (s->n_notes > 0) {
        s->notes[s->n_notes - 1].next_rip = target;
        s->notes[s->n_notes - 1].dynamic = !direct;
    }
    if (direct)
        t1_exit_to(s, target);
    else
        bt_emit_ins(&s->e, 8, 0xff | BT_OPC_NOREXW, 4, t1_state(T1_OFF(t1_target[1])));
    s->done = true;
    return true;
}

bool t1_op_ret(struct t1 *s, const struct t1_desc *d)
{
    struct bt_x code;

    t1_stack(s, t1_host[BT_RSP], 0, false);
    bt_emit_ins(&s->e, 8, 0x8b, T1_T, s->x);
    code = t1_lookup(s);
    t1_rsp_add(s, 8 + (int32_t)s->op->imm);
    bt_emit_ins(&s->e, 8, 0xff | BT_OPC_NOREXW, 4, code);
    s->done = true;
    return true;
}

bool t1_op_push(struct t1 *s, const struct t1_desc *d)
{
    int reg = T1_T;

    if (d->kind == BT_BR_M) {
        if (!t1_mem(s, 8, false))
            return false;
        bt_emit_ins(&s->e, 8, 0x8b, T1_T, s->x);
    }
    t1_stack(s, t1_host[BT_RSP], -8, true);
    if (d->kind == BT_BR_REL) {
        t1_store_const(s, s->op->imm);
    } else {
        if (d->kind != BT_BR_M)
            reg = t1_src(s, s->op->src, T1_T);
        bt_emit_ins(&s->e, 8, 0x89, reg, s->x);
    }
    t1_rsp_add(s, -8);
    t1_note_store(s, 8);
    return true;
}

bool t1_op_pop(struct t1 *s, const struct t1_desc *d)
{
    int reg = t1_dst(s->op->dst, T1_T);

    t1_stack(s, t1_host[BT_RSP], 0, false);
    bt_emit_ins(&s->e, 8, 0x8b, reg, s->x);
    if (s->op->dst != BT_RSP * 8) /* POP RSP: the value wins */
        t1_rsp_add(s, 8);
    t1_dst_done(s, s->op->dst, reg);
    return true;
}

bool t1_op_leave(struct t1 *s, const struct t1_desc *d)
{
    if (s->op->osize != 8)
        return false;
    t1_stack(s, t1_host[BT_RBP], 0, false);
    bt_emit_ins(&s->e, 8, 0x8d, t1_host[BT_RSP], bt_x_mem(t1_host[BT_RBP], 8));
    bt_emit_ins(&s->e, 8, 0x8b, t1_host[BT_RBP], s->x);
    return true;
}
