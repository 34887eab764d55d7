/* Capabilities of the payload, by raw system calls. Called in the payload, in this order: oci_caps_prepare, the change
 * of user (oci_process_set_user), oci_caps_apply, the filter, execve. */
#ifndef OCI_CAPS_H
#define OCI_CAPS_H

#include <stdbool.h>

#include "base/attr.h"
#include "base/err.h"
#include "wire/oci_spec.h"

/* Drop the bounding set to what the process may have, and keep permitted capabilities over the change of user. Needs
 * CAP_SETPCAP. Capabilities that the kernel does not know are passed over. */
int oci_caps_prepare(const struct oci_process *p, struct err *e) MUST_USE;
/* Set the effective, permitted, inheritable and ambient sets for good; p without capabilities: all empty. Ambient ones
 * that are not both permitted and inheritable are passed over, as no kernel takes them. keep_admin: leave CAP_SYS_ADMIN
 * in the effective and permitted sets besides, where a filter is to be loaded without no_new_privs. It needs not be
 * taken away after that, and should not be, as the filter may not allow capset(2): execve makes both sets anew from the
 * inheritable, bounding and ambient ones. -EPERM: asks for more than the runtime has. */
int oci_caps_apply(const struct oci_process *p, bool keep_admin, struct err *e) MUST_USE;

#endif
