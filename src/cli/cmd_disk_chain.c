/* caisson disk commit, rebase and compare. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/disk_args.h"
#include "proto/exit_code.h"

struct commit_job {
    const struct blk_open_config *config;
    bool keep;
};

static int commit_work(void *opaque, const struct disk_progress *progress, struct err *e)
{
    const struct commit_job *job = opaque;

    return disk_commit(job->config, job->keep, progress, e);
}

int cli_cmd_disk_commit(const struct cli_args *args)
{
    struct disk_args a = { 0 };
    struct err e = { 0 };
    struct commit_job job = { &a.config, cli_value(args, "keep") != NULL };
    int code = disk_args_open(args, 0, "FILE", "format", &a, &e) < 0
                   ? cli_fail(&e)
                   : disk_args_long(args, "commit", commit_work, &job, &e);

    disk_args_done(&a);
    return code;
}

static int rebase_work(void *opaque, const struct disk_progress *progress, struct err *e)
{
    return disk_rebase(opaque, progress, e);
}

int cli_cmd_disk_rebase(const struct cli_args *args)
{
    const char *backing = cli_value(args, "backing");
    char *path = NULL, *format = NULL;
    struct disk_args a = { 0 };
    struct disk_rebase_config job = { 0 };
    struct err e = { 0 };
    int r = disk_args_open(args, 0, "FILE", "format", &a, &e), code;

    if (r >= 0 && backing)
        r = disk_args_backing("backing", backing, &path, &format, &e);
    job.image = a.config;
    job.backing = path;
    job.backing_format = format;
    job.unsafe = cli_value(args, "unsafe") != NULL;
    code = r < 0 ? cli_fail(&e) : disk_args_long(args, "rebase", rebase_work, &job, &e);
    free(path);
    free(format);
    disk_args_done(&a);
    return code;
}

/* ---- compare ---- */

struct compare_job {
    struct blk_open_config a, b;
    bool strict;
    struct disk_difference difference;
};

static int compare_work(void *opaque, const struct disk_progress *progress, struct err *e)
{
    struct compare_job *job = opaque;

    return disk_compare(&job->a, &job->b, job->strict, progress, &job->difference, e);
}

static void compare_print(const struct cli_args *args, const struct disk_difference *d)
{
    json_object *array, *o;

    if (!cli_value(args, "json")) {
        if (d->same)
            printf("identical\n");
        else
            printf("different: %s, from byte %llu on\n", d->what, (unsigned long long)d->offset);
        return;
    }
    array = json_object_new_array();
    o = json_object_new_object();
    json_object_object_add(o, "identical", json_object_new_boolean(d->same));
    if (!d->same) {
        json_object_object_add(o, "difference", json_object_new_string(d->what));
        json_object_object_add(o, "offset", json_object_new_uint64(d->offset));
    }
    json_object_array_add(array, o);
    disk_args_print_json(array);
}

int cli_cmd_disk_compare(const struct cli_args *args)
{
    struct disk_args a = { 0 }, b = { 0 };
    struct compare_job job = { .strict = cli_value(args, "strict") != NULL };
    struct err e = { 0 };
    int r = disk_args_open(args, 0, "FILE1", "format", &a, &e), code;

    if (r >= 0)
        r = disk_args_operand(args, 1, "FILE2", &b.config.path, &e);
    job.a = job.b = a.config;
    job.b.path = b.config.path;
    job.b.format = cli_value(args, "other-format");
    code = r < 0 ? cli_fail(&e) : disk_args_long(args, "compare", compare_work, &job, &e);
    disk_args_done(&a);
    if (code != EXIT_CODE_OK)
        return code;
    compare_print(args, &job.difference);
    return job.difference.same ? EXIT_CODE_OK : EXIT_CODE_FAILED;
}
