/* Model-specific registers. Those with consequences elsewhere (EFER, bases, TSC) have functions of their own; plain
 * storage and constants are in tables. What is not here does not exist: #GP(0).
 *
 * host accesses (get_msrs, set_msrs) move state between engines and may write what a guest may not. */
#include "cpu/bt/msr.h"

#include "cpu/bt/irqchip/irqchip.h"
#include "cpu/bt/sys_priv.h"

enum {
    MSR_TSC = 0x10,
    MSR_FEATURE_CONTROL = 0x3a,
    MSR_TSC_ADJUST = 0x3b,
    MSR_SPEC_CTRL = 0x48,
    MSR_PRED_CMD = 0x49,
    MSR_UCODE_WRITE = 0x79,
    MSR_UCODE_REV = 0x8b,
    MSR_PLATFORM_INFO = 0xce,
    MSR_MTRRCAP = 0xfe,
    MSR_ARCH_CAPABILITIES = 0x10a,
    MSR_SYSENTER_CS = 0x174,
    MSR_SYSENTER_ESP = 0x175,
    MSR_SYSENTER_EIP = 0x176,
    MSR_MCG_STATUS = 0x17a,
    MSR_MISC_ENABLE = 0x1a0,
    MSR_DEBUGCTL = 0x1d9,
    MSR_MTRR_VAR = 0x200,
    MSR_PAT = 0x277,
    MSR_MTRR_DEF = 0x2ff,
    MSR_TSC_DEADLINE = 0x6e0,
};

#define MSR_EFER 0xc0000080U
#define MSR_STAR 0xc0000081U
#define MSR_LSTAR 0xc0000082U
#define MSR_CSTAR 0xc0000083U
#define MSR_SFMASK 0xc0000084U
#define MSR_FS_BASE 0xc0000100U
#define MSR_GS_BASE 0xc0000101U
#define MSR_KERNEL_GS_BASE 0xc0000102U
#define MSR_TSC_AUX 0xc0000103U
#define MSR_SYSCFG 0xc0010010U
#define MSR_HWCR 0xc0010015U
#define MSR_NB_CFG 0xc001001fU
#define MSR_LS_CFG 0xc0011020U
#define MSR_DE_CFG 0xc0011029U

uint64_t bt_tsc(const struct bt_vcpu *c)
{
    uint32_t lo, hi;

    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return ((uint64_t)hi << 32 | lo) + c->tsc_offset;
}

/* ---- storage with a mask of writable bits ---- */

struct msr_store {
    uint32_t index;
    uint32_t at;   /* offset of the uint64_t in struct bt_vcpu */
    uint64_t mask; /* bits that a guest may set; a host may set any */
};

#define STORE(idx, field, bits)                                               \
    {                                                                         \
        .index = (idx), .at = offsetof(struct bt_vcpu, field), .mask = (bits) \
    }
static const struct msr_store msr_stores[] = {
    STORE(MSR_SYSENTER_CS, sysenter_cs, ~0ULL),
    STORE(MSR_STAR, star, ~0ULL),
    STORE(MSR_SFMASK, sfmask, UINT32_MAX),
    STORE(MSR_TSC_AUX, tsc_aux, UINT32_MAX),
    STORE(MSR_MISC_ENABLE, misc_enable, ~0ULL),
    STORE(MSR_FEATURE_CONTROL, sys.feature_control, 0), /* locked */
    STORE(MSR_MCG_STATUS, sys.mcg_status, 7),
    STORE(MSR_HWCR, sys.hwcr, BIT64(3) | BIT64(6) | BIT64(8) | BIT64(18) | BIT64(24)),
    STORE(MSR_SYSCFG, sys.syscfg, ~0ULL),
    STORE(MSR_NB_CFG, sys.nb_cfg, ~0ULL),
    STORE(MSR_LS_CFG, sys.ls_cfg, ~0ULL),
    STORE(MSR_DE_CFG, sys.de_cfg, ~0ULL),
};

/* Registers that hold linear addresses: must be canonical. */
static const struct msr_store msr_addresses[] = {
    STORE(MSR_SYSENTER_ESP, sysenter_esp, 0),
    STORE(MSR_SYSENTER_EIP, sysenter_eip, 0),
    STORE(MSR_LSTAR, lstar, 0),
    STORE(MSR_CSTAR, cstar, 0),
    STORE(MSR_KERNEL_GS_BASE, kernel_gs_base, 0),
};
#undef STORE

static uint64_t *msr_slot(struct bt_vcpu *c, const struct msr_store *table, unsigned n, uint32_t index,
                          uint64_t *ret_mask)
{
    for (unsigned i = 0; i < n; i++) {
        if (table[i].index == index) {
            *ret_mask = table[i].mask;
            return (uint64_t *)(void *)((char *)c + table[i].at);
        }
    }
    return NULL;
}

/* Read as a constant; writes are dropped: power, thermal and debug registers that kernels touch in passing. */
struct msr_range {
    uint32_t first, last;
};
static const struct msr_range msr_ignored[] = {
    { 0x17, 0x17 },             /* PLATFORM_ID */
    { 0x2a, 0x2a },             /* EBL_CR_POWERON */
    { 0x34, 0x34 },             /* SMI_COUNT */
    { 0x140, 0x140 },           /* MISC_FEATURES_ENABLES */
    { 0x179, 0x179 },           /* MCG_CAP: no banks */
    { 0x198, 0x19c },           /* PERF_STATUS .. THERM_STATUS */
    { 0x1db, 0x1de },           /* last branch records */
    { 0xc001001a, 0xc001001a }, /* TOP_MEM */
    { 0xc001001d, 0xc001001d }, /* TOP_MEM2 */
    { 0xc0010055, 0xc0010055 }, /* INT_PENDING */
    { 0xc0010058, 0xc0010058 }, /* MMIO_CONF_BASE */
    { 0xc0010061, 0xc001006b }, /* P-states */
    { 0xc0010112, 0xc0010113 }, /* TSEG */
    { 0xc0011021, 0xc0011028 }, /* chicken bits */
    { 0xc001102a, 0xc001102f },
};

static bool msr_is_ignored(uint32_t index)
{
    for (unsigned i = 0; i < ARRAY_SIZE(msr_ignored); i++) {
        if (index >= msr_ignored[i].first && index <= msr_ignored[i].last)
            return true;
    }
    return false;
}

/* ---- memory types ---- */

static bool msr_type_ok(unsigned type, bool pat)
{
    return type == 0 || type == 1 || (type >= 4 && type <= 6) || (pat && type == 7);
}

static bool msr_types_ok(uint64_t v, bool pat)
{
    for (unsigned i = 0; i < 8; i++) {
        if (!msr_type_ok((v >> (8 * i)) & 0xff, pat))
            return false;
    }
    return true;
}

static uint64_t *msr_mtrr(struct bt_vcpu *c, uint32_t index)
{
    if (index >= MSR_MTRR_VAR && index < MSR_MTRR_VAR + 2 * BT_MTRR_VARS)
        return &c->sys.mtrr.var[index - MSR_MTRR_VAR];
    if (index == 0x250)
        return &c->sys.mtrr.fix[0];
    if (index == 0x258 || index == 0x259)
        return &c->sys.mtrr.fix[index - 0x258 + 1];
    if (index >= 0x268 && index <= 0x26f)
        return &c->sys.mtrr.fix[index - 0x268 + 3];
    if (index == MSR_MTRR_DEF)
        return &c->sys.mtrr.def_type;
    return NULL;
}

static bool msr_mtrr_ok(const struct bt_vcpu *c, uint32_t index, uint64_t v)
{
    if (index == MSR_MTRR_DEF)
        return !(v & ~0xcffULL) && msr_type_ok(v & 0xff, false);
    if (index >= 0x250)
        return msr_types_ok(v, false);
    if (index & 1) /* mask */
        return !(v & (~c->phys_mask | BITS64(10, 0)));
    return !(v & (~c->phys_mask | BITS64(11, 8))) && msr_type_ok(v & 0xff, false);
}

/* ---- what the CPU model has ---- */

/* MSRs that come with a CPUID bit: a guest whose model does not have it gets #GP. Those of SPEC_CTRL and of x2APIC look
 * at theirs where they are served. */
static const struct {
    uint32_t first, last;
    uint32_t leaf;
    uint8_t reg, bit;
} msr_needs[] = {
    { MSR_TSC_ADJUST, MSR_TSC_ADJUST, 7, 1, 1 },
    { MSR_MTRRCAP, MSR_MTRRCAP, 1, 3, 12 },
    { MSR_MTRR_VAR, 0x26f, 1, 3, 12 },
    { MSR_MTRR_DEF, MSR_MTRR_DEF, 1, 3, 12 },
    { MSR_SYSENTER_CS, MSR_SYSENTER_EIP, 1, 3, 11 },
    { MSR_PAT, MSR_PAT, 1, 3, 16 },
    { MSR_TSC_DEADLINE, MSR_TSC_DEADLINE, 1, 2, 24 },
    { MSR_STAR, MSR_SFMASK, 0x80000001, 3, 11 },
    { MSR_FS_BASE, MSR_KERNEL_GS_BASE, 0x80000001, 3, 29 },
};

void bt_msr_model_changed(struct bt_vcpu *c)
{
    c->sys.msr_absent = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(msr_needs) && c->n_cpuid > 0; i++) {
        if (!bt_has_cpuid(c, msr_needs[i].leaf, 0, msr_needs[i].reg, msr_needs[i].bit))
            c->sys.msr_absent |= BIT(i);
    }
}

static bool msr_absent(const struct bt_vcpu *c, uint32_t index)
{
    for (unsigned i = 0; i < ARRAY_SIZE(msr_needs); i++) {
        if ((c->sys.msr_absent >> i & 1) && index >= msr_needs[i].first && index <= msr_needs[i].last)
            return true;
    }
    return false;
}

/* ---- access ---- */

static bool msr_is_lapic(uint32_t index)
{
    return index == 0x1b || index == 0x6e0 || (index >= 0x800 && index <= 0x8ff);
}

/* IBRS, STIBP, SSBD and BHI_DIS_S: kept, and without effect on a CPU that does not speculate as the guest. */
#define MSR_SPEC_CTRL_KNOWN (BITS64(2, 0) | BIT64(10))

static uint64_t msr_spec_ctrl_bits(const struct bt_vcpu *c)
{
    return bt_has_cpuid(c, 7, 2, 3, 4) ? MSR_SPEC_CTRL_KNOWN : BITS64(2, 0);
}

static bool msr_has_spec_ctrl(const struct bt_vcpu *c)
{
    return bt_has_cpuid(c, 7, 0, 3, 26) || bt_has_cpuid(c, 0x80000008, 0, 1, 14);
}

bool bt_msr_read(struct bt_vcpu *c, uint32_t index, uint64_t *ret, bool host)
{
    uint64_t mask;
    const uint64_t *slot;

    if (UNLIKELY(c->sys.msr_absent != 0) && !host && msr_absent(c, index))
        return false;
    slot = msr_slot(c, msr_stores, ARRAY_SIZE(msr_stores), index, &mask);
    if (!slot)
        slot = msr_slot(c, msr_addresses, ARRAY_SIZE(msr_addresses), index, &mask);
    if (!slot)
        slot = msr_mtrr(c, index);
    if (slot) {
        *ret = *slot;
        return true;
    }
    if (msr_is_lapic(index))
        return bt_lapic_msr_read(c, index, ret);
    if (bt_pv_msr(index))
        return bt_pv_msr_read(c, index, ret);
    if (index == CPU_MSR_PV_KICKED && host) {
        *ret = bt_pv_kicked(c);
        return true;
    }
    switch (index) {
    case MSR_EFER:
        *ret = c->efer;
        return true;
    case MSR_FS_BASE:
        *ret = c->seg[BT_FS].base;
        return true;
    case MSR_GS_BASE:
        *ret = c->seg[BT_GS].base;
        return true;
    case MSR_TSC:
        *ret = bt_tsc(c);
        return true;
    case MSR_TSC_ADJUST:
        *ret = c->tsc_adjust;
        return true;
    case MSR_PAT:
        *ret = c->pat;
        return true;
    case MSR_MTRRCAP:
        *ret = 0x500 | BT_MTRR_VARS; /* fixed ranges, write-combining */
        return true;
    case MSR_SPEC_CTRL:
        *ret = c->spec_ctrl;
        return host || msr_has_spec_ctrl(c);
    case MSR_ARCH_CAPABILITIES:
        *ret = c->sys.arch_cap;
        return host || bt_has_cpuid(c, 7, 0, 3, 29);
    case MSR_PLATFORM_INFO:
        *ret = (c->vm->tsc_khz / 100000 & 0xff) << 8;
        return true;
    case MSR_DEBUGCTL:
        *ret = c->sys.dbg_ctl;
        return true;
    case MSR_UCODE_REV:
        *ret = c->sys.bios_sign;
        return true;
    default:
        *ret = 0;
        return msr_is_ignored(index);
    }
}

static void msr_set_base(struct bt_vcpu *c, unsigned seg, uint64_t v)
{
    c->seg[seg].base = c->segbase[seg] = v;
}

/* A guest's write moves the counter and shows in TSC_ADJUST; the host sets a value that was read before. */
static void msr_write_tsc(struct bt_vcpu *c, uint64_t v, bool host)
{
    uint64_t delta = v - bt_tsc(c);

    c->tsc_offset += delta;
    if (!host)
        c->tsc_adjust += delta;
    bt_pv_tsc_changed(c);
}

static bool msr_write_special(struct bt_vcpu *c, uint32_t index, uint64_t v, bool host)
{
    switch (index) {
    case MSR_EFER:
        return bt_set_efer(c, v);
    case MSR_FS_BASE:
    case MSR_GS_BASE:
        if (!bt_canonical(v))
            return false;
        msr_set_base(c, index == MSR_FS_BASE ? BT_FS : BT_GS, v);
        return true;
    case MSR_TSC:
        msr_write_tsc(c, v, host);
        return true;
    case MSR_TSC_ADJUST:
        if (!host) {
            c->tsc_offset += v - c->tsc_adjust;
            bt_pv_tsc_changed(c);
        }
        c->tsc_adjust = v;
        return true;
    case MSR_PAT:
        if (!msr_types_ok(v, true))
            return false;
        c->pat = v;
        return true;
    case MSR_SPEC_CTRL:
        if (!host && ((v & ~msr_spec_ctrl_bits(c)) || !msr_has_spec_ctrl(c)))
            return false;
        c->spec_ctrl = v & MSR_SPEC_CTRL_KNOWN;
        return true;
    case MSR_PRED_CMD: /* nothing to flush: no guest code trains a predictor directly */
        return !(v & ~0x81ULL) && (bt_has_cpuid(c, 7, 0, 3, 26) || bt_has_cpuid(c, 0x80000008, 0, 1, 12));
    case MSR_ARCH_CAPABILITIES:
        if (host)
            c->sys.arch_cap = v;
        return host;
    case MSR_PLATFORM_INFO:
    case MSR_MTRRCAP:
        return host;
    case MSR_UCODE_REV: /* kernels write 0, execute CPUID and read the revision */
        if (host)
            c->sys.bios_sign = v;
        return true;
    case MSR_UCODE_WRITE:
        return true;
    case MSR_DEBUGCTL: /* neither branch records nor branch steps are offered: accepted, not kept */
        return !(v & ~3ULL);
    default:
        return msr_is_ignored(index);
    }
}

bool bt_msr_write(struct bt_vcpu *c, uint32_t index, uint64_t v, bool host)
{
    uint64_t mask;
    uint64_t *slot;

    if (UNLIKELY(c->sys.msr_absent != 0) && !host && msr_absent(c, index))
        return false;
    slot = msr_slot(c, msr_stores, ARRAY_SIZE(msr_stores), index, &mask);
    if (slot) {
        if (!host && (mask == 0 || (v & ~mask)))
            return false;
        *slot = v;
        return true;
    }
    slot = msr_slot(c, msr_addresses, ARRAY_SIZE(msr_addresses), index, &mask);
    if (slot) {
        if (!bt_canonical(v))
            return false;
        *slot = v;
        return true;
    }
    slot = msr_mtrr(c, index);
    if (slot) {
        if (!msr_mtrr_ok(c, index, v))
            return false;
        *slot = v;
        return true;
    }
    if (msr_is_lapic(index))
        return bt_lapic_msr_write(c, index, v, host);
    if (bt_pv_msr(index))
        return bt_pv_msr_write(c, index, v);
    if (index == CPU_MSR_PV_KICKED && host)
        return bt_pv_set_kicked(c, v);
    return msr_write_special(c, index, v, host);
}
