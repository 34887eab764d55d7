/* DNS: names, queries (one of them scapy's), answers. */
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
#include "wire/dns.h"

#define HEADERS 42 /* Ethernet, IPv4, UDP in front of vector_query */

static struct dns_name name(const char *text)
{
    struct dns_name n;

    assert_int_equal(dns_name_parse(text, &n), 0);
    return n;
}

static void test_query(void **state)
{
    struct dns_query q;
    const uint8_t *msg = (const uint8_t *)vector_query + HEADERS;
    struct dns_name expected = name("WEB.net.internal.");

    assert_int_equal(dns_query_parse(msg, VECTOR_QUERY_LEN - HEADERS, &q), 0);
    assert_int_equal(q.id, 0x4242);
    assert_true(q.recursion_desired);
    assert_true(dns_name_equal(&q.name, &expected));
    assert_int_equal(q.type, DNS_TYPE_AAAA);
    assert_int_equal(q.class, DNS_CLASS_IN);
    assert_int_equal(q.question_end, 12 + 18 + 4);
    assert_true(q.edns);
    assert_int_equal(q.udp_size, 1232);
    for (size_t len = 0; len < VECTOR_QUERY_LEN - HEADERS; len++) {
        uint8_t *copy = malloc(len + !len);

        assert_non_null(copy);
        memcpy(copy, msg, len);
        assert_int_equal(dns_query_parse(copy, len, &q), len < DNS_HEADER ? -EBADMSG : -EINVAL);
        assert_true(len < DNS_HEADER || q.question_end == DNS_HEADER);
        free(copy);
    }
}

static void test_odd_queries(void **state)
{
    uint8_t msg[VECTOR_QUERY_LEN - HEADERS];
    struct dns_query q;

    memcpy(msg, vector_query + HEADERS, sizeof(msg));
    msg[2] |= 0x80; /* a response */
    assert_int_equal(dns_query_parse(msg, sizeof(msg), &q), -EBADMSG);
    msg[2] = 0x20; /* opcode 4, notify */
    assert_int_equal(dns_query_parse(msg, sizeof(msg), &q), -EOPNOTSUPP);
    assert_int_equal(q.opcode, 4);
    msg[2] = 1;
    msg[5] = 2; /* two questions */
    assert_int_equal(dns_query_parse(msg, sizeof(msg), &q), -EINVAL);
    msg[5] = 1;
    msg[12] = 0xc0; /* a pointer in the question */
    assert_int_equal(dns_query_parse(msg, sizeof(msg), &q), -EINVAL);
    msg[12] = 3;
    msg[7] = 200; /* more records than there are */
    assert_int_equal(dns_query_parse(msg, sizeof(msg), &q), -EINVAL);
}

static void test_long_names(void **state)
{
    char text[300];
    struct dns_name n;

    memset(text, 'a', sizeof(text));
    for (unsigned i = 63; i < sizeof(text); i += 64)
        text[i] = '.';
    text[64 * 3 + 61] = '\0'; /* 255 bytes in wire form */
    assert_int_equal(dns_name_parse(text, &n), 0);
    assert_int_equal(n.len, 255);
    text[64 * 3 + 61] = 'a';
    text[64 * 3 + 62] = '\0';
    assert_int_equal(dns_name_parse(text, &n), -EINVAL);
    assert_int_equal(dns_name_parse("a..b", &n), -EINVAL);
    assert_int_equal(dns_name_parse(".a", &n), -EINVAL);
    assert_int_equal(dns_name_parse("", &n), 0);
    assert_int_equal(n.len, 1);
}

static void test_below(void **state)
{
    struct dns_name zone = name("net.internal"), n;
    char label[64];
    unsigned labels;

    n = name("a.b.NET.internal");
    assert_true(dns_name_is_below(&n, &zone, &labels));
    assert_int_equal(labels, 2);
    n = name("net.internal");
    assert_true(dns_name_is_below(&n, &zone, &labels));
    assert_int_equal(labels, 0);
    /* Ends alike, but not at a label. */
    n = name("xnet.internal");
    assert_false(dns_name_is_below(&n, &zone, NULL));
    n = name("internal");
    assert_false(dns_name_is_below(&n, &zone, NULL));
    assert_true(dns_name_join("web", &zone, &n));
    assert_int_equal(dns_name_labels(&n), 3);
    assert_true(dns_name_first_label(&n, label));
    assert_string_equal(label, "web");
    n.wire[2] = '.';
    assert_false(dns_name_first_label(&n, label));
    assert_false(dns_name_join("", &zone, &n));
    assert_false(dns_name_join("a.b", &zone, &n));
}

static void test_reverse(void **state)
{
    struct dns_name n = name("7.0.88.10.IN-addr.arpa");
    uint8_t addr6[16], expected[16] = { 0xfd, 0x88, [15] = 0x1f };
    uint32_t addr;

    assert_true(dns_name_reverse4(&n, &addr));
    assert_int_equal(addr, 0x0a580007);
    n = name("0.88.10.in-addr.arpa");
    assert_false(dns_name_reverse4(&n, &addr));
    n = name("256.0.88.10.in-addr.arpa");
    assert_false(dns_name_reverse4(&n, &addr));
    n = name("07.0.88.10.in-addr.arpa");
    assert_false(dns_name_reverse4(&n, &addr));
    n = name("f.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.8.D.F.ip6.arpa");
    assert_true(dns_name_reverse6(&n, addr6));
    assert_memory_equal(addr6, expected, 16);
    n = name("g.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.8.d.f.ip6.arpa");
    assert_false(dns_name_reverse6(&n, addr6));
}

static void test_answer(void **state)
{
    const uint8_t *msg = (const uint8_t *)vector_query + HEADERS;
    struct dns_name zone = name("net.internal");
    uint8_t addr[16] = { 0xfd, [15] = 5 }, out[1232];
    struct dns_query q;
    struct dns_writer w;
    size_t len;

    assert_int_equal(dns_query_parse(msg, VECTOR_QUERY_LEN - HEADERS, &q), 0);
    dns_answer_begin(&w, out, sizeof(out), msg, &q, DNS_NOERROR, true);
    dns_answer_add(&w, DNS_TYPE_AAAA, 10, addr, 16);
    len = dns_answer_end(&w, &q);
    assert_int_equal(len, q.question_end + 28 + 11);
    assert_int_equal(load_be16(out + 2), 0x8580);
    assert_memory_equal(out + 4, "\0\1\0\1\0\0\0\1", 8);
    assert_memory_equal(out + q.question_end, "\xc0\x0c\0\x1c\0\1\0\0\0\x0a\0\x10", 12);
    /* What does not fit leaves nothing but the question and TC. */
    dns_answer_begin(&w, out, DNS_UDP_MIN, msg, &q, DNS_NOERROR, true);
    for (unsigned i = 0; i < 40; i++)
        dns_answer_add(&w, DNS_TYPE_AAAA, 10, addr, 16);
    len = dns_answer_end(&w, &q);
    assert_int_equal(len, q.question_end + 11);
    assert_int_equal(load_be16(out + 2), 0x8780);
    assert_memory_equal(out + 4, "\0\1\0\0\0\0\0\1", 8);
    dns_answer_begin(&w, out, sizeof(out), msg, &q, DNS_NXDOMAIN, true);
    dns_answer_add_soa(&w, &zone, 10, false);
    len = dns_answer_end(&w, &q);
    assert_int_equal(out[3] & 15, DNS_NXDOMAIN);
    assert_memory_equal(out + 4, "\0\1\0\0\0\1\0\1", 8);
    assert_int_equal(load_be16(out + q.question_end + zone.len), DNS_TYPE_SOA);
}

static void test_response(void **state)
{
    uint8_t query[VECTOR_QUERY_LEN - HEADERS], resp[VECTOR_RESP_LEN];
    struct dns_query q;

    memcpy(query, vector_query + HEADERS, sizeof(query));
    memcpy(resp, vector_resp, sizeof(resp));
    assert_int_equal(dns_query_parse(query, sizeof(query), &q), 0);
    assert_false(dns_response_matches(resp, sizeof(resp), query, q.question_end)); /* another ID */
    store_be16(query, 0x1111);
    assert_true(dns_response_matches(resp, sizeof(resp), query, q.question_end));
    assert_false(dns_response_matches(resp, q.question_end - 1, query, q.question_end));
    resp[13] ^= 0x20; /* another case is the same name, another letter is not */
    assert_true(dns_response_matches(resp, sizeof(resp), query, q.question_end));
    resp[13] ^= 1;
    assert_false(dns_response_matches(resp, sizeof(resp), query, q.question_end));
    resp[13] ^= 1;
    resp[q.question_end - 3] ^= 0x20; /* another type */
    assert_false(dns_response_matches(resp, sizeof(resp), query, q.question_end));
    resp[q.question_end - 3] ^= 0x20;
    resp[2] &= 0x7f; /* a query */
    assert_false(dns_response_matches(resp, sizeof(resp), query, q.question_end));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_query),    cmocka_unit_test(test_odd_queries), cmocka_unit_test(test_long_names),
        cmocka_unit_test(test_below),    cmocka_unit_test(test_reverse),     cmocka_unit_test(test_answer),
        cmocka_unit_test(test_response),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
