/* Which blocks are translated together: the one that became hot and those that direct jumps lead to from it, in the
 * same page, as far as they have been decoded and run. Loops then stay inside one translation.
 *
 * Each block of a region becomes a node, in ascending order of addresses; a node ends where the next one begins, so
 * that no instruction is translated twice. It knows control flow, not code. */
#include "cpu/bt/int_priv.h"
#include "cpu/bt/mmu.h"
#include "cpu/bt/t1_priv.h"

struct t1_node *bt_t1_node_at(struct t1 *s, uint64_t rip)
{
    for (unsigned i = 0; i < s->n_nodes; i++) {
        if (s->nodes[i].rip == rip)
            return &s->nodes[i];
    }
    return NULL;
}

/* Where control goes from a block by itself or by a direct jump: up to two addresses. */
static unsigned region_targets(const struct t1 *s, const struct t1_node *n, uint64_t ret[2])
{
    uint64_t rip = n->rip;
    const struct bt_op *op = n->b->ops;
    const struct t1_desc *d;

    for (unsigned i = 0; i < n->n_ops; i++, op++)
        rip += op->len;
    op--;
    d = bt_t1_desc(s->t, op->fn);
    if (d->class == T1_JCC) {
        ret[0] = rip;
        ret[1] = rip - op->len + op->aux;
        return 2;
    }
    if (d->class == T1_JMP && d->kind == BT_BR_REL) {
        ret[0] = rip - op->len + op->aux;
        return 1;
    }
    ret[0] = rip;
    return d->class == T1_AC || (op->flags & BT_OPF_END && d->class != T1_STI) ? 0 : 1;
}

/* Whether the block can be in a region with s->page: same page, decoded, run before, not translated for this address
 * yet. */
static bool region_wants(const struct t1 *s, const struct bt_block *b, uint64_t rip)
{
    if (!b || b->crossing || b->snap || b->n_ops == 0 || (b->runs == 0 && s->c->vm->hot > 0))
        return false;
    for (const struct bt_trans *t = atomic_load_explicit(&b->trans, memory_order_relaxed); t; t = t->next) {
        if (t->rip == rip && t->ctx == s->ctx && !t->plain)
            return false;
    }
    return true;
}

static void region_add(struct t1 *s, struct bt_block *b, uint64_t rip)
{
    struct t1_node *n = &s->nodes[s->n_nodes++];

    *n = (struct t1_node){ .b = b, .rip = rip };
    while (n->n_ops < b->n_ops && bt_t1_desc(s->t, b->ops[n->n_ops++].fn)->class != T1_AC)
        ; /* STAC and CLAC lead to another context */
}

static void region_gather(struct t1 *s, struct bt_block *first)
{
    uint64_t gpa = first->gpa & ~(MEM_PAGE_SIZE - 1);
    unsigned ops = first->n_ops;

    region_add(s, first, s->rip);
    for (unsigned i = 0; i < s->n_nodes; i++) {
        uint64_t targets[2];
        unsigned n = region_targets(s, &s->nodes[i], targets);

        for (unsigned k = 0; k < n; k++) {
            struct bt_block *b;

            if ((targets[k] & ~(MEM_PAGE_SIZE - 1)) != s->page || bt_t1_node_at(s, targets[k]))
                continue;
            if (s->n_nodes == T1_NODES_MAX)
                return;
            b = bt_block_find_locked(s->c->cache, gpa | (targets[k] & (MEM_PAGE_SIZE - 1)), first->key);
            if (!region_wants(s, b, targets[k]) || ops + b->n_ops > T1_REGION_OPS)
                continue;
            ops += b->n_ops;
            region_add(s, b, targets[k]);
        }
    }
}

static void region_sort(struct t1 *s)
{
    for (unsigned i = 1; i < s->n_nodes; i++) {
        struct t1_node n = s->nodes[i];
        unsigned k = i;

        for (; k > 0 && s->nodes[k - 1].rip > n.rip; k--)
            s->nodes[k] = s->nodes[k - 1];
        s->nodes[k] = n;
    }
}

/* End each node where another one begins, if that is at an instruction of it. */
static void region_cut(struct t1 *s)
{
    for (unsigned i = 0; i + 1 < s->n_nodes; i++) {
        struct t1_node *n = &s->nodes[i];
        uint64_t rip = n->rip;

        for (unsigned k = 0; k < n->n_ops; k++) {
            if (k > 0 && bt_t1_node_at(s, rip)) {
                n->n_ops = k;
                break;
            }
            rip += n->b->ops[k].len;
        }
    }
}

/* Whether the node defines all arithmetic flags before it uses them, and before anything (a fault, a handler) can show
 * them to the guest. */
static bool region_flags_dead(const struct t1 *s, const struct t1_node *n)
{
    for (unsigned i = 0; i < n->n_ops; i++) {
        const struct bt_op *op = &n->b->ops[i];
        const struct t1_desc *d = bt_t1_desc(s->t, op->fn);

        if (op->flags & BT_OPF_MEM && d->class != T1_LEA)
            return false;
        switch (d->class) {
        case T1_ALU:
            return d->sub != BT_ALU_ADC && d->sub != BT_ALU_SBB && ((op->dst | op->src) & 7) == 0;
        case T1_TEST:
            return ((op->dst | op->src) & 7) == 0;
        case T1_MOV:
        case T1_MOVX:
            if ((op->dst | op->src) & 7)
                return false;
            break;
        case T1_NOP:
        case T1_LEA:
        case T1_BSWAP:
            break;
        default:
            return false;
        }
    }
    return false;
}

static void region_edges(struct t1 *s)
{
    for (unsigned i = 0; i < s->n_nodes; i++) {
        struct t1_node *n = &s->nodes[i], *to;
        uint64_t targets[2];
        unsigned count = region_targets(s, n, targets);

        for (unsigned k = 0; k < count; k++) {
            to = bt_t1_node_at(s, targets[k]);
            if (!to)
                continue;
            to->n_from++;
            if (to->rip <= n->rip)
                to->loop = true;
        }
        n->dead = region_flags_dead(s, n);
    }
}

void bt_t1_region(struct t1 *s, struct bt_block *b)
{
    s->page = s->rip & ~(MEM_PAGE_SIZE - 1);
    s->n_nodes = 0;
    if (s->sealed) {
        region_add(s, b, s->rip);
        return;
    }
    region_gather(s, b);
    region_sort(s);
    region_cut(s);
    region_edges(s);
}
