/* Who has which address of a network: a table with one slot for each address that DHCP may give out or that is fixed.
 * Slots are never added or removed later, so that a slot's address is safe to keep. Loop thread only. It must not know
 * packets. */
#ifndef NET_SERVICE_LEASE_H
#define NET_SERVICE_LEASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "net/service.h"

#define NET_LEASE_OFFER_S 60
#define NET_LEASE_DECLINE_S 600
#define NET_LEASE_DECLINES_MAX 3 /* addresses that one MAC may keep from use by declining them */
#define NET_LEASE_IP6_MAX 4

enum net_lease_state {
    NET_LEASE_FREE, /* mac, where not zero: who had it last */
    NET_LEASE_OFFERED,
    NET_LEASE_BOUND,
    NET_LEASE_DECLINED, /* mac: by whom */
};

struct net_lease_slot {
    uint32_t addr;
    uint8_t mac[6];
    bool fixed; /* mac and name never change */
    bool up;    /* of a VM that is up: never taken by others */
    enum net_lease_state state;
    int64_t until_s;                          /* OFFERED, BOUND, DECLINED; FREE: since when */
    char name[NET_SERVICE_NAME_MAX + 1];      /* given by the configuration or the VM */
    char host_name[NET_SERVICE_NAME_MAX + 1]; /* given by the client itself */
    uint8_t ip6[NET_LEASE_IP6_MAX][16];       /* addresses that it was seen to take, the latest first */
    unsigned n_ip6;
};

struct net_leases {
    struct net_lease_slot *slots;
    unsigned n, n_pool; /* the first n_pool in order of addresses from first on */
    uint32_t first;
    struct net_service_events events;
    bool changed; /* since whoever saves it has cleared this */
};

/* Make the table. gateway is never given out. -EINVAL: two fixed hosts of one address or MAC; -ENOMEM. */
int net_leases_init(struct net_leases *t, const struct net_service_config *config) MUST_USE;
void net_leases_done(struct net_leases *t); /* accepts a zeroed struct */

/* The slot of mac, whatever its state but DECLINED; or NULL. */
struct net_lease_slot *net_leases_by_mac(struct net_leases *t, const uint8_t mac[6]);
struct net_lease_slot *net_leases_by_addr(struct net_leases *t, uint32_t addr);
/* The slot of a name: given ones, then, unless given_only, those that clients gave themselves; NULL: none that holds.
 */
struct net_lease_slot *net_leases_by_name(struct net_leases *t, const char *name, bool given_only, int64_t now_s);
/* Whether mac may use its slot now. */
bool net_lease_holds(const struct net_lease_slot *s, int64_t now_s);
/* The name that holds: the given one before the client's own. */
const char *net_lease_name(const struct net_lease_slot *s);

/* The slot that mac has or may have: its own, else wanted (0: no wish) if that is free, else any that is. NULL: none.
 * It becomes OFFERED until net_lease_bind, where it was not BOUND. */
struct net_lease_slot *net_leases_offer(struct net_leases *t, const uint8_t mac[6], uint32_t wanted, int64_t now_s);
/* Like net_leases_offer, but only the address wanted: NULL where mac cannot have it. */
struct net_lease_slot *net_leases_claim(struct net_leases *t, const uint8_t mac[6], uint32_t wanted, int64_t now_s);
void net_lease_bind(struct net_leases *t, struct net_lease_slot *s, int64_t until_s);
/* The client's own name; "" or one that somebody else has: none. */
void net_lease_set_host_name(struct net_leases *t, struct net_lease_slot *s, const char *name, int64_t now_s);
void net_lease_release(struct net_leases *t, struct net_lease_slot *s, int64_t now_s);
/* The client says that somebody else uses the address. */
void net_lease_decline(struct net_leases *t, struct net_lease_slot *s, int64_t now_s);
/* Let go what has expired. */
void net_leases_expire(struct net_leases *t, int64_t now_s);
/* mac was seen to take an IPv6 address. */
void net_leases_learn_ip6(struct net_leases *t, const uint8_t mac[6], const uint8_t addr[16]);
/* VM up: see net_service_guest_up. */
struct net_lease_slot *net_leases_guest_up(struct net_leases *t, const uint8_t mac[6], const char *name, int64_t now_s);
void net_leases_guest_down(struct net_leases *t, const uint8_t mac[6], int64_t now_s);
/* Take a lease over from an earlier run; ignored where it no longer fits. */
void net_leases_restore(struct net_leases *t, const uint8_t mac[6], uint32_t addr, const char *host_name,
                        int64_t until_s, int64_t now_s);

#endif
