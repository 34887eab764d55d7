#include "oci/state.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include "base/fdio.h"
#include "base/num.h"
#include "oci/bundle.h"
#include "oci/cgroup.h"
#include "oci/json.h"
#include "oci/path.h"
#include "sys/dirs.h"

#define STATE_ID_MAX 255

static const char *const state_names[] = {
    [OCI_CREATING] = "creating", [OCI_CREATED] = "created", [OCI_RUNNING] = "running",
    [OCI_PAUSED] = "paused",     [OCI_STOPPED] = "stopped",
};

const char *oci_status_name(enum oci_status s)
{
    return state_names[s];
}

int oci_state_root(const struct oci_args *a, bool make, struct err *e)
{
    char path[SYS_DIR_MAX];
    const char *root = a->value[OCI_OPT_ROOT];
    int fd, r = 0;

    if (!root) {
        r = sys_dirs_runtime(path);
        if (r == 0 && strlen(path) + sizeof("/oci") > sizeof(path))
            r = -ENAMETOOLONG;
        if (r < 0)
            return err_set(e, -r, "cannot tell the runtime directory: give --root");
        memcpy(path + strlen(path), "/oci", sizeof("/oci"));
        root = path;
    }
    fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT && make) {
        r = oci_path_mkdirs_host(root, 0711);
        if (r < 0)
            return err_set(e, -r, "%s: cannot make the state directory: %s", root, strerrordesc_np(-r));
        fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    }
    return fd < 0 ? err_set(e, errno, "%s: cannot open the state directory: %m", root) : fd;
}

int oci_state_check_id(const char *id, struct err *e)
{
    const size_t len = strlen(id);
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.";

    if (len == 0 || len > STATE_ID_MAX || strspn(id, allowed) != len || strcmp(id, ".") == 0 || strcmp(id, "..") == 0)
        return err_set(e, EINVAL, "invalid container id \"%.64s\": 1 to 255 letters, digits and _+-. are", id);
    return 0;
}

int oci_state_make(const struct oci_args *a, const char *id, int *ret_root_fd, int *ret_dir_fd, struct err *e)
{
    AUTO_FD int root = -1, dir = -1;
    int r = oci_state_check_id(id, e);

    if (r < 0)
        return r;
    root = oci_state_root(a, true, e);
    if (root < 0)
        return root;
    if (mkdirat(root, id, 0711) < 0) {
        if (errno == EEXIST)
            return err_set(e, EEXIST, "container with id exists: %s: delete it, or take another name", id);
        return err_set(e, errno, "%s: cannot make the container's directory: %m", id);
    }
    dir = openat(root, id, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (dir < 0 || flock(dir, LOCK_EX | LOCK_NB) < 0) {
        /* Somebody may delete --force at once what we have just made. */
        return err_set(e, errno, "%s: cannot lock the container's directory: %m", id);
    }
    *ret_root_fd = STEAL_FD(root);
    *ret_dir_fd = STEAL_FD(dir);
    return 0;
}

int oci_state_write_file(int dir_fd, const char *name, const char *text, size_t len, struct err *e)
{
    AUTO_FD int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    int r;

    if (fd < 0)
        return err_set(e, errno, "%s of the container's directory: %m", name);
    r = fd_write_all(fd, text, len);
    return r < 0 ? err_set(e, -r, "%s of the container's directory: %s", name, strerrordesc_np(-r)) : 0;
}

static void state_annotations(const struct oci_spec *spec, struct buf *b)
{
    buf_append_str(b, ",\"annotations\":{");
    for (size_t i = 0; i < spec->n_annotations; i++) {
        if (i > 0)
            buf_append(b, ",", 1);
        oci_json_string(b, spec->annotations[i].key);
        buf_append(b, ":", 1);
        oci_json_string(b, spec->annotations[i].value);
    }
    buf_append(b, "}", 1);
}

int oci_state_write(int dir_fd, const struct oci_record *r, struct err *e)
{
    unsigned namespaces = 0, hooks = 0;
    struct buf b;
    int res;

    for (unsigned i = 0; i < OCI_NS_KINDS; i++)
        namespaces |= r->spec->ns[i].wanted ? 1u << i : 0;
    for (unsigned i = 0; i < OCI_HOOK_KINDS; i++)
        hooks |= r->spec->n_hooks[i] > 0 ? 1u << i : 0;
    buf_init(&b, OCI_STATE_MAX);
    buf_append(&b, "{", 1);
    oci_json_member(&b, 0, "id", r->id);
    oci_json_member(&b, 1, "bundle", r->bundle);
    oci_json_member(&b, 1, "rootfs", r->rootfs);
    oci_json_member(&b, 1, "created", r->created);
    buf_printf(&b, ",\"pid\":%d,\"start_time\":%llu,\"namespaces\":%u,\"hooks\":%u,\"rdt\":%s", (int)r->pid,
               (unsigned long long)r->start_time, namespaces, hooks, r->spec->rdt.present ? "true" : "false");
    if (r->cgroup) {
        buf_append_str(&b, ",\"cgroup\":");
        oci_cgroup_save(r->cgroup, &b);
    }
    state_annotations(r->spec, &b);
    buf_append(&b, "}\n", 2);
    res = buf_error(&b);
    if (res < 0)
        res = err_set(e, -res, "state.json: %s", strerrordesc_np(-res));
    else
        res = oci_state_write_file(dir_fd, "state.new", (const char *)b.data, b.len, e);
    buf_done(&b);
    if (res == 0 && renameat(dir_fd, "state.new", dir_fd, "state.json") < 0)
        res = err_set(e, errno, "state.json of the container's directory: %m");
    return res;
}

static const char *state_string(struct json_object *doc, const char *key)
{
    struct json_object *o = json_object_object_get(doc, key);

    return json_object_is_type(o, json_type_string) ? json_object_get_string(o) : "";
}

static int64_t state_int(struct json_object *doc, const char *key)
{
    return json_object_get_int64(json_object_object_get(doc, key));
}

/* Missing is no error: then there is no more to know. */
static int state_read(struct oci_state *s, struct err *e)
{
    AUTO_FREE char *text = NULL;
    size_t len;
    int r = oci_path_read(s->dir_fd, "state.json", OCI_STATE_MAX, &text, &len);

    if (r == -ENOENT)
        return 0;
    if (r < 0)
        return err_set(e, -r, "%s: state.json: %s", s->id, strerrordesc_np(-r));
    json_object_put(s->doc);
    s->doc = json_tokener_parse(text);
    s->damaged = !json_object_is_type(s->doc, json_type_object);
    if (s->damaged) {
        json_object_put(s->doc);
        s->doc = NULL;
        return 0;
    }
    s->bundle = state_string(s->doc, "bundle");
    s->rootfs = state_string(s->doc, "rootfs");
    s->created = state_string(s->doc, "created");
    s->pid = (pid_t)state_int(s->doc, "pid");
    s->start_time = (uint64_t)state_int(s->doc, "start_time");
    s->namespaces = (unsigned)state_int(s->doc, "namespaces");
    s->hooks = (unsigned)state_int(s->doc, "hooks");
    s->rdt = json_object_get_boolean(json_object_object_get(s->doc, "rdt"));
    return 0;
}

int oci_state_open_at(int root_fd, const char *id, struct oci_state **ret, struct err *e)
{
    AUTO(oci_state) struct oci_state *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return err_set(e, ENOMEM, "out of memory");
    s->root_fd = s->dir_fd = -1;
    s->id = strdup(id);
    s->bundle = s->rootfs = s->created = "";
    if (!s->id)
        return err_set(e, ENOMEM, "out of memory");
    s->root_fd = fcntl(root_fd, F_DUPFD_CLOEXEC, 3);
    s->dir_fd = openat(root_fd, id, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (s->dir_fd < 0 && errno == ENOENT)
        return err_set(e, ENOENT, "container %s does not exist", id);
    if (s->dir_fd < 0 || s->root_fd < 0)
        return err_set(e, errno, "container %s: %m", id);
    r = state_read(s, e);
    if (r < 0)
        return r;
    *ret = STEAL(s);
    return 0;
}

int oci_state_open(const struct oci_args *a, const char *id, struct oci_state **ret, struct err *e)
{
    AUTO(oci_state) struct oci_state *s = NULL;
    AUTO_FD int root = -1;
    int r = oci_state_check_id(id, e);

    if (r < 0)
        return r;
    root = oci_state_root(a, false, e);
    if (root == -ENOENT)
        return err_set(e, ENOENT, "container %s does not exist", id);
    r = root < 0 ? root : oci_state_open_at(root, id, &s, e);
    if (r < 0)
        return r;
    if (s->damaged && !oci_flag(a, OCI_OPT_FORCE))
        return err_set(e, EINVAL, "container %s: state.json is damaged: delete --force removes the container", id);
    *ret = STEAL(s);
    return 0;
}

void oci_state_free(struct oci_state *s)
{
    if (!s)
        return;
    json_object_put(s->doc);
    if (s->dir_fd >= 0)
        close(s->dir_fd);
    if (s->root_fd >= 0)
        close(s->root_fd);
    free((char *)s->id);
    free(s);
}

int oci_state_lock(struct oci_state *s, unsigned timeout_ms, struct err *e)
{
    const struct timespec pause = { .tv_nsec = 2000000 };
    struct stat st;

    for (unsigned waited = 0;; waited += 2) {
        if (flock(s->dir_fd, LOCK_EX | LOCK_NB) == 0)
            break;
        if (errno != EWOULDBLOCK && errno != EINTR)
            return err_set(e, errno, "container %s: cannot lock: %m", s->id);
        if (waited >= timeout_ms)
            return err_set(e, EBUSY, "container %s is being changed by another call: try again", s->id);
        nanosleep(&pause, NULL);
    }
    if (fstat(s->dir_fd, &st) == 0 && st.st_nlink == 0)
        return err_set(e, ENOENT, "container %s does not exist", s->id);
    return state_read(s, e);
}

int oci_proc_start_time(pid_t pid, uint64_t *ret)
{
    char path[32], text[1024], *p;
    AUTO_FD int fd = -1;
    ssize_t n;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    if (n <= 0)
        return -ESRCH;
    text[n] = '\0';
    /* Field 2 is the name, which may have blanks and brackets; field 3 the state, field 22 what we want. */
    p = strrchr(text, ')');
    if (!p || strlen(p) < 3 || p[2] == 'Z' || p[2] == 'X')
        return -ESRCH;
    for (unsigned field = 2; p && field < 22; field++)
        p = strchr(p + 1, ' ');
    if (!p)
        return -ESRCH;
    p[1 + strspn(p + 1, "0123456789")] = '\0';
    return num_parse_u64(p + 1, 0, UINT64_MAX, ret) < 0 ? -ESRCH : 0;
}

enum oci_status oci_state_status(const struct oci_state *s)
{
    uint64_t start;

    if (s->pid <= 0) {
        /* Whoever makes it holds the lock. */
        if (flock(s->dir_fd, LOCK_SH | LOCK_NB) < 0)
            return OCI_CREATING;
        flock(s->dir_fd, LOCK_UN);
        return OCI_STOPPED;
    }
    if (oci_proc_start_time(s->pid, &start) < 0 || start != s->start_time)
        return OCI_STOPPED;
    if (faccessat(s->dir_fd, OCI_STATE_SOCKET, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return OCI_CREATED;
    if (faccessat(s->dir_fd, OCI_STATE_SOCKET_NEW, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return OCI_CREATING;
    return OCI_RUNNING;
}

int oci_state_cgroup(const struct oci_state *s, struct oci_cgroup **ret, struct err *e)
{
    struct json_object *saved = s->doc ? json_object_object_get(s->doc, "cgroup") : NULL;

    *ret = NULL;
    return saved ? oci_cgroup_open(saved, ret, e) : 0;
}

int oci_state_spec(const struct oci_state *s, struct oci_spec **ret, struct err *e)
{
    return oci_bundle_read(s->dir_fd, ret, NULL, NULL, e);
}

int oci_state_remove(int root_fd, int dir_fd, const char *id, struct err *e)
{
    static const char *const names[] = { OCI_STATE_SOCKET, OCI_STATE_SOCKET_NEW, "config.json", "state.new",
                                         "state.json" };

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        if (unlinkat(dir_fd, names[i], 0) < 0 && errno != ENOENT)
            return err_set(e, errno, "%s: cannot remove %s: %m", id, names[i]);
    }
    if (unlinkat(root_fd, id, AT_REMOVEDIR) < 0 && errno != ENOENT)
        return err_set(e, errno, "%s: cannot remove the container's directory: %m", id);
    return 0;
}

static void state_json_head(struct buf *b, const char *id, enum oci_status status, pid_t pid, const char *bundle)
{
    buf_append(b, "{", 1);
    oci_json_member(b, 0, "ociVersion", OCI_VERSION);
    oci_json_member(b, 1, "id", id);
    buf_printf(b, ",\"pid\":%d", status == OCI_STOPPED ? 0 : (int)pid);
    oci_json_member(b, 1, "status", state_names[status]);
    oci_json_member(b, 1, "bundle", bundle);
}

void oci_record_json(const struct oci_record *r, enum oci_status status, struct buf *b)
{
    state_json_head(b, r->id, status, r->pid, r->bundle);
    state_annotations(r->spec, b);
    buf_append(b, "}", 1);
}

void oci_state_json(const struct oci_state *s, enum oci_status status, bool indent, struct buf *b)
{
    struct json_object *annotations = s->doc ? json_object_object_get(s->doc, "annotations") : NULL;
    struct json_object *tree;
    struct buf flat;

    buf_init(&flat, OCI_STATE_MAX);
    state_json_head(&flat, s->id, status, s->pid, s->bundle);
    oci_json_member(&flat, 1, "rootfs", s->rootfs);
    oci_json_member(&flat, 1, "created", s->created);
    if (annotations && json_object_object_length(annotations) > 0)
        buf_printf(&flat, ",\"annotations\":%s", json_object_to_json_string_ext(annotations, JSON_C_TO_STRING_PLAIN));
    oci_json_member(&flat, 1, "owner", "");
    buf_append(&flat, "}", 2);
    if (!indent) {
        if (buf_error(&flat) == 0)
            buf_append(b, flat.data, flat.len - 1);
    } else {
        tree = buf_error(&flat) == 0 ? json_tokener_parse((const char *)flat.data) : NULL;
        if (tree)
            buf_append_str(
                b, json_object_to_json_string_ext(tree, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
        buf_append(b, "\n", 1);
        json_object_put(tree);
    }
    buf_done(&flat);
}
