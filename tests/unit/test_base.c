/* base/: numbers, buffers (with failing allocations), errors, log, lists, bit arithmetic. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bits.h"
#include "base/buf.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/fdio.h"
#include "base/list.h"
#include "base/log.h"
#include "base/num.h"
#include "fault.h"

static void test_num_u64(void **state)
{
    static const struct {
        const char *text;
        uint64_t min, max;
        int result;
        uint64_t value;
    } cases[] = {
        { "0", 0, 10, 0, 0 },
        { "10", 0, 10, 0, 10 },
        { "007", 0, 10, 0, 7 },
        { "11", 0, 10, -ERANGE, 0 },
        { "4", 5, 10, -ERANGE, 0 },
        { "18446744073709551615", 0, UINT64_MAX, 0, UINT64_MAX },
        { "18446744073709551616", 0, UINT64_MAX, -ERANGE, 0 },
        { "99999999999999999999999", 0, UINT64_MAX, -ERANGE, 0 },
        { "0xff", 0, 255, 0, 255 },
        { "0XFf", 0, 255, 0, 255 },
        { "0xffffffffffffffff", 0, UINT64_MAX, 0, UINT64_MAX },
        { "0x10000000000000000", 0, UINT64_MAX, -ERANGE, 0 },
        { "", 0, 10, -EINVAL, 0 },
        { "0x", 0, 10, -EINVAL, 0 },
        { "x1", 0, 10, -EINVAL, 0 },
        { "-1", 0, UINT64_MAX, -EINVAL, 0 },
        { "+1", 0, 10, -EINVAL, 0 },
        { " 1", 0, 10, -EINVAL, 0 },
        { "1 ", 0, 10, -EINVAL, 0 },
        { "1.5", 0, 10, -EINVAL, 0 },
        { "1a", 0, 10, -EINVAL, 0 },
        { "0xfg", 0, 255, -EINVAL, 0 },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        uint64_t v = 77;

        assert_int_equal(num_parse_u64(cases[i].text, cases[i].min, cases[i].max, &v), cases[i].result);
        assert_int_equal(v, cases[i].result ? 77 : cases[i].value);
    }
}

static void test_num_size(void **state)
{
    static const struct {
        const char *text;
        int result;
        uint64_t value;
    } cases[] = {
        { "0", 0, 0 },
        { "512", 0, 512 },
        { "512B", 0, 512 },
        { "1K", 0, 1024 },
        { "1k", 0, 1024 },
        { "1KB", 0, 1024 },
        { "1KiB", 0, 1024 },
        { "512M", 0, 512ULL << 20 },
        { "512MiB", 0, 512ULL << 20 },
        { "3g", 0, 3ULL << 30 },
        { "0x10M", 0, 16ULL << 20 },
        { "16777215T", 0, 16777215ULL << 40 },
        { "16777216T", -ERANGE, 0 },
        { "18446744073709551616", -ERANGE, 0 },
        { "", -EINVAL, 0 },
        { "M", -EINVAL, 0 },
        { "-5M", -EINVAL, 0 },
        { "5X", -EINVAL, 0 },
        { "5MM", -EINVAL, 0 },
        { "5iB", -EINVAL, 0 },
        { "5 M", -EINVAL, 0 },
        { "1.5G", 0, 3ULL << 29 },
        { "0.5k", 0, 512 },
        { "1.000001M", 0, 1048577 },
        { "2.25TiB", 0, 9ULL << 38 },
        { "16777215.999999T", 0, 18446744073708452104ULL },
        { "16777216.5T", -ERANGE, 0 },
        { "1.0000001M", -ERANGE, 0 },
        { "1.5", -EINVAL, 0 },
        { "1.5B", -EINVAL, 0 },
        { "1.G", -EINVAL, 0 },
        { ".5G", -EINVAL, 0 },
        { "1.5.5G", -EINVAL, 0 },
        { "0x1.8G", -EINVAL, 0 },
        { "1.5Gi5", -EINVAL, 0 },
        { "5BM", -EINVAL, 0 },
        { "5MiBx", -EINVAL, 0 },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        uint64_t v = 77;

        assert_int_equal(num_parse_size(cases[i].text, &v), cases[i].result);
        assert_int_equal(v, cases[i].result ? 77 : cases[i].value);
    }
}

static void test_buf_grows(void **state)
{
    struct buf b;
    uint8_t *place;

    buf_init(&b, 100000);
    for (unsigned i = 0; i < 10000; i++)
        buf_printf(&b, "%u,", i % 10);
    buf_append_str(&b, "end");
    buf_append(&b, "", 1);
    assert_int_equal(buf_error(&b), 0);
    assert_int_equal(b.len, 20004);
    assert_memory_equal(b.data, "0,1,2,", 6);
    assert_string_equal((char *)b.data + 20000, "end");
    place = buf_extend(&b, 5000);
    assert_non_null(place);
    for (unsigned i = 0; i < 5000; i++)
        assert_int_equal(place[i], 0);
    buf_done(&b);
    assert_null(b.data);
    assert_int_equal(b.max, 100000);
}

static void test_buf_maximum(void **state)
{
    struct buf b;

    buf_init(&b, 10);
    buf_append_str(&b, "0123456789");
    assert_int_equal(buf_error(&b), 0);
    assert_int_equal(b.len, 10);
    buf_append(&b, "x", 1);
    assert_int_equal(buf_error(&b), -E2BIG);
    assert_int_equal(b.len, 10);
    buf_append(&b, "x", 0); /* the first failure sticks */
    assert_null(buf_extend(&b, 0));
    buf_printf(&b, "y");
    assert_int_equal(buf_error(&b), -E2BIG);
    assert_memory_equal(b.data, "0123456789", 10);
    buf_done(&b);

    buf_init(&b, 1000);
    buf_append(&b, "a", 1);
    assert_null(buf_extend(&b, SIZE_MAX));
    assert_int_equal(buf_error(&b), -E2BIG);
    buf_done(&b);
}

static void test_buf_zeroed_and_empty(void **state)
{
    struct buf b = { 0 };

    buf_done(&b);
    buf_init(&b, 5);
    buf_append(&b, NULL, 0);
    buf_append_str(&b, "");
    assert_int_equal(buf_error(&b), 0);
    assert_int_equal(b.len, 0);
    buf_done(&b);
}

static int buf_fill(struct buf *b)
{
    buf_init(b, 1 << 20);
    buf_append_str(b, "head ");
    for (unsigned i = 0; i < 100; i++)
        buf_printf(b, "%08u ", i);
    return buf_error(b);
}

static void test_buf_allocation_failure(void **state)
{
    struct buf b;
    unsigned failures = 0;
    int r;

    for (unsigned n = 1; fault_begin(n), r = buf_fill(&b), fault_end(); n++) {
        assert_int_equal(r, -ENOMEM);
        assert_true(b.len <= b.cap);
        buf_done(&b);
        failures++;
    }
    assert_int_equal(r, 0);
    assert_int_equal(b.len, 5 + 900);
    buf_done(&b);
    assert_true(failures > 100); /* each vasprintf, and the growth */
}

static void test_err(void **state)
{
    struct err e = { 0 };
    char long_text[2 * ERR_TEXT_MAX];

    assert_int_equal(err_set(&e, ENOENT, "disk %s: %s", "a.img", "not there"), -ENOENT);
    assert_int_equal(e.code, ENOENT);
    assert_string_equal(e.text, "disk a.img: not there");
    assert_int_equal(err_wrap(&e, "vm %d", 7), -ENOENT);
    assert_string_equal(e.text, "vm 7: disk a.img: not there");
    assert_int_equal(err_set(&e, EINVAL, "again"), -EINVAL);
    assert_string_equal(e.text, "again");
    assert_int_equal(err_set(NULL, EIO, "nobody reads this"), -EIO);
    assert_int_equal(err_set(&e, EIO, "%s",
                             "a\x1b[2J\nb\tc\x7f \xc2\x9b"
                             "d \xc2\xa9 \xc3\xa4"),
                     -EIO);
    assert_string_equal(e.text, "a?[2J?b?c? ??d \xc2\xa9 \xc3\xa4");
    assert_int_equal(err_wrap(&e, "line\n%s", "\xc2\x80"), -EIO);
    assert_string_equal(e.text, "line???: a?[2J?b?c? ??d \xc2\xa9 \xc3\xa4");
    assert_int_equal(err_wrap(NULL, "nor this"), -EINVAL);

    memset(long_text, 'x', sizeof(long_text));
    long_text[sizeof(long_text) - 1] = '\0';
    assert_int_equal(err_set(&e, EIO, "%s", long_text), -EIO);
    assert_int_equal(strlen(e.text), ERR_TEXT_MAX - 1);
    assert_int_equal(err_wrap(&e, "%s", long_text), -EIO);
    assert_int_equal(strlen(e.text), ERR_TEXT_MAX - 1);
    assert_int_equal(e.code, EIO);
    for (unsigned n = 0; n < 5; n++) { /* cut within a character, or behind it */
        static const char *const ends[] = { "\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x98\x80" };

        for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
            size_t whole = strlen(ends[i]);

            assert_int_equal(err_set(&e, EIO, "%.*s%s", (int)(ERR_TEXT_MAX - 1 - n), long_text, ends[i]), -EIO);
            assert_int_equal(strlen(e.text), ERR_TEXT_MAX - 1 - n + (n >= whole ? whole : 0));
        }
    }
}

/* What log_write puts on stderr. */
static size_t log_capture(char *out, size_t max, enum log_level level, const char *text)
{
    int ends[2], saved = dup(STDERR_FILENO);
    ssize_t n;

    assert_true(saved >= 0);
    assert_int_equal(pipe2(ends, O_NONBLOCK), 0);
    assert_true(dup2(ends[1], STDERR_FILENO) >= 0);
    log_write(level, "%s", text);
    assert_true(dup2(saved, STDERR_FILENO) >= 0);
    close(saved);
    close(ends[1]);
    n = read(ends[0], out, max - 1);
    close(ends[0]);
    assert_true(n >= 0);
    out[n] = '\0';
    return (size_t)n;
}

static void test_log(void **state)
{
    char out[4096], long_text[3000];

    log_set_level(LOG_WARN);
    assert_true(log_enabled(LOG_ERROR));
    assert_true(log_enabled(LOG_WARN));
    assert_false(log_enabled(LOG_INFO));
    assert_int_equal(log_capture(out, sizeof(out), LOG_INFO, "hidden"), 0);
    log_capture(out, sizeof(out), LOG_ERROR, "no disk");
    assert_string_equal(out, "caisson: error: no disk\n");
    log_capture(out, sizeof(out), LOG_WARN, "slow");
    assert_string_equal(out, "caisson: warning: slow\n");
    log_set_level(LOG_DEBUG);
    log_capture(out, sizeof(out), LOG_DEBUG, "x");
    assert_string_equal(out, "caisson: debug: x\n");
    log_capture(out, sizeof(out), LOG_INFO, "");
    assert_string_equal(out, "caisson: \n");

    memset(long_text, 'y', sizeof(long_text));
    long_text[sizeof(long_text) - 1] = '\0';
    assert_int_equal(log_capture(out, sizeof(out), LOG_ERROR, long_text), 1023);
    assert_int_equal(out[1022], '\n'); /* cut, but still one whole line */
    assert_null(strchr(out, '\n') + 1 < out + 1023 ? "more" : NULL);
    log_set_level(LOG_WARN);
}

struct node {
    int value;
    struct list link;
};

static void test_list(void **state)
{
    struct node nodes[5], *n;
    struct list head;
    int seen = 0;

    list_init(&head);
    assert_true(list_empty(&head));
    LIST_FOR_EACH(n, &head, link)
        seen++;
    assert_int_equal(seen, 0);
    for (int i = 0; i < 5; i++) {
        nodes[i].value = i;
        list_add_before(&head, &nodes[i].link);
    }
    assert_false(list_empty(&head));
    LIST_FOR_EACH(n, &head, link)
        assert_int_equal(n->value, seen++);
    assert_int_equal(seen, 5);

    LIST_FOR_EACH(n, &head, link) {
        if (n->value % 2 == 0)
            list_remove(&n->link);
    }
    list_remove(&nodes[0].link); /* a second removal is harmless */
    list_add_before(&nodes[3].link, &nodes[2].link);
    seen = 1;
    LIST_FOR_EACH(n, &head, link)
        assert_int_equal(n->value, seen++);
    assert_int_equal(seen, 4);
    LIST_FOR_EACH(n, &head, link)
        list_remove(&n->link);
    assert_true(list_empty(&head));
}

static void test_bits(void **state)
{
    uint8_t bytes[9] = { 0, 1, 2, 3, 4, 5, 6, 7, 8 };

    assert_int_equal(BITS64(63, 0), UINT64_MAX);
    assert_int_equal(BITS64(0, 0), 1);
    assert_int_equal(BITS64(63, 63), 1ULL << 63);
    assert_int_equal(BITS64(51, 12), 0x000ffffffffff000ULL);
    assert_int_equal(bits_get(0xdeadbeefULL, 15, 8), 0xbe);
    assert_int_equal(bits_get(UINT64_MAX, 63, 60), 15);
    assert_int_equal(align_down(0x1fff, 0x1000), 0x1000);
    assert_int_equal(align_up(0x1001, 0x1000), 0x2000);
    assert_int_equal(align_up(0x1000, 0x1000), 0x1000);
    assert_int_equal(align_up(UINT64_MAX, 0x1000), 0);
    assert_false(is_pow2(0));
    assert_true(is_pow2(1));
    assert_true(is_pow2(1ULL << 63));
    assert_false(is_pow2(3));
    assert_int_equal(load_le16(bytes + 1), 0x0201);
    assert_int_equal(load_le32(bytes + 1), 0x04030201);
    assert_int_equal(load_le64(bytes + 1), 0x0807060504030201ULL);
    store_le16(bytes + 1, 0xaabb);
    store_le32(bytes + 5, 0x11223344);
    assert_memory_equal(bytes, ((uint8_t[]){ 0, 0xbb, 0xaa, 3, 4, 0x44, 0x33, 0x22, 0x11 }), 9);
}

static void test_steal(void **state)
{
    char *kept;
    int kept_fd;

    {
        AUTO_FREE char *p = strdup("x");
        AUTO_FREE char *freed = strdup("y");
        AUTO_FD int fd = dup(STDERR_FILENO);
        AUTO_FD int none = -1;

        assert_non_null(p);
        assert_non_null(freed);
        assert_true(none < 0);
        kept = STEAL(p);
        kept_fd = STEAL_FD(fd);
        assert_null(p);
        assert_int_equal(fd, -1);
    }
    assert_string_equal(kept, "x");
    assert_true(fcntl(kept_fd, F_GETFD) >= 0);
    close(kept_fd);
    free(kept);
}

/* Whole transfers at an offset, and what the end of a file is. */
static void test_fdio(void **state)
{
    AUTO_FD int fd = memfd_create("fdio", MFD_CLOEXEC), full = open("/dev/full", O_RDWR | O_CLOEXEC);
    char got[8] = "";

    (void)state;
    assert_true(fd >= 0 && full >= 0);
    assert_int_equal(fd_pwrite_all(fd, "abcdef", 6, 3), 0);
    assert_int_equal(fd_pread_all(fd, got, 4, 3), 0);
    assert_string_equal(got, "abcd");
    assert_int_equal(fd_pread_all(fd, got, 6, 4), -EBADMSG);
    assert_int_equal(fd_pread_all(fd, got, 0, 100), 0);
    assert_int_equal(fd_pread_all(-1, got, 1, 0), -EBADF);
    assert_int_equal(fd_pwrite_all(full, "a", 1, 0), -ENOSPC);
}

static void test_check_aborts(void **state)
{
    int status;
    pid_t child = fork();

    assert_true(child >= 0);
    if (child == 0) {
        /* ASan and cmocka would otherwise both report the signal that is expected here. */
        signal(SIGABRT, SIG_DFL);
        close(STDERR_FILENO);
        CHECK(1 + 1 == 2);
        CHECK(1 + 1 == 3);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_num_u64),
        cmocka_unit_test(test_num_size),
        cmocka_unit_test(test_buf_grows),
        cmocka_unit_test(test_buf_maximum),
        cmocka_unit_test(test_buf_zeroed_and_empty),
        cmocka_unit_test(test_buf_allocation_failure),
        cmocka_unit_test(test_err),
        cmocka_unit_test(test_log),
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_bits),
        cmocka_unit_test(test_steal),
        cmocka_unit_test(test_fdio),
        cmocka_unit_test(test_check_aborts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
