/* Descriptor tables, TSSs and stacks for tests of the interpreter's system half, and the vCPU put into protected or
 * long mode on them without the instructions for it. */
#ifndef TESTS_BT_MACHINE_H
#define TESTS_BT_MACHINE_H

#include "bt_rig.h"
#include "cpu/bt/far_priv.h"

/* Memory: GDT at 1000h, LDT at 1800h, IDT at 2000h, TSSs at 4000h and 5000h, stacks below 9000h (ring 0) and a000h
 * (ring 3, and any other). Selectors as in the enum. */
#define GDT 0x1000ULL
#define LDT 0x1800ULL
#define IDT 0x2000ULL
#define TSS 0x4000ULL
#define TSS2 0x5000ULL
#define STACK0 0x9000ULL
#define STACK3 0xa000ULL
#define HANDLER 0x123456ULL

enum {
    CODE0 = 0x08,
    DATA0 = 0x10,
    CODE3 = 0x18,
    DATA3 = 0x20,
    CODE64 = 0x28,
    TSS_SEL = 0x30, /* 16 bytes */
    TSS2_SEL = 0x40,
    GATE = 0x50,    /* 16 bytes */
    LDT_SEL = 0x60, /* 16 bytes */
    CONFORMING = 0x70,
    RODATA3 = 0x78,
    EXECONLY = 0x80,
    ABSENT = 0x88, /* data, DPL 3 */
    ABSENT_CODE = 0x90,
    DATA1 = 0x98,
    SPARE = 0xa0,
    CODE64_3 = 0xa8,
    GDT_END = 0xb0,
};

/* Put a descriptor into the GDT; a system descriptor of 16 bytes; an IDT entry in the format of the present mode. */
void machine_gdt_put(struct bt_rig *rig, unsigned sel, uint64_t desc);
void machine_gdt_put_system(struct bt_rig *rig, unsigned sel, uint32_t base, uint32_t limit, unsigned access);
void machine_gate_put(struct bt_rig *rig, unsigned vector, uint16_t sel, uint64_t offset, unsigned access,
                      unsigned ist);
/* Flat segments at privilege level cpl, tables and TSS loaded, RIP 7000h; without paging, and with identity mapping. */
void machine_enter_protected(struct bt_rig *rig, unsigned cpl);
void machine_enter_long(struct bt_rig *rig, unsigned cpl);
/* Deliver as the run loop does: again and again until it is in, or shut down. Returns the number of rounds. */
unsigned machine_deliver(struct bt_rig *rig, unsigned vector, bool has_error, uint32_t error, uint8_t soft,
                         uint64_t payload);
/* The value of slot index (of size bytes) above the stack pointer. */
uint64_t machine_stack(struct bt_rig *rig, unsigned index, unsigned size);

#endif
