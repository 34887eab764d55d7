#include "image/image.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/word.h"
#include "image/image_priv.h"
#include "store/image.h"

#define IMAGE_PREFIX_MIN 2 /* digits of an id that a user must type at least */

void image_done(struct image *i)
{
    json_object_put(i->config);
    json_object_put(i->manifest_doc);
    free(i->names);
    *i = (struct image){ 0 };
}

const char *image_kind_name(enum image_kind kind)
{
    return kind == IMAGE_VM ? "vm" : "container";
}

/* ---- names of one ---- */

static int image_add_name(void *opaque, const char *name, const char *id)
{
    struct image *i = opaque;
    void *grown = reallocarray(i->names, i->n_names + 1, sizeof(*i->names));

    (void)id;
    if (!grown)
        return -ENOMEM;
    i->names = grown;
    snprintf(i->names[i->n_names++], IMAGE_NAME_MAX, "%s", name);
    return 0;
}

/* Fill an image from its row: names and documents. */
static int image_load(struct store *s, const struct image_place *p, const struct store_image *row,
                      struct image *ret_image, struct err *e)
{
    struct image i = { .kind = (enum image_kind)row->kind, .size = row->size, .created_ns = row->created_ns };
    struct image_documents d;
    int r = image_documents_read(p, row->manifest, &d, e);

    memcpy(i.id, row->id, sizeof(i.id));
    memcpy(i.manifest, row->manifest, sizeof(i.manifest));
    if (r == 0) {
        i.config = json_object_get(d.config_doc);
        i.manifest_doc = json_object_get(d.manifest_doc);
        r = store_image_name_each(s, row->id, image_add_name, &i, e);
        if (r == -ENOMEM)
            err_set(e, ENOMEM, "out of memory");
    } else {
        err_wrap(e, "image %.*s", IMAGE_SHORT + 7, row->id);
    }
    image_documents_done(&d);
    if (r < 0)
        image_done(&i);
    else
        *ret_image = i;
    return r;
}

/* ---- finding ---- */

struct image_by_id {
    const char *prefix; /* digits */
    struct store_image found;
    unsigned n;
};

static int image_match_id(void *opaque, const struct store_image *image)
{
    struct image_by_id *by = opaque;

    if (strncmp(image_hex(image->id), by->prefix, strlen(by->prefix)) == 0) {
        by->found = *image;
        by->n++;
    }
    return 0;
}

#define IMAGE_NAME_FORMS 3

struct image_all_names {
    char (*at)[IMAGE_NAME_MAX]; /* IMAGE_NAME_FORMS of each: whole, without its registry, and without its tag, too */
    size_t n;
};

static int image_collect_name(void *opaque, const char *name, const char *id)
{
    struct image_all_names *all = opaque;
    const char *path = strrchr(name, '/');
    void *grown = reallocarray(all->at, all->n + IMAGE_NAME_FORMS, sizeof(*all->at));

    (void)id;
    if (!grown)
        return -ENOMEM;
    all->at = grown;
    path = path ? path + 1 : name;
    snprintf(all->at[all->n++], IMAGE_NAME_MAX, "%s", name);
    snprintf(all->at[all->n++], IMAGE_NAME_MAX, "%s", path);
    snprintf(all->at[all->n++], IMAGE_NAME_MAX, "%.*s", (int)strcspn(path, ":@"), path);
    return 0;
}

static const char *image_name_at(const void *opaque, size_t i)
{
    const struct image_all_names *all = opaque;

    return i < all->n ? all->at[i] : NULL;
}

/* Mistyped, and with a tag that is not there either: the full name of one that is called so without its tag. */
static const char *image_nearest_untagged(const char *name, const struct image_all_names *all)
{
    const char *path = strrchr(name, '/'), *near;
    char word[IMAGE_NAME_MAX];

    path = path ? path + 1 : name;
    snprintf(word, sizeof(word), "%.*s", (int)MIN(strcspn(path, ":@"), sizeof(word) - 1), path);
    near = word_nearest(word, image_name_at, all);
    for (size_t i = 0; near && i < all->n; i++) {
        if (near == all->at[i])
            return all->at[i - i % IMAGE_NAME_FORMS];
    }
    return NULL;
}

static int image_missing(struct store *s, const char *name, struct err *e)
{
    struct image_all_names all = { 0 };
    struct err ignored = { 0 };
    const char *near = NULL;
    int r = store_image_name_each(s, NULL, image_collect_name, &all, &ignored);

    if (r == 0)
        near = word_nearest(name, image_name_at, &all);
    if (r == 0 && !near)
        near = image_nearest_untagged(name, &all);
    if (near)
        r = err_set(e, ENOENT, "no image is called '%.100s'; did you mean '%.100s'?", name, near);
    else
        r = err_set(e, ENOENT,
                    "no image is called '%.100s'; get it with 'caisson image pull' or 'caisson image import'", name);
    free(all.at);
    return r;
}

/* By one of the names that text can stand for, in their order. 1: none. */
static int image_find_name(struct store *s, const char *text, struct store_image *ret, char ret_name[IMAGE_NAME_MAX],
                           struct err *e)
{
    struct err ignored = { 0 };
    int r = 1;

    if (image_name_local(text, ret_name, &ignored) == 0)
        r = store_image_named(s, ret_name, ret, e);
    if (r == 1 && image_name_normalize(text, ret_name, &ignored) == 0)
        r = store_image_named(s, ret_name, ret, e);
    return r;
}

int image_find_row(struct store *s, const char *text, struct store_image *ret, char ret_name[IMAGE_NAME_MAX],
                   struct err *e)
{
    const char *digits = strncmp(text, "sha256:", 7) == 0 ? text + 7 : text;
    struct image_by_id by = { .prefix = digits };
    int r = image_find_name(s, text, ret, ret_name, e);

    if (r <= 0)
        return r;
    ret_name[0] = '\0';
    if (strlen(digits) < IMAGE_PREFIX_MIN || strspn(digits, "0123456789abcdef") != strlen(digits))
        return image_missing(s, text, e);
    r = store_image_each(s, image_match_id, &by, e);
    if (r < 0)
        return r;
    if (by.n > 1)
        return err_set(e, ENOTUNIQ, "image id %.72s is not unambiguous: %u images begin with it; give more digits",
                       text, by.n);
    if (by.n == 0)
        return image_missing(s, text, e);
    *ret = by.found;
    return 0;
}

int image_get(struct store *s, const char *name_or_id, struct image *ret_image, struct err *e)
{
    struct store_image row;
    struct image_place p;
    char name[IMAGE_NAME_MAX];
    int r = image_find_row(s, name_or_id, &row, name, e);

    if (r < 0)
        return r;
    r = image_place_open(&p, IMAGE_LOCK_NONE, false, e);
    if (r == 0)
        r = image_load(s, &p, &row, ret_image, e);
    image_place_done(&p);
    return r;
}

/* ---- walking ---- */

struct image_rows {
    struct store_image *at;
    size_t n;
};

static int image_collect_row(void *opaque, const struct store_image *image)
{
    struct image_rows *rows = opaque;
    void *grown = reallocarray(rows->at, rows->n + 1, sizeof(*rows->at));

    if (!grown)
        return -ENOMEM;
    rows->at = grown;
    rows->at[rows->n++] = *image;
    return 0;
}

int image_each(struct store *s, int (*fn)(void *opaque, const struct image *i), void *opaque, struct err *e)
{
    struct image_rows rows = { 0 };
    struct image_place p = { .fd = -1, .lock = -1, .tmp_fd = -1 };
    int r = store_image_each(s, image_collect_row, &rows, e);

    if (r == -ENOMEM)
        err_set(e, ENOMEM, "out of memory");
    if (r == 0 && rows.n > 0)
        r = image_place_open(&p, IMAGE_LOCK_NONE, false, e);
    for (size_t k = 0; r == 0 && k < rows.n; k++) {
        struct image i = { 0 };

        r = image_load(s, &p, &rows.at[k], &i, e);
        if (r == 0)
            r = fn(opaque, &i);
        image_done(&i);
    }
    image_place_done(&p);
    free(rows.at);
    return r;
}
