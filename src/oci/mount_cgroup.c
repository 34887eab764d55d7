#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "oci/cgroup.h"
#include "oci/path.h"
#include "oci/rootfs.h"

/* A hierarchy as a detached mount. With a cgroup namespace it is mounted anew and shows the container's group as its
 * root; without one the container's group is bound. */
static int mount_hierarchy(struct oci_rootfs *r, const struct oci_cgroup_hierarchy *h, unsigned attr, struct err *e)
{
    struct mount_attr set = { .attr_set = attr };
    char path[4096];
    int fd;

    if (r->spec->ns[OCI_NS_CGROUP].wanted) {
        fd = oci_mount_new(h->options ? "cgroup" : "cgroup2", h->options ? "cgroup" : "cgroup2", h->options, attr,
                           h->name, e);
        /* A user namespace may not mount some of them. */
        if (fd >= 0 || (fd != -EPERM && fd != -EBUSY && fd != -EINVAL))
            return fd;
    }
    if ((size_t)snprintf(path, sizeof(path), "%s%s", h->mount, h->path) >= sizeof(path))
        return err_set(e, ENAMETOOLONG, "cgroup %s: its path is too long", h->name);
    fd = open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    if (fd < 0)
        return err_set(e, errno, "cgroup %s: %m", path);
    if (mount_setattr(fd, "", AT_EMPTY_PATH, &set, sizeof(set)) < 0) {
        int r_ = err_set(e, errno, "cgroup %s: %m", path);

        close(fd);
        return r_;
    }
    return fd;
}

/* "cpu" and "cpuacct" of a hierarchy that is called "cpu,cpuacct". */
static int mount_links(int tmp, const char *name, struct err *e)
{
    if (!strchr(name, ','))
        return 0;
    for (const char *p = name; *p;) {
        const size_t len = strcspn(p, ",");
        char link[64];

        if (len < sizeof(link)) {
            memcpy(link, p, len);
            link[len] = '\0';
            if (symlinkat(name, tmp, link) < 0 && errno != EEXIST)
                return err_set(e, errno, "cgroup %s: %m", link);
        }
        p += len + (p[len] == ',');
    }
    return 0;
}

static int mount_v1(struct oci_rootfs *r, const struct oci_mount *m, const struct oci_cgroup_hierarchy *h, size_t n,
                    int place, struct err *e)
{
    const unsigned attr = oci_mount_attr(m->flags);
    struct mount_attr ro = { .attr_set = attr & MOUNT_ATTR_RDONLY };
    AUTO_FD int tmp =
        oci_mount_new("tmpfs", "tmpfs", "mode=755", attr & ~(unsigned)MOUNT_ATTR_RDONLY, m->destination, e);
    int res = tmp < 0 ? tmp : oci_mount_attach(tmp, place);

    if (res < 0)
        return tmp < 0 ? tmp : err_set(e, -res, "mount %s: %s", m->destination, strerrordesc_np(-res));
    for (size_t i = 0; i < n; i++) {
        AUTO_FD int fd = mount_hierarchy(r, &h[i], attr, e), dir = -1;

        if (fd < 0)
            return fd;
        if (mkdirat(tmp, h[i].name, 0755) < 0 && errno != EEXIST)
            return err_set(e, errno, "mount %s/%s: %m", m->destination, h[i].name);
        dir = openat(tmp, h[i].name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        res = dir < 0 ? -errno : oci_mount_attach(fd, dir);
        if (res < 0)
            return err_set(e, -res, "mount %s/%s: %s", m->destination, h[i].name, strerrordesc_np(-res));
        res = mount_links(tmp, h[i].name, e);
        if (res < 0)
            return res;
    }
    if (ro.attr_set && mount_setattr(tmp, "", AT_EMPTY_PATH, &ro, sizeof(ro)) < 0)
        return err_set(e, errno, "mount %s: %m", m->destination);
    return 0;
}

int oci_mount_cgroup(struct oci_rootfs *r, const struct oci_mount *m, struct err *e)
{
    const struct oci_cgroup_hierarchy *h = NULL;
    size_t n = r->launch->cgroup ? oci_cgroup_hierarchies(r->launch->cgroup, &h) : 0;
    AUTO_FD int place = oci_path_mkdirs(r->fd, m->destination), fd = -1;
    int res;

    if (place < 0)
        return err_set(e, -place, "mount %s: the place cannot be made: %s", m->destination, strerrordesc_np(-place));
    if (n == 0)
        return 0;
    res = oci_mount_check_place(r, m, place, e);
    if (res < 0)
        return res;
    if (n > 1 || h[0].options)
        return mount_v1(r, m, h, n, place, e);
    fd = mount_hierarchy(r, &h[0], oci_mount_attr(m->flags), e);
    res = fd < 0 ? 0 : oci_mount_attach(fd, place);
    return fd < 0 ? fd : res < 0 ? err_set(e, -res, "mount %s: %s", m->destination, strerrordesc_np(-res)) : 0;
}
