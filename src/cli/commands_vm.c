/* The rows of what is made from a VM's image, and of the states of instances that are kept: vm create, save, snapshot,
 * clone. */
#include "cli/command.h"
#include "cli/instance.h"
#include "cli/net_option.h"
#include "cli/progress.h"
#include "cli/table.h"
#include "cli/template.h"
#include "cli/vm_option.h"

#define OPERANDS_MANY 1024

static const struct cli_option create_options[] = {
    CLI_OPTION_TEMPLATE,
    { "image", 'i', "NAME", "image of a VM to make it from (caisson image ls)", "@image", false },
    CLI_VM_OPTION_MEMORY,
    CLI_VM_OPTION_CPUS,
    { "disk", 0, "SIZE|FILE[,OPTION]...",
      "SIZE: of the image's disk the first time, else a new one; FILE: that disk; options in caisson(1)", "file",
      true },
    { "cdrom", 0, "FILE[,OPTION]...", "CD-ROM image as a read-only virtio disk", "file", true },
    { "net", 0, CLI_NET_FORM, "network cards; the network default where none is given", "@network user none", true },
    { "publish", 'p', "[ADDR:]HOSTPORT:PORT[/udp]", "forward a port of this host (127.0.0.1) to the VM", NULL, true },
    { "user-data", 0, "FILE", "what cloud-init is told: #cloud-config, a script, ...", "file", false },
    { "ssh-key", 0, "FILE|auto", "public key that may log in; auto: those in ~/.ssh", "file auto", true },
    { "user", 'u', "NAME", "account that cloud-init makes (default: the image's)", NULL, false },
    { "password-hash", 0, "HASH", "password of the account, as mkpasswd prints it", NULL, false },
    { "hostname", 0, "NAME", "name that the VM gives itself (default: its name)", NULL, false },
    { "no-seed", 0, NULL, "tell cloud-init nothing", NULL, false },
    { "kernel", 0, "FILE", "kernel in place of the image's", "file", false },
    { "initrd", 0, "FILE", "initial RAM disk in place of the image's", "file", false },
    { "append", 0, "TEXT", "kernel command line in place of the image's", NULL, false },
    CLI_VM_OPTION_CPU,
    CLI_VM_OPTION_ENGINE,
    { "clock", 0, "catch-up|continue", "what its clocks show after save or a snapshot: the present (default), or then",
      "catch-up continue", false },
    { "restart", 0, "no|on-failure[:MAX]|always|unless-stopped", "when to start it again (default no)",
      "no on-failure always unless-stopped", false },
    CLI_HEALTH_OPTIONS,
    { "label", 'l', "KEY=VALUE", "note it on the VM", NULL, true },
    { "start", 0, NULL, "start it, too", NULL, false },
};

static const struct cli_option save_options[] = {
    { "discard", 0, NULL, "forget the memory of saved ones, so that they boot", NULL, false },
    CLI_OPTION_PROGRESS,
};

static const struct cli_option snapshot_create_options[] = { CLI_OPTION_PROGRESS };
static const struct cli_option table_options[] = { CLI_TABLE_OPTIONS };
static const struct cli_option json_options[] = {
    { "json", 0, NULL, "print JSON: an array", NULL, false },
};
static const struct cli_option restore_options[] = {
    { "start", 0, NULL, "start it afterwards, though it did not run", NULL, false },
};
static const struct cli_option clone_options[] = {
    { "hostname", 0, "NAME", "name that the new VM gives itself (default: NEW)", NULL, false },
    { "start", 0, NULL, "start the new one", NULL, false },
    CLI_OPTION_PROGRESS,
};

#define ROW(name, text, what, n, kind, table, function)                                                         \
    {                                                                                                           \
        .path = name, .summary = text, .operands = what, .max_operands = n, .complete = kind, .options = table, \
        .n_options = ARRAY_SIZE(table), .run = function                                                         \
    }

static const struct cli_command vm_commands[] = {
    ROW("vm create", "make a VM from an image, or from a kernel; it does not start", "[NAME]", 1, "", create_options,
        cli_cmd_vm_create),
    ROW("save", "put the memory of VMs into files and end them; start goes on from there", "VM...", OPERANDS_MANY,
        "@vm", save_options, cli_cmd_save),
    ROW("clone", "make a copy of a VM, with an identity of its own", "VM NEW", 2, "@vm", clone_options, cli_cmd_clone),
    ROW("snapshot create", "keep the state of one moment: memory and disks of a VM, files of a container",
        "NAME [SNAPSHOT]", 2, "@instance", snapshot_create_options, cli_cmd_snapshot_create),
    ROW("snapshot ls", "list snapshots, of all or of some", "[NAME]...", OPERANDS_MANY, "@instance", table_options,
        cli_cmd_snapshot_ls),
    ROW("snapshot inspect", "show a snapshot in full", "NAME SNAPSHOT", 2, "@snapshot", json_options,
        cli_cmd_snapshot_inspect),
    ROW("snapshot restore", "go back to a snapshot; what came after it is lost", "NAME SNAPSHOT", 2, "@snapshot",
        restore_options, cli_cmd_snapshot_restore),
    ROW("snapshot rm", "remove snapshots", "NAME SNAPSHOT...", OPERANDS_MANY, "@snapshot", json_options,
        cli_cmd_snapshot_rm),
};
const struct cli_command_group cli_vm_commands = { vm_commands, ARRAY_SIZE(vm_commands) };
