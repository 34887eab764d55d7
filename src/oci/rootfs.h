/* The container's root file system, in its first process: mounts, devices, masks, and the change of root. Everything is
 * done with descriptors of detached mounts and with openat2 below the new root, since the root's content may be
 * hostile. Runs in the new mount namespace, with the host's root still in sight until oci_rootfs_enter. */
#ifndef OCI_ROOTFS_H
#define OCI_ROOTFS_H

#include <stdbool.h>

#include "base/attr.h"
#include "base/err.h"
#include "oci/launch.h"

struct oci_rootfs {
    const struct oci_launch *launch;
    const struct oci_spec *spec;
    int fd;       /* the new root: O_PATH of its mount */
    bool own_dev; /* /dev is a mount of config.json that is filled by us (not bound from the host) */
    int *late_ro; /* mounts that become read-only when all else is done, since it may have to be done in them */
    size_t n_late_ro;
    int null_mount; /* the host's /dev/null, checked, as a mount to cover files with; -1: nothing is masked */
};

/* Parent: what the child cannot do itself. The root and the sources of bind mounts, where a user namespace would keep
 * the child from them; mounts with mapped ids. */
int oci_rootfs_prepare(struct oci_launch *l, struct err *e) MUST_USE;
/* Child: attach the root, make all mounts, devices and links. */
int oci_rootfs_setup(struct oci_rootfs *r, const struct oci_launch *l, struct err *e) MUST_USE;
/* Child: the root becomes /; the host's is gone. */
int oci_rootfs_enter(struct oci_rootfs *r, struct err *e) MUST_USE;
/* Child, after that: masked and read-only paths, sysctl, root read-only and its propagation. */
int oci_rootfs_finish(struct oci_rootfs *r, struct err *e) MUST_USE;

/* ---- the parts, for each other ---- */

/* mount.c: one of config.json's mounts; index: of spec->mounts. */
int oci_mount_one(struct oci_rootfs *r, size_t index, struct err *e) MUST_USE;
/* A new file system as a detached mount. data: comma-separated options; attr: MOUNT_ATTR_*. what: for the text. */
int oci_mount_new(const char *type, const char *source, const char *data, unsigned attr, const char *what,
                  struct err *e) MUST_USE;
/* Attach a detached mount at a place. -errno. */
int oci_mount_attach(int mount_fd, int place_fd) MUST_USE;
/* Whether a mount may stand at a place, by where that really is: the kernel's word for the descriptor (the new root
 * lies upon /, see rootfs.c). Not upon the root, nor inside /proc but for few files. */
int oci_mount_check_place(const struct oci_rootfs *r, const struct oci_mount *m, int place, struct err *e) MUST_USE;
/* MS_* as MOUNT_ATTR_*. */
unsigned oci_mount_attr(unsigned long flags);
/* The detached copy of a bind mount's source, its ids mapped as m wants it. Parent or child. */
int oci_mount_source(const struct oci_launch *l, const struct oci_mount *m, int userns_fd, struct err *e) MUST_USE;

/* mount_cgroup.c: a mount of type cgroup. */
int oci_mount_cgroup(struct oci_rootfs *r, const struct oci_mount *m, struct err *e) MUST_USE;
/* copyup.c: copy the directory from_fd into the directory to_fd. */
int oci_copy_up(int from_fd, int to_fd, struct err *e) MUST_USE;
/* device.c: nodes and links in /dev. */
int oci_devices_make(struct oci_rootfs *r, struct err *e) MUST_USE;
/* no_pivot.c: take away the mounts upon the host's root, which host_fd is, but ours upon it. Paths still begin there.
 */
int oci_rootfs_hide_host(struct oci_rootfs *r, int host_fd, struct err *e) MUST_USE;
/* mask.c: masked and read-only paths, after the change of root. */
int oci_mask_paths(struct oci_rootfs *r, struct err *e) MUST_USE;

#endif
