/* Runs a program and says on standard output how long it took, in nanoseconds, and the largest resident set of it and
 * its children, in KiB: `ocirun PROGRAM...`. A small static program, since a process starts with its parent's peak
 * (exec keeps the larger one of ru_maxrss). Exit code: the program's. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct timespec a, b;
    struct rusage use;
    int status;
    if (argc < 2)
        return 2;
    clock_gettime(CLOCK_MONOTONIC, &a);
    pid_t pid = vfork();
    if (pid == 0) {
        int null = open("/dev/null", O_RDWR);
        dup2(null, 0);
        dup2(null, 1);
        if (null > 2)
            close(null);
        execv(argv[1], argv + 1);
        _exit(127);
    }
    if (pid < 0 || wait4(pid, &status, 0, &use) != pid)
        return 126;
    clock_gettime(CLOCK_MONOTONIC, &b);
    printf("%lld %ld\n", (b.tv_sec - a.tv_sec) * 1000000000LL + b.tv_nsec - a.tv_nsec, use.ru_maxrss);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}
