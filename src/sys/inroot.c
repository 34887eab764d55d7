#include "sys/inroot.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int sys_inroot_open(int root_fd, const char *path, int flags, mode_t mode)
{
    struct open_how how = { .flags = (uint64_t)(unsigned)flags | O_CLOEXEC,
                            .mode = flags & O_CREAT ? mode : 0,
                            .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };
    long fd;

    /* -EAGAIN: somebody renames within the tree, so that ".." could not be judged. */
    for (int i = 0; i < 64; i++) {
        fd = syscall(SYS_openat2, root_fd, path, &how, sizeof(how));
        if (fd >= 0 || errno != EAGAIN)
            break;
    }
    return fd < 0 ? -errno : (int)fd;
}

int sys_inroot_parent(int root_fd, const char *path, char *ret_name, size_t size)
{
    char dir[PATH_MAX];
    size_t len = strlen(path);
    const char *slash;

    while (len > 0 && path[len - 1] == '/')
        len--;
    if (len >= sizeof(dir))
        return -ENAMETOOLONG;
    memcpy(dir, path, len);
    dir[len] = '\0';
    slash = strrchr(dir, '/');
    if (snprintf(ret_name, size, "%s", slash ? slash + 1 : dir) >= (int)size)
        return -ENAMETOOLONG;
    if (!ret_name[0] || strcmp(ret_name, ".") == 0 || strcmp(ret_name, "..") == 0)
        return -EINVAL;
    dir[slash ? (size_t)(slash - dir) + 1 : 0] = '\0';
    return sys_inroot_open(root_fd, dir[0] ? dir : "/", O_PATH | O_DIRECTORY, 0);
}
