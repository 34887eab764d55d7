/* Guest memory access of the run path: segmentation checks, the soft TLB's fast path, and the entrances to the slow
 * path (mmu.c: page walk, MMIO, page-crossing accesses, code write tracking, data breakpoints).
 *
 * Fault rule: each function raises the architectural fault by bt_raise* (non-local exit) before anything was changed; a
 * store that crosses a page checks both pages before it writes. */
#ifndef CPU_BT_MMU_H
#define CPU_BT_MMU_H

#include "cpu/bt/state.h"

/* Access kinds for the slow path and for page-fault error codes. */
enum { BT_ACC_READ = 0, BT_ACC_WRITE = 2, BT_ACC_FETCH = 16, BT_ACC_RMW = 3 /* a read that must be writable too */ };

typedef uint8_t bt_u8 __attribute__((may_alias));
typedef uint16_t bt_u16 __attribute__((may_alias, aligned(1)));
typedef uint32_t bt_u32 __attribute__((may_alias, aligned(1)));
typedef uint64_t bt_u64 __attribute__((may_alias, aligned(1)));

/* Offset part of the memory operand, truncated to the address size. */
static ALWAYS_INLINE uint64_t bt_ea(const struct bt_vcpu *c, const struct bt_op *op)
{
    return (c->r[op->base] + (c->r[op->index] << op->scale) + (uint64_t)op->disp) & bt_amask(op);
}

/* Segmentation in 16/32-bit modes: limit and type checks (#GP(0)/#SS(0)); returns the 32-bit linear address. seg.c */
uint64_t bt_seg_check(struct bt_vcpu *c, unsigned seg, uint64_t off, unsigned size, unsigned acc);

/* Linear address of offset off in segment seg, checked for size bytes. long_op: the operation has BT_OPF_LONG.
 * Canonical checks of 64-bit mode come in the slow path (a non-canonical address never hits the TLB). */
static ALWAYS_INLINE uint64_t bt_lin(struct bt_vcpu *c, bool long_op, unsigned seg, uint64_t off, unsigned size,
                                     unsigned acc)
{
    if (LIKELY(long_op))
        return c->segbase[seg] + off;
    if (LIKELY((c->flat >> seg) & 1) && LIKELY(off + size - 1 <= 0xffffffff))
        return off;
    return bt_seg_check(c, seg, off, size, acc);
}

/* Linear address of the operation's memory operand. */
static ALWAYS_INLINE uint64_t bt_op_lin(struct bt_vcpu *c, const struct bt_op *op, unsigned size, unsigned acc)
{
    return bt_lin(c, op->flags & BT_OPF_LONG, op->seg, bt_ea(c, op), size, acc);
}

static ALWAYS_INLINE struct bt_tlbe *bt_tlbe(struct bt_vcpu *c, unsigned ctx, uint64_t lin)
{
    return &c->tlb[ctx][(lin >> MEM_PAGE_SHIFT) & (BT_TLB_SIZE - 1)];
}

/* Slow paths (mmu.c). size <= 64; buf holds size bytes. seg only chooses #SS or #GP for non-canonical addresses. */
void bt_read_slow(struct bt_vcpu *c, unsigned ctx, uint64_t lin, void *buf, unsigned size, unsigned seg);
void bt_write_slow(struct bt_vcpu *c, unsigned ctx, uint64_t lin, const void *buf, unsigned size, unsigned seg);
/* The write tracking half of a store that hit the TLB: called after the store. Ends the block where it hit code. */
void bt_note_write_slow(struct bt_vcpu *c, struct bt_tlbe *e, uint64_t lin, unsigned size);
/* The same by host address; the bytes lie in one page of RAM. */
void bt_note_write_host(struct bt_vcpu *c, uint64_t host, unsigned size);
/* mem's code_written: no vCPU enters translations of the page's old code any more, and those that are inside leave them
 * at their next look at the events. Any thread; opaque: struct bt_vm. */
void bt_code_written(void *opaque, struct mem_region *r, uint64_t page);
/* Fault as a write of size bytes would, or return quietly (page walk, D bit set). For read-modify-write and REP. */
void bt_probe_write(struct bt_vcpu *c, unsigned ctx, uint64_t lin, unsigned size, unsigned seg);
/* Host pointer for a locked access of size bytes (1, 2, 4, 8, 16) at lin, RAM and within one page, write-checked; NULL
 * where it must be done by bt_read_slow/bt_write_slow under vm->split_lock (MMIO or page-crossing). After storing, call
 * bt_note_write(c, lin, size) with the same context. */
void *bt_lock_ptr(struct bt_vcpu *c, unsigned ctx, uint64_t lin, unsigned size, unsigned seg);
void bt_split_lock(struct bt_vm *vm);
void bt_split_unlock(struct bt_vm *vm);

/* Index of the entry's page in its region, which is not NULL. */
static ALWAYS_INLINE uint64_t bt_tlbe_page(const struct bt_tlbe *e)
{
    return (uint64_t)(e->mask - e->region->code_mask);
}

static ALWAYS_INLINE bool bt_page_hit(uint64_t tag, uint64_t lin, unsigned size)
{
    return LIKELY(tag == (lin & ~(MEM_PAGE_SIZE - 1))) && LIKELY((lin & (MEM_PAGE_SIZE - 1)) <= MEM_PAGE_SIZE - size);
}

/* Host pointer through an entry of RAM or ROM. */
static ALWAYS_INLINE void *bt_host(const struct bt_tlbe *e, uint64_t lin)
{
    return (void *)(uintptr_t)(e->host + (lin & (MEM_PAGE_SIZE - 1)));
}

static ALWAYS_INLINE void bt_note_write(struct bt_vcpu *c, struct bt_tlbe *e, uint64_t lin, unsigned size)
{
    atomic_signal_fence(memory_order_seq_cst);
    if (UNLIKELY((atomic_load_explicit(e->mask, memory_order_relaxed) |
                  atomic_load_explicit(&c->vm->mem->log_dirty, memory_order_relaxed)) != 0))
        bt_note_write_slow(c, e, lin, size);
}

/* bt_ldN_ctx / bt_stN_ctx: N-bit access at a linear address in an explicit context. */
#define BT_DEFINE_ACCESS(bits)                                                                                         \
    static ALWAYS_INLINE uint##bits##_t bt_ld##bits##_ctx(struct bt_vcpu *c, unsigned ctx, uint64_t lin, unsigned seg) \
    {                                                                                                                  \
        const struct bt_tlbe *e = bt_tlbe(c, ctx, lin);                                                                \
        uint##bits##_t v;                                                                                              \
                                                                                                                       \
        if (LIKELY(bt_page_hit(e->tag_r, lin, bits / 8)))                                                              \
            return *(const volatile bt_u##bits *)bt_host(e, lin);                                                      \
        bt_read_slow(c, ctx, lin, &v, bits / 8, seg);                                                                  \
        return v;                                                                                                      \
    }                                                                                                                  \
    static ALWAYS_INLINE void bt_st##bits##_ctx(struct bt_vcpu *c, unsigned ctx, uint64_t lin, uint##bits##_t v,       \
                                                unsigned seg)                                                          \
    {                                                                                                                  \
        struct bt_tlbe *e = bt_tlbe(c, ctx, lin);                                                                      \
                                                                                                                       \
        if (LIKELY(bt_page_hit(e->tag_w, lin, bits / 8))) {                                                            \
            *(volatile bt_u##bits *)bt_host(e, lin) = v;                                                               \
            bt_note_write(c, e, lin, bits / 8);                                                                        \
            return;                                                                                                    \
        }                                                                                                              \
        bt_write_slow(c, ctx, lin, &v, bits / 8, seg);                                                                 \
    }                                                                                                                  \
    /* At the present privilege. */                                                                                    \
    static ALWAYS_INLINE uint##bits##_t bt_ld##bits(struct bt_vcpu *c, uint64_t lin, unsigned seg)                     \
    {                                                                                                                  \
        return bt_ld##bits##_ctx(c, c->ctx, lin, seg);                                                                 \
    }                                                                                                                  \
    static ALWAYS_INLINE void bt_st##bits(struct bt_vcpu *c, uint64_t lin, uint##bits##_t v, unsigned seg)             \
    {                                                                                                                  \
        bt_st##bits##_ctx(c, c->ctx, lin, v, seg);                                                                     \
    }
BT_DEFINE_ACCESS(8)
BT_DEFINE_ACCESS(16)
BT_DEFINE_ACCESS(32)
BT_DEFINE_ACCESS(64)

/* Vector-sized accesses, size 1..64 (10, 16, 28, 32, ... bytes). */
void bt_ld_bytes(struct bt_vcpu *c, uint64_t lin, void *buf, unsigned size, unsigned seg);
void bt_st_bytes(struct bt_vcpu *c, uint64_t lin, const void *buf, unsigned size, unsigned seg);

/* Flush: whole (global too), non-global, or one page in all contexts. */
void bt_tlb_flush_all(struct bt_vcpu *c);
void bt_tlb_flush_nonglobal(struct bt_vcpu *c);
void bt_tlb_flush_page(struct bt_vcpu *c, uint64_t lin);
/* Recompute c->ctx from CPL, CR4.SMAP and RFLAGS.AC. */
void bt_ctx_update(struct bt_vcpu *c);

/* Guest-physical accesses (page tables, paravirtual structures): false where not RAM. */
bool bt_phys_read(struct bt_vcpu *c, uint64_t gpa, void *buf, unsigned size);
bool bt_phys_write(struct bt_vcpu *c, uint64_t gpa, const void *buf, unsigned size);

/* Translate for execution: fills *ret_entry with a TLB entry whose tag_x covers lin, or raises #PF/#GP. The entry may
 * be for MMIO: then region == NULL and code is fetched byte by byte by block_fetch (block.c). */
struct bt_tlbe *bt_fetch_page(struct bt_vcpu *c, uint64_t lin);

/* Translate lin as the guest would (no side effects, no faults). Debugging and KVM-style queries. */
bool bt_translate(struct bt_vcpu *c, uint64_t lin, uint64_t *ret_gpa);

/* Device access on behalf of this vCPU: LAPIC, IOAPIC, doorbells, then the bus (with guest FP state synced). len 1..8.
 */
void bt_mmio(struct bt_vcpu *c, uint64_t gpa, void *data, unsigned len, bool write);
void bt_pio(struct bt_vcpu *c, uint16_t port, void *data, unsigned len, bool write);

#endif
