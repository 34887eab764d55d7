/* Intel RDT: the container's group of a resctrl file system that is mounted already. By the parent. Spec: runtime-spec
 * config-linux.md, "IntelRdt". */
#ifndef OCI_RDT_H
#define OCI_RDT_H

#include <sys/types.h>

#include "base/attr.h"
#include "base/err.h"
#include "wire/oci_spec.h"

#define OCI_RDT_ROOT "/sys/fs/resctrl"

/* Put pid into its group: made with its schemata where it is not there and some are given, compared with them where it
 * is. r->present is true. -ENOTSUP: no resctrl is mounted; -ENOENT: closID is not there; -EEXIST: it is different. */
int oci_rdt_apply(const struct oci_rdt *r, const char *id, pid_t pid, struct err *e) MUST_USE;
/* Remove what was made for this container alone; gone already is fine. */
int oci_rdt_remove(const struct oci_rdt *r, const char *id, struct err *e) MUST_USE;
/* The same below a directory that stands for the file system, which is not checked. */
int oci_rdt_apply_at(int root_fd, const struct oci_rdt *r, const char *id, pid_t pid, struct err *e) MUST_USE;
int oci_rdt_remove_at(int root_fd, const struct oci_rdt *r, const char *id, struct err *e) MUST_USE;

#endif
