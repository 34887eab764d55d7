#include "cli/spawn.h"

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
#include "base/cleanup.h"

#define VMM_FD_SPEC 3
#define VMM_FD_CONSOLE 4
#define REPORT_TEXT_MAX (64U << 10)

/* caisson-vmm stands beside this program (build tree), or in ../libexec/caisson (installed). */
static int spawn_find(char *ret_path, size_t size, struct err *e)
{
    static const char *const places[] = { "caisson-vmm", "../libexec/caisson/caisson-vmm" };
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
        if (snprintf(ret_path, size, "%s/%s", self, places[i]) < (int)size && access(ret_path, X_OK) == 0)
            return 0;
    }
    return err_set(e, EIO, "caisson-vmm is missing in %s and in ../libexec/caisson; build or install it again", self);
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

static _Noreturn void spawn_child(const char *path, pid_t parent, int spec_fd, int console_fd)
{
    char *argv[] = { (char *)"caisson-vmm", (char *)"--spec-fd", (char *)"3", NULL, NULL, NULL };
    sigset_t none;
    int high_spec = fcntl(spec_fd, F_DUPFD, 10), high_console = console_fd < 0 ? -1 : fcntl(console_fd, F_DUPFD, 10);

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(127);
    spawn_place_fd(high_spec, VMM_FD_SPEC);
    if (console_fd >= 0) {
        spawn_place_fd(high_console, VMM_FD_CONSOLE);
        argv[3] = (char *)"--console-fd";
        argv[4] = (char *)"4";
    }
    close_range(console_fd >= 0 ? VMM_FD_CONSOLE + 1 : VMM_FD_SPEC + 1, ~0U, 0);
    execv(path, argv);
    _exit(127);
}

int cli_vmm_spawn(const char *spec, bool with_console, struct cli_vmm *ret_vmm, struct err *e)
{
    char path[4096 + 64];
    AUTO_FD int spec_fd = -1, ours = -1, theirs = -1;
    pid_t pid, self = getpid();
    int r = spawn_find(path, sizeof(path), e), pair[2];

    if (r < 0)
        return r;
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
        spawn_child(path, self, spec_fd, theirs);
    *ret_vmm = (struct cli_vmm){ .pid = pid, .pidfd = (int)syscall(SYS_pidfd_open, pid, 0), .console = STEAL_FD(ours) };
    if (ret_vmm->pidfd < 0) {
        r = err_set(e, errno, "cannot watch the VM's process: pidfd_open: %s", strerror(errno));
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        base_closep(&ret_vmm->console);
        return r;
    }
    return 0;
}

int cli_vmm_report(const char *option, const char *value, char **ret_text, struct err *e)
{
    char path[4096 + 64];
    int r = spawn_find(path, sizeof(path), e), pipefd[2], status = 0;
    struct buf text;
    char chunk[4096];
    ssize_t n;
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
    while ((n = read(pipefd[0], chunk, sizeof(chunk))) > 0)
        buf_append(&text, chunk, (size_t)n);
    buf_append(&text, "", 1);
    close(pipefd[0]);
    waitpid(pid, &status, 0);
    if (buf_error(&text) < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        buf_done(&text);
        if (WIFEXITED(status) && WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != 127)
            return WEXITSTATUS(status);
        return err_set(e, EIO, "%s %s ended unexpectedly (status 0x%x)", path, option, (unsigned)status);
    }
    *ret_text = (char *)text.data;
    return 0;
}
