/* Removing a directory with all that is in it. */
#ifndef SYS_TREE_H
#define SYS_TREE_H

#include "base/attr.h"

/* Remove path and, where it is a directory, what is below it: symbolic links are removed, never followed, and what is
 * mounted below is left (-EBUSY). Directories without rights are opened first. -ENOENT is no error. Goes on after an
 * error and returns the first one. Any thread. */
int sys_tree_remove(const char *path) MUST_USE;

#endif
