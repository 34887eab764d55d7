/* The way into translated code. Run path. */
#include <asm/prctl.h>

#include "cpu/bt/int_priv.h"
#include "cpu/bt/raw.h"
#include "cpu/bt/t1_priv.h"

void bt_t1_remember(struct bt_vcpu *c, const struct bt_trans *t)
{
    c->jc[t->ctx][t->rip & (BT_JC_SIZE - 1)] = (struct bt_jce){ .rip = t->rip, .code = c->t1->rx + t->entry };
}

void bt_t1_forget(struct bt_vcpu *c)
{
    c->t1_link = 0;
    c->t1_stale = NULL;
    for (unsigned i = 0; i < BT_CTX_FETCH * BT_JC_SIZE; i++)
        c->jc[i / BT_JC_SIZE][i % BT_JC_SIZE] = (struct bt_jce){ .rip = bt_jc_none(i % BT_JC_SIZE) };
}

void bt_t1_run(struct bt_vcpu *c, const struct bt_trans *t)
{
    const struct bt_t1 *m = c->t1;
    uintptr_t enter = (uintptr_t)m->rx + m->enter, code = (uintptr_t)m->rx + t->near;

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

void bt_t1_thread_begin(struct bt_vcpu *c)
{
    c->self = c;
    bt_raw_syscall3(SYS_arch_prctl, ARCH_SET_GS, (long)(uintptr_t)c, 0);
}
