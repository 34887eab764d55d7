/* qcow2 under threads, kill -9 and failing power: writers share clusters, and whenever it ends qemu-img check finds the
 * image clean or with leaked clusters, and what was flushed is there. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/check.h"
#include "oracle.h"
#include "power_node.h"
#include "qcow2_rig.h"

#define GRANULE 2048u
#define GRANULES 3000u /* of a disk of 6 MB */
#define VERSIONS 32u   /* of a granule between flushes */

/* What each granule may hold: versions from..to; bit v % 64 of zero: version v is zeroes. */
struct slot {
    uint32_t from, to;
    uint64_t zero;
};
struct slots {
    struct slot slot[GRANULES];
};

static void stamp(uint8_t *buf, uint32_t granule, uint32_t version)
{
    uint64_t seed = ((uint64_t)granule << 32 | version) + 1;

    for (unsigned i = 0; i < GRANULE; i += 8) {
        uint64_t x = i % 512 ? rig_random(&seed) : (uint64_t)granule << 32 | version;

        memcpy(buf + i, &x, 8);
    }
}

/* Each sector is that of a version that may be there. */
static bool slot_ok(const struct slot *s, uint32_t granule, const uint8_t *buf)
{
    uint8_t want[GRANULE];

    for (unsigned at = 0; at < GRANULE; at += 512) {
        bool found = false;

        for (uint32_t v = s->from; v <= s->to && !found; v++) {
            if (v == 0 || s->zero >> (v % 64) & 1)
                memset(want, 0, GRANULE);
            else
                stamp(want, granule, v);
            found = memcmp(buf + at, want + at, 512) == 0;
        }
        if (!found)
            return false;
    }
    return true;
}

static void slots_check(struct blk_node *n, const struct slots *s, bool exact)
{
    uint8_t buf[GRANULE];

    for (uint32_t g = 0; g < GRANULES; g++) {
        struct slot slot = s->slot[g];

        if (exact)
            slot.from = slot.to;
        assert_int_equal(blk_pread(n, (uint64_t)g * GRANULE, buf, GRANULE), 0);
        if (!slot_ok(&slot, g, buf))
            print_error("granule %u: versions %u..%u, found %#x %#x\n", g, slot.from, slot.to, buf[0], buf[4]);
        assert_true(slot_ok(&slot, g, buf));
    }
}

/* Write n granules from g on; versions are told before. */
static int slots_write(struct blk_node *n, struct slots *s, uint32_t g, uint32_t count, unsigned how)
{
    AUTO_FREE uint8_t *buf = malloc((size_t)count * GRANULE);
    struct blk_piece pieces[BLK_PIECES_MAX];
    uint64_t off = (uint64_t)g * GRANULE, len = (uint64_t)count * GRANULE, done = 0;
    int got;

    CHECK(buf);
    for (uint32_t i = 0; i < count; i++) {
        struct slot *slot = &s->slot[g + i];
        uint32_t v = slot->to + 1;

        stamp(buf + (size_t)i * GRANULE, g + i, v);
        slot->zero &= ~(1ull << (v % 64));
        if (how == 1)
            slot->zero |= 1ull << (v % 64);
        __atomic_store_n(&slot->to, v, __ATOMIC_RELEASE);
    }
    if (how == 1)
        return blk_write_zeroes(n, off, len, g & 1 ? BLK_ZERO_UNMAP : 0);
    got = how == 2 ? blk_map(n, BLK_WRITE, off, len, pieces) : 0;
    if (got == 0)
        return blk_pwrite(n, off, buf, len);
    for (int i = 0; i < got; i++) {
        CHECK(pwrite(pieces[i].fd, buf + done, pieces[i].len, (off_t)pieces[i].off) == (ssize_t)pieces[i].len);
        done += pieces[i].len;
    }
    blk_unmap(n);
    return 0;
}

static int slots_flush(struct blk_node *n, struct slots *s)
{
    static struct slots before;
    int res;

    before = *s;
    res = blk_flush(n);
    for (uint32_t g = 0; g < GRANULES && res == 0; g++)
        s->slot[g].from = before.slot[g].to;
    return res;
}

/* A random request; -errno of the disk. */
static int slots_request(struct blk_node *n, struct slots *s, uint64_t *seed)
{
    uint32_t g = (uint32_t)(rig_random(seed) % GRANULES), max = rig_random(seed) % 8 ? 4 : 200, count;
    unsigned how = (unsigned)(rig_random(seed) % 4);
    bool full = false;

    count = (uint32_t)(1 + rig_random(seed) % max);
    count = MIN(count, GRANULES - g);
    for (uint32_t i = 0; i < count; i++)
        full |= s->slot[g + i].to - s->slot[g + i].from >= VERSIONS;
    if (full || rig_random(seed) % 40 == 0)
        return slots_flush(n, s);
    return slots_write(n, s, g, count, how);
}

static const struct blk_create_config forms[] = {
    { .cluster_size = 0 },   { .cluster_size = 4096, .refcount_bits = 1 }, { .cluster_size = 512 },
    { .extended_l2 = true }, { .version = 2, .cluster_size = 16384 },
};

static void make(const char *path, size_t form)
{
    struct blk_create_config config = forms[form];

    config.path = path;
    config.format = "qcow2";
    config.size = GRANULES * GRANULE;
    config.overwrite = true;
    rig_create(&config);
}

static void judge(const char *path, const struct slots *s)
{
    char out[4096];
    struct blk_node *n;
    int status = oracle_run(out, sizeof(out), "qemu-img check -f qcow2 %s", path);

    if (status != 0 && status != 3)
        print_error("qemu-img check: %d\n%s\n", status, out);
    assert_true(status == 0 || status == 3);
    n = rig_open(path, false);
    slots_check(n, s, false);
    blk_node_close(n);
}

/* ---- power ---- */

/* A new image on a file node of that kind. */
static struct blk_node *make_on(struct blk_node *file, size_t form)
{
    struct blk_create_config config = forms[form];
    struct blk_open_config open = { .path = "power", .format = "qcow2" };
    struct blk_node *n;

    config.path = "power";
    config.format = "qcow2";
    config.size = GRANULES * GRANULE;
    assert_int_equal(blk_format_qcow2.create(file, &config, NULL), 0);
    assert_int_equal(blk_format_qcow2.open(file, &open, &n, NULL), 0);
    return n;
}

/* Now and then, a snapshot comes or goes. */
static void snapshots(struct blk_node *n, size_t form, uint64_t *seed)
{
    struct blk_snapshot snapshot = { .id = "" };
    int res;

    if (forms[form].refcount_bits == 1 || rig_random(seed) % 25)
        return;
    snapshot.name[0] = (char)('a' + rig_random(seed) % 3);
    res = n->ops->snapshot_delete(n, snapshot.name, NULL);
    if (res == -ENOENT)
        res = n->ops->snapshot_create(n, &snapshot, NULL);
    assert_int_equal(res, 0);
}

static void test_power(void **state)
{
    char *path = strdup(oracle_path("power.qcow2"));
    uint64_t seed = 424242;

    (void)state;
    for (unsigned round = 0; round < 100; round++) {
        struct blk_node *file = power_node_new(64 << 20, false), *n = make_on(file, round % ARRAY_SIZE(forms));
        struct slots *s = calloc(1, sizeof(*s));
        uint64_t requests = rig_random(&seed) % 400;

        assert_non_null(s);
        for (uint64_t i = 0; i < requests; i++) {
            if (round & 1)
                snapshots(n, round % ARRAY_SIZE(forms), &seed);
            assert_int_equal(slots_request(n, s, &seed), 0);
        }
        slots_check(n, s, true);
        power_node_cut(file, &seed, path);
        n->ops->close(n);
        judge(path, s);
        free(s);
    }
    free(path);
}

/* ---- kill ---- */

static void kill_child(const char *path, struct slots *s, uint64_t seed)
{
    struct blk_node *n = rig_open(path, false);

    for (;;) {
        if (slots_request(n, s, &seed) < 0)
            _exit(1);
    }
}

static void test_kill(void **state)
{
    const char *path = oracle_path("kill.qcow2");
    uint64_t seed = 99;

    (void)state;
    for (unsigned round = 0; round < 25; round++) {
        struct slots *s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        struct timespec wait = { .tv_nsec = (long)(rig_random(&seed) % 60000000) };
        pid_t pid;
        int status;

        assert_true(s != MAP_FAILED);
        make(path, round % ARRAY_SIZE(forms));
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0)
            kill_child(path, s, seed);
        nanosleep(&wait, NULL);
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
        judge(path, s);
        munmap(s, sizeof(*s));
    }
}

/* ---- threads ---- */

#define THREADS 4

struct worker {
    pthread_t thread;
    struct blk_node *n;
    struct slots *s;
    unsigned number, requests;
    int res;
};

/* Granules number, number + THREADS, ...: clusters are shared, granules are not. */
static void *work(void *opaque)
{
    struct worker *w = opaque;
    uint64_t seed = w->number + 77;
    uint8_t buf[GRANULE];

    for (unsigned i = 0; i < w->requests && w->res == 0; i++) {
        uint32_t g = (uint32_t)(rig_random(&seed) % (GRANULES / THREADS)) * THREADS + w->number;
        struct slot *slot = &w->s->slot[g];
        unsigned kind = (unsigned)(rig_random(&seed) % 64);

        if (kind == 0) {
            w->res = blk_flush(w->n);
        } else if (kind < 12) {
            w->res = blk_pread(w->n, (uint64_t)g * GRANULE, buf, GRANULE);
            slot->from = slot->to;
            if (w->res == 0 && !slot_ok(slot, g, buf))
                w->res = -EILSEQ;
        } else {
            w->res = slots_write(w->n, w->s, g, 1, kind % 4);
        }
    }
    return NULL;
}

static void work_all(struct blk_node *n, struct slots *s, unsigned requests)
{
    struct worker w[THREADS];

    for (unsigned i = 0; i < THREADS; i++) {
        w[i] = (struct worker){ .n = n, .s = s, .number = i, .requests = requests };
        assert_int_equal(pthread_create(&w[i].thread, NULL, work, &w[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(w[i].thread, NULL);
        assert_int_equal(w[i].res, 0);
    }
    slots_check(n, s, true);
}

static void test_threads(void **state)
{
    char *path = strdup(oracle_path("threads.qcow2"));

    (void)state;
    for (size_t form = 0; form < ARRAY_SIZE(forms); form++) {
        struct slots *s = calloc(1, sizeof(*s));
        struct blk_node *n;

        assert_non_null(s);
        make(path, form);
        n = rig_open(path, false);
        work_all(n, s, 4000);
        blk_node_close(n);
        oracle_must("qemu-img check -f qcow2 %s", path);
        n = rig_open(path, true);
        slots_check(n, s, true);
        blk_node_close(n);
        free(s);
    }
    free(path);
}

/* Requests that take their time, so that they meet in clusters that are being allocated. */
static void test_threads_slow(void **state)
{
    char *path = strdup(oracle_path("slow.qcow2"));
    uint64_t seed = 5;

    (void)state;
    for (unsigned round = 0; round < 20; round++) {
        struct blk_node *file = power_node_new(64 << 20, true), *n = make_on(file, round % ARRAY_SIZE(forms));
        struct slots *s = calloc(1, sizeof(*s));

        assert_non_null(s);
        work_all(n, s, 100);
        assert_int_equal(slots_flush(n, s), 0);
        power_node_cut(file, &seed, path);
        n->ops->close(n);
        judge(path, s);
        free(s);
    }
    free(path);
}

/* Compressed clusters share host clusters; threads pack them side by side, over compressed and plain ones. */
static void *pack(void *opaque)
{
    struct worker *w = opaque;
    uint64_t seed = w->number + 1, size = w->n->size;
    struct blk_info info;
    uint8_t *buf;

    blk_node_info(w->n, &info);
    buf = malloc(info.cluster_size);
    CHECK(buf);
    for (unsigned i = 0; i < w->requests && w->res == 0; i++) {
        uint64_t clusters = size / info.cluster_size / THREADS;
        uint64_t c = rig_random(&seed) % clusters * THREADS + w->number;

        for (uint32_t at = 0; at < info.cluster_size; at += GRANULE) {
            uint32_t g = (uint32_t)((c * info.cluster_size + at) / GRANULE);

            stamp(buf + at, g, ++w->s->slot[g].to);
            memset(buf + at + 8, 0x31, GRANULE / 2); /* leaves the stamp of the first sector; shrinks */
        }
        if (seed & 1)
            w->res = w->n->ops->pwrite_compressed(w->n, c * info.cluster_size, buf, info.cluster_size);
        else if (seed & 2)
            w->res = blk_pwrite(w->n, c * info.cluster_size, buf, info.cluster_size);
        else
            w->res = blk_flush(w->n);
        if (!(seed & 3)) /* the flush: nothing was written */
            for (uint32_t at = 0; at < info.cluster_size; at += GRANULE)
                w->s->slot[(c * info.cluster_size + at) / GRANULE].to--;
    }
    free(buf);
    return NULL;
}

static void pack_check(struct blk_node *n, const struct slots *s)
{
    uint8_t buf[GRANULE], want[GRANULE];

    for (uint32_t g = 0; g < GRANULES / 32 * 32; g++) {
        memset(want, 0, sizeof(want));
        if (s->slot[g].to) {
            stamp(want, g, s->slot[g].to);
            memset(want + 8, 0x31, GRANULE / 2);
        }
        assert_int_equal(blk_pread(n, (uint64_t)g * GRANULE, buf, GRANULE), 0);
        assert_memory_equal(buf, want, GRANULE);
    }
}

static void test_threads_compressed(void **state)
{
    static const size_t packed[] = { 0, 1, 3, 4 }; /* forms whose clusters are not smaller than granules */
    char *path = strdup(oracle_path("packed.qcow2"));

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(packed); i++) {
        struct slots *s = calloc(1, sizeof(*s));
        struct worker w[THREADS];
        struct blk_node *n;

        assert_non_null(s);
        make(path, packed[i]);
        n = rig_open(path, false);
        for (unsigned k = 0; k < THREADS; k++) {
            w[k] = (struct worker){ .n = n, .s = s, .number = k, .requests = 300 };
            assert_int_equal(pthread_create(&w[k].thread, NULL, pack, &w[k]), 0);
        }
        for (unsigned k = 0; k < THREADS; k++) {
            pthread_join(w[k].thread, NULL);
            assert_int_equal(w[k].res, 0);
        }
        pack_check(n, s);
        blk_node_close(n);
        oracle_must("qemu-img check -f qcow2 %s", path);
        n = rig_open(path, true);
        pack_check(n, s);
        blk_node_close(n);
        free(s);
    }
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads), cmocka_unit_test(test_threads_slow), cmocka_unit_test(test_threads_compressed),
        cmocka_unit_test(test_power),   cmocka_unit_test(test_kill),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
