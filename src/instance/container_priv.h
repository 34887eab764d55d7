/* Parts of a container's run, for each other: instance/container.c puts them together. A container is a bundle for
 * caisson-oci in RUNTIME/instances/ID:
 *
 *   bundle/config.json   written anew for each start (container_spec.c)
 *   bundle/rootfs        the place of the overlay (container_rootfs.c); mounted in the supervisor's own mount namespace
 *                        only, so that it goes with the supervisor and the container, however they end
 *   hosts, resolv.conf, hostname, init.pid
 * and in STATE/instances/ID: upper/ and work/ of the overlay. */
#ifndef INSTANCE_CONTAINER_PRIV_H
#define INSTANCE_CONTAINER_PRIV_H

#include <stdint.h>
#include <sys/types.h>

#include "base/attr.h"
#include "base/err.h"
#include "instance/kind.h"
#include "wire/addr.h"

struct image_user;
struct json_object;

#define CONTAINER_INIT_PATH "/run/caisson-init" /* of --init, in the container */

/* How a container is on its network. */
struct container_net {
    int netns; /* of the container; -1: none was made (host, none) */
    uint8_t mac[6];
    uint32_t ip, gateway; /* 0: none */
    uint8_t prefix;
    unsigned mtu;
    char domain[128];
    bool dns; /* the gateway answers names */
};

/* What belongs to a run, in inst_run.kind. */
struct container_run {
    struct container_net net;
    int overlay;   /* a pidfd of the process that serves the root; -1: the kernel does */
    bool rootless; /* the supervisor is root of a user namespace */
    int console;   /* a copy of the terminal; -1 */
};

/* ---- container_oci.c ---- */

/* The --root of caisson-oci. */
int container_oci_root(char *ret_path, size_t size, struct err *e) MUST_USE;
/* Run caisson-oci with args (NULL at the end) and wait for it. stdio: what its descriptors 0 to 2 become; NULL:
 * /dev/null. Errors are the runtime's own text, with ENOENT or EACCES where the program could not be executed. */
int container_oci_run(const char *const *args, const int *stdio, struct err *e) MUST_USE;
/* Likewise, and give its standard output. *ret_text: the caller's. */
int container_oci_ask(const char *const *args, char **ret_text, struct err *e) MUST_USE;

/* Likewise with the terminal of this process, for exec: *ret_status is the exit status of what ran. */
int container_oci_foreground(const char *const *args, const int fds[3], int *ret_status, struct err *e) MUST_USE;
/* Likewise, but do not wait: *ret_pid is a child whose exit status is the command's. */
int container_oci_spawn(const char *const *args, pid_t *ret_pid, struct err *e) MUST_USE;

/* ---- container_stats.c ---- */

/* As inst_kind_ops.stats. */
int container_stats(struct inst_run *run, struct json_object **ret_stats, struct err *e) MUST_USE;
/* Whether the kernel killed a process of the container for memory, as long as its groups are there. */
int container_oom(const struct store_instance *i);

/* The processes in the pid namespace of init, as this process sees them (container_root.c). Caller frees *ret_pids;
 * none: it has ended. */
int container_pids(pid_t init, pid_t **ret_pids, size_t *ret_n) MUST_USE;

/* ---- container_update.c ---- */

/* As inst_kind_ops.update. */
int container_update(struct inst_run *run, const struct inst_spec *spec, struct err *e) MUST_USE;

/* ---- container_rootfs.c ---- */

/* A mount namespace of the own, and, for somebody else than root, a user namespace in which the caller is root. Once in
 * a process is enough. */
int container_rootfs_unshare(struct err *e) MUST_USE;
/* Mount the overlay of the instance at place, which is made. dir: STATE/instances/ID. volatile_: its content need not
 * survive a crash of the machine. *ret_fuse: the process that serves it, for sys_overlay_fuse_end; -1: the kernel. */
int container_rootfs_mount(const struct store_instance *i, const char *dir, const char *place, bool volatile_,
                           int *ret_fuse, struct err *e) MUST_USE;
/* What the image alone has, as an O_PATH descriptor; mounted at place, where that needs a mount. */
int container_rootfs_lower(const struct store_instance *i, const char *place, int *ret_fd, struct err *e) MUST_USE;
void container_rootfs_umount(const char *place);

/* ---- container_net.c ---- */

/* Whether it is on a network of ours (not none, not host). */
bool container_net_used(const struct inst_container *c);
/* Start the network's switch where it does not run. */
int container_net_start(const struct store_instance *i, struct err *e) MUST_USE;
/* Make the container's network namespace, with a tap that is on the network, and publish its ports. */
int container_net_up(const struct inst_run *run, struct container_net *net, struct err *e) MUST_USE;
/* Take the port and the forwards away; also those of another process that was killed. */
void container_net_down(const struct inst_run *run);

/* ---- container_tap.c ---- */

/* A child that is in a new network namespace, with a tap "eth0" whose other end is ours. */
struct container_tap {
    pid_t pid;
    int sock;  /* to it */
    int netns; /* ours */
    int tap;   /* ours */
};
int container_tap_open(const uint8_t mac[6], unsigned mtu, struct container_tap *ret_tap, struct err *e) MUST_USE;
/* Give the interface its address and route, and end the child. */
int container_tap_finish(struct container_tap *t, const struct container_net *net, struct err *e) MUST_USE;
void container_tap_done(struct container_tap *t);

/* ---- container_files.c ---- */

/* Write hosts, resolv.conf and hostname below run->rundir. */
int container_files_write(const struct inst_run *run, const struct container_net *net, struct err *e) MUST_USE;
/* Make dir (0755) below the user's own place, with its parents. */
int container_dir_make(const char *path, unsigned mode, struct err *e) MUST_USE;
int container_file_write(const char *path, const char *text, size_t len, struct err *e) MUST_USE;

/* ---- container_spec.c and its parts ---- */

struct container_document {
    const struct inst_run *run;
    const struct inst_container *c;
    const struct container_run *state;
    const struct image_user *user;
    int root_fd;              /* of the mounted root file system */
    const char *init_program; /* of --init, on the host */
};
/* The document config.json; to be put. NULL with e: it cannot be. */
int container_spec_make(const struct container_document *d, struct json_object **ret_spec, struct err *e) MUST_USE;
/* Parts. */
struct json_object *container_user_make(const struct image_user *u);
/* The size at which the terminal of a process begins; 0: not known. */
void container_console_size(struct json_object *process, unsigned columns, unsigned rows);
int container_process_make(const struct container_document *d, struct json_object **ret_process,
                           struct err *e) MUST_USE;
int container_mounts_make(const struct container_document *d, struct json_object **ret_mounts, struct err *e) MUST_USE;
/* mounts: devices that are mounted are added there. */
int container_linux_make(const struct container_document *d, struct json_object *mounts, struct json_object **ret_linux,
                         struct err *e) MUST_USE;
/* The limits alone, as `caisson-oci update` reads them, too; an empty object where none is possible. */
struct json_object *container_resources_make(const struct inst_container *c, bool rootless);
bool container_limits_possible(bool rootless);
int container_caps_make(const struct inst_container *c, bool root, struct json_object **ret_caps,
                        struct err *e) MUST_USE;
/* The system call filter; *ret_seccomp: NULL: none. */
int container_seccomp_make(const struct container_document *d, uint64_t caps, struct json_object **ret_seccomp,
                           struct err *e) MUST_USE;
/* Bits of the capabilities that the container has. */
int container_caps_bits(const struct inst_container *c, uint64_t *ret_bits, struct err *e) MUST_USE;
/* The value of "KEY=VALUE" or "KEY:VALUE" in the security options, "" for the word alone, NULL: not given. */
const char *container_security(const struct inst_container *c, const char *key);

#endif
