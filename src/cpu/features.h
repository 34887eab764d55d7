/* CPU features by name: where CPUID says that one is there, which level of the x86-64 psABI has it, and which others it
 * cannot do without. One table for both engines and all models; a feature that is not in it cannot be named.
 *
 * Names are those of /proc/cpuinfo, else QEMU's. In names '-', '_' and '.' are the same. */
#ifndef CPU_FEATURES_H
#define CPU_FEATURES_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"

/* Who has a feature. The levels of the psABI are demanded of a machine; the profile is what our models have besides. */
enum cpu_part {
    CPU_PART_V1, /* psABI levels */
    CPU_PART_V2,
    CPU_PART_V3,
    CPU_PART_PROFILE,       /* of every model */
    CPU_PART_PROFILE_V3,    /* ... from x86-64-v3 on */
    CPU_PART_LACK,          /* of every model: says that something must not be relied on, so no host needs to have it */
    CPU_PART_HOST_SECURITY, /* what guests of a native engine have to fear, or can do about it */
    CPU_PART_HOST,          /* of the host model, or on request */
};

enum { CPU_EAX, CPU_EBX, CPU_ECX, CPU_EDX };

/* X(id, name, other name, leaf, subleaf, register, bit, part, needs, needs too). Needs come before what needs them. */
#define CPU_FEATURES(X)                                                                                    \
    X(FPU, "fpu", NULL, 1, 0, EDX, 0, V1, NONE, NONE)                                                      \
    X(DE, "de", NULL, 1, 0, EDX, 2, PROFILE, NONE, NONE)                                                   \
    X(PSE, "pse", NULL, 1, 0, EDX, 3, PROFILE, NONE, NONE)                                                 \
    X(TSC, "tsc", NULL, 1, 0, EDX, 4, PROFILE, NONE, NONE)                                                 \
    X(MSR, "msr", NULL, 1, 0, EDX, 5, PROFILE, NONE, NONE)                                                 \
    X(PAE, "pae", NULL, 1, 0, EDX, 6, PROFILE, NONE, NONE)                                                 \
    X(MCE, "mce", NULL, 1, 0, EDX, 7, PROFILE, MSR, NONE)                                                  \
    X(CX8, "cx8", NULL, 1, 0, EDX, 8, V1, NONE, NONE)                                                      \
    X(APIC, "apic", NULL, 1, 0, EDX, 9, PROFILE, NONE, NONE)                                               \
    X(SEP, "sep", NULL, 1, 0, EDX, 11, PROFILE, MSR, NONE)                                                 \
    X(MTRR, "mtrr", NULL, 1, 0, EDX, 12, PROFILE, MSR, NONE)                                               \
    X(PGE, "pge", NULL, 1, 0, EDX, 13, PROFILE, NONE, NONE)                                                \
    X(MCA, "mca", NULL, 1, 0, EDX, 14, PROFILE, MCE, NONE)                                                 \
    X(CMOV, "cmov", NULL, 1, 0, EDX, 15, V1, NONE, NONE)                                                   \
    X(PAT, "pat", NULL, 1, 0, EDX, 16, PROFILE, MSR, NONE)                                                 \
    X(PSE36, "pse36", NULL, 1, 0, EDX, 17, PROFILE, PSE, NONE)                                             \
    X(CLFLUSH, "clflush", "clfsh", 1, 0, EDX, 19, PROFILE, NONE, NONE)                                     \
    X(MMX, "mmx", NULL, 1, 0, EDX, 23, V1, FPU, NONE)                                                      \
    X(FXSR, "fxsr", NULL, 1, 0, EDX, 24, V1, FPU, NONE)                                                    \
    X(SSE, "sse", NULL, 1, 0, EDX, 25, V1, FXSR, NONE)                                                     \
    X(SSE2, "sse2", NULL, 1, 0, EDX, 26, V1, SSE, NONE)                                                    \
    X(SS, "ss", NULL, 1, 0, EDX, 27, HOST, NONE, NONE)                                                     \
    X(VME, "vme", NULL, 1, 0, EDX, 1, HOST, NONE, NONE)                                                    \
    X(LM, "lm", "long-mode", 0x80000001, 0, EDX, 29, V1, PAE, MSR)                                         \
    X(SYSCALL, "syscall", NULL, 0x80000001, 0, EDX, 11, V1, MSR, NONE)                                     \
    X(NX, "nx", "xd", 0x80000001, 0, EDX, 20, PROFILE, PAE, NONE)                                          \
    X(PDPE1GB, "pdpe1gb", NULL, 0x80000001, 0, EDX, 26, PROFILE, LM, NONE)                                 \
    X(RDTSCP, "rdtscp", NULL, 0x80000001, 0, EDX, 27, PROFILE, TSC, NONE)                                  \
    X(MMXEXT, "mmxext", NULL, 0x80000001, 0, EDX, 22, HOST, MMX, NONE)                                     \
    X(FXSR_OPT, "fxsr_opt", "ffxsr", 0x80000001, 0, EDX, 25, HOST, FXSR, NONE)                             \
    X(SSE3, "pni", "sse3", 1, 0, ECX, 0, V2, SSE2, NONE)                                                   \
    X(SSSE3, "ssse3", NULL, 1, 0, ECX, 9, V2, SSE3, NONE)                                                  \
    X(CX16, "cx16", NULL, 1, 0, ECX, 13, V2, CX8, LM)                                                      \
    X(SSE4_1, "sse4_1", NULL, 1, 0, ECX, 19, V2, SSSE3, NONE)                                              \
    X(SSE4_2, "sse4_2", NULL, 1, 0, ECX, 20, V2, SSE4_1, NONE)                                             \
    X(POPCNT, "popcnt", NULL, 1, 0, ECX, 23, V2, NONE, NONE)                                               \
    X(LAHF_LM, "lahf_lm", NULL, 0x80000001, 0, ECX, 0, V2, LM, NONE)                                       \
    X(XSAVE, "xsave", NULL, 1, 0, ECX, 26, V3, FXSR, NONE)                                                 \
    X(AVX, "avx", NULL, 1, 0, ECX, 28, V3, XSAVE, SSE4_2)                                                  \
    X(FMA, "fma", NULL, 1, 0, ECX, 12, V3, AVX, NONE)                                                      \
    X(MOVBE, "movbe", NULL, 1, 0, ECX, 22, V3, NONE, NONE)                                                 \
    X(F16C, "f16c", NULL, 1, 0, ECX, 29, V3, AVX, NONE)                                                    \
    X(AVX2, "avx2", NULL, 7, 0, EBX, 5, V3, AVX, NONE)                                                     \
    X(BMI1, "bmi1", NULL, 7, 0, EBX, 3, V3, NONE, NONE)                                                    \
    X(BMI2, "bmi2", NULL, 7, 0, EBX, 8, V3, NONE, NONE)                                                    \
    X(LZCNT, "abm", "lzcnt", 0x80000001, 0, ECX, 5, V3, NONE, NONE)                                        \
    X(PCLMULQDQ, "pclmulqdq", "pclmuldq", 1, 0, ECX, 1, PROFILE_V3, SSE2, NONE)                            \
    X(AES, "aes", NULL, 1, 0, ECX, 25, PROFILE_V3, SSE2, NONE)                                             \
    X(RDRAND, "rdrand", NULL, 1, 0, ECX, 30, PROFILE_V3, NONE, NONE)                                       \
    X(XSAVEOPT, "xsaveopt", NULL, 0xd, 1, EAX, 0, PROFILE_V3, XSAVE, NONE)                                 \
    X(PCID, "pcid", NULL, 1, 0, ECX, 17, PROFILE, LM, NONE)                                                \
    X(X2APIC, "x2apic", NULL, 1, 0, ECX, 21, PROFILE, APIC, MSR)                                           \
    X(TSC_DEADLINE, "tsc_deadline_timer", "tsc-deadline", 1, 0, ECX, 24, PROFILE, APIC, TSC)               \
    X(HYPERVISOR, "hypervisor", NULL, 1, 0, ECX, 31, PROFILE, NONE, NONE)                                  \
    X(ARAT, "arat", NULL, 6, 0, EAX, 2, PROFILE, APIC, NONE)                                               \
    X(FSGSBASE, "fsgsbase", NULL, 7, 0, EBX, 0, PROFILE, LM, NONE)                                         \
    X(TSC_ADJUST, "tsc_adjust", NULL, 7, 0, EBX, 1, PROFILE, TSC, MSR)                                     \
    X(FDP_EXCPTN_ONLY, "fdp_excptn_only", NULL, 7, 0, EBX, 6, LACK, NONE, NONE)                            \
    X(SMEP, "smep", NULL, 7, 0, EBX, 7, PROFILE, NONE, NONE)                                               \
    X(ERMS, "erms", NULL, 7, 0, EBX, 9, PROFILE, NONE, NONE)                                               \
    X(INVPCID, "invpcid", NULL, 7, 0, EBX, 10, PROFILE, PCID, NONE)                                        \
    X(ZERO_FCS_FDS, "zero_fcs_fds", NULL, 7, 0, EBX, 13, LACK, NONE, NONE)                                 \
    X(SMAP, "smap", NULL, 7, 0, EBX, 20, PROFILE, NONE, NONE)                                              \
    X(UMIP, "umip", NULL, 7, 0, ECX, 2, PROFILE, NONE, NONE)                                               \
    X(RDPID, "rdpid", NULL, 7, 0, ECX, 22, PROFILE, NONE, NONE)                                            \
    X(FSRM, "fsrm", NULL, 7, 0, EDX, 4, PROFILE, ERMS, NONE)                                               \
    X(SPEC_CTRL, "spec_ctrl", "ibrs", 7, 0, EDX, 26, PROFILE, MSR, NONE)                                   \
    X(ARCH_CAPABILITIES, "arch_capabilities", NULL, 7, 0, EDX, 29, PROFILE, MSR, NONE)                     \
    X(MD_CLEAR, "md_clear", NULL, 7, 0, EDX, 10, HOST_SECURITY, NONE, NONE)                                \
    X(STIBP, "stibp", NULL, 7, 0, EDX, 27, HOST_SECURITY, MSR, NONE)                                       \
    X(FLUSH_L1D, "flush_l1d", NULL, 7, 0, EDX, 28, HOST_SECURITY, MSR, NONE)                               \
    X(SSBD, "ssbd", NULL, 7, 0, EDX, 31, HOST_SECURITY, MSR, NONE)                                         \
    X(AMD_IBPB, "amd_ibpb", "ibpb", 0x80000008, 0, EBX, 12, HOST_SECURITY, MSR, NONE)                      \
    X(AMD_IBRS, "amd_ibrs", NULL, 0x80000008, 0, EBX, 14, HOST_SECURITY, MSR, NONE)                        \
    X(AMD_STIBP, "amd_stibp", NULL, 0x80000008, 0, EBX, 15, HOST_SECURITY, MSR, NONE)                      \
    X(AMD_SSBD, "amd_ssbd", NULL, 0x80000008, 0, EBX, 24, HOST_SECURITY, MSR, NONE)                        \
    X(VIRT_SSBD, "virt_ssbd", NULL, 0x80000008, 0, EBX, 25, HOST_SECURITY, MSR, NONE)                      \
    X(AMD_SSB_NO, "amd_no_ssb", NULL, 0x80000008, 0, EBX, 26, HOST_SECURITY, NONE, NONE)                   \
    X(BTC_NO, "btc_no", NULL, 0x80000008, 0, EBX, 29, HOST_SECURITY, NONE, NONE)                           \
    X(LFENCE_SERIAL, "lfence_always_serializing", NULL, 0x80000021, 0, EAX, 2, HOST_SECURITY, NONE, NONE)  \
    X(NULL_SEL_CLR, "null_sel_clr_base", NULL, 0x80000021, 0, EAX, 6, HOST_SECURITY, NONE, NONE)           \
    X(AUTOIBRS, "auto_ibrs", NULL, 0x80000021, 0, EAX, 8, HOST_SECURITY, LM, NONE)                         \
    X(PSFD, "intel_psfd", NULL, 7, 2, EDX, 0, HOST_SECURITY, MSR, NONE)                                    \
    X(IPRED_CTRL, "ipred_ctrl", NULL, 7, 2, EDX, 1, HOST_SECURITY, MSR, NONE)                              \
    X(RRSBA_CTRL, "rrsba_ctrl", NULL, 7, 2, EDX, 2, HOST_SECURITY, MSR, NONE)                              \
    X(BHI_CTRL, "bhi_ctrl", NULL, 7, 2, EDX, 4, PROFILE, MSR, NONE)                                        \
    X(AMD_PSFD, "amd_psfd", NULL, 0x80000008, 0, EBX, 28, HOST_SECURITY, MSR, NONE)                        \
    X(VERW_CLEAR, "verw_clear", NULL, 0x80000021, 0, EAX, 5, HOST_SECURITY, NONE, NONE)                    \
    X(SBPB, "sbpb", NULL, 0x80000021, 0, EAX, 27, HOST_SECURITY, MSR, NONE)                                \
    X(IBPB_BRTYPE, "ibpb_brtype", NULL, 0x80000021, 0, EAX, 28, HOST_SECURITY, MSR, NONE)                  \
    X(SRSO_USER_KERNEL_NO, "srso_user_kernel_no", NULL, 0x80000021, 0, EAX, 30, HOST_SECURITY, NONE, NONE) \
    X(SRSO_NO, "srso_no", NULL, 0x80000021, 0, EAX, 29, HOST_SECURITY, NONE, NONE)                         \
    X(TSA_SQ_NO, "tsa_sq_no", NULL, 0x80000021, 0, ECX, 1, HOST_SECURITY, NONE, NONE)                      \
    X(TSA_L1_NO, "tsa_l1_no", NULL, 0x80000021, 0, ECX, 2, HOST_SECURITY, NONE, NONE)                      \
    X(INVTSC, "invtsc", "nonstop_tsc", 0x80000007, 0, EDX, 8, HOST, TSC, NONE)                             \
    X(RDSEED, "rdseed", NULL, 7, 0, EBX, 18, HOST, NONE, NONE)                                             \
    X(ADX, "adx", NULL, 7, 0, EBX, 19, HOST, NONE, NONE)                                                   \
    X(CLFLUSHOPT, "clflushopt", NULL, 7, 0, EBX, 23, HOST, CLFLUSH, NONE)                                  \
    X(CLWB, "clwb", NULL, 7, 0, EBX, 24, HOST, CLFLUSH, NONE)                                              \
    X(SHA_NI, "sha_ni", NULL, 7, 0, EBX, 29, HOST, SSE2, NONE)                                             \
    X(XSAVEC, "xsavec", NULL, 0xd, 1, EAX, 1, HOST, XSAVE, NONE)                                           \
    X(XGETBV1, "xgetbv1", NULL, 0xd, 1, EAX, 2, HOST, XSAVE, NONE)                                         \
    X(XSAVES, "xsaves", NULL, 0xd, 1, EAX, 3, HOST, XSAVE, NONE)                                           \
    X(PREFETCHW, "3dnowprefetch", "prefetchw", 0x80000001, 0, ECX, 8, HOST, NONE, NONE)                    \
    X(TOPOEXT, "topoext", NULL, 0x80000001, 0, ECX, 22, HOST, NONE, NONE)                                  \
    X(SSE4A, "sse4a", NULL, 0x80000001, 0, ECX, 6, HOST, SSE3, NONE)                                       \
    X(CLZERO, "clzero", NULL, 0x80000008, 0, EBX, 0, HOST, NONE, NONE)                                     \
    X(XSAVEERPTR, "xsaveerptr", NULL, 0x80000008, 0, EBX, 2, HOST, FXSR, NONE)                             \
    X(WBNOINVD, "wbnoinvd", NULL, 0x80000008, 0, EBX, 9, HOST, NONE, NONE)                                 \
    X(MONITOR, "monitor", NULL, 1, 0, ECX, 3, HOST, NONE, NONE)                                            \
    X(VMX, "vmx", NULL, 1, 0, ECX, 5, HOST, NONE, NONE)                                                    \
    X(SVM, "svm", NULL, 0x80000001, 0, ECX, 2, HOST, NONE, NONE)                                           \
    X(HLE, "hle", NULL, 7, 0, EBX, 4, HOST, NONE, NONE)                                                    \
    X(RTM, "rtm", NULL, 7, 0, EBX, 11, HOST, NONE, NONE)                                                   \
    X(PKU, "pku", NULL, 7, 0, ECX, 3, HOST, XSAVE, NONE)                                                   \
    X(LA57, "la57", NULL, 7, 0, ECX, 16, HOST, LM, NONE)                                                   \
    X(IBT, "ibt", NULL, 7, 0, EDX, 20, HOST, NONE, NONE)                                                   \
    X(SHSTK, "user_shstk", "shstk", 7, 0, ECX, 7, HOST, XSAVES, NONE)                                      \
    X(GFNI, "gfni", NULL, 7, 0, ECX, 8, HOST, SSE2, NONE)                                                  \
    X(VAES, "vaes", NULL, 7, 0, ECX, 9, HOST, AVX, AES)                                                    \
    X(VPCLMULQDQ, "vpclmulqdq", NULL, 7, 0, ECX, 10, HOST, AVX, PCLMULQDQ)                                 \
    X(AVX_VNNI, "avx_vnni", NULL, 7, 1, EAX, 4, HOST, AVX2, NONE)                                          \
    X(AVX512F, "avx512f", NULL, 7, 0, EBX, 16, HOST, AVX2, FMA)                                            \
    X(AVX512DQ, "avx512dq", NULL, 7, 0, EBX, 17, HOST, AVX512F, NONE)                                      \
    X(AVX512IFMA, "avx512ifma", NULL, 7, 0, EBX, 21, HOST, AVX512F, NONE)                                  \
    X(AVX512CD, "avx512cd", NULL, 7, 0, EBX, 28, HOST, AVX512F, NONE)                                      \
    X(AVX512BW, "avx512bw", NULL, 7, 0, EBX, 30, HOST, AVX512F, NONE)                                      \
    X(AVX512VL, "avx512vl", NULL, 7, 0, EBX, 31, HOST, AVX512F, NONE)                                      \
    X(AVX512VBMI, "avx512vbmi", NULL, 7, 0, ECX, 1, HOST, AVX512F, NONE)                                   \
    X(AVX512_VBMI2, "avx512_vbmi2", NULL, 7, 0, ECX, 6, HOST, AVX512F, NONE)                               \
    X(AVX512_VNNI, "avx512_vnni", NULL, 7, 0, ECX, 11, HOST, AVX512F, NONE)                                \
    X(AVX512_BITALG, "avx512_bitalg", NULL, 7, 0, ECX, 12, HOST, AVX512F, NONE)                            \
    X(AVX512_VPOPCNTDQ, "avx512_vpopcntdq", NULL, 7, 0, ECX, 14, HOST, AVX512F, NONE)                      \
    X(AVX512_VP2INTERSECT, "avx512_vp2intersect", NULL, 7, 0, EDX, 8, HOST, AVX512F, NONE)                 \
    X(AVX512_FP16, "avx512_fp16", NULL, 7, 0, EDX, 23, HOST, AVX512F, NONE)                                \
    X(AVX512_BF16, "avx512_bf16", NULL, 7, 1, EAX, 5, HOST, AVX512F, NONE)                                 \
    X(AMX_BF16, "amx_bf16", NULL, 7, 0, EDX, 22, HOST, XSAVE, NONE)                                        \
    X(AMX_TILE, "amx_tile", NULL, 7, 0, EDX, 24, HOST, XSAVE, NONE)                                        \
    X(AMX_INT8, "amx_int8", NULL, 7, 0, EDX, 25, HOST, XSAVE, NONE)

#define CPU_FEATURE_ID(id, ...) CPU_F_##id,
enum cpu_feature_id { CPU_FEATURES(CPU_FEATURE_ID) CPU_F_N, CPU_F_NONE = CPU_F_N };
#undef CPU_FEATURE_ID

struct cpu_feature {
    const char *name, *other; /* other: NULL where there is none */
    uint32_t leaf;
    uint8_t subleaf, reg, bit; /* reg: CPU_EAX... */
    uint8_t part;              /* enum cpu_part */
    uint8_t needs[2];          /* enum cpu_feature_id; CPU_F_NONE: nothing */
};

extern const struct cpu_feature cpu_features[CPU_F_N];

struct cpu_set {
    uint64_t w[(CPU_F_N + 63) / 64];
};

static inline bool cpu_set_has(const struct cpu_set *s, unsigned id)
{
    return s->w[id / 64] >> (id % 64) & 1;
}

static inline void cpu_set_put(struct cpu_set *s, unsigned id, bool in)
{
    s->w[id / 64] = (s->w[id / 64] & ~(1ULL << (id % 64))) | (uint64_t)in << (id % 64);
}

/* The feature of that name (len bytes), or -ENOENT. */
int cpu_feature_find(const char *name, unsigned len) MUST_USE;
bool cpu_name_is(const char *name, const char *given, unsigned len);

/* Remove what needs a feature that is not in s, so that every feature finds what it builds on. */
void cpu_set_close(struct cpu_set *s);
/* Put a feature and all that it needs into s. */
void cpu_set_add(struct cpu_set *s, unsigned id);
/* The features that a CPUID table shows. */
void cpu_set_from_cpuid(struct cpu_set *s, const struct kvm_cpuid_entry2 *entries, unsigned n);

/* Entry for a leaf (and subleaf, where it has some), or NULL. */
const struct kvm_cpuid_entry2 *cpu_cpuid_find(const struct kvm_cpuid_entry2 *entries, unsigned n, uint32_t leaf,
                                              uint32_t subleaf);
uint32_t *cpu_cpuid_reg(struct kvm_cpuid_entry2 *e, unsigned reg);

#endif
