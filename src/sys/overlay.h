/* Overlays of folders where the kernel's overlayfs does not do: it takes no upper folder on another overlayfs (a
 * machine that is a container itself), and some kernels refuse it to users. The program fuse-overlayfs does the same
 * there. It knows the kernel's marks, and has its own for where these cannot be made: an empty file .wh.NAME (0700)
 * says that NAME is deleted, .wh..wh..opq that its folder is opaque. */
#ifndef SYS_OVERLAY_H
#define SYS_OVERLAY_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/attr.h"

struct stat;

#define SYS_OVERLAY_WHITEOUT ".wh."
#define SYS_OVERLAY_OPAQUE ".wh..wh..opq"
#define SYS_OVERLAY_MARK_MODE 0700 /* of these files */
#define SYS_OVERLAY_WHY_MAX 256

/* Whether a folder (any descriptor of it) lies on an overlayfs. */
bool sys_overlay_below(int fd);
/* Whether the kernel's answer to an overlay mount (errno) says that it cannot, here. */
bool sys_overlay_refused(int error);
/* Where the program is. -ENOENT: it is not installed; else why /dev/fuse cannot be opened. */
int sys_overlay_program(char ret_path[PATH_MAX]) MUST_USE;

struct sys_overlay {
    const int *lower; /* n folders, topmost first */
    size_t n;
    int upper, work;   /* -1: none, it can only be read */
    const char *place; /* a folder, by its path */
    bool volatile_;    /* need not be written to the disk */
};
/* Mount by fuse-overlayfs, in this mount namespace. *ret_pidfd: its process, a child of this thread, with which it
 * dies; data is with the lower file system when a write returns, so nothing is lost then. -errno; ret_why: what stopped
 * it and what to do, for users. */
int sys_overlay_fuse(const struct sys_overlay *o, int *ret_pidfd, char ret_why[SYS_OVERLAY_WHY_MAX]) MUST_USE;
/* After the umount: wait for the process and reap it; one that does not end is killed. -1 accepted. Closes pidfd. */
void sys_overlay_fuse_end(int pidfd);

/* ---- marks ---- */

/* Whether a folder (open for reading) is opaque, by whoever's mark. */
bool sys_overlay_is_opaque(int fd);
/* The name that the file name in dir marks as deleted, a part of name; "": another mark, of no meaning by itself; NULL:
 * it is no mark. st: of the file. Whiteouts that are devices are not looked at. */
const char *sys_overlay_mark(const char *name, const struct stat *st);
/* Whether a file in dir marks name as deleted. */
bool sys_overlay_marked(int dir, const char *name);

#endif
