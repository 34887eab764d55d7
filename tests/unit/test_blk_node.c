/* Files and raw images as nodes; opening and making. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/attr.h"
#include "block/open.h"

#define KIB 1024u

struct fixture {
    char dir[64], path[96];
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    assert_non_null(f);
    strcpy(f->dir, "/tmp/caisson-node-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->path, sizeof(f->path), "%s/disk", f->dir);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    char command[96];

    snprintf(command, sizeof(command), "rm -rf %s", f->dir);
    assert_int_equal(system(command), 0);
    free(f);
    return 0;
}

static void make_file(const char *path, const void *data, size_t len)
{
    FILE *out = fopen(path, "wb");

    assert_non_null(out);
    assert_int_equal(fwrite(data, 1, len, out), len);
    assert_int_equal(fclose(out), 0);
}

static void make_raw(const char *path, uint64_t size)
{
    const struct blk_create_config config = { .path = path, .format = "raw", .size = size };

    assert_int_equal(blk_create(&config, NULL), 0);
}

static struct blk_node *open_raw(const char *path, enum blk_cache cache)
{
    const struct blk_open_config config = { .path = path, .format = "raw", .cache = cache };
    struct blk_node *n = NULL;

    assert_int_equal(blk_open(&config, &n, NULL), 0);
    return n;
}

/* Transfers of every alignment give what a shadow buffer says, through the page cache and with O_DIRECT. */
static void check_transfers(const char *path, enum blk_cache cache)
{
    enum { SIZE = 64 * KIB };
    static uint8_t shadow[SIZE], back[SIZE];
    struct blk_node *n;
    unsigned seed = 1;

    unlink(path);
    make_raw(path, SIZE);
    n = open_raw(path, cache);
    memset(shadow, 0, SIZE);
    for (unsigned i = 0; i < 300; i++) {
        uint64_t off = (unsigned)rand_r(&seed) % SIZE, len = 1 + (unsigned)rand_r(&seed) % (SIZE - off);
        uint64_t cut = (unsigned)rand_r(&seed) % len;
        struct iovec iov[2] = { { shadow + off, cut }, { shadow + off + cut, len - cut } };

        for (uint64_t k = 0; k < len; k++)
            shadow[off + k] = (uint8_t)rand_r(&seed);
        assert_int_equal(blk_pwritev(n, off, iov, 2, len), 0);
        if (i % 7 == 0) {
            assert_int_equal(blk_write_zeroes(n, off, len, i % 2 ? BLK_ZERO_UNMAP : 0), 0);
            memset(shadow + off, 0, len);
        }
        off = (unsigned)rand_r(&seed) % SIZE;
        len = 1 + (unsigned)rand_r(&seed) % (SIZE - off);
        assert_int_equal(blk_pread(n, off, back, len), 0);
        assert_memory_equal(back, shadow + off, len);
    }
    assert_int_equal(blk_flush(n), 0);
    blk_node_close(n);
}

static void test_transfers(void **state)
{
    struct fixture *f = *state;

    check_transfers(f->path, BLK_CACHE_WRITEBACK);
    check_transfers(f->path, BLK_CACHE_NONE);
}

static void test_bounds(void **state)
{
    struct fixture *f = *state;
    struct blk_open_config config = { .path = f->path, .format = "raw", .read_only = true };
    struct blk_node *n;
    uint8_t b[KIB] = { 0 };

    make_raw(f->path, 4 * KIB);
    n = open_raw(f->path, BLK_CACHE_WRITEBACK);
    assert_int_equal(blk_pread(n, 4 * KIB, b, 1), -EINVAL);
    assert_int_equal(blk_pread(n, UINT64_MAX, b, 2), -EINVAL);
    assert_int_equal(blk_pwrite(n, 4 * KIB - 1, b, 2), -EINVAL);
    assert_int_equal(blk_discard(n, 0, UINT64_MAX), -EINVAL);
    assert_int_equal(blk_write_zeroes(n, 5 * KIB, 1, 0), -EINVAL);
    /* A file, unlike a disk, grows, and reads as zeroes behind its end. */
    memset(b, 1, sizeof(b));
    assert_int_equal(blk_pread(n->file, 4 * KIB, b, KIB), 0);
    assert_true(blk_buf_is_zero(b, KIB));
    assert_int_equal(blk_pwrite(n->file, 8 * KIB, "x", 1), 0);
    assert_int_equal(n->file->size, 8 * KIB + 1);
    blk_node_close(n);
    assert_int_equal(truncate(f->path, 4 * KIB), 0);
    assert_int_equal(blk_open(&config, &n, NULL), 0);
    assert_int_equal(blk_pwrite(n, 0, b, 1), -EROFS);
    assert_int_equal(blk_resize(n, KIB, BLK_PREALLOC_OFF, NULL), -EROFS);
    blk_node_close(n);
}

static void test_open_errors(void **state)
{
    struct fixture *f = *state;
    struct blk_open_config config = { .path = f->path, .format = "raw" };
    struct blk_node *n = NULL, *second = NULL;
    struct blk_why why;

    assert_int_equal(blk_open(&config, &n, &why), -ENOENT);
    assert_string_equal(why.path, f->path);
    config.path = f->dir;
    assert_int_equal(blk_open(&config, &n, &why), -EISDIR);
    config.path = "/dev/null";
    assert_int_equal(blk_open(&config, &n, &why), -ENOTBLK);
    config.path = f->path;
    make_file(f->path, "", 0);
    assert_int_equal(blk_open(&config, &n, &why), -ENOMEDIUM);
    assert_non_null(why.text);
    make_file(f->path, "0123456789", 10);
    assert_int_equal(blk_open(&config, &n, &why), -EMEDIUMTYPE);
    config.format = "nonsense";
    assert_int_equal(blk_open(&config, &n, &why), -ENOTSUP);
    config.format = "raw";
    assert_int_equal(truncate(f->path, 1024), 0);
    assert_int_equal(blk_open(&config, &n, &why), 0);
    assert_int_equal(blk_open(&config, &second, &why), -EBUSY);
    config.sharing = BLK_LOCK_NONE;
    config.read_only = true;
    assert_int_equal(blk_open(&config, &second, &why), 0);
    blk_node_close(second);
    blk_node_close(n);
}

static void test_create(void **state)
{
    struct fixture *f = *state;
    struct blk_create_config config = { .path = f->path, .format = "raw", .size = 1000, .prealloc = BLK_PREALLOC_FULL };
    struct stat st;

    assert_int_equal(blk_create(&config, NULL), 0);
    assert_int_equal(stat(f->path, &st), 0);
    assert_int_equal(st.st_size, 1024);
    assert_true(st.st_blocks > 0);
    assert_int_equal(blk_create(&config, NULL), -EEXIST);
    config.overwrite = true;
    config.size = INT64_MAX - 4096; /* more than any file system takes: the old file stays as it was */
    assert_true(blk_create(&config, NULL) < 0);
    assert_int_equal(stat(f->path, &st), 0);
    assert_int_equal(st.st_size, 1024);
    config.size = 0;
    assert_int_equal(blk_create(&config, NULL), -EINVAL);
    config.format = "nonsense";
    assert_int_equal(blk_create(&config, NULL), -ENOTSUP);
    /* Nothing but the image itself is left in the folder. */
    assert_int_equal(unlink(f->path), 0);
    assert_int_equal(rmdir(f->dir), 0);
    assert_int_equal(mkdir(f->dir, 0700), 0);
}

static void test_extents(void **state)
{
    struct fixture *f = *state;
    struct blk_extent x;
    struct blk_node *n;
    static uint8_t data[64 * KIB];

    make_raw(f->path, 1024 * KIB);
    n = open_raw(f->path, BLK_CACHE_WRITEBACK);
    memset(data, 7, sizeof(data));
    assert_int_equal(blk_pwrite(n, 256 * KIB, data, sizeof(data)), 0);
    assert_int_equal(blk_flush(n), 0);
    assert_int_equal(blk_extent(n, 0, n->size, &x), 0);
    assert_int_equal(x.flags & (BLK_EXT_ZERO | BLK_EXT_DATA), BLK_EXT_ZERO);
    assert_int_equal(x.len, 256 * KIB);
    assert_int_equal(blk_extent(n, x.len, n->size - x.len, &x), 0);
    assert_int_equal(x.flags & (BLK_EXT_ZERO | BLK_EXT_DATA), BLK_EXT_DATA);
    assert_int_equal(x.len, sizeof(data));
    assert_int_equal(x.host_off, 256 * KIB);
    blk_node_close(n);
}

static void test_iovecs(void **state)
{
    uint8_t a[4], b[4], flat[8] = "abcdefg";
    const struct iovec iov[] = { { a, 4 }, { NULL, 0 }, { b, 4 } };
    struct iovec out[3];

    (void)state;
    blk_iov_from_buf(iov, 3, 0, flat, 8);
    assert_memory_equal(b, "efg", 4);
    assert_int_equal(blk_iov_slice(iov, 3, 3, 2, out), 2);
    assert_ptr_equal(out[0].iov_base, a + 3);
    assert_int_equal(out[1].iov_len, 1);
    assert_ptr_equal(out[1].iov_base, b);
    blk_iov_zero(iov, 3, 2, 3);
    blk_iov_to_buf(iov, 3, 1, flat, 7);
    assert_memory_equal(flat, "b\0\0\0fg", 6);
    assert_true(blk_buf_is_zero(flat + 1, 3));
    assert_false(blk_buf_is_zero(flat, 8));
    memset(flat, 0, 8);
    assert_true(blk_buf_is_zero(flat, 8));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_transfers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bounds, setup, teardown),
        cmocka_unit_test_setup_teardown(test_open_errors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_create, setup, teardown),
        cmocka_unit_test_setup_teardown(test_extents, setup, teardown),
        cmocka_unit_test(test_iovecs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
