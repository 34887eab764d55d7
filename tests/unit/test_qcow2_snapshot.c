/* Internal snapshots: ours read by qemu-img, its by us, contents compared; and that each change is atomic. */
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

#include "fault.h"
#include "oracle.h"
#include "qcow2_images.h"

static void create(struct blk_node *n, const char *name, int want)
{
    struct blk_snapshot s = { .date_ns = 1700000000123456789u, .vm_clock_ns = 42 };
    struct blk_why why = { 0 };
    int r;

    snprintf(s.name, sizeof(s.name), "%s", name);
    r = n->ops->snapshot_create(n, &s, &why);
    if (r != want)
        print_error("create %s: %d %s\n", name, r, why.text ? why.text : "");
    assert_int_equal(r, want);
}

static void apply(struct blk_node *n, const char *name, int want)
{
    struct blk_why why = { 0 };
    int r = n->ops->snapshot_apply(n, name, &why);

    if (r != want)
        print_error("apply %s: %d %s\n", name, r, why.text ? why.text : "");
    assert_int_equal(r, want);
}

static void delete (struct blk_node *n, const char *name, int want)
{
    struct blk_why why = { 0 };
    int r = n->ops->snapshot_delete(n, name, &why);

    if (r != want)
        print_error("delete %s: %d %s\n", name, r, why.text ? why.text : "");
    assert_int_equal(r, want);
}

static void clean(const char *what, const char *path, bool luks)
{
    struct blk_check theirs;
    int r = img_qemu_check(path, luks, NULL, &theirs);

    if (r != 0)
        print_error("%s: qemu-img check says %d\n", what, r);
    assert_int_equal(r, 0);
}

static void fill(struct blk_node *n, uint64_t off, uint64_t len, int byte)
{
    void *data = malloc(len);

    memset(data, byte, len);
    assert_int_equal(blk_pwrite(n, off, data, len), 0);
    free(data);
}

/* The digest of the disk as it stands in the file, by way of qemu: converted to raw. */
static uint64_t qemu_digest(const char *path, bool luks, const char *snapshot)
{
    const char *raw = oracle_path("converted.raw");
    struct blk_open_config config = { .path = raw, .format = "raw", .read_only = true };
    struct blk_node *n;
    uint64_t h;

    oracle_must("qemu-img convert -O raw %s%s %s %s", snapshot ? "-l snapshot.name=" : "", snapshot ? snapshot : "",
                img_target(path, luks), raw);
    assert_int_equal(blk_open(&config, &n, NULL), 0);
    h = img_digest(n);
    blk_node_close(n);
    return h;
}

/* Each kind of image: two snapshots of ours with writes in between, as qemu sees them; then applied and deleted. */
static void test_life(void **state)
{
    (void)state;
    for (unsigned i = 0; i < img_n_kinds; i++) {
        const struct img_kind *kind = &img_kinds[i];
        const char *path = oracle_path("life.qcow2");
        uint64_t one, two, now;
        struct blk_node *n;

        img_make(kind, path);
        n = img_open(path, false, 0);
        if (kind->data_file) {
            create(n, "a", -ENOTSUP);
            blk_node_close(n);
            continue;
        }
        if (kind->options && (strstr(kind->options, "refcount_bits=1") || strstr(kind->options, "refcount_bits=2"))) {
            /* cannot count to two, or not to twice the compressed clusters in one host cluster */
            create(n, "a", -EMEDIUMTYPE);
            blk_node_close(n);
            clean(kind->name, path, kind->luks);
            continue;
        }
        one = img_digest(n);
        create(n, "a", 0);
        fill(n, 0, 100000, 0x31);
        fill(n, 3900000, 200000, 0x32);
        two = img_digest(n);
        create(n, "b", 0);
        create(n, "b", -EEXIST);
        fill(n, 200000, 1000000, 0x33);
        now = img_digest(n);
        assert_true(one != two && two != now);
        assert_int_equal(blk_flush(n), 0);
        blk_node_close(n);
        clean(kind->name, path, kind->luks);
        assert_true(qemu_digest(path, kind->luks, "a") == one);
        assert_true(qemu_digest(path, kind->luks, "b") == two);
        assert_true(qemu_digest(path, kind->luks, NULL) == now);
        n = img_open(path, false, 0);
        apply(n, "a", 0);
        assert_true(img_digest(n) == one);
        fill(n, 0, 100000, 0x34);
        apply(n, "b", 0);
        assert_true(img_digest(n) == two);
        delete (n, "a", 0);
        delete (n, "a", -ENOENT);
        apply(n, "a", -ENOENT);
        assert_true(img_digest(n) == two);
        fill(n, 0, 70000, 0x35);
        two = img_digest(n);
        blk_node_close(n);
        clean(kind->name, path, kind->luks);
        assert_true(qemu_digest(path, kind->luks, NULL) == two);
        oracle_must("qemu-img snapshot -q -d b %s", img_target(path, kind->luks));
        clean(kind->name, path, kind->luks);
    }
}

/* The disk as it was, without a change to the image. */
static struct blk_node *view(const char *path, const char *name, int want)
{
    struct blk_open_config config = { .path = path,
                                      .format = "qcow2",
                                      .read_only = true,
                                      .snapshot = name,
                                      .secret = (const uint8_t *)IMG_SECRET,
                                      .secret_len = strlen(IMG_SECRET) };
    struct blk_node *n = NULL;

    assert_int_equal(blk_open(&config, &n, NULL), want);
    return n;
}

/* What qemu made: listed, applied, deleted by us. */
static void test_qemus(void **state)
{
    (void)state;
    for (unsigned i = 0; i < img_n_kinds; i++) {
        const struct img_kind *kind = &img_kinds[i];
        const char *path = oracle_path("qemus.qcow2");
        struct blk_snapshot *list;
        struct blk_node *n;
        uint64_t first;
        unsigned count;

        if (!kind->snapshots)
            continue;
        img_make(kind, path);
        first = qemu_digest(path, kind->luks, "first");
        n = view(path, "first", 0);
        assert_true(img_digest(n) == first);
        blk_node_close(n);
        (void)view(path, "third", -ENOENT);
        n = img_open(path, false, 0);
        assert_int_equal(n->ops->snapshot_list(n, &list, &count), 0);
        assert_int_equal(count, 2);
        assert_string_equal(list[0].id, "1");
        assert_string_equal(list[0].name, "first");
        assert_string_equal(list[1].name, "second");
        assert_int_equal(list[1].disk_size, IMG_SIZE);
        assert_int_equal(list[1].vm_state_size, 0);
        assert_true(list[0].date_ns > 1700000000u * 1000000000u);
        free(list);
        delete (n, "2", 0); /* by its id */
        apply(n, "first", 0);
        assert_true(img_digest(n) == first);
        delete (n, "first", 0);
        assert_true(img_digest(n) == first);
        assert_int_equal(n->ops->snapshot_list(n, &list, &count), 0);
        assert_int_equal(count, 0);
        free(list);
        fill(n, 0, 200000, 1);
        blk_node_close(n);
        clean(kind->name, path, kind->luks);
    }
}

/* Facts in the table: what we write, qemu-img lists. */
static void test_table(void **state)
{
    const char *path = oracle_path("table.qcow2");
    struct blk_snapshot s = { .id = "77",
                              .name = "seventh heaven",
                              .date_ns = 1700000000123456789u,
                              .vm_clock_ns = 3723004000000u },
                        *list;
    struct blk_node *n;
    char out[4096];
    unsigned count;

    (void)state;
    img_make(&img_kinds[0], path);
    n = img_open(path, false, 0);
    assert_int_equal(n->ops->snapshot_create(n, &s, NULL), 0);
    create(n, "next", 0);
    s.vm_state_size = 4096;
    snprintf(s.name, sizeof(s.name), "with state");
    s.id[0] = '\0';
    assert_int_equal(n->ops->snapshot_create(n, &s, NULL), -ENOTSUP);
    s.vm_state_size = 0;
    s.name[0] = '\0';
    assert_int_equal(n->ops->snapshot_create(n, &s, NULL), -EEXIST);
    assert_int_equal(n->ops->snapshot_list(n, &list, &count), 0);
    assert_int_equal(count, 2);
    assert_string_equal(list[0].id, "77");
    assert_string_equal(list[1].id, "78");
    assert_true(list[0].date_ns == 1700000000123456789u);
    assert_true(list[0].vm_clock_ns == 3723004000000u);
    free(list);
    blk_node_close(n);
    assert_int_equal(oracle_run(out, sizeof(out), "TZ=UTC qemu-img snapshot -l %s", path), 0);
    assert_non_null(strstr(out, "\n77 ")); /* the widths of columns differ between versions */
    assert_non_null(strstr(out, " seventh heaven "));
    assert_non_null(strstr(out, "2023-11-14 22:13:20"));
    assert_non_null(strstr(out, "01:02:03.004"));
}

/* A snapshot of another size of the disk. */
static void test_resized(void **state)
{
    const char *path = oracle_path("resized.qcow2");
    struct blk_why why = { 0 };
    struct blk_node *n;
    uint64_t before;

    (void)state;
    img_make(&img_kinds[0], path);
    n = img_open(path, false, 0);
    before = img_digest(n);
    create(n, "small", 0);
    assert_int_equal(blk_resize(n, 3u << 30, BLK_PREALLOC_OFF, &why), 0);
    fill(n, (3u << 30) - 4096, 4096, 9);
    create(n, "big", 0);
    apply(n, "small", 0);
    assert_int_equal(n->size, IMG_SIZE);
    assert_true(img_digest(n) == before);
    apply(n, "big", 0);
    assert_int_equal(n->size, 3u << 30);
    blk_node_close(n);
    clean("resized", path, false);
}

/* A VM's state, which qemu keeps behind the end of the disk, comes and goes with the disk's snapshots. */
static void test_vm_state(void **state)
{
    const char *path = oracle_path("vmstate.qcow2");
    struct blk_snapshot *list;
    struct blk_node *n;
    char out[4096];
    unsigned count;

    (void)state;
    unlink(path);
    oracle_must("qemu-img create -q -f qcow2 %s 4M && qemu-io -f qcow2 -c 'write -b -P 0x5a 0 100k' %s && "
                "qemu-img snapshot -c state %s",
                path, path, path);
    n = img_open(path, false, 0);
    assert_int_equal(n->ops->snapshot_list(n, &list, &count), 0);
    free(list);
    apply(n, "state", 0); /* keeps what is behind the disk */
    create(n, "again", 0);
    blk_node_close(n);
    clean("vm state", path, false);
    assert_int_equal(oracle_run(out, sizeof(out), "qemu-io -f qcow2 -c 'read -b -P 0x5a 0 100k' %s", path), 0);
    assert_null(strstr(out, "erification failed"));
}

/* Killed at any write: what is in the file then is clean, before the header's write as after it. */
static int operation(struct blk_node *n, unsigned which)
{
    struct blk_snapshot s = { .name = "new" };

    return which == 0   ? n->ops->snapshot_create(n, &s, NULL)
           : which == 1 ? n->ops->snapshot_apply(n, "first", NULL)
                        : n->ops->snapshot_delete(n, "first", NULL);
}

static void test_killed(void **state)
{
    const char *good = oracle_path("whole.qcow2"), *path = oracle_path("killed.qcow2");
    unsigned n_deaths = 0;

    (void)state;
    for (unsigned k = 0; k < img_n_kinds; k++) {
        if (img_kinds[k].luks || !img_kinds[k].snapshots)
            continue;
        img_make(&img_kinds[k], good);
        for (unsigned which = 0; which < 3; which++) {
            for (int at = 0, r = -EIO; r == -EIO; at++) {
                struct blk_node *n;

                oracle_must("cp %s %s", good, path);
                n = img_open(path, false, 0);
                img_dying(n, at);
                r = operation(n, which);
                img_dying(n, 0); /* nothing more reaches the file */
                blk_node_close(n);
                clean(img_kinds[k].name, path, false);
                n_deaths++;
            }
        }
    }
    print_message("%u deaths\n", n_deaths);
    assert_true(n_deaths > 60);
}

/* Everything that check, snapshots and bitmaps do, in one go. */
static int whole_life(const char *path)
{
    struct blk_open_config config = { .path = path, .format = "qcow2", .cache = BLK_CACHE_UNSAFE };
    struct blk_snapshot s = { .name = "new" }, *snaps = NULL;
    struct blk_bitmap *bitmaps = NULL;
    struct blk_check check;
    struct blk_node *n;
    unsigned count;
    int r = blk_open(&config, &n, NULL);

    if (r < 0)
        return r;
    r = n->ops->snapshot_create(n, &s, NULL);
    if (r == 0)
        r = n->ops->bitmap_add(n, "new", 512, true, NULL);
    if (r == 0)
        r = blk_pwrite(n, 100, "hello", 5);
    if (r == 0)
        r = n->ops->bitmap_set(n, "one", 0, 1 << 20);
    if (r == 0)
        r = n->ops->bitmap_clear(n, "two", NULL);
    if (r == 0)
        r = n->ops->snapshot_apply(n, "first", NULL);
    if (r == 0)
        r = n->ops->snapshot_delete(n, "second", NULL);
    if (r == 0)
        r = n->ops->bitmap_remove(n, "one", NULL);
    if (r == 0)
        r = n->ops->check(n, BLK_CHECK_FIX_ALL, &check, NULL);
    if (r == 0)
        r = n->ops->snapshot_list(n, &snaps, &count);
    if (r == 0)
        r = n->ops->bitmap_list(n, &bitmaps, &count);
    free(snaps);
    free(bitmaps);
    blk_node_close(n);
    return r;
}

/* Any allocation may fail: an error, never a damaged image. */
static void test_no_memory(void **state)
{
    static const struct img_kind kind = { .options = "cluster_size=4k", .snapshots = true, .bitmap = true };
    const char *good = oracle_path("good.qcow2"), *path = oracle_path("nomem.qcow2");
    unsigned fails = 0;
    int r = 0;

    (void)state;
    img_make(&kind, good);
    for (unsigned nth = 1;; nth++) {
        struct blk_check theirs;

        oracle_must("cp %s %s", good, path);
        fault_begin(nth);
        r = whole_life(path);
        if (!fault_end())
            break;
        if (r != 0 && r != -ENOMEM)
            print_error("allocation %u: %d\n", nth, r);
        assert_true(r == 0 || r == -ENOMEM);
        fails += r < 0;
        (void)img_qemu_check(path, false, NULL, &theirs);
        if (theirs.corruptions)
            print_error("allocation %u: damage\n", nth);
        assert_int_equal(theirs.corruptions, 0);
    }
    assert_int_equal(r, 0);
    assert_true(fails > 40);
}

struct busy {
    struct blk_node *n;
    unsigned which;
    bool *stop;
};

/* Writes its own quarter of the disk, round by round, and reads back what it wrote. */
static void *busy_thread(void *opaque)
{
    const struct busy *b = opaque;
    uint8_t data[3000], back[3000];

    for (unsigned round = 1; !__atomic_load_n(b->stop, __ATOMIC_RELAXED); round++) {
        uint64_t off = b->which * (IMG_SIZE / 4) + round * 7919u % (IMG_SIZE / 4 - sizeof(data));

        memset(data, (int)round, sizeof(data));
        if (blk_pwrite(b->n, off, data, sizeof(data)) < 0 || blk_pread(b->n, off, back, sizeof(back)) < 0 ||
            memcmp(data, back, sizeof(data)) != 0)
            return opaque;
    }
    return NULL;
}

/* Snapshots come and go under a disk that is being written to. */
static void test_busy(void **state)
{
    const char *path = oracle_path("busy.qcow2");
    struct blk_snapshot *list;
    struct busy busy[4];
    pthread_t threads[4];
    struct blk_node *n;
    bool stop = false;
    unsigned count;
    char name[16];
    uint64_t last;

    (void)state;
    img_make(&img_kinds[0], path);
    n = img_open(path, false, 0);
    for (unsigned i = 0; i < 4; i++) {
        busy[i] = (struct busy){ n, i, &stop };
        assert_int_equal(pthread_create(&threads[i], NULL, busy_thread, &busy[i]), 0);
    }
    for (unsigned i = 0; i < 30; i++) {
        struct blk_check check;

        snprintf(name, sizeof(name), "s%u", i);
        create(n, name, 0);
        if (i % 3 == 2) {
            snprintf(name, sizeof(name), "s%u", i - 1);
            delete (n, name, 0);
        }
        if (i % 10 == 0) {
            assert_int_equal(n->ops->check(n, 0, &check, NULL), 0);
            assert_int_equal(check.corruptions + check.leaks, 0);
        }
    }
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < 4; i++) {
        void *failed;

        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    assert_int_equal(n->ops->snapshot_list(n, &list, &count), 0);
    assert_int_equal(count, 20);
    free(list);
    last = img_digest(n);
    blk_node_close(n);
    clean("busy", path, false);
    assert_true(qemu_digest(path, false, NULL) == last);
}

/* Many, and nothing but what they hold stays behind. */
static void test_many(void **state)
{
    const char *path = oracle_path("many.qcow2");
    struct blk_node *n;
    uint64_t size;
    char name[32];

    (void)state;
    img_make(&img_kinds[0], path);
    n = img_open(path, false, 0);
    for (unsigned i = 0; i < 40; i++) {
        snprintf(name, sizeof(name), "s%u", i);
        create(n, name, 0);
        fill(n, i * 65536, 65536, (int)i);
    }
    size = n->file->size;
    for (unsigned round = 0; round < 20; round++) {
        delete (n, "s39", 0);
        create(n, "s39", 0);
    }
    assert_true(n->file->size <= size + (2u << 20));
    for (unsigned i = 0; i < 40; i++) {
        snprintf(name, sizeof(name), "s%u", i * 7 % 40);
        delete (n, name, 0);
    }
    blk_node_close(n);
    clean("many", path, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_life),     cmocka_unit_test(test_qemus),     cmocka_unit_test(test_table),
        cmocka_unit_test(test_resized),  cmocka_unit_test(test_killed),    cmocka_unit_test(test_many),
        cmocka_unit_test(test_vm_state), cmocka_unit_test(test_no_memory), cmocka_unit_test(test_busy),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
