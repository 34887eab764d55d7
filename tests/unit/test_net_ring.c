/* The shared frame rings: both ends in one process, random traffic, backpressure, doorbells, two threads that must
 * never wait for each other in vain; and a peer that writes nonsense into the memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fault.h"
#include "net/backend.h"
#include "net/ring.h"
#include "net/ring_priv.h"
#include "sys/loop.h"

#define OFFLOADS (NET_OFF_CSUM | NET_OFF_TSO4)

static const struct net_hdr plain;

/* One end, and what it saw. */
struct end {
    struct net_backend *b;
    uint32_t next, sent; /* numbers of the frames that arrive and leave */
    unsigned received, dones, ready, hangups;
    unsigned refuse; /* so many of the next frames are refused, once each */
    size_t last_len;
    struct net_hdr last_hdr;
};

struct pair {
    struct loop *loop;
    struct end sw, vm;
    uint64_t seed;
    uint8_t frame[NET_FRAME_MAX];
};

static uint64_t next_random(uint64_t *seed)
{
    uint64_t z = *seed += 0x9e3779b97f4a7c15ULL; /* splitmix64 */

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

/* A frame whose content follows from its number. */
static size_t make_frame(uint8_t *frame, uint32_t number, size_t len)
{
    memset(frame, (int)(number * 31 + 7), len);
    memcpy(frame, &number, sizeof(number));
    frame[len - 1] = (uint8_t)~number;
    return len;
}

static bool on_receive(void *opaque, const struct net_hdr *hdr, const uint8_t *frame, size_t len)
{
    struct end *e = opaque;
    uint32_t number;

    if (e->refuse > 0) {
        e->refuse--;
        return false;
    }
    memcpy(&number, frame, sizeof(number));
    assert_int_equal(number, e->next);
    assert_int_equal(frame[len - 1], (uint8_t)~number);
    if (len > 10)
        assert_int_equal(frame[len / 2], (uint8_t)(number * 31 + 7));
    e->next++;
    e->received++;
    e->last_len = len;
    e->last_hdr = *hdr;
    return true;
}

static void on_done(void *opaque)
{
    ((struct end *)opaque)->dones++;
}

static void on_ready(void *opaque)
{
    ((struct end *)opaque)->ready++;
}

static void on_hangup(void *opaque)
{
    ((struct end *)opaque)->hangups++;
}

static void open_end(struct end *e, struct loop *loop, const struct net_ring_fds *fds, enum net_ring_side side)
{
    struct net_ring_config c = { .fds = *fds, .side = side, .mtu = 1500, .hangup = on_hangup, .opaque = e };

    assert_int_equal(net_ring_backend_new(&c, loop, &e->b), 0);
    net_backend_connect(e->b, &(struct net_receiver){ on_receive, on_done, on_ready, e });
    net_backend_set_receive_offloads(e->b, OFFLOADS);
}

static void begin(struct pair *p)
{
    struct net_ring_fds a, b;

    memset(p, 0, sizeof(*p));
    p->seed = 1;
    assert_int_equal(loop_new(&p->loop), 0);
    assert_int_equal(net_ring_create(NET_RING_BYTES_MIN, &a, &b), 0);
    open_end(&p->sw, p->loop, &a, NET_RING_SWITCH);
    open_end(&p->vm, p->loop, &b, NET_RING_VM);
}

static void run(struct loop *l)
{
    while (loop_run_once(l) > 0) {
    }
}

static void end(struct pair *p)
{
    net_backend_close(p->sw.b);
    net_backend_close(p->vm.b);
    run(p->loop);
    loop_free(p->loop);
}

static bool send_one(struct pair *p, struct end *from, size_t len)
{
    struct iovec iov[2] = { { p->frame, len / 3 }, { p->frame + len / 3, len - len / 3 } };

    make_frame(p->frame, from->sent, len);
    if (!net_backend_send(from->b, &plain, iov, 2, len))
        return false;
    from->sent++;
    return true;
}

static size_t random_len(uint64_t *seed)
{
    uint64_t r = next_random(seed);

    switch (r % 4) {
    case 0:
        return NET_HEADER + (r >> 8) % 64;
    case 1:
        return NET_HEADER + (r >> 8) % 1500;
    case 2:
        return NET_FRAME_MAX - (r >> 8) % 3;
    default:
        return NET_HEADER + (r >> 8) % (NET_FRAME_MAX - NET_HEADER + 1);
    }
}

/* Batches of all sizes in both directions, refusals in between: everything arrives, in order. */
static void test_random_traffic(void **state)
{
    static struct pair p;

    begin(&p);
    for (unsigned round = 0; round < 3000; round++) {
        struct end *from = next_random(&p.seed) & 1 ? &p.sw : &p.vm, *to = from == &p.sw ? &p.vm : &p.sw;
        unsigned n = 1 + (unsigned)(next_random(&p.seed) % 12);

        while (n-- > 0 && send_one(&p, from, random_len(&p.seed))) {
        }
        net_backend_send_done(from->b);
        to->refuse = (unsigned)(next_random(&p.seed) % 3);
        run(p.loop);
        while (to->received < from->sent) {
            unsigned before = to->received + (to->refuse == 0);

            net_backend_receive_ready(to->b);
            run(p.loop);
            assert_true(to->received + (to->refuse == 0) > before || to->refuse > 0 || to->received == from->sent);
        }
    }
    assert_int_equal(p.sw.received, p.vm.sent);
    assert_int_equal(p.vm.received, p.sw.sent);
    assert_true(p.sw.sent > 5000 && p.vm.sent > 5000);
    end(&p);
}

/* The end that is full says no, says nothing while there is no room, and calls when there is. */
/* The VM's end is closed and opened again on copies of its descriptors: the switch's end notices nothing. */
static void test_resume(void **state)
{
    static struct pair p;
    struct net_ring_fds a, b;

    (void)state;
    memset(&p, 0, sizeof(p));
    assert_int_equal(loop_new(&p.loop), 0);
    assert_int_equal(net_ring_create(NET_RING_BYTES_MIN, &a, &b), 0);
    open_end(&p.sw, p.loop, &a, NET_RING_SWITCH);
    for (unsigned round = 0; round < 50; round++) {
        struct net_ring_fds copy = { dup(b.memory), dup(b.doorbell_in), dup(b.doorbell_out) };
        unsigned waiting = 0;

        open_end(&p.vm, p.loop, &copy, NET_RING_VM);
        run(p.loop); /* what waited for the one before comes now */
        assert_int_equal(p.vm.next, p.sw.sent);
        for (unsigned i = 0; i < 40; i++) {
            assert_true(send_one(&p, &p.vm, 1000 + round));
            assert_true(send_one(&p, &p.sw, 3000 - round));
            net_backend_send_done(p.vm.b);
            net_backend_send_done(p.sw.b);
            if (i % 8 == 7)
                run(p.loop);
        }
        assert_int_equal(p.vm.next, p.sw.sent);
        assert_int_equal(p.sw.next, p.vm.sent);
        for (; waiting < round % 3; waiting++)
            assert_true(send_one(&p, &p.sw, 500));
        net_backend_send_done(p.sw.b);
        net_backend_close(p.vm.b);
    }
    assert_int_equal(p.sw.hangups, 0);
    net_backend_close(p.sw.b);
    net_ring_fds_close(&b);
    loop_free(p.loop);
}

static void test_backpressure(void **state)
{
    static struct pair p;
    unsigned n = 0;

    begin(&p);
    run(p.loop); /* first bells */
    while (send_one(&p, &p.vm, 1514))
        n++;
    assert_in_range(n, NET_RING_BYTES_MIN / 1536 - 2, NET_RING_BYTES_MIN / 1514);
    assert_int_equal(p.vm.ready, 0);
    p.sw.refuse = 1; /* one frame leaves the ring, no more */
    run(p.loop);
    assert_int_equal(p.vm.ready, 0);
    assert_int_equal(p.sw.received, 0);
    net_backend_receive_ready(p.sw.b);
    run(p.loop);
    assert_int_equal(p.sw.received, n);
    assert_int_equal(p.vm.ready, 1);
    assert_true(send_one(&p, &p.vm, 1514));
    end(&p);
}

/* One doorbell wakes a sleeping peer; one that is awake or was woken already needs none. */
static void test_doorbells(void **state)
{
    static struct pair p;
    struct net_ring_counters c;

    begin(&p);
    run(p.loop);
    c = net_ring_get_counters(p.vm.b);
    for (unsigned i = 0; i < 100; i++) {
        assert_true(send_one(&p, &p.vm, 1000));
        if (i % 10 == 9)
            net_backend_send_done(p.vm.b);
    }
    assert_int_equal(net_ring_get_counters(p.vm.b).rung, c.rung + 1);
    run(p.loop);
    assert_int_equal(p.sw.received, 100);
    assert_true(send_one(&p, &p.vm, 1000)); /* asleep again */
    assert_int_equal(net_ring_get_counters(p.vm.b).rung, c.rung + 1);
    net_backend_send_done(p.vm.b);
    assert_int_equal(net_ring_get_counters(p.vm.b).rung, c.rung + 2);
    run(p.loop);
    assert_int_equal(p.sw.received, 101);
    assert_true(p.sw.dones >= 2);
    end(&p);
}

/* What one end takes is what the other may send; headers travel; what is not taken is done in software on either side.
 */
static void test_offloads(void **state)
{
    static struct pair p;
    struct net_hdr hdr = { .flags = NET_HDR_NEEDS_CSUM, .csum_start = 34, .csum_offset = 6 };
    struct iovec iov = { p.frame, 60 };

    begin(&p);
    run(p.loop);
    assert_int_equal(p.sw.b->offloads, OFFLOADS);
    assert_int_equal(p.vm.b->offloads, OFFLOADS);
    make_frame(p.frame, p.vm.sent++, 60);
    assert_true(net_backend_send(p.vm.b, &hdr, &iov, 1, 60));
    net_backend_send_done(p.vm.b);
    run(p.loop);
    assert_int_equal(p.sw.received, 1);
    assert_memory_equal(&p.sw.last_hdr, &hdr, sizeof(hdr));
    /* Frames that were sent while the peer still took them. */
    make_frame(p.frame, p.vm.sent++, 60);
    assert_true(net_backend_send(p.vm.b, &hdr, &iov, 1, 60));
    net_backend_send_done(p.vm.b);
    net_backend_set_receive_offloads(p.sw.b, 0);
    run(p.loop);
    assert_int_equal(p.sw.received, 2);
    assert_int_equal(p.sw.last_hdr.flags & NET_HDR_NEEDS_CSUM, 0);
    assert_int_equal(p.vm.b->offloads, 0);
    end(&p);
}

static void test_peer_goes(void **state)
{
    static struct pair p;

    begin(&p);
    run(p.loop);
    assert_true(send_one(&p, &p.vm, 100));
    net_backend_send_done(p.vm.b);
    net_backend_close(p.vm.b);
    p.vm.b = NULL;
    run(p.loop);
    assert_int_equal(p.sw.received, 1); /* what it had sent arrives */
    assert_int_equal(p.sw.hangups, 1);
    assert_false(net_ring_get_counters(p.sw.b).broken);
    for (unsigned i = 0; i < 1000; i++) /* no end, no room asked for: lost */
        assert_true(send_one(&p, &p.sw, 1514));
    net_backend_send_done(p.sw.b);
    end(&p);
}

/* ---- two threads ---- */

#define THREAD_FRAMES 60000

struct runner {
    pthread_t thread;
    struct loop *loop;
    struct end e;
    struct net_ring_fds fds;
    enum net_ring_side side;
    uint64_t seed;
    uint8_t frame[NET_FRAME_MAX];
    struct loop_timer *again;
    bool sending;
};

static void runner_check(struct runner *r)
{
    if (r->e.received == THREAD_FRAMES && r->e.sent == THREAD_FRAMES)
        loop_stop(r->loop, 0);
}

static void runner_send(void *opaque)
{
    struct runner *r = opaque;
    unsigned n = 1 + (unsigned)(next_random(&r->seed) % 40);
    bool room = true;

    if (r->sending)
        return;
    r->sending = true;
    while (n-- > 0 && r->e.sent < THREAD_FRAMES && room) {
        size_t len = NET_HEADER + next_random(&r->seed) % (n % 8 ? 200 : 20000);
        struct iovec iov = { r->frame, make_frame(r->frame, r->e.sent, len) };

        room = net_backend_send(r->e.b, &plain, &iov, 1, len);
        r->e.sent += room;
    }
    net_backend_send_done(r->e.b);
    r->sending = false;
    runner_check(r);
    if (room && r->e.sent < THREAD_FRAMES)
        loop_timer_set(r->again, 1);
}

/* The first member of what the receiver gets is not the end, so go by the runner. */
static bool runner_receive(void *opaque, const struct net_hdr *hdr, const uint8_t *frame, size_t len)
{
    struct runner *r = opaque;
    bool taken = on_receive(&r->e, hdr, frame, len);

    runner_check(r);
    return taken;
}

static void runner_ready(void *opaque)
{
    runner_send(opaque);
}

static void *runner_run(void *opaque)
{
    struct runner *r = opaque;

    loop_timer_set(r->again, 1);
    return loop_run(r->loop) == 0 ? NULL : "loop_run failed";
}

/* Both send as fast as they can, with bells and room asked for at the worst moments. A lost wake-up would hang. */
static void test_threads(void **state)
{
    static struct runner r[2];
    struct net_ring_fds fds[2];

    assert_int_equal(net_ring_create(NET_RING_BYTES_MIN, &fds[0], &fds[1]), 0);
    for (int i = 0; i < 2; i++) {
        struct net_ring_config c = { .fds = fds[i], .side = (enum net_ring_side)i, .mtu = 1500 };

        r[i] = (struct runner){ .seed = 5 + (uint64_t)i };
        assert_int_equal(loop_new(&r[i].loop), 0);
        assert_int_equal(loop_timer_new(r[i].loop, runner_send, &r[i], &r[i].again), 0);
        assert_int_equal(net_ring_backend_new(&c, r[i].loop, &r[i].e.b), 0);
        net_backend_connect(r[i].e.b, &(struct net_receiver){ runner_receive, NULL, runner_ready, &r[i] });
    }
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&r[i].thread, NULL, runner_run, &r[i]), 0);
    for (int i = 0; i < 2; i++) {
        void *failed;

        assert_int_equal(pthread_join(r[i].thread, &failed), 0);
        assert_null(failed);
    }
    for (int i = 0; i < 2; i++) {
        assert_int_equal(r[i].e.received, THREAD_FRAMES);
        assert_false(net_ring_get_counters(r[i].e.b).broken);
        net_backend_close(r[i].e.b);
        loop_free(r[i].loop);
    }
}

/* ---- a hostile peer ---- */

/* The switch's end, and a VM that has only the memory. */
struct hostile {
    struct loop *loop;
    struct end sw;
    struct net_ring_fds fds;
    struct net_ring_page *page;
    uint8_t *to_switch; /* the data of that direction */
};

static void hostile_begin(struct hostile *h)
{
    struct net_ring_fds ours;
    size_t bytes = NET_RING_PAGE + 2 * (size_t)NET_RING_BYTES_MIN;

    memset(h, 0, sizeof(*h));
    assert_int_equal(loop_new(&h->loop), 0);
    assert_int_equal(net_ring_create(NET_RING_BYTES_MIN, &ours, &h->fds), 0);
    open_end(&h->sw, h->loop, &ours, NET_RING_SWITCH);
    h->page = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, h->fds.memory, 0);
    assert_true(h->page != MAP_FAILED);
    h->to_switch = (uint8_t *)h->page + NET_RING_PAGE;
}

static void hostile_ring(struct hostile *h)
{
    assert_int_equal(write(h->fds.doorbell_out, "", 1), 1);
    run(h->loop);
}

static void hostile_end(struct hostile *h)
{
    munmap(h->page, NET_RING_PAGE + 2 * (size_t)NET_RING_BYTES_MIN);
    net_backend_close(h->sw.b);
    net_ring_fds_close(&h->fds);
    run(h->loop);
    loop_free(h->loop);
}

static void test_hostile_records(void **state)
{
    static const struct {
        uint32_t head, len;
    } cases[] = {
        { 16, 0 }, /* shorter than a frame */
        { 16, NET_HEADER - 1 },
        { 16, NET_HEADER }, /* longer than what is there */
        { 32, 17 },
        { NET_RING_BYTES_MIN, NET_FRAME_MAX + 1 },
        { NET_RING_BYTES_MIN, NET_RING_BYTES_MIN },
        { NET_RING_BYTES_MIN, UINT32_MAX },
        { NET_RING_BYTES_MIN, UINT32_MAX - 14 }, /* overflows with its head */
        { 8, 60 },                               /* no whole units */
        { 81, 60 },
        { NET_RING_BYTES_MIN + 16, 60 }, /* more than fits */
        { UINT32_MAX, 60 },              /* backwards */
        { UINT32_MAX - 15, 60 },
        { 0x80000000, 60 },
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        static struct hostile h;
        struct net_ring_record record = { .len = cases[i].len };

        hostile_begin(&h);
        memcpy(h.to_switch, &record, sizeof(record));
        atomic_store(&h.page->ctl[NET_RING_SWITCH].head, cases[i].head);
        hostile_ring(&h);
        if (h.sw.hangups != 1)
            fail_msg("case %zu", i);
        assert_int_equal(h.sw.received, 0);
        assert_true(net_ring_get_counters(h.sw.b).broken);
        hostile_end(&h);
    }
}

/* The consumer's position is its own business only as long as it moves forward, and not beyond what it was given. */
static void test_hostile_tail(void **state)
{
    static const uint32_t tails[] = { NET_RING_BYTES_MIN + 16, 0x80000000, UINT32_MAX, 2 * NET_RING_BYTES_MIN };

    for (size_t i = 0; i < sizeof(tails) / sizeof(tails[0]); i++) {
        static struct hostile h;
        static uint8_t frame[1514];
        struct iovec iov = { frame, sizeof(frame) };
        unsigned n = 0;

        hostile_begin(&h);
        assert_true(net_backend_send(h.sw.b, &plain, &iov, 1, 60));
        net_backend_send_done(h.sw.b);
        atomic_store(&h.page->ctl[NET_RING_VM].tail, tails[i]);
        while (n < 1000 && net_backend_send(h.sw.b, &plain, &iov, 1, sizeof(frame))) {
            iov.iov_len = sizeof(frame);
            n++;
        }
        run(h.loop);
        assert_int_equal(h.sw.hangups, 1);
        assert_int_equal(n, 1000); /* lost, once it is broken */
        hostile_end(&h);
    }
}

/* Headers that lie never reach the receiver; the ring lives on. */
static void test_hostile_header(void **state)
{
    static const struct net_hdr hdrs[] = {
        { .flags = NET_HDR_NEEDS_CSUM, .csum_start = 60, .csum_offset = 0 },
        { .flags = NET_HDR_NEEDS_CSUM, .csum_start = 0xffff, .csum_offset = 0xffff },
        { .gso_type = NET_GSO_TCPV4, .gso_size = 0 },
        { .gso_type = NET_GSO_TCPV4,
          .gso_size = 1000,
          .flags = NET_HDR_NEEDS_CSUM,
          .csum_start = 34,
          .csum_offset = 16 },
        { .gso_type = 77 },
    };
    static struct hostile h;
    uint32_t at = 0;

    hostile_begin(&h);
    for (size_t i = 0; i < sizeof(hdrs) / sizeof(hdrs[0]); i++) {
        struct net_ring_record record = { .len = 60, .hdr = hdrs[i] };

        memcpy(h.to_switch + at, &record, sizeof(record));
        memset(h.to_switch + at + sizeof(record), 0, 60);
        at += net_ring_need(60);
        atomic_store(&h.page->ctl[NET_RING_SWITCH].head, at);
        hostile_ring(&h);
        assert_int_equal(h.sw.received, 0);
    }
    assert_int_equal(h.sw.hangups, 0);
    hostile_end(&h);
}

/* Random bytes and positions all over the page, rung again and again. */
static void test_hostile_random(void **state)
{
    uint64_t seed = 99;

    for (unsigned round = 0; round < 300; round++) {
        static struct hostile h;

        hostile_begin(&h);
        for (unsigned i = 0; i < 64; i++) {
            struct net_ring_record record = { .len = (uint32_t)(next_random(&seed) % 300) };
            size_t at = (next_random(&seed) % (NET_RING_BYTES_MIN / 16)) * 16;

            memcpy(h.to_switch + at % 4096, &record, sizeof(record));
            memcpy(h.to_switch + at, &seed, sizeof(seed));
        }
        for (unsigned i = 0; i < 20; i++) {
            _Atomic uint32_t *words = (_Atomic uint32_t *)h.page;
            uint32_t value = (uint32_t)next_random(&seed);

            h.sw.refuse = 1000; /* content is of no interest */
            atomic_store(&words[next_random(&seed) % (sizeof(*h.page) / 4)], i % 2 ? value : value % 512 * 16);
            assert_true(write(h.fds.doorbell_out, "", 1) == 1);
            run(h.loop);
            net_backend_receive_ready(h.sw.b);
            run(h.loop);
        }
        hostile_end(&h);
    }
}

/* A pipe full of doorbells neither blocks nor breaks anything. */
static void test_hostile_bells(void **state)
{
    static struct hostile h;
    char bytes[65536] = { 0 };
    uint8_t frame[60] = { 0 };
    struct iovec iov = { frame, sizeof(frame) };

    hostile_begin(&h);
    while (write(h.fds.doorbell_out, bytes, sizeof(bytes)) > 0) {
    }
    run(h.loop);
    assert_int_equal(h.sw.hangups, 0);
    /* And a VM that never empties its own, though each frame is the first that it wants to hear of. */
    fcntl(h.fds.doorbell_in, F_SETFL, 0);
    for (unsigned i = 0; i < 3000; i++) {
        assert_true(net_backend_send(h.sw.b, &plain, &iov, 1, 60));
        net_backend_send_done(h.sw.b);
        atomic_store(&h.page->ctl[NET_RING_VM].tail, (i + 1) * net_ring_need(60));
        atomic_store(&h.page->ctl[NET_RING_VM].data_event, (i + 1) * net_ring_need(60));
    }
    assert_true(net_ring_get_counters(h.sw.b).rung >= 3000);
    assert_int_equal(h.sw.hangups, 0);
    hostile_end(&h);
}

/* ---- descriptors ---- */

static int try_fds(struct loop *l, const struct net_ring_fds *fds)
{
    struct net_ring_config c = { .fds = *fds, .side = NET_RING_VM, .mtu = 1500 };
    struct net_backend *b = NULL;
    int r = net_ring_backend_new(&c, l, &b);

    net_backend_close(b);
    return r;
}

static void test_descriptors(void **state)
{
    struct loop *l;
    struct net_ring_fds a, b, c;
    size_t good = NET_RING_PAGE + 2 * (size_t)NET_RING_BYTES_MIN;

    assert_int_equal(loop_new(&l), 0);
    assert_int_equal(net_ring_create(NET_RING_BYTES_MIN / 2, &a, &b), -EINVAL);
    assert_int_equal(net_ring_create(NET_RING_BYTES_MIN + 4096, &a, &b), -EINVAL);
    assert_int_equal(net_ring_create(NET_RING_BYTES_MAX * 2ULL, &a, &b), -EINVAL);
    assert_int_equal(net_ring_create(NET_RING_BYTES_MIN, &a, &b), 0);
    assert_int_equal(ftruncate(b.memory, 0), -1); /* sealed */
    c = b;
    c.memory = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(c.memory, (off_t)good), 0);
    assert_int_equal(try_fds(l, &c), -EPERM); /* could be taken away */
    assert_int_equal(ftruncate(c.memory, (off_t)good + 4096), 0);
    assert_int_equal(try_fds(l, &c), -EINVAL);
    assert_int_equal(ftruncate(c.memory, 100), 0);
    assert_int_equal(try_fds(l, &c), -EINVAL);
    close(c.memory);
    c.memory = b.doorbell_in;
    assert_int_equal(try_fds(l, &c), -EINVAL);
    c = b;
    c.doorbell_in = eventfd(0, EFD_CLOEXEC);
    assert_int_equal(try_fds(l, &c), -EINVAL);
    close(c.doorbell_in);
    c.doorbell_in = -1;
    assert_int_equal(try_fds(l, &c), -EBADF);
    assert_int_equal(try_fds(l, &b), 0); /* owns and closes them */
    net_ring_fds_close(&a);
    loop_free(l);
}

static int make_pair(struct loop *l)
{
    struct net_ring_fds a, b;
    struct net_backend *backend = NULL;
    int r = net_ring_create(NET_RING_BYTES_MIN, &a, &b);

    if (r < 0)
        return r;
    net_ring_fds_close(&b);
    r = net_ring_backend_new(&(struct net_ring_config){ .fds = a, .mtu = 1500 }, l, &backend);
    if (r < 0)
        net_ring_fds_close(&a);
    net_backend_close(backend);
    return r;
}

/* Every allocation that fails is reported, and nothing stays behind. */
static void test_failures(void **state)
{
    struct loop *l;
    int r;

    assert_int_equal(loop_new(&l), 0);
    for (unsigned n = 1; fault_begin(n), r = make_pair(l), fault_end(); n++)
        assert_int_equal(r, -ENOMEM);
    assert_int_equal(r, 0);
    loop_free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_traffic), cmocka_unit_test(test_resume),
        cmocka_unit_test(test_backpressure),   cmocka_unit_test(test_doorbells),
        cmocka_unit_test(test_offloads),       cmocka_unit_test(test_peer_goes),
        cmocka_unit_test(test_threads),        cmocka_unit_test(test_hostile_records),
        cmocka_unit_test(test_hostile_tail),   cmocka_unit_test(test_hostile_header),
        cmocka_unit_test(test_hostile_random), cmocka_unit_test(test_hostile_bells),
        cmocka_unit_test(test_descriptors),    cmocka_unit_test(test_failures),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
