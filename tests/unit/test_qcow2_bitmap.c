/* Persistent dirty bitmaps: qemu's read and kept up by us, ours read by qemu, through NBD's dirty-bitmap context. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "oracle.h"
#include "qcow2_images.h"

#define DISK (64u << 20)

static void must(const char *what, int r, int want, const struct blk_why *why)
{
    if (r != want)
        print_error("%s: %d %s\n", what, r, why->text ? why->text : "");
    assert_int_equal(r, want);
}

static void add(struct blk_node *n, const char *name, uint32_t granularity, bool enabled, int want)
{
    struct blk_why why = { 0 };

    must(name, n->ops->bitmap_add(n, name, granularity, enabled, &why), want, &why);
}

static void fill(struct blk_node *n, uint64_t off, uint64_t len, int byte)
{
    void *data = malloc(len);

    memset(data, byte, len);
    assert_int_equal(blk_pwrite(n, off, data, len), 0);
    free(data);
}

static void clean(const char *path)
{
    struct blk_check theirs;

    assert_int_equal(img_qemu_check(path, false, NULL, &theirs), 0);
}

/* All dirty ranges as text: "off+len off+len ...". */
static const char *dirty(struct blk_node *n, const char *name)
{
    static char text[8192];
    uint64_t off = 0, len = 0;
    size_t at = 0;
    int r;

    text[0] = '\0';
    while ((r = n->ops->bitmap_next(n, name, off + len, &off, &len)) == 1) {
        at += (size_t)snprintf(text + at, sizeof(text) - at, "%s%llu+%llu", at ? " " : "", (unsigned long long)off,
                               (unsigned long long)len);
        assert_true(at < sizeof(text) - 50);
    }
    assert_int_equal(r, 0);
    return text;
}

/* The same by way of qemu-nbd and nbdinfo. */
static const char *qemu_dirty(const char *path, const char *name)
{
    static char text[8192];
    char out[16384], *line = out, *next;
    size_t at = 0;

    assert_int_equal(oracle_run(out, sizeof(out),
                                "nbdinfo --map=qemu:dirty-bitmap:%s -- [ qemu-nbd -r -t -f qcow2 -B %s %s ]", name,
                                name, path),
                     0);
    text[0] = '\0';
    for (; *line; line = next) {
        unsigned long long off, len;
        int type;

        next = strchrnul(line, '\n');
        next += *next == '\n';
        if (sscanf(line, "%llu %llu %d", &off, &len, &type) == 3 && type == 1)
            at += (size_t)snprintf(text + at, sizeof(text) - at, "%s%llu+%llu", at ? " " : "", off, len);
    }
    return text;
}

static void make(const char *path, const char *options)
{
    unlink(path);
    oracle_must("qemu-img create -q -f qcow2 %s %s %u", options, path, DISK);
}

/* Ours, recorded while writing: what qemu sees after the end. */
static void test_ours(void **state)
{
    static const char *const options[] = { "", "-o cluster_size=512", "-o cluster_size=2M", "-o extended_l2=on" };
    char want[8192];

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(options); i++) {
        const char *path = oracle_path("ours.qcow2");
        struct blk_node *n;

        make(path, options[i]);
        n = img_open(path, false, 0);
        fill(n, 0, 65536, 1); /* before there is a bitmap */
        add(n, "a", 65536, true, 0);
        add(n, "fine", 512, true, 0);
        add(n, "off", 65536, false, 0);
        add(n, "a", 65536, true, -EEXIST);
        add(n, "bad", 1000, true, -EINVAL);
        add(n, "bad", 256, true, -EINVAL);
        add(n, "", 65536, true, -EINVAL);
        fill(n, 100000, 5, 2);
        fill(n, 1 << 20, 300000, 3);
        assert_int_equal(blk_write_zeroes(n, 10 << 20, 1 << 20, 0), 0);
        assert_int_equal(blk_discard(n, 20 << 20, 1 << 20), 0);
        fill(n, DISK - 512, 512, 4);
        assert_string_equal(dirty(n, "a"),
                            "65536+65536 1048576+327680 10485760+1048576 20971520+1048576 67043328+65536");
        assert_string_equal(dirty(n, "off"), "");
        snprintf(want, sizeof(want), "%s", dirty(n, "fine"));
        assert_non_null(strstr(want, "99840+512 "));
        blk_node_close(n);
        clean(path);
        assert_string_equal(qemu_dirty(path, "fine"), want);
        assert_string_equal(qemu_dirty(path, "a"),
                            "65536+65536 1048576+327680 10485760+1048576 20971520+1048576 67043328+65536");
        assert_string_equal(qemu_dirty(path, "off"), "");
        n = img_open(path, true, 0);
        assert_string_equal(dirty(n, "fine"), want);
        blk_node_close(n);
    }
}

/* qemu's: read, gone on with, and the other way round. */
static void test_qemus(void **state)
{
    const char *path = oracle_path("qemus.qcow2");
    struct blk_bitmap *list;
    struct blk_node *n;
    unsigned count;
    char out[8192];

    (void)state;
    make(path, "");
    oracle_must("qemu-img bitmap --add -g 32k %s one && qemu-img bitmap --add --disable %s two", path, path);
    oracle_must("qemu-io -f qcow2 -c 'write 1M 40k' %s", path);
    n = img_open(path, false, 0);
    assert_int_equal(n->ops->bitmap_list(n, &list, &count), 0);
    assert_int_equal(count, 2);
    assert_string_equal(list[0].name, "one");
    assert_int_equal(list[0].granularity, 32768);
    assert_true(list[0].enabled && !list[0].in_use);
    assert_int_equal(list[0].dirty, 65536);
    assert_string_equal(list[1].name, "two");
    assert_true(!list[1].enabled && !list[1].in_use);
    assert_int_equal(list[1].granularity, 65536);
    free(list);
    fill(n, 5 << 20, 1, 1);
    assert_int_equal(n->ops->bitmap_enable(n, "two", true, NULL), 0);
    fill(n, 6 << 20, 1, 1);
    assert_int_equal(n->ops->bitmap_enable(n, "one", false, NULL), 0);
    fill(n, 7 << 20, 1, 1);
    assert_int_equal(n->ops->bitmap_enable(n, "none", false, NULL), -ENOENT);
    assert_int_equal(n->ops->bitmap_next(n, "none", 0, &(uint64_t){ 0 }, &(uint64_t){ 0 }), -ENOENT);
    blk_node_close(n);
    clean(path);
    assert_string_equal(qemu_dirty(path, "one"), "1048576+65536 5242880+32768 6291456+32768");
    assert_string_equal(qemu_dirty(path, "two"), "6291456+65536 7340032+65536");
    assert_int_equal(oracle_run(out, sizeof(out), "qemu-img info %s | tr -s ' \\n' ' '", path), 0);
    assert_non_null(strstr(out, "flags: name: one granularity: 32768"));
    assert_non_null(strstr(out, "flags: [0]: auto name: two granularity: 65536"));
    /* A merge, ours and qemu's. */
    oracle_must("qemu-img bitmap --merge two %s one", path);
    assert_string_equal(qemu_dirty(path, "one"), "1048576+65536 5242880+32768 6291456+65536 7340032+65536");
    n = img_open(path, false, 0);
    assert_string_equal(dirty(n, "one"), "1048576+65536 5242880+32768 6291456+65536 7340032+65536");
    assert_int_equal(n->ops->bitmap_set(n, "one", 0, 1 << 20), 0);
    assert_int_equal(n->ops->bitmap_set(n, "one", DISK - 1, 1), 0);
    assert_int_equal(n->ops->bitmap_set(n, "one", DISK - 1, 2), -EINVAL);
    assert_int_equal(n->ops->bitmap_clear(n, "two", NULL), 0);
    assert_int_equal(n->ops->bitmap_remove(n, "nobody", NULL), -ENOENT);
    blk_node_close(n);
    clean(path);
    assert_string_equal(qemu_dirty(path, "one"), "0+1114112 5242880+32768 6291456+65536 7340032+65536 67076096+32768");
    assert_string_equal(qemu_dirty(path, "two"), "");
    n = img_open(path, false, 0);
    assert_int_equal(n->ops->bitmap_remove(n, "one", NULL), 0);
    fill(n, 0, 1, 1);
    assert_int_equal(n->ops->bitmap_remove(n, "two", NULL), 0);
    fill(n, 0, 1 << 20, 1);
    assert_int_equal(n->ops->bitmap_list(n, &list, &count), 0);
    assert_int_equal(count, 0);
    free(list);
    blk_node_close(n);
    clean(path);
    assert_int_equal(oracle_run(out, sizeof(out), "qemu-img info %s", path), 0);
    assert_null(strstr(out, "bitmaps"));
}

/* Everything dirty, a whole cluster of ones; much of it, and other sizes of the disk. */
static void test_big(void **state)
{
    const char *path = oracle_path("big.qcow2");
    struct blk_why why = { 0 };
    struct blk_node *n;
    char want[8192];

    (void)state;
    make(path, "-o cluster_size=512");
    n = img_open(path, false, 0);
    add(n, "b", 512, true, 0);
    assert_int_equal(n->ops->bitmap_set(n, "b", 0, DISK), 0);
    assert_string_equal(dirty(n, "b"), "0+67108864");
    blk_node_close(n);
    clean(path);
    assert_string_equal(qemu_dirty(path, "b"), "0+67108864");
    n = img_open(path, false, 0);
    assert_string_equal(dirty(n, "b"), "0+67108864");
    must("shrink", blk_resize(n, DISK / 2 - 512, BLK_PREALLOC_OFF, &why), 0, &why);
    assert_string_equal(dirty(n, "b"), "0+33553920");
    must("grow", blk_resize(n, DISK * 4, BLK_PREALLOC_OFF, &why), 0, &why);
    assert_string_equal(dirty(n, "b"), "0+33553920");
    fill(n, DISK * 3, 512, 1);
    snprintf(want, sizeof(want), "0+33553920 %u+512", DISK * 3);
    assert_string_equal(dirty(n, "b"), want);
    blk_node_close(n);
    clean(path);
    assert_string_equal(qemu_dirty(path, "b"), want);
    n = img_open(path, false, 0);
    must("shrink", blk_resize(n, 1 << 20, BLK_PREALLOC_OFF, &why), 0, &why);
    blk_node_close(n);
    clean(path);
    assert_string_equal(qemu_dirty(path, "b"), "0+1048576");
}

static int no_room(struct blk_node *n, uint64_t size, enum blk_prealloc prealloc, struct blk_why *why)
{
    (void)n, (void)size, (void)prealloc, (void)why;
    return -ENOSPC;
}

static int no_header(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len)
{
    const struct blk_node_ops *ops = n->ops;
    int r;

    if (off == 0)
        return -EIO;
    n->ops = ops - 1; /* what it was */
    r = blk_pwritev(n, off, iov, n_iov, len);
    n->ops = ops;
    return r;
}

/* A change of the size that fails leaves what is known about changes as it was, too. */
static void test_size_stays(void **state)
{
    const char *path = oracle_path("stays.qcow2");
    struct blk_node_ops ops[2];
    struct blk_node *n;

    (void)state;
    oracle_must("qemu-img create -q -f qcow2 -o cluster_size=512 %s 4M", path);
    n = img_open(path, false, 0);
    add(n, "on", 512, true, 0);
    add(n, "off", 512, true, 0);
    fill(n, 3 << 20, 512, 1);
    assert_int_equal(n->ops->bitmap_enable(n, "off", false, NULL), 0);
    ops[0] = *n->file->ops;
    for (unsigned i = 0; i < 2; i++) {
        const struct blk_node_ops *good = n->file->ops;

        ops[1] = ops[0];
        if (i)
            ops[1].pwrite = no_header;
        else
            ops[1].resize = no_room;
        n->file->ops = &ops[1];
        assert_int_equal(blk_resize(n, i ? 1 << 20 : 16 << 20, i ? BLK_PREALLOC_OFF : BLK_PREALLOC_FULL, NULL),
                         i ? -EIO : -ENOSPC);
        n->file->ops = good;
        assert_int_equal(n->size, 4 << 20);
        blk_node_close(n);
        clean(path);
        assert_string_equal(qemu_dirty(path, "on"), "3145728+512");
        assert_string_equal(qemu_dirty(path, "off"), "3145728+512");
        n = img_open(path, false, 0);
        assert_string_equal(dirty(n, "on"), "3145728+512");
        assert_string_equal(dirty(n, "off"), "3145728+512");
    }
    blk_node_close(n);
}

/* While open for writing, and after a crash, the file says that its bits are not to be trusted. */
static void test_crash(void **state)
{
    const char *path = oracle_path("crash.qcow2"), *copy = oracle_path("crashed.qcow2");
    struct blk_bitmap *list;
    struct blk_node *n;
    unsigned count;
    char out[8192];

    (void)state;
    make(path, "");
    n = img_open(path, false, 0);
    add(n, "a", 65536, true, 0);
    add(n, "still", 65536, false, 0);
    blk_node_close(n);
    n = img_open(path, true, 0); /* reading does no harm */
    oracle_must("qemu-img info -U %s | grep -A9 'bitmaps' | grep -q in-use && exit 1 || exit 0", path);
    blk_node_close(n);
    n = img_open(path, false, 0);
    fill(n, 0, 1, 1);
    assert_int_equal(blk_flush(n), 0);
    oracle_must("cp %s %s", path, copy);
    blk_node_close(n);
    assert_int_equal(oracle_run(out, sizeof(out), "qemu-img info %s", copy), 0);
    assert_non_null(strstr(out, "[0]: in-use"));
    n = img_open(copy, false, 0);
    assert_int_equal(n->ops->bitmap_list(n, &list, &count), 0);
    assert_int_equal(count, 2);
    assert_true(list[0].in_use);
    assert_false(list[1].in_use); /* it did not record, so it is as it was */
    free(list);
    assert_int_equal(n->ops->bitmap_next(n, "a", 0, &(uint64_t){ 0 }, &(uint64_t){ 0 }), -ESTALE);
    assert_int_equal(n->ops->bitmap_clear(n, "a", NULL), -ESTALE);
    assert_int_equal(n->ops->bitmap_enable(n, "a", true, NULL), -ESTALE);
    assert_int_equal(n->ops->bitmap_remove(n, "a", NULL), 0);
    blk_node_close(n);
    clean(copy);
    n = img_open(path, true, 0);
    assert_string_equal(dirty(n, "a"), "0+65536");
    blk_node_close(n);
}

struct writer {
    struct blk_node *n;
    unsigned first;
};

static void *write_some(void *opaque)
{
    const struct writer *w = opaque;
    uint8_t data[512] = { 1 };

    for (unsigned i = w->first; i < DISK / 65536; i += 4) {
        if (blk_pwrite(w->n, (uint64_t)i * 65536 + 1024, data, sizeof(data)) < 0)
            return opaque;
    }
    return NULL;
}

/* Bits in the same words from four threads: none is lost. */
static void test_threads(void **state)
{
    const char *path = oracle_path("threads.qcow2");
    struct writer writers[4];
    pthread_t threads[4];
    struct blk_node *n;

    (void)state;
    make(path, "");
    n = img_open(path, false, 0);
    add(n, "a", 65536, true, 0);
    for (unsigned i = 0; i < 4; i++) {
        writers[i] = (struct writer){ n, i };
        assert_int_equal(pthread_create(&threads[i], NULL, write_some, &writers[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++) {
        void *failed;

        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    assert_string_equal(dirty(n, "a"), "0+67108864");
    blk_node_close(n);
    clean(path);
}

/* Going back to a snapshot may change every byte. */
static void test_snapshot(void **state)
{
    const char *path = oracle_path("snap.qcow2");
    struct blk_snapshot s = { .name = "s" };
    struct blk_node *n;

    (void)state;
    make(path, "");
    n = img_open(path, false, 0);
    add(n, "a", 65536, true, 0);
    fill(n, 0, 1, 1);
    assert_int_equal(n->ops->snapshot_create(n, &s, NULL), 0);
    assert_string_equal(dirty(n, "a"), "0+65536");
    assert_int_equal(n->ops->snapshot_apply(n, "s", NULL), 0);
    assert_string_equal(dirty(n, "a"), "0+67108864");
    blk_node_close(n);
    clean(path);
    assert_string_equal(qemu_dirty(path, "a"), "0+67108864");
}

/* Directories that make no sense: the disk can be read, not written. */
static void test_hostile(void **state)
{
    static const struct {
        unsigned at; /* in the directory's first entry */
        const char *bytes;
        unsigned len;
    } lies[] = {
        { 0, "\0\0\0\0\0\0\0\1", 8 },   /* table not at a cluster */
        { 0, "\0\xff\0\0\0\0\0\0", 8 }, /* behind the file */
        { 8, "\xff\xff\xff\xff", 4 },   /* table without end */
        { 17, "\xff", 1 },              /* granularity */
        { 18, "\0\0", 2 },              /* no name */
        { 18, "\xff\xff", 2 },          /* name without end */
        { 20, "\xff\xff\xff\xff", 4 },  /* extra data without end */
    };
    const char *good = oracle_path("gooddir.qcow2"), *path = oracle_path("baddir.qcow2");
    struct blk_check check;
    struct blk_node *n;
    char out[512];

    (void)state;
    make(good, "");
    oracle_must("qemu-img bitmap --add %s one && qemu-io -f qcow2 -c 'write 0 1M' %s", good, good);
    assert_int_equal(
        oracle_run(
            out, sizeof(out),
            "python3 -c \"import sys; d = open(sys.argv[1], 'rb').read(); i = d.index(bytes.fromhex('23852875')); "
            "print(int.from_bytes(d[i + 24:i + 32], 'big'))\" %s",
            good),
        0);
    for (unsigned i = 0; i < ARRAY_SIZE(lies); i++) {
        FILE *f;

        oracle_must("cp %s %s", good, path);
        f = fopen(path, "r+b");
        assert_non_null(f);
        assert_int_equal(fseek(f, atol(out) + (long)lies[i].at, SEEK_SET), 0);
        assert_int_equal(fwrite(lies[i].bytes, 1, lies[i].len, f), lies[i].len);
        fclose(f);
        img_open(path, false, -EMEDIUMTYPE);
        n = img_open(path, true, 0);
        assert_int_equal(n->ops->check(n, 0, &check, NULL), 0);
        assert_true(check.corruptions > 0);
        blk_node_close(n);
    }
}

/* Killed at any write: the image stays without corruption, and a bitmap that can be trusted tells the truth. */
static int life(struct blk_node *n, unsigned which)
{
    struct blk_why why;
    uint8_t data[512] = { 7 };
    int r = 0;

    if (which == 0)
        r = n->ops->bitmap_add(n, "new", 512, true, &why);
    else if (which == 1)
        r = n->ops->bitmap_remove(n, "one", &why);
    else if (which == 2)
        r = blk_resize(n, 3 * DISK, BLK_PREALLOC_OFF, &why);
    for (unsigned i = 0; i < 200 && r == 0; i++)
        r = blk_pwrite(n, 60 * 1024 * (uint64_t)i, data, sizeof(data));
    return r;
}

static void judge(const char *path)
{
    struct blk_check theirs;
    struct blk_bitmap *list;
    struct blk_node *n;
    unsigned count;
    int r = img_qemu_check(path, false, NULL, &theirs);

    assert_true(r == 0 || (r == 3 && theirs.corruptions == 0));
    n = img_open(path, true, 0);
    assert_int_equal(n->ops->bitmap_list(n, &list, &count), 0);
    for (unsigned k = 0; k < count; k++) {
        uint8_t data[512];

        if (list[k].in_use || !list[k].enabled)
            continue;
        for (unsigned i = 0; i < 200; i++) {
            uint64_t at = 60 * 1024 * (uint64_t)i, off, len;

            assert_int_equal(blk_pread(n, at, data, sizeof(data)), 0);
            if (data[0] == 7) {
                assert_int_equal(n->ops->bitmap_next(n, list[k].name, at, &off, &len), 1);
                assert_int_equal(off, at);
            }
        }
    }
    free(list);
    blk_node_close(n);
}

static void test_killed(void **state)
{
    const char *good = oracle_path("alive.qcow2"), *path = oracle_path("dead.qcow2");
    unsigned n_deaths = 0;

    (void)state;
    make(good, "-o cluster_size=1k");
    oracle_must("qemu-img bitmap --add -g 512 %s one && qemu-img bitmap --add %s two", good, good);
    oracle_must("qemu-io -f qcow2 -c 'write 1M 40k' -c 'write 30M 1k' %s", good);
    for (unsigned which = 0; which < 3; which++) {
        for (int at = 0, end = 0; !end; at += at < 40 ? 1 : 13) {
            struct blk_node *n;

            oracle_must("cp %s %s", good, path);
            n = img_open(path, false, 0);
            img_dying(n, at);
            (void)life(n, which);
            blk_node_close(n);
            end = img_dying_left() > 0;
            judge(path);
            n_deaths++;
        }
    }
    print_message("%u deaths\n", n_deaths);
    assert_true(n_deaths > 120);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ours),       cmocka_unit_test(test_qemus),   cmocka_unit_test(test_big),
        cmocka_unit_test(test_size_stays), cmocka_unit_test(test_crash),   cmocka_unit_test(test_threads),
        cmocka_unit_test(test_snapshot),   cmocka_unit_test(test_hostile), cmocka_unit_test(test_killed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
