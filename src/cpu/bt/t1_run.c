/* The way into translated code. Run path. */
#include <asm/prctl.h>

#include "cpu/bt/block_priv.h"
#include "cpu/bt/int_priv.h"
#include "cpu/bt/raw.h"
#include "cpu/bt/t1_priv.h"

void bt_t1_remember(struct bt_vcpu *c, const struct bt_trans *t)
{
    c->jc[t->ctx][t->rip & (BT_JC_SIZE - 1)] = (struct bt_jce){ .rip = t->rip, .code = c->t1->rx + t->entry };
}

static bool claim_page(struct bt_vcpu *c, const struct bt_block *b, uint64_t lin, uint32_t xid)
{
    struct bt_tlbe *e = bt_tlbe(c, BT_CTX_FETCH + (c->cpl == 3 ? BT_CTX_USER : BT_CTX_KERNEL), lin);

    if (LIKELY(atomic_load_explicit(&e->xid, memory_order_relaxed) == xid))
        return true;
    /* Pairs with bt_code_written: it sees this store, or the generation is seen to have changed. */
    atomic_store(&e->xid, xid);
    if (LIKELY(bt_block_current(b)))
        return true;
    atomic_store(&e->xid, 0);
    return false;
}

bool bt_t1_claim(struct bt_vcpu *c, const struct bt_block *b, const struct bt_trans *t)
{
    return claim_page(c, b, t->rip, t->xid) &&
           (t->xid2 == 0 || claim_page(c, b, t->rip + MEM_PAGE_SIZE - (t->rip & (MEM_PAGE_SIZE - 1)), t->xid2));
}

void bt_t1_forget(struct bt_vcpu *c)
{
    for (unsigned i = 0; i < 2 * BT_TLB_SIZE; i++)
        atomic_store_explicit(&c->tlb[BT_CTX_FETCH + i / BT_TLB_SIZE][i % BT_TLB_SIZE].xid, 0, memory_order_relaxed);
    c->t1_link = 0;
    c->t1_stale = NULL;
    for (unsigned i = 0; i < BT_CTX_FETCH * BT_JC_SIZE; i++) {
        struct bt_jce *e = &c->jc[i / BT_JC_SIZE][i % BT_JC_SIZE];

        if (e->rip != bt_jc_none(i % BT_JC_SIZE)) /* what was never used stays untouched */
            *e = (struct bt_jce){ .rip = bt_jc_none(i % BT_JC_SIZE) };
    }
}

static ALWAYS_INLINE void run_code(struct bt_vcpu *c, uintptr_t code)
{
    uintptr_t enter = (uintptr_t)c->t1->rx + c->t1->enter;

    c->t1_flags = (uint16_t)bt_fl_pack(c->rflags);
    c->stat[BT_STAT_T1_ENTER]++;
    /* The red zone of this function stays untouched. */
    __asm__ volatile("leaq -128(%%rsp), %%rsp\n\t"
                     "call *%%rax\n\t"
                     "leaq 128(%%rsp), %%rsp"
                     : "+a"(enter), "+S"(code)
                     :
                     : "rcx", "rdx", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
    c->rflags = bt_fl_merge(c->rflags, c->t1_flags);
}

void bt_t1_run(struct bt_vcpu *c, const struct bt_trans *t)
{
    run_code(c, (uintptr_t)c->t1->rx + t->near);
}

bool bt_t1_run_known(struct bt_vcpu *c)
{
    const struct bt_jce *e = &c->jc[c->ctx][c->r[BT_RIP] & (BT_JC_SIZE - 1)];

    if (e->rip != c->r[BT_RIP] || c->mode != BT_MODE_64)
        return false;
    c->op_end = &c->front->single_op;
    run_code(c, (uintptr_t)e->code);
    return true;
}

void bt_t1_thread_begin(struct bt_vcpu *c)
{
    c->self = c;
    bt_raw_syscall3(SYS_arch_prctl, ARCH_SET_GS, (long)(uintptr_t)c, 0);
}
