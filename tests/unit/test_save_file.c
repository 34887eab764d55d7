/* The file of a saved VM: what is written is read, whatever is damaged is refused, memory comes back as it was. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bits.h"
#include "base/crc32c.h"
#include "fault.h"
#include "mem/guest.h"
#include "proto/exit_code.h"
#include "vmm/save_file.h"
#include "vmm/save_lazy.h"
#include "vmm/save_ram.h"
#include "vmm/save_target.h"

#define RAM_LOW (3U << 20) /* the last chunk is a part of one only */
#define RAM_HIGH (1U << 20)
#define HIGH_BASE 0x100000000ULL

static struct mem *make_mem(void)
{
    struct mem *m = NULL;

    assert_int_equal(mem_new(&m), 0);
    assert_int_equal(mem_add_ram(m, 0, RAM_LOW - 8192, false, NULL), 0);
    assert_int_equal(mem_add_ram(m, HIGH_BASE, RAM_HIGH, false, NULL), 0);
    return m;
}

/* A few pages of each kind: random, alike, zero though written, never touched. */
static void fill_mem(struct mem *m)
{
    uint8_t *low = m->regions[0].host, *high = m->regions[1].host;

    srandom(7);
    for (unsigned i = 0; i < 40 * 4096; i++)
        low[i] = (uint8_t)random();
    memset(low + 100 * 4096, 0x5a, 3 * 4096);
    memset(low + 200 * 4096, 0, 4096);
    low[RAM_LOW - 8192 - 1] = 1;
    memset(high, 1, RAM_HIGH); /* a whole chunk */
}

static int new_file(void)
{
    int fd = memfd_create("saved", MFD_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}

/* A saved memory with two sections; returns the file. */
static int save_all(struct mem *m, bool compress)
{
    struct save_writer w;
    struct save_ram ram;
    uint64_t size = 0;
    struct stat st;
    int fd = new_file();

    assert_int_equal(save_writer_init(&w, fd), 0);
    save_writer_section(&w, "spec", 0, 1, "{}", 2);
    save_writer_section(&w, "uart", 3, 7, "12345", 5);
    assert_int_equal(save_ram_init(&ram, m, &w, compress), 0);
    save_ram_work(&ram);
    assert_int_equal(atomic_load(&ram.error), 0);
    assert_int_equal(atomic_load(&ram.done), ram.total);
    assert_int_equal(save_writer_finish(&w, ram.chunks, ram.n_chunks, &size), 0);
    save_ram_done(&ram);
    save_writer_done(&w);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, size);
    return fd;
}

/* Read all of a file into fresh memory. 0 or the error; *ret_mem may be NULL. */
static int load_all(int fd, struct err *e, struct mem **ret_mem)
{
    AUTO(save_reader) struct save_reader *r = NULL;
    AUTO(mem) struct mem *m = NULL;
    struct save_ram ram;
    int res = save_reader_new(fd, "FILE", &r, e);

    if (res < 0) {
        assert_int_equal(-res, e->code);
        assert_non_null(strstr(e->text, "FILE"));
        return res;
    }
    m = make_mem();
    save_ram_init_load(&ram, m, r, false);
    save_ram_load_work(&ram);
    if (ret_mem)
        *ret_mem = STEAL(m);
    return atomic_load(&ram.error);
}

static void test_round_trip(void **state)
{
    (void)state;
    for (int compress = 0; compress < 2; compress++) {
        AUTO(mem) struct mem *m = make_mem(), *back = NULL;
        AUTO(save_reader) struct save_reader *r = NULL;
        AUTO_FD int fd = -1;
        struct err e = { 0 };
        struct stat before, after;

        fill_mem(m);
        assert_int_equal(fstat(m->regions[0].fd, &before), 0);
        fd = save_all(m, compress);
        assert_int_equal(fstat(m->regions[0].fd, &after), 0);
        assert_int_equal(before.st_blocks, after.st_blocks); /* pages never touched stay so */
        assert_int_equal(load_all(fd, &e, &back), 0);
        for (unsigned i = 0; i < 2; i++)
            assert_memory_equal(m->regions[i].host, back->regions[i].host, m->regions[i].size);
        assert_int_equal(save_reader_new(fd, "FILE", &r, &e), 0);
        assert_int_equal(r->n_sections, 2);
        assert_null(save_reader_find(r, "uart", 0));
        assert_int_equal(save_reader_find(r, "uart", 3)->version, 7);
        assert_memory_equal(save_reader_find(r, "uart", 3)->data, "12345", 5);
        assert_int_equal(r->n_chunks, 3); /* the second of the low ones has nothing */
    }
}

/* Begin to load a file behind the user's back. NULL: the kernel does not let us. */
static struct save_lazy *load_lazily(int fd, struct mem *m)
{
    AUTO(save_reader) struct save_reader *r = NULL;
    struct save_lazy *l = NULL;
    struct err e = { 0 };
    int res = save_reader_new(fd, "FILE", &r, &e);

    assert_int_equal(res, 0);
    res = save_lazy_new(m, r, "FILE", &l);
    if (res == -EPERM || res == -ENOSYS || res == -EOPNOTSUPP)
        return NULL;
    assert_int_equal(res, 0);
    return l;
}

/* Pages that are read, written by us and written by the kernel for us while the rest comes. */
static void test_lazy(void **state)
{
    AUTO(mem) struct mem *m = make_mem();
    AUTO_FD int fd = -1, zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);

    (void)state;
    fill_mem(m);
    fd = save_all(m, true);
    for (unsigned turn = 0; turn < 20; turn++) {
        AUTO(mem) struct mem *back = make_mem();
        AUTO(save_lazy) struct save_lazy *l = load_lazily(fd, back);

        if (!l)
            return;
        for (unsigned i = 0; i < 2; i++) {
            const struct mem_region *want = &m->regions[i], *have = &back->regions[i];
            const uint64_t pages = have->size / 4096;

            for (uint64_t n = 0; n < pages; n++) {
                uint64_t page = (n * 37 + turn) % pages;
                uint8_t *p = have->host + page * 4096;

                if (page % 5 == 0)
                    p[7] = 0x5a;
                else if (page % 5 == 1)
                    assert_int_equal(read(zero, p + 100, 50), 50);
                else
                    assert_memory_equal(p, want->host + page * 4096, 4096);
            }
            save_lazy_wait(l);
            for (uint64_t page = 0; page < pages; page++) {
                uint8_t expected[4096];

                memcpy(expected, want->host + page * 4096, sizeof(expected));
                if (page % 5 == 0)
                    expected[7] = 0x5a;
                else if (page % 5 == 1)
                    memset(expected + 100, 0, 50);
                assert_memory_equal(have->host + page * 4096, expected, sizeof(expected));
            }
        }
    }
}

/* A file that changes after it was checked ends the process, before anybody sees memory that is wrong. */
static void test_lazy_changed(void **state)
{
    AUTO(mem) struct mem *m = make_mem(), *back = make_mem();
    struct save_lazy *l;
    AUTO_FD int fd = -1;
    int status = 0;
    pid_t pid;

    (void)state;
    fill_mem(m);
    fd = save_all(m, true);
    l = load_lazily(fd, back);
    if (!l)
        return;
    save_lazy_free(l); /* in the middle, or after it */
    assert_int_equal(pwrite(fd, "damage", 6, 70), 6);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)!dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), STDERR_FILENO);
        save_lazy_wait(load_lazily(fd, make_mem()));
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), EXIT_CODE_FAILED);
}

/* The bytes of a file of little memory, to damage. */
static uint8_t *small_file(size_t *ret_len)
{
    AUTO(mem) struct mem *m = make_mem();
    AUTO_FD int fd = -1;
    struct stat st;
    uint8_t *data;

    for (unsigned i = 0; i < 3 * 4096; i++)
        m->regions[0].host[i] = (uint8_t)(i / 9);
    m->regions[1].host[5] = 1;
    fd = save_all(m, true);
    assert_int_equal(fstat(fd, &st), 0);
    *ret_len = (size_t)st.st_size;
    data = malloc(*ret_len);
    assert_non_null(data);
    assert_int_equal(pread(fd, data, *ret_len, 0), *ret_len);
    return data;
}

static int load_bytes(const uint8_t *data, size_t len, struct err *e)
{
    AUTO_FD int fd = new_file();

    assert_int_equal(pwrite(fd, data, len, 0), len);
    return load_all(fd, e, NULL);
}

static void test_damage(void **state)
{
    size_t len;
    AUTO_FREE uint8_t *data = small_file(&len);
    struct err e = { 0 };

    (void)state;
    assert_int_equal(load_bytes(data, len, &e), 0);
    for (size_t i = 0; i < len; i++) {
        data[i] ^= (uint8_t)(1U << (i % 8));
        assert_int_equal(load_bytes(data, len, &e), -EBADMSG);
        data[i] ^= (uint8_t)(1U << (i % 8));
    }
    for (size_t i = 0; i < len; i++)
        assert_int_equal(load_bytes(data, i, &e), -EBADMSG);
    data = realloc(data, len + 1);
    assert_non_null(data);
    data[len] = 0;
    assert_int_equal(load_bytes(data, len + 1, &e), -EBADMSG);
}

static void seal(uint8_t *data, size_t size)
{
    store_le32(data + size - 4, crc32c(0, data, size - 4));
}

static void test_future(void **state)
{
    size_t len;
    AUTO_FREE uint8_t *data = small_file(&len);
    struct err e = { 0 };

    (void)state;
    store_le32(data + 8, SAVE_VERSION + 1);
    seal(data, 64);
    assert_int_equal(load_bytes(data, len, &e), -ENOTSUP);
    assert_non_null(strstr(e.text, "of format 2"));
}

/* Numbers that make no sense, under check sums that fit. */
static void test_nonsense(void **state)
{
    static const struct {
        unsigned at; /* in the trailer */
        uint64_t value;
    } bad[] = { { 24, 1 << 20 }, { 32, ~0ULL },      { 32, ~0ULL }, { 40, 0 },          { 52, 1000 },
                { 56, 64 },      { 64, 1ULL << 60 }, { 64, 0 },     { 48, ~0ULL << 32 } };
    size_t len;
    AUTO_FREE uint8_t *data = small_file(&len);
    struct err e = { 0 };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        uint8_t *tail = data + len - 96, kept[8];

        memcpy(kept, tail + bad[i].at, 8);
        store_le64(tail + bad[i].at, bad[i].value);
        seal(tail, 96);
        assert_int_equal(load_bytes(data, len, &e), -EBADMSG);
        memcpy(tail + bad[i].at, kept, 8);
        seal(tail, 96);
    }
    /* A chunk outside of guest memory. */
    store_le64(data + len - 96 - 64, 16U << 20);
    store_le32(data + len - 96 + 72, crc32c(0, data + len - 96 - 128, 128));
    seal(data + len - 96, 96);
    assert_int_equal(load_bytes(data, len, &e), -EBADMSG);
}

static void test_full(void **state)
{
    struct save_writer w;
    struct save_chunk c = { .pages = { 1 } };
    uint64_t size = 7;
    int fd = open("/dev/full", O_RDWR | O_CLOEXEC);

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(save_writer_init(&w, fd), -ENOSPC);
    assert_int_equal(save_writer_chunk(&w, &c, "x", 1), -ENOSPC);
    assert_int_equal(save_writer_finish(&w, &c, 1, &size), -ENOSPC);
    assert_int_equal(size, 7);
    save_writer_done(&w);
    close(fd);
}

/* Each allocation fails once: an error, no leak. */
static void test_no_memory(void **state)
{
    AUTO(mem) struct mem *m = make_mem();
    AUTO_FD int fd = -1;
    struct save_reader *reader = NULL;
    struct err e = { 0 };
    int r;

    (void)state;
    fill_mem(m);
    fd = save_all(m, true);
    for (unsigned n = 1; fault_begin(n), r = save_reader_new(fd, "FILE", &reader, &e), fault_end(); n++) {
        assert_int_equal(r, -ENOMEM);
        assert_int_equal(e.code, ENOMEM);
    }
    assert_int_equal(r, 0);
    save_reader_free(reader);
}

/* ---- the file's name ---- */

static void write_target(const char *path, bool replace, struct save_target *t)
{
    struct err e = { 0 };

    assert_int_equal(save_target_open(t, path, replace, &e), 0);
    assert_int_equal(write(t->fd, "new", 3), 3);
}

static void target_names(void **state)
{
    char dir[] = "/tmp/caisson-save-XXXXXX", path[64];
    struct save_target t;
    struct err e = { 0 };
    struct stat st;

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/saved", dir);
    write_target(path, false, &t);
    save_target_close(&t);
    assert_int_equal(lstat(path, &st), -1); /* without a commit */
    write_target(path, false, &t);
    assert_int_equal(save_target_commit(&t, &e), 0);
    save_target_close(&t);
    assert_int_equal(lstat(path, &st), 0);
    assert_int_equal(save_target_open(&t, path, false, &e), -EEXIST);
    assert_int_equal(unlink(path), 0);
    /* One that comes meanwhile stays, also where the new one has a name already. */
    for (int named = 0; named < 2; named++) {
        write_target(path, false, &t);
        if (named) {
            char proc[64];

            snprintf(proc, sizeof(proc), "/proc/self/fd/%d", t.fd);
            assert_int_equal(linkat(AT_FDCWD, proc, AT_FDCWD, t.temp, AT_SYMLINK_FOLLOW), 0);
            t.named = true;
        }
        assert_true(symlink("/dev/null", path) == 0);
        assert_int_equal(save_target_commit(&t, &e), -EEXIST);
        save_target_close(&t);
        assert_int_equal(lstat(path, &st), 0);
        assert_true(S_ISLNK(st.st_mode));
        assert_int_equal(unlink(path), 0);
    }
    write_target(path, true, &t);
    assert_true(symlink("/dev/null", path) == 0);
    assert_int_equal(save_target_commit(&t, &e), 0);
    save_target_close(&t);
    assert_int_equal(lstat(path, &st), 0);
    assert_true(S_ISREG(st.st_mode));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(dir), 0); /* nothing else is left */
}

/* A descriptor that is given is one to write anywhere to. */
static void target_taken(void **state)
{
    static const struct {
        const char *path;
        int flags, want;
    } cases[] = { { ".", O_TMPFILE | O_RDWR, 0 },
                  { ".", O_TMPFILE | O_WRONLY, 0 },
                  { ".", O_TMPFILE | O_RDWR | O_APPEND, -EINVAL },
                  { "/proc/self/exe", O_RDONLY, -EINVAL },
                  { "/dev/null", O_RDWR, -EINVAL },
                  { "/tmp", O_PATH, -EINVAL } };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int fd = open(cases[i].path[0] == '.' ? "/tmp" : cases[i].path, cases[i].flags | O_CLOEXEC, 0600);
        struct save_target t;
        struct err e = { 0 };

        assert_true(fd >= 0);
        assert_int_equal(save_target_take(&t, fd, &e), cases[i].want);
        save_target_close(&t);
        assert_int_equal(fcntl(fd, F_GETFD), -1); /* it was taken in any case */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(target_names),   cmocka_unit_test(target_taken),      cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_lazy),      cmocka_unit_test(test_lazy_changed), cmocka_unit_test(test_damage),
        cmocka_unit_test(test_future),    cmocka_unit_test(test_nonsense),     cmocka_unit_test(test_full),
        cmocka_unit_test(test_no_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
