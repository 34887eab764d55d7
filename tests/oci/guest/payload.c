/* The program of the test's containers, static. `devices`: make nodes and tell which may be opened, again at each
 * SIGUSR1; `eat`: use memory until killed. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

static void try_open(const char *path, int flags, const char *what)
{
    int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

    printf("PAYLOAD %s %s\n", what, fd >= 0 ? "opened" : strerror(errno));
    if (fd >= 0)
        close(fd);
}

static void try_devices(void)
{
    try_open("/dev/null", O_RDWR, "null");
    try_open("/node-tty", O_RDONLY, "tty-read");
    try_open("/node-tty", O_WRONLY, "tty-write");
    puts("PAYLOAD done");
    fflush(stdout);
}

static int devices(void)
{
    sigset_t set;
    int got;

    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    printf("PAYLOAD mknod %s\n", mknod("/node-tty", S_IFCHR | 0600, makedev(4, 64)) == 0 ? "made" : strerror(errno));
    for (;;) {
        try_devices();
        if (sigwait(&set, &got) != 0)
            return 1;
    }
}

/* A child is killed, and the container lives on for a moment, as servers do. */
static int eat(void)
{
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        for (;;) {
            char *p = malloc(1 << 20);

            if (!p)
                return 1;
            memset(p, 1, 1 << 20);
        }
    }
    waitpid(pid, &status, 0);
    printf("PAYLOAD eater ended by signal %d\n", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
    fflush(stdout);
    sleep(1);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "devices") == 0)
        return devices();
    return argc > 1 && strcmp(argv[1], "eat") == 0 ? eat() : 2;
}
