/* The ceiling of virtio-blk without an engine: a host program that plays the driver, in the way of a Linux guest (split
 * ring, indirect descriptors, event index, one interrupt awaited at a time), and keeps N requests in flight for a
 * while. Prints one line of JSON. Driven by bench/virtio-blk. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bits.h"
#include "base/num.h"
#include "block/sched.h"
#include "disk.h"
#include "virtio/blk.h"
#include "virtio_rig.h"

#define HEADERS 0x200000ULL
#define DATA 0x800000ULL
#define DEPTH_MAX 128
#define BS_MAX (128u << 10)

struct bench {
    struct rig r;
    struct rig_dev d;
    struct drv_queue q;
    struct blk_image *img;
    struct virtio_blk *blk;
    struct blk_sched *sched;
    bool write, random, poll;
    uint64_t bs, depth, seconds, at, seed, ops;
};

static uint64_t cpu_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

static uint64_t next_sector(struct bench *b)
{
    uint64_t blocks = b->img->size / b->bs, block = b->at++ % blocks;

    if (b->random) {
        b->seed = b->seed * 6364136223846793005ULL + 1442695040888963407ULL;
        block = (b->seed >> 20) % blocks;
    }
    return block * b->bs / 512;
}

static void submit(struct bench *b, uint64_t slot)
{
    uint8_t *header = mem_ptr(b->r.m, GPA(HEADERS + slot * 512), 512);
    const struct drv_buf bufs[3] = {
        { .gpa = HEADERS + slot * 512, .len = 16 },
        { .gpa = DATA + slot * BS_MAX, .len = (uint32_t)b->bs, .in = !b->write },
        { .gpa = HEADERS + slot * 512 + 500, .len = 1, .in = true },
    };

    store_le32(header, b->write);
    store_le64(header + 8, next_sector(b));
    header[500] = 0xee;
    assert_true(drv_add(&b->q, bufs, 3, true, (void *)(uintptr_t)(slot + 1)));
}

/* Collect what has ended and start as much again. Returns how many that were. */
static unsigned turn(struct bench *b)
{
    unsigned n = 0;
    void *token;
    uint32_t len;

    while ((token = drv_get_used(&b->q, &len))) {
        uint64_t slot = (uintptr_t)token - 1;

        assert_int_equal(((uint8_t *)mem_ptr(b->r.m, GPA(HEADERS + slot * 512), 512))[500], 0);
        submit(b, slot);
        n++;
    }
    if (n > 0 && drv_should_kick(&b->q))
        rig_kick(&b->d, 0);
    b->ops += n;
    return n;
}

static void run(struct bench *b)
{
    uint64_t begin = sys_now_ns(), end = begin + b->seconds * 1000000000ULL, now, cpu = cpu_ns();
    unsigned interrupts = b->r.msi[1];
    const struct blk_stats *s = blk_image_stats(b->img);
    const struct blk_op_stats *op = &s->op[b->write ? BLK_STATS_WRITE : BLK_STATS_READ];
    eventfd_t count;

    for (uint64_t i = 0; i < b->depth; i++)
        submit(b, i);
    if (drv_should_kick(&b->q))
        rig_kick(&b->d, 0);
    while ((now = sys_now_ns()) < end) {
        if (turn(b) == 0 && !b->poll && !drv_enable_interrupt(&b->q))
            assert_int_equal(eventfd_read(b->r.msi_event, &count), 0);
        drv_disable_interrupt(&b->q);
    }
    cpu = cpu_ns() - cpu;
    rig_stop(&b->r);
    printf("{\"iops\": %.0f, \"mib_s\": %.1f, \"cpu_us_per_op\": %.2f, \"interrupts_per_op\": %.3f, \"merged\": %.3f, "
           "\"slow\": %.3f, \"ahead\": %.3f, \"p50_us\": %llu, \"p99_us\": %llu}\n",
           (double)b->ops * 1e9 / (double)(now - begin),
           (double)(b->ops * b->bs) / 1048576.0 * 1e9 / (double)(now - begin), (double)cpu / 1000.0 / (double)b->ops,
           (double)(b->r.msi[1] - interrupts) / (double)b->ops, (double)op->merged / (double)op->ops,
           (double)s->slow / (double)op->ops, (double)s->readahead_hits / (double)op->ops,
           (unsigned long long)blk_histogram_quantile_us(&op->response, 500),
           (unsigned long long)blk_histogram_quantile_us(&op->response, 990));
}

static int build(struct bench *b, const struct blk_open_config *open, enum blk_aio_kind aio)
{
    struct blk_image_config image = { .aio = aio, .readahead = 1u << 20, .guard = strcmp(open->format, "raw") == 0 };
    struct virtio_blk_config config = { .n_queues = 1, .slot = -1 };
    int res;

    rig_init(&b->r);
    b->r.msi_event = eventfd(0, EFD_CLOEXEC);
    res = blk_sched_new(128, &b->sched);
    image.sched = b->sched;
    image.ignore_flush = open->cache == BLK_CACHE_UNSAFE;
    image.writethrough = open->cache == BLK_CACHE_WRITETHROUGH;
    if (res == 0)
        res = disk_open(open, &image, b->r.loop, &b->img);
    config.image = b->img;
    return res < 0 ? res : virtio_blk_new(&b->r.env, &config, &b->blk);
}

static void connect_driver(struct bench *b)
{
    uint64_t features;

    rig_start(&b->r);
    rig_find(&b->r, 1, true, &b->d);
    features = rig_negotiate(&b->d, 0xffffff | RIG_F_VERSION_1 | RIG_F_INDIRECT | RIG_F_EVENT_IDX);
    (void)drv_queue_init(&b->q, b->r.m, 0x10000, 256, false, features & RIG_F_EVENT_IDX);
    rig_queue(&b->d, 0, &b->q);
    rig_driver_ok(&b->d);
}

static int usage(void)
{
    fprintf(stderr, "blkbench FILE FORMAT CACHE AIO read|write|randread|randwrite BLOCKSIZE DEPTH SECONDS [poll]\n");
    return 2;
}

static int lookup(const char *word, const char *const *names, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        if (strcmp(word, names[i]) == 0)
            return (int)i;
    }
    return -1;
}

int main(int argc, char **argv)
{
    static const char *const caches[] = { "writeback", "none", "writethrough", "unsafe" };
    static const char *const aios[] = { "auto", "io_uring", "threads" };
    static struct bench b;
    struct blk_open_config open;
    int cache, aio, res;

    if (argc < 9)
        return usage();
    cache = lookup(argv[3], caches, ARRAY_SIZE(caches));
    aio = lookup(argv[4], aios, ARRAY_SIZE(aios));
    b.random = strncmp(argv[5], "rand", 4) == 0;
    b.write = strstr(argv[5], "write") != NULL;
    b.poll = argc > 9;
    if (cache < 0 || aio < 0 || num_parse_u64(argv[6], 512, BS_MAX, &b.bs) < 0 ||
        num_parse_u64(argv[7], 1, DEPTH_MAX, &b.depth) < 0 || num_parse_u64(argv[8], 1, 3600, &b.seconds) < 0)
        return usage();
    open = (struct blk_open_config){ .path = argv[1], .format = argv[2], .cache = (enum blk_cache)cache };
    res = build(&b, &open, (enum blk_aio_kind)aio);
    if (res < 0) {
        fprintf(stderr, "blkbench: %s: %s\n", argv[1], strerror(-res));
        return 1;
    }
    connect_driver(&b);
    run(&b);
    virtio_blk_free(b.blk);
    blk_image_close(b.img);
    blk_sched_free(b.sched);
    rig_done(&b.r);
    return 0;
}
