/* qcow2 images in chains, of changing sizes, and where their data stands; against qemu-img. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "oracle.h"
#include "qcow2_rig.h"

#define REQUESTS 400

/* qemu takes a relative name of a data file as of its own working directory, so it is an absolute one. */
static void with_data_file(struct blk_create_config *config)
{
    if (config->data_file)
        config->data_file = oracle_path(config->data_file);
}

/* ---- backing chains ---- */

static void chain_case(uint64_t base_size, uint64_t top_size, const struct blk_create_config *form)
{
    const char *base = oracle_path("base.raw"), *mid = oracle_path("mid.qcow2"), *top = oracle_path("top.qcow2");
    struct blk_create_config config = *form;
    struct rig r;

    rig_raw(base, base_size, base_size);
    unlink(mid);
    unlink(top);
    oracle_must("qemu-img create -q -f qcow2 -b %s -F raw %s", base, mid);
    oracle_must("qemu-io -c 'write -P 9 64k 70k' %s", mid);
    config.path = top;
    config.format = "qcow2";
    config.size = top_size;
    config.backing_path = "mid.qcow2";
    config.backing_format = "qcow2";
    rig_create(&config);
    oracle_must("qemu-img convert -f qcow2 -O raw %s %s", top, oracle_path("flat.raw"));
    rig_begin(&r, top, top_size);
    rig_same(&r, oracle_path("flat.raw"));
    assert_int_equal(r.shadow[64 << 10], 9);
    rig_requests(&r, REQUESTS);
    rig_end(&r);
}

static void test_chains(void **state)
{
    static const struct blk_create_config forms[] = {
        { .cluster_size = 0 },       { .version = 2 },
        { .extended_l2 = true },     { .cluster_size = 512 },
        { .cluster_size = 2 << 20 }, { .extended_l2 = true, .prealloc = BLK_PREALLOC_METADATA },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
        print_message("form %zu\n", i);
        chain_case(2 << 20, 2 << 20, &forms[i]);
        chain_case(1 << 20, (3 << 20) + 512, &forms[i]);
        chain_case((3 << 20) + 1536, 2 << 20, &forms[i]);
    }
}

static void test_set_backing_and_forget(void **state)
{
    const char *base = oracle_path("sb.raw"), *top = oracle_path("sb.qcow2");
    struct blk_create_config config = {
        .path = top, .format = "qcow2", .size = 1 << 20, .backing_path = base, .backing_format = "raw"
    };
    uint8_t want[4096], got[4096];
    struct blk_node *n;
    struct blk_info info;

    (void)state;
    rig_raw(base, 1 << 20, 5);
    rig_create(&config);
    n = rig_open(top, false);
    assert_int_equal(blk_pread(n, 128 << 10, want, sizeof(want)), 0);
    memset(got, 0x11, sizeof(got));
    assert_int_equal(blk_pwrite(n, 128 << 10, got, sizeof(got)), 0);
    assert_int_equal(n->ops->forget(n, 0, 1 << 20), 0);
    assert_int_equal(blk_pread(n, 128 << 10, got, sizeof(got)), 0);
    assert_memory_equal(got, want, sizeof(got));
    assert_int_equal(n->ops->set_backing(n, "other.raw", NULL, NULL), 0);
    blk_node_info(n, &info);
    assert_string_equal(info.backing_path, "other.raw");
    assert_null(info.backing_format);
    assert_int_equal(n->ops->set_backing(n, NULL, NULL, NULL), 0);
    blk_node_close(n);
    oracle_must("qemu-img check %s && ! qemu-img info %s | grep -q backing", top, top);
    n = rig_open(top, true);
    assert_null(n->backing);
    blk_node_close(n);
}

/* What was written as zeroes stays so when a backing file comes; and clusters are not filled up from a chain that was
 * not opened. */
static void test_late_backing(void **state)
{
    static const struct blk_create_config forms[] = { { .cluster_size = 0 }, { .extended_l2 = true } };
    char *base = strdup(oracle_path("late.raw")), *top = strdup(oracle_path("late.qcow2"));
    uint8_t got[4096], zero[4096] = { 0 }, ones[4096];
    struct blk_open_config open = { .path = top, .format = "qcow2", .backing = BLK_BACKING_NONE };

    (void)state;
    memset(ones, 1, sizeof(ones));
    oracle_must("head -c 1048576 /dev/zero | tr '\\0' x > %s", base);
    for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
        struct blk_create_config config = forms[i];
        struct blk_node *n;

        config.path = top;
        config.format = "qcow2";
        config.size = 1 << 20;
        config.overwrite = true;
        rig_create(&config);
        n = rig_open(top, false);
        assert_int_equal(blk_write_zeroes(n, 0, 128 << 10, BLK_ZERO_UNMAP), 0);
        assert_int_equal(blk_write_zeroes(n, (256 << 10) + 4096, 4096, 0), 0);
        assert_int_equal(n->ops->set_backing(n, base, "raw", NULL), 0);
        blk_node_close(n);
        n = rig_open(top, false);
        assert_int_equal(blk_pread(n, 100 << 10, got, sizeof(got)), 0);
        assert_memory_equal(got, zero, sizeof(got));
        assert_int_equal(blk_pread(n, (256 << 10) + 4096, got, sizeof(got)), 0);
        assert_memory_equal(got, zero, sizeof(got));
        assert_int_equal(blk_pread(n, 512 << 10, got, sizeof(got)), 0);
        assert_int_equal(got[0], 'x');
        blk_node_close(n);
        assert_int_equal(blk_open(&open, &n, NULL), 0);
        assert_int_equal(blk_pwrite(n, 700000, ones, 4000), -EINVAL);
        assert_int_equal(blk_pwrite(n, 64 << 10, ones, 4000), 0); /* is zeroes, not the backing file's */
        blk_node_close(n);
        oracle_must("qemu-img check %s", top);
    }
    free(base);
    free(top);
}

/* ---- size ---- */

static void resize_to(struct rig *r, uint64_t size, enum blk_prealloc prealloc)
{
    assert_int_equal(blk_resize(r->n, size, prealloc, NULL), 0);
    r->shadow = realloc(r->shadow, size);
    assert_non_null(r->shadow);
    if (size > r->size)
        memset(r->shadow + r->size, 0, size - r->size);
    r->size = size;
}

static void resize_case(const struct blk_create_config *form, const char *backing)
{
    static const uint64_t sizes[] = { 900 << 10, (3 << 20) + 512, (1 << 20) + 1024, 1536, 7 << 20, 2 << 20, 4 << 20 };
    struct blk_create_config config = *form;
    struct rig r;

    config.path = oracle_path("resize.qcow2");
    config.format = "qcow2";
    config.size = (1 << 20) + 512;
    config.overwrite = true;
    config.backing_path = backing;
    config.backing_format = "raw";
    with_data_file(&config);
    rig_create(&config);
    rig_begin(&r, config.path, 31);
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        bool plain = backing || sizes[i] < r.size;

        rig_requests(&r, 60);
        resize_to(&r, sizes[i], plain ? BLK_PREALLOC_OFF : (enum blk_prealloc)(i % 4));
        rig_verify(&r);
        if (i % 3 == 1)
            rig_judge(&r);
    }
    rig_end(&r);
}

static void test_resize(void **state)
{
    static const struct blk_create_config forms[] = {
        { .cluster_size = 0 },
        { .version = 2, .cluster_size = 512 },
        { .extended_l2 = true },
        { .cluster_size = 4096 },
        { .data_file = "resize.data", .data_file_raw = true },
        { .data_file = "resize.data" },
    };
    char *base = strdup(oracle_path("resize-base.raw"));

    (void)state;
    assert_non_null(base);
    rig_raw(base, 6 << 20, 17);
    for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
        print_message("form %zu\n", i);
        resize_case(&forms[i], NULL);
        if (!forms[i].data_file)
            resize_case(&forms[i], base);
    }
    free(base);
}

/* ---- extents and pieces ---- */

static void test_map(void **state)
{
    const char *path = oracle_path("map.qcow2");
    struct blk_create_config config = { .path = path, .format = "qcow2", .size = 8 << 20 };
    struct blk_piece pieces[BLK_PIECES_MAX];
    struct blk_extent x;
    uint8_t data[65536], got[65536];
    struct blk_node *n;

    (void)state;
    rig_create(&config);
    n = rig_open(path, false);
    assert_int_equal(blk_map(n, BLK_READ, 0, 1 << 20, pieces), 1);
    assert_int_equal(pieces[0].fd, -1);
    blk_unmap(n);
    assert_int_equal(blk_map(n, BLK_WRITE, 0, 4096, pieces), 0);
    memset(data, 0x5c, sizeof(data));
    assert_int_equal(blk_pwrite(n, 1 << 20, data, sizeof(data)), 0);
    assert_int_equal(blk_map(n, BLK_READ, (1 << 20) - 4096, 8192, pieces), 2);
    assert_int_equal(pieces[0].fd, -1);
    assert_int_equal(pieces[0].len, 4096);
    assert_int_equal(pread(pieces[1].fd, got, 4096, (off_t)pieces[1].off), 4096);
    assert_memory_equal(got, data, 4096);
    blk_unmap(n);
    assert_int_equal(blk_map(n, BLK_WRITE, (1 << 20) + 4096, 8192, pieces), 1);
    memset(data, 0x3d, 8192);
    assert_int_equal(pwrite(pieces[0].fd, data, 8192, (off_t)pieces[0].off), 8192);
    /* Discarded and written elsewhere meanwhile: the mapped storage must not be reused before unmap. */
    assert_int_equal(blk_discard(n, 1 << 20, 65536), 0);
    assert_int_equal(blk_flush(n), 0);
    assert_int_equal(blk_flush(n), 0);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(blk_pwrite(n, (2u << 20) + i * 65536, data + 16384, 32768), 0);
    assert_int_equal(pwrite(pieces[0].fd, data, 8192, (off_t)pieces[0].off), 8192);
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(blk_pread(n, (2u << 20) + i * 65536, got, 32768), 0);
        assert_memory_equal(got, data + 16384, 32768);
    }
    blk_unmap(n);
    assert_int_equal(blk_extent(n, 0, 8 << 20, &x), 0);
    assert_int_equal(x.flags, BLK_EXT_ZERO);
    assert_int_equal(x.len, 2 << 20);
    assert_int_equal(blk_extent(n, 2 << 20, 6 << 20, &x), 0);
    assert_int_equal(x.flags, BLK_EXT_DATA | BLK_EXT_ALLOCATED | BLK_EXT_HOST);
    assert_int_equal(x.len, 8 * 65536);
    blk_node_close(n);
    oracle_must("qemu-img check %s", path);
}

/* O_DIRECT, with requests of any alignment. */
static void test_direct(void **state)
{
    char *path = strdup(oracle_path("direct.qcow2"));
    struct blk_create_config config = { .path = path, .format = "qcow2", .size = 3 << 20, .cluster_size = 16384 };
    struct blk_open_config open = { .path = path, .format = "qcow2", .cache = BLK_CACHE_NONE };
    struct rig r;
    int res;

    (void)state;
    rig_create(&config);
    rig_begin(&r, path, 11);
    blk_node_close(r.n);
    res = blk_open(&open, &r.n, NULL);
    if (res == -EINVAL) { /* a file system without O_DIRECT */
        r.n = rig_open(path, false);
        print_message("no O_DIRECT here\n");
    } else {
        assert_int_equal(res, 0);
    }
    rig_requests(&r, 200);
    rig_end(&r);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chains),       cmocka_unit_test(test_set_backing_and_forget),
        cmocka_unit_test(test_late_backing), cmocka_unit_test(test_resize),
        cmocka_unit_test(test_map),          cmocka_unit_test(test_direct),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
