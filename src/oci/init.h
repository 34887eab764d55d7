/* The first process of a container, and a process of exec: from the clone to execve. */
#ifndef OCI_INIT_H
#define OCI_INIT_H

#include "base/attr.h"
#include "oci/launch.h"

/* In the child of oci_ns_clone: set the container up, wait for OCI_SYNC_START, become the program. */
_Noreturn void oci_init_run(struct oci_launch *l);
/* In the child of exec, hidden and already in the container's namespaces. */
_Noreturn void oci_init_exec(struct oci_launch *l);

#endif
