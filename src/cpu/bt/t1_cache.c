/* Translations and the memory that they live in: making one of a block, connecting them, forgetting all. Ordinary code;
 * it must not know instructions, which are t1_gen.c's. */
#include "cpu/bt/t1_priv.h"

/* What was written through one mapping is going to be executed through another: the SDM wants a serialising instruction
 * between, and IRET is the one that a hypervisor does not trap. */
static void t1_serialise(void)
{
    unsigned long tmp, sp;

    __asm__ volatile("movq %%rsp, %[sp]\n\t"
                     "leaq -128(%%rsp), %%rsp\n\t"
                     "pushq $0x202\n\t" /* with NT set, which a test may have left so, IRET would fault */
                     "popfq\n\t"
                     "movl %%ss, %k[tmp]\n\t"
                     "pushq %[tmp]\n\t"
                     "pushq %[sp]\n\t"
                     "pushq $0x202\n\t"
                     "movl %%cs, %k[tmp]\n\t"
                     "pushq %[tmp]\n\t"
                     "leaq 1f(%%rip), %[tmp]\n\t"
                     "pushq %[tmp]\n\t"
                     "iretq\n"
                     "1:"
                     : [tmp] "=&r"(tmp), [sp] "=&r"(sp)
                     :
                     : "memory", "cc");
}

struct bt_trans *bt_t1_translate(struct bt_vcpu *c, struct bt_block *b)
{
    struct bt_t1 *m = c->t1;
    struct bt_trans *t = &m->trans[m->n_trans];
    struct t1 s = { .c = c, .t = m, .ctx = c->ctx, .rip = c->r[BT_RIP], .fl = T1_FL_MEM };

    if (c->mode != BT_MODE_64 || c->ctx >= BT_CTX_FETCH || b == &c->cache->single || b->crossing)
        return NULL;
    s.e = (struct bt_emit){ .buf = m->rw, .pos = m->used, .end = m->used + T1_RESERVE };
    *t = (struct bt_trans){ .rip = s.rip, .gpa = b->gpa, .ctx = s.ctx };
    if (!bt_t1_generate(&s, b, t))
        return NULL;
    m->used = (s.e.pos + 15) & ~15U;
    m->n_trans++;
    t->next = b->trans;
    b->trans = t;
    c->stat[BT_STAT_T1_TRANS]++;
    t1_serialise();
    return t;
}

bool bt_t1_full(const struct bt_vcpu *c)
{
    return c->t1->used > T1_ARENA - 2 * T1_RESERVE || c->t1->n_trans == T1_TRANS_MAX;
}

void bt_t1_reset(struct bt_vcpu *c)
{
    c->t1->used = c->t1->first;
    c->t1->n_trans = 0;
    c->t1_link = 0;
    c->t1_stale = NULL;
    for (unsigned i = 0; i < BT_CTX_FETCH * BT_JC_SIZE; i++)
        c->jc[i / BT_JC_SIZE][i % BT_JC_SIZE] = (struct bt_jce){ 0 };
}

void bt_t1_connect(struct bt_vcpu *c, const struct bt_trans *t)
{
    struct bt_emit e = { .buf = c->t1->rw, .end = T1_ARENA };
    const struct bt_trans *old = c->t1_stale;
    uint32_t link = c->t1_link;

    c->t1_stale = NULL;
    c->t1_link = 0;
    if (old && old != t && old->rip == t->rip && old->gpa == t->gpa && old->ctx == t->ctx) {
        e.pos = old->near;
        bt_emit_jump_to(&e, BT_JMP, t->near);
        c->stat[BT_STAT_T1_STALE]++;
    } else if (link) {
        bt_emit_target(&e, link & ~T1_LINK_NEAR, link & T1_LINK_NEAR ? t->near : t->entry);
        c->stat[BT_STAT_T1_LINK]++;
    } else {
        return;
    }
    t1_serialise();
}
