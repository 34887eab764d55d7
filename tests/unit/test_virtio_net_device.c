/* virtio-net in front of a back end that the test plays: what reaches either end with which offloads negotiated, no
 * room on either side, queue pairs and steering, the receive filter, batches of interrupts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdatomic.h>
#include <string.h>

#include <cmocka.h>

#include "base/bits.h"
#include "net/backend.h"
#include "virtio/net.h"
#include "virtio_rig.h"

#define F_CSUM (1ULL << 0)
#define F_GUEST_CSUM (1ULL << 1)
#define F_GUEST_OFFLOADS (1ULL << 2)
#define F_GUEST_TSO4 (1ULL << 7)
#define F_HOST_TSO4 (1ULL << 11)
#define F_HOST_USO (1ULL << 56)
#define F_MRG (1ULL << 15)
#define F_CTRL (1ULL << 17 | 1ULL << 18)
#define F_MQ (1ULL << 22)
#define F_ALL (~0ULL & ~RIG_F_PACKED)

#define PAIRS 4
#define RX_BUFS 16
#define RX_LEN 4096u
#define RX_AT(pair, i) (0x800000ULL + (pair)*0x100000ULL + (i)*0x2000ULL)
#define TX_AT 0x400000ULL
#define CTRL_AT 0x600000ULL
#define FRAMES_MAX 64

static const uint8_t own_mac[6] = { 0x52, 0x54, 0, 1, 2, 3 };

/* The back end. What the loop thread writes, the test reads when the loop is idle (on_loop). */
struct fake {
    struct net_backend base;
    bool full;
    unsigned offered, n, dones, receive_ready;
    struct net_hdr hdrs[FRAMES_MAX];
    size_t lens[FRAMES_MAX];
    uint8_t frames[FRAMES_MAX][NET_FRAME_MAX];
};

struct fixture {
    struct rig r;
    struct rig_dev d;
    struct fake b;
    struct virtio_net *net;
    uint64_t features;
    unsigned pairs; /* of queues that exist */
    struct drv_queue q[2 * PAIRS + 1];
    uint32_t tokens[PAIRS][RX_BUFS];
};

static bool fake_send(struct net_backend *b, const struct net_hdr *hdr, const struct iovec *iov, unsigned n_iov,
                      size_t len)
{
    struct fake *f = (struct fake *)b;

    f->offered++;
    if (f->full)
        return false;
    assert_true(f->n < FRAMES_MAX);
    f->hdrs[f->n] = *hdr;
    f->lens[f->n] = net_gather(f->frames[f->n], iov, n_iov, NET_FRAME_MAX);
    assert_int_equal(f->lens[f->n], len);
    f->n++;
    return true;
}

static void fake_send_done(struct net_backend *b)
{
    ((struct fake *)b)->dones++;
}

static void fake_receive_ready(struct net_backend *b)
{
    ((struct fake *)b)->receive_ready++;
}

static void fake_close(struct net_backend *b)
{
    (void)b;
}

static const struct net_backend_ops fake_ops = { .name = "fake",
                                                 .send = fake_send,
                                                 .send_done = fake_send_done,
                                                 .receive_ready = fake_receive_ready,
                                                 .close = fake_close };

/* ---- the driver ---- */

static struct drv_queue *ctrl_queue(struct fixture *f, unsigned *ret_index)
{
    *ret_index = f->features & F_MQ ? 2 * f->pairs : 2;
    return &f->q[*ret_index];
}

static void give_rx(struct fixture *f, unsigned pair, unsigned i)
{
    struct drv_buf b = { .gpa = RX_AT(pair, i), .len = RX_LEN, .in = true };

    f->tokens[pair][i] = i;
    assert_true(drv_add(&f->q[2 * pair], &b, 1, false, &f->tokens[pair][i]));
}

static void on_loop(struct fixture *f, void (*fn)(struct fixture *f, void *arg), void *arg);

static void begin(struct fixture *f, unsigned pairs, bool no_offloads, uint64_t features)
{
    struct virtio_net_config c = { .pairs = pairs, .no_offloads = no_offloads, .slot = -1, .backend = &f->b.base };
    uint64_t at = 0x10000;
    unsigned n_queues;

    memset(f, 0, sizeof(*f));
    rig_init(&f->r);
    f->b.base = (struct net_backend){ .ops = &fake_ops, .mtu = 1500, .offloads = 31 };
    memcpy(c.mac, own_mac, 6);
    assert_int_equal(virtio_net_new(&f->r.env, &c, &f->net), 0);
    rig_start(&f->r);
    rig_find(&f->r, 1, true, &f->d);
    f->features = rig_negotiate(&f->d, features | RIG_F_VERSION_1);
    f->pairs = pairs;
    n_queues = f->features & F_MQ ? 2 * pairs + 1 : 3;
    for (unsigned i = 0; i < n_queues; i++) {
        at = align_up(drv_queue_init(&f->q[i], f->r.m, at, 256, false, f->features & RIG_F_EVENT_IDX), 4096);
        rig_queue(&f->d, i, &f->q[i]);
    }
    rig_driver_ok(&f->d);
    for (unsigned pair = 0; pair < n_queues / 2; pair++) {
        for (unsigned i = 0; i < RX_BUFS; i++)
            give_rx(f, pair, i);
        rig_kick(&f->d, 2 * pair);
    }
    on_loop(f, NULL, NULL);
}

/* Run fn on the loop thread and wait for it; with NULL only wait until all that came before was done. */
struct post {
    void (*fn)(struct fixture *f, void *arg);
    struct fixture *f;
    void *arg;
    _Atomic bool done;
};

static void posted(void *opaque)
{
    struct post *p = opaque;

    if (p->fn)
        p->fn(p->f, p->arg);
    p->done = true;
}

static bool post_done(void *opaque)
{
    return ((struct post *)opaque)->done;
}

static void on_loop(struct fixture *f, void (*fn)(struct fixture *f, void *arg), void *arg)
{
    /* Events that are ready together are served in any order: the second round comes behind all of the first. */
    for (unsigned i = 0; i < 3; i++) {
        struct post p = { .fn = i == 1 ? fn : NULL, .f = f, .arg = arg };

        assert_int_equal(loop_post(f->r.loop, posted, &p), 0);
        rig_wait(post_done, &p);
    }
}

static void end(struct fixture *f)
{
    assert_int_equal(rig_status(&f->d), 15);
    rig_stop(&f->r);
    virtio_net_free(f->net);
    net_backend_close(&f->b.base);
    rig_done(&f->r);
}

/* Make a frame available on the transmit queue of a pair, as one piece and a header before it. at: which of the places
 * for frames; the token is its address. */
static void queue_tx(struct fixture *f, unsigned pair, unsigned at, const struct net_hdr *hdr, const uint8_t *frame,
                     size_t len)
{
    uint64_t gpa = TX_AT + at * 0x11000ULL;
    struct drv_buf bufs[2] = { { .gpa = gpa, .len = 12 }, { .gpa = gpa + 12, .len = (uint32_t)len } };
    uint8_t *to = mem_ptr(f->r.m, GPA(gpa), 12 + len);

    memset(to, 0, 12);
    memcpy(to, hdr, 10);
    memcpy(to + 12, frame, len);
    assert_true(drv_add(&f->q[2 * pair + 1], bufs, 2, false, to));
}

static void send_tx(struct fixture *f, unsigned pair, const struct net_hdr *hdr, const uint8_t *frame, size_t len)
{
    queue_tx(f, pair, 0, hdr, frame, len);
    rig_kick(&f->d, 2 * pair + 1);
    (void)rig_complete(&f->q[2 * pair + 1], NULL);
    on_loop(f, NULL, NULL);
}

static uint8_t control(struct fixture *f, uint8_t class, uint8_t cmd, const void *data, uint32_t len)
{
    unsigned index;
    struct drv_queue *q = ctrl_queue(f, &index);
    struct drv_buf bufs[2] = { { .gpa = CTRL_AT, .len = 2 + len }, { .gpa = CTRL_AT + 0x1000, .len = 1, .in = true } };
    uint8_t *p = mem_ptr(f->r.m, GPA(CTRL_AT), 0x1001);

    p[0] = class;
    p[1] = cmd;
    memcpy(p + 2, data, len);
    p[0x1000] = 0xee;
    assert_true(drv_add(q, bufs, 2, false, f));
    rig_kick(&f->d, index);
    assert_ptr_equal(rig_complete(q, NULL), f);
    return p[0x1000];
}

/* Take a frame off a receive queue with its header; returns its length, 0: none. Buffers go back at once. */
static size_t take_rx(struct fixture *f, unsigned pair, uint8_t hdr[12], uint8_t *frame)
{
    uint32_t len, *token = drv_get_used(&f->q[2 * pair], &len);
    unsigned count;
    size_t at = 0;

    if (!token)
        return 0;
    memcpy(hdr, mem_ptr(f->r.m, GPA(RX_AT(pair, *token)), 12), 12);
    count = load_le16(hdr + 10);
    assert_true(count >= 1 && count <= RX_BUFS);
    for (unsigned i = 0; i < count; i++) {
        size_t skip = i == 0 ? 12 : 0;

        if (i > 0)
            token = drv_get_used(&f->q[2 * pair], &len);
        assert_non_null(token);
        memcpy(frame + at, (uint8_t *)mem_ptr(f->r.m, GPA(RX_AT(pair, *token)), len) + skip, len - skip);
        at += len - skip;
        give_rx(f, pair, *token);
    }
    return at;
}

/* ---- frames ---- */

/* TCP over IPv4 with payload bytes; ports and addresses the other way round where asked for. */
static size_t make_tcp(uint8_t *p, uint16_t port, bool back, size_t payload)
{
    static const uint8_t a[4] = { 10, 0, 0, 1 }, b[4] = { 10, 0, 0, 2 };

    memset(p, 0, 54);
    memcpy(p, own_mac, 6);
    memcpy(p + 6, "\2\0\0\0\0\7\x08", 7);
    p[14] = 0x45;
    p[16] = (uint8_t)((40 + payload) >> 8);
    p[17] = (uint8_t)(40 + payload);
    p[22] = 64;
    p[23] = 6;
    memcpy(p + 26, back ? b : a, 4);
    memcpy(p + 30, back ? a : b, 4);
    store_le16(p + (back ? 36 : 34), port);
    store_le16(p + (back ? 34 : 36), 80);
    p[46] = 5 << 4;
    for (size_t i = 0; i < payload; i++)
        p[54 + i] = (uint8_t)(i * 3 + i / 256);
    return 54 + payload;
}

static const struct net_hdr plain = { 0 }, sum = { 1, 0, 0, 0, 34, 16 }, tso = { 1, NET_GSO_TCPV4, 54, 1000, 34, 16 };

struct delivery {
    const struct net_hdr *hdr;
    const uint8_t *frame;
    size_t len;
    unsigned times;
    unsigned taken;
};

static void deliver(struct fixture *f, void *arg)
{
    struct delivery *d = arg;

    for (unsigned i = 0; i < d->times; i++)
        d->taken += net_backend_deliver(&f->b.base, d->hdr, d->frame, d->len);
    net_backend_deliver_done(&f->b.base);
}

/* Returns how many of so many were taken. */
static unsigned deliver_frame(struct fixture *f, const struct net_hdr *hdr, const uint8_t *frame, size_t len,
                              unsigned times)
{
    struct delivery d = { hdr, frame, len, times, 0 };

    on_loop(f, deliver, &d);
    return d.taken;
}

/* ---- transmit ---- */

static void test_transmit_offloads(void **state)
{
    static struct fixture f;
    static uint8_t frame[6000];
    size_t len = make_tcp(frame, 1000, false, 5000);

    (void)state;
    begin(&f, 1, false, F_ALL);
    send_tx(&f, 0, &tso, frame, len); /* the back end takes it as it is */
    assert_int_equal(f.b.n, 1);
    assert_memory_equal(&f.b.hdrs[0], &tso, sizeof(tso));
    assert_int_equal(f.b.lens[0], len);
    assert_memory_equal(f.b.frames[0], frame, len);
    f.b.base.offloads = NET_OFF_CSUM; /* it does not */
    send_tx(&f, 0, &tso, frame, len);
    assert_int_equal(f.b.n, 6);
    for (unsigned i = 1; i < 6; i++) {
        assert_int_equal(f.b.lens[i], 1054);
        assert_memory_equal(f.b.frames[i] + 54, frame + 54 + (i - 1) * 1000, 1000);
    }
    send_tx(&f, 0, &(struct net_hdr){ 2, 0, 0, 0, 0, 0 }, frame, 1000); /* DATA_VALID means nothing here */
    assert_int_equal(f.b.n, 7);
    assert_memory_equal(&f.b.hdrs[6], &plain, sizeof(plain));
    send_tx(&f, 0, &(struct net_hdr){ 1, NET_GSO_TCPV4, 54, 0, 34, 16 }, frame, len);
    send_tx(&f, 0, &(struct net_hdr){ 1, 3, 54, 1000, 34, 16 }, frame, len);
    send_tx(&f, 0, &(struct net_hdr){ 0, NET_GSO_TCPV4, 54, 1000, 34, 16 }, frame, len);
    assert_int_equal(f.b.n, 7); /* nonsense is lost */
    assert_true(f.b.dones >= 6);
    end(&f);
}

static void test_not_negotiated(void **state)
{
    static struct fixture f;
    static uint8_t frame[6000];
    size_t len = make_tcp(frame, 1000, false, 5000);

    (void)state;
    for (unsigned round = 0; round < 2; round++) {
        begin(&f, 1, round == 0, round == 0 ? F_ALL : F_ALL & ~F_CSUM);
        if (round == 0)
            assert_int_equal(f.features & (F_CSUM | F_GUEST_CSUM | F_GUEST_OFFLOADS | F_HOST_TSO4 | F_HOST_USO), 0);
        send_tx(&f, 0, &tso, frame, len);
        send_tx(&f, 0, &sum, frame, 1000);
        assert_int_equal(f.b.n, 0);
        send_tx(&f, 0, &plain, frame, 1000);
        assert_int_equal(f.b.n, 1);
        end(&f);
    }
}

static void test_pieces(void **state)
{
    static struct fixture f;
    static uint8_t frame[6000];
    size_t len = make_tcp(frame, 1000, false, 5000);
    struct drv_buf bufs[201];
    uint8_t *to;

    (void)state;
    begin(&f, 1, false, F_ALL);
    to = mem_ptr(f.r.m, GPA(TX_AT), 0x10000);
    memset(to, 0, 12);
    memcpy(to, &tso, 10);
    for (unsigned n = 2; n <= 201; n = n == 2 ? 64 : n == 64 ? 65 : n + 136) {
        size_t at = 0;

        for (unsigned i = 0; i < n; i++) { /* the header's end in the second one */
            size_t part = i == 0 ? 7 : i + 1 < n ? 20 : 12 + len - at;

            bufs[i] = (struct drv_buf){ .gpa = TX_AT + 0x100 * i, .len = (uint32_t)part };
            if (i + 1 == n)
                bufs[i].gpa = TX_AT + 0x10000;
            for (size_t j = 0; j < part; j++)
                *(uint8_t *)mem_ptr(f.r.m, GPA(bufs[i].gpa + j), 1) = at + j < 10   ? ((const uint8_t *)&tso)[at + j]
                                                                      : at + j < 12 ? 0
                                                                                    : frame[at + j - 12];
            at += part;
        }
        f.b.n = 0;
        assert_true(drv_add(&f.q[1], bufs, n, false, &f));
        rig_kick(&f.d, 1);
        assert_ptr_equal(rig_complete(&f.q[1], NULL), &f);
        on_loop(&f, NULL, NULL);
        assert_int_equal(f.b.n, 1);
        assert_int_equal(f.b.lens[0], len);
        assert_memory_equal(f.b.frames[0], frame, len);
    }
    end(&f);
}

static void set_full(struct fixture *f, void *arg)
{
    f->b.full = *(bool *)arg;
    if (!f->b.full)
        net_backend_send_ready(&f->b.base);
}

/* A back end without room stops all transmit queues; each frame comes once and in the order of its queue. */
static void test_transmit_no_room(void **state)
{
    static struct fixture f;
    static uint8_t frame[100];
    size_t len = make_tcp(frame, 1, false, 0);
    bool full = true;

    (void)state;
    begin(&f, 2, false, F_ALL);
    on_loop(&f, set_full, &full);
    for (unsigned i = 0; i < 6; i++) {
        frame[30] = (uint8_t)i;
        queue_tx(&f, i & 1, i, &plain, frame, len);
        rig_kick(&f.d, 2 * (i & 1) + 1);
    }
    on_loop(&f, NULL, NULL);
    assert_int_equal(f.b.n, 0);
    assert_int_equal(f.b.offered, 1); /* it was not asked again and again */
    assert_null(drv_get_used(&f.q[1], NULL));
    assert_null(drv_get_used(&f.q[3], NULL));
    full = false;
    on_loop(&f, set_full, &full);
    for (unsigned i = 0; i < 6; i++)
        assert_ptr_equal(rig_complete(&f.q[2 * (i & 1) + 1], NULL), mem_ptr(f.r.m, GPA(TX_AT + i * 0x11000ULL), 1));
    on_loop(&f, NULL, NULL);
    assert_int_equal(f.b.n, 6);
    for (unsigned i = 0, last[2] = { 0, 1 }; i < 6; i++) {
        unsigned seen = f.b.frames[i][30];

        assert_int_equal(seen, last[seen & 1]);
        last[seen & 1] += 2;
    }
    /* And a reset while it is full forgets it. */
    full = true;
    on_loop(&f, set_full, &full);
    queue_tx(&f, 0, 0, &plain, frame, len);
    rig_kick(&f.d, 1);
    on_loop(&f, NULL, NULL);
    rig_reset(&f.d);
    full = false;
    on_loop(&f, set_full, &full);
    assert_int_equal(f.b.n, 6);
    rig_stop(&f.r);
    virtio_net_free(f.net);
    net_backend_close(&f.b.base);
    rig_done(&f.r);
}

/* ---- receive ---- */

static void test_receive_offloads(void **state)
{
    static struct fixture f;
    static uint8_t frame[6000], got[NET_FRAME_MAX];
    size_t len = make_tcp(frame, 1000, true, 5000);
    const uint64_t off = 0, some = F_GUEST_CSUM, too_much = F_GUEST_CSUM | 1ULL << 10;
    uint8_t hdr[12];

    (void)state;
    begin(&f, 1, false, F_ALL);
    assert_int_equal(f.b.base.receive_offloads, 31);
    assert_int_equal(deliver_frame(&f, &(struct net_hdr){ 1, NET_GSO_TCPV4, 3, 1000, 34, 16 }, frame, len, 1), 1);
    assert_int_equal(take_rx(&f, 0, hdr, got), len);
    assert_memory_equal(got, frame, len);
    assert_int_equal(hdr[0], 1);
    assert_int_equal(hdr[1], NET_GSO_TCPV4);
    assert_int_equal(load_le16(hdr + 2), 54); /* whatever the other end said */
    assert_int_equal(load_le16(hdr + 4), 1000);
    assert_int_equal(load_le16(hdr + 6), 34);
    assert_int_equal(load_le16(hdr + 8), 16);
    assert_int_equal(load_le16(hdr + 10), 2);
    assert_int_equal(control(&f, 5, 0, &some, 8), 0); /* checksums, but no segmentation */
    on_loop(&f, NULL, NULL);
    assert_int_equal(f.b.base.receive_offloads, NET_OFF_CSUM);
    assert_int_equal(deliver_frame(&f, &tso, frame, len, 1), 1);
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(take_rx(&f, 0, hdr, got), 1054);
        assert_int_equal(hdr[0], 1);
        assert_int_equal(hdr[1], 0);
        assert_memory_equal(got + 54, frame + 54 + 1000 * i, 1000);
    }
    assert_int_equal(take_rx(&f, 0, hdr, got), 0);
    assert_int_equal(control(&f, 5, 0, &off, 8), 0);
    assert_int_equal(deliver_frame(&f, &sum, frame, 100, 1), 1);
    assert_int_equal(take_rx(&f, 0, hdr, got), 100);
    assert_int_equal(hdr[0], 0);
    assert_memory_not_equal(got + 50, frame + 50, 2); /* filled in */
    assert_int_equal(control(&f, 5, 0, &too_much, 8), 1);
    assert_int_equal(control(&f, 5, 0, &some, 7), 1);
    assert_int_equal(control(&f, 5, 1, &some, 8), 1);
    end(&f);
}

static void test_receive_batch(void **state)
{
    static struct fixture f;
    static uint8_t frame[200], got[NET_FRAME_MAX];
    size_t len = make_tcp(frame, 1000, true, 100);
    unsigned before, taken = 0;
    uint8_t hdr[12];

    (void)state;
    begin(&f, 1, false, F_ALL & ~RIG_F_EVENT_IDX);
    on_loop(&f, NULL, NULL);
    before = f.r.msi[1];
    assert_int_equal(deliver_frame(&f, &plain, frame, len, 10), 10);
    assert_int_equal(f.r.msi[1], before + 1);
    assert_int_equal(deliver_frame(&f, &plain, frame, len, 10), RX_BUFS - 10); /* then there is no room */
    before = f.b.receive_ready;
    while (take_rx(&f, 0, hdr, got) == len)
        taken++;
    assert_int_equal(taken, RX_BUFS);
    assert_true(drv_should_kick(&f.q[0]));
    rig_kick(&f.d, 0);
    on_loop(&f, NULL, NULL);
    assert_int_equal(f.b.receive_ready, before + 1); /* the back end is told that there is again */
    end(&f);
}

static void set_link(struct fixture *f, void *arg)
{
    virtio_net_set_link(f->net, *(bool *)arg);
}

static void test_link(void **state)
{
    static struct fixture f;
    static uint8_t frame[200], got[NET_FRAME_MAX];
    size_t len = make_tcp(frame, 1000, true, 100);
    bool up = false;
    uint8_t hdr[12];

    (void)state;
    begin(&f, 1, false, F_ALL);
    assert_int_equal(rig_read(&f.r, f.d.config + 6, 2), 1);
    assert_int_equal(rig_read(&f.r, f.d.config + 12, 4), 10000);
    assert_int_equal(rig_read(&f.r, f.d.config + 16, 1), 1);
    on_loop(&f, set_link, &up);
    assert_int_equal(rig_read(&f.r, f.d.config + 6, 2), 0);
    send_tx(&f, 0, &plain, frame, len);
    assert_int_equal(f.b.n, 0);
    assert_int_equal(deliver_frame(&f, &plain, frame, len, 1), 1);
    assert_int_equal(take_rx(&f, 0, hdr, got), 0);
    up = true;
    on_loop(&f, set_link, &up);
    send_tx(&f, 0, &plain, frame, len);
    assert_int_equal(f.b.n, 1);
    end(&f);
}

/* ---- queue pairs ---- */

static void test_pairs(void **state)
{
    static struct fixture f;
    static uint8_t frame[200], got[NET_FRAME_MAX];
    uint8_t hdr[12], n[2] = { PAIRS, 0 };
    unsigned seen = 0;

    (void)state;
    begin(&f, PAIRS, false, F_ALL);
    assert_int_equal(rig_read(&f.r, f.d.config + 8, 2), PAIRS);
    make_tcp(frame, 7, true, 0);
    assert_int_equal(deliver_frame(&f, &plain, frame, 54, 1), 1);
    assert_int_equal(take_rx(&f, 0, hdr, got), 54); /* one pair at first */
    assert_int_equal(control(&f, 4, 0, n, 2), 0);
    for (unsigned flow = 0; flow < 20; flow++) { /* a flow comes back where it went out last */
        unsigned pair = (flow * 7 + 3) % PAIRS;

        f.b.n = 0;
        make_tcp(frame, (uint16_t)(5000 + flow), false, 0);
        send_tx(&f, pair, &plain, frame, 54);
        assert_int_equal(f.b.n, 1);
        make_tcp(frame, (uint16_t)(5000 + flow), true, 0);
        assert_int_equal(deliver_frame(&f, &plain, frame, 54, 1), 1);
        assert_int_equal(take_rx(&f, pair, hdr, got), 54);
    }
    for (unsigned flow = 0; flow < 64; flow++) { /* others are spread */
        make_tcp(frame, (uint16_t)(20000 + 13 * flow), true, 0);
        assert_int_equal(deliver_frame(&f, &plain, frame, 54, 1), 1);
        for (unsigned pair = 0; pair < PAIRS; pair++)
            seen |= take_rx(&f, pair, hdr, got) == 54 ? 1u << pair : 0;
    }
    assert_int_equal(seen, (1u << PAIRS) - 1);
    n[0] = 2;
    assert_int_equal(control(&f, 4, 0, n, 2), 0);
    for (unsigned flow = 0; flow < 64; flow++) {
        make_tcp(frame, (uint16_t)(5000 + flow), true, 0);
        assert_int_equal(deliver_frame(&f, &plain, frame, 54, 1), 1);
        assert_int_equal(take_rx(&f, 2, hdr, got) + take_rx(&f, 3, hdr, got), 0);
        (void)!(take_rx(&f, 0, hdr, got) + take_rx(&f, 1, hdr, got));
    }
    n[0] = 0;
    assert_int_equal(control(&f, 4, 0, n, 2), 1);
    n[0] = PAIRS + 1;
    assert_int_equal(control(&f, 4, 0, n, 2), 1);
    assert_int_equal(control(&f, 4, 0, n, 1), 1);
    assert_int_equal(control(&f, 4, 1, n, 2), 1);
    end(&f);
    /* Without the feature the control queue is the third. */
    begin(&f, PAIRS, false, F_ALL & ~F_MQ);
    n[0] = 1;
    assert_int_equal(control(&f, 4, 0, n, 2), 1);
    assert_int_equal(control(&f, 0, 0, "\1", 1), 0);
    end(&f);
}

/* ---- filter ---- */

/* Whether a frame to this address comes through. */
static bool passes(struct fixture *f, const char *mac)
{
    uint8_t frame[60] = { 0 }, hdr[12], got[2048];

    memcpy(frame, mac, 6);
    assert_int_equal(deliver_frame(f, &plain, frame, sizeof(frame), 1), 1);
    return take_rx(f, 0, hdr, got) == sizeof(frame);
}

static void test_filter(void **state)
{
    static struct fixture f;
    static uint8_t many[4 + 65 * 6 + 4];

    (void)state;
    begin(&f, 1, false, F_ALL);
    assert_true(passes(&f, "\2\0\0\0\0\1"));
    assert_int_equal(control(&f, 0, 0, "", 1), 0); /* no longer promiscuous */
    assert_false(passes(&f, "\2\0\0\0\0\1"));
    assert_true(passes(&f, (const char *)own_mac));
    assert_true(passes(&f, "\xff\xff\xff\xff\xff\xff"));
    assert_false(passes(&f, "\1\0\x5e\0\0\1"));
    assert_int_equal(control(&f, 1, 0, "\1\0\0\0\2\0\0\0\0\1\1\0\0\0\1\0\x5e\0\0\1", 20), 0);
    assert_true(passes(&f, "\2\0\0\0\0\1"));
    assert_false(passes(&f, "\2\0\0\0\0\2"));
    assert_true(passes(&f, "\1\0\x5e\0\0\1"));
    assert_false(passes(&f, "\1\0\x5e\0\0\2"));
    assert_int_equal(control(&f, 0, 1, "\1", 1), 0); /* all of the groups */
    assert_true(passes(&f, "\1\0\x5e\0\0\2"));
    assert_false(passes(&f, "\2\0\0\0\0\2"));
    assert_int_equal(control(&f, 0, 1, "", 1), 0);
    assert_int_equal(control(&f, 1, 1, "\2\0\0\0\0\2", 6), 0); /* another address of its own */
    assert_true(passes(&f, "\2\0\0\0\0\2"));
    assert_false(passes(&f, (const char *)own_mac));
    store_le32(many, 65); /* more than fit: all unicast passes, groups do not */
    assert_int_equal(control(&f, 1, 0, many, sizeof(many)), 0);
    assert_true(passes(&f, "\2\0\0\0\0\3"));
    assert_false(passes(&f, "\1\0\x5e\0\0\1"));
    assert_int_equal(control(&f, 1, 0, many, sizeof(many) - 4), 1); /* a table is missing */
    assert_int_equal(control(&f, 0, 2, "\1", 1), 1);
    end(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_transmit_offloads),
        cmocka_unit_test(test_not_negotiated),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_transmit_no_room),
        cmocka_unit_test(test_receive_offloads),
        cmocka_unit_test(test_receive_batch),
        cmocka_unit_test(test_link),
        cmocka_unit_test(test_pairs),
        cmocka_unit_test(test_filter),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
