/* Where the guest's x87/SSE/AVX state is: in the host's registers (c->fp_live) or in c->xsave. Loading, saving, reset,
 * the engine's get and set, and the gates by CR0, CR4 and XCR0.
 *
 * Invariants: c->xsave is always an image that XRSTOR accepts (reserved bits of header and MXCSR clear), since loading
 * it must not fault; while fp_live is clear, the host runs with its own control words and an empty x87 stack. A guest
 * may have unmasked exceptions pending, so nothing here may use an x87 instruction that waits. It must not know
 * instructions. */
#include "cpu/bt/fp.h"

#include <errno.h>

#include "cpu/bt/copy.h"
#include "cpu/bt/fp_priv.h"

void bt_fp_load(struct bt_vcpu *c)
{
    if (c->fp_live)
        return;
    if (LIKELY(c->stubs->xmask != 0))
        __asm__ volatile("xrstor64 %0" ::"m"(c->xsave), "a"(c->stubs->xmask), "d"(0) : "memory");
    else
        __asm__ volatile("fxrstor64 %0" ::"m"(c->xsave) : "memory");
    c->fp_live = 1;
    bt_fp_ready_update(c);
    c->stat[BT_STAT_FP_SWITCH]++;
}

bool bt_fp_enter(struct bt_vcpu *c, unsigned want)
{
    bt_fp_load(c);
    return (c->fp_ready & want) == want;
}

void bt_fp_save(struct bt_vcpu *c)
{
    static const uint32_t mxcsr = FP_MXCSR_INIT;

    if (!c->fp_live)
        return;
    if (LIKELY(c->stubs->xmask != 0))
        __asm__ volatile("xsave64 %0" : "+m"(c->xsave) : "a"(c->stubs->xmask), "d"(0) : "memory");
    else
        __asm__ volatile("fxsave64 %0" : "+m"(c->xsave)::"memory");
    if (c->stubs->xmask & FP_AVX)
        __asm__ volatile("vzeroupper");
    __asm__ volatile("fninit\n\tldmxcsr %0" ::"m"(mxcsr));
    c->fp_live = 0;
    c->fp_ready = 0;
    /* The host recorded the addresses of stubs and of host memory. */
    store_le16(c->xsave + FP_OFF_FOP, c->fp.fop);
    store_le64(c->xsave + FP_OFF_FIP, c->fp.fip);
    store_le64(c->xsave + FP_OFF_FDP, c->fp.fdp);
}

void bt_fp_reset(struct bt_vcpu *c)
{
    bt_fp_save(c);
    for (unsigned i = 0; i < BT_XSAVE_SIZE; i += 8)
        store_le64(c->xsave + i, 0);
    store_le16(c->xsave + FP_OFF_FCW, FP_FCW_INIT);
    store_le32(c->xsave + FP_OFF_MXCSR, FP_MXCSR_INIT);
    store_le32(c->xsave + FP_OFF_MXCSR_MASK, c->stubs->mxcsr_mask);
    c->fp.fip = c->fp.fdp = 0;
    c->fp.fcs = c->fp.fds = c->fp.fop = 0;
}

static void fp_fill(uint8_t *p, unsigned from, unsigned to)
{
    for (unsigned i = from; i < to; i += 8)
        store_le64(p + i, 0);
}

void bt_fp_normalise(struct bt_vcpu *c)
{
    uint64_t bv = c->stubs->xmask ? load_le64(c->xsave + FP_OFF_HEADER) : FP_X87 | FP_SSE;

    if (!(bv & FP_X87)) {
        fp_fill(c->xsave, 0, 24);
        fp_fill(c->xsave, FP_OFF_ST, FP_OFF_XMM);
        store_le16(c->xsave + FP_OFF_FCW, FP_FCW_INIT);
    }
    if (!(bv & FP_SSE))
        fp_fill(c->xsave, FP_OFF_XMM, FP_OFF_XMM_END);
    if (!(bv & FP_AVX))
        fp_fill(c->xsave, FP_OFF_YMM, FP_OFF_YMM_END);
}

void bt_fp_put_pointers(struct bt_vcpu *c, uint8_t *img, bool wide)
{
    const struct bt_stubs *s = c->stubs;
    bool es = (load_le16(img + FP_OFF_FSW) & FP_FSW_ES) != 0, show = es || s->xsave_ptrs;
    uint64_t fip = show ? c->fp.fip : 0, fdp = show && (es || !s->fdp_excptn_only) ? c->fp.fdp : 0;

    store_le16(img + FP_OFF_FOP, es || (show && !s->fop_excptn_only) ? c->fp.fop : 0);
    if (!wide) {
        fip = (uint32_t)fip | (uint64_t)(show && !s->zero_fcs ? c->fp.fcs : 0) << 32;
        fdp = (uint32_t)fdp | (uint64_t)(show && !s->zero_fcs ? c->fp.fds : 0) << 32;
    }
    store_le64(img + FP_OFF_FIP, fip);
    store_le64(img + FP_OFF_FDP, fdp);
}

void bt_fp_take_pointers(struct bt_vcpu *c, const uint8_t *img, bool wide)
{
    c->fp.fop = load_le16(img + FP_OFF_FOP) & 0x7ff;
    c->fp.fip = load_le64(img + FP_OFF_FIP);
    c->fp.fdp = load_le64(img + FP_OFF_FDP);
    c->fp.fcs = c->fp.fds = 0;
    if (!wide) {
        c->fp.fcs = (uint16_t)(c->fp.fip >> 32);
        c->fp.fds = (uint16_t)(c->fp.fdp >> 32);
        c->fp.fip = (uint32_t)c->fp.fip;
        c->fp.fdp = (uint32_t)c->fp.fdp;
    }
}

void bt_fp_get_state(struct bt_vcpu *c, void *buf, unsigned size)
{
    bt_fp_save(c);
    bt_fp_normalise(c);
    bt_zero(buf, size);
    memcpy(buf, c->xsave, MIN(size, (unsigned)FP_OFF_YMM_END));
    if (!c->stubs->xmask && size >= FP_OFF_HEADER + 8)
        store_le64((uint8_t *)buf + FP_OFF_HEADER, FP_X87 | FP_SSE);
}

int bt_fp_set_state(struct bt_vcpu *c, const void *buf, unsigned size)
{
    uint8_t img[FP_OFF_YMM_END] ALIGNED(8);
    uint64_t bv;

    if (size < FP_OFF_YMM)
        return -EINVAL;
    bt_zero(img, sizeof(img));
    memcpy(img, buf, MIN(size, (unsigned)sizeof(img)));
    bv = load_le64(img + FP_OFF_HEADER);
    if ((bv & ~(uint64_t)(FP_X87 | FP_SSE | FP_AVX)) != 0 || load_le64(img + FP_OFF_HEADER + 8) != 0 ||
        (load_le32(img + FP_OFF_MXCSR) & ~c->stubs->mxcsr_mask) != 0)
        return -EINVAL;
    if (c->stubs->xmask && (bv & ~(uint64_t)c->stubs->xmask) != 0)
        return -EINVAL;
    bt_fp_reset(c);
    for (unsigned i = FP_OFF_HEADER + 8; i < FP_OFF_YMM; i++)
        img[i] = 0;
    if (bv & FP_X87)
        bt_fp_take_pointers(c, img, true);
    store_le32(img + FP_OFF_MXCSR_MASK, c->stubs->mxcsr_mask);
    memcpy(c->xsave, img, sizeof(img));
    bt_fp_normalise(c);
    /* Let the host bring reserved bits of the x87 words into their fixed values. */
    bt_fp_load(c);
    bt_fp_save(c);
    return 0;
}

void bt_fp_gate_fail(struct bt_vcpu *c, enum fp_kind kind)
{
    bool ud = false;

    if (kind == FP_KIND_SSE)
        ud = (c->cr0 & FP_CR0_EM) != 0 || !(c->cr4 & FP_CR4_OSFXSR);
    else if (kind == FP_KIND_AVX)
        ud = !(c->cr0 & FP_CR0_PE) || (c->rflags & BT_VM) != 0 || !(c->cr4 & FP_CR4_OSXSAVE) ||
             (~c->xcr0 & (FP_SSE | FP_AVX)) != 0;
    else if (kind == FP_KIND_MMX)
        ud = (c->cr0 & FP_CR0_EM) != 0;
    bt_raise(c, ud ? BT_UD : BT_NM);
}

/* CR0.NE = 0 would report x87 errors through FERR# and IRQ 13; the machines that Caisson builds have no such wire, so
 * that #MF comes in both cases. */
void bt_fp_trap(struct bt_vcpu *c, unsigned vector)
{
    if (vector == BT_GP)
        bt_gp(c, 0);
    if (vector == BT_UD || (vector == BT_XM && !(c->cr4 & FP_CR4_OSXMMEXCPT)))
        bt_ud(c);
    bt_raise(c, vector == BT_XM ? BT_XM : BT_MF);
}

void bt_fp_wait(struct bt_vcpu *c)
{
    fp_run(c, (uintptr_t)c->stubs->rx + FP_SLOT * FP_SLOT_WAIT, c->scratch);
}

void bt_fp_misaligned(struct bt_vcpu *c, const struct bt_op *op)
{
    uint32_t mxcsr = load_le32(c->xsave + FP_OFF_MXCSR);

    if (c->fp_live)
        __asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
    if (!(mxcsr & FP_MXCSR_MM) || (op->flags & BT_OPF_ALIGN))
        bt_gp(c, 0);
}
