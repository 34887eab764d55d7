/* The default system call filter, as the member "seccomp" of an OCI runtime's document: containers have it, and the
 * commands of a build. */
#ifndef WIRE_OCI_SECCOMP_H
#define WIRE_OCI_SECCOMP_H

#include <stdint.h>

/* An empty filter for this machine's architectures. action: what becomes of a call that no rule is for. */
struct json_object *oci_seccomp_new(const char *action);
/* caps: the payload's capabilities, as bits; some calls come with one. */
struct json_object *oci_seccomp_default(uint64_t caps);

#endif
