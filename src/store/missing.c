/* Names that are not there, and what was probably meant. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/word.h"
#include "store/store_priv.h"

struct missing_names {
    char (*names)[PROTO_NAME_MAX + 1];
    size_t n;
};

static const char *missing_name_at(const void *opaque, size_t i)
{
    const struct missing_names *list = opaque;

    return i < list->n ? list->names[i] : NULL;
}

/* As many as memory allows: a hint is no reason to fail. */
static void missing_collect(sqlite3_stmt *stmt, struct missing_names *list)
{
    while (sqlite3_step(stmt) == SQLITE_ROW) {
        const char *name = (const char *)sqlite3_column_text(stmt, 0);
        void *grown = name ? realloc(list->names, (list->n + 1) * sizeof(*list->names)) : NULL;

        if (!grown)
            return;
        list->names = grown;
        snprintf(list->names[list->n++], sizeof(*list->names), "%s", name);
    }
}

bool store_nearest(struct store *s, const char *sql, const char *text, const char *name,
                   char ret_near[PROTO_NAME_MAX + 1])
{
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    struct missing_names list = { 0 };
    struct err ignored = { 0 };
    const char *near = NULL;

    if (store_prepare(s, sql, &stmt, &ignored) == 0) {
        if (text)
            sqlite3_bind_text(stmt, 1, text, -1, SQLITE_STATIC);
        missing_collect(stmt, &list);
        near = word_nearest(name, missing_name_at, &list);
    }
    if (near)
        snprintf(ret_near, PROTO_NAME_MAX + 1, "%s", near);
    free(list.names);
    return near != NULL;
}

int store_missing(struct store *s, const char *sql, const char *what, const char *see, const char *name, struct err *e)
{
    char near[PROTO_NAME_MAX + 1];

    if (store_nearest(s, sql, NULL, name, near))
        return err_set(e, ENOENT, "no %s is called '%.*s'; did you mean '%s'?", what, PROTO_NAME_MAX, name, near);
    return err_set(e, ENOENT, "no %s is called '%.*s'; see '%s'", what, PROTO_NAME_MAX, name, see);
}
