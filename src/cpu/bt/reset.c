/* Architectural RESET, INIT and SIPI (SDM vol. 3, table 10-1). */
#include "cpu/bt/copy.h"
#include "cpu/bt/fp.h"
#include "cpu/bt/msr.h"
#include "cpu/bt/sys_priv.h"

static void reset_segment(struct bt_seg *s, uint16_t sel, uint64_t base, uint8_t type, uint8_t is_data)
{
    s->sel = sel;
    s->base = base;
    s->limit = 0xffff;
    s->type = type;
    s->s = is_data;
    s->present = 1;
    s->dpl = s->avl = s->l = s->db = s->g = s->unusable = 0;
}

/* What RESET and INIT have in common. */
static void reset_common(struct bt_vcpu *c)
{
    uint32_t id[4];

    for (unsigned i = 0; i < BT_NREGS; i++)
        c->r[i] = 0;
    bt_cpuid(c, 1, 0, id);
    c->r[BT_RDX] = id[0];
    c->r[BT_RIP] = 0xfff0;
    c->rflags = 2;
    for (unsigned i = 0; i < 6; i++)
        reset_segment(&c->seg[i], 0, 0, 3, 1);
    reset_segment(&c->seg[BT_CS], 0xf000, 0xffff0000, 3, 1);
    reset_segment(&c->ldt, 0, 0, BT_SYS_LDT, 0);
    reset_segment(&c->tr, 0, 0, BT_SYS_TSS32_BUSY, 0);
    c->gdt.base = c->idt.base = 0;
    c->gdt.limit = c->idt.limit = 0xffff;
    c->cr2 = c->cr3 = c->cr4 = 0;
    c->efer = 0;
    for (unsigned i = 0; i < 4; i++)
        c->dr[i] = c->pdpte[i] = 0;
    c->dr[6] = BT_DR6_FIXED;
    c->dr[7] = BT_DR7_FIXED;
    c->cpl = 0;
    c->shadow = c->halted = 0;
    c->in_delivery = c->nmi_pending = c->nmi_blocked = c->shutdown = c->db_pending = 0;
    c->exc.pending = 0;
    c->dr6_trap = 0;
    c->sys.ext = c->sys.align_check = 0;
    bt_tlb_flush_all(c);
    bt_cpuid_changed(c);
    bt_debug_update(c);
    bt_state_update(c);
    atomic_fetch_and(&c->events, ~(uint32_t)BT_EV_STEP);
}

void bt_vcpu_reset(struct bt_vcpu *c)
{
    c->cr0 = BT_CR0_CD | BT_CR0_NW | BT_CR0_ET;
    c->xcr0 = 1;
    c->star = c->lstar = c->cstar = c->sfmask = c->kernel_gs_base = c->tsc_aux = 0;
    c->sysenter_cs = c->sysenter_esp = c->sysenter_eip = 0;
    c->pat = BT_PAT_RESET;
    c->misc_enable = BIT64(0) | BIT64(11) | BIT64(12); /* fast strings; no BTS, no PEBS */
    c->spec_ctrl = 0;
    /* The offset stays: all vCPUs of a VM share one time line, whenever they are made. */
    c->tsc_adjust = 0;
    bt_zero(&c->sys, sizeof(c->sys));
    c->sys.arch_cap = BT_ARCH_CAP;
    c->sys.feature_control = 1; /* locked */
    c->sys.bios_sign = BIT64(32);
    c->sys.de_cfg = BIT64(1); /* LFENCE serialises */
    c->sys.hwcr = BIT64(24);  /* the TSC counts at a constant frequency */
    reset_common(c);
    bt_fp_reset(c);
}

void bt_vcpu_init(struct bt_vcpu *c)
{
    /* CD and NW survive, as do MSRs, the time stamp and the FP state. */
    c->cr0 = (c->cr0 & (BT_CR0_CD | BT_CR0_NW)) | BT_CR0_ET;
    reset_common(c);
}

void bt_vcpu_sipi(struct bt_vcpu *c, uint8_t vector)
{
    c->seg[BT_CS].sel = (uint16_t)(vector << 8);
    c->seg[BT_CS].base = (uint64_t)vector << 12;
    c->r[BT_RIP] = 0;
    c->halted = 0;
    bt_state_update(c);
}
