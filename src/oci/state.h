/* What is known of containers between two calls of the runtime: a directory for each below --root, with
 *   state.json   written by temp + rename, first before anything else exists, then with the first process' pid
 *   config.json  the bundle's, as it was at create: for exec and for hooks
 *   start        the socket at which the first process waits for `start`; start.new while the container is being
 * created The directory is locked (flock) by the verb that changes the container. The status is not written down but
 * follows from the process and the socket, so that no crash can make it wrong. */
#ifndef OCI_STATE_H
#define OCI_STATE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/attr.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "oci/cli.h"
#include "wire/oci_spec.h"

#define OCI_STATE_MAX (1u << 20) /* bytes of state.json */
#define OCI_STATE_SOCKET "start"
#define OCI_STATE_SOCKET_NEW "start.new"

struct json_object;
struct oci_cgroup;

enum oci_status { OCI_CREATING, OCI_CREATED, OCI_RUNNING, OCI_PAUSED, OCI_STOPPED };

struct oci_state {
    int root_fd, dir_fd;     /* of all containers, and of this one */
    struct json_object *doc; /* owns the strings; NULL: state.json is not there (yet, or a create was killed early) */
    const char *id, *bundle, *rootfs, *created;
    pid_t pid;           /* 0: none yet */
    uint64_t start_time; /* of pid, in ticks since boot */
    unsigned namespaces; /* bit enum oci_ns: the container has one that is not the host's */
    unsigned hooks;      /* bit enum oci_hook_kind: config.json has some */
    bool damaged;        /* state.json is there but cannot be read: only delete --force opens it */
    bool rdt;            /* config.json has intelRdt */
};

/* What create writes down. */
struct oci_record {
    const char *id, *bundle, *rootfs, *created;
    const struct oci_spec *spec;
    const struct oci_cgroup *cgroup; /* NULL: none yet */
    pid_t pid;
    uint64_t start_time;
};

const char *oci_status_name(enum oci_status s);
/* The directory of all containers; make: it may be missing, and is made. A descriptor. */
int oci_state_root(const struct oci_args *a, bool make, struct err *e) MUST_USE;
/* Letters, digits, _ + - . only, not "." or "..". */
int oci_state_check_id(const char *id, struct err *e) MUST_USE;
/* Make a container's directory and lock it; -EEXIST: the name is taken. The caller closes both. */
int oci_state_make(const struct oci_args *a, const char *id, int *ret_root_fd, int *ret_dir_fd, struct err *e) MUST_USE;
/* Write state.json. */
int oci_state_write(int dir_fd, const struct oci_record *r, struct err *e) MUST_USE;
/* Write a file of the container's directory, not atomically. */
int oci_state_write_file(int dir_fd, const char *name, const char *text, size_t len, struct err *e) MUST_USE;
/* Open a container. -ENOENT: there is none. Caller frees. */
int oci_state_open(const struct oci_args *a, const char *id, struct oci_state **ret, struct err *e) MUST_USE;
/* Likewise with the root open already; borrowed no longer than the call. */
int oci_state_open_at(int root_fd, const char *id, struct oci_state **ret, struct err *e) MUST_USE;
void oci_state_free(struct oci_state *s); /* NULL accepted */
DEFINE_AUTO(oci_state, struct oci_state, oci_state_free)
/* Lock for a change, waiting at most timeout_ms; -EBUSY. Held until the state is freed. Reads state.json again. */
int oci_state_lock(struct oci_state *s, unsigned timeout_ms, struct err *e) MUST_USE;
enum oci_status oci_state_status(const struct oci_state *s);
/* The control groups; *ret is NULL where none were made. Caller frees. */
int oci_state_cgroup(const struct oci_state *s, struct oci_cgroup **ret, struct err *e) MUST_USE;
/* Read the container's own config.json. Caller frees. */
int oci_state_spec(const struct oci_state *s, struct oci_spec **ret, struct err *e) MUST_USE;
/* Remove the container's directory. */
int oci_state_remove(int root_fd, int dir_fd, const char *id, struct err *e) MUST_USE;

/* Append the state as `state` prints it, and as hooks get it. */
void oci_state_json(const struct oci_state *s, enum oci_status status, bool indent, struct buf *b);
void oci_record_json(const struct oci_record *r, enum oci_status status, struct buf *b);

/* Ticks since boot at which a process was started; -ESRCH. */
int oci_proc_start_time(pid_t pid, uint64_t *ret) MUST_USE;

#endif
