/* Users of the guest, from /etc/passwd and /etc/group alone: the program is static. */
#ifndef AGENT_USER_H
#define AGENT_USER_H

#include <sys/types.h>

#include "base/attr.h"
#include "base/err.h"

#define AGENT_GROUPS_MAX 64

struct agent_user {
    uid_t uid;
    gid_t gid;
    gid_t groups[AGENT_GROUPS_MAX];
    size_t n_groups;
    char name[64], home[256], shell[256];
};

/* text: NAME or UID, with :GROUP or :GID; NULL: root. A number need not be in the files. -ENOENT with text. */
int agent_user_find(const char *text, struct agent_user *ret, struct err *e) MUST_USE;

#endif
