/* Memory operands of translated code: linear address, look-up in the soft TLB, and what follows a store.
 *
 * The look-up subtracts the tag of the only entry that the address can be in: what is left is the offset in the page if
 * the entry is the right one, and too large otherwise, also where the access crosses into the next page. */
#include "cpu/bt/mmu.h"
#include "cpu/bt/t1_priv.h"

static int32_t probe_tlb(const struct t1 *s)
{
    return T1_OFF(tlb) + (int32_t)(s->ctx * BT_TLB_SIZE * sizeof(struct bt_tlbe));
}

static struct bt_x probe_member(const struct t1 *s, size_t member)
{
    struct bt_x x = s->entry;

    x.disp += (int32_t)member;
    return x;
}

static size_t probe_tag(bool write)
{
    return write ? offsetof(struct bt_tlbe, tag_w) : offsetof(struct bt_tlbe, tag_r);
}

/* Offset in the page in r11, entry in r10 or constant: make the operand. */
static void probe_hit(struct t1 *s, bool write)
{
    if (s->c->vm->count)
        t1_count(s, T1_OFF(stat[BT_STAT_TLB_HIT]), 1);
    if (write) { /* r10 stays: t1_note_store wants it */
        bt_emit_ins(&s->e, 8, 0x03, T1_P, probe_member(s, offsetof(struct bt_tlbe, host)));
        s->x = bt_x_mem(T1_P, 0);
    } else {
        bt_emit_ins(&s->e, 8, 0x8b, T1_I, probe_member(s, offsetof(struct bt_tlbe, host)));
        s->x = bt_x_sib(T1_I, T1_P, 0, 0);
    }
}

void t1_tlb_index(struct t1 *s)
{
    struct bt_emit *e = &s->e;

    _Static_assert(sizeof(struct bt_tlbe) == 64 && MEM_PAGE_SHIFT == 12, "the shift below");
    s->r10_group = -1;
    if (s->t->bmi2) { /* rorx r10, r11, 6 */
        bt_emit_vex(e, 8, 3, 3, 0xf0, T1_I, 0, bt_x_reg(T1_P));
        bt_emit_u8(e, MEM_PAGE_SHIFT - 6);
    } else {
        bt_emit_ins(e, 4, 0x89, T1_P, bt_x_reg(T1_I));
        bt_emit_ins(e, 4, 0xc1, 5, bt_x_reg(T1_I));
        bt_emit_u8(e, MEM_PAGE_SHIFT - 6);
    }
    bt_emit_ins(e, 4, 0x81, 4, bt_x_reg(T1_I));
    bt_emit_u32(e, (BT_TLB_SIZE - 1) << 6);
}

void t1_probe(struct t1 *s, unsigned size, bool write)
{
    struct bt_emit *e = &s->e;

    s->store_group = -1;
    t1_fl_clobber(s);
    t1_tlb_index(s);
    s->entry = bt_x_gs(T1_I, probe_tlb(s));
    bt_emit_ins(e, 8, 0x2b, T1_P, probe_member(s, probe_tag(write)));
    bt_emit_ins(e, 8, 0x81, 7, bt_x_reg(T1_P));
    bt_emit_u32(e, (uint32_t)(MEM_PAGE_SIZE - size));
    t1_slow_jump(s, 7);
    probe_hit(s, write);
}

/* The same for an address that is known now. */
static void probe_const(struct t1 *s, uint64_t lin, bool write)
{
    uint64_t page = lin & ~(MEM_PAGE_SIZE - 1);
    unsigned slot = (unsigned)(lin >> MEM_PAGE_SHIFT) & (BT_TLB_SIZE - 1);
    struct bt_emit *e = &s->e;

    s->store_group = -1;
    t1_fl_clobber(s);
    s->entry = bt_x_gs(-1, probe_tlb(s) + (int32_t)(slot * sizeof(struct bt_tlbe)));
    if (page == (uint64_t)(int64_t)(int32_t)page) {
        bt_emit_ins(e, 8, 0x81, 7, probe_member(s, probe_tag(write)));
        bt_emit_u32(e, (uint32_t)page);
    } else {
        bt_emit_const(e, T1_P, page);
        bt_emit_ins(e, 8, 0x3b, T1_P, probe_member(s, probe_tag(write)));
    }
    t1_slow_jump(s, 5);
    bt_emit_ins(e, 8, 0x8b, T1_P, probe_member(s, offsetof(struct bt_tlbe, host)));
    s->x = bt_x_mem(T1_P, (int32_t)(lin & (MEM_PAGE_SIZE - 1)));
}

static bool probe_is_const(const struct t1 *s, uint64_t *ret_lin)
{
    const struct bt_op *op = s->op;

    if (op->index != BT_ZERO || (op->base != BT_ZERO && op->base != BT_RIP))
        return false;
    *ret_lin = (uint64_t)op->disp + (op->base == BT_RIP ? s->rip : 0);
    return true;
}

static bool probe_is_based(const struct bt_op *op)
{
    return op->seg == BT_FS || op->seg == BT_GS;
}

bool t1_lin(struct t1 *s)
{
    const struct bt_op *op = s->op;
    int base = -1, index = -1;
    uint64_t lin;

    if (op->asize != 8 || !(op->flags & BT_OPF_LONG))
        return false;
    if (probe_is_const(s, &lin)) {
        bt_emit_const(&s->e, T1_P, lin);
    } else {
        if (op->base == BT_RIP || op->disp != (int32_t)op->disp)
            return false;
        if (op->base != BT_ZERO)
            base = t1_src(s, op->base * 8U, T1_P);
        if (op->index != BT_ZERO)
            index = t1_src(s, op->index * 8U, T1_I);
        if (index == T1_I)
            s->r10_group = -1;
        if (base != T1_P || index >= 0 || op->disp != 0)
            bt_emit_ins(&s->e, 8, 0x8d, T1_P, bt_x_sib(base, index, op->scale, (int32_t)op->disp));
    }
    if (probe_is_based(op)) {
        t1_fl_clobber(s);
        bt_emit_ins(&s->e, 8, 0x03, T1_P, t1_state(T1_OFF(segbase) + 8 * op->seg));
    }
    return true;
}

bool t1_mem(struct t1 *s, unsigned size, bool write)
{
    const struct bt_op *op = s->op;
    uint64_t lin;

    if (t1_group_use(s, s->mem_group[s->i_op], (int32_t)op->disp, write))
        return true;
    if (op->asize == 8 && (op->flags & BT_OPF_LONG) && !probe_is_based(op) && probe_is_const(s, &lin)) {
        if ((lin & (MEM_PAGE_SIZE - 1)) + size > MEM_PAGE_SIZE)
            return false;
        probe_const(s, lin, write);
        return true;
    }
    if (!t1_lin(s))
        return false;
    t1_probe(s, size, write);
    return true;
}

void t1_stack(struct t1 *s, int base, int32_t disp, bool write)
{
    if (t1_group_use(s, s->stack_group[s->i_op], disp, write))
        return;
    bt_emit_ins(&s->e, 8, 0x8d, T1_P, bt_x_mem(base, disp));
    t1_probe(s, 8, write);
}

void t1_note_store(struct t1 *s, unsigned size)
{
    struct bt_emit *e = &s->e;
    struct t1_note *n;

    if (s->n_notes == T1_SLOW_MAX) {
        e->full = true;
        return;
    }
    n = &s->notes[s->n_notes];
    *n = (struct t1_note){ .next_rip = s->rip + s->op->len, .offset = s->x.disp, .size = (uint8_t)size };
    if (s->store_group >= 0) {
        if (t1_group_note(s, n))
            return; /* with the group's last store */
    } else {
        bt_emit_ins(e, 8, 0x8b, T1_T, probe_member(s, offsetof(struct bt_tlbe, mask)));
    }
    s->n_notes++;
    t1_fl_clobber(s);
    bt_emit_ins(e, 8, 0x83, 7, bt_x_mem(T1_T, 0));
    bt_emit_u8(e, 0);
    n->jumps[0] = bt_emit_jump(e, 5);
    bt_emit_ins(e, 1, 0x80, 7, t1_state(T1_OFF(t1_log)));
    bt_emit_u8(e, 0);
    n->jumps[1] = bt_emit_jump(e, 5);
    n->back = e->pos;
    n->back_slot = t1_group_slot(s);
}

/* r11: host pointer of the store, or the page's where the operand is constant. */
void t1_out_note(struct t1 *s, const struct t1_note *n)
{
    struct bt_emit *e = &s->e;

    for (unsigned i = 0; i < 2; i++)
        bt_emit_target(e, n->jumps[i], e->pos);
    if (n->grouped) {
        t1_group_note_out(s, n);
    } else {
        if (n->offset != 0)
            bt_emit_ins(e, 8, 0x8d, T1_P, bt_x_mem(T1_P, n->offset));
        bt_emit_const(e, T1_I, n->size);
    }
    if (n->dynamic)
        bt_emit_ins(e, 8, 0x8b, T1_T, t1_state(T1_OFF(t1_target[0])));
    else
        bt_emit_const(e, T1_T, n->next_rip);
    bt_emit_jump_to(e, BT_CALL, s->t->note);
    t1_group_reload(s, n->back_slot);
    bt_emit_jump_to(e, BT_JMP, n->back);
}
