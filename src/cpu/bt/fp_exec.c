/* Handlers of MMX, SSE and AVX instructions that a stub does whole: register forms, loads, stores, and those with
 * general registers or flags. One set for each class of CPU-state checks, so that the class is a constant in each.
 *
 * Invariant: a memory fault, a gate or a trap leaves the instruction undone: operands are fetched, and stores that
 * change other state are probed, before the stub runs. */
#include "cpu/bt/fp_priv.h"

#define FP_SENTINEL 0x5aa5c33c0ff01ee1ULL

void bt_fp_probe_block(struct bt_vcpu *c, const struct bt_op *op, uint64_t lin, unsigned n)
{
    uint64_t mask = op->flags & BT_OPF_LONG ? ~0ULL : 0xffffffffULL;

    for (unsigned i = 0, part; i < n; i += part) {
        part = MIN(n - i, 64U);
        bt_probe_write(c, c->ctx, (lin + i) & mask, part, op->seg);
    }
}

void bt_fp_read_block(struct bt_vcpu *c, const struct bt_op *op, uint64_t lin, void *buf, unsigned n)
{
    uint64_t mask = op->flags & BT_OPF_LONG ? ~0ULL : 0xffffffffULL;

    for (unsigned i = 0, part; i < n; i += part) {
        part = MIN(n - i, 64U);
        bt_ld_bytes(c, (lin + i) & mask, (uint8_t *)buf + i, part, op->seg);
    }
}

void bt_fp_write_block(struct bt_vcpu *c, const struct bt_op *op, uint64_t lin, const void *buf, unsigned n)
{
    uint64_t mask = op->flags & BT_OPF_LONG ? ~0ULL : 0xffffffffULL;

    for (unsigned i = 0, part; i < n; i += part) {
        part = MIN(n - i, 64U);
        bt_st_bytes(c, (lin + i) & mask, (const uint8_t *)buf + i, part, op->seg);
    }
}

/* Whether an x87 store left its destination alone because of an exception that it made pending: unmasked invalid,
 * overflow or underflow suppress the store, precision does not. */
static bool fp_x87_suppressed(struct bt_vcpu *c)
{
    uint16_t sw, cw;

    if (FP_SANITIZED || !c->fp_live) {
        cw = load_le16(c->xsave + FP_OFF_FCW);
        sw = load_le16(c->xsave + FP_OFF_FSW);
    } else {
        __asm__ volatile("fnstsw %0\n\tfnstcw %1" : "=m"(sw), "=m"(cw));
    }
    return (sw & ~cw & 0x1b) != 0;
}

void bt_fp_store_slow(struct bt_vcpu *c, const struct bt_op *op, uint64_t lin, bool wait)
{
    struct bt_tlbe *e;

    if (wait)
        bt_fp_wait(c);
    if (wait || (op->x[0] & FP_F_PROBE)) {
        bt_probe_write(c, c->ctx, lin, op->msize, op->seg);
        e = bt_tlbe(c, c->ctx, lin);
        if (bt_page_hit(e->tag_w, lin, op->msize)) {
            fp_run(c, op->aux, bt_host(e, lin));
            bt_note_write(c, e, lin, op->msize);
            return;
        }
    }
    store_le64(c->scratch, FP_SENTINEL);
    store_le64(c->scratch + 8, FP_SENTINEL);
    fp_run(c, op->aux, c->scratch);
    if (wait && load_le16(c->scratch) == (FP_SENTINEL & 0xffff) && fp_x87_suppressed(c))
        return;
    bt_st_bytes(c, lin, c->scratch, op->msize, op->seg);
}

/* A stub with general registers, flags, or both. */
static ALWAYS_INLINE void fp_gen(struct bt_vcpu *c, const struct bt_op *op, void *mem)
{
    unsigned how = op->x[0], err;
    struct fp_regs r = { .a = c->r[op->src / 8], .c = 0, .d = c->r[BT_RDX] };

    fp_use(c);
    if (how & FP_F_FLAGS_IN) {
        r.flags = (c->rflags & BT_ARITH) | 2;
        err = fp_call_gen(op->aux, mem, &r, true, true);
    } else if (how & FP_F_FLAGS) {
        err = fp_call_gen(op->aux, mem, &r, false, true);
    } else {
        err = fp_call_gen(op->aux, mem, &r, false, false);
    }
    fp_done(c);
    if (UNLIKELY(err))
        bt_fp_trap(c, err);
    if (how & FP_F_GDST)
        c->r[op->dst / 8] = r.a;
    if (how & FP_F_FLAGS)
        c->rflags = (c->rflags & ~(uint64_t)BT_ARITH) | (r.flags & BT_ARITH);
    if (how & FP_F_RCX)
        c->r[BT_RCX] = r.c;
}

#define FP_FAMILY(name, kind, wait)                                               \
    enum bt_next bt_fp_##name##_reg(struct bt_vcpu *c, const struct bt_op *op)    \
    {                                                                             \
        fp_gate(c, kind);                                                         \
        fp_run(c, op->aux, c->scratch);                                           \
        return BT_NEXT;                                                           \
    }                                                                             \
    enum bt_next bt_fp_##name##_ld(struct bt_vcpu *c, const struct bt_op *op)     \
    {                                                                             \
        fp_gate(c, kind);                                                         \
        fp_run(c, op->aux, fp_src(c, op, wait));                                  \
        return BT_NEXT;                                                           \
    }                                                                             \
    enum bt_next bt_fp_##name##_st(struct bt_vcpu *c, const struct bt_op *op)     \
    {                                                                             \
        fp_gate(c, kind);                                                         \
        fp_store(c, op, wait);                                                    \
        return BT_NEXT;                                                           \
    }                                                                             \
    enum bt_next bt_fp_##name##_gen(struct bt_vcpu *c, const struct bt_op *op)    \
    {                                                                             \
        fp_gate(c, kind);                                                         \
        fp_gen(c, op, c->scratch);                                                \
        return BT_NEXT;                                                           \
    }                                                                             \
    enum bt_next bt_fp_##name##_gen_ld(struct bt_vcpu *c, const struct bt_op *op) \
    {                                                                             \
        fp_gate(c, kind);                                                         \
        fp_gen(c, op, fp_src(c, op, wait));                                       \
        return BT_NEXT;                                                           \
    }
FP_FAMILY(sse, FP_KIND_SSE, false)
FP_FAMILY(ssemmx, FP_KIND_SSE, true)
FP_FAMILY(avx, FP_KIND_AVX, false)
FP_FAMILY(mmx, FP_KIND_MMX, true)

enum bt_next bt_fp_ldmxcsr(struct bt_vcpu *c, const struct bt_op *op)
{
    uint32_t v;

    fp_gate(c, op->x[2] ? FP_KIND_AVX : FP_KIND_SSE);
    v = bt_ld32(c, bt_op_lin(c, op, 4, BT_ACC_READ), op->seg);
    if (v & ~c->stubs->mxcsr_mask)
        bt_gp(c, 0);
    store_le32(c->scratch, v);
    fp_run(c, op->aux, c->scratch);
    return BT_NEXT;
}
