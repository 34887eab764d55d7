/* DHCP messages for IPv4: what a server reads and writes. Pure; any thread. Addresses are numbers in host order, 0: not
 * there. Spec: RFC 2131, RFC 2132 (options), RFC 3396 (long options; only our own reading of overloaded fields), RFC
 * 6842 */
#ifndef WIRE_DHCP_H
#define WIRE_DHCP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"

enum { DHCP_SERVER_PORT = 67, DHCP_CLIENT_PORT = 68 };
enum dhcp_type {
    DHCP_DISCOVER = 1,
    DHCP_OFFER,
    DHCP_REQUEST,
    DHCP_DECLINE,
    DHCP_ACK,
    DHCP_NAK,
    DHCP_RELEASE,
    DHCP_INFORM,
};

#define DHCP_FLAG_BROADCAST 0x8000
#define DHCP_HOST_MAX 63
#define DHCP_CLIENT_ID_MAX 64
/* What every client must accept (RFC 2131 section 2): a datagram of 576 bytes less IP and UDP header. */
#define DHCP_REPLY_MAX 548

struct dhcp_message {
    uint32_t xid;
    uint16_t flags;
    uint32_t ciaddr, giaddr;
    uint8_t mac[6];
    uint8_t type; /* enum dhcp_type, or what else stands there */
    uint32_t requested_ip, server_id;
    char host_name[DHCP_HOST_MAX + 1];     /* lower case, [a-z0-9-]; empty: none, or not a name */
    uint8_t client_id[DHCP_CLIENT_ID_MAX]; /* as sent; longer ones count as absent */
    uint8_t client_id_len;
};

/* A client's message (BOOTREQUEST) over Ethernet. -EBADMSG: malformed; -EPROTONOSUPPORT: BOOTP without DHCP, a server's
 * message, other hardware. */
int dhcp_parse(const uint8_t *data, size_t len, struct dhcp_message *ret_message) MUST_USE;

struct dhcp_reply {
    enum dhcp_type type;
    uint32_t yiaddr, ciaddr;
    uint32_t server_id;              /* our address, sent always */
    uint32_t lease_s, mask;          /* 0: leave it out; renewing at 1/2, rebinding at 7/8 of the lease */
    uint32_t router, dns, broadcast; /* 0: leave it out */
    uint16_t mtu;                    /* 0: leave it out */
    const char *domain, *host_name;  /* NULL: leave it out; at most 253 and 63 bytes */
};

/* The answer to m; options that find no room are left out, the most important ones come first. Returns the length. */
size_t dhcp_reply_build(const struct dhcp_reply *reply, const struct dhcp_message *m, uint8_t out[DHCP_REPLY_MAX]);

/* Bring a name that a client gave itself into the form of host_name above; false: nothing usable in it. A trailing
 * domain is cut off. */
bool dhcp_host_name(const uint8_t *name, size_t len, char ret_name[DHCP_HOST_MAX + 1]);

#endif
