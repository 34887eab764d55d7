/* Which hierarchies there are: /proc/self/mountinfo joined with /proc/self/cgroup. */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/text.h"
#include "sys/cgroup.h"
#include "sys/cgroup_priv.h"

static const char *const names_v1[SYS_CG_CONTROLLERS] = {
    [SYS_CG_CPU] = "cpu",
    [SYS_CG_CPUACCT] = "cpuacct",
    [SYS_CG_CPUSET] = "cpuset",
    [SYS_CG_MEMORY] = "memory",
    [SYS_CG_IO] = "blkio",
    [SYS_CG_PIDS] = "pids",
    [SYS_CG_DEVICES] = "devices",
    [SYS_CG_FREEZER] = "freezer",
    [SYS_CG_HUGETLB] = "hugetlb",
    [SYS_CG_NET_CLS] = "net_cls",
    [SYS_CG_NET_PRIO] = "net_prio",
    [SYS_CG_RDMA] = "rdma",
    [SYS_CG_PERF_EVENT] = "perf_event",
    [SYS_CG_MISC] = "misc",
};

const char *sys_cgroup_name(enum sys_cgroup_controller controller, bool v2)
{
    return v2 && controller == SYS_CG_IO ? "io" : names_v1[controller];
}

uint32_t cgroup_parse_controllers(const char *list, bool v2)
{
    static const char separators[] = ", \n";
    uint32_t mask = 0;

    while (*list) {
        size_t len = strcspn(list, separators);

        for (unsigned c = 0; c < SYS_CG_CONTROLLERS; c++) {
            const char *name = sys_cgroup_name(c, v2);

            if (strlen(name) == len && memcmp(name, list, len) == 0)
                mask |= 1U << c;
        }
        list += len;
        list += strspn(list, separators);
    }
    return mask;
}

/* The next word of a line that is taken apart in place; NULL at its end. */
static char *layout_word(char **line)
{
    char *word = *line;

    if (!word || !*word)
        return NULL;
    *line = strchr(word, ' ');
    if (*line)
        *(*line)++ = '\0';
    return word;
}

struct mount_line {
    char *root, *point, *type, *options;
};

/* Spec: proc(5): id parent major:minor root point options [tags ...] - type source super-options */
static bool layout_mount_line(char *line, struct mount_line *ret)
{
    char *separator = strstr(line, " - ");
    char *rest;

    if (!separator)
        return false;
    rest = separator + 3;
    *separator = '\0';
    ret->type = layout_word(&rest);
    if (!ret->type || strncmp(ret->type, "cgroup", 6) != 0)
        return false; /* most lines */
    (void)layout_word(&rest);
    ret->options = rest ? rest : separator;
    for (int i = 0; i < 3; i++)
        (void)layout_word(&line);
    ret->root = layout_word(&line);
    ret->point = layout_word(&line);
    return ret->point != NULL;
}

static bool layout_has_option(const char *options, const char *word, size_t len)
{
    while (*options) {
        size_t n = strcspn(options, ",");

        if (n == len && memcmp(options, word, len) == 0)
            return true;
        options += n + (options[n] == ',');
    }
    return false;
}

static void layout_hier_done(struct sys_cgroup_hier *h)
{
    free(h->mount);
    free(h->own);
    free(h->name);
    *h = (struct sys_cgroup_hier){ 0 };
}

static int layout_fill(struct sys_cgroup_hier *h, const char *point, const char *list, size_t list_len, const char *own,
                       size_t own_len)
{
    AUTO_FREE char *words = text_copy(list, list_len);

    h->mount = strdup(point);
    if (!words || !h->mount)
        return -ENOMEM;
    if (own) {
        h->own = text_copy(own, own_len);
        if (!h->own)
            return -ENOMEM;
    }
    if (!h->v2)
        h->controllers = cgroup_parse_controllers(words, false);
    if (strncmp(words, "name=", 5) == 0) {
        h->name = strdup(words + 5);
        if (!h->name)
            return -ENOMEM;
    }
    if (h->v2 || h->name || h->controllers)
        return 1;
    layout_hier_done(h); /* of controllers that we do not know */
    return 0;
}

/* Fill h by a line "id:controllers:path" of /proc/self/cgroup where the mount is that hierarchy's.
 * Returns 1: it is; 0; -ENOMEM. */
static int layout_match(const struct mount_line *m, const char *line, size_t len, struct sys_cgroup_hier *h)
{
    const char *list = memchr(line, ':', len),
               *path = list ? memchr(list + 1, ':', len - (size_t)(list + 1 - line)) : NULL;
    size_t root_len = strcmp(m->root, "/") == 0 ? 0 : strlen(m->root), path_len, list_len;
    bool v2 = strcmp(m->type, "cgroup2") == 0, below;

    if (!path)
        return 0;
    list++;
    list_len = (size_t)(path++ - list);
    path_len = (size_t)(line + len - path);
    if (v2 != (list_len == 0))
        return 0;
    /* Every controller of the line is an option of the mount; the first tells the hierarchy. */
    if (!v2 && !layout_has_option(m->options, list, strcspn(list, ",:")))
        return 0;
    if (path_len == 1)
        path_len = 0;
    below =
        path_len >= root_len && memcmp(path, m->root, root_len) == 0 && (path_len == root_len || path[root_len] == '/');
    *h = (struct sys_cgroup_hier){ .v2 = v2 };
    return layout_fill(h, m->point, list, list_len, below ? path + root_len : NULL, path_len - root_len);
}

void sys_cgroup_layout_done(struct sys_cgroup_layout *l)
{
    for (size_t i = 0; i < l->n; i++)
        layout_hier_done(&l->h[i]);
    *l = (struct sys_cgroup_layout){ .unified = -1 };
}

/* A hierarchy may be mounted more than once: the first mount counts, unless a later one shows our own group and that
 * does not. */
static bool layout_known(struct sys_cgroup_layout *l, struct sys_cgroup_hier *h)
{
    for (size_t i = 0; i < l->n; i++) {
        struct sys_cgroup_hier *old = &l->h[i];

        if (old->v2 != h->v2 || (!h->v2 && (old->controllers != h->controllers || !old->name != !h->name ||
                                            (h->name && strcmp(h->name, old->name) != 0))))
            continue;
        if (!old->own && h->own) {
            struct sys_cgroup_hier swap = *old;

            *old = *h;
            *h = swap;
        }
        return true;
    }
    return false;
}

/* Something else may be mounted over it: then the path leads there. */
static bool layout_in_sight(const char *point, bool v2)
{
    struct statfs fs;

    return statfs(point, &fs) < 0 || fs.f_type == (v2 ? CGROUP2_SUPER_MAGIC : CGROUP_SUPER_MAGIC);
}

static int layout_add(struct sys_cgroup_layout *l, const struct mount_line *m, const char *self_cgroup, bool look)
{
    struct sys_cgroup_hier h = { 0 };
    char list[512];
    int r = 0;

    for (const char *line = self_cgroup; *line && r == 0;) {
        size_t len = strcspn(line, "\n");

        r = layout_match(m, line, len, &h);
        line += len + (line[len] == '\n');
    }
    if (r > 0 && look && !layout_in_sight(h.mount, h.v2)) {
        layout_hier_done(&h);
        return 0;
    }
    if (r > 0 && h.v2 && sys_cgroup_read(h.mount, "cgroup.controllers", list, sizeof(list)) > 0)
        h.controllers = cgroup_parse_controllers(list, true);
    if (r <= 0 || layout_known(l, &h) || l->n == SYS_CGROUP_MAX) {
        layout_hier_done(&h);
        return MIN(r, 0);
    }
    if (h.v2)
        l->unified = (int)l->n;
    l->h[l->n++] = h;
    return 0;
}

static int layout_parse(const char *mountinfo, const char *self_cgroup, bool look, struct sys_cgroup_layout *ret)
{
    struct sys_cgroup_layout l = { .unified = -1 };
    AUTO_FREE char *copy = strdup(mountinfo);
    int r = copy ? 0 : -ENOMEM;

    for (char *line = copy; line && *line && r == 0;) {
        char *end = strchr(line, '\n');
        struct mount_line m;

        if (end)
            *end = '\0';
        if (layout_mount_line(line, &m)) {
            text_unescape_octal(m.root);
            text_unescape_octal(m.point);
            r = layout_add(&l, &m, self_cgroup, look);
        }
        line = end ? end + 1 : NULL;
    }
    if (r == 0 && l.n == 0)
        r = -ENOENT;
    if (r < 0)
        sys_cgroup_layout_done(&l);
    else
        *ret = l;
    return r;
}

int sys_cgroup_layout_parse(const char *mountinfo, const char *self_cgroup, struct sys_cgroup_layout *ret)
{
    return layout_parse(mountinfo, self_cgroup, false, ret);
}

/* A whole file of /proc; *ret: the caller frees it. */
static int layout_file(const char *path, char **ret)
{
    for (size_t size = 16384; size <= 16U << 20; size *= 4) {
        AUTO_FREE char *text = malloc(size);
        ssize_t n;

        if (!text)
            return -ENOMEM;
        n = cgroup_read_at(AT_FDCWD, path, text, size);
        if (n < 0)
            return (int)n;
        if ((size_t)n < size - 1) {
            *ret = STEAL(text);
            return 0;
        }
    }
    return -E2BIG;
}

int sys_cgroup_layout_read(struct sys_cgroup_layout *ret)
{
    AUTO_FREE char *mountinfo = NULL, *self_cgroup = NULL;
    int r = layout_file("/proc/self/mountinfo", &mountinfo);

    if (r == 0)
        r = layout_file("/proc/self/cgroup", &self_cgroup);
    return r < 0 ? r : layout_parse(mountinfo, self_cgroup, true, ret);
}

int sys_cgroup_layout_find(const struct sys_cgroup_layout *l, enum sys_cgroup_controller controller)
{
    for (size_t i = 0; i < l->n; i++) {
        if (l->h[i].controllers & 1U << controller)
            return (int)i;
    }
    return -1;
}
