/* Copying disks as they were at one instant while they are written to: random writes on two slow disks against copies
 * of what they were, increments, failures, cancellation, failing allocations; and the records of what has changed, in
 * memory and in qcow2 images, with qemu-img as the judge of what comes out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/bits.h"
#include "block/backup.h"
#include "block/dirty.h"
#include "block/image.h"
#include "block/open.h"
#include "block/record.h"
#include "fake_node.h"
#include "fault.h"
#include "oracle.h"
#include "sys/loop.h"

#define DISKS 2
#define SIZE ((4u << 20) + 3 * 512)
#define REQS 16
#define REQ_MAX (200u << 10)
#define CLUSTERS ((SIZE + BLK_BACKUP_CLUSTER - 1) / BLK_BACKUP_CLUSTER)

struct disk {
    struct fake_node *node, *target;
    struct blk_image *img;
    struct blk_watch *watch;
    uint8_t *shadow; /* what it was when it was frozen */
};

struct fixture;

struct request {
    struct fixture *f;
    bool busy;
    int res;
    struct blk_req io;
    struct iovec iov;
};

struct fixture {
    struct loop *loop;
    struct disk disks[DISKS];
    struct request reqs[REQS];
    struct blk_backup *backup;
    uint64_t seed;
    bool dirty[DISKS][CLUSTERS]; /* pending; unless all */
    bool all, auto_run;
    unsigned frozen, done, writes;
    int error;
    unsigned error_disk;
    bool target_failed;
};

static uint32_t rnd(struct fixture *f, uint32_t below)
{
    f->seed = f->seed * 6364136223846793005ULL + 1442695040888963407ULL;
    return (uint32_t)(f->seed >> 33) % below;
}

static void begin(struct fixture *f, uint64_t seed)
{
    *f = (struct fixture){ .seed = seed, .all = true, .auto_run = true };
    assert_int_equal(loop_new(&f->loop), 0);
    for (unsigned i = 0; i < DISKS; i++) {
        struct disk *d = &f->disks[i];
        const struct blk_image_config config = { 0 };

        d->node = fake_node_new(SIZE);
        d->node->maps = i == 0;
        d->target = fake_node_new(SIZE);
        d->shadow = malloc(SIZE);
        for (unsigned k = 0; k < SIZE; k++)
            d->node->mem[k] = k / BLK_BACKUP_CLUSTER % 5 == 1 ? 0 : (uint8_t)rnd(f, 256);
        memset(d->target->mem, 0x5a, SIZE);
        assert_int_equal(blk_image_new(&d->node->node, &config, f->loop, &d->img), 0);
        assert_int_equal(blk_watch_new(d->img, &d->watch), 0);
    }
    for (unsigned i = 0; i < REQS; i++) {
        f->reqs[i].f = f;
        f->reqs[i].iov.iov_base = malloc(REQ_MAX);
    }
}

static void end(struct fixture *f)
{
    blk_backup_free(f->backup);
    for (unsigned i = 0; i < DISKS; i++) {
        struct disk *d = &f->disks[i];

        fake_node_hold(d->node, false);
        blk_image_drain(d->img);
        blk_watch_free(d->watch);
        blk_image_close(d->img);
        blk_node_close(&d->target->node);
        free(d->shadow);
    }
    for (unsigned i = 0; i < REQS; i++) {
        assert_false(f->reqs[i].busy);
        free(f->reqs[i].iov.iov_base);
    }
    loop_free(f->loop);
}

static void step(struct fixture *f)
{
    assert_true(loop_run_once(f->loop) >= 0);
}

/* ---- requests ---- */

static void on_done(struct blk_req *io, int res)
{
    struct request *r = io->opaque;

    assert_true(r->busy);
    r->busy = false;
    r->res = res;
}

static unsigned busy(const struct fixture *f)
{
    unsigned n = 0;

    for (unsigned i = 0; i < REQS; i++)
        n += f->reqs[i].busy;
    return n;
}

/* Change something somewhere; false: all requests are busy, or the allocation was made to fail. */
static bool change(struct fixture *f)
{
    struct disk *d = &f->disks[rnd(f, DISKS)];
    static const enum blk_op ops[] = { BLK_WRITE, BLK_WRITE, BLK_WRITE_ZEROES };

    for (unsigned i = 0; i < REQS; i++) {
        struct request *r = &f->reqs[i];
        uint64_t len = (1 + rnd(f, REQ_MAX / 512)) * 512ull;

        if (r->busy)
            continue;
        if (rnd(f, 2))
            len = MIN(len, 4096);
        r->io = (struct blk_req){ .op = ops[rnd(f, 3)], .len = len, .done = on_done, .opaque = r };
        r->io.off = rnd(f, (uint32_t)((SIZE - len) / 512 + 1)) * 512ull;
        r->iov.iov_len = len;
        memset(r->iov.iov_base, (int)rnd(f, 256), len);
        r->io.iov = &r->iov;
        r->io.n_iov = 1;
        if (blk_image_submit(d->img, &r->io) < 0)
            return false;
        r->busy = true;
        blk_image_kick(d->img);
        f->writes++;
        return true;
    }
    return false;
}

static void settle(struct fixture *f)
{
    for (unsigned i = 0; busy(f) > 0; i++) {
        assert_true(i < 1000000);
        step(f);
        if (i > 100)
            usleep(20);
    }
}

/* ---- the backup ---- */

static void on_frozen(void *opaque)
{
    struct fixture *f = opaque;

    f->frozen++;
    for (unsigned i = 0; i < DISKS; i++) {
        struct blk_dirty *pending = blk_backup_pending(f->backup, i);

        memcpy(f->disks[i].shadow, f->disks[i].node->mem, SIZE);
        if (f->all)
            blk_dirty_set(pending, 0, UINT64_MAX);
        for (unsigned k = 0; k < CLUSTERS && !f->all; k++) {
            f->dirty[i][k] = rnd(f, 3) == 0;
            if (f->dirty[i][k])
                blk_dirty_set(pending, (uint64_t)k * BLK_BACKUP_CLUSTER + rnd(f, 512), 1);
        }
    }
    if (f->auto_run)
        blk_backup_run(f->backup);
}

static void on_frozen_big(void *opaque)
{
    struct fixture *f = opaque;

    blk_dirty_set(blk_backup_pending(f->backup, 0), 0, UINT64_MAX);
}

static void on_backup_done(void *opaque, int error, unsigned disk, bool target_failed)
{
    struct fixture *f = opaque;

    f->done++;
    f->error = error;
    f->error_disk = disk;
    f->target_failed = target_failed;
}

static int start(struct fixture *f, uint64_t bandwidth)
{
    struct blk_backup_config config = {
        .n_disks = DISKS, .bandwidth = bandwidth, .frozen = on_frozen, .done = on_backup_done, .opaque = f
    };
    int res;

    for (unsigned i = 0; i < DISKS; i++)
        config.disks[i] = (struct blk_backup_disk){ .watch = f->disks[i].watch, .target = &f->disks[i].target->node };
    res = blk_backup_new(&config, f->loop, &f->backup);
    return res < 0 ? res : blk_backup_begin(f->backup);
}

/* Until the backup has ended, with changes all the time or without. */
static void wait_done(struct fixture *f, bool changes)
{
    for (unsigned i = 0; f->done == 0; i++) {
        assert_true(i < 1000000);
        if (changes && rnd(f, 4))
            (void)change(f);
        step(f);
        if (i > 1000)
            usleep(20);
    }
}

static void check_targets(const struct fixture *f)
{
    for (unsigned i = 0; i < DISKS; i++) {
        for (unsigned k = 0; k < CLUSTERS; k++) {
            uint64_t off = (uint64_t)k * BLK_BACKUP_CLUSTER, len = MIN(SIZE - off, BLK_BACKUP_CLUSTER);

            if (f->all || f->dirty[i][k]) {
                assert_memory_equal(f->disks[i].target->mem + off, f->disks[i].shadow + off, len);
            } else {
                for (uint64_t b = 0; b < len; b++)
                    assert_int_equal(f->disks[i].target->mem[off + b], 0x5a);
            }
        }
    }
}

static void test_random(void **state)
{
    unsigned changed = 0;

    (void)state;
    for (unsigned seed = 1; seed <= 24; seed++) {
        struct fixture f;
        uint64_t done, total;

        begin(&f, seed);
        f.all = seed % 3 != 0;
        for (unsigned i = 0; i < 10; i++)
            (void)change(&f);
        assert_int_equal(start(&f, seed % 4 == 1 ? 400u << 20 : 0), 0);
        wait_done(&f, true);
        assert_int_equal(f.error, 0);
        assert_int_equal(f.frozen, 1);
        settle(&f);
        check_targets(&f);
        blk_backup_progress(f.backup, &done, &total);
        assert_int_equal(done, total);
        for (unsigned i = 0; i < DISKS; i++)
            changed += memcmp(f.disks[i].node->mem, f.disks[i].shadow, SIZE) != 0;
        end(&f);
    }
    assert_true(changed > 24); /* or it was no test of anything */
}

/* A write waits for its own place only, as long as the target is slow; what is read is the present. */
static void test_held(void **state)
{
    struct fixture f;
    struct request *r = &f.reqs[0];

    (void)state;
    begin(&f, 5);
    f.auto_run = false;
    assert_int_equal(start(&f, 1), 0); /* a byte a second: only what a write waits for is copied, but for the first */
    fake_node_hold(f.disks[0].target, true);
    fake_node_hold(f.disks[1].target, true);
    assert_int_equal(f.frozen, 1);
    assert_true(change(&f)); /* at the gate */
    for (unsigned i = 0; i < 50; i++)
        step(&f);
    assert_true(r->busy);
    blk_backup_run(f.backup);
    for (unsigned i = 0; i < 200; i++) {
        step(&f);
        usleep(50);
    }
    assert_true(r->busy); /* held: its old content is not yet on the target */
    assert_memory_equal(f.disks[0].node->mem, f.disks[0].shadow, SIZE);
    assert_memory_equal(f.disks[1].node->mem, f.disks[1].shadow, SIZE);
    fake_node_hold(f.disks[0].target, false);
    fake_node_hold(f.disks[1].target, false);
    settle(&f);
    assert_int_equal(r->res, 0);
    assert_int_equal(f.done, 0); /* the rest waits for the bandwidth */
    end(&f);
}

/* The guest resets its device while a write is held: it ends at once, and never reaches the disk. */
static void test_reset(void **state)
{
    struct fixture f;

    (void)state;
    for (unsigned failing = 0; failing < 2; failing++) {
        begin(&f, 6);
        assert_int_equal(start(&f, 0), 0);
        for (unsigned i = 0; i < DISKS; i++)
            fake_node_hold(f.disks[i].target, true);
        for (unsigned i = 0; i < REQS; i++)
            assert_true(change(&f));
        for (unsigned i = 0; i < DISKS; i++)
            blk_image_cancel(f.disks[i].img);
        settle(&f);
        for (unsigned i = 0; i < REQS; i++)
            assert_int_equal(f.reqs[i].res, -ECANCELED);
        f.disks[0].target->error = EIO;
        f.disks[0].target->fail_left = failing;
        for (unsigned i = 0; i < DISKS; i++)
            fake_node_hold(f.disks[i].target, false);
        wait_done(&f, false);
        assert_int_equal(f.error, failing ? -EIO : 0);
        for (unsigned i = 0; i < DISKS; i++)
            assert_memory_equal(f.disks[i].node->mem, f.disks[i].shadow, SIZE);
        end(&f);
    }
}

/* A request that changes nearly everything does not hold up a small one until all is copied. */
static void test_fair(void **state)
{
    const uint64_t size = 96u << 20;
    uint64_t done, total;
    struct fixture f;
    struct disk *d = &f.disks[0];
    struct request *big = &f.reqs[0], *small = &f.reqs[1];
    struct blk_backup_config config = {
        .n_disks = 1, .bandwidth = 1, .frozen = on_frozen_big, .done = on_backup_done, .opaque = &f
    };

    (void)state;
    f = (struct fixture){ 0 };
    assert_int_equal(loop_new(&f.loop), 0);
    d->node = fake_node_new(size);
    memset(d->node->mem, 1, size);
    d->target = fake_node_new(size);
    assert_int_equal(blk_image_new(&d->node->node, &(struct blk_image_config){ 0 }, f.loop, &d->img), 0);
    assert_int_equal(blk_watch_new(d->img, &d->watch), 0);
    config.disks[0] = (struct blk_backup_disk){ .watch = d->watch, .target = &d->target->node };
    assert_int_equal(blk_backup_new(&config, f.loop, &f.backup), 0);
    assert_int_equal(blk_backup_begin(f.backup), 0);
    blk_backup_run(f.backup);
    fake_node_hold(d->target, true);
    big->io = (struct blk_req){ .op = BLK_DISCARD, .len = size - (1u << 20), .done = on_done, .opaque = big };
    small->io = (struct blk_req){ .op = BLK_DISCARD, .off = size - 512, .len = 512, .done = on_done, .opaque = small };
    for (unsigned i = 0; i < 2; i++) {
        f.reqs[i].f = &f;
        f.reqs[i].busy = true;
        assert_int_equal(blk_image_submit(d->img, &f.reqs[i].io), 0);
        blk_image_kick(d->img);
    }
    fake_node_hold(d->target, false);
    while (small->busy)
        step(&f);
    blk_backup_progress(f.backup, &done, &total);
    assert_true(big->busy && done < total / 2);
    settle(&f);
    assert_int_equal(big->res | small->res, 0);
    blk_backup_free(f.backup);
    blk_watch_free(d->watch);
    blk_image_close(d->img);
    blk_node_close(&d->target->node);
    loop_free(f.loop);
}

/* The backup fails, and every write goes on. */
static void run_failing(bool target, int error)
{
    struct fixture f;
    struct fake_node *n;

    begin(&f, 7);
    n = target ? f.disks[1].target : f.disks[1].node;
    if (!target)
        f.disks[1].node->fail_off = SIZE - 512; /* at the end: only copying reads */
    assert_int_equal(start(&f, 0), 0);
    n->error = error;
    n->fail_left = target ? 1 : 0;
    if (!target) {
        n->fail_left = 1;
        wait_done(&f, false);
    } else {
        wait_done(&f, true);
    }
    assert_int_equal(f.error, -error);
    assert_int_equal(f.error_disk, 1);
    assert_int_equal(f.target_failed, target);
    settle(&f);
    for (unsigned i = 0; i < REQS; i++)
        assert_int_equal(f.reqs[i].res, 0);
    end(&f);
}

static void test_fails(void **state)
{
    (void)state;
    run_failing(true, ENOSPC);
    run_failing(false, EIO);
}

static void test_cancel(void **state)
{
    struct fixture f;

    (void)state;
    /* 0: while a disk does not become quiet; 1: frozen; 2: running, with writes held; 3: after the end. */
    for (unsigned when = 0; when < 4; when++) {
        begin(&f, 9 + when);
        f.auto_run = when > 1;
        if (when == 0)
            fake_node_hold(f.disks[1].node, true);
        for (unsigned i = 0; i < 6; i++)
            (void)change(&f);
        assert_int_equal(start(&f, 0), 0);
        assert_int_equal(blk_backup_begin(f.backup), -EBUSY);
        if (when == 2)
            fake_node_hold(f.disks[0].target, true);
        for (unsigned i = 0; i < 200 && when > 0; i++) {
            if (when == 2)
                (void)change(&f);
            step(&f);
            usleep(100);
        }
        if (when == 3)
            wait_done(&f, true);
        blk_backup_cancel(f.backup);
        blk_backup_cancel(f.backup);
        assert_int_equal(f.done, when == 3);
        fake_node_hold(f.disks[1].node, false);
        fake_node_hold(f.disks[0].target, false);
        wait_done(&f, true);
        assert_int_equal(f.error, when == 3 ? 0 : -ECANCELED);
        settle(&f);
        assert_int_equal(f.done, 1);
        /* Another one works. */
        blk_backup_free(f.backup);
        f.backup = NULL;
        f.done = 0;
        f.auto_run = true;
        assert_int_equal(start(&f, 0), 0);
        wait_done(&f, true);
        assert_int_equal(f.error, 0);
        settle(&f);
        check_targets(&f);
        end(&f);
    }
}

static void test_free_early(void **state)
{
    (void)state;
    for (unsigned steps = 0; steps < 30; steps++) {
        struct fixture f;

        begin(&f, 100 + steps);
        f.auto_run = steps % 5 != 0;
        for (unsigned i = 0; i < 6; i++)
            (void)change(&f);
        assert_int_equal(start(&f, 0), 0);
        for (unsigned i = 0; i < steps; i++) {
            (void)change(&f);
            step(&f);
        }
        blk_backup_free(f.backup);
        f.backup = NULL;
        settle(&f);
        end(&f);
    }
}

static void test_no_memory(void **state)
{
    unsigned failed = 0, ended = 0;

    (void)state;
    for (unsigned n = 1; n < 120; n++) {
        struct fixture f;
        int res;

        begin(&f, n);
        fault_begin(n);
        res = start(&f, 0);
        for (unsigned i = 0; i < 2000 && res == 0 && f.done == 0; i++) {
            (void)change(&f);
            step(&f);
        }
        (void)fault_end();
        if (res == 0 && f.done == 0)
            wait_done(&f, false);
        failed += res < 0 || f.error == -ENOMEM;
        ended += res == 0 && f.error == 0;
        settle(&f);
        if (res == 0 && f.error == 0)
            check_targets(&f);
        end(&f);
    }
    assert_true(failed > 5 && ended > 0);
}

/* ---- maps ---- */

static void check_map(const struct blk_dirty *d, const bool *model, unsigned bits, uint64_t size, uint32_t gran)
{
    uint64_t at = 0, len = 0, expect = 0;
    unsigned i = 0;

    while (blk_dirty_next(d, at + len, UINT64_MAX, UINT64_MAX, &at, &len)) {
        while (!model[i])
            i++;
        assert_true(i < bits);
        assert_int_equal(at, (uint64_t)i * gran);
        while (i < bits && model[i])
            i++;
        assert_int_equal(at + len, MIN((uint64_t)i * gran, size));
    }
    while (i < bits)
        assert_false(model[i++]);
    for (i = 0; i < bits; i++)
        expect += model[i] ? gran : 0;
    assert_int_equal(blk_dirty_bytes(d), expect);
}

static void test_map(void **state)
{
    struct fixture f = { .seed = 3 };

    (void)state;
    for (unsigned round = 0; round < 30; round++) {
        const uint32_t gran = 512u << rnd(&f, 4);
        const uint64_t size = 1 + rnd(&f, 400 * gran);
        const unsigned bits = (unsigned)((size + gran - 1) / gran);
        bool model[401] = { false };
        struct blk_dirty *d;
        uint64_t at, len;

        assert_int_equal(blk_dirty_new(size, gran, &d), 0);
        for (unsigned k = 0; k < 60; k++) {
            const uint64_t off = rnd(&f, (uint32_t)size + 1000),
                           n = rnd(&f, 3) ? rnd(&f, 5000) : rnd(&f, (uint32_t)size + 1);
            const bool on = rnd(&f, 2);

            if (on)
                blk_dirty_set(d, off, n);
            else
                blk_dirty_clear(d, off, n);
            for (uint64_t i = off / gran; n > 0 && off < size && i < bits && i <= (off + n - 1) / gran; i++)
                model[i] = on;
            check_map(d, model, bits, size, gran);
            /* A window: what is found is in it, and nothing before it was left out. */
            if (off < size && blk_dirty_next(d, off, 1 + n, 700, &at, &len)) {
                assert_true(at >= off && len > 0 && len <= 700 && at + len <= MIN(off + 1 + n, size));
                assert_true(model[at / gran] && (at == off || at % gran == 0));
                for (uint64_t i = off / gran; i < at / gran; i++)
                    assert_false(model[i]);
            }
        }
        blk_dirty_free(d);
    }
}

/* ---- records ---- */

static struct blk_dirty *new_map(uint64_t size)
{
    struct blk_dirty *d;

    assert_int_equal(blk_dirty_new(size, BLK_RECORD_GRANULARITY, &d), 0);
    return d;
}

static void put(struct blk_node *n, struct blk_records *r, uint64_t cluster)
{
    static const uint8_t data[512] = { 7 };

    assert_int_equal(blk_pwrite(n, cluster * BLK_RECORD_GRANULARITY + 512, data, sizeof(data)), 0);
    if (blk_records_wants_marks(r))
        blk_records_mark(r, cluster * BLK_RECORD_GRANULARITY + 512, sizeof(data));
}

static void has_exactly(struct blk_dirty *d, uint64_t a, uint64_t b)
{
    uint64_t at = 0, len;

    assert_int_equal(blk_dirty_bytes(d), (a == b ? 1 : 2) * BLK_RECORD_GRANULARITY);
    assert_true(blk_dirty_next(d, 0, UINT64_MAX, 1, &at, &len));
    assert_int_equal(at, a * BLK_RECORD_GRANULARITY);
    assert_true(blk_dirty_next(d, b * BLK_RECORD_GRANULARITY, 1, 1, &at, &len));
    blk_dirty_free(d);
}

/* p1, changes, p2 that fails, changes, p2 that succeeds, changes, p3: nothing is lost, nothing is counted twice. */
static void run_records(struct blk_node *n, bool persistent)
{
    struct blk_records *r;
    struct blk_dirty *d = new_map(n->size);

    assert_int_equal(blk_records_new(n, &r), 0);
    assert_int_equal(blk_records_persistent(r), persistent);
    assert_false(blk_records_has(r, "c", "a1"));
    assert_int_equal(blk_records_switch(r, "c", "a1", "a2", d), -ENOENT);
    assert_int_equal(blk_records_switch(r, "c", NULL, "a1", d), 0);
    assert_int_equal(blk_records_switch(r, "cc", NULL, "a1", d), 0); /* another chain */
    assert_int_equal(blk_dirty_bytes(d), 0);
    assert_int_equal(blk_records_commit(r, "c", "a1"), 0);
    assert_true(blk_records_has(r, "c", "a1"));
    assert_false(blk_records_has(r, "c", "a2"));
    put(n, r, 3);
    assert_int_equal(blk_records_switch(r, "c", "a1", "b1", d), 0);
    has_exactly(d, 3, 3);
    assert_false(blk_records_has(r, "c", "a1"));
    put(n, r, 5);
    assert_int_equal(blk_records_undo(r, "c", "a1", "b1"), 0);
    assert_false(blk_records_has(r, "c", "b1"));
    assert_true(blk_records_has(r, "c", "a1"));
    d = new_map(n->size);
    assert_int_equal(blk_records_switch(r, "c", "a1", "b2", d), 0);
    has_exactly(d, 3, 5);
    put(n, r, 9);
    assert_int_equal(blk_records_commit(r, "c", "b2"), 0);
    assert_false(blk_records_has(r, "c", "a1"));
    assert_true(blk_records_has(r, "cc", "a1"));
    d = new_map(n->size);
    assert_int_equal(blk_records_switch(r, "c", "b2", "b3", d), 0);
    has_exactly(d, 9, 9);
    assert_int_equal(blk_records_undo(r, "c", NULL, "b3"), 0); /* as where the older one was not to be trusted */
    assert_false(blk_records_has(r, "c", "b3"));
    blk_records_free(r);
}

static void test_records_memory(void **state)
{
    struct fake_node *n = fake_node_new(SIZE);

    (void)state;
    run_records(&n->node, false);
    blk_node_close(&n->node);
}

static struct blk_node *open_image(const char *path)
{
    struct blk_node *n = NULL;

    assert_int_equal(blk_open(&(struct blk_open_config){ .path = path, .format = "qcow2" }, &n, NULL), 0);
    return n;
}

static void test_records_image(void **state)
{
    const char *path = oracle_path("records.qcow2"), *copy = oracle_path("copy.qcow2");
    struct blk_records *r;
    struct blk_dirty *d;
    struct blk_node *n;

    (void)state;
    oracle_must("qemu-img create -q -f qcow2 %s 4M", path);
    n = open_image(path);
    run_records(n, true);
    assert_int_equal(blk_records_new(n, &r), 0);
    d = new_map(n->size);
    assert_int_equal(blk_records_switch(r, "c", NULL, "cafe", d), 0);
    assert_int_equal(blk_records_commit(r, "c", "cafe"), 0); /* b2 goes: the failed b3 was made from it */
    put(n, r, 11);
    assert_int_equal(blk_flush(n), 0);
    oracle_must("cp %s %s", path, copy); /* what kill -9 leaves */
    blk_records_free(r);
    blk_node_close(n);
    blk_dirty_free(d);
    oracle_must("qemu-img check -q %s", path);

    n = open_image(path); /* closed cleanly: it goes on */
    assert_int_equal(blk_records_new(n, &r), 0);
    assert_true(blk_records_has(r, "c", "cafe"));
    d = new_map(n->size);
    put(n, r, 12);
    assert_int_equal(blk_records_switch(r, "c", "cafe", "dead", d), 0);
    has_exactly(d, 11, 12);
    blk_records_free(r);
    blk_node_close(n);

    n = open_image(copy);
    assert_int_equal(blk_records_new(n, &r), 0);
    assert_false(blk_records_has(r, "c", "cafe"));
    d = new_map(n->size);
    assert_int_equal(blk_records_switch(r, "c", NULL, "beef", d), 0);
    assert_int_equal(blk_records_commit(r, "c", "beef"), 0);
    blk_dirty_free(d);
    blk_records_free(r);
    blk_node_close(n);
    oracle_must("qemu-img check -q %s", copy);
    oracle_must("test $(qemu-img info --output=json %s | grep -c '\"name\": \"caisson-backup:c:') = 1", copy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_map),        cmocka_unit_test(test_records_memory), cmocka_unit_test(test_records_image),
        cmocka_unit_test(test_random),     cmocka_unit_test(test_held),           cmocka_unit_test(test_fails),
        cmocka_unit_test(test_reset),      cmocka_unit_test(test_fair),           cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_free_early), cmocka_unit_test(test_no_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
