/* The command table. Text here is what users read in --help, in completion and in the manual page. */
#include "cli/command.h"

#include "cli/net_option.h"
#include "cli/progress.h"

static const struct cli_option vm_run_options[] = {
    { "name", 0, "NAME", "name of the VM (default: from its process number)", NULL, false },
    { "kernel", 0, "FILE", "Linux bzImage, PVH ELF or Multiboot kernel to start", "file", false },
    { "initrd", 0, "FILE", "initial RAM disk", "file", false },
    { "append", 0, "TEXT", "kernel command line", NULL, false },
    { "disk", 0, "FILE[,OPTION]...", "disk image or block device as a virtio disk; options in caisson(1)", "file",
      true },
    { "cdrom", 0, "FILE[,OPTION]...", "CD-ROM image as a read-only virtio disk", "file", true },
    { "net", 0, CLI_NET_FORM, CLI_NET_HELP, "@network user none", true },
    { "memory", 'm', "SIZE", "guest memory, e.g. 512M or 2G (default 512M)", NULL, false },
    { "cpus", 0, "N", "number of vCPUs, 1 to 64 (default 1)", NULL, false },
    { "cpu", 0, "MODEL[,+FEATURE][,-FEATURE]...",
      "CPU model, with features added or masked (default x86-64-v3; see caisson cpu ls)",
      "x86-64-v3 x86-64-v2 x86-64-v1 host", false },
    { "engine", 0, "auto|kvm|bt|interp", "CPU engine (default auto)", "auto kvm bt interp", false },
    { "console", 0, "stdio|none|file=FILE[,device=serial|virtio]",
      "where the console goes (default stdio), and which device it is in the guest (default serial)",
      "stdio none file=", false },
    { "debug-exit", 0, NULL, "let the guest end the VM with an exit code through port 0xf4", NULL, false },
    { "no-reboot", 0, NULL, "end instead of restarting when the guest resets", NULL, false },
    { "verbose", 'v', NULL, "say which engine runs and print its statistics at the end", NULL, false },
};

static const struct cli_option vm_save_options[] = {
    { "keep-running", 0, NULL, "let the VM go on when it is saved; else it ends", NULL, false },
    { "snapshot", 0, "NAME", "also make internal snapshots of that name of its qcow2 disks, of the same moment", NULL,
      false },
    { "replace", 0, NULL, "replace the file where there is one", NULL, false },
    { "no-compress", 0, NULL, "store memory as it is: faster where the disk is", NULL, false },
    { "json", 0, NULL, "print what was done as JSON", NULL, false },
    CLI_OPTION_PROGRESS,
};

static const struct cli_option vm_restore_options[] = {
    { "name", 0, "NAME", "another name than it had", NULL, false },
    { "engine", 0, "auto|kvm|bt|interp", "another CPU engine than it had", "auto kvm bt interp", false },
    { "disk", 0, "FILE[,OPTION]...", "disk in the place of those that it had; as for vm run", "file", true },
    { "cdrom", 0, "FILE[,OPTION]...", "CD-ROM image, likewise", "file", true },
    { "net", 0, CLI_NET_FORM, "network card in the place of those that it had; as for vm run", "user none", true },
    { "console", 0, "stdio|none|file=FILE", "where the console goes", "stdio none file=", false },
    { "clock", 0, "continue|catch-up",
      "whether the guest's clocks go on from the moment of the save (default), or show the present",
      "continue catch-up", false },
    { "new-identity", 0, NULL, "the guest is a copy: tell it so (VM generation ID), and give it other MAC addresses",
      NULL, false },
    { "no-reboot", 0, NULL, "end instead of restarting when the guest resets", NULL, false },
    { "verbose", 'v', NULL, "say which engine runs and print its statistics at the end", NULL, false },
};

static const struct cli_option doctor_options[] = {
    { "json", 0, NULL, "print the findings as JSON", NULL, false },
};

static const struct cli_option cpu_ls_options[] = {
    { "engine", 0, "auto|kvm|bt|interp", "for which CPU engine (default auto)", "auto kvm bt interp", false },
    { "json", 0, NULL, "print the models as JSON, with the features of each", NULL, false },
};

static const struct cli_command main_commands[] = {
    { .path = "vm run",
      .summary =
          "start a VM from a kernel and stay on its serial console (Ctrl-] x quits, Ctrl-] p presses the power button)",
      .operands = "",
      .options = vm_run_options,
      .n_options = ARRAY_SIZE(vm_run_options),
      .run = cli_cmd_vm_run },
    { .path = "vm save",
      .summary = "save a running VM to a file: memory, devices, CPUs; its disks stay where they are",
      .operands = "NAME FILE",
      .max_operands = 2,
      .options = vm_save_options,
      .n_options = ARRAY_SIZE(vm_save_options),
      .run = cli_cmd_vm_save },
    { .path = "vm restore",
      .summary = "let a saved VM go on where it was, and stay on its serial console",
      .operands = "FILE",
      .max_operands = 1,
      .options = vm_restore_options,
      .n_options = ARRAY_SIZE(vm_restore_options),
      .run = cli_cmd_vm_restore },
    { .path = "cpu ls",
      .summary = "list the CPU models, and say which of them this machine can run",
      .operands = "",
      .options = cpu_ls_options,
      .n_options = ARRAY_SIZE(cpu_ls_options),
      .run = cli_cmd_cpu_ls },
    { .path = "doctor",
      .summary = "say what this machine offers to Caisson, and why not more",
      .operands = "",
      .options = doctor_options,
      .n_options = ARRAY_SIZE(doctor_options),
      .run = cli_cmd_doctor },
    { .path = "completion",
      .summary = "print the completion script for a shell",
      .operands = "bash|zsh|fish",
      .max_operands = 1,
      .run = cli_cmd_completion },
    { .path = "__man",
      .summary = "print the manual page of a noun",
      .operands = "NOUN",
      .max_operands = 1,
      .hidden = true,
      .run = cli_cmd_manual },
    { .path = "__complete",
      .summary = "what can stand for the last of these words",
      .operands = "WORD...",
      .max_operands = 1024,
      .command_follows = true,
      .hidden = true,
      .run = cli_cmd_complete },
};
static const struct cli_command_group main_group = { main_commands, ARRAY_SIZE(main_commands) };

const struct cli_command *cli_command_at(size_t i)
{
    static const struct cli_command_group *const groups[] = {
        &cli_instance_commands, &cli_container_commands, &cli_vm_commands,   &main_group,
        &cli_image_commands,    &cli_registry_commands,  &cli_disk_commands, &cli_network_commands,
    };

    for (size_t g = 0; g < ARRAY_SIZE(groups); g++) {
        if (i < groups[g]->n)
            return &groups[g]->commands[i];
        i -= groups[g]->n;
    }
    return NULL;
}
