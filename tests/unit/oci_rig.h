/* What the tests of src/oci share: containers' configurations from small texts, and code that runs in a child. */
#ifndef TESTS_OCI_RIG_H
#define TESTS_OCI_RIG_H

#include "base/err.h"
#include "oci/seccomp.h"
#include "wire/oci_spec.h"

/* A spec with these members of "process" and of "linux" ("\"a\":1,", or ""). Fails the test where it does not parse. */
struct oci_spec *rig_spec(const char *process, const char *linux_members);
/* "linux.seccomp" of this text, compiled; -errno and e otherwise. */
int rig_compile(const char *seccomp, struct oci_bpf *ret, struct err *e);
/* Run fn in a child; its return value (0..255) is its exit status. Returns the wait status. */
int rig_child(int (*fn)(void *arg), void *arg);
/* The same, and nothing but 0 is right. */
void rig_child_ok(int (*fn)(void *arg), void *arg);
/* The line "NAME:\t" of /proc/self/status, its value read as hexadecimal. */
unsigned long long rig_status_hex(const char *name);

/* In a child: leave it with the line's number where the condition is not true (modulo 255, never 0). */
#define RIG_CHECK(condition)                                                          \
    do {                                                                              \
        if (!(condition)) {                                                           \
            dprintf(2, "%s:%d: not true: %s (%m)\n", __FILE__, __LINE__, #condition); \
            return __LINE__ % 255 + 1;                                                \
        }                                                                             \
    } while (0)

#endif
