/* What the files of the system half (mmu, exc, seg, far, task, sys_*, cr, msr, cpuid, debug) share among themselves. */
#ifndef CPU_BT_SYS_PRIV_H
#define CPU_BT_SYS_PRIV_H

#include "cpu/bt/decode.h"
#include "cpu/bt/mmu.h"
#include "cpu/bt/state.h"
#include "cpu/bt/sys.h"

/* Control register bits */
#define BT_CR0_PE BIT64(0)
#define BT_CR0_MP BIT64(1)
#define BT_CR0_EM BIT64(2)
#define BT_CR0_TS BIT64(3)
#define BT_CR0_ET BIT64(4)
#define BT_CR0_NE BIT64(5)
#define BT_CR0_WP BIT64(16)
#define BT_CR0_AM BIT64(18)
#define BT_CR0_NW BIT64(29)
#define BT_CR0_CD BIT64(30)
#define BT_CR0_PG BIT64(31)

#define BT_CR4_TSD BIT64(2)
#define BT_CR4_DE BIT64(3)
#define BT_CR4_PSE BIT64(4)
#define BT_CR4_PAE BIT64(5)
#define BT_CR4_MCE BIT64(6)
#define BT_CR4_PGE BIT64(7)
#define BT_CR4_PCE BIT64(8)
#define BT_CR4_OSFXSR BIT64(9)
#define BT_CR4_OSXMMEXCPT BIT64(10)
#define BT_CR4_UMIP BIT64(11)
#define BT_CR4_FSGSBASE BIT64(16)
#define BT_CR4_PCIDE BIT64(17)
#define BT_CR4_OSXSAVE BIT64(18)
#define BT_CR4_SMEP BIT64(20)
#define BT_CR4_SMAP BIT64(21)

#define BT_EFER_SCE BIT64(0)
#define BT_EFER_LME BIT64(8)
#define BT_EFER_LMA BIT64(10)
#define BT_EFER_NXE BIT64(11)
#define BT_EFER_AIBRS BIT64(21)

/* Page-fault error code */
enum { BT_PF_P = 1, BT_PF_W = 2, BT_PF_U = 4, BT_PF_RSVD = 8, BT_PF_I = 16 };

/* DR6 */
enum { BT_DR6_BD = 1 << 13, BT_DR6_BS = 1 << 14, BT_DR6_BT = 1 << 15 };
#define BT_DR6_FIXED 0xffff0ff0ULL
#define BT_DR7_FIXED 0x400ULL

/* c->exc.soft */
enum { BT_SOFT_NONE, BT_SOFT_INT /* INT n, INT3, INTO: gate DPL is checked */, BT_SOFT_INT1 };

/* System segment types */
enum {
    BT_SYS_TSS16 = 1,
    BT_SYS_LDT = 2,
    BT_SYS_TSS16_BUSY = 3,
    BT_SYS_CALL16 = 4,
    BT_SYS_TASK = 5,
    BT_SYS_INT16 = 6,
    BT_SYS_TRAP16 = 7,
    BT_SYS_TSS32 = 9,
    BT_SYS_TSS32_BUSY = 11,
    BT_SYS_CALL32 = 12,
    BT_SYS_INT32 = 14,
    BT_SYS_TRAP32 = 15,
};

#define BT_RFLAGS_VALID 0x3f7fd5ULL

static inline bool bt_protected(const struct bt_vcpu *c)
{
    return (c->cr0 & BT_CR0_PE) && !(c->rflags & BT_VM);
}

static inline bool bt_v86(const struct bt_vcpu *c)
{
    return (c->rflags & BT_VM) != 0;
}

static inline bool bt_mode64(const struct bt_vcpu *c)
{
    return c->mode == BT_MODE_64;
}

static inline unsigned bt_iopl(const struct bt_vcpu *c)
{
    return (unsigned)(c->rflags >> 12) & 3;
}

/* 48-bit linear addresses (no LA57). */
static inline bool bt_canonical(uint64_t lin)
{
    return (uint64_t)((int64_t)(lin << 16) >> 16) == lin;
}

static inline void bt_require_cpl0(struct bt_vcpu *c)
{
    if (UNLIKELY(c->cpl != 0))
        bt_gp(c, 0);
}

/* ---- mmu ---- */

/* The region that holds gpa, or NULL (mem_find, but compiled under the register rules of the run path). */
static inline struct mem_region *bt_find_region(const struct bt_vcpu *c, uint64_t gpa)
{
    struct mem *m = c->vm->mem;

    for (unsigned i = 0; i < m->n_regions; i++) {
        if (gpa - m->regions[i].gpa < m->regions[i].size)
            return &m->regions[i];
    }
    return NULL;
}

/* What a page walk found. */
struct bt_walk {
    uint64_t gpa;   /* page address */
    uint32_t error; /* page-fault error code where bt_page_walk returned false */
    uint8_t shift;  /* log2 of the page size in the guest's tables */
    bool user, write, nx, global, dirty;
};

/* Walk the guest's tables for lin. ctx, acc: as in mmu.h. Sets A and D bits and returns true where the access is
 * allowed; else false with w->error. Does not check canonicality. (mmu_walk.c) */
bool bt_page_walk(struct bt_vcpu *c, unsigned ctx, uint64_t lin, unsigned acc, struct bt_walk *w);
/* The same without permission checks and side effects. */
bool bt_page_peek(struct bt_vcpu *c, uint64_t lin, struct bt_walk *w);
/* Whether the permissions in w allow acc in context ctx. */
bool bt_walk_allows(const struct bt_vcpu *c, unsigned ctx, unsigned acc, const struct bt_walk *w);
/* PAE: read the four PDPTEs that cr3 points to; false: one has reserved bits. Fills ret. */
bool bt_load_pdptes(struct bt_vcpu *c, uint64_t cr3, uint64_t ret[4]);

/* Implicit supervisor accesses to GDT, LDT, IDT and TSS. base + off wraps at 32 bits outside long mode. */
static inline uint64_t bt_table_lin(const struct bt_vcpu *c, uint64_t base, uint64_t off)
{
    return BT_LONG_MODE(c) ? base + off : (uint32_t)(base + off);
}

/* ---- segments (seg.c) ---- */

/* A descriptor as it lies in its table. */
struct bt_desc {
    uint64_t raw;
    uint64_t addr; /* linear */
};

/* Read the descriptor of sel (not null); false: outside its table. */
bool bt_desc_read(struct bt_vcpu *c, uint16_t sel, struct bt_desc *ret);
/* As bt_desc_read, else raise vector(sel). */
void bt_desc_need(struct bt_vcpu *c, uint16_t sel, unsigned vector, struct bt_desc *ret);
/* Split up a descriptor into a cache. */
void bt_desc_unpack(uint64_t raw, uint16_t sel, struct bt_seg *ret);
/* Set the accessed bit in memory and in s. */
void bt_desc_accessed(struct bt_vcpu *c, const struct bt_desc *d, struct bt_seg *s);
/* Upper half of a 16-byte system descriptor (long mode). */
uint64_t bt_desc_upper(struct bt_vcpu *c, const struct bt_desc *d);

static inline bool bt_seg_is_code(const struct bt_seg *s)
{
    return s->s && (s->type & 8);
}

static inline bool bt_seg_is_conforming(const struct bt_seg *s)
{
    return (s->type & 4) != 0; /* of code */
}

static inline bool bt_seg_is_wdata(const struct bt_seg *s)
{
    return s->s && (s->type & 0xa) == 2;
}

static inline bool bt_sel_null(uint16_t sel)
{
    return (sel & ~3U) == 0;
}

/* Null selector cache with DPL dpl (also SS of 64-bit code). */
void bt_seg_null(struct bt_seg *s, uint16_t sel, uint8_t dpl);
/* Real-mode style load: base = sel << 4; v86 resets the rest too. */
void bt_seg_real(struct bt_seg *s, uint16_t sel, bool v86);
/* Flat cache as SYSCALL, SYSENTER and their returns make it. */
void bt_seg_flat(struct bt_seg *s, uint16_t sel, uint8_t type, uint8_t dpl, bool long_mode);
/* Check a stack segment for privilege level cpl, errors with vector (#TS or #GP), not present #SS. long_null: a null
 * selector is good. */
void bt_seg_check_stack(struct bt_vcpu *c, uint16_t sel, unsigned cpl, unsigned vector, bool long_null,
                        struct bt_seg *ret, struct bt_desc *ret_desc);
/* After a transfer to an outer level: null the data segments that it may not use. */
void bt_seg_outer_return(struct bt_vcpu *c);
/* Check a code segment's entry point: #GP(0) beyond limit or non-canonical. */
void bt_check_target(struct bt_vcpu *c, const struct bt_seg *cs, uint64_t rip);

/* ---- stack frames ---- */

/* A stack that may not be the present one: pushes and pops go to memory at once, but registers change only when the
 * caller commits sp. */
struct bt_stack {
    const struct bt_seg *ss;
    uint64_t sp, mask;
    unsigned ctx;
    uint32_t error; /* selector part of #SS for limit violations */
    bool flat64;    /* no segmentation */
};

/* The present stack. */
void bt_stack_current(struct bt_vcpu *c, struct bt_stack *k);
/* size: 2, 4 or 8 */
void bt_stack_push(struct bt_vcpu *c, struct bt_stack *k, uint64_t v, unsigned size);
uint64_t bt_stack_pop(struct bt_vcpu *c, struct bt_stack *k, unsigned size);
/* RSP with the bits of the stack's width replaced by k->sp. */
uint64_t bt_stack_rsp(const struct bt_vcpu *c, const struct bt_stack *k);

/* ---- transfers ---- */

/* Stack of privilege level cpl from the 16- or 32-bit TSS: selector and pointer. #TS(TR) where the TSS is too short. */
void bt_tss_stack(struct bt_vcpu *c, unsigned cpl, uint16_t *ret_ss, uint32_t *ret_sp);
/* 64-bit TSS: RSPn (index cpl) or ISTn (index 3 + n). */
uint64_t bt_tss_stack64(struct bt_vcpu *c, unsigned index);
/* Set up k as a new stack in segment ss (protected mode) or flat (64-bit) for a more privileged level. */
void bt_stack_new(struct bt_stack *k, const struct bt_seg *ss, uint64_t sp, uint32_t error);
void bt_stack_new64(struct bt_stack *k, uint64_t sp, unsigned ctx);

/* Raise #DB with the given DR6 bits. BD: a fault; others as RF stands. */
_Noreturn void bt_raise_db(struct bt_vcpu *c, uint64_t dr6);
/* INT1: like bt_raise_soft, but without the check of the gate's DPL and with EXT set. */
_Noreturn void bt_raise_int1(struct bt_vcpu *c, uint64_t next_rip);

/* Task switch (task.c). Reason as the architecture distinguishes them. next_rip: saved as EIP of the old task. */
enum bt_task_reason { BT_TASK_JMP, BT_TASK_CALL, BT_TASK_IRET, BT_TASK_EVENT };
void bt_task_switch(struct bt_vcpu *c, uint16_t sel, enum bt_task_reason reason, uint64_t next_rip, bool has_error,
                    uint32_t error);

/* Load EFER (MSR write): false = #GP. (cr.c) */
bool bt_set_efer(struct bt_vcpu *c, uint64_t v);

/* Is port access of len bytes allowed (CPL, IOPL, TSS bitmap)? Else #GP(0). (sys_io.c) */
void bt_io_check(struct bt_vcpu *c, uint16_t port, unsigned len);
/* A debug trap with these DR6 bits comes at the next instruction boundary. (debug.c) */
void bt_debug_hit(struct bt_vcpu *c, uint64_t dr6);
/* I/O breakpoints. (debug.c) */
void bt_bp_io(struct bt_vcpu *c, uint16_t port, unsigned len);
/* Record hits of data breakpoints by an access. (debug.c) */
void bt_bp_data(struct bt_vcpu *c, uint64_t lin, unsigned size, bool write);
/* Does an armed data breakpoint touch the page of lin? (debug.c) */
bool bt_bp_page(const struct bt_vcpu *c, uint64_t lin);

/* ---- handler helpers ---- */

/* A general register (byte offset off into r[], no AH..BH) in size 2, 4 or 8 bytes; 4-byte writes clear the upper half.
 */
static inline uint64_t bt_gpr_get(const struct bt_vcpu *c, unsigned off, unsigned size)
{
    uint64_t v = c->r[off / 8];

    return size == 8 ? v : size == 4 ? (uint32_t)v : (uint16_t)v;
}

static inline void bt_gpr_set(struct bt_vcpu *c, unsigned off, unsigned size, uint64_t v)
{
    uint64_t *r = &c->r[off / 8];

    *r = size == 8 ? v : size == 4 ? (uint32_t)v : (*r & ~0xffffULL) | (uint16_t)v;
}

/* Address of the next instruction. */
static inline uint64_t bt_next_rip(const struct bt_vcpu *c, const struct bt_op *op)
{
    uint64_t next = c->r[BT_RIP] + op->len;

    return op->bits == 64 ? next : (uint32_t)next;
}

/* UMIP: SGDT, SIDT, SLDT, STR, SMSW only at CPL 0. */
static inline void bt_check_umip(struct bt_vcpu *c)
{
    if (UNLIKELY((c->cr4 & BT_CR4_UMIP) && c->cpl != 0))
        bt_gp(c, 0);
}

/* Store the result of SLDT, STR, SMSW or MOV from a segment register: 16 bits to memory, else the operand size. */
static inline void bt_store_sel(struct bt_vcpu *c, const struct bt_op *op, uint64_t v)
{
    if (op->flags & BT_OPF_MEM)
        bt_st16(c, bt_op_lin(c, op, 2, BT_ACC_WRITE), (uint16_t)v, op->seg);
    else
        bt_gpr_set(c, op->dst, op->x[1], v);
}

/* A 16-bit source: memory or register. */
static inline uint16_t bt_load_sel(struct bt_vcpu *c, const struct bt_op *op)
{
    if (op->flags & BT_OPF_MEM)
        return bt_ld16(c, bt_op_lin(c, op, 2, BT_ACC_READ), op->seg);
    return (uint16_t)c->r[op->src / 8];
}

/* ---- binder helpers ---- */

static inline bool bt_operand_is_reg(const struct bt_insn *in, unsigned n)
{
    return in->ops[n].type == ZYDIS_OPERAND_TYPE_REGISTER;
}

/* Index of a segment register, or -1. */
static inline int bt_sreg_index(ZydisRegister reg)
{
    return reg >= ZYDIS_REGISTER_ES && reg <= ZYDIS_REGISTER_GS ? (int)(reg - ZYDIS_REGISTER_ES) : -1;
}

/* Operand size by mode and prefixes, without the instruction's own rules. */
unsigned bt_sys_osize(const struct bt_insn *in);
int bt_bind_sys_seg(struct bt_vcpu *c, const struct bt_insn *in, struct bt_op *op);   /* sys_seg.c */
int bt_bind_sys_cr(struct bt_vcpu *c, const struct bt_insn *in, struct bt_op *op);    /* sys_cr.c */
int bt_bind_sys_table(struct bt_vcpu *c, const struct bt_insn *in, struct bt_op *op); /* sys_table.c */
int bt_bind_sys_io(struct bt_vcpu *c, const struct bt_insn *in, struct bt_op *op);    /* sys_io.c */
int bt_bind_sys_far(struct bt_vcpu *c, const struct bt_insn *in, struct bt_op *op);   /* sys_far.c */
int bt_bind_sys_misc(struct bt_vcpu *c, const struct bt_insn *in, struct bt_op *op);  /* sys_misc.c */

/* Handlers that the translator knows by name: they change nothing that the run loop would have to look at (BT_SYS_STI:
 * the interrupt shadow). */
enum {
    BT_SYS_CLI,
    BT_SYS_STI,
    BT_SYS_STAC,
    BT_SYS_CLAC,
    BT_SYS_RDTSC,
    BT_SYS_RDTSCP,
    BT_SYS_RDMSR,
    BT_SYS_XGETBV,
    BT_SYS_MISC_N
};
extern const bt_fn bt_sys_misc[BT_SYS_MISC_N];
enum { BT_SYS_FROM_SEG, BT_SYS_SWAPGS, BT_SYS_RDBASE, BT_SYS_WRBASE, BT_SYS_SEG_N };
extern const bt_fn bt_sys_seg[BT_SYS_SEG_N];
enum bt_next bt_sys_mov_from_cr(struct bt_vcpu *c, const struct bt_op *op);

#endif
