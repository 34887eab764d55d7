/* A running VM, seen from who manages it: finding it by its name, and asking it (proto/vm_msg.h). Any thread. */
#ifndef INSTANCE_VM_CLIENT_H
#define INSTANCE_VM_CLIENT_H

#include "base/attr.h"
#include "base/err.h"
#include "proto/vm_msg.h"

struct json_object;

/* The directory of the sockets of this user's VMs; nothing is made. -errno with text. */
int inst_vm_run_dir(char *ret_path, size_t size, struct err *e) MUST_USE;
/* Connect to the VM of that name. -ENOENT: none runs. *ret_sock: the caller's. */
int inst_vm_connect(const char *name, int *ret_sock, struct err *e) MUST_USE;
/* *ret_reply: to be put by the caller. Errors are the VM's own where it gave one. */
int inst_vm_call(int sock, const char *name, const struct vm_msg_request *request, struct json_object **ret_reply,
                 struct err *e) MUST_USE;

#endif
