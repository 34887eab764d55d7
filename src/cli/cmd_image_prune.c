/* caisson image prune. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "cli/image.h"
#include "cli/progress.h"
#include "cli/table.h"
#include "proto/exit_code.h"

static void prune_told(void *opaque, const char *what, bool deleted)
{
    (void)deleted;
    json_object_array_add(opaque, json_object_new_string(what));
}

int cli_cmd_image_prune(const struct cli_args *args)
{
    AUTO(store) struct store *store = NULL;
    json_object *deleted = json_object_new_array(), *o = json_object_new_object();
    const struct image_rm rm = { .user = cli_image_user, .told = prune_told, .opaque = deleted };
    uint64_t bytes = 0;
    struct err e = { 0 };
    char size[32];
    int r = store_open(STORE_WRITE, &store, &e);

    if (r == 0)
        r = image_prune(store, cli_value(args, "all") != NULL, &rm, &bytes, &e);
    json_object_object_add(o, "deleted", deleted);
    json_object_object_add(o, "bytes", json_object_new_uint64(bytes));
    if (r == 0 && cli_value(args, "json")) {
        r = cli_json_print(o, stdout, &e);
    } else if (r == 0) {
        for (size_t i = 0; i < json_object_array_length(deleted); i++)
            printf("deleted %s\n", json_object_get_string(json_object_array_get_idx(deleted, i)));
        printf("%s freed\n", cli_size_text(bytes, size));
    }
    json_object_put(o);
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}
