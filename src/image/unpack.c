#include "image/unpack_priv.h"
#include "sys/overlay.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fdio.h"

#define UNPACK_COPY (64u << 10)

int unpack_fail(struct unpack *u, int r, const char *path, const char *what)
{
    if (r == -ENOSPC || r == -EDQUOT)
        return err_set(u->e, ENOSPC, "%s: no space left for '%s'; free some ('caisson image prune')", u->config->what,
                       path);
    return err_set(u->e, -r, "%s: '%s': cannot %s: %s", u->config->what, path, what, strerror(-r));
}

int unpack_refuse(struct unpack *u, const char *path, const char *why)
{
    return err_set(u->e, EBADMSG, "%s is refused: entry '%.200s' %s", u->config->what, path, why);
}

/* ---- what is in the way ---- */

/* Delete what this layer had by that name before. *ret_whiteout: it was one. */
static int unpack_make_way(struct unpack *u, int dir, const char *name, bool folder, bool *ret_there,
                           bool *ret_whiteout, const char *path)
{
    struct stat st;
    int r;

    *ret_there = *ret_whiteout = false;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        if (errno != ENOENT)
            return unpack_fail(u, -errno, path, "look for it");
        *ret_whiteout = unpack_unmark(u, dir, name);
        return 0;
    }
    *ret_whiteout = unpack_is_whiteout(&st);
    if (folder && S_ISDIR(st.st_mode)) {
        *ret_there = true;
        return 0;
    }
    r = image_tree_remove(dir, name);
    return r < 0 ? unpack_fail(u, r, path, "replace it") : 0;
}

/* ---- kinds of entries ---- */

/* Nobody can make the device on an overlayfs. base: with .wh. before the name. */
static int unpack_make_whiteout(struct unpack *u, int dir, const char *base, const char *path)
{
    AUTO_FD int mark = -1;

    if (!u->marks)
        return mknodat(dir, base + strlen(UNPACK_WHITEOUT), S_IFCHR, 0) == 0
                   ? 0
                   : unpack_fail(u, -errno, path, "make a whiteout");
    mark = openat(dir, base, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0);
    return mark >= 0 && fchmod(mark, SYS_OVERLAY_MARK_MODE) == 0 ? 0 : unpack_fail(u, -errno, path, "make a whiteout");
}

static int unpack_whiteout(struct unpack *u, const char *path, const char *base)
{
    bool opaque = strcmp(base, UNPACK_OPAQUE) == 0;
    const char *name, *real;
    struct stat st;
    int dir;

    if (!opaque && strncmp(base, UNPACK_META, strlen(UNPACK_META)) == 0)
        return 0;
    if (u->config->n_lower == 0)
        return 0; /* there is nothing to hide */
    dir = unpack_path_parent(u, path, false, &name, &real);
    if (dir < 0)
        return dir == -ENOENT ? 0 : dir;
    if (opaque)
        return unpack_set_opaque(u, dir, path);
    name += strlen(UNPACK_WHITEOUT);
    if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return unpack_refuse(u, path, "is a whiteout of nothing");
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        AUTO_FD int fd = -1;

        if (!S_ISDIR(st.st_mode)) /* what is new here hides what was below */
            return 0;
        fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        return fd < 0 ? unpack_fail(u, -errno, path, "open it") : unpack_set_opaque(u, fd, path);
    }
    return unpack_make_whiteout(u, dir, base, path);
}

static int unpack_root(struct unpack *u, const struct unpack_attr *a)
{
    int r = S_ISDIR(a->mode) ? unpack_attr_set(u, u->config->root, ".", u->config->root, a, ".")
                             : unpack_refuse(u, ".", "is the root, and no folder");

    u->root_seen = true;
    return r < 0 ? r : unpack_folder_add(u, "", a->mtime);
}

static int unpack_folder(struct unpack *u, int dir, const char *name, const struct unpack_attr *a, const char *real,
                         const char *path)
{
    bool there, whiteout;
    char own[PATH_MAX];
    int r = unpack_make_way(u, dir, name, true, &there, &whiteout, path);

    if (r < 0)
        return r;
    if (!there && mkdirat(dir, name, 0700) < 0)
        return unpack_fail(u, -errno, path, "make it");
    if (whiteout) {
        AUTO_FD int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

        r = fd < 0 ? unpack_fail(u, -errno, path, "open it") : unpack_set_opaque(u, fd, path);
    }
    if (r == 0)
        r = unpack_attr_set(u, dir, name, -1, a, path);
    if (r == 0 && !unpack_path_join(real, name, own))
        r = unpack_refuse(u, path, "lies too deep");
    return r < 0 ? r : unpack_folder_add(u, own, a->mtime);
}

static int unpack_data(struct unpack *u, struct archive *a, int fd, la_int64_t size, const char *path)
{
    const void *data;
    size_t len;
    la_int64_t at;
    int r;

    while ((r = archive_read_data_block(a, &data, &len, &at)) == ARCHIVE_OK) {
        int res = fd_pwrite_all(fd, data, len, (uint64_t)at);

        if (res < 0)
            return unpack_fail(u, res, path, "write it");
        if (u->config->stop && *u->config->stop)
            return -ECANCELED;
        if (u->config->step)
            u->config->step(NULL, u->config->opaque);
    }
    if (r != ARCHIVE_EOF)
        return err_set(u->e, EBADMSG, "%s is damaged at '%s': %s", u->config->what, path, archive_error_string(a));
    /* A hole at the end is in no block. */
    return ftruncate(fd, size) == 0 ? 0 : unpack_fail(u, -errno, path, "set its length");
}

static int unpack_file(struct unpack *u, struct archive *a, int dir, const char *name, const struct unpack_attr *attr,
                       const char *path)
{
    AUTO_FD int fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    la_int64_t size = archive_entry_size(attr->entry);
    int r;

    if (fd < 0)
        return unpack_fail(u, -errno, path, "make it");
    if (size < 0)
        return unpack_refuse(u, path, "has a size below zero");
    r = unpack_data(u, a, fd, size, path);
    return r < 0 ? r : unpack_attr_set(u, dir, name, fd, attr, path);
}

/* ---- hard links ---- */

/* The other name is a parent's file: it comes up into this layer, as overlayfs does it. */
static int unpack_copy_up(struct unpack *u, int lower, int dir, const char *name, const char *path)
{
    AUTO_FREE uint8_t *data = malloc(UNPACK_COPY);
    AUTO_FD int from = -1, to = -1;
    char proc[40];
    struct stat st;
    ssize_t n = 0;

    if (!data)
        return err_set(u->e, ENOMEM, "out of memory");
    if (fstat(lower, &st) < 0 || !S_ISREG(st.st_mode))
        return unpack_refuse(u, path, "is a hard link to what is no file");
    snprintf(proc, sizeof(proc), "/proc/self/fd/%d", lower);
    from = open(proc, O_RDONLY | O_CLOEXEC);
    to = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (from < 0 || to < 0)
        return unpack_fail(u, -errno, path, "copy it from the layer below");
    while ((n = read(from, data, UNPACK_COPY)) > 0) {
        if (write(to, data, (size_t)n) != n)
            return unpack_fail(u, errno ? -errno : -ENOSPC, path, "copy it from the layer below");
    }
    if (n < 0)
        return unpack_fail(u, -errno, path, "copy it from the layer below");
    return unpack_attr_copy(u, lower, dir, name, path);
}

/* Both names end in the same file of this layer; target is the entry's other name. */
static int unpack_link(struct unpack *u, const char *path, const char *target)
{
    char clean[PATH_MAX], real[PATH_MAX];
    const char *name, *in;
    AUTO_FD int from = -1, lower = -1;
    bool there, whiteout;
    struct stat st, old;
    int dir, r = unpack_path_clean(u, target, clean);

    if (r < 0)
        return r;
    if (!*clean)
        return unpack_refuse(u, path, "is a hard link to the root");
    dir = unpack_path_parent(u, clean, false, &name, &in);
    if (dir < 0)
        return dir == -ENOENT ? unpack_refuse(u, path, "is a hard link to nothing") : dir;
    if (!unpack_path_join(in, name, real))
        return unpack_refuse(u, path, "is a hard link that lies too deep");
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        r = u->marks && sys_overlay_marked(dir, name) ? -ENOENT : unpack_path_lower(u, real, &lower);
        if (r == -ECANCELED)
            return r;
        r = r < 0 ? unpack_refuse(u, path, "is a hard link to nothing") : unpack_copy_up(u, lower, dir, name, path);
        if (r < 0 || fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            return r < 0 ? r : unpack_fail(u, -errno, path, "look at it");
    }
    if (S_ISDIR(st.st_mode) || unpack_is_whiteout(&st))
        return unpack_refuse(u, path, "is a hard link to what is no file");
    from = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (from < 0)
        return unpack_fail(u, -errno, path, "open its other name");
    dir = unpack_path_parent(u, path, true, &name, &in);
    if (dir < 0)
        return dir;
    if (fstatat(dir, name, &old, AT_SYMLINK_NOFOLLOW) == 0 && old.st_ino == st.st_ino && old.st_dev == st.st_dev)
        return 0; /* a link to itself */
    r = unpack_make_way(u, dir, name, false, &there, &whiteout, path);
    if (r < 0)
        return r;
    /* By the descriptor: making way may have deleted the folder of the other name. AT_EMPTY_PATH wants a capability
     * that a user does not have. */
    snprintf(real, sizeof(real), "/proc/self/fd/%d", from);
    if (linkat(AT_FDCWD, real, dir, name, AT_SYMLINK_FOLLOW) < 0)
        return errno == ENOENT ? unpack_refuse(u, path, "is a hard link to nothing")
                               : unpack_fail(u, -errno, path, "link it");
    return 0;
}

static int unpack_node(struct unpack *u, int dir, const char *name, const struct unpack_attr *a, const char *path)
{
    dev_t dev = S_ISFIFO(a->mode)
                    ? 0
                    : makedev((unsigned)archive_entry_rdevmajor(a->entry), (unsigned)archive_entry_rdevminor(a->entry));

    if (S_ISCHR(a->mode) && dev == 0)
        return unpack_refuse(u, path, "is a device 0:0, which overlayfs takes for a deleted file");
    /* A user may not make devices, and containers of users get theirs from the runtime. */
    if (!S_ISFIFO(a->mode) && (u->config->ids != IMAGE_IDS_ALL || u->config->userxattr))
        return 0;
    if (mknodat(dir, name, (a->mode & S_IFMT) | 0600, dev) < 0)
        return unpack_fail(u, -errno, path, "make it");
    return unpack_attr_set(u, dir, name, -1, a, path);
}

static int unpack_symlink(struct unpack *u, int dir, const char *name, const struct unpack_attr *a, const char *path)
{
    const char *target = archive_entry_symlink(a->entry);

    if (!target || !*target || strlen(target) >= PATH_MAX)
        return unpack_refuse(u, path, "is a symbolic link without a target, or too long");
    if (symlinkat(target, dir, name) < 0)
        return unpack_fail(u, -errno, path, "make it");
    return unpack_attr_set(u, dir, name, -1, a, path);
}

static int unpack_entry(struct unpack *u, struct archive *a, struct archive_entry *entry)
{
    const char *given = archive_entry_pathname(entry), *link = archive_entry_hardlink(entry), *name, *real;
    struct unpack_attr attr;
    bool there, whiteout;
    char path[PATH_MAX];
    int dir, r;

    if (!given)
        return unpack_refuse(u, "?", "has no name");
    r = unpack_path_clean(u, given, path);
    if (r < 0)
        return r;
    unpack_attr_of_entry(entry, &attr);
    if (!*path)
        return unpack_root(u, &attr);
    name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    if (strncmp(name, UNPACK_WHITEOUT, strlen(UNPACK_WHITEOUT)) == 0)
        return unpack_whiteout(u, path, name);
    if (link)
        return unpack_link(u, path, link);
    dir = unpack_path_parent(u, path, true, &name, &real);
    if (dir < 0)
        return dir;
    if (S_ISDIR(attr.mode))
        return unpack_folder(u, dir, name, &attr, real, path);
    r = unpack_make_way(u, dir, name, false, &there, &whiteout, path);
    if (r < 0)
        return r;
    switch (attr.mode & S_IFMT) {
    case S_IFREG:
        return unpack_file(u, a, dir, name, &attr, path);
    case S_IFLNK:
        return unpack_symlink(u, dir, name, &attr, path);
    case S_IFCHR:
    case S_IFBLK:
    case S_IFIFO:
        return unpack_node(u, dir, name, &attr, path);
    default:
        return unpack_refuse(u, path, "is of a kind that is unknown");
    }
}

/* ---- all of it ---- */

/* One that is gone, or that something else has replaced later in the layer, is left out: a link in its place, or in
 * that of a folder above it, may lead out of the root. */
static int unpack_folder_finish(struct unpack *u, const struct unpack_folder *f)
{
    const struct timespec times[2] = { f->mtime, f->mtime };
    AUTO_FD int fd = unpack_path_folder(u, f->path);
    char proc[40];

    if (fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP)
        return 0;
    snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
    return fd >= 0 && utimensat(AT_FDCWD, proc, times, 0) == 0
               ? 0
               : unpack_fail(u, fd < 0 ? fd : -errno, f->path, "set its time");
}

/* Folders' times, now that nothing is made in them any more; the later entry of one counts. */
static int unpack_finish(struct unpack *u)
{
    const struct unpack_attr plain = { .mode = S_IFDIR | 0755 };
    int r = 0;

    if (!u->root_seen) { /* as the parents have it */
        r = unpack_path_wait(u);
        if (r == 0 && u->config->n_lower > 0)
            r = unpack_attr_copy(u, u->config->lower[0], u->config->root, ".", "");
        else if (r == 0)
            r = unpack_attr_set(u, u->config->root, ".", u->config->root, &plain, ".");
    }
    for (size_t i = 0; r == 0 && i < u->n_folders; i++)
        r = unpack_folder_finish(u, &u->folders[i]);
    return r;
}

/* Warnings about names that are not in the locale's character set mean nothing here: they stay bytes. */
static bool unpack_is_charset_warning(struct archive *a)
{
    const char *text = archive_error_string(a);

    return text && strstr(text, "can't be converted");
}

static int unpack_entries(struct unpack *u, struct archive *a, struct image_stream *stream)
{
    struct archive_entry *entry;
    int res, r = 0;

    while (r == 0 && (res = archive_read_next_header(a, &entry)) != ARCHIVE_EOF) {
        if (res != ARCHIVE_OK && !(res == ARCHIVE_WARN && unpack_is_charset_warning(a)))
            return err_set(u->e, EBADMSG, "%s is damaged: %s", u->config->what, archive_error_string(a));
        if (u->config->stop && *u->config->stop)
            return -ECANCELED;
        if (++u->entries > UNPACK_ENTRIES_MAX)
            return err_set(u->e, EBADMSG, "%s is refused: it has more than %d entries", u->config->what,
                           UNPACK_ENTRIES_MAX);
        r = unpack_entry(u, a, entry);
        if (u->config->step)
            u->config->step(stream, u->config->opaque);
    }
    return r;
}

int image_unpack(const struct image_unpack *config, struct image_stream *stream, struct err *e)
{
    struct unpack *u = calloc(1, sizeof(*u));
    struct archive *a = image_stream_tar(stream);
    locale_t plain = newlocale(LC_CTYPE_MASK, "C", NULL), before = plain ? uselocale(plain) : NULL;
    int r;

    if (!u || !plain) {
        r = err_set(e, ENOMEM, "out of memory");
    } else if (!a) {
        r = err_set(e, EBADMSG, "%s is no tar archive: %s", config->what, image_stream_why(stream));
    } else {
        u->config = config;
        u->e = e;
        u->parent_fd = -1;
        u->marks = sys_overlay_below(config->root);
        /* libarchive turns names into the locale's character set, and composes them there; in "C" they stay as they
         * are. */
        r = unpack_entries(u, a, stream);
        if (r == 0)
            r = unpack_finish(u);
    }
    if (plain) {
        uselocale(before);
        freelocale(plain);
    }
    archive_read_free(a);
    if (u) {
        unpack_path_forget(u);
        for (size_t i = 0; i < u->n_folders; i++)
            free(u->folders[i].path);
        free(u->folders);
        free(u);
    }
    return r;
}
