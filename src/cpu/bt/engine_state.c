/* Moving vCPU state in and out in the structures of the KVM API. A state that comes in may come from a file, so
 * everything that the run path relies on is checked or made true here; what is architecturally impossible is refused
 * with -EINVAL. */
#include <errno.h>
#include <string.h>

#include "cpu/bt/engine_priv.h"
#include "cpu/bt/fp.h"
#include "cpu/bt/irqchip/irqchip.h"
#include "cpu/bt/mmu.h"
#include "cpu/bt/run.h"
#include "cpu/bt/sys.h"

#define CR0_PE (1ULL << 0)
#define CR0_PG (1ULL << 31)
#define CR4_PAE (1ULL << 5)
#define EFER_LME (1ULL << 8)
#define EFER_LMA (1ULL << 10)
#define RFLAGS_DEFINED 0x3f7fd7ULL
#define XCR0_SUPPORTED 7ULL
#define DR6_TRAPS 0xe00fULL

int bt_engine_get_regs(struct cpu_vcpu *vcpu, struct kvm_regs *regs)
{
    const struct bt_vcpu *c = &vcpu->c;

    *regs = (struct kvm_regs){
        .rax = c->r[BT_RAX],
        .rbx = c->r[BT_RBX],
        .rcx = c->r[BT_RCX],
        .rdx = c->r[BT_RDX],
        .rsi = c->r[BT_RSI],
        .rdi = c->r[BT_RDI],
        .rsp = c->r[BT_RSP],
        .rbp = c->r[BT_RBP],
        .r8 = c->r[BT_R8],
        .r9 = c->r[BT_R9],
        .r10 = c->r[BT_R10],
        .r11 = c->r[BT_R11],
        .r12 = c->r[BT_R12],
        .r13 = c->r[BT_R13],
        .r14 = c->r[BT_R14],
        .r15 = c->r[BT_R15],
        .rip = c->r[BT_RIP],
        .rflags = c->rflags,
    };
    return 0;
}

int bt_engine_set_regs(struct cpu_vcpu *vcpu, const struct kvm_regs *regs)
{
    struct bt_vcpu *c = &vcpu->c;
    const uint64_t in[] = { regs->rax, regs->rcx, regs->rdx, regs->rbx, regs->rsp, regs->rbp, regs->rsi, regs->rdi,
                            regs->r8,  regs->r9,  regs->r10, regs->r11, regs->r12, regs->r13, regs->r14, regs->r15 };

    memcpy(c->r, in, sizeof(in));
    c->r[BT_RIP] = regs->rip;
    c->rflags = (regs->rflags & RFLAGS_DEFINED) | 2;
    c->exc.pending = 0;
    bt_state_update(c);
    bt_debug_update(c);
    return 0;
}

static struct kvm_segment engine_seg_out(const struct bt_seg *s)
{
    return (struct kvm_segment){
        .base = s->base,
        .limit = s->limit,
        .selector = s->sel,
        .type = s->type,
        .present = s->present,
        .dpl = s->dpl,
        .db = s->db,
        .s = s->s,
        .l = s->l,
        .g = s->g,
        .avl = s->avl,
        .unusable = s->unusable,
    };
}

static struct bt_seg engine_seg_in(const struct kvm_segment *s)
{
    return (struct bt_seg){
        .base = s->base,
        .limit = s->limit,
        .sel = s->selector,
        .type = s->type & 15,
        .s = s->s & 1,
        .dpl = s->dpl & 3,
        .present = s->present & 1,
        .avl = s->avl & 1,
        .l = s->l & 1,
        .db = s->db & 1,
        .g = s->g & 1,
        .unusable = s->unusable & 1,
    };
}

int bt_engine_get_sregs(struct cpu_vcpu *vcpu, struct kvm_sregs *sregs)
{
    struct bt_vcpu *c = &vcpu->c;

    *sregs = (struct kvm_sregs){
        .cs = engine_seg_out(&c->seg[BT_CS]),
        .ds = engine_seg_out(&c->seg[BT_DS]),
        .es = engine_seg_out(&c->seg[BT_ES]),
        .fs = engine_seg_out(&c->seg[BT_FS]),
        .gs = engine_seg_out(&c->seg[BT_GS]),
        .ss = engine_seg_out(&c->seg[BT_SS]),
        .tr = engine_seg_out(&c->tr),
        .ldt = engine_seg_out(&c->ldt),
        .gdt = { .base = c->gdt.base, .limit = c->gdt.limit },
        .idt = { .base = c->idt.base, .limit = c->idt.limit },
        .cr0 = c->cr0,
        .cr2 = c->cr2,
        .cr3 = c->cr3,
        .cr4 = c->cr4,
        .cr8 = bt_cr8_read(c),
        .efer = c->efer,
        .apic_base = bt_lapic_base(c),
    };
    return 0;
}

/* PAE without long mode: the page-directory pointers are registers, loaded with CR3. */
static void engine_load_pdptes(struct bt_vcpu *c)
{
    memset(c->pdpte, 0, sizeof(c->pdpte));
    if (c->cr0 & CR0_PG && c->cr4 & CR4_PAE && !(c->efer & EFER_LMA))
        bt_phys_read(c, c->cr3 & 0xffffffe0, c->pdpte, sizeof(c->pdpte));
}

int bt_engine_set_sregs(struct cpu_vcpu *vcpu, const struct kvm_sregs *sregs)
{
    struct bt_vcpu *c = &vcpu->c;
    bool paging = sregs->cr0 & CR0_PG, long_mode = sregs->efer & EFER_LMA;

    if (paging && !(sregs->cr0 & CR0_PE))
        return -EINVAL;
    if (long_mode != (paging && sregs->efer & EFER_LME) || (long_mode && !(sregs->cr4 & CR4_PAE)))
        return -EINVAL;
    if (sregs->cr3 & ~c->phys_mask || sregs->cr0 >> 32 || sregs->cs.dpl > 3 || sregs->ss.dpl > 3)
        return -EINVAL;
    c->seg[BT_CS] = engine_seg_in(&sregs->cs);
    c->seg[BT_DS] = engine_seg_in(&sregs->ds);
    c->seg[BT_ES] = engine_seg_in(&sregs->es);
    c->seg[BT_FS] = engine_seg_in(&sregs->fs);
    c->seg[BT_GS] = engine_seg_in(&sregs->gs);
    c->seg[BT_SS] = engine_seg_in(&sregs->ss);
    c->tr = engine_seg_in(&sregs->tr);
    c->ldt = engine_seg_in(&sregs->ldt);
    c->gdt = (struct bt_dtable){ sregs->gdt.base, sregs->gdt.limit };
    c->idt = (struct bt_dtable){ sregs->idt.base, sregs->idt.limit };
    c->cr0 = sregs->cr0 | 0x10;
    c->cr2 = sregs->cr2;
    c->cr3 = sregs->cr3;
    c->cr4 = sregs->cr4;
    c->efer = sregs->efer;
    /* As KVM does: the privilege level is SS.DPL, except in real mode (0) and virtual-8086 mode (3). */
    c->cpl = !(c->cr0 & CR0_PE) ? 0 : c->rflags & BT_VM ? 3 : c->seg[BT_SS].dpl;
    if (!bt_lapic_msr_write(c, 0x1b, sregs->apic_base, true))
        return -EINVAL;
    bt_cr8_write(c, sregs->cr8 & 15);
    engine_load_pdptes(c);
    bt_tlb_flush_all(c);
    bt_state_update(c);
    bt_debug_update(c);
    return 0;
}

int bt_engine_get_xsave(struct cpu_vcpu *vcpu, struct kvm_xsave *xsave)
{
    bt_fp_get_state(&vcpu->c, xsave->region, sizeof(xsave->region));
    return 0;
}

int bt_engine_set_xsave(struct cpu_vcpu *vcpu, const struct kvm_xsave *xsave)
{
    return bt_fp_set_state(&vcpu->c, xsave->region, sizeof(xsave->region));
}

int bt_engine_get_xcrs(struct cpu_vcpu *vcpu, struct kvm_xcrs *xcrs)
{
    *xcrs = (struct kvm_xcrs){ .nr_xcrs = 1, .xcrs[0].value = vcpu->c.xcr0 };
    return 0;
}

int bt_engine_set_xcrs(struct cpu_vcpu *vcpu, const struct kvm_xcrs *xcrs)
{
    for (unsigned i = 0; i < xcrs->nr_xcrs && i < KVM_MAX_XCRS; i++) {
        uint64_t v = xcrs->xcrs[i].value;

        if (xcrs->xcrs[i].xcr != 0)
            continue;
        if (v & ~XCR0_SUPPORTED || !(v & 1) || (v & 6) == 4)
            return -EINVAL;
        vcpu->c.xcr0 = v;
    }
    bt_state_update(&vcpu->c);
    return 0;
}

int bt_engine_get_msrs(struct cpu_vcpu *vcpu, struct cpu_msr_entry *entries, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        if (!bt_msr_read(&vcpu->c, entries[i].index, &entries[i].value, true))
            return (int)i;
    }
    return (int)n;
}

int bt_engine_set_msrs(struct cpu_vcpu *vcpu, const struct cpu_msr_entry *entries, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        if (!bt_msr_write(&vcpu->c, entries[i].index, entries[i].value, true))
            return (int)i;
    }
    return (int)n;
}

static uint8_t engine_shadow_out(uint8_t shadow)
{
    return (uint8_t)((shadow & BT_SHADOW_STI ? KVM_X86_SHADOW_INT_STI : 0) |
                     (shadow & BT_SHADOW_MOVSS ? KVM_X86_SHADOW_INT_MOV_SS : 0));
}

int bt_engine_get_events(struct cpu_vcpu *vcpu, struct kvm_vcpu_events *events)
{
    struct bt_vcpu *c = &vcpu->c;
    bool trap = !c->exc.pending && c->db_pending; /* a #DB that waits for the instruction behind MOV SS */

    *events = (struct kvm_vcpu_events){
        .exception = { .injected = c->exc.pending,
                       .pending = trap,
                       .nr = trap ? BT_DB : c->exc.vector,
                       .has_error_code = !trap && c->exc.has_error,
                       .error_code = trap ? 0 : c->exc.error },
        .exception_has_payload = 1,
        .exception_payload = trap ? c->dr6_trap : c->exc.payload,
        .interrupt.shadow = engine_shadow_out(c->shadow),
        .nmi = { .pending = c->nmi_pending || (atomic_load(&c->events) & BT_EV_NMI), .masked = c->nmi_blocked },
        .sipi_vector = c->sipi_vector,
        .flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR | KVM_VCPUEVENT_VALID_SHADOW |
                 KVM_VCPUEVENT_VALID_PAYLOAD,
    };
    return 0;
}

/* An exception, or an interrupt that the controllers have handed out already (KVM has such). A software interrupt's
 * instruction has not been left: it is executed again. */
static void engine_events_pending(struct bt_vcpu *c, const struct kvm_vcpu_events *events)
{
    bool payload = events->flags & KVM_VCPUEVENT_VALID_PAYLOAD, pending = payload && events->exception.pending;

    c->exc.pending = events->exception.injected || pending;
    c->exc.vector = events->exception.nr;
    c->exc.has_error = events->exception.has_error_code;
    c->exc.error = events->exception.error_code;
    c->exc.soft = 0;
    c->exc.payload = payload ? events->exception_payload : events->exception.nr == BT_PFV ? c->cr2 : 0;
    c->db_pending = 0;
    c->dr6_trap = 0;
    if (pending && !events->exception.injected && events->exception.nr == BT_DB && (c->shadow & BT_SHADOW_MOVSS)) {
        c->exc.pending = 0;
        c->db_pending = 1;
        c->dr6_trap = events->exception_payload & DR6_TRAPS;
        bt_debug_update(c);
    }
    if (!c->exc.pending && events->interrupt.injected && !events->interrupt.soft) {
        c->exc.pending = 1;
        c->exc.vector = events->interrupt.nr;
        c->exc.has_error = 0;
        c->exc.payload = 0;
    }
}

int bt_engine_set_events(struct cpu_vcpu *vcpu, const struct kvm_vcpu_events *events)
{
    struct bt_vcpu *c = &vcpu->c;

    if (events->exception.nr > 31)
        return -EINVAL;
    if (events->flags & KVM_VCPUEVENT_VALID_SHADOW)
        c->shadow = (uint8_t)((events->interrupt.shadow & KVM_X86_SHADOW_INT_STI ? BT_SHADOW_STI : 0) |
                              (events->interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS ? BT_SHADOW_MOVSS : 0));
    engine_events_pending(c, events);
    c->nmi_blocked = events->nmi.masked;
    if (events->flags & KVM_VCPUEVENT_VALID_SIPI_VECTOR)
        c->sipi_vector = (uint8_t)events->sipi_vector;
    if (events->flags & KVM_VCPUEVENT_VALID_NMI_PENDING) {
        c->nmi_pending = 0;
        if (events->nmi.pending)
            bt_vcpu_signal(c, BT_EV_NMI);
        else
            atomic_fetch_and(&c->events, ~(uint32_t)BT_EV_NMI);
    }
    return 0;
}

int bt_engine_get_mp_state(struct cpu_vcpu *vcpu, struct kvm_mp_state *state)
{
    bt_vcpu_accept(&vcpu->c);
    state->mp_state = vcpu->c.halted ? KVM_MP_STATE_HALTED : vcpu->c.mp_state;
    return 0;
}

int bt_engine_set_mp_state(struct cpu_vcpu *vcpu, const struct kvm_mp_state *state)
{
    struct bt_vcpu *c = &vcpu->c;

    switch (state->mp_state) {
    case KVM_MP_STATE_RUNNABLE:
    case KVM_MP_STATE_HALTED:
        c->mp_state = KVM_MP_STATE_RUNNABLE;
        c->halted = state->mp_state == KVM_MP_STATE_HALTED;
        return 0;
    case KVM_MP_STATE_UNINITIALIZED:
    case KVM_MP_STATE_INIT_RECEIVED:
        c->mp_state = (uint8_t)state->mp_state;
        c->halted = 0;
        return 0;
    case KVM_MP_STATE_SIPI_RECEIVED:
        c->mp_state = KVM_MP_STATE_INIT_RECEIVED;
        bt_vcpu_signal(c, BT_EV_SIPI);
        return 0;
    default:
        return -EINVAL;
    }
}

int bt_engine_get_debugregs(struct cpu_vcpu *vcpu, struct kvm_debugregs *regs)
{
    const struct bt_vcpu *c = &vcpu->c;

    *regs =
        (struct kvm_debugregs){ .db = { c->dr[0], c->dr[1], c->dr[2], c->dr[3] }, .dr6 = c->dr[6], .dr7 = c->dr[7] };
    return 0;
}

int bt_engine_set_debugregs(struct cpu_vcpu *vcpu, const struct kvm_debugregs *regs)
{
    struct bt_vcpu *c = &vcpu->c;

    if (regs->dr6 >> 32 || regs->dr7 >> 32)
        return -EINVAL;
    memcpy(c->dr, regs->db, sizeof(regs->db));
    c->dr[6] = regs->dr6;
    c->dr[7] = regs->dr7;
    bt_debug_update(c);
    return 0;
}

int bt_engine_get_tsc(struct cpu_vcpu *vcpu, struct cpu_tsc *tsc)
{
    *tsc = (struct cpu_tsc){ .offset = vcpu->c.tsc_offset, .khz = vcpu->c.vm->tsc_khz };
    return 0;
}

int bt_engine_set_tsc(struct cpu_vcpu *vcpu, const struct cpu_tsc *tsc)
{
    vcpu->c.tsc_offset = tsc->offset;
    bt_pv_tsc_changed(&vcpu->c);
    return 0;
}
