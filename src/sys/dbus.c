#include "sys/dbus.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"

#define DBUS_MESSAGE_MAX (1u << 20)
#define DBUS_HEADER 16 /* fixed part, with the length of the fields */

enum dbus_type { DBUS_CALL = 1, DBUS_RETURN, DBUS_ERROR, DBUS_SIGNAL };
enum dbus_field {
    DBUS_F_PATH = 1,
    DBUS_F_INTERFACE,
    DBUS_F_MEMBER,
    DBUS_F_ERROR,
    DBUS_F_REPLY,
    DBUS_F_DESTINATION,
    DBUS_F_SENDER,
    DBUS_F_SIGNATURE
};

struct sys_dbus {
    int fd;
    uint32_t serial;
    uint8_t *in; /* the message at hand */
};

/* What matters of a message that came; strings point into d->in. */
struct dbus_message {
    uint8_t type;
    uint32_t reply;
    const char *member, *signature;
    size_t at, end; /* what is left of the body, in d->in */
};

/* ---- marshalling ---- */

void sys_dbus_align(struct buf *b, size_t align)
{
    size_t pad = (size_t)(align_up(b->len, align) - b->len);

    if (pad)
        (void)buf_extend(b, pad);
}

void sys_dbus_put_u32(struct buf *b, uint32_t v)
{
    sys_dbus_align(b, 4);
    buf_append(b, &v, sizeof(v));
}

void sys_dbus_put_u64(struct buf *b, uint64_t v)
{
    sys_dbus_align(b, 8);
    buf_append(b, &v, sizeof(v));
}

void sys_dbus_put_bool(struct buf *b, bool v)
{
    sys_dbus_put_u32(b, v);
}

void sys_dbus_put_string(struct buf *b, const char *s)
{
    size_t len = strlen(s);

    sys_dbus_put_u32(b, (uint32_t)len);
    buf_append(b, s, len + 1);
}

void sys_dbus_put_signature(struct buf *b, const char *s)
{
    uint8_t len = (uint8_t)strlen(s);

    buf_append(b, &len, 1);
    buf_append(b, s, (size_t)len + 1);
}

struct sys_dbus_array sys_dbus_begin_array(struct buf *b, size_t align)
{
    struct sys_dbus_array a;

    sys_dbus_put_u32(b, 0);
    a.length_at = b->len - 4;
    sys_dbus_align(b, align); /* not counted in the length */
    a.start = b->len;
    return a;
}

void sys_dbus_end_array(struct buf *b, struct sys_dbus_array a)
{
    if (buf_error(b) == 0)
        store_le32(b->data + a.length_at, (uint32_t)(b->len - a.start));
}

/* ---- the socket ---- */

static int64_t dbus_now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int dbus_send(struct sys_dbus *d, const void *data, size_t len)
{
    const uint8_t *p = data;

    while (len > 0) {
        ssize_t n = send(d->fd, p, len, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

/* Exactly len bytes, until the deadline. */
static int dbus_receive(struct sys_dbus *d, void *data, size_t len, int64_t deadline_ms)
{
    uint8_t *p = data;

    while (len > 0) {
        struct pollfd pfd = { .fd = d->fd, .events = POLLIN };
        int64_t left = deadline_ms - dbus_now_ms();
        ssize_t n;

        if (left <= 0)
            return -ETIMEDOUT;
        if (poll(&pfd, 1, (int)left) < 0 && errno != EINTR)
            return -errno;
        n = recv(d->fd, p, len, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -ECONNRESET;
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

/* One line of the authentication, byte by byte: messages may follow at once. */
static int dbus_line(struct sys_dbus *d, char *line, size_t size, int64_t deadline_ms)
{
    for (size_t n = 0; n + 1 < size; n++) {
        int r = dbus_receive(d, line + n, 1, deadline_ms);

        if (r < 0)
            return r;
        if (line[n] == '\n') {
            line[n] = '\0';
            return 0;
        }
    }
    return -EPROTO;
}

/* EXTERNAL without a name: the peer takes the user from the socket, which is right in a user namespace too. */
static int dbus_authenticate(struct sys_dbus *d)
{
    static const char hello[] = "\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n";
    int64_t deadline = dbus_now_ms() + DBUS_TIMEOUT_MS;
    char line[256];
    int r = dbus_send(d, hello, sizeof(hello) - 1);

    if (r == 0)
        r = dbus_line(d, line, sizeof(line), deadline);
    if (r == 0 && strncmp(line, "DATA", 4) == 0)
        r = dbus_line(d, line, sizeof(line), deadline);
    if (r < 0)
        return r;
    if (strncmp(line, "OK ", 3) == 0)
        return 0;
    return strncmp(line, "REJECTED", 8) == 0 ? -EACCES : -EPROTO;
}

int sys_dbus_open(const char *path, bool bus, struct sys_dbus **ret)
{
    static const struct sys_dbus_call hello = { .destination = "org.freedesktop.DBus",
                                                .path = "/org/freedesktop/DBus",
                                                .interface = "org.freedesktop.DBus",
                                                .member = "Hello" };
    AUTO(sys_dbus) struct sys_dbus *d = calloc(1, sizeof(*d));
    struct sockaddr_un sun = { .sun_family = AF_UNIX };
    size_t len = strlen(path);
    int r;

    if (!d)
        return -ENOMEM;
    d->fd = -1;
    if (len >= sizeof(sun.sun_path))
        return -ENAMETOOLONG;
    memcpy(sun.sun_path, path, len);
    d->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (d->fd < 0 || connect(d->fd, (struct sockaddr *)&sun, sizeof(sun)) < 0)
        return -errno;
    r = dbus_authenticate(d);
    if (r == 0 && bus)
        r = sys_dbus_call(d, &hello, NULL);
    if (r < 0)
        return r;
    *ret = STEAL(d);
    return 0;
}

void sys_dbus_free(struct sys_dbus *d)
{
    if (!d)
        return;
    if (d->fd >= 0)
        close(d->fd);
    free(d->in);
    free(d);
}

/* ---- reading messages ---- */

/* Take a string (its length of 4 bytes, or 1 for a signature) off the message; NULL: broken. */
static const char *dbus_take_string(struct sys_dbus *d, size_t *at, size_t end, bool signature)
{
    size_t start = signature ? *at : (size_t)align_up(*at, 4), head = signature ? 1 : 4, len;

    if (start > end || end - start < head)
        return NULL;
    len = signature ? d->in[start] : load_le32(d->in + start);
    start += head;
    if (len >= end - start || d->in[start + len] != '\0' || memchr(d->in + start, '\0', len))
        return NULL;
    *at = start + len + 1;
    return (const char *)d->in + start;
}

static bool dbus_take_u32(struct sys_dbus *d, size_t *at, size_t end, uint32_t *ret)
{
    size_t start = (size_t)align_up(*at, 4);

    if (start > end || end - start < 4)
        return false;
    *ret = load_le32(d->in + start);
    *at = start + 4;
    return true;
}

/* One field of the header: its number and a variant. */
static bool dbus_take_field(struct sys_dbus *d, size_t *at, size_t end, struct dbus_message *m)
{
    const char *type, *text = NULL;
    uint32_t number = 0;
    uint8_t field;

    *at = (size_t)align_up(*at, 8);
    if (*at >= end)
        return false;
    field = d->in[(*at)++];
    type = dbus_take_string(d, at, end, true);
    if (!type || strlen(type) != 1)
        return false;
    switch (type[0]) {
    case 's':
    case 'o':
        text = dbus_take_string(d, at, end, false);
        break;
    case 'g':
        text = dbus_take_string(d, at, end, true);
        break;
    case 'u':
        if (!dbus_take_u32(d, at, end, &number))
            return false;
        break;
    default:
        return false;
    }
    if (!text && type[0] != 'u')
        return false;
    if (field == DBUS_F_MEMBER)
        m->member = text;
    else if (field == DBUS_F_SIGNATURE)
        m->signature = text;
    else if (field == DBUS_F_REPLY)
        m->reply = number;
    return true;
}

static int dbus_next(struct sys_dbus *d, struct dbus_message *m, int64_t deadline_ms)
{
    uint8_t head[DBUS_HEADER];
    uint32_t body, fields;
    size_t at = DBUS_HEADER, end, total;
    int r = dbus_receive(d, head, sizeof(head), deadline_ms);

    if (r < 0)
        return r;
    body = load_le32(head + 4);
    fields = load_le32(head + 12);
    if (head[0] != 'l' || head[3] != 1 || body > DBUS_MESSAGE_MAX || fields > DBUS_MESSAGE_MAX)
        return -EPROTO;
    end = DBUS_HEADER + fields;
    total = (size_t)align_up(end, 8) + body;
    free(d->in);
    d->in = malloc(total);
    if (!d->in)
        return -ENOMEM;
    memcpy(d->in, head, sizeof(head));
    r = dbus_receive(d, d->in + DBUS_HEADER, total - DBUS_HEADER, deadline_ms);
    if (r < 0)
        return r;
    *m = (struct dbus_message){ .type = head[1], .member = "", .signature = "" };
    while (at < end) {
        if (!dbus_take_field(d, &at, end, m))
            return -EPROTO;
    }
    if (!m->member || !m->signature)
        return -EPROTO;
    m->at = (size_t)align_up(end, 8);
    m->end = total;
    return 0;
}

/* The next argument as a string; empty where it is none. */
static void dbus_text(struct sys_dbus *d, struct dbus_message *m, char ret_text[DBUS_NAME_MAX])
{
    const char *s = dbus_take_string(d, &m->at, m->end, false);
    size_t len = s ? strnlen(s, DBUS_NAME_MAX - 1) : 0;

    if (len)
        memcpy(ret_text, s, len);
    ret_text[len] = '\0';
}

/* ---- calls ---- */

static void dbus_put_field(struct buf *b, enum dbus_field field, const char *type, const char *text)
{
    uint8_t number = (uint8_t)field;

    if (!text)
        return;
    sys_dbus_align(b, 8);
    buf_append(b, &number, 1);
    sys_dbus_put_signature(b, type);
    if (type[0] == 'g')
        sys_dbus_put_signature(b, text);
    else
        sys_dbus_put_string(b, text);
}

static int dbus_send_call(struct sys_dbus *d, const struct sys_dbus_call *c)
{
    struct sys_dbus_array fields;
    struct buf b;
    int r;

    buf_init(&b, DBUS_MESSAGE_MAX);
    buf_append(&b, (const uint8_t[]){ 'l', DBUS_CALL, 0, 1 }, 4);
    sys_dbus_put_u32(&b, c->body ? (uint32_t)c->body->len : 0);
    sys_dbus_put_u32(&b, ++d->serial);
    fields = sys_dbus_begin_array(&b, 8);
    dbus_put_field(&b, DBUS_F_PATH, "o", c->path);
    dbus_put_field(&b, DBUS_F_INTERFACE, "s", c->interface);
    dbus_put_field(&b, DBUS_F_MEMBER, "s", c->member);
    dbus_put_field(&b, DBUS_F_DESTINATION, "s", c->destination);
    dbus_put_field(&b, DBUS_F_SIGNATURE, "g", c->signature);
    sys_dbus_end_array(&b, fields);
    sys_dbus_align(&b, 8);
    if (c->body)
        buf_append(&b, c->body->data, c->body->len);
    r = buf_error(&b);
    if (r == 0)
        r = dbus_send(d, b.data, b.len);
    buf_done(&b);
    return r;
}

int sys_dbus_call(struct sys_dbus *d, const struct sys_dbus_call *c, char ret_text[DBUS_NAME_MAX])
{
    int64_t deadline = dbus_now_ms() + DBUS_TIMEOUT_MS;
    char text[DBUS_NAME_MAX] = "";
    struct dbus_message m;
    int r = c->body ? buf_error(c->body) : 0;

    if (r == 0)
        r = dbus_send_call(d, c);
    while (r == 0) {
        r = dbus_next(d, &m, deadline);
        if (r < 0 || m.reply != d->serial || (m.type != DBUS_RETURN && m.type != DBUS_ERROR))
            continue; /* signals, and calls to us, are not for us */
        if (m.signature[0] == 's' || m.signature[0] == 'o')
            dbus_text(d, &m, text);
        if (ret_text)
            memcpy(ret_text, text, sizeof(text));
        return m.type == DBUS_ERROR ? -EREMOTEIO : 0;
    }
    return r;
}

int sys_dbus_wait_job(struct sys_dbus *d, const char *member, const char *object, char ret_result[DBUS_NAME_MAX])
{
    int64_t deadline = dbus_now_ms() + DBUS_TIMEOUT_MS;
    struct dbus_message m;
    int r = 0;

    while (r == 0) {
        char job[DBUS_NAME_MAX], unit[DBUS_NAME_MAX];
        uint32_t id;

        r = dbus_next(d, &m, deadline);
        if (r < 0 || m.type != DBUS_SIGNAL || strcmp(m.member, member) != 0 || strcmp(m.signature, "uoss") != 0)
            continue;
        if (!dbus_take_u32(d, &m.at, m.end, &id))
            return -EPROTO;
        dbus_text(d, &m, job);
        if (strcmp(job, object) != 0)
            continue;
        dbus_text(d, &m, unit);
        dbus_text(d, &m, ret_result);
        return 0;
    }
    return r;
}
