/* Inside the switch. */
#ifndef NET_SWITCH_PRIV_H
#define NET_SWITCH_PRIV_H

#include "base/bits.h"
#include "base/list.h"
#include "net/backend.h"
#include "net/switch.h"

struct loop_timer;

#define NET_MAC_BUCKETS 4096
#define NET_MACS_MAX 16384     /* in the table */
#define NET_MACS_PER_PORT 2048 /* of them */
#define NET_MAC_AGE_NS (300ULL * 1000000000)
#define NET_IP_BUCKETS 1024
#define NET_LISTENERS_MAX 4
#define NET_CAPTURES_MAX 8
#define NET_PORT_BUCKETS 256

/* A frame on its way through the switch. Its bytes are private memory. */
struct net_frame {
    const struct net_hdr *hdr;
    const uint8_t *data;
    size_t len;
    uint16_t vlan; /* to which it belongs */
    uint16_t tci;  /* of its tag; 0 without */
    uint16_t type; /* EtherType behind the tag */
    size_t l3;     /* offset behind the EtherType: 14, or 18 with a tag */
};

struct net_mac {
    struct net_mac *next; /* in its bucket */
    struct list link;     /* in port->macs, the one seen longest ago first */
    struct net_port *port;
    uint64_t seen_ns;
    uint16_t vlan;
    uint8_t addr[6];
};

/* An address that belongs to a port. */
struct net_ip_entry {
    struct net_ip_entry *next; /* in its bucket */
    struct list link;          /* in port->ips, oldest first */
    struct net_port *port;
    struct net_ip ip;
    uint16_t vlan;
    bool claimed;   /* first come; else allowed by name */
    bool tentative; /* of IPv6: asked for, not used yet */
};

/* Token bucket. It may go into debt by one frame, so that a frame longer than the burst passes some time. */
struct net_rate {
    uint64_t per_s, burst; /* per_s 0: no limit */
    int64_t tokens;
    uint64_t at_ns; /* when tokens was right */
};

struct net_port {
    struct net_switch *sw;
    struct list link;      /* in sw->ports */
    struct net_port *next; /* in its bucket of sw->by_mac; only where mac is known */
    struct net_backend *backend;
    struct net_port_config config;
    struct net_port_counters counters;
    struct list macs, ips;
    unsigned n_macs, n_ips;
    struct net_rate in, out, flood;
    struct list held_link;  /* in sw->held while rate_in holds it back */
    struct list dirty_link; /* in sw->dirty while a send_done is due */
    void *opaque;
};

struct net_capture {
    int number;            /* 0: free */
    struct net_port *port; /* NULL: all */
    struct net_pcap *pcap;
};

struct net_switch {
    struct loop *loop;
    struct loop_timer *timer; /* for held ports, and to write captures out */
    struct list ports, held, dirty;
    unsigned n_ports, n_macs, n_captures;
    int last_capture;
    uint64_t key; /* of the hashes, so that nobody can choose addresses that collide */
    struct net_switch_events listeners[NET_LISTENERS_MAX];
    unsigned n_listeners;
    struct net_capture captures[NET_CAPTURES_MAX];
    struct net_port *by_mac[NET_PORT_BUCKETS];
    struct net_mac *macs[NET_MAC_BUCKETS];
    struct net_ip_entry *ips[NET_IP_BUCKETS];
};

/* Whether any of the six bytes is not zero. */
static inline bool net_mac_known(const uint8_t mac[6])
{
    return load_le32(mac) != 0 || load_le16(mac + 4) != 0;
}

/* ---- switch_table.c ---- */

/* Note that mac was seen at port. False: it belongs to somebody else for good. */
bool net_table_learn(struct net_port *port, uint16_t vlan, const uint8_t mac[6], uint64_t now_ns) MUST_USE;
/* Where mac is, or NULL. */
struct net_port *net_table_find(struct net_switch *sw, uint16_t vlan, const uint8_t mac[6], uint64_t now_ns);
/* Forget mac in all VLANs, wherever it was seen. */
void net_table_forget_mac(struct net_switch *sw, const uint8_t mac[6]);
/* Forget all that belongs to port. */
void net_table_forget_port(struct net_port *port);
void net_table_add_owner(struct net_port *port);
void net_table_remove_owner(struct net_port *port);
uint64_t net_table_hash(const struct net_switch *sw, const void *data, size_t len, uint64_t salt);

/* ---- switch_filter.c ---- */

/* Whether the port may send this frame, by its mac and ip filters. */
bool net_filter_pass(struct net_port *port, const struct net_frame *f) MUST_USE;
void net_filter_forget_port(struct net_port *port);

/* ---- switch_rate.c ---- */

void net_rate_init(struct net_rate *r, uint64_t per_s, uint64_t burst, uint64_t now_ns);
/* Take n, where the bucket is not in debt. */
bool net_rate_take(struct net_rate *r, uint64_t n, uint64_t now_ns) MUST_USE;
/* When the bucket will be out of debt. */
uint64_t net_rate_ready_ns(const struct net_rate *r);

/* ---- switch_capture.c ---- */

/* Captures of what comes in from port, or goes out to it (as iov). */
void net_capture_in(struct net_port *port, const struct net_frame *f);
void net_capture_out(struct net_port *port, const struct net_hdr *hdr, const struct iovec *iov, unsigned n_iov,
                     size_t len);
void net_capture_forget_port(struct net_port *port);
void net_capture_flush(struct net_switch *sw);

/* ---- switch.c ---- */

/* Set the timer for the held port that is ready first, and for captures. */
void net_switch_arm(struct net_switch *sw);

#endif
