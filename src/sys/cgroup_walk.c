/* Walking the groups below a group. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sys/cgroup_priv.h"

#include "base/cleanup.h"

#define WALK_DEPTH_MAX 4096u
#define WALK_GROUPS_MAX (1u << 20)

struct walk_level {
    char **names;
    size_t n, at;
};

struct walk {
    struct walk_level *levels;
    size_t depth, cap, groups;
    int fd;
};

static void walk_level_done(struct walk_level *l)
{
    for (size_t i = 0; i < l->n; i++)
        free(l->names[i]);
    free(l->names);
    *l = (struct walk_level){ 0 };
}

static int walk_add(struct walk_level *l, const char *name)
{
    if ((l->n & (l->n - 1)) == 0) { /* room for the next power of two */
        char **names = realloc(l->names, sizeof(*names) * (l->n ? l->n * 2 : 1));

        if (!names)
            return -ENOMEM;
        l->names = names;
    }
    l->names[l->n] = strdup(name);
    if (!l->names[l->n])
        return -ENOMEM;
    l->n++;
    return 0;
}

/* The names of the groups right below fd. */
static int walk_list(struct walk *w, struct walk_level *l)
{
    int fd = openat(w->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
    DIR *d = fd < 0 ? NULL : fdopendir(fd);

    if (!d) {
        r = -errno;
        if (fd >= 0)
            close(fd);
        return r;
    }
    for (;;) {
        struct dirent *entry;

        errno = 0;
        entry = readdir(d);
        if (!entry) {
            r = -errno;
            break;
        }
        if (entry->d_type != DT_DIR || strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        r = ++w->groups > WALK_GROUPS_MAX ? -E2BIG : walk_add(l, entry->d_name);
        if (r < 0)
            break;
    }
    closedir(d);
    return r;
}

/* Go to another directory, and list it as a new level. */
static int walk_down(struct walk *w, const char *name, const struct cgroup_walk *ops)
{
    int fd, r;

    if (w->depth == WALK_DEPTH_MAX)
        return -E2BIG;
    if (w->depth == w->cap) {
        size_t cap = w->cap ? w->cap * 2 : 4;
        struct walk_level *levels = realloc(w->levels, cap * sizeof(*levels));

        if (!levels)
            return -ENOMEM;
        w->levels = levels;
        w->cap = cap;
    }
    fd = openat(w->fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return -errno;
    if (w->fd >= 0)
        close(w->fd);
    w->fd = fd;
    w->levels[w->depth++] = (struct walk_level){ 0 };
    r = ops->enter ? ops->enter(fd, ops->opaque) : 0;
    return r < 0 ? r : walk_list(w, &w->levels[w->depth - 1]);
}

/* Back to the parent: groups never move to another one. */
static int walk_up(struct walk *w)
{
    int fd;

    walk_level_done(&w->levels[--w->depth]);
    if (w->depth == 0)
        return 0;
    fd = openat(w->fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    close(w->fd);
    w->fd = fd;
    return 0;
}

int cgroup_walk(const char *dir, const struct cgroup_walk *ops)
{
    struct walk w = { .fd = -1 };
    int r = walk_down(&w, dir, ops);

    while (r >= 0 && w.depth > 0) {
        struct walk_level *l = &w.levels[w.depth - 1];

        if (l->at < l->n) {
            r = walk_down(&w, l->names[l->at], ops);
            if (r == -ENOENT) { /* removed meanwhile */
                l->at++;
                r = 0;
            }
            continue;
        }
        r = walk_up(&w);
        if (r < 0 || w.depth == 0)
            break;
        l = &w.levels[w.depth - 1];
        if (ops->leave)
            r = ops->leave(w.fd, l->names[l->at], ops->opaque);
        l->at++;
    }
    while (w.depth > 0)
        walk_level_done(&w.levels[--w.depth]);
    free(w.levels);
    if (w.fd >= 0)
        close(w.fd);
    return MIN(r, 0);
}
