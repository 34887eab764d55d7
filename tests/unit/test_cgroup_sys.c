/* Layouts of hierarchies out of mountinfo and /proc/self/cgroup; walking, removing, listing. On the kernel's own groups
 * where this process may make some. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "sys/cgroup.h"

static const char debian_hybrid[] =
    "24 30 0:22 / /sys rw,nosuid - sysfs sysfs rw\n"
    "31 24 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 master:2 - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 /outer /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "36 31 0:33 /elsewhere /odd\\040place rw - cgroup cgroup rw,pids\n"
    "37 31 0:33 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
    "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
    "41 31 0:38 / /nowhere/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"
    "broken line\n- cgroup\n";

static const char debian_hybrid_self[] = "12:pids:/user.slice\n8:cpu,cpuacct:/\n7:memory:/outer/inner\n"
                                         "1:name=systemd:/user.slice/a b\n0::/user.slice/x\n";

static void test_layout(void **state)
{
    struct sys_cgroup_layout l;

    (void)state;
    assert_int_equal(sys_cgroup_layout_parse(debian_hybrid, debian_hybrid_self, &l), 0);
    assert_int_equal(l.n, 5);
    assert_string_equal(l.h[0].mount, "/sys/fs/cgroup/cpu,cpuacct");
    assert_string_equal(l.h[0].own, "");
    assert_int_equal(l.h[0].controllers, 1 << SYS_CG_CPU | 1 << SYS_CG_CPUACCT);
    assert_string_equal(l.h[1].own, "/inner");                /* below what is mounted */
    assert_string_equal(l.h[2].mount, "/sys/fs/cgroup/pids"); /* the mount that shows our group */
    assert_string_equal(l.h[2].own, "/user.slice");
    assert_string_equal(l.h[3].name, "systemd");
    assert_string_equal(l.h[3].own, "/user.slice/a b");
    assert_int_equal(l.unified, 4);
    assert_true(l.h[4].v2);
    assert_string_equal(l.h[4].own, "/user.slice/x");
    assert_int_equal(sys_cgroup_layout_find(&l, SYS_CG_CPUACCT), 0);
    assert_int_equal(sys_cgroup_layout_find(&l, SYS_CG_RDMA), -1);
    sys_cgroup_layout_done(&l);
    sys_cgroup_layout_done(&l);
}

static void test_layout_bad(void **state)
{
    static const char *const texts[] = { "",
                                         "\n",
                                         " - ",
                                         " - cgroup",
                                         " - cgroup2 ",
                                         "1 2 3 - cgroup cgroup rw,cpu",
                                         "1 2 3 / /m rw - cgroup cgroup",
                                         "1 2 3 / /m rw - cgroup2" };
    static const char *const selves[] = { "", "0", "0:", ":", "::", "4:cpu", "0:::", "4:name=:/", "\n\n" };
    struct sys_cgroup_layout l;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        for (size_t k = 0; k < ARRAY_SIZE(selves); k++) {
            if (sys_cgroup_layout_parse(texts[i], selves[k], &l) == 0)
                sys_cgroup_layout_done(&l);
        }
    }
    assert_int_equal(sys_cgroup_layout_parse("", "0::/\n", &l), -ENOENT);
    assert_int_equal(
        sys_cgroup_layout_parse("36 31 0:33 /elsewhere /odd\\040place rw - cgroup cgroup rw,pids\n", "3:pids:/x\n", &l),
        0);
    assert_string_equal(l.h[0].mount, "/odd place");
    assert_null(l.h[0].own);
    sys_cgroup_layout_done(&l);
}

/* Mounted twice, v2 too: one hierarchy. Controllers that we do not know are left out. */
static void test_layout_twice(void **state)
{
    char dir[] = "/tmp/caisson-cgroup-XXXXXX", path[64], mountinfo[512];
    struct sys_cgroup_layout l;
    FILE *f;

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/cgroup.controllers", dir);
    f = fopen(path, "w");
    assert_non_null(f);
    fputs("cpu memory new\n", f);
    fclose(f);
    snprintf(mountinfo, sizeof(mountinfo),
             "1 0 0:5 /other /first rw - cgroup2 cgroup2 rw\n2 0 0:5 / %s rw - cgroup2 cgroup2 rw\n"
             "3 0 0:6 / /new rw - cgroup cgroup rw,new\n4 0 0:7 / /pids rw - cgroup cgroup rw,pids\n"
             "5 0 0:7 / /pids2 rw - cgroup cgroup rw,pids\n",
             dir);
    assert_int_equal(sys_cgroup_layout_parse(mountinfo, "9:new:/\n8:pids:/\n0::/me\n", &l), 0);
    assert_int_equal(l.n, 2);
    assert_string_equal(l.h[0].mount, dir); /* where our own group is */
    assert_string_equal(l.h[0].own, "/me");
    assert_int_equal(l.h[0].controllers, 1 << SYS_CG_CPU | 1 << SYS_CG_MEMORY);
    assert_string_equal(l.h[1].mount, "/pids");
    sys_cgroup_layout_done(&l);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(dir), 0);
}

static void test_find_number(void **state)
{
    uint64_t v = 7;

    (void)state;
    assert_true(sys_cgroup_find_number("populated 1\nfrozen 0\n", "frozen", &v));
    assert_int_equal(v, 0);
    assert_true(sys_cgroup_find_number("a 1\nab 18446744073709551615", "ab", &v));
    assert_true(v == UINT64_MAX);
    assert_false(sys_cgroup_find_number("ab 3\n", "a", &v));
    assert_false(sys_cgroup_find_number("a \nb x\n", "a", &v));
    assert_false(sys_cgroup_find_number("b x\n", "b", &v));
    assert_false(sys_cgroup_find_number("", "b", &v));
}

/* Our own group below the pids hierarchy, or where there is none, below v2's; false: no rights. */
static bool own_group(char ret_mount[256], char ret_dir[320])
{
    struct sys_cgroup_layout l;
    int i;

    if (sys_cgroup_layout_read(&l) < 0)
        return false;
    i = sys_cgroup_layout_find(&l, SYS_CG_PIDS);
    i = i < 0 ? l.unified : i;
    if (i >= 0)
        snprintf(ret_mount, 256, "%s", l.h[i].mount);
    sys_cgroup_layout_done(&l);
    snprintf(ret_dir, 320, "%s/caisson-test-%d", ret_mount, (int)getpid());
    return i >= 0 && geteuid() == 0 && sys_cgroup_make(ret_mount, ret_dir) == 1;
}

static void test_real(void **state)
{
    char mount[256], dir[320], below[400], text[64];
    pid_t *pids = NULL, child;
    size_t n = 0;
    int status;

    (void)state;
    if (!own_group(mount, dir))
        skip();
    snprintf(below, sizeof(below), "%s/a/b/c", dir);
    assert_int_equal(sys_cgroup_make(mount, below), 1);
    assert_int_equal(sys_cgroup_make(mount, below), 0);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        for (;;)
            pause();
    }
    assert_int_equal(sys_cgroup_write_number(below, "cgroup.procs", child), 0);
    assert_int_equal(sys_cgroup_pids(dir, false, &pids, &n), 0);
    assert_int_equal(n, 0);
    free(pids);
    assert_int_equal(sys_cgroup_pids(dir, true, &pids, &n), 0);
    assert_int_equal(n, 1);
    assert_int_equal(pids[0], child);
    free(pids);
    assert_true(sys_cgroup_read(below, "cgroup.procs", text, sizeof(text)) > 0);
    assert_int_equal(sys_cgroup_write(below, "cgroup.nonsense", "1"), -ENOENT);
    /* It lives: no removal. Then removal while it dies. */
    assert_int_equal(sys_cgroup_remove(below), -EBUSY);
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(sys_cgroup_remove(dir), 0);
    assert_int_equal(access(dir, F_OK), -1);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(sys_cgroup_remove(dir), 0);
    assert_int_equal(sys_cgroup_pids(dir, true, &pids, &n), -ENOENT);
    assert_int_equal(sys_cgroup_pids(dir, false, &pids, &n), -ENOENT);
}

/* A container may nest groups beyond what a path can name, and beyond what we may hold open. */
static void test_real_deep(void **state)
{
    char mount[256], dir[320], name[200];
    pid_t *pids = NULL;
    size_t n = 0;
    int fd;

    (void)state;
    if (!own_group(mount, dir))
        skip();
    memset(name, 'n', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    fd = open(dir, O_RDONLY | O_DIRECTORY);
    for (int i = 0; i < 40; i++) { /* 8000 characters */
        int next;

        assert_int_equal(mkdirat(fd, name, 0755), 0);
        next = openat(fd, name, O_RDONLY | O_DIRECTORY);
        assert_true(next >= 0);
        close(fd);
        fd = next;
    }
    close(fd);
    assert_int_equal(sys_cgroup_pids(dir, true, &pids, &n), 0);
    assert_int_equal(n, 0);
    assert_int_equal(sys_cgroup_remove(dir), 0);
    assert_int_equal(access(dir, F_OK), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout),       cmocka_unit_test(test_layout_bad), cmocka_unit_test(test_find_number),
        cmocka_unit_test(test_layout_twice), cmocka_unit_test(test_real),       cmocka_unit_test(test_real_deep),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
