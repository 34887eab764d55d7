/* Two readers of libarchive one behind the other: the first takes the compression off (a "raw" archive of one member),
 * the second sees a tar. Between them and before them the bytes are summed, so that one pass verifies both digests. */
#include <archive.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "image/image_priv.h"

struct image_stream {
    int fd;
    struct archive *raw;
    struct image_sum in, out;
    uint64_t n_in, n_out;
    int error; /* of reading fd: -errno */
    bool ended;
    uint8_t block[IMAGE_BLOCK];
};

static la_ssize_t stream_read(struct archive *a, void *opaque, const void **ret_data)
{
    struct image_stream *s = opaque;
    ssize_t n;

    do
        n = read(s->fd, s->block, sizeof(s->block));
    while (n < 0 && errno == EINTR);
    if (n < 0) {
        s->error = -errno;
        archive_set_error(a, errno, "cannot read: %s", strerror(errno));
        return -1;
    }
    image_sum_add(&s->in, s->block, (size_t)n);
    s->n_in += (uint64_t)n;
    *ret_data = s->block;
    return n;
}

int image_stream_open(int fd, struct image_stream **ret_stream)
{
    AUTO(image_stream) struct image_stream *s = calloc(1, sizeof(*s));
    struct archive_entry *entry;
    int r;

    if (!s)
        return -ENOMEM;
    s->fd = fd;
    image_sum_begin(&s->in);
    image_sum_begin(&s->out);
    s->raw = archive_read_new();
    if (!s->raw || archive_read_support_filter_gzip(s->raw) != ARCHIVE_OK ||
        archive_read_support_filter_zstd(s->raw) != ARCHIVE_OK ||
        archive_read_support_format_raw(s->raw) != ARCHIVE_OK ||
        archive_read_support_format_empty(s->raw) != ARCHIVE_OK)
        return -ENOMEM;
    r = archive_read_open(s->raw, s, NULL, stream_read, NULL);
    if (r == ARCHIVE_OK)
        r = archive_read_next_header(s->raw, &entry);
    /* What is empty has no member. What failed fails again with the first read, with its text. */
    s->ended = r == ARCHIVE_EOF;
    *ret_stream = STEAL(s);
    return 0;
}

void image_stream_free(struct image_stream *s)
{
    if (!s)
        return;
    archive_read_free(s->raw);
    image_sum_done(&s->in);
    image_sum_done(&s->out);
    free(s);
}

ssize_t image_stream_next(struct image_stream *s, const void **ret_data)
{
    size_t n = 0;
    la_int64_t offset;
    int r = s->ended ? ARCHIVE_EOF : ARCHIVE_OK;

    while (r == ARCHIVE_OK && n == 0)
        r = archive_read_data_block(s->raw, ret_data, &n, &offset);
    if (r == ARCHIVE_EOF) {
        s->ended = true;
        return 0;
    }
    if (r != ARCHIVE_OK)
        return s->error ? s->error : -EBADMSG;
    image_sum_add(&s->out, *ret_data, n);
    s->n_out += n;
    return (ssize_t)n;
}

const char *image_stream_why(struct image_stream *s)
{
    const char *why = archive_error_string(s->raw);

    return why ? why : "it is damaged";
}

int image_stream_end(struct image_stream *s, char ret_blob[IMAGE_DIGEST_MAX], char ret_diff[IMAGE_DIGEST_MAX])
{
    const void *data;
    ssize_t n;
    int r;

    do
        n = image_stream_next(s, &data);
    while (n > 0);
    if (n < 0)
        return (int)n;
    /* The decompressor need not have read what lies behind its end. */
    do
        n = stream_read(s->raw, s, &data);
    while (n > 0);
    if (n < 0)
        return s->error;
    r = image_sum_end(&s->in, ret_blob);
    return r < 0 ? r : image_sum_end(&s->out, ret_diff);
}

uint64_t image_stream_in(const struct image_stream *s)
{
    return s->n_in;
}

uint64_t image_stream_out(const struct image_stream *s)
{
    return s->n_out;
}

static la_ssize_t stream_read_tar(struct archive *a, void *opaque, const void **ret_data)
{
    struct image_stream *s = opaque;
    ssize_t n = image_stream_next(s, ret_data);

    if (n < 0)
        archive_set_error(a, (int)-n, "%s", image_stream_why(s));
    return n;
}

struct archive *image_stream_tar(struct image_stream *s)
{
    struct archive *a = archive_read_new();

    if (!a)
        return NULL;
    if (archive_read_support_format_tar(a) == ARCHIVE_OK && archive_read_support_format_empty(a) == ARCHIVE_OK &&
        archive_read_open(a, s, NULL, stream_read_tar, NULL) == ARCHIVE_OK)
        return a;
    /* The stream's own error is told by whoever reads from it. */
    archive_read_free(a);
    return NULL;
}
