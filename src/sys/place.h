/* Where a process of Caisson can be found by its name: a lock, held as long as it lives, and a listening socket beside
 * it, which are removed at the end. A socket without a lock is a dead process's, and makes way. Any thread. */
#ifndef SYS_PLACE_H
#define SYS_PLACE_H

#include <stdbool.h>

#include "base/attr.h"
#include "sys/dirs.h"

#define SYS_PLACE_PATH_MAX (SYS_DIR_MAX + 80)

struct sys_place {
    char lock_path[SYS_PLACE_PATH_MAX], socket_path[SYS_PLACE_PATH_MAX];
    int lock, socket; /* -1: none */
};

/* Where taking a place failed. */
enum sys_place_step { SYS_PLACE_NAME, SYS_PLACE_DIR, SYS_PLACE_LOCK, SYS_PLACE_SOCKET };

/* Take the lock dir/name.lock and listen at dir/name.sock (SOCK_SEQPACKET, does not block). dir is made, for this user
 * only. -EBUSY: another process has the place; -ENAMETOOLONG: longer than a socket's address may be; -EPERM: the
 * directory is not the user's own; others of open and bind. *ret_step: where it failed. p is to be left with
 * sys_place_leave in any case. */
int sys_place_take(const char *dir, const char *name, struct sys_place *p, enum sys_place_step *ret_step) MUST_USE;
/* Take the lock only, for work that must not meet the process of that name, or another one at the same work. Errors and
 * end as above. */
int sys_place_lock(const char *dir, const char *name, struct sys_place *p) MUST_USE;
/* Remove the socket and the lock. Accepts one that was not taken (lock and socket -1). */
void sys_place_leave(struct sys_place *p);

/* Remove the locks and sockets in dir that dead processes left, of places that nobody may ever want again. keep:
 * whether those of that name stay (NULL: none do). Who takes such a place at this moment may find it busy. */
void sys_place_sweep(const char *dir, bool (*keep)(void *opaque, const char *name), void *opaque);

/* Accept a connection at the place, close-on-exec, that does not block: of this user or root only. -EPERM: of somebody
 * else; errors of accept4. */
int sys_place_accept(const struct sys_place *p) MUST_USE;

#endif
