/* The root file system: overlayfs of the image's layers and the container's own upper folder, by the kernel or, where
 * it refuses, by fuse-overlayfs. The paths given to the kernel are those of descriptors, so that neither their length
 * nor their characters matter. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "image/image.h"
#include "instance/container_priv.h"
#include "sys/dirs.h"
#include "sys/overlay.h"
#include "sys/userns.h"

#define ROOTFS_OPTIONS_MAX 4095 /* mount(2) takes a page */
#define ROOTFS_FUSE "fuse"      /* in work: the upper folder is fuse-overlayfs's */

int container_rootfs_unshare(struct err *e)
{
    int r;

    if (geteuid() != 0) {
        r = sys_userns_enter();
        if (r == -ENOENT)
            return err_set(e, EIO, "newuidmap is missing; install the package uidmap");
        if (r == -EIO)
            return err_set(e, EIO,
                           "newuidmap does not map the ids that /etc/subuid and /etc/subgid give to this user; look at "
                           "what it says, or take the user's lines away");
        if (r < 0)
            return err_set(e, -r, "cannot make a user namespace: %s; as root: sysctl user.max_user_namespaces=15000",
                           strerror(-r));
        return 0;
    }
    if (unshare(CLONE_NEWNS) < 0)
        return err_set(e, errno, "cannot make a mount namespace: %s; run caisson as root or as a user",
                       strerror(errno));
    /* What the host mounts is seen here, not the other way round. */
    if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
        return err_set(e, errno, "cannot set the propagation of mounts: %s", strerror(errno));
    return 0;
}

int container_dir_make(const char *path, unsigned mode, struct err *e)
{
    if (mkdir(path, mode) < 0 && errno != EEXIST)
        return err_set(e, errno, "cannot make %s: %s", path, strerror(errno));
    return 0;
}

/* The layers' folders, opened. */
struct rootfs_layers {
    int *fd; /* n */
    size_t n;
};

static void rootfs_layers_close(struct rootfs_layers *l)
{
    for (size_t i = 0; i < l->n; i++)
        close(l->fd[i]);
    free(l->fd);
}

static int rootfs_layers_open(char **paths, size_t n, struct rootfs_layers *l, struct err *e)
{
    l->fd = calloc(n + 1, sizeof(*l->fd));
    if (!l->fd)
        return err_set(e, ENOMEM, "out of memory");
    for (; l->n < n; l->n++) {
        l->fd[l->n] = open(paths[l->n], O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (l->fd[l->n] < 0)
            return err_set(e, errno, "layer %s: %s; pull or import the image again", paths[l->n], strerror(errno));
    }
    return 0;
}

static int rootfs_image_layers(const struct store_instance *i, struct rootfs_layers *l, struct err *e)
{
    AUTO(store) struct store *store = NULL;
    struct image image = { 0 };
    char **paths = NULL;
    size_t n = 0;
    int r = store_open(STORE_READ, &store, e);

    if (r == 0)
        r = image_get(store, i->spec.image_id, &image, e);
    if (r == 0)
        r = image_layers(store, &image, &paths, &n, e);
    image_done(&image);
    if (r == 0)
        r = rootfs_layers_open(paths, n, l, e);
    for (size_t p = 0; p < n; p++)
        free(paths[p]);
    free(paths);
    return r;
}

/* The container's root has the owner and mode of the image's. */
static int rootfs_like(int fd, int layer, struct err *e)
{
    char path[32];
    struct stat want, have;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (fstat(layer, &want) < 0 || fstat(fd, &have) < 0)
        return err_set(e, errno, "cannot look at a layer: %s", strerror(errno));
    if ((have.st_uid != want.st_uid || have.st_gid != want.st_gid) && chown(path, want.st_uid, want.st_gid) < 0)
        return err_set(e, errno, "cannot give the root folder its owner: %s", strerror(errno));
    if ((have.st_mode & 07777) != (want.st_mode & 07777) && chmod(path, want.st_mode & 07777) < 0)
        return err_set(e, errno, "cannot give the root folder its mode: %s", strerror(errno));
    return 0;
}

static int rootfs_own_dir(const char *dir, const char *name, unsigned mode, int *ret_fd, struct err *e)
{
    char path[SYS_DIR_MAX + 128];
    int r;

    if (snprintf(path, sizeof(path), "%s/%s", dir, name) >= (int)sizeof(path))
        return err_set(e, ENAMETOOLONG, "%s: the path is too long", dir);
    r = container_dir_make(path, mode, e);
    if (r < 0)
        return r;
    *ret_fd = open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return *ret_fd < 0 ? err_set(e, errno, "cannot open %s: %s", path, strerror(errno)) : 0;
}

static void rootfs_options(struct buf *b, const struct sys_overlay *o)
{
    buf_append_str(b, "lowerdir=");
    for (size_t i = 0; i < o->n; i++)
        buf_printf(b, "%s/proc/self/fd/%d", i ? ":" : "", o->lower[i]);
    if (o->upper >= 0)
        buf_printf(b, ",upperdir=/proc/self/fd/%d,workdir=/proc/self/fd/%d", o->upper, o->work);
    buf_printf(b, "%s%s", sys_userns_rootless() ? ",userxattr" : "", o->volatile_ ? ",volatile" : "");
    buf_append(b, "", 1);
}

/* -errno of the kernel's overlayfs. */
static int rootfs_kernel(const struct sys_overlay *o)
{
    struct buf b;
    int r;

    buf_init(&b, ROOTFS_OPTIONS_MAX);
    rootfs_options(&b, o);
    r = buf_error(&b);
    if (r == 0 && mount("overlay", o->place, "overlay", o->upper < 0 ? MS_RDONLY : 0, b.data) < 0)
        r = -errno;
    buf_done(&b);
    return r;
}

static int rootfs_overlay(const struct store_instance *i, const struct sys_overlay *o, bool fuse_only, int *ret_fuse,
                          struct err *e)
{
    char why[SYS_OVERLAY_WHY_MAX];
    int r = fuse_only ? -EINVAL : rootfs_kernel(o);

    *ret_fuse = -1;
    if (r < 0 && !sys_overlay_refused(-r))
        return err_set(e, -r,
                       "%s: cannot mount its root file system of %zu layers: %s; is the state directory on a file "
                       "system that overlayfs takes (ext4, xfs, btrfs)?",
                       i->name, o->n, strerror(-r));
    if (r < 0) {
        r = sys_overlay_fuse(o, ret_fuse, why);
        if (r < 0)
            return err_set(e, -r, "%s: cannot mount its root file system of %zu layers: %s", i->name, o->n, why);
    }
    return 0;
}

/* A volatile overlay refuses to be mounted again after a crash of the machine; nobody minds what it held. */
static void rootfs_forget_volatile(const char *dir)
{
    char path[SYS_DIR_MAX + 128];

    snprintf(path, sizeof(path), "%s/work/work/incompat/volatile", dir);
    if (unlink(path) == 0 || rmdir(path) == 0) {
        *strrchr(path, '/') = '\0';
        (void)!rmdir(path);
    }
}

int container_rootfs_mount(const struct store_instance *i, const char *dir, const char *place, bool volatile_,
                           int *ret_fuse, struct err *e)
{
    struct rootfs_layers layers = { 0 };
    AUTO_FD int upper = -1, work = -1;
    int r = rootfs_image_layers(i, &layers, e);

    if (r == 0)
        r = rootfs_own_dir(dir, "upper", 0755, &upper, e);
    if (r == 0 && layers.n > 0)
        r = rootfs_like(upper, layers.fd[0], e);
    if (r == 0)
        r = rootfs_own_dir(dir, "work", 0700, &work, e);
    if (r == 0)
        r = container_dir_make(place, 0755, e);
    if (r == 0) {
        const struct sys_overlay o = {
            .lower = layers.fd, .n = layers.n, .upper = upper, .work = work, .place = place, .volatile_ = volatile_
        };
        /* The marks of fuse-overlayfs mean nothing to the kernel. */
        const bool fuse_only = faccessat(work, ROOTFS_FUSE, F_OK, AT_SYMLINK_NOFOLLOW) == 0 || sys_overlay_below(upper);

        rootfs_forget_volatile(dir);
        r = rootfs_overlay(i, &o, fuse_only, ret_fuse, e);
        if (r == 0 && *ret_fuse >= 0 && !fuse_only && mkdirat(work, ROOTFS_FUSE, 0700) < 0 && errno != EEXIST)
            r = err_set(e, errno, "%s: cannot write to %s/work: %s", i->name, dir, strerror(errno));
    }
    rootfs_layers_close(&layers);
    return r;
}

int container_rootfs_lower(const struct store_instance *i, const char *place, int *ret_fd, struct err *e)
{
    struct rootfs_layers layers = { 0 };
    AUTO_FD int fuse = -1; /* the process lives as long as this one */
    int r = rootfs_image_layers(i, &layers, e);

    if (r == 0 && layers.n == 1) {
        *ret_fd = fcntl(layers.fd[0], F_DUPFD_CLOEXEC, 0);
        r = *ret_fd < 0 ? err_set(e, errno, "cannot open a layer: %s", strerror(errno)) : 0;
    } else if (r == 0) {
        const struct sys_overlay o = { .lower = layers.fd, .n = layers.n, .upper = -1, .work = -1, .place = place };

        r = container_dir_make(place, 0755, e);
        if (r == 0)
            r = rootfs_overlay(i, &o, layers.n > 0 && sys_overlay_below(layers.fd[0]), &fuse, e);
        if (r == 0) {
            *ret_fd = open(place, O_PATH | O_DIRECTORY | O_CLOEXEC);
            r = *ret_fd < 0 ? err_set(e, errno, "%s: %s", place, strerror(errno)) : 0;
        }
    }
    rootfs_layers_close(&layers);
    return r;
}

void container_rootfs_umount(const char *place)
{
    while (umount2(place, MNT_DETACH) == 0)
        ;
}
