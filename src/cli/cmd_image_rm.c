/* caisson image rm. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/image.h"
#include "cli/table.h"
#include "proto/exit_code.h"
#include "store/instance.h"

struct rm_job {
    const struct cli_args *args;
    json_object *rows;
};

static void rm_told(void *opaque, const char *what, bool deleted)
{
    struct rm_job *job = opaque;
    json_object *o = json_object_new_object();

    json_object_object_add(o, deleted ? "deleted" : "untagged", json_object_new_string(what));
    json_object_array_add(job->rows, o);
    if (!cli_value(job->args, "json"))
        printf("%s %s\n", deleted ? "deleted" : "untagged", what);
}

struct rm_user {
    const char *id;
    char *user;
};

static int rm_find_user(void *opaque, const struct store_instance *i)
{
    const struct rm_user *find = opaque;

    if (!i->spec.image_id || strcmp(i->spec.image_id, find->id) != 0)
        return 0;
    snprintf(find->user, 128, "%s %s", inst_kind_name(i->spec.kind), i->name);
    return 1;
}

int cli_image_user(void *opaque, struct store *s, const char *id, char ret_user[128], struct err *e)
{
    struct rm_user find = { .id = id, .user = ret_user };

    (void)opaque;
    return store_instance_each(s, rm_find_user, &find, e);
}

int cli_cmd_image_rm(const struct cli_args *args)
{
    AUTO(store) struct store *store = NULL;
    struct rm_job job = { .args = args, .rows = json_object_new_array() };
    const struct image_rm rm = {
        .force = cli_value(args, "force") != NULL, .user = cli_image_user, .told = rm_told, .opaque = &job
    };
    struct err e = { 0 };
    int r = 0, code = EXIT_CODE_OK;

    if (args->n_operands == 0)
        r = err_set(&e, EINVAL, "no image named; give the name or id of one, see 'caisson image ls'");
    if (r == 0)
        r = store_open(STORE_WRITE, &store, &e);
    if (r < 0)
        code = cli_fail(&e);
    for (int i = 0; r == 0 && i < args->n_operands; i++) {
        if (image_rm(store, args->operands[i], &rm, &e) < 0) {
            int failed = cli_fail(&e);

            code = code == EXIT_CODE_OK ? failed : code; /* the others are removed all the same */
        }
    }
    if (r == 0 && cli_value(args, "json") && cli_json_print(job.rows, stdout, &e) < 0)
        code = cli_fail(&e);
    json_object_put(job.rows);
    return code;
}
