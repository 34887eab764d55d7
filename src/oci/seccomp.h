/* The container's system call filter: compiled by the parent (libseccomp), loaded by the payload as the last thing.
 * What libseccomp takes milliseconds for is kept in a cache below the state root (seccomp_cache.c). */
#ifndef OCI_SECCOMP_H
#define OCI_SECCOMP_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/attr.h"
#include "base/err.h"
#include "wire/oci_spec.h"

#define OCI_BPF_MAX 4096 /* instructions that the kernel takes (BPF_MAXINSNS) */

struct oci_bpf {
    void *program;       /* array of struct sock_filter, malloc'ed; NULL: no filter */
    size_t n;            /* instructions, 1..OCI_BPF_MAX */
    unsigned long flags; /* SECCOMP_FILTER_FLAG_* */
    bool notify;         /* a listener is to be had */
};

/* Compile; s->present is true. In the parent, before the clone. Caller frees with oci_bpf_done. System calls and
 * architectures that libseccomp does not know by name are left out and are an error, in this order, as with runc; a
 * rule that repeats the default action is left out. Where the default is no permission, and
 * not ENOSYS anyhow, calls that are newer than all that the rules name give ENOSYS, so that libraries fall back (as
 * runc). */
int oci_seccomp_compile(const struct oci_seccomp *s, struct oci_bpf *ret, struct err *e) MUST_USE;
/* The same by way of the cache: files "@seccomp-XX" in the directory cache_fd, the state root (-1: no cache), which
 * only the caller may be able to write to. At most 64 files of less than 300 KiB. A cache that cannot be used is none:
 * no error comes from it. */
int oci_seccomp_compile_cached(const struct oci_seccomp *s, int cache_fd, struct oci_bpf *ret, struct err *e) MUST_USE;
void oci_bpf_done(struct oci_bpf *b); /* a zeroed one is fine */

/* Load into the calling thread. One system call, no heap: runs in the payload just before execve. *ret_listener: the
 * notify descriptor (CLOEXEC), -1 where the filter has none. Without no_new_privs the caller needs CAP_SYS_ADMIN. */
int oci_seccomp_load(const struct oci_bpf *b, int *ret_listener, struct err *e) MUST_USE;

/* Flag i by name, NULL behind the last that we know; and whether this kernel takes it. */
const char *oci_seccomp_flag_word(size_t i);
bool oci_seccomp_flag_supported(size_t i);

/* ---- the listener of SCMP_ACT_NOTIFY ---- */

/* Connect to the agent at s->listener_path, waiting 10 s at most (-ETIMEDOUT). By the parent, whose files they are. A
 * CLOEXEC descriptor. */
int oci_seccomp_notify_connect(const struct oci_seccomp *s, struct err *e) MUST_USE;
/* In the place of oci_seccomp_load where b->notify is true: load the filter into the calling thread, and hand the
 * listener over by fd, which notify_connect gave: one ContainerProcessState with the descriptor. pid: the payload as
 * the runtime sees it; state_json: the container's state, len bytes. A second thread, which the filter is not for, does
 * the sending, so that the filter may say what it likes; execve ends it. The agent, of which nothing is read, has 10 s
 * to take it (-ETIMEDOUT). The listener is closed here in any case. On failure the filter may be loaded all the same.
 * Spec: runtime-spec config-linux.md, "The Container Process State". */
int oci_seccomp_load_notify(const struct oci_bpf *b, int fd, const struct oci_seccomp *s, pid_t pid,
                            const char *state_json, size_t len, struct err *e) MUST_USE;

#endif
