#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "net_service_rig.h"

#include <string.h>

#include "base/bits.h"
#include "sys/loop.h"

static bool rig_receive(void *opaque, const struct net_hdr *hdr, const uint8_t *frame, size_t len)
{
    struct service_rig *r = opaque;

    if (r->full)
        return false;
    assert_true(len <= sizeof(r->frames[0].data));
    if (r->n_frames < RIG_FRAMES) {
        memcpy(r->frames[r->n_frames].data, frame, len);
        r->frames[r->n_frames].len = len;
    }
    r->n_frames++;
    return true;
}

static bool rig_uplink_send(struct net_backend *b, const struct net_hdr *hdr, const struct iovec *iov, unsigned n_iov,
                            size_t len)
{
    struct service_rig *r = CONTAINER_OF(b, struct service_rig, uplink);

    if (r->uplink_full)
        return false;
    r->uplink_frames++;
    return true;
}

static void rig_uplink_nothing(struct net_backend *b)
{
}

static void rig_uplink_close(struct net_backend *b)
{
    CONTAINER_OF(b, struct service_rig, uplink)->uplink_closed++;
}

static int64_t rig_clock(void *opaque)
{
    return ((struct service_rig *)opaque)->now_s;
}

static void rig_address(void *opaque, const uint8_t mac[6], uint32_t addr, bool held)
{
    struct service_rig *r = opaque;

    if (r->n_held < RIG_HELD) {
        r->held[r->n_held].addr = addr;
        r->held[r->n_held++].held = held;
    }
}

void rig_init(struct service_rig *r)
{
    static const struct net_backend_ops ops = {
        .name = "counter",
        .send = rig_uplink_send,
        .send_done = rig_uplink_nothing,
        .receive_ready = rig_uplink_nothing,
        .close = rig_uplink_close,
    };

    memset(r, 0, sizeof(*r));
    assert_int_equal(loop_new(&r->loop), 0);
    r->now_s = 1000000;
    r->uplink = (struct net_backend){ .ops = &ops, .mtu = 1500 };
    r->config = (struct net_service_config){
        .mac = { 0x52, 0x55, 10, 88, 0, 1 },
        .subnet = { 0x0a580000, 24 },
        .gateway = RIG_GATEWAY,
        .subnet6 = { { 0xfd, 0x88 }, 64 },
        .gateway6 = { 0xfd, 0x88, [15] = 1 },
        .dhcp = true,
        .dhcp_first = 0x0a58000a,
        .dhcp_last = 0x0a58000e,
        .dns = true,
        .domain = "net.internal",
        .mtu = 1500,
        .router = true,
        .events = { .address = rig_address, .opaque = r },
        .clock_s = rig_clock,
        .clock_opaque = r,
    };
}

void rig_start(struct service_rig *r)
{
    const struct net_receiver receiver = { .receive = rig_receive, .opaque = r };

    assert_int_equal(net_service_new(&r->config, r->loop, &r->service), 0);
    r->port = net_service_backend(r->service);
    net_backend_connect(r->port, &receiver);
}

void rig_stop(struct service_rig *r)
{
    net_backend_close(r->port);
    r->port = NULL;
}

void rig_done(struct service_rig *r)
{
    rig_stop(r);
    loop_free(r->loop);
}

void rig_forget(struct service_rig *r)
{
    r->n_frames = 0;
    memset(r->frames, 0, sizeof(r->frames));
}

void rig_send(struct service_rig *r, const void *frame, size_t len)
{
    static const struct net_hdr plain;
    /* In two pieces, as guests do it, the cut inside the headers. */
    struct iovec iov[2] = { { (void *)(uintptr_t)frame, MIN(len, (size_t)20) },
                            { (uint8_t *)(uintptr_t)frame + MIN(len, (size_t)20), len - MIN(len, (size_t)20) } };

    assert_true(net_backend_send(r->port, &plain, iov, 2, len) || r->uplink_full);
    net_backend_send_done(r->port);
}

void rig_packet(struct service_rig *r, struct inet_packet *ret_packet)
{
    assert_int_equal(r->n_frames, 1);
    assert_int_equal(inet_packet_parse(r->frames[0].data, r->frames[0].len, ret_packet), 0);
}

void rig_mac(unsigned n, uint8_t ret_mac[6])
{
    memcpy(ret_mac, "\x52\x54\0\0", 4);
    store_be16(ret_mac + 4, (uint16_t)n);
}

static size_t rig_option(uint8_t *p, uint8_t code, uint32_t value)
{
    if (value == 0)
        return 0;
    p[0] = code;
    p[1] = 4;
    store_be32(p + 2, value);
    return 6;
}

bool rig_dhcp(struct service_rig *r, const struct rig_dhcp *m)
{
    uint8_t msg[576] = { 1, 1, 6 }, frame[700];
    struct inet_flow flow = { .src.ip4 = m->src, .dst.ip4 = m->dst ? m->dst : UINT32_MAX, .hop_limit = 64 };
    size_t at = 240;

    store_be32(msg + 4, 0xcafe0000 + m->type);
    store_be16(msg + 10, m->flags);
    store_be32(msg + 12, m->ciaddr);
    store_be32(msg + 24, m->giaddr);
    memcpy(msg + 28, m->chaddr ? m->chaddr : m->mac, 6);
    store_be32(msg + 236, 0x63825363);
    memcpy(msg + at, (uint8_t[]){ 53, 1, m->type }, 3);
    at += 3;
    at += rig_option(msg + at, 50, m->requested);
    at += rig_option(msg + at, 54, m->server);
    if (m->name) {
        msg[at] = 12;
        msg[at + 1] = (uint8_t)strlen(m->name);
        memcpy(msg + at + 2, m->name, strlen(m->name));
        at += 2 + strlen(m->name);
    }
    msg[at++] = 255;
    memcpy(flow.src_mac, m->mac, 6);
    memset(flow.dst_mac, 0xff, 6);
    rig_forget(r);
    rig_send(r, frame, inet_udp_build(&flow, 68, 67, msg, at, frame, sizeof(frame)));
    return r->n_frames > 0;
}

static const uint8_t *rig_answer(struct service_rig *r)
{
    struct inet_packet p;
    struct inet_udp udp;

    rig_packet(r, &p);
    assert_int_equal(inet_udp_parse(&p, false, &udp), 0);
    assert_int_equal(udp.src_port, 67);
    assert_int_equal(udp.dst_port, 68);
    assert_true(udp.len >= 300 && udp.len < 576);
    assert_int_equal(p.flow.src.ip4, RIG_GATEWAY);
    return udp.data;
}

static const uint8_t *rig_find_option(struct service_rig *r, uint8_t code)
{
    const uint8_t *p = rig_answer(r) + 240;

    while (*p != 255 && *p != code)
        p += *p ? 2 + p[1] : 1;
    return *p == code ? p + 1 : NULL;
}

unsigned rig_answer_type(struct service_rig *r)
{
    return rig_find_option(r, 53)[1];
}

uint32_t rig_answer_addr(struct service_rig *r)
{
    return load_be32(rig_answer(r) + 16);
}

uint32_t rig_answer_option(struct service_rig *r, uint8_t code)
{
    const uint8_t *p = rig_find_option(r, code);

    if (!p)
        return 0;
    return p[0] == 4 ? load_be32(p + 1) : p[0] == 2 ? load_be16(p + 1) : p[0];
}

uint32_t rig_lease(struct service_rig *r, unsigned n, const char *name)
{
    struct rig_dhcp m = { .type = 1, .name = name };
    uint32_t addr;

    rig_mac(n, m.mac);
    if (!rig_dhcp(r, &m))
        return 0;
    assert_int_equal(rig_answer_type(r), 2);
    addr = rig_answer_addr(r);
    m.type = 3;
    m.requested = addr;
    m.server = RIG_GATEWAY;
    assert_true(rig_dhcp(r, &m));
    assert_int_equal(rig_answer_type(r), 5);
    assert_int_equal(rig_answer_addr(r), addr);
    return addr;
}

size_t rig_ask(struct service_rig *r, unsigned n, const char *text, uint16_t type, const uint8_t **ret_msg)
{
    uint8_t msg[512] = { 0x12, 0x34, 1, 0, 0, 1 }, frame[700];
    struct inet_flow flow = { .src.ip4 = 0x0a580064, .dst.ip4 = RIG_GATEWAY, .hop_limit = 64 };
    struct inet_packet p;
    struct inet_udp udp;
    size_t at = 12;

    while (*text) {
        size_t len = strcspn(text, ".");

        msg[at] = (uint8_t)len;
        memcpy(msg + at + 1, text, len);
        at += 1 + len;
        text += len + (text[len] == '.');
    }
    at++;
    store_be16(msg + at, type);
    store_be16(msg + at + 2, 1);
    rig_mac(n, flow.src_mac);
    memcpy(flow.dst_mac, r->config.mac, 6);
    rig_forget(r);
    rig_send(r, frame, inet_udp_build(&flow, 4000, 53, msg, at + 4, frame, sizeof(frame)));
    if (r->n_frames == 0)
        return 0;
    rig_packet(r, &p);
    assert_int_equal(inet_udp_parse(&p, false, &udp), 0);
    assert_int_equal(udp.src_port, 53);
    assert_int_equal(udp.dst_port, 4000);
    *ret_msg = udp.data;
    return udp.len;
}
