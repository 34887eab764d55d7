/* Parts of the switch's process. All on the loop thread. */
#ifndef NETD_PRIV_H
#define NETD_PRIV_H

#include "base/err.h"
#include "base/list.h"
#include "net/switch.h"
#include "net/tap.h"
#include "proto/net_msg.h"
#include "proto/net_spec.h"
#include "sys/dirs.h"
#include "sys/place.h"

struct json_object;
struct loop;
struct loop_fd;
struct loop_timer;

struct netd {
    struct loop *loop;
    struct net_spec spec;
    struct net_switch *sw;
    struct net_services services; /* ops NULL: none */
    struct sys_place place;
    struct loop_fd *listen_src, *signal_src;
    int signals; /* signalfd */
    struct loop_timer *idle;
    uint64_t idle_ns; /* how long to live without ports and connections; 0: for ever */
    /* When it ends if there is still no port (sys_now_ns). Connections put that off while they last; only ports begin a
     * new time. So asking again and again, as monitoring does, keeps no network alive. */
    uint64_t idle_at_ns;
    struct list conns, vms;
    unsigned n_conns, n_vms;
};

/* ---- place.c ---- */

/* Take the lock and make the socket, listening. -EBUSY: another process serves this network. p is to be
 * left with sys_place_leave in any case. */
int netd_place_take(const char *network, struct sys_place *p, struct err *e) MUST_USE;

/* ---- uplink.c ---- */

/* Connect the network with what its description names: the outside, services. */
int netd_uplink_open(struct netd *d, struct err *e) MUST_USE;

/* The error of a tap that cannot be had, as one line. */
int netd_uplink_tap_error(const struct netd *d, enum net_tap_step step, int r, struct err *e);

/* ---- services.c ---- */

/* Open the services that the description wants, with NAT where it is theirs, and the port forwards. Before
 * netd_confine. */
int netd_services_open(struct netd *d, struct err *e) MUST_USE;
/* After the ports of VMs, before the switch. Also where they are not open. */
void netd_services_close(struct netd *d);
/* Add or remove a port forward. */
int netd_services_forward(struct netd *d, const struct net_spec_forward *f, bool add, struct err *e) MUST_USE;
/* An array; empty without services. */
struct json_object *netd_services_leases(struct netd *d);
/* The address that the network gives to the card, as text; "": none. */
void netd_services_address(struct netd *d, const uint8_t mac[6], char ret_text[ADDR_IP6_TEXT]);
/* A VM has a port, under the name host; it is about to lose it. */
void netd_services_vm_up(struct netd *d, struct net_port *port, const char *host);
void netd_services_vm_down(struct netd *d, struct net_port *port);

/* ---- vm.c ---- */

/* Make a port for a VM. ret_fds: the VM's ring descriptors, the caller's. */
int netd_vm_attach(struct netd *d, const struct net_msg_attach *a, int ret_fds[NET_MSG_RING_FDS],
                   struct net_port **ret_port, struct err *e) MUST_USE;
/* Make a port of a tap, for as long as the process of the pidfd lives. fds: NET_MSG_TAP_FDS; those that are kept become
 * -1. */
int netd_vm_attach_tap(struct netd *d, const struct net_msg_attach *a, int *fds, struct net_port **ret_port,
                       struct err *e) MUST_USE;
/* Take it away. -ENOENT: no such port of a VM. */
int netd_vm_detach(struct netd *d, const char *port, struct err *e) MUST_USE;
void netd_vm_detach_all(struct netd *d);

/* ---- control.c ---- */

int netd_control_start(struct netd *d, struct err *e) MUST_USE;
void netd_control_stop(struct netd *d);
/* Ports or connections came or went: is there still something to do? */
void netd_control_idle(struct netd *d);

/* ---- info.c ---- */

struct json_object *netd_info(struct netd *d);

/* ---- confine.c ---- */

/* Give up what is not needed any more once everything is open. -errno. */
int netd_confine(void) MUST_USE;

/* ---- uplink.c, once it is open ---- */

/* No guest may claim the gateway's IPv6 addresses, or that of its link. */
int netd_uplink_reserve(struct netd *d, struct err *e) MUST_USE;

#endif
