/* The command table. Text here is what users read in --help, in completion and in the manual page. */
#include "cli/command.h"

static const struct cli_option vm_run_options[] = {
    { "name", 0, "NAME", "name of the VM (default: from its process number)", NULL, false },
    { "kernel", 0, "FILE", "Linux bzImage, PVH ELF or Multiboot kernel to start", "file", false },
    { "initrd", 0, "FILE", "initial RAM disk", "file", false },
    { "append", 0, "TEXT", "kernel command line", NULL, false },
    { "disk", 0, "FILE[,ro][,serial=S]", "raw disk image or block device as a virtio disk", "file", true },
    { "net", 0, "user[,fwd=tcp:HOSTPORT:GUESTPORT]|none", "user-mode network with NAT (default), or none", "user none",
      false },
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

static const struct cli_option doctor_options[] = {
    { "json", 0, NULL, "print the findings as JSON", NULL, false },
};

static const struct cli_option cpu_ls_options[] = {
    { "engine", 0, "auto|kvm|bt|interp", "for which CPU engine (default auto)", "auto kvm bt interp", false },
    { "json", 0, NULL, "print the models as JSON, with the features of each", NULL, false },
};

const struct cli_command cli_commands[] = {
    { .path = "vm run",
      .summary =
          "start a VM from a kernel and stay on its serial console (Ctrl-] x quits, Ctrl-] p presses the power button)",
      .operands = "",
      .options = vm_run_options,
      .n_options = ARRAY_SIZE(vm_run_options),
      .run = cli_cmd_vm_run },
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
};
const size_t cli_n_commands = ARRAY_SIZE(cli_commands);
