/* virtio-net on the user-mode network, seen from a guest that is a few lines of ARP, DHCP, UDP and TCP: an address by
 * DHCP, echoes from the host's loopback, a bulk download through small receive buffers that come late, and a forwarded
 * port. Checksums of what the guest sends are left to the device where that is negotiated; libslirp drops what is
 * wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bits.h"
#include "net/user.h"
#include "virtio/net.h"
#include "virtio_rig.h"

#define F_CSUM 1ULL
#define F_MRG (1ULL << 15)
#define F_CTRL (1ULL << 17)
#define F_ALL 0xffffffULL

#define RX_BUFS 64
#define RX_BASE 0x800000ULL
#define TX_BASE 0x400000ULL
#define CTRL_BASE 0x500000ULL
#define MAX_FRAME 66000

#define GUEST_IP 0x0a00020f
#define HOST_IP 0x0a000202

static const uint8_t guest_mac[6] = { 0x52, 0x54, 0, 1, 2, 3 };

struct fixture {
    struct rig r;
    struct rig_dev d;
    struct net_backend *backend;
    struct virtio_net *net;
    struct drv_queue rx, tx, ctrl;
    uint64_t features;
    uint32_t rx_len; /* bytes of a receive buffer */
    uint32_t rx_tokens[RX_BUFS];
    unsigned held[RX_BUFS], n_held; /* buffers not given back yet */
    bool hold;
    uint8_t frame[MAX_FRAME]; /* the last frame received */
    size_t frame_len;
    uint8_t peer_mac[6];
    uint16_t ip_id;
};

static void give_rx(struct fixture *f, unsigned i)
{
    struct drv_buf b = { .gpa = RX_BASE + i * 0x11000ULL, .len = f->rx_len, .in = true };

    f->rx_tokens[i] = i;
    assert_true(drv_add(&f->rx, &b, 1, false, &f->rx_tokens[i]));
}

static void kick_rx(struct fixture *f)
{
    if (drv_should_kick(&f->rx))
        rig_kick(&f->d, 0);
}

static void release_rx(struct fixture *f)
{
    while (f->n_held > 0)
        give_rx(f, f->held[--f->n_held]);
    kick_rx(f);
}

static void attach(struct fixture *f, uint64_t features, uint32_t rx_len)
{
    uint64_t at = 0x10000;
    bool packed;

    f->features = rig_negotiate(&f->d, features | RIG_F_VERSION_1);
    packed = f->features & RIG_F_PACKED;
    f->rx_len = rx_len;
    at = align_up(drv_queue_init(&f->rx, f->r.m, at, 64, packed, f->features & RIG_F_EVENT_IDX), 4096);
    at = align_up(drv_queue_init(&f->tx, f->r.m, at, 64, packed, f->features & RIG_F_EVENT_IDX), 4096);
    (void)drv_queue_init(&f->ctrl, f->r.m, at, 64, packed, f->features & RIG_F_EVENT_IDX);
    rig_queue(&f->d, 0, &f->rx);
    rig_queue(&f->d, 1, &f->tx);
    rig_queue(&f->d, 2, &f->ctrl);
    rig_driver_ok(&f->d);
    f->n_held = 0;
    for (unsigned i = 0; i < RX_BUFS; i++)
        give_rx(f, i);
    kick_rx(f);
}

static void begin(struct fixture *f, struct net_user_config user, uint64_t features, uint32_t rx_len)
{
    struct virtio_net_config c = { .slot = -1 };
    int forward;

    memset(f, 0, sizeof(*f));
    rig_init(&f->r);
    assert_int_equal(net_user_new(&user, f->r.loop, &forward, &f->backend), 0);
    c.backend = f->backend;
    memcpy(c.mac, guest_mac, 6);
    assert_int_equal(virtio_net_new(&f->r.env, &c, &f->net), 0);
    rig_start(&f->r);
    rig_find(&f->r, 1, true, &f->d);
    attach(f, features, rx_len);
}

static void end(struct fixture *f)
{
    assert_int_equal(rig_status(&f->d), 15);
    rig_stop(&f->r);
    virtio_net_free(f->net);
    net_backend_close(f->backend);
    rig_done(&f->r);
}

/* ---- frames ---- */

static void be16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static void be32(uint8_t *p, uint32_t v)
{
    be16(p, (uint16_t)(v >> 16));
    be16(p + 2, (uint16_t)v);
}

static uint16_t rd16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t rd32(const uint8_t *p)
{
    return (uint32_t)rd16(p) << 16 | rd16(p + 2);
}

static uint32_t sum16(const uint8_t *p, size_t n, uint32_t sum)
{
    for (size_t i = 0; i < n; i++)
        sum += (i & 1) ? p[i] : (uint32_t)p[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

/* Send frame (with room for the virtio header before it) as two pieces. csum_off > 0: at that offset from csum_start
 * lies the sum of the pseudo header, and the device does the rest. */
static void send_frame(struct fixture *f, const uint8_t *frame, size_t len, uint16_t csum_start, uint16_t csum_off)
{
    struct drv_buf bufs[2] = { { .gpa = TX_BASE, .len = 12 + 20 }, { .gpa = TX_BASE + 32, .len = (uint32_t)len - 20 } };
    uint8_t *to = mem_ptr(f->r.m, GPA(TX_BASE), 12 + len);

    memset(to, 0, 12);
    memcpy(to + 12, frame, len);
    if (csum_off) {
        to[0] = 1;
        store_le16(to + 6, csum_start);
        store_le16(to + 8, csum_off);
    }
    assert_true(drv_add(&f->tx, bufs, 2, false, f));
    if (drv_should_kick(&f->tx))
        rig_kick(&f->d, 1);
    assert_ptr_equal(rig_complete(&f->tx, NULL), f);
}

/* Take one frame that has arrived; false: none. */
static bool take_frame(struct fixture *f)
{
    uint32_t len, *token = drv_get_used(&f->rx, &len);
    const uint8_t *data;
    unsigned count;

    if (!token)
        return false;
    data = mem_ptr(f->r.m, GPA(RX_BASE + *token * 0x11000ULL), len);
    count = load_le16(data + 10);
    assert_true(count >= 1 && (count == 1 || f->features & F_MRG));
    f->frame_len = len - 12;
    memcpy(f->frame, data + 12, f->frame_len);
    f->held[f->n_held++] = *token;
    while (--count > 0) {
        token = drv_get_used(&f->rx, &len);
        assert_non_null(token); /* all at once */
        memcpy(f->frame + f->frame_len, mem_ptr(f->r.m, GPA(RX_BASE + *token * 0x11000ULL), len), len);
        f->frame_len += len;
        f->held[f->n_held++] = *token;
    }
    if (!f->hold || f->n_held > RX_BUFS / 2)
        release_rx(f);
    return true;
}

static void put_ip(struct fixture *f, uint8_t *frame, uint8_t proto, uint32_t src, uint32_t dst, size_t payload)
{
    uint8_t *ip = frame + 14;

    memcpy(frame, f->peer_mac, 6);
    memcpy(frame + 6, guest_mac, 6);
    be16(frame + 12, 0x0800);
    memset(ip, 0, 20);
    ip[0] = 0x45;
    be16(ip + 2, (uint16_t)(20 + payload));
    be16(ip + 4, f->ip_id++);
    ip[8] = 64;
    ip[9] = proto;
    be32(ip + 12, src);
    be32(ip + 16, dst);
    be16(ip + 10, (uint16_t)~sum16(ip, 20, 0));
}

static void send_ip(struct fixture *f, uint8_t *frame, uint8_t proto, uint32_t src, uint32_t dst, size_t payload)
{
    uint8_t *l4 = frame + 34;
    uint16_t off = proto == 17 ? 6 : 16;
    uint8_t pseudo[12];

    put_ip(f, frame, proto, src, dst, payload);
    be32(pseudo, src);
    be32(pseudo + 4, dst);
    be16(pseudo + 8, proto);
    be16(pseudo + 10, (uint16_t)payload);
    be16(l4 + off, (uint16_t)sum16(pseudo, 12, 0));
    if (!(f->features & F_CSUM)) {
        be16(l4 + off, (uint16_t)~sum16(l4, payload, 0));
        off = 0;
    }
    send_frame(f, frame, 34 + payload, 34, off);
}

static void send_udp(struct fixture *f, uint32_t src, uint32_t dst, uint16_t sport, uint16_t dport, const void *data,
                     size_t len)
{
    uint8_t frame[2048];

    be16(frame + 34, sport);
    be16(frame + 36, dport);
    be16(frame + 38, (uint16_t)(8 + len));
    memcpy(frame + 42, data, len);
    send_ip(f, frame, 17, src, dst, 8 + len);
}

static bool take_any(void *opaque)
{
    return take_frame(opaque);
}

/* The next frame of protocol proto to local port; answers ARP meanwhile. Its layer-4 header is at frame + 34. */
static uint8_t *expect_ip(struct fixture *f, uint8_t proto, uint16_t port)
{
    for (;;) {
        uint8_t *p = f->frame;

        rig_wait(take_any, f);
        if (rd16(p + 12) == 0x0806 && rd16(p + 20) == 1) {
            uint8_t reply[60] = { 0 };

            memcpy(reply, p + 6, 6);
            memcpy(reply + 6, guest_mac, 6);
            memcpy(reply + 12, p + 12, 10);
            be16(reply + 20, 2);
            memcpy(reply + 22, guest_mac, 6);
            be32(reply + 28, GUEST_IP);
            memcpy(reply + 32, p + 22, 10);
            send_frame(f, reply, 60, 0, 0);
        } else if (rd16(p + 12) == 0x0800 && p[23] == proto && rd16(p + 36) == port) {
            return p + 34;
        }
    }
}

/* ---- protocols ---- */

static uint8_t dhcp_exchange(struct fixture *f, uint8_t type, uint32_t *ret_addr)
{
    uint8_t msg[300] = { 1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef }, *reply;

    memcpy(msg + 28, guest_mac, 6);
    be32(msg + 236, 0x63825363);
    msg[240] = 53;
    msg[241] = 1;
    msg[242] = type;
    msg[243] = 50; /* requested address */
    msg[244] = 4;
    be32(msg + 245, GUEST_IP);
    msg[249] = 255;
    memset(f->peer_mac, 0xff, 6);
    send_udp(f, 0, 0xffffffff, 68, 67, msg, sizeof(msg));
    reply = expect_ip(f, 17, 68) + 8;
    memcpy(f->peer_mac, f->frame + 6, 6);
    *ret_addr = rd32(reply + 16);
    assert_int_equal(rd32(reply + 236), 0x63825363);
    assert_int_equal(reply[240], 53);
    return reply[242];
}

static void dhcp(struct fixture *f)
{
    uint32_t addr;

    assert_int_equal(dhcp_exchange(f, 1, &addr), 2); /* discover -> offer */
    assert_int_equal(addr, GUEST_IP);
    assert_int_equal(dhcp_exchange(f, 3, &addr), 5); /* request -> ack */
    assert_int_equal(addr, GUEST_IP);
}

struct tcp {
    uint16_t port, peer_port;
    uint32_t snd, rcv; /* next sequence numbers */
};

enum { FIN = 1, SYN = 2, PSH = 8, ACK = 16 };

static void tcp_send(struct fixture *f, struct tcp *t, uint8_t flags, const void *data, size_t len)
{
    static uint8_t frame[20000];
    uint8_t *h = frame + 34;

    memset(h, 0, 20);
    be16(h, t->port);
    be16(h + 2, t->peer_port);
    be32(h + 4, t->snd);
    be32(h + 8, t->rcv);
    h[12] = 5 << 4;
    h[13] = flags;
    be16(h + 14, 30000);
    memcpy(h + 20, data, len);
    send_ip(f, frame, 6, GUEST_IP, HOST_IP, 20 + len);
    t->snd += (uint32_t)len + !!(flags & (SYN | FIN));
}

/* Take data until n bytes have come (all in order: there is no wire that could reorder). */
static void tcp_receive(struct fixture *f, struct tcp *t, uint8_t *data, size_t n)
{
    size_t done = 0;

    while (done < n) {
        uint8_t *h = expect_ip(f, 6, t->port);
        size_t head = (size_t)(h[12] >> 4) * 4, len = rd16(h - 18) - 20u - head;

        if (len == 0)
            continue;
        if (rd32(h + 4) == t->rcv) {
            assert_true(done + len <= n);
            memcpy(data + done, h + head, len);
            done += len;
            t->rcv += (uint32_t)len;
        }
        tcp_send(f, t, ACK, "", 0);
    }
}

static void tcp_connect(struct fixture *f, struct tcp *t)
{
    uint8_t *h;

    tcp_send(f, t, SYN, "", 0);
    h = expect_ip(f, 6, t->port);
    assert_int_equal(h[13] & (SYN | ACK), SYN | ACK);
    t->rcv = rd32(h + 4) + 1;
    tcp_send(f, t, ACK, "", 0);
}

/* ---- the host's end ---- */

static int host_socket(int type, uint16_t *ret_port)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof(a);
    int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);

    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    if (type == SOCK_STREAM)
        assert_int_equal(listen(fd, 4), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
    *ret_port = ntohs(a.sin_port);
    return fd;
}

static void udp_echo(struct fixture *f)
{
    struct sockaddr_in from;
    socklen_t from_len = sizeof(from);
    uint16_t port;
    int fd = host_socket(SOCK_DGRAM, &port);
    char got[64];
    uint8_t *h;

    send_udp(f, GUEST_IP, HOST_IP, 4000, port, "over", 5); /* an odd length */
    assert_int_equal(recvfrom(fd, got, sizeof(got), 0, (struct sockaddr *)&from, &from_len), 5);
    assert_string_equal(got, "over");
    assert_int_equal(sendto(fd, "back again", 11, 0, (struct sockaddr *)&from, from_len), 11);
    h = expect_ip(f, 17, 4000);
    assert_string_equal((char *)h + 8, "back again");
    close(fd);
}

#define BULK 300000u

static void tcp_download(struct fixture *f)
{
    uint8_t *sent = malloc(BULK), *got = malloc(BULK);
    struct tcp t = { .port = 5000, .snd = 1000 };
    int fd = host_socket(SOCK_STREAM, &t.peer_port), conn;
    char text[8];
    size_t done = 0;

    for (unsigned i = 0; i < BULK; i++)
        sent[i] = (uint8_t)(i * 7 + i / 251);
    tcp_connect(f, &t);
    conn = accept(fd, NULL, NULL);
    assert_true(conn >= 0);
    tcp_send(f, &t, ACK | PSH, "GET /\n", 6);
    assert_int_equal(recv(conn, text, 6, MSG_WAITALL), 6);
    assert_memory_equal(text, "GET /\n", 6);
    f->hold = true; /* buffers come back late and in lumps */
    for (size_t part = 0; done < BULK; done += part) {
        part = MIN(BULK - done, (size_t)20000);
        assert_int_equal(send(conn, sent + done, part, 0), part);
        tcp_receive(f, &t, got + done, part);
    }
    f->hold = false;
    release_rx(f);
    assert_memory_equal(sent, got, BULK);
    close(conn);
    close(fd);
    free(sent);
    free(got);
}

static void whole_story(uint64_t features, uint32_t rx_len, unsigned mtu)
{
    static struct fixture f;

    begin(&f, (struct net_user_config){ .mtu = mtu }, features, rx_len);
    assert_int_equal(rig_read(&f.r, f.d.config + 10, 2), mtu ? mtu : NET_USER_MTU);
    assert_int_equal(rig_read(&f.r, f.d.config, 1), 0x52);
    dhcp(&f);
    udp_echo(&f);
    tcp_download(&f);
    end(&f);
}

static void test_merged_small_buffers(void **state)
{
    (void)state;
    whole_story(F_ALL, 700, 1500);
}

static void test_merged_packed_large_mtu(void **state)
{
    (void)state;
    whole_story(F_ALL | RIG_F_PACKED | RIG_F_EVENT_IDX, 2048, 0);
}

static void test_plain(void **state)
{
    (void)state;
    whole_story(1ULL << 5 | RIG_F_EVENT_IDX, 1526, 1500); /* no checksums, no merging */
}

static void test_forward(void **state)
{
    static struct fixture f;
    struct net_user_forward forward = { .host_addr.s_addr = htonl(INADDR_LOOPBACK), .guest_port = 80 };
    struct net_user_config user = { .forwards = &forward, .n_forwards = 1 };
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct net_backend *other;
    struct tcp t = { .port = 80, .snd = 77 };
    int fd = host_socket(SOCK_STREAM, &forward.host_port), which;
    uint8_t got[8], *h;

    (void)state;
    rig_init(&f.r);
    assert_int_equal(net_user_new(&user, f.r.loop, &which, &other), -EADDRINUSE);
    assert_int_equal(which, 0);
    rig_done(&f.r);
    close(fd);

    begin(&f, user, F_ALL, 2048);
    dhcp(&f);
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    a.sin_port = htons(forward.host_port);
    assert_true(connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0 || errno == EINPROGRESS);
    h = expect_ip(&f, 6, 80);
    assert_int_equal(h[13] & (SYN | ACK), SYN);
    t.peer_port = rd16(h);
    t.rcv = rd32(h + 4) + 1;
    tcp_send(&f, &t, SYN | ACK, "", 0);
    assert_int_equal(send(fd, "hello", 5, 0), 5);
    tcp_receive(&f, &t, got, 5);
    assert_memory_equal(got, "hello", 5);
    close(fd);
    end(&f);
}

static void test_forward_udp(void **state)
{
    static struct fixture f;
    struct net_user_forward forward = { .udp = true, .host_addr.s_addr = htonl(INADDR_LOOPBACK), .guest_port = 53 };
    struct net_user_config user = { .forwards = &forward, .n_forwards = 1 };
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    uint16_t own_port;
    int fd = host_socket(SOCK_DGRAM, &forward.host_port);
    char got[8] = "";
    uint8_t *h;

    (void)state;
    close(fd); /* its port is free again */
    begin(&f, user, F_ALL | RIG_F_PACKED, 2048);
    dhcp(&f);
    fd = host_socket(SOCK_DGRAM, &own_port);
    a.sin_port = htons(forward.host_port);
    assert_int_equal(sendto(fd, "ask", 4, 0, (struct sockaddr *)&a, sizeof(a)), 4);
    h = expect_ip(&f, 17, 53);
    assert_string_equal((char *)h + 8, "ask");
    send_udp(&f, GUEST_IP, rd32(h - 8), 53, rd16(h), "told", 5);
    assert_int_equal(recv(fd, got, sizeof(got), 0), 5);
    assert_string_equal(got, "told");
    close(fd);
    end(&f);
}

static uint8_t control(struct fixture *f, uint8_t class, uint8_t cmd, const void *data, uint32_t len)
{
    struct drv_buf bufs[2] = { { .gpa = CTRL_BASE, .len = 2 + len },
                               { .gpa = CTRL_BASE + 0x1000, .len = 1, .in = true } };
    uint8_t *p = mem_ptr(f->r.m, GPA(CTRL_BASE), 0x1001);

    p[0] = class;
    p[1] = cmd;
    memcpy(p + 2, data, len);
    p[0x1000] = 0xee;
    assert_true(drv_add(&f->ctrl, bufs, 2, false, f));
    if (drv_should_kick(&f->ctrl))
        rig_kick(&f->d, 2);
    assert_ptr_equal(rig_complete(&f->ctrl, NULL), f);
    return p[0x1000];
}

static void test_control(void **state)
{
    static struct fixture f;

    (void)state;
    begin(&f, (struct net_user_config){ 0 }, F_ALL, 2048);
    assert_int_equal(control(&f, 0, 0, "\1", 1), 0);
    assert_int_equal(control(&f, 0, 0, "", 0), 1);
    assert_int_equal(control(&f, 1, 1, "\2\0\0\0\0\1", 6), 0);
    assert_int_equal(rig_read(&f.r, f.d.config, 1), 2);
    assert_int_equal(control(&f, 1, 1, "\1\0\0\0\0\1", 6), 1); /* a group address */
    assert_int_equal(control(&f, 1, 0, "\0\0\0\0\1\0\0\0\1\2\3\4\5\6", 14), 0);
    assert_int_equal(control(&f, 1, 0, "\0\0\0\0\2\0\0\0\1\2\3\4\5\6", 14), 1);
    assert_int_equal(control(&f, 1, 0, "\xff\xff\xff\xff\0\0\0\0", 8), 1);
    assert_int_equal(control(&f, 9, 0, "", 0), 1);
    end(&f);
}

/* Frames that no driver should send are dropped, and the device goes on. */
static void test_malformed(void **state)
{
    static struct fixture f;
    static const struct {
        uint32_t len;
        uint8_t flags, gso;
        uint16_t start, off;
    } cases[] = {
        { 0, 0, 0, 0, 0 },     { 11, 0, 0, 0, 0 },   { 12, 0, 0, 0, 0 },
        { 25, 0, 0, 0, 0 },    { 100, 0, 1, 0, 0 },  { 100, 1, 0, 0xffff, 0xffff },
        { 100, 1, 0, 87, 0 },  { 100, 1, 0, 80, 7 }, { 100, 1, 0, 34, 0xfffe },
        { 70000, 0, 0, 0, 0 },
    };

    (void)state;
    begin(&f, (struct net_user_config){ 0 }, F_ALL, 2048);
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct drv_buf b = { .gpa = TX_BASE, .len = cases[i].len };
        uint8_t *p = mem_ptr(f.r.m, GPA(TX_BASE), 12);

        memset(p, 0, 12);
        p[0] = cases[i].flags;
        p[1] = cases[i].gso;
        store_le16(p + 6, cases[i].start);
        store_le16(p + 8, cases[i].off);
        assert_true(drv_add(&f.tx, &b, 1, false, &f));
        if (drv_should_kick(&f.tx))
            rig_kick(&f.d, 1);
        assert_ptr_equal(rig_complete(&f.tx, NULL), &f);
    }
    dhcp(&f);
    rig_reset(&f.d);
    attach(&f, F_ALL, 2048);
    dhcp(&f);
    end(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merged_small_buffers),
        cmocka_unit_test(test_merged_packed_large_mtu),
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_forward),
        cmocka_unit_test(test_forward_udp),
        cmocka_unit_test(test_control),
        cmocka_unit_test(test_malformed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
