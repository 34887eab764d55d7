/* Starting a process of the guest with its ends of pipes or of a terminal. */
#ifndef AGENT_SPAWN_H
#define AGENT_SPAWN_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/attr.h"
#include "base/err.h"

struct agent_request;

/* The process leads a session and process group of its own. Descriptors do not block, close-on-exec; -1: none. */
struct agent_child {
    pid_t pid;
    int pidfd;
    int in, out, err; /* our ends; with a terminal in and out are two descriptors of its master, err is -1 */
    bool tty;
};

/* Start argv with q's environment, directory, user and terminal. -errno with text: of finding the user, or of starting
 * the program. */
int agent_spawn(const struct agent_request *q, char *const *argv, struct agent_child *ret, struct err *e) MUST_USE;
/* Close the descriptors. */
void agent_child_close(struct agent_child *c);

#endif
