/* Port forwards that name guests: in force while these have an address, moving with it. And what a table of rules says.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "base/buf.h"
#include "net/nat_forward.h"

struct world {
    struct net_forwards t;
    struct net_nat_forward now[8];
    unsigned n;
    uint32_t web4; /* 0: not there */
    uint8_t web6;  /* last byte; 0: not there */
    int add_error;
};

static int add(void *opaque, const struct net_nat_forward *f)
{
    struct world *w = opaque;

    if (w->add_error)
        return w->add_error;
    w->now[w->n++] = *f;
    return 0;
}

static int drop(void *opaque, const struct net_nat_forward *f)
{
    struct world *w = opaque;

    for (unsigned i = 0; i < w->n; i++) {
        if (net_nat_forward_same_host(&w->now[i], f)) {
            w->now[i] = w->now[--w->n];
            return 0;
        }
    }
    return -ENOENT;
}

static int probe(void *opaque, const struct net_nat_forward *f)
{
    return ((struct world *)opaque)->add_error;
}

static bool resolve(void *opaque, const char *name, bool ip6, struct net_nat_forward *f)
{
    struct world *w = opaque;

    if (strcmp(name, "web") != 0)
        return false;
    f->guest4 = w->web4;
    f->guest6[15] = w->web6;
    return ip6 ? w->web6 != 0 : w->web4 != 0;
}

static void begin(struct world *w)
{
    const struct net_forwarder by = { add, drop, probe, resolve, w };

    memset(w, 0, sizeof(*w));
    net_forwards_init(&w->t, &by);
}

static struct net_ip ip4(uint32_t addr)
{
    struct net_ip ip = { { [10] = 0xff, 0xff } };

    store_be32(ip.bytes + 12, addr);
    return ip;
}

static struct net_forward_rule rule(uint16_t port, const char *name)
{
    struct net_forward_rule r = { .host_addr = ip4(0x7f000001), .host_port = port, .guest_port = 80 };

    snprintf(r.guest_name, sizeof(r.guest_name), "%s", name);
    return r;
}

static void test_follows_name(void **state)
{
    struct net_forward_rule r = rule(8080, "web"), other = rule(8081, "nobody"), late = rule(8080, "nobody");
    struct world w;

    begin(&w);
    assert_int_equal(net_forwards_add(&w.t, &r), 0);
    assert_int_equal(net_forwards_add(&w.t, &other), 0);
    assert_int_equal(w.n, 0);
    w.web4 = 0x0a580005;
    net_forwards_refresh(&w.t);
    assert_int_equal(w.n, 1);
    assert_int_equal(w.now[0].guest4, 0x0a580005);
    assert_int_equal(w.now[0].host4, 0x7f000001);
    w.web4 = 0x0a580006;
    net_forwards_refresh(&w.t);
    assert_int_equal(w.n, 1);
    assert_int_equal(w.now[0].guest4, 0x0a580006);
    w.add_error = -EADDRINUSE; /* nothing is done twice */
    net_forwards_refresh(&w.t);
    assert_int_equal(w.n, 1);
    w.web4 = 0;
    net_forwards_refresh(&w.t);
    assert_int_equal(w.n, 0);
    w.web4 = 0x0a580007;
    net_forwards_refresh(&w.t); /* it cannot be had now, but later */
    assert_int_equal(w.n, 0);
    w.add_error = 0;
    net_forwards_refresh(&w.t);
    assert_int_equal(w.n, 1);
    assert_int_equal(net_forwards_add(&w.t, &late), -EEXIST);
    assert_int_equal(net_forwards_remove(&w.t, &late), -ENOENT); /* it is web's */
    assert_int_equal(w.n, 1);
    assert_int_equal(net_forwards_remove(&w.t, &r), 0);
    assert_int_equal(w.n, 0);
    assert_int_equal(net_forwards_remove(&w.t, &r), -ENOENT);
    assert_int_equal(net_forwards_remove(&w.t, &other), 0);
    net_forwards_done(&w.t);
}

static void test_refused(void **state)
{
    struct net_forward_rule r = rule(8080, "web"), all, bad;
    struct world w;

    begin(&w);
    w.web4 = 1;
    w.add_error = -EACCES;
    assert_int_equal(net_forwards_add(&w.t, &r), -EACCES);
    w.web4 = 0;
    assert_int_equal(net_forwards_add(&w.t, &r), -EACCES); /* now, not when the guest is there */
    w.web4 = 1;
    w.add_error = 0;
    assert_int_equal(net_forwards_add(&w.t, &r), 0);
    all = r;
    all.host_addr = ip4(0);
    assert_int_equal(net_forwards_add(&w.t, &all), -EEXIST);
    all.udp = true;
    assert_int_equal(net_forwards_add(&w.t, &all), 0);
    bad = rule(1, "");
    assert_int_equal(net_forwards_add(&w.t, &bad), -EINVAL);
    bad = rule(0, "web");
    assert_int_equal(net_forwards_add(&w.t, &bad), -EINVAL);
    bad = rule(9, "");
    bad.guest.bytes[0] = 0xfd; /* IPv4 to IPv6 */
    assert_int_equal(net_forwards_add(&w.t, &bad), -EAFNOSUPPORT);
    for (unsigned port = 10000; w.t.n < NET_NAT_FORWARDS_MAX; port++) {
        bad = rule((uint16_t)port, "later");
        assert_int_equal(net_forwards_add(&w.t, &bad), 0);
    }
    bad = rule(9, "later");
    assert_int_equal(net_forwards_add(&w.t, &bad), -ENOSPC);
    net_forwards_done(&w.t);
}

static void test_ip6(void **state)
{
    struct net_forward_rule r = rule(8080, "web");
    struct world w;

    begin(&w);
    memset(&r.host_addr, 0, sizeof(r.host_addr)); /* :: */
    w.web4 = 5;
    assert_int_equal(net_forwards_add(&w.t, &r), 0);
    assert_int_equal(w.n, 0);
    w.web6 = 9;
    net_forwards_refresh(&w.t);
    assert_int_equal(w.n, 1);
    assert_true(w.now[0].ip6);
    assert_int_equal(w.now[0].guest6[15], 9);
    net_forwards_done(&w.t);
}

/* The largest set of rules is JSON and within its bound; what is no name never gets into it. (That nft takes the rules,
 * and what they do, tests/netns sees.) */
static void test_rules(void **state)
{
    struct net_nat_network n = { "web", "cais0", { 0x0a580000, 24 }, 0x0a580001, { { 0xfd, 0x88 }, 64 }, { 0 }, 0 };
    static struct net_nat_forward forwards[NET_NAT_FORWARDS_MAX];
    struct json_object *root, *list;
    struct buf text;

    for (unsigned i = 0; i < NET_NAT_FORWARDS_MAX; i++) {
        forwards[i] = (struct net_nat_forward){ .ip6 = i & 1, .guest4 = 0x0a580005, .host_port = 1, .guest_port = 2 };
        memset(forwards[i].host6, 0xff, 16);
        memset(forwards[i].guest6, 0xff, 16);
        memcpy(forwards[i].guest6, n.subnet6.addr, 8);
        assert_int_equal(net_nat_forward_check(&n, &forwards[i]), 0);
    }
    assert_int_equal(net_nat_network_check(&n), 0);
    buf_init(&text, NET_NAT_RULES_MAX);
    net_nat_rules(&text, &n, forwards, NET_NAT_FORWARDS_MAX);
    buf_append(&text, "", 1);
    assert_int_equal(buf_error(&text), 0);
    root = json_tokener_parse((const char *)text.data);
    assert_true(json_object_object_get_ex(root, "nftables", &list));
    assert_true(json_object_array_length(list) > 2 * NET_NAT_FORWARDS_MAX);
    json_object_put(root);
    buf_done(&text);
    forwards[0].guest4 = 0x0a590005;
    assert_int_equal(net_nat_forward_check(&n, &forwards[0]), -EINVAL);
    memcpy(n.interface, "a\"b", 4);
    assert_int_equal(net_nat_network_check(&n), -EINVAL);
    memcpy(n.interface, "eth0", 5);
    memcpy(n.name, "A b", 4);
    assert_int_equal(net_nat_network_check(&n), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_follows_name),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_ip6),
        cmocka_unit_test(test_rules),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
