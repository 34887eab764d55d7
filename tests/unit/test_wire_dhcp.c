/* Headers from Ethernet to UDP, DHCP and DHCPv6: reading what scapy made, and what we make read back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "net_vectors.h"
#include "wire/dhcp.h"
#include "wire/dhcp6.h"
#include "wire/inet.h"

static const uint8_t guest[6] = { 0x52, 0x54, 0, 0x12, 0x34, 0x56 }, gateway[6] = { 0x52, 0x55, 10, 88, 0, 1 };

/* The content of a vector's UDP datagram. */
static struct inet_udp open_udp(const char *vector, size_t len, struct inet_packet *p)
{
    struct inet_udp udp;

    assert_int_equal(inet_packet_parse((const uint8_t *)vector, len, p), 0);
    assert_memory_equal(p->flow.src_mac, guest, 6);
    assert_int_equal(inet_udp_parse(p, false, &udp), 0);
    return udp;
}

static void test_request(void **state)
{
    struct inet_packet p;
    struct inet_udp udp = open_udp(vector_request, VECTOR_REQUEST_LEN, &p);
    struct dhcp_message m;

    assert_int_equal(p.flow.dst.ip4, UINT32_MAX);
    assert_int_equal(udp.dst_port, DHCP_SERVER_PORT);
    assert_int_equal(dhcp_parse(udp.data, udp.len, &m), 0);
    assert_int_equal(m.type, DHCP_REQUEST);
    assert_int_equal(m.xid, 0x12345678);
    assert_int_equal(m.flags, DHCP_FLAG_BROADCAST);
    assert_memory_equal(m.mac, guest, 6);
    assert_string_equal(m.host_name, "web-1");
    assert_int_equal(m.requested_ip, 0x0a580007);
    assert_int_equal(m.server_id, 0x0a580001);
    assert_int_equal(m.client_id_len, 7);
    assert_int_equal(m.client_id[0], 1);
}

/* Cut anywhere, it is refused or read without the rest; never beyond its end (ASan looks at exact copies). */
static void test_cut(void **state)
{
    struct inet_packet p;
    struct inet_udp udp = open_udp(vector_request, VECTOR_REQUEST_LEN, &p);

    for (size_t len = 0; len < udp.len; len++) {
        uint8_t *copy = malloc(len + !len);
        struct dhcp_message m;

        assert_non_null(copy);
        memcpy(copy, udp.data, len);
        if (dhcp_parse(copy, len, &m) == 0)
            assert_true(len > 240 && m.type == DHCP_REQUEST);
        free(copy);
    }
    for (size_t len = 0; len < VECTOR_REQUEST_LEN; len++) {
        uint8_t *copy = malloc(len + !len);

        assert_non_null(copy);
        memcpy(copy, vector_request, len);
        assert_true(inet_packet_parse(copy, len, &p) < 0);
        free(copy);
    }
}

/* Options go on in the fields of file and server name where option 52 says so. */
static void test_overload(void **state)
{
    uint8_t msg[300] = { 1, 1, 6 };
    struct dhcp_message m;

    store_be32(msg + 236, 0x63825363);
    memcpy(msg + 240, "\x34\x01\x03\xff", 4);
    memcpy(msg + 108, "\x35\x01\x01\xff", 4);
    memcpy(msg + 44, "\x0c\x02vm\xff", 5);
    assert_int_equal(dhcp_parse(msg, sizeof(msg), &m), 0);
    assert_int_equal(m.type, DHCP_DISCOVER);
    assert_string_equal(m.host_name, "vm");
    msg[242] = 2;
    assert_int_equal(dhcp_parse(msg, sizeof(msg), &m), -EPROTONOSUPPORT); /* no message type: BOOTP */
    msg[242] = 1;
    msg[109] = 200; /* beyond the field */
    assert_int_equal(dhcp_parse(msg, sizeof(msg), &m), -EBADMSG);
    msg[0] = 2;
    assert_int_equal(dhcp_parse(msg, sizeof(msg), &m), -EPROTONOSUPPORT);
}

static const uint8_t *find_option(const uint8_t *msg, size_t len, uint8_t code)
{
    for (size_t at = 240; at < len && msg[at] != 255; at += msg[at] ? 2U + msg[at + 1] : 1U) {
        if (msg[at] == code)
            return msg + at + 1;
    }
    return NULL;
}

static void test_reply(void **state)
{
    char domain[254];
    struct dhcp_message m = { .xid = 7, .client_id_len = 64 };
    struct dhcp_reply r = { .type = DHCP_ACK,
                            .yiaddr = 0x0a580007,
                            .server_id = 0x0a580001,
                            .lease_s = 3600,
                            .mask = 0xffffff00,
                            .router = 0x0a580001,
                            .dns = 0x0a580001,
                            .broadcast = 0x0a5800ff,
                            .mtu = 1400,
                            .domain = "net.internal",
                            .host_name = "web" };
    uint8_t out[DHCP_REPLY_MAX];
    size_t len = dhcp_reply_build(&r, &m, out);

    assert_true(len >= 300 && len <= sizeof(out));
    assert_int_equal(load_be32(out + 16), 0x0a580007);
    assert_memory_equal(find_option(out, len, 53), "\1\5", 2);
    assert_memory_equal(find_option(out, len, 51), "\4\0\0\x0e\x10", 5);
    assert_memory_equal(find_option(out, len, 58), "\4\0\0\x07\x08", 5);
    assert_memory_equal(find_option(out, len, 59), "\4\0\0\x0c\x4e", 5);
    assert_memory_equal(find_option(out, len, 26), "\2\x05\x78", 3);
    assert_memory_equal(find_option(out, len, 15), "\014net.internal", 13);
    /* What finds no room is left out, whole. */
    memset(domain, 'a', 253);
    domain[253] = '\0';
    r.domain = domain;
    len = dhcp_reply_build(&r, &m, out);
    assert_true(len <= sizeof(out));
    assert_null(find_option(out, len, 15));
    assert_non_null(find_option(out, len, 12));
    assert_int_equal(out[len - 1] == 255 || len == 300, 1);
}

static void test_host_names(void **state)
{
    static const struct {
        const char *given, *taken;
    } cases[] = {
        { "VM", "vm" },
        { "a.b.c", "a" },
        { "x-1", "x-1" },
        { "-x", NULL },
        { "x-", NULL },
        { "a b", NULL },
        { "", NULL },
        { ".a", NULL },
        { "a_b", NULL },
        { "\xc3\xa4", NULL },
        { "0123456789012345678901234567890123456789012345678901234567890123", NULL },
    };
    char name[DHCP_HOST_MAX + 1];

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        bool ok = dhcp_host_name((const uint8_t *)cases[i].given, strlen(cases[i].given), name);

        assert_int_equal(ok, cases[i].taken != NULL);
        if (ok)
            assert_string_equal(name, cases[i].taken);
    }
}

static void test_dhcp6(void **state)
{
    static const uint8_t dns[16] = { 0xfd, 0x88, [15] = 1 };
    struct inet_packet p;
    struct inet_udp udp = open_udp(vector_info6, VECTOR_INFO6_LEN, &p);
    struct dhcp6_message m;
    uint8_t out[DHCP6_REPLY_MAX];
    size_t len;

    assert_int_equal(udp.dst_port, DHCP6_SERVER_PORT);
    assert_int_equal(dhcp6_parse(udp.data, udp.len, &m), 0);
    assert_int_equal(m.type, DHCP6_INFORMATION_REQUEST);
    assert_memory_equal(m.transaction, "\xab\xcd\xef", 3);
    assert_int_equal(m.client_id_len, 10);
    assert_null(m.server_id);
    len = dhcp6_reply_build(&m, gateway, dns, (const uint8_t *)"\3net\10internal", 14, 1, out);
    assert_int_equal(len, 4 + 14 + 14 + 20 + 18 + 8);
    assert_int_equal(dhcp6_parse(out, len, &m), 0);
    assert_int_equal(m.type, DHCP6_REPLY);
    assert_memory_equal(m.client_id + 4, guest, 6);
    assert_memory_equal(m.server_id + 4, gateway, 6);
    assert_memory_equal(out + len - 4, "\0\0\2\x58", 4); /* 600 s, the least */
    for (size_t n = 0; n < udp.len; n++) {
        uint8_t *copy = malloc(n + !n);

        assert_non_null(copy);
        memcpy(copy, udp.data, n);
        if (dhcp6_parse(copy, n, &m) == 0 && m.client_id)
            assert_true(m.client_id + m.client_id_len <= copy + n);
        free(copy);
    }
}

static void test_arp(void **state)
{
    uint8_t out[INET_ARP_FRAME];
    struct inet_arp a;

    assert_int_equal(inet_arp_parse((const uint8_t *)vector_arp, VECTOR_ARP_LEN, &a), 0);
    assert_int_equal(a.op, INET_ARP_REQUEST);
    assert_int_equal(a.sender_ip, 0x0a580007);
    assert_int_equal(a.target_ip, 0x0a580001);
    assert_int_equal(inet_arp_build((const uint8_t *)"\xff\xff\xff\xff\xff\xff", &a, out), VECTOR_ARP_LEN);
    assert_memory_equal(out, vector_arp, VECTOR_ARP_LEN);
    assert_int_equal(inet_arp_parse((const uint8_t *)vector_arp, 41, &a), -EBADMSG);
    assert_int_equal(inet_arp_parse((const uint8_t *)vector_ping, VECTOR_PING_LEN, &a), -EPROTONOSUPPORT);
}

/* The same content in our headers has scapy's checksums, and a damaged one is noticed. */
static void test_udp_sums(void **state)
{
    static const struct {
        const char *vector;
        size_t len;
    } cases[] = { { vector_request, VECTOR_REQUEST_LEN },
                  { vector_info6, VECTOR_INFO6_LEN },
                  { vector_query, VECTOR_QUERY_LEN } };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct inet_packet p;
        struct inet_udp udp = open_udp(cases[i].vector, cases[i].len, &p), back;
        uint8_t out[1024];
        size_t len = inet_udp_build(&p.flow, udp.src_port, udp.dst_port, udp.data, udp.len, out, sizeof(out));

        assert_int_equal(len, cases[i].len);
        assert_memory_equal(out + 34, cases[i].vector + 34, p.flow.is6 ? len - 34 : 0);
        assert_memory_equal(out + 34, cases[i].vector + 34, len - 34); /* behind the IP header: sums and all */
        assert_int_equal(inet_packet_parse(out, len, &p), 0);
        assert_int_equal(inet_udp_parse(&p, false, &back), 0);
        out[len - 1] ^= 1;
        assert_int_equal(inet_udp_parse(&p, false, &back), -EBADMSG);
        assert_int_equal(inet_udp_parse(&p, true, &back), 0);
        assert_int_equal(inet_udp_build(&p.flow, 1, 2, udp.data, udp.len, out, len - 1), 0);
    }
}

static void test_icmp_sums(void **state)
{
    static const struct {
        const char *vector;
        size_t len;
    } cases[] = { { vector_ping, VECTOR_PING_LEN }, { vector_ns, VECTOR_NS_LEN }, { vector_rs, VECTOR_RS_LEN } };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct inet_packet p;
        uint8_t out[256];
        size_t len;

        assert_int_equal(inet_packet_parse((const uint8_t *)cases[i].vector, cases[i].len, &p), 0);
        assert_true(inet_icmp_sum_ok(&p));
        len = inet_icmp_build(&p.flow, p.data, p.len, out, sizeof(out));
        assert_int_equal(len, cases[i].len);
        assert_memory_equal(out + 34, cases[i].vector + 34, len - 34);
        assert_int_equal(inet_packet_parse(out, len, &p), 0);
        out[len - 2] ^= 0x10;
        assert_false(inet_icmp_sum_ok(&p));
    }
}

static void test_no_fragments(void **state)
{
    uint8_t copy[VECTOR_PING_LEN];
    struct inet_packet p;

    memcpy(copy, vector_ping, sizeof(copy));
    copy[20] |= 0x20;                                                      /* more fragments */
    assert_int_equal(inet_packet_parse(copy, sizeof(copy), &p), -EBADMSG); /* the sum no longer fits */
    store_be16(copy + 24, (uint16_t)(load_be16(copy + 24) - 0x2000));
    assert_int_equal(inet_packet_parse(copy, sizeof(copy), &p), -EPROTONOSUPPORT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_request),      cmocka_unit_test(test_cut),        cmocka_unit_test(test_overload),
        cmocka_unit_test(test_reply),        cmocka_unit_test(test_host_names), cmocka_unit_test(test_dhcp6),
        cmocka_unit_test(test_arp),          cmocka_unit_test(test_udp_sums),   cmocka_unit_test(test_icmp_sums),
        cmocka_unit_test(test_no_fragments),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
