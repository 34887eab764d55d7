#include "image/tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "sys/overlay.h"

struct tree_name {
    char *name;
    size_t layer; /* the topmost that has it; an index into the walk's stack */
    bool deleted; /* a mark says so */
};

struct tree_names {
    struct tree_name *at;
    size_t n, cap;
};

/* One folder, in those layers that show something of it. */
struct tree_stack {
    int *fd;
    size_t *layer; /* index of each in struct image_tree */
    size_t n;
};

struct tree_walk {
    const struct image_tree *t;
    char path[PATH_MAX];
    size_t len;
};

static bool tree_is_whiteout(const struct stat *st)
{
    return S_ISCHR(st->st_mode) && st->st_rdev == 0;
}

/* ---- names of a folder ---- */

static void tree_names_done(struct tree_names *names)
{
    for (size_t i = 0; i < names->n; i++)
        free(names->at[i].name);
    free(names->at);
}

static int tree_names_add(struct tree_names *names, const char *name, size_t layer, bool deleted)
{
    if (names->n == names->cap) {
        size_t cap = names->cap ? 2 * names->cap : 32;
        void *grown = reallocarray(names->at, cap, sizeof(*names->at));

        if (!grown)
            return -ENOMEM;
        names->at = grown;
        names->cap = cap;
    }
    names->at[names->n] = (struct tree_name){ .name = strdup(name), .layer = layer, .deleted = deleted };
    return names->at[names->n].name ? (names->n++, 0) : -ENOMEM;
}

static int tree_names_compare(const void *a, const void *b)
{
    const struct tree_name *x = a, *y = b;
    int order = strcmp(x->name, y->name);

    if (order == 0)
        order = (x->layer > y->layer) - (x->layer < y->layer);
    return order ? order : y->deleted - x->deleted;
}

/* What a name in a layer says. */
static int tree_names_take(struct tree_names *names, int fd, const char *name, size_t layer)
{
    const char *deleted;
    struct stat st;

    if (strncmp(name, SYS_OVERLAY_WHITEOUT, strlen(SYS_OVERLAY_WHITEOUT)) != 0)
        return tree_names_add(names, name, layer, false);
    if (fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    deleted = sys_overlay_mark(name, &st);
    if (!deleted)
        return tree_names_add(names, name, layer, false);
    return *deleted ? tree_names_add(names, deleted, layer, true) : 0;
}

static int tree_names_read(struct tree_names *names, int fd, size_t layer)
{
    int again = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
    DIR *dir = again < 0 ? NULL : fdopendir(again);
    const struct dirent *d;

    if (!dir) {
        r = -errno;
        base_closep(&again);
        return r;
    }
    while (r == 0 && (errno = 0, d = readdir(dir))) {
        if (strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0)
            r = tree_names_take(names, fd, d->d_name, layer);
    }
    if (r == 0)
        r = -errno;
    closedir(dir);
    return r;
}

/* ---- folders ---- */

static int tree_stack_init(struct tree_stack *s, size_t n)
{
    s->fd = calloc(n + 1, sizeof(*s->fd));
    s->layer = calloc(n + 1, sizeof(*s->layer));
    return s->fd && s->layer ? 0 : -ENOMEM;
}

static void tree_stack_done(struct tree_stack *s)
{
    for (size_t i = 0; i < s->n; i++)
        close(s->fd[i]);
    free(s->fd);
    free(s->layer);
}

/* The folder name of all layers from the first on that has it, until one hides the rest. */
static int tree_descend(const struct tree_stack *s, size_t first, const char *name, struct tree_stack *ret)
{
    int r = tree_stack_init(ret, s->n);

    for (size_t i = first; r == 0 && i < s->n; i++) {
        int fd = openat(s->fd[i], name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

        if (fd < 0 && errno == ENOENT) {
            if (sys_overlay_marked(s->fd[i], name))
                break;
            continue;
        }
        if (fd < 0 && (errno == ENOTDIR || errno == ELOOP))
            break;
        if (fd < 0)
            return -errno;
        ret->fd[ret->n] = fd;
        ret->layer[ret->n++] = s->layer[i];
        if (sys_overlay_is_opaque(fd))
            break;
    }
    return r;
}

static int tree_folder(struct tree_walk *w, const struct tree_stack *s, unsigned depth);

static int tree_entry(struct tree_walk *w, const struct tree_stack *s, const struct tree_name *name, unsigned depth)
{
    size_t len = w->len;
    struct tree_stack inner = { 0 };
    struct stat st;
    struct image_tree_entry entry = { .path = w->path, .dir = s->fd[name->layer], .name = name->name, .st = &st };
    int n = snprintf(w->path + len, sizeof(w->path) - len, "%s%s", len ? "/" : "", name->name), r = 0;

    if (n >= (int)(sizeof(w->path) - len))
        return -ENAMETOOLONG;
    w->len = len + (size_t)n;
    if (name->deleted)
        st = (struct stat){ .st_mode = S_IFCHR }; /* as the kernel's overlayfs has it */
    else if (fstatat(entry.dir, name->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    entry.layer = s->layer[name->layer];
    if (S_ISDIR(st.st_mode)) {
        r = tree_descend(s, name->layer, name->name, &inner);
        entry.opaque = r == 0 && inner.n > 0 && sys_overlay_is_opaque(inner.fd[0]);
    }
    if (r == 0 && (w->t->whiteouts || !tree_is_whiteout(&st)))
        r = w->t->fn(w->t->opaque, &entry);
    if (r == 0 && S_ISDIR(st.st_mode))
        r = tree_folder(w, &inner, depth + 1);
    tree_stack_done(&inner);
    if (r == 0) { /* else it says where */
        w->len = len;
        w->path[len] = '\0';
    }
    return r;
}

static int tree_folder(struct tree_walk *w, const struct tree_stack *s, unsigned depth)
{
    struct tree_names names = { 0 };
    int r = depth > IMAGE_DEPTH_MAX ? -ELOOP : 0;

    for (size_t i = 0; r == 0 && i < s->n; i++)
        r = tree_names_read(&names, s->fd[i], i);
    if (names.n > 0)
        qsort(names.at, names.n, sizeof(*names.at), tree_names_compare);
    for (size_t i = 0; r == 0 && i < names.n; i++) {
        if (i == 0 || strcmp(names.at[i].name, names.at[i - 1].name) != 0)
            r = tree_entry(w, s, &names.at[i], depth);
    }
    tree_names_done(&names);
    return r;
}

int image_tree_walk(const struct image_tree *t, char ret_path[PATH_MAX])
{
    struct tree_walk *w = calloc(1, sizeof(*w));
    struct tree_stack s = { 0 };
    int r = w ? tree_stack_init(&s, t->n) : -ENOMEM;

    ret_path[0] = '\0';
    for (size_t i = 0; r == 0 && i < t->n; i++) {
        s.fd[i] = fcntl(t->layers[i], F_DUPFD_CLOEXEC, 3);
        s.layer[i] = i;
        if (s.fd[i] < 0)
            r = -errno;
        else
            s.n++;
    }
    if (r == 0) {
        w->t = t;
        r = tree_folder(w, &s, 0);
        memcpy(ret_path, w->path, PATH_MAX);
    }
    tree_stack_done(&s);
    free(w);
    return r;
}
