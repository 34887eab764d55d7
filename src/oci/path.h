/* Paths inside a root file system that may be hostile and may change while we look: every look-up is one openat2 with
 * RESOLVE_IN_ROOT, and what follows works on the descriptor. */
#ifndef OCI_PATH_H
#define OCI_PATH_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/attr.h"
#include "base/err.h"

/* Open path below root_fd, which symbolic links cannot leave. flags: of openat (O_CLOEXEC is added). A descriptor or
 * -errno. */
int oci_path_open(int root_fd, const char *path, int flags) MUST_USE;
/* Likewise for a path that must stay below fd on one mount, without any symbolic link: for procfs and cgroupfs. */
int oci_path_open_beneath(int fd, const char *path, int flags) MUST_USE;
/* Make the directory path with its parents (0755 each) and open it (O_PATH). */
int oci_path_mkdirs(int root_fd, const char *path) MUST_USE;
/* Likewise on the host, by its own rules for links; the last part gets mode. 0, also where it is there already. */
int oci_path_mkdirs_host(const char *path, mode_t mode) MUST_USE;
/* The place of a mount: the file or directory at path, made where it is missing; O_PATH. */
int oci_path_target(int root_fd, const char *path, bool directory) MUST_USE;
/* Open the directory that holds path (made with its parents where missing; O_PATH) and point *ret_name to its last
 * part, inside path. -EINVAL: there is none ("/", "..", "a/."). */
int oci_path_parent(int root_fd, const char *path, const char **ret_name) MUST_USE;
/* /proc, checked to be procfs; O_PATH. */
int oci_path_proc(struct err *e) MUST_USE;
/* Write a whole value by one write(2); flags for the open beneath fd besides O_WRONLY. */
int oci_path_write(int fd, const char *path, const char *text) MUST_USE;
/* Read a small file whole, at most max bytes (-EFBIG); caller frees *ret, which ends with a zero byte. path_fd:
 * AT_FDCWD or a directory. */
int oci_path_read(int dir_fd, const char *path, size_t max, char **ret, size_t *ret_len) MUST_USE;

#endif
