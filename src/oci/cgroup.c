/* The groups of one container: making, saving, opening, removing. What happens to the processes in them is in
 * cgroup_procs.c, what is written into their files in cgroup_apply.c and behind it. */
#include "oci/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "oci/cgroup_priv.h"

struct cgroup_one *cgroup_with(struct oci_cgroup *g, enum sys_cgroup_controller controller)
{
    for (size_t i = 0; i < g->n; i++) {
        if (g->one[i].controllers & 1U << controller)
            return &g->one[i];
    }
    return NULL;
}

bool cgroup_pure_v2(const struct oci_cgroup *g)
{
    return g->n == 1 && g->unified == 0;
}

bool cgroup_rootless(struct oci_cgroup *g)
{
    char text[128];

    /* Root of a user namespace is not root here. The first namespace maps all to itself. */
    if (!g->rootless && sys_cgroup_read("/proc/self", "uid_map", text, sizeof(text)) > 0)
        g->rootless = !strstr(text, " 0 4294967295\n");
    return g->rootless;
}

static void cgroup_one_done(struct cgroup_one *one)
{
    free((char *)one->pub.name);
    free((char *)one->pub.options);
    free((char *)one->pub.mount);
    free((char *)one->pub.path);
    free(one->dir);
    *one = (struct cgroup_one){ 0 };
}

int cgroup_one_move(struct cgroup_one *one, const char *path)
{
    AUTO_FREE char *copy = strdup(path), *dir = NULL;

    if (asprintf(&dir, "%s%s", one->pub.mount, strcmp(path, "/") == 0 ? "" : path) < 0)
        dir = NULL;
    if (!copy || !dir)
        return -ENOMEM;
    free((char *)one->pub.path);
    free(one->dir);
    one->pub.path = STEAL(copy);
    one->dir = STEAL(dir);
    return 0;
}

/* The mount options of a v1 hierarchy. */
static char *cgroup_options(const char *name, uint32_t controllers)
{
    char text[256];
    size_t len = 0;

    if (name)
        len = (size_t)snprintf(text, sizeof(text), "none,name=%s", name);
    for (unsigned c = 0; c < SYS_CG_CONTROLLERS && len < sizeof(text); c++) {
        if (controllers & 1U << c)
            len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%s", len ? "," : "", sys_cgroup_name(c, false));
    }
    return len < sizeof(text) ? strdup(text) : NULL;
}

int cgroup_one_init(struct cgroup_one *one, const char *mount, const char *path, const char *name, uint32_t controllers,
                    bool v2, bool pure)
{
    const char *last = strrchr(mount, '/');

    *one = (struct cgroup_one){ .controllers = controllers, .v2 = v2 };
    one->pub.mount = strdup(mount);
    one->pub.name = strdup(pure ? "" : last ? last + 1 : mount);
    if (!v2)
        one->pub.options = cgroup_options(name, controllers);
    if (one->pub.mount && one->pub.name && (v2 || one->pub.options) && cgroup_one_move(one, path) == 0)
        return 0;
    cgroup_one_done(one);
    return -ENOMEM;
}

void oci_cgroup_free(struct oci_cgroup *g)
{
    if (!g)
        return;
    for (size_t i = 0; i < g->n; i++)
        cgroup_one_done(&g->one[i]);
    free(g->unit);
    free(g->slice);
    if (g->clone_fd >= 0)
        close(g->clone_fd);
    free(g);
}

static struct oci_cgroup *cgroup_new(struct err *e)
{
    struct oci_cgroup *g = calloc(1, sizeof(*g));

    if (!g) {
        err_set(e, ENOMEM, "cgroup: out of memory");
        return NULL;
    }
    g->unified = g->clone_fd = -1;
    return g;
}

static int cgroup_add(struct oci_cgroup *g, const char *mount, const char *path, const char *name, uint32_t controllers,
                      bool v2, bool pure, struct err *e)
{
    if (cgroup_one_init(&g->one[g->n], mount, path, name, controllers, v2, pure) < 0)
        return err_set(e, ENOMEM, "cgroup: out of memory");
    if (v2)
        g->unified = (int)g->n;
    g->n++;
    return 0;
}

/* The group in one hierarchy out of cgroupsPath. Spec: config-linux.md, "Cgroups Path". */
static int cgroup_place(struct oci_cgroup *g, const struct oci_cgroup_config *c, const struct sys_cgroup_hier *h,
                        bool pure, const char *systemd_path, struct err *e)
{
    AUTO_FREE char *path = NULL, *own = NULL;
    const char *wanted = c->path && c->path[0] ? c->path : c->id;
    int r;

    own = strdup(h->own ? h->own : "");
    if (!own)
        return err_set(e, ENOMEM, "cgroup: out of memory");
    /* A v2 group with processes hands no controllers down: our own has some, so stand beside it, not below. */
    if (pure && strrchr(own, '/'))
        *strrchr(own, '/') = '\0';
    r = cgroup_path_join(own, systemd_path ? systemd_path : wanted, &path);
    if (r < 0)
        return err_set(e, -r, "linux.cgroupsPath: %s", r == -ENOMEM ? "out of memory" : "is too long");
    if (strcmp(path, "/") == 0)
        return err_set(e, EINVAL, "linux.cgroupsPath: / is everybody's group; name one for the container");
    return cgroup_add(g, h->mount, path, h->name, h->controllers, h->v2, pure, e);
}

static int cgroup_places(struct oci_cgroup *g, const struct oci_cgroup_config *c, struct err *e)
{
    struct sys_cgroup_layout mine = { .unified = -1 };
    const struct sys_cgroup_layout *l = c->layout ? c->layout : &mine;
    AUTO_FREE char *path = NULL;
    int r = c->layout ? 0 : sys_cgroup_layout_read(&mine);

    if (r < 0)
        return err_set(e, -r,
                       r == -ENOENT ? "cgroup: no hierarchy is mounted; mount cgroup2 at /sys/fs/cgroup"
                                    : "cgroup: cannot read /proc/self/mountinfo and /proc/self/cgroup: %s",
                       strerror(-r));
    if (g->systemd)
        r = cgroup_path_systemd(c->path, c->id, g->user_manager, &g->slice, &g->unit, &path, e);
    for (size_t i = 0; i < l->n && r == 0; i++)
        r = cgroup_place(g, c, &l->h[i], l->n == 1 && l->h[i].v2, path, e);
    sys_cgroup_layout_done(&mine);
    return r;
}

/* A group that was there before is taken over, but not from others' processes. */
static int cgroup_unused(const struct cgroup_one *one, struct err *e)
{
    AUTO_FREE pid_t *pids = NULL;
    size_t n = 0;
    int r = sys_cgroup_pids(one->dir, false, &pids, &n);

    if (r == 0 && n > 0)
        return err_set(e, EBUSY, "cgroup %s: has %zu processes in it; choose another linux.cgroupsPath", one->dir, n);
    return 0;
}

static int cgroup_make_one(struct oci_cgroup *g, struct cgroup_one *one, uint32_t needed, struct err *e)
{
    int r = sys_cgroup_make(one->pub.mount, one->dir), have;

    if (r < 0)
        return err_set(e, -r, "cgroup %s: cannot be made: %s", one->dir, strerror(-r));
    one->made = r > 0;
    r = one->made || g->systemd ? 0 : cgroup_unused(one, e);
    if (r < 0)
        return r;
    if (!one->v2) {
        r = one->controllers & 1U << SYS_CG_CPUSET ? sys_cgroup_inherit_cpuset(one->pub.mount, one->dir) : 0;
        return r < 0 ? err_set(e, -r, "cgroup %s: cannot set CPUs and memory nodes: %s", one->dir, strerror(-r)) : 0;
    }
    /* Beside v1 hierarchies, v2's is touched only where something is asked of it. */
    if (cgroup_pure_v2(g))
        needed = one->controllers;
    needed &= one->controllers;
    have = needed ? sys_cgroup_enable(one->pub.mount, one->dir, needed) : 0;
    if (have < 0)
        return err_set(e, -have, "cgroup %s: cannot enable controllers: %s", one->dir, strerror(-have));
    one->controllers = (uint32_t)have;
    return 0;
}

static void cgroup_drop(struct oci_cgroup *g, size_t i)
{
    if (g->one[i].made && rmdir(g->one[i].dir) < 0)
        log_debug("cgroup %s: cannot be removed: %s", g->one[i].dir, strerror(errno));
    cgroup_one_done(&g->one[i]);
    memmove(&g->one[i], &g->one[i + 1], (g->n - i - 1) * sizeof(g->one[0]));
    g->n--;
    g->one[g->n] = (struct cgroup_one){ 0 };
    if (g->unified == (int)i)
        g->unified = -1;
    else if (g->unified > (int)i)
        g->unified--;
}

/* Make all groups. Without rights, a hierarchy of which nothing is asked is left out, where the path is ours to choose.
 */
static int cgroup_make_all(struct oci_cgroup *g, struct err *e)
{
    uint32_t needed = g->spec ? cgroup_needed(&g->spec->resources) : 0;
    size_t left_out = 0;

    for (size_t i = 0; i < g->n;) {
        uint32_t controllers = g->one[i].controllers & needed;
        int r = cgroup_make_one(g, &g->one[i], needed, e);

        if ((r == -EACCES || r == -EPERM || r == -EROFS) && !g->path_given && cgroup_rootless(g)) {
            if (controllers)
                return err_wrap(e, "limits without rights on cgroups (ask for a delegated group, or set no limits)");
            cgroup_drop(g, i);
            left_out++;
            continue;
        }
        if (r < 0)
            return r;
        i++;
    }
    if (left_out && !getenv("CAISSON_OCI_QUIET"))
        log_warn("no rights on %zu cgroup hierarchies: the container runs without groups there", left_out);
    return 0;
}

/* The host's number for an id of the container. */
static int64_t cgroup_host_id(const struct oci_mappings *m, uint32_t id)
{
    for (size_t i = 0; i < m->n; i++) {
        if (id >= m->v[i].container && id - m->v[i].container < m->v[i].size)
            return (int64_t)m->v[i].host + (id - m->v[i].container);
    }
    return -1;
}

static bool cgroup_mounted_writable(const struct oci_spec *s)
{
    for (size_t i = 0; i < s->n_mounts; i++) {
        const struct oci_mount *m = &s->mounts[i];

        if (strcmp(m->destination, "/sys/fs/cgroup") == 0 && m->type && strncmp(m->type, "cgroup", 6) == 0)
            return !(m->flags & 1 /* MS_RDONLY */);
    }
    return false;
}

/* A container with a cgroup namespace and users of its own that sees its group writable gets to own it, as far as
 * the kernel calls that safe. Spec: cgroup-v2.rst, "Delegation Containment"; runtime-spec, "Cgroup ownership". */
static int cgroup_delegate(struct oci_cgroup *g, struct err *e)
{
    static const char *const files[] = { "cgroup.procs", "cgroup.subtree_control", "cgroup.threads",
                                         "memory.oom.group" };
    const struct oci_spec *s = g->spec;
    const struct cgroup_one *one = g->unified >= 0 ? &g->one[g->unified] : NULL;
    int64_t uid;
    int fd, r = 0;

    if (!s || !one || !cgroup_pure_v2(g) || !s->ns[OCI_NS_CGROUP].wanted || s->ns[OCI_NS_CGROUP].path ||
        s->uid_mappings.n == 0 || !cgroup_mounted_writable(s))
        return 0;
    uid = cgroup_host_id(&s->uid_mappings, 0);
    if (uid < 0)
        return 0;
    fd = open(one->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fchown(fd, (uid_t)uid, (gid_t)-1) < 0)
        r = -errno;
    for (size_t i = 0; i < ARRAY_SIZE(files) && r == 0; i++) {
        if (fchownat(fd, files[i], (uid_t)uid, (gid_t)-1, 0) < 0 && errno != ENOENT)
            r = -errno;
    }
    if (fd >= 0)
        close(fd);
    return r < 0 ? err_set(e, -r, "cgroup %s: cannot be given to the container's user %lld: %s", one->dir,
                           (long long)uid, strerror(-r))
                 : 0;
}

int cgroup_make(struct oci_cgroup *g, struct err *e)
{
    int r = cgroup_make_all(g, e);

    if (r == 0)
        r = cgroup_delegate(g, e);
    if (r == 0)
        g->planned = false;
    return r;
}

int oci_cgroup_plan(const struct oci_cgroup_config *c, struct oci_cgroup **ret, struct err *e)
{
    AUTO(oci_cgroup) struct oci_cgroup *g = cgroup_new(e);
    int r;

    if (!g)
        return -ENOMEM;
    g->planned = true;
    g->systemd = c->systemd;
    g->rootless = c->rootless;
    g->user_manager = c->systemd && (geteuid() != 0 || cgroup_rootless(g));
    g->path_given = c->path && c->path[0];
    g->spec = c->spec;
    r = cgroup_places(g, c, e);
    if (r == 0)
        *ret = STEAL(g);
    return r;
}

int oci_cgroup_make(struct oci_cgroup *g, struct err *e)
{
    int r;

    if (g->systemd)
        return 0;
    r = cgroup_make(g, e);
    if (r < 0) {
        while (g->n > 0)
            cgroup_drop(g, g->n - 1);
        return r;
    }
    if (g->unified >= 0)
        g->clone_fd = open(g->one[g->unified].dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return 0;
}

int oci_cgroup_create(const struct oci_cgroup_config *c, struct oci_cgroup **ret, struct err *e)
{
    AUTO(oci_cgroup) struct oci_cgroup *g = NULL;
    int r = oci_cgroup_plan(c, &g, e);

    if (r == 0)
        r = oci_cgroup_make(g, e);
    if (r == 0)
        *ret = STEAL(g);
    return r;
}

int oci_cgroup_clone_fd(const struct oci_cgroup *g)
{
    return g->clone_fd;
}

size_t oci_cgroup_hierarchies(const struct oci_cgroup *g, const struct oci_cgroup_hierarchy **ret)
{
    struct oci_cgroup *writable = (struct oci_cgroup *)g;

    for (size_t i = 0; i < g->n; i++)
        writable->pub[i] = g->one[i].pub;
    *ret = g->pub;
    return g->n;
}

/* ---- the state file ---- */

static void cgroup_save_member(struct json_object *o, const char *key, struct json_object *v)
{
    if (v)
        json_object_object_add(o, key, v);
}

static struct json_object *cgroup_save_one(const struct cgroup_one *one)
{
    struct json_object *o = json_object_new_object();

    if (!o)
        return NULL;
    cgroup_save_member(o, "mount", json_object_new_string(one->pub.mount));
    cgroup_save_member(o, "path", json_object_new_string(one->pub.path));
    cgroup_save_member(o, "controllers", json_object_new_int64(one->controllers));
    cgroup_save_member(o, "v2", json_object_new_boolean(one->v2));
    if (one->pub.options && strncmp(one->pub.options, "none,name=", 10) == 0)
        cgroup_save_member(o, "name", json_object_new_string(one->pub.options + 10));
    return o;
}

void oci_cgroup_save(const struct oci_cgroup *g, struct buf *json)
{
    struct json_object *o = json_object_new_object(), *list = o ? json_object_new_array() : NULL;
    const char *text;

    for (size_t i = 0; i < g->n && list; i++)
        json_object_array_add(list, cgroup_save_one(&g->one[i]));
    if (list) {
        json_object_object_add(o, "hierarchies", list);
        if (g->unit)
            cgroup_save_member(o, "unit", json_object_new_string(g->unit));
        if (g->slice)
            cgroup_save_member(o, "slice", json_object_new_string(g->slice));
        cgroup_save_member(o, "userManager", json_object_new_boolean(g->user_manager));
        if (g->planned)
            cgroup_save_member(o, "planned", json_object_new_boolean(true));
        cgroup_save_member(o, "rootless", json_object_new_boolean(g->rootless));
        cgroup_save_member(o, "pathGiven", json_object_new_boolean(g->path_given));
    }
    text = list ? json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE) : NULL;
    if (text)
        buf_append_str(json, text);
    else
        json->error = -ENOMEM;
    json_object_put(o);
}

static const char *cgroup_saved_string(struct json_object *o, const char *key)
{
    struct json_object *v;

    return json_object_object_get_ex(o, key, &v) && json_object_is_type(v, json_type_string) ? json_object_get_string(v)
                                                                                             : NULL;
}

static bool cgroup_saved_bool(struct json_object *o, const char *key)
{
    struct json_object *v;

    return json_object_object_get_ex(o, key, &v) && json_object_get_boolean(v);
}

static int cgroup_open_one(struct oci_cgroup *g, struct json_object *o, bool pure, struct err *e)
{
    const char *mount = cgroup_saved_string(o, "mount"), *path = cgroup_saved_string(o, "path");
    struct json_object *controllers;

    if (!mount || !path || mount[0] != '/' || path[0] != '/' || path[1] == '\0' || strstr(path, "/../") ||
        !json_object_object_get_ex(o, "controllers", &controllers))
        return err_set(e, EINVAL, "the container's state file is broken: cgroup.hierarchies");
    return cgroup_add(g, mount, path, cgroup_saved_string(o, "name"), (uint32_t)json_object_get_int64(controllers),
                      cgroup_saved_bool(o, "v2"), pure, e);
}

int oci_cgroup_open(struct json_object *saved, struct oci_cgroup **ret, struct err *e)
{
    AUTO(oci_cgroup) struct oci_cgroup *g = cgroup_new(e);
    const char *unit = cgroup_saved_string(saved, "unit"), *slice = cgroup_saved_string(saved, "slice");
    struct json_object *list;
    size_t n;
    int r = 0;

    if (!g)
        return -ENOMEM;
    if (!json_object_object_get_ex(saved, "hierarchies", &list) || !json_object_is_type(list, json_type_array) ||
        (n = json_object_array_length(list)) > SYS_CGROUP_MAX)
        return err_set(e, EINVAL, "the container's state file is broken: cgroup");
    for (size_t i = 0; i < n && r == 0; i++) {
        struct json_object *o = json_object_array_get_idx(list, i);

        r = cgroup_open_one(g, o, n == 1 && cgroup_saved_bool(o, "v2"), e);
    }
    if (r < 0)
        return r;
    g->systemd = unit != NULL;
    g->user_manager = cgroup_saved_bool(saved, "userManager");
    g->rootless = cgroup_saved_bool(saved, "rootless");
    g->planned = cgroup_saved_bool(saved, "planned");
    g->path_given = cgroup_saved_bool(saved, "pathGiven");
    g->unit = unit ? strdup(unit) : NULL;
    g->slice = slice ? strdup(slice) : NULL;
    if ((unit && !g->unit) || (slice && !g->slice))
        return err_set(e, ENOMEM, "cgroup: out of memory");
    *ret = STEAL(g);
    return 0;
}
