/* caisson template create, ls, inspect and rm. */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/table.h"
#include "cli/template.h"
#include "image/image.h"
#include "proto/exit_code.h"
#include "proto/json.h"

static const struct cli_column template_columns[] = {
    { "NAME", "name", false, false, false },       { "IMAGE", "image", false, false, false },
    { "KIND", "kind", false, false, false },       { "OPTIONS", "options", false, false, false },
    { "CREATED", "created", false, false, false },
};
static const struct cli_table template_table = {
    .columns = template_columns,
    .n_columns = ARRAY_SIZE(template_columns),
    .id = "name",
};

static int template_row(void *opaque, const struct store_template *t)
{
    json_object *o = json_object_new_object(), *words = json_object_new_array();

    for (size_t i = 0; i < t->words.n; i++)
        json_object_array_add(words, json_object_new_string(t->words.at[i]));
    json_object_object_add(o, "name", json_object_new_string(t->name));
    json_object_object_add(o, "image", json_object_new_string(t->image));
    json_object_object_add(o, "kind", json_object_new_string(inst_kind_name(t->kind)));
    json_object_object_add(o, "options", words);
    json_object_object_add(o, "created", proto_json_time(t->created_ns));
    return json_object_array_add(opaque, o) == 0 ? 0 : -ENOMEM;
}

/* ---- create ---- */

static const struct cli_command *template_command(enum inst_kind kind)
{
    const char *path = kind == INST_VM ? "vm create" : "run";
    const struct cli_command *c;

    for (size_t i = 0; (c = cli_command_at(i)); i++)
        if (strcmp(c->path, path) == 0)
            return c;
    return NULL;
}

static int template_fill(const struct cli_args *args, struct store *store, struct store_template *t, struct err *e)
{
    const struct cli_command *command;
    struct image image = { 0 };
    int r;

    if (args->n_operands < 2)
        return err_set(e, EINVAL,
                       "a template has a name and an image: caisson template create NAME IMAGE [-- OPTION...]");
    if (!proto_name_ok(args->operands[0]))
        return err_set(e, EINVAL, "template '%.63s': a name has small letters, digits and dashes, at most 63",
                       args->operands[0]);
    r = image_get(store, args->operands[1], &image, e);
    if (r < 0)
        return r;
    t->kind = image.kind == IMAGE_VM ? INST_VM : INST_CONTAINER;
    image_done(&image);
    snprintf(t->name, sizeof(t->name), "%s", args->operands[0]);
    if (snprintf(t->image, sizeof(t->image), "%s", args->operands[1]) >= (int)sizeof(t->image) ||
        args->n_operands - 2 > STORE_TEMPLATE_WORDS_MAX)
        return err_set(e, EINVAL, "template %s: the image's name is too long, or there are too many options", t->name);
    for (int i = 2; i < args->n_operands; i++)
        if (inst_strings_add(&t->words, args->operands[i]) < 0)
            return err_set(e, ENOMEM, "out of memory");
    command = template_command(t->kind);
    return command ? cli_template_check(command, &t->words, e) : 0;
}

int cli_cmd_template_create(const struct cli_args *args)
{
    AUTO(store) struct store *store = NULL;
    struct store_template t = { 0 };
    struct err e = { 0 };
    int r = store_open(STORE_WRITE, &store, &e);

    if (r == 0)
        r = template_fill(args, store, &t, &e);
    if (r == 0)
        r = store_template_add(store, &t, &e);
    if (r == 0)
        printf("%s\n", t.name);
    store_template_done(&t);
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}

/* ---- ls, inspect, rm ---- */

int cli_cmd_template_ls(const struct cli_args *args)
{
    json_object *rows = json_object_new_array();
    AUTO(store) struct store *store = NULL;
    struct err e = { 0 };
    int r = cli_table_check(&template_table, args, &e);

    if (r == 0)
        r = store_open(STORE_READ, &store, &e);
    if (r == 0)
        r = store_template_each(store, template_row, rows, &e);
    if (r == 0)
        r = cli_table_print(&template_table, rows, args, stdout, &e);
    json_object_put(rows);
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}

int cli_cmd_template_inspect(const struct cli_args *args)
{
    json_object *rows = json_object_new_array();
    AUTO(store) struct store *store = NULL;
    struct err e = { 0 };
    int r = args->n_operands > 0 ? store_open(STORE_READ, &store, &e)
                                 : err_set(&e, EINVAL, "no template named; see 'caisson template ls'");

    for (int i = 0; i < args->n_operands && r == 0; i++) {
        struct store_template t = { 0 };

        r = store_template_get(store, args->operands[i], &t, &e);
        if (r == 0)
            r = template_row(rows, &t);
        store_template_done(&t);
    }
    if (r == 0)
        r = cli_value(args, "json") ? cli_json_print(rows, stdout, &e) : cli_table_print_fields(rows, stdout, &e);
    json_object_put(rows);
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}

int cli_cmd_template_rm(const struct cli_args *args)
{
    AUTO(store) struct store *store = NULL;
    struct err e = { 0 };
    int r = args->n_operands > 0 ? store_open(STORE_WRITE, &store, &e)
                                 : err_set(&e, EINVAL, "no template named; see 'caisson template ls'"),
        code = r < 0 ? cli_fail(&e) : EXIT_CODE_OK;

    for (int i = 0; i < args->n_operands && r == 0; i++) {
        if (store_template_remove(store, args->operands[i], &e) == 0) {
            printf("%s\n", args->operands[i]);
        } else {
            int failed = cli_fail(&e);

            code = code == EXIT_CODE_OK ? failed : code;
        }
    }
    return code;
}
