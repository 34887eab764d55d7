/* Connecting the network cards of a VM to the switches of their networks, before caisson-vmm is started: the process
 * that a guest could take over only inherits descriptors by which it can exchange frames. */
#ifndef INST_NET_ATTACH_H
#define INST_NET_ATTACH_H

#include "base/attr.h"
#include "base/err.h"
#include "proto/net_msg.h"
#include "proto/vm_spec.h"

struct json_object;

/* For each card on a network: find the network, start its switch where it does not run, get a port, and put the
 * descriptors into the card, close-on-exec. s is complete (vm_spec_complete); one without a name gets one from this
 * process's number, because ports have the names of VMs. A port lives until the last holder of its descriptors is gone:
 * the caller closes those in s once caisson-vmm has them, and also after a failure, which may come at the second card.
 * -ENOENT: no such network; other errors with text. */
int inst_net_attach(struct vm_spec *s, struct err *e) MUST_USE;
/* Ask the switch of a network, which is started where it does not run. The caller holds inst_switch_lock. ret_fds,
 * ret_n: as net_msg_call. *ret_reply: to be put. */
int inst_net_ask(const struct net_spec *network, const struct net_msg_request *request, const int *fds, unsigned n_fds,
                 struct json_object **ret_reply, int *ret_fds, unsigned *ret_n, struct err *e) MUST_USE;

#endif
