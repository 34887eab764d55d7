/* What the fp_*.c files share: stub memory, the CPU-state gates, the call into a stub, and the way from a memory
 * operand to the pointer that a stub gets in rdi.
 *
 * A stub is one re-encoded guest instruction and RET. Its register contract: rdi = memory operand; rax = general
 * register operand (in or out), rdx and rcx as in PCMPESTRx; rsi stays 0, or comes back as the vector of the exception
 * that the instruction raised (fp_signal.c), in which case it has changed nothing but sticky flags of MXCSR.
 *
 * The pointer is the guest RAM itself where the access hits the TLB, otherwise c->scratch.
 * Only the folder's fp_*.c may include this. */
#ifndef CPU_BT_FP_PRIV_H
#define CPU_BT_FP_PRIV_H

#include "cpu/bt/fp.h"
#include "cpu/bt/mmu.h"

#define FP_SLOT 16U /* bytes of a stub */
#define FP_SLOTS 65536U
#define FP_STUBS_SIZE (FP_SLOT * FP_SLOTS)
#define FP_INDEX_SIZE (2U * FP_SLOTS)

/* Slots that every stub memory has. The first is where the signal handler lets a trapped stub continue. */
enum { FP_SLOT_RET, FP_SLOT_WAIT, FP_SLOT_FIRST };

struct bt_stubs {
    const uint8_t *rx;             /* executable view */
    uint8_t *rw;                   /* the same pages, writable */
    uint32_t used;                 /* slots handed out */
    uint32_t xmask;                /* XSAVE components of the guest state; 0: no XSAVE on this host, FXSAVE is used */
    uint32_t mxcsr_mask;           /* bits that MXCSR may have */
    bool sha_unaligned;            /* SHA instructions take unaligned operands */
    bool xsave_ptrs;               /* FXSAVE and XSAVE write the x87 pointers always (else only while ES is set) */
    bool fdp_excptn_only;          /* the data pointer is updated by unmasked exceptions only */
    bool fop_excptn_only;          /* the opcode is updated by unmasked exceptions only */
    bool zero_fcs;                 /* the selectors of the x87 pointers are saved as 0 */
    uint32_t index[FP_INDEX_SIZE]; /* hash table of slots, 0 = empty */
};

/* CR0, CR4, EFER bits that gate vector instructions */
enum { FP_CR0_PE = 1 << 0, FP_CR0_MP = 1 << 1, FP_CR0_EM = 1 << 2, FP_CR0_TS = 1 << 3, FP_CR0_NE = 1 << 5 };
enum { FP_CR4_OSFXSR = 1 << 9, FP_CR4_OSXMMEXCPT = 1 << 10, FP_CR4_OSXSAVE = 1 << 18 };
enum { FP_EFER_FFXSR = 1 << 14 };

/* XSAVE area. The standard and the compacted layout of components 0..2 coincide. */
enum { FP_X87 = 1, FP_SSE = 2, FP_AVX = 4 };
enum {
    FP_OFF_FCW = 0,
    FP_OFF_FSW = 2,
    FP_OFF_FTW = 4,
    FP_OFF_FOP = 6,
    FP_OFF_FIP = 8,
    FP_OFF_FDP = 16,
    FP_OFF_MXCSR = 24,
    FP_OFF_MXCSR_MASK = 28,
    FP_OFF_ST = 32,
    FP_OFF_XMM = 160,
    FP_OFF_XMM_END = 416,
    FP_OFF_HEADER = 512,
    FP_OFF_YMM = 576,
    FP_OFF_YMM_END = 832,
};
#define FP_MXCSR_INIT 0x1f80U
#define FP_MXCSR_MM (1U << 17)
#define FP_FCW_INIT 0x37fU
#define FP_FSW_ES 0x80U

/* Classes of instructions by the CPU state that they need. */
enum fp_kind { FP_KIND_SSE, FP_KIND_AVX, FP_KIND_MMX, FP_KIND_X87, FP_KIND_NONE };

/* Handlers: x[0] of an operation */
enum {
    FP_F_GDST = 1 << 0,     /* rax goes to the general register dst */
    FP_F_FLAGS = 1 << 1,    /* arithmetic flags come from the stub */
    FP_F_FLAGS_IN = 1 << 2, /* ... and go into it */
    FP_F_RCX = 1 << 4,      /* RCX is an output */
    FP_F_PROBE = 1 << 5,    /* a store that changes other state too: find faults first */
    FP_F_CONTROL = 1 << 6,  /* x87 control instruction: leaves the instruction and data pointers alone */
    FP_F_NOWAIT = 1 << 7,   /* x87: does not look at pending exceptions */
};

/* Raise what the CPU state demands for kind; called when a gate found that it is not simply usable. */
_Noreturn void bt_fp_gate_fail(struct bt_vcpu *c, enum fp_kind kind);
/* The stub trapped with this vector: raise #MF, #XM (or #UD in its place), #UD or #GP(0). */
_Noreturn void bt_fp_trap(struct bt_vcpu *c, unsigned vector);
/* The memory operand at lin is not aligned: raise #GP(0) unless MXCSR.MM allows it. */
void bt_fp_misaligned(struct bt_vcpu *c, const struct bt_op *op);
/* FWAIT: raises #MF where an unmasked x87 exception is pending. */
void bt_fp_wait(struct bt_vcpu *c);

/* Copy n bytes between guest memory at lin and buf, n up to some KiB; all faults come before the first change of
 * memory. */
void bt_fp_read_block(struct bt_vcpu *c, const struct bt_op *op, uint64_t lin, void *buf, unsigned n);
void bt_fp_probe_block(struct bt_vcpu *c, const struct bt_op *op, uint64_t lin, unsigned n);
void bt_fp_write_block(struct bt_vcpu *c, const struct bt_op *op, uint64_t lin, const void *buf, unsigned n);

/* Write the initial values of components that XSTATE_BV says are in their initial state into c->xsave (state saved). */
void bt_fp_normalise(struct bt_vcpu *c);
/* The x87 pointers as FXSAVE and XSAVE show them, into the first 24 bytes of img (whose FSW is valid). */
void bt_fp_put_pointers(struct bt_vcpu *c, uint8_t *img, bool wide);
/* Take the x87 pointers from an FXSAVE image. */
void bt_fp_take_pointers(struct bt_vcpu *c, const uint8_t *img, bool wide);

/* fp_stub.c: the stub for n bytes of code (without RET, n < FP_SLOT), shared with equal ones. -ENOSPC: memory full. */
int bt_stub_get(struct bt_stubs *s, const uint8_t *code, unsigned n, uintptr_t *ret_stub) MUST_USE;

/* Handlers that fp_bind.c binds. */
#define FP_HANDLER(name) enum bt_next name(struct bt_vcpu *c, const struct bt_op *op)
FP_HANDLER(bt_fp_sse_reg);
FP_HANDLER(bt_fp_sse_ld);
FP_HANDLER(bt_fp_sse_st);
FP_HANDLER(bt_fp_sse_gen);
FP_HANDLER(bt_fp_sse_gen_ld);
FP_HANDLER(bt_fp_avx_reg);
FP_HANDLER(bt_fp_avx_ld);
FP_HANDLER(bt_fp_avx_st);
FP_HANDLER(bt_fp_avx_gen);
FP_HANDLER(bt_fp_avx_gen_ld);
FP_HANDLER(bt_fp_mmx_reg);
FP_HANDLER(bt_fp_mmx_ld);
FP_HANDLER(bt_fp_mmx_st);
FP_HANDLER(bt_fp_mmx_gen);
FP_HANDLER(bt_fp_mmx_gen_ld);
FP_HANDLER(bt_fp_ssemmx_reg);
FP_HANDLER(bt_fp_ssemmx_ld);
FP_HANDLER(bt_fp_ssemmx_st);
FP_HANDLER(bt_fp_ssemmx_gen);
FP_HANDLER(bt_fp_ssemmx_gen_ld);
FP_HANDLER(bt_fp_ldmxcsr);
FP_HANDLER(bt_fp_x87_reg);
FP_HANDLER(bt_fp_x87_ld);
FP_HANDLER(bt_fp_x87_st);
FP_HANDLER(bt_fp_x87_gen);
FP_HANDLER(bt_fp_fwait);
FP_HANDLER(bt_fp_fninit);
FP_HANDLER(bt_fp_fnstenv);
FP_HANDLER(bt_fp_fldenv);
FP_HANDLER(bt_fp_maskmov);
FP_HANDLER(bt_fp_vmask_ld);
FP_HANDLER(bt_fp_vmask_st);
FP_HANDLER(bt_fp_gather);
FP_HANDLER(bt_fp_vzero);
FP_HANDLER(bt_fp_fxsave);
FP_HANDLER(bt_fp_fxrstor);
FP_HANDLER(bt_fp_xsave);
FP_HANDLER(bt_fp_xrstor);

/* What bt_fp_xsave serves (x[2]). */
enum { FP_XSAVE, FP_XSAVEOPT, FP_XSAVEC };

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FP_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define FP_SANITIZED 1
#endif
#endif
#ifndef FP_SANITIZED
#define FP_SANITIZED 0
#endif

static ALWAYS_INLINE void fp_use(struct bt_vcpu *c)
{
    if (UNLIKELY(!c->fp_live))
        bt_fp_load(c);
}

/* After a stub: a sanitizer's run-time library may use vector registers at any time. */
static ALWAYS_INLINE void fp_done(struct bt_vcpu *c)
{
    if (FP_SANITIZED)
        bt_fp_save(c);
}

static ALWAYS_INLINE void fp_gate(struct bt_vcpu *c, enum fp_kind kind)
{
    bool bad = false;

    if (kind == FP_KIND_SSE)
        bad = ((c->cr0 & (FP_CR0_EM | FP_CR0_TS)) | (~c->cr4 & FP_CR4_OSFXSR)) != 0;
    else if (kind == FP_KIND_AVX)
        bad = (c->cr0 & (FP_CR0_TS | FP_CR0_PE)) != FP_CR0_PE || (c->rflags & BT_VM) != 0 ||
              ((~c->cr4 & FP_CR4_OSXSAVE) | (~c->xcr0 & (FP_SSE | FP_AVX))) != 0;
    else if (kind == FP_KIND_MMX || kind == FP_KIND_X87)
        bad = (c->cr0 & (FP_CR0_EM | FP_CR0_TS)) != 0;
    if (UNLIKELY(bad))
        bt_fp_gate_fail(c, kind);
}

/* Run a stub on mem. The red zone of the calling function stays untouched. Returns 0 or the vector of a trap. */
static ALWAYS_INLINE unsigned fp_call(uintptr_t stub, void *mem)
{
    uintptr_t err = 0;

    __asm__ volatile("leaq -128(%%rsp), %%rsp\n\t"
                     "call *%[stub]\n\t"
                     "leaq 128(%%rsp), %%rsp"
                     : "+S"(err)
                     : [stub] "r"(stub), "D"(mem)
                     : "memory", "cc");
    return (unsigned)err;
}

struct fp_regs {
    uint64_t a, c, d, flags;
};

/* The same with general registers and flags. */
static ALWAYS_INLINE unsigned fp_call_gen(uintptr_t stub, void *mem, struct fp_regs *r, bool flags_in, bool flags_out)
{
    uintptr_t err = 0;

    if (flags_in)
        __asm__ volatile("leaq -128(%%rsp), %%rsp\n\t"
                         "pushq %[fl]\n\t"
                         "popfq\n\t"
                         "call *%[stub]\n\t"
                         "pushfq\n\t"
                         "popq %[fl]\n\t"
                         "leaq 128(%%rsp), %%rsp"
                         : "+S"(err), "+a"(r->a), "+c"(r->c), "+d"(r->d), [fl] "+r"(r->flags)
                         : [stub] "r"(stub), "D"(mem)
                         : "memory", "cc");
    else if (flags_out)
        __asm__ volatile("leaq -128(%%rsp), %%rsp\n\t"
                         "call *%[stub]\n\t"
                         "pushfq\n\t"
                         "popq %[fl]\n\t"
                         "leaq 128(%%rsp), %%rsp"
                         : "+S"(err), "+a"(r->a), "+c"(r->c), "+d"(r->d), [fl] "=&r"(r->flags)
                         : [stub] "r"(stub), "D"(mem)
                         : "memory", "cc");
    else
        __asm__ volatile("leaq -128(%%rsp), %%rsp\n\t"
                         "call *%[stub]\n\t"
                         "leaq 128(%%rsp), %%rsp"
                         : "+S"(err), "+a"(r->a), "+c"(r->c), "+d"(r->d)
                         : [stub] "r"(stub), "D"(mem)
                         : "memory", "cc");
    return (unsigned)err;
}

/* Run the operation's stub without general registers; raises its trap. */
static ALWAYS_INLINE void fp_run(struct bt_vcpu *c, uintptr_t stub, void *mem)
{
    unsigned err;

    fp_use(c);
    err = fp_call(stub, mem);
    fp_done(c);
    if (UNLIKELY(err))
        bt_fp_trap(c, err);
}

/* Copy n bytes upwards. For code that runs while guest state is live: a compiler may turn a loop into a call of libc.
 */
static ALWAYS_INLINE void fp_move(void *to, const void *from, unsigned n)
{
    unsigned long count = n;

    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count)::"memory");
}

/* Pointer to the operand of a load. wait: a pending x87 exception comes before faults of the access. */
static ALWAYS_INLINE void *fp_src(struct bt_vcpu *c, const struct bt_op *op, bool wait)
{
    const struct bt_tlbe *e;
    uint64_t lin;

    if (wait && UNLIKELY(!(op->flags & BT_OPF_LONG)))
        bt_fp_wait(c);
    lin = bt_op_lin(c, op, op->msize, BT_ACC_READ);
    if (UNLIKELY(lin & op->x[1])) {
        if (wait)
            bt_fp_wait(c);
        bt_fp_misaligned(c, op);
    }
    e = bt_tlbe(c, c->ctx, lin);
    if (LIKELY(bt_page_hit(e->tag_r, lin, op->msize)))
        return bt_host(e, lin);
    if (wait)
        bt_fp_wait(c);
    bt_ld_bytes(c, lin, c->scratch, op->msize, op->seg);
    return c->scratch;
}

/* fp_exec.c: the store of op, where the TLB has no writable entry. */
void bt_fp_store_slow(struct bt_vcpu *c, const struct bt_op *op, uint64_t lin, bool wait);

/* Store: the stub writes the operand. wait as for fp_src: x87 and MMX, whose stores change other state too. */
static ALWAYS_INLINE void fp_store(struct bt_vcpu *c, const struct bt_op *op, bool wait)
{
    struct bt_tlbe *e;
    uint64_t lin;

    if (wait && UNLIKELY(!(op->flags & BT_OPF_LONG)))
        bt_fp_wait(c);
    lin = bt_op_lin(c, op, op->msize, BT_ACC_WRITE);
    if (UNLIKELY(lin & op->x[1]))
        bt_fp_misaligned(c, op);
    e = bt_tlbe(c, c->ctx, lin);
    if (LIKELY(bt_page_hit(e->tag_w, lin, op->msize))) {
        fp_run(c, op->aux, bt_host(e, lin));
        bt_note_write(c, e, lin, op->msize);
        return;
    }
    bt_fp_store_slow(c, op, lin, wait);
}

#endif
