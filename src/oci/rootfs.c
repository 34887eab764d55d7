#include "oci/rootfs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "oci/idmap.h"
#include "oci/path.h"

static bool rootfs_new_mounts(const struct oci_spec *s)
{
    return s->ns[OCI_NS_MOUNT].wanted && !s->ns[OCI_NS_MOUNT].path;
}

/* ---- the parent ---- */

static int rootfs_prepare_one(struct oci_launch *l, size_t i, struct err *e)
{
    const struct oci_mount *m = &l->spec->mounts[i];
    const bool own = m->uid_mappings.n > 0;
    AUTO_FD int userns = -1;

    if (m->idmap) {
        if (!own && l->join_fd[OCI_NS_USER] >= 0)
            userns = fcntl(l->join_fd[OCI_NS_USER], F_DUPFD_CLOEXEC, 3);
        else
            userns = oci_idmap_userns(own ? &m->uid_mappings : &l->spec->uid_mappings,
                                      own ? &m->gid_mappings : &l->spec->gid_mappings, e);
        if (userns < 0)
            return userns;
    }
    l->mount_fds[i] = oci_mount_source(l, m, userns, e);
    return l->mount_fds[i] < 0 ? l->mount_fds[i] : 0;
}

int oci_rootfs_prepare(struct oci_launch *l, struct err *e)
{
    const struct oci_spec *s = l->spec;
    const bool mapped = s->ns[OCI_NS_USER].wanted && geteuid() == 0;
    bool any = mapped;
    int r = 0;

    if (!rootfs_new_mounts(s))
        return 0;
    for (size_t i = 0; i < s->n_mounts; i++)
        any |= s->mounts[i].idmap;
    if (!any)
        return 0;
    l->mount_fds = malloc((s->n_mounts + 1) * sizeof(*l->mount_fds));
    if (!l->mount_fds)
        return err_set(e, ENOMEM, "out of memory");
    for (size_t i = 0; i < s->n_mounts; i++)
        l->mount_fds[i] = -1;
    for (size_t i = 0; i < s->n_mounts && r == 0; i++) {
        if (s->mounts[i].idmap || (mapped && s->mounts[i].bind))
            r = rootfs_prepare_one(l, i, e);
    }
    if (r == 0 && mapped) {
        l->root_mount = open_tree(AT_FDCWD, l->rootfs, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
        if (l->root_mount < 0)
            r = err_set(e, errno, "root.path %s: %m", l->rootfs);
    }
    return r;
}

/* ---- the child ---- */

/* The new root is put upon / (and not upon its own path, which a user namespace may not reach): pivot_root makes it the
 * real one later, and until then names in it look as they will look then. */
static int rootfs_attach(struct oci_rootfs *r, struct err *e)
{
    const unsigned long propagation = r->spec->rootfs_propagation;
    struct mount_attr private = { .propagation = MS_PRIVATE };
    AUTO_FD int root = -1;
    int res;

    /* What is unbindable cannot be cloned below: private now, unbindable at the end. */
    const unsigned long first = propagation & MS_UNBINDABLE ? (propagation & MS_REC) | MS_PRIVATE : propagation;

    if (mount(NULL, "/", NULL, first ? first : MS_SLAVE | MS_REC, NULL) < 0)
        return err_set(e, errno, "linux.rootfsPropagation: %m");
    if (r->launch->root_mount >= 0)
        r->fd = r->launch->root_mount;
    else
        r->fd = open_tree(AT_FDCWD, r->launch->rootfs, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
    if (r->fd < 0)
        return err_set(e, errno, "root.path %s: %m", r->launch->rootfs);
    /* Nothing that we mount may find its way to the host; pivot_root asks for that, too. */
    if (propagation & MS_SHARED && mount(NULL, "/", NULL, MS_PRIVATE, NULL) < 0)
        return err_set(e, errno, "/: cannot be made private: %m");
    if (propagation & (MS_SHARED | MS_UNBINDABLE) &&
        mount_setattr(r->fd, "", AT_EMPTY_PATH, &private, sizeof(private)) < 0)
        return err_set(e, errno, "root.path %s: cannot be made private: %m", r->launch->rootfs);
    root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    res = root < 0 ? -errno : oci_mount_attach(r->fd, root);
    return res < 0 ? err_set(e, -res, "root.path %s: cannot be mounted: %s", r->launch->rootfs, strerrordesc_np(-res))
                   : 0;
}

static int rootfs_make_cwd(struct oci_rootfs *r, struct err *e)
{
    int fd = oci_path_mkdirs(r->fd, r->launch->process->cwd);

    if (fd < 0 && fd != -EROFS && fd != -EACCES)
        return err_set(e, -fd, "process.cwd %s: %s", r->launch->process->cwd, strerrordesc_np(-fd));
    if (fd >= 0)
        close(fd);
    return 0;
}

/* The host's /dev/null as a mount, since the host's root will be out of reach when it is needed. Read-only: the device
 * can still be written to, but its mode and owner, which are the host's, cannot be changed from inside. */
static int rootfs_null(struct oci_rootfs *r, struct err *e)
{
    struct mount_attr ro = { .attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC };
    struct stat st;

    if (r->spec->masked_paths.n == 0)
        return 0;
    r->null_mount = open_tree(AT_FDCWD, "/dev/null", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    if (r->null_mount < 0 || fstat(r->null_mount, &st) < 0)
        return err_set(e, errno, "/dev/null: %m");
    if (!S_ISCHR(st.st_mode) || st.st_rdev != makedev(1, 3))
        return err_set(e, EINVAL, "/dev/null is not the null device");
    if (mount_setattr(r->null_mount, "", AT_EMPTY_PATH, &ro, sizeof(ro)) < 0)
        return err_set(e, errno, "/dev/null: %m: make a mount of it read-only");
    return 0;
}

int oci_rootfs_setup(struct oci_rootfs *r, const struct oci_launch *l, struct err *e)
{
    int res;

    *r = (struct oci_rootfs){ .launch = l, .spec = l->spec, .fd = -1, .null_mount = -1, .own_dev = true };
    if (!rootfs_new_mounts(l->spec)) {
        r->own_dev = false;
        r->fd = open(l->rootfs, O_PATH | O_DIRECTORY | O_CLOEXEC);
        return r->fd < 0 ? err_set(e, errno, "root.path %s: %m", l->rootfs) : 0;
    }
    r->late_ro = calloc(l->spec->n_mounts + 1, sizeof(*r->late_ro));
    res = r->late_ro ? rootfs_null(r, e) : err_set(e, ENOMEM, "out of memory");
    if (res == 0)
        res = rootfs_attach(r, e);
    for (size_t i = 0; i < r->spec->n_mounts && res == 0; i++) {
        const struct oci_mount *m = &r->spec->mounts[i];

        if (m->bind && strcmp(m->destination, "/dev") == 0)
            r->own_dev = false;
        res = oci_mount_one(r, i, e);
    }
    if (res == 0 && r->own_dev)
        res = oci_devices_make(r, e);
    return res == 0 ? rootfs_make_cwd(r, e) : res;
}

static int rootfs_enter_by_chroot(struct err *e)
{
    if (chroot(".") < 0 || chdir("/") < 0)
        return err_set(e, errno, "cannot change the root: %m");
    return 0;
}

int oci_rootfs_enter(struct oci_rootfs *r, struct err *e)
{
    AUTO_FD int old = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);

    if (old < 0 || fchdir(r->fd) < 0)
        return err_set(e, errno, "root.path %s: %m", r->launch->rootfs);
    if (r->launch->no_pivot && rootfs_new_mounts(r->spec)) {
        int res = oci_rootfs_hide_host(r, old, e);

        return res < 0 ? res : rootfs_enter_by_chroot(e);
    }
    if (!rootfs_new_mounts(r->spec))
        return rootfs_enter_by_chroot(e);
    /* The old root ends up on top of the new one, and is taken away from there: no directory is needed for it. */
    if (syscall(SYS_pivot_root, ".", ".") < 0)
        return err_set(e, errno, "pivot_root: %m: on a root in RAM use --no-pivot");
    /* "." would be the new root still; and what is shared with the host must not be unmounted there. */
    if (fchdir(old) < 0 || mount(NULL, ".", NULL, MS_SLAVE | MS_REC, NULL) < 0 || umount2(".", MNT_DETACH) < 0 ||
        chdir("/") < 0)
        return err_set(e, errno, "the host's root cannot be taken away: %m");
    return 0;
}

static int rootfs_sysctl(struct oci_rootfs *r, struct err *e)
{
    for (size_t i = 0; i < r->spec->n_sysctl; i++) {
        const struct oci_key_value *kv = &r->spec->sysctl[i];
        char path[160] = "sys/";
        const size_t len = strlen(kv->key);
        const char *dot = strchr(kv->key, '.'), *slash = strchr(kv->key, '/');
        const bool swap = dot && (!slash || dot < slash);
        int res;

        if (len + 5 > sizeof(path))
            return err_set(e, ENAMETOOLONG, "linux.sysctl %s: is too long", kv->key);
        /* "a.b/c" is a/b.c; a name that has its slash first is a path already. */
        for (size_t k = 0; k <= len; k++)
            path[4 + k] = !swap ? kv->key[k] : kv->key[k] == '.' ? '/' : kv->key[k] == '/' ? '.' : kv->key[k];
        res = oci_path_write(r->launch->proc_fd, path, kv->value);
        if (res < 0)
            return err_set(e, -res, "linux.sysctl %s: %s", kv->key, strerrordesc_np(-res));
    }
    return 0;
}

/* What is to be read-only could not be filled before. */
static int rootfs_late_read_only(struct oci_rootfs *r, struct err *e)
{
    struct mount_attr ro = { .attr_set = MOUNT_ATTR_RDONLY };

    for (size_t i = 0; i < r->n_late_ro; i++) {
        if (mount_setattr(r->late_ro[i], "", AT_EMPTY_PATH, &ro, sizeof(ro)) < 0)
            return err_set(e, errno, "mounts: cannot be made read-only: %m");
        close(r->late_ro[i]);
    }
    r->n_late_ro = 0;
    if (r->spec->root_readonly && mount_setattr(r->fd, "", AT_EMPTY_PATH, &ro, sizeof(ro)) < 0)
        return err_set(e, errno, "root.readonly: %m");
    return 0;
}

int oci_rootfs_finish(struct oci_rootfs *r, struct err *e)
{
    const unsigned long propagation = r->spec->rootfs_propagation;
    int res = rootfs_sysctl(r, e);

    if (res < 0 || !rootfs_new_mounts(r->spec))
        return res;
    res = rootfs_late_read_only(r, e);
    if (res == 0)
        res = oci_mask_paths(r, e);
    if (res == 0 && propagation && mount(NULL, "/", NULL, propagation, NULL) < 0)
        res = err_set(e, errno, "linux.rootfsPropagation: %m");
    return res;
}
