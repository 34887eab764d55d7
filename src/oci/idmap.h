/* User namespaces that exist only to map ids: for idmapped mounts. */
#ifndef OCI_IDMAP_H
#define OCI_IDMAP_H

#include "base/attr.h"
#include "base/err.h"
#include "wire/oci_spec.h"

/* A descriptor of a new user namespace with these mappings; nobody is in it. */
int oci_idmap_userns(const struct oci_mappings *uids, const struct oci_mappings *gids, struct err *e) MUST_USE;

#endif
