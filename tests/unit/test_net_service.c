/* The services of a network against guests that ask properly and guests that do not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "fault.h"
#include "net_service_rig.h"
#include "net_vectors.h"
#include "net/services.h"
#include "sys/loop.h"

enum { DISCOVER = 1, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM };
enum { A = 1, SOA = 6, PTR = 12, MX = 15, AAAA = 28 };

/* A rig with its defaults, that runs. */
static void begin(struct service_rig *r)
{
    rig_init(r);
    rig_start(r);
}

/* Send m as guest n. Returns the type of the answer, 0: none. */
static unsigned ask_as(struct service_rig *r, unsigned n, struct rig_dhcp *m)
{
    rig_mac(n, m->mac);
    return rig_dhcp(r, m) ? rig_answer_type(r) : 0;
}

static void test_lease_options(void **state)
{
    struct service_rig r;

    rig_init(&r);
    r.config.mtu = 9000;
    rig_start(&r);
    assert_true(rig_lease(&r, 1, NULL) >= 0x0a58000a);
    assert_int_equal(rig_answer_option(&r, 54), RIG_GATEWAY);
    assert_int_equal(rig_answer_option(&r, 51), 3600);
    assert_int_equal(rig_answer_option(&r, 1), 0xffffff00);
    assert_int_equal(rig_answer_option(&r, 3), RIG_GATEWAY);
    assert_int_equal(rig_answer_option(&r, 6), RIG_GATEWAY);
    assert_int_equal(rig_answer_option(&r, 26), 9000);
    assert_int_equal(rig_answer_option(&r, 28), 0x0a5800ff);
    rig_stop(&r);
    r.config.router = false; /* isolated: no route to nowhere */
    rig_start(&r);
    rig_lease(&r, 1, NULL);
    assert_int_equal(rig_answer_option(&r, 3), 0);
    rig_done(&r);
}

/* The same guest gets the same address, the pool has an end, and an expired lease goes to somebody else. */
static void test_pool(void **state)
{
    struct service_rig r;
    uint32_t addr[5];

    begin(&r);
    for (unsigned i = 0; i < 5; i++) {
        addr[i] = rig_lease(&r, i, NULL);
        assert_true(addr[i] >= 0x0a58000a && addr[i] <= 0x0a58000e);
        for (unsigned k = 0; k < i; k++)
            assert_int_not_equal(addr[i], addr[k]);
    }
    assert_int_equal(rig_lease(&r, 7, NULL), 0);
    assert_int_equal(rig_lease(&r, 3, NULL), addr[3]);
    r.now_s += 1800;
    assert_int_equal(rig_lease(&r, 2, NULL), addr[2]); /* renewed; the others expire first */
    r.now_s += 1801;
    for (unsigned i = 7; i < 11; i++)
        assert_int_not_equal(rig_lease(&r, i, NULL), addr[2]);
    assert_int_equal(rig_lease(&r, 11, NULL), 0);
    assert_int_equal(rig_lease(&r, 0, NULL), 0); /* too late */
    rig_done(&r);
}

static void test_request_states(void **state)
{
    struct service_rig r;
    struct rig_dhcp m = { .type = REQUEST };
    uint32_t addr, other;

    begin(&r);
    addr = rig_lease(&r, 1, NULL);
    other = rig_lease(&r, 2, NULL);
    rig_mac(1, m.mac);
    /* INIT-REBOOT, then RENEWING: to ciaddr, not broadcast. */
    m.requested = addr;
    assert_true(rig_dhcp(&r, &m) && rig_answer_type(&r) == ACK);
    m = (struct rig_dhcp){ .type = REQUEST, .ciaddr = addr, .src = addr, .dst = RIG_GATEWAY, .flags = 0x8000 };
    assert_int_equal(ask_as(&r, 1, &m), ACK);
    assert_memory_equal(r.frames[0].data, m.mac, 6);
    /* Somebody else's, outside the pool, none at all: no, to everybody. */
    m.ciaddr = other;
    assert_true(rig_dhcp(&r, &m) && rig_answer_type(&r) == NAK);
    assert_memory_equal(r.frames[0].data, "\xff\xff\xff\xff\xff\xff", 6);
    assert_int_equal(rig_answer_option(&r, 51), 0);
    m.ciaddr = 0xc0a80001;
    assert_true(rig_dhcp(&r, &m) && rig_answer_type(&r) == NAK);
    m.ciaddr = 0;
    assert_true(rig_dhcp(&r, &m) && rig_answer_type(&r) == NAK);
    /* A guest that nobody knows, with an address that is free. */
    rig_mac(9, m.mac);
    m.requested = 0x0a58000a;
    while (m.requested == addr || m.requested == other)
        m.requested++;
    assert_true(rig_dhcp(&r, &m) && rig_answer_type(&r) == ACK);
    assert_int_equal(rig_answer_addr(&r), m.requested);
    rig_done(&r);
}

static void test_other_server(void **state)
{
    struct service_rig r;
    struct rig_dhcp m = { .type = DISCOVER };
    uint32_t addr;

    begin(&r);
    assert_int_not_equal(ask_as(&r, 1, &m), 0);
    addr = rig_answer_addr(&r);
    m = (struct rig_dhcp){ .type = REQUEST, .requested = 0xc0a80105, .server = 0xc0a80101 };
    assert_int_equal(ask_as(&r, 1, &m), 0);
    /* The offer was taken back: somebody else may have it at once. */
    m = (struct rig_dhcp){ .type = REQUEST, .requested = addr };
    assert_int_equal(ask_as(&r, 2, &m), ACK);
    rig_done(&r);
}

static void test_release_and_inform(void **state)
{
    struct service_rig r;
    struct rig_dhcp m = { .type = RELEASE };
    uint32_t addr;

    begin(&r);
    addr = rig_lease(&r, 1, "one");
    assert_int_equal(r.n_held, 1);
    m.ciaddr = addr;
    assert_int_equal(ask_as(&r, 2, &m), 0); /* not his */
    assert_int_equal(net_service_resolve(r.service, "one", true, &(uint32_t){ 0 }), 0);
    assert_int_equal(net_service_resolve(r.service, "one", false, &(uint32_t){ 0 }), -ENOENT); /* it says so itself */
    assert_int_equal(ask_as(&r, 1, &m), 0);
    assert_int_equal(net_service_resolve(r.service, "one", true, &(uint32_t){ 0 }), -ENOENT);
    assert_int_equal(r.n_held, 2);
    assert_true(r.held[0].held && !r.held[1].held && r.held[1].addr == addr);
    m = (struct rig_dhcp){ .type = INFORM, .ciaddr = 0x0a580063, .src = 0x0a580063 };
    assert_int_equal(ask_as(&r, 5, &m), ACK);
    assert_int_equal(rig_answer_addr(&r), 0);
    assert_int_equal(rig_answer_option(&r, 51), 0);
    assert_int_equal(rig_answer_option(&r, 6), RIG_GATEWAY);
    rig_done(&r);
}

/* Declined addresses rest, but nobody can make all of them rest. */
static void test_decline(void **state)
{
    struct service_rig r;
    uint32_t first;

    begin(&r);
    first = rig_lease(&r, 1, NULL);
    for (unsigned i = 0; i < 20; i++) {
        struct rig_dhcp m = { .type = DECLINE, .requested = rig_lease(&r, 1, NULL), .server = RIG_GATEWAY };

        assert_int_not_equal(m.requested, 0);
        assert_int_equal(ask_as(&r, 1, &m), 0);
        if (i == 0)
            assert_int_not_equal(rig_lease(&r, 2, NULL), first);
    }
    assert_int_not_equal(rig_lease(&r, 1, NULL), 0);
    rig_done(&r);
}

static void test_fixed(void **state)
{
    struct net_service_host hosts[2] = { { .name = "db", .addr = 0x0a58000b }, { .name = "far", .addr = 0x0a580050 } };
    struct service_rig r;

    rig_init(&r);
    rig_mac(100, hosts[0].mac);
    rig_mac(101, hosts[1].mac);
    r.config.hosts = hosts;
    r.config.n_hosts = 2;
    rig_start(&r);
    /* An attacker with any number of MACs gets all that is free, and nothing else. */
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(rig_lease(&r, i, "db") != 0, i < 4);
    for (unsigned i = 0; i < 20; i++) {
        struct rig_dhcp m = { .type = REQUEST, .requested = hosts[i % 2].addr };

        assert_int_equal(ask_as(&r, i, &m), NAK);
    }
    assert_int_equal(rig_lease(&r, 100, "other"), 0x0a58000b);
    assert_int_equal(rig_lease(&r, 101, NULL), 0x0a580050);
    r.now_s += 100000;
    assert_int_equal(net_service_resolve(r.service, "db", true, &(uint32_t){ 0 }), 0);
    rig_stop(&r);
    /* Nonsense in the configuration. */
    hosts[1].addr = hosts[0].addr;
    assert_int_equal(net_service_new(&r.config, r.loop, &r.service), -EINVAL);
    hosts[1].addr = RIG_GATEWAY;
    assert_int_equal(net_service_new(&r.config, r.loop, &r.service), -EINVAL);
    hosts[1].addr = 0x0a590050;
    assert_int_equal(net_service_new(&r.config, r.loop, &r.service), -EINVAL);
    loop_free(r.loop);
}

/* What a guest may not say: another's MAC, by way of a relay, as a group. */
static void test_dhcp_lies(void **state)
{
    struct service_rig r;
    struct rig_dhcp m = { .type = DISCOVER };
    uint8_t other[6];

    rig_init(&r);
    r.config.uplink = &r.uplink;
    rig_start(&r);
    rig_mac(1, m.mac);
    rig_mac(2, other);
    m.chaddr = other;
    assert_false(rig_dhcp(&r, &m));
    m.chaddr = NULL;
    m.giaddr = 0x0a580005;
    assert_false(rig_dhcp(&r, &m));
    m.giaddr = 0;
    m.mac[0] |= 1;
    assert_false(rig_dhcp(&r, &m));
    m.mac[0] &= 0xfe;
    r.full = true;
    assert_false(rig_dhcp(&r, &m)); /* lost, and nothing else */
    r.full = false;
    assert_true(rig_dhcp(&r, &m));
    rig_done(&r);
    assert_int_equal(r.uplink_closed, 1);
}

/* ---- names ---- */

static unsigned ask(struct service_rig *r, const char *name, uint16_t type, unsigned *ret_answers)
{
    const uint8_t *msg = NULL;
    size_t len = rig_ask(r, 50, name, type, &msg);

    assert_true(len >= 12);
    assert_memory_equal(msg, "\x12\x34", 2);
    *ret_answers = load_be16(msg + 6);
    return msg[3] & 15;
}

/* The last len bytes of the answer, which has one record and no EDNS. */
static const uint8_t *answer_tail(struct service_rig *r, size_t len)
{
    return r->frames[0].data + r->frames[0].len - len;
}

static void test_names(void **state)
{
    struct service_rig r;
    uint8_t mac[6], addr[4];
    unsigned n;

    begin(&r);
    store_be32(addr, rig_lease(&r, 1, "Web.example.org"));
    assert_int_equal(ask(&r, "web.net.internal", A, &n), 0);
    assert_int_equal(n, 1);
    assert_memory_equal(answer_tail(&r, 4), addr, 4);
    assert_int_equal(ask(&r, "WEB", A, &n), 0);
    assert_int_equal(n, 1);
    assert_int_equal(ask(&r, "web.net.internal", MX, &n), 0);
    assert_int_equal(n, 0);
    assert_int_equal(ask(&r, "web.net.internal", AAAA, &n), 0);
    assert_int_equal(n, 0);
    assert_int_equal(ask(&r, "no.net.internal", A, &n), 3);
    assert_int_equal(ask(&r, "a.web.net.internal", A, &n), 3);
    assert_int_equal(ask(&r, "nobody", A, &n), 3);
    assert_int_equal(ask(&r, "net.internal", SOA, &n), 0);
    assert_int_equal(n, 1);
    assert_int_equal(ask(&r, "gateway.net.internal", A, &n), 0);
    assert_memory_equal(answer_tail(&r, 4), "\x0a\x58\0\1", 4);
    assert_int_equal(ask(&r, "1.0.88.10.in-addr.arpa", PTR, &n), 0);
    assert_memory_equal(answer_tail(&r, 22), "\7gateway\3net\10internal", 22);
    assert_int_equal(ask(&r, "77.0.88.10.in-addr.arpa", PTR, &n), 3);
    assert_int_equal(ask(&r, "example.org", A, &n), 5); /* nothing is forwarded here */
    /* A VM's name comes before what guests call themselves, and nobody takes a name that is in use. */
    rig_mac(2, mac);
    assert_int_not_equal(net_service_guest_up(r.service, mac, "db"), 0);
    rig_lease(&r, 3, "db");
    rig_lease(&r, 4, "web");
    assert_int_equal(ask(&r, "web", A, &n), 0);
    assert_memory_equal(answer_tail(&r, 4), addr, 4);
    store_be32(addr, rig_lease(&r, 2, "ignored"));
    assert_int_equal(ask(&r, "db", A, &n), 0);
    assert_memory_equal(answer_tail(&r, 4), addr, 4);
    rig_done(&r);
}

/* A VM that is up keeps its address, lease or not. */
static void test_guest_up(void **state)
{
    struct service_rig r;
    uint8_t mac[6];
    uint32_t addr;

    begin(&r);
    rig_mac(1, mac);
    addr = net_service_guest_up(r.service, mac, "vm1");
    assert_int_not_equal(addr, 0);
    assert_true(r.n_held == 1 && r.held[0].held);
    r.now_s += 100000;
    for (unsigned i = 2; i < 20; i++)
        assert_int_equal(rig_lease(&r, i, NULL) != 0, i < 6);
    assert_int_equal(rig_lease(&r, 1, NULL), addr);
    net_service_guest_down(r.service, mac);
    r.now_s += 3601;
    for (unsigned i = 30; i < 35; i++)
        assert_int_not_equal(rig_lease(&r, i, NULL), 0);
    assert_int_equal(net_service_resolve(r.service, "vm1", true, &addr), -ENOENT);
    assert_int_equal(net_service_guest_up(r.service, mac, "vm1"), 0); /* all taken */
    rig_done(&r);
}

/* ---- IPv6 ---- */

static void test_router_advertisement(void **state)
{
    struct inet_packet p;
    struct service_rig r;
    const uint8_t *o;

    begin(&r);
    assert_true(loop_run_once(r.loop) >= 0); /* the unsolicited one */
    rig_packet(&r, &p);
    assert_memory_equal(p.flow.dst_mac, "\x33\x33\0\0\0\1", 6);
    rig_forget(&r);
    rig_send(&r, vector_rs, VECTOR_RS_LEN);
    rig_packet(&r, &p);
    assert_true(inet_icmp_sum_ok(&p));
    assert_int_equal(p.flow.hop_limit, 255);
    assert_memory_equal(p.flow.src.ip6, "\xfe\x80\0\0\0\0\0\0\0\0\0\0\0\0\0\1", 16);
    assert_memory_equal(p.flow.dst.ip6, vector_rs + 22, 16);
    assert_int_equal(p.data[0], 134);
    assert_int_equal(load_be16(p.data + 6), 1800);
    for (o = p.data + 16; o < p.data + p.len; o += 8 * o[1]) {
        assert_int_not_equal(o[1], 0);
        if (o[0] == 3)
            assert_memory_equal(o + 16, r.config.subnet6.addr, 16);
        else if (o[0] == 25)
            assert_memory_equal(o + 8, r.config.gateway6, 16);
        else if (o[0] == 31)
            assert_memory_equal(o + 8, "\3net\10internal", 14);
        else if (o[0] == 5)
            assert_int_equal(load_be32(o + 4), 1500);
        else
            assert_memory_equal(o + 2, r.config.mac, 6);
    }
    assert_ptr_equal(o, p.data + p.len);
    rig_done(&r);
}

static void test_dhcp6_service(void **state)
{
    struct inet_packet p;
    struct inet_udp udp;
    struct service_rig r;

    begin(&r);
    rig_send(&r, vector_info6, VECTOR_INFO6_LEN);
    rig_packet(&r, &p);
    assert_int_equal(inet_udp_parse(&p, false, &udp), 0);
    assert_int_equal(udp.dst_port, 546);
    assert_memory_equal(p.flow.dst.ip6, vector_info6 + 22, 16);
    assert_memory_equal(udp.data, "\7\xab\xcd\xef", 4);
    rig_done(&r);
}

/* A guest's DAD makes its address known to DNS. */
static void test_snoop(void **state)
{
    uint8_t ns[24] = { 135 }, frame[128];
    struct inet_flow flow = { .is6 = true, .hop_limit = 255 };
    struct service_rig r;
    unsigned n;

    begin(&r);
    rig_lease(&r, 1, "six");
    memcpy(ns + 8, r.config.subnet6.addr, 8);
    ns[23] = 0x66;
    memcpy(flow.dst.ip6, "\xff\2\0\0\0\0\0\0\0\0\0\1\xff\0\0\x66", 16);
    inet_ip6_multicast_mac(flow.dst.ip6, flow.dst_mac);
    for (unsigned i = 0; i < 6; i++) { /* the last four are kept */
        rig_mac(1, flow.src_mac);
        ns[16] = (uint8_t)i;
        rig_send(&r, frame, inet_icmp_build(&flow, ns, sizeof(ns), frame, sizeof(frame)));
    }
    assert_int_equal(ask(&r, "six.net.internal", AAAA, &n), 0);
    assert_int_equal(n, 4);
    assert_int_equal(ask(&r, "6.6.0.0.0.0.0.0.0.0.0.0.0.0.5.0.0.0.0.0.0.0.0.0.0.0.0.0.8.8.d.f.ip6.arpa", PTR, &n), 0);
    assert_int_equal(n, 1);
    assert_int_equal(ask(&r, "6.6.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.8.d.f.ip6.arpa", PTR, &n), 3);
    /* Neither the gateway's address nor one outside the prefix. */
    memcpy(ns + 8, r.config.gateway6, 16);
    rig_send(&r, frame, inet_icmp_build(&flow, ns, sizeof(ns), frame, sizeof(frame)));
    ns[8] = 0x20;
    rig_send(&r, frame, inet_icmp_build(&flow, ns, sizeof(ns), frame, sizeof(frame)));
    assert_int_equal(ask(&r, "six.net.internal", AAAA, &n), 0);
    assert_memory_equal(answer_tail(&r, 16), "\xfd\x88\0\0\0\0\0\0\2\0\0\0\0\0\0\x66", 16);
    rig_done(&r);
}

/* ---- the gateway itself ---- */

static void test_gateway(void **state)
{
    struct inet_packet p;
    struct inet_arp arp;
    struct service_rig r;

    begin(&r);
    rig_send(&r, vector_arp, VECTOR_ARP_LEN);
    assert_int_equal(r.n_frames, 1);
    assert_int_equal(inet_arp_parse(r.frames[0].data, r.frames[0].len, &arp), 0);
    assert_int_equal(arp.op, INET_ARP_REPLY);
    assert_int_equal(arp.sender_ip, RIG_GATEWAY);
    assert_memory_equal(arp.sender_mac, r.config.mac, 6);
    rig_forget(&r);
    rig_send(&r, vector_ping, VECTOR_PING_LEN);
    rig_packet(&r, &p);
    assert_true(inet_icmp_sum_ok(&p));
    assert_int_equal(p.data[0], 0);
    assert_memory_equal(p.data + 4, vector_ping + 38, VECTOR_PING_LEN - 38);
    rig_forget(&r);
    rig_send(&r, vector_ns, VECTOR_NS_LEN);
    rig_packet(&r, &p);
    assert_int_equal(p.data[0], 136);
    assert_memory_equal(p.data + 26, r.config.mac, 6);
    rig_done(&r);
}

/* Where the uplink is the gateway, all this is its own; what is for the services never gets there; its router
 * advertisements do not come through. */
static void test_uplink(void **state)
{
    static const struct net_hdr plain;
    struct service_rig r;
    uint8_t ra[VECTOR_RS_LEN];

    rig_init(&r);
    r.config.uplink = &r.uplink;
    r.config.uplink_is_gateway = true;
    rig_start(&r);
    rig_send(&r, vector_arp, VECTOR_ARP_LEN);
    rig_send(&r, vector_ping, VECTOR_PING_LEN);
    rig_send(&r, vector_ns, VECTOR_NS_LEN);
    assert_int_equal(r.n_frames, 0);
    assert_int_equal(r.uplink_frames, 3);
    rig_send(&r, vector_query, VECTOR_QUERY_LEN);
    rig_send(&r, vector_rs, VECTOR_RS_LEN);
    assert_int_equal(r.n_frames, 2);
    assert_int_equal(r.uplink_frames, 3);
    memcpy(ra, vector_rs, sizeof(ra));
    ra[54] = 134;
    assert_true(net_backend_deliver(&r.uplink, &plain, ra, sizeof(ra)));
    assert_int_equal(r.n_frames, 2);
    assert_true(net_backend_deliver(&r.uplink, &plain, (const uint8_t *)vector_ping, VECTOR_PING_LEN));
    assert_int_equal(r.n_frames, 3);
    r.full = true; /* back pressure reaches the uplink, both ways */
    assert_false(net_backend_deliver(&r.uplink, &plain, (const uint8_t *)vector_ping, VECTOR_PING_LEN));
    r.uplink_full = true;
    assert_false(net_backend_send(r.port, &plain, &(struct iovec){ (void *)(uintptr_t)vector_ping, VECTOR_PING_LEN }, 1,
                                  VECTOR_PING_LEN));
    rig_done(&r);
}

/* Who asks without end is not answered without end, and takes nothing from others. */
static void test_budget(void **state)
{
    struct inet_packet p;
    struct service_rig r;
    unsigned answered = 0;
    const uint8_t *msg;

    begin(&r);
    for (unsigned i = 0; i < 100000; i++)
        rig_send(&r, vector_ping, VECTOR_PING_LEN);
    /* Some seconds may have gone by; even then not all were answered. */
    assert_true(r.n_frames >= 2000 && r.n_frames < 100000);
    assert_int_equal(inet_packet_parse(r.frames[0].data, r.frames[0].len, &p), 0);
    for (unsigned guest = 1; guest < 9; guest++) /* one may share the budget with it, eight do not */
        answered += rig_ask(&r, guest, "gateway", A, &msg) > 0;
    assert_true(answered >= 5);
    rig_done(&r);
}

/* ---- persistence ---- */

static void test_lease_file(void **state)
{
    char folder[] = "/tmp/caisson-lease-XXXXXX", path[64], bad[72];
    struct service_rig r;
    uint32_t addr, other;
    struct stat st;
    FILE *f;

    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/leases", folder);
    snprintf(bad, sizeof(bad), "%s.bad", path);
    rig_init(&r);
    r.config.lease_path = path;
    rig_start(&r);
    addr = rig_lease(&r, 1, "kept");
    other = rig_lease(&r, 2, NULL);
    r.now_s += 1000;
    rig_stop(&r);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    r.n_held = 0;
    rig_start(&r);
    assert_int_equal(r.n_held, 2);
    assert_int_equal(net_service_resolve(r.service, "kept", true, &other), 0);
    assert_int_equal(other, addr);
    for (unsigned i = 10; i < 13; i++)
        assert_int_not_equal(rig_lease(&r, i, NULL), 0);
    assert_int_equal(rig_lease(&r, 13, NULL), 0);
    rig_stop(&r);
    r.now_s += 10000; /* expired meanwhile, but remembered */
    rig_start(&r);
    assert_int_equal(net_service_resolve(r.service, "kept", true, &other), -ENOENT);
    assert_int_equal(rig_lease(&r, 1, NULL), addr);
    rig_stop(&r);
    f = fopen(path, "w");
    assert_non_null(f);
    fputs("{\"leases\": [{\"mac\": 1}, 7, {\"mac\": \"52:54:00:00:00:09\", \"ip\": \"10.88.0.1\", \"expires\": 9e9},"
          "{\"mac\": \"52:54:00:00:00:01\", \"ip\": \"10.88.0.11\", \"name\": \"..\", \"expires\": 9999999}]}",
          f);
    fclose(f);
    rig_start(&r);
    assert_int_equal(rig_lease(&r, 1, NULL), 0x0a58000b);
    rig_stop(&r);
    f = fopen(path, "w");
    assert_non_null(f);
    fputs("{\"leases\": [", f);
    fclose(f);
    assert_int_equal(net_service_new(&r.config, r.loop, &r.service), -EBADMSG);
    assert_int_equal(stat(bad, &st), 0);
    rig_start(&r);
    rig_done(&r);
    unlink(path);
    unlink(bad);
    assert_int_equal(rmdir(folder), 0); /* no temporary file is left */
}

/* ---- forwarding ---- */

static int resolver_socket(uint16_t *ret_port)
{
    struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof(in);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&in, sizeof(in)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&in, &len), 0);
    *ret_port = ntohs(in.sin_port);
    return fd;
}

static void step(struct loop *l)
{
    for (int i = 0; i < 100 && loop_run_once(l) > 0; i++) {
    }
}

static void write_conf(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void test_forward(void **state)
{
    char path[] = "/tmp/caisson-resolv-XXXXXX";
    struct sockaddr_in from;
    socklen_t from_len = sizeof(from);
    const uint8_t *msg;
    struct service_rig r;
    uint8_t buf[2000];
    ssize_t n;
    int conf = mkstemp(path), server;

    assert_true(conf >= 0);
    close(conf);
    write_conf(path, "# comment\nnameserver bogus\n  nameserver 127.0.0.1 ; ours\nnameserverx 1.2.3.4\n");
    rig_init(&r);
    r.config.dns_forward = true;
    r.config.resolv_conf = path;
    server = resolver_socket(&r.config.resolver_port);
    rig_start(&r);
    step(r.loop);
    assert_int_equal(rig_ask(&r, 1, "example.org", A, &msg), 0);
    assert_int_equal(rig_ask(&r, 1, "example.org", A, &msg), 0); /* asks again: one question all the same */
    n = recvfrom(server, buf, sizeof(buf), 0, (struct sockaddr *)&from, &from_len);
    assert_int_equal(n, 12 + 13 + 4);
    assert_int_equal(recv(server, buf + 1000, 1000, MSG_DONTWAIT), -1);
    /* A forger who does not know the ID, then one who does not know the question, then the answer. */
    buf[2] |= 0x80;
    buf[0] ^= 1;
    sendto(server, buf, (size_t)n, 0, (struct sockaddr *)&from, from_len);
    buf[0] ^= 1;
    buf[14] ^= 1;
    sendto(server, buf, (size_t)n, 0, (struct sockaddr *)&from, from_len);
    buf[14] ^= 1;
    step(r.loop);
    assert_int_equal(r.n_frames, 0);
    memcpy(buf + n, "\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\1\2\3\4", 16);
    buf[7] = 1;
    sendto(server, buf, (size_t)n + 16, 0, (struct sockaddr *)&from, from_len);
    step(r.loop);
    assert_int_equal(r.n_frames, 1);
    assert_memory_equal(r.frames[0].data + 42, "\x12\x34", 2); /* the client's ID */
    assert_memory_equal(answer_tail(&r, 4), "\1\2\3\4", 4);
    /* Longer than the client takes: cut, and TC set. */
    assert_int_equal(rig_ask(&r, 1, "example.org", A, &msg), 0);
    n = recvfrom(server, buf, sizeof(buf), 0, (struct sockaddr *)&from, &from_len);
    buf[2] |= 0x80;
    sendto(server, buf, 600, 0, (struct sockaddr *)&from, from_len);
    step(r.loop);
    assert_int_equal(r.n_frames, 1);
    assert_int_equal(r.frames[0].len, 42 + n);
    assert_true(r.frames[0].data[42 + 2] & 2);
    close(server);
    /* Nobody there: the kernel says so at once, and the guest hears it. */
    assert_int_equal(rig_ask(&r, 1, "example.net", A, &msg), 0);
    for (int i = 0; i < 1000 && r.n_frames == 0; i++)
        step(r.loop);
    assert_int_equal(r.n_frames, 1);
    assert_int_equal(r.frames[0].data[42 + 3] & 15, 2);
    rig_done(&r);
    unlink(path);
}

/* A guest can have only so many questions under way, and leaves room for others. */
static void test_forward_bounds(void **state)
{
    char path[] = "/tmp/caisson-resolv-XXXXXX", name[32];
    struct service_rig r;
    const uint8_t *msg;
    unsigned refused = 0;
    int conf = mkstemp(path), server;

    assert_true(conf >= 0);
    close(conf);
    write_conf(path, "nameserver 127.0.0.1\n");
    rig_init(&r);
    r.config.dns_forward = true;
    r.config.resolv_conf = path;
    server = resolver_socket(&r.config.resolver_port);
    rig_start(&r);
    for (unsigned i = 0; i < 40; i++) {
        struct inet_flow flow = { .src.ip4 = 0x0a580064, .dst.ip4 = RIG_GATEWAY, .hop_limit = 64 };
        uint8_t query[] = { (uint8_t)i, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 'a', 1, 'b', 0, 0, 1, 0, 1 }, frame[100];

        rig_mac(1, flow.src_mac);
        rig_forget(&r);
        rig_send(&r, frame, inet_udp_build(&flow, 4000, 53, query, sizeof(query), frame, sizeof(frame)));
        refused += r.n_frames;
    }
    assert_int_equal(refused, 8);
    snprintf(name, sizeof(name), "other.example");
    assert_int_equal(rig_ask(&r, 2, name, A, &msg), 0);
    rig_done(&r);
    close(server);
    unlink(path);
}

/* ---- failures ---- */

static void test_no_memory(void **state)
{
    struct service_rig r;
    int res;

    rig_init(&r);
    r.config.dns_forward = true;
    r.config.lease_path = "/tmp/caisson-no-such-file";
    for (unsigned n = 1; fault_begin(n), res = net_service_new(&r.config, r.loop, &r.service), fault_end(); n++)
        assert_int_equal(res, -ENOMEM);
    assert_int_equal(res, 0);
    net_backend_close(net_service_backend(r.service));
    loop_free(r.loop);
    unlink("/tmp/caisson-no-such-file");
}

static int open_and_free(struct net_services_config *c, struct loop *loop, struct net_switch *sw)
{
    struct net_services services;
    struct net_services_report report;
    int res = net_services_open(c, loop, sw, &services, &report);

    if (res == 0)
        services.ops->free(services.opaque);
    return res;
}

/* All of it as one port of a switch: opened, or nothing left behind. */
static void test_services_no_memory(void **state)
{
    static const enum net_services_nat kinds[] = { NET_SERVICES_ISOLATED, NET_SERVICES_SLIRP, NET_SERVICES_BRIDGED };
    struct net_switch *sw;
    struct service_rig r;
    int res;

    rig_init(&r);
    for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
        struct net_services_config c = { .name = "web", .nat = kinds[i], .service = r.config };

        assert_int_equal(net_switch_new(r.loop, &sw), 0);
        for (unsigned n = 1; fault_begin(n), res = open_and_free(&c, r.loop, sw), fault_end(); n++)
            assert_true(res == -ENOMEM || (res == 0 && kinds[i] == NET_SERVICES_SLIRP)); /* it can do without a timer */
        assert_int_equal(res, 0);
        assert_int_equal(net_switch_n_ports(sw), 0);
        net_switch_free(sw);
    }
    loop_free(r.loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lease_options),
        cmocka_unit_test(test_pool),
        cmocka_unit_test(test_request_states),
        cmocka_unit_test(test_other_server),
        cmocka_unit_test(test_release_and_inform),
        cmocka_unit_test(test_decline),
        cmocka_unit_test(test_fixed),
        cmocka_unit_test(test_dhcp_lies),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_guest_up),
        cmocka_unit_test(test_router_advertisement),
        cmocka_unit_test(test_dhcp6_service),
        cmocka_unit_test(test_snoop),
        cmocka_unit_test(test_gateway),
        cmocka_unit_test(test_budget),
        cmocka_unit_test(test_uplink),
        cmocka_unit_test(test_lease_file),
        cmocka_unit_test(test_forward),
        cmocka_unit_test(test_forward_bounds),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_services_no_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
