/* caisson image build: from a Containerfile, or from Debian packages. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "cli/image.h"
#include "cli/registry.h"
#include "image/build.h"
#include "image/build_debian.h"
#include "instance/spawn.h"
#include "proto/exit_code.h"

struct build_job {
    const struct cli_args *args;
    struct image_build config;
    struct image_debian debian; /* suite set: this instead */
    struct inst_strings names, build_args, labels;
    char runtime[INST_PROGRAM_MAX], agent[INST_PROGRAM_MAX];
    char id[IMAGE_DIGEST_MAX];
};

static void build_told(void *opaque, const char *line)
{
    (void)opaque;
    fprintf(stderr, "%s\n", line);
}

/* --build-arg NAME takes the value from our environment, as others do. */
static int build_add_arg(struct inst_strings *list, const char *text)
{
    const char *value = strchr(text, '=') ? NULL : getenv(text);
    AUTO_FREE char *pair = NULL;

    if (strchr(text, '='))
        return inst_strings_add(list, text);
    if (!value)
        return 0;
    if (asprintf(&pair, "%s=%s", text, value) < 0) {
        pair = NULL;
        return -ENOMEM;
    }
    return inst_strings_add(list, pair);
}

static int build_lists(struct build_job *job, struct err *e)
{
    const struct cli_args *args = job->args;
    int r = 0;

    for (size_t i = 0; i < args->n_given && r == 0; i++) {
        const struct cli_given *g = &args->given[i];

        if (strcmp(g->option->name, "name") == 0)
            r = inst_strings_add(&job->names, g->value);
        else if (strcmp(g->option->name, "build-arg") == 0)
            r = build_add_arg(&job->build_args, g->value);
        else if (strcmp(g->option->name, "label") == 0)
            r = inst_strings_add(&job->labels, g->value);
    }
    return r < 0 ? err_set(e, ENOMEM, "out of memory") : 0;
}

static int build_debian_options(struct build_job *job, struct err *e)
{
    const char *disk = cli_value(job->args, "disk");

    job->debian.suite = cli_value(job->args, "debian");
    job->debian.packages = cli_value(job->args, "packages");
    job->debian.mirror = cli_value(job->args, "mirror");
    job->debian.cloud_init = cli_value(job->args, "with-cloud-init") != NULL;
    job->debian.agent = disk ? job->agent : NULL;
    job->debian.names = &job->names;
    job->debian.quiet = job->config.quiet;
    job->debian.told = job->config.told;
    if (disk && num_parse_size(disk, &job->debian.disk_bytes) < 0)
        return err_set(e, EINVAL, "--disk %s: not a size; use one such as 10G", disk);
    if (!job->debian.suite && (disk || job->debian.packages || job->debian.mirror || job->debian.cloud_init))
        return err_set(e, EINVAL, "--disk, --packages, --mirror and --with-cloud-init need --debian SUITE");
    return 0;
}

static int build_options(struct build_job *job, struct err *e)
{
    const struct cli_args *args = job->args;
    const char *pull = cli_value(args, "pull"), *network = cli_value(args, "network");
    struct image_build *c = &job->config;

    c->context = args->n_operands > 0 ? args->operands[0] : ".";
    c->file = cli_value(args, "file");
    c->target = cli_value(args, "target");
    c->platform = cli_value(args, "platform");
    c->no_cache = cli_value(args, "no-cache") != NULL;
    c->quiet = cli_value(args, "quiet") != NULL;
    c->told = c->quiet ? NULL : build_told;
    c->pull = IMAGE_PULL_MISSING;
    c->names = &job->names;
    c->args = &job->build_args;
    c->labels = &job->labels;
    c->runtime = job->runtime;
    if (pull && image_pull_policy_parse(pull, &c->pull) < 0)
        return err_set(e, EINVAL, "--pull %s: use always, missing, newer or never", pull);
    if (network && strcmp(network, "host") != 0 && strcmp(network, "none") != 0)
        return err_set(e, EINVAL, "--network %s: use host or none", network);
    c->network_none = network && strcmp(network, "none") == 0;
    return cli_registry_config(args, &c->registry, e);
}

static int build_work(void *opaque, const struct disk_progress *progress, struct err *e)
{
    struct build_job *job = opaque;
    AUTO(store) struct store *store = NULL;
    int r = store_open(STORE_WRITE, &store, e);

    if (r < 0)
        return r;
    job->config.registry.step = progress->step;
    job->config.registry.opaque = progress->opaque;
    job->debian.step = progress->step;
    job->debian.opaque = progress->opaque;
    return job->debian.suite ? image_build_debian(store, &job->debian, job->id, e)
                             : image_build(store, &job->config, job->id, e);
}

int cli_cmd_image_build(const struct cli_args *args)
{
    struct build_job *job = calloc(1, sizeof(*job));
    struct err e = { 0 };
    int r = job ? 0 : err_set(&e, ENOMEM, "out of memory"), code;

    if (r == 0) {
        job->args = args;
        r = build_options(job, &e);
    }
    if (r == 0)
        r = build_lists(job, &e);
    if (r == 0)
        r = build_debian_options(job, &e);
    if (r == 0)
        r = inst_find_program("caisson-oci", job->runtime, &e);
    if (r == 0 && job->debian.disk_bytes)
        r = inst_find_program("caisson-agent", job->agent, &e);
    code = r < 0 ? cli_fail(&e) : cli_image_long(args, "build", build_work, job);
    if (code == EXIT_CODE_OK)
        printf("%s\n", job->id);
    if (job) {
        inst_strings_done(&job->names);
        inst_strings_done(&job->build_args);
        inst_strings_done(&job->labels);
    }
    free(job);
    return code;
}
