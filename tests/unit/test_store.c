/* The state database: what is stored, refused and kept; several processes at once; foreign, damaged, locked and newer
 * databases; and a process that is killed at each of its system calls in turn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fast_dir.h"
#include "killed.h"
#include "store/network.h"

static char dir[64];

static void path_of(const char *file, char ret_path[128])
{
    snprintf(ret_path, 128, "%s/%s", dir, file);
}

static int setup(void **state)
{
    (void)state;
    if (!fast_dir_make(dir, "store"))
        return -1;
    return setenv("CAISSON_STATE_DIR", dir, 1);
}

static void forget(void)
{
    static const char *const files[] = { "state.db", "state.db-wal", "state.db-shm", "state.db-journal" };
    char path[128];

    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        path_of(files[i], path);
        unlink(path);
    }
}

static int teardown(void **state)
{
    (void)state;
    forget();
    return rmdir(dir);
}

static struct store *open_store(enum store_access access)
{
    struct store *s = NULL;
    struct err e = { 0 };

    if (store_open(access, &s, &e) < 0)
        fail_msg("store_open: %s", e.text);
    return s;
}

static struct net_spec spec_of(const char *name, const char *subnet, const char *subnet6)
{
    struct net_spec n;
    struct err e = { 0 };

    net_spec_init(&n, name);
    if (subnet)
        assert_int_equal(addr_subnet4_parse(subnet, &n.subnet), 0);
    else
        n.dhcp = n.dns = false, n.mode = NET_SPEC_ISOLATED;
    if (subnet6)
        assert_int_equal(addr_subnet6_parse(subnet6, &n.subnet6), 0);
    if (net_spec_complete(&n, &e) < 0)
        fail_msg("%s", e.text);
    return n;
}

static int append_name(void *opaque, const struct store_network *n)
{
    snprintf((char *)opaque + strlen(opaque), 256 - strlen(opaque), "%s ", n->spec.name);
    return 0;
}

static void assert_names(struct store *s, const char *want)
{
    char names[256] = "";
    struct err e = { 0 };

    if (store_network_each(s, append_name, names, &e) != 0)
        fail_msg("%s", e.text);
    assert_string_equal(names, want);
}

static void test_networks(void **state)
{
    struct net_spec web = spec_of("web", "10.188.1.0/24", "fd00:1::/64"), app = spec_of("app", NULL, NULL);
    struct store_network n;
    struct store *s;
    struct err e = { 0 };
    struct stat st;
    char path[128], *want = NULL, *got = NULL;

    (void)state;
    s = open_store(STORE_READ); /* makes nothing */
    path_of("state.db", path);
    assert_int_equal(access(path, F_OK), -1);
    assert_names(s, "default ");
    assert_int_equal(store_network_get(s, "default", &n, &e), 0);
    assert_int_equal(n.created_ns, 0);
    store_close(s);

    s = open_store(STORE_WRITE);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(store_network_add(s, &web, &e), 0);
    assert_int_equal(store_network_add(s, &app, &e), 0);
    assert_int_equal(store_network_add(s, &app, &e), -EEXIST);
    assert_non_null(strstr(e.text, "caisson network rm app"));
    store_close(s);

    s = open_store(STORE_READ);
    assert_names(s, "app default web ");
    assert_int_equal(store_network_get(s, "web", &n, &e), 0);
    assert_int_equal(net_spec_to_json(&web, &want), 0);
    assert_int_equal(net_spec_to_json(&n.spec, &got), 0);
    assert_string_equal(got, want);
    free(want);
    free(got);
    assert_true(n.created_ns > 1600000000LL * 1000000000);
    assert_int_equal(store_network_get(s, "wen", &n, &e), -ENOENT);
    assert_non_null(strstr(e.text, "did you mean 'web'?"));
    assert_int_equal(store_network_get(s, "elsewhere", &n, &e), -ENOENT);
    assert_non_null(strstr(e.text, "caisson network ls"));
    store_close(s);

    s = open_store(STORE_WRITE);
    assert_int_equal(store_network_remove(s, "wb", &e), -ENOENT);
    assert_int_equal(store_network_remove(s, "web", &e), 0);
    assert_names(s, "app default ");
    store_close(s);
}

static void test_default(void **state)
{
    struct net_spec other = spec_of("default", "10.188.0.0/16", NULL), wide = spec_of("wide", "10.188.0.0/16", NULL);
    struct store *s = open_store(STORE_WRITE);
    struct store_network n;
    struct err e = { 0 };

    (void)state;
    assert_int_equal(store_network_remove(s, "default", &e), -EBUSY);
    assert_int_equal(store_network_add(s, &wide, &e), -EADDRINUSE);
    assert_non_null(strstr(e.text, "overlaps 10.188.0.0/24 of network default"));
    assert_int_equal(store_network_add(s, &other, &e), 0); /* takes the place of the built-in one */
    assert_names(s, "default ");
    assert_int_equal(store_network_get(s, "default", &n, &e), 0);
    assert_int_equal(n.spec.subnet.prefix, 16);
    assert_int_equal(store_network_remove(s, "default", &e), 0);
    assert_int_equal(store_network_get(s, "default", &n, &e), 0);
    assert_int_equal(n.spec.subnet.prefix, 24);
    store_close(s);
}

static void test_subnets(void **state)
{
    struct net_spec a = spec_of("a", "10.188.1.0/24", "fd00:1::/64"), b = spec_of("b", "10.188.1.128/25", NULL),
                    c = spec_of("c", "10.188.9.0/24", "fd00:1::/64");
    struct addr_subnet4 host[2], all = { .addr = 10U << 24, .prefix = 8 }, picked;
    struct store *s = open_store(STORE_WRITE);
    struct err e = { 0 };

    (void)state;
    assert_int_equal(store_network_add(s, &a, &e), 0);
    assert_int_equal(store_network_add(s, &b, &e), -EADDRINUSE);
    assert_non_null(strstr(e.text, "10.188.1.128/25 overlaps 10.188.1.0/24 of network a"));
    assert_int_equal(store_network_add(s, &c, &e), -EADDRINUSE);
    assert_non_null(strstr(e.text, "fd00:1::/64 of network a"));
    assert_int_equal(addr_subnet4_parse("10.188.2.0/23", &host[0]), 0);
    assert_int_equal(addr_subnet4_parse("10.188.4.8/29", &host[1]), 0);
    assert_int_equal(store_network_pick_subnet(s, host, 2, &picked, &e), 0);
    assert_int_equal(picked.addr, 0x0abc0500);
    assert_int_equal(store_network_pick_subnet(s, &all, 1, &picked, &e), -EADDRINUSE);
    store_close(s);
}

static void test_transaction(void **state)
{
    struct net_spec a = spec_of("a", "10.188.1.0/24", NULL), b = spec_of("b", "10.188.2.0/24", NULL);
    struct store *s = open_store(STORE_WRITE), *reader;
    struct err e = { 0 };

    (void)state;
    assert_int_equal(store_begin(s, &e), 0);
    assert_int_equal(store_network_add(s, &a, &e), 0);
    reader = open_store(STORE_READ); /* neither waits nor sees it */
    assert_names(reader, "default ");
    assert_int_equal(store_network_add(reader, &b, &e), -EBUSY);
    assert_non_null(strstr(e.text, "locked by another process"));
    store_rollback(s);
    assert_names(s, "default ");
    assert_int_equal(store_begin(s, &e), 0);
    assert_int_equal(store_network_add(s, &a, &e), 0);
    assert_int_equal(store_network_add(s, &a, &e), -EEXIST);
    assert_int_equal(store_network_add(s, &b, &e), 0);
    assert_int_equal(store_commit(s, &e), 0);
    assert_names(reader, "a b default ");
    store_close(reader);
    store_close(s);
}

/* Run sql with the library itself. */
static void raw_sql(const char *sql)
{
    sqlite3 *db;
    char path[128];

    path_of("state.db", path);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static void assert_refused(int error, const char *why)
{
    struct store *s;
    struct err e = { 0 };

    assert_int_equal(store_open(STORE_WRITE, &s, &e), error);
    if (!strstr(e.text, why))
        fail_msg("'%s' does not say '%s'", e.text, why);
}

static void test_foreign(void **state)
{
    char path[128], elsewhere[128];
    int fd;

    (void)state;
    store_close(open_store(STORE_WRITE));
    raw_sql("PRAGMA user_version = 1000");
    assert_refused(-EPROTO, "use the newer Caisson");
    forget();
    raw_sql("CREATE TABLE t (x); PRAGMA user_version = 1");
    assert_refused(-EPROTO, "is not a state database");
    forget();
    path_of("state.db", path);
    fd = open(path, O_WRONLY | O_CREAT, 0600);
    for (int i = 0; i < 1024; i++)
        assert_int_equal(write(fd, "garbage!", 8), 8);
    close(fd);
    assert_refused(-EIO, "is damaged");
    forget();
    path_of("state.db-journal", elsewhere);
    assert_int_equal(symlink(elsewhere, path), 0);
    assert_refused(-ELOOP, "cannot open");
}

static void test_damaged(void **state)
{
    struct net_spec a = spec_of("a", "10.188.1.0/24", NULL);
    struct store *s = open_store(STORE_WRITE);
    struct store_network n;
    struct err e = { 0 };
    char path[128], page[4096];
    int fd;

    (void)state;
    assert_int_equal(store_network_add(s, &a, &e), 0);
    store_close(s);
    raw_sql("UPDATE networks SET spec = replace(spec, '\"mtu\":1500', '\"mtu\":5')");
    s = open_store(STORE_READ);
    assert_int_equal(store_network_get(s, "a", &n, &e), -EIO);
    assert_non_null(strstr(e.text, "network a"));
    store_close(s);
    raw_sql("UPDATE networks SET spec = replace(spec, '\"mtu\":5', '\"mtu\":1500'), name = 'b'");
    s = open_store(STORE_READ);
    assert_int_equal(store_network_get(s, "b", &n, &e), -EIO);
    assert_non_null(strstr(e.text, "under another name"));
    store_close(s);
    memset(page, 0xa5, sizeof(page));
    path_of("state.db", path);
    fd = open(path, O_WRONLY);
    for (int i = 1; i < 4; i++)
        assert_int_equal(pwrite(fd, page, sizeof(page), i * 4096), 4096);
    close(fd);
    s = open_store(STORE_READ);
    assert_int_equal(store_network_get(s, "b", &n, &e), -EIO);
    assert_non_null(strstr(e.text, "is damaged"));
    store_close(s);
}

/* Directories that are not ours alone. */
static void test_permissions(void **state)
{
    struct store *s;
    struct err e = { 0 };

    (void)state;
    assert_int_equal(chmod(dir, 0777), 0);
    assert_refused(-EPERM, "writable by nobody else");
    assert_int_equal(chmod(dir, 0500), 0);
    if (geteuid() != 0)
        assert_refused(-EACCES, "set CAISSON_STATE_DIR to another place");
    assert_int_equal(chmod(dir, 0700), 0);
    setenv("CAISSON_STATE_DIR", "/proc/caisson", 1);
    assert_int_equal(store_open(STORE_WRITE, &s, &e), -ENOENT);
    assert_non_null(strstr(e.text, "cannot make state directory /proc/caisson"));
    setenv("CAISSON_STATE_DIR", dir, 1);
}

/* Processes that start on nothing at the same instant. */
static void test_many(void **state)
{
    enum { PROCESSES = 8, EACH = 8 };
    struct store *s;
    struct err e = { 0 };
    int go[2], status, count = 0;
    char byte;

    (void)state;
    assert_int_equal(pipe(go), 0);
    for (int p = 0; p < PROCESSES; p++) {
        if (fork() != 0)
            continue;
        close(go[1]);
        if (read(go[0], &byte, 1) != 0)
            _exit(3);
        for (int i = 0; i < EACH; i++) {
            struct net_spec n;
            char name[16];

            snprintf(name, sizeof(name), "n-%d-%d", p, i);
            net_spec_init(&n, name);
            if (store_open(STORE_WRITE, &s, &e) < 0 || store_begin(s, &e) < 0 ||
                store_network_pick_subnet(s, NULL, 0, &n.subnet, &e) < 0 || net_spec_complete(&n, &e) < 0 ||
                store_network_add(s, &n, &e) < 0 || store_commit(s, &e) < 0) {
                fprintf(stderr, "%s: %s\n", name, e.text);
                _exit(1);
            }
            store_close(s);
        }
        _exit(0);
    }
    close(go[0]);
    close(go[1]);
    for (int p = 0; p < PROCESSES; p++) {
        assert_true(wait(&status) > 0);
        assert_int_equal(status, 0);
    }
    s = open_store(STORE_READ);
    for (int p = 0; p < PROCESSES; p++) {
        for (int i = 0; i < EACH; i++) {
            struct store_network n;
            char name[16];

            snprintf(name, sizeof(name), "n-%d-%d", p, i);
            count += store_network_get(s, name, &n, &e) == 0;
        }
    }
    assert_int_equal(count, PROCESSES * EACH);
    store_close(s);
}

/* ---- killed at each system call ---- */

/* What the process does: from nothing to one network, or from {a} to {b}. */
static void crash_child(const void *opaque)
{
    const bool fresh = *(const bool *)opaque;
    struct net_spec b = spec_of("b", "10.188.1.0/24", NULL);
    struct store *s;
    struct err e = { 0 };

    if (store_open(STORE_WRITE, &s, &e) < 0 || store_begin(s, &e) < 0 ||
        (!fresh && store_network_remove(s, "a", &e) < 0) || store_network_add(s, &b, &e) < 0 || store_commit(s, &e) < 0)
        _exit(1);
    store_close(s);
    _exit(0);
}

static void crash_series(bool fresh)
{
    struct net_spec a = spec_of("a", "10.188.1.0/24", NULL);
    unsigned old = 0, new = 0;
    bool killed = true;

    for (unsigned n = 1; killed; n++) {
        struct store *s;
        struct err e = { 0 };
        struct store_network found;
        bool has_b;

        forget();
        if (!fresh) {
            s = open_store(STORE_WRITE);
            assert_int_equal(store_network_add(s, &a, &e), 0);
            store_close(s);
        }
        killed = killed_at(n, crash_child, &fresh);
        s = open_store(STORE_WRITE);
        has_b = store_network_get(s, "b", &found, &e) == 0;
        assert_names(s, has_b ? "b default " : fresh ? "default " : "a default ");
        old += !has_b;
        new += has_b;
        assert_int_equal(store_network_remove(s, has_b ? "b" : "none-such", &e), has_b ? 0 : -ENOENT);
        store_close(s);
    }
    print_message("killed %u times: %u with the old state, %u with the new one\n", old + new - 1, old, new);
    assert_true(old > 20 && new > 1);
}

static void test_killed(void **state)
{
    (void)state;
    if (!killed_possible())
        skip();
    crash_series(true);
    forget();
    crash_series(false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_networks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_default, setup, teardown),
        cmocka_unit_test_setup_teardown(test_subnets, setup, teardown),
        cmocka_unit_test_setup_teardown(test_transaction, setup, teardown),
        cmocka_unit_test_setup_teardown(test_foreign, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damaged, setup, teardown),
        cmocka_unit_test_setup_teardown(test_permissions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many, setup, teardown),
        cmocka_unit_test_setup_teardown(test_killed, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
