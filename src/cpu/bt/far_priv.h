/* Far transfers: what the instruction handlers and their parts share. */
#ifndef CPU_BT_FAR_PRIV_H
#define CPU_BT_FAR_PRIV_H

#include "cpu/bt/sys_priv.h"

/* Each checks everything, then changes registers and rip. size: operand size in bytes; next: return address. */
void bt_far_jmp(struct bt_vcpu *c, uint16_t sel, uint64_t off, uint64_t next);
void bt_far_call(struct bt_vcpu *c, uint16_t sel, uint64_t off, unsigned size, uint64_t next);
void bt_far_ret(struct bt_vcpu *c, unsigned size, unsigned release);
void bt_iret(struct bt_vcpu *c, unsigned size, uint64_t next);
void bt_syscall(struct bt_vcpu *c, uint64_t next);
void bt_sysret(struct bt_vcpu *c, bool wide);
void bt_sysenter(struct bt_vcpu *c);
void bt_sysexit(struct bt_vcpu *c, bool wide);

/* Write a stack pointer in the width of the (new) stack segment. */
static inline void bt_set_sp(struct bt_vcpu *c, uint64_t v)
{
    if (c->stack_bits == 64)
        c->r[BT_RSP] = v;
    else if (c->stack_bits == 32)
        c->r[BT_RSP] = (uint32_t)v;
    else
        c->r[BT_RSP] = (c->r[BT_RSP] & ~0xffffULL) | (v & 0xffff);
}

/* Read and check the code segment that a RETF or IRET goes back to. */
void bt_far_return_code(struct bt_vcpu *c, uint16_t sel, struct bt_seg *cs, struct bt_desc *d);

#endif
