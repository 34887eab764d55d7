/* caisson image inspect and history. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/image.h"
#include "cli/table.h"
#include "proto/exit_code.h"

static int inspect_one(struct store *store, const char *name, json_object *rows, struct err *e)
{
    struct image i = { 0 };
    json_object *row;
    int r = image_get(store, name, &i, e);

    if (r < 0)
        return r;
    row = cli_image_row(&i);
    if (row) {
        json_object_object_add(row, "config", json_object_get(i.config));
        json_object_object_add(row, "manifest", json_object_get(i.manifest_doc));
    }
    image_done(&i);
    return row && json_object_array_add(rows, row) == 0 ? 0 : err_set(e, ENOMEM, "out of memory");
}

int cli_cmd_image_inspect(const struct cli_args *args)
{
    AUTO(store) struct store *store = NULL;
    json_object *rows = json_object_new_array();
    struct err e = { 0 };
    int r = args->n_operands
                ? store_open(STORE_READ, &store, &e)
                : err_set(&e, EINVAL, "no image named; give the name or id of one, see 'caisson image ls'");

    for (int i = 0; r == 0 && i < args->n_operands; i++)
        r = inspect_one(store, args->operands[i], rows, &e);
    if (r == 0)
        r = cli_value(args, "json") ? cli_json_print(rows, stdout, &e) : cli_table_print_fields(rows, stdout, &e);
    json_object_put(rows);
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}

/* ---- history ---- */

static const struct cli_column history_columns[] = {
    { "CREATED", "created", false, false, false },
    { "SIZE", "size", true, false, true },
    { "CREATED BY", "created_by", false, false, false },
    { "COMMENT", "comment", false, true, false },
    { "LAYER", "layer", false, true, false },
    { "DIFF_ID", "diff_id", false, true, false },
};
static const struct cli_table history_table = {
    .columns = history_columns,
    .n_columns = ARRAY_SIZE(history_columns),
    .id = "layer",
};

static json_object *history_member(json_object *o, const char *key, json_type type)
{
    json_object *v = NULL;

    return json_object_object_get_ex(o, key, &v) && json_object_is_type(v, type) ? v : NULL;
}

/* One step; layer: which of the manifest's it made, n_layers or more: none. */
static json_object *history_row(json_object *step, json_object *layers, json_object *diff_ids, size_t layer)
{
    static const char *const texts[] = { "created", "created_by", "comment" };
    json_object *o = json_object_new_object(), *v, *descriptor = NULL;

    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        v = step ? history_member(step, texts[i], json_type_string) : NULL;
        json_object_object_add(o, texts[i], json_object_get(v));
    }
    if (layers && layer < json_object_array_length(layers))
        descriptor = json_object_array_get_idx(layers, layer);
    v = descriptor ? history_member(descriptor, "size", json_type_int) : NULL;
    json_object_object_add(o, "size", v ? json_object_get(v) : json_object_new_int(0));
    json_object_object_add(o, "layer",
                           json_object_get(descriptor ? history_member(descriptor, "digest", json_type_string) : NULL));
    json_object_object_add(o, "diff_id",
                           json_object_get(descriptor && diff_ids ? json_object_array_get_idx(diff_ids, layer) : NULL));
    return o;
}

/* The newest first. An image without a history has its layers. */
static void history_rows(const struct image *i, json_object *rows)
{
    json_object *steps = history_member(i->config, "history", json_type_array),
                *layers = history_member(i->manifest_doc, "layers", json_type_array),
                *rootfs = history_member(i->config, "rootfs", json_type_object),
                *diff_ids = rootfs ? history_member(rootfs, "diff_ids", json_type_array) : NULL;
    size_t n_layers = layers ? json_object_array_length(layers) : 0, layer = 0,
           n = steps && json_object_array_length(steps) ? json_object_array_length(steps) : n_layers;
    json_object *forward = json_object_new_array();

    for (size_t k = 0; k < n; k++) {
        json_object *step = steps ? json_object_array_get_idx(steps, k) : NULL,
                    *empty = step ? history_member(step, "empty_layer", json_type_boolean) : NULL;
        bool none = empty && json_object_get_boolean(empty);

        json_object_array_add(forward, history_row(step, layers, diff_ids, none ? n_layers : layer));
        layer += !none;
    }
    for (size_t k = n; k > 0; k--)
        json_object_array_add(rows, json_object_get(json_object_array_get_idx(forward, k - 1)));
    json_object_put(forward);
}

int cli_cmd_image_history(const struct cli_args *args)
{
    AUTO(store) struct store *store = NULL;
    json_object *rows = json_object_new_array();
    struct image i = { 0 };
    struct err e = { 0 };
    int r = cli_table_check(&history_table, args, &e);

    if (r == 0 && args->n_operands == 0)
        r = err_set(&e, EINVAL, "no image named; give the name or id of one, see 'caisson image ls'");
    if (r == 0)
        r = store_open(STORE_READ, &store, &e);
    if (r == 0)
        r = image_get(store, args->operands[0], &i, &e);
    if (r == 0) {
        history_rows(&i, rows);
        r = cli_table_print(&history_table, rows, args, stdout, &e);
    }
    image_done(&i);
    json_object_put(rows);
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}
