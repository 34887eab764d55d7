/* Being root of a user namespace, for what a user without rights cannot do otherwise: files of several ids, mounts. Ids
 * come from /etc/subuid and /etc/subgid by newuidmap(1), so that 0 is the user and 1 on are the subordinate ids; where
 * the user has none, there is 0 only. These functions change the whole process, which must have one thread. */
#ifndef SYS_USERNS_H
#define SYS_USERNS_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/attr.h"

/* Whether this process is not the machine's root: another user, or root of a user namespace. */
bool sys_userns_rootless(void);
/* Whether /etc/subuid gives this user ids. */
bool sys_userns_has_subids(void);
/* Somebody else than root becomes root of a new user namespace with a mount namespace; root: nothing happens. The
 * places of sys/dirs.h stay what they are (in the environment). -EPERM, -ENOSPC, -EUSERS: the kernel allows no user
 * namespaces; -ENOENT: newuidmap is missing though the user has subordinate ids; -EIO: newuidmap failed. */
int sys_userns_enter(void) MUST_USE;
/* Somebody else than root joins the user namespace of a process, and its mount namespace (mounts); root: nothing
 * happens. The places stay, as above. -ESRCH: it has gone; -EPERM: they are not this user's. */
int sys_userns_join(pid_t pid, bool mounts) MUST_USE;

#endif
