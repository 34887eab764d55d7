/* Control registers and EFER: checks (#GP(0)), mode switches and what follows from them (PDPTE loads, TLB flushes).
 * Used by MOV CR, LMSW, CLTS, WRMSR and task switches. */
#include "cpu/bt/sys_priv.h"

static bool cr_pae_paging(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
    return (cr0 & BT_CR0_PG) && (cr4 & BT_CR4_PAE) && !(efer & BT_EFER_LMA);
}

/* PAE paging reads the page-directory pointers when it is entered and at CR3 loads, not at walks. */
static void cr_reload_pdptes(struct bt_vcpu *c, uint64_t cr3)
{
    if (!bt_load_pdptes(c, cr3, c->pdpte))
        bt_gp(c, 0);
}

/* Turning paging on with EFER.LME set, or off in long mode. Returns the new EFER. */
static uint64_t cr0_long_mode(struct bt_vcpu *c, uint64_t v)
{
    if ((v & BT_CR0_PG) && !(c->cr0 & BT_CR0_PG) && (c->efer & BT_EFER_LME)) {
        if (!(c->cr4 & BT_CR4_PAE) || c->seg[BT_CS].l)
            bt_gp(c, 0);
        return c->efer | BT_EFER_LMA;
    }
    if (!(v & BT_CR0_PG) && (c->cr0 & BT_CR0_PG)) {
        if (bt_mode64(c) || (c->cr4 & BT_CR4_PCIDE))
            bt_gp(c, 0);
        return c->efer & ~BT_EFER_LMA;
    }
    return c->efer;
}

void bt_set_cr0(struct bt_vcpu *c, uint64_t v)
{
    const uint64_t defined = BT_CR0_PE | BT_CR0_MP | BT_CR0_EM | BT_CR0_TS | BT_CR0_NE | BT_CR0_WP | BT_CR0_AM |
                             BT_CR0_NW | BT_CR0_CD | BT_CR0_PG;
    uint64_t old = c->cr0, efer;

    if (v >> 32)
        bt_gp(c, 0);
    v = (v & defined) | BT_CR0_ET;
    if (((v & BT_CR0_PG) && !(v & BT_CR0_PE)) || ((v & BT_CR0_NW) && !(v & BT_CR0_CD)))
        bt_gp(c, 0);
    efer = cr0_long_mode(c, v);
    if (cr_pae_paging(v, c->cr4, efer) && ((v ^ old) & (BT_CR0_PG | BT_CR0_CD | BT_CR0_NW)))
        cr_reload_pdptes(c, c->cr3);
    c->cr0 = v;
    c->efer = efer;
    if (!(v & BT_CR0_PE))
        c->cpl = 0;
    if ((v ^ old) & (BT_CR0_PG | BT_CR0_WP | BT_CR0_PE))
        bt_tlb_flush_all(c);
    bt_state_update(c);
}

void bt_set_cr3(struct bt_vcpu *c, uint64_t v)
{
    if (BT_LONG_MODE(c)) {
        /* Bit 63 only asks to keep the TLB entries of the new PCID, which this TLB does not tell apart. */
        if (c->cr4 & BT_CR4_PCIDE)
            v &= ~BIT64(63);
        if (v & ~c->phys_mask)
            bt_gp(c, 0);
    } else {
        v &= UINT32_MAX;
        if (cr_pae_paging(c->cr0, c->cr4, c->efer))
            cr_reload_pdptes(c, v);
    }
    c->cr3 = v;
    bt_tlb_flush_nonglobal(c);
}

void bt_set_cr4(struct bt_vcpu *c, uint64_t v)
{
    uint64_t old = c->cr4, changed = v ^ old;

    if (v & ~c->sys.cr4_valid)
        bt_gp(c, 0);
    if (BT_LONG_MODE(c) && !(v & BT_CR4_PAE))
        bt_gp(c, 0);
    if ((v & changed & BT_CR4_PCIDE) && (!BT_LONG_MODE(c) || (c->cr3 & 0xfff)))
        bt_gp(c, 0);
    if (cr_pae_paging(c->cr0, v, c->efer) && (changed & (BT_CR4_PAE | BT_CR4_PGE | BT_CR4_PSE | BT_CR4_SMEP)))
        cr_reload_pdptes(c, c->cr3);
    c->cr4 = v;
    if (changed & (BT_CR4_PGE | BT_CR4_PAE | BT_CR4_PSE | BT_CR4_PCIDE | BT_CR4_SMEP | BT_CR4_SMAP))
        bt_tlb_flush_all(c);
    if (changed & BT_CR4_DE)
        bt_debug_update(c);
    bt_state_update(c);
}

bool bt_set_efer(struct bt_vcpu *c, uint64_t v)
{
    if (v & ~c->sys.efer_valid)
        return false;
    if (((v ^ c->efer) & BT_EFER_LME) && (c->cr0 & BT_CR0_PG))
        return false;
    v = (v & ~BT_EFER_LMA) | (c->efer & BT_EFER_LMA); /* LMA follows CR0.PG */
    if ((v ^ c->efer) & BT_EFER_NXE)
        bt_tlb_flush_all(c);
    c->efer = v;
    bt_state_update(c);
    return true;
}
