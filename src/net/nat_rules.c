#include "net/nat_rules.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"

#define NET_NAT_TABLE "caisson_"

struct net_nat_writer {
    struct buf *out;
    const struct net_nat_network *n;
};

static bool net_nat_is_text(const char *text, size_t max, const char *allowed)
{
    size_t len = strnlen(text, max + 1);

    return len > 0 && len <= max && strspn(text, allowed) == len;
}

int net_nat_network_check(const struct net_nat_network *n)
{
    static const char name[] = "abcdefghijklmnopqrstuvwxyz0123456789-";
    static const char interface[] = "abcdefghijklmnopqrstuvwxyz0123456789-ABCDEFGHIJKLMNOPQRSTUVWXYZ_.";

    return net_nat_is_text(n->name, NET_NAT_NAME_MAX, name) && net_nat_is_text(n->interface, NET_NAT_IF_MAX, interface)
               ? 0
               : -EINVAL;
}

int net_nat_forward_check(const struct net_nat_network *n, const struct net_nat_forward *f)
{
    if (f->host_port == 0 || f->guest_port == 0)
        return -EINVAL;
    if (f->ip6)
        return addr_subnet6_contains(&n->subnet6, f->guest6) ? 0 : -EINVAL;
    return addr_subnet4_contains(&n->subnet, f->guest4) ? 0 : -EINVAL;
}

bool net_nat_forward_same_host(const struct net_nat_forward *a, const struct net_nat_forward *b)
{
    return a->udp == b->udp && a->ip6 == b->ip6 && a->host_port == b->host_port &&
           (a->ip6 ? memcmp(a->host6, b->host6, 16) == 0 : a->host4 == b->host4);
}

bool net_nat_forward_collides(const struct net_nat_forward *a, const struct net_nat_forward *b)
{
    static const uint8_t any[16];

    if (a->udp != b->udp || a->ip6 != b->ip6 || a->host_port != b->host_port)
        return false;
    if (a->ip6)
        return memcmp(a->host6, b->host6, 16) == 0 || memcmp(a->host6, any, 16) == 0 || memcmp(b->host6, any, 16) == 0;
    return a->host4 == b->host4 || a->host4 == 0 || b->host4 == 0;
}

/* ---- pieces of JSON ---- */

static void PRINTF_LIKE(3, 4) net_nat_rule(struct net_nat_writer *w, const char *chain, const char *fmt, ...)
{
    char expr[1024];
    va_list ap;
    int len;

    va_start(ap, fmt);
    len = vsnprintf(expr, sizeof(expr), fmt, ap);
    va_end(ap);
    if (len < 0 || len >= (int)sizeof(expr)) {
        w->out->error = w->out->error ? w->out->error : -E2BIG;
        return;
    }
    buf_printf(w->out,
               ",\n{\"add\":{\"rule\":{\"family\":\"inet\",\"table\":\"" NET_NAT_TABLE
               "%s\",\"chain\":\"%s\",\"expr\":[%s]}}}",
               w->n->name, chain, expr);
}

static void net_nat_chain(struct net_nat_writer *w, const char *name, const char *type, const char *hook, int priority)
{
    buf_printf(w->out,
               ",\n{\"add\":{\"chain\":{\"family\":\"inet\",\"table\":\"" NET_NAT_TABLE
               "%s\",\"name\":\"%s\",\"type\":\"%s\",\"hook\":\"%s\",\"prio\":%d,\"policy\":\"accept\"}}}",
               w->n->name, name, type, hook, priority);
}

static void net_nat_table(struct buf *out, const char *verb, const char *name)
{
    buf_printf(out, "{\"%s\":{\"table\":{\"family\":\"inet\",\"name\":\"" NET_NAT_TABLE "%s\"}}}", verb, name);
}

#define NET_NAT_META(key, op, value) \
    "{\"match\":{\"op\":\"" op "\",\"left\":{\"meta\":{\"key\":\"" key "\"}},\"right\":" value "}}"
#define NET_NAT_IIF NET_NAT_META("iifname", "==", "\"%s\"")
#define NET_NAT_OIF NET_NAT_META("oifname", "==", "\"%s\"")
#define NET_NAT_NOT_OIF NET_NAT_META("oifname", "!=", "\"%s\"")
#define NET_NAT_FIELD(proto, field, op, value)                                                                   \
    "{\"match\":{\"op\":\"" op "\",\"left\":{\"payload\":{\"protocol\":\"" proto "\",\"field\":\"" field "\"}}," \
    "\"right\":" value "}}"
#define NET_NAT_PREFIX "{\"prefix\":{\"addr\":\"%s\",\"len\":%u}}"
#define NET_NAT_ESTABLISHED \
    "{\"match\":{\"op\":\"in\",\"left\":{\"ct\":{\"key\":\"state\"}},\"right\":[\"established\",\"related\"]}}"
#define NET_NAT_DNATTED "{\"match\":{\"op\":\"in\",\"left\":{\"ct\":{\"key\":\"status\"}},\"right\":\"dnat\"}}"
#define NET_NAT_LOCAL \
    "{\"match\":{\"op\":\"==\",\"left\":{\"fib\":{\"result\":\"type\",\"flags\":[\"daddr\"]}},\"right\":\"local\"}}"
#define NET_NAT_MASQUERADE "{\"masquerade\":null}"
#define NET_NAT_ACCEPT "{\"accept\":null}"
#define NET_NAT_DROP "{\"drop\":null}"

/* ---- what they say ---- */

static bool net_nat_dns_is_loopback(const struct net_nat_network *n)
{
    return n->dns_tcp >> 24 == 127;
}

/* Packets from and to the network that may pass, and what the host takes itself. */
static void net_nat_filter(struct net_nat_writer *w)
{
    const char *tap = w->n->interface;
    char net[ADDR_IP6_TEXT];

    if (w->n->subnet.prefix) {
        addr_ip4_format(w->n->subnet.addr, net);
        net_nat_rule(w, "forward", NET_NAT_IIF "," NET_NAT_FIELD("ip", "saddr", "!=", NET_NAT_PREFIX) "," NET_NAT_DROP,
                     tap, net, w->n->subnet.prefix);
    } else {
        net_nat_rule(w, "forward", NET_NAT_IIF "," NET_NAT_META("nfproto", "==", "\"ipv4\"") "," NET_NAT_DROP, tap);
    }
    if (w->n->subnet6.prefix) {
        addr_ip6_format(w->n->subnet6.addr, net);
        net_nat_rule(w, "forward", NET_NAT_IIF "," NET_NAT_FIELD("ip6", "saddr", "!=", NET_NAT_PREFIX) "," NET_NAT_DROP,
                     tap, net, w->n->subnet6.prefix);
    } else {
        net_nat_rule(w, "forward", NET_NAT_IIF "," NET_NAT_META("nfproto", "==", "\"ipv6\"") "," NET_NAT_DROP, tap);
    }
    net_nat_rule(w, "forward", NET_NAT_OIF "," NET_NAT_ESTABLISHED "," NET_NAT_ACCEPT, tap);
    net_nat_rule(w, "forward", NET_NAT_OIF "," NET_NAT_DNATTED "," NET_NAT_ACCEPT, tap);
    net_nat_rule(w, "forward", NET_NAT_OIF "," NET_NAT_DROP, tap);
    net_nat_rule(w, "input", NET_NAT_IIF "," NET_NAT_ESTABLISHED "," NET_NAT_ACCEPT, tap);
    net_nat_rule(w, "input",
                 NET_NAT_IIF "," NET_NAT_META("l4proto", "==", "{\"set\":[\"icmp\",\"ipv6-icmp\"]}") "," NET_NAT_ACCEPT,
                 tap);
    if (net_nat_dns_is_loopback(w->n)) {
        addr_ip4_format(w->n->dns_tcp, net);
        net_nat_rule(w, "input",
                     NET_NAT_IIF "," NET_NAT_DNATTED
                                 "," NET_NAT_FIELD("ip", "daddr", "==", "\"%s\"") "," NET_NAT_ACCEPT,
                     tap, net);
    }
    net_nat_rule(w, "input", NET_NAT_IIF "," NET_NAT_DROP, tap);
}

/* Behind which address packets leave. */
static void net_nat_sources(struct net_nat_writer *w)
{
    const char *tap = w->n->interface;
    char net[ADDR_IP6_TEXT];

    if (w->n->subnet.prefix) {
        addr_ip4_format(w->n->subnet.addr, net);
        net_nat_rule(w, "postrouting",
                     NET_NAT_FIELD("ip", "saddr", "==", NET_NAT_PREFIX) "," NET_NAT_NOT_OIF "," NET_NAT_MASQUERADE, net,
                     w->n->subnet.prefix, tap);
        /* From the host's own loopback to a forwarded port, and from a guest to one of its own network's. */
        net_nat_rule(w, "postrouting",
                     NET_NAT_OIF "," NET_NAT_FIELD("ip", "saddr", "==", NET_NAT_PREFIX) "," NET_NAT_MASQUERADE, tap,
                     "127.0.0.0", 8U);
        net_nat_rule(w, "postrouting",
                     NET_NAT_OIF "," NET_NAT_FIELD("ip", "saddr", "==", NET_NAT_PREFIX) "," NET_NAT_DNATTED
                                                                                        "," NET_NAT_MASQUERADE,
                     tap, net, w->n->subnet.prefix);
    }
    if (w->n->subnet6.prefix) {
        addr_ip6_format(w->n->subnet6.addr, net);
        net_nat_rule(w, "postrouting",
                     NET_NAT_FIELD("ip6", "saddr", "==", NET_NAT_PREFIX) "," NET_NAT_NOT_OIF "," NET_NAT_MASQUERADE,
                     net, w->n->subnet6.prefix, tap);
        net_nat_rule(w, "postrouting",
                     NET_NAT_OIF "," NET_NAT_FIELD("ip6", "saddr", "==", NET_NAT_PREFIX) "," NET_NAT_DNATTED
                                                                                         "," NET_NAT_MASQUERADE,
                     tap, net, w->n->subnet6.prefix);
    }
}

/* One forward, in the chain that packets from outside and in the one that the host's own go through. */
static void net_nat_forward(struct net_nat_writer *w, const struct net_nat_forward *f)
{
    static const char *const chains[] = { "prerouting", "output" };
    static const uint8_t any6[16];
    const char *family = f->ip6 ? "ip6" : "ip", *proto = f->udp ? "udp" : "tcp";
    bool any = f->ip6 ? memcmp(f->host6, any6, 16) == 0 : f->host4 == 0;
    char host[ADDR_IP6_TEXT], guest[ADDR_IP6_TEXT];

    if (f->ip6) {
        addr_ip6_format(f->host6, host);
        addr_ip6_format(f->guest6, guest);
    } else {
        addr_ip4_format(f->host4, host);
        addr_ip4_format(f->guest4, guest);
    }
    /* Loopback is for the host's own: a guest that sends to 127.0.0.1 through its tap is not led to other networks. */
    for (unsigned i = !f->ip6 && f->host4 >> 24 == 127; i < ARRAY_SIZE(chains); i++) {
        if (any)
            net_nat_rule(w, chains[i],
                         NET_NAT_META("nfproto", "==", "\"%s\"") "," NET_NAT_LOCAL "," NET_NAT_FIELD(
                             "%s", "dport", "==", "%u") ",{\"dnat\":{"
                                                        "\"family\":\"%s\",\"addr\":\"%s\",\"port\":%u}}",
                         f->ip6 ? "ipv6" : "ipv4", proto, f->host_port, family, guest, f->guest_port);
        else
            net_nat_rule(w, chains[i],
                         NET_NAT_FIELD("%s", "daddr", "==", "\"%s\"") "," NET_NAT_FIELD(
                             "%s", "dport", "==", "%u") ",{\"dnat\":{\"family\":\"%s\",\"addr\":\"%s\","
                                                        "\"port\":%u}}",
                         family, host, proto, f->host_port, family, guest, f->guest_port);
    }
}

/* DNS by TCP to the gateway. A resolver on the host's loopback hears its own host ask, or it would not answer. */
static void net_nat_dns(struct net_nat_writer *w)
{
    char gateway[ADDR_IP4_TEXT], resolver[ADDR_IP4_TEXT];

    addr_ip4_format(w->n->gateway, gateway);
    addr_ip4_format(w->n->dns_tcp, resolver);
    net_nat_rule(w, "prerouting",
                 NET_NAT_IIF "," NET_NAT_FIELD("ip", "daddr", "==", "\"%s\"") "," NET_NAT_FIELD(
                     "tcp", "dport", "==", "53") ",{\"dnat\":{\"family\":\"ip\",\"addr\":"
                                                 "\"%s\",\"port\":53}}",
                 w->n->interface, gateway, resolver);
    if (net_nat_dns_is_loopback(w->n))
        net_nat_rule(w, "inbound",
                     NET_NAT_IIF "," NET_NAT_FIELD("ip", "daddr", "==", "\"%s\"") ",{\"snat\":{\"family\":\"ip\","
                                                                                  "\"addr\":\"127.0.0.1\"}}",
                     w->n->interface, resolver);
}

void net_nat_rules(struct buf *out, const struct net_nat_network *n, const struct net_nat_forward *forwards,
                   unsigned n_forwards)
{
    struct net_nat_writer w = { .out = out, .n = n };

    buf_append_str(out, "{\"nftables\":[");
    net_nat_table(out, "add", n->name); /* so that there is one to delete */
    buf_append_str(out, ",\n");
    net_nat_table(out, "delete", n->name);
    buf_append_str(out, ",\n");
    net_nat_table(out, "add", n->name);
    net_nat_chain(&w, "prerouting", "nat", "prerouting", -100);
    net_nat_chain(&w, "output", "nat", "output", -100);
    net_nat_chain(&w, "postrouting", "nat", "postrouting", 100);
    net_nat_chain(&w, "inbound", "nat", "input", 100);
    net_nat_chain(&w, "forward", "filter", "forward", 0);
    net_nat_chain(&w, "input", "filter", "input", 0);
    for (unsigned i = 0; i < n_forwards; i++)
        net_nat_forward(&w, &forwards[i]);
    if (n->dns_tcp && n->subnet.prefix)
        net_nat_dns(&w);
    net_nat_sources(&w);
    net_nat_filter(&w);
    buf_append_str(out, "]}\n");
}

void net_nat_rules_none(struct buf *out, const char *name)
{
    buf_append_str(out, "{\"nftables\":[");
    net_nat_table(out, "add", name);
    buf_append_str(out, ",");
    net_nat_table(out, "delete", name);
    buf_append_str(out, "]}\n");
}
