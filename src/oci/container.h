/* What the verbs do to a container that exists. */
#ifndef OCI_CONTAINER_H
#define OCI_CONTAINER_H

#include <stdbool.h>

#include "base/attr.h"
#include "base/err.h"
#include "oci/state.h"

struct oci_cgroup;

/* Its status with pauses, which need the control groups. */
enum oci_status oci_container_status(const struct oci_state *s);
/* The control groups of a container that is not stopped. lack: what is impossible where it has none, behind "has no
 * cgroups, ". -ESRCH, -EOPNOTSUPP with text. The caller frees *ret_cgroup. */
int oci_container_cgroup(const struct oci_state *s, const char *lack, struct oci_cgroup **ret_cgroup,
                         struct err *e) MUST_USE;
/* A descriptor of its first process, checked not to be another one with the same pid; -ESRCH: it has ended. */
int oci_container_pidfd(const struct oci_state *s) MUST_USE;
/* End all of it and wait until the first process has ended. */
int oci_container_kill_all(const struct oci_state *s, struct err *e) MUST_USE;
/* Remove groups, run poststop hooks (their failures are warnings), remove the state. The container is stopped. */
int oci_container_destroy(const struct oci_args *a, const struct oci_state *s, struct err *e) MUST_USE;
/* Run hooks of a kind for the container, if it has some. */
int oci_container_hooks(const struct oci_state *s, enum oci_hook_kind kind, enum oci_status status,
                        struct err *e) MUST_USE;
/* A signal by name (with or without SIG) or number; 0 asks whether the process is there. */
int oci_signal_parse(const char *text, int *ret, struct err *e) MUST_USE;

#endif
