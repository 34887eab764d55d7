/* The states in which a boot processor enters a kernel, with the descriptor and page tables behind them. Selectors are
 * Linux's
 * __BOOT_CS and __BOOT_DS, which suit the other protocols too. */
#include <string.h>

#include "base/bits.h"
#include "vmm/boot_priv.h"

enum { BOOT_CS = 0x10, BOOT_DS = 0x18, BOOT_TSS = 0x20 };
enum { CR0_PE = 0x1, CR0_ET = 0x10, CR0_PG = 0x80000000, CR4_PAE = 0x20, EFER_LME = 0x100, EFER_LMA = 0x400 };
enum { PTE_PRESENT = 1, PTE_WRITE = 2, PTE_LARGE = 0x80 };
enum { SEG_CODE = 0xb, SEG_DATA = 0x3, SEG_LDT = 0x2, SEG_TSS = 0xb }; /* types, accessed or busy */
#define APIC_BASE_ENABLED_BSP (LAYOUT_LAPIC_BASE | 0x900)
#define PAGE_ENTRIES 512U

static struct kvm_segment boot_segment(unsigned selector, unsigned type, bool is_64)
{
    bool code = type == SEG_CODE;

    return (struct kvm_segment){ .limit = 0xffffffff,
                                 .selector = (uint16_t)selector,
                                 .type = (uint8_t)type,
                                 .present = 1,
                                 .s = 1,
                                 .l = code && is_64,
                                 .db = !(code && is_64),
                                 .g = 1 };
}

/* The descriptor that makes a segment register what s says (SDM volume 3, 3.4.5). */
static uint64_t boot_descriptor(const struct kvm_segment *s)
{
    uint64_t limit = s->g ? s->limit >> 12 : s->limit;

    return (limit & 0xffff) | (s->base & 0xffffff) << 16 | (uint64_t)s->type << 40 | (uint64_t)s->s << 44 |
           (uint64_t)s->dpl << 45 | (uint64_t)s->present << 47 | (limit >> 16 & 0xf) << 48 | (uint64_t)s->l << 53 |
           (uint64_t)s->db << 54 | (uint64_t)s->g << 55 | (s->base >> 24 & 0xff) << 56;
}

static int boot_state_common(struct boot_load *b, uint64_t entry, bool is_64)
{
    struct kvm_sregs *s = &b->state.sregs;
    uint64_t gdt[6] = { 0 };

    *s = (struct kvm_sregs){ .cr0 = CR0_PE | CR0_ET, .apic_base = APIC_BASE_ENABLED_BSP };
    s->cs = boot_segment(BOOT_CS, SEG_CODE, is_64);
    s->ds = s->es = s->fs = s->gs = s->ss = boot_segment(BOOT_DS, SEG_DATA, is_64);
    s->tr = (struct kvm_segment){ .limit = 0x67, .selector = BOOT_TSS, .type = SEG_TSS, .present = 1 };
    s->ldt = (struct kvm_segment){ .type = SEG_LDT, .present = 1 };
    gdt[BOOT_CS / 8] = boot_descriptor(&s->cs);
    gdt[BOOT_DS / 8] = boot_descriptor(&s->ds);
    gdt[BOOT_TSS / 8] = boot_descriptor(&s->tr); /* in 64-bit mode with its zero upper half behind it */
    s->gdt = (struct kvm_dtable){ .base = BOOT_GDT, .limit = sizeof(gdt) - 1 };
    b->state.regs = (struct kvm_regs){ .rip = entry, .rsp = BOOT_STACK, .rflags = 2 };
    return boot_put(b, BOOT_GDT, gdt, sizeof(gdt));
}

int boot_state_protected(struct boot_load *b, uint64_t entry)
{
    return boot_state_common(b, entry, false);
}

int boot_state_long(struct boot_load *b, uint64_t entry)
{
    uint64_t table[PAGE_ENTRIES] = { BOOT_PAGE_TABLES + 0x1000 + (PTE_PRESENT | PTE_WRITE) };
    int r = boot_put(b, BOOT_PAGE_TABLES, table, sizeof(table));

    for (unsigned i = 0; i < 4; i++)
        table[i] = BOOT_PAGE_TABLES + 0x2000 + i * 0x1000U + (PTE_PRESENT | PTE_WRITE);
    if (r == 0)
        r = boot_put(b, BOOT_PAGE_TABLES + 0x1000, table, sizeof(table));
    for (unsigned gib = 0; r == 0 && gib < 4; gib++) {
        for (unsigned i = 0; i < PAGE_ENTRIES; i++)
            table[i] = ((uint64_t)gib << 30 | (uint64_t)i << 21) + (PTE_PRESENT | PTE_WRITE | PTE_LARGE);
        r = boot_put(b, BOOT_PAGE_TABLES + 0x2000 + gib * 0x1000ULL, table, sizeof(table));
    }
    if (r == 0)
        r = boot_state_common(b, entry, true);
    if (r < 0)
        return r;
    b->state.sregs.cr0 |= CR0_PG;
    b->state.sregs.cr3 = BOOT_PAGE_TABLES;
    b->state.sregs.cr4 = CR4_PAE;
    b->state.sregs.efer = EFER_LME | EFER_LMA;
    return 0;
}
