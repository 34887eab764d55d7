/* Check and repair of qcow2 images against qemu-img check: on good images of many kinds, and on images with a field
 * made to lie. */
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

#include "base/bits.h"
#include "oracle.h"
#include "qcow2_images.h"

static int our_check(const char *path, unsigned fix, struct blk_check *ret)
{
    struct blk_open_config config = { .path = path,
                                      .format = "qcow2",
                                      .read_only = fix == 0,
                                      .secret = (const uint8_t *)IMG_SECRET,
                                      .secret_len = strlen(IMG_SECRET) };
    struct blk_why why = { 0 };
    struct blk_node *n = NULL;
    int r = blk_open(&config, &n, &why);

    if (r == 0)
        r = n->ops->check(n, fix, ret, &why);
    blk_node_close(n);
    return r;
}

static bool same(const struct blk_check *a, const struct blk_check *b)
{
    return a->leaks == b->leaks && a->corruptions == b->corruptions;
}

static void assert_same(const char *what, const struct blk_check *ours, const struct blk_check *theirs)
{
    if (!same(ours, theirs))
        print_error("%s: ours %llu leaks, %llu corruptions; theirs %llu, %llu\n", what, (unsigned long long)ours->leaks,
                    (unsigned long long)ours->corruptions, (unsigned long long)theirs->leaks,
                    (unsigned long long)theirs->corruptions);
    assert_true(same(ours, theirs));
}

static void test_good(void **state)
{
    (void)state;
    for (unsigned i = 0; i < img_n_kinds; i++) {
        const char *path = oracle_path("good.qcow2");
        struct blk_check ours = { 0 }, theirs;

        img_make(&img_kinds[i], path);
        assert_int_equal(img_qemu_check(path, img_kinds[i].luks, NULL, &theirs), 0);
        assert_int_equal(our_check(path, 0, &ours), 0);
        assert_same(img_kinds[i].name, &ours, &theirs);
        assert_int_equal(ours.leaks + ours.corruptions, 0);
        assert_int_equal(ours.total_clusters, theirs.total_clusters);
        assert_int_equal(ours.allocated_clusters, theirs.allocated_clusters);
        assert_int_equal(ours.fragmented_clusters, theirs.fragmented_clusters);
        assert_int_equal(ours.compressed_clusters, theirs.compressed_clusters);
        assert_int_equal(ours.image_end, theirs.image_end);
    }
}

/* ---- lies ---- */

struct image {
    int fd;
    unsigned cluster_bits, order;
    uint64_t l1, rt, l1_size, l2, rb; /* places; l2, rb: of the first table and block */
    uint64_t size;
    bool extl2;
};

static uint64_t get(int fd, uint64_t off, unsigned bytes)
{
    uint8_t data[8] = { 0 };
    uint64_t v = 0;

    assert_true(pread(fd, data, bytes, (off_t)off) >= 0);
    for (unsigned i = 0; i < bytes; i++)
        v = v << 8 | data[i];
    return v;
}

static void put(int fd, uint64_t off, unsigned bytes, uint64_t v)
{
    uint8_t data[8];

    for (unsigned i = bytes; i-- > 0; v >>= 8)
        data[i] = (uint8_t)v;
    assert_int_equal(pwrite(fd, data, bytes, (off_t)off), bytes);
}

static void image_open(const char *path, struct image *im)
{
    struct stat st;

    im->fd = open(path, O_RDWR);
    assert_true(im->fd >= 0 && fstat(im->fd, &st) == 0);
    im->size = (uint64_t)st.st_size;
    im->cluster_bits = (unsigned)get(im->fd, 20, 4);
    im->l1_size = get(im->fd, 36, 4);
    im->l1 = get(im->fd, 40, 8);
    im->rt = get(im->fd, 48, 8);
    im->order = get(im->fd, 4, 4) == 3 ? (unsigned)get(im->fd, 96, 4) : 4;
    im->extl2 = get(im->fd, 4, 4) == 3 && get(im->fd, 72, 8) & 16;
    im->l2 = get(im->fd, im->l1, 8) & BITS64(55, 9);
    im->rb = get(im->fd, im->rt, 8);
}

static uint64_t random64(void)
{
    return (uint64_t)rand() << 42 ^ (uint64_t)rand() << 21 ^ (uint64_t)rand();
}

/* Give a big endian number another value: a bit flipped, a small change, another cluster, anything. */
static void lie(const struct image *im, uint64_t off)
{
    uint64_t v = get(im->fd, off, 8);

    switch (rand() % 6) {
    case 0:
        v ^= BIT64(rand() % 64);
        break;
    case 1:
        v ^= BIT64(63);
        break;
    case 2: /* somebody else's cluster */
        v = (v & ~BITS64(55, 0)) | align_down(random64() % im->size, BIT64(im->cluster_bits));
        break;
    case 3:
        v = 0;
        break;
    case 4: /* behind the end */
        v = (v & BIT64(63)) | align_up(im->size + random64() % (im->size * 2), BIT64(im->cluster_bits));
        break;
    default:
        v += BIT64(im->cluster_bits);
    }
    put(im->fd, off, 8, v);
}

static void lie_somewhere(const struct image *im)
{
    unsigned entries = (unsigned)BIT(im->cluster_bits) / 8;

    switch (rand() % 5) {
    case 0:
        lie(im, im->l1 + 8 * ((uint64_t)rand() % im->l1_size));
        break;
    case 1:
    case 2:
        if (im->l2)
            lie(im, im->l2 + 8 * ((uint64_t)rand() % MIN(entries, 64u)));
        break;
    case 3: /* some refcounts */
        put(im->fd, im->rb + (uint64_t)rand() % MIN(40u, entries * 8), 1, (uint64_t)rand() % 4);
        break;
    default:
        if (rand() % 4 == 0)
            lie(im, im->rt);
        else
            put(im->fd, im->rb + 2 * ((uint64_t)rand() % 20), 2, (uint64_t)rand() % 3);
    }
}

static bool kinds_differ_by_design(const struct img_kind *kind)
{
    return kind->luks; /* slow: each open derives the key */
}

/* The same figures on damaged images; and images that our repair calls clean, qemu-img calls clean. */
static void test_lies(void **state)
{
    unsigned n_compared = 0, n_wrong = 0, n_repaired = 0, n_refused = 0;

    (void)state;
    srand(20260101);
    for (unsigned i = 0; i < img_n_kinds; i++) {
        const char *good = oracle_path("good.qcow2"), *path = oracle_path("bad.qcow2");

        if (kinds_differ_by_design(&img_kinds[i]))
            continue;
        img_make(&img_kinds[i], good);
        for (unsigned k = 0; k < 24; k++) {
            struct blk_check ours = { 0 }, theirs, fixed = { 0 };
            char what[100];
            struct image im;
            int r, q;

            oracle_must("cp --sparse=always %s %s", good, path);
            image_open(path, &im);
            for (unsigned j = 0; j <= k % 3; j++)
                lie_somewhere(&im);
            close(im.fd);
            snprintf(what, sizeof(what), "%s, lie %u", img_kinds[i].name, k);
            q = img_qemu_check(path, false, NULL, &theirs);
            r = our_check(path, 0, &ours);
            if (r < 0 || q == 1) { /* one of us refuses to open it; never the one that calls it good */
                if (!(r < 0 || ours.leaks + ours.corruptions > 0 || q == 1) || (r < 0 && q == 0))
                    print_error("%s: %d, qemu-img %d\n", what, r, q);
                assert_false(r < 0 && q == 0);
                n_refused++;
                continue;
            }

            assert_same(what, &ours, &theirs);
            n_compared++;
            if (ours.leaks + ours.corruptions == 0)
                continue;
            n_wrong++;
            r = our_check(path, BLK_CHECK_FIX_ALL, &fixed);
            if (r < 0)
                print_error("%s: repair %d\n", what, r);
            assert_int_equal(r, 0);
            q = img_qemu_check(path, false, NULL, &theirs);
            assert_same(what, &fixed, &theirs);
            n_repaired += fixed.corruptions + fixed.leaks == 0;
        }
    }
    print_message("%u images compared, %u of them damaged, %u repaired, %u refused\n", n_compared, n_wrong, n_repaired,
                  n_refused);
    assert_true(n_wrong > 100);
}

/* Leaks are repaired without touching anything else. */
static void test_leaks(void **state)
{
    const char *path = oracle_path("leak.qcow2");
    struct blk_check check = { 0 }, theirs;
    struct blk_node *n;
    uint64_t digest;
    struct image im;

    (void)state;
    img_make(&img_kinds[0], path);
    n = img_open(path, true, 0);
    digest = img_digest(n);
    blk_node_close(n);
    image_open(path, &im);
    put(im.fd, 72, 8, get(im.fd, 72, 8) | 2); /* somebody found it corrupt */
    put(im.fd, im.rb + 2 * 100, 2, 1);        /* nobody's cluster, behind the end: qemu-img does not look there */
    put(im.fd, im.rb + 2, 2, 2);
    put(im.fd, im.rb + 6, 2, 3);
    close(im.fd);
    assert_int_equal(img_qemu_check(path, false, NULL, &theirs), 3);
    n = img_open(path, false, 0);
    assert_int_equal(blk_pwrite(n, 0, "x", 1), -EIO);
    blk_node_close(n);
    assert_int_equal(our_check(path, BLK_CHECK_FIX_LEAKS, &check), 0);
    assert_int_equal(check.leaks, 0);
    assert_int_equal(check.leaks_fixed, theirs.leaks);
    image_open(path, &im);
    assert_int_equal(get(im.fd, 72, 8), 0);
    close(im.fd);
    assert_int_equal(img_qemu_check(path, false, NULL, &theirs), 0);
    n = img_open(path, true, 0);
    assert_true(img_digest(n) == digest);
    blk_node_close(n);
}

/* All refcounts lost: made anew, and the content stays. */
static void test_rebuild(void **state)
{
    (void)state;
    for (unsigned i = 0; i < img_n_kinds; i++) {
        const char *path = oracle_path("rebuild.qcow2");
        struct blk_check check = { 0 }, theirs;
        struct blk_node *n;
        struct image im;
        uint64_t digest;

        img_make(&img_kinds[i], path);
        n = img_open(path, true, 0);
        digest = img_digest(n);
        blk_node_close(n);
        image_open(path, &im);
        put(im.fd, im.rt, 8, 0);
        close(im.fd);
        assert_int_equal(our_check(path, BLK_CHECK_FIX_ALL, &check), 0);
        assert_int_equal(check.corruptions + check.leaks, 0);
        assert_true(check.corruptions_fixed > 0);
        if (img_qemu_check(path, img_kinds[i].luks, NULL, &theirs) != 0)
            print_error("%s\n", img_kinds[i].name);
        assert_int_equal(theirs.corruptions + theirs.leaks, 0);
        n = img_open(path, true, 0);
        assert_true(img_digest(n) == digest);
        blk_node_close(n);
    }
}

/* An image with lazy refcounts whose user was killed has to be repaired when it is opened for writing. */
static void test_dirty(void **state)
{
    const char *path = oracle_path("dirty.qcow2");
    struct blk_check check = { 0 }, theirs;
    struct blk_info info;
    struct blk_node *n;
    uint64_t digest;
    struct image im;

    (void)state;
    for (unsigned i = 0; i < img_n_kinds; i++) {
        if (img_kinds[i].luks || (img_kinds[i].options && strstr(img_kinds[i].options, "0.10")))
            continue;
        img_make(&img_kinds[i], path);
        n = img_open(path, true, 0);
        digest = img_digest(n);
        blk_node_close(n);
        image_open(path, &im);
        put(im.fd, 72, 8, get(im.fd, 72, 8) | 1);
        for (unsigned k = 4; k < 16; k++) /* refcounts as they were before the last writes */
            put(im.fd, im.rb + k, 1, 0);
        close(im.fd);
        n = img_open(path, true, 0); /* for reading it does not matter */
        assert_true(img_digest(n) == digest);
        blk_node_close(n);
        n = img_open(path, false, 0);
        blk_node_info(n, &info);
        assert_false(info.dirty);
        assert_true(img_digest(n) == digest);
        blk_node_close(n);
        assert_int_equal(img_qemu_check(path, false, NULL, &theirs), 0);
        assert_int_equal(our_check(path, 0, &check), 0);
        assert_int_equal(check.corruptions + check.leaks, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),    cmocka_unit_test(test_lies),  cmocka_unit_test(test_leaks),
        cmocka_unit_test(test_rebuild), cmocka_unit_test(test_dirty),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
