/* `update`: change limits of a container, by options or by a document in the form of linux.resources. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fdio.h"
#include "base/num.h"
#include "oci/cgroup.h"
#include "oci/container.h"
#include "oci/main.h"
#include "oci/state.h"

#define UPDATE_LOCK_MS 10000

/* Numbers as options give them: with a sign where below zero means something; sizes with suffixes. */
enum update_kind { UPDATE_UNSIGNED, UPDATE_SIGNED, UPDATE_BYTES };

static int update_number(const struct oci_args *a, enum oci_opt opt, const char *name, enum update_kind kind,
                         int64_t *ret, struct err *e)
{
    const char *text = a->value[opt];
    bool negative = text && text[0] == '-' && kind != UPDATE_UNSIGNED;
    uint64_t v;
    int r;

    if (!text)
        return 0;
    r = kind == UPDATE_BYTES && !negative ? num_parse_size(text, &v) : num_parse_u64(text + negative, 0, INT64_MAX, &v);
    if (r == 0 && v > INT64_MAX)
        r = -ERANGE;
    if (r < 0)
        return err_set(e, -r, "--%s %s: %s", name, text,
                       r == -ERANGE           ? "is too large"
                       : kind == UPDATE_BYTES ? "is no size; write it like 512M, or -1 for no limit"
                                              : "is no number");
    *ret = negative ? -(int64_t)v : (int64_t)v;
    return 0;
}

static int update_options(const struct oci_args *a, struct oci_resources *res, struct err *e)
{
    const struct {
        enum oci_opt opt;
        const char *name;
        enum update_kind kind;
        int64_t *to;
    } numbers[] = {
        { OCI_OPT_BLKIO_WEIGHT, "blkio-weight", UPDATE_UNSIGNED, &res->blkio_weight },
        { OCI_OPT_CPU_PERIOD, "cpu-period", UPDATE_UNSIGNED, &res->cpu_period },
        { OCI_OPT_CPU_QUOTA, "cpu-quota", UPDATE_SIGNED, &res->cpu_quota },
        { OCI_OPT_CPU_BURST, "cpu-burst", UPDATE_UNSIGNED, &res->cpu_burst },
        { OCI_OPT_CPU_SHARE, "cpu-share", UPDATE_UNSIGNED, &res->cpu_shares },
        { OCI_OPT_CPU_RT_PERIOD, "cpu-rt-period", UPDATE_UNSIGNED, &res->cpu_rt_period },
        { OCI_OPT_CPU_RT_RUNTIME, "cpu-rt-runtime", UPDATE_SIGNED, &res->cpu_rt_runtime },
        { OCI_OPT_CPU_IDLE, "cpu-idle", UPDATE_UNSIGNED, &res->cpu_idle },
        { OCI_OPT_MEMORY, "memory", UPDATE_BYTES, &res->memory_limit },
        { OCI_OPT_MEMORY_RESERVATION, "memory-reservation", UPDATE_BYTES, &res->memory_reservation },
        { OCI_OPT_MEMORY_SWAP, "memory-swap", UPDATE_BYTES, &res->memory_swap },
        { OCI_OPT_KERNEL_MEMORY, "kernel-memory", UPDATE_BYTES, &res->memory_kernel },
        { OCI_OPT_KERNEL_MEMORY_TCP, "kernel-memory-tcp", UPDATE_BYTES, &res->memory_kernel_tcp },
        { OCI_OPT_PIDS_LIMIT, "pids-limit", UPDATE_SIGNED, &res->pids_limit },
    };
    int r = 0;

    for (size_t i = 0; i < ARRAY_SIZE(numbers) && r == 0; i++)
        r = update_number(a, numbers[i].opt, numbers[i].name, numbers[i].kind, numbers[i].to, e);
    if (a->value[OCI_OPT_CPUSET_CPUS])
        res->cpuset_cpus = a->value[OCI_OPT_CPUSET_CPUS];
    if (a->value[OCI_OPT_CPUSET_MEMS])
        res->cpuset_mems = a->value[OCI_OPT_CPUSET_MEMS];
    return r;
}

/* The document of --resources: a file, or standard input. */
static int update_read(const char *path, struct buf *b, struct err *e)
{
    bool standard = strcmp(path, "-") == 0;
    int fd = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC), r;

    if (fd < 0)
        return err_set(e, errno, "--resources %s: %s", path, strerror(errno));
    r = fd_read_all(fd, b);
    if (!standard)
        close(fd);
    return r < 0 ? err_set(e, -r, "--resources %s: %s", path, r == -E2BIG ? "is too large" : strerror(-r)) : 0;
}

static int update_resources(const struct oci_args *a, struct oci_spec **ret, struct err *e)
{
    const char *path = a->value[OCI_OPT_RESOURCES];
    struct oci_why why;
    struct buf b;
    int r;

    buf_init(&b, OCI_CONFIG_MAX);
    if (path)
        r = update_read(path, &b, e);
    else
        r = (buf_append_str(&b, "{}"), buf_error(&b));
    if (r == 0) {
        r = oci_spec_parse_resources((const char *)b.data, b.len, ret, &why);
        if (r == -EINVAL)
            err_set(e, EINVAL, "--resources %s: %s%s%s", path, why.where, why.where[0] ? " " : "", why.what);
        else if (r < 0)
            err_set(e, -r, "--resources: %s", strerror(-r));
    }
    buf_done(&b);
    /* A document overrides options, as with runc. */
    return r < 0 || path ? r : update_options(a, &(*ret)->resources, e);
}

int oci_verb_update(const struct oci_args *a, struct err *e)
{
    AUTO(oci_state) struct oci_state *s = NULL;
    AUTO(oci_cgroup) struct oci_cgroup *g = NULL;
    AUTO(oci_spec) struct oci_spec *spec = NULL;
    int r = update_resources(a, &spec, e);

    if (r == 0 && (a->value[OCI_OPT_L3_CACHE_SCHEMA] || a->value[OCI_OPT_MEM_BW_SCHEMA]))
        r = err_set(e, EOPNOTSUPP,
                    "--l3-cache-schema, --mem-bw-schema: write the schemata file of the container's group "
                    "below /sys/fs/resctrl instead");
    if (r == 0)
        r = oci_state_open(a, a->argv[0], &s, e);
    if (r == 0)
        r = oci_state_lock(s, UPDATE_LOCK_MS, e);
    if (r == 0)
        r = oci_container_cgroup(s, "by which alone it could be limited", &g, e);
    if (r < 0)
        return r;
    spec->resources.present = true;
    return oci_cgroup_update(g, &spec->resources, e);
}
