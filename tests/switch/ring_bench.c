/* How much goes through a switch: two ports of a running caisson-switch, one that sends as fast as it can, one that
 * counts; each in a thread of its own, as two VMs would be. As one line of JSON:
 *
 *     ring_bench SOCKET FRAME_BYTES FRAMES
 *
 * Frames beyond 1514 bytes go as TCP segments to be cut (GSO), which the switch passes on as they are. */
#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/num.h"
#include "net/backend.h"
#include "net/ring.h"
#include "proto/net_msg.h"
#include "sys/loop.h"

#define BATCH 64

struct bench_port {
    pthread_t thread;
    struct loop *loop;
    struct net_backend *b;
    struct loop_timer *again;
    uint8_t frame[NET_FRAME_MAX];
    size_t len;
    struct net_hdr hdr;
    uint64_t wanted, done; /* frames to send; sent or received */
    uint64_t bytes;
};

static void bench_attach(int sock, struct bench_port *p, unsigned number)
{
    struct net_msg_request r = { .op = NET_MSG_ATTACH, .attach = { .nic = number, .no_filter = true } };
    struct net_ring_config c = { .side = NET_RING_VM, .mtu = 1500 };
    struct json_object *reply = NULL;
    struct err e = { 0 };
    int fds[NET_MSG_FDS_MAX];
    unsigned n = 0;

    memcpy(r.attach.vm, "bench", 6);
    memcpy(r.attach.mac, (uint8_t[]){ 0x52, 0x54, 0, 0, 9, (uint8_t)number }, 6);
    if (net_msg_call(sock, "bench", &r, NULL, 0, 10000, &reply, fds, &n, &e) < 0) {
        fprintf(stderr, "ring_bench: %s\n", e.text);
        exit(1);
    }
    json_object_put(reply);
    CHECK(n == NET_RING_FDS);
    c.fds = (struct net_ring_fds){ fds[0], fds[1], fds[2] };
    CHECK(loop_new(&p->loop) == 0 && net_ring_backend_new(&c, p->loop, &p->b) == 0);
}

static bool bench_receive(void *opaque, const struct net_hdr *hdr, const uint8_t *frame, size_t len)
{
    struct bench_port *p = opaque;

    if (load_be16(frame + 12) == 0x88b6) { /* the end */
        loop_stop(p->loop, 0);
        return true;
    }
    p->done++;
    p->bytes += len;
    return true;
}

/* A whole batch, then the loop again. */
static void bench_send(void *opaque)
{
    struct bench_port *p = opaque;
    struct iovec iov = { p->frame, p->len };
    bool room = true;

    for (unsigned i = 0; i < BATCH && p->done < p->wanted && room; i++) {
        room = net_backend_send(p->b, &p->hdr, &iov, 1, p->len);
        p->done += room;
    }
    if (room && p->done == p->wanted) {
        static const struct net_hdr plain;

        store_be16(p->frame + 12, 0x88b6);
        iov.iov_len = 60;
        room = net_backend_send(p->b, &plain, &iov, 1, 60);
        net_backend_send_done(p->b);
        if (room)
            loop_stop(p->loop, 0);
        else
            store_be16(p->frame + 12, 0x0800);
        return;
    }
    net_backend_send_done(p->b);
    if (room)
        loop_timer_set(p->again, 1);
}

static void *bench_run(void *opaque)
{
    struct bench_port *p = opaque;

    CHECK(loop_run(p->loop) == 0);
    return NULL;
}

/* An IPv4 and TCP header, enough for what is checked on the way. */
static void bench_make_frame(struct bench_port *p, size_t len)
{
    uint8_t *f = p->frame;

    p->len = len;
    memcpy(f, (uint8_t[]){ 0x52, 0x54, 0, 0, 9, 1, 0x52, 0x54, 0, 0, 9, 0, 8, 0, 0x45 }, 15);
    store_be16(f + 16, (uint16_t)(len - 14));
    f[22] = 64;
    f[23] = 6;
    f[46] = 5 << 4;
    if (len > 1514)
        p->hdr = (struct net_hdr){ .flags = NET_HDR_NEEDS_CSUM,
                                   .gso_type = NET_GSO_TCPV4,
                                   .hdr_len = 54,
                                   .gso_size = 1460,
                                   .csum_start = 34,
                                   .csum_offset = 16 };
}

int main(int argc, char **argv)
{
    static struct bench_port from, to;
    static const uint8_t hello[60] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0, 9, 1, 0x88, 0xb5 };
    static const struct net_hdr plain;
    struct iovec iov = { (void *)(uintptr_t)hello, sizeof(hello) };
    uint64_t len, frames, began_ns, ns;
    int sock;

    signal(SIGPIPE, SIG_IGN);
    if (argc != 4 || num_parse_u64(argv[2], 60, NET_FRAME_MAX, &len) < 0 ||
        num_parse_u64(argv[3], 1, UINT32_MAX, &frames) < 0) {
        fprintf(stderr, "usage: ring_bench SOCKET FRAME_BYTES FRAMES\n");
        return 2;
    }
    if (net_msg_connect(argv[1], &sock) < 0) {
        fprintf(stderr, "ring_bench: no switch at %s\n", argv[1]);
        return 1;
    }
    bench_attach(sock, &from, 0);
    bench_attach(sock, &to, 1);
    bench_make_frame(&from, len);
    from.wanted = frames;
    net_backend_connect(to.b, &(struct net_receiver){ .receive = bench_receive, .opaque = &to });
    net_backend_set_receive_offloads(to.b, NET_OFF_CSUM | NET_OFF_TSO4);
    net_backend_connect(from.b,
                        &(struct net_receiver){ .receive = bench_receive, .send_ready = bench_send, .opaque = &from });
    CHECK(net_backend_send(to.b, &plain, &iov, 1, sizeof(hello)));
    net_backend_send_done(to.b);
    while (from.done == 0) /* the switch knows where the receiver is, and passed its word on */
        CHECK(loop_run_once(from.loop) >= 0);
    from.done = from.bytes = 0;
    CHECK(loop_timer_new(from.loop, bench_send, &from, &from.again) == 0);
    loop_timer_set(from.again, 1);
    began_ns = sys_now_ns();
    CHECK(pthread_create(&to.thread, NULL, bench_run, &to) == 0 &&
          pthread_create(&from.thread, NULL, bench_run, &from) == 0);
    CHECK(pthread_join(to.thread, NULL) == 0);
    ns = sys_now_ns() - began_ns;
    CHECK(pthread_join(from.thread, NULL) == 0);
    printf("{\"bytes\": %" PRIu64 ", \"sent\": %" PRIu64 ", \"received\": %" PRIu64
           ", \"seconds\": %.3f, \"frames_per_s\": %.0f, "
           "\"gbit_per_s\": %.2f, \"rung\": %" PRIu64 "}\n",
           len, from.done, to.done, (double)ns / 1e9, (double)to.done * 1e9 / (double)ns,
           (double)to.bytes * 8 / (double)ns, net_ring_get_counters(from.b).rung);
    return 0;
}
