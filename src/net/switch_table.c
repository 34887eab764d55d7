/* Which address was seen at which port, and which belongs to one for good. */
#include "net/switch_priv.h"

#include <stdlib.h>
#include <string.h>

#include "sys/loop.h"

/* Keyed, so that the order of buckets is not the sender's choice. len: 2..22. */
uint64_t net_table_hash(const struct net_switch *sw, const void *data, size_t len, uint64_t salt)
{
    const uint8_t *p = data;
    uint64_t h = sw->key ^ salt * 0x9e3779b97f4a7c15ULL;

    while (len > 0) {
        uint64_t word = 0;
        size_t n = MIN(len, sizeof(word));

        memcpy(&word, p, n);
        h = (h ^ word) * 0xbf58476d1ce4e5b9ULL;
        h ^= h >> 29;
        h = (h + sw->key) * 0x94d049bb133111ebULL;
        h ^= h >> 32;
        p += n;
        len -= n;
    }
    return h;
}

static struct net_mac **net_table_bucket(struct net_switch *sw, uint16_t vlan, const uint8_t mac[6])
{
    return &sw->macs[net_table_hash(sw, mac, 6, vlan) % NET_MAC_BUCKETS];
}

static struct net_port **net_table_owner_bucket(struct net_switch *sw, const uint8_t mac[6])
{
    return &sw->by_mac[net_table_hash(sw, mac, 6, NET_VLANS) % NET_PORT_BUCKETS];
}

/* The link that points to mac's entry, or that ends its bucket. */
static struct net_mac **net_table_link(struct net_switch *sw, uint16_t vlan, const uint8_t mac[6])
{
    struct net_mac **at = net_table_bucket(sw, vlan, mac);

    while (*at && ((*at)->vlan != vlan || memcmp((*at)->addr, mac, 6) != 0))
        at = &(*at)->next;
    return at;
}

static void net_table_drop(struct net_switch *sw, struct net_mac *m)
{
    struct net_mac **at = net_table_link(sw, m->vlan, m->addr);

    *at = m->next;
    list_remove(&m->link);
    m->port->n_macs--;
    sw->n_macs--;
    free(m);
}

static struct net_mac *net_table_oldest(struct net_port *port)
{
    return list_empty(&port->macs) ? NULL : CONTAINER_OF(port->macs.next, struct net_mac, link);
}

static void net_table_place(struct net_mac *m, struct net_port *port, uint64_t now_ns)
{
    m->seen_ns = now_ns;
    list_remove(&m->link);
    list_add_before(&port->macs, &m->link);
    if (m->port != port) {
        m->port->n_macs--;
        port->n_macs++;
        m->port = port;
    }
}

bool net_table_learn(struct net_port *port, uint16_t vlan, const uint8_t mac[6], uint64_t now_ns)
{
    struct net_switch *sw = port->sw;
    struct net_mac *m = *net_table_link(sw, vlan, mac), **bucket, *oldest;
    struct net_port *owner;

    if (m && m->port == port) {
        /* The order of ages need not be exact to the second. */
        if (now_ns - m->seen_ns > NET_MAC_AGE_NS / 256)
            net_table_place(m, port, now_ns);
        return true;
    }
    owner = net_switch_port_by_mac(sw, mac);
    if (owner && owner != port && owner->config.filter_mac)
        return false;
    if (m) {
        net_table_place(m, port, now_ns);
        if (port->n_macs > NET_MACS_PER_PORT)
            net_table_drop(sw, net_table_oldest(port));
        return true;
    }
    if (port->n_macs >= NET_MACS_PER_PORT || sw->n_macs >= NET_MACS_MAX) {
        oldest = net_table_oldest(port);
        if (!oldest)
            return true; /* the table is full of others: not known is not wrong */
        net_table_drop(sw, oldest);
    }
    m = calloc(1, sizeof(*m));
    if (!m)
        return true;
    memcpy(m->addr, mac, 6);
    m->vlan = vlan;
    m->port = port;
    m->seen_ns = now_ns;
    list_init(&m->link);
    list_add_before(&port->macs, &m->link);
    bucket = net_table_bucket(sw, vlan, mac);
    m->next = *bucket;
    *bucket = m;
    port->n_macs++;
    sw->n_macs++;
    return true;
}

struct net_port *net_table_find(struct net_switch *sw, uint16_t vlan, const uint8_t mac[6], uint64_t now_ns)
{
    struct net_mac *m = *net_table_link(sw, vlan, mac);
    struct net_port *owner;

    if (m && now_ns - m->seen_ns <= NET_MAC_AGE_NS)
        return m->port;
    /* Not seen yet, but told by the configuration. */
    owner = net_switch_port_by_mac(sw, mac);
    return owner && owner->config.filter_mac ? owner : NULL;
}

void net_table_forget_mac(struct net_switch *sw, const uint8_t mac[6])
{
    for (unsigned i = 0; i < NET_MAC_BUCKETS; i++) {
        for (struct net_mac *m = sw->macs[i], *next; m; m = next) {
            next = m->next;
            if (memcmp(m->addr, mac, 6) == 0)
                net_table_drop(sw, m);
        }
    }
}

void net_table_forget_port(struct net_port *port)
{
    struct net_mac *m;

    while ((m = net_table_oldest(port)))
        net_table_drop(port->sw, m);
}

void net_table_add_owner(struct net_port *port)
{
    struct net_port **bucket;

    if (!net_mac_known(port->config.mac))
        return;
    bucket = net_table_owner_bucket(port->sw, port->config.mac);
    port->next = *bucket;
    *bucket = port;
}

void net_table_remove_owner(struct net_port *port)
{
    struct net_port **at;

    if (!net_mac_known(port->config.mac))
        return;
    at = net_table_owner_bucket(port->sw, port->config.mac);
    while (*at && *at != port)
        at = &(*at)->next;
    if (*at)
        *at = port->next;
}

struct net_port *net_switch_port_by_mac(struct net_switch *sw, const uint8_t mac[6])
{
    struct net_port *p = *net_table_owner_bucket(sw, mac);

    while (p && memcmp(p->config.mac, mac, 6) != 0)
        p = p->next;
    return p;
}

void net_switch_each_mac(struct net_switch *sw, void (*fn)(void *opaque, const struct net_switch_mac *mac),
                         void *opaque)
{
    uint64_t now_ns = sys_now_ns();

    for (unsigned i = 0; i < NET_MAC_BUCKETS; i++) {
        for (const struct net_mac *m = sw->macs[i]; m; m = m->next) {
            struct net_switch_mac mac = { .vlan = m->vlan, .port = m->port, .age_ns = now_ns - m->seen_ns };

            memcpy(mac.mac, m->addr, 6);
            if (mac.age_ns <= NET_MAC_AGE_NS)
                fn(opaque, &mac);
        }
    }
}
