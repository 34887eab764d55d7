/* CPUID tables of models. For a portable model under an engine that executes what the guest sees, the table is made
 * from constants and the model's features alone; of the engine's offer it takes only what describes the engine
 * (paravirtual features, address widths). Else it is the offer with the model's features in it. */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "cpu/model.h"

/* A family 6 model 44 of Intel's: the last big core that no list of speculation bugs names by its number (later ones
 * are on some list that IA32_ARCH_CAPABILITIES has no answer for), and one whose number makes C libraries trust
 * unaligned loads and fast string instructions. */
#define MODEL_SIGNATURE 0x000206c2U
#define MODEL_CLFLUSH_8 (8U << 8) /* cache line in units of 8 bytes, leaf 1 EBX */
#define MODEL_CACHE(type, level, ways, sets) (type) | (level) << 5 | 1U << 8, 63U | ((ways)-1U) << 22, (sets)-1U, 0
#define MODEL_L2_EXT (1024U << 16 | 8U << 12 | 64U) /* KiB, code for 16 ways, line */
#define MODEL_MAX_BASIC 0x16U
#define MODEL_MAX_EXT 0x80000008U
#define MODEL_HV_FIRST 0x40000000U
#define MODEL_HV_LAST 0x400000ffU

/* XSAVE (SDM volume 1, chapter 13) */
enum { XS_LEGACY = 576, XS_AVX_BYTES = 256 };
#define XS_X87_SSE 3U
#define XS_AVX 4U
#define XS_AVX512 0xe0U
#define XS_PKRU 0x200U
#define XS_AMX 0x60000U

struct model_row {
    uint32_t leaf;
    int32_t subleaf; /* -1: the leaf has none */
    uint32_t a, b, c, d;
};

/* Leaves 1, 6, 7 and 0x80000001, 0x80000007, 0x80000008 get their features later; 0xb, 0x15 and 0x16 what depends on
 * the vCPU and the machine's TSC. Caches: 32 KiB of each kind, 1 MiB, 16 MiB shared. */
static const struct model_row model_rows[] = {
    { 0, -1, MODEL_MAX_BASIC, 0x756e6547, 0x6c65746e, 0x49656e69 }, /* "Genu" "ntel" "ineI" */
    { 1, -1, MODEL_SIGNATURE, MODEL_CLFLUSH_8, 0, 0 },
    { 2, -1, 0x00f0ff01, 0, 0, 0 }, /* caches: see leaf 4; prefetch of 64 bytes */
    { 4, 0, MODEL_CACHE(1U, 1U, 8, 64) },
    { 4, 1, MODEL_CACHE(2U, 1U, 8, 64) },
    { 4, 2, MODEL_CACHE(3U, 2U, 16, 1024) },
    { 4, 3, MODEL_CACHE(3U, 3U, 16, 16384) },
    { 4, 4, 0, 0, 0, 0 },
    { 6, -1, 0, 0, 0, 0 },
    { 7, 0, 0, 0, 0, 0 },
    { 0xa, -1, 0, 0, 0, 0 },
    { 0xb, 0, 0, 1, 1 << 8, 0 },
    { 0xb, 1, 0, 1, 1 | 2 << 8, 0 },
    { 0xb, 2, 0, 0, 2, 0 },
    { 0x15, -1, 0, 0, 0, 0 },
    { 0x16, -1, 0, 0, 0, 0 },
    { 0x80000000, -1, MODEL_MAX_EXT, 0, 0, 0 },
    { 0x80000001, -1, 0, 0, 0, 0 },
    { 0x80000005, -1, 0, 0, 0, 0 },
    { 0x80000006, -1, 0, 0, MODEL_L2_EXT, 0 },
    { 0x80000007, -1, 0, 0, 0, 0 },
};

struct model_table {
    struct kvm_cpuid_entry2 *entries;
    unsigned n, capacity;
    int error; /* sticks */
};

static struct kvm_cpuid_entry2 *model_add(struct model_table *t, uint32_t leaf, int32_t subleaf)
{
    struct kvm_cpuid_entry2 *e;

    if (t->n == t->capacity) {
        t->error = -E2BIG;
        return &t->entries[0];
    }
    e = &t->entries[t->n++];
    *e = (struct kvm_cpuid_entry2){ .function = leaf,
                                    .index = subleaf < 0 ? 0 : (uint32_t)subleaf,
                                    .flags = subleaf < 0 ? 0 : KVM_CPUID_FLAG_SIGNIFCANT_INDEX };
    return e;
}

static void model_put(struct model_table *t, const struct model_row *row)
{
    struct kvm_cpuid_entry2 *e = model_add(t, row->leaf, row->subleaf);

    if (t->error < 0)
        return;
    e->eax = row->a;
    e->ebx = row->b;
    e->ecx = row->c;
    e->edx = row->d;
}

static struct kvm_cpuid_entry2 *model_find(struct model_table *t, uint32_t leaf, uint32_t subleaf)
{
    return (struct kvm_cpuid_entry2 *)cpu_cpuid_find(t->entries, t->n, leaf, subleaf);
}

static void model_brand(struct model_table *t, const char *brand)
{
    char text[48] = { 0 };

    memcpy(text, brand, MIN(strlen(brand), sizeof(text) - 1));
    for (unsigned i = 0; i < 3; i++) {
        const char *p = text + 16 * (size_t)i;

        model_put(t, &(struct model_row){ 0x80000002 + i, -1, load_le32(p), load_le32(p + 4), load_le32(p + 8),
                                          load_le32(p + 12) });
    }
}

static void model_xsave(struct model_table *t, bool avx)
{
    uint32_t size = avx ? XS_LEGACY + XS_AVX_BYTES : XS_LEGACY;

    model_put(t, &(struct model_row){ 0xd, 0, XS_X87_SSE | (avx ? XS_AVX : 0), XS_LEGACY, size, 0 });
    model_put(t, &(struct model_row){ 0xd, 1, 0, 0, 0, 0 });
    if (avx)
        model_put(t, &(struct model_row){ 0xd, 2, XS_AVX_BYTES, XS_LEGACY, 0, 0 });
}

/* Set the bit of a feature; a leaf that the constants do not have is added, and the leaf that counts them raised. */
static void model_set_feature(struct model_table *t, const struct cpu_feature *f)
{
    struct kvm_cpuid_entry2 *e = model_find(t, f->leaf, f->subleaf), *max;

    if (!e) {
        e = model_add(t, f->leaf, f->leaf == 7 || f->leaf == 0xd ? f->subleaf : -1);
        if (t->error < 0)
            return;
        max = model_find(t, f->leaf & 0x80000000, 0);
        if (max && max->eax < f->leaf)
            max->eax = f->leaf;
        max = f->leaf == 7 ? model_find(t, 7, 0) : NULL;
        if (max && max->eax < f->subleaf)
            max->eax = f->subleaf;
    }
    *cpu_cpuid_reg(e, f->reg) |= BIT(f->bit);
}

static void model_set_features(struct model_table *t, const struct cpu_set *set)
{
    for (unsigned i = 0; i < CPU_F_N; i++) {
        if (cpu_set_has(set, i))
            model_set_feature(t, &cpu_features[i]);
    }
}

/* A portable model: nothing in it comes from the host. */
static void model_build(struct model_table *t, const struct cpu_model *m, const struct cpu_offer *o)
{
    const struct kvm_cpuid_entry2 *widths = cpu_cpuid_find(o->entries, o->n, 0x80000008, 0);

    for (unsigned i = 0; i < ARRAY_SIZE(model_rows); i++)
        model_put(t, &model_rows[i]);
    if (cpu_set_has(&m->set, CPU_F_XSAVE))
        model_xsave(t, cpu_set_has(&m->set, CPU_F_AVX));
    model_brand(t, m->base->brand);
    model_put(t, &(struct model_row){ 0x80000008, -1, widths ? widths->eax & 0xffff : 0, 0, 0, 0 });
    for (unsigned i = 0; i < o->n && cpu_set_has(&m->set, CPU_F_HYPERVISOR); i++) {
        const struct kvm_cpuid_entry2 *e = &o->entries[i];

        if (e->function >= MODEL_HV_FIRST && e->function <= MODEL_HV_LAST) {
            struct kvm_cpuid_entry2 *to = model_add(t, e->function, -1);

            if (t->error == 0)
                *to = *e;
        }
    }
    model_set_features(t, &m->set);
}

/* ---- under an engine whose guests run on the host's CPU, and for the host model ---- */

/* Leaves of the offer that a portable model keeps. */
static bool model_keeps(const struct kvm_cpuid_entry2 *e)
{
    switch (e->function) {
    case 0:
    case 1:
    case 2:
    case 4:
    case 6:
    case 0xb:
    case 0x15:
    case 0x16:
    case 0x8000001d:
    case 0x8000001e:
    case 0x80000021:
        return true;
    case 7:
    case 0xd:
        return e->index <= 2;
    default:
        return (e->function >= MODEL_HV_FIRST && e->function <= MODEL_HV_LAST) ||
               (e->function >= 0x80000000 && e->function <= MODEL_MAX_EXT);
    }
}

static bool model_is_hypervisor(const struct kvm_cpuid_entry2 *e)
{
    return e->function >= MODEL_HV_FIRST && e->function <= MODEL_HV_LAST;
}

static void model_drop(struct model_table *t, unsigned i)
{
    t->n--;
    memmove(&t->entries[i], &t->entries[i + 1], (t->n - i) * sizeof(t->entries[0]));
}

/* In a portable model, a register that has features has those of the model and nothing else. */
static void model_clear_words(struct model_table *t)
{
    for (unsigned i = 0; i < CPU_F_N; i++) {
        const struct cpu_feature *f = &cpu_features[i];
        struct kvm_cpuid_entry2 *e = model_find(t, f->leaf, f->subleaf);

        if (e)
            *cpu_cpuid_reg(e, f->reg) = 0;
    }
    for (unsigned i = 0; i < t->n; i++) {
        struct kvm_cpuid_entry2 *e = &t->entries[i];

        if (e->function == 0)
            e->eax = MIN(e->eax, MODEL_MAX_BASIC);
        else if (e->function == 6)
            e->ebx = e->ecx = e->edx = 0;
        else if (e->function == 0x80000000)
            e->eax = MIN(e->eax, 0x80000021U);
    }
}

/* Components of XSAVE that lost their feature go, and the sizes follow. */
static void model_trim_xsave(struct model_table *t, const struct cpu_set *set, bool portable)
{
    uint64_t gone = (cpu_set_has(set, CPU_F_AVX) ? 0 : XS_AVX | XS_AVX512) |
                    (cpu_set_has(set, CPU_F_AVX512F) ? 0 : XS_AVX512) | (cpu_set_has(set, CPU_F_PKU) ? 0 : XS_PKRU) |
                    (cpu_set_has(set, CPU_F_AMX_TILE) ? 0 : XS_AMX);
    struct kvm_cpuid_entry2 *e;
    uint32_t size = XS_LEGACY;

    if (portable)
        gone |= ~(uint64_t)(XS_X87_SSE | XS_AVX);
    for (unsigned i = t->n; i-- > 0;) {
        e = &t->entries[i];
        if (e->function == 0xd &&
            (!cpu_set_has(set, CPU_F_XSAVE) || (e->index >= 2 && e->index < 63 && (gone >> e->index & 1)))) {
            model_drop(t, i);
        } else if (e->function == 0xd && e->index >= 2 && !(e->ecx & 1)) { /* not one of XSAVES */
            size = MAX(size, e->eax + e->ebx);
        }
    }
    e = model_find(t, 0xd, 0);
    if (!e)
        return;
    e->eax &= (uint32_t)~gone;
    e->edx &= (uint32_t)(~gone >> 32);
    e->ebx = XS_LEGACY; /* engines keep it in step with XCR0 */
    e->ecx = size;
    e = model_find(t, 0xd, 1);
    if (e && portable)
        e->ecx = e->edx = 0; /* supervisor components */
}

static void model_mask(struct model_table *t, const struct cpu_model *m, const struct cpu_offer *o)
{
    bool portable = m->base->level != 0;

    for (unsigned i = 0; i < o->n; i++) {
        const struct kvm_cpuid_entry2 *e = &o->entries[i];

        if ((portable && !model_keeps(e)) || (model_is_hypervisor(e) && !cpu_set_has(&m->set, CPU_F_HYPERVISOR)))
            continue;
        model_add(t, e->function, -1);
        if (t->error < 0)
            return;
        t->entries[t->n - 1] = *e;
    }
    if (portable)
        model_clear_words(t);
    for (unsigned i = 0; i < CPU_F_N; i++) {
        const struct cpu_feature *f = &cpu_features[i];
        struct kvm_cpuid_entry2 *e = model_find(t, f->leaf, f->subleaf);

        if (e && !cpu_set_has(&m->set, i))
            *cpu_cpuid_reg(e, f->reg) &= ~BIT(f->bit);
    }
    model_set_features(t, &m->set);
    model_trim_xsave(t, &m->set, portable);
}

int cpu_model_cpuid(const struct cpu_model *m, const struct cpu_offer *o, struct kvm_cpuid_entry2 *entries, unsigned *n)
{
    struct model_table t = { .entries = entries, .capacity = *n };

    if (t.capacity == 0)
        return -E2BIG;
    if (m->base->level != 0 && !o->native)
        model_build(&t, m, o);
    else
        model_mask(&t, m, o);
    if (t.error < 0)
        return t.error;
    *n = t.n;
    return 0;
}
