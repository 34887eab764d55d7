/* All that a network has besides its switch: services, the way to the outside, port forwards, put together as one port
 * of the switch. Loop thread only. It must not know networks' JSON. */
#ifndef NET_SERVICES_H
#define NET_SERVICES_H

#include "base/attr.h"
#include "net/nat_nft.h"
#include "net/service.h"
#include "net/switch.h"
#include "net/tap.h"

struct loop;

enum net_services_nat {
    NET_SERVICES_ISOLATED, /* no way out */
    NET_SERVICES_SLIRP,    /* by sockets of this process */
    NET_SERVICES_NFT,      /* by the kernel; needs root */
    NET_SERVICES_BRIDGED,  /* by another port of the switch: not our matter, but DNS asks outside */
};

struct net_services_config {
    const char *name; /* of the network, [a-z0-9-] */
    enum net_services_nat nat;
    const char *tap; /* NFT: name of the interface to make; NULL, "": chosen */
    /* What the services are to offer. mac, router, uplink, uplink_is_gateway, dns_forward and events are filled here.
     */
    struct net_service_config service;
};

/* Where opening failed. */
enum net_services_step {
    NET_SERVICES_UPLINK,  /* libslirp: -ENOMEM, -EINVAL */
    NET_SERVICES_TAP,     /* tap_step says more */
    NET_SERVICES_RULES,   /* nft_step says more */
    NET_SERVICES_SERVICE, /* as net_service_new */
    NET_SERVICES_PORT,    /* as net_switch_port_add */
};

struct net_services_report {
    enum net_services_step step;
    enum net_tap_step tap_step;
    enum net_nft_step nft_step;
    unsigned host_changed; /* NET_NFT_FORWARD*: routing that was switched on, of which the user should hear */
    char interface[NET_TAP_NAME_MAX + 1];
};

/* Open them and add the port "gateway" to sw. config is borrowed during the call. With NET_SERVICES_NFT before threads
 * are started and privileges dropped. ret_services->ops->free takes the port away again; call it before
 * net_switch_free. */
int net_services_open(const struct net_services_config *config, struct loop *loop, struct net_switch *sw,
                      struct net_services *ret_services, struct net_services_report *ret_report) MUST_USE;

#endif
