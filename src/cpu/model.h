/* Named CPU models: which features a guest's CPU has, and the CPUID table that says so.
 *
 * A portable model (x86-64-v1...) gives the same table on every machine that has its features, whoever made that
 * machine's CPU: identity, caches and brand are the model's. That takes an engine that executes what the guest sees,
 * not what the host is. Under a native engine (struct cpu_ops) guest code meets the host's own speculation, so there
 * identity and security features remain the host's, and of the profile a model has what the host has.
 * docs/cpu-models.md has the reasons. */
#ifndef CPU_MODEL_H
#define CPU_MODEL_H

#include "cpu/features.h"

struct cpu_model_base {
    const char *name;
    const char *summary; /* one line for people */
    const char *brand;   /* at most 47 characters; NULL: the host's */
    uint8_t level;       /* of the psABI, 1..3; 0: what the host has */
};

/* Best first: the default is the first. */
enum { CPU_MODEL_V3, CPU_MODEL_V2, CPU_MODEL_V1, CPU_MODEL_HOST, CPU_MODELS_N };
extern const struct cpu_model_base cpu_models[CPU_MODELS_N];
#define CPU_MODEL_DEFAULT CPU_MODEL_V3

/* What an engine can offer on this host. */
struct cpu_offer {
    const struct kvm_cpuid_entry2 *entries;
    unsigned n;
    bool native; /* of struct cpu_ops */
    struct cpu_set set;
};

/* A model made for an offer: its base, changed by what the user added and masked. */
struct cpu_model {
    const struct cpu_model_base *base;
    struct cpu_set set;
};

/* entries is borrowed as long as the offer is used. */
void cpu_offer_init(struct cpu_offer *o, const struct kvm_cpuid_entry2 *entries, unsigned n, bool native);

/* The model of that name (len bytes) as an index of cpu_models, or -ENOENT. */
int cpu_model_find(const char *name, unsigned len) MUST_USE;
/* The features that a model has before any are added or masked. */
void cpu_model_init(struct cpu_model *m, const struct cpu_model_base *base, const struct cpu_offer *o);
/* What the model has and the offer does not; returns how many. */
unsigned cpu_model_missing(const struct cpu_model *m, const struct cpu_offer *o, struct cpu_set *ret_missing);
/* Whether a psABI level demands the feature, so that a model of that level cannot do without. */
bool cpu_model_demands(const struct cpu_model_base *base, unsigned id);

/* The CPUID table of the model, without what differs between vCPUs. Nothing must be missing. *n: in capacity, out
 * count. -E2BIG. */
int cpu_model_cpuid(const struct cpu_model *m, const struct cpu_offer *o, struct kvm_cpuid_entry2 *entries,
                    unsigned *n) MUST_USE;

#endif
