#include "cli/instance.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "instance/client.h"
#include "instance/container_snapshot.h"
#include "instance/lifecycle.h"
#include "instance/place.h"
#include "instance/snapshot.h"
#include "proto/exit_code.h"
#include "proto/json.h"

static void inst_warn(void *opaque, const char *text)
{
    (void)opaque;
    fprintf(stderr, "caisson: warning: %s\n", text);
}

/* A commit paused it, and died. */
static int inst_undo_commit(struct store *s, const struct store_job *job)
{
    AUTO_FREE struct store_instance *i = malloc(sizeof(*i));
    struct inst_info info = { 0 };
    struct err ignored = { 0 };

    if (!i)
        return -ENOMEM;
    if (store_instance_get(s, job->object, i, &ignored) < 0)
        return 0; /* removed */
    inst_look(i, &info);
    if (info.alive && strcmp(info.status, "paused") == 0)
        (void)!inst_container_snapshot_resume(i, &ignored);
    store_instance_done(i);
    return 0;
}

/* What killed processes left of work in several steps. That it has to wait for the end of a VM is no error. */
static int inst_undo(void *opaque, struct store *s, const struct store_job *job, struct err *e)
{
    struct err why = { 0 };
    int r;

    (void)opaque;
    if (strcmp(job->verb, CLI_JOB_COMMIT) == 0)
        return inst_undo_commit(s, job);
    r = inst_snapshot_undo(s, job, &why);
    if (r == 1 || (r == -EBUSY && why.code == 0))
        return -EBUSY; /* not ours, or not yet: the job stays */
    if (r < 0) {
        inst_warn(NULL, why.text);
        return err_set(e, -r, "%s", why.text);
    }
    return 0;
}

int cli_inst_open(enum store_access access, struct store **ret_store, struct err *e)
{
    AUTO(store) struct store *store = NULL;
    struct err ignored = { 0 };
    int r = store_open(access, &store, e);

    if (r == 0)
        r = inst_repair(store, inst_warn, NULL, e);
    if (r == 0)
        (void)!store_job_repair(store, inst_undo, NULL, &ignored); /* each was told */
    if (r == 0)
        *ret_store = STEAL(store);
    return r;
}

static int inst_none(const char *verb, struct err *e)
{
    return err_set(e, EINVAL, "no VM or container named; give the name of one to %s, see 'caisson ls'", verb);
}

int cli_inst_one(const struct cli_args *args, int index, struct store **ret_store, struct store_instance *ret_instance,
                 struct err *e)
{
    AUTO(store) struct store *store = NULL;
    int r = args->n_operands > index ? cli_inst_open(STORE_READ, &store, e) : inst_none("this command", e);

    if (r == 0)
        r = store_instance_get(store, args->operands[index], ret_instance, e);
    if (r == 0)
        *ret_store = STEAL(store);
    return r;
}

/* ---- several ---- */

struct inst_list {
    char (*ids)[INST_ID_LEN + 1];
    size_t n;
    const struct cli_inst_verb *verb;
};

static int inst_list_add(struct inst_list *list, const char *id)
{
    void *grown = realloc(list->ids, (list->n + 1) * sizeof(*list->ids));

    if (!grown)
        return -ENOMEM;
    list->ids = grown;
    memcpy(list->ids[list->n++], id, sizeof(*list->ids));
    return 0;
}

static int inst_collect(void *opaque, const struct store_instance *i)
{
    struct inst_list *list = opaque;
    struct inst_info info = { 0 };

    inst_look(i, &info);
    return list->verb->wants && !list->verb->wants(i, &info) ? 0 : inst_list_add(list, i->id);
}

/* Whether one of --all is gone by now, or not one that the verb is for any more. */
static bool inst_is_out(const struct cli_inst_verb *v, struct store *s, const char *id)
{
    AUTO_FREE struct store_instance *now = malloc(sizeof(*now));
    struct err ignored = { 0 };
    struct inst_info info = { 0 };
    bool out;
    int r = now ? store_instance_get(s, id, now, &ignored) : -ENOMEM;

    if (r < 0)
        return r == -ENOENT;
    inst_look(now, &info);
    out = v->wants && !v->wants(now, &info);
    store_instance_done(now);
    return out;
}

static int inst_do_one(const struct cli_inst_verb *v, struct store *s, const char *name, bool all, bool ignore)
{
    AUTO_FREE struct store_instance *i = malloc(sizeof(*i));
    struct err e = { 0 };
    char shown[PROTO_NAME_MAX + 1];
    int r = i ? store_instance_get(s, name, i, &e) : err_set(&e, ENOMEM, "out of memory");

    if (r == -ENOENT && ignore)
        return EXIT_CODE_OK;
    if (r == 0) {
        snprintf(shown, sizeof(shown), "%s", i->name);
        r = v->fn(v->opaque, s, i, &e);
        store_instance_done(i);
        if (r == 0)
            printf("%s\n", shown);
    }
    return r < 0 && !(all && inst_is_out(v, s, name)) ? cli_fail(&e) : EXIT_CODE_OK;
}

int cli_inst_each(const struct cli_args *args, const struct cli_inst_verb *v)
{
    struct inst_list list = { .verb = v };
    AUTO(store) struct store *store = NULL;
    bool all = cli_value(args, "all") != NULL, ignore = cli_value(args, "ignore") != NULL;
    struct err e = { 0 };
    int code = EXIT_CODE_OK, r = 0;

    if (args->n_operands == 0 && !all)
        r = inst_none(v->verb, &e);
    else if (args->n_operands > 0 && all)
        r = err_set(&e, EINVAL, "--all is given with names; give one or the other");
    if (r == 0)
        r = cli_inst_open(STORE_READ, &store, &e);
    if (r == 0 && all)
        r = store_instance_each(store, inst_collect, &list, &e);
    if (r == -ENOMEM)
        err_set(&e, ENOMEM, "out of memory");
    if (r < 0)
        code = cli_fail(&e);
    for (size_t n = 0; r == 0 && n < (all ? list.n : (size_t)args->n_operands); n++) {
        int failed = inst_do_one(v, store, all ? list.ids[n] : args->operands[n], all, ignore);

        code = code == EXIT_CODE_OK ? failed : code;
        fflush(stdout);
    }
    free(list.ids);
    return code;
}

/* ---- as JSON ---- */

static json_object *inst_time(int64_t ns)
{
    return ns ? proto_json_time(ns) : NULL;
}

static json_object *inst_text(const char *text)
{
    return text && text[0] ? json_object_new_string(text) : NULL;
}

/* The command of a container in one line; NULL for a VM. */
static json_object *inst_command(const struct store_instance *i)
{
    const struct inst_strings *args = &i->spec.container.args;
    char text[256] = "";
    size_t len = 0;

    if (i->spec.kind != INST_CONTAINER)
        return NULL;
    for (size_t n = 0; n < args->n && len < sizeof(text); n++)
        len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%s", n ? " " : "", args->at[n]);
    return json_object_new_string(text);
}

static void inst_state(json_object *o, const struct store_instance *i, const struct inst_info *info)
{
    char text[48];

    snprintf(text, sizeof(text), "%s", inst_status(i, info));
    json_object_object_add(o, "state", json_object_new_string(text));
    if (!info->alive && i->status == STORE_INST_EXITED)
        snprintf(text, sizeof(text), "exited (%d)", i->exit_code);
    else if (info->alive && info->health[0] && strcmp(info->health, "none") != 0)
        snprintf(text, sizeof(text), "%s (%s)", inst_status(i, info), info->health);
    json_object_object_add(o, "status", json_object_new_string(text));
    json_object_object_add(o, "exit_code",
                           !info->alive && i->status == STORE_INST_EXITED ? json_object_new_int(i->exit_code) : NULL);
    json_object_object_add(o, "ready", json_object_new_boolean(info->ready));
    json_object_object_add(o, "health", inst_text(info->health));
    json_object_object_add(o, "pid", info->pid ? json_object_new_int(info->pid) : NULL);
}

json_object *cli_inst_row(const struct store_instance *i, const struct inst_info *info, bool whole)
{
    json_object *o = json_object_new_object(), *spec;
    char dir[INST_PATH_MAX];

    json_object_object_add(o, "name", json_object_new_string(i->name));
    json_object_object_add(o, "id", json_object_new_string(i->id));
    json_object_object_add(o, "type", json_object_new_string(inst_kind_name(i->spec.kind)));
    inst_state(o, i, info);
    json_object_object_add(o, "image", inst_text(i->spec.image_name ? i->spec.image_name : i->spec.image_id));
    json_object_object_add(o, "command", inst_command(i));
    json_object_object_add(o, "created", inst_time(i->created_ns));
    json_object_object_add(o, "started", inst_time(i->started_ns));
    json_object_object_add(o, "ended", info->alive ? NULL : inst_time(i->ended_ns));
    json_object_object_add(o, "restarts", json_object_new_int64(info->alive ? info->restarts : i->restarts));
    json_object_object_add(o, "restart", json_object_new_string(inst_restart_name(i->spec.restart)));
    json_object_object_add(o, "wanted", json_object_new_boolean(i->wanted));
    json_object_object_add(o, "error", inst_text(i->error));
    if (!whole)
        return o;
    json_object_object_add(o, "oom_killed", json_object_new_boolean(i->oom_killed));
    json_object_object_add(o, "supervisor_pid", info->alive ? json_object_new_int(info->shim_pid) : NULL);
    json_object_object_add(o, "directory", inst_dir(i->id, dir, NULL) == 0 ? json_object_new_string(dir) : NULL);
    spec = inst_spec_to_object(&i->spec);
    if (!spec) {
        json_object_put(o);
        return NULL;
    }
    json_object_object_add(o, "spec", spec);
    return o;
}
