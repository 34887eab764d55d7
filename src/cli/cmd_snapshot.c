/* caisson snapshot create, ls, inspect, restore and rm. */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/cancel.h"
#include "cli/command.h"
#include "cli/instance.h"
#include "cli/progress.h"
#include "cli/table.h"
#include "instance/snapshot.h"
#include "proto/exit_code.h"
#include "proto/json.h"

static const struct cli_column snapshot_columns[] = {
    { "INSTANCE", "instance", false, false, CLI_CELL_PLAIN }, { "NAME", "name", false, false, CLI_CELL_PLAIN },
    { "CREATED", "created", false, false, CLI_CELL_AGO },     { "MEMORY", "memory_bytes", true, false, CLI_CELL_BYTES },
    { "ID", "instance_id", false, true, CLI_CELL_ID },        { "TAG", "tag", false, true, CLI_CELL_PLAIN },
};
static const struct cli_table snapshot_table = {
    .columns = snapshot_columns,
    .n_columns = ARRAY_SIZE(snapshot_columns),
    .id = "name",
};

/* The operand that names a snapshot. */
static int snapshot_operand(const struct cli_args *args, const char **ret_name, struct err *e)
{
    if (args->n_operands < 2)
        return err_set(e, EINVAL, "no snapshot named; give the VM and the snapshot, see 'caisson snapshot ls'");
    *ret_name = args->operands[1];
    return 0;
}

/* ---- create ---- */

static int snapshot_create(const struct cli_args *args, struct cli_cancel *cancel, struct err *e)
{
    AUTO_FREE struct store_instance *i = calloc(1, sizeof(*i));
    AUTO_FREE struct store_snapshot *made = calloc(1, sizeof(*made));
    AUTO(store) struct store *store = NULL;
    struct cli_progress bar;
    const struct disk_progress progress = { cli_progress_step, &bar };
    int r = i && made ? cli_progress_begin(&bar, args, "snapshot", cancel, e) : err_set(e, ENOMEM, "out of memory");

    if (r < 0)
        return r;
    r = cli_inst_one(args, 0, &store, i, e);
    if (r == 0)
        r = inst_snapshot_create(store, i, args->n_operands > 1 ? args->operands[1] : "", false, &progress, made, e);
    cli_progress_end(&bar, r == 0);
    if (r == 0)
        printf("%s\n", made->name);
    store_snapshot_done(made);
    store_instance_done(i);
    return r;
}

int cli_cmd_snapshot_create(const struct cli_args *args)
{
    struct cli_cancel cancel;
    struct err e = { 0 };
    int r = cli_cancel_begin(&cancel, &e);

    if (r < 0)
        return cli_fail(&e);
    r = snapshot_create(args, &cancel, &e);
    return cli_cancel_end(&cancel, r < 0 ? cli_fail(&e) : EXIT_CODE_OK);
}

/* ---- ls and inspect ---- */

struct snapshot_rows {
    json_object *rows;
    const char *instance_name;
    bool whole;
};

static json_object *snapshot_row(const struct store_snapshot *x, const char *instance_name, bool whole)
{
    json_object *o = json_object_new_object();

    if (!o)
        return NULL;
    json_object_object_add(o, "instance", json_object_new_string(instance_name));
    json_object_object_add(o, "instance_id", json_object_new_string(x->instance));
    json_object_object_add(o, "name", json_object_new_string(x->name));
    json_object_object_add(o, "created", proto_json_time(x->created_ns));
    json_object_object_add(o, "memory", json_object_new_boolean(x->has_memory));
    json_object_object_add(o, "memory_bytes", x->has_memory ? json_object_new_uint64(x->memory_bytes) : NULL);
    json_object_object_add(o, "tag", json_object_new_string(x->tag));
    if (whole)
        json_object_object_add(o, "spec", inst_spec_to_object(&x->spec));
    return o;
}

static int snapshot_add_row(void *opaque, const struct store_snapshot *x)
{
    struct snapshot_rows *list = opaque;
    json_object *row = snapshot_row(x, list->instance_name, list->whole);

    if (row && json_object_array_add(list->rows, row) == 0)
        return 0;
    json_object_put(row);
    return -ENOMEM;
}

/* The names of all instances, collected first: a walk must not use the store. */
struct snapshot_instances {
    char (*ids)[INST_ID_LEN + 1];
    char (*names)[PROTO_NAME_MAX + 1];
    size_t n;
};

static int snapshot_collect(void *opaque, const struct store_instance *i)
{
    struct snapshot_instances *list = opaque;
    void *ids = realloc(list->ids, (list->n + 1) * sizeof(*list->ids)), *names;

    if (!ids)
        return -ENOMEM;
    list->ids = ids;
    names = realloc(list->names, (list->n + 1) * sizeof(*list->names));
    if (!names)
        return -ENOMEM;
    list->names = names;
    memcpy(list->ids[list->n], i->id, sizeof(*list->ids));
    memcpy(list->names[list->n++], i->name, sizeof(*list->names));
    return 0;
}

static int snapshot_select(const struct cli_args *args, struct store *s, struct snapshot_instances *list, struct err *e)
{
    AUTO_FREE struct store_instance *i = malloc(sizeof(*i));
    int r = i ? 0 : -ENOMEM;

    if (r == 0 && args->n_operands == 0)
        r = store_instance_each(s, snapshot_collect, list, e);
    for (int k = 0; r == 0 && k < args->n_operands; k++) {
        r = store_instance_get(s, args->operands[k], i, e);
        if (r < 0)
            break;
        r = snapshot_collect(list, i);
        store_instance_done(i);
    }
    return r == -ENOMEM ? err_set(e, ENOMEM, "out of memory") : r;
}

static int snapshot_ls(const struct cli_args *args, json_object *rows, struct err *e)
{
    AUTO(store) struct store *store = NULL;
    struct snapshot_instances list = { 0 };
    int r = cli_table_check(&snapshot_table, args, e);

    if (r == 0)
        r = cli_inst_open(STORE_READ, &store, e);
    if (r == 0)
        r = snapshot_select(args, store, &list, e);
    for (size_t k = 0; k < list.n && r == 0; k++) {
        struct snapshot_rows add = { rows, list.names[k], false };

        r = store_snapshot_each(store, list.ids[k], snapshot_add_row, &add, e);
        if (r == -ENOMEM)
            err_set(e, ENOMEM, "out of memory");
    }
    free(list.ids);
    free(list.names);
    return r < 0 ? r : cli_table_print(&snapshot_table, rows, args, stdout, e);
}

int cli_cmd_snapshot_ls(const struct cli_args *args)
{
    json_object *rows = json_object_new_array();
    struct err e = { 0 };
    int r = snapshot_ls(args, rows, &e);

    json_object_put(rows);
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}

/* The snapshot that the operands name, and its instance; both are the caller's after success. */
static int snapshot_find(const struct cli_args *args, struct store **ret_store, struct store_instance *i,
                         struct store_snapshot *x, struct err *e)
{
    const char *name = NULL;
    int r = snapshot_operand(args, &name, e);

    if (r == 0)
        r = cli_inst_one(args, 0, ret_store, i, e);
    if (r < 0)
        return r;
    r = store_snapshot_get(*ret_store, i->id, i->name, name, x, e);
    if (r < 0)
        store_instance_done(i);
    return r;
}

int cli_cmd_snapshot_inspect(const struct cli_args *args)
{
    AUTO_FREE struct store_instance *i = malloc(sizeof(*i));
    AUTO_FREE struct store_snapshot *x = malloc(sizeof(*x));
    AUTO(store) struct store *store = NULL;
    json_object *rows = json_object_new_array();
    struct err e = { 0 };
    int r = i && x ? snapshot_find(args, &store, i, x, &e) : err_set(&e, ENOMEM, "out of memory");

    if (r == 0) {
        struct snapshot_rows add = { rows, i->name, true };

        r = snapshot_add_row(&add, x);
        if (r == 0)
            r = cli_value(args, "json") ? cli_json_print(rows, stdout, &e) : cli_table_print_fields(rows, stdout, &e);
        else
            err_set(&e, ENOMEM, "out of memory");
        store_snapshot_done(x);
        store_instance_done(i);
    }
    json_object_put(rows);
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}

/* ---- restore and rm ---- */

int cli_cmd_snapshot_restore(const struct cli_args *args)
{
    AUTO_FREE struct store_instance *i = malloc(sizeof(*i));
    AUTO(store) struct store *store = NULL;
    const char *name = NULL;
    struct err e = { 0 };
    bool ran = false;
    int r = i ? snapshot_operand(args, &name, &e) : err_set(&e, ENOMEM, "out of memory");

    if (r == 0)
        r = cli_inst_one(args, 0, &store, i, &e);
    if (r < 0)
        return cli_fail(&e);
    r = inst_snapshot_restore(store, i, name, &ran, &e);
    if (r == 0 && (ran || cli_value(args, "start")))
        r = inst_start(i, &(struct inst_start){ 0 }, NULL, &e);
    if (r == 0)
        printf("%s\n", i->name);
    store_instance_done(i);
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}

int cli_cmd_snapshot_rm(const struct cli_args *args)
{
    AUTO_FREE struct store_instance *i = malloc(sizeof(*i));
    json_object *removed = json_object_new_array();
    AUTO(store) struct store *store = NULL;
    int code = EXIT_CODE_OK, r;
    const char *name = NULL;
    struct err e = { 0 };

    r = i && removed ? snapshot_operand(args, &name, &e) : err_set(&e, ENOMEM, "out of memory");
    if (r == 0)
        r = cli_inst_one(args, 0, &store, i, &e);
    if (r < 0)
        code = cli_fail(&e);
    for (int k = 1; r == 0 && k < args->n_operands; k++) {
        if (inst_snapshot_remove(store, i, args->operands[k], &e) < 0) {
            int failed = cli_fail(&e);

            code = code == EXIT_CODE_OK ? failed : code; /* the others are removed all the same */
            continue;
        }
        if (!cli_value(args, "json"))
            printf("%s\n", args->operands[k]);
        json_object_array_add(removed, json_object_new_string(args->operands[k]));
    }
    if (r == 0 && cli_value(args, "json") && cli_json_print(removed, stdout, &e) < 0)
        code = cli_fail(&e);
    if (r == 0)
        store_instance_done(i);
    json_object_put(removed);
    return code;
}
