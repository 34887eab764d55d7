#include "cli/vm_agent.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cli/instance.h"
#include "instance/client.h"
#include "instance/container_root.h"
#include "instance/container_tar.h"
#include "instance/place.h"
#include "instance/vm_client.h"
#include "proto/agent_client.h"
#include "sys/signals.h"
#include "sys/tree.h"
#include "sys/tree_copy.h"

#define AGENT_WAIT_MS 120000
#define AGENT_SMALL_MS 120000 /* for a small program in a slow guest */
#define AGENT_SILENT_MS 3000  /* of waiting, without a word to the user */

static int agent_open(const struct store_instance *i, int wait_ms, int *ret_fd, struct err *e)
{
    char dir[INST_PATH_MAX], path[INST_PATH_MAX + PROTO_NAME_MAX + 8];
    struct inst_info info;
    int r = inst_ask(i, &info, e);

    if (r == 0 && !info.alive)
        return err_set(e, ENOTCONN, "VM %s does not run; start it: caisson start %s", i->name, i->name);
    if (r == 0 && strcmp(info.status, "paused") == 0)
        return err_set(e, ENOTCONN, "VM %s is paused; resume it: caisson resume %s", i->name, i->name);
    if (r == 0)
        r = inst_vm_run_dir(dir, sizeof(dir), e);
    if (r < 0)
        return r;
    snprintf(path, sizeof(path), "%s/%s.vsock", dir, i->name);
    r = agent_connect(path, i->name, MIN(wait_ms, AGENT_SILENT_MS), ret_fd, e);
    if (r != -ETIMEDOUT || wait_ms <= AGENT_SILENT_MS)
        return r;
    fprintf(stderr, "caisson: waiting for the agent of VM %s, %d s at most\n", i->name, wait_ms / 1000);
    return agent_connect(path, i->name, wait_ms - AGENT_SILENT_MS, ret_fd, e);
}

int cli_vm_agent_wait(const struct cli_args *args, int *ret_ms, struct err *e)
{
    uint64_t ns = AGENT_WAIT_MS * 1000000ULL;
    int r = cli_duration_option(args, "timeout", &ns, NULL, e);

    if (r == 0)
        *ret_ms = (int)MIN(ns / 1000000, (uint64_t)INT_MAX);
    return r;
}

/* ---- exec ---- */

static int agent_signals(void)
{
    static const int passed[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH };

    return sys_signals_open(passed, ARRAY_SIZE(passed));
}

int cli_vm_exec(const struct store_instance *i, const struct inst_exec *x, int wait_ms, int *ret_status, struct err *e)
{
    AUTO_FREE char **argv = calloc((size_t)x->n_command + 1, sizeof(*argv));
    AUTO_FREE char **env = calloc(x->env.n + 1, sizeof(*env));
    struct agent_request q = { .op = AGENT_EXEC,
                               .cwd = (char *)x->cwd,
                               .user = (char *)x->user,
                               .tty = x->terminal && !x->detach,
                               .stdin_open = x->in,
                               .detach = x->detach };
    AUTO_FD int fd = -1, signals = -1;
    struct termios saved, raw;
    struct winsize size;
    bool is_raw = false;
    int r;

    if (x->privileged)
        return err_set(e, EOPNOTSUPP, "--privileged: a command in a VM is root already; leave it away");
    if (!argv || !env)
        return err_set(e, ENOMEM, "out of memory");
    memcpy(argv, x->command, (size_t)x->n_command * sizeof(*argv));
    if (x->env.n)
        memcpy(env, x->env.at, x->env.n * sizeof(*env));
    q.argv = argv;
    q.env = env;
    if (q.tty && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0) {
        q.rows = size.ws_row;
        q.cols = size.ws_col;
    }
    r = agent_open(i, wait_ms, &fd, e);
    if (r < 0)
        return r;
    *ret_status = 0;
    if (q.detach)
        return agent_call(fd, &q, wait_ms, NULL, e);
    signals = agent_signals();
    if (q.tty && q.stdin_open && tcgetattr(STDIN_FILENO, &saved) == 0) {
        raw = saved;
        cfmakeraw(&raw);
        is_raw = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
    }
    r = agent_exec(fd, &q,
                   &(struct agent_io){ .in = q.stdin_open ? STDIN_FILENO : -1,
                                       .out = STDOUT_FILENO,
                                       .err = STDERR_FILENO,
                                       .signals = signals,
                                       .terminal = q.tty ? STDOUT_FILENO : -1 },
                   -1, ret_status, e);
    if (is_raw)
        tcsetattr(STDIN_FILENO, TCSANOW, &saved);
    return r;
}

/* ---- cp ---- */

/* Whether path is a folder in the guest. */
static int agent_is_dir(const struct cli_vm_copy *c, const char *path, bool *ret_is, struct err *e)
{
    char *argv[] = { (char *)"test", (char *)"-d", (char *)path, NULL };
    struct agent_request q = { .op = AGENT_EXEC, .argv = argv };
    const struct agent_io io = { .in = -1, .out = -1, .err = -1, .signals = -1, .terminal = -1 };
    AUTO_FD int fd = -1;
    int status = 0, r = agent_open(c->instance, c->wait_ms, &fd, e);

    if (r == 0)
        r = agent_exec(fd, &q, &io, AGENT_SMALL_MS, &status, e);
    *ret_is = r == 0 && status == 0;
    return r;
}

/* An archive on its way through a pipe: one thread at our files, the caller at the guest. */
struct agent_pipe {
    int fd;           /* our files' end */
    int dir;          /* where they are */
    const char *name; /* the one thing that is copied; ".": what the folder holds */
    bool in;
    int result;
    struct err e;
};

static void *agent_pipe_run(void *opaque)
{
    struct agent_pipe *p = opaque;
    const struct sys_tree_owner owner = { geteuid(), getegid() };
    const struct inst_tar_take take = { .owner = &owner,
                                        .only = strcmp(p->name, ".") == 0 ? NULL : p->name,
                                        .guest = true };

    p->result = p->in ? inst_tar_create(p->fd, p->dir, p->name, &p->e) : inst_tar_extract(p->fd, p->dir, &take, &p->e);
    base_closep(&p->fd);
    return NULL;
}

/* Whether the error of our end (that of the guest's: guest_r) is the cause: not where it follows from the guest's. */
static bool agent_pipe_ours(const struct agent_pipe *p, int guest_r)
{
    if (p->result >= 0 || p->result == -EPIPE)
        return false;
    return p->in || guest_r == 0 || guest_r == -EPIPE;
}

/* Both ends at work. */
static int agent_pipe_both(const struct cli_vm_copy *c, struct agent_pipe *p, const char *guest, struct err *e)
{
    int ends[2], r, fd = -1;
    pthread_t thread;

    if (pipe2(ends, O_CLOEXEC) < 0)
        return err_set(e, errno, "cannot make a pipe: %s", strerror(errno));
    p->fd = ends[p->in ? 1 : 0];
    r = agent_open(c->instance, c->wait_ms, &fd, e);
    if (r == 0 && pthread_create(&thread, NULL, agent_pipe_run, p) != 0)
        r = err_set(e, EAGAIN, "cannot start a thread");
    if (r < 0) {
        close(ends[0]);
        close(ends[1]);
        base_closep(&fd);
        return r;
    }
    r = p->in ? agent_put(fd, guest, NULL, ends[0], e) : agent_get(fd, guest, NULL, ends[1], e);
    close(ends[p->in ? 0 : 1]);
    close(fd);
    pthread_join(thread, NULL);
    if (agent_pipe_ours(p, r)) {
        *e = p->e;
        r = p->result;
    }
    return r;
}

/* The folder that holds path, and its last part. */
static int agent_split(const char *path, int *ret_dir, char ret_name[NAME_MAX + 1], struct err *e)
{
    AUTO_FREE char *copy = strdup(path);
    char *slash;
    size_t len = strlen(path);

    if (!copy)
        return err_set(e, ENOMEM, "out of memory");
    while (len > 1 && copy[len - 1] == '/')
        copy[--len] = '\0';
    slash = strrchr(copy, '/');
    if (snprintf(ret_name, NAME_MAX + 1, "%s", slash ? slash + 1 : copy) > NAME_MAX)
        return err_set(e, ENAMETOOLONG, "%s: its name is too long", path);
    if (slash)
        slash[slash == copy] = '\0';
    *ret_dir = open(slash ? copy : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *ret_dir < 0 ? err_set(e, errno, "%s: %s", path, strerror(errno)) : 0;
}

/* Run a small program in the guest; what it says against it goes to stderr. */
static int agent_run(const struct cli_vm_copy *c, char *const *argv, const char *path, struct err *e)
{
    struct agent_request q = { .op = AGENT_EXEC, .argv = (char **)argv };
    const struct agent_io io = { .in = -1, .out = -1, .err = STDERR_FILENO, .signals = -1, .terminal = -1 };
    AUTO_FD int fd = -1;
    int status = 0, r = agent_open(c->instance, c->wait_ms, &fd, e);

    if (r == 0)
        r = agent_exec(fd, &q, &io, AGENT_SMALL_MS, &status, e);
    return r < 0 || status == 0 ? r : err_set(e, EIO, "%s:%s: cannot be written; see above", c->instance->name, path);
}

/* The archive brings its own name, which may be another's in that folder: it goes by way of a folder of its own, which
 * becomes the target where it is a folder's content that is copied. */
static int agent_put_as(const struct cli_vm_copy *c, struct agent_pipe *p, const char *parent, const char *to,
                        struct err *e)
{
    char stage[PATH_MAX], from[PATH_MAX + NAME_MAX + 2];
    const bool content = strcmp(p->name, ".") == 0;
    struct err undo = { 0 };
    int r;

    snprintf(stage, sizeof(stage), "%s/.caisson-cp-%d-%lx", parent, (int)getpid(), (unsigned long)time(NULL));
    snprintf(from, sizeof(from), "%s%s%s", stage, content ? "" : "/", content ? "" : p->name);
    r = agent_run(c, (char *const[]){ (char *)"mkdir", (char *)"--", stage, NULL }, to, e);
    if (r < 0)
        return r;
    r = agent_pipe_both(c, p, stage, e);
    if (r == 0)
        r = agent_run(c, (char *const[]){ (char *)"mv", (char *)"-fT", (char *)"--", from, (char *)to, NULL }, to, e);
    if (agent_run(c, (char *const[]){ (char *)"rm", (char *)"-rf", (char *)"--", stage, NULL }, stage, &undo) < 0 &&
        r == 0) {
        *e = undo;
        r = -undo.code;
    }
    return r;
}

/* The folder that holds the source, and its name there, "." where it is what a folder holds. */
static int agent_source(const struct cli_vm_copy *c, int *ret_dir, char ret_name[NAME_MAX + 1], struct err *e)
{
    AUTO_FREE char *real = NULL;
    int up, r = agent_split(c->host, ret_dir, ret_name, e);

    if (r < 0 || strcmp(ret_name, ".") == 0)
        return r;
    if (!ret_name[0] || strcmp(ret_name, "..") == 0) { /* "/" */
        up = ret_name[0] ? openat(*ret_dir, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : dup(*ret_dir);
        base_closep(ret_dir);
        *ret_dir = up;
        memcpy(ret_name, ".", 2);
        return up < 0 ? err_set(e, errno, "%s: %s", c->host, strerror(errno)) : 0;
    }
    real = c->follow ? realpath(c->host, NULL) : NULL;
    if (!real)
        return 0;
    base_closep(ret_dir);
    *ret_dir = -1;
    return agent_split(real, ret_dir, ret_name, e);
}

static int agent_cp_in(const struct cli_vm_copy *c, struct err *e)
{
    struct agent_pipe p = { .in = true, .dir = -1 };
    char name[NAME_MAX + 1];
    AUTO_FREE char *parent = strdup(c->guest);
    AUTO_FD int dir = -1;
    struct stat st;
    char *slash;
    bool is_dir;
    int r = agent_source(c, &dir, name, e);

    if (r == 0 && !parent)
        r = err_set(e, ENOMEM, "out of memory");
    if (r == 0 && fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        r = err_set(e, errno, "%s: %s", c->host, strerror(errno));
    if (r == 0)
        r = agent_is_dir(c, c->guest, &is_dir, e);
    if (r < 0)
        return r;
    p.dir = dir;
    p.name = name;
    if (is_dir)
        return agent_pipe_both(c, &p, c->guest, e);
    for (size_t len = strlen(parent); len > 1 && parent[len - 1] == '/';)
        parent[--len] = '\0';
    slash = strrchr(parent, '/');
    if (!slash || parent[0] != '/')
        return err_set(e, EINVAL, "%s:%s: give an absolute path in the VM", c->instance->name, c->guest);
    slash[slash == parent] = '\0';
    return agent_put_as(c, &p, parent, c->guest, e);
}

/* Likewise on this side. */
static int agent_get_as(const struct cli_vm_copy *c, struct agent_pipe *p, int parent, const char *name, struct err *e)
{
    const bool content = strcmp(p->name, ".") == 0;
    char stage[64], path[128];
    int r;

    snprintf(stage, sizeof(stage), ".caisson-cp-%d", (int)getpid());
    if (mkdirat(parent, stage, content ? 0755 : 0700) < 0)
        return err_set(e, errno, "%s: %s", c->host, strerror(errno));
    p->dir = openat(parent, stage, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    r = p->dir < 0 ? err_set(e, errno, "%s: %s", c->host, strerror(errno)) : agent_pipe_both(c, p, c->guest, e);
    if (r == 0 && renameat(content ? parent : p->dir, content ? stage : p->name, parent, name) < 0)
        r = err_set(e, errno, "%s: %s", c->host, strerror(errno));
    base_closep(&p->dir);
    snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", parent, stage);
    if (r == 0 && content)
        return 0;
    if (sys_tree_remove(path) < 0 && r == 0)
        r = err_set(e, EIO, "%s: cannot remove %s beside it", c->host, stage);
    return r;
}

static int agent_cp_out(const struct cli_vm_copy *c, struct err *e)
{
    struct agent_pipe p = { .in = false, .dir = -1 };
    char name[NAME_MAX + 1];
    const char *last = strrchr(c->guest, '/');
    AUTO_FD int dir = open(c->host, O_RDONLY | O_DIRECTORY | O_CLOEXEC), parent = -1;
    int r;

    if (!last || !last[1] || strcmp(last + 1, "..") == 0)
        return err_set(e, EINVAL, "%s:%s: give the absolute path of a file or folder", c->instance->name, c->guest);
    p.name = last + 1;
    if (dir >= 0) {
        p.dir = dir;
        return agent_pipe_both(c, &p, c->guest, e);
    }
    r = agent_split(c->host, &parent, name, e);
    return r < 0 ? r : agent_get_as(c, &p, parent, name, e);
}

int cli_vm_cp(const struct cli_vm_copy *c, struct err *e)
{
    AUTO_FD int fd = -1;
    int r;

    if (strcmp(c->host, "-") != 0) {
        /* Either end of the pipe may end first, and says why by its error. */
        (void)sigaction(SIGPIPE, &(struct sigaction){ .sa_handler = SIG_IGN }, NULL);
        return c->in ? agent_cp_in(c, e) : agent_cp_out(c, e);
    }
    r = agent_open(c->instance, c->wait_ms, &fd, e);
    if (r < 0)
        return r;
    return c->in ? agent_put(fd, c->guest, NULL, STDIN_FILENO, e) : agent_get(fd, c->guest, NULL, STDOUT_FILENO, e);
}
