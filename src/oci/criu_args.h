/* What the command lines of checkpoint and restore have in common. */
#ifndef OCI_CRIU_ARGS_H
#define OCI_CRIU_ARGS_H

#include <stdbool.h>

#include "base/attr.h"
#include "base/err.h"
#include "oci/cli.h"
#include "wire/oci_criu.h"

struct oci_criu_dirs {
    int images_fd, work_fd; /* -1: not open */
    const char *work_path;  /* where the log is; of the command line */
};

/* Refuse what is not there: lazy pages, users without rights, unknown modes. Fill o by the options; make: the folder of
 * images may be missing and is made. The caller gives both descriptors to oci_criu_dirs_done. */
int oci_criu_args(const struct oci_args *a, bool make, const char *log_file, struct oci_criu_dirs *dirs,
                  struct oci_criu_opts *o, struct err *e) MUST_USE;
void oci_criu_dirs_done(struct oci_criu_dirs *dirs);

#endif
