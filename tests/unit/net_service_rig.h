/* A network's services between a guest, whose frames the test makes, and an uplink that counts. The DHCP client here
 * has its own idea of the format, independent of wire/dhcp.h. */
#ifndef TESTS_UNIT_NET_SERVICE_RIG_H
#define TESTS_UNIT_NET_SERVICE_RIG_H

#include "net/backend.h"
#include "net/service.h"
#include "wire/inet.h"

#define RIG_GATEWAY 0x0a580001U /* 10.88.0.1 */
#define RIG_FRAMES 16
#define RIG_HELD 64

struct service_rig {
    struct loop *loop;
    struct net_service_config config;
    struct net_service *service;
    struct net_backend *port;  /* the service's */
    struct net_backend uplink; /* used where config.uplink is it */
    unsigned uplink_frames, uplink_closed;
    bool uplink_full;
    int64_t now_s;
    bool full; /* the guest's side takes nothing */
    struct {
        size_t len;
        uint8_t data[2048];
    } frames[RIG_FRAMES]; /* to the guests, the first ones since rig_forget */
    unsigned n_frames;
    struct {
        uint32_t addr;
        bool held;
    } held[RIG_HELD]; /* address events in order */
    unsigned n_held;
};

/* Defaults: 10.88.0.0/24 with .10 to .14 by DHCP, fd88::/64, DNS for net.internal without forwarding, no uplink. */
void rig_init(struct service_rig *r);
void rig_start(struct service_rig *r);
/* Ends the service, not the rest, so that rig_start can follow. */
void rig_stop(struct service_rig *r);
void rig_done(struct service_rig *r);

void rig_forget(struct service_rig *r);
void rig_send(struct service_rig *r, const void *frame, size_t len);
/* The only frame that came; fails where there is none or another number. */
void rig_packet(struct service_rig *r, struct inet_packet *ret_packet);
void rig_mac(unsigned n, uint8_t ret_mac[6]); /* of guest n */

struct rig_dhcp {
    uint8_t type, mac[6];
    uint32_t ciaddr, requested, server;
    uint16_t flags;
    const char *name;
    uint32_t src, dst;     /* IP; dst 0: broadcast */
    const uint8_t *chaddr; /* NULL: mac */
    uint32_t giaddr;
};
/* Send it; true: an answer came. */
bool rig_dhcp(struct service_rig *r, const struct rig_dhcp *m);
/* Of the answer: message type, yiaddr, and a number option (0: not there). */
unsigned rig_answer_type(struct service_rig *r);
uint32_t rig_answer_addr(struct service_rig *r);
uint32_t rig_answer_option(struct service_rig *r, uint8_t code);
/* DISCOVER and REQUEST of guest n; returns the address, 0: none. */
uint32_t rig_lease(struct service_rig *r, unsigned n, const char *name);
/* Ask for a name as guest n; the length of the answer, its DNS message in *ret_msg (0: none came). */
size_t rig_ask(struct service_rig *r, unsigned n, const char *name, uint16_t type, const uint8_t **ret_msg);

#endif
