#include "sys/userns.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/fdio.h"
#include "base/num.h"
#include "sys/dirs.h"

#define USERNS_RANGES_MAX 8
#define USERNS_FILE_MAX (1U << 20)

struct userns_range {
    uint64_t start, count;
};

bool sys_userns_rootless(void)
{
    unsigned inside = 0, outside = 0, count = 0;
    FILE *f;
    int n;

    if (geteuid() != 0)
        return true;
    f = fopen("/proc/self/uid_map", "re");
    if (!f)
        return false;
    n = fscanf(f, "%u %u %u", &inside, &outside, &count);
    fclose(f);
    return n == 3 && (inside != 0 || outside != 0 || count != UINT32_MAX);
}

/* The environment says from now on where things are: the user's places do not follow from the id any more. */
static int userns_keep_dirs(void)
{
    char dir[SYS_DIR_MAX];
    int r = sys_dirs_state(dir);

    if (r == 0 && setenv("CAISSON_STATE_DIR", dir, 1) < 0)
        r = -errno;
    if (r == 0)
        r = sys_dirs_runtime(dir);
    if (r == 0 && setenv("CAISSON_RUNTIME_DIR", dir, 1) < 0)
        r = -errno;
    return r;
}

/* ---- subordinate ids ---- */

/* One line "NAME:START:COUNT" of those of user (name or number). */
static bool userns_line(char *line, const char *name, const char *number, struct userns_range *ret)
{
    char *start = strchr(line, ':'), *count = start ? strchr(start + 1, ':') : NULL;

    if (!count)
        return false;
    *start++ = *count++ = '\0';
    return (strcmp(line, name) == 0 || strcmp(line, number) == 0) &&
           num_parse_u64(start, 1, UINT32_MAX - 1, &ret->start) == 0 &&
           num_parse_u64(count, 1, UINT32_MAX - ret->start, &ret->count) == 0;
}

static size_t userns_ranges(const char *path, uid_t uid, struct userns_range ret[USERNS_RANGES_MAX])
{
    AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    const struct passwd *pw = getpwuid(uid);
    char number[16], *save = NULL;
    struct buf b;
    size_t n = 0;

    snprintf(number, sizeof(number), "%u", uid);
    buf_init(&b, USERNS_FILE_MAX);
    if (fd >= 0 && fd_read_text(fd, &b) == 0) {
        for (char *line = strtok_r((char *)b.data, "\n", &save); line && n < USERNS_RANGES_MAX;
             line = strtok_r(NULL, "\n", &save))
            n += userns_line(line, pw ? pw->pw_name : number, number, &ret[n]);
    }
    buf_done(&b);
    return n;
}

bool sys_userns_has_subids(void)
{
    struct userns_range ranges[USERNS_RANGES_MAX];

    return userns_ranges("/etc/subuid", geteuid(), ranges) > 0;
}

/* ---- mapping, by a child that stays outside ---- */

/* Become newuidmap or newgidmap for process pid. */
static _Noreturn void userns_exec_map(const char *program, pid_t pid, unsigned id, const struct userns_range *ranges,
                                      size_t n)
{
    char text[2 + 3 * (USERNS_RANGES_MAX + 1)][24];
    const char *argv[ARRAY_SIZE(text) + 1] = { program };
    size_t at = 1;
    uint64_t inside = 1;

    snprintf(text[at++], sizeof(text[0]), "%d", (int)pid);
    snprintf(text[at++], sizeof(text[0]), "0");
    snprintf(text[at++], sizeof(text[0]), "%u", id);
    snprintf(text[at++], sizeof(text[0]), "1");
    for (size_t i = 0; i < n; i++) {
        snprintf(text[at++], sizeof(text[0]), "%llu", (unsigned long long)inside);
        snprintf(text[at++], sizeof(text[0]), "%llu", (unsigned long long)ranges[i].start);
        snprintf(text[at++], sizeof(text[0]), "%llu", (unsigned long long)ranges[i].count);
        inside += ranges[i].count;
    }
    for (size_t i = 1; i < at; i++)
        argv[i] = text[i];
    execvp(program, (char *const *)argv);
    _exit(errno == ENOENT ? 127 : 126);
}

static int userns_wait(pid_t pid)
{
    int status;

    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            return -errno;
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
        return -ENOENT;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
}

static int userns_run_map(const char *program, pid_t pid, unsigned id, const struct userns_range *ranges, size_t n)
{
    pid_t child = fork();

    if (child == 0)
        userns_exec_map(program, pid, id, ranges, n);
    return child < 0 ? -errno : userns_wait(child);
}

static int userns_write(pid_t pid, const char *file, const char *text)
{
    char path[64];
    AUTO_FD int fd = -1;

    snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    return write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

static int userns_map_one(pid_t pid, unsigned uid, unsigned gid)
{
    char text[32];
    int r = userns_write(pid, "setgroups", "deny");

    snprintf(text, sizeof(text), "0 %u 1\n", uid);
    if (r == 0)
        r = userns_write(pid, "uid_map", text);
    snprintf(text, sizeof(text), "0 %u 1\n", gid);
    return r == 0 ? userns_write(pid, "gid_map", text) : r;
}

static int userns_map(pid_t pid)
{
    struct userns_range uids[USERNS_RANGES_MAX], gids[USERNS_RANGES_MAX];
    const uid_t uid = geteuid();
    const gid_t gid = getegid();
    const size_t n_uids = userns_ranges("/etc/subuid", uid, uids), n_gids = userns_ranges("/etc/subgid", uid, gids);
    int r;

    if (n_uids == 0 || n_gids == 0)
        return userns_map_one(pid, uid, gid);
    r = userns_run_map("newuidmap", pid, uid, uids, n_uids);
    return r == 0 ? userns_run_map("newgidmap", pid, gid, gids, n_gids) : r;
}

/* The child: in the new namespace until the parent is there, too. */
static _Noreturn void userns_holder(int ready, int go)
{
    const int error = unshare(CLONE_NEWUSER) < 0 ? errno : 0;
    char c;

    if (write(ready, &error, sizeof(error)) == (ssize_t)sizeof(error) && error == 0)
        (void)!read(go, &c, 1); /* ends when the parent closes it, or is gone */
    _exit(0);
}

/* Map the child's namespace from outside and follow it there; nothing has changed for us where that fails. */
static int userns_follow(pid_t child, int ready)
{
    AUTO_FD int pidfd = pidfd_open(child, 0);
    int error = 0, r;

    if (read(ready, &error, sizeof(error)) != (ssize_t)sizeof(error))
        return -EIO;
    if (error || pidfd < 0)
        return error ? -error : -EIO;
    r = userns_map(child);
    if (r == 0 && setns(pidfd, CLONE_NEWUSER) < 0)
        r = -errno;
    if (r == 0 && (setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0 || unshare(CLONE_NEWNS) < 0))
        r = -errno;
    return r;
}

int sys_userns_enter(void)
{
    int ready[2], go[2], r;
    pid_t child;

    if (geteuid() == 0)
        return 0;
    r = userns_keep_dirs();
    if (r < 0)
        return r;
    if (pipe2(ready, O_CLOEXEC) < 0)
        return -errno;
    if (pipe2(go, O_CLOEXEC) < 0) {
        r = -errno;
        close(ready[0]);
        close(ready[1]);
        return r;
    }
    child = fork();
    if (child == 0) {
        close(go[1]);
        userns_holder(ready[1], go[0]);
    }
    close(ready[1]);
    close(go[0]);
    r = child < 0 ? -EAGAIN : userns_follow(child, ready[0]);
    close(ready[0]);
    close(go[1]);
    while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR)
        ;
    return r;
}

int sys_userns_join(pid_t pid, bool mounts)
{
    AUTO_FD int pidfd = -1;
    int r;

    if (geteuid() == 0)
        return 0;
    r = userns_keep_dirs();
    if (r < 0)
        return r;
    pidfd = pidfd_open(pid, 0);
    if (pidfd < 0)
        return -errno;
    if (setns(pidfd, CLONE_NEWUSER | (mounts ? CLONE_NEWNS : 0)) < 0)
        return -errno;
    return setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0 ? -errno : 0;
}
