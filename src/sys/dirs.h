/* The directories of this user for Caisson: state, which outlives a reboot, and runtime, which does not. Root's are
 * /var/lib/caisson and /run/caisson, others' follow the XDG base directories. Overridden by CAISSON_STATE_DIR and
 * CAISSON_RUNTIME_DIR (tests, several installations). Any thread, as long as nobody changes the environment. */
#ifndef SYS_DIRS_H
#define SYS_DIRS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attr.h"

#define SYS_DIR_MAX 1024

/* The path of the state directory, nothing made: $CAISSON_STATE_DIR, /var/lib/caisson (root), $XDG_STATE_HOME/caisson
 * or $HOME/.local/state/caisson. -ENOENT: no home known; -ENAMETOOLONG. */
int sys_dirs_state(char ret_path[SYS_DIR_MAX]) MUST_USE;
/* The path of the runtime directory: $CAISSON_RUNTIME_DIR, /run/caisson (root), $XDG_RUNTIME_DIR/caisson or
 * /tmp/caisson-UID. -ENAMETOOLONG. */
int sys_dirs_runtime(char ret_path[SYS_DIR_MAX]) MUST_USE;

/* Make the directory path with its parents, where they are missing, for this user only (0700). It may be there already;
 * a directory of somebody else or one where others may write is -EPERM, whether it was there or somebody made it
 * meanwhile. Otherwise mkdir's errors. */
int sys_dirs_make(const char *path) MUST_USE;

#endif
