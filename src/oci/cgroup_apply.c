/* Limits: which file of which group takes which value; v1 and v2 each where its controller is. What runc and crun write
 * for the same config.json, so that an engine sees no difference. This file has the common part and the controllers
 * that are alike in both versions; memory, cpu and io have files of their own. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "oci/cgroup_priv.h"

static bool apply_v2(struct cgroup_apply *a, enum sys_cgroup_controller c)
{
    const struct cgroup_one *one = cgroup_with(a->g, c);

    return one ? one->v2 : cgroup_pure_v2(a->g);
}

int cgroup_try(struct cgroup_apply *a, enum sys_cgroup_controller c, const char *file, const char *text)
{
    const struct cgroup_one *one = cgroup_with(a->g, c);

    return one ? sys_cgroup_write(one->dir, file, text) : -ENOENT;
}

void cgroup_put_failed(struct cgroup_apply *a, enum sys_cgroup_controller c, const char *file, const char *text,
                       int error)
{
    const struct cgroup_one *one = cgroup_with(a->g, c);

    if (a->error)
        return;
    if (!one)
        a->error = err_set(a->e, -error, "cgroup: cannot set %s to %s: no controller \"%s\" here", file, text,
                           sys_cgroup_name(c, cgroup_pure_v2(a->g)));
    else if (error == -ENOENT || error == -EACCES)
        a->error = err_set(a->e, -error, "cgroup %s/%s: cannot be set to %s: %s", one->dir, file, text,
                           error == -ENOENT ? "this kernel or group has no such file" : strerror(-error));
    else
        a->error =
            err_set(a->e, -error, "cgroup %s/%s: the kernel refuses %s: %s", one->dir, file, text, strerror(-error));
}

void cgroup_put(struct cgroup_apply *a, enum sys_cgroup_controller c, const char *file, const char *text)
{
    int r = a->error ? 0 : cgroup_try(a, c, file, text);

    if (r < 0)
        cgroup_put_failed(a, c, file, text, r);
}

void cgroup_put_number(struct cgroup_apply *a, enum sys_cgroup_controller c, const char *file, int64_t value)
{
    char text[24];

    snprintf(text, sizeof(text), "%lld", (long long)value);
    cgroup_put(a, c, file, text);
}

/* PIDs: the same in both. */
static void apply_pids(struct cgroup_apply *a)
{
    if (!cgroup_given(a->r->pids_limit))
        return;
    if (a->r->pids_limit < 0)
        cgroup_put(a, SYS_CG_PIDS, "pids.max", "max");
    else
        cgroup_put_number(a, SYS_CG_PIDS, "pids.max", a->r->pids_limit);
}

static void apply_cpuset(struct cgroup_apply *a)
{
    if (a->r->cpuset_cpus && a->r->cpuset_cpus[0])
        cgroup_put(a, SYS_CG_CPUSET, "cpuset.cpus", a->r->cpuset_cpus);
    if (a->r->cpuset_mems && a->r->cpuset_mems[0])
        cgroup_put(a, SYS_CG_CPUSET, "cpuset.mems", a->r->cpuset_mems);
}

/* The limit itself and, where the kernel has it (5.7), that of reservations. */
static void apply_hugepages(struct cgroup_apply *a)
{
    const char *suffix = apply_v2(a, SYS_CG_HUGETLB) ? "max" : "limit_in_bytes";

    for (size_t i = 0; i < a->r->n_hugepages && !a->error; i++) {
        const struct oci_hugepage_limit *l = &a->r->hugepages[i];
        char file[80], text[24];
        int r;

        snprintf(text, sizeof(text), "%llu", (unsigned long long)l->limit);
        snprintf(file, sizeof(file), "hugetlb.%.32s.%s", l->page_size, suffix);
        cgroup_put(a, SYS_CG_HUGETLB, file, text);
        snprintf(file, sizeof(file), "hugetlb.%.32s.rsvd.%s", l->page_size, suffix);
        r = a->error ? 0 : cgroup_try(a, SYS_CG_HUGETLB, file, text);
        if (r < 0 && r != -ENOENT)
            cgroup_put_failed(a, SYS_CG_HUGETLB, file, text, r);
    }
}

static void apply_net(struct cgroup_apply *a)
{
    if (cgroup_given(a->r->net_class_id))
        cgroup_put_number(a, SYS_CG_NET_CLS, "net_cls.classid", a->r->net_class_id);
    for (size_t i = 0; i < a->r->n_net_priorities && !a->error; i++) {
        const struct oci_if_priority *p = &a->r->net_priorities[i];
        char text[64];

        if (snprintf(text, sizeof(text), "%s %u", p->name, p->priority) >= (int)sizeof(text))
            a->error = err_set(a->e, EINVAL, "linux.resources.network.priorities[%zu].name: is no interface's name", i);
        cgroup_put(a, SYS_CG_NET_PRIO, "net_prio.ifpriomap", text);
    }
}

static void apply_rdma(struct cgroup_apply *a)
{
    for (size_t i = 0; i < a->r->n_rdma && !a->error; i++) {
        const struct oci_rdma_limit *l = &a->r->rdma[i];
        char text[160];
        int len = snprintf(text, sizeof(text), "%.64s", l->device);

        if (l->handles != OCI_UNSET)
            len += snprintf(text + len, sizeof(text) - (size_t)len, " hca_handle=%lld", (long long)l->handles);
        if (l->objects != OCI_UNSET)
            snprintf(text + len, sizeof(text) - (size_t)len, " hca_object=%lld", (long long)l->objects);
        cgroup_put(a, SYS_CG_RDMA, "rdma.max", text);
    }
}

/* One line of a value: several, in a file like io.max, are several writes. */
static int apply_unified_line(struct cgroup_apply *a, const struct cgroup_one *one, const struct oci_key_value *u)
{
    AUTO_FREE char *copy = strdup(u->value);
    int r = copy ? 0 : -ENOMEM;

    for (char *line = copy; line && *line && r == 0;) {
        char *end = strchr(line, '\n');

        if (end)
            *end++ = '\0';
        r = *line ? sys_cgroup_write(one->dir, u->key, line) : 0;
        line = end;
    }
    return r;
}

void cgroup_apply_unified(struct cgroup_apply *a)
{
    const struct cgroup_one *one = a->g->unified >= 0 ? &a->g->one[a->g->unified] : NULL;

    for (size_t i = 0; i < a->r->n_unified && !a->error; i++) {
        const struct oci_key_value *u = &a->r->unified[i];
        int r;

        if (!one) {
            a->error = err_set(a->e, EINVAL, "linux.resources.unified: is for cgroup v2, which is not mounted here");
            return;
        }
        if (strchr(u->key, '/') || !strchr(u->key, '.')) {
            a->error = err_set(a->e, EINVAL, "linux.resources.unified: \"%s\" is no file of a cgroup", u->key);
            return;
        }
        r = apply_unified_line(a, one, u);
        if (r < 0)
            a->error =
                err_set(a->e, -r, "cgroup %s/%s (linux.resources.unified): cannot be set to %s: %s", one->dir, u->key,
                        u->value, r == -ENOENT ? "the group has no such file (controller missing?)" : strerror(-r));
    }
}

static uint32_t needed_if(bool condition, enum sys_cgroup_controller c)
{
    return condition ? 1U << c : 0;
}

/* The controllers that the files named by "unified" belong to. */
static uint32_t needed_unified(const struct oci_resources *r)
{
    uint32_t mask = 0;

    for (size_t i = 0; i < r->n_unified; i++) {
        size_t len = strcspn(r->unified[i].key, ".");

        for (unsigned c = 0; c < SYS_CG_CONTROLLERS; c++) {
            const char *name = sys_cgroup_name(c, true);

            if (strlen(name) == len && memcmp(name, r->unified[i].key, len) == 0)
                mask |= 1U << c;
        }
    }
    return mask;
}

uint32_t cgroup_needed(const struct oci_resources *r)
{
    if (!r->present)
        return 0;
    return needed_if(cgroup_given(r->memory_limit) || cgroup_given(r->memory_reservation) ||
                         cgroup_given(r->memory_swap) || cgroup_given(r->memory_kernel_tcp) ||
                         r->memory_swappiness != OCI_UNSET || r->memory_disable_oom_killer,
                     SYS_CG_MEMORY) |
           needed_if(cgroup_given(r->cpu_shares) || cgroup_given(r->cpu_quota) || cgroup_given(r->cpu_period) ||
                         cgroup_given(r->cpu_burst) || cgroup_given(r->cpu_rt_period) ||
                         cgroup_given(r->cpu_rt_runtime) || cgroup_given(r->cpu_idle),
                     SYS_CG_CPU) |
           needed_if((r->cpuset_cpus && r->cpuset_cpus[0]) || (r->cpuset_mems && r->cpuset_mems[0]), SYS_CG_CPUSET) |
           needed_if(cgroup_given(r->pids_limit), SYS_CG_PIDS) |
           needed_if(cgroup_given(r->blkio_weight) || cgroup_given(r->blkio_leaf_weight) || r->n_blkio_weight_devices ||
                         r->n_blkio_read_bps || r->n_blkio_write_bps || r->n_blkio_read_iops || r->n_blkio_write_iops,
                     SYS_CG_IO) |
           needed_if(r->n_hugepages, SYS_CG_HUGETLB) | needed_if(cgroup_given(r->net_class_id), SYS_CG_NET_CLS) |
           needed_if(r->n_net_priorities, SYS_CG_NET_PRIO) | needed_if(r->n_rdma, SYS_CG_RDMA) | needed_unified(r);
}

/* Without groups, limits cannot be met; device rules are left to whoever made the user namespace. */
static int apply_without(const struct oci_resources *r, struct err *e)
{
    if (cgroup_needed(r) || r->n_unified)
        return err_set(e, EPERM,
                       "cgroup: the container has no groups, so that limits cannot be set; ask for a "
                       "delegated group");
    return 0;
}

static int apply_all(struct cgroup_apply *a)
{
    const struct oci_resources *r = a->r;
    uint32_t needed = cgroup_needed(r);

    if (a->g->n == 0)
        return apply_without(r, a->e);
    if (a->g->systemd)
        a->error = cgroup_systemd_limits(a->g, r, a->e);
    if (needed & 1U << SYS_CG_CPUSET)
        apply_cpuset(a);
    if (!a->update || r->devices_present)
        cgroup_apply_devices(a);
    if (!needed && r->n_unified == 0)
        return a->error;
    if (needed & 1U << SYS_CG_MEMORY)
        (apply_v2(a, SYS_CG_MEMORY) ? cgroup_apply_memory_v2 : cgroup_apply_memory_v1)(a);
    if (needed & 1U << SYS_CG_CPU)
        (apply_v2(a, SYS_CG_CPU) ? cgroup_apply_cpu_v2 : cgroup_apply_cpu_v1)(a);
    if (needed & 1U << SYS_CG_IO)
        (apply_v2(a, SYS_CG_IO) ? cgroup_apply_io_v2 : cgroup_apply_io_v1)(a);
    apply_pids(a);
    apply_hugepages(a);
    apply_net(a);
    apply_rdma(a);
    cgroup_apply_unified(a);
    return a->error;
}

int oci_cgroup_apply(struct oci_cgroup *g, const struct oci_resources *r, struct err *e)
{
    struct cgroup_apply a = { .g = g, .r = r, .e = e };

    return apply_all(&a);
}

int oci_cgroup_update(struct oci_cgroup *g, const struct oci_resources *r, struct err *e)
{
    struct cgroup_apply a = { .g = g, .r = r, .e = e, .update = true };

    if (g->unified >= 0 && r->n_hugepages) {
        /* In a hybrid layout the controller may not have been handed down at creation. */
        struct cgroup_one *one = &g->one[g->unified];

        if (!(one->controllers & 1U << SYS_CG_HUGETLB)) {
            int have = sys_cgroup_enable(one->pub.mount, one->dir, 1U << SYS_CG_HUGETLB);

            one->controllers |= have > 0 ? (uint32_t)have : 0;
        }
    }
    return apply_all(&a);
}
