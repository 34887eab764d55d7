/* Translations and the memory that they live in: making one of a block, its check that the code is unchanged,
 * connecting translations, forgetting all. Ordinary code; it must not know instructions, which are t1_gen.c's. */
#include <string.h>
#include <sys/mman.h>

#include "cpu/bt/mmu.h"
#include "cpu/bt/t1_priv.h"

/* Content-checked: compare all bytes of the block. Every comparison but the last jumps to the jump behind the last. */
uint32_t bt_t1_check_bytes(struct t1 *s, const struct bt_block *b)
{
    uint32_t jumps[BT_BLOCK_OPS_MAX * 15 / 8 + 3], n = 0;
    const uint8_t *snap = b->snap;
    struct bt_emit *e = &s->e;

    bt_emit_const(e, T1_P, (uint64_t)(uintptr_t)b->host[0]);
    for (unsigned at = 0, size; at < b->bytes[0]; at += size) {
        uint64_t v = 0;

        for (size = 8; size > b->bytes[0] - at; size /= 2) {
        }
        if (at > 0)
            jumps[n++] = bt_emit_jump(e, 5);
        memcpy(&v, snap + at, size);
        if (size == 8) {
            bt_emit_const(e, T1_T, v);
            bt_emit_ins(e, 8, 0x39, T1_T, bt_x_mem(T1_P, (int32_t)at));
        } else {
            bt_emit_ins(e, size, size == 1 ? 0x80 : 0x81, 7, bt_x_mem(T1_P, (int32_t)at));
            bt_emit_imm(e, size, v);
        }
    }
    for (unsigned i = 0; i < n; i++)
        bt_emit_target(e, jumps[i], e->pos);
    return bt_emit_jump(e, 5);
}

/* The id of a page's translations; there is room (bt_t1_full). */
static uint32_t xid_get(struct bt_t1 *m, uint64_t lin, uint64_t gpa, uint32_t gen)
{
    uint64_t h = (lin >> MEM_PAGE_SHIFT) * 0x9e3779b97f4a7c15ULL ^ (gpa >> MEM_PAGE_SHIFT) * 0xc2b2ae3d27d4eb4fULL ^
                 gen * 0x165667b19e3779f9ULL;
    uint32_t i = (uint32_t)(h >> 40) % T1_XIDS;

    while (m->xids[i].used && (m->xids[i].lin != lin || m->xids[i].gpa != gpa || m->xids[i].gen != gen))
        i = (i + 1) % T1_XIDS;
    if (!m->xids[i].used) {
        m->xids[i] = (struct t1_xid){ .lin = lin, .gpa = gpa, .gen = gen, .used = true };
        m->n_xids++;
    }
    return i + 1;
}

/* Content-checked blocks are apart from the others of their page. */
#define XID_CHECKED 0xffffffffU

static void trans_ids(struct t1 *s, struct t1_node *n)
{
    const uint64_t page = ~(MEM_PAGE_SIZE - 1);
    const struct bt_block *b = n->b;

    n->t->xid = xid_get(s->t, n->rip & page, b->gpa & page, b->snap ? XID_CHECKED : b->gen[0]);
    if (b->crossing) {
        uint64_t lin = (n->rip & page) + MEM_PAGE_SIZE;
        const struct bt_tlbe *e = bt_tlbe(s->c, BT_CTX_FETCH + (s->c->cpl == 3 ? BT_CTX_USER : BT_CTX_KERNEL), lin);

        n->t->xid2 = xid_get(s->t, lin, e->gpa, b->snap ? XID_CHECKED : b->gen[1]);
    }
}

/* Take note of what has been written. */
static void t1_commit(struct bt_t1 *m, uint32_t end)
{
    m->used = (end + 15) & ~15U;
    if (m->used - m->unmapped >= 2 * T1_UNMAP) {
        (void)madvise(m->rw + m->unmapped, T1_UNMAP, MADV_DONTNEED); /* shared memory: nothing is lost */
        m->unmapped += T1_UNMAP;
    }
}

static void add_traps(struct t1 *s)
{
    struct bt_t1 *m = s->t;
    uint32_t n = atomic_load_explicit(&m->n_traps, memory_order_relaxed);

    for (unsigned i = 0; i < s->n_traps; i++)
        m->traps[n++] = (struct t1_trap){ .at = s->traps[i].at, .to = s->traps[i].slow->at };
    atomic_store_explicit(&m->n_traps, n, memory_order_release);
}

/* A translation for each node that can be entered, from the free ones. */
static void trans_take(struct t1 *s)
{
    struct bt_t1 *m = s->t;

    for (unsigned i = 0; i < s->n_nodes; i++) {
        struct t1_node *n = &s->nodes[i];

        n->t = &m->trans[m->n_trans + i];
        *n->t = (struct bt_trans){ .rip = n->rip, .gpa = n->b->gpa, .ctx = s->ctx, .plain = s->plain };
        trans_ids(s, n);
    }
}

static const struct bt_trans *trans_publish(struct t1 *s, uint64_t rip)
{
    const struct bt_trans *ret = NULL;
    struct bt_t1 *m = s->t;

    for (unsigned i = 0; i < s->n_nodes; i++) {
        struct t1_node *n = &s->nodes[i];

        if (n->headless)
            continue;
        n->t->next = atomic_load_explicit(&n->b->trans, memory_order_relaxed);
        atomic_store_explicit(&n->b->trans, n->t, memory_order_release);
        if (n->rip == rip)
            ret = n->t;
    }
    m->n_trans += s->n_nodes;
    t1_commit(m, s->e.pos);
    return ret;
}

/* alone: only the block itself, where a region has become too much for the tables. */
static bool translate_try(struct bt_vcpu *c, struct bt_block *b, bool plain, bool alone)
{
    struct bt_t1 *m = c->t1;
    struct t1 *s = m->work;

    memset(s, 0, offsetof(struct t1, nodes));
    s->c = c;
    s->t = m;
    s->ctx = c->ctx;
    s->rip = c->r[BT_RIP];
    s->plain = plain;
    s->sealed = alone || plain || b->snap || b->crossing;
    s->e = (struct bt_emit){ .buf = m->rw, .pos = m->used, .end = m->used + T1_RESERVE };
    bt_t1_region(s, b);
    trans_take(s);
    return bt_t1_generate(s);
}

const struct bt_trans *bt_t1_translate(struct bt_vcpu *c, struct bt_block *b, bool plain)
{
    struct bt_t1 *m = c->t1;
    struct t1 *s = m->work;

    if (c->mode != BT_MODE_64 || c->ctx >= BT_CTX_FETCH || b == &c->front->single || (b->crossing && b->snap))
        return NULL;
    if (!translate_try(c, b, plain, false) && !translate_try(c, b, plain, true))
        return NULL;
    add_traps(s);
    c->stat[BT_STAT_T1_TRANS]++;
    bt_serialise();
    return trans_publish(s, c->r[BT_RIP]);
}

bool bt_t1_full(const struct bt_t1 *t)
{
    return t->used + T1_RESERVE > t->end || t->n_trans + T1_NODES_MAX > T1_TRANS_MAX ||
           t->n_traps + T1_SLOW_MAX > T1_TRAPS_MAX || t->n_xids + 2 > T1_XIDS * 3 / 4;
}

void bt_t1_reset(struct bt_t1 *t)
{
    t->used = t->first;
    t->unmapped = 0;
    t->n_trans = 0;
    t->n_xids = 0;
    for (unsigned i = 0; i < T1_XIDS; i++)
        t->xids[i].used = false;
    atomic_store_explicit(&t->n_traps, 0, memory_order_relaxed);
}

/* Other vCPUs may be executing what is changed here: each sees the old displacement or the new one, and both are right.
 * Two vCPUs may do the same at once; the last one wins. */
void bt_t1_connect(struct bt_vcpu *c, const struct bt_trans *t)
{
    struct bt_emit e = { .buf = c->t1->rw, .end = T1_ARENA };
    const struct bt_trans *old = c->t1_stale;
    uint32_t link = c->t1_link;

    c->t1_stale = NULL;
    c->t1_link = 0;
    /* Only to one with another id: of two with the same id each could be led to the other. The generation in the id
     * grows, so there is no way back. */
    if (old && old->xid != t->xid && old->stale && old->rip == t->rip && old->gpa == t->gpa && old->ctx == t->ctx) {
        if (bt_emit_retarget(&e, old->stale, t->entry))
            c->stat[BT_STAT_T1_STALE]++;
    } else if (link) {
        if (bt_emit_retarget(&e, link & ~(T1_LINK_NEAR | T1_LINK_PLAIN), link & T1_LINK_NEAR ? t->near : t->entry))
            c->stat[BT_STAT_T1_LINK]++;
    } else {
        return;
    }
    bt_serialise();
}
