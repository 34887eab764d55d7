/* caisson disk info, disk snapshot ls, disk bitmap ls: facts about images, for people or as JSON. */
#include <stdio.h>
#include <string.h>

#include "cli/disk_args.h"
#include "cli/table.h"
#include "proto/exit_code.h"

static void info_line(const char *key, const char *value)
{
    if (value[0])
        printf("%-16s %s\n", key, value);
}

static void info_size(json_object *o, const char *key, const char *label)
{
    char text[32], line[96];
    uint64_t bytes = disk_args_u64(o, key);

    if (!json_object_object_get_ex(o, key, NULL))
        return;
    snprintf(line, sizeof(line), "%s (%llu bytes)", cli_size_text(bytes, text), (unsigned long long)bytes);
    info_line(label, line);
}

static json_object *info_array(json_object *o, const char *key)
{
    json_object *v = NULL;

    return json_object_object_get_ex(o, key, &v) && json_object_is_type(v, json_type_array) ? v : NULL;
}

static void info_snapshots(json_object *list)
{
    printf("%-6s %-24s %12s %12s  %s\n", "ID", "NAME", "DISK SIZE", "VM STATE", "DATE");
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        json_object *s = json_object_array_get_idx(list, i);
        char disk[32], vm[32];

        printf("%-6s %-24s %12s %12s  %.19sZ\n", disk_args_text(s, "id"), disk_args_text(s, "name"),
               cli_size_text(disk_args_u64(s, "disk_size"), disk), cli_size_text(disk_args_u64(s, "vm_state_size"), vm),
               disk_args_text(s, "date"));
    }
}

static void info_bitmaps(json_object *list)
{
    printf("%-24s %12s %-10s %12s\n", "NAME", "GRANULARITY", "STATE", "DIRTY");
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        json_object *b = json_object_array_get_idx(list, i);
        char granularity[32], dirty[32];
        const char *state = disk_args_flag(b, "in_use")    ? "broken"
                            : disk_args_flag(b, "enabled") ? "enabled"
                                                           : "disabled";

        printf("%-24s %12s %-10s %12s\n", disk_args_text(b, "name"),
               cli_size_text(disk_args_u64(b, "granularity"), granularity), state,
               cli_size_text(disk_args_u64(b, "dirty_bytes"), dirty));
    }
}

static void info_flags(json_object *o)
{
    static const char *const flags[][2] = { { "lazy_refcounts", "lazy refcounts" },
                                            { "extended_l2", "extended L2 entries" },
                                            { "data_file_raw", "raw data file" },
                                            { "dirty", "not closed cleanly" },
                                            { "corrupt", "marked as corrupt" } };
    char line[160] = "";
    size_t len = 0;

    for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
        if (disk_args_flag(o, flags[i][0]) && len < sizeof(line))
            len += (size_t)snprintf(line + len, sizeof(line) - len, "%s%s", len ? ", " : "", flags[i][1]);
    }
    info_line("properties:", line);
}

static void info_print(json_object *o)
{
    json_object *backing = NULL, *list;
    char line[64];

    info_line("path:", disk_args_text(o, "path"));
    snprintf(line, sizeof(line), "%s", disk_args_text(o, "format"));
    if (disk_args_u64(o, "qcow2_version"))
        snprintf(line, sizeof(line), "%s version %u", disk_args_text(o, "format"),
                 (unsigned)disk_args_u64(o, "qcow2_version"));
    info_line("format:", line);
    info_size(o, "virtual_size", "virtual size:");
    info_size(o, "actual_size", "on the host:");
    info_size(o, "cluster_size", "cluster size:");
    if (json_object_object_get_ex(o, "backing", &backing)) {
        info_line("backing file:", disk_args_text(backing, "path"));
        info_line("backing format:", disk_args_text(backing, "format"));
        if (strcmp(disk_args_text(backing, "path"), disk_args_text(backing, "full_path")) != 0)
            info_line("that is:", disk_args_text(backing, "full_path"));
    }
    info_line("data file:", disk_args_text(o, "data_file"));
    info_line("compression:", disk_args_text(o, "compression"));
    info_line("encryption:", disk_args_text(o, "encryption"));
    info_line("type:", disk_args_text(o, "create_type"));
    info_flags(o);
    list = info_array(o, "snapshots");
    if (list && json_object_array_length(list) > 0) {
        printf("\nsnapshots:\n");
        info_snapshots(list);
    }
    list = info_array(o, "bitmaps");
    if (list && json_object_array_length(list) > 0) {
        printf("\nbitmaps:\n");
        info_bitmaps(list);
    }
}

int cli_cmd_disk_info(const struct cli_args *args)
{
    struct disk_args a = { 0 };
    struct err e = { 0 };
    json_object *array = NULL;
    int r = disk_args_open(args, 0, "FILE", "format", &a, &e);

    if (r >= 0)
        r = disk_info(&a.config, cli_value(args, "chain") != NULL, &array, &e);
    disk_args_done(&a);
    if (r < 0)
        return cli_fail(&e);
    if (cli_value(args, "json")) {
        disk_args_print_json(array);
        return EXIT_CODE_OK;
    }
    for (size_t i = 0; i < json_object_array_length(array); i++) {
        if (i > 0)
            printf("\n");
        info_print(json_object_array_get_idx(array, i));
    }
    json_object_put(array);
    return EXIT_CODE_OK;
}

/* ---- lists ---- */

static const struct cli_column snapshot_columns[] = {
    { "ID", "id", false, false, false },
    { "NAME", "name", false, false, false },
    { "DISK SIZE", "disk_size", true, false, true },
    { "VM STATE", "vm_state_size", true, false, true },
    { "DATE", "date", false, false, false },
    { "VM CLOCK NS", "vm_clock_ns", true, true, false },
};
static const struct cli_table snapshot_table = {
    .columns = snapshot_columns,
    .n_columns = ARRAY_SIZE(snapshot_columns),
    .id = "name",
};

static const struct cli_column bitmap_columns[] = {
    { "NAME", "name", false, false, false },       { "GRANULARITY", "granularity", true, false, true },
    { "ENABLED", "enabled", false, false, false }, { "IN USE", "in_use", false, false, false },
    { "DIRTY", "dirty_bytes", true, false, true },
};
static const struct cli_table bitmap_table = {
    .columns = bitmap_columns,
    .n_columns = ARRAY_SIZE(bitmap_columns),
    .id = "name",
};

static int info_ls(const struct cli_args *args,
                   int (*get)(const struct blk_open_config *config, json_object **ret_array, struct err *e),
                   const struct cli_table *table)
{
    struct disk_args a = { 0 };
    struct err e = { 0 };
    json_object *array = NULL;
    int r = cli_table_check(table, args, &e);

    if (r >= 0)
        r = disk_args_open(args, 0, "FILE", "image-format", &a, &e);
    if (r >= 0)
        r = get(&a.config, &array, &e);
    disk_args_done(&a);
    if (r >= 0)
        r = cli_table_print(table, array, args, stdout, &e);
    json_object_put(array);
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}

int cli_cmd_disk_snapshot_ls(const struct cli_args *args)
{
    return info_ls(args, disk_snapshot_ls, &snapshot_table);
}

int cli_cmd_disk_bitmap_ls(const struct cli_args *args)
{
    return info_ls(args, disk_bitmap_ls, &bitmap_table);
}
