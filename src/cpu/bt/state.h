/* The state of the translation engine: VM, vCPU, decoded operation. Everything that instruction handlers touch is here,
 * in memory that the engine was given at start; the run path uses no heap, no stdio and no libc function that may touch
 * vector registers (this folder is compiled with -mgeneral-regs-only, see fp.h for why).
 *
 * Conventions of the run path
 *  - c->rip (r[BT_RIP]) is the address of the instruction that is executing, until it has committed.
 *  - A handler loads all operands and checks everything before it changes architectural state, so that a fault
 *    (bt_raise, non-local exit to the run loop) leaves the instruction undone.
 *  - Then it returns BT_NEXT (the loop adds op->len to rip and goes on with the next operation of the block), BT_JUMP
 *    (the handler has set rip itself; the block ends) or BT_END (like BT_NEXT, but the block ends: mode, paging,
 *    interrupt flag... changed).
 *  - register operands are byte offsets into r[]; memory operands are base/index/disp/segment in struct bt_op.
 *  - "lin" is a linear (guest-virtual after segmentation) address, "gpa" a guest-physical one. */
#ifndef CPU_BT_STATE_H
#define CPU_BT_STATE_H

#include <linux/kvm.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/bits.h"
#include "cpu/cpu.h"
#include "mem/guest.h"

struct bt_vcpu;
struct bt_op;
struct bt_block;
struct bt_irqchip; /* irqchip/ */
struct bt_lapic;
struct bt_cache; /* block.c: decoded blocks of the VM */
struct bt_front; /* block.c: a vCPU's short way to them */
struct bt_t1;    /* t1_mem.c: translations of the VM's blocks */
struct bt_stubs; /* fp_stub.c: executable stubs of the VM */

/* Indices into r[]; 0..15 are RAX RCX RDX RBX RSP RBP RSI RDI R8..R15, the order of the encoding. */
/* clang-format off */
enum {
    BT_RAX, BT_RCX, BT_RDX, BT_RBX, BT_RSP, BT_RBP, BT_RSI, BT_RDI,
    BT_R8, BT_R9, BT_R10, BT_R11, BT_R12, BT_R13, BT_R14, BT_R15,
    BT_ZERO, /* always 0: "no base" and "no index" */
    BT_RIP,
    BT_NREGS
};
/* clang-format on */

/* Segment registers in the order of the encoding; BT_NOSEG has base 0. */
enum { BT_ES, BT_CS, BT_SS, BT_DS, BT_FS, BT_GS, BT_NOSEG, BT_NSEGS };

/* RFLAGS */
/* clang-format off */
enum {
    BT_CF = 1 << 0, BT_PF = 1 << 2, BT_AF = 1 << 4, BT_ZF = 1 << 6, BT_SF = 1 << 7, BT_TF = 1 << 8, BT_IF = 1 << 9,
    BT_DF = 1 << 10, BT_OF = 1 << 11, BT_IOPL = 3 << 12, BT_NT = 1 << 14, BT_RF = 1 << 16, BT_VM = 1 << 17,
    BT_AC = 1 << 18, BT_VIF = 1 << 19, BT_VIP = 1 << 20, BT_ID = 1 << 21,
    BT_ARITH = BT_CF | BT_PF | BT_AF | BT_ZF | BT_SF | BT_OF,
};
/* clang-format on */

/* Exception vectors */
/* clang-format off */
enum {
    BT_DE = 0, BT_DB = 1, BT_NMI = 2, BT_BP = 3, BT_OFV = 4, BT_BR = 5, BT_UD = 6, BT_NM = 7, BT_DFV = 8, BT_TS = 10,
    BT_NP = 11, BT_SSV = 12, BT_GP = 13, BT_PFV = 14, BT_MF = 16, BT_ACV = 17, BT_MC = 18, BT_XM = 19,
};
/* clang-format on */

/* A segment register with its descriptor cache. */
struct bt_seg {
    uint64_t base;
    uint32_t limit; /* bytes, already scaled by G */
    uint16_t sel;
    uint8_t type;                                     /* 4 bits of the descriptor */
    uint8_t s, dpl, present, avl, l, db, g, unusable; /* unusable: null selector */
};

struct bt_dtable {
    uint64_t base;
    uint16_t limit;
};

/* What a handler returns to the run loop. */
enum bt_next { BT_NEXT, BT_JUMP, BT_END };

typedef enum bt_next (*bt_fn)(struct bt_vcpu *c, const struct bt_op *op);

/* Flags of an operation */
enum {
    BT_OPF_LONG = 1 << 0, /* memory operand in 64-bit mode: no limit checks, segment base from segbase[] */
    BT_OPF_LOCK = 1 << 1,
    BT_OPF_REP = 1 << 2,     /* F3 */
    BT_OPF_REPNE = 1 << 3,   /* F2 */
    BT_OPF_MEM = 1 << 4,     /* has a memory operand */
    BT_OPF_END = 1 << 5,     /* the decoder ends the block behind it */
    BT_OPF_ALIGN = 1 << 6,   /* memory operand must be aligned to its size (#GP) */
    BT_OPF_STACK64 = 1 << 7, /* stack accesses use RSP whole (64-bit mode) */
};

/* One decoded instruction, read-only once built. Handlers see operands only through this. */
struct bt_op {
    bt_fn fn;
    uint64_t imm;  /* immediate sign-extended to 64 bits; branches: displacement from the next instruction */
    int64_t disp;  /* of the memory operand; RIP-relative: base = BT_RIP and disp includes len */
    uintptr_t aux; /* handler's own: stub address, table pointer, second immediate... */
    uint8_t len;
    uint8_t osize;            /* effective operand size in bytes: 1, 2, 4, 8 (stack and branches: the effective one) */
    uint8_t dst, src;         /* byte offsets into r[] (AH: 1, CH: 9...) */
    uint8_t base, index, seg; /* indices */
    uint8_t msize;            /* bytes of the memory operand */
    uint8_t scale : 2;        /* a shift count */
    uint8_t asize : 4;        /* 2, 4, 8 */
    uint8_t stores : 1;       /* may write to memory */
    uint8_t bits;             /* 16, 32 or 64: code size it was decoded for */
    uint16_t flags;
    uint8_t x[4]; /* handler's own */
};
_Static_assert(sizeof(struct bt_op) == 48, "there are many of them");

/* Address-size mask: 0xffff, 0xffffffff, ~0. */
static inline uint64_t bt_amask(const struct bt_op *op)
{
    return ~0ULL >> (64 - 8 * op->asize);
}

/* Code modes (part of the block key). */
enum bt_mode { BT_MODE_16, BT_MODE_32, BT_MODE_64 };

/* Soft TLB: direct-mapped, per access context. Instruction fetches have their own entries (BT_CTX_FETCH + BT_CTX_KERNEL
 * or BT_CTX_USER), so that code and the data that it works on do not evict each other. */
enum { BT_CTX_KERNEL, BT_CTX_USER, BT_CTX_KERNEL_AC, BT_CTX_FETCH, BT_NCTX = BT_CTX_FETCH + 2 };
#define BT_TLB_BITS 10
#define BT_TLB_SIZE (1U << BT_TLB_BITS)
/* The tag of an empty entry: a page whose entry would be another one, so that no address can be taken for a hit, by
 * comparison of pages or by subtraction (t1_probe.c). */
static inline uint64_t bt_tlb_none(unsigned slot)
{
    return (uint64_t)((slot ^ 1) & (BT_TLB_SIZE - 1)) << MEM_PAGE_SHIFT;
}

struct bt_tlbe {
    union {
        uint64_t tag_r; /* linear page address that may be read, or bt_tlb_none */
        uint64_t tag_x; /* entries for fetches: that may be executed */
    };
    union {
        uint64_t tag_w; /* ... that may be written without further ado (RAM, D set, writable) */
        /* Entries for fetches: which translations belong to this page, its memory and its code (t1.h); 0: not looked
         * up yet. Other threads set it to 0 when they have written to the code. */
        _Atomic uint32_t xid;
    };
    uint64_t host; /* host address of the page; without meaning where there is no region */
    uint64_t gpa;  /* guest-physical page address */
    struct mem_region *region;
    _Atomic uint64_t *mask; /* the page's word in region->code_mask; NULL without a region */
    uint64_t info; /* linear page address | BT_TLB_GLOBAL | log2 of the guest's page size; 0: entry never filled */
    uint64_t add;  /* host - linear page address */
};
_Static_assert(sizeof(struct bt_tlbe) == 64, "one cache line");
#define BT_TLB_SHIFT 0xffU   /* part of info: log2 of the page size */
#define BT_TLB_GLOBAL 0x100U /* part of info: survives CR3 loads */

/* Bits of c->fp_ready. */
enum { BT_FP_READY_SSE = 1, BT_FP_READY_AVX = 2 };

/* Bits of c->events: reasons to leave the fast path at the next instruction boundary. */
enum {
    BT_EV_KICK = 1 << 0,
    BT_EV_IRQ = 1 << 1, /* an interrupt may be deliverable: ask the irqchip */
    BT_EV_NMI = 1 << 2,
    BT_EV_INIT = 1 << 3,
    BT_EV_SIPI = 1 << 4,
    BT_EV_TIMER = 1 << 5, /* the LAPIC timer (or PIT) may have expired */
    BT_EV_TLB = 1 << 6,   /* flush the TLB (paravirtual or internal request) */
    BT_EV_SMI = 1 << 7,
    BT_EV_STEP = 1 << 8,  /* TF or armed breakpoints: go instruction by instruction */
    BT_EV_CODE = 1 << 10, /* another vCPU wrote to code: leave translated code, whose heads will notice */
    BT_EV_CACHE = 1 << 9, /* leave the code cache, which is going to be evicted (block.h) */
};

/* Interrupt shadows: no interrupt after the next instruction boundary. */
enum { BT_SHADOW_STI = 1, BT_SHADOW_MOVSS = 2 }; /* values of KVM_X86_SHADOW_INT_* swapped on purpose: see get_events */

#define BT_TLB_LOG 1024

/* Private state of the system half (mmu, segments, debug, MSRs); nobody else looks inside. */
struct bt_sys {
    uint8_t ext;                     /* EXT bit of error codes while an event is delivered */
    uint8_t align_check;             /* #AC is armed: user accesses take the slow path */
    uint8_t bp_code, bp_data, bp_io; /* enabled breakpoint registers by kind, bit n = DRn */
    uint8_t tf_before;               /* TF when the instruction that is being stepped began */
    uint8_t amd;                     /* vendor of the CPUID model: AMD or Hygon */
    uint8_t gbpages;                 /* CPUID: 1 GiB pages */
    uint64_t cr4_valid, efer_valid;  /* bits that the CPU model has */
    uint32_t msr_absent;             /* groups of MSRs that it does not have (msr.c); bit n = row n */
    /* Linear ranges in which large pages were entered into the TLB, lower and upper half; lo > hi: none. */
    uint64_t large_lo[2], large_hi[2];
    uint16_t log[BT_TLB_LOG]; /* slots filled with non-global entries since the last flush */
    unsigned n_log;           /* > BT_TLB_LOG: the log overflowed */
    struct {
        uint64_t def_type, fix[11], var[16]; /* var: base, mask pairs */
    } mtrr;
    uint64_t arch_cap, mcg_status, hwcr, de_cfg, syscfg, nb_cfg, ls_cfg, bios_sign, feature_control;
    uint64_t virt_spec_ctrl, xss, dbg_ctl;
};

/* Branch cache of translated code: where the translation of a linear address begins. */
#define BT_JC_SIZE 16384U
struct bt_jce {
    uint64_t rip; /* empty: bt_jc_none */
    const void *code;
};

/* An address that would be looked up elsewhere. Zero nearly everywhere: what is not used is not touched. */
static inline uint64_t bt_jc_none(unsigned slot)
{
    return slot == 0;
}

#define BT_CPUID_MAX 96
#define BT_PHYS_BITS 46 /* guest-physical address bits, reported by CPUID 0x80000008 */
#define BT_XSAVE_SIZE 4096

/* What translated code knows of a page that several of its accesses go to (t1_group.c). */
struct bt_t1_group {
    uint64_t delta; /* host - linear address */
    _Atomic uint64_t *mask;
};
#define BT_T1_GROUPS 4

struct bt_vcpu {
    /* hot */
    uint64_t r[BT_NREGS];
    uint64_t rflags;                /* always with bit 1 set */
    uint64_t segbase[BT_NSEGS + 1]; /* 0 for ES CS SS DS in 64-bit mode; else the cached base */
    const struct bt_op *op_end;     /* the run loop stops at this operation; NULL makes it stop after the current one */
    _Atomic uint32_t events;
    uint8_t cpl;
    uint8_t mode;       /* enum bt_mode */
    uint8_t ctx;        /* BT_CTX_* for data accesses of the present privilege */
    uint8_t shadow;     /* BT_SHADOW_* that protects the instruction now at rip */
    uint8_t flat;       /* bit n: segment n has base 0, limit 4 GiB, is writable: no checks needed (16/32-bit modes) */
    uint8_t stack_bits; /* 16, 32 or 64 */
    uint8_t fp_live;    /* guest x87/SSE/AVX state is in the host registers, see fp.h */
    uint8_t fp_ready;   /* BT_FP_READY_*: live, and nothing forbids such instructions */
    uint8_t halted;
    uint64_t insns; /* instructions begun, about: per block; those of translated code only with vm->count */
    struct bt_vcpu *self;

    /* What translated code works with (t1.h) */
    uint16_t t1_flags;               /* arithmetic flags as LAHF and SETO give them, see bt_fl_pack */
    uint32_t t1_link;                /* exit: place of the jump that may be chained | T1_LINK_*, 0: none */
    const struct bt_trans *t1_stale; /* exit: the translation that does not fit its page now */
    struct bt_t1_group t1_group[BT_T1_GROUPS];
    uint64_t t1_target[2];  /* address and code of a call's target while it pushes */
    _Atomic uint8_t t1_log; /* stores are logged: a copy of the memory's log_dirty */

    /* control state */
    struct bt_seg seg[6];
    struct bt_seg ldt, tr;
    struct bt_dtable gdt, idt;
    uint64_t cr0, cr2, cr3, cr4;
    uint64_t efer, xcr0;
    uint64_t dr[8];
    uint64_t star, lstar, cstar, sfmask, kernel_gs_base, tsc_aux;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t pat, misc_enable, spec_ctrl;
    uint64_t tsc_offset; /* guest TSC = host TSC + offset */
    uint64_t tsc_adjust;
    uint64_t pdpte[4];  /* PAE: loaded with CR3 */
    uint64_t phys_mask; /* valid guest-physical address bits */

    /* event delivery */
    uint8_t in_delivery; /* an event is being delivered (for double faults); vector in delivering */
    int16_t delivering;
    struct {
        uint8_t pending;                 /* an exception was raised and waits for delivery by the run loop */
        uint8_t vector, has_error, soft; /* soft: INT n, INT3, INTO: return address is the next instruction */
        uint32_t error;
        uint64_t payload; /* CR2 of #PF, DR6 bits of #DB */
    } exc;
    uint8_t nmi_pending, nmi_blocked, shutdown;
    uint8_t mp_state; /* KVM_MP_STATE_* */
    uint8_t sipi_vector;
    uint8_t db_pending; /* DR6 bits of a #DB trap that comes after the present instruction */
    uint64_t dr6_trap;
    uint8_t split_held; /* this vCPU holds vm->split_lock; a fault on the way releases it (exc.c) */
    void *jmp[8];       /* __builtin_setjmp buffer of the run loop */
    bool jmp_set;

    /* paging cache */
    struct bt_tlbe tlb[BT_NCTX][BT_TLB_SIZE];
    struct bt_jce jc[BT_CTX_FETCH][BT_JC_SIZE];

    /* x87 pointers as the guest must see them (the host's own show host addresses) */
    struct {
        uint64_t fip, fdp;
        uint16_t fcs, fds, fop;
    } fp;
    uint8_t xsave[BT_XSAVE_SIZE] ALIGNED(64); /* state while !fp_live: standard format, XCR0 bits 0..2 */
    uint8_t scratch[256] ALIGNED(64);         /* memory operand of vector instructions */

    struct kvm_cpuid_entry2 cpuid[BT_CPUID_MAX];
    unsigned n_cpuid;

    struct bt_vm *vm;
    unsigned id;
    struct bt_lapic *lapic;
    /* These three are the VM's. */
    struct bt_cache *cache;
    struct bt_t1 *t1; /* NULL: interprets only */
    struct bt_stubs *stubs;
    struct bt_front *front;
    _Atomic uint32_t cache_in;    /* may hold pointers into the three (block_evict.c) */
    _Atomic uint32_t cache_waits; /* sleeps until an eviction is over */
    uint64_t pause_tsc;           /* run_pause.c: when the present run of PAUSEs was last looked at, */
    uint32_t pause_n, pause_idle; /* ... PAUSEs since then, times that the CPU was given away in a row */
    struct bt_pv *pv;             /* pv.c */
    struct bt_sys sys;
    _Atomic int tid;           /* host thread inside vcpu_run, or 0 */
    _Atomic uint32_t wake;     /* futex word: counts wake-ups of a halted vCPU */
    _Atomic uint32_t sleeping; /* its thread waits on wake, or is about to */
    uint64_t stat[32];         /* enum bt_stat */
};

enum bt_stat {
    BT_STAT_BLOCKS,
    BT_STAT_DECODED,
    BT_STAT_TLB_FILL,
    BT_STAT_TLB_FLUSH,
    BT_STAT_MMIO,
    BT_STAT_PIO,
    BT_STAT_EXC,
    BT_STAT_IRQ,
    BT_STAT_HLT,
    BT_STAT_SMC,
    BT_STAT_FP_SWITCH,
    BT_STAT_T1_TRANS,
    BT_STAT_T1_ENTER,
    BT_STAT_T1_LINK,
    BT_STAT_T1_SLOW,
    BT_STAT_T1_STALE,
    BT_STAT_BLOCKS_DECODED,
    BT_STAT_CHECKED,
    BT_STAT_PAUSE,
    BT_STAT_TLB_HIT, /* of translated code, with vm->count */
    BT_STAT_N
};

struct bt_vm {
    struct mem *mem;
    const struct cpu_bus_ops *bus;
    void *bus_opaque;
    unsigned max_vcpus;
    _Atomic unsigned n_vcpus;
    struct bt_vcpu *vcpus[CPU_VCPUS_MAX]; /* index = id; entries appear before vCPUs run */
    struct bt_cache *cache;
    struct bt_t1 *t1; /* NULL: vCPUs interpret only */
    struct bt_stubs *stubs;
    uint64_t stat_evictions; /* of all that; under the cache's lock */
    struct bt_irqchip *irqchip;
    struct bt_bells *bells; /* doorbell.c */
    _Atomic int split_lock; /* serialises LOCKed accesses that cross a page or go to MMIO */
    uint64_t tsc_khz;
    bool count;   /* translated code counts instructions and TLB hits */
    uint32_t hot; /* blocks that have run this often are translated */
    struct bt_pv_vm *pv;
};

#define BT_REG(c, idx) ((c)->r[idx])
#define BT_LONG_MODE(c) (((c)->efer & (1 << 10)) != 0) /* EFER.LMA */

/* Set event bits of c and make its thread notice: wakes it from HLT, and costs one atomic where it is running already.
 * Any thread. (run.c) */
void bt_vcpu_signal(struct bt_vcpu *c, uint32_t events);

/* ---- exceptions (exc.c). All leave the present instruction undone and continue in the run loop. ---- */
_Noreturn void bt_raise(struct bt_vcpu *c, unsigned vector); /* without error code */
_Noreturn void bt_raise_error(struct bt_vcpu *c, unsigned vector, uint32_t error);
_Noreturn void bt_raise_pf(struct bt_vcpu *c, uint64_t lin, uint32_t error);
/* INT n, INT3, INTO, INT1: deliver with the return address behind the instruction (next_rip). Does not return. */
_Noreturn void bt_raise_soft(struct bt_vcpu *c, unsigned vector, uint64_t next_rip);
#define bt_ud(c) bt_raise(c, BT_UD)
#define bt_gp(c, err) bt_raise_error(c, BT_GP, err)

#endif
