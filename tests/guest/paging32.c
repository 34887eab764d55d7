/* 32-bit paging with and without PSE, and PAE paging: permissions and error codes, large pages, reserved bits, PDPTEs.
 * Intel SDM volume 3, sections 4.3 (32-bit), 4.4 (PAE), 4.6, 4.7. */
#include "prot.h"

#define TEST_VA 0x40000000u
enum { READ, WRITE, FETCH };

static uint32_t *pd, *pt;
static uint64_t *pdpt, *pd_pae[4], *pt_pae;
static uint32_t frame;

/* 32-bit tables: 4 MiB one to one for the first 64 MiB (by 4 KiB tables, so that PSE is not needed), the test region
 * apart. */
static void setup32(void)
{
    frame = (uint32_t)page_alloc();
    *(uint8_t *)frame = 0xc3;
    ((uint8_t *)frame)[16] = 0xcd;
    ((uint8_t *)frame)[17] = 0x80;
    pd = page_alloc();
    pt = page_alloc();
    for (unsigned i = 0; i < 16; i++) {
        uint32_t *table = page_alloc();

        for (unsigned k = 0; k < 1024; k++)
            table[k] = (i << 22 | k << 12) | 7;
        pd[i] = (uint32_t)table | 7;
    }
}

SNIPPET(u_read, "movb 32(%edi), %al; int $0x80");
SNIPPET(u_write, "movb $1, 32(%edi); int $0x80");
SNIPPET(u_fetch, "addl $16, %edi; jmp *%edi");

static void user_access(uint32_t va, int kind)
{
    const struct regs regs = { .edi = va };

    /* Ring 3 needs data segments of its own: SS is ring 3's, so use it by EDI through a loaded DS. */
    __asm__ volatile("mov %w0, %%ds" ::"r"(SEL_UDATA));
    user_exec(kind == READ ? u_read : kind == WRITE ? u_write : u_fetch, &regs, 2);
    if (exc.vector == 0x80)
        exc.vector = NO_EXC;
}

static void kernel_access(uint32_t va, int kind)
{
    if (kind == READ)
        TRY("movb 32(%0), %%al", "r"(va));
    else if (kind == WRITE)
        TRY("movb $1, 32(%0)", "r"(va));
    else
        TRY("call *%0", "r"(va));
}

static void check_access(const char *what, uint32_t va, bool user, int kind, bool ok, uint32_t error)
{
    if (user)
        user_access(va, kind);
    else
        kernel_access(va, kind);
    guest_checks++;
    if (exc.vector != (ok ? NO_EXC : PF) || (!ok && exc.error != error))
        guest_fail("%s %s kind %d: vector %d error 0x%x, expected %s 0x%x", what, user ? "user" : "kernel", kind,
                   exc.vector, (unsigned long)exc.error, ok ? "none" : "#PF", (unsigned long)error);
    if (!ok && exc.vector == PF)
        CHECK_EQ("cr2", exc.cr2, va + (kind != FETCH ? 32 : user ? 16 : 0));
}

static void matrix(const char *what, uint32_t va, volatile uint32_t *entry, bool pae_nx, bool wp)
{
    uint32_t saved = *entry;

    for (unsigned flags = 0; flags < 8; flags++) {
        for (int kind = READ; kind <= FETCH; kind++) {
            for (unsigned user = 0; user < 2; user++) {
                bool p = flags & 1, w = flags & 2, u = flags & 4;
                bool ok = p && (!user || u) && (kind != WRITE || w || (!user && !wp));
                uint32_t error =
                    (p ? 1u : 0) | (kind == WRITE ? 2u : 0) | (user ? 4u : 0) | (kind == FETCH && pae_nx ? 16u : 0);

                *entry = (saved & ~0x67u) | flags;
                __asm__ volatile("invlpg (%0)" ::"r"(va) : "memory");
                check_access(what, va, user, kind, ok, error);
                if (ok && !(*entry & 0x20))
                    guest_fail("%s: A not set", what);
            }
        }
    }
    *entry = saved;
    __asm__ volatile("invlpg (%0)" ::"r"(va) : "memory");
}

static void test_32bit(void)
{
    uint32_t va = TEST_VA;

    setup32();
    pd[TEST_VA >> 22] = (uint32_t)pt | 7;
    pt[0] = frame | 7;
    write_cr4(0);
    write_cr3((uint32_t)pd);
    write_cr0(read_cr0() | CR0_PG | CR0_WP);
    matrix("PTE", va, &pt[0], false, true);
    matrix("PDE", va, &pd[TEST_VA >> 22], false, true);
    write_cr0(read_cr0() & ~CR0_WP);
    matrix("PTE without WP", va, &pt[0], false, false);
    write_cr0(read_cr0() | CR0_WP);
    pt[0] = frame | 7;
    check_access("write", va, false, WRITE, true, 0);
    CHECK(pt[0] & 0x40, "D set");
    /* Without CR4.PSE the PS bit is ignored. */
    pd[TEST_VA >> 22] = (uint32_t)pt | 7 | 0x80;
    write_cr3((uint32_t)pd);
    check_access("PS without CR4.PSE", va, true, READ, true, 0);
}

static void test_pse(void)
{
    uint32_t va = TEST_VA + (frame & 0x3fffff), pse36 = cpuid(1, 0).edx & BIT(17);

    write_cr4(CR4_PSE);
    pd[TEST_VA >> 22] = (frame & 0xffc00000) | 0x87;
    write_cr3((uint32_t)pd);
    matrix("4 MiB PDE", va, &pd[TEST_VA >> 22], false, true);
    check_access("4 MiB page", va, true, FETCH, true, 0);
    pd[TEST_VA >> 22] = (frame & 0xffc00000) | 0x87;
    write_cr3((uint32_t)pd);
    check_access("4 MiB page", va, true, WRITE, true, 0);
    CHECK_EQ("A and D of the PDE", pd[TEST_VA >> 22] & 0x60, 0x60);
    pd[TEST_VA >> 22] = (frame & 0xffc00000) | 0x87 | 1u << 21; /* reserved */
    write_cr3((uint32_t)pd);
    check_access("reserved bit 21", va, false, READ, false, 9);
    check_access("reserved bit 21", va, true, WRITE, false, 15);
    if (!pse36)
        guest_skip("PSE-36");
    pd[TEST_VA >> 22] = (uint32_t)pt | 7;
    write_cr3((uint32_t)pd);
}

static void test_global_32(void)
{
    uint32_t other = (uint32_t)page_alloc();
    volatile uint32_t *p = (volatile uint32_t *)(TEST_VA + 64);

    if (!(cpuid(1, 0).edx & BIT(13)))
        return;
    write_cr4(CR4_PSE | CR4_PGE);
    *(uint32_t *)(frame + 64) = 1;
    *(uint32_t *)(other + 64) = 2;
    pt[0] = frame | 7 | 0x100;
    __asm__ volatile("invlpg (%0)" ::"r"(TEST_VA) : "memory");
    CHECK_EQ("first", *p, 1);
    pt[0] = other | 7 | 0x100;
    __asm__ volatile("invlpg (%0)" ::"r"(TEST_VA) : "memory");
    CHECK_EQ("INVLPG drops a global page", *p, 2);
    pt[0] = frame | 7;
    write_cr4(CR4_PSE);
    CHECK_EQ("CR4.PGE off drops it", *p, 1);
}

static void setup_pae(void)
{
    pdpt = page_alloc();
    pt_pae = page_alloc();
    for (unsigned i = 0; i < 4; i++) {
        pd_pae[i] = page_alloc();
        pdpt[i] = (uint32_t)pd_pae[i] | 1;
    }
    for (unsigned k = 0; k < 32; k++)
        pd_pae[0][k] = (uint64_t)k << 21 | 0x87;
    pd_pae[1][0] = (uint32_t)pt_pae | 7;
    pt_pae[0] = frame | 7;
    pd_pae[1][1] = (frame & ~0x1fffffu) | 0x87;
}

static void pae_enter(void)
{
    write_cr0(read_cr0() & ~CR0_PG);
    write_cr4(CR4_PAE);
    write_cr3((uint32_t)pdpt);
    write_cr0(read_cr0() | CR0_PG | CR0_WP);
}

static void test_pae(void)
{
    uint32_t va2m = TEST_VA + 0x200000 + (frame & 0x1fffff);

    setup_pae();
    pae_enter();
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~BIT(11));
    matrix("PAE PTE", TEST_VA, (uint32_t *)&pt_pae[0], false, true);
    matrix("PAE PDE", TEST_VA, (uint32_t *)&pd_pae[1][0], false, true);
    matrix("PAE 2 MiB PDE", va2m, (uint32_t *)&pd_pae[1][1], false, true);
    pt_pae[0] = frame | 7 | PTE_NX;
    write_cr3((uint32_t)pdpt);
    check_access("NX bit without NXE", TEST_VA, false, READ, false, 9);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | BIT(11));
    write_cr3((uint32_t)pdpt);
    check_access("NX, read", TEST_VA, false, READ, true, 0);
    check_access("NX, fetch", TEST_VA, false, FETCH, false, 0x11);
    check_access("NX, user fetch", TEST_VA, true, FETCH, false, 0x15);
    pt_pae[0] = frame | 7;
    write_cr3((uint32_t)pdpt);
    matrix("PAE PTE with NXE", TEST_VA, (uint32_t *)&pt_pae[0], true, true);
    pt_pae[0] = frame | 7 | BIT(52);
    write_cr3((uint32_t)pdpt);
    check_access("reserved bit 52 (ignored only in long mode)", TEST_VA, false, READ, false, 9);
    pt_pae[0] = frame | 7 | BIT(62);
    write_cr3((uint32_t)pdpt);
    check_access("reserved bit 62", TEST_VA, false, READ, false, 9);
    pt_pae[0] = frame | 7;
    pd_pae[1][1] |= BIT(14);
    write_cr3((uint32_t)pdpt);
    check_access("reserved bit of a 2 MiB page", va2m, false, READ, false, 9);
    pd_pae[1][1] &= ~BIT(14);
    /* PDPTEs are loaded, and checked, with CR3. */
    for (unsigned bit = 1; bit <= 8; bit++) {
        if (bit == 3 || bit == 4)
            continue;
        pdpt[3] = (uint32_t)pd_pae[3] | 1 | 1u << bit;
        TRY("mov %0, %%cr3", "r"((uint32_t)pdpt));
        CHECK_EXC("PDPTE, reserved bit", GP, 0);
    }
    pdpt[3] = (uint32_t)pd_pae[3] | 1 | BIT(63);
    TRY("mov %0, %%cr3", "r"((uint32_t)pdpt));
    CHECK_EXC("PDPTE, bit 63", GP, 0);
    pdpt[3] = (uint32_t)pd_pae[3] | 6; /* not present: nothing is checked */
    TRY("mov %0, %%cr3", "r"((uint32_t)pdpt));
    CHECK_EXC("PDPTE not present", NO_EXC, 0);
    check_access("through a PDPTE that is not present", 0xc0000000, false, WRITE, false, 2);
    /* CR3 needs alignment to 32 only. */
    memcpy((uint8_t *)pdpt + 32, pdpt, 32);
    write_cr3((uint32_t)pdpt + 32);
    check_access("PDPT at offset 32", TEST_VA, true, READ, true, 0);
}

static void test_leave(void)
{
    write_cr0(read_cr0() & ~CR0_PG);
    write_cr4(0);
    CHECK_EQ("memory is as before", *(uint8_t *)frame, 0xc3);
    wrmsr(MSR_EFER, 0);
    /* LME with PG but without PAE: #GP when paging is turned on (SDM volume 3, 4.1.1). */
    wrmsr(MSR_EFER, BIT(8));
    TRY("mov %0, %%cr0", "r"((uint32_t)(read_cr0() | CR0_PG)));
    CHECK_EXC("PG with LME without PAE", GP, 0);
    wrmsr(MSR_EFER, 0);
    TRY("mov %0, %%cr0", "r"((uint32_t)(read_cr0() & ~CR0_PE) | (uint32_t)CR0_PG));
    CHECK_EXC("PG without PE", GP, 0);
    TRY("mov %0, %%cr4", "r"((uint32_t)CR4_PCIDE));
    CHECK_EXC("PCIDE outside long mode", GP, 0);
}

const struct guest_test guest_tests[] = {
    { "32-bit paging", test_32bit },    { "4 MiB pages", test_pse },
    { "global pages", test_global_32 }, { "PAE", test_pae },
    { "leaving", test_leave },          { 0 },
};
