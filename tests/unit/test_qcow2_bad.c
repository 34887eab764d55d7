/* qcow2 images that are broken or lie, failing allocations, and encryption. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/check.h"
#include "../fuzz/fuzz_block.h"
#include "fault.h"
#include "oracle.h"
#include "qcow2_rig.h"

#define SECRET "correct horse"

static void put_be(uint8_t *p, unsigned bytes, uint64_t v)
{
    for (unsigned i = 0; i < bytes; i++)
        p[i] = (uint8_t)(v >> (8 * (bytes - 1 - i)));
}

static uint64_t get_be(const uint8_t *p, unsigned bytes)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < bytes; i++)
        v = v << 8 | p[i];
    return v;
}

/* An image with some data, whole in memory. */
static uint8_t *sample(const struct blk_create_config *form, size_t *ret_len)
{
    struct blk_create_config config = *form;
    static uint8_t data[200 << 10];
    struct blk_node *n;
    uint8_t *image;
    FILE *f;

    config.path = oracle_path("sample.qcow2");
    config.format = "qcow2";
    config.size = 2 << 20;
    config.overwrite = true;
    rig_create(&config);
    n = rig_open(config.path, false);
    memset(data, 0x42, sizeof(data));
    assert_int_equal(blk_pwrite(n, 70000, data, sizeof(data)), 0);
    blk_node_close(n);
    f = fopen(config.path, "r");
    assert_non_null(f);
    image = malloc(4 << 20);
    *ret_len = fread(image, 1, 4 << 20, f);
    fclose(f);
    return image;
}

static int open_bytes(const uint8_t *image, size_t len, bool read_only, struct blk_node **ret, struct blk_why *why)
{
    const struct blk_open_config config = { .path = "memory", .format = "qcow2", .read_only = read_only };
    struct blk_node *file = fuzz_file_new(image, len, len + (8 << 20));
    int res = blk_format_qcow2.open(file, &config, ret, why);

    if (res < 0)
        blk_node_close(file);
    return res;
}

/* Fields of the header that make no sense: refused, with a reason. */
static void test_headers(void **state)
{
    static const struct {
        unsigned at, bytes;
        uint64_t value;
        int want;
    } bad[] = {
        { 0, 4, 0x514649fa, -EMEDIUMTYPE },
        { 4, 4, 1, -ENOTSUP },
        { 4, 4, 4, -ENOTSUP },
        { 8, 8, 50, -EMEDIUMTYPE },
        { 8, 8, 1 << 20, -EMEDIUMTYPE },
        { 20, 4, 8, -EMEDIUMTYPE },
        { 20, 4, 22, -EMEDIUMTYPE },
        { 20, 4, 0xffffffff, -EMEDIUMTYPE },
        { 24, 8, UINT64_MAX, -EMEDIUMTYPE },
        { 24, 8, UINT64_C(1) << 62, -EMEDIUMTYPE },
        { 32, 4, 2, -EMEDIUMTYPE },
        { 32, 4, 3, -ENOTSUP },
        { 36, 4, 0, -EMEDIUMTYPE },
        { 36, 4, 0xffffffff, -EMEDIUMTYPE },
        { 36, 4, 4 << 20, -EMEDIUMTYPE },
        { 40, 8, 512, -EMEDIUMTYPE },
        { 40, 8, 0, -EMEDIUMTYPE },
        { 40, 8, UINT64_C(1) << 50, -EMEDIUMTYPE },
        { 40, 8, UINT64_MAX & ~0xffffull, -EMEDIUMTYPE },
        { 48, 8, 0, -EMEDIUMTYPE },
        { 48, 8, UINT64_C(1) << 50, -EMEDIUMTYPE },
        { 56, 4, 0, -EMEDIUMTYPE },
        { 56, 4, 129, -EMEDIUMTYPE },
        { 56, 4, 100, -EMEDIUMTYPE },
        { 72, 8, 0x20, -ENOTSUP },
        { 72, 8, UINT64_C(1) << 63, -ENOTSUP },
        { 72, 8, 4, -EMEDIUMTYPE },
        { 72, 8, 8, -EMEDIUMTYPE },
        { 88, 8, 2, -EMEDIUMTYPE },
        { 96, 4, 7, -EMEDIUMTYPE },
        { 100, 4, 96, -EMEDIUMTYPE },
        { 100, 4, 105, -EMEDIUMTYPE },
        { 100, 4, 0x7ffffff8, -EMEDIUMTYPE },
        { 116, 4, 0x7fffffff, -EMEDIUMTYPE },
    };
    size_t len;
    uint8_t *image = sample(&(struct blk_create_config){ 0 }, &len), saved[8];

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct blk_why why = { 0 };
        struct blk_node *n;
        int res;

        memcpy(saved, image + bad[i].at, bad[i].bytes);
        put_be(image + bad[i].at, bad[i].bytes, bad[i].value);
        res = open_bytes(image, len, false, &n, &why);
        if (res != bad[i].want)
            print_error("byte %u = %#llx: %d\n", bad[i].at, (unsigned long long)bad[i].value, res);
        assert_int_equal(res, bad[i].want);
        assert_non_null(why.text);
        memcpy(image + bad[i].at, saved, bad[i].bytes);
    }
    free(image);
}

/* Cut anywhere, or with any byte changed: no crash, no endless loop, and what can be read or written ends. */
static void test_garbled(void **state)
{
    static const struct blk_create_config forms[] = { { .cluster_size = 512 },
                                                      { .extended_l2 = true, .cluster_size = 16384 } };
    uint64_t seed = 3;

    (void)state;
    for (size_t form = 0; form < ARRAY_SIZE(forms); form++) {
        size_t len;
        uint8_t *image = sample(&forms[form], &len), *copy = malloc(len);
        static uint8_t buf[300000];

        for (unsigned round = 0; round < 1500; round++) {
            size_t cut = round % 3 ? len : rig_random(&seed) % len, meta = MIN(cut, 70000);
            struct blk_node *n;

            memcpy(copy, image, len);
            for (unsigned i = 0; i < 4 && meta; i++)
                copy[rig_random(&seed) % meta] = (uint8_t)rig_random(&seed);
            if (open_bytes(copy, cut, false, &n, NULL) < 0)
                continue;
            (void)!blk_pread(n, 0, buf, MIN(n->size, sizeof(buf)));
            (void)!blk_pwrite(n, MIN(n->size, 65000), buf, MIN(n->size - MIN(n->size, 65000), 9000));
            (void)!blk_write_zeroes(n, 0, MIN(n->size, 100000), 0);
            (void)!blk_discard(n, 0, MIN(n->size, 300000));
            (void)!blk_flush(n);
            blk_node_close(n);
        }
        free(copy);
        free(image);
    }
}

/* A cluster of the disk that is mapped over metadata: the write is refused and the image marked, for qemu as well. */
static void test_overlap(void **state)
{
    size_t len;
    uint8_t *image = sample(&(struct blk_create_config){ 0 }, &len), data[4096] = { 1 };
    uint64_t l1 = get_be(image + 40, 8), rt = get_be(image + 48, 8), l2 = get_be(image + l1, 8) & ~(1ull << 63);
    uint64_t rb = get_be(image + rt, 8);
    const uint64_t targets[] = { 0, l1, rt, l2, rb, UINT64_C(1) << 40 };
    char *path = strdup(oracle_path("overlap.qcow2"));

    (void)state;
    for (size_t i = 1; i < ARRAY_SIZE(targets); i++) {
        FILE *f = fopen(path, "w");
        struct blk_piece pieces[BLK_PIECES_MAX];
        struct blk_info info;
        struct blk_node *n;

        put_be(image + l2 + 8 * 10, 8, targets[i] | 1ull << 63);
        assert_non_null(f);
        assert_int_equal(fwrite(image, 1, len, f), len);
        fclose(f);
        n = rig_open(path, false);
        assert_int_equal(blk_pread(n, 0, data, sizeof(data)), 0); /* L2 table in memory */
        assert_int_equal(blk_map(n, BLK_WRITE, 10 << 16, 4096, pieces), 0);
        assert_int_equal(blk_pwrite(n, 10 << 16, data, sizeof(data)), -EIO);
        assert_int_equal(blk_pwrite(n, 0, data, sizeof(data)), -EIO); /* no more writes at all */
        assert_int_equal(blk_pread(n, 70000, data, sizeof(data)), 0);
        assert_int_equal(data[0], 0x42);
        blk_node_info(n, &info);
        assert_true(info.corrupt);
        blk_node_close(n);
        oracle_must("qemu-img info %s | grep -q 'corrupt: true'", path);
        n = rig_open(path, false);
        assert_int_equal(blk_pwrite(n, 0, data, sizeof(data)), -EIO);
        blk_node_close(n);
    }
    free(path);
    free(image);
}

/* Refcounts that call metadata free: nothing is allocated there. */
static void test_lying_refcounts(void **state)
{
    size_t len;
    uint8_t *image = sample(&(struct blk_create_config){ 0 }, &len), data[4096] = { 1 };
    uint64_t rt = get_be(image + 48, 8), rb = get_be(image + rt, 8);
    struct blk_node *n;

    (void)state;
    memset(image + rb, 0, 65536);
    assert_int_equal(open_bytes(image, len, false, &n, NULL), 0);
    assert_int_equal(blk_pwrite(n, 1 << 20, data, sizeof(data)), -EIO);
    assert_int_equal(blk_pread(n, 70000, data, sizeof(data)), 0);
    blk_node_close(n);
    put_be(image + rt, 8, 0);
    assert_int_equal(open_bytes(image, len, false, &n, NULL), 0);
    assert_int_equal(blk_pwrite(n, 1 << 20, data, sizeof(data)), -EIO);
    blk_node_close(n);
    free(image);
}

/* Unknown autoclear bits are cleared by a writer, not by a reader; unknown extensions and fields survive. */
static void test_autoclear(void **state)
{
    size_t len;
    uint8_t *image = sample(&(struct blk_create_config){ 0 }, &len), head[8];
    char *path = strdup(oracle_path("auto.qcow2"));

    (void)state;
    put_be(image + 88, 8, 0xf0);
    for (unsigned write = 0; write < 2; write++) {
        FILE *f = fopen(path, "w");

        assert_non_null(f);
        assert_int_equal(fwrite(image, 1, len, f), len);
        fclose(f);
        blk_node_close(rig_open(path, !write));
        f = fopen(path, "r");
        assert_int_equal(fseek(f, 88, SEEK_SET), 0);
        assert_int_equal(fread(head, 1, 8, f), 8);
        assert_int_equal(get_be(head, 8), write ? 0 : 0xf0);
        fclose(f);
        oracle_must("qemu-img check %s", path);
    }
    free(path);
    free(image);
}

/* ---- failing allocations ---- */

static int fault_run(const char *path)
{
    struct blk_open_config config = { .path = path, .format = "qcow2", .cache = BLK_CACHE_UNSAFE };
    static uint8_t buf[40000];
    struct blk_node *n;
    int res = blk_open(&config, &n, NULL);

    if (res < 0)
        return res;
    res = blk_pwrite(n, 100000, buf, sizeof(buf));
    if (res == 0)
        res = blk_pread(n, 90000, buf, sizeof(buf));
    if (res == 0)
        res = n->ops->pwrite_compressed(n, 256 << 10, buf, 4096);
    if (res == 0)
        res = blk_pread(n, 256 << 10, buf, 4096);
    if (res == 0)
        res = blk_write_zeroes(n, 101000, 20000, 0);
    if (res == 0)
        res = blk_discard(n, 4096, 300000);
    if (res == 0)
        res = blk_resize(n, 3 << 20, BLK_PREALLOC_METADATA, NULL);
    if (res == 0)
        res = blk_flush(n);
    blk_node_close(n);
    return res;
}

static void test_fault(void **state)
{
    char *path = strdup(oracle_path("fault.qcow2")), out[2000];
    unsigned fails = 0;
    int res;

    (void)state;
    for (unsigned nth = 1;; nth++) {
        struct blk_create_config config = {
            .path = path, .format = "qcow2", .size = 1 << 20, .cluster_size = 4096, .overwrite = true
        };
        bool failed;

        rig_create(&config);
        fault_begin(nth);
        res = fault_run(path);
        failed = fault_end();
        if (!failed)
            break;
        /* Where memory for cleaning up is missing, clusters leak, and that is all. */
        assert_true(res == 0 || res == -ENOMEM);
        fails += res < 0;
        if (nth % 8 == 0 || res == 0) {
            res = oracle_run(out, sizeof(out), "qemu-img check %s", path);
            if (res != 0 && res != 3)
                print_error("allocation %u: %d %s\n", nth, res, out);
            assert_true(res == 0 || res == 3);
        }
    }
    assert_int_equal(res, 0);
    assert_true(fails > 20);
    free(path);
}

/* ---- encryption ---- */

static void test_luks(void **state)
{
    static const struct blk_create_config forms[] = {
        { .cluster_size = 0 },
        { .cluster_size = 4096 },
        { .extended_l2 = true },
        { .version = 2 },
        { .prealloc = BLK_PREALLOC_METADATA },
    };
    char *path = strdup(oracle_path("luks.qcow2"));
    const uint8_t *secret = (const uint8_t *)SECRET;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(forms) + 1; i++) {
        struct blk_create_config config = forms[i % ARRAY_SIZE(forms)];
        struct blk_open_config open = { .path = path, .format = "qcow2", .cache = BLK_CACHE_UNSAFE };
        uint64_t seed = 77 + i, size = 2 << 20;
        struct blk_node *n;
        uint8_t *shadow = calloc(1, size);

        config.path = path;
        config.format = "qcow2";
        config.size = size;
        config.overwrite = true;
        config.secret = secret;
        config.secret_len = strlen(SECRET);
        config.luks_iter_ms = 10;
        if (i < ARRAY_SIZE(forms))
            rig_create(&config);
        else
            oracle_must("rm -f %s; " ORACLE_AGAIN "qemu-img create -q -f qcow2 --object secret,id=s,data='" SECRET
                        "' -o "
                        "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 %s 2M",
                        path, path);
        assert_int_equal(blk_open(&open, &n, NULL), -ENOKEY);
        open.secret = secret;
        open.secret_len = strlen(SECRET);
        assert_int_equal(blk_open(&open, &n, NULL), 0);
        for (unsigned k = 0; k < 200; k++) {
            uint64_t off = rig_random(&seed) % size, len = 1 + rig_random(&seed) % 20000;

            len = MIN(len, size - off);
            memset(shadow + off, (int)(k % 5 == 4 ? 0 : k), len);
            if (k % 5 == 4)
                assert_int_equal(blk_write_zeroes(n, off, len, k & 1), 0);
            else
                assert_int_equal(blk_pwrite(n, off, shadow + off, len), 0);
        }
        for (uint64_t off = 0; off < size; off += 65536) {
            uint8_t buf[65536];

            assert_int_equal(blk_pread(n, off, buf, sizeof(buf)), 0);
            assert_memory_equal(buf, shadow + off, sizeof(buf));
        }
        assert_int_equal(n->ops->pwrite_compressed(n, 0, shadow, 4096), -ENOTSUP);
        blk_node_close(n);
        oracle_must(
            "rm -f %s.raw; qemu-img convert --object secret,id=s,data='" SECRET
            "' --image-opts driver=qcow2,encrypt.format=luks,encrypt.key-secret=s,file.filename=%s -O raw %s.raw",
            path, path, path);
        oracle_must("qemu-img check --object secret,id=s,data='" SECRET
                    "' --image-opts driver=qcow2,encrypt.format=luks,encrypt.key-secret=s,file.filename=%s",
                    path);
        {
            char *raw = strdup(oracle_path("luks.qcow2.raw"));
            FILE *f = fopen(raw, "r");
            uint8_t *got = malloc(size);

            assert_true(f && got);
            assert_int_equal(fread(got, 1, size, f), size);
            assert_memory_equal(got, shadow, size);
            fclose(f);
            free(got);
            free(raw);
        }
        free(shadow);
    }
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_headers),   cmocka_unit_test(test_garbled),
        cmocka_unit_test(test_overlap),   cmocka_unit_test(test_lying_refcounts),
        cmocka_unit_test(test_autoclear), cmocka_unit_test(test_fault),
        cmocka_unit_test(test_luks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
