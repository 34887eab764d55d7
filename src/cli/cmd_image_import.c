/* caisson image import. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/image.h"
#include "cli/progress.h"
#include "cli/table.h"
#include "image/import.h"
#include "proto/exit_code.h"

struct import_job {
    const struct cli_args *args;
    struct image_import import;
    json_object *rows;
};

static void import_told(void *opaque, const struct image *i)
{
    struct import_job *job = opaque;

    json_object_array_add(job->rows, cli_image_row(i));
    if (!cli_value(job->args, "json"))
        printf("%s\n", i->id);
}

static int import_work(void *opaque, const struct disk_progress *progress, struct err *e)
{
    struct import_job *job = opaque;
    AUTO(store) struct store *store = NULL;
    int r = store_open(STORE_WRITE, &store, e);

    job->import.progress = progress;
    return r < 0 ? r : image_import(store, &job->import, import_told, job, e);
}

int cli_cmd_image_import(const struct cli_args *args)
{
    struct import_job job = { .args = args, .rows = json_object_new_array() };
    struct err e = { 0 };
    int code;

    job.import.name = cli_value(args, "name");
    job.import.platform = cli_value(args, "platform");
    job.import.rootfs = cli_value(args, "rootfs") != NULL;
    if (args->n_operands == 0) {
        err_set(&e, EINVAL, "nothing to import named; give a file, a folder or -");
        code = cli_fail(&e);
    } else {
        job.import.path = args->operands[0];
        code = cli_image_long(args, "import", import_work, &job);
    }
    if (code == EXIT_CODE_OK && cli_value(args, "json") && cli_json_print(job.rows, stdout, &e) < 0)
        code = cli_fail(&e);
    json_object_put(job.rows);
    return code;
}
