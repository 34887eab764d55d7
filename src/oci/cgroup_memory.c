/* Memory limits. Spec: config-linux.md, "Memory"; Documentation/admin-guide/cgroup-v1/memory.rst, cgroup-v2.rst. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "oci/cgroup_priv.h"

#define LIMIT_V1 "memory.limit_in_bytes"
#define SWAP_V1 "memory.memsw.limit_in_bytes"

/* A limit below what is in use is refused; say how much that is. */
static void memory_put_limit_v1(struct cgroup_apply *a, int64_t limit)
{
    const struct cgroup_one *one = cgroup_with(a->g, SYS_CG_MEMORY);
    uint64_t usage, peak;
    char text[24];
    int r;

    if (a->error)
        return;
    snprintf(text, sizeof(text), "%lld", (long long)limit);
    r = cgroup_try(a, SYS_CG_MEMORY, LIMIT_V1, text);
    if (r == -EBUSY && sys_cgroup_read_number(one->dir, "memory.usage_in_bytes", &usage) == 0 &&
        sys_cgroup_read_number(one->dir, "memory.max_usage_in_bytes", &peak) == 0)
        a->error =
            err_set(a->e, EBUSY,
                    "cgroup %s: the memory limit of %lld bytes is below what is in use (%llu, at most %llu so far)",
                    one->dir, (long long)limit, (unsigned long long)usage, (unsigned long long)peak);
    else if (r < 0)
        cgroup_put_failed(a, SYS_CG_MEMORY, LIMIT_V1, text, r);
}

/* Memory and swap together may never be less than memory: raise the sum first, lower it last. */
static void memory_put_both_v1(struct cgroup_apply *a, int64_t memory, int64_t sum)
{
    const struct cgroup_one *one = cgroup_with(a->g, SYS_CG_MEMORY);
    bool both = cgroup_given(memory) && cgroup_given(sum), sum_first = false;
    uint64_t current;

    if (both && one)
        sum_first = sum == -1 ||
                    (sys_cgroup_read_number(one->dir, LIMIT_V1, &current) == 0 && sum >= 0 && current < (uint64_t)sum);
    if (sum_first)
        cgroup_put_number(a, SYS_CG_MEMORY, SWAP_V1, sum);
    if (cgroup_given(memory))
        memory_put_limit_v1(a, memory);
    if (cgroup_given(sum) && !sum_first)
        cgroup_put_number(a, SYS_CG_MEMORY, SWAP_V1, sum);
}

void cgroup_apply_memory_v1(struct cgroup_apply *a)
{
    const struct oci_resources *r = a->r;
    int64_t sum = r->memory_swap;

    /* Unlimited memory without a word on swap means unlimited swap too. */
    if (r->memory_limit == -1 && !cgroup_given(sum))
        sum = -1;
    memory_put_both_v1(a, r->memory_limit, sum);
    if (cgroup_given(r->memory_reservation))
        cgroup_put_number(a, SYS_CG_MEMORY, "memory.soft_limit_in_bytes", r->memory_reservation);
    /* memory.kernel: kernels from 5.16 on take it and do nothing, others may refuse it by now: deprecated by the spec.
     */
    if (cgroup_given(r->memory_kernel_tcp))
        cgroup_put_number(a, SYS_CG_MEMORY, "memory.kmem.tcp.limit_in_bytes", r->memory_kernel_tcp);
    if (r->memory_disable_oom_killer || (a->update && r->memory_disable_oom_killer_present))
        cgroup_put(a, SYS_CG_MEMORY, "memory.oom_control", r->memory_disable_oom_killer ? "1" : "0");
    if (r->memory_swappiness != OCI_UNSET && r->memory_swappiness >= 0)
        cgroup_put_number(a, SYS_CG_MEMORY, "memory.swappiness", r->memory_swappiness);
}

int cgroup_swap_v2(int64_t memory, int64_t memory_swap, int64_t *ret)
{
    if (memory == -1 && !cgroup_given(memory_swap)) {
        *ret = -1;
        return 0;
    }
    if (!cgroup_given(memory_swap) || memory_swap == -1) {
        *ret = memory_swap == -1 ? -1 : OCI_UNSET;
        return 0;
    }
    if (!cgroup_given(memory) || memory < 0 || memory_swap < memory)
        return -EINVAL;
    *ret = memory_swap - memory;
    return 0;
}

static void memory_text(int64_t v, char ret[24])
{
    if (v == -1)
        snprintf(ret, 24, "max");
    else
        snprintf(ret, 24, "%lld", (long long)v);
}

static void memory_put_v2(struct cgroup_apply *a, const char *file, int64_t v)
{
    char text[24];

    memory_text(v, text);
    cgroup_put(a, SYS_CG_MEMORY, file, text);
}

/* Machines without swap accounting have no file, and need none for "no limit" and "none". */
static void memory_put_swap_v2(struct cgroup_apply *a, int64_t swap)
{
    char text[24];
    int r;

    memory_text(swap, text);
    r = a->error ? 0 : cgroup_try(a, SYS_CG_MEMORY, "memory.swap.max", text);
    if (r < 0 && !(r == -ENOENT && swap <= 0 && cgroup_with(a->g, SYS_CG_MEMORY)))
        cgroup_put_failed(a, SYS_CG_MEMORY, "memory.swap.max", text, r);
}

/* memory.checkBeforeUpdate: rather no change than killing the container. */
static bool memory_check_v2(struct cgroup_apply *a)
{
    const struct cgroup_one *one = cgroup_with(a->g, SYS_CG_MEMORY);
    uint64_t usage;

    if (!a->r->memory_check_before_update || !one || a->r->memory_limit <= 0 ||
        sys_cgroup_read_number(one->dir, "memory.current", &usage) < 0 || usage <= (uint64_t)a->r->memory_limit)
        return true;
    a->error = err_set(a->e, EBUSY, "cgroup %s: the memory limit of %lld bytes is below what is in use (%llu)",
                       one->dir, (long long)a->r->memory_limit, (unsigned long long)usage);
    return false;
}

static int64_t memory_current_v2(struct cgroup_apply *a)
{
    const struct cgroup_one *one = cgroup_with(a->g, SYS_CG_MEMORY);
    uint64_t limit;

    return one && sys_cgroup_read_number(one->dir, "memory.max", &limit) == 0 && limit <= INT64_MAX ? (int64_t)limit
                                                                                                    : OCI_UNSET;
}

void cgroup_apply_memory_v2(struct cgroup_apply *a)
{
    const struct oci_resources *r = a->r;
    int64_t limit = r->memory_limit, swap;

    if (a->error || !memory_check_v2(a))
        return;
    /* An update of the sum alone: the limit in force counts. */
    if (a->update && !cgroup_given(limit) && r->memory_swap > 0)
        limit = memory_current_v2(a);
    if (cgroup_swap_v2(limit, r->memory_swap, &swap) < 0) {
        a->error =
            err_set(a->e, EINVAL,
                    "linux.resources.memory.swap: is memory and swap together, so it needs a memory limit and must "
                    "not be below that");
        return;
    }
    if (swap != OCI_UNSET)
        memory_put_swap_v2(a, swap);
    if (cgroup_given(r->memory_limit))
        memory_put_v2(a, "memory.max", r->memory_limit);
    if (cgroup_given(r->memory_reservation))
        memory_put_v2(a, "memory.low", r->memory_reservation);
    if (r->memory_disable_oom_killer || (r->memory_swappiness != OCI_UNSET && r->memory_swappiness >= 0))
        log_warn("cgroup v2 has no disableOOMKiller and no swappiness: ignored");
}
