/* Network descriptions: defaults, JSON round trip, refusal of what is wrong; addresses as text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/net_spec.h"
#include "refused.h"

/* Parse text, which must be accepted. */
static void accept_json(const char *text, struct net_spec *ret_spec)
{
    struct err e = { 0 };

    if (net_spec_from_json(text, ret_spec, &e) != 0)
        fail_msg("%s: %s", text, e.text);
}

static void test_default(void **state)
{
    struct net_spec a, b;
    struct err e = { 0 };
    uint8_t gateway[16];
    char addr[ADDR_IP6_TEXT];

    (void)state;
    net_spec_init_default(&a);
    b = a;
    assert_int_equal(net_spec_complete(&b, &e), 0);
    assert_memory_equal(&a, &b, sizeof(a)); /* it is complete as it comes */
    assert_string_equal(a.name, "default");
    assert_int_equal(a.gateway, 0x0abc0001);
    assert_int_equal(a.dhcp_first, 0x0abc0002);
    assert_int_equal(a.dhcp_last, 0x0abc00fe);
    assert_string_equal(a.domain, "default.internal");
    net_spec_gateway6(&a, gateway);
    addr_ip6_format(gateway, addr);
    assert_string_equal(addr, "fdca:1550:88::1");
}

static void test_round_trip(void **state)
{
    static const char text[] = "{\"name\":\"web-1\",\"mode\":\"nat\",\"backend\":\"nft\",\"subnet\":\"172.20.4.0/"
                               "22\",\"subnet6\":\"fd00:1:2:3::/64\","
                               "\"gateway\":\"172.20.7.254\",\"dhcp\":true,\"dhcp_range\":[\"172.20.4.16\",\"172.20.4."
                               "200\"],\"hosts\":[{\"mac\":"
                               "\"52:54:00:ab:CD:01\",\"name\":\"db\",\"ip\":\"172.20.4.2\"},{\"mac\":\"52-54-00-ab-cd-"
                               "02\",\"name\":null,\"ip\":"
                               "\"172.20.4.3\"}],\"dns\":false,\"domain\":\"lab.example\",\"mtu\":9000,\"forwards\":[{"
                               "\"proto\":\"udp\",\"host_addr\":"
                               "\"0::1\",\"host_port\":5353,\"guest\":\"fd00:1:2:3:0::9\",\"guest_port\":53},{"
                               "\"proto\":\"tcp\",\"host_port\":80,"
                               "\"guest\":\"db\",\"guest_port\":8080}],\"tap\":\"cs0\",\"bridge\":null,\"isolated_"
                               "ports\":true,\"mac_filter\":false}";
    struct net_spec s, again;
    char *out = NULL, *twice = NULL;

    (void)state;
    accept_json(text, &s);
    assert_int_equal(s.backend, NET_SPEC_NFT);
    assert_int_equal(s.subnet.prefix, 22);
    assert_int_equal(s.gateway, 0xac1407fe);
    assert_int_equal(s.n_hosts, 2);
    assert_int_equal(s.hosts[0].mac[4], 0xcd);
    assert_string_equal(s.hosts[0].name, "db");
    assert_string_equal(s.hosts[1].name, "");
    assert_string_equal(s.forwards[0].host_addr, "::1");
    assert_string_equal(s.forwards[0].guest, "fd00:1:2:3::9");
    assert_string_equal(s.forwards[1].host_addr, "127.0.0.1");
    assert_false(s.dns);
    assert_int_equal(s.mtu, 9000);
    assert_true(s.isolated_ports && !s.mac_filter);
    assert_int_equal(net_spec_to_json(&s, &out), 0);
    accept_json(out, &again);
    assert_int_equal(net_spec_to_json(&again, &twice), 0);
    assert_string_equal(out, twice);
    assert_memory_equal(&s.subnet6, &again.subnet6, sizeof(s.subnet6));
    assert_non_null(strstr(out, "\"subnet\":\"172.20.4.0/22\"")); /* no escaped slashes */
    free(out);
    free(twice);
}

static void test_what_follows(void **state)
{
    struct net_spec s;

    (void)state;
    accept_json("{\"name\":\"a\",\"subnet\":\"192.168.9.0/30\"}", &s);
    assert_int_equal(s.gateway, 0xc0a80901);
    assert_int_equal(s.dhcp_first, 0xc0a80902);
    assert_int_equal(s.dhcp_last, 0xc0a80902);
    assert_string_equal(s.domain, "a.internal");
    accept_json("{\"name\":\"a\",\"subnet\":\"192.168.9.0/24\",\"gateway\":\"192.168.9.254\"}", &s);
    assert_int_equal(s.dhcp_first, 0xc0a80901);
    assert_int_equal(s.dhcp_last, 0xc0a809fd);
    accept_json("{\"name\":\"l2\",\"mode\":\"isolated\",\"dhcp\":false,\"dns\":false}", &s);
    assert_int_equal(s.subnet.prefix, 0);
    accept_json("{\"name\":\"br\",\"mode\":\"bridge\",\"bridge\":\"br0\",\"dhcp\":false,\"dns\":false}", &s);
    assert_string_equal(s.bridge, "br0");
}

static int read_refused(const char *text, struct err *e)
{
    struct net_spec s;

    return net_spec_from_json(text, &s, e);
}

#define NAT "{\"name\":\"a\",\"subnet\":\"10.1.2.0/24\","

static void test_refused(void **state)
{
    static const struct refused cases[] = {
        { "", "not a JSON object" },
        { "[]", "not a JSON object" },
        { "{\"name\":\"a\"} x", "not a JSON object" },
        { "{}", "name '' is not allowed" },
        { "{\"name\":\"A\",\"subnet\":\"10.1.2.0/24\"}", "name 'A'" },
        { "{\"name\":\"a\"}", "NAT needs a subnet" },
        { "{\"name\":\"a\",\"mode\":\"isolated\"}", "DHCP needs a subnet" },
        { "{\"name\":\"a\",\"mode\":\"isolated\",\"dhcp\":false}", "DNS needs a subnet" },
        { "{\"name\":\"a\\u0000b\",\"subnet\":\"10.1.2.0/24\"}", "zero byte" },
        { "{\"name\":\"a\",\"subnet\":\"10.1.2.1/24\"}", "bits behind the prefix" },
        { "{\"name\":\"a\",\"subnet\":\"10.1.2.0\"}", "ADDRESS/PREFIX" },
        { "{\"name\":\"a\",\"subnet\":\"10.1.2.0/+8\"}", "ADDRESS/PREFIX" },
        { "{\"name\":\"a\",\"subnet\":\"10.1.2.0/31\"}", "no useful size" },
        { "{\"name\":\"a\",\"subnet\":\"127.0.0.0/8\"}", "no subnet for hosts" },
        { "{\"name\":\"a\",\"subnet\":\"224.0.0.0/8\"}", "no subnet for hosts" },
        { NAT "\"subnet6\":\"fd00::/48\"}", "must be a unicast /64" },
        { NAT "\"gateway\":\"10.1.2.0\"}", "gateway 10.1.2.0" },
        { NAT "\"gateway\":\"10.1.2.255\"}", "gateway 10.1.2.255" },
        { NAT "\"gateway\":\"10.1.3.1\"}", "gateway 10.1.3.1" },
        { NAT "\"gateway\":\"nine\"}", "no IPv4 address" },
        { NAT "\"dhcp_range\":[\"10.1.2.9\"]}", "first and a last" },
        { NAT "\"dhcp_range\":[\"10.1.2.9\",\"10.1.2.8\"]}", "DHCP range 10.1.2.9-10.1.2.8" },
        { NAT "\"dhcp_range\":[\"10.1.2.9\",\"10.1.2.255\"]}", "DHCP range" },
        { NAT "\"dhcp_range\":[\"10.1.2.1\",\"10.1.2.1\"]}", "DHCP range" },
        { NAT "\"mtu\":1279}", "from 1280 to 65520" },
        { NAT "\"mtu\":\"1500\"}", "whole number" },
        { NAT "\"mtu\":-1}", "whole number" },
        { NAT "\"dhcp\":1}", "true or false" },
        { NAT "\"dhcp\":null}", "true or false" },
        { NAT "\"mode\":\"Nat\"}", "mode 'Nat' is unknown" },
        { NAT "\"backend\":\"passt\"}", "back end 'passt' is unknown" },
        { NAT "\"colour\":1}", "unknown field 'colour'" },
        { NAT "\"domain\":\"a..b\"}", "domain 'a..b'" },
        { NAT "\"domain\":\"a-.b\"}", "domain 'a-.b'" },
        { NAT "\"tap\":\"tap0\"}", "belongs to mode bridge" },
        { NAT "\"backend\":\"nft\",\"tap\":\"a/b\"}", "name of an interface" },
        { "{\"name\":\"a\",\"mode\":\"bridge\",\"dhcp\":false,\"dns\":false}", "needs one interface" },
        { "{\"name\":\"a\",\"mode\":\"bridge\",\"tap\":\"t\",\"bridge\":\"b\",\"dhcp\":false,\"dns\":false}",
          "needs one interface" },
        { "{\"name\":\"a\",\"mode\":\"isolated\",\"backend\":\"nft\",\"subnet\":\"10.1.2.0/24\"}", "is for mode nat" },
        { NAT "\"hosts\":[{\"mac\":\"01:00:5e:00:00:01\",\"ip\":\"10.1.2.5\"}]}", "no card can have" },
        { NAT "\"hosts\":[{\"mac\":\"52:54:00:00:00:01\",\"ip\":\"10.1.2.1\"}]}", "no address for a guest" },
        { NAT "\"hosts\":[{\"mac\":\"52:54:00:00:00:1\",\"ip\":\"10.1.2.5\"}]}", "no MAC address" },
        { NAT "\"hosts\":[{\"ip\":\"10.1.2.5\"}]}", "no card can have" },
        { NAT "\"hosts\":[{\"mac\":\"52:54:00:00:00:01\",\"ip\":\"10.1.2.5\"},{\"mac\":\"52:54:00:00:00:02\","
              "\"ip\":\"10.1.2.5\"}]}",
          "share 10.1.2.5" },
        { NAT "\"hosts\":[5]}", "must be an object" },
        { NAT "\"forwards\":[{\"host_port\":80,\"guest\":\"10.1.3.5\",\"guest_port\":80}]}", "neither a name nor" },
        { NAT "\"forwards\":[{\"host_port\":0,\"guest\":\"x\",\"guest_port\":80}]}", "from 1 to 65535" },
        { NAT "\"forwards\":[{\"guest\":\"x\",\"guest_port\":80}]}", "ports from 1 to 65535" },
        { NAT "\"forwards\":[{\"host_addr\":\"localhost\",\"host_port\":1,\"guest\":\"x\",\"guest_port\":80}]}",
          "not an address of this host" },
        { NAT "\"forwards\":[{\"host_addr\":\"0::1\",\"host_port\":1,\"guest\":\"x\",\"guest_port\":80},{\"host_addr\":"
              "\"::1\",\"host_port\":1,\"guest\":\"y\",\"guest_port\":80}]}",
          "two port forwards from ::1 port 1" },
    };

    (void)state;
    refused_all(cases, ARRAY_SIZE(cases), read_refused);
}

static void test_too_many(void **state)
{
    char *text = malloc(64 + 80 * (NET_SPEC_HOSTS_MAX + 1)), *p = text;
    struct net_spec s;
    struct err e = { 0 };

    (void)state;
    p += sprintf(p, "{\"name\":\"a\",\"subnet\":\"10.0.0.0/16\",\"hosts\":[");
    for (int i = 0; i <= NET_SPEC_HOSTS_MAX; i++)
        p += sprintf(p, "%s{\"mac\":\"52:54:00:00:%02x:%02x\",\"ip\":\"10.0.%d.%d\"}", i ? "," : "", i >> 8, i & 255,
                     1 + i / 200, 1 + i % 200);
    sprintf(p, "]}");
    assert_int_equal(net_spec_from_json(text, &s, &e), -EINVAL);
    assert_non_null(strstr(e.text, "more than"));
    free(text);
    text = malloc(NET_SPEC_TEXT_MAX + 2);
    memset(text, ' ', NET_SPEC_TEXT_MAX + 1);
    text[NET_SPEC_TEXT_MAX + 1] = '\0';
    assert_int_equal(net_spec_from_json(text, &s, &e), -EINVAL);
    assert_non_null(strstr(e.text, "longer than"));
    free(text);
}

static void test_subnets(void **state)
{
    struct addr_subnet4 a, b, none = { 0 };
    struct addr_subnet6 c, d;
    uint8_t addr6[16];

    (void)state;
    assert_int_equal(addr_subnet4_parse("10.188.0.0/16", &a), 0);
    assert_int_equal(addr_subnet4_parse("10.188.3.0/24", &b), 0);
    assert_true(addr_subnet4_overlaps(&a, &b) && addr_subnet4_overlaps(&b, &a));
    assert_false(addr_subnet4_overlaps(&a, &none));
    assert_false(addr_subnet4_contains(&none, 1));
    assert_int_equal(addr_subnet4_parse("10.189.3.0/24", &b), 0);
    assert_false(addr_subnet4_overlaps(&a, &b));
    assert_int_equal(addr_subnet4_parse("1.2.3.4/32", &a), 0);
    assert_int_equal(addr_subnet4_last(&a), 0x01020304);
    assert_true(addr_subnet4_contains(&a, 0x01020304));
    assert_int_equal(addr_subnet4_parse("1.2.3.4/33", &a), -EINVAL);
    assert_int_equal(addr_subnet4_parse("1.2.3.0/0x18", &a), -EINVAL);
    assert_int_equal(addr_subnet4_parse("1.2.3.0/024", &a), 0);
    assert_int_equal(addr_subnet4_parse("1.2.3/24", &a), -EINVAL);
    assert_int_equal(addr_subnet4_parse("1.2.3.0/24 ", &a), -EINVAL);
    assert_int_equal(addr_subnet6_parse("fd00:0:0:8::/61", &c), 0);
    assert_int_equal(addr_subnet6_parse("fd00:0:0:f::/64", &d), 0);
    assert_true(addr_subnet6_overlaps(&c, &d));
    assert_int_equal(addr_subnet6_parse("fd00:0:0:10::/64", &d), 0);
    assert_false(addr_subnet6_overlaps(&c, &d));
    assert_int_equal(addr_subnet6_parse("fd00::1/64", &d), -ERANGE);
    assert_int_equal(addr_ip6_parse("fd00:0:0:a::5", addr6), 0);
    assert_true(addr_subnet6_contains(&c, addr6));
    assert_int_equal(addr_ip6_parse("fd00:0:0:7::5", addr6), 0);
    assert_false(addr_subnet6_contains(&c, addr6));
}

static void test_macs(void **state)
{
    uint8_t mac[6] = { 0 };
    char text[ADDR_MAC_TEXT];

    (void)state;
    assert_false(addr_mac_is_unicast(mac));
    assert_int_equal(addr_mac_parse("02:0A:bc:DE:f0:99", mac), 0);
    addr_mac_format(mac, text);
    assert_string_equal(text, "02:0a:bc:de:f0:99");
    assert_true(addr_mac_is_unicast(mac));
    assert_int_equal(addr_mac_parse("02:0A:bc:DE:f0:9", mac), -EINVAL);
    assert_int_equal(addr_mac_parse("02:0A:bc:DE:f0:999", mac), -EINVAL);
    assert_int_equal(addr_mac_parse("02.0A:bc:DE:f0:99", mac), -EINVAL);
    assert_int_equal(addr_mac_parse("g2:0A:bc:DE:f0:99", mac), -EINVAL);
    assert_int_equal(addr_mac_parse("", mac), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_default), cmocka_unit_test(test_round_trip), cmocka_unit_test(test_what_follows),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_too_many),   cmocka_unit_test(test_subnets),
        cmocka_unit_test(test_macs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
