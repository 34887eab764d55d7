/* Integer instruction handlers against the host CPU: random encodings with random registers, flags and memory run in
 * the handler and natively, and everything that a program could see is compared. Directed tests cover what cannot run
 * natively in 64-bit user mode. The seed is fixed; BT_INT_SEED and BT_INT_CASES in the environment change the run. */
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bt_fake.h"
#include "bt_native.h"
#include "cpu/bt/int_priv.h"

#define SCRATCH_BYTES (BT_FAKE_PAGES * MEM_PAGE_SIZE)
#define FLAGS_SEEN (BT_ARITH | BT_DF)

struct fuzz {
    struct bt_fake *f;
    struct bt_native *native;
    uint64_t seed;
    enum bt_mode mode;
    uint8_t before[SCRATCH_BYTES], after[SCRATCH_BYTES];
    uint32_t ran[ZYDIS_MNEMONIC_MAX_VALUE + 1];
    unsigned compared, faults;
};

static uint64_t rnd(struct fuzz *z)
{
    z->seed ^= z->seed << 13;
    z->seed ^= z->seed >> 7;
    z->seed ^= z->seed << 17;
    return z->seed;
}

/* Values that hit carries, signs and zero more often than plain random ones. */
static uint64_t rnd_value(struct fuzz *z)
{
    uint64_t v = rnd(z);

    switch (rnd(z) % 8) {
    case 0:
        return v & 0xff;
    case 1:
        return (uint64_t)(int64_t)(int8_t)v;
    case 2:
        return 1ULL << (v & 63);
    case 3:
        return (1ULL << (v & 63)) - 1;
    case 4:
        return (uint32_t)v;
    default:
        return v;
    }
}

/* One random encoding of the integer instruction space. */
static void rnd_bytes(struct fuzz *z, uint8_t b[15])
{
    unsigned n = 0, kind = rnd(z) % 16;

    for (unsigned i = 0; i < 15; i++)
        b[i] = (uint8_t)rnd(z);
    if (kind == 0) { /* VEX, three bytes, maps 2 and 3 */
        b[n++] = 0xc4;
        b[n] = (uint8_t)((b[n] & 0xe0) | (z->mode == BT_MODE_64 ? 0 : 0xc0) | 2 | (b[n] & 1));
        n++;
        b[n] &= 0xfb; /* L = 0 */
        if ((b[1] & 3) == 3)
            b[n] |= 3;
        n++;
        b[n++] = (uint8_t)(0xf0 + rnd(z) % 8);
        return;
    }
    if (rnd(z) % 4 == 0)
        b[n++] = 0x66;
    if (rnd(z) % 16 == 0)
        b[n++] = 0x67;
    if (rnd(z) % 8 == 0)
        b[n++] = rnd(z) & 1 ? 0xf2 : 0xf3;
    if (rnd(z) % 6 == 0)
        b[n++] = 0xf0;
    if (z->mode == BT_MODE_64 && rnd(z) % 2 == 0)
        b[n++] = (uint8_t)(0x40 + rnd(z) % 16);
    if (kind < 7)
        b[n++] = 0x0f;
    if (kind == 1) {
        b[n++] = 0x38;
        b[n++] = (uint8_t)(0xf0 + rnd(z) % 8);
    }
}

/* Instructions that bt_bind_int takes but that cannot run here as they are. */
static bool not_here(const struct bt_op *op, ZydisMnemonic m)
{
    if (op->bits == 32 && (op->seg == BT_CS || op->asize == 2))
        return true; /* CS is not writable, and nothing is mapped below 64 KiB */
    if (op->flags & BT_OPF_END)
        return true; /* branches, POPF, UD */
    if (op->base == BT_RIP || op->seg == BT_FS || op->seg == BT_GS)
        return true;
    return m == ZYDIS_MNEMONIC_RDRAND || m == ZYDIS_MNEMONIC_RDSEED || m == ZYDIS_MNEMONIC_RDPID;
}

/* Point the operand's address registers (and the stack, and string pointers) into scratch memory. */
static bool aim(struct fuzz *z, const struct bt_op *op, uint64_t r[16])
{
    uint64_t start = (uintptr_t)z->f->scratch;
    uint64_t at = start + 256 + rnd(z) % (SCRATCH_BYTES - 512);

    if (rnd(z) % 4) /* mostly aligned */
        at &= ~15ULL;
    r[BT_RSP] = start + SCRATCH_BYTES / 2 + rnd(z) % 64 * 8;
    if (rnd(z) % 2)
        r[BT_RBP] = start + SCRATCH_BYTES / 2 + rnd(z) % 64 * 8;
    if (op->base == BT_ZERO && op->index == BT_ZERO)
        return !(op->flags & BT_OPF_MEM);
    if (op->base == BT_ZERO)
        return false;
    if (op->base == op->index)
        return false;
    r[op->base] = at - (uint64_t)op->disp;
    if (op->index != BT_ZERO)
        r[op->base] -= r[op->index] << op->scale;
    r[op->base] &= z->mode == BT_MODE_64 ? ~0ULL : 0xffffffff;
    return true;
}

static bool is_string(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_MOVSB ... ZYDIS_MNEMONIC_MOVSD:
    case ZYDIS_MNEMONIC_MOVSQ:
    case ZYDIS_MNEMONIC_MOVSW:
    case ZYDIS_MNEMONIC_STOSB ... ZYDIS_MNEMONIC_STOSW:
    case ZYDIS_MNEMONIC_LODSB ... ZYDIS_MNEMONIC_LODSW:
    case ZYDIS_MNEMONIC_SCASB ... ZYDIS_MNEMONIC_SCASW:
    case ZYDIS_MNEMONIC_CMPSB:
    case ZYDIS_MNEMONIC_CMPSD:
    case ZYDIS_MNEMONIC_CMPSQ:
    case ZYDIS_MNEMONIC_CMPSW:
        return true;
    default:
        return false;
    }
}

static void aim_string(struct fuzz *z, uint64_t r[16])
{
    uint64_t start = (uintptr_t)z->f->scratch + 2048;

    r[BT_RSI] = start + rnd(z) % (SCRATCH_BYTES - 4096);
    r[BT_RDI] = rnd(z) % 4 ? start + rnd(z) % (SCRATCH_BYTES - 4096) : r[BT_RSI] + rnd(z) % 32 - 16;
    r[BT_RCX] = rnd(z) % 200;
    if (rnd(z) % 8 == 0)
        r[BT_RCX] |= 1ULL << 32; /* for 32-bit address size; otherwise it faults at the end of memory */
}

static void fill_memory(struct fuzz *z)
{
    uint64_t v;

    for (unsigned i = 0; i < SCRATCH_BYTES; i += 8) {
        v = i % 64 ? 0x0101010101010101ULL * (i / 512) : rnd_value(z);
        memcpy(z->before + i, &v, 8);
    }
}

static void print_bytes(const uint8_t *b, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        print_error("%02x", b[i]);
    print_error("\n");
}

static int signal_of(int vector)
{
    return vector == BT_DE ? SIGFPE : vector == BT_UD ? SIGILL : SIGSEGV;
}

/* In what Intel's CPUs differ from what the engine does (tests/engine/vendor.h): OF of a rotate by an immediate count
 * other than 1, undefined, which they leave alone. */
static uint64_t flags_seen(const uint8_t *b, const struct bt_op *op)
{
    unsigned at = 0;

    while (at < op->len &&
           (b[at] == 0x66 || b[at] == 0x67 || b[at] == 0xf2 || b[at] == 0xf3 || b[at] == 0xf0 ||
            (b[at] & 0xe7) == 0x26 || (b[at] & 0xfe) == 0x64 || (op->bits == 64 && (b[at] & 0xf0) == 0x40)))
        at++;
    if (!__builtin_cpu_is("intel") || at >= op->len)
        return FLAGS_SEEN;
    if (op->bits != 64 && (b[at] == 0x27 || b[at] == 0x2f)) /* DAA, DAS */
        return FLAGS_SEEN & ~(uint64_t)BIT(11);
    if (op->bits != 64 && (b[at] == 0x37 || b[at] == 0x3f)) /* AAA, AAS */
        return FLAGS_SEEN & (BIT(0) | BIT(4));
    if (op->bits != 64 && (b[at] == 0xd4 || b[at] == 0xd5)) /* AAM, AAD */
        return FLAGS_SEEN & (BIT(2) | BIT(6) | BIT(7));
    if (at + 1 < op->len && (b[at] & 0xfe) == 0xc0 && (b[at + 1] >> 3 & 7) < 2)
        return FLAGS_SEEN & ~(uint64_t)BIT(11);
    return FLAGS_SEEN;
}

/* A push of a segment register in 32-bit code: Intel's CPUs write two bytes only, others four. */
static bool pushes_segment(const uint8_t *b, const struct bt_op *op)
{
    uint8_t last = b[op->len - 1], before = op->len > 1 ? b[op->len - 2] : 0;

    if (op->bits == 64 || !__builtin_cpu_is("intel"))
        return false;
    return before == 0x0f ? last == 0xa0 || last == 0xa8 : last < 0x20 && (last & 7) == 6;
}

static void compare(struct fuzz *z, const uint8_t *b, const struct bt_op *op, const struct bt_native_state *in)
{
    struct bt_vcpu *c = z->f->c;
    struct bt_native_state s = *in;
    bool bad = false;
    int next, sig;

    memcpy(z->f->scratch, z->before, SCRATCH_BYTES);
    memcpy(c->r, in->r, sizeof(in->r));
    c->rflags = in->rflags | 0x202;
    c->r[BT_RIP] = 0x1000;
    while ((next = bt_fake_run(z->f, op)) == BT_JUMP)
        ; /* an interrupted repeat */
    if (next < 0 && z->f->vector != BT_DE && z->f->vector != BT_UD && z->f->vector != BT_BR)
        return; /* would touch foreign memory on the host */
    memcpy(z->after, z->f->scratch, SCRATCH_BYTES);
    memcpy(z->f->scratch, z->before, SCRATCH_BYTES);
    (void)bt_native_load(z->native, b, op->len, op->bits);
    sig = bt_native_run(z->native, &s);
    z->compared++;
    if (next < 0) {
        z->faults++;
        bad |= sig != signal_of(z->f->vector);
    } else {
        bad |= sig != 0;
    }
    for (unsigned i = 0; i < 16; i++) {
        /* Upper halves mean nothing to 32-bit code. */
        if (((s.r[i] ^ c->r[i]) & (op->bits == 64 ? ~0ULL : 0xffffffff)) != 0) {
            print_error("r%u: in %016" PRIx64 " host %016" PRIx64 " engine %016" PRIx64 "\n", i, in->r[i], s.r[i],
                        c->r[i]);
            bad = true;
        }
    }
    if (sig == 0 && ((s.rflags ^ c->rflags) & flags_seen(b, op))) {
        print_error("flags: in %04" PRIx64 " host %04" PRIx64 " engine %04" PRIx64 "\n", in->rflags,
                    s.rflags & FLAGS_SEEN, c->rflags & FLAGS_SEEN);
        bad = true;
    }
    if (memcmp(z->after, z->f->scratch, SCRATCH_BYTES) && !pushes_segment(b, op)) {
        print_error("memory differs\n");
        bad = true;
    }
    if (bad) {
        print_error("signal %d, engine's vector %d, case %u, bytes ", sig, z->f->vector, z->compared);
        print_bytes(b, op->len);
        fail();
    }
}

static ZydisMnemonic mnemonic(enum bt_mode mode, const uint8_t *b)
{
    bool is64 = mode == BT_MODE_64;
    ZydisDecoder d;
    ZydisDecodedInstruction zi;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];

    assert_true(ZYAN_SUCCESS(ZydisDecoderInit(&d, is64 ? ZYDIS_MACHINE_MODE_LONG_64 : ZYDIS_MACHINE_MODE_LEGACY_32,
                                              is64 ? ZYDIS_STACK_WIDTH_64 : ZYDIS_STACK_WIDTH_32)));
    /* What only a CPU with CET or MPX rejects is a NOP on ours. */
    return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&d, b, 15, &zi, ops)) ? zi.mnemonic : ZYDIS_MNEMONIC_NOP;
}

static bool fuzz_one(struct fuzz *z)
{
    struct bt_native_state s = { 0 };
    struct bt_op op;
    ZydisMnemonic m;
    uint8_t b[15];

    rnd_bytes(z, b);
    z->f->foreign = 0;
    if (bt_decode(z->f->c, b, 15, z->mode, &op) != 0 || z->f->foreign || op.fn == bt_int_ud || op.fn == bt_int_gp)
        return false;
    m = mnemonic(z->mode, b);
    if (not_here(&op, m))
        return false;
    /* The first cases of every mnemonic count most; NOPs and the like need few. */
    if (z->ran[m] > 4000)
        return false;
    for (unsigned i = 0; i < 8; i++) {
        for (unsigned j = 0; j < 16; j++)
            s.r[j] = z->mode == BT_MODE_64 ? rnd_value(z) : (uint32_t)rnd_value(z);
        s.rflags = rnd(z) & FLAGS_SEEN;
        if (!aim(z, &op, s.r))
            return false;
        if (is_string(m))
            aim_string(z, s.r);
        fill_memory(z);
        compare(z, b, &op, &s);
    }
    z->ran[m]++;
    return true;
}

static uint64_t env_u64(const char *name, uint64_t otherwise)
{
    const char *s = getenv(name);

    return s ? strtoull(s, NULL, 0) : otherwise;
}

static void random_against_host(enum bt_mode mode, uint64_t cases, unsigned least_mnemonics)
{
    static const uint8_t nop[] = { 0x90 };
    struct fuzz *z = calloc(1, sizeof(*z));
    struct bt_native_state probe = { 0 };
    uint64_t done = 0, mnemonics = 0;

    assert_non_null(z);
    z->mode = mode;
    z->native = bt_native_new();
    if (z->native)
        (void)bt_native_load(z->native, nop, 1, mode == BT_MODE_64 ? 64 : 32);
    if (!z->native || bt_native_run(z->native, &probe) != 0) {
        free(z);
        skip(); /* the host runs no generated code of this kind */
    }
    z->f = bt_fake_new();
    z->seed = env_u64("BT_INT_SEED", 0x9e3779b97f4a7c15ULL);
    cases = env_u64("BT_INT_CASES", cases);
    print_message("seed 0x%" PRIx64 ", %" PRIu64 " encodings of 8 inputs each\n", z->seed, cases);
    for (uint64_t tries = 0; done < cases && tries < cases * 200; tries++) {
        bt_fake_reset(z->f, mode);
        if (tries % 8 == 0)
            bt_fake_no_tlb(z->f);
        if (mode == BT_MODE_32) { /* what the host has in its segment registers */
            z->f->c->seg[BT_CS].sel = 0x23;
            z->f->c->seg[BT_ES].sel = z->f->c->seg[BT_SS].sel = z->f->c->seg[BT_DS].sel = 0x2b;
        }
        done += fuzz_one(z);
    }
    for (unsigned i = 0; i <= ZYDIS_MNEMONIC_MAX_VALUE; i++) {
        mnemonics += z->ran[i] != 0;
        if (getenv("BT_INT_VERBOSE") && z->ran[i])
            print_message("%s %u\n", ZydisMnemonicGetString((ZydisMnemonic)i), z->ran[i]);
    }
    print_message("%u compared, %u of them faults, %" PRIu64 " mnemonics\n", z->compared, z->faults, mnemonics);
    assert_true(mnemonics >= least_mnemonics);
    bt_fake_free(z->f);
    bt_native_free(z->native);
    free(z);
}

static void test_random64(void **state)
{
    random_against_host(BT_MODE_64, 20000, 120);
}

static void test_random32(void **state)
{
    random_against_host(BT_MODE_32, 10000, 120);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random64),
        cmocka_unit_test(test_random32),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
