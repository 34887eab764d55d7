/* --no-pivot: where pivot_root is impossible (the host's root is in RAM) the container's root lies upon the host's,
 * which cannot be taken away. Its mounts can: a user namespace made in the container would find the host's procfs among
 * them, uncovered, and could then mount one without any mask. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/num.h"
#include "base/text.h"
#include "oci/path.h"
#include "oci/rootfs.h"

#define MOUNTINFO_MAX (16u << 20)
#define PASSES_MAX 64 /* mounts upon one another at one place */

static int pivot_mount_id(int fd, uint64_t *ret)
{
    struct statx st;

    if (statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &st) < 0)
        return -errno;
    *ret = st.stx_mnt_id;
    return st.stx_mask & STATX_MNT_ID ? 0 : -EOPNOTSUPP;
}

/* Away with the mount that is seen at point, or else out of sight. 1: it went. */
static int pivot_hide(const char *point)
{
    /* What is shared with the host must stay there. */
    if (mount(NULL, point, NULL, MS_SLAVE | MS_REC, NULL) == 0 && umount2(point, MNT_DETACH | UMOUNT_NOFOLLOW) == 0)
        return 1;
    /* Those of another user namespace are locked. */
    if (errno != EINVAL && errno != EPERM)
        return -errno;
    return mount("tmpfs", point, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=0k,nr_inodes=1") < 0
               ? -errno
               : 0;
}

/* One pass over mountinfo: the mounts upon the host's root, but for ours. Returns how many went. */
static int pivot_pass(char *mountinfo, uint64_t host_id, uint64_t own_id)
{
    char *line;
    int gone = 0;

    while ((line = strsep(&mountinfo, "\n"))) {
        char *fields[5], *next = line;
        uint64_t id, parent;
        int r;

        for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
            fields[i] = strsep(&next, " ");
        if (!fields[4] || num_parse_u64(fields[0], 0, UINT32_MAX, &id) < 0 ||
            num_parse_u64(fields[1], 0, UINT32_MAX, &parent) < 0 || parent != host_id || id == own_id)
            continue;
        text_unescape_octal(fields[4]);
        if (strcmp(fields[4], "/") == 0)
            continue;
        r = pivot_hide(fields[4]);
        if (r < 0)
            return r;
        gone += r;
    }
    return gone;
}

int oci_rootfs_hide_host(struct oci_rootfs *r, int host_fd, struct err *e)
{
    uint64_t host_id, own_id;
    int res = pivot_mount_id(host_fd, &host_id);

    if (res == 0)
        res = pivot_mount_id(r->fd, &own_id);
    for (unsigned pass = 0; res == 0 && pass < PASSES_MAX; pass++) {
        AUTO_FREE char *mountinfo = NULL;
        size_t len;

        res = oci_path_read(r->launch->proc_fd, "self/mountinfo", MOUNTINFO_MAX, &mountinfo, &len);
        if (res < 0)
            break;
        res = pivot_pass(mountinfo, host_id, own_id);
        if (res == 0)
            return 0;
        res = MIN(res, 0);
    }
    return err_set(e, res < 0 ? -res : E2BIG, "--no-pivot: the host's mounts cannot be taken away: %s",
                   strerrordesc_np(res < 0 ? -res : E2BIG));
}
