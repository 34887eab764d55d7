#include "net/nat_forward.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/log.h"

static bool net_ip_is_zero(const struct net_ip *ip)
{
    static const struct net_ip zero;

    return memcmp(ip, &zero, sizeof(zero)) == 0;
}

/* IPv4 as ::ffff:a.b.c.d. */
static bool net_ip_is_4(const struct net_ip *ip)
{
    static const uint8_t prefix[12] = { [10] = 0xff, 0xff };

    return memcmp(ip->bytes, prefix, sizeof(prefix)) == 0;
}

/* The host's side of a rule. */
static struct net_nat_forward net_forward_host(const struct net_forward_rule *rule)
{
    struct net_nat_forward f = { .udp = rule->udp, .host_port = rule->host_port, .guest_port = rule->guest_port };

    if (net_ip_is_4(&rule->host_addr)) {
        f.host4 = load_be32(rule->host_addr.bytes + 12);
    } else {
        f.ip6 = 1;
        memcpy(f.host6, rule->host_addr.bytes, 16);
    }
    return f;
}

/* The whole rule, with what its guest is now. False: nobody. */
static bool net_forward_resolve(const struct net_forwards *t, const struct net_forward_rule *rule,
                                struct net_nat_forward *f)
{
    *f = net_forward_host(rule);
    if (net_ip_is_zero(&rule->guest))
        return t->by.resolve(t->by.opaque, rule->guest_name, f->ip6, f);
    if (f->ip6)
        memcpy(f->guest6, rule->guest.bytes, 16);
    else
        f->guest4 = load_be32(rule->guest.bytes + 12);
    return true;
}

static bool net_forward_same_guest(const struct net_nat_forward *a, const struct net_nat_forward *b)
{
    return a->ip6 ? memcmp(a->guest6, b->guest6, 16) == 0 : a->guest4 == b->guest4;
}

void net_forwards_init(struct net_forwards *t, const struct net_forwarder *by)
{
    *t = (struct net_forwards){ .by = *by };
}

void net_forwards_done(struct net_forwards *t)
{
    free(t->list);
    t->list = NULL;
    t->n = 0;
}

static int net_forward_check(const struct net_forwards *t, const struct net_forward_rule *rule)
{
    struct net_nat_forward f = net_forward_host(rule), other;

    if (rule->host_port == 0 || rule->guest_port == 0 || (net_ip_is_zero(&rule->guest) && rule->guest_name[0] == '\0'))
        return -EINVAL;
    if (!net_ip_is_zero(&rule->guest) && net_ip_is_4(&rule->guest) == f.ip6)
        return -EAFNOSUPPORT;
    for (unsigned i = 0; i < t->n; i++) {
        other = net_forward_host(&t->list[i].rule);
        if (net_nat_forward_collides(&other, &f))
            return -EEXIST;
    }
    return t->n == NET_NAT_FORWARDS_MAX ? -ENOSPC : 0;
}

int net_forwards_add(struct net_forwards *t, const struct net_forward_rule *rule)
{
    struct net_nat_forward f;
    struct net_forward *list;
    int res = net_forward_check(t, rule);

    if (res < 0)
        return res;
    list = realloc(t->list, (t->n + 1) * sizeof(*list));
    if (!list)
        return -ENOMEM;
    t->list = list;
    list[t->n] = (struct net_forward){ .rule = *rule };
    if (net_forward_resolve(t, rule, &f)) {
        res = t->by.add(t->by.opaque, &f);
        if (res < 0)
            return res;
        list[t->n].in_force = f;
    } else if (t->by.probe) {
        /* Later nobody would hear of the error. */
        res = t->by.probe(t->by.opaque, &f);
        if (res < 0)
            return res;
    }
    t->n++;
    return 0;
}

int net_forwards_remove(struct net_forwards *t, const struct net_forward_rule *rule)
{
    struct net_nat_forward f = net_forward_host(rule), other;

    for (unsigned i = 0; i < t->n; i++) {
        struct net_forward *e = &t->list[i];

        other = net_forward_host(&e->rule);
        if (!net_nat_forward_same_host(&other, &f))
            continue;
        if (!net_ip_is_zero(&rule->guest) && memcmp(&rule->guest, &e->rule.guest, sizeof(rule->guest)) != 0)
            continue; /* somebody else's */
        if (rule->guest_name[0] != '\0' && strcmp(rule->guest_name, e->rule.guest_name) != 0)
            continue; /* likewise: whoever failed to get the port gives back what he has not */
        if (e->in_force.host_port && t->by.remove(t->by.opaque, &e->in_force) < 0)
            log_debug("net: forward of port %u was not there", e->rule.host_port);
        *e = t->list[--t->n];
        return 0;
    }
    return -ENOENT;
}

void net_forwards_refresh(struct net_forwards *t)
{
    for (unsigned i = 0; i < t->n; i++) {
        struct net_forward *e = &t->list[i];
        struct net_nat_forward f;
        bool there = net_forward_resolve(t, &e->rule, &f);
        int res = 0;

        if (e->in_force.host_port && there && net_forward_same_guest(&e->in_force, &f))
            continue;
        if (e->in_force.host_port)
            (void)t->by.remove(t->by.opaque, &e->in_force);
        e->in_force.host_port = 0;
        if (there)
            res = t->by.add(t->by.opaque, &f);
        if (there && res == 0)
            e->in_force = f;
        if (res < 0)
            log_debug("net: port %u is not forwarded to %s: %s", e->rule.host_port, e->rule.guest_name,
                      strerrordesc_np(-res));
    }
}
