#include "wire/addr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/num.h"

static int addr_hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int addr_mac_parse(const char *text, uint8_t ret_mac[6])
{
    uint8_t mac[6];

    if (strnlen(text, ADDR_MAC_TEXT) != ADDR_MAC_TEXT - 1)
        return -EINVAL;
    for (int i = 0; i < 6; i++) {
        int high = addr_hex_digit(text[3 * i]), low = addr_hex_digit(text[3 * i + 1]);

        if (high < 0 || low < 0 || (i < 5 && text[3 * i + 2] != ':' && text[3 * i + 2] != '-'))
            return -EINVAL;
        mac[i] = (uint8_t)(high << 4 | low);
    }
    memcpy(ret_mac, mac, sizeof(mac));
    return 0;
}

void addr_mac_format(const uint8_t mac[6], char ret_text[ADDR_MAC_TEXT])
{
    snprintf(ret_text, ADDR_MAC_TEXT, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
}

bool addr_mac_is_unicast(const uint8_t mac[6])
{
    static const uint8_t zero[6];

    return !(mac[0] & 1) && memcmp(mac, zero, sizeof(zero)) != 0;
}

int addr_ip4_parse(const char *text, uint32_t *ret_addr)
{
    struct in_addr in;

    if (inet_pton(AF_INET, text, &in) != 1)
        return -EINVAL;
    *ret_addr = ntohl(in.s_addr);
    return 0;
}

void addr_ip4_format(uint32_t addr, char ret_text[ADDR_IP4_TEXT])
{
    struct in_addr in = { htonl(addr) };

    inet_ntop(AF_INET, &in, ret_text, ADDR_IP4_TEXT);
}

int addr_ip6_parse(const char *text, uint8_t ret_addr[16])
{
    struct in6_addr in;

    if (inet_pton(AF_INET6, text, &in) != 1)
        return -EINVAL;
    memcpy(ret_addr, &in, sizeof(in));
    return 0;
}

void addr_ip6_format(const uint8_t addr[16], char ret_text[ADDR_IP6_TEXT])
{
    inet_ntop(AF_INET6, addr, ret_text, ADDR_IP6_TEXT);
}

/* Cut ADDRESS/PREFIX into its parts. */
static int addr_subnet_split(const char *text, char ret_addr[ADDR_SUBNET_TEXT], uint64_t max, uint8_t *ret_prefix)
{
    const char *slash = strchr(text, '/');
    uint64_t prefix;

    if (!slash || slash - text >= ADDR_SUBNET_TEXT || slash[1] == '\0' || strspn(slash + 1, "0123456789") > 3 ||
        slash[1 + strspn(slash + 1, "0123456789")] != '\0' || num_parse_u64(slash + 1, 1, max, &prefix) < 0)
        return -EINVAL;
    memcpy(ret_addr, text, (size_t)(slash - text));
    ret_addr[slash - text] = '\0';
    *ret_prefix = (uint8_t)prefix;
    return 0;
}

uint32_t addr_mask4(uint8_t prefix)
{
    return prefix == 0 ? 0 : UINT32_MAX << (32 - prefix);
}

int addr_subnet4_parse(const char *text, struct addr_subnet4 *ret_subnet)
{
    char part[ADDR_SUBNET_TEXT];
    struct addr_subnet4 s;
    int r = addr_subnet_split(text, part, 32, &s.prefix);

    if (r == 0)
        r = addr_ip4_parse(part, &s.addr);
    if (r < 0)
        return r;
    if (s.addr & ~addr_mask4(s.prefix))
        return -ERANGE;
    *ret_subnet = s;
    return 0;
}

void addr_subnet4_format(const struct addr_subnet4 *s, char ret_text[ADDR_SUBNET_TEXT])
{
    char part[ADDR_IP4_TEXT];

    addr_ip4_format(s->addr, part);
    snprintf(ret_text, ADDR_SUBNET_TEXT, "%s/%u", part, s->prefix);
}

/* Whether the first bits of both are equal. */
static bool addr_same_bits(const uint8_t a[16], const uint8_t b[16], unsigned bits)
{
    unsigned bytes = bits / 8, rest = bits % 8;

    return memcmp(a, b, bytes) == 0 && (rest == 0 || (uint8_t)(a[bytes] ^ b[bytes]) >> (8 - rest) == 0);
}

int addr_subnet6_parse(const char *text, struct addr_subnet6 *ret_subnet)
{
    char part[ADDR_SUBNET_TEXT];
    struct addr_subnet6 s;
    int r = addr_subnet_split(text, part, 128, &s.prefix);

    if (r == 0)
        r = addr_ip6_parse(part, s.addr);
    if (r < 0)
        return r;
    for (unsigned bit = s.prefix; bit < 128; bit++) {
        if (s.addr[bit / 8] & 0x80 >> bit % 8)
            return -ERANGE;
    }
    *ret_subnet = s;
    return 0;
}

void addr_subnet6_format(const struct addr_subnet6 *s, char ret_text[ADDR_SUBNET_TEXT])
{
    char part[ADDR_IP6_TEXT];

    addr_ip6_format(s->addr, part);
    snprintf(ret_text, ADDR_SUBNET_TEXT, "%s/%u", part, s->prefix);
}

uint32_t addr_subnet4_last(const struct addr_subnet4 *s)
{
    return s->addr | ~addr_mask4(s->prefix);
}

bool addr_subnet4_contains(const struct addr_subnet4 *s, uint32_t addr)
{
    return s->prefix != 0 && ((addr ^ s->addr) & addr_mask4(s->prefix)) == 0;
}

bool addr_subnet6_contains(const struct addr_subnet6 *s, const uint8_t addr[16])
{
    return s->prefix != 0 && addr_same_bits(s->addr, addr, s->prefix);
}

bool addr_subnet4_overlaps(const struct addr_subnet4 *a, const struct addr_subnet4 *b)
{
    uint8_t shorter = MIN(a->prefix, b->prefix);

    return shorter != 0 && ((a->addr ^ b->addr) & addr_mask4(shorter)) == 0;
}

bool addr_subnet6_overlaps(const struct addr_subnet6 *a, const struct addr_subnet6 *b)
{
    uint8_t shorter = MIN(a->prefix, b->prefix);

    return shorter != 0 && addr_same_bits(a->addr, b->addr, shorter);
}
