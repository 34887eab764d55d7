/* Running caisson-oci: one process for each step of a container's life. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/fdio.h"
#include "instance/container_priv.h"
#include "instance/spawn.h"
#include "sys/dirs.h"

#define OCI_LOG_TEXT_MAX (64U << 10)
#define OCI_OUTPUT_MAX (4U << 20)
#define OCI_FD_HIGH 10 /* above the standard descriptors */

int container_oci_root(char *ret_path, size_t size, struct err *e)
{
    char dir[SYS_DIR_MAX];
    int r = sys_dirs_runtime(dir);

    if (r < 0 || snprintf(ret_path, size, "%s/oci", dir) >= (int)size)
        return err_set(e, ENAMETOOLONG, "the path of the runtime directory is too long; set XDG_RUNTIME_DIR");
    return 0;
}

/* The last error in the runtime's log (a line of JSON each); false: it says none. */
static bool oci_log_last(int log_fd, char ret_text[ERR_TEXT_MAX])
{
    char *save = NULL;
    bool found = false;
    struct buf b;

    buf_init(&b, OCI_LOG_TEXT_MAX);
    if (lseek(log_fd, 0, SEEK_SET) == 0 && fd_read_text(log_fd, &b) == 0) {
        for (char *line = strtok_r((char *)b.data, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
            json_object *o = json_tokener_parse(line), *level = NULL, *msg = NULL;

            if (json_object_object_get_ex(o, "level", &level) && json_object_object_get_ex(o, "msg", &msg) &&
                strcmp(json_object_get_string(level), "error") == 0) {
                snprintf(ret_text, ERR_TEXT_MAX, "%s", json_object_get_string(msg));
                found = true;
            }
            json_object_put(o);
        }
    }
    buf_done(&b);
    return found;
}

static int oci_failed(int log_fd, int status, struct err *e)
{
    char text[ERR_TEXT_MAX];

    if (!oci_log_last(log_fd, text))
        return err_set(e, EIO, "caisson-oci ended with status %d and said nothing",
                       WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    /* The user's program: 127 and 126 of run depend on it. */
    if (strncmp(text, "exec: ", 6) == 0)
        return err_set(e, strstr(text, "not found") || strstr(text, "o such file") ? ENOENT : EACCES, "%s", text);
    return err_set(e, EIO, "%s", text);
}

/* In the child. fds: what 0, 1, 2 and the log become. */
static _Noreturn void oci_become(const char *program, char *const *argv, const int fds[4])
{
    const struct sigaction usual = { .sa_handler = SIG_DFL };
    int high[4];
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    sigaction(SIGPIPE, &usual, NULL);
    setenv("CAISSON_OCI_QUIET", "1", 1);
    for (int i = 0; i < 4; i++)
        high[i] = fcntl(fds[i] >= 0 ? fds[i] : open("/dev/null", O_RDWR | O_CLOEXEC), F_DUPFD_CLOEXEC, OCI_FD_HIGH);
    for (int i = 0; i < 4; i++) {
        if (high[i] < 0 || dup2(high[i], i) < 0)
            _exit(127);
    }
    execv(program, argv);
    _exit(127);
}

/* argv for the program: the global options, then args. */
struct oci_command {
    char program[INST_PROGRAM_MAX], root[SYS_DIR_MAX + 8];
    const char **argv;
};

static int oci_command_make(const char *const *args, struct oci_command *c, struct err *e)
{
    const char *const global[] = {
        "caisson-oci", "--root", c->root, "--log", "/proc/self/fd/3", "--log-format", "json"
    };
    size_t n = 0;
    int r = inst_find_program("caisson-oci", c->program, e);

    if (r == 0)
        r = container_oci_root(c->root, sizeof(c->root), e);
    if (r < 0)
        return r;
    while (args[n])
        n++;
    c->argv = calloc(ARRAY_SIZE(global) + n + 1, sizeof(*c->argv));
    if (!c->argv)
        return err_set(e, ENOMEM, "out of memory");
    memcpy(c->argv, global, sizeof(global));
    memcpy(c->argv + ARRAY_SIZE(global), args, n * sizeof(*args));
    return 0;
}

/* fds: what 0, 1, 2 and the log become. */
static int oci_fork(const char *const *args, const int fds[4], pid_t *ret_pid, struct err *e)
{
    struct oci_command c = { 0 };
    int r = oci_command_make(args, &c, e);
    pid_t pid;

    if (r < 0)
        return r;
    pid = fork();
    if (pid == 0)
        oci_become(c.program, (char *const *)c.argv, fds);
    free(c.argv);
    if (pid < 0)
        return err_set(e, errno, "cannot start caisson-oci: %s", strerror(errno));
    *ret_pid = pid;
    return 0;
}

/* Run it to its end. *ret_log, which the caller closes, is what it logged. */
static int oci_finish(const char *const *args, const int fds[3], int *ret_log, int *ret_status, struct err *e)
{
    AUTO_FD int log_fd = memfd_create("oci-log", MFD_CLOEXEC);
    int all[4] = { fds[0], fds[1], fds[2], log_fd }, r;
    pid_t pid = 0;

    if (log_fd < 0)
        return err_set(e, errno, "cannot start caisson-oci: %s", strerror(errno));
    r = oci_fork(args, all, &pid, e);
    if (r < 0)
        return r;
    while (waitpid(pid, ret_status, 0) < 0) {
        if (errno != EINTR)
            return err_set(e, errno, "cannot wait for caisson-oci: %s", strerror(errno));
    }
    *ret_log = STEAL_FD(log_fd);
    return 0;
}

static int oci_call(const char *const *args, const int fds[3], struct err *e)
{
    AUTO_FD int log_fd = -1;
    int status = 0, r = oci_finish(args, fds, &log_fd, &status, e);

    if (r < 0)
        return r;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : oci_failed(log_fd, status, e);
}

int container_oci_foreground(const char *const *args, const int fds[3], int *ret_status, struct err *e)
{
    AUTO_FD int log_fd = -1;
    int status = 0, r = oci_finish(args, fds, &log_fd, &status, e);
    char text[ERR_TEXT_MAX];

    if (r < 0)
        return r;
    if (oci_log_last(log_fd, text))
        return oci_failed(log_fd, status, e);
    *ret_status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return 0;
}

int container_oci_spawn(const char *const *args, pid_t *ret_pid, struct err *e)
{
    static const int nothing[4] = { -1, -1, -1, -1 };

    return oci_fork(args, nothing, ret_pid, e);
}

int container_oci_run(const char *const *args, const int *stdio, struct err *e)
{
    static const int nothing[3] = { -1, -1, -1 };

    return oci_call(args, stdio ? stdio : nothing, e);
}

int container_oci_ask(const char *const *args, char **ret_text, struct err *e)
{
    AUTO_FD int out = memfd_create("oci-output", MFD_CLOEXEC);
    const int fds[3] = { -1, out, -1 };
    struct buf b;
    int r;

    if (out < 0)
        return err_set(e, errno, "cannot start caisson-oci: %s", strerror(errno));
    r = oci_call(args, fds, e);
    if (r < 0)
        return r;
    buf_init(&b, OCI_OUTPUT_MAX);
    r = lseek(out, 0, SEEK_SET) < 0 ? -errno : fd_read_text(out, &b);
    if (r < 0) {
        buf_done(&b);
        return err_set(e, -r, "what caisson-oci says cannot be read: %s", strerror(-r));
    }
    *ret_text = (char *)b.data;
    return 0;
}
