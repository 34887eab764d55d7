#include "store/template.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "store/store_priv.h"

void store_template_done(struct store_template *t)
{
    inst_strings_done(&t->words);
}

/* The words of a row; text of a database is checked like a stranger's. */
static int template_words(const char *text, struct inst_strings *ret)
{
    json_object *list = json_tokener_parse(text);
    int r = json_object_is_type(list, json_type_array) && json_object_array_length(list) <= STORE_TEMPLATE_WORDS_MAX
                ? 0
                : -EINVAL;

    for (size_t i = 0; r == 0 && i < json_object_array_length(list); i++) {
        json_object *word = json_object_array_get_idx(list, i);

        r = json_object_is_type(word, json_type_string) ? inst_strings_add(ret, json_object_get_string(word)) : -EINVAL;
    }
    json_object_put(list);
    return r;
}

/* The row that a statement stands on: name, image, kind, words, created_ns. */
static int template_read(struct store *s, sqlite3_stmt *stmt, struct store_template *ret, struct err *e)
{
    const char *name = (const char *)sqlite3_column_text(stmt, 0), *image = (const char *)sqlite3_column_text(stmt, 1),
               *words = (const char *)sqlite3_column_text(stmt, 3);
    struct store_template t = { .kind = sqlite3_column_int(stmt, 2) == INST_VM ? INST_VM : INST_CONTAINER,
                                .created_ns = sqlite3_column_int64(stmt, 4) };
    int r;

    if (!name || !image || !words)
        return store_fail(s, "a template", e);
    snprintf(t.name, sizeof(t.name), "%.*s", PROTO_NAME_MAX, name);
    snprintf(t.image, sizeof(t.image), "%.*s", STORE_TEMPLATE_IMAGE_MAX - 1, image);
    r = template_words(words, &t.words);
    if (r < 0) {
        store_template_done(&t);
        return err_set(e, r == -ENOMEM ? ENOMEM : EIO,
                       "state database %s: template %s is damaged; remove and make it again", s->path, t.name);
    }
    *ret = t;
    return 0;
}

int store_template_each(struct store *s, int (*fn)(void *opaque, const struct store_template *t), void *opaque,
                        struct err *e)
{
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    int r = store_prepare(s, "SELECT name, image, kind, words, created_ns FROM templates ORDER BY name", &stmt, e);

    if (r < 0)
        return r;
    while ((r = store_next(s, stmt, e)) > 0) {
        struct store_template t = { 0 };

        r = template_read(s, stmt, &t, e);
        if (r == 0)
            r = fn(opaque, &t);
        store_template_done(&t);
        if (r != 0)
            return r;
    }
    return r;
}

static int template_missing(struct store *s, const char *name, struct err *e)
{
    return store_missing(s, "SELECT name FROM templates", "template", "caisson template ls", name, e);
}

int store_template_get(struct store *s, const char *name, struct store_template *ret_template, struct err *e)
{
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    int r = store_prepare(s, "SELECT name, image, kind, words, created_ns FROM templates WHERE name = ?", &stmt, e);

    if (r < 0)
        return r;
    sqlite3_bind_text(stmt, 1, name, -1, SQLITE_STATIC);
    r = store_next(s, stmt, e);
    return r < 0 ? r : r > 0 ? template_read(s, stmt, ret_template, e) : template_missing(s, name, e);
}

int store_template_add(struct store *s, const struct store_template *t, struct err *e)
{
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    json_object *words = json_object_new_array();
    struct timespec now;
    int r = store_prepare(s, "INSERT INTO templates (name, image, kind, words, created_ns) VALUES (?, ?, ?, ?, ?)",
                          &stmt, e);

    for (size_t i = 0; i < t->words.n; i++)
        json_object_array_add(words, json_object_new_string(t->words.at[i]));
    clock_gettime(CLOCK_REALTIME, &now);
    if (r == 0) {
        sqlite3_bind_text(stmt, 1, t->name, -1, SQLITE_STATIC);
        sqlite3_bind_text(stmt, 2, t->image, -1, SQLITE_STATIC);
        sqlite3_bind_int(stmt, 3, (int)t->kind);
        sqlite3_bind_text(stmt, 4, json_object_to_json_string_ext(words, JSON_C_TO_STRING_PLAIN), -1, SQLITE_TRANSIENT);
        sqlite3_bind_int64(stmt, 5, now.tv_sec * 1000000000LL + now.tv_nsec);
        switch (sqlite3_step(stmt) & 0xff) { /* without the extension */
        case SQLITE_DONE:
            break;
        case SQLITE_CONSTRAINT:
            r = err_set(e, EEXIST, "there is a template called '%s'; remove it first, or choose another name", t->name);
            break;
        default:
            r = store_fail(s, NULL, e);
        }
    }
    json_object_put(words);
    return r;
}

int store_template_remove(struct store *s, const char *name, struct err *e)
{
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    int r = store_prepare(s, "DELETE FROM templates WHERE name = ?", &stmt, e);

    if (r < 0)
        return r;
    sqlite3_bind_text(stmt, 1, name, -1, SQLITE_STATIC);
    if (sqlite3_step(stmt) != SQLITE_DONE)
        return store_fail(s, NULL, e);
    return sqlite3_changes(s->db) > 0 ? 0 : template_missing(s, name, e);
}
