/* The LAPIC behind MSRs: IA32_APIC_BASE and its mode transitions, x2APIC registers with their reserved bits
 * (SDM 10.12), IA32_TSC_DEADLINE; and the transfer of its state in KVM's structure. */
#include <errno.h>

#include "cpu/bt/irqchip/chip.h"
#include "cpu/bt/sys.h"

#define MSR_APIC_BASE 0x1bU
#define MSR_TSC_DEADLINE 0x6e0U
#define MSR_X2APIC 0x800U

uint64_t bt_lapic_base(struct bt_vcpu *c)
{
    return lapic_base(c->lapic);
}

/* A change of mode with its consequences for the registers. */
static void lapic_set_base(struct bt_lapic *l, uint64_t value)
{
    uint64_t old = lapic_base(l);
    unsigned id = l->c->id;

    atomic_store(&l->base, value);
    if ((old ^ value) & APIC_BASE_EN) {
        bt_lapic_reset_regs(l); /* switched off, or on again: nothing survives */
        return;
    }
    if (!((old ^ value) & APIC_BASE_EXTD) || !(value & APIC_BASE_EXTD))
        return;
    lapic_put(l, LAPIC_ID, id);
    lapic_put(l, LAPIC_LDR, (id >> 4) << 16 | 1U << (id & 15));
    lapic_put(l, LAPIC_DFR, 0xffffffff);
    lapic_put(l, LAPIC_ICR2, 0);
}

static bool lapic_write_base(struct bt_lapic *l, uint64_t value, bool host)
{
    uint64_t old = lapic_base(l), known = APIC_BASE_BSP | APIC_BASE_EXTD | APIC_BASE_EN;
    bool en = (value & APIC_BASE_EN) != 0, extd = (value & APIC_BASE_EXTD) != 0;

    /* A state transfer may come before CPUID says how wide addresses are. */
    known |= host ? BITS64(51, 12) : l->c->phys_mask & ~0xfffULL;
    if ((value & ~known) != 0 || (extd && !en))
        return false;
    if (!host) {
        if (extd && !bt_has_cpuid(l->c, 1, 0, 2, 21))
            return false;
        /* SDM figure 10-27: from x2APIC only to disabled, and into it only from xAPIC. */
        if ((old & APIC_BASE_EXTD) && en && !extd)
            return false;
        if (!(old & APIC_BASE_EN) && extd)
            return false;
    }
    lapic_set_base(l, value);
    return true;
}

static bool lapic_x2_read(struct bt_lapic *l, unsigned reg, uint64_t *ret)
{
    switch (reg) {
    case LAPIC_ID:
    case LAPIC_VERSION:
    case LAPIC_TPR:
    case LAPIC_PPR:
    case LAPIC_LDR:
    case LAPIC_SVR:
    case LAPIC_ISR ... LAPIC_ISR + 7:
    case LAPIC_TMR ... LAPIC_TMR + 7:
    case LAPIC_IRR ... LAPIC_IRR + 7:
    case LAPIC_ESR:
    case LAPIC_LVTT ... LAPIC_TMICT:
    case LAPIC_TMCCT:
    case LAPIC_TDCR:
        *ret = bt_lapic_reg_read(l, reg);
        return true;
    case LAPIC_ICR:
        *ret = (uint64_t)lapic_get(l, LAPIC_ICR2) << 32 | lapic_get(l, LAPIC_ICR);
        return true;
    default:
        return false;
    }
}

/* Bits that may be written in x2APIC mode; 0 also for registers that only take zero. ok: the register can be written.
 */
static uint32_t lapic_x2_writable(unsigned reg, bool *ok)
{
    *ok = true;
    switch (reg) {
    case LAPIC_TPR:
    case LAPIC_SELF_IPI:
        return 0xff;
    case LAPIC_EOI:
    case LAPIC_ESR:
        return 0;
    case LAPIC_SVR:
        return 0x3ff;
    case LAPIC_LVTT ... LAPIC_LVT_ERROR:
        return bt_lapic_lvt_mask(reg) | 1U << 12 | (reg == LAPIC_LVT0 || reg == LAPIC_LVT1 ? 1U << 14 : 0);
    case LAPIC_TMICT:
        return 0xffffffff;
    case LAPIC_TDCR:
        return 0xb;
    default:
        *ok = false;
        return 0;
    }
}

static bool lapic_x2_write(struct bt_lapic *l, unsigned reg, uint64_t value)
{
    uint32_t mask;
    bool ok;

    if (reg == LAPIC_ICR) {
        if ((uint32_t)value & ~0x000cdfffU)
            return false;
        value &= ~(1ULL << 12);
        lapic_put(l, LAPIC_ICR, (uint32_t)value);
        lapic_put(l, LAPIC_ICR2, (uint32_t)(value >> 32));
        bt_lapic_send_ipi(l, (uint32_t)value, (uint32_t)(value >> 32));
        return true;
    }
    mask = lapic_x2_writable(reg, &ok);
    if (!ok || (value & ~(uint64_t)mask) != 0)
        return false;
    bt_lapic_reg_write(l, reg, (uint32_t)value);
    return true;
}

bool bt_lapic_msr_read(struct bt_vcpu *c, uint32_t index, uint64_t *ret)
{
    struct bt_lapic *l = c->lapic;

    if (index == MSR_APIC_BASE) {
        *ret = lapic_base(l);
        return true;
    }
    if (index == MSR_TSC_DEADLINE) {
        *ret = l->tsc_deadline;
        return true;
    }
    if (index - MSR_X2APIC >= LAPIC_NREGS || !lapic_x2(l))
        return false;
    if (bt_pv_eoi_disarm(c))
        bt_lapic_eoi(l);
    return lapic_x2_read(l, index - MSR_X2APIC, ret);
}

bool bt_lapic_msr_write(struct bt_vcpu *c, uint32_t index, uint64_t value, bool host)
{
    struct bt_lapic *l = c->lapic;

    if (index == MSR_APIC_BASE)
        return lapic_write_base(l, value, host);
    if (index == MSR_TSC_DEADLINE) {
        /* Outside deadline mode the write is ignored; a state transfer may set it before the LVT. */
        if (host || (lapic_enabled(l) && (lapic_get(l, LAPIC_LVTT) >> 17 & 3) == APIC_TIMER_DEADLINE))
            bt_lapic_timer_deadline(l, value);
        return true;
    }
    if (index - MSR_X2APIC >= LAPIC_NREGS || !lapic_x2(l))
        return false;
    if (bt_pv_eoi_disarm(c))
        bt_lapic_eoi(l);
    return lapic_x2_write(l, index - MSR_X2APIC, value);
}

/* In the structure, registers stand as in the xAPIC page. The id is in bits 31..24 in both modes, as KVM has it where
 * KVM_CAP_X2APIC_API is not enabled. */
int bt_lapic_get(struct bt_vcpu *c, struct kvm_lapic_state *s)
{
    struct bt_lapic *l = c->lapic;

    if (bt_pv_eoi_disarm(c))
        bt_lapic_eoi(l);
    /* A one-shot count that is over and was not looked at would be read as none. */
    bt_lapic_timer_run(l, chip_now(l->chip));
    bt_lapic_timer_arm(l);
    for (unsigned reg = 0; reg < LAPIC_NREGS; reg++) {
        uint32_t v = lapic_get(l, reg);

        if (reg == LAPIC_ID)
            v = c->id << 24;
        else if (reg == LAPIC_PPR)
            v = bt_lapic_ppr(l);
        else if (reg == LAPIC_TMCCT)
            v = bt_lapic_timer_count(l);
        store_le32(s->regs + reg * 16, v);
        store_le32(s->regs + reg * 16 + 4, 0);
        store_le64(s->regs + reg * 16 + 8, 0);
    }
    return 0;
}

/* Registers that software can write, brought into the shape that they have here. */
static uint32_t lapic_import(unsigned reg, uint32_t v)
{
    switch (reg) {
    case LAPIC_TPR:
        return v & 0xff;
    case LAPIC_SVR:
        return v & 0x3ff;
    case LAPIC_ICR:
        return v & 0x000cefff;
    case LAPIC_LVTT ... LAPIC_LVT_ERROR:
        return v & (bt_lapic_lvt_mask(reg) | 1U << 14);
    case LAPIC_TDCR:
        return v & 0xb;
    case LAPIC_ISR:
    case LAPIC_TMR:
    case LAPIC_IRR:
        return v & 0xffff0000; /* vectors below 16 do not exist */
    default:
        return v;
    }
}

int bt_lapic_set(struct bt_vcpu *c, const struct kvm_lapic_state *s)
{
    struct bt_lapic *l = c->lapic;
    uint32_t id = load_le32(s->regs + LAPIC_ID * 16);

    if (id >> 24 != c->id && !(lapic_x2(l) && id == c->id))
        return -EINVAL;
    for (unsigned reg = LAPIC_TPR; reg < LAPIC_NREGS; reg++)
        lapic_put(l, reg, lapic_import(reg, load_le32(s->regs + reg * 16)));
    if (lapic_x2(l)) {
        lapic_put(l, LAPIC_LDR, (c->id >> 4) << 16 | 1U << (c->id & 15));
        lapic_put(l, LAPIC_ID, c->id);
    } else {
        lapic_put(l, LAPIC_DFR, lapic_get(l, LAPIC_DFR) | 0x0fffffff);
        lapic_put(l, LAPIC_LDR, lapic_get(l, LAPIC_LDR) & 0xff000000);
        lapic_put(l, LAPIC_ID, c->id << 24);
    }
    atomic_store(&l->esr, 0);
    l->pv_eoi_armed = false;
    bt_lapic_timer_resume(l, load_le32(s->regs + LAPIC_TMCCT * 16));
    bt_vcpu_signal(c, BT_EV_IRQ | BT_EV_TIMER);
    return 0;
}
