#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "oci/path.h"
#include "oci/rootfs.h"

/* A mount that covers several places: itself the first, copies of it then (only what is attached can be copied). */
struct mask_cover {
    int fd;
    bool used;
};

static int mask_cover(struct mask_cover *c, int place)
{
    AUTO_FD int copy = -1;

    if (!c->used) {
        int r = oci_mount_attach(c->fd, place);

        c->used = r == 0;
        return r;
    }
    copy = open_tree(c->fd, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
    return copy < 0 ? -errno : oci_mount_attach(copy, place);
}

/* Cover a file by the host's /dev/null (never by the container's, which may be something else: CVE-2025-31133), a
 * directory by an empty tmpfs that all of them share. */
static int mask_one(struct oci_rootfs *r, const char *path, struct mask_cover *null, struct mask_cover *empty,
                    struct err *e)
{
    AUTO_FD int place = oci_path_open(r->fd, path, O_PATH);
    struct stat st;
    int res;

    if (place == -ENOENT || place == -ENOTDIR)
        return 0;
    if (place < 0 || fstat(place, &st) < 0)
        return err_set(e, place < 0 ? -place : errno, "linux.maskedPaths %s: cannot be opened", path);
    if (S_ISDIR(st.st_mode) && empty->fd < 0) {
        empty->fd =
            oci_mount_new("tmpfs", "tmpfs", "nr_inodes=1,mode=755",
                          MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC, path, e);
        if (empty->fd < 0)
            return empty->fd;
    }
    res = mask_cover(S_ISDIR(st.st_mode) ? empty : null, place);
    return res < 0 ? err_set(e, -res, "linux.maskedPaths %s: %s", path, strerrordesc_np(-res)) : 0;
}

static int mask_read_only(struct oci_rootfs *r, const char *path, struct err *e)
{
    struct mount_attr ro = { .attr_set = MOUNT_ATTR_RDONLY };
    AUTO_FD int place = oci_path_open(r->fd, path, O_PATH), copy = -1;
    int res;

    if (place == -ENOENT || place == -ENOTDIR)
        return 0;
    if (place < 0)
        return err_set(e, -place, "linux.readonlyPaths %s: %s", path, strerrordesc_np(-place));
    copy = open_tree(place, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE);
    if (copy < 0 || mount_setattr(copy, "", AT_EMPTY_PATH | AT_RECURSIVE, &ro, sizeof(ro)) < 0)
        return err_set(e, errno, "linux.readonlyPaths %s: %m", path);
    res = oci_mount_attach(copy, place);
    return res < 0 ? err_set(e, -res, "linux.readonlyPaths %s: %s", path, strerrordesc_np(-res)) : 0;
}

int oci_mask_paths(struct oci_rootfs *r, struct err *e)
{
    const struct oci_spec *s = r->spec;
    struct mask_cover null = { .fd = r->null_mount }, empty = { .fd = -1 };
    int res = 0;

    for (size_t i = 0; i < s->readonly_paths.n && res == 0; i++)
        res = mask_read_only(r, s->readonly_paths.v[i], e);
    for (size_t i = 0; i < s->masked_paths.n && res == 0; i++)
        res = mask_one(r, s->masked_paths.v[i], &null, &empty, e);
    if (empty.fd >= 0)
        close(empty.fd);
    return res;
}
