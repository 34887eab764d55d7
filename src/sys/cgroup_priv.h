/* Shared by the files of sys/cgroup. */
#ifndef SYS_CGROUP_PRIV_H
#define SYS_CGROUP_PRIV_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/attr.h"

/* open + read until size - 1 bytes or the end + close, NUL behind. Returns the length or -errno. */
ssize_t cgroup_read_at(int dirfd, const char *path, char *ret_text, size_t size) MUST_USE;

/* The controllers (1 << enum sys_cgroup_controller) of a list of names, separated by commas, blanks or newlines. */
uint32_t cgroup_parse_controllers(const char *list, bool v2);

/* Visit dir and all groups below it, parents first; leave, where not NULL, runs when everything below a group has been
 * visited, with its parent's descriptor (not for dir itself). A negative result of either ends the walk. One
 * descriptor at a time: a container may have nested its groups as deep as it liked. */
struct cgroup_walk {
    int (*enter)(int fd, void *opaque);                          /* may be NULL */
    int (*leave)(int parent_fd, const char *name, void *opaque); /* may be NULL */
    void *opaque;
};
int cgroup_walk(const char *dir, const struct cgroup_walk *w) MUST_USE;

#endif
