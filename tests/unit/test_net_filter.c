/* The spoof filter: what a VM may say in whose name. Port 0 is the gateway (trusted, unfiltered), 1 and 2 are VMs under
 * both filters, 3 is one without. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "net_world.h"

static const uint8_t prefix[8] = { 0xfd, 0, 0, 0, 0, 0, 0, 1 };

static struct net_ip ip4(uint8_t last)
{
    return (struct net_ip){ .bytes = { [10] = 0xff, [11] = 0xff, [12] = 10, [15] = last } };
}

/* An address of the network's prefix, or link-local. */
static struct net_ip ip6(bool local, uint8_t last)
{
    struct net_ip ip = { .bytes = { 0xfe, 0x80 } };

    if (!local)
        memcpy(ip.bytes, prefix, 8);
    ip.bytes[8] = 1;
    ip.bytes[15] = last;
    return ip;
}

static void begin_filtered(struct world *w)
{
    begin_empty(w);
    for (unsigned i = 0; i < 4; i++) {
        struct net_port_config c = config_of(i);

        c.trusted = i == 0;
        c.filter_mac = c.filter_ip = i == 1 || i == 2;
        memcpy(c.ip6_prefix.bytes, prefix, 8);
        add(w, i, &c);
    }
    for (unsigned i = 1; i < 3; i++) {
        struct net_ip ip = ip4((uint8_t)i);

        assert_int_equal(net_switch_port_allow_ip(w->p[i]->port, &ip), 0);
    }
}

static bool passes(struct world *w, unsigned from, const uint8_t *f, size_t len)
{
    uint64_t before = net_port_get_counters(w->p[from]->port).in_spoofed;
    bool got = reach(w, from, f, len) != 0;

    assert_int_equal(net_port_get_counters(w->p[from]->port).in_spoofed, before + !got);
    return got;
}

/* ---- IPv4 and ARP ---- */

/* A UDP packet; frag: the fragment field. */
static size_t udp4(uint8_t *f, unsigned from, const uint8_t src[4], uint16_t sport, uint16_t dport, uint16_t frag)
{
    uint8_t mac[6];

    mac_of(from, mac);
    (void)ethernet(f, broadcast, mac, -1, 0x0800);
    memset(f + 14, 0, 46);
    f[14] = 0x45;
    store_be16(f + 16, 46);
    store_be16(f + 20, frag);
    f[23] = 17;
    memcpy(f + 26, src, 4);
    memset(f + 30, 0xff, 4);
    store_be16(f + 34, sport);
    store_be16(f + 36, dport);
    store_be16(f + 38, 26);
    return 60;
}

static void test_ip4(void **state)
{
    static const uint8_t none[4], ten1[4] = { 10, 0, 0, 1 }, ten2[4] = { 10, 0, 0, 2 }, group[4] = { 224, 0, 0, 1 };
    struct net_ip ip = ip4(1);
    struct world w;
    uint8_t f[80];

    begin_filtered(&w);
    assert_true(passes(&w, 1, f, udp4(f, 1, ten1, 5000, 53, 0)));
    assert_false(passes(&w, 1, f, udp4(f, 1, ten2, 5000, 53, 0))); /* the neighbour's */
    assert_false(passes(&w, 1, f, udp4(f, 2, ten1, 5000, 53, 0))); /* in the neighbour's MAC */
    assert_false(passes(&w, 1, f, udp4(f, 1, group, 5000, 53, 0)));
    assert_true(passes(&w, 3, f, udp4(f, 3, ten2, 5000, 53, 0))); /* unfiltered */
    /* No address yet: only to ask for one, and not in pieces. */
    assert_true(passes(&w, 1, f, udp4(f, 1, none, 68, 67, 0)));
    assert_false(passes(&w, 1, f, udp4(f, 1, none, 68, 53, 0)));
    assert_false(passes(&w, 1, f, udp4(f, 1, none, 5000, 67, 0)));
    assert_false(passes(&w, 1, f, udp4(f, 1, none, 68, 67, 0x2000)));
    assert_false(passes(&w, 1, f, udp4(f, 1, none, 68, 67, 0x0010)));
    /* DHCP answers come from the gateway. */
    assert_false(passes(&w, 1, f, udp4(f, 1, ten1, 67, 68, 0)));
    assert_true(passes(&w, 0, f, udp4(f, 0, ten2, 67, 68, 0)));
    /* Cut off, wrong version, header longer than the packet, ports out of sight. */
    (void)udp4(f, 1, ten1, 5000, 53, 0);
    assert_false(passes(&w, 1, f, 33));
    f[14] = 0x65;
    assert_false(passes(&w, 1, f, 60));
    f[14] = 0x44;
    assert_false(passes(&w, 1, f, 60));
    f[14] = 0x4f;
    assert_false(passes(&w, 1, f, 60)); /* 60 bytes of header in 46 */
    f[14] = 0x4a;
    assert_false(passes(&w, 1, f, 60)); /* 40, and 6 of UDP */
    /* Other protocols than these three are nobody's business. */
    assert_int_equal(say(&w, 1, broadcast, -1), 0);
    /* Leases end. */
    net_switch_port_forbid_ip(w.p[2]->port, &ip); /* not its own: nothing */
    assert_true(passes(&w, 1, f, udp4(f, 1, ten1, 5000, 53, 0)));
    net_switch_port_forbid_ip(w.p[1]->port, &ip);
    assert_false(passes(&w, 1, f, udp4(f, 1, ten1, 5000, 53, 0)));
    /* And are given to others. */
    assert_int_equal(net_switch_port_allow_ip(w.p[2]->port, &ip), 0);
    assert_true(passes(&w, 2, f, udp4(f, 2, ten1, 5000, 53, 0)));
    assert_int_equal(net_switch_port_allow_ip(w.p[1]->port, &ip), 0);
    assert_false(passes(&w, 2, f, udp4(f, 2, ten1, 5000, 53, 0)));
    end(&w);
}

static size_t arp(uint8_t *f, unsigned from, unsigned sha, uint16_t op, uint8_t spa_last)
{
    uint8_t mac[6];

    mac_of(from, mac);
    (void)ethernet(f, broadcast, mac, -1, 0x0806);
    memset(f + 14, 0, 46);
    memcpy(f + 14, (uint8_t[]){ 0, 1, 8, 0, 6, 4 }, 6);
    store_be16(f + 20, op);
    mac_of(sha, f + 22);
    if (spa_last)
        memcpy(f + 28, (uint8_t[]){ 10, 0, 0, spa_last }, 4);
    return 60;
}

static void test_arp(void **state)
{
    struct world w;
    uint8_t f[80];

    begin_filtered(&w);
    assert_true(passes(&w, 1, f, arp(f, 1, 1, 1, 1)));
    assert_true(passes(&w, 1, f, arp(f, 1, 1, 2, 1)));
    assert_true(passes(&w, 1, f, arp(f, 1, 1, 1, 0)));  /* a probe */
    assert_false(passes(&w, 1, f, arp(f, 1, 1, 2, 0))); /* which is no answer */
    assert_false(passes(&w, 1, f, arp(f, 1, 1, 2, 2))); /* I am 10.0.0.2 */
    assert_false(passes(&w, 1, f, arp(f, 1, 2, 2, 1))); /* 10.0.0.1 is at the neighbour's */
    assert_false(passes(&w, 1, f, arp(f, 1, 1, 1, 9)));
    (void)arp(f, 1, 1, 1, 1);
    assert_false(passes(&w, 1, f, 41));
    f[18] = 16; /* lengths of something else */
    assert_false(passes(&w, 1, f, 60));
    assert_true(passes(&w, 3, f, arp(f, 3, 2, 2, 2)));
    end(&w);
}

/* ---- IPv6 ---- */

/* IPv6 and n bytes behind it. */
static size_t packet6(uint8_t *f, unsigned from, const struct net_ip *src, uint8_t next, const uint8_t *data, size_t n)
{
    uint8_t mac[6];

    mac_of(from, mac);
    (void)ethernet(f, broadcast, mac, -1, 0x86dd);
    memset(f + 14, 0, 40);
    f[14] = 0x60;
    store_be16(f + 18, (uint16_t)n);
    f[20] = next;
    f[21] = 255;
    memcpy(f + 22, src->bytes, 16);
    memcpy(f + 38, (uint8_t[]){ 0xff, 2, [15] = 1 }, 16);
    memcpy(f + 54, data, n);
    return 54 + n;
}

static size_t icmp6(uint8_t *f, unsigned from, const struct net_ip *src, uint8_t type, const struct net_ip *target,
                    int lla)
{
    uint8_t data[64] = { type };
    size_t n = 24;

    memcpy(data + 8, target->bytes, 16);
    if (type == 133 || type == 143 || type == 128)
        n = 8;
    if (lla >= 0) {
        data[n] = type == 136 ? 2 : 1;
        data[n + 1] = 1;
        mac_of((unsigned)lla, data + n + 2);
        n += 8;
    }
    return packet6(f, from, src, 58, data, n);
}

static void test_ip6(void **state)
{
    const struct net_ip any = { 0 }, mine = ip6(false, 1), his = ip6(false, 2), local = ip6(true, 1);
    const struct net_ip outside = { .bytes = { 0x20, 1, 0xd, 0xb8, [15] = 1 } };
    const struct net_ip group = { .bytes = { 0xff, 2, [15] = 1 } };
    uint8_t f[256], udp[8] = { 0x13, 0x88, 0, 53 };
    struct world w;

    begin_filtered(&w);
    /* Whoever comes first has it. */
    assert_true(passes(&w, 1, f, packet6(f, 1, &mine, 17, udp, 8)));
    assert_true(passes(&w, 2, f, packet6(f, 2, &his, 17, udp, 8)));
    assert_false(passes(&w, 1, f, packet6(f, 1, &his, 17, udp, 8)));
    assert_false(passes(&w, 2, f, packet6(f, 2, &mine, 17, udp, 8)));
    assert_true(passes(&w, 1, f, packet6(f, 1, &local, 17, udp, 8)));
    assert_false(passes(&w, 2, f, packet6(f, 2, &local, 17, udp, 8)));
    assert_false(passes(&w, 1, f, packet6(f, 1, &outside, 17, udp, 8)));
    assert_false(passes(&w, 1, f, packet6(f, 1, &group, 17, udp, 8)));
    assert_false(passes(&w, 1, f, packet6(f, 1, &any, 17, udp, 8)));
    /* Neighbour discovery. */
    assert_true(passes(&w, 1, f, icmp6(f, 1, &any, 135, &his, -1))); /* is it free? */
    assert_true(passes(&w, 1, f, icmp6(f, 1, &mine, 135, &his, 1)));
    assert_false(passes(&w, 1, f, icmp6(f, 1, &mine, 135, &his, 2))); /* I am at the neighbour's */
    assert_true(passes(&w, 1, f, icmp6(f, 1, &mine, 136, &mine, 1)));
    assert_false(passes(&w, 1, f, icmp6(f, 1, &mine, 136, &his, 1))); /* his address is mine */
    assert_false(passes(&w, 1, f, icmp6(f, 1, &mine, 136, &mine, 2)));
    assert_false(passes(&w, 1, f, icmp6(f, 1, &any, 136, &mine, 1)));
    assert_true(passes(&w, 1, f, icmp6(f, 1, &any, 133, &any, -1)));
    assert_true(passes(&w, 1, f, icmp6(f, 1, &any, 143, &any, -1)));
    assert_false(passes(&w, 1, f, icmp6(f, 1, &any, 128, &any, -1))); /* no ping from nowhere */
    assert_true(passes(&w, 1, f, icmp6(f, 1, &mine, 128, &any, -1)));
    /* Routers and DHCP servers are trusted ports. */
    for (uint8_t type = 134; type <= 137; type = (uint8_t)(type + 3)) {
        assert_false(passes(&w, 1, f, icmp6(f, 1, &local, type, &mine, -1)));
        assert_true(passes(&w, 0, f, icmp6(f, 0, &outside, type, &mine, -1)));
    }
    store_be16(udp, 547);
    assert_false(passes(&w, 1, f, packet6(f, 1, &local, 17, udp, 8)));
    assert_true(passes(&w, 0, f, packet6(f, 0, &outside, 17, udp, 8)));
    store_be16(udp, 546);
    assert_true(passes(&w, 1, f, packet6(f, 1, &local, 17, udp, 8)));
    assert_false(passes(&w, 1, f, packet6(f, 1, &local, 17, udp, 7)));
    /* What belongs to a port goes with it. */
    net_switch_port_remove(w.p[2]->port);
    w.p[2] = NULL;
    assert_true(passes(&w, 1, f, packet6(f, 1, &his, 17, udp, 8)));
    end(&w);
}

/* What is hidden behind extension headers and in fragments (RFC 7113, 6980). */
static void test_ip6_hidden(void **state)
{
    const struct net_ip local = ip6(true, 1);
    uint8_t f[512], data[256];
    struct world w;

    begin_filtered(&w);
    memset(data, 0, sizeof(data));
    data[0] = 58; /* destination options, then a router advertisement */
    data[8] = 134;
    assert_false(passes(&w, 1, f, packet6(f, 1, &local, 60, data, 32)));
    data[8] = 128;
    assert_true(passes(&w, 1, f, packet6(f, 1, &local, 60, data, 32)));
    data[1] = 255; /* longer than the packet */
    assert_false(passes(&w, 1, f, packet6(f, 1, &local, 60, data, 32)));
    data[1] = 0;
    assert_false(passes(&w, 1, f, packet6(f, 1, &local, 60, data, 7)));
    data[8] = 134; /* a first fragment with it */
    data[3] = 1;
    assert_false(passes(&w, 1, f, packet6(f, 1, &local, 44, data, 32)));
    data[8] = 135;
    assert_false(passes(&w, 1, f, packet6(f, 1, &local, 44, data, 32)));
    data[8] = 128;
    assert_true(passes(&w, 1, f, packet6(f, 1, &local, 44, data, 32)));
    assert_false(passes(&w, 1, f, packet6(f, 1, &local, 44, data, 12))); /* its type in the next one */
    data[2] = 0x05;                                                      /* a later fragment */
    assert_true(passes(&w, 1, f, packet6(f, 1, &local, 44, data, 32)));
    memset(data, 0, sizeof(data)); /* more headers than anybody needs: hop-by-hop, each before another */
    assert_false(passes(&w, 1, f, packet6(f, 1, &local, 0, data, sizeof(data))));
    (void)packet6(f, 1, &local, 59, data, 0);
    assert_false(passes(&w, 1, f, 53));
    f[14] = 0x40;
    assert_false(passes(&w, 1, f, 54));
    /* Options that make no sense. */
    memset(data, 0, sizeof(data));
    data[0] = 133;
    data[8] = 1;
    assert_false(passes(&w, 1, f, packet6(f, 1, &local, 58, data, 16))); /* length 0 */
    data[9] = 2;
    assert_false(passes(&w, 1, f, packet6(f, 1, &local, 58, data, 16))); /* beyond the end */
    end(&w);
}

/* A port cannot hoard addresses, nor take those that are known to be others'. */
static void test_claims(void **state)
{
    struct net_ip ip = ip6(false, 1), gateway = ip6(false, 0xfe), eui = ip6(true, 0);
    uint8_t f[256], udp[8] = { 0x13, 0x88, 0, 53 }, mac[6];
    struct world w;

    begin_filtered(&w);
    assert_int_equal(net_switch_port_allow_ip(w.p[0]->port, &gateway), 0);
    assert_false(passes(&w, 1, f, packet6(f, 1, &gateway, 17, udp, 8)));
    /* The address that the neighbour will make from its MAC. */
    mac_of(2, mac);
    memcpy(eui.bytes + 8, (uint8_t[]){ mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5] }, 8);
    assert_false(passes(&w, 1, f, packet6(f, 1, &eui, 17, udp, 8)));
    assert_true(passes(&w, 2, f, packet6(f, 2, &eui, 17, udp, 8)));
    /* The oldest claim goes when there are too many; what was allowed stays. */
    for (unsigned i = 0; i < 100; i++) {
        ip.bytes[14] = (uint8_t)i;
        assert_true(passes(&w, 1, f, packet6(f, 1, &ip, 17, udp, 8)));
    }
    assert_true(passes(&w, 1, f, udp4(f, 1, (uint8_t[]){ 10, 0, 0, 1 }, 5000, 53, 0)));
    assert_false(passes(&w, 2, f, packet6(f, 2, &ip, 17, udp, 8)));
    ip.bytes[14] = 0;
    assert_true(passes(&w, 2, f, packet6(f, 2, &ip, 17, udp, 8)));
    /* As many as a port may have, by name: no room for claims. */
    for (unsigned i = 0; i < NET_PORT_IPS_MAX + 4; i++) {
        struct net_ip allowed = ip4((uint8_t)(100 + i));
        int r = net_switch_port_allow_ip(w.p[2]->port, &allowed);

        assert_int_equal(r, i < NET_PORT_IPS_MAX - 1 ? 0 : -ENOSPC);
    }
    ip.bytes[14] = 200;
    assert_false(passes(&w, 2, f, packet6(f, 2, &ip, 17, udp, 8)));
    end(&w);
}

/* Who hears a duplicate address detection cannot take the address away, nor make the other give it up. */
static void test_dad(void **state)
{
    const struct net_ip any = { 0 }, his = ip6(false, 2), local = ip6(true, 2), mine = ip6(false, 1);
    struct net_ip eui = ip6(true, 0);
    uint8_t f[256], udp[8] = { 0x13, 0x88, 0, 53 }, mac[6];
    struct world w;

    begin_filtered(&w);
    for (unsigned i = 0; i < 2; i++) { /* at the first start, and when the guest starts again */
        assert_true(passes(&w, 2, f, icmp6(f, 2, &any, 135, &his, -1)));
        assert_true(passes(&w, 2, f, icmp6(f, 2, &any, 135, &local, -1)));
        assert_false(passes(&w, 1, f, icmp6(f, 1, &any, 135, &his, -1))); /* I want it, too */
        assert_false(passes(&w, 1, f, icmp6(f, 1, &any, 135, &local, -1)));
        assert_false(passes(&w, 1, f, icmp6(f, 1, &mine, 136, &his, 1))); /* it is mine */
        assert_false(passes(&w, 1, f, packet6(f, 1, &his, 17, udp, 8)));
        assert_true(passes(&w, 2, f, icmp6(f, 2, &any, 135, &his, -1))); /* asked once more */
        assert_true(passes(&w, 2, f, packet6(f, 2, &his, 17, udp, 8)));
        assert_true(passes(&w, 1, f, icmp6(f, 1, &any, 135, &his, -1))); /* now it is told */
        assert_false(passes(&w, 1, f, packet6(f, 1, &his, 17, udp, 8)));
        assert_true(passes(&w, 2, f, packet6(f, 2, &his, 17, udp, 8)));
    }
    /* The address that is made from the neighbour's MAC. */
    mac_of(2, mac);
    memcpy(eui.bytes + 8, (uint8_t[]){ mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5] }, 8);
    assert_false(passes(&w, 1, f, icmp6(f, 1, &any, 135, &eui, -1)));
    assert_true(passes(&w, 2, f, icmp6(f, 2, &any, 135, &eui, -1)));
    end(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ip4),        cmocka_unit_test(test_arp),    cmocka_unit_test(test_ip6),
        cmocka_unit_test(test_ip6_hidden), cmocka_unit_test(test_claims), cmocka_unit_test(test_dad),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
