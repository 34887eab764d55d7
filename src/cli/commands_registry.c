/* The rows of `caisson image` that reach registries or build, and of `caisson template`, in the command table. */
#include "cli/command.h"
#include "cli/progress.h"
#include "cli/registry.h"
#include "cli/table.h"

#define OPERANDS_MANY 1024

static const struct cli_option pull_options[] = {
    { "policy", 0, "always|missing|newer|never", "when to ask the registry (default always)",
      "always missing newer never", false },
    { "platform", 0, "OS/ARCH[/VARIANT]", "which of the images under the name (default: this machine's)", NULL, false },
    { "quiet", 'q', NULL, "print the id alone", NULL, false },
    CLI_REGISTRY_OPTIONS,
    CLI_OPTION_PROGRESS,
    { "json", 0, NULL, "print what was pulled as JSON: an array", NULL, false },
};

static const struct cli_option push_options[] = {
    CLI_REGISTRY_OPTIONS,
    CLI_OPTION_PROGRESS,
};

static const struct cli_option login_options[] = {
    { "username", 'u', "USER", "who you are there (default: asked for)", NULL, false },
    { "password", 'p', "file:PATH|fd:N|env:NAME", "where the password or token is (default: asked for)", NULL, false },
    { "password-stdin", 0, NULL, "read the password from standard input", NULL, false },
    CLI_REGISTRY_OPTIONS,
};

static const struct cli_option build_options[] = {
    { "name", 't', "NAME", "name of the image", NULL, true },
    { "file", 'f', "FILE", "the instructions (default: Containerfile or Dockerfile in the context)", "file", false },
    { "target", 0, "STAGE", "build this stage instead of the last", NULL, false },
    { "build-arg", 0, "NAME[=VALUE]", "value of an ARG (default: of the environment)", NULL, true },
    { "label", 0, "K=V", "label of the image", NULL, true },
    { "no-cache", 0, NULL, "run every step, whatever earlier builds made", NULL, false },
    { "pull", 0, "always|missing|newer|never", "when to ask registries for base images (default missing)",
      "always missing newer never", false },
    { "platform", 0, "OS/ARCH[/VARIANT]", "of the base images (default: this machine's)", NULL, false },
    { "network", 0, "host|none", "network of RUN (default host)", "host none", false },
    { "debian", 0, "SUITE", "instead of a Containerfile: Debian packages, such as bookworm", NULL, false },
    { "packages", 0, "NAME[,NAME]...", "with --debian: packages besides the smallest system", NULL, false },
    { "mirror", 0, "URL", "with --debian: where packages come from (default: what apt here uses)", NULL, false },
    { "disk", 0, "SIZE", "with --debian: a bootable VM image with a disk of this size", NULL, false },
    { "with-cloud-init", 0, NULL, "with --disk: Debian's cloud-init instead of the small first-boot script", NULL,
      false },
    { "quiet", 'q', NULL, "print the id alone", NULL, false },
    CLI_REGISTRY_OPTIONS,
    CLI_OPTION_PROGRESS,
};

static const struct cli_option template_ls_options[] = { CLI_TABLE_OPTIONS };

static const struct cli_option template_inspect_options[] = {
    { "json", 0, NULL, "print JSON: an array", NULL, false },
};

static const struct cli_command registry_commands[] = {
    { .path = "image build",
      .summary = "make an image from a Containerfile, or from Debian packages",
      .operands = "[CONTEXT]",
      .max_operands = 1,
      .options = build_options,
      .n_options = ARRAY_SIZE(build_options),
      .run = cli_cmd_image_build },
    { .path = "image pull",
      .summary = "fetch images from registries",
      .operands = "NAME...",
      .max_operands = OPERANDS_MANY,
      .options = pull_options,
      .n_options = ARRAY_SIZE(pull_options),
      .run = cli_cmd_image_pull },
    { .path = "image push",
      .summary = "send an image to a registry",
      .operands = "IMAGE [DESTINATION]",
      .max_operands = 2,
      .options = push_options,
      .n_options = ARRAY_SIZE(push_options),
      .run = cli_cmd_image_push },
    { .path = "image login",
      .summary = "check a name and password with a registry, and keep them",
      .operands = "[REGISTRY]",
      .max_operands = 1,
      .options = login_options,
      .n_options = ARRAY_SIZE(login_options),
      .run = cli_cmd_image_login },
    { .path = "image logout",
      .summary = "forget the password for a registry",
      .operands = "[REGISTRY]",
      .max_operands = 1,
      .run = cli_cmd_image_logout },
    { .path = "template create",
      .summary = "name an image together with options for what is made from it",
      .operands = "NAME IMAGE [-- OPTION...]",
      .max_operands = OPERANDS_MANY,
      .run = cli_cmd_template_create },
    { .path = "template ls",
      .summary = "list the templates",
      .operands = "",
      .max_operands = 0,
      .options = template_ls_options,
      .n_options = ARRAY_SIZE(template_ls_options),
      .run = cli_cmd_template_ls },
    { .path = "template inspect",
      .summary = "show templates in full",
      .operands = "NAME...",
      .max_operands = OPERANDS_MANY,
      .options = template_inspect_options,
      .n_options = ARRAY_SIZE(template_inspect_options),
      .run = cli_cmd_template_inspect },
    { .path = "template rm",
      .summary = "remove templates",
      .operands = "NAME...",
      .max_operands = OPERANDS_MANY,
      .run = cli_cmd_template_rm },
};
const struct cli_command_group cli_registry_commands = { registry_commands, ARRAY_SIZE(registry_commands) };
