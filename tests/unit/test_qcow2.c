/* qcow2 against qemu-img: images that either makes, filled by random requests, in the forms that the format has. */
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

/* ---- images that we make ---- */

/* qemu takes a relative name of a data file as of its own working directory, so it is an absolute one. */
static void with_data_file(struct blk_create_config *config)
{
    if (config->data_file)
        config->data_file = oracle_path(config->data_file);
}

static void test_ours(void **state)
{
    static const struct blk_create_config forms[] = {
        { .cluster_size = 0 },
        { .version = 2 },
        { .version = 2, .cluster_size = 512 },
        { .cluster_size = 512, .refcount_bits = 64 },
        { .cluster_size = 512, .refcount_bits = 1 },
        { .cluster_size = 4096, .refcount_bits = 2 },
        { .cluster_size = 4096, .refcount_bits = 4, .zstd = true },
        { .cluster_size = 1024, .refcount_bits = 8 },
        { .cluster_size = 2 << 20, .refcount_bits = 32 },
        { .lazy_refcounts = true },
        { .zstd = true },
        { .extended_l2 = true, .cluster_size = 16384 },
        { .extended_l2 = true },
        { .extended_l2 = true, .zstd = true, .cluster_size = 1 << 20 },
        { .data_file = "data.raw" },
        { .data_file = "data.raw", .data_file_raw = true },
        { .data_file = "data.raw", .extended_l2 = true },
        { .prealloc = BLK_PREALLOC_METADATA },
        { .prealloc = BLK_PREALLOC_FALLOC, .cluster_size = 4096 },
        { .prealloc = BLK_PREALLOC_FULL, .extended_l2 = true },
        { .prealloc = BLK_PREALLOC_METADATA, .data_file = "data.raw" },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
        struct blk_create_config config = forms[i];
        struct rig r;

        print_message("form %zu\n", i);
        config.path = oracle_path("ours.qcow2");
        config.format = "qcow2";
        config.size = (5 << 20) + 512 * 3;
        config.overwrite = true;
        with_data_file(&config);
        rig_create(&config);
        rig_begin(&r, config.path, 88172645463325252u + i);
        for (uint64_t k = 0; k < r.size; k++)
            assert_int_equal(r.shadow[k], 0);
        rig_requests(&r, REQUESTS);
        rig_judge(&r);
        rig_requests(&r, REQUESTS);
        rig_end(&r);
        if (config.data_file_raw)
            oracle_must("qemu-img compare -f raw -F qcow2 %s %s", config.data_file, config.path);
    }
}

/* ---- images that qemu makes ---- */

static void test_theirs(void **state)
{
    static const char *const forms[] = {
        "compat=1.1",
        "compat=0.10",
        "compat=0.10,cluster_size=512",
        "compat=1.1,cluster_size=2M",
        "compat=1.1,refcount_bits=1",
        "compat=1.1,refcount_bits=64,cluster_size=1k",
        "compat=1.1,lazy_refcounts=on",
        "compat=1.1,extended_l2=on,cluster_size=16k",
        "compat=1.1,extended_l2=on",
        "compat=1.1,compression_type=zstd",
        "compat=1.1,compression_type=zstd,cluster_size=4k",
        "compat=1.1,preallocation=metadata",
        "compat=1.1,preallocation=falloc,extended_l2=on",
    };
    char *raw = strdup(oracle_path("source.raw"));
    struct rig r;

    (void)state;
    assert_non_null(raw);
    rig_raw(raw, (5 << 20) + 1024, 99);
    for (size_t i = 0; i < ARRAY_SIZE(forms) * 2; i++) {
        const char *path = oracle_path("theirs.qcow2"), *form = forms[i / 2];

        if (i & 1 && strstr(form, "prealloc"))
            continue;
        print_message("form %s %s\n", form, i & 1 ? "compressed" : "");
        oracle_must("qemu-img convert -f raw -O qcow2 %s -o %s %s %s", i & 1 ? "-c" : "", form, raw, path);
        rig_begin(&r, path, 1234567 + i);
        rig_same(&r, raw);
        rig_requests(&r, REQUESTS);
        rig_end(&r);
    }
    free(raw);
}

static void test_data_file_theirs(void **state)
{
    char *path = strdup(oracle_path("ext.qcow2")), *data = strdup(oracle_path("ext.data"));
    struct rig r;

    (void)state;
    assert_true(path && data);
    for (unsigned raw = 0; raw < 2; raw++) {
        oracle_must("cd %.*s && rm -f ext.* && qemu-img create -q -f qcow2 -o data_file=%s,data_file_raw=%s %s 3M",
                    (int)(strrchr(path, '/') - path), path, data, raw ? "on" : "off", path);
        oracle_must("qemu-io -c 'write -P 3 100k 300k' -c 'write -z 200k 64k' %s", path);
        rig_begin(&r, path, 7);
        assert_int_equal(r.shadow[100 << 10], 3);
        assert_int_equal(r.shadow[200 << 10], 0);
        rig_requests(&r, REQUESTS);
        rig_end(&r);
        if (raw)
            oracle_must("qemu-img compare -f qcow2 -F raw %s %s", path, data);
    }
    free(path);
    free(data);
}

/* Lazy refcounts of a qemu that died: repaired when opened for writing. */
static void test_dirty(void **state)
{
    const char *path = oracle_path("dirty.qcow2");
    struct blk_info info;
    struct blk_node *n;
    struct rig r;

    (void)state;
    oracle_must("qemu-img create -q -f qcow2 -o lazy_refcounts=on %s 4M", path);
    (void)!oracle_run(NULL, 0, "qemu-io -c 'write -P 7 0 300k' -c 'write -P 8 2M 100k' -c flush -c abort %s", path);
    n = rig_open(path, true);
    blk_node_info(n, &info);
    assert_true(info.dirty);
    blk_node_close(n);
    rig_begin(&r, path, 3);
    blk_node_info(r.n, &info);
    assert_false(info.dirty);
    assert_int_equal(r.shadow[1000], 7);
    assert_int_equal(r.shadow[2 << 20], 8);
    rig_requests(&r, REQUESTS);
    rig_end(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ours),
        cmocka_unit_test(test_theirs),
        cmocka_unit_test(test_data_file_theirs),
        cmocka_unit_test(test_dirty),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
