/* What a container has changed: its upper folder beside the image. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "instance/container_priv.h"
#include "instance/container_root.h"
#include "instance/place.h"
#include "sys/dirs.h"
#include "sys/inroot.h"
#include "sys/overlay.h"

#define DIFF_DEPTH_MAX 256

struct diff {
    const struct inst_container *c;
    int (*fn)(void *opaque, char kind, const char *path);
    void *opaque;
    int lower; /* the image's root */
};

/* Sorted names of a directory without the dots. -errno; free each and the list. */
static int diff_names(int fd, struct dirent ***ret_names)
{
    int n = scandirat(fd, ".", ret_names, NULL, alphasort);

    return n < 0 ? -errno : n;
}

static bool diff_is_dots(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* What the image has at path. False: nothing. */
static bool diff_lower(const struct diff *d, const char *path, struct stat *ret)
{
    AUTO_FD int fd = sys_inroot_open(d->lower, path, O_PATH | O_NOFOLLOW, 0);

    return fd >= 0 && fstat(fd, ret) == 0;
}

/* An opaque folder hides all that the image has there and it has not itself. */
static int diff_hidden(struct diff *d, int upper, const char *path)
{
    AUTO_FD int fd = sys_inroot_open(d->lower, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    struct dirent **names = NULL;
    char child[PATH_MAX];
    struct stat st;
    int n = fd < 0 ? 0 : diff_names(fd, &names), r = 0;

    for (int i = 0; i < n; i++) {
        if (r == 0 && !diff_is_dots(names[i]->d_name) &&
            fstatat(upper, names[i]->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 &&
            snprintf(child, sizeof(child), "%s/%s", path, names[i]->d_name) < (int)sizeof(child))
            r = d->fn(d->opaque, 'D', child);
        free(names[i]);
    }
    free(names);
    return r;
}

/* Places of mounts, which every start makes. */
static bool diff_is_ours(const struct diff *d, const char *path)
{
    static const char *const ours[] = { "/dev", "/proc", "/sys", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf" };

    for (size_t i = 0; i < ARRAY_SIZE(ours); i++) {
        if (strcmp(path, ours[i]) == 0)
            return true;
    }
    for (size_t i = 0; i < d->c->n_mounts; i++) {
        if (strcmp(path, d->c->mounts[i].target) == 0)
            return true;
    }
    return false;
}

static int diff_dir(struct diff *d, int fd, const char *path, bool added, unsigned depth);

/* A file whose name says what is deleted. */
static int diff_deleted(struct diff *d, const char *path, const char *name, const char *deleted)
{
    char real[PATH_MAX];

    snprintf(real, sizeof(real), "%.*s%s", (int)(strlen(path) - strlen(name)), path, deleted);
    return diff_is_ours(d, real) ? 0 : d->fn(d->opaque, 'D', real);
}

static int diff_entry(struct diff *d, int dir, const char *name, const char *path, bool added, unsigned depth)
{
    AUTO_FD int fd = -1;
    struct stat st, low;
    const char *deleted;
    bool there;
    int r;

    if (diff_is_ours(d, path))
        return 0;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : -errno;
    deleted = sys_overlay_mark(name, &st);
    if (deleted)
        return *deleted ? diff_deleted(d, path, name, deleted) : 0;
    if (S_ISCHR(st.st_mode) && st.st_rdev == makedev(0, 0))
        return d->fn(d->opaque, 'D', path);
    there = !added && diff_lower(d, path, &low);
    r = d->fn(d->opaque, there ? 'C' : 'A', path);
    if (r != 0 || !S_ISDIR(st.st_mode))
        return r;
    fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    there = there && S_ISDIR(low.st_mode);
    r = there && sys_overlay_is_opaque(fd) ? diff_hidden(d, fd, path) : 0;
    return r == 0 ? diff_dir(d, fd, path, !there, depth + 1) : r;
}

static int diff_dir(struct diff *d, int fd, const char *path, bool added, unsigned depth)
{
    struct dirent **names = NULL;
    char child[PATH_MAX];
    int n = depth >= DIFF_DEPTH_MAX ? -ELOOP : diff_names(fd, &names), r = MIN(n, 0);

    for (int i = 0; i < n; i++) {
        if (r == 0 && !diff_is_dots(names[i]->d_name))
            r = snprintf(child, sizeof(child), "%s/%s", path, names[i]->d_name) >= (int)sizeof(child)
                    ? -ENAMETOOLONG
                    : diff_entry(d, fd, names[i]->d_name, child, added, depth);
        free(names[i]);
    }
    free(names);
    return r;
}

int inst_container_diff(const struct store_instance *i, int (*fn)(void *opaque, char kind, const char *path),
                        void *opaque, struct err *e)
{
    char dir[INST_PATH_MAX], rundir[INST_PATH_MAX], path[INST_PATH_MAX + 16];
    AUTO_FD int upper = -1, lower = -1;
    struct diff d = { .c = &i->spec.container, .fn = fn, .opaque = opaque };
    int r = i->spec.kind == INST_CONTAINER ? inst_dir(i->id, dir, e)
                                           : err_set(e, EPROTOTYPE, "%s is a VM; this is for containers", i->name);

    if (r == 0)
        r = inst_run_dir(i->id, rundir, e);
    if (r == 0)
        r = container_rootfs_unshare(e);
    if (r < 0)
        return r;
    snprintf(path, sizeof(path), "%s/upper", dir);
    upper = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (upper < 0)
        return errno == ENOENT ? 0 : err_set(e, errno, "%s: %s", path, strerror(errno));
    r = sys_dirs_make(rundir);
    if (r < 0)
        return err_set(e, -r, "cannot make %s: %s", rundir, strerror(-r));
    snprintf(path, sizeof(path), "%s/image", rundir);
    r = container_rootfs_lower(i, path, &lower, e);
    if (r < 0)
        return r;
    d.lower = lower;
    r = diff_dir(&d, upper, "", false, 0);
    return r < 0 ? err_set(e, -r, "%s: its changes cannot be read: %s", i->name, strerror(-r)) : r;
}
