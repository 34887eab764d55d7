/* CRIU as a child: `criu swrk`, asked by messages over a socket (wire/oci_criu.h). It runs in a mount namespace of its
 * own where it restores, so that whatever ends it, no mount is left. Slow by nature: never on the path of create. */
#ifndef OCI_CRIU_H
#define OCI_CRIU_H

#include <sys/types.h>

#include "base/attr.h"
#include "base/err.h"
#include "oci/cli.h"
#include "wire/oci_criu.h"

/* CRIU tells where it is. script: "post-dump", "setup-namespaces"...; fd: a descriptor that came along, -1: none,
 * borrowed. An error ends what CRIU does. */
typedef int oci_criu_notify_fn(void *opaque, const char *script, pid_t pid, int fd, struct err *e);

struct oci_criu {
    pid_t pid;
    int fd;
    int go_fd;             /* closed: it may begin; -1 */
    const char *work_path; /* where its log is, for the text of errors */
};

/* How it is started. */
struct oci_criu_place {
    const char *rootfs;    /* to be a mount of its own in CRIU's mount namespace, to restore into; NULL: for a dump */
    bool cgroup_ns;        /* in a new cgroup namespace, of the groups that it is in at oci_criu_call */
    const char *work_path; /* where its log will be; as long as struct oci_criu is used */
    const struct oci_criu_fd *keep; /* descriptors that it needs besides the standard ones */
    size_t n_keep;
};

/* Start it, of --criu or the search path. It waits until oci_criu_call. */
int oci_criu_start(const struct oci_args *a, const struct oci_criu_place *p, struct oci_criu *ret,
                   struct err *e) MUST_USE;
/* One request, and its notifications until the answer comes. */
int oci_criu_call(struct oci_criu *c, enum oci_criu_type type, const struct oci_criu_opts *opts,
                  oci_criu_notify_fn *notify, void *opaque, struct oci_criu_response *ret, struct err *e) MUST_USE;
/* Close the socket and wait for its end. A zeroed one is fine. */
void oci_criu_end(struct oci_criu *c);

#endif
