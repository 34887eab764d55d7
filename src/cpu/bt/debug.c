/* Debug registers at work: instruction, data and I/O breakpoints and single steps.
 *
 * While anything is armed, BT_EV_STEP makes the run loop go instruction by instruction. Data breakpoints are found by
 * the slow path of the MMU, which sees every access to a page that an armed register touches. Hits gather in
 * c->dr6_trap with c->db_pending set, and become one #DB trap after the instruction, or after the next one behind MOV
 * SS. */
#include "cpu/bt/sys_priv.h"

enum { DBG_EXEC = 0, DBG_WRITE = 1, DBG_IO = 2, DBG_RW = 3 };

static unsigned dbg_type(const struct bt_vcpu *c, unsigned n)
{
    return (unsigned)(c->dr[7] >> (16 + 4 * n)) & 3;
}

static uint64_t dbg_len(const struct bt_vcpu *c, unsigned n)
{
    static const uint8_t lens[] = { 1, 2, 8, 4 };

    return lens[(c->dr[7] >> (18 + 4 * n)) & 3];
}

/* First address of breakpoint n: the hardware ignores the low bits that the length covers. */
static uint64_t dbg_addr(const struct bt_vcpu *c, unsigned n)
{
    return c->dr[n] & ~(dbg_len(c, n) - 1);
}

void bt_debug_update(struct bt_vcpu *c)
{
    struct bt_sys *s = &c->sys;
    bool had_data = s->bp_data != 0;

    s->bp_code = s->bp_data = s->bp_io = 0;
    for (unsigned n = 0; n < 4; n++) {
        uint8_t bit = (uint8_t)(1U << n);

        if (!(c->dr[7] >> (2 * n) & 3))
            continue;
        switch (dbg_type(c, n)) {
        case DBG_EXEC:
            s->bp_code |= bit;
            break;
        case DBG_IO:
            if (c->cr4 & BT_CR4_DE)
                s->bp_io |= bit;
            break;
        default:
            s->bp_data |= bit;
        }
    }
    if (had_data || s->bp_data)
        bt_tlb_flush_all(c);
    if ((s->bp_code | s->bp_data | s->bp_io) || (c->rflags & BT_TF) || c->db_pending)
        atomic_fetch_or_explicit(&c->events, BT_EV_STEP, memory_order_relaxed);
}

bool bt_bp_page(const struct bt_vcpu *c, uint64_t lin)
{
    for (unsigned n = 0; n < 4; n++) {
        if ((c->sys.bp_data >> n & 1) && (dbg_addr(c, n) ^ lin) >> MEM_PAGE_SHIFT == 0)
            return true;
    }
    return false;
}

void bt_debug_hit(struct bt_vcpu *c, uint64_t bits)
{
    c->dr6_trap |= bits;
    c->db_pending = 1;
    atomic_fetch_or_explicit(&c->events, BT_EV_STEP, memory_order_relaxed);
}

void bt_bp_data(struct bt_vcpu *c, uint64_t lin, unsigned size, bool write)
{
    for (unsigned n = 0; n < 4; n++) {
        uint64_t at = dbg_addr(c, n);

        if (!(c->sys.bp_data >> n & 1) || (!write && dbg_type(c, n) == DBG_WRITE))
            continue;
        if (lin < at + dbg_len(c, n) && at < lin + size)
            bt_debug_hit(c, BIT64(n));
    }
}

void bt_bp_io(struct bt_vcpu *c, uint16_t port, unsigned len)
{
    for (unsigned n = 0; n < 4; n++) {
        uint64_t at = dbg_addr(c, n);

        if ((c->sys.bp_io >> n & 1) && port < at + dbg_len(c, n) && at < (uint64_t)port + len)
            bt_debug_hit(c, BIT64(n));
    }
}

static _Noreturn void dbg_raise_pending(struct bt_vcpu *c, uint64_t more)
{
    bt_raise_db(c, c->dr6_trap | more); /* clears what was pending */
}

static void dbg_code_breakpoints(struct bt_vcpu *c)
{
    uint64_t lin = bt_mode64(c) ? c->r[BT_RIP] : (uint32_t)(c->segbase[BT_CS] + c->r[BT_RIP]);
    uint64_t hits = 0;

    for (unsigned n = 0; n < 4; n++) {
        if ((c->sys.bp_code >> n & 1) && c->dr[n] == lin)
            hits |= BIT64(n);
    }
    if (hits)
        bt_raise_db(c, hits);
}

void bt_step_before(struct bt_vcpu *c)
{
    /* Left over from an instruction that transferred control by an exit of its own: INT n, task switch. */
    if (c->db_pending && !(c->shadow & BT_SHADOW_MOVSS))
        dbg_raise_pending(c, 0);
    if (c->sys.bp_code && !(c->rflags & BT_RF) && !(c->shadow & BT_SHADOW_MOVSS))
        dbg_code_breakpoints(c);
    c->rflags &= ~(uint64_t)BT_RF;
    c->sys.tf_before = (c->rflags & BT_TF) != 0;
}

void bt_step_after(struct bt_vcpu *c)
{
    if (c->shadow & BT_SHADOW_MOVSS)
        return; /* everything waits for the next instruction, and the single step of this one never comes */
    if (c->db_pending || c->sys.tf_before)
        dbg_raise_pending(c, c->sys.tf_before ? BT_DR6_BS : 0);
    if (!(c->sys.bp_code | c->sys.bp_data | c->sys.bp_io) && !(c->rflags & BT_TF))
        atomic_fetch_and_explicit(&c->events, ~(uint32_t)BT_EV_STEP, memory_order_relaxed);
}

void bt_rep_yield(struct bt_vcpu *c)
{
    c->rflags |= BT_RF;
}
