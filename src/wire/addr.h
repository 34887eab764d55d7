/* Text of MAC and IP addresses and of subnets, as people and JSON documents write them. IPv4 addresses are numbers in
 * host order, so that they can be counted and compared; IPv6 addresses are the 16 bytes of the wire. Pure; any thread.
 * Spec: RFC 4632 (prefixes), RFC 5952 (text of IPv6; written by libc) */
#ifndef WIRE_ADDR_H
#define WIRE_ADDR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"

/* Sizes of texts with their ending zero. */
#define ADDR_MAC_TEXT 18
#define ADDR_IP4_TEXT 16
#define ADDR_IP6_TEXT 46
#define ADDR_SUBNET_TEXT (ADDR_IP6_TEXT + 4)

/* addr has no bits behind the prefix. prefix: 1 to 32, 0 where there is no subnet. */
struct addr_subnet4 {
    uint32_t addr;
    uint8_t prefix;
};

/* Likewise; prefix: 1 to 128, 0 where there is no subnet. */
struct addr_subnet6 {
    uint8_t addr[16];
    uint8_t prefix;
};

/* Six pairs of hexadecimal digits with colons (or dashes) between them. -EINVAL: something else. */
int addr_mac_parse(const char *text, uint8_t ret_mac[6]) MUST_USE;
void addr_mac_format(const uint8_t mac[6], char ret_text[ADDR_MAC_TEXT]);
/* Whether one card can have it: not all zero, not multicast. */
bool addr_mac_is_unicast(const uint8_t mac[6]);

/* Four decimal numbers with dots. -EINVAL: something else. */
int addr_ip4_parse(const char *text, uint32_t *ret_addr) MUST_USE;
void addr_ip4_format(uint32_t addr, char ret_text[ADDR_IP4_TEXT]);
int addr_ip6_parse(const char *text, uint8_t ret_addr[16]) MUST_USE;
void addr_ip6_format(const uint8_t addr[16], char ret_text[ADDR_IP6_TEXT]);

/* ADDRESS/PREFIX. -EINVAL: something else; -ERANGE: the address has bits behind the prefix (a host's address). */
int addr_subnet4_parse(const char *text, struct addr_subnet4 *ret_subnet) MUST_USE;
void addr_subnet4_format(const struct addr_subnet4 *s, char ret_text[ADDR_SUBNET_TEXT]);
int addr_subnet6_parse(const char *text, struct addr_subnet6 *ret_subnet) MUST_USE;
void addr_subnet6_format(const struct addr_subnet6 *s, char ret_text[ADDR_SUBNET_TEXT]);

/* The mask of a prefix of 0 to 32 bits. */
uint32_t addr_mask4(uint8_t prefix);
/* The last address of the subnet: its broadcast address. */
uint32_t addr_subnet4_last(const struct addr_subnet4 *s);
/* False for a subnet that is not there (prefix 0). */
bool addr_subnet4_contains(const struct addr_subnet4 *s, uint32_t addr);
bool addr_subnet6_contains(const struct addr_subnet6 *s, const uint8_t addr[16]);
/* Whether some address is in both. */
bool addr_subnet4_overlaps(const struct addr_subnet4 *a, const struct addr_subnet4 *b);
bool addr_subnet6_overlaps(const struct addr_subnet6 *a, const struct addr_subnet6 *b);

#endif
