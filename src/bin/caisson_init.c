/* The first process of a container with --init: starts the program, passes signals on to it, reaps what others leave
 * behind, and ends as the program ends. Static and alone: it is mounted into root file systems of any kind. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define INIT_NOT_FOUND 127
#define INIT_NOT_EXECUTABLE 126

static int init_exit_code(int status)
{
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static _Noreturn void init_become(char **argv, const sigset_t *old)
{
    /* A group of its own, which has the terminal where there is one. */
    setpgid(0, 0);
    /* SIGTTOU, which this would bring, is still blocked. */
    (void)!tcsetpgrp(STDIN_FILENO, getpgrp());
    sigprocmask(SIG_SETMASK, old, NULL);
    execvp(argv[0], argv);
    dprintf(STDERR_FILENO, "caisson-init: %s: %s\n", argv[0], strerror(errno));
    _exit(errno == ENOENT ? INIT_NOT_FOUND : INIT_NOT_EXECUTABLE);
}

/* Reap; the program's exit code, or -1: it goes on. */
static int init_reap(pid_t program)
{
    int status, code = -1;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid == program)
            code = init_exit_code(status);
    }
    return code;
}

int main(int argc, char **argv)
{
    char **command = argc > 1 && strcmp(argv[1], "--") == 0 ? argv + 2 : argv + 1;
    sigset_t all, old;
    siginfo_t info;
    int code = -1;
    pid_t program;

    if (!command[0] || argc < 2) {
        dprintf(STDERR_FILENO, "usage: caisson-init [--] PROGRAM [ARG]...\n");
        return 2;
    }
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &old);
    program = fork();
    if (program == 0)
        init_become(command, &old);
    if (program < 0) {
        dprintf(STDERR_FILENO, "caisson-init: fork: %s\n", strerror(errno));
        return INIT_NOT_EXECUTABLE;
    }
    while (code < 0) {
        if (sigwaitinfo(&all, &info) < 0)
            continue;
        if (info.si_signo == SIGCHLD)
            code = init_reap(program);
        else
            kill(program, info.si_signo);
    }
    return code;
}
