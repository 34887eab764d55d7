#include "store/image.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "store/store_priv.h"

#define IMAGE_COLUMNS "images.id, images.manifest, images.kind, images.size, images.created_ns, images.added_ns"

/* Prepare, with up to two texts (NULL: none) bound in order. */
static int image_query(struct store *s, const char *sql, const char *a, const char *b, sqlite3_stmt **ret_stmt,
                       struct err *e)
{
    int r = store_prepare(s, sql, ret_stmt, e);

    if (r < 0)
        return r;
    if (a)
        sqlite3_bind_text(*ret_stmt, 1, a, -1, SQLITE_STATIC);
    if (b)
        sqlite3_bind_text(*ret_stmt, 2, b, -1, SQLITE_STATIC);
    return 0;
}

/* Run a change. Returns how many rows it was about. */
static int image_change(struct store *s, const char *sql, const char *a, const char *b, struct err *e)
{
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    int r = image_query(s, sql, a, b, &stmt, e);

    if (r < 0)
        return r;
    return sqlite3_step(stmt) == SQLITE_DONE ? sqlite3_changes(s->db) : store_fail(s, NULL, e);
}

static int image_copy_text(struct store *s, sqlite3_stmt *stmt, int column, char *text, size_t size, struct err *e)
{
    const char *value = (const char *)sqlite3_column_text(stmt, column);

    if (!value)
        return store_fail(s, NULL, e);
    if ((size_t)snprintf(text, size, "%s", value) >= size)
        return err_set(e, EIO,
                       "state database %s is damaged: an image with a text of %zu bytes; restore it from a backup",
                       s->path, strlen(value));
    return 0;
}

static int image_read(struct store *s, sqlite3_stmt *stmt, struct store_image *ret_image, struct err *e)
{
    struct store_image i = {
        .kind = sqlite3_column_int(stmt, 2),
        .size = (uint64_t)sqlite3_column_int64(stmt, 3),
        .created_ns = sqlite3_column_int64(stmt, 4),
        .added_ns = sqlite3_column_int64(stmt, 5),
    };
    int r = image_copy_text(s, stmt, 0, i.id, sizeof(i.id), e);

    if (r == 0)
        r = image_copy_text(s, stmt, 1, i.manifest, sizeof(i.manifest), e);
    if (r == 0)
        *ret_image = i;
    return r;
}

static int image_read_one(struct store *s, const char *sql, const char *key, struct store_image *ret_image,
                          struct err *e)
{
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    int r = image_query(s, sql, key, NULL, &stmt, e);

    if (r < 0)
        return r;
    r = store_next(s, stmt, e);
    return r < 0 ? r : r > 0 ? image_read(s, stmt, ret_image, e) : 1;
}

int store_image_find(struct store *s, const char *id, struct store_image *ret_image, struct err *e)
{
    return image_read_one(s, "SELECT " IMAGE_COLUMNS " FROM images WHERE id = ?", id, ret_image, e);
}

int store_image_named(struct store *s, const char *name, struct store_image *ret_image, struct err *e)
{
    return image_read_one(
        s, "SELECT " IMAGE_COLUMNS " FROM images JOIN image_names ON image = images.id WHERE image_names.name = ?",
        name, ret_image, e);
}

int store_image_each(struct store *s, int (*fn)(void *opaque, const struct store_image *image), void *opaque,
                     struct err *e)
{
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    struct store_image i;
    int r = image_query(s, "SELECT " IMAGE_COLUMNS " FROM images ORDER BY added_ns DESC, id", NULL, NULL, &stmt, e);

    if (r < 0)
        return r;
    while ((r = store_next(s, stmt, e)) > 0) {
        r = image_read(s, stmt, &i, e);
        if (r == 0)
            r = fn(opaque, &i);
        if (r != 0)
            return r;
    }
    return r;
}

/* ---- changing ---- */

static int image_insert(struct store *s, const struct store_image *image, struct err *e)
{
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    struct timespec now;
    int r = image_query(s,
                        "INSERT INTO images (id, manifest, kind, size, created_ns, added_ns) VALUES (?, ?, ?, ?, ?, ?) "
                        "ON CONFLICT (id) DO UPDATE SET manifest = excluded.manifest, kind = excluded.kind, "
                        "size = excluded.size, added_ns = excluded.added_ns",
                        image->id, image->manifest, &stmt, e);

    if (r < 0)
        return r;
    clock_gettime(CLOCK_REALTIME, &now);
    sqlite3_bind_int(stmt, 3, image->kind);
    sqlite3_bind_int64(stmt, 4, (sqlite3_int64)image->size);
    sqlite3_bind_int64(stmt, 5, image->created_ns);
    sqlite3_bind_int64(stmt, 6, now.tv_sec * 1000000000LL + now.tv_nsec);
    return sqlite3_step(stmt) == SQLITE_DONE ? 0 : store_fail(s, NULL, e);
}

static int image_put(struct store *s, const struct store_image *image, const char *const *parts, size_t n_parts,
                     struct err *e)
{
    int r = image_insert(s, image, e);

    if (r >= 0)
        r = image_change(s, "DELETE FROM image_parts WHERE image = ?", image->id, NULL, e);
    for (size_t i = 0; r >= 0 && i < n_parts; i++)
        r = image_change(s, "INSERT OR IGNORE INTO image_parts (image, part) VALUES (?, ?)", image->id, parts[i], e);
    return r < 0 ? r : 0;
}

int store_image_put(struct store *s, const struct store_image *image, const char *const *parts, size_t n_parts,
                    struct err *e)
{
    bool own = sqlite3_get_autocommit(s->db);
    int r = own ? store_begin(s, e) : 0;

    if (r < 0)
        return r;
    r = image_put(s, image, parts, n_parts, e);
    if (!own)
        return r;
    if (r == 0)
        return store_commit(s, e);
    store_rollback(s);
    return r;
}

int store_image_remove(struct store *s, const char *id, struct err *e)
{
    int r = image_change(s, "DELETE FROM images WHERE id = ?", id, NULL, e);

    return r < 0 ? r : r == 0;
}

int store_image_name_set(struct store *s, const char *name, const char *id, struct err *e)
{
    int r = image_change(s,
                         "INSERT INTO image_names (name, image) VALUES (?, ?) "
                         "ON CONFLICT (name) DO UPDATE SET image = excluded.image",
                         name, id, e);

    return r < 0 ? r : 0;
}

int store_image_name_remove(struct store *s, const char *name, struct err *e)
{
    int r = image_change(s, "DELETE FROM image_names WHERE name = ?", name, NULL, e);

    return r < 0 ? r : r == 0;
}

/* ---- names and parts ---- */

int store_image_name_each(struct store *s, const char *id, int (*fn)(void *opaque, const char *name, const char *id),
                          void *opaque, struct err *e)
{
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    int r = image_query(s,
                        id ? "SELECT name, image FROM image_names WHERE image = ? ORDER BY name"
                           : "SELECT name, image FROM image_names ORDER BY name",
                        id, NULL, &stmt, e);

    if (r < 0)
        return r;
    while ((r = store_next(s, stmt, e)) > 0) {
        char name[STORE_IMAGE_NAME_MAX], image[STORE_IMAGE_DIGEST_MAX];

        r = image_copy_text(s, stmt, 0, name, sizeof(name), e);
        if (r == 0)
            r = image_copy_text(s, stmt, 1, image, sizeof(image), e);
        if (r == 0)
            r = fn(opaque, name, image);
        if (r != 0)
            return r;
    }
    return r;
}

int store_image_part_each(struct store *s, const char *id, int (*fn)(void *opaque, const char *part), void *opaque,
                          struct err *e)
{
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    int r = image_query(s,
                        id ? "SELECT part FROM image_parts WHERE image = ? ORDER BY part"
                           : "SELECT DISTINCT part FROM image_parts ORDER BY part",
                        id, NULL, &stmt, e);

    if (r < 0)
        return r;
    while ((r = store_next(s, stmt, e)) > 0) {
        char part[STORE_IMAGE_DIGEST_MAX + 8];

        r = image_copy_text(s, stmt, 0, part, sizeof(part), e);
        if (r == 0)
            r = fn(opaque, part);
        if (r != 0)
            return r;
    }
    return r;
}
