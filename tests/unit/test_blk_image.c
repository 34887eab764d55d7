/* The asynchronous front over a node that fails, waits and maps at will: random requests against a model on every way
 * that they can take, and the stations of that way one by one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "block/image.h"
#include "block/sched.h"
#include "fake_node.h"
#include "fault.h"
#include "sys/loop.h"

#define SIZE (4u << 20)
#define SECTORS (SIZE / 512)
#define REQS 24
#define REQ_MAX (256u << 10)

struct fixture;

struct request {
    struct fixture *f;
    bool busy;
    int res;
    unsigned order; /* of its end, from 1 on */
    struct blk_req io;
    struct iovec iov[8];
    uint8_t *data, *expect;
};

struct fixture {
    struct loop *loop;
    struct fake_node *node;
    struct blk_image *img;
    struct request reqs[REQS];
    uint8_t *model;
    uint64_t seed;
    unsigned ended, batches, quiet;
    unsigned events[BLK_EVENT_REFUSED + 1];
    int event_error;
    /* filter */
    struct blk_job *filtered;
    unsigned filter_calls;
    bool filter_holds;
};

static uint32_t rnd(struct fixture *f, uint32_t below)
{
    f->seed = f->seed * 6364136223846793005ULL + 1442695040888963407ULL;
    return (uint32_t)(f->seed >> 33) % below;
}

static void on_event(void *opaque, enum blk_image_event event, int error)
{
    struct fixture *f = opaque;

    f->events[event]++;
    f->event_error = error;
}

static void on_batch(void *opaque)
{
    struct fixture *f = opaque;

    f->batches++;
}

static void begin_on(struct fixture *f, struct loop *loop, struct blk_image_config config, bool maps)
{
    *f = (struct fixture){ .seed = 11, .loop = loop, .node = fake_node_new(SIZE) };
    f->node->maps = maps;
    f->model = malloc(SIZE);
    for (unsigned i = 0; i < SIZE; i++)
        f->model[i] = i / 4096 % 3 == 1 ? 0 : (uint8_t)rnd(f, 256);
    memcpy(f->node->mem, f->model, SIZE);
    config.event = on_event;
    config.opaque = f;
    assert_int_equal(blk_image_new(&f->node->node, &config, f->loop, &f->img), 0);
    blk_image_set_batch(f->img, on_batch, f);
    for (unsigned i = 0; i < REQS; i++) {
        f->reqs[i].f = f;
        f->reqs[i].data = aligned_alloc(4096, REQ_MAX);
        f->reqs[i].expect = malloc(REQ_MAX);
    }
}

static void begin(struct fixture *f, struct blk_image_config config, bool maps)
{
    struct loop *loop;

    assert_int_equal(loop_new(&loop), 0);
    begin_on(f, loop, config, maps);
}

static void end_on(struct fixture *f)
{
    blk_image_close(f->img);
    for (unsigned i = 0; i < REQS; i++) {
        assert_false(f->reqs[i].busy);
        free(f->reqs[i].data);
        free(f->reqs[i].expect);
    }
    free(f->model);
}

static void end(struct fixture *f)
{
    end_on(f);
    loop_free(f->loop);
}

static void on_done(struct blk_req *io, int res)
{
    struct request *r = io->opaque;

    assert_true(r->busy);
    r->busy = false;
    r->res = res;
    r->order = ++r->f->ended;
}

/* Run the loop until cond holds; fails the test after many seconds. */
static void wait_for(struct fixture *f, bool (*cond)(struct fixture *f))
{
    for (unsigned i = 0; !cond(f); i++) {
        assert_true(i < 600000);
        assert_true(loop_run_once(f->loop) >= 0);
        if (i > 100)
            usleep(50);
    }
}

static bool all_ended(struct fixture *f)
{
    for (unsigned i = 0; i < REQS; i++) {
        if (f->reqs[i].busy)
            return false;
    }
    return true;
}

/* Turn the loop a while, for what must not happen. */
static void idle(struct fixture *f)
{
    for (unsigned i = 0; i < 50; i++) {
        assert_true(loop_run_once(f->loop) >= 0);
        usleep(100);
    }
}

/* Submit; the data of a write is what lies in r->data. */
static void start(struct request *r, enum blk_op op, uint64_t off, uint64_t len)
{
    r->io = (struct blk_req){ .op = op, .off = off, .len = len, .done = on_done, .opaque = r, .unmap = off % 1024 };
    if (op == BLK_READ || op == BLK_WRITE) {
        uint64_t left = len;

        r->io.iov = r->iov;
        while (left > 0) {
            uint64_t part =
                r->io.n_iov < 7 && left > 512 && rnd(r->f, 3) ? 512 * (1 + rnd(r->f, (uint32_t)(left / 512))) : left;

            r->iov[r->io.n_iov++] = (struct iovec){ r->data + len - left, part };
            left -= part;
        }
    }
    r->busy = true;
    r->res = 1;
    assert_int_equal(blk_image_submit(r->f->img, &r->io), 0);
}

static int run(struct fixture *f, enum blk_op op, uint64_t off, uint64_t len)
{
    start(&f->reqs[0], op, off, len);
    blk_image_kick(f->img);
    wait_for(f, all_ended);
    return f->reqs[0].res;
}

/* ---- random requests ---- */

static bool range_free(struct fixture *f, uint64_t off, uint64_t len)
{
    for (unsigned i = 0; i < REQS; i++) {
        const struct request *r = &f->reqs[i];

        if (r->busy && r->io.op != BLK_FLUSH && off < r->io.off + r->io.len && r->io.off < off + len)
            return false;
    }
    return true;
}

static void random_start(struct fixture *f, struct request *r, uint64_t *stream)
{
    static const enum blk_op ops[] = {
        BLK_READ, BLK_READ, BLK_READ, BLK_WRITE, BLK_WRITE, BLK_FLUSH, BLK_WRITE_ZEROES
    };
    enum blk_op op = ops[rnd(f, ARRAY_SIZE(ops))];
    uint64_t len = 512 * (1 + rnd(f, rnd(f, 4) ? 8 : REQ_MAX / 512)),
             off = 512ULL * rnd(f, SECTORS - (uint32_t)(len / 512));

    if (rnd(f, 2)) { /* a sequential reader or writer among the others */
        off = *stream + len <= SIZE ? *stream : 0;
        *stream = off + len;
        op = rnd(f, 8) ? BLK_READ : op;
    }
    if (op == BLK_FLUSH)
        off = len = 0;
    else if (!range_free(f, off, len))
        return;
    if (op == BLK_READ) {
        memset(r->data, 0x5a, len);
        memcpy(r->expect, f->model + off, len);
    } else if (op == BLK_WRITE) {
        for (uint64_t i = 0; i < len; i++)
            r->data[i] = (uint8_t)rnd(f, 256);
        memcpy(f->model + off, r->data, len);
    } else if (op == BLK_WRITE_ZEROES) {
        memset(f->model + off, 0, len);
    }
    start(r, op, off, len);
}

static void random_check(struct request *r)
{
    assert_int_equal(r->res, 0);
    if (r->io.op == BLK_READ)
        assert_memory_equal(r->data, r->expect, r->io.len);
    r->res = 1;
}

static void random_ops(struct fixture *f, unsigned goal)
{
    uint64_t stream = 0;
    unsigned first = f->ended;

    for (unsigned turn = 0; f->ended - first < goal; turn++) {
        for (unsigned n = rnd(f, 6); n > 0; n--) {
            struct request *r = &f->reqs[rnd(f, REQS)];

            if (!r->busy)
                random_start(f, r, &stream);
        }
        blk_image_kick(f->img);
        assert_true(loop_run_once(f->loop) >= 0);
        for (unsigned i = 0; i < REQS; i++) {
            if (!f->reqs[i].busy && f->reqs[i].res != 1)
                random_check(&f->reqs[i]);
        }
        if (turn % 64 == 63)
            usleep(100);
    }
    wait_for(f, all_ended);
    for (unsigned i = 0; i < REQS; i++) {
        if (f->reqs[i].res != 1)
            random_check(&f->reqs[i]);
    }
    assert_memory_equal(f->node->mem, f->model, SIZE);
}

/* A request of many pieces, some of them zeroes. */
static void many_pieces(struct fixture *f)
{
    const uint64_t off = 8 * 4096 + 512, len = 6 * 4096 + 512;

    memset(f->model + 10 * 4096, 0, 4096);
    memset(f->node->mem + 10 * 4096, 0, 4096);
    memset(f->reqs[0].data, 0x5a, len);
    blk_image_drain(f->img);
    assert_int_equal(run(f, BLK_READ, off, len), 0);
    assert_memory_equal(f->reqs[0].data, f->model + off, len);
    assert_int_equal(f->node->most_pieces, 7);
}

static void test_random(void **state)
{
    static const struct {
        struct blk_image_config config;
        bool maps;
    } rows[] = {
        { { .aio = BLK_AIO_AUTO }, true },
        { { .aio = BLK_AIO_THREADS }, true },
        { { .aio = BLK_AIO_AUTO }, false },
        { { .aio = BLK_AIO_AUTO, .readahead = 1 << 20 }, false },
        { { .aio = BLK_AIO_AUTO, .readahead = 256 << 10, .writethrough = true }, true },
        { { .aio = BLK_AIO_AUTO, .limits.iops = { 20000, 10 }, .limits.bps_read = { 500 << 20, 0 } }, true },
        { { .aio = BLK_AIO_AUTO, .guard = true, .wait_on_error = true }, false },
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        static struct fixture f;
        const struct blk_stats *s;

        begin(&f, rows[i].config, rows[i].maps);
        f.node->align = i == 1 ? 1024 : 1; /* some go through, some cannot */
        random_ops(&f, 1500);
        f.node->align = 1;
        if (rows[i].maps)
            many_pieces(&f);
        s = blk_image_stats(f.img);
        assert_true(s->slow > 0);
        assert_true(rows[i].maps == (s->fast > 0));
        assert_true((rows[i].config.readahead > 0 && !rows[i].maps) <= (s->readahead_hits > 100));
        assert_true(s->op[BLK_STATS_READ].ops > 300 && s->op[BLK_STATS_READ].errors == 0);
        assert_true(s->op[BLK_STATS_READ].merged > 0);
        for (unsigned k = 0; k < BLK_STATS_KINDS; k++)
            assert_int_equal(s->op[k].response.sum_ns, s->op[k].wait.sum_ns + s->op[k].service.sum_ns);
        assert_true(f.batches > 0);
        end(&f);
    }
}

/* Two disks on one scheduler that lets one request through at a time. */
static void test_random_sched(void **state)
{
    static struct fixture a, b;
    struct blk_sched *sched;
    struct loop *loop;

    (void)state;
    assert_int_equal(blk_sched_new(2, &sched), 0);
    assert_int_equal(loop_new(&loop), 0);
    begin_on(&a, loop, (struct blk_image_config){ .sched = sched, .weight = 100, .readahead = 1 << 20 }, false);
    begin_on(&b, loop, (struct blk_image_config){ .sched = sched, .weight = 10 }, true);
    for (unsigned i = 0; i < 8; i++) {
        for (unsigned k = 0; k < 8; k++) /* left in flight while the other one works */
            start(&b.reqs[k], BLK_READ, 8192ULL * k, 4096);
        blk_image_kick(b.img);
        random_ops(&a, 150);
        wait_for(&b, all_ended);
        for (unsigned k = 0; k < 8; k++) {
            assert_int_equal(b.reqs[k].res, 0);
            assert_memory_equal(b.reqs[k].data, b.model + 8192ULL * k, 4096);
            b.reqs[k].res = 1;
        }
        random_ops(&b, 150);
    }
    end_on(&b);
    end_on(&a);
    blk_sched_free(sched);
    loop_free(loop);
}

/* ---- stations ---- */

static void test_refused(void **state)
{
    static struct fixture f;
    struct blk_req io = { .op = BLK_READ, .off = SIZE, .len = 512, .done = on_done };

    (void)state;
    begin(&f, (struct blk_image_config){ 0 }, false);
    assert_int_equal(blk_image_submit(f.img, &io), -EINVAL);
    io.off = UINT64_MAX - 511;
    assert_int_equal(blk_image_submit(f.img, &io), -EINVAL);
    io.off = SIZE - 512;
    io.len = 1024;
    assert_int_equal(blk_image_submit(f.img, &io), -EINVAL);
    io.len = 100;
    assert_int_equal(blk_image_submit(f.img, &io), -EINVAL);
    io.off = 100;
    io.len = 512;
    assert_int_equal(blk_image_submit(f.img, &io), -EINVAL);
    io.len = 0;
    assert_int_equal(blk_image_submit(f.img, &io), -EINVAL);
    end(&f);
}

static void test_merge(void **state)
{
    static struct fixture f;

    (void)state;
    begin(&f, (struct blk_image_config){ 0 }, false);
    for (unsigned i = 0; i < 8; i++)
        start(&f.reqs[i], BLK_READ, 4096 * i, 4096);
    start(&f.reqs[8], BLK_READ, 4096 * 9, 4096); /* no neighbour */
    blk_image_kick(f.img);
    wait_for(&f, all_ended);
    assert_int_equal(f.node->calls[BLK_READ], 2);
    for (unsigned i = 0; i < 8; i++)
        assert_memory_equal(f.reqs[i].data, f.model + 4096 * i, 4096);
    assert_int_equal(blk_image_stats(f.img)->op[BLK_STATS_READ].merged, 7);
    assert_int_equal(blk_image_stats(f.img)->op[BLK_STATS_READ].ops, 9);
    /* One bad sector fails its own request alone. */
    f.node->error = EIO;
    f.node->fail_off = 4096 * 3 + 512;
    f.node->fail_left = 2; /* together, then alone */
    for (unsigned i = 0; i < 8; i++)
        start(&f.reqs[i], BLK_WRITE, 4096 * i, 4096);
    blk_image_kick(f.img);
    wait_for(&f, all_ended);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(f.reqs[i].res, i == 3 ? -EIO : 0);
    assert_int_equal(f.node->calls[BLK_WRITE], 9);
    assert_int_equal(blk_image_stats(f.img)->op[BLK_STATS_WRITE].errors, 1);
    end(&f);
}

static void test_durable(void **state)
{
    static struct fixture f;

    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        begin(&f, (struct blk_image_config){ .writethrough = i > 0, .ignore_flush = i == 2 }, true);
        assert_int_equal(f.img->writethrough, i == 1);
        assert_int_equal(run(&f, BLK_WRITE, 0, 4096), 0);
        assert_int_equal(run(&f, BLK_WRITE_ZEROES, 0, 4096), 0);
        assert_int_equal(f.node->calls[BLK_FLUSH], i == 1 ? 2 : 0);
        f.reqs[0].io.durable = true;
        f.reqs[0].busy = true;
        f.reqs[0].io.op = BLK_WRITE;
        f.reqs[0].io.iov = f.reqs[0].iov;
        f.reqs[0].iov[0] = (struct iovec){ f.reqs[0].data, 4096 };
        f.reqs[0].io.n_iov = 1;
        assert_int_equal(blk_image_submit(f.img, &f.reqs[0].io), 0);
        blk_image_kick(f.img);
        wait_for(&f, all_ended);
        assert_int_equal(f.reqs[0].res, 0);
        assert_int_equal(f.node->calls[BLK_FLUSH], i == 0 ? 1 : i == 1 ? 3 : 0);
        assert_int_equal(run(&f, BLK_FLUSH, 0, 0), 0);
        assert_int_equal(f.node->calls[BLK_FLUSH], i == 0 ? 2 : i == 1 ? 4 : 0);
        end(&f);
    }
}

static void test_discard(void **state)
{
    static struct fixture f;

    (void)state;
    for (unsigned ignore = 0; ignore < 2; ignore++) {
        begin(&f, (struct blk_image_config){ .ignore_discard = ignore }, true);
        assert_int_equal(run(&f, BLK_DISCARD, 0, 4096), 0);
        assert_int_equal(f.node->calls[BLK_DISCARD], !ignore);
        assert_int_equal(f.img->discards, !ignore);
        end(&f);
    }
}

static void test_errors(void **state)
{
    static struct fixture f;

    (void)state;
    begin(&f, (struct blk_image_config){ 0 }, false);
    for (enum blk_op op = BLK_READ; op <= BLK_WRITE_ZEROES; op++) {
        f.node->error = ENOSPC;
        f.node->fail_flush = true;
        f.node->fail_left = 1;
        assert_int_equal(run(&f, op, 0, 4096), -ENOSPC);
        assert_int_equal(run(&f, op, 0, 4096), 0);
    }
    assert_int_equal(f.events[BLK_EVENT_WAITING], 0);
    end(&f);
}

static bool was_told(struct fixture *f)
{
    return f->events[BLK_EVENT_WAITING] > 0;
}

/* on_error=wait: kept until the host recovers, one word to the user at each end of that. */
static void test_wait(void **state)
{
    static struct fixture f;

    (void)state;
    begin(&f, (struct blk_image_config){ .wait_on_error = true }, false);
    f.node->error = ENOSPC;
    f.node->fail_left = UINT32_MAX;
    memset(f.reqs[0].data, 1, 4096);
    memset(f.reqs[1].data, 2, 4096);
    start(&f.reqs[0], BLK_WRITE, 0, 4096);
    start(&f.reqs[1], BLK_WRITE, 65536, 4096);
    blk_image_kick(f.img);
    wait_for(&f, was_told);
    idle(&f);
    assert_int_equal(f.event_error, ENOSPC);
    assert_true(f.reqs[0].busy && f.reqs[1].busy);
    f.node->fail_left = 0;
    wait_for(&f, all_ended);
    assert_int_equal(f.reqs[0].res, 0);
    assert_int_equal(f.reqs[1].res, 0);
    assert_true(f.node->mem[0] == 1 && f.node->mem[65536] == 2);
    assert_int_equal(f.events[BLK_EVENT_WAITING], 1);
    assert_int_equal(f.events[BLK_EVENT_RESUMED], 1);
    assert_true(blk_image_stats(f.img)->waited >= 2);
    assert_int_equal(blk_image_stats(f.img)->op[BLK_STATS_WRITE].errors, 0);
    /* What will not get better by waiting, and what would be a lie, is reported. */
    f.node->fail_flush = true;
    f.node->error = EINVAL;
    f.node->fail_left = 1;
    assert_int_equal(run(&f, BLK_READ, 0, 512), -EINVAL);
    f.node->error = EIO;
    f.node->fail_left = 1;
    assert_int_equal(run(&f, BLK_FLUSH, 0, 0), -EIO);
    assert_int_equal(f.events[BLK_EVENT_WAITING], 1);
    end(&f);
}

static bool failed_often(struct fixture *f)
{
    return blk_image_stats(f->img)->waited >= 4;
}

/* A reset while requests wait: they end at once, and so does what comes back with an error later. */
static void test_cancel(void **state)
{
    static struct fixture f;

    (void)state;
    begin(&f, (struct blk_image_config){ .wait_on_error = true, .limits.iops_read = { 1, 1 } }, false);
    f.node->error = EIO;
    f.node->fail_left = UINT32_MAX;
    start(&f.reqs[0], BLK_WRITE, 0, 4096);
    blk_image_kick(f.img);
    wait_for(&f, failed_often); /* 0 is kept, and the next attempt is some time away */
    fake_node_hold(f.node, true);
    start(&f.reqs[1], BLK_WRITE, 65536, 4096); /* at the host */
    start(&f.reqs[2], BLK_READ, 0, 512);       /* the only read of this second */
    blk_image_kick(f.img);
    for (unsigned i = 3; i < 6; i++)
        start(&f.reqs[i], BLK_READ, 8192 * i, 512); /* held by the limit */
    blk_image_kick(f.img);
    start(&f.reqs[6], BLK_WRITE, 0, 512); /* not even kicked */
    while (fake_node_held(f.node) < 2)
        idle(&f);
    blk_image_cancel(f.img);
    assert_int_equal(f.reqs[0].res, -ECANCELED);
    for (unsigned i = 3; i < 7; i++)
        assert_int_equal(f.reqs[i].res, -ECANCELED);
    assert_true(f.reqs[1].busy && f.reqs[2].busy);
    fake_node_hold(f.node, false);
    wait_for(&f, all_ended);
    assert_int_equal(f.reqs[1].res, -EIO);
    assert_int_equal(f.reqs[2].res, -EIO);
    f.node->fail_left = 0;
    assert_int_equal(run(&f, BLK_WRITE, 0, 4096), 0);
    assert_int_equal(f.events[BLK_EVENT_RESUMED], 1);
    end(&f);
}

/* Draining ends everything, whatever it waits for; closing drains. */
static void test_drain(void **state)
{
    static struct fixture f;

    (void)state;
    begin(&f, (struct blk_image_config){ .wait_on_error = true, .limits.iops_read = { 1, 1 }, .readahead = 1 << 20 },
          true);
    f.node->error = EIO;
    f.node->fail_off = 7 * 4096;
    f.node->fail_left = UINT32_MAX;
    start(&f.reqs[0], BLK_WRITE, 7 * 4096, 4096);
    blk_image_kick(f.img);
    wait_for(&f, was_told);
    for (unsigned i = 1; i < 8; i++)
        start(&f.reqs[i], BLK_READ, 16384 * i, 512);
    blk_image_kick(f.img);
    start(&f.reqs[8], BLK_WRITE, 512, 512);
    blk_image_drain(f.img);
    assert_true(all_ended(&f));
    assert_int_equal(f.reqs[0].res, -EIO);
    for (unsigned i = 1; i < 9; i++)
        assert_int_equal(f.reqs[i].res, 0);
    for (unsigned i = 1; i < 8; i++)
        start(&f.reqs[i], BLK_READ, 16384 * i, 512);
    blk_image_kick(f.img);
    start(&f.reqs[8], BLK_WRITE, 512, 512);
    end(&f); /* the limits do not hold it up */
}

static void on_quiet(void *opaque)
{
    ((struct fixture *)opaque)->quiet++;
}

static bool is_quiet(struct fixture *f)
{
    return f->quiet > 0;
}

static void test_quiesce(void **state)
{
    static struct fixture f;

    (void)state;
    begin(&f, (struct blk_image_config){ 0 }, false);
    assert_int_equal(blk_image_quiesce(f.img, on_quiet, &f), 0);
    assert_int_equal(f.quiet, 1); /* nothing to wait for */
    assert_int_equal(blk_image_quiesce(f.img, on_quiet, &f), -EBUSY);
    blk_image_resume(f.img);
    f.quiet = 0;
    fake_node_hold(f.node, true);
    memset(f.reqs[0].data, 1, 4096);
    memset(f.reqs[1].data, 2, 4096);
    start(&f.reqs[0], BLK_WRITE, 0, 4096);
    blk_image_kick(f.img);
    assert_int_equal(blk_image_quiesce(f.img, on_quiet, &f), 0);
    start(&f.reqs[1], BLK_WRITE, 0, 4096);
    blk_image_kick(f.img);
    idle(&f);
    assert_int_equal(f.quiet, 0);
    fake_node_hold(f.node, false);
    wait_for(&f, is_quiet);
    idle(&f);
    assert_true(!f.reqs[0].busy && f.reqs[1].busy);
    assert_int_equal(f.node->mem[0], 1);
    blk_image_resume(f.img);
    wait_for(&f, all_ended);
    assert_int_equal(f.node->mem[0], 2);
    assert_int_equal(f.quiet, 1);
    end(&f);
}

static bool on_before_write(void *opaque, struct blk_job *job, uint64_t off, uint64_t len)
{
    struct fixture *f = opaque;

    f->filter_calls++;
    assert_true(off + len <= SIZE && len > 0);
    if (!f->filter_holds)
        return true;
    assert_null(f->filtered);
    f->filtered = job;
    return false;
}

static void test_filter(void **state)
{
    static struct fixture f;
    struct blk_filter filter = { .before_write = on_before_write, .opaque = &f };
    struct blk_job *job;

    (void)state;
    begin(&f, (struct blk_image_config){ 0 }, true);
    blk_image_set_filter(f.img, &filter);
    assert_int_equal(run(&f, BLK_READ, 0, 4096), 0);
    assert_int_equal(run(&f, BLK_FLUSH, 0, 0), 0);
    assert_int_equal(f.filter_calls, 0);
    assert_int_equal(run(&f, BLK_WRITE, 0, 4096), 0);
    assert_int_equal(run(&f, BLK_DISCARD, 0, 4096), 0);
    assert_int_equal(run(&f, BLK_WRITE_ZEROES, 0, 4096), 0);
    assert_int_equal(f.filter_calls, 3);
    /* Held: the old content is still there when the filter looks, and others go on. */
    f.filter_holds = true;
    memset(f.reqs[1].data, 9, 4096);
    start(&f.reqs[1], BLK_WRITE, 8192, 4096);
    blk_image_kick(f.img);
    idle(&f);
    assert_true(f.reqs[1].busy && f.filtered);
    assert_memory_equal(f.node->mem + 8192, f.model + 8192, 4096);
    start(&f.reqs[0], BLK_READ, 0, 4096);
    blk_image_kick(f.img);
    while (f.reqs[0].busy)
        idle(&f);
    blk_image_continue(f.filtered);
    f.filtered = NULL;
    wait_for(&f, all_ended);
    assert_int_equal(f.reqs[1].res, 0);
    assert_int_equal(f.node->mem[8192], 9);
    /* Canceled while it is held: ends at once, and is never written. */
    memset(f.reqs[1].data, 7, 4096);
    start(&f.reqs[1], BLK_WRITE, 8192, 4096);
    blk_image_kick(f.img);
    job = f.filtered;
    f.filtered = NULL;
    assert_non_null(job);
    blk_image_cancel(f.img);
    assert_int_equal(f.reqs[1].res, -ECANCELED);
    blk_image_continue(job);
    idle(&f);
    assert_int_equal(f.node->mem[8192], 9);
    blk_image_set_filter(f.img, NULL);
    assert_int_equal(run(&f, BLK_WRITE, 8192, 4096), 0);
    assert_int_equal(f.filter_calls, 5);
    end(&f);
}

/* A disk that was taken for raw stays raw. */
static void test_guard(void **state)
{
    static const uint8_t luks[8] = { 'L', 'U', 'K', 'S', 0xba, 0xbe, 0, 1 };
    static struct fixture f;

    (void)state;
    for (unsigned guard = 0; guard < 2; guard++) {
        for (unsigned maps = 0; maps < 2; maps++) {
            begin(&f, (struct blk_image_config){ .guard = guard }, maps);
            for (unsigned i = 0; i < 3; i++) {
                memset(f.reqs[0].data, 0, 16384);
                memcpy(f.reqs[0].data + (i == 2 ? 512 : 0), luks, sizeof(luks)); /* 2: harmless there */
                assert_int_equal(run(&f, BLK_WRITE, 0, i == 1 ? 512 : 16384), guard && i < 2 ? -EPERM : 0);
            }
            /* A neighbour in the same batch does not suffer. */
            memcpy(f.reqs[0].data, luks, sizeof(luks));
            memset(f.reqs[1].data, 0x77, 4096);
            start(&f.reqs[0], BLK_WRITE, 0, 4096);
            start(&f.reqs[1], BLK_WRITE, 4096, 4096);
            blk_image_kick(f.img);
            wait_for(&f, all_ended);
            assert_int_equal(f.reqs[0].res, guard ? -EPERM : 0);
            assert_int_equal(f.reqs[1].res, 0);
            assert_int_equal(f.node->mem[0] == 'L', !guard);
            assert_int_equal(f.node->mem[4096], 0x77);
            assert_int_equal(f.events[BLK_EVENT_REFUSED], guard);
            end(&f);
        }
    }
}

/* Nothing that was read ahead outlives a change of the disk. */
static void test_readahead(void **state)
{
    static struct fixture f;
    const struct blk_stats *s;
    unsigned calls;

    (void)state;
    begin(&f, (struct blk_image_config){ .readahead = 512 << 10 }, false);
    s = blk_image_stats(f.img);
    for (unsigned i = 0; i < 64; i++) {
        assert_int_equal(run(&f, BLK_READ, 4096 * i, 4096), 0);
        assert_memory_equal(f.reqs[0].data, f.model + 4096 * i, 4096);
    }
    assert_true(s->readahead_hits > 40);
    assert_int_equal(s->op[BLK_STATS_READ].ops, 64); /* those of the reader alone */
    memset(f.reqs[0].data, 0xcc, 65536);
    assert_int_equal(run(&f, BLK_WRITE, 4096 * 64, 65536), 0);
    for (unsigned i = 64; i < 80; i++) {
        assert_int_equal(run(&f, BLK_READ, 4096 * i, 4096), 0);
        assert_int_equal(f.reqs[0].data[17], 0xcc);
    }
    blk_image_drain(f.img);
    /* Random readers get none of it. */
    calls = f.node->calls[BLK_READ];
    for (unsigned i = 0; i < 50; i++)
        assert_int_equal(run(&f, BLK_READ, 4096 * (300 + i * 37 % 101 * 2), 4096), 0);
    assert_int_equal(f.node->calls[BLK_READ], calls + 50);
    /* A read-ahead that fails leaves the reader alone with the error, if that is still there. */
    f.node->error = EIO;
    f.node->fail_off = 4096 * 600 + 4096 * 40;
    f.node->fail_left = UINT32_MAX;
    for (unsigned i = 0; i < 64; i++)
        assert_int_equal(run(&f, BLK_READ, 4096 * (600 + i), 4096), i == 40 ? -EIO : 0);
    end(&f);
}

/* Each allocation in turn fails: requests are refused or end with -ENOMEM, or do not need it; none is lost. */
static void test_memory(void **state)
{
    static struct fixture f;
    bool failed = true;

    (void)state;
    for (unsigned n = 1; failed; n++) {
        unsigned submitted = 0;

        begin(&f, (struct blk_image_config){ .guard = true, .readahead = 256 << 10 }, n % 2);
        fault_begin(n);
        for (unsigned i = 0; i < 12; i++) {
            struct request *r = &f.reqs[i];

            r->io = (struct blk_req){ .op = i < 6 ? BLK_WRITE : BLK_READ,
                                      .off = 4096 * (i % 6),
                                      .len = 4096,
                                      .iov = r->iov,
                                      .n_iov = 8,
                                      .done = on_done,
                                      .opaque = r };
            for (unsigned k = 0; k < 8; k++)
                r->iov[k] = (struct iovec){ r->data + 512 * k, 512 };
            memset(r->data, 0x11, 4096);
            r->busy = blk_image_submit(f.img, &r->io) == 0;
            r->res = r->busy ? 1 : -ENOMEM;
            submitted += r->busy;
            if (i == 5) {
                blk_image_kick(f.img);
                wait_for(&f, all_ended);
            }
        }
        blk_image_kick(f.img);
        failed = fault_end();
        wait_for(&f, all_ended);
        assert_int_equal(f.ended, submitted);
        for (unsigned i = 0; i < 12; i++) {
            assert_true(f.reqs[i].res == 0 || (f.reqs[i].res == -ENOMEM && failed));
            if (i < 6 && f.reqs[i].res == 0)
                assert_int_equal(f.node->mem[4096 * i + 77], 0x11);
            if (i >= 6 && f.reqs[i].res == 0)
                assert_memory_equal(f.reqs[i].data, f.node->mem + 4096 * (i - 6), 4096);
        }
        end(&f);
    }
}

static void test_limits(void **state)
{
    static struct fixture f;
    const struct blk_op_stats *s;

    (void)state;
    begin(&f, (struct blk_image_config){ .limits.iops_write = { 100, 1 } }, false);
    for (unsigned i = 0; i < 10; i++)
        start(&f.reqs[i], BLK_WRITE, 8192 * i, 512);
    start(&f.reqs[10], BLK_READ, 0, 512);
    blk_image_kick(f.img);
    wait_for(&f, all_ended);
    s = &blk_image_stats(f.img)->op[BLK_STATS_WRITE];
    assert_true(f.reqs[10].order < f.reqs[9].order);       /* a read is not held up by the limit of writes */
    assert_true(s->wait.sum_ns > 8 * 8 / 2 * 10000000ULL); /* 10 ms between each and the next */
    assert_true(s->wait.max_ns > 80000000);
    blk_image_set_limits(f.img, &(struct blk_limits){ .bps = { 1 << 30, 1 << 30 } });
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(run(&f, BLK_WRITE, 0, 512), 0);
    assert_true(s->wait.max_ns < 1000000000 || s->ops == 20);
    end(&f);
}

static bool first_ended(struct fixture *f)
{
    return !f->reqs[0].busy;
}

/* A large request comes to its turn at a limit for reads and writes, however many small ones of the other kind there
 * are. */
static void test_limits_fair(void **state)
{
    static struct fixture f;

    (void)state;
    for (unsigned write = 0; write < 2; write++) {
        begin(&f, (struct blk_image_config){ .limits.bps = { 4 << 20, 128 << 10 } }, false);
        assert_int_equal(run(&f, BLK_READ, 0, 128 << 10), 0);
        start(&f.reqs[10], write ? BLK_WRITE : BLK_READ, 0, 256 << 10);
        blk_image_kick(f.img);
        for (unsigned i = 0; i < 200 && f.reqs[10].busy; i++) {
            start(&f.reqs[0], write ? BLK_READ : BLK_WRITE, 1 << 20, 4096);
            blk_image_kick(f.img);
            wait_for(&f, first_ended);
        }
        assert_false(f.reqs[10].busy);
        assert_int_equal(f.reqs[10].res, 0);
        end(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),      cmocka_unit_test(test_random_sched), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_merge),       cmocka_unit_test(test_durable),      cmocka_unit_test(test_discard),
        cmocka_unit_test(test_errors),      cmocka_unit_test(test_wait),         cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_drain),       cmocka_unit_test(test_quiesce),      cmocka_unit_test(test_filter),
        cmocka_unit_test(test_guard),       cmocka_unit_test(test_readahead),    cmocka_unit_test(test_limits),
        cmocka_unit_test(test_limits_fair), cmocka_unit_test(test_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
