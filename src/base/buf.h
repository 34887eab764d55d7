/* A growing byte buffer that demands its maximum size up front (curl's dynbuf idea). The first failure sticks: append
 * freely and check buf_error once at the end. */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"

struct buf {
    uint8_t *data; /* NULL while empty */
    size_t len, cap, max;
    int error; /* 0, -ENOMEM or -E2BIG */
};

/* max: the most bytes that it may ever hold, > 0. */
void buf_init(struct buf *b, size_t max);
/* Free what it holds; b may be used again after buf_init. Accepts a zeroed struct. */
void buf_done(struct buf *b);
void buf_append(struct buf *b, const void *data, size_t len);
void buf_append_str(struct buf *b, const char *text);
void buf_printf(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Append len zero bytes and return the place, NULL on error; valid until the next append. */
void *buf_extend(struct buf *b, size_t len);
int buf_error(const struct buf *b) MUST_USE;

#endif
