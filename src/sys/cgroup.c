/* Operations on one group's directory. */
#include "sys/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/num.h"
#include "sys/cgroup_priv.h"

#define CGROUP_PIDS_MAX (4u << 20)  /* PID_MAX_LIMIT */
#define CGROUP_REMOVE_NS 1000000000 /* how long removal waits */

ssize_t cgroup_read_at(int dirfd, const char *path, char *ret_text, size_t size)
{
    AUTO_FD int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC);
    size_t len = 0;

    if (fd < 0)
        return -errno;
    while (len < size - 1) {
        ssize_t n = read(fd, ret_text + len, size - 1 - len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        len += (size_t)n;
    }
    ret_text[len] = '\0';
    return (ssize_t)len;
}

static int cgroup_path(const char *dir, const char *file, char ret_path[PATH_MAX])
{
    return snprintf(ret_path, PATH_MAX, "%s/%s", dir, file) < PATH_MAX ? 0 : -ENAMETOOLONG;
}

int sys_cgroup_write(const char *dir, const char *file, const char *text)
{
    char path[PATH_MAX];
    AUTO_FD int fd = -1;
    ssize_t n;
    int r = cgroup_path(dir, file, path);

    if (r < 0)
        return r;
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    do
        n = write(fd, text, strlen(text));
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0;
}

int sys_cgroup_write_number(const char *dir, const char *file, int64_t value)
{
    char text[24];

    snprintf(text, sizeof(text), "%lld", (long long)value);
    return sys_cgroup_write(dir, file, text);
}

ssize_t sys_cgroup_read(const char *dir, const char *file, char *ret_text, size_t size)
{
    char path[PATH_MAX];
    int r = cgroup_path(dir, file, path);

    return r < 0 ? r : cgroup_read_at(AT_FDCWD, path, ret_text, size);
}

int sys_cgroup_read_number(const char *dir, const char *file, uint64_t *ret)
{
    char text[32];
    ssize_t n = sys_cgroup_read(dir, file, text, sizeof(text));

    if (n < 0)
        return (int)n;
    text[strcspn(text, "\n")] = '\0';
    if (strcmp(text, "max") == 0) {
        *ret = UINT64_MAX;
        return 0;
    }
    return num_parse_u64(text, 0, UINT64_MAX, ret) < 0 ? -EINVAL : 0;
}

bool sys_cgroup_find_number(const char *text, const char *key, uint64_t *ret)
{
    size_t key_len = strlen(key);

    while (*text) {
        size_t len = strcspn(text, "\n");
        char number[24];

        if (len > key_len + 1 && len - key_len - 1 < sizeof(number) && text[key_len] == ' ' &&
            memcmp(text, key, key_len) == 0) {
            memcpy(number, text + key_len + 1, len - key_len - 1);
            number[len - key_len - 1] = '\0';
            return num_parse_u64(number, 0, UINT64_MAX, ret) == 0;
        }
        text += len + (text[len] == '\n');
    }
    return false;
}

/* Call fn for each group from the first below mount to dir, with the one above it. Returns fn's last result, or the
 * first negative one. */
static int cgroup_each_level(const char *mount, const char *dir,
                             int (*fn)(const char *parent, const char *group, void *opaque), void *opaque)
{
    char parent[PATH_MAX], group[PATH_MAX];
    size_t at = strlen(mount), len = strlen(dir);
    int r = 0;

    if (len >= PATH_MAX || at > len || memcmp(mount, dir, at) != 0)
        return -EINVAL;
    while (at < len && r >= 0) {
        size_t next = at + 1 + strcspn(dir + at + 1, "/");

        memcpy(parent, dir, at);
        parent[at] = '\0';
        memcpy(group, dir, next);
        group[next] = '\0';
        r = fn(parent, group, opaque);
        at = next;
    }
    return r;
}

static int cgroup_make_level(const char *parent, const char *group, void *opaque)
{
    (void)parent;
    (void)opaque;
    if (mkdir(group, 0755) == 0)
        return 1;
    return errno == EEXIST ? 0 : -errno;
}

int sys_cgroup_make(const char *mount, const char *dir)
{
    /* Most often only the last is missing. */
    if (mkdir(dir, 0755) == 0)
        return 1;
    if (errno == EEXIST)
        return 0;
    return errno == ENOENT ? cgroup_each_level(mount, dir, cgroup_make_level, NULL) : -errno;
}

static uint32_t cgroup_controllers(const char *dir)
{
    char text[512];

    return sys_cgroup_read(dir, "cgroup.controllers", text, sizeof(text)) < 0 ? 0
                                                                              : cgroup_parse_controllers(text, true);
}

static int cgroup_enable_level(const char *parent, const char *group, void *opaque)
{
    uint32_t wanted = *(const uint32_t *)opaque & ~cgroup_controllers(group);
    char text[512];
    size_t len = 0;

    for (unsigned c = 0; c < SYS_CG_CONTROLLERS; c++) {
        if (wanted & 1U << c)
            len += (size_t)snprintf(text + len, sizeof(text) - len, "%s+%s", len ? " " : "", sys_cgroup_name(c, true));
    }
    if (len == 0 || sys_cgroup_write(parent, "cgroup.subtree_control", text) == 0)
        return 0;
    /* One that cannot be had spoils the whole line: each by itself. */
    for (unsigned c = 0; c < SYS_CG_CONTROLLERS; c++) {
        if (!(wanted & 1U << c))
            continue;
        snprintf(text, sizeof(text), "+%s", sys_cgroup_name(c, true));
        if (sys_cgroup_write(parent, "cgroup.subtree_control", text) < 0)
            continue; /* what is missing shows in dir's own list */
    }
    return 0;
}

int sys_cgroup_enable(const char *mount, const char *dir, uint32_t controllers)
{
    uint32_t have = cgroup_controllers(dir);
    int r;

    if ((have & controllers) == controllers)
        return (int)have;
    r = cgroup_each_level(mount, dir, cgroup_enable_level, &controllers);
    return r < 0 ? r : (int)cgroup_controllers(dir);
}

static int cgroup_inherit_file(const char *parent, const char *group, const char *file)
{
    char text[8192];
    ssize_t n = sys_cgroup_read(group, file, text, sizeof(text));

    if (n < 0 || text[strspn(text, " \n")] != '\0')
        return n < 0 ? (int)n : 0; /* it has some */
    n = sys_cgroup_read(parent, file, text, sizeof(text));
    if (n < 0)
        return (int)n;
    text[strcspn(text, "\n")] = '\0';
    return text[0] ? sys_cgroup_write(group, file, text) : 0;
}

static int cgroup_inherit_level(const char *parent, const char *group, void *opaque)
{
    int r = cgroup_inherit_file(parent, group, "cpuset.cpus");

    (void)opaque;
    return r < 0 ? r : cgroup_inherit_file(parent, group, "cpuset.mems");
}

int sys_cgroup_inherit_cpuset(const char *mount, const char *dir)
{
    return cgroup_each_level(mount, dir, cgroup_inherit_level, NULL);
}

static int cgroup_remove_child(int parent_fd, const char *name, void *opaque)
{
    (void)opaque;
    return unlinkat(parent_fd, name, AT_REMOVEDIR) == 0 || errno == ENOENT ? 0 : -errno;
}

/* One attempt. */
static int cgroup_remove_once(const char *dir)
{
    const struct cgroup_walk w = { .leave = cgroup_remove_child };
    int r;

    if (rmdir(dir) == 0 || errno == ENOENT)
        return 0;
    if (errno != EBUSY && errno != ENOTEMPTY)
        return -errno;
    r = cgroup_walk(dir, &w); /* there may be groups below */
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    return rmdir(dir) == 0 || errno == ENOENT ? 0 : -errno;
}

int sys_cgroup_remove(const char *dir)
{
    struct timespec delay = { .tv_nsec = 50000 };
    long waited = 0;
    int r = cgroup_remove_once(dir);

    while ((r == -EBUSY || r == -ENOTEMPTY) && waited < CGROUP_REMOVE_NS) {
        nanosleep(&delay, NULL);
        waited += delay.tv_nsec;
        delay.tv_nsec = MIN(delay.tv_nsec * 2, 50000000);
        r = cgroup_remove_once(dir);
    }
    return r;
}

struct cgroup_pid_list {
    pid_t *v;
    size_t n, cap;
};

static int cgroup_pids_add(struct cgroup_pid_list *l, pid_t pid)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 32;
        pid_t *v = cap > CGROUP_PIDS_MAX ? NULL : realloc(l->v, cap * sizeof(*v));

        if (!v)
            return cap > CGROUP_PIDS_MAX ? -E2BIG : -ENOMEM;
        l->v = v;
        l->cap = cap;
    }
    l->v[l->n++] = pid;
    return 0;
}

/* Append what fd's file lists. 0 stands for a process that this PID namespace does not see. */
static int cgroup_pids_file(int dirfd, const char *path, struct cgroup_pid_list *l)
{
    AUTO_FD int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC);
    char text[4096];
    pid_t pid = 0;
    ssize_t n;
    int r = 0;

    if (fd < 0)
        return -errno;
    while ((n = read(fd, text, sizeof(text))) != 0 && r == 0) {
        if (n < 0)
            return -errno;
        for (ssize_t i = 0; i < n && r == 0; i++) {
            if (text[i] >= '0' && text[i] <= '9' && pid < INT32_MAX / 10 - 1) {
                pid = pid * 10 + (text[i] - '0');
                continue;
            }
            r = pid ? cgroup_pids_add(l, pid) : 0;
            pid = 0;
        }
    }
    return r;
}

static int cgroup_pids_enter(int fd, void *opaque)
{
    int r = cgroup_pids_file(fd, "cgroup.procs", opaque);

    return r == -ENODEV || r == -EOPNOTSUPP ? 0 : r; /* being removed; threaded: its domain lists them */
}

int sys_cgroup_pids(const char *dir, bool recursive, pid_t **ret_pids, size_t *ret_n)
{
    struct cgroup_pid_list l = { 0 };
    const struct cgroup_walk w = { .enter = cgroup_pids_enter, .opaque = &l };
    char path[PATH_MAX];
    int r = cgroup_path(dir, "cgroup.procs", path);

    if (r == 0)
        r = recursive ? cgroup_walk(dir, &w) : cgroup_pids_file(AT_FDCWD, path, &l);
    if (r < 0) {
        free(l.v);
        return r;
    }
    *ret_pids = l.v;
    *ret_n = l.n;
    return 0;
}
