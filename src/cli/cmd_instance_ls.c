/* caisson ls and inspect. */
#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/command.h"
#include "cli/instance.h"
#include "cli/table.h"
#include "proto/exit_code.h"

#define LS_OF_INSPECT 3

static const struct cli_column ls_columns[] = {
    { "NAME", "name", false, false, CLI_CELL_PLAIN },
    { "ID", "id", false, false, CLI_CELL_ID },
    { "TYPE", "type", false, false, CLI_CELL_PLAIN },
    { "STATUS", "status", false, false, CLI_CELL_STATUS },
    { "IMAGE", "image", false, false, CLI_CELL_PLAIN },
    { "CREATED", "created", false, false, CLI_CELL_AGO },
    { "STATE", "state", false, true, CLI_CELL_STATUS },
    { "COMMAND", "command", false, true, CLI_CELL_PLAIN },
    { "STARTED", "started", false, true, CLI_CELL_AGO },
    { "ENDED", "ended", false, true, CLI_CELL_AGO },
    { "CODE", "exit_code", true, true, CLI_CELL_PLAIN },
    { "PID", "pid", true, true, CLI_CELL_PLAIN },
    { "READY", "ready", false, true, CLI_CELL_PLAIN },
    { "HEALTH", "health", false, true, CLI_CELL_STATUS },
    { "RESTARTS", "restarts", true, true, CLI_CELL_PLAIN },
    { "RESTART", "restart", false, true, CLI_CELL_PLAIN },
    { "WANTED", "wanted", false, true, CLI_CELL_PLAIN },
    { "ERROR", "error", false, true, CLI_CELL_PLAIN },
    /* LS_OF_INSPECT that inspect alone has */
    { "OOM", "oom_killed", false, true, CLI_CELL_PLAIN },
    { "SUPERVISOR", "supervisor_pid", true, true, CLI_CELL_PLAIN },
    { "DIRECTORY", "directory", false, true, CLI_CELL_PLAIN },
};
static const struct cli_table ls_table = {
    .columns = ls_columns,
    .n_columns = ARRAY_SIZE(ls_columns) - LS_OF_INSPECT,
    .id = "name",
};
static const struct cli_table inspect_table = {
    .columns = ls_columns,
    .n_columns = ARRAY_SIZE(ls_columns),
    .id = "name",
};

struct ls {
    json_object *rows;
    const char *type; /* NULL: both */
    bool running;     /* those only */
    const struct cli_args *args;
};

/* Whether all --filter and --label hold. */
static bool ls_has_labels(const struct ls *l, const struct store_instance *i)
{
    for (size_t n = 0; n < l->args->n_given; n++) {
        const struct cli_given *g = &l->args->given[n];
        bool found = false;

        if (strcmp(g->option->name, "label") != 0)
            continue;
        for (size_t k = 0; k < i->spec.labels.n && !found; k++) {
            const char *label = i->spec.labels.at[k];
            size_t len = strlen(g->value);

            found = strncmp(label, g->value, len) == 0 &&
                    (label[len] == '\0' || (label[len] == '=' && !strchr(g->value, '=')));
        }
        if (!found)
            return false;
    }
    return true;
}

static int ls_add(void *opaque, const struct store_instance *i)
{
    struct ls *l = opaque;
    struct inst_info info = { 0 };
    json_object *row;

    if ((l->type && strcmp(l->type, inst_kind_name(i->spec.kind)) != 0) || !ls_has_labels(l, i))
        return 0;
    inst_look(i, &info);
    if (l->running && !info.alive)
        return 0;
    row = cli_inst_row(i, &info, false);
    return row && json_object_array_add(l->rows, row) == 0 ? 0 : -ENOMEM;
}

static int ls_run(const struct cli_args *args, json_object *rows, struct err *e)
{
    struct ls l = {
        .rows = rows, .type = cli_value(args, "type"), .running = cli_value(args, "running") != NULL, .args = args
    };
    AUTO(store) struct store *store = NULL;
    int r = cli_table_check(&ls_table, args, e);

    if (r == 0 && l.type && strcmp(l.type, "vm") != 0 && strcmp(l.type, "container") != 0)
        r = err_set(e, EINVAL, "--type %s: unknown; use vm or container", l.type);
    if (r == 0)
        r = cli_inst_open(STORE_READ, &store, e);
    if (r == 0)
        r = store_instance_each(store, ls_add, &l, e);
    if (r == -ENOMEM)
        err_set(e, ENOMEM, "out of memory");
    return r < 0 ? r : cli_table_print(&ls_table, rows, args, stdout, e);
}

int cli_cmd_instance_ls(const struct cli_args *args)
{
    json_object *rows = json_object_new_array();
    struct err e = { 0 };
    int r = ls_run(args, rows, &e);

    json_object_put(rows);
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}

struct inspect {
    json_object *rows;
};

static int inspect_add(void *opaque, struct store *s, struct store_instance *i, struct err *e)
{
    struct inspect *x = opaque;
    struct inst_info info = { 0 };
    json_object *row;
    int r = inst_ask(i, &info, e);

    (void)s;
    if (r < 0)
        return r;
    row = cli_inst_row(i, &info, true);
    if (!row || json_object_array_add(x->rows, row) < 0)
        return err_set(e, ENOMEM, "out of memory");
    return 1;
}

int cli_cmd_instance_inspect(const struct cli_args *args)
{
    struct inspect x = { .rows = json_object_new_array() };
    const struct cli_inst_verb verb = { "inspect", NULL, inspect_add, &x };
    struct err e = { 0 };
    int code = EXIT_CODE_OK, r = cli_table_check(&inspect_table, args, &e);

    if (r == 0)
        code = cli_inst_each(args, &verb);
    if (r == 0 && (json_object_array_length(x.rows) > 0 || cli_value(args, "json")))
        r = cli_value(args, "json") || cli_value(args, "format")
                ? cli_table_print(&inspect_table, x.rows, args, stdout, &e)
                : cli_table_print_fields(x.rows, stdout, &e);
    json_object_put(x.rows);
    return r < 0 ? cli_fail(&e) : code;
}
