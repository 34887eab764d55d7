/* A name has one process: locks, sockets of dead processes, and places that are left while others want them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "sys/place.h"

static char dir[64];

static int setup(void **state)
{
    char base[] = "/tmp/caisson-place-XXXXXX";

    (void)state;
    if (!mkdtemp(base))
        return -1;
    snprintf(dir, sizeof(dir), "%s/vm", base);
    return 0;
}

static int teardown(void **state)
{
    char *slash = strrchr(dir, '/');
    int r = rmdir(dir); /* nothing is left in it */

    (void)state;
    *slash = '\0';
    return r < 0 ? r : rmdir(dir);
}

static int connect_to(const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int sock = socket(AF_UNIX, SOCK_SEQPACKET, 0);

    memcpy(addr.sun_path, path, strlen(path) + 1);
    if (connect(sock, (struct sockaddr *)&addr, sizeof(addr)) == 0)
        return sock;
    close(sock);
    return -1;
}

static void test_one(void **state)
{
    struct sys_place a, b;
    enum sys_place_step step;
    struct stat st;
    int sock, other;

    (void)state;
    assert_int_equal(sys_place_take(dir, "web", &a, &step), 0);
    assert_int_equal(stat(dir, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_int_equal(sys_place_take(dir, "web", &b, &step), -EBUSY);
    assert_int_equal(step, SYS_PLACE_LOCK);
    sys_place_leave(&b); /* takes nothing away from a */
    sock = connect_to(a.socket_path);
    assert_true(sock >= 0);
    other = sys_place_accept(&a);
    assert_true(other >= 0);
    assert_int_equal(sys_place_accept(&a), -EAGAIN);
    close(sock);
    close(other);
    assert_int_equal(sys_place_take(dir, "other", &b, &step), 0);
    sys_place_leave(&b);
    sys_place_leave(&a);
    assert_int_equal(sys_place_take(dir, "web", &a, &step), 0);
    sys_place_leave(&a);
}

static void test_dead(void **state)
{
    struct sys_place p;
    enum sys_place_step step;
    int ready[2], status;
    char byte;
    pid_t pid;

    (void)state;
    assert_int_equal(pipe(ready), 0);
    pid = fork();
    if (pid == 0) {
        if (sys_place_take(dir, "web", &p, &step) == 0 && write(ready[1], "x", 1) == 1)
            pause();
        _exit(1);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(sys_place_take(dir, "web", &p, &step), -EBUSY);
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(sys_place_take(dir, "web", &p, &step), 0);
    assert_true(p.socket >= 0);
    sys_place_leave(&p);
    close(ready[0]);
    close(ready[1]);
}

static bool is_kept(void *opaque, const char *name)
{
    (void)opaque;
    return strcmp(name, "kept") == 0;
}

/* Locks and sockets of the dead go, those of the living and of names that are kept stay. */
static void test_sweep(void **state)
{
    static const char *const names[] = { "dead", "kept" };
    struct sys_place alive;
    enum sys_place_step step;
    char path[SYS_PLACE_PATH_MAX];
    int status;

    (void)state;
    assert_int_equal(sys_place_take(dir, "alive", &alive, &step), 0);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        pid_t pid = fork();
        struct sys_place p;

        if (pid == 0)
            _exit(sys_place_take(dir, names[i], &p, &step) != 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
    }
    sys_place_sweep(dir, is_kept, NULL);
    for (int i = 0; i < 6; i++) {
        snprintf(path, sizeof(path), "%s/%s.%s", dir, i < 4 ? names[i / 2] : "alive", i % 2 ? "lock" : "sock");
        assert_int_equal(access(path, F_OK), i < 2 ? -1 : 0);
    }
    sys_place_sweep(dir, NULL, NULL);
    snprintf(path, sizeof(path), "%s/kept.sock", dir);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(access(alive.socket_path, F_OK), 0);
    sys_place_leave(&alive);
    sys_place_sweep("/nonexistent", NULL, NULL);
}

/* Several processes take and leave the place in a row: there are never two. */
static void test_race(void **state)
{
    char flag[80];

    (void)state;
    snprintf(flag, sizeof(flag), "%s.flag", dir);
    for (unsigned i = 0; i < 4; i++) {
        if (fork() != 0)
            continue;
        for (unsigned k = 0; k < 300; k++) {
            struct sys_place p;
            enum sys_place_step step;

            if (sys_place_take(dir, "web", &p, &step) == 0) {
                if (mkdir(flag, 0700) < 0) /* somebody else is there */
                    _exit(1);
                rmdir(flag);
            } else if (step != SYS_PLACE_LOCK) {
                _exit(2);
            }
            sys_place_leave(&p);
        }
        _exit(0);
    }
    for (unsigned i = 0; i < 4; i++) {
        int status;

        assert_true(wait(&status) > 0);
        assert_int_equal(status, 0);
    }
}

static void test_bad(void **state)
{
    char name[200], link[100];
    struct sys_place p;
    enum sys_place_step step;

    (void)state;
    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    assert_int_equal(sys_place_take(dir, name, &p, &step), -ENAMETOOLONG);
    assert_int_equal(step, SYS_PLACE_NAME);
    sys_place_leave(&p);
    assert_int_equal(sys_place_take("/proc/none", "web", &p, &step), -ENOENT);
    assert_int_equal(step, SYS_PLACE_DIR);
    sys_place_leave(&p);
    snprintf(link, sizeof(link), "%s/web.lock", dir);
    assert_int_equal(symlink("/dev/null", link), 0);
    assert_int_equal(sys_place_take(dir, "web", &p, &step), -ELOOP);
    assert_int_equal(step, SYS_PLACE_LOCK);
    sys_place_leave(&p);
    assert_int_equal(unlink(link), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one),  cmocka_unit_test(test_dead), cmocka_unit_test(test_sweep),
        cmocka_unit_test(test_race), cmocka_unit_test(test_bad),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
