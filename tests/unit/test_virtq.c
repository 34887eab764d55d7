/* Virtqueues against an independent driver (virtq_driver.c): random traffic in all formats with notification
 * suppression in both directions, and rings made by a hostile driver. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <errno.h>

#include <cmocka.h>

#include "base/bits.h"
#include "virtio/queue.h"
#include "virtq_driver.h"

#define RAM (4ULL << 20)
#define HIGH_GPA (1ULL << 32)
#define HIGH_RAM (1ULL << 20)
#define BUFS 0x100000ULL

struct rig {
    struct mem *m;
    uint64_t seed;
};

static uint32_t rnd(struct rig *r, uint32_t below)
{
    r->seed = r->seed * 6364136223846793005ULL + 1442695040888963407ULL;
    return (uint32_t)(r->seed >> 33) % below;
}

static int setup(void **state)
{
    static struct rig r;

    r = (struct rig){ .seed = 1 };
    assert_int_equal(mem_new(&r.m), 0);
    assert_int_equal(mem_add_ram(r.m, 0, RAM, false, NULL), 0);
    assert_int_equal(mem_add_ram(r.m, HIGH_GPA, HIGH_RAM, false, NULL), 0);
    assert_int_equal(mem_add_ram(r.m, 0xfff00000, 0x10000, true, NULL), 0);
    *state = &r;
    return 0;
}

static int teardown(void **state)
{
    struct rig *r = *state;

    mem_free(r->m);
    return 0;
}

static void device_init(struct rig *r, struct virtq *q, const struct drv_queue *d)
{
    struct virtq_config c = { .size = d->size,
                              .packed = d->packed,
                              .event_idx = d->event_idx,
                              .indirect = true,
                              .desc = GPA(d->desc),
                              .driver = GPA(d->driver),
                              .device = GPA(d->device) };

    assert_int_equal(virtq_init(q, r->m, &c), 0);
}

/* One request of the random traffic: out bytes, and room for the same bytes inverted. */
struct request {
    bool busy;
    unsigned n;
    struct drv_buf bufs[12];
    uint32_t out_len, in_len;
};

static void request_fill(struct rig *r, struct request *req, unsigned index)
{
    unsigned n_out = 1 + rnd(r, 5), n_in = rnd(r, 6);
    uint64_t at = BUFS + index * 0x2000ULL;

    *req = (struct request){ .busy = true, .n = n_out + n_in };
    for (unsigned i = 0; i < req->n; i++) {
        struct drv_buf *b = &req->bufs[i];

        *b = (struct drv_buf){ .gpa = at, .len = rnd(r, 400), .in = i >= n_out };
        at += b->len;
        *(b->in ? &req->in_len : &req->out_len) += b->len;
        for (uint32_t k = 0; k < b->len; k++)
            *(uint8_t *)mem_ptr(r->m, GPA(b->gpa + k), 1) = (uint8_t)rnd(r, 256);
    }
}

/* The device copies as much as fits, inverted. */
static uint32_t device_serve(struct virtq_chain *c)
{
    uint8_t bytes[4096];
    uint32_t n = MIN(c->out_len, c->in_len);

    assert_int_equal(virtq_chain_read(c, 0, bytes, sizeof(bytes)), c->out_len);
    for (uint32_t i = 0; i < n; i++)
        bytes[i] ^= 0xff;
    assert_int_equal(virtq_chain_write(c, 0, bytes, n), n);
    return n;
}

static uint8_t *request_byte(struct rig *r, struct request *req, bool in, uint32_t at)
{
    for (unsigned i = 0; i < req->n; i++) {
        if (req->bufs[i].in != in)
            continue;
        if (at < req->bufs[i].len)
            return mem_ptr(r->m, GPA(req->bufs[i].gpa + at), 1);
        at -= req->bufs[i].len;
    }
    fail_msg("byte %u beyond the request", at);
    return NULL;
}

static void request_check(struct rig *r, struct request *req, uint32_t len)
{
    assert_true(req->busy);
    assert_int_equal(len, MIN(req->out_len, req->in_len));
    for (uint32_t i = 0; i < len; i++)
        assert_int_equal(*request_byte(r, req, false, i) ^ 0xff, *request_byte(r, req, true, i));
    req->busy = false;
}

#define REQUESTS 128

struct traffic {
    struct drv_queue d;
    struct virtq q;
    struct request reqs[REQUESTS];
    struct virtq_chain *held[REQUESTS];
    unsigned n_held, added, completed, kicks, interrupts;
    bool kick, interrupt;
};

static void driver_step(struct rig *r, struct traffic *t, unsigned goal)
{
    for (unsigned batch = rnd(r, 8); batch > 0 && t->added < goal; batch--) {
        unsigned i = rnd(r, REQUESTS);
        bool indirect = rnd(r, 2);

        if (t->reqs[i].busy)
            continue;
        request_fill(r, &t->reqs[i], i);
        if (!drv_add(&t->d, t->reqs[i].bufs, t->reqs[i].n, indirect, &t->reqs[i])) {
            t->reqs[i].busy = false;
            break;
        }
        t->added++;
    }
    if (drv_should_kick(&t->d)) {
        t->kick = true;
        t->kicks++;
    }
}

static void driver_interrupt(struct rig *r, struct traffic *t)
{
    struct request *req;
    uint32_t len;

    t->interrupt = false;
    drv_disable_interrupt(&t->d);
    do {
        while ((req = drv_get_used(&t->d, &len))) {
            request_check(r, req, len);
            t->completed++;
        }
    } while (drv_enable_interrupt(&t->d));
}

/* Take chains as the doorbell says; hold some back and return them in any order. */
static void device_step(struct rig *r, struct traffic *t)
{
    if (t->kick) {
        t->kick = false;
        virtq_disable_notify(&t->q);
        do {
            while (t->n_held < REQUESTS && virtq_pop(&t->q, t->held[t->n_held]) == 1) {
                if (rnd(r, 8) == 0) {
                    virtq_unpop(&t->q, t->held[t->n_held]);
                    assert_int_equal(virtq_pop(&t->q, t->held[t->n_held]), 1);
                }
                t->n_held++;
            }
        } while (virtq_enable_notify(&t->q));
    }
    for (unsigned n = rnd(r, 6); n > 0 && t->n_held > 0; n--) {
        unsigned i = rnd(r, t->n_held);
        struct virtq_chain *c = t->held[i];

        virtq_push(&t->q, c, device_serve(c));
        t->held[i] = t->held[--t->n_held];
        t->held[t->n_held] = c;
    }
    if (virtq_should_interrupt(&t->q)) {
        t->interrupt = true;
        t->interrupts++;
    }
}

/* Each side acts only when the other has told it to, so that a lost notification shows as a standstill. */
static void run_traffic(struct rig *r, bool packed, bool event_idx, uint16_t size, unsigned goal)
{
    static struct traffic t;
    unsigned idle = 0;

    t = (struct traffic){ 0 };
    drv_queue_init(&t.d, r->m, 0x1000, size, packed, event_idx);
    device_init(r, &t.q, &t.d);
    for (unsigned i = 0; i < REQUESTS; i++)
        assert_int_equal(virtq_chain_new(16, &t.held[i]), 0);
    (void)drv_enable_interrupt(&t.d);
    while (t.completed < goal && idle < 100000) {
        unsigned before = t.completed;

        if (rnd(r, 2))
            driver_step(r, &t, goal);
        if (rnd(r, 2))
            device_step(r, &t);
        if (t.interrupt && rnd(r, 2))
            driver_interrupt(r, &t);
        idle = t.completed == before ? idle + 1 : 0;
    }
    assert_int_equal(t.completed, goal);
    assert_true(t.kicks > 0 && t.interrupts > 0);
    for (unsigned i = 0; i < REQUESTS; i++)
        virtq_chain_free(t.held[i]);
}

static void test_traffic_split(void **state)
{
    run_traffic(*state, false, false, 16, 3000);
    run_traffic(*state, false, true, 64, 70000); /* more than 2^16, so that the indices wrap */
}

static void test_traffic_packed(void **state)
{
    run_traffic(*state, true, false, 16, 3000);
    run_traffic(*state, true, true, 37, 10000);
    run_traffic(*state, true, true, 256, 10000);
}

/* Several chains appear to the driver at once. */
static void test_push_many(void **state)
{
    struct rig *r = *state;

    for (unsigned packed = 0; packed < 2; packed++) {
        struct drv_queue d;
        struct virtq q;
        struct virtq_chain *c[3];
        uint32_t lens[3] = { 5, 6, 7 }, len;
        struct drv_buf buf = { .gpa = BUFS, .len = 16, .in = true };

        drv_queue_init(&d, r->m, 0x1000, 8, packed, false);
        device_init(r, &q, &d);
        for (unsigned i = 0; i < 3; i++) {
            assert_true(drv_add(&d, &buf, 1, false, &lens[i]));
            assert_int_equal(virtq_chain_new(4, &c[i]), 0);
            assert_int_equal(virtq_pop(&q, c[i]), 1);
        }
        assert_null(drv_get_used(&d, &len));
        virtq_push_many(&q, c, lens, 3);
        for (unsigned i = 0; i < 3; i++) {
            assert_ptr_equal(drv_get_used(&d, &len), &lens[i]);
            assert_int_equal(len, 5 + i);
            virtq_chain_free(c[i]);
        }
        assert_null(drv_get_used(&d, &len));
    }
}

static void test_init_refuses(void **state)
{
    struct rig *r = *state;
    struct virtq q;
    const struct {
        struct virtq_config c;
        int res;
    } cases[] = {
        { { .size = 0 }, -EINVAL },
        { { .size = 3 }, -EINVAL },
        { { .size = 65535, .packed = true }, -EINVAL },
        { { .size = 8, .desc = GPA(8), .driver = GPA(0x1000), .device = GPA(0x2000) }, -EINVAL },
        { { .size = 8, .desc = GPA(0), .driver = GPA(0x1001), .device = GPA(0x2000) }, -EINVAL },
        { { .size = 8, .desc = GPA(0), .driver = GPA(0x1000), .device = GPA(0x2002) }, -EINVAL },
        { { .size = 8, .packed = true, .driver = GPA(0x1002), .device = GPA(0x2000) }, -EINVAL },
        { { .size = 8, .desc = GPA(RAM - 64), .driver = GPA(0x1000), .device = GPA(0x2000) }, -EFAULT },
        { { .size = 8, .desc = GPA(~15ULL), .driver = GPA(0x1000), .device = GPA(0x2000) }, -EFAULT },
        { { .size = 8, .desc = GPA(0), .driver = GPA(RAM - 2), .device = GPA(0x2000) }, -EFAULT },
        { { .size = 8, .desc = GPA(0), .driver = GPA(0x1000), .device = GPA(RAM) }, -EFAULT },
        { { .size = 8, .desc = GPA(0), .driver = GPA(0x1000), .device = GPA(0xfff00000) }, -EFAULT }, /* ROM */
        { { .size = 8, .packed = true, .desc = GPA(0xfff00000), .driver = GPA(0), .device = GPA(64) }, -EFAULT },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        assert_int_equal(virtq_init(&q, r->m, &cases[i].c), cases[i].res);
        assert_false(q.ready);
    }
}

/* A split ring with hand-made descriptors. */
struct hostile {
    struct drv_queue d;
    struct virtq q;
    struct virtq_chain *c;
};

static void hostile_begin(struct rig *r, struct hostile *h, bool packed)
{
    drv_queue_init(&h->d, r->m, 0x1000, 8, packed, false);
    device_init(r, &h->q, &h->d);
    assert_int_equal(virtq_chain_new(16, &h->c), 0);
}

static void hostile_desc(struct rig *r, uint64_t table, unsigned i, uint64_t addr, uint32_t len, uint16_t a, uint16_t b)
{
    uint8_t *d = mem_ptr(r->m, GPA(table + 16 * i), 16);

    store_le64(d, addr);
    store_le32(d + 8, len);
    store_le16(d + 12, a);
    store_le16(d + 14, b);
}

static void hostile_offer(struct rig *r, struct hostile *h, uint16_t head, uint16_t idx)
{
    uint8_t *avail = mem_ptr(r->m, GPA(h->d.driver), 6);

    store_le16(avail + 4, head);
    store_le16(avail + 2, idx);
}

enum { NEXT = 1, WRITE = 2, INDIRECT = 4 };

static void expect_broken(struct hostile *h)
{
    assert_int_equal(virtq_pop(&h->q, h->c), -EFAULT);
    assert_true(h->q.broken);
    assert_int_equal(virtq_pop(&h->q, h->c), 0);
    assert_false(virtq_enable_notify(&h->q));
    virtq_chain_free(h->c);
}

static void test_split_hostile(void **state)
{
    struct rig *r = *state;
    struct hostile h;
    const uint64_t table = 0x8000;
    const struct {
        uint64_t addr;
        uint32_t len;
        uint16_t flags, next;
    } cases[][3] = {
        { { BUFS, 16, NEXT, 0 } },                        /* next is itself */
        { { BUFS, 16, NEXT, 1 }, { BUFS, 16, NEXT, 0 } }, /* a loop of two */
        { { BUFS, 0, NEXT, 1 }, { BUFS, 0, NEXT, 0 } },   /* of nothing */
        { { BUFS, 16, NEXT, 8 } },                        /* next outside the table */
        { { BUFS, 16, NEXT, 0xffff } },
        { { RAM - 8, 16, 0, 0 } }, /* partly outside RAM */
        { { RAM, 1, 0, 0 } },
        { { ~0ULL, 16, 0, 0 } }, /* wraps around */
        { { BUFS, 0xffffffff, 0, 0 } },
        { { 0xfff00000, 16, WRITE, 0 } },                      /* writes to ROM */
        { { BUFS, 16, NEXT | WRITE, 1 }, { BUFS, 16, 0, 0 } }, /* readable behind writable */
        { { table, 16, INDIRECT | NEXT, 1 }, { BUFS, 16, 0, 0 } },
        { { table, 0, INDIRECT, 0 } }, /* empty indirect table */
        { { table, 17, INDIRECT, 0 } },
        { { RAM - 16, 32, INDIRECT, 0 } },                     /* table outside RAM */
        { { table, 16 * 1025, INDIRECT, 0 } },                 /* table too long */
        { { table, 16, INDIRECT, 0 }, { 0, 0, INDIRECT, 0 } }, /* table in a table, see below */
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        hostile_begin(r, &h, false);
        for (unsigned k = 0; k < 3; k++)
            hostile_desc(r, h.d.desc, k, cases[i][k].addr, cases[i][k].len, cases[i][k].flags, cases[i][k].next);
        hostile_desc(r, table, 0, BUFS, 16, INDIRECT, 0);
        hostile_offer(r, &h, 0, 1);
        expect_broken(&h);
    }
    hostile_begin(r, &h, false);
    hostile_offer(r, &h, 8, 1); /* head outside the table */
    expect_broken(&h);
    hostile_begin(r, &h, false);
    hostile_offer(r, &h, 0, 9); /* more available than the ring holds */
    expect_broken(&h);
}

static void test_indirect_hostile(void **state)
{
    struct rig *r = *state;
    struct hostile h;

    for (unsigned packed = 0; packed < 2; packed++) {
        const uint64_t table = 0x8000;

        for (unsigned kind = 0; kind < 3; kind++) {
            hostile_begin(r, &h, packed);
            for (unsigned i = 0; i < 20; i++) /* one more than the chain holds and beyond */
                hostile_desc(r, table, i, BUFS, 8, packed ? 0 : NEXT, packed ? 0 : (uint16_t)(kind == 1 ? 0 : i + 1));
            if (kind == 2)
                hostile_desc(r, table, 3, BUFS, 8, packed ? 0 : INDIRECT, INDIRECT);
            if (packed)
                hostile_desc(r, h.d.desc, 0, table, 20 * 16, 7, INDIRECT | 1 << 7);
            else
                hostile_desc(r, h.d.desc, 0, table, kind == 0 ? 4 * 16 : 20 * 16, INDIRECT, 0);
            hostile_offer(r, &h, 0, 1);
            if (packed) /* the offer lies where the packed ring has its event structure: restore that */
                memset(mem_ptr(r->m, GPA(h.d.driver), 6), 0, 6);
            expect_broken(&h);
        }
    }
}

static void test_packed_hostile(void **state)
{
    struct rig *r = *state;
    struct hostile h;
    const uint16_t avail = 1 << 7;
    const struct {
        uint64_t addr;
        uint32_t len;
        uint16_t flags;
    } cases[] = {
        { BUFS, 16, NEXT }, /* and so in every slot: a chain without end */
        { BUFS, 0, NEXT },        { RAM - 8, 16, 0 },      { ~0ULL, 16, WRITE },
        { 0xfff00000, 4, WRITE }, { 0x8000, 8, INDIRECT }, { 0x8000, 16, INDIRECT | NEXT },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        hostile_begin(r, &h, true);
        for (unsigned k = 0; k < 8; k++)
            hostile_desc(r, h.d.desc, k, cases[i].addr, cases[i].len, 0xabcd, cases[i].flags | avail);
        expect_broken(&h);
    }
    /* A buffer id of any value is only an echo. */
    hostile_begin(r, &h, true);
    hostile_desc(r, h.d.desc, 0, BUFS, 16, 0xabcd, WRITE | avail);
    assert_int_equal(virtq_pop(&h.q, h.c), 1);
    virtq_push(&h.q, h.c, 3);
    assert_int_equal(load_le16((uint8_t *)mem_ptr(r->m, GPA(h.d.desc), 16) + 12), 0xabcd);
    virtq_chain_free(h.c);
}

/* Random bytes as rings: nothing may happen but "broken" or chains inside RAM (the sanitizers watch). */
static void test_random_rings(void **state)
{
    struct rig *r = *state;
    unsigned broken = 0, popped = 0;

    for (unsigned round = 0; round < 4000; round++) {
        struct hostile h;
        uint8_t *ram = mem_ptr(r->m, GPA(0x1000), 0x400);

        hostile_begin(r, &h, round & 1);
        for (unsigned step = 0; step < 20; step++) {
            for (unsigned i = 0; i < 40; i++)
                ram[rnd(r, 0x180)] = (uint8_t)(rnd(r, 3) ? rnd(r, 8) : rnd(r, 256));
            for (unsigned i = 0; i < 8; i++)
                memset(ram + 16 * i + 3, 0, 5);
            if (virtq_pop(&h.q, h.c) == 1) {
                uint8_t bytes[4096];
                size_t n = virtq_chain_read(h.c, 0, bytes, sizeof(bytes));

                n = virtq_chain_write(h.c, 0, bytes, n);
                virtq_push(&h.q, h.c, (uint32_t)n);
                popped++;
            }
            (void)virtq_should_interrupt(&h.q);
            if (virtq_enable_notify(&h.q))
                popped += 0;
        }
        broken += h.q.broken;
        virtq_chain_free(h.c);
    }
    assert_true(broken > 100 && popped > 100);
}

static void test_dirty(void **state)
{
    struct rig *r = *state;
    struct drv_queue d;
    struct virtq q;
    struct virtq_chain *c;
    struct drv_buf buf = { .gpa = HIGH_GPA + 0x3000, .len = 0x3000, .in = true };
    uint64_t bitmap[HIGH_RAM / 4096 / 64];

    drv_queue_init(&d, r->m, 0x1000, 8, false, false);
    device_init(r, &q, &d);
    assert_int_equal(virtq_chain_new(4, &c), 0);
    assert_true(drv_add(&d, &buf, 1, false, &buf));
    mem_log_dirty(r->m, true);
    assert_int_equal(virtq_pop(&q, c), 1);
    virtq_push(&q, c, 0x1001);
    assert_int_equal(mem_fetch_dirty(r->m, mem_find(r->m, HIGH_GPA), bitmap), 2);
    assert_int_equal(bitmap[0], 3 << 3);
    mem_log_dirty(r->m, false);
    virtq_chain_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_traffic_split, setup, teardown),
        cmocka_unit_test_setup_teardown(test_traffic_packed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_push_many, setup, teardown),
        cmocka_unit_test_setup_teardown(test_init_refuses, setup, teardown),
        cmocka_unit_test_setup_teardown(test_split_hostile, setup, teardown),
        cmocka_unit_test_setup_teardown(test_indirect_hostile, setup, teardown),
        cmocka_unit_test_setup_teardown(test_packed_hostile, setup, teardown),
        cmocka_unit_test_setup_teardown(test_random_rings, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dirty, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
