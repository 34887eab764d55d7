/* The rows of `caisson image` in the command table. */
#include "cli/command.h"
#include "cli/progress.h"
#include "cli/table.h"

#define OPERANDS_MANY 1024

static const struct cli_option table_options[] = { CLI_TABLE_OPTIONS };

static const struct cli_option image_import_options[] = {
    { "name", 0, "NAME", "name of the image (default: what the archive says)", NULL, false },
    { "platform", 0, "OS/ARCH[/VARIANT]", "which of the images in it (default: this machine's)", NULL, false },
    { "rootfs", 0, NULL, "FILE is the tar of a root file system: make an image of it", NULL, false },
    CLI_OPTION_PROGRESS,
    { "json", 0, NULL, "print the images as JSON instead of their ids", NULL, false },
};

static const struct cli_option image_rm_options[] = {
    { "force", 'f', NULL, "with an id: also if it has several names", NULL, false },
    { "json", 0, NULL, "print what was removed as JSON", NULL, false },
};

static const struct cli_option image_prune_options[] = {
    { "all", 'a', NULL, "also images with names, if no instance uses them", NULL, false },
    { "json", 0, NULL, "print what was removed as JSON", NULL, false },
};

static const struct cli_option image_export_options[] = {
    { "output", 'o', "FILE", "where to write to (default -, standard output)", "file", false },
    { "format", 0, "oci|oci-dir|docker|rootfs",
      "tar of an OCI layout (default), the layout as a folder, what docker load reads, or the files in one tar",
      "oci oci-dir docker rootfs", false },
    CLI_OPTION_PROGRESS,
};

static const struct cli_option json_options[] = {
    { "json", 0, NULL, "print JSON: an array", NULL, false },
};

static const struct cli_option commit_options[] = {
    { "message", 'm', "TEXT", "a comment for the image's history", NULL, false },
    { "author", 'a', "TEXT", "who made it", NULL, false },
    { "change", 'c', "INSTRUCTION", "change the configuration: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, USER, WORKDIR, ...",
      NULL, true },
    { "compression", 0, "gzip|zstd|none", "of the new layer (default gzip)", "gzip zstd none", false },
    { "no-pause", 0, NULL, "do not pause the container meanwhile", NULL, false },
    CLI_OPTION_PROGRESS,
    { "json", 0, NULL, "print the image as JSON instead of its id", NULL, false },
};

static const struct cli_command image_commands[] = {
    { .path = "image import",
      .summary = "bring in images from an OCI layout (folder or tar), or an archive of docker save or podman save",
      .operands = "FILE|FOLDER|-",
      .max_operands = 1,
      .options = image_import_options,
      .n_options = ARRAY_SIZE(image_import_options),
      .run = cli_cmd_image_import },
    { .path = "image ls",
      .summary = "list the images",
      .operands = "",
      .max_operands = 0,
      .options = table_options,
      .n_options = ARRAY_SIZE(table_options),
      .run = cli_cmd_image_ls },
    { .path = "image rm",
      .summary = "remove names of images, and with the last name the image",
      .operands = "NAME...",
      .max_operands = OPERANDS_MANY,
      .options = image_rm_options,
      .n_options = ARRAY_SIZE(image_rm_options),
      .run = cli_cmd_image_rm },
    { .path = "image tag",
      .summary = "give an image more names",
      .operands = "IMAGE NAME...",
      .max_operands = OPERANDS_MANY,
      .run = cli_cmd_image_tag },
    { .path = "image inspect",
      .summary = "show images in full, with their configuration and manifest",
      .operands = "IMAGE...",
      .max_operands = OPERANDS_MANY,
      .options = json_options,
      .n_options = ARRAY_SIZE(json_options),
      .run = cli_cmd_image_inspect },
    { .path = "image history",
      .summary = "list the steps by which an image was made, and the size of their layers",
      .operands = "IMAGE",
      .max_operands = 1,
      .options = table_options,
      .n_options = ARRAY_SIZE(table_options),
      .run = cli_cmd_image_history },
    { .path = "image export",
      .summary = "write images to a file or folder that other tools read",
      .operands = "IMAGE...",
      .max_operands = OPERANDS_MANY,
      .options = image_export_options,
      .n_options = ARRAY_SIZE(image_export_options),
      .run = cli_cmd_image_export },
    { .path = "image prune",
      .summary = "remove images without names, and files that no image needs",
      .operands = "",
      .max_operands = 0,
      .options = image_prune_options,
      .n_options = ARRAY_SIZE(image_prune_options),
      .run = cli_cmd_image_prune },
    { .path = "commit",
      .summary = "make an image of a container and what it changed",
      .operands = "CONTAINER [NAME]",
      .max_operands = 2,
      .options = commit_options,
      .n_options = ARRAY_SIZE(commit_options),
      .run = cli_cmd_commit },
};
const struct cli_command_group cli_image_commands = { image_commands, ARRAY_SIZE(image_commands) };
