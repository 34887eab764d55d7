/* The tables of the state database and how each version of them becomes the next. The version stands in PRAGMA
 * user_version; a step is a constant for ever once it was released: change tables by adding one. */
#include <errno.h>
#include <stdio.h>

#include "store/store_priv.h"

/* "CAIS", so that file(1) and we ourselves know the database. */
#define SCHEMA_APPLICATION 0x43414953

/* schema_steps[n] leads from version n to n + 1. An object that has many fields of its own is kept as the JSON document
 * that users see; what is searched for or must be unique has columns. */
static const char *const schema_steps[] = {
    "CREATE TABLE networks (\n"
    "    id INTEGER PRIMARY KEY,\n"
    "    name TEXT NOT NULL UNIQUE,\n"
    "    spec TEXT NOT NULL,\n"
    "    created_ns INTEGER NOT NULL\n" /* since 1970, UTC */
    ") STRICT;\n",
    "CREATE TABLE instances (\n"
    "    number INTEGER PRIMARY KEY AUTOINCREMENT,\n" /* the order of creation */
    "    id TEXT NOT NULL UNIQUE,\n"
    "    name TEXT NOT NULL UNIQUE,\n"
    "    status TEXT NOT NULL,\n"
    "    wanted INTEGER NOT NULL,\n"
    "    created_ns INTEGER NOT NULL,\n"
    "    started_ns INTEGER NOT NULL,\n"
    "    ended_ns INTEGER NOT NULL,\n"
    "    exit_code INTEGER NOT NULL,\n"
    "    oom_killed INTEGER NOT NULL,\n"
    "    restarts INTEGER NOT NULL,\n"
    "    error TEXT NOT NULL,\n"
    "    spec TEXT NOT NULL\n"
    ") STRICT;\n"
    "CREATE TABLE events (\n"
    "    serial INTEGER PRIMARY KEY AUTOINCREMENT,\n"
    "    time_ns INTEGER NOT NULL,\n"
    "    object TEXT NOT NULL,\n"
    "    id TEXT NOT NULL,\n"
    "    name TEXT NOT NULL,\n"
    "    action TEXT NOT NULL,\n"
    "    attributes TEXT\n"
    ") STRICT;\n"
    "CREATE TABLE jobs (\n"
    "    serial INTEGER PRIMARY KEY AUTOINCREMENT,\n"
    "    verb TEXT NOT NULL,\n"
    "    object TEXT NOT NULL,\n"
    "    plan TEXT NOT NULL,\n"
    "    started_ns INTEGER NOT NULL\n"
    ") STRICT;\n",

    /* Images are known by the digest of their configuration. parts: all that an image needs,
     * so that what none needs can go. */
    "CREATE TABLE images (\n"
    "    id TEXT PRIMARY KEY,\n"
    "    manifest TEXT NOT NULL,\n"
    "    kind INTEGER NOT NULL,\n"
    "    size INTEGER NOT NULL,\n"
    "    created_ns INTEGER NOT NULL,\n"
    "    added_ns INTEGER NOT NULL\n"
    ") STRICT;\n"
    "CREATE TABLE image_names (\n"
    "    name TEXT PRIMARY KEY,\n"
    "    image TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE\n"
    ") STRICT;\n"
    "CREATE INDEX image_names_image ON image_names(image);\n"
    "CREATE TABLE image_parts (\n"
    "    image TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE,\n"
    "    part TEXT NOT NULL,\n"
    "    PRIMARY KEY (image, part)\n"
    ") STRICT;\n",

    "CREATE TABLE volumes (\n"
    "    name TEXT NOT NULL PRIMARY KEY,\n"
    "    created_ns INTEGER NOT NULL,\n"
    "    instance TEXT NOT NULL,\n" /* with which it goes; '': none */
    "    labels TEXT\n"             /* JSON */
    ") STRICT;\n",
    "CREATE TABLE snapshots (\n"
    "    number INTEGER PRIMARY KEY AUTOINCREMENT,\n"
    "    instance TEXT NOT NULL,\n"
    "    name TEXT NOT NULL,\n"
    "    tag TEXT NOT NULL UNIQUE,\n"
    "    spec TEXT NOT NULL,\n"
    "    created_ns INTEGER NOT NULL,\n"
    "    has_memory INTEGER NOT NULL,\n"
    "    memory_bytes INTEGER NOT NULL,\n"
    "    UNIQUE (instance, name)\n"
    ") STRICT;\n"
    "CREATE TRIGGER snapshots_of_instance AFTER DELETE ON instances BEGIN\n"
    "    DELETE FROM snapshots WHERE instance = OLD.id;\n"
    "END;\n",
    "CREATE TABLE templates (\n"
    "    name TEXT PRIMARY KEY,\n"
    "    image TEXT NOT NULL,\n"
    "    kind INTEGER NOT NULL,\n"
    "    words TEXT NOT NULL,\n" /* JSON: options of the command line */
    "    created_ns INTEGER NOT NULL\n"
    ") STRICT;\n",
};

static int schema_pragma(struct store *s, const char *sql, int *ret_value, struct err *e)
{
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    int r = store_prepare(s, sql, &stmt, e);

    if (r < 0)
        return r;
    if (sqlite3_step(stmt) != SQLITE_ROW)
        return store_fail(s, NULL, e);
    *ret_value = sqlite3_column_int(stmt, 0);
    return 0;
}

/* Version of the schema, after the checks that it is ours and not from the future. */
static int schema_version(struct store *s, int *ret_version, struct err *e)
{
    int application = 0, version = 0, r = schema_pragma(s, "PRAGMA application_id", &application, e);

    if (r == 0)
        r = schema_pragma(s, "PRAGMA user_version", &version, e);
    if (r < 0)
        return r;
    if (application != SCHEMA_APPLICATION && (application != 0 || version != 0))
        return err_set(e, EPROTO, "%s is not a state database of Caisson; move it away", s->path);
    if (version < 0 || version > (int)ARRAY_SIZE(schema_steps))
        return err_set(
            e, EPROTO,
            "state database %s has version %d, and this program knows %zu; use the newer Caisson that wrote it",
            s->path, version, ARRAY_SIZE(schema_steps));
    *ret_version = version;
    return 0;
}

int store_schema_update(struct store *s, struct err *e)
{
    char pragma[96];
    int version, r = schema_version(s, &version, e);

    if (r < 0 || version == (int)ARRAY_SIZE(schema_steps))
        return r;
    r = store_begin(s, e);
    if (r < 0)
        return r;
    r = schema_version(s, &version, e); /* somebody else may have been faster */
    for (; r == 0 && version < (int)ARRAY_SIZE(schema_steps); version++)
        r = store_exec(s, schema_steps[version], e);
    snprintf(pragma, sizeof(pragma), "PRAGMA application_id = %d; PRAGMA user_version = %d", SCHEMA_APPLICATION,
             version);
    if (r == 0)
        r = store_exec(s, pragma, e);
    if (r == 0)
        return store_commit(s, e);
    store_rollback(s);
    return r;
}
