/* Running a command in a VM by its agent, as a child of the supervisor: health checks. */
#include "instance/vm_exec.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "instance/kind.h"
#include "instance/place.h"
#include "instance/vm_client.h"
#include "proto/agent_client.h"

#define EXEC_CONNECT_MS 10000
#define EXEC_FAILED 125 /* the command was not run */

/* In the child: it has nothing of the supervisor's but its memory. */
static _Noreturn void vm_exec_child(const char *name, char **argv, pid_t parent)
{
    char dir[INST_PATH_MAX], path[INST_PATH_MAX + PROTO_NAME_MAX + 8];
    const struct agent_io io = { .in = -1, .out = -1, .err = -1, .signals = -1, .terminal = -1 };
    struct agent_request q = { .op = AGENT_EXEC, .argv = argv };
    struct err e = { 0 };
    int fd = -1, status = EXEC_FAILED;
    sigset_t none;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(EXEC_FAILED);
    close_range(STDERR_FILENO + 1, ~0U, 0); /* the lock and the sockets of the supervisor among them */
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (inst_vm_run_dir(dir, sizeof(dir), &e) < 0)
        _exit(EXEC_FAILED);
    snprintf(path, sizeof(path), "%s/%s.vsock", dir, name);
    if (agent_connect(path, name, EXEC_CONNECT_MS, &fd, &e) < 0 || agent_exec(fd, &q, &io, -1, &status, &e) < 0)
        _exit(EXEC_FAILED);
    _exit(status);
}

int inst_vm_exec(const char *name, const struct inst_strings *command, pid_t *ret_pid, struct err *e)
{
    AUTO_FREE char **argv = calloc(command->n + 1, sizeof(*argv));
    pid_t self = getpid(), pid;

    if (!argv)
        return err_set(e, ENOMEM, "out of memory");
    for (size_t i = 0; i < command->n; i++)
        argv[i] = command->at[i];
    pid = fork();
    if (pid < 0)
        return err_set(e, errno, "VM %s: cannot start a process for a check: %s", name, strerror(errno));
    if (pid == 0)
        vm_exec_child(name, argv, self);
    *ret_pid = pid;
    return 0;
}
