/* The run loop: blocks of operations, and between them whatever happens at instruction boundaries
 * (exceptions, interrupts, INIT/SIPI, single steps, HLT, kicks).
 *
 * Control flow: bt_vcpu_loop calls run_guarded again and again; a handler that faults leaves it by bt_raise (a
 * __builtin_longjmp to c->jmp) with c->exc filled in, and the next round delivers the exception. Delivery may fault in
 * the same way. Events from other threads arrive in c->events and are looked at before each block. */
#include "cpu/bt/run.h"

#include <sys/syscall.h>

#include "cpu/bt/block_priv.h"
#include "cpu/bt/fp.h"
#include "cpu/bt/irqchip/irqchip.h"
#include "cpu/bt/mmu.h"
#include "cpu/bt/raw.h"
#include "cpu/bt/sys.h"
#include "cpu/bt/t1.h"

/* Why run_guarded came back. */
enum run_result { RUN_AGAIN, RUN_KICKED, RUN_SHUTDOWN };

void bt_vcpu_signal(struct bt_vcpu *c, uint32_t events)
{
    atomic_fetch_or(&c->events, events);
    atomic_fetch_add(&c->wake, 1);
    if (atomic_load(&c->sleeping))
        bt_raw_futex_wake(&c->wake);
}

static void run_clear(struct bt_vcpu *c, uint32_t events)
{
    atomic_fetch_and(&c->events, ~events);
}

/* INIT and SIPI; they wake an AP, and INIT resets any vCPU. */
static void run_init_sipi(struct bt_vcpu *c, uint32_t ev)
{
    if (ev & BT_EV_INIT) {
        run_clear(c, BT_EV_INIT);
        bt_vcpu_init(c);
        c->halted = 0;
        c->shadow = 0;
        c->exc.pending = 0;
        c->mp_state = c->id == 0 ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_INIT_RECEIVED;
    }
    if (ev & BT_EV_SIPI) {
        run_clear(c, BT_EV_SIPI);
        if (c->mp_state == KVM_MP_STATE_INIT_RECEIVED) {
            bt_vcpu_sipi(c, c->sipi_vector);
            c->mp_state = KVM_MP_STATE_RUNNABLE;
        }
    }
}

void bt_vcpu_accept(struct bt_vcpu *c)
{
    run_init_sipi(c, atomic_load(&c->events));
}

/* Deliver an external interrupt if one can be taken. The flag is cleared before the controller is asked, so that one
 * which arrives in between sets it again. */
static bool run_interrupt(struct bt_vcpu *c)
{
    int vector;

    run_clear(c, BT_EV_IRQ);
    vector = bt_irq_ack(c);
    if (vector < 0)
        return false;
    atomic_fetch_or(&c->events, BT_EV_IRQ); /* there may be more behind it */
    c->halted = 0;
    c->stat[BT_STAT_IRQ]++;
    bt_deliver_interrupt(c, (unsigned)vector, false);
    return true;
}

/* Everything that events can ask for between two instructions. */
static enum run_result run_boundary(struct bt_vcpu *c)
{
    uint32_t ev = bt_run_events(c);

    if (ev & BT_EV_KICK) {
        run_clear(c, BT_EV_KICK);
        return RUN_KICKED;
    }
    if (ev & (BT_EV_INIT | BT_EV_SIPI))
        run_init_sipi(c, ev);
    if (ev & BT_EV_TLB) {
        run_clear(c, BT_EV_TLB);
        bt_tlb_flush_all(c);
    }
    if (ev & BT_EV_TIMER) {
        run_clear(c, BT_EV_TIMER);
        bt_timers_run(c);
    }
    if ((ev & BT_EV_NMI) && c->nmi_blocked) { /* IRET raises it again; left set it would keep blocks from running */
        run_clear(c, BT_EV_NMI);
        c->nmi_pending = 1;
        ev &= ~(uint32_t)BT_EV_NMI;
    }
    if (ev & BT_EV_SMI)
        run_clear(c, BT_EV_SMI); /* no SMM is offered */
    if (ev & BT_EV_CODE)
        run_clear(c, BT_EV_CODE);
    if (ev & BT_EV_CACHE) {
        run_clear(c, BT_EV_CACHE);
        bt_cache_leave(c);
    }
    if (c->mp_state != KVM_MP_STATE_RUNNABLE || c->shadow)
        return RUN_AGAIN;
    if (ev & BT_EV_NMI) {
        run_clear(c, BT_EV_NMI);
        c->halted = 0;
        bt_deliver_interrupt(c, BT_NMI, true);
    } else if (c->rflags & BT_IF && atomic_load_explicit(&c->events, memory_order_relaxed) & BT_EV_IRQ) {
        run_interrupt(c);
    }
    return RUN_AGAIN;
}

/* Wait in HLT, or for SIPI, until there is something to do. */
static void run_sleep(struct bt_vcpu *c)
{
    uint64_t until;
    uint32_t seen;

    c->stat[BT_STAT_HLT]++;
    c->pause_idle = 0;
    bt_cache_leave(c);
    bt_pv_idle(c, true);
    atomic_store(&c->sleeping, 1);
    seen = atomic_load(&c->wake);
    until = bt_timer_next(c);
    if (!bt_run_wakes(c))
        bt_raw_futex_wait(&c->wake, seen, until);
    atomic_store(&c->sleeping, 0);
    bt_pv_idle(c, false);
    bt_timers_run(c);
}

/* One instruction, with everything that single stepping, breakpoints and interrupt shadows ask for around it. */
static void run_step(struct bt_vcpu *c)
{
    bool stepping = atomic_load_explicit(&c->events, memory_order_relaxed) & BT_EV_STEP;
    const struct bt_block *b;
    const struct bt_op *op;
    enum bt_next next;

    if (stepping)
        bt_step_before(c);
    b = bt_block_get(c);
    op = b->ops;
    c->op_end = op + 1;
    c->shadow = 0; /* its own effect, if any, comes from the handler */
    next = op->fn(c, op);
    if (next != BT_JUMP)
        c->r[BT_RIP] += op->len;
    c->insns++;
    if (stepping)
        bt_step_after(c);
}

/* Interpret one block. */
static ALWAYS_INLINE void run_block(struct bt_vcpu *c, const struct bt_block *b)
{
    const struct bt_op *op = b->ops;
    enum bt_next next;

    c->op_end = op + b->n_ops;
    do {
        next = op->fn(c, op);
        if (UNLIKELY(next != BT_NEXT))
            break;
        c->r[BT_RIP] += op->len;
        op++;
    } while (LIKELY(op < c->op_end));
    c->insns += (uint64_t)(op - b->ops);
    c->stat[BT_STAT_BLOCKS]++;
    if (next != BT_NEXT) {
        c->insns++;
        if (next == BT_END)
            c->r[BT_RIP] += op->len;
    }
}

/* Run blocks until something has to be looked at. */
static enum run_result run_blocks(struct bt_vcpu *c)
{
    for (;;) {
        if (UNLIKELY(bt_run_events(c) | c->shadow | c->halted))
            return RUN_AGAIN;
        c->rflags &= ~(uint64_t)BT_RF; /* it protects from instruction breakpoints only, and none is armed here */
        run_block(c, bt_block_get(c));
    }
}

#define RUN_NEVER UINT32_MAX /* in bt_block.runs: cannot be translated */
#define RUN_TRANS_MAX 32U    /* translations of one block: addresses and contexts */

/* The one that is there already; how many others. */
static ALWAYS_INLINE const struct bt_trans *run_find_trans(const struct bt_vcpu *c, struct bt_block *b, bool plain,
                                                           unsigned *ret_n)
{
    const struct bt_trans *t = atomic_load_explicit(&b->trans, memory_order_acquire);

    *ret_n = 0;
    while (t && (t->rip != c->r[BT_RIP] || t->ctx != c->ctx || t->plain != plain)) {
        t = t->next;
        ++*ret_n;
    }
    return t;
}

/* NULL: cannot be done, or everything has to be evicted first. */
static NOINLINE const struct bt_trans *run_translate(struct bt_vcpu *c, struct bt_block *b, bool plain)
{
    const struct bt_trans *t;
    unsigned n;

    bt_lock(&c->cache->lock);
    t = run_find_trans(c, b, plain, &n); /* another vCPU may have been faster */
    if (!t && bt_t1_full(c->t1)) {
        bt_cache_evict_locked(c->vm);
    } else if (!t && !atomic_load(&c->cache->evicting)) {
        t = bt_t1_translate(c, b, plain);
        if (!t)
            atomic_store_explicit(&b->runs, RUN_NEVER, memory_order_relaxed);
    }
    bt_unlock(&c->cache->lock);
    return t;
}

/* The translation of b for the present address and context, made if the block is hot; NULL: interpret it. */
static const struct bt_trans *run_trans(struct bt_vcpu *c, struct bt_block *b)
{
    const struct bt_trans *t;
    uint32_t runs;
    unsigned n;

    bool plain = (c->t1_link & T1_LINK_PLAIN) != 0;

    t = run_find_trans(c, b, plain, &n);
    if (LIKELY(t))
        return t;
    runs = atomic_load_explicit(&b->runs, memory_order_relaxed);
    if (runs == RUN_NEVER || n >= RUN_TRANS_MAX)
        return NULL;
    if (runs < c->vm->hot && !plain) {
        atomic_store_explicit(&b->runs, runs + 1, memory_order_relaxed);
        return NULL;
    }
    bt_fp_sync(c);
    return run_translate(c, b, plain);
}

/* The same with translations of the blocks that run often. They chain among themselves and come back here for events,
 * for blocks that are not translated yet, and after instructions that may have changed anything. */
static enum run_result run_translated(struct bt_vcpu *c)
{
    c->t1_link = 0;
    c->t1_stale = NULL;
    for (;;) {
        const struct bt_trans *t;
        struct bt_block *b;
        bool resumes;

        if (UNLIKELY(bt_run_events(c) | c->shadow | c->halted))
            return RUN_AGAIN;
        resumes = (c->rflags & BT_RF) != 0;
        if (LIKELY(!resumes && !c->t1_link && !c->t1_stale) && bt_t1_run_known(c))
            continue;
        c->rflags &= ~(uint64_t)BT_RF;
        b = bt_block_get(c);
        /* In the middle of a REP: an interrupt between here and its next iteration, as at the head of a translation,
         * would have to push RF, which is gone. */
        t = UNLIKELY(resumes) ? NULL : run_trans(c, b);
        if (!t) {
            c->t1_link = 0;
            c->t1_stale = NULL;
            run_block(c, b);
            continue;
        }
        if (UNLIKELY(!bt_t1_claim(c, b, t)))
            continue;
        if (c->t1_link || c->t1_stale) {
            bt_fp_sync(c);
            bt_t1_connect(c, t);
        }
        if (LIKELY(!t->plain))
            bt_t1_remember(c, t);
        c->op_end = b->ops + b->n_ops;
        bt_t1_run(c, t);
    }
}

/* The part of the loop that bt_raise may leave. */
static NOINLINE enum run_result run_guarded(struct bt_vcpu *c)
{
    enum run_result r;

    if (__builtin_setjmp(c->jmp))
        return c->shutdown ? RUN_SHUTDOWN : RUN_AGAIN;
    for (;;) {
        if (c->exc.pending) {
            c->shadow = 0;
            c->halted = 0;
            c->stat[BT_STAT_EXC]++;
            bt_deliver_exception(c);
        }
        if (c->shutdown)
            return RUN_SHUTDOWN;
        r = run_boundary(c);
        if (r != RUN_AGAIN || c->shutdown)
            return c->shutdown ? RUN_SHUTDOWN : r;
        if (c->mp_state != KVM_MP_STATE_RUNNABLE || (c->halted && !c->shadow))
            run_sleep(c);
        else if (UNLIKELY(!bt_cache_enter(c)))
            continue; /* kicked */
        else if (c->shadow || bt_run_events(c) & BT_EV_STEP)
            run_step(c);
        else if (c->t1)
            run_translated(c);
        else
            run_blocks(c);
    }
}

void bt_vcpu_loop(struct bt_vcpu *c, struct cpu_exit *ret_exit)
{
    enum run_result r = RUN_AGAIN;

    if (c->t1)
        bt_t1_thread_begin(c);
    bt_pv_enter(c);
    while (r == RUN_AGAIN)
        r = run_guarded(c);
    bt_cache_leave(c);
    bt_fp_sync(c);
    ret_exit->reason = r == RUN_KICKED ? CPU_EXIT_KICK : CPU_EXIT_SHUTDOWN;
}
