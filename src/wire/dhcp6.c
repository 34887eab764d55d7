#include "wire/dhcp6.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"

enum {
    DHCP6_OPT_CLIENT_ID = 1,
    DHCP6_OPT_SERVER_ID = 2,
    DHCP6_OPT_DNS = 23,
    DHCP6_OPT_DOMAINS = 24,
    DHCP6_OPT_REFRESH = 32,
};
enum { DHCP6_SOLICIT = 1, DHCP6_RELAY_FORWARD = 12 };

int dhcp6_parse(const uint8_t *data, size_t len, struct dhcp6_message *ret_message)
{
    struct dhcp6_message m = { 0 };
    size_t at = 4;

    if (len < 4)
        return -EBADMSG;
    m.type = data[0];
    memcpy(m.transaction, data + 1, 3);
    while (m.type >= DHCP6_SOLICIT && m.type < DHCP6_RELAY_FORWARD && at < len) {
        size_t n;

        if (len - at < 4)
            return -EBADMSG;
        n = load_be16(data + at + 2);
        if (n > len - at - 4)
            return -EBADMSG;
        if (load_be16(data + at) == DHCP6_OPT_CLIENT_ID) {
            m.client_id = data + at + 4;
            m.client_id_len = n;
        } else if (load_be16(data + at) == DHCP6_OPT_SERVER_ID) {
            m.server_id = data + at + 4;
            m.server_id_len = n;
        }
        at += 4 + n;
    }
    if (m.client_id_len > DHCP6_DUID_MAX || m.server_id_len > DHCP6_DUID_MAX)
        return -EBADMSG;
    *ret_message = m;
    return 0;
}

void dhcp6_duid_ll(const uint8_t mac[6], uint8_t ret_duid[DHCP6_DUID_LL])
{
    store_be16(ret_duid, 3);     /* DUID-LL */
    store_be16(ret_duid + 2, 1); /* Ethernet */
    memcpy(ret_duid + 4, mac, 6);
}

static size_t dhcp6_put(uint8_t *out, size_t at, uint16_t code, const void *value, size_t len)
{
    if (at == 0 || len + 4 > DHCP6_REPLY_MAX - at)
        return 0;
    store_be16(out + at, code);
    store_be16(out + at + 2, (uint16_t)len);
    memcpy(out + at + 4, value, len);
    return at + 4 + len;
}

size_t dhcp6_reply_build(const struct dhcp6_message *m, const uint8_t server_mac[6], const uint8_t dns[16],
                         const uint8_t *domain, size_t domain_len, uint32_t refresh_s, uint8_t out[DHCP6_REPLY_MAX])
{
    uint8_t duid[DHCP6_DUID_LL], refresh[4];
    size_t at = 4;

    out[0] = DHCP6_REPLY;
    memcpy(out + 1, m->transaction, 3);
    dhcp6_duid_ll(server_mac, duid);
    at = dhcp6_put(out, at, DHCP6_OPT_SERVER_ID, duid, sizeof(duid));
    if (m->client_id)
        at = dhcp6_put(out, at, DHCP6_OPT_CLIENT_ID, m->client_id, m->client_id_len);
    at = dhcp6_put(out, at, DHCP6_OPT_DNS, dns, 16);
    if (domain)
        at = dhcp6_put(out, at, DHCP6_OPT_DOMAINS, domain, domain_len);
    store_be32(refresh, MAX(refresh_s, 600U));
    return dhcp6_put(out, at, DHCP6_OPT_REFRESH, refresh, sizeof(refresh));
}
