/* Messages between caisson-switch and who manages it (CLI, later the API) over a SOCK_SEQPACKET socket: one JSON
 * document for each request, one for each reply, descriptors with them by SCM_RIGHTS. Both ends use this header.
 * Unknown fields are refused. The socket of network NAME is RUNTIME/net/NAME.sock (sys/dirs.h).
 *
 *   {"op": "attach", "vm": "web1", "nic": 0, "mac": "52:54:...", "host": "web1", ...}  -> {"ok": true, "port":
 * "web1.0", "mtu": 1500, "ip": "10.188.0.2"|null} and NET_MSG_RING_FDS descriptors (net/ring.h), to be passed on to
 * caisson-vmm. ip: the address that the network gives to this card, without waiting for DHCP.
 *   {"op": "attach", ..., "tap": true} with NET_MSG_TAP_FDS descriptors: a tap device that is to be the port (the end
 * of a wire into a container; it has virtio_net_hdr), and a pidfd with whose process the port goes. The reply has none
 *   {"op": "detach", "port": "web1.0"}                     -> {"ok": true}
 *   {"op": "info"}                                         -> {"ok": true, "info": {"network", "pid", "ports": [...],
 * "macs": [...]}}
 *   {"op": "leases"}                                       -> {"ok": true, "leases": [{"mac", "ip", "host",
 * "expires"}]}
 *   {"op": "capture", "port": "web1.0"|null, "max_bytes"}  with the file's descriptor -> {"ok": true}; it ends when
 * this connection does
 *   {"op": "forward-add"|"forward-rm", "proto", "host_addr", "host_port", "guest", "guest_port"}  -> {"ok": true}
 *   {"op": "stop"}                                         -> {"ok": true}, and the process ends
 * Errors: {"ok": false, "code": errno, "error": "one line"}. A port lives as long as the VM holds its descriptors.
 *
 * Any thread; a socket is used by one at a time. It must not know what a switch does with all this. */
#ifndef PROTO_NET_MSG_H
#define PROTO_NET_MSG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"
#include "proto/name.h"
#include "proto/net_spec.h"

struct json_object;

#define NET_MSG_FDS_MAX 4
#define NET_MSG_RING_FDS 3
#define NET_MSG_TAP_FDS 2
#define NET_MSG_TEXT_MAX (16U << 20)              /* of a reply; what does not fit a packet travels in a memfd */
#define NET_MSG_NICS_MAX 64                       /* of one VM */
#define NET_MSG_TRUNK_MAX 64                      /* VLANs in one attach */
#define NET_MSG_PORT_MAX (PROTO_NAME_MAX + 1 + 3) /* without its terminator */

enum net_msg_op {
    NET_MSG_ATTACH,
    NET_MSG_DETACH,
    NET_MSG_INFO,
    NET_MSG_LEASES,
    NET_MSG_CAPTURE,
    NET_MSG_FORWARD_ADD,
    NET_MSG_FORWARD_RM,
    NET_MSG_STOP,
};

/* A card of a VM. What is left zero takes the network's default. */
struct net_msg_attach {
    char vm[PROTO_NAME_MAX + 1]; /* a name (proto/name.h) */
    uint32_t nic;                /* 0..NET_MSG_NICS_MAX - 1; vm.nic is the port's name */
    uint8_t mac[6];
    char host[PROTO_NAME_MAX + 1]; /* name for DNS; "": vm */
    uint16_t vlan;                 /* 0..4094 */
    uint16_t trunk[NET_MSG_TRUNK_MAX];
    unsigned n_trunk;           /* > 0: a trunk port with these VLANs, and vlan as the native one */
    bool isolated;              /* in addition to the network's isolated_ports */
    bool no_filter;             /* this VM may use any address, though the network has mac_filter */
    bool tap;                   /* the port is a tap whose descriptor comes with the request */
    uint64_t rate_in, rate_out; /* bytes/s from and to the VM; 0: no limit */
    uint64_t burst;             /* bytes; 0: chosen */
};

struct net_msg_request {
    enum net_msg_op op;
    struct net_msg_attach attach;    /* NET_MSG_ATTACH */
    char port[NET_MSG_PORT_MAX + 1]; /* DETACH, CAPTURE ("": all ports) */
    uint64_t max_bytes;              /* CAPTURE; 0: no limit */
    struct net_spec_forward forward; /* FORWARD_ADD, FORWARD_RM */
};

/* *ret_text: malloc'd, one line. -ENOMEM. */
int net_msg_request_to_json(const struct net_msg_request *r, char **ret_text) MUST_USE;
/* -EINVAL with text. *r is undefined on failure. */
int net_msg_request_from_json(const char *text, struct net_msg_request *r, struct err *e) MUST_USE;

/* Send one message with n_fds descriptors (borrowed). -EAGAIN: the socket is full and does not block; -EPIPE and others
 * of sendmsg; -ENOMEM, -EMFILE. SIGPIPE is never raised. */
int net_msg_send(int sock, const char *text, const int *fds, unsigned n_fds) MUST_USE;
/* Receive one message. *ret_text: malloc'd; ret_fds: *ret_n of at most NET_MSG_FDS_MAX descriptors, close-on-exec, all
 * the caller's. -EAGAIN; -ECONNRESET: the peer has closed; -EBADMSG: not a message (too long, too many descriptors, no
 * text); errors of recvmsg. Nothing is returned on failure. */
int net_msg_receive(int sock, char **ret_text, int ret_fds[NET_MSG_FDS_MAX], unsigned *ret_n) MUST_USE;

/* The client's side: send a request and wait for its reply at most timeout_ms (-1: for ever). *ret_reply: the reply
 * object with "ok": true, to be put by the caller. An error reply becomes its code and text. ret_fds, ret_n: what came
 * with it, may be NULL where nothing should come. -ETIMEDOUT, -ECONNRESET (the switch is gone), ... with text that
 * names network. */
int net_msg_call(int sock, const char *network, const struct net_msg_request *r, const int *fds, unsigned n_fds,
                 int timeout_ms, struct json_object **ret_reply, int ret_fds[NET_MSG_FDS_MAX], unsigned *ret_n,
                 struct err *e) MUST_USE;

/* "RUNTIME/net" and "RUNTIME/net/NAME.sock". -ENAMETOOLONG: longer than a socket's address may be (size >= 108 is
 * enough). */
int net_msg_socket_dir(const char *runtime, char *ret_path, size_t size) MUST_USE;
int net_msg_socket_path(const char *runtime, const char *name, char *ret_path, size_t size) MUST_USE;
/* Connect to a switch's socket. -ENOENT or -ECONNREFUSED: it does not run. The socket blocks, close-on-exec. */
int net_msg_connect(const char *path, int *ret_sock) MUST_USE;

#endif
