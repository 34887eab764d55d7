/* CPU and block I/O limits. Spec: config-linux.md, "CPU" and "Block IO". */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "oci/cgroup_priv.h"

uint64_t cgroup_weight_of_shares(uint64_t shares)
{
    double log_shares;

    if (shares <= 2)
        return 1;
    if (shares >= 262144)
        return 10000;
    /* A curve through (2, 1), (1024, 100) and (262144, 10000), the least, the default and the most of both; runc 1.3
     * and crun 1.21 have the same. */
    log_shares = log2((double)shares);
    return (uint64_t)ceil(pow(10, (log_shares * log_shares + 125 * log_shares) / 612 - 7.0 / 34));
}

uint64_t cgroup_io_weight(uint64_t w)
{
    return w < 10 ? 1 : w > 1000 ? 10000 : 1 + (w - 10) * 9999 / 990;
}

/* ---- cpu ---- */

static void cpu_put_rt_v1(struct cgroup_apply *a)
{
    if (cgroup_given(a->r->cpu_rt_period))
        cgroup_put_number(a, SYS_CG_CPU, "cpu.rt_period_us", a->r->cpu_rt_period);
    if (cgroup_given(a->r->cpu_rt_runtime))
        cgroup_put_number(a, SYS_CG_CPU, "cpu.rt_runtime_us", a->r->cpu_rt_runtime);
}

/* Write file; EINVAL, where later is set, is not yet an error: the value may fit when the quota has changed. Returns
 * whether it has to be tried again. */
static bool cpu_put_early(struct cgroup_apply *a, const char *file, int64_t value, bool later)
{
    char text[24];
    int r;

    if (a->error)
        return false;
    snprintf(text, sizeof(text), "%lld", (long long)value);
    r = cgroup_try(a, SYS_CG_CPU, file, text);
    if (r == -EINVAL && later)
        return true;
    if (r < 0)
        cgroup_put_failed(a, SYS_CG_CPU, file, text, r);
    return false;
}

void cgroup_apply_cpu_v1(struct cgroup_apply *a)
{
    const struct oci_resources *r = a->r;
    bool quota = cgroup_given(r->cpu_quota), period_later = false, burst_later = false;

    cpu_put_rt_v1(a);
    if (cgroup_given(r->cpu_shares))
        cgroup_put_number(a, SYS_CG_CPU, "cpu.shares", r->cpu_shares);
    if (cgroup_given(r->cpu_period))
        period_later = cpu_put_early(a, "cpu.cfs_period_us", r->cpu_period, quota);
    if (r->cpu_burst != OCI_UNSET && (r->cpu_burst || a->update))
        burst_later = cpu_put_early(a, "cpu.cfs_burst_us", r->cpu_burst, quota);
    if (quota)
        cgroup_put_number(a, SYS_CG_CPU, "cpu.cfs_quota_us", r->cpu_quota);
    if (period_later)
        cgroup_put_number(a, SYS_CG_CPU, "cpu.cfs_period_us", r->cpu_period);
    if (burst_later)
        cgroup_put_number(a, SYS_CG_CPU, "cpu.cfs_burst_us", r->cpu_burst);
    if (r->cpu_idle != OCI_UNSET && (r->cpu_idle || a->update))
        cgroup_put_number(a, SYS_CG_CPU, "cpu.idle", r->cpu_idle);
}

/* "QUOTA" keeps the period (100 ms in a new group); a period alone keeps the quota. */
static void cpu_put_max_v2(struct cgroup_apply *a)
{
    const struct cgroup_one *one = cgroup_with(a->g, SYS_CG_CPU);
    const struct oci_resources *r = a->r;
    char quota[64] = "max", text[96];

    if (cgroup_given(r->cpu_quota)) {
        if (r->cpu_quota > 0)
            snprintf(quota, sizeof(quota), "%lld", (long long)r->cpu_quota);
    } else if (one && sys_cgroup_read(one->dir, "cpu.max", quota, sizeof(quota)) > 0) {
        quota[strcspn(quota, " \n")] = '\0';
    }
    if (!quota[0])
        snprintf(quota, sizeof(quota), "max");
    if (cgroup_given(r->cpu_period))
        snprintf(text, sizeof(text), "%s %lld", quota, (long long)r->cpu_period);
    else if (!a->update)
        snprintf(text, sizeof(text), "%s 100000", quota);
    else
        snprintf(text, sizeof(text), "%s", quota);
    cgroup_put(a, SYS_CG_CPU, "cpu.max", text);
}

void cgroup_apply_cpu_v2(struct cgroup_apply *a)
{
    const struct oci_resources *r = a->r;
    bool bandwidth = cgroup_given(r->cpu_quota) || cgroup_given(r->cpu_period), burst_later = false;

    if (!a->error && (cgroup_given(r->cpu_rt_period) || cgroup_given(r->cpu_rt_runtime))) {
        a->error =
            err_set(a->e, EINVAL, "linux.resources.cpu.realtimeRuntime, realtimePeriod: cgroup v2 has no such limits");
        return;
    }
    if (r->cpu_idle != OCI_UNSET && (r->cpu_idle || a->update))
        cgroup_put_number(a, SYS_CG_CPU, "cpu.idle", r->cpu_idle);
    /* A group that is idle has no weight. */
    if (cgroup_given(r->cpu_shares) && r->cpu_idle != 1)
        cgroup_put_number(a, SYS_CG_CPU, "cpu.weight", (int64_t)cgroup_weight_of_shares((uint64_t)r->cpu_shares));
    if (r->cpu_burst != OCI_UNSET && (r->cpu_burst || a->update))
        burst_later = cpu_put_early(a, "cpu.max.burst", r->cpu_burst, bandwidth);
    if (bandwidth)
        cpu_put_max_v2(a);
    if (burst_later)
        cgroup_put_number(a, SYS_CG_CPU, "cpu.max.burst", r->cpu_burst);
}

/* ---- block I/O ---- */

static void io_put_device(struct cgroup_apply *a, const char *file, int64_t major, int64_t minor, const char *format,
                          uint64_t v)
{
    char text[96];
    int len = snprintf(text, sizeof(text), "%lld:%lld ", (long long)major, (long long)minor);

    snprintf(text + len, sizeof(text) - (size_t)len, "%s%llu", format, (unsigned long long)v);
    cgroup_put(a, SYS_CG_IO, file, text);
}

/* The file that this kernel has for a value: BFQ's has a name of its own since the CFQ scheduler has gone. */
static const char *io_file(struct cgroup_apply *a, const char *bfq, const char *other)
{
    const struct cgroup_one *one = cgroup_with(a->g, SYS_CG_IO);
    char text[8];

    return one && sys_cgroup_read(one->dir, bfq, text, sizeof(text)) >= 0 ? bfq : other;
}

/* The weights of the group and of its devices. own_scale: cgroup v2's I/O cost model has its own numbers. */
static void io_put_weights(struct cgroup_apply *a, const char *file, const char *device_file, bool own_scale)
{
    const struct oci_resources *r = a->r;

    if (cgroup_given(r->blkio_weight))
        cgroup_put_number(a, SYS_CG_IO, file,
                          own_scale ? (int64_t)cgroup_io_weight((uint64_t)r->blkio_weight) : r->blkio_weight);
    for (size_t i = 0; i < r->n_blkio_weight_devices; i++) {
        const struct oci_weight_device *d = &r->blkio_weight_devices[i];

        if (d->weight)
            io_put_device(a, device_file, d->major, d->minor, "", own_scale ? cgroup_io_weight(d->weight) : d->weight);
    }
}

static void io_put_weights_v1(struct cgroup_apply *a)
{
    const struct oci_resources *r = a->r;

    if (cgroup_given(r->blkio_weight) || r->n_blkio_weight_devices > 0)
        io_put_weights(a, io_file(a, "blkio.bfq.weight", "blkio.weight"),
                       io_file(a, "blkio.bfq.weight_device", "blkio.weight_device"), false);
    if (cgroup_given(r->blkio_leaf_weight))
        cgroup_put_number(a, SYS_CG_IO, "blkio.leaf_weight", r->blkio_leaf_weight);
    for (size_t i = 0; i < r->n_blkio_weight_devices; i++) {
        const struct oci_weight_device *d = &r->blkio_weight_devices[i];

        if (d->leaf_weight)
            io_put_device(a, "blkio.leaf_weight_device", d->major, d->minor, "", d->leaf_weight);
    }
}

static void io_put_throttles(struct cgroup_apply *a, const char *file, const char *format,
                             const struct oci_throttle_device *d, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (d[i].rate || !cgroup_pure_v2(a->g))
            io_put_device(a, file, d[i].major, d[i].minor, format, d[i].rate);
    }
}

void cgroup_apply_io_v1(struct cgroup_apply *a)
{
    const struct oci_resources *r = a->r;

    io_put_weights_v1(a);
    io_put_throttles(a, "blkio.throttle.read_bps_device", "", r->blkio_read_bps, r->n_blkio_read_bps);
    io_put_throttles(a, "blkio.throttle.write_bps_device", "", r->blkio_write_bps, r->n_blkio_write_bps);
    io_put_throttles(a, "blkio.throttle.read_iops_device", "", r->blkio_read_iops, r->n_blkio_read_iops);
    io_put_throttles(a, "blkio.throttle.write_iops_device", "", r->blkio_write_iops, r->n_blkio_write_iops);
}

/* BFQ takes v1's numbers. */
static void io_put_weights_v2(struct cgroup_apply *a)
{
    const char *file;

    if (!cgroup_given(a->r->blkio_weight) && a->r->n_blkio_weight_devices == 0)
        return;
    file = io_file(a, "io.bfq.weight", "io.weight");
    io_put_weights(a, file, file, strcmp(file, "io.bfq.weight") != 0);
}

void cgroup_apply_io_v2(struct cgroup_apply *a)
{
    const struct oci_resources *r = a->r;

    io_put_weights_v2(a);
    io_put_throttles(a, "io.max", "rbps=", r->blkio_read_bps, r->n_blkio_read_bps);
    io_put_throttles(a, "io.max", "wbps=", r->blkio_write_bps, r->n_blkio_write_bps);
    io_put_throttles(a, "io.max", "riops=", r->blkio_read_iops, r->n_blkio_read_iops);
    io_put_throttles(a, "io.max", "wiops=", r->blkio_write_iops, r->n_blkio_write_iops);
}
