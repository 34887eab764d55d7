/* Out of the container's reach: the runtime's own file. A payload that runs the runtime again, or opens /proc/PID/exe
 * of it while it enters the container, would otherwise get at the host's binary and could write to it afterwards
 * (CVE-2019-5736). */
#ifndef OCI_PROTECT_H
#define OCI_PROTECT_H

#include "base/attr.h"
#include "base/err.h"

/* Return 0 where the process already runs from a file that cannot be written through /proc/self/exe (a read-only mount,
 * or a sealed memory file); else run argv again from one, which returns only where that fails (-errno, text). Call it
 * before anything else is done or open. */
int oci_protect_self(char **argv, struct err *e) MUST_USE;
/* Nobody in the container may look into this process, which has the host's memory and descriptors until execve; but
 * for who has CAP_SYS_PTRACE on the host itself. To be called before it enters namespaces. A user's own /proc/self is
 * root's from then on. */
int oci_protect_hide(struct err *e) MUST_USE;

#endif
