#include "instance/leftover.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/fdio.h"
#include "base/num.h"

#define LEFTOVER_FILE_MAX (1U << 20)
#define LEFTOVER_END_MS 30000

/* Whole content of /proc/PID/name, with a zero behind it. */
static int leftover_read(pid_t pid, const char *name, struct buf *b)
{
    char path[64];
    AUTO_FD int fd = -1;

    buf_init(b, LEFTOVER_FILE_MAX);
    snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd_read_text(fd, b);
}

static bool leftover_has_id(const struct buf *environ_text, const char *id)
{
    const char *text = (const char *)environ_text->data, *end = text + environ_text->len;

    for (; text < end; text += strlen(text) + 1) {
        if (strncmp(text, INST_ENV_ID "=", sizeof(INST_ENV_ID)) == 0 && strcmp(text + sizeof(INST_ENV_ID), id) == 0)
            return true;
    }
    return false;
}

static bool leftover_is(pid_t pid, const char *id, const char *program)
{
    struct buf text;
    char path[64], exe[4096];
    const char *base;
    ssize_t n;
    bool found = leftover_read(pid, "environ", &text) == 0 && leftover_has_id(&text, id);

    buf_done(&text);
    if (!found)
        return false;
    snprintf(path, sizeof(path), "/proc/%d/exe", (int)pid);
    n = readlink(path, exe, sizeof(exe) - 1);
    exe[MAX(n, 0)] = '\0';
    base = strrchr(exe, '/');
    /* A program that was replaced by an update ends in " (deleted)". */
    return base && strncmp(base + 1, program, strlen(program)) == 0;
}

/* The pidfd comes first, so that what is checked and killed is one process. */
static int leftover_kill(pid_t pid, const char *id, const char *program)
{
    AUTO_FD int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    struct pollfd p = { .fd = pidfd, .events = POLLIN };

    if (pidfd < 0 || !leftover_is(pid, id, program))
        return 0;
    if (syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0) < 0)
        return errno == ESRCH ? 0 : -errno;
    return poll(&p, 1, LEFTOVER_END_MS) == 1 ? 0 : -ETIMEDOUT;
}

int inst_kill_leftover(const char *id, const char *program)
{
    DIR *dir = opendir("/proc");
    struct dirent *entry;
    int r = 0;

    if (!dir)
        return -errno;
    while (r == 0 && (entry = readdir(dir))) {
        uint64_t pid;

        if (num_parse_u64(entry->d_name, 1, INT32_MAX, &pid) == 0 && (pid_t)pid != getpid())
            r = leftover_kill((pid_t)pid, id, program);
    }
    closedir(dir);
    return r;
}

/* Field number n of /proc/PID/stat (proc(5)), of which p is what follows the name: field 3 on. */
static int stat_field(const char *p, unsigned n, uint64_t *ret)
{
    char number[24];
    size_t len;

    for (unsigned at = 3; at < n && p; at++) {
        p = strchr(p, ' ');
        p = p ? p + 1 : NULL;
    }
    len = p ? strcspn(p, " \n") : 0;
    if (len == 0 || len >= sizeof(number))
        return -EBADMSG;
    memcpy(number, p, len);
    number[len] = '\0';
    return num_parse_u64(number, 0, UINT64_MAX, ret);
}

int inst_process_stats(pid_t pid, struct inst_process_stats *ret_stats)
{
    uint64_t parent = 0, user = 0, system = 0, threads = 0, pages = 0;
    struct buf text;
    const char *p;
    int r = pid > 0 ? leftover_read(pid, "stat", &text) : -ESRCH;

    if (pid <= 0)
        return r;
    /* The name is in parentheses and may hold anything, these too. */
    p = r == 0 ? strrchr((const char *)text.data, ')') : NULL;
    if (r == 0 && (!p || p[1] != ' ' || stat_field(p + 2, 4, &parent) < 0 || stat_field(p + 2, 14, &user) < 0 ||
                   stat_field(p + 2, 15, &system) < 0 || stat_field(p + 2, 20, &threads) < 0 ||
                   stat_field(p + 2, 24, &pages) < 0))
        r = -EBADMSG;
    buf_done(&text);
    if (r < 0)
        return r;
    ret_stats->parent = (pid_t)parent;
    ret_stats->cpu_ns = (user + system) * (1000000000ULL / (uint64_t)sysconf(_SC_CLK_TCK));
    ret_stats->resident = pages * (uint64_t)sysconf(_SC_PAGESIZE);
    ret_stats->threads = threads;
    return 0;
}
