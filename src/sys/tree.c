#include "sys/tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

/* A tree may be deeper than there are descriptors and stack: what lies deeper than this is moved up to the top first.
 */
#define TREE_DEPTH_MAX 64

struct tree_walk {
    int top;   /* the directory that is removed */
    dev_t dev; /* another file system below is a mount */
    unsigned n_moved;
    bool again; /* something was moved up */
    int error;  /* the first */
};

static void tree_note(struct tree_walk *w, int r)
{
    if (r < 0 && w->error == 0)
        w->error = r;
}

/* Remove one entry. 1: it is a directory that is not empty. */
static int tree_unlink(int parent, const char *name)
{
    if (unlinkat(parent, name, 0) == 0 || errno == ENOENT)
        return 0;
    if (errno != EISDIR && errno != EPERM)
        return -errno;
    if (unlinkat(parent, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
        return 0;
    return errno == ENOTEMPTY || errno == EEXIST || errno == EACCES ? 1 : -errno;
}

static int tree_open(int parent, const char *name, dev_t dev)
{
    const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    AUTO_FD int fd = openat(parent, name, flags);
    struct stat st;

    if (fd < 0 && errno == EACCES && fchmodat(parent, name, 0700, 0) == 0)
        fd = openat(parent, name, flags);
    if (fd < 0 || fstat(fd, &st) < 0)
        return -errno;
    if (dev && st.st_dev != dev)
        return -EBUSY;
    if ((st.st_mode & 0700) != 0700)
        (void)fchmod(fd, 0700); /* one that others made so; what cannot be removed then says why */
    return STEAL_FD(fd);
}

static void tree_empty(struct tree_walk *w, int fd, unsigned depth);

static void tree_remove_entry(struct tree_walk *w, int parent, const char *name, unsigned depth)
{
    int r = tree_unlink(parent, name);
    char up[48];

    if (r <= 0) {
        tree_note(w, r);
        return;
    }
    if (depth == TREE_DEPTH_MAX) {
        snprintf(up, sizeof(up), ".caisson-removed-%d-%u", (int)getpid(), w->n_moved++);
        tree_note(w, renameat(parent, name, w->top, up) < 0 ? -errno : 0);
        w->again = true;
        return;
    }
    r = tree_open(parent, name, w->dev);
    if (r >= 0) {
        AUTO_FD int fd = r;

        tree_empty(w, fd, depth + 1);
        r = unlinkat(parent, name, AT_REMOVEDIR) < 0 && errno != ENOENT ? -errno : 0;
    }
    tree_note(w, r);
}

/* Remove what is in a directory. */
static void tree_empty(struct tree_walk *w, int fd, unsigned depth)
{
    AUTO_FD int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    DIR *dir = copy < 0 ? NULL : fdopendir(copy);
    struct dirent *entry;

    if (!dir) {
        tree_note(w, -errno);
        return;
    }
    (void)STEAL_FD(copy);
    rewinddir(dir);
    while ((entry = readdir(dir))) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            tree_remove_entry(w, fd, entry->d_name, depth);
    }
    closedir(dir);
}

int sys_tree_remove(const char *path)
{
    struct tree_walk w = { .again = true };
    AUTO_FD int top = -1;
    struct stat st;
    int r = tree_unlink(AT_FDCWD, path);

    if (r <= 0)
        return r == -ENOTDIR ? 0 : r; /* a parent that is a file has nothing below it */
    top = tree_open(AT_FDCWD, path, 0);
    if (top < 0)
        return top == -ENOENT ? 0 : top;
    if (fstat(top, &st) < 0)
        return -errno;
    w.top = top;
    w.dev = st.st_dev;
    while (w.again && w.error == 0) {
        w.again = false;
        tree_empty(&w, top, 0);
    }
    if (rmdir(path) < 0 && errno != ENOENT)
        tree_note(&w, -errno);
    return w.error;
}
