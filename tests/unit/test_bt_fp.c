/* x87, MMX, SSE and AVX handlers of the interpreter against the host CPU: random encodings of every form that the
 * binder takes, with random state, run natively and through bind + handler; registers, flags, memory and faults must be
 * equal.
 *
 * The memory layer and the exceptions are small models here: two pages that exist, with TLB entries or without (then
 * every access takes the slow path), in identity mapping, so that addresses are the same for both sides. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <cpuid.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "bt_fp_gen.h"
#include "bt_fp_host.h"
#include "../engine/vendor.h"
#include "cpu/bt/decode.h"
#include "cpu/bt/fp.h"
#include "cpu/bt/mmu.h"

struct fixture {
    struct host_cpu *host;
    struct bt_vcpu *c;
    struct bt_vm vm;
    struct mem mem;
    struct mem_region region;
    _Atomic uint64_t code_mask[4];
    jmp_buf fault;
    unsigned vector;
    uint32_t error;
    uint64_t cr2;
};

static struct fixture *fx; /* the models below have no other way to it */

/* ---- models of what the handlers call ---- */

static _Noreturn void leave(struct bt_vcpu *c, unsigned vector, uint32_t error)
{
    fx->vector = vector;
    fx->error = error;
    bt_fp_save(c); /* the real run loop may do so at once */
    longjmp(fx->fault, 1);
}

_Noreturn void bt_raise(struct bt_vcpu *c, unsigned vector)
{
    leave(c, vector, 0);
}

_Noreturn void bt_raise_error(struct bt_vcpu *c, unsigned vector, uint32_t error)
{
    leave(c, vector, error);
}

static bool present(uint64_t lin, unsigned size)
{
    uint64_t base = (uintptr_t)host_data(fx->host);

    return lin >= base && lin - base <= HOST_DATA_SIZE - size;
}

static void check(struct bt_vcpu *c, uint64_t lin, unsigned size)
{
    if ((int64_t)(lin << 16) >> 16 != (int64_t)lin)
        leave(c, BT_GP, 0);
    if (!present(lin, size)) {
        fx->cr2 = lin;
        leave(c, BT_PFV, 0);
    }
}

void bt_read_slow(struct bt_vcpu *c, unsigned ctx, uint64_t lin, void *buf, unsigned size, unsigned seg)
{
    (void)ctx, (void)seg;
    bt_fp_sync(c);
    check(c, lin, size);
    memcpy(buf, (void *)(uintptr_t)lin, size);
}

void bt_write_slow(struct bt_vcpu *c, unsigned ctx, uint64_t lin, const void *buf, unsigned size, unsigned seg)
{
    (void)ctx, (void)seg;
    bt_fp_sync(c);
    check(c, lin, size);
    memcpy((void *)(uintptr_t)lin, buf, size);
}

void bt_probe_write(struct bt_vcpu *c, unsigned ctx, uint64_t lin, unsigned size, unsigned seg)
{
    (void)ctx, (void)seg;
    check(c, lin, size);
}

void bt_ld_bytes(struct bt_vcpu *c, uint64_t lin, void *buf, unsigned size, unsigned seg)
{
    assert_true(size >= 1 && size <= 64);
    bt_read_slow(c, 0, lin, buf, size, seg);
}

void bt_st_bytes(struct bt_vcpu *c, uint64_t lin, const void *buf, unsigned size, unsigned seg)
{
    assert_true(size >= 1 && size <= 64);
    bt_write_slow(c, 0, lin, buf, size, seg);
}

void bt_note_write_slow(struct bt_vcpu *c, struct bt_tlbe *e, uint64_t lin, unsigned size)
{
    (void)c, (void)e, (void)lin, (void)size;
}

uint64_t bt_seg_check(struct bt_vcpu *c, unsigned seg, uint64_t off, unsigned size, unsigned acc)
{
    (void)c, (void)seg, (void)size, (void)acc;
    return off;
}

/* ---- the private decode path: what decode.c does for these instructions ---- */

static unsigned gpr_index(ZydisRegister reg)
{
    ZydisRegisterClass cls = ZydisRegisterGetClass(reg);

    if (cls == ZYDIS_REGCLASS_GPR64 || cls == ZYDIS_REGCLASS_GPR32)
        return (unsigned)ZydisRegisterGetId(reg);
    return reg == ZYDIS_REGISTER_RIP ? BT_RIP : BT_ZERO;
}

static int decode(const uint8_t *code, unsigned n, enum bt_mode mode, struct bt_insn *in, struct bt_op *op)
{
    ZydisDecoder d;

    memset(in, 0, sizeof(*in));
    memset(op, 0, sizeof(*op));
    if (mode == BT_MODE_64)
        ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    else
        ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
    if (ZYAN_FAILED(ZydisDecoderDecodeFull(&d, code, n, &in->zi, in->ops)))
        return -1;
    memcpy(in->bytes, code, in->zi.length);
    in->mode = (uint8_t)mode;
    in->mem_op = 0xff;
    op->len = in->zi.length;
    op->bits = mode == BT_MODE_64 ? 64 : 32;
    op->base = op->index = BT_ZERO;
    op->seg = BT_DS;
    op->asize = 8;
    op->osize = in->zi.operand_width / 8;
    for (unsigned i = 0; i < in->zi.operand_count; i++) {
        const ZydisDecodedOperand *o = &in->ops[i];

        if (o->type != ZYDIS_OPERAND_TYPE_MEMORY || in->mem_op != 0xff)
            continue;
        in->mem_op = (uint8_t)i;
        op->base = (uint8_t)gpr_index(o->mem.base);
        op->index = (uint8_t)gpr_index(o->mem.index);
        op->scale = (o->mem.scale > 1 ? (uint8_t)__builtin_ctz(o->mem.scale) : 0) & 3U;
        op->disp = o->mem.disp.value;
        op->flags = BT_OPF_MEM | (mode == BT_MODE_64 ? BT_OPF_LONG : 0);
        op->msize = (uint8_t)(o->size / 8);
    }
    return bt_bind_fp(fx->c, in, op);
}

/* ---- comparing ---- */

struct trial {
    uint8_t code[24];
    unsigned n;
    struct bt_insn in;
    struct bt_op op;
    struct host_state before, native, emulated;
    uint8_t mem_before[HOST_DATA_SIZE], mem_native[HOST_DATA_SIZE];
    unsigned v_native, v_emulated;
    bool tlb, quiet;
};

static void normalise(uint8_t *x)
{
    uint64_t bv = load_le64(x + 512);

    if (!(bv & 1)) {
        memset(x, 0, 24);
        memset(x + 32, 0, 128);
        store_le16(x, 0x37f);
    }
    if (!(bv & 2))
        memset(x + 160, 0, 256);
    if (!(bv & 4))
        memset(x + 576, 0, 256);
    memset(x + 6, 0, 18);
    store_le32(x + 28, 0);
    memset(x + 416, 0, 160);
    memset(x + 832, 0, 192);
}

static void set_tlb(bool on)
{
    uint64_t base = (uintptr_t)host_data(fx->host);

    for (unsigned i = 0; i < BT_TLB_SIZE; i++)
        fx->c->tlb[BT_CTX_KERNEL][i].tag_r = fx->c->tlb[BT_CTX_KERNEL][i].tag_w = bt_tlb_none(i);
    for (unsigned i = 0; on && i < HOST_DATA_PAGES; i++) {
        struct bt_tlbe *e = bt_tlbe(fx->c, BT_CTX_KERNEL, base + i * 4096);

        e->tag_r = e->tag_w = base + i * 4096;
        e->host = base + i * 4096;
        e->region = &fx->region;
        e->mask = fx->region.code_mask;
    }
}

static void emulate(struct trial *t)
{
    struct bt_vcpu *c = fx->c;

    memcpy(c->r, t->before.r, sizeof(t->before.r));
    c->rflags = t->before.flags;
    c->r[BT_RIP] = host_insn_address(fx->host);
    assert_int_equal(bt_fp_set_state(c, t->before.x, sizeof(t->before.x)), 0);
    c->fp.fcs = c->fp.fds = 0;
    set_tlb(t->tlb);
    fx->vector = 0;
    if (setjmp(fx->fault) == 0)
        assert_int_equal(t->op.fn(c, &t->op), BT_NEXT);
    t->v_emulated = fx->vector;
    bt_fp_get_state(c, t->emulated.x, sizeof(t->emulated.x));
    memcpy(t->emulated.r, c->r, sizeof(t->emulated.r));
    t->emulated.flags = c->rflags;
}

static void setup_memory(struct trial *t)
{
    uint8_t *data = host_data(fx->host);
    uint64_t p = (uintptr_t)data;

    gen_fill(t->mem_before, HOST_DATA_SIZE);
    switch (gen_pick(8)) {
    case 0:
        p += 4096 - gen_pick(64); /* crosses into the second page */
        break;
    case 1:
        p += 8192 - gen_pick(96); /* ends in the page that faults */
        break;
    case 2:
        p += gen_pick(128);
        break;
    case 3:
        p += 8192 - 16 * gen_pick(8);
        break;
    default:
        p += 64 * gen_pick(32);
    }
    t->before.r[BT_RBX] = t->before.r[BT_RDI] = p;
    memcpy(data, t->mem_before, HOST_DATA_SIZE);
}

static void describe(const struct trial *t, const char *what)
{
    ZydisFormatter f;
    char text[128] = "?";

    if (t->quiet)
        return;
    ZydisFormatterInit(&f, ZYDIS_FORMATTER_STYLE_INTEL);
    (void)ZydisFormatterFormatInstruction(&f, &t->in.zi, t->in.ops, t->in.zi.operand_count_visible, text, sizeof(text),
                                          0, NULL);
    printf("%s: %s [", what, text);
    for (unsigned i = 0; i < t->in.zi.length; i++)
        printf("%02x ", t->code[i]);
    printf("] tlb %d rbx ...%03x vector native %u emulated %u\n", t->tlb,
           (unsigned)(t->before.r[BT_RBX] & 0xfff) |
               (unsigned)((t->before.r[BT_RBX] - (uintptr_t)host_data(fx->host)) & 0x1000),
           t->v_native, t->v_emulated);
}

static bool same_bytes(const struct trial *t, const char *what, const uint8_t *a, const uint8_t *b, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        if (a[i] == b[i])
            continue;
        if (t->quiet)
            return false;
        describe(t, what);
        printf("  at %u:", i);
        for (unsigned k = i & ~7U; k < (i & ~7U) + 24 && k < n; k++)
            printf(" %02x/%02x", a[k], b[k]);
        printf("  (native/emulated)\n");
        return false;
    }
    return true;
}

/* MASKMOVQ, MASKMOVDQU: whether masked bytes fault, and what a fault leaves of the MMX state, is up to the CPU. */
static bool is_maskmov(const struct trial *t)
{
    ZydisMnemonic m = t->in.zi.mnemonic;

    return m == ZYDIS_MNEMONIC_MASKMOVQ || m == ZYDIS_MNEMONIC_MASKMOVDQU || m == ZYDIS_MNEMONIC_VMASKMOVDQU;
}

static bool is_xrstor(const struct trial *t)
{
    return t->in.zi.mnemonic == ZYDIS_MNEMONIC_XRSTOR || t->in.zi.mnemonic == ZYDIS_MNEMONIC_XRSTOR64;
}

/* Faults in which Intel's CPUs differ from the engine: what comes first, and what has happened before
 * (tests/engine/vendor.h).
 */
static bool excused_on_intel(const struct trial *t)
{
    if (!vendor_intel())
        return false;
    /* They read components that were not asked for, too. */
    if (is_xrstor(t) && t->v_native == BT_PFV && t->v_emulated == 0)
        return true;
    if (t->v_emulated == 0)
        return false;
    if (is_xrstor(t)) /* what it has loaded before it finds something invalid */
        return t->v_emulated == BT_GP;
    return vendor_x87_store(&t->in.zi, t->in.ops) || vendor_mmx_store(&t->in.zi, t->in.ops) || vendor_gather(&t->in.zi);
}

/* Memory shows the x87 pointers, which Intel's CPUs keep and the engine does not. */
static bool shows_pointers(const struct trial *t)
{
    return vendor_intel() && vendor_x87_pointers(&t->in.zi);
}

static bool compare(struct trial *t)
{
    bool ok = true;

    normalise(t->native.x);
    normalise(t->emulated.x);
    if (t->v_native == BT_PFV && is_maskmov(t)) /* see there */
        return true;
    /* With misaligned SSE allowed, AMD reads but half of the operand of some shifts and unpacks. */
    if (t->v_native == 0 && t->v_emulated == BT_PFV && (load_le32(t->before.x + 24) & BIT(17)))
        return true;
    if (excused_on_intel(t))
        return true;
    if (t->v_native != t->v_emulated) {
        describe(t, "vector");
        return false;
    }
    ok &= same_bytes(t, "state", t->native.x, t->emulated.x, sizeof(t->native.x));
    ok &= same_bytes(t, "registers", (uint8_t *)t->native.r, (uint8_t *)t->emulated.r, sizeof(t->native.r));
    if (!shows_pointers(t))
        ok &= same_bytes(t, "memory", t->mem_native, host_data(fx->host), HOST_DATA_SIZE);
    if (((t->native.flags ^ t->emulated.flags) & BT_ARITH) != 0) {
        describe(t, "flags");
        ok = false;
    }
    return ok;
}

/* The x87 environment as FNSTENV shows it afterwards, into memory. */
static void emulate_env(struct trial *t)
{
    static const uint8_t fnstenv[] = { 0xd9, 0x33 }; /* [rbx] */
    struct bt_insn in;
    struct bt_op op;
    uint8_t *data = host_data(fx->host);

    assert_int_equal(decode(fnstenv, 2, BT_MODE_64, &in, &op), 0);
    fx->c->r[BT_RBX] = (uintptr_t)data;
    if (setjmp(fx->fault) == 0)
        (void)op.fn(fx->c, &op);
    /* The selectors: this process has CS 0x33 and DS 0; images in the 64-bit format do not hold them. */
    store_le16(data + 16, 0);
    store_le16(t->native.env + 16, 0);
}

static bool try_once(struct trial *t)
{
    memcpy(host_data(fx->host), t->mem_before, HOST_DATA_SIZE);
    t->v_native = host_run(fx->host, t->code, t->in.zi.length, &t->before, &t->native);
    if (t->v_native == BT_UD) /* this host lacks it */
        return true;
    memcpy(t->mem_native, host_data(fx->host), HOST_DATA_SIZE);
    memcpy(host_data(fx->host), t->mem_before, HOST_DATA_SIZE);
    emulate(t);
    if (!compare(t))
        return false;
    /* A signal has cleared AMD's x87 pointers (see run_trial); other CPUs keep part of them for unmasked exceptions
     * only. */
    if (t->v_native != 0 || !__builtin_cpu_is("amd"))
        return true;
    emulate_env(t);
    return same_bytes(t, "environment", t->native.env, host_data(fx->host), 28);
}

/* AMD's XSAVE drops the x87 pointers while no exception is pending, so that a change of tasks between the native
 * instructions makes them zero. Hence more than one try; only the last one reports. */
static bool run_trial(struct trial *t)
{
    for (unsigned tries = 0; tries < 5; tries++) {
        t->quiet = tries < 4;
        if (try_once(t))
            return true;
    }
    return false;
}

/* Indices of a gather that reach the two pages and the ones beside them, or (64-bit only) anywhere: a 32-bit one could
 * hit other memory of this process. */
static void small_indices(struct trial *t)
{
    bool wide = t->in.zi.opcode & 1;

    for (unsigned k = 0; k < 8; k++) {
        uint8_t *p = t->before.x + (k < 4 ? 160 : 576) + 16 * t->op.x[1] + 4 * (k & 3);
        int32_t index = (int32_t)gen_pick(96) - (gen_chance(8) ? 32 : 0);

        if (!wide)
            store_le32(p, (uint32_t)index);
        else if (!(k & 1) && !gen_chance(8))
            store_le64(p, (uint64_t)(int64_t)index);
    }
}

static void adapt(struct trial *t)
{
    ZydisMnemonic m = t->in.zi.mnemonic;

    switch (m) {
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
        t->before.r[BT_RAX] &= 7; /* the host process has more components than the model */
        t->before.r[BT_RDX] = 0;
        return;
    default:
        break;
    }
    if (t->in.zi.meta.isa_ext == ZYDIS_ISA_EXT_AVX2GATHER)
        small_indices(t);
}

static bool generate(struct trial *t, unsigned (*gen)(uint8_t *))
{
    for (unsigned tries = 0; tries < 10000; tries++) {
        memset(t->code, 0, sizeof(t->code));
        t->n = gen(t->code);
        if (t->n > 15)
            t->n = 15;
        if (decode(t->code, t->n, BT_MODE_64, &t->in, &t->op) == 0)
            return true;
        if (bt_stubs_full(fx->c->stubs))
            bt_stubs_reset(fx->c->stubs);
    }
    return false;
}

static void run_many(unsigned (*gen)(uint8_t *), void (*prepare)(struct trial *), unsigned count)
{
    static struct trial t;
    static uint8_t seen[ZYDIS_MNEMONIC_MAX_VALUE + 1], failed[ZYDIS_MNEMONIC_MAX_VALUE + 1];
    unsigned bad = 0, kinds = 0, traps = 0;
    const char *env = getenv("BT_FP_TRIALS");

    host_catch_signals();
    assert_int_equal(bt_fp_init_process(), 0);
    if (env)
        count = (unsigned)strtoul(env, NULL, 0);
    memset(seen, 0, sizeof(seen));
    for (unsigned i = 0; i < count; i++) {
        gen_state(&t.before);
        setup_memory(&t);
        if (!generate(&t, gen))
            fail_msg("no encoding found");
        t.tlb = gen_chance(2);
        adapt(&t);
        if (prepare)
            prepare(&t);
        kinds += seen[t.in.zi.mnemonic]++ == 0;
        if (seen[t.in.zi.mnemonic] == 255)
            seen[t.in.zi.mnemonic] = 1;
        if (failed[t.in.zi.mnemonic] >= 3)
            continue;
        if (!run_trial(&t)) {
            bad++;
            failed[t.in.zi.mnemonic]++;
        }
        traps += t.v_native != 0;
    }
    printf("%u trials, %u mnemonics, %u faults, %u mismatches\n", count, kinds, traps, bad);
    assert_int_equal(bad, 0);
}

static void test_legacy(void **state)
{
    (void)state;
    run_many(gen_legacy, NULL, 40000);
}

static void test_vex(void **state)
{
    (void)state;
    if (!__builtin_cpu_supports("avx2"))
        skip();
    run_many(gen_vex, NULL, 40000);
}

static void test_x87(void **state)
{
    (void)state;
    run_many(gen_x87, NULL, 40000);
}

/* A plausible image in memory; now and then with a defect, at an odd address, or reaching out of memory. */
static void prepare_area(struct trial *t)
{
    unsigned at = gen_chance(16)   ? 16 * gen_pick(64)
                  : gen_chance(8)  ? 4096 - 64 * gen_pick(16)
                  : gen_chance(16) ? 8192 - 64 * gen_pick(16)
                                   : 0;
    uint8_t *x = t->mem_before + at;
    struct host_state image;

    if (gen_chance(32))
        at += 8;
    t->before.r[BT_RBX] = (uintptr_t)host_data(fx->host) + at;
    gen_state(&image);
    memset(image.x + 512, 0, 64);
    store_le64(image.x + 512, gen_pick(8));
    if (gen_chance(3))
        store_le64(image.x + 520, 1ULL << 63 | (gen_chance(4) ? gen_pick(8) : 7));
    if (gen_chance(8))
        store_le32(image.x + 24, (uint32_t)gen_rnd());
    if (gen_chance(8))
        image.x[512 + gen_pick(64)] ^= (uint8_t)(1 << gen_pick(8));
    image.x[512] &= 7; /* the host process has components that the model lacks */
    image.x[520] &= 7;
    image.x[513] &= 0xf0;
    image.x[521] &= 0xf0;
    image.x[514] = image.x[522] = 0;
    for (unsigned i = 0; i < 832 && at + i < HOST_DATA_SIZE; i++)
        if (i < 416 || i >= 512)
            x[i] = image.x[i];
    memcpy(host_data(fx->host), t->mem_before, HOST_DATA_SIZE);
}

static void test_areas(void **state)
{
    (void)state;
    run_many(gen_area, prepare_area, 40000);
}

struct gate_case {
    const char *code;
    unsigned n;
    uint64_t cr0_on, cr0_off, cr4_off, xcr0;
    unsigned vector;
};

#define CR0_MP_TS 0xa
#define CR0_EM 4
#define CR0_TS 8
static const struct gate_case gates[] = {
    { "\x0f\x58\xc1", 3, 0, 0, 0, 7, 0 }, /* ADDPS */
    { "\x0f\x58\xc1", 3, CR0_EM | CR0_TS, 0, 0, 7, BT_UD },
    { "\x0f\x58\xc1", 3, CR0_TS, 0, 0, 7, BT_NM },
    { "\x0f\x58\xc1", 3, CR0_TS, 0, 1 << 9, 7, BT_UD },     /* OSFXSR */
    { "\x0f\xfc\xc1", 3, CR0_EM | CR0_TS, 0, 0, 7, BT_UD }, /* PADDB mm */
    { "\x0f\xfc\xc1", 3, CR0_TS, 0, 1 << 9, 7, BT_NM },
    { "\x0f\xfc\xc1", 3, 0, 0, 1 << 9, 7, 0 },
    { "\x0f\x77", 2, CR0_EM, 0, 0, 7, BT_UD }, /* EMMS */
    { "\xc5\xf4\x58\xc1", 4, 0, 0, 0, 7, 0 },  /* VADDPS ymm */
    { "\xc5\xf4\x58\xc1", 4, 0, 0, 0, 3, BT_UD },
    { "\xc5\xf4\x58\xc1", 4, CR0_EM, 0, 1 << 9, 7, 0 },
    { "\xc5\xf4\x58\xc1", 4, CR0_TS, 0, 1 << 18, 7, BT_UD }, /* OSXSAVE */
    { "\xc5\xf4\x58\xc1", 4, CR0_TS, 0, 0, 7, BT_NM },
    { "\xc5\xf4\x58\xc1", 4, CR0_TS, 1, 0, 7, BT_UD }, /* real mode */
    { "\xd9\xe8", 2, CR0_TS, 0, 0, 7, BT_NM },         /* FLD1 */
    { "\xd9\xe8", 2, CR0_EM, 0, 0, 7, BT_NM },
    { "\x9b", 1, CR0_EM, 0, 0, 7, 0 }, /* FWAIT */
    { "\x9b", 1, CR0_TS, 2, 0, 7, 0 }, /* without MP */
    { "\x9b", 1, CR0_MP_TS, 0, 0, 7, BT_NM },
    { "\x0f\xae\x03", 3, CR0_EM, 0, 0, 7, BT_NM }, /* FXSAVE */
    { "\x0f\xae\x03", 3, 0, 0, 1 << 9, 7, 0 },
    { "\x0f\xae\x23", 3, CR0_EM, 0, 0, 7, 0 }, /* XSAVE */
    { "\x0f\xae\x23", 3, CR0_TS, 0, 0, 7, BT_NM },
    { "\x0f\xae\x23", 3, CR0_TS, 0, 1 << 18, 7, BT_UD },
    { "\x0f\xae\x13", 3, CR0_TS, 0, 0, 7, BT_NM },     /* LDMXCSR */
    { "\xf2\x0f\x2c\x03", 4, 0, 0, 1 << 9, 7, BT_UD }, /* CVTTSD2SI eax, m64: no vector register */
    { "\x0f\x2c\x0b", 3, 0, 0, 1 << 9, 7, BT_UD },     /* CVTTPS2PI mm, m64: no XMM register */
};

/* Run code in emulation only, with memory zero; returns the vector. */
static unsigned run_code(struct trial *t, const char *code, unsigned n, enum bt_mode mode)
{
    memcpy(t->code, code, n);
    assert_int_equal(decode(t->code, n, mode, &t->in, &t->op), 0);
    t->op.flags |= BT_OPF_LONG; /* the data lies above 4 GiB */
    memset(host_data(fx->host), 0, HOST_DATA_SIZE);
    store_le32(host_data(fx->host), 0x1f80);
    t->before.r[BT_RBX] = (uintptr_t)host_data(fx->host);
    t->before.flags = 2;
    t->tlb = true;
    emulate(t);
    return t->v_emulated;
}

static void plain_state(struct host_state *s)
{
    memset(s, 0, sizeof(*s));
    store_le16(s->x, 0x37f);
    store_le32(s->x + 24, 0x1f80);
    s->r[BT_RAX] = 7;
}

static void test_gates(void **state)
{
    static struct trial t;
    uint64_t cr0 = fx->c->cr0, cr4 = fx->c->cr4;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(gates); i++) {
        const struct gate_case *g = &gates[i];

        plain_state(&t.before);
        fx->c->cr0 = (cr0 | g->cr0_on) & ~g->cr0_off;
        fx->c->cr4 = cr4 & ~g->cr4_off;
        fx->c->xcr0 = g->xcr0;
        if (run_code(&t, g->code, g->n, BT_MODE_64) != g->vector)
            fail_msg("gate %u: vector %u, not %u", i, t.v_emulated, g->vector);
    }
    fx->c->cr0 = cr0;
    fx->c->cr4 = cr4;
    fx->c->xcr0 = 7;
}

/* #XM becomes #UD without CR4.OSXMMEXCPT; in both cases nothing but sticky flags changes. */
static void test_xm(void **state)
{
    static struct trial t;
    uint64_t cr4 = fx->c->cr4;

    (void)state;
    assert_int_equal(bt_fp_init_process(), 0);
    plain_state(&t.before);
    store_le32(t.before.x + 24, 0x1f80 & ~0x200); /* division by zero unmasked */
    store_le32(t.before.x + 160, 0x3f800000);
    store_le64(t.before.x + 512, 2);
    assert_int_equal(run_code(&t, "\xf3\x0f\x5e\xc1", 4, BT_MODE_64), BT_XM); /* DIVSS xmm0, xmm1 */
    assert_int_equal(load_le32(t.emulated.x + 160), 0x3f800000);
    assert_int_equal(load_le32(t.emulated.x + 24), 0x1d84);
    fx->c->cr4 &= ~(uint64_t)(1 << 10);
    assert_int_equal(run_code(&t, "\xf3\x0f\x5e\xc1", 4, BT_MODE_64), BT_UD);
    fx->c->cr4 = cr4;
}

/* Outside 64-bit mode VEX.W does not widen general registers, and registers 8..15 are out of reach. */
static void test_mode32(void **state)
{
    static struct trial t;

    (void)state;
    plain_state(&t.before);
    store_le64(t.before.x + 512, 7);
    t.before.r[BT_RCX] = 0x1122334455667788;
    assert_int_equal(run_code(&t, "\xc4\xe1\xf9\x6e\xc1", 5, BT_MODE_32), 0); /* VMOVD xmm0, ecx with W */
    assert_int_equal(load_le64(t.emulated.x + 160), 0x55667788);
    assert_int_equal(run_code(&t, "\xc4\xe1\xf9\x6e\xc1", 5, BT_MODE_64), 0);
    assert_int_equal(load_le64(t.emulated.x + 160), 0x1122334455667788);
    for (unsigned i = 0; i < 16; i++)
        store_le64(t.before.x + 576 + 16 * i, 1 + i);
    assert_int_equal(run_code(&t, "\xc5\xf8\x77", 3, BT_MODE_32), 0); /* VZEROUPPER */
    assert_int_equal(load_le64(t.emulated.x + 576 + 16 * 7), 0);
    assert_int_equal(load_le64(t.emulated.x + 576 + 16 * 8), 9);
    assert_int_equal(run_code(&t, "\xc5\xf8\x77", 3, BT_MODE_64), 0);
    normalise(t.emulated.x);
    assert_int_equal(load_le64(t.emulated.x + 576 + 16 * 8), 0);
    store_le64(t.before.x + 160 + 16 * 8, 77);
    assert_int_equal(run_code(&t, "\x0f\xae\x03", 3, BT_MODE_32), 0); /* FXSAVE: xmm0..7 only */
    assert_int_equal(load_le64(host_data(fx->host) + 160 + 16 * 8), 0);
}

/* The environment in the 16-bit and the real-mode layouts, out and in again. Where the CPU keeps the operand's address
 * for exceptions only (CPUID.7.EBX[6]), it is gone before it is stored. */
static void test_env_layouts(void **state)
{
    static struct trial t;
    unsigned eax, ebx = 0, ecx, edx;
    const volatile uint32_t fdp = __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && ebx & 1 << 6 ? 0 : 0x2bcdef01;
    struct bt_vcpu *c = fx->c;
    uint8_t *data = host_data(fx->host);
    uint64_t cr0 = c->cr0;

    (void)state;
    plain_state(&t.before);
    store_le64(t.before.x + 512, 1);
    store_le64(t.before.x + 8, 0x12345678);
    store_le64(t.before.x + 16, 0x2bcdef01);
    store_le16(t.before.x + 6, 0x5a5);
    store_le16(t.before.x + 2, 0x3800);
    t.before.x[4] = 0x80; /* R7 = ST(0) */
    store_le64(t.before.x + 32, 1ULL << 63);
    store_le16(t.before.x + 40, 0x3fff);
    assert_int_equal(run_code(&t, "\x66\xd9\x33", 3, BT_MODE_64), 0); /* FNSTENV, 14 bytes */
    assert_int_equal(load_le16(data), 0x37f);
    assert_int_equal(load_le16(data + 2), 0x3800);
    assert_int_equal(load_le16(data + 4), 0x3fff);
    assert_int_equal(load_le16(data + 6), 0x5678);
    assert_int_equal(load_le16(data + 10), fdp & 0xffff);
    assert_int_equal(load_le16(data + 14), 0);
    c->cr0 &= ~1ULL;
    assert_int_equal(run_code(&t, "\x66\xd9\x33", 3, BT_MODE_64), 0);
    assert_int_equal(load_le16(data + 6), 0x5678);
    assert_int_equal(load_le16(data + 8) & 0xf000, 0x4000);
    assert_int_equal(load_le16(data + 10), fdp & 0xffff);
    assert_int_equal(load_le16(data + 12), fdp >> 16 << 12 & 0xf000);
    assert_int_equal(run_code(&t, "\xdd\x33", 2, BT_MODE_64), 0); /* FNSAVE, 108 bytes */
    assert_int_equal(load_le32(data + 12), 0xffff5678);
    assert_int_equal(load_le32(data + 16) & 0xfffff000, 0x1234000);
    assert_int_equal(load_le64(data + 28), 1ULL << 63);
    assert_int_equal(load_le16(t.emulated.x), 0x37f);
    assert_int_equal(c->fp.fip, 0);
    assert_int_equal(setjmp(fx->fault), 0);
    assert_int_equal(decode((const uint8_t *)"\xdd\x23", 2, BT_MODE_64, &t.in, &t.op), 0); /* FRSTOR */
    assert_int_equal(t.op.fn(c, &t.op), BT_NEXT);
    assert_int_equal(c->fp.fip, 0x12345678);
    assert_int_equal(c->fp.fdp, fdp);
    bt_fp_get_state(c, t.emulated.x, sizeof(t.emulated.x));
    assert_int_equal(load_le16(t.emulated.x + 2), 0x3800);
    assert_int_equal(t.emulated.x[4], 0x80);
    assert_int_equal(load_le16(t.emulated.x + 40), 0x3fff);
    c->cr0 = cr0;
}

/* Images that the host's XRSTOR would refuse are refused, and change nothing. */
static void test_set_state(void **state)
{
    static struct host_state s, now;
    static const unsigned bad[] = { 27, 513, 519, 520, 527 }; /* MXCSR, XSTATE_BV, XCOMP_BV */

    (void)state;
    plain_state(&s);
    store_le64(s.x + 512, 3);
    store_le64(s.x + 160, 4711);
    assert_int_equal(bt_fp_set_state(fx->c, s.x, 832), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct host_state other = s;

        store_le64(other.x + 160, 1);
        other.x[bad[i]] ^= 0x80;
        assert_int_equal(bt_fp_set_state(fx->c, other.x, 832), -EINVAL);
    }
    assert_int_equal(bt_fp_set_state(fx->c, s.x, 512), -EINVAL);
    bt_fp_load(fx->c);
    bt_fp_get_state(fx->c, now.x, sizeof(now.x));
    assert_int_equal(load_le64(now.x + 160), 4711);
}

/* A full stub memory says so in time, and works again after the reset. */
static void test_stubs_full(void **state)
{
    static struct trial t;
    uint8_t code[] = { 0x66, 0x0f, 0x70, 0xc1, 0 }; /* PSHUFD xmm0, xmm1, imm8 */
    unsigned n = 0;

    (void)state;
    bt_fp_sync(fx->c);
    while (!bt_stubs_full(fx->c->stubs)) {
        code[2] = n & 0x10000 ? 0xc6 : 0x70; /* SHUFPD */
        code[3] = (uint8_t)(0xc0 | (n >> 8 & 0x3f));
        code[4] = (uint8_t)n;
        if (n & 0x4000)
            code[0] = 0xf2 | (n >> 15 & 1);
        else
            code[0] = 0x66;
        if (n++ > 0x20000)
            break;
        (void)decode(code, sizeof(code), BT_MODE_64, &t.in, &t.op);
    }
    assert_true(bt_stubs_full(fx->c->stubs));
    bt_stubs_reset(fx->c->stubs);
    assert_false(bt_stubs_full(fx->c->stubs));
    plain_state(&t.before);
    store_le64(t.before.x + 512, 2);
    store_le64(t.before.x + 176, 0x1234);
    assert_int_equal(run_code(&t, "\x0f\x28\xc1", 3, BT_MODE_64), 0); /* MOVAPS xmm0, xmm1 */
    assert_int_equal(load_le64(t.emulated.x + 160), 0x1234);
}

static int setup(void **state)
{
    fx = calloc(1, sizeof(*fx));
    if (!fx || host_cpu_new(&fx->host) < 0)
        return -1;
    fx->c = aligned_alloc(64, align_up(sizeof(*fx->c), 64));
    if (!fx->c)
        return -1;
    memset(fx->c, 0, sizeof(*fx->c));
    if (bt_stubs_new(&fx->c->stubs) < 0)
        return -1;
    gen_seed = getenv("BT_FP_SEED") ? strtoull(getenv("BT_FP_SEED"), NULL, 0) : 0x123456789abcdefULL;
    fx->mem.n_regions = 1;
    fx->region.code_mask = fx->code_mask;
    fx->vm.mem = &fx->mem;
    fx->c->vm = &fx->vm;
    fx->c->cr0 = 0x80010033;
    fx->c->cr4 = 0x40620;
    fx->c->xcr0 = 7;
    fx->c->mode = BT_MODE_64;
    bt_fp_reset(fx->c);
    gen_mxcsr_mask = load_le32(fx->c->xsave + 28);
    *state = fx;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    bt_stubs_free(fx->c->stubs);
    free(fx->c);
    host_cpu_free(fx->host);
    free(fx);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_x87),        cmocka_unit_test(test_legacy),      cmocka_unit_test(test_vex),
        cmocka_unit_test(test_areas),      cmocka_unit_test(test_gates),       cmocka_unit_test(test_xm),
        cmocka_unit_test(test_mode32),     cmocka_unit_test(test_env_layouts), cmocka_unit_test(test_set_state),
        cmocka_unit_test(test_stubs_full),
    };

    if (!__builtin_cpu_supports("avx")) {
        printf("this host has no AVX: skipped\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, setup, teardown);
}
