/* Mounting layers by overlayfs. Where the kernel takes them one by one (6.5), any number; else as many as their paths
 * fit a page, taken from the folder that they share. Where it takes none, fuse-overlayfs does it. */
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "image/build_layer.h"
#include "image/image_priv.h"
#include "sys/overlay.h"

#define MOUNT_OPTIONS_MAX 4095

static bool mount_set(int fs, const char *key, const char *value)
{
    return syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, key, value, 0) == 0;
}

/* -ENOSYS: the kernel is too old for this way. */
static int mount_by_parts(const struct build_stack *stack, const char *upper, const char *work, const char *target)
{
    AUTO_FD int fs = (int)syscall(SYS_fsopen, "overlay", FSOPEN_CLOEXEC), mounted = -1;

    if (fs < 0)
        return -ENOSYS;
    for (size_t i = 0; i < stack->n; i++)
        if (!mount_set(fs, "lowerdir+", stack->paths[i]))
            return i == 0 ? -ENOSYS : -errno;
    if (upper && (!mount_set(fs, "upperdir", upper) || !mount_set(fs, "workdir", work)))
        return -errno;
    if (image_ids_userxattr()) {
        if (syscall(SYS_fsconfig, fs, FSCONFIG_SET_FLAG, "userxattr", NULL, 0) < 0)
            return -errno;
    } else if (!mount_set(fs, "redirect_dir", "off") || !mount_set(fs, "metacopy", "off") ||
               !mount_set(fs, "index", "off")) {
        return -errno;
    }
    if (syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
        return -errno;
    mounted = (int)syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, 0);
    if (mounted < 0 || syscall(SYS_move_mount, mounted, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) < 0)
        return -errno;
    return 0;
}

static int mount_by_options(const struct build_stack *stack, const char *upper, const char *work, const char *target)
{
    struct buf b;
    int r;

    buf_init(&b, MOUNT_OPTIONS_MAX + 1);
    buf_append_str(&b, "lowerdir=");
    for (size_t i = 0; i < stack->n; i++)
        buf_printf(&b, "%s%s", i ? ":" : "", stack->paths[i]);
    if (upper)
        buf_printf(&b, ",upperdir=%s,workdir=%s", upper, work);
    buf_append_str(&b, image_ids_userxattr() ? ",userxattr" : ",redirect_dir=off,metacopy=off,index=off");
    buf_append(&b, "", 1);
    r = buf_error(&b);
    if (r == 0 && mount("overlay", target, "overlay", 0, b.data) < 0)
        r = -errno;
    buf_done(&b);
    return r;
}

/* upper NULL: none. */
static int mount_by_fuse(const struct build_stack *stack, const char *upper, const char *work, const char *target,
                         struct err *e)
{
    AUTO_FREE int *lower = calloc(stack->n + 1, sizeof(*lower));
    AUTO_FD int upper_fd = -1, work_fd = -1, pidfd = -1; /* the process ends with this one */
    struct sys_overlay o = { .lower = lower, .place = target };
    char why[SYS_OVERLAY_WHY_MAX];
    int r = lower ? 0 : err_set(e, ENOMEM, "out of memory");

    for (; r == 0 && o.n < stack->n; o.n += r == 0) {
        lower[o.n] = open(stack->paths[o.n], O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (lower[o.n] < 0)
            r = err_set(e, errno, "cannot open %s: %s", stack->paths[o.n], strerror(errno));
    }
    o.upper = upper_fd = upper ? open(upper, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
    o.work = work_fd = upper ? open(work, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
    if (r == 0 && upper && (upper_fd < 0 || work_fd < 0))
        r = err_set(e, errno, "cannot open %s: %s", upper, strerror(errno));
    if (r == 0 && sys_overlay_fuse(&o, &pidfd, why) < 0)
        r = err_set(e, EIO, "cannot mount %zu layers: %s", stack->n, why);
    for (size_t i = 0; i < o.n; i++)
        close(lower[i]);
    return r;
}

/* The kernel does not know the marks that stand for whiteouts there. */
static bool mount_is_nested(const struct build_stack *stack)
{
    AUTO_FD int fd = stack->n ? open(stack->paths[0], O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;

    return fd >= 0 && sys_overlay_below(fd);
}

int build_mount_stack(const struct build_stack *stack, const char *upper, const char *work, const char *target,
                      struct err *e)
{
    int r;

    if (!upper && stack->n == 1) /* overlayfs wants two */
        r = mount(stack->paths[0], target, NULL, MS_BIND, NULL) < 0 ? -errno : 0;
    else
        r = mount_is_nested(stack) ? -EINVAL : mount_by_parts(stack, upper, work, target);
    if (r == -ENOSYS)
        r = mount_by_options(stack, upper, work, target);
    if (r < 0 && sys_overlay_refused(-r))
        return mount_by_fuse(stack, upper, work, target, e);
    if (r == -E2BIG)
        return err_set(e, E2BIG, "%zu layers are more than this kernel can mount at once; use one of 6.5 or newer",
                       stack->n);
    if (r < 0)
        return err_set(e, -r, "cannot mount %zu layers by overlayfs: %s; put CAISSON_STATE_DIR on ext4, xfs or btrfs",
                       stack->n, strerror(-r));
    return 0;
}
