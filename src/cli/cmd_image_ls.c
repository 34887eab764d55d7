/* caisson image ls. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "cli/image.h"
#include "cli/progress.h"
#include "cli/table.h"
#include "proto/exit_code.h"
#include "proto/json.h"

static const struct cli_column image_columns[] = {
    { "NAME", "name", false, false, false },        { "ID", "short_id", false, false, false },
    { "KIND", "kind", false, false, false },        { "CREATED", "created", false, false, CLI_CELL_AGO },
    { "SIZE", "size", true, false, true },          { "LAYERS", "layers", true, true, false },
    { "PLATFORM", "platform", false, true, false }, { "DIGEST", "digest", false, true, false },
    { "FULL_ID", "id", false, true, false },        { "NAMES", "names", false, true, false },
};
static const struct cli_table image_table = {
    .columns = image_columns,
    .n_columns = ARRAY_SIZE(image_columns),
    .id = "id",
};

static const char *image_text(json_object *o, const char *key)
{
    json_object *v;

    return json_object_object_get_ex(o, key, &v) && json_object_is_type(v, json_type_string) ? json_object_get_string(v)
                                                                                             : NULL;
}

json_object *cli_image_row(const struct image *i)
{
    json_object *o = json_object_new_object(), *names = json_object_new_array(), *layers = NULL;
    const char *os = image_text(i->config, "os"), *arch = image_text(i->config, "architecture");
    char text[160];

    if (!o || !names) {
        json_object_put(o);
        json_object_put(names);
        return NULL;
    }
    for (size_t n = 0; n < i->n_names; n++)
        json_object_array_add(names, json_object_new_string(i->names[n]));
    json_object_object_add(o, "id", json_object_new_string(i->id));
    snprintf(text, sizeof(text), "%.*s", IMAGE_SHORT, strchr(i->id, ':') ? strchr(i->id, ':') + 1 : i->id);
    json_object_object_add(o, "short_id", json_object_new_string(text));
    json_object_object_add(o, "name", i->n_names ? json_object_new_string(i->names[0]) : NULL);
    json_object_object_add(o, "names", names);
    json_object_object_add(o, "kind", json_object_new_string(image_kind_name(i->kind)));
    json_object_object_add(o, "digest", json_object_new_string(i->manifest));
    json_object_object_add(o, "created", i->created_ns ? proto_json_time(i->created_ns) : NULL);
    json_object_object_add(o, "size", json_object_new_uint64(i->size));
    json_object_object_get_ex(i->manifest_doc, "layers", &layers);
    json_object_object_add(o, "layers", json_object_new_uint64(layers ? json_object_array_length(layers) : 0));
    snprintf(text, sizeof(text), "%.60s/%.60s", os ? os : "?", arch ? arch : "?");
    json_object_object_add(o, "platform", json_object_new_string(text));
    return o;
}

/* A row for each name, as other tools have it; one for an image without names. */
static int ls_add(void *opaque, const struct image *i)
{
    size_t n = i->n_names ? i->n_names : 1;

    for (size_t k = 0; k < n; k++) {
        json_object *row = cli_image_row(i);

        if (!row || json_object_array_add(opaque, row) < 0)
            return -ENOMEM;
        if (i->n_names)
            json_object_object_add(row, "name", json_object_new_string(i->names[k]));
    }
    return 0;
}

static int image_ls(const struct cli_args *args, json_object *rows, struct err *e)
{
    AUTO(store) struct store *store = NULL;
    int r = cli_table_check(&image_table, args, e);

    if (r == 0)
        r = store_open(STORE_READ, &store, e);
    if (r == 0)
        r = image_each(store, ls_add, rows, e);
    if (r == -ENOMEM)
        err_set(e, ENOMEM, "out of memory");
    return r < 0 ? r : cli_table_print(&image_table, rows, args, stdout, e);
}

int cli_cmd_image_ls(const struct cli_args *args)
{
    json_object *rows = json_object_new_array();
    struct err e = { 0 };
    int r = image_ls(args, rows, &e);

    json_object_put(rows);
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}

int cli_image_long(const struct cli_args *args, const char *operation,
                   int (*work)(void *opaque, const struct disk_progress *progress, struct err *e), void *opaque)
{
    struct cli_cancel cancel;
    struct cli_progress shown;
    struct disk_progress progress = { .step = cli_progress_step, .opaque = &shown };
    struct err e = { 0 };
    int r = cli_cancel_begin(&cancel, &e), code;

    if (r < 0)
        return cli_fail(&e);
    r = cli_progress_begin(&shown, args, operation, &cancel, &e);
    if (r == 0) {
        r = work(opaque, &progress, &e);
        cli_progress_end(&shown, r == 0);
    }
    code = r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
    if (r == 0 && strcmp(operation, "export") != 0 && image_owner_note())
        log_warn("%s", image_owner_note());
    return cli_cancel_end(&cancel, code);
}
