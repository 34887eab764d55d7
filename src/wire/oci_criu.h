/* The messages that CRIU's `swrk` service speaks over a SOCK_SEQPACKET socket, one in each packet: protocol buffers
 * (proto2) of which only what the runtime sends and reads is here. Field numbers: images/rpc.proto of CRIU. A codec
 * without I/O; it must not know containers. */
#ifndef WIRE_OCI_CRIU_H
#define WIRE_OCI_CRIU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/buf.h"

#define OCI_CRIU_MESSAGE_MAX (1u << 20)

enum oci_criu_type {
    OCI_CRIU_EMPTY = 0,
    OCI_CRIU_DUMP = 1,
    OCI_CRIU_RESTORE = 2,
    OCI_CRIU_PRE_DUMP = 4,
    OCI_CRIU_NOTIFY = 6,
    OCI_CRIU_VERSION = 10,
    OCI_CRIU_SINGLE_PRE_DUMP = 13,
};

/* manage_cgroups_mode */
enum oci_criu_cgroups {
    OCI_CRIU_CG_IGNORE = 0,
    OCI_CRIU_CG_SOFT = 3,
    OCI_CRIU_CG_FULL = 4,
    OCI_CRIU_CG_STRICT = 5,
};

/* A name with a value: of a mount and its source, of a controller and its group. */
struct oci_criu_pair {
    const char *key, *value;
};

struct oci_criu_fd {
    const char *key;
    int fd;
};

/* criu_opts; false, NULL and 0 are not sent, but for the descriptors and the cgroups' mode. Borrows everything. */
struct oci_criu_opts {
    int images_dir_fd;
    int work_dir_fd; /* -1: not sent */
    int pid;
    bool leave_running, ext_unix_sk, tcp_established, shell_job, file_locks, track_mem, auto_dedup, link_remap;
    bool tcp_skip_in_flight, rst_sibling, notify_scripts, orphan_pts_master, manage_cgroups;
    int log_level;
    const char *log_file, *root, *parent_img, *freeze_cgroup, *lsm_profile, *lsm_mount_context;
    const char *page_server_address; /* NULL: none */
    int page_server_port;
    enum oci_criu_cgroups cgroups_mode;
    uint32_t empty_ns;
    const struct oci_criu_pair *ext_mounts, *cg_roots;
    size_t n_ext_mounts, n_cg_roots;
    const struct oci_criu_fd *inherit;
    size_t n_inherit;
    const char *const *external;
    size_t n_external;
};

/* criu_resp. Strings are cut to fit, and never NULL. */
struct oci_criu_response {
    enum oci_criu_type type;
    bool success;
    int cr_errno;
    int pid;         /* of restore's answer, or of a notification; 0: none */
    char script[64]; /* of a notification */
    char message[200];
    int version; /* 10000 * major + 100 * minor + sublevel; 0: none */
};

/* A request with options, or (opts NULL) without. */
void oci_criu_encode_request(enum oci_criu_type type, const struct oci_criu_opts *opts, struct buf *b);
/* The answer to a notification. */
void oci_criu_encode_notified(bool success, struct buf *b);
/* -EBADMSG: no message of this kind, or cut short. Unknown fields are skipped. */
int oci_criu_decode(const void *data, size_t len, struct oci_criu_response *ret) MUST_USE;

#endif
