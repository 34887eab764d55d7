/* Filters against the kernel: a child loads one and sees what its system calls give. */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>

#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "oci/seccomp_priv.h"
#include "oci_rig.h"

#define MARK 77 /* an errno that nothing else gives */

static int load(const struct oci_bpf *b)
{
    struct err e = { 0 };
    int listener, r;

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -errno;
    r = oci_seccomp_load(b, &listener, &e);
    if (r < 0)
        dprintf(2, "%s\n", e.text);
    return r;
}

static void compile_ok(const char *text, struct oci_bpf *b)
{
    struct err e = { 0 };
    int r = rig_compile(text, b, &e);

    if (r < 0)
        print_message("%s\n", e.text);
    assert_int_equal(r, 0);
    assert_in_range(b->n, 1, OCI_BPF_MAX);
}

/* getpgid(-1) is ESRCH where no filter has a say. */
static int call_getpgid(void *arg)
{
    RIG_CHECK(load(arg) == 0);
    errno = 0;
    syscall(SYS_getpgid, -1);
    return errno;
}

static int getpgid_status(const char *text)
{
    struct oci_bpf b = { 0 };
    int status;

    compile_ok(text, &b);
    status = rig_child(call_getpgid, &b);
    oci_bpf_done(&b);
    return status;
}

#define ONE_RULE(action, more)                                                                                         \
    "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":[{\"names\":[\"getpgid\"],\"action\":\"" action "\"" more "}]" \
    "}"

static void test_actions(void **state)
{
    int status;

    assert_int_equal(WEXITSTATUS(getpgid_status(ONE_RULE("SCMP_ACT_ERRNO", ""))), EPERM);
    assert_int_equal(WEXITSTATUS(getpgid_status(ONE_RULE("SCMP_ACT_ERRNO", ",\"errnoRet\":38"))), ENOSYS);
    assert_int_equal(WEXITSTATUS(getpgid_status(ONE_RULE("SCMP_ACT_ERRNO", ",\"errnoRet\":0"))), 0);
    assert_int_equal(WEXITSTATUS(getpgid_status(ONE_RULE("SCMP_ACT_LOG", ""))), ESRCH);
    assert_int_equal(WEXITSTATUS(getpgid_status(ONE_RULE("SCMP_ACT_ALLOW", ""))), ESRCH);
    /* without a tracer there is no call */
    assert_int_equal(WEXITSTATUS(getpgid_status(ONE_RULE("SCMP_ACT_TRACE", ""))), ENOSYS);
    status = getpgid_status(ONE_RULE("SCMP_ACT_KILL", ""));
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
    status = getpgid_status(ONE_RULE("SCMP_ACT_KILL_THREAD", ""));
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
    status = getpgid_status(ONE_RULE("SCMP_ACT_KILL_PROCESS", ""));
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
}

static volatile sig_atomic_t trapped;

static void on_trap(int number, siginfo_t *info, void *context)
{
    trapped = info->si_syscall;
}

static int call_trapped(void *arg)
{
    struct sigaction action = { .sa_sigaction = on_trap, .sa_flags = SA_SIGINFO };

    RIG_CHECK(sigaction(SIGSYS, &action, NULL) == 0);
    RIG_CHECK(load(arg) == 0);
    syscall(SYS_getpgid, -1);
    RIG_CHECK(trapped == SYS_getpgid);
    return 0;
}

static void test_trap(void **state)
{
    struct oci_bpf b = { 0 };

    compile_ok(ONE_RULE("SCMP_ACT_TRAP", ""), &b);
    rig_child_ok(call_trapped, &b);
    oci_bpf_done(&b);
}

static int call_traced(void *arg)
{
    RIG_CHECK(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0);
    raise(SIGSTOP);
    return call_getpgid(arg);
}

/* The tracer gets errnoRet as its message, and lets the call go. */
static void test_trace(void **state)
{
    struct oci_bpf b = { 0 };
    unsigned long message = 0;
    int status;
    pid_t pid;

    compile_ok(ONE_RULE("SCMP_ACT_TRACE", ",\"errnoRet\":1234"), &b);
    pid = fork();
    if (pid == 0)
        _exit(call_traced(&b));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSTOPPED(status));
    assert_int_equal(ptrace(PTRACE_SETOPTIONS, pid, NULL, PTRACE_O_TRACESECCOMP), 0);
    assert_int_equal(ptrace(PTRACE_CONT, pid, NULL, NULL), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status >> 8, SIGTRAP | PTRACE_EVENT_SECCOMP << 8);
    assert_int_equal(ptrace(PTRACE_GETEVENTMSG, pid, NULL, &message), 0);
    assert_int_equal(message, 1234);
    assert_int_equal(ptrace(PTRACE_CONT, pid, NULL, NULL), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(WEXITSTATUS(status), ESRCH);
    oci_bpf_done(&b);
}

/* ---- conditions: lseek(-1, ...) is EBADF, and MARK where a rule applies ---- */

struct lseek_case {
    struct oci_bpf b;
    uint64_t offset[8];
    bool hit[8];
    size_t n;
};

static int call_lseek(void *arg)
{
    const struct lseek_case *c = arg;

    RIG_CHECK(load(&c->b) == 0);
    for (size_t i = 0; i < c->n; i++) {
        syscall(SYS_lseek, -1, c->offset[i], 5);
        RIG_CHECK(errno == (c->hit[i] ? MARK : EBADF));
    }
    return 0;
}

static const uint64_t operand = 0x1234567890ULL, mask = 0xff00ff00ULL;

static bool holds(const char *op, uint64_t n)
{
    if (strcmp(op, "SCMP_CMP_NE") == 0)
        return n != operand;
    if (strcmp(op, "SCMP_CMP_LT") == 0)
        return n < operand;
    if (strcmp(op, "SCMP_CMP_LE") == 0)
        return n <= operand;
    if (strcmp(op, "SCMP_CMP_EQ") == 0)
        return n == operand;
    if (strcmp(op, "SCMP_CMP_GE") == 0)
        return n >= operand;
    if (strcmp(op, "SCMP_CMP_GT") == 0)
        return n > operand;
    return (n & mask) == (operand & mask);
}

static void test_operators(void **state)
{
    for (size_t i = 0; oci_seccomp_compare_word(i); i++) {
        const char *op = oci_seccomp_compare_word(i);
        const bool masked = strcmp(op, "SCMP_CMP_MASKED_EQ") == 0;
        struct lseek_case c = { .offset = { operand, operand + 1, operand - 1, 0, UINT64_MAX, operand & mask,
                                            operand ^ 1ULL << 32, operand ^ 0x100 },
                                .n = 8 };
        char text[512];

        snprintf(
            text, sizeof(text),
            "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":[{\"names\":[\"lseek\"],\"action\":\"SCMP_ACT_ERRNO\","
            "\"errnoRet\":%d,\"args\":[{\"index\":1,\"value\":%llu,\"valueTwo\":%llu,\"op\":\"%s\"}]}]}",
            MARK, (unsigned long long)(masked ? mask : operand), masked ? (unsigned long long)(operand & mask) : 0ULL,
            op);
        for (size_t k = 0; k < c.n; k++)
            c.hit[k] = holds(op, c.offset[k]);
        compile_ok(text, &c.b);
        rig_child_ok(call_lseek, &c);
        oci_bpf_done(&c.b);
    }
}

/* Conditions on two arguments hold together; two on one argument are two rules. */
static void test_conditions(void **state)
{
#define LSEEK_RULE(args)                                                                                        \
    "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":[{\"names\":[\"lseek\"],\"action\":\"SCMP_ACT_ERRNO\"," \
    "\"errnoRet\":77,\"args\":[" args "]}]}"
#define COND(index, value) "{\"index\":" index ",\"value\":" value ",\"op\":\"SCMP_CMP_EQ\"}"
    struct lseek_case both = { .offset = { 10, 11 }, .hit = { true, false }, .n = 2 };
    struct lseek_case none = { .offset = { 10, 11 }, .hit = { false, false }, .n = 2 };
    struct lseek_case either = { .offset = { 10, 11, 12 }, .hit = { true, true, false }, .n = 3 };

    compile_ok(LSEEK_RULE(COND("1", "10") "," COND("2", "5")), &both.b);
    rig_child_ok(call_lseek, &both);
    oci_bpf_done(&both.b);
    compile_ok(LSEEK_RULE(COND("1", "10") "," COND("2", "6")), &none.b);
    rig_child_ok(call_lseek, &none);
    oci_bpf_done(&none.b);
    compile_ok(LSEEK_RULE(COND("1", "10") "," COND("1", "11")), &either.b);
    rig_child_ok(call_lseek, &either);
    oci_bpf_done(&either.b);
}

/* ---- defaults, names, architectures ---- */

#define ALLOWED "\"write\",\"exit_group\",\"seccomp\",\"getpgid\""

/* What a call that the rules do not name gives, and one that is newer than all of them. */
static int call_unnamed(void *arg)
{
    struct oci_bpf *b = arg;
    int known, newer;

    RIG_CHECK(load(b) == 0);
    syscall(SYS_getsid, -1);
    known = errno;
    syscall(5000);
    newer = errno;
    syscall(SYS_getpgid, -1);
    /* not by _exit: the sanitizer's makes calls that the filter has not */
    syscall(SYS_exit_group, errno == ESRCH ? known << 1 | (newer == ENOSYS) : 255);
    return 255;
}

static void test_default(void **state)
{
    struct oci_bpf b = { 0 };
    int status;

    compile_ok("{\"defaultAction\":\"SCMP_ACT_ERRNO\",\"syscalls\":[{\"names\":[" ALLOWED
               "],\"action\":\"SCMP_ACT_ALLOW\"}]}",
               &b);
    assert_int_equal(rig_child(call_unnamed, &b), (EPERM << 1 | 1) << 8);
    oci_bpf_done(&b);
    /* x32 beside x86-64: the numbers of the one are not the other's */
    compile_ok("{\"defaultAction\":\"SCMP_ACT_ERRNO\",\"architectures\":[\"SCMP_ARCH_X86_64\",\"SCMP_ARCH_X86\","
               "\"SCMP_ARCH_X32\"],\"syscalls\":[{\"names\":[" ALLOWED "],\"action\":\"SCMP_ACT_ALLOW\"}]}",
               &b);
    assert_int_equal(rig_child(call_unnamed, &b), (EPERM << 1 | 1) << 8);
    oci_bpf_done(&b);
    compile_ok("{\"defaultAction\":\"SCMP_ACT_ERRNO\",\"defaultErrnoRet\":77,\"syscalls\":[{\"names\":[" ALLOWED
               "],\"action\":\"SCMP_ACT_ALLOW\"}]}",
               &b);
    assert_int_equal(rig_child(call_unnamed, &b), (MARK << 1 | 1) << 8);
    oci_bpf_done(&b);
    compile_ok("{\"defaultAction\":\"SCMP_ACT_KILL_PROCESS\",\"syscalls\":[{\"names\":[" ALLOWED
               "],\"action\":\"SCMP_ACT_ALLOW\"}]}",
               &b);
    status = rig_child(call_unnamed, &b);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
    oci_bpf_done(&b);
}

/* A name that nobody knows is passed over, and so is a rule that says what the default says. */
static void test_names(void **state)
{
    assert_int_equal(
        WEXITSTATUS(getpgid_status("{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":[{\"names\":[\"no_such_"
                                   "call\",\"getpgid\"],\"action\":\"SCMP_ACT_ERRNO\"},{\"names\":[\"getpgid\"]"
                                   ",\"action\":\"SCMP_ACT_ALLOW\"}]}")),
        EPERM);
}

#ifdef __x86_64__
static int call_int80(void *arg)
{
    long r = 132; /* getpgid */

    if (arg)
        RIG_CHECK(load(arg) == 0);
    __asm__ volatile("int $0x80" : "+a"(r) : "b"(-1) : "memory", "cc", "r8", "r9", "r10", "r11");
    return (int)-r;
}

/* Another architecture's calls are filtered where it is named, and kill where it is not. */
static void test_architectures(void **state)
{
    struct oci_bpf b = { 0 };
    int status = rig_child(call_int80, NULL);

    if (status != ESRCH << 8) {
        print_message("this kernel has no 32-bit system calls\n");
        skip();
    }
    compile_ok("{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"architectures\":[\"SCMP_ARCH_X86_64\",\"SCMP_ARCH_X86\"],"
               "\"syscalls\":[{\"names\":[\"getpgid\"],\"action\":\"SCMP_ACT_ERRNO\",\"errnoRet\":77}]}",
               &b);
    assert_int_equal(rig_child(call_int80, &b), MARK << 8);
    oci_bpf_done(&b);
    compile_ok(ONE_RULE("SCMP_ACT_ERRNO", ""), &b);
    status = rig_child(call_int80, &b);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
    oci_bpf_done(&b);
}
#endif

/* ---- flags ---- */

static int call_plain(void *arg)
{
    RIG_CHECK(load(arg) == 0);
    RIG_CHECK(rig_status_hex("Seccomp") == 2);
    RIG_CHECK(rig_status_hex("Seccomp_filters") == 1);
    return 0;
}

#define WITH_FLAGS(flags) "{\"defaultAction\":\"SCMP_ACT_ALLOW\"" flags "}"

static void test_flags(void **state)
{
    static const struct {
        const char *text;
        unsigned long flags;
    } cases[] = {
        { WITH_FLAGS(""), SECCOMP_FILTER_FLAG_SPEC_ALLOW }, /* runc's default */
        { WITH_FLAGS(",\"flags\":[]"), 0 },
        { WITH_FLAGS(",\"flags\":[\"SECCOMP_FILTER_FLAG_LOG\"]"), SECCOMP_FILTER_FLAG_LOG },
        { WITH_FLAGS(",\"flags\":[\"SECCOMP_FILTER_FLAG_TSYNC\",\"SECCOMP_FILTER_FLAG_SPEC_ALLOW\"]"),
          SECCOMP_FILTER_FLAG_SPEC_ALLOW }, /* there is one thread */
        /* of a listener, which this filter has not */
        { WITH_FLAGS(",\"flags\":[\"SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV\",\"SECCOMP_FILTER_FLAG_NEW_LISTENER\"]"),
          0 },
    };
    struct oci_bpf b = { 0 };
    struct err e = { 0 };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        compile_ok(cases[i].text, &b);
        assert_int_equal(b.flags, cases[i].flags);
        rig_child_ok(call_plain, &b);
        oci_bpf_done(&b);
    }
    assert_int_equal(rig_compile(WITH_FLAGS(",\"flags\":[\"SECCOMP_FILTER_FLAG_NEVER\"]"), &b, &e), -EINVAL);
    assert_non_null(strstr(e.text, "SECCOMP_FILTER_FLAG_NEVER"));
    assert_null(b.program);
    assert_true(oci_seccomp_flag_supported(0));
}

static void test_refused(void **state)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        { "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"architectures\":[\"SCMP_ARCH_Z80\"]}", "SCMP_ARCH_Z80" },
        { "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"architectures\":[\"SCMP_ARCH_S390X\"]}", "SCMP_ARCH_S390X" },
        { "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"architectures\":[\"SCMP_ARCH_"
          "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"]}",
          "not known" },
        { ONE_RULE("SCMP_ACT_NOTIFY", ""), "listenerPath" },
        { "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"listenerPath\":\"/"
          "x\",\"syscalls\":[{\"names\":[\"write\"],\"action\":"
          "\"SCMP_ACT_NOTIFY\"}]}",
          "write" },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct oci_bpf b = { 0 };
        struct err e = { 0 };

        assert_true(rig_compile(cases[i].text, &b, &e) < 0);
        if (!strstr(e.text, cases[i].says))
            fail_msg("%s: \"%s\" does not say %s", cases[i].text, e.text, cases[i].says);
        assert_null(b.program);
    }
}

static int load_without_right(void *arg)
{
    struct err e = { 0 };
    int listener = 99;

    RIG_CHECK(setuid(65534) == 0);
    RIG_CHECK(oci_seccomp_load(arg, &listener, &e) == -EACCES);
    RIG_CHECK(listener == 99 && strstr(e.text, "noNewPrivileges"));
    return 0;
}

static void test_without_right(void **state)
{
    struct oci_bpf b = { 0 };

    if (geteuid() != 0)
        skip();
    compile_ok(ONE_RULE("SCMP_ACT_ERRNO", ""), &b);
    rig_child_ok(load_without_right, &b);
    oci_bpf_done(&b);
}

/* ---- the cache ---- */

static char cache_dir[] = "/tmp/oci-seccomp-XXXXXX";
static int cache_fd = -1;

static int setup_cache(void **state)
{
    strcpy(cache_dir, "/tmp/oci-seccomp-XXXXXX");
    if (!mkdtemp(cache_dir))
        return -1;
    cache_fd = open(cache_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return cache_fd < 0;
}

/* Names of the files; returns their number. */
static int cache_list(char *name)
{
    char command[128];
    FILE *f;
    int n = 0;

    snprintf(command, sizeof(command), "ls %s", cache_dir);
    f = popen(command, "re");
    while (f && fscanf(f, "%63s", name) == 1)
        n++;
    if (f)
        pclose(f);
    return n;
}

static int teardown_cache(void **state)
{
    char name[64];

    while (cache_list(name) > 0 && unlinkat(cache_fd, name, 0) == 0)
        ;
    close(cache_fd);
    return rmdir(cache_dir);
}

static void compile_cached(const char *text, struct oci_bpf *b)
{
    char members[1024];
    struct oci_spec *s;
    struct err e = { 0 };

    snprintf(members, sizeof(members), "\"seccomp\":%s,", text);
    s = rig_spec("", members);
    assert_int_equal(oci_seccomp_compile_cached(&s->seccomp, cache_fd, b, &e), 0);
    oci_spec_free(s);
}

static void assert_same(const struct oci_bpf *a, const struct oci_bpf *b)
{
    assert_int_equal(a->n, b->n);
    assert_int_equal(a->flags, b->flags);
    assert_int_equal(a->notify, b->notify);
    assert_memory_equal(a->program, b->program, a->n * sizeof(struct sock_filter));
}

static void test_cache(void **state)
{
    static const char text[] = ONE_RULE("SCMP_ACT_ERRNO", ",\"errnoRet\":77");
    struct oci_bpf fresh = { 0 }, again = { 0 }, other = { 0 };
    char name[64], byte = 0;
    struct stat st;
    AUTO_FD int fd = -1;

    compile_cached(text, &fresh);
    assert_int_equal(cache_list(name), 1);
    assert_int_equal(fstatat(cache_fd, name, &st, 0), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    compile_cached(text, &again);
    assert_same(&fresh, &again);
    oci_bpf_done(&again);
    /* whatever byte of the file is another, it is not used; and it is written anew */
    for (off_t at = 0; at < st.st_size; at += 7) {
        fd = openat(cache_fd, name, O_RDWR | O_CLOEXEC);
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        byte ^= 0x10;
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        close(STEAL_FD(fd));
        compile_cached(text, &again);
        assert_same(&fresh, &again);
        oci_bpf_done(&again);
    }
    fd = openat(cache_fd, name, O_RDWR | O_TRUNC | O_CLOEXEC);
    assert_true(fd >= 0);
    compile_cached(text, &again);
    assert_same(&fresh, &again);
    oci_bpf_done(&again);
    compile_cached(ONE_RULE("SCMP_ACT_ERRNO", ",\"errnoRet\":78"), &other);
    assert_memory_not_equal(other.program, fresh.program, fresh.n * sizeof(struct sock_filter));
    oci_bpf_done(&other);
    oci_bpf_done(&fresh);
}

/* Files by others are not believed: a program that allows all, with the right key, but of another user. */
static void test_cache_of_others(void **state)
{
    static const char text[] = ONE_RULE("SCMP_ACT_ERRNO", ",\"errnoRet\":77");
    struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    const struct oci_bpf evil = { .program = &allow, .n = 1 };
    struct oci_bpf b = { 0 };
    struct oci_spec *s = rig_spec("", "\"seccomp\":" ONE_RULE("SCMP_ACT_ERRNO", ",\"errnoRet\":77") ",");
    struct buf key, file;
    char name[64];
    AUTO_FD int fd = -1;

    if (geteuid() != 0)
        skip();
    compile_cached(text, &b);
    assert_int_equal(cache_list(name), 1);
    oci_bpf_done(&b);
    buf_init(&key, 1 << 20);
    buf_init(&file, 1 << 20);
    oci_seccomp_key(&s->seccomp, &key);
    oci_seccomp_cache_pack(&key, &evil, &file);
    assert_int_equal(buf_error(&file), 0);
    fd = openat(cache_fd, name, O_RDWR | O_TRUNC | O_CLOEXEC);
    assert_int_equal(write(fd, file.data, file.len), file.len);
    compile_cached(text, &b); /* as ours it is believed: the test's means work */
    assert_int_equal(b.n, 1);
    oci_bpf_done(&b);
    assert_int_equal(fchmod(fd, 0620), 0);
    compile_cached(text, &b);
    assert_true(b.n > 1);
    oci_bpf_done(&b);
    fd = (close(fd), openat(cache_fd, name, O_RDWR | O_TRUNC | O_CLOEXEC));
    assert_int_equal(write(fd, file.data, file.len), file.len);
    assert_int_equal(fchown(fd, 65534, 65534), 0);
    compile_cached(text, &b);
    assert_true(b.n > 1);
    oci_bpf_done(&b);
    /* a directory that others may write to is none */
    fd = (close(fd), openat(cache_fd, name, O_RDWR | O_TRUNC | O_CLOEXEC));
    assert_int_equal(write(fd, file.data, file.len), file.len);
    assert_int_equal(fchmod(cache_fd, 0777), 0);
    compile_cached(text, &b);
    assert_true(b.n > 1);
    oci_bpf_done(&b);
    buf_done(&key);
    buf_done(&file);
    oci_spec_free(s);
}

/* However many profiles there are, the files are few. */
static void test_cache_is_bounded(void **state)
{
    char text[512], name[64];

    for (unsigned i = 0; i < 300; i++) {
        struct oci_bpf b = { 0 };

        snprintf(text, sizeof(text), ONE_RULE("SCMP_ACT_ERRNO", ",\"errnoRet\":%u"), i);
        compile_cached(text, &b);
        oci_bpf_done(&b);
    }
    assert_in_range(cache_list(name), 2, 64);
}

/* ---- the listener ---- */

static const char container_state[] = "{\"ociVersion\":\"1.0.2\",\"id\":\"box\",\"status\":\"creating\"}";

struct agent {
    char path[256];
    int fd;
    struct oci_spec *spec;
    struct oci_bpf b;
    const char *state;
    size_t state_len;
    int expect; /* of oci_seccomp_load_notify */
};

static char long_dir[200];

static int agent_listen(struct agent *a, const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), dir = -1;

    snprintf(a->path, sizeof(a->path), "%s", path);
    snprintf(address.sun_path, sizeof(address.sun_path), "%.100s", path);
    if (strlen(path) >= sizeof(address.sun_path)) {
        dir = open(long_dir, O_PATH | O_CLOEXEC);
        snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/agent", dir);
    }
    assert_int_equal(bind(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 4), 0);
    if (dir >= 0)
        close(dir);
    return fd;
}

/* A filter that asks an agent about getpgid, and forbids all that could be used to hand the listener over. */
static void agent_begin(struct agent *a, const char *path, const char *extra)
{
    char members[2048];
    struct err e = { 0 };

    *a = (struct agent){ .state = container_state, .state_len = strlen(container_state) };
    a->fd = agent_listen(a, path);
    snprintf(
        members, sizeof(members),
        "\"seccomp\":{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"listenerPath\":\"%s\",\"listenerMetadata\":\"a\\\"b\","
        "\"flags\":[\"SECCOMP_FILTER_FLAG_TSYNC\"%s],\"syscalls\":[{\"names\":[\"getpgid\"],\"action\":"
        "\"SCMP_ACT_NOTIFY\"},{\"names\":[\"sendmsg\",\"sendto\",\"close\",\"futex\",\"munmap\",\"wait4\","
        "\"capset\",\"nanosleep\",\"clock_nanosleep\"],\"action\":\"SCMP_ACT_KILL_PROCESS\"}]},",
        path, extra);
    a->spec = rig_spec("", members);
    assert_int_equal(oci_seccomp_compile(&a->spec->seccomp, &a->b, &e), 0);
    assert_true(a->b.notify);
    assert_true(a->b.flags & SECCOMP_FILTER_FLAG_NEW_LISTENER);
}

static void agent_end(struct agent *a)
{
    if (a->fd >= 0)
        close(a->fd);
    unlink(a->path);
    oci_bpf_done(&a->b);
    oci_spec_free(a->spec);
}

static void payload_of_agent(struct agent *a)
{
    struct err e = { 0 };
    const struct timeval soon = { .tv_usec = 200000 };
    int fd = oci_seccomp_notify_connect(&a->spec->seccomp, &e), r;

    if (fd < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        _exit(250);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &soon, sizeof(soon));
    r = oci_seccomp_load_notify(&a->b, fd, &a->spec->seccomp, 4321, a->state, a->state_len, &e);
    if (r == 0)
        r = (int)syscall(SYS_getpgid, -1);
    /* exec is the next, in truth: it ends the other thread, too. The filter allows sh nothing, so its end is by us. */
    syscall(SYS_exit_group, r == a->expect || (r == -ECONNRESET && a->expect == -EPIPE) ? 7 : 8);
    __builtin_unreachable();
}

/* The message and the descriptor, as an agent reads them. */
static int agent_receive(int connection, char *text, size_t size)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec iov = { .iov_base = text, .iov_len = size - 1 };
    struct msghdr m = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control)
    };
    ssize_t n = recvmsg(connection, &m, MSG_CMSG_CLOEXEC);
    size_t at;
    int fd = -1;

    assert_true(n > 0);
    assert_non_null(CMSG_FIRSTHDR(&m));
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(fd));
    for (at = (size_t)n; (n = read(connection, text + at, size - 1 - at)) > 0; at += (size_t)n)
        ;
    text[at] = '\0';
    return fd;
}

static void agent_answer(int listener, pid_t pid)
{
    struct seccomp_notif request = { 0 };
    struct seccomp_notif_resp answer = { 0 };

    assert_int_equal(ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &request), 0);
    assert_int_equal(request.data.nr, SYS_getpgid);
    assert_int_equal(request.pid, pid);
    answer.id = request.id;
    answer.val = 4242;
    assert_int_equal(ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer), 0);
}

static void check_notify(const char *path, const char *extra)
{
    struct agent a;
    char text[4096];
    int connection, listener, status;
    pid_t pid;

    agent_begin(&a, path, extra);
    a.expect = 4242;
    pid = fork();
    if (pid == 0)
        payload_of_agent(&a);
    connection = accept(a.fd, NULL, NULL);
    listener = agent_receive(connection, text, sizeof(text));
    assert_string_equal(text, "{\"ociVersion\":\"" OCI_VERSION "\",\"fds\":[\"seccompFd\"],\"pid\":4321,"
                              "\"metadata\":\"a\\\"b\",\"state\":{\"ociVersion\":\"1.0.2\",\"id\":\"box\","
                              "\"status\":\"creating\"}}");
    agent_answer(listener, pid);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 7 << 8);
    close(listener);
    close(connection);
    agent_end(&a);
}

static void test_notify(void **state)
{
    char path[256];

    snprintf(path, sizeof(path), "%s/agent", cache_dir);
    check_notify(path, "");
    check_notify(path, ",\"SECCOMP_FILTER_FLAG_LOG\"");
    if (oci_seccomp_flag_supported(5))
        check_notify(path, ",\"SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV\"");
    /* longer than a socket's address */
    snprintf(long_dir, sizeof(long_dir), "%s/%0150d", cache_dir, 0);
    assert_int_equal(mkdir(long_dir, 0700), 0);
    snprintf(path, sizeof(path), "%s/agent", long_dir);
    check_notify(path, "");
    assert_int_equal(rmdir(long_dir), 0);
}

/* Agents that close the connection, or take nothing of a long message: an error, in time. */
static void test_notify_hostile(void **state)
{
    static char big[900000];
    char path[256];
    struct agent a;
    int status, connection;
    pid_t pid;

    snprintf(path, sizeof(path), "%s/agent", cache_dir);
    memset(big, ' ', sizeof(big));
    for (unsigned closing = 0; closing < 2; closing++) {
        agent_begin(&a, path, "");
        a.state = big;
        a.state_len = sizeof(big);
        a.expect = closing ? -EPIPE : -ETIMEDOUT;
        pid = fork();
        if (pid == 0)
            payload_of_agent(&a);
        connection = accept(a.fd, NULL, NULL);
        if (closing) {
            close(STEAL_FD(connection));
            close(STEAL_FD(a.fd));
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 7 << 8);
        if (connection >= 0)
            close(connection);
        agent_end(&a);
    }
}

static void test_notify_no_agent(void **state)
{
    char path[256];
    struct agent a;
    struct err e = { 0 };

    snprintf(path, sizeof(path), "%s/agent", cache_dir);
    agent_begin(&a, path, "");
    close(STEAL_FD(a.fd));
    assert_int_equal(oci_seccomp_notify_connect(&a.spec->seccomp, &e), -ECONNREFUSED);
    assert_non_null(strstr(e.text, path));
    unlink(path);
    assert_int_equal(oci_seccomp_notify_connect(&a.spec->seccomp, &e), -ENOENT);
    agent_end(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_actions),
        cmocka_unit_test(test_trap),
        cmocka_unit_test(test_trace),
        cmocka_unit_test(test_operators),
        cmocka_unit_test(test_conditions),
        cmocka_unit_test(test_default),
        cmocka_unit_test(test_names),
#ifdef __x86_64__
        cmocka_unit_test(test_architectures),
#endif
        cmocka_unit_test(test_flags),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_without_right),
        cmocka_unit_test_setup_teardown(test_notify, setup_cache, teardown_cache),
        cmocka_unit_test_setup_teardown(test_notify_hostile, setup_cache, teardown_cache),
        cmocka_unit_test_setup_teardown(test_notify_no_agent, setup_cache, teardown_cache),
        cmocka_unit_test_setup_teardown(test_cache, setup_cache, teardown_cache),
        cmocka_unit_test_setup_teardown(test_cache_of_others, setup_cache, teardown_cache),
        cmocka_unit_test_setup_teardown(test_cache_is_bounded, setup_cache, teardown_cache),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
