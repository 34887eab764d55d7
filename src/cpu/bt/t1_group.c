/* Accesses that share one look-up in the soft TLB: those of one straight line of code through the same base register,
 * at constant offsets, as long as they lie in one page.
 *
 * The first access of a group looks up the page of all of them and keeps the distance from guest to host addresses in
 * c->t1_group[slot]; the others only add it. Constant changes of the base (PUSH, POP, ADD RSP) are followed. Where the
 * range crosses a page or misses, control goes to another translation, from that operation on, which looks up every
 * access ("plain"; it is made when it is wanted for the first time). A mapping cannot change under a group:
 * instructions that may change it leave translated code.
 *
 * Stores of a group are noted once, behind the last of them; a page that holds code at the beginning goes the plain
 * way. Whatever leaves the straight line before that (handlers, traps) notes first: t1_slow.pending. */
#include "cpu/bt/int_priv.h"
#include "cpu/bt/mmu.h"
#include "cpu/bt/t1_priv.h"

#define GROUP_RANGE 1024 /* bytes; the longer, the more often it crosses a page */

/* ---- analysis ---- */
struct group_access {
    unsigned base;
    int32_t disp;
    unsigned size;
    bool write;
};

/* What an operation does with memory by its class and kind: 0 nothing that can be grouped, 1 reads, 2 writes. */
static unsigned group_direction(const struct t1_desc *d)
{
    switch (d->class) {
    case T1_ALU:
        return d->kind == BT_K_RM || d->sub == BT_ALU_CMP ? 1 : 2;
    case T1_TEST:
        return 1;
    case T1_MOV:
        return d->kind == BT_K_RM ? 1 : 2;
    case T1_UNARY:
    case T1_SHIFT:
    case T1_SETCC:
    case T1_XCHG_M:
    case T1_XADD:
    case T1_CMPXCHG:
    case T1_CMPXCHG16B:
        return 2;
    case T1_BT:
        return d->kind == BT_K_MR || d->kind == BT_K_LMR ? 0 : d->sub == BT_BT_BT ? 1 : 2;
    case T1_MOVBE:
        return d->kind ? 2 : 1;
    case T1_FP:
        return d->kind == T1_FP_ST ? 2 : 1;
    case T1_MOVX:
    case T1_CMOV:
    case T1_MUL:
    case T1_DIV:
    case T1_IMUL2:
    case T1_IMUL3:
    case T1_SCAN:
    case T1_BMI:
    case T1_CRC32:
    case T1_PUSH:
    case T1_JMP:
    case T1_CALL:
        return 1;
    default:
        return 0;
    }
}

static bool group_mem(const struct bt_op *op, const struct t1_desc *d, struct group_access *ret)
{
    unsigned direction = group_direction(d);

    if (!direction || !(op->flags & BT_OPF_MEM) || !(op->flags & BT_OPF_LONG) || op->asize != 8 ||
        op->index != BT_ZERO || op->base >= BT_ZERO || op->seg == BT_FS || op->seg == BT_GS ||
        op->disp != (int32_t)op->disp || op->disp > INT32_MAX / 2 || op->disp < INT32_MIN / 2)
        return false;
    *ret = (struct group_access){ .base = op->base, .disp = (int32_t)op->disp, .write = direction == 2 };
    ret->size = d->class == T1_MOVX         ? d->from
                : d->class == T1_FP         ? op->msize
                : d->class == T1_CMPXCHG16B ? 16
                : d->size == 0              ? 8
                                            : d->size;
    return true;
}

/* Not where the operation has a memory operand too: its miss leads to the handler and behind the operation, past the
 * place where the group would begin. */
static bool group_stack(const struct bt_op *op, const struct t1_desc *d, struct group_access *ret)
{
    bool push = d->class == T1_PUSH || d->class == T1_CALL || d->class == T1_PUSHF;

    if ((!push && d->class != T1_POP && d->class != T1_RET) || op->flags & BT_OPF_MEM)
        return false;
    *ret = (struct group_access){ .base = BT_RSP, .disp = push ? -8 : 0, .size = 8, .write = push };
    return true;
}

#define GROUP_ALL 0xffffU

/* General registers that the operation may change, RSP by stack operations aside; bit n: register n. */
static unsigned group_changes(const struct bt_op *op, const struct t1_desc *d)
{
    unsigned dst = 1U << (op->dst / 8 & 15), src = 1U << (op->src / 8 & 15), ax_dx = 1U << BT_RAX | 1U << BT_RDX;

    switch (d->class) {
    case T1_NOP:
    case T1_TEST:
    case T1_JCC:
    case T1_JMP:
    case T1_CALL:
    case T1_RET:
    case T1_PUSH:
    case T1_PUSHF:
    case T1_FLAG:
    case T1_FENCE:
    case T1_CLI:
        return 0;
    case T1_ALU:
        return d->sub == BT_ALU_CMP || (d->kind != BT_K_RR && d->kind != BT_K_RI && d->kind != BT_K_RM) ? 0 : dst;
    case T1_MOV:
        return d->kind == BT_K_MR || d->kind == BT_K_MI ? 0 : dst;
    case T1_FP: /* string comparisons, which a handler does, may change RCX */
        return (d->kind == T1_FP_GEN || d->kind == T1_FP_GEN_LD) ? dst | 1U << BT_RCX : 0;
    case T1_UNARY:
        return d->kind == BT_U_R ? dst : 0;
    case T1_SHIFT:
        return d->kind == BT_S_RI || d->kind == BT_S_RC ? dst : 0;
    case T1_SETCC:
        return d->kind ? 0 : dst;
    case T1_BT:
        return d->sub == BT_BT_BT || (d->kind != BT_K_RR && d->kind != BT_K_RI) ? 0 : dst;
    case T1_MUL:
    case T1_DIV:
    case T1_CBW:
    case T1_CMPXCHG16B:
        return ax_dx;
    case T1_CMPXCHG:
        return 1U << BT_RAX | (d->kind == BT_U_R ? dst : 0);
    case T1_XCHG:
    case T1_XCHG_M:
    case T1_XADD:
        return dst | src;
    case T1_BMI:
        return dst | 1U << (op->x[0] / 8 & 15);
    case T1_MOVX:
    case T1_LEA:
    case T1_CMOV:
    case T1_IMUL2:
    case T1_IMUL3:
    case T1_SHIFTD:
    case T1_BSWAP:
    case T1_SCAN:
    case T1_CRC32:
    case T1_MOVBE:
    case T1_POP:
        return dst;
    case T1_LEAVE:
        return 1U << BT_RSP | 1U << BT_RBP;
    default:
        return GROUP_ALL; /* a handler: it may do anything */
    }
}

/* The register that the operation moves by a constant, -1: none; and by how much. */
static int group_step_of(const struct bt_op *op, const struct t1_desc *d, int32_t *ret_by)
{
    int reg = op->dst / 8;

    switch (d->class) {
    case T1_PUSH:
    case T1_PUSHF:
    case T1_CALL:
        *ret_by = -8;
        return BT_RSP;
    case T1_POP:
        *ret_by = 8;
        return reg == BT_RSP ? -1 : BT_RSP;
    case T1_ALU:
        if (d->kind != BT_K_RI || d->size != 8 || (d->sub != BT_ALU_ADD && d->sub != BT_ALU_SUB) ||
            (int64_t)op->imm != (int16_t)op->imm)
            return -1;
        *ret_by = d->sub == BT_ALU_ADD ? (int16_t)op->imm : -(int16_t)op->imm;
        return reg;
    case T1_LEA:
        if (d->size != 8 || op->base != reg || op->index != BT_ZERO || op->asize != 8 || op->disp != (int16_t)op->disp)
            return -1;
        *ret_by = (int16_t)op->disp;
        return reg;
    default:
        return -1;
    }
}

/* The analysis of one node. */
struct group_scan {
    struct t1 *s;
    int8_t open[16];   /* group by base register, -1: none */
    int32_t moved[16]; /* how far the base has moved since its group began */
};

static void group_join(struct group_scan *g, unsigned i, int8_t *ret_at, const struct group_access *a)
{
    struct t1 *s = g->s;
    struct t1_group *w = g->open[a->base] >= 0 ? &s->groups[g->open[a->base]] : NULL;
    int32_t lo = a->disp + (w ? g->moved[a->base] : 0), hi = lo + (int32_t)a->size;

    if (w && MAX(w->hi, hi) - MIN(w->lo, lo) > GROUP_RANGE) {
        w = NULL;
        lo = a->disp;
        hi = lo + (int32_t)a->size;
    }
    if (!w) {
        g->open[a->base] = -1;
        g->moved[a->base] = 0;
        if (s->n_groups == T1_GROUPS_MAX)
            return;
        g->open[a->base] = (int8_t)s->n_groups;
        w = &s->groups[s->n_groups++];
        *w = (struct t1_group){ .base = (uint8_t)a->base, .lo = lo, .hi = hi, .first = i, .slot = -1 };
    }
    w->lo = MIN(w->lo, lo);
    w->hi = MAX(w->hi, hi);
    w->last = i;
    w->count++;
    if (a->write) {
        w->write = true;
        w->last_store = i;
    }
    *ret_at = g->open[a->base];
    s->moved[i] = g->moved[a->base];
}

static void group_step(struct group_scan *g, unsigned i, const struct bt_op *op)
{
    const struct t1_desc *d = bt_t1_desc(g->s->t, op->fn);
    struct group_access a;
    unsigned changes;
    int32_t by;
    int reg;

    g->s->mem_group[i] = g->s->stack_group[i] = -1;
    changes = group_changes(op, d);
    /* A store that changes its own base could not say any more where it went. */
    if (group_mem(op, d, &a) && !(a.write && changes >> a.base & 1))
        group_join(g, i, &g->s->mem_group[i], &a);
    else if (group_stack(op, d, &a))
        group_join(g, i, &g->s->stack_group[i], &a);
    reg = group_step_of(op, d, &by);
    if (reg >= 0) {
        if (d->class != T1_POP)
            changes &= ~(1U << reg);
        g->moved[reg] += by;
    }
    for (unsigned r = 0; r < 16; r++) {
        if (changes >> r & 1)
            g->open[r] = -1;
    }
}

/* Slots for the groups that are worth one. */
static void group_slots(struct t1 *s)
{
    for (unsigned i = 0; i < s->n_groups; i++) {
        struct t1_group *w = &s->groups[i];
        unsigned taken = 0, slot = 0;

        for (unsigned k = 0; k < i; k++) {
            if (s->groups[k].slot >= 0 && s->groups[k].last >= w->first)
                taken |= 1U << s->groups[k].slot;
        }
        while (taken >> slot & 1)
            slot++;
        if (w->count >= 2 && slot < BT_T1_GROUPS)
            w->slot = (int8_t)slot;
    }
}

void bt_t1_groups(struct t1 *s, const struct t1_node *n)
{
    struct group_scan g = { .s = s };

    s->n_groups = 0;
    s->r10_group = -1;
    s->pending = 0;
    for (unsigned r = 0; r < 16; r++)
        g.open[r] = -1;
    for (unsigned i = 0; i < n->n_ops; i++)
        group_step(&g, i, &n->b->ops[i]);
    group_slots(s);
}

/* ---- code ---- */
static struct bt_x group_delta(const struct t1_group *w)
{
    return t1_state(T1_OFF(t1_group) + w->slot * (int32_t)sizeof(struct bt_t1_group));
}

static struct bt_x group_mask(const struct t1_group *w)
{
    struct bt_x x = group_delta(w);

    x.disp += (int32_t)offsetof(struct bt_t1_group, mask);
    return x;
}

/* Look up the page of the whole group; r10 becomes the distance. */
static void group_begin(struct t1 *s, struct t1_group *w)
{
    int32_t tlb = T1_OFF(tlb) + (int32_t)(s->ctx * BT_TLB_SIZE * sizeof(struct bt_tlbe));
    size_t tag = w->write ? offsetof(struct bt_tlbe, tag_w) : offsetof(struct bt_tlbe, tag_r);
    int base = t1_src(s, w->base * 8U, T1_P);
    struct bt_emit *e = &s->e;

    bt_emit_ins(e, 8, 0x8d, T1_P, bt_x_mem(base, w->lo - s->moved[s->i_op]));
    t1_fl_clobber(s);
    t1_tlb_index(s);
    bt_emit_ins(e, 8, 0x2b, T1_P, bt_x_gs(T1_I, tlb + (int32_t)tag));
    bt_emit_ins(e, 8, 0x81, 7, bt_x_reg(T1_P));
    bt_emit_u32(e, (uint32_t)((int32_t)MEM_PAGE_SIZE - (w->hi - w->lo)));
    t1_alt_jump(s, 7);
    if (w->write) {
        bt_emit_ins(e, 8, 0x8b, T1_P, bt_x_gs(T1_I, tlb + (int32_t)offsetof(struct bt_tlbe, mask)));
        bt_emit_ins(e, 8, 0x83, 7, bt_x_mem(T1_P, 0));
        bt_emit_u8(e, 0);
        t1_alt_jump(s, 5);
        bt_emit_ins(e, 8, 0x89, T1_P, group_mask(w));
    }
    bt_emit_ins(e, 8, 0x8b, T1_I, bt_x_gs(T1_I, tlb + (int32_t)offsetof(struct bt_tlbe, add)));
    bt_emit_ins(e, 8, 0x89, T1_I, group_delta(w));
    if (s->c->vm->count)
        t1_count(s, T1_OFF(stat[BT_STAT_TLB_HIT]), 1);
    w->open = true;
}

bool t1_group_use(struct t1 *s, int group, int32_t disp, bool write)
{
    struct t1_group *w = group >= 0 ? &s->groups[group] : NULL;
    int base;

    if (s->plain || !w || w->slot < 0)
        return false;
    if (!w->open)
        group_begin(s, w);
    else if (s->r10_group != group)
        bt_emit_ins(&s->e, 8, 0x8b, T1_I, group_delta(w));
    s->r10_group = group;
    base = t1_src(s, w->base * 8U, T1_P);
    s->x = bt_x_sib(T1_I, base, 0, disp);
    s->store_group = write ? group : -1;
    return true;
}

/* r11 and the size of the group's range for a note; the base has moved by `moved`. */
static void group_note_range(struct t1 *s, const struct t1_group *w, int32_t moved)
{
    int base = t1_src(s, w->base * 8U, T1_P);

    bt_emit_ins(&s->e, 8, 0x8d, T1_P, bt_x_mem(base, w->lo - moved));
    bt_emit_ins(&s->e, 8, 0x03, T1_P, group_delta(w));
    bt_emit_const(&s->e, T1_I, (uint32_t)(w->hi - w->lo));
}

bool t1_group_note(struct t1 *s, struct t1_note *n)
{
    struct t1_group *w = &s->groups[s->store_group];
    int32_t by;

    if (s->i_op != w->last_store) {
        s->pending |= (uint8_t)(1U << w->slot);
        return true;
    }
    s->pending &= (uint8_t) ~(1U << w->slot);
    bt_emit_ins(&s->e, 8, 0x8b, T1_T, group_mask(w));
    n->grouped = true;
    n->group = *w;
    n->moved = s->moved[s->i_op];
    if (group_step_of(s->op, bt_t1_desc(s->t, s->op->fn), &by) == w->base) /* a push has moved the pointer by now */
        n->moved += by;
    return false;
}

void t1_group_note_out(struct t1 *s, const struct t1_note *n)
{
    group_note_range(s, &n->group, n->moved);
}

int8_t t1_group_slot(const struct t1 *s)
{
    return s->r10_group >= 0 ? s->groups[s->r10_group].slot : -1;
}

void t1_group_reload(struct t1 *s, int8_t slot)
{
    const struct t1_group w = { .slot = slot };

    if (slot >= 0)
        bt_emit_ins(&s->e, 8, 0x8b, T1_I, group_delta(&w));
}

/* How far the base of a group has moved at the present operation. */
static int32_t group_moved(const struct t1 *s, unsigned group)
{
    int32_t moved = 0, by;

    for (unsigned i = s->groups[group].first; i < s->i_op; i++) {
        const struct bt_op *op = &s->nodes[s->i_node].b->ops[i];

        if (group_step_of(op, bt_t1_desc(s->t, op->fn), &by) == s->groups[group].base)
            moved += by;
    }
    return moved;
}

void t1_pending_save(const struct t1 *s, struct t1_pending *ret)
{
    ret->n = 0;
    for (unsigned i = 0; i < s->n_groups && s->pending && ret->n < BT_T1_GROUPS; i++) {
        const struct t1_group *w = &s->groups[i];

        if (w->open && w->slot >= 0 && s->pending >> w->slot & 1 && w->last_store >= s->i_op) {
            ret->group[ret->n] = *w;
            ret->moved[ret->n++] = group_moved(s, i);
        }
    }
}

void t1_out_pending(struct t1 *s, const struct t1_pending *p, uint64_t rip)
{
    for (unsigned i = 0; i < p->n; i++) {
        const struct t1_group *w = &p->group[i];
        uint32_t hit, skip;

        bt_emit_ins(&s->e, 8, 0x8b, T1_T, group_mask(w));
        bt_emit_ins(&s->e, 8, 0x83, 7, bt_x_mem(T1_T, 0));
        bt_emit_u8(&s->e, 0);
        hit = bt_emit_jump(&s->e, 5);
        bt_emit_ins(&s->e, 1, 0x80, 7, t1_state(T1_OFF(t1_log)));
        bt_emit_u8(&s->e, 0);
        skip = bt_emit_jump(&s->e, 4);
        bt_emit_target(&s->e, hit, s->e.pos);
        group_note_range(s, w, p->moved[i]);
        bt_emit_const(&s->e, T1_T, rip);
        bt_emit_jump_to(&s->e, BT_CALL, s->t->note);
        bt_emit_target(&s->e, skip, s->e.pos);
    }
}
