/* Intel RDT on a directory that looks like resctrl: few machines have the real one. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "oci/rdt.h"
#include "oci_rig.h"

static char dir[32];
static int root = -1;

static void put(const char *path, const char *text)
{
    AUTO_FD int fd = openat(root, path, O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0600);

    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

static const char *get(const char *path)
{
    static char text[512];
    AUTO_FD int fd = openat(root, path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

    text[n < 0 ? 0 : n] = '\0';
    return text;
}

/* A group with the files that the kernel would put there. */
static void group(const char *name, const char *schemata)
{
    char path[300];

    if (strcmp(name, ".") != 0)
        assert_int_equal(mkdirat(root, name, 0700), 0);
    snprintf(path, sizeof(path), "%s/schemata", name);
    put(path, schemata);
    snprintf(path, sizeof(path), "%s/tasks", name);
    put(path, "");
    snprintf(path, sizeof(path), "%s/mon_groups", name);
    mkdirat(root, path, 0700);
}

static int setup(void **state)
{
    strcpy(dir, "/tmp/oci-rdt-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    root = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    group(".", "");
    return root < 0;
}

static int teardown(void **state)
{
    char command[64];

    close(root);
    snprintf(command, sizeof(command), "rm -r %s", dir);
    return system(command);
}

static void test_existing(void **state)
{
    struct oci_rdt r = { .present = true, .clos_id = "gold" };
    struct err e = { 0 };

    assert_int_equal(oci_rdt_apply_at(root, &r, "box", 42, &e), -ENOENT);
    assert_non_null(strstr(e.text, "gold"));
    group("gold", "    L3:0=7f0;1=1f\n    MB:0=20;1=70\n");
    assert_int_equal(oci_rdt_apply_at(root, &r, "box", 42, &e), 0);
    assert_string_equal(get("gold/tasks"), "42");
    r.l3_cache_schema = "L3:0=7f0;1=1f";
    r.mem_bw_schema = "MB:0=20;1=70";
    assert_int_equal(oci_rdt_apply_at(root, &r, "box", 43, &e), 0);
    assert_string_equal(get("gold/tasks"), "43");
    r.mem_bw_schema = "MB:0=20;1=7";
    assert_int_equal(oci_rdt_apply_at(root, &r, "box", 44, &e), -EEXIST);
    assert_string_equal(get("gold/tasks"), "43");
    assert_string_equal(get("gold/schemata"), "    L3:0=7f0;1=1f\n    MB:0=20;1=70\n");
    /* it is not ours: it stays */
    assert_int_equal(oci_rdt_remove_at(root, &r, "box", &e), 0);
    assert_int_equal(faccessat(root, "gold/tasks", F_OK, 0), 0);
}

static void test_default_group(void **state)
{
    struct oci_rdt r = { .present = true, .clos_id = "/" };
    struct err e = { 0 };

    assert_int_equal(oci_rdt_apply_at(root, &r, "box", 7, &e), 0);
    assert_string_equal(get("tasks"), "7");
    assert_int_equal(oci_rdt_remove_at(root, &r, "box", &e), 0);
}

/* A directory that is made has no files here: the kernel's are missing, and what was made is taken away again. */
static void test_made(void **state)
{
    struct oci_rdt r = { .present = true, .l3_cache_schema = "L3:0=f" };
    struct err e = { 0 };

    assert_int_equal(oci_rdt_apply_at(root, &r, "box", 7, &e), -ENOENT);
    assert_int_equal(faccessat(root, "box", F_OK, 0), -1);
    /* left over from an earlier try of the same container */
    group("box", "L3:0=f\n");
    assert_int_equal(oci_rdt_apply_at(root, &r, "box", 8, &e), 0);
    assert_string_equal(get("box/tasks"), "8");
}

static void test_remove(void **state)
{
    struct oci_rdt r = { .present = true };
    struct oci_rdt watched = { .present = true, .clos_id = "gold", .enable_cmt = true };
    struct err e = { 0 };

    assert_int_equal(mkdirat(root, "box", 0700), 0);
    assert_int_equal(oci_rdt_remove_at(root, &r, "box", &e), 0);
    assert_int_equal(faccessat(root, "box", F_OK, 0), -1);
    assert_int_equal(oci_rdt_remove_at(root, &r, "box", &e), 0);
    group("gold", "");
    assert_int_equal(mkdirat(root, "gold/mon_groups/box", 0700), 0);
    put("gold/mon_groups/box/tasks", "");
    assert_int_equal(oci_rdt_apply_at(root, &watched, "box", 9, &e), 0);
    assert_string_equal(get("gold/mon_groups/box/tasks"), "9");
    assert_int_equal(unlinkat(root, "gold/mon_groups/box/tasks", 0), 0);
    assert_int_equal(oci_rdt_remove_at(root, &watched, "box", &e), 0);
    assert_int_equal(faccessat(root, "gold/mon_groups/box", F_OK, 0), -1);
}

/* Names that lead elsewhere, schemata of two lines. */
static void test_refused(void **state)
{
    static const char *const names[] = { "..", "../x", "a/b", "info", "mon_groups", "mon_data" };
    struct oci_rdt two = { .present = true, .l3_cache_schema = "L3:0=f\nMB:0=1" };
    struct err e = { 0 };

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        struct oci_rdt r = { .present = true, .clos_id = names[i], .l3_cache_schema = "L3:0=f" };

        assert_int_equal(oci_rdt_apply_at(root, &r, "box", 7, &e), -EINVAL);
    }
    assert_int_equal(oci_rdt_apply_at(root, &two, "box", 7, &e), -EINVAL);
    assert_int_equal(faccessat(root, "box", F_OK, 0), -1);
    assert_int_equal(symlinkat("/tmp", root, "link"), 0);
    assert_true(oci_rdt_apply_at(root, &(struct oci_rdt){ .present = true, .clos_id = "link" }, "box", 7, &e) < 0);
}

static void test_not_mounted(void **state)
{
    const struct oci_rdt r = { .present = true };
    struct err e = { 0 };

    if (access(OCI_RDT_ROOT "/schemata", F_OK) == 0) {
        print_message("this machine has a resctrl, which is not ours to change\n");
        skip();
    }
    assert_int_equal(oci_rdt_apply(&r, "box", 7, &e), -ENOTSUP);
    assert_non_null(strstr(e.text, OCI_RDT_ROOT));
    assert_int_equal(oci_rdt_remove(&r, "box", &e), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_existing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_default_group, setup, teardown),
        cmocka_unit_test_setup_teardown(test_made, setup, teardown),
        cmocka_unit_test_setup_teardown(test_remove, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
        cmocka_unit_test(test_not_mounted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
