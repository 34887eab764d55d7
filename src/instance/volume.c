#include "instance/volume.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "store/instance.h"
#include "store/volume.h"
#include "sys/dirs.h"
#include "sys/inroot.h"
#include "sys/loop.h"
#include "sys/tree.h"
#include "sys/tree_copy.h"

static int volume_dir(const char *name, char *ret_path, size_t size, struct err *e)
{
    char state[SYS_DIR_MAX];
    int r = sys_dirs_state(state);

    if (r < 0 || snprintf(ret_path, size, "%s/volumes%s%s", state, name ? "/" : "", name ? name : "") >= (int)size)
        return err_set(e, ENAMETOOLONG, "the path of the state directory is too long; set CAISSON_STATE_DIR");
    return 0;
}

int inst_volume_path(const char *name, char *ret_path, size_t size, struct err *e)
{
    int r = volume_dir(name, ret_path, size, e);
    size_t len = r == 0 ? strlen(ret_path) : 0;

    if (r == 0 && snprintf(ret_path + len, size - len, "/_data") >= (int)(size - len))
        return err_set(e, ENAMETOOLONG, "the path of the state directory is too long; set CAISSON_STATE_DIR");
    return r;
}

/* The folders; there already is fine. */
static int volume_make_dirs(const char *name, struct err *e)
{
    char path[SYS_DIR_MAX + PROTO_NAME_MAX + 32];
    int r = volume_dir(NULL, path, sizeof(path), e);

    if (r < 0)
        return r;
    r = sys_dirs_make(path);
    if (r < 0)
        return err_set(e, -r, "cannot make %s: %s", path, strerror(-r));
    r = volume_dir(name, path, sizeof(path), e);
    if (r == 0 && mkdir(path, 0711) < 0 && errno != EEXIST)
        return err_set(e, errno, "cannot make %s: %s", path, strerror(errno));
    r = r < 0 ? r : inst_volume_path(name, path, sizeof(path), e);
    if (r == 0 && mkdir(path, 0755) < 0 && errno != EEXIST)
        return err_set(e, errno, "cannot make %s: %s", path, strerror(errno));
    return r;
}

/* In a transaction before whose beginning the volume had no row: a folder of its name is nobody's, and must not become
 * that of a new one. Names that begin with a dot are no volume's. */
static int volume_set_aside(const char *name, struct err *e)
{
    char from[SYS_DIR_MAX + 16 + 257], to[sizeof(from)];
    int r = volume_dir(name, from, sizeof(from), e);

    if (r == 0)
        r = volume_dir(NULL, to, sizeof(to), e);
    if (r < 0)
        return r;
    snprintf(to + strlen(to), sizeof(to) - strlen(to), "/.%s.%llx", name, (unsigned long long)sys_now_ns());
    return rename(from, to) < 0 && errno != ENOENT ? err_set(e, errno, "cannot rename %s: %s", from, strerror(errno))
                                                   : 0;
}

int inst_volume_create(struct store *s, const char *name, const char *instance, struct json_object *labels,
                       struct err *e)
{
    struct store_volume v = { .labels = labels };
    struct err ignored = { 0 };
    int r;

    if (!proto_name_ok(name))
        return err_set(e, EINVAL, "volume '%.80s': not a name; use 1 to %d of a-z, 0-9 and '-', not '-' first", name,
                       PROTO_NAME_MAX);
    snprintf(v.name, sizeof(v.name), "%s", name);
    snprintf(v.instance, sizeof(v.instance), "%s", instance ? instance : "");
    /* The row comes first: a folder without one is nobody's (inst_volume_sweep), and a row without a folder gets it
     * when it is used. */
    r = store_begin(s, e);
    if (r < 0)
        return r;
    r = store_volume_add(s, &v, e);
    if (r == 0)
        r = volume_set_aside(name, e);
    if (r == 0)
        r = store_commit(s, e);
    if (r < 0) {
        store_rollback(s);
        return r;
    }
    r = volume_make_dirs(name, e);
    if (r < 0)
        (void)!store_volume_remove(s, name, &ignored);
    return r;
}

/* ---- using ---- */

/* Whether the folder has no entries. */
static bool volume_is_empty(int fd)
{
    int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), n = 0;
    DIR *dir = copy < 0 ? NULL : fdopendir(copy);

    if (!dir) {
        if (copy >= 0)
            close(copy);
        return false;
    }
    while (n <= 2 && readdir(dir))
        n++;
    closedir(dir);
    return n <= 2;
}

/* The first user's image fills it; two at a time wait for each other. */
static int volume_fill(const char *path, int root_fd, const char *target, struct err *e)
{
    AUTO_FD int to = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), from = -1;
    int r = 0;

    if (to < 0)
        return err_set(e, errno, "cannot open %s: %s", path, strerror(errno));
    while (flock(to, LOCK_EX) < 0 && errno == EINTR)
        ;
    if (!volume_is_empty(to))
        return 0;
    from = sys_inroot_open(root_fd, target, O_RDONLY | O_DIRECTORY, 0);
    if (from == -ENOENT || from == -ENOTDIR)
        return 0;
    r = from < 0 ? from : sys_tree_copy(from, to);
    return r < 0 ? err_set(e, -r, "cannot copy what the image has at %s into its volume: %s", target, strerror(-r)) : 0;
}

int inst_volume_use(const char *name, int root_fd, const char *target, char *ret_path, size_t size, struct err *e)
{
    AUTO(store) struct store *s = NULL;
    struct store_volume v = { 0 };
    struct err missing = { 0 };
    int r = inst_volume_path(name, ret_path, size, e);

    if (r == 0)
        r = store_open(STORE_WRITE, &s, e);
    if (r < 0)
        return r;
    r = store_volume_get(s, name, &v, &missing);
    store_volume_done(&v);
    if (r == -ENOENT)
        r = inst_volume_create(s, name, NULL, NULL, e);
    else if (r < 0)
        return err_set(e, -r, "%s", missing.text);
    if (r == 0 || r == -EEXIST) /* somebody was faster */
        r = volume_make_dirs(name, e);
    return r == 0 && root_fd >= 0 ? volume_fill(ret_path, root_fd, target, e) : r;
}

/* ---- removing ---- */

struct volume_search {
    const char *volume;
    char *name;
    size_t size;
};

static int volume_find_user(void *opaque, const struct store_instance *i)
{
    struct volume_search *s = opaque;

    for (size_t m = 0; i->spec.kind == INST_CONTAINER && m < i->spec.container.n_mounts; m++) {
        const struct inst_mount *mount = &i->spec.container.mounts[m];

        if (mount->kind == INST_MOUNT_VOLUME && strcmp(mount->source, s->volume) == 0) {
            snprintf(s->name, s->size, "%s", i->name);
            return 1;
        }
    }
    return 0;
}

int inst_volume_user(struct store *s, const char *name, char *ret_name, size_t size, struct err *e)
{
    struct volume_search search = { name, ret_name, size };
    int r;

    ret_name[0] = '\0';
    r = store_instance_each(s, volume_find_user, &search, e);
    return r < 0 ? r : 0;
}

/* Folders in the folder of volumes. */
struct volume_list {
    char **names;
    bool *has_row;
    size_t n;
};

static void volume_list_free(struct volume_list *l)
{
    if (!l)
        return;
    for (size_t i = 0; i < l->n; i++)
        free(l->names[i]);
    free(l->names);
    free(l->has_row);
    free(l);
}
DEFINE_AUTO(volume_list, struct volume_list, volume_list_free)

static int volume_list_add(struct volume_list *l, const char *name, struct err *e)
{
    char **names = realloc(l->names, (l->n + 1) * sizeof(*names)), *copy = strdup(name);

    l->names = names ? names : l->names;
    if (!names || !copy) {
        free(copy);
        return err_set(e, ENOMEM, "out of memory");
    }
    names[l->n++] = copy;
    return 0;
}

static int volume_list_read(struct volume_list *l, const char *root, struct err *e)
{
    DIR *dir = opendir(root);
    struct dirent *entry;
    int r = 0;

    while (dir && r == 0 && (entry = readdir(dir)))
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            r = volume_list_add(l, entry->d_name, e);
    if (dir)
        closedir(dir);
    return r;
}

static int volume_list_mark(void *opaque, const struct store_volume *v)
{
    struct volume_list *l = opaque;

    for (size_t i = 0; i < l->n; i++)
        l->has_row[i] = l->has_row[i] || strcmp(l->names[i], v->name) == 0;
    return 0;
}

/* Which of them are volumes'. *ret_strays: how many are not. */
static int volume_list_look(struct volume_list *l, struct store *s, size_t *ret_strays, struct err *e)
{
    int r;

    free(l->has_row);
    l->has_row = calloc(l->n + 1, sizeof(*l->has_row));
    r = l->has_row ? store_volume_each(s, volume_list_mark, l, e) : err_set(e, ENOMEM, "out of memory");
    *ret_strays = 0;
    for (size_t i = 0; r == 0 && i < l->n; i++)
        *ret_strays += !l->has_row[i];
    return r;
}

/* Nobody makes a volume meanwhile: what has no row now is nobody's. */
static int volume_set_strays_aside(struct volume_list *l, struct store *s, struct err *e)
{
    size_t strays;
    int r = store_begin(s, e);

    if (r < 0)
        return r;
    r = volume_list_look(l, s, &strays, e);
    for (size_t i = 0; r == 0 && i < l->n; i++)
        if (!l->has_row[i] && l->names[i][0] != '.')
            r = volume_set_aside(l->names[i], e);
    store_rollback(s);
    return r;
}

/* What was set aside stays so; to remove what is in it may take long, so it is done when the database is free. */
static int volume_remove_set_aside(const char *root, struct err *e)
{
    AUTO(volume_list) struct volume_list *l = calloc(1, sizeof(*l));
    char path[SYS_DIR_MAX + 16 + 257];
    int r = l ? volume_list_read(l, root, e) : err_set(e, ENOMEM, "out of memory");

    for (size_t i = 0; r >= 0 && i < l->n; i++) {
        int res;

        if (l->names[i][0] != '.')
            continue;
        snprintf(path, sizeof(path), "%s/%s", root, l->names[i]);
        res = sys_tree_remove(path);
        if (res < 0 && res != -ENOENT && access(path, F_OK) == 0) /* else somebody else removes it, too */
            return err_set(e, -res, "cannot remove %s, of a volume that is gone: %s", path, strerror(-res));
    }
    return r;
}

int inst_volume_sweep(struct store *s, struct err *e)
{
    AUTO(volume_list) struct volume_list *l = calloc(1, sizeof(*l));
    char root[SYS_DIR_MAX + 16];
    size_t strays = 0;
    int r = l ? volume_dir(NULL, root, sizeof(root), e) : err_set(e, ENOMEM, "out of memory");

    if (r == 0)
        r = volume_list_read(l, root, e);
    if (r == 0)
        r = volume_list_look(l, s, &strays, e);
    if (r < 0 || strays == 0)
        return r;
    r = volume_set_strays_aside(l, s, e);
    return r < 0 ? r : volume_remove_set_aside(root, e);
}

/* In a transaction. instance: the one that the volume goes with, which may use it; NULL: nobody may. */
static int volume_take_away(struct store *s, const char *name, const char *instance, struct err *e)
{
    char user[PROTO_NAME_MAX + 1] = "";
    struct store_volume v = { 0 };
    int r = store_volume_get(s, name, &v, e);

    store_volume_done(&v);
    if (r == 0 && !instance)
        r = inst_volume_user(s, name, user, sizeof(user), e);
    if (r == 0 && user[0])
        return err_set(e, EBUSY, "volume %s is used by %s; remove that first: caisson rm %s", name, user, user);
    return r < 0 ? r : store_volume_remove(s, name, e);
}

/* Nobody can begin to use it between the look for users and the end of the row; the folder goes after that, and whoever
 * is killed in between leaves it to the next command. */
static int volume_remove(struct store *s, const char *name, const char *instance, struct err *e)
{
    int r = store_begin(s, e);

    if (r < 0)
        return r;
    r = volume_take_away(s, name, instance, e);
    if (r == 0)
        r = store_commit(s, e);
    if (r < 0) {
        store_rollback(s);
        return r;
    }
    return inst_volume_sweep(s, e);
}

int inst_volume_remove(struct store *s, const char *name, struct err *e)
{
    return volume_remove(s, name, NULL, e);
}

struct volume_of {
    const char *instance;
    char name[PROTO_NAME_MAX + 1]; /* the first that was found */
};

static int volume_find_of(void *opaque, const struct store_volume *v)
{
    struct volume_of *o = opaque;

    if (strcmp(v->instance, o->instance) != 0)
        return 0;
    memcpy(o->name, v->name, sizeof(o->name));
    return 1;
}

int inst_volume_remove_of(const char *instance, struct err *e)
{
    AUTO(store) struct store *s = NULL;
    struct volume_of found;
    int r = store_open(STORE_WRITE, &s, e);

    while (r == 0) {
        found = (struct volume_of){ .instance = instance };
        r = store_volume_each(s, volume_find_of, &found, e);
        if (r <= 0)
            break;
        r = volume_remove(s, found.name, instance, e);
    }
    return r;
}
