#include "oci/path.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/cleanup.h"

/* openat2 gives up with EAGAIN when somebody renames directories under it. */
#define PATH_RETRIES 64

static int path_openat2(int fd, const char *path, int flags, uint64_t resolve)
{
    struct open_how how = { .flags = (uint64_t)flags | O_CLOEXEC, .resolve = resolve };

    for (unsigned i = 0; i < PATH_RETRIES; i++) {
        long r = syscall(SYS_openat2, fd, path, &how, sizeof(how));

        if (r >= 0)
            return (int)r;
        if (errno != EAGAIN && errno != EINTR)
            return -errno;
    }
    return -EAGAIN;
}

int oci_path_open(int root_fd, const char *path, int flags)
{
    return path_openat2(root_fd, path, flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
}

int oci_path_open_beneath(int fd, const char *path, int flags)
{
    return path_openat2(fd, path, flags,
                        RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV);
}

int oci_path_mkdirs(int root_fd, const char *path)
{
    char part[PATH_MAX];
    size_t len = strlen(path);
    AUTO_FD int dir = -1;
    int fd = oci_path_open(root_fd, path[0] ? path : "/", O_PATH | O_DIRECTORY);

    if (fd != -ENOENT)
        return fd;
    if (len >= sizeof(part))
        return -ENAMETOOLONG;
    dir = oci_path_open(root_fd, "/", O_PATH | O_DIRECTORY);
    if (dir < 0)
        return dir;
    for (size_t i = 0; i < len;) {
        size_t start = i + strspn(path + i, "/"), end = start + strcspn(path + start, "/");

        i = end;
        if (start == end)
            break;
        memcpy(part, path, end);
        part[end] = '\0';
        fd = oci_path_open(root_fd, part, O_PATH | O_DIRECTORY);
        if (fd == -ENOENT) {
            if (mkdirat(dir, part + start, 0755) < 0 && errno != EEXIST)
                return -errno;
            fd = oci_path_open(root_fd, part, O_PATH | O_DIRECTORY);
        }
        if (fd < 0)
            return fd;
        close(dir);
        dir = fd;
    }
    return STEAL_FD(dir);
}

int oci_path_mkdirs_host(const char *path, mode_t mode)
{
    char part[PATH_MAX];
    const size_t len = strlen(path);

    if (len >= sizeof(part))
        return -ENAMETOOLONG;
    for (size_t i = 1; i <= len; i++) {
        if (path[i] != '/' && path[i] != '\0')
            continue;
        memcpy(part, path, i);
        part[i] = '\0';
        if (mkdir(part, path[i] ? 0755 : mode) < 0 && errno != EEXIST && (!path[i] || errno != EROFS))
            return -errno;
    }
    return 0;
}

int oci_path_parent(int root_fd, const char *path, const char **ret_name)
{
    char parent[PATH_MAX];
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    size_t len = slash ? (size_t)(slash - path) : 0;

    if (!name[0] || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return -EINVAL;
    if (len >= sizeof(parent))
        return -ENAMETOOLONG;
    memcpy(parent, path, len);
    parent[len] = '\0';
    *ret_name = name;
    return oci_path_mkdirs(root_fd, parent);
}

int oci_path_target(int root_fd, const char *path, bool directory)
{
    const char *name;
    AUTO_FD int parent = -1;
    int fd;

    if (directory)
        return oci_path_mkdirs(root_fd, path);
    fd = oci_path_open(root_fd, path, O_PATH);
    if (fd != -ENOENT)
        return fd;
    parent = oci_path_parent(root_fd, path, &name);
    if (parent < 0)
        return parent;
    fd = openat(parent, name, O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY | O_CLOEXEC, 0755);
    if (fd < 0 && errno != EEXIST)
        return -errno;
    if (fd >= 0)
        close(fd);
    return oci_path_open(root_fd, path, O_PATH);
}

int oci_path_proc(struct err *e)
{
    AUTO_FD int fd = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
    struct statfs fs;

    if (fd < 0 || fstatfs(fd, &fs) < 0)
        return err_set(e, errno, "/proc: %m");
    if (fs.f_type != PROC_SUPER_MAGIC)
        return err_set(e, EPERM, "/proc is not procfs: mount it");
    return STEAL_FD(fd);
}

int oci_path_write(int dir, const char *path, const char *text)
{
    const size_t len = strlen(text);
    AUTO_FD int fd = oci_path_open_beneath(dir, path, O_WRONLY);
    ssize_t n;

    if (fd < 0)
        return fd;
    do
        n = write(fd, text, len);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : (size_t)n != len ? -EIO : 0;
}

int oci_path_read(int dir_fd, const char *path, size_t max, char **ret, size_t *ret_len)
{
    AUTO_FD int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC);
    AUTO_FREE char *text = NULL;
    struct stat st;
    size_t len = 0, size;

    if (fd < 0 || fstat(fd, &st) < 0)
        return -errno;
    if (S_ISDIR(st.st_mode))
        return -EISDIR;
    if (st.st_size < 0 || (uint64_t)st.st_size > max)
        return -EFBIG;
    size = S_ISREG(st.st_mode) && st.st_size > 0 ? (size_t)st.st_size : 4096;
    for (;;) {
        char *grown = realloc(text, size + 1);
        ssize_t n;

        if (!grown)
            return -ENOMEM;
        text = grown;
        n = read(fd, text + len, size + 1 - len);
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        len += (size_t)n;
        if (len > max)
            return -EFBIG;
        size = len > size ? MIN(2 * size, max) : size;
    }
    text[len] = '\0';
    *ret = STEAL(text);
    *ret_len = len;
    return 0;
}
