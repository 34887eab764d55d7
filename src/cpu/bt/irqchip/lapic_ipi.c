/* Interrupt messages: who is addressed, and what a LAPIC does with what it gets. SDM volume 3, 10.6 and 10.11 (MSI).
 * Any thread; without locks (see chip.h). */
#include "cpu/bt/irqchip/chip.h"

int bt_lapic_accept(struct bt_lapic *l, unsigned mode, unsigned vector, bool level)
{
    uint32_t bit = 1U << (vector & 31), old;

    if (!lapic_enabled(l))
        return -1;
    switch (mode) {
    case APIC_FIXED:
    case APIC_LOWEST:
        if (!lapic_sw_enabled(l))
            return -1;
        if (vector < 16) {
            bt_lapic_error(l, LAPIC_ESR_RECV_VECTOR);
            return -1;
        }
        /* TMR first: whoever sees the request must see how it was triggered. */
        if (level != lapic_bit(l, LAPIC_TMR, vector)) {
            if (level)
                lapic_set_bit(l, LAPIC_TMR, vector);
            else
                lapic_clear_bit(l, LAPIC_TMR, vector);
        }
        old = atomic_fetch_or(&l->regs[LAPIC_IRR + (vector >> 5)], bit);
        if (old & bit)
            return 0;
        bt_vcpu_signal(l->c, BT_EV_IRQ);
        return 1;
    case APIC_NMI:
        bt_vcpu_signal(l->c, BT_EV_NMI);
        return 1;
    case APIC_INIT:
        /* An INIT undoes a start-up message that was not acted upon yet. */
        atomic_fetch_and(&l->c->events, ~(uint32_t)BT_EV_SIPI);
        bt_vcpu_signal(l->c, BT_EV_INIT);
        return 1;
    case APIC_SIPI:
        __atomic_store_n(&l->c->sipi_vector, (uint8_t)vector, __ATOMIC_RELAXED);
        bt_vcpu_signal(l->c, BT_EV_SIPI);
        return 1;
    default: /* SMI: this machine has no system management mode; ExtINT comes by the PIC's own wire */
        return -1;
    }
}

static bool msg_matches_logical(const struct bt_lapic *l, uint32_t dest)
{
    uint32_t ldr = lapic_get(l, LAPIC_LDR);

    if (lapic_x2(l))
        return ldr >> 16 == dest >> 16 && (ldr & dest & 0xffff) != 0;
    ldr >>= 24;
    if (dest > 0xff)
        return false;
    if (lapic_get(l, LAPIC_DFR) >> 28 == 0xf) /* flat */
        return (ldr & dest) != 0;
    if (lapic_get(l, LAPIC_DFR) >> 28 == 0) /* cluster */
        return ldr >> 4 == dest >> 4 && (ldr & dest & 0xf) != 0;
    return false;
}

static bool msg_matches(const struct bt_lapic *l, const struct bt_msg *m)
{
    if (!lapic_enabled(l))
        return false;
    if (m->broadcast)
        return true;
    return m->logical ? msg_matches_logical(l, m->dest) : m->dest == l->c->id;
}

/* Is a the better target of a lowest-priority message? */
static bool msg_lower(const struct bt_lapic *a, const struct bt_lapic *b)
{
    uint32_t tpr_a = lapic_get(a, LAPIC_TPR) >> 4, tpr_b = lapic_get(b, LAPIC_TPR) >> 4;

    if (tpr_a != tpr_b)
        return tpr_a < tpr_b;
    return (int32_t)(atomic_load_explicit(&a->arbitration, memory_order_relaxed) -
                     atomic_load_explicit(&b->arbitration, memory_order_relaxed)) < 0;
}

static int msg_send_lowest(struct bt_irqchip *chip, const struct bt_msg *m)
{
    struct bt_lapic *best = NULL;

    for (unsigned i = 0; i < CPU_VCPUS_MAX; i++) {
        struct bt_lapic *l = chip_lapic(chip, i);

        if (l && lapic_sw_enabled(l) && msg_matches(l, m) && (!best || msg_lower(l, best)))
            best = l;
    }
    if (!best)
        return -1;
    atomic_fetch_add_explicit(&best->arbitration, 1, memory_order_relaxed);
    return bt_lapic_accept(best, APIC_LOWEST, m->vector, m->level);
}

int bt_msg_send(struct bt_irqchip *chip, const struct bt_msg *m)
{
    int ret = -1;

    if (m->mode == APIC_LOWEST)
        return msg_send_lowest(chip, m);
    if (!m->logical && !m->broadcast) {
        struct bt_lapic *l = m->dest < CPU_VCPUS_MAX ? chip_lapic(chip, m->dest) : NULL;

        return l ? bt_lapic_accept(l, m->mode, m->vector, m->level) : -1;
    }
    for (unsigned i = 0; i < CPU_VCPUS_MAX; i++) {
        struct bt_lapic *l = chip_lapic(chip, i);
        int r;

        if (!l || !msg_matches(l, m))
            continue;
        r = bt_lapic_accept(l, m->mode, m->vector, m->level);
        if (r >= 0)
            ret = MAX(ret, 0) + r;
    }
    return ret;
}

void bt_irq_msi(struct bt_vm *vm, uint64_t addr, uint32_t data)
{
    struct bt_msg m = { .vector = (uint8_t)data, .mode = (uint8_t)(data >> 8 & 7) };
    bool hint = (addr & 1U << 3) != 0;

    if ((addr >> 20) != 0xfee)
        return;
    /* Destination bits 14..8 as KVM_FEATURE_MSI_EXT_DEST_ID has them. */
    m.dest = (uint32_t)(addr >> 12 & 0xff) | (uint32_t)(addr >> 5 & 0x7f) << 8;
    m.broadcast = m.dest == 0xff;
    /* The destination mode counts only together with the redirection hint on some chipsets; KVM and the guests that run
     * on it take it alone. */
    m.logical = (addr & 1U << 2) != 0;
    m.level = (data & 1U << 15) != 0;
    if (m.level && !(data & 1U << 14)) /* level, deassert */
        return;
    if (hint && m.mode == APIC_FIXED)
        m.mode = APIC_LOWEST;
    bt_msg_send(vm->irqchip, &m);
}

void bt_lapic_local(struct bt_lapic *l, unsigned reg)
{
    uint32_t lvt = lapic_get(l, reg);
    unsigned mode = lvt >> 8 & 7;

    if (lvt & LAPIC_LVT_MASKED)
        return;
    if (reg == LAPIC_LVTT || reg == LAPIC_LVT_ERROR)
        mode = APIC_FIXED;
    if (mode == APIC_INIT || mode == APIC_SIPI || mode == APIC_LOWEST || mode == APIC_RESERVED)
        return; /* not for LVT entries */
    bt_lapic_accept(l, mode, lvt & 0xff, false);
    if (reg == LAPIC_LVT_PERF) /* masks itself on delivery, SDM 10.5.1 */
        lapic_put(l, reg, lvt | LAPIC_LVT_MASKED);
}

void bt_lapic_send_ipi(struct bt_lapic *l, uint32_t low, uint32_t dest)
{
    struct bt_msg m = { .dest = dest, .vector = (uint8_t)low, .mode = (uint8_t)(low >> 8 & 7) };
    unsigned shorthand = low >> 18 & 3;

    m.logical = (low & 1U << 11) != 0;
    m.broadcast = dest == (lapic_x2(l) ? 0xffffffffU : 0xffU);
    /* INIT level de-assert only synchronises arbitration ids of old processors. */
    if (m.mode == APIC_INIT && (low & 1U << 15) && !(low & 1U << 14))
        return;
    if ((m.mode == APIC_FIXED || m.mode == APIC_LOWEST) && m.vector < 16) {
        bt_lapic_error(l, LAPIC_ESR_SEND_VECTOR);
        return;
    }
    if (shorthand == 0) {
        bt_msg_send(l->chip, &m);
        return;
    }
    if (shorthand == 1) { /* self: fixed only */
        if (m.mode == APIC_FIXED)
            bt_lapic_accept(l, m.mode, m.vector, false);
        return;
    }
    if (shorthand == 2 && (m.mode == APIC_INIT || m.mode == APIC_SIPI || m.mode == APIC_NMI || m.mode == APIC_SMI))
        return; /* "all including self" is not valid for these */
    m.broadcast = true;
    if (shorthand == 2) {
        bt_msg_send(l->chip, &m);
        return;
    }
    for (unsigned i = 0; i < CPU_VCPUS_MAX; i++) {
        struct bt_lapic *to = chip_lapic(l->chip, i);

        if (to && to != l)
            bt_lapic_accept(to, m.mode == APIC_LOWEST ? APIC_FIXED : m.mode, m.vector, false);
    }
}
