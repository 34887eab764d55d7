/* Registers and priorities of the local APIC: SDM volume 3, chapter 10 (xAPIC page and x2APIC semantics in one place).
 * Delivery of messages is in lapic_ipi.c, the timer in lapic_timer.c, MSRs and state transfer in lapic_msr.c. */
#include "cpu/bt/irqchip/chip.h"

int bt_lapic_highest(const struct bt_lapic *l, unsigned bank)
{
    for (int i = 7; i >= 0; i--) {
        uint32_t v = atomic_load_explicit(&l->regs[bank + (unsigned)i], memory_order_acquire);

        if (v)
            return i * 32 + 31 - __builtin_clz(v);
    }
    return -1;
}

uint32_t bt_lapic_ppr(const struct bt_lapic *l)
{
    uint32_t tpr = lapic_get(l, LAPIC_TPR) & 0xff;
    int isr = bt_lapic_highest(l, LAPIC_ISR);
    uint32_t class = isr < 0 ? 0 : (uint32_t)isr & 0xf0;

    return (tpr & 0xf0) >= class ? tpr : class;
}

/* Arbitration priority, SDM 10.6.2.4. */
static uint32_t lapic_apr(const struct bt_lapic *l)
{
    uint32_t tpr = lapic_get(l, LAPIC_TPR) & 0xff;
    int isr = bt_lapic_highest(l, LAPIC_ISR), irr = bt_lapic_highest(l, LAPIC_IRR);
    uint32_t isrv = isr < 0 ? 0 : (uint32_t)isr >> 4, irrv = irr < 0 ? 0 : (uint32_t)irr >> 4, both;

    if (tpr >> 4 >= irrv && tpr >> 4 > isrv)
        return tpr;
    both = tpr >> 4 & isrv;
    return MAX(both, irrv) << 4;
}

void bt_lapic_update(struct bt_lapic *l)
{
    int irr = bt_lapic_highest(l, LAPIC_IRR);

    if (irr >= 0 && ((uint32_t)irr & 0xf0) > (bt_lapic_ppr(l) & 0xf0))
        bt_vcpu_signal(l->c, BT_EV_IRQ);
}

void bt_lapic_error(struct bt_lapic *l, uint32_t bits)
{
    uint32_t old = atomic_fetch_or(&l->esr, bits), lvt = lapic_get(l, LAPIC_LVT_ERROR);

    /* An error LVT with an illegal vector must not raise errors about itself for ever: only new bits interrupt, and the
     * vector is checked here. */
    if ((old & bits) != bits && !(lvt & LAPIC_LVT_MASKED) && (lvt & 0xff) >= 16)
        bt_lapic_local(l, LAPIC_LVT_ERROR);
}

int bt_lapic_eoi(struct bt_lapic *l)
{
    int vector = bt_lapic_highest(l, LAPIC_ISR);

    if (vector < 0)
        return -1;
    lapic_clear_bit(l, LAPIC_ISR, (unsigned)vector);
    if (lapic_bit(l, LAPIC_TMR, (unsigned)vector)) {
        bt_lock(&l->chip->lock);
        bt_ioapic_eoi(l->chip, (unsigned)vector);
        bt_unlock(&l->chip->lock);
    }
    bt_lapic_update(l);
    return vector;
}

bool bt_lapic_takes_pic(const struct bt_lapic *l)
{
    uint32_t lvt = lapic_get(l, LAPIC_LVT0);

    /* Without a LAPIC, INTR is wired to the bootstrap processor. */
    if (!lapic_enabled(l))
        return l->c->id == 0;
    return !(lvt & LAPIC_LVT_MASKED) && (lvt >> 8 & 7) == APIC_EXTINT;
}

uint32_t bt_lapic_lvt_mask(unsigned reg)
{
    switch (reg) {
    case LAPIC_LVTT:
        return 0x000600ff | LAPIC_LVT_MASKED;
    case LAPIC_LVT_THERMAL:
    case LAPIC_LVT_PERF:
        return 0x000007ff | LAPIC_LVT_MASKED;
    case LAPIC_LVT0:
    case LAPIC_LVT1:
        return 0x0000a7ff | LAPIC_LVT_MASKED;
    default:
        return 0x000000ff | LAPIC_LVT_MASKED;
    }
}

uint32_t bt_lapic_reg_read(struct bt_lapic *l, unsigned reg)
{
    switch (reg) {
    case LAPIC_APR:
        return lapic_apr(l);
    case LAPIC_PPR:
        return bt_lapic_ppr(l);
    case LAPIC_EOI:
    case LAPIC_RRD:
        return 0;
    case LAPIC_TMCCT:
        return bt_lapic_timer_count(l);
    case LAPIC_ID:
    case LAPIC_VERSION:
    case LAPIC_TPR:
    case LAPIC_LDR:
    case LAPIC_DFR:
    case LAPIC_SVR:
    case LAPIC_ISR ... LAPIC_ISR + 7:
    case LAPIC_TMR ... LAPIC_TMR + 7:
    case LAPIC_IRR ... LAPIC_IRR + 7:
    case LAPIC_ESR:
    case LAPIC_ICR ... LAPIC_TMICT:
    case LAPIC_TDCR:
        return lapic_get(l, reg);
    default:
        bt_lapic_error(l, LAPIC_ESR_REGISTER);
        return 0;
    }
}

static void lapic_write_svr(struct bt_lapic *l, uint32_t value)
{
    lapic_put(l, LAPIC_SVR, value & 0x3ff);
    if (value & LAPIC_SVR_ENABLE)
        return;
    /* Software disable sets the mask bits, and they stay set while it lasts. */
    for (unsigned reg = LAPIC_LVTT; reg <= LAPIC_LVT_ERROR; reg++)
        lapic_put(l, reg, lapic_get(l, reg) | LAPIC_LVT_MASKED);
}

static void lapic_write_lvt(struct bt_lapic *l, unsigned reg, uint32_t value)
{
    uint32_t old = lapic_get(l, reg);

    value &= bt_lapic_lvt_mask(reg);
    if (!(lapic_get(l, LAPIC_SVR) & LAPIC_SVR_ENABLE))
        value |= LAPIC_LVT_MASKED;
    /* Remote IRR of LINT pins is read-only, and goes where the pin becomes edge-triggered. */
    if (reg == LAPIC_LVT0 || reg == LAPIC_LVT1)
        value |= (value & 1U << 15) ? old & 1U << 14 : 0;
    lapic_put(l, reg, value);
    if (reg == LAPIC_LVTT)
        bt_lapic_timer_lvt(l, old);
    else if (reg == LAPIC_LVT0 && bt_lapic_takes_pic(l) && atomic_load(&l->chip->pic_intr))
        bt_vcpu_signal(l->c, BT_EV_IRQ);
}

void bt_lapic_reg_write(struct bt_lapic *l, unsigned reg, uint32_t value)
{
    uint32_t old;

    switch (reg) {
    case LAPIC_ID: /* the id is fixed */
        break;
    case LAPIC_TPR:
        lapic_put(l, LAPIC_TPR, value & 0xff);
        bt_lapic_update(l);
        break;
    case LAPIC_EOI:
        bt_lapic_eoi(l);
        break;
    case LAPIC_LDR:
        lapic_put(l, LAPIC_LDR, value & 0xff000000);
        break;
    case LAPIC_DFR:
        lapic_put(l, LAPIC_DFR, value | 0x0fffffff);
        break;
    case LAPIC_SVR:
        lapic_write_svr(l, value);
        break;
    case LAPIC_ESR: /* a write makes what was gathered readable, and starts anew */
        lapic_put(l, LAPIC_ESR, atomic_exchange(&l->esr, 0));
        break;
    case LAPIC_ICR:
        value &= 0x000ccfff;
        lapic_put(l, LAPIC_ICR, value);
        bt_lapic_send_ipi(l, value, lapic_get(l, LAPIC_ICR2) >> 24);
        break;
    case LAPIC_ICR2:
        lapic_put(l, LAPIC_ICR2, value & 0xff000000);
        break;
    case LAPIC_LVTT ... LAPIC_LVT_ERROR:
        lapic_write_lvt(l, reg, value);
        break;
    case LAPIC_TMICT:
        /* In deadline mode the register takes no part, SDM 10.5.4.1. */
        if ((lapic_get(l, LAPIC_LVTT) >> 17 & 3) == APIC_TIMER_DEADLINE)
            break;
        lapic_put(l, LAPIC_TMICT, value);
        bt_lapic_timer_start(l);
        break;
    case LAPIC_TDCR:
        old = lapic_get(l, LAPIC_TDCR);
        lapic_put(l, LAPIC_TDCR, value & 0xb);
        bt_lapic_timer_divide(l, old);
        break;
    case LAPIC_SELF_IPI: /* reached by x2APIC only, see bt_lapic_mmio */
        bt_lapic_send_ipi(l, (value & 0xff) | 1U << 18 | 1U << 14, 0);
        break;
    default:
        bt_lapic_error(l, LAPIC_ESR_REGISTER);
        break;
    }
}

bool bt_lapic_mmio(struct bt_lapic *l, uint64_t gpa, void *data, unsigned len, bool write)
{
    uint64_t base = lapic_base(l);
    unsigned off = (unsigned)(gpa & 0xfff), reg = off >> 4;
    uint8_t *bytes = data;
    uint32_t value = 0;

    if ((base & (APIC_BASE_EN | APIC_BASE_EXTD)) != APIC_BASE_EN || (gpa & ~0xfffULL) != (base & ~0xfffULL))
        return false;
    if (bt_pv_eoi_disarm(l->c))
        bt_lapic_eoi(l);
    if (write) {
        /* Only whole aligned registers can be written; anything else has no defined effect. */
        if (len < 4 || (off & 0xf) != 0)
            return true;
        value = load_le32(data);
        if (reg >= LAPIC_NREGS || reg == LAPIC_SELF_IPI)
            bt_lapic_error(l, LAPIC_ESR_REGISTER);
        else
            bt_lapic_reg_write(l, reg, value);
        return true;
    }
    if (reg < LAPIC_NREGS)
        value = bt_lapic_reg_read(l, reg);
    else
        bt_lapic_error(l, LAPIC_ESR_REGISTER);
    for (unsigned i = 0; i < len; i++) {
        unsigned at = (off & 0xf) + i;

        bytes[i] = (uint8_t)(at < 4 ? value >> (8 * at) : 0);
    }
    return true;
}

/* Values after power-up or INIT (SDM 10.4.7), for the present mode. */
void bt_lapic_reset_regs(struct bt_lapic *l)
{
    unsigned id = l->c->id;

    for (unsigned i = 0; i < LAPIC_NREGS; i++)
        lapic_put(l, i, 0);
    if (lapic_x2(l)) {
        lapic_put(l, LAPIC_ID, id);
        lapic_put(l, LAPIC_LDR, (id >> 4) << 16 | 1U << (id & 15));
    } else {
        lapic_put(l, LAPIC_ID, id << 24);
    }
    lapic_put(l, LAPIC_VERSION, LAPIC_VERSION_VALUE);
    lapic_put(l, LAPIC_DFR, 0xffffffff);
    lapic_put(l, LAPIC_SVR, 0xff);
    for (unsigned reg = LAPIC_LVTT; reg <= LAPIC_LVT_ERROR; reg++)
        lapic_put(l, reg, LAPIC_LVT_MASKED);
    atomic_store(&l->esr, 0);
    l->tsc_deadline = 0;
    l->pv_eoi_armed = false;
    bt_lapic_timer_stop(l);
}

void bt_lapic_reset(struct bt_vcpu *c, bool init)
{
    struct bt_lapic *l = c->lapic;

    bt_pv_reset(c);
    if (!init)
        atomic_store(&l->base, APIC_BASE_DEFAULT | APIC_BASE_EN | (c->id == 0 ? APIC_BASE_BSP : 0));
    bt_lapic_reset_regs(l);
    /* Firmware leaves the bootstrap processor in virtual-wire mode; guests that are started without one expect it. */
    if (!init && c->id == 0)
        lapic_put(l, LAPIC_LVT0, APIC_EXTINT << 8);
}

uint8_t bt_cr8_read(struct bt_vcpu *c)
{
    return (uint8_t)(lapic_get(c->lapic, LAPIC_TPR) >> 4 & 0xf);
}

void bt_cr8_write(struct bt_vcpu *c, uint8_t value)
{
    lapic_put(c->lapic, LAPIC_TPR, (uint32_t)(value & 0xf) << 4);
    bt_lapic_update(c->lapic);
}

/* The deliverable LAPIC vector, after settling a paravirtual EOI; -1 none. */
static int lapic_pending(struct bt_lapic *l)
{
    int irr;

    if (!lapic_enabled(l))
        return -1;
    irr = bt_lapic_highest(l, LAPIC_IRR);
    if (irr < 0)
        return -1;
    if (((uint32_t)irr & 0xf0) <= (bt_lapic_ppr(l) & 0xf0)) {
        /* Blocked, perhaps only because the guest did its EOI in memory. Else it must do the next one for us to see. */
        if (!bt_pv_eoi_disarm(l->c))
            return -1;
        bt_lapic_eoi(l);
        if (((uint32_t)irr & 0xf0) <= (bt_lapic_ppr(l) & 0xf0))
            return -1;
    }
    return irr;
}

int bt_irq_pending(struct bt_vcpu *c)
{
    struct bt_lapic *l = c->lapic;
    int vector = lapic_pending(l);

    if (vector >= 0)
        return vector;
    if (atomic_load(&l->chip->pic_intr) && bt_lapic_takes_pic(l))
        return bt_pic_peek(l->chip);
    return -1;
}

int bt_irq_ack(struct bt_vcpu *c)
{
    struct bt_lapic *l = c->lapic;
    int vector = lapic_pending(l);

    if (vector >= 0) {
        if (bt_pv_eoi_disarm(c))
            bt_lapic_eoi(l);
        lapic_clear_bit(l, LAPIC_IRR, (unsigned)vector);
        lapic_set_bit(l, LAPIC_ISR, (unsigned)vector);
        /* The guest may skip the EOI where nobody waits for it: edge-triggered, nothing else in service or requested.
         */
        if (!lapic_bit(l, LAPIC_TMR, (unsigned)vector) && bt_lapic_highest(l, LAPIC_IRR) < 0)
            bt_pv_eoi_arm(c);
    } else if (atomic_load(&l->chip->pic_intr) && bt_lapic_takes_pic(l)) {
        bt_lock(&l->chip->lock);
        vector = bt_pic_ack(l->chip);
        bt_unlock(&l->chip->lock);
    }
    /* Ticks of the PIT that had to wait for the guest to take this one. */
    if (UNLIKELY(vector >= 0 && atomic_load_explicit(&l->chip->pit.owed, memory_order_relaxed) != 0)) {
        struct bt_lapic *first = chip_lapic(l->chip, 0);

        if (first)
            bt_vcpu_signal(first->c, BT_EV_TIMER);
    }
    return vector;
}
