/* Small things that a container's process can do, linked statically: `payload ACT [ARGUMENT...]`
 *   true | exit N         end at once                     die SIGNAL     end by a signal
 *   pause                 wait for a signal that ends     trap SIGNAL... say "got N" for each, and go on
 *   ready FILE            create FILE, then pause         fork N         N children that pause, then pause
 *   echo WORD...          print                           cat            copy standard input to standard output
 *   late MS SIGNAL...     trap, after MS milliseconds
 *   stubborn              ignore all signals that can be                                                           */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void payload_got(int sig)
{
    char text[] = "got 00\n";
    text[4] = (char)('0' + sig / 10);
    text[5] = (char)('0' + sig % 10);
    ssize_t n = write(1, text, 7);
    (void)n;
}

static void payload_touch(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0)
        exit(4);
    close(fd);
}

static void payload_wait(void)
{
    for (;;)
        pause();
}

static void payload_default(int sig)
{
    signal(sig, SIG_DFL);
    raise(sig);
}

int main(int argc, char **argv)
{
    const char *act = argc > 1 ? argv[1] : "true", *argument = argc > 2 ? argv[2] : "0";
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (strcmp(act, "true") == 0)
        return 0;
    if (strcmp(act, "exit") == 0)
        return atoi(argument);
    if (strcmp(act, "die") == 0) {
        payload_default(atoi(argument)); /* as PID 1 only SIGKILL and SIGSTOP from outside, and faults, would end it */
        __builtin_trap();
    }
    if (strcmp(act, "echo") == 0) {
        for (int i = 2; i < argc; i++)
            printf("%s%s", argv[i], i + 1 < argc ? " " : "\n");
        return 0;
    }
    if (strcmp(act, "cat") == 0) {
        char data[4096];
        for (ssize_t n; (n = read(0, data, sizeof data)) > 0;)
            if (write(1, data, (size_t)n) != n)
                return 4;
        return 0;
    }
    if (strcmp(act, "late") == 0) {
        usleep(1000 * (unsigned)atoi(argument));
        act = "trap";
    }
    signal(SIGTERM, _exit); /* exit code 15: PID 1 has no default actions */
    if (strcmp(act, "trap") == 0)
        for (int i = 2; i < argc; i++)
            signal(atoi(argv[i]), payload_got);
    else if (strcmp(act, "stubborn") == 0)
        for (int sig = 1; sig < NSIG; sig++)
            signal(sig, SIG_IGN);
    else if (strcmp(act, "ready") == 0)
        payload_touch(argument);
    else if (strcmp(act, "fork") == 0) {
        for (int i = atoi(argument); i > 0; i--)
            if (fork() == 0)
                payload_wait();
    } else if (strcmp(act, "pause") != 0)
        return 3;
    puts("ready");
    payload_wait();
}
