/* Exceptions: raising them (a non-local exit that leaves the instruction undone) and delivering them and interrupts
 * through the IVT or IDT, with the rules for faults during delivery.
 *
 * Delivery follows the same rule as instructions: every check and every push is made before a register changes, so that
 * a fault in the middle finds the interrupted state intact. c->in_delivery and c->delivering then tell the next
 * delivery what was going on, for #DF and shutdown. It must not know the run loop beyond c->jmp. */
#include "cpu/bt/sys_priv.h"

/* ---- raising ---- */

static _Noreturn void exc_leave(struct bt_vcpu *c, unsigned vector, bool has_error, uint32_t error, uint8_t soft,
                                uint64_t payload)
{
    c->exc.pending = 1;
    c->exc.vector = (uint8_t)vector;
    c->exc.has_error = has_error;
    c->exc.error = error;
    c->exc.soft = soft;
    c->exc.payload = payload;
    if (UNLIKELY(c->split_held)) {
        c->split_held = 0;
        bt_split_unlock(c->vm);
    }
    __builtin_longjmp(c->jmp, 1);
}

/* The instruction did not happen, so neither did its data breakpoints. */
static void exc_forget_traps(struct bt_vcpu *c)
{
    c->db_pending = 0;
    c->dr6_trap = 0;
}

_Noreturn void bt_raise(struct bt_vcpu *c, unsigned vector)
{
    exc_forget_traps(c);
    exc_leave(c, vector, false, 0, BT_SOFT_NONE, 0);
}

_Noreturn void bt_raise_error(struct bt_vcpu *c, unsigned vector, uint32_t error)
{
    exc_forget_traps(c);
    if (c->in_delivery && vector >= BT_TS && vector <= BT_GP)
        error |= c->sys.ext;
    exc_leave(c, vector, true, error, BT_SOFT_NONE, 0);
}

_Noreturn void bt_raise_pf(struct bt_vcpu *c, uint64_t lin, uint32_t error)
{
    exc_forget_traps(c);
    exc_leave(c, BT_PFV, true, error, BT_SOFT_NONE, lin);
}

_Noreturn void bt_raise_soft(struct bt_vcpu *c, unsigned vector, uint64_t next_rip)
{
    exc_leave(c, vector, false, 0, BT_SOFT_INT, next_rip);
}

_Noreturn void bt_raise_int1(struct bt_vcpu *c, uint64_t next_rip)
{
    exc_leave(c, BT_DB, false, 0, BT_SOFT_INT1, next_rip);
}

_Noreturn void bt_raise_db(struct bt_vcpu *c, uint64_t dr6)
{
    exc_forget_traps(c);
    exc_leave(c, BT_DB, false, 0, BT_SOFT_NONE, dr6);
}

/* ---- delivery ---- */

struct exc_event {
    unsigned vector;
    bool has_error;
    uint32_t error;
    uint8_t soft;
    uint64_t rip;   /* return address */
    uint64_t flags; /* to be pushed */
};

/* An IDT entry taken apart. */
struct exc_gate {
    uint64_t offset;
    uint16_t sel;
    uint8_t type, dpl, ist;
};

static void exc_deliver_real(struct bt_vcpu *c, const struct exc_event *ev)
{
    struct bt_stack k;
    uint32_t entry;

    if (ev->vector * 4 + 3 > c->idt.limit)
        bt_gp(c, 0);
    entry = bt_ld32_ctx(c, BT_CTX_KERNEL, (uint32_t)(c->idt.base + ev->vector * 4), BT_NOSEG);
    bt_stack_current(c, &k);
    bt_stack_push(c, &k, ev->flags & 0xffff, 2);
    bt_stack_push(c, &k, c->seg[BT_CS].sel, 2);
    bt_stack_push(c, &k, ev->rip, 2);
    if ((entry & 0xffff) > c->seg[BT_CS].limit)
        bt_gp(c, 0);
    c->r[BT_RSP] = bt_stack_rsp(c, &k);
    bt_seg_real(&c->seg[BT_CS], (uint16_t)(entry >> 16), false);
    c->r[BT_RIP] = entry & 0xffff;
    c->rflags &= ~(uint64_t)(BT_IF | BT_TF | BT_AC | BT_RF);
    bt_state_update(c);
}

static uint32_t exc_idt_error(const struct exc_event *ev)
{
    return ev->vector * 8 + 2;
}

static void exc_read_gate(struct bt_vcpu *c, const struct exc_event *ev, struct exc_gate *g)
{
    bool wide = BT_LONG_MODE(c);
    unsigned size = wide ? 16 : 8;
    uint64_t lin = bt_table_lin(c, c->idt.base, (uint64_t)ev->vector * size), raw;

    if (ev->vector * size + size - 1 > c->idt.limit)
        bt_gp(c, exc_idt_error(ev));
    raw = bt_ld64_ctx(c, BT_CTX_KERNEL, lin, BT_NOSEG);
    g->offset = bits_get(raw, 15, 0) | bits_get(raw, 63, 48) << 16;
    g->sel = (uint16_t)bits_get(raw, 31, 16);
    g->type = (uint8_t)bits_get(raw, 44, 40); /* with S, which must be 0 */
    g->dpl = (uint8_t)bits_get(raw, 46, 45);
    g->ist = wide ? (uint8_t)bits_get(raw, 34, 32) : 0;
    if (wide)
        g->offset |= (uint64_t)bt_ld32_ctx(c, BT_CTX_KERNEL, lin + 8, BT_NOSEG) << 32;
    switch (g->type) {
    case BT_SYS_INT32:
    case BT_SYS_TRAP32:
        break;
    case BT_SYS_TASK:
    case BT_SYS_INT16:
    case BT_SYS_TRAP16:
        if (!wide)
            break;
        FALLTHROUGH;
    default:
        bt_gp(c, exc_idt_error(ev));
    }
    if (ev->soft == BT_SOFT_INT && g->dpl < c->cpl)
        bt_gp(c, exc_idt_error(ev));
    if (!(raw & BIT64(47)))
        bt_raise_error(c, BT_NP, exc_idt_error(ev));
}

/* The handler's code segment; returns the privilege level that it runs at. */
static uint8_t exc_read_code(struct bt_vcpu *c, uint16_t sel, struct bt_seg *cs, struct bt_desc *d)
{
    if (bt_sel_null(sel))
        bt_gp(c, 0);
    bt_desc_need(c, sel, BT_GP, d);
    bt_desc_unpack(d->raw, sel, cs);
    if (!bt_seg_is_code(cs) || cs->dpl > c->cpl || (BT_LONG_MODE(c) && (!cs->l || cs->db)))
        bt_gp(c, sel & ~3U);
    if (!cs->present)
        bt_raise_error(c, BT_NP, sel & ~3U);
    return bt_seg_is_conforming(cs) ? c->cpl : cs->dpl;
}

static void exc_enter(struct bt_vcpu *c, const struct exc_gate *g, struct bt_seg *cs, const struct bt_desc *d,
                      uint8_t cpl)
{
    bt_desc_accessed(c, d, cs);
    cs->sel = (uint16_t)((g->sel & ~3U) | cpl);
    c->seg[BT_CS] = *cs;
    c->cpl = cpl;
    c->r[BT_RIP] = g->offset;
    c->rflags &= ~(uint64_t)(BT_TF | BT_NT | BT_RF | BT_VM);
    if (!(g->type & 1)) /* interrupt gate */
        c->rflags &= ~(uint64_t)BT_IF;
    bt_state_update(c);
}

static void exc_deliver_long(struct bt_vcpu *c, const struct exc_event *ev)
{
    struct exc_gate g;
    struct bt_stack k;
    struct bt_seg cs;
    struct bt_desc d;
    uint8_t cpl;

    exc_read_gate(c, ev, &g);
    cpl = exc_read_code(c, g.sel, &cs, &d);
    if (g.ist)
        bt_stack_new64(&k, bt_tss_stack64(c, 3U + g.ist), BT_CTX_KERNEL);
    else if (cpl != c->cpl)
        bt_stack_new64(&k, bt_tss_stack64(c, cpl), BT_CTX_KERNEL);
    else
        bt_stack_new64(&k, c->r[BT_RSP], c->ctx);
    if (cpl == c->cpl)
        k.ctx = c->ctx;
    k.sp &= ~15ULL;
    bt_check_target(c, &cs, g.offset);
    bt_stack_push(c, &k, c->seg[BT_SS].sel, 8);
    bt_stack_push(c, &k, c->r[BT_RSP], 8);
    bt_stack_push(c, &k, ev->flags, 8);
    bt_stack_push(c, &k, c->seg[BT_CS].sel, 8);
    bt_stack_push(c, &k, ev->rip, 8);
    if (ev->has_error)
        bt_stack_push(c, &k, ev->error, 8);
    if (cpl != c->cpl)
        bt_seg_null(&c->seg[BT_SS], cpl, cpl);
    c->r[BT_RSP] = k.sp;
    exc_enter(c, &g, &cs, &d, cpl);
}

static void exc_push_frame(struct bt_vcpu *c, const struct exc_event *ev, struct bt_stack *k, unsigned size)
{
    bt_stack_push(c, k, ev->flags, size);
    bt_stack_push(c, k, c->seg[BT_CS].sel, size);
    bt_stack_push(c, k, ev->rip, size);
    if (ev->has_error)
        bt_stack_push(c, k, ev->error, size);
}

/* To a more privileged level, also from virtual-8086 mode. */
static void exc_deliver_inner(struct bt_vcpu *c, const struct exc_event *ev, const struct exc_gate *g,
                              struct bt_seg *cs, const struct bt_desc *d, uint8_t cpl)
{
    static const uint8_t v86_order[] = { BT_GS, BT_FS, BT_DS, BT_ES };
    unsigned size = (g->type & 8) ? 4 : 2;
    bool v86 = bt_v86(c);
    struct bt_desc ss_desc;
    struct bt_stack k;
    struct bt_seg ss;
    uint16_t ss_sel;
    uint32_t sp;

    bt_tss_stack(c, cpl, &ss_sel, &sp);
    bt_seg_check_stack(c, ss_sel, cpl, BT_TS, false, &ss, &ss_desc);
    bt_stack_new(&k, &ss, sp, ss_sel & ~3U);
    for (unsigned i = 0; v86 && i < ARRAY_SIZE(v86_order); i++)
        bt_stack_push(c, &k, c->seg[v86_order[i]].sel, size);
    bt_stack_push(c, &k, c->seg[BT_SS].sel, size);
    bt_stack_push(c, &k, c->r[BT_RSP], size);
    exc_push_frame(c, ev, &k, size);
    bt_check_target(c, cs, g->offset);
    bt_desc_accessed(c, &ss_desc, &ss);
    for (unsigned i = 0; v86 && i < ARRAY_SIZE(v86_order); i++)
        bt_seg_null(&c->seg[v86_order[i]], 0, 0);
    c->r[BT_RSP] = k.mask == 0xffff ? (c->r[BT_RSP] & ~0xffffULL) | k.sp : k.sp;
    c->seg[BT_SS] = ss;
    exc_enter(c, g, cs, d, cpl);
}

static void exc_deliver_protected(struct bt_vcpu *c, const struct exc_event *ev)
{
    struct exc_gate g;
    struct bt_stack k;
    struct bt_seg cs;
    struct bt_desc d;
    uint8_t cpl;

    exc_read_gate(c, ev, &g);
    if (g.type == BT_SYS_TASK) {
        c->rflags = ev->flags; /* RF goes into the old TSS */
        bt_task_switch(c, g.sel, BT_TASK_EVENT, ev->rip, ev->has_error, ev->error);
        return;
    }
    if (!(g.type & 8))
        g.offset &= 0xffff;
    cpl = exc_read_code(c, g.sel, &cs, &d);
    if (bt_v86(c) && cpl != 0)
        bt_gp(c, g.sel & ~3U);
    if (cpl != c->cpl) {
        exc_deliver_inner(c, ev, &g, &cs, &d, cpl);
        return;
    }
    bt_stack_current(c, &k);
    exc_push_frame(c, ev, &k, (g.type & 8) ? 4 : 2);
    bt_check_target(c, &cs, g.offset);
    c->r[BT_RSP] = bt_stack_rsp(c, &k);
    exc_enter(c, &g, &cs, &d, cpl);
}

static void exc_deliver(struct bt_vcpu *c, const struct exc_event *ev)
{
    struct exc_event real;

    c->in_delivery = 1;
    if (!(c->cr0 & BT_CR0_PE)) {
        real = *ev;
        real.has_error = false;
        exc_deliver_real(c, &real);
    } else if (BT_LONG_MODE(c)) {
        exc_deliver_long(c, ev);
    } else {
        exc_deliver_protected(c, ev);
    }
    c->in_delivery = 0;
    c->sys.ext = 0;
    c->shadow = 0;
    c->halted = 0;
}

/* ---- what follows what ---- */

static bool exc_contributory(int vector)
{
    return vector == BT_DE || (vector >= BT_TS && vector <= BT_GP);
}

/* The vector that results from a fault with vector second while first was being delivered; -1: shutdown. */
static int exc_combine(int first, int second)
{
    bool bad = exc_contributory(second);

    if (first == BT_DFV && (bad || second == BT_PFV))
        return -1;
    if ((exc_contributory(first) && bad) || (first == BT_PFV && (bad || second == BT_PFV)))
        return BT_DFV;
    return second;
}

/* Is the exception a fault, whose frame has RF set? Of #DB, only general detect. */
static bool exc_is_fault(const struct bt_vcpu *c)
{
    if (c->exc.soft || c->exc.vector == BT_NMI || c->exc.vector == BT_MC || c->exc.vector > 31)
        return false; /* above 31: an interrupt of a state that was saved in the middle of its delivery */
    return c->exc.vector != BT_DB || (c->exc.payload & BT_DR6_BD);
}

static void exc_debug_registers(struct bt_vcpu *c)
{
    c->dr[6] = (c->dr[6] & ~0xfULL) | c->exc.payload | BT_DR6_FIXED;
    if (c->dr[7] & BIT64(13)) {
        c->dr[7] &= ~BIT64(13);
        bt_debug_update(c);
    }
}

void bt_deliver_exception(struct bt_vcpu *c)
{
    struct exc_event ev = {
        .vector = c->exc.vector,
        .has_error = c->exc.has_error,
        .error = c->exc.error,
        .soft = c->exc.soft,
        .rip = c->exc.soft ? c->exc.payload : c->r[BT_RIP],
        .flags = exc_is_fault(c) ? c->rflags | BT_RF : c->rflags,
    };

    c->exc.pending = 0;
    if (c->exc.soft)
        ev.flags &= ~(uint64_t)BT_RF;
    if (ev.vector == BT_PFV && !ev.soft)
        c->cr2 = c->exc.payload;
    if (c->in_delivery) {
        int vector = exc_combine(c->delivering, (int)ev.vector);

        c->in_delivery = 0;
        if (vector < 0) {
            c->shutdown = 1;
            return;
        }
        if (vector == BT_DFV) {
            ev.vector = BT_DFV;
            ev.has_error = true;
            ev.error = 0;
        }
    }
    if (ev.vector == BT_DB && !ev.soft)
        exc_debug_registers(c);
    c->delivering = ev.soft ? -1 : (int16_t)ev.vector;
    c->sys.ext = ev.soft != BT_SOFT_INT;
    exc_deliver(c, &ev);
}

void bt_deliver_interrupt(struct bt_vcpu *c, unsigned vector, bool nmi)
{
    struct exc_event ev = { .vector = vector, .rip = c->r[BT_RIP], .flags = c->rflags };

    if (nmi)
        c->nmi_blocked = 1;
    c->delivering = -1;
    c->sys.ext = 1;
    exc_deliver(c, &ev);
}
