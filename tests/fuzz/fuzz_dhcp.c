/* DHCP and DHCPv6 messages from arbitrary bytes, and the answers to them. */
#include <string.h>

#include "base/check.h"
#include "wire/dhcp.h"
#include "wire/dhcp6.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct dhcp_reply r = {
        .type = DHCP_ACK, .lease_s = 60, .mask = 1, .router = 1, .dns = 1, .mtu = 1, .domain = "a.b"
    };
    uint8_t out[DHCP_REPLY_MAX], out6[DHCP6_REPLY_MAX], mac[6] = { 2 }, dns[16] = { 0xfd };
    struct dhcp_message m;
    struct dhcp6_message m6;

    if (dhcp_parse(data, len, &m) == 0) {
        CHECK(memchr(m.host_name, '\0', sizeof(m.host_name)) && m.client_id_len <= DHCP_CLIENT_ID_MAX);
        r.host_name = m.host_name;
        CHECK(dhcp_reply_build(&r, &m, out) <= sizeof(out));
    }
    if (dhcp6_parse(data, len, &m6) == 0)
        CHECK(dhcp6_reply_build(&m6, mac, dns, (const uint8_t *)"\1a", 3, 1, out6) <= sizeof(out6));
    return 0;
}
