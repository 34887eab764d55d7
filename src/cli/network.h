/* Shared by the commands of `caisson network`. */
#ifndef CLI_NETWORK_H
#define CLI_NETWORK_H

#include <stdbool.h>

#include "base/attr.h"
#include "base/err.h"
#include "cli/table.h"
#include "store/network.h"

struct json_object;

/* The columns of networks. */
extern const struct cli_table cli_network_table;

/* A network as users see it: its description, "created" (RFC 3339, null where built in), "state" ("running" where its
 * switch runs, "stopped", "unknown" where that does not answer), "n_ports" (of VMs) and "ports". NULL: out of memory.
 */
struct json_object *cli_network_row(const struct store_network *network);

/* Whether a port in "ports" is a VM's: VM.NIC, unlike the network's own (uplink, services). *ret_name: its name, as
 * long as port lives. */
bool cli_network_is_vm_port(struct json_object *port, const char **ret_name);

#endif
