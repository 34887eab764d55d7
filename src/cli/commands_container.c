/* The rows of containers and volumes in the command table. */
#include "cli/command.h"
#include "cli/table.h"
#include "cli/template.h"
#include "proto/exit_code.h"

#define OPERANDS_MANY 65536

/* What `run` and `create` have in common. */
#define CONTAINER_OPTIONS                                                                                                \
    CLI_OPTION_TEMPLATE, { "name", 0, "NAME", "name of the container (default: one is made up)", NULL, false },          \
        { "interactive", 'i', NULL, "keep its input open", NULL, false },                                                \
        { "tty", 't', NULL, "give it a terminal", NULL, false },                                                         \
        { "rm", 0, NULL, "remove it when it has ended", NULL, false },                                                   \
        { "env", 'e', "NAME[=VALUE]", "set a variable (without a value: to what it is here)", NULL, true },              \
        { "env-file", 0, "FILE", "set the variables of a file, NAME=VALUE a line", "file", true },                       \
        { "volume",       'v', "[SRC:]DST[:OPTION,...]", "mount a volume or a folder of this host at DST",               \
          "@volume file", true },                                                                                        \
        { "mount", 0, "type=bind|volume|tmpfs,source=SRC,target=DST[,OPTION]...", "the same in words", NULL, true },     \
        { "tmpfs", 0, "DST[:OPTION,...]", "mount an empty file system in memory", NULL, true },                          \
        { "publish", 'p', "[[HOSTADDR:]HOSTPORT:]PORT[/udp]", "make a port reachable at one of this host", NULL, true }, \
        { "publish-all", 'P', NULL, "publish all ports that the image serves, at free ones", NULL, false },              \
        { "memory", 'm', "SIZE", "limit of memory, e.g. 512M", NULL, false },                                            \
        { "memory-swap", 0, "SIZE|-1", "limit of memory and swap together", NULL, false },                               \
        { "cpus", 0, "N", "limit of CPU time, e.g. 1.5", NULL, false },                                                  \
        { "cpu-shares", 0, "N", "weight against others (default 1024)", NULL, false },                                   \
        { "cpuset-cpus", 0, "LIST", "CPUs to run on, e.g. 0-3,7", NULL, false },                                         \
        { "pids-limit", 0, "N|-1", "limit of processes (default 2048)", NULL, false },                                   \
        { "network", 0, "NAME|none|host", "network to join (default: default)", "@network none host", false },           \
        { "hostname", 0, "NAME", "its host name (default: the short id)", NULL, false },                                 \
        { "dns", 0, "ADDRESS", "resolver to use instead of the network's", NULL, true },                                 \
        { "add-host", 0, "NAME:ADDRESS", "line for /etc/hosts; the address host-gateway is this host", NULL, true },     \
        { "user", 'u', "USER[:GROUP]", "run as this user, by name or number", NULL, false },                             \
        { "workdir", 'w', "PATH", "folder to start in", NULL, false },                                                   \
        { "entrypoint", 0, "PROGRAM|JSON", "run this instead of what the image says", NULL, false },                     \
        { "read-only", 0, NULL, "its root file system cannot be written", NULL, false },                                 \
        { "cap-add", 0, "CAPABILITY", "add a capability, or ALL", NULL, true },                                          \
        { "cap-drop", 0, "CAPABILITY", "take a capability away, or ALL", NULL, true },                                   \
        { "privileged", 0, NULL, "all capabilities and devices, nothing hidden, no filter", NULL, false },               \
        { "security-opt",                                                                                                \
          0,                                                                                                             \
          "OPTION",                                                                                                      \
          "no-new-privileges, seccomp=FILE|unconfined, apparmor=PROFILE, label=..., unmask=ALL",                         \
          "no-new-privileges seccomp=unconfined",                                                                        \
          true },                                                                                                        \
        { "device", 0, "HOST[:DST][:rwm]", "give it a device of this host", "file", true },                              \
        { "sysctl", 0, "NAME=VALUE", "set a kernel parameter of its namespaces", NULL, true },                           \
        { "ulimit", 0, "NAME=SOFT[:HARD]", "set a resource limit, e.g. nofile=1024", NULL, true },                       \
        { "shm-size", 0, "SIZE", "size of /dev/shm (default 64M)", NULL, false },                                        \
        { "init", 0, NULL, "a small first process that passes signals on and reaps", NULL, false },                      \
        { "label", 'l', "NAME[=VALUE]", "attach a label", NULL, true },                                                  \
        { "restart",                                                                                                     \
          0,                                                                                                             \
          "no|on-failure[:MAX]|always|unless-stopped",                                                                   \
          "start it again when it has ended",                                                                            \
          "no on-failure always unless-stopped",                                                                         \
          false },                                                                                                       \
        { "health-cmd", 0, "COMMAND|none", "shell command that tells whether it is healthy", NULL, false },              \
        { "health-interval", 0, "TIME", "time between checks (default 30s)", NULL, false },                              \
        { "health-timeout", 0, "TIME", "a check that takes longer has failed (default 30s)", NULL, false },              \
        { "health-retries", 0, "N", "failures in a row that make it unhealthy (default 3)", NULL, false },               \
        { "health-start-period", 0, "TIME", "failures in this time do not count", NULL, false },                         \
        { "no-healthcheck", 0, NULL, "ignore the image's health check", NULL, false },                                   \
        { "stop-signal", 0, "SIGNAL", "what asks it to end (default TERM, or the image's)", NULL, false },               \
        { "stop-timeout", 0, "SECONDS", "time until it is killed (default 10)", NULL, false },                           \
        { "log-driver", 0, "json-file", "how its output is kept: there is one way", "json-file", false },                \
        { "log-opt", 0, "max-size=SIZE|max-file=N", "limits of its log (default 10M, 3)", NULL, true },                  \
        { "pull",                                                                                                        \
          0,                                                                                                             \
          "missing|always|newer|never",                                                                                  \
          "fetch the image (default: if it is missing)",                                                                 \
          "missing always newer never",                                                                                  \
          false },                                                                                                       \
        { "platform", 0, "OS/ARCH", "the image must be for this platform", NULL, false },                                \
        { "userns", 0, "host", "user namespace: there is none but a user's own", "host", false },                        \
        { "cidfile", 0, "FILE", "write the id to this file, which must not exist", "file", false },                      \
    {                                                                                                                    \
        "replace", 0, NULL, "remove the one of that name first", NULL, false                                             \
    }

static const struct cli_option create_options[] = { CONTAINER_OPTIONS };

static const struct cli_option run_options[] = {
    { "detach", 'd', NULL, "print the id and leave it running", NULL, false },
    { "quiet", 'q', NULL, "no progress of a pull", NULL, false },
    CONTAINER_OPTIONS,
};

static const struct cli_option exec_options[] = {
    { "interactive", 'i', NULL, "pass the standard input on", NULL, false },
    { "tty", 't', NULL, "give it a terminal", NULL, false },
    { "detach", 'd', NULL, "do not wait for it", NULL, false },
    { "env", 'e', "NAME[=VALUE]", "set a variable", NULL, true },
    { "env-file", 0, "FILE", "set the variables of a file", "file", true },
    { "user", 'u', "USER[:GROUP]", "run as this user (default: the container's, or root in a VM)", NULL, false },
    { "workdir", 'w', "PATH", "folder to start in", NULL, false },
    { "privileged", 0, NULL, "with all capabilities", NULL, false },
    { "timeout", 0, "TIME", "wait so long for the agent of a VM (default 120s)", NULL, false },
};

static const struct cli_option cp_options[] = {
    { "archive", 'a', NULL, "keep the owners of files", NULL, false },
    { "follow-link", 'L', NULL, "copy what SRC links to", NULL, false },
    { "timeout", 0, "TIME", "wait so long for the agent of a VM (default 120s)", NULL, false },
    { "quiet", 'q', NULL, "as it is: nothing is said", NULL, false },
};

static const struct cli_option json_options[] = {
    { "json", 0, NULL, "print JSON: an array", NULL, false },
};

static const struct cli_option table_options[] = { CLI_TABLE_OPTIONS };

static const struct cli_option stats_options[] = {
    { "all", 'a', NULL, "those that do not run, too", NULL, false },
    { "no-stream", 0, NULL, "print once", NULL, false },
    { "interval", 'i', "TIME", "time between two lines (default 2s)", NULL, false },
    CLI_TABLE_OPTIONS,
};

static const struct cli_option volume_create_options[] = {
    { "label", 'l', "NAME[=VALUE]", "attach a label", NULL, true },
    { "ignore", 0, NULL, "one that is there already is fine", NULL, false },
};

static const struct cli_option volume_rm_options[] = {
    { "all", 'a', NULL, "all that nobody uses", NULL, false },
    { "force", 'f', NULL, "one that is not there is fine", NULL, false },
};

static const struct cli_option volume_prune_options[] = {
    { "force", 'f', NULL, "do not ask", NULL, false },
};

static const struct cli_command container_commands[] = {
    { .path = "run",
      .summary = "make a container from an image and start it",
      .operands = "IMAGE [COMMAND [ARG]...]",
      .max_operands = OPERANDS_MANY,
      .options = run_options,
      .n_options = ARRAY_SIZE(run_options),
      .complete = "@image",
      .command_follows = true,
      .failed = EXIT_CODE_NOT_RUN,
      .run = cli_cmd_run },
    { .path = "create",
      .summary = "make a container from an image",
      .operands = "IMAGE [COMMAND [ARG]...]",
      .max_operands = OPERANDS_MANY,
      .options = create_options,
      .n_options = ARRAY_SIZE(create_options),
      .complete = "@image",
      .command_follows = true,
      .run = cli_cmd_create },
    { .path = "exec",
      .summary = "run a command in a VM or container that runs",
      .operands = "NAME COMMAND [ARG]...",
      .max_operands = OPERANDS_MANY,
      .options = exec_options,
      .n_options = ARRAY_SIZE(exec_options),
      .complete = "@instance",
      .command_follows = true,
      .failed = EXIT_CODE_NOT_RUN,
      .run = cli_cmd_exec },
    { .path = "cp",
      .summary = "copy files into a VM or container or out of it; - is a tar archive",
      .operands = "NAME:SRC|SRC|- NAME:DST|DST|-",
      .max_operands = 2,
      .options = cp_options,
      .n_options = ARRAY_SIZE(cp_options),
      .complete = "@instance file",
      .run = cli_cmd_cp },
    { .path = "diff",
      .summary = "list what a container has changed in its image: A added, C changed, D deleted",
      .operands = "NAME",
      .max_operands = 1,
      .options = json_options,
      .n_options = ARRAY_SIZE(json_options),
      .complete = "@container",
      .run = cli_cmd_diff },
    { .path = "port",
      .summary = "list the published ports of a container",
      .operands = "NAME [PORT[/udp]]",
      .max_operands = 2,
      .options = json_options,
      .n_options = ARRAY_SIZE(json_options),
      .complete = "@container",
      .run = cli_cmd_port },
    { .path = "stats",
      .summary = "show what instances use: CPU, memory, network, disk, processes",
      .operands = "[NAME]...",
      .max_operands = OPERANDS_MANY,
      .options = stats_options,
      .n_options = ARRAY_SIZE(stats_options),
      .complete = "@instance",
      .run = cli_cmd_stats },
    { .path = "top",
      .summary = "list the processes of a container",
      .operands = "NAME",
      .max_operands = 1,
      .options = table_options,
      .n_options = ARRAY_SIZE(table_options),
      .complete = "@container",
      .run = cli_cmd_top },
    { .path = "volume create",
      .summary = "make a volume",
      .operands = "[NAME]",
      .max_operands = 1,
      .options = volume_create_options,
      .n_options = ARRAY_SIZE(volume_create_options),
      .run = cli_cmd_volume_create },
    { .path = "volume ls",
      .summary = "list the volumes",
      .operands = "",
      .options = table_options,
      .n_options = ARRAY_SIZE(table_options),
      .run = cli_cmd_volume_ls },
    { .path = "volume inspect",
      .summary = "show all of volumes",
      .operands = "NAME...",
      .max_operands = OPERANDS_MANY,
      .options = json_options,
      .n_options = ARRAY_SIZE(json_options),
      .complete = "@volume",
      .run = cli_cmd_volume_inspect },
    { .path = "volume rm",
      .summary = "remove volumes and what is in them",
      .operands = "NAME...",
      .max_operands = OPERANDS_MANY,
      .options = volume_rm_options,
      .n_options = ARRAY_SIZE(volume_rm_options),
      .complete = "@volume",
      .run = cli_cmd_volume_rm },
    { .path = "volume prune",
      .summary = "remove all volumes that nobody uses",
      .operands = "",
      .options = volume_prune_options,
      .n_options = ARRAY_SIZE(volume_prune_options),
      .run = cli_cmd_volume_prune },
};
const struct cli_command_group cli_container_commands = { container_commands, ARRAY_SIZE(container_commands) };
