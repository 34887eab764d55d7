#include "store/instance.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/event.h"
#include "store/instance_priv.h"

#define INSTANCE_PREFIX_MIN 2
#define INSTANCE_COLUMNS \
    "id, name, spec, status, wanted, created_ns, started_ns, ended_ns, exit_code, oom_killed, restarts, error"

static const char *const instance_statuses[] = {
    [STORE_INST_CREATING] = "creating", [STORE_INST_CREATED] = "created", [STORE_INST_STARTING] = "starting",
    [STORE_INST_RUNNING] = "running",   [STORE_INST_EXITED] = "exited",   [STORE_INST_SAVED] = "saved",
    [STORE_INST_REMOVING] = "removing",
};

const char *store_inst_status_name(enum store_inst_status status)
{
    return instance_statuses[status];
}

void store_instance_done(struct store_instance *i)
{
    inst_spec_done(&i->spec);
    *i = (struct store_instance){ 0 };
}

static bool instance_id_ok(const char *text, size_t min, size_t max)
{
    size_t len = strspn(text, "0123456789abcdef");

    return text[len] == '\0' && len >= min && len <= max;
}

static const char *instance_text(sqlite3_stmt *stmt, int column)
{
    const char *text = (const char *)sqlite3_column_text(stmt, column);

    return text ? text : "";
}

/* The columns that are not text; -1: a value that nobody wrote. */
static int instance_read_numbers(sqlite3_stmt *stmt, struct store_instance *i)
{
    const char *status = instance_text(stmt, 3);
    size_t at = 0;

    while (at < ARRAY_SIZE(instance_statuses) && strcmp(instance_statuses[at], status) != 0)
        at++;
    if (at == ARRAY_SIZE(instance_statuses))
        return -1;
    i->status = (enum store_inst_status)at;
    i->wanted = sqlite3_column_int(stmt, 4) != 0;
    i->created_ns = sqlite3_column_int64(stmt, 5);
    i->started_ns = sqlite3_column_int64(stmt, 6);
    i->ended_ns = sqlite3_column_int64(stmt, 7);
    i->exit_code = sqlite3_column_int(stmt, 8);
    i->oom_killed = sqlite3_column_int(stmt, 9) != 0;
    i->restarts = (unsigned)sqlite3_column_int(stmt, 10);
    return 0;
}

/* The row that a statement stands on. *i is the caller's after success only. */
static int instance_read(struct store *s, sqlite3_stmt *stmt, struct store_instance *i, struct err *e)
{
    const char *id = instance_text(stmt, 0), *name = instance_text(stmt, 1);
    int r;

    *i = (struct store_instance){ 0 };
    if (!instance_id_ok(id, INST_ID_LEN, INST_ID_LEN) || !proto_name_ok(name) || instance_read_numbers(stmt, i) < 0)
        return err_set(e, EIO, "state database %s: instance %.*s is damaged; restore the database from a backup",
                       s->path, PROTO_NAME_MAX, name);
    r = inst_spec_from_json(instance_text(stmt, 2), &i->spec, e);
    if (r < 0) {
        inst_spec_done(&i->spec);
        err_wrap(e, "state database %s, instance %s", s->path, name);
        if (e && r != -ENOMEM)
            e->code = EIO; /* nobody typed it wrong: it was stored */
        return r == -ENOMEM ? r : -EIO;
    }
    memcpy(i->id, id, INST_ID_LEN + 1);
    snprintf(i->name, sizeof(i->name), "%s", name);
    snprintf(i->error, sizeof(i->error), "%s", instance_text(stmt, 11));
    return 0;
}

/* ---- finding ---- */

int store_instance_name_taken(struct store *s, const char *name, bool *ret_taken, struct err *e)
{
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    int step, r = store_prepare(s, "SELECT 1 FROM instances WHERE name = ?", &stmt, e);

    if (r < 0)
        return r;
    sqlite3_bind_text(stmt, 1, name, -1, SQLITE_STATIC);
    step = sqlite3_step(stmt);
    if (step != SQLITE_ROW && step != SQLITE_DONE)
        return store_fail(s, NULL, e);
    *ret_taken = step == SQLITE_ROW;
    return 0;
}

/* The first row for which `where` holds with text. 1: there is none. *ret_more (may be NULL): there are others. */
static int instance_find(struct store *s, const char *where, const char *text, struct store_instance *ret_instance,
                         bool *ret_more, struct err *e)
{
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    char sql[256];
    int step, r;

    snprintf(sql, sizeof(sql), "SELECT " INSTANCE_COLUMNS " FROM instances WHERE %s", where);
    r = store_prepare(s, sql, &stmt, e);
    if (r < 0)
        return r;
    sqlite3_bind_text(stmt, 1, text, -1, SQLITE_STATIC);
    step = sqlite3_step(stmt);
    if (step == SQLITE_DONE)
        return 1;
    if (step != SQLITE_ROW)
        return store_fail(s, NULL, e);
    r = instance_read(s, stmt, ret_instance, e);
    if (r == 0 && ret_more)
        *ret_more = sqlite3_step(stmt) == SQLITE_ROW;
    return r;
}

static int instance_missing(struct store *s, const char *name, struct err *e)
{
    return store_missing(s, "SELECT name FROM instances", "VM or container", "caisson ls -a", name, e);
}

int store_instance_get(struct store *s, const char *name_or_id, struct store_instance *ret_instance, struct err *e)
{
    bool more = false;
    int r = instance_find(s, "name = ?", name_or_id, ret_instance, NULL, e);

    if (r <= 0)
        return r;
    if (!instance_id_ok(name_or_id, INSTANCE_PREFIX_MIN, INST_ID_LEN))
        return instance_missing(s, name_or_id, e);
    r = instance_find(s, "substr(id, 1, length(?1)) = ?1", name_or_id, ret_instance, &more, e);
    if (r == 0 && more) {
        store_instance_done(ret_instance);
        return err_set(e, ENOTUNIQ, "'%s' is the beginning of more than one id; give more digits of it", name_or_id);
    }
    return r > 0 ? instance_missing(s, name_or_id, e) : r;
}

int store_instance_each(struct store *s, int (*fn)(void *opaque, const struct store_instance *i), void *opaque,
                        struct err *e)
{
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    AUTO_FREE struct store_instance *i = malloc(sizeof(*i));
    int r;

    if (!i)
        return err_set(e, ENOMEM, "out of memory");
    r = store_prepare(s, "SELECT " INSTANCE_COLUMNS " FROM instances ORDER BY number", &stmt, e);
    if (r < 0)
        return r;
    while ((r = store_next(s, stmt, e)) > 0) {
        r = instance_read(s, stmt, i, e);
        if (r < 0)
            return r;
        r = fn(opaque, i);
        store_instance_done(i);
        if (r != 0)
            return r;
    }
    return r;
}

/* ---- changing ---- */

static int instance_event(struct store *s, const struct store_instance *i, const char *action, struct err *e)
{
    char attributes[96];
    const struct store_event event = {
        .object = inst_kind_name(i->spec.kind),
        .id = i->id,
        .name = i->name,
        .action = action,
        .attributes = strcmp(action, "die") == 0 ? attributes : NULL,
    };

    snprintf(attributes, sizeof(attributes), "{\"exit_code\":%d,\"oom_killed\":%s}", i->exit_code,
             i->oom_killed ? "true" : "false");
    return store_event_add(s, &event, e);
}

static int instance_spec_text(const struct inst_spec *spec, char **ret_text, struct err *e)
{
    json_object *o = inst_spec_to_object(spec);
    const char *text = o ? json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN) : NULL;
    char *copy = text ? strdup(text) : NULL;

    json_object_put(o);
    if (!copy)
        return err_set(e, ENOMEM, "out of memory");
    if (strlen(copy) > INST_SPEC_TEXT_MAX) {
        free(copy);
        return err_set(e, E2BIG, "the description of the instance is longer than %u bytes; give less, e.g. environment",
                       INST_SPEC_TEXT_MAX);
    }
    *ret_text = copy;
    return 0;
}

struct instance_new {
    const char *name;
    const struct inst_spec *spec;
    enum store_inst_status status;
    struct store_instance *i; /* id, name, created_ns are filled */
};

static int instance_insert(struct store *s, const struct instance_new *new, struct err *e)
{
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    AUTO_FREE char *text = NULL;
    int r = instance_spec_text(new->spec, &text, e);

    if (r == 0)
        r = store_prepare(s,
                          "INSERT INTO instances (" INSTANCE_COLUMNS ") "
                          "VALUES (?, ?, ?, ?, 0, ?, 0, 0, 0, 0, 0, '')",
                          &stmt, e);
    if (r < 0)
        return r;
    sqlite3_bind_text(stmt, 1, new->i->id, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 2, new->i->name, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 3, text, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 4, store_inst_status_name(new->status), -1, SQLITE_STATIC);
    sqlite3_bind_int64(stmt, 5, new->i->created_ns);
    return sqlite3_step(stmt) == SQLITE_DONE ? 0 : store_fail(s, NULL, e);
}

static int instance_check_name(struct store *s, const char *name, struct err *e)
{
    bool taken = false;
    int r;

    if (!proto_name_ok(name))
        return err_set(e, EINVAL, "name '%.80s' is not allowed; use 1 to %d of a-z, 0-9 and '-', not starting with '-'",
                       name, PROTO_NAME_MAX);
    r = store_instance_name_taken(s, name, &taken, e);
    if (r == 0 && taken)
        return err_set(e, EEXIST, "name %s is taken already; use another one, or remove that with 'caisson rm %s'",
                       name, name);
    return r;
}

/* The short form of an id names places in the runtime directory, so it is unique too. */
static int instance_choose_id(struct store *s, char ret_id[INST_ID_LEN + 1], struct err *e)
{
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    int r = store_prepare(s, "SELECT 1 FROM instances WHERE substr(id, 1, ?2) = substr(?1, 1, ?2)", &stmt, e);

    while (r == 0) {
        int step;

        r = store_instance_new_id(ret_id);
        if (r < 0)
            return err_set(e, -r, "cannot get random bytes for an id: %s", strerror(-r));
        sqlite3_reset(stmt);
        sqlite3_bind_text(stmt, 1, ret_id, -1, SQLITE_STATIC);
        sqlite3_bind_int(stmt, 2, INST_ID_SHORT);
        step = sqlite3_step(stmt);
        if (step != SQLITE_ROW)
            return step == SQLITE_DONE ? 0 : store_fail(s, NULL, e);
    }
    return r;
}

static int instance_add(struct store *s, const void *arg, struct err *e)
{
    const struct instance_new *new = arg;
    struct store_instance *i = new->i;
    int r;

    if (new->name[0]) {
        r = instance_check_name(s, new->name, e);
        if (r == 0)
            snprintf(i->name, sizeof(i->name), "%s", new->name);
    } else {
        r = store_instance_new_name(s, i->name, e);
    }
    if (r == 0)
        r = instance_choose_id(s, i->id, e);
    i->created_ns = store_now_ns();
    i->spec.kind = new->spec->kind;
    if (r == 0)
        r = instance_insert(s, new, e);
    return r < 0 || new->status == STORE_INST_CREATING ? r : instance_event(s, i, "create", e);
}

static int instance_new(struct store *s, const char *name, const struct inst_spec *spec, enum store_inst_status status,
                        struct store_instance *ret_instance, struct err *e)
{
    AUTO_FREE struct store_instance *made = calloc(1, sizeof(*made));
    struct instance_new new = { name, spec, status, made };
    int r;

    if (!made)
        return err_set(e, ENOMEM, "out of memory");
    r = inst_spec_check(spec, e);
    if (r == 0)
        r = store_change(s, instance_add, &new, e);
    return r < 0 || !ret_instance ? r : store_instance_get(s, made->id, ret_instance, e);
}

int store_instance_add(struct store *s, const char *name, const struct inst_spec *spec,
                       struct store_instance *ret_instance, struct err *e)
{
    return instance_new(s, name, spec, STORE_INST_CREATED, ret_instance, e);
}

int store_instance_begin(struct store *s, const char *name, const struct inst_spec *spec,
                         struct store_instance *ret_instance, struct err *e)
{
    return instance_new(s, name, spec, STORE_INST_CREATING, ret_instance, e);
}

struct instance_change {
    const struct store_instance *i;
    const char *id, *name, *action;
    const struct inst_spec *spec;
};

/* After an UPDATE or DELETE by id: -ENOENT where it met no row. */
static int instance_changed(struct store *s, sqlite3_stmt *stmt, const char *id, struct err *e)
{
    if (sqlite3_step(stmt) != SQLITE_DONE)
        return store_fail(s, NULL, e);
    return sqlite3_changes(s->db) > 0 ? 0
                                      : err_set(e, ENOENT, "instance %.*s was removed meanwhile", INST_ID_SHORT, id);
}

static int instance_set(struct store *s, const void *arg, struct err *e)
{
    const struct instance_change *c = arg;
    const struct store_instance *i = c->i;
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    int r = store_prepare(s,
                          "UPDATE instances SET status = ?2, wanted = ?3, started_ns = ?4, ended_ns = ?5, "
                          "exit_code = ?6, oom_killed = ?7, restarts = ?8, error = ?9 WHERE id = ?1",
                          &stmt, e);

    if (r < 0)
        return r;
    sqlite3_bind_text(stmt, 1, i->id, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 2, store_inst_status_name(i->status), -1, SQLITE_STATIC);
    sqlite3_bind_int(stmt, 3, i->wanted);
    sqlite3_bind_int64(stmt, 4, i->started_ns);
    sqlite3_bind_int64(stmt, 5, i->ended_ns);
    sqlite3_bind_int(stmt, 6, i->exit_code);
    sqlite3_bind_int(stmt, 7, i->oom_killed);
    sqlite3_bind_int64(stmt, 8, i->restarts);
    sqlite3_bind_text(stmt, 9, i->error, -1, SQLITE_STATIC);
    r = instance_changed(s, stmt, i->id, e);
    return r < 0 || !c->action ? r : instance_event(s, i, c->action, e);
}

int store_instance_set(struct store *s, const struct store_instance *i, const char *action, struct err *e)
{
    return store_change(s, instance_set, &(struct instance_change){ .i = i, .action = action }, e);
}

/* The event of a change that begins with an id. */
static int instance_event_of(struct store *s, const char *id, const char *action, struct err *e)
{
    AUTO_FREE struct store_instance *i = malloc(sizeof(*i));
    int r = i ? store_instance_get(s, id, i, e) : err_set(e, ENOMEM, "out of memory");

    if (r < 0)
        return r;
    r = instance_event(s, i, action, e);
    store_instance_done(i);
    return r;
}

static int instance_rename(struct store *s, const void *arg, struct err *e)
{
    const struct instance_change *c = arg;
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    int r = instance_check_name(s, c->name, e);

    if (r == 0)
        r = store_prepare(s, "UPDATE instances SET name = ?2 WHERE id = ?1", &stmt, e);
    if (r < 0)
        return r;
    sqlite3_bind_text(stmt, 1, c->id, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 2, c->name, -1, SQLITE_STATIC);
    r = instance_changed(s, stmt, c->id, e);
    return r < 0 ? r : instance_event_of(s, c->id, "rename", e);
}

int store_instance_rename(struct store *s, const char *id, const char *name, struct err *e)
{
    return store_change(s, instance_rename, &(struct instance_change){ .id = id, .name = name }, e);
}

/* The specification of c->id; no event. */
static int instance_set_spec(struct store *s, const struct instance_change *c, struct err *e)
{
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    AUTO_FREE char *text = NULL;
    int r = instance_spec_text(c->spec, &text, e);

    if (r == 0)
        r = store_prepare(s, "UPDATE instances SET spec = ?2 WHERE id = ?1", &stmt, e);
    if (r < 0)
        return r;
    sqlite3_bind_text(stmt, 1, c->id, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 2, text, -1, SQLITE_STATIC);
    return instance_changed(s, stmt, c->id, e);
}

static int instance_update(struct store *s, const void *arg, struct err *e)
{
    const struct instance_change *c = arg;
    int r = instance_set_spec(s, c, e);

    return r < 0 ? r : instance_event_of(s, c->id, "update", e);
}

static int instance_finish(struct store *s, const void *arg, struct err *e)
{
    int r = instance_set_spec(s, arg, e);

    return r < 0 ? r : instance_set(s, arg, e);
}

int store_instance_finish(struct store *s, const struct store_instance *i, struct err *e)
{
    const struct instance_change change = { .i = i, .id = i->id, .spec = &i->spec, .action = "create" };
    int r = inst_spec_check(&i->spec, e);

    return r < 0 ? r : store_change(s, instance_finish, &change, e);
}

int store_instance_update(struct store *s, const char *id, const struct inst_spec *spec, struct err *e)
{
    int r = inst_spec_check(spec, e);

    return r < 0 ? r : store_change(s, instance_update, &(struct instance_change){ .id = id, .spec = spec }, e);
}

static int instance_remove(struct store *s, const void *arg, struct err *e)
{
    const struct instance_change *c = arg;
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    int r = c->action ? instance_event_of(s, c->id, c->action, e) : 0;

    if (r == 0)
        r = store_prepare(s, "DELETE FROM instances WHERE id = ?1", &stmt, e);
    if (r < 0)
        return r;
    sqlite3_bind_text(stmt, 1, c->id, -1, SQLITE_STATIC);
    return instance_changed(s, stmt, c->id, e);
}

int store_instance_remove(struct store *s, const struct store_instance *i, struct err *e)
{
    const struct instance_change change = {
        .id = i->id, .action = i->status == STORE_INST_CREATING ? NULL : "remove", /* it never was */
    };

    return store_change(s, instance_remove, &change, e);
}
