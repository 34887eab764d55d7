#include "net/service_lease.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool net_lease_has_mac(const struct net_lease_slot *s, const uint8_t mac[6])
{
    return memcmp(s->mac, mac, 6) == 0;
}

static void net_lease_tell(struct net_leases *t, const struct net_lease_slot *s, bool held)
{
    if (t->events.address)
        t->events.address(t->events.opaque, s->mac, s->addr, held);
    if (t->events.names)
        t->events.names(t->events.opaque);
}

/* ---- the table ---- */

static bool net_leases_usable(const struct net_service_config *c, uint32_t addr)
{
    return addr != c->gateway && addr_subnet4_contains(&c->subnet, addr) && addr != c->subnet.addr &&
           addr != addr_subnet4_last(&c->subnet);
}

static int net_leases_add_host(struct net_leases *t, const struct net_service_host *h)
{
    struct net_lease_slot *s = net_leases_by_addr(t, h->addr);

    if (net_leases_by_mac(t, h->mac) || (s && s->fixed) || !addr_mac_is_unicast(h->mac))
        return -EINVAL;
    if (!s)
        s = &t->slots[t->n++];
    s->addr = h->addr;
    s->fixed = true;
    memcpy(s->mac, h->mac, 6);
    memcpy(s->name, h->name, sizeof(s->name));
    return 0;
}

int net_leases_init(struct net_leases *t, const struct net_service_config *c)
{
    uint32_t span = c->dhcp && c->dhcp_last >= c->dhcp_first ? c->dhcp_last - c->dhcp_first : 0;
    unsigned n_pool = c->dhcp && c->subnet.prefix ? MIN(span, NET_SERVICE_POOL_MAX - 1U) + 1 : 0;

    *t = (struct net_leases){ .first = c->dhcp_first, .n_pool = n_pool, .n = n_pool, .events = c->events };
    t->slots = calloc((size_t)n_pool + c->n_hosts + 1, sizeof(*t->slots));
    if (!t->slots)
        return -ENOMEM;
    for (unsigned i = 0; i < n_pool; i++)
        t->slots[i].addr = net_leases_usable(c, c->dhcp_first + i) ? c->dhcp_first + i : 0;
    for (unsigned i = 0; i < c->n_hosts; i++) {
        int res = net_leases_usable(c, c->hosts[i].addr) ? net_leases_add_host(t, &c->hosts[i]) : -EINVAL;

        if (res < 0)
            return res;
    }
    return 0;
}

void net_leases_done(struct net_leases *t)
{
    free(t->slots);
    *t = (struct net_leases){ 0 };
}

struct net_lease_slot *net_leases_by_mac(struct net_leases *t, const uint8_t mac[6])
{
    for (unsigned i = 0; i < t->n; i++) {
        if (t->slots[i].state != NET_LEASE_DECLINED && net_lease_has_mac(&t->slots[i], mac))
            return &t->slots[i];
    }
    return NULL;
}

struct net_lease_slot *net_leases_by_addr(struct net_leases *t, uint32_t addr)
{
    if (addr == 0)
        return NULL;
    if (addr - t->first < t->n_pool)
        return t->slots[addr - t->first].addr ? &t->slots[addr - t->first] : NULL;
    for (unsigned i = t->n_pool; i < t->n; i++) {
        if (t->slots[i].addr == addr)
            return &t->slots[i];
    }
    return NULL;
}

bool net_lease_holds(const struct net_lease_slot *s, int64_t now_s)
{
    return s->fixed || s->up || (s->state == NET_LEASE_BOUND && s->until_s > now_s);
}

const char *net_lease_name(const struct net_lease_slot *s)
{
    return s->name[0] ? s->name : s->host_name;
}

struct net_lease_slot *net_leases_by_name(struct net_leases *t, const char *name, bool given_only, int64_t now_s)
{
    struct net_lease_slot *own = NULL;

    if (name[0] == '\0')
        return NULL;
    for (unsigned i = 0; i < t->n; i++) {
        struct net_lease_slot *s = &t->slots[i];

        if (!net_lease_holds(s, now_s))
            continue;
        if (strcmp(s->name, name) == 0)
            return s;
        if (!given_only && strcmp(s->host_name, name) == 0 && !own)
            own = s;
    }
    return own;
}

/* ---- giving out ---- */

/* Whether anybody may have the slot now. */
static bool net_lease_is_open(const struct net_lease_slot *s, int64_t now_s)
{
    return s->addr != 0 && !s->fixed && !s->up && (s->state == NET_LEASE_FREE || s->until_s <= now_s);
}

/* mac's from now on, with nothing left of whoever had it before. */
static void net_lease_take(struct net_leases *t, struct net_lease_slot *s, const uint8_t mac[6])
{
    if (net_lease_has_mac(s, mac) && s->state != NET_LEASE_DECLINED)
        return;
    if (s->state == NET_LEASE_BOUND)
        net_lease_tell(t, s, false);
    *s = (struct net_lease_slot){ .addr = s->addr };
    memcpy(s->mac, mac, 6);
}

static struct net_lease_slot *net_lease_mark_offered(struct net_lease_slot *s, int64_t now_s)
{
    if (s->state != NET_LEASE_BOUND || s->until_s <= now_s) {
        s->state = NET_LEASE_OFFERED;
        s->until_s = now_s + NET_LEASE_OFFER_S;
    }
    return s;
}

/* Any open slot: one that nobody had yet, beginning at a place that depends on the MAC, so that guests tend to get the
 * same address everywhere; else the one that has been free for longest. */
static struct net_lease_slot *net_leases_any(struct net_leases *t, const uint8_t mac[6], int64_t now_s)
{
    static const uint8_t nobody[6];
    struct net_lease_slot *oldest = NULL;
    uint32_t hash = 2166136261U; /* FNV-1a */

    for (unsigned i = 0; i < 6; i++)
        hash = (hash ^ mac[i]) * 16777619U;
    for (unsigned i = 0; i < t->n_pool; i++) {
        struct net_lease_slot *s = &t->slots[(hash + i) % t->n_pool];

        if (!net_lease_is_open(s, now_s))
            continue;
        if (net_lease_has_mac(s, nobody))
            return s;
        if (!oldest || s->until_s < oldest->until_s)
            oldest = s;
    }
    return oldest;
}

struct net_lease_slot *net_leases_offer(struct net_leases *t, const uint8_t mac[6], uint32_t wanted, int64_t now_s)
{
    struct net_lease_slot *s = net_leases_by_mac(t, mac);

    if (!s) {
        s = net_leases_by_addr(t, wanted);
        if (!s || !net_lease_is_open(s, now_s))
            s = net_leases_any(t, mac, now_s);
        if (!s)
            return NULL;
        net_lease_take(t, s, mac);
    }
    return net_lease_mark_offered(s, now_s);
}

struct net_lease_slot *net_leases_claim(struct net_leases *t, const uint8_t mac[6], uint32_t wanted, int64_t now_s)
{
    struct net_lease_slot *own = net_leases_by_mac(t, mac), *s = net_leases_by_addr(t, wanted);

    if (!s || (own && own != s) || (!own && !net_lease_is_open(s, now_s)))
        return NULL;
    net_lease_take(t, s, mac);
    return net_lease_mark_offered(s, now_s);
}

void net_lease_bind(struct net_leases *t, struct net_lease_slot *s, int64_t until_s)
{
    s->state = NET_LEASE_BOUND;
    s->until_s = until_s;
    t->changed = true;
    net_lease_tell(t, s, true);
}

void net_lease_set_host_name(struct net_leases *t, struct net_lease_slot *s, const char *name, int64_t now_s)
{
    struct net_lease_slot *other = net_leases_by_name(t, name, false, now_s);
    size_t len = strlen(name);

    if ((other && other != s) || len >= sizeof(s->host_name))
        len = 0;
    memset(s->host_name, 0, sizeof(s->host_name));
    memcpy(s->host_name, name, len);
}

void net_lease_release(struct net_leases *t, struct net_lease_slot *s, int64_t now_s)
{
    if (s->state == NET_LEASE_BOUND)
        t->changed = true;
    if (s->state == NET_LEASE_BOUND && !s->up)
        net_lease_tell(t, s, false);
    s->state = NET_LEASE_FREE;
    s->until_s = now_s;
    s->host_name[0] = '\0';
}

void net_lease_decline(struct net_leases *t, struct net_lease_slot *s, int64_t now_s)
{
    struct net_lease_slot *oldest = NULL;
    uint8_t mac[6];
    unsigned n = 0;
    bool up = s->up;
    char name[sizeof(s->name)];

    net_lease_release(t, s, now_s);
    if (s->fixed) /* there is no other for it */
        return;
    memcpy(mac, s->mac, 6);
    memcpy(name, s->name, sizeof(name));
    if (up)
        net_lease_tell(t, s, false);
    *s = (struct net_lease_slot){ .addr = s->addr, .state = NET_LEASE_DECLINED };
    s->until_s = now_s + NET_LEASE_DECLINE_S;
    memcpy(s->mac, mac, 6);
    for (unsigned i = 0; i < t->n; i++) {
        struct net_lease_slot *d = &t->slots[i];

        if (d->state != NET_LEASE_DECLINED || !net_lease_has_mac(d, mac) || d->until_s <= now_s)
            continue;
        n++;
        if (d != s && (!oldest || d->until_s < oldest->until_s))
            oldest = d;
    }
    if (n > NET_LEASE_DECLINES_MAX && oldest)
        *oldest = (struct net_lease_slot){ .addr = oldest->addr, .until_s = now_s };
    if (up)
        net_leases_guest_up(t, mac, name, now_s);
}

void net_leases_expire(struct net_leases *t, int64_t now_s)
{
    for (unsigned i = 0; i < t->n; i++) {
        struct net_lease_slot *s = &t->slots[i];

        if (s->state == NET_LEASE_FREE || s->until_s > now_s)
            continue;
        if (s->state == NET_LEASE_DECLINED) {
            *s = (struct net_lease_slot){ .addr = s->addr, .until_s = now_s };
            continue;
        }
        net_lease_release(t, s, s->until_s);
    }
}

/* ---- what else is known of a guest ---- */

void net_leases_learn_ip6(struct net_leases *t, const uint8_t mac[6], const uint8_t addr[16])
{
    struct net_lease_slot *s = net_leases_by_mac(t, mac);
    unsigned i = 0;

    if (!s)
        return;
    while (i < s->n_ip6 && memcmp(s->ip6[i], addr, 16) != 0)
        i++;
    if (i == NET_LEASE_IP6_MAX)
        i--;
    else if (i == s->n_ip6)
        s->n_ip6++;
    memmove(s->ip6[1], s->ip6[0], (size_t)i * 16);
    memcpy(s->ip6[0], addr, 16);
    if (t->events.names)
        t->events.names(t->events.opaque);
}

struct net_lease_slot *net_leases_guest_up(struct net_leases *t, const uint8_t mac[6], const char *name, int64_t now_s)
{
    struct net_lease_slot *s = addr_mac_is_unicast(mac) ? net_leases_offer(t, mac, 0, now_s) : NULL;
    struct net_lease_slot *other = net_leases_by_name(t, name, false, now_s);
    size_t len = strlen(name);

    if (!s)
        return NULL;
    s->up = true;
    t->changed = true;
    if (!s->fixed && len < sizeof(s->name) && (!other || other == s || strcmp(other->name, name) != 0)) {
        memset(s->name, 0, sizeof(s->name));
        memcpy(s->name, name, len);
    }
    net_lease_tell(t, s, true);
    return s;
}

void net_leases_guest_down(struct net_leases *t, const uint8_t mac[6], int64_t now_s)
{
    struct net_lease_slot *s = net_leases_by_mac(t, mac);

    if (!s || !s->up)
        return;
    s->up = false;
    if (!net_lease_holds(s, now_s))
        net_lease_tell(t, s, false);
}

void net_leases_restore(struct net_leases *t, const uint8_t mac[6], uint32_t addr, const char *host_name,
                        int64_t until_s, int64_t now_s)
{
    struct net_lease_slot *s = net_leases_by_addr(t, addr), *own = net_leases_by_mac(t, mac);

    if (!s || !addr_mac_is_unicast(mac) || (own ? own != s : !net_lease_is_open(s, now_s)))
        return;
    net_lease_take(t, s, mac);
    s->until_s = until_s;
    s->state = until_s > now_s ? NET_LEASE_BOUND : NET_LEASE_FREE;
    if (s->state == NET_LEASE_BOUND) {
        net_lease_set_host_name(t, s, host_name, now_s);
        net_lease_tell(t, s, true);
    }
}
