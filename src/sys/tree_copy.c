#include "sys/tree_copy.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/cleanup.h"

#define TREE_XATTR_LIST_MAX (64U << 10)
#define TREE_COPY_BYTES (64U << 20) /* in one call */

static bool tree_is_dots(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* A directory's entries: fn for each. Keeps fd open. The first error is returned; all are tried. */
static int tree_each(int dir_fd, int (*fn)(void *opaque, int dir_fd, const char *name), void *opaque)
{
    int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
    const struct dirent *d;
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);

    if (!dir) {
        r = -errno;
        if (fd >= 0)
            close(fd);
        return r;
    }
    while ((d = readdir(dir))) {
        int one = tree_is_dots(d->d_name) ? 0 : fn(opaque, dir_fd, d->d_name);

        if (r == 0)
            r = one;
    }
    closedir(dir);
    return r;
}

/* ---- copying ---- */

/* What goes down the tree. */
struct tree_copy {
    int to_fd;
    unsigned depth;
    const struct sys_tree_how *how;
    char *path; /* of what is at hand, PATH_MAX bytes; too long: its beginning */
};

static int tree_fail(const struct tree_copy *c, int r, bool source)
{
    struct sys_tree_failure *f = c->how->failure;

    if (f && !f->set) {
        f->set = true;
        f->source = source;
        snprintf(f->path, sizeof(f->path), "%s", c->path);
    }
    return r;
}

/* The source's attributes as the copy is to have them; true: it changes hands. */
static bool tree_own(struct stat *st, const struct tree_copy *c)
{
    const struct sys_tree_owner *owner = c->how->owner;

    if (!owner || (st->st_uid == owner->uid && st->st_gid == owner->gid))
        return false;
    st->st_uid = owner->uid;
    st->st_gid = owner->gid;
    if (!S_ISDIR(st->st_mode))
        st->st_mode &= ~(mode_t)(S_ISUID | S_ISGID);
    return true;
}

/* Extended attributes that can be had and set; others (security labels of another domain) are left. */
static void tree_copy_xattrs(int from, int to, bool security)
{
    AUTO_FREE char *names = malloc(TREE_XATTR_LIST_MAX), *value = malloc(XATTR_SIZE_MAX);
    ssize_t len = names && value ? flistxattr(from, names, TREE_XATTR_LIST_MAX) : -1;

    for (ssize_t at = 0; at < len; at += (ssize_t)strlen(names + at) + 1) {
        const bool wanted = security || strncmp(names + at, "security.", 9) != 0;
        ssize_t n = wanted ? fgetxattr(from, names + at, value, XATTR_SIZE_MAX) : -1;

        if (n >= 0)
            (void)!fsetxattr(to, names + at, value, (size_t)n, 0);
    }
}

static int tree_copy_attributes(int from, int to, const struct stat *st, bool changes_hands)
{
    const struct timespec times[2] = { st->st_atim, st->st_mtim };
    mode_t mode = st->st_mode & 07777;

    if (fchown(to, st->st_uid, st->st_gid) < 0) {
        if (errno != EPERM && errno != EINVAL)
            return -errno;
        changes_hands = true; /* to us */
        if (S_ISREG(st->st_mode))
            mode &= ~(mode_t)(S_ISUID | S_ISGID);
    }
    if (fchmod(to, mode) < 0)
        return -errno;
    tree_copy_xattrs(from, to, !changes_hands);
    return futimens(to, times) < 0 ? -errno : 0;
}

static int tree_copy_bytes(int from, int to)
{
    ssize_t n;

    do
        n = copy_file_range(from, NULL, to, NULL, TREE_COPY_BYTES, 0);
    while (n > 0);
    if (n < 0) { /* other file systems, or files without ranges */
        do
            n = sendfile(to, from, NULL, TREE_COPY_BYTES);
        while (n > 0);
    }
    return n < 0 ? -errno : 0;
}

static int tree_copy_open_file(int from, int to_fd, const char *to_name, const struct tree_copy *c)
{
    AUTO_FD int to = -1;
    struct stat st;
    bool changes;
    int r;

    if (fstat(from, &st) < 0)
        return tree_fail(c, -errno, true);
    if (!S_ISREG(st.st_mode))
        return -EAGAIN; /* it was one just before */
    changes = tree_own(&st, c);
    if (unlinkat(to_fd, to_name, 0) < 0 && errno != ENOENT)
        return -errno;
    to = openat(to_fd, to_name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (to < 0)
        return -errno;
    r = tree_copy_bytes(from, to);
    return r == 0 ? tree_copy_attributes(from, to, &st, changes) : r;
}

static int tree_copy_file(int from_fd, const char *from_name, int to_fd, const char *to_name, const struct tree_copy *c)
{
    AUTO_FD int from = openat(from_fd, from_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

    return from < 0 ? tree_fail(c, -errno, true) : tree_copy_open_file(from, to_fd, to_name, c);
}

static int tree_copy_link(int from_fd, const char *from_name, int to_fd, const char *to_name, const struct stat *st)
{
    const struct timespec times[2] = { st->st_atim, st->st_mtim };
    char target[PATH_MAX];
    ssize_t n = readlinkat(from_fd, from_name, target, sizeof(target) - 1);

    if (n < 0)
        return -errno;
    target[n] = '\0';
    if (unlinkat(to_fd, to_name, 0) < 0 && errno != ENOENT)
        return -errno;
    if (symlinkat(target, to_fd, to_name) < 0)
        return -errno;
    if (fchownat(to_fd, to_name, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW) < 0 && errno != EPERM && errno != EINVAL)
        return -errno;
    return utimensat(to_fd, to_name, times, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

static int tree_copy_node(int to_fd, const char *to_name, const struct stat *st, const struct tree_copy *c)
{
    const struct timespec times[2] = { st->st_atim, st->st_mtim };

    if (c->how->device && (S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode))) {
        c->how->device(c->how->opaque, c->path);
        return 0;
    }
    if (unlinkat(to_fd, to_name, 0) < 0 && errno != ENOENT)
        return -errno;
    if (mknodat(to_fd, to_name, st->st_mode, st->st_rdev) < 0)
        return -errno;
    if (fchownat(to_fd, to_name, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW) < 0 && errno != EPERM && errno != EINVAL)
        return -errno;
    if (fchmodat(to_fd, to_name, st->st_mode & 07777, 0) < 0)
        return -errno;
    return utimensat(to_fd, to_name, times, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

static int tree_copy_any(int from_fd, const char *from_name, int to_fd, const char *to_name, const struct tree_copy *c);

static int tree_copy_child(void *opaque, int dir_fd, const char *name)
{
    const struct tree_copy *c = opaque;
    const size_t len = strlen(c->path);
    int r;

    (void)!snprintf(c->path + len, PATH_MAX - len, "%s%s", len ? "/" : "", name);
    r = tree_copy_any(dir_fd, name, c->to_fd, name, c);
    c->path[len] = '\0';
    return r;
}

static int tree_copy_content(int from, int to, const struct tree_copy *c)
{
    struct tree_copy below = { to, c->depth + 1, c->how, c->path };

    return c->depth >= SYS_TREE_DEPTH_MAX ? -ELOOP : tree_each(from, tree_copy_child, &below);
}

static int tree_copy_dir(int from_fd, const char *from_name, int to_fd, const char *to_name, const struct tree_copy *c)
{
    AUTO_FD int from = openat(from_fd, from_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), to = -1;
    struct stat st;
    bool changes;
    int r;

    if (from < 0 || fstat(from, &st) < 0)
        return tree_fail(c, -errno, true);
    if (mkdirat(to_fd, to_name, 0700) < 0 && errno != EEXIST)
        return -errno;
    to = openat(to_fd, to_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (to < 0)
        return -errno;
    r = tree_copy_content(from, to, c);
    changes = tree_own(&st, c);
    return r == 0 ? tree_copy_attributes(from, to, &st, changes) : r;
}

static int tree_copy_kind(int from_fd, const char *from_name, int to_fd, const char *to_name, const struct tree_copy *c)
{
    struct stat st;

    if (fstatat(from_fd, from_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return tree_fail(c, -errno, true);
    tree_own(&st, c);
    switch (st.st_mode & S_IFMT) {
    case S_IFREG:
        return tree_copy_file(from_fd, from_name, to_fd, to_name, c);
    case S_IFLNK:
        return tree_copy_link(from_fd, from_name, to_fd, to_name, &st);
    case S_IFDIR:
        return tree_copy_dir(from_fd, from_name, to_fd, to_name, c);
    case S_IFSOCK:
        return 0; /* of no use without its process */
    default:
        return tree_copy_node(to_fd, to_name, &st, c);
    }
}

static int tree_copy_any(int from_fd, const char *from_name, int to_fd, const char *to_name, const struct tree_copy *c)
{
    int r = tree_copy_kind(from_fd, from_name, to_fd, to_name, c);

    return r < 0 ? tree_fail(c, r, false) : r;
}

/* The whole: at the path "". */
static int tree_copy_begin(struct tree_copy *c, int to_fd, const struct sys_tree_how *how)
{
    static const struct sys_tree_how exact = { 0 };
    char *path = calloc(1, PATH_MAX);

    *c = (struct tree_copy){ .to_fd = to_fd, .how = how ? how : &exact, .path = path };
    return path ? 0 : -ENOMEM;
}

int sys_tree_copy(int from_fd, int to_fd)
{
    struct stat st;
    int r = sys_tree_copy_content(from_fd, to_fd, NULL);

    if (r == 0 && fstat(from_fd, &st) < 0)
        r = -errno;
    return r == 0 ? tree_copy_attributes(from_fd, to_fd, &st, false) : r;
}

int sys_tree_copy_entry(int from_fd, const char *from_name, int to_fd, const char *to_name,
                        const struct sys_tree_how *how)
{
    struct tree_copy c;
    int r = tree_copy_begin(&c, to_fd, how);

    if (r == 0)
        r = tree_copy_any(from_fd, from_name, to_fd, to_name, &c);
    free(c.path);
    return r;
}

int sys_tree_copy_content(int from_fd, int to_fd, const struct sys_tree_how *how)
{
    struct tree_copy c;
    int r = tree_copy_begin(&c, to_fd, how);

    if (r == 0)
        r = tree_copy_content(from_fd, to_fd, &c);
    free(c.path);
    return r;
}

int sys_tree_copy_file(int from, int to_fd, const char *to_name, const struct sys_tree_how *how)
{
    struct tree_copy c;
    int r = tree_copy_begin(&c, to_fd, how);

    if (r == 0)
        r = tree_copy_open_file(from, to_fd, to_name, &c);
    free(c.path);
    return r;
}

/* ---- measuring ---- */

struct tree_size {
    uint64_t bytes, entries;
    unsigned depth;
};

static int tree_size_entry(void *opaque, int dir_fd, const char *name)
{
    struct tree_size *s = opaque;
    AUTO_FD int fd = -1;
    struct stat st;
    int r = 0;

    if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : -errno;
    s->bytes += (uint64_t)st.st_blocks * 512;
    s->entries++;
    if (!S_ISDIR(st.st_mode))
        return 0;
    if (s->depth >= SYS_TREE_DEPTH_MAX)
        return -ELOOP;
    fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    s->depth++;
    r = tree_each(fd, tree_size_entry, s);
    s->depth--;
    return r;
}

int sys_tree_size(int dir_fd, const char *name, uint64_t *ret_bytes, uint64_t *ret_entries)
{
    struct tree_size s = { 0 };
    int r = tree_size_entry(&s, dir_fd, name);

    if (r < 0)
        return r;
    *ret_bytes = s.bytes;
    *ret_entries = s.entries;
    return 0;
}
