/* `exec`: another process in a container that is there. It joins the namespaces of the first process through one pidfd,
 * so that no path and no pid can be exchanged meanwhile. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "oci/bundle.h"
#include "oci/console.h"
#include "oci/container.h"
#include "oci/create.h"
#include "oci/init.h"
#include "oci/main.h"
#include "oci/ns.h"
#include "oci/path.h"
#include "oci/process_attr.h"
#include "oci/protect.h"
#include "oci/sync.h"
#include "oci/wait.h"

#define EXEC_GROUPS_MAX 1024

struct oci_exec {
    const struct oci_args *args;
    struct oci_state *state;
    struct oci_spec *spec;      /* the container's */
    struct oci_spec *document;  /* of --process; NULL */
    struct oci_process process; /* what is run; borrows from both */
    const char **env;           /* where options add to it */
    gid_t groups[EXEC_GROUPS_MAX];
    struct oci_launch launch;
    int pidfd, root_fd;
    pid_t pid;
};

/* ---- the process ---- */

static int exec_user(struct oci_process *p, const char *text, struct err *e)
{
    char uid_text[16] = "";
    const size_t len = strcspn(text, ":");
    uint64_t uid = 0, gid = 0;
    int r = len > 0 && len < sizeof(uid_text) ? 0 : -EINVAL;

    if (r == 0) {
        memcpy(uid_text, text, len);
        r = num_parse_u64(uid_text, 0, UINT32_MAX - 1, &uid);
    }
    if (r == 0 && text[len])
        r = num_parse_u64(text + len + 1, 0, UINT32_MAX - 1, &gid);
    if (r < 0)
        return err_set(e, EINVAL, "--user %s: must be UID or UID:GID, as numbers", text);
    p->uid = (uint32_t)uid;
    p->gid = (uint32_t)gid;
    return 0;
}

static int exec_groups(struct oci_exec *x, struct err *e)
{
    const char *text;
    uint64_t gid;
    size_t n = 0;

    for (int at = 0; (text = oci_opt_next(x->args, OCI_OPT_ADDITIONAL_GIDS, &at));) {
        if (n == EXEC_GROUPS_MAX || num_parse_u64(text, 0, UINT32_MAX - 1, &gid) < 0)
            return err_set(e, EINVAL, "--additional-gids %s: must be a number", text);
        x->groups[n++] = (gid_t)gid;
    }
    if (n > 0) {
        x->process.additional_gids = x->groups;
        x->process.n_additional_gids = n;
    }
    return 0;
}

static int exec_caps(struct oci_exec *x, struct err *e)
{
    const char *name;

    for (int at = 0; (name = oci_opt_next(x->args, OCI_OPT_CAP, &at));) {
        const int cap = oci_cap_number(name);

        if (cap < 0)
            return err_set(e, EINVAL, "--cap %s: is no capability that is known", name);
        x->process.capabilities_present = true;
        for (unsigned set = 0; set < OCI_CAP_SETS; set++) {
            /* As runc: inheritable ones are left alone, ambient ones follow them. */
            if (set != OCI_CAP_INHERITABLE && set != OCI_CAP_AMBIENT)
                x->process.capabilities[set] |= BIT64(cap);
        }
    }
    return 0;
}

static int exec_env(struct oci_exec *x, struct err *e)
{
    struct oci_strings *env = &x->process.env;
    const size_t room = env->n + (size_t)x->args->n_words + 1;
    size_t n = 0;
    const char *text;

    if (!x->args->value[OCI_OPT_ENV])
        return 0;
    x->env = calloc(room, sizeof(*x->env));
    if (!x->env)
        return err_set(e, ENOMEM, "out of memory");
    for (; n < env->n; n++)
        x->env[n] = env->v[n];
    for (int at = 0; (text = oci_opt_next(x->args, OCI_OPT_ENV, &at)) && n + 1 < room;) {
        const size_t name = strcspn(text, "=");
        size_t same = 0;

        if (name == 0)
            return err_set(e, EINVAL, "--env %s: must be NAME=VALUE", text);
        /* The last word counts. */
        while (same < n && (strncmp(x->env[same], text, name) != 0 || x->env[same][name] != '='))
            same++;
        x->env[same] = text;
        n += same == n;
    }
    *env = (struct oci_strings){ .v = x->env, .n = n };
    return 0;
}

/* The container's own process, changed by options, with the command of the command line. */
static int exec_options(struct oci_exec *x, struct err *e)
{
    const struct oci_args *a = x->args;
    struct oci_process *p = &x->process;
    int r = 0;

    *p = x->spec->process;
    if (a->argc < 2)
        return err_set(e, EINVAL, "exec: a command is missing: give one, or --process");
    p->args = (struct oci_strings){ .v = (const char **)a->argv + 1, .n = (size_t)a->argc - 1 };
    p->terminal = oci_flag(a, OCI_OPT_TTY);
    p->no_new_privileges |= oci_flag(a, OCI_OPT_NO_NEW_PRIVS);
    if (a->value[OCI_OPT_CWD])
        p->cwd = a->value[OCI_OPT_CWD];
    if (p->cwd[0] != '/')
        return err_set(e, EINVAL, "--cwd %s: must be an absolute path", p->cwd);
    if (a->value[OCI_OPT_APPARMOR])
        p->apparmor_profile = a->value[OCI_OPT_APPARMOR];
    if (a->value[OCI_OPT_PROCESS_LABEL])
        p->selinux_label = a->value[OCI_OPT_PROCESS_LABEL];
    if (a->value[OCI_OPT_USER])
        r = exec_user(p, a->value[OCI_OPT_USER], e);
    if (r == 0)
        r = exec_groups(x, e);
    if (r == 0)
        r = exec_caps(x, e);
    return r == 0 ? exec_env(x, e) : r;
}

static int exec_process(struct oci_exec *x, struct err *e)
{
    const char *path = x->args->value[OCI_OPT_PROCESS];
    const bool detached = oci_flag(x->args, OCI_OPT_DETACH), socket = x->args->value[OCI_OPT_CONSOLE_SOCKET] != NULL;
    int r;

    if (!path) {
        r = exec_options(x, e);
    } else {
        r = oci_document_read(AT_FDCWD, path, oci_spec_parse_process, &x->document, NULL, NULL, e);
        if (r == 0) {
            x->process = x->document->process;
            x->process.terminal |= oci_flag(x->args, OCI_OPT_TTY);
        }
    }
    if (r < 0)
        return r;
    if (x->process.terminal && detached && !socket)
        return err_set(e, EINVAL, "cannot allocate a terminal that nobody holds: give --console-socket");
    if (socket && (!x->process.terminal || !detached))
        return err_set(e, EINVAL, "--console-socket: only for a process with a terminal and --detach");
    return 0;
}

/* ---- the container ---- */

static int exec_open(struct oci_exec *x, struct err *e)
{
    enum oci_status status;
    int r = oci_state_open(x->args, x->args->argv[0], &x->state, e);

    if (r < 0)
        return r;
    status = oci_container_status(x->state);
    if (status == OCI_STOPPED || status == OCI_CREATING)
        return err_set(e, EINVAL, "cannot exec in a container that is %s: %s", oci_status_name(status), x->state->id);
    if (status == OCI_PAUSED && !oci_flag(x->args, OCI_OPT_IGNORE_PAUSED))
        return err_set(e, EINVAL, "cannot exec in a paused container: %s: resume it, or use --ignore-paused",
                       x->state->id);
    x->pidfd = oci_container_pidfd(x->state);
    if (x->pidfd < 0)
        return err_set(e, -x->pidfd, "container %s has ended", x->state->id);
    return oci_state_spec(x->state, &x->spec, e);
}

static int exec_launch(struct oci_exec *x, struct err *e)
{
    struct oci_launch *l = &x->launch;
    int r = oci_preserve_fds(x->args, l, e);

    l->spec = x->spec;
    l->process = &x->process;
    l->id = x->state->id;
    l->bundle = x->state->bundle;
    l->no_keyring = true;
    l->state_fd[0] = x->state->root_fd;
    l->state_fd[1] = x->state->dir_fd;
    if (r == 0)
        r = oci_state_cgroup(x->state, &l->cgroup, e);
    if (r == 0)
        r = oci_console_prepare(l, x->args, e);
    if (r < 0)
        return r;
    l->proc_fd = oci_path_proc(e);
    if (l->proc_fd < 0)
        return l->proc_fd;
    r = oci_sync_pair(l->sync_fd);
    if (r < 0)
        return err_set(e, -r, "socket pair: %s", strerrordesc_np(-r));
    if (x->spec->seccomp.present)
        r = oci_seccomp_compile_cached(&x->spec->seccomp, x->state->root_fd, &l->bpf, e);
    if (r == 0 && l->bpf.notify) {
        l->notify_fd = oci_seccomp_notify_connect(&x->spec->seccomp, e);
        r = MIN(l->notify_fd, 0);
    }
    return r;
}

static bool exec_has(const struct oci_exec *x, enum oci_ns ns)
{
    return x->state->namespaces & (1u << ns);
}

/* A user's runtime has rights on the pid namespace in the container's user namespace only. */
static bool exec_needs_two_steps(const struct oci_exec *x)
{
    return exec_has(x, OCI_NS_USER) && exec_has(x, OCI_NS_PID) && geteuid() != 0;
}

/* The child has joined the pid namespace for its own children: one of them, which is the runtime's child as well, goes
 * on. */
static int exec_step_two(struct oci_exec *x, struct err *e)
{
    const int fd = x->launch.sync_fd[1];
    pid_t pid = oci_clone(CLONE_PARENT, -1);

    if (pid == 0)
        return 0;
    if (pid < 0)
        return err_set(e, -pid, "container %s: no process can be made in it: %s", x->state->id, strerrordesc_np(-pid));
    _exit(oci_sync_send(fd, OCI_SYNC_PID, pid) < 0);
}

/* Child: into the namespaces and the root of the container. The kernel takes the user namespace first; from then on its
 * root could look at the descriptors, which lead to the host. */
static int exec_join(struct oci_exec *x, struct err *e)
{
    const bool two_steps = exec_needs_two_steps(x);
    int flags = 0, r = oci_protect_hide(e);

    if (r < 0)
        return r;
    for (unsigned i = 0; i < OCI_NS_KINDS; i++)
        flags |= exec_has(x, i) && (i != OCI_NS_PID || two_steps) ? oci_ns_flag(i) : 0;
    if (flags && setns(x->pidfd, flags) < 0)
        return err_set(e, errno, "container %s: its namespaces cannot be joined: %m", x->state->id);
    r = two_steps ? exec_step_two(x, e) : 0;
    if (r < 0)
        return r;
    if (exec_has(x, OCI_NS_USER) && (setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0))
        return err_set(e, errno, "user namespace: cannot become its root: %m");
    /* With a mount namespace of its own the container's root is that of the namespace. */
    if (x->root_fd >= 0 && (fchdir(x->root_fd) < 0 || chroot(".") < 0))
        return err_set(e, errno, "container %s: its root cannot be entered: %m", x->state->id);
    return 0;
}

static _Noreturn void exec_child(struct oci_exec *x)
{
    struct oci_launch *l = &x->launch;
    struct err e = { 0 };
    int r;

    /* Else the end of the runtime would not be seen: a copy of its side is here. */
    close(l->sync_fd[0]);
    l->sync_fd[0] = -1;
    r = oci_sync_wait(l->sync_fd[1], OCI_SYNC_GO, NULL, &e);
    /* While the process is as privileged as the runtime is. */
    if (r == 0)
        r = oci_process_apply_early(&x->process, true, l->proc_fd, &e);
    if (r == 0)
        r = oci_process_affinity(&x->process, true, 0, &e);
    if (r == 0)
        r = exec_join(x, &e);
    if (r == 0)
        oci_init_exec(l);
    oci_sync_send_error(l->sync_fd[1], &e);
    _exit(1);
}

/* The pid namespace is the parent's business: it takes effect for children only, and is taken back. */
static int exec_clone(struct oci_exec *x, struct err *e)
{
    struct oci_launch *l = &x->launch;
    const int cgroup_fd = l->cgroup ? oci_cgroup_clone_fd(l->cgroup) : -1;
    AUTO_FD int own_pid = -1;
    pid_t pid;

    if (!exec_has(x, OCI_NS_MOUNT) || x->spec->ns[OCI_NS_MOUNT].path) {
        x->root_fd = open(x->state->rootfs, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (x->root_fd < 0)
            return err_set(e, errno, "container %s: root %s: %m", x->state->id, x->state->rootfs);
    }
    if (exec_has(x, OCI_NS_PID) && !exec_needs_two_steps(x)) {
        own_pid = openat(l->proc_fd, "self/ns/pid", O_RDONLY | O_CLOEXEC);
        if (own_pid < 0 || setns(x->pidfd, CLONE_NEWPID) < 0)
            return err_set(e, errno, "container %s: its pid namespace cannot be joined: %m", x->state->id);
    }
    pid = oci_clone(0, cgroup_fd);
    if (pid == 0)
        exec_child(x);
    if (pid < 0)
        return err_set(e, -pid, "container %s: no process can be made in it: %s", x->state->id, strerrordesc_np(-pid));
    x->pid = pid;
    close(l->sync_fd[1]);
    l->sync_fd[1] = -1;
    /* Root of a user namespace came in without the right to go back; no other child is made. */
    if (own_pid >= 0 && setns(own_pid, CLONE_NEWPID) < 0 && errno != EPERM)
        return err_set(e, errno, "cannot return to the own pid namespace: %m");
    return 0;
}

/* The process that counts, where the one that was cloned has made it. */
static int exec_take_pid(struct oci_exec *x, struct err *e)
{
    int64_t pid;
    int r = oci_sync_wait(x->launch.sync_fd[0], OCI_SYNC_PID, &pid, e);

    if (r < 0)
        return r;
    while (waitpid(x->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    x->pid = (pid_t)pid;
    return 0;
}

/* --cgroup [CONTROLLER[,CONTROLLER...]:]PATH, often. */
static int exec_cgroup(struct oci_exec *x, struct err *e)
{
    struct oci_cgroup *g = x->launch.cgroup;
    const char *text;
    int r = g ? oci_cgroup_enter(g, x->pid, oci_cgroup_clone_fd(g) >= 0, e) : 0;

    for (int at = 0; r == 0 && g && (text = oci_opt_next(x->args, OCI_OPT_CGROUP, &at));) {
        const char *colon = strchr(text, ':');
        char controllers[128] = "";

        if (colon && (size_t)(colon - text) >= sizeof(controllers))
            return err_set(e, EINVAL, "--cgroup %s: is too long", text);
        if (colon)
            memcpy(controllers, text, (size_t)(colon - text));
        r = oci_cgroup_enter_below(g, colon ? controllers : NULL, colon ? colon + 1 : text, x->pid, e);
    }
    return r;
}

static int exec_start(struct oci_exec *x, struct err *e)
{
    const int fd = x->launch.sync_fd[0];
    int r = exec_clone(x, e);

    if (r == 0)
        r = oci_process_affinity(&x->process, false, x->pid, e);
    if (r == 0)
        r = exec_cgroup(x, e);
    if (r == 0 && !oci_flag(x->args, OCI_OPT_DETACH))
        oci_wait_block();
    if (r == 0 && oci_sync_send(fd, OCI_SYNC_GO, 0) < 0)
        r = err_set(e, ESRCH, "container %s has ended", x->state->id);
    if (r == 0 && exec_needs_two_steps(x))
        r = exec_take_pid(x, e);
    if (r < 0)
        return r;
    /* Closed by execve. */
    r = oci_sync_wait(fd, OCI_SYNC_ERROR, NULL, e);
    if (r != -EPIPE && r != -ECONNRESET)
        return r;
    r = oci_console_take(&x->launch, e);
    if (r == 0 && x->args->value[OCI_OPT_PID_FILE])
        r = oci_pid_file(x->args->value[OCI_OPT_PID_FILE], x->pid, e);
    return r == 0 ? oci_pidfd_hand_out(x->args, x->pid, e) : r;
}

static int exec_all(struct oci_exec *x, struct err *e)
{
    int r = exec_open(x, e);

    if (r == 0)
        r = exec_process(x, e);
    if (r == 0)
        r = exec_launch(x, e);
    if (r == 0)
        r = exec_start(x, e);
    if (r < 0 && x->pid > 0) {
        kill(x->pid, SIGKILL);
        while (waitpid(x->pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    if (r < 0 || oci_flag(x->args, OCI_OPT_DETACH))
        return r;
    return oci_wait_forward(x->pid, x->launch.terminal_fd, e);
}

int oci_verb_exec(const struct oci_args *a, struct err *e)
{
    struct oci_exec x = { .args = a, .pidfd = -1, .root_fd = -1 };
    int r;

    oci_launch_init(&x.launch);
    r = exec_all(&x, e);
    x.launch.spec = NULL;
    oci_launch_done(&x.launch);
    if (x.pidfd >= 0)
        close(x.pidfd);
    if (x.root_fd >= 0)
        close(x.root_fd);
    free(x.env);
    oci_spec_free(x.document);
    oci_spec_free(x.spec);
    oci_state_free(x.state);
    return r;
}
