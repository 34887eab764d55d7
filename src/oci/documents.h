/* The documents of the verbs `features` and `spec`. */
#ifndef OCI_DOCUMENTS_H
#define OCI_DOCUMENTS_H

#include <stdbool.h>

#include "base/attr.h"
#include "base/buf.h"
#include "base/err.h"

/* Append what the runtime can do, as JSON, one line. Spec: runtime-spec features.md, features-linux.md. */
void oci_features_json(struct buf *b);

/* Append a config.json to start from: sh in a terminal, in ./rootfs; rootless: with a user namespace for the user of
 * now, and without what only root has. -ENOMEM. */
int oci_spec_template(bool rootless, struct buf *b) MUST_USE;
/* Write it to config.json in the directory, in the current one where bundle is NULL. -EEXIST: there is one. */
int oci_spec_write(const char *bundle, bool rootless, struct err *e) MUST_USE;

/* The verbs: print the one, write the other. */
struct oci_args;
int oci_verb_features(const struct oci_args *a, struct err *e) MUST_USE;
int oci_verb_spec(const struct oci_args *a, struct err *e) MUST_USE;

#endif
