/* Whole directory trees: copied, measured. All work is done with descriptors, one directory after the other, never
 * through a symbolic link, so that a tree that somebody changes meanwhile leads nowhere else. Any thread. */
#ifndef SYS_TREE_COPY_H
#define SYS_TREE_COPY_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/attr.h"

#define SYS_TREE_DEPTH_MAX 2048

/* Copy what is in directory from_fd into directory to_fd, as exactly as we may: owners, modes, times, extended
 * attributes, hard links not. Files that are there already are replaced, directories are entered. -ENOTEMPTY, -EISDIR
 * where a directory meets a file. */
int sys_tree_copy(int from_fd, int to_fd) MUST_USE;
/* Who is to own the copies. */
struct sys_tree_owner {
    uid_t uid;
    gid_t gid;
};
/* The first thing that went wrong: where below what is copied ("": itself), and on which side. */
struct sys_tree_failure {
    char path[PATH_MAX];
    bool set, source;
};
struct sys_tree_how {
    /* NULL: as they are. Files that change hands lose setuid and setgid bits and security.* attributes. */
    const struct sys_tree_owner *owner;
    /* Device nodes are not made; the call says which. NULL: they are made. */
    void (*device)(void *opaque, const char *path);
    void *opaque;
    struct sys_tree_failure *failure; /* NULL: of no interest */
};
/* One entry: from_name below from_fd becomes to_name below to_fd. */
int sys_tree_copy_entry(int from_fd, const char *from_name, int to_fd, const char *to_name,
                        const struct sys_tree_how *how) MUST_USE;
/* What is in directory from_fd into to_fd, whose own attributes stay. */
int sys_tree_copy_content(int from_fd, int to_fd, const struct sys_tree_how *how) MUST_USE;
/* The open file from becomes to_name below to_fd. */
int sys_tree_copy_file(int from, int to_fd, const char *to_name, const struct sys_tree_how *how) MUST_USE;
/* Bytes and entries of a tree, itself included, as its files' blocks say. */
int sys_tree_size(int dir_fd, const char *name, uint64_t *ret_bytes, uint64_t *ret_entries) MUST_USE;

#endif
