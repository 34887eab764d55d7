/* The remaining system instructions: HLT, CLI, STI, CLAC, STAC, CPUID, MSRs, time stamp, XGETBV/XSETBV, cache control,
 * hypercalls. */
#include <errno.h>

#include "cpu/bt/irqchip/irqchip.h"
#include "cpu/bt/sys_priv.h"

static enum bt_next h_hlt(struct bt_vcpu *c, const struct bt_op *op)
{
    bt_require_cpl0(c);
    c->halted = 1;
    return BT_END;
}

static void misc_check_iopl(struct bt_vcpu *c)
{
    if ((c->cr0 & BT_CR0_PE) && (bt_v86(c) ? bt_iopl(c) < 3 : c->cpl > bt_iopl(c)))
        bt_gp(c, 0);
}

static enum bt_next h_cli(struct bt_vcpu *c, const struct bt_op *op)
{
    misc_check_iopl(c);
    c->rflags &= ~(uint64_t)BT_IF;
    return BT_NEXT;
}

static enum bt_next h_sti(struct bt_vcpu *c, const struct bt_op *op)
{
    misc_check_iopl(c);
    if (!(c->rflags & BT_IF))
        c->shadow |= BT_SHADOW_STI;
    c->rflags |= BT_IF;
    return BT_END;
}

static enum bt_next h_clac(struct bt_vcpu *c, const struct bt_op *op)
{
    if (c->cpl != 0)
        bt_ud(c);
    c->rflags &= ~(uint64_t)BT_AC;
    bt_ctx_update(c);
    return BT_NEXT;
}

static enum bt_next h_stac(struct bt_vcpu *c, const struct bt_op *op)
{
    if (c->cpl != 0)
        bt_ud(c);
    c->rflags |= BT_AC;
    bt_ctx_update(c);
    return BT_NEXT;
}

static enum bt_next h_cpuid(struct bt_vcpu *c, const struct bt_op *op)
{
    uint32_t regs[4];

    bt_cpuid(c, (uint32_t)c->r[BT_RAX], (uint32_t)c->r[BT_RCX], regs);
    c->r[BT_RAX] = regs[0];
    c->r[BT_RBX] = regs[1];
    c->r[BT_RCX] = regs[2];
    c->r[BT_RDX] = regs[3];
    return BT_END; /* serialising */
}

static void misc_set_edx_eax(struct bt_vcpu *c, uint64_t v)
{
    c->r[BT_RAX] = (uint32_t)v;
    c->r[BT_RDX] = v >> 32;
}

static uint64_t misc_edx_eax(const struct bt_vcpu *c)
{
    return c->r[BT_RDX] << 32 | (uint32_t)c->r[BT_RAX];
}

static enum bt_next h_rdmsr(struct bt_vcpu *c, const struct bt_op *op)
{
    uint64_t v;

    bt_require_cpl0(c);
    if (!bt_msr_read(c, (uint32_t)c->r[BT_RCX], &v, false))
        bt_gp(c, 0);
    misc_set_edx_eax(c, v);
    return BT_NEXT;
}

static enum bt_next h_wrmsr(struct bt_vcpu *c, const struct bt_op *op)
{
    bt_require_cpl0(c);
    if (!bt_msr_write(c, (uint32_t)c->r[BT_RCX], misc_edx_eax(c), false))
        bt_gp(c, 0);
    return BT_END;
}

static void misc_check_tsd(struct bt_vcpu *c)
{
    if ((c->cr4 & BT_CR4_TSD) && c->cpl != 0)
        bt_gp(c, 0);
}

static enum bt_next h_rdtsc(struct bt_vcpu *c, const struct bt_op *op)
{
    misc_check_tsd(c);
    misc_set_edx_eax(c, bt_tsc(c));
    return BT_NEXT;
}

static enum bt_next h_rdtscp(struct bt_vcpu *c, const struct bt_op *op)
{
    misc_check_tsd(c);
    misc_set_edx_eax(c, bt_tsc(c));
    c->r[BT_RCX] = (uint32_t)c->tsc_aux;
    return BT_NEXT;
}

/* No counters are offered, so every index is out of range. */
static enum bt_next h_rdpmc(struct bt_vcpu *c, const struct bt_op *op)
{
    bt_gp(c, 0);
}

static enum bt_next h_xgetbv(struct bt_vcpu *c, const struct bt_op *op)
{
    uint32_t index = (uint32_t)c->r[BT_RCX];

    if (!(c->cr4 & BT_CR4_OSXSAVE))
        bt_ud(c);
    /* Index 1 is XINUSE: a processor may say that everything is in use. */
    if (index > 1 || (index == 1 && !bt_has_cpuid(c, 0xd, 1, 0, 2)))
        bt_gp(c, 0);
    misc_set_edx_eax(c, c->xcr0);
    return BT_NEXT;
}

static enum bt_next h_xsetbv(struct bt_vcpu *c, const struct bt_op *op)
{
    uint64_t v = misc_edx_eax(c);
    uint32_t regs[4];

    if (!(c->cr4 & BT_CR4_OSXSAVE))
        bt_ud(c);
    bt_require_cpl0(c);
    bt_cpuid(c, 0xd, 0, regs);
    if ((uint32_t)c->r[BT_RCX] != 0 || (v & ~(uint64_t)(regs[0] & 7)) || !(v & 1) || (v & 6) == 4)
        bt_gp(c, 0);
    c->xcr0 = v;
    bt_state_update(c);
    return BT_END;
}

/* INVD, WBINVD, WBNOINVD: caches are coherent here. */
static enum bt_next h_wbinvd(struct bt_vcpu *c, const struct bt_op *op)
{
    bt_require_cpl0(c);
    return BT_NEXT;
}

static enum bt_next h_hypercall(struct bt_vcpu *c, const struct bt_op *op)
{
    if (c->cpl != 0) {
        c->r[BT_RAX] = op->bits == 64 ? (uint64_t)-EPERM : (uint32_t)-EPERM;
        return BT_END;
    }
    bt_pv_hypercall(c);
    return BT_END;
}

const bt_fn bt_sys_misc[BT_SYS_MISC_N] = {
    [BT_SYS_CLI] = h_cli,     [BT_SYS_STI] = h_sti,       [BT_SYS_STAC] = h_stac,   [BT_SYS_CLAC] = h_clac,
    [BT_SYS_RDTSC] = h_rdtsc, [BT_SYS_RDTSCP] = h_rdtscp, [BT_SYS_RDMSR] = h_rdmsr, [BT_SYS_XGETBV] = h_xgetbv,
};

static int misc_bind(struct bt_op *op, bt_fn fn, bool end)
{
    op->fn = fn;
    if (end)
        op->flags |= BT_OPF_END;
    return 0;
}

int bt_bind_sys_misc(struct bt_vcpu *c, const struct bt_insn *in, struct bt_op *op)
{
    switch (in->zi.mnemonic) {
    case ZYDIS_MNEMONIC_HLT:
        return misc_bind(op, h_hlt, true);
    case ZYDIS_MNEMONIC_CLI:
        return misc_bind(op, h_cli, false);
    case ZYDIS_MNEMONIC_STI:
        return misc_bind(op, h_sti, true);
    case ZYDIS_MNEMONIC_CLAC:
        return misc_bind(op, h_clac, false);
    case ZYDIS_MNEMONIC_STAC:
        return misc_bind(op, h_stac, false);
    case ZYDIS_MNEMONIC_CPUID:
        return misc_bind(op, h_cpuid, true);
    case ZYDIS_MNEMONIC_RDMSR:
        return misc_bind(op, h_rdmsr, false);
    case ZYDIS_MNEMONIC_WRMSR:
        return misc_bind(op, h_wrmsr, true);
    case ZYDIS_MNEMONIC_RDTSC:
        return misc_bind(op, h_rdtsc, false);
    case ZYDIS_MNEMONIC_RDTSCP:
        return misc_bind(op, h_rdtscp, false);
    case ZYDIS_MNEMONIC_RDPMC:
        return misc_bind(op, h_rdpmc, true);
    case ZYDIS_MNEMONIC_XGETBV:
        return misc_bind(op, h_xgetbv, false);
    case ZYDIS_MNEMONIC_XSETBV:
        return misc_bind(op, h_xsetbv, true);
    case ZYDIS_MNEMONIC_INVD:
    case ZYDIS_MNEMONIC_WBINVD:
        return misc_bind(op, h_wbinvd, false);
    case ZYDIS_MNEMONIC_VMCALL:
    case ZYDIS_MNEMONIC_VMMCALL:
        return misc_bind(op, h_hypercall, true);
    default:
        return -ENOENT;
    }
}
