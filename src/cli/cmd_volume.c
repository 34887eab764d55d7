/* caisson volume create, ls, inspect, rm, prune. */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cli/command.h"
#include "cli/container_options.h"
#include "cli/instance.h"
#include "cli/table.h"
#include "instance/volume.h"
#include "proto/exit_code.h"
#include "proto/json.h"
#include "store/volume.h"
#include "sys/dirs.h"
#include "sys/userns.h"

static const struct cli_column volume_columns[] = {
    { .title = "NAME", .field = "name" },
    { .title = "CREATED", .field = "created", .cell = CLI_CELL_AGO },
    { .title = "USED BY", .field = "used_by" },
    { .title = "PATH", .field = "path", .extra = true },
    { .title = "INSTANCE", .field = "instance", .extra = true },
};
static const struct cli_table volume_table = { volume_columns, ARRAY_SIZE(volume_columns), "name", false };

/* Files in volumes may belong to any id of the user's. */
static int volume_become_owner(struct err *e)
{
    int r = sys_userns_enter();

    return r < 0 ? err_set(e, -r, "cannot make a user namespace: %s", strerror(-r)) : 0;
}

static json_object *volume_row(struct store *s, const struct store_volume *v)
{
    json_object *o = json_object_new_object();
    char path[SYS_DIR_MAX + 128] = "", user[PROTO_NAME_MAX + 1] = "";
    struct err ignored = { 0 };

    (void)!inst_volume_path(v->name, path, sizeof(path), &ignored);
    (void)!inst_volume_user(s, v->name, user, sizeof(user), &ignored);
    json_object_object_add(o, "name", json_object_new_string(v->name));
    json_object_object_add(o, "created", proto_json_time(v->created_ns));
    json_object_object_add(o, "path", json_object_new_string(path));
    json_object_object_add(o, "used_by", user[0] ? json_object_new_string(user) : NULL);
    json_object_object_add(o, "instance", v->instance[0] ? json_object_new_string(v->instance) : NULL);
    json_object_object_add(o, "labels", v->labels ? json_object_get(v->labels) : json_object_new_object());
    return o;
}

/* ---- create ---- */

static int volume_labels(const struct cli_args *args, json_object **ret_labels, struct err *e)
{
    struct inst_strings list = { 0 };
    int r = 0;

    for (size_t i = 0; i < args->n_given && r == 0; i++) {
        if (strcmp(args->given[i].option->name, "label") == 0)
            r = inst_strings_add(&list, args->given[i].value);
    }
    if (r < 0) {
        inst_strings_done(&list);
        return err_set(e, -r, "out of memory");
    }
    *ret_labels = json_object_new_object();
    for (size_t i = 0; i < list.n; i++) {
        char *value = strchr(list.at[i], '=');

        if (value)
            *value++ = '\0';
        json_object_object_add(*ret_labels, list.at[i], json_object_new_string(value ? value : ""));
    }
    inst_strings_done(&list);
    return 0;
}

int cli_cmd_volume_create(const struct cli_args *args)
{
    char name[33];
    unsigned char bytes[8];
    AUTO(store) struct store *store = NULL;
    json_object *labels = NULL;
    struct err e = { 0 };
    int r = cli_inst_open(STORE_WRITE, &store, &e);

    if (r == 0 && getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes))
        r = err_set(&e, EIO, "no random numbers");
    for (size_t i = 0; r == 0 && i < sizeof(bytes); i++)
        snprintf(name + 2 * i, 3, "%02x", bytes[i]);
    if (r == 0)
        r = volume_labels(args, &labels, &e);
    if (r == 0)
        r = inst_volume_create(store, args->n_operands ? args->operands[0] : name, NULL, labels, &e);
    if (r == -EEXIST && cli_value(args, "ignore"))
        r = 0;
    json_object_put(labels);
    if (r < 0)
        return cli_fail(&e);
    printf("%s\n", args->n_operands ? args->operands[0] : name);
    return EXIT_CODE_OK;
}

/* ---- ls, inspect ---- */

struct volume_list {
    struct store_volume *at;
    size_t n;
};

static int volume_collect(void *opaque, const struct store_volume *v)
{
    struct volume_list *list = opaque;
    struct store_volume *grown = reallocarray(list->at, list->n + 1, sizeof(*grown));

    if (!grown)
        return -ENOMEM;
    list->at = grown;
    grown[list->n] = *v;
    grown[list->n++].labels = json_object_get(v->labels);
    return 0;
}

static void volume_list_done(struct volume_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        store_volume_done(&list->at[i]);
    free(list->at);
}

static int volume_list_open(struct store *s, struct volume_list *list, struct err *e)
{
    int r = store_volume_each(s, volume_collect, list, e);

    return r == -ENOMEM && e && !e->code ? err_set(e, ENOMEM, "out of memory") : r;
}

int cli_cmd_volume_ls(const struct cli_args *args)
{
    AUTO(store) struct store *store = NULL;
    json_object *rows = json_object_new_array();
    struct volume_list list = { 0 };
    struct err e = { 0 };
    int r = cli_table_check(&volume_table, args, &e);

    if (r == 0)
        r = cli_inst_open(STORE_READ, &store, &e);
    if (r == 0)
        r = volume_list_open(store, &list, &e);
    for (size_t i = 0; i < list.n && r == 0; i++)
        json_object_array_add(rows, volume_row(store, &list.at[i]));
    if (r == 0)
        r = cli_table_print(&volume_table, rows, args, stdout, &e);
    volume_list_done(&list);
    json_object_put(rows);
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}

int cli_cmd_volume_inspect(const struct cli_args *args)
{
    AUTO(store) struct store *store = NULL;
    json_object *rows = json_object_new_array();
    struct err e = { 0 };
    int r = cli_inst_open(STORE_READ, &store, &e), code = EXIT_CODE_OK;

    if (r == 0 && args->n_operands == 0)
        r = err_set(&e, EINVAL, "no volume named; give the name of one, see 'caisson volume ls'");
    if (r < 0)
        code = cli_fail(&e);
    for (int i = 0; i < args->n_operands && r == 0; i++) {
        struct store_volume v = { 0 };

        if (store_volume_get(store, args->operands[i], &v, &e) < 0) {
            int failed = cli_fail(&e);

            code = code == EXIT_CODE_OK ? failed : code;
            continue;
        }
        json_object_array_add(rows, volume_row(store, &v));
        store_volume_done(&v);
    }
    if (r == 0 &&
        (cli_value(args, "json") ? cli_json_print(rows, stdout, &e) : cli_table_print_fields(rows, stdout, &e)) < 0)
        code = cli_fail(&e);
    json_object_put(rows);
    return code;
}

/* ---- rm, prune ---- */

/* All that no instance mounts. */
static int volume_remove_unused(struct store *s, struct err *e)
{
    struct volume_list list = { 0 };
    char user[PROTO_NAME_MAX + 1];
    int r = volume_list_open(s, &list, e);

    for (size_t i = 0; i < list.n && r == 0; i++) {
        r = inst_volume_user(s, list.at[i].name, user, sizeof(user), e);
        if (r < 0 || user[0])
            continue;
        r = inst_volume_remove(s, list.at[i].name, e);
        if (r == 0)
            printf("%s\n", list.at[i].name);
        else if (r == -EBUSY || r == -ENOENT) /* somebody was faster */
            r = 0;
    }
    volume_list_done(&list);
    return r;
}

int cli_cmd_volume_rm(const struct cli_args *args)
{
    AUTO(store) struct store *store = NULL;
    const bool all = cli_value(args, "all") != NULL, force = cli_value(args, "force") != NULL;
    struct err e = { 0 };
    int code = EXIT_CODE_OK, r = 0;

    if (args->n_operands == 0 && !all)
        r = err_set(&e, EINVAL, "no volume named; give the name of one, or --all for those that nobody uses");
    if (r == 0)
        r = volume_become_owner(&e);
    if (r == 0)
        r = cli_inst_open(STORE_WRITE, &store, &e);
    if (r == 0 && all)
        r = volume_remove_unused(store, &e);
    if (r < 0)
        return cli_fail(&e);
    for (int i = 0; i < args->n_operands && !all; i++) {
        r = inst_volume_remove(store, args->operands[i], &e);
        if (r < 0 && !(force && r == -ENOENT)) {
            int failed = cli_fail(&e);

            code = code == EXIT_CODE_OK ? failed : code; /* the others are removed all the same */
        } else if (r == 0) {
            printf("%s\n", args->operands[i]);
        }
    }
    return code;
}

static bool volume_confirm(void)
{
    char answer[16] = "";

    if (!isatty(STDIN_FILENO))
        return true;
    fprintf(stderr, "Remove all volumes that no instance uses? [y/N] ");
    return fgets(answer, sizeof(answer), stdin) && (answer[0] == 'y' || answer[0] == 'Y');
}

int cli_cmd_volume_prune(const struct cli_args *args)
{
    AUTO(store) struct store *store = NULL;
    struct err e = { 0 };
    int r;

    if (!cli_value(args, "force") && !volume_confirm())
        return EXIT_CODE_OK;
    r = volume_become_owner(&e);
    if (r == 0)
        r = cli_inst_open(STORE_WRITE, &store, &e);
    if (r == 0)
        r = volume_remove_unused(store, &e);
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}
