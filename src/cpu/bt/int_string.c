/* MOVS STOS LODS SCAS CMPS, with and without REP prefixes.
 *
 * Repeats commit rCX, rSI and rDI after each step, so that a fault in the middle leaves them at the right element, and
 * return to the run loop (BT_JUMP with rip unchanged) when an event waits or after a bounded amount of work; the run
 * loop then starts the instruction anew. With the STEP event one element is done at a time.
 *
 * MOVS and STOS work in runs: as many elements as lie in the present page(s) are done by the host's own REP MOVS/STOS
 * of the same element size, which gives the architecture's ascending element order for overlapping operands as well.
 *
 * Flags of SCAS and CMPS are committed when the repeat ends or is interrupted. A fault in the middle leaves the old
 * ones on Intel's CPUs (SDM, REP), those of the last whole element on AMD's (op->x[0]). */
#include "cpu/bt/int_priv.h"

/* Work per call: elements done singly cost 1, a run through host pointers BT_STR_RUN. */
enum { BT_STR_BUDGET = 4096, BT_STR_RUN = 64 };

static ALWAYS_INLINE bool bt_str_stepping(struct bt_vcpu *c)
{
    return UNLIKELY(atomic_load_explicit(&c->events, memory_order_relaxed) & BT_EV_STEP);
}

/* An interrupt request counts only while IF is set: it may wait for long. */
static ALWAYS_INLINE bool bt_str_interrupted(struct bt_vcpu *c)
{
    uint32_t ev = atomic_load_explicit(&c->events, memory_order_relaxed);

    return UNLIKELY((c->rflags & BT_IF ? ev : ev & ~(uint32_t)BT_EV_IRQ) != 0);
}

/* How many of n elements from offset off in segment seg may be done without another segment check; the first one has
 * passed. Also bounded by the wrap of the address size. */
static ALWAYS_INLINE uint64_t bt_str_reach(struct bt_vcpu *c, const struct bt_op *op, unsigned seg, uint64_t off,
                                           unsigned size, uint64_t n)
{
    uint64_t last = bt_amask(op); /* last valid offset */

    if (!(op->flags & BT_OPF_LONG) && !(c->flat >> seg & 1)) {
        if ((c->seg[seg].type & 0xc) == 4) /* expand-down */
            return 1;
        last = MIN(last, (uint64_t)c->seg[seg].limit);
    }
    if (off > last || last - off < size - 1)
        return 1;
    return MIN(n, (last - off - (size - 1)) / size + 1);
}

static ALWAYS_INLINE uint64_t bt_str_in_page(uint64_t lin, unsigned size)
{
    return (MEM_PAGE_SIZE - (lin & (MEM_PAGE_SIZE - 1))) / size;
}

/* Advance pointer register reg by n elements in the direction of DF. */
static ALWAYS_INLINE void bt_str_advance(struct bt_vcpu *c, const struct bt_op *op, unsigned reg, uint64_t n,
                                         unsigned size)
{
    uint64_t bytes = n * size;

    bt_areg_set(c, op, reg, c->rflags & BT_DF ? c->r[reg] - bytes : c->r[reg] + bytes);
}

/* The step functions do up to n (>= 1) elements, advance the pointers and return how many were done. */
#define DEF_STEPS(bits)                                                                                        \
    static ALWAYS_INLINE uint64_t bt_movs##bits(struct bt_vcpu *c, const struct bt_op *op, uint64_t n)         \
    {                                                                                                          \
        uint64_t si = c->r[BT_RSI] & bt_amask(op), di = c->r[BT_RDI] & bt_amask(op), k;                        \
        uint64_t src = bt_lin(c, op->flags & BT_OPF_LONG, op->seg, si, bits / 8, BT_ACC_READ);                 \
        struct bt_tlbe *es = bt_tlbe(c, c->ctx, src), *ed;                                                     \
        uint64_t dst;                                                                                          \
        char *from;                                                                                            \
        uint##bits##_t v = 0;                                                                                  \
        bool hit = bt_page_hit(es->tag_r, src, bits / 8);                                                      \
                                                                                                               \
        if (!hit) {                                                                                            \
            v = bt_ld##bits(c, src, op->seg);                                                                  \
            hit = bt_page_hit(es->tag_r, src, bits / 8);                                                       \
        }                                                                                                      \
        dst = bt_lin(c, op->flags & BT_OPF_LONG, BT_ES, di, bits / 8, BT_ACC_WRITE);                           \
        ed = bt_tlbe(c, c->ctx, dst);                                                                          \
        /* The host pointer of the source survives where the destination's lookup evicts its TLB entry. */     \
        from = bt_host(es, src);                                                                               \
        if (hit && !bt_page_hit(ed->tag_w, dst, bits / 8))                                                     \
            bt_probe_write(c, c->ctx, dst, bits / 8, BT_ES);                                                   \
        if (LIKELY(hit && bt_page_hit(ed->tag_w, dst, bits / 8))) {                                            \
            char *to = bt_host(ed, dst);                                                                       \
                                                                                                               \
            k = 1;                                                                                             \
            if (n > 1 && !(c->rflags & BT_DF)) {                                                               \
                k = MIN(n, MIN(bt_str_in_page(src, bits / 8), bt_str_in_page(dst, bits / 8)));                 \
                k = bt_str_reach(c, op, op->seg, si, bits / 8, k);                                             \
                k = bt_str_reach(c, op, BT_ES, di, bits / 8, k);                                               \
            }                                                                                                  \
            if (k == 1) {                                                                                      \
                *(volatile bt_u##bits *)to = *(const volatile bt_u##bits *)from;                               \
            } else {                                                                                           \
                uint64_t count = k;                                                                            \
                                                                                                               \
                __asm__ volatile("rep movs" BT_SFX_##bits : "+S"(from), "+D"(to), "+c"(count) : : "memory");   \
            }                                                                                                  \
            bt_note_write(c, ed, dst, (unsigned)(k * (bits / 8)));                                             \
        } else {                                                                                               \
            k = 1;                                                                                             \
            if (hit)                                                                                           \
                v = *(const volatile bt_u##bits *)from;                                                        \
            bt_st##bits(c, dst, v, BT_ES);                                                                     \
        }                                                                                                      \
        bt_str_advance(c, op, BT_RSI, k, bits / 8);                                                            \
        bt_str_advance(c, op, BT_RDI, k, bits / 8);                                                            \
        return k;                                                                                              \
    }                                                                                                          \
    static ALWAYS_INLINE uint64_t bt_stos##bits(struct bt_vcpu *c, const struct bt_op *op, uint64_t n)         \
    {                                                                                                          \
        uint64_t di = c->r[BT_RDI] & bt_amask(op), k = 1;                                                      \
        uint64_t dst = bt_lin(c, op->flags & BT_OPF_LONG, BT_ES, di, bits / 8, BT_ACC_WRITE);                  \
        struct bt_tlbe *ed = bt_tlbe(c, c->ctx, dst);                                                          \
                                                                                                               \
        if (n > 1 && !(c->rflags & BT_DF) && LIKELY(bt_page_hit(ed->tag_w, dst, bits / 8))) {                  \
            char *to = bt_host(ed, dst);                                                                       \
            uint64_t count;                                                                                    \
                                                                                                               \
            k = count = bt_str_reach(c, op, BT_ES, di, bits / 8, MIN(n, bt_str_in_page(dst, bits / 8)));       \
            __asm__ volatile("rep stos" BT_SFX_##bits : "+D"(to), "+c"(count) : "a"(c->r[BT_RAX]) : "memory"); \
            bt_note_write(c, ed, dst, (unsigned)(k * (bits / 8)));                                             \
        } else {                                                                                               \
            bt_st##bits(c, dst, bt_rd##bits(c, BT_RAX * 8), BT_ES);                                            \
        }                                                                                                      \
        bt_str_advance(c, op, BT_RDI, k, bits / 8);                                                            \
        return k;                                                                                              \
    }                                                                                                          \
    static ALWAYS_INLINE uint64_t bt_lods##bits(struct bt_vcpu *c, const struct bt_op *op, uint64_t n)         \
    {                                                                                                          \
        uint64_t si = c->r[BT_RSI] & bt_amask(op);                                                             \
        uint64_t src = bt_lin(c, op->flags & BT_OPF_LONG, op->seg, si, bits / 8, BT_ACC_READ);                 \
                                                                                                               \
        bt_wr##bits(c, BT_RAX * 8, bt_ld##bits(c, src, op->seg));                                              \
        bt_str_advance(c, op, BT_RSI, 1, bits / 8);                                                            \
        return 1;                                                                                              \
    }                                                                                                          \
    static ALWAYS_INLINE void bt_str_cmp##bits(uint64_t *fl, uint##bits##_t a, uint##bits##_t b)               \
    {                                                                                                          \
        uint32_t ax;                                                                                           \
                                                                                                               \
        __asm__("cmp" BT_SFX_##bits " %" BT_MOD_##bits "[b], %" BT_MOD_##bits "[a]" BT_FL_STORE                \
                : "=a"(ax)                                                                                     \
                : [a] "r"(a), [b] "r"(b)                                                                       \
                : "cc");                                                                                       \
        *fl = bt_fl_merge(*fl, ax);                                                                            \
    }                                                                                                          \
    static ALWAYS_INLINE void bt_scas##bits(struct bt_vcpu *c, const struct bt_op *op, uint64_t *fl)           \
    {                                                                                                          \
        uint64_t di = c->r[BT_RDI] & bt_amask(op);                                                             \
        uint64_t lin = bt_lin(c, op->flags & BT_OPF_LONG, BT_ES, di, bits / 8, BT_ACC_READ);                   \
                                                                                                               \
        bt_str_cmp##bits(fl, bt_rd##bits(c, BT_RAX * 8), bt_ld##bits(c, lin, BT_ES));                          \
        bt_str_advance(c, op, BT_RDI, 1, bits / 8);                                                            \
    }                                                                                                          \
    static ALWAYS_INLINE void bt_cmps##bits(struct bt_vcpu *c, const struct bt_op *op, uint64_t *fl)           \
    {                                                                                                          \
        uint64_t si = c->r[BT_RSI] & bt_amask(op), di = c->r[BT_RDI] & bt_amask(op);                           \
        uint64_t ls = bt_lin(c, op->flags & BT_OPF_LONG, op->seg, si, bits / 8, BT_ACC_READ);                  \
        uint##bits##_t a = bt_ld##bits(c, ls, op->seg);                                                        \
        uint64_t ld = bt_lin(c, op->flags & BT_OPF_LONG, BT_ES, di, bits / 8, BT_ACC_READ);                    \
                                                                                                               \
        bt_str_cmp##bits(fl, a, bt_ld##bits(c, ld, BT_ES));                                                    \
        bt_str_advance(c, op, BT_RSI, 1, bits / 8);                                                            \
        bt_str_advance(c, op, BT_RDI, 1, bits / 8);                                                            \
    }
DEF_STEPS(8)
DEF_STEPS(16)
DEF_STEPS(32)
DEF_STEPS(64)

/* Handlers for MOVS, STOS and LODS: F2 repeats as F3 does. */
#define DEF_MOVE(name)                                                      \
    static enum bt_next h_##name(struct bt_vcpu *c, const struct bt_op *op) \
    {                                                                       \
        uint64_t n, done;                                                   \
        int budget = BT_STR_BUDGET;                                         \
                                                                            \
        if (!(op->flags & (BT_OPF_REP | BT_OPF_REPNE))) {                   \
            (void)bt_##name(c, op, 1);                                      \
            return BT_NEXT;                                                 \
        }                                                                   \
        for (n = c->r[BT_RCX] & bt_amask(op); n != 0;) {                    \
            done = bt_##name(c, op, bt_str_stepping(c) ? 1 : n);            \
            n -= done;                                                      \
            bt_areg_set(c, op, BT_RCX, n);                                  \
            budget -= done == 1 ? 1 : BT_STR_RUN;                           \
            if (n != 0 && (budget <= 0 || bt_str_interrupted(c))) {         \
                c->rflags |= BT_RF; /* as hardware pushes it then */        \
                return BT_JUMP;                                             \
            }                                                               \
        }                                                                   \
        return BT_NEXT;                                                     \
    }
/* Handlers for SCAS and CMPS: REPE goes on while equal, REPNE while not. */
#define DEF_COMPARE(name)                                                   \
    static enum bt_next h_##name(struct bt_vcpu *c, const struct bt_op *op) \
    {                                                                       \
        uint64_t fl = c->rflags, n;                                         \
        int budget = BT_STR_BUDGET;                                         \
                                                                            \
        if (!(op->flags & (BT_OPF_REP | BT_OPF_REPNE))) {                   \
            bt_##name(c, op, &fl);                                          \
            c->rflags = fl;                                                 \
            return BT_NEXT;                                                 \
        }                                                                   \
        for (n = c->r[BT_RCX] & bt_amask(op); n != 0;) {                    \
            bt_##name(c, op, &fl);                                          \
            bt_areg_set(c, op, BT_RCX, --n);                                \
            if (op->x[0])                                                   \
                c->rflags = fl;                                             \
            if (!(fl & BT_ZF) != ((op->flags & BT_OPF_REPNE) != 0))         \
                break;                                                      \
            if (n != 0 && (--budget <= 0 || bt_str_interrupted(c))) {       \
                c->rflags = fl;                                             \
                c->rflags |= BT_RF; /* as hardware pushes it then */        \
                return BT_JUMP;                                             \
            }                                                               \
        }                                                                   \
        c->rflags = fl;                                                     \
        return BT_NEXT;                                                     \
    }
#define ALL_SIZES(DEF, name) DEF(name##8) DEF(name##16) DEF(name##32) DEF(name##64)
ALL_SIZES(DEF_MOVE, movs)
ALL_SIZES(DEF_MOVE, stos)
ALL_SIZES(DEF_MOVE, lods)
ALL_SIZES(DEF_COMPARE, scas)
ALL_SIZES(DEF_COMPARE, cmps)

#define ROW(name)                                             \
    {                                                         \
        h_##name##8, h_##name##16, h_##name##32, h_##name##64 \
    }
const bt_fn bt_int_string[BT_STR_N][4] = {
    [BT_STR_MOVS] = ROW(movs), [BT_STR_STOS] = ROW(stos), [BT_STR_LODS] = ROW(lods),
    [BT_STR_SCAS] = ROW(scas), [BT_STR_CMPS] = ROW(cmps),
};
