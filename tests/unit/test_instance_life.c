/* Making and removing an instance by a process that is killed at each of its system calls: the next command finds it
 * whole or not at all, and no file is left. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "instance/lifecycle.h"
#include "instance/place.h"
#include "killed.h"
#include "proto/vm_spec.h"
#include "state_dir.h"

static int fill(void *opaque, struct store_instance *i, const char *dir, struct err *e)
{
    char path[INST_PATH_MAX + 16];
    int fd;

    (void)e;
    snprintf(path, sizeof(path), "%s/disk", dir);
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    if (fd < 0 || write(fd, "x", 1) != 1)
        return -EIO;
    close(fd);
    i->spec.restart = INST_RESTART_ALWAYS;
    return opaque ? err_set(e, ENOSPC, "no room") : 0;
}

static int make(struct store *s, const char *name, void *opaque, struct err *e)
{
    struct inst_spec spec;
    int r = inst_spec_init(&spec, INST_VM);

    spec.vm->kernel = strdup("/kernel");
    if (r == 0)
        r = inst_create(s, name, &spec, fill, opaque, NULL, e);
    inst_spec_done(&spec);
    return r;
}

static int remove_it(struct store *s, const char *name, struct err *e)
{
    struct store_instance i;
    int r = store_instance_get(s, name, &i, e);

    if (r < 0)
        return r;
    r = inst_remove(s, &i, e);
    store_instance_done(&i);
    return r;
}

static void warn(void *opaque, const char *text)
{
    (void)opaque;
    fail_msg("%s", text);
}

/* Number of entries of STATE/instances. */
static int folders(void)
{
    char path[128];
    struct dirent *entry;
    DIR *dir;
    int n = 0;

    snprintf(path, sizeof(path), "%s/instances", state_dir);
    dir = opendir(path);
    while (dir && (entry = readdir(dir)))
        n += entry->d_name[0] != '.';
    if (dir)
        closedir(dir);
    return n;
}

/* Whether the instance is there, whole; else there is nothing of it. */
static bool is_whole(void)
{
    struct store *s = open_store(STORE_WRITE);
    char dir[INST_PATH_MAX], path[INST_PATH_MAX + 16];
    struct store_instance i;
    struct err e = { 0 };
    bool there;

    assert_int_equal(inst_repair(s, warn, NULL, &e), 0);
    there = store_instance_get(s, "web", &i, &e) == 0;
    assert_int_equal(folders(), there);
    if (there) {
        assert_int_equal(i.status, STORE_INST_CREATED);
        assert_int_equal(i.spec.restart, INST_RESTART_ALWAYS);
        assert_int_equal(inst_dir(i.id, dir, &e), 0);
        snprintf(path, sizeof(path), "%s/disk", dir);
        assert_int_equal(access(path, F_OK), 0);
        store_instance_done(&i);
    }
    store_close(s);
    return there;
}

static void child_make(const void *opaque)
{
    struct store *s = open_store(STORE_WRITE);
    struct err e = { 0 };

    (void)opaque;
    if (make(s, "web", NULL, &e) < 0)
        _exit(1);
    store_close(s);
}

static void child_remove(const void *opaque)
{
    struct store *s = open_store(STORE_WRITE);
    struct err e = { 0 };

    (void)opaque;
    if (remove_it(s, "web", &e) < 0)
        _exit(1);
    store_close(s);
}

static void test_killed(void **state)
{
    unsigned made = 0, kept = 0, tries = 0;
    bool killed = true;

    (void)state;
    if (!killed_possible())
        skip();
    /* The store's own steps are test_store_instance's; here each eleventh instant. */
    for (unsigned n = 1; killed; n += 11, tries++) {
        killed = killed_at(n, child_make, NULL);
        made += is_whole();
        assert_int_equal(state_dir_empty(), 0);
    }
    print_message("killed %u times while it was made: %u times it was whole\n", tries - 1, made - 1);
    assert_true(made > 1 && tries - made > 10);
    killed = true;
    tries = 0;
    for (unsigned n = 1; killed; n += 11, tries++) {
        struct store *s = open_store(STORE_WRITE);
        struct err e = { 0 };

        assert_int_equal(make(s, "web", NULL, &e), 0);
        store_close(s);
        killed = killed_at(n, child_remove, NULL);
        kept += is_whole();
        assert_int_equal(state_dir_empty(), 0);
    }
    print_message("killed %u times while it was removed: %u times it was whole\n", tries - 1, kept);
    assert_true(kept > 1 && tries - kept > 3);
}

static void test_failed(void **state)
{
    struct store *s = open_store(STORE_WRITE);
    struct store_instance i;
    struct err e = { 0 };

    (void)state;
    assert_int_equal(make(s, "web", s, &e), -ENOSPC);
    assert_string_equal(e.text, "no room");
    assert_int_equal(store_instance_get(s, "web", &i, &e), -ENOENT);
    assert_int_equal(folders(), 0);
    assert_int_equal(make(s, "web", NULL, &e), 0);
    assert_int_equal(make(s, "web", NULL, &e), -EEXIST);
    assert_int_equal(folders(), 1);
    assert_int_equal(remove_it(s, "web", &e), 0);
    assert_int_equal(folders(), 0);
    store_close(s);
}

/* A run that a crash of the machine ended. */
static void test_repair(void **state)
{
    struct store *s = open_store(STORE_WRITE);
    struct store_instance i;
    struct err e = { 0 };

    (void)state;
    assert_int_equal(make(s, "web", NULL, &e), 0);
    assert_int_equal(store_instance_get(s, "web", &i, &e), 0);
    i.status = STORE_INST_RUNNING;
    i.wanted = true;
    assert_int_equal(store_instance_set(s, &i, "start", &e), 0);
    store_instance_done(&i);
    assert_int_equal(inst_repair(s, warn, NULL, &e), 0);
    assert_int_equal(store_instance_get(s, "web", &i, &e), 0);
    assert_int_equal(i.status, STORE_INST_EXITED);
    assert_int_equal(i.exit_code, 137);
    assert_true(i.wanted);
    assert_true(i.ended_ns > 0);
    store_instance_done(&i);
    store_close(s);
}

/* Whoever works on one may take his time; nobody else waits for him. */
static void test_repair_meanwhile(void **state)
{
    struct sys_place place = { .lock = -1, .socket = -1 };
    struct store *s = open_store(STORE_WRITE);
    struct store_instance i;
    struct err e = { 0 };

    (void)state;
    assert_int_equal(make(s, "web", NULL, &e), 0);
    assert_int_equal(store_instance_get(s, "web", &i, &e), 0);
    i.status = STORE_INST_CREATING;
    assert_int_equal(store_instance_set(s, &i, NULL, &e), 0);
    assert_int_equal(inst_try_lock(i.id, &place, &e), 0);
    assert_int_equal(inst_repair(s, warn, NULL, &e), 0);
    assert_int_equal(folders(), 1);
    sys_place_leave(&place);
    assert_int_equal(inst_repair(s, warn, NULL, &e), 0);
    assert_int_equal(folders(), 0);
    store_instance_done(&i);
    store_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_failed, state_dir_setup, state_dir_teardown),
        cmocka_unit_test_setup_teardown(test_repair, state_dir_setup, state_dir_teardown),
        cmocka_unit_test_setup_teardown(test_repair_meanwhile, state_dir_setup, state_dir_teardown),
        cmocka_unit_test_setup_teardown(test_killed, state_dir_setup, state_dir_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
