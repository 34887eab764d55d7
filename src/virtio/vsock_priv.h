/* Insides of virtio-vsock, shared by vsock.c (queues and packets) and vsock_conn.c (connections and their sockets). */
#ifndef VIRTIO_VSOCK_PRIV_H
#define VIRTIO_VSOCK_PRIV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/list.h"
#include "sys/loop.h"
#include "virtio/pci.h"
#include "virtio/vsock.h"

enum { VSOCK_RX = 0, VSOCK_TX = 1, VSOCK_EVENT = 2, VSOCK_QUEUES = 3 };

/* Operations (section 5.10.6). */
enum {
    VSOCK_OP_REQUEST = 1,
    VSOCK_OP_RESPONSE = 2,
    VSOCK_OP_RST = 3,
    VSOCK_OP_SHUTDOWN = 4,
    VSOCK_OP_RW = 5,
    VSOCK_OP_CREDIT_UPDATE = 6,
    VSOCK_OP_CREDIT_REQUEST = 7,
};
enum { VSOCK_SHUTDOWN_RCV = 1, VSOCK_SHUTDOWN_SEND = 2, VSOCK_SHUTDOWN_BOTH = 3 };

enum {
    VSOCK_HDR = 44,
    VSOCK_WINDOW = 256 * 1024, /* bytes of the guest that a connection keeps while its socket takes none */
    VSOCK_RESETS_MAX = 2 * VIRTIO_VSOCK_CONNS_MAX,
    VSOCK_LINE = 32, /* longest "CONNECT PORT\n" */
};

struct vsock_hdr {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port, len;
    uint16_t type, op;
    uint32_t flags, buf_alloc, fwd_cnt;
};

enum vsock_state {
    VSOCK_HANDSHAKE,  /* of the host; its first line is not complete */
    VSOCK_CONNECTING, /* REQUEST is sent, or will be */
    VSOCK_OPEN,
    VSOCK_DRAINING, /* the guest's end is gone; what it sent is still to be written */
};

/* A connection, or one in the making. Loop thread. */
struct vsock_conn {
    struct list link;  /* of the device's connections */
    struct list ready; /* of those with something to send to the guest; empty list: not one of them */
    struct virtio_vsock *v;
    int fd;
    struct loop_fd *src; /* NULL: nothing is waited for */
    enum vsock_state state;
    uint32_t host_port, guest_port;
    unsigned owed;      /* BIT(operation): packets that the guest is to get */
    bool lost;          /* the socket cannot be watched: to be reset when its turn comes */
    bool readable;      /* the socket may have bytes, or its end, for the guest */
    bool host_done;     /* the host sends no more */
    uint32_t told_done; /* VSOCK_SHUTDOWN_*: what the guest is told when SHUTDOWN is owed */
    bool guest_done;    /* the guest sends no more */
    bool guest_deaf;    /* nor wants any */
    bool asked_credit;
    uint32_t peer_alloc, peer_fwd;    /* the guest's buffer, and what it took from it */
    uint32_t sent;                    /* bytes to the guest, modulo 2^32 */
    uint32_t received, fwd, told_fwd; /* bytes of the guest, those written, and what it knows of these */
    uint8_t *out;                     /* ring of VSOCK_WINDOW bytes, NULL while nothing waits */
    uint32_t out_head, out_len;
};

struct virtio_vsock {
    struct virtio_pci *pci;
    struct loop *loop;
    uint32_t guest_cid;
    char *prefix;
    int listen_fd;
    struct loop_fd *listen_src;
    struct virtq_chain *tx, *rx;
    struct list conns, ready;
    unsigned n_conns;
    uint32_t next_port; /* of the host, for its next call */
    bool reset_owed;    /* the driver is to be told that all connections are gone */
    bool tx_stopped;    /* too many resets wait to be sent */
    unsigned n_resets, first_reset;
    struct vsock_reset {
        uint32_t host_port, guest_port;
    } resets[VSOCK_RESETS_MAX]; /* ring */
};

/* ---- vsock.c ---- */

/* Send what is ready as far as the guest has buffers. */
void vsock_run(struct virtio_vsock *v);
/* The guest is to get a RST for these ports. */
void vsock_reset(struct virtio_vsock *v, uint32_t host_port, uint32_t guest_port);

/* ---- vsock_conn.c ---- */

/* Accept what calls at the listening socket. */
void vsock_accept(void *opaque, uint32_t events);
/* The guest calls a port of the host; resets where nobody is there. */
void vsock_conn_call(struct virtio_vsock *v, const struct vsock_hdr *h);
struct vsock_conn *vsock_conn_find(struct virtio_vsock *v, uint32_t host_port, uint32_t guest_port);
/* A packet for a connection; its payload is h->len bytes of c from VSOCK_HDR on. May free the connection. */
void vsock_conn_packet(struct vsock_conn *conn, const struct vsock_hdr *h, const struct virtq_chain *c);
/* Fill the chain with the next packet for the guest, header included. Returns its bytes, 0: there is none after all;
 * -ECONNRESET: the connection was freed. */
int vsock_conn_fill(struct vsock_conn *conn, struct virtq_chain *c) MUST_USE;
/* Put it into the list of those that are ready, or take it off, and watch what is to be watched. */
void vsock_conn_update(struct vsock_conn *conn);
/* Close and free, without a word to the guest. */
void vsock_conn_free(struct vsock_conn *conn);
/* Write a header to the front of a chain. */
void vsock_hdr_store(const struct vsock_hdr *h, uint8_t raw[VSOCK_HDR]);

#endif
