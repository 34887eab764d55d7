/* caisson disk backups, caisson disk restore: what is in a directory of backups, and back from it. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "cli/disk_args.h"
#include "cli/table.h"
#include "proto/backup.h"
#include "proto/exit_code.h"

static int backups_load(const struct cli_args *args, const char **ret_dir, struct backup_manifest *m, struct err *e)
{
    AUTO_FD int fd = -1;
    int r = disk_args_operand(args, 0, "DIR", ret_dir, e);

    if (r < 0)
        return r;
    fd = open(*ret_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_set(e, errno, "backup directory %s: %s", *ret_dir, strerror(errno));
    r = backup_manifest_load(fd, *ret_dir, m, e);
    if (r == -ENOENT)
        return err_set(e, ENOENT, "backup directory %s: has no backups; they are made with 'caisson disk backup'",
                       *ret_dir);
    return r;
}

/* ---- backups ---- */

static const struct cli_column backups_columns[] = {
    { "POINT", "point", true, false, false }, { "TIME", "time", false, false, false },
    { "DISK", "disk", false, false, false },  { "KIND", "kind", false, false, false },
    { "SIZE", "size", true, false, true },    { "COPIED", "copied", true, false, true },
    { "FILE", "file", false, false, false },  { "BASE", "base", true, true, false },
    { "ID", "id", false, true, false },       { "INDEX", "index", true, true, false },
};
static const struct cli_table backups_table = { backups_columns, ARRAY_SIZE(backups_columns), "point", false };

/* A row for each disk of each point. */
static void backups_add_rows(json_object *rows, const struct backup_point *point)
{
    json_object *o = backup_point_to_json(point), *disks = NULL, *v = NULL;

    json_object_object_get_ex(o, "disks", &disks);
    for (size_t i = 0; i < json_object_array_length(disks); i++) {
        static const char *const keys[] = { "point", "id", "time" };
        json_object *row = json_object_array_get_idx(disks, i);

        for (size_t k = 0; k < ARRAY_SIZE(keys); k++) {
            if (json_object_object_get_ex(o, keys[k], &v))
                json_object_object_add(row, keys[k], json_object_get(v));
        }
        json_object_array_add(rows, json_object_get(row));
    }
    json_object_put(o);
}

int cli_cmd_disk_backups(const struct cli_args *args)
{
    struct backup_manifest m = { 0 };
    const char *dir = NULL;
    struct err e = { 0 };
    int r = cli_table_check(&backups_table, args, &e);

    if (r >= 0)
        r = backups_load(args, &dir, &m, &e);
    if (r >= 0) {
        json_object *rows = json_object_new_array();

        for (unsigned i = 0; i < m.n_points; i++)
            backups_add_rows(rows, &m.points[i]);
        r = cli_table_print(&backups_table, rows, args, stdout, &e);
        json_object_put(rows);
    }
    backup_manifest_done(&m);
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}

/* ---- restore ---- */

struct restore_job {
    struct disk_convert_config config;
    struct disk_convert_report report;
};

static int restore_no_disk(const struct backup_point *point, const char *name, struct err *e)
{
    char text[ERR_TEXT_MAX / 2] = "";
    struct buf list;

    buf_init(&list, sizeof(text) - 1);
    for (unsigned i = 0; i < point->n_disks; i++)
        buf_printf(&list, "%s%s", i ? ", " : "", point->disks[i].name);
    snprintf(text, sizeof(text), "%.*s", (int)list.len, list.data ? (const char *)list.data : "");
    buf_done(&list);
    if (name)
        return err_set(e, ENOENT, "point %" PRIu32 " has no disk '%s'; it has %s", point->number, name, text);
    return err_set(e, EINVAL, "point %" PRIu32 " has several disks; choose one of %s with --disk", point->number, text);
}

/* By name, or by its index in the VM. */
static int restore_find_disk(const struct cli_args *args, const struct backup_point *point,
                             const struct backup_disk **ret_disk, struct err *e)
{
    const char *name = cli_value(args, "disk");
    const struct backup_disk *found = name ? backup_point_disk(point, name) : NULL;
    uint64_t index;

    if (!name && point->n_disks > 1)
        return restore_no_disk(point, NULL, e);
    if (!name)
        found = &point->disks[0];
    for (unsigned i = 0; i < point->n_disks && !found; i++) {
        if (num_parse_u64(name, 0, UINT16_MAX, &index) == 0 && point->disks[i].index == index)
            found = &point->disks[i];
    }
    if (!found)
        return restore_no_disk(point, name, e);
    *ret_disk = found;
    return 0;
}

static int restore_find(const struct cli_args *args, const char *dir, const struct backup_manifest *m,
                        const struct backup_disk **ret_disk, struct err *e)
{
    const char *number = cli_value(args, "point");
    const struct backup_point *point;
    uint64_t n = 0;

    if (number && num_parse_u64(number, 1, BACKUP_NUMBER_MAX, &n) < 0)
        return err_set(e, EINVAL, "--point %s: not a number; 'caisson disk backups %s' lists them", number, dir);
    point = backup_manifest_point(m, (uint32_t)n);
    if (!point)
        return err_set(e, ENOENT, "backup directory %s: has no %s%s; 'caisson disk backups %s' lists what it has", dir,
                       number ? "point " : "point at all", number ? number : "", dir);
    return restore_find_disk(args, point, ret_disk, e);
}

static int restore_work(void *opaque, const struct disk_progress *progress, struct err *e)
{
    struct restore_job *job = opaque;

    return disk_convert(&job->config, progress, &job->report, e);
}

static int restore_run(const struct cli_args *args, const char *dir, const struct backup_disk *disk)
{
    const char *format = cli_value(args, "format"), *const dirs[] = { dir, NULL };
    char path[BLK_PATH_MAX];
    struct err e = { 0 };
    struct restore_job job = { 0 };

    snprintf(path, sizeof(path), "%s/%s", dir, disk->file);
    job.config.source = (struct blk_open_config){ .path = path, .format = "qcow2", .allowed_dirs = dirs };
    job.config.target = (struct blk_create_config){ .path = cli_value(args, "to"),
                                                    .format = format ? format : "qcow2",
                                                    .overwrite = cli_value(args, "force") != NULL };
    job.config.sparse = DISK_SPARSE_DEFAULT;
    if (!job.config.target.path || !job.config.target.path[0]) {
        (void)err_set(&e, EINVAL, "no file given for the restored disk; name one with --to FILE");
        return cli_fail(&e);
    }
    if (format && strcmp(format, "raw") != 0 && strcmp(format, "qcow2") != 0) {
        (void)err_set(&e, EINVAL, "--format %s: not possible; use raw or qcow2", format);
        return cli_fail(&e);
    }
    return disk_args_long(args, "restore", restore_work, &job, &e);
}

int cli_cmd_disk_restore(const struct cli_args *args)
{
    struct backup_manifest m = { 0 };
    const struct backup_disk *disk = NULL;
    const char *dir = NULL;
    struct err e = { 0 };
    int r = backups_load(args, &dir, &m, &e), code;

    if (r >= 0)
        r = restore_find(args, dir, &m, &disk, &e);
    code = r < 0 ? cli_fail(&e) : restore_run(args, dir, disk);
    backup_manifest_done(&m);
    return code;
}
