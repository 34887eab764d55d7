#include "image/build_copy.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fdio.h"
#include "image/build_child.h"
#include "image/user.h"

#define COPY_CHUNK 65536

struct copy_state {
    const struct build_copy *c;
    int root;
    bool into; /* the destination is a folder that sources are put into */
    bool chown;
    uid_t uid;
    gid_t gid;
    char to[BUILD_PATH_MAX]; /* without the slash at its end */
};

static int copy_fail(const char *path, int code, struct err *e)
{
    return err_set(e, code, "cannot write '%.200s' in the image: %s", path, strerror(code));
}

/* ---- places in the root ---- */

int build_make_folder(int root, const char *path, uid_t uid, gid_t gid)
{
    char part[BUILD_PATH_MAX];
    size_t len = strlen(path);
    int fd = build_open_in(root, path, O_RDONLY | O_DIRECTORY);

    if (fd != -ENOENT || len >= sizeof(part))
        return fd == -ENOENT ? -ENAMETOOLONG : fd;
    for (size_t i = 1; i <= len; i++) {
        AUTO_FD int parent = -1;
        char *slash;

        if (path[i] != '/' && path[i])
            continue;
        snprintf(part, sizeof(part), "%.*s", (int)i, path);
        slash = strrchr(part, '/');
        if (slash)
            *slash = '\0';
        parent = build_open_in(root, slash ? part : "", O_RDONLY | O_DIRECTORY);
        if (parent < 0)
            return parent;
        if (!(slash ? slash + 1 : part)[0])
            continue;
        if (mkdirat(parent, slash ? slash + 1 : part, 0755) == 0) {
            if (fchmodat(parent, slash ? slash + 1 : part, 0755, 0) < 0 ||
                fchownat(parent, slash ? slash + 1 : part, uid, gid, AT_SYMLINK_NOFOLLOW) < 0)
                return -errno;
        } else if (errno != EEXIST) {
            return -errno;
        }
    }
    return build_open_in(root, path, O_RDONLY | O_DIRECTORY);
}

/* Open the folder that path is in, made where it is missing. *ret_name: the last component. */
static int copy_parent(struct copy_state *s, const char *path, const char **ret_name)
{
    char folder[BUILD_PATH_MAX];
    const char *slash = strrchr(path, '/');

    snprintf(folder, sizeof(folder), "%.*s", slash ? (int)(slash - path) : 0, path);
    *ret_name = slash ? slash + 1 : path;
    return build_make_folder(s->root, folder, s->uid, s->gid);
}

static int copy_attributes(struct copy_state *s, int dir, const char *name, const struct stat *st)
{
    const struct timespec times[2] = { st->st_atim, st->st_mtim };
    uid_t uid = s->c->keep_owner && !s->chown ? st->st_uid : s->uid;
    gid_t gid = s->c->keep_owner && !s->chown ? st->st_gid : s->gid;

    if (fchownat(dir, name, uid, gid, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    if (!S_ISLNK(st->st_mode) && fchmodat(dir, name, s->c->chmod ? s->c->mode : st->st_mode & 07777, 0) < 0)
        return -errno;
    return utimensat(dir, name, times, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

/* ---- kinds of entries ---- */

static int copy_folder(struct copy_state *s, const char *path, const struct build_entry *entry)
{
    AUTO_FD int there = build_open_in(s->root, path, O_RDONLY | O_DIRECTORY), parent = -1;
    const char *name;

    if (there >= 0)
        return entry->top ? 0 : copy_attributes(s, there, ".", entry->st);
    parent = copy_parent(s, path, &name);
    if (parent < 0)
        return parent;
    if (!name[0])
        return 0;
    if (mkdirat(parent, name, 0755) < 0)
        return -errno;
    return copy_attributes(s, parent, name, entry->st);
}

static int copy_bytes(int from, int to)
{
    AUTO_FREE uint8_t *chunk = NULL;
    ssize_t n;

    while ((n = copy_file_range(from, NULL, to, NULL, 1U << 30, 0)) > 0)
        ;
    if (n == 0)
        return 0;
    if (errno != EXDEV && errno != EINVAL && errno != EOPNOTSUPP && errno != ENOSYS)
        return -errno;
    chunk = malloc(COPY_CHUNK);
    if (!chunk)
        return -ENOMEM;
    while ((n = read(from, chunk, COPY_CHUNK)) > 0) {
        int r = fd_write_all(to, chunk, (size_t)n);

        if (r < 0)
            return r;
    }
    return n < 0 ? -errno : 0;
}

static int copy_file(int parent, const char *name, const struct build_entry *entry)
{
    AUTO_FD int from = openat(entry->dir, entry->name, O_RDONLY | O_CLOEXEC | (entry->top ? 0 : O_NOFOLLOW)), to = -1;

    if (from < 0)
        return -errno;
    to = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    return to < 0 ? -errno : copy_bytes(from, to);
}

static int copy_link(int parent, const char *name, const struct build_entry *entry)
{
    char target[BUILD_PATH_MAX];
    ssize_t n = readlinkat(entry->dir, entry->name, target, sizeof(target) - 1);

    if (n < 0)
        return -errno;
    target[n] = '\0';
    return symlinkat(target, parent, name) < 0 ? -errno : 0;
}

static int copy_other(struct copy_state *s, const char *path, const struct build_entry *entry)
{
    const char *name;
    AUTO_FD int parent = copy_parent(s, path, &name);
    int r;

    if (parent < 0)
        return parent;
    if (!name[0])
        return -EISDIR;
    if (unlinkat(parent, name, 0) < 0 && errno != ENOENT)
        return errno == EPERM ? -EISDIR : -errno;
    if (S_ISREG(entry->st->st_mode))
        r = copy_file(parent, name, entry);
    else if (S_ISLNK(entry->st->st_mode))
        r = copy_link(parent, name, entry);
    else if (S_ISSOCK(entry->st->st_mode))
        return 0; /* a socket without its process is nothing */
    else
        r = mknodat(parent, name, entry->st->st_mode & (S_IFMT | 07777), entry->st->st_rdev) < 0 ? -errno : 0;
    return r < 0 ? r : copy_attributes(s, parent, name, entry->st);
}

/* ---- archives ---- */

static int copy_archive_entries(struct archive *in, struct archive *out, struct copy_state *s)
{
    struct archive_entry *entry;
    const void *data;
    size_t len;
    la_int64_t offset;
    int r;

    while ((r = archive_read_next_header(in, &entry)) == ARCHIVE_OK || r == ARCHIVE_WARN) {
        if (s->chown) {
            archive_entry_set_uid(entry, s->uid);
            archive_entry_set_gid(entry, s->gid);
        }
        if (archive_write_header(out, entry) < ARCHIVE_WARN)
            return -EIO;
        while ((r = archive_read_data_block(in, &data, &len, &offset)) == ARCHIVE_OK)
            if (archive_write_data_block(out, data, len, offset) < ARCHIVE_WARN)
                return -EIO;
        if (r != ARCHIVE_EOF || archive_write_finish_entry(out) < ARCHIVE_WARN)
            return -EIO;
    }
    return r == ARCHIVE_EOF ? 0 : -EBADMSG;
}

static struct archive *copy_archive_open(const struct build_entry *entry)
{
    struct archive *in = archive_read_new();

    if (!in)
        return NULL;
    archive_read_support_filter_bzip2(in);
    archive_read_support_filter_gzip(in);
    archive_read_support_filter_xz(in);
    archive_read_support_filter_zstd(in);
    archive_read_support_format_tar(in);
    if (archive_read_open_filename(in, entry->name, COPY_CHUNK) == ARCHIVE_OK)
        return in;
    archive_read_free(in);
    return NULL;
}

struct copy_unpack {
    struct copy_state *s;
    int folder;
    struct archive *in;
};

/* In a process of its own, whose root is the image's: an entry cannot name anything outside. */
static int copy_unpack(void *opaque, struct err *e)
{
    const struct copy_unpack *call = opaque;
    struct copy_state *s = call->s;
    struct archive *in = call->in, *out = archive_write_disk_new();
    int r = out ? 0 : -ENOMEM;

    if (r == 0 && (fchdir(s->root) < 0 || chroot(".") < 0 || fchdir(call->folder) < 0))
        r = -errno;
    if (r == 0) {
        archive_write_disk_set_options(
            out, ARCHIVE_EXTRACT_OWNER | ARCHIVE_EXTRACT_PERM | ARCHIVE_EXTRACT_TIME | ARCHIVE_EXTRACT_XATTR |
                     ARCHIVE_EXTRACT_UNLINK | ARCHIVE_EXTRACT_SECURE_NODOTDOT | ARCHIVE_EXTRACT_SECURE_NOABSOLUTEPATHS);
        r = copy_archive_entries(in, out, s);
        if (r < 0)
            err_set(e, -r, "%s", archive_error_string(out) ? archive_error_string(out) : strerror(-r));
    } else {
        err_set(e, -r, "%s", strerror(-r));
    }
    archive_write_free(out);
    return r;
}

/* 1: it is no archive. */
static int copy_archive(struct copy_state *s, const struct build_entry *entry, struct err *e)
{
    struct archive *in = copy_archive_open(entry);
    struct archive_entry *first;
    struct copy_unpack call = { .s = s };
    AUTO_FD int folder = -1;
    int r = in ? archive_read_next_header(in, &first) : ARCHIVE_FATAL;

    archive_read_free(in);
    if (r != ARCHIVE_OK && r != ARCHIVE_WARN)
        return 1;
    folder = build_make_folder(s->root, s->to, s->uid, s->gid);
    if (folder < 0)
        return copy_fail(s->to, -folder, e);
    in = copy_archive_open(entry);
    if (!in)
        return err_set(e, EIO, "cannot read '%.200s' again", entry->source);
    call.folder = folder;
    call.in = in;
    r = build_child_run(copy_unpack, &call, NULL, NULL, e);
    if (r < 0)
        err_wrap(e, "cannot unpack '%.200s'", entry->source);
    archive_read_free(in);
    return r;
}

/* ---- the whole ---- */

static int copy_visit(void *opaque, const struct build_entry *entry, struct err *e)
{
    struct copy_state *s = opaque;
    char path[BUILD_PATH_MAX];
    const char *below = entry->path;
    int r, n;

    if (entry->top && S_ISREG(entry->st->st_mode) && s->c->extract) {
        r = copy_archive(s, entry, e);
        if (r <= 0)
            return r;
    }
    if (entry->top && !S_ISDIR(entry->st->st_mode) && s->into)
        below = entry->source;
    n = snprintf(path, sizeof(path), "%s%s%s", s->to, *below ? "/" : "", below);
    if (n >= (int)sizeof(path))
        return copy_fail(entry->path, ENAMETOOLONG, e);
    r = S_ISDIR(entry->st->st_mode) ? copy_folder(s, path, entry) : copy_other(s, path, entry);
    return r < 0 ? copy_fail(path, -r, e) : 0;
}

/* How many names the sources stand for decides what the destination is, before anything is written. */
static int copy_count(void *opaque, const struct build_entry *entry, struct err *e)
{
    (void)opaque;
    (void)entry;
    (void)e;
    return 0;
}

static int copy_prepare(struct copy_state *s, struct err *e)
{
    const struct build_copy *c = s->c;
    struct build_walk walk = { .root = c->from, .ignore = c->ignore, .visit = copy_count };
    size_t len = strlen(c->to), n = 0;
    struct image_user user = { 0 };
    AUTO_FD int there = -1;
    int r = 0;

    for (size_t i = 0; i < c->sources->n && r == 0; i++)
        r = build_walk(&walk, c->sources->at[i], &n, NULL, e);
    if (r == 0 && c->owner) {
        r = image_user_find(s->root, c->owner, &user, e);
        if (r == 0) {
            s->chown = true;
            s->uid = user.uid;
            s->gid = strchr(c->owner, ':') || strspn(c->owner, "0123456789") != strlen(c->owner) ? user.gid : user.uid;
        }
        free(user.groups);
    }
    if (r < 0)
        return r;
    if (len >= sizeof(s->to))
        return copy_fail(c->to, ENAMETOOLONG, e);
    if (n > 1 && c->to[len - 1] != '/')
        return err_set(e, EINVAL, "several sources, and '%.200s' does not end with '/'", c->to);
    snprintf(s->to, sizeof(s->to), "%s", c->to);
    s->into = c->to[len - 1] == '/';
    while (len > 0 && s->to[len - 1] == '/')
        s->to[--len] = '\0';
    if (!s->into) {
        there = build_open_in(s->root, s->to, O_PATH | O_DIRECTORY);
        s->into = there >= 0;
    }
    return 0;
}

int build_copy(const struct build_copy *c, int root, struct err *e)
{
    AUTO_FREE struct copy_state *s = calloc(1, sizeof(*s));
    struct build_walk walk = { .root = c->from, .ignore = c->ignore, .visit = copy_visit, .opaque = s };
    mode_t mask;
    size_t n = 0;
    int r;

    if (!s)
        return err_set(e, ENOMEM, "out of memory");
    s->c = c;
    s->root = root;
    mask = umask(0);
    r = copy_prepare(s, e);
    for (size_t i = 0; i < c->sources->n && r == 0; i++)
        r = build_walk(&walk, c->sources->at[i], &n, NULL, e);
    umask(mask);
    return r;
}
