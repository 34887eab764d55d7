/* Automatic receive steering. Spec: virtio 1.2 section 5.1.6.5.6. */
#include "virtio/net_priv.h"

#include "net/offload.h"

/* The same number for both directions of a flow; 0 for what is neither TCP nor UDP. */
static uint32_t vnet_flow_hash(const uint8_t *head, size_t len)
{
    struct net_layers l;
    const uint8_t *addr;
    size_t bytes;
    uint32_t hash;

    if (!net_layers_find(head, len, &l))
        return 0;
    addr = head + l.l3 + (l.ipv6 ? 8 : 12);
    bytes = l.ipv6 ? 16 : 4;
    hash = (uint32_t)load_le16(head + l.l4) ^ load_le16(head + l.l4 + 2) ^ ((uint32_t)l.proto << 16);
    for (size_t i = 0; i < bytes; i += 4)
        hash = (hash ^ load_le32(addr + i) ^ load_le32(addr + bytes + i)) * 0x9e3779b1U;
    return hash ^ hash >> 16;
}

void vnet_flow_sent(struct virtio_net *n, unsigned pair, const uint8_t *head, size_t head_len)
{
    uint32_t hash = vnet_flow_hash(head, head_len);

    if (hash)
        n->flows[hash % VNET_FLOWS] = (uint8_t)(pair + 1);
}

unsigned vnet_flow_pair(const struct virtio_net *n, const uint8_t *frame, size_t len)
{
    uint32_t hash;
    unsigned known;

    if (n->pairs == 1)
        return 0;
    hash = vnet_flow_hash(frame, len);
    known = hash ? n->flows[hash % VNET_FLOWS] : 0;
    return known > 0 && known <= n->pairs ? known - 1 : hash / VNET_FLOWS % n->pairs;
}
