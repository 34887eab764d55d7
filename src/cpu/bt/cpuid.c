/* CPUID as the guest sees it: the table set by vcpu_set_cpuid plus what depends on the vCPU's state and number, and
 * what follows from the model for control registers. The offer is made in cpuid_table.c. */
#include "cpu/bt/irqchip/irqchip.h"
#include "cpu/bt/sys_priv.h"

static const struct kvm_cpuid_entry2 *cpuid_find(const struct bt_vcpu *c, uint32_t leaf, uint32_t subleaf)
{
    for (unsigned i = 0; i < c->n_cpuid; i++) {
        const struct kvm_cpuid_entry2 *e = &c->cpuid[i];

        if (e->function == leaf && (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->index == subleaf))
            return e;
    }
    return NULL;
}

static uint32_t cpuid_reg(const struct kvm_cpuid_entry2 *e, unsigned reg)
{
    return reg == 0 ? e->eax : reg == 1 ? e->ebx : reg == 2 ? e->ecx : e->edx;
}

bool bt_has_cpuid(const struct bt_vcpu *c, uint32_t leaf, uint32_t subleaf, unsigned reg, unsigned bit)
{
    const struct kvm_cpuid_entry2 *e = cpuid_find(c, leaf, subleaf);

    return e && (cpuid_reg(e, reg) >> bit & 1);
}

static unsigned cpuid_log2_up(unsigned n)
{
    unsigned bits = 0;

    while ((1U << bits) < n)
        bits++;
    return bits;
}

/* Bytes of the XSAVE area (compacted: the same, as only AVX can follow the header) for a set of components. */
static uint32_t cpuid_xsave_size(uint64_t xcr0)
{
    return xcr0 & 4 ? 832 : 576;
}

/* One socket, one thread per core. */
static void cpuid_topology(const struct bt_vcpu *c, uint32_t subleaf, uint32_t r[4])
{
    unsigned n = c->vm->max_vcpus;

    r[0] = subleaf == 1 ? cpuid_log2_up(n) : 0;
    r[1] = subleaf == 0 ? 1 : subleaf == 1 ? n : 0;
    r[2] = (subleaf & 0xff) | (subleaf == 0 ? 1U << 8 : subleaf == 1 ? 2U << 8 : 0);
    r[3] = c->id;
}

/* TSC frequency as a ratio to the 1 GHz that the APIC timer counts at. Kernels compute crystal_khz * numerator in 32
 * bits, so the numerator must stay small: take the best fraction with a denominator up to 400. */
static void cpuid_tsc_ratio(const struct bt_vcpu *c, uint32_t r[4])
{
    const uint64_t crystal_khz = 1000000;
    uint64_t khz = c->vm->tsc_khz, best = ~0ULL;

    r[0] = r[1] = r[2] = r[3] = 0;
    if (khz == 0)
        return;
    for (uint32_t den = 1; den <= 400; den++) {
        uint64_t num = (khz * den + crystal_khz / 2) / crystal_khz;
        uint64_t got = num * crystal_khz / den;
        uint64_t off = got > khz ? got - khz : khz - got;

        if (num != 0 && num * crystal_khz <= UINT32_MAX && off < best) {
            best = off;
            r[0] = den;
            r[1] = (uint32_t)num;
        }
    }
    r[2] = (uint32_t)(crystal_khz * 1000);
}

static void cpuid_dynamic(struct bt_vcpu *c, uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
    unsigned n = c->vm->max_vcpus;

    switch (leaf) {
    case 1:
        r[1] = (r[1] & 0xff00) | c->id << 24 | (1U << cpuid_log2_up(n)) << 16;
        r[2] = (r[2] & ~BIT(27)) | ((c->cr4 & BT_CR4_OSXSAVE) && (r[2] & BIT(26)) ? BIT(27) : 0);
        r[3] = (r[3] & ~BIT(28)) | (n > 1 ? BIT(28) : 0);
        if (!(bt_lapic_base(c) & BIT(11))) /* SDM volume 3, 11.4.3 */
            r[3] &= ~BIT(9);
        break;
    case 4:
    case 0x8000001d:
        if ((r[0] & 0x1f) == 0)
            break;
        /* Level 3 is shared by all, the others by none. */
        r[0] = (r[0] & 0x3fff) | ((r[0] >> 5 & 7) >= 3 ? (n - 1) << 14 : 0);
        if (leaf == 4)
            r[0] |= ((1U << cpuid_log2_up(n)) - 1) << 26;
        break;
    case 0xb:
    case 0x1f:
        cpuid_topology(c, subleaf, r);
        break;
    case 0xd:
        if (subleaf == 0)
            r[1] = cpuid_xsave_size(c->xcr0);
        else if (subleaf == 1 && (r[0] & BIT(1)))
            r[1] = cpuid_xsave_size(c->xcr0);
        break;
    case 0x15:
        cpuid_tsc_ratio(c, r);
        break;
    case 0x16:
        r[0] = r[1] = (uint32_t)(c->vm->tsc_khz / 1000) & 0xffff;
        r[2] = 100;
        break;
    case 0x80000008:
        if (c->sys.amd)
            r[2] = (n - 1) | cpuid_log2_up(n) << 12;
        break;
    case 0x8000001e:
        r[0] = c->id;
        r[1] = c->id & 0xff; /* core, one thread in it */
        break;
    default:
        break;
    }
}

void bt_cpuid(struct bt_vcpu *c, uint32_t leaf, uint32_t subleaf, uint32_t regs[4])
{
    const struct kvm_cpuid_entry2 *e = cpuid_find(c, leaf, subleaf), *max;

    regs[0] = regs[1] = regs[2] = regs[3] = 0;
    if (!e && !c->sys.amd && leaf < 0x40000000) {
        /* Beyond the last basic leaf, Intel's processors answer with the last one. */
        max = cpuid_find(c, 0, 0);
        if (max && leaf > max->eax) {
            leaf = max->eax;
            e = cpuid_find(c, leaf, subleaf);
        }
    }
    if (!e) {
        if (leaf == 0xb && cpuid_find(c, 0xb, 0))
            cpuid_topology(c, subleaf, regs);
        return;
    }
    regs[0] = e->eax;
    regs[1] = e->ebx;
    regs[2] = e->ecx;
    regs[3] = e->edx;
    cpuid_dynamic(c, leaf, subleaf, regs);
}

/* Control register bits and the CPUID bits that they need. */
static const struct {
    uint64_t cr4;
    uint32_t leaf;
    uint8_t reg, bit;
} cpuid_cr4[] = {
    { BT_CR4_TSD, 1, 3, 4 },      { BT_CR4_DE, 1, 3, 2 },          { BT_CR4_PSE, 1, 3, 3 },
    { BT_CR4_PAE, 1, 3, 6 },      { BT_CR4_MCE, 1, 3, 7 },         { BT_CR4_PGE, 1, 3, 13 },
    { BT_CR4_OSFXSR, 1, 3, 24 },  { BT_CR4_OSXMMEXCPT, 1, 3, 25 }, { BT_CR4_UMIP, 7, 2, 2 },
    { BT_CR4_FSGSBASE, 7, 1, 0 }, { BT_CR4_PCIDE, 1, 2, 17 },      { BT_CR4_OSXSAVE, 1, 2, 26 },
    { BT_CR4_SMEP, 7, 1, 7 },     { BT_CR4_SMAP, 7, 1, 20 },
};

void bt_cpuid_changed(struct bt_vcpu *c)
{
    const struct kvm_cpuid_entry2 *e = cpuid_find(c, 0, 0);
    bool all = c->n_cpuid == 0; /* no model yet: the host may set up anything */
    struct bt_sys *s = &c->sys;

    s->amd = e && (e->ebx == 0x68747541 || e->ebx == 0x6f677948); /* "Auth", "Hygo" */
    s->cr4_valid = BT_CR4_PCE;
    for (unsigned i = 0; i < ARRAY_SIZE(cpuid_cr4); i++) {
        if (all || bt_has_cpuid(c, cpuid_cr4[i].leaf, 0, cpuid_cr4[i].reg, cpuid_cr4[i].bit))
            s->cr4_valid |= cpuid_cr4[i].cr4;
    }
    s->efer_valid = 0;
    if (all || bt_has_cpuid(c, 0x80000001, 0, 3, 11))
        s->efer_valid |= BT_EFER_SCE;
    if (all || bt_has_cpuid(c, 0x80000001, 0, 3, 20))
        s->efer_valid |= BT_EFER_NXE;
    if (all || bt_has_cpuid(c, 0x80000001, 0, 3, 29))
        s->efer_valid |= BT_EFER_LME | BT_EFER_LMA;
    if (bt_has_cpuid(c, 0x80000021, 0, 0, 8))
        s->efer_valid |= BT_EFER_AIBRS;
    bt_msr_model_changed(c);
    s->gbpages = all || bt_has_cpuid(c, 0x80000001, 0, 3, 26);
    e = cpuid_find(c, 0x80000008, 0);
    if (e && (e->eax & 0xff) >= 32 && (e->eax & 0xff) <= BT_PHYS_BITS)
        c->phys_mask = BITS64((e->eax & 0xff) - 1, 0);
    else
        c->phys_mask = BITS64(BT_PHYS_BITS - 1, 0);
}
