#include "oci/criu.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "oci/ns.h"
#include "oci/rootfs.h"

/* CRIU demands that the root is a mount point, and that nothing which it mounts is seen elsewhere. */
static int criu_root(const char *rootfs)
{
    AUTO_FD int tree = -1, place = -1;

    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL) < 0)
        return -errno;
    tree = open_tree(AT_FDCWD, rootfs, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
    place = open(rootfs, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return tree < 0 || place < 0 ? -errno : oci_mount_attach(tree, place);
}

/* Of all descriptors the child keeps the standard ones and those that are its business: others close on exec. */
static int criu_keep(const struct oci_criu_place *p, int fd)
{
    int r = fcntl(fd, F_SETFD, 0);

    for (size_t i = 0; i < p->n_keep && r == 0; i++)
        r = fcntl(p->keep[i].fd, F_SETFD, 0);
    return r < 0 ? -errno : 0;
}

static _Noreturn void criu_child(const char *program, const struct oci_criu_place *p, int fd, int go_fd)
{
    char number[16], byte;
    int r = read(go_fd, &byte, 1) == 0 ? 0 : -EIO; /* closed when we are where we belong */

    if (r == 0 && p->cgroup_ns && unshare(CLONE_NEWCGROUP) < 0)
        r = -errno;
    if (r == 0 && p->rootfs)
        r = criu_root(p->rootfs);
    if (r == 0)
        r = criu_keep(p, fd);
    if (r < 0) {
        dprintf(STDERR_FILENO, "criu: its namespaces and root cannot be made: %s\n", strerrordesc_np(-r));
        _exit(126);
    }
    snprintf(number, sizeof(number), "%d", fd);
    execlp(program, program, "swrk", number, (char *)NULL);
    _exit(127);
}

/* How it ended, as a text; then it is reaped. */
static int criu_gone(struct oci_criu *c, struct err *e)
{
    int status = 0;

    close(c->fd);
    c->fd = -1;
    while (waitpid(c->pid, &status, 0) < 0 && errno == EINTR)
        ;
    c->pid = 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
        return err_set(e, ENOENT, "criu: cannot be run: install CRIU, or name it by --criu");
    return err_set(e, EIO, "criu: ended without an answer (%s %d): its log is in %s",
                   WIFSIGNALED(status) ? "signal" : "status",
                   WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), c->work_path);
}

static int criu_send(struct oci_criu *c, const struct buf *b, struct err *e)
{
    ssize_t n;

    if (buf_error(b) < 0)
        return err_set(e, -buf_error(b), "criu: the request: %s", strerrordesc_np(-buf_error(b)));
    do
        n = send(c->fd, b->data, b->len, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n < 0 && (errno == EPIPE || errno == ECONNRESET))
        return criu_gone(c, e);
    return n < 0 ? err_set(e, errno, "criu: %m") : 0;
}

static int criu_receive(struct oci_criu *c, struct oci_criu_response *ret, int *ret_fd, struct err *e)
{
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    char data[8192];
    struct iovec iov = { .iov_base = data, .iov_len = sizeof(data) };
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
    const struct cmsghdr *h;
    ssize_t n;

    *ret_fd = -1;
    do
        n = recvmsg(c->fd, &m, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno != ECONNRESET)
        return err_set(e, errno, "criu: %m");
    if (n <= 0)
        return criu_gone(c, e);
    h = CMSG_FIRSTHDR(&m);
    if (h && h->cmsg_level == SOL_SOCKET && h->cmsg_type == SCM_RIGHTS && h->cmsg_len >= CMSG_LEN(sizeof(int)))
        memcpy(ret_fd, CMSG_DATA(h), sizeof(*ret_fd));
    if (m.msg_flags & MSG_TRUNC || oci_criu_decode(data, (size_t)n, ret) < 0)
        return err_set(e, EPROTO, "criu: sent a message that is none");
    return 0;
}

int oci_criu_start(const struct oci_args *a, const struct oci_criu_place *p, struct oci_criu *ret, struct err *e)
{
    const char *program = a->value[OCI_OPT_CRIU] ? a->value[OCI_OPT_CRIU] : "criu";
    struct oci_criu c = { .work_path = p->work_path };
    int pair[2], go[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return err_set(e, errno, "criu: %m");
    if (pipe2(go, O_CLOEXEC) < 0) {
        close(pair[0]);
        close(pair[1]);
        return err_set(e, errno, "criu: %m");
    }
    c.fd = pair[0];
    c.go_fd = go[1];
    c.pid = oci_clone(0, -1);
    if (c.pid == 0) {
        close(go[1]);
        criu_child(program, p, pair[1], go[0]);
    }
    close(pair[1]);
    close(go[0]);
    if (c.pid < 0) {
        close(c.fd);
        close(c.go_fd);
        return err_set(e, -c.pid, "criu: %s", strerrordesc_np(-c.pid));
    }
    *ret = c;
    return 0;
}

static void criu_go(struct oci_criu *c)
{
    if (c->go_fd >= 0)
        close(c->go_fd);
    c->go_fd = -1;
}

static int criu_notified(struct oci_criu *c, const struct oci_criu_response *m, int fd, oci_criu_notify_fn *notify,
                         void *opaque, struct err *e)
{
    int r = notify ? notify(opaque, m->script, m->pid, fd, e) : 0, sent;
    struct err ignored = { 0 };
    struct buf b;

    buf_init(&b, 64);
    oci_criu_encode_notified(r == 0, &b);
    sent = criu_send(c, &b, r == 0 ? e : &ignored);
    buf_done(&b);
    return r < 0 ? r : sent;
}

/* Its message is of its log: may have several lines. */
static int criu_failed(const struct oci_criu *c, struct oci_criu_response *m, struct err *e)
{
    size_t len = strlen(m->message);

    while (len > 0 && m->message[len - 1] == '\n')
        m->message[--len] = '\0';
    for (char *p = m->message; (p = strchr(p, '\n'));)
        *p = ' ';
    return err_set(e, m->cr_errno > 0 && m->cr_errno < 4096 ? m->cr_errno : EIO, "criu: failed%s%s: its log is in %s",
                   m->message[0] ? ": " : "", m->message, c->work_path);
}

int oci_criu_call(struct oci_criu *c, enum oci_criu_type type, const struct oci_criu_opts *opts,
                  oci_criu_notify_fn *notify, void *opaque, struct oci_criu_response *ret, struct err *e)
{
    struct buf b;
    int r;

    buf_init(&b, OCI_CRIU_MESSAGE_MAX);
    oci_criu_encode_request(type, opts, &b);
    criu_go(c);
    r = criu_send(c, &b, e);
    buf_done(&b);
    while (r == 0) {
        AUTO_FD int fd = -1;

        r = criu_receive(c, ret, &fd, e);
        if (r < 0)
            break;
        if (ret->type == OCI_CRIU_NOTIFY) {
            r = criu_notified(c, ret, fd, notify, opaque, e);
            continue;
        }
        if (ret->type != type)
            return err_set(e, EPROTO, "criu: answered request %d by %d", (int)type, (int)ret->type);
        return ret->success ? 0 : criu_failed(c, ret, e);
    }
    return r;
}

void oci_criu_end(struct oci_criu *c)
{
    if (c->pid <= 0)
        return;
    close(c->fd);
    criu_go(c);
    while (waitpid(c->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    *c = (struct oci_criu){ 0 };
}
