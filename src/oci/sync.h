/* Messages between the runtime and the container's first process (SOCK_SEQPACKET), and between `start` and that
 * process: small, fixed in size, never trusted beyond their size. */
#ifndef OCI_SYNC_H
#define OCI_SYNC_H

#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"

enum oci_sync_type {
    OCI_SYNC_ERROR = 1,  /* either way: the text says what */
    OCI_SYNC_GO,         /* parent: cgroups and mappings are there */
    OCI_SYNC_PID,        /* intermediate: value is the pid of the first process */
    OCI_SYNC_HOOKS,      /* child: mounts are done; run the hooks of the runtime's side */
    OCI_SYNC_HOOKS_DONE, /* parent */
    OCI_SYNC_READY,      /* child: all but execve is done */
    OCI_SYNC_START,      /* parent or `start`: execve */
};

/* A connected pair, both CLOEXEC. */
int oci_sync_pair(int ret_fds[2]) MUST_USE;
int oci_sync_send(int fd, enum oci_sync_type type, int64_t value) MUST_USE;
/* Tell the other side of an error; failures are ignored, the caller is on its way out. */
void oci_sync_send_error(int fd, const struct err *e);
/* Wait for a message of a type. The other side's error becomes e and its code is returned; -EPIPE: it has gone;
 * -EPROTO. */
int oci_sync_wait(int fd, enum oci_sync_type type, int64_t *ret_value, struct err *e) MUST_USE;
/* Wait for one of two types; the one that came is returned. */
int oci_sync_wait_two(int fd, enum oci_sync_type one, enum oci_sync_type two, struct err *e) MUST_USE;

#endif
