/* The inside of net/service.h: what the parts of the service share. */
#ifndef NET_SERVICE_PRIV_H
#define NET_SERVICE_PRIV_H

#include "net/backend.h"
#include "net/service.h"
#include "net/service_lease.h"
#include "wire/dns.h"
#include "wire/inet.h"

#define NET_SERVICE_UDP_MAX 4096 /* the longest datagram that is answered or sent */
#define NET_SERVICE_FRAME_MAX (INET_UDP6_HEADERS + NET_SERVICE_UDP_MAX)

/* What one guest may ask in a row, and in a second. */
#define NET_SERVICE_BURST 2000
#define NET_SERVICE_BUDGETS 256

struct net_lease_file;
struct net_resolver;

struct net_service_budget {
    uint32_t spent;
    uint64_t since_ns; /* when spent began to count */
};

struct net_service {
    struct net_backend base;
    struct loop *loop;
    struct net_service_config config; /* with the pointers of the configuration cleared, but uplink and events */
    uint8_t link_local[16];
    struct dns_name domain;
    char domain_text[DNS_TEXT_MAX];
    struct net_leases leases;
    struct net_lease_file *file;
    struct net_resolver *resolver; /* NULL: nothing is forwarded */
    struct loop_timer *advertise_timer, *expire_timer;
    struct net_service_budget budgets[NET_SERVICE_BUDGETS]; /* by hash of the MAC */
    uint32_t budget_seed;                                   /* random: nobody chooses with whom to share */
    uint8_t frame[NET_SERVICE_FRAME_MAX];                   /* of an answer under construction */
};

int64_t net_service_now_s(const struct net_service *s);
/* Send a frame to the guests; it is lost where there is no room. */
void net_service_emit(struct net_service *s, const uint8_t *frame, size_t len);
/* Answer the datagram that came by flow. len: at most NET_SERVICE_UDP_MAX. */
void net_service_answer(struct net_service *s, const struct inet_flow *flow, uint16_t their_port, uint16_t our_port,
                        const void *data, size_t len);

/* Each takes a packet that is meant for it; data points to private memory. */
void net_service_dhcp(struct net_service *s, const struct inet_flow *flow, const uint8_t *data, size_t len);
void net_service_dhcp6(struct net_service *s, const struct inet_flow *flow, const uint8_t *data, size_t len);
void net_service_dns(struct net_service *s, const struct inet_flow *flow, uint16_t port, const uint8_t *data,
                     size_t len);
void net_service_arp(struct net_service *s, const struct inet_arp *arp);
void net_service_ping(struct net_service *s, const struct inet_packet *p);
void net_service_solicited_neighbour(struct net_service *s, const struct inet_packet *p);
/* Send a router advertisement: to all (to NULL) or to whom asked for it. */
void net_service_advertise(struct net_service *s, const struct inet_flow *to);
/* ICMPv6 that the service looks at, though it goes on to the uplink: learns who takes which address. */
void net_service_snoop(struct net_service *s, const struct inet_packet *p);

/* The forwarder of DNS queries to the host's resolvers (service_resolver.c). resolv_conf is copied; NULL:
 * /etc/resolv.conf. */
int net_resolver_new(struct net_service *s, const char *resolv_conf, struct loop *loop,
                     struct net_resolver **ret_resolver) MUST_USE;
void net_resolver_free(struct net_resolver *r); /* NULL accepted */
/* Ask the resolvers; the answer goes to the client when it comes. -EBUSY: too many questions are under way; -ENOMEM and
 * errors of socket. data is copied. */
int net_resolver_ask(struct net_resolver *r, const struct inet_flow *flow, uint16_t port, const uint8_t *data,
                     size_t len, const struct dns_query *q) MUST_USE;

#endif
