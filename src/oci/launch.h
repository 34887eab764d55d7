/* What the runtime (the parent) hands to a process of the container that it clones: for create, run, restore and exec.
 * The child has a copy of the parent's memory, so this is a plain structure; it owns nothing but what oci_launch_done
 * closes. */
#ifndef OCI_LAUNCH_H
#define OCI_LAUNCH_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/attr.h"
#include "base/buf.h"
#include "base/err.h"
#include "oci/cgroup.h"
#include "oci/seccomp.h"
#include "wire/oci_spec.h"

struct oci_launch {
    const struct oci_spec *spec;
    const struct oci_process *process; /* spec's, or exec's */
    const char *id;
    const char *bundle, *rootfs; /* absolute */
    struct oci_cgroup *cgroup;
    struct oci_bpf bpf;
    int sync_fd[2];  /* [0] the parent's, [1] the child's */
    int listen_fd;   /* the socket of `start`; -1: OCI_SYNC_START comes by sync_fd */
    int console_fd;  /* connected to the socket of --console-socket; -1 */
    int terminal_fd; /* the parent's end of the terminal, where run or exec drives it; -1 */
    int notify_fd;   /* connected to seccomp's listenerPath; -1 */
    int state_fd[2]; /* the state's directories: the child closes them, one of them holds the lock; borrowed */
    int proc_fd;     /* the host's procfs */
    int root_mount;  /* the root file system as a detached mount, where the child could not reach it; -1 */
    int *mount_fds;  /* the source of each of spec's mounts, detached, where the child could not make it; else -1 */
    int join_fd[OCI_NS_KINDS]; /* namespaces to join; -1 */
    unsigned preserve_fds;     /* listen_fds among them */
    unsigned listen_fds;       /* systemd's sockets, of which the program is told */
    bool no_pivot, no_keyring;
    bool late_rlimits; /* the parent sets the child's when that is ready */
    bool late_limits;  /* the child waits for its cgroups' limits before it makes device nodes */
};

/* Everything closed and -1. */
void oci_launch_init(struct oci_launch *l);
void oci_launch_done(struct oci_launch *l);

#endif
