/* The rows of the command table for the noun disk. */
#include "cli/command.h"
#include "cli/progress.h"
#include "cli/table.h"

#define OPTION_FORMAT_OF_FILE                                                                                  \
    {                                                                                                          \
        "format", 'f', "FORMAT", "format of FILE (default: by its content)", "raw qcow2 luks vmdk vhdx", false \
    }
#define OPTION_SECRET                                                                                       \
    {                                                                                                       \
        "secret", 0, "file:PATH|fd:N|env:NAME", "where the passphrase of an encrypted disk is", NULL, false \
    }
#define OPTION_ITER_TIME                                                                                            \
    {                                                                                                               \
        "iter-time", 0, "MS", "how long to make each guess at the passphrase take, in milliseconds (default 2000)", \
            NULL, false                                                                                             \
    }
#define OPTION_ALLOW_DIR                                                                                               \
    {                                                                                                                  \
        "allow-dir", 0, "DIR", "open backing and data files below DIR only (may be given several times)", "file", true \
    }
#define OPTION_JSON                                \
    {                                              \
        "json", 0, NULL, "print JSON", NULL, false \
    }
#define OPTION_FORCE                                                          \
    {                                                                         \
        "force", 0, NULL, "overwrite a file that exists already", NULL, false \
    }
#define OPTION_PREALLOCATION                                                                          \
    {                                                                                                 \
        "preallocation", 0, "off|metadata|falloc|full", "how much to allocate at once (default off)", \
            "off metadata falloc full", false                                                         \
    }
#define OPTION_FORCE_SHARE                                                                                             \
    {                                                                                                                  \
        "force-share", 'U', NULL, "look at a disk that somebody else is writing to; what is shown may be stale", NULL, \
            false                                                                                                      \
    }
/* Properties of a new qcow2 image. */
#define OPTIONS_QCOW2                                                                                                     \
    { "cluster-size", 0, "SIZE", "qcow2: 512 to 2M, a power of two (default 64K)", "64K 128K 1M 2M", false },             \
        { "refcount-bits", 0, "N", "qcow2: width of reference counts, 1 to 64 (default 16)", "1 2 4 8 16 32 64", false }, \
        { "lazy-refcounts", 0, NULL, "qcow2: write reference counts late", NULL, false },                                 \
        { "extended-l2", 0, NULL, "qcow2: allocate parts of clusters", NULL, false },                                     \
        { "compression", 0, "zlib|zstd", "qcow2: how clusters are compressed (default zlib)", "zlib zstd", false },       \
        { "data-file", 0, "FILE", "qcow2: keep the data in another file", "file", false },                                \
        { "qcow2-version", 0, "2|3", "qcow2: version of the format (default 3)", "2 3", false },                          \
    {                                                                                                                     \
        "data-file-raw", 0, NULL, "qcow2: the data file reads as a raw disk", NULL, false                                 \
    }
#define OPTION_BACKING(text)                                   \
    {                                                          \
        "backing", 'b', "FILE[,format=F]", text, "file", false \
    }

static const struct cli_option create_options[] = {
    { "format", 'f', "raw|qcow2|luks", "format of the new disk (default qcow2)", "raw qcow2 luks", false },
    OPTION_BACKING("the disk whose content the new one starts with; a comma in its name is doubled"),
    OPTIONS_QCOW2,
    OPTION_PREALLOCATION,
    { "encrypt", 0, NULL, "encrypt the disk (LUKS) with the passphrase of --secret", NULL, false },
    OPTION_SECRET,
    OPTION_ITER_TIME,
    OPTION_FORCE,
};

static const struct cli_option info_options[] = {
    OPTION_FORMAT_OF_FILE, { "chain", 0, NULL, "open and show the backing files, too", NULL, false },
    OPTION_FORCE_SHARE,    OPTION_ALLOW_DIR,
    OPTION_JSON,
};

static const struct cli_option check_options[] = {
    OPTION_FORMAT_OF_FILE,
    { "repair", 'r', "leaks|all", "repair what is found: lost clusters only, or everything", "leaks all", false },
    OPTION_FORCE_SHARE,
    OPTION_ALLOW_DIR,
    OPTION_JSON,
};

static const struct cli_option convert_options[] = {
    { "source-format", 0, "FORMAT", "format of SOURCE (default: by its content)", "raw qcow2 luks vmdk vhdx", false },
    { "format", 'f', "raw|qcow2|luks", "format of TARGET (default qcow2)", "raw qcow2 luks", false },
    { "compress", 'c', NULL, "compress the clusters of a qcow2 target", NULL, false },
    { "snapshot", 0, "NAME", "copy an internal snapshot of SOURCE", NULL, false },
    { "sparse", 0, "SIZE", "leave out zeroes that are at least this long (default 4K); 0: copy them", NULL, false },
    OPTION_BACKING("a disk that TARGET stands on: only what differs from it is copied"),
    OPTIONS_QCOW2,
    OPTION_PREALLOCATION,
    OPTION_SECRET,
    { "encrypt", 0, NULL, "encrypt TARGET (LUKS) with the passphrase of --target-secret", NULL, false },
    { "target-secret", 0, "file:PATH|fd:N|env:NAME", "where the passphrase for TARGET is", NULL, false },
    OPTION_ITER_TIME,
    OPTION_ALLOW_DIR,
    { "threads", 0, "N", "number of threads, 1 to 16 (default: one for each CPU)", NULL, false },
    { "no-sync", 0, NULL, "end before TARGET is on stable storage; a crash of the host may ruin it", NULL, false },
    OPTION_FORCE,
    CLI_OPTION_PROGRESS,
    OPTION_JSON,
};

static const struct cli_option resize_options[] = {
    OPTION_FORMAT_OF_FILE, { "shrink", 0, NULL, "allow a smaller size, which cuts off the end", NULL, false },
    OPTION_PREALLOCATION,  OPTION_SECRET,
    OPTION_ALLOW_DIR,
};

static const struct cli_option commit_options[] = {
    OPTION_FORMAT_OF_FILE, { "keep", 0, NULL, "leave the content in FILE, too", NULL, false },
    OPTION_SECRET,         OPTION_ALLOW_DIR,
    CLI_OPTION_PROGRESS,
};

static const struct cli_option rebase_options[] = {
    OPTION_FORMAT_OF_FILE,
    OPTION_BACKING("the new backing file; without it: none any more"),
    { "unsafe", 0, NULL, "change the name only; the new backing file has the same content", NULL, false },
    OPTION_SECRET,
    OPTION_ALLOW_DIR,
    CLI_OPTION_PROGRESS,
};

static const struct cli_option compare_options[] = {
    { "format", 'f', "FORMAT", "format of FILE1 (default: by its content)", "raw qcow2 luks vmdk vhdx", false },
    { "other-format", 'F', "FORMAT", "format of FILE2 (default: by its content)", "raw qcow2 luks vmdk vhdx", false },
    { "strict", 0, NULL, "sizes and allocation have to be the same, too", NULL, false },
    OPTION_FORCE_SHARE,
    OPTION_SECRET,
    OPTION_ALLOW_DIR,
    CLI_OPTION_PROGRESS,
    OPTION_JSON,
};

static const struct cli_option map_options[] = {
    OPTION_FORMAT_OF_FILE, OPTION_FORCE_SHARE, OPTION_SECRET, OPTION_ALLOW_DIR, OPTION_JSON,
};

static const struct cli_option ls_options[] = {
    { "image-format", 0, "FORMAT", "format of FILE (default: by its content)", "raw qcow2", false },
    OPTION_FORCE_SHARE,
    CLI_TABLE_OPTIONS,
};

static const struct cli_option change_options[] = {
    OPTION_FORMAT_OF_FILE,
};

static const struct cli_option bitmap_add_options[] = {
    OPTION_FORMAT_OF_FILE,
    { "granularity", 0, "SIZE", "bytes for which one bit stands, a power of two (default 64K)", "64K", false },
    { "disabled", 0, NULL, "do not record writes yet", NULL, false },
};

static const struct cli_option backup_options[] = {
    { "to", 't', "DIR", "the directory of the backups; made where it is missing", "file", false },
    { "disk", 0, "SERIAL|INDEX", "this disk of the VM, INDEX from 0 (default: all that can be written to)", NULL,
      true },
    { "full", 0, NULL, "copy the whole disks", NULL, false },
    { "incremental", 0, NULL, "copy only what has changed since the last point, or fail", NULL, false },
    { "name", 0, "CHAIN", "one of several independent series of backups of a VM (default: default)", NULL, false },
    { "compress", 'c', NULL, "compress the copies", NULL, false },
    { "bandwidth", 0, "SIZE", "copy at most SIZE bytes a second for which no write of the guest waits", NULL, false },
    CLI_OPTION_PROGRESS,
    OPTION_JSON,
};

static const struct cli_option backups_options[] = {
    CLI_TABLE_OPTIONS,
};

static const struct cli_option restore_options[] = {
    { "point", 'p', "N", "the point in time (default: the last one)", NULL, false },
    { "disk", 0, "SERIAL|INDEX", "which disk, where the point has several", NULL, false },
    { "to", 't', "FILE", "the file to make", "file", false },
    { "format", 'f', "raw|qcow2", "format of FILE (default qcow2)", "raw qcow2", false },
    OPTION_FORCE,
    CLI_OPTION_PROGRESS,
};

#define ROW(name, text, what, n, table, function)                                             \
    {                                                                                         \
        .path = name, .summary = text, .operands = what, .max_operands = n, .options = table, \
        .n_options = ARRAY_SIZE(table), .run = function                                       \
    }

static const struct cli_command disk_commands[] = {
    ROW("disk create", "make a disk image", "FILE [SIZE]", 2, create_options, cli_cmd_disk_create),
    ROW("disk info", "show what a disk image is", "FILE", 1, info_options, cli_cmd_disk_info),
    ROW("disk check", "check the structure of a disk image, and repair it", "FILE", 1, check_options,
        cli_cmd_disk_check),
    ROW("disk convert", "copy a disk into a new image, of another format perhaps", "SOURCE TARGET", 2, convert_options,
        cli_cmd_disk_convert),
    ROW("disk resize", "change the size of a disk, to SIZE or by it", "FILE SIZE|+SIZE|-SIZE", 2, resize_options,
        cli_cmd_disk_resize),
    ROW("disk commit", "move the content of an image into its backing file", "FILE", 1, commit_options,
        cli_cmd_disk_commit),
    ROW("disk rebase", "put an image onto another backing file", "FILE", 1, rebase_options, cli_cmd_disk_rebase),
    ROW("disk compare", "compare the content of two disks", "FILE1 FILE2", 2, compare_options, cli_cmd_disk_compare),
    ROW("disk map", "show which parts of a disk are allocated, and where", "FILE", 1, map_options, cli_cmd_disk_map),
    ROW("disk snapshot ls", "list the internal snapshots of a disk image", "FILE", 1, ls_options,
        cli_cmd_disk_snapshot_ls),
    ROW("disk snapshot create", "make an internal snapshot", "FILE NAME", 2, change_options,
        cli_cmd_disk_snapshot_create),
    ROW("disk snapshot apply", "go back to an internal snapshot; what came after it is lost", "FILE NAME", 2,
        change_options, cli_cmd_disk_snapshot_apply),
    ROW("disk snapshot rm", "remove an internal snapshot", "FILE NAME", 2, change_options, cli_cmd_disk_snapshot_rm),
    ROW("disk bitmap ls", "list the dirty bitmaps of a disk image", "FILE", 1, ls_options, cli_cmd_disk_bitmap_ls),
    ROW("disk bitmap add", "add a dirty bitmap", "FILE NAME", 2, bitmap_add_options, cli_cmd_disk_bitmap_add),
    ROW("disk bitmap rm", "remove a dirty bitmap", "FILE NAME", 2, change_options, cli_cmd_disk_bitmap_rm),
    ROW("disk bitmap enable", "let a dirty bitmap record writes", "FILE NAME", 2, change_options,
        cli_cmd_disk_bitmap_enable),
    ROW("disk bitmap disable", "let a dirty bitmap record no more writes", "FILE NAME", 2, change_options,
        cli_cmd_disk_bitmap_disable),
    ROW("disk bitmap clear", "forget what a dirty bitmap has recorded", "FILE NAME", 2, change_options,
        cli_cmd_disk_bitmap_clear),
    ROW("disk backup", "back up the disks of a running VM", "VM", 1, backup_options, cli_cmd_disk_backup),
    ROW("disk backups", "list the points in a directory of backups", "DIR", 1, backups_options, cli_cmd_disk_backups),
    ROW("disk restore", "make a disk as it was at a point in time", "DIR", 1, restore_options, cli_cmd_disk_restore),
};
const struct cli_command_group cli_disk_commands = { disk_commands, ARRAY_SIZE(disk_commands) };
