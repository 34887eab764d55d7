/* Copying a file within this machine. */
#ifndef SYS_COPY_H
#define SYS_COPY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"

/* Make `to` (which must not exist) a copy of the regular file `from`, on stable storage: by reference where the file
 * system can, else its data without its holes. step (may be NULL) is told bytes, and returns false to stop: -ECANCELED.
 * Nothing is left of `to` after a failure. -errno. Any thread. */
int sys_copy_file(const char *from, const char *to, bool (*step)(void *opaque, uint64_t done, uint64_t total),
                  void *opaque) MUST_USE;

#endif
