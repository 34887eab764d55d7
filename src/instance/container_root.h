/* Containers from outside: their root file system, what they changed, commands in them. These functions change the
 * whole process (its namespaces, for a user without rights its user): for programs that do one thing and end. */
#ifndef INSTANCE_CONTAINER_ROOT_H
#define INSTANCE_CONTAINER_ROOT_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/attr.h"
#include "base/err.h"
#include "store/instance.h"
#include "sys/place.h"

/* The root file system of a container, running or not, as an O_PATH descriptor: with its volumes, as it sees it. Use it
 * with sys/inroot.h only. One that does not run is locked meanwhile, so that nobody starts or removes it: leave place
 * in the end, also after an error. */
int inst_container_root(const struct store_instance *i, struct sys_place *place, int *ret_fd, struct err *e) MUST_USE;
/* Who runs its program, as ids of this process. */
int inst_container_owner(const struct store_instance *i, int root_fd, uid_t *ret_uid, gid_t *ret_gid,
                         struct err *e) MUST_USE;

/* Call fn for each path that differs from the image, in order: 'A' added, 'C' changed, 'D' deleted. path begins with a
 * slash. A result other than 0 ends the walk. */
int inst_container_diff(const struct store_instance *i, int (*fn)(void *opaque, char kind, const char *path),
                        void *opaque, struct err *e) MUST_USE;

/* A command in a running container. */
struct inst_exec {
    char *const *command; /* n_command */
    int n_command;
    bool terminal, in; /* -t, -i */
    bool detach, privileged;
    const char *user, *cwd;  /* NULL: the container's */
    struct inst_strings env; /* in addition */
};
/* Runs it on this process's standard descriptors and waits; *ret_status: its exit status (0 where detached). -ENOENT,
 * -EACCES: it could not be executed; -ENOTCONN: the container does not run. */
int inst_container_exec(const struct store_instance *i, const struct inst_exec *x, int *ret_status,
                        struct err *e) MUST_USE;
/* The process ids in a running container, as this process sees them. Caller frees. */
int inst_container_pids(const struct store_instance *i, pid_t **ret_pids, size_t *ret_n, struct err *e) MUST_USE;

#endif
