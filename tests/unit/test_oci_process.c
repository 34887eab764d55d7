/* Capabilities, user and attributes: a child takes them on, and asks the kernel what it has. */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/ioprio.h>
#include <linux/keyctl.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "oci/caps.h"
#include "oci/process_attr.h"
#include "oci_rig.h"

#define CAP(name) BIT64(CAP_##name)

static int proc_fd = -1;

/* ---- capabilities ---- */

struct caps_case {
    struct oci_process p;
    bool keep_admin;
    uint64_t prm, eff, inh, bnd, amb;                /* as the process is */
    uint64_t exec_prm, exec_eff, exec_inh, exec_amb; /* after execve of a file without capabilities */
};

static int take_caps(const struct caps_case *c)
{
    struct err e = { 0 };

    RIG_CHECK(oci_caps_prepare(&c->p, &e) == 0);
    RIG_CHECK(oci_process_set_user(&c->p, &e) == 0);
    RIG_CHECK(oci_caps_apply(&c->p, c->keep_admin, &e) == 0);
    return 0;
}

static int check_caps(void *arg)
{
    const struct caps_case *c = arg;

    if (take_caps(c) != 0)
        return 1;
    RIG_CHECK(rig_status_hex("CapPrm") == c->prm);
    RIG_CHECK(rig_status_hex("CapEff") == c->eff);
    RIG_CHECK(rig_status_hex("CapInh") == c->inh);
    RIG_CHECK(rig_status_hex("CapBnd") == c->bnd);
    RIG_CHECK(rig_status_hex("CapAmb") == c->amb);
    RIG_CHECK(getuid() == c->p.uid && geteuid() == c->p.uid);
    return 0;
}

static int check_caps_exec(void *arg)
{
    const struct caps_case *c = arg;
    char script[512];

    if (take_caps(c) != 0)
        return 1;
    snprintf(script, sizeof(script),
             "x=$(grep Cap /proc/self/status | tr -d '\\n\\t'); "
             "[ $x = CapInh:%016lxCapPrm:%016lxCapEff:%016lxCapBnd:%016lxCapAmb:%016lx ] || { echo $x; exit 9; }",
             c->exec_inh, c->exec_prm, c->exec_eff, c->bnd, c->exec_amb);
    execl("/bin/sh", "sh", "-c", script, NULL);
    return 2;
}

static void need_root(void)
{
    if (geteuid() != 0) {
        print_message("not root\n");
        skip();
    }
}

static void test_caps(void **state)
{
    const uint64_t few = CAP(KILL) | CAP(CHOWN) | CAP(SETUID) | CAP(SETGID);
    const uint64_t admin = CAP(SYS_ADMIN);
    struct caps_case cases[] = {
        /* root: execve gives it the bounding set */
        { .p = { .uid = 0, .capabilities_present = true, .capabilities = { few, few, 0, few, 0 } },
          .prm = few,
          .eff = few,
          .bnd = few,
          .exec_prm = few,
          .exec_eff = few },
        /* a user: execve leaves the ambient ones; those that are not inheritable are none */
        { .p = { .uid = 1000,
                 .gid = 1000,
                 .capabilities_present = true,
                 .capabilities = { few, few, CAP(KILL), few, CAP(KILL) | CAP(CHOWN) } },
          .prm = few,
          .eff = few,
          .inh = CAP(KILL),
          .bnd = few,
          .amb = CAP(KILL),
          .exec_prm = CAP(KILL),
          .exec_eff = CAP(KILL),
          .exec_inh = CAP(KILL),
          .exec_amb = CAP(KILL) },
        { .p = { .uid = 1000,
                 .gid = 1000,
                 .capabilities_present = true,
                 .capabilities = { few, CAP(KILL), 0, few, 0 } },
          .prm = few,
          .eff = CAP(KILL),
          .bnd = few },
        /* none given: none left */
        { .p = { .uid = 0 } },
        { .p = { .uid = 1000 } },
        /* for the filter's sake only: it is gone after execve */
        { .p = { .uid = 1000, .gid = 1000, .capabilities_present = true, .capabilities = { few, 0, 0, 0, 0 } },
          .keep_admin = true,
          .prm = admin,
          .eff = admin,
          .bnd = few },
        { .p = { .uid = 0, .capabilities_present = true, .capabilities = { few, few, 0, few, 0 } },
          .keep_admin = true,
          .prm = few | admin,
          .eff = few | admin,
          .bnd = few,
          .exec_prm = few,
          .exec_eff = few },
        /* bits that no kernel knows yet */
        { .p = { .uid = 0,
                 .capabilities_present = true,
                 .capabilities = { few | BIT64(62), few | BIT64(62), BIT64(62), few | BIT64(63), BIT64(62) } },
          .prm = few,
          .eff = few,
          .bnd = few,
          .exec_prm = few,
          .exec_eff = few },
    };

    need_root();
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        int there = rig_child(check_caps, &cases[i]), exec = rig_child(check_caps_exec, &cases[i]);

        if (there || exec)
            fail_msg("case %zu: %#x %#x", i, there, exec);
    }
}

/* All of them, whatever the last is on this kernel: the file's number is our oracle. */
static int check_all_caps(void *arg)
{
    struct oci_process p = { .capabilities_present = true };
    struct err e = { 0 };
    unsigned last = 0;
    FILE *f = fopen("/proc/sys/kernel/cap_last_cap", "re");
    const uint64_t had = rig_status_hex("CapPrm");

    RIG_CHECK(f && fscanf(f, "%u", &last) == 1);
    for (unsigned i = 0; i < OCI_CAP_SETS; i++)
        p.capabilities[i] = UINT64_MAX;
    if (had != (2ULL << last) - 1)
        return 77; /* we have not got them ourselves */
    RIG_CHECK(oci_caps_prepare(&p, &e) == 0);
    RIG_CHECK(oci_caps_apply(&p, false, &e) == 0);
    RIG_CHECK(rig_status_hex("CapAmb") == had && rig_status_hex("CapInh") == had && rig_status_hex("CapBnd") == had);
    return 0;
}

static int check_too_much(void *arg)
{
    const struct oci_process less = { .capabilities = { CAP(KILL), CAP(KILL), 0, CAP(KILL), 0 } };
    const struct oci_process more = { .capabilities = { CAP(KILL), CAP(SYS_ADMIN), 0, CAP(SYS_ADMIN), 0 } };
    const struct oci_process odd = { .capabilities = { 0, CAP(KILL), 0, 0, 0 } }; /* effective, not permitted */
    struct err e = { 0 };

    RIG_CHECK(oci_caps_apply(&less, false, &e) == 0);
    RIG_CHECK(oci_caps_apply(&more, false, &e) == -EPERM);
    RIG_CHECK(strstr(e.text, "process.capabilities"));
    RIG_CHECK(oci_caps_apply(&odd, false, &e) == -EPERM);
    RIG_CHECK(oci_caps_prepare(&less, &e) == -EPERM); /* without CAP_SETPCAP */
    return 0;
}

static void test_caps_bounds(void **state)
{
    int status;

    need_root();
    status = rig_child(check_all_caps, NULL);
    assert_true(status == 0 || status == 77 << 8);
    rig_child_ok(check_too_much, NULL);
}

/* A filter without no_new_privs that allows capset no more: loaded with keep_admin, execve does the rest. */
static int check_filter_and_exec(void *arg)
{
    struct oci_process p = { .uid = 1000, .gid = 1000, .capabilities_present = true, .capabilities = { CAP(KILL) } };
    struct oci_bpf *b = arg;
    struct err e = { 0 };
    int listener;

    RIG_CHECK(oci_caps_prepare(&p, &e) == 0);
    RIG_CHECK(oci_process_set_user(&p, &e) == 0);
    RIG_CHECK(oci_caps_apply(&p, true, &e) == 0);
    RIG_CHECK(oci_seccomp_load(b, &listener, &e) == 0 && listener == -1);
    execl("/bin/sh", "sh", "-c",
          "[ \"$(grep -E 'CapPrm|CapEff|Seccomp:|NoNew' /proc/self/status | tr -d '\\n\\t')\" = "
          "CapPrm:0000000000000000CapEff:0000000000000000NoNewPrivs:0Seccomp:2 ]",
          NULL);
    return 1;
}

static void test_filter_without_nnp(void **state)
{
    struct oci_bpf b = { 0 };
    struct err e = { 0 };

    need_root();
    assert_int_equal(
        rig_compile("{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":[{\"names\":[\"capset\"],\"action\":"
                    "\"SCMP_ACT_KILL_PROCESS\"}]}",
                    &b, &e),
        0);
    rig_child_ok(check_filter_and_exec, &b);
    oci_bpf_done(&b);
}

/* ---- user ---- */

static int check_user(void *arg)
{
    gid_t gids[] = { 5, 7, 4000000000u }, got[8];
    struct oci_process p = { .uid = 1234, .gid = 4294967294u, .additional_gids = gids, .n_additional_gids = 3 };
    uid_t r, e, s;
    gid_t gr, ge, gs;
    struct err err = { 0 };

    RIG_CHECK(oci_process_set_user(&p, &err) == 0);
    RIG_CHECK(getresuid(&r, &e, &s) == 0 && r == 1234 && e == 1234 && s == 1234);
    RIG_CHECK(getresgid(&gr, &ge, &gs) == 0 && gr == 4294967294u && ge == gr && gs == gr);
    RIG_CHECK(getgroups(8, got) == 3 && got[0] == 5 && got[1] == 7 && got[2] == 4000000000u);
    RIG_CHECK(oci_process_set_user(&(struct oci_process){ .uid = 0 }, &err) == -EPERM);
    return 0;
}

/* As a rootless container: one id mapped, setgroups denied. */
static int check_rootless(void *arg)
{
    gid_t gid = 0;
    struct oci_process p = { 0 };
    struct err e = { 0 };

    RIG_CHECK(setresgid(65534, 65534, 65534) == 0 && setresuid(65534, 65534, 65534) == 0);
    RIG_CHECK(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0);
    if (unshare(CLONE_NEWUSER) < 0)
        return 77;
    RIG_CHECK(oci_proc_write(proc_fd, "self/setgroups", "deny") == 0);
    RIG_CHECK(oci_proc_write(proc_fd, "self/uid_map", "0 65534 1") == 0);
    RIG_CHECK(oci_proc_write(proc_fd, "self/gid_map", "0 65534 1") == 0);
    RIG_CHECK(oci_process_set_user(&p, &e) == 0);
    RIG_CHECK(getuid() == 0 && getgid() == 0);
    p.additional_gids = &gid;
    p.n_additional_gids = 1;
    RIG_CHECK(oci_process_set_user(&p, &e) == -EPERM && strstr(e.text, "rootless"));
    p.n_additional_gids = 0;
    p.uid = 5;
    RIG_CHECK(oci_process_set_user(&p, &e) == -EINVAL && strstr(e.text, "uidMappings"));
    return 0;
}

static void test_user(void **state)
{
    int status;

    need_root();
    rig_child_ok(check_user, NULL);
    status = rig_child(check_rootless, NULL);
    assert_true(status == 0 || status == 77 << 8);
}

/* ---- attributes ---- */

static int check_early(void *arg)
{
    struct oci_spec *s =
        rig_spec("\"oomScoreAdj\":321,\"rlimits\":[{\"type\":\"RLIMIT_NOFILE\",\"soft\":100,\"hard\":200},"
                 "{\"type\":\"RLIMIT_CORE\",\"soft\":0,\"hard\":18446744073709551615}],"
                 "\"scheduler\":{\"policy\":\"SCHED_BATCH\",\"nice\":7},"
                 "\"ioPriority\":{\"class\":\"IOPRIO_CLASS_BE\",\"priority\":6},"
                 "\"execCPUAffinity\":{\"initial\":\"0-1000\",\"final\":\"0\"},",
                 "");
    struct err e = { 0 };
    struct rlimit l;
    cpu_set_t cpus;
    char text[16] = "";
    AUTO_FD int fd = -1;

    RIG_CHECK(oci_process_apply_early(&s->process, true, proc_fd, &e) == 0);
    RIG_CHECK(oci_process_affinity(&s->process, true, 0, &e) == 0);
    RIG_CHECK(getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_max > 200); /* there is work to do */
    RIG_CHECK(oci_process_rlimits(&s->process, 0, true, &e) == 0);
    RIG_CHECK(getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur == 100 && l.rlim_max == 200);
    RIG_CHECK(getrlimit(RLIMIT_CORE, &l) == 0 && l.rlim_cur == 0 && l.rlim_max == RLIM_INFINITY);
    RIG_CHECK(sched_getscheduler(0) == SCHED_BATCH && getpriority(PRIO_PROCESS, 0) == 7);
    RIG_CHECK(syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0) == IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 6));
    RIG_CHECK(sched_getaffinity(0, sizeof(cpus), &cpus) == 0 && CPU_COUNT(&cpus) == 1 && CPU_ISSET(0, &cpus));
    fd = open("/proc/self/oom_score_adj", O_RDONLY | O_CLOEXEC);
    RIG_CHECK(read(fd, text, sizeof(text)) == 4 && memcmp(text, "321\n", 4) == 0);
    oci_spec_free(s);
    return 0;
}

static int check_real_time(void *arg)
{
    struct oci_spec *s =
        rig_spec("\"scheduler\":{\"policy\":\"SCHED_FIFO\",\"priority\":3,"
                 "\"flags\":[\"SCHED_FLAG_RESET_ON_FORK\"]},\"ioPriority\":{\"class\":\"IOPRIO_CLASS_IDLE\"},",
                 "");
    struct err e = { 0 };
    struct sched_param param;
    int r = oci_process_apply_early(&s->process, true, proc_fd, &e);

    if (r == -EPERM && strstr(e.text, "process.scheduler"))
        return 77; /* a cgroup without real-time run time */
    RIG_CHECK(r == 0);
    RIG_CHECK(sched_getscheduler(0) == (SCHED_FIFO | SCHED_RESET_ON_FORK));
    RIG_CHECK(sched_getparam(0, &param) == 0 && param.sched_priority == 3);
    RIG_CHECK(syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0) >> IOPRIO_CLASS_SHIFT == IOPRIO_CLASS_IDLE);
    oci_spec_free(s);
    return 0;
}

/* Each with a text that names the field. */
static int check_early_refused(void *arg)
{
    static const char *const cases[][2] = {
        { "\"oomScoreAdj\":-1000,", "process.oomScoreAdj" },
        { "\"rlimits\":[{\"type\":\"RLIMIT_NOFILE\",\"soft\":5000000,\"hard\":5000000}],", "process.rlimits[0]" },
        { "\"scheduler\":{\"policy\":\"SCHED_FIFO\",\"priority\":3},", "process.scheduler" },
        { "\"scheduler\":{\"policy\":\"SCHED_DEADLINE\",\"runtime\":5,\"deadline\":4},", "process.scheduler" },
        { "\"ioPriority\":{\"class\":\"IOPRIO_CLASS_RT\",\"priority\":1},", "process.ioPriority" },
        { "\"execCPUAffinity\":{\"final\":\"1023\"},", "process.execCPUAffinity.final" },
        { "\"execCPUAffinity\":{\"final\":\"0-\"},", "process.execCPUAffinity.final" },
    };
    const struct rlimit limit = { 100, 100 };

    RIG_CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    RIG_CHECK(oci_proc_write(proc_fd, "self/oom_score_adj", "0") == 0);
    RIG_CHECK(setuid(1000) == 0 && prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct oci_spec *s = rig_spec(cases[i][0], "");
        struct err e = { 0 };

        RIG_CHECK(oci_process_apply_early(&s->process, true, proc_fd, &e) < 0 ||
                  oci_process_affinity(&s->process, true, 0, &e) < 0);
        RIG_CHECK(strncmp(e.text, cases[i][1], strlen(cases[i][1])) == 0);
        oci_spec_free(s);
    }
    return 0;
}

static int check_late(void *arg)
{
    struct oci_spec *s =
        rig_spec("\"noNewPrivileges\":true,\"user\":{\"umask\":23},", "\"personality\":{\"domain\":\"LINUX32\"},");
    struct oci_spec *none = rig_spec("", "");
    struct err e = { 0 };

    RIG_CHECK(oci_process_apply_late(none, &none->process, proc_fd, &e) == 0);
    RIG_CHECK(umask(0) == 022 && personality(0xffffffff) == PER_LINUX && prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0);
    RIG_CHECK(oci_process_apply_late(s, &s->process, proc_fd, &e) == 0);
    RIG_CHECK(umask(0) == 027 && personality(0xffffffff) == PER_LINUX32 && prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
    oci_spec_free(s);
    oci_spec_free(none);
    return 0;
}

/* Labels that no policy has, or no kernel. */
static int check_labels(void *arg)
{
    struct oci_spec *a = rig_spec("\"apparmorProfile\":\"no-such-profile\",", "");
    struct oci_spec *l = rig_spec("\"selinuxLabel\":\"no:such:label:s0\",", "");
    struct oci_spec *empty = rig_spec("\"apparmorProfile\":\"\",\"selinuxLabel\":\"\",", "");
    struct err e = { 0 };

    RIG_CHECK(oci_process_apply_late(a, &a->process, proc_fd, &e) < 0 &&
              strstr(e.text, "process.apparmorProfile: no-such"));
    RIG_CHECK(oci_process_apply_late(l, &l->process, proc_fd, &e) < 0 &&
              strstr(e.text, "process.selinuxLabel: no:such"));
    RIG_CHECK(oci_process_apply_late(empty, &empty->process, proc_fd, &e) == 0);
    oci_spec_free(a);
    oci_spec_free(l);
    oci_spec_free(empty);
    return 0;
}

static int check_keyring(void *arg)
{
    const struct oci_process p = { 0 };
    char text[256] = "";
    struct err e = { 0 };

    RIG_CHECK(oci_process_keyring(&p, "box", proc_fd, &e) == 0);
    if (syscall(SYS_keyctl, KEYCTL_DESCRIBE, KEY_SPEC_SESSION_KEYRING, text, sizeof(text)) < 0)
        return 77;
    /* "keyring;uid;gid;permissions;name" */
    RIG_CHECK(strstr(text, ";3f0b0000;_ses.box"));
    return 0;
}

static void test_attributes(void **state)
{
    int status;

    need_root();
    rig_child_ok(check_early, NULL);
    status = rig_child(check_real_time, NULL);
    assert_true(status == 0 || status == 77 << 8);
    rig_child_ok(check_early_refused, NULL);
    rig_child_ok(check_late, NULL);
    rig_child_ok(check_labels, NULL);
    status = rig_child(check_keyring, NULL);
    assert_true(status == 0 || status == 77 << 8);
}

static void test_cpu_list(void **state)
{
    static const char *const bad[] = {
        "", ",", "0,", ",0", "-", "0-", "-1", "3-2", "1024", "0-1024", "99999999999999", "0 ", " 0", "a", "0-1-2", "0;1"
    };
    cpu_set_t set;

    assert_int_equal(oci_cpu_list_parse("0-3,7,1023,5-5", &set), 0);
    assert_int_equal(CPU_COUNT(&set), 7);
    assert_true(CPU_ISSET(1023, &set) && CPU_ISSET(5, &set) && CPU_ISSET(0, &set));
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        if (oci_cpu_list_parse(bad[i], &set) != -EINVAL)
            fail_msg("\"%s\" was taken", bad[i]);
    }
    assert_int_equal(CPU_COUNT(&set), 7);
}

/* ---- procfs ---- */

/* A container's image can have a /proc of its own making, and a mount over a file of the real one: nothing is written
 * through either (CVE-2019-16884, CVE-2025-52881). */
static int check_proc(void *arg)
{
    char path[64], dir[] = "/tmp/oci-proc-XXXXXX", fake[128];
    AUTO_FD int fd = -1, no_proc = open("/tmp", O_PATH | O_DIRECTORY | O_CLOEXEC);
    struct stat st;

    RIG_CHECK(oci_proc_write(no_proc, "self/oom_score_adj", "1") == -EBADF);
    RIG_CHECK(oci_proc_write(proc_fd, "../etc/passwd", "1") < 0);
    RIG_CHECK(oci_proc_write(proc_fd, "self/root/etc/hostname", "1") == -ELOOP);
    RIG_CHECK(oci_proc_write(proc_fd, "self/cwd/x", "1") == -ELOOP);
    RIG_CHECK(mkdtemp(dir) && unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
    snprintf(fake, sizeof(fake), "%s/file", dir);
    fd = open(fake, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    snprintf(path, sizeof(path), "/proc/%d/oom_score_adj", getpid());
    RIG_CHECK(fd >= 0 && mount(fake, path, NULL, MS_BIND, NULL) == 0);
    {
        AUTO_FD int covered = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);

        RIG_CHECK(oci_proc_write(covered, "self/oom_score_adj", "1") == -EXDEV);
        RIG_CHECK(oci_proc_write(covered, "thread-self/comm", "fine") == 0);
    }
    RIG_CHECK(fstat(fd, &st) == 0 && st.st_size == 0);
    unlink(fake);
    rmdir(dir);
    return 0;
}

static void test_proc(void **state)
{
    need_root();
    rig_child_ok(check_proc, NULL);
}

static int open_proc(void **state)
{
    proc_fd = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
    return proc_fd < 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_caps), cmocka_unit_test(test_caps_bounds), cmocka_unit_test(test_filter_without_nnp),
        cmocka_unit_test(test_user), cmocka_unit_test(test_attributes),  cmocka_unit_test(test_cpu_list),
        cmocka_unit_test(test_proc),
    };

    return cmocka_run_group_tests(tests, open_proc, NULL);
}
