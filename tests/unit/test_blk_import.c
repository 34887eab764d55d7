/* VMDK and VHDX as qemu-img writes them, read back and compared; damaged ones are refused or give errors, never more.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/attr.h"
#include "base/bits.h"
#include "base/crc32c.h"
#include "block/open.h"
#include "fast_dir.h"
#include "oracle.h"

#define DISK_BYTES (9u << 20)

struct fixture {
    char dir[64], raw[96], image[96];
    uint8_t *content;
};

/* Noise, text that packs well, and holes. */
static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    unsigned seed = 3;
    FILE *out;

    assert_non_null(f);
    assert_true(fast_dir_make(f->dir, "import"));
    snprintf(f->raw, sizeof(f->raw), "%s/raw", f->dir);
    snprintf(f->image, sizeof(f->image), "%s/image", f->dir);
    f->content = calloc(1, DISK_BYTES);
    assert_non_null(f->content);
    for (size_t i = 0; i < DISK_BYTES; i++) {
        if (i % (1u << 20) < 200000)
            f->content[i] = (uint8_t)(i >> 20 & 1 ? rand_r(&seed) : "caisson "[i % 8]);
    }
    out = fopen(f->raw, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(f->content, 1, DISK_BYTES, out), DISK_BYTES);
    assert_int_equal(fclose(out), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    oracle_must("rm -rf %s", f->dir);
    free(f->content);
    free(f);
    return 0;
}

static void convert(struct fixture *f, const char *format, const char *options)
{
    oracle_must("qemu-img convert -O %s %s %s %s", format, options, f->raw, f->image);
}

static int open_image(const struct fixture *f, const char *format, struct blk_node **ret, struct blk_why *why)
{
    const struct blk_open_config config = { .path = f->image, .format = format, .read_only = true };

    return blk_open(&config, ret, why);
}

/* Everything in one read, pieces at odd places, and what the extents say. */
static void check_content(struct fixture *f, const char *format)
{
    uint8_t *back = malloc(DISK_BYTES);
    struct blk_node *n = NULL;
    unsigned seed = 5;

    assert_non_null(back);
    assert_int_equal(open_image(f, NULL, &n, NULL), 0);
    assert_string_equal(n->ops->name, format);
    assert_int_equal(n->size, DISK_BYTES);
    assert_int_equal(blk_pread(n, 0, back, DISK_BYTES), 0);
    assert_memory_equal(back, f->content, DISK_BYTES);
    for (unsigned i = 0; i < 200; i++) {
        uint64_t off = (unsigned)rand_r(&seed) % DISK_BYTES, len = 1 + (unsigned)rand_r(&seed) % 150000;
        struct iovec iov[2];

        len = MIN(len, DISK_BYTES - off);
        iov[0] = (struct iovec){ back, len / 3 };
        iov[1] = (struct iovec){ back + len / 3, len - len / 3 };
        assert_int_equal(blk_preadv(n, off, iov, 2, len), 0);
        assert_memory_equal(back, f->content + off, len);
    }
    for (uint64_t off = 0; off < DISK_BYTES;) {
        struct blk_extent x;

        assert_int_equal(blk_extent(n, off, DISK_BYTES - off, &x), 0);
        assert_true(x.len > 0 && x.len <= DISK_BYTES - off);
        assert_true(x.flags & BLK_EXT_ALLOCATED);
        if (x.flags & BLK_EXT_ZERO)
            assert_true(blk_buf_is_zero(f->content + off, x.len));
        if (x.flags & BLK_EXT_HOST && x.flags & BLK_EXT_DATA) {
            uint64_t some = MIN(x.len, 4096);

            assert_int_equal(blk_pread(n->file, x.host_off, back, some), 0);
            assert_memory_equal(back, f->content + off, some);
        }
        off += x.len;
    }
    assert_int_equal(blk_pwrite(n, 0, "x", 1), -EROFS);
    blk_node_close(n);
    free(back);
}

static void test_vmdk(void **state)
{
    struct fixture *f = *state;
    struct blk_node *n = NULL;
    struct blk_why why;

    convert(f, "vmdk", "");
    check_content(f, "vmdk");
    convert(f, "vmdk", "-o subformat=streamOptimized");
    check_content(f, "vmdk");
    /* What is not supported says so. */
    oracle_must("rm %s; qemu-img convert -O vmdk -o subformat=monolithicFlat %s %s", f->image, f->raw, f->image);
    assert_int_equal(open_image(f, "vmdk", &n, &why), -ENOTSUP);
    assert_non_null(strstr(why.text, "other files"));
    oracle_must("cd %s; mv raw base; qemu-img convert -O vmdk base base.vmdk; rm image; "
                "qemu-img create -q -f vmdk -F vmdk -b base.vmdk image",
                f->dir);
    assert_int_equal(open_image(f, "vmdk", &n, &why), -ENOTSUP);
    assert_non_null(strstr(why.text, "parent"));
}

static void test_vhdx(void **state)
{
    struct fixture *f = *state;

    convert(f, "vhdx", "-o subformat=dynamic");
    check_content(f, "vhdx");
    convert(f, "vhdx", "-o subformat=fixed,block_size=2M");
    check_content(f, "vhdx");
    convert(f, "vhdx", "-o block_size=1M,block_state_zero=off");
    check_content(f, "vhdx");
}

/* Damage all over the metadata, and files cut short: an error or wrong bytes, but nothing worse (sanitizers watch). */
static void damage(struct fixture *f, const char *format, const char *options)
{
    static uint8_t back[1 << 20];
    unsigned seed = 11, refused = 0;

    for (unsigned round = 0; round < 150; round++) {
        struct blk_node *n = NULL;
        struct blk_why why;
        FILE *file;
        int res;

        if (round % 50 == 0)
            convert(f, format, options);
        oracle_must("cp %s %s/copy", f->image, f->dir);
        snprintf(f->image + strlen(f->dir), sizeof(f->image) - strlen(f->dir), "/copy");
        file = fopen(f->image, "r+b");
        assert_non_null(file);
        for (unsigned i = 0; i < 1 + round % 4; i++) {
            long at =
                round % 3 ? rand_r(&seed) % (round % 2 ? 96 : 1024) : 65536 * (rand_r(&seed) % 5) + rand_r(&seed) % 256;

            assert_int_equal(fseek(file, at, SEEK_SET), 0);
            assert_int_equal(fputc(rand_r(&seed), file) == EOF, 0);
        }
        assert_int_equal(fclose(file), 0);
        if (round % 5 == 0)
            assert_int_equal(truncate(f->image, rand_r(&seed) % 300000), 0);
        res = open_image(f, format, &n, &why);
        refused += res < 0;
        for (uint64_t off = 0; res == 0 && off < MIN(n->size, 16u << 20); off += sizeof(back))
            (void)!blk_pread(n, off, back, MIN(sizeof(back), n->size - off));
        blk_node_close(n);
        snprintf(f->image + strlen(f->dir), sizeof(f->image) - strlen(f->dir), "/image");
    }
    assert_true(refused > 20);
}

static void test_damage(void **state)
{
    damage(*state, "vmdk", "");
    damage(*state, "vmdk", "-o subformat=streamOptimized");
    damage(*state, "vhdx", "");
}

/* RFC 3720 appendix B.4. */
static void test_crc32c(void **state)
{
    uint8_t b[32] = { 0 };

    (void)state;
    assert_int_equal(crc32c(0, b, 32), 0x8a9136aa);
    memset(b, 0xff, 32);
    assert_int_equal(crc32c(0, b, 32), 0x62a8ab43);
    for (unsigned i = 0; i < 32; i++)
        b[i] = (uint8_t)i;
    assert_int_equal(crc32c(0, b, 32), 0x46dd794e);
    assert_int_equal(crc32c(crc32c(0, b, 5), b + 5, 27), 0x46dd794e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crc32c),
        cmocka_unit_test_setup_teardown(test_vmdk, setup, teardown),
        cmocka_unit_test_setup_teardown(test_vhdx, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damage, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
