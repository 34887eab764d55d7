/* Making a container: create, and run, which starts it as well. */
#ifndef OCI_CREATE_H
#define OCI_CREATE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/attr.h"
#include "base/err.h"
#include "oci/launch.h"
#include "oci/main.h"
#include "oci/state.h"

/* What the parent knows while it makes a container. */
struct oci_create {
    const struct oci_args *args;
    struct oci_spec *spec;
    char *text; /* of config.json */
    size_t text_len;
    char *bundle, *rootfs;
    char created[40];
    int root_fd, dir_fd; /* of the state */
    pid_t pid;
    uint64_t start_time;
    struct oci_launch launch;
    bool run, hooks_ran;
};

/* Up to OCI_SYNC_READY: the container is there, its program is not started. On failure nothing is left. */
int oci_create_container(struct oci_create *c, const struct oci_args *a, bool run, struct err *e) MUST_USE;
void oci_create_done(struct oci_create *c);
/* Its parts, for restore. First init; open reads the bundle and makes the state directory: where it succeeds, what
 * fails later is undone by oci_create_undo. groups: state.json and the control groups. */
void oci_create_init(struct oci_create *c, const struct oci_args *a, bool run);
int oci_create_open(struct oci_create *c, struct err *e) MUST_USE;
int oci_create_groups(struct oci_create *c, struct err *e) MUST_USE;
int oci_create_write_state(struct oci_create *c, struct err *e) MUST_USE;
int oci_create_hooks(struct oci_create *c, enum oci_hook_kind kind, enum oci_status status, struct err *e) MUST_USE;
/* In the foreground: wait for the first process, pass signals and its terminal on, remove the container unless --keep.
 * The exit status. */
int oci_run_wait(struct oci_create *c, struct err *e) MUST_USE;
/* Kill and remove what oci_create_container made. */
void oci_create_undo(struct oci_create *c);
/* Write a pid and nothing else to a file, by temp + rename. */
int oci_pid_file(const char *path, pid_t pid, struct err *e) MUST_USE;
/* --preserve-fds and what systemd's LISTEN_FDS adds to it. */
int oci_preserve_fds(const struct oci_args *a, struct oci_launch *l, struct err *e) MUST_USE;

#endif
