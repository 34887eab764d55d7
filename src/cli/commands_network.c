/* The rows of `caisson network` in the command table. */
#include "cli/command.h"
#include "cli/table.h"

#define OPERANDS_MANY 1024

static const struct cli_option network_create_options[] = {
    { "mode", 0, "nat|isolated|bridge",
      "NAT to the outside (default), guests among themselves, or part of a network of the host's",
      "nat isolated bridge", false },
    { "backend", 0, "slirp|nft", "NAT without privileges (default), or by the kernel (root)", "slirp nft", false },
    { "subnet", 0, "ADDRESS/PREFIX", "IPv4 subnet (default: a free /24 of 10.188.0.0/15)", NULL, false },
    { "subnet6", 0, "PREFIX::/64|auto|none", "IPv6 subnet (default auto: a random unique local one)", "auto none",
      false },
    { "gateway", 0, "ADDRESS", "the network's own IPv4 address (default: the first one)", NULL, false },
    { "dhcp", 0, "on|off", "give addresses to guests (default on, off in mode bridge)", "on off", false },
    { "dhcp-range", 0, "FIRST-LAST", "addresses to give (default: all but the gateway's)", NULL, false },
    { "dns", 0, "on|off", "resolve the guests' names (default on, off in mode bridge)", "on off", false },
    { "domain", 0, "DOMAIN", "domain of the guests' names (default NAME.internal)", NULL, false },
    { "host", 0, "MAC=NAME=ADDRESS", "a fixed address for a card", NULL, true },
    { "publish", 'p', "[HOSTADDR:]HOSTPORT:GUEST:GUESTPORT[/udp]",
      "forward a port of this host (127.0.0.1) to a guest, named or by its address", NULL, true },
    { "bridge", 0, "IF", "mode bridge: the Linux bridge to join (root)", NULL, false },
    { "tap", 0, "IF", "mode bridge: an existing tap to use; back end nft: the name of the tap to make", NULL, false },
    { "mtu", 0, "N", "largest packet, 1280 to 65520 bytes (default 1500)", NULL, false },
    { "isolated", 0, NULL, "guests reach the gateway and the outside, not each other", NULL, false },
    { "mac-filter", 0, "on|off", "guests may use the addresses given to them only (default on)", "on off", false },
    { "json", 0, NULL, "print the network as JSON instead of its name", NULL, false },
};

static const struct cli_option table_options[] = { CLI_TABLE_OPTIONS };

static const struct cli_option json_options[] = {
    { "json", 0, NULL, "print JSON: an array", NULL, false },
};

static const struct cli_option network_rm_options[] = {
    { "force", 'f', NULL, "even if VMs use it: they lose their link", NULL, false },
    { "json", 0, NULL, "print the names of those removed as JSON", NULL, false },
};

static const struct cli_option network_capture_options[] = {
    { "port", 0, "VM[.NIC]", "only what this port sends and receives", NULL, false },
    { "write", 'w', "FILE", "where to write to (default -, standard output)", "file", false },
};

static const struct cli_command network_commands[] = {
    { .path = "network create",
      .summary = "describe a network; it starts with its first VM",
      .operands = "NAME",
      .max_operands = 1,
      .options = network_create_options,
      .n_options = ARRAY_SIZE(network_create_options),
      .run = cli_cmd_network_create },
    { .path = "network ls",
      .summary = "list the networks",
      .operands = "",
      .max_operands = 0,
      .options = table_options,
      .n_options = ARRAY_SIZE(table_options),
      .run = cli_cmd_network_ls },
    { .path = "network inspect",
      .summary = "show networks in full, with their ports",
      .operands = "NAME...",
      .max_operands = OPERANDS_MANY,
      .complete = "@network",
      .options = json_options,
      .n_options = ARRAY_SIZE(json_options),
      .run = cli_cmd_network_inspect },
    { .path = "network rm",
      .summary = "remove networks that no VM uses",
      .operands = "NAME...",
      .max_operands = OPERANDS_MANY,
      .complete = "@network",
      .options = network_rm_options,
      .n_options = ARRAY_SIZE(network_rm_options),
      .run = cli_cmd_network_rm },
    { .path = "network leases",
      .summary = "list the addresses that guests of a network have",
      .operands = "NAME",
      .max_operands = 1,
      .complete = "@network",
      .options = table_options,
      .n_options = ARRAY_SIZE(table_options),
      .run = cli_cmd_network_leases },
    { .path = "network capture",
      .summary = "write what passes through a network to a pcap file, until Ctrl-C",
      .operands = "NAME",
      .max_operands = 1,
      .complete = "@network",
      .options = network_capture_options,
      .n_options = ARRAY_SIZE(network_capture_options),
      .run = cli_cmd_network_capture },
};
const struct cli_command_group cli_network_commands = { network_commands, ARRAY_SIZE(network_commands) };
