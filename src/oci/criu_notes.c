#include "oci/criu_notes.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <limits.h>
#include <stdio.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/num.h"
#include "base/text.h"
#include "oci/json.h"
#include "oci/ns.h"
#include "oci/path.h"
#include "oci/state.h"

#define NOTES_FILE "caisson.json"
#define NOTES_MAX (1u << 20)
#define MOUNTINFO_MAX (16u << 20)
#define NOTES_ATTR (unsigned)(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)

struct oci_criu_notes *oci_criu_notes_new(void)
{
    return calloc(1, sizeof(struct oci_criu_notes));
}

void oci_criu_notes_free(struct oci_criu_notes *n)
{
    if (!n)
        return;
    for (size_t i = 0; i < n->n_mounts; i++) {
        free(n->mounts[i].point);
    }
    for (size_t i = 0; i < n->n_pairs; i++)
        free((char *)n->pairs[i].value);
    for (size_t i = 0; i < ARRAY_SIZE(n->stdio); i++)
        free(n->stdio[i]);
    for (size_t i = 0; i < n->n_external; i++)
        free(n->external[i]);
    free(n);
}

/* ---- mounts ---- */

/* path is top, or below it; *ret_rest is what stands behind top then. */
static bool notes_below(const char *path, const char *top, const char **ret_rest)
{
    size_t len = strlen(top);

    while (len > 0 && top[len - 1] == '/')
        len--;
    if (strncmp(path, top, len) != 0 || (path[len] && path[len] != '/'))
        return false;
    *ret_rest = path + len;
    return true;
}

/* The mount of config.json that a mount point belongs to: the longest, of several the last. */
static const struct oci_mount *notes_config_mount(const struct oci_spec *s, const char *point, const char **ret_rest)
{
    const struct oci_mount *found = NULL;
    const char *rest;

    for (size_t i = 0; i < s->n_mounts; i++) {
        const struct oci_mount *m = &s->mounts[i];

        if (notes_below(point, m->destination, &rest) &&
            (!found || strlen(m->destination) >= strlen(found->destination))) {
            found = m;
            *ret_rest = rest;
        }
    }
    return found;
}

static bool notes_is_cgroup(const char *type)
{
    return strcmp(type, "cgroup") == 0 || strcmp(type, "cgroup2") == 0;
}

/* CRIU makes file systems that have no content of the host's itself, and knows their binds. */
static bool notes_criu_makes(const char *type)
{
    static const char *const types[] = { "proc", "sysfs", "tmpfs", "devpts", "mqueue", "ramfs", "overlay" };

    for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
        if (strcmp(type, types[i]) == 0)
            return true;
    }
    return false;
}

static int notes_add_mount(struct oci_criu_notes *n, const char *point, unsigned attr, bool external)
{
    if (n->n_mounts == ARRAY_SIZE(n->mounts))
        return -E2BIG;
    n->mounts[n->n_mounts] = (struct oci_criu_mount){ strdup(point), attr, external };
    if (!n->mounts[n->n_mounts].point)
        return -ENOMEM;
    n->n_mounts++;
    return 0;
}

static int notes_add_pair(struct oci_criu_notes *n, const char *key, const char *value)
{
    n->pairs[n->n_pairs] = (struct oci_criu_pair){ .key = key, .value = strdup(value) };
    if (!n->pairs[n->n_pairs].value)
        return -ENOMEM;
    n->n_pairs++;
    return 0;
}

static unsigned notes_attr(char *options)
{
    static const struct {
        const char *name;
        unsigned attr;
    } words[] = { { "ro", MOUNT_ATTR_RDONLY },
                  { "nosuid", MOUNT_ATTR_NOSUID },
                  { "nodev", MOUNT_ATTR_NODEV },
                  { "noexec", MOUNT_ATTR_NOEXEC } };
    unsigned attr = 0;
    char *word;

    while ((word = strsep(&options, ","))) {
        for (size_t i = 0; i < ARRAY_SIZE(words); i++)
            attr |= strcmp(word, words[i].name) == 0 ? words[i].attr : 0;
    }
    return attr;
}

/* "36 35 98:0 /root /point options optional... - type source super". Spec: proc(5). */
int oci_criu_mount_line(const struct oci_spec *s, char *line, struct oci_criu_mount *ret)
{
    char *fields[6], *next = line, *type;
    const struct oci_mount *m;
    const char *rest;

    for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
        fields[i] = strsep(&next, " ");
    type = !next ? NULL : strncmp(next, "- ", 2) == 0 ? next + 2 : strstr(next, " - ");
    if (!fields[5] || !type)
        return 0;
    type += *type == ' ' ? 3 : 0;
    type[strcspn(type, " ")] = '\0';
    text_unescape_octal(fields[4]);
    if (fields[4][0] != '/' || fields[4][1] == '\0')
        return 0;
    m = notes_config_mount(s, fields[4], &rest);
    *ret = (struct oci_criu_mount){ .point = fields[4],
                                    .attr = notes_attr(fields[5]),
                                    .external = notes_is_cgroup(type) || !notes_criu_makes(type) || (m && m->bind) };
    return 1;
}

static int notes_read_mounts(pid_t pid, char **ret)
{
    char path[40];
    size_t len;

    snprintf(path, sizeof(path), "/proc/%d/mountinfo", (int)pid);
    return oci_path_read(AT_FDCWD, path, MOUNTINFO_MAX, ret, &len);
}

static int notes_mounts(struct oci_criu_notes *n, const struct oci_spec *s, pid_t pid, struct err *e)
{
    AUTO_FREE char *text = NULL;
    struct oci_criu_mount m;
    char *next, *line;
    int r = notes_read_mounts(pid, &text);

    next = text;
    while (r == 0 && (line = strsep(&next, "\n"))) {
        if (oci_criu_mount_line(s, line, &m) > 0)
            r = notes_add_mount(n, m.point, m.attr, m.external);
    }
    return r < 0 ? err_set(e, -r, "checkpoint: the container's mounts: %s", strerrordesc_np(-r)) : 0;
}

/* ---- descriptors, namespaces ---- */

static int notes_external(struct oci_criu_notes *n, const char *text)
{
    if (n->n_external == ARRAY_SIZE(n->external))
        return -E2BIG;
    n->external[n->n_external] = strdup(text);
    if (!n->external[n->n_external])
        return -ENOMEM;
    n->n_external++;
    return 0;
}

/* The mount that a descriptor was opened through, by its number in mountinfo; it may be one that the container does not
 * have. */
static int notes_mount_id(pid_t pid, int fd, unsigned *ret)
{
    AUTO_FREE char *text = NULL;
    char path[48], *found;
    uint64_t id;
    size_t len;
    int r;

    snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", (int)pid, fd);
    r = oci_path_read(AT_FDCWD, path, 4096, &text, &len);
    found = r == 0 ? strstr(text, "mnt_id:") : NULL;
    if (!found)
        return r < 0 ? r : -EBADMSG;
    found += 7 + strspn(found + 7, " \t");
    found[strspn(found, "0123456789")] = '\0';
    r = num_parse_u64(found, 0, UINT32_MAX, &id);
    *ret = (unsigned)id;
    return r;
}

static bool notes_has_mount(const char *mountinfo, unsigned id)
{
    char number[16];
    const size_t len = (size_t)snprintf(number, sizeof(number), "%u ", id);

    for (const char *line = mountinfo; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        if (strncmp(line, number, len) == 0)
            return true;
    }
    return false;
}

/* A pipe is named by itself. What was opened outside of the container's mounts CRIU cannot open again. A terminal is
 * CRIU's own business. */
static int notes_stdio_one(struct oci_criu_notes *n, pid_t pid, int fd, const char *mountinfo)
{
    char path[40], link[256], name[64] = "";
    unsigned id;
    struct stat st;
    ssize_t len;
    int r = 0;

    snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)pid, fd);
    len = readlink(path, link, sizeof(link) - 1);
    link[MAX(len, 0)] = '\0';
    if (strncmp(link, "pipe:[", 6) == 0 && (size_t)len < sizeof(name)) {
        memcpy(name, link, (size_t)len + 1);
    } else if (link[0] == '/' && stat(path, &st) == 0 && notes_mount_id(pid, fd, &id) == 0 &&
               !notes_has_mount(mountinfo, id) && strncmp(link, "/dev/pts/", 9) != 0) {
        snprintf(name, sizeof(name), "file[%x:%llx]", id, (unsigned long long)st.st_ino);
        r = notes_external(n, name);
    }
    n->stdio[fd] = strdup(name);
    return r < 0 ? r : n->stdio[fd] ? 0 : -ENOMEM;
}

static int notes_stdio(struct oci_criu_notes *n, pid_t pid)
{
    AUTO_FREE char *mountinfo = NULL;
    int r = notes_read_mounts(pid, &mountinfo);

    for (int fd = 0; fd < 3 && r == 0; fd++)
        r = notes_stdio_one(n, pid, fd, mountinfo);
    return r;
}

/* CRIU leaves namespaces alone that it is told of; of these two kinds it knows how. */
static int notes_namespaces(struct oci_criu_notes *n, const struct oci_spec *s, struct err *e)
{
    for (unsigned i = 0; i < OCI_NS_KINDS; i++) {
        char text[64];
        struct stat st;
        int r;

        if (!s->ns[i].path)
            continue;
        if (i != OCI_NS_NET && i != OCI_NS_PID)
            return err_set(e, EOPNOTSUPP, "checkpoint: the container joined the %s namespace %s: CRIU cannot leave it",
                           oci_ns_name(i), s->ns[i].path);
        if (stat(s->ns[i].path, &st) < 0)
            return err_set(e, errno, "%s namespace %s: %m", oci_ns_name(i), s->ns[i].path);
        snprintf(text, sizeof(text), "%s[%llu]:%s", i == OCI_NS_NET ? "net" : "pid", (unsigned long long)st.st_ino,
                 i == OCI_NS_NET ? OCI_CRIU_NET : OCI_CRIU_PID);
        r = notes_external(n, text);
        if (r < 0)
            return err_set(e, -r, "checkpoint: %s", strerrordesc_np(-r));
    }
    return 0;
}

int oci_criu_notes_take(const struct oci_spec *s, pid_t pid, struct oci_criu_notes *ret, struct err *e)
{
    int r = notes_mounts(ret, s, pid, e);

    if (r < 0)
        return r;
    for (size_t i = 0; i < ret->n_mounts && r == 0; i++) {
        if (ret->mounts[i].external)
            r = notes_add_pair(ret, ret->mounts[i].point, ret->mounts[i].point);
    }
    if (r == 0)
        r = notes_stdio(ret, pid);
    if (r < 0)
        return err_set(e, -r, "checkpoint: standard descriptors of the container: %s", strerrordesc_np(-r));
    return notes_namespaces(ret, s, e);
}

/* ---- the file ---- */

int oci_criu_notes_save(const struct oci_criu_notes *n, int images_fd, struct err *e)
{
    struct buf b;
    int r;

    buf_init(&b, NOTES_MAX);
    buf_append_str(&b, "{\"mounts\":[");
    for (size_t i = 0; i < n->n_mounts; i++) {
        buf_append_str(&b, i ? ",{" : "{");
        oci_json_member(&b, 0, "at", n->mounts[i].point);
        buf_printf(&b, ",\"attr\":%u,\"external\":%s}", n->mounts[i].attr, n->mounts[i].external ? "true" : "false");
    }
    buf_append_str(&b, "],\"stdio\":[");
    for (size_t i = 0; i < ARRAY_SIZE(n->stdio); i++) {
        buf_append_str(&b, i ? "," : "");
        oci_json_string(&b, n->stdio[i] ? n->stdio[i] : "");
    }
    buf_append_str(&b, "]}\n");
    r = buf_error(&b);
    r = r < 0 ? err_set(e, -r, NOTES_FILE ": %s", strerrordesc_np(-r))
              : oci_state_write_file(images_fd, NOTES_FILE, (const char *)b.data, b.len, e);
    buf_done(&b);
    return r;
}

static const char *notes_string(struct json_object *list, size_t i)
{
    struct json_object *o = json_object_array_get_idx(list, i);

    return json_object_is_type(o, json_type_string) ? json_object_get_string(o) : NULL;
}

/* An absolute path of plain names: it is mounted on below the container's root. */
static bool notes_point_ok(const char *point)
{
    if (point[0] != '/' || strlen(point) >= PATH_MAX)
        return false;
    while (*point) {
        const char *name = point + 1;
        const size_t len = strcspn(name, "/");

        if (len == 0 || (len <= 2 && strspn(name, ".") >= len))
            return false;
        point = name + len;
    }
    return true;
}

static int notes_parse_mount(struct json_object *o, struct oci_criu_notes *n)
{
    struct json_object *at, *attr, *external;
    const char *point;

    if (!json_object_object_get_ex(o, "at", &at) || !json_object_object_get_ex(o, "attr", &attr) ||
        !json_object_object_get_ex(o, "external", &external) || !json_object_is_type(at, json_type_string))
        return -EINVAL;
    point = json_object_get_string(at);
    if (!notes_point_ok(point))
        return -EINVAL;
    return notes_add_mount(n, point, (unsigned)json_object_get_int64(attr) & NOTES_ATTR,
                           json_object_get_boolean(external));
}

static int notes_parse(struct json_object *doc, struct oci_criu_notes *n)
{
    struct json_object *mounts, *stdio_;
    int r = 0;

    if (!json_object_object_get_ex(doc, "mounts", &mounts) || !json_object_is_type(mounts, json_type_array) ||
        !json_object_object_get_ex(doc, "stdio", &stdio_) || !json_object_is_type(stdio_, json_type_array))
        return -EINVAL;
    for (size_t i = 0; i < json_object_array_length(mounts) && r == 0; i++) {
        r = notes_parse_mount(json_object_array_get_idx(mounts, i), n);
    }
    for (size_t i = 0; i < ARRAY_SIZE(n->stdio) && r == 0; i++) {
        const char *name = notes_string(stdio_, i);

        n->stdio[i] = strdup(name && strlen(name) < 64 ? name : "");
        r = n->stdio[i] ? 0 : -ENOMEM;
    }
    return r;
}

int oci_criu_notes_load(int images_fd, struct oci_criu_notes *ret, struct err *e)
{
    AUTO_FREE char *text = NULL;
    struct json_object *doc;
    size_t len;
    int r = oci_path_read(images_fd, NOTES_FILE, NOTES_MAX, &text, &len);

    if (r == -ENOENT)
        return err_set(e, ENOENT, "--image-path: has no " NOTES_FILE ": it must be what checkpoint made");
    if (r < 0)
        return err_set(e, -r, NOTES_FILE ": %s", strerrordesc_np(-r));
    doc = json_tokener_parse(text);
    r = notes_parse(doc, ret);
    json_object_put(doc);
    return r < 0 ? err_set(e, -r, NOTES_FILE ": is damaged: take the checkpoint again") : 0;
}

/* ---- where mounts come from ---- */

static int notes_cgroup_source(const char *rest, const struct oci_cgroup *g, char *path, size_t size)
{
    const struct oci_cgroup_hierarchy *h;
    const size_t n = g ? oci_cgroup_hierarchies(g, &h) : 0;

    rest += *rest == '/';
    for (size_t i = 0; i < n; i++) {
        if (strcmp(h[i].name, rest) == 0)
            return (size_t)snprintf(path, size, "%s%s", h[i].mount, h[i].path) < size ? 0 : -ENAMETOOLONG;
    }
    return -ENOENT;
}

static int notes_source(const char *point, const struct oci_spec *s, const char *rootfs, const struct oci_cgroup *g,
                        char *path, size_t size)
{
    const char *rest = "";
    const struct oci_mount *m = notes_config_mount(s, point, &rest);
    size_t len;

    for (size_t i = 0; i < s->masked_paths.n; i++) {
        if (strcmp(s->masked_paths.v[i], point) == 0)
            return snprintf(path, size, "/dev/null") > 0 ? 0 : -EIO;
    }
    if (m && m->type && notes_is_cgroup(m->type))
        return notes_cgroup_source(rest, g, path, size);
    if (m && m->bind)
        len = (size_t)snprintf(path, size, "%s%s", m->source, rest);
    else if (notes_below(point, "/dev", &rest)) /* devices, where nodes cannot be made */
        len = (size_t)snprintf(path, size, "%s", point);
    else
        len = (size_t)snprintf(path, size, "%s%s", rootfs, point);
    return len < size ? 0 : -ENAMETOOLONG;
}

int oci_criu_notes_sources(struct oci_criu_notes *n, const struct oci_spec *s, const char *rootfs,
                           const struct oci_cgroup *g, struct err *e)
{
    char path[PATH_MAX];

    for (size_t i = 0; i < n->n_mounts; i++) {
        const char *point = n->mounts[i].point;
        int r = n->mounts[i].external ? notes_source(point, s, rootfs, g, path, sizeof(path)) : 0;

        if (r == 0 && n->mounts[i].external)
            r = notes_add_pair(n, point, path);
        if (r < 0)
            return err_set(e, -r, "restore: mount %s of the checkpoint: %s: is config.json the same?", point,
                           strerrordesc_np(-r));
    }
    return 0;
}

/* ---- flags ---- */

/* In the container's mount namespace. Names in mountinfo have no links in them. */
static int notes_restrict_one(const char *point, unsigned attr)
{
    const struct open_how how = { .flags = O_PATH | O_NOFOLLOW | O_CLOEXEC, .resolve = RESOLVE_NO_SYMLINKS };
    struct mount_attr set = { .attr_set = attr };
    AUTO_FD int fd = (int)syscall(SYS_openat2, AT_FDCWD, point, &how, sizeof(how));

    return fd < 0 || mount_setattr(fd, "", AT_EMPTY_PATH, &set, sizeof(set)) < 0 ? -errno : 0;
}

/* Child: what is here now and should be more restricted. Of several mounts at one point the last is in sight, in both
 * lists. */
static int notes_restrict_here(const struct oci_criu_notes *n, char *mountinfo)
{
    const struct oci_spec none = { 0 };
    struct oci_criu_mount m;
    char *line;
    int r = 0;

    while (r == 0 && (line = strsep(&mountinfo, "\n"))) {
        unsigned wanted = 0;

        if (oci_criu_mount_line(&none, line, &m) == 0)
            continue;
        for (size_t i = 0; i < n->n_mounts; i++) {
            if (strcmp(n->mounts[i].point, m.point) == 0)
                wanted = n->mounts[i].attr;
        }
        if (wanted & ~m.attr)
            r = notes_restrict_one(m.point, wanted & ~m.attr);
    }
    return r;
}

int oci_criu_notes_restrict(const struct oci_criu_notes *n, pid_t pid, struct err *e)
{
    AUTO_FREE char *text = NULL;
    AUTO_FD int pidfd = pidfd_open(pid, 0);
    int r = pidfd < 0 ? -errno : notes_read_mounts(pid, &text), status = 0;
    pid_t child = r < 0 ? r : oci_clone(0, -1);

    if (child == 0) {
        r = setns(pidfd, CLONE_NEWNS) < 0 ? -errno : notes_restrict_here(n, text);
        _exit(-r);
    }
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    r = child < 0 ? child : WIFEXITED(status) ? -WEXITSTATUS(status) : -EIO;
    return r < 0 ? err_set(e, -r, "restore: flags of the container's mounts: %s", strerrordesc_np(-r)) : 0;
}
