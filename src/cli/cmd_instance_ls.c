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
    .open = true,
};

struct ls {
    json_object *rows;
    const char *type; /* NULL: both */
    bool running;     /* those only */
    const struct cli_args *args;
};

/* ---- filters ---- */

/* NAME or NAME=VALUE. */
static bool ls_has_label(const struct store_instance *i, const char *wanted)
{
    size_t len = strlen(wanted);

    for (size_t k = 0; k < i->spec.labels.n; k++) {
        const char *label = i->spec.labels.at[k];

        if (strncmp(label, wanted, len) == 0 && (label[len] == '\0' || (label[len] == '=' && !strchr(wanted, '='))))
            return true;
    }
    return false;
}

/* An image by its whole name, or without what is added where nothing is said. */
static bool ls_is_image(const char *image, const char *wanted)
{
    const char *local = "localhost/", *latest = ":latest";
    size_t len = strlen(wanted);

    if (strncmp(image, local, strlen(local)) == 0 && strncmp(wanted, local, strlen(local)) != 0)
        image += strlen(local);
    return strncmp(image, wanted, len) == 0 && (image[len] == '\0' || strcmp(image + len, latest) == 0);
}

static bool ls_is_part(const char *text, const char *wanted)
{
    return strstr(text, wanted) != NULL;
}

static bool ls_is_begin(const char *text, const char *wanted)
{
    return strncmp(text, wanted, strlen(wanted)) == 0;
}

static bool ls_is_same(const char *text, const char *wanted)
{
    return strcmp(text, wanted) == 0;
}

/* How --filter KEY=VALUE compares VALUE with a row's field; label is none. */
static const struct ls_filter {
    const char *key, *field;
    bool (*matches)(const char *text, const char *wanted);
} ls_filters[] = {
    { "name", "name", ls_is_part },       { "id", "id", ls_is_begin },       { "image", "image", ls_is_image },
    { "ancestor", "image", ls_is_image }, { "status", "state", ls_is_same }, { "type", "type", ls_is_same },
    { "health", "health", ls_is_same },   { "label", NULL, NULL },
};

/* The filter of an option and *ret_value, what is wanted; NULL: it is none. */
static const struct ls_filter *ls_filter_of(const struct cli_given *g, const char **ret_value)
{
    size_t len = strcspn(g->value ? g->value : "", "=");

    for (size_t i = 0; strcmp(g->option->name, "filter") == 0 && i < ARRAY_SIZE(ls_filters); i++) {
        if (strlen(ls_filters[i].key) == len && strncmp(g->value, ls_filters[i].key, len) == 0 && g->value[len]) {
            *ret_value = g->value + len + 1;
            return &ls_filters[i];
        }
    }
    return NULL;
}

static int ls_check_filters(const struct cli_args *args, struct err *e)
{
    const char *value;

    for (size_t n = 0; n < args->n_given; n++) {
        const struct cli_given *g = &args->given[n];

        if (strcmp(g->option->name, "filter") == 0 && !ls_filter_of(g, &value))
            return err_set(e, EINVAL,
                           "--filter %.60s: not KEY=VALUE with one of name, id, image, status, type, health, label",
                           g->value);
    }
    return 0;
}

static bool ls_has_labels(const struct ls *l, const struct store_instance *i)
{
    for (size_t n = 0; n < l->args->n_given; n++) {
        const struct cli_given *g = &l->args->given[n];
        const char *value = g->value;
        const struct ls_filter *f = ls_filter_of(g, &value);

        if ((strcmp(g->option->name, "label") == 0 || (f && !f->field)) && !ls_has_label(i, value))
            return false;
    }
    return true;
}

/* Whether a row has for each field that filters name one of their values. */
static bool ls_matches(const struct ls *l, json_object *row)
{
    bool asked[ARRAY_SIZE(ls_filters)] = { false }, found[ARRAY_SIZE(ls_filters)] = { false };

    for (size_t n = 0; n < l->args->n_given; n++) {
        const char *value, *text;
        const struct ls_filter *f = ls_filter_of(&l->args->given[n], &value);
        json_object *v = NULL;

        if (!f || !f->field)
            continue;
        json_object_object_get_ex(row, f->field, &v);
        text = json_object_is_type(v, json_type_string) ? json_object_get_string(v) : "";
        asked[f - ls_filters] = true;
        found[f - ls_filters] = found[f - ls_filters] || f->matches(text, value);
    }
    return memcmp(asked, found, sizeof(asked)) == 0;
}

/* ---- ls ---- */

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
    if (row && !ls_matches(l, row)) {
        json_object_put(row);
        return 0;
    }
    return row && json_object_array_add(l->rows, row) == 0 ? 0 : -ENOMEM;
}

static int ls_run(const struct cli_args *args, json_object *rows, struct err *e)
{
    struct ls l = {
        .rows = rows, .type = cli_value(args, "type"), .running = cli_value(args, "running") != NULL, .args = args
    };
    struct cli_column whole[ARRAY_SIZE(ls_columns)];
    struct cli_table table = ls_table;
    AUTO(store) struct store *store = NULL;
    int r = cli_table_check(&ls_table, args, e);

    if (cli_value(args, "no-trunc")) {
        memcpy(whole, ls_columns, sizeof(whole));
        for (size_t i = 0; i < ARRAY_SIZE(whole); i++)
            whole[i].cell = whole[i].cell == CLI_CELL_ID ? CLI_CELL_PLAIN : whole[i].cell;
        table.columns = whole;
    }
    if (r == 0)
        r = ls_check_filters(args, e);
    if (r == 0 && l.type && strcmp(l.type, "vm") != 0 && strcmp(l.type, "container") != 0)
        r = err_set(e, EINVAL, "--type %s: unknown; use vm or container", l.type);
    if (r == 0)
        r = cli_inst_open(STORE_READ, &store, e);
    if (r == 0)
        r = store_instance_each(store, ls_add, &l, e);
    if (r == -ENOMEM)
        err_set(e, ENOMEM, "out of memory");
    return r < 0 ? r : cli_table_print(&table, rows, args, stdout, e);
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
