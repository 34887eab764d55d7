/* The tables of the default system call filter. */
#ifndef WIRE_OCI_SECCOMP_TABLE_H
#define WIRE_OCI_SECCOMP_TABLE_H

#define OCI_SECCOMP_CAP_NAMES 24

/* Allowed to who has the capability; names end with NULL. */
struct oci_seccomp_cap {
    const char *cap;
    const char *names[OCI_SECCOMP_CAP_NAMES];
};

extern const char *const oci_seccomp_allowed[]; /* NULL at the end */
extern const char *const oci_seccomp_refused[];
extern const struct oci_seccomp_cap oci_seccomp_caps[]; /* cap NULL at the end */

#endif
