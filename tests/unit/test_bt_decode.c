/* Translation of encodings into struct bt_op in all three modes, decoder modes and CPU model checks, and what
 * truncated, overlong and undefined bytes become. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "bt_fake.h"
#include "cpu/bt/int_priv.h"
#include "cpu/bt/sys.h"

/* Expected memory operand and sizes. seg NONE: no memory operand. */
#define NONE BT_NOSEG
struct row {
    const char *hex;
    uint8_t mode, len, osize, asize;
    uint8_t seg, base, index, scale;
    int64_t disp;
    uint8_t msize;
};

static const struct row rows[] = {
    /* 64-bit mode */
    { "8b00", BT_MODE_64, 2, 4, 8, BT_DS, BT_RAX, BT_ZERO, 0, 0, 4 },
    { "488b4508", BT_MODE_64, 4, 8, 8, BT_SS, BT_RBP, BT_ZERO, 0, 8, 8 },
    { "488b0424", BT_MODE_64, 4, 8, 8, BT_SS, BT_RSP, BT_ZERO, 0, 0, 8 },
    { "4f8b7cfdf0", BT_MODE_64, 5, 8, 8, BT_DS, BT_R13, BT_R15, 3, -16, 8 },
    { "42880c8d78563412", BT_MODE_64, 8, 1, 8, BT_DS, BT_ZERO, BT_R9, 2, 0x12345678, 1 },
    { "8b042500000080", BT_MODE_64, 7, 4, 8, BT_DS, BT_ZERO, BT_ZERO, 0, -0x80000000LL, 4 },
    { "488b0511000000", BT_MODE_64, 7, 8, 8, BT_DS, BT_RIP, BT_ZERO, 0, 0x11 + 7, 8 },
    { "c70511000000aabbccdd", BT_MODE_64, 10, 4, 8, BT_DS, BT_RIP, BT_ZERO, 0, 0x11 + 10, 4 },
    { "678b0511000000", BT_MODE_64, 7, 4, 4, BT_DS, BT_RIP, BT_ZERO, 0, 0x11 + 7, 4 },
    { "678b448b10", BT_MODE_64, 5, 4, 4, BT_DS, BT_RBX, BT_RCX, 2, 16, 4 },
    { "648b042528000000", BT_MODE_64, 8, 4, 8, BT_FS, BT_ZERO, BT_ZERO, 0, 0x28, 4 },
    { "65488b4500", BT_MODE_64, 5, 8, 8, BT_GS, BT_RBP, BT_ZERO, 0, 0, 8 },
    { "2e8b4500", BT_MODE_64, 4, 4, 8, BT_SS, BT_RBP, BT_ZERO, 0, 0, 4 }, /* override ignored */
    { "a11122334455667788", BT_MODE_64, 9, 4, 8, BT_DS, BT_ZERO, BT_ZERO, 0, (int64_t)0x8877665544332211ULL, 4 },
    { "480fb600", BT_MODE_64, 4, 8, 8, BT_DS, BT_RAX, BT_ZERO, 0, 0, 1 },
    { "66c700adde", BT_MODE_64, 5, 2, 8, BT_DS, BT_RAX, BT_ZERO, 0, 0, 2 },
    { "ff30", BT_MODE_64, 2, 8, 8, BT_DS, BT_RAX, BT_ZERO, 0, 0, 8 },
    { "66ff30", BT_MODE_64, 3, 2, 8, BT_DS, BT_RAX, BT_ZERO, 0, 0, 2 },
    { "8f0424", BT_MODE_64, 3, 8, 8, BT_SS, BT_RSP, BT_ZERO, 0, 8, 8 }, /* pop [rsp]: after the pop */
    { "480fc708", BT_MODE_64, 4, 8, 8, BT_DS, BT_RAX, BT_ZERO, 0, 0, 16 },
    { "65a4", BT_MODE_64, 2, 1, 8, BT_GS, BT_RSI, BT_ZERO, 0, 0, 1 },
    { "48ab", BT_MODE_64, 2, 8, 8, BT_ES, BT_RDI, BT_ZERO, 0, 0, 8 },
    { "50", BT_MODE_64, 1, 8, 8, NONE, BT_ZERO, BT_ZERO, 0, 0, 0 },
    { "e800000000", BT_MODE_64, 5, 8, 8, NONE, BT_ZERO, BT_ZERO, 0, 0, 0 },
    { "c3", BT_MODE_64, 1, 8, 8, NONE, BT_ZERO, BT_ZERO, 0, 0, 0 },
    /* 32-bit mode */
    { "8b00", BT_MODE_32, 2, 4, 4, BT_DS, BT_RAX, BT_ZERO, 0, 0, 4 },
    { "2e8b4500", BT_MODE_32, 4, 4, 4, BT_CS, BT_RBP, BT_ZERO, 0, 0, 4 },
    { "8b0511000000", BT_MODE_32, 6, 4, 4, BT_DS, BT_ZERO, BT_ZERO, 0, 0x11, 4 },
    { "678b4200", BT_MODE_32, 4, 4, 2, BT_SS, BT_RBP, BT_RSI, 0, 0, 4 },
    { "678b06aabb", BT_MODE_32, 5, 4, 2, BT_DS, BT_ZERO, BT_ZERO, 0, (int16_t)0xbbaa, 4 },
    { "ff30", BT_MODE_32, 2, 4, 4, BT_DS, BT_RAX, BT_ZERO, 0, 0, 4 },
    { "6640", BT_MODE_32, 2, 2, 4, NONE, BT_ZERO, BT_ZERO, 0, 0, 0 },
    { "62c0", BT_MODE_32, 0, 0, 0, 0, 0, 0, 0, 0, 0 }, /* EVEX prefix that is cut off: -EAGAIN */
    /* 16-bit mode */
    { "8b00", BT_MODE_16, 2, 2, 2, BT_DS, BT_RBX, BT_RSI, 0, 0, 2 },
    { "8b4600", BT_MODE_16, 3, 2, 2, BT_SS, BT_RBP, BT_ZERO, 0, 0, 2 },
    { "668b00", BT_MODE_16, 3, 4, 2, BT_DS, BT_RBX, BT_RSI, 0, 0, 4 },
    { "67668b0488", BT_MODE_16, 5, 4, 4, BT_DS, BT_RAX, BT_RCX, 2, 0, 4 },
    { "26a5", BT_MODE_16, 2, 2, 2, BT_ES, BT_RSI, BT_ZERO, 0, 0, 2 },
    { "66e811223344", BT_MODE_16, 6, 4, 2, NONE, BT_ZERO, BT_ZERO, 0, 0, 0 },
};

static unsigned unhex(const char *s, uint8_t *b)
{
    unsigned n = 0;

    for (; s[0]; s += 2, n++) {
        unsigned hi = (unsigned)(s[0] <= '9' ? s[0] - '0' : s[0] - 'a' + 10);
        unsigned lo = (unsigned)(s[1] <= '9' ? s[1] - '0' : s[1] - 'a' + 10);

        b[n] = (uint8_t)(hi << 4 | lo);
    }
    return n;
}

static int setup(void **state)
{
    *state = bt_fake_new();
    return 0;
}

static int teardown(void **state)
{
    bt_fake_free(*state);
    return 0;
}

static int decode(struct bt_fake *f, enum bt_mode mode, const char *hex, struct bt_op *op)
{
    uint8_t b[32];
    unsigned n = unhex(hex, b);

    memset(op, 0xee, sizeof(*op));
    return bt_decode(f->c, b, n, mode, op);
}

static void test_operands(void **state)
{
    static const uint8_t bits[] = { 16, 32, 64 };
    struct bt_op op;

    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        const struct row *r = &rows[i];
        int rc = decode(*state, r->mode, r->hex, &op);

        print_message("%s in mode %u\n", r->hex, r->mode);
        if (r->len == 0) {
            assert_int_equal(rc, -EAGAIN);
            continue;
        }
        assert_int_equal(rc, 0);
        assert_int_equal(op.len, r->len);
        assert_int_equal(op.osize, r->osize);
        assert_int_equal(op.asize, r->asize);
        assert_true(bt_amask(&op) == (r->asize == 8 ? ~0ULL : (1ULL << (8 * r->asize)) - 1));
        assert_int_equal(op.bits, bits[r->mode]);
        assert_int_equal(!(op.flags & BT_OPF_LONG), r->mode != BT_MODE_64);
        assert_int_equal(op.seg, r->seg);
        assert_int_equal(op.base, r->base);
        assert_int_equal(op.index, r->index);
        assert_int_equal(op.scale, r->scale);
        assert_true(op.disp == r->disp);
        assert_int_equal(op.msize, r->msize);
        assert_int_equal(!(op.flags & BT_OPF_MEM), r->seg == NONE);
    }
}

/* Every proper prefix of an instruction asks for more and fills nothing in. */
static void test_truncated(void **state)
{
    static const char *const whole[] = { "488b0511000000",       "c70511000000aabbccdd", "48b81122334455667788",
                                         "f0480fb10c25aabbccdd", "66f30fb8c0",           "c4e2f8f2c0" };
    struct bt_op op, empty;
    uint8_t b[15];

    memset(&empty, 0xee, sizeof(empty));
    for (unsigned i = 0; i < ARRAY_SIZE(whole); i++) {
        unsigned n = unhex(whole[i], b);

        for (unsigned k = 0; k < n; k++) {
            op = empty;
            assert_int_equal(bt_decode(((struct bt_fake *)*state)->c, b, k, BT_MODE_64, &op), -EAGAIN);
            assert_memory_equal(&op, &empty, sizeof(op));
        }
        assert_int_equal(decode(*state, BT_MODE_64, whole[i], &op), 0);
        assert_int_equal(op.len, n);
    }
}

static void expect_fault(struct bt_fake *f, enum bt_mode mode, const char *hex, int vector)
{
    struct bt_op op;

    print_message("%s in mode %u\n", hex, mode);
    assert_int_equal(decode(f, mode, hex, &op), 0);
    assert_true(op.flags & BT_OPF_END);
    assert_int_equal(bt_fake_run(f, &op), -1);
    assert_int_equal(f->vector, vector);
}

static void test_too_long(void **state)
{
    struct bt_op op;

    /* 14 prefixes and a NOP make 15 bytes; one more is too much. */
    assert_int_equal(decode(*state, BT_MODE_64, "666666666666666666666666666690", &op), 0);
    assert_int_equal(op.len, 15);
    expect_fault(*state, BT_MODE_64, "666666666666666666666666666666", BT_GP);
    expect_fault(*state, BT_MODE_32, "3e3e3e3e3e3e3e3e3ec70511000000", BT_GP);
}

static void test_undefined(void **state)
{
    static const char *const common[] = {
        "0f0b",
        "0fff00",
        "0fb900",
        "0f04",
        "0f0a",
        "ffff",
        "f0ffc0",
        "f08b00",
        "f0833801", /* LOCK CMP */
        "f00fa300", /* LOCK BT */
        "f090",
        "8dc0",
        "0fc7c8",   /* LEA and CMPXCHG8B with a register */
        "0f0fc09e", /* 3DNow! */
        "0f0dc0" /* PREFETCH of a register on AMD, NOP on Intel: see below */,
    };
    static const char *const only64[] = { "27",
                                          "2f",
                                          "37",
                                          "3f",
                                          "60",
                                          "61",
                                          "d400",
                                          "d500",
                                          "06",
                                          "1e",
                                          "d6",
                                          "ce",
                                          "9a112233445566",
                                          "ea112233445566",
                                          "62f17c4810c0" /* AVX-512 */,
                                          "c4e27b4900" /* AMX */ };
    struct bt_fake *f = *state;

    f->c->cpuid[0].ebx = 0x68747541;
    for (unsigned mode = BT_MODE_16; mode <= BT_MODE_64; mode++) {
        for (unsigned i = 0; i < ARRAY_SIZE(common); i++)
            expect_fault(f, mode, common[i], BT_UD);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(only64); i++)
        expect_fault(f, BT_MODE_64, only64[i], BT_UD);
    expect_fault(f, BT_MODE_32, "62f17c4810c0", BT_UD);
}

static void expect_fn(struct bt_fake *f, enum bt_mode mode, const char *hex, bt_fn fn)
{
    struct bt_op op;

    print_message("%s in mode %u\n", hex, mode);
    assert_int_equal(decode(f, mode, hex, &op), 0);
    assert_ptr_equal(op.fn, fn);
}

/* The NOP space stays NOPs on a CPU without MPX, CET and CLDEMOTE. */
static void test_nops(void **state)
{
    static const char *const nops[] = {
        "90",       "6690",     "0f1f00",   "0f1f440000", "0f18c0", "0f1808", "0f1900",
        "0f1a00",   "0f1b00",   "f30f1b00", "0f1cc0",     "0f1c00", "0f1d00", "0f1e00",
        "f30f1efa", "f30f1efb", "f30f1ec8", "0f0d08",     "0f0d00", "0f0d10", "0f1800"
    };
    struct bt_fake *f = *state;

    for (unsigned mode = BT_MODE_16; mode <= BT_MODE_64; mode++) {
        for (unsigned i = 0; i < ARRAY_SIZE(nops); i++)
            expect_fn(f, mode, nops[i], bt_int_nop);
    }
    f->c->cpuid[0].ebx = 0x756e6547;
    expect_fn(f, BT_MODE_64, "0f0dc0", bt_int_nop);
}

/* A CPU model without an extension: #UD, or the older instruction with the same bytes. */
static void test_features(void **state)
{
    static const char *const gone[] = {
        "0f38f000", "f20f38f1c0", "f30fb8c0", "c4e2f8f2c0", "c4e3fbf0c003", "66480f38f6c0", "0fc7f0", "0fc7f8",
        "f30fc7f8", "660fae38",   "660fae30", "0fae38",     "0f01fc",       "480fc708",     "9f",
    };
    struct bt_fake *f = *state;

    f->hide_features = true;
    for (unsigned i = 0; i < ARRAY_SIZE(gone); i++)
        expect_fault(f, BT_MODE_64, gone[i], BT_UD);
    expect_fn(f, BT_MODE_32, "9f", bt_int_flag[BT_FLAG_LAHF]); /* LAHF is optional in 64-bit mode only */
    expect_fn(f, BT_MODE_64, "f30fbcc0", bt_int_scan[BT_SCAN_BSF][0][1]);
    expect_fn(f, BT_MODE_64, "f30fbdc0", bt_int_scan[BT_SCAN_BSR][0][1]);
    f->hide_features = false;
    if (bt_has_cpuid(f->c, 7, 0, 1, 3))
        expect_fn(f, BT_MODE_64, "f30fbcc0", bt_int_scan[BT_SCAN_TZCNT][0][1]);
    if (bt_has_cpuid(f->c, 0x80000001, 0, 2, 5))
        expect_fn(f, BT_MODE_64, "f30fbdc0", bt_int_scan[BT_SCAN_LZCNT][0][1]);
}

/* VEX does not exist in real and virtual-8086 mode. */
static void test_vex_modes(void **state)
{
    struct bt_fake *f = *state;

    if (!bt_has_cpuid(f->c, 7, 0, 1, 3))
        skip();
    expect_fn(f, BT_MODE_16, "c4e278f2c0", bt_int_bmi[BT_BMI_ANDN][0][0]);
    f->c->cr0 = 0;
    expect_fault(f, BT_MODE_16, "c4e278f2c0", BT_UD);
    f->c->cr0 = 1;
    f->c->rflags |= BT_VM;
    expect_fault(f, BT_MODE_16, "c4e278f2c0", BT_UD);
}

/* 66h on near branches of 64-bit mode: ignored by Intel's CPUs, obeyed by AMD's. */
static void test_branch_size(void **state)
{
    struct bt_fake *f = *state;
    struct bt_op op;

    f->c->cpuid[0].ebx = 0x756e6547;
    assert_int_equal(decode(f, BT_MODE_64, "66e800000000", &op), 0);
    assert_int_equal(op.len, 6);
    assert_int_equal(op.osize, 8);
    f->c->cpuid[0].ebx = 0x68747541;
    assert_int_equal(decode(f, BT_MODE_64, "66e800000000", &op), 0);
    assert_int_equal(op.len, 4);
    assert_int_equal(op.osize, 2);
}

static void test_register_offsets(void **state)
{
    assert_int_equal(bt_reg_offset(ZYDIS_REGISTER_AL), 0);
    assert_int_equal(bt_reg_offset(ZYDIS_REGISTER_BL), 24);
    assert_int_equal(bt_reg_offset(ZYDIS_REGISTER_AH), 1);
    assert_int_equal(bt_reg_offset(ZYDIS_REGISTER_BH), 25);
    assert_int_equal(bt_reg_offset(ZYDIS_REGISTER_SPL), 32);
    assert_int_equal(bt_reg_offset(ZYDIS_REGISTER_DIL), 56);
    assert_int_equal(bt_reg_offset(ZYDIS_REGISTER_R8B), 64);
    assert_int_equal(bt_reg_offset(ZYDIS_REGISTER_R15B), 120);
    assert_int_equal(bt_reg_offset(ZYDIS_REGISTER_AX), 0);
    assert_int_equal(bt_reg_offset(ZYDIS_REGISTER_R15W), 120);
    assert_int_equal(bt_reg_offset(ZYDIS_REGISTER_ESP), 32);
    assert_int_equal(bt_reg_offset(ZYDIS_REGISTER_R9), 72);
    assert_int_equal(bt_reg_offset(ZYDIS_REGISTER_XMM0), 0xff);
    assert_int_equal(bt_reg_offset(ZYDIS_REGISTER_CS), 0xff);
    assert_int_equal(bt_reg_offset(ZYDIS_REGISTER_CR0), 0xff);
}

/* Any bytes decode to something, in any mode, without reading past n (ASan) and with a sane length. */
static void test_random_bytes(void **state)
{
    uint64_t x = 0x2545f4914f6cdd1dULL;
    struct bt_op op;

    for (unsigned i = 0; i < 100000; i++) {
        uint8_t b[15];
        unsigned n = 1 + i % 15;
        int rc;

        for (unsigned k = 0; k < 15; k++) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            b[k] = (uint8_t)(x >> 24);
        }
        memset(&op, 0, sizeof(op));
        rc = bt_decode(((struct bt_fake *)*state)->c, b + 15 - n, n, i % 3, &op);
        assert_true(rc == 0 || (rc == -EAGAIN && n < 15));
        if (rc == 0) {
            assert_non_null(op.fn);
            assert_in_range(op.len, 1, 15);
            assert_in_range(op.base, 0, BT_RIP);
            assert_in_range(op.index, 0, BT_ZERO);
            assert_in_range(op.seg, 0, BT_NOSEG);
            assert_in_range(op.scale, 0, 3);
            /* Register offsets must stay within r[] whatever the handler does with them. */
            assert_in_range(op.dst, 0, 127);
            assert_in_range(op.src, 0, 127);
        }
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_operands),     TEST(test_truncated),   TEST(test_too_long),
        TEST(test_undefined),    TEST(test_nops),        TEST(test_features),
        TEST(test_vex_modes),    TEST(test_branch_size), TEST(test_register_offsets),
        TEST(test_random_bytes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
