#include "proto/vm_spec.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "proto/json.h"
#include "proto/vm_json.h"

static const char *const vm_engine_names[] = {
    [VM_ENGINE_AUTO] = "auto",
    [VM_ENGINE_KVM] = "kvm",
    [VM_ENGINE_BT] = "bt",
    [VM_ENGINE_INTERP] = "interp",
};
static const char *const vm_console_names[] = {
    [VM_CONSOLE_STDIO] = "stdio",
    [VM_CONSOLE_NONE] = "none",
    [VM_CONSOLE_FILE] = "file",
};

static const char *const vm_console_devices[] = { [VM_CONSOLE_SERIAL] = "serial", [VM_CONSOLE_VIRTIO] = "virtio" };

void vm_spec_init(struct vm_spec *s)
{
    *s = (struct vm_spec){ .memory = VM_MEMORY_DEFAULT, .cpus = 1, .engine = VM_ENGINE_AUTO, .n_nets = 1 };
}

void vm_spec_done(struct vm_spec *s)
{
    free(s->name);
    free(s->run_dir);
    free(s->kernel);
    free(s->initrd);
    free(s->append);
    free(s->cpu);
    free(s->console_file);
    for (unsigned i = 0; i < s->n_disks; i++)
        vm_disk_done(&s->disks[i]);
    *s = (struct vm_spec){ 0 };
}

const char *vm_engine_name(enum vm_engine engine)
{
    return vm_engine_names[engine];
}

int vm_spec_lookup(const char *const *names, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(names[i], name) == 0)
            return (int)i;
    }
    return -EINVAL;
}

int vm_engine_parse(const char *name, enum vm_engine *ret)
{
    int i = vm_spec_lookup(vm_engine_names, ARRAY_SIZE(vm_engine_names), name);

    if (i < 0)
        return i;
    *ret = (enum vm_engine)i;
    return 0;
}

int vm_spec_check(const struct vm_spec *s, struct err *e)
{
    if (!s->kernel || !s->kernel[0])
        return err_set(e, EINVAL, "no kernel given; name one with --kernel FILE");
    if (s->name && !proto_name_ok(s->name))
        return err_set(e, EINVAL, "name '%s' is not allowed; use 1 to 63 of a-z, 0-9 and '-', not starting with '-'",
                       s->name);
    if (s->run_dir && !s->name)
        return err_set(e, EINVAL, "VM specification: 'run_dir' without 'name'");
    if (s->memory < VM_MEMORY_MIN || s->memory % 4096 != 0)
        return err_set(e, EINVAL,
                       "memory of %" PRIu64 " bytes is not possible; give --memory at least 16M, in multiples of 4K",
                       s->memory);
    if (s->cpus < 1 || s->cpus > VM_CPUS_MAX)
        return err_set(e, EINVAL, "%u vCPUs are not possible; give --cpus 1 to %u", s->cpus, VM_CPUS_MAX);
    if (s->cpu && (!s->cpu[0] || strlen(s->cpu) >= VM_CPU_MAX))
        return err_set(e, EINVAL, "--cpu: %s; give MODEL[,+FEATURE][,-FEATURE]..., or leave it out",
                       s->cpu[0] ? "too long" : "no CPU model named");
    for (unsigned i = 0; i < s->n_disks; i++) {
        int r = vm_disk_check(&s->disks[i], i + 1, e);

        if (r < 0)
            return r;
    }
    for (unsigned i = 0; i < s->n_nets; i++) {
        int r = vm_nic_check(&s->nets[i], s->cpus, e);

        if (r < 0)
            return r;
    }
    return vm_nics_check(s->nets, s->n_nets, e);
}

int vm_spec_complete(struct vm_spec *s, struct err *e)
{
    for (unsigned i = 0; i < s->n_nets; i++) {
        int r = vm_nic_complete(&s->nets[i], s->name, i);

        if (r < 0)
            return err_set(e, -r, "cannot choose a MAC address: %s", strerror(-r));
    }
    return 0;
}

/* ---- writing ---- */

void vm_put_str(json_object *o, const char *key, const char *value)
{
    if (value)
        json_object_object_add(o, key, json_object_new_string(value));
}

int vm_spec_to_json(const struct vm_spec *s, char **ret_text)
{
    json_object *o = json_object_new_object();
    json_object *disks = json_object_new_array(), *nets = json_object_new_array();

    vm_put_str(o, "name", s->name);
    vm_put_str(o, "run_dir", s->run_dir);
    vm_put_str(o, "kernel", s->kernel);
    vm_put_str(o, "initrd", s->initrd);
    vm_put_str(o, "append", s->append);
    for (unsigned i = 0; i < s->n_disks; i++)
        json_object_array_add(disks, vm_disk_to_json(&s->disks[i]));
    json_object_object_add(o, "disks", disks);
    for (unsigned i = 0; i < s->n_nets; i++)
        json_object_array_add(nets, vm_nic_to_object(&s->nets[i]));
    json_object_object_add(o, "nets", nets);
    json_object_object_add(o, "memory", json_object_new_uint64(s->memory));
    json_object_object_add(o, "cpus", json_object_new_int((int)s->cpus));
    vm_put_str(o, "cpu", s->cpu);
    vm_put_str(o, "engine", vm_engine_names[s->engine]);
    vm_put_str(o, "console", vm_console_names[s->console]);
    vm_put_str(o, "console_device", vm_console_devices[s->console_device]);
    vm_put_str(o, "console_file", s->console_file);
    json_object_object_add(o, "debug_exit", json_object_new_boolean(s->debug_exit));
    json_object_object_add(o, "no_reboot", json_object_new_boolean(s->no_reboot));
    json_object_object_add(o, "clock_continue", json_object_new_boolean(s->clock_continue));
    json_object_object_add(o, "verbose", json_object_new_boolean(s->verbose));
    return proto_json_take_text(o, ret_text);
}

/* ---- reading ---- */

int vm_get_str(json_object *v, const char *key, char **ret, struct err *e)
{
    char *copy;

    if (!json_object_is_type(v, json_type_string))
        return err_set(e, EINVAL, "VM specification: '%s' must be a string", key);
    copy = strdup(json_object_get_string(v));
    if (!copy)
        return err_set(e, ENOMEM, "out of memory");
    free(*ret);
    *ret = copy;
    return 0;
}

int vm_get_uint(json_object *v, const char *key, uint64_t max, uint64_t *ret, struct err *e)
{
    if (!json_object_is_type(v, json_type_int) || json_object_get_int64(v) < 0 || json_object_get_uint64(v) > max)
        return err_set(e, EINVAL, "VM specification: '%s' must be a whole number up to %" PRIu64, key, max);
    *ret = json_object_get_uint64(v);
    return 0;
}

int vm_get_bool(json_object *v, const char *key, bool *ret, struct err *e)
{
    if (!json_object_is_type(v, json_type_boolean))
        return err_set(e, EINVAL, "VM specification: '%s' must be true or false", key);
    *ret = json_object_get_boolean(v);
    return 0;
}

int vm_get_name(json_object *v, const char *key, const char *const *names, size_t n, struct err *e)
{
    int i = json_object_is_type(v, json_type_string) ? vm_spec_lookup(names, n, json_object_get_string(v)) : -EINVAL;

    if (i < 0)
        return err_set(e, EINVAL, "VM specification: '%s' has an unknown value", key);
    return i;
}

static int vm_get_list(json_object *v, const char *key, struct vm_spec *s, struct err *e)
{
    bool disks = strcmp(key, "disks") == 0;
    size_t n, max = disks ? VM_DISKS_MAX : VM_NICS_MAX;

    if (!json_object_is_type(v, json_type_array))
        return err_set(e, EINVAL, "VM specification: '%s' must be a list", key);
    n = json_object_array_length(v);
    if (n > max)
        return err_set(e, EINVAL, "VM specification: more than %zu entries in '%s'", max, key);
    if (!disks)
        s->n_nets = 0; /* the default makes way */
    for (size_t i = 0; i < n; i++) {
        json_object *item = json_object_array_get_idx(v, i);
        int r = disks ? vm_disk_from_json(item, &s->disks[s->n_disks++], e)
                      : vm_nic_from_object(item, &s->nets[s->n_nets++], e);

        if (r < 0)
            return r;
    }
    return 0;
}

static int vm_get_field(const char *key, json_object *v, struct vm_spec *s, struct err *e)
{
    const struct {
        const char *key;
        char **text;
        bool *flag;
    } plain[] = {
        { "name", &s->name, NULL },
        { "run_dir", &s->run_dir, NULL },
        { "kernel", &s->kernel, NULL },
        { "initrd", &s->initrd, NULL },
        { "append", &s->append, NULL },
        { "cpu", &s->cpu, NULL },
        { "console_file", &s->console_file, NULL },
        { "debug_exit", NULL, &s->debug_exit },
        { "no_reboot", NULL, &s->no_reboot },
        { "clock_continue", NULL, &s->clock_continue },
        { "verbose", NULL, &s->verbose },
    };
    uint64_t n = 0;
    int r;

    for (size_t i = 0; i < ARRAY_SIZE(plain); i++) {
        if (strcmp(key, plain[i].key) == 0)
            return plain[i].text ? vm_get_str(v, key, plain[i].text, e) : vm_get_bool(v, key, plain[i].flag, e);
    }
    if (strcmp(key, "disks") == 0 || strcmp(key, "nets") == 0)
        return vm_get_list(v, key, s, e);
    if (strcmp(key, "memory") == 0)
        return vm_get_uint(v, key, INT64_MAX, &s->memory, e);
    if (strcmp(key, "cpus") == 0) {
        r = vm_get_uint(v, key, VM_CPUS_MAX, &n, e);
        s->cpus = (unsigned)n;
        return r;
    }
    if (strcmp(key, "engine") == 0) {
        r = vm_get_name(v, key, vm_engine_names, ARRAY_SIZE(vm_engine_names), e);
        s->engine = r < 0 ? VM_ENGINE_AUTO : (enum vm_engine)r;
        return r;
    }
    if (strcmp(key, "console") == 0) {
        r = vm_get_name(v, key, vm_console_names, ARRAY_SIZE(vm_console_names), e);
        s->console = r < 0 ? VM_CONSOLE_NONE : (enum vm_console)r;
        return r;
    }
    if (strcmp(key, "console_device") == 0) {
        r = vm_get_name(v, key, vm_console_devices, ARRAY_SIZE(vm_console_devices), e);
        s->console_device = r < 0 ? VM_CONSOLE_SERIAL : (enum vm_console_device)r;
        return r;
    }
    return err_set(e, EINVAL, "VM specification: unknown field '%s'", key);
}

int vm_spec_from_json(const char *text, struct vm_spec *s, struct err *e)
{
    json_object *o = json_tokener_parse(text);
    int r = 0;

    if (!o || !json_object_is_type(o, json_type_object)) {
        json_object_put(o);
        return err_set(e, EINVAL, "VM specification: not a JSON object");
    }
    json_object_object_foreach(o, key, v)
    {
        r = vm_get_field(key, v, s, e);
        if (r < 0)
            break;
    }
    json_object_put(o);
    return r < 0 ? r : vm_spec_check(s, e);
}
