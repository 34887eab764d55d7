/* virtio-blk and raw images, driven as a guest would: random requests against a model of the disk in memory, on every
 * ring format and both kinds of asynchronous I/O; limits and malformed requests; reset in the middle; locks between
 * openers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bits.h"
#include "disk.h"
#include "virtio/blk.h"
#include "virtio_rig.h"

#define DISK_SECTORS 4096u
#define DISK (DISK_SECTORS * 512u)
#define HEADERS 0x400000ULL
#define DATA 0x800000ULL
#define SLOT_BYTES 0x20000ULL
#define QUEUES 3
#define QUEUE_SIZE 256

enum { IN = 0, OUT = 1, FLUSH = 4, GET_ID = 8, DISCARD = 11, ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };

/* How a disk is opened. */
struct how {
    struct blk_open_config open;
    struct blk_image_config image;
};

struct fixture {
    struct rig r;
    struct rig_dev d;
    char path[64];
    struct blk_image *img;
    struct virtio_blk *blk;
    struct drv_queue q[QUEUES];
    uint8_t *model;
    uint64_t seed;
};

static uint32_t rnd(struct fixture *f, uint32_t below)
{
    f->seed = f->seed * 6364136223846793005ULL + 1442695040888963407ULL;
    return (uint32_t)(f->seed >> 33) % below;
}

static void make_disk(struct fixture *f)
{
    int fd;

    snprintf(f->path, sizeof(f->path), "test_virtio_blk.%d.img", getpid());
    fd = open(f->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    f->model = malloc(DISK);
    for (unsigned i = 0; i < DISK; i++)
        f->model[i] = (uint8_t)rnd(f, 256);
    assert_int_equal(pwrite(fd, f->model, DISK, 0), DISK);
    close(fd);
}

/* Put the content into an image of another format instead. */
static void make_image(struct fixture *f, const char *format)
{
    const struct blk_create_config create = { .path = f->path, .format = format, .size = DISK, .overwrite = true };
    struct blk_node *node = NULL;

    assert_int_equal(blk_create(&create, NULL), 0);
    assert_int_equal(blk_open(&(struct blk_open_config){ .path = f->path, .format = format }, &node, NULL), 0);
    for (unsigned off = 0; off < DISK; off += 3 * 65536) /* the rest has no clusters yet */
        assert_int_equal(blk_pwrite(node, off, f->model + off, MIN(DISK - off, 65536u)), 0);
    for (unsigned off = 0; off < DISK; off += 65536)
        assert_int_equal(blk_pread(node, off, f->model + off, 65536), 0);
    blk_node_close(node);
}

static void begin(struct fixture *f, struct how how, uint64_t features)
{
    struct virtio_blk_config c = { .serial = "disk-0123456789abcdefghij", .n_queues = QUEUES, .slot = -1 };
    uint64_t at = 0x10000;

    *f = (struct fixture){ .seed = 7 };
    rig_init(&f->r);
    make_disk(f);
    if (how.open.format)
        make_image(f, how.open.format);
    how.open.path = f->path;
    assert_int_equal(disk_open(&how.open, &how.image, f->r.loop, &f->img), 0);
    c.image = f->img;
    assert_int_equal(virtio_blk_new(&f->r.env, &c, &f->blk), 0);
    rig_start(&f->r);
    rig_find(&f->r, 1, true, &f->d);
    features = rig_negotiate(&f->d, features | RIG_F_VERSION_1);
    for (unsigned i = 0; i < QUEUES; i++) {
        at = align_up(
            drv_queue_init(&f->q[i], f->r.m, at, QUEUE_SIZE, features & RIG_F_PACKED, features & RIG_F_EVENT_IDX),
            4096);
        rig_queue(&f->d, i, &f->q[i]);
        (void)drv_enable_interrupt(&f->q[i]);
    }
    rig_driver_ok(&f->d);
}

static void end(struct fixture *f)
{
    rig_stop(&f->r);
    virtio_blk_free(f->blk);
    blk_image_close(f->img);
    rig_done(&f->r);
    unlink(f->path);
    free(f->model);
}

/* A request in the making; slot numbers its place in guest memory. */
struct request {
    bool busy;
    unsigned slot, queue;
    uint32_t type;
    uint64_t sector;
    uint32_t data_len;
    uint64_t lock_first, lock_n; /* sectors that no other request in flight may touch */
    uint8_t expect;              /* status */
};

static uint8_t *header_of(struct fixture *f, const struct request *q)
{
    return mem_ptr(f->r.m, GPA(HEADERS + q->slot * 512ULL), 512);
}

static uint8_t *status_of(struct fixture *f, const struct request *q)
{
    return header_of(f, q) + 500;
}

static uint8_t *data_of(struct fixture *f, const struct request *q)
{
    return mem_ptr(f->r.m, GPA(DATA + q->slot * SLOT_BYTES), SLOT_BYTES);
}

/* Offer the request, its data cut into random pieces. */
static void offer(struct fixture *f, struct request *q, bool indirect)
{
    struct drv_buf bufs[20];
    unsigned n = 0;
    uint32_t done = 0;
    uint8_t *h = header_of(f, q);
    bool in = q->type == IN || q->type == GET_ID;

    store_le32(h, q->type);
    store_le32(h + 4, 0);
    store_le64(h + 8, q->sector);
    *status_of(f, q) = 0xee;
    bufs[n++] = (struct drv_buf){ .gpa = HEADERS + q->slot * 512ULL, .len = 16 };
    while (done < q->data_len) {
        uint32_t part = q->data_len - done;

        if (n < 16 && rnd(f, 3))
            part = 1 + rnd(f, part);
        bufs[n++] = (struct drv_buf){ .gpa = DATA + q->slot * SLOT_BYTES + done, .len = part, .in = in };
        done += part;
    }
    bufs[n++] = (struct drv_buf){ .gpa = HEADERS + q->slot * 512ULL + 500, .len = 1, .in = true };
    q->busy = true;
    assert_true(drv_add(&f->q[q->queue], bufs, n, indirect, q));
    if (drv_should_kick(&f->q[q->queue]))
        rig_kick(&f->d, q->queue);
}

/* Run one request alone and return its status. */
static uint8_t run(struct fixture *f, struct request q)
{
    offer(f, &q, false);
    assert_ptr_equal(rig_complete(&f->q[q.queue], NULL), &q);
    return *status_of(f, &q);
}

#define REQS 12 /* times 18 descriptors: they fit one queue */

static bool range_free(const struct request *reqs, uint64_t first, uint64_t n)
{
    for (unsigned i = 0; i < REQS; i++) {
        if (reqs[i].busy && first < reqs[i].lock_first + reqs[i].lock_n && reqs[i].lock_first < first + n)
            return false;
    }
    return true;
}

/* Fill in a random request and apply its effect to the model; false: its range is in use. */
static bool random_request(struct fixture *f, struct request *reqs, unsigned slot)
{
    static const uint32_t types[] = { IN, IN, OUT, OUT, OUT, FLUSH, ZEROES, GET_ID };
    struct request *q = &reqs[slot];
    uint64_t n = 1 + rnd(f, rnd(f, 8) ? 16 : 200), first = rnd(f, DISK_SECTORS - (uint32_t)n + 1);

    *q = (struct request){ .slot = slot, .queue = rnd(f, QUEUES), .type = types[rnd(f, ARRAY_SIZE(types))] };
    if (q->type == FLUSH)
        return true;
    if (q->type == GET_ID) {
        q->data_len = 20;
        return true;
    }
    if (!range_free(reqs, first, n))
        return false;
    q->lock_first = q->sector = first;
    q->lock_n = n;
    q->data_len = (uint32_t)n * 512;
    memset(data_of(f, q), 0x5a, q->data_len);
    if (q->type == OUT) {
        for (uint32_t i = 0; i < q->data_len; i++)
            data_of(f, q)[i] = (uint8_t)rnd(f, 256);
        memcpy(f->model + first * 512, data_of(f, q), q->data_len);
    } else if (q->type == ZEROES) {
        q->sector = 0;
        q->data_len = 32;
        store_le64(data_of(f, q), first);
        store_le32(data_of(f, q) + 8, (uint32_t)(n / 2));
        store_le32(data_of(f, q) + 12, rnd(f, 2));
        store_le64(data_of(f, q) + 16, first + n / 2);
        store_le32(data_of(f, q) + 24, (uint32_t)(n - n / 2));
        store_le32(data_of(f, q) + 28, rnd(f, 2));
        memset(f->model + first * 512, 0, n * 512);
    }
    return true;
}

static void check_request(struct fixture *f, struct request *q, uint32_t len)
{
    assert_true(q->busy);
    assert_int_equal(*status_of(f, q), S_OK);
    assert_int_equal(len, 1 + (q->type == IN || q->type == GET_ID ? q->data_len : 0));
    if (q->type == IN)
        assert_memory_equal(data_of(f, q), f->model + q->sector * 512, q->data_len);
    if (q->type == GET_ID)
        assert_memory_equal(data_of(f, q), "disk-0123456789abcde", 20);
    q->busy = false;
}

static void compare_disk(struct fixture *f)
{
    uint8_t *disk = malloc(DISK);

    assert_int_equal(blk_pread(blk_image_node(f->img), 0, disk, DISK), 0);
    assert_memory_equal(disk, f->model, DISK);
    free(disk);
}

static void random_ops(struct how how, uint64_t features, unsigned goal)
{
    static struct fixture f;
    struct request reqs[REQS] = { 0 };
    unsigned started = 0, finished = 0;

    begin(&f, how, features);
    while (finished < goal) {
        unsigned slot = rnd(&f, REQS);
        unsigned before = finished;

        if (started < goal && !reqs[slot].busy && random_request(&f, reqs, slot)) {
            offer(&f, &reqs[slot], features & RIG_F_INDIRECT && rnd(&f, 2));
            started++;
        }
        for (unsigned i = 0; i < QUEUES; i++) {
            struct request *q;
            uint32_t len;

            while ((q = drv_get_used(&f.q[i], &len))) {
                check_request(&f, q, len);
                finished++;
            }
            (void)drv_enable_interrupt(&f.q[i]);
        }
        if (finished == before && started == goal)
            usleep(50);
    }
    compare_disk(&f);
    assert_true(f.r.msi[1] > 0 && f.r.msi[2] > 0 && f.r.msi[3] > 0);
    assert_int_equal(rig_status(&f.d), 15);
    end(&f);
}

#define ALL_DEVICE_FEATURES 0xffffffULL

static void test_random_split_uring(void **state)
{
    (void)state;
    random_ops((struct how){ .image.aio = BLK_AIO_URING }, ALL_DEVICE_FEATURES | RIG_F_INDIRECT | RIG_F_EVENT_IDX,
               2000);
}

static void test_random_split_threads(void **state)
{
    (void)state;
    random_ops((struct how){ .image.aio = BLK_AIO_THREADS }, ALL_DEVICE_FEATURES, 2000);
}

static void test_random_packed(void **state)
{
    (void)state;
    random_ops((struct how){ 0 }, ALL_DEVICE_FEATURES | RIG_F_INDIRECT | RIG_F_EVENT_IDX | RIG_F_PACKED, 2000);
}

static void test_random_write_through(void **state)
{
    (void)state;
    random_ops((struct how){ 0 }, RIG_F_INDIRECT | RIG_F_PACKED, 300);
}

static bool direct_works(void)
{
    int fd = open(".", O_TMPFILE | O_RDWR | O_DIRECT | O_CLOEXEC, 0600);

    if (fd < 0)
        return false;
    close(fd);
    return true;
}

static void test_random_direct(void **state)
{
    (void)state;
    if (!direct_works())
        skip();
    random_ops((struct how){ .open.cache = BLK_CACHE_NONE }, ALL_DEVICE_FEATURES | RIG_F_INDIRECT, 500);
}

/* Metadata changes on worker threads while the loop maps what is in place. */
static void test_random_qcow2(void **state)
{
    (void)state;
    random_ops((struct how){ .open.format = "qcow2" }, ALL_DEVICE_FEATURES | RIG_F_INDIRECT, 1500);
    random_ops((struct how){ .open.format = "qcow2", .image.aio = BLK_AIO_THREADS, .image.writethrough = true },
               ALL_DEVICE_FEATURES | RIG_F_INDIRECT, 300);
    if (direct_works())
        random_ops((struct how){ .open.format = "qcow2", .open.cache = BLK_CACHE_NONE, .image.readahead = 1 << 20 },
                   ALL_DEVICE_FEATURES | RIG_F_INDIRECT, 500);
}

static void test_limits(void **state)
{
    static struct fixture f;
    uint8_t *range;

    (void)state;
    begin(&f, (struct how){ 0 }, ALL_DEVICE_FEATURES);
    assert_int_equal(rig_read(&f.r, f.d.config, 8), DISK_SECTORS);
    assert_int_equal(run(&f, (struct request){ .type = IN, .sector = DISK_SECTORS - 1, .data_len = 512 }), S_OK);
    assert_int_equal(run(&f, (struct request){ .type = IN, .sector = DISK_SECTORS - 1, .data_len = 1024 }), S_IOERR);
    assert_int_equal(run(&f, (struct request){ .type = IN, .sector = DISK_SECTORS, .data_len = 512 }), S_IOERR);
    assert_int_equal(run(&f, (struct request){ .type = OUT, .sector = ~0ULL, .data_len = 512 }), S_IOERR);
    assert_int_equal(run(&f, (struct request){ .type = OUT, .sector = 1ULL << 55, .data_len = 512 }), S_IOERR);
    assert_int_equal(run(&f, (struct request){ .type = IN, .sector = 0, .data_len = 513 }), S_IOERR);
    assert_int_equal(run(&f, (struct request){ .type = IN, .sector = 0, .data_len = 0 }), S_OK);
    assert_int_equal(run(&f, (struct request){ .type = 77, .sector = 0 }), S_UNSUPP);
    assert_int_equal(run(&f, (struct request){ .type = GET_ID, .data_len = 5 }), S_OK);
    range = data_of(&f, &(struct request){ .slot = 0 });
    store_le64(range, DISK_SECTORS - 1);
    store_le32(range + 8, 2);
    store_le32(range + 12, 0);
    assert_int_equal(run(&f, (struct request){ .type = DISCARD, .data_len = 16 }), S_IOERR);
    assert_int_equal(run(&f, (struct request){ .type = ZEROES, .data_len = 16 }), S_IOERR);
    assert_int_equal(run(&f, (struct request){ .type = ZEROES, .data_len = 15 }), S_UNSUPP);
    assert_int_equal(run(&f, (struct request){ .type = ZEROES, .data_len = 0 }), S_UNSUPP);
    store_le32(range + 12, 2);
    assert_int_equal(run(&f, (struct request){ .type = ZEROES, .data_len = 16 }), S_UNSUPP);
    store_le32(range + 12, 1);
    assert_int_equal(run(&f, (struct request){ .type = DISCARD, .data_len = 16 }), S_UNSUPP);
    compare_disk(&f);
    store_le32(range + 8, 1);
    store_le32(range + 12, 0);
    assert_int_equal(run(&f, (struct request){ .type = DISCARD, .data_len = 16 }), S_OK);
    end(&f);
}

/* The file shrinks behind our back: an error for the guest, no stale bytes, and the device goes on. */
static void test_truncated(void **state)
{
    static struct fixture f;
    struct request q = { .type = IN, .sector = DISK_SECTORS / 2 - 1, .data_len = 1024 };
    static const uint8_t zeroes[1024];

    (void)state;
    for (unsigned kind = BLK_AIO_URING; kind <= BLK_AIO_THREADS; kind++) {
        begin(&f, (struct how){ .image.aio = kind }, ALL_DEVICE_FEATURES);
        assert_int_equal(truncate(f.path, DISK / 2), 0);
        memset(data_of(&f, &q), 0x5a, q.data_len);
        assert_int_equal(run(&f, q), S_IOERR);
        assert_memory_equal(data_of(&f, &q), zeroes, q.data_len);
        assert_int_equal(run(&f, (struct request){ .type = IN, .data_len = 512 }), S_OK);
        assert_int_equal(rig_status(&f.d), 15);
        end(&f);
    }
}

static void test_read_only(void **state)
{
    static struct fixture f;

    (void)state;
    begin(&f, (struct how){ .open.read_only = true }, ALL_DEVICE_FEATURES);
    rig_write(&f.r, f.d.common + C_DF_SEL, 0, 4);
    assert_int_equal(rig_read(&f.r, f.d.common + C_DF, 4) & (1 << 5 | 1 << 13), 1 << 5);
    assert_int_equal(run(&f, (struct request){ .type = IN, .data_len = 512 }), S_OK);
    assert_memory_equal(data_of(&f, &(struct request){ .slot = 0 }), f.model, 512);
    assert_int_equal(run(&f, (struct request){ .type = OUT, .data_len = 512 }), S_IOERR);
    assert_int_equal(run(&f, (struct request){ .type = FLUSH }), S_OK);
    compare_disk(&f);
    end(&f);
}

static bool needs_reset(void *opaque)
{
    return rig_status(opaque) & 64;
}

/* The next driver after a reset, with queue 0 only. */
static void next_driver(struct fixture *f)
{
    rig_negotiate(&f->d, RIG_F_VERSION_1);
    drv_queue_init(&f->q[0], f->r.m, 0x10000, QUEUE_SIZE, false, false);
    rig_queue(&f->d, 0, &f->q[0]);
    rig_driver_ok(&f->d);
}

/* A request without room for a status breaks its queue; the others go on, and a reset heals all. */
static void test_broken_queue(void **state)
{
    static struct fixture f;
    struct drv_buf buf = { .gpa = HEADERS, .len = 16 };
    unsigned config_irqs;

    (void)state;
    begin(&f, (struct how){ 0 }, ALL_DEVICE_FEATURES);
    config_irqs = f.r.msi[0];
    assert_true(drv_add(&f.q[0], &buf, 1, false, &f));
    rig_kick(&f.d, 0);
    rig_wait(needs_reset, &f.d);
    assert_int_equal(f.r.msi[0], config_irqs + 1);
    assert_int_equal(run(&f, (struct request){ .type = IN, .queue = 1, .data_len = 512 }), S_OK);
    next_driver(&f);
    assert_int_equal(run(&f, (struct request){ .type = IN, .data_len = 512 }), S_OK);
    end(&f);
}

/* After reset no byte of guest memory changes any more, whatever was in flight. */
static void test_reset_in_flight(void **state)
{
    static struct fixture f;
    uint8_t *copy = malloc(RIG_RAM);

    (void)state;
    for (unsigned kind = BLK_AIO_URING; kind <= BLK_AIO_THREADS; kind++) {
        begin(&f, (struct how){ .image.aio = kind }, ALL_DEVICE_FEATURES);
        for (unsigned round = 0; round < 20; round++) {
            struct request reqs[20];

            for (unsigned i = 0; i < 20; i++) {
                reqs[i] = (struct request){ .slot = i, .type = IN, .sector = 8 * i, .data_len = 100 * 512 };
                offer(&f, &reqs[i], false);
                rig_kick(&f.d, 0);
                if (f.q[0].n_free < 20)
                    break;
            }
            rig_reset(&f.d);
            memcpy(copy, mem_ptr(f.r.m, GPA(0), RIG_RAM), RIG_RAM);
            usleep(2000);
            assert_memory_equal(copy, mem_ptr(f.r.m, GPA(0), RIG_RAM), RIG_RAM);
            next_driver(&f);
        }
        assert_int_equal(run(&f, (struct request){ .type = IN, .data_len = 512 }), S_OK);
        end(&f);
    }
    free(copy);
}

static uint64_t offered(struct fixture *f)
{
    rig_write(&f->r, f->d.common + C_DF_SEL, 0, 4);
    return rig_read(&f->r, f->d.common + C_DF, 4);
}

enum { F_FLUSH = 1 << 9, F_CONFIG_WCE = 1 << 11, F_DISCARD = 1 << 13, F_ZEROES = 1 << 14, F_SECURE_ERASE = 1 << 16 };
enum { CFG_CAPACITY = 0, CFG_WRITEBACK = 32, CFG_MAY_UNMAP = 56 };

/* Features follow from the image: a write-through disk has no cache to flush, one that ignores discard none to offer.
 */
static void test_features(void **state)
{
    static struct fixture f;

    (void)state;
    begin(&f, (struct how){ 0 }, ALL_DEVICE_FEATURES);
    assert_int_equal(offered(&f) & (F_FLUSH | F_CONFIG_WCE | F_DISCARD | F_ZEROES | F_SECURE_ERASE),
                     F_FLUSH | F_CONFIG_WCE | F_DISCARD | F_ZEROES);
    assert_int_equal(rig_read(&f.r, f.d.config + CFG_WRITEBACK, 1), 1);
    assert_int_equal(rig_read(&f.r, f.d.config + CFG_MAY_UNMAP, 1), 1);
    end(&f);
    begin(&f, (struct how){ .image.writethrough = true, .image.ignore_discard = true }, ALL_DEVICE_FEATURES);
    assert_int_equal(offered(&f) & (F_FLUSH | F_CONFIG_WCE | F_DISCARD | F_ZEROES | F_SECURE_ERASE), F_ZEROES);
    assert_int_equal(rig_read(&f.r, f.d.config + CFG_WRITEBACK, 1), 0);
    assert_int_equal(rig_read(&f.r, f.d.config + CFG_MAY_UNMAP, 1), 0);
    assert_int_equal(run(&f, (struct request){ .type = OUT, .data_len = 512 }), S_OK);
    end(&f);
}

static void resize(void *opaque)
{
    struct fixture *f = opaque;

    assert_int_equal(blk_resize(blk_image_node(f->img), DISK + 4096, BLK_PREALLOC_OFF, NULL), 0);
    virtio_blk_resized(f->blk);
}

static bool has_grown(void *opaque)
{
    struct fixture *f = opaque;

    return rig_read(&f->r, f->d.config + CFG_CAPACITY, 8) == DISK_SECTORS + 8;
}

/* The disk grows while the guest runs: new capacity, a configuration interrupt, and the new sectors can be used. */
static void test_resize(void **state)
{
    static struct fixture f;
    unsigned config_irqs;
    uint8_t generation;

    (void)state;
    begin(&f, (struct how){ 0 }, ALL_DEVICE_FEATURES);
    config_irqs = f.r.msi[0];
    generation = (uint8_t)rig_read(&f.r, f.d.common + C_GEN, 1);
    assert_int_equal(run(&f, (struct request){ .type = OUT, .sector = DISK_SECTORS, .data_len = 4096 }), S_IOERR);
    assert_int_equal(loop_post(f.r.loop, resize, &f), 0);
    rig_wait(has_grown, &f);
    assert_int_not_equal(rig_read(&f.r, f.d.common + C_GEN, 1), generation);
    assert_int_equal(run(&f, (struct request){ .type = OUT, .sector = DISK_SECTORS, .data_len = 4096 }), S_OK);
    assert_int_equal(run(&f, (struct request){ .type = OUT, .sector = DISK_SECTORS, .data_len = 4608 }), S_IOERR);
    assert_int_equal(f.r.msi[0], config_irqs + 1);
    end(&f);
}

/* Reset while requests wait for the disk's limits, or for the host to recover: it does not take long, nothing is
 * written to guest memory afterwards, and the next driver finds a disk that works. */
static void test_reset_waiting(void **state)
{
    static struct fixture f;
    struct request reqs[4];
    uint8_t *copy = malloc(RIG_RAM);

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        struct how limited = { .image.limits.iops = { 1, 1 } }, kept = { .image.wait_on_error = true };

        begin(&f, i ? kept : limited, ALL_DEVICE_FEATURES);
        assert_int_equal(truncate(f.path, i ? DISK / 2 : DISK), 0); /* reads of the second half fail */
        for (unsigned k = 0; k < 4; k++) {
            reqs[k] = (struct request){ .slot = k, .type = IN, .sector = DISK_SECTORS - 64 + 16 * k, .data_len = 4096 };
            offer(&f, &reqs[k], false);
        }
        rig_kick(&f.d, 0);
        usleep(20000);
        rig_reset(&f.d);
        memcpy(copy, mem_ptr(f.r.m, GPA(0), RIG_RAM), RIG_RAM);
        assert_int_equal(truncate(f.path, DISK), 0);
        usleep(150000); /* beyond the next attempt */
        assert_memory_equal(copy, mem_ptr(f.r.m, GPA(0), RIG_RAM), RIG_RAM);
        next_driver(&f);
        assert_int_equal(run(&f, (struct request){ .type = IN, .data_len = 512 }), S_OK);
        end(&f);
    }
    free(copy);
}

static uint64_t allocated(struct fixture *f)
{
    struct stat st;

    assert_int_equal(stat(f->path, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

/* What the guest gives back becomes free on the host, unless that is not wanted. */
static void test_discard(void **state)
{
    static struct fixture f;
    struct request q = { .type = DISCARD, .data_len = 16 };

    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        bool ignore = i == 1 || i == 3, zeroes = i >= 2;

        begin(&f, (struct how){ .image.ignore_discard = ignore }, ALL_DEVICE_FEATURES);
        assert_true(allocated(&f) >= DISK);
        memset(data_of(&f, &q), 0, 16);
        store_le32(data_of(&f, &q) + 8, DISK_SECTORS / 2);
        store_le32(data_of(&f, &q) + 12, zeroes); /* may unmap */
        q.type = zeroes ? ZEROES : DISCARD;
        assert_int_equal(run(&f, q), S_OK);
        assert_true(ignore ? allocated(&f) >= DISK : allocated(&f) < DISK * 3ULL / 4);
        if (zeroes)
            memset(f.model, 0, DISK / 2);
        if (zeroes || ignore)
            compare_disk(&f);
        end(&f);
    }
}

static void ignore_quiet(void *opaque)
{
    *(_Atomic bool *)opaque = true;
}

static _Atomic bool stopped;

static void stop_image(void *opaque)
{
    struct fixture *f = opaque;

    assert_int_equal(blk_image_quiesce(f->img, ignore_quiet, &stopped), 0);
}

static void resume_image(void *opaque)
{
    struct fixture *f = opaque;

    blk_image_resume(f->img);
}

static bool is_stopped(void *opaque)
{
    (void)opaque;
    return stopped;
}

/* What completes together is announced together: fewer interrupts than requests, and none is missing. */
static void test_coalesce(void **state)
{
    static struct fixture f;
    struct request reqs[16];
    unsigned interrupts;

    (void)state;
    begin(&f, (struct how){ 0 }, ALL_DEVICE_FEATURES);
    stopped = false;
    assert_int_equal(loop_post(f.r.loop, stop_image, &f), 0);
    rig_wait(is_stopped, &f);
    interrupts = f.r.msi[1];
    for (unsigned i = 0; i < 16; i++) {
        reqs[i] = (struct request){ .slot = i, .type = IN, .sector = 64 * i, .data_len = 512 };
        offer(&f, &reqs[i], false);
    }
    usleep(20000); /* they are all at the gate then, or some of them soon will be */
    assert_null(drv_get_used(&f.q[0], &(uint32_t){ 0 }));
    assert_int_equal(loop_post(f.r.loop, resume_image, &f), 0);
    for (unsigned i = 0; i < 16; i++) {
        struct request *q = rig_complete(&f.q[0], NULL);

        assert_int_equal(*status_of(&f, q), S_OK);
    }
    rig_stop(&f.r);
    assert_in_range(f.r.msi[1] - interrupts, 1, 15);
    end(&f);
}

/* What a malicious guest could do with a disk that was taken for raw. */
static void test_guard(void **state)
{
    static struct fixture f;
    struct request q = { .type = OUT, .data_len = 1024 };

    (void)state;
    begin(&f, (struct how){ .image.guard = true }, ALL_DEVICE_FEATURES);
    memset(data_of(&f, &q), 0, 1024);
    memcpy(data_of(&f, &q), "LUKS\xba\xbe\0\1", 8);
    assert_int_equal(run(&f, q), S_IOERR);
    compare_disk(&f);
    data_of(&f, &q)[0] = 'l';
    assert_int_equal(run(&f, q), S_OK);
    end(&f);
}

static int try_open(struct rig *r, const char *path, bool read_only, struct blk_image **ret_img)
{
    return disk_open(&(struct blk_open_config){ .path = path, .read_only = read_only }, &(struct blk_image_config){ 0 },
                     r->loop, ret_img);
}

static void test_open(void **state)
{
    struct rig r;
    struct blk_image *a = NULL, *b = NULL, *c = NULL;
    const char *path = "test_virtio_blk.open.img";
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    (void)state;
    rig_init(&r);
    assert_int_equal(try_open(&r, path, false, &a), -ENOMEDIUM);
    assert_int_equal(ftruncate(fd, 1000), 0);
    assert_int_equal(try_open(&r, path, false, &a), -EMEDIUMTYPE);
    assert_int_equal(ftruncate(fd, 1024), 0);
    close(fd);
    assert_int_equal(try_open(&r, path, false, &a), 0);
    assert_int_equal(try_open(&r, path, false, &b), -EBUSY);
    assert_int_equal(try_open(&r, path, true, &b), -EBUSY);
    blk_image_close(a);
    assert_int_equal(try_open(&r, path, true, &a), 0);
    assert_int_equal(try_open(&r, path, true, &b), 0);
    assert_int_equal(try_open(&r, path, false, &c), -EBUSY);
    blk_image_close(a);
    blk_image_close(b);
    unlink(path);
    assert_int_equal(try_open(&r, path, false, &a), -ENOENT);
    assert_int_equal(try_open(&r, ".", false, &a), -EISDIR);
    assert_int_equal(try_open(&r, "/dev/null", false, &a), -ENOTBLK);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(try_open(&r, path, false, &a), -ENOTBLK);
    unlink(path);
    rig_done(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_split_uring),
        cmocka_unit_test(test_random_split_threads),
        cmocka_unit_test(test_random_packed),
        cmocka_unit_test(test_random_write_through),
        cmocka_unit_test(test_random_direct),
        cmocka_unit_test(test_random_qcow2),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_read_only),
        cmocka_unit_test(test_broken_queue),
        cmocka_unit_test(test_reset_in_flight),
        cmocka_unit_test(test_open),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_features),
        cmocka_unit_test(test_resize),
        cmocka_unit_test(test_reset_waiting),
        cmocka_unit_test(test_guard),
        cmocka_unit_test(test_discard),
        cmocka_unit_test(test_coalesce),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
