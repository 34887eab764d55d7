/* "linux.resources" of config.json, and the document of `update`. */
#include <string.h>

#include "wire/oci_read.h"

/* Numbers that were not given are OCI_UNSET. */
static void oci_clear_resources(struct oci_resources *s)
{
    int64_t *const numbers[] = {
        &s->memory_limit,      &s->memory_reservation, &s->memory_swap, &s->memory_kernel, &s->memory_kernel_tcp,
        &s->memory_swappiness, &s->cpu_shares,         &s->cpu_quota,   &s->cpu_burst,     &s->cpu_period,
        &s->cpu_rt_runtime,    &s->cpu_rt_period,      &s->cpu_idle,    &s->pids_limit,    &s->blkio_weight,
        &s->blkio_leaf_weight, &s->net_class_id,
    };

    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
        *numbers[i] = OCI_UNSET;
}

static void oci_read_device_rule(struct oci_reader *r, struct json_object *e, struct oci_device_rule *d)
{
    const char *type = oci_get_string(r, e, "type", OCI_OPTIONAL),
               *access = oci_get_string(r, e, "access", OCI_OPTIONAL);
    bool present;

    d->allow = oci_get_bool(r, e, "allow", &present);
    if (!present)
        oci_bad_member(r, "allow", "is missing");
    if (type && (strlen(type) != 1 || !strchr("acb", type[0])))
        oci_bad_member(r, "type", "must be a, c or b");
    d->type = type && type[0] ? type[0] : 'a';
    d->major = d->minor = -1;
    oci_get_int(r, e, "major", -1, UINT32_MAX, &d->major);
    oci_get_int(r, e, "minor", -1, UINT32_MAX, &d->minor);
    if (!access || !access[0])
        access = "rwm";
    if (strspn(access, "rwm") != strlen(access))
        oci_bad_member(r, "access", "must be made of r, w and m");
    d->read = strchr(access, 'r');
    d->write = strchr(access, 'w');
    d->mknod = strchr(access, 'm');
}

static void oci_read_device_rules(struct oci_reader *r, struct json_object *o, struct oci_resources *s)
{
    struct oci_list l = oci_list_begin(r, o, "devices", sizeof(*s->devices));

    s->devices = l.v;
    s->n_devices = l.n;
    s->devices_present = l.array != NULL;
    for (size_t i = 0; i < l.n; i++) {
        oci_read_device_rule(r, oci_list_next(r, &l, i), &s->devices[i]);
        oci_up(r, l.inner);
    }
    oci_list_end(r, &l);
}

static void oci_read_memory(struct oci_reader *r, struct json_object *o, struct oci_resources *s)
{
    struct json_object *m = oci_get(r, o, "memory", json_type_object, OCI_OPTIONAL);
    size_t at = oci_down(r, "memory");

    oci_get_int(r, m, "limit", -1, INT64_MAX, &s->memory_limit);
    oci_get_int(r, m, "reservation", -1, INT64_MAX, &s->memory_reservation);
    oci_get_int(r, m, "swap", -1, INT64_MAX, &s->memory_swap);
    oci_get_int(r, m, "kernel", -1, INT64_MAX, &s->memory_kernel);
    oci_get_int(r, m, "kernelTCP", -1, INT64_MAX, &s->memory_kernel_tcp);
    oci_get_int(r, m, "swappiness", 0, 100, &s->memory_swappiness);
    s->memory_disable_oom_killer = oci_get_bool(r, m, "disableOOMKiller", &s->memory_disable_oom_killer_present);
    s->memory_use_hierarchy = oci_get_bool(r, m, "useHierarchy", &s->memory_use_hierarchy_present);
    s->memory_check_before_update = oci_get_bool(r, m, "checkBeforeUpdate", NULL);
    if (s->memory_swap > 0 && s->memory_limit > 0 && s->memory_swap < s->memory_limit)
        oci_bad_member(r, "swap", "must not be below the limit: it is memory and swap together");
    oci_up(r, at);
}

static void oci_read_cpu(struct oci_reader *r, struct json_object *o, struct oci_resources *s)
{
    struct json_object *c = oci_get(r, o, "cpu", json_type_object, OCI_OPTIONAL);
    size_t at = oci_down(r, "cpu");

    oci_get_int(r, c, "shares", 0, 262144, &s->cpu_shares);
    oci_get_int(r, c, "quota", -1, INT64_MAX, &s->cpu_quota);
    oci_get_int(r, c, "burst", 0, INT64_MAX, &s->cpu_burst);
    oci_get_int(r, c, "period", 0, INT64_MAX, &s->cpu_period);
    oci_get_int(r, c, "realtimeRuntime", -1, INT64_MAX, &s->cpu_rt_runtime);
    oci_get_int(r, c, "realtimePeriod", 0, INT64_MAX, &s->cpu_rt_period);
    oci_get_int(r, c, "idle", 0, 1, &s->cpu_idle);
    s->cpuset_cpus = oci_get_string(r, c, "cpus", OCI_OPTIONAL);
    s->cpuset_mems = oci_get_string(r, c, "mems", OCI_OPTIONAL);
    oci_up(r, at);
}

static void oci_read_device_number(struct oci_reader *r, struct json_object *e, int64_t *major, int64_t *minor)
{
    if (!oci_get_int(r, e, "major", 0, UINT32_MAX, major))
        oci_bad_member(r, "major", "is missing");
    if (!oci_get_int(r, e, "minor", 0, UINT32_MAX, minor))
        oci_bad_member(r, "minor", "is missing");
}

static void oci_read_throttle(struct oci_reader *r, struct json_object *o, const char *key,
                              struct oci_throttle_device **ret, size_t *ret_n)
{
    struct oci_list l = oci_list_begin(r, o, key, sizeof(**ret));
    struct oci_throttle_device *v = l.v;

    for (size_t i = 0; i < l.n; i++) {
        struct json_object *e = oci_list_next(r, &l, i);

        oci_read_device_number(r, e, &v[i].major, &v[i].minor);
        if (!oci_get_u64(r, e, "rate", &v[i].rate))
            oci_bad_member(r, "rate", "is missing");
        oci_up(r, l.inner);
    }
    *ret = v;
    *ret_n = l.n;
    oci_list_end(r, &l);
}

static void oci_read_weights(struct oci_reader *r, struct json_object *o, struct oci_resources *s)
{
    struct oci_list l = oci_list_begin(r, o, "weightDevice", sizeof(*s->blkio_weight_devices));
    struct oci_weight_device *v = l.v;

    for (size_t i = 0; i < l.n; i++) {
        struct json_object *e = oci_list_next(r, &l, i);
        int64_t weight = 0, leaf = 0;

        oci_read_device_number(r, e, &v[i].major, &v[i].minor);
        oci_get_int(r, e, "weight", 10, 1000, &weight);
        oci_get_int(r, e, "leafWeight", 10, 1000, &leaf);
        if (!weight && !leaf)
            oci_bad_member(r, "weight", "is missing, as is leafWeight");
        v[i].weight = (uint16_t)weight;
        v[i].leaf_weight = (uint16_t)leaf;
        oci_up(r, l.inner);
    }
    s->blkio_weight_devices = v;
    s->n_blkio_weight_devices = l.n;
    oci_list_end(r, &l);
}

static void oci_read_blkio(struct oci_reader *r, struct json_object *o, struct oci_resources *s)
{
    struct json_object *b = oci_get(r, o, "blockIO", json_type_object, OCI_OPTIONAL);
    size_t at = oci_down(r, "blockIO");

    oci_get_int(r, b, "weight", 0, 1000, &s->blkio_weight);
    oci_get_int(r, b, "leafWeight", 0, 1000, &s->blkio_leaf_weight);
    oci_read_weights(r, b, s);
    oci_read_throttle(r, b, "throttleReadBpsDevice", &s->blkio_read_bps, &s->n_blkio_read_bps);
    oci_read_throttle(r, b, "throttleWriteBpsDevice", &s->blkio_write_bps, &s->n_blkio_write_bps);
    oci_read_throttle(r, b, "throttleReadIOPSDevice", &s->blkio_read_iops, &s->n_blkio_read_iops);
    oci_read_throttle(r, b, "throttleWriteIOPSDevice", &s->blkio_write_iops, &s->n_blkio_write_iops);
    oci_up(r, at);
}

/* Spec: config-linux.md, "Huge page limits": a number, then KB, MB, GB and so on. */
static bool oci_is_page_size(const char *text)
{
    const size_t digits = strspn(text, "0123456789");

    return text[0] != '0' && digits > 0 && digits < 10 && text[digits] && strchr("KMGTPE", text[digits]) &&
           strcmp(text + digits + 1, "B") == 0;
}

static void oci_read_hugepages(struct oci_reader *r, struct json_object *o, struct oci_resources *s)
{
    struct oci_list l = oci_list_begin(r, o, "hugepageLimits", sizeof(*s->hugepages));
    struct oci_hugepage_limit *v = l.v;

    for (size_t i = 0; i < l.n; i++) {
        struct json_object *e = oci_list_next(r, &l, i);

        v[i].page_size = oci_get_string(r, e, "pageSize", OCI_REQUIRED);
        if (v[i].page_size && !oci_is_page_size(v[i].page_size))
            oci_bad_member(r, "pageSize", "must be a size like 2MB");
        if (!oci_get_u64(r, e, "limit", &v[i].limit))
            oci_bad_member(r, "limit", "is missing");
        oci_up(r, l.inner);
    }
    s->hugepages = v;
    s->n_hugepages = l.n;
    oci_list_end(r, &l);
}

static void oci_read_network(struct oci_reader *r, struct json_object *o, struct oci_resources *s)
{
    struct json_object *net = oci_get(r, o, "network", json_type_object, OCI_OPTIONAL);
    size_t at = oci_down(r, "network");
    struct oci_list l = oci_list_begin(r, net, "priorities", sizeof(*s->net_priorities));

    s->net_priorities = l.v;
    s->n_net_priorities = l.n;
    for (size_t i = 0; i < l.n; i++) {
        struct json_object *e = oci_list_next(r, &l, i);

        s->net_priorities[i].name = oci_get_string(r, e, "name", OCI_REQUIRED);
        if (!oci_get_u32(r, e, "priority", UINT32_MAX, &s->net_priorities[i].priority))
            oci_bad_member(r, "priority", "is missing");
        oci_up(r, l.inner);
    }
    oci_list_end(r, &l);
    oci_get_int(r, net, "classID", 0, UINT32_MAX, &s->net_class_id);
    oci_up(r, at);
}

static void oci_read_rdma(struct oci_reader *r, struct json_object *o, struct oci_resources *s)
{
    struct json_object *rdma = oci_get(r, o, "rdma", json_type_object, OCI_OPTIONAL);
    size_t at = oci_down(r, "rdma");

    s->rdma = oci_alloc(r, rdma ? (size_t)json_object_object_length(rdma) : 0, sizeof(*s->rdma));
    if (rdma && s->rdma) {
        json_object_object_foreach(rdma, key, value)
        {
            struct oci_rdma_limit *d = &s->rdma[s->n_rdma++];
            size_t inner = oci_down(r, key);

            *d = (struct oci_rdma_limit){ .device = key, .handles = OCI_UNSET, .objects = OCI_UNSET };
            if (!json_object_is_type(value, json_type_object))
                oci_bad(r, "must be an object");
            oci_get_int(r, value, "hcaHandles", 0, UINT32_MAX, &d->handles);
            oci_get_int(r, value, "hcaObjects", 0, UINT32_MAX, &d->objects);
            oci_up(r, inner);
        }
    }
    oci_up(r, at);
}

static void oci_check_unified(struct oci_reader *r, const char *key)
{
    if (!strchr(key, '.') || strchr(key, '/') || key[0] == '.')
        oci_bad_member(r, key, "is no name of a cgroup's file");
}

void oci_read_resources(struct oci_reader *r, struct json_object *o)
{
    struct oci_resources *s = &r->spec->resources;
    struct json_object *pids;
    size_t at;

    oci_clear_resources(s);
    s->present = o != NULL;
    oci_read_device_rules(r, o, s);
    oci_read_memory(r, o, s);
    oci_read_cpu(r, o, s);
    pids = oci_get(r, o, "pids", json_type_object, OCI_OPTIONAL);
    at = oci_down(r, "pids");
    oci_get_int(r, pids, "limit", -1, INT64_MAX, &s->pids_limit);
    oci_up(r, at);
    oci_read_blkio(r, o, s);
    oci_read_hugepages(r, o, s);
    oci_read_network(r, o, s);
    oci_read_rdma(r, o, s);
    s->unified = oci_get_pairs(r, o, "unified", oci_check_unified, &s->n_unified);
}
