/* The switch process of a network, seen from those who use it: finding it, starting it, asking it. Any thread. */
#ifndef INST_SWITCH_CLIENT_H
#define INST_SWITCH_CLIENT_H

#include "base/attr.h"
#include "base/err.h"
#include "proto/net_msg.h"
#include "store/network.h"

struct json_object;
struct net_spec;
struct store;

#define INST_SWITCH_TIMEOUT_MS 10000

/* Open the database, find the network and copy its description. -ENOENT with text. */
int inst_network_find(const char *name, struct store_network *ret_network, struct err *e) MUST_USE;

/* Nobody else starts, ends or attaches to the switch of network name until the descriptor is closed. Waits for others
 * who do. Returns the descriptor, or -errno with text. */
int inst_switch_lock(const char *name, struct err *e) MUST_USE;

/* Connect to the switch of network name. *ret_sock: -1 where none runs, else the caller's. Makes nothing. */
int inst_switch_connect(const char *name, int *ret_sock, struct err *e) MUST_USE;

/* Start caisson-switch for a network, as a process of its own session that outlives this one, and connect to it. Only
 * with inst_switch_lock and after inst_switch_connect found none. The error is the switch's own where it gave one. */
int inst_switch_start(const struct net_spec *spec, int *ret_sock, struct err *e) MUST_USE;

/* A request without descriptors. *ret_reply: to be put by the caller. */
int inst_switch_call(int sock, const char *name, const struct net_msg_request *request, struct json_object **ret_reply,
                     struct err *e) MUST_USE;

/* What the switch of network name says of itself: the "info" of its reply, to be put; NULL where none runs. */
int inst_switch_info(const char *name, struct json_object **ret_info, struct err *e) MUST_USE;

/* Remove the sockets and locks of switches that were killed, and of networks that were removed. */
void inst_switch_sweep(struct store *s);

/* End the switch of network name at once, one that does not answer too. Only with inst_switch_lock. */
int inst_switch_kill(const char *name, struct err *e) MUST_USE;

#endif
