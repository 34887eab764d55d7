#include "store/snapshot.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "store/event.h"
#include "store/store_priv.h"

#define SNAPSHOT_COLUMNS "instance, name, tag, spec, created_ns, has_memory, memory_bytes"

int store_snapshot_new_tag(char ret_tag[STORE_SNAPSHOT_TAG_MAX], struct err *e)
{
    uint64_t number;

    if (getrandom(&number, sizeof(number), 0) != sizeof(number))
        return err_set(e, errno, "cannot choose a number for the snapshot: %s", strerror(errno));
    snprintf(ret_tag, STORE_SNAPSHOT_TAG_MAX, "caisson-%016llx", (unsigned long long)number);
    return 0;
}

void store_snapshot_done(struct store_snapshot *snapshot)
{
    inst_spec_done(&snapshot->spec);
    *snapshot = (struct store_snapshot){ 0 };
}

/* ---- reading ---- */

static bool snapshot_text(sqlite3_stmt *stmt, int column, char *ret_text, size_t size)
{
    const char *text = (const char *)sqlite3_column_text(stmt, column);

    return text && text[0] && snprintf(ret_text, size, "%s", text) < (int)size;
}

/* The row that a statement stands on. *x is the caller's after success only. */
static int snapshot_read(struct store *s, sqlite3_stmt *stmt, struct store_snapshot *x, struct err *e)
{
    const char *spec = (const char *)sqlite3_column_text(stmt, 3);
    int64_t bytes = sqlite3_column_int64(stmt, 6);
    int r;

    *x = (struct store_snapshot){ 0 };
    if (!snapshot_text(stmt, 0, x->instance, sizeof(x->instance)) ||
        !snapshot_text(stmt, 1, x->name, sizeof(x->name)) || !proto_name_ok(x->name) ||
        !snapshot_text(stmt, 2, x->tag, sizeof(x->tag)) || strchr(x->tag, '/') || !spec || bytes < 0)
        return err_set(e, EIO, "state database %s: a snapshot is damaged; restore the database from a backup", s->path);
    r = inst_spec_from_json(spec, &x->spec, e);
    if (r < 0) {
        inst_spec_done(&x->spec);
        err_wrap(e, "state database %s, snapshot %s", s->path, x->name);
        if (e && r != -ENOMEM)
            e->code = EIO; /* nobody typed it wrong: it was stored */
        return r == -ENOMEM ? r : -EIO;
    }
    x->created_ns = sqlite3_column_int64(stmt, 4);
    x->has_memory = sqlite3_column_int(stmt, 5) != 0;
    x->memory_bytes = (uint64_t)bytes;
    return 0;
}

int store_snapshot_each(struct store *s, const char *instance,
                        int (*fn)(void *opaque, const struct store_snapshot *snapshot), void *opaque, struct err *e)
{
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    AUTO_FREE struct store_snapshot *x = malloc(sizeof(*x));
    int r;

    if (!x)
        return err_set(e, ENOMEM, "out of memory");
    r = store_prepare(s, "SELECT " SNAPSHOT_COLUMNS " FROM snapshots WHERE ?1 IS NULL OR instance = ?1 ORDER BY number",
                      &stmt, e);
    if (r < 0)
        return r;
    sqlite3_bind_text(stmt, 1, instance, -1, SQLITE_STATIC);
    while ((r = store_next(s, stmt, e)) > 0) {
        r = snapshot_read(s, stmt, x, e);
        if (r < 0)
            return r;
        r = fn(opaque, x);
        store_snapshot_done(x);
        if (r != 0)
            return r;
    }
    return r;
}

/* ---- finding ---- */

static int snapshot_missing(struct store *s, const char *instance, const char *instance_name, const char *name,
                            struct err *e)
{
    char near[PROTO_NAME_MAX + 1];

    if (store_nearest(s, "SELECT name FROM snapshots WHERE instance = ?1", instance, name, near))
        return err_set(e, ENOENT, "%s has no snapshot '%.*s'; did you mean '%s'?", instance_name, PROTO_NAME_MAX, name,
                       near);
    return err_set(e, ENOENT, "%s has no snapshot '%.*s'; see 'caisson snapshot ls %s'", instance_name, PROTO_NAME_MAX,
                   name, instance_name);
}

int store_snapshot_get(struct store *s, const char *instance, const char *instance_name, const char *name,
                       struct store_snapshot *ret_snapshot, struct err *e)
{
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    int r = store_prepare(s, "SELECT " SNAPSHOT_COLUMNS " FROM snapshots WHERE instance = ? AND name = ?", &stmt, e);

    if (r < 0)
        return r;
    sqlite3_bind_text(stmt, 1, instance, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 2, name, -1, SQLITE_STATIC);
    r = store_next(s, stmt, e);
    return r < 0   ? r
           : r > 0 ? snapshot_read(s, stmt, ret_snapshot, e)
                   : snapshot_missing(s, instance, instance_name, name, e);
}

/* ---- changing ---- */

static int snapshot_event(struct store *s, const struct store_snapshot *x, const char *action, struct err *e)
{
    const struct store_event event = { .object = "snapshot", .id = x->instance, .name = x->name, .action = action };

    return store_event_add(s, &event, e);
}

static int snapshot_insert(struct store *s, const void *arg, struct err *e)
{
    const struct store_snapshot *x = arg;
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    json_object *o = inst_spec_to_object(&x->spec);
    const char *text = o ? json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN) : NULL;
    int step = SQLITE_NOMEM, r = text ? 0 : err_set(e, ENOMEM, "out of memory");

    if (r == 0)
        r = store_prepare(s, "INSERT INTO snapshots (" SNAPSHOT_COLUMNS ") VALUES (?, ?, ?, ?, ?, ?, ?)", &stmt, e);
    if (r == 0) {
        sqlite3_bind_text(stmt, 1, x->instance, -1, SQLITE_STATIC);
        sqlite3_bind_text(stmt, 2, x->name, -1, SQLITE_STATIC);
        sqlite3_bind_text(stmt, 3, x->tag, -1, SQLITE_STATIC);
        sqlite3_bind_text(stmt, 4, text, -1, SQLITE_STATIC);
        sqlite3_bind_int64(stmt, 5, store_now_ns());
        sqlite3_bind_int(stmt, 6, x->has_memory);
        sqlite3_bind_int64(stmt, 7, (int64_t)x->memory_bytes);
        step = sqlite3_step(stmt);
        if ((step & 0xff) == SQLITE_CONSTRAINT)
            r = err_set(e, EEXIST, "there is a snapshot '%s' already; choose another name, or remove that one",
                        x->name);
        else if (step != SQLITE_DONE)
            r = store_fail(s, NULL, e);
    }
    json_object_put(o);
    return r < 0 ? r : snapshot_event(s, x, "create", e);
}

int store_snapshot_add(struct store *s, const struct store_snapshot *snapshot, struct err *e)
{
    return store_change(s, snapshot_insert, snapshot, e);
}

struct snapshot_key {
    const char *instance, *name;
};

static int snapshot_delete(struct store *s, const void *arg, struct err *e)
{
    const struct snapshot_key *key = arg;
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    struct store_snapshot x = { 0 };
    int r = store_prepare(s, "DELETE FROM snapshots WHERE instance = ? AND name = ?", &stmt, e);

    if (r < 0)
        return r;
    sqlite3_bind_text(stmt, 1, key->instance, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 2, key->name, -1, SQLITE_STATIC);
    if (sqlite3_step(stmt) != SQLITE_DONE)
        return store_fail(s, NULL, e);
    if (sqlite3_changes(s->db) == 0)
        return err_set(e, ENOENT, "snapshot '%s' is gone: another process has removed it; see 'caisson snapshot ls'",
                       key->name);
    snprintf(x.instance, sizeof(x.instance), "%s", key->instance);
    snprintf(x.name, sizeof(x.name), "%s", key->name);
    return snapshot_event(s, &x, "remove", e);
}

int store_snapshot_remove(struct store *s, const char *instance, const char *name, struct err *e)
{
    return store_change(s, snapshot_delete, &(struct snapshot_key){ instance, name }, e);
}
