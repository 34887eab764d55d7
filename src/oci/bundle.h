/* Reading the documents of a bundle. */
#ifndef OCI_BUNDLE_H
#define OCI_BUNDLE_H

#include "base/attr.h"
#include "base/err.h"
#include "wire/oci_spec.h"

/* Read config.json below dir_fd (a directory, or AT_FDCWD). ret_text, ret_len: its text, which the caller frees; may be
 * NULL. Caller frees *ret. */
int oci_bundle_read(int dir_fd, struct oci_spec **ret, char **ret_text, size_t *ret_len, struct err *e) MUST_USE;

typedef int oci_parse_fn(const char *text, size_t len, struct oci_spec **ret_spec, struct oci_why *why);
/* Read another document: a path, "-" for the standard input. */
int oci_document_read(int dir_fd, const char *path, oci_parse_fn *parse, struct oci_spec **ret, char **ret_text,
                      size_t *ret_len, struct err *e) MUST_USE;

#endif
