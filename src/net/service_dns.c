/* DNS: authority for the names and addresses of the network (NAME.DOMAIN and bare NAME, forward and reverse),
 * everything else goes to the host's resolvers. Names of the network never leave it. */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "net/service_priv.h"

#define NET_DNS_TTL_S 10 /* short: a guest may go and come at any time */
#define NET_DNS_GATEWAY "gateway"

struct net_dns_answer {
    struct net_service *s;
    const uint8_t *msg;
    const struct dns_query *q;
    struct dns_writer w;
    uint8_t out[NET_SERVICE_UDP_MAX];
};

static void net_dns_begin(struct net_dns_answer *a, unsigned rcode)
{
    size_t cap = MIN(a->q->udp_size, (size_t)a->s->config.mtu - 48); /* IPv6 and UDP header */

    dns_answer_begin(&a->w, a->out, MAX(MIN(cap, sizeof(a->out)), (size_t)DNS_UDP_MIN), a->msg, a->q, rcode, true);
}

/* No such name, or nothing of this type. */
static void net_dns_nothing(struct net_dns_answer *a, unsigned rcode)
{
    net_dns_begin(a, rcode);
    dns_answer_add_soa(&a->w, &a->s->domain, NET_DNS_TTL_S, false);
}

static bool net_dns_wants(const struct dns_query *q, uint16_t type)
{
    return q->type == type || q->type == DNS_TYPE_ANY;
}

static void net_dns_addresses(struct net_dns_answer *a, uint32_t ip4, const uint8_t (*ip6)[16], unsigned n_ip6)
{
    uint8_t be[4];

    store_be32(be, ip4);
    net_dns_begin(a, DNS_NOERROR);
    if (ip4 && net_dns_wants(a->q, DNS_TYPE_A))
        dns_answer_add(&a->w, DNS_TYPE_A, NET_DNS_TTL_S, be, sizeof(be));
    for (unsigned i = 0; i < n_ip6 && net_dns_wants(a->q, DNS_TYPE_AAAA); i++)
        dns_answer_add(&a->w, DNS_TYPE_AAAA, NET_DNS_TTL_S, ip6[i], 16);
    if (load_be16(a->w.out + 6) == 0)
        net_dns_nothing(a, DNS_NOERROR);
}

/* A host of the network, by the first label of the question. */
static void net_dns_host(struct net_dns_answer *a)
{
    struct net_service *s = a->s;
    struct net_lease_slot *slot;
    char label[NET_SERVICE_NAME_MAX + 1];

    if (!dns_name_first_label(&a->q->name, label)) {
        net_dns_nothing(a, DNS_NXDOMAIN);
        return;
    }
    if (strcmp(label, NET_DNS_GATEWAY) == 0) {
        net_dns_addresses(a, s->config.gateway, &s->config.gateway6, s->config.subnet6.prefix ? 1 : 0);
        return;
    }
    slot = net_leases_by_name(&s->leases, label, false, net_service_now_s(s));
    if (slot)
        net_dns_addresses(a, slot->addr, slot->ip6, slot->n_ip6);
    else
        net_dns_nothing(a, DNS_NXDOMAIN);
}

/* The name that belongs to an address; label "": none. */
static void net_dns_reverse(struct net_dns_answer *a, const char *label)
{
    struct dns_name name;

    if (!dns_name_join(label, &a->s->domain, &name)) {
        net_dns_nothing(a, DNS_NXDOMAIN);
        return;
    }
    if (!net_dns_wants(a->q, DNS_TYPE_PTR)) {
        net_dns_nothing(a, DNS_NOERROR);
        return;
    }
    net_dns_begin(a, DNS_NOERROR);
    dns_answer_add(&a->w, DNS_TYPE_PTR, NET_DNS_TTL_S, name.wire, name.len);
}

static const char *net_dns_name4(struct net_service *s, uint32_t addr)
{
    struct net_lease_slot *slot = net_leases_by_addr(&s->leases, addr);

    if (addr == s->config.gateway)
        return NET_DNS_GATEWAY;
    return slot && net_lease_holds(slot, net_service_now_s(s)) ? net_lease_name(slot) : "";
}

static const char *net_dns_name6(struct net_service *s, const uint8_t addr[16])
{
    if (memcmp(addr, s->config.gateway6, 16) == 0)
        return NET_DNS_GATEWAY;
    for (unsigned i = 0; i < s->leases.n; i++) {
        const struct net_lease_slot *slot = &s->leases.slots[i];

        for (unsigned k = 0; k < slot->n_ip6; k++) {
            if (memcmp(slot->ip6[k], addr, 16) == 0 && net_lease_holds(slot, net_service_now_s(s)))
                return net_lease_name(slot);
        }
    }
    return "";
}

/* Whether the question is about this network, and then its answer. */
static bool net_dns_local(struct net_dns_answer *a)
{
    const struct dns_query *q = a->q;
    struct net_service *s = a->s;
    uint8_t addr6[16];
    unsigned labels;
    uint32_t addr;

    if (dns_name_is_below(&q->name, &s->domain, &labels)) {
        if (labels == 1)
            net_dns_host(a);
        else
            net_dns_nothing(a, labels == 0 ? DNS_NOERROR : DNS_NXDOMAIN);
        if (labels == 0 && net_dns_wants(q, DNS_TYPE_SOA)) {
            net_dns_begin(a, DNS_NOERROR);
            dns_answer_add_soa(&a->w, &s->domain, NET_DNS_TTL_S, true);
        }
        return true;
    }
    if (dns_name_reverse4(&q->name, &addr) && addr_subnet4_contains(&s->config.subnet, addr)) {
        net_dns_reverse(a, net_dns_name4(s, addr));
        return true;
    }
    if (dns_name_reverse6(&q->name, addr6) && addr_subnet6_contains(&s->config.subnet6, addr6)) {
        net_dns_reverse(a, net_dns_name6(s, addr6));
        return true;
    }
    /* A bare name is a guest's, or nobody's: the world's one-label names have no addresses. */
    if (dns_name_labels(&q->name) == 1 && (net_dns_wants(q, DNS_TYPE_A) || net_dns_wants(q, DNS_TYPE_AAAA))) {
        net_dns_host(a);
        return true;
    }
    return false;
}

void net_service_dns(struct net_service *s, const struct inet_flow *flow, uint16_t port, const uint8_t *data,
                     size_t len)
{
    struct dns_query q;
    int res = dns_query_parse(data, len, &q);
    struct net_dns_answer a = { .s = s, .msg = data, .q = &q };
    unsigned rcode;

    if (res == -EBADMSG)
        return;
    if (res < 0) {
        rcode = res == -EOPNOTSUPP ? DNS_NOTIMP : DNS_FORMERR;
    } else if (q.edns_version > 0) {
        rcode = DNS_NOERROR; /* with BADVERS in the EDNS record */
    } else if (q.class == DNS_CLASS_IN && net_dns_local(&a)) {
        net_service_answer(s, flow, port, DNS_PORT, a.out, dns_answer_end(&a.w, &q));
        return;
    } else if (q.class == DNS_CLASS_IN && s->resolver) {
        if (net_resolver_ask(s->resolver, flow, port, data, len, &q) == 0)
            return;
        rcode = DNS_SERVFAIL;
    } else {
        rcode = DNS_REFUSED;
    }
    net_service_answer(s, flow, port, DNS_PORT, a.out, dns_answer_empty(a.out, DNS_UDP_MIN, data, &q, rcode, false));
}
