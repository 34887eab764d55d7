/* virtio-vsock between a driver that the test plays and Unix sockets: connections from both sides, credit in both
 * directions, the ends of connections, packets that make no sense, floods without room for answers, resets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bits.h"
#include "base/pack.h"
#include "virtio/vsock.h"
#include "virtio_rig.h"

#define CID 42
#define RX_BUFS 32
#define RX_LEN 4096u
#define RX_AT(i) (0x1000000ULL + (i)*0x2000ULL)
#define TX_AT 0x400000ULL
#define TX_PLACES 128
#define WINDOW (256 * 1024)

enum { REQUEST = 1, RESPONSE = 2, RST = 3, SHUTDOWN = 4, RW = 5, UPDATE = 6, ASK = 7 };

/* The linker sends calls of epoll_ctl here: new descriptors are refused while the flag is set. */
static atomic_bool epoll_refuses;
int __real_epoll_ctl(int epfd, int op, int fd, struct epoll_event *event);
int __wrap_epoll_ctl(int epfd, int op, int fd, struct epoll_event *event);

int __wrap_epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
    if (op == EPOLL_CTL_ADD && atomic_load(&epoll_refuses)) {
        errno = ENOSPC;
        return -1;
    }
    return __real_epoll_ctl(epfd, op, fd, event);
}

struct packet {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port, len;
    uint16_t type, op;
    uint32_t flags, buf_alloc, fwd_cnt;
    uint8_t data[RX_LEN];
};

struct fixture {
    struct rig r;
    struct rig_dev d;
    struct virtio_vsock *v;
    struct drv_queue q[3];
    char dir[64], path[96];
    int listener;
    uint32_t tokens[RX_BUFS];
    unsigned tx_place;
    uint32_t buf_alloc, fwd_cnt; /* what the driver says */
};

static int unix_socket(const char *path, bool listens)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | (listens ? SOCK_NONBLOCK : 0), 0);

    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
    if (listens) {
        assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
        assert_int_equal(listen(fd, 300), 0);
    } else {
        assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    }
    return fd;
}

static void give_rx(struct fixture *f, unsigned i, uint32_t len)
{
    struct drv_buf b = { .gpa = RX_AT(i), .len = len, .in = true };

    f->tokens[i] = i;
    assert_true(drv_add(&f->q[0], &b, 1, false, &f->tokens[i]));
}

static void begin(struct fixture *f, unsigned n_rx, uint32_t rx_len)
{
    struct virtio_vsock_config c = { .guest_cid = CID, .slot = -1 };
    uint64_t at = 0x10000;

    memset(f, 0, sizeof(*f));
    f->buf_alloc = 1 << 20;
    snprintf(f->dir, sizeof(f->dir), "/tmp/test_virtio_vsock.XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->path, sizeof(f->path), "%s/s", f->dir);
    c.listen_fd = unix_socket(f->path, true);
    c.prefix = f->path;
    rig_init(&f->r);
    assert_int_equal(virtio_vsock_new(&f->r.env, &c, &f->v), 0);
    rig_start(&f->r);
    rig_find(&f->r, 1, true, &f->d);
    assert_int_equal(rig_read(&f->r, f->d.config, 8), CID);
    (void)rig_negotiate(&f->d, RIG_F_VERSION_1 | 1);
    for (unsigned i = 0; i < 3; i++) {
        at = align_up(drv_queue_init(&f->q[i], f->r.m, at, 128, false, false), 4096);
        rig_queue(&f->d, i, &f->q[i]);
    }
    rig_driver_ok(&f->d);
    for (unsigned i = 0; i < n_rx; i++)
        give_rx(f, i, rx_len);
    rig_kick(&f->d, 0);
}

static void end(struct fixture *f)
{
    rig_stop(&f->r);
    virtio_vsock_free(f->v);
    rig_done(&f->r);
    unlink(f->path);
    assert_int_equal(rmdir(f->dir), 0);
}

/* ---- the driver ---- */

static void put_header(uint8_t *p, const struct packet *k)
{
    store_le64(p, k->src_cid);
    store_le64(p + 8, k->dst_cid);
    store_le32(p + 16, k->src_port);
    store_le32(p + 20, k->dst_port);
    store_le32(p + 24, k->len);
    store_le16(p + 28, k->type);
    store_le16(p + 30, k->op);
    store_le32(p + 32, k->flags);
    store_le32(p + 36, k->buf_alloc);
    store_le32(p + 40, k->fwd_cnt);
}

/* Offer a packet with its header as given and data bytes behind it; does not wait. */
static void offer(struct fixture *f, const struct packet *k, const void *data, uint32_t len)
{
    uint64_t gpa = TX_AT + f->tx_place++ % TX_PLACES * 0x11000ULL;
    struct drv_buf bufs[2] = { { .gpa = gpa, .len = 44 }, { .gpa = gpa + 44, .len = len } };
    uint8_t *p = mem_ptr(f->r.m, GPA(gpa), 44 + len);

    put_header(p, k);
    if (len > 0)
        memcpy(p + 44, data, len);
    assert_true(drv_add(&f->q[1], bufs, len > 0 ? 2 : 1, false, p));
    rig_kick(&f->d, 1);
}

static struct packet header(struct fixture *f, uint32_t host_port, uint32_t guest_port, uint16_t op)
{
    return (struct packet){ .src_cid = CID,
                            .dst_cid = 2,
                            .src_port = guest_port,
                            .dst_port = host_port,
                            .type = 1,
                            .op = op,
                            .buf_alloc = f->buf_alloc,
                            .fwd_cnt = f->fwd_cnt };
}

static void say(struct fixture *f, uint32_t host_port, uint32_t guest_port, uint16_t op, uint32_t flags,
                const void *data, uint32_t len)
{
    struct packet k = header(f, host_port, guest_port, op);

    k.flags = flags;
    k.len = len;
    offer(f, &k, data, len);
    (void)rig_complete(&f->q[1], NULL);
}

/* The next packet from the device; its buffer goes back. */
static struct packet *hear(struct fixture *f)
{
    static struct packet k;
    uint32_t len, *token = rig_complete(&f->q[0], &len);
    const uint8_t *p = mem_ptr(f->r.m, GPA(RX_AT(*token)), RX_LEN);

    assert_true(len >= 44);
    k = (struct packet){ .src_cid = load_le64(p),
                         .dst_cid = load_le64(p + 8),
                         .src_port = load_le32(p + 16),
                         .dst_port = load_le32(p + 20),
                         .len = load_le32(p + 24),
                         .type = load_le16(p + 28),
                         .op = load_le16(p + 30),
                         .flags = load_le32(p + 32),
                         .buf_alloc = load_le32(p + 36),
                         .fwd_cnt = load_le32(p + 40) };
    assert_int_equal(len, 44 + k.len);
    memcpy(k.data, p + 44, k.len);
    assert_int_equal(k.src_cid, 2);
    assert_int_equal(k.dst_cid, CID);
    assert_int_equal(k.type, 1);
    give_rx(f, *token, RX_LEN);
    rig_kick(&f->d, 0);
    return &k;
}

static struct packet *hear_op(struct fixture *f, uint16_t op)
{
    struct packet *k = hear(f);

    assert_int_equal(k->op, op);
    return k;
}

/* Nothing comes for a moment. */
static void hear_nothing(struct fixture *f)
{
    uint32_t len;

    usleep(20000);
    assert_null(drv_get_used(&f->q[0], &len));
}

/* ---- the host ---- */

static void expect_bytes(int fd, const void *data, size_t len)
{
    uint8_t *got = malloc(len);

    for (size_t n = 0; n < len;) {
        ssize_t r = read(fd, got + n, len - n);

        assert_true(r > 0);
        n += (size_t)r;
    }
    assert_memory_equal(got, data, len);
    free(got);
}

static void expect_end(int fd)
{
    char c;
    ssize_t n = read(fd, &c, 1);

    assert_true(n == 0 || (n < 0 && errno == ECONNRESET));
    close(fd);
}

/* A connection of the host to the guest's port 1024; *ret_port: the host's port. */
static int connected(struct fixture *f, uint32_t *ret_port)
{
    char line[32];
    struct packet *k;
    int fd = unix_socket(f->path, false);

    assert_int_equal(write(fd, "CONNECT 1024\n", 13), 13);
    k = hear_op(f, REQUEST);
    assert_int_equal(k->dst_port, 1024);
    assert_int_equal(k->buf_alloc, WINDOW);
    *ret_port = k->src_port;
    say(f, *ret_port, 1024, RESPONSE, 0, NULL, 0);
    expect_bytes(fd, line, (size_t)snprintf(line, sizeof(line), "OK %u\n", *ret_port));
    return fd;
}

/* ---- tests ---- */

static void test_host_calls(void **state)
{
    static struct fixture f;
    uint32_t port;
    int fd;

    begin(&f, RX_BUFS, RX_LEN);
    fd = connected(&f, &port);
    say(&f, port, 1024, RW, 0, "hello", 5);
    expect_bytes(fd, "hello", 5);
    assert_int_equal(write(fd, "world!", 6), 6);
    assert_memory_equal(hear_op(&f, RW)->data, "world!", 6);
    /* The host has said all; the guest still has something. */
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    assert_int_equal(hear_op(&f, SHUTDOWN)->flags, 2);
    say(&f, port, 1024, RW, 0, "last", 4);
    say(&f, port, 1024, SHUTDOWN, 2, NULL, 0);
    assert_int_equal(hear_op(&f, RST)->src_port, port);
    expect_bytes(fd, "last", 4);
    expect_end(fd);
    /* Nobody listens there. */
    fd = unix_socket(f.path, false);
    assert_int_equal(write(fd, "CONNECT 5\n", 10), 10);
    port = hear_op(&f, REQUEST)->src_port;
    say(&f, port, 5, RST, 0, NULL, 0);
    expect_end(fd);
    /* The caller goes before the guest has answered. */
    fd = unix_socket(f.path, false);
    assert_int_equal(write(fd, "CONNECT 6\n", 10), 10);
    port = hear_op(&f, REQUEST)->src_port;
    close(fd);
    assert_int_equal(hear_op(&f, RST)->src_port, port);
    /* The host closes: the guest is told that nobody hears it either. */
    fd = connected(&f, &port);
    close(fd);
    assert_int_equal(hear_op(&f, SHUTDOWN)->flags, 3);
    say(&f, port, 1024, RST, 0, NULL, 0);
    say(&f, port, 1024, RW, 0, "x", 1); /* is no connection any more */
    (void)hear_op(&f, RST);
    end(&f);
}

static void test_guest_calls(void **state)
{
    static struct fixture f;
    char path[120];
    int listener, fd;

    begin(&f, RX_BUFS, RX_LEN);
    say(&f, 77, 5000, REQUEST, 0, NULL, 0);
    assert_int_equal(hear_op(&f, RST)->dst_port, 5000);
    snprintf(path, sizeof(path), "%s_77", f.path);
    listener = unix_socket(path, true);
    say(&f, 77, 5000, REQUEST, 0, NULL, 0);
    assert_int_equal(hear_op(&f, RESPONSE)->src_port, 77);
    fd = accept(listener, NULL, NULL);
    assert_true(fd >= 0);
    say(&f, 77, 5000, RW, 0, "from the guest", 14);
    expect_bytes(fd, "from the guest", 14);
    assert_int_equal(write(fd, "x", 1), 1);
    assert_int_equal(hear_op(&f, RW)->data[0], 'x');
    say(&f, 77, 5000, SHUTDOWN, 3, NULL, 0);
    (void)hear_op(&f, RST);
    expect_end(fd);
    /* A second call from the same port is another connection; twice at once is an error. */
    say(&f, 77, 5000, REQUEST, 0, NULL, 0);
    (void)hear_op(&f, RESPONSE);
    say(&f, 77, 5000, REQUEST, 0, NULL, 0);
    (void)hear_op(&f, RST);
    close(listener);
    unlink(path);
    end(&f);
}

/* The guest's buffer is respected, and asked about when it is full. */
static void test_credit_of_guest(void **state)
{
    static struct fixture f;
    static uint8_t data[10000];
    uint32_t port, got = 0;
    int fd;

    begin(&f, RX_BUFS, RX_LEN);
    f.buf_alloc = 5000;
    fd = connected(&f, &port);
    for (unsigned i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 7 + i / 256);
    assert_int_equal(write(fd, data, sizeof(data)), sizeof(data));
    while (got < 5000) {
        struct packet *k = hear_op(&f, RW);

        assert_true(got + k->len <= 5000);
        assert_memory_equal(k->data, data + got, k->len);
        got += k->len;
    }
    (void)hear_op(&f, ASK);
    hear_nothing(&f);
    f.fwd_cnt = 1234;
    say(&f, port, 1024, UPDATE, 0, NULL, 0);
    assert_int_equal(hear_op(&f, RW)->len, 1234);
    (void)hear_op(&f, ASK);
    f.fwd_cnt = 0x80000000; /* nonsense: no credit */
    say(&f, port, 1024, UPDATE, 0, NULL, 0);
    f.fwd_cnt = 6234;
    say(&f, port, 1024, UPDATE, 0, NULL, 0);
    for (got = 6234; got < sizeof(data);) {
        struct packet *k = hear(&f);

        if (k->op == ASK)
            continue;
        assert_int_equal(k->op, RW);
        assert_memory_equal(k->data, data + got, k->len);
        got += k->len;
    }
    close(fd);
    end(&f);
}

/* A host that does not read: the guest may send as much as it was promised, and no more. */
static void test_credit_of_host(void **state)
{
    static struct fixture f;
    static uint8_t data[60000];
    uint32_t port, sent = 0, fwd;
    size_t total = 0;
    int fd;

    begin(&f, RX_BUFS, RX_LEN);
    fd = connected(&f, &port);
    /* Until the socket is full no credit is used up for long. */
    for (fwd = 0; sent - fwd + sizeof(data) <= WINDOW; sent += (uint32_t)sizeof(data)) {
        for (unsigned i = 0; i < sizeof(data); i++)
            data[i] = (uint8_t)((sent + i) * 3 + (sent + i) / 256);
        say(&f, port, 1024, RW, 0, data, sizeof(data));
        say(&f, port, 1024, ASK, 0, NULL, 0);
        fwd = hear_op(&f, UPDATE)->fwd_cnt;
    }
    assert_true(sent > WINDOW);
    while (total < sent / 2) { /* now it reads, and the guest hears of that */
        ssize_t n = read(fd, data, sizeof(data));

        assert_true(n > 0);
        for (ssize_t i = 0; i < n; i++)
            assert_int_equal(data[i], (uint8_t)((total + (size_t)i) * 3 + (total + (size_t)i) / 256));
        total += (size_t)n;
    }
    assert_true(hear_op(&f, UPDATE)->fwd_cnt > fwd);
    /* Fill it again, and go beyond. */
    memset(data, 0, sizeof(data));
    for (unsigned i = 0; i < 40; i++)
        say(&f, port, 1024, RW, 0, data, sizeof(data));
    while (hear(&f)->op != RST)
        ;
    close(fd);
    end(&f);
}

static bool tx_done(void *opaque)
{
    uint32_t len;

    return drv_get_used(opaque, &len) != NULL;
}

/* Packets for nobody, while there is no room for answers: they are bounded, and the queue goes on when there is room.
 */
static void test_flood(void **state)
{
    static struct fixture f;
    unsigned sent = 0, heard = 0;
    uint32_t len;

    begin(&f, 0, RX_LEN);
    for (unsigned i = 0; i < 1000; i++) {
        struct packet k = header(&f, 1, i, RW);

        offer(&f, &k, NULL, 0);
        sent++;
        for (unsigned wait = 0; wait < 50 && !tx_done(&f.q[1]); wait++)
            usleep(200);
        if (f.q[1].n_free < 4)
            break;
    }
    assert_true(sent > 200 && sent < 700); /* the queue stands still */
    for (unsigned i = 0; i < RX_BUFS; i++)
        give_rx(&f, i, RX_LEN);
    rig_kick(&f.d, 0);
    for (; heard < sent; heard++)
        assert_int_equal(hear_op(&f, RST)->dst_port, heard);
    while (drv_get_used(&f.q[1], &len))
        ;
    assert_int_equal(rig_status(&f.d), 15);
    end(&f);
}

static void test_nonsense(void **state)
{
    static struct fixture f;
    struct packet k;
    uint32_t port;
    uint64_t seed = 3;
    int fd;

    begin(&f, RX_BUFS, RX_LEN);
    /* Of others, for others: nothing. */
    k = header(&f, 1, 1, REQUEST);
    k.src_cid = CID + 1;
    offer(&f, &k, NULL, 0);
    k.src_cid = CID;
    k.dst_cid = 1;
    offer(&f, &k, NULL, 0);
    hear_nothing(&f);
    /* What is not a stream, and what is no operation: reset. */
    k.dst_cid = 2;
    k.type = 2;
    offer(&f, &k, NULL, 0);
    (void)hear_op(&f, RST);
    fd = connected(&f, &port);
    say(&f, port, 1024, 99, 0, NULL, 0);
    (void)hear_op(&f, RST);
    expect_end(fd);
    fd = connected(&f, &port);
    k = header(&f, port, 1024, RW);
    k.len = 100; /* and has 5 */
    offer(&f, &k, "hello", 5);
    (void)hear_op(&f, RST);
    /* Anything at all, and then a connection works still. */
    for (unsigned i = 0; i < 3000; i++) {
        uint32_t len;

        seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
        k = header(&f, seed >> 63 ? port : 77, seed >> 62 & 1 ? 1024 : 5, (uint16_t)(seed >> 33) % 9);
        k.flags = (uint32_t)(seed >> 40) & 3;
        k.len = (uint32_t)(seed >> 44) % 100;
        k.buf_alloc = (uint32_t)seed;
        k.fwd_cnt = (uint32_t)(seed >> 20);
        offer(&f, &k, "0123456789", (uint32_t)(seed >> 50) % 11);
        rig_wait(tx_done, &f.q[1]);
        while (drv_get_used(&f.q[1], &len))
            ;
        while (f.q[0].n_free > RX_BUFS && drv_get_used(&f.q[0], &len))
            ;
        for (unsigned n = 0; n < RX_BUFS && f.q[0].n_free > 128 - RX_BUFS; n++)
            give_rx(&f, n, RX_LEN);
        rig_kick(&f.d, 0);
    }
    close(fd);
    assert_int_equal(rig_status(&f.d), 15);
    end(&f);
}

static bool needs_reset(void *opaque)
{
    return rig_status(opaque) & 64;
}

static void test_short_buffers(void **state)
{
    static struct fixture f;
    int fd;

    begin(&f, 4, 44);
    fd = unix_socket(f.path, false);
    assert_int_equal(write(fd, "CONNECT 1024\n", 13), 13);
    rig_wait(needs_reset, &f.d);
    rig_reset(&f.d);
    expect_end(fd); /* the connection is gone with the driver that was */
    fd = unix_socket(f.path, false);
    assert_int_equal(write(fd, "CONNECT 1024\n", 13), 13);
    expect_end(fd); /* nobody serves it */
    end(&f);
}

/* A socket that cannot be watched: the guest's connection is reset, and later ones work. */
static void test_unwatched(void **state)
{
    static struct fixture f;
    char path[120];
    int listener;

    begin(&f, RX_BUFS, RX_LEN);
    snprintf(path, sizeof(path), "%s_77", f.path);
    listener = unix_socket(path, true);
    atomic_store(&epoll_refuses, true);
    say(&f, 77, 5000, REQUEST, 0, NULL, 0);
    assert_int_equal(hear_op(&f, RST)->dst_port, 5000);
    atomic_store(&epoll_refuses, false);
    say(&f, 77, 5001, REQUEST, 0, NULL, 0);
    assert_int_equal(hear_op(&f, RESPONSE)->dst_port, 5001);
    close(listener);
    unlink(path);
    end(&f);
}

static void test_callers(void **state)
{
    static const char *const lines[] = { "CONNECT\n",
                                         "CONNECT \n",
                                         "CONNECT -1\n",
                                         "CONNECT 4294967296\n",
                                         "\n",
                                         "GET / HTTP/1.1\r\n",
                                         "CONNECT 11111111111111111111111111111111" };
    static struct fixture f;
    int fds[VIRTIO_VSOCK_CONNS_MAX + 1];
    uint32_t port;

    begin(&f, RX_BUFS, RX_LEN);
    for (unsigned i = 0; i < ARRAY_SIZE(lines); i++) {
        fds[0] = unix_socket(f.path, false);
        assert_true(write(fds[0], lines[i], strlen(lines[i])) > 0);
        expect_end(fds[0]);
    }
    fds[0] = unix_socket(f.path, false);
    close(fds[0]);
    /* A line in pieces, with the first bytes for the guest behind it. */
    fds[0] = unix_socket(f.path, false);
    assert_int_equal(write(fds[0], "CONN", 4), 4);
    usleep(1000);
    assert_int_equal(write(fds[0], "ECT 1024\nearly", 14), 14);
    port = hear_op(&f, REQUEST)->src_port;
    say(&f, port, 1024, RESPONSE, 0, NULL, 0);
    assert_memory_equal(hear_op(&f, RW)->data, "early", 5);
    close(fds[0]);
    (void)hear_op(&f, SHUTDOWN);
    say(&f, port, 1024, RST, 0, NULL, 0);
    /* So many and no more. */
    for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
        fds[i] = unix_socket(f.path, false);
    expect_end(fds[VIRTIO_VSOCK_CONNS_MAX]);
    for (unsigned i = 0; i < VIRTIO_VSOCK_CONNS_MAX; i++)
        close(fds[i]);
    end(&f);
}

static void hold_and_save(struct fixture *f, struct buf *out)
{
    rig_stop(&f->r);
    virtio_vsock_hold(f->v, true);
    buf_init(out, 1 << 20);
    virtio_vsock_save(f->v, out);
    assert_int_equal(buf_error(out), 0);
}

/* The driver of a restored guest hears that its connections are gone. */
static void test_restored(void **state)
{
    static struct fixture a, b;
    struct drv_buf event = { .gpa = 0x700000, .len = 4, .in = true };
    struct unpack in;
    struct buf out;
    uint32_t port, len;
    int fd;

    begin(&a, RX_BUFS, RX_LEN);
    fd = connected(&a, &port);
    hold_and_save(&a, &out);
    rig_init(&b.r);
    assert_int_equal(
        virtio_vsock_new(&b.r.env, &(struct virtio_vsock_config){ .guest_cid = 7, .listen_fd = -1, .slot = -1 }, &b.v),
        0);
    memcpy(mem_ptr(b.r.m, GPA(0), RIG_RAM), mem_ptr(a.r.m, GPA(0), RIG_RAM), RIG_RAM);
    rig_find(&b.r, 1, true, &b.d);
    memcpy(b.q, a.q, sizeof(b.q));
    for (unsigned i = 0; i < 3; i++)
        b.q[i].m = b.r.m;
    unpack_init(&in, out.data, out.len);
    assert_int_equal(virtio_vsock_restore(b.v, VIRTIO_VSOCK_STATE_VERSION, &in), 0);
    virtio_vsock_hold(b.v, false);
    rig_start(&b.r);
    assert_int_equal(rig_read(&b.r, b.d.config, 8), 7); /* its address is the new machine's */
    memset(mem_ptr(b.r.m, GPA(event.gpa), 4), 0xff, 4);
    assert_true(drv_add(&b.q[2], &event, 1, false, &b));
    rig_kick(&b.d, 2);
    assert_ptr_equal(rig_complete(&b.q[2], &len), &b);
    assert_int_equal(len, 4);
    assert_int_equal(load_le32(mem_ptr(b.r.m, GPA(event.gpa), 4)), 0);
    rig_stop(&b.r);
    virtio_vsock_free(b.v);
    rig_done(&b.r);
    buf_done(&out);
    close(fd);
    end(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_host_calls),      cmocka_unit_test(test_guest_calls),
        cmocka_unit_test(test_credit_of_guest), cmocka_unit_test(test_credit_of_host),
        cmocka_unit_test(test_flood),           cmocka_unit_test(test_nonsense),
        cmocka_unit_test(test_short_buffers),   cmocka_unit_test(test_callers),
        cmocka_unit_test(test_restored),        cmocka_unit_test(test_unwatched),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
