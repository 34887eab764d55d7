/* Rows that run real programs of a Debian tree: gzip, python3, gcc. The tree is the same on the bare machine and in the
 * guests, and so must be what the programs write. They read it from the page cache and write to a tmpfs. */
#include "bench.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define RESULT "/tmp/result"

/* A row's programs, one after the other; NULL ends words and commands. The last one leaves RESULT. */
struct command {
    const char *words[8];
};

static bool write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    close(fd);
    return ok;
}

/* A mount namespace of our own, and a user namespace in which we are root if we are not. */
static bool enter_namespace(void)
{
    char uid[32], gid[32];
    if (!geteuid()) {
        return !unshare(CLONE_NEWNS);
    }
    snprintf(uid, sizeof uid, "0 %d 1", (int)geteuid());
    snprintf(gid, sizeof gid, "0 %d 1", (int)getegid());
    return !unshare(CLONE_NEWUSER | CLONE_NEWNS) && write_text("/proc/self/uid_map", uid) &&
           write_text("/proc/self/setgroups", "deny") && write_text("/proc/self/gid_map", gid);
}

/* In a child: a tmpfs on /tmp of the tree, which nobody else sees, and into the tree. */
static bool enter_tree(const char *root)
{
    char path[256];
    snprintf(path, sizeof path, "%s/tmp", root);
    return enter_namespace() && !mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) &&
           !mount("tmpfs", path, "tmpfs", 0, "size=256m") && !chroot(root) && !chdir("/tmp");
}

/* Read a file of the tree, so that it is in the page cache. */
static void warm(const char *path)
{
    static char buffer[64 << 10];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    while (fd >= 0 && read(fd, buffer, sizeof buffer) > 0) {
    }
    close(fd);
}

static int spawn_wait(const struct command *command)
{
    int status;
    pid_t child = fork();
    if (child < 0) {
        return -1;
    }
    if (!child) {
        static char *const environment[] = { "PATH=/usr/bin:/bin", "LC_ALL=C", "PYTHONDONTWRITEBYTECODE=1",
                                             "PYTHONHASHSEED=0", NULL };
        int fd = open(RESULT, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        int error = open("/tmp/error", O_WRONLY | O_CREAT | O_TRUNC, 0600);
        if (fd < 0 || error < 0 || dup2(fd, STDOUT_FILENO) < 0 || dup2(error, STDERR_FILENO) < 0) {
            _exit(126);
        }
        execve(command->words[0], (char *const *)command->words, environment);
        _exit(127);
    }
    return waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* The first bytes of the SHA-256 of a file that is not empty. */
static bool sum_file(const char *path, uint64_t *ret_sum)
{
    struct stat st;
    uint8_t digest[32];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) || st.st_size <= 0) {
        close(fd);
        return false;
    }
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (p == MAP_FAILED) {
        return false;
    }
    bench_sha(p, (size_t)st.st_size, digest);
    munmap(p, (size_t)st.st_size);
    memcpy(ret_sum, digest, sizeof *ret_sum);
    return true;
}

/* What a failed program had to say: the first line of its errors. */
static bool fail_command(struct bench *b, const struct command *command, int status)
{
    char text[100] = "";
    int fd = open("/tmp/error", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    text[strcspn(text, "\n")] = 0;
    return bench_fail(b, "%s ended with status %d: %s", command->words[0], status, text);
}

/* Inside the tree. */
static bool run_commands(struct bench *b, const struct command *commands, const char *const *files, uint64_t *ret_sum)
{
    for (const char *const *file = files; *file; file++) {
        warm(*file);
    }
    bench_begin(b);
    for (uint64_t i = 0; i < b->count; i++) {
        for (const struct command *command = commands; command->words[0]; command++) {
            int status = spawn_wait(command);
            if (status) {
                return fail_command(b, command, status);
            }
        }
    }
    bench_end(b);
    return sum_file(RESULT, ret_sum) || bench_fail(b, "%s left no result", commands->words[0]);
}

/* Run a row in a child that enters the tree; sum, time and reason come back through shared memory. */
static bool in_tree(struct bench *b, const struct command *commands, const char *const *files, const char *script,
                    uint64_t *ret_sum)
{
    struct shared {
        struct bench b;
        uint64_t sum;
        bool ok;
    } *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (!b->root || shared == MAP_FAILED) {
        return bench_fail(b, "no Debian tree given (--root)");
    }
    shared->b = *b;
    pid_t child = fork();
    if (!child) {
        shared->ok = enter_tree(b->root) && (!script || write_text("/tmp/script", script))
                         ? run_commands(&shared->b, commands, files, &shared->sum)
                         : bench_fail_call(&shared->b, b->root);
        _exit(0);
    }
    if (child < 0 || waitpid(child, NULL, 0) != child) {
        return bench_fail_call(b, "fork");
    }
    *b = shared->b;
    *ret_sum = shared->sum;
    bool ok = shared->ok;
    munmap(shared, sizeof *shared);
    return ok || (b->why[0] ? false : bench_fail(b, "its process died"));
}

bool row_gzip(struct bench *b, uint64_t *ret_sum)
{
    static const struct command commands[] = { { { "/usr/bin/gzip", "-6", "-n", "-c", "/usr/bin/python3.11" } },
                                               { { NULL } } };
    static const char *const files[] = { "/usr/bin/gzip", "/usr/bin/python3.11", "/lib/x86_64-linux-gnu/libc.so.6",
                                         NULL };
    return in_tree(b, commands, files, NULL, ret_sum);
}

bool row_python(struct bench *b, uint64_t *ret_sum)
{
    static char script[8192];
    int fd = b->script ? open(b->script, O_RDONLY | O_CLOEXEC) : -1;
    ssize_t n = fd < 0 ? 0 : read(fd, script, sizeof script - 1);
    close(fd);
    if (n <= 0) {
        return bench_fail(b, "no script given (--script), or it cannot be read");
    }
    static const struct command commands[] = { { { "/usr/bin/python3", "-S", "/tmp/script" } }, { { NULL } } };
    static const char *const files[] = { "/usr/bin/python3.11", "/lib/x86_64-linux-gnu/libc.so.6",
                                         "/lib/x86_64-linux-gnu/libm.so.6", NULL };
    return in_tree(b, commands, files, script, ret_sum);
}

bool row_compile(struct bench *b, uint64_t *ret_sum)
{
    static const struct command commands[] = {
        { { "/usr/bin/gcc", "-O2", "-I/usr/src/caisson-load/zlib", "-c", "/usr/src/caisson-load/zlib/deflate.c", "-o",
            "/tmp/result.o" } },
        { { "/bin/cp", "/tmp/result.o", RESULT } },
        { { NULL } },
    };
    static const char *const files[] = {
        "/usr/bin/gcc",
        "/usr/bin/as",
        "/usr/lib/gcc/x86_64-linux-gnu/12/cc1",
        "/lib/x86_64-linux-gnu/libc.so.6",
        "/usr/src/caisson-load/zlib/deflate.c",
        NULL,
    };
    return in_tree(b, commands, files, NULL, ret_sum);
}
