/* caisson image pull and push. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/num.h"
#include "cli/image.h"
#include "cli/registry.h"
#include "cli/table.h"
#include "image/registry_pull.h"
#include "proto/exit_code.h"

int cli_registry_config(const struct cli_args *args, struct registry_config *c, struct err *e)
{
    const char *verify = cli_value(args, "tls-verify"), *timeout = cli_value(args, "timeout");
    uint64_t seconds = 0;

    if (verify && strcmp(verify, "true") != 0 && strcmp(verify, "false") != 0)
        return err_set(e, EINVAL, "--tls-verify %s: use true or false", verify);
    if (timeout && num_parse_u64(timeout, 1, 86400, &seconds) < 0)
        return err_set(e, EINVAL, "--timeout %s: use a number of seconds from 1 to 86400", timeout);
    c->insecure = verify && strcmp(verify, "false") == 0;
    c->cert_dir = cli_value(args, "cert-dir");
    c->timeout_s = (unsigned)seconds;
    return 0;
}

/* ---- pull ---- */

struct pull_job {
    struct image_pull_config config;
    struct image_pull_result result;
};

static int pull_work(void *opaque, const struct disk_progress *progress, struct err *e)
{
    struct pull_job *job = opaque;
    AUTO(store) struct store *store = NULL;
    int r = store_open(STORE_WRITE, &store, e);

    job->config.registry.step = progress->step;
    job->config.registry.opaque = progress->opaque;
    return r < 0 ? r : image_pull(store, &job->config, &job->result, e);
}

static int pull_options(const struct cli_args *args, struct image_pull_config *c, struct err *e)
{
    const char *policy = cli_value(args, "policy");

    if (args->n_operands == 0)
        return err_set(e, EINVAL, "nothing to pull named; give an image, such as debian:12");
    if (policy && image_pull_policy_parse(policy, &c->policy) < 0)
        return err_set(e, EINVAL, "--policy %s: use always, missing, newer or never", policy);
    c->platform = cli_value(args, "platform");
    return cli_registry_config(args, &c->registry, e);
}

static void pull_print(const struct cli_args *args, const struct pull_job *job, json_object *rows)
{
    json_object *o = json_object_new_object();

    if (!cli_value(args, "json")) {
        printf("%s\n", job->result.id);
        if (!cli_value(args, "quiet") && !job->result.pulled)
            fprintf(stderr, "%s is up to date\n", job->result.name);
    }
    json_object_object_add(o, "id", json_object_new_string(job->result.id));
    json_object_object_add(o, "name", json_object_new_string(job->result.name));
    json_object_object_add(o, "digest", json_object_new_string(job->result.manifest));
    json_object_object_add(o, "pulled", json_object_new_boolean(job->result.pulled));
    json_object_object_add(o, "fetched_bytes", json_object_new_uint64(job->result.bytes));
    json_object_array_add(rows, o);
}

int cli_cmd_image_pull(const struct cli_args *args)
{
    struct pull_job job = { 0 };
    json_object *rows = json_object_new_array();
    struct err e = { 0 };
    int code = pull_options(args, &job.config, &e) < 0 ? cli_fail(&e) : EXIT_CODE_OK;

    for (int i = 0; i < args->n_operands && code == EXIT_CODE_OK; i++) {
        job.config.name = args->operands[i];
        memset(&job.result, 0, sizeof(job.result));
        code = cli_image_long(args, "pull", pull_work, &job);
        if (code == EXIT_CODE_OK)
            pull_print(args, &job, rows);
    }
    if (code == EXIT_CODE_OK && cli_value(args, "json") && cli_json_print(rows, stdout, &e) < 0)
        code = cli_fail(&e);
    json_object_put(rows);
    return code;
}

/* ---- push ---- */

struct push_job {
    struct image_push_config config;
    char digest[IMAGE_DIGEST_MAX];
};

static int push_work(void *opaque, const struct disk_progress *progress, struct err *e)
{
    struct push_job *job = opaque;
    AUTO(store) struct store *store = NULL;
    int r = store_open(STORE_WRITE, &store, e);

    job->config.registry.step = progress->step;
    job->config.registry.opaque = progress->opaque;
    return r < 0 ? r : image_push(store, &job->config, job->digest, e);
}

int cli_cmd_image_push(const struct cli_args *args)
{
    struct push_job job = { 0 };
    struct err e = { 0 };
    int code = EXIT_CODE_OK;

    if (args->n_operands == 0) {
        err_set(&e, EINVAL, "no image named; give one of 'caisson image ls', and where to push it");
        return cli_fail(&e);
    }
    job.config.image = args->operands[0];
    job.config.destination = args->n_operands > 1 ? args->operands[1] : NULL;
    if (cli_registry_config(args, &job.config.registry, &e) < 0)
        return cli_fail(&e);
    code = cli_image_long(args, "push", push_work, &job);
    if (code == EXIT_CODE_OK)
        printf("%s\n", job.digest);
    return code;
}
