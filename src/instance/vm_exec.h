/* Running a command in a VM (vm_exec.c). */
#ifndef INSTANCE_VM_EXEC_H
#define INSTANCE_VM_EXEC_H

#include <sys/types.h>

#include "base/attr.h"
#include "base/err.h"
#include "proto/inst_spec.h"

/* Start command in the VM of that name by its agent, as root. *ret_pid: a child that ends with its exit code, or with
 * 125 where no agent answers; to be reaped. The calling process has one thread. */
int inst_vm_exec(const char *name, const struct inst_strings *command, pid_t *ret_pid, struct err *e) MUST_USE;

#endif
