/* exec and cp for VMs: by the agent in the guest (docs/guest-agent.md). */
#ifndef CLI_VM_AGENT_H
#define CLI_VM_AGENT_H

#include <stdbool.h>

#include "base/attr.h"
#include "base/err.h"

struct cli_args;
struct inst_exec;
struct store_instance;

/* As inst_container_exec, with this program's terminal and signals as those of the command. wait_ms: for the agent at
 * most; after some seconds a line on stderr says so. -ENOTCONN: the VM does not run; -ETIMEDOUT: it has no agent that
 * answers; -EOPNOTSUPP: an option that a VM has no meaning for. */
int cli_vm_exec(const struct store_instance *i, const struct inst_exec *x, int wait_ms, int *ret_status,
                struct err *e) MUST_USE;
/* --timeout, or what a guest that has just been started may need until its agent runs. */
int cli_vm_agent_wait(const struct cli_args *args, int *ret_ms, struct err *e) MUST_USE;

/* One copy between this host and a VM. host: a path here, or "-" for an archive on standard input or output. */
struct cli_vm_copy {
    const struct store_instance *instance;
    int wait_ms; /* as of cli_vm_exec */
    const char *host, *guest;
    bool in;     /* into the guest */
    bool follow; /* a link at host is followed */
};
/* As `cp` of files: into guest where that is a folder, else it becomes guest. */
int cli_vm_cp(const struct cli_vm_copy *c, struct err *e) MUST_USE;

#endif
