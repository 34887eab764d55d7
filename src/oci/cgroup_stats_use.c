/* Memory, block I/O and huge pages of `events --stats`. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "oci/cgroup_stats_priv.h"

#define STATS_FILE_MAX (1u << 17)

static char *stats_read(const struct cgroup_one *one, const char *file)
{
    char *text = one ? malloc(STATS_FILE_MAX) : NULL;

    if (text && sys_cgroup_read(one->dir, file, text, STATS_FILE_MAX) > 0)
        return text;
    free(text);
    return NULL;
}

/* Take the next word, up to one of stop, off *at. NULL: none is left. */
static char *stats_word(char **at, const char *stop)
{
    char *word = *at;
    size_t len = strcspn(word, stop);

    if (len == 0)
        return NULL;
    *at = word + len + (word[len] != '\0');
    word[len] = '\0';
    return word;
}

/* ---- memory ---- */

static void stats_memory_entry(struct buf *b, const char *key, uint64_t limit, uint64_t usage, uint64_t max,
                               uint64_t failed)
{
    stats_open(b, key, '{');
    stats_number(b, "limit", limit);
    stats_nonzero(b, "usage", usage);
    stats_nonzero(b, "max", max);
    stats_number(b, "failcnt", failed);
    stats_close(b, '}');
}

static void stats_memory_v1(const struct cgroup_one *one, struct buf *b, const char *key, const char *middle)
{
    static const char *const files[] = { "limit_in_bytes", "usage_in_bytes", "max_usage_in_bytes", "failcnt" };
    uint64_t v[ARRAY_SIZE(files)];

    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        char file[64];

        snprintf(file, sizeof(file), "memory.%s%s", middle, files[i]);
        v[i] = stats_file(one, file);
    }
    stats_memory_entry(b, key, v[0], v[1], v[2], v[3]);
}

static uint64_t stats_sum(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

/* v1's "swap" is memory and swap together: so it is here. */
static void stats_memory_v2(const struct cgroup_one *one, struct buf *b)
{
    uint64_t limit = stats_file(one, "memory.max"), usage = stats_file(one, "memory.current"), failed = 0;
    char events[512];

    if (sys_cgroup_read(one->dir, "memory.events", events, sizeof(events)) > 0 &&
        !sys_cgroup_find_number(events, "max", &failed))
        failed = 0;
    stats_memory_entry(b, "usage", limit, usage, stats_file(one, "memory.peak"), failed);
    stats_memory_entry(b, "swap", stats_sum(limit, stats_file(one, "memory.swap.max")),
                       stats_sum(usage, stats_file(one, "memory.swap.current")), 0, 0);
    stats_memory_entry(b, "kernel", 0, 0, 0, 0);
    stats_memory_entry(b, "kernelTCP", 0, 0, 0, 0);
}

static void stats_memory_raw(struct buf *b, char *stat)
{
    char *line, *key;

    stats_open(b, "raw", '{');
    while ((line = stats_word(&stat, "\n")) != NULL) {
        uint64_t v;

        key = stats_word(&line, " ");
        if (key && !key[strspn(key, "abcdefghijklmnopqrstuvwxyz_0123456789")] &&
            num_parse_u64(line, 0, UINT64_MAX, &v) == 0)
            stats_number(b, key, v);
    }
    stats_close(b, '}');
}

void cgroup_stats_memory(struct oci_cgroup *g, struct buf *b)
{
    const struct cgroup_one *one = cgroup_with(g, SYS_CG_MEMORY);
    AUTO_FREE char *stat = stats_read(one, "memory.stat");
    uint64_t cache = 0;

    stats_open(b, "memory", '{');
    if (stat && sys_cgroup_find_number(stat, one->v2 ? "file" : "cache", &cache))
        stats_nonzero(b, "cache", cache);
    if (one && one->v2) {
        stats_memory_v2(one, b);
    } else {
        stats_memory_v1(one, b, "usage", "");
        stats_memory_v1(one, b, "swap", "memsw.");
        stats_memory_v1(one, b, "kernel", "kmem.");
        stats_memory_v1(one, b, "kernelTCP", "kmem.tcp.");
    }
    if (stat)
        stats_memory_raw(b, stat);
    stats_close(b, '}');
}

/* ---- block I/O ---- */

static void stats_io_entry(struct buf *b, uint64_t major, uint64_t minor, const char *op, uint64_t v)
{
    stats_open(b, NULL, '{');
    stats_nonzero(b, "major", major);
    stats_nonzero(b, "minor", minor);
    if (op[0]) {
        stats_key(b, "op");
        buf_printf(b, "\"%s\"", op);
    }
    stats_nonzero(b, "value", v);
    stats_close(b, '}');
}

/* "8:0" off the line. */
static bool stats_io_device(char **line, uint64_t *ret_major, uint64_t *ret_minor)
{
    char *major = stats_word(line, ":"), *minor = major ? stats_word(line, " ") : NULL;

    return minor && num_parse_u64(major, 0, UINT32_MAX, ret_major) == 0 &&
           num_parse_u64(minor, 0, UINT32_MAX, ret_minor) == 0;
}

/* v1: "8:0 Read 4096", and "Total 4096" at the end. */
static void stats_io_v1(const struct cgroup_one *one, struct buf *b, const char *key, const char *const *files)
{
    char *text = NULL, *at, *line;
    bool any = false;

    for (; *files && !text; files++)
        text = stats_read(one, *files);
    for (at = text; at && (line = stats_word(&at, "\n")) != NULL;) {
        uint64_t major, minor, v;
        char *op;

        if (!stats_io_device(&line, &major, &minor))
            continue;
        op = stats_word(&line, " ");
        if (!op || op[strspn(op, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")] ||
            num_parse_u64(line, 0, UINT64_MAX, &v) < 0)
            continue;
        if (!any)
            stats_open(b, key, '[');
        any = true;
        stats_io_entry(b, major, minor, op, v);
    }
    if (any)
        stats_close(b, ']');
    free(text);
}

/* v2: "8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0". */
static void stats_io_v2(const struct cgroup_one *one, struct buf *b, const char *key, const char *const names[][2])
{
    AUTO_FREE char *text = stats_read(one, "io.stat");
    char *at = text, *line;
    bool any = false;

    while (at && (line = stats_word(&at, "\n")) != NULL) {
        uint64_t major, minor, v;
        char *name;

        if (!stats_io_device(&line, &major, &minor))
            continue;
        while ((name = stats_word(&line, "=")) != NULL) {
            char *number = stats_word(&line, " ");
            size_t i = 0;

            while (names[i][0] && strcmp(names[i][0], name) != 0)
                i++;
            if (!names[i][0] || !number || num_parse_u64(number, 0, UINT64_MAX, &v) < 0)
                continue;
            if (!any)
                stats_open(b, key, '[');
            any = true;
            stats_io_entry(b, major, minor, names[i][1], v);
        }
    }
    if (any)
        stats_close(b, ']');
}

void cgroup_stats_io(struct oci_cgroup *g, struct buf *b)
{
    static const char *const bytes_v1[] = { "blkio.bfq.io_service_bytes_recursive", "blkio.io_service_bytes_recursive",
                                            "blkio.throttle.io_service_bytes_recursive",
                                            "blkio.throttle.io_service_bytes", NULL };
    static const char *const ios_v1[] = { "blkio.bfq.io_serviced_recursive", "blkio.io_serviced_recursive",
                                          "blkio.throttle.io_serviced_recursive", "blkio.throttle.io_serviced", NULL };
    static const char *const bytes_v2[][2] = { { "rbytes", "Read" }, { "wbytes", "Write" }, { NULL, NULL } };
    static const char *const ios_v2[][2] = { { "rios", "Read" }, { "wios", "Write" }, { NULL, NULL } };
    const struct cgroup_one *one = cgroup_with(g, SYS_CG_IO);

    stats_open(b, "blkio", '{');
    if (one && one->v2) {
        stats_io_v2(one, b, "ioServiceBytesRecursive", bytes_v2);
        stats_io_v2(one, b, "ioServicedRecursive", ios_v2);
    } else if (one) {
        stats_io_v1(one, b, "ioServiceBytesRecursive", bytes_v1);
        stats_io_v1(one, b, "ioServicedRecursive", ios_v1);
    }
    stats_close(b, '}');
}

/* ---- huge pages ---- */

/* "hugepages-2048kB" as "2MB", as the files are called. */
static bool stats_page_size(const char *directory, char ret[24])
{
    static const char *const units[] = { "KB", "MB", "GB" };
    uint64_t kib = 0;
    size_t unit = 0, len;
    char digits[16];

    if (strncmp(directory, "hugepages-", 10) != 0)
        return false;
    len = strspn(directory + 10, "0123456789");
    if (len == 0 || len >= sizeof(digits))
        return false;
    memcpy(digits, directory + 10, len);
    digits[len] = '\0';
    if (num_parse_u64(digits, 1, UINT32_MAX, &kib) < 0)
        return false;
    for (; kib >= 1024 && unit + 1 < ARRAY_SIZE(units); unit++)
        kib /= 1024;
    snprintf(ret, 24, "%" PRIu64 "%s", kib, units[unit]);
    return true;
}

static void stats_hugetlb_one(const struct cgroup_one *one, struct buf *b, const char *size)
{
    char file[64], events[128];
    uint64_t usage, max = 0, failed = 0;

    snprintf(file, sizeof(file), "hugetlb.%s.%s", size, one->v2 ? "current" : "usage_in_bytes");
    if (sys_cgroup_read_number(one->dir, file, &usage) < 0)
        return;
    if (one->v2) {
        snprintf(file, sizeof(file), "hugetlb.%s.events", size);
        if (sys_cgroup_read(one->dir, file, events, sizeof(events)) < 0 ||
            !sys_cgroup_find_number(events, "max", &failed))
            failed = 0;
    } else {
        snprintf(file, sizeof(file), "hugetlb.%s.max_usage_in_bytes", size);
        max = stats_file(one, file);
        snprintf(file, sizeof(file), "hugetlb.%s.failcnt", size);
        failed = stats_file(one, file);
    }
    stats_open(b, size, '{');
    stats_nonzero(b, "usage", usage);
    stats_nonzero(b, "max", max);
    stats_number(b, "failcnt", failed);
    stats_close(b, '}');
}

void cgroup_stats_hugetlb(struct oci_cgroup *g, struct buf *b)
{
    const struct cgroup_one *one = cgroup_with(g, SYS_CG_HUGETLB);
    DIR *d = one ? opendir("/sys/kernel/mm/hugepages") : NULL;
    struct dirent *entry;
    char size[24];

    stats_open(b, "hugetlb", '{');
    while (d && (entry = readdir(d)) != NULL) {
        if (stats_page_size(entry->d_name, size))
            stats_hugetlb_one(one, b, size);
    }
    if (d)
        closedir(d);
    stats_close(b, '}');
}
