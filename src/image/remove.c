/* Taking images away. The rows go first; then what no image has any more, if nobody is at work in the store. What stays
 * because somebody is, the next removal takes. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "image/image_priv.h"
#include "image/registry_blob.h"
#include "store/event.h"
#include "store/image.h"

/* What an interrupted pull may still go on from. */
#define REMOVE_PARTIAL_S (24 * 3600)

/* ---- what nobody needs ---- */

struct remove_parts {
    char (*at)[IMAGE_DIGEST_MAX + 8]; /* sorted */
    size_t n, cap;
};

static int remove_collect(void *opaque, const char *part)
{
    struct remove_parts *parts = opaque;

    if (parts->n == parts->cap) {
        size_t cap = parts->cap ? 2 * parts->cap : 64;
        void *grown = reallocarray(parts->at, cap, sizeof(*parts->at));

        if (!grown)
            return -ENOMEM;
        parts->at = grown;
        parts->cap = cap;
    }
    snprintf(parts->at[parts->n++], sizeof(*parts->at), "%s", part);
    return 0;
}

static int remove_compare(const void *a, const void *b)
{
    return strcmp(a, b);
}

static bool remove_is_used(const struct remove_parts *parts, const char *prefix, const char *name)
{
    char key[IMAGE_DIGEST_MAX + 8];

    return snprintf(key, sizeof(key), "%s%s", prefix, name) < (int)sizeof(key) && parts->n > 0 &&
           bsearch(key, parts->at, parts->n, sizeof(*parts->at), remove_compare);
}

/* Delete all in a folder that is not used. What cannot be deleted keeps nothing else; the first error is returned. */
static int remove_unused(struct image_place *p, const char *folder, const char *prefix,
                         const struct remove_parts *parts, uint64_t *bytes, struct err *e)
{
    AUTO_FD int fd = openat(p->fd, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    DIR *dir = fd < 0 ? NULL : fdopendir(dup(fd));
    const struct dirent *d;
    int r = dir ? 0 : err_set(e, errno, "cannot read %s/%s: %s", p->path, folder, strerror(errno));

    while (dir && (d = readdir(dir))) {
        struct err one = { 0 };
        struct stat st;
        int res;

        if (d->d_name[0] == '.' || remove_is_used(parts, prefix, d->d_name))
            continue;
        if (fstatat(fd, d->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        *bytes += S_ISDIR(st.st_mode) ? image_tree_size(fd, d->d_name) : (uint64_t)st.st_blocks * 512;
        res = S_ISDIR(st.st_mode) ? image_tree_remove_owned(fd, d->d_name, &one)
              : unlinkat(fd, d->d_name, 0) < 0 && errno != ENOENT
                  ? err_set(&one, errno, "cannot delete %s/%s: %s", folder, d->d_name, strerror(errno))
                  : 0;
        if (res < 0 && r == 0) {
            r = res;
            *e = one;
        }
    }
    if (dir)
        closedir(dir);
    return r;
}

int image_sweep(struct store *s, struct image_place *p, uint64_t *ret_bytes, struct err *e)
{
    struct remove_parts parts = { 0 };
    struct err second = { 0 };
    uint64_t bytes = 0;
    int res, r = store_image_part_each(s, NULL, remove_collect, &parts, e);

    if (r < 0) {
        free(parts.at);
        return r == -ENOMEM ? err_set(e, ENOMEM, "out of memory") : r;
    }
    if (parts.n > 0)
        qsort(parts.at, parts.n, sizeof(*parts.at), remove_compare);
    r = remove_unused(p, "blobs/sha256", "sha256:", &parts, &bytes, e);
    res = remove_unused(p, "layers", "layer:", &parts, &bytes, r < 0 ? &second : e);
    free(parts.at);
    if (r == 0)
        r = res;
    if (r == 0)
        *ret_bytes = bytes;
    return r;
}

/* ---- one image ---- */

static int remove_count(void *opaque, const char *name, const char *id)
{
    (void)name;
    (void)id;
    ++*(unsigned *)opaque;
    return 0;
}

static int remove_event(struct store *s, const char *action, const char *id, const char *name, struct err *e)
{
    const struct store_event event = { .object = "image", .id = id, .name = name, .action = action };

    return store_event_add(s, &event, e);
}

/* In a transaction. *ret_deleted: the image went, not only a name. */
static int remove_rows(struct store *s, const char *name_or_id, const struct image_rm *rm, struct store_image *row,
                       char name[IMAGE_NAME_MAX], bool *ret_deleted, struct err *e)
{
    char user[128];
    unsigned names = 0;
    int r = image_find_row(s, name_or_id, row, name, e);

    if (r == 0)
        r = store_image_name_each(s, row->id, remove_count, &names, e);
    if (r < 0)
        return r;
    *ret_deleted = !name[0] || names <= 1;
    if (!*ret_deleted) {
        r = store_image_name_remove(s, name, e);
        return r < 0 ? r : remove_event(s, "untag", row->id, name, e);
    }
    if (!name[0] && names > 1 && !rm->force)
        return err_set(e, EBUSY, "image %.*s has %u names; remove them one by one, or give --force", IMAGE_SHORT,
                       image_hex(row->id), names);
    r = rm->user ? rm->user(rm->opaque, s, row->id, user, e) : 0;
    if (r > 0)
        return err_set(e, EBUSY, "image %.*s is used by %s; remove that first", IMAGE_SHORT, image_hex(row->id), user);
    if (r == 0)
        r = store_image_remove(s, row->id, e);
    return r < 0 ? r : remove_event(s, "delete", row->id, name, e);
}

/* The image is gone; that its files are too can wait, if somebody is at work in the store. */
static void remove_files(struct store *s)
{
    struct err ignored = { 0 };
    struct image_place p;
    uint64_t bytes;
    int r = image_place_open(&p, IMAGE_LOCK_EXCLUSIVE, false, &ignored);

    if (r == 0)
        r = image_sweep(s, &p, &bytes, &ignored);
    if (r < 0)
        log_debug("%s", ignored.text);
    image_place_done(&p);
}

int image_rm(struct store *s, const char *name_or_id, const struct image_rm *rm, struct err *e)
{
    struct store_image row;
    char name[IMAGE_NAME_MAX];
    bool deleted;
    int r = store_begin(s, e);

    if (r < 0)
        return r;
    r = remove_rows(s, name_or_id, rm, &row, name, &deleted, e);
    if (r < 0) {
        store_rollback(s);
        return r;
    }
    r = store_commit(s, e);
    if (r < 0)
        return r;
    if (name[0] && rm->told)
        rm->told(rm->opaque, name, false);
    if (!deleted)
        return 0;
    if (rm->told)
        rm->told(rm->opaque, row.id, true);
    remove_files(s);
    return 0;
}

/* ---- those that nobody needs ---- */

struct remove_ids {
    char (*at)[IMAGE_DIGEST_MAX];
    size_t n;
};

static int remove_collect_id(void *opaque, const struct store_image *image)
{
    struct remove_ids *ids = opaque;
    void *grown = reallocarray(ids->at, ids->n + 1, sizeof(*ids->at));

    if (!grown)
        return -ENOMEM;
    ids->at = grown;
    memcpy(ids->at[ids->n++], image->id, sizeof(*ids->at));
    return 0;
}

/* One image in a transaction. 1: it stays. */
static int remove_if_unused(struct store *s, const char *id, bool all, const struct image_rm *rm, struct err *e)
{
    char user[128];
    unsigned names = 0;
    int r = store_image_name_each(s, id, remove_count, &names, e);

    if (r == 0 && names > 0 && !all)
        return 1;
    if (r == 0)
        r = rm->user ? rm->user(rm->opaque, s, id, user, e) : 0;
    if (r == 0)
        r = store_image_remove(s, id, e);
    return r != 0 ? r : remove_event(s, "delete", id, "", e);
}

/* Unfinished pulls, and with all what builds noted about layers that they made. */
static int remove_leftovers(const struct image_place *p, bool all, uint64_t *ret_bytes, struct err *e)
{
    int r = registry_partial_sweep(p->path, all ? 0 : REMOVE_PARTIAL_S, ret_bytes);

    if (r == 0 && all)
        r = image_tree_remove(p->fd, "cache");
    return r < 0 ? err_set(e, -r, "cannot tidy up %s: %s", p->path, strerror(-r)) : 0;
}

int image_prune(struct store *s, bool all, const struct image_rm *rm, uint64_t *ret_bytes, struct err *e)
{
    struct remove_ids ids = { 0 };
    struct image_place p;
    int r = store_image_each(s, remove_collect_id, &ids, e);

    if (r == -ENOMEM)
        err_set(e, ENOMEM, "out of memory");
    for (size_t i = 0; r == 0 && i < ids.n; i++) {
        r = store_begin(s, e);
        if (r < 0)
            break;
        r = remove_if_unused(s, ids.at[i], all, rm, e);
        if (r != 0) {
            store_rollback(s);
            r = r > 0 ? 0 : r;
            continue;
        }
        r = store_commit(s, e);
        if (r == 0 && rm->told)
            rm->told(rm->opaque, ids.at[i], true);
    }
    free(ids.at);
    if (r < 0)
        return r;
    r = image_place_open(&p, IMAGE_LOCK_EXCLUSIVE, true, e);
    if (r == 0)
        r = image_sweep(s, &p, ret_bytes, e);
    if (r == 0)
        r = remove_leftovers(&p, all, ret_bytes, e);
    image_place_done(&p);
    return r;
}

/* ---- naming ---- */

static int remove_tag(struct store *s, const char *name_or_id, const char *name, struct err *e)
{
    struct store_image row;
    char found[IMAGE_NAME_MAX];
    int r = image_find_row(s, name_or_id, &row, found, e);

    if (r == 0)
        r = store_image_name_set(s, name, row.id, e);
    return r < 0 ? r : remove_event(s, "tag", row.id, name, e);
}

int image_tag(struct store *s, const char *name_or_id, const char *name, char ret_name[IMAGE_NAME_MAX], struct err *e)
{
    int r = image_name_local(name, ret_name, e);

    if (r == 0 && strchr(ret_name, '@'))
        r = err_set(e, EINVAL, "'%.100s' has a digest, which no name that is given can have; use NAME:TAG", name);
    if (r == 0)
        r = store_begin(s, e);
    if (r < 0)
        return r;
    r = remove_tag(s, name_or_id, ret_name, e);
    if (r == 0)
        return store_commit(s, e);
    store_rollback(s);
    return r;
}
