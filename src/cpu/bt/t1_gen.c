/* Translating one region: operands, flags and ways out as the operations need them, then the region's blocks one after
 * the other, and behind them everything out of line.
 *
 * Invariants: an operation that is not translated, or whose translation meets something unusual (TLB miss,
 * page-crossing access, device, unknown branch target, trap), is left to the interpreter's handler as a whole, before
 * it has changed anything; so faults are the handler's and find all state in c. Must not know encodings beyond what the
 * helpers here need. */
#include <string.h>

#include "cpu/bt/mmu.h"
#include "cpu/bt/t1_priv.h"

/* ---- operands ---- */
struct bt_x t1_state(int32_t off)
{
    return bt_x_gs(-1, off);
}

struct bt_x t1_guest(unsigned off)
{
    int host = t1_host[off / 8];

    return host >= 0 ? bt_x_reg(host) : t1_state(T1_OFF(r) + (int32_t)(off & ~7U));
}

/* AH, CH, DH and BH, which no instruction with REX can name: rotated into a low byte, flags untouched. */
static void high_rotate(struct t1 *s, int to, int from, uint8_t by)
{
    bt_emit_vex(&s->e, 8, 3, 3, 0xf0, to, 0, bt_x_reg(from)); /* RORX */
    bt_emit_u8(&s->e, by);
}

struct bt_x t1_rm(struct t1 *s, unsigned off, int tmp)
{
    return off & 7 ? bt_x_reg(t1_src(s, off, tmp)) : t1_guest(off);
}

int t1_dst(unsigned off, int tmp)
{
    int host = t1_host[off / 8];

    return host >= 0 ? host : tmp;
}

int t1_src(struct t1 *s, unsigned off, int tmp)
{
    int host = t1_host[off / 8];

    if (off & 7) {
        high_rotate(s, tmp, host, 8);
        return tmp;
    }
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
    if (off & 7)
        high_rotate(s, t1_host[off / 8], reg, 56);
    else if (t1_host[off / 8] < 0)
        bt_emit_ins(&s->e, 8, 0x89, reg, t1_guest(off));
}

/* ---- flags ---- */
static void fl_load(struct t1 *s)
{
    bt_emit_u8(&s->e, 0x3c); /* cmp al, -127: OF, and al stays */
    bt_emit_u8(&s->e, 0x81);
    bt_emit_u8(&s->e, 0x9e); /* sahf */
}

static void fl_save(struct t1 *s)
{
    bt_emit_u8(&s->e, 0x9f); /* lahf */
    bt_emit_ins(&s->e, 1, 0x0f90, 0, bt_x_reg(T1_A));
}

void t1_fl_host(struct t1 *s)
{
    if (!(s->fl & T1_FL_HOST))
        fl_load(s);
    s->fl |= T1_FL_HOST;
}

void t1_fl_img(struct t1 *s)
{
    if (!(s->fl & T1_FL_IMG))
        fl_save(s);
    s->fl |= T1_FL_IMG;
}

void t1_fl_clobber(struct t1 *s)
{
    t1_fl_img(s);
    s->fl = T1_FL_IMG;
}

void t1_fl_set(struct t1 *s)
{
    s->fl = T1_FL_HOST;
}

/* ---- ways out ---- */
struct t1_slow *t1_slow_get(struct t1 *s)
{
    if (s->slow)
        return s->slow;
    if (s->n_slow == T1_SLOW_MAX) { /* the translation is given up: any place will do */
        s->e.full = true;
        s->n_slow--;
    }
    s->slow = &s->slows[s->n_slow++];
    *s->slow = (struct t1_slow){ .op = s->op, .rip = s->rip, .from_host = !(s->fl & T1_FL_IMG), .back_slot = -1 };
    t1_pending_save(s, &s->slow->pending);
    return s->slow;
}

void t1_slow_jump(struct t1 *s, int cc)
{
    struct t1_slow *w = t1_slow_get(s);

    w->jumps[w->n_jumps++] = bt_emit_jump(&s->e, cc);
}

void t1_trap_here(struct t1 *s)
{
    struct t1_slow *w = t1_slow_get(s);

    if (s->n_traps == ARRAY_SIZE(s->traps)) {
        s->e.full = true;
        return;
    }
    s->traps[s->n_traps].at = s->e.pos;
    s->traps[s->n_traps++].slow = w;
}

static void exit_add(struct t1 *s, int cc, uint64_t target, bool near)
{
    struct t1_exit *x = &s->exits[s->n_exits++];

    *x = (struct t1_exit){ .target = target, .near = near, .from_host = !(s->fl & T1_FL_IMG) };
    x->jump = bt_emit_jump_aligned(&s->e, cc);
    if (s->n_exits == ARRAY_SIZE(s->exits)) {
        s->n_exits--;
        s->e.full = true;
    }
}

void t1_exit_to(struct t1 *s, uint64_t target)
{
    exit_add(s, BT_JMP, target, ((target ^ s->page) & ~(MEM_PAGE_SIZE - 1)) == 0);
}

/* Whether code at node n, reached from here, finds the flags where it expects them. */
static bool node_fl_ok(const struct t1 *s, const struct t1_node *n)
{
    return (n->fl & ~s->fl) == 0 || (n->dead && !n->loop);
}

void t1_goto(struct t1 *s, int cc, uint64_t target)
{
    struct t1_node *n = s->sealed ? NULL : bt_t1_node_at(s, target);

    if (!n) {
        exit_add(s, cc, target, ((target ^ s->page) & ~(MEM_PAGE_SIZE - 1)) == 0);
        return;
    }
    if (n->pos != 0) { /* backwards: what the label wants is made in line */
        if (!node_fl_ok(s, n))
            t1_fl_img(s);
        bt_emit_jump_to(&s->e, cc, n->pos);
        return;
    }
    /* Forwards: the label, when it comes, will want the image there unless the flags are dead. */
    if (cc == BT_JMP && !(n->dead && !n->loop))
        t1_fl_img(s);
    if (s->n_fixes == ARRAY_SIZE(s->fixes)) {
        s->e.full = true;
        return;
    }
    s->fixes[s->n_fixes].node = n;
    s->fixes[s->n_fixes].from_host = !(s->fl & T1_FL_IMG) && !(n->dead && !n->loop);
    s->fixes[s->n_fixes++].jump = bt_emit_jump(&s->e, cc);
}

void t1_leave_at(struct t1 *s, uint64_t rip)
{
    bt_emit_const(&s->e, T1_P, rip);
    bt_emit_jump_to(&s->e, BT_JMP, s->t->leave_rip);
}

/* The same; the run loop is to lead the jump whose displacement is at `jump` to the translation of rip. */
static void leave_linking(struct t1 *s, uint32_t jump, uint32_t flags, uint64_t rip)
{
    bt_emit_const(&s->e, T1_I, jump | flags);
    bt_emit_const(&s->e, T1_P, rip);
    bt_emit_jump_to(&s->e, BT_JMP, s->t->leave_link);
}

void t1_count(struct t1 *s, int32_t counter, unsigned n)
{
    t1_fl_clobber(s);
    bt_emit_ins(&s->e, 8, 0x83, 0, t1_state(counter));
    bt_emit_u8(&s->e, (uint8_t)n);
}

void t1_alt_jump(struct t1 *s, int cc)
{
    struct t1_alt *a = &s->alts[s->n_alts];

    if (s->n_alts == T1_ALTS_MAX) {
        s->e.full = true;
        return;
    }
    s->n_alts++;
    a->rip = s->rip;
    t1_pending_save(s, &a->pending);
    a->jump = bt_emit_jump(&s->e, cc);
}

void t1_callout(struct t1 *s, const struct bt_op *op, uint64_t rip)
{
    s->r10_group = -1;
    bt_emit_const(&s->e, T1_I, rip);
    bt_emit_const(&s->e, T1_P, (uint64_t)(uintptr_t)op);
    bt_emit_jump_to(&s->e, BT_CALL, s->t->callout[s->ctx]);
}

/* ---- out of line ---- */
static void out_fp_again(struct t1 *s, unsigned want)
{
    uint32_t over;

    bt_emit_ins(&s->e, 4, 0x0fb6, T1_P, t1_state(T1_OFF(fp_ready)));
    bt_emit_ins(&s->e, 4, 0x83, 4, bt_x_reg(T1_P));
    bt_emit_u8(&s->e, (uint8_t)want);
    bt_emit_ins(&s->e, 4, 0x83, 7, bt_x_reg(T1_P));
    bt_emit_u8(&s->e, (uint8_t)want);
    over = bt_emit_jump(&s->e, 4);
    bt_emit_const(&s->e, T1_I, want);
    bt_emit_jump_to(&s->e, BT_CALL, s->t->fp);
    bt_emit_target(&s->e, over, s->e.pos);
}

static void out_slow(struct t1 *s, struct t1_slow *w)
{
    w->at = s->e.pos;
    for (unsigned i = 0; i < w->n_jumps; i++)
        bt_emit_target(&s->e, w->jumps[i], s->e.pos);
    if (w->from_mem)
        bt_emit_ins(&s->e, 4, 0x0fb7, T1_A, t1_state(T1_OFF(t1_flags)));
    else if (w->from_host)
        fl_save(s);
    t1_out_pending(s, &w->pending, w->rip);
    t1_callout(s, w->op, w->rip);
    if (w->back == 0) {
        /* A handler that ends the block never comes back; if one should, the state is complete at the next one. */
        t1_leave_at(s, w->rip + w->op->len);
        return;
    }
    if (w->back_fp_ok) /* the handler may have saved the vector state */
        out_fp_again(s, w->back_fp_ok);
    if (w->host_flags)
        fl_load(s);
    t1_group_reload(s, w->back_slot);
    bt_emit_jump_to(&s->e, BT_JMP, w->back);
}

static void out_exit(struct t1 *s, const struct t1_exit *x)
{
    uint32_t jump = x->jump;

    bt_emit_target(&s->e, x->jump, s->e.pos);
    if (x->from_host) { /* the jump that gets chained is the one behind */
        fl_save(s);
        jump = bt_emit_jump_aligned(&s->e, BT_JMP);
        bt_emit_target(&s->e, jump, s->e.pos);
    }
    leave_linking(s, jump, x->near ? T1_LINK_NEAR : 0, x->target);
}

static void out_fix(struct t1 *s, const struct t1_fix *f)
{
    if (!f->from_host) {
        bt_emit_target(&s->e, f->jump, f->node->pos);
        return;
    }
    bt_emit_target(&s->e, f->jump, s->e.pos);
    fl_save(s);
    bt_emit_jump_to(&s->e, BT_JMP, f->node->pos);
}

/* ---- the head of a translation. At `entry`: is the page still mapped to the same memory, with the same code? At
 * `near`: are there events? Content-checked code and the second page of a crossing instruction are looked at there too.
 * r11, r10 and r15 are free, rax is not. ---- */
static void head_xid(struct t1 *s, uint64_t lin, uint32_t xid)
{
    unsigned set = BT_CTX_FETCH + (s->ctx == BT_CTX_USER ? BT_CTX_USER : BT_CTX_KERNEL);
    unsigned slot = (unsigned)(lin >> MEM_PAGE_SHIFT) & (BT_TLB_SIZE - 1);
    int32_t at = T1_OFF(tlb) + (int32_t)((set * BT_TLB_SIZE + slot) * sizeof(struct bt_tlbe));

    bt_emit_ins(&s->e, 4, 0x81, 7, t1_state(at + (int32_t)offsetof(struct bt_tlbe, xid)));
    bt_emit_u32(&s->e, xid);
}

static void head(struct t1 *s, struct t1_node *n)
{
    struct bt_emit *e = &s->e;

    n->t->entry = e->pos;
    head_xid(s, n->rip, n->t->xid);
    n->t->stale = bt_emit_jump_aligned(e, 5);
    n->t->near = e->pos;
    if (n->t->xid2) {
        head_xid(s, n->rip + MEM_PAGE_SIZE, n->t->xid2);
        n->page2_jump = bt_emit_jump(e, 5);
    }
    if (n->b->snap)
        n->bytes_jump = bt_t1_check_bytes(s, n->b);
    if (!n->loop) {
        bt_emit_ins(e, 4, 0x83, 7, t1_state(T1_OFF(events)));
        bt_emit_u8(e, 0);
        n->event_jump = bt_emit_jump(e, 5);
        n->event_back = e->pos;
    }
}

static void out_event(struct t1 *s, const struct t1_node *n, uint32_t jump, uint32_t back)
{
    if (jump == 0)
        return;
    bt_emit_target(&s->e, jump, s->e.pos);
    bt_emit_const(&s->e, T1_I, n->rip);
    bt_emit_jump_to(&s->e, BT_CALL, s->t->event);
    bt_emit_jump_to(&s->e, BT_JMP, back);
}

static void out_head(struct t1 *s, const struct t1_node *n)
{
    out_event(s, n, n->loop_jump, n->loop_back);
    if (n->headless)
        return;
    bt_emit_target(&s->e, n->t->stale, s->e.pos);
    if (n->page2_jump)
        bt_emit_target(&s->e, n->page2_jump, s->e.pos);
    if (n->bytes_jump)
        bt_emit_target(&s->e, n->bytes_jump, s->e.pos);
    bt_emit_const(&s->e, T1_I, (uint64_t)(uintptr_t)n->t);
    bt_emit_jump_to(&s->e, BT_JMP, s->t->leave_stale);
    out_event(s, n, n->event_jump, n->event_back);
}

/* ---- the body ---- */
static void one(struct t1 *s)
{
    const struct t1_desc *d = bt_t1_desc(s->t, s->op->fn);
    unsigned first = s->n_slow;

    s->slow = NULL;
    if (bt_t1_op(s, d)) {
        for (unsigned i = first; i < s->n_slow && !s->done; i++) {
            s->slows[i].back = s->e.pos;
            s->slows[i].host_flags = (s->fl & T1_FL_HOST) != 0;
            s->slows[i].back_fp_ok = s->fp_ok;
            s->slows[i].back_slot = t1_group_slot(s);
        }
        return;
    }
    t1_fl_clobber(s);
    if (s->pending) {
        struct t1_pending pending;

        t1_pending_save(s, &pending);
        t1_out_pending(s, &pending, s->rip);
    }
    t1_callout(s, s->op, s->rip);
    s->fp_ok = 0;
    if (d->class == T1_NONE || s->op->flags & BT_OPF_END) { /* it may have changed anything: let the run loop look */
        t1_leave_at(s, s->rip + s->op->len);
        s->done = true;
    }
}

/* The label of a node. fall: control comes from the node before, with the flags as s->fl says. */
static void label(struct t1 *s, struct t1_node *n, bool fall)
{
    bool inherit = fall && n->n_from == 1 && !n->loop;

    n->fl = inherit ? s->fl : T1_FL_IMG;
    if (fall && !node_fl_ok(s, n))
        t1_fl_img(s);
    n->pos = s->e.pos;
    if (n->loop) {
        bt_emit_ins(&s->e, 4, 0x83, 7, t1_state(T1_OFF(events)));
        bt_emit_u8(&s->e, 0);
        n->loop_jump = bt_emit_jump(&s->e, 5);
        n->loop_back = s->e.pos;
    }
    s->fl = n->fl;
    if (!inherit)
        s->fp_ok = 0;
    n->headless = s->fp_ok != 0;
}

static void body(struct t1 *s, unsigned i_node)
{
    const struct t1_node *n = &s->nodes[i_node], *next = i_node + 1 < s->n_nodes ? n + 1 : NULL;

    s->i_node = i_node;
    s->rip = n->rip;
    s->done = false;
    bt_t1_groups(s, n);
    if (s->c->vm->count)
        t1_count(s, T1_OFF(insns), n->n_ops);
    for (unsigned i = 0; i < n->n_ops && !s->done; i++) {
        s->i_op = i;
        s->op = &n->b->ops[i];
        one(s);
        s->rip += s->op->len;
    }
    if (!s->done && !(next && next->rip == s->rip)) {
        t1_goto(s, BT_JMP, s->rip);
        s->done = true;
    }
}

static void emit_region(struct t1 *s)
{
    bool fall = false;

    for (unsigned i = 0; i < s->n_nodes; i++) {
        struct t1_node *n = &s->nodes[i];

        /* The head of the first node leads straight into it, the others come behind the body. */
        if (i == 0)
            head(s, n);
        s->fl = i == 0 ? T1_FL_IMG : s->fl;
        label(s, n, fall);
        body(s, i);
        fall = !s->done;
    }
    for (unsigned i = 1; i < s->n_nodes; i++) {
        if (s->nodes[i].headless)
            continue;
        head(s, &s->nodes[i]);
        if (s->nodes[i].fl & T1_FL_HOST)
            fl_load(s);
        bt_emit_jump_to(&s->e, BT_JMP, s->nodes[i].pos);
    }
}

/* The ways from one operation to its plain translation; all have the same state. Returns how many there were. */
static unsigned out_alts(struct t1 *s, const struct t1_alt *a, unsigned left)
{
    unsigned n = 0;
    uint32_t jump;

    for (; n < left && a[n].rip == a->rip; n++)
        bt_emit_target(&s->e, a[n].jump, s->e.pos);
    t1_out_pending(s, &a->pending, a->rip);
    jump = bt_emit_jump_aligned(&s->e, BT_JMP);
    bt_emit_target(&s->e, jump, s->e.pos);
    leave_linking(s, jump, T1_LINK_NEAR | T1_LINK_PLAIN, a->rip);
    return n;
}

static void emit_out_of_line(struct t1 *s)
{
    for (unsigned i = 0; i < s->n_alts;)
        i += out_alts(s, &s->alts[i], s->n_alts - i);
    for (unsigned i = 0; i < s->n_fixes; i++)
        out_fix(s, &s->fixes[i]);
    for (unsigned i = 0; i < s->n_exits; i++)
        out_exit(s, &s->exits[i]);
    for (unsigned i = 0; i < s->n_fps; i++)
        t1_out_fp(s, &s->fps[i]);
    for (unsigned i = 0; i < s->n_slow; i++)
        out_slow(s, &s->slows[i]);
    for (unsigned i = 0; i < s->n_notes; i++)
        t1_out_note(s, &s->notes[i]);
    for (unsigned i = 0; i < s->n_nodes; i++)
        out_head(s, &s->nodes[i]);
}

bool bt_t1_generate(struct t1 *s)
{
    emit_region(s);
    emit_out_of_line(s);
    return !s->e.full;
}
