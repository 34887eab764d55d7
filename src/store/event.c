#include "store/event.h"

#include "store/store_priv.h"

static int event_add(struct store *s, const void *arg, struct err *e)
{
    const struct store_event *event = arg;
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL, *trim = NULL;
    int r = store_prepare(s,
                          "INSERT INTO events (time_ns, object, id, name, action, attributes) "
                          "VALUES (?, ?, ?, ?, ?, ?)",
                          &stmt, e);

    if (r < 0)
        return r;
    sqlite3_bind_int64(stmt, 1, store_now_ns());
    sqlite3_bind_text(stmt, 2, event->object, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 3, event->id, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 4, event->name, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 5, event->action, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 6, event->attributes, -1, SQLITE_STATIC);
    if (sqlite3_step(stmt) != SQLITE_DONE)
        return store_fail(s, NULL, e);
    r = store_prepare(s, "DELETE FROM events WHERE serial <= ?", &trim, e);
    if (r < 0)
        return r;
    sqlite3_bind_int64(trim, 1, sqlite3_last_insert_rowid(s->db) - STORE_EVENTS_MAX);
    return sqlite3_step(trim) == SQLITE_DONE ? 0 : store_fail(s, NULL, e);
}

int store_event_add(struct store *s, const struct store_event *event, struct err *e)
{
    return store_change(s, event_add, event, e);
}

static const char *event_text(sqlite3_stmt *stmt, int column)
{
    const char *text = (const char *)sqlite3_column_text(stmt, column);

    return text ? text : "";
}

int store_event_each(struct store *s, int64_t after, int (*fn)(void *opaque, const struct store_event *event),
                     void *opaque, struct err *e)
{
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    int r = store_prepare(s,
                          "SELECT serial, time_ns, object, id, name, action, attributes FROM events "
                          "WHERE serial > ? ORDER BY serial",
                          &stmt, e);

    if (r < 0)
        return r;
    sqlite3_bind_int64(stmt, 1, after);
    while ((r = store_next(s, stmt, e)) > 0) {
        const struct store_event event = {
            .serial = sqlite3_column_int64(stmt, 0),
            .time_ns = sqlite3_column_int64(stmt, 1),
            .object = event_text(stmt, 2),
            .id = event_text(stmt, 3),
            .name = event_text(stmt, 4),
            .action = event_text(stmt, 5),
            .attributes = (const char *)sqlite3_column_text(stmt, 6),
        };

        r = fn(opaque, &event);
        if (r != 0)
            return r;
    }
    return r;
}
