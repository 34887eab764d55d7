/* Choosing the CPU model: the words of --cpu, the default, and the text for what cannot be. What models have is in
 * cpu/model.c. */
#include "vmm/cpu_model.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "base/word.h"

/* How many features a message names before it counts the rest. */
#define CPU_NAMED_MAX 6
#define CPU_LIST_MAX 160

/* Bits that number n things need. */
static unsigned cpuid_width(unsigned n)
{
    unsigned width = 0;

    while ((1U << width) < n)
        width++;
    return width;
}

/* Topology: one socket, each vCPU a core with one thread (SDM vol. 2A, CPUID leaves 0x1, 0x4, 0xb; APM for 0x8000001x).
 */
static void cpuid_topology(struct kvm_cpuid_entry2 *e, unsigned id, unsigned n_vcpus)
{
    unsigned width = cpuid_width(n_vcpus);

    switch (e->function) {
    case 0x1:
        e->ebx = (e->ebx & 0x0000ffff) | (n_vcpus & 0xff) << 16 | id << 24;
        e->edx = n_vcpus > 1 ? e->edx | BIT(28) : e->edx & ~BIT(28);
        break;
    case 0x4:
        if (e->eax & 0x1f) {
            bool shared = ((e->eax >> 5) & 7) >= 3; /* the last-level cache belongs to the socket */
            unsigned sharing = shared ? (1U << width) - 1 : 0;

            e->eax = (e->eax & 0x3fff) | sharing << 14 | ((1U << width) - 1) << 26;
        }
        break;
    case 0xb:
    case 0x1f:
        e->edx = id;
        e->ecx = e->index & 0xff;
        e->eax = 0;
        e->ebx = 0;
        if (e->index == 0) {
            e->ebx = 1;
            e->ecx |= 1 << 8; /* SMT */
        } else if (e->index == 1) {
            e->eax = width;
            e->ebx = n_vcpus;
            e->ecx |= 2 << 8; /* core */
        }
        break;
    case 0x80000008:
        e->ecx = (e->ecx & ~0xf0ffU) | width << 12 | ((n_vcpus - 1) & 0xff);
        break;
    case 0x8000001e:
        e->eax = id;
        e->ebx = id;
        e->ecx = 0;
        break;
    default:
        break;
    }
}

void vmm_cpu_topology(const struct vmm_cpu *cpu, unsigned id, unsigned n_vcpus, struct kvm_cpuid_entry2 *entries)
{
    memcpy(entries, cpu->cpuid, cpu->n_cpuid * sizeof(*entries));
    for (unsigned i = 0; i < cpu->n_cpuid; i++)
        cpuid_topology(&entries[i], id, n_vcpus);
}

/* ---- names ---- */

/* "avx2, fma and 3 more" */
static void cpu_list(const struct cpu_set *s, char *text, size_t size)
{
    unsigned n = 0, named = 0;
    size_t len = 0;

    text[0] = '\0';
    for (unsigned i = 0; i < CPU_F_N; i++)
        n += cpu_set_has(s, i);
    for (unsigned i = 0; i < CPU_F_N && named < CPU_NAMED_MAX; i++) {
        if (!cpu_set_has(s, i))
            continue;
        len += (size_t)snprintf(text + len, size - len, "%s%s", named ? ", " : "", cpu_features[i].name);
        if (len >= size)
            return;
        named++;
    }
    if (n > named)
        snprintf(text + len, size - len, " and %u more", n - named);
}

/* Whether all that a feature needs is in s. */
static bool cpu_has_needs(const struct cpu_set *s, unsigned id)
{
    for (unsigned k = 0; k < ARRAY_SIZE(cpu_features[id].needs); k++) {
        unsigned need = cpu_features[id].needs[k];

        if (need != CPU_F_NONE && !cpu_set_has(s, need))
            return false;
    }
    return true;
}

/* The one spelling of a model: its base, and the fewest words that lead to its features. */
static int cpu_spell(const struct cpu_model *m, const struct cpu_offer *offer, char *name, size_t size)
{
    struct cpu_set implied = { 0 };
    struct cpu_model base;
    size_t len;

    cpu_model_init(&base, m->base, offer);
    for (unsigned i = 0; i < CPU_F_N; i++) {
        for (unsigned k = 0; k < ARRAY_SIZE(cpu_features[i].needs); k++) {
            if (cpu_set_has(&m->set, i) && !cpu_set_has(&base.set, i) && cpu_features[i].needs[k] != CPU_F_NONE)
                cpu_set_put(&implied, cpu_features[i].needs[k], true);
        }
    }
    len = (size_t)snprintf(name, size, "%s", m->base->name);
    for (unsigned i = 0; i < CPU_F_N && len < size; i++) {
        bool now = cpu_set_has(&m->set, i);

        if (now == cpu_set_has(&base.set, i) || (now ? cpu_set_has(&implied, i) : !cpu_has_needs(&m->set, i)))
            continue;
        len += (size_t)snprintf(name + len, size - len, ",%c%s", now ? '+' : '-', cpu_features[i].name);
    }
    return len < size ? 0 : -E2BIG;
}

/* ---- reading ---- */

static const char *cpu_model_at(const void *opaque, size_t i)
{
    (void)opaque;
    return i < CPU_MODELS_N ? cpu_models[i].name : NULL;
}

static const char *cpu_feature_at(const void *opaque, size_t i)
{
    (void)opaque;
    return i < CPU_F_N ? cpu_features[i].name : NULL;
}

static int cpu_unknown(const char *kind, const char *word, unsigned len,
                       const char *(*next)(const void *opaque, size_t i), struct err *e)
{
    char copy[40], hint[80] = "";
    const char *near;

    snprintf(copy, sizeof(copy), "%.*s", (int)MIN(len, sizeof(copy) - 1), word);
    near = word_nearest(copy, next, NULL);
    if (near)
        snprintf(hint, sizeof(hint), " did you mean '%s'?", near);
    return err_set(e, EINVAL, "--cpu: unknown %s '%s';%s 'caisson cpu ls' lists what there is", kind, copy, hint);
}

/* +FEATURE or -FEATURE. */
static int cpu_parse_change(const char *word, unsigned len, struct cpu_set *added, struct cpu_set *masked,
                            struct err *e)
{
    int id;

    if (len < 2 || (word[0] != '+' && word[0] != '-'))
        return err_set(e, EINVAL, "--cpu: '%.*s' is neither +FEATURE nor -FEATURE; use MODEL[,+FEATURE][,-FEATURE]...",
                       (int)MIN(len, 40U), word);
    id = cpu_feature_find(word + 1, len - 1);
    if (id < 0)
        return cpu_unknown("feature", word + 1, len - 1, cpu_feature_at, e);
    cpu_set_put(word[0] == '+' ? added : masked, (unsigned)id, true);
    return 0;
}

static int cpu_apply(struct cpu_model *m, const struct cpu_set *added, const struct cpu_set *masked, struct err *e)
{
    for (unsigned i = 0; i < CPU_F_N; i++) {
        if (cpu_set_has(masked, i))
            cpu_set_put(&m->set, i, false);
    }
    cpu_set_close(&m->set);
    for (unsigned i = 0; i < CPU_F_N; i++) {
        struct cpu_set needs = { 0 };

        if (!cpu_set_has(added, i))
            continue;
        cpu_set_add(&needs, i);
        for (unsigned k = 0; k < CPU_F_N; k++) {
            if (cpu_set_has(&needs, k) && cpu_set_has(masked, k))
                return err_set(e, EINVAL, "--cpu: +%s needs %s, which -%s takes away; leave out one of them",
                               cpu_features[i].name, cpu_features[k].name, cpu_features[k].name);
        }
        cpu_set_add(&m->set, i);
    }
    return 0;
}

static int cpu_parse(const char *text, const struct cpu_offer *offer, struct cpu_model *m, struct err *e)
{
    struct cpu_set added = { 0 }, masked = { 0 };
    unsigned len = (unsigned)strcspn(text, ",");
    int model = cpu_model_find(text, len), r;

    if (model < 0)
        return cpu_unknown("CPU model", text, len, cpu_model_at, e);
    cpu_model_init(m, &cpu_models[model], offer);
    for (const char *p = text + len; *p == ',';) {
        p++;
        len = (unsigned)strcspn(p, ",");
        r = cpu_parse_change(p, len, &added, &masked, e);
        if (r < 0)
            return r;
        p += len;
    }
    return cpu_apply(m, &added, &masked, e);
}

/* ---- choosing ---- */

/* The best model of which nothing is missing that its level demands, without what else is missing. */
static int cpu_default(const struct cpu_offer *offer, struct cpu_model *m, char *note, size_t note_size)
{
    char list[CPU_LIST_MAX] = "";

    for (unsigned i = CPU_MODEL_DEFAULT; i <= CPU_MODEL_V1; i++) {
        struct cpu_set missing;
        bool demanded = false;

        cpu_model_init(m, &cpu_models[i], offer);
        if (cpu_model_missing(m, offer, &missing) == 0 && i == CPU_MODEL_DEFAULT)
            return 0;
        if (!list[0])
            cpu_list(&missing, list, sizeof(list));
        for (unsigned k = 0; k < CPU_F_N; k++) {
            demanded = demanded || (cpu_set_has(&missing, k) && cpu_model_demands(m->base, k));
            if (cpu_set_has(&missing, k))
                cpu_set_put(&m->set, k, false);
        }
        if (demanded)
            continue;
        cpu_set_close(&m->set);
        snprintf(note, note_size, "this machine lacks %s of the default CPU model %s", list,
                 cpu_models[CPU_MODEL_DEFAULT].name);
        return 0;
    }
    return -ENOTSUP;
}

static int cpu_lacking(const struct cpu_model *m, const struct cpu_set *missing, const struct cpu_offer *offer,
                       const char *engine, struct err *e)
{
    char list[CPU_LIST_MAX], note[VMM_CPU_NOTE_MAX], best[VMM_CPU_NAME_MAX];
    struct cpu_model other = *m;
    bool demanded = false;

    cpu_list(missing, list, sizeof(list));
    for (unsigned i = 0; i < CPU_F_N; i++) {
        demanded = demanded || (cpu_set_has(missing, i) && cpu_model_demands(m->base, i));
        if (cpu_set_has(missing, i))
            cpu_set_put(&other.set, i, false);
    }
    cpu_set_close(&other.set);
    if ((demanded && cpu_default(offer, &other, note, sizeof(note)) < 0) ||
        cpu_spell(&other, offer, best, sizeof(best)) < 0)
        snprintf(best, sizeof(best), "host");
    return err_set(e, ENOTSUP, "CPU model %s: the %s engine on this machine has no %s; mask it, or use --cpu %.160s",
                   m->base->name, engine, list, best);
}

int vmm_cpu_choose(const char *text, const struct cpu_offer *offer, const char *engine, struct vmm_cpu *ret,
                   struct cpu_model *ret_model, struct err *e)
{
    struct cpu_set missing;
    int r;

    ret->note[0] = '\0';
    if (text) {
        r = cpu_parse(text, offer, ret_model, e);
        if (r < 0)
            return r;
    } else if (cpu_default(offer, ret_model, ret->note, sizeof(ret->note)) < 0) {
        cpu_model_init(ret_model, &cpu_models[CPU_MODEL_V1], offer);
    }
    if (cpu_model_missing(ret_model, offer, &missing) > 0)
        return cpu_lacking(ret_model, &missing, offer, engine, e);
    if (cpu_spell(ret_model, offer, ret->name, sizeof(ret->name)) < 0)
        return err_set(e, EINVAL, "--cpu: too many changes of a model; use fewer");
    return 0;
}

int vmm_cpu_resolve(const char *text, const struct cpu_ops *ops, struct cpu_vm *vm, struct vmm_cpu *ret, struct err *e)
{
    struct kvm_cpuid_entry2 entries[VMM_CPUID_MAX];
    unsigned n = VMM_CPUID_MAX;
    struct cpu_offer offer;
    struct cpu_model model;
    int r = ops->supported_cpuid(vm, entries, &n);

    if (r < 0)
        return err_set(e, -r, "the %s engine does not say what CPU it offers: %s", ops->name, strerror(-r));
    cpu_offer_init(&offer, entries, n, ops->native);
    r = vmm_cpu_choose(text, &offer, ops->name, ret, &model, e);
    if (r < 0)
        return r;
    ret->n_cpuid = VMM_CPUID_MAX;
    r = cpu_model_cpuid(&model, &offer, ret->cpuid, &ret->n_cpuid);
    return r < 0 ? err_set(e, -r, "CPU model %s: its CPUID table has no room; use fewer changes", model.base->name) : 0;
}
