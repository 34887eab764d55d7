/* DHCP for IPv4: the only server of its network, so it says no (NAK) where a server among several would be silent.
 * Clients are told apart by MAC alone: the switch vouches for that, not for client identifiers. */
#include <string.h>

#include "net/service_priv.h"
#include "wire/dhcp.h"
#include "wire/dhcp6.h"

static void net_dhcp_send(struct net_service *s, const struct inet_flow *flow, const struct dhcp_message *m,
                          struct dhcp_reply *r)
{
    static const uint8_t broadcast_mac[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
    struct inet_flow to = { .src.ip4 = s->config.gateway, .hop_limit = 64 };
    uint8_t out[DHCP_REPLY_MAX];
    size_t len;

    r->server_id = s->config.gateway;
    if (r->type != DHCP_NAK) {
        r->mask = addr_mask4(s->config.subnet.prefix);
        r->broadcast = addr_subnet4_last(&s->config.subnet);
        r->router = s->config.router ? s->config.gateway : 0;
        r->dns = s->config.dns ? s->config.gateway : 0;
        r->mtu = s->config.mtu;
        r->domain = s->domain_text[0] ? s->domain_text : NULL;
    }
    len = dhcp_reply_build(r, m, out);
    memcpy(to.src_mac, s->config.mac, 6);
    memcpy(to.dst_mac, flow->src_mac, 6);
    if (r->type == DHCP_NAK || (r->ciaddr == 0 && m->flags & DHCP_FLAG_BROADCAST)) {
        memcpy(to.dst_mac, broadcast_mac, 6);
        to.dst.ip4 = UINT32_MAX;
    } else {
        to.dst.ip4 = r->ciaddr ? r->ciaddr : r->yiaddr;
    }
    net_service_emit(s, s->frame,
                     inet_udp_build(&to, DHCP_SERVER_PORT, DHCP_CLIENT_PORT, out, len, s->frame, sizeof(s->frame)));
}

static void net_dhcp_nak(struct net_service *s, const struct inet_flow *flow, const struct dhcp_message *m)
{
    net_dhcp_send(s, flow, m, &(struct dhcp_reply){ .type = DHCP_NAK });
}

static void net_dhcp_give(struct net_service *s, const struct inet_flow *flow, const struct dhcp_message *m,
                          const struct net_lease_slot *slot, enum dhcp_type type)
{
    const char *name = net_lease_name(slot);
    struct dhcp_reply r = {
        .type = type,
        .yiaddr = slot->addr,
        .ciaddr = type == DHCP_ACK ? m->ciaddr : 0,
        .lease_s = s->config.lease_s,
        .host_name = name[0] ? name : NULL,
    };

    net_dhcp_send(s, flow, m, &r);
}

static void net_dhcp_discover(struct net_service *s, const struct inet_flow *flow, const struct dhcp_message *m)
{
    struct net_lease_slot *slot = net_leases_offer(&s->leases, m->mac, m->requested_ip, net_service_now_s(s));

    if (slot) /* else all are taken: silence, as RFC 2131 has it */
        net_dhcp_give(s, flow, m, slot, DHCP_OFFER);
}

/* SELECTING, INIT-REBOOT, RENEWING and REBINDING: what differs is only where the wanted address stands, and that a
 * client may have chosen another server. */
static void net_dhcp_request(struct net_service *s, const struct inet_flow *flow, const struct dhcp_message *m)
{
    uint32_t wanted = m->ciaddr ? m->ciaddr : m->requested_ip;
    int64_t now_s = net_service_now_s(s);
    struct net_lease_slot *slot;

    if (m->server_id && m->server_id != s->config.gateway) {
        slot = net_leases_by_mac(&s->leases, m->mac);
        if (slot && slot->state == NET_LEASE_OFFERED)
            net_lease_release(&s->leases, slot, now_s);
        return;
    }
    slot = wanted ? net_leases_claim(&s->leases, m->mac, wanted, now_s) : NULL;
    if (!slot) {
        net_dhcp_nak(s, flow, m);
        return;
    }
    if (m->host_name[0])
        net_lease_set_host_name(&s->leases, slot, m->host_name, now_s);
    net_lease_bind(&s->leases, slot, now_s + s->config.lease_s);
    net_dhcp_give(s, flow, m, slot, DHCP_ACK);
}

/* RELEASE and DECLINE, of the client's own address only. */
static void net_dhcp_give_up(struct net_service *s, const struct dhcp_message *m)
{
    uint32_t addr = m->type == DHCP_RELEASE ? m->ciaddr : m->requested_ip;
    struct net_lease_slot *slot = net_leases_by_mac(&s->leases, m->mac);

    if (!slot || slot->addr != addr || (m->server_id && m->server_id != s->config.gateway) ||
        (slot->state != NET_LEASE_OFFERED && slot->state != NET_LEASE_BOUND))
        return;
    if (m->type == DHCP_RELEASE)
        net_lease_release(&s->leases, slot, net_service_now_s(s));
    else
        net_lease_decline(&s->leases, slot, net_service_now_s(s));
}

void net_service_dhcp(struct net_service *s, const struct inet_flow *flow, const uint8_t *data, size_t len)
{
    struct dhcp_message m;

    /* Relays have no place here, and nobody asks for others. */
    if (dhcp_parse(data, len, &m) < 0 || m.giaddr != 0 || memcmp(m.mac, flow->src_mac, 6) != 0 ||
        !addr_mac_is_unicast(m.mac))
        return;
    switch (m.type) {
    case DHCP_DISCOVER:
        net_dhcp_discover(s, flow, &m);
        break;
    case DHCP_REQUEST:
        net_dhcp_request(s, flow, &m);
        break;
    case DHCP_RELEASE:
    case DHCP_DECLINE:
        net_dhcp_give_up(s, &m);
        break;
    case DHCP_INFORM:
        if (m.ciaddr)
            net_dhcp_send(s, flow, &m, &(struct dhcp_reply){ .type = DHCP_ACK, .ciaddr = m.ciaddr });
        break;
    default:
        break;
    }
}

void net_service_dhcp6(struct net_service *s, const struct inet_flow *flow, const uint8_t *data, size_t len)
{
    uint8_t out[DHCP6_REPLY_MAX], duid[DHCP6_DUID_LL];
    struct inet_flow back = *flow;
    struct dhcp6_message m;
    size_t n;

    dhcp6_duid_ll(s->config.mac, duid);
    if (dhcp6_parse(data, len, &m) < 0 || m.type != DHCP6_INFORMATION_REQUEST || !s->config.dns ||
        (m.server_id && (m.server_id_len != sizeof(duid) || memcmp(m.server_id, duid, sizeof(duid)) != 0)))
        return;
    n = dhcp6_reply_build(&m, s->config.mac, s->config.gateway6, s->domain.wire, s->domain.len, NET_SERVICE_LEASE_S,
                          out);
    memcpy(back.dst.ip6, s->link_local, 16); /* it came to a group */
    if (n > 0)
        net_service_answer(s, &back, DHCP6_CLIENT_PORT, DHCP6_SERVER_PORT, out, n);
}
