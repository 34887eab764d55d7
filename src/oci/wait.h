/* Waiting in the foreground for a process of a container: signals go on to it, its terminal is copied to ours. */
#ifndef OCI_WAIT_H
#define OCI_WAIT_H

#include <sys/types.h>

#include "base/attr.h"
#include "base/err.h"

/* Before the process begins: signals wait for oci_wait_forward from now on, instead of ending the caller. */
void oci_wait_block(void);
/* Until child pid ends. terminal_fd: the master of its terminal, or -1. Its exit status, 128 + signal. */
int oci_wait_forward(pid_t pid, int terminal_fd, struct err *e) MUST_USE;

#endif
