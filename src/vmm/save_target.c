#include "vmm/save_target.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

static const char *target_name(const struct save_target *t)
{
    return t->path ? t->path : "(a descriptor)";
}

int save_target_error(const struct save_target *t, int r, struct err *e)
{
    return err_set(e, -r, "file %s: %s; the VM was not saved%s", target_name(t), strerror(-r),
                   r == -ENOSPC || r == -EDQUOT ? ", make room or name another place"
                   : r == -ENOENT               ? ", make its directory"
                                                : "");
}

/* The part of an absolute path behind the directory. */
static const char *target_last(const char *path)
{
    return strrchr(path, '/') + 1;
}

/* A name beside the path that nobody has. */
static int target_temp(struct save_target *t)
{
    uint64_t r = 0;

    if (getrandom(&r, sizeof(r), 0) != sizeof(r))
        return -EIO;
    return snprintf(t->temp, sizeof(t->temp), "%s.%016" PRIx64 ".part", t->path, r) < (int)sizeof(t->temp)
               ? 0
               : -ENAMETOOLONG;
}

static int target_open(struct save_target *t)
{
    char dir[sizeof(t->temp)];
    char *slash;
    int r = target_temp(t);

    if (r < 0)
        return r;
    snprintf(dir, sizeof(dir), "%s", t->path);
    slash = strrchr(dir, '/');
    slash[slash == dir] = '\0';
    t->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (t->dir_fd < 0)
        return -errno;
    t->fd = openat(t->dir_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (t->fd >= 0)
        return 0;
    if (errno != EOPNOTSUPP && errno != EISDIR)
        return -errno;
    t->fd = openat(t->dir_fd, target_last(t->temp), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (t->fd < 0)
        return -errno;
    t->named = true;
    return 0;
}

int save_target_open(struct save_target *t, const char *path, bool replace, struct err *e)
{
    struct stat st;
    int r;

    *t = (struct save_target){ .fd = -1, .dir_fd = -1, .path = path, .replace = replace };
    if (!replace && lstat(path, &st) == 0)
        return err_set(e, EEXIST, "file %s: exists already; name another, or replace it with --replace", path);
    r = target_open(t);
    return r < 0 ? save_target_error(t, r, e) : 0;
}

int save_target_take(struct save_target *t, int fd, struct err *e)
{
    struct stat st;
    int flags;

    *t = (struct save_target){ .fd = fd, .dir_fd = -1 };
    flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fstat(fd, &st) < 0)
        return save_target_error(t, -errno, e);
    /* With O_APPEND, each write would go to the end of the file instead of its place. */
    if (!S_ISREG(st.st_mode) || st.st_size != 0 || (flags & O_ACCMODE) == O_RDONLY || flags & (O_APPEND | O_PATH))
        return err_set(e, EINVAL, "the descriptor to save to is not that of an empty regular file that can be written");
    return 0;
}

/* From temp to path, which must not be there. */
static int target_move(const struct save_target *t)
{
    const char *from = target_last(t->temp), *to = target_last(t->path);

    if (renameat2(t->dir_fd, from, t->dir_fd, to, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return -errno;
    /* A file system that does not know the flag, such as NFS. */
    if (linkat(t->dir_fd, from, t->dir_fd, to, 0) < 0)
        return -errno;
    (void)unlinkat(t->dir_fd, from, 0);
    return 0;
}

/* Give the file its name; where it replaces another one by way of temp, since a link cannot replace. */
static int target_name_it(struct save_target *t)
{
    const char *temp = target_last(t->temp), *name = target_last(t->path);
    char proc[64];
    int r;

    if (!t->named) {
        snprintf(proc, sizeof(proc), "/proc/self/fd/%d", t->fd);
        if (linkat(AT_FDCWD, proc, t->dir_fd, t->replace ? temp : name, AT_SYMLINK_FOLLOW) < 0)
            return -errno;
        if (!t->replace)
            return 0;
        t->named = true;
    }
    r = !t->replace ? target_move(t) : renameat(t->dir_fd, temp, t->dir_fd, name) < 0 ? -errno : 0;
    t->named = r < 0;
    return r;
}

int save_target_commit(struct save_target *t, struct err *e)
{
    int r = fdatasync(t->fd) < 0 ? -errno : 0;

    if (r == 0 && t->path)
        r = target_name_it(t);
    if (r == 0 && t->path && fsync(t->dir_fd) < 0) { /* the name, too, is to be there after a power cut */
        r = -errno;
        (void)unlinkat(t->dir_fd, target_last(t->path), 0);
    }
    if (r == -EEXIST)
        return err_set(e, EEXIST, "file %s: exists already; name another, or replace it with --replace", t->path);
    return r < 0 ? save_target_error(t, r, e) : 0;
}

void save_target_close(struct save_target *t)
{
    if (t->named)
        (void)unlinkat(t->dir_fd, target_last(t->temp), 0);
    t->named = false;
    base_closep(&t->fd);
    base_closep(&t->dir_fd);
    t->fd = t->dir_fd = -1;
}
