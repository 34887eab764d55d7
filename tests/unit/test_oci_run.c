/* The run path where a process of its own would say less: messages between the runtime and the first process, the
 * sockets of consoles, pid files, the state directory with its lock, and command lines. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "oci/console.h"
#include "oci/container.h"
#include "oci/create.h"
#include "oci/state.h"
#include "oci/sync.h"
#include "oci_rig.h"

static int next_fd(void)
{
    int fd = dup(0);

    close(fd);
    return fd;
}

/* ---- sync ---- */

static void sync_messages(void **state)
{
    const struct err error = { .code = ENOSPC, .text = "no room" };
    struct err e = { 0 };
    int64_t value = 0;
    int fds[2];

    assert_int_equal(oci_sync_pair(fds), 0);
    assert_int_equal(oci_sync_send(fds[1], OCI_SYNC_PID, -5), 0);
    assert_int_equal(oci_sync_wait(fds[0], OCI_SYNC_PID, &value, &e), 0);
    assert_int_equal(value, -5);
    assert_int_equal(oci_sync_send(fds[1], OCI_SYNC_HOOKS, 0), 0);
    assert_int_equal(oci_sync_wait_two(fds[0], OCI_SYNC_READY, OCI_SYNC_HOOKS, &e), OCI_SYNC_HOOKS);
    assert_int_equal(oci_sync_send(fds[1], OCI_SYNC_GO, 0), 0);
    assert_int_equal(oci_sync_wait(fds[0], OCI_SYNC_READY, NULL, &e), -EPROTO);
    oci_sync_send_error(fds[1], &error);
    assert_int_equal(oci_sync_wait(fds[0], OCI_SYNC_READY, NULL, &e), -ENOSPC);
    assert_string_equal(e.text, "no room");
    assert_int_equal(send(fds[1], "x", 1, 0), 1);
    assert_int_equal(oci_sync_wait(fds[0], OCI_SYNC_READY, NULL, &e), -EPROTO);
    close(fds[1]);
    assert_int_equal(oci_sync_wait(fds[0], OCI_SYNC_READY, NULL, &e), -EPIPE);
    /* Nobody there: an error, no SIGPIPE. */
    assert_int_equal(oci_sync_send(fds[0], OCI_SYNC_GO, 0), -EPIPE);
    oci_sync_send_error(fds[0], &error);
    close(fds[0]);
}

/* The other side ends with our message unread, but has said why: that is what counts, not the reset. */
static void sync_reset(void **state)
{
    const struct err error = { .code = ENOSPC, .text = "no room" };

    for (unsigned told = 0; told < 2; told++) {
        struct err e = { 0 };
        int fds[2];

        assert_int_equal(oci_sync_pair(fds), 0);
        assert_int_equal(oci_sync_send(fds[0], OCI_SYNC_GO, 0), 0);
        if (told)
            oci_sync_send_error(fds[1], &error);
        close(fds[1]);
        assert_int_equal(oci_sync_wait(fds[0], OCI_SYNC_READY, NULL, &e), told ? -ENOSPC : -EPIPE);
        close(fds[0]);
    }
}

/* ---- descriptors by sockets ---- */

static void send_two(int fd)
{
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(2 * sizeof(int))];
    } control = { 0 };
    struct iovec iov = { .iov_base = "x", .iov_len = 1 };
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };

    control.head = (struct cmsghdr){ CMSG_LEN(2 * sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
    assert_int_equal(sendmsg(fd, &m, 0), 1);
}

static void descriptors(void **state)
{
    const int before = next_fd();
    int fds[2], got = -1;

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    assert_int_equal(oci_send_fd(fds[0], 0, "tty", 3), 0);
    assert_int_equal(oci_receive_fd(fds[1], &got), 0);
    assert_true(fcntl(got, F_GETFD) & FD_CLOEXEC);
    close(got);
    got = -1;
    send_two(fds[0]);
    assert_int_equal(oci_receive_fd(fds[1], &got), -EPROTO);
    assert_int_equal(send(fds[0], "x", 1, 0), 1);
    assert_int_equal(oci_receive_fd(fds[1], &got), -EPROTO);
    close(fds[0]);
    assert_int_equal(oci_receive_fd(fds[1], &got), -EPIPE);
    assert_int_equal(oci_send_fd(fds[1], 0, "tty", 3), -EPIPE);
    assert_int_equal(got, -1);
    close(fds[1]);
    assert_int_equal(next_fd(), before);
}

static void socket_paths(void **state)
{
    char path[200];
    struct err e = { 0 };

    memset(path, 'x', sizeof(path));
    path[0] = '/';
    path[sizeof(path) - 1] = '\0';
    assert_int_equal(oci_console_connect(path, &e), -ENAMETOOLONG);
    assert_int_equal(oci_console_connect("/no/such/socket", &e), -ENOENT);
    assert_int_equal(oci_console_connect("/dev/null", &e), -ECONNREFUSED);
}

/* ---- files ---- */

static void pid_files(void **state)
{
    char dir[] = "/tmp/oci-run-XXXXXX", path[64], text[16] = "";
    struct err e = { 0 };
    AUTO_FD int fd = -1;

    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/pid", dir);
    assert_int_equal(oci_pid_file(path, 4711, &e), 0);
    assert_int_equal(oci_pid_file(path, 12, &e), 0); /* replaced */
    fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(read(fd, text, sizeof(text)), 2);
    assert_string_equal(text, "12");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(dir), 0); /* and nothing besides it */
    assert_int_equal(oci_pid_file(path, 12, &e), -ENOENT);
}

static struct oci_args args_of(const char *root)
{
    struct oci_args a = { .program = "test" };

    a.value[OCI_OPT_ROOT] = root;
    return a;
}

static void state_directory(void **state)
{
    char root[] = "/tmp/oci-run-XXXXXX", path[64];
    const struct oci_args a = args_of(root);
    AUTO(oci_state) struct oci_state *s = NULL, *other = NULL;
    AUTO(oci_spec) struct oci_spec *spec = rig_spec("", "");
    struct oci_record record = {
        .id = "c", .bundle = "/b", .rootfs = "/r", .created = "now", .spec = spec, .pid = getpid()
    };
    AUTO_FD int root_fd = -1, dir_fd = -1;
    struct err e = { 0 };
    int r, fd;

    assert_non_null(mkdtemp(root));
    assert_int_equal(oci_state_make(&a, "c", &root_fd, &dir_fd, &e), 0);
    assert_int_equal(oci_state_make(&a, "c", &r, &fd, &e), -EEXIST);
    assert_int_equal(oci_state_open(&a, "c", &s, &e), 0);
    assert_int_equal(oci_state_status(s), OCI_CREATING); /* its maker has the lock */
    assert_int_equal(oci_state_lock(s, 10, &e), -EBUSY);
    assert_int_equal(oci_proc_start_time(getpid(), &record.start_time), 0);
    assert_int_equal(oci_state_write(dir_fd, &record, &e), 0);
    assert_int_equal(oci_state_open(&a, "c", &other, &e), 0);
    assert_int_equal(oci_state_status(other), OCI_RUNNING);
    assert_string_equal(other->bundle, "/b");
    record.start_time++; /* the pid is somebody else's now */
    assert_int_equal(oci_state_write(dir_fd, &record, &e), 0);
    close(dir_fd);
    dir_fd = -1;
    assert_int_equal(oci_state_lock(other, 10, &e), 0); /* and reads it again */
    assert_int_equal(oci_state_status(other), OCI_STOPPED);
    assert_int_equal(oci_container_pidfd(other), -ESRCH);
    snprintf(path, sizeof(path), "%s/c/state.json", root);
    assert_int_equal(truncate(path, 20), 0);
    oci_state_free(STEAL(s));
    assert_int_equal(oci_state_open(&a, "c", &s, &e), -EINVAL);
    assert_non_null(strstr(e.text, "delete --force"));
    assert_int_equal(oci_state_remove(other->root_fd, other->dir_fd, "c", &e), 0);
    assert_int_equal(oci_state_open(&a, "c", &s, &e), -ENOENT);
    assert_int_equal(rmdir(root), 0);
}

static void names(void **state)
{
    static const char *const bad[] = { "", ".", "..", "a/b", "a b", "\xc3\xa4", "a\n" };
    char longest[257];
    struct err e = { 0 };
    int sig;

    memset(longest, 'a', sizeof(longest) - 1);
    longest[256] = '\0';
    assert_int_equal(oci_state_check_id(longest, &e), -EINVAL);
    longest[255] = '\0';
    assert_int_equal(oci_state_check_id(longest, &e), 0);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(oci_state_check_id(bad[i], &e), -EINVAL);
    assert_true(oci_signal_parse("SIGTERM", &sig, &e) == 0 && sig == SIGTERM);
    assert_true(oci_signal_parse("hup", &sig, &e) == 0 && sig == SIGHUP);
    assert_true(oci_signal_parse("64", &sig, &e) == 0 && sig == 64);
    assert_true(oci_signal_parse("0", &sig, &e) == 0 && sig == 0);
    assert_true(oci_signal_parse("sigcont", &sig, &e) == 0 && sig == SIGCONT);
    assert_int_equal(oci_signal_parse("65", &sig, &e), -EINVAL);
    assert_int_equal(oci_signal_parse("", &sig, &e), -EINVAL);
}

/* ---- command lines ---- */

static void exec_words(void **state)
{
    char *argv[] = { "oci",      "--root", "/r",   "exec", "-e",  "A=1", "--env=B=2",
                     "-t=false", "id",     "prog", "-e",   "C=3", NULL };
    struct oci_args a = { 0 };
    struct err e = { 0 };
    int at = 0;

    assert_int_equal(oci_args_parse(12, argv, &a, &e), 0);
    assert_string_equal(oci_opt_next(&a, OCI_OPT_ENV, &at), "A=1");
    assert_string_equal(oci_opt_next(&a, OCI_OPT_ENV, &at), "B=2");
    assert_null(oci_opt_next(&a, OCI_OPT_ENV, &at)); /* the program's are not ours */
    assert_false(oci_flag(&a, OCI_OPT_TTY));
    assert_int_equal(a.argc, 4);
    assert_string_equal(a.argv[2], "-e");
    oci_args_done(&a);
}

static void wrong_words(void **state)
{
    static const char *const lines[][4] = {
        { "oci", "--root" },     { "oci", "create", "--nothing", "x" }, { "oci", "fly" },
        { "oci", "exec", "-p" }, { "oci", "--bundle", "/x" },           { "oci", "kill", "--keep", "x" }
    };

    for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
        struct oci_args a = { 0 };
        struct err e = { 0 };
        int n = 0;

        while (n < 4 && lines[i][n])
            n++;
        assert_int_equal(oci_args_parse(n, (char **)lines[i], &a, &e), -EINVAL);
        assert_true(e.text[0]);
        oci_args_done(&a);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sync_messages), cmocka_unit_test(sync_reset), cmocka_unit_test(descriptors),
        cmocka_unit_test(socket_paths),  cmocka_unit_test(pid_files),  cmocka_unit_test(state_directory),
        cmocka_unit_test(names),         cmocka_unit_test(exec_words), cmocka_unit_test(wrong_words),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
