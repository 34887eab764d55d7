/* Terminals: made in the container's devpts, handed out by the socket of --console-socket, or driven by run and exec
 * themselves. */
#ifndef OCI_CONSOLE_H
#define OCI_CONSOLE_H

#include "base/attr.h"
#include "base/err.h"
#include "oci/cli.h"
#include "oci/launch.h"

/* Parent: connect to the socket at path. A descriptor. */
int oci_console_connect(const char *path, struct err *e) MUST_USE;
/* Parent: l->console_fd for a process with a terminal: connected to --console-socket; or else one end of a pair, of
 * which the other waits in l->terminal_fd, for run and exec in the foreground. */
int oci_console_prepare(struct oci_launch *l, const struct oci_args *a, struct err *e) MUST_USE;
/* Parent, when the child has sent it: where oci_console_prepare made a pair, l->terminal_fd becomes the terminal. */
int oci_console_take(struct oci_launch *l, struct err *e) MUST_USE;
/* Child, in the container's root: where process.terminal is set, open a terminal, send its master to l->console_fd,
 * make it standard input, output and error and the controlling terminal, and bind it to /dev/console below root_fd (-1:
 * not). */
int oci_console_setup(struct oci_launch *l, int root_fd, struct err *e) MUST_USE;
/* --pidfd-socket: send a pidfd of pid to the socket, where the option is given. Parent. */
int oci_pidfd_hand_out(const struct oci_args *a, pid_t pid, struct err *e) MUST_USE;
/* Send one descriptor with a text by a UNIX socket. -errno. */
int oci_send_fd(int socket_fd, int fd, const char *text, size_t len) MUST_USE;
int oci_receive_fd(int socket_fd, int *ret_fd) MUST_USE;

#endif
