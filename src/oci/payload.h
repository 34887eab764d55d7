/* The program of the container: found, and become. */
#ifndef OCI_PAYLOAD_H
#define OCI_PAYLOAD_H

#include <limits.h>

#include "base/attr.h"
#include "base/err.h"
#include "oci/launch.h"
#include "oci/state.h"

struct oci_payload {
    char path[PATH_MAX]; /* of the program, in the container */
    const char **env;    /* with HOME; lives as long as the process */
};

/* In the container's root: working directory, attributes, user, capabilities, program; all that can fail at create. */
int oci_payload_prepare(struct oci_payload *p, const struct oci_launch *l, struct err *e) MUST_USE;
/* Append the container's state as hooks get it; *ret_pid: this process as the runtime sees it. */
int oci_payload_state(const struct oci_launch *l, enum oci_status status, pid_t *ret_pid, struct buf *json,
                      struct err *e) MUST_USE;
/* The filter, then execve; returns only where that fails. */
int oci_payload_exec(const struct oci_payload *p, const struct oci_launch *l, struct err *e) MUST_USE;

#endif
