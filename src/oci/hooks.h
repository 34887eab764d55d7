/* Hooks of config.json: programs that get the container's state as JSON on their standard input. */
#ifndef OCI_HOOKS_H
#define OCI_HOOKS_H

#include <stddef.h>

#include "base/attr.h"
#include "base/err.h"
#include "wire/oci_spec.h"

/* Run n hooks one after the other in the calling process' namespaces and working directory, each at most timeout_s
 * seconds (then its process group is killed), with its args and env and nothing else of ours: no environment, no
 * descriptors but 0, 1, 2, no blocked signals. state_json: the state, len bytes. The first that fails, or cannot be
 * run, ends it; but for poststart and poststop hooks, where the others run all the same and the caller warns
 * (runtime-spec, "Lifecycle"). -errno of the first failure, with a text that names the hook and has the start of its
 * output: -ETIMEDOUT; -EIO where its status is not 0. SIGCHLD must not be ignored by the caller. */
int oci_hooks_run(const struct oci_hook *hooks, size_t n, enum oci_hook_kind kind, const char *state_json, size_t len,
                  struct err *e) MUST_USE;

#endif
