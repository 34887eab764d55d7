#include "instance/container_tar.h"

#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fdio.h"
#include "sys/inroot.h"
#include "sys/tree_copy.h"

#define TAR_BLOCK (64U << 10)
#define TAR_DEPTH_MAX 256

static int tar_fail(struct archive *a, const char *path, struct err *e)
{
    const int code = archive_errno(a) > 0 ? archive_errno(a) : EIO;

    return err_set(e, code, "tar%s%s: %s", path ? " " : "", path ? path : "", archive_error_string(a));
}

/* ---- writing ---- */

struct tar_writer {
    struct archive *a;
    struct err *e;
    char block[TAR_BLOCK];
};

static int tar_data(struct tar_writer *w, int fd, const char *path, uint64_t size)
{
    while (size > 0) {
        ssize_t n = read(fd, w->block, MIN(size, sizeof(w->block)));

        if (n < 0)
            return err_set(w->e, errno, "%s: %s", path, strerror(errno));
        if (n == 0) { /* it became shorter: the rest is zeroes, as the header promised */
            n = (ssize_t)MIN(size, sizeof(w->block));
            memset(w->block, 0, (size_t)n);
        }
        if (archive_write_data(w->a, w->block, (size_t)n) < 0)
            return tar_fail(w->a, path, w->e);
        size -= (uint64_t)n;
    }
    return 0;
}

static int tar_entry(struct tar_writer *w, int dir, const char *name, const char *path, unsigned depth);

static int tar_content(struct tar_writer *w, int fd, const char *path, unsigned depth)
{
    struct dirent **names = NULL;
    char child[PATH_MAX];
    int n = depth >= TAR_DEPTH_MAX ? -1 : scandirat(fd, ".", &names, NULL, alphasort), r = 0;

    if (n < 0)
        return err_set(w->e, depth >= TAR_DEPTH_MAX ? ELOOP : errno, "%s: %s", path, strerror(errno));
    for (int i = 0; i < n; i++) {
        if (r == 0 && strcmp(names[i]->d_name, ".") != 0 && strcmp(names[i]->d_name, "..") != 0)
            r = snprintf(child, sizeof(child), "%s%s%s", path, path[0] ? "/" : "", names[i]->d_name) >=
                        (int)sizeof(child)
                    ? err_set(w->e, ENAMETOOLONG, "%s: the path is too long", path)
                    : tar_entry(w, fd, names[i]->d_name, child, depth + 1);
        free(names[i]);
    }
    free(names);
    return r;
}

static int tar_header(struct tar_writer *w, int dir, const char *name, const char *path, const struct stat *st)
{
    struct archive_entry *entry = archive_entry_new();
    char target[PATH_MAX];
    ssize_t n;
    int r = 0;

    if (!entry)
        return err_set(w->e, ENOMEM, "out of memory");
    archive_entry_copy_stat(entry, st);
    archive_entry_copy_pathname(entry, path);
    if (S_ISLNK(st->st_mode)) {
        n = readlinkat(dir, name, target, sizeof(target) - 1);
        target[MAX(n, 0)] = '\0';
        archive_entry_copy_symlink(entry, target);
    }
    if (!S_ISREG(st->st_mode))
        archive_entry_set_size(entry, 0);
    if (archive_write_header(w->a, entry) < ARCHIVE_WARN)
        r = tar_fail(w->a, path, w->e);
    archive_entry_free(entry);
    return r;
}

static int tar_entry(struct tar_writer *w, int dir, const char *name, const char *path, unsigned depth)
{
    AUTO_FD int fd = -1;
    struct stat st;
    int r;

    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : err_set(w->e, errno, "%s: %s", path, strerror(errno));
    if (S_ISSOCK(st.st_mode))
        return 0;
    if (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)) {
        fd =
            openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | (S_ISDIR(st.st_mode) ? O_DIRECTORY : 0));
        if (fd < 0 || fstat(fd, &st) < 0)
            return err_set(w->e, errno, "%s: %s", path, strerror(errno));
    }
    r = tar_header(w, dir, name, path, &st);
    if (r == 0 && S_ISREG(st.st_mode))
        r = tar_data(w, fd, path, (uint64_t)st.st_size);
    return r == 0 && S_ISDIR(st.st_mode) ? tar_content(w, fd, path, depth) : r;
}

int inst_tar_create(int fd, int dir_fd, const char *name, struct err *e)
{
    AUTO_FREE struct tar_writer *w = calloc(1, sizeof(*w));
    int r;

    if (!w)
        return err_set(e, ENOMEM, "out of memory");
    w->e = e;
    w->a = archive_write_new();
    if (!w->a)
        return err_set(e, ENOMEM, "out of memory");
    r = archive_write_set_format_pax_restricted(w->a) != ARCHIVE_OK || archive_write_open_fd(w->a, fd) != ARCHIVE_OK
            ? tar_fail(w->a, NULL, e)
            : 0;
    if (r == 0)
        r = strcmp(name, ".") == 0 ? tar_content(w, dir_fd, "", 0) : tar_entry(w, dir_fd, name, name, 0);
    if (r == 0 && archive_write_close(w->a) != ARCHIVE_OK)
        r = tar_fail(w->a, NULL, e);
    archive_write_free(w->a);
    return r;
}

/* ---- reading ---- */

struct tar_reader {
    struct archive *a;
    int dir;  /* where all goes */
    int root; /* of the entry at hand: dir, or with take->only what has this name there, so that no link leads out of it
               */
    int only; /* the descriptor behind root in that case */
    const struct inst_tar_take *take;
    struct err *e;
};

/* The part of a path that is below the root. */
static int tar_below(struct tar_reader *t, const char *path, const char **ret_below)
{
    const char *only = t->take->only;
    const size_t len = only ? strlen(only) : 0;

    t->root = t->dir;
    *ret_below = path;
    if (!only)
        return 0;
    while (path[0] == '.' && path[1] == '/')
        path += 2;
    if (strncmp(path, only, len) != 0 || (path[len] && path[len] != '/'))
        return -EBADMSG;
    *ret_below = path;
    path += len;
    path += strspn(path, "/");
    if (!*path)
        return 0;
    base_closep(&t->only);
    t->only = t->root = openat(t->dir, only, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    *ret_below = path;
    return t->only < 0 ? -errno : 0;
}

/* The folder of an entry, made where it is missing. */
static int tar_parent(struct tar_reader *t, const char *path, char *ret_name, size_t size)
{
    int fd = sys_inroot_parent(t->root, path, ret_name, size);
    char dir[PATH_MAX];

    if (fd != -ENOENT)
        return fd;
    snprintf(dir, sizeof(dir), "%s", path);
    for (char *slash = strchr(dir + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        char name[NAME_MAX + 1];
        AUTO_FD int at = -1;

        *slash = '\0';
        at = sys_inroot_parent(t->root, dir, name, sizeof(name));
        if (at >= 0 && mkdirat(at, name, 0755) < 0 && errno != EEXIST)
            return -errno;
        *slash = '/';
    }
    return sys_inroot_parent(t->root, path, ret_name, size);
}

static int tar_write_file(struct tar_reader *t, int dir, const char *name, struct archive_entry *entry, int *ret_fd)
{
    const void *block;
    size_t len;
    la_int64_t offset;
    int r;
    AUTO_FD int fd = -1;

    fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    while ((r = archive_read_data_block(t->a, &block, &len, &offset)) == ARCHIVE_OK) {
        int res = fd_pwrite_all(fd, block, len, (uint64_t)offset);

        if (res < 0)
            return res;
    }
    if (r != ARCHIVE_EOF)
        return -EBADMSG;
    /* A hole at the end is in no block. */
    if (archive_entry_size_is_set(entry) && ftruncate(fd, archive_entry_size(entry)) < 0)
        return -errno;
    *ret_fd = STEAL_FD(fd);
    return 0;
}

static int tar_make(struct tar_reader *t, struct archive_entry *entry, int dir, const char *name, int *ret_fd)
{
    const mode_t type = archive_entry_filetype(entry);
    const char *link = archive_entry_hardlink(entry), *below;
    char from_name[NAME_MAX + 1];
    AUTO_FD int from = -1;
    int r;

    if (type == AE_IFDIR) {
        if (mkdirat(dir, name, 0755) < 0 && errno != EEXIST)
            return -errno;
        *ret_fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        return *ret_fd < 0 ? -errno : 0;
    }
    if (t->take->guest && !link && (type == AE_IFCHR || type == AE_IFBLK))
        return -EBADMSG;
    if (unlinkat(dir, name, 0) < 0 && errno != ENOENT)
        return -errno;
    if (link) {
        r = tar_below(t, link, &below);
        if (r < 0 || (t->take->only && t->root == t->dir))
            return r < 0 ? r : -EBADMSG;
        from = sys_inroot_parent(t->root, below, from_name, sizeof(from_name));
        return from < 0 ? from : linkat(from, from_name, dir, name, 0) < 0 ? -errno : 1;
    }
    switch (type) {
    case AE_IFREG:
        return tar_write_file(t, dir, name, entry, ret_fd);
    case AE_IFLNK:
        return symlinkat(archive_entry_symlink(entry) ? archive_entry_symlink(entry) : "", dir, name) < 0 ? -errno : 0;
    case AE_IFIFO:
    case AE_IFCHR:
    case AE_IFBLK:
        return mknodat(dir, name, archive_entry_mode(entry), archive_entry_rdev(entry)) < 0 ? -errno : 0;
    default:
        return 1;
    }
}

static int tar_attributes(struct tar_reader *t, struct archive_entry *entry, int dir, const char *name, int fd)
{
    const struct sys_tree_owner *owner = t->take->owner;
    const uid_t uid = owner ? owner->uid : (uid_t)archive_entry_uid(entry);
    const gid_t gid = owner ? owner->gid : (gid_t)archive_entry_gid(entry);
    const mode_t mode = archive_entry_perm(entry) & (t->take->guest ? 01777 : 07777);
    const struct timespec times[2] = { { .tv_nsec = UTIME_OMIT },
                                       { archive_entry_mtime(entry), archive_entry_mtime_nsec(entry) } };

    if (fchownat(dir, name, uid, gid, AT_SYMLINK_NOFOLLOW) < 0 && errno != EPERM && errno != EINVAL)
        return -errno;
    if (fd >= 0 && fchmod(fd, mode) < 0)
        return -errno;
    return utimensat(dir, name, times, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

static int tar_extract_entry(struct tar_reader *t, struct archive_entry *entry)
{
    const char *path = archive_entry_pathname(entry), *below;
    AUTO_FD int dir = -1, fd = -1;
    char name[NAME_MAX + 1];
    int r;

    if (!path)
        return err_set(t->e, EBADMSG, "tar: an entry has no name that can be read");
    r = tar_below(t, path, &below);
    if (r >= 0)
        r = dir = tar_parent(t, below, name, sizeof(name));
    if (r == -EINVAL) /* "." or "/": the directory itself */
        return 0;
    if (r >= 0)
        r = tar_make(t, entry, dir, name, &fd);
    if (r == 0)
        r = tar_attributes(t, entry, dir, name, fd);
    if (r == -EBADMSG && t->take->guest)
        return err_set(t->e, EBADMSG,
                       "%s: damaged, or not what was asked for, or a device node; not taken, look at the sender", path);
    return r < 0 ? err_set(t->e, -r, "tar %s: %s", path, strerror(-r)) : 0;
}

int inst_tar_extract(int fd, int dir_fd, const struct inst_tar_take *take, struct err *e)
{
    struct tar_reader t = { .a = archive_read_new(), .dir = dir_fd, .only = -1, .take = take, .e = e };
    struct archive_entry *entry;
    int r = 0, a = ARCHIVE_OK;

    if (!t.a)
        return err_set(e, ENOMEM, "out of memory");
    if (!take->guest)
        archive_read_support_filter_all(t.a);
    archive_read_support_format_tar(t.a);
    archive_read_support_format_empty(t.a);
    if (archive_read_open_fd(t.a, fd, TAR_BLOCK) != ARCHIVE_OK)
        r = tar_fail(t.a, NULL, e);
    while (r == 0 && (a = archive_read_next_header(t.a, &entry)) >= ARCHIVE_WARN && a != ARCHIVE_EOF)
        r = tar_extract_entry(&t, entry);
    if (r == 0 && a != ARCHIVE_EOF)
        r = err_set(e, EBADMSG, "tar: %s", archive_error_string(t.a));
    base_closep(&t.only);
    archive_read_free(t.a);
    return r;
}
