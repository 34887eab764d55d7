/* Instances, events and jobs in the state database: what is stored, found, refused and kept, and a process that is
 * killed at each of its system calls in turn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <sqlite3.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "killed.h"
#include "state_dir.h"
#include "store/event.h"
#include "store/instance.h"
#include "store/job.h"

static struct inst_spec spec_of(const char *command)
{
    struct inst_spec s;

    assert_int_equal(inst_spec_init(&s, INST_CONTAINER), 0);
    assert_int_equal(inst_strings_add(&s.container.args, command), 0);
    return s;
}

static int add(struct store *s, const char *name, struct store_instance *ret, struct err *e)
{
    struct inst_spec spec = spec_of("true");
    int r = store_instance_add(s, name, &spec, ret, e);

    inst_spec_done(&spec);
    return r;
}

static int collect(void *opaque, const struct store_instance *i)
{
    strcat(opaque, i->name);
    strcat(opaque, " ");
    return 0;
}

static int collect_events(void *opaque, const struct store_event *event)
{
    strcat(opaque, event->action);
    strcat(opaque, " ");
    return 0;
}

static int count_events(void *opaque, const struct store_event *event)
{
    (void)event;
    ++*(int *)opaque;
    return 0;
}

static void assert_names(struct store *s, const char *want)
{
    char names[1024] = "";
    struct err e = { 0 };

    assert_int_equal(store_instance_each(s, collect, names, &e), 0);
    assert_string_equal(names, want);
}

static void assert_events(struct store *s, const char *want)
{
    char actions[1024] = "";
    struct err e = { 0 };

    assert_int_equal(store_event_each(s, 0, collect_events, actions, &e), 0);
    assert_string_equal(actions, want);
}

static void test_instances(void **state)
{
    struct store *s = open_store(STORE_WRITE);
    struct store_instance i, j;
    struct err e = { 0 };
    char prefix[8];

    (void)state;
    assert_int_equal(add(s, "web", &i, &e), 0);
    assert_int_equal(strlen(i.id), INST_ID_LEN);
    assert_int_equal(i.status, STORE_INST_CREATED);
    assert_int_equal(add(s, "web", NULL, &e), -EEXIST);
    assert_non_null(strstr(e.text, "caisson rm web"));
    assert_int_equal(add(s, "-x", NULL, &e), -EINVAL);
    assert_int_equal(add(s, "", &j, &e), 0);
    assert_non_null(strchr(j.name, '-'));
    store_instance_done(&j);
    snprintf(prefix, sizeof(prefix), "%.6s", i.id);
    assert_int_equal(store_instance_get(s, prefix, &j, &e), 0);
    assert_string_equal(j.id, i.id);
    store_instance_done(&j);
    assert_int_equal(store_instance_get(s, "wbe", &j, &e), -ENOENT);
    assert_non_null(strstr(e.text, "did you mean 'web'"));
    assert_int_equal(store_instance_get(s, "f", &j, &e), -ENOENT); /* one digit is no prefix */
    i.status = STORE_INST_EXITED;
    i.exit_code = 3;
    i.wanted = i.oom_killed = true;
    i.restarts = 4;
    i.ended_ns = 5;
    snprintf(i.error, sizeof(i.error), "it's \"broken\"");
    assert_int_equal(store_instance_set(s, &i, "die", &e), 0);
    assert_int_equal(store_instance_get(s, "web", &j, &e), 0);
    assert_int_equal(j.status, STORE_INST_EXITED);
    assert_int_equal(j.exit_code, 3);
    assert_true(j.wanted && j.oom_killed);
    assert_int_equal(j.restarts, 4);
    assert_string_equal(j.error, i.error);
    store_instance_done(&j);
    assert_int_equal(store_instance_rename(s, i.id, "www", &e), 0);
    assert_int_equal(store_instance_remove(s, &i, &e), 0);
    assert_int_equal(store_instance_set(s, &i, "die", &e), -ENOENT);
    assert_int_equal(store_instance_remove(s, &i, &e), -ENOENT);
    assert_events(s, "create create die rename remove ");
    store_instance_done(&i);
    store_close(s);
}

static void test_ambiguous(void **state)
{
    struct store *s = open_store(STORE_WRITE);
    struct err e = { 0 };
    struct store_instance i;
    char digits[3];
    bool ambiguous = false;

    (void)state;
    for (int n = 0; n < 100; n++)
        assert_int_equal(add(s, "", NULL, &e), 0);
    for (int n = 0; n < 256; n++) {
        int r;

        snprintf(digits, sizeof(digits), "%02x", (unsigned)n);
        r = store_instance_get(s, digits, &i, &e);
        ambiguous = ambiguous || r == -ENOTUNIQ;
        if (r == 0)
            store_instance_done(&i);
        else
            assert_true(r == -ENOTUNIQ || r == -ENOENT);
    }
    assert_true(ambiguous); /* 100 of 256 are without a pair once in 2^28 times */
    store_close(s);
}

static void test_update(void **state)
{
    struct store *s = open_store(STORE_WRITE);
    struct inst_spec spec = spec_of("false");
    struct store_instance i, j;
    struct err e = { 0 };

    (void)state;
    assert_int_equal(store_instance_begin(s, "web", &spec, &i, &e), 0);
    assert_int_equal(i.status, STORE_INST_CREATING);
    assert_events(s, "");
    assert_int_equal(inst_strings_add(&i.spec.container.args, "more"), 0);
    i.status = STORE_INST_CREATED;
    assert_int_equal(store_instance_finish(s, &i, &e), 0);
    assert_int_equal(store_instance_get(s, "web", &j, &e), 0);
    assert_int_equal(j.spec.container.args.n, 2);
    assert_int_equal(j.status, STORE_INST_CREATED);
    store_instance_done(&j);
    spec.log_files = 0;
    assert_int_equal(store_instance_update(s, i.id, &spec, &e), -EINVAL);
    spec.log_files = 9;
    assert_int_equal(store_instance_update(s, i.id, &spec, &e), 0);
    assert_int_equal(store_instance_get(s, "web", &j, &e), 0);
    assert_int_equal(j.spec.log_files, 9);
    store_instance_done(&j);
    /* What was never finished goes without a word. */
    store_instance_done(&i);
    assert_int_equal(store_instance_begin(s, "half", &spec, &i, &e), 0);
    assert_int_equal(store_instance_remove(s, &i, &e), 0);
    assert_events(s, "create update ");
    store_instance_done(&i);
    inst_spec_done(&spec);
    store_close(s);
}

static void raw_sql(struct store *s, const char *sql)
{
    char path[256];
    sqlite3 *db;

    snprintf(path, sizeof(path), "%s", store_path(s));
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static void test_damaged(void **state)
{
    static const char *const damages[] = {
        "UPDATE instances SET status = 'flying'",
        "UPDATE instances SET id = 'x'",
        "UPDATE instances SET name = '../etc'",
        "UPDATE instances SET spec = '{}'",
        "UPDATE instances SET spec = replace(spec, '\"files\":3', '\"files\":0')",
    };
    struct store_instance i;
    struct err e = { 0 };

    (void)state;
    for (size_t n = 0; n < ARRAY_SIZE(damages); n++) {
        struct store *s = open_store(STORE_WRITE);
        char names[64] = "";

        assert_int_equal(add(s, "web", &i, &e), 0);
        raw_sql(s, damages[n]);
        assert_int_equal(store_instance_each(s, collect, names, &e), -EIO);
        assert_non_null(strstr(e.text, "state database"));
        store_instance_done(&i);
        store_close(s);
        assert_int_equal(state_dir_empty(), 0);
    }
}

static void test_events(void **state)
{
    struct store *s = open_store(STORE_WRITE);
    struct store_event event = { .object = "image", .id = "sha256:1", .name = "n", .action = "pull" };
    char actions[64] = "";
    struct err e = { 0 };
    int count;

    (void)state;
    assert_int_equal(store_begin(s, &e), 0);
    for (int n = 0; n < STORE_EVENTS_MAX + 5; n++)
        assert_int_equal(store_event_add(s, &event, &e), 0);
    assert_int_equal(store_commit(s, &e), 0);
    assert_int_equal(store_event_each(s, STORE_EVENTS_MAX + 3, collect_events, actions, &e), 0);
    assert_string_equal(actions, "pull pull ");
    count = 0;
    assert_int_equal(store_event_each(s, 0, count_events, &count, &e), 0);
    assert_int_equal(count, STORE_EVENTS_MAX);
    store_close(s);
}

/* ---- jobs ---- */

static int undo(void *opaque, struct store *s, const struct store_job *job, struct err *e)
{
    (void)e;
    assert_int_equal(add(s, job->object, NULL, e), 0); /* undo may use the database */
    strcat(opaque, job->verb);
    strcat(opaque, job->plan);
    return strcmp(job->verb, "stubborn") == 0 ? -EBUSY : 0;
}

static int note(void *opaque, struct store *s, const struct store_job *job, struct err *e)
{
    (void)s;
    (void)e;
    strcat(opaque, job->verb);
    return -EAGAIN;
}

static void job_child(const char *verb, const char *object)
{
    pid_t pid = fork();

    if (pid == 0) {
        struct store *s = open_store(STORE_WRITE);
        struct store_job_lock *lock;

        if (store_job_begin(s, verb, object, "{}", &lock, NULL) < 0)
            _exit(1);
        kill(getpid(), SIGKILL);
    }
    waitpid(pid, NULL, 0);
}

static void test_jobs(void **state)
{
    struct store *s = open_store(STORE_WRITE);
    struct store_job_lock *alive, *done;
    char undone[256] = "";
    struct err e = { 0 };

    (void)state;
    assert_int_equal(store_job_begin(s, "alive", "a", "1", &alive, &e), 0);
    assert_int_equal(store_job_begin(s, "done", "b", "2", &done, &e), 0);
    assert_int_equal(store_job_end(s, done, &e), 0);
    job_child("dead", "c");
    job_child("stubborn", "d");
    assert_int_equal(store_job_repair(s, undo, undone, &e), -EBUSY);
    assert_string_equal(undone, "dead{}stubborn{}");
    assert_names(s, "c d ");
    /* In a transaction the lock stays until the row is gone for all. */
    undone[0] = '\0';
    assert_int_equal(store_begin(s, &e), 0);
    assert_int_equal(store_job_end(s, alive, &e), 0);
    if (fork() == 0) {
        struct store *other = open_store(STORE_READ);
        char text[64] = "";

        (void)!store_job_repair(other, note, text, NULL);
        _exit(strcmp(text, "stubborn") != 0);
    }
    assert_int_equal(store_commit(s, &e), 0);
    int status;
    wait(&status);
    assert_int_equal(status, 0);
    store_close(s);
}

static int ended(void *opaque, struct store *s, const struct store_job *job, struct err *e)
{
    (void)s;
    (void)e;
    strcat(opaque, job->object);
    return 0;
}

/* One that is left is the next command's; one that a later one makes moot is nobody's. */
static void test_jobs_left(void **state)
{
    static const char *const objects[] = { "a", "b" };
    struct store *s = open_store(STORE_WRITE);
    struct store_job_lock *lock;
    char undone[256] = "";
    struct err e = { 0 };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(objects); i++) {
        assert_int_equal(store_job_begin(s, "restore", objects[i], "{}", &lock, &e), 0);
        store_job_leave(lock);
    }
    store_job_leave(NULL);
    assert_int_equal(store_job_begin(s, "restore", "a", "{}", &lock, &e), 0);
    assert_int_equal(store_job_supersede(s, lock, "other", "b", &e), 0);
    assert_int_equal(store_job_supersede(s, lock, "restore", "a", &e), 0);
    assert_int_equal(store_job_repair(s, ended, undone, &e), 0);
    assert_string_equal(undone, "b");
    store_job_leave(lock);
    assert_int_equal(store_job_repair(s, ended, undone, &e), 0);
    assert_string_equal(undone, "ba");
    store_close(s);
}

/* ---- killed at each system call ---- */

static void crash_child(const void *opaque)
{
    struct store *s;
    struct store_instance i;
    struct err e = { 0 };

    (void)opaque;
    if (store_open(STORE_WRITE, &s, &e) < 0 || store_instance_get(s, "a", &i, &e) < 0)
        _exit(1);
    i.status = STORE_INST_EXITED;
    i.exit_code = 7;
    if (store_begin(s, &e) < 0 || store_instance_set(s, &i, "die", &e) < 0 ||
        store_instance_rename(s, i.id, "b", &e) < 0 || store_commit(s, &e) < 0)
        _exit(1);
    store_instance_done(&i);
    store_close(s);
}

static void test_killed(void **state)
{
    unsigned old = 0, new = 0;
    bool killed = true;

    (void)state;
    if (!killed_possible())
        skip();
    for (unsigned n = 1; killed; n += 7) {
        struct store *s = open_store(STORE_WRITE);
        struct store_instance i;
        struct err e = { 0 };
        bool changed;

        assert_int_equal(add(s, "a", NULL, &e), 0);
        store_close(s);
        killed = killed_at(n, crash_child, NULL);
        s = open_store(STORE_WRITE);
        changed = store_instance_get(s, "b", &i, &e) == 0;
        assert_names(s, changed ? "b " : "a ");
        assert_events(s, changed ? "create die rename " : "create ");
        if (changed)
            assert_int_equal(i.exit_code, 7);
        if (changed)
            store_instance_done(&i);
        old += !changed;
        new += changed;
        store_close(s);
        assert_int_equal(state_dir_empty(), 0);
    }
    print_message("killed %u times: %u with the old state, %u with the new one\n", old + new - 1, old, new);
    assert_true(old > 5 && new > 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_instances, state_dir_setup, state_dir_teardown),
        cmocka_unit_test_setup_teardown(test_ambiguous, state_dir_setup, state_dir_teardown),
        cmocka_unit_test_setup_teardown(test_update, state_dir_setup, state_dir_teardown),
        cmocka_unit_test_setup_teardown(test_damaged, state_dir_setup, state_dir_teardown),
        cmocka_unit_test_setup_teardown(test_events, state_dir_setup, state_dir_teardown),
        cmocka_unit_test_setup_teardown(test_jobs, state_dir_setup, state_dir_teardown),
        cmocka_unit_test_setup_teardown(test_jobs_left, state_dir_setup, state_dir_teardown),
        cmocka_unit_test_setup_teardown(test_killed, state_dir_setup, state_dir_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
