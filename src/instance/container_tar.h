/* Trees as tar archives: streams into a directory and out of it. Archives are a stranger's: nothing in them leads out
 * of the directory. Any thread. */
#ifndef INSTANCE_CONTAINER_TAR_H
#define INSTANCE_CONTAINER_TAR_H

#include <stdbool.h>

#include "base/attr.h"
#include "base/err.h"

struct sys_tree_owner;

/* Write name below dir_fd with all that is in it ("." : the content of dir_fd) to fd as a pax archive. -errno with
 * text.
 */
int inst_tar_create(int fd, int dir_fd, const char *name, struct err *e) MUST_USE;
/* What is taken of an archive. */
struct inst_tar_take {
    const struct sys_tree_owner *owner; /* NULL: as the archive says */
    const char *only;                   /* the one name below dir_fd that may come, with all in it; NULL: any */
    bool guest; /* made by a guest for this host: no device nodes, no setuid and setgid bits, no compression */
};

/* Unpack the archive that fd reads (compressed ones too) below dir_fd, which is taken for the root. Extended attributes
 * are left out. -EBADMSG with text: damaged, or an entry that `take` forbids; what came before it is there. */
int inst_tar_extract(int fd, int dir_fd, const struct inst_tar_take *take, struct err *e) MUST_USE;

#endif
