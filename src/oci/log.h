/* runc's error log: a line in the file of --log, as logrus text or JSON, which engines read; and on stderr. */
#ifndef OCI_LOG_H
#define OCI_LOG_H

#include "oci/cli.h"

/* Report one error. Any failure to do so is ignored: there is nobody left to tell. */
void oci_log_error(const struct oci_args *a, const char *text);
/* A warning: in the log file where there is one, else on stderr. */
void oci_log_warn(const struct oci_args *a, const char *text);

#endif
