/* What CRIU must be told of a container besides config.json, found out at checkpoint and kept as caisson.json among its
 * images: mounts that it cannot make itself (of the host's file systems, and control groups), standard descriptors that
 * come from outside, and namespaces that were joined. */
#ifndef OCI_CRIU_NOTES_H
#define OCI_CRIU_NOTES_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/attr.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "oci/cgroup.h"
#include "wire/oci_criu.h"
#include "wire/oci_spec.h"

#define OCI_CRIU_MOUNTS_MAX 1024
#define OCI_CRIU_EXTERNAL_MAX 8
/* CRIU's names of namespaces that were joined: what restore hands over by these is joined again. */
#define OCI_CRIU_NET "caissonNet"
#define OCI_CRIU_PID "caissonPid"

struct oci_criu_mount {
    char *point;
    unsigned attr; /* MOUNT_ATTR_RDONLY, _NOSUID, _NODEV, _NOEXEC */
    bool external; /* its content is the host's */
};

struct oci_criu_notes {
    struct oci_criu_mount mounts[OCI_CRIU_MOUNTS_MAX]; /* in mountinfo's order, but for the root */
    size_t n_mounts;
    char *stdio[3]; /* CRIU's name of what 0, 1, 2 are: "pipe:[7]", "file[1a:2b]"; "": not from outside */
    /* for the request: where each mount is from (checkpoint: its own name), and what is external besides */
    struct oci_criu_pair pairs[OCI_CRIU_MOUNTS_MAX];
    size_t n_pairs;
    char *external[OCI_CRIU_EXTERNAL_MAX];
    size_t n_external;
};

/* A fresh one, or NULL. */
struct oci_criu_notes *oci_criu_notes_new(void);
void oci_criu_notes_free(struct oci_criu_notes *n); /* NULL accepted */
DEFINE_AUTO(oci_criu_notes, struct oci_criu_notes, oci_criu_notes_free)

/* Look at a container whose first process is pid. */
int oci_criu_notes_take(const struct oci_spec *s, pid_t pid, struct oci_criu_notes *ret, struct err *e) MUST_USE;
int oci_criu_notes_save(const struct oci_criu_notes *n, int images_fd, struct err *e) MUST_USE;
/* The file is not trusted: names of mounts and descriptors only. */
int oci_criu_notes_load(int images_fd, struct oci_criu_notes *ret, struct err *e) MUST_USE;
/* For restore: where each mount's content is on this host, by config.json and the new container's groups. */
int oci_criu_notes_sources(struct oci_criu_notes *n, const struct oci_spec *s, const char *rootfs,
                           const struct oci_cgroup *g, struct err *e) MUST_USE;
/* CRIU may lose the flags of mounts that look alike (4.2 does): give pid's mounts those of the notes that they lack,
 * before anything runs there. pid's mounts are not entered by the caller. -ENOENT: a mount is missing. */
int oci_criu_notes_restrict(const struct oci_criu_notes *n, pid_t pid, struct err *e) MUST_USE;

/* One line of mountinfo, which is taken apart: 1; 0: it is the root, or none. *ret borrows from line. */
int oci_criu_mount_line(const struct oci_spec *s, char *line, struct oci_criu_mount *ret) MUST_USE;

#endif
