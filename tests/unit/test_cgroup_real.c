/* Device rules as a program: run in an interpreter of the few instructions against v1's meaning of the rules, and in
 * the kernel. Then a container's groups on this machine: limits, freezing, killing, statistics, removal. Skipped where
 * the process may not make groups. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <linux/bpf.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "cgroup_rig.h"
#include "oci/cgroup_priv.h"

/* ---- the interpreter ---- */

struct request {
    char type;
    unsigned access; /* BPF_DEVCG_ACC_* */
    uint32_t major, minor;
};

/* Steps of a program are bounded by its length: it has no way back. */
static int run(const struct bpf_insn *p, size_t n, const struct request *q)
{
    uint32_t type = q->type == 'b' ? BPF_DEVCG_DEV_BLOCK : BPF_DEVCG_DEV_CHAR;
    const uint32_t context[] = { q->access << 16 | type, q->major, q->minor };
    uint32_t reg[11] = { 0 };

    for (size_t at = 0; at < n; at++) {
        const struct bpf_insn *i = &p[at];
        uint32_t src = BPF_SRC(i->code) == BPF_X ? reg[i->src_reg] : (uint32_t)i->imm;
        bool jump = false;

        switch (BPF_CLASS(i->code)) {
        case BPF_LDX:
            assert_int_equal(i->src_reg, 1);
            reg[i->dst_reg] = context[i->off / 4];
            break;
        case BPF_ALU:
            if (BPF_OP(i->code) == BPF_MOV)
                reg[i->dst_reg] = src;
            else if (BPF_OP(i->code) == BPF_AND)
                reg[i->dst_reg] &= src;
            else if (BPF_OP(i->code) == BPF_RSH)
                reg[i->dst_reg] >>= src;
            else
                fail();
            break;
        case BPF_JMP32:
            jump = BPF_OP(i->code) == BPF_JEQ ? reg[i->dst_reg] == src : reg[i->dst_reg] != src;
            assert_true(i->off >= 0);
            at += jump ? (size_t)i->off : 0;
            break;
        case BPF_JMP:
            assert_int_equal(BPF_OP(i->code), BPF_EXIT);
            return (int)reg[0];
        default:
            fail();
        }
    }
    fail();
    return -1;
}

/* What the rules mean: each access by itself, the last rule that has it and matches. */
static bool allowed(const struct oci_device_rule *rules, size_t n, const struct request *q)
{
    for (unsigned bit = 1; bit <= 4; bit <<= 1) {
        bool allow = false;

        if (!(q->access & bit))
            continue;
        for (size_t i = 0; i < n; i++) {
            const struct oci_device_rule *d = &rules[i];
            bool has = bit == BPF_DEVCG_ACC_READ ? d->read : bit == BPF_DEVCG_ACC_WRITE ? d->write : d->mknod;

            if (has && (d->type == 'a' || d->type == q->type) && (d->major < 0 || d->major == q->major) &&
                (d->minor < 0 || d->minor == q->minor))
                allow = d->allow;
        }
        if (!allow)
            return false;
    }
    return true;
}

static void check_rules(const struct oci_device_rule *rules, size_t n)
{
    struct bpf_insn *program = NULL;
    size_t insns = 0;

    assert_int_equal(cgroup_bpf_compile(rules, n, &program, &insns), 0);
    for (unsigned i = 0; i < 2 * 7 * 4 * 4; i++) {
        struct request q = { "bc"[i & 1], 1 + (i >> 1) % 7, (i / 14) % 4, (i / 56) % 4 };

        assert_int_equal(run(program, insns, &q), allowed(rules, n, &q));
    }
    free(program);
}

static void test_bpf_compile(void **state)
{
    unsigned seed = 1;
    struct oci_device_rule big = { true, 'c', UINT32_MAX, 0x80000000u, true, false, false };
    struct bpf_insn *program = NULL;
    size_t n = 0;
    struct request q = { 'c', BPF_DEVCG_ACC_READ, UINT32_MAX, 0x80000000u };

    (void)state;
    for (unsigned round = 0; round < 2000; round++) {
        struct oci_device_rule rules[12];
        size_t count = 1 + (unsigned)rand_r(&seed) % ARRAY_SIZE(rules);

        for (size_t i = 0; i < count; i++) {
            unsigned v = (unsigned)rand_r(&seed);

            rules[i] = (struct oci_device_rule){
                v & 1,       "abc"[(v >> 1) % 3], (int)(v >> 4) % 5 - 1, (int)(v >> 8) % 5 - 1, v >> 12 & 1,
                v >> 13 & 1, v >> 14 & 1
            };
        }
        check_rules(rules, count);
    }
    check_rules(NULL, 0);
    assert_int_equal(cgroup_bpf_compile(&big, 1, &program, &n), 0);
    assert_int_equal(run(program, n, &q), 1);
    free(program);
    assert_int_equal(cgroup_bpf_compile(&big, 1000000, &program, &n), -E2BIG);
}

/* ---- this machine ---- */

static struct oci_cgroup *make(const char *name, struct oci_spec *spec, char ret_path[64])
{
    struct oci_cgroup_config c = { .path = ret_path, .id = name, .spec = spec };
    struct oci_cgroup *g = NULL;
    struct err e = { 0 };

    snprintf(ret_path, 64, "/caisson-test-%d/%s", (int)getpid(), name);
    if (geteuid() != 0)
        return NULL;
    if (oci_cgroup_create(&c, &g, &e) < 0)
        print_message("%s\n", e.text);
    return g;
}

static void drop(struct oci_cgroup *g)
{
    struct err e = { 0 };

    if (oci_cgroup_remove(g, &e) < 0)
        fail_msg("%s", e.text);
    for (size_t i = 0; i < g->n; i++) {
        char *parent = g->one[i].dir;

        assert_int_equal(access(parent, F_OK), -1);
        *strrchr(parent, '/') = '\0';
        assert_int_equal(rmdir(parent), 0);
    }
    oci_cgroup_free(g);
}

/* Whether a process in the group may open a device. */
static int open_in(const char *dir, const char *device, int flags)
{
    pid_t pid = fork();
    int status;

    assert_true(pid >= 0);
    if (pid == 0) {
        int fd = sys_cgroup_write(dir, "cgroup.procs", "0") == 0 ? open(device, flags | O_CLOEXEC) : -1;

        _exit(fd >= 0 ? 0 : errno); /* check: allow(banned:_exit) a child of the test */
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WEXITSTATUS(status);
}

static void attach(const char *dir, const char *json)
{
    struct oci_spec *spec = rig_resources(json);
    struct oci_device_rule *rules = NULL;
    struct bpf_insn *program = NULL;
    size_t n = 0, insns = 0;

    assert_int_equal(cgroup_device_rules(&spec->resources, &rules, &n), 0);
    assert_int_equal(cgroup_bpf_compile(rules, n, &program, &insns), 0);
    assert_int_equal(cgroup_bpf_attach(dir, program, insns), 0);
    free(program);
    free(rules);
    oci_spec_free(spec);
}

static void test_bpf_kernel(void **state)
{
    struct sys_cgroup_layout l;
    char dir[300];
    bool possible;

    (void)state;
    possible = geteuid() == 0 && sys_cgroup_layout_read(&l) == 0;
    if (possible && l.unified >= 0)
        snprintf(dir, sizeof(dir), "%s/caisson-test-bpf-%d", l.h[l.unified].mount, (int)getpid());
    possible = possible && l.unified >= 0 && sys_cgroup_make(l.h[l.unified].mount, dir) == 1;
    if (!possible)
        skip();
    assert_int_equal(open_in(dir, "/dev/kmsg", O_RDONLY), 0);
    attach(dir, "{}");
    assert_int_equal(open_in(dir, "/dev/null", O_RDWR), 0);
    assert_int_equal(open_in(dir, "/dev/kmsg", O_RDONLY), EPERM);
    /* In the place of the first, not beside it. */
    attach(dir, "{'devices':[{'allow':true,'type':'c','major':1,'minor':11,'access':'r'}]}");
    assert_int_equal(open_in(dir, "/dev/kmsg", O_RDONLY), 0);
    assert_int_equal(open_in(dir, "/dev/kmsg", O_WRONLY), EPERM);
    attach(dir,
           "{'devices':[{'allow':true,'access':'rwm'},{'allow':false,'type':'c','major':1,'minor':11,'access':'w'}]}");
    assert_int_equal(open_in(dir, "/dev/kmsg", O_RDONLY), 0);
    assert_int_equal(open_in(dir, "/dev/kmsg", O_WRONLY), EPERM);
    attach(dir, "{}");
    assert_int_equal(open_in(dir, "/dev/kmsg", O_RDONLY), EPERM);
    assert_int_equal(sys_cgroup_remove(dir), 0);
    sys_cgroup_layout_done(&l);
}

static void check_number(struct oci_cgroup *g, enum sys_cgroup_controller c, const char *file, uint64_t expected)
{
    struct cgroup_one *one = cgroup_with(g, c);
    uint64_t v = 0;

    assert_non_null(one);
    assert_int_equal(sys_cgroup_read_number(one->dir, file, &v), 0);
    assert_true(v == expected);
}

/* The same lines in any order. */
static void check_lines(const char *text, const char *const *lines)
{
    size_t len = 0;

    for (; *lines; lines++) {
        assert_non_null(strstr(text, *lines));
        len += strlen(*lines);
    }
    assert_int_equal(strlen(text), len);
}

/* Set limits up and down, as `create` and `update` do. */
static void test_limits(void **state)
{
    /* The list that runc 1.1.5 leaves for the same config.json. */
    static const char *const devices[] = { "b *:* m\n",   "c *:* m\n",   "c 1:3 rwm\n",    "c 1:5 rwm\n",
                                           "c 1:7 rwm\n", "c 1:8 rwm\n", "c 1:9 rwm\n",    "c 5:0 rwm\n",
                                           "c 5:2 rwm\n", "c 7:* rw\n",  "c 10:200 rwm\n", "c 136:* rwm\n",
                                           NULL };
    char path[64], text[2048];
    struct oci_spec *spec = rig_resources("{'memory':{'limit':67108864,'swap':134217728,'reservation':33554432},"
                                          "'cpu':{'shares':512,'quota':50000,'period':100000},'pids':{'limit':20},"
                                          "'devices':[{'allow':true,'type':'c','major':7,'minor':-1,'access':'rw'}]}"),
                    *up = rig_resources("{'memory':{'limit':268435456,'swap':268435456},"
                                        "'cpu':{'quota':20000,'period':20000}}"),
                    *down = rig_resources("{'memory':{'limit':33554432,'swap':33554432},'pids':{'limit':-1}}");
    struct oci_cgroup *g = make("limits", spec, path);
    struct err e = { 0 };

    (void)state;
    if (!g || !cgroup_with(g, SYS_CG_DEVICES))
        skip();
    if (oci_cgroup_apply(g, &spec->resources, &e) < 0)
        fail_msg("%s", e.text);
    check_number(g, SYS_CG_MEMORY, "memory.limit_in_bytes", 67108864);
    check_number(g, SYS_CG_MEMORY, "memory.memsw.limit_in_bytes", 134217728);
    check_number(g, SYS_CG_CPU, "cpu.shares", 512);
    check_number(g, SYS_CG_CPU, "cpu.cfs_quota_us", 50000);
    check_number(g, SYS_CG_PIDS, "pids.max", 20);
    assert_true(sys_cgroup_read(cgroup_with(g, SYS_CG_DEVICES)->dir, "devices.list", text, sizeof(text)) > 0);
    check_lines(text, devices);
    assert_int_equal(oci_cgroup_update(g, &up->resources, &e), 0);
    check_number(g, SYS_CG_MEMORY, "memory.limit_in_bytes", 268435456);
    check_number(g, SYS_CG_MEMORY, "memory.memsw.limit_in_bytes", 268435456);
    check_number(g, SYS_CG_CPU, "cpu.cfs_period_us", 20000);
    assert_int_equal(oci_cgroup_update(g, &down->resources, &e), 0);
    check_number(g, SYS_CG_MEMORY, "memory.memsw.limit_in_bytes", 33554432);
    check_number(g, SYS_CG_PIDS, "pids.max", UINT64_MAX);
    drop(g);
    oci_spec_free(spec);
    oci_spec_free(up);
    oci_spec_free(down);
}

static void test_processes(void **state)
{
    char path[64];
    struct oci_cgroup *g = make("procs", NULL, path), *again = NULL;
    pid_t a, b, *pids = NULL;
    size_t n = 0;
    int status;
    struct err e = { 0 };
    struct oci_cgroup_config c = { .path = path, .id = "x" };
    struct buf json;
    struct json_object *o, *v;

    (void)state;
    if (!g)
        skip();
    a = rig_sleeper();
    b = rig_sleeper();
    assert_int_equal(oci_cgroup_enter(g, a, false, &e), 0);
    assert_int_equal(oci_cgroup_enter(g, b, false, &e), 0);
    assert_int_equal(oci_cgroup_pids(g, true, &pids, &n, &e), 0);
    assert_int_equal(n, 2);
    free(pids);
    assert_int_equal(oci_cgroup_create(&c, &again, &e), -EBUSY);
    assert_int_equal(oci_cgroup_frozen(g), 0);
    assert_int_equal(oci_cgroup_freeze(g, true, &e), 0);
    assert_int_equal(oci_cgroup_frozen(g), 1);
    assert_int_equal(oci_cgroup_freeze(g, false, &e), 0);
    assert_int_equal(oci_cgroup_frozen(g), 0);
    assert_int_equal(oci_cgroup_kill(g, SIGTERM, &e), 0);
    assert_int_equal(waitpid(a, &status, 0), a);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
    assert_int_equal(waitpid(b, &status, 0), b);
    /* Paused, and killed all the same. */
    a = rig_sleeper();
    assert_int_equal(oci_cgroup_enter(g, a, false, &e), 0);
    assert_int_equal(oci_cgroup_freeze(g, true, &e), 0);
    buf_init(&json, 1 << 20);
    assert_int_equal(oci_cgroup_stats(g, &json, &e), 0);
    buf_append(&json, "", 1);
    o = json_tokener_parse((const char *)json.data);
    assert_non_null(o);
    assert_true(json_object_object_get_ex(o, "pids", &v) && json_object_object_get_ex(v, "current", &v));
    assert_int_equal(json_object_get_int(v), 1);
    json_object_put(o);
    buf_done(&json);
    assert_int_equal(oci_cgroup_kill(g, SIGKILL, &e), 0);
    assert_int_equal(waitpid(a, &status, 0), a);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_int_equal(oci_cgroup_kill(g, SIGTERM, &e), 0); /* nobody is left */
    drop(g);
}

/* The state as it is after a plan. */
static struct oci_cgroup *reopen(struct oci_cgroup *g)
{
    struct oci_cgroup *again = NULL;
    struct json_object *o;
    struct buf json;
    struct err e = { 0 };

    buf_init(&json, 1 << 20);
    oci_cgroup_save(g, &json);
    buf_append(&json, "", 1);
    o = json_tokener_parse((const char *)json.data);
    assert_int_equal(oci_cgroup_open(o, &again, &e), 0);
    json_object_put(o);
    buf_done(&json);
    return again;
}

/* A runtime that was killed before or while it made the groups: its empty ones go, and another's are left alone. */
static void test_planned(void **state)
{
    char path[64];
    struct oci_cgroup *g = make("other", NULL, path), *planned = NULL, *opened;
    struct oci_cgroup_config c = { .path = path, .id = "x" };
    struct err e = { 0 };
    pid_t a;

    (void)state;
    if (!g)
        skip();
    assert_int_equal(oci_cgroup_plan(&c, &planned, &e), 0);
    opened = reopen(planned);
    a = rig_sleeper();
    assert_int_equal(oci_cgroup_enter(g, a, false, &e), 0);
    assert_int_equal(oci_cgroup_kill(opened, SIGKILL, &e), 0);
    assert_int_equal(oci_cgroup_remove(opened, &e), 0);
    assert_int_equal(waitpid(a, NULL, WNOHANG), 0);
    assert_int_equal(access(g->one[0].dir, F_OK), 0);
    assert_int_equal(kill(a, SIGKILL), 0);
    assert_int_equal(waitpid(a, NULL, 0), a);
    assert_int_equal(oci_cgroup_remove(opened, &e), 0);
    assert_int_equal(access(g->one[0].dir, F_OK), -1);
    oci_cgroup_free(opened);
    oci_cgroup_free(planned);
    drop(g);
}

/* Removal ends what lives in the group. */
static void test_remove_alive(void **state)
{
    char path[64];
    struct oci_cgroup *g = make("alive", NULL, path);
    pid_t a;
    int status;
    struct err e = { 0 };

    (void)state;
    if (!g)
        skip();
    a = rig_sleeper();
    assert_int_equal(oci_cgroup_enter(g, a, false, &e), 0);
    drop(g);
    assert_int_equal(waitpid(a, &status, 0), a);
    assert_true(WIFSIGNALED(status));
}

/* What create says without rights: 0 and no groups, or an error. */
static int create_rootless(const char *path, struct oci_spec *spec)
{
    pid_t pid = fork();
    int status;

    assert_true(pid >= 0);
    if (pid == 0) {
        struct oci_cgroup_config c = { .path = path, .id = "rootless", .rootless = true, .spec = spec };
        struct oci_cgroup *g = NULL;
        struct err e = { 0 };
        int r = setresuid(65534, 65534, 65534) < 0 ? -EIO : oci_cgroup_create(&c, &g, &e);

        if (r == 0)
            r = g->n > 0                                   ? -EEXIST
                : oci_cgroup_clone_fd(g) >= 0              ? -EBADF
                : oci_cgroup_enter(g, getpid(), false, &e) ? -EBUSY
                                                           : oci_cgroup_apply(g, &spec->resources, &e);
        if (r == 0)
            r = oci_cgroup_kill(g, SIGTERM, &e) < 0 ? -EINTR : oci_cgroup_remove(g, &e);
        oci_cgroup_free(g);
        _exit(-r); /* check: allow(banned:_exit) a child of the test */
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Without rights and wishes a container goes without groups; a wish is refused, not forgotten. */
static void test_rootless(void **state)
{
    struct oci_spec *none = rig_resources("{}"), *limit = rig_resources("{'pids':{'limit':5}}");

    (void)state;
    if (geteuid() != 0)
        skip();
    assert_int_equal(create_rootless(NULL, none), 0);
    assert_int_equal(create_rootless(NULL, limit), EACCES);
    assert_int_equal(create_rootless("/caisson-test-rootless/a", none), EACCES);
    oci_spec_free(none);
    oci_spec_free(limit);
}

static void test_oom(void **state)
{
    char path[64];
    struct oci_spec *spec = rig_resources("{'memory':{'limit':16777216,'swap':16777216}}");
    struct oci_cgroup *g = make("oom", spec, path);
    struct err e = { 0 };
    struct pollfd pfd = { .events = POLLIN };
    uint64_t seen = 0;
    int go[2], status;
    pid_t pid;

    (void)state;
    if (!g || !cgroup_with(g, SYS_CG_MEMORY))
        skip();
    assert_int_equal(oci_cgroup_apply(g, &spec->resources, &e), 0);
    pfd.fd = oci_cgroup_oom_watch(g, &e);
    assert_true(pfd.fd >= 0);
    assert_int_equal(oci_cgroup_oom_check(g, pfd.fd, &seen), 0);
    assert_int_equal(pipe(go), 0);
    pid = fork();
    if (pid == 0) {
        char c;
        char *p = read(go[0], &c, 1) == 1
                      ? mmap(NULL, 64 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                      : NULL;

        for (size_t i = 0; p && i < 64 << 20; i += 4096)
            ((volatile char *)p)[i] = 1;
        _exit(0); /* check: allow(banned:_exit) a child of the test */
    }
    assert_int_equal(oci_cgroup_enter(g, pid, false, &e), 0);
    assert_int_equal(write(go[1], "", 1), 1);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_int_equal(poll(&pfd, 1, 10000), 1);
    assert_true(oci_cgroup_oom_check(g, pfd.fd, &seen) > 0);
    drop(g);
    close(pfd.fd);
    close(go[0]);
    close(go[1]);
    oci_spec_free(spec);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bpf_compile), cmocka_unit_test(test_bpf_kernel),   cmocka_unit_test(test_limits),
        cmocka_unit_test(test_processes),   cmocka_unit_test(test_remove_alive), cmocka_unit_test(test_oom),
        cmocka_unit_test(test_rootless),    cmocka_unit_test(test_planned),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
