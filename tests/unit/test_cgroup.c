/* What a container's groups are called, and which limits become which files, on hierarchies of ordinary files: v1, v2
 * and both. The expected values are those that runc 1.3 and crun 1.21 write. */
#include <errno.h>
#include <json-c/json.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "cgroup_rig.h"
#include "oci/cgroup_priv.h"

static void check_join(const char *own, const char *path, const char *expected)
{
    char *is = NULL;

    assert_int_equal(cgroup_path_join(own, path, &is), 0);
    assert_string_equal(is, expected);
    free(is);
}

static void test_paths(void **state)
{
    char *is = NULL, *deep = malloc(5000);

    (void)state;
    check_join("/own", "/a/b", "/a/b");
    check_join("/own", "a//b/", "/own/a/b");
    check_join("", "a", "/a");
    check_join("/own/x", "../../../a", "/own/x/a"); /* does not leave its own */
    check_join("/own", "/../a/./../b", "/b");
    check_join("/own", "/..", "/");
    check_join("/own", "a/..b", "/own/a/..b");
    assert_non_null(deep);
    memset(deep, 'x', 4999);
    deep[4999] = '\0';
    assert_int_equal(cgroup_path_join("", deep, &is), -ENAMETOOLONG);
    free(deep);
}

static void check_systemd(const char *path, bool user, const char *slice, const char *unit, const char *where)
{
    char *s = NULL, *u = NULL, *w = NULL;
    struct err e = { 0 };

    assert_int_equal(cgroup_path_systemd(path, "id", user, &s, &u, &w, &e), 0);
    assert_string_equal(s, slice);
    assert_string_equal(u, unit);
    assert_string_equal(w, where);
    free(s);
    free(u);
    free(w);
}

static void test_systemd_paths(void **state)
{
    static const char *const bad[] = { "/a/b",         "a:b",           "a.slice:b",      "a.slice:b:c:d",
                                       "a:b:c",        "a.slice:b:",    "a--b.slice:x:y", "-a.slice:x:y",
                                       "a-.slice:x:y", "a/b.slice:x:y", ".slice:x:y",     "a.slice:x/y:z",
                                       "a.slice:x:y/z" };

    (void)state;
    check_systemd(NULL, false, "system.slice", "caisson-id.scope", "/system.slice/caisson-id.scope");
    check_systemd("", true, "user.slice", "caisson-id.scope", "/user.slice/caisson-id.scope");
    check_systemd("machine.slice:libpod:abc", false, "machine.slice", "libpod-abc.scope",
                  "/machine.slice/libpod-abc.scope");
    check_systemd("a-b-c.slice::x", false, "a-b-c.slice", "x.scope", "/a.slice/a-b.slice/a-b-c.slice/x.scope");
    check_systemd("-.slice:p:n", false, "-.slice", "p-n.scope", "/p-n.scope");
    check_systemd(":p:pod.slice", false, "system.slice", "pod.slice", "/system.slice/pod.slice");
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        char *s = NULL, *u = NULL, *w = NULL;
        struct err e = { 0 };

        assert_int_equal(cgroup_path_systemd(bad[i], "id", false, &s, &u, &w, &e), -EINVAL);
        assert_non_null(strstr(e.text, "linux.cgroupsPath"));
    }
}

static void test_conversions(void **state)
{
    int64_t swap = 0;

    (void)state;
    /* The ends and the default, and values that runc's own tests have. */
    assert_int_equal(cgroup_weight_of_shares(2), 1);
    assert_int_equal(cgroup_weight_of_shares(1024), 100);
    assert_int_equal(cgroup_weight_of_shares(262144), 10000);
    assert_int_equal(cgroup_weight_of_shares(1), 1);
    assert_int_equal(cgroup_weight_of_shares(1000000), 10000);
    for (uint64_t s = 3, last = 1; s < 262144; s++) {
        uint64_t w = cgroup_weight_of_shares(s);

        assert_true(w >= last && w <= 10000);
        last = w;
    }
    assert_int_equal(cgroup_io_weight(10), 1);
    assert_int_equal(cgroup_io_weight(1000), 10000);
    assert_int_equal(cgroup_io_weight(500), 1 + 490 * 9999 / 990);
    assert_int_equal(cgroup_swap_v2(100, 300, &swap), 0);
    assert_int_equal(swap, 200);
    assert_int_equal(cgroup_swap_v2(100, 100, &swap), 0);
    assert_int_equal(swap, 0);
    assert_int_equal(cgroup_swap_v2(-1, OCI_UNSET, &swap), 0);
    assert_int_equal(swap, -1);
    assert_int_equal(cgroup_swap_v2(OCI_UNSET, -1, &swap), 0);
    assert_int_equal(swap, -1);
    assert_int_equal(cgroup_swap_v2(100, OCI_UNSET, &swap), 0);
    assert_true(swap == OCI_UNSET);
    assert_int_equal(cgroup_swap_v2(OCI_UNSET, 100, &swap), -EINVAL);
    assert_int_equal(cgroup_swap_v2(200, 100, &swap), -EINVAL);
    assert_int_equal(cgroup_swap_v2(-1, 100, &swap), -EINVAL);
}

/* Make the group's files first, so that limits find them: then it is taken over. */
static struct oci_cgroup *make(struct rig *r, const char *path, struct oci_spec *spec)
{
    struct oci_cgroup_config c = { .path = path, .id = "id", .spec = spec, .layout = &r->layout };
    struct oci_cgroup *g = NULL;
    struct err e = { 0 };
    int ret = oci_cgroup_create(&c, &g, &e);

    if (ret < 0)
        fail_msg("%s", e.text);
    return g;
}

/* oci_cgroup_update with the resources of json. */
static int update(struct oci_cgroup *g, const char *json, struct err *e)
{
    struct oci_spec *spec = rig_resources(json);
    int r = oci_cgroup_update(g, &spec->resources, e);

    oci_spec_free(spec);
    return r;
}

/* The group /t/c of cgroup v2 with all controllers. */
static struct oci_cgroup *make_v2(struct rig *r, struct oci_spec *spec)
{
    rig_init(r, RIG_V2);
    rig_group(r, "/t/c");
    rig_write(r, "unified/t/c/cgroup.controllers", "cpuset cpu io memory hugetlb pids rdma misc\n");
    return make(r, "/t/c", spec);
}

static const char full[] =
    "{'memory':{'limit':104857600,'swap':209715200,'reservation':52428800,'swappiness':60,'kernelTCP':4096},"
    "'cpu':{'shares':512,'quota':50000,'period':200000,'burst':1000,'cpus':'0-1','mems':'0'},'pids':{'limit':32},"
    "'blockIO':{'weight':500,'throttleReadBpsDevice':[{'major':8,'minor':0,'rate':1048576}]},"
    "'hugepageLimits':[{'pageSize':'2MB','limit':9437184}]}";

static void test_v1(void **state)
{
    struct rig r;
    struct oci_spec *spec = rig_resources(full),
                    *net = rig_resources(
                        "{'network':{'classID':1048577,'priorities':[{'name':'eth0','priority':5}]},'cpu':{'idle':1},"
                        "'memory':{'limit':-1,'disableOOMKiller':true},'pids':{'limit':-1},"
                        "'blockIO':{'weightDevice':[{'major':8,'minor':0,'weight':300}],"
                        "'throttleWriteIOPSDevice':[{'major':8,'minor':0,'rate':7}]}}");
    struct oci_cgroup *g;
    struct err e = { 0 };

    (void)state;
    rig_init(&r, RIG_V1);
    rig_group(&r, "/t/c");
    rig_write(&r, "cpuset/cpuset.cpus", "0-1\n");
    rig_write(&r, "cpuset/cpuset.mems", "0\n");
    rig_write(&r, "cpuset/t/cpuset.cpus", "");
    rig_write(&r, "cpuset/t/cpuset.mems", "");
    g = make(&r, "/t/c", spec);
    rig_check(&r, "cpuset/t/cpuset.cpus", "0-1");
    rig_check(&r, "cpuset/t/c/cpuset.mems", "0");
    assert_int_equal(oci_cgroup_apply(g, &spec->resources, &e), 0);
    rig_check(&r, "memory/t/c/memory.limit_in_bytes", "104857600");
    rig_check(&r, "memory/t/c/memory.memsw.limit_in_bytes", "209715200");
    rig_check(&r, "memory/t/c/memory.soft_limit_in_bytes", "52428800");
    rig_check(&r, "memory/t/c/memory.kmem.tcp.limit_in_bytes", "4096");
    rig_check(&r, "memory/t/c/memory.swappiness", "60");
    rig_check(&r, "cpu/t/c/cpu.shares", "512");
    rig_check(&r, "cpu/t/c/cpu.cfs_quota_us", "50000");
    rig_check(&r, "cpu/t/c/cpu.cfs_period_us", "200000");
    rig_check(&r, "cpu/t/c/cpu.cfs_burst_us", "1000");
    rig_check(&r, "pids/t/c/pids.max", "32");
    rig_check(&r, "blkio/t/c/blkio.weight", "500");
    rig_check(&r, "blkio/t/c/blkio.throttle.read_bps_device", "8:0 1048576");
    rig_check(&r, "hugetlb/t/c/hugetlb.2MB.limit_in_bytes", "9437184");
    rig_check(&r, "hugetlb/t/c/hugetlb.2MB.rsvd.limit_in_bytes", "9437184");
    rig_check(&r, "devices/t/c/devices.deny", "a");
    assert_int_equal(strncmp(rig_read(&r, "devices/t/c/devices.allow"), "c *:* mb *:* mc 1:3 rwm", 23), 0);
    rig_group(&r, "/t/c"); /* empty again */
    assert_int_equal(oci_cgroup_update(g, &net->resources, &e), 0);
    rig_check(&r, "net_cls/t/c/net_cls.classid", "1048577");
    rig_check(&r, "net_prio/t/c/net_prio.ifpriomap", "eth0 5");
    rig_check(&r, "cpu/t/c/cpu.idle", "1");
    rig_check(&r, "memory/t/c/memory.limit_in_bytes", "-1");
    rig_check(&r, "memory/t/c/memory.memsw.limit_in_bytes", "-1");
    rig_check(&r, "memory/t/c/memory.oom_control", "1");
    rig_check(&r, "pids/t/c/pids.max", "max");
    rig_check(&r, "blkio/t/c/blkio.weight_device", "8:0 300");
    rig_check(&r, "blkio/t/c/blkio.throttle.write_iops_device", "8:0 7");
    rig_check(&r, "devices/t/c/devices.deny", ""); /* an update without rules leaves them */
    oci_cgroup_free(g);
    oci_spec_free(spec);
    oci_spec_free(net);
    rig_done(&r);
}

static void test_v2(void **state)
{
    struct rig r;
    struct oci_spec *spec = rig_resources(full);
    struct oci_cgroup *g;
    struct err e = { 0 };

    (void)state;
    g = make_v2(&r, spec);
    assert_true(oci_cgroup_clone_fd(g) >= 0);
    /* All but the device rules, for which a kernel is needed. */
    assert_int_equal(oci_cgroup_update(g, &spec->resources, &e), 0);
    rig_check(&r, "unified/t/c/memory.max", "104857600");
    rig_check(&r, "unified/t/c/memory.swap.max", "104857600");
    rig_check(&r, "unified/t/c/memory.low", "52428800");
    rig_check(&r, "unified/t/c/cpu.weight", "59");
    rig_check(&r, "unified/t/c/cpu.max", "50000 200000");
    rig_check(&r, "unified/t/c/cpu.max.burst", "1000");
    rig_check(&r, "unified/t/c/cpuset.cpus", "0-1");
    rig_check(&r, "unified/t/c/pids.max", "32");
    rig_check(&r, "unified/t/c/io.weight", "4950");
    rig_check(&r, "unified/t/c/io.max", "8:0 rbps=1048576");
    rig_check(&r, "unified/t/c/hugetlb.2MB.max", "9437184");
    rig_group(&r, "/t/c");
    assert_int_equal(update(g,
                            "{'rdma':{'mlx5':{'hcaHandles':3,'hcaObjects':10}},'unified':{'memory.high':'max',"
                            "'io.weight':'10\\n20'},'cpu':{'quota':-1},'memory':{'limit':-1},'pids':{'limit':-1}}",
                            &e),
                     0);
    rig_check(&r, "unified/t/c/memory.max", "max");
    rig_check(&r, "unified/t/c/memory.swap.max", "max");
    rig_check(&r, "unified/t/c/memory.high", "max");
    rig_check(&r, "unified/t/c/io.weight", "20");
    rig_check(&r, "unified/t/c/cpu.max", "max");
    rig_check(&r, "unified/t/c/pids.max", "max");
    rig_check(&r, "unified/t/c/rdma.max", "mlx5 hca_handle=3 hca_object=10");
    oci_cgroup_free(g);
    oci_spec_free(spec);
    rig_done(&r);
}

/* An update that has but one of two numbers keeps the other. */
static void test_v2_partial(void **state)
{
    struct rig r;
    struct oci_cgroup *g;
    struct err e = { 0 };

    (void)state;
    g = make_v2(&r, NULL);
    rig_write(&r, "unified/t/c/cpu.max", "5000 100000\n");
    assert_int_equal(update(g, "{'cpu':{'period':20000}}", &e), 0);
    assert_int_equal(strncmp(rig_read(&r, "unified/t/c/cpu.max"), "5000 20000", 10), 0);
    rig_write(&r, "unified/t/c/memory.max", "100\n");
    assert_int_equal(update(g, "{'memory':{'swap':300}}", &e), 0);
    rig_check(&r, "unified/t/c/memory.swap.max", "200");
    rig_write(&r, "unified/t/c/memory.max", "max\n");
    assert_int_equal(update(g, "{'memory':{'swap':300}}", &e), -EINVAL);
    assert_non_null(strstr(e.text, "memory.swap"));
    oci_cgroup_free(g);
    rig_done(&r);
}

/* v2 hands controllers down on the way; what is not handed down is an error only where it is needed. */
static void test_v2_enable(void **state)
{
    struct rig r;
    struct oci_cgroup *g;
    struct err e = { 0 };

    (void)state;
    rig_init(&r, RIG_V2);
    rig_group(&r, "/t");
    rig_group(&r, "/t/c");
    g = make(&r, "/t/c", NULL);
    rig_check(&r, "unified/cgroup.subtree_control", "+cpu +cpuset +memory +io +pids +hugetlb +rdma +misc");
    rig_check(&r, "unified/t/cgroup.subtree_control", "+cpu +cpuset +memory +io +pids +hugetlb +rdma +misc");
    rig_check(&r, "unified/t/c/cgroup.subtree_control", "");
    assert_int_equal(update(g, "{'pids':{'limit':3}}", &e), -ENOENT);
    assert_non_null(strstr(e.text, "no controller \"pids\""));
    assert_int_equal(update(g, "{'unified':{'nope.max':'1'}}", &e), -ENOENT);
    assert_non_null(strstr(e.text, "nope.max"));
    oci_cgroup_free(g);
    rig_done(&r);
}

static void test_places(void **state)
{
    struct rig r;
    struct oci_cgroup *g = NULL;
    struct oci_cgroup_config c = { .id = "id", .layout = &r.layout, .path = "/" };
    const struct oci_cgroup_hierarchy *h;
    struct err e = { 0 };
    struct buf saved;
    struct json_object *o;

    (void)state;
    rig_init(&r, RIG_HYBRID);
    rig_group(&r, "/own/me");
    rig_group(&r, "/own/me/id");
    rig_write(&r, "cpuset/cpuset.cpus", "0\n");
    rig_write(&r, "cpuset/cpuset.mems", "0\n");
    rig_write(&r, "cpuset/own/cpuset.cpus", "0\n");
    rig_write(&r, "cpuset/own/cpuset.mems", "0\n");
    assert_int_equal(oci_cgroup_create(&c, &g, &e), -EINVAL);
    c.path = NULL;
    assert_int_equal(oci_cgroup_create(&c, &g, &e), 0);
    assert_int_equal(oci_cgroup_hierarchies(g, &h), 13);
    assert_string_equal(h[0].name, "cpu");
    assert_string_equal(h[0].options, "cpu");
    assert_string_equal(h[0].path, "/own/me/id");
    assert_string_equal(h[11].options, "none,name=systemd");
    assert_string_equal(h[12].name, "unified");
    assert_null(h[12].options);
    /* Into the state file and out of it. */
    buf_init(&saved, 1 << 16);
    oci_cgroup_save(g, &saved);
    buf_append(&saved, "", 1);
    oci_cgroup_free(g);
    o = json_tokener_parse((const char *)saved.data);
    assert_non_null(o);
    assert_int_equal(oci_cgroup_open(o, &g, &e), 0);
    assert_int_equal(oci_cgroup_hierarchies(g, &h), 13);
    assert_string_equal(h[11].options, "none,name=systemd");
    assert_string_equal(h[12].path, "/own/me/id");
    oci_cgroup_free(g);
    json_object_put(o);
    buf_done(&saved);
    /* Somebody else's processes. */
    rig_write(&r, "memory/own/me/id/cgroup.procs", "1\n");
    assert_int_equal(oci_cgroup_create(&c, &g, &e), -EBUSY);
    assert_non_null(strstr(e.text, "has 1 processes"));
    rig_done(&r);
    /* v2 alone: beside our own, which has processes. */
    rig_init(&r, RIG_V2);
    rig_group(&r, "/own/id");
    assert_int_equal(oci_cgroup_create(&c, &g, &e), 0);
    assert_int_equal(oci_cgroup_hierarchies(g, &h), 1);
    assert_string_equal(h[0].name, "");
    assert_string_equal(h[0].path, "/own/id");
    oci_cgroup_free(g);
    rig_done(&r);
}

static void test_open_bad(void **state)
{
    static const char *const texts[] = {
        "{}",
        "[]",
        "1",
        "{\"hierarchies\":1}",
        "{\"hierarchies\":[1]}",
        "{\"hierarchies\":[{}]}",
        "{\"hierarchies\":[{\"mount\":\"/a\",\"path\":\"/\",\"controllers\":1}]}",
        "{\"hierarchies\":[{\"mount\":\"a\",\"path\":\"/b\",\"controllers\":1}]}",
        "{\"hierarchies\":[{\"mount\":\"/a\",\"path\":\"/b/../c\",\"controllers\":1}]}"
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        struct json_object *o = json_tokener_parse(texts[i]);
        struct oci_cgroup *g = NULL;
        struct err e = { 0 };

        assert_int_equal(oci_cgroup_open(o, &g, &e), -EINVAL);
        assert_non_null(strstr(e.text, "state file"));
        json_object_put(o);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_paths),       cmocka_unit_test(test_systemd_paths),
        cmocka_unit_test(test_conversions), cmocka_unit_test(test_v1),
        cmocka_unit_test(test_v2),          cmocka_unit_test(test_v2_partial),
        cmocka_unit_test(test_v2_enable),   cmocka_unit_test(test_places),
        cmocka_unit_test(test_open_bad),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
