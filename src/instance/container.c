/* Containers as a kind of instance: the table of what the supervisor does with one. The parts are in
 * container_priv.h. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "image/user.h"
#include "instance/container_priv.h"
#include "instance/leftover.h"
#include "instance/spawn.h"
#include "instance/volume.h"
#include "sys/dirs.h"
#include "sys/overlay.h"
#include "sys/tree.h"
#include "sys/userns.h"

#define CONTAINER_PATH_MAX (SYS_DIR_MAX + 64)
#define CONTAINER_DEATH_MS 200 /* of one that was killed and is not frozen */

static int container_path(const struct inst_run *run, const char *name, char ret_path[CONTAINER_PATH_MAX])
{
    return snprintf(ret_path, CONTAINER_PATH_MAX, "%s/%s", run->rundir, name);
}

/* ---- prepare ---- */

static int container_make_dirs(const struct inst_run *run, struct err *e)
{
    char path[CONTAINER_PATH_MAX];
    int r = sys_dirs_make(run->dir);

    if (r == 0)
        r = sys_dirs_make(run->rundir);
    if (r < 0)
        return err_set(e, -r, "%s: cannot make its directories %s and %s: %s", run->instance->name, run->dir,
                       run->rundir, strerror(-r));
    container_path(run, "bundle", path);
    return container_dir_make(path, 0700, e);
}

/* The switch is started before our own mount namespace is made, which it would keep alive. Root makes all of the
 * network then; who is root of a user namespace only, inside it. */
static int container_enter(struct inst_run *run, struct err *e)
{
    struct container_run *c = run->kind;
    const bool net = container_net_used(&run->instance->spec.container);
    int r = 0;

    if (net && !c->rootless)
        r = container_net_up(run, &c->net, e);
    else if (net && geteuid() != 0)
        r = container_net_start(run->instance, e);
    if (r == 0)
        r = container_rootfs_unshare(e);
    if (r == 0 && net && c->rootless)
        r = container_net_up(run, &c->net, e);
    return r;
}

static int container_write_spec(const struct inst_run *run, json_object *spec, struct err *e)
{
    const char *text = json_object_to_json_string_ext(spec, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
    char path[CONTAINER_PATH_MAX];

    if (!text)
        return err_set(e, ENOMEM, "out of memory");
    container_path(run, "bundle/config.json", path);
    return container_file_write(path, text, strlen(text), e);
}

static int container_make_spec(const struct inst_run *run, int root_fd, struct err *e)
{
    const struct inst_container *c = &run->instance->spec.container;
    struct image_user user = { 0 };
    char init[INST_PROGRAM_MAX] = "";
    struct container_document d = {
        .run = run, .c = c, .state = run->kind, .user = &user, .root_fd = root_fd, .init_program = init
    };
    json_object *spec = NULL;
    int r = image_user_find(root_fd, c->user, &user, e);

    if (r == 0 && c->init)
        r = inst_find_program("caisson-init", init, e);
    if (r == 0)
        r = container_spec_make(&d, &spec, e);
    if (r == 0)
        r = container_write_spec(run, spec, e);
    json_object_put(spec);
    free(user.groups);
    return r;
}

static int container_prepare(struct inst_run *run, struct err *e)
{
    struct container_run *c = calloc(1, sizeof(*c));
    char place[CONTAINER_PATH_MAX];
    AUTO_FD int root_fd = -1;
    int r;

    if (!c)
        return err_set(e, ENOMEM, "out of memory");
    c->net.netns = c->console = c->overlay = -1;
    c->rootless = sys_userns_rootless();
    run->kind = c;
    r = container_make_dirs(run, e);
    if (r == 0)
        r = container_enter(run, e);
    container_path(run, "bundle/rootfs", place);
    if (r == 0)
        r = container_rootfs_mount(run->instance, run->dir, place, run->instance->spec.remove, &c->overlay, e);
    if (r < 0)
        return r;
    root_fd = open(place, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root_fd < 0)
        return err_set(e, errno, "%s: %s: %s", run->instance->name, place, strerror(errno));
    r = container_files_write(run, &c->net, e);
    return r == 0 ? container_make_spec(run, root_fd, e) : r;
}

/* ---- start ---- */

/* Read ends and write ends of the payload's stdio. */
struct container_pipes {
    int theirs[3], ours[3];
};

static void container_pipes_done(struct container_pipes *p)
{
    for (int i = 0; i < 3; i++) {
        base_closep(&p->theirs[i]);
        base_closep(&p->ours[i]);
    }
}

static int container_pipes_open(const struct inst_container *c, struct container_pipes *p, struct err *e)
{
    int pair[2];

    for (int i = 0; i < 3; i++) {
        if (i == 0 && !c->stdin_open) /* /dev/null */
            continue;
        if (pipe2(pair, O_CLOEXEC) < 0)
            return err_set(e, errno, "cannot make pipes: %s", strerror(errno));
        p->theirs[i] = pair[i != 0];
        p->ours[i] = pair[i == 0];
    }
    return 0;
}

/* The socket at which the runtime delivers the terminal. Its directory is named by a descriptor, since paths of sockets
 * are short. ret_path: for --console-socket. */
static int container_console_listen(const struct inst_run *run, int *dir_fd, char *ret_path, size_t size, struct err *e)
{
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    AUTO_FD int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    *dir_fd = open(run->rundir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (sock < 0 || *dir_fd < 0)
        return err_set(e, errno, "cannot make the console socket: %s", strerror(errno));
    (void)!unlinkat(*dir_fd, "console", 0);
    snprintf(sa.sun_path, sizeof(sa.sun_path), "/proc/%d/fd/%d/console", (int)getpid(), *dir_fd);
    if (bind(sock, (struct sockaddr *)&sa, sizeof(sa)) < 0 || listen(sock, 1) < 0)
        return err_set(e, errno, "cannot make the console socket: %s", strerror(errno));
    snprintf(ret_path, size, "%s", sa.sun_path);
    return STEAL_FD(sock);
}

/* The terminal that waits at the socket. */
static int container_console_take(int listen_fd, struct err *e)
{
    AUTO_FD int sock = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    char text[256];
    struct iovec iov = { text, sizeof(text) };
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
    const struct cmsghdr *c;
    int fd;

    if (sock < 0 || recvmsg(sock, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) <= 0)
        return err_set(e, errno ? errno : EIO, "caisson-oci gave no terminal");
    c = CMSG_FIRSTHDR(&m);
    if (!c || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(int)))
        return err_set(e, EBADMSG, "caisson-oci gave no terminal");
    memcpy(&fd, CMSG_DATA(c), sizeof(fd));
    return fd;
}

static int container_read_pid(const struct inst_run *run, pid_t *ret_pid, struct err *e)
{
    char path[CONTAINER_PATH_MAX];
    FILE *f;
    int pid = 0, n;

    container_path(run, "init.pid", path);
    f = fopen(path, "re");
    n = f ? fscanf(f, "%d", &pid) : 0;
    if (f)
        fclose(f);
    if (n != 1 || pid <= 1)
        return err_set(e, EIO, "%s: caisson-oci did not say its process", run->instance->name);
    *ret_pid = pid;
    return 0;
}

/* One process for both steps. console: NULL: none. */
static int container_run_oci(struct inst_run *run, const char *console, const int stdio[3], struct err *e)
{
    char bundle[CONTAINER_PATH_MAX], pid_file[CONTAINER_PATH_MAX];
    const char *args[12] = { "run", "--detach", "--bundle", bundle, "--pid-file", pid_file };
    size_t n = 6;
    int r;

    container_path(run, "bundle", bundle);
    container_path(run, "init.pid", pid_file);
    if (console) {
        args[n++] = "--console-socket";
        args[n++] = console;
    }
    args[n] = run->instance->id;
    r = container_oci_run(args, stdio, e);
    if (r < 0) {
        if (e && strncmp(e->text, "exec: ", 6) != 0)
            err_wrap(e, "%s", run->instance->name);
        return r;
    }
    r = container_read_pid(run, &run->pid, e);
    if (r == 0) {
        run->pidfd = pidfd_open(run->pid, 0);
        if (run->pidfd < 0) /* our own child, which nobody but us reaps: it is there */
            r = err_set(e, errno, "%s: pidfd_open: %s", run->instance->name, strerror(errno));
    }
    return r;
}

static int container_start_terminal(struct inst_run *run, struct inst_stdio *ret_stdio, struct err *e)
{
    struct container_run *c = run->kind;
    AUTO_FD int dir = -1, sock = -1;
    char path[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
    int r;

    sock = container_console_listen(run, &dir, path, sizeof(path), e);
    r = sock < 0 ? sock : container_run_oci(run, path, NULL, e);
    if (r < 0)
        return r;
    ret_stdio->console = container_console_take(sock, e);
    (void)!unlinkat(dir, "console", 0);
    if (ret_stdio->console < 0)
        return ret_stdio->console;
    c->console = fcntl(ret_stdio->console, F_DUPFD_CLOEXEC, 0);
    return 0;
}

static int container_start(struct inst_run *run, struct inst_stdio *ret_stdio, struct err *e)
{
    const struct inst_container *c = &run->instance->spec.container;
    struct container_pipes p = { { -1, -1, -1 }, { -1, -1, -1 } };
    int r;

    *ret_stdio = (struct inst_stdio){ -1, -1, -1, -1 };
    if (c->terminal)
        return container_start_terminal(run, ret_stdio, e);
    r = container_pipes_open(c, &p, e);
    if (r == 0)
        r = container_run_oci(run, NULL, p.theirs, e);
    if (r == 0) {
        ret_stdio->in = STEAL_FD(p.ours[0]);
        ret_stdio->out = STEAL_FD(p.ours[1]);
        ret_stdio->err = STEAL_FD(p.ours[2]);
    }
    container_pipes_done(&p);
    return r;
}

/* ---- while it runs ---- */

/* Somebody else may have frozen its cgroup, and then SIGKILL waits, too (cgroup v1). */
static void container_thaw(const struct inst_run *run)
{
    const char *args[] = { "resume", run->instance->id, NULL };
    struct pollfd ended = { .fd = run->pidfd, .events = POLLIN };
    struct err ignored = { 0 };

    if (poll(&ended, 1, CONTAINER_DEATH_MS) == 0)
        (void)!container_oci_run(args, NULL, &ignored);
}

static int container_kill(struct inst_run *run, int signal, struct err *e)
{
    if (run->pidfd < 0)
        return err_set(e, ESRCH, "%s does not run", run->instance->name);
    if (pidfd_send_signal(run->pidfd, signal, NULL, 0) < 0)
        return err_set(e, errno, "%s: cannot be signalled: %s", run->instance->name, strerror(errno));
    if (signal == SIGKILL)
        container_thaw(run);
    return 0;
}

static int container_stop(struct inst_run *run, struct err *e)
{
    return container_kill(run, run->instance->spec.stop_signal, e);
}

static int container_pause(struct inst_run *run, bool pause, struct err *e)
{
    const char *args[] = { pause ? "pause" : "resume", run->instance->id, NULL };
    struct err ignored = { 0 };
    int r = container_oci_run(args, NULL, e);

    if (r == 0)
        return 0;
    args[0] = pause ? "resume" : "pause"; /* a runtime that was killed may have done it, or half of it */
    (void)!container_oci_run(args, NULL, &ignored);
    return err_wrap(e, "%s", run->instance->name);
}

static int container_exec(struct inst_run *run, const struct inst_strings *command, pid_t *ret_pid, struct err *e)
{
    AUTO_FREE const char **args = calloc(command->n + 3, sizeof(*args));

    if (!args)
        return err_set(e, ENOMEM, "out of memory");
    args[0] = "exec";
    args[1] = run->instance->id;
    for (size_t i = 0; i < command->n; i++)
        args[i + 2] = command->at[i];
    return container_oci_spawn(args, ret_pid, e);
}

/* The command is no process of the runtime's pid namespace, but its child: when that is killed, the supervisor, which
 * adopts orphans, becomes the parent. Those of the container are the run itself and commands that were left. */
static void container_exec_killed(const struct inst_run *run)
{
    AUTO_FREE pid_t *pids = NULL;
    size_t n = 0;

    if (container_pids(run->pid, &pids, &n) < 0)
        return; /* the next one that is killed tries again, and the end of the run ends all */
    for (size_t i = 0; i < n; i++) {
        struct inst_process_stats p;

        /* A child that is not reaped keeps its number. */
        if (pids[i] != run->pid && inst_process_stats(pids[i], &p) == 0 && p.parent == getpid())
            kill(pids[i], SIGKILL);
    }
}

static int container_resize(struct inst_run *run, unsigned columns, unsigned rows)
{
    const struct container_run *c = run->kind;
    struct winsize size = { .ws_row = (unsigned short)rows, .ws_col = (unsigned short)columns };

    if (!c || c->console < 0)
        return -ENOTTY;
    return ioctl(c->console, TIOCSWINSZ, &size) < 0 ? -errno : 0;
}

static int container_ended(struct inst_run *run, int wait_status, bool *ret_oom)
{
    *ret_oom = container_oom(run->instance) > 0;
    return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}

/* ---- the end ---- */

/* Whether the runtime knows the container. */
static bool container_is_known(const struct inst_run *run)
{
    char root[SYS_DIR_MAX + 8], path[SYS_DIR_MAX + INST_ID_LEN + 16];

    if (container_oci_root(root, sizeof(root), NULL) < 0)
        return false;
    snprintf(path, sizeof(path), "%s/%s", root, run->instance->id);
    return access(path, F_OK) == 0;
}

static int container_delete(const struct inst_run *run, struct err *e)
{
    const char *args[] = { "delete", "--force", run->instance->id, NULL };
    struct err killed = { 0 };

    /* A runtime that was killed is called again: nobody comes by later where the row says that the run has ended. */
    if (!container_is_known(run) || container_oci_run(args, NULL, &killed) == 0)
        return 0;
    return container_is_known(run) ? container_oci_run(args, NULL, e) : 0;
}

/* The container's first process as the runtime knows it; 0: it does not. */
static pid_t container_known_pid(const struct inst_run *run)
{
    char root[SYS_DIR_MAX + 8], path[SYS_DIR_MAX + INST_ID_LEN + 32];
    json_object *o, *pid = NULL;
    pid_t found = 0;

    if (container_oci_root(root, sizeof(root), NULL) < 0)
        return 0;
    snprintf(path, sizeof(path), "%s/%s/state.json", root, run->instance->id);
    o = json_object_from_file(path);
    if (json_object_is_type(o, json_type_object) && json_object_object_get_ex(o, "pid", &pid))
        found = json_object_get_int(pid);
    json_object_put(o);
    return found;
}

/* In a child: as root of the user namespace of what is left of the container, or of one like it. The child says what
 * went wrong by its exit status. */
static int container_in_userns(const struct inst_run *run, int (*fn)(const struct inst_run *run, struct err *e),
                               struct err *e)
{
    pid_t pid;
    int status = 0;

    if (geteuid() == 0)
        return fn(run, e);
    pid = fork();
    if (pid == 0) {
        const pid_t init = container_known_pid(run);
        struct err own = { 0 };
        int r = init > 1 ? sys_userns_join(init, false) : -ESRCH;

        if (r < 0)
            r = sys_userns_enter();
        _exit(r < 0 || fn(run, &own) < 0 ? 1 : 0);
    }
    if (pid < 0)
        return err_set(e, errno, "fork: %s", strerror(errno));
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0
               ? 0
               : err_set(e, EIO, "%s: what is left of its run cannot be removed; try again as root",
                         run->instance->name);
}

static int container_cleanup(struct inst_run *run, struct err *e)
{
    static const char *const files[] = { "bundle/config.json", "bundle/rootfs", "bundle", "hosts",  "resolv.conf",
                                         "hostname",           "init.pid",      "ip",     "console" };
    struct container_run *c = run->kind;
    char path[CONTAINER_PATH_MAX];
    int r = container_in_userns(run, container_delete, e);

    if (c) {
        base_closep(&c->net.netns);
        base_closep(&c->console);
        c->net.netns = c->console = -1;
    }
    container_net_down(run);
    container_path(run, "bundle/rootfs", path);
    container_rootfs_umount(path);
    if (c) {
        sys_overlay_fuse_end(c->overlay); /* before the next run mounts the same folders */
        c->overlay = -1;
    }
    for (size_t i = 0; i < ARRAY_SIZE(files) && r == 0; i++) { /* else they say who is left */
        container_path(run, files[i], path);
        if (unlink(path) < 0 && (errno == EISDIR || errno == EPERM))
            (void)!rmdir(path);
    }
    return r;
}

static void container_release(struct inst_run *run)
{
    struct container_run *c = run->kind;

    if (!c)
        return;
    base_closep(&c->net.netns);
    base_closep(&c->console);
    free(c);
    run->kind = NULL;
}

static int container_remove_files(const struct inst_run *run, struct err *e)
{
    static const char *const dirs[] = { "work", "upper" };
    char path[CONTAINER_PATH_MAX];
    int r;

    for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
        snprintf(path, sizeof(path), "%s/%s", run->dir, dirs[i]);
        r = sys_tree_remove(path);
        if (r < 0)
            return err_set(e, -r, "%s: cannot remove %s: %s", run->instance->name, path, strerror(-r));
    }
    return inst_volume_remove_of(run->instance->id, e);
}

static int container_destroy(struct inst_run *run, struct err *e)
{
    return container_in_userns(run, container_remove_files, e);
}

const struct inst_kind_ops inst_container_ops = {
    .prepare = container_prepare,
    .start = container_start,
    .stop = container_stop,
    .kill = container_kill,
    .pause = container_pause,
    .exec = container_exec,
    .exec_killed = container_exec_killed,
    .resize = container_resize,
    .stats = container_stats,
    .update = container_update,
    .ended = container_ended,
    .cleanup = container_cleanup,
    .release = container_release,
    .destroy = container_destroy,
};
