/* Starting caisson-vmm, the process that is the VM. The CLI never links the machine: it hands over a specification. */
#ifndef CLI_SPAWN_H
#define CLI_SPAWN_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/attr.h"
#include "base/err.h"

struct cli_vmm {
    pid_t pid;
    int pidfd;
    int console; /* our end of the console's socket pair, or -1 */
};

/* Start caisson-vmm with the JSON specification spec; with_console: give it a socket as its serial console. The child
 * dies with this process. On success the caller reaps it and closes the descriptors. */
int cli_vmm_spawn(const char *spec, bool with_console, struct cli_vmm *ret_vmm, struct err *e) MUST_USE;

/* Run caisson-vmm with an option that makes it report something (value: its argument, or NULL) and collect what it
 * prints
 * (*ret_text malloc'd). Returns 0, its exit code (> 0) where it failed and said why, or -errno with text. */
int cli_vmm_report(const char *option, const char *value, char **ret_text, struct err *e) MUST_USE;

#endif
