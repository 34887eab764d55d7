/* See bt_fp_gen.h. */
#include "bt_fp_gen.h"

#include <string.h>

#include "base/bits.h"
#include "cpu/bt/state.h"

uint64_t gen_seed = 1;
uint32_t gen_mxcsr_mask;

uint64_t gen_rnd(void)
{
    uint64_t x = gen_seed;

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    gen_seed = x;
    return x * 0x2545f4914f6cdd1dULL;
}

bool gen_chance(unsigned n)
{
    return (gen_rnd() >> 33) % n == 0;
}

unsigned gen_pick(unsigned n)
{
    return (unsigned)((gen_rnd() >> 33) % n);
}

static uint64_t interesting64(void)
{
    static const uint64_t v[] = {
        0,
        0x8000000000000000,
        0x3ff0000000000000,
        0xbff0000000000000,
        0x7ff0000000000000,
        0xfff0000000000000,
        0x7ff8000000000000,
        0x7ff0000000000001,
        0x0000000000000001,
        0x000fffffffffffff,
        0x7fefffffffffffff,
        0x0010000000000000,
        0x3f8000003f800000,
        0x7f8000007f800001,
        0x7fc00000ff800000,
        0x0000000180000001,
        0x007fffff00800000,
        0x7f7fffffff7fffff,
        0x41dfffffffc00000,
        0x43e0000000000000,
        0x4f0000005f000000,
        0x3ca0000000000000,
        0x7ff4000000000000,
        0xffffffffffffffff,
        0x40ee000000000000,
        0x7c00fc007e007c01,
    };
    uint64_t a = v[gen_pick(ARRAY_SIZE(v))], b = v[gen_pick(ARRAY_SIZE(v))];

    switch (gen_pick(6)) {
    case 0:
        return gen_rnd();
    case 1:
        return (a & 0xffffffff00000000) | (b >> 32);
    case 2: /* moderate doubles */
        return (gen_rnd() & 0x800fffffffffffff) | (uint64_t)(0x3f0 + gen_pick(0x20)) << 52;
    case 3: /* moderate singles */
        return (gen_rnd() & 0x807fffff807fffff) | (uint64_t)(0x78 + gen_pick(16)) << 55 |
               (uint64_t)(0x78 + gen_pick(16)) << 23;
    case 4:
        return gen_pick(64);
    default:
        return a;
    }
}

void gen_fill(uint8_t *p, unsigned n)
{
    for (unsigned i = 0; i + 8 <= n; i += 8)
        store_le64(p + i, interesting64());
}

static void random_x87(uint8_t *x)
{
    uint16_t fcw = (uint16_t)(0x40 | (gen_rnd() & 0xf00)), fsw = (uint16_t)(gen_rnd() & 0x7f40);

    fcw |= gen_chance(3) ? (gen_rnd() & 0x3f) : 0x3f;
    if (gen_chance(2))
        fsw |= gen_rnd() & 0x3f;
    if (!gen_chance(8)) /* mostly no exception pending */
        fsw &= (uint16_t)(fcw | ~0x3f);
    store_le16(x, fcw);
    store_le16(x + 2, fsw & 0x7f7f);
    x[4] = gen_chance(2) ? (uint8_t)gen_rnd() : 0xff;
    x[5] = 0;
    store_le16(x + 6, gen_rnd() & 0x7ff);
    store_le64(x + 8, gen_rnd() & 0x7fffffffffff);
    store_le64(x + 16, gen_rnd() & 0x7fffffffffff);
    for (unsigned i = 0; i < 8; i++) {
        static const uint16_t exps[] = { 0,      0x7fff, 0x3fff, 0xbfff, 0x3ffe, 0x4000,
                                         0x403d, 0x403e, 1,      0x7ffe, 0x8000, 0x400e };
        uint8_t *st = x + 32 + 16 * i;

        store_le64(st, gen_chance(3) ? interesting64() : gen_rnd() | 1ULL << 63);
        store_le16(st + 8, gen_chance(2) ? exps[gen_pick(ARRAY_SIZE(exps))] : (uint16_t)(0x3ff0 + gen_pick(32)));
        memset(st + 10, 0, 6);
    }
}

void gen_state(struct host_state *s)
{
    uint32_t mxcsr = 0x1f80;

    memset(s, 0, sizeof(*s));
    for (unsigned i = 0; i < 16; i++)
        s->r[i] = interesting64();
    s->flags = 0x202 | (gen_rnd() & BT_ARITH);
    random_x87(s->x);
    if (!gen_chance(4))
        mxcsr = (uint32_t)(gen_rnd() & 0xffff) | (gen_chance(3) ? 0 : 0x1f80);
    if (gen_chance(16))
        mxcsr |= gen_mxcsr_mask & BIT(17); /* misaligned SSE, where this host has it */
    store_le32(s->x + 24, mxcsr);
    gen_fill(s->x + 160, 256);
    gen_fill(s->x + 576, 256);
    store_le64(s->x + 512, gen_chance(4) ? gen_pick(8) : 7);
}

static unsigned gen_modrm(uint8_t *p, bool vsib)
{
    uint8_t reg = (uint8_t)(gen_pick(8) << 3);

    if (!vsib && gen_chance(2)) {
        p[0] = 0xc0 | reg | (uint8_t)gen_pick(8);
        return 1;
    }
    if (vsib) {
        p[0] = 0x04 | reg;
        p[1] = (uint8_t)(gen_pick(4) << 6 | gen_pick(8) << 3 | 3);
        return 2;
    }
    switch (gen_pick(3)) {
    case 0:
        p[0] = reg | 3; /* [rbx] */
        return 1;
    case 1:
        p[0] = 0x40 | reg | 3; /* [rbx + disp8] */
        p[1] = (uint8_t)(gen_pick(4) * 16);
        return 2;
    default:
        p[0] = 0x04 | reg; /* [rbx + SIB without index] */
        p[1] = 0x23;
        return 2;
    }
}

unsigned gen_legacy(uint8_t *p)
{
    static const uint8_t prefixes[] = { 0, 0x66, 0xf2, 0xf3 };
    unsigned n = 0, map = gen_pick(4);
    uint8_t prefix = prefixes[gen_pick(4)];

    if (prefix)
        p[n++] = prefix;
    if (gen_chance(2))
        p[n++] = 0x40 | (uint8_t)(gen_rnd() & 0xc);
    p[n++] = 0x0f;
    if (map == 2)
        p[n++] = 0x38;
    else if (map == 3)
        p[n++] = 0x3a;
    p[n++] = (uint8_t)gen_rnd();
    if (map < 2 && (p[n - 1] == 0x38 || p[n - 1] == 0x3a))
        p[n - 1] = 0x58;
    n += gen_modrm(p + n, false);
    store_le64(p + n, gen_chance(3) ? gen_rnd() & 0x0f0f0f0f : gen_rnd());
    return n + 4;
}

unsigned gen_vex(uint8_t *p)
{
    unsigned n = 0, map = 1 + gen_pick(3);
    uint8_t pp = (uint8_t)gen_pick(4), w = (uint8_t)(gen_pick(2) << 7), l = (uint8_t)(gen_pick(2) << 2),
            r = (uint8_t)(gen_pick(2) << 7);
    uint8_t v = gen_chance(2) ? 0x78 : (uint8_t)(gen_pick(16) << 3), op = (uint8_t)gen_rnd();
    bool vsib = map == 2 && op >= 0x90 && op <= 0x93;

    if (map == 1 && gen_chance(2)) {
        p[n++] = 0xc5;
        p[n++] = r | v | l | pp;
    } else {
        p[n++] = 0xc4;
        p[n++] = r | 0x60 | (uint8_t)map;
        p[n++] = w | v | l | pp;
    }
    p[n++] = op;
    n += gen_modrm(p + n, vsib);
    store_le32(p + n, (uint32_t)gen_rnd());
    return n + 4;
}

unsigned gen_x87(uint8_t *p)
{
    unsigned n = 0;

    if (gen_chance(16)) {
        p[0] = 0x9b;
        return 1;
    }
    if (gen_chance(16))
        p[n++] = 0x66;
    p[n++] = 0xd8 | (uint8_t)gen_pick(8);
    return n + gen_modrm(p + n, false);
}

/* FXSAVE, FXRSTOR, XSAVE, XSAVEOPT, XSAVEC, XRSTOR. */
unsigned gen_area(uint8_t *p)
{
    static const uint8_t ops[6][2] = { { 0xae, 0 }, { 0xae, 1 }, { 0xae, 4 }, { 0xae, 5 }, { 0xae, 6 }, { 0xc7, 4 } };
    unsigned n = 0, k = gen_pick(6);

    if (gen_chance(2))
        p[n++] = 0x48;
    p[n++] = 0x0f;
    p[n++] = ops[k][0];
    p[n++] = (uint8_t)(ops[k][1] << 3 | 3);
    return n;
}
