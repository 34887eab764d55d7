/* Stateless DHCPv6: the information-request of a client that has its address from a router advertisement, and the
 * reply. Pure; any thread. Spec: RFC 8415 sections 8, 18.2.6, 21; RFC 3646 (DNS options) */
#ifndef WIRE_DHCP6_H
#define WIRE_DHCP6_H

#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"

enum { DHCP6_SERVER_PORT = 547, DHCP6_CLIENT_PORT = 546 };
enum { DHCP6_REPLY = 7, DHCP6_INFORMATION_REQUEST = 11 };
#define DHCP6_DUID_MAX 130
#define DHCP6_REPLY_MAX 512

struct dhcp6_message {
    uint8_t type;
    uint8_t transaction[3];
    const uint8_t *client_id, *server_id; /* the DUIDs, in the message; NULL: not there */
    size_t client_id_len, server_id_len;
};

/* -EBADMSG: malformed. Relayed messages have a type like any other, and nothing else of them is looked at. */
int dhcp6_parse(const uint8_t *data, size_t len, struct dhcp6_message *ret_message) MUST_USE;
/* The DUID of a server with this MAC address (DUID-LL). */
#define DHCP6_DUID_LL 10
void dhcp6_duid_ll(const uint8_t mac[6], uint8_t ret_duid[DHCP6_DUID_LL]);
/* The reply to an information-request: DNS server and search domain (in wire form; NULL: none), good for refresh_s
 * seconds (at least 600). Returns the length, 0 where it does not fit. */
size_t dhcp6_reply_build(const struct dhcp6_message *m, const uint8_t server_mac[6], const uint8_t dns[16],
                         const uint8_t *domain, size_t domain_len, uint32_t refresh_s, uint8_t out[DHCP6_REPLY_MAX]);

#endif
