/* The attributes of the payload besides capabilities and seccomp: rlimits, oom score, scheduler, I/O priority, labels,
 * keyring, personality, umask, user, no_new_privs. Files of /proc are opened below proc_fd, the directory of a procfs
 * that the runtime trusts (O_PATH); that it is one, and that nothing is mounted over the file, is checked for each. */
#ifndef OCI_PROCESS_ATTR_H
#define OCI_PROCESS_ATTR_H

#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/attr.h"
#include "base/err.h"
#include "wire/oci_spec.h"

/* By the payload, while it is still as privileged as the runtime and before the root changes: oom_score_adj, scheduler,
 * I/O priority and, where limits is true, rlimits. */
int oci_process_apply_early(const struct oci_process *p, bool limits, int proc_fd, struct err *e) MUST_USE;
/* By the payload after the root has changed, before its user and capabilities go: labels for the next execve,
 * personality, umask (022 where none is given, as runc), no_new_privs. */
int oci_process_apply_late(const struct oci_spec *s, const struct oci_process *p, int proc_fd, struct err *e) MUST_USE;
/* A new session keyring "_ses.ID" (unless --no-new-keyring), labelled for SELinux. Where the kernel has no keys, or
 * does not let a container have them, nothing is done. Before the user changes. */
int oci_process_keyring(const struct oci_process *p, const char *id, int proc_fd, struct err *e) MUST_USE;
/* Groups, gid, uid. Where the user namespace forbids setgroups, no additional groups may be asked for (-EPERM). */
int oci_process_set_user(const struct oci_process *p, struct err *e) MUST_USE;

/* Parts of the above. pid 0: the caller; the runtime may set another process' limits. last false: while there is work
 * to do, so a lower limit of descriptors is left for the last call, which needs no rights. */
int oci_process_rlimits(const struct oci_process *p, pid_t pid, bool last, struct err *e) MUST_USE;
/* CPUs of execCPUAffinity, which is about processes of exec only: final false: the initial ones, to be set before the
 * process joins its cgroup. */
int oci_process_affinity(const struct oci_process *p, bool final, pid_t pid, struct err *e) MUST_USE;
/* "0-3,7": -EINVAL: malformed, empty, or beyond CPU 1023. */
int oci_cpu_list_parse(const char *text, cpu_set_t *ret) MUST_USE;
/* Write text to a file of procfs, without a newline: path as "thread-self/attr/exec", each part real and of procfs
 * itself. -EXDEV, -ELOOP: it is covered or a link away; -EBADF: proc_fd is no procfs. */
int oci_proc_write(int proc_fd, const char *path, const char *text) MUST_USE;

#endif
