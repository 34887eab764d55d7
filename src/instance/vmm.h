/* From the specification of a VM to its process. Any thread. */
#ifndef INSTANCE_VMM_H
#define INSTANCE_VMM_H

#include <stdbool.h>

#include "base/attr.h"
#include "base/err.h"
#include "instance/spawn.h"
#include "proto/vm_spec.h"

/* From a saved state instead of a kernel. */
struct inst_vmm_restore {
    int fd; /* of the file; borrowed */
    bool catch_up, new_identity;
    bool as_saved; /* with the memory and CPUs that it had, on disks that are as they were (instance/snapshot.h) */
};

/* What is done when the cards have joined their networks, before there is a process: the last that can fail without the
 * VM having begun. After its error the VM is not started. */
struct inst_vmm_hook {
    int (*fn)(void *opaque, struct err *e);
    void *opaque;
};

/* Complete a checked specification (addresses, ports of networks, its control socket's place where it has a name) and
 * start caisson-vmm with it. restore: NULL to boot. hook: NULL for none. stderr_fd as inst_vmm_spawn. The VM may still
 * fail to start: its process ends then. */
int inst_vmm_start(struct vm_spec *s, const struct inst_vmm_restore *restore, const struct inst_vmm_hook *hook,
                   int stderr_fd, struct inst_vmm *ret_vmm, struct err *e) MUST_USE;

/* Whether the guest has run from the state in fd, of inst_vmm_restore, by now: caisson-vmm moves the offset, which both
 * share, just before. */
bool inst_vmm_has_run(int fd) MUST_USE;

#endif
