/* Between the parts of the filter's compiler. */
#ifndef OCI_SECCOMP_PRIV_H
#define OCI_SECCOMP_PRIV_H

#include <stdint.h>

#include "base/buf.h"
#include "oci/seccomp.h"

/* Put the ENOSYS stub in front of a program: for each of n architectures (libseccomp's numbers) the newest call that
 * the rules name, -1: none. -E2BIG: too long then; -ENOMEM. */
int oci_bpf_stub(struct oci_bpf *b, const uint32_t *arches, const int *newest, size_t n) MUST_USE;

/* What a program depends on, as bytes: the key of the cache. */
void oci_seccomp_key(const struct oci_seccomp *s, struct buf *key);
/* A file of the cache, as written, and as read: the latter checks everything, so that a file that was cut short, is of
 * another version or of another key is -ENOENT. -ENOMEM. */
void oci_seccomp_cache_pack(const struct buf *key, const struct oci_bpf *b, struct buf *ret);
int oci_seccomp_cache_unpack(const struct buf *key, const void *data, size_t len, struct oci_bpf *ret) MUST_USE;

/* What the agent of SCMP_ACT_NOTIFY gets: the container process state (runtime-spec, config-linux.md). state_json: one
 * JSON object, borrowed. */
void oci_seccomp_notify_message(const struct oci_seccomp *s, pid_t pid, const char *state_json, size_t len,
                                struct buf *b);

#endif
