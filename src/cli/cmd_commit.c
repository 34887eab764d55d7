/* caisson commit: an image of what a container changed. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "cli/image.h"
#include "cli/instance.h"
#include "cli/table.h"
#include "image/commit.h"
#include "instance/client.h"
#include "instance/place.h"
#include "proto/exit_code.h"
#include "store/instance.h"
#include "store/job.h"

struct commit_job {
    const struct cli_args *args;
    struct image_commit commit;
    const char *changes[CLI_OCCURRENCES_MAX];
    struct image image;
};

static int commit_pause(const struct store_instance *i, bool pause, struct err *e)
{
    const struct shim_msg_request request = { .op = pause ? SHIM_MSG_PAUSE : SHIM_MSG_RESUME };

    return inst_call(i, &request, INST_CALL_MS, NULL, e);
}

/* The container stands still while its files are read: paused, or locked so that nobody starts it. */
static int commit_still(struct commit_job *job, struct store *store, const struct store_instance *i, struct err *e)
{
    struct inst_info info = { 0 };
    struct store_job_lock *lock = NULL;
    struct err ignored = { 0 };
    bool pause;
    int r = inst_ask(i, &info, e);

    if (r < 0)
        return r;
    if (!info.alive) {
        struct sys_place place = { .lock = -1, .socket = -1 };

        r = inst_lock(i->id, &place, e);
        if (r == 0)
            r = image_commit(store, &job->commit, &job->image, e);
        else if (r == -EBUSY)
            r = err_set(e, EBUSY, "container %s was started just now; try again", i->name);
        sys_place_leave(&place);
        return r;
    }
    pause = !cli_value(job->args, "no-pause") && strcmp(info.status, "running") == 0;
    if (pause) /* whoever finds the job of a dead process lets the container go on */
        r = store_job_begin(store, CLI_JOB_COMMIT, i->id, "{}", &lock, e);
    if (r == 0 && pause)
        r = commit_pause(i, true, e);
    if (r == 0)
        r = image_commit(store, &job->commit, &job->image, e);
    if (pause && commit_pause(i, false, r < 0 ? &ignored : e) < 0 && r == 0)
        r = -e->code;
    if (store_job_end(store, lock, r < 0 ? &ignored : e) < 0 && r == 0)
        r = -e->code;
    return r;
}

static int commit_instance(struct commit_job *job, struct store *store, const char *name, struct err *e)
{
    struct store_instance i = { 0 };
    char dir[INST_PATH_MAX], upper[INST_PATH_MAX + 8];
    int r = store_instance_get(store, name, &i, e);

    if (r == 0 && i.spec.kind != INST_CONTAINER)
        r = err_set(e, EPROTOTYPE, "%s is a VM; 'caisson snapshot create' keeps its state", i.name);
    if (r == 0)
        r = inst_dir(i.id, dir, e);
    if (r == 0) {
        snprintf(upper, sizeof(upper), "%s/upper", dir);
        if (mkdir(upper, 0755) < 0 && errno != EEXIST) /* it is not there before the first start */
            r = err_set(e, errno, "%s: %s", upper, strerror(errno));
    }
    if (r == 0) {
        job->commit.base = i.spec.image_id;
        job->commit.folder = upper;
        r = commit_still(job, store, &i, e);
    }
    store_instance_done(&i);
    return r;
}

static int commit_work(void *opaque, const struct disk_progress *progress, struct err *e)
{
    struct commit_job *job = opaque;
    AUTO(store) struct store *store = NULL;
    int r = cli_inst_open(STORE_WRITE, &store, e);

    job->commit.progress = progress;
    return r < 0 ? r : commit_instance(job, store, job->args->operands[0], e);
}

static int commit_options(struct commit_job *job, struct err *e)
{
    static const char *const names[] = { "gzip", "zstd", "none" };
    const struct cli_args *args = job->args;
    const char *compress = cli_value(args, "compression");
    size_t k = 0;

    if (args->n_operands == 0)
        return err_set(e, EINVAL, "no container named; give the name or id of one, see 'caisson ls'");
    job->commit.name = args->n_operands > 1 ? args->operands[1] : NULL;
    job->commit.author = cli_value(args, "author");
    job->commit.message = cli_value(args, "message");
    for (; compress && k < ARRAY_SIZE(names) && strcmp(compress, names[k]) != 0; k++)
        ;
    if (k == ARRAY_SIZE(names))
        return err_set(e, EINVAL, "--compression %s: unknown; use gzip, zstd or none", compress);
    job->commit.compress = (enum image_compress)k;
    for (size_t i = 0; i < args->n_given; i++) {
        if (strcmp(args->given[i].option->name, "change") == 0)
            job->changes[job->commit.n_changes++] = args->given[i].value;
    }
    job->commit.changes = job->changes;
    return 0;
}

int cli_cmd_commit(const struct cli_args *args)
{
    struct commit_job job = { .args = args };
    json_object *row;
    struct err e = { 0 };
    int code;

    if (commit_options(&job, &e) < 0)
        return cli_fail(&e);
    code = cli_image_long(args, "commit", commit_work, &job);
    if (code == EXIT_CODE_OK && !cli_value(args, "json")) {
        printf("%s\n", job.image.id);
    } else if (code == EXIT_CODE_OK) {
        row = cli_image_row(&job.image);
        if (cli_json_print(row, stdout, &e) < 0)
            code = cli_fail(&e);
        json_object_put(row);
    }
    image_done(&job.image);
    return code;
}
