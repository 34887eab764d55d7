/* Hooks: real programs, most of them /bin/sh. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "oci/hooks.h"

static char dir[32], out_path[64];

static int setup(void **state)
{
    strcpy(dir, "/tmp/oci-hooks-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(out_path, sizeof(out_path), "%s/out", dir);
    return 0;
}

static int teardown(void **state)
{
    unlink(out_path);
    return rmdir(dir);
}

/* What a hook wrote to out_path. */
static const char *out(void)
{
    static char text[65536];
    AUTO_FD int fd = open(out_path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

    text[n < 0 ? 0 : n] = '\0';
    return text;
}

#define SH(script, timeout)                                                                               \
    {                                                                                                     \
        .path = "/bin/sh",                                                                                \
        .args = { .v = (const char *[]){ "sh", "-c", script, out_path, "two words", "", NULL }, .n = 6 }, \
        .timeout_s = timeout                                                                              \
    }

static int run(const struct oci_hook *h, size_t n, enum oci_hook_kind kind, const char *json, struct err *e)
{
    *e = (struct err){ 0 };
    return oci_hooks_run(h, n, kind, json, strlen(json), e);
}

static int run_one(const char *script, int64_t timeout_s, const char *json, struct err *e)
{
    const struct oci_hook h = SH(script, timeout_s);

    return run(&h, 1, OCI_HOOK_PRESTART, json, e);
}

static void test_state_and_args(void **state)
{
    static const char json[] = "{\"id\":\"box\"}";
    struct err e;

    assert_int_equal(run_one("cat >$0; printf '[%s][%s]%d' \"$1\" \"$2\" $# >>$0", OCI_UNSET, json, &e), 0);
    assert_string_equal(out(), "{\"id\":\"box\"}[two words][]2");
    /* as a file that can be opened again */
    assert_int_equal(run_one("cat /dev/stdin >$0", OCI_UNSET, json, &e), 0);
    assert_string_equal(out(), json);
    assert_int_equal(run_one("cat >$0", OCI_UNSET, "", &e), 0);
    assert_string_equal(out(), "");
}

/* Nothing of ours: no environment but the hook's, no descriptors, no signal state, a process group. */
static void test_clean(void **state)
{
    struct oci_hook h = SH("cat /proc/$$/environ | tr '\\0' '\\n' >$0", OCI_UNSET);
    unsigned long blocked, ignored;
    struct err e;
    sigset_t all, old;

    setenv("CAISSON_TEST", "leak", 1);
    assert_int_equal(run(&h, 1, OCI_HOOK_POSTSTART, "", &e), 0);
    assert_string_equal(out(), "");
    h.env = (struct oci_strings){ .v = (const char *[]){ "A=1", "odd", "A=2", NULL }, .n = 3 };
    h.args.v[2] = "cat /proc/$$/environ | tr '\\0' '\\n' >$0";
    assert_int_equal(run(&h, 1, OCI_HOOK_POSTSTART, "", &e), 0);
    assert_string_equal(out(), "A=1\nodd\nA=2\n");
    /* without O_CLOEXEC, as a caller's careless library may have it */
    assert_true(dup2(STDERR_FILENO, 77) == 77);
    assert_int_equal(run_one("exec ls /proc/self/fd >$0", OCI_UNSET, "", &e), 0);
    assert_string_equal(out(), "0\n1\n2\n3\n"); /* 3: of ls itself */
    close(77);
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &old);
    signal(SIGPIPE, SIG_IGN);
    assert_int_equal(run_one("grep -E 'SigBlk|SigIgn' /proc/self/status | tr -d '\\n\\t' >$0", OCI_UNSET, "", &e), 0);
    /* the two signals that libc's posix_spawn ignores in every program are not ours */
    assert_true(sscanf(out(), "SigBlk:%16lxSigIgn:%16lx", &blocked, &ignored) == 2);
    assert_int_equal(blocked, 0);
    assert_int_equal(ignored & ~0x180000000UL, 0);
    signal(SIGPIPE, SIG_DFL);
    sigprocmask(SIG_SETMASK, &old, NULL);
    assert_int_equal(run_one("cut -d' ' -f1,5 </proc/$$/stat >$0; echo $$ $$ >>$0", OCI_UNSET, "", &e), 0);
    assert_memory_equal(out(), strchr(out(), '\n') + 1, (size_t)(strchr(out(), '\n') - out()));
}

/* No args: the path is the program's name. */
static void test_no_args(void **state)
{
    struct oci_hook h = { .path = "/bin/true", .timeout_s = OCI_UNSET };
    struct err e;

    assert_int_equal(run(&h, 1, OCI_HOOK_PRESTART, "", &e), 0);
}

static void test_failures(void **state)
{
    struct oci_hook missing = { .path = "/no/such/hook", .timeout_s = OCI_UNSET };
    struct oci_hook no_program = { .path = "/etc/passwd", .timeout_s = OCI_UNSET };
    struct err e;

    assert_int_equal(run_one("echo out; echo 'bad\tthing' >&2; exit 3", OCI_UNSET, "", &e), -EIO);
    assert_string_equal(e.text, "hooks.prestart[0]: /bin/sh: exit status 3: out bad thing");
    assert_int_equal(run_one("exit 7", OCI_UNSET, "", &e), -EIO);
    assert_string_equal(e.text, "hooks.prestart[0]: /bin/sh: exit status 7");
    assert_int_equal(run_one("kill -9 $$", OCI_UNSET, "", &e), -EIO);
    assert_string_equal(e.text, "hooks.prestart[0]: /bin/sh: killed by signal 9");
    assert_int_equal(run(&missing, 1, OCI_HOOK_POSTSTOP, "", &e), -ENOENT);
    assert_non_null(strstr(e.text, "hooks.poststop[0]: /no/such/hook"));
    assert_int_equal(run(&no_program, 1, OCI_HOOK_CREATE_CONTAINER, "", &e), -EACCES);
}

/* A hook that hangs is killed with what it has started. */
static void test_hangs(void **state)
{
    struct err e;
    int pid;

    assert_int_equal(run_one("trap '' TERM INT; sleep 600 & echo $! >$0; wait; wait; sleep 600", 1, "{}", &e),
                     -ETIMEDOUT);
    assert_non_null(strstr(e.text, "hooks.prestart[0]: /bin/sh did not end within its 1 s"));
    pid = atoi(out());
    assert_true(pid > 1);
    /* it is init's to reap: wait until it has gone, or is a zombie */
    for (int i = 0; i < 5000 && kill(pid, 0) == 0; i++) {
        char path[32], stat[256] = "";
        AUTO_FD int fd = -1;

        snprintf(path, sizeof(path), "/proc/%d/stat", pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || read(fd, stat, sizeof(stat) - 1) <= 0 || strstr(stat, ") Z "))
            return;
        usleep(2000);
    }
    assert_true(kill(pid, 0) < 0);
}

/* Out of its process group, it is killed all the same. */
static void test_hangs_elsewhere(void **state)
{
    struct err e;

    assert_int_equal(run_one("exec python3 -c 'import os, time; os.setpgid(0, os.getpgid(os.getppid())); "
                             "time.sleep(600)'",
                             3, "{}", &e),
                     -ETIMEDOUT);
}

/* Output without end is read and forgotten, and does not keep the clock from being looked at. */
static void test_floods(void **state)
{
    struct err e;

    assert_int_equal(run_one("head -c 5000000 /dev/zero >&2; yes | head -c 1000000; exit 9", OCI_UNSET, "", &e), -EIO);
    assert_true(strlen(e.text) < ERR_TEXT_MAX);
    assert_non_null(strstr(e.text, "exit status 9"));
    assert_int_equal(run_one("exec yes", 1, "", &e), -ETIMEDOUT);
    assert_int_equal(run_one("exec 1>&- 2>&-; sleep 600", 1, "", &e), -ETIMEDOUT);
}

/* A state longer than a pipe, of which nothing is read; and a hook that leaves its output open behind it. */
static void test_does_not_hold_us(void **state)
{
    AUTO_FREE char *big = malloc(900001);
    struct err e;
    int pid;

    memset(big, 'x', 900000);
    big[900000] = '\0';
    assert_int_equal(run_one("exit 0", OCI_UNSET, big, &e), 0);
    assert_int_equal(run_one("wc -c | tr -d ' \\n' >$0", OCI_UNSET, big, &e), 0);
    assert_string_equal(out(), "900000");
    assert_int_equal(run_one("sleep 600 & echo $! >$0", OCI_UNSET, "", &e), 0);
    pid = atoi(out());
    assert_true(pid > 1);
    assert_int_equal(kill(pid, SIGKILL), 0); /* still there: we did not wait for it */
}

/* The first failure ends the series, but for the two kinds that go on. */
static void test_series(void **state)
{
    struct oci_hook h[] = { SH("echo 1 >>$0", OCI_UNSET), SH("echo 2 >>$0; exit 2", OCI_UNSET),
                            SH("echo 3 >>$0; exit 3", OCI_UNSET) };
    struct err e;

    for (unsigned kind = 0; kind < OCI_HOOK_KINDS; kind++) {
        const bool go_on = kind == OCI_HOOK_POSTSTART || kind == OCI_HOOK_POSTSTOP;
        char says[64];

        unlink(out_path);
        assert_int_equal(run(h, 3, (enum oci_hook_kind)kind, "", &e), -EIO);
        snprintf(says, sizeof(says), "hooks.%s[1]: /bin/sh: exit status 2", oci_hook_name((enum oci_hook_kind)kind));
        assert_string_equal(e.text, says);
        assert_string_equal(out(), go_on ? "1\n2\n3\n" : "1\n2\n");
    }
    assert_int_equal(run(h, 0, OCI_HOOK_PRESTART, "", &e), 0);
}

/* The runtime may have been started without its standard descriptors. */
static void test_without_stdio(void **state)
{
    struct err e;
    int saved[3], r;

    for (int i = 0; i < 3; i++) {
        saved[i] = fcntl(i, F_DUPFD_CLOEXEC, 100);
        close(i);
    }
    r = run_one("cat >$0; ls /proc/self/fd >>$0; exit 4", OCI_UNSET, "{}", &e);
    for (int i = 0; i < 3; i++) {
        dup2(saved[i], i);
        close(saved[i]);
    }
    assert_int_equal(r, -EIO);
    assert_string_equal(out(), "{}0\n1\n2\n3\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_state_and_args),  cmocka_unit_test(test_clean),
        cmocka_unit_test(test_no_args),         cmocka_unit_test(test_failures),
        cmocka_unit_test(test_hangs),           cmocka_unit_test(test_floods),
        cmocka_unit_test(test_hangs_elsewhere), cmocka_unit_test(test_does_not_hold_us),
        cmocka_unit_test(test_series),          cmocka_unit_test(test_without_stdio),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
