#include "oci/payload.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fdio.h"
#include "base/num.h"
#include "oci/caps.h"
#include "oci/path.h"
#include "oci/process_attr.h"
#include "oci/state.h"

#define ENV_CHECKED_MAX 2048
#define PASSWD_MAX (1u << 20)
#define PATH_DEFAULT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

static const char *payload_env(const struct oci_process *p, const char *name)
{
    const size_t len = strlen(name);

    for (size_t i = p->env.n; i > 0; i--) {
        const char *text = p->env.v[i - 1];

        if (strncmp(text, name, len) == 0 && text[len] == '=')
            return text + len + 1;
    }
    return NULL;
}

/* The home directory in one line of /etc/passwd, where it is this user's: name:x:uid:gid:gecos:home:shell. */
static bool payload_passwd_line(char *line, uint32_t uid, char *home, size_t size)
{
    char *fields[7];
    uint64_t n;

    for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
        fields[i] = strsep(&line, ":");
    if (!fields[5] || num_parse_u64(fields[2], 0, UINT32_MAX, &n) < 0 || n != uid)
        return false;
    return fields[5][0] && (size_t)snprintf(home, size, "HOME=%s", fields[5]) < size;
}

/* runc's way: HOME from the container's /etc/passwd where nobody gave it, else /. */
static void payload_home(uint32_t uid, char *home, size_t size)
{
    AUTO_FD int fd = open("/etc/passwd", O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    struct stat st;
    struct buf b;
    char *next, *line;

    snprintf(home, size, "HOME=/");
    /* The image's file: a pipe, or a device, would be waited for. */
    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        return;
    buf_init(&b, PASSWD_MAX);
    next = fd_read_text(fd, &b) == 0 ? (char *)b.data : NULL;
    while ((line = strsep(&next, "\n"))) {
        if (payload_passwd_line(line, uid, home, size))
            break;
    }
    buf_done(&b);
}

/* Of several values of a name the last one counts; lists beyond any use are passed on as they are. */
static bool payload_env_counts(const struct oci_process *p, size_t i)
{
    const size_t len = strcspn(p->env.v[i], "=");

    if (p->env.n > ENV_CHECKED_MAX || p->env.v[i][len] != '=')
        return true;
    for (size_t k = i + 1; k < p->env.n; k++) {
        if (strncmp(p->env.v[k], p->env.v[i], len + 1) == 0)
            return false;
    }
    return true;
}

static int payload_env_add(struct oci_payload *p, size_t *n, const char *name, unsigned value)
{
    char text[48];

    snprintf(text, sizeof(text), "%s=%u", name, value);
    p->env[*n] = strdup(text);
    if (!p->env[*n])
        return -ENOMEM;
    ++*n;
    return 0;
}

/* listen_fds: descriptors of systemd's; the words for them are for this process. */
static int payload_environment(struct oci_payload *p, const struct oci_process *proc, unsigned listen_fds,
                               struct err *e)
{
    char home[PATH_MAX + 8];
    size_t n = 0;

    p->env = calloc(proc->env.n + 4, sizeof(*p->env));
    if (!p->env)
        return err_set(e, ENOMEM, "out of memory");
    for (size_t i = 0; i < proc->env.n; i++) {
        if (payload_env_counts(proc, i))
            p->env[n++] = proc->env.v[i];
    }
    if (!payload_env(proc, "HOME")) {
        payload_home(proc->uid, home, sizeof(home));
        p->env[n] = strdup(home);
        if (!p->env[n])
            return err_set(e, ENOMEM, "out of memory");
        n++;
    }
    if (listen_fds > 0 && !payload_env(proc, "LISTEN_FDS") && !payload_env(proc, "LISTEN_PID") &&
        (payload_env_add(p, &n, "LISTEN_FDS", listen_fds) < 0 ||
         payload_env_add(p, &n, "LISTEN_PID", (unsigned)getpid()) < 0))
        return err_set(e, ENOMEM, "out of memory");
    return 0;
}

/* As execvp finds it, but with the payload's PATH. */
static int payload_try(const char *path)
{
    struct stat st;

    if (stat(path, &st) < 0)
        return -errno;
    if (S_ISDIR(st.st_mode))
        return -EISDIR;
    return faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) < 0 ? -errno : 0;
}

static int payload_find(struct oci_payload *p, const struct oci_process *proc, struct err *e)
{
    const char *name = proc->args.v[0], *path = payload_env(proc, "PATH");
    int seen = -ENOENT, r;

    if (strchr(name, '/')) {
        r = payload_try(name);
        if ((size_t)snprintf(p->path, sizeof(p->path), "%s", name) >= sizeof(p->path))
            r = -ENAMETOOLONG;
        return r < 0 ? err_set(e, -r, "exec: \"%s\": %s", name,
                               r == -ENOENT   ? "no such file or directory"
                               : r == -EACCES ? "permission denied"
                                              : strerrordesc_np(-r))
                     : 0;
    }
    for (const char *dir = path ? path : PATH_DEFAULT; name[0]; dir++) {
        const size_t len = strcspn(dir, ":");

        if ((size_t)snprintf(p->path, sizeof(p->path), "%.*s%s%s", (int)len, dir, len ? "/" : "./", name) <
            sizeof(p->path)) {
            r = payload_try(p->path);
            if (r == 0)
                return 0;
            seen = r == -EACCES ? r : seen;
        }
        dir += len;
        if (!*dir)
            break;
    }
    if (seen == -EACCES)
        return err_set(e, EACCES, "exec: \"%s\": permission denied", name);
    return err_set(e, ENOENT, "exec: \"%s\": executable file not found in $PATH", name);
}

/* A working directory that lies outside of the root would be a way to the host (CVE-2024-21626): the kernel then says
 * so, or gives no path at all. */
static int payload_cwd(const struct oci_process *p, struct err *e)
{
    char path[PATH_MAX];
    long n;

    if (chdir(p->cwd) < 0)
        return err_set(e, errno, "process.cwd %s: %m", p->cwd);
    n = syscall(SYS_getcwd, path, sizeof(path));
    if (n <= 0 || path[0] != '/')
        return err_set(e, EPERM, "process.cwd %s: leads out of the container's root", p->cwd);
    return 0;
}

/* The standard descriptors belong to whoever writes to them from now on, so that /dev/stdout can be opened again; not
 * the null device, which is the host's, whatever the container has as /dev/null. */
static void payload_own_stdio(const struct oci_process *p)
{
    struct stat st;

    if (p->uid == 0)
        return;
    for (int fd = 0; fd < 3; fd++) {
        if (fstat(fd, &st) < 0 || st.st_uid == p->uid || (S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3)))
            continue;
        /* Not every file lets itself be given away; then it stays with its owner. */
        if (fchown(fd, p->uid, (gid_t)-1) < 0)
            continue;
    }
}

int oci_payload_prepare(struct oci_payload *p, const struct oci_launch *l, struct err *e)
{
    const struct oci_process *proc = l->process;
    const bool late_filter = l->bpf.program && !proc->no_new_privileges;
    int r = payload_environment(p, proc, l->listen_fds, e);

    if (r == 0 && !l->no_keyring)
        r = oci_process_keyring(proc, l->id, l->proc_fd, e);
    if (r == 0)
        r = oci_process_apply_late(l->spec, proc, l->proc_fd, e);
    if (r < 0)
        return r;
    payload_own_stdio(proc);
    r = oci_caps_prepare(proc, e);
    if (r == 0 && chdir(proc->cwd) < 0 && errno != EACCES && errno != ENOENT)
        r = err_set(e, errno, "process.cwd %s: %m", proc->cwd);
    if (r == 0)
        r = oci_process_set_user(proc, e);
    if (r == 0)
        r = oci_caps_apply(proc, late_filter, e);
    /* Again, by the rights of the user: what only root may enter is not his. */
    if (r == 0)
        r = payload_cwd(proc, e);
    return r == 0 ? payload_find(p, proc, e) : r;
}

/* The host's procfs, which we still have, shows this process as the runtime sees it. */
int oci_payload_state(const struct oci_launch *l, enum oci_status status, pid_t *ret_pid, struct buf *json,
                      struct err *e)
{
    struct oci_record rec = { .id = l->id, .bundle = l->bundle, .spec = l->spec };
    char self[16] = "";
    uint64_t pid = 0;
    int r;

    if (readlinkat(l->proc_fd, "self", self, sizeof(self) - 1) < 0 || num_parse_u64(self, 1, INT32_MAX, &pid) < 0)
        return err_set(e, ESRCH, "the host's procfs does not show the container's process");
    *ret_pid = rec.pid = (pid_t)pid;
    oci_record_json(&rec, status, json);
    r = buf_error(json);
    return r < 0 ? err_set(e, -r, "the container's state: %s", strerrordesc_np(-r)) : 0;
}

/* The filter with a listener. What state holds is not freed: the filter may not allow what that takes. */
static int payload_load_notify(const struct oci_launch *l, struct err *e)
{
    struct buf state;
    pid_t pid = 0;
    int r;

    buf_init(&state, OCI_STATE_MAX);
    r = oci_payload_state(l, OCI_CREATING, &pid, &state, e);
    if (r < 0)
        return r;
    return oci_seccomp_load_notify(&l->bpf, l->notify_fd, &l->spec->seccomp, pid, (const char *)state.data, state.len,
                                   e);
}

/* Close on exec comes too late for descriptors by way of which the program itself is looked up (/proc/self/fd/7/..., as
 * in CVE-2024-21626): what is not needed up to execve goes before. */
static int payload_close_rest(const struct oci_launch *l, struct err *e)
{
    const int needed[] = { l->sync_fd[1], l->bpf.notify ? l->notify_fd : -1, l->bpf.notify ? l->proc_fd : -1 };
    unsigned first = 3 + l->preserve_fds;

    while (first <= INT_MAX) {
        unsigned next = UINT_MAX;

        for (size_t i = 0; i < ARRAY_SIZE(needed); i++) {
            if (needed[i] >= 0 && (unsigned)needed[i] >= first && (unsigned)needed[i] < next)
                next = (unsigned)needed[i];
        }
        if (next > first && close_range(first, next == UINT_MAX ? next : next - 1, 0) < 0)
            return err_set(e, errno, "cannot close descriptors: %m");
        first = next == UINT_MAX ? next : next + 1;
    }
    return 0;
}

/* What our caller ignores (SIGHUP under nohup) is not for the container to ignore; execve resets handlers only. Raw:
 * the C library refuses its own two, which a caller may ignore as well. The kernel refuses SIGKILL and SIGSTOP. */
static void payload_default_signals(void)
{
    static const struct {
        void *handler;
        unsigned long flags;
        void *restorer;
        uint64_t mask;
    } plain = { 0 };

    for (int sig = 1; sig < NSIG; sig++)
        (void)syscall(SYS_rt_sigaction, sig, &plain, NULL, sizeof(plain.mask));
}

int oci_payload_exec(const struct oci_payload *p, const struct oci_launch *l, struct err *e)
{
    const struct oci_process *proc = l->process;
    int listener = -1, r = payload_close_rest(l, e);

    if (r < 0)
        return r;
    payload_default_signals();
    r = oci_process_rlimits(proc, 0, true, e);
    if (r < 0)
        return r;
    /* No system call stands between the filter and execve: it may forbid any other. */
    if (l->bpf.notify)
        r = payload_load_notify(l, e);
    else if (l->bpf.program)
        r = oci_seccomp_load(&l->bpf, &listener, e);
    if (r < 0)
        return r;
    execve(p->path, (char **)proc->args.v, (char **)p->env);
    return err_set(e, errno, "exec: \"%s\": %s", proc->args.v[0],
                   errno == ENOENT   ? "no such file or directory"
                   : errno == EACCES ? "permission denied"
                                     : strerrordesc_np(errno));
}
