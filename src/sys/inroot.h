/* Paths inside a directory tree that may be hostile and may change while we look (the root of a container): each
 * look-up is one openat2 with RESOLVE_IN_ROOT, so that neither ".." nor a symbolic link leads out of it, and what
 * follows works on descriptors. Any thread. */
#ifndef SYS_INROOT_H
#define SYS_INROOT_H

#include <sys/types.h>

#include "base/attr.h"

/* Open path below root_fd; O_CLOEXEC is added, links of procfs are refused. A descriptor or -errno. */
int sys_inroot_open(int root_fd, const char *path, int flags, mode_t mode) MUST_USE;
/* Open the directory that holds path (O_PATH) and say its last part, without slashes behind it. -EINVAL: there is none
 * ("/", "..", "a/."); -ENAMETOOLONG. */
int sys_inroot_parent(int root_fd, const char *path, char *ret_name, size_t size) MUST_USE;

#endif
