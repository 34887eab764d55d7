#include "instance/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "base/fdio.h"

#define VMM_FD_SPEC 3
#define VMM_FD_CONSOLE 4
#define REPORT_TEXT_MAX (64U << 10)

int inst_find_program(const char *name, char ret_path[INST_PROGRAM_MAX], struct err *e)
{
    static const char *const places[] = { ".", "../libexec/caisson", "../../bin" };
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    char *slash;

    if (n < 0)
        return err_set(e, errno, "cannot find this program's own place: /proc/self/exe: %s; mount /proc",
                       strerror(errno));
    self[n] = '\0';
    slash = strrchr(self, '/');
    *slash = '\0';
    for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
        if (snprintf(ret_path, INST_PROGRAM_MAX, "%s/%s/%s", self, places[i], name) < INST_PROGRAM_MAX &&
            access(ret_path, X_OK) == 0)
            return 0;
    }
    return err_set(e, EIO, "%s is missing in %s and in ../libexec/caisson; build or install it again", name, self);
}

/* In the process that becomes the daemon. */
static _Noreturn void spawn_become(const char *path, char *const argv[], const int *fds, int n_fds)
{
    int high[INST_DAEMON_FDS_MAX];
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (int i = 0; i < n_fds; i++) /* by way of numbers above all that it gets */
        high[i] = fcntl(fds[i] < 0 ? open("/dev/null", O_RDWR) : fds[i], F_DUPFD, INST_DAEMON_FDS_MAX);
    for (int i = 0; i < n_fds; i++) {
        if (high[i] < 0 || dup2(high[i], i) < 0)
            _exit(127);
    }
    close_range((unsigned)n_fds, ~0U, 0);
    if (chdir("/") < 0)
        _exit(127);
    execv(path, argv);
    _exit(127);
}

int inst_spawn_daemon(const char *path, char *const argv[], const int *fds, int n_fds)
{
    pid_t pid;

    CHECK(n_fds <= INST_DAEMON_FDS_MAX);
    pid = fork();
    if (pid < 0)
        return -errno;
    if (pid == 0) {
        setsid();
        pid = fork();
        if (pid == 0)
            spawn_become(path, argv, fds, n_fds);
        _exit(pid < 0 ? 1 : 0);
    }
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    return 0;
}

static int spawn_spec_fd(const char *spec, struct err *e)
{
    AUTO_FD int fd = memfd_create("vm-spec", MFD_CLOEXEC);
    size_t len = strlen(spec);

    if (fd < 0 || write(fd, spec, len) != (ssize_t)len || lseek(fd, 0, SEEK_SET) < 0)
        return err_set(e, errno ? errno : EIO, "cannot hand over the VM specification: %s", strerror(errno));
    return STEAL_FD(fd);
}

/* In the child: descriptor from becomes to, without close-on-exec. */
static void spawn_place_fd(int from, int to)
{
    if (from == to)
        fcntl(to, F_SETFD, 0);
    else if (dup2(from, to) < 0)
        _exit(127);
}

/* What the child gets. */
struct spawn_fds {
    int spec, console; /* console: -1: none */
    int err;           /* -1: as it is */
    const int *more;   /* n_more, to become INST_VMM_FD_FIRST and so on */
    unsigned n_more;
    const char *const *args; /* at the end of its command line */
};

/* In the child: all that is passed goes to its number, by way of numbers above all of those. */
static void spawn_place_fds(const struct spawn_fds *f)
{
    const int above = INST_VMM_FD_FIRST + INST_VMM_FDS_MAX;
    int spec = fcntl(f->spec, F_DUPFD, above), console = f->console < 0 ? -1 : fcntl(f->console, F_DUPFD, above);
    int more[INST_VMM_FDS_MAX];

    for (unsigned i = 0; i < f->n_more; i++)
        more[i] = fcntl(f->more[i], F_DUPFD, above);
    spawn_place_fd(spec, VMM_FD_SPEC);
    if (console >= 0)
        spawn_place_fd(console, VMM_FD_CONSOLE);
    else
        close(VMM_FD_CONSOLE);
    for (unsigned i = 0; i < f->n_more; i++)
        spawn_place_fd(more[i], INST_VMM_FD_FIRST + (int)i);
    close_range(INST_VMM_FD_FIRST + f->n_more, ~0U, 0);
}

static _Noreturn void spawn_child(const char *path, pid_t parent, const struct spawn_fds *fds)
{
    char *argv[6 + INST_VMM_ARGS_MAX] = { (char *)"caisson-vmm", (char *)"--spec-fd", (char *)"3" };
    unsigned n = 3;
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(127);
    if (fds->console >= 0) {
        argv[n++] = (char *)"--console-fd";
        argv[n++] = (char *)"4";
    }
    if (fds->err >= 0 && dup2(fds->err, STDERR_FILENO) < 0)
        _exit(127);
    for (const char *const *arg = fds->args; arg && *arg && n < ARRAY_SIZE(argv) - 1; arg++)
        argv[n++] = (char *)*arg;
    spawn_place_fds(fds);
    execv(path, argv);
    _exit(127);
}

int inst_vmm_spawn(const char *spec, bool with_console, const int *fds, unsigned n_fds, const char *const *args,
                   int stderr_fd, struct inst_vmm *ret_vmm, struct err *e)
{
    char path[INST_PROGRAM_MAX];
    AUTO_FD int spec_fd = -1, ours = -1, theirs = -1;
    pid_t pid, self = getpid();
    int r = inst_find_program("caisson-vmm", path, e), pair[2];

    if (r < 0)
        return r;
    CHECK(n_fds <= INST_VMM_FDS_MAX);
    spec_fd = spawn_spec_fd(spec, e);
    if (spec_fd < 0)
        return spec_fd;
    if (with_console) {
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
            return err_set(e, errno, "cannot make the console's socket: %s", strerror(errno));
        ours = pair[0];
        theirs = pair[1];
    }
    pid = fork();
    if (pid < 0)
        return err_set(e, errno, "cannot start a process for the VM: %s", strerror(errno));
    if (pid == 0)
        spawn_child(path, self, &(struct spawn_fds){ spec_fd, theirs, stderr_fd, fds, n_fds, args });
    *ret_vmm =
        (struct inst_vmm){ .pid = pid, .pidfd = (int)syscall(SYS_pidfd_open, pid, 0), .console = STEAL_FD(ours) };
    if (ret_vmm->pidfd < 0) {
        r = err_set(e, errno, "cannot watch the VM's process: pidfd_open: %s", strerror(errno));
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        base_closep(&ret_vmm->console);
        return r;
    }
    return 0;
}

int inst_vmm_report(const char *option, const char *value, char **ret_text, struct err *e)
{
    char path[INST_PROGRAM_MAX];
    int r = inst_find_program("caisson-vmm", path, e), pipefd[2], status = 0;
    struct buf text;
    pid_t pid;

    if (r < 0)
        return r;
    if (pipe2(pipefd, O_CLOEXEC) < 0)
        return err_set(e, errno, "cannot make a pipe: %s", strerror(errno));
    pid = fork();
    if (pid < 0) {
        r = err_set(e, errno, "cannot start a process: %s", strerror(errno));
        close(pipefd[0]);
        close(pipefd[1]);
        return r;
    }
    if (pid == 0) {
        dup2(pipefd[1], STDOUT_FILENO);
        execl(path, "caisson-vmm", option, value, (char *)NULL);
        _exit(127);
    }
    close(pipefd[1]);
    buf_init(&text, REPORT_TEXT_MAX);
    r = fd_read_text(pipefd[0], &text);
    close(pipefd[0]);
    waitpid(pid, &status, 0);
    if (r < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        buf_done(&text);
        if (WIFEXITED(status) && WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != 127)
            return WEXITSTATUS(status);
        return err_set(e, EIO, "%s %s ended unexpectedly (status 0x%x)", path, option, (unsigned)status);
    }
    *ret_text = (char *)text.data;
    return 0;
}
