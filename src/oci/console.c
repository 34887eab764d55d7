#include "oci/console.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "oci/path.h"
#include "oci/rootfs.h"

int oci_console_connect(const char *path, struct err *e)
{
    AUTO_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    const size_t len = strlen(path);

    if (fd < 0)
        return err_set(e, errno, "socket: %m");
    if (len >= sizeof(sa.sun_path))
        return err_set(e, ENAMETOOLONG, "socket %s: is longer than %zu bytes", path, sizeof(sa.sun_path) - 1);
    memcpy(sa.sun_path, path, len + 1);
    if (connect(fd, (const struct sockaddr *)&sa, sizeof(sa)) < 0)
        return err_set(e, errno, "socket %s: %m", path);
    return STEAL_FD(fd);
}

int oci_console_prepare(struct oci_launch *l, const struct oci_args *a, struct err *e)
{
    const char *path = a->value[OCI_OPT_CONSOLE_SOCKET];
    int pair[2];

    if (!l->process->terminal)
        return 0;
    if (path) {
        l->console_fd = oci_console_connect(path, e);
        return MIN(l->console_fd, 0);
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return err_set(e, errno, "process.terminal: %m");
    l->console_fd = pair[0];
    l->terminal_fd = pair[1];
    return 0;
}

int oci_console_take(struct oci_launch *l, struct err *e)
{
    int master = -1, r;

    if (l->terminal_fd < 0)
        return 0;
    close(l->console_fd);
    l->console_fd = -1;
    r = oci_receive_fd(l->terminal_fd, &master);
    if (r < 0)
        return err_set(e, -r, "process.terminal: %s", strerrordesc_np(-r));
    close(l->terminal_fd);
    l->terminal_fd = master;
    return 0;
}

int oci_send_fd(int socket_fd, int fd, const char *text, size_t len)
{
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(sizeof(int))];
    } control = { 0 };
    struct iovec iov = { .iov_base = (char *)text, .iov_len = len };
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };

    control.head =
        (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
    memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
    return sendmsg(socket_fd, &m, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int oci_receive_fd(int socket_fd, int *ret_fd)
{
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    char text[256];
    struct iovec iov = { .iov_base = text, .iov_len = sizeof(text) };
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
    int fds[CMSG_SPACE(sizeof(int)) / sizeof(int)];
    const struct cmsghdr *c;
    size_t n_fds;
    ssize_t n;

    do
        n = recvmsg(socket_fd, &m, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    c = CMSG_FIRSTHDR(&m);
    if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
        return n == 0 ? -EPIPE : -EPROTO;
    n_fds = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    memcpy(fds, CMSG_DATA(c), MIN(n_fds, ARRAY_SIZE(fds)) * sizeof(int));
    if (n > 0 && n_fds == 1) {
        *ret_fd = fds[0];
        return 0;
    }
    /* The space is aligned, so that more than one descriptor can come. */
    for (size_t i = 0; i < MIN(n_fds, ARRAY_SIZE(fds)); i++)
        close(fds[i]);
    return -EPROTO;
}

int oci_pidfd_hand_out(const struct oci_args *a, pid_t pid, struct err *e)
{
    const char *path = a->value[OCI_OPT_PIDFD_SOCKET];
    AUTO_FD int socket_fd = -1, pidfd = -1;
    int r;

    if (!path)
        return 0;
    socket_fd = oci_console_connect(path, e);
    if (socket_fd < 0)
        return socket_fd;
    pidfd = pidfd_open(pid, 0);
    r = pidfd < 0 ? -errno : oci_send_fd(socket_fd, pidfd, "pidfd", sizeof("pidfd") - 1);
    return r < 0 ? err_set(e, -r, "--pidfd-socket %s: %s", path, strerrordesc_np(-r)) : 0;
}

/* A pair of the container's own devpts. The slave comes from the master and not by its name, which the container's /dev
 * could make lead elsewhere (CVE-2025-52565). */
static int console_open(const struct oci_process *p, int *ret_master, int *ret_slave, struct err *e)
{
    const struct winsize size = { .ws_row = p->console_height, .ws_col = p->console_width };
    AUTO_FD int master = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC), slave = -1;
    int unlock = 0;

    if (master < 0)
        return err_set(e, errno, "process.terminal: /dev/pts/ptmx: %m: mount devpts at /dev/pts");
    if (ioctl(master, TIOCSPTLCK, &unlock) < 0)
        return err_set(e, errno, "process.terminal: /dev/pts/ptmx is no terminal: %m");
    slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0)
        return err_set(e, errno, "process.terminal: %m");
    if ((size.ws_row || size.ws_col) && ioctl(slave, TIOCSWINSZ, &size) < 0)
        return err_set(e, errno, "process.consoleSize: %m");
    *ret_master = STEAL_FD(master);
    *ret_slave = STEAL_FD(slave);
    return 0;
}

static int console_bind(int slave, int root_fd, struct err *e)
{
    AUTO_FD int tree = open_tree(slave, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
    AUTO_FD int place = -1, dev = oci_path_open(root_fd, "/dev", O_PATH | O_DIRECTORY);
    int r;

    if (dev < 0 || tree < 0)
        return err_set(e, dev < 0 ? -dev : errno, "/dev/console: cannot be bound to the terminal");
    place = openat(dev, "console", O_CREAT | O_NOFOLLOW | O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0600);
    if (place < 0)
        place = openat(dev, "console", O_PATH | O_NOFOLLOW | O_CLOEXEC);
    r = place < 0 ? -errno : oci_mount_attach(tree, place);
    return r < 0 ? err_set(e, -r, "/dev/console: %s", strerrordesc_np(-r)) : 0;
}

int oci_console_setup(struct oci_launch *l, int root_fd, struct err *e)
{
    AUTO_FD int master = -1, slave = -1;
    int r;

    if (!l->process->terminal)
        return 0;
    r = console_open(l->process, &master, &slave, e);
    if (r < 0)
        return r;
    if (root_fd >= 0) {
        r = console_bind(slave, root_fd, e);
        if (r < 0)
            return r;
    }
    r = oci_send_fd(l->console_fd, master, "/dev/ptmx", sizeof("/dev/ptmx") - 1);
    if (r < 0)
        return err_set(e, -r, "console socket: %s", strerrordesc_np(-r));
    if (fchown(slave, l->process->uid, (gid_t)-1) < 0 && errno != EPERM && errno != EINVAL)
        return err_set(e, errno, "process.terminal: %m");
    for (int fd = 0; fd < 3; fd++) {
        if (dup2(slave, fd) < 0)
            return err_set(e, errno, "process.terminal: %m");
    }
    if (ioctl(0, TIOCSCTTY, 0) < 0)
        return err_set(e, errno, "process.terminal: cannot become the controlling terminal: %m");
    return 0;
}
