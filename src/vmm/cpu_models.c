#include "vmm/cpu_models.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "mem/guest.h"
#include "vmm/cpu_model.h"
#include "vmm/engines.h"

static json_object *models_names(const struct cpu_set *s)
{
    json_object *list = json_object_new_array();

    for (unsigned i = 0; i < CPU_F_N; i++) {
        if (cpu_set_has(s, i))
            json_object_array_add(list, json_object_new_string(cpu_features[i].name));
    }
    return list;
}

static json_object *models_entry(const struct cpu_model_base *base, const struct cpu_offer *offer, const char *chosen)
{
    json_object *o = json_object_new_object();
    struct cpu_set missing;
    struct cpu_model m;
    bool runs;

    cpu_model_init(&m, base, offer);
    runs = cpu_model_missing(&m, offer, &missing) == 0;
    json_object_object_add(o, "name", json_object_new_string(base->name));
    json_object_object_add(o, "summary", json_object_new_string(base->summary));
    json_object_object_add(o, "default", json_object_new_boolean(strcmp(base->name, chosen) == 0));
    json_object_object_add(o, "runs", json_object_new_boolean(runs));
    json_object_object_add(o, "lacks", models_names(&missing));
    json_object_object_add(o, "features", models_names(&m.set));
    return o;
}

static int models_print(const struct cpu_ops *ops, struct cpu_vm *vm, struct err *e)
{
    struct kvm_cpuid_entry2 entries[VMM_CPUID_MAX];
    unsigned n = VMM_CPUID_MAX;
    struct cpu_offer offer;
    struct cpu_model model;
    struct vmm_cpu cpu;
    json_object *list;
    int r = ops->supported_cpuid(vm, entries, &n);

    if (r < 0)
        return err_set(e, -r, "the %s engine does not say what CPU it offers: %s", ops->name, strerror(-r));
    cpu_offer_init(&offer, entries, n, ops->native);
    r = vmm_cpu_choose(NULL, &offer, ops->name, &cpu, &model, e);
    if (r < 0)
        return r;
    list = json_object_new_array();
    for (unsigned i = 0; i < CPU_MODELS_N; i++)
        json_object_array_add(list, models_entry(&cpu_models[i], &offer, model.base->name));
    puts(json_object_to_json_string_ext(list, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(list);
    return fflush(stdout) == 0 ? 0 : err_set(e, errno, "cannot write the list: %s", strerror(errno));
}

/* Nothing runs on it: a VM is what KVM wants to be asked through. */
static void models_pio(void *opaque, uint16_t port, void *data, unsigned len, bool write)
{
}

static void models_mmio(void *opaque, uint64_t gpa, void *data, unsigned len, bool write)
{
}

int vmm_cpu_models(const char *engine, struct err *e)
{
    static const struct cpu_bus_ops bus = { .pio = models_pio, .mmio = models_mmio };
    struct cpu_vm_config config = { .bus = &bus, .max_vcpus = 1 };
    const struct cpu_ops *ops = NULL;
    enum vm_engine wanted = VM_ENGINE_AUTO;
    struct cpu_vm *vm = NULL;
    int r = vm_engine_parse(engine, &wanted);

    if (r < 0)
        return err_set(e, EINVAL, "unknown engine '%s'; use --engine auto, kvm, bt or interp", engine);
    r = vmm_engine_choose(wanted, &ops, e);
    if (r < 0)
        return r;
    r = mem_new(&config.mem);
    if (r < 0)
        return err_set(e, -r, "out of memory");
    r = ops->vm_new(&config, &vm);
    r = r < 0 ? vmm_engine_error(ops, -r, e) : models_print(ops, vm, e);
    ops->vm_free(vm);
    mem_free(config.mem);
    return r;
}
