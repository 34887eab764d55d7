/* What the container has used, as the "data" of runc's `events --stats`: the names, units (nanoseconds, bytes) and
 * omissions are runc's, whatever version of cgroups the numbers come from. What cannot be read is 0 or left out. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "oci/cgroup_stats_priv.h"

#define NS_PER_US 1000u
#define NS_PER_S 1000000000u
#define STATS_CPUS_MAX 8192

void stats_key(struct buf *b, const char *key)
{
    if (b->len && !strchr("{[:", (char)b->data[b->len - 1]))
        buf_append_str(b, ",");
    if (key)
        buf_printf(b, "\"%s\":", key);
}

void stats_open(struct buf *b, const char *key, char bracket)
{
    stats_key(b, key);
    buf_append(b, &bracket, 1);
}

void stats_close(struct buf *b, char bracket)
{
    buf_append(b, &bracket, 1);
}

void stats_number(struct buf *b, const char *key, uint64_t v)
{
    stats_key(b, key);
    buf_printf(b, "%" PRIu64, v);
}

void stats_nonzero(struct buf *b, const char *key, uint64_t v)
{
    if (v)
        stats_number(b, key, v);
}

uint64_t stats_file(const struct cgroup_one *one, const char *file)
{
    uint64_t v;

    return one && sys_cgroup_read_number(one->dir, file, &v) == 0 ? v : 0;
}

static uint64_t stats_find(const char *text, const char *key)
{
    uint64_t v;

    return sys_cgroup_find_number(text, key, &v) ? v : 0;
}

/* A whole file; *ret: the caller frees it. Empty where it cannot be read. */
static const char *stats_text(const struct cgroup_one *one, const char *file, size_t size, char **ret)
{
    *ret = one ? malloc(size) : NULL;
    return *ret && sys_cgroup_read(one->dir, file, *ret, size) > 0 ? *ret : "";
}

/* Take digits off *at; what does not fit is cut off. */
static uint64_t stats_digits(const char **at)
{
    uint64_t v = 0;

    for (; **at >= '0' && **at <= '9'; (*at)++)
        v = v * 10 + (uint64_t)(**at - '0');
    return v;
}

/* The nth number of each line of a table, or of the words of a line. */
static void stats_column(struct buf *b, const char *key, const char *table, unsigned column)
{
    size_t n = 0;

    if (!table[0])
        return;
    stats_open(b, key, '[');
    while (*table && n++ < STATS_CPUS_MAX) {
        const char *word = table;

        for (unsigned i = 0; i < column; i++) {
            word += strcspn(word, " \n");
            word += *word == ' ';
        }
        if (*word >= '0' && *word <= '9')
            stats_number(b, NULL, stats_digits(&word));
        table += strcspn(table, "\n");
        table += *table == '\n';
    }
    stats_close(b, ']');
}

static void stats_throttling(struct buf *b, const char *stat, const char *time_key, uint64_t unit)
{
    stats_open(b, "throttling", '{');
    stats_nonzero(b, "periods", stats_find(stat, "nr_periods"));
    stats_nonzero(b, "throttledPeriods", stats_find(stat, "nr_throttled"));
    stats_nonzero(b, "throttledTime", stats_find(stat, time_key) * unit);
    stats_close(b, '}');
}

static void stats_cpu_v2(const struct cgroup_one *one, struct buf *b)
{
    AUTO_FREE char *copy = NULL;
    const char *stat = stats_text(one, "cpu.stat", 2048, &copy);

    stats_open(b, "usage", '{');
    stats_nonzero(b, "total", stats_find(stat, "usage_usec") * NS_PER_US);
    stats_number(b, "kernel", stats_find(stat, "system_usec") * NS_PER_US);
    stats_number(b, "user", stats_find(stat, "user_usec") * NS_PER_US);
    stats_close(b, '}');
    stats_throttling(b, stat, "throttled_usec", NS_PER_US);
}

/* cpuacct.usage_percpu has all in one line. */
static void stats_percpu(struct buf *b, const char *line)
{
    if (!line[0])
        return;
    stats_open(b, "percpu", '[');
    for (size_t n = 0; *line >= '0' && *line <= '9' && n < STATS_CPUS_MAX; n++) {
        stats_number(b, NULL, stats_digits(&line));
        line += *line == ' ';
    }
    stats_close(b, ']');
}

static void stats_cpu_v1(const struct cgroup_one *acct, const struct cgroup_one *cpu, struct buf *b)
{
    AUTO_FREE char *c1 = NULL, *c2 = NULL, *c3 = NULL, *c4 = NULL;
    const char *stat = stats_text(acct, "cpuacct.stat", 256, &c1);
    const char *percpu = stats_text(acct, "cpuacct.usage_percpu", 1U << 18, &c2);
    const char *all = stats_text(acct, "cpuacct.usage_all", 1U << 19, &c3);
    uint64_t tick = NS_PER_S / (uint64_t)MAX(sysconf(_SC_CLK_TCK), 1);

    stats_open(b, "usage", '{');
    stats_nonzero(b, "total", stats_file(acct, "cpuacct.usage"));
    stats_percpu(b, percpu);
    all += strcspn(all, "\n"); /* "cpu user system" */
    all += *all == '\n';
    stats_column(b, "percpu_kernel", all, 2);
    stats_column(b, "percpu_user", all, 1);
    stats_number(b, "kernel", stats_find(stat, "system") * tick);
    stats_number(b, "user", stats_find(stat, "user") * tick);
    stats_close(b, '}');
    stats_throttling(b, stats_text(cpu, "cpu.stat", 1024, &c4), "throttled_time", 1);
}

static void stats_cpu(struct oci_cgroup *g, struct buf *b)
{
    const struct cgroup_one *acct = cgroup_with(g, SYS_CG_CPUACCT), *cpu = cgroup_with(g, SYS_CG_CPU);

    stats_open(b, "cpu", '{');
    if (!acct && g->unified >= 0)
        stats_cpu_v2(&g->one[g->unified], b);
    else
        stats_cpu_v1(acct, cpu, b);
    stats_close(b, '}');
}

/* "0-2,7" as [0,1,2,7]. */
static void stats_list(const struct cgroup_one *one, const char *file, struct buf *b, const char *key)
{
    char text[4096];
    const char *at = text;
    size_t n = 0;

    if (sys_cgroup_read(one->dir, file, text, sizeof(text)) <= 1)
        return;
    stats_open(b, key, '[');
    while (*at >= '0' && *at <= '9') {
        uint64_t first = stats_digits(&at), last = first;

        if (*at == '-') {
            at++;
            last = stats_digits(&at);
        }
        for (; first <= last && n < STATS_CPUS_MAX; first++, n++)
            stats_number(b, NULL, first);
        at += *at == ',';
    }
    stats_close(b, ']');
}

static void stats_cpuset(struct oci_cgroup *g, struct buf *b)
{
    static const char *const flags[][2] = {
        { "cpu_exclusive", "cpuset.cpu_exclusive" },           { "mem_hardwall", "cpuset.mem_hardwall" },
        { "mem_exclusive", "cpuset.mem_exclusive" },           { "memory_migrate", "cpuset.memory_migrate" },
        { "memory_spread_page", "cpuset.memory_spread_page" }, { "memory_spread_slab", "cpuset.memory_spread_slab" },
        { "memory_pressure", "cpuset.memory_pressure" },       { "sched_load_balance", "cpuset.sched_load_balance" },
    };
    const struct cgroup_one *one = cgroup_with(g, SYS_CG_CPUSET);
    char level[24] = "0";

    stats_open(b, "cpuset", '{');
    if (one && !one->v2) {
        stats_list(one, "cpuset.cpus", b, "cpus");
        stats_number(b, flags[0][0], stats_file(one, flags[0][1]));
        stats_list(one, "cpuset.mems", b, "mems");
        for (size_t i = 1; i < ARRAY_SIZE(flags); i++)
            stats_number(b, flags[i][0], stats_file(one, flags[i][1]));
        if (sys_cgroup_read(one->dir, "cpuset.sched_relax_domain_level", level, sizeof(level)) > 0)
            level[strspn(level, "-0123456789")] = '\0';
        stats_key(b, "sched_relax_domain_level");
        buf_append_str(b, level);
    }
    stats_close(b, '}');
}

static void stats_pids(struct oci_cgroup *g, struct buf *b)
{
    const struct cgroup_one *one = cgroup_with(g, SYS_CG_PIDS);
    uint64_t limit = stats_file(one, "pids.max");

    stats_open(b, "pids", '{');
    stats_nonzero(b, "current", stats_file(one, "pids.current"));
    stats_nonzero(b, "limit", limit == UINT64_MAX ? 0 : limit);
    stats_close(b, '}');
}

int oci_cgroup_stats(struct oci_cgroup *g, struct buf *json, struct err *e)
{
    stats_open(json, NULL, '{');
    stats_cpu(g, json);
    stats_cpuset(g, json);
    cgroup_stats_memory(g, json);
    stats_pids(g, json);
    cgroup_stats_io(g, json);
    cgroup_stats_hugetlb(g, json);
    stats_open(json, "intel_rdt", '{');
    stats_close(json, '}');
    stats_key(json, "network_interfaces");
    buf_append_str(json, "null");
    stats_close(json, '}');
    return buf_error(json) < 0 ? err_set(e, -buf_error(json), "cgroup: the figures do not fit into memory") : 0;
}
