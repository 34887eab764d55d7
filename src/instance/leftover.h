/* Processes of an instance, found and read through /proc. Any thread. */
#ifndef INSTANCE_LEFTOVER_H
#define INSTANCE_LEFTOVER_H

#include <stdint.h>
#include <sys/types.h>

#include "base/attr.h"

/* The supervisor and all that it starts have this variable in their environment, with the id. */
#define INST_ENV_ID "CAISSON_INSTANCE"

/* Kill the processes of this instance that run the program named so, which outlived a supervisor, and wait until they
 * are gone. -ETIMEDOUT: one does not end (it hangs in the kernel); errors of /proc. */
int inst_kill_leftover(const char *id, const char *program) MUST_USE;

struct inst_process_stats {
    pid_t parent;
    uint64_t cpu_ns, resident; /* bytes */
    uint64_t threads;
};
/* -ESRCH and the like: it is gone. */
int inst_process_stats(pid_t pid, struct inst_process_stats *ret_stats) MUST_USE;

#endif
