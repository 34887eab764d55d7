/* Frames over a stream that does not block. */
#include <errno.h>
#include <json-c/json.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "proto/agent_msg.h"

enum { LINK_HEADER = 8, LINK_READ = 16384 };

void agent_link_init(struct agent_link *l, int fd)
{
    *l = (struct agent_link){ .fd = fd };
    buf_init(&l->in, LINK_HEADER + AGENT_JSON_MAX + LINK_READ);
    buf_init(&l->out, AGENT_QUEUE_MAX);
}

void agent_link_done(struct agent_link *l)
{
    buf_done(&l->in);
    buf_done(&l->out);
}

/* The length of the frame at the front, header included; 0: not known yet; -EBADMSG. */
static ssize_t link_frame_size(const struct agent_link *l)
{
    uint32_t len;

    if (l->in.len < LINK_HEADER)
        return 0;
    len = load_le32(l->in.data);
    if (l->in.data[4] >= AGENT_FRAMES || l->in.data[5] || l->in.data[6] || l->in.data[7] ||
        len > (l->in.data[4] == AGENT_JSON ? AGENT_JSON_MAX : AGENT_DATA_MAX))
        return -EBADMSG;
    return LINK_HEADER + (ssize_t)len;
}

/* Append what can be read now, a zero byte staying behind it. */
static int link_fill(struct agent_link *l)
{
    uint8_t *to = buf_extend(&l->in, LINK_READ);
    ssize_t n;

    if (!to)
        return buf_error(&l->in);
    do
        n = read(l->fd, to, LINK_READ - 1);
    while (n < 0 && errno == EINTR);
    l->in.len -= LINK_READ - (n > 0 ? (size_t)n : 0);
    if (n == 0)
        return -ECONNRESET;
    if (n < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
    return 1;
}

int agent_link_receive(struct agent_link *l, enum agent_frame *ret_kind, const uint8_t **ret_data, size_t *ret_len)
{
    ssize_t size = l->taken ? link_frame_size(l) : 0;
    int r = 1;

    if (l->taken) {
        l->in.data[size] = l->behind;
        l->in.len -= (size_t)size;
        memmove(l->in.data, l->in.data + size, l->in.len);
        l->taken = false;
    }
    for (;;) {
        size = link_frame_size(l);
        if (size < 0)
            return (int)size;
        if (size > 0 && l->in.len >= (size_t)size)
            break;
        r = link_fill(l);
        if (r <= 0)
            return r;
    }
    l->taken = true;
    l->behind = l->in.data[size]; /* there is room: link_fill leaves some */
    l->in.data[size] = 0;
    *ret_kind = l->in.data[4];
    *ret_data = l->in.data + LINK_HEADER;
    *ret_len = (size_t)size - LINK_HEADER;
    return 1;
}

void agent_link_queue(struct agent_link *l, enum agent_frame kind, const void *data, size_t len)
{
    uint8_t header[LINK_HEADER] = { 0 };

    if (l->out_at > l->out.len / 2) { /* what is written makes room */
        l->out.len -= l->out_at;
        memmove(l->out.data, l->out.data + l->out_at, l->out.len);
        l->out_at = 0;
    }
    store_le32(header, (uint32_t)len);
    header[4] = (uint8_t)kind;
    buf_append(&l->out, header, sizeof(header));
    buf_append(&l->out, data, len);
}

void agent_link_queue_json(struct agent_link *l, json_object *o)
{
    const char *text = o ? json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN) : NULL;

    if (!text)
        l->out.error = -ENOMEM;
    else
        agent_link_queue(l, AGENT_JSON, text, strlen(text));
    json_object_put(o);
}

int agent_link_flush(struct agent_link *l)
{
    while (buf_error(&l->out) == 0 && agent_link_pending(l) > 0) {
        ssize_t n = send(l->fd, l->out.data + l->out_at, agent_link_pending(l), MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
        l->out_at += (size_t)n;
    }
    if (agent_link_pending(l) == 0)
        l->out.len = l->out_at = 0;
    return buf_error(&l->out);
}

size_t agent_link_pending(const struct agent_link *l)
{
    return l->out.len - l->out_at;
}
