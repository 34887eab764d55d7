/* Networks in the state database. "default" is always there: built in, unless the user stored another one by that name.
 */
#ifndef STORE_NETWORK_H
#define STORE_NETWORK_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/net_spec.h"
#include "store/store.h"

struct store_network {
    struct net_spec spec;
    int64_t created_ns; /* since 1970, UTC; 0: built in */
};

/* Store a complete network (net_spec_complete), made now. -EEXIST: the name is taken; -EADDRINUSE: a subnet overlaps
 * that of another network, which the text names; other errors as store_open. */
int store_network_add(struct store *s, const struct net_spec *spec, struct err *e) MUST_USE;

/* -ENOENT with text (and the nearest name). */
int store_network_get(struct store *s, const char *name, struct store_network *ret_network, struct err *e) MUST_USE;

/* Call fn for each network in the order of their names; it borrows network until it returns, and must not use s. A
 * result other than 0 ends the walk and is returned. */
int store_network_each(struct store *s, int (*fn)(void *opaque, const struct store_network *network), void *opaque,
                       struct err *e) MUST_USE;

/* -ENOENT as store_network_get; -EBUSY: the built-in one cannot be removed. */
int store_network_remove(struct store *s, const char *name, struct err *e) MUST_USE;

/* A /24 of 10.188.0.0/16, then of 10.189.0.0/16, that overlaps neither a stored network nor one of the n subnets in
 * taken. -EADDRINUSE: there is none. Call it in the transaction that stores the network. */
int store_network_pick_subnet(struct store *s, const struct addr_subnet4 *taken, size_t n,
                              struct addr_subnet4 *ret_subnet, struct err *e) MUST_USE;

#endif
