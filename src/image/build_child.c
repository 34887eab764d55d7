#include "image/build_child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fdio.h"

#define CHILD_POLL_MS 100

struct child_answer {
    int result;
    struct err e;
};

static void child_main(int (*fn)(void *opaque, struct err *e), void *opaque, int out)
{
    struct child_answer answer = { 0 };

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setpgid(0, 0); /* Ctrl-C is the parent's to see; it ends the whole group */
    answer.result = fn(opaque, &answer.e);
    _exit(fd_write_all(out, &answer, sizeof(answer)) < 0);
}

/* Until the answer has come. 0: ended without one. */
static ssize_t child_wait(int in, struct child_answer *answer, bool (*step)(void *opaque), void *step_opaque)
{
    struct pollfd p = { .fd = in, .events = POLLIN };

    for (;;) {
        int n = poll(&p, 1, step ? CHILD_POLL_MS : -1);

        if (n > 0)
            return read(in, answer, sizeof(*answer)); /* smaller than a pipe: whole */
        if (n < 0 && errno != EINTR)
            return -1;
        if (step && !step(step_opaque))
            return -ECANCELED;
    }
}

int build_child_run(int (*fn)(void *opaque, struct err *e), void *opaque, bool (*step)(void *opaque), void *step_opaque,
                    struct err *e)
{
    struct child_answer answer;
    int pipes[2], status = 0;
    ssize_t n;
    pid_t child;

    if (pipe2(pipes, O_CLOEXEC) < 0)
        return err_set(e, errno, "cannot make a pipe: %s", strerror(errno));
    child = fork();
    if (child == 0) {
        close(pipes[0]);
        child_main(fn, opaque, pipes[1]);
    }
    close(pipes[1]);
    if (child < 0) {
        close(pipes[0]);
        return err_set(e, EAGAIN, "cannot start a process: %s", strerror(errno));
    }
    n = child_wait(pipes[0], &answer, step, step_opaque);
    close(pipes[0]);
    if (n != (ssize_t)sizeof(answer)) {
        if (kill(-child, SIGKILL) < 0)
            kill(child, SIGKILL);
    }
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    if (n == -ECANCELED)
        return err_set(e, ECANCELED, "interrupted");
    if (n != (ssize_t)sizeof(answer))
        return err_set(e, EIO, "a step's process was killed by signal %d; try again",
                       WIFSIGNALED(status) ? WTERMSIG(status) : 0);
    if (answer.result < 0 && e)
        *e = answer.e;
    return answer.result;
}
