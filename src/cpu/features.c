#include "cpu/features.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#define CPU_FEATURE_ROW(id, nm, oth, lf, sub, rg, bt, pt, need, need2) \
    [CPU_F_##id] = { .name = (nm),                                     \
                     .other = (oth),                                   \
                     .leaf = (lf),                                     \
                     .subleaf = (sub),                                 \
                     .reg = CPU_##rg,                                  \
                     .bit = (bt),                                      \
                     .part = CPU_PART_##pt,                            \
                     .needs = { CPU_F_##need, CPU_F_##need2 } },
const struct cpu_feature cpu_features[CPU_F_N] = { CPU_FEATURES(CPU_FEATURE_ROW) };
#undef CPU_FEATURE_ROW

#define CPU_NEED_ORDER(id, nm, oth, lf, sub, rg, bt, pt, need, need2)               \
    _Static_assert((CPU_F_##need < CPU_F_##id || CPU_F_##need == CPU_F_NONE) &&     \
                       (CPU_F_##need2 < CPU_F_##id || CPU_F_##need2 == CPU_F_NONE), \
                   "what a feature needs comes before it: cpu_set_close goes through the table once");
CPU_FEATURES(CPU_NEED_ORDER)
#undef CPU_NEED_ORDER
_Static_assert(CPU_F_N < UINT8_MAX, "needs holds feature numbers");

static char cpu_name_fold(char c)
{
    return c == '_' || c == '.' ? '-' : (char)tolower((unsigned char)c);
}

bool cpu_name_is(const char *name, const char *given, unsigned len)
{
    if (!name || strlen(name) != len)
        return false;
    for (unsigned i = 0; i < len; i++) {
        if (cpu_name_fold(name[i]) != cpu_name_fold(given[i]))
            return false;
    }
    return true;
}

int cpu_feature_find(const char *name, unsigned len)
{
    for (unsigned i = 0; i < CPU_F_N; i++) {
        if (cpu_name_is(cpu_features[i].name, name, len) || cpu_name_is(cpu_features[i].other, name, len))
            return (int)i;
    }
    return -ENOENT;
}

void cpu_set_close(struct cpu_set *s)
{
    for (unsigned i = 0; i < CPU_F_N; i++) {
        for (unsigned k = 0; k < ARRAY_SIZE(cpu_features[i].needs); k++) {
            unsigned need = cpu_features[i].needs[k];

            if (need != CPU_F_NONE && !cpu_set_has(s, need))
                cpu_set_put(s, i, false);
        }
    }
}

void cpu_set_add(struct cpu_set *s, unsigned id)
{
    struct cpu_set wanted = { 0 };

    cpu_set_put(&wanted, id, true);
    for (unsigned i = id + 1; i-- > 0;) {
        if (!cpu_set_has(&wanted, i))
            continue;
        cpu_set_put(s, i, true);
        for (unsigned k = 0; k < ARRAY_SIZE(cpu_features[i].needs); k++) {
            if (cpu_features[i].needs[k] != CPU_F_NONE)
                cpu_set_put(&wanted, cpu_features[i].needs[k], true);
        }
    }
}

const struct kvm_cpuid_entry2 *cpu_cpuid_find(const struct kvm_cpuid_entry2 *entries, unsigned n, uint32_t leaf,
                                              uint32_t subleaf)
{
    for (unsigned i = 0; i < n; i++) {
        if (entries[i].function == leaf &&
            (!(entries[i].flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || entries[i].index == subleaf))
            return &entries[i];
    }
    return NULL;
}

uint32_t *cpu_cpuid_reg(struct kvm_cpuid_entry2 *e, unsigned reg)
{
    switch (reg) {
    case CPU_EAX:
        return &e->eax;
    case CPU_EBX:
        return &e->ebx;
    case CPU_ECX:
        return &e->ecx;
    default:
        return &e->edx;
    }
}

void cpu_set_from_cpuid(struct cpu_set *s, const struct kvm_cpuid_entry2 *entries, unsigned n)
{
    *s = (struct cpu_set){ 0 };
    for (unsigned i = 0; i < CPU_F_N; i++) {
        const struct cpu_feature *f = &cpu_features[i];
        const struct kvm_cpuid_entry2 *found = cpu_cpuid_find(entries, n, f->leaf, f->subleaf);
        struct kvm_cpuid_entry2 e;

        if (!found)
            continue;
        e = *found;
        cpu_set_put(s, i, *cpu_cpuid_reg(&e, f->reg) >> f->bit & 1);
    }
}
