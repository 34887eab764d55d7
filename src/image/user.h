/* Users by a root file system's own /etc/passwd and /etc/group, which may be hostile: opened below that root, read up
 * to a limit, lines that make no sense passed over. Of containers, and of the commands and copies of a build. */
#ifndef IMAGE_USER_H
#define IMAGE_USER_H

#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"

struct image_user {
    uint32_t uid, gid;
    uint32_t *groups; /* n_groups */
    size_t n_groups;
    char home[256]; /* "/" where it is not known */
};

/* Look a user up, USER[:GROUP], names or numbers ("", NULL: root). -ENOENT with text. The caller frees groups. */
int image_user_find(int root_fd, const char *user, struct image_user *ret_user, struct err *e) MUST_USE;

#endif
