/* Starting caisson-vmm, the process that is the VM. Who starts it never links the machine: it hands over a
 * specification. */
#ifndef INSTANCE_SPAWN_H
#define INSTANCE_SPAWN_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/attr.h"
#include "base/err.h"

#define INST_PROGRAM_MAX 4160

/* The path of one of our other programs: beside this one (build tree), or in ../libexec/caisson or
 * ../../bin (installed). -EIO with
 * text. */
int inst_find_program(const char *name, char ret_path[INST_PROGRAM_MAX], struct err *e) MUST_USE;

#define INST_DAEMON_FDS_MAX 8
/* Start a program as a daemon: its own session, its parent is whoever adopts orphans, nobody here waits for it, and it
 * works in /. fds[i] becomes its descriptor i (-1: /dev/null), n_fds of them; all others are closed. -errno of fork;
 * that it cannot be executed shows by its end of a pipe closing. */
int inst_spawn_daemon(const char *path, char *const argv[], const int *fds, int n_fds) MUST_USE;

struct inst_vmm {
    pid_t pid;
    int pidfd;
    int console; /* our end of the console's socket pair, or -1 */
};

/* The descriptor that the first of inst_vmm_spawn's fds becomes in the new process; the others follow it. */
#define INST_VMM_FD_FIRST 5
#define INST_VMM_FDS_MAX 64
#define INST_VMM_ARGS_MAX 5

/* Start caisson-vmm with the JSON specification spec; with_console: give it a socket as its serial console. fds:
 * n_fds (at most INST_VMM_FDS_MAX) descriptors that the specification speaks of by the numbers that they get there;
 * they stay open here. args: at most INST_VMM_ARGS_MAX more arguments and NULL behind them; NULL: none. stderr_fd:
 * where its messages go; -1: to this process's. The child dies with this process. On success the caller reaps it and
 * closes the descriptors. */
int inst_vmm_spawn(const char *spec, bool with_console, const int *fds, unsigned n_fds, const char *const *args,
                   int stderr_fd, struct inst_vmm *ret_vmm, struct err *e) MUST_USE;

/* Run caisson-vmm with an option that makes it report something (value: its argument, or NULL) and collect what it
 * prints
 * (*ret_text malloc'd). Returns 0, its exit code (> 0) where it failed and said why, or -errno with text. */
int inst_vmm_report(const char *option, const char *value, char **ret_text, struct err *e) MUST_USE;

#endif
