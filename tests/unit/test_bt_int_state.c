/* Integer instruction handlers: what cannot be compared with the host in user mode. Branches and their checks, faults
 * that must leave an instruction undone, interrupted repeats, stack sizes, POPF's rules, split locks, write tracking.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "bt_fake.h"
#include "bt_native.h"
#include "cpu/bt/int_priv.h"
#include "cpu/bt/sys.h"

#define BAD_ADDRESS 0x123450000ULL

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

/* Decode n bytes in the vCPU's mode and run them once. */
static int run(struct bt_fake *f, const void *bytes, unsigned n)
{
    uint8_t b[15] = { 0 };
    struct bt_op op;

    memcpy(b, bytes, n);
    assert_int_equal(bt_decode(f->c, b, 15, f->c->mode, &op), 0);
    assert_int_equal(op.len, n);
    return bt_fake_run(f, &op);
}
#define RUN(f, ...) run(f, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))

static uint64_t addr(const struct bt_fake *f, unsigned off)
{
    return (uintptr_t)f->scratch + off;
}

/* ---- branches ---- */
/* All conditions with all flag values, against the host; LOOPcc and JRCXZ too. */
static void test_conditions(void **state)
{
    struct bt_fake *f = *state;
    struct bt_native *n = bt_native_new();

    if (!n)
        skip();
    for (unsigned op = 0; op < 20; op++) {
        uint8_t b[2] = { (uint8_t)(op < 16 ? 0x70 + op : 0xe0 + op - 16), 0 };

        b[1] = (uint8_t)bt_native_load(n, b, 2, 64);
        (void)bt_native_load(n, b, 2, 64);
        for (unsigned i = 0; i < 64 * 3; i++) {
            struct bt_native_state s = { 0 };
            int next;

            s.rflags = (i & 1 ? BT_CF : 0) | (i & 2 ? BT_PF : 0) | (i & 4 ? BT_AF : 0) | (i & 8 ? BT_ZF : 0) |
                       (i & 16 ? BT_SF : 0) | (i & 32 ? BT_OF : 0);
            s.r[BT_RCX] = i / 64;
            f->c->rflags = s.rflags | 0x202;
            f->c->r[BT_RCX] = s.r[BT_RCX];
            f->c->r[BT_RIP] = 0x1000;
            next = run(f, b, 2);
            assert_int_equal(bt_native_run(n, &s), 0);
            assert_int_equal(next, s.reached ? BT_JUMP : BT_END);
            assert_int_equal(f->c->r[BT_RIP], s.reached ? 0x1002U + b[1] : 0x1000);
            assert_int_equal(f->c->r[BT_RCX], s.r[BT_RCX]);
        }
    }
    bt_native_free(n);
}

static void test_call_ret(void **state)
{
    struct bt_fake *f = *state;
    uint64_t top = addr(f, 512), v;

    f->c->r[BT_RIP] = 0x401000;
    f->c->r[BT_RSP] = top;
    assert_int_equal(RUN(f, 0xe8, 0x10, 0, 0, 0), BT_JUMP);
    assert_int_equal(f->c->r[BT_RIP], 0x401015);
    assert_int_equal(f->c->r[BT_RSP], top - 8);
    memcpy(&v, f->scratch + 504, 8);
    assert_int_equal(v, 0x401005);
    assert_int_equal(RUN(f, 0xc2, 0x20, 0), BT_JUMP); /* ret 32 */
    assert_int_equal(f->c->r[BT_RIP], 0x401005);
    assert_int_equal(f->c->r[BT_RSP], top + 32);

    /* Through memory that is addressed by the stack pointer: the old one counts. */
    f->c->r[BT_RSP] = top;
    v = 0x7000;
    memcpy(f->scratch + 512, &v, 8);
    assert_int_equal(RUN(f, 0xff, 0x14, 0x24), BT_JUMP); /* call [rsp] */
    assert_int_equal(f->c->r[BT_RIP], 0x7000);

    /* A non-canonical target faults before the push. */
    f->c->r[BT_RSP] = top;
    f->c->r[BT_RAX] = 0x8000000000000000ULL;
    memset(f->scratch + 504, 0x55, 8);
    assert_int_equal(RUN(f, 0xff, 0xd0), -1);
    assert_int_equal(f->vector, BT_GP);
    assert_int_equal(f->c->r[BT_RSP], top);
    assert_int_equal(f->scratch[504], 0x55);
    assert_int_equal(f->c->r[BT_RIP], 0x7000);
    memcpy(f->scratch + 512, &f->c->r[BT_RAX], 8);
    assert_int_equal(RUN(f, 0xc3), -1);
    assert_int_equal(f->c->r[BT_RSP], top);
}

/* 16-bit operand size truncates IP; the CS limit holds in 16/32-bit modes. */
static void test_branch_limits(void **state)
{
    struct bt_fake *f = *state;

    bt_fake_reset(f, BT_MODE_32);
    f->c->r[BT_RIP] = 0x12345;
    assert_int_equal(RUN(f, 0x66, 0xe9, 0x10, 0), BT_JUMP);
    assert_int_equal(f->c->r[BT_RIP], 0x2359);
    f->c->r[BT_RIP] = 0xfffffff0;
    assert_int_equal(RUN(f, 0xeb, 0x20), BT_JUMP);
    assert_int_equal(f->c->r[BT_RIP], 0x12); /* wraps at 4 GiB */
    f->c->seg[BT_CS].limit = 0xfff;
    assert_int_equal(RUN(f, 0xe9, 0, 0x10, 0, 0), -1);
    assert_int_equal(f->vector, BT_GP);
    assert_int_equal(f->c->r[BT_RIP], 0x12);
    /* LOOP to beyond the limit leaves the counter alone. */
    f->c->r[BT_RIP] = 0xff0;
    f->c->r[BT_RCX] = 5;
    assert_int_equal(RUN(f, 0xe2, 0x7f), -1);
    assert_int_equal(f->c->r[BT_RCX], 5);
    /* Untaken: nothing is checked. */
    f->c->rflags |= BT_ZF;
    assert_int_equal(RUN(f, 0x75, 0x7f), BT_END);
    bt_fake_reset(f, BT_MODE_16);
    f->c->r[BT_RIP] = 0xfff0;
    assert_int_equal(RUN(f, 0xeb, 0x20), BT_JUMP);
    assert_int_equal(f->c->r[BT_RIP], 0x12);
}

/* ---- faults leave the instruction undone ---- */
static void test_faults_change_nothing(void **state)
{
    /* All with a memory operand [rax] that faults, or a faulting stack. */
    static const struct {
        uint8_t len, b[6];
    } insns[] = {
        { 3, { 0x48, 0x01, 0x18 } },             /* add [rax], rbx */
        { 3, { 0x48, 0x03, 0x18 } },             /* add rbx, [rax] */
        { 4, { 0xf0, 0x48, 0x11, 0x18 } },       /* lock adc [rax], rbx */
        { 3, { 0x48, 0xff, 0x00 } },             /* inc qword [rax] */
        { 3, { 0x48, 0xd1, 0x20 } },             /* shl qword [rax], 1 */
        { 3, { 0x48, 0x87, 0x18 } },             /* xchg [rax], rbx */
        { 4, { 0x48, 0x0f, 0xc1, 0x18 } },       /* xadd [rax], rbx */
        { 5, { 0xf0, 0x48, 0x0f, 0xc1, 0x18 } }, /* lock xadd [rax], rbx */
        { 4, { 0x48, 0x0f, 0xb1, 0x18 } },       /* cmpxchg [rax], rbx */
        { 5, { 0xf0, 0x48, 0x0f, 0xb1, 0x18 } }, /* lock cmpxchg [rax], rbx */
        { 3, { 0x0f, 0xc7, 0x08 } },             /* cmpxchg8b [rax] */
        { 4, { 0x48, 0x0f, 0xc7, 0x08 } },       /* cmpxchg16b [rax] */
        { 4, { 0x48, 0x0f, 0xab, 0x18 } },       /* bts [rax], rbx */
        { 4, { 0x48, 0x0f, 0xa3, 0x18 } },       /* bt [rax], rbx */
        { 3, { 0x48, 0xf7, 0x20 } },             /* mul qword [rax] */
        { 3, { 0x48, 0xf7, 0x30 } },             /* div qword [rax] */
        { 4, { 0x48, 0x0f, 0xaf, 0x18 } },       /* imul rbx, [rax] */
        { 3, { 0x0f, 0xb6, 0x18 } },             /* movzx ebx, byte [rax] */
        { 2, { 0x8f, 0x00 } },                   /* pop [rax]: the load succeeds, the store faults */
        { 2, { 0xff, 0x30 } },                   /* push [rax] */
        { 2, { 0xff, 0x10 } },                   /* call [rax] */
    };
    struct bt_fake *f = *state;
    uint64_t before[BT_NREGS], flags;
    uint8_t memory[BT_FAKE_PAGES * MEM_PAGE_SIZE];

    for (unsigned i = 0; i < sizeof(memory); i++)
        f->scratch[i] = (uint8_t)(i * 7);
    memcpy(memory, f->scratch, sizeof(memory));
    for (unsigned i = 0; i < ARRAY_SIZE(insns); i++) {

        for (unsigned r = 0; r < 16; r++)
            f->c->r[r] = 0x1111111111111111ULL * r;
        f->c->r[BT_RAX] = BAD_ADDRESS;
        f->c->r[BT_RSP] = addr(f, 1024);
        f->c->r[BT_RIP] = 0x5000;
        f->c->rflags = 0x202 | BT_CF | BT_OF;
        flags = f->c->rflags;
        memcpy(before, f->c->r, sizeof(before));
        assert_int_equal(run(f, insns[i].b, insns[i].len), -1);
        assert_int_equal(f->vector, BT_PFV);
        assert_memory_equal(before, f->c->r, sizeof(before));
        assert_int_equal(f->c->rflags, flags);
        assert_memory_equal(memory, f->scratch, sizeof(memory));
        assert_int_equal(f->vm.split_lock, 0);
    }
    /* A read-modify-write faults as a write, CMP as a read. */
    f->c->r[BT_RAX] = BAD_ADDRESS;
    assert_int_equal(RUN(f, 0x48, 0x01, 0x18), -1);
    assert_int_equal(f->error, 2);
    assert_int_equal(RUN(f, 0x48, 0x39, 0x18), -1);
    assert_int_equal(f->error, 0);
    /* Pushes to a bad stack. */
    f->c->r[BT_RSP] = BAD_ADDRESS;
    assert_int_equal(RUN(f, 0x50), -1);
    assert_int_equal(RUN(f, 0xe8, 0, 0, 0, 0), -1);
    assert_int_equal(RUN(f, 0xc8, 0x10, 0, 3), -1);
    assert_int_equal(RUN(f, 0x9c), -1);
    assert_int_equal(f->c->r[BT_RSP], BAD_ADDRESS);
}

static void test_cmpxchg16b_alignment(void **state)
{
    struct bt_fake *f = *state;

    f->c->r[BT_RSI] = addr(f, 8);
    assert_int_equal(RUN(f, 0x48, 0x0f, 0xc7, 0x0e), -1);
    assert_int_equal(f->vector, BT_GP);
    f->c->r[BT_RSI] = addr(f, 16);
    memset(f->scratch, 0, 64);
    f->c->r[BT_RBX] = 1;
    f->c->r[BT_RCX] = 2;
    assert_int_equal(RUN(f, 0xf0, 0x48, 0x0f, 0xc7, 0x0e), BT_NEXT);
    assert_true(f->c->rflags & BT_ZF);
    assert_int_equal(f->scratch[16], 1);
    assert_int_equal(f->scratch[24], 2);
    /* Device memory takes the split lock. */
    bt_fake_no_tlb(f);
    assert_int_equal(RUN(f, 0xf0, 0x48, 0x0f, 0xc7, 0x0e), BT_NEXT);
    assert_false(f->c->rflags & BT_ZF);
    assert_int_equal(f->c->r[BT_RAX], 1);
    assert_int_equal(f->c->r[BT_RDX], 2);
    assert_int_equal(f->vm.split_lock, 0);
}

static void test_division_errors(void **state)
{
    struct bt_fake *f = *state;
    uint64_t *r = f->c->r;

    r[BT_RDX] = 1;
    r[BT_RBX] = 1;
    assert_int_equal(RUN(f, 0x48, 0xf7, 0xf3), -1); /* div rbx: quotient 2^64 */
    assert_int_equal(f->vector, BT_DE);
    assert_int_equal(r[BT_RDX], 1);
    r[BT_RAX] = 0x8000000000000000ULL;
    r[BT_RDX] = ~0ULL;
    r[BT_RBX] = ~0ULL;
    assert_int_equal(RUN(f, 0x48, 0xf7, 0xfb), -1); /* idiv: INT64_MIN / -1 */
    assert_int_equal(f->vector, BT_DE);
    r[BT_RAX] = 0;
    r[BT_RDX] = 0xc000000000000000ULL; /* -2^126 / 2^63... */
    r[BT_RBX] = 0x7fffffffffffffffULL;
    assert_int_equal(RUN(f, 0x48, 0xf7, 0xfb), -1);
    r[BT_RDX] = ~0ULL; /* -2^64 / 2: exactly -2^63 */
    r[BT_RBX] = 2;
    assert_int_equal(RUN(f, 0x48, 0xf7, 0xfb), BT_NEXT);
    assert_true(r[BT_RAX] == 0x8000000000000000ULL && r[BT_RDX] == 0);
    r[BT_RBX] = 0;
    assert_int_equal(RUN(f, 0xf6, 0xf3), -1); /* div bl */
    assert_int_equal(f->vector, BT_DE);
}

/* ---- repeats ---- */
static void test_rep_fault_midway(void **state)
{
    struct bt_fake *f = *state;
    unsigned end = BT_FAKE_PAGES * (unsigned)MEM_PAGE_SIZE;

    for (unsigned tlb = 0; tlb < 2; tlb++) {
        if (tlb)
            bt_fake_no_tlb(f);
        memset(f->scratch, 0x11, end);
        f->c->r[BT_RSI] = addr(f, 0);
        f->c->r[BT_RDI] = addr(f, end - 40);
        f->c->r[BT_RCX] = 100;
        assert_int_equal(RUN(f, 0xf3, 0x48, 0xa5), -1); /* rep movsq into the end of memory */
        assert_int_equal(f->vector, BT_PFV);
        assert_int_equal(f->error, 2);
        assert_int_equal(f->c->r[BT_RCX], 95);
        assert_int_equal(f->c->r[BT_RSI], addr(f, 40));
        assert_int_equal(f->c->r[BT_RDI], addr(f, end));
        /* Backwards, out of the bottom. */
        f->c->rflags |= BT_DF;
        f->c->r[BT_RDI] = addr(f, 16);
        f->c->r[BT_RCX] = 100;
        assert_int_equal(RUN(f, 0xf3, 0xab), -1); /* rep stosd */
        assert_int_equal(f->c->r[BT_RCX], 95);
        assert_int_equal(f->c->r[BT_RDI], addr(f, 0) - 4);
        f->c->rflags &= ~(uint64_t)BT_DF;
        /* SCAS on Intel's models: flags stay as they were before the instruction. */
        f->c->cpuid[0].ebx = 0x756e6547;
        f->c->rflags |= BT_OF | BT_SF;
        f->c->r[BT_RAX] = 0x99;
        f->c->r[BT_RDI] = addr(f, end - 8);
        f->c->r[BT_RCX] = 100;
        memset(f->scratch + end - 8, 0x11, 8);
        assert_int_equal(RUN(f, 0xf2, 0xae), -1);
        assert_int_equal(f->c->r[BT_RCX], 92);
        assert_int_equal(f->c->rflags & BT_ARITH, BT_OF | BT_SF);
        f->c->rflags = 0x202;
    }
}

static void test_rep_interrupted(void **state)
{
    struct bt_fake *f = *state;

    /* Single step: one element at a time. */
    f->c->events = BT_EV_STEP;
    f->c->r[BT_RSI] = addr(f, 0);
    f->c->r[BT_RDI] = addr(f, 2048);
    f->c->r[BT_RCX] = 3;
    f->c->r[BT_RIP] = 0x1000;
    assert_int_equal(RUN(f, 0xf3, 0xa4), BT_JUMP);
    assert_int_equal(f->c->r[BT_RCX], 2);
    assert_int_equal(f->c->r[BT_RIP], 0x1000);
    assert_int_equal(RUN(f, 0xf3, 0xa4), BT_JUMP);
    assert_int_equal(RUN(f, 0xf3, 0xa4), BT_NEXT);
    assert_int_equal(f->c->r[BT_RCX], 0);
    /* An interrupt: stops after the present page, and only while IF is set. */
    for (unsigned enabled = 0; enabled < 2; enabled++) {
        f->c->rflags = enabled ? 0x202 : 2;
        f->c->events = BT_EV_IRQ;
        f->c->r[BT_RSI] = addr(f, 0);
        f->c->r[BT_RDI] = addr(f, 8192);
        f->c->r[BT_RCX] = 8192;
        assert_int_equal(RUN(f, 0xf3, 0xa4), enabled ? BT_JUMP : BT_NEXT);
        assert_int_equal(f->c->r[BT_RCX], enabled ? 4096 : 0);
    }
    /* Long compares come back to the run loop without any event. */
    f->c->rflags = 0x202;
    f->c->events = 0;
    memset(f->scratch, 0, 16384);
    f->c->r[BT_RDI] = addr(f, 0);
    f->c->r[BT_RCX] = 10000;
    assert_int_equal(RUN(f, 0xf3, 0xae), BT_JUMP); /* repe scasb */
    assert_in_range(f->c->r[BT_RCX], 1, 9999);
    /* No element at all. */
    f->c->r[BT_RCX] = 0;
    f->c->r[BT_RDI] = BAD_ADDRESS;
    assert_int_equal(RUN(f, 0xf3, 0xab), BT_NEXT);
    /* 32-bit address size looks at ECX only. */
    f->c->r[BT_RCX] = 1ULL << 32;
    assert_int_equal(RUN(f, 0x67, 0xf3, 0xab), BT_NEXT);
    assert_int_equal(f->c->r[BT_RCX], 1ULL << 32);
}

/* Source and destination that share a TLB slot, and memory without TLB entries: same result, whole runs. */
static void test_rep_slots(void **state)
{
    struct bt_fake *f = *state;

    for (unsigned i = 0; i < 8192; i++)
        f->scratch[i] = (uint8_t)(i * 31 >> 3);
    /* Only the source page has an entry. */
    bt_fake_no_tlb(f);
    *bt_tlbe(f->c, 0, addr(f, 0)) =
        (struct bt_tlbe){ .tag_r = addr(f, 0), .host = addr(f, 0), .tag_w = ~0ULL, .region = &f->region };
    f->c->r[BT_RSI] = addr(f, 0);
    f->c->r[BT_RDI] = addr(f, 8192);
    f->c->r[BT_RCX] = 5000;
    while (RUN(f, 0xf3, 0xa4) == BT_JUMP)
        ;
    assert_memory_equal(f->scratch, f->scratch + 8192, 5000);
    /* Overlap with ascending order repeats the first bytes. */
    bt_fake_reset(f, BT_MODE_64);
    f->c->r[BT_RSI] = addr(f, 0);
    f->c->r[BT_RDI] = addr(f, 3);
    f->c->r[BT_RCX] = 300;
    assert_int_equal(RUN(f, 0xf3, 0xa4), BT_NEXT);
    for (unsigned i = 3; i < 303; i++)
        assert_int_equal(f->scratch[i], f->scratch[i % 3]);
}

/* A repeat obeys the segment limit: the element that crosses it faults. */
static void test_rep_limit(void **state)
{
    struct bt_fake *f = *state;

    bt_fake_reset(f, BT_MODE_16);
    f->c->flat = 0;
    f->c->segbase[BT_ES] = addr(f, 0);
    f->c->seg[BT_ES].limit = 99;
    f->c->r[BT_RDI] = 90;
    f->c->r[BT_RCX] = 0xabc00000 | 20;
    assert_int_equal(RUN(f, 0xf3, 0xaa), -1);
    assert_int_equal(f->vector, BT_GP);
    assert_int_equal(f->c->r[BT_RDI], 100);
    assert_int_equal(f->c->r[BT_RCX], 0xabc00000 | 10);
    /* DI wraps at 64 KiB within a segment that reaches there. */
    f->c->segbase[BT_ES] = addr(f, 0) - 0xf000;
    f->c->seg[BT_ES].limit = 0xffff;
    f->c->r[BT_RDI] = 0x5678fffe;
    f->c->r[BT_RCX] = 2;
    f->c->r[BT_RAX] = 0xee;
    assert_int_equal(RUN(f, 0xf3, 0xaa), BT_NEXT);
    assert_int_equal(f->c->r[BT_RDI], 0x56780000);
    assert_int_equal(f->scratch[0xfff], 0xee);
}

/* ---- stack ---- */
static void test_stack16(void **state)
{
    struct bt_fake *f = *state;
    uint64_t *r = f->c->r;
    uint16_t v[8];

    bt_fake_reset(f, BT_MODE_16);
    f->c->flat = 0;
    f->c->segbase[BT_SS] = addr(f, 0);
    r[BT_RSP] = 0xaaaa0100;
    for (unsigned i = 0; i < 8; i++) {
        if (i != BT_RSP)
            r[i] = 0x1000 + i;
    }
    assert_int_equal(RUN(f, 0x60), BT_NEXT); /* pusha */
    assert_int_equal(r[BT_RSP], 0xaaaa00f0);
    memcpy(v, f->scratch + 0xf0, 16);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(v[7 - i], i == BT_RSP ? 0x100 : 0x1000 + i);
    for (unsigned i = 0; i < 8; i++) {
        if (i != BT_RSP)
            r[i] = 0;
    }
    assert_int_equal(RUN(f, 0x61), BT_NEXT); /* popa */
    assert_int_equal(r[BT_RSP], 0xaaaa0100);
    for (unsigned i = 0; i < 8; i++) {
        if (i != BT_RSP)
            assert_int_equal(r[i], 0x1000 + i);
    }
    /* SP wraps at 64 KiB: the push goes to the top of the segment. */
    f->c->segbase[BT_SS] = addr(f, 0x1000) - 0x10000;
    r[BT_RSP] = 0;
    assert_int_equal(RUN(f, 0x50), BT_NEXT);
    assert_int_equal(r[BT_RSP], 0xfffe);
    assert_int_equal(f->scratch[0xffe], 0x00);
    assert_int_equal(f->scratch[0xfff], 0x10);
}

static void popf_with(struct bt_fake *f, unsigned cpl, uint64_t old, uint64_t image, bool small)
{
    f->c->cpl = (uint8_t)cpl;
    f->c->rflags = old | 2;
    f->c->r[BT_RSP] = addr(f, 512);
    memcpy(f->scratch + 512, &image, 8);
    assert_int_equal(small ? RUN(f, 0x66, 0x9d) : RUN(f, 0x9d), BT_END);
    assert_int_equal(f->c->r[BT_RSP], addr(f, 512) + (small ? 2 : f->c->mode == BT_MODE_64 ? 8 : 4));
}

static void test_popf(void **state)
{
    struct bt_fake *f = *state;
    const uint64_t all = 0xffffffff, plain = BT_ARITH | BT_TF | BT_DF | BT_NT;

    popf_with(f, 0, 0, all, false);
    assert_int_equal(f->c->rflags, plain | BT_AC | BT_ID | BT_IOPL | BT_IF | 2);
    popf_with(f, 0, 0, all, true);
    assert_int_equal(f->c->rflags, plain | BT_IOPL | BT_IF | 2);
    popf_with(f, 3, 0, all, false);
    assert_int_equal(f->c->rflags, plain | BT_AC | BT_ID | 2);
    popf_with(f, 3, BT_IOPL, 0, false);
    assert_int_equal(f->c->rflags, BT_IOPL | 2);
    popf_with(f, 3, BT_IF, 0, false);
    assert_int_equal(f->c->rflags, BT_IF | 2);
    popf_with(f, 1, 1 << 12 | BT_IF, 0, false);
    assert_int_equal(f->c->rflags, 1 << 12 | 2);
    popf_with(f, 0, BT_RF | BT_VIF | BT_VIP, 0, false);
    assert_int_equal(f->c->rflags, BT_VIF | BT_VIP | 2);
    /* Virtual-8086 mode: IOPL 3 or #GP, for PUSHF too; IOPL itself stays. */
    bt_fake_reset(f, BT_MODE_32);
    popf_with(f, 3, BT_VM | BT_IOPL | BT_IF, 0, true);
    assert_int_equal(f->c->rflags, BT_VM | BT_IOPL | 2);
    f->c->rflags = BT_VM | 2 << 12 | 2;
    assert_int_equal(RUN(f, 0x9d), -1);
    assert_int_equal(f->vector, BT_GP);
    assert_int_equal(RUN(f, 0x9c), -1);
    assert_int_equal(f->vector, BT_GP);
    /* PUSHF never shows RF and VM. */
    bt_fake_reset(f, BT_MODE_64);
    f->c->rflags = 0x202 | BT_RF | BT_AC | BT_CF;
    f->c->r[BT_RSP] = addr(f, 512);
    assert_int_equal(RUN(f, 0x9c), BT_NEXT);
    assert_int_equal(*(uint32_t *)(void *)(f->scratch + 504), 0x202 | BT_AC | BT_CF);
}

/* ---- writes that hit decoded code are reported, whichever handler makes them ---- */
static void test_write_tracking(void **state)
{
    static const struct {
        uint8_t len, b[6];
    } insns[] = {
        { 3, { 0x48, 0x89, 0x1e } },       /* mov [rsi], rbx */
        { 3, { 0xc6, 0x06, 0x01 } },       /* mov byte [rsi], 1 */
        { 3, { 0x48, 0x01, 0x1e } },       /* add [rsi], rbx */
        { 4, { 0xf0, 0x48, 0x01, 0x1e } }, /* lock add [rsi], rbx */
        { 2, { 0x87, 0x1e } },             /* xchg [rsi], ebx */
        { 4, { 0xf0, 0x0f, 0xb1, 0x1e } }, /* lock cmpxchg [rsi], ebx */
        { 4, { 0x48, 0x0f, 0xc7, 0x0e } }, /* cmpxchg16b [rsi] */
        { 3, { 0x0f, 0xc7, 0x0e } },       /* cmpxchg8b [rsi] */
        { 3, { 0xf0, 0xff, 0x06 } },       /* lock inc dword [rsi] */
        { 3, { 0x0f, 0xab, 0x1e } },       /* bts [rsi], ebx */
        { 3, { 0x0f, 0x94, 0x06 } },       /* setz [rsi] */
        { 3, { 0xf3, 0x48, 0xab } },       /* rep stosq */
        { 2, { 0xf3, 0xa4 } },             /* rep movsb */
        { 1, { 0xaa } },                   /* stosb */
        { 1, { 0x50 } },                   /* push rax */
    };
    struct bt_fake *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(insns); i++) {
        for (unsigned masked = 0; masked < 2; masked++) {
            f->code_mask[0] = masked;
            f->writes_noted = 0;
            memset(f->c->r, 0, sizeof(f->c->r));
            f->c->r[BT_RSI] = f->c->r[BT_RDI] = addr(f, 64);
            f->c->r[BT_RSP] = addr(f, 128);
            f->c->r[BT_RCX] = 4;
            assert_int_equal(run(f, insns[i].b, insns[i].len), BT_NEXT);
            assert_int_equal(f->writes_noted, masked);
        }
    }
}

/* ---- odds and ends ---- */
static void test_bound(void **state)
{
    struct bt_fake *f = *state;
    int16_t range[2] = { -5, 7 };

    bt_fake_reset(f, BT_MODE_32);
    memcpy(f->scratch, range, 4);
    f->c->r[BT_RSI] = addr(f, 0);
    for (int v = -8; v < 10; v++) {
        f->c->r[BT_RAX] = 0x10000U | (uint16_t)v;
        if (v < -5 || v > 7) {
            assert_int_equal(RUN(f, 0x66, 0x62, 0x06), -1);
            assert_int_equal(f->vector, BT_BR);
        } else {
            assert_int_equal(RUN(f, 0x66, 0x62, 0x06), BT_NEXT);
        }
    }
}

static void test_random_numbers(void **state)
{
    struct bt_fake *f = *state;
    unsigned distinct = 0;
    uint64_t last = 0;

    if (!bt_has_cpuid(f->c, 1, 0, 2, 30))
        skip();
    for (unsigned i = 0; i < 8; i++) {
        f->c->rflags |= BT_OF | BT_ZF;
        assert_int_equal(RUN(f, 0x48, 0x0f, 0xc7, 0xf3), BT_NEXT); /* rdrand rbx */
        if (!(f->c->rflags & BT_CF))
            continue;
        assert_int_equal(f->c->rflags & BT_ARITH, BT_CF);
        distinct += f->c->r[BT_RBX] != last;
        last = f->c->r[BT_RBX];
    }
    assert_true(distinct > 1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_conditions),
        TEST(test_call_ret),
        TEST(test_branch_limits),
        TEST(test_faults_change_nothing),
        TEST(test_cmpxchg16b_alignment),
        TEST(test_division_errors),
        TEST(test_rep_fault_midway),
        TEST(test_rep_interrupted),
        TEST(test_rep_slots),
        TEST(test_rep_limit),
        TEST(test_stack16),
        TEST(test_popf),
        TEST(test_write_tracking),
        TEST(test_bound),
        TEST(test_random_numbers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
