#include "proto/vm_disk.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/vm_json.h"

#define VM_KEY_MAX 32

static const char *const vm_caches[] = { [VM_CACHE_WRITEBACK] = "writeback",
                                         [VM_CACHE_NONE] = "none",
                                         [VM_CACHE_WRITETHROUGH] = "writethrough",
                                         [VM_CACHE_UNSAFE] = "unsafe" };
static const char *const vm_aios[] = {
    [VM_AIO_AUTO] = "auto", [VM_AIO_URING] = "io_uring", [VM_AIO_THREADS] = "threads"
};
static const char *const vm_limit_names[] = {
    [VM_IOPS] = "iops", [VM_IOPS_READ] = "iops-rd", [VM_IOPS_WRITE] = "iops-wr",
    [VM_BPS] = "bps",   [VM_BPS_READ] = "bps-rd",   [VM_BPS_WRITE] = "bps-wr"
};
static const char *const vm_discards[] = { "unmap", "ignore" };
static const char *const vm_on_errors[] = { "report", "wait" };
static const char *const vm_kinds[] = { "disk", "cdrom" };

void vm_disk_done(struct vm_disk *d)
{
    free(d->path);
    free(d->serial);
    free(d->format);
    free(d->secret_file);
    *d = (struct vm_disk){ 0 };
}

const char *vm_disk_limit_name(enum vm_disk_limit limit)
{
    return vm_limit_names[limit];
}

int vm_cache_parse(const char *name, enum vm_cache *ret)
{
    int i = vm_spec_lookup(vm_caches, ARRAY_SIZE(vm_caches), name);

    if (i < 0)
        return i;
    *ret = (enum vm_cache)i;
    return 0;
}

int vm_aio_parse(const char *name, enum vm_aio *ret)
{
    int i = vm_spec_lookup(vm_aios, ARRAY_SIZE(vm_aios), name);

    if (i < 0)
        return i;
    *ret = (enum vm_aio)i;
    return 0;
}

int vm_disk_check(const struct vm_disk *d, unsigned number, struct err *e)
{
    if (!d->path || !d->path[0])
        return err_set(e, EINVAL, "disk %u has no file name; give --disk FILE", number);
    if (d->serial && strlen(d->serial) > VM_SERIAL_MAX)
        return err_set(e, EINVAL, "disk %s: serial '%s' is too long; use at most %d characters", d->path, d->serial,
                       VM_SERIAL_MAX);
    if (d->cdrom && !d->read_only)
        return err_set(e, EINVAL, "disk %s: a CD-ROM cannot be written to; make it read-only", d->path);
    if (d->queues > VM_DISK_QUEUES_MAX)
        return err_set(e, EINVAL, "disk %s: %u queues are not possible; use 1 to %d", d->path, d->queues,
                       VM_DISK_QUEUES_MAX);
    if (d->weight > VM_DISK_WEIGHT_MAX)
        return err_set(e, EINVAL, "disk %s: a weight of %u is not possible; use 1 to %d", d->path, d->weight,
                       VM_DISK_WEIGHT_MAX);
    if (d->readahead > VM_READAHEAD_MAX)
        return err_set(e, EINVAL, "disk %s: reading that far ahead is not possible; use readahead=off or up to 16M",
                       d->path);
    for (unsigned i = 0; i < VM_LIMITS; i++) {
        if (d->limits[i].burst > 0 && d->limits[i].rate == 0)
            return err_set(e, EINVAL, "disk %s: a burst of %s needs a rate above 0", d->path, vm_limit_names[i]);
    }
    return 0;
}

/* ---- writing ---- */

static void vm_put_uint(json_object *o, const char *key, uint64_t value)
{
    if (value > 0)
        json_object_object_add(o, key, json_object_new_uint64(value));
}

static void vm_put_flag(json_object *o, const char *key, bool value)
{
    if (value)
        json_object_object_add(o, key, json_object_new_boolean(true));
}

json_object *vm_disk_to_json(const struct vm_disk *d)
{
    json_object *o = json_object_new_object();

    if (!o)
        return NULL;
    vm_put_str(o, "path", d->path);
    vm_put_str(o, "kind", vm_kinds[d->cdrom]);
    vm_put_str(o, "serial", d->serial);
    vm_put_str(o, "format", d->format);
    vm_put_str(o, "secret_file", d->secret_file);
    json_object_object_add(o, "read_only", json_object_new_boolean(d->read_only));
    vm_put_str(o, "cache", vm_caches[d->cache]);
    vm_put_str(o, "aio", vm_aios[d->aio]);
    vm_put_str(o, "discard", vm_discards[d->ignore_discard]);
    vm_put_str(o, "on_error", vm_on_errors[d->wait_on_error]);
    vm_put_flag(o, "no_readahead", d->no_readahead);
    vm_put_uint(o, "readahead", d->readahead);
    vm_put_uint(o, "weight", d->weight);
    vm_put_uint(o, "queues", d->queues);
    for (unsigned i = 0; i < VM_LIMITS; i++) {
        char key[VM_KEY_MAX];

        vm_put_uint(o, vm_limit_names[i], d->limits[i].rate);
        snprintf(key, sizeof(key), "%s-burst", vm_limit_names[i]);
        vm_put_uint(o, key, d->limits[i].burst);
    }
    return o;
}

/* ---- reading ---- */

/* 1: key was a limit and was read; 0: it is none. */
static int vm_disk_get_limit(const char *key, json_object *v, struct vm_disk *d, struct err *e)
{
    for (unsigned i = 0; i < VM_LIMITS; i++) {
        size_t len = strlen(vm_limit_names[i]);
        int r;

        if (strncmp(key, vm_limit_names[i], len) != 0)
            continue;
        if (key[len] == '\0')
            r = vm_get_uint(v, key, INT64_MAX, &d->limits[i].rate, e);
        else if (strcmp(key + len, "-burst") == 0)
            r = vm_get_uint(v, key, INT64_MAX, &d->limits[i].burst, e);
        else
            continue;
        return r < 0 ? r : 1;
    }
    return 0;
}

/* A field whose value is one of a few words; 1: it was; 0: it is none. */
static int vm_disk_get_choice(const char *key, json_object *v, struct vm_disk *d, struct err *e)
{
    const struct {
        const char *key;
        const char *const *names;
        size_t n;
    } choices[] = { { "cache", vm_caches, ARRAY_SIZE(vm_caches) },
                    { "aio", vm_aios, ARRAY_SIZE(vm_aios) },
                    { "discard", vm_discards, ARRAY_SIZE(vm_discards) },
                    { "on_error", vm_on_errors, ARRAY_SIZE(vm_on_errors) },
                    { "kind", vm_kinds, ARRAY_SIZE(vm_kinds) } };

    for (size_t i = 0; i < ARRAY_SIZE(choices); i++) {
        int r;

        if (strcmp(key, choices[i].key) != 0)
            continue;
        r = vm_get_name(v, key, choices[i].names, choices[i].n, e);
        if (r < 0)
            return r;
        if (i == 0)
            d->cache = (enum vm_cache)r;
        else if (i == 1)
            d->aio = (enum vm_aio)r;
        else
            *(bool *[]){ &d->ignore_discard, &d->wait_on_error, &d->cdrom }[i - 2] = r == 1;
        return 1;
    }
    return 0;
}

static int vm_disk_get_number(const char *key, json_object *v, struct vm_disk *d, struct err *e)
{
    uint64_t n = 0;
    int r = vm_get_uint(v, key, UINT32_MAX, &n, e);

    if (strcmp(key, "readahead") == 0)
        d->readahead = (uint32_t)n;
    else if (strcmp(key, "weight") == 0)
        d->weight = (unsigned)n;
    else
        d->queues = (unsigned)n;
    return r;
}

static int vm_disk_get_field(const char *key, json_object *v, struct vm_disk *d, struct err *e)
{
    const struct {
        const char *key;
        char **text;
        bool *flag;
    } plain[] = {
        { "path", &d->path, NULL },           { "serial", &d->serial, NULL },
        { "format", &d->format, NULL },       { "secret_file", &d->secret_file, NULL },
        { "read_only", NULL, &d->read_only }, { "no_readahead", NULL, &d->no_readahead },
    };
    int r;

    for (size_t i = 0; i < ARRAY_SIZE(plain); i++) {
        if (strcmp(key, plain[i].key) == 0)
            return plain[i].text ? vm_get_str(v, key, plain[i].text, e) : vm_get_bool(v, key, plain[i].flag, e);
    }
    if (strcmp(key, "readahead") == 0 || strcmp(key, "weight") == 0 || strcmp(key, "queues") == 0)
        return vm_disk_get_number(key, v, d, e);
    r = vm_disk_get_choice(key, v, d, e);
    if (r == 0)
        r = vm_disk_get_limit(key, v, d, e);
    return r != 0 ? r : err_set(e, EINVAL, "VM specification: unknown field '%s' in a disk", key);
}

int vm_disk_from_json(json_object *o, struct vm_disk *d, struct err *e)
{
    if (!json_object_is_type(o, json_type_object))
        return err_set(e, EINVAL, "VM specification: a disk must be an object");
    json_object_object_foreach(o, key, v)
    {
        int r = vm_disk_get_field(key, v, d, e);

        if (r < 0)
            return r;
    }
    return 0;
}
