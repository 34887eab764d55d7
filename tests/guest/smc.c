/* Self-modifying code on one CPU: a store must be seen by the next taken branch at the latest, and on today's
 * processors by the next instruction (Intel SDM volume 3, section 8.1.3, 11.6: no serialisation is needed where the
 * linear address is the same; with another linear address a serialising instruction or a branch is). */
#include "long.h"

static uint8_t *code;
#define ALIAS 0x8000000000ULL

typedef uint64_t code_fn(uint64_t a, uint64_t b);

static uint64_t call(const uint8_t *at, uint64_t a, uint64_t b)
{
    return ((code_fn *)(uint64_t)at)(a, b);
}

static void begin(void)
{
    code = pages_alloc(4, 4096);
    for (unsigned i = 0; i < 4; i++)
        map_page(ALIAS + i * 4096, (uint64_t)code + i * 4096, PTE_P | PTE_W);
}

/* mov $imm32, %eax; ret */
static void put_const(uint8_t *at, uint32_t v)
{
    at[0] = 0xb8;
    memcpy(at + 1, &v, 4);
    at[5] = 0xc3;
}

static void test_overwrite(void)
{
    begin();
    for (uint32_t i = 0; i < 300; i++) {
        put_const(code + 64, i);
        CHECK_EQ("new code", call(code + 64, 0, 0), i);
    }
    /* Only one byte of the immediate. */
    for (unsigned i = 0; i < 200; i++) {
        *(volatile uint8_t *)(code + 64 + 2) = (uint8_t)i;
        CHECK_EQ("one byte", call(code + 64, 0, 0) >> 8 & 0xff, i);
    }
}

static void test_through_alias(void)
{
    uint8_t *alias = (uint8_t *)ALIAS;

    begin();
    for (uint32_t i = 0; i < 200; i++) {
        put_const(i & 1 ? alias + 128 : code + 128, i);
        cpuid(0, 0);
        CHECK_EQ("run here", call(code + 128, 0, 0), i);
        CHECK_EQ("run through the alias", call(alias + 128, 0, 0), i);
    }
}

static void test_cross_page_instruction(void)
{
    begin();
    for (unsigned split = 1; split <= 5; split++) {
        uint8_t *at = code + 4096 - split;

        for (uint32_t i = 0; i < 20; i++) {
            put_const(at, 0x01010101 * i);
            CHECK_EQ("instruction over two pages", call(at, 0, 0), 0x01010101 * i);
        }
        /* Only the part in the second page; the first stays as it was. */
        for (unsigned i = 0; i < 20 && split < 5; i++) {
            *(volatile uint8_t *)(at + 4) = (uint8_t)i;
            CHECK_EQ("second page's part", call(at, 0, 0) >> 24, i);
        }
    }
    /* The second page is exchanged under it by the page table. */
    {
        uint8_t *at = (uint8_t *)ALIAS + 4096 - 2, *other = page_alloc();

        put_const(code + 4096 - 2, 0x11111111);
        CHECK_EQ("first second page", call(at, 0, 0), 0x11111111);
        memcpy(other, code + 4096, 64);
        other[0] = other[1] = 0x22;
        map_page(ALIAS + 4096, (uint64_t)other, PTE_P | PTE_W);
        CHECK_EQ("other second page", call(at, 0, 0), 0x11222211);
    }
}

/* A store to an instruction further down in the same straight line: seen when it is reached (SDM 11.6). */
static void test_same_block(void)
{
    /* movb $imm8, 1(%rip) -> the immediate of the mov behind; mov $0, %eax; ret */
    static const uint8_t text[] = { 0x40, 0x88, 0x3d, 0x01, 0, 0, 0, 0xb8, 0, 0, 0, 0, 0xc3 };

    begin();
    memcpy(code, text, sizeof(text));
    for (unsigned i = 0; i < 100; i++)
        CHECK_EQ("store just ahead", call(code, i, 0), i);
    /* The same with the store far away in a loop of its own: add $1 becomes add $3 half way. */
    {
        static const uint8_t loop[] = {
            0x31, 0xc0,                               /* xor %eax, %eax */
            0x83, 0xc0, 0x01,                         /* add $1, %eax */
            0xff, 0xce,                               /* dec %esi */
            0x39, 0xfe,                               /* cmp %edi, %esi */
            0x75, 0x07,                               /* jne +7 */
            0xc6, 0x05, 0xf2, 0xff, 0xff, 0xff, 0x03, /* movb $3, the immediate of add */
            0x85, 0xf6,                               /* test %esi, %esi */
            0x75, 0xec,                               /* jnz add */
            0xc3,
        };

        for (unsigned i = 0; i < 10; i++) {
            memcpy(code + 256, loop, sizeof(loop));
            CHECK_EQ("loop that changes itself", call(code + 256, 40, 100), 60 + 40 * 3);
        }
    }
}

static void test_string_store(void)
{
    begin();
    for (uint32_t i = 0; i < 100; i++) {
        uint8_t image[4096];

        memset(image, 0x90, sizeof(image));
        put_const(image + 4000, i);
        memcpy(code, image, sizeof(image)); /* REP MOVSB over the page that ran before */
        CHECK_EQ("REP MOVS over code", call(code + (i & 7) * 100, 0, 0), i);
    }
}

/* Data stores next to code in its page must not disturb it, and code in two pages is told apart. */
static void test_data_beside_code(void)
{
    begin();
    put_const(code, 7);
    put_const(code + 4096, 8);
    for (unsigned i = 0; i < 2000; i++) {
        *(volatile uint64_t *)(code + 2048) = i;
        if (call(code, 0, 0) != 7 || call(code + 4096, 0, 0) != 8) {
            CHECK(false, "code beside data");
            break;
        }
    }
    put_const(code + 4096, 9);
    CHECK_EQ("other page changed", call(code + 4096, 0, 0), 9);
    CHECK_EQ("this page not", call(code, 0, 0), 7);
}

/* The same linear address with other frames in turn: caches keyed by linear address alone would run old code. */
static void test_remap(void)
{
    uint8_t *frames[3];

    begin();
    for (unsigned i = 0; i < 3; i++) {
        frames[i] = page_alloc();
        put_const(frames[i] + 32, 100 + i);
    }
    for (unsigned i = 0; i < 60; i++) {
        map_page(ALIAS, (uint64_t)frames[i % 3], PTE_P | PTE_W);
        CHECK_EQ("frame behind the address", call((uint8_t *)ALIAS + 32, 0, 0), 100 + i % 3);
    }
}

/* The same bytes as 64-bit and as 32-bit code: caches must know the mode. 0x40 is INC EAX in one and a prefix in the
 * other. */
SNIPPET(both, ".byte 0x40, 0x89, 0xc0; int $0x80"); /* 64: rex mov %eax, %eax; 32: inc %eax; mov %eax, %eax */

static void test_modes(void)
{
    const struct user_regs regs = { .rax = 41 };

    for (unsigned i = 0; i < 6; i++) {
        user_exec_at(both, both_end, &regs, i & 1 ? SEL_USER32 : SEL_USER64, SEL_USER_DATA, 2);
        CHECK_EQ("bytes by mode", exc.frame.rax, i & 1 ? 42 : 41);
    }
}

/* A page becomes not executable, or its code page-faults only once it runs off its end. */
static void test_permission_change(void)
{
    begin();
    put_const(code, 5);
    for (unsigned i = 0; i < 5; i++) {
        map_page(ALIAS, (uint64_t)code, PTE_P | PTE_W);
        TRY("call *%0", "r"(ALIAS));
        CHECK_EXC("executable", NO_EXC, 0);
        map_page(ALIAS, (uint64_t)code, PTE_P | PTE_W | PTE_NX);
        TRY("call *%0", "r"(ALIAS));
        CHECK_EXC("no longer executable", PF, 0x11);
        map_page(ALIAS, (uint64_t)code, 0);
        TRY("call *%0", "r"(ALIAS));
        CHECK_EXC("no longer present", PF, 0x10);
    }
}

/* Instructions longer than 15 bytes (#GP), and a prefix run that crosses into a missing page (#PF first). */
static void test_length_limit(void)
{
    begin();
    memset(code, 0x66, 32);
    code[14] = 0x90;
    code[15] = 0xc3;
    TRY("call *%0", "r"(code));
    CHECK_EXC("15 bytes", NO_EXC, 0);
    memset(code, 0x66, 32);
    code[15] = 0x90;
    code[16] = 0xc3;
    TRY("call *%0", "r"(code));
    CHECK_EXC("16 bytes", GP, 0);
    CHECK_EQ("RIP", exc.frame.rip, (uint64_t)code);
    map_page(ALIAS, (uint64_t)code, PTE_P | PTE_W);
    map_page(ALIAS + 4096, 0, 0);
    memset(code + 4096 - 8, 0x66, 8);
    TRY("call *%0", "r"(ALIAS + 4096 - 8));
    CHECK_EXC("prefixes up to a missing page", PF, 0x10);
    CHECK_EQ("CR2", exc.cr2, ALIAS + 4096);
}

const struct guest_test guest_tests[] = {
    { "overwrite", test_overwrite },
    { "alias", test_through_alias },
    { "instruction over two pages", test_cross_page_instruction },
    { "same block", test_same_block },
    { "string store", test_string_store },
    { "data beside code", test_data_beside_code },
    { "remapped page", test_remap },
    { "modes", test_modes },
    { "permissions", test_permission_change },
    { "length limit", test_length_limit },
    { 0 },
};
