/* The models, and how their features follow from the table of features. The CPUID tables are made in model_cpuid.c. */
#include "cpu/model.h"

#include <errno.h>

const struct cpu_model_base cpu_models[CPU_MODELS_N] = {
    [CPU_MODEL_V3] = { .name = "x86-64-v3",
                       .summary = "AVX2, FMA, BMI, AES: machines since 2013 (Intel) and 2015 (AMD)",
                       .brand = "Caisson x86-64-v3",
                       .level = 3 },
    [CPU_MODEL_V2] = { .name = "x86-64-v2",
                       .summary = "SSE4.2, POPCNT: machines since 2008 (Intel) and 2011 (AMD)",
                       .brand = "Caisson x86-64-v2",
                       .level = 2 },
    [CPU_MODEL_V1] = { .name = "x86-64-v1",
                       .summary = "SSE2: every 64-bit machine",
                       .brand = "Caisson x86-64-v1",
                       .level = 1 },
    [CPU_MODEL_HOST] = { .name = "host",
                         .summary = "all that this machine and the engine have; a snapshot may resume nowhere else" },
};

void cpu_offer_init(struct cpu_offer *o, const struct kvm_cpuid_entry2 *entries, unsigned n, bool native)
{
    *o = (struct cpu_offer){ .entries = entries, .n = n, .native = native };
    cpu_set_from_cpuid(&o->set, entries, n);
}

int cpu_model_find(const char *name, unsigned len)
{
    for (unsigned i = 0; i < CPU_MODELS_N; i++) {
        if (cpu_name_is(cpu_models[i].name, name, len))
            return (int)i;
    }
    return -ENOENT;
}

bool cpu_model_demands(const struct cpu_model_base *base, unsigned id)
{
    return cpu_features[id].part <= CPU_PART_V3 && cpu_features[id].part < base->level;
}

static bool model_has(const struct cpu_model_base *base, const struct cpu_offer *o, unsigned id)
{
    if (base->level == 0)
        return cpu_set_has(&o->set, id);
    switch ((enum cpu_part)cpu_features[id].part) {
    case CPU_PART_V1:
    case CPU_PART_V2:
    case CPU_PART_V3:
        return cpu_model_demands(base, id);
    case CPU_PART_LACK:
        return true;
    case CPU_PART_PROFILE:
        return !o->native || cpu_set_has(&o->set, id);
    case CPU_PART_PROFILE_V3:
        return base->level >= 3 && (!o->native || cpu_set_has(&o->set, id));
    case CPU_PART_HOST_SECURITY:
        return o->native && cpu_set_has(&o->set, id);
    case CPU_PART_HOST:
        break;
    }
    return false;
}

_Static_assert(CPU_PART_V1 == 0 && CPU_PART_V2 == 1 && CPU_PART_V3 == 2, "a part below a level is demanded by it");

void cpu_model_init(struct cpu_model *m, const struct cpu_model_base *base, const struct cpu_offer *o)
{
    *m = (struct cpu_model){ .base = base };
    for (unsigned i = 0; i < CPU_F_N; i++)
        cpu_set_put(&m->set, i, model_has(base, o, i));
    if (base->level != 0 && o->native)
        cpu_set_close(&m->set);
}

unsigned cpu_model_missing(const struct cpu_model *m, const struct cpu_offer *o, struct cpu_set *ret_missing)
{
    unsigned n = 0;

    *ret_missing = (struct cpu_set){ 0 };
    for (unsigned i = 0; i < CPU_F_N; i++) {
        if (cpu_features[i].part != CPU_PART_LACK && cpu_set_has(&m->set, i) && !cpu_set_has(&o->set, i)) {
            cpu_set_put(ret_missing, i, true);
            n++;
        }
    }
    return n;
}
