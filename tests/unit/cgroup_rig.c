#include "cgroup_rig.h"

#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static const char *const v1[] = { "cpu",     "cpuacct", "cpuset",  "memory",  "blkio",    "pids",
                                  "devices", "freezer", "hugetlb", "net_cls", "net_prio", "systemd" };

static const char *const files_v1[][2] = {
    { "cpu", "cpu.shares" },
    { "cpu", "cpu.cfs_period_us" },
    { "cpu", "cpu.cfs_quota_us" },
    { "cpu", "cpu.cfs_burst_us" },
    { "cpu", "cpu.idle" },
    { "cpuset", "cpuset.cpus" },
    { "cpuset", "cpuset.mems" },
    { "memory", "memory.limit_in_bytes" },
    { "memory", "memory.memsw.limit_in_bytes" },
    { "memory", "memory.soft_limit_in_bytes" },
    { "memory", "memory.kmem.tcp.limit_in_bytes" },
    { "memory", "memory.swappiness" },
    { "memory", "memory.oom_control" },
    { "blkio", "blkio.weight" },
    { "blkio", "blkio.weight_device" },
    { "blkio", "blkio.throttle.read_bps_device" },
    { "blkio", "blkio.throttle.write_iops_device" },
    { "pids", "pids.max" },
    { "devices", "devices.allow" },
    { "devices", "devices.deny" },
    { "freezer", "freezer.state" },
    { "hugetlb", "hugetlb.2MB.limit_in_bytes" },
    { "hugetlb", "hugetlb.2MB.rsvd.limit_in_bytes" },
    { "net_cls", "net_cls.classid" },
    { "net_prio", "net_prio.ifpriomap" },
};

static const char *const files_v2[] = {
    "cgroup.controllers",
    "cgroup.subtree_control",
    "cgroup.freeze",
    "cgroup.events",
    "cpu.max",
    "cpu.max.burst",
    "cpu.weight",
    "cpu.idle",
    "cpuset.cpus",
    "cpuset.mems",
    "memory.max",
    "memory.low",
    "memory.swap.max",
    "memory.high",
    "io.max",
    "io.weight",
    "pids.max",
    "hugetlb.2MB.max",
    "rdma.max",
};

static void rig_make(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

void rig_write(struct rig *r, const char *path, const char *text)
{
    char full[512];

    snprintf(full, sizeof(full), "%s/%s", r->dir, path);
    rig_make(full, text);
}

const char *rig_read(struct rig *r, const char *path)
{
    static char text[256];
    char full[512];
    FILE *f;

    snprintf(full, sizeof(full), "%s/%s", r->dir, path);
    f = fopen(full, "r");
    if (!f)
        return NULL;
    text[fread(text, 1, sizeof(text) - 1, f)] = '\0';
    fclose(f);
    return text;
}

void rig_check(struct rig *r, const char *path, const char *text)
{
    const char *is = rig_read(r, path);

    assert_non_null(is);
    assert_string_equal(is, text);
}

static void rig_group_in(struct rig *r, const char *hier, const char *path)
{
    char full[512];
    size_t len = (size_t)snprintf(full, sizeof(full), "%s/%s", r->dir, hier);

    for (const char *at = path; *at; at++) {
        full[len++] = *at;
        full[len] = '\0';
        if (at[1] == '/' || at[1] == '\0')
            assert_true(mkdir(full, 0755) == 0 || access(full, F_OK) == 0);
    }
    snprintf(full + len, sizeof(full) - len, "/cgroup.procs");
    rig_make(full, "");
    for (size_t i = 0; strcmp(hier, "unified") == 0 && i < ARRAY_SIZE(files_v2); i++) {
        snprintf(full + len, sizeof(full) - len, "/%s", files_v2[i]);
        rig_make(full, "");
    }
    for (size_t i = 0; i < ARRAY_SIZE(files_v1); i++) {
        if (strcmp(hier, files_v1[i][0]) != 0)
            continue;
        snprintf(full + len, sizeof(full) - len, "/%s", files_v1[i][1]);
        rig_make(full, "");
    }
}

void rig_group(struct rig *r, const char *path)
{
    for (size_t i = 0; i < r->layout.n; i++)
        rig_group_in(r, strrchr(r->layout.h[i].mount, '/') + 1, path);
}

void rig_init(struct rig *r, enum rig_kind kind)
{
    char mountinfo[4096], self[2048], path[128];
    size_t at = 0, at2 = 0;

    *r = (struct rig){ .dir = "/tmp/caisson-cgroup-XXXXXX" };
    assert_non_null(mkdtemp(r->dir));
    mountinfo[0] = self[0] = '\0';
    for (size_t i = 0; kind != RIG_V2 && i < ARRAY_SIZE(v1); i++) {
        bool named = strcmp(v1[i], "systemd") == 0;

        snprintf(path, sizeof(path), "%s/%s", r->dir, v1[i]);
        assert_int_equal(mkdir(path, 0755), 0);
        at += (size_t)snprintf(mountinfo + at, sizeof(mountinfo) - at,
                               "%zu 1 0:1 / %s rw shared:1 - cgroup cgroup rw,%s%s\n", 30 + i, path,
                               named ? "name=" : "", v1[i]);
        at2 +=
            (size_t)snprintf(self + at2, sizeof(self) - at2, "%zu:%s%s:/own/me\n", 3 + i, named ? "name=" : "", v1[i]);
    }
    if (kind != RIG_V1) {
        snprintf(path, sizeof(path), "%s/unified", r->dir);
        assert_int_equal(mkdir(path, 0755), 0);
        snprintf(mountinfo + at, sizeof(mountinfo) - at, "60 1 0:2 / %s rw - cgroup2 cgroup2 rw\n", path);
        snprintf(self + at2, sizeof(self) - at2, "0::/own/me\n");
        rig_write(r, "unified/cgroup.controllers",
                  kind == RIG_V2 ? "cpuset cpu io memory hugetlb pids rdma misc\n" : "rdma\n");
        rig_write(r, "unified/cgroup.subtree_control", "");
    }
    assert_int_equal(sys_cgroup_layout_parse(mountinfo, self, &r->layout), 0);
}

static int rig_remove(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)ftw;
    return type == FTW_DP ? rmdir(path) : unlink(path);
}

void rig_done(struct rig *r)
{
    sys_cgroup_layout_done(&r->layout);
    assert_int_equal(nftw(r->dir, rig_remove, 16, FTW_DEPTH | FTW_PHYS), 0);
}

pid_t rig_sleeper(void)
{
    pid_t pid = fork();

    assert_true(pid >= 0);
    while (pid == 0)
        pause();
    return pid;
}

struct oci_spec *rig_resources(const char *json)
{
    char text[4096];
    struct oci_spec *spec = NULL;
    size_t len = strlen(json);

    assert_true(len < sizeof(text));
    for (size_t i = 0; i < len; i++)
        text[i] = json[i] == '\'' ? '"' : json[i];
    assert_int_equal(oci_spec_parse_resources(text, len, &spec, NULL), 0);
    return spec;
}
