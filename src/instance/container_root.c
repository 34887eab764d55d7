#include "instance/container_root.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/fdio.h"
#include "base/num.h"
#include "image/image.h"
#include "image/user.h"
#include "instance/client.h"
#include "instance/container_priv.h"
#include "instance/place.h"
#include "instance/volume.h"
#include "sys/dirs.h"
#include "sys/inroot.h"
#include "sys/userns.h"

#define ROOT_CONFIG_MAX (8U << 20)
#define EXEC_FD_HIGH 64

static int root_is_container(const struct store_instance *i, struct err *e)
{
    return i->spec.kind == INST_CONTAINER ? 0 : err_set(e, EPROTOTYPE, "%s is a VM; this is for containers", i->name);
}

/* The run of a running one; -ENOTCONN. For somebody else than root this process is in its namespaces then. */
static int root_join(const struct store_instance *i, struct inst_info *info, struct err *e)
{
    int r = root_is_container(i, e);

    if (r == 0)
        r = inst_ask(i, info, e);
    if (r == 0 && (!info->alive || info->pid <= 1))
        return err_set(e, ENOTCONN, "%s does not run; start it: caisson start %s", i->name, i->name);
    if (r == 0)
        r = sys_userns_join(info->shim_pid, true);
    return r < 0 && (!e || !e->code) ? err_set(e, -r, "%s: its namespaces cannot be entered: %s", i->name, strerror(-r))
                                     : r;
}

/* ---- the root ---- */

/* Volumes and binds of a container that does not run, in our own mount namespace; those whose place or source is not
 * there are left out. */
static void root_mount_volumes(const struct store_instance *i, int root_fd)
{
    const struct inst_container *c = &i->spec.container;

    for (size_t m = 0; m < c->n_mounts; m++) {
        AUTO_FD int place = sys_inroot_open(root_fd, c->mounts[m].target, O_PATH, 0);
        char volume[SYS_DIR_MAX + 128], to[32];
        const char *source = c->mounts[m].source;

        if (place < 0 || c->mounts[m].kind == INST_MOUNT_TMPFS)
            continue;
        if (c->mounts[m].kind == INST_MOUNT_VOLUME) {
            if (inst_volume_path(source, volume, sizeof(volume), NULL) < 0)
                continue;
            source = volume;
        }
        snprintf(to, sizeof(to), "/proc/self/fd/%d", place);
        (void)!mount(source, to, NULL, MS_BIND | MS_REC, NULL);
    }
}

static int root_mount(const struct store_instance *i, int *ret_fd, struct err *e)
{
    char dir[INST_PATH_MAX], rundir[INST_PATH_MAX], place[INST_PATH_MAX + 16];
    AUTO_FD int fd = -1, fuse = -1; /* its process lives as long as this one */
    int r = inst_dir(i->id, dir, e);

    if (r == 0)
        r = inst_run_dir(i->id, rundir, e);
    if (r == 0)
        r = container_rootfs_unshare(e);
    if (r == 0) {
        r = sys_dirs_make(rundir);
        if (r < 0)
            return err_set(e, -r, "cannot make %s: %s", rundir, strerror(-r));
    }
    snprintf(place, sizeof(place), "%s/rootfs", rundir);
    if (r == 0)
        r = container_rootfs_mount(i, dir, place, false, &fuse, e);
    if (r < 0)
        return r;
    fd = open(place, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_set(e, errno, "%s: %s", place, strerror(errno));
    root_mount_volumes(i, fd);
    /* The mount goes with our namespace; its place need not wait for that. */
    *ret_fd = STEAL_FD(fd);
    return 0;
}

/* The lock of one that does not run: two mounts of one upper layer do not see each other's changes. -EBUSY without
 * text: it was started meanwhile. */
static int root_lock(const struct store_instance *i, struct sys_place *place, struct err *e)
{
    char dir[INST_PATH_MAX];
    int r = inst_lock(i->id, place, e);

    if (r == 0)
        r = inst_dir(i->id, dir, e);
    if (r == 0 && access(dir, F_OK) < 0)
        r = err_set(e, errno, "%s was removed meanwhile", i->name);
    return r;
}

int inst_container_root(const struct store_instance *i, struct sys_place *place, int *ret_fd, struct err *e)
{
    struct inst_info info;
    char path[64];
    int r = root_is_container(i, e);

    *place = (struct sys_place){ .lock = -1, .socket = -1 };
    if (r == 0)
        r = root_lock(i, place, e);
    if (r == 0)
        return root_mount(i, ret_fd, e);
    if (r != -EBUSY || e->code)
        return r;
    r = inst_ask(i, &info, e);
    if (r == 0 && info.alive && info.pid <= 1) /* between two runs, which may be long: nobody else can have the lock */
        return root_mount(i, ret_fd, e);
    if (r == 0)
        r = root_join(i, &info, e);
    if (r < 0)
        return r;
    snprintf(path, sizeof(path), "/proc/%d/root", (int)info.pid);
    *ret_fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return *ret_fd < 0 ? err_set(e, errno, "%s: its root cannot be opened: %s", i->name, strerror(errno)) : 0;
}

int inst_container_owner(const struct store_instance *i, int root_fd, uid_t *ret_uid, gid_t *ret_gid, struct err *e)
{
    struct image_user u = { 0 };
    int r = image_user_find(root_fd, i->spec.container.user, &u, e);

    if (r < 0)
        return r;
    *ret_uid = u.uid;
    *ret_gid = u.gid;
    free(u.groups);
    return 0;
}

/* ---- exec ---- */

/* The process of the container's config.json. */
static int exec_document(const struct store_instance *i, json_object **ret_process, struct err *e)
{
    char dir[INST_PATH_MAX], path[INST_PATH_MAX + 32];
    AUTO_FD int fd = -1;
    json_object *o = NULL, *process = NULL;
    struct buf b;
    int r = inst_run_dir(i->id, dir, e);

    if (r < 0)
        return r;
    snprintf(path, sizeof(path), "%s/bundle/config.json", dir);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    buf_init(&b, ROOT_CONFIG_MAX);
    r = fd < 0 ? -errno : fd_read_text(fd, &b);
    if (r == 0)
        o = json_tokener_parse((const char *)b.data);
    buf_done(&b);
    if (!o || !json_object_object_get_ex(o, "process", &process)) {
        json_object_put(o);
        return err_set(e, EIO, "%s: cannot read %s; restart it", i->name, path);
    }
    *ret_process = json_object_get(process);
    json_object_put(o);
    return 0;
}

/* keep_home: it is not that of another user. */
static void exec_env(json_object *process, const struct inst_strings *more, bool keep_home)
{
    json_object *old = NULL, *list = json_object_new_array();

    json_object_object_get_ex(process, "env", &old);
    for (size_t i = 0; old && i < json_object_array_length(old); i++) {
        const char *text = json_object_get_string(json_object_array_get_idx(old, i));
        bool replaced = !keep_home && strncmp(text, "HOME=", 5) == 0;

        for (size_t m = 0; m < more->n && !replaced; m++) {
            const size_t len = strcspn(more->at[m], "=") + 1;

            replaced = strncmp(text, more->at[m], len) == 0;
        }
        if (!replaced)
            json_object_array_add(list, json_object_new_string(text));
    }
    for (size_t m = 0; m < more->n; m++)
        json_object_array_add(list, json_object_new_string(more->at[m]));
    json_object_object_add(process, "env", list);
}

static int exec_user(const struct store_instance *i, const struct inst_exec *x, pid_t pid, json_object *process,
                     struct err *e)
{
    struct inst_container c = i->spec.container; /* a copy that borrows */
    AUTO_FREE uint32_t *groups = NULL;
    struct image_user u = { 0 };
    AUTO_FD int root = -1;
    json_object *caps = NULL, *o;
    char path[64];
    int r;

    snprintf(path, sizeof(path), "/proc/%d/root", (int)pid);
    root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0)
        return err_set(e, errno, "%s: its root cannot be opened: %s", i->name, strerror(errno));
    r = image_user_find(root, x->user ? x->user : c.user, &u, e);
    groups = u.groups;
    c.privileged = c.privileged || x->privileged;
    if (r == 0)
        r = container_caps_make(&c, u.uid == 0 || x->privileged, &caps, e);
    if (r < 0)
        return r;
    o = container_user_make(&u);
    json_object_object_add(process, "user", o);
    json_object_object_add(process, "capabilities", caps);
    return 0;
}

static int exec_process(const struct store_instance *i, const struct inst_exec *x, pid_t pid, json_object *process,
                        struct err *e)
{
    json_object *args = json_object_new_array();
    struct winsize size = { 0 };

    for (int n = 0; n < x->n_command; n++)
        json_object_array_add(args, json_object_new_string(x->command[n]));
    json_object_object_add(process, "args", args);
    json_object_object_add(process, "terminal", json_object_new_boolean(x->terminal && !x->detach));
    (void)!ioctl(STDIN_FILENO, TIOCGWINSZ, &size);
    container_console_size(process, size.ws_col, size.ws_row);
    if (x->cwd)
        json_object_object_add(process, "cwd", json_object_new_string(x->cwd));
    exec_env(process, &x->env, !x->user);
    return x->user || x->privileged ? exec_user(i, x, pid, process, e) : 0;
}

/* The document in a file that the runtime inherits. */
static int exec_memfd(json_object *process, struct err *e)
{
    const char *text = json_object_to_json_string_ext(process, JSON_C_TO_STRING_PLAIN);
    AUTO_FD int fd = memfd_create("process", MFD_CLOEXEC);
    int fd_high;

    if (fd < 0 || !text || fd_write_all(fd, text, strlen(text)) < 0 || lseek(fd, 0, SEEK_SET) < 0)
        return err_set(e, errno ? errno : ENOMEM, "cannot hand over the command: %s", strerror(errno));
    /* Above the descriptors that the runtime gets, and inherited. */
    fd_high = fcntl(fd, F_DUPFD, EXEC_FD_HIGH);
    return fd_high < 0 ? err_set(e, errno, "cannot hand over the command: %s", strerror(errno)) : fd_high;
}

int inst_container_exec(const struct store_instance *i, const struct inst_exec *x, int *ret_status, struct err *e)
{
    const int fds[3] = { x->in && !x->detach ? 0 : -1, x->detach ? -1 : 1, x->detach ? -1 : 2 };
    json_object *process = NULL;
    AUTO_FD int fd = -1;
    struct inst_info info;
    char file[32];
    const char *args[] = { "exec", "--process", file, i->id, NULL, NULL };
    int r = root_join(i, &info, e);

    if (r == 0 && strcmp(info.status, "paused") == 0)
        return err_set(e, EBUSY, "%s is paused; resume it: caisson resume %s", i->name, i->name);
    if (r == 0)
        r = exec_document(i, &process, e);
    if (r == 0)
        r = exec_process(i, x, info.pid, process, e);
    if (r == 0)
        r = fd = exec_memfd(process, e);
    json_object_put(process);
    if (r < 0)
        return r;
    snprintf(file, sizeof(file), "/proc/self/fd/%d", fd);
    if (x->detach) {
        args[3] = "--detach";
        args[4] = i->id;
        *ret_status = 0;
        return container_oci_run(args, NULL, e);
    }
    return container_oci_foreground(args, fds, ret_status, e);
}

/* The pid namespace that a process is in, as /proc tells it; 0: it cannot be told. */
static ino_t root_pid_namespace(pid_t pid)
{
    char path[64];
    struct stat st;

    snprintf(path, sizeof(path), "/proc/%d/ns/pid", (int)pid);
    return stat(path, &st) == 0 ? st.st_ino : 0;
}

int container_pids(pid_t init, pid_t **ret_pids, size_t *ret_n)
{
    const ino_t wanted = root_pid_namespace(init);
    DIR *dir = opendir("/proc");
    const struct dirent *d;
    pid_t *pids = NULL;
    size_t n = 0;
    int r = 0;

    if (!dir)
        return -errno;
    while (wanted && r == 0 && (d = readdir(dir))) {
        uint64_t pid;
        pid_t *grown;

        if (num_parse_u64(d->d_name, 1, INT32_MAX, &pid) < 0 || root_pid_namespace((pid_t)pid) != wanted)
            continue;
        grown = reallocarray(pids, n + 1, sizeof(*pids));
        if (!grown) {
            r = -ENOMEM;
            break;
        }
        pids = grown;
        pids[n++] = (pid_t)pid;
    }
    closedir(dir);
    if (r < 0) {
        free(pids);
        return r;
    }
    *ret_pids = pids;
    *ret_n = n;
    return 0;
}

int inst_container_pids(const struct store_instance *i, pid_t **ret_pids, size_t *ret_n, struct err *e)
{
    struct inst_info info;
    int r = root_join(i, &info, e);

    if (r == 0) {
        r = container_pids(info.pid, ret_pids, ret_n);
        if (r < 0)
            err_set(e, -r, "%s: its processes cannot be listed: %s", i->name, strerror(-r));
    }
    return r;
}
