#include "base/pack.h"

#include <errno.h>
#include <string.h>

#include "base/check.h"

static void pack_le(struct buf *b, uint64_t value, unsigned len)
{
    uint8_t bytes[8];

    for (unsigned i = 0; i < len; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
    buf_append(b, bytes, len);
}

void pack_u8(struct buf *b, uint8_t value)
{
    pack_le(b, value, 1);
}

void pack_u16(struct buf *b, uint16_t value)
{
    pack_le(b, value, 2);
}

void pack_u32(struct buf *b, uint32_t value)
{
    pack_le(b, value, 4);
}

void pack_u64(struct buf *b, uint64_t value)
{
    pack_le(b, value, 8);
}

void pack_bool(struct buf *b, bool value)
{
    pack_u8(b, value);
}

void pack_bytes(struct buf *b, const void *data, size_t len)
{
    buf_append(b, data, len);
}

void pack_blob(struct buf *b, const void *data, uint32_t len)
{
    pack_u32(b, len);
    buf_append(b, data, len);
}

void pack_text(struct buf *b, const char *text)
{
    size_t len = text ? strlen(text) : 0;

    CHECK(len <= UINT32_MAX);
    pack_blob(b, text ? text : "", (uint32_t)len);
}

void unpack_init(struct unpack *u, const void *data, size_t len)
{
    *u = (struct unpack){ .data = data, .len = len };
}

/* The next len bytes, NULL on error. */
static const uint8_t *unpack_take(struct unpack *u, size_t len)
{
    const uint8_t *at = u->data + u->at;

    if (u->error < 0 || len > u->len - u->at) {
        u->error = -EBADMSG;
        return NULL;
    }
    u->at += len;
    return at;
}

static uint64_t unpack_le(struct unpack *u, unsigned len)
{
    const uint8_t *bytes = unpack_take(u, len);
    uint64_t value = 0;

    for (unsigned i = 0; bytes && i < len; i++)
        value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

uint8_t unpack_u8(struct unpack *u)
{
    return (uint8_t)unpack_le(u, 1);
}

uint16_t unpack_u16(struct unpack *u)
{
    return (uint16_t)unpack_le(u, 2);
}

uint32_t unpack_u32(struct unpack *u)
{
    return (uint32_t)unpack_le(u, 4);
}

uint64_t unpack_u64(struct unpack *u)
{
    return unpack_le(u, 8);
}

bool unpack_bool(struct unpack *u)
{
    uint8_t value = unpack_u8(u);

    if (value > 1)
        unpack_refuse(u);
    return value == 1;
}

uint32_t unpack_max(struct unpack *u, uint32_t max)
{
    uint32_t value = unpack_u32(u);

    if (value <= max)
        return value;
    unpack_refuse(u);
    return 0;
}

void unpack_bytes(struct unpack *u, void *data, size_t len)
{
    const uint8_t *bytes = unpack_take(u, len);

    if (len == 0)
        return;
    if (bytes)
        memcpy(data, bytes, len);
    else
        memset(data, 0, len);
}

const uint8_t *unpack_blob(struct unpack *u, uint32_t max, uint32_t *ret_len)
{
    uint32_t len = unpack_max(u, max);
    const uint8_t *bytes = unpack_take(u, len);

    *ret_len = bytes ? len : 0;
    return len ? bytes : NULL;
}

void unpack_refuse(struct unpack *u)
{
    u->error = -EBADMSG;
}

int unpack_end(const struct unpack *u)
{
    return u->error < 0 ? u->error : u->at == u->len ? 0 : -EBADMSG;
}
