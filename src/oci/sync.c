#include "oci/sync.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct sync_message {
    uint32_t type;
    int32_t code;
    int64_t value;
    char text[ERR_TEXT_MAX]; /* of an error only: what is sent ends behind its zero byte */
};

#define SYNC_HEAD offsetof(struct sync_message, text)

int oci_sync_pair(int ret_fds[2])
{
    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ret_fds) < 0 ? -errno : 0;
}

static int sync_write(int fd, const struct sync_message *m, size_t len)
{
    ssize_t n;

    do
        n = send(fd, m, len, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0;
}

int oci_sync_send(int fd, enum oci_sync_type type, int64_t value)
{
    const struct sync_message m = { .type = type, .value = value };

    return sync_write(fd, &m, SYNC_HEAD);
}

void oci_sync_send_error(int fd, const struct err *e)
{
    struct sync_message m = { .type = OCI_SYNC_ERROR, .code = e->code ? e->code : EIO };
    size_t len = strnlen(e->text, sizeof(m.text) - 1);

    memcpy(m.text, e->text, len);
    if (sync_write(fd, &m, SYNC_HEAD + len + 1) < 0)
        return;
}

static int sync_read(int fd, struct sync_message *m, struct err *e)
{
    bool reset = false;
    ssize_t n;

    /* Who ends with a message of ours unread resets the connection; that is told once, and before the message by which
     * it said why. */
    for (;;) {
        n = recv(fd, m, sizeof(*m), 0);
        if (n >= 0 || (errno != EINTR && (errno != ECONNRESET || reset)))
            break;
        reset = reset || errno == ECONNRESET;
    }
    if (n < 0)
        return err_set(e, errno, "the container's first process: %m");
    if (n == 0)
        return err_set(e, EPIPE, "the container's first process has ended unexpectedly");
    if ((size_t)n < SYNC_HEAD)
        return err_set(e, EPROTO, "the container's first process sent a message that is too short");
    if (m->type == OCI_SYNC_ERROR) {
        m->text[MIN((size_t)n - SYNC_HEAD, sizeof(m->text) - 1)] = '\0';
        return err_set(e, m->code > 0 && m->code < 4096 ? m->code : EIO, "%s", m->text);
    }
    return 0;
}

int oci_sync_wait_two(int fd, enum oci_sync_type one, enum oci_sync_type two, struct err *e)
{
    struct sync_message m;
    int r = sync_read(fd, &m, e);

    if (r < 0)
        return r;
    if (m.type != one && m.type != two)
        return err_set(e, EPROTO, "the container's first process sent message %u, which is unexpected", m.type);
    return (int)m.type;
}

int oci_sync_wait(int fd, enum oci_sync_type type, int64_t *ret_value, struct err *e)
{
    struct sync_message m;
    int r = sync_read(fd, &m, e);

    if (r < 0)
        return r;
    if (m.type != type)
        return err_set(e, EPROTO, "the container's first process sent message %u, which is unexpected", m.type);
    if (ret_value)
        *ret_value = m.value;
    return 0;
}
