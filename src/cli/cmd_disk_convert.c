/* caisson disk convert. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/num.h"
#include "cli/disk_args.h"
#include "proto/exit_code.h"

struct convert_job {
    struct disk_convert_config config;
    struct disk_convert_report report;
};

static int convert_work(void *opaque, const struct disk_progress *progress, struct err *e)
{
    struct convert_job *job = opaque;

    return disk_convert(&job->config, progress, &job->report, e);
}

static int convert_numbers(const struct cli_args *args, struct disk_convert_config *c, struct err *e)
{
    const char *threads = cli_value(args, "threads");
    uint64_t n = 0;
    int r;

    c->sparse = DISK_SPARSE_DEFAULT;
    r = disk_args_size(args, "sparse", &c->sparse, e);
    if (r >= 0 && threads && num_parse_u64(threads, 1, 16, &n) < 0)
        r = err_set(e, EINVAL, "--threads %s: not possible; use a number from 1 to 16", threads);
    c->threads = (unsigned)n;
    return r;
}

static void convert_print(const struct convert_job *job)
{
    json_object *array = json_object_new_array(), *o = json_object_new_object();

    json_object_object_add(o, "source", json_object_new_string(job->config.source.path));
    json_object_object_add(o, "target", json_object_new_string(job->config.target.path));
    json_object_object_add(o, "format", json_object_new_string(job->config.target.format));
    json_object_object_add(o, "virtual_size", json_object_new_uint64(job->report.virtual_size));
    json_object_object_add(o, "copied_bytes", json_object_new_uint64(job->report.written));
    json_object_object_add(o, "cloned", json_object_new_boolean(job->report.cloned));
    json_object_array_add(array, o);
    disk_args_print_json(array);
}

int cli_cmd_disk_convert(const struct cli_args *args)
{
    struct disk_args source = { 0 };
    struct disk_args_target target = { 0 };
    struct convert_job job = { 0 };
    const char *path = NULL;
    struct err e = { 0 };
    int r = disk_args_open(args, 0, "SOURCE", "source-format", &source, &e), code;

    if (r >= 0)
        r = disk_args_operand(args, 1, "TARGET", &path, &e);
    if (r >= 0)
        r = disk_args_target(args, path, "target-secret", &target, &e);
    if (r >= 0)
        r = convert_numbers(args, &job.config, &e);
    job.config.source = source.config;
    job.config.target = target.config;
    job.config.snapshot = cli_value(args, "snapshot");
    job.config.no_sync = cli_value(args, "no-sync") != NULL;
    job.config.compress = cli_value(args, "compress") != NULL;
    code = r < 0 ? cli_fail(&e) : disk_args_long(args, "convert", convert_work, &job, &e);
    if (code == EXIT_CODE_OK && cli_value(args, "json"))
        convert_print(&job);
    disk_args_target_done(&target);
    disk_args_done(&source);
    return code;
}
