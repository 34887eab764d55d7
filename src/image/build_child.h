/* A step of a build in a process of its own, which may change root, mounts and working directory. */
#ifndef IMAGE_BUILD_CHILD_H
#define IMAGE_BUILD_CHILD_H

#include <stdbool.h>

#include "base/attr.h"
#include "base/err.h"

/* Call fn in a child process and wait for its end; its result and text come back, nothing else does. The child is
 * killed with this process, and when step (may be NULL) returns false: -ECANCELED. Not in a process with other threads
 * that hold locks. */
int build_child_run(int (*fn)(void *opaque, struct err *e), void *opaque, bool (*step)(void *opaque), void *step_opaque,
                    struct err *e) MUST_USE;

#endif
