#include "proto/backup.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fdio.h"
#include "proto/json.h"

#define WHAT "backup manifest"
#define BACKUP_TEXT_MAX (64U << 20)
#define BACKUP_TMP ".manifest.json.new"
#define BACKUP_VERSION 1

static const char *const backup_kinds[] = { "full", "incremental" };

void backup_manifest_done(struct backup_manifest *m)
{
    free(m->points);
    *m = (struct backup_manifest){ 0 };
}

/* ---- looking things up ---- */

const struct backup_point *backup_manifest_point(const struct backup_manifest *m, uint32_t number)
{
    if (number == 0)
        return m->n_points ? &m->points[m->n_points - 1] : NULL;
    for (unsigned i = 0; i < m->n_points; i++) {
        if (m->points[i].number == number)
            return &m->points[i];
    }
    return NULL;
}

const struct backup_disk *backup_point_disk(const struct backup_point *point, const char *name)
{
    for (unsigned i = 0; i < point->n_disks; i++) {
        if (strcmp(point->disks[i].name, name) == 0)
            return &point->disks[i];
    }
    return NULL;
}

const struct backup_point *backup_manifest_last(const struct backup_manifest *m, const char *disk)
{
    for (unsigned i = m->n_points; i-- > 0;) {
        if (backup_point_disk(&m->points[i], disk))
            return &m->points[i];
    }
    return NULL;
}

unsigned backup_manifest_depth(const struct backup_manifest *m, const struct backup_point *point, const char *disk)
{
    unsigned depth = 0;

    /* Bases are earlier points, so this ends. */
    while (point) {
        const struct backup_disk *d = backup_point_disk(point, disk);

        depth++;
        point = d && !d->full ? backup_manifest_point(m, d->base) : NULL;
    }
    return depth;
}

int backup_manifest_add(struct backup_manifest *m, const struct backup_point *point)
{
    struct backup_point *points;

    if (m->n_points >= BACKUP_POINTS_MAX)
        return -ENOSPC;
    points = realloc(m->points, (m->n_points + 1) * sizeof(*points));
    if (!points)
        return -ENOMEM;
    m->points = points;
    m->points[m->n_points++] = *point;
    return 0;
}

/* ---- writing ---- */

struct json_object *backup_point_to_json(const struct backup_point *point)
{
    json_object *o = json_object_new_object(), *disks = json_object_new_array();

    json_object_object_add(o, "point", json_object_new_int64(point->number));
    json_object_object_add(o, "id", json_object_new_string(point->id));
    json_object_object_add(o, "time", json_object_new_string(point->time));
    for (unsigned i = 0; i < point->n_disks; i++) {
        const struct backup_disk *d = &point->disks[i];
        json_object *disk = json_object_new_object();

        json_object_object_add(disk, "disk", json_object_new_string(d->name));
        json_object_object_add(disk, "index", json_object_new_int64(d->index));
        json_object_object_add(disk, "kind", json_object_new_string(backup_kinds[!d->full]));
        json_object_object_add(disk, "base", d->full ? NULL : json_object_new_int64(d->base));
        json_object_object_add(disk, "file", json_object_new_string(d->file));
        json_object_object_add(disk, "size", json_object_new_uint64(d->size));
        json_object_object_add(disk, "copied", json_object_new_uint64(d->copied));
        json_object_array_add(disks, disk);
    }
    json_object_object_add(o, "disks", disks);
    return o;
}

static int backup_write(int dir_fd, const char *text)
{
    AUTO_FD int fd = openat(dir_fd, BACKUP_TMP, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    int r;

    if (fd < 0)
        return -errno;
    r = fd_write_all(fd, text, strlen(text));
    if (r < 0)
        return r;
    if (fsync(fd) < 0 || renameat(dir_fd, BACKUP_TMP, dir_fd, BACKUP_MANIFEST) < 0)
        return -errno;
    /* Should this fail, power loss may bring the old manifest back, which is a state as good: the point is not there,
     * and the record that counts from it is not taken for another's. */
    (void)!fsync(dir_fd);
    return 0;
}

int backup_manifest_to_json(const struct backup_manifest *m, char **ret_text)
{
    json_object *o = json_object_new_object(), *points = json_object_new_array();
    const char *text;

    json_object_object_add(o, "caisson_backup", json_object_new_int(BACKUP_VERSION));
    json_object_object_add(o, "vm", json_object_new_string(m->vm));
    json_object_object_add(o, "chain", json_object_new_string(m->chain));
    for (unsigned i = 0; i < m->n_points; i++)
        json_object_array_add(points, backup_point_to_json(&m->points[i]));
    json_object_object_add(o, "points", points);
    text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE);
    *ret_text = text ? strdup(text) : NULL;
    json_object_put(o);
    return *ret_text ? 0 : -ENOMEM;
}

int backup_manifest_save(int dir_fd, const char *path, const struct backup_manifest *m, struct err *e)
{
    AUTO_FREE char *text = NULL;
    int r = backup_manifest_to_json(m, &text);

    if (r == 0)
        r = backup_write(dir_fd, text);
    if (r < 0)
        (void)unlinkat(dir_fd, BACKUP_TMP, 0);
    return r < 0 ? err_set(e, -r, "backup directory %s: cannot write %s: %s", path, BACKUP_MANIFEST, strerror(-r)) : 0;
}

/* ---- reading ---- */

/* Letters, digits, '.', '_' and '-', no '.' or '-' first: never a path. */
static bool backup_plain_name(const char *name)
{
    if (!name[0] || name[0] == '.' || name[0] == '-')
        return false;
    return name[strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")] == '\0';
}

static int backup_get_plain(json_object *v, const char *key, char *ret, size_t size, struct err *e)
{
    int r = proto_json_text(v, WHAT, key, ret, size, e);

    return r == 0 && !backup_plain_name(ret) ? err_set(e, EINVAL, WHAT ": '%s' is not a plain name", key) : r;
}

static int backup_get_disk_field(const char *key, json_object *v, struct backup_disk *d, struct err *e)
{
    uint64_t n = 0;
    unsigned kind = 0;
    int r;

    if (strcmp(key, "disk") == 0)
        return backup_get_plain(v, key, d->name, sizeof(d->name), e);
    if (strcmp(key, "file") == 0)
        return backup_get_plain(v, key, d->file, sizeof(d->file), e);
    if (strcmp(key, "kind") == 0) {
        r = proto_json_choice(v, WHAT, key, backup_kinds, ARRAY_SIZE(backup_kinds), &kind, e);
        d->full = kind == 0;
        return r;
    }
    if (strcmp(key, "size") == 0)
        return proto_json_uint(v, WHAT, key, 512, INT64_MAX, &d->size, e);
    if (strcmp(key, "copied") == 0)
        return proto_json_uint(v, WHAT, key, 0, INT64_MAX, &d->copied, e);
    if (strcmp(key, "base") == 0) {
        r = v ? proto_json_uint(v, WHAT, key, 1, BACKUP_NUMBER_MAX, &n, e) : 0;
        d->base = (uint32_t)n;
        return r;
    }
    if (strcmp(key, "index") == 0) {
        r = proto_json_uint(v, WHAT, key, 0, UINT16_MAX, &n, e);
        d->index = (unsigned)n;
        return r;
    }
    return proto_json_unknown(WHAT, key, e);
}

static int backup_get_disk(json_object *v, const struct backup_manifest *m, struct backup_point *point, struct err *e)
{
    struct backup_disk *d = &point->disks[point->n_disks];
    const struct backup_point *base;

    if (!json_object_is_type(v, json_type_object))
        return err_set(e, EINVAL, WHAT ": 'disks' must hold objects");
    *d = (struct backup_disk){ 0 };
    json_object_object_foreach(v, key, field)
    {
        int r = backup_get_disk_field(key, field, d, e);

        if (r < 0)
            return r;
    }
    base = d->full || !d->base ? NULL : backup_manifest_point(m, d->base);
    if (!d->name[0] || !d->file[0] || d->size == 0 || backup_point_disk(point, d->name) || d->full != (d->base == 0) ||
        (!d->full && (!base || !backup_point_disk(base, d->name))))
        return err_set(e, EINVAL, WHAT ": point %" PRIu32 " has a disk that makes no sense", point->number);
    point->n_disks++;
    return 0;
}

static int backup_get_point(json_object *v, struct backup_manifest *m, struct err *e)
{
    struct backup_point *point = &m->points[m->n_points];
    json_object *number = NULL, *id = NULL, *time = NULL, *disks = NULL;
    uint64_t n = 0;
    size_t n_disks = 0;
    int r;

    *point = (struct backup_point){ 0 };
    if (!json_object_is_type(v, json_type_object) || json_object_object_length(v) != 4 ||
        !json_object_object_get_ex(v, "point", &number) || !json_object_object_get_ex(v, "id", &id) ||
        !json_object_object_get_ex(v, "time", &time) || !json_object_object_get_ex(v, "disks", &disks))
        return err_set(e, EINVAL, WHAT ": each of 'points' must have point, id, time and disks");
    r = proto_json_uint(number, WHAT, "point", 1, BACKUP_NUMBER_MAX, &n, e);
    if (r == 0)
        r = backup_get_plain(id, "id", point->id, sizeof(point->id), e);
    if (r == 0)
        r = proto_json_text(time, WHAT, "time", point->time, sizeof(point->time), e);
    if (r == 0)
        r = proto_json_array(disks, WHAT, "disks", BACKUP_DISKS_MAX, &n_disks, e);
    point->number = (uint32_t)n;
    if (r == 0 && (point->id[strspn(point->id, "0123456789abcdef")] || n_disks == 0 ||
                   (m->n_points > 0 && m->points[m->n_points - 1].number >= n)))
        r = err_set(e, EINVAL, WHAT ": point %" PRIu64 " makes no sense, or is not in order", n);
    for (size_t i = 0; i < n_disks && r == 0; i++)
        r = backup_get_disk(json_object_array_get_idx(disks, i), m, point, e);
    m->n_points += r == 0;
    return r;
}

int backup_manifest_from_json(const char *text, struct backup_manifest *m, struct err *e)
{
    json_object *o = NULL, *version = NULL, *vm = NULL, *chain = NULL, *points = NULL;
    uint64_t n_version;
    size_t n = 0;
    int r = proto_json_object(text, WHAT, &o, e);

    if (r < 0)
        return r;
    if (json_object_object_length(o) != 4 || !json_object_object_get_ex(o, "caisson_backup", &version) ||
        !json_object_object_get_ex(o, "vm", &vm) || !json_object_object_get_ex(o, "chain", &chain) ||
        !json_object_object_get_ex(o, "points", &points))
        r = err_set(e, EINVAL, WHAT ": must have caisson_backup, vm, chain and points");
    if (r == 0)
        r = proto_json_uint(version, WHAT, "caisson_backup", 1, BACKUP_VERSION, &n_version, e);
    if (r == 0)
        r = backup_get_plain(vm, "vm", m->vm, sizeof(m->vm), e);
    if (r == 0)
        r = backup_get_plain(chain, "chain", m->chain, sizeof(m->chain), e);
    if (r == 0)
        r = proto_json_array(points, WHAT, "points", BACKUP_POINTS_MAX, &n, e);
    if (r == 0 && n > 0) {
        m->points = calloc(n, sizeof(*m->points));
        if (!m->points)
            r = err_set(e, ENOMEM, "out of memory");
    }
    for (size_t i = 0; i < n && r == 0; i++)
        r = backup_get_point(json_object_array_get_idx(points, i), m, e);
    json_object_put(o);
    return r;
}

int backup_manifest_load(int dir_fd, const char *path, struct backup_manifest *m, struct err *e)
{
    AUTO_FD int fd = openat(dir_fd, BACKUP_MANIFEST, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY);
    struct err cause = { 0 };
    struct buf text;
    int r;

    if (fd < 0 && errno == ENOENT)
        return -ENOENT;
    if (fd < 0)
        return err_set(e, errno, "backup directory %s: cannot read %s: %s", path, BACKUP_MANIFEST, strerror(errno));
    buf_init(&text, BACKUP_TEXT_MAX);
    r = fd_read_text(fd, &text);
    if (r < 0)
        (void)err_set(&cause, -r, "%s", strerror(-r));
    else if (strlen((const char *)text.data) + 1 != text.len)
        r = err_set(&cause, EINVAL, WHAT ": has zero bytes");
    else
        r = backup_manifest_from_json((const char *)text.data, m, &cause);
    buf_done(&text);
    return r < 0 ? err_set(e, -r, "backup directory %s: %s: %s", path, BACKUP_MANIFEST, cause.text) : 0;
}
