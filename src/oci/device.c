#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "oci/path.h"
#include "oci/rootfs.h"

/* Those that the specification promises. */
static const struct oci_device device_defaults[] = {
    { .path = "/dev/null", .type = 'c', .major = 1, .minor = 3, .mode = 0666 },
    { .path = "/dev/zero", .type = 'c', .major = 1, .minor = 5, .mode = 0666 },
    { .path = "/dev/full", .type = 'c', .major = 1, .minor = 7, .mode = 0666 },
    { .path = "/dev/random", .type = 'c', .major = 1, .minor = 8, .mode = 0666 },
    { .path = "/dev/urandom", .type = 'c', .major = 1, .minor = 9, .mode = 0666 },
    { .path = "/dev/tty", .type = 'c', .major = 5, .minor = 0, .mode = 0666 },
};

static mode_t device_kind(const struct oci_device *d)
{
    return d->type == 'b' ? S_IFBLK : d->type == 'p' ? S_IFIFO : S_IFCHR;
}

static dev_t device_number(const struct oci_device *d)
{
    return d->type == 'p' ? 0 : makedev((unsigned)d->major, (unsigned)d->minor);
}

/* In a user namespace nobody may make device nodes: the host's is bound instead. */
static int device_bind(struct oci_rootfs *r, const struct oci_device *d, struct err *e)
{
    AUTO_FD int source = open_tree(AT_FDCWD, d->path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC), place = -1;
    struct stat st;
    int res;

    if (source < 0 || fstat(source, &st) < 0)
        return err_set(e, errno, "device %s: the host's cannot be bound: %m", d->path);
    if ((st.st_mode & S_IFMT) != device_kind(d) || (d->type != 'p' && st.st_rdev != device_number(d)))
        return err_set(e, EINVAL, "device %s: is another one on the host, and a user namespace cannot make its own",
                       d->path);
    place = oci_path_target(r->fd, d->path, false);
    if (place < 0)
        return err_set(e, -place, "device %s: %s", d->path, strerrordesc_np(-place));
    res = oci_mount_attach(source, place);
    return res < 0 ? err_set(e, -res, "device %s: %s", d->path, strerrordesc_np(-res)) : 0;
}

static int device_is_there(int dir, const char *name, const struct oci_device *d)
{
    struct stat st;

    return fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && (st.st_mode & S_IFMT) == device_kind(d) &&
           (d->type == 'p' || st.st_rdev == device_number(d));
}

static int device_make(struct oci_rootfs *r, const struct oci_device *d, int dev_fd, struct err *e)
{
    const char *name = d->path + 5;
    const bool direct = dev_fd >= 0 && strncmp(d->path, "/dev/", 5) == 0 && name[0] && !strchr(name, '/');
    AUTO_FD int parent = direct ? -1 : oci_path_parent(r->fd, d->path, &name);
    const int dir = direct ? dev_fd : parent;

    if (dir < 0)
        return err_set(e, -dir, "device %s: %s", d->path, strerrordesc_np(-dir));
    if (mknodat(dir, name, device_kind(d) | d->mode, device_number(d)) < 0) {
        if (errno == EPERM)
            return device_bind(r, d, e);
        if (errno == EEXIST && device_is_there(dir, name, d))
            return 0;
        return err_set(e, errno, "device %s: %m", d->path);
    }
    /* mknod heeds the umask, which is 0 here; owners need a call of their own. */
    if ((d->uid || d->gid) && fchownat(dir, name, d->uid, d->gid, AT_SYMLINK_NOFOLLOW) < 0)
        return err_set(e, errno, "device %s: cannot be given to its owner: %m", d->path);
    return 0;
}

static bool device_is_configured(const struct oci_spec *s, const char *path)
{
    for (size_t i = 0; i < s->n_devices; i++) {
        if (strcmp(s->devices[i].path, path) == 0)
            return true;
    }
    return false;
}

static int device_links(int dev_fd, struct err *e)
{
    static const char *const links[][2] = {
        { "/proc/self/fd", "fd" },       { "/proc/self/fd/0", "stdin" }, { "/proc/self/fd/1", "stdout" },
        { "/proc/self/fd/2", "stderr" }, { "pts/ptmx", "ptmx" },         { "/proc/kcore", "core" },
    };

    for (size_t i = 0; i < ARRAY_SIZE(links); i++) {
        if (strcmp(links[i][1], "core") == 0 && access("/proc/kcore", F_OK) < 0)
            continue;
        if (symlinkat(links[i][0], dev_fd, links[i][1]) == 0 || errno == EEXIST)
            continue;
        return err_set(e, errno, "/dev/%s: %m", links[i][1]);
    }
    return 0;
}

int oci_devices_make(struct oci_rootfs *r, struct err *e)
{
    const struct oci_spec *s = r->spec;
    AUTO_FD int dev = oci_path_mkdirs(r->fd, "/dev");
    int res = dev < 0 ? err_set(e, -dev, "/dev: %s", strerrordesc_np(-dev)) : 0;

    for (size_t i = 0; i < ARRAY_SIZE(device_defaults) && res == 0; i++) {
        if (!device_is_configured(s, device_defaults[i].path))
            res = device_make(r, &device_defaults[i], dev, e);
    }
    for (size_t i = 0; i < s->n_devices && res == 0; i++) {
        /* Made by devpts, or by the console. */
        if (strcmp(s->devices[i].path, "/dev/ptmx") != 0)
            res = device_make(r, &s->devices[i], dev, e);
    }
    return res == 0 ? device_links(dev, e) : res;
}
