/* The folders of the image store, their lock, and temporary files. A temporary folder is locked by its process; one
 * that can be locked by somebody else is a dead process's, and is deleted. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "image/image_priv.h"
#include "sys/tree.h"

static int place_fail(const struct image_place *p, int r, const char *what, struct err *e)
{
    if (r == -ENOSPC || r == -EDQUOT)
        return err_set(e, ENOSPC, "image store %s: no space left; free some ('caisson image prune')", p->path);
    return err_set(e, -r, "image store %s: cannot %s: %s; set CAISSON_STATE_DIR to a place of your own", p->path, what,
                   strerror(-r));
}

static int place_make(struct image_place *p, struct err *e)
{
    static const char *const folders[] = { "blobs", "blobs/sha256", "layers", "tmp" };
    int r = sys_dirs_make(p->path);

    if (r < 0)
        return place_fail(p, r, "make the folder", e);
    p->fd = open(p->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (p->fd < 0)
        return place_fail(p, -errno, "open it", e);
    for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
        if (mkdirat(p->fd, folders[i], 0700) < 0 && errno != EEXIST)
            return place_fail(p, -errno, "make a folder", e);
    }
    return 0;
}

static int place_lock(struct image_place *p, enum image_lock lock, struct err *e)
{
    p->lock = openat(p->fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (p->lock < 0)
        return place_fail(p, -errno, "open its lock", e);
    while (flock(p->lock, lock == IMAGE_LOCK_SHARED ? LOCK_SH : LOCK_EX | LOCK_NB) < 0) {
        if (errno == EWOULDBLOCK)
            return err_set(e, EBUSY, "image store %s: another command adds or uses images now; try again later",
                           p->path);
        if (errno != EINTR)
            return place_fail(p, -errno, "lock it", e);
    }
    return 0;
}

/* Delete what dead processes left in tmp/. Errors are no reason not to work. */
static void place_sweep_tmp(struct image_place *p)
{
    AUTO_FD int fd = openat(p->fd, "tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    DIR *dir = fd < 0 ? NULL : fdopendir(dup(fd));
    const struct dirent *d;

    while (dir && (d = readdir(dir))) {
        AUTO_FD int one = -1;
        struct err ignored = { 0 };

        if (d->d_name[0] == '.')
            continue;
        one = openat(fd, d->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (one >= 0 && flock(one, LOCK_EX | LOCK_NB) == 0 && image_tree_remove_owned(fd, d->d_name, &ignored) < 0)
            continue;
    }
    if (dir)
        closedir(dir);
}

static int place_make_tmp(struct image_place *p, struct err *e)
{
    snprintf(p->tmp, sizeof(p->tmp), "%s/tmp/XXXXXX", p->path);
    /* A sweeper may have taken it between the two calls: then it is gone, and another one is made. */
    for (;;) {
        struct stat st;
        int r;

        memcpy(p->tmp + strlen(p->tmp) - 6, "XXXXXX", 6);
        if (!mkdtemp(p->tmp)) {
            r = -errno;
            p->tmp[0] = '\0';
            return place_fail(p, r, "make a temporary folder", e);
        }
        errno = 0; /* a folder that is gone but open is no error */
        p->tmp_fd = open(p->tmp, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (p->tmp_fd >= 0 && flock(p->tmp_fd, LOCK_EX | LOCK_NB) == 0 && fstat(p->tmp_fd, &st) == 0 &&
            st.st_nlink > 0 && access(p->tmp, F_OK) == 0)
            return 0;
        r = -errno;
        base_closep(&p->tmp_fd);
        p->tmp_fd = -1;
        if (r != -ENOENT && r != -EWOULDBLOCK && r != -EINTR && r != 0) {
            (void)rmdir(p->tmp);
            p->tmp[0] = '\0';
            return place_fail(p, r, "open a temporary folder", e);
        }
    }
}

int image_place_open(struct image_place *p, enum image_lock lock, bool tmp, struct err *e)
{
    char state[SYS_DIR_MAX];
    int r = sys_dirs_state(state);

    *p = (struct image_place){ .fd = -1, .lock = -1, .tmp_fd = -1 };
    if (r < 0)
        return err_set(e, -r, "no place for images: the state directory is not known; set CAISSON_STATE_DIR");
    snprintf(p->path, sizeof(p->path), "%s/images", state);
    if (lock == IMAGE_LOCK_NONE) {
        p->fd = open(p->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return p->fd >= 0 ? 0 : place_fail(p, -errno, "open it", e);
    }
    r = place_make(p, e);
    if (r == 0)
        r = place_lock(p, lock, e);
    if (r == 0 && tmp) {
        place_sweep_tmp(p);
        r = place_make_tmp(p, e);
    }
    return r;
}

void image_place_done(struct image_place *p)
{
    struct err ignored = { 0 };

    if (p->tmp[0]) {
        AUTO_FD int dir = openat(p->fd, "tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

        /* What cannot be deleted is the next process's to try. */
        if (dir >= 0 && image_tree_remove_owned(dir, strrchr(p->tmp, '/') + 1, &ignored) < 0)
            p->tmp[0] = '\0';
    }
    base_closep(&p->tmp_fd);
    base_closep(&p->lock);
    base_closep(&p->fd);
    *p = (struct image_place){ .fd = -1, .lock = -1, .tmp_fd = -1 };
}

void image_blob_name(const char *digest, char ret_name[96])
{
    snprintf(ret_name, 96, "blobs/sha256/%.64s", image_hex(digest));
}

/* ---- trees ---- */

int image_tree_remove(int dir, const char *name)
{
    char path[PATH_MAX];

    if (unlinkat(dir, name, 0) == 0 || errno == ENOENT)
        return 0;
    if (dir == AT_FDCWD)
        return sys_tree_remove(name);
    if (snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", dir, name) >= (int)sizeof(path))
        return -ENAMETOOLONG;
    return sys_tree_remove(path); /* however deep a command of a build has made it */
}

static uint64_t tree_size(int fd, unsigned depth)
{
    DIR *d = fdopendir(fd);
    const struct dirent *entry;
    uint64_t sum = 0;
    struct stat st;

    if (!d)
        close(fd);
    while (d && (entry = readdir(d))) {
        int child;

        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
            fstatat(dirfd(d), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        sum += (uint64_t)st.st_blocks * 512;
        child = depth > 0 && S_ISDIR(st.st_mode)
                    ? openat(dirfd(d), entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)
                    : -1;
        sum += child >= 0 ? tree_size(child, depth - 1) : 0;
    }
    if (d)
        closedir(d);
    return sum;
}

uint64_t image_tree_size(int dir, const char *name)
{
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

    return fd < 0 ? 0 : tree_size(fd, IMAGE_DEPTH_MAX);
}
