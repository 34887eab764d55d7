/* The port forwards of a network, which name guests: each is in force while its guest has an address, and moves when
 * that changes. Names are those that the configuration and the starter of a VM gave, never what a guest calls itself.
 * Loop thread only. It must not know how ports are forwarded. */
#ifndef NET_NAT_FORWARD_H
#define NET_NAT_FORWARD_H

#include <stdbool.h>

#include "base/attr.h"
#include "net/nat_rules.h"
#include "net/switch.h"

/* How ports are forwarded. */
struct net_forwarder {
    int (*add)(void *opaque, const struct net_nat_forward *f);
    int (*remove)(void *opaque, const struct net_nat_forward *f);
    /* Whether the host's side could be had now, as add would find; for forwards that wait for their guest. NULL: yes.
     */
    int (*probe)(void *opaque, const struct net_nat_forward *f);
    /* The address of a guest by name: IPv6 where ip6. false: it has none now. */
    bool (*resolve)(void *opaque, const char *name, bool ip6, struct net_nat_forward *ret_guest);
    void *opaque;
};

struct net_forward {
    struct net_forward_rule rule;
    struct net_nat_forward in_force; /* host_port 0: not in force */
};

struct net_forwards {
    struct net_forwarder by;
    struct net_forward *list;
    unsigned n;
};

void net_forwards_init(struct net_forwards *t, const struct net_forwarder *by);
/* Forgets all, without removing what is in force. Accepts a zeroed struct. */
void net_forwards_done(struct net_forwards *t);
/* Add a rule. One whose guest has no address yet waits for it. -EINVAL: ports, or no guest; -EAFNOSUPPORT: IPv4 on one
 * side, IPv6 on the other; -EEXIST: the host's port is forwarded already; -ENOSPC: NET_NAT_FORWARDS_MAX; -ENOMEM;
 * errors of by.add. */
int net_forwards_add(struct net_forwards *t, const struct net_forward_rule *rule) MUST_USE;
/* The host's side counts, and the guest where rule names one. -ENOENT. */
int net_forwards_remove(struct net_forwards *t, const struct net_forward_rule *rule) MUST_USE;
/* Names may resolve to something else now. */
void net_forwards_refresh(struct net_forwards *t);

#endif
