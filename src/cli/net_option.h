/* --net of vm run: text to a network card of the specification. */
#ifndef CLI_NET_OPTION_H
#define CLI_NET_OPTION_H

#include "base/attr.h"
#include "base/err.h"
#include "cli/command.h"
#include "proto/vm_spec.h"

/* What a card can be connected to and how, as --help shows it. */
#define CLI_NET_FORM "user|NETWORK|tap=IF|none[,KEY=VALUE]..."
#define CLI_NET_HELP \
    "network card: user-mode NAT (default), a network, a tap device; keys: fwd mac mtu queues offload vlan name"

/* All --net options among args into s; without one the default of vm_spec_init stays. -EINVAL with text. */
int cli_net_options(const struct cli_args *args, struct vm_spec *s, struct err *e) MUST_USE;

/* For a VM that is no instance, so that nobody opens ports on its network: -EINVAL with text where a card wants some.
 */
int cli_net_no_forwards(const struct vm_spec *s, struct err *e) MUST_USE;

#endif
