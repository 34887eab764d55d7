/* The translator's emitter: what it writes is decoded again by Zydis and must be the instruction that was asked for,
 * for every register in every place, every kind of memory operand and every operand size; and it never writes beyond
 * its buffer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include <Zydis/Zydis.h>
#include <string.h>

#include "cpu/bt/emit.h"

static const uint8_t sizes[] = { 1, 2, 4, 8 };

/* Decode the only instruction in the buffer. */
static void decode(const struct bt_emit *e, ZydisDecodedInstruction *in, ZydisDecodedOperand *ops)
{
    ZydisDecoder d;

    assert_false(e->full);
    assert_true(ZYAN_SUCCESS(ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64)));
    assert_true(ZYAN_SUCCESS(ZydisDecoderDecodeFull(&d, e->buf, e->pos, in, ops)));
    assert_int_equal(in->length, e->pos);
}

static void assert_reg(const ZydisDecodedOperand *o, unsigned size, int reg)
{
    assert_int_equal(o->type, ZYDIS_OPERAND_TYPE_REGISTER);
    assert_int_equal(o->size, size * 8);
    assert_int_equal(ZydisRegisterGetId(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, o->reg.value)),
                     reg);
    assert_false(o->reg.value >= ZYDIS_REGISTER_AH && o->reg.value <= ZYDIS_REGISTER_BH);
}

static int reg_id(ZydisRegister r)
{
    return r == ZYDIS_REGISTER_NONE ? -1 : ZydisRegisterGetId(r);
}

static void registers(void **state)
{
    for (unsigned i = 0; i < sizeof(sizes); i++) {
        for (int r = 0; r < 16; r++) {
            for (int x = 0; x < 16; x++) {
                uint8_t buf[32];
                struct bt_emit e = { .buf = buf, .end = sizeof(buf) };
                ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
                ZydisDecodedInstruction in;

                bt_emit_ins(&e, sizes[i], sizes[i] == 1 ? 0x02 : 0x03, r, bt_x_reg(x));
                decode(&e, &in, ops);
                assert_int_equal(in.mnemonic, ZYDIS_MNEMONIC_ADD);
                assert_reg(&ops[0], sizes[i], r);
                assert_reg(&ops[1], sizes[i], x);
            }
        }
    }
}

static void check_mem(struct bt_x x, unsigned size, int reg)
{
    uint8_t buf[32];
    struct bt_emit e = { .buf = buf, .end = sizeof(buf) };
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    ZydisDecodedInstruction in;

    bt_emit_ins(&e, size, size == 1 ? 0x88 : 0x89, reg, x);
    decode(&e, &in, ops);
    assert_int_equal(in.mnemonic, ZYDIS_MNEMONIC_MOV);
    assert_int_equal(ops[0].type, ZYDIS_OPERAND_TYPE_MEMORY);
    assert_int_equal(ops[0].size, size * 8);
    assert_int_equal(reg_id(ops[0].mem.base), x.base);
    assert_int_equal(reg_id(ops[0].mem.index), x.index);
    if (x.index >= 0)
        assert_int_equal(ops[0].mem.scale, 1 << x.scale);
    assert_int_equal(ops[0].mem.disp.value, x.disp);
    assert_reg(&ops[1], size, reg);
}

static void memory(void **state)
{
    static const int32_t disps[] = { 0, 1, 127, 128, -128, -129, INT32_MAX, INT32_MIN };

    for (int base = -1; base < 16; base++) {
        for (int index = -1; index < 16; index++) {
            for (unsigned d = 0; d < sizeof(disps) / sizeof(*disps); d++) {
                unsigned n = (unsigned)(base + 17 * (index + 1) + 1);

                if (index != 4)
                    check_mem(bt_x_sib(base, index, n % 4, disps[d]), sizes[(n / 4) % 4], (int)((n + d) % 16));
            }
        }
    }
}

static void prefixes(void **state)
{
    uint8_t buf[32];
    struct bt_emit e = { .buf = buf, .end = sizeof(buf) };
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    ZydisDecodedInstruction in;

    bt_emit_ins(&e, 8, 0x0fb1 | BT_OPC_LOCK, 9, bt_x_mem(11, 0));
    decode(&e, &in, ops);
    assert_int_equal(in.mnemonic, ZYDIS_MNEMONIC_CMPXCHG);
    assert_true((in.attributes & ZYDIS_ATTRIB_HAS_LOCK) != 0);
    e.pos = 0;
    bt_emit_ins(&e, 2, 0x0fb8 | BT_OPC_F3, 9, bt_x_reg(3));
    decode(&e, &in, ops);
    assert_int_equal(in.mnemonic, ZYDIS_MNEMONIC_POPCNT);
    assert_reg(&ops[0], 2, 9);
    e.pos = 0;
    bt_emit_ins(&e, 4, 0x0fb6 | BT_OPC_RM8, 2, bt_x_reg(6)); /* movzx edx, sil */
    decode(&e, &in, ops);
    assert_int_equal(in.mnemonic, ZYDIS_MNEMONIC_MOVZX);
    assert_reg(&ops[1], 1, 6);
    e.pos = 0;
    bt_emit_ins(&e, 8, 0xff | BT_OPC_NOREXW, 4, bt_x_reg(0));
    decode(&e, &in, ops);
    assert_int_equal(in.mnemonic, ZYDIS_MNEMONIC_JMP);
    assert_int_equal(e.pos, 2);
}

static void constants(void **state)
{
    static const uint64_t values[] = { 0,
                                       1,
                                       0x7fffffff,
                                       0x80000000,
                                       UINT32_MAX,
                                       1ULL << 32,
                                       0xffffffff80000000,
                                       0xffffffff7fffffff,
                                       UINT64_MAX,
                                       0x123456789abcdef0 };

    for (int reg = 0; reg < 16; reg++) {
        for (unsigned i = 0; i < sizeof(values) / sizeof(*values); i++) {
            uint8_t buf[32];
            struct bt_emit e = { .buf = buf, .end = sizeof(buf) };
            ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
            ZydisDecodedInstruction in;

            bt_emit_const(&e, reg, values[i]);
            decode(&e, &in, ops);
            assert_int_equal(in.mnemonic, ZYDIS_MNEMONIC_MOV);
            assert_reg(&ops[0], ops[0].size / 8, reg);
            assert_true(ops[0].size >= 32);
            /* A 32-bit move zero-extends, whatever sign Zydis shows. */
            assert_true((ops[0].size == 32 ? (uint32_t)ops[1].imm.value.u : ops[1].imm.value.u) == values[i]);
        }
    }
}

static void jumps(void **state)
{
    static const int conditions[] = { BT_JMP, BT_CALL, 0, 5, 15 };
    static const ZydisMnemonic names[] = { ZYDIS_MNEMONIC_JMP, ZYDIS_MNEMONIC_CALL, ZYDIS_MNEMONIC_JO,
                                           ZYDIS_MNEMONIC_JNZ, ZYDIS_MNEMONIC_JNLE };

    for (unsigned i = 0; i < sizeof(names) / sizeof(*names); i++) {
        uint8_t buf[32];
        struct bt_emit e = { .buf = buf, .end = sizeof(buf) };
        ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
        ZydisDecodedInstruction in;
        uint64_t to = 0;

        bt_emit_jump_to(&e, conditions[i], 0x1000);
        decode(&e, &in, ops);
        assert_int_equal(in.mnemonic, names[i]);
        assert_true(ZYAN_SUCCESS(ZydisCalcAbsoluteAddress(&in, &ops[0], 0, &to)));
        assert_int_equal(to, 0x1000);
    }
}

/* Jumps whose displacement is changed while others execute them: it lies within eight aligned bytes, wherever the jump
 * is put; what comes before it does nothing; and after the change it leads where it should. */
static void jumps_to_change(void **state)
{
    static const int conditions[] = { BT_JMP, BT_CALL, 5 };

    for (unsigned i = 0; i < sizeof(conditions) / sizeof(*conditions); i++) {
        for (uint32_t start = 0; start < 16; start++) {
            uint8_t buf[64] __attribute__((aligned(16))) = { 0 };
            struct bt_emit e = { .buf = buf, .pos = start, .end = sizeof(buf) };
            uint32_t at = bt_emit_jump_aligned(&e, conditions[i]), length = conditions[i] < 0 ? 5 : 6, rel;

            assert_true(at / 8 == (at + 3) / 8);
            assert_int_equal(e.pos, at + 4);
            assert_true(e.pos - length - start <= 3);
            if (e.pos - length > start) {
                struct bt_emit nop = { .buf = buf + start, .pos = e.pos - length - start };
                ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
                ZydisDecodedInstruction in;

                decode(&nop, &in, ops);
                assert_true(in.mnemonic == ZYDIS_MNEMONIC_NOP ||
                            (in.mnemonic == ZYDIS_MNEMONIC_XCHG && ops[0].reg.value == ops[1].reg.value));
            }
            assert_true(bt_emit_retarget(&e, at, 0x1000));
            memcpy(&rel, buf + at, sizeof(rel));
            assert_int_equal(at + 4 + rel, 0x1000);
        }
    }
    {
        uint8_t buf[16] __attribute__((aligned(16))) = { 0 };
        struct bt_emit e = { .buf = buf, .end = sizeof(buf) };

        assert_false(bt_emit_retarget(&e, 5, 0x1000));
        assert_int_equal(buf[5], 0);
    }
}

/* Room for every number of bytes below what is needed: nothing is written outside, and `full` says so. */
static void bounds(void **state)
{
    for (uint32_t end = 0; end < 40; end++) {
        uint8_t buf[64];
        struct bt_emit e = { .buf = buf, .end = end };

        memset(buf, 0x5a, sizeof(buf));
        bt_emit_const(&e, 9, 0x123456789abcdef0);
        bt_emit_ins(&e, 8, 0x81, 0, bt_x_sib(13, 12, 3, 0x12345678));
        bt_emit_u32(&e, 7);
        bt_emit_jump_to(&e, 5, 0);
        bt_emit_jump_to(&e, BT_JMP, 0);
        assert_true(e.pos <= end);
        assert_int_equal(e.full, end < 10 + 8 + 4 + 6 + 5);
        for (uint32_t i = end; i < sizeof(buf); i++)
            assert_int_equal(buf[i], 0x5a);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(registers), cmocka_unit_test(memory), cmocka_unit_test(prefixes),
        cmocka_unit_test(constants), cmocka_unit_test(jumps),  cmocka_unit_test(jumps_to_change),
        cmocka_unit_test(bounds),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
