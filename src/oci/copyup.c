/* tmpcopyup: what a directory of the image holds goes along into the tmpfs that covers it. */
#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "oci/rootfs.h"

#define COPY_DEPTH_MAX 32

static int copy_directory(int from, int to, unsigned depth);

static int copy_file(int from_dir, int to_dir, const char *name, const struct stat *st)
{
    AUTO_FD int from = openat(from_dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    AUTO_FD int to = -1;
    ssize_t n;

    if (from < 0)
        return -errno;
    to = openat(to_dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (to < 0)
        return -errno;
    do
        n = sendfile(to, from, NULL, 1 << 30);
    while (n > 0 || (n < 0 && errno == EINTR));
    if (n < 0 || fchown(to, st->st_uid, st->st_gid) < 0 || fchmod(to, st->st_mode & 07777) < 0)
        return -errno;
    return 0;
}

static int copy_subdirectory(int from_dir, int to_dir, const char *name, const struct stat *st, unsigned depth)
{
    AUTO_FD int from = openat(from_dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), to = -1;

    if (from < 0 || mkdirat(to_dir, name, 0700) < 0)
        return -errno;
    to = openat(to_dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (to < 0 || fchown(to, st->st_uid, st->st_gid) < 0 || fchmod(to, st->st_mode & 07777) < 0)
        return -errno;
    return copy_directory(from, to, depth + 1);
}

static int copy_link(int from_dir, int to_dir, const char *name)
{
    char target[PATH_MAX];
    ssize_t n = readlinkat(from_dir, name, target, sizeof(target) - 1);

    if (n < 0)
        return -errno;
    target[n] = '\0';
    return symlinkat(target, to_dir, name) < 0 ? -errno : 0;
}

/* Devices and sockets are not copied: they say nothing elsewhere. */
static int copy_entry(int from, int to, const char *name, unsigned depth)
{
    struct stat st;

    if (fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    if (S_ISREG(st.st_mode))
        return copy_file(from, to, name, &st);
    if (S_ISDIR(st.st_mode))
        return copy_subdirectory(from, to, name, &st, depth);
    return S_ISLNK(st.st_mode) ? copy_link(from, to, name) : 0;
}

static int copy_directory(int from, int to, unsigned depth)
{
    int fd = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *d;

    if (!dir) {
        r = -errno;
        if (fd >= 0)
            close(fd);
        return r;
    }
    if (depth > COPY_DEPTH_MAX)
        r = -ELOOP;
    while (r == 0 && (d = readdir(dir))) {
        const char *name = d->d_name;

        if (name[0] != '.' || (name[1] && (name[1] != '.' || name[2])))
            r = copy_entry(from, to, name, depth);
    }
    closedir(dir);
    return r;
}

int oci_copy_up(int from_fd, int to_fd, struct err *e)
{
    int r = copy_directory(from_fd, to_fd, 0);

    return r < 0 ? err_set(e, -r, "tmpcopyup: %s", strerrordesc_np(-r)) : 0;
}
