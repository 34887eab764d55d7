/* Translating one block: head with its checks, the operations one after the other (t1_ops.c), then everything out of
 * line.
 *
 * Invariants: an operation that is not translated, or whose translation meets something unusual (TLB miss,
 * page-crossing access, device, unknown branch target), is left to the interpreter's handler as a whole, before it has
 * changed anything; so faults are the handler's and find all state in c. Every such way out is a possible use of the
 * flags, which therefore are in memory before it. Must not know encodings beyond what the helpers here need. */
#include <string.h>

#include "cpu/bt/mmu.h"
#include "cpu/bt/t1_priv.h"

/* ---- operands ---- */
struct bt_x t1_guest(unsigned off)
{
    int host = t1_host[off / 8];

    return host >= 0 ? bt_x_reg(host) : t1_state(T1_OFF(r) + (int32_t)(off & ~7U));
}

int t1_dst(unsigned off, int tmp)
{
    int host = t1_host[off / 8];

    return host >= 0 ? host : tmp;
}

int t1_src(struct t1 *s, unsigned off, int tmp)
{
    int host = t1_host[off / 8];

    if (host >= 0)
        return host;
    bt_emit_ins(&s->e, 8, 0x8b, tmp, t1_guest(off));
    return tmp;
}

int t1_dst_load(struct t1 *s, unsigned off, int tmp)
{
    return t1_src(s, off, tmp);
}

void t1_dst_done(struct t1 *s, unsigned off, int reg)
{
    if (t1_host[off / 8] < 0)
        bt_emit_ins(&s->e, 8, 0x89, reg, t1_guest(off));
}

/* ---- flags ---- */
static void t1_fl_load(struct t1 *s)
{
    bt_emit_ins(&s->e, 4, 0x0fb7, T1_A, t1_state(T1_OFF(t1_flags)));
    bt_emit_u8(&s->e, 0x04); /* add al, 127: OF */
    bt_emit_u8(&s->e, 127);
    bt_emit_u8(&s->e, 0x9e); /* sahf */
}

void t1_fl_host(struct t1 *s)
{
    if (s->fl != T1_FL_MEM)
        return;
    t1_fl_load(s);
    s->fl = T1_FL_BOTH;
}

void t1_fl_mem(struct t1 *s)
{
    if (s->fl != T1_FL_HOST)
        return;
    bt_emit_u8(&s->e, 0x9f); /* lahf */
    bt_emit_ins(&s->e, 1, 0x0f90, 0, bt_x_reg(T1_A));
    bt_emit_ins(&s->e, 2, 0x89, T1_A, t1_state(T1_OFF(t1_flags)));
    s->fl = T1_FL_BOTH;
}

/* The host's flags are about to be destroyed by glue. */
static void t1_fl_clobber(struct t1 *s)
{
    t1_fl_mem(s);
    s->fl = T1_FL_MEM;
}

/* ---- ways out ---- */
void t1_slow_jump(struct t1 *s, int cc)
{
    if (!s->slow) {
        if (s->n_slow == T1_SLOW_MAX) {
            s->e.full = true;
            return;
        }
        s->slow = &s->slows[s->n_slow++];
        *s->slow = (struct t1_slow){ .op = s->op, .rip = s->rip };
    }
    s->slow->jumps[s->slow->n_jumps++] = bt_emit_jump(&s->e, cc);
}

void t1_exit_to(struct t1 *s, int cc, uint64_t target)
{
    s->exits[s->n_exits++] = (struct t1_exit){ .jump = bt_emit_jump_aligned(&s->e, cc), .target = target };
}

void t1_leave_at(struct t1 *s, uint64_t rip)
{
    bt_emit_const(&s->e, T1_A, rip);
    bt_emit_ins(&s->e, 8, 0x89, T1_A, t1_state(T1_OFF(r[BT_RIP])));
    bt_emit_jump_to(&s->e, BT_JMP, s->t->leave);
}

static void t1_callout(struct t1 *s, const struct bt_op *op, uint64_t rip)
{
    bt_emit_const(&s->e, T1_A, rip);
    bt_emit_const(&s->e, T1_P, (uint64_t)(uintptr_t)op);
    bt_emit_jump_to(&s->e, BT_CALL, s->t->callout[s->ctx]);
}

/* ---- memory ---- */
static int32_t t1_tlb(const struct t1 *s, unsigned slot)
{
    return T1_OFF(tlb) + (int32_t)((s->ctx * BT_TLB_SIZE + slot) * sizeof(struct bt_tlbe));
}

static struct bt_x t1_entry_member(const struct t1 *s, size_t member)
{
    struct bt_x x = s->entry;

    x.disp += (int32_t)member;
    return x;
}

static size_t t1_tag(bool write)
{
    return write ? offsetof(struct bt_tlbe, tag_w) : offsetof(struct bt_tlbe, tag_r);
}

/* r11 holds a linear address: check the page and make it a host pointer. An access that crosses its page misses,
 * because the entry of the first page cannot have the tag of the next. */
static void t1_probe(struct t1 *s, unsigned size, bool write)
{
    struct bt_emit *e = &s->e;

    _Static_assert(sizeof(struct bt_tlbe) == 64 && MEM_PAGE_SHIFT == 12, "the shift below");
    bt_emit_ins(e, 4, 0x89, T1_P, bt_x_reg(T1_I));
    bt_emit_ins(e, 4, 0xc1, 5, bt_x_reg(T1_I));
    bt_emit_u8(e, MEM_PAGE_SHIFT - 6);
    bt_emit_ins(e, 4, 0x81, 4, bt_x_reg(T1_I));
    bt_emit_u32(e, (BT_TLB_SIZE - 1) << 6);
    bt_emit_ins(e, 8, 0x8d, T1_A, bt_x_mem(T1_P, (int32_t)size - 1));
    bt_emit_ins(e, 8, 0x81, 4, bt_x_reg(T1_A));
    bt_emit_u32(e, ~(uint32_t)(MEM_PAGE_SIZE - 1));
    s->entry = bt_x_sib(T1_C, T1_I, 0, t1_tlb(s, 0));
    bt_emit_ins(e, 8, 0x3b, T1_A, t1_entry_member(s, t1_tag(write)));
    t1_slow_jump(s, 5);
    bt_emit_ins(e, 8, 0x03, T1_P, t1_entry_member(s, offsetof(struct bt_tlbe, add)));
}

/* The same for an address that is known now. */
static void t1_probe_const(struct t1 *s, uint64_t lin, bool write)
{
    struct bt_emit *e = &s->e;

    s->entry = bt_x_mem(T1_C, t1_tlb(s, (unsigned)(lin >> MEM_PAGE_SHIFT) & (BT_TLB_SIZE - 1)));
    bt_emit_const(e, T1_A, lin & ~(MEM_PAGE_SIZE - 1));
    bt_emit_ins(e, 8, 0x3b, T1_A, t1_entry_member(s, t1_tag(write)));
    t1_slow_jump(s, 5);
    bt_emit_const(e, T1_P, lin);
    bt_emit_ins(e, 8, 0x03, T1_P, t1_entry_member(s, offsetof(struct bt_tlbe, add)));
}

bool t1_mem(struct t1 *s, unsigned size, bool write)
{
    const struct bt_op *op = s->op;
    bool based = op->seg == BT_FS || op->seg == BT_GS;
    int base = -1, index = -1;

    if (op->asize != 8 || !(op->flags & BT_OPF_LONG))
        return false;
    if (op->index == BT_ZERO && (op->base == BT_ZERO || op->base == BT_RIP)) {
        uint64_t lin = (uint64_t)op->disp + (op->base == BT_RIP ? s->rip : 0);

        if (!based && (lin & (MEM_PAGE_SIZE - 1)) + size > MEM_PAGE_SIZE)
            return false;
        t1_fl_clobber(s);
        if (!based) {
            t1_probe_const(s, lin, write);
            return true;
        }
        bt_emit_const(&s->e, T1_P, lin);
    } else {
        if (op->base == BT_RIP || op->disp != (int32_t)op->disp)
            return false;
        if (op->base != BT_ZERO)
            base = t1_src(s, op->base * 8U, T1_P);
        if (op->index != BT_ZERO)
            index = t1_src(s, op->index * 8U, T1_I);
        bt_emit_ins(&s->e, 8, 0x8d, T1_P, bt_x_sib(base, index, op->scale, (int32_t)op->disp));
        t1_fl_clobber(s);
    }
    if (based)
        bt_emit_ins(&s->e, 8, 0x03, T1_P, t1_state(T1_OFF(segbase) + 8 * op->seg));
    t1_probe(s, size, write);
    return true;
}

void t1_stack(struct t1 *s, int base, int32_t disp, bool write)
{
    bt_emit_ins(&s->e, 8, 0x8d, T1_P, bt_x_mem(base, disp));
    t1_fl_clobber(s);
    t1_probe(s, 8, write);
}

void t1_note_store(struct t1 *s, unsigned size)
{
    struct t1_note *n = &s->notes[s->n_notes++];
    struct bt_emit *e = &s->e;

    t1_fl_clobber(s);
    *n = (struct t1_note){ .next_rip = s->rip + s->op->len, .entry = s->entry, .size = (uint8_t)size };
    bt_emit_ins(e, 8, 0x8b, T1_A, t1_entry_member(s, offsetof(struct bt_tlbe, mask)));
    bt_emit_ins(e, 8, 0x83, 7, bt_x_mem(T1_A, 0));
    bt_emit_u8(e, 0);
    n->jumps[0] = bt_emit_jump(e, 5);
    bt_emit_ins(e, 8, 0x8b, T1_A, t1_state(T1_OFF(log_dirty)));
    bt_emit_ins(e, 1, 0x80, 7, bt_x_mem(T1_A, 0));
    bt_emit_u8(e, 0);
    n->jumps[1] = bt_emit_jump(e, 5);
    n->back = e->pos;
}

/* ---- out of line ---- */
static void t1_out_slow(struct t1 *s, const struct t1_slow *w)
{
    for (unsigned i = 0; i < w->n_jumps; i++)
        bt_emit_target(&s->e, w->jumps[i], s->e.pos);
    t1_callout(s, w->op, w->rip);
    if (w->back == 0) {
        /* A handler that ends the block never comes back; if one should, the state is complete at the next one. */
        t1_leave_at(s, w->rip + w->op->len);
        return;
    }
    if (w->host_flags)
        t1_fl_load(s);
    bt_emit_jump_to(&s->e, BT_JMP, w->back);
}

static void t1_out_note(struct t1 *s, const struct t1_note *n)
{
    struct bt_x add = n->entry;

    bt_emit_target(&s->e, n->jumps[0], s->e.pos);
    bt_emit_target(&s->e, n->jumps[1], s->e.pos);
    add.disp += (int32_t)offsetof(struct bt_tlbe, add);
    bt_emit_ins(&s->e, 8, 0x2b, T1_P, add);
    bt_emit_ins(&s->e, 8, 0x8d, T1_I, n->entry);
    bt_emit_const(&s->e, T1_A, n->size);
    bt_emit_jump_to(&s->e, BT_CALL, s->t->note);
    bt_emit_ins(&s->e, 8, 0x83, 7, t1_state(T1_OFF(op_end)));
    bt_emit_u8(&s->e, 0);
    bt_emit_jump_to(&s->e, 5, n->back);
    if (!n->dynamic) {
        t1_leave_at(s, n->next_rip);
        return;
    }
    bt_emit_ins(&s->e, 8, 0x8b, T1_A, t1_state(T1_OFF(t1_target[0])));
    bt_emit_ins(&s->e, 8, 0x89, T1_A, t1_state(T1_OFF(r[BT_RIP])));
    bt_emit_jump_to(&s->e, BT_JMP, s->t->leave);
}

static void t1_out_exit(struct t1 *s, const struct t1_exit *x, uint64_t block_rip)
{
    bool near = ((x->target ^ block_rip) & ~(MEM_PAGE_SIZE - 1)) == 0;

    bt_emit_target(&s->e, x->jump, s->e.pos);
    bt_emit_ins(&s->e, 4, 0xc7, 0, t1_state(T1_OFF(t1_link)));
    bt_emit_u32(&s->e, x->jump | (near ? T1_LINK_NEAR : 0));
    t1_leave_at(s, x->target);
}

/* ---- the head: is the page still mapped to the same memory, is the code the same, are there events? ---- */
static void t1_head(struct t1 *s, const struct bt_block *b, struct bt_trans *t)
{
    unsigned set = BT_CTX_FETCH + (s->ctx == BT_CTX_USER ? BT_CTX_USER : BT_CTX_KERNEL);
    unsigned slot = (unsigned)(t->rip >> MEM_PAGE_SHIFT) & (BT_TLB_SIZE - 1);
    int32_t at = T1_OFF(tlb) + (int32_t)((set * BT_TLB_SIZE + slot) * sizeof(struct bt_tlbe));
    struct bt_emit *e = &s->e;

    t->entry = e->pos;
    bt_emit_const(e, T1_A, t->rip & ~(MEM_PAGE_SIZE - 1));
    bt_emit_ins(e, 8, 0x3b, T1_A, t1_state(at + (int32_t)offsetof(struct bt_tlbe, tag_x)));
    s->map_jumps[0] = bt_emit_jump(e, 5);
    bt_emit_const(e, T1_A, b->gpa & ~(MEM_PAGE_SIZE - 1));
    bt_emit_ins(e, 8, 0x3b, T1_A, t1_state(at + (int32_t)offsetof(struct bt_tlbe, gpa)));
    s->map_jumps[1] = bt_emit_jump(e, 5);
    t->near = e->pos;
    bt_t1_check(s, b, t);
    bt_emit_ins(e, 4, 0x83, 7, t1_state(T1_OFF(events)));
    bt_emit_u8(e, 0);
    s->event_jump = bt_emit_jump(e, 5);
    s->event_back = e->pos;
    bt_emit_ins(e, 8, 0x83, 0, t1_state(T1_OFF(insns)));
    bt_emit_u8(e, (uint8_t)b->n_ops);
}

static void t1_out_head(struct t1 *s, const struct bt_block *b, struct bt_trans *t)
{
    bt_emit_target(&s->e, s->map_jumps[0], s->e.pos);
    bt_emit_target(&s->e, s->map_jumps[1], s->e.pos);
    t1_leave_at(s, t->rip);
    bt_t1_out_check(s, b, t);
    bt_emit_target(&s->e, s->event_jump, s->e.pos);
    bt_emit_const(&s->e, T1_A, t->rip);
    bt_emit_jump_to(&s->e, BT_CALL, s->t->event);
    bt_emit_jump_to(&s->e, BT_JMP, s->event_back);
}

static void t1_one(struct t1 *s)
{
    const struct t1_desc *d = bt_t1_desc(s->t, s->op->fn);

    s->slow = NULL;
    if (bt_t1_op(s, d)) {
        if (s->slow && !s->done) {
            s->slow->back = s->e.pos;
            s->slow->host_flags = s->fl != T1_FL_MEM;
        }
        return;
    }
    t1_fl_clobber(s);
    t1_callout(s, s->op, s->rip);
    if (d->class == T1_NONE || s->op->flags & BT_OPF_END) { /* it may have changed anything: let the run loop look */
        t1_leave_at(s, s->rip + s->op->len);
        s->done = true;
    }
}

static void t1_body(struct t1 *s, const struct bt_block *b)
{
    for (unsigned i = 0; i < b->n_ops && !s->done; i++) {
        s->op = &b->ops[i];
        t1_one(s);
        s->rip += s->op->len;
    }
    if (!s->done) {
        t1_fl_mem(s);
        t1_exit_to(s, BT_JMP, s->rip);
    }
}

bool bt_t1_generate(struct t1 *s, const struct bt_block *b, struct bt_trans *t)
{
    t1_head(s, b, t);
    t1_body(s, b);
    for (unsigned i = 0; i < s->n_exits; i++)
        t1_out_exit(s, &s->exits[i], t->rip);
    for (unsigned i = 0; i < s->n_slow; i++)
        t1_out_slow(s, &s->slows[i]);
    for (unsigned i = 0; i < s->n_notes; i++)
        t1_out_note(s, &s->notes[i]);
    t1_out_head(s, b, t);
    return !s->e.full;
}
