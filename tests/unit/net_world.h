/* A switch between back ends that only remember what they are sent; with a clock that the test sets (clock.h). */
#ifndef TESTS_UNIT_NET_WORLD_H
#define TESTS_UNIT_NET_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "clock.h"
#include "net/backend.h"
#include "net/switch.h"
#include "sys/loop.h"

#define PORTS 6
#define SECOND 1000000000ULL
#define ALL (NET_OFF_CSUM | NET_OFF_TSO4 | NET_OFF_TSO6 | NET_OFF_ECN | NET_OFF_USO)

struct fake {
    struct net_backend base;
    bool full;
    unsigned frames, dones, ready, closes;
    unsigned *closed;   /* outlives it */
    struct net_hdr hdr; /* of the last frame */
    uint8_t frame[NET_FRAME_MAX];
    size_t len;
    size_t total;
    struct net_port *port;
    /* What it sends back from within send; 0: nothing. */
    size_t answer_len;
    uint8_t answer[64];
};

struct world {
    struct loop *loop;
    struct net_switch *sw;
    struct fake *p[PORTS];
    unsigned closed;
};

extern const struct net_hdr plain;
extern const uint8_t broadcast[6];

struct fake *fake_new(struct world *w);
/* Address and configuration of port i: p0, p1, ... */
void mac_of(unsigned i, uint8_t mac[6]);
struct net_port_config config_of(unsigned i);
void add(struct world *w, unsigned i, const struct net_port_config *c);
void begin_empty(struct world *w);
/* With n ports without any rules. */
void begin(struct world *w, unsigned n);
/* Checks that each back end was closed. */
void end(struct world *w);

/* Ethernet addresses, a tag where tci >= 0, a type, and 46 bytes of payload. Returns the length. */
size_t ethernet(uint8_t *f, const uint8_t dst[6], const uint8_t src[6], int tci, uint16_t type);
/* A frame comes from a port. False: it was held back. */
bool inject(struct world *w, unsigned from, const struct net_hdr *hdr, const uint8_t *f, size_t len);
/* Likewise; returns bits of the ports that got it. */
unsigned reach(struct world *w, unsigned from, const uint8_t *frame, size_t len);
/* A frame of no meaning from a port and its address. */
unsigned say(struct world *w, unsigned from, const uint8_t dst[6], int tci);
unsigned say_to(struct world *w, unsigned from, unsigned to);

#endif
