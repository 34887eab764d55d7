/* See bt_machine.h. */
#include "bt_machine.h"

void machine_gdt_put(struct bt_rig *rig, unsigned sel, uint64_t desc)
{
    rig_put(rig, GDT + (sel & ~7U), desc, 8);
}

/* 16-byte system descriptor. */
void machine_gdt_put_system(struct bt_rig *rig, unsigned sel, uint32_t base, uint32_t limit, unsigned access)
{
    machine_gdt_put(rig, sel, rig_desc(base, limit, access, 0));
    machine_gdt_put(rig, sel + 8, 0);
}

void machine_gate_put(struct bt_rig *rig, unsigned vector, uint16_t sel, uint64_t offset, unsigned access, unsigned ist)
{
    bool wide = rig->c->efer & BT_EFER_LMA;
    uint64_t lo = (offset & 0xffff) | (uint64_t)sel << 16 | (uint64_t)ist << 32 | (uint64_t)access << 40 |
                  (offset >> 16 & 0xffff) << 48;

    rig_put(rig, IDT + vector * (wide ? 16 : 8), lo, 8);
    if (wide)
        rig_put(rig, IDT + vector * 16 + 8, offset >> 32, 8);
}

static void machine_build_gdt(struct bt_rig *rig)
{
    machine_gdt_put(rig, CODE0, rig_desc(0, 0xfffff, 0x9b, 0xc));
    machine_gdt_put(rig, DATA0, rig_desc(0, 0xfffff, 0x93, 0xc));
    machine_gdt_put(rig, CODE3, rig_desc(0, 0xfffff, 0xfb, 0xc));
    machine_gdt_put(rig, DATA3, rig_desc(0, 0xfffff, 0xf3, 0xc));
    machine_gdt_put(rig, CODE64, rig_desc(0, 0xfffff, 0x9b, 0xa));
    machine_gdt_put(rig, CODE64_3, rig_desc(0, 0xfffff, 0xfb, 0xa));
    machine_gdt_put_system(rig, TSS_SEL, (uint32_t)TSS, 0x67, 0x8b);
    machine_gdt_put_system(rig, TSS2_SEL, (uint32_t)TSS2, 0x67, 0x89);
    machine_gdt_put_system(rig, LDT_SEL, (uint32_t)LDT, 0xf, 0x82);
    machine_gdt_put(rig, CONFORMING, rig_desc(0, 0xfffff, 0x9f, 0xc));
    machine_gdt_put(rig, RODATA3, rig_desc(0, 0xfffff, 0xf1, 0xc));
    machine_gdt_put(rig, EXECONLY, rig_desc(0, 0xfffff, 0xf9, 0xc));
    machine_gdt_put(rig, ABSENT, rig_desc(0, 0xfffff, 0x73, 0xc));
    machine_gdt_put(rig, ABSENT_CODE, rig_desc(0, 0xfffff, 0x1b, 0xc));
    machine_gdt_put(rig, DATA1, rig_desc(0, 0xfffff, 0xb3, 0xc));
}

/* Protected mode, no paging, at privilege level cpl with flat segments. */
void machine_enter_protected(struct bt_rig *rig, unsigned cpl)
{
    rig->c->cr0 = BT_CR0_PE | BT_CR0_ET;
    rig->c->cr4 = rig->c->efer = 0;
    rig->c->rflags = 2;
    rig->c->gdt = (struct bt_dtable){ GDT, GDT_END - 1 };
    rig->c->idt = (struct bt_dtable){ IDT, 0x7ff };
    machine_build_gdt(rig);
    bt_desc_unpack(rig_desc((uint32_t)TSS, 0x67, 0x8b, 0), TSS_SEL, &rig->c->tr);
    bt_desc_unpack(rig_desc((uint32_t)LDT, 0xf, 0x82, 0), LDT_SEL, &rig->c->ldt);
    bt_seg_flat(&rig->c->seg[BT_CS], (uint16_t)(cpl ? CODE3 | 3 : CODE0), 11, (uint8_t)cpl, false);
    for (unsigned i = 0; i < 6; i++) {
        if (i != BT_CS)
            bt_seg_flat(&rig->c->seg[i], (uint16_t)(cpl ? DATA3 | 3 : DATA0), 3, (uint8_t)cpl, false);
    }
    rig_put(rig, TSS + 4, STACK0, 4);
    rig_put(rig, TSS + 8, DATA0, 4);
    rig->c->cpl = (uint8_t)cpl;
    rig->c->r[BT_RSP] = cpl ? STACK3 : STACK0;
    rig->c->r[BT_RIP] = 0x7000;
    bt_state_update(rig->c);
}

/* Long mode, identity-mapped by one 1 GiB page. */
void machine_enter_long(struct bt_rig *rig, unsigned cpl)
{
    machine_enter_protected(rig, cpl);
    rig_put(rig, 0x20000, 0x21007, 8);
    rig_put(rig, 0x20ff8, 0x21007, 8); /* the top of the address space too */
    rig_put(rig, 0x21000, 0x87, 8);
    rig->c->cr4 = BT_CR4_PAE;
    rig->c->cr0 |= BT_CR0_PG | BT_CR0_WP;
    rig->c->efer = BT_EFER_SCE | BT_EFER_LME | BT_EFER_LMA;
    rig->c->cr3 = 0x20000;
    rig->c->idt.limit = 0xfff;
    bt_seg_flat(&rig->c->seg[BT_CS], (uint16_t)(cpl ? CODE64_3 | 3 : CODE64), 11, (uint8_t)cpl, true);
    rig->c->tr.limit = 0x67;
    rig_put(rig, TSS + 4, STACK0, 8);
    bt_tlb_flush_all(rig->c);
    bt_state_update(rig->c);
}

static void do_deliver(struct bt_vcpu *cpu, void *arg)
{
    bt_deliver_exception(cpu);
}

/* Deliver as the run loop does: again and again until it is in, or shut down. Returns the number of rounds. */
unsigned machine_deliver(struct bt_rig *rig, unsigned vector, bool has_error, uint32_t error, uint8_t soft,
                         uint64_t payload)
{
    unsigned rounds = 0;

    rig->c->exc.vector = (uint8_t)vector;
    rig->c->exc.has_error = has_error;
    rig->c->exc.error = error;
    rig->c->exc.soft = soft;
    rig->c->exc.payload = payload;
    do {
        rounds++;
    } while (rig_try(rig, do_deliver, NULL) >= 0 && rounds < 10);
    return rounds;
}

uint64_t machine_stack(struct bt_rig *rig, unsigned index, unsigned size)
{
    return rig_get(rig, rig->c->seg[BT_SS].base + rig->c->r[BT_RSP] + index * size, size);
}
