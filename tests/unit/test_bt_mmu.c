/* The interpreter's MMU: walks of every paging mode with every combination of permission bits against a reference that
 * is written here from the text of SDM volume 3, section 4.6; reserved bits; A and D; accesses that cross pages, go to
 * ROM or to devices; TLB flushes; breakpoints. */
#include "bt_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "cpu/bt/mmu.h"
#include "cpu/bt/sys.h"

#define CR0_BASE 0x80000011ULL
#define CR0_WP (1ULL << 16)
#define CR4_PSE (1ULL << 4)
#define CR4_PAE (1ULL << 5)
#define CR4_PGE (1ULL << 7)
#define CR4_SMEP (1ULL << 20)
#define CR4_SMAP (1ULL << 21)
#define EFER_LONG 0x500ULL
#define EFER_NXE 0x800ULL
#define P 1ULL
#define RW 2ULL
#define US 4ULL
#define ACC 0x20ULL
#define DIRTY 0x40ULL
#define PS 0x80ULL
#define GLOBAL 0x100ULL
#define NX (1ULL << 63)

/* Tables at 64K, one page per level; the data page at 4M so that it is aligned for every page size but 1G. */
#define TABLE(level) (0x10000ULL + (level)*0x1000ULL)
#define DATA 0x400000ULL
#define MAGIC 0x1122334455667788ULL

/* A paging mode and page size: which levels have entries for lin, from the top. */
struct mode {
    const char *name;
    uint64_t cr4, efer;
    uint64_t lin;
    unsigned entry;    /* bytes */
    unsigned levels;   /* entries on the way, leaf last */
    unsigned shift[4]; /* of the index of each */
    unsigned index_bits;
    bool large; /* leaf has PS */
};

static const struct mode modes[] = {
    { "32-bit 4K", 0, 0, 0x00c05008, 4, 2, { 22, 12 }, 10, false },
    { "32-bit 4M", CR4_PSE, 0, 0x00c05008, 4, 1, { 22 }, 10, true },
    { "PAE 4K", CR4_PAE, EFER_NXE, 0x40605008, 8, 2, { 21, 12 }, 9, false },
    { "PAE 2M", CR4_PAE, EFER_NXE, 0x40605008, 8, 1, { 21 }, 9, true },
    { "long 4K", CR4_PAE, EFER_LONG | EFER_NXE, 0xffff800040605008, 8, 4, { 39, 30, 21, 12 }, 9, false },
    { "long 2M", CR4_PAE, EFER_LONG | EFER_NXE, 0xffff800040605008, 8, 3, { 39, 30, 21 }, 9, true },
    { "long 1G", CR4_PAE, EFER_LONG | EFER_NXE, 0xffff800040405008, 8, 2, { 39, 30 }, 9, true },
};

static struct bt_rig *rig;
static const struct mode *mode;

static uint64_t entry_gpa(unsigned level)
{
    uint64_t index = mode->lin >> mode->shift[level] & ((1U << mode->index_bits) - 1);

    return TABLE(level) + index * mode->entry;
}

static uint64_t entry_get(unsigned level)
{
    return rig_get(rig, entry_gpa(level), mode->entry);
}

/* Leaf target: the page that holds DATA, aligned to the page size. */
static uint64_t leaf_base(void)
{
    uint64_t mask = mode->large ? (1ULL << mode->shift[mode->levels - 1]) - 1 : 0xfff;

    return DATA & ~mask;
}

/* Physical address that mode->lin comes out at. */
static uint64_t target(void)
{
    uint64_t mask = mode->large ? (1ULL << mode->shift[mode->levels - 1]) - 1 : 0xfff;

    return leaf_base() | (mode->lin & mask);
}

static void entry_set(unsigned level, uint64_t bits)
{
    bool leaf = level == mode->levels - 1;
    uint64_t to = leaf ? leaf_base() : TABLE(level + 1);

    rig_put(rig, entry_gpa(level), to | bits | (leaf && mode->large ? PS : 0), mode->entry);
}

/* Put the vCPU into a paging mode at a privilege level, without the instructions for it. */
static void enter(const struct mode *m, uint64_t cr0, uint64_t cr4, unsigned cpl)
{
    struct bt_vcpu *c = rig->c;
    bool is_long = m->efer & EFER_LONG;

    mode = m;
    c->cr0 = CR0_BASE | cr0;
    c->cr4 = m->cr4 | cr4;
    c->efer = m->efer;
    c->cr3 = TABLE(0);
    c->pdpte[1] = m->cr4 & CR4_PAE && !is_long ? TABLE(0) | P : 0;
    c->cpl = (uint8_t)cpl;
    c->seg[BT_CS].l = is_long;
    c->seg[BT_CS].db = !is_long;
    bt_state_update(c);
    bt_tlb_flush_all(c);
}

struct access {
    unsigned ctx, acc;
    uint64_t lin, value;
    unsigned size;
    uint8_t buf[64];
};

static void do_access(struct bt_vcpu *c, void *arg)
{
    struct access *a = arg;

    if (a->acc == BT_ACC_FETCH)
        bt_fetch_page(c, a->lin);
    else if (a->acc == BT_ACC_WRITE)
        bt_st64_ctx(c, a->ctx, a->lin, a->value, BT_DS);
    else
        a->value = bt_ld64_ctx(c, a->ctx, a->lin, BT_DS);
}

/* The reference: SDM 4.6.1 as sentences. user, writable, nx: of the page, from all levels. */
static bool reference_allows(uint64_t cr0, uint64_t cr4, bool nxe, unsigned ctx, unsigned acc, bool user, bool writable,
                             bool nx)
{
    bool user_mode = ctx == BT_CTX_USER;

    if (acc == BT_ACC_FETCH) {
        if (nxe && nx)
            return false; /* execute-disable, both modes */
        if (user_mode)
            return user; /* "from any user-mode address" */
        return !user || !(cr4 & CR4_SMEP);
    }
    if (user_mode) {
        if (!user)
            return false; /* "data may not be read/written from any supervisor-mode address" */
        return acc == BT_ACC_READ || writable;
    }
    /* Supervisor mode. */
    if (user && (cr4 & CR4_SMAP) && ctx != BT_CTX_KERNEL_AC)
        return false; /* implicit, or EFLAGS.AC = 0 */
    if (acc == BT_ACC_READ)
        return true;
    return writable || !(cr0 & CR0_WP);
}

/* Bits 0..3 of variant: RW, US, NX, P; they stand in the entry of `level`, the others allow everything. */
static void check_variant(unsigned level, unsigned variant, uint64_t cr0, uint64_t cr4, unsigned ctx, unsigned acc)
{
    bool writable = variant & 1, user = variant & 2, nx = (variant & 4) && mode->entry == 8, present = variant & 8;
    uint64_t bits = (writable ? RW : 0) | (user ? US : 0) | (nx ? NX : 0) | (present ? P : 0);
    bool nxe = mode->efer & EFER_NXE, ok;
    struct access a = { .ctx = ctx, .acc = acc, .lin = mode->lin, .value = ~MAGIC };
    uint32_t want_error;
    int vector;

    for (unsigned i = 0; i < mode->levels; i++)
        entry_set(i, i == level ? bits : P | RW | US);
    rig_put(rig, target(), MAGIC, 8);
    bt_tlb_flush_all(rig->c);
    ok = present && reference_allows(cr0, cr4, nxe, ctx, acc, user, writable, nx);
    want_error = (present ? 1 : 0) | (acc == BT_ACC_WRITE ? 2 : 0) | (ctx == BT_CTX_USER ? 4 : 0) |
                 (acc == BT_ACC_FETCH && (nxe || (cr4 & CR4_SMEP)) ? 16 : 0);
    vector = rig_try(rig, do_access, &a);
    if (!ok) {
        assert_int_equal(vector, BT_PFV);
        assert_int_equal(rig->c->exc.error, want_error);
        assert_int_equal(rig->c->exc.payload, mode->lin);
        assert_int_equal(rig_get(rig, target(), 8), MAGIC);
        assert_int_equal(entry_get(mode->levels - 1) & DIRTY, 0);
        return;
    }
    assert_int_equal(vector, -1);
    if (acc == BT_ACC_READ)
        assert_int_equal(a.value, MAGIC);
    if (acc == BT_ACC_WRITE)
        assert_int_equal(rig_get(rig, target(), 8), ~MAGIC);
    for (unsigned i = 0; i < mode->levels; i++)
        assert_int_equal(entry_get(i) & ACC, ACC);
    assert_int_equal(entry_get(mode->levels - 1) & DIRTY, acc == BT_ACC_WRITE ? DIRTY : 0);
}

static void check_mode(uint64_t cr0, uint64_t cr4)
{
    static const unsigned accesses[] = { BT_ACC_READ, BT_ACC_WRITE, BT_ACC_FETCH };

    for (unsigned ctx = 0; ctx < BT_CTX_FETCH; ctx++) {
        rig->c->cpl = ctx == BT_CTX_USER ? 3 : 0;
        bt_state_update(rig->c);
        for (unsigned i = 0; i < ARRAY_SIZE(accesses); i++) {
            for (unsigned level = 0; level < mode->levels; level++) {
                for (unsigned variant = 0; variant < 16; variant++)
                    check_variant(level, variant, cr0, cr4, ctx, accesses[i]);
            }
        }
    }
}

static void test_permissions(void **state)
{
    for (unsigned m = 0; m < ARRAY_SIZE(modes); m++) {
        for (unsigned v = 0; v < 8; v++) {
            uint64_t cr0 = v & 1 ? CR0_WP : 0, cr4 = (v & 2 ? CR4_SMEP : 0) | (v & 4 ? CR4_SMAP : 0);

            enter(&modes[m], cr0, cr4, 0);
            check_mode(cr0, cr4);
        }
    }
}

/* A read that fills the TLB must not let a write past the D bit or the permission. */
static void test_write_after_read(void **state)
{
    for (unsigned m = 0; m < ARRAY_SIZE(modes); m++) {
        struct access rd = { .ctx = BT_CTX_KERNEL, .acc = BT_ACC_READ, .lin = modes[m].lin };
        struct access wr = { .ctx = BT_CTX_KERNEL, .acc = BT_ACC_WRITE, .lin = modes[m].lin, .value = 7 };

        enter(&modes[m], CR0_WP, 0, 0);
        for (unsigned i = 0; i < mode->levels; i++)
            entry_set(i, P | RW);
        assert_int_equal(rig_try(rig, do_access, &rd), -1);
        assert_int_equal(entry_get(mode->levels - 1) & DIRTY, 0);
        assert_int_equal(rig_try(rig, do_access, &wr), -1);
        assert_int_equal(entry_get(mode->levels - 1) & DIRTY, DIRTY);
        entry_set(mode->levels - 1, P);
        bt_tlb_flush_page(rig->c, mode->lin);
        assert_int_equal(rig_try(rig, do_access, &rd), -1);
        assert_int_equal(rig_try(rig, do_access, &wr), BT_PFV);
        assert_int_equal(rig->c->exc.error, 3);
    }
}

/* The reserved bits of an entry: SDM tables 4-5 to 4-19, with 46 physical address bits. */
static uint64_t reserved_bits(unsigned level)
{
    bool is_long = mode->efer & EFER_LONG, leaf = level == mode->levels - 1;
    uint64_t r = 0;

    if (mode->entry == 4)
        return leaf && mode->large ? 1ULL << 21 : 0;
    r |= 0x3fULL << 46; /* 51:46 */
    if (!is_long)
        r |= 0x7ffULL << 52; /* 62:52 */
    if (is_long && level == 0)
        r |= PS;
    if (leaf && mode->large)
        r |= mode->shift[level] == 30 ? 0x1ffffULL << 13 : 0xffULL << 13;
    return r;
}

static void test_reserved_bits(void **state)
{
    for (unsigned m = 0; m < ARRAY_SIZE(modes); m++) {
        enter(&modes[m], 0, 0, 0);
        for (unsigned level = 0; level < mode->levels; level++) {
            for (unsigned bit = 3; bit < mode->entry * 8 - (mode->efer & EFER_NXE ? 1 : 0); bit++) {
                struct access a = { .ctx = BT_CTX_KERNEL, .acc = BT_ACC_READ, .lin = mode->lin };
                bool reserved = reserved_bits(level) >> bit & 1;
                bool address = bit >= 12 && bit < (mode->entry == 4 ? 32 : 46) && !reserved;

                if (address || bit == 7)
                    continue; /* leads elsewhere; PS changes the meaning */
                for (unsigned i = 0; i < mode->levels; i++)
                    entry_set(i, P | RW | US | (i == level ? 1ULL << bit : 0));
                bt_tlb_flush_all(rig->c);
                assert_int_equal(rig_try(rig, do_access, &a), reserved ? BT_PFV : -1);
                if (reserved)
                    assert_int_equal(rig->c->exc.error, 9);
            }
        }
    }
}

static void test_reserved_specials(void **state)
{
    struct access a = { .ctx = BT_CTX_KERNEL, .acc = BT_ACC_READ, .lin = modes[4].lin };

    /* NX without EFER.NXE is reserved. */
    enter(&modes[4], 0, 0, 0);
    rig->c->efer &= ~EFER_NXE;
    for (unsigned i = 0; i < mode->levels; i++)
        entry_set(i, P | RW | (i == 3 ? NX : 0));
    assert_int_equal(rig_try(rig, do_access, &a), BT_PFV);
    assert_int_equal(rig->c->exc.error, 9);
    /* PS in a PML4E. */
    enter(&modes[4], 0, 0, 0);
    entry_set(3, P);
    entry_set(0, P | PS);
    assert_int_equal(rig_try(rig, do_access, &a), BT_PFV);
    assert_int_equal(rig->c->exc.error, 9);
    /* A non-present entry further down does not hide it, and its own reserved bits do not count. */
    entry_set(0, P);
    entry_set(1, 1ULL << 50);
    bt_tlb_flush_all(rig->c);
    assert_int_equal(rig_try(rig, do_access, &a), BT_PFV);
    assert_int_equal(rig->c->exc.error, 0);
    /* Tables where there is no RAM read as all ones. */
    rig_put(rig, entry_gpa(0), 0x30000000 | P, 8);
    bt_tlb_flush_all(rig->c);
    assert_int_equal(rig_try(rig, do_access, &a), BT_PFV);
    assert_int_equal(rig->c->exc.error, 9);
}

static void load_cr3(struct bt_vcpu *c, void *arg)
{
    bt_set_cr3(c, *(uint64_t *)arg);
}

static void test_pdpte(void **state)
{
    uint64_t cr3 = TABLE(8) + 0x20;

    enter(&modes[2], 0, 0, 0);
    for (unsigned bit = 0; bit < 64; bit++) {
        bool reserved = bit == 1 || bit == 2 || (bit >= 5 && bit <= 8) || bit >= 46;

        for (unsigned i = 0; i < 4; i++)
            rig_put(rig, cr3 + i * 8, i == 2 ? P | 1ULL << bit : 0, 8);
        rig->c->pdpte[2] = 0x77001;
        assert_int_equal(rig_try(rig, load_cr3, &cr3), reserved ? BT_GP : -1);
        assert_int_equal(rig->c->pdpte[2], reserved ? 0x77001 : (P | 1ULL << bit));
    }
    /* Without P nothing is reserved. */
    rig_put(rig, cr3 + 16, ~P, 8);
    assert_int_equal(rig_try(rig, load_cr3, &cr3), -1);
}

static void test_pse36(void **state)
{
    uint64_t gpa;

    enter(&modes[1], 0, 0, 0);
    rig_put(rig, entry_gpa(0), 0x00400000 | 5ULL << 13 | PS | P, 4);
    assert_true(bt_translate(rig->c, mode->lin, &gpa));
    assert_int_equal(gpa, 0x500400000ULL | (mode->lin & 0x3fffff));
}

/* ---- accesses ---- */

static void do_write_bytes(struct bt_vcpu *c, void *arg)
{
    struct access *a = arg;

    bt_write_slow(c, a->ctx, a->lin, a->buf, a->size, BT_DS);
}

static void do_read_bytes(struct bt_vcpu *c, void *arg)
{
    struct access *a = arg;

    bt_read_slow(c, a->ctx, a->lin, a->buf, a->size, BT_DS);
}

/* Long mode, 4K pages: lin 0x40000000 + n * 4096 goes to frames[n] (0: not present). */
static void map_pages(const uint64_t *frames, unsigned n)
{
    static const struct mode flat = { "flat", CR4_PAE, EFER_LONG | EFER_NXE, 0x40000000, 8, 4, { 39, 30, 21, 12 },
                                      9,      false };

    enter(&flat, CR0_WP, CR4_PGE, 0);
    for (unsigned i = 0; i < 3; i++)
        entry_set(i, P | RW | US);
    for (unsigned i = 0; i < n; i++)
        rig_put(rig, TABLE(3) + i * 8, frames[i] ? frames[i] | P | RW : 0, 8);
}

static void test_page_crossing(void **state)
{
    static const uint64_t frames[] = { 0x500000, 0x700000, 0, 0x900000 };

    map_pages(frames, 4);
    for (unsigned size = 2; size <= 64; size++) {
        for (unsigned head = 1; head < size; head++) {
            struct access a = { .ctx = BT_CTX_KERNEL, .lin = 0x40001000 - head, .size = size };

            for (unsigned i = 0; i < size; i++)
                a.buf[i] = (uint8_t)(i + size);
            assert_int_equal(rig_try(rig, do_write_bytes, &a), -1);
            for (unsigned i = 0; i < size; i++) {
                uint64_t at = i < head ? 0x501000 - head + i : 0x700000 + i - head;

                assert_int_equal(rig_get(rig, at, 1), (uint8_t)(i + size));
            }
            memset(a.buf, 0, sizeof(a.buf));
            assert_int_equal(rig_try(rig, do_read_bytes, &a), -1);
            for (unsigned i = 0; i < size; i++)
                assert_int_equal(a.buf[i], (uint8_t)(i + size));
        }
    }
    /* The second page is missing: nothing is written, CR2 is where that page begins. */
    struct access a = { .ctx = BT_CTX_KERNEL, .lin = 0x40001ffd, .size = 8 };

    memset(a.buf, 0xee, sizeof(a.buf));
    rig_put(rig, 0x700ffd, 0, 3);
    assert_int_equal(rig_try(rig, do_write_bytes, &a), BT_PFV);
    assert_int_equal(rig->c->exc.payload, 0x40002000);
    assert_int_equal(rig->c->exc.error, 2);
    assert_int_equal(rig_get(rig, 0x700ffd, 3), 0);
}

static void test_rom(void **state)
{
    static const uint64_t frames[] = { RIG_ROM };
    struct access a = { .ctx = BT_CTX_KERNEL, .lin = 0x40000010, .acc = BT_ACC_WRITE, .value = 1 };

    map_pages(frames, 1);
    rig_put(rig, RIG_ROM + 0x10, MAGIC, 8);
    assert_int_equal(rig_try(rig, do_access, &a), -1);
    assert_int_equal(rig_try(rig, do_access, &a), -1);
    a.acc = BT_ACC_READ;
    assert_int_equal(rig_try(rig, do_access, &a), -1);
    assert_int_equal(a.value, MAGIC);
    assert_null(bt_lock_ptr(rig->c, BT_CTX_KERNEL, 0x40000010, 8, BT_DS));
}

static void test_mmio_pieces(void **state)
{
    static const uint64_t frames[] = { RIG_MMIO, 0x500000 };

    map_pages(frames, 2);
    for (unsigned off = 0; off < 16; off++) {
        for (unsigned size = 1; size <= 32; size++) {
            struct access a = { .ctx = BT_CTX_KERNEL, .lin = 0x40000000 + off, .size = size };
            uint64_t at = RIG_MMIO + off;

            rig->n_log = 0;
            assert_int_equal(rig_try(rig, do_read_bytes, &a), -1);
            for (unsigned i = 0; i < size; i++)
                assert_int_equal(a.buf[i], (uint8_t)(off + i));
            for (unsigned i = 0; i < rig->n_log; i++) {
                const struct rig_access *l = &rig->log[i];

                assert_int_equal(l->addr, at);
                assert_true(is_pow2(l->len) && l->len <= 8 && l->addr % l->len == 0 && !l->write);
                at += l->len;
            }
            assert_int_equal(at, RIG_MMIO + off + size);
        }
    }
    /* Half device, half RAM. */
    struct access a = { .ctx = BT_CTX_KERNEL, .lin = 0x40000ffc, .size = 8 };

    memcpy(a.buf, "abcdefgh", 8);
    rig->n_log = 0;
    assert_int_equal(rig_try(rig, do_write_bytes, &a), -1);
    assert_int_equal(rig->n_log, 1);
    assert_int_equal(rig->log[0].len, 4);
    assert_memory_equal(&rig->log[0].value, "abcd", 4);
    assert_int_equal(rig_get(rig, 0x500000, 4), load_le32("efgh"));
}

static void do_stack_read(struct bt_vcpu *c, void *arg)
{
    bt_ld64_ctx(c, c->ctx, *(uint64_t *)arg, BT_SS);
}

static void test_canonical(void **state)
{
    uint64_t hole = 0x800000000000, below = 0x7ffffffffffc;
    struct access a = { .ctx = BT_CTX_KERNEL, .acc = BT_ACC_READ, .lin = hole };

    map_pages((const uint64_t[]){ 0 }, 1);
    assert_int_equal(rig_try(rig, do_access, &a), BT_GP);
    assert_int_equal(rig->c->exc.error, 0);
    assert_int_equal(rig_try(rig, do_stack_read, &hole), BT_SSV);
    /* The first part lies in a page that is not there: that fault is found first. */
    assert_int_equal(rig_try(rig, do_stack_read, &below), BT_PFV);
    a.lin = 0xffff7fffffffffff;
    assert_int_equal(rig_try(rig, do_access, &a), BT_GP);
}

/* ---- TLB ---- */

static uint64_t load(uint64_t lin)
{
    struct access a = { .ctx = BT_CTX_KERNEL, .acc = BT_ACC_READ, .lin = lin };
    int vector = rig_try(rig, do_access, &a);

    return vector < 0 ? a.value : 0xbad0000 + (unsigned)vector;
}

static void test_global_pages(void **state)
{
    static const uint64_t frames[] = { 0x500000, 0x501000 };
    uint64_t cr3 = TABLE(0);

    map_pages(frames, 2);
    rig_put(rig, TABLE(3) + 8, 0x501000 | P | RW | GLOBAL, 8);
    rig_put(rig, 0x500000, 1, 8);
    rig_put(rig, 0x501000, 2, 8);
    rig_put(rig, 0x600000, 3, 8);
    assert_int_equal(load(0x40000000), 1);
    assert_int_equal(load(0x40001000), 2);
    rig_put(rig, TABLE(3), 0x600000 | P, 8);
    rig_put(rig, TABLE(3) + 8, 0x600000 | P | GLOBAL, 8);
    assert_int_equal(rig_try(rig, load_cr3, &cr3), -1);
    assert_int_equal(load(0x40000000), 3);
    assert_int_equal(load(0x40001000), 2); /* kept */
    bt_tlb_flush_page(rig->c, 0x40001fff);
    assert_int_equal(load(0x40001000), 3); /* INVLPG takes globals too */
}

/* More fills than the log holds. */
static void test_flush_many(void **state)
{
    uint64_t cr3 = TABLE(0);

    map_pages((const uint64_t[]){ 0x500000 }, 1);
    for (unsigned i = 0; i < 512; i++)
        rig_put(rig, TABLE(3) + i * 8, (0x500000 + i * 0x1000) | P | RW, 8);
    for (unsigned i = 0; i < 512; i++) {
        rig_put(rig, 0x500000 + i * 0x1000, i, 8);
        assert_int_equal(load(0x40000000 + i * 0x1000), i);
    }
    for (unsigned ctx = 0; ctx < 2; ctx++) {
        for (unsigned i = 0; i < 512; i++)
            load(0x40000000 + i * 0x1000);
        rig->c->tlb[BT_CTX_KERNEL][5].tag_r = bt_tlb_none(5); /* one more fill */
    }
    for (unsigned i = 0; i < 512; i++)
        rig_put(rig, TABLE(3) + i * 8, 0, 8);
    assert_int_equal(rig_try(rig, load_cr3, &cr3), -1);
    for (unsigned i = 0; i < 512; i++)
        assert_int_equal(load(0x40000000 + i * 0x1000), 0xbad0000 + BT_PFV);
}

/* INVLPG of any address in a large page drops all of it. */
static void test_invlpg_large(void **state)
{
    static const struct mode *m = &modes[5]; /* 2M */
    uint64_t base = m->lin & ~0x1fffffULL;

    enter(m, 0, 0, 0);
    for (unsigned i = 0; i < m->levels; i++)
        entry_set(i, P | RW);
    for (unsigned i = 0; i < 16; i++) {
        rig_put(rig, DATA + i * 0x1000, 100 + i, 8);
        rig_put(rig, 0x800000 + i * 0x1000, 200 + i, 8);
    }
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(load(base + i * 0x1000), 100 + i);
    rig_put(rig, entry_gpa(2), 0x800000 | P | PS, 8);
    bt_tlb_flush_page(rig->c, base + 0x1ff000);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(load(base + i * 0x1000), 200 + i);
}

static void test_code_write(void **state)
{
    struct mem_region *r = mem_find(rig->mem, 0x500000);
    struct access a = { .ctx = BT_CTX_KERNEL, .acc = BT_ACC_WRITE, .lin = 0x40000100 };
    struct bt_op op;

    map_pages((const uint64_t[]){ 0x500000 }, 1);
    assert_int_equal(rig_try(rig, do_access, &a), -1);
    atomic_store(&r->code_mask[0x500], 1ULL << 4); /* bytes 0x100..0x13f */
    atomic_store(&r->code_gen[0x500], 10);
    rig->c->op_end = &op;
    a.lin = 0x400000f8; /* just below */
    assert_int_equal(rig_try(rig, do_access, &a), -1);
    assert_int_equal(atomic_load(&r->code_gen[0x500]), 10);
    assert_ptr_equal(rig->c->op_end, &op);
    a.lin = 0x400000f9; /* touches it */
    assert_int_equal(rig_try(rig, do_access, &a), -1);
    assert_int_equal(atomic_load(&r->code_gen[0x500]), 11);
    assert_null(rig->c->op_end);
    atomic_store(&r->code_mask[0x500], 0);
}

/* Page-table stores by the walk (A and D) go to the dirty log. */
static void test_dirty_log(void **state)
{
    struct mem_region *r = mem_find(rig->mem, 0);
    uint64_t bitmap[RIG_RAM_BYTES / 4096 / 64];

    map_pages((const uint64_t[]){ 0x500000 }, 1);
    mem_log_dirty(rig->mem, true);
    assert_int_equal(load(0x40000000), rig_get(rig, 0x500000, 8));
    mem_fetch_dirty(rig->mem, r, bitmap);
    mem_log_dirty(rig->mem, false);
    assert_true(bitmap[TABLE(3) >> 12 >> 6] >> (TABLE(3) >> 12 & 63) & 1);
    assert_false(bitmap[0x500 >> 6] >> (0x500 & 63) & 1);
}

static void test_alignment_check(void **state)
{
    struct access a = { .ctx = BT_CTX_USER, .acc = BT_ACC_READ, .lin = 0x40000004 };

    map_pages((const uint64_t[]){ 0x500000 }, 1);
    rig_put(rig, TABLE(3), 0x500000 | P | RW | US, 8);
    rig->c->cr0 |= 1ULL << 18;
    rig->c->cpl = 3;
    bt_state_update(rig->c);
    assert_int_equal(rig_try(rig, do_access, &a), -1);
    bt_rflags_write(rig->c, BT_AC, BT_AC);
    assert_int_equal(rig_try(rig, do_access, &a), BT_ACV);
    assert_int_equal(rig->c->exc.error, 0);
    a.lin = 0x40000008;
    assert_int_equal(rig_try(rig, do_access, &a), -1);
    a.lin = 0x40000004;
    a.ctx = BT_CTX_KERNEL; /* implicit supervisor accesses are exempt */
    assert_int_equal(rig_try(rig, do_access, &a), -1);
    bt_rflags_write(rig->c, 0, BT_AC);
    a.ctx = BT_CTX_USER;
    assert_int_equal(rig_try(rig, do_access, &a), -1);
}

static void test_data_breakpoints(void **state)
{
    static const struct {
        unsigned type, len;
        uint64_t at, lin;
        bool write, hit;
    } cases[] = {
        { 1, 3, 0x100, 0x100, true, true },  { 1, 3, 0x100, 0x100, false, false }, { 3, 3, 0x100, 0x100, false, true },
        { 3, 0, 0x107, 0x100, true, true },  { 3, 0, 0x108, 0x100, true, false },  { 3, 2, 0x108, 0x101, true, true },
        { 3, 2, 0x10f, 0x101, false, true }, { 1, 1, 0x101, 0xf9, true, true },    { 1, 1, 0x102, 0xf9, true, false },
    };
    struct bt_vcpu *c = rig->c;

    map_pages((const uint64_t[]){ 0x500000 }, 1);
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct access a = { .ctx = BT_CTX_KERNEL, .lin = 0x40000000 + cases[i].lin };

        a.acc = cases[i].write ? BT_ACC_WRITE : BT_ACC_READ;
        load(a.lin); /* fill the TLB first: arming must take the fast path away */
        c->dr[2] = 0x40000000 + cases[i].at;
        c->dr[7] = 0x400 | 1 << 4 | cases[i].type << 24 | cases[i].len << 26;
        bt_debug_update(c);
        c->dr6_trap = c->db_pending = 0;
        assert_int_equal(rig_try(rig, do_access, &a), -1);
        assert_int_equal(c->db_pending, cases[i].hit);
        assert_int_equal(c->dr6_trap, cases[i].hit ? 4 : 0);
        c->dr[7] = 0x400;
        bt_debug_update(c);
        c->dr6_trap = c->db_pending = 0;
    }
}

static int setup(void **state)
{
    rig = rig_new(false);
    return 0;
}

static int teardown(void **state)
{
    rig_free(rig);
    return 0;
}

#define MMU_TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        MMU_TEST(test_permissions),
        MMU_TEST(test_write_after_read),
        MMU_TEST(test_reserved_bits),
        MMU_TEST(test_reserved_specials),
        MMU_TEST(test_pdpte),
        MMU_TEST(test_pse36),
        MMU_TEST(test_page_crossing),
        MMU_TEST(test_rom),
        MMU_TEST(test_mmio_pieces),
        MMU_TEST(test_canonical),
        MMU_TEST(test_global_pages),
        MMU_TEST(test_flush_many),
        MMU_TEST(test_invlpg_large),
        MMU_TEST(test_code_write),
        MMU_TEST(test_dirty_log),
        MMU_TEST(test_alignment_check),
        MMU_TEST(test_data_breakpoints),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
