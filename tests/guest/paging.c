/* 4-level paging: the permission matrix with error codes, CR2 and A/D bits for 4K, 2M and 1G pages; reserved bits;
 * accesses that cross pages; invalidation (INVLPG, CR3, global pages, PCID, INVPCID). Expected values: Intel SDM volume
 * 3, sections 4.5 (structures, reserved bits), 4.6 (access rights), 4.7 (error code), 4.8 (accessed and dirty), 4.10
 * (TLBs). Nothing is expected of a translation that may or may not be cached. */
#include "long.h"

#define TEST_VA 0x8000000000ULL /* PML4 entry 1, used by nothing else */

enum { READ, WRITE, FETCH };

/* The tables of the test region, one of each level, and the frame that is looked at. */
static uint64_t *tables[5]; /* [level] */
static uint64_t frame;      /* physical = linear below 4 GiB */

static void setup_tables(void)
{
    if (frame)
        return;
    for (unsigned level = 1; level <= 3; level++)
        tables[level] = page_alloc();
    tables[4] = boot_pml4;
    frame = (uint64_t)page_alloc();
    ((uint8_t *)frame)[0] = 0xc3;  /* ret, for kernel fetches */
    ((uint8_t *)frame)[16] = 0xcd; /* int $0x80, for user fetches */
    ((uint8_t *)frame)[17] = 0x80;
}

static uint64_t page_bytes(unsigned leaf)
{
    return 4096ULL << (9 * (leaf - 1));
}

/* The entry of `level` on the way to the test region's page of size `leaf`. */
static uint64_t *entry(unsigned leaf, unsigned level)
{
    uint64_t va = TEST_VA + (frame & (page_bytes(leaf) - 1));

    return &tables[level][va >> (12 + 9 * (level - 1)) & 511];
}

/* Permissive tables with a leaf at level `leaf`; returns the address that maps the frame. */
static uint64_t build(unsigned leaf)
{
    uint64_t bytes = page_bytes(leaf);

    for (unsigned level = 4; level > leaf; level--)
        *entry(leaf, level) = (uint64_t)tables[level - 1] | PTE_P | PTE_W | PTE_U;
    *entry(leaf, leaf) = (frame & ~(bytes - 1)) | PTE_P | PTE_W | PTE_U | (leaf > 1 ? PTE_PS : 0);
    flush_tlb();
    return TEST_VA + (frame & (bytes - 1));
}

SNIPPET(user_read, "movb 32(%rdi), %al; int $0x80");
SNIPPET(user_write, "movb $1, 32(%rdi); int $0x80");
SNIPPET(user_fetch, "addq $16, %rdi; jmp *%rdi");

static void do_access(uint64_t va, bool user, int kind)
{
    if (user) {
        if (kind == READ)
            USER_EXEC(user_read, .rdi = va);
        else if (kind == WRITE)
            USER_EXEC(user_write, .rdi = va);
        else
            USER_EXEC(user_fetch, .rdi = va);
        if (exc.vector == 0x80)
            exc.vector = NO_EXC;
        return;
    }
    if (kind == READ)
        TRY("movb 32(%0), %%al", "r"(va));
    else if (kind == WRITE)
        TRY("movb $1, 32(%0)", "r"(va));
    else
        TRY("call *%0", "r"(va));
}

static void do_access_ac(uint64_t va, int kind)
{
    if (kind == READ)
        TRY("stac; movb 32(%0), %%al; clac", "r"(va));
    else if (kind == WRITE)
        TRY("stac; movb $1, 32(%0); clac", "r"(va));
    else
        TRY("stac; call *%0; clac", "r"(va));
}

static uint64_t cr2_offset(bool user, int kind)
{
    return kind == FETCH ? (user ? 16 : 0) : 32;
}

struct mode {
    bool wp, smep, smap, ac;
};

/* SDM 4.6.1. */
static bool allowed(uint64_t flags, bool user, int kind, const struct mode *m)
{
    bool u = flags & PTE_U, w = flags & PTE_W, nx = flags & PTE_NX;

    if (user)
        return u && (kind != WRITE || w) && (kind != FETCH || !nx);
    if (kind == FETCH)
        return !nx && !(u && m->smep);
    if (u && m->smap && !m->ac)
        return false;
    return kind != WRITE || w || !m->wp;
}

static void check_flags(unsigned leaf, unsigned level, uint64_t flags, bool user, int kind, const struct mode *m)
{
    uint64_t va = build(leaf), *restricted = entry(leaf, level), error;
    bool present = flags & PTE_P, ok = present && allowed(flags, user, kind, m);

    *restricted = (*restricted & ~(PTE_P | PTE_W | PTE_U)) | flags;
    invlpg(va);
    if (m->ac)
        do_access_ac(va, kind);
    else
        do_access(va, user, kind);
    error = (present ? 1 : 0) | (kind == WRITE ? 2 : 0) | (user ? 4 : 0) | (kind == FETCH ? 16 : 0);
    guest_checks++;
    if (exc.vector != (ok ? NO_EXC : PF) || (!ok && exc.error != error) ||
        (!ok && exc.cr2 != va + cr2_offset(user, kind))) {
        guest_fail(
            "leaf %u level %u flags %X %s kind %d wp %d smep %d smap %d ac %d: vector %d error %X cr2 %X, expected "
            "%s error %X",
            leaf, level, flags, user ? "user" : "kernel", kind, m->wp, m->smep, m->smap, m->ac, exc.vector, exc.error,
            exc.cr2, ok ? "none" : "#PF", error);
        return;
    }
    if (!ok) {
        CHECK(!(*entry(leaf, leaf) & PTE_D), "D set by a refused access");
        return;
    }
    for (unsigned at = leaf; at <= 4; at++)
        CHECK(*entry(leaf, at) & PTE_A, "leaf %u: A not set at level %u", leaf, at);
    CHECK(!!(*entry(leaf, leaf) & PTE_D) == (kind == WRITE), "leaf %u kind %d: D wrong", leaf, kind);
}

static bool has_gib_pages(void)
{
    return cpuid(0x80000001, 0).edx & BIT(26);
}

static void matrix_in_mode(const struct mode *m)
{
    static const uint64_t bits[] = { PTE_P, PTE_W, PTE_U, PTE_NX };

    for (unsigned leaf = 1; leaf <= (has_gib_pages() ? 3 : 2); leaf++) {
        for (unsigned level = leaf; level <= 4; level++) {
            for (unsigned set = 0; set < 16; set++) {
                uint64_t flags = 0;

                for (unsigned i = 0; i < 4; i++)
                    flags |= set >> i & 1 ? bits[i] : 0;
                for (int kind = READ; kind <= FETCH; kind++) {
                    check_flags(leaf, level, flags, false, kind, m);
                    if (!m->ac)
                        check_flags(leaf, level, flags, true, kind, m);
                }
            }
        }
    }
}

static void test_matrix(void)
{
    struct cpuid_regs features = cpuid(7, 0);
    bool smep = features.ebx & BIT(7), smap = features.ebx & BIT(20);
    unsigned long cr0 = read_cr0(), cr4 = read_cr4();

    setup_tables();
    if (!smep || !smap)
        guest_skip("SMEP or SMAP");
    for (unsigned n = 0; n < 16; n++) {
        struct mode m = { n & 1, n & 2, n & 4, n & 8 };

        if ((m.smep && !smep) || ((m.smap || m.ac) && !smap))
            continue;
        write_cr0(m.wp ? cr0 | CR0_WP : cr0 & ~CR0_WP);
        write_cr4(cr4 | (m.smep ? CR4_SMEP : 0) | (m.smap ? CR4_SMAP : 0));
        matrix_in_mode(&m);
    }
    write_cr0(cr0);
    write_cr4(cr4);
}

/* Without SMEP and NXE the error code of a fetch has no I bit (SDM 4.7), and NX is a reserved bit. */
static void test_without_nxe(void)
{
    uint64_t efer = rdmsr(MSR_EFER), va;

    setup_tables();
    wrmsr(MSR_EFER, efer & ~BIT(11));
    va = build(1);
    *entry(1, 1) &= ~PTE_P;
    invlpg(va);
    do_access(va, false, FETCH);
    CHECK_EXC("fetch, not present, no NXE, no SMEP", PF, 0);
    va = build(1);
    *entry(1, 1) |= PTE_NX;
    invlpg(va);
    do_access(va, false, READ);
    CHECK_EXC("NX bit without NXE", PF, 9);
    do_access(va, true, WRITE);
    CHECK_EXC("NX bit without NXE, user write", PF, 15);
    wrmsr(MSR_EFER, efer);
    do_access(va, true, READ);
    CHECK_EXC("NX bit with NXE", NO_EXC, 0);
}

static void check_reserved(unsigned leaf, unsigned level, unsigned bit)
{
    uint64_t va = build(leaf), *e = entry(leaf, level);

    *e |= BIT(bit);
    invlpg(va);
    do_access(va, false, READ);
    guest_checks++;
    if (exc.vector != PF || exc.error != 9)
        guest_fail("leaf %u level %u reserved bit %u: vector %d error %X, expected #PF 9", leaf, level, bit, exc.vector,
                   exc.error);
    CHECK_EQ("cr2", exc.cr2, va + 32);
    do_access(va, true, WRITE);
    CHECK_EXC("reserved bit, user write", PF, 15);
    *e &= ~PTE_P;
    invlpg(va);
    do_access(va, false, READ);
    CHECK_EXC("reserved bit in an entry that is not present", PF, 0);
}

static void test_reserved_bits(void)
{
    unsigned maxphy = cpuid(0x80000008, 0).eax & 0xff;

    setup_tables();
    for (unsigned leaf = 1; leaf <= (has_gib_pages() ? 3 : 2); leaf++) {
        for (unsigned level = leaf; level <= 4; level++) {
            for (unsigned bit = maxphy; bit <= 51; bit++)
                check_reserved(leaf, level, bit);
        }
        check_reserved(leaf, 4, 7);
    }
    for (unsigned bit = 13; bit <= 20; bit++)
        check_reserved(2, 2, bit);
    for (unsigned bit = 13; bit <= 29 && has_gib_pages(); bit++)
        check_reserved(3, 3, bit);
    if (!has_gib_pages())
        check_reserved(1, 3, 7);
}

/* Bits that are ignored or have no effect here: PAT, PWT, PCD, G, AVL, 52..58. */
static void test_ignored_bits(void)
{
    static const uint8_t bits[] = { 3, 4, 7, 8, 9, 10, 11, 52, 53, 54, 55, 56, 57, 58 };
    uint64_t va;

    setup_tables();
    for (unsigned i = 0; i < ARRAY_SIZE(bits); i++) {
        va = build(1);
        *entry(1, 1) |= BIT(bits[i]);
        invlpg(va);
        do_access(va, true, WRITE);
        CHECK_EXC("ignored bit of a PTE", NO_EXC, 0);
    }
    va = build(2);
    *entry(2, 2) |= BIT(12); /* PAT */
    invlpg(va);
    do_access(va, true, READ);
    CHECK_EXC("PAT of a 2M page", NO_EXC, 0);
    build(1);
    *entry(1, 1) &= ~PTE_G;
    flush_tlb();
}

/* Two pages side by side; the second has `flags`. Returns the address of the boundary. */
static uint64_t build_pair(uint64_t first_flags, uint64_t second_flags, uint64_t *ret_first, uint64_t *ret_second)
{
    uint64_t va = TEST_VA + 0x200000;

    *ret_first = (uint64_t)page_alloc();
    *ret_second = (uint64_t)page_alloc();
    setup_tables();
    build(1);
    *pt_entry(boot_pml4, va, 1) = *ret_first | first_flags;
    *pt_entry(boot_pml4, va + 0x1000, 1) = *ret_second | second_flags;
    invlpg(va);
    invlpg(va + 0x1000);
    return va + 0x1000;
}

static void test_page_crossing(void)
{
    uint64_t a, b, at = build_pair(PTE_P | PTE_W, 0, &a, &b);
    uint64_t *last = (uint64_t *)(a + 0xff8);

    *last = 0x1122334455667788;
    TRY("movq (%0), %%rax", "r"(at - 4));
    CHECK_EXC("read into a missing page", PF, 0);
    CHECK_EQ("cr2 is in the second page", exc.cr2, at);
    TRY("movq %1, (%0)", "r"(at - 4), "r"(0ULL));
    CHECK_EXC("write into a missing page", PF, 2);
    CHECK_EQ("cr2", exc.cr2, at);
    CHECK_EQ("first part is not written", *last, 0x1122334455667788);
    TRY("lock addq $1, (%0)", "r"(at - 3));
    CHECK_EXC("locked add into a missing page", PF, 2);
    CHECK_EQ("first part is not written", *last, 0x1122334455667788);
    at = build_pair(0, 0, &a, &b);
    TRY("movq (%0), %%rax", "r"(at - 4));
    CHECK_EXC("both missing", PF, 0);
    CHECK_EQ("cr2 is the operand's address", exc.cr2, at - 4);
    at = build_pair(PTE_P | PTE_W, PTE_P, &a, &b);
    last = (uint64_t *)(a + 0xff8);
    *last = 0x1122334455667788;
    TRY("movq %1, (%0)", "r"(at - 2), "r"(0ULL));
    CHECK_EXC("write into a read-only page", PF, 3);
    CHECK_EQ("cr2", exc.cr2, at);
    CHECK_EQ("first part is not written", *last, 0x1122334455667788);
    at = build_pair(PTE_P | PTE_W, PTE_P | PTE_W, &a, &b);
    TRY("movq %1, (%0)", "r"(at - 3), "r"(0x8877665544332211));
    CHECK_EXC("write over both", NO_EXC, 0);
    CHECK_EQ("first half", *(uint64_t *)(a + 0xff8) >> 40, 0x332211);
    CHECK_EQ("second half", *(uint64_t *)b, 0x8877665544);
    CHECK(*pt_entry(boot_pml4, at, 1) & PTE_D, "D of the second page");
}

/* A fetch that begins in one page and faults in the next: CR2 is the boundary, RIP the instruction's start. */
static void test_fetch_crossing(void)
{
    uint64_t a, b, at = build_pair(PTE_P | PTE_W, 0, &a, &b);

    memcpy((void *)(a + 0xffe), "\x48\xb8", 2); /* movabs $imm64, %rax, cut off */
    TRY("call *%0", "r"(at - 2));
    CHECK_EXC("fetch into a missing page", PF, 16);
    CHECK_EQ("cr2", exc.cr2, at);
    CHECK_EQ("rip", exc.frame.rip, at - 2);
    at = build_pair(PTE_P | PTE_W, PTE_P | PTE_W | PTE_NX, &a, &b);
    memcpy((void *)(a + 0xffe), "\x48\xb8", 2);
    TRY("call *%0", "r"(at - 2));
    CHECK_EXC("fetch into a page that is not executable", PF, 17);
    CHECK_EQ("cr2", exc.cr2, at);
    /* A whole instruction at the end of the page needs nothing of the next. */
    memcpy((void *)(a + 0xffe), "\x90\xc3", 2);
    TRY("call *%0", "r"(at - 2));
    CHECK_EXC("last bytes of a page", NO_EXC, 0);
}

/* Instructions that write always need write access, whatever they find. */
static void test_write_intent(void)
{
    uint64_t va;

    setup_tables();
    va = build(1);
    *entry(1, 1) &= ~PTE_W;
    invlpg(va);
    TRY("movl $5, %%eax; lock cmpxchgl %%ecx, 32(%0)", "r"(va));
    CHECK_EXC("CMPXCHG that does not match", PF, 3);
    TRY("addl $0, 32(%0)", "r"(va));
    CHECK_EXC("ADD 0", PF, 3);
    TRY("xorl %%ecx, %%ecx; shll %%cl, 32(%0)", "r"(va));
    CHECK_EXC("shift by 0", PF, 3);
    TRY("btsl $0, 32(%0)", "r"(va));
    CHECK_EXC("BTS", PF, 3);
    TRY("cmpl $0, 32(%0); testl $1, 32(%0); btl $0, 32(%0)", "r"(va));
    CHECK_EXC("reads", NO_EXC, 0);
}

static void test_invlpg_and_cr3(void)
{
    uint64_t other = (uint64_t)page_alloc(), va, cr3 = read_cr3();
    volatile uint64_t *p;

    setup_tables();
    *(uint64_t *)(frame + 64) = 1;
    *(uint64_t *)(other + 64) = 2;
    for (unsigned global = 0; global < 2; global++) {
        va = build(1);
        p = (volatile uint64_t *)(va + 64);
        *entry(1, 1) |= global ? PTE_G : 0;
        flush_tlb();
        CHECK_EQ("first mapping", *p, 1);
        *entry(1, 1) = other | PTE_P | PTE_W | PTE_U | (global ? PTE_G : 0);
        invlpg(va + 0x123);
        CHECK_EQ("after INVLPG", *p, 2);
        *entry(1, 1) = frame | PTE_P | PTE_W | PTE_U | (global ? PTE_G : 0);
        if (global)
            flush_tlb();
        else
            write_cr3(cr3);
        CHECK_EQ(global ? "after CR4.PGE" : "after CR3", *p, 1);
    }
    /* INVLPG needs no mapping and no canonical address (SDM: INVLPG). */
    TRY("invlpg (%0)", "r"(0x6000000000ULL));
    CHECK_EXC("INVLPG of nothing", NO_EXC, 0);
    TRY("invlpg (%0)", "r"(0x800000000000ULL));
    CHECK_EXC("INVLPG, not canonical", NO_EXC, 0);
    /* A permission that was raised works at once after INVLPG, and INVLPG acts on large pages by any address in them.
     */
    va = build(2);
    *entry(2, 2) &= ~PTE_W;
    flush_tlb();
    do_access(va, false, WRITE);
    CHECK_EXC("2M read-only", PF, 3);
    *entry(2, 2) |= PTE_W;
    invlpg(va ^ 0x100000);
    do_access(va, false, WRITE);
    CHECK_EXC("2M writable", NO_EXC, 0);
    TRY_C("mov %0, %%cr3", , ARGS("r"(cr3 | BIT(51))));
    if ((cpuid(0x80000008, 0).eax & 0xff) <= 51)
        CHECK_EXC("CR3 beyond MAXPHYADDR", GP, 0);
    write_cr3(cr3);
}

struct invpcid_descriptor {
    uint64_t pcid, address;
};

static void invpcid(uint64_t type, uint64_t pcid, uint64_t address)
{
    struct invpcid_descriptor d = { pcid, address };

    TRY("invpcid %1, %0", "r"(type), "m"(d));
}

static void test_pcid(void)
{
    uint64_t cr3 = read_cr3(), cr4 = read_cr4(), other = (uint64_t)page_alloc(), va;
    uint64_t *second_root = page_alloc();
    volatile uint64_t *p;

    if (!(cpuid(1, 0).ecx & BIT(17))) {
        guest_skip("PCID");
        return;
    }
    setup_tables();
    va = build(1);
    p = (volatile uint64_t *)(va + 64);
    *(uint64_t *)(frame + 64) = 1;
    *(uint64_t *)(other + 64) = 2;
    write_cr3(cr3 | 8); /* PCD, but bits 11:0 are not 0 */
    TRY_C("mov %0, %%cr4", , ARGS("r"(cr4 | CR4_PCIDE)));
    CHECK_EXC("CR4.PCIDE with CR3[11:0] != 0", GP, 0);
    write_cr3(cr3);
    write_cr4(cr4 | CR4_PCIDE);
    TRY_C("mov %0, %%cr0", , ARGS("r"(read_cr0() & ~CR0_PG)));
    CHECK_EXC("CR0.PG off with PCIDE", GP, 0);
    /* Two address spaces with their own view of one address. */
    memcpy(second_root, boot_pml4, 4096);
    second_root[1] = 0;
    *pt_entry(second_root, va, 1) = other | PTE_P | PTE_W;
    write_cr3(cr3 | 1);
    CHECK_EQ("PCID 1", *p, 1);
    write_cr3((uint64_t)second_root | 2);
    CHECK_EQ("PCID 2", *p, 2);
    write_cr3(cr3 | 1 | BIT(63));
    CHECK_EQ("PCID 1, kept", *p, 1);
    CHECK_EQ("CR3 bit 63 reads as 0", read_cr3(), cr3 | 1);
    write_cr3((uint64_t)second_root | 2 | BIT(63));
    CHECK_EQ("PCID 2, kept", *p, 2);
    /* An INVLPG-less change of PCID 1's table shows after a load of CR3 that flushes that PCID. */
    *entry(1, 1) = other | PTE_P | PTE_W;
    write_cr3(cr3 | 1);
    CHECK_EQ("PCID 1, flushed", *p, 2);
    if (cpuid(7, 0).ebx & BIT(10)) {
        static const char *const names[] = { "INVPCID address", "INVPCID context", "INVPCID all",
                                             "INVPCID non-global" };

        for (unsigned type = 0; type < 4; type++) {
            *entry(1, 1) = frame | PTE_P | PTE_W;
            invpcid(0, 1, va);
            CHECK_EQ("before", *p, 1);
            write_cr3((uint64_t)second_root | 2 | BIT(63));
            *entry(1, 1) = other | PTE_P | PTE_W;
            invpcid(type, type < 2 ? 1 : 0, va);
            CHECK_EXC(names[type], NO_EXC, 0);
            write_cr3(cr3 | 1 | BIT(63));
            CHECK_EQ(names[type], *p, 2);
        }
        invpcid(4, 0, 0);
        CHECK_EXC("INVPCID type 4", GP, 0);
        invpcid(0, 0x1000, va);
        CHECK_EXC("INVPCID descriptor's reserved bits", GP, 0);
        invpcid(0, 1, 0x800000000000ULL);
        CHECK_EXC("INVPCID address, not canonical", GP, 0);
        invpcid(1, 1, 0x800000000000ULL);
        CHECK_EXC("INVPCID context ignores the address", NO_EXC, 0);
    } else {
        guest_skip("INVPCID");
    }
    write_cr3(cr3);
    write_cr4(cr4);
    if (cpuid(7, 0).ebx & BIT(10)) {
        invpcid(0, 1, va);
        CHECK_EXC("INVPCID address with PCID 1 while PCIDE = 0", GP, 0);
        invpcid(1, 1, va);
        CHECK_EXC("INVPCID context with PCID 1 while PCIDE = 0", GP, 0);
        invpcid(2, 0, 0);
        CHECK_EXC("INVPCID all while PCIDE = 0", NO_EXC, 0);
    }
    TRY_C("mov %0, %%cr3", , ARGS("r"(cr3 | BIT(63))));
    CHECK_EXC("CR3 bit 63 while PCIDE = 0", GP, 0);
}

/* Implicit supervisor accesses (descriptor tables) ignore AC; SDM 4.6.1. The descriptors that the fault's own delivery
 * needs stand in a supervisor page, the one that is loaded in the user page behind it. */
static void test_smap_implicit(void)
{
    uint64_t a, b, at, cr4 = read_cr4();
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) gdtr;

    if (!(cpuid(7, 0).ebx & BIT(20))) {
        guest_skip("SMAP");
        return;
    }
    at = build_pair(PTE_P | PTE_W, PTE_P | PTE_W | PTE_U, &a, &b);
    memcpy((void *)(a + 0x1000 - SEL_TEST), gdt, SEL_TEST);
    *(uint64_t *)b = gdt[SEL_DATA / 8];
    gdtr.limit = 0x7ff;
    gdtr.base = at - SEL_TEST;
    TRY_C("lgdt %1; mov %0, %%es", , ARGS("r"(SEL_TEST), "m"(gdtr)));
    CHECK_EXC("segment load from a user page without SMAP", NO_EXC, 0);
    write_cr4(cr4 | CR4_SMAP);
    TRY_C("stac; mov %0, %%es; clac", , ARGS("r"(SEL_TEST)));
    CHECK_EXC("segment load from a user page with AC = 1", PF, 1);
    CHECK_EQ("cr2", exc.cr2, at);
    __asm__ volatile("lgdt %0" ::"m"(gdt_pointer));
    write_cr4(cr4);
    TRY("stac");
    CHECK_EXC("STAC at CPL 0", NO_EXC, 0);
    __asm__ volatile("clac");
}

/* A page-table walk that leaves RAM, and tables whose frames are devices, must not hurt the machine. */
static void test_walk_outside_ram(void)
{
    uint64_t va;

    setup_tables();
    va = build(1);
    *entry(1, 2) = 0xf00000000 | PTE_P | PTE_W | PTE_U; /* reads as all ones: reserved bits, or missing memory */
    invlpg(va);
    do_access(va, false, READ);
    CHECK_EQ("a page table where there is no memory", exc.vector, PF);
    va = build(1);
}

const struct guest_test guest_tests[] = {
    { "permission matrix", test_matrix },
    { "without NXE", test_without_nxe },
    { "reserved bits", test_reserved_bits },
    { "ignored bits", test_ignored_bits },
    { "page crossing", test_page_crossing },
    { "fetch crossing", test_fetch_crossing },
    { "write intent", test_write_intent },
    { "INVLPG and CR3", test_invlpg_and_cr3 },
    { "PCID", test_pcid },
    { "SMAP, implicit accesses", test_smap_implicit },
    { "walk outside RAM", test_walk_outside_ram },
    { 0 },
};
