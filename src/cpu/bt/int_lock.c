/* Exchange instructions: XCHG with memory (always locked), XADD, CMPXCHG, CMPXCHG8B/16B, and the slow half of all
 * locked accesses. A locked access to RAM is the host's own atomic on the guest's bytes, so that vCPU threads and
 * devices see it whole; only MMIO and page-crossing operands go through the VM-wide split lock. */
#include "cpu/bt/int_priv.h"

/* Take the split lock for [lin, lin+size) and read the old value into buf. Write permission is checked before; should
 * the guest change its page tables meanwhile, the fault releases the lock. */
void bt_split_begin(struct bt_vcpu *c, uint64_t lin, void *buf, unsigned size, unsigned seg)
{
    bt_probe_write(c, c->ctx, lin, size, seg);
    bt_split_lock(c->vm);
    c->split_held = 1;
    bt_read_slow(c, c->ctx, lin, buf, size, seg);
}

/* Write the new value and release. */
void bt_split_end(struct bt_vcpu *c, uint64_t lin, const void *buf, unsigned size, unsigned seg)
{
    bt_write_slow(c, c->ctx, lin, buf, size, seg);
    c->split_held = 0;
    bt_split_unlock(c->vm);
}

/* CMPXCHG compares with the accumulator, sets flags as CMP does, and stores in both cases. */
#define DEF_LOCK(bits)                                                                                            \
    static enum bt_next h_xchg_m##bits(struct bt_vcpu *c, const struct bt_op *op)                                 \
    {                                                                                                             \
        uint64_t lin = bt_op_lin(c, op, bits / 8, BT_ACC_RMW);                                                    \
        uint##bits##_t s = bt_rd##bits(c, op->src), old = 0, d;                                                   \
                                                                                                                  \
        BT_ATOMIC_RMW(c, op, bits, lin, d, {                                                                      \
            old = d;                                                                                              \
            d = s;                                                                                                \
        });                                                                                                       \
        bt_wr##bits(c, op->src, old);                                                                             \
        return BT_NEXT;                                                                                           \
    }                                                                                                             \
    static ALWAYS_INLINE uint##bits##_t bt_add##bits(uint64_t *fl, uint##bits##_t d, uint##bits##_t s)            \
    {                                                                                                             \
        uint32_t ax;                                                                                              \
                                                                                                                  \
        __asm__("add" BT_SFX_##bits " %" BT_MOD_##bits "[s], %" BT_MOD_##bits "[d]" BT_FL_STORE                   \
                : [d] "+&r"(d), "=a"(ax)                                                                          \
                : [s] "r"(s)                                                                                      \
                : "cc");                                                                                          \
        *fl = bt_fl_merge(*fl, ax);                                                                               \
        return d;                                                                                                 \
    }                                                                                                             \
    static ALWAYS_INLINE void bt_cmp##bits(uint64_t *fl, uint##bits##_t d, uint##bits##_t s)                      \
    {                                                                                                             \
        uint32_t ax;                                                                                              \
                                                                                                                  \
        __asm__("cmp" BT_SFX_##bits " %" BT_MOD_##bits "[s], %" BT_MOD_##bits "[d]" BT_FL_STORE                   \
                : "=a"(ax)                                                                                        \
                : [d] "r"(d), [s] "r"(s)                                                                          \
                : "cc");                                                                                          \
        *fl = bt_fl_merge(*fl, ax);                                                                               \
    }                                                                                                             \
    static enum bt_next h_xadd_r##bits(struct bt_vcpu *c, const struct bt_op *op)                                 \
    {                                                                                                             \
        uint##bits##_t d = bt_rd##bits(c, op->dst);                                                               \
        uint##bits##_t sum = bt_add##bits(&c->rflags, d, bt_rd##bits(c, op->src));                                \
                                                                                                                  \
        bt_wr##bits(c, op->src, d);                                                                               \
        bt_wr##bits(c, op->dst, sum);                                                                             \
        return BT_NEXT;                                                                                           \
    }                                                                                                             \
    static enum bt_next h_xadd_m##bits(struct bt_vcpu *c, const struct bt_op *op)                                 \
    {                                                                                                             \
        uint64_t fl = c->rflags;                                                                                  \
        struct bt_rmw m;                                                                                          \
        uint##bits##_t d = bt_rmw_ld##bits(c, op, &m);                                                            \
                                                                                                                  \
        bt_rmw_st##bits(c, op, &m, bt_add##bits(&fl, d, bt_rd##bits(c, op->src)));                                \
        bt_wr##bits(c, op->src, d);                                                                               \
        c->rflags = fl;                                                                                           \
        return BT_NEXT;                                                                                           \
    }                                                                                                             \
    static enum bt_next h_xadd_lm##bits(struct bt_vcpu *c, const struct bt_op *op)                                \
    {                                                                                                             \
        uint64_t lin = bt_op_lin(c, op, bits / 8, BT_ACC_RMW);                                                    \
        uint64_t fl = c->rflags;                                                                                  \
        uint##bits##_t s = bt_rd##bits(c, op->src), old = 0, d;                                                   \
                                                                                                                  \
        BT_ATOMIC_RMW(c, op, bits, lin, d, {                                                                      \
            old = d;                                                                                              \
            d = bt_add##bits(&fl, d, s);                                                                          \
        });                                                                                                       \
        bt_wr##bits(c, op->src, old);                                                                             \
        c->rflags = fl;                                                                                           \
        return BT_NEXT;                                                                                           \
    }                                                                                                             \
    /* On the host's own registers, whole: which upper halves a 32-bit CMPXCHG clears is the CPU's affair. */     \
    static enum bt_next h_cmpxchg_r##bits(struct bt_vcpu *c, const struct bt_op *op)                              \
    {                                                                                                             \
        uint64_t d = bits == 8 ? bt_rd8(c, op->dst) : bt_rd64(c, op->dst), ax = c->r[BT_RAX], acc;                \
                                                                                                                  \
        __asm__("cmpxchg" BT_SFX_##bits " %" BT_MOD_##bits "[s], %" BT_MOD_##bits "[d]\n\t"                       \
                                                                                  "mov %%rax, %[acc]" BT_FL_STORE \
                : [d] "+&r"(d), "+&a"(ax), [acc] "=&r"(acc)                                                       \
                : [s] "r"(bt_rd##bits(c, op->src))                                                                \
                : "cc");                                                                                          \
        c->rflags = bt_fl_merge(c->rflags, (uint32_t)ax);                                                         \
        c->r[BT_RAX] = acc;                                                                                       \
        bt_wr(c, op->dst, bits == 8 ? 1 : 8, d);                                                                  \
        return BT_NEXT;                                                                                           \
    }                                                                                                             \
    static enum bt_next h_cmpxchg_m##bits(struct bt_vcpu *c, const struct bt_op *op)                              \
    {                                                                                                             \
        struct bt_rmw m;                                                                                          \
        uint##bits##_t acc = bt_rd##bits(c, BT_RAX * 8), d = bt_rmw_ld##bits(c, op, &m);                          \
                                                                                                                  \
        bt_rmw_st##bits(c, op, &m, acc == d ? bt_rd##bits(c, op->src) : d);                                       \
        bt_cmp##bits(&c->rflags, acc, d);                                                                         \
        if (acc != d)                                                                                             \
            bt_wr##bits(c, BT_RAX * 8, d);                                                                        \
        return BT_NEXT;                                                                                           \
    }                                                                                                             \
    static enum bt_next h_cmpxchg_lm##bits(struct bt_vcpu *c, const struct bt_op *op)                             \
    {                                                                                                             \
        uint64_t lin = bt_op_lin(c, op, bits / 8, BT_ACC_RMW);                                                    \
        uint##bits##_t acc = bt_rd##bits(c, BT_RAX * 8), s = bt_rd##bits(c, op->src), d = acc;                    \
        void *p = bt_lock_ptr##bits(c, op, lin);                                                                  \
                                                                                                                  \
        if (LIKELY(p != NULL)) {                                                                                  \
            bt_cas##bits(p, &d, s);                                                                               \
            bt_note_write(c, bt_tlbe(c, c->ctx, lin), lin, bits / 8);                                             \
        } else {                                                                                                  \
            bt_split_begin(c, lin, &d, bits / 8, op->seg);                                                        \
            bt_split_end(c, lin, d == acc ? &s : &d, bits / 8, op->seg);                                          \
        }                                                                                                         \
        bt_cmp##bits(&c->rflags, acc, d);                                                                         \
        if (acc != d)                                                                                             \
            bt_wr##bits(c, BT_RAX * 8, d);                                                                        \
        return BT_NEXT;                                                                                           \
    }
DEF_LOCK(8)
DEF_LOCK(16)
DEF_LOCK(32)
DEF_LOCK(64)

#define SIZES(prefix)                                 \
    {                                                 \
        prefix##8, prefix##16, prefix##32, prefix##64 \
    }
const bt_fn bt_int_xchg_m[4] = SIZES(h_xchg_m);
const bt_fn bt_int_xadd[BT_U_N][4] = { SIZES(h_xadd_r), SIZES(h_xadd_m), SIZES(h_xadd_lm) };
const bt_fn bt_int_cmpxchg[BT_U_N][4] = { SIZES(h_cmpxchg_r), SIZES(h_cmpxchg_m), SIZES(h_cmpxchg_lm) };

static void bt_set_zf(struct bt_vcpu *c, bool zf)
{
    c->rflags = (c->rflags & ~(uint64_t)BT_ZF) | (zf ? BT_ZF : 0);
}

/* CMPXCHG8B, with or without LOCK: always atomic, which is a legal outcome of the unlocked form too. */
enum bt_next bt_int_cmpxchg8b(struct bt_vcpu *c, const struct bt_op *op)
{
    uint64_t lin = bt_op_lin(c, op, 8, BT_ACC_RMW);
    uint64_t expect = (uint64_t)(uint32_t)c->r[BT_RDX] << 32 | (uint32_t)c->r[BT_RAX];
    uint64_t v = (uint64_t)(uint32_t)c->r[BT_RCX] << 32 | (uint32_t)c->r[BT_RBX];
    uint64_t old = expect;
    void *p = bt_lock_ptr64(c, op, lin);

    if (LIKELY(p != NULL)) {
        bt_cas64(p, &old, v);
        bt_note_write(c, bt_tlbe(c, c->ctx, lin), lin, 8);
    } else {
        bt_split_begin(c, lin, &old, 8, op->seg);
        bt_split_end(c, lin, old == expect ? &v : &old, 8, op->seg);
    }
    if (old != expect) {
        bt_wr32(c, BT_RAX * 8, (uint32_t)old);
        bt_wr32(c, BT_RDX * 8, (uint32_t)(old >> 32));
    }
    bt_set_zf(c, old == expect);
    return BT_NEXT;
}

/* CMPXCHG16B: the operand must be aligned (#GP(0)). */
enum bt_next bt_int_cmpxchg16b(struct bt_vcpu *c, const struct bt_op *op)
{
    uint64_t lin = bt_op_lin(c, op, 16, BT_ACC_RMW);
    uint64_t old[2] = { c->r[BT_RAX], c->r[BT_RDX] }, v[2] = { c->r[BT_RBX], c->r[BT_RCX] };
    bool equal;
    void *p;

    if (lin & 15)
        bt_gp(c, 0);
    p = bt_lock_ptr(c, c->ctx, lin, 16, op->seg);
    if (LIKELY(p != NULL)) {
        __asm__ volatile("lock; cmpxchg16b %[m]"
                         : "+a"(old[0]), "+d"(old[1]), [m] "+m"(*(char(*)[16])p), "=@ccz"(equal)
                         : "b"(v[0]), "c"(v[1])
                         : "memory");
        bt_note_write(c, bt_tlbe(c, c->ctx, lin), lin, 16);
    } else {
        bt_split_begin(c, lin, old, 16, op->seg);
        equal = old[0] == c->r[BT_RAX] && old[1] == c->r[BT_RDX];
        bt_split_end(c, lin, equal ? v : old, 16, op->seg);
    }
    if (!equal) {
        c->r[BT_RAX] = old[0];
        c->r[BT_RDX] = old[1];
    }
    bt_set_zf(c, equal);
    return BT_NEXT;
}
