/* A text that is longer than a packet should be goes into a memfd, which travels as the last descriptor of an empty
 * packet. */
#include "proto/msg.h"

#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fdio.h"
#include "base/text.h"
#include "proto/json.h"

#define PROTO_MSG_PACKET_MAX (32U << 10)
#define PROTO_MSG_ERRNO_MAX 4095
/* A message's descriptors and that of a long text; aligned, the control data may hold some more. */
#define PROTO_MSG_CONTROL CMSG_SPACE(sizeof(int) * (PROTO_MSG_FDS_MAX + 1))
#define PROTO_MSG_CONTROL_FDS ((PROTO_MSG_CONTROL - CMSG_LEN(0)) / sizeof(int))

static int proto_msg_send_packet(int sock, const void *data, size_t len, const int *fds, unsigned n_fds)
{
    /* One byte at least, so that a message is never taken for the end of the connection. */
    char control[PROTO_MSG_CONTROL] = { 0 };
    struct iovec iov = { .iov_base = (void *)(uintptr_t)data, .iov_len = len };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
    ssize_t n;

    if (n_fds > 0) {
        struct cmsghdr *c;

        msg.msg_control = control;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
        c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
    }
    do {
        n = sendmsg(sock, &msg, MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0;
}

static int proto_msg_send_long(int sock, const char *text, size_t len, const int *fds, unsigned n_fds)
{
    AUTO_FD int memfd = memfd_create("caisson-msg", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    int all[PROTO_MSG_FDS_MAX + 1];
    int r = memfd < 0 ? -errno : fd_write_all(memfd, text, len);

    if (r < 0)
        return r;
    for (unsigned i = 0; i < n_fds; i++)
        all[i] = fds[i];
    all[n_fds] = memfd;
    return proto_msg_send_packet(sock, "", 1, all, n_fds + 1);
}

int proto_msg_send(int sock, const char *text, const int *fds, unsigned n_fds)
{
    size_t len = strlen(text);

    if (len == 0 || len > PROTO_MSG_TEXT_MAX || n_fds > PROTO_MSG_FDS_MAX)
        return -EINVAL;
    return len > PROTO_MSG_PACKET_MAX ? proto_msg_send_long(sock, text, len, fds, n_fds)
                                      : proto_msg_send_packet(sock, text, len, fds, n_fds);
}

static void proto_msg_close_all(const int *fds, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        close(fds[i]);
}

/* Collect the descriptors of a message. */
static unsigned proto_msg_take_fds(struct msghdr *msg, int fds[PROTO_MSG_CONTROL_FDS])
{
    unsigned n = 0;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        size_t bytes = c->cmsg_len - CMSG_LEN(0);

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || n > 0)
            continue;
        n = (unsigned)MIN(bytes / sizeof(int), PROTO_MSG_CONTROL_FDS);
        memcpy(fds, CMSG_DATA(c), n * sizeof(int));
    }
    return n;
}

/* The text in a memfd of the peer, who may change it meanwhile. */
static int proto_msg_read_long(int memfd, char **ret_text)
{
    AUTO_FREE char *text = NULL;
    struct stat st;
    size_t len;
    int r;

    if (fstat(memfd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode) || st.st_size <= 0 || st.st_size > (off_t)PROTO_MSG_TEXT_MAX)
        return -EBADMSG;
    len = (size_t)st.st_size;
    text = malloc(len + 1);
    if (!text)
        return -ENOMEM;
    r = fd_pread_all(memfd, text, len, 0);
    if (r < 0)
        return r;
    text[len] = '\0';
    *ret_text = STEAL(text);
    return 0;
}

/* Text of a packet of len bytes, or of the memfd behind its descriptors. */
static int proto_msg_text(const char *packet, size_t len, int *fds, unsigned *n_fds, char **ret_text)
{
    char *text = NULL;
    int r;

    if (len == 1 && packet[0] == '\0') {
        if (*n_fds == 0)
            return -EBADMSG;
        r = proto_msg_read_long(fds[*n_fds - 1], &text);
        close(fds[--*n_fds]);
        if (r < 0)
            return r;
    } else {
        text = text_copy(packet, len);
        if (!text)
            return -ENOMEM;
        if (strlen(text) != len) {
            free(text);
            return -EBADMSG;
        }
    }
    *ret_text = text;
    return 0;
}

int proto_msg_receive(int sock, char **ret_text, int ret_fds[PROTO_MSG_FDS_MAX], unsigned *ret_n)
{
    char control[PROTO_MSG_CONTROL];
    AUTO_FREE char *packet = malloc(PROTO_MSG_PACKET_MAX + 1);
    struct iovec iov = { .iov_base = packet, .iov_len = PROTO_MSG_PACKET_MAX };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
    int fds[PROTO_MSG_CONTROL_FDS], r;
    unsigned n_fds, reset = 0;
    char *text = NULL;
    ssize_t n;

    if (!packet)
        return -ENOMEM;
    do {
        n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
        /* A peer that closed without reading all that we sent resets the connection; what it had sent us is still
         * there, behind that error, which is told once. */
        reset += n < 0 && errno == ECONNRESET;
    } while (n < 0 && (errno == EINTR || (errno == ECONNRESET && reset == 1)));
    if (n < 0)
        return -errno;
    n_fds = proto_msg_take_fds(&msg, fds);
    if (n == 0 && n_fds == 0)
        return -ECONNRESET;
    r = n == 0 || msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ? -EBADMSG
                                                           : proto_msg_text(packet, (size_t)n, fds, &n_fds, &text);
    if (r == 0 && n_fds > PROTO_MSG_FDS_MAX)
        r = -EBADMSG;
    if (r < 0) {
        free(text);
        proto_msg_close_all(fds, n_fds);
        return r;
    }
    memcpy(ret_fds, fds, n_fds * sizeof(int));
    *ret_n = n_fds;
    *ret_text = text;
    return 0;
}

/* ---- the client ---- */

static int proto_msg_wait(int sock, int timeout_ms)
{
    struct pollfd p = { .fd = sock, .events = POLLIN };
    int n;

    do {
        n = poll(&p, 1, timeout_ms);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n == 0 ? -ETIMEDOUT : 0;
}

/* Judge a reply: 0 where it says "ok". */
static int proto_msg_judge(json_object *reply, const struct proto_msg_peer *peer, struct err *e)
{
    json_object *ok = NULL, *code = NULL, *text = NULL;
    uint64_t n;
    char line[ERR_TEXT_MAX];

    if (!json_object_object_get_ex(reply, "ok", &ok) || !json_object_is_type(ok, json_type_boolean))
        return err_set(e, EBADMSG, "%s %s: its %s answers nonsense; %s", peer->kind, peer->name, peer->process,
                       peer->remedy);
    if (json_object_get_boolean(ok))
        return 0;
    if (!json_object_object_get_ex(reply, "code", &code) || !json_object_object_get_ex(reply, "error", &text) ||
        proto_json_uint(code, "reply", "code", 1, PROTO_MSG_ERRNO_MAX, &n, NULL) < 0 ||
        proto_json_text(text, "reply", "error", line, sizeof(line), NULL) < 0)
        return err_set(e, EIO, "%s %s: its %s refuses and gives no reason", peer->kind, peer->name, peer->process);
    return err_set(e, (int)n, "%s", line);
}

int proto_msg_call(int sock, const struct proto_msg_peer *peer, const char *request, const int *fds, unsigned n_fds,
                   int timeout_ms, json_object **ret_reply, int ret_fds[PROTO_MSG_FDS_MAX], unsigned *ret_n,
                   struct err *e)
{
    AUTO_FREE char *answer = NULL;
    json_object *reply = NULL;
    int got[PROTO_MSG_FDS_MAX], res;
    unsigned n_got = 0;

    res = proto_msg_send(sock, request, fds, n_fds);
    if (res == 0)
        res = proto_msg_wait(sock, timeout_ms);
    if (res == 0)
        res = proto_msg_receive(sock, &answer, got, &n_got);
    if (res < 0)
        return err_set(e, -res, "%s %s: its %s does not answer: %s; try again", peer->kind, peer->name, peer->process,
                       strerror(-res));
    res = proto_json_object(answer, "reply", &reply, e);
    if (res == 0)
        res = proto_msg_judge(reply, peer, e);
    if (res < 0 || !ret_fds) {
        proto_msg_close_all(got, n_got);
        n_got = 0;
    }
    if (res < 0) {
        json_object_put(reply);
        return res;
    }
    if (ret_fds) {
        memcpy(ret_fds, got, n_got * sizeof(int));
        *ret_n = n_got;
    }
    *ret_reply = reply;
    return 0;
}

/* ---- the place ---- */

int proto_msg_connect(const char *path, int *ret_sock)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    AUTO_FD int sock = -1;

    if (strlen(path) >= sizeof(addr.sun_path))
        return -ENAMETOOLONG;
    memcpy(addr.sun_path, path, strlen(path) + 1);
    sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (sock < 0 || connect(sock, (struct sockaddr *)&addr, sizeof(addr)) < 0)
        return -errno;
    *ret_sock = STEAL_FD(sock);
    return 0;
}
