#include "store/volume.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/event.h"
#include "store/store_priv.h"

#define VOLUME_COLUMNS "name, created_ns, instance, labels"

void store_volume_done(struct store_volume *v)
{
    json_object_put(v->labels);
    v->labels = NULL;
}

/* The row that a statement stands on: VOLUME_COLUMNS. */
static int volume_read(struct store *s, sqlite3_stmt *stmt, struct store_volume *ret, struct err *e)
{
    const char *name = (const char *)sqlite3_column_text(stmt, 0),
               *instance = (const char *)sqlite3_column_text(stmt, 2),
               *labels = (const char *)sqlite3_column_text(stmt, 3);
    struct store_volume v = { .created_ns = sqlite3_column_int64(stmt, 1) };

    if (!name || !instance)
        return store_fail(s, NULL, e);
    /* The name becomes a path. */
    if (!proto_name_ok(name))
        return err_set(e, EIO, "state database %s: a volume has a name that is none; restore it from a backup",
                       s->path);
    snprintf(v.name, sizeof(v.name), "%s", name);
    snprintf(v.instance, sizeof(v.instance), "%s", instance);
    v.labels = labels ? json_tokener_parse(labels) : NULL;
    *ret = v;
    return 0;
}

int store_volume_each(struct store *s, int (*fn)(void *opaque, const struct store_volume *volume), void *opaque,
                      struct err *e)
{
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    int r = store_prepare(s, "SELECT " VOLUME_COLUMNS " FROM volumes ORDER BY name", &stmt, e);

    if (r < 0)
        return r;
    while ((r = store_next(s, stmt, e)) > 0) {
        struct store_volume v;

        r = volume_read(s, stmt, &v, e);
        if (r < 0)
            return r;
        r = fn(opaque, &v);
        store_volume_done(&v);
        if (r != 0)
            return r;
    }
    return r;
}

static int volume_missing(struct store *s, const char *name, struct err *e)
{
    return store_missing(s, "SELECT name FROM volumes", "volume", "caisson volume ls", name, e);
}

int store_volume_get(struct store *s, const char *name, struct store_volume *ret_volume, struct err *e)
{
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    int r = store_prepare(s, "SELECT " VOLUME_COLUMNS " FROM volumes WHERE name = ?", &stmt, e);

    if (r < 0)
        return r;
    sqlite3_bind_text(stmt, 1, name, -1, SQLITE_STATIC);
    r = store_next(s, stmt, e);
    return r < 0 ? r : r > 0 ? volume_read(s, stmt, ret_volume, e) : volume_missing(s, name, e);
}

/* ---- changing ---- */

static int volume_event(struct store *s, const char *name, const char *action, struct err *e)
{
    const struct store_event event = { .object = "volume", .id = name, .name = name, .action = action };

    return store_event_add(s, &event, e);
}

static int volume_add(struct store *s, const void *arg, struct err *e)
{
    const struct store_volume *v = arg;
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    int step, r = store_prepare(s, "INSERT INTO volumes (" VOLUME_COLUMNS ") VALUES (?, ?, ?, ?)", &stmt, e);

    if (r < 0)
        return r;
    sqlite3_bind_text(stmt, 1, v->name, -1, SQLITE_STATIC);
    sqlite3_bind_int64(stmt, 2, v->created_ns ? v->created_ns : store_now_ns());
    sqlite3_bind_text(stmt, 3, v->instance, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 4, v->labels ? json_object_to_json_string_ext(v->labels, JSON_C_TO_STRING_PLAIN) : NULL, -1,
                      SQLITE_STATIC);
    step = sqlite3_step(stmt);
    if ((step & 0xff) == SQLITE_CONSTRAINT)
        return err_set(e, EEXIST, "volume %s exists already; use another name, or 'caisson volume rm %s'", v->name,
                       v->name);
    if (step != SQLITE_DONE)
        return store_fail(s, v->name, e);
    return volume_event(s, v->name, "create", e);
}

int store_volume_add(struct store *s, const struct store_volume *volume, struct err *e)
{
    return store_change(s, volume_add, volume, e);
}

static int volume_remove(struct store *s, const void *arg, struct err *e)
{
    const char *name = arg;
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    int r = store_prepare(s, "DELETE FROM volumes WHERE name = ?", &stmt, e);

    if (r < 0)
        return r;
    sqlite3_bind_text(stmt, 1, name, -1, SQLITE_STATIC);
    if (sqlite3_step(stmt) != SQLITE_DONE)
        return store_fail(s, name, e);
    return sqlite3_changes(s->db) > 0 ? volume_event(s, name, "remove", e) : volume_missing(s, name, e);
}

int store_volume_remove(struct store *s, const char *name, struct err *e)
{
    return store_change(s, volume_remove, name, e);
}
