/* x87, SSE and AVX as the system sees them: #NM, #UD, #MF, #XM, alignment, XSAVE and XRSTOR with their checks, masked
 * moves. Arithmetic is compared elsewhere (random streams against the host). Intel SDM volume 3, sections 2.5 (CR0.EM,
 * MP, TS), 13.1 (table 13-1), 8.3.3; volume 1, chapter 13 (XSAVE), 4.9 (#XM), 8.6 (#MF). */
#include "long.h"

static uint8_t area[8192] __attribute__((aligned(64)));
static bool has_xsave, has_avx, has_avx2;

static void start(void)
{
    struct cpuid_regs one = cpuid(1, 0);

    has_xsave = one.ecx & BIT(26);
    has_avx = has_xsave && one.ecx & BIT(28);
    has_avx2 = has_avx && cpuid(7, 0).ebx & BIT(5);
    if (has_xsave) {
        write_cr4(read_cr4() | CR4_OSXSAVE);
        __asm__ volatile("xsetbv" ::"c"(0), "a"(has_avx ? 7 : 3), "d"(0));
    }
    __asm__ volatile("fninit; ldmxcsr %0" ::"m"(*&(const uint32_t){ 0x1f80 }));
}

static void test_availability(void)
{
    uint64_t cr0 = read_cr0(), cr4 = read_cr4();

    write_cr0(cr0 | CR0_TS | CR0_MP);
    TRY("fld1");
    CHECK_EXC("x87 with TS", NM, 0);
    TRY("fwait");
    CHECK_EXC("FWAIT with TS and MP", NM, 0);
    TRY("fnstsw %%ax");
    CHECK_EXC("FNSTSW with TS", NM, 0);
    TRY("xorps %%xmm0, %%xmm0");
    CHECK_EXC("SSE with TS", NM, 0);
    TRY("pxor %%mm0, %%mm0");
    CHECK_EXC("MMX with TS", NM, 0);
    TRY("ldmxcsr %0", "m"(*&(const uint32_t){ 0x1f80 }));
    CHECK_EXC("LDMXCSR with TS", NM, 0);
    TRY("fxsave (%0)", "r"(area));
    CHECK_EXC("FXSAVE with TS", NM, 0);
    TRY("prefetcht0 (%0); sfence; mfence; lfence; movnti %%rax, (%0)", "r"(area));
    CHECK_EXC("no vector registers, no #NM", NO_EXC, 0);
    if (has_avx) {
        TRY("vxorps %%ymm0, %%ymm0, %%ymm0");
        CHECK_EXC("AVX with TS", NM, 0);
        TRY("xsave (%0)", "r"(area));
        CHECK_EXC("XSAVE with TS", NM, 0);
    }
    write_cr0((cr0 | CR0_TS) & ~CR0_MP);
    TRY("fwait");
    CHECK_EXC("FWAIT with TS, without MP", NO_EXC, 0);
    write_cr0((cr0 | CR0_EM) & ~CR0_TS);
    TRY("fld1");
    CHECK_EXC("x87 with EM", NM, 0);
    TRY("fwait");
    CHECK_EXC("FWAIT with EM", NO_EXC, 0);
    TRY("xorps %%xmm0, %%xmm0");
    CHECK_EXC("SSE with EM", UD, 0);
    TRY("pxor %%mm0, %%mm0");
    CHECK_EXC("MMX with EM", UD, 0);
    write_cr0(cr0);
    write_cr4(cr4 & ~CR4_OSFXSR);
    TRY("xorps %%xmm0, %%xmm0");
    CHECK_EXC("SSE without OSFXSR", UD, 0);
    TRY("pxor %%mm0, %%mm0; emms; fxsave (%0)", "r"(area));
    CHECK_EXC("MMX and FXSAVE without OSFXSR", NO_EXC, 0);
    write_cr4(cr4);
    if (has_avx) {
        __asm__ volatile("xsetbv" ::"c"(0), "a"(3), "d"(0));
        TRY("vxorps %%ymm0, %%ymm0, %%ymm0");
        CHECK_EXC("AVX without XCR0.AVX", UD, 0);
        TRY("xorps %%xmm0, %%xmm0");
        CHECK_EXC("SSE without XCR0.AVX", NO_EXC, 0);
        __asm__ volatile("xsetbv" ::"c"(0), "a"(7), "d"(0));
        write_cr4(cr4 & ~CR4_OSXSAVE);
        TRY("vxorps %%xmm0, %%xmm0, %%xmm0");
        CHECK_EXC("AVX without OSXSAVE", UD, 0);
        TRY("xsave (%0)", "r"(area));
        CHECK_EXC("XSAVE without OSXSAVE", UD, 0);
        write_cr4(cr4);
    }
}

static void test_mf(void)
{
    uint16_t cw = 0x37b, sw; /* ZM clear */

    TRY_C("fninit; fldcw %0; fld1; fldz; fdivrp; 1: fwait", , ARGS("m"(cw)));
    CHECK_EXC("division by 0, unmasked", MF, 0);
    CHECK_EQ("reported by the next waiting instruction", *(uint8_t *)exc.frame.rip, 0x9b);
    __asm__ volatile("fnstsw %0" : "=m"(sw));
    CHECK_EQ("ES, ZE", sw & 0x84, 0x84);
    TRY("fnstsw %%ax; fnclex; fwait");
    CHECK_EXC("cleared", NO_EXC, 0);
    TRY_C("fninit; fldcw %0; fld1; fldz; fdivrp; fninit; fwait", , ARGS("m"(cw)));
    CHECK_EXC("FNINIT drops it", NO_EXC, 0);
    TRY("fninit; fld1; fldz; fdivrp; fwait; fninit");
    CHECK_EXC("masked", NO_EXC, 0);
    TRY_C("fninit; fldcw %0; fld1; fldz; fdivrp; pxor %%mm0, %%mm0", , ARGS("m"(cw)));
    CHECK_EXC("MMX reports it too", MF, 0);
    TRY_C("fnclex; fninit; fldcw %0; fld1; fldz; fdivrp; xorps %%xmm0, %%xmm0", , ARGS("m"(cw)));
    CHECK_EXC("SSE does not", NO_EXC, 0);
    __asm__ volatile("fninit");
}

static void test_xm(void)
{
    uint32_t unmasked = 0x1d80 /* ZM clear */, masked = 0x1f80, csr;
    uint64_t cr4 = read_cr4(), v;

    TRY_C("ldmxcsr %0; movl $0x3f800000, %%eax; movd %%eax, %%xmm1; xorps %%xmm2, %%xmm2; divss %%xmm2, %%xmm1", ,
          ARGS("m"(unmasked)), "rax");
    CHECK_EXC("DIVSS by 0, unmasked", XM, 0);
    __asm__ volatile("stmxcsr %0; movq %%xmm1, %1" : "=m"(csr), "=r"(v));
    CHECK_EQ("ZE in MXCSR", csr & 0x3f, 4);
    CHECK_EQ("destination stays", (uint32_t)v, 0x3f800000);
    write_cr4(cr4 & ~CR4_OSXMMEXCPT);
    TRY_C("ldmxcsr %0; divss %%xmm2, %%xmm1", , ARGS("m"(unmasked)));
    CHECK_EXC("without OSXMMEXCPT", UD, 0);
    write_cr4(cr4);
    TRY_C("ldmxcsr %0; divss %%xmm2, %%xmm1; movd %%xmm1, %%eax", , ARGS("m"(masked)), "rax");
    CHECK_EXC("masked", NO_EXC, 0);
    __asm__ volatile("stmxcsr %0; movq %%xmm1, %1" : "=m"(csr), "=r"(v));
    CHECK_EQ("infinity", (uint32_t)v, 0x7f800000);
    CHECK_EQ("ZE", csr & 0x3f, 4);
    TRY("ldmxcsr %0", "m"(*&(const uint32_t){ 0x10000 }));
    CHECK_EXC("LDMXCSR, reserved bit", GP, 0);
    __asm__ volatile("ldmxcsr %0" ::"m"(masked));
}

static void test_alignment(void)
{
    uint64_t page = (uint64_t)page_alloc(), at = 0x8000000000ULL;

    TRY("movaps (%0), %%xmm0", "r"(area + 8));
    CHECK_EXC("MOVAPS", GP, 0);
    TRY("movdqa %%xmm0, (%0)", "r"(area + 1));
    CHECK_EXC("MOVDQA", GP, 0);
    TRY("movups (%0), %%xmm0", "r"(area + 1));
    CHECK_EXC("MOVUPS", NO_EXC, 0);
    TRY("addps (%0), %%xmm0", "r"(area + 4));
    CHECK_EXC("ADDPS", GP, 0);
    TRY("addss (%0), %%xmm0", "r"(area + 1));
    CHECK_EXC("ADDSS", NO_EXC, 0);
    TRY("movntdq %%xmm0, (%0)", "r"(area + 8));
    CHECK_EXC("MOVNTDQ", GP, 0);
    TRY("fxsave (%0)", "r"(area + 8));
    CHECK_EXC("FXSAVE", GP, 0);
    TRY("fxrstor (%0)", "r"(area + 8));
    CHECK_EXC("FXRSTOR", GP, 0);
    map_page(at, page, PTE_P | PTE_W);
    map_page(at + 4096, 0, 0);
    memset((void *)page, 0x77, 4096);
    TRY("movups (%0), %%xmm0", "r"(at + 4090));
    CHECK_EXC("MOVUPS over a missing page", PF, 0);
    CHECK_EQ("CR2", exc.cr2, at + 4096);
    TRY("movups %%xmm0, (%0)", "r"(at + 4090));
    CHECK_EXC("MOVUPS store", PF, 2);
    CHECK_EQ("nothing stored", *(uint8_t *)(page + 4095), 0x77);
    if (has_avx) {
        TRY("vmovaps (%0), %%ymm0", "r"(area + 16));
        CHECK_EXC("VMOVAPS of 32 bytes at 16", GP, 0);
        TRY("vaddps (%0), %%ymm0, %%ymm0", "r"(area + 4));
        CHECK_EXC("VADDPS needs none", NO_EXC, 0);
        TRY("vmovups %%ymm0, (%0)", "r"(at + 4080));
        CHECK_EXC("VMOVUPS store over a missing page", PF, 2);
    }
}

static void test_fxsave(void)
{
    uint64_t v = 0;

    memset(area, 0, 512);
    __asm__ volatile("fninit; fldpi; movq %0, %%xmm3; fxsave64 (%1)" ::"r"(0x1122334455667788), "r"(area) : "memory");
    CHECK_EQ("FCW", *(uint16_t *)area, 0x37f);
    CHECK_EQ("FTW, abridged", area[4], 0x80);
    CHECK_EQ("MXCSR", *(uint32_t *)(area + 24) & 0xffc0, 0x1f80);
    CHECK_EQ("ST0 mantissa", *(uint64_t *)(area + 32), 0xc90fdaa22168c235);
    CHECK_EQ("ST0 exponent", *(uint16_t *)(area + 40), 0x4000);
    CHECK_EQ("XMM3", *(uint64_t *)(area + 160 + 48), 0x1122334455667788);
    __asm__ volatile("fninit; pxor %%xmm3, %%xmm3; fxrstor64 (%0)" ::"r"(area) : "memory");
    __asm__ volatile("movq %%xmm3, %0" : "=r"(v));
    CHECK_EQ("XMM3 is back", v, 0x1122334455667788);
    __asm__ volatile("fstpl %0" : "=m"(v));
    CHECK_EQ("ST0 is back", v, 0x400921fb54442d18);
    *(uint32_t *)(area + 24) |= 0x10000;
    TRY("fxrstor (%0)", "r"(area));
    CHECK_EXC("FXRSTOR, MXCSR's reserved bits", GP, 0);
    __asm__ volatile("fninit");
}

static void xsave(uint64_t mask)
{
    TRY_C("xsave64 (%2)", , ARGS("a"((uint32_t)mask), "d"((uint32_t)(mask >> 32)), "r"(area)));
}

static void xrstor(uint64_t mask)
{
    TRY_C("xrstor64 (%2)", , ARGS("a"((uint32_t)mask), "d"((uint32_t)(mask >> 32)), "r"(area)));
}

#define XSTATE_BV (*(uint64_t *)(area + 512))
#define XCOMP_BV (*(uint64_t *)(area + 520))

static void test_xsave(void)
{
    uint64_t v;

    if (!has_xsave) {
        guest_skip("XSAVE");
        return;
    }
    memset(area, 0, sizeof(area));
    __asm__ volatile("fninit; fldpi; movq %0, %%xmm7" ::"r"(0x0102030405060708));
    xsave(3);
    CHECK_EXC("XSAVE", NO_EXC, 0);
    CHECK_EQ("XSTATE_BV", XSTATE_BV & 7, 3);
    CHECK_EQ("XMM7", *(uint64_t *)(area + 160 + 7 * 16), 0x0102030405060708);
    __asm__ volatile("fninit; pxor %%xmm7, %%xmm7" ::);
    xrstor(3);
    CHECK_EXC("XRSTOR", NO_EXC, 0);
    __asm__ volatile("movq %%xmm7, %0" : "=r"(v));
    CHECK_EQ("XMM7 is back", v, 0x0102030405060708);
    __asm__ volatile("fstpl %0" : "=m"(v));
    CHECK_EQ("ST0 is back", v, 0x400921fb54442d18);
    /* A component that is clear in XSTATE_BV is initialised, one that is not asked for stays. */
    __asm__ volatile("movq %0, %%xmm7" ::"r"(0x1234ULL));
    XSTATE_BV = 0;
    xrstor(1);
    __asm__ volatile("movq %%xmm7, %0" : "=r"(v));
    CHECK_EQ("not asked for", v, 0x1234);
    xrstor(2);
    __asm__ volatile("movq %%xmm7, %0" : "=r"(v));
    CHECK_EQ("initialised", v, 0);
    /* XSAVE writes only what is asked for. */
    memset(area, 0xee, 512);
    memset(area + 512, 0, 64);
    xsave(1);
    CHECK_EQ("XMM area untouched", *(uint64_t *)(area + 160), 0xeeeeeeeeeeeeeeee);
    CHECK_EQ("XSTATE_BV's other bits untouched", XSTATE_BV & ~1ULL, 0);
    xsave(~0ULL);
    CHECK_EXC("bits beyond XCR0 are ignored", NO_EXC, 0);
    XSTATE_BV |= BIT(62);
    xrstor(3);
    CHECK_EXC("XSTATE_BV beyond XCR0", GP, 0);
    XSTATE_BV = 3;
    XCOMP_BV = 1;
    xrstor(3);
    CHECK_EXC("XCOMP_BV without the compact bit", GP, 0);
    XCOMP_BV = 0;
    area[530] = 1;
    xrstor(3);
    CHECK_EXC("reserved header bytes", GP, 0);
    area[530] = 0;
    *(uint32_t *)(area + 24) = 0x80000000;
    xrstor(3);
    CHECK_EXC("MXCSR's reserved bits", GP, 0);
    TRY_C("xsave (%2)", , ARGS("a"(3), "d"(0), "r"(area + 16)));
    CHECK_EXC("XSAVE at 16", GP, 0);
    TRY_C("xrstor (%2)", , ARGS("a"(3), "d"(0), "r"(area + 16)));
    CHECK_EXC("XRSTOR at 16", GP, 0);
}

static void test_avx_state(void)
{
    uint64_t hi, lo;

    if (!has_avx) {
        guest_skip("AVX");
        return;
    }
    memset(area, 0, sizeof(area));
    *(uint64_t *)(area + 2048) = 0xaaaa;
    *(uint64_t *)(area + 2048 + 16) = 0xbbbb;
    __asm__ volatile("vmovups (%0), %%ymm5" ::"r"(area + 2048));
    xsave(7);
    CHECK_EQ("XSTATE_BV", XSTATE_BV & 4, 4);
    CHECK_EQ("upper half of YMM5", *(uint64_t *)(area + 576 + 5 * 16), 0xbbbb);
    __asm__ volatile("vzeroall");
    xrstor(7);
    __asm__ volatile("vextractf128 $1, %%ymm5, %%xmm6; movq %%xmm6, %0; movq %%xmm5, %1" : "=r"(hi), "=r"(lo));
    CHECK_EQ("upper half", hi, 0xbbbb);
    CHECK_EQ("lower half", lo, 0xaaaa);
    /* Legacy SSE leaves the upper half, VEX.128 clears it. */
    __asm__ volatile("movaps %%xmm1, %%xmm5; vextractf128 $1, %%ymm5, %%xmm6; movq %%xmm6, %0" : "=r"(hi));
    CHECK_EQ("MOVAPS keeps the upper half", hi, 0xbbbb);
    __asm__ volatile("vmovaps %%xmm1, %%xmm5; vextractf128 $1, %%ymm5, %%xmm6; movq %%xmm6, %0" : "=r"(hi));
    CHECK_EQ("VMOVAPS of 128 bits clears it", hi, 0);
    __asm__ volatile("vzeroupper");
}

/* Elements that are masked out touch no memory; a gather that faults keeps what it has. */
static void test_masked(void)
{
    uint64_t page = (uint64_t)page_alloc(), at = 0x8000000000ULL;
    static uint32_t mask[8] __attribute__((aligned(32)));
    static int32_t index[8] __attribute__((aligned(32)));
    static uint32_t result[8] __attribute__((aligned(32)));

    if (!has_avx2) {
        guest_skip("AVX2");
        return;
    }
    map_page(at, page, PTE_P | PTE_W);
    map_page(at + 4096, 0, 0);
    *(uint32_t *)(page + 4092) = 0x600d;
    mask[0] = 0x80000000;
    TRY("vmovdqa (%1), %%ymm1; vmaskmovps (%0), %%ymm1, %%ymm0; vmovdqa %%ymm0, (%2)", "r"(at + 4092), "r"(mask),
        "r"(result));
    CHECK_EXC("VMASKMOVPS load, others masked out", NO_EXC, 0);
    CHECK(result[0] == 0x600d && result[1] == 0, "VMASKMOVPS's value");
    TRY("vmovdqa (%1), %%ymm1; vpmaskmovd %%ymm1, %%ymm1, (%0)", "r"(at + 4092), "r"(mask));
    CHECK_EXC("VPMASKMOVD store", NO_EXC, 0);
    CHECK_EQ("stored", *(uint32_t *)(page + 4092), 0x80000000);
    mask[1] = 0x80000000;
    TRY("vmovdqa (%1), %%ymm1; vmaskmovps (%0), %%ymm1, %%ymm0", "r"(at + 4092), "r"(mask));
    CHECK_EXC("second element is asked for", PF, 0);
    TRY("vmovdqa (%1), %%ymm1; vpmaskmovd %%ymm1, %%ymm1, (%0)", "r"(at + 4092), "r"(mask));
    CHECK_EXC("store of the second element", PF, 2);
    CHECK_EQ("CR2", exc.cr2, at + 4096);
    for (unsigned i = 0; i < 8; i++) {
        mask[i] = 0x80000000;
        index[i] = i == 5 ? 1024 : (int32_t)i; /* element 5 is in the missing page */
        *(uint32_t *)(page + 4 * i) = 100 + i;
        result[i] = 7;
    }
    TRY("vmovdqa (%1), %%ymm1; vmovdqa (%2), %%ymm2; vmovdqa (%3), %%ymm0; vpgatherdd %%ymm1, (%0,%%ymm2,4), %%ymm0",
        "r"(at), "r"(mask), "r"(index), "r"(result));
    CHECK_EXC("VPGATHERDD", PF, 0);
    CHECK_EQ("CR2", exc.cr2, at + 4096);
    __asm__ volatile("vmovdqa %%ymm0, (%0); vmovdqa %%ymm1, (%1)" ::"r"(result), "r"(mask) : "memory");
    CHECK(result[5] == 7 && mask[5] == 0x80000000, "element 5 is still to do");
    for (unsigned i = 0; i < 5; i++)
        CHECK(result[i] == 100 + i && mask[i] == 0, "element %u is done", i);
    index[5] = 5;
    TRY("vmovdqa (%1), %%ymm2; vpgatherdd %%ymm1, (%0,%%ymm2,4), %%ymm0", "r"(at), "r"(index));
    CHECK_EXC("again", NO_EXC, 0);
    __asm__ volatile("vmovdqa %%ymm0, (%0); vzeroall" ::"r"(result) : "memory");
    CHECK(result[5] == 105 && result[7] == 107, "all done");
}

/* A user context switch by #NM as old kernels did: TS set, first use traps, CLTS, restart. */
SNIPPET(u_fpu, "fld1; fstpl (%rdi); int $0x80");
static volatile unsigned nm_count;

static void on_nm(struct frame *f)
{
    (void)f;
    nm_count++;
    __asm__ volatile("clts");
}

static void test_lazy_switch(void)
{
    guest_handlers[NM] = on_nm;
    write_cr0(read_cr0() | CR0_TS);
    USER_EXEC(u_fpu, .rdi = USER_DATA);
    CHECK_EXC("user code", 0x80, 0);
    CHECK_EQ("#NM once", nm_count, 1);
    CHECK_EQ("result", *(uint64_t *)USER_DATA, 0x3ff0000000000000);
    guest_handlers[NM] = NULL;
}

const struct guest_test guest_tests[] = {
    { "start", start },
    { "availability", test_availability },
    { "#MF", test_mf },
    { "#XM", test_xm },
    { "alignment", test_alignment },
    { "FXSAVE", test_fxsave },
    { "XSAVE", test_xsave },
    { "AVX state", test_avx_state },
    { "masked accesses", test_masked },
    { "lazy switch", test_lazy_switch },
    { 0 },
};
