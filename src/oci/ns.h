/* Namespaces of the container: made, joined, mapped. What is called in the parent and what in the child is said at
 * each. */
#ifndef OCI_NS_H
#define OCI_NS_H

#include <stdint.h>
#include <sys/types.h>

#include "base/attr.h"
#include "base/err.h"
#include "oci/launch.h"

/* Parent: open the namespaces that are joined, and check that each is of its kind. */
int oci_ns_open(struct oci_launch *l, struct err *e) MUST_USE;
/* Parent: clone the container's first process; the new namespaces that must exist at its birth are made here, others by
 * oci_ns_enter. In the child 0 is returned. The parent's own namespaces are the same afterwards. */
pid_t oci_ns_clone(struct oci_launch *l, int cgroup_fd, struct err *e) MUST_USE;
/* Parent: write the uid and gid mappings of the new user namespace that pid is in. */
int oci_ns_map(const struct oci_spec *s, pid_t pid, struct err *e) MUST_USE;
/* Child: join, then make the other new namespaces, but the cgroup namespace, for which the child must be in its group.
 */
int oci_ns_enter(struct oci_launch *l, struct err *e) MUST_USE;
/* Child, after the parent's OCI_SYNC_GO: become root of the user namespace; make the cgroup namespace. */
int oci_ns_finish(struct oci_launch *l, struct err *e) MUST_USE;
/* clone3 without CLONE_VM, signal handlers cleared. cgroup_fd: CLONE_INTO_CGROUP where >= 0. -errno. */
pid_t oci_clone(uint64_t flags, int cgroup_fd) MUST_USE;

#endif
