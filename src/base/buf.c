#include "base/buf.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

void buf_init(struct buf *b, size_t max)
{
    CHECK(max > 0);
    *b = (struct buf){ .max = max };
}

void buf_done(struct buf *b)
{
    free(b->data);
    *b = (struct buf){ .max = b->max };
}

void *buf_extend(struct buf *b, size_t len)
{
    uint8_t *place;

    if (b->error)
        return NULL;
    if (len > b->max - b->len) {
        b->error = -E2BIG;
        return NULL;
    }
    if (len > b->cap - b->len) {
        size_t cap = b->cap ? b->cap : MIN(b->max, (size_t)256);
        uint8_t *data;

        while (cap - b->len < len)
            cap = cap > b->max / 2 ? b->max : cap * 2;
        data = realloc(b->data, cap);
        if (!data) {
            b->error = -ENOMEM;
            return NULL;
        }
        b->data = data;
        b->cap = cap;
    }
    if (!b->data)
        return NULL; /* len == 0 on an empty buffer */
    place = b->data + b->len;
    memset(place, 0, len);
    b->len += len;
    return place;
}

void buf_append(struct buf *b, const void *data, size_t len)
{
    void *place = buf_extend(b, len);

    if (place && len)
        memcpy(place, data, len);
}

void buf_append_str(struct buf *b, const char *text)
{
    buf_append(b, text, strlen(text));
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap;
    char *text = NULL;
    int len;

    va_start(ap, fmt);
    len = vasprintf(&text, fmt, ap);
    va_end(ap);
    if (len < 0) {
        if (!b->error)
            b->error = -ENOMEM;
        return;
    }
    buf_append(b, text, (size_t)len);
    free(text);
}

int buf_error(const struct buf *b)
{
    return b->error;
}
