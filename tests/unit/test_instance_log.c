/* Logs of instances: what is written is read again byte for byte, over rotations, cut lines, odd bytes and a full disk;
 * times; what a query picks; a follower that loses no line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "instance/log.h"
#include "state_dir.h"

static char logs[96];

static int setup(void **state)
{
    int r = state_dir_setup(state);

    snprintf(logs, sizeof(logs), "%s/logs", state_dir);
    return r;
}

static struct inst_log *open_log(uint64_t size, unsigned files)
{
    struct inst_log *log = NULL;
    struct err e = { 0 };

    if (inst_log_open(logs, size, files, &log, &e) < 0)
        fail_msg("%s", e.text);
    return log;
}

static void put(struct inst_log *log, const char *text)
{
    inst_log_write(log, INST_LOG_OUT, (const uint8_t *)text, strlen(text));
}

struct read_text {
    char text[1 << 20];
    size_t len;
    unsigned entries, errors;
    int64_t last;
};

static int collect(void *opaque, const struct inst_log_entry *entry)
{
    struct read_text *t = opaque;

    assert_true(t->len + entry->len < sizeof(t->text));
    memcpy(t->text + t->len, entry->text, entry->len);
    t->len += entry->len;
    t->text[t->len] = '\0';
    t->entries++;
    t->errors += entry->stream == INST_LOG_ERR;
    t->last = entry->time_ns;
    return 0;
}

static struct read_text *read_log(struct inst_log_query q)
{
    static struct read_text t;
    const struct inst_log_reader reader = { .entry = collect, .opaque = &t };
    struct err e = { 0 };

    t = (struct read_text){ 0 };
    if (inst_log_read(logs, &q, &reader, &e) < 0)
        fail_msg("%s", e.text);
    return &t;
}

static void test_bytes(void **state)
{
    static const char text[] = "plain\n\"quoted\\\" \t\x01\x1b[31m\x7f\nümläut €\n\n";
    struct inst_log *log;
    char long_line[40000];

    (void)state;
    assert_int_equal(read_log((struct inst_log_query){ 0 })->entries, 0);
    log = open_log(0, 1);
    put(log, text);
    /* One character in pieces is one character. */
    inst_log_write(log, INST_LOG_ERR, (const uint8_t *)"\xe2", 1);
    inst_log_flush(log);
    inst_log_write(log, INST_LOG_ERR, (const uint8_t *)"\x82\xac", 2);
    assert_true(inst_log_waits(log));
    inst_log_flush(log);
    inst_log_flush(log);
    assert_false(inst_log_waits(log));
    inst_log_write(log, INST_LOG_ERR, (const uint8_t *)"\n", 1);
    assert_int_equal(read_log((struct inst_log_query){ 0 })->errors, 2);
    assert_memory_equal(read_log((struct inst_log_query){ 0 })->text, text, strlen(text));
    assert_string_equal(read_log((struct inst_log_query){ 0 })->text + strlen(text), "€\n");
    /* What is no UTF-8 is replaced, byte for byte. */
    put(log, "a\xff\xc0\x80\xed\xa0\x80z\n");
    assert_non_null(strstr(read_log((struct inst_log_query){ 0 })->text, "a\ufffd\ufffd\ufffd\ufffd\ufffd\ufffdz\n"));
    for (size_t i = 0; i < sizeof(long_line); i++)
        long_line[i] = (char)('a' + i % 26);
    inst_log_write(log, INST_LOG_OUT, (const uint8_t *)long_line, sizeof(long_line));
    inst_log_free(log);
    long_line[sizeof(long_line) - 1] = '\0';
    assert_non_null(strstr(read_log((struct inst_log_query){ 0 })->text, long_line));
}

static void test_rotation(void **state)
{
    struct inst_log *log = open_log(8192, 3);
    struct read_text *t;
    char line[64], path[128];
    unsigned first, n = 2000;

    (void)state;
    for (unsigned i = 0; i < n; i++) {
        snprintf(line, sizeof(line), "line %u\n", i);
        put(log, line);
    }
    t = read_log((struct inst_log_query){ 0 });
    assert_int_equal(sscanf(t->text, "line %u", &first), 1);
    assert_int_equal(t->entries, n - first);
    assert_true(first > 0 && t->entries > 2 * 8192 / 100);
    assert_non_null(strstr(t->text, "line 1999\n"));
    for (int i = 0; i < 3; i++) {
        struct stat st;

        snprintf(path, sizeof(path), i ? "%s/log.json.%d" : "%s/log.json", logs, i);
        assert_int_equal(stat(path, &st), 0);
        assert_true(st.st_size > 0 && st.st_size <= 8192);
    }
    inst_log_free(log);
    log = open_log(8192, 1); /* the limit was lowered */
    assert_int_equal(access(path, F_OK), -1);
    inst_log_free(log);
}

/* A writer that is killed while it moves the pieces leaves a gap. */
static void test_gap(void **state)
{
    char from[128], to[128];
    struct inst_log *log;

    (void)state;
    for (unsigned gap = 0; gap < 3; gap++) {
        log = open_log(100, 4);
        for (char text[] = "1 ----------------------------------------\n"; text[0] <= '3'; text[0]++)
            put(log, text);
        inst_log_free(log);
        for (unsigned piece = 3; piece > gap; piece--) {
            snprintf(from, sizeof(from), piece > 1 ? "%s/log.json.%u" : "%s/log.json", logs, piece - 1);
            snprintf(to, sizeof(to), "%s/log.json.%u", logs, piece);
            assert_int_equal(rename(from, to), 0);
        }
        assert_int_equal(read_log((struct inst_log_query){ 0 })->entries, 3);
        assert_int_equal(read_log((struct inst_log_query){ .has_tail = true, .tail = 3 })->text[0], '1');
        assert_int_equal(state_dir_teardown(NULL) | setup(NULL), 0);
    }
}

static void test_query(void **state)
{
    struct inst_log *log = open_log(0, 1);
    struct timespec middle;
    int64_t ns;

    (void)state;
    put(log, "one\ntwo\n");
    usleep(2000);
    clock_gettime(CLOCK_REALTIME, &middle);
    ns = middle.tv_sec * 1000000000LL + middle.tv_nsec;
    usleep(2000);
    put(log, "three\nfour");
    inst_log_free(log);
    assert_string_equal(read_log((struct inst_log_query){ .since_ns = ns })->text, "three\nfour");
    assert_string_equal(read_log((struct inst_log_query){ .until_ns = ns })->text, "one\ntwo\n");
    assert_string_equal(read_log((struct inst_log_query){ .has_tail = true, .tail = 2 })->text, "two\nthree\nfour");
    assert_string_equal(read_log((struct inst_log_query){ .has_tail = true, .tail = 1, .until_ns = ns })->text,
                        "two\n");
    assert_string_equal(read_log((struct inst_log_query){ .has_tail = true, .tail = 100 })->text,
                        "one\ntwo\nthree\nfour");
}

static void test_times(void **state)
{
    char text[INST_LOG_TIME_MAX];
    int64_t ns = 0;

    (void)state;
    inst_log_time(1764255465123456789LL, text);
    assert_string_equal(text, "2025-11-27T14:57:45.123456789Z");
    assert_int_equal(inst_log_parse_time(text, &ns), 0);
    assert_true(ns == 1764255465123456789LL);
    assert_int_equal(inst_log_parse_time("2025-11-27T14:57:45Z", &ns), 0);
    assert_true(ns == 1764255465000000000LL);
    assert_int_equal(inst_log_parse_time("2025-11-27T15:57:45.5+01:00", &ns), 0);
    assert_true(ns == 1764255465500000000LL);
    assert_int_equal(inst_log_parse_time("2025-11-27T14:57:45.1234567891234567Z", &ns), 0);
    for (const char *const *bad = (const char *const[]){ "", "now", "2025-11-27", "2025-11-27T14:57:45",
                                                         "2025-11-27T14:57:45Zx", "2025-11-27T14:57:45+1", NULL };
         *bad; bad++)
        assert_int_equal(inst_log_parse_time(*bad, &ns), -EINVAL);
}

/* Lines that a crash cut off or that are none. */
static void test_damaged(void **state)
{
    static const char odd[] = "\n\0\xff{}\n[]\n{\"time\":3}\n{\"time\":\"2025-11-27T14:57:45Z\",\"stream\":\"std";
    struct inst_log *log = open_log(0, 1);
    char path[128];
    int fd;

    (void)state;
    put(log, "one\n");
    inst_log_free(log);
    snprintf(path, sizeof(path), "%s/log.json", logs);
    fd = open(path, O_WRONLY | O_APPEND);
    assert_int_equal(write(fd, odd, sizeof(odd) - 1), sizeof(odd) - 1);
    close(fd);
    assert_string_equal(read_log((struct inst_log_query){ 0 })->text, "one\n");
    log = open_log(0, 1);
    put(log, "two\n");
    inst_log_free(log);
    assert_string_equal(read_log((struct inst_log_query){ 0 })->text, "one\ntwo\n");
}

/* No room: lines are dropped, and that is said once there is. */
static void test_full(void **state)
{
    struct inst_log *log = open_log(0, 1);
    struct rlimit before, limit;
    char *text;

    (void)state;
    put(log, "one\n");
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = 100;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    put(log, "lost lost lost lost lost lost\n");
    put(log, "lost too\n");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    put(log, "two\n");
    inst_log_free(log);
    text = read_log((struct inst_log_query){ 0 })->text;
    assert_null(strstr(text, "lost"));
    assert_non_null(strstr(text, "output is missing here"));
    assert_non_null(strstr(text, "two\n"));
}

/* ---- following ---- */

enum { FOLLOW_LINES = 3000 };

static void *write_lines(void *opaque)
{
    struct inst_log *log = opaque;
    char line[64];

    for (int i = 0; i < FOLLOW_LINES; i++) {
        snprintf(line, sizeof(line), "line %d\n", i);
        put(log, line);
        if (i % 50 == 0)
            usleep(500);
    }
    inst_log_free(log);
    return NULL;
}

struct follow {
    pthread_t writer;
    bool ended;
    int next;
};

static int follow_line(void *opaque, const struct inst_log_entry *entry)
{
    struct follow *f = opaque;
    char want[64];

    snprintf(want, sizeof(want), "line %d\n", f->next++);
    assert_int_equal(entry->len, strlen(want));
    assert_memory_equal(entry->text, want, entry->len);
    return 0;
}

static int follow_wait(void *opaque)
{
    struct follow *f = opaque;

    f->ended = f->ended || pthread_tryjoin_np(f->writer, NULL) == 0;
    if (!f->ended)
        usleep(1000);
    return f->ended;
}

static void test_follow(void **state)
{
    struct follow f = { 0 };
    const struct inst_log_reader reader = { follow_line, follow_wait, &f };
    const struct inst_log_query q = { .follow = true };
    struct err e = { 0 };

    (void)state;
    /* Many pieces, so that a slow reader does not lose one that was removed meanwhile. */
    assert_int_equal(pthread_create(&f.writer, NULL, write_lines, open_log(20000, 1000)), 0);
    assert_int_equal(inst_log_read(logs, &q, &reader, &e), 0);
    assert_int_equal(f.next, FOLLOW_LINES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_bytes, setup, state_dir_teardown),
        cmocka_unit_test_setup_teardown(test_rotation, setup, state_dir_teardown),
        cmocka_unit_test_setup_teardown(test_gap, setup, state_dir_teardown),
        cmocka_unit_test_setup_teardown(test_query, setup, state_dir_teardown),
        cmocka_unit_test_setup_teardown(test_times, setup, state_dir_teardown),
        cmocka_unit_test_setup_teardown(test_damaged, setup, state_dir_teardown),
        cmocka_unit_test_setup_teardown(test_full, setup, state_dir_teardown),
        cmocka_unit_test_setup_teardown(test_follow, setup, state_dir_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
