/* Rows that exercise the kernel: calls, faults, processes, pipes, switches, files. */
#include "bench.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

bool row_syscall(struct bench *b, uint64_t *ret_sum)
{
    long parent = getppid();
    uint64_t same = 0;
    bench_begin(b);
    for (uint64_t i = 0; i < b->count; i++) {
        same += syscall(SYS_getppid) == parent;
    }
    bench_end(b);
    *ret_sum = same;
    return same == b->count ||
           bench_fail(b, "getppid gave something else %llu times", (unsigned long long)(b->count - same));
}

enum { FAULT_PAGES = 1024, PAGE = 4096 };

/* First touch of anonymous memory, page by page, and giving it back. */
bool row_fault(struct bench *b, uint64_t *ret_sum)
{
    uint64_t sum = 0;
    bench_begin(b);
    for (uint64_t i = 0; i < b->count; i++) {
        uint8_t *p = mmap(NULL, FAULT_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) {
            return bench_fail_call(b, "mmap");
        }
        (void)madvise(p, FAULT_PAGES * PAGE, MADV_NOHUGEPAGE); /* a kernel without huge pages has nothing to refuse */
        for (size_t page = 0; page < FAULT_PAGES; page++) {
            volatile uint8_t *byte = p + page * PAGE + page % PAGE;
            *byte = (uint8_t)(*byte + page);
            sum += *byte;
        }
        munmap(p, FAULT_PAGES * PAGE);
    }
    bench_end(b);
    *ret_sum = sum;
    return sum == b->count * FAULT_PAGES / 256 * (255 * 256 / 2) || bench_fail(b, "fresh pages were not zero");
}

/* Fork count children, each ending with a status of its own; with exec also through a new program. */
static bool fork_loop(struct bench *b, bool exec, uint64_t *ret_sum)
{
    uint64_t sum = 0;
    if (!bench_pin(b)) {
        return false;
    }
    bench_begin(b);
    for (uint64_t i = 0; i < b->count; i++) {
        int status, expected = (int)(i % 100);
        pid_t child = fork();
        if (child < 0) {
            return bench_fail_call(b, "fork");
        }
        if (!child) {
            char word[16];
            if (!exec) {
                _exit(expected);
            }
            snprintf(word, sizeof word, "%d", expected);
            execl("/proc/self/exe", "caisson-bench", "--child", word, NULL);
            _exit(127);
        }
        if (waitpid(child, &status, 0) != child) {
            return bench_fail_call(b, "waitpid");
        }
        if (!WIFEXITED(status) || WEXITSTATUS(status) != expected) {
            return bench_fail(b, "child %llu ended with status 0x%x", (unsigned long long)i, status);
        }
        sum = bench_fold(sum, (uint64_t)status);
    }
    bench_end(b);
    *ret_sum = sum;
    return true;
}

bool row_fork(struct bench *b, uint64_t *ret_sum)
{
    return fork_loop(b, false, ret_sum);
}

bool row_exec(struct bench *b, uint64_t *ret_sum)
{
    return fork_loop(b, true, ret_sum);
}

int bench_child(const char *word)
{
    return (int)strtoul(word, NULL, 10);
}

static void pipe_child(int in, int out)
{
    uint64_t value;
    while (read(in, &value, sizeof value) == sizeof value) {
        value = bench_fold(value, 1);
        if (write(out, &value, sizeof value) != sizeof value) {
            _exit(1);
        }
    }
    _exit(0);
}

/* A word goes back and forth between two processes on one CPU; each changes it. */
bool row_pipe(struct bench *b, uint64_t *ret_sum)
{
    int there[2], back[2];
    if (!bench_pin(b)) {
        return false;
    }
    if (pipe2(there, O_CLOEXEC) || pipe2(back, O_CLOEXEC)) {
        return bench_fail_call(b, "pipe2");
    }
    pid_t child = fork();
    if (child < 0) {
        return bench_fail_call(b, "fork");
    }
    if (!child) {
        close(there[1]);
        close(back[0]);
        pipe_child(there[0], back[1]);
    }
    close(there[0]);
    close(back[1]);
    uint64_t value = 1, expected = 1;
    bool ok = true;
    bench_begin(b);
    for (uint64_t i = 0; ok && i < b->count; i++) {
        ok = write(there[1], &value, sizeof value) == sizeof value &&
             read(back[0], &value, sizeof value) == sizeof value;
        value = bench_fold(value, 2);
    }
    close(there[1]);
    close(back[0]);
    waitpid(child, NULL, 0);
    bench_end(b);
    for (uint64_t i = 0; i < b->count; i++) {
        expected = bench_fold(bench_fold(expected, 1), 2);
    }
    *ret_sum = value;
    return (ok && value == expected) || bench_fail(b, "a word was lost or changed on its way");
}

struct baton {
    _Atomic uint32_t turn;
    uint64_t count, value;
};

static void baton_run(struct baton *t, uint32_t me)
{
    for (uint64_t i = 0; i < t->count; i++) {
        while (atomic_load(&t->turn) != me) {
            syscall(SYS_futex, &t->turn, FUTEX_WAIT_PRIVATE, me ^ 1, NULL, NULL, 0);
        }
        t->value = bench_fold(t->value, me);
        atomic_store(&t->turn, me ^ 1);
        syscall(SYS_futex, &t->turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    }
}

static void *baton_second(void *arg)
{
    baton_run(arg, 1);
    return NULL;
}

/* Two threads on one CPU hand a baton to each other: two switches each round. */
bool row_switch(struct bench *b, uint64_t *ret_sum)
{
    struct baton t = { .count = b->count };
    pthread_t thread;
    if (!bench_pin(b)) {
        return false;
    }
    int error = pthread_create(&thread, NULL, baton_second, &t);
    if (error) {
        return bench_fail(b, "pthread_create: %s", strerror(error));
    }
    bench_begin(b);
    baton_run(&t, 0);
    pthread_join(thread, NULL);
    bench_end(b);
    uint64_t expected = 0;
    for (uint64_t i = 0; i < b->count; i++) {
        expected = bench_fold(bench_fold(expected, 0), 1);
    }
    *ret_sum = t.value;
    return t.value == expected || bench_fail(b, "the baton was not handed over in turn");
}

/* Write len bytes to fd in pieces, or read them back. Returns whether all went. */
static bool file_pieces(int fd, uint8_t *data, size_t len, size_t piece, bool writing)
{
    for (size_t at = 0; at < len; at += piece) {
        ssize_t n = writing ? pwrite(fd, data + at, piece, (off_t)at) : pread(fd, data + at, piece, (off_t)at);
        if (n != (ssize_t)piece) {
            return false;
        }
    }
    return true;
}

/* Write a file in pieces, read it back, compare; count times. With sync it must be on the disk in between. */
static bool file_loop(struct bench *b, const char *folder, size_t len, size_t piece, bool sync, uint64_t *ret_sum)
{
    char path[256];
    if (!folder) {
        return bench_fail(b, "no folder given for it");
    }
    snprintf(path, sizeof path, "%s/caisson-bench.%d", folder, (int)getpid());
    uint8_t *from = malloc(len), *to = calloc(1, len);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (!from || !to || fd < 0) {
        return bench_fail_call(b, fd < 0 ? path : "malloc");
    }
    bench_fill(from, len, 17);
    unlink(path);
    bool ok = true, same = true;
    bench_begin(b);
    for (uint64_t i = 0; ok && same && i < b->count; i++) {
        memcpy(from, &i, sizeof i);
        ok = file_pieces(fd, from, len, piece, true);
        if (sync) {
            ok = ok && !fsync(fd) && !posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        }
        ok = ok && file_pieces(fd, to, len, piece, false);
        same = !memcmp(from, to, len);
        ok = ok && (sync || !ftruncate(fd, 0));
    }
    bench_end(b);
    if (!ok) {
        bench_fail_call(b, path);
    } else if (!same) {
        bench_fail(b, "%s: what was read is not what was written", path);
    }
    *ret_sum = bench_crc(0, to, len);
    close(fd);
    free(from);
    free(to);
    return ok && same;
}

bool row_tmpfs(struct bench *b, uint64_t *ret_sum)
{
    return file_loop(b, b->tmp, 4 << 20, 4096, false, ret_sum);
}

bool row_disk(struct bench *b, uint64_t *ret_sum)
{
    return file_loop(b, b->disk, 16 << 20, 64 << 10, true, ret_sum);
}
