/* NAT by the host's kernel, for root: the gateway's addresses on a tap, and nftables (net/nat_rules.h).
 *
 * The right to change rules stays in a small process of its own, which is forked off at the start and knows only this
 * network: it adds and removes forwards within it, and when the other end of its socket is gone, whatever the reason,
 * it removes the table. So the process that reads guests' frames can give up all privileges. */
#ifndef NET_NAT_NFT_H
#define NET_NAT_NFT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "net/nat_rules.h"

struct net_nft;

/* Which part of the start failed. */
enum net_nft_step {
    NET_NFT_CONFIG,  /* -EINVAL: names, addresses */
    NET_NFT_ADDRESS, /* the interface's addresses: -EPERM, -ENODEV, -EEXIST */
    NET_NFT_SYSCTL,  /* forwarding: -EACCES, -EROFS */
    NET_NFT_RULES,   /* -ENOENT: there is no nft(8); -EPERM; -EIO: it refused, which CAISSON_DEBUG=1 shows */
    NET_NFT_PROCESS, /* -EAGAIN, -ENOMEM, -EMFILE */
};

/* What of the host had to be changed, beyond the network's own: the caller tells the user. */
enum { NET_NFT_FORWARD4 = 1, NET_NFT_FORWARD6 = 2 };

/* Give the interface (a tap that is down) the MAC and the addresses of n's gateway, set it up, let the kernel route,
 * set the rules. Waits for nft, some 10 ms. Call before threads are started and privileges dropped. */
int net_nft_new(const struct net_nat_network *n, const uint8_t mac[6], unsigned *ret_changed,
                enum net_nft_step *ret_step, struct net_nft **ret_nft) MUST_USE;
/* Removes the rules. NULL accepted. Waits for nft. */
void net_nft_free(struct net_nft *nft);

/* Both wait for nft. -EADDRINUSE, -EADDRNOTAVAIL, -EACCES: the host's side cannot be had; -EEXIST: forwarded already;
 * -ENOSPC; -EINVAL; -EPIPE: the process has gone; -ETIMEDOUT. */
int net_nft_forward_add(struct net_nft *nft, const struct net_nat_forward *f) MUST_USE;
/* Only the host's side counts. -ENOENT. Connections that exist go on. */
int net_nft_forward_remove(struct net_nft *nft, const struct net_nat_forward *f) MUST_USE;

#endif
