/* The benchmark's program: caisson-bench [OPTION...] ROW...     (--help)
 * Lines of standard output, each by one write, so that a console shows them whole:
 *     CAISSON-BEGIN row     CAISSON-END row
 *     CAISSON-ROW row ok sum=HEX ns=N cpu=N        or        CAISSON-ROW row FAIL why
 * Exit code: 0, 1 if a row failed, 2 for wrong usage. */
#include "bench.h"

#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

/* Counts: 0.1 to 1 second on the bare machine, by how slow emulators are known to be at the row. */
static const struct {
    const char *name;
    uint64_t count;
    bench_run_fn *run;
} rows[] = {
    { "alu", 8000000, row_alu },
    { "sort", 60, row_sort },
    { "chase", 250, row_chase },
    { "recursion", 150, row_recursion },
    { "indirect", 6000000, row_indirect },
    { "fp", 250, row_fp },
    { "sse2", 50, row_sse2 },
    { "avx2", 60, row_avx2 },
    { "memcpy", 600000, row_memcpy },
    { "crc", 600, row_crc },
    { "sha", 60, row_sha },
    { "syscall", 2000000, row_syscall },
    { "fault", 40, row_fault },
    { "fork", 800, row_fork },
    { "exec", 300, row_exec },
    { "pipe", 20000, row_pipe },
    { "switch", 20000, row_switch },
    { "tmpfs", 20, row_tmpfs },
    { "disk", 4, row_disk },
    { "tcp", 256, row_tcp },
    { "smp1", 80000000, row_smp1 },
    { "smp2", 80000000, row_smp2 },
    { "gzip", 1, row_gzip },
    { "python", 1, row_python },
    { "compile", 1, row_compile },
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *format, ...)
{
    char line[256];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    size_t len = (size_t)n < sizeof line ? (size_t)n : sizeof line - 1;
    if (write(STDOUT_FILENO, line, len) != (ssize_t)len) {
        _exit(1); /* nobody listens */
    }
}

/* CPU time of this process and of its children that are over. */
static uint64_t cpu_ns(void)
{
    struct timespec t;
    struct rusage children;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    getrusage(RUSAGE_CHILDREN, &children);
    uint64_t us = (uint64_t)children.ru_utime.tv_usec + (uint64_t)children.ru_stime.tv_usec;
    return (uint64_t)(t.tv_sec + children.ru_utime.tv_sec + children.ru_stime.tv_sec) * 1000000000 +
           (uint64_t)t.tv_nsec + us * 1000;
}

void bench_begin(struct bench *b)
{
    say("CAISSON-BEGIN %s\n", b->row);
    tcdrain(STDOUT_FILENO); /* the line itself is no part of the row; not a terminal: nothing to wait for */
    b->began_cpu_ns = cpu_ns();
    b->began_ns = now_ns();
}

void bench_end(struct bench *b)
{
    b->took_ns = now_ns() - b->began_ns;
    b->took_cpu_ns = cpu_ns() - b->began_cpu_ns;
    say("CAISSON-END %s\n", b->row);
}

bool bench_fail(struct bench *b, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(b->why, sizeof b->why, format, args);
    va_end(args);
    return false;
}

bool bench_fail_call(struct bench *b, const char *call)
{
    return bench_fail(b, "%s: %s", call, strerror(errno));
}

bool bench_pin(struct bench *b)
{
    cpu_set_t set;
    int cpu = sched_getcpu();
    CPU_ZERO(&set);
    CPU_SET(cpu < 0 ? 0 : cpu, &set);
    return !sched_setaffinity(0, sizeof set, &set) || bench_fail_call(b, "sched_setaffinity");
}

static bool run_row(struct bench *b, const char *name, uint64_t percent)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (strcmp(rows[i].name, name)) {
            continue;
        }
        uint64_t sum = 0;
        b->row = name;
        b->why[0] = 0;
        b->count = rows[i].count * percent / 100;
        b->count += !b->count;
        if (rows[i].run(b, &sum)) {
            say("CAISSON-ROW %s ok sum=%016llx ns=%llu cpu=%llu\n", name, (unsigned long long)sum,
                (unsigned long long)b->took_ns, (unsigned long long)b->took_cpu_ns);
            return true;
        }
        say("CAISSON-ROW %s FAIL %s\n", name, b->why);
        return false;
    }
    say("CAISSON-ROW %s FAIL there is no such row\n", name);
    return false;
}

static const char usage[] =
    "usage: caisson-bench [--scale PERCENT] [--tmp FOLDER] [--disk FOLDER] [--root FOLDER] [--script FILE] [--peer "
    "ADDRESS:PORT] ROW...\n"
    "       caisson-bench --list | --serve\n"
    "  --list prints the rows; --serve is the other end of row tcp: it says CAISSON-PORT N and serves on 127.0.0.1\n";

/* A number of an option; ends the program if it is none. */
static uint64_t number(const char *text, uint64_t max)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || end == text || *end || *text == '-' || !value || value > max) {
        fprintf(stderr, "caisson-bench: %s is no number from 1 to %llu\n", text, (unsigned long long)max);
        exit(2);
    }
    return value;
}

static void peer_option(struct bench *b, char *text)
{
    char *colon = strchr(text, ':');
    if (!colon) {
        fprintf(stderr, "caisson-bench: --peer wants ADDRESS:PORT, not %s\n", text);
        exit(2);
    }
    *colon = 0;
    b->address = text;
    b->port = (uint16_t)number(colon + 1, 65535);
}

static int list(void)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        printf("%s\n", rows[i].name);
    }
    return 0;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        { "scale", required_argument, NULL, 's' },  { "tmp", required_argument, NULL, 't' },
        { "disk", required_argument, NULL, 'd' },   { "root", required_argument, NULL, 'r' },
        { "script", required_argument, NULL, 'y' }, { "peer", required_argument, NULL, 'p' },
        { "list", no_argument, NULL, 'l' },         { "serve", no_argument, NULL, 'v' },
        { "child", required_argument, NULL, 'c' },  { 0 },
    };
    struct bench b = { .tmp = "/dev/shm" };
    uint64_t percent = 100;
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (option) {
        case 's':
            percent = number(optarg, 10000);
            break;
        case 't':
            b.tmp = optarg;
            break;
        case 'd':
            b.disk = optarg;
            break;
        case 'r':
            b.root = optarg;
            break;
        case 'y':
            b.script = optarg;
            break;
        case 'p':
            peer_option(&b, optarg);
            break;
        case 'l':
            return list();
        case 'v':
            return bench_peer();
        case 'c':
            return bench_child(optarg);
        default:
            fputs(usage, stderr);
            return 2;
        }
    }
    if (optind == argc) {
        fputs(usage, stderr);
        return 2;
    }
    int failed = 0;
    for (int i = optind; i < argc; i++) {
        failed |= !run_row(&b, argv[i], percent);
    }
    return failed;
}
