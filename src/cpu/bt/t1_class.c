/* From an operation's handler to what it does: the handler's address names the instruction, operand kind and size,
 * since the binder has chosen it by just that. So the interpreter needs to know nothing of the translator. */
#include "cpu/bt/fp_priv.h"
#include "cpu/bt/int_priv.h"
#include "cpu/bt/sys_priv.h"
#include "cpu/bt/t1_priv.h"

static unsigned t1_hash(bt_fn fn)
{
    uint64_t a = (uint64_t)(uintptr_t)fn;

    return (unsigned)((a * 0x9e3779b97f4a7c15ULL) >> 40) % T1_DESCS;
}

const struct t1_desc *bt_t1_desc(const struct bt_t1 *t, bt_fn fn)
{
    unsigned i = t1_hash(fn);

    while (t->descs[i].fn && t->descs[i].fn != fn)
        i = (i + 1) % T1_DESCS;
    return &t->descs[i];
}

static void t1_add(struct bt_t1 *t, bt_fn fn, struct t1_desc d)
{
    struct t1_desc *at = (struct t1_desc *)bt_t1_desc(t, fn);

    if (!fn || at->fn)
        return;
    *at = d;
    at->fn = fn;
}

/* n handlers by operand size, the first being for `size` bytes. */
static void t1_sizes(struct bt_t1 *t, const bt_fn *fns, unsigned n, unsigned size, struct t1_desc d)
{
    for (unsigned i = 0; i < n; i++) {
        d.size = (uint8_t)(size << i);
        t1_add(t, fns[i], d);
    }
}

#define D(cl, su, ki) ((struct t1_desc){ .class = (cl), .sub = (uint8_t)(su), .kind = (uint8_t)(ki) })

static void t1_classify_alu(struct bt_t1 *t)
{
    for (unsigned kind = 0; kind < BT_K_N; kind++) {
        for (unsigned op = 0; op < BT_ALU_N; op++)
            t1_sizes(t, bt_int_alu[op][kind], 4, 1, D(T1_ALU, op, kind));
        for (unsigned op = 0; op < BT_BT_N; op++)
            t1_sizes(t, bt_int_bt[op][kind], 3, 2, D(T1_BT, op, kind));
        t1_sizes(t, bt_int_test[kind], 4, 1, D(T1_TEST, 0, kind));
        t1_sizes(t, bt_int_mov[kind], 4, 1, D(T1_MOV, 0, kind));
    }
    for (unsigned kind = 0; kind < BT_U_N; kind++) {
        for (unsigned op = 0; op < BT_UN_N; op++)
            t1_sizes(t, bt_int_unary[op][kind], 4, 1, D(T1_UNARY, op, kind));
        t1_sizes(t, bt_int_xadd[kind], 4, 1, D(T1_XADD, 0, kind));
        t1_sizes(t, bt_int_cmpxchg[kind], 4, 1, D(T1_CMPXCHG, 0, kind));
    }
    for (unsigned kind = 0; kind < BT_S_N; kind++) {
        for (unsigned op = 0; op < BT_SH_N; op++)
            t1_sizes(t, bt_int_shift[op][kind], 4, 1, D(T1_SHIFT, op, kind));
        for (unsigned op = 0; op < 2; op++)
            t1_sizes(t, bt_int_shiftd[op][kind], 3, 2, D(T1_SHIFTD, op, kind));
    }
}

static void t1_classify_moves(struct bt_t1 *t)
{
    for (unsigned mem = 0; mem < 2; mem++) {
        for (unsigned to = 0; to < 3; to++) {
            for (unsigned from = 0; from < 3; from++) {
                struct t1_desc d = D(T1_MOVX, 1, mem);

                d.size = (uint8_t)(2U << to);
                d.from = (uint8_t)(1U << from);
                t1_add(t, bt_int_movsx[mem][from][to], d);
                d.sub = 0;
                if (from < 2)
                    t1_add(t, bt_int_movzx[mem][from][to], d);
            }
        }
        for (unsigned cc = 0; cc < 16; cc++) {
            t1_sizes(t, bt_int_cmov[cc][mem], 3, 2, D(T1_CMOV, cc, mem));
            t1_sizes(t, &bt_int_setcc[cc][mem], 1, 1, D(T1_SETCC, cc, mem));
        }
        for (unsigned op = 0; op < BT_MUL_N; op++)
            t1_sizes(t, bt_int_mul[op][mem], 4, 1, D(op < BT_MUL_DIV ? T1_MUL : T1_DIV, op, mem));
        for (unsigned op = 0; op < BT_SCAN_N; op++)
            t1_sizes(t, bt_int_scan[op][mem], 3, 2, D(T1_SCAN, op, mem));
        for (unsigned op = 0; op < BT_BMI_N; op++)
            t1_sizes(t, bt_int_bmi[op][mem], 2, 4, D(T1_BMI, op, mem));
        t1_sizes(t, bt_int_imul2[mem], 3, 2, D(T1_IMUL2, 0, mem));
        t1_sizes(t, bt_int_imul3[mem], 3, 2, D(T1_IMUL3, 0, mem));
        t1_sizes(t, bt_int_crc32[mem], 4, 1, D(T1_CRC32, 0, mem));
        t1_sizes(t, bt_int_movbe[mem], 3, 2, D(T1_MOVBE, 0, mem));
        t1_sizes(t, bt_int_cbw[mem], 3, 2, D(T1_CBW, mem, 0));
    }
    t1_sizes(t, bt_int_lea, 3, 2, D(T1_LEA, 0, 0));
    t1_sizes(t, &bt_int_lea64, 1, 8, D(T1_LEA, 0, 0));
    t1_sizes(t, bt_int_bswap, 3, 2, D(T1_BSWAP, 0, 0));
    t1_sizes(t, bt_int_xchg_rr, 4, 1, D(T1_XCHG, 0, 0));
    t1_sizes(t, bt_int_xchg_m, 4, 1, D(T1_XCHG_M, 0, 0));
}

static void t1_classify_control(struct bt_t1 *t)
{
    for (unsigned cc = 0; cc < 16; cc++)
        t1_add(t, bt_int_jcc[1][cc], D(T1_JCC, cc, 0));
    for (unsigned kind = 0; kind < BT_BR_N; kind++) {
        t1_add(t, bt_int_jmp[1][kind], D(T1_JMP, 0, kind));
        t1_add(t, bt_int_call[1][kind], D(T1_CALL, 0, kind));
        t1_add(t, bt_int_push64[kind], D(T1_PUSH, 0, kind));
        t1_add(t, bt_int_push[kind], D(T1_CALLOUT, 0, 0));
    }
    t1_add(t, bt_int_ret[1], D(T1_RET, 0, 0));
    t1_add(t, bt_int_pop64, D(T1_POP, 0, 0));
    t1_add(t, bt_int_leave, D(T1_LEAVE, 0, 0));
    t1_add(t, bt_int_nop, D(T1_NOP, 0, 0));
    t1_add(t, bt_int_pushf, D(T1_PUSHF, 0, 0));
    t1_add(t, bt_int_cmpxchg16b, D(T1_CMPXCHG16B, 0, 0));
    t1_add(t, bt_sys_misc[BT_SYS_CLI], D(T1_CLI, 0, 0));
    t1_add(t, bt_sys_misc[BT_SYS_STI], D(T1_STI, 0, 0));
    t1_add(t, bt_sys_misc[BT_SYS_STAC], D(T1_AC, 0, 0));
    t1_add(t, bt_sys_misc[BT_SYS_CLAC], D(T1_AC, 1, 0));
}

static void t1_classify_fp(struct bt_t1 *t)
{
    static const bt_fn sse[] = { [T1_FP_REG] = bt_fp_sse_reg,
                                 [T1_FP_LD] = bt_fp_sse_ld,
                                 [T1_FP_ST] = bt_fp_sse_st,
                                 [T1_FP_GEN] = bt_fp_sse_gen,
                                 [T1_FP_GEN_LD] = bt_fp_sse_gen_ld };
    static const bt_fn avx[] = { [T1_FP_REG] = bt_fp_avx_reg,
                                 [T1_FP_LD] = bt_fp_avx_ld,
                                 [T1_FP_ST] = bt_fp_avx_st,
                                 [T1_FP_GEN] = bt_fp_avx_gen,
                                 [T1_FP_GEN_LD] = bt_fp_avx_gen_ld };

    for (unsigned i = 0; i < ARRAY_SIZE(sse); i++) {
        t1_add(t, sse[i], D(T1_FP, BT_FP_READY_SSE, i));
        t1_add(t, avx[i], D(T1_FP, BT_FP_READY_AVX, i));
    }
}

/* Instructions that stay in their block but are not worth a translation yet, or are better done by the handler. */
static void t1_classify_callouts(struct bt_t1 *t)
{
    static const bt_fn others[] = {
        bt_fp_mmx_reg,   bt_fp_mmx_ld,    bt_fp_mmx_st,     bt_fp_mmx_gen,       bt_fp_mmx_gen_ld,   bt_fp_ssemmx_reg,
        bt_fp_ssemmx_ld, bt_fp_ssemmx_st, bt_fp_ssemmx_gen, bt_fp_ssemmx_gen_ld, bt_fp_ldmxcsr,      bt_fp_x87_reg,
        bt_fp_x87_ld,    bt_fp_x87_st,    bt_fp_x87_gen,    bt_fp_fwait,         bt_fp_maskmov,      bt_fp_vmask_ld,
        bt_fp_vmask_st,  bt_fp_gather,    bt_fp_vzero,      bt_int_enter,        bt_int_xlat,        bt_int_cmpxchg8b,
        bt_int_push_seg, bt_int_clflush,  bt_int_pause,     bt_int_rdpid,        bt_sys_mov_from_cr,
    };

    for (unsigned i = 0; i < ARRAY_SIZE(others); i++)
        t1_add(t, others[i], D(T1_CALLOUT, 0, 0));
    for (unsigned i = 0; i < BT_SYS_SEG_N; i++)
        t1_add(t, bt_sys_seg[i], D(T1_CALLOUT, 0, 0));
    for (unsigned i = BT_SYS_RDTSC; i < BT_SYS_MISC_N; i++)
        t1_add(t, bt_sys_misc[i], D(T1_CALLOUT, 0, 0));
    for (unsigned i = 0; i < BT_STR_N; i++)
        t1_sizes(t, bt_int_string[i], 4, 1, D(T1_CALLOUT, 0, 0));
    for (unsigned i = 0; i < BT_FENCE_N; i++)
        t1_add(t, bt_int_fence[i], D(T1_FENCE, i, 0));
    for (unsigned i = 0; i < BT_FLAG_N; i++)
        t1_add(t, bt_int_flag[i], D(i <= BT_FLAG_CMC ? T1_FLAG : T1_CALLOUT, i, 0));
    for (unsigned i = 0; i < 2; i++) {
        t1_add(t, bt_int_pop[i], D(T1_CALLOUT, 0, 0));
        t1_sizes(t, bt_int_rdrand[i], 3, 2, D(T1_CALLOUT, 0, 0));
    }
}

void bt_t1_classify(struct bt_t1 *t)
{
    t1_classify_alu(t);
    t1_classify_moves(t);
    t1_classify_control(t);
    t1_classify_fp(t);
    t1_classify_callouts(t);
}
