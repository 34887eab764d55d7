/* The CPUID table that the interpreter offers: the host's vendor, family, model and caches, and of its features those
 * that the interpreter implements. System features that do not depend on the host (paging, SMEP, SMAP, x2APIC...) are
 * offered everywhere. Ordinary code: runs before vCPUs exist. Values that depend on the vCPU are filled in by cpuid.c.
 */
#include <cpuid.h>
#include <errno.h>

#include "cpu/bt/irqchip/irqchip.h"
#include "cpu/bt/sys_priv.h"

struct cpuid_builder {
    bt_cpuid_fn *host;
    struct kvm_cpuid_entry2 *entries;
    unsigned capacity, n;
    bool amd;
    uint32_t host_basic, host_ext;
};

/* Leaf 1 */
#define F1C_HOST                                                                                                    \
    (BIT(0) /* SSE3 */ | BIT(1) /* PCLMULQDQ */ | BIT(9) /* SSSE3 */ | BIT(12) /* FMA */ | BIT(13) /* CX16 */ |     \
     BIT(19) /* SSE4.1 */ | BIT(20) /* SSE4.2 */ | BIT(22) /* MOVBE */ | BIT(23) /* POPCNT */ | BIT(25) /* AES */ | \
     BIT(26) /* XSAVE */ | BIT(28) /* AVX */ | BIT(29) /* F16C */ | BIT(30) /* RDRAND */)
#define F1C_ALWAYS (BIT(17) /* PCID */ | BIT(21) /* x2APIC */ | BIT(24) /* TSC deadline */ | BIT(31) /* hypervisor */)
/* FPU DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36 CLFSH MMX FXSR SSE SSE2 SS; no VME */
#define F1D 0x0f8bfbfdU
/* Leaf 7 */
#define F7B_HOST                                                                                        \
    (BIT(3) /* BMI1 */ | BIT(5) /* AVX2 */ | BIT(6) /* FDP_EXCPTN_ONLY */ | BIT(8) /* BMI2 */ |         \
     BIT(13) /* ZERO_FCS_FDS */ | BIT(18) /* RDSEED */ | BIT(19) /* ADX */ | BIT(23) /* CLFLUSHOPT */ | \
     BIT(24) /* CLWB */ | BIT(29) /* SHA */)
#define F7B_ALWAYS                                                                                                     \
    (BIT(0) /* FSGSBASE */ | BIT(1) /* TSC_ADJUST */ | BIT(7) /* SMEP */ | BIT(9) /* ERMS */ | BIT(10) /* INVPCID */ | \
     BIT(20) /* SMAP */)
#define F7C (BIT(2) /* UMIP */ | BIT(22) /* RDPID */)
#define F7D                                                                                                 \
    (BIT(4) /* FSRM */ | BIT(26) /* IBRS, IBPB */ | BIT(27) /* STIBP */ | BIT(29) /* ARCH_CAPABILITIES */ | \
     BIT(31) /* SSBD */)
/* Leaf 0x80000001 */
#define FE1C_HOST (BIT(5) /* LZCNT */ | BIT(8) /* PREFETCHW */)
#define FE1D \
    (BIT(11) /* SYSCALL */ | BIT(20) /* NX */ | BIT(26) /* 1G pages */ | BIT(27) /* RDTSCP */ | BIT(29) /* LM */)
#define FE1D_AMD_COPY 0x0183f3ffU /* bits that AMD repeats from leaf 1 */

#define F7_2D                                                                                              \
    BIT(4) /* BHI_CTRL: Linux takes it for the cheap answer to what it asks of Intel's CPUs, BHI_NO or not \
            */

static void table_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
    __cpuid_count(leaf, subleaf, r[0], r[1], r[2], r[3]);
}

static int table_add(struct cpuid_builder *b, uint32_t leaf, int subleaf, const uint32_t r[4])
{
    if (b->n == b->capacity)
        return -E2BIG;
    b->entries[b->n++] = (struct kvm_cpuid_entry2){
        .function = leaf,
        .index = subleaf < 0 ? 0 : (uint32_t)subleaf,
        .flags = subleaf < 0 ? 0 : KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        .eax = r[0],
        .ebx = r[1],
        .ecx = r[2],
        .edx = r[3],
    };
    return 0;
}

static int table_add4(struct cpuid_builder *b, uint32_t leaf, int subleaf, uint32_t a, uint32_t bx, uint32_t cx,
                      uint32_t d)
{
    const uint32_t r[4] = { a, bx, cx, d };

    return table_add(b, leaf, subleaf, r);
}

static int table_leaf1(struct cpuid_builder *b)
{
    uint32_t r[4];

    b->host(1, 0, r);
    return table_add4(b, 1, -1, r[0], 8 << 8 /* CLFLUSH line */, (r[2] & F1C_HOST) | F1C_ALWAYS, F1D);
}

/* Cache leaves: 4 on Intel, 0x8000001d on AMD; up to the empty one that ends the list. */
static int table_caches(struct cpuid_builder *b, uint32_t leaf)
{
    for (int i = 0; i < 8; i++) {
        uint32_t r[4];
        int res;

        b->host(leaf, (uint32_t)i, r);
        res = table_add(b, leaf, i, r);
        if (res < 0 || (r[0] & 0x1f) == 0)
            return res;
    }
    return table_add4(b, leaf, 8, 0, 0, 0, 0);
}

static int table_leaf7(struct cpuid_builder *b)
{
    uint32_t r[4] = { 0 };
    int res;

    if (b->host_basic >= 7)
        b->host(7, 0, r);
    res = table_add4(b, 7, 0, 2, (r[1] & F7B_HOST) | F7B_ALWAYS, F7C, F7D);
    if (res == 0)
        res = table_add4(b, 7, 1, 0, 0, 0, 0);
    return res < 0 ? res : table_add4(b, 7, 2, 0, 0, 0, F7_2D);
}

static int table_topology(struct cpuid_builder *b, uint32_t leaf)
{
    int res = table_add4(b, leaf, 0, 0, 1, 1 << 8, 0);

    if (res == 0)
        res = table_add4(b, leaf, 1, 0, 1, 1 | 2 << 8, 0);
    if (res == 0)
        res = table_add4(b, leaf, 2, 0, 0, 2, 0);
    return res;
}

static int table_xsave(struct cpuid_builder *b)
{
    uint32_t r[4] = { 0 }, components = 3, sub[4] = { 0 };
    int res;

    if (b->host_basic >= 0xd) {
        b->host(0xd, 0, r);
        components = r[0] & 7;
        b->host(0xd, 1, sub);
    }
    res = table_add4(b, 0xd, 0, components, 576, components & 4 ? 832 : 576, 0);
    if (res == 0)
        res = table_add4(b, 0xd, 1, sub[0] & 7 /* XSAVEOPT, XSAVEC, XGETBV1 */, 576, 0, 0);
    if (res == 0 && (components & 4))
        res = table_add4(b, 0xd, 2, 256, 576, 0, 0);
    return res;
}

static int table_basic(struct cpuid_builder *b)
{
    uint32_t r[4], max = b->amd ? 0x16 : 0x1f;
    int res;

    b->host(0, 0, r);
    res = table_add4(b, 0, -1, max, r[1], r[2], r[3]);
    if (res == 0)
        res = table_leaf1(b);
    if (res == 0 && !b->amd) {
        b->host(2, 0, r);
        res = table_add(b, 2, -1, r);
        if (res == 0)
            res = table_caches(b, 4);
    }
    if (res == 0)
        res = table_add4(b, 6, -1, BIT(2) /* ARAT */, 0, 0, 0);
    if (res == 0)
        res = table_leaf7(b);
    if (res == 0)
        res = table_add4(b, 0xa, -1, 0, 0, 0, 0);
    if (res == 0)
        res = table_topology(b, 0xb);
    if (res == 0)
        res = table_xsave(b);
    if (res == 0)
        res = table_add4(b, 0x15, -1, 0, 0, 0, 0);
    if (res == 0)
        res = table_add4(b, 0x16, -1, 0, 0, 0, 0);
    if (res == 0 && !b->amd)
        res = table_topology(b, 0x1f);
    return res;
}

static int table_ext1(struct cpuid_builder *b)
{
    uint32_t r[4], c, d = FE1D;

    b->host(0x80000001, 0, r);
    c = (r[2] & FE1C_HOST) | BIT(0) /* LAHF in 64-bit mode */;
    if (b->amd) {
        c |= r[2] & BIT(22) /* topology extensions */;
        d |= (F1D & FE1D_AMD_COPY) | (r[3] & BIT(22) /* MMX extensions */);
    }
    return table_add4(b, 0x80000001, -1, b->amd ? r[0] : 0, b->amd ? r[1] : 0, c, d);
}

/* Brand string, and cache descriptors of AMD. */
static int table_copied(struct cpuid_builder *b)
{
    for (uint32_t leaf = 0x80000002; leaf <= 0x80000006; leaf++) {
        uint32_t r[4] = { 0 };
        int res;

        if (leaf <= b->host_ext)
            b->host(leaf, 0, r);
        res = table_add(b, leaf, -1, r);
        if (res < 0)
            return res;
    }
    return 0;
}

static int table_ext8(struct cpuid_builder *b)
{
    uint32_t r[4] = { 0 }, features;

    if (b->host_ext >= 0x80000008)
        b->host(0x80000008, 0, r);
    features = r[1] & BIT(9) /* WBNOINVD */;
    if (b->amd) {
        features |= r[1] & (BIT(0) /* CLZERO */ | BIT(2) /* FP error pointers */);
        features |= BIT(12) | BIT(14) | BIT(15) | BIT(24); /* IBPB, IBRS, STIBP, SSBD */
        features |= BIT(26) | BIT(29);                     /* SSB_NO, BTC_NO */
    }
    return table_add4(b, 0x80000008, -1, 48 << 8 | BT_PHYS_BITS, features, 0, 0);
}

static int table_ext_amd(struct cpuid_builder *b)
{
    int res = 0;

    if (b->host_ext >= 0x8000001d)
        res = table_caches(b, 0x8000001d);
    if (res == 0)
        res = table_add4(b, 0x8000001e, -1, 0, 0, 0, 0);
    /* LFENCE serialises, null selectors clear bases, automatic IBRS, SRSO_NO; TSA_SQ_NO, TSA_L1_NO */
    if (res == 0)
        res = table_add4(b, 0x80000021, -1, BIT(2) | BIT(6) | BIT(8) | BIT(29), 0, BIT(1) | BIT(2), 0);
    return res;
}

static int table_extended(struct cpuid_builder *b)
{
    uint32_t r[4];
    int res;

    b->host(0x80000000, 0, r);
    b->host_ext = r[0];
    res = table_add4(b, 0x80000000, -1, b->amd ? 0x80000021 : 0x80000008, r[1], r[2], r[3]);
    if (res == 0)
        res = table_ext1(b);
    if (res == 0)
        res = table_copied(b);
    if (res == 0)
        res = table_add4(b, 0x80000007, -1, 0, 0, 0, BIT(8) /* invariant TSC */);
    if (res == 0)
        res = table_ext8(b);
    if (res == 0 && b->amd)
        res = table_ext_amd(b);
    return res;
}

int bt_offer_cpuid(bt_cpuid_fn *host, struct kvm_cpuid_entry2 *entries, unsigned *n_entries)
{
    struct cpuid_builder b = { .host = host, .entries = entries, .capacity = *n_entries };
    uint32_t r[4];
    int res;

    host(0, 0, r);
    b.host_basic = r[0];
    b.amd = r[1] == 0x68747541 || r[1] == 0x6f677948; /* "Auth", "Hygo" */
    res = table_basic(&b);
    if (res == 0)
        res = bt_pv_cpuid(entries, b.capacity, &b.n);
    if (res == 0)
        res = table_extended(&b);
    if (res < 0)
        return res;
    *n_entries = b.n;
    return 0;
}

int bt_supported_cpuid(struct kvm_cpuid_entry2 *entries, unsigned *n_entries)
{
    return bt_offer_cpuid(table_cpuid, entries, n_entries);
}
