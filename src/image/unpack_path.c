/* Where an entry of a layer lies. The kernel answers by openat2 as long as all parts are folders of this layer; only
 * what is missing, or a link, is looked up part by part, in this layer and through its parents: an image that was
 * unpacked as one tree would have that folder or link there. */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "image/unpack_priv.h"
#include "sys/overlay.h"

static int path_openat2(int dir, const char *path, uint64_t flags)
{
    struct open_how how = { .flags = flags | O_CLOEXEC, .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS };
    long fd;

    do
        fd = syscall(SYS_openat2, dir, *path ? path : ".", &how, sizeof(how));
    while (fd < 0 && (errno == EAGAIN || errno == EINTR));
    return fd < 0 ? -errno : (int)fd;
}

bool unpack_is_whiteout(const struct stat *st)
{
    return S_ISCHR(st->st_mode) && st->st_rdev == 0;
}

bool unpack_unmark(const struct unpack *u, int dir, const char *name)
{
    char mark[NAME_MAX + sizeof(UNPACK_WHITEOUT)];

    if (!u->marks)
        return false;
    snprintf(mark, sizeof(mark), UNPACK_WHITEOUT "%s", name);
    return unlinkat(dir, mark, 0) == 0;
}

bool unpack_path_join(const char *a, const char *b, char ret_path[PATH_MAX])
{
    return snprintf(ret_path, PATH_MAX, "%s%s%s", a, *a ? "/" : "", b) < PATH_MAX;
}

int unpack_path_clean(struct unpack *u, const char *path, char ret_path[PATH_MAX])
{
    size_t used = 0;
    unsigned depth = 0;

    ret_path[0] = '\0';
    while (*path) {
        size_t len = strcspn(path, "/");

        if (len == 2 && path[0] == '.' && path[1] == '.')
            return unpack_refuse(u, path, "has '..' in its name");
        if (len > 0 && !(len == 1 && path[0] == '.')) {
            if (len > NAME_MAX || used + len + 2 > PATH_MAX || ++depth > IMAGE_DEPTH_MAX)
                return unpack_refuse(u, path, "has a name that is too long or too deep");
            if (used > 0)
                ret_path[used++] = '/';
            memcpy(ret_path + used, path, len);
            used += len;
            ret_path[used] = '\0';
        }
        path += len;
        path += *path == '/';
    }
    return 0;
}

int unpack_path_folder(const struct unpack *u, const char *real)
{
    return path_openat2(u->config->root, real, O_PATH | O_DIRECTORY);
}

/* ---- parents ---- */

/* Whether a parent has a file that marks the last part of a path as deleted. */
static bool path_lower_marked(const struct unpack *u, int lower, const char *part)
{
    const char *slash = strrchr(part, '/');
    char dir[PATH_MAX];
    AUTO_FD int fd = -1;

    if (!u->marks)
        return false;
    snprintf(dir, sizeof(dir), "%.*s", slash ? (int)(slash - part) : 0, part);
    fd = path_openat2(lower, dir, O_PATH | O_DIRECTORY);
    return fd >= 0 && sys_overlay_marked(fd, slash ? slash + 1 : part);
}

/* In one parent: 0 found, 1 not there, look further down, -ENOENT: hidden from here on. */
static int path_lower_one(struct unpack *u, int lower, const char *real, int *ret_fd)
{
    char part[PATH_MAX];
    bool opaque = false;

    for (const char *end = real; *end;) {
        AUTO_FD int fd = -1;
        struct stat st;

        end += *end == '/';
        end += strcspn(end, "/");
        snprintf(part, sizeof(part), "%.*s", (int)(end - real), real);
        fd = path_openat2(lower, part, O_PATH | O_NOFOLLOW);
        if (fd == -ENOENT)
            return opaque || path_lower_marked(u, lower, part) ? -ENOENT : 1;
        if (fd < 0)
            return fd == -ELOOP || fd == -ENOTDIR ? -ENOENT : fd;
        if (fstat(fd, &st) < 0)
            return -errno;
        if (unpack_is_whiteout(&st) || (*end && !S_ISDIR(st.st_mode)))
            return -ENOENT;
        if (!*end) {
            *ret_fd = STEAL_FD(fd);
            return 0;
        }
        opaque = opaque || unpack_is_opaque(u, fd);
    }
    return 1;
}

int unpack_path_wait(struct unpack *u)
{
    int r = !u->waited && u->config->n_lower > 0 && u->config->wait ? u->config->wait(u->config->opaque) : 0;

    u->waited = u->waited || r == 0;
    return r;
}

int unpack_path_lower(struct unpack *u, const char *real, int *ret_fd)
{
    int r = unpack_path_wait(u);

    if (r < 0)
        return r;
    r = 1;
    for (size_t i = 0; r == 1 && i < u->config->n_lower; i++)
        r = path_lower_one(u, u->config->lower[i], real, ret_fd);
    return r == 1 ? -ENOENT : r;
}

/* ---- part by part ---- */

struct path_walk {
    char real[PATH_MAX]; /* where we are; "": root */
    char rest[PATH_MAX]; /* what is still to go */
    int fd;              /* of real, in this layer */
    bool hidden;         /* parents show nothing here */
    unsigned links;
};

static int path_walk_to(struct unpack *u, struct path_walk *w, const char *real)
{
    int fd = path_openat2(u->config->root, real, O_RDONLY | O_DIRECTORY);

    if (fd < 0)
        return fd;
    base_closep(&w->fd);
    w->fd = fd;
    if (real != w->real)
        memmove(w->real, real, strlen(real) + 1);
    return 0;
}

/* A link is in the way: go on with what it says. */
static int path_walk_link(struct unpack *u, struct path_walk *w, int fd, const char *path)
{
    char target[PATH_MAX], rest[PATH_MAX];
    ssize_t n = readlinkat(fd, "", target, sizeof(target) - 1);

    if (n < 0)
        return unpack_fail(u, -errno, path, "read a link on the way");
    target[n] = '\0';
    if (++w->links > UNPACK_LINKS_MAX || snprintf(rest, sizeof(rest), "%s/%s", target, w->rest) >= PATH_MAX)
        return unpack_refuse(u, path, "lies behind too many symbolic links");
    memcpy(w->rest, rest, strlen(rest) + 1);
    if (target[0] != '/')
        return 0;
    w->hidden = unpack_is_opaque(u, u->config->root);
    return path_walk_to(u, w, "");
}

static int path_walk_up(struct unpack *u, struct path_walk *w)
{
    char *slash = strrchr(w->real, '/');

    *(slash ? slash : w->real) = '\0'; /* above root is root */
    w->hidden = false;                 /* at worst a parent is asked that need not be */
    return path_walk_to(u, w, w->real);
}

/* A part that this layer does not have: as a parent has it, or a new folder. */
static int path_walk_missing(struct unpack *u, struct path_walk *w, const char *name, const char *next, bool make,
                             const char *path)
{
    AUTO_FD int lower = -1;
    struct stat st = { .st_mode = S_IFDIR };
    const struct unpack_attr plain = { .mode = S_IFDIR | 0755 };
    int r = w->hidden ? -ENOENT : unpack_path_lower(u, next, &lower);

    if (r == -ECANCELED)
        return r;
    if (r < 0 && r != -ENOENT)
        return unpack_fail(u, r, path, "look into the layers below");
    if (lower >= 0 && fstat(lower, &st) < 0)
        return unpack_fail(u, -errno, path, "look into the layers below");
    if (S_ISLNK(st.st_mode))
        return path_walk_link(u, w, lower, path);
    if (!make && lower < 0)
        return -ENOENT;
    if (!S_ISDIR(st.st_mode))
        return unpack_refuse(u, path, "lies in something that is no folder");
    if (mkdirat(w->fd, name, 0700) < 0)
        return unpack_fail(u, -errno, path, "make its folder");
    r = path_walk_to(u, w, next);
    if (r < 0)
        return unpack_fail(u, r, path, "open its folder");
    if (lower >= 0)
        return unpack_attr_copy(u, lower, w->fd, ".", next);
    r = unpack_attr_set(u, w->fd, ".", w->fd, &plain, next);
    return r < 0 ? r : unpack_folder_add(u, next, (struct timespec){ 0 });
}

/* Of folders in folders: what links have led to counts, since it is that tree which is to be deleted one day. */
static unsigned path_depth(const char *real)
{
    unsigned n = 1;

    for (; *real; real++)
        n += *real == '/';
    return n;
}

/* A part that this layer has deleted, and now has a folder for. */
static int path_walk_again(struct unpack *u, struct path_walk *w, const char *name, const char *next, bool make,
                           const char *path)
{
    int r;

    if (!make)
        return -ENOENT;
    if (!unpack_unmark(u, w->fd, name) && unlinkat(w->fd, name, 0) < 0)
        return unpack_fail(u, -errno, path, "put a folder in its place");
    w->hidden = true;
    r = path_walk_missing(u, w, name, next, true, path);
    return r < 0 ? r : unpack_set_opaque(u, w->fd, path);
}

static int path_walk_part(struct unpack *u, struct path_walk *w, const char *name, bool make, const char *path)
{
    AUTO_FD int fd = -1;
    char next[PATH_MAX];
    struct stat st;
    int r;

    if (strcmp(name, ".") == 0 || !*name)
        return 0;
    if (strcmp(name, "..") == 0)
        return path_walk_up(u, w);
    if (!unpack_path_join(w->real, name, next) || path_depth(next) >= IMAGE_DEPTH_MAX)
        return unpack_refuse(u, path, "lies too deep");
    fd = openat(w->fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && errno != ENOENT)
        return unpack_fail(u, -errno, path, "look up its folder");
    if (fd < 0 && (!u->marks || !sys_overlay_marked(w->fd, name)))
        return path_walk_missing(u, w, name, next, make, path);
    if (fd < 0)
        return path_walk_again(u, w, name, next, make, path);
    if (fstat(fd, &st) < 0)
        return unpack_fail(u, -errno, path, "look up its folder");
    if (S_ISLNK(st.st_mode))
        return path_walk_link(u, w, fd, path);
    if (unpack_is_whiteout(&st))
        return path_walk_again(u, w, name, next, make, path);
    if (!S_ISDIR(st.st_mode))
        return unpack_refuse(u, path, "lies in something that is no folder");
    r = path_walk_to(u, w, next);
    if (r < 0)
        return unpack_fail(u, r, path, "open its folder");
    w->hidden = w->hidden || unpack_is_opaque(u, w->fd);
    return 0;
}

static int path_walk(struct unpack *u, struct path_walk *w, bool make, const char *path)
{
    char name[NAME_MAX + 1];
    int r = path_walk_to(u, w, "");

    if (r < 0)
        return unpack_fail(u, r, path, "open the layer's folder");
    w->hidden = unpack_is_opaque(u, w->fd);
    while (r == 0 && w->rest[0]) {
        size_t len = strcspn(w->rest, "/");
        const char *behind = w->rest + len + (w->rest[len] == '/');

        if (len > NAME_MAX)
            return unpack_refuse(u, path, "has a name that is too long");
        memcpy(name, w->rest, len);
        name[len] = '\0';
        memmove(w->rest, behind, strlen(behind) + 1);
        r = path_walk_part(u, w, name, make, path);
    }
    return r;
}

void unpack_path_forget(struct unpack *u)
{
    base_closep(&u->parent_fd);
    u->parent_fd = -1;
}

int unpack_path_parent(struct unpack *u, const char *path, bool make, const char **ret_name, const char **ret_real)
{
    const char *slash = strrchr(path, '/');
    size_t len = slash ? (size_t)(slash - path) : 0;
    struct path_walk w = { .fd = -1 };
    int r;

    *ret_name = slash ? slash + 1 : path;
    *ret_real = u->parent_real;
    if (u->parent_fd >= 0 && strlen(u->parent) == len && memcmp(u->parent, path, len) == 0)
        return u->parent_fd;
    unpack_path_forget(u);
    memcpy(u->parent, path, len);
    u->parent[len] = '\0';
    w.fd = path_openat2(u->config->root, u->parent, O_RDONLY | O_DIRECTORY);
    if (w.fd >= 0) {
        memcpy(u->parent_real, u->parent, len + 1);
        return u->parent_fd = w.fd;
    }
    memcpy(w.rest, u->parent, len + 1);
    r = path_walk(u, &w, make, path);
    if (r < 0) {
        base_closep(&w.fd);
        return r;
    }
    memcpy(u->parent_real, w.real, strlen(w.real) + 1);
    return u->parent_fd = w.fd;
}
