/* Removing trees: links are not followed, deep and unreadable ones go too, mounts and errors are told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sys/tree.h"

static char base[64];

static const char *path_of(const char *name)
{
    static char paths[2][256]; /* a call may have two */
    static unsigned which;
    char *path = paths[which++ % 2];

    snprintf(path, sizeof(paths[0]), "%s/%s", base, name);
    return path;
}

static void touch(const char *name)
{
    int fd = open(path_of(name), O_WRONLY | O_CREAT, 0600);

    assert_true(fd >= 0);
    close(fd);
}

static int setup(void **state)
{
    (void)state;
    snprintf(base, sizeof(base), "/tmp/caisson-tree-XXXXXX");
    return mkdtemp(base) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    return rmdir(base); /* nothing is left */
}

static void test_kinds(void **state)
{
    (void)state;
    assert_int_equal(sys_tree_remove(path_of("none")), 0);
    assert_int_equal(sys_tree_remove(path_of("none/below")), 0);
    touch("file");
    assert_int_equal(sys_tree_remove(path_of("file/below")), 0);
    assert_int_equal(sys_tree_remove(path_of("file")), 0);
    assert_int_equal(mkdir(path_of("empty"), 0), 0);
    assert_int_equal(sys_tree_remove(path_of("empty")), 0);
}

static void test_links(void **state)
{
    (void)state;
    assert_int_equal(mkdir(path_of("kept"), 0700), 0);
    touch("kept/file");
    assert_int_equal(mkdir(path_of("tree"), 0700), 0);
    assert_int_equal(mkdir(path_of("tree/sub"), 0700), 0);
    touch("tree/sub/file");
    assert_int_equal(symlink("../../kept", path_of("tree/sub/link")), 0);
    assert_int_equal(symlink("kept", path_of("top")), 0);
    assert_int_equal(link(path_of("kept/file"), path_of("tree/hard")), 0);
    assert_int_equal(mkfifo(path_of("tree/fifo"), 0600), 0);
    assert_int_equal(sys_tree_remove(path_of("tree")), 0);
    assert_int_equal(sys_tree_remove(path_of("top")), 0);
    assert_int_equal(access(path_of("tree"), F_OK), -1);
    assert_int_equal(access(path_of("kept/file"), F_OK), 0);
    assert_int_equal(sys_tree_remove(path_of("kept")), 0);
}

/* Deeper than a path may be long, and than there are descriptors. */
static void test_deep(void **state)
{
    const int depth = 1100;
    int fd;

    (void)state;
    assert_int_equal(mkdir(path_of("deep"), 0700), 0);
    fd = open(path_of("deep"), O_RDONLY | O_DIRECTORY);
    for (int i = 0; i < depth; i++) {
        int next;

        assert_int_equal(mkdirat(fd, "d", i % 7 ? 0700 : 0500), 0);
        if (i % 7 == 0)
            assert_int_equal(fchmodat(fd, "d", 0700, 0), 0);
        assert_true(mkdirat(fd, "side", 0700) == 0);
        next = openat(fd, "d", O_RDONLY | O_DIRECTORY);
        assert_true(next >= 0);
        if (i % 7 == 0)
            assert_int_equal(fchmod(fd, 0), 0);
        close(fd);
        fd = next;
    }
    close(fd);
    assert_int_equal(sys_tree_remove(path_of("deep")), 0);
    assert_int_equal(access(path_of("deep"), F_OK), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_kinds, setup, teardown),
        cmocka_unit_test_setup_teardown(test_links, setup, teardown),
        cmocka_unit_test_setup_teardown(test_deep, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
