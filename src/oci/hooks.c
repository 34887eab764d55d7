/* A hook is a process group of its own, with the state as a file on its standard input (a memfd: no hook can stop the
 * runtime by not reading, and none gets a signal for it) and its output in a pipe, of which the first part is kept for
 * the text of an error. It ends by its exit, not by the end of its output: what it leaves running does not hold us. */
#include "oci/hooks.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/fdio.h"

#define HOOK_OUTPUT_KEPT 200

struct hook_run {
    const struct oci_hook *hook;
    pid_t pid;
    int pidfd, out_fd;   /* out_fd: -1 at its end */
    int64_t deadline_ms; /* of CLOCK_MONOTONIC; INT64_MAX: none */
    char output[HOOK_OUTPUT_KEPT + 1];
    size_t n_output;
};

static int64_t hook_now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int hook_state_fd(const char *state_json, size_t len)
{
    AUTO_FD int fd = memfd_create("state", MFD_CLOEXEC);
    int r = fd < 0 ? -errno : fd_pwrite_all(fd, state_json, len, 0);

    return r < 0 ? r : STEAL_FD(fd);
}

/* The attributes and file actions of posix_spawn: descriptors 0, 1, 2 and no more; no signal blocked or ignored; a
 * process group. */
static int hook_spawn_as(const struct oci_hook *h, int in_fd, int out_fd, pid_t *ret)
{
    static char *const no_env[] = { NULL };
    char *const no_args[] = { (char *)h->path, NULL };
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    sigset_t none, all;
    int r = posix_spawn_file_actions_init(&files);

    if (r != 0)
        return -r;
    r = posix_spawnattr_init(&attr);
    sigemptyset(&none);
    sigfillset(&all);
    r = r ? r : posix_spawnattr_setsigmask(&attr, &none);
    r = r ? r : posix_spawnattr_setsigdefault(&attr, &all);
    r = r ? r : posix_spawnattr_setpgroup(&attr, 0);
    r = r ? r : posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    r = r ? r : posix_spawn_file_actions_adddup2(&files, in_fd, STDIN_FILENO);
    r = r ? r : posix_spawn_file_actions_adddup2(&files, out_fd, STDOUT_FILENO);
    r = r ? r : posix_spawn_file_actions_adddup2(&files, out_fd, STDERR_FILENO);
    r = r ? r : posix_spawn_file_actions_addclosefrom_np(&files, STDERR_FILENO + 1);
    r = r ? r
          : posix_spawn(ret, h->path, &files, &attr, h->args.n ? (char *const *)h->args.v : no_args,
                        h->env.n ? (char *const *)h->env.v : no_env);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&files);
    return -r;
}

/* A descriptor above 2, so that none of the three is overwritten before it is put in its place. */
static int hook_lift(int fd)
{
    int lifted;

    if (fd < 0 || fd > STDERR_FILENO)
        return fd;
    lifted = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    close(fd);
    return lifted;
}

static int hook_spawn(struct hook_run *run, const char *state_json, size_t len)
{
    int ends[2], r = hook_state_fd(state_json, len);
    AUTO_FD int in_fd = hook_lift(r), write_fd = -1;

    if (in_fd < 0)
        return r < 0 ? r : -errno;
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -errno;
    run->out_fd = hook_lift(ends[0]);
    write_fd = hook_lift(ends[1]);
    if (run->out_fd < 0 || write_fd < 0 || fcntl(run->out_fd, F_SETFL, O_NONBLOCK) < 0)
        return -errno;
    r = hook_spawn_as(run->hook, in_fd, write_fd, &run->pid);
    if (r < 0)
        return r;
    run->pidfd = (int)syscall(SYS_pidfd_open, run->pid, 0);
    return run->pidfd < 0 ? -errno : 0;
}

/* Read what is there, bounded: who floods the pipe must not keep us from looking at the clock. */
static void hook_read(struct hook_run *run)
{
    char chunk[4096];
    ssize_t n = read(run->out_fd, chunk, sizeof(chunk));
    size_t keep;

    if (n <= 0) {
        if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
            close(run->out_fd);
            run->out_fd = -1;
        }
        return;
    }
    keep = MIN((size_t)n, HOOK_OUTPUT_KEPT - run->n_output);
    memcpy(run->output + run->n_output, chunk, keep);
    run->n_output += keep;
}

/* Wait for the exit. -ETIMEDOUT: it is still running. */
static int hook_wait(struct hook_run *run)
{
    for (;;) {
        struct pollfd fds[2] = { { .fd = run->pidfd, .events = POLLIN }, { .fd = run->out_fd, .events = POLLIN } };
        int64_t left = run->deadline_ms == INT64_MAX ? INT32_MAX : run->deadline_ms - hook_now_ms();

        if (left <= 0)
            return -ETIMEDOUT;
        if (poll(fds, 2, (int)MIN(left, INT32_MAX)) < 0 && errno != EINTR)
            return -errno;
        if (fds[1].revents)
            hook_read(run);
        if (fds[0].revents) {
            if (run->out_fd >= 0 && run->n_output < HOOK_OUTPUT_KEPT)
                hook_read(run);
            return 0;
        }
    }
}

/* What it wrote, as part of one line. */
static void hook_tidy_output(struct hook_run *run)
{
    while (run->n_output > 0 && (unsigned char)run->output[run->n_output - 1] <= ' ')
        run->n_output--;
    run->output[run->n_output] = '\0';
    for (size_t i = 0; i < run->n_output; i++) {
        if ((unsigned char)run->output[i] < ' ' || run->output[i] == 0x7f)
            run->output[i] = ' ';
    }
}

static int hook_result(struct hook_run *run, const siginfo_t *info, const char *what, size_t index, struct err *e)
{
    const char *colon;

    if (info->si_code == CLD_EXITED && info->si_status == 0)
        return 0;
    hook_tidy_output(run);
    colon = run->n_output > 0 ? ": " : "";
    if (info->si_code == CLD_EXITED)
        return err_set(e, EIO, "hooks.%s[%zu]: %s: exit status %d%s%s", what, index, run->hook->path, info->si_status,
                       colon, run->output);
    return err_set(e, EIO, "hooks.%s[%zu]: %s: killed by signal %d%s%s", what, index, run->hook->path, info->si_status,
                   colon, run->output);
}

static int hook_run_one(const struct oci_hook *h, const char *what, size_t index, const char *state_json, size_t len,
                        struct err *e)
{
    struct hook_run run = { .hook = h, .pidfd = -1, .out_fd = -1, .deadline_ms = INT64_MAX };
    siginfo_t info = { 0 };
    int r;

    if (h->timeout_s != OCI_UNSET && h->timeout_s < INT32_MAX)
        run.deadline_ms = hook_now_ms() + h->timeout_s * 1000;
    r = hook_spawn(&run, state_json, len);
    if (r < 0)
        err_set(e, -r, "hooks.%s[%zu]: %s cannot be run: %s", what, index, h->path, strerrordesc_np(-r));
    else
        r = hook_wait(&run);
    if (r == -ETIMEDOUT && run.pid > 0)
        err_set(e, ETIMEDOUT, "hooks.%s[%zu]: %s did not end within its %lld s and was killed", what, index, h->path,
                (long long)h->timeout_s);
    /* Not reaped yet: the number is its own. It may have gone to another group. */
    if (r < 0 && run.pid > 0) {
        kill(-run.pid, SIGKILL);
        kill(run.pid, SIGKILL);
    }
    while (run.pid > 0 && waitid(P_PID, (id_t)run.pid, &info, WEXITED) < 0 && errno == EINTR)
        ;
    if (r == 0)
        r = hook_result(&run, &info, what, index, e);
    if (run.pidfd >= 0)
        close(run.pidfd);
    if (run.out_fd >= 0)
        close(run.out_fd);
    return r;
}

int oci_hooks_run(const struct oci_hook *hooks, size_t n, enum oci_hook_kind kind, const char *state_json, size_t len,
                  struct err *e)
{
    const bool go_on = kind == OCI_HOOK_POSTSTART || kind == OCI_HOOK_POSTSTOP;
    struct err other = { 0 };
    int ret = 0;

    for (size_t i = 0; i < n && (ret == 0 || go_on); i++) {
        const int r = hook_run_one(&hooks[i], oci_hook_name(kind), i, state_json, len, ret == 0 ? e : &other);

        ret = ret == 0 ? r : ret;
    }
    return ret;
}
