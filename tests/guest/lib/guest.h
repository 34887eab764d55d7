/* What every guest program uses, 32-bit and 64-bit ones: text, exit, checks, and control-register and port access. A
 * program defines guest_tests[]; the library runs them in order, prints a line for each failed check and leaves with 0
 * or 1.
 *
 * Rule: an expected value comes from the Intel SDM or the AMD APM (cite where it is not obvious), never from what some
 * implementation was seen to do. */
#ifndef TESTS_GUEST_LIB_GUEST_H
#define TESTS_GUEST_LIB_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define BIT(n) (1ULL << (n))

struct guest_test {
    const char *name;
    void (*run)(void);
};
/* Ends with a NULL name. Defined by the program. */
extern const struct guest_test guest_tests[];

/* Formats: %s, %d, %u, %x (unsigned long: native word), %X (uint64_t). */
void guest_print(const char *fmt, ...);
/* One character out; weak, so that a program can bring its own. */
void guest_put(char c);
_Noreturn void guest_exit(unsigned code);
_Noreturn void guest_panic(const char *fmt, ...);
void guest_run_tests(void);
/* A failed check: prints the test's name and this text. */
void guest_fail(const char *fmt, ...);
/* This CPU lacks what the test needs. */
void guest_skip(const char *what);
/* "name=number" on the command line, or fallback. */
unsigned guest_option(const char *name, unsigned fallback);
void guest_set_command_line(const char *text);

/* Vendors differ in SYSCALL and SYSENTER outside 64-bit code and in a few more places. */
bool guest_is_intel(void);

extern unsigned guest_checks;

#define CHECK(cond, ...)             \
    do {                             \
        guest_checks++;              \
        if (!(cond))                 \
            guest_fail(__VA_ARGS__); \
    } while (0)
#define CHECK_EQ(what, got, want)                                                         \
    do {                                                                                  \
        uint64_t got_ = (uint64_t)(got), want_ = (uint64_t)(want);                        \
        guest_checks++;                                                                   \
        if (got_ != want_)                                                                \
            guest_fail("%s: 0x%X, expected 0x%X (line %d)", what, got_, want_, __LINE__); \
    } while (0)

static inline void outb(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port));
}

static inline uint8_t inb(uint16_t port)
{
    uint8_t value;

    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

struct cpuid_regs {
    uint32_t eax, ebx, ecx, edx;
};

static inline struct cpuid_regs cpuid(uint32_t leaf, uint32_t subleaf)
{
    struct cpuid_regs r;

    __asm__ volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "a"(leaf), "c"(subleaf));
    return r;
}

static inline uint64_t rdmsr(uint32_t index)
{
    uint32_t lo, hi;

    __asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(index));
    return (uint64_t)hi << 32 | lo;
}

static inline void wrmsr(uint32_t index, uint64_t value)
{
    __asm__ volatile("wrmsr" ::"c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

static inline uint64_t rdtsc(void)
{
    uint32_t lo, hi;

    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return (uint64_t)hi << 32 | lo;
}

#define DEFINE_REG_ACCESS(name)                                      \
    static inline unsigned long read_##name(void)                    \
    {                                                                \
        unsigned long v;                                             \
        __asm__ volatile("mov %%" #name ", %0" : "=r"(v)::"memory"); \
        return v;                                                    \
    }                                                                \
    static inline void write_##name(unsigned long v)                 \
    {                                                                \
        __asm__ volatile("mov %0, %%" #name ::"r"(v) : "memory");    \
    }
DEFINE_REG_ACCESS(cr0)
DEFINE_REG_ACCESS(cr2)
DEFINE_REG_ACCESS(cr3)
DEFINE_REG_ACCESS(cr4)
DEFINE_REG_ACCESS(dr0)
DEFINE_REG_ACCESS(dr1)
DEFINE_REG_ACCESS(dr6)
DEFINE_REG_ACCESS(dr7)

void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int value, size_t n);
int memcmp(const void *a, const void *b, size_t n);

/* Exception vectors. */
enum {
    DE = 0,
    DB = 1,
    NMI = 2,
    BP = 3,
    OF = 4,
    BR = 5,
    UD = 6,
    NM = 7,
    DF = 8,
    TS = 10,
    NP = 11,
    SS = 12,
    GP = 13,
    PF = 14,
    MF = 16,
    AC = 17,
    MC = 18,
    XM = 19
};
#define NO_EXC (-1)

#define CR0_PE BIT(0)
#define CR0_MP BIT(1)
#define CR0_EM BIT(2)
#define CR0_TS BIT(3)
#define CR0_NE BIT(5)
#define CR0_WP BIT(16)
#define CR0_AM BIT(18)
#define CR0_NW BIT(29)
#define CR0_CD BIT(30)
#define CR0_PG BIT(31)
#define CR4_VME BIT(0)
#define CR4_TSD BIT(2)
#define CR4_DE BIT(3)
#define CR4_PSE BIT(4)
#define CR4_PAE BIT(5)
#define CR4_PGE BIT(7)
#define CR4_PCE BIT(8)
#define CR4_OSFXSR BIT(9)
#define CR4_OSXMMEXCPT BIT(10)
#define CR4_UMIP BIT(11)
#define CR4_FSGSBASE BIT(16)
#define CR4_PCIDE BIT(17)
#define CR4_OSXSAVE BIT(18)
#define CR4_SMEP BIT(20)
#define CR4_SMAP BIT(21)
#define EFLAGS_CF BIT(0)
#define EFLAGS_ZF BIT(6)
#define EFLAGS_TF BIT(8)
#define EFLAGS_IF BIT(9)
#define EFLAGS_DF BIT(10)
#define EFLAGS_NT BIT(14)
#define EFLAGS_RF BIT(16)
#define EFLAGS_VM BIT(17)
#define EFLAGS_AC BIT(18)
#define PTE_P BIT(0)
#define PTE_W BIT(1)
#define PTE_U BIT(2)
#define PTE_A BIT(5)
#define PTE_D BIT(6)
#define PTE_PS BIT(7)
#define PTE_G BIT(8)
#define PTE_NX BIT(63)
#define MSR_EFER 0xc0000080u
#define MSR_STAR 0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_CSTAR 0xc0000083u
#define MSR_FMASK 0xc0000084u
#define MSR_FS_BASE 0xc0000100u
#define MSR_GS_BASE 0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX 0xc0000103u

#endif
